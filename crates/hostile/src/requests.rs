//! Requests as protobuf: decoding, the checks of `mvcc::validate`, the form in the log, and their application to a
//! store.
//!
//! Laws: what decodes encodes to the same message; a transaction is the same however deep it stands; what passes the
//! checks is applied without a panic, raises the revision by one or not at all, stays within the room that was foreseen for
//! it, and gives answers whose slices join to the message; the trees fit together afterwards ([`crate::import::fits`]).
//!
//! Input: requests one behind the other, each a byte that says which, and a block.

use bytes::BytesMut;
use mvcc::hash::{self, CompactionHashes};
use mvcc::{Apply, Revisions, Work, quota, trees, validate};
use prost::Message;
use proto::etcdserverpb as pb;
use tree::Store;

use crate::choices::{Choices, push_block};
use crate::import::{fits, fresh};
use crate::meter::bounded;

const MAX_TXN_OPS: usize = 128;

/// Decodes, encodes, decodes again.
fn round<M: Message + Default + PartialEq>(bytes: &[u8]) -> Option<M> {
    let message = M::decode(bytes).ok()?;
    let encoded = message.encode_to_vec();
    assert_eq!(encoded.len(), message.encoded_len());
    assert!(M::decode(&encoded[..]).as_ref() == Ok(&message), "a message survives the trip");
    Some(message)
}

/// Levels around a transaction that are more than prost decodes.
const AROUND: usize = 60;

/// A transaction, which is the same where prost decodes it and where only `proto::deep` does: levels further down.
fn transaction(bytes: &[u8]) -> Option<pb::TxnRequest> {
    use pb::request_op::Request as Op;
    let here = proto::deep::txn(bytes);
    if let Ok(prosts) = pb::TxnRequest::decode(bytes) {
        assert_eq!(here, Ok(Some(prosts)), "what prost decodes is that");
    }
    let mut wrapped = bytes.to_vec();
    for _ in 0..AROUND {
        wrapped = field(2, &field(4, &wrapped));
    }
    let mut there = proto::deep::txn(&wrapped);
    // What is too deep is not looked at any further.
    if there != Ok(None) {
        assert_eq!(here.is_err(), there.is_err(), "what is malformed is so at every depth");
    }
    if let (Ok(Some(here)), Ok(Some(there))) = (&here, &mut there) {
        for _ in 0..AROUND {
            let Some(Op::RequestTxn(inner)) = there.success.pop().and_then(|op| op.request) else {
                panic!("each level holds one transaction");
            };
            *there = inner;
        }
        assert_eq!(here, there, "a transaction is the same {AROUND} levels further down");
    }
    let here = here.ok().flatten()?;
    let encoded = here.encode_to_vec();
    assert_eq!(encoded.len(), here.encoded_len());
    assert!(proto::deep::txn(&encoded).as_ref() == Ok(&Some(here.clone())), "a message survives the trip");
    Some(here)
}

/// A field of bytes.
fn field(tag: u32, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::bytes::encode(tag, &bytes.to_vec(), &mut out);
    out
}

/// Bytes that the log gives back for an entry.
fn logged(bytes: &[u8]) {
    let Ok((id, request)) = replica::Request::decode(bytes) else { return };
    let again = replica::Request::decode(&entry(&request, id));
    assert_eq!(again, Ok((id, request)), "an entry is its request");
}

/// The bytes of a request in the log.
fn entry(request: &replica::Request, id: u64) -> BytesMut {
    let mut entry = BytesMut::new();
    request.encode_to(id, &mut entry);
    entry
}

/// A store that requests are applied to.
struct Member {
    store: Store,
    work: Work,
    hashes: CompactionHashes,
}

impl Member {
    fn revision(&self) -> i64 {
        Revisions::of(self.store.stamp()).current
    }

