//! Whether there was a reason for a refusal: what etcd would say of this request, in a state that there may have been.
//!
//! - What a request has wrong in itself is seen by the request: a text that names something else is a finding, and so is
//!   an answer to a request that is surely wrong.
//! - Compacted, future, a key that is not there: held against every state between the call and its end.
//! - A lease that is there or not there: only who names one can be refused for it. Whether it was, is for
//!   [`super::lease`] to say.
//! - Too many requests: only while the recorder says that the servers are strained
//!   ([`Note::Strained`](crate::history::Note::Strained)).
//!
//! Where a transaction's branch, or a lost call, leaves open what was asked for, every possibility is allowed.

use std::borrow::Cow;
use std::collections::BTreeSet;

use base::LeaseId;
use proto::errors;

use super::timeline::Timeline;
use super::{Finding, found};
use crate::history::{
    Bytes, DeleteRange, History, Kind, Note, Operation, Outcome, Put, Range, Refusal, Request, Txn, TxnOp,
};

/// No server that is recorded refuses a request of fewer bytes as too large.
const LARGE_BYTES: usize = 64 << 10;
/// etcd's defaults.
const OPERATIONS_MAX: usize = 128;
const TTL_MAX_S: i64 = 9_000_000_000;

pub fn check(history: &History, timeline: &Timeline) -> Result<(), Finding> {
    let strain = Strain::of(history);
    for op in &history.operations {
        let flaw = flaw(&op.request);
        match (&op.outcome, &flaw) {
            (Outcome::Answered(_), Some(text)) => {
                return found!(WriteAnswer, op.end_step(), "{op}: expected was: refused: {text}");
            }
            (Outcome::Refused(refusal), Some(text))
                if !(says(refusal, text) || is_for_strain(refusal) && strain.was_while(op)) =>
            {
                return found!(WrongRefusal, op.end_step(), "{op}: expected was: {text}");
            }
            (Outcome::Refused(refusal), None) if !is_justified(op, refusal, timeline, &strain) => {
                return found!(WrongRefusal, op.end_step(), "{op}: there was no reason");
            }
            _ => {}
        }
    }
    Ok(())
}

fn says(refusal: &Refusal, text: &str) -> bool {
    matches!(refusal, Refusal::Other(said) if **said == *text)
}

fn is_for_strain(refusal: &Refusal) -> bool {
    says(refusal, &errors::REQUEST_TOO_MANY_REQUESTS.message)
}

/// What is refused whatever the state is: the text.
fn flaw(request: &Request) -> Option<Cow<'static, str>> {
    let flaw = match request {
        Request::Put(Put { key, .. }) if key.is_empty() => errors::EMPTY_KEY,
        Request::Put(put) if put.ignore_value && !put.value.is_empty() => errors::VALUE_PROVIDED,
        Request::Put(put) if put.ignore_lease && put.lease != 0 => errors::LEASE_PROVIDED,
        Request::DeleteRange(DeleteRange { key, .. }) | Request::Range(Range { key, .. })
            if key.is_empty() =>
        {
            errors::EMPTY_KEY
        }
        Request::LeaseGrant { ttl_s, .. } if *ttl_s > TTL_MAX_S => errors::LEASE_TTL_TOO_LARGE,
        _ => return None,
    };
    Some(flaw.message)
}

/// When servers may have had more to do than they could: from step to step.
struct Strain(Vec<(u64, u64)>);

impl Strain {
    fn of(history: &History) -> Strain {
        let mut spans: Vec<(u64, u64)> = Vec::new();
        for (at, note) in &history.notes {
            let open = spans.last().is_some_and(|span| span.1 == u64::MAX);
            match note {
                Note::Strained if !open => spans.push((at.step, u64::MAX)),
                Note::Relieved if open => spans.last_mut().expect("it is open").1 = at.step,
                _ => {}
            }
        }
        Strain(spans)
    }

    fn was_while(&self, op: &Operation) -> bool {
        self.0.iter().any(|&(from, to)| from < op.end_step() && op.call.step < to)
    }
}

/// What a request names, nested transactions and both branches included.
#[derive(Default)]
struct Named<'r> {
    puts: Vec<&'r Put>,
    deletes: Vec<&'r DeleteRange>,
    ranges: Vec<&'r Range>,
    /// Compares and transactions.
    others: usize,
    empty_key: bool,
    compare_bytes: usize,
}

