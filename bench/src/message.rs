//! The requests that the loads send and the few facts that they read from answers, straight on the wire format.
//!
//! Encoding writes into the connection's output with no message struct in between; prost's types of the `proto`
//! crate are the judge in the tests. Fields that hold their default are left out, as proto3 asks.

use base::varint;

/// One field of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of one message, in wire order. Ends early at bytes that are no protobuf.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = (u32, Value<'a>);

    fn next(&mut self) -> Option<(u32, Value<'a>)> {
        let tag = take_varint(&mut self.0)?;
        let value = match tag & 7 {
            0 => Value::Number(take_varint(&mut self.0)?),
            1 => Value::Number(u64::from_le_bytes(self.take(8)?.try_into().ok()?)),
            2 => {
                let length = take_varint(&mut self.0)?;
                Value::Bytes(self.take(usize::try_from(length).ok()?)?)
            }
            5 => Value::Number(u64::from(u32::from_le_bytes(self.take(4)?.try_into().ok()?))),
            _ => return None,
        };
        Some((u32::try_from(tag >> 3).ok()?, value))
    }
}

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    pub fn number(self, field: u32) -> Option<u64> {
        self.into_iter().find_map(|found| match found {
            (number, Value::Number(value)) if number == field => Some(value),
            _ => None,
        })
    }

    pub fn bytes(self, field: u32) -> Option<&'a [u8]> {
        self.each(field).next()
    }

    /// Every occurrence of a length-delimited field.
    pub fn each(self, field: u32) -> impl Iterator<Item = &'a [u8]> {
        self.filter_map(move |found| match found {
            (number, Value::Bytes(bytes)) if number == field => Some(bytes),
            _ => None,
        })
    }
}

fn take_varint(input: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = input.split_first()?;
        *input = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn put_number(out: &mut Vec<u8>, field: u32, value: i64) {
    if value != 0 {
        varint::push(out, u64::from(field << 3));
        varint::push(out, value as u64);
    }
}

fn put_bytes(out: &mut Vec<u8>, field: u32, bytes: &[u8]) {
    if !bytes.is_empty() {
        put_head(out, field, bytes.len());
        out.extend_from_slice(bytes);
    }
}

fn put_head(out: &mut Vec<u8>, field: u32, length: usize) {
    varint::push(out, u64::from(field << 3 | 2));
    varint::push(out, length as u64);
}

fn number_bytes(value: i64) -> usize {
    if value == 0 { 0 } else { 1 + varint::len(value as u64) }
}

fn bytes_bytes(length: usize) -> usize {
    if length == 0 { 0 } else { 1 + varint::len(length as u64) + length }
}

/// A put; `lease` 0 is none.
#[derive(Clone, Copy, Debug)]
pub struct Put<'a> {
    pub key: &'a [u8],
    pub value: &'a [u8],
    pub lease: i64,
}

impl Put<'_> {
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(out, 1, self.key);
        put_bytes(out, 2, self.value);
        put_number(out, 3, self.lease);
    }

    fn encoded_bytes(&self) -> usize {
        bytes_bytes(self.key.len()) + bytes_bytes(self.value.len()) + number_bytes(self.lease)
    }
}

/// A range; an empty `end` means the one key.
#[derive(Clone, Copy, Debug, Default)]
pub struct Range<'a> {
    pub key: &'a [u8],
    pub end: &'a [u8],
    pub limit: i64,
    pub serializable: bool,
    pub count_only: bool,
}

impl Range<'_> {
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(out, 1, self.key);
        put_bytes(out, 2, self.end);
        put_number(out, 3, self.limit);
        put_number(out, 7, i64::from(self.serializable));
        put_number(out, 9, i64::from(self.count_only));
    }
}

/// What a guarded write does when its key is at the expected revision.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    Put { value: &'a [u8], lease: i64 },
    Delete,
}

/// The write of Kubernetes: if the key's last revision is `revision` then change it, else read it.
#[derive(Clone, Copy, Debug)]
pub struct Guarded<'a> {
    pub key: &'a [u8],
    /// 0: the key must not exist.
    pub revision: i64,
    pub change: Change<'a>,
    /// Read the key when the guard fails; a create does not.
    pub read_else: bool,
}

impl Guarded<'_> {
    pub fn encode(&self, out: &mut Vec<u8>) {
        // Compare: result EQUAL (default), target MOD = 2, key = 3, mod_revision = 6, which is a oneof and so is
        // present also when 0.
        const TARGET_MOD: i64 = 2;
        let compare =
            number_bytes(TARGET_MOD) + bytes_bytes(self.key.len()) + 1 + varint::len(self.revision as u64);
        put_head(out, 1, compare);
        put_number(out, 2, TARGET_MOD);
        put_bytes(out, 3, self.key);
        varint::push(out, 6 << 3);
        varint::push(out, self.revision as u64);

        // TxnRequest.success = 2 holds a RequestOp, whose request_put is 2 and request_delete_range 3.
        match self.change {
            Change::Put { value, lease } => {
                let put = Put { key: self.key, value, lease };
                let length = put.encoded_bytes();
                put_head(out, 2, 1 + varint::len(length as u64) + length);
                put_head(out, 2, length);
                put.encode(out);
            }
            Change::Delete => put_key_op(out, 2, 3, self.key),
        }
        // TxnRequest.failure = 3; RequestOp.request_range is 1.
        if self.read_else {
            put_key_op(out, 3, 1, self.key);
        }
    }
}

