//! Counters, gauges and histograms that cost a load and a store: each is written by one thread and read by the
//! renderer.
//!
//! Invariant: single writer. Two threads that write one cell lose counts (and nothing worse); everything that several
//! threads count has a cell per thread.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use super::table::find;

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
    pub fn store(&self, total: u64) {
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

/// Counts by bucket, with the bounds of the table's row. Observes raw values: nanoseconds, or what the row says.
#[derive(Debug)]
pub struct Histogram {
    /// Upper bounds, raw, inclusive.
    bounds: Box<[u64]>,
    /// One more than bounds.
    counts: Box<[Counter]>,
    sum: Counter,
    raw_per_unit: f64,
}

impl Histogram {
    /// With the buckets of the family `name`.
    pub fn new(name: &str) -> Histogram {
        let row = find(name);
        let bounds: Box<[u64]> =
            row.buckets.bounds().iter().map(|bound| (bound * row.raw_per_unit).round() as u64).collect();
        assert!(!bounds.is_empty(), "{name} has buckets");
        let counts = (0..=bounds.len()).map(|_| Counter::default()).collect();
        Histogram { bounds, counts, sum: Counter::default(), raw_per_unit: row.raw_per_unit }
    }

    pub fn observe(&self, raw: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < raw);
        self.counts[bucket].inc();
        self.sum.add(raw);
    }

    pub fn observe_duration(&self, duration: std::time::Duration) {
        self.observe(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Counts by bucket (not cumulative), and the sum in the metric's unit.
    pub fn read(&self) -> (Vec<u64>, f64) {
        (self.counts.iter().map(Counter::get).collect(), self.sum.get() as f64 / self.raw_per_unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_inclusive_above() {
        let histogram = Histogram::new("etcd_disk_wal_fsync_duration_seconds");
        for raw in [0, 999_999, 1_000_000, 1_000_001, 8_192_000_000, 8_192_000_001, u64::MAX / 4] {
            histogram.observe(raw);
        }
        let (counts, sum) = histogram.read();
        assert_eq!(counts.len(), 15);
        assert_eq!((counts[0], counts[1], counts[13], counts[14]), (3, 1, 1, 2));
        assert!(sum > 4e9);
    }

    #[test]
    fn milliseconds_count_nanoseconds() {
        let histogram = Histogram::new("etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds");
        histogram.observe_duration(std::time::Duration::from_micros(1500));
        let (counts, sum) = histogram.read();
        assert_eq!((counts[0], counts[1], sum), (0, 1, 1.5));
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
