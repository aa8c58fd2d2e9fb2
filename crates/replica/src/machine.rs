//! The replica: raft, log and store driven by one closed enum of events, asking for one closed enum of actions.
//!
//! Invariants: apply never passes what is committed and durable here (law 2); a root is published before the
//! outcomes of its batch leave (law 1); nothing here reads a clock, calls the system or draws randomness (the raft
//! crate draws election timeouts, which a single voter never uses).
//! Must not know: sockets, HTTP, gRPC, which shard asks.

use std::sync::Arc;

use base::limits::{RAFT_LOG_BYTES, RAFT_LOG_ENTRIES};
use base::{CallToken, Index, Millis, Term};
use proto::errors;
use proto::etcdserverpb as pb;
use raft::eraftpb::{Entry, EntryType};
use raft::{RawNode, StateRole};

use crate::admission::{ENTRY_BUFFER_BYTES, Shortage};
use crate::autocompact::Compactor;
use crate::barriers::Barriers;
use crate::checkpoint::{Checkpoints, Standing};
use crate::event::{Action, Event, Note, Proposal, Request, Response};
use crate::memory::Memory;
use crate::published::Published;
use crate::replay::{Again, Replay};
use crate::scrub::Scrub;
use crate::state::{State, version_word};
use crate::storage::Log;
use crate::waiting::Waiting;

/// An idle log says on disk that its last batch is durable, after this: not between two writes of one client.
const AFFIRM_AFTER_MS: Millis = 50;

pub struct Replica {
    pub(crate) raft: RawNode<Log>,
    pub(crate) wal: wal::Wal,
    pub(crate) state: State,
    published: Arc<Published>,
    pub(crate) options: Options,
    /// Proposals of this member that are not yet applied.
    pub(crate) waiting: Waiting,
    pub(crate) next_id: u64,
    pub(crate) replay: Replay,
    /// Where the next entries are encoded.
    pub(crate) entry_bytes: bytes::BytesMut,
    barriers: Barriers,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) shortage: Shortage,
    /// Alarms proposed and not yet applied.
    pub(crate) alarms_in_flight: Vec<i32>,
    /// Writes that went over quota: answered when the alarm that they caused is up.
    over_quota: Vec<CallToken>,
    compactor: Compactor,
    /// History that was to be removed is still read: it is looked at again then.
    pub(crate) removal_retry_at: Millis,
    /// Commit advances that alone are not worth a write: they ride with the next entries.
    hard_state_due: bool,
    /// Of one log segment, and where the log stands in the one in use, bytes.
    pub(crate) segment_bytes: u64,
    pub(crate) log_end: u64,
    log_busy_at: Millis,
    pub(crate) now: Millis,
    memory: Memory,
    pub(crate) scrub: Scrub,
    raft_tick_at: Millis,
    /// The only voter is this member: nobody else can win, so there is no reason to wait for an election timeout.
    pub(crate) alone: bool,
    announced: Announced,
    pub(crate) stopping: bool,
    stopped: bool,
    /// Used again from turn to turn.
    passed: Vec<CallToken>,
}

pub struct Options {
    pub member: crate::cluster::Member,
    pub heartbeat_ms: Millis,
    pub election_ms: Millis,
    pub auto_compaction: crate::autocompact::AutoCompaction,
    pub checkpoint: crate::checkpoint::Policy,
    pub scrub: crate::scrub::Policy,
    /// Private memory that the store may keep, bytes; what is durable and cold beyond it is given back.
    pub memory_budget_bytes: u64,
    /// What this member would set the cluster version to, `major.minor.0`.
    pub cluster_version: String,
}

/// How far this start has come in telling the cluster this member's name and URLs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Announced {
    NotYet,
    Proposed(Term, Index),
    Applied,
    /// And the server was told.
    Ready,
}

/// What start-up hands over.
pub(crate) struct Parts {
    pub raft: RawNode<Log>,
    pub wal: wal::Wal,
    pub segment_bytes: u64,
    pub state: State,
    pub published: Arc<Published>,
    pub options: Options,
    pub first_id: u64,
    /// The last entry that was in the log already.
    pub inherited: Index,
}

