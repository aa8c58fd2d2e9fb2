//! What a KV request must look like before anything is asked of the store: keys that are there, options that do not
//! contradict, transactions that do not write a key twice. Pure; checks come in etcd's order, as the first that
//! fails is the one that the client sees.
//!
//! Must not look at the store, at permissions, or at sizes.

use std::collections::{BTreeMap, BTreeSet};

use proto::errors::{
    Code, DUPLICATE_KEY, EMPTY_KEY, Error, INVALID_SORT_OPTION, KEY_NOT_FOUND, LEASE_PROVIDED, TOO_MANY_OPS,
    VALUE_PROVIDED,
};
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};

use crate::range::{default_order, has_filters};

const STREAM_SORTED: Error =
    Error::fixed(Code::Unimplemented, "RangeStream does not support custom sort orders");
const STREAM_FILTERED: Error =
    Error::fixed(Code::Unimplemented, "RangeStream does not support revision filters");

/// EMPTY_KEY, or INVALID_SORT_OPTION for an order or target that nobody knows.
pub fn range(request: &RangeRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        return Err(EMPTY_KEY);
    }
    if !SortOrder::is_valid(request.sort_order) || !SortTarget::is_valid(request.sort_target) {
        return Err(INVALID_SORT_OPTION);
    }
    Ok(())
}

/// As [`range`]; besides, a streamed range has neither a sort of its own nor revision filters.
pub fn range_stream(request: &RangeRequest) -> Result<(), Error> {
    range(request)?;
    if !default_order(request) {
        return Err(STREAM_SORTED);
    }
    if has_filters(request) {
        return Err(STREAM_FILTERED);
    }
    Ok(())
}

/// EMPTY_KEY, VALUE_PROVIDED or LEASE_PROVIDED.
pub fn put(request: &PutRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        return Err(EMPTY_KEY);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(VALUE_PROVIDED);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(LEASE_PROVIDED);
    }
    Ok(())
}

/// EMPTY_KEY.
pub fn delete_range(request: &DeleteRangeRequest) -> Result<(), Error> {
    if request.key.is_empty() { Err(EMPTY_KEY) } else { Ok(()) }
}

/// A whole transaction: TOO_MANY_OPS, what its operations have wrong, DUPLICATE_KEY. `max_ops` limits the longest of
/// the three lists at the top plus the longest of those below it, and so on down each nesting.
pub fn txn(request: &TxnRequest, max_ops: usize) -> Result<(), Error> {
    operations(request, max_ops)?;
    // Only then: the counts bound the work of this.
    for branch in [&request.success, &request.failure] {
        // One operation cannot clash with itself; most branches have one.
        if let [RequestOp { request: Some(Request::RequestTxn(_)) }] | [_, _, ..] = &branch[..] {
            branch_writes(branch)?;
        }
    }
    Ok(())
}

fn operations(request: &TxnRequest, max_ops: usize) -> Result<(), Error> {
    let longest = request.compare.len().max(request.success.len()).max(request.failure.len());
    if longest > max_ops {
        return Err(TOO_MANY_OPS);
    }
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(EMPTY_KEY);
    }
    for operation in request.success.iter().chain(&request.failure) {
        match &operation.request {
            Some(Request::RequestRange(inner)) => range(inner)?,
            Some(Request::RequestPut(inner)) => put(inner)?,
            Some(Request::RequestDeleteRange(inner)) => delete_range(inner)?,
            Some(Request::RequestTxn(inner)) => operations(inner, max_ops - longest)?,
            None => return Err(KEY_NOT_FOUND),
        }
    }
    Ok(())
}

/// The keys that one branch puts and the ranges that it deletes, nested transactions included.
#[derive(Default)]
struct Writes<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Deletes<'a>,
}

