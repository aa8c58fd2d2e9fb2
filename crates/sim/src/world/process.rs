//! One life of a member's process: the real replica and the real shards, each core taking its turns when the seed says
//! so, helpers that run jobs late and out of order, log writes that complete in pieces and in any order.
//!
//! What the server does with threads, rings and io_uring, this does with the world's queue: it owns no time and no
//! randomness of its own. The rings between log core and shards are the real ones, only short.
//!
//! Must not change what the product does: everything here is glue that the server has too, in `server::core`.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::ring::{Consumer, ring};
use base::{Millis, Outbox};
use replica::{Action, Note, Replica};

use super::coverage::Mechanism;
use super::disk::ProcessFiles;
use super::job::{Job, Mail};
use super::network::{ConnectionId, Side};
use super::profile::Sizes;
use super::shard::{ShardCore, ToShard};
use super::trace::{self, What};
use super::witness::Witness;
use super::{Env, Event};
use crate::history;

/// Events taken from one shard per turn.
const EVENTS_PER_TURN: usize = 64;
/// The longest sleep of a core, as in the server.
const SLEEP_US: u64 = 50_000;

/// Why a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// An I/O error (law 8), or the power went in the midst of an operation.
    Disk,
    /// It was asked to.
    Stopped,
}

/// What happened to a core's schedule.
#[derive(Clone, Copy, Default)]
struct Core {
    /// Its next turn.
    turn_us: Option<u64>,
}

/// See the module's documentation.
pub(super) struct Process {
    pub member: u32,
    pub life: u32,
    pub files: ProcessFiles,
    pub published: Arc<replica::Published>,
    pub readers: Arc<tree::Readers>,
    pub spool_slots: Arc<api::SpoolSlots>,
    /// What the machine's clock showed at its start, microseconds.
    started_us: u64,
    sizes: Sizes,
    replica: Replica,
    inboxes: Vec<Consumer<replica::Event>>,
    outboxes: Vec<Outbox<ToShard>>,
    shards: Vec<ShardCore>,
    mailbox: Vec<replica::Event>,
    /// Handed out and not complete, by the order of handing out.
    writes: BTreeMap<u64, wal::Write>,
    next_write: u64,
    completed: Vec<(u64, disk::AlignedBuf)>,
    /// Given to helpers and not begun.
    jobs: BTreeMap<u64, Job>,
    next_job: u64,
    cores: Vec<Core>,
    /// No core runs before this.
    paused_until_us: u64,
    ticked_at: Millis,
    actions: Vec<Action>,
    witness: Witness,
    /// Came before it serves.
    early: Vec<ConnectionId>,
    /// It serves.
    pub ready: bool,
    pub stopping: bool,
    pub end: Option<End>,
    /// It took something from a client with no segment ready, though a checkpoint could have given one.
    spent_last: bool,
    /// Its last words.
    pub said: Option<String>,
}

impl Process {
    pub fn new(
        env: &mut Env,
        member: u32,
        life: u32,
        files: ProcessFiles,
        replica: Replica,
        sizes: &Sizes,
        boot: u64,
    ) -> Process {
        let (published, readers) = (replica.published().clone(), replica.readers());
        let limits = Arc::new(net::Limits {
            max_message_bytes: sizes.max_request_bytes + base::limits::GRPC_OVERHEAD_BYTES,
            ..net::Limits::default()
        });
        let (mut inboxes, mut outboxes, mut shards) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..sizes.shards {
            let (to_log, inbox) = ring(sizes.proposal_slots);
            let (outbox, from_log) = ring(sizes.outcome_slots);
            inboxes.push(inbox);
            outboxes.push(Outbox::new(outbox));
            let config = api::Config {
                shard: number,
                version: "3.7.1".to_owned(),
                max_txn_ops: 128,
                max_request_bytes: sizes.max_request_bytes,
                request_timeout_ms: 7_000,
                progress_interval_ms: sizes.progress_interval_ms,
                slow_request_us: 100_000,
                seed: boot ^ u64::from(number),
            };
            let meter = Arc::new(api::Meter::new(false));
            let shard = api::Shard::new(config, published.clone(), readers.register(), meter);
            shards.push(ShardCore::new(shard, to_log, from_log, limits.clone()));
        }
        let witness = Witness::new(readers.register());
        let cores = if sizes.shared_core { 1 } else { 1 + usize::from(sizes.shards) };
        let mut process = Process {
            member,
            life,
            files,
            published,
            readers,
            spool_slots: Arc::default(),
            started_us: env.clocks[member as usize].at(env.now_us),
            sizes: sizes.clone(),
            replica,
            inboxes,
            outboxes,
            shards,
            mailbox: Vec::new(),
            writes: BTreeMap::new(),
            next_write: 0,
            completed: Vec::new(),
            jobs: BTreeMap::new(),
            next_job: 0,
            cores: vec![Core::default(); cores],
            paused_until_us: 0,
            ticked_at: 0,
            actions: Vec::new(),
            witness,
            early: Vec::new(),
            ready: false,
            stopping: false,
            end: None,
            spent_last: false,
            said: None,
        };
        for core in 0..cores {
            process.wake(env, core);
        }
        process
    }

