//! The random script: from a seed and from what the reference answered so far, the next step.
//!
//! Steers towards what can go wrong: few keys, so that versions pile up and ranges overlap; revisions around the
//! compacted and the current one; every option, also where it makes no sense. Keeps away from what would make etcd
//! itself differ from one run to the next, or crash: each such rule says so.

use std::collections::{BTreeMap, VecDeque};

use base::Random;
use proto::authpb;
use proto::etcdserverpb::compare::TargetUnion;
use proto::etcdserverpb::*;

use super::side::{CHOSEN_LEASE, Outcome};
use super::steps::{Answer, Request, Step};

/// The stream whose watchers may start in the future. Until they have started, a progress request is not answered,
/// and so nothing tells whether a server is done: these watchers start nowhere else, are not cancelled, and do
/// without prev_kv, which a compaction could take away.
const FUTURE_STREAM: usize = 0;
const STREAMS: u64 = 4;
const WATCHERS_PER_STREAM: usize = 6;
/// TTLs are far apart and far above any run's length, so that nothing expires and the order by expiry is certain.
const TTL_STEP_S: i64 = 10_000;
/// etcd's default --max-request-bytes.
const REQUEST_BYTES: u64 = 1_572_864;

/// A watcher that the reference created.
#[derive(Clone, Copy)]
pub struct Watcher {
    pub id: i64,
    pub start: i64,
    /// Compacted away. It stays registered, and blocks progress, until it is cancelled.
    pub doomed: bool,
}

/// What the script knows of the store: from the reference's answers only.
#[derive(Default)]
pub struct World {
    pub revision: i64,
    pub compacted: i64,
    /// Leases and the TTL that each was granted.
    pub leases: BTreeMap<i64, i64>,
    chosen: i64,
    alarms: Vec<(u64, i32)>,
    pub watchers: BTreeMap<usize, Vec<Watcher>>,
    member: u64,
    /// A compaction may still be removing: hashes are not certain until a physical one has ended.
    pub compacting: bool,
}

impl World {
    /// A fresh store: never compacted is -1, as etcd has it.
    pub fn new() -> World {
        World { compacted: -1, ..World::default() }
    }

    /// Learns from what the reference answered.
    pub fn observe(&mut self, step: &Step, outcome: &Outcome) {
        match (step, outcome) {
            (Step::Write(request), Outcome::Answers(answers)) => self.learn(request, &answers[0]),
            (Step::Reads(reads), Outcome::Answers(answers)) => {
                reads.iter().zip(answers).for_each(|(read, answer)| self.learn(read, answer));
            }
            (Step::WatchCreate { stream, request }, Outcome::Watch { created: Some(id), .. }) => {
                let start = request.start_revision;
                let doomed = start > 0 && start < self.compacted;
                self.watchers.entry(*stream).or_default().push(Watcher { id: *id, start, doomed });
            }
            (Step::WatchCancel { stream, id }, _) => {
                self.watchers.entry(*stream).or_default().retain(|watcher| watcher.id != *id);
            }
            (Step::WatchClose { stream }, _) => {
                self.watchers.remove(stream);
            }
            _ => {}
        }
    }

    /// Whether `stream` has the watcher `id`.
    pub fn has_watcher(&self, stream: usize, id: i64) -> bool {
        self.watchers.get(&stream).is_some_and(|watchers| watchers.iter().any(|watcher| watcher.id == id))
    }

    /// Whether `stream` has watchers that start with the next revision: they need it before they can progress.
    pub fn awaits_next(&self, stream: usize) -> bool {
        let watchers = self.watchers.get(&stream).map_or(&[][..], Vec::as_slice);
        stream != FUTURE_STREAM && watchers.iter().any(|watcher| watcher.start == self.revision + 1)
    }

    /// Whether a progress request on `stream` must be answered: it has watchers, and all of them can be up to date.
    pub fn can_progress(&self, stream: usize) -> bool {
        let watchers = self.watchers.get(&stream).map_or(&[][..], Vec::as_slice);
        !watchers.is_empty()
            && watchers.iter().all(|watcher| !watcher.doomed && watcher.start <= self.revision)
    }

