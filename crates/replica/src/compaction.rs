//! Compactions under way: the hash first, then removal in steps, then whoever waited for the physical end.
//!
//! Removal is local and not replicated: each member removes at its own pace what is no longer readable. Its cursor
//! stands in the stamp, so that a crash resumes it (law 7).

use base::CallToken;
use base::limits::COMPACTION_STEP_CHANGES;

use crate::event::{Action, HashJob, Note};
use crate::state::State;

#[derive(Default)]
pub(crate) struct Compactions {
    /// Accepted, their hash not begun: oldest first.
    waiting: std::collections::VecDeque<mvcc::Compaction>,
    /// A hash is being made on a pinned snapshot: nothing may be removed meanwhile.
    hashing: bool,
    /// The hash of the compaction whose removal is under way; kept for HashKV when the one before had ended.
    hash: Option<mvcc::hash::KeyValueHash>,
    keep_hash: bool,
    /// Asked for with `physical`: who waits, and for which revision.
    physical: Vec<(CallToken, i64)>,
    /// The compaction applied last, when it asked for its physical end.
    last_physical: Option<i64>,
}

impl Compactions {
    pub fn accepted(&mut self, compaction: mvcc::Compaction, physical: bool, actions: &mut Vec<Action>) {
        actions.push(Action::Note(Note::CompactionScheduled { revision: compaction.revision }));
        self.last_physical = physical.then_some(compaction.revision);
        self.waiting.push_back(compaction);
    }

    /// True when the answer comes later, with the physical end.
    pub fn wait_if_physical(&mut self, token: CallToken) -> bool {
        match self.last_physical.take() {
            Some(revision) => {
                self.physical.push((token, revision));
                true
            }
            None => false,
        }
    }
}

impl State {
    /// Whether a turn would remove something.
    pub fn compaction_runnable(&self) -> bool {
        !self.compactions.hashing && mvcc::stamp::removal_pending(self.store.stamp())
    }

    pub fn compaction_hashed(&mut self, hash: mvcc::hash::KeyValueHash) {
        assert!(self.compactions.hashing, "one hash at a time, and it was asked for");
        self.compactions.hashing = false;
        self.compactions.hash = Some(hash);
    }

    /// One bounded step of whatever compaction needs next.
    pub fn compaction_step(&mut self, actions: &mut Vec<Action>) {
        if self.compactions.hashing {
            return;
        }
        if let Some(compaction) = self.compactions.waiting.pop_front() {
            // Nothing is removed before the job has pinned and read the root that is published next.
            self.compactions.hashing = true;
            self.compactions.keep_hash = compaction.previous_finished;
            let reader = self.store.readers().register();
            actions.push(Action::HashCompaction(HashJob::new(reader, &compaction)));
            return;
        }
        if !mvcc::stamp::removal_pending(self.store.stamp()) {
            return;
        }
        let more = mvcc::Apply::new(&mut self.store, &mut self.work).compaction_step(COMPACTION_STEP_CHANGES);
        self.dirty = true;
        if more {
            return;
        }
        let finished = mvcc::stamp::finished(self.store.stamp());
        actions.push(Action::Note(Note::CompactionFinished { revision: finished }));
        if let Some(hash) = self.compactions.hash.take()
            && self.compactions.keep_hash
        {
            self.published.compaction_hashes().store(hash);
        }
        let revision = self.revision();
        for (token, target) in std::mem::take(&mut self.compactions.physical) {
            if target <= finished {
                let header = proto::etcdserverpb::ResponseHeader { revision, ..Default::default() };
                let response = proto::etcdserverpb::CompactionResponse { header: Some(header) };
                let result = Ok(crate::event::Response::Compact(response));
                actions.push(Action::Outcome(crate::event::Outcome { token, result }));
            } else {
                self.compactions.physical.push((token, target));
            }
        }
    }
}
