//! The replicated state around the keys: members, cluster version, alarms, leases; and the store itself.
//!
//! Everything durable stands in the store's trees; what is kept in memory beside them (alarms, the lease schedule)
//! is rebuilt from them at start.

use std::collections::BTreeSet;
use std::sync::Arc;

use base::{CallToken, Index, LeaseId, MemberId, Millis, Term};
use bbolt::schema;
use lease::{Lessor, Renewal, TimeToLive};
use mvcc::trees;
use proto::errors::{self, Error};
use proto::etcdserverpb as pb;
use proto::leasepb;
use raft::eraftpb::ConfState;

use crate::event::{Action, Note, Response};
use crate::published::Published;
use crate::records::{CLUSTER_ID, MEMBER_ID, Records};

pub struct State {
    pub store: tree::Store,
    pub(crate) published: Arc<Published>,
    pub(crate) lessor: Lessor,
    /// (kind, member): what the ALARMS tree holds.
    pub(crate) alarms: BTreeSet<(i32, MemberId)>,
    /// `major << 16 | minor` of the cluster's version, 0 while undecided.
    cluster_version_word: u64,
    renewals: Vec<WaitingRenewal>,
    pub(crate) compactions: crate::compaction::Compactions,
    pub(crate) work: mvcc::Work,
    pub(crate) defragmentation: crate::defragment::Defragmentation,
    /// Changed since the last publication.
    pub(crate) dirty: bool,
}

/// A renewal that cannot be answered yet: the lease expired and is not revoked, or this member leads and has not
/// applied what the leaders before it left.
struct WaitingRenewal {
    token: CallToken,
    id: LeaseId,
    /// The newest revision when it arrived: what its header says.
    revision: i64,
}

impl State {
    /// `records`: of this store.
    pub fn load(
        mut store: tree::Store,
        published: Arc<Published>,
        lease_options: lease::Options,
        identity: (MemberId, MemberId),
        records: Records,
        cluster_version: Option<&str>,
    ) -> State {
        mvcc::stamp::initialise(&mut store);
        if records.identity.is_none() {
            store.insert(trees::META, MEMBER_ID, &schema::u64_value(identity.0));
            store.insert(trees::META, CLUSTER_ID, &schema::u64_value(identity.1));
            store.publish();
        }
        State {
            store,
            published,
            lessor: Lessor::recover(lease_options, records.leases),
            alarms: records.alarms,
            cluster_version_word: cluster_version.map_or(0, version_word),
            renewals: Vec::new(),
            compactions: Default::default(),
            work: mvcc::Work::default(),
            defragmentation: Default::default(),
            dirty: false,
        }
    }

    pub fn save_conf_state(&mut self, conf_state: &ConfState) {
        let value = schema::conf_state_value(&schema::ConfState {
            voters: conf_state.voters.clone(),
            learners: conf_state.learners.clone(),
            voters_outgoing: conf_state.voters_outgoing.clone(),
            learners_next: conf_state.learners_next.clone(),
            auto_leave: conf_state.auto_leave,
        });
        self.store.insert(trees::META, schema::meta::CONF_STATE, &value);
        self.dirty = true;
    }

    // --- where apply stands ---

    pub fn applied(&self) -> Index {
        mvcc::stamp::applied(self.store.stamp()).0
    }

    pub fn applied_term(&self) -> Term {
        mvcc::stamp::applied(self.store.stamp()).1
    }

    pub fn set_applied(&mut self, index: Index, term: Term) {
        mvcc::stamp::set_applied(&mut self.store, index, term);
        self.dirty = true;
    }

    pub fn revision(&self) -> i64 {
        mvcc::stamp::current(self.store.stamp())
    }

    /// Makes the batch visible and lets its events go. True when there was one.
    pub fn publish(&mut self, actions: &mut Vec<Action>) -> bool {
        let answers = base::bug!(AnswerBeforePublish) && !actions.is_empty();
        if answers || (!self.dirty && !self.store.is_touched()) {
            return false;
        }
        self.dirty = false;
        self.store.publish();
        if let Some(batch) = self.work.events.take() {
            actions.push(Action::Events(Arc::new(batch)));
        }
        true
    }

    // --- members ---