fn branch_writes(operations: &[RequestOp]) -> Result<Writes<'_>, Error> {
    let mut writes = Writes::default();
    // Deletes of this level stand against puts of every level below, whatever the order.
    for operation in operations {
        if let Some(Request::RequestDeleteRange(delete)) = &operation.request {
            writes.deletes.insert(&delete.key, &delete.range_end);
        }
    }
    // A nested transaction's puts stand against its elder siblings' puts and deletes, its deletes against younger
    // siblings' puts only: put, then delete, passes.
    for operation in operations {
        let Some(Request::RequestTxn(nested)) = &operation.request else { continue };
        let success = branch_writes(&nested.success)?;
        let failure = branch_writes(&nested.failure)?;
        for key in &success.puts {
            if writes.puts.contains(key) || writes.deletes.contains(key) {
                return Err(DUPLICATE_KEY);
            }
        }
        for key in &failure.puts {
            // Only one of the two branches is taken: the same put in both is one put.
            if writes.puts.contains(key) || writes.deletes.contains(key) {
                return Err(DUPLICATE_KEY);
            }
        }
        writes.puts.absorb(success.puts);
        writes.puts.absorb(failure.puts);
        writes.deletes.absorb(success.deletes);
        writes.deletes.absorb(failure.deletes);
    }
    for operation in operations {
        if let Some(Request::RequestPut(put)) = &operation.request
            && (writes.deletes.contains(&put.key) || !writes.puts.insert(&put.key))
        {
            return Err(DUPLICATE_KEY);
        }
    }
    Ok(writes)
}

trait Absorb {
    /// Union, at the price of the smaller side: nesting then costs no more than a sort.
    fn absorb(&mut self, other: Self);
}

impl Absorb for BTreeSet<&[u8]> {
    fn absorb(&mut self, mut other: Self) {
        if self.len() < other.len() {
            std::mem::swap(self, &mut other);
        }
        self.extend(other);
    }
}

/// A set of keys: single ones and ranges that do not overlap each other. An end is taken as it stands: `\0` is an
/// end below every key here, not "no end", so that a delete from a key onwards holds nothing, as in etcd's check.
#[derive(Default)]
struct Deletes<'a> {
    keys: BTreeSet<&'a [u8]>,
    /// Begin to end.
    ranges: BTreeMap<&'a [u8], &'a [u8]>,
}

impl<'a> Deletes<'a> {
    fn insert(&mut self, key: &'a [u8], end: &'a [u8]) {
        if end.is_empty() {
            self.keys.insert(key);
        } else if key < end {
            self.insert_range(key, end);
        }
    }

    fn insert_range(&mut self, mut begin: &'a [u8], mut end: &'a [u8]) {
        // Every range that touches the new one goes up in it.
        while let Some((&other, &other_end)) = self.ranges.range(..=end).next_back()
            && other_end >= begin
        {
            begin = begin.min(other);
            end = end.max(other_end);
            self.ranges.remove(other);
        }
        self.ranges.insert(begin, end);
    }

    fn contains(&self, key: &[u8]) -> bool {
        self.keys.contains(key) || self.ranges.range(..=key).next_back().is_some_and(|(_, end)| key < *end)
    }

