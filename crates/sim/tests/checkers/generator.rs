//! Histories that are right by construction: clients, streams and leases around the plain server, whose calls,
//! executions and answers a seed interleaves.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use base::Random;
use sim::check::lease::Clocks;
use sim::history::*;

use crate::server::{Flaw, Map, Server, inside};

#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub seed: u64,
    pub actions: u32,
    /// Two: the second one's view of the store lags.
    pub members: u32,
    pub crashes: bool,
    /// Calls get lost without a crash.
    pub losses: bool,
    pub deletes: bool,
    pub revokes: bool,
    /// The dump at the end begins with the history, whatever was compacted.
    pub dump_all: bool,
    pub flaw: Option<Flaw>,
}

impl Options {
    pub fn of_seed(seed: u64) -> Options {
        Options {
            seed,
            actions: 2000,
            members: 1 + (seed % 2) as u32,
            crashes: !seed.is_multiple_of(3),
            losses: !seed.is_multiple_of(5),
            deletes: true,
            revokes: true,
            dump_all: !seed.is_multiple_of(2),
            flaw: None,
        }
    }

    /// For mutations: every revision can be told from the dump.
    pub fn dumped(seed: u64) -> Options {
        Options { dump_all: true, ..Options::of_seed(seed) }
    }

    /// No call is lost, so that none explains what was changed.
    pub fn lossless(seed: u64) -> Options {
        Options { crashes: false, losses: false, ..Options::dumped(seed) }
    }

    /// As a flaw needs it to be found without fail: what may explain it otherwise does not happen.
    pub fn of_flaw(seed: u64, flaw: Flaw) -> Options {
        use Flaw::{CompactionUndone, EarlyExpiry, LeaseForgotten, LostAtCrash, NotExtended, RenewalIgnored};
        let crash = matches!(flaw, LostAtCrash | CompactionUndone | NotExtended | LeaseForgotten);
        let in_time = matches!(flaw, EarlyExpiry | NotExtended | LeaseForgotten | RenewalIgnored);
        Options {
            crashes: crash,
            losses: false,
            deletes: !in_time,
            revokes: !in_time,
            dump_all: true,
            flaw: Some(flaw),
            ..Options::of_seed(seed)
        }
    }
}

#[derive(Clone)]
pub struct Run {
    pub history: History,
    pub clocks: Clocks,
    /// The flaw did its harm.
    pub struck: bool,
    /// What really happened: the state at each revision from 1 on, and every event.
    pub states: Vec<Rc<Map>>,
    pub log: Vec<Event>,
    pub now_us: u64,
}

struct Call {
    op: OpId,
    member: u32,
    at_us: u64,
    request: Request,
    done: Option<Result<Answer, Refusal>>,
}

/// A watcher at the server.
struct Seat {
    id: i64,
    create: WatchCreate,
    next: i64,
    floor: i64,
}

/// A watcher at the client: enough to go on elsewhere.
#[derive(Clone)]
struct Wish {
    create: WatchCreate,
    next: i64,
}

struct Wire {
    id: StreamId,
    member: u32,
    /// Sees everything, and is never left behind by a compaction.
    observer: bool,
    to_server: VecDeque<Passage>,
    to_client: VecDeque<WatchAnswer>,
    seats: Vec<Seat>,
    next_id: i64,
    asked: VecDeque<Wish>,
    wishes: BTreeMap<i64, Wish>,
}

struct World {
    options: Options,
    random: Random,
    history: History,
    server: Server,
    now_us: u64,
    calls: Vec<Option<Call>>,
    /// Lost on the way to the log: may be executed yet.
    ghosts: Vec<Request>,
    views: Vec<i64>,
    wires: Vec<Wire>,
    values: u64,
    /// The newest revision and compaction that a client was told.
    told: i64,
    told_compaction: i64,
    /// Until when clients were promised leases, with the TTL.
    promised: BTreeMap<i64, (u64, i64)>,
    struck: bool,
}

const CLIENTS: usize = 6;
const KEYS: u64 = 14;

pub fn run(options: Options) -> Run {
    let mut world = World::new(options);
    for _ in 0..options.actions {
        world.act();
    }
    world.settle();
    let clocks =
        Clocks { drift_ppm: 0, slack_us: 0, min_ttl_s: 2, extension_us: Some(1_000_000), late_us: Some(0) };
    Run {
        struck: world.struck || world.server.struck,
        history: world.history,
        clocks,
        states: world.server.states,
        log: world.server.log,
        now_us: world.now_us,
    }
}