    // --- scheduling ---

    /// Where a shard takes its turns.
    fn core_of(&self, shard: usize) -> usize {
        if self.sizes.shared_core { 0 } else { 1 + shard }
    }

    /// Lets a core take a turn soon.
    fn wake(&mut self, env: &mut Env, core: usize) {
        let (low, high) = env.weather.core_us;
        let after_us = super::queue::magnitude(&mut env.random, low, high);
        self.wake_after(env, core, after_us);
    }

    fn wake_after(&mut self, env: &mut Env, core: usize, after_us: u64) {
        let at_us = (env.now_us + after_us).max(self.paused_until_us);
        if self.cores[core].turn_us.is_none_or(|turn_us| at_us < turn_us) {
            self.cores[core].turn_us = Some(at_us);
            let (member, life) = (self.member, self.life);
            env.at(at_us, Event::Turn { member, life, core: core as u8, at_us });
        }
    }

    pub fn pause(&mut self, until_us: u64) {
        self.paused_until_us = self.paused_until_us.max(until_us);
    }

    /// A pause ends.
    pub fn resume(&mut self, env: &mut Env) {
        self.paused_until_us = env.now_us;
        for core in 0..self.cores.len() {
            self.wake(env, core);
        }
    }

    /// The process's own clock, microseconds, and as the server counts it in milliseconds.
    fn now(&self, env: &Env) -> (u64, Millis) {
        let now_us = env.clocks[self.member as usize].at(env.now_us) - self.started_us;
        (now_us, now_us / 1000 + 1)
    }

    /// A core takes its turn, unless that was moved.
    pub fn turn(&mut self, env: &mut Env, core: usize, at_us: u64) {
        if self.cores[core].turn_us != Some(at_us) {
            return;
        }
        self.cores[core].turn_us = None;
        if at_us < self.paused_until_us {
            let after_us = self.paused_until_us - at_us;
            return self.wake_after(env, core, after_us);
        }
        trace::note(What::Turn { member: self.member, core: core as u8 });
        if self.sizes.shared_core {
            for shard in 0..self.shards.len() {
                self.receive(env, shard);
            }
            self.log_turn(env);
            for shard in 0..self.shards.len() {
                self.shard_turn(env, shard);
            }
        } else if core == 0 {
            self.log_turn(env);
        } else {
            self.receive(env, core - 1);
            self.shard_turn(env, core - 1);
            let outbox = &self.outboxes[core - 1];
            if outbox.is_behind() && outbox.free() > 0 {
                // The log core does not sleep while something waits for room.
                self.wake(env, 0);
            }
        }
        let log = core == 0 && self.log_has_work();
        let shards: &[ShardCore] = match (self.sizes.shared_core, core) {
            (true, _) => &self.shards,
            (false, 0) => &[],
            (false, core) => &self.shards[core - 1..core],
        };
        if log || shards.iter().any(ShardCore::has_work) {
            self.wake(env, core);
        } else {
            self.wake_after(env, core, SLEEP_US);
        }
    }

    // --- shards ---

    fn receive(&mut self, env: &mut Env, shard: usize) {
        let (now_us, now) = self.now(env);
        self.shards[shard].receive(env, now_us, now);
        self.hand_over(env, shard);
    }

    fn shard_turn(&mut self, env: &mut Env, shard: usize) {
        let (_, now) = self.now(env);
        self.shards[shard].turn(env, &self.published, now);
        self.hand_over(env, shard);
    }