    fn absorb(&mut self, mut other: Self) {
        self.keys.absorb(other.keys);
        if self.ranges.len() < other.ranges.len() {
            std::mem::swap(&mut self.ranges, &mut other.ranges);
        }
        for (begin, end) in other.ranges {
            self.insert_range(begin, end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Random;
    use proto::etcdserverpb::Compare;

    fn op(request: Request) -> RequestOp {
        RequestOp { request: Some(request) }
    }

    fn put_op(key: &str) -> RequestOp {
        op(Request::RequestPut(PutRequest { key: key.into(), ..PutRequest::default() }))
    }

    fn delete_op(key: &str, end: &str) -> RequestOp {
        let request = DeleteRangeRequest { key: key.into(), range_end: end.into(), prev_kv: false };
        op(Request::RequestDeleteRange(request))
    }

    fn range_op(key: &str) -> RequestOp {
        op(Request::RequestRange(RangeRequest { key: key.into(), ..RangeRequest::default() }))
    }

    fn txn_op(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
        op(Request::RequestTxn(branches(success, failure)))
    }

    fn branches(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> TxnRequest {
        TxnRequest { compare: vec![], success, failure }
    }

    fn check(success: Vec<RequestOp>) -> Result<(), Error> {
        let mirrored = txn(&branches(vec![], success.clone()), 128);
        let result = txn(&branches(success, vec![]), 128);
        assert_eq!(result, mirrored, "both branches follow the same rules");
        result
    }

    #[test]
    fn ranges_need_a_key_and_a_known_sort() {
        let ok = RangeRequest { key: b"k".into(), ..RangeRequest::default() };
        assert_eq!(range(&ok), Ok(()));
        assert_eq!(range(&RangeRequest { sort_order: 9, ..RangeRequest::default() }), Err(EMPTY_KEY));
        for (sort_order, sort_target) in [(3, 0), (-1, 0), (0, 5), (0, -1)] {
            let request = RangeRequest { sort_order, sort_target, ..ok.clone() };
            assert_eq!(range(&request), Err(INVALID_SORT_OPTION));
            assert_eq!(range_stream(&request), Err(INVALID_SORT_OPTION));
        }
        assert_eq!(range(&RangeRequest { sort_order: 2, sort_target: 4, ..ok }), Ok(()));
    }

    #[test]
    fn streamed_ranges_are_neither_sorted_nor_filtered() {
        let ok = RangeRequest { key: b"k".into(), ..RangeRequest::default() };
        for (sort_order, sort_target, expected) in [
            (0, 0, Ok(())),
            (0, 4, Ok(())),
            (1, 0, Ok(())),
            (1, 1, Err(STREAM_SORTED)),
            (2, 0, Err(STREAM_SORTED)),
        ] {
            let request = RangeRequest { sort_order, sort_target, ..ok.clone() };
            assert_eq!(range_stream(&request), expected);
        }
        assert_eq!(range_stream(&RangeRequest { min_mod_revision: 1, ..ok.clone() }), Err(STREAM_FILTERED));
        assert_eq!(range_stream(&RangeRequest { max_mod_revision: 1, ..ok.clone() }), Err(STREAM_FILTERED));
        assert_eq!(
            range_stream(&RangeRequest { min_create_revision: 1, ..ok.clone() }),
            Err(STREAM_FILTERED)
        );
        assert_eq!(
            range_stream(&RangeRequest { max_create_revision: -1, ..ok.clone() }),
            Err(STREAM_FILTERED)
        );
        let both = RangeRequest { sort_order: 2, max_mod_revision: 1, ..ok };
        assert_eq!(range_stream(&both), Err(STREAM_SORTED));
        assert_eq!(range_stream(&RangeRequest::default()), Err(EMPTY_KEY));
    }

    #[test]
    fn puts_and_deletes_are_checked() {
        let ok = PutRequest { key: b"k".into(), value: b"v".into(), lease: 7, ..PutRequest::default() };
        assert_eq!(put(&ok), Ok(()));
        assert_eq!(put(&PutRequest { key: vec![], ignore_value: true, ..ok.clone() }), Err(EMPTY_KEY));
        let both = PutRequest { ignore_value: true, ignore_lease: true, ..ok.clone() };
        assert_eq!(put(&both), Err(VALUE_PROVIDED));
        assert_eq!(put(&PutRequest { value: vec![], ..both.clone() }), Err(LEASE_PROVIDED));
        assert_eq!(put(&PutRequest { value: vec![], lease: 0, ..both }), Ok(()));
        assert_eq!(delete_range(&DeleteRangeRequest::default()), Err(EMPTY_KEY));
        let Some(Request::RequestDeleteRange(delete)) = delete_op("k", "").request else { panic!() };
        assert_eq!(delete_range(&delete), Ok(()));
    }

    #[test]
    fn operations_are_counted_down_each_nesting() {
        let puts = |n: usize, name: &str| (0..n).map(|i| put_op(&format!("{name}{i}"))).collect::<Vec<_>>();
        assert_eq!(txn(&branches(puts(3, "a"), puts(3, "a")), 3), Ok(()));
        assert_eq!(txn(&branches(puts(4, "a"), vec![]), 3), Err(TOO_MANY_OPS));
        assert_eq!(txn(&branches(vec![], puts(4, "a")), 3), Err(TOO_MANY_OPS));
        let compare = vec![Compare { key: b"k".into(), ..Compare::default() }; 4];
        assert_eq!(txn(&TxnRequest { compare, ..TxnRequest::default() }, 3), Err(TOO_MANY_OPS));
        assert_eq!(txn(&TxnRequest::default(), 0), Ok(()));

        let nested = |n| branches(vec![txn_op(puts(n, "a"), vec![]), txn_op(puts(n, "b"), vec![])], vec![]);
        assert_eq!(txn(&nested(2), 4), Ok(()), "siblings do not add up");
        assert_eq!(txn(&nested(3), 4), Err(TOO_MANY_OPS), "two above leave two below");
        let empty = branches(vec![txn_op(vec![], vec![])], vec![]);
        assert_eq!(txn(&empty, 1), Ok(()));
    }

    #[test]
    fn operations_fail_in_order() {
        let no_key = TxnRequest { compare: vec![Compare::default()], ..TxnRequest::default() };
        assert_eq!(txn(&no_key, 9), Err(EMPTY_KEY));
        assert_eq!(check(vec![RequestOp { request: None }]), Err(KEY_NOT_FOUND));
        assert_eq!(check(vec![RequestOp { request: None }, put_op("")]), Err(KEY_NOT_FOUND));
        assert_eq!(check(vec![put_op(""), RequestOp { request: None }]), Err(EMPTY_KEY));
        assert_eq!(check(vec![range_op("")]), Err(EMPTY_KEY));
        assert_eq!(check(vec![delete_op("", "b")]), Err(EMPTY_KEY));
        assert_eq!(check(vec![txn_op(vec![], vec![put_op("")])]), Err(EMPTY_KEY));
        let unknown = RangeRequest { key: b"k".into(), sort_target: 77, ..RangeRequest::default() };
        assert_eq!(check(vec![op(Request::RequestRange(unknown))]), Err(INVALID_SORT_OPTION));
        assert_eq!(
            check(vec![put_op("a"), put_op("a"), put_op("")]),
            Err(EMPTY_KEY),
            "duplicates are looked for last"
        );
        let first = branches(vec![put_op("a"), put_op("a")], vec![put_op("")]);
        assert_eq!(txn(&first, 9), Err(EMPTY_KEY), "in the other branch too");
    }

    #[test]
    fn a_key_is_written_once() {
        let passes = |success| assert_eq!(check(success), Ok(()));
        let fails = |success| assert_eq!(check(success), Err(DUPLICATE_KEY));
        fails(vec![put_op("a"), put_op("a")]);
        passes(vec![put_op("a"), put_op("b"), range_op("a")]);
        passes(vec![delete_op("a", ""), delete_op("a", "c"), delete_op("b", "d")]);
        for (key, end, covers_b) in [
            ("b", "", true),
            ("a", "c", true),
            ("b", "c", true),
            ("a", "b", false),
            ("b\0", "c", false),
            ("b", "b", false),
            ("c", "a", false),
            // Deletes everything from "a" on, and the check does not see it.
            ("a", "\0", false),
            ("\0", "\0", false),
        ] {
            for success in [vec![put_op("b"), delete_op(key, end)], vec![delete_op(key, end), put_op("b")]] {
                assert_eq!(check(success).is_err(), covers_b, "{key:?}..{end:?}");
            }
            let below = |put| vec![delete_op(key, end), txn_op(vec![put], vec![])];
            assert_eq!(check(below(put_op("b"))).is_err(), covers_b, "a delete stands against puts below it");
        }
        assert!(txn(&branches(vec![put_op("a")], vec![put_op("a"), delete_op("b", "")]), 9).is_ok());
    }

    #[test]
    fn nested_transactions_clash_as_in_etcd() {
        let passes = |success| assert_eq!(check(success), Ok(()));
        let fails = |success| assert_eq!(check(success), Err(DUPLICATE_KEY));
        let puts = |key: &str| txn_op(vec![put_op(key)], vec![]);
        let deletes = |key: &str| txn_op(vec![], vec![delete_op(key, "")]);
        passes(vec![txn_op(vec![put_op("a")], vec![put_op("a")])]);
        passes(vec![txn_op(vec![put_op("a")], vec![delete_op("a", "")])]);
        fails(vec![puts("a"), puts("a")]);
        fails(vec![puts("a"), txn_op(vec![], vec![put_op("a")])]);
        fails(vec![put_op("a"), puts("a")]);
        fails(vec![puts("a"), delete_op("a", "")]);
        fails(vec![deletes("a"), put_op("a")]);
        fails(vec![put_op("a"), deletes("a")]);
        passes(vec![puts("a"), deletes("a")]);
        fails(vec![deletes("a"), puts("a")]);
        fails(vec![txn_op(vec![txn_op(vec![puts("a")], vec![])], vec![]), puts("a")]);
        fails(vec![txn_op(vec![put_op("a"), put_op("a")], vec![])]);
        fails(vec![txn_op(vec![], vec![put_op("a"), delete_op("a", "b")])]);
        // The key came in by an elder sibling's failure branch and comes again by both branches of the younger.
        fails(vec![
            deletes("x"),
            txn_op(vec![], vec![put_op("a")]),
            txn_op(vec![put_op("a")], vec![put_op("a")]),
        ]);
    }

    /// Begin and end of a delete.
    type Span = (Vec<u8>, Vec<u8>);

    /// The plain reading of the rules: lists instead of sets, every pair compared.
    fn plain(operations: &[RequestOp]) -> Option<(Vec<Vec<u8>>, Vec<Span>)> {
        let (mut puts, mut deletes) = (Vec::<Vec<u8>>::new(), Vec::<Span>::new());
        let covered =
            |deletes: &[Span], key: &Vec<u8>| deletes.iter().any(|(begin, end)| begin <= key && key < end);
        for operation in operations {
            if let Some(Request::RequestDeleteRange(delete)) = &operation.request {
                let point = [&delete.key[..], &[0]].concat();
                let end = if delete.range_end.is_empty() { point } else { delete.range_end.clone() };
                deletes.push((delete.key.clone(), end));
            }
        }
        for operation in operations {
            let Some(Request::RequestTxn(nested)) = &operation.request else { continue };
            let (success, success_deletes) = plain(&nested.success)?;
            let (failure, failure_deletes) = plain(&nested.failure)?;
            for key in &success {
                if puts.contains(key) || covered(&deletes, key) {
                    return None;
                }
                puts.push(key.clone());
            }
            for key in &failure {
                if (puts.contains(key) && !success.contains(key)) || covered(&deletes, key) {
                    return None;
                }
                if !puts.contains(key) {
                    puts.push(key.clone());
                }
            }
            deletes.extend(success_deletes);
            deletes.extend(failure_deletes);
        }
        for operation in operations {
            let Some(Request::RequestPut(put)) = &operation.request else { continue };
            if puts.contains(&put.key) || covered(&deletes, &put.key) {
                return None;
            }
            puts.push(put.key.clone());
        }
        Some((puts, deletes))
    }

    fn random_ops(random: &mut Random, depth: u32) -> Vec<RequestOp> {
        let key = |random: &mut Random| format!("{:02}", random.below(40));
        (0..random.below(4))
            .map(|_| match random.below(if depth == 0 { 4 } else { 7 }) {
                0 | 1 => put_op(&key(random)),
                2 => delete_op(&key(random), ""),
                3 => delete_op(&key(random), &if random.one_in(6) { "\0".into() } else { key(random) }),
                _ => txn_op(random_ops(random, depth - 1), random_ops(random, depth - 1)),
            })
            .collect()
    }

    #[test]
    fn random_transactions_match_the_plain_reading() {
        let mut random = Random::new(11);
        let mut clashes = 0;
        for _ in 0..20_000 {
            let operations = random_ops(&mut random, 3);
            let expected = plain(&operations);
            assert_eq!(branch_writes(&operations).is_ok(), expected.is_some(), "{operations:?}");
            clashes += usize::from(expected.is_none());
        }
        assert!((2_000..18_000).contains(&clashes), "both happen: {clashes}");
    }
}
