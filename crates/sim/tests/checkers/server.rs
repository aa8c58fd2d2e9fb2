//! A store written as plainly as possible: a map for every revision, one request after the other. Flaws can be
//! switched on, one at a time.

use std::collections::BTreeMap;
use std::rc::Rc;

use sim::history::*;

pub type Map = BTreeMap<Vec<u8>, Kv>;

/// Bugs of the server, each of which leaves a history that is wrong through and through, not in one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flaw {
    /// A crash takes back the newest revisions, acknowledged ones too.
    LostAtCrash,
    /// A crash takes back the compacted revision.
    CompactionUndone,
    /// A put is executed twice, as by a log entry that is replayed.
    AppliedTwice,
    /// An expired lease loses its keys in two revisions.
    SplitExpiry,
    /// A revocation leaves a key.
    RevokeLeavesKey,
    /// An expiry leaves a key.
    ExpiryLeavesKey,
    /// A lease expires after half its time.
    EarlyExpiry,
    /// A restart leaves leases the time they had, the time of the restart included.
    NotExtended,
    /// A restart forgets leases.
    LeaseForgotten,
    /// A renewal is answered and changes nothing.
    RenewalIgnored,
    /// A transaction's compares see what its own operations did.
    CompareLate,
    /// A delete of a span leaves its last key.
    DeleteLeavesLast,
    /// A put after a delete goes on with the old version.
    VersionGoesOn,
    /// A put that keeps its lease loses it.
    LeaseNotKept,
    /// A compaction takes away what is still the newest version of a key.
    CompactionTakesLive,
}

pub const FLAWS: [Flaw; 15] = [
    Flaw::LostAtCrash,
    Flaw::CompactionUndone,
    Flaw::AppliedTwice,
    Flaw::SplitExpiry,
    Flaw::RevokeLeavesKey,
    Flaw::ExpiryLeavesKey,
    Flaw::EarlyExpiry,
    Flaw::NotExtended,
    Flaw::LeaseForgotten,
    Flaw::RenewalIgnored,
    Flaw::CompareLate,
    Flaw::DeleteLeavesLast,
    Flaw::VersionGoesOn,
    Flaw::LeaseNotKept,
    Flaw::CompactionTakesLive,
];

#[derive(Clone)]
pub struct Lease {
    pub ttl_s: i64,
    pub deadline_us: u64,
}

pub struct Server {
    /// What is readable at each revision, from revision 1 on.
    pub states: Vec<Rc<Map>>,
    /// Every change, with its event.
    pub log: Vec<Event>,
    pub compacted: i64,
    pub leases: BTreeMap<i64, Lease>,
    pub flaw: Option<Flaw>,
    /// The flaw did its harm.
    pub struck: bool,
    next_lease: i64,
    /// Of the request under way.
    map: Map,
    changed: bool,
}

pub fn inside(key: &[u8], start: &[u8], end: &[u8]) -> bool {
    match end {
        [] => key == start,
        [0] => key >= start,
        end => key >= start && key < end,
    }
}

impl Server {
    pub fn new(flaw: Option<Flaw>) -> Server {
        Server {
            states: vec![Rc::new(Map::new())],
            log: Vec::new(),
            compacted: -1,
            leases: BTreeMap::new(),
            flaw,
            struck: false,
            next_lease: 100,
            map: Map::new(),
            changed: false,
        }
    }

    pub fn revision(&self) -> i64 {
        self.states.len() as i64
    }

    fn now(&self) -> i64 {
        self.revision() + i64::from(self.changed)
    }

    pub fn state(&self, revision: i64) -> &Map {
        &self.states[revision as usize - 1]
    }

    /// The flaw strikes, unless it is another one or has struck already.
    fn strikes(&mut self, flaw: Flaw) -> bool {
        let strikes = self.flaw == Some(flaw) && !self.struck;
        self.struck |= strikes;
        strikes
    }

    fn set(&mut self, key: &[u8], kv: Option<Kv>) {
        let revision = self.revision() + 1;
        self.changed = true;
        let before = self.state(self.revision()).get(key).cloned();
        let event = match &kv {
            Some(kv) => {
                Event { kind: Kind::Put, kv: kv.clone(), prev: before.filter(|_| kv.create != revision) }
            }
            None => Event {
                kind: Kind::Delete,
                kv: Kv { key: key.into(), modified: revision, ..Kv::default() },
                prev: before,
            },
        };
        self.log.push(event);
        match kv {
            Some(kv) => self.map.insert(key.to_vec(), kv),
            None => self.map.remove(key),
        };
    }

