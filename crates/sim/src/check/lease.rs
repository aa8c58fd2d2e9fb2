//! Leases live as long as promised, and end as a whole.
//!
//! - No early end: a grant or a renewal that was answered promises life for a TTL from its *call* on. Nothing says
//!   before that time that the lease is gone: no expiry, no renewal with TTL 0, no refusal.
//! - A new leader, or a restart, extends: a lease whose time was not up when the old one ended has a whole TTL from
//!   the new one's beginning.
//! - The keys of a lease go in one revision, all of them ([`super::linear`] sees to that when it explains revisions,
//!   under [`Rule::LeaseKeys`](super::Rule::LeaseKeys)).
//! - Who is gone stays gone until somebody grants the id again: no renewal, no key, no time left. An id in use is not
//!   granted again.
//! - The time left is never less than promised, and never more than from the last thing that may have prolonged it; TTLs
//!   are those granted, keys listed are those held.
//! - Optionally: who was due long ago is gone when the history settles.
//!
//! The server's clock is not the recorder's. [`Clocks`] says how far they may differ; a promise is shortened by that.
//! Leases are not to be checkpointed (remaining TTLs written down): a promotion then extends by less.
//!
//! All statements about a lease are intervals between call and end. "Surely" means: whatever moments in them are
//! chosen.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use base::LeaseId;

use super::refusals;
use super::timeline::{Cause, Timeline};
use super::{Finding, found};
use crate::history::{
    Answer, Bytes, History, Kind, Moment, Note, OpAnswer, Operation, Outcome, Refusal, Request, TxnAnswer,
    TxnOp,
};

/// How the server's clock may differ from the recorder's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// Its rate, parts per million faster.
    pub drift_ppm: u64,
    /// How coarse it is, microseconds.
    pub slack_us: u64,
    /// The smallest TTL that is granted, seconds.
    pub min_ttl_s: i64,
    /// By how much more than a TTL a new leader, or a restart, prolongs a lease, microseconds. `None`: nobody knows.
    pub extension_us: Option<u64>,
    /// How long after its time a lease may still hold keys when the history settles, microseconds: scan intervals,
    /// elections, retries. `None`: for ever.
    pub late_us: Option<u64>,
}

impl Default for Clocks {
    /// A clock that ticks every 100 ms, etcd's default election timeout, and no patience limit.
    fn default() -> Clocks {
        Clocks { drift_ppm: 1000, slack_us: 100_000, min_ttl_s: 2, extension_us: None, late_us: None }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Ids that were granted, or may have been.
    pub leases: u64,
    /// Answers and refusals that say something about a lease.
    pub answers: u64,
    pub expiries: u64,
}

/// Promises and revocations that are looked at for one statement, newest first: later ones outweigh earlier ones.
const LOOKED_AT: usize = 16;

/// Between two leaders: nobody expired anything from `lost` to `won`. What came before and after is told by their steps,
/// since a clock may stand still.
struct Interregnum {
    lost: Moment,
    won: Moment,
}

/// A stretch of steps in which something took effect.
#[derive(Clone, Copy)]
struct When {
    call: u64,
    end: u64,
}

/// Somebody granted the id, or may have.
#[derive(Clone, Copy)]
struct Grant {
    when: When,
    /// The store's revision at that moment; `i64::MAX` where it is not known.
    revision: i64,
}

struct Promise {
    when: When,
    from: Moment,
    ttl_s: i64,
    /// Not gone before this, on the recorder's clock, whatever leaders came.
    until_us: u64,
    /// Of a grant: the store's revision at that moment.
    granted_at: Option<i64>,
}

/// What is said of a lease.
enum Claim<'h> {
    Granted,
    /// Renewed, holding a key, revoked just now, refused to be granted again.
    Alive,
    Left {
        ttl_s: i64,
        keys: Option<&'h [Bytes]>,
    },
    Gone,
}

struct Statement<'h> {
    op: &'h Operation,
    claim: Claim<'h>,
}

