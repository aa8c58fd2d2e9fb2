//! Writing: puts, deletes, and the deletes of a revoked lease.
//!
//! One request is one revision at most; the changes in it are numbered from 0. A put costs one lookup and one
//! replacement in `LIVE`, one insertion in `HISTORY` (the old cell moves there as it is, a long value without its
//! bytes being touched) and one at the right edge of `CHANGES`.
//!
//! Invariants:
//! - What can be refused is refused before the first change: after that nothing fails. The caller has reserved room
//!   ([`crate::quota::room`], law 8).
//! - What is done depends on the state and the request alone (law 9). Whether events or answers are collected
//!   changes neither the state nor the header.

use base::{LeaseId, Revision};
use proto::Error;
use proto::errors;
use proto::etcdserverpb as pb;
use proto::mvccpb::KeyValue;
use tree::{Store, View};

use crate::cell::{Cell, Fields};
use crate::event::EventBatch;
use crate::span::Span;
use crate::stamp::{self, Revisions};
use crate::trees::{self, CHANGES, HISTORY, Kind, LEASE_KEYS, LEASES, LIVE};
use crate::versions;

/// Keys that a delete gathers before it changes anything: bounds its memory.
const DELETE_CHUNK: usize = 256;

/// What outlives one request: buffers that are used again, and the events of the batch.
pub struct Work {
    /// Filled when `collect` is set; [`EventBatch::take`] it after each published batch.
    pub events: EventBatch,
    /// Somebody watches.
    pub collect: bool,
    /// Somebody waits for the answer. When not, ranges inside a Txn are not executed and previous pairs are left out
    /// of answers, as etcd does on members that did not take the request.
    pub answers: bool,
    pub(crate) scratch: Scratch,
}

impl Default for Work {
    fn default() -> Work {
        Work { events: EventBatch::new(), collect: true, answers: true, scratch: Scratch::default() }
    }
}

#[derive(Default)]
pub(crate) struct Scratch {
    cell: Vec<u8>,
    key: Vec<u8>,
    change: Vec<u8>,
    pub gathered: Gathered,
    pub path: Vec<bool>,
}

/// Byte strings in one buffer.
#[derive(Default)]
pub(crate) struct Gathered {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Gathered {
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    pub fn push(&mut self, item: &[u8]) {
        self.bytes.extend_from_slice(item);
        self.ends.push(self.bytes.len());
    }

    /// Two strings as one item.
    pub fn push_pair(&mut self, first: &[u8], second: &[u8]) {
        self.bytes.extend_from_slice(first);
        self.push(second);
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn get(&self, i: usize) -> &[u8] {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.bytes[start..self.ends[i]]
    }
}

/// The store while requests are applied to it, one after the other.
pub struct Apply<'s> {
    pub(crate) store: &'s mut Store,
    pub(crate) work: &'s mut Work,
    /// The revision before the request under way.
    begin: i64,
    /// Changes that this request has made.
    changes: u32,
}

/// What was there before a change.
struct Superseded {
    revision: Revision,
    lease: LeaseId,
}

impl<'s> Apply<'s> {
    pub fn new(store: &'s mut Store, work: &'s mut Work) -> Apply<'s> {
        let begin = Revisions::of(store.stamp()).current;
        Apply { store, work, begin, changes: 0 }
    }

    /// The newest revision, that of the changes under way included.
    pub fn revision(&self) -> i64 {
        self.begin + i64::from(self.changes > 0)
    }

    /// What reads inside this request see.
    pub(crate) fn revisions(&self) -> Revisions {
        Revisions { current: self.revision(), ..Revisions::of(self.store.stamp()) }
    }

