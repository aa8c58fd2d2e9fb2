//! The store as a plain sequence of changes, written from etcd's rules and not from Mainstay's code.
//!
//! All keys that a history can write are known beforehand, so a key is its rank, a span is a range of ranks, and a
//! Fenwick tree counts what exists in it: every operation costs the logarithm of the number of keys for each pair that
//! it touches.
//!
//! A revision is open while its changes are made; it is then kept, or taken back as if it had never been.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range as Span;

use base::LeaseId;

use crate::history::{
    Answer, Bytes, Compare, DeleteAnswer, DeleteRange, Event, Kind, Kv, OpAnswer, Put, PutAnswer, Range,
    RangeAnswer, Refusal, Relation, Request, Target, Txn, TxnAnswer, TxnOp,
};

/// All keys that can exist, in order.
#[derive(Debug, Default)]
pub struct Keys {
    sorted: Vec<Bytes>,
    ranks: HashMap<Bytes, u32>,
}

impl Keys {
    pub fn new(mut keys: Vec<Bytes>) -> Keys {
        keys.sort_unstable();
        keys.dedup();
        let ranks = keys.iter().enumerate().map(|(rank, key)| (key.clone(), rank as u32)).collect();
        Keys { sorted: keys, ranks }
    }

    pub fn len(&self) -> usize {
        self.sorted.len()
    }

    pub fn rank(&self, key: &[u8]) -> Option<u32> {
        self.ranks.get(key).copied()
    }

    pub fn key(&self, rank: u32) -> &Bytes {
        &self.sorted[rank as usize]
    }

    /// The ranks of the keys that a request means, etcd's way: no end is the key itself, a zero byte is no end.
    pub fn span(&self, key: &[u8], range_end: &[u8]) -> Span<u32> {
        let below = |bound: &[u8]| self.sorted.partition_point(|key| **key < *bound) as u32;
        match range_end {
            [] => self.rank(key).map_or(0..0, |rank| rank..rank + 1),
            [0] => below(key)..self.len() as u32,
            end => below(key)..below(end).max(below(key)),
        }
    }
}

/// Which ranks are present, counted.
#[derive(Debug)]
struct Present {
    sums: Vec<u32>,
}

impl Present {
    fn new(len: usize) -> Present {
        Present { sums: vec![0; len + 1] }
    }

    fn add(&mut self, rank: u32, present: bool) {
        let mut at = rank as usize + 1;
        while at < self.sums.len() {
            self.sums[at] = if present { self.sums[at] + 1 } else { self.sums[at] - 1 };
            at += at & at.wrapping_neg();
        }
    }

    fn below(&self, rank: u32) -> u32 {
        let (mut at, mut sum) = (rank as usize, 0);
        while at > 0 {
            sum += self.sums[at];
            at &= at - 1;
        }
        sum
    }

    /// The rank of the present key before which there are `before` others.
    fn nth(&self, before: u32) -> u32 {
        let (mut at, mut left) = (0, before);
        let mut step = self.sums.len().next_power_of_two();
        while step > 0 {
            if at + step < self.sums.len() && self.sums[at + step] <= left {
                at += step;
                left -= self.sums[at];
            }
            step /= 2;
        }
        at as u32
    }
}

#[derive(Clone, Debug)]
pub struct Change {
    pub revision: i64,
    pub key: u32,
    pub kind: Kind,
    /// Of a delete, key and mod revision only.
    pub kv: Kv,
    /// What the revision before saw of the key: a position among the changes.
    pub prev: Option<u32>,
}

#[derive(Debug)]
pub struct Model {
    pub keys: Keys,
    /// In order; those of the open revision last.
    pub changes: Vec<Change>,
    by_key: Vec<Vec<u32>>,
    present: Present,
    attached: HashMap<LeaseId, BTreeSet<u32>>,
    /// The newest revision that is kept.
    pub current: i64,
    /// Where the open revision's changes begin.
    begin: usize,
}

impl Model {
    pub fn new(keys: Keys) -> Model {
        let len = keys.len();
        Model {
            keys,
            changes: Vec::new(),
            by_key: vec![Vec::new(); len],
            present: Present::new(len),
            attached: HashMap::new(),
            current: 1,
            begin: 0,
        }
    }

    /// The newest revision, the open one included.
    fn now(&self) -> i64 {
        self.current + i64::from(self.changes.len() > self.begin)
    }

    /// What the open revision has changed so far.
    pub fn open_changes(&self) -> &[Change] {
        &self.changes[self.begin..]
    }

    /// The changes of a key, oldest first, as positions.
    pub fn of_key(&self, rank: u32) -> &[u32] {
        &self.by_key[rank as usize]
    }

    fn live(&self, rank: u32) -> Option<&Kv> {
        let change = &self.changes[*self.by_key[rank as usize].last()? as usize];
        (change.kind == Kind::Put).then_some(&change.kv)
    }

