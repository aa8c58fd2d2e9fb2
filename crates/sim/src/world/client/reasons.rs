//! Why a call ended with an error, for the errors that the history does not judge: those that leave open what became of
//! the call, and those to calls that it does not hold. An error without a reason ends the run.
//!
//! Refusals that say that nothing was executed are held against the states that there may have been, by the checkers.

use api::calls::Rpc;
use base::limits::{GRPC_OVERHEAD_BYTES, PREFACE_TIMEOUT_MS, SETTINGS_ACK_TIMEOUT_MS};
use net::ErrorCode;
use proto::{Code, Error, errors};

use super::workload::Ask;
use crate::world::Env;

/// What was asked for, as far as it can be a reason.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    pub rpc: Rpc,
    /// When, microseconds; of a stream, when its connection began.
    since_us: u64,
    /// The same by the clock of the member's machine.
    since_clock_us: u64,
    /// Of the message.
    bytes: usize,
    /// What it is to cost where there is a quota; 0: it stores nothing.
    cost_bytes: u64,
    /// Changes something: also what stores nothing takes room.
    writes: bool,
    /// Of which a hash or a range was asked for, or 0.
    revision: i64,
}

impl Asked {
    /// Of a stream: what is short, names no revision, and writes nothing.
    pub fn of_stream(rpc: Rpc, since_us: u64) -> Asked {
        Asked { rpc, since_us, since_clock_us: 0, bytes: 0, cost_bytes: 0, writes: false, revision: 0 }
    }

    /// Asked now.
    pub fn new(env: &Env, ask: &Ask, rpc: Rpc, bytes: usize) -> Asked {
        let (cost_bytes, writes, revision) = match ask {
            Ask::Put(put) => (mvcc::quota::put_cost(put), true, 0),
            Ask::Txn(txn) => (mvcc::quota::txn_cost(txn), !mvcc::is_read_only(txn), 0),
            Ask::Grant(_) => (mvcc::quota::LEASE_COST, true, 0),
            Ask::Delete(_) | Ask::Revoke(_) => (0, true, 0),
            Ask::Hash(hash) => (0, false, hash.revision),
            Ask::Range(range) | Ask::OddRange(range) => (0, false, range.revision),
            _ => (0, false, 0),
        };
        let (since_us, since_clock_us) = (env.now_us, env.history_us());
        Asked { rpc, since_us, since_clock_us, bytes, cost_bytes, writes, revision }
    }

    pub fn cost_bytes(&self) -> u64 {
        self.cost_bytes
    }

    /// Ends the run unless there may have been a reason for this error.
    pub fn demand_reason(self, env: &Env, error: &Error) {
        let Error { code, message } = error;
        assert!(self.has_reason(env, error), "{} had no reason for {code:?}: {message}", self.rpc.path());
    }

    /// The same of a stream that is reset.
    pub fn demand_reason_of_reset(self, env: &Env, code: ErrorCode) {
        let unfinished = self.rpc == Rpc::Range && code == ErrorCode::INTERNAL_ERROR;
        let aged_us = env.history_us() - self.since_clock_us;
        let has_reason = unfinished && env.causes.of_long_read(self.since_us, aged_us, self.revision);
        assert!(has_reason, "{} had no reason to be reset: {code:?}", self.rpc.path());
    }

    fn has_reason(self, env: &Env, error: &Error) -> bool {
        let (sizes, causes) = (&env.profile.sizes, &env.causes);
        if *error == errors::NO_SPACE {
            // Whoever is told so finds the alarm up, unless room on the disk was short for just this: tombstones take
            // some, too, and have but a part of the reserve.
            let alarm = causes.of_alarm(self.since_us);
            let short = causes.short_of_room && (alarm || env.strained_until_us != 0);
            return self.cost_bytes > 0 && alarm || self.writes && short;
        }
        if *error == errors::REQUEST_TOO_MANY_REQUESTS {
            let too_many = self.rpc == Rpc::Snapshot && causes.of_too_many_snapshots();
            return too_many || env.strained_until_us != 0;
        }
        if *error == errors::COMPACTED {
            return self.rpc == Rpc::HashKV && causes.of_compacted(self.revision);
        }
        if *error == errors::STOPPED {
            return causes.of_stop(self.since_us);
        }
        if *error == errors::TIMEOUT {
            // What works, and does not wait to be agreed on, takes as long as it takes.
            let works = matches!(self.rpc, Rpc::Defragment | Rpc::HashKV | Rpc::Snapshot);
            return !works && causes.of_timeout(self.since_us);
        }
        let max_bytes = sizes.max_request_bytes + GRPC_OVERHEAD_BYTES;
        let text = format!("grpc: received message larger than max ({} vs. {max_bytes})", self.bytes);
        error.code == Code::ResourceExhausted && self.bytes > max_bytes && error.message == text
    }
}

/// Ends the run unless there was a reason to end a connection of then for this error: its time was up by the member's clock,
/// and somebody was held up, or the clock jumped.
pub(super) fn demand_reason_of_end(
    env: &Env,
    since_us: u64,
    since_clock_us: u64,
    code: ErrorCode,
    why: &str,
) {
    let aged_us = env.history_us() - since_clock_us;
    let after_ms = match code {
        ErrorCode::SETTINGS_TIMEOUT => SETTINGS_ACK_TIMEOUT_MS,
        ErrorCode::PROTOCOL_ERROR if why == "no connection preface in time" => PREFACE_TIMEOUT_MS,
        _ => u64::MAX / 1000,
    };
    let has_reason = aged_us >= 1000 * after_ms && env.causes.of_timeout(since_us);
    assert!(has_reason, "a connection ends with {code:?}: {why}");
}
