//! The replica: raft, log and store driven by one closed enum of events, asking for one closed enum of actions.
//!
//! Invariants: apply never passes what is committed and durable here (law 2); a root is published before the
//! outcomes of its batch leave (law 1); nothing here reads a clock, calls the system or draws randomness (the raft
//! crate draws election timeouts, which a single voter never uses).
//! Must not know: sockets, HTTP, gRPC, which shard asks.

use std::collections::HashMap;
use std::sync::Arc;

use base::limits::{PROPOSALS_IN_FLIGHT, RAFT_LOG_BYTES, RAFT_LOG_ENTRIES};
use base::{CallToken, Index, Millis, Term};
use bytes::Bytes;
use prost::Message;
use proto::errors::{self, Error};
use proto::etcdserverpb as pb;
use raft::eraftpb::{Entry, EntryType};
use raft::{RawNode, StateRole};

use crate::autocompact::Compactor;
use crate::checkpoint::Checkpoints;
use crate::event::{Action, Event, Note, Outcome, Proposal, Response};
use crate::published::Published;
use crate::state::State;
use crate::storage::Log;

/// A full disk is asked for another log segment this often.
const SEGMENT_RETRY_MS: Millis = 1000;

pub struct Replica {
    raft: RawNode<Log>,
    wal: wal::Wal,
    pub(crate) state: State,
    published: Arc<Published>,
    options: Options,
    /// Proposals of this member that are not yet applied, by the id in their header.
    waiting: HashMap<u64, Waiting>,
    /// What they may need on disk, bytes: reserved.
    waiting_room_bytes: u64,
    next_id: u64,
    barriers: Barriers,
    checkpoints: Checkpoints,
    compactor: Compactor,
    /// Commit advances that alone are not worth a write: they ride with the next entries.
    hard_state_due: bool,
    segment_retry_at: Millis,
    now: Millis,
    raft_tick_at: Millis,
    announced: bool,
    stopping: bool,
}

pub struct Options {
    pub member: crate::cluster::Member,
    pub heartbeat_ms: Millis,
    pub election_ms: Millis,
    pub auto_compaction: crate::autocompact::AutoCompaction,
    pub checkpoint: crate::checkpoint::Policy,
    /// Private memory that the store may keep, bytes; what is durable and cold beyond it is given back.
    pub memory_budget_bytes: u64,
    /// What this member would set the cluster version to, `major.minor.0`.
    pub cluster_version: String,
}

/// A proposal under way: who waits for it, and what was reserved for it.
struct Waiting {
    token: Option<CallToken>,
    room_bytes: u64,
}

/// Reads that wait for a ReadIndex round, by the context of their round.
#[derive(Default)]
struct Barriers {
    arrived: Vec<CallToken>,
    rounds: Vec<(u64, Vec<CallToken>)>,
    /// (index that must be applied, who waits).
    confirmed: Vec<(Index, Vec<CallToken>)>,
    next_round: u64,
}

impl Replica {
    pub(crate) fn assemble(
        raft: RawNode<Log>,
        wal: wal::Wal,
        state: State,
        published: Arc<Published>,
        options: Options,
        boot: u64,
    ) -> Replica {
        let compactor = Compactor::new(options.auto_compaction);
        let checkpoints = Checkpoints::new(options.checkpoint);
        // Ids must differ from those of earlier lives, whose entries may still be replayed.
        let next_id = (options.member.id & 0xffff) << 48 | (boot & 0xffff_ff) << 24 | 1;
        let mut replica = Replica {
            raft,
            wal,
            state,
            published,
            options,
            waiting: HashMap::new(),
            waiting_room_bytes: 0,
            next_id,
            barriers: Barriers::default(),
            checkpoints,
            compactor,
            hard_state_due: false,
            segment_retry_at: 0,
            now: 0,
            raft_tick_at: 0,
            announced: false,
            stopping: false,
        };
        replica.publish_status();
        replica
    }

    pub fn published(&self) -> &Arc<Published> {
        &self.published
    }

    pub fn readers(&self) -> Arc<tree::Readers> {
        self.state.store.readers()
    }