    /// The position of the put that is seen at a revision.
    pub fn seen_at(&self, rank: u32, revision: i64) -> Option<u32> {
        let changes = &self.by_key[rank as usize];
        let end = changes.partition_point(|&at| self.changes[at as usize].revision <= revision);
        let at = *changes[..end].last()?;
        (self.changes[at as usize].kind == Kind::Put).then_some(at)
    }

    /// The keys that a lease holds, as ranks.
    pub fn attached(&self, id: LeaseId) -> impl Iterator<Item = u32> + '_ {
        self.attached.get(&id).into_iter().flatten().copied()
    }

    /// Leases that hold keys.
    pub fn holding(&self) -> impl Iterator<Item = (LeaseId, &BTreeSet<u32>)> {
        self.attached.iter().map(|(&id, keys)| (id, keys))
    }

    fn set(&mut self, rank: u32, before: LeaseId, after: LeaseId, present: (bool, bool)) {
        if before != after {
            if before != 0 {
                let keys = self.attached.get_mut(&before).expect("the lease of a key holds it");
                keys.remove(&rank);
                if keys.is_empty() {
                    self.attached.remove(&before);
                }
            }
            if after != 0 {
                self.attached.entry(after).or_default().insert(rank);
            }
        }
        if present.0 != present.1 {
            self.present.add(rank, present.1);
        }
    }

    fn change(&mut self, rank: u32, kind: Kind, kv: Kv) {
        let before = self.live(rank).map(|kv| kv.lease);
        let (lease, is_put) = (kv.lease, kind == Kind::Put);
        let prev = self.seen_at(rank, self.current);
        self.by_key[rank as usize].push(self.changes.len() as u32);
        self.changes.push(Change { revision: self.current + 1, key: rank, kind, kv, prev });
        self.set(rank, before.unwrap_or(0), if is_put { lease } else { 0 }, (before.is_some(), is_put));
    }

    /// Ends the open revision: it happened. One without changes is none.
    pub fn keep(&mut self) {
        self.current = self.now();
        self.begin = self.changes.len();
    }

    /// Ends the open revision: it did not happen.
    pub fn take_back(&mut self) {
        while self.changes.len() > self.begin {
            let undone = self.changes.pop().expect("it is longer than its beginning");
            self.by_key[undone.key as usize].pop();
            let was = (undone.kind == Kind::Put).then_some(undone.kv.lease);
            let is = self.live(undone.key).map(|kv| kv.lease);
            self.set(undone.key, was.unwrap_or(0), is.unwrap_or(0), (was.is_some(), is.is_some()));
        }
    }

    /// Executes a request that may write, into the open revision; the answer it should have. What fails has changed
    /// nothing. That a lease exists is not looked at.
    pub fn execute(&mut self, request: &Request) -> Result<Answer, Refusal> {
        assert!(self.changes.len() == self.begin, "one request is one revision at most");
        let answer = match request {
            Request::Put(put) => self.put(put).map(Answer::Put),
            Request::DeleteRange(delete) => Ok(Answer::DeleteRange(self.delete(delete))),
            Request::Txn(txn) => self.txn(txn).map(Answer::Txn),
            Request::Range(range) => Ok(Answer::Range(self.range(range))),
            Request::LeaseRevoke { id } => {
                self.revoke(*id);
                Ok(Answer::LeaseRevoke { revision: self.now() })
            }
            _ => panic!("{request} is no write"),
        };
        if answer.is_err() {
            self.take_back();
        }
        answer
    }

    fn put(&mut self, put: &Put) -> Result<PutAnswer, Refusal> {
        let rank = self.keys.rank(&put.key).expect("every key that is put is known");
        let old = self.live(rank);
        if old.is_none() && (put.ignore_value || put.ignore_lease) {
            return Err(Refusal::KeyNotFound);
        }
        let kv = Kv {
            key: put.key.clone(),
            value: old
                .filter(|_| put.ignore_value)
                .map_or_else(|| put.value.clone(), |old| old.value.clone()),
            create: old.map_or(self.current + 1, |old| old.create),
            modified: self.current + 1,
            version: old.map_or(0, |old| old.version) + 1,
            lease: old.filter(|_| put.ignore_lease).map_or(put.lease, |old| old.lease),
        };
        let prev = old.filter(|_| put.prev_kv).cloned();
        self.change(rank, Kind::Put, kv);
        Ok(PutAnswer { revision: self.now(), prev })
    }

    fn delete_rank(&mut self, rank: u32) {
        let kv = Kv { key: self.keys.key(rank).clone(), modified: self.current + 1, ..Kv::default() };
        self.change(rank, Kind::Delete, kv);
    }

    fn delete(&mut self, delete: &DeleteRange) -> DeleteAnswer {
        let ranks: Vec<u32> = self.live_in(self.keys.span(&delete.key, &delete.range_end)).collect();
        let pairs = ranks.iter().filter(|_| delete.prev_kv);
        let prevs = pairs.filter_map(|&rank| self.live(rank)).cloned().collect();
        for &rank in &ranks {
            self.delete_rank(rank);
        }
        DeleteAnswer { revision: self.now(), deleted: ranks.len() as i64, prevs }
    }

    /// Deletes what a lease holds, into the open revision.
    pub fn revoke(&mut self, id: LeaseId) {
        let ranks: Vec<u32> = self.attached(id).collect();
        for rank in ranks {
            self.delete_rank(rank);
        }
    }

    fn live_in(&self, span: Span<u32>) -> impl Iterator<Item = u32> + '_ {
        let (first, end) = (self.present.below(span.start), self.present.below(span.end));
        (first..end).map(|before| self.present.nth(before))
    }

    /// A range over the state as it is, that of the open revision included.
    pub fn range(&self, range: &Range) -> RangeAnswer {
        let span = self.keys.span(&range.key, &range.range_end);
        let mut answer = RangeAnswer { revision: self.now(), ..RangeAnswer::default() };
        let single = range.range_end.is_empty();
        let limit = usize::try_from(range.limit).ok().filter(|&limit| limit > 0 && !single);
        let shape = |kv: &Kv| {
            let mut kv = kv.clone();
            if range.keys_only {
                (kv.value, kv.lease) = (Bytes::default(), 0);
            }
            kv
        };
        if range.revision <= 0 || range.revision == self.now() {
            answer.count = i64::from(self.present.below(span.end) - self.present.below(span.start));
            if !range.count_only {
                let pairs = self.live_in(span).filter_map(|rank| self.live(rank));
                answer.kvs = pairs.take(limit.unwrap_or(usize::MAX)).map(shape).collect();
            }
        } else {
            let seen = span.filter_map(|rank| self.seen_at(rank, range.revision));
            let seen: Vec<u32> = seen.collect();
            answer.count = seen.len() as i64;
            if !range.count_only {
                let kept = &seen[..limit.map_or(seen.len(), |limit| limit.min(seen.len()))];
                answer.kvs = kept.iter().map(|&at| shape(&self.changes[at as usize].kv)).collect();
            }
        }
        answer.more = !range.count_only && (answer.kvs.len() as i64) < answer.count;
        answer
    }

    fn holds(&self, compare: &Compare) -> bool {
        let holds = |kv: Option<&Kv>| {
            let number = |of: fn(&Kv) -> i64, bound: &i64| kv.map_or(0, of).cmp(bound);
            let ordering = match &compare.target {
                Target::Version(bound) => number(|kv| kv.version, bound),
                Target::Create(bound) => number(|kv| kv.create, bound),
                Target::Modified(bound) => number(|kv| kv.modified, bound),
                Target::Lease(bound) => number(|kv| kv.lease, bound),
                Target::Value(bound) => match kv {
                    Some(kv) => kv.value.cmp(bound),
                    None => return false,
                },
            };
            match compare.relation {
                Relation::Equal => ordering.is_eq(),
                Relation::NotEqual => ordering.is_ne(),
                Relation::Greater => ordering.is_gt(),
                Relation::Less => ordering.is_lt(),
            }
        };
        let mut some = false;
        let span = self.keys.span(&compare.key, &compare.range_end);
        let all = self.live_in(span).all(|rank| {
            some = true;
            holds(self.live(rank))
        });
        if some { all } else { holds(None) }
    }

    /// Decides all compares on the path, nested ones too: they look at the state before the transaction.
    fn choose(&self, txn: &Txn, path: &mut Vec<bool>) {
        let succeeded = txn.compares.iter().all(|compare| self.holds(compare));
        path.push(succeeded);
        for op in txn.branch(succeeded) {
            if let TxnOp::Txn(nested) = op {
                self.choose(nested, path);
            }
        }
    }

    fn txn(&mut self, txn: &Txn) -> Result<TxnAnswer, Refusal> {
        let mut path = Vec::new();
        self.choose(txn, &mut path);
        let mut answer = self.txn_on(txn, &mut path.into_iter())?;
        answer.revision = self.now();
        Ok(answer)
    }

    fn txn_on(&mut self, txn: &Txn, path: &mut std::vec::IntoIter<bool>) -> Result<TxnAnswer, Refusal> {
        let succeeded = path.next().expect("every transaction on the path was decided");
        let answers = txn.branch(succeeded).iter().map(|op| match op {
            TxnOp::Put(put) => self.put(put).map(OpAnswer::Put),
            TxnOp::DeleteRange(delete) => Ok(OpAnswer::DeleteRange(self.delete(delete))),
            TxnOp::Range(range) => Ok(OpAnswer::Range(self.range(range))),
            TxnOp::Txn(nested) => self.txn_on(nested, path).map(OpAnswer::Txn),
        });
        let answers = answers.collect::<Result<_, _>>()?;
        Ok(TxnAnswer { revision: 0, succeeded, answers })
    }
}

impl Change {
    /// The event that a watcher gets, but for the previous pair.
    pub fn is_told_by(&self, event: &Event) -> bool {
        self.kind == event.kind && self.kv == event.kv
    }
}