    fn apply<R>(&mut self, logged: pb::InternalRaftRequest, request: impl FnOnce(&mut Apply<'_>) -> R) -> R {
        // The log's form, and back.
        let logged = replica::Request::from(logged);
        let entry = entry(&logged, u64::MAX);
        assert_eq!(replica::Request::decode(&entry), Ok((u64::MAX, logged)), "an entry is its request");
        let before = self.revision();
        let result = request(&mut Apply::new(&mut self.store, &mut self.work));
        let after = self.revision();
        assert!(after == before || after == before + 1, "one request is one revision at most");
        assert_eq!(self.work.events.take().is_some(), after > before, "a revision means events");
        result
    }

    fn within_room<R>(
        &mut self,
        logged: pb::InternalRaftRequest,
        request: impl FnOnce(&mut Apply<'_>) -> R,
    ) -> R {
        let room = quota::room(&self.store, &logged, 0).bytes;
        self.store.reserve(room).expect("the device is large");
        let used = |store: &Store| store.used_bytes() + store.waiting_bytes();
        let before = used(&self.store);
        let result = self.apply(logged, request);
        let taken = used(&self.store).saturating_sub(before);
        assert!(taken <= room, "{taken} bytes of pages taken, {room} foreseen");
        result
    }

    fn put(&mut self, request: pb::PutRequest) {
        if validate::put(&request).is_ok() {
            let logged = pb::InternalRaftRequest { put: Some(request.clone()), ..Default::default() };
            let _ = self.within_room(logged, |apply| apply.put(&request));
        }
    }

    fn delete(&mut self, request: pb::DeleteRangeRequest) {
        if validate::delete_range(&request).is_ok() {
            let logged =
                pb::InternalRaftRequest { delete_range: Some(request.clone()), ..Default::default() };
            self.within_room(logged, |apply| apply.delete_range(&request));
        }
    }

    fn txn(&mut self, request: pb::TxnRequest) {
        if validate::txn(&request, MAX_TXN_OPS).is_err() {
            return;
        }
        if mvcc::is_read_only(&request) {
            let _ = mvcc::txn_read_only(self.store.view(), Revisions::of(self.store.stamp()), &request);
            return;
        }
        let logged = pb::InternalRaftRequest { txn: Some(request.clone()), ..Default::default() };
        let _ = self.within_room(logged, |apply| apply.txn(&request));
    }

    fn range(&self, request: &pb::RangeRequest) {
        let checked = validate::range(request);
        assert!(
            checked.is_ok() || validate::range_stream(request).is_err(),
            "a streamed range needs no less"
        );
        if checked.is_err() {
            return;
        }
        let Ok(answer) = mvcc::range(self.store.view(), Revisions::of(self.store.stamp()), request) else {
            return;
        };
        let header = pb::ResponseHeader { revision: answer.revision, ..Default::default() };
        let mut encoded = Vec::new();
        answer.encode(&header, &mut encoded);
        let whole = pb::RangeResponse { header: Some(header), ..answer.to_message() };
        assert_eq!(encoded, whole.encode_to_vec(), "slices join to the message");
        let limited = request.limit <= 0 || whole.kvs.len() as i64 <= request.limit;
        assert!(limited && whole.count >= whole.kvs.len() as i64, "limits and counts hold");
    }

    fn compact(&mut self, request: pb::CompactionRequest) {
        let logged = pb::InternalRaftRequest { compaction: Some(request), ..Default::default() };
        let Ok(done) = self.apply(logged, |apply| apply.compact(&request)) else { return };
        if done.previous_finished {
            self.hashes.store(hash::compaction_hash(self.store.view(), done.previous, done.revision));
        }
        while Apply::new(&mut self.store, &mut self.work).compaction_step(3) {
            self.store.publish();
        }
    }

    fn grant(&mut self, request: &pb::LeaseGrantRequest) {
        if request.id > 0 {
            self.store.insert(trees::LEASES, &trees::lease_key(request.id), &[]);
        }
    }

    fn revoke(&mut self, request: &pb::LeaseRevokeRequest) {
        let key = trees::lease_key(request.id);
        if request.id == 0 || self.store.view().get(trees::LEASES, &key).is_none() {
            return;
        }
        let logged = pb::InternalRaftRequest { lease_revoke: Some(*request), ..Default::default() };
        self.within_room(logged, |apply| apply.delete_keys_of_lease(request.id));
        self.store.remove(trees::LEASES, &key);
    }

    fn request(&mut self, kind: u8, bytes: &[u8]) {
        match kind % 18 {
            0 => self.range(&round(bytes).unwrap_or_default()),
            1 => self.put(round(bytes).unwrap_or_default()),
            2 => self.delete(round(bytes).unwrap_or_default()),
            3 => self.txn(transaction(bytes).unwrap_or_default()),
            4 => self.compact(round(bytes).unwrap_or_default()),
            5 => self.grant(&round(bytes).unwrap_or_default()),
            6 => self.revoke(&round(bytes).unwrap_or_default()),
            7 => drop(round::<pb::WatchRequest>(bytes)),
            8 => {
                let Some(message) = round::<pb::InternalRaftRequest>(bytes) else { return };
                let request = replica::Request::from(message);
                let entry = entry(&request, 9);
                let (id, back) = replica::Request::decode(&entry).expect("our own entry is read");
                // A message may carry an id of its own, which goes before the header's.
                assert!(back == request || id != 9, "an entry is its request");
            }
            9 => {
                let request = round::<pb::HashKvRequest>(bytes).unwrap_or_default();
                let _ = hash::answer(self.store.view(), &self.hashes, request.revision);
            }
            10 => drop(round::<pb::AlarmRequest>(bytes)),
            11 => drop(round::<pb::MemberAddRequest>(bytes)),
            12 => drop(round::<pb::LeaseTimeToLiveRequest>(bytes)),
            13 => drop(round::<pb::AuthRoleGrantPermissionRequest>(bytes)),
            14 => drop(round::<proto::health::HealthCheckRequest>(bytes)),
            15 => drop(round::<pb::MemberUpdateRequest>(bytes)),
            16 => logged(bytes),
            _ => drop(round::<proto::raftpb::ConfChange>(bytes)),
        }
    }
}

pub fn check(input: &[u8]) {
    let mut choices = Choices::new(input);
    let mut member = Member { store: fresh(), work: Work::default(), hashes: CompactionHashes::default() };
    // The store's file is memory here, and a page is written for each of a few bytes.
    bounded((16 << 20) + 16384 * input.len(), || {
        while !choices.is_empty() {
            let kind = choices.byte();
            member.request(kind, choices.block());
            member.store.publish();
        }
        fits(&member.store);
    });
}

pub fn seeds() -> Vec<(String, Vec<u8>)> {
    use pb::request_op::Request as Op;
    fn push(out: &mut Vec<u8>, kind: u8, message: &impl Message) {
        out.push(kind);
        push_block(out, &message.encode_to_vec());
    }
    let put = |key: &str, value: &str, lease| pb::PutRequest {
        key: key.into(),
        value: value.into(),
        lease,
        prev_kv: true,
        ..Default::default()
    };
    let op = |request| pb::RequestOp { request: Some(request) };
    let all = pb::RangeRequest { key: vec![0], range_end: vec![0], ..Default::default() };
    let delete = pb::DeleteRangeRequest { key: b"a".into(), range_end: b"b".into(), prev_kv: true };
    let mut kv = Vec::new();
    push(&mut kv, 5, &pb::LeaseGrantRequest { ttl: 5, id: 7 });
    push(&mut kv, 1, &put("a", "1", 0));
    push(&mut kv, 1, &put("a1", "2", 7));
    push(&mut kv, 1, &put("b", "3", 0));
    push(&mut kv, 0, &all);
    push(&mut kv, 2, &delete);
    push(&mut kv, 1, &put("a", "again", 7));
    push(
        &mut kv,
        0,
        &pb::RangeRequest { revision: 3, sort_order: 2, sort_target: 4, limit: 2, ..all.clone() },
    );
    push(&mut kv, 4, &pb::CompactionRequest { revision: 4, physical: true });
    push(&mut kv, 9, &pb::HashKvRequest { revision: 0 });
    push(&mut kv, 6, &pb::LeaseRevokeRequest { id: 7 });
    push(&mut kv, 0, &pb::RangeRequest { min_mod_revision: 3, keys_only: true, ..all.clone() });

    let compare = |key: &str, target, union| pb::Compare {
        key: key.into(),
        result: 0,
        target,
        target_union: Some(union),
        ..Default::default()
    };
    use pb::compare::TargetUnion;
    let inner = pb::TxnRequest {
        compare: vec![compare("a", 0, TargetUnion::Version(1))],
        success: vec![op(Op::RequestPut(put("c", "inner", 0)))],
        failure: vec![op(Op::RequestDeleteRange(pb::DeleteRangeRequest {
            key: b"d".into(),
            ..Default::default()
        }))],
    };
    let outer = pb::TxnRequest {
        compare: vec![
            compare("a", 3, TargetUnion::Value(b"1".to_vec())),
            compare("x", 1, TargetUnion::CreateRevision(0)),
        ],
        success: vec![
            op(Op::RequestPut(put("a", "2", 0))),
            op(Op::RequestRange(all.clone())),
            op(Op::RequestTxn(inner.clone())),
        ],
        failure: vec![op(Op::RequestRange(all.clone()))],
    };
    let mut txn = Vec::new();
    push(&mut txn, 1, &put("a", "1", 0));
    push(&mut txn, 3, &outer);
    push(&mut txn, 3, &inner);
    push(
        &mut txn,
        3,
        &pb::TxnRequest { success: vec![op(Op::RequestRange(all.clone()))], ..Default::default() },
    );

    // As deep as a decoder follows; an entry of the log holds the message one level deeper.
    let deep = |levels: usize| {
        let put =
            pb::TxnRequest { success: vec![op(Op::RequestPut(put("d", "deep", 0)))], ..Default::default() };
        (0..levels).fold(put, |inner, _| pb::TxnRequest {
            success: vec![op(Op::RequestTxn(inner))],
            ..Default::default()
        })
    };
    let mut depth = Vec::new();
    for levels in 47..52 {
        push(&mut depth, 3, &deep(levels));
    }

    let mut other = Vec::new();
    let create = pb::WatchCreateRequest {
        key: b"a".into(),
        start_revision: 2,
        filters: vec![0],
        ..Default::default()
    };
    push(
        &mut other,
        7,
        &pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) },
    );
    push(&mut other, 8, &pb::InternalRaftRequest { id: 5, txn: Some(outer), ..Default::default() });
    push(&mut other, 10, &pb::AlarmRequest { action: 1, member_id: 5, alarm: 1 });
    push(&mut other, 11, &pb::MemberAddRequest { peer_ur_ls: vec!["http://a:1".into()], is_learner: true });
    push(&mut other, 12, &pb::LeaseTimeToLiveRequest { id: 7, keys: true });
    push(&mut other, 14, &proto::health::HealthCheckRequest { service: "s".into() });
    let mut from_log = Vec::new();
    let entry_of = |request| entry(&replica::Request::from(request), 77).to_vec();
    let raw = |out: &mut Vec<u8>, kind: u8, bytes: &[u8]| {
        out.push(kind);
        push_block(out, bytes);
    };
    for request in [
        pb::InternalRaftRequest { txn: Some(deep(48)), ..Default::default() },
        pb::InternalRaftRequest { txn: Some(deep(51)), ..Default::default() },
        pb::InternalRaftRequest { put: Some(put("a", "1", 7)), ..Default::default() },
        pb::InternalRaftRequest {
            alarm: Some(pb::AlarmRequest { action: 1, ..Default::default() }),
            ..Default::default()
        },
    ] {
        raw(&mut from_log, 16, &entry_of(request));
    }
    let context =
        br#"{"id":7,"peerURLs":["http://localhost:2380"],"name":"default","clientURLs":["http://a:1"]}"#;
    push(
        &mut from_log,
        17,
        &proto::raftpb::ConfChange { node_id: 7, context: context[..].into(), ..Default::default() },
    );
    // Too deep once it is wrapped, and malformed below that.
    let mut deepest = vec![0x12, 5, 0];
    for _ in 0..470 {
        deepest = field(2, &field(4, &deepest));
    }
    raw(&mut from_log, 3, &deepest);
    // Parts of one operation: two halves of a put, and another kind between them.
    let mut parts = Vec::new();
    let half = |put: pb::PutRequest| field(2, &put.encode_to_vec());
    let key = half(pb::PutRequest { key: b"k".into(), ..Default::default() });
    let value = half(pb::PutRequest { value: b"v".into(), ..Default::default() });
    raw(&mut parts, 3, &field(2, &[&key[..], &value].concat()));
    raw(&mut parts, 3, &field(3, &[&key[..], &field(1, &[0x0a, 1, b'a']), &value].concat()));
    raw(&mut parts, 3, &field(2, &[field(4, &field(2, &key)), field(4, &field(2, &value))].concat()));
    vec![
        ("seed-log".into(), from_log),
        ("seed-parts".into(), parts),
        ("seed-kv".into(), kv),
        ("seed-txn".into(), txn),
        ("seed-deep".into(), depth),
        ("seed-other".into(), other),
    ]
}
