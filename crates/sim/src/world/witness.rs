//! Sees every revision that a process publishes, as it is published, and enters its changes into the history: so that
//! the checkers can tell what became of calls whose outcome nobody learned, and what a restart brought back.
//!
//! A new process is looked at as a whole first, as far as history reaches: what was seen before must be there again.
//! No change is missed: a compaction takes what is at or below the revision that it names, and whoever names a
//! revision has seen it after it was published.

use crate::history::{Bytes, Event, Kind, Kv};
use mvcc::Revisions;
use mvcc::changes::changes;

use super::Env;
use super::trace::{self, What};

pub(super) struct Witness {
    reader: tree::Reader,
    /// The next revision to look at; 0 before the first look.
    next: i64,
    applied: u64,
}

impl Witness {
    pub fn new(reader: tree::Reader) -> Witness {
        Witness { reader, next: 0, applied: 0 }
    }

    pub fn snapshot(&self) -> tree::Snapshot {
        self.reader.pin()
    }

    /// After a turn of the log core.
    pub fn look(&mut self, env: &mut Env, member: u32, published: &replica::Published) {
        let applied = published.applied();
        if applied == self.applied {
            return;
        }
        self.applied = applied;
        let snapshot = self.reader.pin();
        let revisions = Revisions::of(snapshot.stamp());
        trace::note(What::Published { member, revision: revisions.current, applied });
        env.causes.compacted(env.now_us, revisions.compacted);
        if self.next == 0 {
            // The state that was recovered is not shown to be right before the log was applied.
            if !published.read_ready() {
                return;
            }
            self.next = (revisions.compacted + 1).max(2);
        }
        if self.next > revisions.current {
            return;
        }
        let (first, last) = (self.next, revisions.current);
        self.next = last + 1;
        let events = changes(snapshot.view(), first, last).map(|change| event(&change)).collect();
        let at_us = env.history_us();
        env.history.dump(at_us, first, last, events);
    }
}

fn event(change: &mvcc::changes::Change<'_>) -> Event {
    let bytes = |of: &[u8]| Bytes::from(of);
    match change.cell() {
        Some(cell) => {
            let kv = cell.kv();
            let kv = Kv {
                key: bytes(kv.key),
                value: bytes(kv.value),
                create: kv.create,
                modified: kv.mod_,
                version: kv.version,
                lease: kv.lease,
            };
            Event { kind: Kind::Put, kv, prev: None }
        }
        None => {
            let kv = Kv { key: bytes(change.key), modified: change.revision.main, ..Kv::default() };
            Event { kind: Kind::Delete, kv, prev: None }
        }
    }
}