#[derive(Default)]
struct Lease<'h> {
    statements: Vec<Statement<'h>>,
    /// Answered and lost ones.
    grants: Vec<Grant>,
    revokes: Vec<When>,
    promises: Vec<Promise>,
    /// It was surely gone at some moment of each.
    gone: Vec<When>,
    ttls: BTreeSet<i64>,
    /// The end of the last thing that may have prolonged it, microseconds.
    touched_us: u64,
    /// (call, end in microseconds) of everything that may have prolonged it: once gathered, by call, and the latest end
    /// up to there. `u64::MAX` where nobody knows the end.
    touches: Vec<(u64, u64)>,
}

pub fn check(history: &History, timeline: &Timeline, clocks: &Clocks) -> Result<Summary, Finding> {
    let terms = Terms { clocks, interregna: interregna(history) };
    let mut leases: BTreeMap<LeaseId, Lease<'_>> = BTreeMap::new();
    for op in &history.operations {
        gather(op, &terms, &mut leases)?;
    }
    // A lost grant of no id of its own may have made any lease of which nothing else is known.
    let anonymous = leases.remove(&0).unwrap_or_default();
    for lease in leases.values_mut().filter(|lease| lease.grants.is_empty()) {
        lease.grants.clone_from(&anonymous.grants);
        lease.ttls.extend(&anonymous.ttls);
        lease.touched_us = lease.touched_us.max(anonymous.touched_us);
        lease.touches.extend(&anonymous.touches);
    }
    let mut summary = Summary {
        leases: leases.values().filter(|l| !l.grants.is_empty()).count() as u64,
        ..Summary::default()
    };
    let mut expiries: Vec<(LeaseId, i64, u64, Moment)> = Vec::new();
    for (revision, cause) in timeline.causes() {
        if let (Cause::Expired { lease, in_doubt: false }, Some(seen)) =
            (cause, timeline.observed.first_seen(revision))
        {
            summary.expiries += 1;
            let born = timeline.born[(revision - 2) as usize];
            expiries.push((lease, revision, born, seen));
            leases.entry(lease).or_default().gone.push(When { call: born, end: seen.step });
        }
    }
    for lease in leases.values_mut() {
        lease.promises.sort_by_key(|promise| promise.when.call);
        lease.gone.sort_by_key(|gone| gone.end);
        lease.touches.sort_unstable();
        let mut latest_us = 0;
        for (_, end_us) in &mut lease.touches {
            latest_us = latest_us.max(*end_us);
            *end_us = latest_us;
        }
    }
    for (id, revision, born, seen) in expiries {
        leases[&id].check_expiry(id, revision, born, seen)?;
    }
    let held = Holdings::of(timeline);
    for (&id, lease) in &leases {
        let mut queries = Vec::new();
        for statement in &lease.statements {
            summary.answers += 1;
            lease.check(id, statement, &terms)?;
            if let Claim::Left { keys: Some(keys), .. } = statement.claim {
                queries.push((statement.op, keys));
            }
        }
        held.check(id, queries, timeline)?;
    }
    for op in &history.operations {
        check_refused(op, &leases)?;
    }
    check_late(history, timeline, &terms, &leases)?;
    Ok(summary)
}

/// Whoever was refused because one of several leases was not there named one that may have been gone.
fn check_refused(op: &Operation, leases: &BTreeMap<LeaseId, Lease<'_>>) -> Result<(), Finding> {
    let (Request::Txn(_), Outcome::Refused(Refusal::LeaseNotFound)) = (&op.request, &op.outcome) else {
        return Ok(());
    };
    let end_us = op.end.map_or(u64::MAX, |end| end.at_us);
    let ids = refusals::leases_of(&op.request);
    let lives = |id: &LeaseId| {
        let lease = leases.get(id);
        lease.is_some_and(|lease| lease.holding(op).any(|promise| promise.until_us > end_us))
    };
    if !ids.is_empty() && ids.iter().all(lives) {
        return found!(LeaseEarly, op.end_step(), "{op}: all of the leases {ids:?} live");
    }
    Ok(())
}

