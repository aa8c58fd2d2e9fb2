//! What etcd 3.7 keeps in its database: bucket names, and how each key and value is encoded.
//!
//! Pure functions, in both directions: snapshot export encodes, snapshot import decodes. Decoding is strict and
//! returns [`Malformed`] for what etcd would panic on.
//!
//! Facts: etcd's `server/storage/schema`, `server/storage/mvcc/revision.go`, and files that etcd 3.7.1 wrote.

use std::fmt;

use base::{LeaseId, MemberId, Revision};
use prost::Message;
use proto::{authpb, etcdserverpb, leasepb, mvccpb};
use serde::{Deserialize, Serialize};

/// Names of the buckets.
pub mod bucket {
    pub const KEY: &[u8] = b"key";
    pub const META: &[u8] = b"meta";
    pub const LEASE: &[u8] = b"lease";
    pub const ALARM: &[u8] = b"alarm";
    pub const CLUSTER: &[u8] = b"cluster";
    pub const MEMBERS: &[u8] = b"members";
    pub const MEMBERS_REMOVED: &[u8] = b"members_removed";
    pub const AUTH: &[u8] = b"auth";
    pub const AUTH_USERS: &[u8] = b"authUsers";
    pub const AUTH_ROLES: &[u8] = b"authRoles";

    /// All of them, in the order in which a file holds them. A database of etcd has every one.
    pub const ALL: [&[u8]; 10] =
        [ALARM, AUTH, AUTH_ROLES, AUTH_USERS, CLUSTER, KEY, LEASE, MEMBERS, MEMBERS_REMOVED, META];
}

/// Keys of the bucket `meta`, in order of their bytes.
pub mod meta {
    /// [`super::conf_state_value`].
    pub const CONF_STATE: &[u8] = b"confState";
    /// Applied Raft index, [`super::u64_value`].
    pub const CONSISTENT_INDEX: &[u8] = b"consistent_index";
    /// The compaction that has ended, [`super::revision_key`] of (revision, 0).
    pub const FINISHED_COMPACT: &[u8] = b"finishedCompactRev";
    /// The compaction that was accepted, likewise.
    pub const SCHEDULED_COMPACT: &[u8] = b"scheduledCompactRev";
    /// `3.7.0`, as text; absent until the cluster version is known.
    pub const STORAGE_VERSION: &[u8] = b"storageVersion";
    /// Term of the applied index, [`super::u64_value`].
    pub const TERM: &[u8] = b"term";
}

/// Keys of the bucket `cluster`.
pub mod cluster {
    /// `3.7.0`, as text.
    pub const VERSION: &[u8] = b"clusterVersion";
    /// [`super::downgrade_value`].
    pub const DOWNGRADE: &[u8] = b"downgrade";
}

/// Keys of the bucket `auth`.
pub mod auth {
    /// [`super::auth_enabled_value`].
    pub const ENABLED: &[u8] = b"authEnabled";
    /// [`super::u64_value`].
    pub const REVISION: &[u8] = b"authRevision";
}

/// The value of every key of `members_removed`.
pub const REMOVED: &[u8] = b"removed";

/// Stored bytes that no etcd would have written: which kind of thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the database holds a malformed {}", self.0)
    }
}

impl std::error::Error for Malformed {}

// ---- key ----

const REVISION_BYTES: usize = 17;
const TOMBSTONE_MARK: u8 = b't';

/// The key of a version: main BE8, `_`, sub BE8. The compaction marks in `meta` have the same form.
pub fn revision_key(revision: Revision) -> [u8; REVISION_BYTES] {
    assert!(revision.main >= 0 && revision.sub >= 0, "revisions are not negative");
    let mut key = [b'_'; REVISION_BYTES];
    key[..8].copy_from_slice(&revision.main.to_be_bytes());
    key[9..].copy_from_slice(&revision.sub.to_be_bytes());
    key
}

