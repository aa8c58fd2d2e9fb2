//! The loads: what a client does to the server, and which workloads there are.
//!
//! A load checks what it is answered: a wrong count, a failed guard or a lost event is an error of the run, so that
//! no server looks fast by being wrong.

mod calls;
mod fill;
mod kubernetes;
mod lease;
mod txn;
mod unary;
mod watch;

pub use calls::STAMP_BYTES;
pub use fill::Fill;
pub use kubernetes::{Kubernetes, RESOURCES};
pub use lease::{Grant, KeepAlive};
pub use txn::{Learn, Txn};
pub use unary::{Read, ReadKind, Update};
pub use watch::{Watched, Watching};

/// The workloads, by the names that the command line uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Workload {
    Range,
    Serializable,
    Range500,
    Count,
    KeepAlive,
    WatchFanout,
    WatchLatency,
    Put,
    PutPaced,
    Txn,
    Kubernetes,
    State,
}

/// Defaults of a workload, and what it is.
pub struct Spec {
    pub name: &'static str,
    pub about: &'static str,
    pub connections: usize,
    pub streams: usize,
    /// Operations a second; none: a closed loop.
    pub rate: Option<f64>,
    /// Keys in the store, and the length of their values, bytes.
    pub keys: u64,
    pub value_bytes: usize,
    /// What one operation is.
    pub operation: &'static str,
}

impl Workload {
    pub const ALL: [Workload; 12] = [
        Workload::Range,
        Workload::Serializable,
        Workload::Range500,
        Workload::Count,
        Workload::KeepAlive,
        Workload::WatchFanout,
        Workload::WatchLatency,
        Workload::Put,
        Workload::PutPaced,
        Workload::Txn,
        Workload::Kubernetes,
        Workload::State,
    ];

    pub fn named(name: &str) -> Option<Workload> {
        Workload::ALL.into_iter().find(|workload| workload.spec().name == name)
    }

    /// Does it need keys in the store before it begins?
    pub fn needs_keys(self) -> bool {
        !matches!(self, Workload::Kubernetes | Workload::State | Workload::KeepAlive | Workload::WatchFanout)
    }

    pub fn name(self) -> &'static str {
        self.spec().name
    }

    pub fn spec(self) -> Spec {
        let closed = |name, about, connections, streams, operation| Spec {
            name,
            about,
            connections,
            streams,
            rate: None,
            keys: 100_000,
            value_bytes: 512,
            operation,
        };
        let open = |rate, spec: Spec| Spec { rate: Some(rate), ..spec };
        match self {
            Workload::Range => closed("range", "linearizable range of one random key", 64, 16, "range"),
            Workload::Serializable => {
                closed("serializable", "serializable range of one random key", 64, 16, "range")
            }
            Workload::Range500 => closed("range-500", "linearizable range of 500 keys", 16, 4, "range"),
            Workload::Count => closed("count", "count of all keys, linearizable", 16, 4, "range"),
            Workload::KeepAlive => {
                closed("keep-alive", "keep-alives, each stream for a lease of its own", 64, 16, "keep-alive")
            }
            Workload::WatchFanout => closed(
                "watch-fanout",
                "puts to one key with a watcher on every stream; 16 puts wait for all their events",
                100,
                1,
                "event",
            ),
            Workload::WatchLatency => open(
                1000.0,
                closed(
                    "watch-latency",
                    "open loop of puts; a watcher of all keys on every stream",
                    10,
                    1,
                    "event",
                ),
            ),
            Workload::Put => closed("put", "put of a random existing key", 64, 16, "put"),
            Workload::PutPaced => open(
                10_000.0,
                closed(
                    "put-paced",
                    "open loop of puts; in a comparison at half of etcd's peak",
                    64,
                    16,
                    "put",
                ),
            ),
            Workload::Txn => closed(
                "txn",
                "guarded update as Kubernetes does it: if mod revision = R then put else get",
                64,
                16,
                "txn",
            ),
            Workload::Kubernetes => Spec {
                keys: 10_000,
                value_bytes: 1024,
                ..closed(
                    "kubernetes",
                    "the apiserver's mix: 60 watches, gets, creates, updates, deletes, lists, leases",
                    16,
                    8,
                    "request",
                )
            },
            Workload::State => Spec {
                keys: 1_000_000,
                ..closed(
                    "state",
                    "put of each of the keys; then resident memory, and restarts",
                    64,
                    16,
                    "put",
                )
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        for workload in Workload::ALL {
            assert_eq!(Workload::named(workload.spec().name), Some(workload));
        }
        assert_eq!(Workload::named("nothing"), None);
    }
}
