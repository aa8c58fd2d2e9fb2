//! Where the log stands after some record: the state that the newest record of each kind left.
//!
//! The writer keeps one for what is gathered, one for what is submitted and one for what is durable; recovery
//! arrives at the same one by replay. Both go through the functions here, so that they cannot disagree.

use base::{Index, Term};

use crate::HardState;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) hard_state: HardState,
    /// The last entry; it may fall (law 2).
    pub(crate) last_index: Index,
    pub(crate) last_term: Term,
    /// The highest completed checkpoint.
    pub(crate) checkpoint_index: Index,
    pub(crate) checkpoint_term: Term,
    /// The number that the last completed checkpoint of the data file had.
    pub(crate) checkpoint_sequence: u64,
    /// The highest Ready number of which everything is covered. Not stored across starts.
    pub(crate) ready: u64,
}

impl Position {
    pub(crate) fn entry(&mut self, index: Index, term: Term) {
        assert!(
            index > 0 && index - 1 <= self.last_index,
            "entry {index} behind {} is a gap",
            self.last_index
        );
        self.last_index = index;
        self.last_term = term;
    }

    /// True when no entry is left that the log could go on from.
    pub(crate) fn checkpoint(&mut self, index: Index, term: Term, sequence: u64) -> bool {
        self.checkpoint_sequence = sequence;
        if index >= self.checkpoint_index {
            self.checkpoint_index = index;
            self.checkpoint_term = term;
        }
        let beyond = index > self.last_index;
        if beyond {
            self.last_index = index;
            self.last_term = term;
        }
        beyond
    }

    pub(crate) fn restart(&mut self, index: Index, term: Term) {
        self.checkpoint_index = index;
        self.checkpoint_term = term;
        self.last_index = index;
        self.last_term = term;
    }
}