/// A RequestOp whose request holds nothing but a key.
fn put_key_op(out: &mut Vec<u8>, branch: u32, op: u32, key: &[u8]) {
    let length = bytes_bytes(key.len());
    put_head(out, branch, 1 + varint::len(length as u64) + length);
    put_head(out, op, length);
    put_bytes(out, 1, key);
}

/// Asks for a watch of `[key, end)`, or of `key` when `end` is empty, from now on.
pub fn watch_create(out: &mut Vec<u8>, key: &[u8], end: &[u8], prev_kv: bool, progress_notify: bool) {
    let length = bytes_bytes(key.len())
        + bytes_bytes(end.len())
        + number_bytes(i64::from(progress_notify))
        + number_bytes(i64::from(prev_kv));
    put_head(out, 1, length);
    put_bytes(out, 1, key);
    put_bytes(out, 2, end);
    put_number(out, 4, i64::from(progress_notify));
    put_number(out, 6, i64::from(prev_kv));
}

/// Asks a watch stream how far it is.
pub fn watch_progress(out: &mut Vec<u8>) {
    put_head(out, 3, 0);
}

pub fn lease_grant(out: &mut Vec<u8>, ttl_s: i64) {
    put_number(out, 1, ttl_s);
}

pub fn lease_keep_alive(out: &mut Vec<u8>, id: i64) {
    put_number(out, 1, id);
}

pub fn compact(out: &mut Vec<u8>, revision: i64) {
    put_number(out, 1, revision);
}

/// The revision in the header (field 1 of every answer); 0 when it is missing.
pub fn revision(answer: &[u8]) -> i64 {
    Fields(answer).bytes(1).and_then(|header| Fields(header).number(3)).unwrap_or(0) as i64
}

/// `TxnResponse.succeeded`.
pub fn succeeded(answer: &[u8]) -> bool {
    Fields(answer).number(2) == Some(1)
}

/// The last revision of the key that the else branch of a [`Guarded`] read; 0 when there is no such key.
pub fn revision_read(answer: &[u8]) -> i64 {
    let kv = Fields(answer)
        .bytes(3)
        .and_then(|op| Fields(op).bytes(1))
        .and_then(|range| Fields(range).bytes(2))
        .unwrap_or(&[]);
    Fields(kv).number(3).unwrap_or(0) as i64
}

/// `RangeResponse.count`.
pub fn count(answer: &[u8]) -> u64 {
    Fields(answer).number(4).unwrap_or(0)
}

/// The pairs of a RangeResponse: key, last revision.
pub fn pairs(answer: &[u8]) -> impl Iterator<Item = (&[u8], i64)> {
    Fields(answer).each(2).map(|kv| {
        let kv = Fields(kv);
        (kv.bytes(1).unwrap_or(&[]), kv.number(3).unwrap_or(0) as i64)
    })
}

/// What a WatchResponse says.
pub struct WatchAnswer<'a>(Fields<'a>);

