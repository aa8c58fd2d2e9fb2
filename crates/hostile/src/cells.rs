//! The stored form of a version, and the keys of etcd's bucket: `mvcc::cell`, `mvcc::hash`.
//!
//! Laws: what `from_wire` takes is what protobuf says it is; what protobuf decodes is taken in its canonical form; a
//! cell comes apart as it was put together; a bucket key is its revision, byte for byte.

use mvcc::cell::{Cell, Fields, KvRef};
use mvcc::hash::{bucket_key, parse_bucket_key};
use prost::Message;
use proto::mvccpb::KeyValue;

use crate::meter::bounded;

pub fn check(input: &[u8]) {
    bounded(4096 + 8 * input.len(), || {
        wire(input);
        message(input);
        if let Some((revision, kind)) = parse_bucket_key(input) {
            assert!(revision.main >= 0 && revision.sub >= 0, "revisions of a bucket are not negative");
            let (key, length) = bucket_key(revision, kind);
            assert_eq!(&key[..length], input, "a bucket key has one form");
        }
    });
}

fn wire(input: &[u8]) {
    let Some(kv) = KvRef::from_wire(input) else { return };
    let message = KeyValue::decode(input).expect("what is taken is protobuf");
    assert_eq!(kv.to_message(), message, "both readings agree");
    let mut canonical = Vec::new();
    kv.fields.push_wire(&mut canonical);
    assert_eq!(canonical, message.encode_to_vec(), "written in canonical form");
    assert_eq!(canonical.len(), kv.fields.wire_len());
    if !kv.key.is_empty() && kv.version > 0 && 0 < kv.create && kv.create <= kv.mod_ {
        let mut stored = Vec::new();
        kv.fields.push_cell(7, &mut stored);
        let cell = Cell::new(&stored);
        assert_eq!((cell.kv().fields, cell.sub(), cell.wire()), (kv.fields, 7, &canonical[..]));
        assert_eq!(cell.revision(), cell.kv().revision());
    }
}

fn message(input: &[u8]) {
    let Ok(message) = KeyValue::decode(input) else { return };
    let encoded = message.encode_to_vec();
    let kv = KvRef::from_wire(&encoded).expect("canonical form is taken");
    assert_eq!(kv.to_message(), message);
}

pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let wire = |fields: Fields<'_>| {
        let mut out = Vec::new();
        fields.push_wire(&mut out);
        out
    };
    let full =
        Fields { key: b"/registry/pods/a", create: 5, mod_: 300, version: 3, value: b"value", lease: 77 };
    let revision = base::Revision::new(300, 2);
    let (put, put_len) = bucket_key(revision, mvcc::trees::Kind::Put);
    let (delete, delete_len) = bucket_key(revision, mvcc::trees::Kind::Delete);
    vec![
        ("seed-full".into(), wire(full)),
        ("seed-no-value".into(), wire(Fields { value: b"", lease: 0, ..full })),
        ("seed-negative-lease".into(), wire(Fields { lease: -1, mod_: i64::MAX, ..full })),
        ("seed-tombstone".into(), wire(Fields { key: b"gone", ..Fields::default() })),
        ("seed-bucket-put".into(), put[..put_len].to_vec()),
        ("seed-bucket-delete".into(), delete[..delete_len].to_vec()),
    ]
}
