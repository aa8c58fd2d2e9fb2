//! Drives one replica over simulated files: carries out its actions, in order or late and out of order, and crashes.
//!
//! Log writes are only performed when they complete; what is handed out and not complete is, at a crash, written in
//! part or not at all. Jobs run when they are asked for or later. Every outcome is checked to come once.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::HashMap;
use std::sync::Arc;

use base::{CallToken, Random};
use disk::sim::KeepSet;
use disk::{Files, SimFiles};
use mainstay_replica as replica;
use proto::Error;
use proto::errors;
use proto::etcdserverpb as pb;
use replica::{
    Action, CheckpointPolicy, Event, Note, OpenError, Proposal, Replica, Request, Response, Start,
};

/// Small sizes, so that images stay small and every mechanism is at work.
pub const SEGMENT_BYTES: u64 = 96 << 10;
pub const CHUNK_BYTES: u64 = 256 << 10;
pub const RESERVE_BYTES: u64 = 1 << 20;

#[derive(Clone)]
pub struct Setup {
    pub policy: CheckpointPolicy,
    pub quota_bytes: i64,
    pub cluster_version: String,
    /// Jobs and log writes complete late and out of order.
    pub late: bool,
    pub memory_budget_bytes: u64,
    pub reserve_bytes: u64,
    pub segment_bytes: u64,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            policy: CheckpointPolicy {
                dirty_bytes: 64 << 10,
                log_bytes: 192 << 10,
                interval_ms: 5_000,
                bytes_per_second: 0,
                ..CheckpointPolicy::default()
            },
            quota_bytes: -1,
            cluster_version: "3.7.0".into(),
            late: false,
            memory_budget_bytes: 64 << 10,
            reserve_bytes: RESERVE_BYTES,
            segment_bytes: SEGMENT_BYTES,
        }
    }
}

impl Setup {
    pub fn late() -> Setup {
        Setup { late: true, ..Setup::default() }
    }

    pub fn start(&self, boot: u64) -> Start {
        let member = replica::founding_member(
            "default",
            &["http://localhost:2380".into()],
            &["http://localhost:2379".into()],
            "etcd-cluster",
        );
        Start {
            options: replica::Options {
                member,
                heartbeat_ms: 100,
                election_ms: 1000,
                auto_compaction: replica::AutoCompaction::Off,
                checkpoint: self.policy,
                scrub: replica::ScrubPolicy::default(),
                memory_budget_bytes: self.memory_budget_bytes,
                cluster_version: self.cluster_version.clone(),
            },
            quota_config_bytes: self.quota_bytes,
            tree: tree::Options {
                chunk_bytes: CHUNK_BYTES,
                max_chunks: 1024,
                reserve_bytes: self.reserve_bytes,
            },
            wal: wal::Options {
                segment_bytes: self.segment_bytes,
                batch_bytes: 16 << 10,
                in_flight: 4,
                boot,
            },
            boot,
        }
    }
}

/// What runs on the helper pool.
pub enum Job {
    Segment(wal::SegmentJob),
    Checkpoint(tree::CheckpointJob),
    Hash(replica::HashJob),
    Drop(tree::DropJob),
    Scrub(tree::ScrubJob),
    Grow(tree::GrowJob),
}

pub struct Rig {
    pub files: SimFiles,
    pub replica: Replica,
    pub setup: Setup,
    pub random: Random,
    pub now: u64,
    /// Handed out and not performed.
    pub writes: Vec<wal::Write>,
    pub jobs: Vec<Job>,
    pub answers: HashMap<u32, Result<Response, Error>>,
    /// In the order in which they came.
    pub answered: Vec<u32>,
    pub notes: Vec<Note>,
    /// Nobody grows the data file ahead of need.
    pub growth_is_late: bool,
    /// Why the process would have ended.
    pub failed: Option<String>,
    pub ready: u32,
    pub stopped: u32,
    pub events: Vec<Arc<mvcc::event::EventBatch>>,
    next_call: u32,
    actions: Vec<Action>,
    reader: tree::Reader,
}

/// The simulated power went: what failed for it.
#[derive(Debug)]
pub struct Halted(pub String);

fn halted(error: std::io::Error) -> Halted {
    Halted(error.to_string())
}

pub fn open(files: &SimFiles, setup: &Setup, boot: u64) -> Result<(Replica, replica::OpenReport), OpenError> {
    let shared: Arc<dyn Files> = Arc::new(files.clone());
    replica::open(shared, setup.start(boot), || Ok(()))
}