/// The key of a deletion: that of a version, and a `t`.
pub fn tombstone_key(revision: Revision) -> [u8; REVISION_BYTES + 1] {
    let mut key = [TOMBSTONE_MARK; REVISION_BYTES + 1];
    key[..REVISION_BYTES].copy_from_slice(&revision_key(revision));
    key
}

/// A key of the bucket `key`: its revision, and whether it is a deletion.
pub fn parse_revision_key(key: &[u8]) -> Result<(Revision, bool), Malformed> {
    const WHAT: Malformed = Malformed("revision key");
    let tombstone = match key.len() {
        REVISION_BYTES => false,
        18 if key[REVISION_BYTES] == TOMBSTONE_MARK => true,
        _ => return Err(WHAT),
    };
    if key[8] != b'_' {
        return Err(WHAT);
    }
    let main = i64::from_be_bytes(key[..8].try_into().map_err(|_| WHAT)?);
    let sub = i64::from_be_bytes(key[9..REVISION_BYTES].try_into().map_err(|_| WHAT)?);
    if main < 0 || sub < 0 {
        return Err(WHAT);
    }
    Ok((Revision { main, sub }, tombstone))
}

/// The value of a deletion: a `KeyValue` with nothing but the key.
pub fn tombstone_value(key: &[u8]) -> Vec<u8> {
    mvccpb::KeyValue { key: key.to_vec(), ..Default::default() }.encode_to_vec()
}

/// The value of a version or a deletion.
pub fn parse_key_value(value: &[u8]) -> Result<mvccpb::KeyValue, Malformed> {
    mvccpb::KeyValue::decode(value).map_err(|_| Malformed("key-value pair"))
}

// ---- meta ----

/// An index, a term, an auth revision: BE8.
pub fn u64_value(value: u64) -> [u8; 8] {
    value.to_be_bytes()
}

pub fn parse_u64(value: &[u8]) -> Result<u64, Malformed> {
    Ok(u64::from_be_bytes(value.try_into().map_err(|_| Malformed("64-bit number"))?))
}

/// Raft's configuration, as etcd stores it: JSON, with empty lists left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfState {
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub voters: Vec<MemberId>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub learners: Vec<MemberId>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub voters_outgoing: Vec<MemberId>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub learners_next: Vec<MemberId>,
    #[serde(deserialize_with = "null_is_default")]
    pub auto_leave: bool,
}

pub fn conf_state_value(state: &ConfState) -> Vec<u8> {
    go_json(state)
}

pub fn parse_conf_state(value: &[u8]) -> Result<ConfState, Malformed> {
    serde_json::from_slice(value).map_err(|_| Malformed("configuration state"))
}

/// The storage version of a binary version: `3.7.1` gives `3.7.0`.
pub fn storage_version_value(major: u64, minor: u64) -> Vec<u8> {
    format!("{major}.{minor}.0").into_bytes()
}

// ---- members, cluster ----

/// The key of a member in `members` and `members_removed`: its id in hexadecimal, without leading zeros.
pub fn member_key(id: MemberId) -> Vec<u8> {
    format!("{id:x}").into_bytes()
}

pub fn parse_member_key(key: &[u8]) -> Result<MemberId, Malformed> {
    const WHAT: Malformed = Malformed("member id");
    let text = std::str::from_utf8(key).map_err(|_| WHAT)?;
    if text.starts_with('+') {
        return Err(WHAT);
    }
    u64::from_str_radix(text, 16).map_err(|_| WHAT)
}

/// A member, as etcd stores it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Member {
    pub id: MemberId,
    #[serde(rename = "peerURLs", deserialize_with = "null_is_default")]
    pub peer_urls: Vec<String>,
    #[serde(rename = "isLearner", skip_serializing_if = "std::ops::Not::not")]
    pub is_learner: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(
        rename = "clientURLs",
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub client_urls: Vec<String>,
}

pub fn member_value(member: &Member) -> Vec<u8> {
    go_json(member)
}

