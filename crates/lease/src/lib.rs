//! Leases: which exist, when they expire, and which of etcd's rules decide about them. Pure.
//!
//! The durable state (lease records, the keys attached to a lease) belongs to the caller's trees; this crate holds
//! the part that only a running member has: the clock side. [`Lessor`] is fed every applied grant, revoke and
//! checkpoint on every member, and knows besides whether this member is the primary (the Raft leader). Only the
//! primary has expiries; everywhere else a lease lasts forever, until a promotion gives it a fresh one.
//!
//! Invariants:
//! - `grant`, `revoke` and `checkpoint` decide by replicated state only, never by the clock: they run in apply.
//! - Nothing expires here. An expired lease is *reported*, the primary proposes its revocation, and `revoke` removes
//!   it on every member at the same index.
//! - An expired lease is never renewed: whoever keeps it alive waits for its revocation or for a demotion.
//! - A renewal costs one hash look-up: the expiry queue is corrected when the old time comes up.
//!
//! Must not: read a clock, propose, know keys, know the network.

mod lessor;
mod promotion;
mod queue;

pub use lessor::{GrantError, Lease, Lessor, Options, Renewal, TimeToLive};

use base::Millis;

/// Between two scans for expired leases, as etcd's lessor does.
pub const SCAN_INTERVAL_MS: Millis = 500;
/// An expired lease that was reported and is still here is reported again after this.
pub const REVOKE_RETRY_MS: Millis = 3_000;
/// Between two checkpoints of one lease, where checkpointing is on.
pub const CHECKPOINT_INTERVAL_S: i64 = 300;

/// The smallest TTL that a member grants, seconds: one and a half election timeouts, rounded up. Whole ticks are
/// counted before the multiplication, as etcd does: 10 ticks of 100 ms give 2 s.
pub fn min_ttl_s(election_ticks: u64, heartbeat_ms: u64) -> i64 {
    let ms = (3 * election_ticks / 2) * heartbeat_ms;
    i64::try_from(ms.div_ceil(1000)).expect("an election timeout is a matter of seconds")
}
