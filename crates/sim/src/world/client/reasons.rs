//! Why a call ended with an error, for the errors that the history does not judge: those that leave open what became of
//! the call, and those to calls that it does not hold. An error without a reason ends the run.
//!
//! Refusals that say that nothing was executed are held against the states that there may have been, by the checkers.

use api::calls::Rpc;
use base::limits::{GRPC_OVERHEAD_BYTES, SNAPSHOT_SPOOLS};
use proto::{Code, Error, errors};

use crate::world::Env;

/// What etcd says when it cannot know, or is about to go.
const UNAVAILABLE: [&Error; 7] = [
    &errors::NO_LEADER,
    &errors::LEADER_CHANGED,
    &errors::STOPPED,
    &errors::TIMEOUT,
    &errors::TIMEOUT_DUE_TO_LEADER_FAIL,
    &errors::TIMEOUT_DUE_TO_CONNECTION_LOST,
    &errors::TIMEOUT_WAIT_APPLIED_INDEX,
];

/// What was asked for, as far as it can be a reason.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    pub rpc: Rpc,
    /// Of the message.
    pub bytes: usize,
    /// Of which a hash was asked for, or 0.
    pub revision: i64,
}

impl Asked {
    /// What is short, and names no revision.
    pub fn of(rpc: Rpc) -> Asked {
        Asked { rpc, bytes: 0, revision: 0 }
    }

    /// Ends the run unless there may have been a reason for this error.
    pub fn demand_reason(self, env: &Env, error: &Error) {
        let Error { code, message } = error;
        assert!(self.has_reason(env, error), "{} had no reason for {code:?}: {message}", self.rpc.path());
    }

    fn has_reason(self, env: &Env, error: &Error) -> bool {
        let sizes = &env.profile.sizes;
        if *error == errors::NO_SPACE {
            let stores = matches!(self.rpc, Rpc::Put | Rpc::Txn | Rpc::LeaseGrant);
            let over_quota = sizes.quota_bytes > 0 && stores;
            // Tombstones take room, and have but a part of the reserve.
            let removes = matches!(self.rpc, Rpc::DeleteRange | Rpc::LeaseRevoke);
            return over_quota || env.was_short_of_room && (stores || removes);
        }
        if *error == errors::REQUEST_TOO_MANY_REQUESTS {
            let too_many = self.rpc == Rpc::Snapshot && env.snapshots > SNAPSHOT_SPOOLS;
            return too_many || env.strained_until_us != 0;
        }
        if *error == errors::COMPACTED {
            return self.rpc == Rpc::HashKV && self.revision > 0 && self.revision < env.compaction_max;
        }
        match error.code {
            Code::ResourceExhausted => {
                let max_bytes = sizes.max_request_bytes + GRPC_OVERHEAD_BYTES;
                let text = format!("grpc: received message larger than max ({} vs. {max_bytes})", self.bytes);
                self.bytes > max_bytes && error.message == text
            }
            Code::Unavailable => UNAVAILABLE.contains(&error),
            _ => false,
        }
    }
}
