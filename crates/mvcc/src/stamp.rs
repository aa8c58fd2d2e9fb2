//! The words of the tree's stamp: what stands beside the roots in the same meta record (law 7).
//!
//! The meaning of a word never changes; words from [`FREE`] on belong to nobody yet. A fresh store's stamp is all
//! zeros: [`initialise`] must run once before anything else reads it.

use base::{Index, Revision, Term};
use tree::{Stamp, Store};

/// Raft index of the last applied entry.
pub const APPLIED_INDEX: usize = 0;
/// Its term.
pub const APPLIED_TERM: usize = 1;
/// The current revision, i64; 1 in an empty store.
pub const CURRENT: usize = 2;
/// The compacted revision, i64; -1 before the first compaction. Moves when the request is applied.
pub const COMPACTED: usize = 3;
/// Where the removal goes on: main and sub revision of the next change to look at.
pub const CURSOR_MAIN: usize = 4;
pub const CURSOR_SUB: usize = 5;
/// The compacted revision up to which removal is complete, i64; -1 at first.
pub const FINISHED: usize = 6;
/// The highest main revision whose changes the removal has looked at, i64; -1 at first. What was readable at it and
/// above is untouched.
pub const REMOVED: usize = 7;
/// The first word without a meaning.
pub const FREE: usize = 8;

/// The bounds within which revisions can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revisions {
    /// The newest.
    pub current: i64,
    /// The oldest that reads may ask for; -1 when nothing was ever compacted.
    pub compacted: i64,
}

impl Revisions {
    pub fn of(stamp: &Stamp) -> Revisions {
        let revisions = Revisions { current: stamp[CURRENT] as i64, compacted: stamp[COMPACTED] as i64 };
        assert!(revisions.current >= 1, "the stamp was initialised");
        assert!(revisions.compacted <= revisions.current, "compaction never passes the newest revision");
        revisions
    }
}

/// Gives a fresh store revision 1, nothing compacted. True when the store was fresh.
pub fn initialise(store: &mut Store) -> bool {
    let mut stamp = *store.stamp();
    if stamp[CURRENT] != 0 {
        return false;
    }
    stamp[CURRENT] = 1;
    for word in [COMPACTED, FINISHED, REMOVED] {
        stamp[word] = -1i64 as u64;
    }
    store.set_stamp(stamp);
    true
}

pub fn current(stamp: &Stamp) -> i64 {
    stamp[CURRENT] as i64
}

pub fn compacted(stamp: &Stamp) -> i64 {
    stamp[COMPACTED] as i64
}

/// The compacted revision whose removal is complete.
pub fn finished(stamp: &Stamp) -> i64 {
    stamp[FINISHED] as i64
}

/// Whether [`crate::Apply::compaction_step`] has work.
pub fn removal_pending(stamp: &Stamp) -> bool {
    stamp[FINISHED] != stamp[COMPACTED]
}

/// Where the removal goes on.
pub fn removal_cursor(stamp: &Stamp) -> Revision {
    Revision::new(stamp[CURSOR_MAIN] as i64, stamp[CURSOR_SUB] as i64)
}

/// Whether every version that a read at `revision` needs is still there, though `revision` may be compacted:
/// for a producer that began before the compaction.
pub fn intact_at(stamp: &Stamp, revision: i64) -> bool {
    revision >= stamp[REMOVED] as i64
}

pub fn applied(stamp: &Stamp) -> (Index, Term) {
    (stamp[APPLIED_INDEX], stamp[APPLIED_TERM])
}

/// Notes that the entry at `index` is applied.
pub fn set_applied(store: &mut Store, index: Index, term: Term) {
    let mut stamp = *store.stamp();
    assert!(
        index > stamp[APPLIED_INDEX],
        "entries are applied once and in order: {index} after {}",
        stamp[0]
    );
    assert!(term >= stamp[APPLIED_TERM], "terms never fall along the log");
    stamp[APPLIED_INDEX] = index;
    stamp[APPLIED_TERM] = term;
    store.set_stamp(stamp);
}

pub(crate) fn set_current(store: &mut Store, revision: i64) {
    let mut stamp = *store.stamp();
    assert!(revision > stamp[CURRENT] as i64, "the revision only grows");
    stamp[CURRENT] = revision as u64;
    store.set_stamp(stamp);
}

/// Sets the bounds of a store that is filled from elsewhere.
pub(crate) fn set_imported(store: &mut Store, current: i64, compacted: i64) {
    assert!(current >= 1 && compacted <= current, "bounds are in order: {compacted}..={current}");
    let mut stamp = *store.stamp();
    stamp[CURRENT] = current as u64;
    for word in [COMPACTED, FINISHED, REMOVED] {
        stamp[word] = compacted as u64;
    }
    stamp[CURSOR_MAIN] = compacted.max(0) as u64;
    stamp[CURSOR_SUB] = 0;
    store.set_stamp(stamp);
}
