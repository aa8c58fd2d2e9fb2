//! What the edge and the peers count, and the plain facts of the member that are read at a scrape. What shards and
//! the log core count is theirs: `api::Meter` and `core::meter::CoreMeter`.

use std::sync::{Mutex, MutexGuard};

use api::meter::{Counter, Gauge, Histogram};

/// Names of gRPC's codes by number.
pub static CODES: [&str; api::meter::CODES] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// One outcome of one check of /livez or /readyz.
#[derive(Clone, Copy, Debug, Default)]
pub struct CheckCount {
    pub ok: u64,
    pub failed: u64,
    pub last_ok: bool,
}

/// What the edge counts. Written by its thread; the checks stand behind a lock, as they are few and slow.
#[derive(Debug, Default)]
pub struct EdgeMetrics {
    pub healthy: Counter,
    pub unhealthy: Counter,
    pub scrapes: Counter,
    /// Kind ("livez", "readyz"), name, counts.
    checks: Mutex<Vec<(&'static str, &'static str, CheckCount)>>,
}

impl EdgeMetrics {
    pub fn check(&self, kind: &'static str, name: &'static str, ok: bool) {
        let mut checks = lock(&self.checks);
        let at = match checks.iter().position(|(k, n, _)| (*k, *n) == (kind, name)) {
            Some(at) => at,
            None => {
                checks.push((kind, name, CheckCount::default()));
                checks.len() - 1
            }
        };
        let count = &mut checks[at].2;
        *(if ok { &mut count.ok } else { &mut count.failed }) += 1;
        count.last_ok = ok;
    }

    pub(super) fn checks(&self) -> Vec<(&'static str, &'static str, CheckCount)> {
        lock(&self.checks).clone()
    }
}

/// What is counted for one peer. Written by the thread that speaks with it.
#[derive(Debug)]
pub struct PeerMetrics {
    /// In hexadecimal.
    pub id: String,
    pub active: Gauge,
    pub disconnects: Counter,
    pub sent_bytes: Counter,
    pub received_bytes: Counter,
    pub send_failures: Counter,
    pub receive_failures: Counter,
    pub round_trip: Histogram,
}

impl PeerMetrics {
    pub fn new(id: u64) -> PeerMetrics {
        PeerMetrics {
            id: format!("{id:x}"),
            active: Gauge::default(),
            disconnects: Counter::default(),
            sent_bytes: Counter::default(),
            received_bytes: Counter::default(),
            send_failures: Counter::default(),
            receive_failures: Counter::default(),
            round_trip: Histogram::doubling(100_000, 16),
        }
    }
}

/// What is said of the member rather than counted: read when somebody asks, so that nobody has to keep it current.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// 0 until it is known.
    pub member_id: u64,
    /// 0 while there is none.
    pub leader: u64,
    pub is_learner: bool,
    /// `X.Y.Z`, once the cluster has agreed.
    pub cluster_version: Option<String>,
    /// Member id, name of the type.
    pub alarms: Vec<(u64, String)>,
    /// Indexes in the log.
    pub committed: u64,
    pub applied: u64,
    pub db_bytes: u64,
    pub db_bytes_in_use: u64,
    pub current_revision: i64,
    /// -1 before the first compaction.
    pub compact_revision: i64,
    /// Keys that live.
    pub keys: u64,
    pub auth_revision: u64,
    /// Snapshots of the store that readers hold.
    pub pins: u64,
}

/// A panic elsewhere leaves these values whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
