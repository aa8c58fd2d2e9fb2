//! What a request costs: against the space quota, as etcd counts it, and in pages of the data file (law 8).

use base::LeaseId;
use pb::request_op::Request;
use proto::etcdserverpb as pb;
use tree::{Store, TreeId};

use crate::span::Span;
use crate::trees::{self, CHANGES, HISTORY, LEASE_KEYS, LIVE, SUPERSEDED};
use crate::versions;

/// What etcd adds for a key's own records, bytes.
pub const KEY_OVERHEAD: u64 = 256;
/// What a lease costs, bytes.
pub const LEASE_COST: u64 = 64;
/// The quota when none is set, bytes.
pub const DEFAULT_BYTES: u64 = 2 << 30;

/// Cost of a put, bytes.
pub fn put_cost(request: &pb::PutRequest) -> u64 {
    KEY_OVERHEAD + request.key.len() as u64 + request.value.len() as u64
}

/// Cost of a transaction: that of its larger branch, bytes.
pub fn txn_cost(request: &pb::TxnRequest) -> u64 {
    let branch = |ops: &[pb::RequestOp]| -> u64 {
        ops.iter()
            .map(|op| match &op.request {
                Some(Request::RequestPut(put)) => put_cost(put),
                Some(Request::RequestTxn(txn)) => txn_cost(txn),
                _ => 0,
            })
            .sum()
    };
    branch(&request.success).max(branch(&request.failure))
}

/// Whether a request of this cost may go on. What costs nothing always may; a negative quota is none, 0 the default.
pub fn available(cost: u64, size_bytes: u64, quota_bytes: i64) -> bool {
    let quota = match quota_bytes {
        ..0 => return true,
        0 => DEFAULT_BYTES,
        set => set as u64,
    };
    cost == 0 || size_bytes.saturating_add(cost) < quota
}

/// Whether the transaction puts anything, in either branch: what a NOSPACE alarm refuses.
pub fn has_put(request: &pb::TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).any(|op| match &op.request {
        Some(Request::RequestPut(_)) => true,
        Some(Request::RequestTxn(txn)) => has_put(txn),
        _ => false,
    })
}

/// A page, bytes; also more than any cell that stands in one: a cell that moves to `SUPERSEDED` may need a
/// run of its own.
const PAGE: u64 = base::limits::BLOCK_BYTES as u64;
/// Bytes of a cell beside key and value: tags, lengths, five numbers, sub revision.
const CELL_OVERHEAD: usize = 80;
/// Entry overheads that one deleted key causes in all trees together, bytes: slots, tags, revisions.
const DELETE_OVERHEAD: u64 = 128;

/// Page space that a request can take at most, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// All of it: the measure of [`Store::reserve`].
    pub bytes: u64,
    /// So much of it are runs of several pages, which need them side by side: the measure of [`Store::hold`].
    pub run_bytes: u64,
}

impl Room {
    /// Of single pages, wherever they lie.
    pub fn scattered(bytes: u64) -> Room {
        Room { bytes, run_bytes: 0 }
    }

    fn insert(store: &Store, tree: TreeId, key_len: usize, value_len: usize) -> Room {
        Room {
            bytes: store.insert_cost(tree, key_len, value_len),
            run_bytes: store.run_cost(key_len, value_len),
        }
    }

    fn and(self, other: Room) -> Room {
        Room { bytes: self.bytes + other.bytes, run_bytes: self.run_bytes + other.run_bytes }
    }

    fn or(self, other: Room) -> Room {
        // Either may be what happens: what is held for the runs of one is no single page of the other.
        let run_bytes = self.run_bytes.max(other.run_bytes);
        let scattered = |room: Room| room.bytes - room.run_bytes;
        Room { bytes: run_bytes + scattered(self).max(scattered(other)), run_bytes }
    }
}

