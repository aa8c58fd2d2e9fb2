//! Scripts over a whole member, beside the entries of its log and a plain model of the key space at each of them.
//!
//! The log's entries are read back from the disk as soon as they are given to it: what the member proposes by itself
//! (the no-op of a term, its name, the end of a lease) is among them. So the model needs no knowledge of when.

use std::collections::HashMap;
use std::sync::Arc;

use base::Random;
use disk::SimFiles;
use disk::sim::{KeepSet, Moment};
use proto::etcdserverpb as pb;
use replica::Request;
use wal::{Entry, Wal};

use super::faults::{Floor, Verdict};
use super::model::{Model, Picture};
use super::rig::{self, Rig};
use super::store;
use super::{Met, Promises, Script, guarded};
use crate::check::state;

const LOG_DIR: &str = "log";
/// Moments of a life that goes on at which the power goes too.
const MOMENTS_AFTER: usize = 2;
/// One image in so many has its parts read apart first: what a start would refuse is also seen there.
const READ_APART: u64 = 4;

/// What was known at some moment.
#[derive(Clone, Copy, Debug, Default)]
struct Promise {
    /// Whatever is published can be read.
    applied: u64,
    /// Of that, what was when the newest log write that is complete was asked for: that write says so.
    stated: u64,
    revision: i64,
}

pub(super) struct Subject {
    script: Script,
    moments: Vec<Moment>,
    promises: Vec<Promise>,
    /// By index, from 1.
    ledger: Vec<Entry>,
    /// It is that of a run like this one, and complete.
    known: bool,
    /// What clients see at each index, from 0: nothing applied.
    pictures: Vec<Picture>,
    /// The hash of HashKV at each index, and the sums of what compaction leaves alone, as they were first seen.
    hashes: HashMap<u64, (u32, Vec<(u64, u32)>)>,
    met: Met,
}

impl super::Subject for Subject {
    /// The last index of the log, and what clients see.
    type Found = (u64, Picture);

    fn play(
        script: Script,
        seed: u64,
        promises: Promises,
        files: &SimFiles,
        like: Option<&Subject>,
        until: u64,
    ) -> (Subject, Result<(), String>) {
        let mut random = Random::new(seed);
        let mut subject = Subject {
            script,
            moments: Vec::new(),
            promises: vec![Promise::default()],
            ledger: like.map_or_else(Vec::new, |like| like.ledger.clone()),
            known: like.is_some(),
            pictures: Vec::new(),
            hashes: HashMap::new(),
            met: Met::default(),
        };
        let lives = match script {
            Script::FirstInitialisation => [8, 6, 0],
            Script::Compaction => [50, 25, 0],
            _ => [45, 30, 20],
        };
        let mut ended = Ok(());
        for (life, steps) in lives.into_iter().enumerate().filter(|(_, steps)| *steps > 0) {
            let boot = random.next_u64();
            ended = guarded(|| {
                let opened = rig::open(files, boot);
                // The founding entry is written by the opening itself, also where that fails later.
                subject.note_entries(files)?;
                let mut rig = Rig::new(files, opened?.0, (seed + life as u64) % 2 == 1);
                let left = steps;
                let now = *subject.promises.last().expect("the first one");
                let mut life =
                    Life { subject: &mut subject, files, random: &mut random, promises, left, steps, now };
                let lived = life.run(&mut rig);
                subject.met.add_all(&rig.met);
                lived
            });
            if ended.is_err() || files.operations() > until {
                break;
            }
        }
        subject.moments = files.take_moments();
        let mut model = Model::new();
        subject.pictures.push(model.picture());
        for entry in &subject.ledger {
            if entry.kind == 0 && !entry.data.is_empty() {
                ended = ended.and(model.apply(&entry.data));
            }
            subject.pictures.push(model.picture());
        }
        (subject, ended)
    }

    fn promises(&self) -> u64 {
        self.promises.len() as u64
    }