    fn end(&mut self) {
        if self.changed {
            self.states.push(Rc::new(self.map.clone()));
        }
        self.changed = false;
    }

    fn undo(&mut self) {
        let revision = self.revision();
        self.map = self.state(revision).clone();
        self.log.retain(|event| event.kv.modified <= revision);
        self.changed = false;
    }

    fn put(&mut self, put: &Put) -> Result<PutAnswer, Refusal> {
        let old = self.map.get(&*put.key).cloned();
        if old.is_none() && (put.ignore_value || put.ignore_lease) {
            return Err(Refusal::KeyNotFound);
        }
        if put.lease != 0 && !self.leases.contains_key(&put.lease) {
            return Err(Refusal::LeaseNotFound);
        }
        let revision = self.revision() + 1;
        let mut kv = Kv {
            key: put.key.clone(),
            value: put.value.clone(),
            create: revision,
            modified: revision,
            version: 1,
            lease: put.lease,
        };
        if let Some(old) = &old {
            (kv.create, kv.version) = (old.create, old.version + 1);
            if put.ignore_value {
                kv.value = old.value.clone();
            }
            let forgets = put.ignore_lease && old.lease != 0 && self.strikes(Flaw::LeaseNotKept);
            if put.ignore_lease && !forgets {
                kv.lease = old.lease;
            }
        } else if self.flaw == Some(Flaw::VersionGoesOn) && !self.struck {
            let earlier = self.log.iter().rev().find(|e| e.kv.key == put.key && e.kind == Kind::Put);
            if let Some(earlier) = earlier {
                kv.version = earlier.kv.version + 1;
                self.struck = true;
            }
        }
        self.set(&put.key, Some(kv));
        Ok(PutAnswer { revision, prev: old.filter(|_| put.prev_kv) })
    }

    fn delete(&mut self, delete: &DeleteRange) -> DeleteAnswer {
        let inside = |key: &Vec<u8>| inside(key, &delete.key, &delete.range_end);
        let mut gone: Vec<Kv> =
            self.map.iter().filter(|(key, _)| inside(key)).map(|(_, kv)| kv.clone()).collect();
        let deleted = gone.len() as i64;
        let prevs = if delete.prev_kv { gone.clone() } else { Vec::new() };
        if gone.len() > 1 && self.strikes(Flaw::DeleteLeavesLast) {
            gone.pop();
        }
        for kv in gone {
            self.set(&kv.key, None);
        }
        DeleteAnswer { revision: self.now(), deleted, prevs }
    }

    /// A range at what `view` is the newest revision of.
    pub fn range(&self, range: &Range, view: i64) -> Result<RangeAnswer, Refusal> {
        match range.revision {
            asked if asked > view => Err(Refusal::FutureRevision),
            asked if asked > 0 && asked < self.compacted => Err(Refusal::Compacted),
            asked if asked > 0 => Ok(range_in(self.state(asked), range, view)),
            _ => Ok(range_in(self.state(view), range, view)),
        }
    }

    fn holds(&self, compare: &Compare, map: &Map) -> bool {
        let inside = map.values().filter(|kv| inside(&kv.key, &compare.key, &compare.range_end));
        let found: Vec<&Kv> = inside.collect();
        let nothing = Kv::default();
        if found.is_empty() {
            return !matches!(compare.target, Target::Value(_)) && pair_holds(compare, &nothing);
        }
        found.into_iter().all(|kv| pair_holds(compare, kv))
    }

    fn path(&self, txn: &Txn, map: &Map, path: &mut Vec<bool>) {
        let succeeded = txn.compares.iter().all(|compare| self.holds(compare, map));
        path.push(succeeded);
        for op in txn.branch(succeeded) {
            if let TxnOp::Txn(nested) = op {
                self.path(nested, map, path);
            }
        }
    }

