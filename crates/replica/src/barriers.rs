//! Read barriers (law 10): a read passes when a ReadIndex round that began after its arrival is confirmed and what
//! was committed then is applied; or at once when the published root is itself the barrier.
//!
//! A round that the raft crate drops (no leader, or nothing committed in its term yet) is never confirmed: its reads
//! go into a new round, with a new context, after [`RETRY_MS`].

use std::collections::VecDeque;

use base::{CallToken, Index, Millis};

/// As etcd retries.
const RETRY_MS: Millis = 500;

#[derive(Default)]
pub(crate) struct Barriers {
    arrived: Vec<CallToken>,
    rounds: VecDeque<Round>,
    /// (index that must be applied, who waits).
    confirmed: Vec<(Index, Vec<CallToken>)>,
    next_round: u64,
}

struct Round {
    number: u64,
    began: Millis,
    tokens: Vec<CallToken>,
}

impl Barriers {
    pub fn arrive(&mut self, token: CallToken) {
        self.arrived.push(token);
    }

    /// Whether a round is to begin.
    pub fn has_arrivals(&self) -> bool {
        !self.arrived.is_empty()
    }

    /// A round for everybody who arrived: its context for raft.
    pub fn begin(&mut self, now: Millis) -> Vec<u8> {
        assert!(self.has_arrivals(), "a round is for somebody");
        self.next_round += 1;
        let tokens = std::mem::take(&mut self.arrived);
        self.rounds.push_back(Round { number: self.next_round, began: now, tokens });
        self.next_round.to_be_bytes().to_vec()
    }

    /// Reads of rounds that were never confirmed arrive again.
    pub fn retry(&mut self, now: Millis) {
        while let Some(round) = self.rounds.pop_front_if(|round| now >= round.began + RETRY_MS) {
            self.arrived.extend(round.tokens);
        }
    }

    /// The leader was confirmed after this round began, and `index` was committed then.
    pub fn confirm(&mut self, context: &[u8], index: Index) {
        let Ok(number) = context.try_into().map(u64::from_be_bytes) else { return };
        // Rounds are confirmed in order: an older one that was lost is covered by this. One that began again under
        // another number is not here any more.
        while let Some(round) = self.rounds.pop_front_if(|round| round.number <= number) {
            self.confirmed.push((index, round.tokens));
        }
    }

    /// Who may read the root that has applied `applied`.
    pub fn pass(&mut self, applied: Index, passed: &mut Vec<CallToken>) {
        self.confirmed.retain_mut(|(index, tokens)| {
            if *index <= applied {
                passed.append(tokens);
            }
            *index > applied
        });
    }

    /// The published root is the barrier for everybody, or nobody will be answered any more.
    pub fn pass_all(&mut self, passed: &mut Vec<CallToken>) {
        for round in self.rounds.drain(..) {
            passed.extend(round.tokens);
        }
        for (_, tokens) in self.confirmed.drain(..) {
            passed.extend(tokens);
        }
        passed.append(&mut self.arrived);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(stream: u32) -> CallToken {
        CallToken { shard: 0, connection: 0, epoch: 0, stream }
    }

    #[test]
    fn a_read_waits_for_its_own_round_and_for_what_was_committed_then() {
        let mut barriers = Barriers::default();
        barriers.arrive(token(1));
        let first = barriers.begin(0);
        barriers.arrive(token(2));
        let second = barriers.begin(1);
        let mut passed = Vec::new();
        barriers.confirm(&first, 10);
        barriers.pass(9, &mut passed);
        assert!(passed.is_empty(), "10 is not applied");
        barriers.pass(10, &mut passed);
        assert_eq!(passed, [token(1)], "the second round began later");
        barriers.confirm(&second, 10);
        barriers.pass(10, &mut passed);
        assert_eq!(passed, [token(1), token(2)]);
    }

    #[test]
    fn a_dropped_round_begins_again_under_a_new_context() {
        let mut barriers = Barriers::default();
        barriers.arrive(token(1));
        let first = barriers.begin(0);
        barriers.retry(RETRY_MS - 1);
        assert!(!barriers.has_arrivals());
        barriers.retry(RETRY_MS);
        assert!(barriers.has_arrivals());
        let mut passed = Vec::new();
        barriers.confirm(&first, 1);
        barriers.pass(1, &mut passed);
        assert!(passed.is_empty(), "a late confirmation of the old attempt counts for nobody");
        let again = barriers.begin(RETRY_MS);
        assert_ne!(first, again);
        barriers.confirm(&again, 1);
        barriers.pass(1, &mut passed);
        assert_eq!(passed, [token(1)]);
    }
}