impl Rig {
    pub fn open(files: SimFiles, setup: Setup, seed: u64) -> Result<Rig, OpenError> {
        let (replica, _) = open(&files, &setup, seed)?;
        Ok(Rig::over(files, replica, setup, seed))
    }

    pub fn over(files: SimFiles, mut replica: Replica, setup: Setup, seed: u64) -> Rig {
        if seed % 2 == 1 {
            replica.share_thread();
        }
        let reader = replica.readers().register();
        Rig {
            files,
            replica,
            setup,
            random: Random::new(seed),
            now: 1,
            writes: Vec::new(),
            jobs: Vec::new(),
            answers: HashMap::new(),
            answered: Vec::new(),
            notes: Vec::new(),
            growth_is_late: false,
            failed: None,
            ready: 0,
            stopped: 0,
            events: Vec::new(),
            next_call: 1,
            actions: Vec::new(),
            reader,
        }
    }

    /// A member that serves.
    pub fn serving(files: SimFiles, setup: Setup, seed: u64) -> Rig {
        let mut rig = Rig::open(files, setup, seed).unwrap_or_else(|error| panic!("{error}"));
        rig.settle();
        assert_eq!(rig.ready, 1, "it says once that it serves");
        rig
    }

    // --- events ---

    pub fn call(&mut self, event: impl FnOnce(CallToken) -> Event) -> u32 {
        let stream = self.next_call;
        self.next_call += 1;
        let event = event(CallToken { shard: 0, connection: 0, epoch: 0, stream });
        self.replica.handle(event, &mut self.actions);
        self.sort();
        stream
    }

    pub fn propose(&mut self, request: Request) -> u32 {
        self.call(|token| Event::Propose(Proposal { token: Some(token), request }))
    }

    pub fn handle(&mut self, event: Event) {
        self.replica.handle(event, &mut self.actions);
        self.sort();
    }

    pub fn tick(&mut self, by_ms: u64) {
        self.now += by_ms;
        self.handle(Event::Tick { now: self.now });
    }

    pub fn turn(&mut self) {
        self.replica.turn(&mut self.actions);
        self.replica.events_sent();
        self.sort();
    }

    fn sort(&mut self) {
        for action in std::mem::take(&mut self.actions) {
            match action {
                Action::WriteLog(write) => self.writes.push(write),
                Action::PrepareSegment(job) => self.jobs.push(Job::Segment(job)),
                Action::Checkpoint(job) => self.jobs.push(Job::Checkpoint(job)),
                Action::HashCompaction(job) => self.jobs.push(Job::Hash(job)),
                Action::DropCold(job) => self.jobs.push(Job::Drop(job)),
                Action::Scrub(job) => self.jobs.push(Job::Scrub(job)),
                Action::Grow(_) if self.growth_is_late => {}
                Action::Grow(job) => self.jobs.push(Job::Grow(job)),
                Action::DiskFailed { what } => self.failed = Some(what),
                Action::Populate(job) => job.run(),
                Action::Outcome(outcome) => {
                    let stream = outcome.token.stream;
                    if let Ok(Response::CompactionAgreed) = outcome.result {
                        assert!(!self.answers.contains_key(&stream), "call {stream} was answered");
                        continue;
                    }
                    let before = self.answers.insert(stream, outcome.result);
                    assert!(before.is_none(), "call {stream} is answered once");
                    self.answered.push(stream);
                }
                Action::Events(batch) => self.events.push(batch),
                Action::Ready => self.ready += 1,
                Action::Stopped => self.stopped += 1,
                Action::Note(note) => self.notes.push(note),
            }
        }
    }

    // --- the disk and the pool ---

    /// Performs and completes one write in flight.
    pub fn complete_write(&mut self, position: usize) -> Result<(), Halted> {
        let write = self.writes.remove(position);
        write.perform().map_err(halted)?;
        self.handle(Event::LogWritten { seq: write.seq, buffer: write.buf });
        Ok(())
    }

    pub fn run_job(&mut self, position: usize) -> Result<(), Halted> {
        match self.jobs.remove(position) {
            Job::Segment(job) => match job.run(&self.files) {
                Ok(ready) => self.handle(Event::SegmentReady(ready)),
                Err(error) if disk::is_no_space(&error) => self.handle(Event::SegmentRefused),
                Err(error) => return Err(halted(error)),
            },
            Job::Checkpoint(job) => {
                let done = job.run().map_err(halted)?;
                self.handle(Event::Checkpointed(done));
            }
            Job::Hash(job) => self.handle(Event::CompactionHashed(job.run())),
            Job::Drop(job) => {
                let done = job.run().map_err(halted)?;
                self.handle(Event::ColdDropped(done));
            }
            Job::Scrub(job) => self.handle(Event::Scrubbed(job.run())),
            Job::Grow(job) => match job.run() {
                Ok(()) => {}
                Err(error) if disk::is_no_space(&error) => self.handle(Event::GrowthRefused),
                Err(error) => return Err(halted(error)),
            },
        }
        Ok(())
    }

