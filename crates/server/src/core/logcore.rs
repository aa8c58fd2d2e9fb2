//! The log core: feeds the replica and carries out what it asks for.
//!
//! Owns no thread: `core::run` drives it, alone or together with a shard. Everything that it does between two
//! turns is bounded. An I/O error of the log or a checkpoint ends the process (law 8).

use std::sync::Arc;
use std::time::Instant;

use base::ring::{Consumer, Producer};
use base::{Millis, Outbox};
use disk::probe::SyncForm;
use replica::{Action, Event, Note, Replica};

use super::doorbell::Doorbell;
use super::fixed::Fixed;
use super::mailbox::{Mailbox, Sender};
use super::pool::Pool;
use super::shard::ToShard;
use super::uring::{Completion, DurableWrite, Ring, Tag};

/// Events taken from one shard per turn: bounds the time until completions are looked at again.
const EVENTS_PER_TURN: usize = 1024;

pub struct LogCore {
    replica: Replica,
    inboxes: Vec<Consumer<Event>>,
    shards: Vec<WayToShard>,
    mailbox: Mailbox<Event>,
    sender: Sender<Event>,
    pool: Pool,
    files: Arc<dyn disk::Files>,
    writes: slab::Slab<Flight>,
    fixed: Fixed,
    sync_form: SyncForm,
    actions: Vec<Action>,
    taken: Vec<Event>,
    ticked_at: Millis,
    on_ready: Option<Box<dyn FnOnce() + Send>>,
    on_stopped: Option<Box<dyn FnOnce() + Send>>,
    metrics: Arc<super::meter::CoreMeter>,
    compactions: super::meter::Compactions,
    /// Time that each entry of this turn took, nanoseconds.
    share_ns: u64,
    slow_apply: std::time::Duration,
}

/// A log write on its way.
struct Flight {
    write: wal::Write,
    started: Instant,
}

/// The way to one shard. Outcomes always fit or wait here: PROPOSALS_IN_FLIGHT bounds the calls, and a call has
/// one, or two where it is a compaction that waits for its physical end.
struct WayToShard {
    outbox: Outbox<ToShard>,
    doorbell: Doorbell,
}

/// The ends of the rings that lead to one shard.
pub struct ShardLink {
    pub inbox: Consumer<Event>,
    pub outbox: Producer<ToShard>,
    pub doorbell: Doorbell,
}

/// What to do once, when the member is up or down.
pub struct Hooks {
    pub ready: Box<dyn FnOnce() + Send>,
    pub stopped: Box<dyn FnOnce() + Send>,
}

/// What the log core works with.
pub struct Means {
    pub pool: Pool,
    pub files: Arc<dyn disk::Files>,
    pub sync_form: SyncForm,
    pub metrics: Arc<super::meter::CoreMeter>,
    /// Turns that take longer are counted as slow.
    pub slow_apply: std::time::Duration,
}

impl LogCore {
    pub fn new(
        replica: Replica,
        links: Vec<ShardLink>,
        mailbox: Mailbox<Event>,
        means: Means,
        hooks: Hooks,
    ) -> LogCore {
        assert!(!links.is_empty(), "a log core serves at least one shard");
        let mut inboxes = Vec::with_capacity(links.len());
        let mut shards = Vec::with_capacity(links.len());
        for link in links {
            inboxes.push(link.inbox);
            shards.push(WayToShard { outbox: Outbox::new(link.outbox), doorbell: link.doorbell });
        }
        LogCore {
            compactions: super::meter::Compactions::new(replica.readers().register()),
            share_ns: 0,
            slow_apply: means.slow_apply,
            replica,
            inboxes,
            shards,
            sender: mailbox.sender(),
            mailbox,
            pool: means.pool,
            files: means.files,
            writes: slab::Slab::new(),
            fixed: Fixed::default(),
            sync_form: means.sync_form,
            actions: Vec::new(),
            taken: Vec::new(),
            ticked_at: 0,
            on_ready: Some(hooks.ready),
            on_stopped: Some(hooks.stopped),
            metrics: means.metrics,
        }
    }

    pub fn has_work(&self) -> bool {
        self.replica.has_work()
            || !self.mailbox.is_empty()
            || (self.replica.has_credit() && self.inboxes.iter().any(|inbox| !inbox.is_empty()))
            || self.shards.iter().any(|shard| shard.outbox.is_behind())
    }