impl World {
    fn new(options: Options) -> World {
        let mut world = World {
            options,
            random: Random::new(options.seed),
            history: History::new(),
            server: Server::new(options.flaw),
            now_us: 1_000_000,
            calls: (0..CLIENTS).map(|_| None).collect(),
            ghosts: Vec::new(),
            views: vec![1; options.members as usize],
            wires: Vec::new(),
            values: 0,
            told: 1,
            told_compaction: -1,
            promised: BTreeMap::new(),
            struck: false,
        };
        world.open(true);
        world
    }

    fn key(&mut self) -> Bytes {
        Bytes::from(format!("k{:02}", self.random.below(KEYS)).as_bytes())
    }

    fn end(&mut self) -> Bytes {
        match self.random.below(4) {
            0 => Bytes::from(&[0][..]),
            1 => Bytes::default(),
            _ => self.key(),
        }
    }

    fn value(&mut self) -> Bytes {
        self.values += 1;
        Bytes::from(format!("v{}", self.values).as_bytes())
    }

    fn lease(&mut self) -> i64 {
        let known: Vec<i64> = self.server.leases.keys().copied().collect();
        match self.random.below(8) {
            0 => 1 + self.random.below(6) as i64,
            1..5 if !known.is_empty() => known[self.random.below(known.len() as u64) as usize],
            _ => 0,
        }
    }

    fn put_of(&mut self, key: Bytes) -> Put {
        let mut put = Put { key, value: self.value(), lease: self.lease(), ..Put::default() };
        put.prev_kv = self.random.one_in(3);
        if self.random.one_in(10) {
            (put.ignore_value, put.value) = (true, Bytes::default());
        }
        if self.random.one_in(8) {
            (put.ignore_lease, put.lease) = (true, 0);
        }
        put
    }

    fn delete_of(&mut self, key: Bytes) -> DeleteRange {
        let range_end = if self.random.one_in(4) { self.end() } else { Bytes::default() };
        DeleteRange { key, range_end, prev_kv: self.random.one_in(2) }
    }

    fn range(&mut self) -> Range {
        let newest = self.server.revision();
        let revision = match self.random.below(8) {
            0 => 1 + self.random.below(newest as u64 + 2) as i64,
            1 => (newest - self.random.below(6) as i64).max(1),
            _ => 0,
        };
        Range {
            key: self.key(),
            range_end: self.end(),
            revision,
            limit: if self.random.one_in(3) { self.random.below(5) as i64 } else { 0 },
            serializable: self.random.one_in(4),
            keys_only: self.random.one_in(8),
            count_only: self.random.one_in(10),
        }
    }

    fn compare(&mut self) -> Compare {
        let known = self.server.state(self.server.revision()).values().nth(self.random.below(KEYS) as usize);
        let kv = known.cloned().unwrap_or_default();
        let target = match self.random.below(6) {
            0 => Target::Version(self.random.below(4) as i64),
            1 => Target::Create(kv.create),
            2 => Target::Lease(kv.lease),
            3 => Target::Value(kv.value.clone()),
            _ => Target::Modified(kv.modified),
        };
        let relation = match self.random.below(6) {
            0 => Relation::NotEqual,
            1 => Relation::Greater,
            2 => Relation::Less,
            _ => Relation::Equal,
        };
        let range_end = if self.random.one_in(6) { self.end() } else { Bytes::default() };
        let key = if kv.key.is_empty() || self.random.one_in(4) { self.key() } else { kv.key };
        Compare { key, range_end, relation, target }
    }

