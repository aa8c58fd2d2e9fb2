//! Lost operations, and what is known of the revisions that no answer accounts for.

use std::collections::HashMap;

use super::model::{Change, Keys};
use super::streams::{Heard, Streams};
use crate::history::{Answer, DeleteRange, Event, History, Kind, Kv, OpAnswer, Put, Request, TxnOp};

/// One thing that is known of a revision.
#[derive(Clone, Copy, Debug)]
pub enum Sign<'h> {
    Event(&'h Event),
    /// It put this, and the pair was there when it ended.
    Pair(&'h Kv),
}

impl Sign<'_> {
    fn key(&self) -> &[u8] {
        match self {
            Sign::Event(event) => &event.kv.key,
            Sign::Pair(kv) => &kv.key,
        }
    }

    fn put(&self) -> Option<&Kv> {
        match self {
            Sign::Event(event) => (event.kind == Kind::Put).then_some(&event.kv),
            Sign::Pair(kv) => Some(kv),
        }
    }

    fn fits(&self, change: &Change) -> bool {
        match self {
            Sign::Event(event) => change.is_told_by(event),
            Sign::Pair(kv) => change.kind == Kind::Put && change.kv == **kv,
        }
    }
}

/// What is known of one revision.
#[derive(Clone, Debug, Default)]
pub struct Signs<'h> {
    pub signs: Vec<Sign<'h>>,
    /// They are all its changes, in order.
    pub whole: bool,
    /// Which source they are from: a revision that comes twice is listened to once.
    source: usize,
}

impl Signs<'_> {
    pub fn fit(&self, changes: &[Change]) -> bool {
        if self.whole {
            self.signs.len() == changes.len()
                && self.signs.iter().zip(changes).all(|(sign, change)| sign.fits(change))
        } else {
            self.signs.iter().all(|sign| changes.iter().any(|change| sign.fits(change)))
        }
    }

    /// The keys that it deleted, if it did nothing else, as ranks.
    pub fn deleted(&self, keys: &Keys) -> Option<Vec<u32>> {
        self.signs
            .iter()
            .map(|sign| if sign.put().is_none() { keys.rank(sign.key()) } else { None })
            .collect()
    }
}

/// Signs of the revisions that `wanted` names.
pub fn signs<'h>(
    history: &'h History,
    streams: &Streams<'h>,
    wanted: &impl Fn(i64) -> bool,
) -> HashMap<i64, Signs<'h>> {
    let mut all: HashMap<i64, Signs<'h>> = HashMap::new();
    let mut source = 0;
    for dump in &history.dumps {
        source += 1;
        for event in dump.events.iter().filter(|event| wanted(event.kv.modified)) {
            let signs = all.entry(event.kv.modified).or_default();
            if signs.source == 0 || signs.source == source {
                signs.signs.push(Sign::Event(event));
                (signs.whole, signs.source) = (true, source);
            }
        }
    }
    for watcher in streams.watchers.iter().filter(|watcher| watcher.sees_all()) {
        let mut in_train = false;
        for (_, heard) in &watcher.heard {
            let Heard::Answer(answer) = heard else { continue };
            source += usize::from(!in_train);
            in_train = answer.fragment;
            for event in answer.events.iter().filter(|event| wanted(event.kv.modified)) {
                let signs = all.entry(event.kv.modified).or_default();
                if signs.source == 0 || signs.source == source {
                    signs.signs.push(Sign::Event(event));
                    (signs.whole, signs.source) = (true, source);
                }
            }
        }
    }
    let mut add = |revision: i64, sign: Sign<'h>| {
        if wanted(revision) {
            let signs = all.entry(revision).or_default();
            if !signs.whole {
                signs.signs.push(sign);
            }
        }
    };
    for watcher in &streams.watchers {
        for (_, heard) in &watcher.heard {
            let Heard::Answer(answer) = heard else { continue };
            for event in &answer.events {
                add(event.kv.modified, Sign::Event(event));
                if let Some(prev) = &event.prev {
                    add(prev.modified, Sign::Pair(prev));
                }
            }
        }
    }
    for op in &history.operations {
        let bare = |request: &Request| matches!(request, Request::Range(range) if range.keys_only);
        let Some(answer) = op.answer().filter(|_| !bare(&op.request)) else { continue };
        match (answer, &op.request) {
            (Answer::Put(put), _) => put.prev.iter().for_each(|kv| add(kv.modified, Sign::Pair(kv))),
            (Answer::DeleteRange(delete), _) => {
                delete.prevs.iter().for_each(|kv| add(kv.modified, Sign::Pair(kv)));
            }
            (Answer::Range(range), _) => range.kvs.iter().for_each(|kv| add(kv.modified, Sign::Pair(kv))),
            (Answer::Txn(txn), Request::Txn(asked)) => {
                for (answer, op) in txn.answers.iter().zip(asked.branch(txn.succeeded)) {
                    if let (OpAnswer::Range(range), TxnOp::Range(asked)) = (answer, op)
                        && !asked.keys_only
                    {
                        range.kvs.iter().for_each(|kv| add(kv.modified, Sign::Pair(kv)));
                    }
                }
            }
            _ => {}
        }
    }
    all
}