    /// A completion of a log write.
    pub fn completed(&mut self, completion: &Completion) {
        let (position, durable) = match completion.tag {
            Tag::Log { position } => (position as usize, true),
            Tag::LogPart { position } => (position as usize, false),
            _ => return,
        };
        let write = &self.writes[position].write;
        // A sync answers 0, a write its length.
        let expected =
            if durable && self.sync_form == SyncForm::WriteThenSync { 0 } else { write.len as i32 };
        if completion.result != expected {
            let reason = if completion.result < 0 {
                std::io::Error::from_raw_os_error(-completion.result).to_string()
            } else {
                format!("only {} of {} bytes were written", completion.result, write.len)
            };
            fatal(&format!(
                "the log could not be written: {reason}; nothing acknowledged is lost: check the disk, then start again"
            ));
        }
        if !durable {
            return;
        }
        let Flight { write, started } = self.writes.remove(position);
        self.metrics.log_write(started.elapsed(), write.len as u64);
        let event = Event::LogWritten { seq: write.seq, buffer: write.buf };
        self.replica.handle(event, &mut self.actions);
    }

    /// Takes in what waits, lets the replica go on, and carries out what it asks for.
    pub fn turn(&mut self, ring: &mut Ring, now: Millis) {
        if now != self.ticked_at {
            self.ticked_at = now;
            self.replica.handle(Event::Tick { now }, &mut self.actions);
        }
        let mut taken = std::mem::take(&mut self.taken);
        self.mailbox.take(&mut taken);
        for event in taken.drain(..) {
            if let Event::CompactionHashed(_) = event {
                self.compactions.hashed();
            }
            self.replica.handle(event, &mut self.actions);
        }
        self.taken = taken;
        for inbox in &self.inboxes {
            for _ in 0..EVENTS_PER_TURN {
                // Law 11: without credit, requests wait in the rings and in the shards behind them.
                if !self.replica.has_credit() {
                    break;
                }
                let Some(event) = inbox.pop() else { break };
                self.replica.handle(event, &mut self.actions);
            }
        }
        let applied_before = self.replica.published().applied();
        let started = self.replica.has_work().then(Instant::now);
        self.replica.turn(&mut self.actions);
        if let Some(started) = started {
            let (took, applied) = (started.elapsed(), self.replica.published().applied());
            self.share_ns = self.metrics.turned(took, applied - applied_before, self.slow_apply);
            self.compactions.turned(took, &self.metrics);
        }
        let mut actions = std::mem::take(&mut self.actions);
        for action in actions.drain(..) {
            self.carry_out(action, ring);
        }
        self.actions = actions;
        self.replica.events_sent();
        for shard in &mut self.shards {
            shard.outbox.flush();
            if shard.outbox.take_news() {
                shard.doorbell.ring();
            }
        }
    }