    fn learn(&mut self, request: &Request, answer: &Answer) {
        let header = match answer {
            Answer::Put(answer) => answer.header.as_ref(),
            Answer::DeleteRange(answer) => answer.header.as_ref(),
            Answer::Txn(answer) => answer.header.as_ref(),
            Answer::LeaseRevoke(answer) => answer.header.as_ref(),
            Answer::Range(answer) => answer.header.as_ref(),
            Answer::Status(answer) => answer.header.as_ref(),
            _ => None,
        };
        if let Some(header) = header {
            self.revision = self.revision.max(header.revision);
        }
        match (request, answer) {
            (Request::Compact(request), Answer::Compact(_)) => {
                self.compacted = request.revision;
                self.compacting = !request.physical;
            }
            (Request::LeaseGrant(request), Answer::LeaseGrant(granted)) => {
                self.leases.insert(granted.id, granted.ttl);
                self.chosen += i64::from(request.id == 0);
            }
            (Request::LeaseRevoke(request), Answer::LeaseRevoke(_)) => {
                self.leases.remove(&request.id);
            }
            (Request::Alarm(request), Answer::Alarm(answer)) => {
                for alarm in &answer.alarms {
                    let alarm = (alarm.member_id, alarm.alarm);
                    self.alarms.retain(|other| *other != alarm);
                    if request.action == 1 {
                        self.alarms.push(alarm);
                    }
                }
            }
            (_, Answer::MemberList(answer)) => self.member = answer.members[0].id,
            _ => {}
        }
    }
}

/// Where steps come from: a seed, or a recording.
pub trait Source {
    fn next(&mut self, world: &World) -> Option<Step>;
}

/// A recorded run, for finding a short reproduction.
pub struct Recording(pub VecDeque<Step>);

impl Source for Recording {
    fn next(&mut self, _: &World) -> Option<Step> {
        self.0.pop_front()
    }
}

/// What a txn may hold besides ranges. etcd dies of two mixtures: of a put with ignore_value or ignore_lease behind a
/// deletion of the same key that its duplicate check does not see; and, at a compaction, of a key that was deleted and
/// put in the compacted revision (it then drops the put, and every read of the key is fatal).
#[derive(Clone, Copy, PartialEq)]
enum Flavour {
    /// No deletes.
    Puts,
    /// No puts.
    Deletes,
    /// Both on one level, where the duplicate check is right: no nested txns, no deletes from a key on.
    Mixed,
    /// Everything but the ignore options, in scripts that never compact.
    Wild,
}

pub struct Script {
    random: Random,
    left: u64,
    forced: VecDeque<Step>,
    /// Every fourth seed changes keys twice in a revision, and never compacts.
    wild: bool,
    whole: bool,
}

impl Source for Script {
    fn next(&mut self, world: &World) -> Option<Step> {
        if let Some(step) = self.forced.pop_front() {
            return Some(step);
        }
        if self.left == 0 {
            return None;
        }
        let step = self.step(world);
        self.left = self.left.saturating_sub(step.requests().max(1));
        if self.left == 0 {
            self.forced.push_back(Step::Settle);
        }
        Some(step)
    }
}

