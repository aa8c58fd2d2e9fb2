//! What the log core and the helpers count: histograms and totals with one writer each, read by the renderer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of etcd's disk histograms, microseconds: 1 ms doubling to 8.192 s.
pub const BOUNDS_US: [u64; 14] = {
    let mut bounds = [1000; 14];
    let mut i = 1;
    while i < 14 {
        bounds[i] = bounds[i - 1] * 2;
        i += 1;
    }
    bounds
};

#[derive(Default)]
pub struct Histogram {
    /// Not cumulative; the last counts what is above every bound.
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    pub fn observe(&self, duration: Duration) {
        let us = duration.as_micros() as u64;
        let bucket = BOUNDS_US.iter().position(|&bound| us <= bound).unwrap_or(BOUNDS_US.len());
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// Counts by bucket, not cumulative, and the sum in seconds.
    pub fn read(&self) -> ([u64; BOUNDS_US.len() + 1], f64) {
        let counts = std::array::from_fn(|i| self.buckets[i].load(Ordering::Relaxed));
        (counts, self.sum_us.load(Ordering::Relaxed) as f64 / 1e6)
    }
}

/// See the module.
#[derive(Default)]
pub struct CoreMeter {
    pub log_writes: Histogram,
    pub checkpoints: Histogram,
    pub log_bytes: AtomicU64,
    pub leader_changes: AtomicU64,
}

impl CoreMeter {
    pub fn log_write(&self, took: Duration, bytes: u64) {
        self.log_writes.observe(took);
        self.log_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}