    /// Puts go to keys of their own, which no other operation of the transaction names.
    fn ops(&mut self, depth: u32, keys: &mut Vec<Bytes>) -> Vec<TxnOp> {
        let mut ops = Vec::new();
        for _ in 0..self.random.below(4) {
            match self.random.below(7) {
                0..3 => {
                    if let Some(key) = keys.pop() {
                        ops.push(TxnOp::Put(self.put_of(key)));
                    }
                }
                3 if self.options.deletes => {
                    if let Some(key) = keys.pop() {
                        ops.push(TxnOp::DeleteRange(DeleteRange {
                            key,
                            range_end: Bytes::default(),
                            prev_kv: self.random.one_in(2),
                        }));
                    }
                }
                4 if depth > 0 => {
                    let compares = (0..self.random.below(2)).map(|_| self.compare()).collect();
                    let then = self.ops(depth - 1, keys);
                    let otherwise = self.ops(depth - 1, keys);
                    ops.push(TxnOp::Txn(Txn { compares, then, otherwise }));
                }
                // From a key on: etcd lets a put of such a key stand beside it, before or after.
                5 if self.options.deletes && self.random.one_in(4) => {
                    let range_end = Bytes::from(&[0][..]);
                    ops.push(TxnOp::DeleteRange(DeleteRange { key: self.key(), range_end, prev_kv: true }));
                }
                _ => ops.push(TxnOp::Range(self.range())),
            }
        }
        ops
    }

    fn request(&mut self) -> Request {
        match self.random.below(30) {
            0..9 => {
                let key = self.key();
                Request::Put(self.put_of(key))
            }
            9..12 if self.options.deletes => {
                let key = self.key();
                Request::DeleteRange(self.delete_of(key))
            }
            12..17 => {
                let mut keys: Vec<Bytes> =
                    (0..KEYS).map(|i| Bytes::from(format!("k{i:02}").as_bytes())).collect();
                for i in (1..keys.len()).rev() {
                    keys.swap(i, self.random.below(i as u64 + 1) as usize);
                }
                let compares = (0..self.random.below(3)).map(|_| self.compare()).collect();
                let then = self.ops(2, &mut keys);
                let otherwise = self.ops(1, &mut keys);
                Request::Txn(Txn { compares, then, otherwise })
            }
            17..23 => Request::Range(self.range()),
            23 if self.random.one_in(2) => {
                let observed = self.wires.iter().filter(|wire| wire.observer);
                let behind =
                    observed.flat_map(|wire| wire.wishes.values().chain(&wire.asked)).map(|wish| wish.next);
                // What the observer has not seen is not compacted: it is the evidence of lost calls.
                let limit = behind.min().unwrap_or(1).min(self.server.revision() + 2);
                Request::Compact { revision: 1 + self.random.below(limit.max(1) as u64) as i64 }
            }
            24 => {
                let id = if self.random.one_in(3) { 0 } else { 1 + self.random.below(6) as i64 };
                Request::LeaseGrant { id, ttl_s: 1 + self.random.below(4) as i64 }
            }
            25 if self.options.revokes && self.random.one_in(2) => {
                Request::LeaseRevoke { id: self.lease().max(1) }
            }
            26..28 => Request::LeaseKeepAlive { id: self.lease().max(1) },
            28 => Request::LeaseTimeToLive { id: self.lease().max(1), keys: self.random.one_in(2) },
            _ => Request::Range(self.range()),
        }
    }

    fn act(&mut self) {
        self.now_us += self.random.below(20_000);
        match self.random.below(100) {
            0..60 => {
                let client = self.random.below(CLIENTS as u64) as usize;
                self.client(client);
            }
            60..64 => self.expire(),
            64..68 => self.ghost(),
            68..72 => self.advance(),
            72..95 => {
                let wire = self.random.below(self.wires.len() as u64) as usize;
                self.wire(wire);
            }
            95 => {
                if self.wires.len() < 4 {
                    self.open(false);
                } else {
                    let wire = self.random.below(self.wires.len() as u64) as usize;
                    self.break_wire(wire);
                }
            }
            96..98 => self.hash(),
            98 if self.options.crashes && self.random.one_in(4) => self.crash(),
            _ => {}
        }
    }

    /// What was lost on its way is executed after all, or never.
    fn ghost(&mut self) {
        let Some(count) = std::num::NonZero::new(self.ghosts.len() as u64) else { return };
        let which = self.random.below(count.get()) as usize;
        let request = self.ghosts.swap_remove(which);
        if self.random.one_in(2) && self.may_execute(&request) {
            let _ = self.server.execute(&request, self.now_us);
        }
    }

    fn advance(&mut self) {
        for member in 0..self.views.len() {
            let newest = self.server.revision();
            let view = self.views[member];
            self.views[member] = if member == 0 {
                newest
            } else {
                view + self.random.below((newest - view + 1) as u64) as i64
            };
        }
    }

    /// The member has seen this; it never shows less again.
    fn shows(&mut self, member: u32, revision: i64) {
        let view = &mut self.views[member as usize];
        *view = revision.max(*view);
    }