impl<'r> Named<'r> {
    fn of(request: &'r Request) -> Named<'r> {
        let mut named = Named::default();
        match request {
            Request::Put(put) => named.puts.push(put),
            Request::DeleteRange(delete) => named.deletes.push(delete),
            Request::Range(range) => named.ranges.push(range),
            Request::Txn(txn) => named.txn(txn),
            _ => {}
        }
        let keys = named.puts.iter().map(|put| &put.key);
        let keys = keys.chain(named.deletes.iter().map(|delete| &delete.key));
        let mut keys = keys.chain(named.ranges.iter().map(|range| &range.key));
        named.empty_key |= keys.any(|key| key.is_empty());
        named
    }

    fn branch(ops: &'r [TxnOp]) -> Named<'r> {
        let mut named = Named::default();
        named.ops(ops);
        named
    }

    fn txn(&mut self, txn: &'r Txn) {
        self.others += 1 + txn.compares.len();
        for compare in &txn.compares {
            self.empty_key |= compare.key.is_empty();
            self.compare_bytes += compare.key.len() + compare.range_end.len() + 32;
        }
        self.ops(&txn.then);
        self.ops(&txn.otherwise);
    }

    fn ops(&mut self, ops: &'r [TxnOp]) {
        for op in ops {
            match op {
                TxnOp::Put(put) => self.puts.push(put),
                TxnOp::DeleteRange(delete) => self.deletes.push(delete),
                TxnOp::Range(range) => self.ranges.push(range),
                TxnOp::Txn(nested) => self.txn(nested),
            }
        }
    }

    fn bytes(&self) -> usize {
        let puts: usize = self.puts.iter().map(|put| put.key.len() + put.value.len() + 32).sum();
        let spans = self.deletes.iter().map(|delete| (&delete.key, &delete.range_end));
        let spans = spans.chain(self.ranges.iter().map(|range| (&range.key, &range.range_end)));
        let spans: usize = spans.map(|(key, end)| key.len() + end.len() + 64).sum();
        puts + spans + self.compare_bytes
    }

    fn operations(&self) -> usize {
        self.puts.len() + self.deletes.len() + self.ranges.len() + self.others
    }

    fn deletes(&self, key: &Bytes) -> bool {
        self.deletes.iter().any(|delete| match &*delete.range_end {
            [] => delete.key == *key,
            [0] => delete.key <= *key,
            end => delete.key <= *key && **key < *end,
        })
    }

    /// A key that is put twice, or put and deleted. Which of them etcd lets pass is not looked at.
    fn has_a_key_twice(&self) -> bool {
        let mut keys = BTreeSet::new();
        self.puts.iter().any(|put| !keys.insert(&put.key) || self.deletes(&put.key))
    }
}

fn keeps(put: &Put) -> bool {
    put.ignore_value || put.ignore_lease
}

/// The leases that a request would give keys to.
pub(super) fn leases_of(request: &Request) -> BTreeSet<LeaseId> {
    Named::of(request).puts.iter().map(|put| put.lease).filter(|&id| id != 0).collect()
}

fn is_justified(op: &Operation, refusal: &Refusal, timeline: &Timeline, strain: &Strain) -> bool {
    let observed = &timeline.observed;
    let (call, end) = (op.call.step, op.end_step());
    let named = Named::of(&op.request);
    let past = || named.ranges.iter().map(|range| range.revision);
    match refusal {
        Refusal::Compacted => {
            let compacted = observed.may_be_compacted(end);
            match op.request {
                Request::Compact { revision } => revision <= compacted,
                _ => past().any(|revision| revision > 0 && revision < compacted),
            }
        }
        Refusal::FutureRevision => {
            let serializable = match &op.request {
                Request::Range(range) => range.serializable,
                Request::Txn(txn) => txn.is_serializable(),
                _ => false,
            };
            let floor =
                if serializable { observed.member_floor(op.member, call) } else { observed.floor(call) };
            match op.request {
                Request::Compact { revision } => revision > floor,
                _ => past().any(|revision| revision > floor),
            }
        }
        Refusal::KeyNotFound => named
            .puts
            .iter()
            .any(|put| keeps(put) && (was_absent(op, &put.key, timeline) || named.deletes(&put.key))),
        Refusal::LeaseNotFound => {
            matches!(op.request, Request::LeaseRevoke { .. }) || named.puts.iter().any(|put| put.lease != 0)
        }
        Refusal::LeaseExists => matches!(op.request, Request::LeaseGrant { id, .. } if id != 0),
        Refusal::Other(text) => is_wrong_in_itself(op, &named, text, strain),
    }
}

/// Refusals for what a request is, or for how much there is to do.
fn is_wrong_in_itself(op: &Operation, named: &Named<'_>, text: &str, strain: &Strain) -> bool {
    let says = |error: &errors::Error| text == error.message;
    if says(&errors::EMPTY_KEY) {
        named.empty_key
    } else if says(&errors::VALUE_PROVIDED) {
        named.puts.iter().any(|put| put.ignore_value && !put.value.is_empty())
    } else if says(&errors::LEASE_PROVIDED) {
        named.puts.iter().any(|put| put.ignore_lease && put.lease != 0)
    } else if says(&errors::TOO_MANY_OPS) {
        named.operations() > OPERATIONS_MAX
    } else if says(&errors::DUPLICATE_KEY) {
        // Whoever takes one branch has nothing of the other.
        let Request::Txn(txn) = &op.request else { return false };
        [&txn.then, &txn.otherwise].into_iter().any(|ops| Named::branch(ops).has_a_key_twice())
    } else if says(&errors::REQUEST_TOO_LARGE) {
        named.bytes() >= LARGE_BYTES
    } else if says(&errors::LEASE_TTL_TOO_LARGE) {
        matches!(op.request, Request::LeaseGrant { ttl_s, .. } if ttl_s > TTL_MAX_S)
    } else if says(&errors::REQUEST_TOO_MANY_REQUESTS) {
        strain.was_while(op)
    } else {
        false
    }
}

/// Whether a key may have been absent while the operation was under way.
fn was_absent(op: &Operation, key: &Bytes, timeline: &Timeline) -> bool {
    let Some(rank) = timeline.model.keys.rank(key) else { return true };
    let from = timeline.observed.floor(op.call.step);
    let to = timeline.ceiling(op.end_step());
    if timeline.model.seen_at(rank, from).is_none() {
        return true;
    }
    let changes = timeline.model.of_key(rank).iter().map(|&at| &timeline.model.changes[at as usize]);
    let mut between = changes.filter(|change| change.revision > from && change.revision <= to);
    between.any(|change| change.kind == Kind::Delete)
}