    fn hand_over(&mut self, env: &mut Env, shard: usize) {
        let mut jobs = Vec::new();
        if self.shards[shard].hand_over(&mut jobs) {
            self.wake(env, 0);
        }
        for job in jobs {
            self.give_job(env, Job::Shard(shard as u16, job));
        }
    }

    /// A client connects: the shard with the fewest connections takes it.
    pub fn accept(&mut self, env: &mut Env, id: ConnectionId) {
        let (_, now) = self.now(env);
        if self.stopping {
            return env.network.close(env.now_us, id, Side::Acceptor);
        }
        if !self.ready {
            // As in the queue of a listener that nobody accepts from yet.
            return self.early.push(id);
        }
        let least = (0..self.shards.len()).min_by_key(|&shard| self.shards[shard].connections());
        let shard = least.expect("a process has a shard");
        self.shards[shard].accept(id, now);
        let core = self.core_of(shard);
        self.wake(env, core);
    }

    /// There is something to read, or room to write.
    pub fn stirred(&mut self, env: &mut Env, id: ConnectionId) {
        if let Some(shard) = self.shards.iter().position(|shard| shard.holds(id)) {
            let core = self.core_of(shard);
            self.wake(env, core);
        }
    }

    pub fn disconnected(&mut self, env: &mut Env, id: ConnectionId) {
        self.early.retain(|early| *early != id);
        if let Some(shard) = self.shards.iter().position(|shard| shard.holds(id)) {
            self.shards[shard].disconnected(id);
            let core = self.core_of(shard);
            self.wake(env, core);
        }
    }

    /// An orderly end begins, as after SIGTERM.
    pub fn stop(&mut self, env: &mut Env) {
        let (_, now) = self.now(env);
        self.stopping = true;
        env.causes.stop_told();
        for id in std::mem::take(&mut self.early) {
            self.accept(env, id);
        }
        for shard in &mut self.shards {
            shard.drain(now);
        }
        for core in 0..self.cores.len() {
            self.wake(env, core);
        }
    }

    /// Connections are closed, or the patience with them has ended: the log core stops.
    pub fn stop_log(&mut self, env: &mut Env) {
        self.post(env, Mail::Log(replica::Event::Stop));
    }

    // --- the log core ---

    fn log_has_work(&self) -> bool {
        self.replica.has_work()
            || !self.mailbox.is_empty()
            || !self.completed.is_empty()
            || (self.replica.has_credit() && self.inboxes.iter().any(|inbox| !inbox.is_empty()))
            || self.outboxes.iter().any(|outbox| outbox.is_behind() && outbox.free() > 0)
    }

    fn log_turn(&mut self, env: &mut Env) {
        let mut actions = std::mem::take(&mut self.actions);
        for (seq, buffer) in std::mem::take(&mut self.completed) {
            self.replica.handle(replica::Event::LogWritten { seq, buffer }, &mut actions);
        }
        let (_, now) = self.now(env);
        if now != self.ticked_at {
            self.ticked_at = now;
            self.replica.handle(replica::Event::Tick { now }, &mut actions);
        }
        for event in std::mem::take(&mut self.mailbox) {
            self.replica.handle(event, &mut actions);
        }
        for inbox in &self.inboxes {
            for _ in 0..EVENTS_PER_TURN {
                if !self.replica.has_credit() {
                    break;
                }
                let Some(event) = inbox.pop() else { break };
                let log = self.replica.log();
                // What ends refuses whatever comes.
                let takes = !self.stopping;
                self.spent_last |= takes && log.segments_ready() == 0 && log.segments() > 1;
                self.replica.handle(event, &mut actions);
            }
        }
        self.replica.turn(&mut actions);
        self.witness.look(env, self.member, &self.published);
        env.causes.published(env.now_us, &self.published);
        for action in actions.drain(..) {
            self.carry_out(env, action);
        }
        self.actions = actions;
        self.replica.events_sent();
        for shard in 0..self.outboxes.len() {
            self.outboxes[shard].flush();
            if self.outboxes[shard].take_news() {
                let core = self.core_of(shard);
                self.wake(env, core);
            }
        }
    }

