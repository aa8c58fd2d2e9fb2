//! Drives one member over a recorded disk: carries out its actions late and out of order, and hands log writes to the
//! disk as soon as they are asked for, so that a crash finds any part of them.

use std::sync::Arc;

use base::{CallToken, Random};
use disk::{Files, SimFiles};
use replica::{Action, CheckpointPolicy, Event, Note, OpenReport, Proposal, Replica, Request, Start};

use super::Met;
use super::interleave::{interleaved, stopping};

/// Small sizes, so that images stay small and every border is met.
const SEGMENT_BYTES: u64 = 32 << 10;
const BATCH_BYTES: usize = 8 << 10;
const CHUNK_BYTES: u64 = 64 << 10;
const RESERVE_BYTES: u64 = 64 << 10;
/// Nothing takes longer than this to come to rest.
const TURNS_MAX: usize = 10_000;

pub(super) fn tree_options() -> tree::Options {
    tree::Options { chunk_bytes: CHUNK_BYTES, max_chunks: 1024, reserve_bytes: RESERVE_BYTES }
}

pub(super) fn wal_options(boot: u64) -> wal::Options {
    wal::Options { segment_bytes: SEGMENT_BYTES, batch_bytes: BATCH_BYTES, in_flight: 4, boot }
}

pub(super) fn start(boot: u64) -> Start {
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
            checkpoint: CheckpointPolicy {
                dirty_bytes: 96 << 10,
                log_bytes: 96 << 10,
                interval_ms: 5_000,
                bytes_per_second: 0,
                ..CheckpointPolicy::default()
            },
            scrub: replica::ScrubPolicy::default(),
            memory_budget_bytes: 64 << 10,
            cluster_version: "3.7.0".into(),
        },
        quota_config_bytes: -1,
        tree: tree_options(),
        wal: wal_options(boot),
        boot,
    }
}

pub(super) fn open(files: &SimFiles, boot: u64) -> Result<(Replica, OpenReport), String> {
    replica::open(Arc::new(stopping(files)), start(boot), || Ok(())).map_err(|error| error.to_string())
}

/// What runs on the helper pool.
enum Job {
    Segment(wal::SegmentJob),
    Checkpoint(tree::CheckpointJob),
    Hash(replica::HashJob),
    Drop(tree::DropJob),
    Scrub(tree::ScrubJob),
    Grow(tree::GrowJob),
}

impl Job {
    /// What the server does with each: what comes of it, and its name where that is counted.
    fn run(self, files: &dyn Files) -> std::io::Result<(Option<Event>, Option<&'static str>)> {
        Ok(match self {
            Job::Segment(job) => match job.run(files) {
                Ok(ready) => (Some(Event::SegmentReady(ready)), None),
                Err(error) if disk::is_no_space(&error) => (Some(Event::SegmentRefused), None),
                Err(error) => return Err(error),
            },
            Job::Checkpoint(job) => (Some(Event::Checkpointed(job.run()?)), Some("a checkpoint")),
            Job::Hash(job) => (Some(Event::CompactionHashed(job.run())), None),
            Job::Drop(job) => (Some(Event::ColdDropped(job.run()?)), None),
            Job::Scrub(job) => (Some(Event::Scrubbed(job.run())), None),
            Job::Grow(job) => match job.run() {
                Ok(()) => (None, None),
                Err(error) if disk::is_no_space(&error) => (Some(Event::GrowthRefused), None),
                Err(error) => return Err(error),
            },
        })
    }
}

pub(super) struct Rig {
    pub replica: Replica,
    files: SimFiles,
    reader: tree::Reader,
    now: u64,
    /// Asked for, and not yet given to the disk; given to it, and not complete. Each with the entry that was applied
    /// before it was asked for: it says that the log is durable up to there.
    unsent: Vec<(wal::Write, u64)>,
    writes: Vec<(wal::Write, u64)>,
    /// Of the newest write that is complete.
    pub stated: u64,
    jobs: Vec<Job>,
    actions: Vec<Action>,
    next_call: u32,
    pub ready: bool,
    /// The highest revision that an answer has named.
    pub answered_revision: i64,
    pub met: Met,
}

fn text(error: std::io::Error) -> String {
    error.to_string()
}

impl Rig {
    pub fn new(files: &SimFiles, mut replica: Replica, share_thread: bool) -> Rig {
        if share_thread {
            replica.share_thread();
        }
        let reader = replica.readers().register();
        Rig {
            replica,
            files: files.clone(),
            reader,
            now: 1,
            unsent: Vec::new(),
            writes: Vec::new(),
            stated: 0,
            jobs: Vec::new(),
            actions: Vec::new(),
            next_call: 1,
            ready: false,
            answered_revision: 0,
            met: Met::default(),
        }
    }

    pub fn snapshot(&self) -> tree::Snapshot {
        self.reader.pin()
    }

    pub fn applied(&self) -> u64 {
        self.replica.published().applied()
    }

    pub fn propose(&mut self, request: Request) -> Result<(), String> {
        let stream = self.next_call;
        self.next_call += 1;
        let token = CallToken { shard: 0, connection: 0, epoch: 0, stream };
        self.handle(Event::Propose(Proposal { token: Some(token), request }))
    }

    pub fn tick(&mut self, by_ms: u64) -> Result<(), String> {
        self.now += by_ms;
        self.handle(Event::Tick { now: self.now })
    }

