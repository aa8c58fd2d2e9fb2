//! When to make a checkpoint. How one is made is the tree's business; this decides only the moment.

use base::Millis;

/// Whichever comes first. All three keep a restart short: they bound what the log must replay.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Pages changed since the last cut, bytes.
    pub dirty_bytes: u64,
    /// Log written since the last release, bytes.
    pub log_bytes: u64,
    /// Time since the last cut while anything is dirty.
    pub interval_ms: Millis,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy { dirty_bytes: 32 << 20, log_bytes: 128 << 20, interval_ms: 60_000 }
    }
}

pub(crate) struct Checkpoints {
    policy: Policy,
    last: Option<Millis>,
    running: bool,
}

impl Checkpoints {
    pub fn new(policy: Policy) -> Checkpoints {
        Checkpoints { policy, last: None, running: false }
    }

    pub fn running(&self) -> bool {
        self.running
    }

    pub fn due(&mut self, now: Millis, store: &tree::Store, log: &wal::Wal, stopping: bool) -> bool {
        if self.running {
            return false;
        }
        let dirty_bytes = store.dirty_bytes();
        if dirty_bytes == 0 {
            return false;
        }
        let last = *self.last.get_or_insert(now);
        !stopping
            && (dirty_bytes >= self.policy.dirty_bytes
                || log.bytes_since_release() >= self.policy.log_bytes
                || now.saturating_sub(last) >= self.policy.interval_ms)
    }

    pub fn started(&mut self, now: Millis) {
        assert!(!self.running, "one checkpoint at a time");
        self.running = true;
        self.last = Some(now);
    }

    pub fn finished(&mut self) {
        assert!(self.running, "a checkpoint that ends has begun");
        self.running = false;
    }
}