    fn txn(&mut self, txn: &Txn, path: &mut std::vec::IntoIter<bool>) -> Result<TxnAnswer, Refusal> {
        let mut succeeded = path.next().expect("decided");
        if self.changed && self.flaw == Some(Flaw::CompareLate) && !self.struck {
            let map = self.map.clone();
            let late = txn.compares.iter().all(|compare| self.holds(compare, &map));
            let flat = txn.then.iter().chain(&txn.otherwise).all(|op| !matches!(op, TxnOp::Txn(_)));
            if late != succeeded && flat {
                succeeded = late;
                self.struck = true;
            }
        }
        let mut answers = Vec::new();
        for op in txn.branch(succeeded) {
            answers.push(match op {
                TxnOp::Put(put) => OpAnswer::Put(self.put(put)?),
                TxnOp::DeleteRange(delete) => OpAnswer::DeleteRange(self.delete(delete)),
                TxnOp::Txn(nested) => OpAnswer::Txn(self.txn(nested, path)?),
                TxnOp::Range(range) if range.revision > 0 => {
                    if range.revision > self.revision() {
                        return Err(Refusal::FutureRevision);
                    }
                    if range.revision < self.compacted {
                        return Err(Refusal::Compacted);
                    }
                    let state = self.state(range.revision);
                    OpAnswer::Range(range_in(state, range, self.now()))
                }
                TxnOp::Range(range) => OpAnswer::Range(range_in(&self.map, range, self.now())),
            });
        }
        Ok(TxnAnswer { revision: 0, succeeded, answers })
    }

    pub fn keys_of_lease(&self, id: i64) -> Vec<Bytes> {
        self.map.values().filter(|kv| kv.lease == id).map(|kv| kv.key.clone()).collect()
    }

    /// Deletes what the lease holds; `leave` leaves the last key.
    fn drop_lease(&mut self, id: i64, leave: bool) {
        let mut keys = self.keys_of_lease(id);
        if leave {
            keys.pop();
        }
        for key in keys {
            self.set(&key, None);
        }
        self.leases.remove(&id);
        self.end();
    }

    /// A lease whose time is up.
    pub fn due(&self, now_us: u64) -> Option<i64> {
        self.leases.iter().find(|(_, lease)| lease.deadline_us <= now_us).map(|(&id, _)| id)
    }

    pub fn expire(&mut self, id: i64) {
        let keys = self.keys_of_lease(id);
        if keys.len() > 1 && self.strikes(Flaw::SplitExpiry) {
            self.set(&keys[0], None);
            self.end();
        }
        let leave = keys.len() > 1 && self.strikes(Flaw::ExpiryLeavesKey);
        self.drop_lease(id, leave);
    }

    pub fn execute(&mut self, request: &Request, now_us: u64) -> Result<Answer, Refusal> {
        let struck = self.struck;
        let answer = self.try_execute(request, now_us);
        match answer {
            Ok(_) => self.end(),
            Err(_) => {
                self.undo();
                self.struck = struck;
            }
        }
        answer
    }

    fn try_execute(&mut self, request: &Request, now_us: u64) -> Result<Answer, Refusal> {
        let current = self.revision();
        match request {
            Request::Put(put) => {
                let answer = self.put(put)?;
                if self.strikes(Flaw::AppliedTwice) {
                    self.end();
                    let _ = self.put(put);
                }
                Ok(Answer::Put(answer))
            }
            Request::DeleteRange(delete) => Ok(Answer::DeleteRange(self.delete(delete))),
            Request::Range(range) => self.range(range, current).map(Answer::Range),
            Request::Txn(txn) => {
                let mut path = Vec::new();
                self.path(txn, &self.map, &mut path);
                let mut answer = self.txn(txn, &mut path.into_iter())?;
                answer.revision = self.now();
                Ok(Answer::Txn(answer))
            }
            Request::Compact { revision } => {
                if *revision <= self.compacted {
                    return Err(Refusal::Compacted);
                }
                if *revision > current {
                    return Err(Refusal::FutureRevision);
                }
                if self.flaw == Some(Flaw::CompactionUndone) && self.struck {
                    return Ok(Answer::Compact { revision: current });
                }
                self.compacted = *revision;
                if self.flaw == Some(Flaw::CompactionTakesLive) && !self.struck {
                    let victim = self.map.iter().find(|(_, kv)| kv.modified <= *revision && kv.lease == 0);
                    if let Some(key) = victim.map(|(key, _)| key.clone()) {
                        self.struck = true;
                        self.map.remove(&key);
                        for state in &mut self.states[*revision as usize - 1..] {
                            Rc::make_mut(state).remove(&key);
                        }
                    }
                }
                Ok(Answer::Compact { revision: current })
            }
            Request::LeaseGrant { id, ttl_s } => {
                let id = if *id == 0 { self.next_lease } else { *id };
                if self.leases.contains_key(&id) {
                    return Err(Refusal::LeaseExists);
                }
                self.next_lease += i64::from(id == self.next_lease);
                let ttl_s = (*ttl_s).max(2);
                self.leases.insert(id, Lease { ttl_s, deadline_us: now_us + ttl_s as u64 * 1_000_000 });
                Ok(Answer::LeaseGrant { revision: current, id, ttl_s })
            }
            Request::LeaseRevoke { id } => {
                if !self.leases.contains_key(id) {
                    return Err(Refusal::LeaseNotFound);
                }
                let leave = !self.keys_of_lease(*id).is_empty() && self.strikes(Flaw::RevokeLeavesKey);
                self.drop_lease(*id, leave);
                Ok(Answer::LeaseRevoke { revision: self.revision() })
            }
            Request::LeaseKeepAlive { id } => {
                let ignored = self.flaw == Some(Flaw::RenewalIgnored);
                let has_keys = !self.keys_of_lease(*id).is_empty();
                let Some(lease) = self.leases.get_mut(id) else {
                    return Ok(Answer::LeaseKeepAlive { revision: current, ttl_s: 0 });
                };
                if !(ignored && has_keys) {
                    lease.deadline_us = now_us + lease.ttl_s as u64 * 1_000_000;
                }
                Ok(Answer::LeaseKeepAlive { revision: current, ttl_s: lease.ttl_s })
            }
            Request::LeaseTimeToLive { id, keys } => {
                let Some(lease) = self.leases.get(id) else {
                    return Ok(Answer::LeaseTimeToLive {
                        revision: current,
                        ttl_s: -1,
                        granted_ttl_s: 0,
                        keys: vec![],
                    });
                };
                let left_us = lease.deadline_us as i64 - now_us as i64;
                let mut held = if *keys { self.keys_of_lease(*id) } else { Vec::new() };
                held.reverse();
                Ok(Answer::LeaseTimeToLive {
                    revision: current,
                    ttl_s: left_us / 1_000_000,
                    granted_ttl_s: lease.ttl_s,
                    keys: held,
                })
            }
        }
    }