    pub fn has_job(&self, which: impl Fn(&Job) -> bool) -> Option<usize> {
        self.jobs.iter().position(which)
    }

    /// One turn, and what completes after it: all of it in order, or some of it in any order.
    pub fn step(&mut self) -> Result<(), Halted> {
        self.turn();
        if !self.setup.late {
            while !self.writes.is_empty() {
                self.complete_write(0)?;
            }
            while !self.jobs.is_empty() {
                self.run_job(0)?;
            }
            return Ok(());
        }
        let writes = self.random.below(self.writes.len() as u64 + 1);
        for _ in 0..writes {
            let position = self.random.below(self.writes.len() as u64) as usize;
            self.complete_write(position)?;
        }
        if !self.jobs.is_empty() && self.random.one_in(3) {
            let position = self.random.below(self.jobs.len() as u64) as usize;
            self.run_job(position)?;
        }
        Ok(())
    }

    /// Goes on until nothing is left to do.
    pub fn try_settle(&mut self) -> Result<(), Halted> {
        for _ in 0..10_000 {
            self.step()?;
            if self.writes.is_empty() && self.jobs.is_empty() && !self.replica.has_work() {
                // What completed last may have left something to be handed out.
                self.turn();
                if self.writes.is_empty() && self.jobs.is_empty() && !self.replica.has_work() {
                    return Ok(());
                }
            }
        }
        panic!("the replica does not come to rest");
    }

    pub fn settle(&mut self) {
        self.try_settle().expect("no fault was injected");
    }

    /// What a machine would find after a power loss now.
    pub fn crash(&mut self, keep: &mut dyn FnMut(usize, &mut Random) -> KeepSet) -> SimFiles {
        for write in &self.writes {
            // In flight: any part of it may have reached the device. After a halt it has not.
            let _ = write.file.write_at(write.offset, write.data());
        }
        let random = &mut self.random;
        self.files.crash(&mut |count| keep(count, random))
    }

    // --- answers ---

    pub fn answer(&mut self, call: u32) -> &Result<Response, Error> {
        self.answers.get(&call).unwrap_or_else(|| panic!("call {call} was not answered"))
    }

    /// Proposes, settles, and gives the answer.
    pub fn ask(&mut self, request: Request) -> Result<&Response, Error> {
        let call = self.propose(request);
        self.settle();
        self.answer(call).as_ref().map_err(Clone::clone)
    }

    /// The same, while time passes: for what waits for room.
    pub fn wait(&mut self, call: u32) -> Result<&Response, Error> {
        for _ in 0..100 {
            self.settle();
            if self.is_answered(call) {
                break;
            }
            self.tick(200);
        }
        self.answer(call).as_ref().map_err(Clone::clone)
    }

    pub fn is_answered(&self, call: u32) -> bool {
        self.answers.contains_key(&call)
    }

    // --- what is stored ---

    pub fn snapshot(&self) -> tree::Snapshot {
        self.reader.pin()
    }

    pub fn revision(&self) -> i64 {
        mvcc::stamp::current(self.snapshot().stamp())
    }

