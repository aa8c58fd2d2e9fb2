//! Who may propose, and what must be free for it: limits, alarms, room on the disk (laws 8 and 14).
//!
//! Everything is decided before an entry exists; apply never refuses for room. The disk's reserve is given out in
//! tiers: what stores more leaves all of it alone, what gives room back may use half, the replica's own steps and
//! entries more. So a full disk always lets through what ends it.
//!
//! The order of refusals: stopping, no leader, limits, CORRUPT left to apply, NOSPACE, room.

use base::limits::{
    COMPACTION_STEP_CHANGES, PROPOSAL_BYTES_IN_FLIGHT, PROPOSAL_ROOM_BYTES, PROPOSALS_IN_FLIGHT,
};
use base::{CallToken, Index, Millis, Term};
use bytes::Bytes;
use mvcc::quota::{self, Room};
use mvcc::trees::{ALARMS, LEASES, META};
use proto::errors::{self, Error};
use proto::etcdserverpb as pb;
use raft::eraftpb::{Entry, Message, MessageType};
use tree::Store;

use crate::event::{Action, Note, Proposal, Request};
use crate::machine::Replica;
use crate::waiting::{Cost, Proposed};

/// A disk that had no room is asked again after this.
const ROOM_RETRY_MS: Millis = 1000;
/// Background work that found no room, or history that is still read, tries again after this.
const BACKGROUND_RETRY_MS: Millis = 100;
/// Stored records of leases and alarms, with their keys, are shorter than this, bytes.
const SMALL_RECORD_BYTES: usize = 128;
/// Entries of proposals are encoded into pieces of this, bytes: far more than a small one, and little to keep for one.
pub(crate) const ENTRY_BUFFER_BYTES: usize = 64 << 10;

/// What is short on the disk, and when to ask again.
#[derive(Default)]
pub(crate) struct Shortage {
    /// The disk refused room, for the log or the data file, and has given none since: the alarm is about it.
    pub disk: bool,
    /// The last segment that the log asked for was refused; a checkpoint may give it one.
    pub segment: bool,
    /// And no checkpoint would: the log had nothing to give back when it asked.
    pub log: bool,
    /// Segments of the log when it asked.
    segments_then: usize,
    pub segment_retry_at: Millis,
    pub grow_retry_at: Millis,
    /// Until then the data file does with what it has where it would grow by so many chunks, or more, for what nobody
    /// waits for.
    refused: (Millis, u64),
    pub background_retry_at: Millis,
}

/// Which part of the reserve a request must leave.
#[derive(Clone, Copy)]
pub(crate) enum Tier {
    /// Stores more.
    Growth,
    /// Gives room back, in the end.
    Relief,
    /// Steps of compaction and defragmentation.
    Background,
    /// Alarms and the like: they end the shortage.
    Own,
}

impl Tier {
    pub(crate) fn of(request: &Request) -> Tier {
        match request {
            Request::Alarm(_) | Request::Other(_) => Tier::Own,
            request if request.grows() => Tier::Growth,
            _ => Tier::Relief,
        }
    }

    pub(crate) fn keep_bytes(self, reserve_bytes: u64) -> u64 {
        match self {
            Tier::Growth => reserve_bytes,
            Tier::Relief => reserve_bytes / 2,
            Tier::Background => reserve_bytes / 4,
            Tier::Own => reserve_bytes / 8,
        }
    }
}

impl Replica {
    /// Whether the replica takes more proposals. While not, the caller leaves them where they are: they wait, as they
    /// do in etcd, and are not refused.
    pub fn has_credit(&self) -> bool {
        let total = self.waiting.total();
        let room = self.waiting.len() < PROPOSALS_IN_FLIGHT
            && total.entry_bytes < PROPOSAL_BYTES_IN_FLIGHT
            && total.room_bytes + total.run_bytes < PROPOSAL_ROOM_BYTES;
        // A lone voter leads when what it knew to be committed is applied. More of its log may wait behind that, for room
        // that proposals would take.
        let leads = (self.is_leader() || !self.alone) && !self.replay.waits();
        self.stopping || (room && leads && self.log_has_room())
    }