    fn client(&mut self, client: usize) {
        let Some(call) = self.calls[client].take() else {
            let request = self.request();
            let member = self.random.below(u64::from(self.options.members)) as u32;
            let op = self.history.call(client as u32, member, self.now_us, request.clone());
            self.calls[client] = Some(Call { op, member, at_us: self.now_us, request, done: None });
            return;
        };
        if self.options.losses && self.random.one_in(25) {
            self.history.lost(call.op, self.now_us);
            if call.done.is_none() {
                self.ghosts.push(call.request);
            }
            return;
        }
        self.calls[client] = self.go_on(call);
    }

    /// A renewal of a lease whose time is up waits for its end.
    fn may_execute(&self, request: &Request) -> bool {
        match request {
            Request::LeaseKeepAlive { id } => {
                self.server.leases.get(id).is_none_or(|lease| lease.deadline_us > self.now_us)
            }
            _ => true,
        }
    }

    /// Executes a call, or answers one that was executed.
    fn go_on(&mut self, mut call: Call) -> Option<Call> {
        let Some(done) = call.done.take() else {
            if self.may_execute(&call.request) {
                call.done = Some(self.execute(&call));
            }
            return Some(call);
        };
        match done {
            Ok(answer) => {
                self.shows(call.member, answer.revision());
                self.told = self.told.max(answer.revision());
                self.promise(&call, &answer);
                self.history.answered(call.op, self.now_us, answer);
            }
            Err(refusal) => self.history.refused(call.op, self.now_us, refusal),
        }
        None
    }

    fn promise(&mut self, call: &Call, answer: &Answer) {
        match (answer, &call.request) {
            (Answer::LeaseGrant { id, ttl_s, .. }, _) => {
                self.promised.insert(*id, (call.at_us + *ttl_s as u64 * 1_000_000, *ttl_s));
            }
            (Answer::LeaseKeepAlive { ttl_s, .. }, Request::LeaseKeepAlive { id }) if *ttl_s > 0 => {
                let until_us = call.at_us + *ttl_s as u64 * 1_000_000;
                let earlier = self.promised.get(id).map_or(0, |&(until_us, _)| until_us);
                self.promised.insert(*id, (until_us.max(earlier), *ttl_s));
            }
            (Answer::Compact { .. }, Request::Compact { revision }) => self.told_compaction = *revision,
            _ => {}
        }
    }

    fn execute(&mut self, call: &Call) -> Result<Answer, Refusal> {
        let serializable = match &call.request {
            Request::Range(range) => range.serializable,
            Request::Txn(txn) => txn.is_serializable(),
            _ => false,
        };
        if let (true, Request::Range(range)) = (serializable, &call.request) {
            let view = self.views[call.member as usize];
            let answer = self.server.range(range, view).map(Answer::Range);
            return answer;
        }
        let answer = self.server.execute(&call.request, self.now_us);
        self.shows(call.member, self.server.revision());
        answer
    }

    fn expire(&mut self) {
        let flawed = self.options.flaw;
        let early = self.promised.iter().find(|(id, (until_us, _))| {
            *until_us > self.now_us && !self.server.keys_of_lease(**id).is_empty()
        });
        let early = early.map(|(&id, _)| id).filter(|_| flawed == Some(Flaw::EarlyExpiry) && !self.struck);
        let Some(id) = early.or_else(|| self.server.due(self.now_us)) else { return };
        let promised = self.promised.get(&id).is_some_and(|&(until_us, _)| until_us > self.now_us);
        let strikes = promised && !self.server.keys_of_lease(id).is_empty();
        let kept = !promised || flawed.is_some() || self.options.revokes;
        assert!(kept, "a server without flaws keeps its promises");
        self.server.expire(id);
        if strikes {
            // Somebody sees it at once.
            self.struck = true;
            let range = Range { key: self.key(), ..Range::default() };
            self.at_once(Request::Range(range));
        }
    }

    fn at_once(&mut self, request: Request) {
        let op = self.history.call(99, 0, self.now_us, request.clone());
        let mut call = Some(Call { op, member: 0, at_us: self.now_us, request, done: None });
        while let Some(under_way) = call {
            call = self.go_on(under_way);
        }
    }

