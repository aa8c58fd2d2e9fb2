//! What the tests share: a store in memory, a server that answers requests as the layers above will, and digests.
#![allow(dead_code, reason = "every test uses its part")]

use std::sync::Arc;

use disk::SimFiles;
use mainstay_mvcc as mvcc;
use mvcc::event::EventBatch;
use mvcc::hash::{self, CompactionHashes};
use mvcc::quota;
use mvcc::{
    Apply, RangeCursor, Revisions, Rows, Work, changes, span::Span, stamp, trees, validate, versions,
};
use prost::Message;
use proto::Error;
use proto::etcdserverpb as pb;
use proto::{errors, mvccpb};
use tree::{Options, Store, View};

pub fn open() -> Store {
    let options = Options { chunk_bytes: 1 << 20, max_chunks: 1 << 12, reserve_bytes: 1 << 16 };
    let mut store = Store::open(&SimFiles::new(), "data", &trees::SPECS, options).expect("a new file opens");
    assert!(stamp::initialise(&mut store));
    store
}

/// One member: validates, applies, answers; compactions are physical.
pub struct Member {
    pub store: Store,
    pub work: Work,
    pub hashes: CompactionHashes,
    /// Changes that a removal step looks at.
    pub step: usize,
    /// Batches not yet taken by a test.
    pub batches: Vec<Arc<EventBatch>>,
}

impl Member {
    pub fn new() -> Member {
        Member {
            store: open(),
            work: Work::default(),
            hashes: CompactionHashes::default(),
            step: 3,
            batches: Vec::new(),
        }
    }

    pub fn revisions(&self) -> Revisions {
        Revisions::of(self.store.stamp())
    }

