//! What one shard counts: written by its thread alone, read by whoever renders metrics.
//!
//! Nothing here costs more than a load and a store, and no clock is read for a call: `turn` says how times are come
//! by.

mod cells;
mod operation;
pub(crate) mod turn;
mod versions;

pub use cells::{Counter, Gauge, Histogram};
pub use operation::{ByOperation, Operation};
pub use turn::{Answer, Opening, Slow};
pub use versions::{CLIENT_VERSIONS, ClientVersions};

use crate::calls::{Rpc, TABLE};

/// gRPC has 17 status codes.
pub const CODES: usize = 17;

const MS: u64 = 1_000_000;

/// See the module. Arrays by method are in the order of [`TABLE`].
#[derive(Debug)]
pub struct Meter {
    pub started: [Counter; TABLE.len()],
    /// By code.
    pub handled: [[Counter; CODES]; TABLE.len()],
    pub messages_received: [Counter; TABLE.len()],
    pub messages_sent: [Counter; TABLE.len()],
    /// Times of calls, when asked for.
    handling: Option<Box<[Histogram]>>,
    /// On the sockets, HTTP/2's own included.
    pub received_bytes: Counter,
    pub sent_bytes: Counter,
    pub client_versions: ClientVersions,
    /// Ranges read here, those inside read-only transactions included.
    pub ranges: Counter,
    /// Read-only transactions of more than one range.
    pub read_txns: Counter,
    pub range_ok: Histogram,
    pub range_failed: Histogram,
    pub requests: ByOperation,
    pub barriers_failed: Counter,
    pub barriers_slow: Counter,
    pub proposals_pending: Gauge,
    pub proposals_failed: Counter,
    /// Keys and values of puts that were done.
    pub put_bytes: Counter,
    /// Answers that hold a snapshot from turn to turn.
    pub long_reads: Gauge,
    pub watchers: Gauge,
    pub watch_streams: Gauge,
    /// Behind, or waiting for their clients.
    pub slow_watchers: Gauge,
    pub watch_events: Counter,
    pub watch_send_events: Histogram,
    pub watch_send_per_event: Histogram,
    pub watch_send_control: Histogram,
    pub watch_send_progress: Histogram,
    pub snapshot_export: Histogram,
    pub hash: Histogram,
    pub hash_rev: Histogram,
    pub defrag: Histogram,
    /// Defragmentations that somebody waits for.
    pub defrags: Gauge,
}

impl Meter {
    /// `extensive`: with times of calls by method (--metrics=extensive).
    pub fn new(extensive: bool) -> Meter {
        let counters = || std::array::from_fn(|_| Counter::default());
        let handling = || {
            let bounds_ms = [5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000];
            TABLE.iter().map(|_| Histogram::new(bounds_ms.map(|bound| bound * MS))).collect()
        };
        Meter {
            started: counters(),
            handled: std::array::from_fn(|_| std::array::from_fn(|_| Counter::default())),
            messages_received: counters(),
            messages_sent: counters(),
            handling: extensive.then(handling),
            received_bytes: Counter::default(),
            sent_bytes: Counter::default(),
            client_versions: ClientVersions::default(),
            ranges: Counter::default(),
            read_txns: Counter::default(),
            range_ok: Histogram::doubling(MS / 10, 20),
            range_failed: Histogram::doubling(MS / 10, 20),
            requests: ByOperation::doubling(MS, 14),
            barriers_failed: Counter::default(),
            barriers_slow: Counter::default(),
            proposals_pending: Gauge::default(),
            proposals_failed: Counter::default(),
            put_bytes: Counter::default(),
            long_reads: Gauge::default(),
            watchers: Gauge::default(),
            watch_streams: Gauge::default(),
            slow_watchers: Gauge::default(),
            watch_events: Counter::default(),
            watch_send_events: Histogram::doubling(MS, 14),
            watch_send_per_event: Histogram::doubling(MS, 14),
            watch_send_control: Histogram::doubling(MS, 14),
            watch_send_progress: Histogram::doubling(MS, 14),
            snapshot_export: Histogram::doubling(10 * MS, 17),
            hash: Histogram::doubling(10 * MS, 15),
            hash_rev: Histogram::doubling(10 * MS, 15),
            defrag: Histogram::doubling(100 * MS, 13),
            defrags: Gauge::default(),
        }
    }

    /// Times of calls of this method; `None` when nobody asked for them.
    pub fn handling(&self, rpc: Rpc) -> Option<&Histogram> {
        Some(&self.handling.as_ref()?[rpc as usize])
    }
}

impl Default for Meter {
    fn default() -> Meter {
        Meter::new(false)
    }
}
