//! Giving up history: the request moves the compacted revision, steps remove what nobody can read any more.
//!
//! Removal walks `CHANGES` only, over (previous, c] and, for its tombstones, the previous c itself. Each change
//! removes what it superseded: the one entry of its key that stands before it in `HISTORY`, and that entry's change.
//! A delete below c removes itself too; one exactly at c stays until the next compaction, as in etcd (watchers that
//! start at c must see it), also when the same revision put the key again. What survives keeps its entry in `CHANGES`: hash and export need it. So the cost is that
//! of the changes since the last compaction, however large the store.
//!
//! Invariants:
//! - A key has at most one entry in `HISTORY` or `LIVE` at or below the revision up to which removal is finished, deletes
//!   at that very revision aside.
//! - Removal never looks at a change above the compacted revision.

use base::Revision;
use proto::Error;
use proto::errors;
use proto::etcdserverpb as pb;
use tree::Store;

use crate::apply::{Apply, Gathered, header};
use crate::stamp::{self, CURSOR_MAIN, CURSOR_SUB, FINISHED, REMOVED, Revisions};
use crate::trees::{self, CHANGES, HISTORY, Kind, SUPERSEDED};

/// A compaction that was accepted.
#[derive(Clone, Debug, PartialEq)]
pub struct Compaction {
    pub response: pb::CompactionResponse,
    pub revision: i64,
    /// The compacted revision before.
    pub previous: i64,
    /// The removal of the compaction before was complete. Only then is the hash of this one kept
    /// ([`crate::hash::CompactionHashes`]).
    pub previous_finished: bool,
}

impl Apply<'_> {
    /// Moves the compacted revision. Errors: compacted, when it is there already; future.
    pub fn compact(&mut self, request: &pb::CompactionRequest) -> Result<Compaction, Error> {
        let revisions = Revisions::of(self.store.stamp());
        assert!(revisions.current == self.revision(), "the request before has ended");
        if request.revision <= revisions.compacted {
            return Err(errors::COMPACTED);
        }
        if request.revision > revisions.current {
            return Err(errors::FUTURE_REV);
        }
        let previous_finished = !stamp::removal_pending(self.store.stamp());
        begin(self.store, request.revision);
        let response = pb::CompactionResponse { header: header(revisions.current) };
        Ok(Compaction {
            response,
            revision: request.revision,
            previous: revisions.compacted,
            previous_finished,
        })
    }

    /// Looks at up to `limit` changes and removes what they superseded; true while there is more to do.
    pub fn compaction_step(&mut self, limit: usize) -> bool {
        self.compaction_step_below(limit, i64::MAX)
    }

    /// As [`Apply::compaction_step`], but leaves everything that a read at `held` or above needs: for producers that
    /// began before the compaction. False when that is all that can be done for now.
    pub fn compaction_step_below(&mut self, limit: usize, held: i64) -> bool {
        let mut gathered = std::mem::take(&mut self.work.scratch.gathered);
        let more = step(self.store, limit, held, &mut gathered);
        self.work.scratch.gathered = gathered;
        more
    }
}

/// Sets the removal to work towards `revision`.
pub(crate) fn begin(store: &mut Store, revision: i64) {
    let mut stamp = *store.stamp();
    let previous = stamp[stamp::COMPACTED] as i64;
    assert!(previous < revision && revision <= stamp[stamp::CURRENT] as i64, "checked before");
    // Tombstones exactly at the previous revision were spared; they are not any more.
    let again = Revision::new(previous.max(0), 0);
    let cursor = stamp::removal_cursor(&stamp).min(again);
    stamp[CURSOR_MAIN] = cursor.main as u64;
    stamp[CURSOR_SUB] = cursor.sub as u64;
    stamp[stamp::COMPACTED] = revision as u64;
    store.set_stamp(stamp);
}

