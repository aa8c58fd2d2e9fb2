//! Whether a core sleeps, and so must be woken: the half of a doorbell that is no system call.
//!
//! Sleeper: announce, look once more for work, sleep. Waker: put the work where the sleeper looks, then ring. Between
//! the two steps of either side stands a sequentially consistent fence, and of two fences one comes first: so either the
//! sleeper's look finds the work, or the waker sees that the sleeper sleeps. A sequentially consistent store in place of
//! the sleeper's fence is not enough: the look's loads acquire only, and may come before it.
//!
//! A wake-up is used up by the swap in [`SleepFlag::ring`]; it must stay until the sleeper takes it, as an eventfd's count
//! does, for the sleeper may not be asleep yet. A waker that comes second finds the flag down and wakes nobody: the sleeper
//! announces and looks once more before it sleeps again.

use crate::sync::{AtomicBool, Ordering, fence};

/// Shared by one sleeper and any number of wakers.
#[derive(Debug)]
pub struct SleepFlag {
    asleep: AtomicBool,
}

impl Default for SleepFlag {
    fn default() -> SleepFlag {
        SleepFlag { asleep: AtomicBool::new(false) }
    }
}

impl SleepFlag {
    /// By the sleeper: from now on rings wake. Look for work once more before sleeping.
    pub fn announce_sleep(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// By the sleeper, awake again, or when it found work after all. A wake-up may be under way nevertheless.
    pub fn announce_awake(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    /// By anyone who has put work down: calls `wake` when the sleeper is to be woken by this caller.
    pub fn ring(&self, wake: impl FnOnce()) {
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed) {
            wake();
        }
    }
}
