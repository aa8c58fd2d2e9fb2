//! Counters, gauges and histograms that cost a load and a store: each is written by one thread and read by whoever
//! renders metrics.
//!
//! Invariant: single writer. Two threads that write one cell lose counts (and nothing worse); everything that several
//! threads count has a cell per thread.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// Only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn inc(&self) {
        self.add(1);
    }

    pub fn add(&self, n: u64) {
        // Not fetch_add: a locked instruction costs more than the whole rest.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// For counts that the owner keeps elsewhere; must not fall.
    pub fn set(&self, total: u64) {
        self.0.store(total, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub fn add(&self, n: i64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts by bucket. What it observes is raw: nanoseconds for times, else the metric's own unit.
#[derive(Debug)]
pub struct Histogram {
    /// Upper bounds, inclusive.
    bounds: Box<[u64]>,
    /// One more than bounds.
    counts: Box<[Counter]>,
    sum: Counter,
}

impl Histogram {
    /// Rising upper bounds, raw.
    pub fn new(bounds: impl Into<Box<[u64]>>) -> Histogram {
        let bounds = bounds.into();
        assert!(!bounds.is_empty() && bounds.is_sorted(), "a histogram has rising bounds");
        let counts = (0..=bounds.len()).map(|_| Counter::default()).collect();
        Histogram { bounds, counts, sum: Counter::default() }
    }

    /// `count` bounds, each twice the one before.
    pub fn doubling(first: u64, count: usize) -> Histogram {
        Histogram::new((0..count).map(|n| first << n).collect::<Vec<u64>>())
    }

    pub fn observe(&self, raw: u64) {
        self.observe_many(raw, 1);
    }

    /// The same value `n` times.
    pub fn observe_many(&self, raw: u64, n: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < raw);
        self.counts[bucket].add(n);
        self.sum.add(raw.wrapping_mul(n));
    }

    pub fn observe_duration(&self, duration: Duration) {
        self.observe(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    pub fn bounds(&self) -> &[u64] {
        &self.bounds
    }

    /// Counts by bucket, not cumulative, and the sum, raw.
    pub fn read(&self) -> (Vec<u64>, u64) {
        (self.counts.iter().map(Counter::get).collect(), self.sum.get())
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().map(Counter::get).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_inclusive_above() {
        let histogram = Histogram::doubling(1000, 3);
        assert_eq!(histogram.bounds(), [1000, 2000, 4000]);
        for raw in [0, 1000, 1001, 4000, 4001] {
            histogram.observe(raw);
        }
        histogram.observe_many(5000, 3);
        assert_eq!(histogram.read(), (vec![2, 1, 1, 4], 10_002 + 15_000));
        assert_eq!(histogram.count(), 8);
        histogram.observe_duration(Duration::from_micros(2));
        assert_eq!(histogram.read().0, [2, 2, 1, 4]);
    }

    #[test]
    fn gauges_and_counters() {
        let gauge = Gauge::default();
        gauge.add(3);
        gauge.add(-5);
        assert_eq!(gauge.get(), -2);
        let counter = Counter::default();
        counter.add(2);
        counter.inc();
        assert_eq!(counter.get(), 3);
    }
}