    /// One segment is left for the start that comes next: what was accepted must come up again on a full disk. And half of
    /// one for the record that releases older ones, and for alarms: so a log without room can always get some by a
    /// checkpoint. Where none would give any, the log needs the last one to leave the only segment behind.
    fn log_has_room(&self) -> bool {
        let segment = self.segment_bytes;
        let kept = if self.shortage.log && self.wal.segments() == 1 { 0 } else { 1 };
        let Some(ready) = self.wal.segments_ready().checked_sub(kept) else { return false };
        let left = ready as u64 * segment + (segment - self.log_end);
        // What this turn has proposed comes to the log at its end.
        let gathered = self.wal.unsubmitted_bytes().max(self.waiting.total().entry_bytes);
        gathered as u64 + segment / 2 <= left
    }

    pub(crate) fn propose(&mut self, proposal: Proposal, actions: &mut Vec<Action>) {
        let Proposal { token, request } = proposal;
        if let Err(error) = self.try_propose(token, request, actions)
            && let Some(token) = token
        {
            actions.push(Action::outcome(token, Err(error)));
        }
    }

    fn try_propose(
        &mut self,
        token: Option<CallToken>,
        mut request: Request,
        actions: &mut Vec<Action>,
    ) -> Result<(), Error> {
        if self.stopping {
            return Err(errors::STOPPED);
        }
        // A member that does not lead would send the proposal to the leader; that comes with the peer layer.
        if !self.is_leader() || self.replay.waits() {
            return Err(errors::NO_LEADER);
        }
        if self.waiting.len() >= PROPOSALS_IN_FLIGHT {
            return Err(errors::REQUEST_TOO_MANY_REQUESTS);
        }
        let own = matches!(Tier::of(&request), Tier::Own);
        if !own && self.checkpoints.overdue(&self.state.store, &self.wal) {
            return Err(errors::REQUEST_TOO_MANY_REQUESTS);
        }
        if request.grows() && !self.state.has_alarm(pb::AlarmType::Corrupt) {
            // Under the alarm apply refuses it, as in etcd, where that takes an entry too. While the log is short, no
            // entry is spent on that.
            if self.state.has_alarm(pb::AlarmType::Nospace) && self.shortage.disk {
                return Err(errors::NO_SPACE);
            }
            if self.shortage.log {
                self.shortage.disk = true;
                self.raise(pb::AlarmType::Nospace);
                return Err(errors::NO_SPACE);
            }
        }
        let mut id = self.next_id();
        if let Request::LeaseGrant(grant) = &mut request
            && grant.id == 0
        {
            // Positive, and free.
            grant.id = (id & i64::MAX as u64) as i64;
            while grant.id == 0 || self.state.lessor.get(grant.id).is_some() {
                id = self.next_id();
                grant.id = (id & i64::MAX as u64) as i64;
            }
        }
        let mut cost = cost(&self.state.store, &request, self.waiting.total().value_bytes);
        self.make_room(Tier::of(&request), cost, actions)?;
        let data = self.encode(&request, id);
        cost.entry_bytes = data.len();
        let (term, index) = self.append(data).ok_or(errors::NO_LEADER)?;
        let hold = if cost.run_bytes > 0 { self.state.store.hold(cost.run_bytes) } else { None };
        assert!(
            hold.is_some() || cost.run_bytes == 0 || base::bug!(RoomNotReserved),
            "room was made for the run"
        );
        self.waiting.push(Proposed { term, index, token, request, cost, hold });
        Ok(())
    }

    /// Ids must differ from those of earlier lives of this member, and from those of other members: leases get theirs
    /// from them.
    fn next_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    /// The bytes of an entry, behind those of the ones before: together they cost one allocation, if that.
    fn encode(&mut self, request: &Request, id: u64) -> Bytes {
        request.encode_to(id, &mut self.entry_bytes);
        self.entry_bytes.split().freeze()
    }