    pub fn view(&self) -> View<'_> {
        self.store.view()
    }

    pub fn apply<R>(&mut self, request: impl FnOnce(&mut Apply<'_>) -> R) -> R {
        let before = self.revisions().current;
        let result = request(&mut Apply::new(&mut self.store, &mut self.work));
        let after = self.revisions().current;
        assert!(after == before || after == before + 1, "one request is one revision at most");
        if let Some(batch) = self.work.events.take() {
            assert_eq!((batch.first, batch.last), (after, after));
            assert_eq!(after, before + 1, "events mean a revision");
            self.check_batch(&batch);
            self.batches.push(Arc::new(batch));
        } else {
            assert_eq!(after, before, "a revision means events");
        }
        result
    }

    /// What apply collected is what catching up reads.
    fn check_batch(&self, batch: &EventBatch) {
        let mut again = EventBatch::new();
        for change in changes::changes(self.view(), batch.first, batch.last) {
            again.push_change(&change, true);
        }
        let (collected, read): (Vec<_>, Vec<_>) = (batch.iter().collect(), again.iter().collect());
        assert_eq!(collected, read);
    }

    /// Applies a request, and sees that it takes no more pages than were to be reserved for it.
    fn apply_in_room<R>(
        &mut self,
        request: pb::InternalRaftRequest,
        apply: impl FnOnce(&mut Apply<'_>) -> R,
    ) -> R {
        let room = quota::room(&self.store, &request, 0).bytes;
        let before = self.store.used_bytes() + self.store.waiting_bytes();
        let result = self.apply(apply);
        let taken = (self.store.used_bytes() + self.store.waiting_bytes()).saturating_sub(before);
        assert!(taken <= room, "{taken} bytes of pages taken, {room} foreseen: {request:?}");
        result
    }

    pub fn put(&mut self, request: &pb::PutRequest) -> Result<pb::PutResponse, Error> {
        validate::put(request)?;
        let logged = pb::InternalRaftRequest { put: Some(request.clone()), ..Default::default() };
        self.apply_in_room(logged, |apply| apply.put(request))
    }

    pub fn delete(&mut self, request: &pb::DeleteRangeRequest) -> Result<pb::DeleteRangeResponse, Error> {
        validate::delete_range(request)?;
        let logged = pb::InternalRaftRequest { delete_range: Some(request.clone()), ..Default::default() };
        Ok(self.apply_in_room(logged, |apply| apply.delete_range(request)))
    }

    pub fn txn(&mut self, request: &pb::TxnRequest) -> Result<pb::TxnResponse, Error> {
        validate::txn(request, 128)?;
        if mvcc::is_read_only(request) {
            return mvcc::txn_read_only(self.view(), self.revisions(), request);
        }
        let logged = pb::InternalRaftRequest { txn: Some(request.clone()), ..Default::default() };
        self.apply_in_room(logged, |apply| apply.txn(request))
    }

    /// A plain range, by the whole answer and, where that is possible, piece by piece.
    pub fn range(&self, request: &pb::RangeRequest) -> Result<pb::RangeResponse, Error> {
        validate::range(request)?;
        let answer = mvcc::range(self.view(), self.revisions(), request)?;
        let message = answer.to_message();
        let mut encoded = Vec::new();
        let header = pb::ResponseHeader { cluster_id: 7, revision: answer.revision, ..Default::default() };
        answer.encode(&header, &mut encoded);
        let whole = pb::RangeResponse { header: Some(header), ..message.clone() };
        assert_eq!(encoded, whole.encode_to_vec(), "slices join to the message");
        assert_eq!(answer.body_len() + header.encoded_len() + 2, encoded.len());
        if let Some(mut cursor) = RangeCursor::new(self.revisions(), request)? {
            let sizes = cursor.measure(self.view())?;
            assert_eq!(sizes.rows, message.kvs.len() as u64);
            assert_eq!((sizes.more, sizes.count), (message.more, message.count));
            assert_eq!(sizes.body_len(), answer.body_len() as u64);
            let (pieces, _) = self.produce(&mut cursor, 1 + message.kvs.len() * 7)?;
            let joined: Vec<u8> = answer.rows.pieces().flatten().copied().collect();
            assert_eq!(pieces, joined, "pieces of steps join to the answer");
            assert_eq!(cursor.more(), message.more);
        }
        Ok(message)
    }

    /// Runs a cursor to its end; the joined pieces and the pairs.
    pub fn produce(
        &self,
        cursor: &mut RangeCursor,
        budget: usize,
    ) -> Result<(Vec<u8>, Vec<mvccpb::KeyValue>), Error> {
        let (mut pieces, mut pairs) = (Vec::new(), Vec::new());
        let mut rows = Rows::new();
        while !cursor.is_done() {
            rows.clear();
            cursor.step(self.view(), budget, &mut rows)?;
            assert!(cursor.is_done() || !rows.is_empty(), "a step makes progress");
            pieces.extend(rows.pieces().flatten());
            pairs.extend(rows.to_messages());
        }
        Ok((pieces, pairs))
    }

    /// RangeStream, its chunks joined.
    pub fn stream(&self, request: &pb::RangeRequest) -> Result<pb::RangeResponse, Error> {
        validate::range_stream(request)?;
        let Some(mut cursor) = RangeCursor::for_stream(self.revisions(), request)? else {
            assert!(request.count_only);
            return self.range(request);
        };
        let (_, kvs) = self.produce(&mut cursor, 100)?;
        let count =
            cursor.produced() as i64 + if cursor.more() { cursor.count_rest(self.view())? } else { 0 };
        let header = pb::ResponseHeader { revision: cursor.header_revision(), ..Default::default() };
        Ok(pb::RangeResponse { header: Some(header), kvs, more: cursor.more(), count })
    }

    pub fn compact(&mut self, request: &pb::CompactionRequest) -> Result<pb::CompactionResponse, Error> {
        let done = self.apply(|apply| apply.compact(request))?;
        if done.previous_finished {
            self.hashes.store(hash::compaction_hash(self.view(), done.previous, done.revision));
        }
        while self.remove(self.step) {}
        assert!(!stamp::removal_pending(self.store.stamp()));
        Ok(done.response)
    }

    pub fn remove(&mut self, limit: usize) -> bool {
        let more = Apply::new(&mut self.store, &mut self.work).compaction_step(limit);
        self.store.publish();
        more
    }

    pub fn hash_kv(&self, request: &pb::HashKvRequest) -> Result<pb::HashKvResponse, Error> {
        let found = hash::answer(self.view(), &self.hashes, request.revision)?;
        Ok(pb::HashKvResponse {
            header: Some(pb::ResponseHeader { revision: self.revisions().current, ..Default::default() }),
            hash: found.hash,
            compact_revision: found.compact_revision,
            hash_revision: found.revision,
        })
    }

    pub fn grant(&mut self, request: &pb::LeaseGrantRequest) -> Result<pb::LeaseGrantResponse, Error> {
        self.store.insert(trees::LEASES, &trees::lease_key(request.id), &[]);
        let header = Some(pb::ResponseHeader { revision: self.revisions().current, ..Default::default() });
        Ok(pb::LeaseGrantResponse { header, id: request.id, ttl: request.ttl, error: String::new() })
    }

    pub fn revoke(&mut self, request: &pb::LeaseRevokeRequest) -> Result<pb::LeaseRevokeResponse, Error> {
        if self.view().get(trees::LEASES, &trees::lease_key(request.id)).is_none() {
            return Err(errors::LEASE_NOT_FOUND);
        }
        self.apply(|apply| apply.delete_keys_of_lease(request.id));
        self.store.remove(trees::LEASES, &trees::lease_key(request.id));
        let header = Some(pb::ResponseHeader { revision: self.revisions().current, ..Default::default() });
        Ok(pb::LeaseRevokeResponse { header })
    }

    /// All events from a revision on, or the compacted revision; nothing else of a watch.
    pub fn watch(&self, request: &pb::WatchCreateRequest) -> pb::WatchResponse {
        let Revisions { current, compacted } = self.revisions();
        if request.start_revision < compacted {
            return pb::WatchResponse { compact_revision: compacted, ..Default::default() };
        }
        let span = Span::new(&request.key, &request.range_end);
        let mut batch = EventBatch::new();
        for change in changes::changes(self.view(), request.start_revision, current) {
            if span.contains(change.key) {
                batch.push_change(&change, request.prev_kv);
            }
        }
        let events = batch.iter().map(|event| {
            let mut bytes = Vec::new();
            event.encode(request.prev_kv, &mut bytes);
            mvccpb::Event::decode(bytes.as_slice()).expect("an event decodes")
        });
        pb::WatchResponse { events: events.collect(), ..Default::default() }
    }

    /// The invariants that tie the trees together.
    pub fn check(&self) {
        let view = self.view();
        let Revisions { current, compacted } = self.revisions();
        let (mut puts, mut deletes, mut newest) = (0, 0, 0);
        for change in changes::changes(view, 0, i64::MAX - 1) {
            newest = change.revision.main;
            match change.cell() {
                Some(cell) => {
                    assert_eq!(cell.kv().key, change.key);
                    assert_eq!(cell.revision(), change.revision);
                    puts += 1;
                }
                None => deletes += 1,
            }
        }
        assert!(newest <= current);
        assert_eq!(view.len(trees::CHANGES), puts + deletes);
        assert_eq!(view.len(trees::LIVE) + view.len(trees::HISTORY), puts + deletes);
        // History names each superseded version once, under its own key and revision.
        let mut named = 0;
        let mut cursor = view.cursor(trees::HISTORY);
        let mut more = cursor.seek_first();
        while more {
            let (key, revision) = trees::split_history_key(cursor.key());
            if let Some(cell) = trees::superseded(view, cursor.value()) {
                assert_eq!((cell.kv().key, cell.revision()), (key, revision));
                named += 1;
            }
            more = cursor.next();
        }
        assert_eq!(view.len(trees::SUPERSEDED), named);
        // Every live key with a lease is among its lease's keys, and nothing else is.
        let mut leased = 0;
        let mut cursor = view.cursor(trees::LIVE);
        let mut more = cursor.seek_first();
        while more {
            let kv = versions::newest(view, cursor.key()).expect("a live key").kv();
            if kv.lease != 0 {
                assert!(trees::keys_of_lease(view, kv.lease).any(|key| key == kv.key));
                leased += 1;
            }
            more = cursor.next();
        }
        assert_eq!(view.len(trees::LEASE_KEYS), leased);
        if !stamp::removal_pending(self.store.stamp()) {
            self.check_removed(compacted);
        }
    }

    /// At or below the compacted revision a key has one version at most, and tombstones only exactly there.
    fn check_removed(&self, compacted: i64) {
        let view = self.view();
        let mut seen = std::collections::HashSet::new();
        for change in changes::changes(view, 0, compacted) {
            assert!(seen.insert(change.key), "{:?} has two versions at or below {compacted}", change.key);
            assert!(change.kind == trees::Kind::Put || change.revision.main == compacted);
        }
    }
}

/// All entries of a tree.
pub fn dump(view: View<'_>, tree: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut cursor = view.cursor(tree);
    let mut more = cursor.seek_first();
    let mut all = Vec::new();
    while more {
        all.push((cursor.key().to_vec(), cursor.value().to_vec()));
        more = cursor.next();
    }
    all
}

pub fn from_hex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "hex digits come in pairs");
    (0..text.len() / 2)
        .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).expect("hex digits"))
        .collect()
}
