//! Metrics: etcd's names, types, labels and buckets, and one renderer over everything that is counted.
//!
//! Invariants: a cell (`api::meter`) has one writing thread; rendering takes no lock that a hot path takes, and
//! allocates for itself only. The `metrics` facade is not used: its recorders look handles up by key or count
//! atomically across threads, where a shard's cells are plain words of its own.
//!
//! Who counts what: shards `api::Meter` (calls, reads, watches), the log core `core::meter::CoreMeter` (applies, log,
//! leases, compactions), the edge [`EdgeMetrics`]; what merely is (sizes, revisions, alarms, the leader) is read when
//! somebody asks and comes as [`Facts`].
//!
//! Where the meaning differs from etcd's:
//! - Times of calls are counted from turn to turn of the shard that serves them; what ended in the turn that it came
//!   in with shares that turn's time (`api::meter`). The same for applies, by turns of the log core.
//! - `etcd_server_apply_duration_seconds` has no failures of what a client waits for.
//! - `etcd_mvcc_db_open_read_transactions` counts the snapshots that are held at this moment; etcd's backend always keeps
//!   one open for its own reads, so etcd shows 1 where nothing is read.
//! - `etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds` stays empty: there is no index in memory to pause
//!   for.
//! - `etcd_mvcc_delete_total` lacks the keys that went with a lease, `etcd_mvcc_range_total` the comparisons of
//!   transactions and the reads of health checks; `etcd_debugging_mvcc_total_put_size_in_bytes` counts puts in failure branches and in nested
//!   transactions as nothing.
//! - `etcd_network_client_grpc_*_bytes_total` are bytes on the sockets, framing included.
//! - `etcd_disk_backend_commit_duration_seconds` are checkpoints: in the background and rarer than etcd's commits.
//!   `etcd_disk_wal_fsync_duration_seconds` is from handing a batch to the kernel to knowing that it is durable.
//!
//! | module | job |
//! |---|---|
//! | `table` | every family, as data, and which are left out |
//! | `groups` | what the edge and peers count, and the facts |
//! | `process` | /proc/self |
//! | `format` | Prometheus' text |
//! | `families` | from cells to samples |
//! | `slow` | the log's line for a call that took long |
//! | `request_text` | what that line shows of the request |

mod families;
mod format;
mod groups;
mod process;
mod request_text;
pub mod slow;
mod table;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex};

pub use groups::{EdgeMetrics, Facts, PeerMetrics};
pub use process::max_fds;

use crate::config::Config;
use crate::core::meter::CoreMeter;

/// Everything that is counted in the process, for the renderer.
#[derive(Debug)]
pub struct Registry {
    pub shards: Vec<Arc<api::Meter>>,
    pub core: Arc<CoreMeter>,
    pub edge: EdgeMetrics,
    peers: Mutex<Vec<Arc<PeerMetrics>>>,
    /// X.Y.Z.
    version: String,
    quota_bytes: i64,
    /// Name, stage, enabled.
    features: Vec<(&'static str, &'static str, bool)>,
}

impl Registry {
    /// With a meter for each of `shards`.
    pub fn new(config: &Config, shards: usize) -> Registry {
        let gates = crate::config::GATES.iter();
        Registry {
            shards: (0..shards).map(|_| Arc::new(api::Meter::new(config.metrics_extensive))).collect(),
            core: Arc::default(),
            edge: EdgeMetrics::default(),
            peers: Mutex::default(),
            version: config.reported_version.clone(),
            quota_bytes: match config.quota_bytes() {
                // etcd shows its own figure without a quota as well.
                None => i64::MAX,
                Some(bytes) => i64::try_from(bytes).unwrap_or(i64::MAX),
            },
            features: gates
                .map(|gate| (gate.name, gate.stage.name(), config.gates.enabled(gate.name)))
                .collect(),
        }
    }

    /// Shows a peer from now on.
    pub fn add_peer(&self, peer: Arc<PeerMetrics>) {
        groups::lock(&self.peers).push(peer);
    }

    pub fn remove_peer(&self, id: u64) {
        let id = format!("{id:x}");
        groups::lock(&self.peers).retain(|peer| peer.id != id);
    }

    /// The whole of /metrics; counts itself as a scrape. Reads /proc: for the edge's thread.
    pub fn render(&self, facts: &Facts) -> String {
        self.edge.scrapes.inc();
        let mut out = String::with_capacity(256 << 10);
        let reading = families::Reading::new(self, facts);
        for row in table::TABLE {
            let mut samples = format::Samples::default();
            reading.collect(row.name, &mut samples);
            samples.write(row, &mut out);
        }
        out
    }
}
