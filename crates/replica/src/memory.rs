//! How much of the store's memory to give back, and when: cold pages beyond the budget, without haste while entries are
//! applied, since giving back costs the cores TLB flushes and page faults and a burst wants the same pages again.
//!
//! Invariant: an idle store comes down to its budget, and a busy one stays below [`BURST_BUDGETS`] of them plus what is
//! not durable yet. Must not know which pages are cold: the tree chooses.

use base::Millis;

/// The store counts as busy so long after the last applied entry.
const BUSY_MS: Millis = 300;
/// How many budgets a busy store may use.
const BURST_BUDGETS: u64 = 4;
/// What a busy store within its burst gives back at each look, bytes: 16 MiB a second.
const TRICKLE_BYTES: u64 = 4 << 20;

pub(crate) struct Memory {
    budget_bytes: u64,
    applied_at: Millis,
}

impl Memory {
    pub fn new(budget_bytes: u64) -> Memory {
        Memory { budget_bytes, applied_at: 0 }
    }

    pub fn applied(&mut self, now: Millis) {
        assert!(now >= self.applied_at, "time does not run backwards");
        self.applied_at = now;
    }

    pub fn idle(&self, now: Millis) -> bool {
        now.saturating_sub(self.applied_at) >= BUSY_MS
    }

    /// Bytes beyond what may be kept now.
    pub fn excess(&self, bytes: u64, now: Millis) -> u64 {
        let budgets = if self.idle(now) { 1 } else { BURST_BUDGETS };
        bytes.saturating_sub(self.budget_bytes.saturating_mul(budgets))
    }

    /// As [`Memory::excess`] for one of the regular looks: a busy store above its budget gives a little.
    pub fn excess_at_look(&self, bytes: u64, now: Millis) -> u64 {
        let beyond = bytes.saturating_sub(self.budget_bytes);
        self.excess(bytes, now).max(beyond.min(TRICKLE_BYTES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_store_gives_all_beyond_its_budget_and_a_busy_one_a_little() {
        let mut memory = Memory::new(100 << 20);
        memory.applied(1000);
        assert_eq!(memory.excess(300 << 20, 1000 + BUSY_MS - 1), 0);
        assert_eq!(memory.excess_at_look(300 << 20, 1000 + BUSY_MS - 1), TRICKLE_BYTES);
        assert_eq!(memory.excess_at_look(101 << 20, 1000), 1 << 20);
        assert_eq!(memory.excess((BURST_BUDGETS + 1) * (100 << 20), 1000), 100 << 20);
        assert_eq!(memory.excess(300 << 20, 1000 + BUSY_MS), 200 << 20);
        assert_eq!(memory.excess_at_look(99 << 20, 5000), 0);
    }
}