    fn carry_out(&mut self, env: &mut Env, action: Action) {
        match action {
            Action::WriteLog(write) => self.begin_write(env, write),
            Action::PrepareSegment(job) => self.give_job(env, Job::Segment(job)),
            Action::Checkpoint(job) => self.give_job(env, Job::Checkpoint(job)),
            Action::HashCompaction(job) => self.give_job(env, Job::Hash(job)),
            Action::DropCold(job) => self.give_job(env, Job::Drop(job)),
            Action::Scrub(job) => self.give_job(env, Job::Scrub(job)),
            Action::Grow(job) => self.give_job(env, Job::Grow(job)),
            Action::DiskFailed { what } => {
                self.end = Some(End::Disk);
                self.said = Some(what);
            }
            Action::Populate(job) => self.give_job(env, Job::Populate(job)),
            Action::Outcome(outcome) => {
                self.outboxes[usize::from(outcome.token.shard)].push(ToShard::Outcome(outcome));
            }
            Action::Events(batch) => {
                for outbox in &mut self.outboxes {
                    // Law 11: a batch that does not fit is not waited for; the shard sees the gap and catches up.
                    if outbox.has_room(self.sizes.event_slots_kept) {
                        outbox.push(ToShard::Events(batch.clone()));
                    } else {
                        env.coverage.one(Mechanism::WatchGap);
                    }
                }
            }
            Action::Ready => {
                trace::note(What::Note { member: self.member, note: "serves", number: 0 });
                self.ready = true;
                for id in std::mem::take(&mut self.early) {
                    self.accept(env, id);
                }
            }
            Action::Stopped => self.end = Some(End::Stopped),
            Action::Note(note) => self.note(env, &note),
        }
    }

    fn note(&mut self, env: &mut Env, note: &Note) {
        let coverage = &mut env.coverage;
        let (text, number) = match note {
            Note::BecameLeader { term } => ("leads", *term as i64),
            Note::CompactionScheduled { revision } => {
                coverage.one(Mechanism::Compaction);
                if self.sizes.compacts_by_itself() {
                    self.record_compaction(env, *revision);
                }
                ("compaction", *revision)
            }
            Note::CompactionFinished { revision } => {
                coverage.one(Mechanism::Removal);
                ("removal finished", *revision)
            }
            Note::CheckpointStarted { dirty_bytes } => ("checkpoint", *dirty_bytes as i64),
            Note::CheckpointFinished { index } => {
                coverage.one(Mechanism::Checkpoint);
                ("checkpoint finished", *index as i64)
            }
            Note::ScrubFinished { pages } => {
                coverage.one(Mechanism::ScrubPass);
                ("scrub finished", *pages as i64)
            }
            Note::AlarmRaised { .. } => {
                env.causes.alarm_raised(env.now_us, self.sizes.quota_bytes);
                coverage.one(Mechanism::NoSpaceAlarm);
                ("alarm", 1)
            }
            Note::AlarmDisarmed { .. } => {
                env.causes.alarm_lowered(env.now_us);
                ("alarm", 0)
            }
            Note::ClusterVersion { .. } => ("cluster version", 0),
            Note::LeaseExpired { id } => {
                coverage.one(Mechanism::LeaseExpired);
                ("lease expired", *id)
            }
            // Said by what it did.
            Note::AppliedUnasked { .. } => return,
            Note::NoRoomOnDisk { wanted_bytes } => ("no room on disk", *wanted_bytes as i64),
            Note::ReplayWaitsForRoom { wanted_bytes, .. } => {
                coverage.one(Mechanism::ReplayWait);
                ("replay waits for room", *wanted_bytes as i64)
            }
        };
        trace::note(What::Note { member: self.member, note: text, number });
    }

    /// A compaction that the member may have asked for itself: somebody nobody knows asked for it, some time before. Also
    /// where a client has asked for the same: it may come second, and be refused.
    fn record_compaction(&mut self, env: &mut Env, revision: i64) {
        const NOBODY: u32 = u32::MAX;
        let request = history::Request::Compact { revision };
        let asked = |by: fn(u32) -> bool| {
            let mut operations = env.history.operations.iter().rev();
            operations.any(|operation| by(operation.client) && operation.request == request)
        };
        // A start replays it.
        let noted = asked(|client| client == NOBODY);
        env.coverage.add(Mechanism::AutoCompaction, u64::from(!asked(|_| true)));
        if !noted {
            let at_us = env.history_us();
            let op = env.history.call(NOBODY, self.member, at_us, request);
            env.history.lost(op, at_us);
        }
    }

