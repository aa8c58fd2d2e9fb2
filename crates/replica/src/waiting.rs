//! Proposals of this member that are under way: who waits, what was reserved, and the request itself, so that apply
//! need not read it back from the entry.
//!
//! A leader knows the place of what it proposes, (term, index), and entries are applied in order; so the proposal of
//! an entry is the front one or none. A place that was applied with another term means that the proposal was lost.

use std::collections::{HashMap, VecDeque};

use base::{CallToken, Index, LeaseId, Term};
use tree::Hold;

use crate::event::Request;

pub(crate) struct Proposed {
    pub term: Term,
    pub index: Index,
    pub token: Option<CallToken>,
    pub request: Request,
    pub cost: Cost,
    /// For its runs of several pages.
    pub hold: Option<Hold>,
}

/// What a proposal takes until it is applied, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    /// Its entry.
    pub entry_bytes: usize,
    /// Page space that apply may need, wherever it lies.
    pub room_bytes: u64,
    /// Page space that is held for its runs.
    pub run_bytes: u64,
    /// The longest value that it puts; of all that wait, and of some that waited.
    pub value_bytes: usize,
}

#[derive(Default)]
pub(crate) struct Waiting {
    queue: VecDeque<Proposed>,
    total: Cost,
    /// How many of them revoke a lease: asked for each lease that expires.
    revoking: HashMap<LeaseId, u32>,
}

impl Waiting {
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether a revocation of this lease waits, whoever asked for it.
    pub fn revokes(&self, id: LeaseId) -> bool {
        self.revoking.contains_key(&id)
    }

    /// Of all that wait.
    pub fn total(&self) -> Cost {
        self.total
    }

    pub fn push(&mut self, proposed: Proposed) {
        assert!(
            self.queue.back().is_none_or(|last| last.index < proposed.index || last.term < proposed.term),
            "a leader's proposals have rising places"
        );
        if let Request::LeaseRevoke(revoke) = &proposed.request {
            *self.revoking.entry(revoke.id).or_default() += 1;
        }
        self.total.entry_bytes += proposed.cost.entry_bytes;
        self.total.room_bytes += proposed.cost.room_bytes;
        self.total.run_bytes += proposed.cost.run_bytes;
        self.total.value_bytes = self.total.value_bytes.max(proposed.cost.value_bytes);
        self.queue.push_back(proposed);
    }

    /// The proposal of the entry that is applied now; those that lost their place go to `lost`.
    pub fn take(&mut self, term: Term, index: Index, lost: &mut Vec<Proposed>) -> Option<Proposed> {
        while let Some(front) = self.queue.front()
            && front.index <= index
        {
            let front = self.queue.pop_front()?;
            if let Request::LeaseRevoke(revoke) = &front.request {
                let count = self.revoking.get_mut(&revoke.id).expect("it was counted");
                *count -= 1;
                if *count == 0 {
                    self.revoking.remove(&revoke.id);
                }
            }
            self.total.entry_bytes -= front.cost.entry_bytes;
            self.total.room_bytes -= front.cost.room_bytes;
            self.total.run_bytes -= front.cost.run_bytes;
            if self.queue.is_empty() {
                self.total.value_bytes = 0;
            }
            if (front.term, front.index) == (term, index) {
                assert!(!self.queue.is_empty() || self.total == Cost::default(), "each cost is counted once");
                return Some(front);
            }
            lost.push(front);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(stream: u32) -> CallToken {
        CallToken { shard: 0, connection: 0, epoch: 0, stream }
    }

    fn proposed(term: Term, index: Index) -> Proposed {
        let cost = Cost { entry_bytes: 10, room_bytes: 20, run_bytes: 30, value_bytes: 40 };
        let request = Request::Alarm(Default::default());
        Proposed { term, index, token: Some(token(index as u32)), request, cost, hold: None }
    }

    #[test]
    fn a_proposal_is_found_by_its_place_and_lost_with_it() {
        let mut waiting = Waiting::default();
        let mut lost = Vec::new();
        for index in [5, 7, 8] {
            waiting.push(proposed(2, index));
        }
        let total = Cost { entry_bytes: 30, room_bytes: 60, run_bytes: 90, value_bytes: 40 };
        assert_eq!(waiting.total(), total);
        let tokens = |lost: &[Proposed]| lost.iter().filter_map(|lost| lost.token).collect::<Vec<_>>();
        assert!(waiting.take(1, 4, &mut lost).is_none());
        assert_eq!(waiting.take(2, 5, &mut lost).map(|found| found.index), Some(5));
        assert!(waiting.take(2, 6, &mut lost).is_none(), "an entry of the replica's own");
        assert!(lost.is_empty());
        // Another leader's entry stands at 7.
        assert!(waiting.take(3, 7, &mut lost).is_none());
        assert_eq!(tokens(&lost), [token(7)]);
        waiting.push(proposed(4, 8));
        assert_eq!(waiting.take(4, 8, &mut lost).map(|found| found.term), Some(4));
        assert_eq!(tokens(&lost), [token(7), token(8)]);
        assert!(waiting.is_empty() && waiting.total() == Cost::default());
    }

    #[test]
    fn a_revocation_waits_until_the_last_of_its_kind_is_taken_or_lost() {
        let mut waiting = Waiting::default();
        let revocation = |index, id| Proposed {
            request: Request::LeaseRevoke(proto::etcdserverpb::LeaseRevokeRequest { id }),
            ..proposed(1, index)
        };
        waiting.push(revocation(1, 7));
        waiting.push(proposed(1, 2));
        waiting.push(revocation(3, 7));
        waiting.push(revocation(4, 8));
        let mut lost = Vec::new();
        let mut take = |waiting: &mut Waiting, term, index| drop(waiting.take(term, index, &mut lost));
        assert!(waiting.revokes(7) && waiting.revokes(8) && !waiting.revokes(9));
        take(&mut waiting, 1, 1);
        assert!(waiting.revokes(7), "another one waits");
        take(&mut waiting, 1, 3);
        assert!(!waiting.revokes(7) && waiting.revokes(8));
        take(&mut waiting, 2, 4);
        assert!(!waiting.revokes(8), "lost");
    }
}
