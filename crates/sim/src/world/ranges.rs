//! Judges ranges in orders of their own and with filters, which the checkers of histories leave out: by a plain model
//! of all versions, built from what the witness saw.
//!
//! The rules are etcd's: filters and order come before the limit, except that a target without an order cuts the span
//! to the limit first; keys alone come without their lease, unless values are the target. Elements that compare equal
//! may come in any order.

use std::collections::BTreeMap;

use proto::etcdserverpb as pb;
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::mvccpb::KeyValue;

use crate::history::{History, Kind, Kv};

/// A range, and what the checkers of histories were not told of its answer.
pub(super) struct OddAnswer {
    pub request: pb::RangeRequest,
    /// Of the header.
    pub revision: i64,
    pub kvs: Vec<KeyValue>,
    pub more: bool,
}

/// Every version of every key: what a put left, or that nothing is left, from a revision on.
pub(super) struct Versions<'h> {
    by_key: BTreeMap<&'h [u8], Vec<(i64, Option<&'h Kv>)>>,
}

impl<'h> Versions<'h> {
    pub fn of(history: &'h History) -> Versions<'h> {
        let mut by_key: BTreeMap<&[u8], Vec<_>> = BTreeMap::new();
        let mut next = 0;
        for dump in &history.dumps {
            for event in dump.events.iter().filter(|event| event.kv.modified >= next) {
                let version = (event.kind == Kind::Put).then_some(&event.kv);
                by_key.entry(&event.kv.key).or_default().push((event.kv.modified, version));
            }
            next = next.max(dump.last + 1);
        }
        Versions { by_key }
    }

    fn at(&self, revision: i64, key: &[u8], range_end: &[u8]) -> Vec<&'h Kv> {
        let within = |candidate: &[u8]| match range_end {
            [] => candidate == key,
            [0] => candidate >= key,
            end => candidate >= key && candidate < end,
        };
        let spanned = self.by_key.iter().filter(|(candidate, _)| within(candidate));
        let seen = spanned.filter_map(|(_, versions)| {
            let end = versions.partition_point(|(modified, _)| *modified <= revision);
            versions[..end].last()?.1
        });
        seen.collect()
    }
}

/// What elements are ordered by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Bytes(Vec<u8>),
    Number(i64),
}

fn rank(kv: &Kv, target: SortTarget) -> Rank {
    match target {
        SortTarget::Key => Rank::Bytes(kv.key.to_vec()),
        SortTarget::Value => Rank::Bytes(kv.value.to_vec()),
        SortTarget::Version => Rank::Number(kv.version),
        SortTarget::Create => Rank::Number(kv.create),
        SortTarget::Mod => Rank::Number(kv.modified),
    }
}

fn pair(kv: &Kv) -> KeyValue {
    KeyValue {
        key: kv.key.to_vec(),
        create_revision: kv.create,
        mod_revision: kv.modified,
        version: kv.version,
        value: kv.value.to_vec(),
        lease: kv.lease,
    }
}

