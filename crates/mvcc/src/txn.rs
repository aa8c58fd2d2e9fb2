//! Transactions: compares choose a path, the path is checked, then it is executed. Nothing fails after the first
//! change.
//!
//! All compares, those of nested transactions too, look at the state before the transaction; so do the checks, which
//! follow the path that will be taken and no other. Execution sees its own changes.
//!
//! One case is not etcd's: a put that keeps its key's value or lease, after the same transaction has deleted the key,
//! crashes etcd. Here the transaction is refused with "key not found", before anything is changed, on every member.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::Bound;

use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::request_op::Request;
use pb::response_op::Response;
use proto::etcdserverpb as pb;
use proto::{Error, errors};
use tree::View;

use crate::apply::{Apply, check_put, header};
use crate::cell::KvRef;
use crate::range::range;
use crate::span::{End, Span};
use crate::stamp::Revisions;
use crate::versions::{self, Walk};

/// Whether the transaction is nothing but ranges, in both branches: then it needs no log entry. An empty one is.
pub fn is_read_only(request: &pb::TxnRequest) -> bool {
    let range = |op: &pb::RequestOp| matches!(op.request, Some(Request::RequestRange(_)));
    request.success.iter().all(range) && request.failure.iter().all(range)
}

/// Whether all of its operations are serializable ranges: then it needs no read barrier either.
pub fn is_serializable(request: &pb::TxnRequest) -> bool {
    let serializable =
        |op: &pb::RequestOp| matches!(&op.request, Some(Request::RequestRange(range)) if range.serializable);
    request.success.iter().all(serializable) && request.failure.iter().all(serializable)
}

/// Executes a transaction for which [`is_read_only`] holds. Errors: future, compacted.
pub fn txn_read_only(
    view: View<'_>,
    revisions: Revisions,
    request: &pb::TxnRequest,
) -> Result<pb::TxnResponse, Error> {
    assert!(is_read_only(request), "writes go through the log");
    let succeeded = holds(view, revisions, &request.compare);
    let ops = if succeeded { &request.success } else { &request.failure };
    check(view, revisions, ops, &mut [].iter(), &mut false)?;
    let mut responses = Vec::with_capacity(ops.len());
    for op in ops {
        if let Some(Request::RequestRange(request)) = &op.request {
            let response = range(view, revisions, request)?.to_message();
            responses.push(pb::ResponseOp { response: Some(Response::ResponseRange(response)) });
        }
    }
    Ok(pb::TxnResponse { header: header(revisions.current), succeeded, responses })
}

/// Decides every compare on the path, in the order in which transactions are met.
fn choose(view: View<'_>, revisions: Revisions, request: &pb::TxnRequest, path: &mut Vec<bool>) {
    let succeeded = holds(view, revisions, &request.compare);
    path.push(succeeded);
    for op in if succeeded { &request.success } else { &request.failure } {
        if let Some(Request::RequestTxn(nested)) = &op.request {
            choose(view, revisions, nested, path);
        }
    }
}

fn holds(view: View<'_>, revisions: Revisions, compares: &[pb::Compare]) -> bool {
    compares.iter().all(|compare| compare_holds(view, revisions, compare))
}

fn compare_holds(view: View<'_>, revisions: Revisions, compare: &pb::Compare) -> bool {
    let span = Span::new(&compare.key, &compare.range_end);
    // No way to tell a missing value from an empty one, so that a value never compares with what is not there.
    let absent = || compare.target != CompareTarget::Value as i32 && pair_holds(compare, None);
    if span.is_single() {
        return match versions::newest(view, span.start) {
            Some(cell) => pair_holds(compare, Some(cell.kv())),
            None => absent(),
        };
    }
    let mut walk = Walk::new(view, span, revisions.current, revisions.current, u64::MAX);
    let Some((_, mut cell)) = walk.step() else { return absent() };
    loop {
        if !pair_holds(compare, Some(cell.kv())) {
            return false;
        }
        match walk.step() {
            Some((_, next)) => cell = next,
            None => return true,
        }
    }
}