    /// What the `raft` crate must be told of a change, after the members tree was updated.
    pub fn apply_conf_change(&mut self, data: &[u8]) -> raft::eraftpb::ConfChange {
        use proto::raftpb::{ConfChange, ConfChangeType};
        let change: ConfChange = prost::Message::decode(data).unwrap_or_else(|error| {
            panic!("a configuration change that was committed does not parse: {error}")
        });
        let kind = match change.r#type() {
            ConfChangeType::ConfChangeAddNode => raft::eraftpb::ConfChangeType::AddNode,
            ConfChangeType::ConfChangeRemoveNode => raft::eraftpb::ConfChangeType::RemoveNode,
            ConfChangeType::ConfChangeAddLearnerNode => raft::eraftpb::ConfChangeType::AddLearnerNode,
            // Only URLs change; to raft it is the member that is there already.
            ConfChangeType::ConfChangeUpdateNode => raft::eraftpb::ConfChangeType::AddNode,
        };
        if let Ok(member) = schema::parse_member(&change.context) {
            assert_eq!(member.id, change.node_id, "the change names one member");
            self.put_member(&member);
        }
        raft::eraftpb::ConfChange { change_type: kind, node_id: change.node_id, ..Default::default() }
    }

    fn put_member(&mut self, member: &schema::Member) {
        self.store.insert(trees::MEMBERS, &schema::member_key(member.id), &schema::member_value(member));
        self.dirty = true;
    }

    fn member(&self, id: MemberId) -> Option<schema::Member> {
        let stored = self.store.view().get(trees::MEMBERS, &schema::member_key(id))?;
        schema::parse_member(stored).ok()
    }

    pub fn set_attributes(&mut self, request: &proto::membershippb::ClusterMemberAttrSetRequest) {
        let Some(mut member) = self.member(request.member_id) else { return };
        let attributes = request.member_attributes.clone().unwrap_or_default();
        member.name = attributes.name;
        member.client_urls = attributes.client_urls;
        self.put_member(&member);
    }

    pub fn cluster_version_word(&self) -> u64 {
        self.cluster_version_word
    }

    pub fn set_cluster_version(&mut self, version: &str, actions: &mut Vec<Action>) {
        self.store.insert(trees::META, schema::cluster::VERSION, version.as_bytes());
        self.cluster_version_word = version_word(version);
        self.dirty = true;
        actions.push(Action::Note(Note::ClusterVersion { version: version.to_owned() }));
    }

    // --- alarms ---

    /// One bit for each kind of alarm that any member has raised. A client may have raised kinds that mean nothing.
    pub fn alarm_mask(&self) -> u8 {
        let known = self.alarms.iter().filter_map(|&(kind, _)| pb::AlarmType::try_from(kind).ok());
        known.fold(0, |mask, kind| mask | 1 << kind as u8)
    }

    pub fn has_alarm(&self, kind: pb::AlarmType) -> bool {
        self.alarms.iter().any(|(alarm, _)| *alarm == kind as i32)
    }

    /// etcd's rules: raising what is up answers it again, lowering what is not answers nothing, and so does an
    /// action that is neither (which etcd does not survive).
    pub fn apply_alarm(
        &mut self,
        request: &pb::AlarmRequest,
        actions: &mut Vec<Action>,
    ) -> pb::AlarmResponse {
        use pb::alarm_request::AlarmAction;
        let member = pb::AlarmMember { member_id: request.member_id, alarm: request.alarm };
        let alarm = (request.alarm, request.member_id);
        let name = member.alarm().as_str_name();
        let mut answer = pb::AlarmResponse::default();
        match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Get) => {
                let wanted = |kind: i32| request.alarm == pb::AlarmType::None as i32 || kind == request.alarm;
                let found = self.alarms.iter().filter(|(kind, _)| wanted(*kind));
                answer.alarms =
                    found.map(|&(alarm, member_id)| pb::AlarmMember { member_id, alarm }).collect();
            }
            Ok(AlarmAction::Activate) if request.alarm != pb::AlarmType::None as i32 => {
                if self.alarms.insert(alarm) && !base::bug!(AlarmNotStored) {
                    self.store.insert(trees::ALARMS, &schema::alarm_key(&member), &[]);
                    self.dirty = true;
                    actions.push(Action::Note(Note::AlarmRaised { alarm: name, member: request.member_id }));
                }
                answer.alarms.push(member);
            }
            Ok(AlarmAction::Deactivate) => {
                if self.alarms.remove(&alarm) {
                    self.store.remove(trees::ALARMS, &schema::alarm_key(&member));
                    self.dirty = true;
                    actions
                        .push(Action::Note(Note::AlarmDisarmed { alarm: name, member: request.member_id }));
                    answer.alarms.push(member);
                }
            }
            Ok(AlarmAction::Activate) | Err(_) => {}
        }
        answer
    }

    // --- leases ---

    pub fn promote_leases(&mut self, now: Millis, extend_ms: Millis, actions: &mut Vec<Action>) {
        self.lessor.promote(now, extend_ms);
        for waiting in std::mem::take(&mut self.renewals) {
            self.renew(waiting, now, actions);
        }
    }

    /// This member leads no longer: whoever waits for a renewal asks the new leader.
    pub fn demote_leases(&mut self, actions: &mut Vec<Action>) {
        self.lessor.demote();
        for waiting in self.renewals.drain(..) {
            actions.push(Action::outcome(waiting.token, Err(errors::NO_LEADER)));
        }
    }

    /// Everybody who waits for a lease.
    pub fn drain_renewals(&mut self) -> impl Iterator<Item = CallToken> + '_ {
        self.renewals.drain(..).map(|waiting| waiting.token)
    }

    pub fn apply_grant(&mut self, request: &pb::LeaseGrantRequest, now: Millis) -> Result<Response, Error> {
        let ttl = self.lessor.grant(request.id, request.ttl, now).map_err(|error| match error {
            lease::GrantError::NoId => errors::LEASE_NOT_FOUND,
            lease::GrantError::TtlTooLarge => errors::LEASE_TTL_TOO_LARGE,
            lease::GrantError::Exists => errors::LEASE_EXIST,
        })?;
        let stored = leasepb::Lease { id: request.id, ttl, remaining_ttl: 0 };
        self.store.insert(trees::LEASES, &schema::lease_key(request.id), &schema::lease_value(&stored));
        self.dirty = true;
        Ok(Response::LeaseGrant(pb::LeaseGrantResponse {
            header: Some(pb::ResponseHeader { revision: self.revision(), ..Default::default() }),
            id: request.id,
            ttl,
            error: String::new(),
        }))
    }

    /// After the lease's keys were deleted.
    pub fn forget_lease(&mut self, id: LeaseId, actions: &mut Vec<Action>) {
        if !base::bug!(RevokedLeaseReturns) {
            self.store.remove(trees::LEASES, &schema::lease_key(id));
        }
        self.dirty = true;
        self.renewals.retain(|waiting| {
            if waiting.id == id {
                let answer = Response::LeaseRenewed { id, ttl_s: None, revision: waiting.revision };
                actions.push(Action::outcome(waiting.token, Ok(answer)));
            }
            waiting.id != id
        });
    }

    /// False when the lease is gone.
    pub fn apply_lease_checkpoint(&mut self, checkpoint: &pb::LeaseCheckpoint, now: Millis) -> bool {
        let known = self.lessor.checkpoint(checkpoint.id, checkpoint.remaining_ttl, now);
        if let Some(lease) = self.lessor.get(checkpoint.id) {
            let stored =
                leasepb::Lease { id: lease.id, ttl: lease.ttl_s, remaining_ttl: lease.remaining_ttl_s };
            self.store.insert(trees::LEASES, &schema::lease_key(lease.id), &schema::lease_value(&stored));
            self.dirty = true;
        }
        known
    }

    /// Answers at once or when the lease's fate is known. `leads`: this member is the leader, even if it has yet to
    /// apply its term's first entry.
    pub fn lease_renew(
        &mut self,
        token: CallToken,
        id: LeaseId,
        leads: bool,
        now: Millis,
        actions: &mut Vec<Action>,
    ) {
        let waiting = WaitingRenewal { token, id, revision: self.revision() };
        if leads && !self.lessor.is_primary() {
            self.renewals.push(waiting);
        } else {
            self.renew(waiting, now, actions);
        }
    }

    fn renew(&mut self, waiting: WaitingRenewal, now: Millis, actions: &mut Vec<Action>) {
        let WaitingRenewal { token, id, revision } = waiting;
        let answer = |ttl_s| Ok(Response::LeaseRenewed { id, ttl_s, revision });
        let result = match self.lessor.renew(id, now) {
            Renewal::Renewed { ttl_s } => answer(Some(ttl_s)),
            Renewal::NotFound => answer(None),
            Renewal::NotPrimary => Err(errors::NO_LEADER),
            Renewal::Expired => {
                self.renewals.push(waiting);
                return;
            }
            Renewal::ClearCheckpoint => panic!("checkpoints of leases are switched off"),
        };
        actions.push(Action::outcome(token, result));
    }

    pub fn lease_time_to_live(&self, id: LeaseId, keys: bool, now: Millis) -> Result<Response, Error> {
        let mut answer = pb::LeaseTimeToLiveResponse { id, ttl: -1, ..Default::default() };
        match self.lessor.time_to_live(id, now) {
            TimeToLive::Alive { ttl_s, granted_ttl_s } => {
                answer.ttl = ttl_s;
                answer.granted_ttl = granted_ttl_s;
                if keys {
                    answer.keys = self.keys_of_lease(id);
                }
            }
            TimeToLive::NotFound => {}
            TimeToLive::NotPrimary => return Err(errors::LEADER_CHANGED),
        }
        Ok(Response::LeaseTimeToLive(answer))
    }

    fn keys_of_lease(&self, id: LeaseId) -> Vec<Vec<u8>> {
        let prefix = schema::lease_key(id);
        let mut cursor = self.store.view().cursor(trees::LEASE_KEYS);
        let mut keys = Vec::new();
        let mut more = cursor.seek(&prefix);
        while more && let Some(key) = cursor.key().strip_prefix(&prefix[..]) {
            keys.push(key.to_vec());
            more = cursor.next();
        }
        keys
    }

    pub fn lease_list(&self) -> pb::LeaseLeasesResponse {
        let leases = self.lessor.list().into_iter().map(|id| pb::LeaseStatus { id }).collect();
        pb::LeaseLeasesResponse { header: None, leases }
    }

    pub fn expired_leases(&mut self, now: Millis) -> Vec<LeaseId> {
        let mut expired = Vec::new();
        self.lessor.scan(now, &mut expired);
        expired
    }
}

/// `major << 16 | minor`.
pub(crate) fn version_word(version: &str) -> u64 {
    let mut parts = version.split('.').map(|part| part.parse::<u64>().unwrap_or(0));
    parts.next().unwrap_or(0) << 16 | parts.next().unwrap_or(0)
}
