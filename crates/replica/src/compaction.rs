//! Compactions under way: the hash first, then removal in steps, then whoever waited for the physical end.
//!
//! Removal is local and not replicated: each member removes at its own pace what is no longer readable. Its cursor
//! stands in the stamp, so that a crash resumes it (law 7). A compaction that is accepted while another is being
//! removed joins its removal and has no hash of its own, as in etcd.
//!
//! Whoever began to read before a compaction reads on: a hash and an export by their pins, a watcher that is behind up
//! to the compacted revision, as in etcd, and a range that is produced piece by piece, and lets its pin go on the way,
//! because removal stops short of the revision that it reads ([`crate::Published::hold_history`]).

use base::CallToken;
use mvcc::trees::{CHANGES, HISTORY, SUPERSEDED};
use proto::Error;
use proto::etcdserverpb as pb;

use crate::event::{Action, HashJob, Note, Response};
use crate::state::State;

#[derive(Default)]
pub(crate) struct Compactions {
    /// Accepted when nothing was being removed; its hash is not begun, and nothing is removed before.
    unhashed: Option<mvcc::Compaction>,
    /// A hash is being made on a pinned snapshot: nothing may be removed meanwhile.
    hashing: bool,
    /// To be kept for HashKV when the removal has ended.
    hash: Option<mvcc::hash::KeyValueHash>,
    physical: Vec<Physical>,
}

/// Who asked for the physical end of a compaction.
struct Physical {
    token: CallToken,
    revision: i64,
    /// Nothing, when the end must be durable too; or the refusal to answer then.
    refused: Option<Error>,
}

impl State {
    pub fn compaction_accepted(&mut self, compaction: mvcc::Compaction, actions: &mut Vec<Action>) {
        actions.push(Action::Note(Note::CompactionScheduled { revision: compaction.revision }));
        if compaction.previous_finished {
            let before = self.compactions.unhashed.replace(compaction);
            assert!(before.is_none() && !self.compactions.hashing, "what was finished was hashed");
        }
    }

    /// Answers a compaction that asked for its physical end when that has come. A refusal waits only for the removal
    /// under way; an acceptance also until a crash cannot bring anything back.
    pub fn compaction_answer(
        &mut self,
        token: CallToken,
        revision: i64,
        result: Result<Response, Error>,
        actions: &mut Vec<Action>,
    ) {
        let (revision, refused) = match result {
            Ok(_) => (revision, None),
            // Whatever is being removed now.
            Err(error) => (mvcc::stamp::compacted(self.store.stamp()), Some(error)),
        };
        self.compactions.physical.push(Physical { token, revision, refused });
        self.settle_physical(actions);
        if self.compactions.physical.iter().any(|waiting| waiting.token == token) {
            actions.push(Action::outcome(token, Ok(Response::CompactionAgreed)));
        }
    }

    pub fn settle_physical(&mut self, actions: &mut Vec<Action>) {
        let removed = mvcc::stamp::finished(self.store.stamp());
        let durable = mvcc::stamp::finished(self.store.durable_stamp());
        let revision = self.revision();
        self.compactions.physical.retain_mut(|waiting| {
            let end = if waiting.refused.is_some() { removed } else { durable };
            if waiting.revision > end {
                return true;
            }
            let header = Some(pb::ResponseHeader { revision, ..Default::default() });
            let result = match waiting.refused.take() {
                Some(error) => Err(error),
                None => Ok(Response::Compact(pb::CompactionResponse { header })),
            };
            actions.push(Action::outcome(waiting.token, result));
            false
        });
    }

    /// Whether somebody waits for a removal that has ended to be durable.
    pub fn compaction_wants_checkpoint(&self) -> bool {
        let removed = mvcc::stamp::finished(self.store.stamp());
        self.compactions.physical.iter().any(|waiting| waiting.revision <= removed)
    }

    /// Everybody who waits for a physical end.
    pub fn drain_physical(&mut self) -> impl Iterator<Item = CallToken> + '_ {
        self.compactions.physical.drain(..).map(|waiting| waiting.token)
    }

    /// Whether a turn would remove something.
    pub fn compaction_runnable(&self) -> bool {
        !self.compactions.hashing && mvcc::stamp::removal_pending(self.store.stamp())
    }

    pub fn compaction_hashed(&mut self, hash: mvcc::hash::KeyValueHash) {
        assert!(self.compactions.hashing, "one hash at a time, and it was asked for");
        self.compactions.hashing = false;
        self.compactions.hash = Some(hash);
    }

    /// Page space that the removal of so many changes may take, bytes: it copies what it touches and adds nothing.
    pub fn removal_room(&self, changes: usize) -> u64 {
        // A change removes what it superseded, and if it is a delete itself: two entries in each tree.
        let trees = [HISTORY, SUPERSEDED, CHANGES].into_iter();
        let change = 2 * trees.map(|tree| self.store.insert_cost(tree, 0, 0)).sum::<u64>();
        (changes as u64 * change).min(self.store.used_bytes())
    }

    /// Begins the hash that comes before a removal. True when there is one to begin.
    pub fn begin_hash(&mut self, actions: &mut Vec<Action>) -> bool {
        let Some(compaction) = self.compactions.unhashed.take() else { return false };
        // Nothing is removed before the job has pinned and read the root that is published next.
        assert!(!self.compactions.hashing, "one hash at a time");
        self.compactions.hashing = true;
        let reader = self.store.readers().register();
        actions.push(Action::HashCompaction(HashJob::new(reader, &compaction)));
        true
    }

    /// One step of the removal: looks at up to `changes`. False when there are more, which somebody still reads.
    pub fn removal_step(&mut self, changes: usize, actions: &mut Vec<Action>) -> bool {
        assert!(self.compaction_runnable(), "asked before");
        let before = *self.store.stamp();
        let held = self.published.held_history();
        let more = mvcc::Apply::new(&mut self.store, &mut self.work).compaction_step_below(changes, held);
        self.dirty |= before != *self.store.stamp();
        if more {
            return true;
        }
        if mvcc::stamp::removal_pending(self.store.stamp()) {
            return false;
        }
        let finished = mvcc::stamp::finished(self.store.stamp());
        actions.push(Action::Note(Note::CompactionFinished { revision: finished }));
        if let Some(hash) = self.compactions.hash.take() {
            self.published.compaction_hashes().store(hash);
        }
        self.settle_physical(actions);
        true
    }
}
