//! Linearizability, from the revisions that answers carry.
//!
//! etcd's answers say where in the order of changes they stand: a write that changed something has its revision, a
//! read and everything else the revision that it saw. So no order has to be searched for. The history is replayed
//! revision by revision through a [model](super::model), every answer is computed anew and compared, and the order is
//! held against real time:
//!
//! - A write's revision is above every revision that any answer had shown before its call.
//! - A linearizable read, and a write that changed nothing, show no revision below those.
//! - A serializable read shows none below what the same process of the same member had shown.
//! - Every revision has exactly one cause: an answered write, a lost one that does exactly this, or the expiry of a
//!   lease. Lost operations are matched to revisions each at most once, and never to a revision that was reached
//!   before their call.
//! - A dump of the history is what was replayed: nothing acknowledged is missing.
//!
//! Time: every operation costs the logarithm of the number of keys for each pair that it names.

use std::collections::HashMap;

use super::matching;
use super::model::{Keys, Model};
use super::observed::Observed;
use super::refusals;
use super::streams::Streams;
use super::suspects::{Signs, Suspects, signs};
use super::timeline::{Cause, Timeline};
use super::{Finding, found};
use crate::history::{
    Answer, Bytes, Dump, History, OpAnswer, Operation, Outcome, Range, Request, Shown, Txn, TxnAnswer, TxnOp,
};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub operations: u64,
    pub revisions: u64,
    /// Answered, with a revision of their own.
    pub writes: u64,
    /// Answers that were compared with a state, beside those of writes.
    pub reads: u64,
    /// Lost operations that may have written.
    pub lost: u64,
    /// Lost operations of which it is known that they were executed.
    pub resolved: u64,
    /// Revisions made by leases that expired.
    pub expired: u64,
    /// Of these, revisions that a lost operation may have made as well.
    pub in_doubt: u64,
}

/// A revision that no answer accounts for.
struct Open {
    revision: i64,
    /// Lost operations that do exactly this.
    candidates: Vec<u32>,
    /// The lease whose expiry does it.
    lease: i64,
}

struct Replay<'h> {
    history: &'h History,
    observed: Observed,
    model: Model,
    causes: Vec<Cause>,
    born: Vec<u64>,
    begins: Vec<usize>,
    owners: HashMap<i64, usize>,
    revokes: HashMap<i64, Vec<usize>>,
    /// (state, operation), sorted: what must be seen there.
    views: Vec<(i64, usize)>,
    signs: HashMap<i64, Signs<'h>>,
    suspects: Suspects,
    open: Vec<Open>,
    summary: Summary,
}

/// Checks a history, and tells what happened.
pub fn check(history: &History) -> Result<(Timeline, Summary), Finding> {
    let streams = Streams::of(history);
    let mut replay = Replay::new(history);
    for (number, op) in history.operations.iter().enumerate() {
        replay.place(number, op)?;
    }
    replay.views.sort_unstable();
    let owners = &replay.owners;
    replay.signs = signs(history, &streams, &|revision| !owners.contains_key(&revision));
    replay.run()?;
    replay.assign()?;
    let Replay { observed, model, causes, born, begins, summary, .. } = replay;
    let timeline = Timeline { model, observed, causes, born, begins };
    for dump in &history.dumps {
        check_dump(dump, &timeline)?;
    }
    refusals::check(history, &timeline)?;
    Ok((timeline, summary))
}

/// Every key that can come to exist.
fn keys(history: &History) -> Keys {
    let mut keys: Vec<Bytes> = Vec::new();
    for op in &history.operations {
        match &op.request {
            Request::Put(put) => keys.push(put.key.clone()),
            Request::Txn(txn) => txn.each_op(&mut |op| {
                if let TxnOp::Put(put) = op {
                    keys.push(put.key.clone());
                }
            }),
            _ => {}
        }
    }
    Keys::new(keys)
}