    /// Something for the log core or a shard, put where it looks.
    pub fn post(&mut self, env: &mut Env, mail: Mail) {
        let core = match mail {
            Mail::Log(event) => {
                self.mailbox.push(event);
                0
            }
            Mail::Shard(shard, token, result) => {
                self.shards[usize::from(shard)].mail.push((token, result));
                self.core_of(usize::from(shard))
            }
        };
        self.wake(env, core);
    }

    // --- the device ---

    fn begin_write(&mut self, env: &mut Env, write: wal::Write) {
        let number = self.next_write;
        self.next_write += 1;
        let (low, high) = env.weather.disk_us;
        let at_us = env.now_us + super::queue::magnitude(&mut env.random, low, high);
        let (member, life) = (self.member, self.life);
        // Parts of it reach the device before it is complete, in any order.
        let blocks = (write.len / disk::BLOCK) as u64;
        if env.random.one_in(3) {
            for _ in 0..=env.random.below(3) {
                let block = env.random.below(blocks);
                let piece_us = super::queue::between(&mut env.random, env.now_us, at_us);
                env.at(piece_us, Event::LogPiece { member, life, write: number, block });
            }
        }
        env.at(at_us, Event::LogWrite { member, life, write: number });
        self.writes.insert(number, write);
    }

    /// A part of a write in flight reaches the device.
    pub fn write_piece(&mut self, number: u64, block: u64) {
        let Some(write) = self.writes.get(&number) else { return };
        trace::note(What::LogPiece { member: self.member, seq: write.seq, block });
        let at = block as usize * disk::BLOCK;
        let piece = &write.data()[at..at + disk::BLOCK];
        if write.file.write_at(write.offset + at as u64, piece).is_err() {
            self.end = Some(End::Disk);
        }
    }

    /// A write completes, durable or with an error.
    pub fn complete_write(&mut self, env: &mut Env, number: u64) {
        let Some(write) = self.writes.remove(&number) else { return };
        if self.writes.first_key_value().is_some_and(|(&first, _)| first < number) {
            env.coverage.one(Mechanism::OutOfOrder);
        }
        if write.perform().is_err() {
            self.end = Some(End::Disk);
            return;
        }
        trace::note(What::LogWritten { member: self.member, seq: write.seq, bytes: write.len as u64 });
        self.completed.push((write.seq, write.buf));
        self.wake(env, 0);
    }

    /// The process is gone. What was in flight may have reached the device or not.
    pub fn abandon_writes(&mut self, env: &mut Env) {
        self.files.set_errors(Default::default());
        for write in std::mem::take(&mut self.writes).into_values() {
            if !env.random.one_in(3) {
                // After the power went, nothing more happens to the disk.
                let _ = write.file.write_at(write.offset, write.data());
            }
        }
    }

    // --- helpers ---

    fn give_job(&mut self, env: &mut Env, job: Job) {
        let number = self.next_job;
        self.next_job += 1;
        // Fewer helpers than jobs: somebody waits longer.
        let waits = 1 + self.jobs.len() as u64 / self.sizes.helpers as u64;
        let after_us = env.helper_takes_us(waits, job.is_awaited());
        let (member, life) = (self.member, self.life);
        self.jobs.insert(number, job);
        env.at(env.now_us + after_us, Event::Job { member, life, job: number });
    }

    pub fn take_job(&mut self, number: u64) -> Option<Job> {
        self.jobs.remove(&number)
    }

    // --- what others look at ---

    /// Whether it would answer everybody: it leads, and serves.
    pub fn is_up(&self) -> bool {
        self.ready && !self.stopping && self.end.is_none() && self.published.read_ready()
    }

    pub fn revision(&self) -> i64 {
        mvcc::stamp::current(self.witness.snapshot().stamp())
    }

    /// Whether the next start may find no segment for its log: then clients were not listened to without one, unless no
    /// checkpoint could have given any.
    pub fn may_want_a_segment(&self) -> bool {
        self.replica.log().segments_left() == 0 && !self.spent_last
    }

    pub fn has_stored_alarm(&self) -> bool {
        !self.snapshot().view().is_empty(mvcc::trees::ALARMS)
    }

    pub fn snapshot(&self) -> tree::Snapshot {
        self.witness.snapshot()
    }
}