    fn crash(&mut self) {
        for member in 0..self.options.members {
            if self.options.members == 1 {
                self.history.note(self.now_us, Note::Stopped { member });
            }
        }
        if self.options.members > 1 {
            self.history.note(self.now_us, Note::LeaderLost);
        }
        let lost_us = self.now_us;
        for client in 0..CLIENTS {
            let Some(call) = self.calls[client].take() else { continue };
            self.history.lost(call.op, self.now_us);
            if call.done.is_none() && self.random.one_in(2) && self.may_execute(&call.request) {
                let _ = self.server.execute(&call.request, self.now_us);
            }
        }
        // The logs of old members are gone; what was on its way is dropped.
        self.ghosts.clear();
        for wire in 0..self.wires.len() {
            self.break_wire(wire);
        }
        self.now_us += self.random.below(1_000_000);
        let dear = self.promised.iter().find(|(id, (until_us, _))| {
            *until_us > lost_us
                && self.server.keys_of_lease(**id).is_empty()
                && self.server.leases.contains_key(*id)
        });
        let dear = dear.map(|(&id, _)| id);
        let forgot = self.server.struck;
        self.server.restart(self.now_us, self.told, self.told_compaction, dear);
        let forgot = !forgot && self.server.struck && self.options.flaw == Some(Flaw::LeaseForgotten);
        for member in 0..self.options.members {
            let note = match self.options.members {
                1 => Note::Started { member },
                _ => Note::LeaderWon { member },
            };
            if member == 0 {
                self.history.note(self.now_us, note);
            }
            let newest = self.server.revision();
            let view = &mut self.views[member as usize];
            *view = (*view).min(newest);
        }
        for (until_us, ttl_s) in self.promised.values_mut() {
            if *until_us > lost_us {
                *until_us = (*until_us).max(self.now_us + *ttl_s as u64 * 1_000_000);
            }
        }
        if let (true, Some(id)) = (forgot, dear) {
            self.at_once(Request::LeaseTimeToLive { id, keys: false });
        }
        if self.options.flaw == Some(Flaw::CompactionUndone) && self.server.struck {
            let range = Range { key: self.key(), revision: self.told_compaction - 1, ..Range::default() };
            self.at_once(Request::Range(range));
        }
    }

    fn hash(&mut self) {
        let member = self.random.below(u64::from(self.options.members)) as u32;
        let view = self.views[member as usize];
        let revision = (view - self.random.below(3) as i64).max(1);
        if revision < self.server.compacted {
            return;
        }
        let text = format!("{:?}", self.server.state(revision));
        let of = HashOf { revision, compact_revision: self.server.compacted };
        self.history.hash(member, self.now_us, of, u64::from(base::crc32c(text.as_bytes())));
    }

    // --- streams ---

    fn open(&mut self, observer: bool) {
        let member = if observer { 0 } else { self.random.below(u64::from(self.options.members)) as u32 };
        let id = self.history.open_stream(self.wires.len() as u32, member, self.now_us);
        self.wires.push(Wire {
            id,
            member,
            observer,
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            seats: Vec::new(),
            next_id: 0,
            asked: VecDeque::new(),
            wishes: BTreeMap::new(),
        });
        let wire = self.wires.len() - 1;
        if observer {
            let everything = WatchCreate {
                key: Bytes::from(&[0][..]),
                range_end: Bytes::from(&[0][..]),
                start_revision: 1,
                prev_kv: true,
                progress_notify: true,
                ..WatchCreate::default()
            };
            self.send(wire, Passage::Create(everything));
        }
    }

    fn send(&mut self, wire: usize, passage: Passage) {
        let wire = &mut self.wires[wire];
        self.history.passed(wire.id, self.now_us, passage.clone());
        if let Passage::Create(create) = &passage {
            let next = create.start_revision.max(1);
            wire.asked.push_back(Wish { create: create.clone(), next });
        }
        wire.to_server.push_back(passage);
    }

    fn break_wire(&mut self, wire: usize) {
        let old = &mut self.wires[wire];
        self.history.close_stream(old.id, self.now_us);
        let observer = old.observer;
        let wishes: Vec<Wish> = old.wishes.values().chain(&old.asked).cloned().collect();
        // Takes the old one's place, and wants what it wanted.
        self.open(false);
        let mut new = self.wires.pop().expect("just opened");
        new.observer = observer;
        self.wires[wire] = new;
        for wish in wishes {
            let create = WatchCreate { start_revision: wish.next, watch_id: 0, ..wish.create };
            self.send(wire, Passage::Create(create));
        }
    }