    pub fn view(&self) -> View<'_> {
        self.store.view()
    }

    /// Ends the request: what it changed is a revision.
    pub(crate) fn commit(&mut self) {
        if self.changes > 0 {
            self.begin += 1;
            self.changes = 0;
            stamp::set_current(self.store, self.begin);
        }
        assert!(stamp::current(self.store.stamp()) == self.begin, "the stamp has the revision");
    }

    /// Writes one key. Errors: no such lease; no such key, when its value or lease is to be kept.
    pub fn put(&mut self, request: &pb::PutRequest) -> Result<pb::PutResponse, Error> {
        assert!(self.changes == 0, "the request before has ended");
        check_put(self.store.view(), request)?;
        let response = self.put_unchecked(request);
        self.commit();
        Ok(response)
    }

    /// A put whose conditions were checked.
    pub(crate) fn put_unchecked(&mut self, request: &pb::PutRequest) -> pb::PutResponse {
        let prev_kv = self.write(request);
        if base::bug!(TxnSplit) {
            self.commit();
        }
        pb::PutResponse { header: header(self.revision()), prev_kv }
    }

    fn next_change(&mut self) -> Revision {
        let revision = Revision::new(self.begin + 1, i64::from(self.changes));
        assert!(self.changes < u32::MAX, "a revision has fewer than 2^32 changes");
        self.changes += 1;
        revision
    }

    fn write(&mut self, request: &pb::PutRequest) -> Option<KeyValue> {
        let key = request.key.as_slice();
        let revision = self.next_change();
        let (main, sub) = (revision.main, revision.sub as u32);
        let Work { events, collect, answers, scratch } = &mut *self.work;
        let view = self.store.view();
        let old = versions::newest(view, key).map(Cell::kv);
        assert!(old.is_some() || !(request.ignore_value || request.ignore_lease), "checked before");
        let (create, version, old_value, old_lease) =
            old.map_or((main, 1, &[][..], 0), |old| (old.create, old.version + 1, old.value, old.lease));
        let fields = Fields {
            key,
            create,
            mod_: main,
            version,
            value: if request.ignore_value { old_value } else { &request.value },
            lease: if request.ignore_lease { old_lease } else { request.lease },
        };
        scratch.cell.clear();
        fields.push_cell(sub, &mut scratch.cell);
        if *collect {
            let created = create == main;
            let prev = match old {
                Some(old) if !created && old.mod_ < main => Some(old.wire),
                Some(_) if !created => versions::superseded_at(view, key, main - 1).map(Cell::wire),
                _ => None,
            };
            events.push_put(revision, created, key, Cell::new(&scratch.cell).wire(), prev);
        }
        let answer = old.filter(|_| request.prev_kv && *answers).map(|old| old.to_message());
        let lease = fields.lease;
        let superseded = old.map(|old| Superseded { revision: old.revision(), lease: old.lease });

        let taken = self.store.replace(LIVE, key, &scratch.cell);
        match (taken, &superseded) {
            (Some(taken), Some(old)) => {
                trees::supersede(self.store, &mut scratch.key, key, old.revision, revision, taken);
            }
            (None, None) => {}
            _ => panic!("a lookup and a replacement of one key agree"),
        }
        self.record(revision, Kind::Put, key);
        let old_lease = superseded.map_or(0, |old| old.lease);
        if old_lease != lease {
            self.move_lease(key, old_lease, lease);
        }
        answer
    }

    /// Notes the change in `CHANGES`.
    fn record(&mut self, revision: Revision, kind: Kind, key: &[u8]) {
        let change = &mut self.work.scratch.change;
        change.clear();
        change.push(kind as u8);
        change.extend_from_slice(key);
        self.store.insert(CHANGES, &revision.to_bytes(), change);
    }

    fn move_lease(&mut self, key: &[u8], from: LeaseId, to: LeaseId) {
        assert!(from != to, "a lease that stays is not moved");
        let item = &mut self.work.scratch.key;
        if from != 0 && (to == 0 || !base::bug!(KeyKeepsOldLease)) {
            trees::lease_item_key(item, from, key);
            self.store.remove(LEASE_KEYS, item);
        }
        if to != 0 {
            trees::lease_item_key(item, to, key);
            self.store.insert(LEASE_KEYS, item, &[]);
        }
    }

    /// Removes a key or a span of keys.
    pub fn delete_range(&mut self, request: &pb::DeleteRangeRequest) -> pb::DeleteRangeResponse {
        assert!(self.changes == 0, "the request before has ended");
        let response = self.delete_range_in_txn(request);
        self.commit();
        response
    }

    pub(crate) fn delete_range_in_txn(
        &mut self,
        request: &pb::DeleteRangeRequest,
    ) -> pb::DeleteRangeResponse {
        let span = Span::new(&request.key, &request.range_end);
        let mut prev_kvs = Vec::new();
        let wanted = (request.prev_kv && self.work.answers).then_some(&mut prev_kvs);
        let deleted = self.delete_span(span, wanted);
        pb::DeleteRangeResponse { header: header(self.revision()), deleted, prev_kvs }
    }

    fn delete_span(&mut self, span: Span<'_>, mut prev: Option<&mut Vec<KeyValue>>) -> i64 {
        if span.is_single() {
            if versions::newest(self.store.view(), span.start).is_none() {
                return 0;
            }
            self.delete(span.start, prev);
            return 1;
        }
        let mut deleted = 0;
        loop {
            let mut gathered = std::mem::take(&mut self.work.scratch.gathered);
            gathered.clear();
            let mut cursor = self.store.view().cursor(LIVE);
            let mut more = cursor.seek(span.start);
            while more && gathered.len() < DELETE_CHUNK && span.reaches(cursor.key()) {
                gathered.push(cursor.key());
                more = cursor.next();
            }
            for i in 0..gathered.len() {
                self.delete(gathered.get(i), prev.as_deref_mut());
            }
            let chunk = gathered.len();
            self.work.scratch.gathered = gathered;
            deleted += chunk as i64;
            if chunk < DELETE_CHUNK {
                return deleted;
            }
        }
    }

    /// Deletes a key that exists.
    fn delete(&mut self, key: &[u8], prev: Option<&mut Vec<KeyValue>>) {
        let revision = self.next_change();
        let Work { events, collect, scratch, .. } = &mut *self.work;
        let view = self.store.view();
        let Some(old) = versions::newest(view, key).map(Cell::kv) else {
            panic!("only what exists is deleted")
        };
        if *collect {
            let before = if old.mod_ < revision.main {
                Some(old.wire)
            } else {
                versions::superseded_at(view, key, revision.main - 1).map(Cell::wire)
            };
            events.push_delete(revision, key, before);
        }
        if let Some(prev) = prev {
            prev.push(old.to_message());
        }
        let (old_revision, old_lease) = (old.revision(), old.lease);
        let Some(taken) = self.store.take(LIVE, key) else {
            panic!("a lookup and a removal of one key agree")
        };
        trees::supersede(self.store, &mut scratch.key, key, old_revision, revision, taken);
        trees::history_key(&mut scratch.key, key, revision);
        self.store.insert(HISTORY, &scratch.key, &[]);
        self.record(revision, Kind::Delete, key);
        if old_lease != 0 && !base::bug!(DeletedKeyKeepsLease) {
            self.move_lease(key, old_lease, 0);
        }
    }

    /// Deletes every key that a lease holds, in byte order and in one revision; how many there were. Without keys
    /// there is no revision. The lease's own entry is the caller's to remove.
    pub fn delete_keys_of_lease(&mut self, id: LeaseId) -> i64 {
        assert!(self.changes == 0, "the request before has ended");
        let mut deleted = 0;
        loop {
            let mut gathered = std::mem::take(&mut self.work.scratch.gathered);
            gathered.clear();
            for key in trees::keys_of_lease(self.store.view(), id).take(DELETE_CHUNK) {
                gathered.push(key);
            }
            for i in 0..gathered.len() {
                self.delete(gathered.get(i), None);
                if base::bug!(LeaseKeysOneByOne) {
                    self.commit();
                }
            }
            let chunk = gathered.len();
            self.work.scratch.gathered = gathered;
            deleted += chunk as i64;
            if chunk < DELETE_CHUNK {
                break;
            }
        }
        self.commit();
        deleted
    }
}

/// A header with the revision alone; who answers fills the rest.
pub(crate) fn header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { revision, ..Default::default() })
}

/// The conditions of a put, against the state before the request.
pub(crate) fn check_put(view: View<'_>, request: &pb::PutRequest) -> Result<(), Error> {
    if request.lease != 0 && view.get(LEASES, &trees::lease_key(request.lease)).is_none() {
        return Err(errors::LEASE_NOT_FOUND);
    }
    if (request.ignore_value || request.ignore_lease) && versions::newest(view, &request.key).is_none() {
        return Err(errors::KEY_NOT_FOUND);
    }
    Ok(())
}