    pub fn handle(&mut self, event: Event) -> Result<(), String> {
        let applied = self.applied();
        self.replica.handle(event, &mut self.actions);
        self.sort(applied)
    }

    /// One turn; nothing reaches the disk.
    pub fn turn(&mut self) -> Result<(), String> {
        let applied = self.applied();
        self.replica.turn(&mut self.actions);
        self.replica.events_sent();
        self.sort(applied)
    }

    /// `applied`: before these actions were asked for.
    fn sort(&mut self, applied: u64) -> Result<(), String> {
        for action in std::mem::take(&mut self.actions) {
            match action {
                Action::WriteLog(write) => self.unsent.push((write, applied)),
                Action::PrepareSegment(job) => self.jobs.push(Job::Segment(job)),
                Action::Checkpoint(job) => self.jobs.push(Job::Checkpoint(job)),
                Action::HashCompaction(job) => self.jobs.push(Job::Hash(job)),
                Action::DropCold(job) => self.jobs.push(Job::Drop(job)),
                Action::Scrub(job) => self.jobs.push(Job::Scrub(job)),
                Action::Grow(job) => self.jobs.push(Job::Grow(job)),
                Action::DiskFailed { what } => return Err(what),
                Action::Populate(job) => job.run(),
                Action::Outcome(outcome) => self.answered(&outcome.result)?,
                Action::Ready => self.ready = true,
                Action::Note(Note::CompactionFinished { .. }) => self.met.add("a compaction finished", 1),
                Action::Note(Note::LeaseExpired { .. }) => self.met.add("a lease ended", 1),
                Action::Events(_) | Action::Stopped | Action::Note(_) => {}
            }
        }
        Ok(())
    }

    /// Law 1: what an answer names is published before the answer leaves.
    fn answered(&mut self, result: &Result<replica::Response, proto::Error>) -> Result<(), String> {
        use replica::Response::{DeleteRange, LeaseGrant, LeaseRevoke, Put, Txn};
        let header = match result {
            Ok(Put(answer)) => &answer.header,
            Ok(DeleteRange(answer)) => &answer.header,
            Ok(Txn(answer)) => &answer.header,
            Ok(LeaseGrant(answer)) => &answer.header,
            Ok(LeaseRevoke(answer)) => &answer.header,
            _ => return Ok(()),
        };
        let Some(header) = header else { return Ok(()) };
        let published = mvcc::stamp::current(self.snapshot().stamp());
        if header.revision > published {
            return Err(format!("revision {} was answered, {published} is published", header.revision));
        }
        self.answered_revision = self.answered_revision.max(header.revision);
        Ok(())
    }

    /// Gives everything that waits to the disk, which may keep it from now on. True when there was something.
    pub fn send(&mut self) -> Result<bool, String> {
        let any = !self.unsent.is_empty();
        for (write, applied) in self.unsent.drain(..) {
            write.file.write_at(write.offset, write.data()).map_err(text)?;
            self.writes.push((write, applied));
        }
        Ok(any)
    }

    pub fn outstanding(&self) -> usize {
        self.writes.len()
    }

    pub fn jobs(&self) -> usize {
        self.jobs.len()
    }

    pub fn complete(&mut self, at: usize) -> Result<(), String> {
        let (write, applied) = self.writes.remove(at);
        write.perform().map_err(text)?;
        self.stated = self.stated.max(applied);
        self.handle(Event::LogWritten { seq: write.seq, buffer: write.buf })
    }

    pub fn run_job(&mut self, at: usize) -> Result<(), String> {
        let job = self.jobs.remove(at);
        let ran = job.run(&self.files).map_err(text)?;
        self.ran(ran)
    }

    /// The same, with `others` before each of the job's operations on the disk.
    pub fn run_job_beside(
        &mut self,
        at: usize,
        mut others: impl FnMut(&mut Rig) -> Result<(), String>,
    ) -> Result<(), String> {
        let job = self.jobs.remove(at);
        let files = stopping(&self.files);
        let ran = interleaved(|| job.run(&files), || others(self))?.map_err(text)?;
        self.ran(ran)
    }

    fn ran(&mut self, (event, name): (Option<Event>, Option<&'static str>)) -> Result<(), String> {
        name.into_iter().for_each(|name| self.met.add(name, 1));
        event.map_or(Ok(()), |event| self.handle(event))
    }

    /// Turns and log writes until everything of the log that was found is applied, and only that much of what
    /// follows: the first entry of the new term.
    pub fn catch_up(&mut self) -> Result<(), String> {
        for _ in 0..TURNS_MAX {
            self.turn()?;
            if self.replica.published().read_ready() {
                return Ok(());
            }
            self.send()?;
            while !self.writes.is_empty() {
                self.complete(0)?;
            }
        }
        Err("the member does not catch up".to_owned())
    }

    /// Goes on until nothing is left to do.
    pub fn settle(&mut self, random: &mut Random) -> Result<(), String> {
        for _ in 0..TURNS_MAX {
            self.turn()?;
            let idle = self.unsent.is_empty() && self.writes.is_empty() && self.jobs.is_empty();
            if idle && !self.replica.has_work() {
                return Ok(());
            }
            self.send()?;
            while !self.writes.is_empty() {
                let at = random.below(self.writes.len() as u64) as usize;
                self.complete(at)?;
            }
            while !self.jobs.is_empty() {
                self.run_job(0)?;
            }
        }
        Err("the member does not come to rest".to_owned())
    }
}