    fn new_watch(&mut self) -> WatchCreate {
        let newest = self.server.revision();
        let start_revision = match self.random.below(6) {
            0 => (newest - self.random.below(20) as i64).max(1),
            1 => self.server.compacted.max(1) - self.random.below(2) as i64,
            2 => newest + 1 + self.random.below(3) as i64,
            _ => 0,
        };
        let (key, range_end) = match self.random.below(5) {
            0 => (Bytes::default(), Bytes::from(&[0][..])),
            1 => (self.key(), Bytes::default()),
            _ => (
                Bytes::from(&b"k0"[..]),
                Bytes::from(format!("k{:02}", 1 + self.random.below(KEYS)).as_bytes()),
            ),
        };
        WatchCreate {
            key,
            range_end,
            start_revision: start_revision.max(0),
            watch_id: if self.random.one_in(8) { 50 + self.history.steps() as i64 } else { 0 },
            prev_kv: self.random.one_in(2),
            no_put: self.random.one_in(8),
            no_delete: self.random.one_in(8),
            progress_notify: self.random.one_in(2),
            fragment: self.random.one_in(3),
        }
    }

    fn wire(&mut self, wire: usize) {
        match self.random.below(20) {
            0 if self.wires[wire].asked.len() + self.wires[wire].wishes.len() < 4 => {
                let create = self.new_watch();
                self.send(wire, Passage::Create(create));
            }
            1 => {
                let observer = self.wires[wire].observer;
                let last = self.wires[wire].wishes.keys().last().copied();
                if let Some(watch_id) = last.filter(|_| !observer && self.random.one_in(3)) {
                    self.wires[wire].wishes.remove(&watch_id);
                    self.send(wire, Passage::Cancel { watch_id });
                }
            }
            2 => self.send(wire, Passage::RequestProgress),
            3..7 => self.serve(wire),
            7..12 => self.deliver(wire),
            12 => self.notify(wire),
            13 => {
                // Time enough for everything, and for a bookmark then.
                for _ in 0..30 {
                    self.serve(wire);
                    self.deliver(wire);
                }
                if self.random.one_in(2) {
                    self.send(wire, Passage::RequestProgress);
                    self.serve(wire);
                } else {
                    self.notify(wire);
                }
            }
            _ => self.receive(wire),
        }
    }

    /// The server takes what the client sent.
    fn serve(&mut self, number: usize) {
        let wire = &mut self.wires[number];
        let view = self.views[wire.member as usize];
        match wire.to_server.pop_front() {
            None | Some(Passage::Received(_)) => {}
            Some(Passage::Create(create)) => {
                let id = if create.watch_id != 0 { create.watch_id } else { wire.next_id };
                wire.next_id += i64::from(create.watch_id == 0);
                let answer =
                    WatchAnswer { watch_id: id, revision: view, created: true, ..WatchAnswer::default() };
                wire.to_client.push_back(answer);
                let next = if create.start_revision > 0 { create.start_revision } else { view + 1 };
                let floor = view.max(create.start_revision);
                wire.seats.push(Seat { id, create, next, floor });
            }
            Some(Passage::Cancel { watch_id }) => {
                if let Some(at) = wire.seats.iter().position(|seat| seat.id == watch_id) {
                    wire.seats.remove(at);
                    let answer =
                        WatchAnswer { watch_id, revision: view, canceled: true, ..WatchAnswer::default() };
                    wire.to_client.push_back(answer);
                }
            }
            Some(Passage::RequestProgress) => {
                let served = wire.seats.iter().all(|seat| seat.next > view && seat.floor <= view);
                if served && !wire.seats.is_empty() {
                    let answer = WatchAnswer { watch_id: -1, revision: view, ..WatchAnswer::default() };
                    wire.to_client.push_back(answer);
                }
            }
        }
    }