impl Script {
    /// `whole`: with users, roles and members, which a server may not have yet.
    pub fn new(seed: u64, requests: u64, whole: bool) -> Script {
        let forced = VecDeque::from([Step::Reads(vec![Request::MemberList(MemberListRequest {
            linearizable: true,
        })])]);
        Script { random: Random::new(seed), left: requests, forced, wild: seed.is_multiple_of(4), whole }
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.random.one_in(n)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.random.below(n)
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize].clone()
    }

    fn step(&mut self, world: &World) -> Step {
        if !world.alarms.is_empty() && self.one_in(8) {
            let (member_id, alarm) = self.pick(&world.alarms);
            return Step::Write(Request::Alarm(AlarmRequest { action: 2, member_id, alarm }));
        }
        for (&stream, watchers) in &world.watchers {
            if let Some(watcher) = watchers.iter().find(|watcher| watcher.doomed) {
                return Step::WatchCancel { stream, id: watcher.id };
            }
        }
        let roll = match self.below(1000) {
            // To settle needs a write that goes through.
            640..700 if !world.alarms.is_empty() => 999,
            roll => roll,
        };
        match roll {
            0..330 => Step::Write(self.put(world)),
            330..410 => Step::Write(self.delete()),
            410..590 => Step::Write(Request::Txn(self.txn(world, 0, None))),
            590..640 => self.lease(world),
            640..650 if !self.wild => self.compaction(world),
            650..690 => self.watch(world),
            690..700 => Step::Settle,
            700..715 if self.whole => Step::Write(self.auth()),
            715..722 => Step::Write(self.alarm(world)),
            722..735 => Step::Write(self.odd(world)),
            _ => {
                let count = 1 + self.below(8);
                Step::Reads((0..count).map(|_| self.read(world)).collect())
            }
        }
    }

    fn key(&mut self) -> Vec<u8> {
        const ODD: &[&[u8]] = &[
            b"\0",
            b"\0\0",
            b"\xff",
            b"\xff\xff",
            b"k",
            b"k0",
            b"k\0",
            b"k\xff",
            b"l",
            b"kk/long/key/with/parts",
        ];
        match self.below(20) {
            0..12 => format!("k{:02}", self.below(30)).into_bytes(),
            12..18 => format!("n/{:03}", self.below(400)).into_bytes(),
            18 => self.pick(ODD).to_vec(),
            _ if self.one_in(6) => Vec::new(),
            _ => {
                let mut key = vec![0; 1 + self.below(40) as usize];
                self.random.fill(&mut key);
                key
            }
        }
    }

    fn range_end(&mut self, key: &[u8]) -> Vec<u8> {
        match self.below(12) {
            0..4 => Vec::new(),
            4 => vec![0],
            5..8 => {
                let mut end = key[..key.len().min(1)].to_vec();
                if let Some(last) = end.last_mut() {
                    *last = last.wrapping_add(1);
                }
                end
            }
            8 => key.to_vec(),
            9 => [key, b"\0"].concat(),
            _ => self.key(),
        }
    }

    fn value(&mut self) -> Vec<u8> {
        match self.below(200) {
            0..150 => format!("v{}", self.below(6)).into_bytes(),
            150..160 => Vec::new(),
            160..199 => {
                let mut value = vec![0; self.below(600) as usize];
                self.random.fill(&mut value);
                value
            }
            _ => vec![b'x'; self.below(30_000) as usize],
        }
    }

    /// Around the two revisions that matter, and far off.
    fn revision(&mut self, world: &World) -> i64 {
        match self.below(10) {
            0 => world.revision - self.below(4) as i64,
            1 => world.revision + 1 + self.below(3) as i64,
            2 => world.compacted - 2 + self.below(5) as i64,
            3 => -1 - self.below(3) as i64,
            4 => self.pick(&[i64::MAX, i64::MIN, 1, 2]),
            _ => {
                let span = (world.revision - world.compacted).max(1) as u64;
                world.compacted.max(0) + self.below(span) as i64
            }
        }
    }

    fn lease_id(&mut self, world: &World) -> i64 {
        let held: Vec<i64> = world.leases.keys().copied().collect();
        if !held.is_empty() && !self.one_in(6) {
            return self.pick(&held);
        }
        match self.below(6) {
            0 => -1 - self.below(5) as i64,
            1 => self.pick(&[i64::MAX, i64::MIN]),
            _ => 1 + self.below(25) as i64,
        }
    }

    /// A lease for a key: never one whose id the server chose, as ids are hashed with the key.
    fn key_lease(&mut self, world: &World) -> i64 {
        match self.lease_id(world) {
            id if id >= CHOSEN_LEASE && id < CHOSEN_LEASE + world.chosen => 0,
            id => id,
        }
    }

    fn put_request(&mut self, world: &World) -> PutRequest {
        let mut put = PutRequest { key: self.key(), value: self.value(), ..Default::default() };
        put.lease = if self.one_in(6) { self.key_lease(world) } else { 0 };
        put.prev_kv = self.one_in(4);
        put.ignore_value = self.one_in(20);
        put.ignore_lease = self.one_in(20);
        if put.ignore_value && !self.one_in(5) {
            put.value.clear();
        }
        if put.ignore_lease && !self.one_in(5) {
            put.lease = 0;
        }
        put
    }

    fn put(&mut self, world: &World) -> Request {
        let mut put = self.put_request(world);
        if self.one_in(900) {
            // Around the limit, which counts the whole proposal, and around gRPC's own, 512 KiB above.
            let border = REQUEST_BYTES + self.pick(&[0, 512 << 10]);
            put.value = vec![b'y'; (border - 60 + self.below(90)) as usize];
        } else if self.one_in(300) {
            put.value = vec![b'z'; self.below(700_000) as usize];
        }
        Request::Put(put)
    }

    fn delete_request(&mut self) -> DeleteRangeRequest {
        let key = self.key();
        // Wide deletes are rare, or there would be nothing to read.
        let range_end = if self.one_in(4) { self.range_end(&key) } else { Vec::new() };
        DeleteRangeRequest { key, range_end, prev_kv: self.one_in(3) }
    }

    fn delete(&mut self) -> Request {
        Request::DeleteRange(self.delete_request())
    }

    fn range_request(&mut self, world: &World) -> RangeRequest {
        let key = if self.one_in(8) { vec![0] } else { self.key() };
        let range_end = self.range_end(&key);
        let mut range = RangeRequest { key, range_end, ..Default::default() };
        range.serializable = self.one_in(3);
        if self.one_in(3) {
            range.revision = self.revision(world);
        }
        if self.one_in(3) {
            range.limit = self.pick(&[1, 2, 3, 5, 10, 11, 50, 1000, -1, -7, i64::MAX, i64::MIN]);
        }
        if self.one_in(5) {
            range.sort_order = self.pick(&[0, 1, 2, 2, 1, 3, -1]);
            range.sort_target = self.pick(&[0, 1, 2, 3, 4, 1, 2, 3, 4, 5, -1]);
        }
        range.keys_only = self.one_in(8);
        range.count_only = self.one_in(10);
        if self.one_in(8) {
            for bound in [
                &mut range.min_mod_revision,
                &mut range.max_mod_revision,
                &mut range.min_create_revision,
                &mut range.max_create_revision,
            ] {
                if self.random.one_in(3) {
                    *bound = world.revision - self.random.below(60) as i64;
                }
            }
        }
        range
    }

    fn compare(&mut self, world: &World) -> Compare {
        let key = self.key();
        let range_end = if self.one_in(5) { self.range_end(&key) } else { Vec::new() };
        let number = match self.below(5) {
            0 => 0,
            1 => 1,
            2 => -1,
            3 => self.below(20) as i64,
            _ => world.revision - self.below(100) as i64,
        };
        let union = match self.below(6) {
            0 => TargetUnion::Version(self.below(4) as i64),
            1 => TargetUnion::CreateRevision(number),
            2 => TargetUnion::ModRevision(number),
            3 => TargetUnion::Value(self.value()),
            4 => TargetUnion::Lease(self.lease_id(world)),
            _ => TargetUnion::Version(number),
        };
        let fitting = match union {
            TargetUnion::Version(_) => 0,
            TargetUnion::CreateRevision(_) => 1,
            TargetUnion::ModRevision(_) => 2,
            TargetUnion::Value(_) => 3,
            TargetUnion::Lease(_) => 4,
        };
        let target = if self.one_in(12) { self.pick(&[0, 1, 2, 3, 4, 5, -1]) } else { fitting };
        let result = self.pick(&[0, 0, 1, 2, 3, 0, 1, 2, 3, 4, -1]);
        let target_union = (!self.one_in(15)).then_some(union);
        Compare { result, target, key, target_union, range_end }
    }

    fn txn(&mut self, world: &World, depth: u32, flavour: Option<Flavour>) -> TxnRequest {
        let mixed = if self.wild { Flavour::Wild } else { Flavour::Mixed };
        let flavour = flavour
            .unwrap_or_else(|| self.pick(&[Flavour::Puts, Flavour::Puts, Flavour::Deletes, mixed, mixed]));
        let compares = self.below(3);
        let mut txn = TxnRequest {
            compare: (0..compares).map(|_| self.compare(world)).collect(),
            success: self.ops(world, depth, flavour),
            failure: self.ops(world, depth, flavour),
        };
        if depth == 0 && self.one_in(60) {
            // Around --max-txn-ops, in any of the three lists.
            let count = self.pick(&[127, 128, 129, 200]);
            let op = |number: usize| {
                let key = format!("t/{number:03}").into_bytes();
                let put = PutRequest { key, value: b"t".to_vec(), ..Default::default() };
                RequestOp { request: Some(request_op::Request::RequestPut(put)) }
            };
            match self.below(3) {
                0 => txn.success = (0..count).map(op).collect(),
                1 => txn.failure = (0..count).map(op).collect(),
                _ => txn.compare = (0..count).map(|_| self.compare(world)).collect(),
            }
        }
        txn
    }

    fn ops(&mut self, world: &World, depth: u32, flavour: Flavour) -> Vec<RequestOp> {
        let most = if depth == 0 { 5 } else { 3 };
        let count = self.below(most + 1);
        (0..count).map(|_| RequestOp { request: self.op(world, depth, flavour) }).collect()
    }

    fn op(&mut self, world: &World, depth: u32, flavour: Flavour) -> Option<request_op::Request> {
        use request_op::Request as Op;
        match self.below(40) {
            0..16 if flavour != Flavour::Deletes => {
                let mut put = self.put_request(world);
                if flavour != Flavour::Puts {
                    put.ignore_value = false;
                    put.ignore_lease = false;
                }
                Some(Op::RequestPut(put))
            }
            16..24 if flavour != Flavour::Puts => {
                let mut delete = self.delete_request();
                if flavour == Flavour::Mixed && delete.range_end == [0] {
                    delete.range_end.clear();
                }
                Some(Op::RequestDeleteRange(delete))
            }
            36..39 if depth < 3 && flavour != Flavour::Mixed => {
                Some(Op::RequestTxn(self.txn(world, depth + 1, Some(flavour))))
            }
            39 if self.one_in(3) => None,
            _ => Some(Op::RequestRange(self.range_request(world))),
        }
    }

    fn lease(&mut self, world: &World) -> Step {
        let ttl = TTL_STEP_S * (1 + self.below(20) as i64);
        Step::Write(match self.below(14) {
            0..5 => Request::LeaseGrant(LeaseGrantRequest { ttl, id: self.lease_id(world) }),
            5 => Request::LeaseGrant(LeaseGrantRequest { ttl, id: 0 }),
            6 => {
                // Below the least TTL: it would expire within the run, so it goes at once.
                let id = 1000 + self.below(5) as i64;
                self.forced.push_back(Step::Write(Request::LeaseRevoke(LeaseRevokeRequest { id })));
                Request::LeaseGrant(LeaseGrantRequest { ttl: self.pick(&[-5, 0, 1, 2, i64::MIN]), id })
            }
            7 => {
                let ttl = self.pick(&[9_000_000_001, i64::MAX]);
                Request::LeaseGrant(LeaseGrantRequest { ttl, id: self.lease_id(world) })
            }
            8..11 => Request::LeaseRevoke(LeaseRevokeRequest { id: self.lease_id(world) }),
            _ => {
                let count = 1 + self.below(4);
                Request::KeepAlive((0..count).map(|_| self.lease_id(world)).collect())
            }
        })
    }

    fn compaction(&mut self, world: &World) -> Step {
        let revision = match self.below(8) {
            0 => self.revision(world),
            1 => world.revision,
            2 => 0,
            _ => (world.revision - self.below(300) as i64).max(world.compacted + 1),
        };
        let physical = !self.one_in(5);
        // Watchers that catch up would be cancelled or not, depending on time.
        self.forced.push_back(Step::Settle);
        self.forced.push_back(Step::Write(Request::Compact(CompactionRequest { revision, physical })));
        if physical {
            for _ in 0..3 {
                let near = revision.saturating_add(self.below(5) as i64 - 2);
                let revision = if self.one_in(2) { 0 } else { near };
                self.forced.push_back(Step::Reads(vec![Request::HashKv(HashKvRequest { revision })]));
            }
        }
        self.forced.pop_front().expect("just pushed")
    }

    fn watch(&mut self, world: &World) -> Step {
        let stream = self.below(STREAMS) as usize;
        let live = world.watchers.get(&stream).cloned().unwrap_or_default();
        let settled = |script: &mut Script, step: Step| {
            // What a cancelled or closed stream still had to say would be cut somewhere.
            script.forced.push_back(step);
            Step::Settle
        };
        if stream == FUTURE_STREAM {
            if live.len() >= WATCHERS_PER_STREAM || self.one_in(30) {
                return settled(self, Step::WatchClose { stream });
            }
            let key = self.key();
            let range_end = self.range_end(&key);
            let start_revision = world.revision + 1 + self.below(20) as i64;
            let request = WatchCreateRequest { key, range_end, start_revision, ..Default::default() };
            return Step::WatchCreate { stream, request };
        }
        if live.len() >= WATCHERS_PER_STREAM || (!live.is_empty() && self.one_in(5)) {
            let id = self.pick(&live).id;
            return settled(self, Step::WatchCancel { stream, id });
        }
        match self.below(30) {
            0 => return settled(self, Step::WatchClose { stream }),
            1 => return Step::WatchNothing { stream },
            2 => {
                let id = self.pick(&[-1, -2, 77, i64::MAX]);
                return settled(self, Step::WatchCancel { stream, id });
            }
            _ => {}
        }
        let key = self.key();
        let range_end = self.range_end(&key);
        let mut request = WatchCreateRequest { key, range_end, ..Default::default() };
        request.start_revision = match self.below(8) {
            0..3 => 0,
            3 => world.revision + 1,
            4 if self.one_in(3) => -1 - self.below(3) as i64,
            // Down to what was compacted: these are cancelled.
            5 => (world.compacted - 2 + self.below(5) as i64).clamp(0, world.revision),
            _ => (world.revision - self.below(200) as i64).max(0),
        };
        request.prev_kv = self.one_in(2);
        request.progress_notify = self.one_in(4);
        request.fragment = self.one_in(4);
        for _ in 0..self.below(3) {
            if self.one_in(2) {
                let filter = self.pick(&[0, 1, 0, 1, 2, -1]);
                request.filters.push(filter);
            }
        }
        if self.one_in(5) {
            // Small ids collide with those that the server counts up.
            request.watch_id = self.pick(&[1, 2, 3, 9, -1, -5]);
        }
        Step::WatchCreate { stream, request }
    }

    fn alarm(&mut self, world: &World) -> Request {
        let member_id = self.pick(&[world.member, world.member, 0, 7]);
        // An unknown action makes etcd crash: it answers nil.
        let action = self.pick(&[0, 0, 1, 2]);
        let alarm = self.pick(&[0, 1, 1, 1, 2, 7]);
        Request::Alarm(AlarmRequest { action, member_id, alarm })
    }

    /// Users and roles, with authentication off. No user is called root, so that it stays off.
    fn auth(&mut self) -> Request {
        let user = self.pick(&["", "u1", "u2", "u3"]).to_owned();
        let role = self.pick(&["", "r1", "r2", "root"]).to_owned();
        let password = self.pick(&["", "secret"]).to_owned();
        let key = self.key();
        let range_end = self.range_end(&key);
        match self.below(17) {
            0 | 1 => {
                let options = self.one_in(2).then(|| authpb::UserAddOptions { no_password: self.one_in(2) });
                Request::UserAdd(AuthUserAddRequest { name: user, password, options, ..Default::default() })
            }
            2 => Request::UserGet(AuthUserGetRequest { name: user }),
            3 => Request::UserList(AuthUserListRequest {}),
            4 => Request::UserDelete(AuthUserDeleteRequest { name: user }),
            5 => Request::UserChangePassword(AuthUserChangePasswordRequest {
                name: user,
                password,
                ..Default::default()
            }),
            6 => Request::UserGrantRole(AuthUserGrantRoleRequest { user, role }),
            7 => Request::UserRevokeRole(AuthUserRevokeRoleRequest { name: user, role }),
            8 | 9 => Request::RoleAdd(AuthRoleAddRequest { name: role }),
            10 => Request::RoleGet(AuthRoleGetRequest { role }),
            11 => Request::RoleList(AuthRoleListRequest {}),
            12 => Request::RoleDelete(AuthRoleDeleteRequest { role }),
            13 | 14 => {
                let perm_type = self.pick(&[0, 1, 2]);
                let perm = (!self.one_in(10)).then_some(authpb::Permission { perm_type, key, range_end });
                Request::RoleGrantPermission(AuthRoleGrantPermissionRequest { name: role, perm })
            }
            15 => Request::RoleRevokePermission(AuthRoleRevokePermissionRequest { role, key, range_end }),
            _ => match self.below(4) {
                0 => Request::AuthEnable(AuthEnableRequest {}),
                1 => Request::AuthDisable(AuthDisableRequest {}),
                2 => Request::AuthStatus(AuthStatusRequest {}),
                _ => Request::Authenticate(AuthenticateRequest { name: user, password }),
            },
        }
    }

    /// Requests that must fail, or do nothing, in a cluster of one.
    fn odd(&mut self, world: &World) -> Request {
        let id = self.pick(&[0, 7, u64::MAX]);
        let bad = self.pick(&[
            "",
            "nonsense",
            "http://host",
            "ftp://127.0.0.1:1",
            "http://127.0.0.1:1/path",
            // Its own.
            "http://127.0.0.1:32380",
        ]);
        let kind = if self.whole { self.below(9) } else { self.pick(&[4, 6, 8]) };
        match kind {
            0 => {
                let peer_ur_ls = if self.one_in(3) { Vec::new() } else { vec![bad.to_owned()] };
                Request::MemberAdd(MemberAddRequest { peer_ur_ls, is_learner: self.one_in(2) })
            }
            1 => Request::MemberRemove(MemberRemoveRequest { id }),
            2 => {
                let peer_ur_ls = vec!["http://127.0.0.1:9".to_owned()];
                Request::MemberUpdate(MemberUpdateRequest { id, peer_ur_ls })
            }
            3 => Request::MemberPromote(MemberPromoteRequest { id: self.pick(&[id, world.member]) }),
            4 => Request::MoveLeader(MoveLeaderRequest { target_id: id }),
            5 => {
                let action = self.pick(&[0, 0, 2]);
                let version = self.pick(&["", "3.6.0", "3.7.0", "3.8.0", "3.5", "x", "3.6"]).to_owned();
                Request::Downgrade(DowngradeRequest { action, version })
            }
            6 => Request::Defragment(DefragmentRequest {}),
            7 => Request::AuthStatus(AuthStatusRequest {}),
            _ => Request::Alarm(AlarmRequest::default()),
        }
    }

    fn read(&mut self, world: &World) -> Request {
        match self.below(100) {
            0..66 => Request::Range(self.range_request(world)),
            66..78 => {
                let mut request = self.range_request(world);
                if request.sort_order == 0 {
                    // etcd sorts inside each chunk by the target and goes on behind the last key that it sent: keys are
                    // lost or come twice. Ours streams in key order, and says so (docs/ARCHITECTURE.md).
                    request.sort_target = 0;
                }
                Request::RangeStream(request)
            }
            78..84 => {
                let mut txn = TxnRequest::default();
                for list in [&mut txn.success, &mut txn.failure] {
                    for _ in 0..self.below(4) {
                        let range = self.range_request(world);
                        list.push(RequestOp { request: Some(request_op::Request::RequestRange(range)) });
                    }
                }
                for _ in 0..self.below(3) {
                    let compare = self.compare(world);
                    txn.compare.push(compare);
                }
                Request::Txn(txn)
            }
            84..90 => {
                let id = self.lease_id(world);
                Request::LeaseTimeToLive(LeaseTimeToLiveRequest { id, keys: self.one_in(2) })
            }
            90..93 => Request::LeaseLeases(LeaseLeasesRequest {}),
            93..95 => Request::MemberList(MemberListRequest { linearizable: self.one_in(2) }),
            95..98 => Request::Status(StatusRequest {}),
            98 if !world.compacting && self.one_in(4) => {
                let revision = if self.one_in(2) { 0 } else { self.revision(world) };
                Request::HashKv(HashKvRequest { revision })
            }
            99 if self.one_in(8) => Request::Hash(HashRequest {}),
            _ => Request::Range(self.range_request(world)),
        }
    }
}
