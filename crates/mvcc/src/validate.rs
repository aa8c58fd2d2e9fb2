//! What makes a request invalid before the store is asked: the checks of etcd's front end, in its order.
//!
//! The duplicate-key check looks at range ends as they came over the wire: a delete from a key on (`range_end` is one
//! zero byte) is an interval that ends before it begins, so it overlaps nothing, and such a transaction may change
//! one key twice. etcd does that too, and history is keyed so that it works.

use std::collections::{BTreeMap, HashSet};
use std::ops::Bound;

use base::limits::TXN_DEPTH;
use pb::range_request::{SortOrder, SortTarget};
use pb::request_op::Request;
use proto::errors;
use proto::etcdserverpb as pb;
use proto::{Code, Error};

use crate::range::{default_order, has_filters};

const STREAM_SORT: Error =
    Error::fixed(Code::Unimplemented, "RangeStream does not support custom sort orders");
const STREAM_FILTERS: Error =
    Error::fixed(Code::Unimplemented, "RangeStream does not support revision filters");

pub fn range(request: &pb::RangeRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        return Err(errors::EMPTY_KEY);
    }
    if SortOrder::try_from(request.sort_order).is_err() || SortTarget::try_from(request.sort_target).is_err()
    {
        return Err(errors::INVALID_SORT_OPTION);
    }
    Ok(())
}

pub fn range_stream(request: &pb::RangeRequest) -> Result<(), Error> {
    range(request)?;
    if !default_order(request) {
        return Err(STREAM_SORT);
    }
    if has_filters(request) {
        return Err(STREAM_FILTERS);
    }
    Ok(())
}

pub fn put(request: &pb::PutRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        return Err(errors::EMPTY_KEY);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(errors::VALUE_PROVIDED);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(errors::LEASE_PROVIDED);
    }
    Ok(())
}

pub fn delete_range(request: &pb::DeleteRangeRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        return Err(errors::EMPTY_KEY);
    }
    Ok(())
}

/// `max_ops` is --max-txn-ops; each level of nesting uses up as many as its longest list has.
pub fn txn(request: &pb::TxnRequest, max_ops: usize) -> Result<(), Error> {
    operations(request, max_ops, TXN_DEPTH)?;
    overlaps(&request.success)?;
    overlaps(&request.failure)?;
    Ok(())
}

fn operations(request: &pb::TxnRequest, max_ops: usize, depth: usize) -> Result<(), Error> {
    let longest = request.compare.len().max(request.success.len()).max(request.failure.len());
    let Some(rest) = max_ops.checked_sub(longest) else {
        return Err(errors::TOO_MANY_OPS);
    };
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(errors::EMPTY_KEY);
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Request::RequestRange(request)) => range(request)?,
            Some(Request::RequestPut(request)) => put(request)?,
            Some(Request::RequestDeleteRange(request)) => delete_range(request)?,
            Some(Request::RequestTxn(_)) if depth == 0 => return Err(errors::TOO_MANY_OPS),
            Some(Request::RequestTxn(request)) => operations(request, rest, depth - 1)?,
            None => return Err(errors::KEY_NOT_FOUND),
        }
    }
    Ok(())
}

/// What a list of operations puts and deletes, nested ones included.
#[derive(Default)]
struct Touched<'r> {
    puts: HashSet<&'r [u8]>,
    deletes: Intervals,
}