/// What is wrong with an answer.
pub(super) fn check(answer: &OddAnswer, versions: &Versions<'_>) -> Result<(), String> {
    let request = &answer.request;
    let revision = if request.revision > 0 { request.revision } else { answer.revision };
    let (order, target) = (request.sort_order(), request.sort_target());
    let bounds = [
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ];
    let filtered = bounds != [0; 4];
    let mut seen = versions.at(revision, &request.key, &request.range_end);
    let limit = usize::try_from(request.limit).ok().filter(|&limit| limit > 0);
    let single = request.range_end.is_empty();
    // Without an order of its own the span is cut before anything else.
    let cut_first = order == SortOrder::None && !filtered && !single;
    let all = seen.len();
    if let Some(limit) = limit.filter(|_| cut_first) {
        seen.truncate(limit.saturating_add(1));
    }
    seen.retain(|kv| {
        let above = |bound: i64, value: i64| bound == 0 || value >= bound;
        let below = |bound: i64, value: i64| bound == 0 || value <= bound;
        above(bounds[0], kv.modified)
            && below(bounds[1], kv.modified)
            && above(bounds[2], kv.create)
            && below(bounds[3], kv.create)
    });
    let mut ranks: Vec<Rank> = seen.iter().map(|kv| rank(kv, target)).collect();
    if target != SortTarget::Key || order == SortOrder::Descend {
        ranks.sort();
    }
    if order == SortOrder::Descend {
        ranks.reverse();
    }
    let kept = limit.filter(|_| !single).unwrap_or(usize::MAX).min(ranks.len());
    let told = |what: &str| {
        Err(format!(
            "{what}: {request:?} at {revision} of {all} keys: {:?}, more: {}",
            answer.kvs, answer.more
        ))
    };
    if answer.more != (kept < ranks.len()) {
        return told("whether there is more");
    }
    if answer.kvs.len() != kept {
        return told("the number of pairs");
    }
    let mut before: Vec<&[u8]> = Vec::new();
    for (kv, rank_wanted) in answer.kvs.iter().zip(&ranks) {
        let Some(stored) = seen.iter().find(|stored| stored.key[..] == kv.key[..]) else {
            return told("a key that is not to be seen");
        };
        let mut wanted = pair(stored);
        if request.keys_only {
            wanted.value.clear();
            if target != SortTarget::Value {
                wanted.lease = 0;
            }
        }
        if *kv != wanted {
            return told("a pair");
        }
        if rank(stored, target) != *rank_wanted {
            return told("the order");
        }
        if before.contains(&&kv.key[..]) {
            return told("a key that comes twice");
        }
        before.push(&kv.key);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Bytes, Event};

    fn history() -> History {
        let mut history = History::new();
        let put = |key: &str, value: &str, create: i64, modified: i64, version: i64| Event {
            kind: Kind::Put,
            kv: Kv {
                key: Bytes::from(key.as_bytes()),
                value: Bytes::from(value.as_bytes()),
                create,
                modified,
                version,
                lease: 7,
            },
            prev: None,
        };
        let events = vec![
            put("a", "z", 2, 2, 1),
            put("b", "y", 3, 3, 1),
            put("c", "x", 4, 4, 1),
            put("a", "w", 2, 5, 2),
        ];
        history.dump(0, 2, 5, events.clone());
        history.dump(0, 4, 5, events[2..].to_vec());
        history
    }

    fn pairs(versions: &Versions<'_>, keys: &[&str]) -> Vec<KeyValue> {
        let all = versions.at(5, &[0], &[0]);
        keys.iter().map(|key| pair(all.iter().find(|kv| kv.key[..] == *key.as_bytes()).unwrap())).collect()
    }

    #[test]
    fn right_answers_pass_and_wrong_ones_do_not() {
        let history = history();
        let versions = Versions::of(&history);
        let request = |order: SortOrder, target: SortTarget, limit: i64| pb::RangeRequest {
            key: vec![0],
            range_end: vec![0],
            limit,
            sort_order: order as i32,
            sort_target: target as i32,
            ..Default::default()
        };
        let answer = |request: &pb::RangeRequest, keys: &[&str], more: bool| OddAnswer {
            request: request.clone(),
            revision: 5,
            kvs: pairs(&versions, keys),
            more,
        };
        let by_value = request(SortOrder::Ascend, SortTarget::Value, 2);
        assert_eq!(check(&answer(&by_value, &["a", "c"], true), &versions), Ok(()));
        for (keys, more) in
            [(&["c", "a"][..], true), (&["a", "c"], false), (&["a"], true), (&["a", "a"], true)]
        {
            assert!(check(&answer(&by_value, keys, more), &versions).is_err(), "{keys:?} {more}");
        }
        let cut_first = request(SortOrder::None, SortTarget::Mod, 1);
        assert_eq!(check(&answer(&cut_first, &["b"], true), &versions), Ok(()), "of a and b only");
        let back = request(SortOrder::Descend, SortTarget::Version, 0);
        assert_eq!(check(&answer(&back, &["a", "c", "b"], false), &versions), Ok(()), "equals in any order");
        assert_eq!(check(&answer(&back, &["a", "b", "c"], false), &versions), Ok(()));
        let filtered =
            pb::RangeRequest { max_create_revision: 3, ..request(SortOrder::None, SortTarget::Key, 1) };
        assert_eq!(check(&answer(&filtered, &["a"], true), &versions), Ok(()));
        assert!(check(&answer(&filtered, &["c"], true), &versions).is_err());
    }
}