/// Compares one pair, or zeros when there is none. A result that is none of the four holds always, a target that is
/// none of the five compares equal, and an operand of the wrong type counts as zero.
fn pair_holds(compare: &pb::Compare, pair: Option<KvRef<'_>>) -> bool {
    let number = |of: fn(&KvRef<'_>) -> i64, operand: Option<i64>| {
        pair.as_ref().map_or(0, of).cmp(&operand.unwrap_or_default())
    };
    let union = compare.target_union.as_ref();
    let ordering = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Value) => {
            let operand: &[u8] = match union {
                Some(TargetUnion::Value(value)) => value,
                _ => &[],
            };
            pair.map_or(&[][..], |kv| kv.value).cmp(operand)
        }
        Ok(CompareTarget::Create) => number(
            |kv| kv.create,
            match union {
                Some(TargetUnion::CreateRevision(revision)) => Some(*revision),
                _ => None,
            },
        ),
        Ok(CompareTarget::Mod) => number(
            |kv| kv.mod_,
            match union {
                Some(TargetUnion::ModRevision(revision)) => Some(*revision),
                _ => None,
            },
        ),
        Ok(CompareTarget::Version) => number(
            |kv| kv.version,
            match union {
                Some(TargetUnion::Version(version)) => Some(*version),
                _ => None,
            },
        ),
        Ok(CompareTarget::Lease) => number(
            |kv| kv.lease,
            match union {
                Some(TargetUnion::Lease(lease)) => Some(*lease),
                _ => None,
            },
        ),
        Err(_) => Ordering::Equal,
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => ordering.is_eq(),
        Ok(CompareResult::NotEqual) => ordering.is_ne(),
        Ok(CompareResult::Greater) => ordering.is_gt(),
        Ok(CompareResult::Less) => ordering.is_lt(),
        Err(_) => true,
    }
}

/// The operations that the path takes in `request`, which is the next transaction on it.
fn branch<'r>(
    request: &'r pb::TxnRequest,
    path: &mut std::slice::Iter<'_, bool>,
) -> (bool, &'r [pb::RequestOp]) {
    match path.next() {
        Some(true) => (true, &request.success),
        Some(false) => (false, &request.failure),
        None => panic!("every transaction on the path was decided"),
    }
}

/// The revision that a range inside a transaction asks for; unlike elsewhere a negative one is looked at.
fn check_range(revisions: Revisions, request: &pb::RangeRequest) -> Result<(), Error> {
    match request.revision {
        0 => Ok(()),
        revision if revision > revisions.current => Err(errors::FUTURE_REV),
        revision if revision < revisions.compacted => Err(errors::COMPACTED),
        _ => Ok(()),
    }
}

/// Checks what can fail, in the order of execution; notes whether a put keeps its key's value or lease.
fn check(
    view: View<'_>,
    revisions: Revisions,
    ops: &[pb::RequestOp],
    path: &mut std::slice::Iter<'_, bool>,
    keeps: &mut bool,
) -> Result<(), Error> {
    for op in ops {
        match &op.request {
            Some(Request::RequestRange(request)) => check_range(revisions, request)?,
            Some(Request::RequestPut(request)) => {
                *keeps |= request.ignore_value || request.ignore_lease;
                check_put(view, request)?;
            }
            Some(Request::RequestTxn(request)) => {
                let (_, ops) = branch(request, path);
                check(view, revisions, ops, path, keeps)?;
            }
            Some(Request::RequestDeleteRange(_)) | None => {}
        }
    }
    Ok(())
}

/// Which of the keys that are to keep their value or lease still exist, while the operations before are played.
#[derive(Default)]
struct Keepers<'r> {
    all: BTreeSet<&'r [u8]>,
    alive: BTreeSet<&'r [u8]>,
}

impl<'r> Keepers<'r> {
    fn gather(&mut self, ops: &'r [pb::RequestOp], path: &mut std::slice::Iter<'_, bool>) {
        for op in ops {
            match &op.request {
                Some(Request::RequestPut(put)) if put.ignore_value || put.ignore_lease => {
                    self.all.insert(&put.key);
                    self.alive.insert(&put.key);
                }
                Some(Request::RequestTxn(nested)) => {
                    let (_, ops) = branch(nested, path);
                    self.gather(ops, path);
                }
                _ => {}
            }
        }
    }