impl Replica {
    pub(crate) fn assemble(parts: Parts) -> Replica {
        let Parts { raft, wal, segment_bytes, state, published, options, first_id, inherited } = parts;
        let mut replica = Replica {
            raft,
            wal,
            state,
            published,
            waiting: Waiting::default(),
            next_id: first_id,
            replay: Replay::new(inherited),
            entry_bytes: bytes::BytesMut::with_capacity(ENTRY_BUFFER_BYTES),
            barriers: Barriers::default(),
            checkpoints: Checkpoints::new(options.checkpoint),
            shortage: Shortage::default(),
            alarms_in_flight: Vec::new(),
            over_quota: Vec::new(),
            compactor: Compactor::new(options.auto_compaction),
            removal_retry_at: 0,
            hard_state_due: false,
            segment_bytes,
            // A start writes into a fresh segment; whatever stands in it is behind its header.
            log_end: disk::BLOCK as u64,
            log_busy_at: 0,
            now: 0,
            memory: Memory::new(options.memory_budget_bytes),
            scrub: Scrub::new(options.scrub),
            options,
            raft_tick_at: 0,
            alone: false,
            announced: Announced::NotYet,
            stopping: false,
            stopped: false,
            passed: Vec::new(),
        };
        replica.note_voters();
        replica.publish_status();
        replica
    }

    pub fn published(&self) -> &Arc<Published> {
        &self.published
    }

    pub fn readers(&self) -> Arc<tree::Readers> {
        self.state.store.readers()
    }

    /// The store and its writer's books, for those who check what it is at rest.
    pub fn store(&self) -> &tree::Store {
        &self.state.store
    }

    /// The log, for the same.
    pub fn log(&self) -> &wal::Wal {
        &self.wal
    }

    /// All shards run on the thread of this replica, between its turns.
    pub fn share_thread(&mut self) {
        self.state.store.share_thread();
    }

    /// True while something was gathered that [`Replica::turn`] would carry on without another event.
    pub fn has_work(&self) -> bool {
        self.raft.has_ready()
            || self.barriers.has_arrivals()
            || self.has_background_work()
            || self.has_replay_work()
    }

