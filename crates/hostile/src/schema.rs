//! What stands in etcd's database beside the keys: JSON members and configuration states, protobuf leases, alarms,
//! users and roles, keys of fixed form (`bbolt::schema`).
//!
//! Laws: what parses is written and parses to the same; keys of fixed form are their value byte for byte; nothing
//! holds much more memory than the input has bytes.

use bbolt::schema::{self, Malformed};

use crate::meter::bounded;

/// Parses, writes, parses again.
fn again<T: PartialEq + std::fmt::Debug>(
    input: &[u8],
    parse: impl Fn(&[u8]) -> Result<T, Malformed>,
    write: impl Fn(&T) -> Vec<u8>,
) {
    if let Ok(value) = parse(input) {
        let written = write(&value);
        assert_eq!(parse(&written).as_ref(), Ok(&value), "what was written parses");
    }
}

/// The same for what has one form only.
fn exact<T>(input: &[u8], parse: impl Fn(&[u8]) -> Result<T, Malformed>, write: impl Fn(&T) -> Vec<u8>) {
    if let Ok(value) = parse(input) {
        assert_eq!(write(&value), input, "there is one form");
    }
}

pub fn check(input: &[u8]) {
    let Some((&kind, rest)) = input.split_first() else { return };
    // JSON numbers and escapes are shorter than what they make; an element of a list may be one byte.
    bounded((16 << 10) + 256 * rest.len(), || match kind % 12 {
        0 => exact(rest, schema::parse_revision_key, |&(revision, tombstone)| {
            if tombstone {
                schema::tombstone_key(revision).to_vec()
            } else {
                schema::revision_key(revision).to_vec()
            }
        }),
        1 => again(rest, schema::parse_key_value, prost::Message::encode_to_vec),
        2 => exact(rest, schema::parse_u64, |&value| schema::u64_value(value).to_vec()),
        3 => again(rest, schema::parse_conf_state, schema::conf_state_value),
        4 => again(rest, schema::parse_member_key, |&id| schema::member_key(id)),
        5 => again(rest, schema::parse_member, schema::member_value),
        6 => again(rest, schema::parse_downgrade, schema::downgrade_value),
        7 => exact(rest, schema::parse_lease_key, |&id| schema::lease_key(id).to_vec()),
        8 => again(rest, schema::parse_lease, schema::lease_value),
        9 => again(rest, schema::parse_alarm_key, schema::alarm_key),
        10 => again(rest, schema::parse_user, schema::user_value),
        _ => again(rest, schema::parse_role, schema::role_value),
    });
}

pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let revision = base::Revision::new(9, 1);
    let conf = br#"{"voters":[10276657743932975437],"auto_leave":false}"#;
    let member = br#"{"id":10276657743932975437,"peerURLs":["http://localhost:2380"],"name":"default","clientURLs":["http://localhost:2379"]}"#;
    let conf = schema::conf_state_value(&schema::parse_conf_state(conf).expect("as etcd writes it"));
    let member = schema::member_value(&schema::parse_member(member).expect("as etcd writes it"));
    let downgrade = schema::parse_downgrade(br#"{"target-version":"3.6.0","enabled":true}"#);
    let downgrade = schema::downgrade_value(&downgrade.expect("as etcd writes it"));
    let key_value = schema::tombstone_value(b"gone");
    let lease = proto::leasepb::Lease { id: 77, ttl: 60, remaining_ttl: 5 };
    let alarm = proto::etcdserverpb::AlarmMember { member_id: 5, alarm: 1 };
    let user = proto::authpb::User {
        name: b"root".to_vec(),
        password: b"$2a$10$".to_vec(),
        roles: vec!["root".into()],
        options: None,
    };
    let permission = proto::authpb::Permission { key: b"a".to_vec(), range_end: b"b".to_vec(), perm_type: 2 };
    let role = proto::authpb::Role { name: b"reader".to_vec(), key_permission: vec![permission] };
    let all: [(&str, Vec<u8>); 12] = [
        ("revision-key", schema::tombstone_key(revision).to_vec()),
        ("key-value", key_value),
        ("number", schema::u64_value(7).to_vec()),
        ("conf-state", conf),
        ("member-key", schema::member_key(0x8e9e_05c5_2164_694d)),
        ("member", member),
        ("downgrade", downgrade),
        ("lease-key", schema::lease_key(77).to_vec()),
        ("lease", schema::lease_value(&lease)),
        ("alarm", schema::alarm_key(&alarm)),
        ("user", schema::user_value(&user)),
        ("role", schema::role_value(&role)),
    ];
    let numbered = all.into_iter().enumerate();
    numbered
        .map(|(kind, (name, bytes))| (format!("seed-{name}"), [&[kind as u8], &bytes[..]].concat()))
        .collect()
}