    /// True while something was gathered that [`Replica::turn`] would carry on without another event.
    pub fn has_work(&self) -> bool {
        self.raft.has_ready() || !self.barriers.arrived.is_empty() || self.state.has_background_work()
    }

    /// Takes one event in. What follows from it happens in the next [`Replica::turn`].
    pub fn handle(&mut self, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Propose(proposal) => self.propose(proposal, actions),
            Event::Barrier { token } => self.barriers.arrived.push(token),
            Event::LeaseRenew { token, id } => {
                if let Some(result) = self.state.lease_renew(token, id, self.now) {
                    actions.push(Action::Outcome(Outcome { token, result }));
                }
            }
            Event::LeaseTimeToLive { token, id, keys } => {
                let result = self.state.lease_time_to_live(id, keys, self.now);
                actions.push(Action::Outcome(Outcome { token, result }));
            }
            Event::LeaseList { token } => {
                let result = Ok(Response::LeaseList(self.state.lease_list()));
                actions.push(Action::Outcome(Outcome { token, result }));
            }
            Event::Defragment { token } => self.state.defragment(token),
            Event::MoveLeader { token, target } => {
                let result = if !self.is_leader() {
                    Err(errors::NOT_LEADER)
                } else if target == self.options.member.id {
                    Ok(Response::LeaderMoved)
                } else {
                    Err(errors::BAD_LEADER_TRANSFEREE)
                };
                actions.push(Action::Outcome(Outcome { token, result }));
            }
            Event::OverQuota => self.raise(pb::AlarmType::Nospace),
            Event::LogWritten { seq, buffer } => {
                if let Some(durable) = self.wal.written(seq, buffer) {
                    self.raft.on_persist_ready(durable.ready);
                }
            }
            Event::SegmentReady(ready) => self.wal.segment_ready(ready),
            Event::Checkpointed(done) => self.checkpointed(done, actions),
            Event::CompactionHashed(hash) => self.state.compaction_hashed(hash),
            Event::Resident { bytes } => {
                let excess = bytes.saturating_sub(self.options.memory_budget_bytes);
                if let Some(job) = self.state.store.drop_mapped(excess) {
                    actions.push(Action::DropCold(job));
                }
            }
            Event::ColdDropped(done) => {
                self.state.store.drop_done(done);
                self.drop_cold(actions);
            }
            Event::SegmentRefused => {
                self.wal.segment_failed();
                self.segment_retry_at = self.now + SEGMENT_RETRY_MS;
                self.raise(pb::AlarmType::Nospace);
            }
            Event::Tick { now } => self.tick(now, actions),
            Event::Stop => self.stopping = true,
        }
    }

    /// Carries everything gathered as far as it goes: raft, log, apply, publish; then bounded background work.
    pub fn turn(&mut self, actions: &mut Vec<Action>) {
        self.start_barrier_round();
        let applied_before = self.state.applied();
        while self.raft.has_ready() {
            self.process_ready(actions);
        }
        self.state.background_step(actions);
        self.publish(applied_before, actions);
        self.submit_log(actions);
        self.pass_barriers(actions);
        if self.checkpoints.due(self.now, &self.state.store, &self.wal, self.stopping)
            && let Some(job) = self.state.store.cut()
        {
            actions
                .push(Action::Note(Note::CheckpointStarted { dirty_bytes: self.state.store.dirty_bytes() }));
            self.checkpoints.started(self.now);
            actions.push(Action::Checkpoint(job));
        }
        if let Some(job) = self.state.store.populate_job() {
            actions.push(Action::Populate(job));
        }
        if self.stopping && self.waiting.is_empty() && !self.checkpoints.running() {
            actions.push(Action::Stopped);
        }
    }

    /// The caller has put the events of this turn where the shards look for them.
    pub fn events_sent(&mut self) {
        self.published.set_event_revision(self.state.revision() as u64);
    }

    fn is_leader(&self) -> bool {
        self.raft.raft.state == StateRole::Leader
    }

    fn propose(&mut self, mut proposal: Proposal, actions: &mut Vec<Action>) {
        if let Err(error) = self.try_propose(&mut proposal, actions) {
            if let Some(token) = proposal.token {
                actions.push(Action::Outcome(Outcome { token, result: Err(error) }));
            }
        }
    }

    fn try_propose(&mut self, proposal: &mut Proposal, actions: &mut Vec<Action>) -> Result<(), Error> {
        if self.stopping {
            return Err(errors::STOPPED);
        }
        if self.waiting.len() >= PROPOSALS_IN_FLIGHT {
            return Err(errors::REQUEST_TOO_MANY_REQUESTS);
        }
        if self.raft.raft.leader_id == 0 {
            return Err(errors::NO_LEADER);
        }
        let id = self.next_id;
        if let Some(grant) = &mut proposal.request.0.lease_grant
            && grant.id == 0
        {
            grant.id = (id & i64::MAX as u64) as i64;
        }
        let data = proposal.request.encode_with(id);
        let room_bytes = self.admit(&proposal.request.0, actions)?;
        self.next_id += 1;
        self.raft.propose(Vec::new(), data).map_err(|_| errors::NO_LEADER)?;
        self.waiting.insert(id, Waiting { token: proposal.token, room_bytes });
        self.waiting_room_bytes += room_bytes;
        Ok(())
    }

    /// Law 8: what apply will need on disk is reserved now, or the proposal is refused. Answers what was reserved.
    fn admit(&mut self, request: &pb::InternalRaftRequest, actions: &mut Vec<Action>) -> Result<u64, Error> {
        let room_bytes = mvcc::quota::room(&self.state.store, request);
        let wanted_bytes = self.waiting_room_bytes + room_bytes;
        match self.state.store.reserve(wanted_bytes) {
            Ok(()) => Ok(room_bytes),
            Err(_) => {
                actions.push(Action::Note(Note::NoRoomOnDisk { wanted_bytes }));
                self.raise(pb::AlarmType::Nospace);
                Err(errors::NO_SPACE)
            }
        }
    }

    /// Proposes an alarm for this member unless it is up already.
    fn raise(&mut self, alarm: pb::AlarmType) {
        if self.published.alarm(alarm) || !self.state.alarm_in_flight.insert(alarm as i32) {
            return;
        }
        let request = pb::AlarmRequest {
            action: pb::alarm_request::AlarmAction::Activate as i32,
            member_id: self.options.member.id,
            alarm: alarm as i32,
        };
        self.propose_own(pb::InternalRaftRequest { alarm: Some(request), ..Default::default() });
    }

    /// A proposal of the replica's own, which nobody waits for. Small, and covered by the reserve.
    fn propose_own(&mut self, request: pb::InternalRaftRequest) {
        let id = self.next_id;
        self.next_id += 1;
        let data = crate::event::Request(request).encode_with(id);
        // Without a leader there is nobody to propose to; the next tick tries again.
        let _ = self.raft.propose(Vec::new(), data);
    }

    fn process_ready(&mut self, actions: &mut Vec<Action>) {
        let mut ready = self.raft.ready();
        let number = ready.number();
        assert!(ready.snapshot().is_empty(), "a lone voter is never sent a snapshot");
        if let Some(hard_state) = ready.hs() {
            self.raft.mut_store().set_hard_state(hard_state.clone());
            self.hard_state_due = true;
        }
        let entries = ready.take_entries();
        for entry in &entries {
            self.wal.append(wal::Record::Entry {
                term: entry.term,
                index: entry.index,
                kind: entry_kind(entry.get_entry_type()),
                data: &entry.data,
            });
        }
        if self.hard_state_due && (ready.must_sync() || !entries.is_empty()) {
            self.hard_state_due = false;
            let hs = self.raft.raft.hard_state();
            let hard_state = wal::HardState { term: hs.term, vote: hs.vote, commit: hs.commit };
            self.wal.append(wal::Record::HardState(hard_state));
        }
        self.raft.mut_store().append(&entries);
        self.wal.mark_ready(number);
        let committed = ready.take_committed_entries();
        for state in ready.take_read_states() {
            self.barriers.confirm(&state.request_ctx, state.index);
        }
        self.raft.advance_append_async(ready);
        for entry in committed {
            self.apply(entry, actions);
        }
    }

    fn apply(&mut self, entry: Entry, actions: &mut Vec<Action>) {
        assert_eq!(entry.index, self.state.applied() + 1, "entries are applied in order, each once");
        let hs = self.raft.raft.hard_state();
        assert!(entry.index <= hs.commit, "only what is committed is applied");
        match entry.get_entry_type() {
            EntryType::EntryNormal if entry.data.is_empty() => {
                if self.is_leader() && entry.term == hs.term {
                    self.became_leader(entry.term, actions);
                }
            }
            EntryType::EntryNormal => self.apply_request(&entry.data, actions),
            EntryType::EntryConfChange => {
                let change = self.state.apply_conf_change(&entry.data);
                match self.raft.apply_conf_change(&change) {
                    Ok(conf_state) => {
                        self.state.save_conf_state(&conf_state);
                        self.raft.mut_store().set_conf_state(conf_state);
                    }
                    Err(error) => panic!("a committed configuration change cannot be refused: {error}"),
                }
            }
            EntryType::EntryConfChangeV2 => panic!("nobody proposes joint changes to a lone voter"),
        }
        self.state.set_applied(entry.index, entry.term);
        self.raft.advance_apply_to(entry.index);
    }

    fn apply_request(&mut self, data: &Bytes, actions: &mut Vec<Action>) {
        let request = pb::InternalRaftRequest::decode(data.clone())
            .unwrap_or_else(|error| panic!("an entry that this member wrote does not decode: {error}"));
        let id = request.header.as_ref().map_or(request.id, |header| header.id);
        self.state.work.collect = self.published.watchers() > 0;
        self.state.work.answers = self.waiting.contains_key(&id);
        let result = self.state.apply(request, self.now, actions);
        if let Some(waiting) = self.waiting.remove(&id) {
            assert!(self.waiting_room_bytes >= waiting.room_bytes, "room is counted once");
            self.waiting_room_bytes -= waiting.room_bytes;
            if let Some(token) = waiting.token {
                self.state.answer(token, result, actions);
            }
        }
    }

    fn became_leader(&mut self, term: Term, actions: &mut Vec<Action>) {
        actions.push(Action::Note(Note::BecameLeader { term }));
        self.state.promote_leases(self.now, self.options.election_ms);
        let member = self.options.member.clone();
        self.propose_own(pb::InternalRaftRequest {
            cluster_member_attr_set: Some(proto::membershippb::ClusterMemberAttrSetRequest {
                member_id: member.id,
                member_attributes: Some(proto::membershippb::Attributes {
                    name: member.name,
                    client_urls: member.client_urls,
                }),
            }),
            ..Default::default()
        });
        if self.state.cluster_version() != Some(self.options.cluster_version.as_str()) {
            let ver = self.options.cluster_version.clone();
            self.propose_own(pb::InternalRaftRequest {
                cluster_version_set: Some(proto::membershippb::ClusterVersionSetRequest { ver }),
                ..Default::default()
            });
        }
    }

    /// Publishes the batch, then lets its events and outcomes go.
    fn publish(&mut self, applied_before: Index, actions: &mut Vec<Action>) {
        if self.state.publish(actions) {
            let applied = self.state.applied();
            let keep =
                if self.raft.raft.prs().conf().voters().ids().len() > 1 { RAFT_LOG_ENTRIES } else { 0 };
            self.raft.mut_store().trim(applied, keep, RAFT_LOG_BYTES);
        }
        assert!(self.state.applied() >= applied_before, "the applied index never falls");
        self.publish_status();
        if !self.announced && self.state.is_announced(self.options.member.id) && self.published.read_ready() {
            self.announced = true;
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
        let alone = raft.prs().conf().voters().ids().len() == 1;
        let leads = raft.state == StateRole::Leader;
        self.published.set_read_ready(alone && leads && self.state.applied_term() == raft.term);
    }

    fn submit_log(&mut self, actions: &mut Vec<Action>) {
        while let Some(write) = self.wal.submit() {
            actions.push(Action::WriteLog(write));
        }
        if self.now >= self.segment_retry_at
            && let Some(job) = self.wal.wants_segment()
        {
            actions.push(Action::PrepareSegment(job));
        }
    }

    fn start_barrier_round(&mut self) {
        if self.barriers.arrived.is_empty() || self.published.read_ready() {
            return;
        }
        self.barriers.next_round += 1;
        let round = self.barriers.next_round;
        let tokens = std::mem::take(&mut self.barriers.arrived);
        self.barriers.rounds.push((round, tokens));
        self.raft.read_index(round.to_be_bytes().to_vec());
    }

    fn pass_barriers(&mut self, actions: &mut Vec<Action>) {
        if self.published.read_ready() {
            // The root just published is the barrier for everybody who waits.
            let rounds = self.barriers.rounds.drain(..).map(|(_, tokens)| tokens);
            let confirmed = self.barriers.confirmed.drain(..).map(|(_, tokens)| tokens);
            let waiting = rounds.chain(confirmed).flatten().chain(self.barriers.arrived.drain(..));
            actions.extend(
                waiting.map(|token| Action::Outcome(Outcome { token, result: Ok(Response::Barrier) })),
            );
            return;
        }
        let applied = self.state.applied();
        for (index, tokens) in &mut self.barriers.confirmed {
            if *index <= applied {
                actions.extend(
                    tokens
                        .drain(..)
                        .map(|token| Action::Outcome(Outcome { token, result: Ok(Response::Barrier) })),
                );
            }
        }
        self.barriers.confirmed.retain(|(_, tokens)| !tokens.is_empty());
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
            // A paused process must not take its own pause for a dead leader.
            if late_ticks <= 2 {
                self.raft.tick();
            }
        }
        if self.wal.unsubmitted_bytes() == 0 && self.wal.in_flight() == 0 {
            // Idle: say on disk that the last batch is durable, so that damage to it is never taken for a torn write.
            self.wal.affirm();
        }
        if !self.is_leader() {
            return;
        }
        self.revoke_expired(actions);
        if let Some(revision) = self.compactor.tick(now, self.state.revision()) {
            self.propose_own(pb::InternalRaftRequest {
                compaction: Some(pb::CompactionRequest { revision, physical: false }),
                ..Default::default()
            });
        }
    }

    fn revoke_expired(&mut self, actions: &mut Vec<Action>) {
        for id in self.state.expired_leases(self.now) {
            actions.push(Action::Note(Note::LeaseExpired { id }));
            self.propose_own(pb::InternalRaftRequest {
                lease_revoke: Some(pb::LeaseRevokeRequest { id }),
                ..Default::default()
            });
        }
    }

    fn checkpointed(&mut self, done: tree::CheckpointDone, actions: &mut Vec<Action>) {
        let stamp = self.state.store.checkpoint_done(done);
        let (index, term) = mvcc::stamp::applied(&stamp);
        self.checkpoints.finished();
        // Law 6: the log says that the checkpoint completed before segments are given back.
        self.wal.append(wal::Record::Checkpoint { index, term });
        self.wal.release_to(index);
        actions.push(Action::Note(Note::CheckpointFinished { index }));
        self.drop_cold(actions);
    }

    /// Gives memory beyond the budget back, a bounded job at a time.
    fn drop_cold(&mut self, actions: &mut Vec<Action>) {
        if let Some(job) = self.state.store.drop_cold(self.options.memory_budget_bytes) {
            actions.push(Action::DropCold(job));
        }
    }
}

impl Barriers {
    fn confirm(&mut self, context: &[u8], index: Index) {
        let Ok(round) = context.try_into().map(u64::from_be_bytes) else { return };
        if let Some(position) = self.rounds.iter().position(|(number, _)| *number == round) {
            // Rounds are confirmed in order: an older one that was lost is covered by this.
            for (_, tokens) in self.rounds.drain(..=position) {
                self.confirmed.push((index, tokens));
            }
        }
    }
}

fn entry_kind(kind: EntryType) -> u8 {
    match kind {
        EntryType::EntryNormal => 0,
        EntryType::EntryConfChange => 1,
        EntryType::EntryConfChangeV2 => 2,
    }
}