/// Disjoint half-open intervals, begin -> end.
#[derive(Default)]
struct Intervals {
    ends: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Intervals {
    /// Adds `[begin, end)`; one that ends before it begins covers nothing.
    fn insert(&mut self, begin: Vec<u8>, end: Vec<u8>) {
        if end <= begin {
            return;
        }
        let (mut begin, mut end) = (begin, end);
        while let Some((first, last)) = self.ends.range(..=end.clone()).next_back() {
            if *last < begin {
                break;
            }
            let first = first.clone();
            if let Some(last) = self.ends.remove(&first) {
                begin = begin.min(first);
                end = end.max(last);
            }
        }
        self.ends.insert(begin, end);
    }

    fn covers(&self, key: &[u8]) -> bool {
        self.ends
            .range::<[u8], _>((Bound::Unbounded, Bound::Included(key)))
            .next_back()
            .is_some_and(|(_, end)| key < end.as_slice())
    }
}

fn overlaps(ops: &[pb::RequestOp]) -> Result<Touched<'_>, Error> {
    let mut all = Touched::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request {
            let end = if delete.range_end.is_empty() {
                [delete.key.as_slice(), &[0]].concat()
            } else {
                delete.range_end.clone()
            };
            all.deletes.insert(delete.key.clone(), end);
        }
    }
    for op in ops {
        let Some(Request::RequestTxn(nested)) = &op.request else { continue };
        let then = overlaps(&nested.success)?;
        let otherwise = overlaps(&nested.failure)?;
        for key in &then.puts {
            if all.puts.contains(key) || all.deletes.covers(key) {
                return Err(errors::DUPLICATE_KEY);
            }
        }
        for key in &otherwise.puts {
            // Both branches may put it: only one of them runs.
            if all.puts.contains(key) || all.deletes.covers(key) {
                return Err(errors::DUPLICATE_KEY);
            }
        }
        all.puts.extend(then.puts);
        all.puts.extend(otherwise.puts);
        for (begin, end) in then.deletes.ends.into_iter().chain(otherwise.deletes.ends) {
            all.deletes.insert(begin, end);
        }
    }
    for op in ops {
        if let Some(Request::RequestPut(put)) = &op.request {
            let key = put.key.as_slice();
            if all.puts.contains(key) || all.deletes.covers(key) {
                return Err(errors::DUPLICATE_KEY);
            }
            all.puts.insert(key);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Random;

    fn put_op(key: &[u8]) -> pb::RequestOp {
        let put = pb::PutRequest { key: key.to_vec(), ..Default::default() };
        pb::RequestOp { request: Some(Request::RequestPut(put)) }
    }

    fn delete_op(key: &[u8], range_end: &[u8]) -> pb::RequestOp {
        let delete =
            pb::DeleteRangeRequest { key: key.to_vec(), range_end: range_end.to_vec(), prev_kv: false };
        pb::RequestOp { request: Some(Request::RequestDeleteRange(delete)) }
    }

    fn nest(success: Vec<pb::RequestOp>, failure: Vec<pb::RequestOp>) -> pb::RequestOp {
        pb::RequestOp { request: Some(Request::RequestTxn(then(success, failure))) }
    }

    fn then(success: Vec<pb::RequestOp>, failure: Vec<pb::RequestOp>) -> pb::TxnRequest {
        pb::TxnRequest { compare: vec![], success, failure }
    }

    #[test]
    fn one_key_is_changed_once_except_where_etcd_looks_away() {
        let duplicate = Err(errors::DUPLICATE_KEY);
        let cases = [
            (then(vec![put_op(b"a"), put_op(b"a")], vec![]), duplicate.clone()),
            (then(vec![put_op(b"a")], vec![put_op(b"a")]), Ok(())),
            (then(vec![put_op(b"a"), delete_op(b"a", b"")], vec![]), duplicate.clone()),
            (then(vec![put_op(b"b"), delete_op(b"a", b"c")], vec![]), duplicate.clone()),
            (then(vec![put_op(b"c"), delete_op(b"a", b"c")], vec![]), Ok(())),
            (then(vec![], vec![put_op(b"b"), delete_op(b"a", b"c")]), duplicate.clone()),
            // Deletes overlap as they like.
            (then(vec![delete_op(b"a", b"c"), delete_op(b"b", b"")], vec![]), Ok(())),
            // From a key on: no overlap is seen.
            (then(vec![put_op(b"b"), delete_op(b"a", b"\0")], vec![]), Ok(())),
            (then(vec![delete_op(b"a", b"\0"), put_op(b"b")], vec![]), Ok(())),
            // Nested: a put and then a sibling's delete pass, the other way round they do not.
            (
                then(
                    vec![nest(vec![put_op(b"a")], vec![]), nest(vec![delete_op(b"a", b"")], vec![])],
                    vec![],
                ),
                Ok(()),
            ),
            (
                then(
                    vec![nest(vec![delete_op(b"a", b"")], vec![]), nest(vec![put_op(b"a")], vec![])],
                    vec![],
                ),
                duplicate.clone(),
            ),
            // Either branch of one nested transaction may put it, two siblings may not.
            (then(vec![nest(vec![put_op(b"a")], vec![put_op(b"a")])], vec![]), Ok(())),
            (
                then(vec![nest(vec![put_op(b"a")], vec![]), nest(vec![], vec![put_op(b"a")])], vec![]),
                duplicate.clone(),
            ),
            (then(vec![nest(vec![put_op(b"a")], vec![]), put_op(b"a")], vec![]), duplicate.clone()),
            (then(vec![nest(vec![], vec![delete_op(b"a", b"")]), put_op(b"a")], vec![]), duplicate),
        ];
        for (i, (request, expected)) in cases.into_iter().enumerate() {
            assert_eq!(txn(&request, 128), expected, "case {i}");
        }
    }

    #[test]
    fn nesting_uses_up_operations() {
        let inner = |n: u8| nest((0..n).map(|i| put_op(&[b'a', i])).collect(), vec![]);
        assert_eq!(txn(&then(vec![inner(3)], vec![]), 4), Ok(()));
        assert_eq!(txn(&then(vec![inner(4)], vec![]), 4), Err(errors::TOO_MANY_OPS));
        assert_eq!(txn(&then(vec![put_op(b"a"), put_op(b"b")], vec![]), 1), Err(errors::TOO_MANY_OPS));
        let empty = pb::RequestOp { request: None };
        assert_eq!(txn(&then(vec![empty], vec![]), 4), Err(errors::KEY_NOT_FOUND));
        let compare = pb::TxnRequest { compare: vec![pb::Compare::default()], ..Default::default() };
        assert_eq!(txn(&compare, 4), Err(errors::EMPTY_KEY));
    }

    #[test]
    fn fields_that_exclude_each_other() {
        let base = pb::PutRequest { key: b"k".to_vec(), ..Default::default() };
        assert_eq!(put(&pb::PutRequest::default()), Err(errors::EMPTY_KEY));
        let value = pb::PutRequest { ignore_value: true, value: b"v".to_vec(), ..base.clone() };
        assert_eq!(put(&value), Err(errors::VALUE_PROVIDED));
        let lease = pb::PutRequest { ignore_lease: true, lease: 1, ..base };
        assert_eq!(put(&lease), Err(errors::LEASE_PROVIDED));
        let get = pb::RangeRequest { key: b"k".to_vec(), ..Default::default() };
        for bad in [
            pb::RangeRequest { sort_order: 3, ..get.clone() },
            pb::RangeRequest { sort_target: 5, ..get.clone() },
        ] {
            assert_eq!(range(&bad), Err(errors::INVALID_SORT_OPTION));
        }
        let sorted = pb::RangeRequest { sort_order: SortOrder::Descend as i32, ..get.clone() };
        assert_eq!(range_stream(&sorted), Err(STREAM_SORT));
        let filtered = pb::RangeRequest { max_mod_revision: 1, ..get.clone() };
        assert_eq!(range_stream(&filtered), Err(STREAM_FILTERS));
        let unsorted = pb::RangeRequest { sort_target: SortTarget::Mod as i32, ..get };
        assert_eq!(range_stream(&unsorted), Ok(()));
    }

    #[test]
    fn intervals_cover_what_was_inserted() {
        let mut random = Random::new(3);
        for _ in 0..300 {
            let mut intervals = Intervals::default();
            let mut covered = [false; 64];
            for _ in 0..random.below(12) {
                let (begin, end) = (random.below(64) as u8, random.below(64) as u8);
                intervals.insert(vec![begin], vec![end]);
                for at in begin..end {
                    covered[usize::from(at)] = true;
                }
            }
            for (at, &covered) in covered.iter().enumerate() {
                assert_eq!(intervals.covers(&[at as u8]), covered, "{at}");
            }
        }
    }
}