impl<'a> WatchAnswer<'a> {
    pub fn of(answer: &'a [u8]) -> WatchAnswer<'a> {
        WatchAnswer(Fields(answer))
    }

    pub fn created(&self) -> bool {
        self.0.number(3) == Some(1)
    }

    pub fn canceled(&self) -> bool {
        self.0.number(4) == Some(1)
    }

    /// The value of each event's pair; empty for a deletion.
    pub fn values(&self) -> impl Iterator<Item = &'a [u8]> {
        self.0.each(11).map(|event| {
            let kv = Fields(event).bytes(2).unwrap_or(&[]);
            Fields(kv).bytes(5).unwrap_or(&[])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;
    use proto::etcdserverpb as pb;
    use proto::mvccpb::{Event, KeyValue};

    fn encoded(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out);
        out
    }

    #[test]
    fn requests_are_what_prost_would_write() {
        for (key, value, lease) in [(64, 512, 0), (1, 0, 7), (200, 20_000, i64::MAX), (3, 127, -1)] {
            let (key, value) = (vec![b'k'; key], vec![0xfe; value]);
            let expected =
                pb::PutRequest { key: key.clone(), value: value.clone(), lease, ..Default::default() };
            let put = Put { key: &key, value: &value, lease };
            assert_eq!(encoded(|out| put.encode(out)), expected.encode_to_vec());
            assert_eq!(put.encoded_bytes(), expected.encoded_len());

            for revision in [0, 1, 127, 128, i64::MAX] {
                for delete in [false, true] {
                    for read_else in [false, true] {
                        let change =
                            if delete { Change::Delete } else { Change::Put { value: &value, lease } };
                        let guarded = Guarded { key: &key, revision, change, read_else };
                        let bytes = encoded(|out| guarded.encode(out));
                        assert_eq!(bytes, guarded_by_prost(&key, revision, &expected, delete, read_else));
                    }
                }
            }
        }
        let range = Range { key: b"a", end: b"b", limit: 500, serializable: true, count_only: true };
        let expected = pb::RangeRequest {
            key: b"a".to_vec(),
            range_end: b"b".to_vec(),
            limit: 500,
            serializable: true,
            count_only: true,
            ..Default::default()
        };
        assert_eq!(encoded(|out| range.encode(out)), expected.encode_to_vec());
    }

    fn guarded_by_prost(
        key: &[u8],
        revision: i64,
        put: &pb::PutRequest,
        delete: bool,
        read: bool,
    ) -> Vec<u8> {
        use pb::{compare::TargetUnion, request_op::Request};
        let op = |request| pb::RequestOp { request: Some(request) };
        let change = if delete {
            Request::RequestDeleteRange(pb::DeleteRangeRequest { key: key.to_vec(), ..Default::default() })
        } else {
            Request::RequestPut(put.clone())
        };
        let read_op = Request::RequestRange(pb::RangeRequest { key: key.to_vec(), ..Default::default() });
        pb::TxnRequest {
            compare: vec![pb::Compare {
                target: pb::compare::CompareTarget::Mod as i32,
                key: key.to_vec(),
                target_union: Some(TargetUnion::ModRevision(revision)),
                ..Default::default()
            }],
            success: vec![op(change)],
            failure: if read { vec![op(read_op)] } else { vec![] },
        }
        .encode_to_vec()
    }

    #[test]
    fn watch_and_lease_requests_decode_as_meant() {
        use pb::watch_request::RequestUnion;
        let create = encoded(|out| watch_create(out, b"a", b"b", true, true));
        let expected = pb::WatchCreateRequest {
            key: b"a".to_vec(),
            range_end: b"b".to_vec(),
            prev_kv: true,
            progress_notify: true,
            ..Default::default()
        };
        let decoded = pb::WatchRequest::decode(&create[..]).unwrap().request_union;
        assert_eq!(decoded, Some(RequestUnion::CreateRequest(expected)));
        let progress = pb::WatchRequest::decode(&encoded(watch_progress)[..]).unwrap().request_union;
        assert_eq!(progress, Some(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})));
        let grant = pb::LeaseGrantRequest::decode(&encoded(|out| lease_grant(out, 60))[..]).unwrap();
        assert_eq!((grant.ttl, grant.id), (60, 0));
        let alive = pb::LeaseKeepAliveRequest::decode(&encoded(|out| lease_keep_alive(out, -5))[..]).unwrap();
        assert_eq!(alive.id, -5);
        let compaction = pb::CompactionRequest::decode(&encoded(|out| compact(out, 9))[..]).unwrap();
        assert_eq!(compaction.revision, 9);
    }

    #[test]
    fn facts_are_found_in_answers() {
        use pb::response_op::Response;
        let header =
            Some(pb::ResponseHeader { cluster_id: u64::MAX, member_id: 2, revision: 77, raft_term: 3 });
        let kv =
            KeyValue { key: b"k".to_vec(), mod_revision: 55, value: b"v".to_vec(), ..Default::default() };
        let range = pb::RangeResponse { header, kvs: vec![kv.clone(), kv.clone()], more: true, count: 9 };
        let bytes = range.encode_to_vec();
        assert_eq!((revision(&bytes), count(&bytes)), (77, 9));
        assert_eq!(pairs(&bytes).collect::<Vec<_>>(), [(&b"k"[..], 55), (&b"k"[..], 55)]);
        let txn = |succeeded, response| pb::TxnResponse {
            header,
            succeeded,
            responses: vec![pb::ResponseOp { response: Some(response) }],
        };
        let failed = txn(false, Response::ResponseRange(range.clone())).encode_to_vec();
        assert!(!succeeded(&failed));
        assert_eq!((revision(&failed), revision_read(&failed)), (77, 55));
        let passed = txn(true, Response::ResponsePut(pb::PutResponse::default())).encode_to_vec();
        assert!(succeeded(&passed));
        assert_eq!(revision_read(&passed), 0);
        let event = |value: &[u8]| Event {
            kv: Some(KeyValue { value: value.to_vec(), ..kv.clone() }),
            prev_kv: Some(kv.clone()),
            ..Default::default()
        };
        let watch = pb::WatchResponse {
            header,
            created: true,
            events: vec![event(b"1"), event(b"22")],
            ..Default::default()
        }
        .encode_to_vec();
        let answer = WatchAnswer::of(&watch);
        assert!(answer.created() && !answer.canceled());
        assert_eq!(answer.values().collect::<Vec<_>>(), [&b"1"[..], b"22"]);
    }

    #[test]
    fn garbage_ends_the_walk_and_never_panics() {
        let mut random = base::Random::new(3);
        for _ in 0..20_000 {
            let mut bytes = [0u8; 24];
            random.fill(&mut bytes);
            assert!(Fields(&bytes).count() <= bytes.len());
            revision(&bytes);
            revision_read(&bytes);
        }
    }
}
