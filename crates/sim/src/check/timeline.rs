//! What happened, as far as a history tells: every revision with its changes and its cause.

use base::LeaseId;

use super::model::Model;
use super::observed::Observed;

/// Who made a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The operation at this position was answered so.
    Answered(usize),
    /// The lost operation at this position was executed.
    Lost(usize),
    /// A lease expired. In doubt where a lost operation may have done the same.
    Expired { lease: LeaseId, in_doubt: bool },
}

#[derive(Debug)]
pub struct Timeline {
    pub(crate) model: Model,
    pub(crate) observed: Observed,
    /// From revision 2 on.
    pub(crate) causes: Vec<Cause>,
    /// For each revision from 2 on: the step before which it cannot have been reached.
    pub(crate) born: Vec<u64>,
    /// For each revision from 2 on: where its changes begin.
    pub(crate) begins: Vec<usize>,
}

impl Timeline {
    /// The newest revision.
    pub fn last(&self) -> i64 {
        self.causes.len() as i64 + 1
    }

    /// `None` for a revision that is not in the history.
    pub fn cause(&self, revision: i64) -> Option<Cause> {
        self.causes.get(usize::try_from(revision.checked_sub(2)?).ok()?).copied()
    }

    /// The revisions from 2 on, with their causes.
    pub fn causes(&self) -> impl Iterator<Item = (i64, Cause)> + '_ {
        (2..).zip(self.causes.iter().copied())
    }

    /// The position of the first change at or above a revision.
    pub(crate) fn begin_of(&self, revision: i64) -> usize {
        let at = usize::try_from(revision.max(2) - 2).expect("it is not negative");
        self.begins.get(at).copied().unwrap_or(self.model.changes.len())
    }

    /// The highest revision that may have been reached before a step.
    pub(crate) fn ceiling(&self, step: u64) -> i64 {
        1 + self.born.partition_point(|&born| born < step) as i64
    }
}