fn interregna(history: &History) -> Vec<Interregnum> {
    let elections = history.notes.iter().any(|(_, note)| matches!(note, Note::LeaderWon { .. }));
    let mut interregna = Vec::new();
    let mut lost: Option<Moment> = None;
    for (at, note) in &history.notes {
        match (note, elections) {
            (Note::Stopped { .. }, false) | (Note::LeaderLost, true) => {
                lost = Some(*at);
            }
            (Note::Started { .. }, false) | (Note::LeaderWon { .. }, true) => {
                interregna.push(Interregnum { lost: lost.take().unwrap_or(*at), won: *at });
            }
            _ => {}
        }
    }
    interregna
}

/// What promises are worth.
struct Terms<'t> {
    clocks: &'t Clocks,
    interregna: Vec<Interregnum>,
}

impl Terms<'_> {
    /// Until when a lease that was granted or renewed at `from` surely lives, microseconds, as leaders up to a step see it.
    fn promised(&self, from: Moment, ttl_s: i64, by_step: u64) -> u64 {
        let ttl_us = ttl_s.max(0) as u64 * (1_000_000 - self.clocks.drift_ppm.min(1_000_000));
        let until = |from_us: u64| (from_us + ttl_us).saturating_sub(self.clocks.slack_us);
        let mut until_us = until(from.at_us);
        for gap in self.interregna.iter().take_while(|gap| gap.won.step <= by_step) {
            // Due before the old leader ended: its end may be in the log already.
            if gap.lost.step >= from.step && until_us > gap.lost.at_us {
                until_us = until_us.max(until(gap.won.at_us));
            }
        }
        until_us
    }

    fn promise(&self, op: &Operation, ttl_s: i64) -> Promise {
        let when = When { call: op.call.step, end: op.end_step() };
        let until_us = self.promised(op.call, ttl_s, u64::MAX);
        let granted_at = match op.answer() {
            Some(Answer::LeaseGrant { revision, .. }) => Some(*revision),
            _ => None,
        };
        Promise { when, from: op.call, ttl_s, until_us, granted_at }
    }
}

/// Files what an operation says under the leases that it names.
fn gather<'h>(
    op: &'h Operation,
    terms: &Terms<'_>,
    leases: &mut BTreeMap<LeaseId, Lease<'h>>,
) -> Result<(), Finding> {
    let when = When { call: op.call.step, end: op.end_step() };
    let clocks = terms.clocks;
    let mut state = |id: LeaseId, claim: Claim<'h>| {
        leases.entry(id).or_default().statements.push(Statement { op, claim });
    };
    match (&op.request, &op.outcome) {
        (
            Request::LeaseGrant { id, ttl_s },
            Outcome::Answered(Answer::LeaseGrant { id: given, ttl_s: ttl, revision }),
        ) => {
            let wanted = (*ttl_s).max(clocks.min_ttl_s);
            if *ttl != wanted || (*id != 0 && id != given) {
                return found!(LeaseTtl, when.end, "{op}: expected was {wanted}s");
            }
            state(*given, Claim::Granted);
            let lease = leases.entry(*given).or_default();
            lease.grants.push(Grant { when, revision: *revision });
            lease.promises.push(terms.promise(op, *ttl));
            lease.ttls.insert(*ttl);
            lease.touched(op);
        }
        (Request::LeaseGrant { id, ttl_s }, Outcome::Lost) => {
            let lease = leases.entry(*id).or_default();
            lease.grants.push(Grant { when, revision: i64::MAX });
            lease.ttls.insert((*ttl_s).max(clocks.min_ttl_s));
            lease.touched(op);
        }
        (Request::LeaseGrant { id, .. }, Outcome::Refused(Refusal::LeaseExists)) => state(*id, Claim::Alive),
        (Request::LeaseRevoke { id }, outcome) => {
            match outcome {
                Outcome::Refused(Refusal::LeaseNotFound) => {
                    state(*id, Claim::Gone);
                    leases.entry(*id).or_default().gone.push(when);
                    return Ok(());
                }
                Outcome::Refused(_) => return Ok(()),
                Outcome::Answered(_) => {
                    state(*id, Claim::Alive);
                    leases.entry(*id).or_default().gone.push(when);
                }
                Outcome::Lost => {}
            }
            leases.entry(*id).or_default().revokes.push(when);
        }
        (Request::LeaseKeepAlive { id }, Outcome::Answered(Answer::LeaseKeepAlive { ttl_s, .. })) => {
            if *ttl_s > 0 {
                state(*id, Claim::Alive);
                let lease = leases.entry(*id).or_default();
                lease.promises.push(terms.promise(op, *ttl_s));
                lease.touched(op);
            } else {
                state(*id, Claim::Gone);
                leases.entry(*id).or_default().gone.push(when);
            }
        }
        (Request::LeaseKeepAlive { id }, Outcome::Lost) => {
            leases.entry(*id).or_default().touched(op);
        }
        (
            Request::LeaseTimeToLive { id, keys: wanted },
            Outcome::Answered(Answer::LeaseTimeToLive { ttl_s, granted_ttl_s, keys, .. }),
        ) => {
            if *granted_ttl_s > 0 {
                state(*id, Claim::Left { ttl_s: *ttl_s, keys: wanted.then_some(keys) });
            } else {
                state(*id, Claim::Gone);
                leases.entry(*id).or_default().gone.push(when);
            }
        }
        (_, Outcome::Answered(_)) => {
            for id in attaches(op) {
                state(id, Claim::Alive);
            }
        }
        (Request::Put(_) | Request::Txn(_), Outcome::Refused(Refusal::LeaseNotFound)) => {
            // Of several it was one, and [`check_refused`] looks at them together.
            if let [id] = Vec::from_iter(refusals::leases_of(&op.request))[..] {
                state(id, Claim::Gone);
                leases.entry(id).or_default().gone.push(when);
            }
        }
        _ => {}
    }
    Ok(())
}