    /// Everything restarts. `acknowledged` and `compacted` are the newest revision and compaction that a client was
    /// told; `dear` is a lease without keys that somebody was promised.
    pub fn restart(&mut self, now_us: u64, acknowledged: i64, compacted: i64, dear: Option<i64>) {
        let extend_us = 1_000_000;
        if let Some(id) = dear
            && self.strikes(Flaw::LeaseForgotten)
        {
            self.leases.remove(&id);
        }
        if self.flaw != Some(Flaw::NotExtended) {
            for lease in self.leases.values_mut() {
                lease.deadline_us = now_us + extend_us + lease.ttl_s as u64 * 1_000_000;
            }
        }
        if acknowledged == self.revision() && acknowledged > 4 && self.strikes(Flaw::LostAtCrash) {
            let kept = acknowledged - 2;
            self.states.truncate(kept as usize);
            self.log.retain(|event| event.kv.modified <= kept);
            self.map = self.state(kept).clone();
            self.compacted = self.compacted.min(kept);
        }
        if self.compacted > 1 && self.compacted == compacted && self.strikes(Flaw::CompactionUndone) {
            self.compacted = -1;
        }
    }
}

fn pair_holds(compare: &Compare, kv: &Kv) -> bool {
    let ordering = match &compare.target {
        Target::Version(bound) => kv.version.cmp(bound),
        Target::Create(bound) => kv.create.cmp(bound),
        Target::Modified(bound) => kv.modified.cmp(bound),
        Target::Lease(bound) => kv.lease.cmp(bound),
        Target::Value(bound) => kv.value[..].cmp(&bound[..]),
    };
    match compare.relation {
        Relation::Equal => ordering.is_eq(),
        Relation::NotEqual => ordering.is_ne(),
        Relation::Greater => ordering.is_gt(),
        Relation::Less => ordering.is_lt(),
    }
}

/// What a range answers over one state.
pub fn range_in(map: &Map, range: &Range, header: i64) -> RangeAnswer {
    let inside = map.iter().filter(|(key, _)| inside(key, &range.key, &range.range_end));
    let mut kvs: Vec<Kv> = inside.map(|(_, kv)| kv.clone()).collect();
    let count = kvs.len() as i64;
    if range.count_only {
        return RangeAnswer { revision: header, kvs: Vec::new(), more: false, count };
    }
    let more = range.limit > 0 && count > range.limit;
    if more {
        kvs.truncate(range.limit as usize);
    }
    if range.keys_only {
        for kv in &mut kvs {
            (kv.value, kv.lease) = (Bytes::default(), 0);
        }
    }
    RangeAnswer { revision: header, kvs, more, count }
}