/// For a put. `leased`: it names a lease.
pub fn room_for_put(store: &Store, key_len: usize, value_len: usize, leased: bool) -> Room {
    let mut room = Room::insert(store, LIVE, key_len, key_len + value_len + CELL_OVERHEAD)
        .and(Room::insert(store, HISTORY, key_len + 16, 16))
        // A run moves as it is; what stood in a page finds room in one.
        .and(Room::scattered(store.insert_cost(SUPERSEDED, 16, PAGE as usize)))
        .and(Room::insert(store, CHANGES, 16, key_len + 1));
    // The key may leave a lease, and join one.
    let leaves = !store.view().is_empty(LEASE_KEYS);
    for _ in 0..u32::from(leaves) + u32::from(leased) {
        room = room.and(Room::insert(store, LEASE_KEYS, key_len + 8, 0));
    }
    room
}

/// For the delete of a span, as the store stands. Looks at each of its keys, not at the values.
pub fn room_for_delete(store: &Store, request: &pb::DeleteRangeRequest) -> Room {
    let span = Span::new(&request.key, &request.range_end);
    let mut cursor = store.view().cursor(LIVE);
    let mut deletes = Deletes::default();
    let mut more = cursor.seek(span.start);
    while more && span.reaches(cursor.key()) {
        deletes.add(cursor.key().len(), cursor.value().len());
        more = cursor.next();
    }
    deletes.room(store)
}

/// For the keys of a lease.
pub fn room_for_revoke(store: &Store, id: LeaseId) -> Room {
    let mut deletes = Deletes::default();
    for key in trees::keys_of_lease(store.view(), id) {
        deletes.add(key.len(), stored_len(store, key));
    }
    deletes.room(store)
}

/// What the keys of one delete amount to.
#[derive(Default)]
struct Deletes {
    keys: u64,
    longest: usize,
    /// Bytes that move into `SUPERSEDED` or are new in `HISTORY` and `CHANGES`; a cell in a run of its own moves free.
    bytes: u64,
}

impl Deletes {
    fn add(&mut self, key_len: usize, cell_len: usize) {
        self.keys += 1;
        self.longest = self.longest.max(key_len);
        self.bytes += 3 * key_len as u64 + (cell_len as u64).min(PAGE) + DELETE_OVERHEAD;
    }

    fn room(&self, store: &Store) -> Room {
        let key_len = self.longest;
        let path = store.insert_cost(LIVE, key_len, 0)
            + 2 * store.insert_cost(HISTORY, key_len + 16, 16)
            + store.insert_cost(SUPERSEDED, 16, PAGE as usize)
            + store.insert_cost(CHANGES, 16, key_len + 1)
            + store.insert_cost(LEASE_KEYS, key_len + 8, 0);
        // One at a time they cost a path each. Many share them: pages of `LIVE` empty as the delete goes on and are
        // used again; of `HISTORY` and `LEASE_KEYS` each touched page is copied once, no more than there are; what is
        // added stands in pages at least half full.
        let leased = self.keys.min(store.view().len(LEASE_KEYS));
        let copied = ((3 * self.keys + 2 * leased) * PAGE).min(store.used_bytes());
        Room::scattered(self.keys.saturating_mul(path).min(path + copied + 2 * self.bytes))
    }
}

/// For a transaction, along its costlier branch. `kept_len`: as in [`room`].
pub fn room_for_txn(store: &Store, request: &pb::TxnRequest, kept_len: usize) -> Room {
    let branch = |ops: &[pb::RequestOp]| -> Room {
        ops.iter()
            .map(|op| match &op.request {
                Some(Request::RequestPut(put)) => room_for_put_as_is(store, put, kept_len),
                Some(Request::RequestDeleteRange(delete)) => room_for_delete(store, delete),
                Some(Request::RequestTxn(txn)) => room_for_txn(store, txn, kept_len),
                _ => Room::default(),
            })
            .fold(Room::default(), Room::and)
    };
    branch(&request.success).or(branch(&request.failure))
}