    pub fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        let snapshot = self.snapshot();
        let cell = mvcc::versions::newest(snapshot.view(), key)?;
        Some(cell.kv().value.to_vec())
    }

    pub fn hash_kv(&self) -> u32 {
        mvcc::hash::hash_kv(self.snapshot().view(), 0).expect("the newest revision can be hashed").hash
    }

    /// Everything stored that clients can come to see: equal fingerprints are equal states, once compactions have
    /// ended.
    pub fn fingerprint(&mut self) -> Fingerprint {
        let leases = self.leases();
        let snapshot = self.snapshot();
        let view = snapshot.view();
        let stamp = snapshot.stamp();
        assert!(!mvcc::stamp::removal_pending(stamp), "settled first");
        let mut trees = Vec::new();
        for tree in 0..view.trees() {
            let mut cursor = view.cursor(tree);
            let mut hash = 0;
            let mut more = cursor.seek_first();
            while more {
                hash = base::crc32c_append(hash, cursor.key());
                hash = base::crc32c_append(hash, cursor.value());
                more = cursor.next();
            }
            trees.push((view.len(tree), hash));
        }
        Fingerprint {
            revision: mvcc::stamp::current(stamp),
            compacted: mvcc::stamp::compacted(stamp),
            hash_kv: self.hash_kv(),
            trees,
            leases,
            alarms: [pb::AlarmType::Nospace, pb::AlarmType::Corrupt]
                .map(|kind| self.replica.published().alarm(kind)),
        }
    }

    /// Every lease that the running member knows, with the TTL that it was granted; by id.
    pub fn leases(&mut self) -> Vec<(i64, i64)> {
        let list = self.call(|token| Event::LeaseList { token });
        let Ok(Response::LeaseList(list)) = self.answer(list) else { panic!("leases can be listed") };
        let ids: Vec<i64> = list.leases.iter().map(|lease| lease.id).collect();
        let mut leases = Vec::new();
        for id in ids {
            let call = self.call(|token| Event::LeaseTimeToLive { token, id, keys: false });
            let Ok(Response::LeaseTimeToLive(lease)) = self.answer(call) else {
                panic!("lease {id} is known")
            };
            leases.push((id, lease.granted_ttl));
        }
        leases.sort_unstable();
        leases
    }

    pub fn alarms(&mut self) -> Vec<(u64, i32)> {
        let get = pb::AlarmRequest::default();
        match self.ask(Request::Alarm(get)) {
            Ok(Response::Alarm(answer)) => {
                answer.alarms.iter().map(|alarm| (alarm.member_id, alarm.alarm)).collect()
            }
            other => panic!("{other:?}"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    pub revision: i64,
    pub compacted: i64,
    pub hash_kv: u32,
    /// Entries and checksum of each.
    pub trees: Vec<(u64, u32)>,
    /// What the running member makes of them.
    pub leases: Vec<(i64, i64)>,
    pub alarms: [bool; 2],
}

// --- requests ---

pub fn put(key: &str, value: &[u8]) -> Request {
    Request::Put(pb::PutRequest { key: key.into(), value: value.to_vec(), ..Default::default() })
}

pub fn put_leased(key: &str, lease: i64) -> Request {
    Request::Put(pb::PutRequest { key: key.into(), value: b"leased".to_vec(), lease, ..Default::default() })
}

pub fn delete(from: &str, to: &str) -> Request {
    Request::DeleteRange(pb::DeleteRangeRequest {
        key: from.into(),
        range_end: to.into(),
        ..Default::default()
    })
}

pub fn compact(revision: i64, physical: bool) -> Request {
    Request::Compaction(pb::CompactionRequest { revision, physical })
}

pub fn grant(id: i64, ttl: i64) -> Request {
    Request::LeaseGrant(pb::LeaseGrantRequest { id, ttl })
}

pub fn revoke(id: i64) -> Request {
    Request::LeaseRevoke(pb::LeaseRevokeRequest { id })
}

pub fn alarm(action: i32, member_id: u64, alarm: i32) -> Request {
    Request::Alarm(pb::AlarmRequest { action, member_id, alarm })
}

/// If `key` has this version, puts; else deletes it.
pub fn txn(key: &str, version: i64, value: &[u8]) -> Request {
    let put = pb::PutRequest { key: key.into(), value: value.to_vec(), ..Default::default() };
    let delete = pb::DeleteRangeRequest { key: key.into(), ..Default::default() };
    Request::Txn(pb::TxnRequest {
        compare: vec![pb::Compare {
            result: pb::compare::CompareResult::Equal as i32,
            target: pb::compare::CompareTarget::Version as i32,
            key: key.into(),
            range_end: Vec::new(),
            target_union: Some(pb::compare::TargetUnion::Version(version)),
        }],
        success: vec![pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }],
        failure: vec![pb::RequestOp { request: Some(pb::request_op::Request::RequestDeleteRange(delete)) }],
    })
}

/// What a file system with this content has given out, bytes. Leaves it with room.
pub fn used(files: &SimFiles) -> u64 {
    files.set_capacity(1 << 50);
    (1 << 50) - files.free_bytes().unwrap()
}

/// As clients do that are told "too many requests": superseded pages come free with the next checkpoints.
pub fn ask_again(rig: &mut Rig, request: Request) -> Result<(), proto::Error> {
    for _ in 0..20 {
        match rig.ask(request.clone()).map(|_| ()) {
            Err(error) if error == errors::REQUEST_TOO_MANY_REQUESTS => rig.tick(500),
            answer => return answer,
        }
    }
    panic!("too many requests, and nobody else asks");
}