    fn verdict(&mut self, files: &SimFiles, mark: u64, floor: Floor, boot: u64) -> Verdict {
        let (replica, report) = match replica::open(Arc::new(files.clone()), rig::start(boot), || Ok(())) {
            Ok(opened) => opened,
            Err(error) => return Verdict::Refused(error.to_string()),
        };
        if let Err(error) = tree::verify(replica.store()) {
            return Verdict::Verified(error.to_string());
        }
        let last = report.applied + report.replayed_entries as u64;
        let promise = self.promises[mark as usize];
        let floor = match floor {
            Floor::Acknowledged => promise.applied,
            Floor::Stated => promise.stated,
            Floor::Of(mark) => self.promises[mark as usize].stated,
            Floor::Nothing => 0,
        };
        if last < floor {
            return Verdict::Wrong(format!("entry {floor} was durable, the log ends at {last}"));
        }
        // A directory that is founded only now has an entry that nobody noted, and nothing in it that clients see.
        let known = if report.founded { self.pictures.first() } else { self.pictures.get(last as usize) };
        let Some(expected) = known.cloned() else {
            return Verdict::Wrong(format!("the log ends at {last}, and nobody proposed so much"));
        };
        let looked = guarded(|| {
            let mut rig = Rig::new(files, replica, boot % 2 == 1);
            rig.catch_up()?;
            state::store(rig.replica.store()).map_err(text)?;
            let found = Picture::of(rig.snapshot().view());
            if found == expected {
                return Ok(());
            }
            Err(format!("at entry {last} there should be {expected:?}, and {found:?} was found"))
        });
        match looked {
            Ok(()) if last < promise.applied => Verdict::Tail,
            Ok(()) => Verdict::Right,
            Err(text) => Verdict::Wrong(text),
        }
    }

    fn take_moments(&mut self) -> Vec<Moment> {
        std::mem::take(&mut self.moments)
    }

    fn met(&self) -> &Met {
        &self.met
    }

    fn reopen(&mut self, files: &SimFiles, mark: u64, boot: u64) -> Result<(u64, Picture), String> {
        let promise = self.promises[mark as usize];
        if boot.is_multiple_of(READ_APART) {
            self.read_apart(files, promise, boot)?;
        }
        self.judge(files, promise, boot, false)
    }

    fn fall_back(&mut self, files: &SimFiles, mark: u64, boot: u64) -> Result<bool, String> {
        let store = tree::Store::open(&files.image(), "data", &mvcc::trees::SPECS, rig::tree_options());
        if !store::damage_newest(files, store.map_err(text)?.report()) {
            return Ok(false);
        }
        self.judge(files, self.promises[mark as usize], boot, true).map(|_| true)
    }

    fn recover(&self, files: &SimFiles, _mark: u64, boot: u64) -> Result<(), String> {
        rig::open(files, boot).map(|_| ())
    }

    fn go_on(&mut self, files: &SimFiles, _mark: u64, boot: u64) -> Result<(), String> {
        let mut random = Random::new(boot);
        files.record();
        let (replica, _) = rig::open(files, boot)?;
        let mut rig = Rig::new(files, replica, boot % 2 == 1);
        rig.catch_up()?;
        let before = Picture::of(rig.snapshot().view());
        rig.settle(&mut random)?;
        rig.propose(put("after-the-crash", vec![7; 700]))?;
        rig.settle(&mut random)?;
        let after = Picture::of(rig.snapshot().view());
        if !rig.ready || after.revision != before.revision + 1 {
            return Err(format!("ready: {}; {before:?} became {after:?} by a put", rig.ready));
        }
        drop(rig);
        let moments = files.take_moments();
        for _ in 0..MOMENTS_AFTER {
            let moment = &moments[random.below(moments.len() as u64) as usize];
            let set = KeepSet::random(moment.unsynced(), &mut random);
            let found = look(&moment.crash(&set), random.next_u64())?;
            if found != before && found != after {
                return Err(format!("{before:?} became {after:?}, and a crash on the way left {found:?}"));
            }
        }
        let lost = files.crash(&mut |count| KeepSet::random(count, &mut random));
        match look(&lost, random.next_u64())? {
            found if found == after => Ok(()),
            found => Err(format!("{after:?} was acknowledged, and {found:?} was found")),
        }
    }
}

/// Opens it, and says what clients see.
fn look(files: &SimFiles, boot: u64) -> Result<Picture, String> {
    let (replica, _) = rig::open(files, boot)?;
    let mut rig = Rig::new(files, replica, boot % 2 == 1);
    rig.catch_up()?;
    state::store(rig.replica.store()).map_err(|finding| finding.to_string())?;
    Ok(Picture::of(rig.snapshot().view()))
}