/// The leases that an answered write gave keys to.
fn attaches(op: &Operation) -> BTreeSet<LeaseId> {
    fn of_branch(ops: &[TxnOp], answer: &TxnAnswer, leases: &mut BTreeSet<LeaseId>) {
        for (op, answer) in ops.iter().zip(&answer.answers) {
            match (op, answer) {
                (TxnOp::Put(put), _) => {
                    leases.insert(put.lease);
                }
                (TxnOp::Txn(nested), OpAnswer::Txn(answer)) => {
                    of_branch(nested.branch(answer.succeeded), answer, leases);
                }
                _ => {}
            }
        }
    }
    let mut leases = BTreeSet::new();
    match (&op.request, op.answer()) {
        (Request::Put(put), Some(_)) => {
            leases.insert(put.lease);
        }
        (Request::Txn(txn), Some(Answer::Txn(answer))) => {
            of_branch(txn.branch(answer.succeeded), answer, &mut leases);
        }
        _ => {}
    }
    leases.remove(&0);
    leases
}

impl Lease<'_> {
    /// Whether somebody may have revoked it after something that began at `from` and before `to`.
    fn may_be_revoked(&self, from: u64, to: u64) -> bool {
        self.revokes.iter().rev().any(|revoke| revoke.call < to && revoke.end > from)
    }

    /// Promises that surely hold: they took effect before a statement began, and nobody revoked the lease since.
    fn holding(&self, op: &Operation) -> impl Iterator<Item = &Promise> {
        let (call, end) = (op.call.step, op.end_step());
        let made = self.promises.partition_point(|promise| promise.when.call < call);
        let recent = self.promises[..made].iter().rev().take(LOOKED_AT);
        recent.filter(move |promise| promise.when.end < call && !self.may_be_revoked(promise.when.call, end))
    }

    /// Whether it was surely gone before `call` and nobody can have granted it again before `end`.
    fn is_gone(&self, call: u64, end: u64) -> bool {
        let known = self.gone.partition_point(|gone| gone.end < call);
        let regranted =
            |since: u64| self.grants.iter().any(|grant| grant.when.call < end && grant.when.end > since);
        match self.gone[..known].last() {
            Some(gone) => !regranted(gone.call),
            None => !regranted(0),
        }
    }

    /// Whether a renewal may be of a lease that took the id after the expiry: one grant made the lease that expired,
    /// another one the lease that was renewed.
    fn may_be_of_next(&self, renewal: &Promise, revision: i64, born: u64, seen: Moment) -> bool {
        let lost = |grant: &Grant| grant.revision == i64::MAX;
        let after = |grant: &Grant| {
            grant.revision >= revision && grant.when.end > born && grant.when.call < renewal.when.end
        };
        let before =
            |grant: &Grant| (grant.revision < revision || lost(grant)) && grant.when.call < seen.step;
        let grants = || self.grants.iter().enumerate();
        let mut later = grants().filter(|(_, grant)| after(grant));
        later.any(|(next, _)| grants().any(|(this, grant)| this != next && before(grant)))
    }

    fn check_expiry(&self, id: LeaseId, revision: i64, born: u64, seen: Moment) -> Result<(), Finding> {
        let made = self.promises.partition_point(|promise| promise.when.call < seen.step);
        for promise in self.promises[..made].iter().rev().take(LOOKED_AT) {
            let of_this = match promise.granted_at {
                Some(at) => at < revision,
                None => !self.may_be_of_next(promise, revision, born, seen),
            };
            let revoked = self.may_be_revoked(promise.when.call, seen.step);
            if of_this && !revoked && promise.until_us > seen.at_us {
                return found!(
                    LeaseEarly,
                    seen.step,
                    "lease {id} expired with revision {revision} at {}us at the latest; the promise of step {} \
                     was life until {}us",
                    seen.at_us,
                    promise.when.call,
                    promise.until_us
                );
            }
        }
        Ok(())
    }

    fn check(&self, id: LeaseId, statement: &Statement<'_>, terms: &Terms<'_>) -> Result<(), Finding> {
        let op = statement.op;
        let (call, end) = (op.call.step, op.end_step());
        let end_us = op.end.map_or(u64::MAX, |end| end.at_us);
        let until_us = self.holding(op).map(|promise| promise.until_us).max().unwrap_or(0);
        let is_gone = self.is_gone(call, end);
        match (&statement.claim, op.answer()) {
            (Claim::Granted, _) if until_us > end_us => {
                found!(LeaseTwice, end, "{op}: lease {id} lives until {until_us}us")
            }
            (Claim::Gone, _) if until_us > end_us => {
                found!(LeaseEarly, end, "{op}: lease {id} lives until {until_us}us")
            }
            (Claim::Alive, None) if is_gone => found!(WrongRefusal, end, "{op}: lease {id} was gone"),
            (Claim::Alive | Claim::Left { .. }, _) if is_gone => {
                found!(LeaseGone, end, "{op}: lease {id} was gone")
            }
            (Claim::Left { ttl_s, .. }, Some(Answer::LeaseTimeToLive { granted_ttl_s, .. })) => {
                if !self.ttls.contains(granted_ttl_s) {
                    return found!(LeaseTtl, end, "{op}: granted was one of {:?}", self.ttls);
                }
                // As whoever answered knew it: later leaders extend it, this one did not know.
                let known = self.holding(op);
                let known = known.map(|promise| terms.promised(promise.from, promise.ttl_s, op.call.step));
                let until_us = known.max().unwrap_or(0);
                let left_us = (*ttl_s + 1).max(0) as u64 * 1_000_000;
                if end_us.saturating_add(left_us) < until_us {
                    return found!(LeaseShortened, end, "{op}: lease {id} lives until {until_us}us");
                }
                self.check_not_longer(id, op, *ttl_s, *granted_ttl_s, terms)
            }
            (Claim::Alive, Some(Answer::LeaseKeepAlive { ttl_s, .. })) if !self.ttls.contains(ttl_s) => {
                found!(LeaseTtl, end, "{op}: granted was one of {:?}", self.ttls)
            }
            _ => Ok(()),
        }
    }
}