fn step(store: &mut Store, limit: usize, held: i64, gathered: &mut Gathered) -> bool {
    assert!(limit > 0, "a step makes progress");
    let mut stamp = *store.stamp();
    if !stamp::removal_pending(&stamp) {
        return false;
    }
    let target = stamp::compacted(&stamp) + i64::from(base::bug!(CompactionOffByOne));
    let start = stamp::removal_cursor(&stamp);
    let mut seen: Option<Revision> = None;
    let mut exhausted = false;
    let mut blocked = false;
    gathered.clear();
    {
        let mut cursor = store.view().cursor(CHANGES);
        let mut valid = cursor.seek(&start.to_bytes());
        loop {
            if !valid || trees::change_revision(cursor.key()).main > target {
                exhausted = true;
                break;
            }
            let revision = trees::change_revision(cursor.key());
            if revision.main > held {
                blocked = true;
                break;
            }
            if gathered.len() == limit {
                break;
            }
            // The revision's bytes and the change stand one behind the other.
            gathered.push_pair(cursor.key(), cursor.value());
            seen = Some(revision);
            valid = cursor.next();
        }
    }
    let mut key_buffer = Vec::new();
    for i in 0..gathered.len() {
        let (revision, change) = gathered.get(i).split_at(Revision::BYTES);
        let revision = trees::change_revision(revision);
        let (kind, key) = trees::split_change(change);
        remove_superseded(store, key, revision, target, &mut key_buffer);
        if kind == Kind::Delete && (revision.main < target || base::bug!(TombstoneLost)) {
            // Gone already when a later change of the same step superseded it; changes come in order, so not yet.
            remove_version(store, key, revision, &mut key_buffer);
        }
    }
    if let Some(seen) = seen {
        stamp[CURSOR_MAIN] = seen.main as u64;
        stamp[CURSOR_SUB] = (seen.sub + 1) as u64;
        stamp[REMOVED] = seen.main.max(stamp[REMOVED] as i64) as u64;
    }
    if exhausted {
        stamp[FINISHED] = target as u64;
        stamp[stamp::CURRENT] =
            if base::bug!(RevisionBackAfterRemoval) { target as u64 } else { stamp[stamp::CURRENT] };
        stamp[CURSOR_MAIN] = target as u64;
        stamp[CURSOR_SUB] = 0;
        stamp[REMOVED] = target.max(stamp[REMOVED] as i64) as u64;
    }
    // A step that was held up at once changes nothing at all.
    if stamp != *store.stamp() {
        store.set_stamp(stamp);
    }
    !exhausted && !blocked
}

/// Removes what the change at `revision` superseded, if that is still there and no tombstone at `target`.
fn remove_superseded(store: &mut Store, key: &[u8], revision: Revision, target: i64, buffer: &mut Vec<u8>) {
    let of_key = |found: bool, cursor: &tree::Cursor<'_>| {
        let entry = found.then(|| trees::split_history_key(cursor.key()));
        entry.filter(|(found, _)| *found == key).map(|(_, revision)| revision)
    };
    loop {
        trees::history_key(buffer, key, revision);
        let mut cursor = store.view().cursor(HISTORY);
        let found = cursor.seek_before(buffer);
        let Some(older) = of_key(found, &cursor) else { return };
        assert!(older < revision, "what stands before is older");
        if older.main >= target && cursor.value().is_empty() {
            // What came before it went with it.
            return;
        }
        // One is what there should be; a file from elsewhere may have left more.
        let found = cursor.prev();
        let another = of_key(found, &cursor).is_some();
        remove_version(store, key, older, buffer);
        if !another {
            return;
        }
    }
}

fn remove_version(store: &mut Store, key: &[u8], revision: Revision, buffer: &mut Vec<u8>) {
    trees::history_key(buffer, key, revision);
    let by = store.view().get(HISTORY, buffer).and_then(Revision::from_bytes);
    let cell = by.is_none_or(|by| store.remove(SUPERSEDED, &by.to_bytes()));
    assert!(cell, "what history names is there: {revision:?}");
    let version = store.remove(HISTORY, buffer);
    let change = store.remove(CHANGES, &revision.to_bytes());
    assert!(version && change, "a superseded version has its change: {revision:?}");
}