impl Subject {
    /// Opens it, and compares what clients see with what was promised and with the model. `damaged`: the newest meta
    /// is.
    fn judge(
        &mut self,
        files: &SimFiles,
        promise: Promise,
        boot: u64,
        damaged: bool,
    ) -> Result<(u64, Picture), String> {
        let (replica, report) = rig::open(files, boot)?;
        let lost = report.checkpoint_lost.filter(|_| !damaged);
        if let Some(damage) = lost.or(report.store.bitmap_rebuilt) {
            return Err(format!("a crash is taken for damage: {damage}"));
        }
        self.met.add("founded", u64::from(report.founded));
        self.met.add("a torn tail cut", u64::from(report.cut.is_some()));
        self.met.add("a torn meta", u64::from(report.store.unreadable.is_some()));
        let last = report.applied + report.replayed_entries as u64;
        if last < promise.applied {
            return Err(format!("entry {} was applied, the log ends at {last}", promise.applied));
        }
        let Some(expected) = self.pictures.get(last as usize) else {
            return Err(format!("the log ends at {last}, and nobody proposed so much"));
        };
        let mut rig = Rig::new(files, replica, boot % 2 == 1);
        rig.catch_up()?;
        // All that was found, and the first entry of the new term.
        if rig.applied() != last + 1 {
            return Err(format!("the log ends at {last}, and {} is applied", rig.applied()));
        }
        state::store(rig.replica.store()).map_err(|finding| finding.to_string())?;
        let snapshot = rig.snapshot();
        let found = Picture::of(snapshot.view());
        if found != *expected {
            return Err(format!("at entry {last} there should be {expected:?}, and {found:?} was found"));
        }
        if found.revision < promise.revision {
            return Err(format!("revision {} was published, {} was found", promise.revision, found.revision));
        }
        let hash = mvcc::hash::hash_kv(snapshot.view(), 0).map_err(|error| error.to_string())?.hash;
        let state = (hash, state::lasting(snapshot.view()));
        let before = self.hashes.entry(last).or_insert_with(|| state.clone());
        if state != *before {
            return Err(format!("at entry {last} the hashes are {state:x?}, and were {before:x?} before"));
        }
        self.met.add("more than was published", u64::from(last > promise.applied));
        self.met.add("a removal under way", u64::from(mvcc::stamp::removal_pending(snapshot.stamp())));
        Ok((last, found))
    }

    fn mark(&mut self, files: &SimFiles, promise: Promise) {
        self.promises.push(promise);
        files.mark(self.promises.len() as u64 - 1);
    }

    /// The log and the data file of an image, each by itself: every entry is one that was proposed, nothing acknowledged
    /// is missing, and the data file is whole and not ahead.
    fn read_apart(&self, files: &SimFiles, promise: Promise, boot: u64) -> Result<(), String> {
        let image = files.image();
        let options = rig::wal_options(boot);
        let (_, recovered) = Wal::recover(Arc::new(image.clone()), LOG_DIR, options).map_err(text)?;
        if recovered.last.0 < promise.applied {
            return Err(format!(
                "entry {} was applied, the log ends at {:?}",
                promise.applied, recovered.last
            ));
        }
        for entry in &recovered.entries {
            if self.ledger.get(entry.index as usize - 1) != Some(entry) {
                return Err(format!("entry {} of term {} was never proposed", entry.index, entry.term));
            }
        }
        let specs = &mvcc::trees::SPECS;
        let data = tree::Store::open(&image, "data", specs, rig::tree_options()).map_err(text)?;
        state::applied(data.stamp(), &recovered).map_err(text)?;
        tree::verify(&data).map_err(text).map(|_| ())
    }

    /// Reads entries that were just given to the disk.
    fn note_entries(&mut self, files: &SimFiles) -> Result<(), String> {
        if self.known {
            return Ok(());
        }
        let from = self.ledger.len() as u64;
        let image = Arc::new(files.image());
        let reading = Wal::read(image, LOG_DIR, rig::wal_options(1), from).map_err(text)?;
        for entry in &reading.recovered().entries {
            match self.ledger.get(entry.index as usize - 1) {
                Some(known) if known == entry => {}
                Some(_) => return Err(format!("entry {} was written twice", entry.index)),
                None if entry.index as usize == self.ledger.len() + 1 => self.ledger.push(entry.clone()),
                None => return Err(format!("entry {} leaves a gap", entry.index)),
            }
        }
        Ok(())
    }
}

/// A process, up to a kill.
struct Life<'s> {
    subject: &'s mut Subject,
    files: &'s SimFiles,
    random: &'s mut Random,
    promises: Promises,
    /// Steps that are left, of so many.
    left: usize,
    steps: usize,
    now: Promise,
}