/// For a put as it was sent: a value that is kept is stored again.
pub fn room_for_put_as_is(store: &Store, put: &pb::PutRequest, kept_len: usize) -> Room {
    let value_len =
        if put.ignore_value { stored_len(store, &put.key).max(kept_len) } else { put.value.len() };
    room_for_put(store, put.key.len(), value_len, put.lease != 0 || put.ignore_lease)
}

fn stored_len(store: &Store, key: &[u8]) -> usize {
    versions::newest(store.view(), key).map_or(0, |cell| cell.stored().len())
}

/// The longest value that a request puts, bytes.
pub fn longest_value(ops: &[pb::RequestOp]) -> usize {
    let longest = ops.iter().map(|op| match &op.request {
        Some(Request::RequestPut(put)) => put.value.len(),
        Some(Request::RequestTxn(txn)) => longest_value(&txn.success).max(longest_value(&txn.failure)),
        _ => 0,
    });
    longest.max().unwrap_or(0)
}

/// Page space that applying a request can take at most; none for a request that writes no keys. `kept_len`: bytes of
/// the longest value that requests before it put, which are accepted and not yet applied: it may keep that.
pub fn room(store: &Store, request: &pb::InternalRaftRequest, kept_len: usize) -> Room {
    let mut room = Room::default();
    if let Some(put) = &request.put {
        room = room.and(room_for_put_as_is(store, put, kept_len));
    }
    if let Some(delete) = &request.delete_range {
        room = room.and(room_for_delete(store, delete));
    }
    if let Some(txn) = &request.txn {
        room = room.and(room_for_txn(store, txn, kept_len));
    }
    if let Some(revoke) = &request.lease_revoke {
        room = room.and(room_for_revoke(store, revoke.id));
    }
    room
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(value: usize) -> pb::RequestOp {
        let put = pb::PutRequest { key: b"k".to_vec(), value: vec![0; value], ..Default::default() };
        pb::RequestOp { request: Some(Request::RequestPut(put)) }
    }

    fn nested(txn: pb::TxnRequest) -> pb::RequestOp {
        pb::RequestOp { request: Some(Request::RequestTxn(txn)) }
    }

    #[test]
    fn a_txn_costs_its_larger_branch() {
        let inner =
            pb::TxnRequest { success: vec![put(10)], failure: vec![put(3), put(3)], ..Default::default() };
        assert_eq!(txn_cost(&inner), 2 * 257 + 6);
        let outer = pb::TxnRequest {
            success: vec![put(1000)],
            failure: vec![nested(inner.clone()), put(0)],
            ..Default::default()
        };
        assert_eq!(txn_cost(&outer), 1257);
        assert!(has_put(&outer) && has_put(&inner));
        let delete = pb::RequestOp { request: Some(Request::RequestDeleteRange(Default::default())) };
        let deletes = pb::TxnRequest { success: vec![delete], ..Default::default() };
        assert_eq!(txn_cost(&deletes), 0);
        assert!(!has_put(&deletes));
    }

    /// One branch has a long value, the other many short ones: whichever is taken finds what it needs, pages side by side
    /// and pages anywhere.
    #[test]
    fn the_room_of_either_branch_is_there() {
        let room = |bytes, run_bytes| Room { bytes, run_bytes };
        let (long, short) = (room(100, 90), room(120, 10));
        for either in [long.or(short), short.or(long)] {
            assert_eq!(either, room(90 + 110, 90));
            assert!(either.run_bytes >= 90 && either.bytes - either.run_bytes >= 110);
        }
        assert_eq!(long.or(Room::default()), long);
    }

    #[test]
    fn the_quota_is_a_strict_bound_that_free_requests_ignore() {
        assert!(available(10, 89, 100));
        assert!(!available(10, 90, 100));
        assert!(available(0, 1000, 100));
        assert!(available(10, u64::MAX, -1));
        assert!(available(1, DEFAULT_BYTES - 2, 0) && !available(1, DEFAULT_BYTES - 1, 0));
    }
}
