//! Metrics: etcd's names, types, labels and buckets; cells that hot paths write for a load and a store; one renderer.
//!
//! Invariants: a cell has one writing thread; rendering takes no lock that a hot path takes, and allocates for itself
//! only. The `metrics` facade is not used: its recorders look handles up by key or count atomically across threads,
//! where a shard's cells are plain words of its own.
//!
//! | module | job |
//! |---|---|
//! | `table` | every family, as data |
//! | `cells` | counters, gauges, histograms |
//! | `groups` | who counts what |
//! | `process` | /proc/self |
//! | `format` | Prometheus' text |
//! | `families` | from cells to samples |

mod cells;
mod families;
mod format;
mod groups;
mod process;
mod table;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex};

pub use cells::{Counter, Gauge, Histogram};
pub use groups::{
    CODES, ClientVersions, CoreMetrics, EdgeMetrics, Facts, Flow, METHODS, Method, MethodCells, Operation,
    PeerMetrics, STREAM_APIS, ShardMetrics, method_index,
};
pub use process::max_fds;

use crate::config::Config;

/// All groups of the process, for the renderer.
#[derive(Debug)]
pub struct Registry {
    pub shards: Vec<Arc<ShardMetrics>>,
    pub core: Arc<CoreMetrics>,
    pub edge: Arc<EdgeMetrics>,
    pub facts: Arc<Facts>,
    peers: Mutex<Vec<Arc<PeerMetrics>>>,
    /// X.Y.Z.
    version: String,
    quota_bytes: i64,
    /// Name, stage, enabled.
    features: Vec<(&'static str, &'static str, bool)>,
}

impl Registry {
    /// With `shards` groups of shard cells.
    pub fn new(config: &Config, shards: usize) -> Registry {
        let gates = crate::config::GATES.iter();
        Registry {
            shards: (0..shards).map(|_| Arc::new(ShardMetrics::new(config.metrics_extensive))).collect(),
            core: Arc::default(),
            edge: Arc::default(),
            facts: Arc::default(),
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
    pub fn render(&self) -> String {
        self.edge.scrapes.inc();
        let mut out = String::with_capacity(256 << 10);
        let reading = families::Reading::new(self);
        for row in table::TABLE {
            let mut samples = format::Samples::default();
            reading.collect(row.name, &mut samples);
            samples.write(row, &mut out);
        }
        out
    }
}