impl Lease<'_> {
    /// The operation may have prolonged it.
    fn touched(&mut self, op: &Operation) {
        let lost = matches!(op.outcome, Outcome::Lost);
        let end_us = op.end.filter(|_| !lost).map_or(u64::MAX, |end| end.at_us);
        self.touched_us = self.touched_us.max(end_us);
        self.touches.push((op.call.step, end_us));
    }

    /// No more time is left than the TTL since the last thing that may have prolonged it. A new leader prolongs too, at
    /// a time that nobody noted, and by more than a TTL: after one, and until a renewal is answered, that may have been
    /// just before the answer.
    fn check_not_longer(
        &self,
        id: LeaseId,
        op: &Operation,
        left_s: i64,
        granted_s: i64,
        terms: &Terms<'_>,
    ) -> Result<(), Finding> {
        // Seconds are whole ones towards zero: 0 is said for a second after the end too.
        if left_s <= 0 {
            return Ok(());
        }
        let end_us = op.end.map_or(u64::MAX, |end| end.at_us);
        let before = self.touches.partition_point(|&(call, _)| call < op.end_step());
        let Some(&(_, touched_us)) = before.checked_sub(1).and_then(|last| self.touches.get(last)) else {
            return Ok(());
        };
        let touched_us = touched_us.min(end_us);
        let renewed_since = |won_step: u64| {
            self.promises
                .iter()
                .any(|promise| promise.when.call >= won_step && promise.when.end <= op.call.step)
        };
        let clocks = terms.clocks;
        let anew =
            terms.interregna.iter().any(|gap| gap.lost.step <= op.end_step() && !renewed_since(gap.won.step));
        let (touched_us, extension_us) = match clocks.extension_us {
            _ if !anew => (touched_us, 0),
            Some(extension_us) => (end_us, extension_us),
            None => return Ok(()),
        };
        let granted_us = granted_s.max(0) as u64 * (1_000_000 + clocks.drift_ppm) + extension_us;
        let until_us = touched_us.saturating_add(granted_us).saturating_add(clocks.slack_us);
        if op.call.at_us.saturating_add(left_s as u64 * 1_000_000) > until_us {
            return found!(
                LeaseProlonged,
                op.end_step(),
                "{op}: nothing prolonged lease {id} after {touched_us}us, so its time is up at {until_us}us"
            );
        }
        Ok(())
    }
}

