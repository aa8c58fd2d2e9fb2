//! Applying one committed request: the order of etcd's checks (corrupt, no space, quota) and then the change itself.
//!
//! A function of (state, request) alone (law 9): the clock feeds only when leases expire, which every leader decides
//! anew; whether anybody watches or waits changes what is collected, never what is stored.

use base::Millis;
use proto::errors::{self, Error};
use proto::etcdserverpb as pb;

use crate::event::{Action, Request, Response};
use crate::state::State;

impl State {
    /// Why a request would change nothing now, whatever it asks for: an alarm is up.
    pub(crate) fn refusal(&self, request: &Request) -> Option<Error> {
        match request {
            Request::Alarm(_) | Request::Other(_) => None,
            // Every request that changes keys or leases.
            _ if self.has_alarm(pb::AlarmType::Corrupt) => Some(errors::CORRUPT),
            // NOSPACE lets through what stores nothing new.
            _ if self.has_alarm(pb::AlarmType::Nospace) && request.grows() => Some(errors::NO_SPACE),
            _ => None,
        }
    }

    /// Applies a request; the answer is for whoever proposed it.
    pub(crate) fn apply(
        &mut self,
        request: &Request,
        now: Millis,
        actions: &mut Vec<Action>,
    ) -> Result<Response, Error> {
        match request {
            Request::Alarm(alarm) => return Ok(Response::Alarm(self.apply_alarm(alarm, actions))),
            Request::Other(message) => {
                self.apply_other(message, now, actions);
                return Ok(Response::Barrier);
            }
            _ => {}
        }
        if let Some(error) = self.refusal(request) {
            return Err(error);
        }
        match request {
            Request::Put(put) => {
                let room = self.within_quota(mvcc::quota::put_cost(put));
                if base::bug!(LeaseRenewedByPut) {
                    self.lessor.renew(put.lease, now);
                }
                if base::bug!(LeaseRenewedByReplay)
                    && !self.lessor.is_primary()
                    && let Some(lease) = self.lessor.get(put.lease)
                {
                    let so_far_s = lease.ttl_s.max(lease.remaining_ttl_s);
                    self.lessor.checkpoint(lease.id, so_far_s + lease.ttl_s, now);
                }
                if base::bug!(QuotaOutsideLog) {
                    room.clone()?;
                }
                let answer = mvcc::Apply::new(&mut self.store, &mut self.work).put(put)?;
                self.dirty = true;
                room.map(|()| Response::Put(answer))
            }
            Request::DeleteRange(delete) => {
                let answer = mvcc::Apply::new(&mut self.store, &mut self.work).delete_range(delete);
                self.dirty = true;
                Ok(Response::DeleteRange(answer))
            }
            Request::Txn(txn) => {
                let room = self.within_quota(mvcc::quota::txn_cost(txn));
                let answer = mvcc::Apply::new(&mut self.store, &mut self.work).txn(txn)?;
                self.dirty = true;
                room.map(|()| Response::Txn(answer))
            }
            Request::Compaction(compaction) => {
                let compaction = mvcc::Apply::new(&mut self.store, &mut self.work).compact(compaction)?;
                self.dirty = true;
                let response = compaction.response;
                self.compaction_accepted(compaction, actions);
                Ok(Response::Compact(response))
            }
            Request::LeaseGrant(grant) => {
                let room = self.within_quota(mvcc::quota::LEASE_COST);
                let answer = self.apply_grant(grant, now)?;
                room.map(|()| answer)
            }
            Request::LeaseRevoke(revoke) => self.apply_lease_revoke(revoke.id, actions),
            Request::Alarm(_) | Request::Other(_) => unreachable!("answered above"),
        }
    }

    /// What the cluster says to itself. A request that this version does not know was written by a newer one, which
    /// never runs beside it: the cluster version forbids it. Ignoring it here keeps a downgrade possible.
    fn apply_other(&mut self, message: &pb::InternalRaftRequest, now: Millis, actions: &mut Vec<Action>) {
        if let Some(set) = &message.cluster_version_set {
            self.set_cluster_version(&set.ver, actions);
        } else if let Some(set) = &message.cluster_member_attr_set {
            self.set_attributes(set);
        } else if let Some(checkpoints) = &message.lease_checkpoint {
            // etcd stops at the first lease that is gone.
            let mut checkpoints = checkpoints.checkpoints.iter();
            while checkpoints.next().is_some_and(|checkpoint| self.apply_lease_checkpoint(checkpoint, now)) {}
        }
    }

    /// Over quota the write is done all the same, and only the answer says so: size never changes state.
    fn within_quota(&self, cost_bytes: u64) -> Result<(), Error> {
        if self.published.has_room_at(self.store.used_bytes(), cost_bytes) {
            Ok(())
        } else {
            Err(errors::NO_SPACE)
        }
    }

    fn apply_lease_revoke(&mut self, id: i64, actions: &mut Vec<Action>) -> Result<Response, Error> {
        if !self.lessor.revoke(id) {
            return Err(errors::LEASE_NOT_FOUND);
        }
        mvcc::Apply::new(&mut self.store, &mut self.work).delete_keys_of_lease(id);
        self.forget_lease(id, actions);
        let header = pb::ResponseHeader { revision: self.revision(), ..Default::default() };
        Ok(Response::LeaseRevoke(pb::LeaseRevokeResponse { header: Some(header) }))
    }
}