    fn carry_out(&mut self, action: Action, ring: &mut Ring) {
        match action {
            Action::WriteLog(mut write) => {
                let Some(file) = self.fixed.file(ring, &write.file) else {
                    fatal("the log's file has no descriptor")
                };
                let durable = DurableWrite {
                    file,
                    offset: write.offset,
                    data: write.buf.as_ptr(),
                    len: write.len as u32,
                    buffer: self.fixed.buffer(ring, &mut write.buf, write.len),
                };
                let position = self.writes.insert(Flight { write, started: Instant::now() }) as u32;
                // SAFETY: the buffer's memory does not move with its owner, which the slab keeps untouched until
                // the completion.
                unsafe { ring.write_durable(self.sync_form, position, &durable) };
            }
            Action::PrepareSegment(job) => {
                let (sender, files) = (self.sender.clone(), self.files.clone());
                self.pool.run(move || match job.run(&*files) {
                    Ok(ready) => sender.send(Event::SegmentReady(ready)),
                    Err(error) if disk::is_no_space(&error) => {
                        sender.send(Event::SegmentRefused);
                    }
                    Err(error) => fatal(&format!("a log segment could not be prepared: {error}")),
                });
            }
            Action::Checkpoint(job) => {
                let (sender, metrics) = (self.sender.clone(), self.metrics.clone());
                self.pool.run(move || {
                    let started = Instant::now();
                    match job.run() {
                        Ok(done) => {
                            metrics.checkpoints.observe_duration(started.elapsed());
                            sender.send(Event::Checkpointed(done));
                        }
                        Err(error) => fatal(&format!(
                            "a checkpoint could not be written: {error}; the log still holds everything \
                             acknowledged: check the disk, then start again"
                        )),
                    }
                });
            }
            Action::Populate(job) => self.pool.run(move || job.run()),
            Action::Grow(job) => {
                let sender = self.sender.clone();
                self.pool.run(move || match job.run() {
                    Ok(()) => {}
                    Err(error) if disk::is_no_space(&error) => sender.send(Event::GrowthRefused),
                    Err(error) => fatal(&format!("the data file could not grow: {error}")),
                });
            }
            Action::DiskFailed { what } => fatal(&what),
            Action::Scrub(job) => {
                let sender = self.sender.clone();
                self.pool.run(move || sender.send(Event::Scrubbed(job.run())));
            }
            Action::DropCold(job) => {
                let sender = self.sender.clone();
                self.pool.run(move || match job.run() {
                    Ok(done) => sender.send(Event::ColdDropped(done)),
                    Err(error) => fatal(&format!("cold pages could not be given back: {error}")),
                });
            }
            Action::HashCompaction(job) => {
                let sender = self.sender.clone();
                self.pool.run(move || sender.send(Event::CompactionHashed(job.run())));
            }
            Action::Outcome(outcome) => {
                self.metrics.outcome(&outcome, self.share_ns);
                let shard = usize::from(outcome.token.shard);
                self.shards[shard].outbox.push(ToShard::Outcome(outcome));
            }
            Action::Events(batch) => {
                for WayToShard { outbox, .. } in &mut self.shards {
                    // Law 11: a batch that does not fit is not waited for; the shard sees the gap and catches up.
                    if outbox.has_room(base::limits::PROPOSALS_IN_FLIGHT) {
                        outbox.push(ToShard::Events(batch.clone()));
                    }
                }
            }
            Action::Ready => {
                if let Some(ready) = self.on_ready.take() {
                    ready();
                }
            }
            Action::Stopped => {
                if let Some(stopped) = self.on_stopped.take() {
                    stopped();
                }
            }
            Action::Note(note) => {
                self.metrics.note(&note, self.share_ns);
                self.compactions.note(&note, &self.metrics);
                log_note(&note);
            }
        }
    }
}

fn log_note(note: &Note) {
    match note {
        Note::BecameLeader { term } => tracing::info!(term, "became leader"),
        Note::CompactionScheduled { revision } => {
            tracing::info!(compact_revision = revision, "scheduled compaction");
        }
        Note::CompactionFinished { revision } => {
            tracing::info!(compact_revision = revision, "finished scheduled compaction");
        }
        Note::CheckpointStarted { dirty_bytes } => tracing::debug!(dirty_bytes, "started checkpoint"),
        Note::ScrubFinished { pages } => tracing::info!(pages, "read back all pages of the last checkpoint"),
        Note::CheckpointFinished { index } => tracing::info!(applied_index = index, "finished checkpoint"),
        Note::AlarmRaised { alarm, member } => {
            tracing::warn!(alarm, member = format!("{member:x}"), "alarm raised");
        }
        Note::AlarmDisarmed { alarm, member } => {
            tracing::warn!(alarm, member = format!("{member:x}"), "alarm disarmed");
        }
        Note::ClusterVersion { version } => tracing::info!(cluster_version = version, "set cluster version"),
        Note::LeaseExpired { id } => tracing::debug!(lease = format!("{id:x}"), "lease expired"),
        // A count, no line.
        Note::AppliedUnasked { .. } => {}
        Note::NoRoomOnDisk { wanted_bytes } => {
            tracing::warn!(wanted_bytes, "no room left on the disk of the data directory")
        }
        Note::ReplayWaitsForRoom { index, wanted_bytes } => {
            tracing::warn!(
                index,
                wanted_bytes,
                "no room on the disk to apply the log again: waiting for old pages"
            )
        }
    }
}

/// Ends the process: the log line first, then the exit (law 8).
pub fn fatal(message: &str) -> ! {
    crate::log::emit(crate::log::Level::Fatal, message, &[]);
    crate::log::flush(std::time::Duration::from_secs(1));
    std::process::exit(1);
}