/// What each lease held, by revision.
struct Holdings {
    /// (revision, key, whether it holds it from then on), in order.
    turns: HashMap<LeaseId, Vec<(i64, u32, bool)>>,
}

impl Holdings {
    fn of(timeline: &Timeline) -> Holdings {
        let mut holders: HashMap<u32, LeaseId> = HashMap::new();
        let mut turns: HashMap<LeaseId, Vec<(i64, u32, bool)>> = HashMap::new();
        for change in &timeline.model.changes {
            let lease = if change.kind == Kind::Put { change.kv.lease } else { 0 };
            let before = holders.insert(change.key, lease).unwrap_or(0);
            if before != lease {
                for (id, holds) in [(before, false), (lease, true)] {
                    if id != 0 {
                        turns.entry(id).or_default().push((change.revision, change.key, holds));
                    }
                }
            }
        }
        Holdings { turns }
    }

    /// Each list of keys is what the lease held at some revision that the call may have seen.
    fn check(
        &self,
        id: LeaseId,
        mut queries: Vec<(&Operation, &[Bytes])>,
        timeline: &Timeline,
    ) -> Result<(), Finding> {
        queries.sort_by_key(|(op, _)| op.call.step);
        let turns = self.turns.get(&id).map_or(&[][..], Vec::as_slice);
        let mut held: BTreeSet<u32> = BTreeSet::new();
        let mut next = 0;
        let turn = |held: &mut BTreeSet<u32>, &(_, key, holds): &(i64, u32, bool)| {
            if holds {
                held.insert(key)
            } else {
                held.remove(&key)
            };
        };
        for (op, keys) in queries {
            let (from, to) = (timeline.observed.floor(op.call.step), timeline.ceiling(op.end_step()));
            while let Some(change) = turns.get(next).filter(|(revision, ..)| *revision <= from) {
                turn(&mut held, change);
                next += 1;
            }
            let ranks: Option<BTreeSet<u32>> = keys.iter().map(|key| timeline.model.keys.rank(key)).collect();
            let listed = ranks.filter(|ranks| ranks.len() == keys.len());
            let mut seen = held.clone();
            let mut fits = listed.as_ref() == Some(&seen);
            let mut ahead = turns[next..].iter().peekable();
            while let Some(change) = ahead.next_if(|(revision, ..)| *revision <= to) {
                turn(&mut seen, change);
                let whole = ahead.peek().is_none_or(|(revision, ..)| *revision > change.0);
                fits |= whole && listed.as_ref() == Some(&seen);
            }
            if !fits {
                let end = op.end_step();
                return found!(LeaseKeys, end, "{op}: at no revision in {from}..={to} did it hold these");
            }
        }
        Ok(())
    }
}