    /// Proposes as the leader; the place of the entry.
    fn append(&mut self, data: Bytes) -> Option<(Term, Index)> {
        if !self.is_leader() {
            return None;
        }
        let entries = vec![Entry { data, ..Entry::default() }];
        let from = self.raft.raft.id;
        let message = Message {
            msg_type: MessageType::MsgPropose,
            from,
            entries: entries.into(),
            ..Message::default()
        };
        self.raft.raft.step(message).ok()?;
        Some((self.raft.raft.term, self.raft.raft.raft_log.last_index()))
    }

    /// A proposal of the replica's own, which nobody waits for: small, covered by the reserve. `None` while this
    /// member does not lead.
    pub(crate) fn propose_own(&mut self, request: &Request) -> Option<(Term, Index)> {
        let id = self.next_id();
        let data = self.encode(request, id);
        self.append(data)
    }

    /// Law 8: what apply will need on disk is there, or the proposal is refused. With the alarm, unless checkpoints
    /// give enough back: pages that were superseded wait for two of them.
    fn make_room(&mut self, tier: Tier, cost: Cost, actions: &mut Vec<Action>) -> Result<(), Error> {
        // A compaction moves words of the stamp, and is what ends a shortage.
        if (cost.room_bytes, cost.run_bytes) == (0, 0) {
            return Ok(());
        }
        let total = self.waiting.total();
        let store = &mut self.state.store;
        let room = tree::Room {
            bytes: total.room_bytes + cost.room_bytes + cost.run_bytes,
            run_bytes: cost.run_bytes,
            keep_bytes: tier.keep_bytes(store.reserve_bytes()),
        };
        let made = if base::bug!(RoomNotReserved) { Ok(()) } else { store.make_room(room) };
        let Err(refused) = made else {
            self.shortage.disk &= !matches!(tier, Tier::Growth);
            return Ok(());
        };
        if !refused.is_for_room() {
            actions.push(Action::DiskFailed { what: refused.to_string() });
            return Err(errors::STOPPED);
        }
        self.shortage.disk = true;
        let not_used = store.allocated_bytes().saturating_sub(store.used_bytes());
        let passing = store.waiting_bytes() > 0 && room.bytes + room.keep_bytes < not_used;
        self.checkpoints.relieve(self.now);
        if passing && !self.state.has_alarm(pb::AlarmType::Nospace) {
            return Err(errors::REQUEST_TOO_MANY_REQUESTS);
        }
        if !self.alarm_is_coming(pb::AlarmType::Nospace) {
            actions.push(Action::Note(Note::NoRoomOnDisk { wanted_bytes: room.bytes }));
        }
        self.raise(pb::AlarmType::Nospace);
        Err(errors::NO_SPACE)
    }

    /// Whether a turn would do some of the work that no entry asks for.
    pub(crate) fn has_background_work(&self) -> bool {
        !self.stopping
            && self.now >= self.shortage.background_retry_at
            && (self.removal_runnable() || self.state.defragment_runnable())
    }

    fn removal_runnable(&self) -> bool {
        self.now >= self.removal_retry_at && self.state.compaction_runnable()
    }

    /// One bounded step of it. Without room for even a small one, checkpoints are asked for and it waits a little.
    pub(crate) fn background_step(&mut self, actions: &mut Vec<Action>) {
        if !self.has_background_work() {
            return;
        }
        let mut short = false;
        let keep_bytes = Tier::Background.keep_bytes(self.state.store.reserve_bytes());
        if self.removal_runnable() && !self.state.begin_hash(actions) {
            let steps = [
                (COMPACTION_STEP_CHANGES, keep_bytes),
                (COMPACTION_STEP_CHANGES / 8, keep_bytes),
                (1, self.last_kept_bytes(keep_bytes)),
            ];
            let step = steps
                .into_iter()
                .find(|&(changes, keep)| self.has_room_for(self.state.removal_room(changes), keep, actions));
            match step {
                Some((changes, _)) if self.state.removal_step(changes, actions) => {}
                Some(_) => self.removal_retry_at = self.now + BACKGROUND_RETRY_MS,
                None => short = true,
            }
        }
        if self.state.defragment_runnable() {
            if self.has_room_for(self.state.defragment_room(), keep_bytes, actions) {
                self.state.defragment_step(actions);
            } else {
                short = true;
            }
        }
        if short {
            self.checkpoints.relieve(self.now);
            self.shortage.background_retry_at = self.now + BACKGROUND_RETRY_MS;
        }
    }