impl Life<'_> {
    fn run(&mut self, rig: &mut Rig) -> Result<(), String> {
        while self.left > 0 {
            self.left -= 1;
            self.step(rig)?;
            while rig.jobs() > 0 && !self.random.one_in(3) {
                let at = self.random.below(rig.jobs() as u64) as usize;
                rig.run_job_beside(at, |rig| self.others(rig))?;
            }
        }
        Ok(())
    }

    /// In the midst of a job: requests, turns, log writes.
    fn others(&mut self, rig: &mut Rig) -> Result<(), String> {
        if self.left > 0 && self.random.one_in(3) {
            self.left -= 1;
            self.subject.met.add("a step within a job", 1);
            self.step(rig)?;
        }
        Ok(())
    }

    /// Everything but jobs.
    fn step(&mut self, rig: &mut Rig) -> Result<(), String> {
        let Life { subject, files, random, promises, left, steps, now } = self;
        if random.one_in(4) {
            rig.tick(10 + random.below(1500))?;
        }
        for _ in 0..random.below(4) {
            if rig.replica.has_credit() {
                let revision = mvcc::stamp::current(rig.snapshot().stamp());
                rig.propose(request(subject.script, *steps - *left - 1, revision, random))?;
            }
        }
        rig.turn()?;
        let snapshot = rig.snapshot();
        now.applied = now.applied.max(rig.applied());
        now.stated = now.stated.max(rig.stated);
        now.revision = now.revision.max(mvcc::stamp::current(snapshot.stamp())).max(rig.answered_revision);
        drop(snapshot);
        subject.mark(files, *now);
        let sent = rig.send();
        if sent != Ok(false) {
            // Also of one that failed: what it wrote before may be kept.
            subject.note_entries(files)?;
            if *promises == Promises::Early {
                now.applied = subject.ledger.len() as u64;
                subject.mark(files, *now);
            }
        }
        sent?;
        for _ in 0..random.below(rig.outstanding() as u64 + 2) {
            if rig.outstanding() > 0 {
                rig.complete(random.below(rig.outstanding() as u64) as usize)?;
            }
        }
        Ok(())
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn put(key: &str, value: Vec<u8>) -> Request {
    Request::Put(pb::PutRequest { key: key.into(), value, ..Default::default() })
}

fn key(random: &mut Random, keys: u64) -> String {
    format!("key-{:02}", random.below(keys))
}

fn request(script: Script, step: usize, revision: i64, random: &mut Random) -> Request {
    if step < 4 {
        // Never deleted: with a version that compaction keeps, a hash does not depend on how far removal has come.
        return put("anchor", b"anchor".to_vec());
    }
    let lease = 1 + random.below(4) as i64;
    let keys = if script == Script::Compaction { 6 } else { 24 };
    let compactions = if script == Script::Compaction { 5 } else { 2 };
    match random.below(20 + compactions) {
        0..8 => {
            // Some values have pages of their own.
            let len = [0, 10, 300, 5000][random.below(4) as usize];
            let mut value = vec![0; len];
            random.fill(&mut value);
            put(&key(random, keys), value)
        }
        8..10 => Request::Put(pb::PutRequest {
            key: key(random, keys).into(),
            value: b"leased".to_vec(),
            lease,
            ..Default::default()
        }),
        10..13 => txn(random, keys),
        13..15 => delete(&key(random, keys), ""),
        15 => delete(&key(random, keys), "key-99"),
        16..18 => Request::LeaseGrant(pb::LeaseGrantRequest { id: lease, ttl: 1 + random.below(3) as i64 }),
        18 => Request::LeaseRevoke(pb::LeaseRevokeRequest { id: lease }),
        19 => put(&key(random, keys), vec![random.below(256) as u8; 2000]),
        _ => {
            let back = random.below(8) as i64;
            Request::Compaction(pb::CompactionRequest {
                revision: revision - back,
                physical: random.one_in(3),
            })
        }
    }
}

fn delete(from: &str, to: &str) -> Request {
    Request::DeleteRange(pb::DeleteRangeRequest {
        key: from.into(),
        range_end: to.into(),
        ..Default::default()
    })
}

/// If a key has some version, two puts; else a delete.
fn txn(random: &mut Random, keys: u64) -> Request {
    let operation = |request| pb::RequestOp { request: Some(request) };
    let put = |key: &str| {
        operation(pb::request_op::Request::RequestPut(pb::PutRequest {
            key: key.into(),
            value: b"from a transaction".to_vec(),
            ..Default::default()
        }))
    };
    let key = key(random, keys);
    let delete = pb::DeleteRangeRequest { key: key.clone().into(), ..Default::default() };
    Request::Txn(pb::TxnRequest {
        compare: vec![pb::Compare {
            result: pb::compare::CompareResult::Equal as i32,
            target: pb::compare::CompareTarget::Version as i32,
            key: key.clone().into(),
            range_end: Vec::new(),
            target_union: Some(pb::compare::TargetUnion::Version(random.below(3) as i64)),
        }],
        success: vec![put(&key), put("second")],
        failure: vec![operation(pb::request_op::Request::RequestDeleteRange(delete))],
    })
}
