//! Applying one committed request: the order of etcd's checks (corrupt, no space, quota) and then the change itself.
//!
//! A function of (state, request) alone (law 9): the clock feeds only when leases expire, which every leader decides
//! anew; whether anybody watches or waits changes what is collected, never what is stored.

use base::Millis;
use proto::errors::{self, Error};
use proto::etcdserverpb as pb;

use crate::event::{Action, Response};
use crate::state::State;

/// What etcd charges the quota for a lease, bytes.
const LEASE_COST_BYTES: u64 = 64;

impl State {
    /// Applies a request; the answer is for whoever proposed it.
    pub(crate) fn apply(
        &mut self,
        request: pb::InternalRaftRequest,
        now: Millis,
        actions: &mut Vec<Action>,
    ) -> Result<Response, Error> {
        let nothing = Ok(Response::Barrier);
        if let Some(set) = request.cluster_version_set {
            self.set_cluster_version(&set.ver, actions);
            return nothing;
        }
        if let Some(set) = request.cluster_member_attr_set {
            self.set_attributes(set);
            return nothing;
        }
        if let Some(alarm) = request.alarm {
            return Ok(Response::Alarm(self.apply_alarm(&alarm, actions)));
        }
        if let Some(checkpoints) = request.lease_checkpoint {
            for checkpoint in &checkpoints.checkpoints {
                self.apply_lease_checkpoint(checkpoint, now);
            }
            return nothing;
        }
        // Under CORRUPT every other request that changes keys or leases is refused.
        if self.has_alarm(pb::AlarmType::Corrupt) {
            return Err(errors::CORRUPT);
        }
        if let Some(put) = request.put {
            return self.apply_put(&put);
        }
        if let Some(delete) = request.delete_range {
            let answer = mvcc::Apply::new(&mut self.store, &mut self.work).delete_range(&delete);
            self.dirty = true;
            return Ok(Response::DeleteRange(answer));
        }
        if let Some(txn) = request.txn {
            return self.apply_txn(&txn);
        }
        if let Some(compaction) = request.compaction {
            return self.apply_compaction(&compaction, actions);
        }
        if let Some(grant) = request.lease_grant {
            return self.apply_lease_grant(&grant, now);
        }
        if let Some(revoke) = request.lease_revoke {
            return self.apply_lease_revoke(revoke.id, actions);
        }
        // What this version does not know was written by a newer one, which never runs beside it: the cluster
        // version forbids it. Ignoring it here keeps a downgrade possible.
        nothing
    }

    /// Over quota the write is done all the same, and only the answer says so: size never changes state.
    fn within_quota(&self, cost_bytes: u64) -> Result<(), Error> {
        if self.published.has_room_at(self.store.used_bytes(), cost_bytes) {
            Ok(())
        } else {
            Err(errors::NO_SPACE)
        }
    }

    fn apply_put(&mut self, put: &pb::PutRequest) -> Result<Response, Error> {
        if self.has_alarm(pb::AlarmType::Nospace) {
            return Err(errors::NO_SPACE);
        }
        let room = self.within_quota(mvcc::quota::put_cost(put));
        let answer = mvcc::Apply::new(&mut self.store, &mut self.work).put(put)?;
        self.dirty = true;
        room.map(|()| Response::Put(answer))
    }

    fn apply_txn(&mut self, txn: &pb::TxnRequest) -> Result<Response, Error> {
        let cost_bytes = mvcc::quota::txn_cost(txn);
        if cost_bytes > 0 && self.has_alarm(pb::AlarmType::Nospace) {
            return Err(errors::NO_SPACE);
        }
        let room = if cost_bytes == 0 { Ok(()) } else { self.within_quota(cost_bytes) };
        let answer = mvcc::Apply::new(&mut self.store, &mut self.work).txn(txn)?;
        self.dirty = true;
        room.map(|()| Response::Txn(answer))
    }

    fn apply_compaction(
        &mut self,
        request: &pb::CompactionRequest,
        actions: &mut Vec<Action>,
    ) -> Result<Response, Error> {
        let compaction = mvcc::Apply::new(&mut self.store, &mut self.work).compact(request)?;
        self.dirty = true;
        let response = compaction.response.clone();
        self.compactions.accepted(compaction, request.physical, actions);
        Ok(Response::Compact(response))
    }

    fn apply_lease_grant(&mut self, grant: &pb::LeaseGrantRequest, now: Millis) -> Result<Response, Error> {
        if self.has_alarm(pb::AlarmType::Nospace) {
            return Err(errors::NO_SPACE);
        }
        let room = self.within_quota(LEASE_COST_BYTES);
        let answer = self.apply_grant(grant, now)?;
        room.map(|()| answer)
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