    /// What the smallest step of a removal leaves alone: it ends a shortage, so it may use what alarms need too, but only
    /// when they would find no room anyway, or what the steps before have superseded is free again. While somebody waits
    /// it leaves what other steps do.
    fn last_kept_bytes(&self, keep_bytes: u64) -> u64 {
        if !self.waiting.is_empty() {
            return keep_bytes;
        }
        let (store, own_bytes) = (&self.state.store, self.own_entries_bytes());
        let alarms_bytes = Tier::Own.keep_bytes(store.reserve_bytes()).max(own_bytes);
        let waiting_bytes = store.waiting_bytes();
        let spends_all = waiting_bytes == 0 || store.free_bytes() + waiting_bytes < alarms_bytes;
        keep_bytes.min(if spends_all { own_bytes } else { alarms_bytes })
    }

    /// What the few entries take that the replica may propose by itself, whatever room there is, bytes.
    pub(crate) fn own_entries_bytes(&self) -> u64 {
        4 * cost(&self.state.store, &Request::Alarm(Default::default()), 0).room_bytes
    }

    fn has_room_for(&mut self, bytes: u64, keep_bytes: u64, actions: &mut Vec<Action>) -> bool {
        let room = tree::Room { bytes: self.waiting.total().room_bytes + bytes, run_bytes: 0, keep_bytes };
        let made = self.make_room_unasked(room, false);
        if let Err(Some(refused)) = &made
            && !refused.is_for_room()
        {
            actions.push(Action::DiskFailed { what: refused.to_string() });
        }
        made.is_ok()
    }

    /// Room for work that nobody waits for. It comes back at every turn, and some file systems take long to say that
    /// there is none: the disk is asked so often and no more, or when it is for the `last` time. Between, `Err(None)` says
    /// that the file as it is has none.
    pub(crate) fn make_room_unasked(
        &mut self,
        room: tree::Room,
        last: bool,
    ) -> Result<(), Option<tree::NoSpace>> {
        let store = &mut self.state.store;
        let chunks = store.chunks_short(room);
        let (until, refused_chunks) = self.shortage.refused;
        if self.now < until && chunks >= refused_chunks && !last {
            return if store.find_room(room) { Ok(()) } else { Err(None) };
        }
        let made = store.make_room(room);
        if made.is_err() {
            self.shortage.refused = (self.now + BACKGROUND_RETRY_MS, chunks);
        }
        made.map_err(Some)
    }

    fn alarm_is_coming(&self, alarm: pb::AlarmType) -> bool {
        self.state.has_alarm(alarm) || self.alarms_in_flight.contains(&(alarm as i32))
    }

    /// Proposes an alarm for this member unless one is up or on its way. False when nobody can be proposed to.
    pub(crate) fn raise(&mut self, alarm: pb::AlarmType) -> bool {
        if self.alarm_is_coming(alarm) {
            return true;
        }
        let request = Request::Alarm(pb::AlarmRequest {
            action: pb::alarm_request::AlarmAction::Activate as i32,
            member_id: self.options.member.id,
            alarm: alarm as i32,
        });
        if self.propose_own(&request).is_none() {
            return false;
        }
        self.alarms_in_flight.push(alarm as i32);
        true
    }

    pub(crate) fn segment_refused(&mut self) {
        self.wal.segment_failed();
        self.shortage.segment = true;
        self.shortage.segment_retry_at = self.now + ROOM_RETRY_MS;
        if self.shortage.segments_then == 1 {
            self.shortage.log = true;
            self.shortage.disk = true;
            self.raise(pb::AlarmType::Nospace);
        } else if self.wal.segments() < self.shortage.segments_then {
            self.segments_released();
        }
    }