pub fn parse_member(value: &[u8]) -> Result<Member, Malformed> {
    serde_json::from_slice(value).map_err(|_| Malformed("member"))
}

/// Whether a downgrade is under way, as etcd stores it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Downgrade {
    #[serde(rename = "target-version")]
    pub target_version: String,
    pub enabled: bool,
}

pub fn downgrade_value(downgrade: &Downgrade) -> Vec<u8> {
    go_json(downgrade)
}

pub fn parse_downgrade(value: &[u8]) -> Result<Downgrade, Malformed> {
    serde_json::from_slice(value).map_err(|_| Malformed("downgrade record"))
}

// ---- lease, alarm, auth ----

/// The key of a lease: BE8 of its id. The order of the bucket puts negative ids last.
pub fn lease_key(id: LeaseId) -> [u8; 8] {
    id.to_be_bytes()
}

pub fn parse_lease_key(key: &[u8]) -> Result<LeaseId, Malformed> {
    Ok(i64::from_be_bytes(key.try_into().map_err(|_| Malformed("lease id"))?))
}

pub fn lease_value(lease: &leasepb::Lease) -> Vec<u8> {
    lease.encode_to_vec()
}

pub fn parse_lease(value: &[u8]) -> Result<leasepb::Lease, Malformed> {
    leasepb::Lease::decode(value).map_err(|_| Malformed("lease"))
}

/// An alarm is all key: the encoded `AlarmMember`; its value is empty.
pub fn alarm_key(alarm: &etcdserverpb::AlarmMember) -> Vec<u8> {
    alarm.encode_to_vec()
}

pub fn parse_alarm_key(key: &[u8]) -> Result<etcdserverpb::AlarmMember, Malformed> {
    etcdserverpb::AlarmMember::decode(key).map_err(|_| Malformed("alarm"))
}

pub fn auth_enabled_value(enabled: bool) -> [u8; 1] {
    [u8::from(enabled)]
}

/// etcd takes everything but a lone 1 as disabled.
pub fn parse_auth_enabled(value: &[u8]) -> bool {
    value == [1]
}

/// The value of a user in `authUsers`; the key is the name.
pub fn user_value(user: &authpb::User) -> Vec<u8> {
    user.encode_to_vec()
}

pub fn parse_user(value: &[u8]) -> Result<authpb::User, Malformed> {
    authpb::User::decode(value).map_err(|_| Malformed("user"))
}

/// The value of a role in `authRoles`; the key is the name.
pub fn role_value(role: &authpb::Role) -> Vec<u8> {
    role.encode_to_vec()
}

pub fn parse_role(value: &[u8]) -> Result<authpb::Role, Malformed> {
    authpb::Role::decode(value).map_err(|_| Malformed("role"))
}

// ---- JSON as Go writes it ----

/// Go's encoder escapes what HTML would trip over; the characters occur within strings only.
fn go_json<T: Serialize>(value: &T) -> Vec<u8> {
    let plain = serde_json::to_string(value).expect("plain structs always encode");
    let mut text = String::with_capacity(plain.len());
    for character in plain.chars() {
        match character {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                text.push_str(&format!("\\u{:04x}", u32::from(character)));
            }
            _ => text.push(character),
        }
    }
    text.into_bytes()
}

fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revision_keys_have_etcds_bytes_and_sort_by_revision() {
        let key = revision_key(Revision { main: 0x0102, sub: 3 });
        assert_eq!(&key, b"\0\0\0\0\0\0\x01\x02_\0\0\0\0\0\0\0\x03");
        assert_eq!(&tombstone_key(Revision { main: 1, sub: 0 })[16..], b"\0t");
        let revisions = [(1, 0), (1, 1), (1, 256), (2, 0), (255, 9), (256, 0), (i64::MAX, i64::MAX)];
        for pair in revisions.windows(2) {
            let [a, b] = [pair[0], pair[1]].map(|(main, sub)| Revision { main, sub });
            assert!(tombstone_key(a).as_slice() < revision_key(b).as_slice());
            assert_eq!(parse_revision_key(&revision_key(a)), Ok((a, false)));
            assert_eq!(parse_revision_key(&tombstone_key(a)), Ok((a, true)));
        }
        for bad in [&b""[..], &key[..16], &[0xff; 17], &[0; 17], &[b'_'; 19]] {
            assert!(parse_revision_key(bad).is_err(), "{bad:?}");
        }
        let mut bad = tombstone_key(Revision { main: 1, sub: 0 });
        bad[17] = b'x';
        assert!(parse_revision_key(&bad).is_err());
    }

    #[test]
    fn json_is_what_etcd_stores() {
        let state = ConfState { voters: vec![4885544938433206482], ..Default::default() };
        assert_eq!(conf_state_value(&state), br#"{"voters":[4885544938433206482],"auto_leave":false}"#);
        assert_eq!(parse_conf_state(&conf_state_value(&state)), Ok(state));
        // As 3.5 wrote it.
        let old = br#"{"voters":[1],"learners":null,"voters_outgoing":null,"learners_next":null,"auto_leave":null}"#;
        assert_eq!(parse_conf_state(old), Ok(ConfState { voters: vec![1], ..Default::default() }));

        let member = Member {
            id: 4885544938433206482,
            peer_urls: vec!["http://127.0.0.1:2".into()],
            name: "n".into(),
            client_urls: vec!["http://127.0.0.1:1".into()],
            is_learner: false,
        };
        let text = br#"{"id":4885544938433206482,"peerURLs":["http://127.0.0.1:2"],"name":"n","clientURLs":["http://127.0.0.1:1"]}"#;
        assert_eq!(member_value(&member), text);
        assert_eq!(parse_member(text), Ok(member.clone()));
        let learner =
            Member { is_learner: true, name: "a<b>&\u{2028}".into(), client_urls: Vec::new(), ..member };
        let text = member_value(&learner);
        assert_eq!(
            text,
            br#"{"id":4885544938433206482,"peerURLs":["http://127.0.0.1:2"],"isLearner":true,"name":"a\u003cb\u003e\u0026\u2028"}"#
        );
        assert_eq!(parse_member(&text), Ok(learner));
        assert_eq!(downgrade_value(&Downgrade::default()), br#"{"target-version":"","enabled":false}"#);
        assert!(parse_member(b"7").is_err() && parse_conf_state(b"{\"voters\":1}").is_err());
    }

    #[test]
    fn small_encodings() {
        assert_eq!(member_key(0x43cc), b"43cc");
        assert_eq!(parse_member_key(b"43ccf13c9d84d8d2"), Ok(0x43cc_f13c_9d84_d8d2));
        assert!(
            parse_member_key(b"").is_err()
                && parse_member_key(b"+1").is_err()
                && parse_member_key(b"g").is_err()
        );
        assert_eq!(parse_lease_key(&lease_key(-2)), Ok(-2));
        assert_eq!(parse_u64(&u64_value(7)), Ok(7));
        assert!(parse_u64(&[0; 7]).is_err());
        assert_eq!(storage_version_value(3, 7), b"3.7.0");
        assert!(
            parse_auth_enabled(&auth_enabled_value(true)) && !parse_auth_enabled(&auth_enabled_value(false))
        );
        let alarm = etcdserverpb::AlarmMember { member_id: 7, alarm: 1 };
        assert_eq!(alarm_key(&alarm), [8, 7, 16, 1]);
        assert_eq!(parse_alarm_key(&alarm_key(&alarm)), Ok(alarm));
        assert_eq!(parse_key_value(&tombstone_value(b"k")).map(|kv| kv.key), Ok(b"k".to_vec()));
        let mut sorted = bucket::ALL;
        sorted.sort_unstable();
        assert_eq!(sorted, bucket::ALL);
    }
}