    /// The server sends events to one watcher.
    fn deliver(&mut self, number: usize) {
        let wire = &mut self.wires[number];
        if wire.seats.is_empty() {
            return;
        }
        let seat = self.random.below(wire.seats.len() as u64) as usize;
        let view = self.views[wire.member as usize];
        let Seat { id, next, .. } = wire.seats[seat];
        if next < self.server.compacted {
            wire.seats.remove(seat);
            let compact_revision = self.server.compacted;
            let answer =
                WatchAnswer { watch_id: id, canceled: true, compact_revision, ..WatchAnswer::default() };
            wire.to_client.push_back(answer);
            return;
        }
        if next > view {
            return;
        }
        let to = if self.random.one_in(2) {
            view
        } else {
            next + self.random.below((view - next + 1) as u64) as i64
        };
        wire.seats[seat].next = to + 1;
        let create = wire.seats[seat].create.clone();
        let key: &[u8] = if create.key.is_empty() { &[0] } else { &create.key };
        let wanted = |event: &&Event| {
            let kind = match event.kind {
                Kind::Put => !create.no_put,
                Kind::Delete => !create.no_delete,
            };
            kind && (next..=to).contains(&event.kv.modified) && inside(&event.kv.key, key, &create.range_end)
        };
        let mut events: Vec<Event> = self.server.log.iter().filter(wanted).cloned().collect();
        for event in &mut events {
            let compacted = event.kv.modified <= self.server.compacted && self.random.one_in(2);
            if !create.prev_kv || compacted {
                event.prev = None;
            }
        }
        while !events.is_empty() {
            let parted = create.fragment && events.len() > 1 && self.random.one_in(2);
            let count =
                if parted { 1 + self.random.below(events.len() as u64 - 1) as usize } else { events.len() };
            let rest = events.split_off(count);
            let fragment = !rest.is_empty();
            let answer =
                WatchAnswer { watch_id: id, revision: view, fragment, events, ..WatchAnswer::default() };
            wire.to_client.push_back(answer);
            events = rest;
        }
    }

    fn notify(&mut self, number: usize) {
        let wire = &mut self.wires[number];
        let view = self.views[wire.member as usize];
        let served = wire.seats.iter().filter(|seat| seat.next > view && seat.floor <= view);
        let asked: Vec<i64> = served.filter(|seat| seat.create.progress_notify).map(|seat| seat.id).collect();
        for watch_id in asked {
            wire.to_client.push_back(WatchAnswer { watch_id, revision: view, ..WatchAnswer::default() });
        }
    }

    /// The client takes what the server sent.
    fn receive(&mut self, number: usize) {
        let wire = &mut self.wires[number];
        let Some(answer) = wire.to_client.pop_front() else { return };
        self.history.passed(wire.id, self.now_us, Passage::Received(answer.clone()));
        self.told = self.told.max(answer.revision);
        if answer.created {
            let mut wish = wire.asked.pop_front().expect("one answer for each");
            if wish.create.start_revision == 0 {
                wish.next = answer.revision + 1;
            }
            wire.wishes.insert(answer.watch_id, wish);
        } else if answer.canceled {
            wire.wishes.remove(&answer.watch_id);
        } else if let (Some(last), false) = (answer.events.last(), answer.fragment)
            && let Some(wish) = wire.wishes.get_mut(&answer.watch_id)
        {
            wish.next = last.kv.modified + 1;
        }
    }

    /// Everybody gets an answer, everything due expires, every stream is served to its end.
    fn settle(&mut self) {
        self.now_us += 20_000_000;
        while let Some(id) = self.server.due(self.now_us) {
            self.server.expire(id);
        }
        for client in 0..CLIENTS {
            if let Some(mut call) = self.calls[client].take() {
                while let Some(under_way) = self.go_on(call) {
                    call = under_way;
                }
            }
        }
        let everything =
            Range { key: Bytes::from(&[0][..]), range_end: Bytes::from(&[0][..]), ..Range::default() };
        self.at_once(Request::Range(everything));
        let newest = self.server.revision();
        self.views.fill(newest);
        for wire in 0..self.wires.len() {
            loop {
                while !self.wires[wire].to_server.is_empty() {
                    self.serve(wire);
                }
                while !self.wires[wire].to_client.is_empty() {
                    self.receive(wire);
                }
                if self.wires[wire].seats.iter().all(|seat| seat.next > newest) {
                    break;
                }
                self.deliver(wire);
            }
        }
        self.hash();
        let first = if self.options.dump_all { 2 } else { self.server.compacted.max(1) + 1 };
        let log = self.server.log.iter().filter(|event| event.kv.modified >= first);
        let events = log.map(|event| Event { prev: None, ..event.clone() }).collect();
        self.history.dump(self.now_us, first, newest, events);
        self.history.note(self.now_us, Note::Settled { revision: newest });
    }
}
