//! Counters of one shard: written by its thread alone, read by whoever renders metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::calls::TABLE;

/// gRPC has 17 status codes.
pub const CODES: usize = 17;

/// A counter with one writer: a load and a store, no locked instruction.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// For gauges.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one shard counts, by method where it says so.
pub struct Meter {
    pub started: [Counter; TABLE.len()],
    pub handled: [[Counter; CODES]; TABLE.len()],
    pub messages_received: [Counter; TABLE.len()],
    pub messages_sent: [Counter; TABLE.len()],
    pub received_bytes: Counter,
    pub sent_bytes: Counter,
    pub watchers: Counter,
    pub watch_streams: Counter,
    /// Gauge: behind or waiting for their clients.
    pub slow_watchers: Counter,
    pub watch_events: Counter,
}

impl Default for Meter {
    fn default() -> Meter {
        Meter {
            started: std::array::from_fn(|_| Counter::default()),
            handled: std::array::from_fn(|_| std::array::from_fn(|_| Counter::default())),
            messages_received: std::array::from_fn(|_| Counter::default()),
            messages_sent: std::array::from_fn(|_| Counter::default()),
            received_bytes: Counter::default(),
            sent_bytes: Counter::default(),
            watchers: Counter::default(),
            watch_streams: Counter::default(),
            slow_watchers: Counter::default(),
            watch_events: Counter::default(),
        }
    }
}