    /// Takes one event in. What follows from it happens in the next [`Replica::turn`].
    pub fn handle(&mut self, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Propose(proposal) => self.propose(proposal, actions),
            Event::Barrier { token } if self.stopped => {
                actions.push(Action::outcome(token, Err(errors::STOPPED)));
            }
            Event::Barrier { token } => self.barriers.arrive(token),
            Event::LeaseRenew { token, id } => {
                // A lone voter will lead as soon as it has applied its log.
                let leads = self.is_leader() || self.alone;
                self.state.lease_renew(token, id, leads, self.now, actions);
            }
            Event::LeaseTimeToLive { token, id, keys } => {
                let result = self.state.lease_time_to_live(id, keys, self.now);
                actions.push(Action::outcome(token, result));
            }
            Event::LeaseList { token } => {
                actions.push(Action::outcome(token, Ok(Response::LeaseList(self.state.lease_list()))));
            }
            Event::Defragment { token } => self.state.defragment(token, self.now),
            Event::MoveLeader { token, target } => {
                let result = if !self.is_leader() {
                    Err(errors::NOT_LEADER)
                } else if target == self.options.member.id {
                    Ok(Response::LeaderMoved)
                } else {
                    Err(errors::BAD_LEADER_TRANSFEREE)
                };
                actions.push(Action::outcome(token, result));
            }
            Event::OverQuota { token } => self.note_refusal(&errors::NO_SPACE, Some(token), actions),
            Event::LogWritten { seq, buffer } => {
                let segments = self.wal.segments();
                if let Some(durable) = self.wal.written(seq, buffer) {
                    self.raft.on_persist_ready(durable.ready);
                }
                if self.wal.segments() < segments {
                    self.segments_released();
                }
            }
            Event::SegmentReady(ready) => {
                self.wal.segment_ready(ready);
                self.segment_made();
            }
            Event::SegmentRefused => self.segment_refused(),
            Event::GrowthRefused => self.growth_refused(),
            Event::Checkpointed(done) => self.checkpointed(done, actions),
            Event::Scrubbed(done) => self.scrubbed(done, actions),
            Event::CompactionHashed(hash) => self.state.compaction_hashed(hash),
            Event::Resident { bytes } => {
                let excess = self.memory.excess_at_look(self.state.store.private_bytes(), self.now);
                if !self.drop_cold(excess, actions) && !self.replay.waits() {
                    let mapped = self.state.store.drop_mapped(self.memory.excess(bytes, self.now));
                    actions.extend(mapped.map(Action::DropCold));
                }
            }
            Event::ColdDropped(done) => {
                self.state.store.drop_done(done);
                self.drop_excess(actions);
            }
            Event::Tick { now } => self.tick(now, actions),
            Event::Stop => self.stopping = true,
        }
    }

    /// Carries everything gathered as far as it goes: raft, log, apply, publish; then bounded background work.
    pub fn turn(&mut self, actions: &mut Vec<Action>) {
        if self.barriers.has_arrivals() && !self.published.read_ready() {
            let context = self.barriers.begin(self.now);
            self.raft.read_index(context);
        }
        let applied_before = self.state.applied();
        self.process(actions);
        if self.alone && !self.is_leader() && self.state.applied() == self.raft.raft.raft_log.committed {
            // Now that no change of the configuration is left to apply: raft refuses to campaign before.
            self.raft.campaign().unwrap_or_else(|error| panic!("a lone voter may campaign: {error}"));
            assert!(self.is_leader(), "a lone voter wins");
            self.process(actions);
        }
        self.background_step(actions);
        self.publish(applied_before, actions);
        self.submit_log(actions);
        self.pass_barriers(actions);
        self.start_checkpoint(actions);
        self.prepare_room(actions);
        if self.stopping {
            self.stop(actions);
        }
    }

    /// The caller has put the events of this turn where the shards look for them.
    pub fn events_sent(&mut self) {
        self.published.set_event_revision(self.state.revision() as u64);
    }

    pub(crate) fn is_leader(&self) -> bool {
        self.raft.raft.state == StateRole::Leader
    }

    fn process(&mut self, actions: &mut Vec<Action>) {
        self.apply_committed(actions);
        while self.raft.has_ready() {
            self.process_ready(actions);
        }
    }

    fn process_ready(&mut self, actions: &mut Vec<Action>) {
        let mut ready = self.raft.ready();
        let number = ready.number();
        assert!(ready.snapshot().is_empty(), "a lone voter is never sent a snapshot");
        if let Some(hard_state) = ready.hs() {
            self.raft.mut_store().set_hard_state(hard_state.clone());
            self.hard_state_due = true;
        }
        if ready.ss().is_some_and(|state| state.raft_state != StateRole::Leader) {
            self.lost_leadership(actions);
        }
        let entries = ready.take_entries();
        if let Some(first) = entries.first() {
            self.replay.written_from(first.index);
        }
        for entry in &entries {
            self.wal.append(wal::Record::Entry {
                term: entry.term,
                index: entry.index,
                kind: entry_kind(entry.get_entry_type()),
                data: &entry.data,
            });
        }
        if self.hard_state_due && ready.must_sync() {
            self.hard_state_due = false;
            let hs = self.raft.raft.hard_state();
            let hard_state = wal::HardState { term: hs.term, vote: hs.vote, commit: hs.commit };
            self.wal.append(wal::Record::HardState(hard_state));
        }
        self.raft.mut_store().append(entries);
        self.wal.mark_ready(number);
        let committed = ready.take_committed_entries();
        for state in ready.take_read_states() {
            self.barriers.confirm(&state.request_ctx, state.index);
        }
        self.raft.advance_append_async(ready);
        if self.wal.durable().ready >= number || base::bug!(CommitBeforeSync) {
            // Nothing had to be written for it.
            self.raft.on_persist_ready(number);
        }
        self.replay.entries.extend(committed);
        self.apply_committed(actions);
    }

    pub(crate) fn apply(&mut self, entry: Entry, again: Option<Again>, actions: &mut Vec<Action>) {
        self.memory.applied(self.now);
        assert_eq!(entry.index, self.state.applied() + 1, "entries are applied in order, each once");
        assert!(entry.index <= self.raft.raft.raft_log.committed, "only what is committed is applied");
        assert!(entry.index <= self.wal.durable().index, "only what is durable here is applied");
        match entry.get_entry_type() {
            EntryType::EntryNormal if entry.data.is_empty() => {
                if self.is_leader() && entry.term == self.raft.raft.term {
                    self.became_leader(entry.term, actions);
                }
            }
            EntryType::EntryNormal => self.apply_request(&entry, again, actions),
            EntryType::EntryConfChange => {
                let change = self.state.apply_conf_change(&entry.data);
                match self.raft.apply_conf_change(&change) {
                    Ok(conf_state) => {
                        self.state.save_conf_state(&conf_state);
                        self.raft.mut_store().set_conf_state(conf_state);
                    }
                    Err(error) => panic!("a committed configuration change cannot be refused: {error}"),
                }
                self.note_voters();
            }
            EntryType::EntryConfChangeV2 => panic!("nobody proposes joint changes to a lone voter"),
        }
        self.state.set_applied(entry.index, entry.term);
        self.raft.advance_apply_to(entry.index);
    }

    fn note_voters(&mut self) {
        let voters = self.raft.raft.prs().conf().voters().ids();
        self.alone = voters.len() == 1 && voters.contains(self.options.member.id);
    }

    fn apply_request(&mut self, entry: &Entry, again: Option<Again>, actions: &mut Vec<Action>) {
        let mut lost = Vec::new();
        let proposed = self.waiting.take(entry.term, entry.index, &mut lost);
        for proposed in lost {
            proposed.hold.into_iter().for_each(|hold| self.state.store.give_back(hold));
            let outcome = |token| Action::outcome(token, Err(errors::TIMEOUT_DUE_TO_LEADER_FAIL));
            actions.extend(proposed.token.map(outcome));
        }
        self.state.work.collect = self.published.watchers() > 0;
        self.state.work.answers = proposed.as_ref().is_some_and(|proposed| proposed.token.is_some());
        let Some(mut proposed) = proposed else {
            // Another member's, or one of an earlier life, or the replica's own.
            let again = again.unwrap_or_else(|| Again { request: decode(entry), hold: None });
            let request = again.request;
            let result = self.apply_held(&request, again.hold, actions);
            note_unasked(&request, &result, actions);
            // An earlier life raised the alarm where it had to, and somebody may have lowered it since. What the store
            // measures while it is applied again says nothing about that.
            if let Err(error) = result
                && !self.replay.covers(entry.index)
            {
                self.note_refusal(&error, None, actions);
            }
            self.applied_own(&request, entry, actions);
            return;
        };
        debug_assert_eq!(
            Request::decode(&entry.data).map(|decoded| decoded.1),
            Ok(proposed.request.clone()),
            "what is applied is what was logged"
        );
        assert!(again.is_none(), "nobody of this life proposed an entry of an earlier one");
        let hold = proposed.hold.take();
        let result = self.apply_held(&proposed.request, hold, actions);
        if proposed.token.is_none() {
            note_unasked(&proposed.request, &result, actions);
        }
        self.applied_own(&proposed.request, entry, actions);
        let refused = result.as_ref().err();
        if let Some(error) = refused.filter(|error| **error == errors::NO_SPACE) {
            return self.note_refusal(error, proposed.token, actions);
        }
        let Some(token) = proposed.token else { return };
        match proposed.request {
            Request::Compaction(compaction)
                if compaction.physical && refused.is_none_or(|error| *error == errors::COMPACTED) =>
            {
                self.state.compaction_answer(token, compaction.revision, result, actions);
            }
            _ => actions.push(Action::outcome(token, result)),
        }
    }

    fn apply_held(
        &mut self,
        request: &Request,
        hold: Option<tree::Hold>,
        actions: &mut Vec<Action>,
    ) -> Result<Response, proto::Error> {
        hold.into_iter().for_each(|hold| self.state.store.open_hold(hold));
        let result = self.state.apply(request, self.now, actions);
        self.state.store.close_hold();
        result
    }

    /// A write that went over quota raises the alarm, on every member; its answer comes when the alarm is up.
    fn note_refusal(&mut self, error: &proto::Error, token: Option<CallToken>, actions: &mut Vec<Action>) {
        let no_space = *error == errors::NO_SPACE;
        let coming =
            no_space && !self.state.has_alarm(pb::AlarmType::Nospace) && self.raise(pb::AlarmType::Nospace);
        match token {
            Some(token) if coming => self.over_quota.push(token),
            Some(token) => actions.push(Action::outcome(token, Err(error.clone()))),
            None => {}
        }
    }

    /// What follows from requests that concern the replica itself.
    fn applied_own(&mut self, request: &Request, entry: &Entry, actions: &mut Vec<Action>) {
        match request {
            Request::Alarm(alarm) => {
                self.alarms_in_flight.retain(|kind| *kind != alarm.alarm);
                if self.state.has_alarm(pb::AlarmType::Nospace) {
                    for token in self.over_quota.drain(..) {
                        actions.push(Action::outcome(token, Err(errors::NO_SPACE)));
                    }
                }
            }
            Request::Other(_) if self.announced == Announced::Proposed(entry.term, entry.index) => {
                self.announced = Announced::Applied;
            }
            _ => {}
        }
    }

    fn became_leader(&mut self, term: Term, actions: &mut Vec<Action>) {
        actions.push(Action::Note(Note::BecameLeader { term }));
        if !base::bug!(LeaseNotPromoted) {
            self.state.promote_leases(self.now, self.options.election_ms, actions);
        }
        if matches!(self.announced, Announced::NotYet | Announced::Proposed(..)) {
            let member = self.options.member.clone();
            let request = Request::from(pb::InternalRaftRequest {
                cluster_member_attr_set: Some(proto::membershippb::ClusterMemberAttrSetRequest {
                    member_id: member.id,
                    member_attributes: Some(proto::membershippb::Attributes {
                        name: member.name,
                        client_urls: member.client_urls,
                    }),
                }),
                ..Default::default()
            });
            if let Some((term, index)) = self.propose_own(&request) {
                self.announced = Announced::Proposed(term, index);
            }
        }
        let ver = self.options.cluster_version.clone();
        if self.state.cluster_version_word() < version_word(&ver) {
            self.propose_own(&Request::from(pb::InternalRaftRequest {
                cluster_version_set: Some(proto::membershippb::ClusterVersionSetRequest { ver }),
                ..Default::default()
            }));
        }
    }

    fn lost_leadership(&mut self, actions: &mut Vec<Action>) {
        if self.state.lessor.is_primary() {
            self.state.demote_leases(actions);
        }
        self.alarms_in_flight.clear();
        for token in self.over_quota.drain(..) {
            actions.push(Action::outcome(token, Err(errors::NO_SPACE)));
        }
    }

    /// Publishes the batch, then lets its events and outcomes go.
    fn publish(&mut self, applied_before: Index, actions: &mut Vec<Action>) {
        if self.state.publish(actions) {
            let keep = if self.alone { 0 } else { RAFT_LOG_ENTRIES };
            self.raft.mut_store().trim(self.state.applied(), keep, RAFT_LOG_BYTES);
        }
        assert!(self.state.applied() >= applied_before, "the applied index never falls");
        self.publish_status();
        let known = self.announced == Announced::Applied
            && self.published.read_ready()
            && self.state.cluster_version_word() != 0;
        if known || (base::bug!(ReadBeforeReplay) && self.announced != Announced::Ready) {
            self.announced = Announced::Ready;
            actions.push(Action::Ready);
        }
    }

    fn publish_status(&mut self) {
        let raft = &self.raft.raft;
        self.published.set_leader(raft.leader_id);
        self.published.set_term(raft.term);
        self.published.set_committed(raft.raft_log.committed);
        self.published.set_applied(self.state.applied());
        self.published.set_used_bytes(self.state.store.used_bytes());
        self.published.set_file_bytes(self.state.store.file_bytes());
        self.published.set_alarms(self.state.alarm_mask());
        self.published.set_cluster_version(self.state.cluster_version_word());
        let leads = raft.state == StateRole::Leader;
        let own_term = self.state.applied_term() == raft.term || base::bug!(ReadBeforeReplay);
        self.published.set_read_ready(self.alone && leads && own_term);
    }

    fn submit_log(&mut self, actions: &mut Vec<Action>) {
        while let Some(write) = self.wal.submit() {
            self.log_end = write.offset + write.len as u64;
            assert!(self.log_end <= self.segment_bytes, "a write lies within its segment");
            actions.push(Action::WriteLog(write));
        }
        if self.wal.in_flight() > 0 || self.wal.unsubmitted_bytes() > 0 {
            self.log_busy_at = self.now;
        }
    }

    fn pass_barriers(&mut self, actions: &mut Vec<Action>) {
        if self.published.read_ready() {
            // The root just published is the barrier for everybody who waits.
            self.barriers.pass_all(&mut self.passed);
        } else {
            self.barriers.pass(self.state.applied(), &mut self.passed);
        }
        actions.extend(self.passed.drain(..).map(|token| Action::outcome(token, Ok(Response::Barrier))));
    }

    fn tick(&mut self, now: Millis, actions: &mut Vec<Action>) {
        assert!(now >= self.now, "time does not run backwards");
        self.now = now;
        if self.raft_tick_at == 0 {
            self.raft_tick_at = now;
        }
        let mut late_ticks = 0;
        while self.raft_tick_at <= now {
            self.raft_tick_at += self.options.heartbeat_ms;
            late_ticks += 1;
            // A paused process must not take its own pause for a dead leader; and a lone voter campaigns when what it knew
            // to be committed is applied, whatever time that takes.
            if late_ticks <= 2 && (self.is_leader() || !self.alone) {
                self.raft.tick();
            }
        }
        self.barriers.retry(now);
        self.state.defragment_tick(now, actions);
        if now >= self.log_busy_at + AFFIRM_AFTER_MS
            && self.wal.unsubmitted_bytes() == 0
            && self.wal.in_flight() == 0
        {
            // Idle: damage to the last batch is never taken for a torn write any more.
            self.wal.affirm();
        }
        if self.stopping {
            return;
        }
        self.scrub_some(actions);
        if !self.is_leader() || self.replay.waits() {
            return;
        }
        for id in self.state.expired_leases(now) {
            self.revoke_expired(id, actions);
        }
        if let Some(revision) = self.compactor.tick(now, self.state.revision()) {
            let request = Request::Compaction(pb::CompactionRequest { revision, physical: false });
            self.propose(Proposal { token: None, request }, actions);
        }
    }

    fn start_checkpoint(&mut self, actions: &mut Vec<Action>) {
        let store = &self.state.store;
        let last = self.stopping && self.waiting.is_empty();
        let defragmenting = !self.stopping && self.state.defragment_wants_checkpoint();
        // One for a defragmentation takes the device for itself only where nobody else wants it.
        let hurry = self.stopping || (defragmenting && self.memory.idle(self.now));
        store.set_checkpoint_bandwidth(self.checkpoints.bandwidth(store, &self.wal, hurry));
        let standing = Standing {
            now: self.now,
            store,
            log: &self.wal,
            wanted: self.state.compaction_wants_checkpoint(),
            memory_wanted: self.memory.idle(self.now)
                && self.memory.excess(store.dirty_bytes(), self.now) > 0,
            log_full: self.shortage.segment,
            releases: self.wal.released() < mvcc::stamp::applied(store.durable_stamp()).0,
            defragmenting,
            stopping: last && !self.stopped,
        };
        if !self.checkpoints.due(&standing) {
            return;
        }
        assert!(
            self.state.applied() <= self.wal.durable().index,
            "a checkpoint never passes the log (law 2)"
        );
        let dirty_bytes = store.dirty_bytes();
        let job = self.state.store.cut().expect("none is running");
        actions.push(Action::Note(Note::CheckpointStarted { dirty_bytes }));
        self.checkpoints.started(self.now, job.bytes());
        self.replay.checkpoint_cut();
        if base::bug!(CheckpointRecordedEarly) {
            let (index, term) = mvcc::stamp::applied(job.stamp());
            self.wal.append(wal::Record::Checkpoint { index, term, sequence: job.sequence() });
        }
        actions.push(Action::Checkpoint(job));
    }

    fn checkpointed(&mut self, done: tree::CheckpointDone, actions: &mut Vec<Action>) {
        let (both, _) = mvcc::stamp::applied(self.state.store.durable_stamp());
        let sequence = done.sequence;
        self.say_what_is_owed();
        let stamp = match self.state.store.checkpoint_done(done) {
            Ok(stamp) => stamp,
            Err(error) => {
                let what = format!("the data file could not be made shorter: {error}");
                return actions.push(Action::DiskFailed { what });
            }
        };
        let (index, term) = mvcc::stamp::applied(&stamp);
        assert!(both <= index, "a checkpoint never goes back");
        self.checkpoints.finished();
        // Work that found no room may have some now.
        self.shortage.background_retry_at = self.now;
        // Law 6: the log says that the checkpoint completed before segments are given back; and only up to the one
        // before, which is the older meta now, so that either meta is a start.
        let segments = self.wal.segments();
        self.wal.append(wal::Record::Checkpoint { index, term, sequence });
        self.wal.release_to(both);
        if self.wal.segments() < segments {
            self.segments_released();
        }
        actions.push(Action::Note(Note::CheckpointFinished { index }));
        self.state.settle_physical(actions);
        self.state.defragment_checkpointed(actions);
        // A drop would keep the tail from being let go: the next look at memory makes it.
        if !self.state.defragment_wants_checkpoint() {
            self.drop_excess(actions);
        }
    }

    /// The file does not get shorter, and no free page is withheld, at the cost of proposals on their way.
    fn say_what_is_owed(&mut self) {
        let owed = self.waiting.total();
        self.state.store.owes(owed.room_bytes);
    }

    fn drop_excess(&mut self, actions: &mut Vec<Action>) {
        let excess = self.memory.excess(self.state.store.private_bytes(), self.now);
        self.drop_cold(excess, actions);
    }

    /// Gives about so much private memory back, a bounded job at a time. False when there was nothing to give.
    fn drop_cold(&mut self, bytes: u64, actions: &mut Vec<Action>) -> bool {
        // A drop keeps pages from coming free for as long as it runs.
        if self.replay.waits() {
            return false;
        }
        self.say_what_is_owed();
        let job = self.state.store.drop_cold(bytes, self.memory.idle(self.now));
        let dropped = job.is_some();
        actions.extend(job.map(Action::DropCold));
        dropped
    }

    /// Ends when the last proposals are applied and in a checkpoint, and the log says so. Whoever waits for something
    /// else is told.
    fn stop(&mut self, actions: &mut Vec<Action>) {
        let log_idle = self.wal.in_flight() == 0 && self.wal.unsubmitted_bytes() == 0;
        if self.stopped || !self.waiting.is_empty() || self.checkpoints.running() || !log_idle {
            return;
        }
        self.stopped = true;
        self.barriers.pass_all(&mut self.passed);
        let tokens = self.passed.drain(..).chain(self.over_quota.drain(..));
        actions.extend(tokens.map(|token| Action::outcome(token, Err(errors::STOPPED))));
        for token in self.state.drain_renewals() {
            actions.push(Action::outcome(token, Err(errors::STOPPED)));
        }
        for token in self.state.drain_defragments() {
            actions.push(Action::outcome(token, Err(errors::STOPPED)));
        }
        for token in self.state.drain_physical() {
            actions.push(Action::outcome(token, Err(errors::STOPPED)));
        }
        actions.push(Action::Stopped);
    }
}

fn note_unasked(request: &Request, result: &Result<Response, proto::Error>, actions: &mut Vec<Action>) {
    actions.push(Action::Note(Note::AppliedUnasked { kind: request.kind(), refused: result.is_err() }));
}

/// What is committed was encoded by a member, and its checksum was seen to.
pub(crate) fn decode(entry: &Entry) -> Request {
    match Request::decode(&entry.data) {
        Ok((_, request)) => request,
        Err(error) => panic!("a committed entry does not decode: {error}"),
    }
}

fn entry_kind(kind: EntryType) -> u8 {
    match kind {
        EntryType::EntryNormal => 0,
        EntryType::EntryConfChange => 1,
        EntryType::EntryConfChangeV2 => 2,
    }
}