    fn play(&mut self, ops: &'r [pb::RequestOp], path: &mut std::slice::Iter<'_, bool>) -> Result<(), Error> {
        for op in ops {
            match &op.request {
                Some(Request::RequestPut(put)) => {
                    let key = put.key.as_slice();
                    if (put.ignore_value || put.ignore_lease) && !self.alive.contains(key) {
                        return Err(errors::KEY_NOT_FOUND);
                    }
                    if self.all.contains(key) {
                        self.alive.insert(key);
                    }
                }
                Some(Request::RequestDeleteRange(delete)) => {
                    let span = Span::new(&delete.key, &delete.range_end);
                    let end = match span.end {
                        End::Single => Bound::Included(span.start),
                        End::Open => Bound::Unbounded,
                        End::Before(end) if end <= span.start => continue,
                        End::Before(end) => Bound::Excluded(end),
                    };
                    let bounds = (Bound::Included(span.start), end);
                    let gone: Vec<&[u8]> = self.alive.range::<[u8], _>(bounds).copied().collect();
                    for key in gone {
                        self.alive.remove(key);
                    }
                }
                Some(Request::RequestTxn(nested)) => {
                    let (_, ops) = branch(nested, path);
                    self.play(ops, path)?;
                }
                Some(Request::RequestRange(_)) | None => {}
            }
        }
        Ok(())
    }
}

impl Apply<'_> {
    /// Executes a transaction. Errors, all before the first change: future and compacted of a range, no such lease,
    /// no such key.
    pub fn txn(&mut self, request: &pb::TxnRequest) -> Result<pb::TxnResponse, Error> {
        let mut path = std::mem::take(&mut self.work.scratch.path);
        path.clear();
        let result = self.txn_on_path(request, &mut path);
        self.work.scratch.path = path;
        result
    }

    fn txn_on_path(
        &mut self,
        request: &pb::TxnRequest,
        path: &mut Vec<bool>,
    ) -> Result<pb::TxnResponse, Error> {
        let revisions = self.revisions();
        choose(self.view(), revisions, request, path);
        let mut keeps = false;
        let mut steps = path.iter();
        let (_, ops) = branch(request, &mut steps);
        check(self.view(), revisions, ops, &mut steps, &mut keeps)?;
        if keeps {
            let mut keepers = Keepers::default();
            let mut steps = path.iter();
            let (_, ops) = branch(request, &mut steps);
            keepers.gather(ops, &mut steps.clone());
            keepers.play(ops, &mut steps)?;
        }
        let mut steps = path.iter();
        let mut response = self.execute(request, &mut steps);
        assert!(steps.next().is_none(), "the path was walked to its end");
        response.header = header(self.revision());
        self.commit();
        Ok(response)
    }

    fn execute(
        &mut self,
        request: &pb::TxnRequest,
        path: &mut std::slice::Iter<'_, bool>,
    ) -> pb::TxnResponse {
        let (succeeded, ops) = branch(request, path);
        let mut responses = Vec::with_capacity(ops.len());
        for op in ops {
            let response = match &op.request {
                Some(Request::RequestRange(request)) => {
                    Some(Response::ResponseRange(self.range_inside(request)))
                }
                Some(Request::RequestPut(request)) => {
                    Some(Response::ResponsePut(self.put_unchecked(request)))
                }
                Some(Request::RequestDeleteRange(request)) => {
                    Some(Response::ResponseDeleteRange(self.delete_range_in_txn(request)))
                }
                Some(Request::RequestTxn(request)) => {
                    Some(Response::ResponseTxn(self.execute(request, path)))
                }
                None => None,
            };
            responses.push(pb::ResponseOp { response });
        }
        // The header of a nested answer is there, and empty.
        pb::TxnResponse { header: header(0), succeeded, responses }
    }

    fn range_inside(&self, request: &pb::RangeRequest) -> pb::RangeResponse {
        if !self.work.answers {
            return pb::RangeResponse { header: header(self.revision()), ..Default::default() };
        }
        match range(self.view(), self.revisions(), request) {
            Ok(answer) => answer.to_message(),
            Err(error) => panic!("a range that was checked fails: {error}"),
        }
    }
}
