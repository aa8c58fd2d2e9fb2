//! When to make a checkpoint, how fast it may write, and when proposals must wait for one. How one is made is the
//! tree's business.
//!
//! Invariant: pages that wait for a checkpoint, and the log that a restart would replay, stay below the hard limits
//! of [`Policy`] and what was under way when they were reached (laws 8 and 14).

use base::Millis;
use base::limits;

/// Whichever comes first makes a checkpoint due; all of them keep a restart short.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Pages changed since the last cut, bytes.
    pub dirty_bytes: u64,
    /// Log written since the last checkpoint, bytes. What the log keeps is twice as much: it reaches back to the
    /// checkpoint before.
    pub log_bytes: u64,
    /// Segments with entries that the last checkpoint does not cover.
    pub log_segments: usize,
    /// Time since the last cut while anything has changed.
    pub interval_ms: Millis,
    /// What a checkpoint may write in a second while nothing presses, bytes.
    pub bytes_per_second: u64,
    /// Pages not yet durable, bytes: above the first a checkpoint writes as fast as it can, above the second
    /// proposals are refused.
    pub dirty_soft_bytes: u64,
    pub dirty_hard_bytes: u64,
    /// The same for the log: what a restart would replay, and what it would read.
    pub log_soft_bytes: u64,
    pub log_hard_bytes: u64,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            dirty_bytes: 256 << 20,
            log_bytes: 128 << 20,
            log_segments: limits::LOG_SEGMENTS_MAX,
            interval_ms: 60_000,
            bytes_per_second: limits::CHECKPOINT_BYTES_PER_SECOND,
            dirty_soft_bytes: limits::DIRTY_SOFT_BYTES,
            dirty_hard_bytes: limits::DIRTY_HARD_BYTES,
            log_soft_bytes: limits::LOG_SOFT_BYTES,
            log_hard_bytes: limits::LOG_HARD_BYTES,
        }
    }
}

/// A full disk is relieved by checkpoints that free what was superseded; but only so often, however many requests find no
/// room.
const RELIEF_INTERVAL_MS: Millis = 1000;

pub(crate) struct Checkpoints {
    policy: Policy,
    /// When the last one was cut.
    last: Option<Millis>,
    /// What the running one writes, bytes.
    running: Option<u64>,
    relief: u32,
    relief_again_at: Millis,
}

/// What the decision depends on.
pub(crate) struct Standing<'a> {
    pub now: Millis,
    pub store: &'a tree::Store,
    pub log: &'a wal::Wal,
    /// Somebody waits for the present state to be durable.
    pub wanted: bool,
    /// Memory is above its budget and nothing is written: what is durable can leave it.
    pub memory_wanted: bool,
    /// The log cannot have another segment until some are released.
    pub log_full: bool,
    /// A checkpoint, even of nothing new, would let go of log: what the older meta alone still needs.
    pub releases: bool,
    /// A defragmentation waits for one, even of nothing new: for pages or the file's tail to come out of the metas' reach.
    pub defragmenting: bool,
    /// It is the last one.
    pub stopping: bool,
}

impl Standing<'_> {
    fn changed(&self) -> bool {
        self.store.stamp() != self.store.durable_stamp() || self.store.dirty_bytes() > 0
    }
}

impl Checkpoints {
    pub fn new(policy: Policy) -> Checkpoints {
        assert!(policy.dirty_soft_bytes <= policy.dirty_hard_bytes, "soft comes before hard");
        assert!(policy.log_soft_bytes <= policy.log_hard_bytes, "soft comes before hard");
        Checkpoints { policy, last: None, running: None, relief: 0, relief_again_at: 0 }
    }

    pub fn running(&self) -> bool {
        self.running.is_some()
    }

    pub fn due(&mut self, standing: &Standing<'_>) -> bool {
        if self.running() {
            return false;
        }
        let log_full = standing.log_full && standing.log.segments() > 1;
        let log_long = standing.log.bytes_since_release() >= self.policy.log_hard_bytes;
        if !standing.changed() {
            return standing.defragmenting
                || (self.relief > 0 && standing.store.waiting_bytes() > 0)
                || (standing.releases && (log_full || log_long));
        }
        let last = *self.last.get_or_insert(standing.now);
        standing.wanted
            || standing.defragmenting
            || standing.stopping
            || standing.memory_wanted
            || self.relief > 0
            || log_full
            || log_long
            || standing.store.dirty_bytes() >= self.policy.dirty_bytes
            || standing.log.bytes_since_checkpoint() >= self.policy.log_bytes
            || standing.log.segments_since_checkpoint() >= self.policy.log_segments
            || standing.now.saturating_sub(last) >= self.policy.interval_ms
    }

    /// Room in the data file ran out: superseded pages must come free.
    pub fn relieve(&mut self, now: Millis) {
        if self.relief == 0 && now >= self.relief_again_at {
            self.relief = tree::FREEING_CHECKPOINTS;
            self.relief_again_at = now + RELIEF_INTERVAL_MS;
        }
    }

    /// The same, for whom nobody else is kept waiting: without regard to the last time.
    pub fn relieve_at_once(&mut self) {
        if self.relief == 0 {
            self.relief = tree::FREEING_CHECKPOINTS;
        }
    }

    pub fn started(&mut self, now: Millis, bytes: u64) {
        assert!(!self.running(), "one checkpoint at a time");
        self.running = Some(bytes);
        self.relief = self.relief.saturating_sub(1);
        self.last = Some(now);
    }

    pub fn finished(&mut self) {
        assert!(self.running(), "a checkpoint that ends has begun");
        self.running = None;
    }

    fn not_durable_bytes(&self, store: &tree::Store) -> u64 {
        store.dirty_bytes() + self.running.unwrap_or(0)
    }

    /// Whether proposals must wait for a checkpoint to end.
    pub fn overdue(&self, store: &tree::Store, log: &wal::Wal) -> bool {
        self.not_durable_bytes(store) >= self.policy.dirty_hard_bytes
            || log.bytes_since_release() >= self.policy.log_hard_bytes
    }

    /// What the running checkpoint may write in a second, bytes; 0 is no limit.
    pub fn bandwidth(&self, store: &tree::Store, log: &wal::Wal, hurry: bool) -> u64 {
        let pressed = hurry
            || self.relief > 0
            || self.not_durable_bytes(store) >= self.policy.dirty_soft_bytes
            || log.bytes_since_checkpoint() >= self.policy.log_soft_bytes;
        if pressed { 0 } else { self.policy.bytes_per_second }
    }
}