/// Lost operations that may have written, found by what they would have done.
#[derive(Debug, Default)]
pub struct Suspects {
    by_put: HashMap<(u32, u32), Vec<u32>>,
    /// By keys that they delete, or put with a value that is kept.
    by_key: HashMap<u32, Vec<u32>>,
    /// Those that delete spans, or what a lease holds.
    wide: Vec<u32>,
    pub count: u64,
}

impl Suspects {
    pub fn of(history: &History, keys: &Keys) -> Suspects {
        let mut suspects = Suspects::default();
        for (number, op) in history.operations.iter().enumerate().filter(|(_, op)| op.is_lost()) {
            let number = number as u32;
            match &op.request {
                Request::Put(put) => suspects.add_put(number, put, keys),
                Request::DeleteRange(delete) => suspects.add_delete(number, delete, keys),
                Request::Txn(txn) if !txn.is_read_only() => txn.each_op(&mut |op| match op {
                    TxnOp::Put(put) => suspects.add_put(number, put, keys),
                    TxnOp::DeleteRange(delete) => suspects.add_delete(number, delete, keys),
                    TxnOp::Range(_) | TxnOp::Txn(_) => {}
                }),
                Request::LeaseRevoke { .. } => suspects.wide.push(number),
                _ => continue,
            }
            suspects.count += 1;
        }
        suspects
    }

    fn add_put(&mut self, number: u32, put: &Put, keys: &Keys) {
        let rank = keys.rank(&put.key).expect("every key that is put is known");
        if put.ignore_value {
            self.by_key.entry(rank).or_default().push(number);
        } else {
            self.by_put.entry((rank, base::crc32c(&put.value))).or_default().push(number);
        }
    }

    fn add_delete(&mut self, number: u32, delete: &DeleteRange, keys: &Keys) {
        if !delete.range_end.is_empty() {
            self.wide.push(number);
        } else if let Some(rank) = keys.rank(&delete.key) {
            self.by_key.entry(rank).or_default().push(number);
        }
    }

    /// Whoever may have left such signs, in the order of their calls.
    pub fn behind(&self, signs: &Signs<'_>, keys: &Keys) -> Vec<u32> {
        let put = signs.signs.iter().find_map(|sign| sign.put());
        let Some(first) = signs.signs.first() else { return Vec::new() };
        let Some(rank) = keys.rank(put.map_or(first.key(), |kv| &kv.key)) else { return Vec::new() };
        let by_key = self.by_key.get(&rank).into_iter().flatten();
        let mut found: Vec<u32> = match put {
            Some(kv) => {
                let by_put = self.by_put.get(&(rank, base::crc32c(&kv.value)));
                by_put.into_iter().flatten().chain(by_key).copied().collect()
            }
            None => by_key.chain(&self.wide).copied().collect(),
        };
        found.sort_unstable();
        found.dedup();
        found
    }
}