    pub(crate) fn segment_made(&mut self) {
        self.shortage.segment = false;
        self.shortage.log = false;
    }

    /// A released segment needs no room to be used again.
    pub(crate) fn segments_released(&mut self) {
        self.shortage.segment_retry_at = self.now;
    }

    /// No reason for an alarm: nobody was refused anything yet. But what the file has must be made use of.
    pub(crate) fn growth_refused(&mut self) {
        self.shortage.grow_retry_at = self.now + ROOM_RETRY_MS;
        self.checkpoints.relieve(self.now);
    }

    /// Revokes an expired lease, if the room for it is there; if not, it is reported again.
    pub(crate) fn revoke_expired(&mut self, id: i64, actions: &mut Vec<Action>) {
        if !self.has_credit() {
            return;
        }
        // The disk is slow, no more. A second revocation would follow the first in the log, and meet whoever was granted
        // the id between them.
        if self.waiting.revokes(id) {
            return;
        }
        actions.push(Action::Note(Note::LeaseExpired { id }));
        let request = Request::LeaseRevoke(pb::LeaseRevokeRequest { id });
        if base::bug!(ExpiryOutsideLog) {
            return drop(self.state.apply(&request, self.now, actions));
        }
        self.propose(Proposal { token: None, request }, actions);
    }

    /// Jobs that keep ahead of what is needed.
    pub(crate) fn prepare_room(&mut self, actions: &mut Vec<Action>) {
        if self.now >= self.shortage.segment_retry_at
            && let Some(job) = self.wal.wants_segment(self.segments_wanted())
        {
            self.shortage.segments_then = self.wal.segments();
            actions.push(Action::PrepareSegment(job));
        }
        // Growing blocks, so a helper keeps ahead, and by what comes when the load doubles.
        let total = self.waiting.total();
        let ahead_bytes = self.state.store.ahead_bytes() + 2 * (total.room_bytes + total.run_bytes);
        if self.now >= self.shortage.grow_retry_at
            && let Some(job) = self.state.store.grow_job(ahead_bytes)
        {
            actions.push(Action::Grow(job));
        }
        if let Some(job) = self.state.store.populate_job() {
            actions.push(Action::Populate(job));
        }
    }
}

/// What applying a request may take, bytes; its entry is added when it is known. `kept_len`: the longest value of those
/// that wait.
pub(crate) fn cost(store: &Store, request: &Request, kept_len: usize) -> Cost {
    let insert = |tree, key_len, value_len| Room::scattered(store.insert_cost(tree, key_len, value_len));
    let mut value_bytes = 0;
    let room = match request {
        Request::Put(put) => {
            value_bytes = put.value.len();
            quota::room_for_put_as_is(store, put, kept_len)
        }
        Request::DeleteRange(delete) => quota::room_for_delete(store, delete),
        Request::Txn(txn) => {
            value_bytes = quota::longest_value(&txn.success).max(quota::longest_value(&txn.failure));
            quota::room_for_txn(store, txn, kept_len)
        }
        Request::LeaseGrant(_) => insert(LEASES, 8, SMALL_RECORD_BYTES),
        Request::LeaseRevoke(revoke) => {
            let keys = quota::room_for_revoke(store, revoke.id);
            Room { bytes: keys.bytes + store.insert_cost(LEASES, 8, 0), ..keys }
        }
        // It moves words of the stamp; the removal has room of its own.
        Request::Compaction(_) => Room::default(),
        Request::Alarm(_) => insert(ALARMS, SMALL_RECORD_BYTES, 0),
        Request::Other(_) => insert(META, SMALL_RECORD_BYTES, SMALL_RECORD_BYTES),
    };
    let room_bytes = room.bytes.checked_sub(room.run_bytes).expect("runs are part of the room");
    Cost { entry_bytes: 0, room_bytes, run_bytes: room.run_bytes, value_bytes }
}