impl<'h> Replay<'h> {
    fn new(history: &'h History) -> Replay<'h> {
        let keys = keys(history);
        let suspects = Suspects::of(history, &keys);
        let summary = Summary {
            operations: history.operations.len() as u64,
            lost: suspects.count,
            ..Summary::default()
        };
        Replay {
            history,
            observed: Observed::of(history),
            model: Model::new(keys),
            causes: Vec::new(),
            born: Vec::new(),
            begins: Vec::new(),
            owners: HashMap::new(),
            revokes: HashMap::new(),
            views: Vec::new(),
            signs: HashMap::new(),
            suspects,
            open: Vec::new(),
            summary,
        }
    }

    /// Finds the revision or the state at which an operation stands, and holds it against real time.
    fn place(&mut self, number: usize, op: &'h Operation) -> Result<(), Finding> {
        let (Outcome::Answered(answer), Some(end)) = (&op.outcome, op.end) else { return Ok(()) };
        let header = answer.revision();
        let mut linearizable = true;
        let writes = match (&op.request, answer) {
            (Request::Put(_), Answer::Put(_)) => true,
            (Request::DeleteRange(_), Answer::DeleteRange(answer)) => answer.deleted > 0,
            (Request::Txn(txn), Answer::Txn(answer)) => {
                linearizable = !txn.is_serializable();
                let Some(writes) = changes_something(txn, answer) else {
                    return found!(WriteAnswer, end.step, "{op}: the answers are not those of the branch");
                };
                self.check_past_reads(op, txn, answer)?;
                writes
            }
            (Request::Range(range), Answer::Range(_)) => {
                linearizable = !range.serializable;
                self.check_past(op, range.revision, header, linearizable)?;
                let state = if range.revision > 0 { range.revision } else { header };
                self.views.push((state, number));
                false
            }
            (Request::LeaseRevoke { .. }, Answer::LeaseRevoke { .. }) => {
                self.revokes.entry(header).or_default().push(number);
                false
            }
            (Request::Compact { revision }, Answer::Compact { .. }) => {
                let before = self.observed.compacted(op.call.step);
                if *revision <= before || *revision > header {
                    return found!(Compaction, end.step, "{op}: {before} was compacted already");
                }
                false
            }
            (Request::LeaseGrant { .. }, Answer::LeaseGrant { .. }) => false,
            (Request::LeaseKeepAlive { .. }, Answer::LeaseKeepAlive { .. })
            | (Request::LeaseTimeToLive { .. }, Answer::LeaseTimeToLive { .. }) => {
                linearizable = false;
                false
            }
            _ => panic!("recorded with an answer of another kind: {op}"),
        };
        self.check_order(op, header, writes, linearizable)?;
        if writes {
            self.summary.writes += 1;
            if let Some(other) = self.owners.insert(header, number) {
                let other = &self.history.operations[other];
                return found!(RevisionReused, end.step, "{op}: the same revision was given to {other}");
            }
        } else if matches!(op.request, Request::DeleteRange(_) | Request::Txn(_)) {
            self.views.push((header, number));
        }
        Ok(())
    }

    fn check_order(
        &self,
        op: &Operation,
        header: i64,
        writes: bool,
        linearizable: bool,
    ) -> Result<(), Finding> {
        let (call, end) = (op.call.step, op.end_step());
        let floor = self.observed.floor(call);
        if writes && header <= floor {
            return found!(WriteOrder, end, "{op}: revision {floor} was known before it was called");
        }
        if linearizable && header < floor {
            return found!(StaleRead, end, "{op}: revision {floor} was known before it was called");
        }
        let own = self.observed.member_floor(op.member, call);
        if !linearizable && header < own && self.observed.same_life(op.member, call, end) {
            return found!(MemberBackwards, end, "{op}: the member had shown revision {own} before");
        }
        Ok(())
    }

    /// A read at a past revision: that revision existed, and was not surely compacted.
    fn check_past(
        &self,
        op: &Operation,
        revision: i64,
        header: i64,
        linearizable: bool,
    ) -> Result<(), Finding> {
        if revision <= 0 {
            return Ok(());
        }
        if revision > header {
            return found!(ReadState, op.end_step(), "{op}: revision {revision} is above the header's");
        }
        let compacted = self.observed.compacted(op.call.step);
        if linearizable && revision < compacted {
            return found!(Compaction, op.end_step(), "{op}: {compacted} was compacted before it was called");
        }
        Ok(())
    }

    fn check_past_reads(&self, op: &Operation, txn: &Txn, answer: &TxnAnswer) -> Result<(), Finding> {
        let linearizable = !txn.is_serializable();
        for (asked, answer) in txn.branch(answer.succeeded).iter().zip(&answer.answers) {
            match (asked, answer) {
                (TxnOp::Range(range), OpAnswer::Range(answer)) => {
                    self.check_past(op, range.revision, answer.revision, linearizable)?;
                }
                (TxnOp::Txn(nested), OpAnswer::Txn(answer)) => self.check_past_reads(op, nested, answer)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn run(&mut self) -> Result<(), Finding> {
        let last = self.observed.last();
        let mut next_view = 0;
        self.look(1, &mut next_view)?;
        for revision in 2..=last {
            self.begins.push(self.model.changes.len());
            let born = self.born.last().copied().unwrap_or(0);
            let (cause, call) = match self.owner(revision)? {
                Some(owner) => {
                    self.replay(owner)?;
                    (Cause::Answered(owner), self.history.operations[owner].call.step)
                }
                None => self.explain(revision)?,
            };
            self.causes.push(cause);
            self.born.push(born.max(call));
            self.model.keep();
            assert_eq!(self.model.current, revision, "a revision has changes");
            self.look(revision, &mut next_view)?;
        }
        self.summary.revisions = self.causes.len() as u64;
        Ok(())
    }

    /// Whose answer says that it made the revision. A revocation does not say whether it made one: it did when its
    /// lease held keys before, nobody else's answer claims it, and what is known of the revision fits.
    fn owner(&mut self, revision: i64) -> Result<Option<usize>, Finding> {
        if let Some(&owner) = self.owners.get(&revision) {
            return Ok(Some(owner));
        }
        let mut owner: Option<usize> = None;
        for &number in self.revokes.get(&revision).into_iter().flatten() {
            let op = &self.history.operations[number];
            if self.observed.floor(op.call.step) >= revision {
                continue;
            }
            let executed = self.model.execute(&op.request);
            assert!(executed.is_ok(), "what a lease holds can be deleted");
            let changes = self.model.open_changes();
            let signs = self.signs.get(&revision);
            let fits = !changes.is_empty() && signs.is_none_or(|signs| signs.fit(changes));
            self.model.take_back();
            if !fits {
                continue;
            }
            if self.summary.lost > 0 && signs.is_none_or(|signs| !signs.whole) {
                let step = op.end_step();
                return found!(
                    RevisionGap,
                    step,
                    "{op}: whether it made revision {revision}, or a lost call did, was not seen"
                );
            }
            let Some(other) = owner.replace(number) else { continue };
            let other = &self.history.operations[other];
            // Revoked, granted again and revoked again without a key: the same revision, and no matter which.
            if other.request != op.request {
                return found!(RevisionReused, op.end_step(), "{op}: the same revision was given to {other}");
            }
        }
        Ok(owner)
    }

    /// Executes an answered write, and compares the answers.
    fn replay(&mut self, owner: usize) -> Result<(), Finding> {
        let op = &self.history.operations[owner];
        let expected = match self.model.execute(&op.request) {
            Ok(expected) => expected,
            Err(refusal) => return found!(WriteAnswer, op.end_step(), "{op}: expected was: {refusal}"),
        };
        if op.answer() != Some(&expected) {
            return found!(WriteAnswer, op.end_step(), "{op}: expected was: {expected}");
        }
        assert!(
            !self.model.open_changes().is_empty(),
            "an answer with a revision of its own changes something"
        );
        Ok(())
    }

    /// Finds who made a revision that no answer accounts for, and makes it. Also tells the step before which it
    /// cannot have happened.
    fn explain(&mut self, revision: i64) -> Result<(Cause, u64), Finding> {
        let step = self.observed.first_seen(revision).map_or(0, |at| at.step);
        let Some(signs) = self.signs.get(&revision) else {
            return found!(RevisionGap, step, "of revision {revision} nothing is known, but later ones are");
        };
        let mut candidates = self.suspects.behind(signs, &self.model.keys);
        let (observed, model, operations) = (&self.observed, &mut self.model, &self.history.operations);
        candidates.retain(|&number| {
            let op = &operations[number as usize];
            let fits = observed.floor(op.call.step) < revision
                && model.execute(&op.request).is_ok()
                && !model.open_changes().is_empty()
                && signs.fit(model.open_changes());
            model.take_back();
            fits
        });
        let deleted = signs.deleted(&model.keys).filter(|deleted| !deleted.is_empty());
        let lease = deleted.as_ref().map_or(0, |deleted| {
            let newest = model.seen_at(deleted[0], revision).map(|at| &model.changes[at as usize]);
            newest.map_or(0, |change| change.kv.lease)
        });
        let all_attached: Vec<u32> = model.attached(lease).collect();
        let expired = lease != 0
            && deleted.as_ref().is_some_and(|deleted| {
                let partly = !signs.whole && deleted.iter().all(|key| all_attached.contains(key));
                *deleted == all_attached || partly
            });
        if candidates.is_empty() && !expired {
            let partly = deleted.is_some_and(|deleted| deleted.iter().all(|key| all_attached.contains(key)));
            let signs = &signs.signs;
            if lease != 0 && partly {
                let held = all_attached.len();
                return found!(
                    LeaseKeys,
                    step,
                    "revision {revision} took {} of the {held} keys of lease {lease}: {signs:?}",
                    signs.len()
                );
            }
            return found!(Unexplained, step, "no operation does what revision {revision} did: {signs:?}");
        }
        if !signs.whole && candidates.len() + usize::from(expired) > 1 {
            return found!(
                RevisionGap,
                step,
                "revision {revision} was seen in part only, and {} operations may have made it: {:?}",
                candidates.len(),
                signs.signs
            );
        }
        let earliest = match candidates.first() {
            Some(&number) => {
                let op = &operations[number as usize];
                let executed = model.execute(&op.request);
                assert!(executed.is_ok(), "it could be executed before");
                op.call.step
            }
            None => 0,
        };
        if expired && candidates.is_empty() {
            model.revoke(lease);
        }
        let in_doubt = !candidates.is_empty();
        let cause = if expired {
            self.summary.expired += 1;
            self.summary.in_doubt += u64::from(in_doubt);
            Cause::Expired { lease, in_doubt }
        } else {
            self.summary.resolved += 1;
            Cause::Lost(candidates[0] as usize)
        };
        self.open.push(Open { revision, candidates, lease: if expired { lease } else { 0 } });
        Ok((cause, if expired { 0 } else { earliest }))
    }

    /// Gives every revision that only a lost operation can have made one of its own.
    fn assign(&mut self) -> Result<(), Finding> {
        let open: Vec<&Open> = self.open.iter().filter(|open| open.lease == 0).collect();
        let wanted: Vec<&[u32]> = open.iter().map(|open| open.candidates.as_slice()).collect();
        match matching::assign(&wanted) {
            Ok(assigned) => {
                for (open, number) in open.iter().zip(assigned) {
                    self.causes[(open.revision - 2) as usize] = Cause::Lost(number as usize);
                }
                Ok(())
            }
            Err(at) => {
                let revision = open[at].revision;
                let step = self.observed.first_seen(revision).map_or(0, |at| at.step);
                let op = &self.history.operations[open[at].candidates[0] as usize];
                found!(
                    Unexplained,
                    step,
                    "revision {revision} did what {op} does, but that was executed already"
                )
            }
        }
    }

    /// Compares everything that saw the state of a revision.
    fn look(&mut self, revision: i64, next: &mut usize) -> Result<(), Finding> {
        while let Some(&(state, number)) = self.views.get(*next)
            && state <= revision
        {
            *next += 1;
            let op = &self.history.operations[number];
            if state < revision {
                return found!(ReadState, op.end_step(), "{op}: there is no revision {state}");
            }
            self.view(op)?;
            self.summary.reads += 1;
        }
        for &number in self.revokes.get(&revision).into_iter().flatten() {
            let op = &self.history.operations[number];
            let Request::LeaseRevoke { id } = op.request else { continue };
            if let Some(rank) = self.model.attached(id).next() {
                let key = self.model.keys.key(rank);
                return found!(LeaseKeys, op.end_step(), "{op}: {} is still there", Shown(key));
            }
        }
        Ok(())
    }

    fn view(&mut self, op: &Operation) -> Result<(), Finding> {
        let step = op.end_step();
        let Some(answer) = op.answer() else { return Ok(()) };
        if let (Request::Range(range), Answer::Range(answer)) = (&op.request, answer) {
            let mut expected = self.model.range(&Range { revision: 0, ..range.clone() });
            expected.revision = answer.revision;
            if *answer != expected {
                return found!(ReadState, step, "{op}: expected was: {}", Answer::Range(expected));
            }
            return Ok(());
        }
        let expected = self.model.execute(&op.request);
        self.model.take_back();
        let reads = matches!(&op.request, Request::Txn(txn) if txn.is_read_only());
        match expected {
            Ok(expected) if *answer == expected => Ok(()),
            Ok(expected) if reads => found!(ReadState, step, "{op}: expected was: {expected}"),
            Ok(expected) => found!(WriteAnswer, step, "{op}: expected was: {expected}"),
            Err(refusal) => found!(WriteAnswer, step, "{op}: expected was: {refusal}"),
        }
    }
}

/// Whether the answer to a transaction says that it changed something; `None` when it answers something else.
fn changes_something(txn: &Txn, answer: &TxnAnswer) -> Option<bool> {
    let branch = txn.branch(answer.succeeded);
    if branch.len() != answer.answers.len() {
        return None;
    }
    let mut changes = false;
    for (op, answer) in branch.iter().zip(&answer.answers) {
        changes |= match (op, answer) {
            (TxnOp::Put(_), OpAnswer::Put(_)) => true,
            (TxnOp::DeleteRange(_), OpAnswer::DeleteRange(answer)) => answer.deleted > 0,
            (TxnOp::Range(_), OpAnswer::Range(_)) => false,
            (TxnOp::Txn(nested), OpAnswer::Txn(answer)) => changes_something(nested, answer)?,
            _ => return None,
        };
    }
    Some(changes)
}

fn check_dump(dump: &Dump, timeline: &Timeline) -> Result<(), Finding> {
    let step = dump.at.step;
    let floor = timeline.observed.floor(step);
    if dump.last < floor {
        return found!(Dump, step, "the dump ends at revision {}, but {floor} was reached before", dump.last);
    }
    let (begin, end) = (timeline.begin_of(dump.first), timeline.begin_of(dump.last + 1));
    let changes = timeline.model.changes.get(begin..end).unwrap_or_default();
    for (change, event) in changes.iter().zip(&dump.events) {
        if !change.is_told_by(event) {
            let (revision, kind, kv) = (change.revision, change.kind, &change.kv);
            return found!(Dump, step, "revision {revision} was {kind:?} {kv}; the dump has {event}");
        }
    }
    match (changes.get(dump.events.len()), dump.events.get(changes.len())) {
        (Some(missing), _) => {
            found!(Dump, step, "the dump has nothing of revision {}: {}", missing.revision, missing.kv)
        }
        (_, Some(event)) => found!(Dump, step, "the dump has what never happened: {event}"),
        (None, None) => Ok(()),
    }
}