/// Whoever was due long before the history settled holds no keys any more.
fn check_late(
    history: &History,
    timeline: &Timeline,
    terms: &Terms<'_>,
    leases: &BTreeMap<LeaseId, Lease<'_>>,
) -> Result<(), Finding> {
    let clocks = terms.clocks;
    let (Some((settled, revision)), Some(late_us)) = (history.settled(), clocks.late_us) else {
        return Ok(());
    };
    if revision < timeline.last() {
        return Ok(());
    }
    let won_us = terms.interregna.iter().map(|gap| gap.won.at_us).max().unwrap_or(0);
    let mut late: Vec<LeaseId> = Vec::new();
    for (id, _) in timeline.model.holding() {
        let Some(lease) = leases.get(&id) else { continue };
        let ttl_s = lease.ttls.last().copied().unwrap_or(0).max(0) as u64;
        let ttl_us = ttl_s * (1_000_000 + clocks.drift_ppm);
        let due_us = lease.touched_us.max(won_us).saturating_add(ttl_us).saturating_add(late_us);
        if settled.at_us > due_us {
            late.push(id);
        }
    }
    match late.iter().min() {
        None => Ok(()),
        Some(id) => {
            found!(
                LeaseLate,
                settled.step,
                "lease {id} still holds keys at revision {revision}; late: {late:?}"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A lease of 10 s on a clock that stands still, and a restart: its end and its begin at the same microsecond.
    fn history(asked_before: bool, left_s: i64) -> History {
        const STILL_US: u64 = 5_000_000;
        let mut history = History::new();
        history.note(1, Note::Started { member: 0 });
        let grant = history.call(1, 0, 1_000_000, Request::LeaseGrant { id: 7, ttl_s: 10 });
        history.answered(grant, 1_000_000, Answer::LeaseGrant { revision: 1, id: 7, ttl_s: 10 });
        let ask = |history: &mut History| {
            let ask = history.call(1, 0, STILL_US, Request::LeaseTimeToLive { id: 7, keys: false });
            let answer =
                Answer::LeaseTimeToLive { revision: 1, ttl_s: left_s, granted_ttl_s: 10, keys: Vec::new() };
            history.answered(ask, STILL_US, answer);
        };
        if asked_before {
            ask(&mut history);
        }
        let renew = history.call(1, 0, STILL_US, Request::LeaseKeepAlive { id: 7 });
        if asked_before {
            history.lost(renew, STILL_US);
        } else {
            history.answered(renew, STILL_US, Answer::LeaseKeepAlive { revision: 1, ttl_s: 10 });
        }
        history.note(STILL_US, Note::Stopped { member: 0 });
        history.note(STILL_US, Note::Started { member: 0 });
        if !asked_before {
            ask(&mut history);
        }
        history
    }

    #[test]
    fn while_a_clock_stands_still_steps_tell_before_from_after() {
        let clocks =
            Clocks { drift_ppm: 0, slack_us: 0, min_ttl_s: 1, late_us: None, extension_us: Some(1_000_000) };
        let judge = |history: &History| crate::check::history(history, &clocks).map(|_| ());
        // The start that comes later prolongs nothing yet; the one that came prolongs by more than a TTL.
        assert_eq!(judge(&history(true, 6)), Ok(()));
        assert_eq!(judge(&history(false, 11)), Ok(()));
        // And what is wrong stays so.
        assert!(judge(&history(true, 3)).is_err(), "shortened");
        assert!(judge(&history(true, 11)).is_err(), "prolonged by nobody");
        assert!(judge(&history(false, 8)).is_err(), "shortened after a start");
    }
}
