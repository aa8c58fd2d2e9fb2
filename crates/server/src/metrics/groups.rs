//! Who counts what: the cells of a shard, of the log core, of the edge, of a peer, and the plain facts of the member.
//!
//! Invariant: each group is written by its thread alone (the facts excepted, which stand behind a lock and change
//! rarely).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};

use super::cells::{Counter, Gauge, Histogram};

/// How a method's messages flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    Unary,
    ServerStream,
    BidiStream,
}

impl Flow {
    pub fn name(self) -> &'static str {
        match self {
            Flow::Unary => "unary",
            Flow::ServerStream => "server_stream",
            Flow::BidiStream => "bidi_stream",
        }
    }
}

/// One gRPC method.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    pub service: &'static str,
    pub name: &'static str,
    pub flow: Flow,
    /// Shown before the first call, as etcd does for the services of its own.
    pub eager: bool,
}

const fn unary(service: &'static str, name: &'static str) -> Method {
    Method { service, name, flow: Flow::Unary, eager: true }
}

const fn stream(service: &'static str, name: &'static str, flow: Flow) -> Method {
    Method { service, name, flow, eager: true }
}

const fn late(service: &'static str, name: &'static str, flow: Flow) -> Method {
    Method { service, name, flow, eager: false }
}

const KV: &str = "etcdserverpb.KV";
const LEASE: &str = "etcdserverpb.Lease";
const CLUSTER: &str = "etcdserverpb.Cluster";
const MAINTENANCE: &str = "etcdserverpb.Maintenance";
const AUTH: &str = "etcdserverpb.Auth";
const HEALTH: &str = "grpc.health.v1.Health";
const ELECTION: &str = "v3electionpb.Election";
const LOCK: &str = "v3lockpb.Lock";

/// All methods that are counted. A position in this table is what shards count by: `method_index` finds it once.
pub static METHODS: &[Method] = &[
    unary(KV, "Range"),
    unary(KV, "Put"),
    unary(KV, "DeleteRange"),
    unary(KV, "Txn"),
    unary(KV, "Compact"),
    stream(KV, "RangeStream", Flow::ServerStream),
    stream("etcdserverpb.Watch", "Watch", Flow::BidiStream),
    unary(LEASE, "LeaseGrant"),
    unary(LEASE, "LeaseRevoke"),
    stream(LEASE, "LeaseKeepAlive", Flow::BidiStream),
    unary(LEASE, "LeaseTimeToLive"),
    unary(LEASE, "LeaseLeases"),
    unary(CLUSTER, "MemberAdd"),
    unary(CLUSTER, "MemberRemove"),
    unary(CLUSTER, "MemberUpdate"),
    unary(CLUSTER, "MemberList"),
    unary(CLUSTER, "MemberPromote"),
    unary(MAINTENANCE, "Alarm"),
    unary(MAINTENANCE, "Status"),
    unary(MAINTENANCE, "Defragment"),
    unary(MAINTENANCE, "Hash"),
    unary(MAINTENANCE, "HashKV"),
    stream(MAINTENANCE, "Snapshot", Flow::ServerStream),
    unary(MAINTENANCE, "MoveLeader"),
    unary(MAINTENANCE, "Downgrade"),
    unary(AUTH, "AuthEnable"),
    unary(AUTH, "AuthDisable"),
    unary(AUTH, "AuthStatus"),
    unary(AUTH, "Authenticate"),
    unary(AUTH, "UserAdd"),
    unary(AUTH, "UserGet"),
    unary(AUTH, "UserList"),
    unary(AUTH, "UserDelete"),
    unary(AUTH, "UserChangePassword"),
    unary(AUTH, "UserGrantRole"),
    unary(AUTH, "UserRevokeRole"),
    unary(AUTH, "RoleAdd"),
    unary(AUTH, "RoleGet"),
    unary(AUTH, "RoleList"),
    unary(AUTH, "RoleDelete"),
    unary(AUTH, "RoleGrantPermission"),
    unary(AUTH, "RoleRevokePermission"),
    unary(HEALTH, "Check"),
    unary(HEALTH, "List"),
    stream(HEALTH, "Watch", Flow::ServerStream),
    late(ELECTION, "Campaign", Flow::Unary),
    late(ELECTION, "Proclaim", Flow::Unary),
    late(ELECTION, "Leader", Flow::Unary),
    late(ELECTION, "Observe", Flow::ServerStream),
    late(ELECTION, "Resign", Flow::Unary),
    late(LOCK, "Lock", Flow::Unary),
    late(LOCK, "Unlock", Flow::Unary),
];

/// Position in `METHODS` of a gRPC path's service and method.
pub fn method_index(service: &str, name: &str) -> Option<usize> {
    METHODS.iter().position(|method| method.service == service && method.name == name)
}

/// Names of gRPC's codes by number.
pub static CODES: [&str; 17] = [
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

/// What etcd_server_request_duration_seconds and etcd_server_apply_duration_seconds tell apart: the kinds of
/// InternalRaftRequest, and Range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Operation {
    Range,
    Put,
    DeleteRange,
    Txn,
    Compaction,
    LeaseGrant,
    LeaseRevoke,
    LeaseCheckpoint,
    Alarm,
    Authenticate,
    AuthEnable,
    AuthDisable,
    AuthStatus,
    AuthUserAdd,
    AuthUserDelete,
    AuthUserGet,
    AuthUserChangePassword,
    AuthUserGrantRole,
    AuthUserRevokeRole,
    AuthUserList,
    AuthRoleList,
    AuthRoleAdd,
    AuthRoleDelete,
    AuthRoleGet,
    AuthRoleGrantPermission,
    AuthRoleRevokePermission,
    ClusterVersionSet,
    ClusterMemberAttrSet,
    DowngradeInfoSet,
}

impl Operation {
    pub const COUNT: usize = Operation::DowngradeInfoSet as usize + 1;
}

/// In the order of the enum.
pub static OPERATIONS: [&str; Operation::COUNT] = [
    "Range",
    "Put",
    "DeleteRange",
    "Txn",
    "Compaction",
    "LeaseGrant",
    "LeaseRevoke",
    "LeaseCheckpoint",
    "Alarm",
    "Authenticate",
    "AuthEnable",
    "AuthDisable",
    "AuthStatus",
    "AuthUserAdd",
    "AuthUserDelete",
    "AuthUserGet",
    "AuthUserChangePassword",
    "AuthUserGrantRole",
    "AuthUserRevokeRole",
    "AuthUserList",
    "AuthRoleList",
    "AuthRoleAdd",
    "AuthRoleDelete",
    "AuthRoleGet",
    "AuthRoleGrantPermission",
    "AuthRoleRevokePermission",
    "ClusterVersionSet",
    "ClusterMemberAttrSet",
    "DowngradeInfoSet",
];

/// Histograms by operation and success, made when first used: most never are.
#[derive(Debug)]
pub struct ByOperation {
    family: &'static str,
    cells: [[OnceLock<Box<Histogram>>; 2]; Operation::COUNT],
}

impl ByOperation {
    fn new(family: &'static str) -> ByOperation {
        ByOperation { family, cells: Default::default() }
    }

    pub fn observe(&self, operation: Operation, ok: bool, duration: std::time::Duration) {
        let cell = &self.cells[operation as usize][usize::from(ok)];
        cell.get_or_init(|| Box::new(Histogram::new(self.family))).observe_duration(duration);
    }

    /// What was used: operation, success, histogram.
    pub fn used(&self) -> impl Iterator<Item = (&'static str, bool, &Histogram)> {
        OPERATIONS.iter().zip(&self.cells).flat_map(|(name, cells)| {
            cells.iter().zip([false, true]).filter_map(|(cell, ok)| Some((*name, ok, &**cell.get()?)))
        })
    }
}

/// One method on one shard.
#[derive(Debug)]
pub struct MethodCells {
    pub started: Counter,
    /// By gRPC code.
    pub handled: [Counter; 17],
    pub received: Counter,
    pub sent: Counter,
    /// With --metrics=extensive.
    pub handling: Option<Box<Histogram>>,
}

impl MethodCells {
    /// A call ended. Codes above 16 count as Unknown.
    pub fn handled(&self, code: u8) {
        self.handled.get(usize::from(code)).unwrap_or(&self.handled[2]).inc();
    }
}

/// Clients' versions that one shard tells apart; further ones count as "unknown".
pub const CLIENT_VERSIONS: usize = 16;

/// Requests by the version that clients name in their metadata.
#[derive(Debug, Default)]
pub struct ClientVersions {
    names: [OnceLock<Box<str>>; CLIENT_VERSIONS],
    unary: [Counter; CLIENT_VERSIONS],
    stream: [Counter; CLIENT_VERSIONS],
}

impl ClientVersions {
    /// Where this version is counted; worth keeping with the connection. Slot 0 is "unknown".
    pub fn slot(&self, version: Option<&[u8]>) -> usize {
        let Some(version) = version.and_then(|version| std::str::from_utf8(version).ok()) else { return 0 };
        if version.is_empty() || version.len() > 32 {
            return 0;
        }
        for (slot, name) in self.names.iter().enumerate().skip(1) {
            if **name.get_or_init(|| version.into()) == *version {
                return slot;
            }
        }
        0
    }

    pub fn count(&self, slot: usize, stream: bool) {
        if stream { &self.stream[slot] } else { &self.unary[slot] }.inc();
    }

    /// Version, "unary" or "stream", requests; only what was counted.
    pub fn used(&self) -> impl Iterator<Item = (&str, &'static str, u64)> {
        self.names.iter().enumerate().flat_map(move |(slot, name)| {
            let name = name.get().map_or("unknown", |name| &**name);
            [(name, "unary", self.unary[slot].get()), (name, "stream", self.stream[slot].get())]
                .into_iter()
                .filter(|(_, _, count)| *count > 0)
        })
    }
}

/// Services that etcd_network_server_stream_failures_total tells apart.
pub static STREAM_APIS: [&str; 3] = ["watch", "lease-keepalive", "snapshot"];

/// What one shard counts. Written by the shard's thread alone.
#[derive(Debug)]
pub struct ShardMetrics {
    /// In the order of `METHODS`.
    pub methods: Box<[MethodCells]>,
    pub received_bytes: Counter,
    pub sent_bytes: Counter,
    pub client_versions: ClientVersions,
    pub ranges: Counter,
    pub range_ok: Histogram,
    pub range_failed: Histogram,
    pub requests: ByOperation,
    pub read_indexes_failed: Counter,
    pub read_indexes_slow: Counter,
    pub proposals_failed: Counter,
    pub watch_streams: Gauge,
    pub watchers: Gauge,
    pub watchers_slow: Gauge,
    pub events_pending: Gauge,
    pub events: Counter,
    pub watch_send_events: Histogram,
    pub watch_send_per_event: Histogram,
    pub watch_send_control: Histogram,
    pub watch_send_progress: Histogram,
    /// By `STREAM_APIS`; receiving, then sending.
    pub stream_failures: [[Counter; 2]; 3],
    pub snapshot_export: Histogram,
    pub hash: Histogram,
    pub hash_rev: Histogram,
}

impl ShardMetrics {
    /// `extensive` is --metrics=extensive.
    pub fn new(extensive: bool) -> ShardMetrics {
        let method = || MethodCells {
            started: Counter::default(),
            handled: Default::default(),
            received: Counter::default(),
            sent: Counter::default(),
            handling: extensive.then(|| Box::new(Histogram::new("grpc_server_handling_seconds"))),
        };
        let watch_send = "etcd_debugging_server_watch_send_loop";
        ShardMetrics {
            methods: METHODS.iter().map(|_| method()).collect(),
            received_bytes: Counter::default(),
            sent_bytes: Counter::default(),
            client_versions: ClientVersions::default(),
            ranges: Counter::default(),
            range_ok: Histogram::new("etcd_server_range_duration_seconds"),
            range_failed: Histogram::new("etcd_server_range_duration_seconds"),
            requests: ByOperation::new("etcd_server_request_duration_seconds"),
            read_indexes_failed: Counter::default(),
            read_indexes_slow: Counter::default(),
            proposals_failed: Counter::default(),
            watch_streams: Gauge::default(),
            watchers: Gauge::default(),
            watchers_slow: Gauge::default(),
            events_pending: Gauge::default(),
            events: Counter::default(),
            watch_send_events: Histogram::new(&format!("{watch_send}_watch_stream_duration_seconds")),
            watch_send_per_event: Histogram::new(&format!(
                "{watch_send}_watch_stream_duration_per_event_seconds"
            )),
            watch_send_control: Histogram::new(&format!("{watch_send}_control_stream_duration_seconds")),
            watch_send_progress: Histogram::new(&format!("{watch_send}_progress_duration_seconds")),
            stream_failures: Default::default(),
            snapshot_export: Histogram::new("etcd_disk_backend_snapshot_duration_seconds"),
            hash: Histogram::new("etcd_mvcc_hash_duration_seconds"),
            hash_rev: Histogram::new("etcd_mvcc_hash_rev_duration_seconds"),
        }
    }
}

/// What the log core counts. Written by its thread alone.
#[derive(Debug)]
pub struct CoreMetrics {
    pub puts: Counter,
    pub deletes: Counter,
    pub txns: Counter,
    pub applies: ByOperation,
    pub applies_slow: Counter,
    pub proposals_committed: Gauge,
    pub proposals_applied: Gauge,
    pub proposals_pending: Gauge,
    pub proposals_failed: Counter,
    pub has_leader: Gauge,
    pub is_leader: Gauge,
    pub is_learner: Gauge,
    pub leader_changes: Counter,
    pub learner_promotes: Counter,
    pub heartbeat_failures: Counter,
    pub snapshots_applying: Gauge,
    pub wal_fsync: Histogram,
    pub wal_write: Histogram,
    pub wal_bytes: Counter,
    /// The checkpoint, as etcd's commit of its backend.
    pub backend_commit: Histogram,
    pub backend_write: Histogram,
    pub checkpoint: Histogram,
    pub checkpoint_sync: Histogram,
    pub defrag: Histogram,
    pub defrag_inflight: Gauge,
    pub leases_granted: Counter,
    pub leases_revoked: Counter,
    pub leases_renewed: Counter,
    pub leases_expired: Counter,
    /// Seconds.
    pub lease_ttl: Histogram,
    pub current_revision: Gauge,
    pub compact_revision: Gauge,
    pub compaction_keys: Counter,
    /// Unix time, seconds.
    pub compaction_last: Gauge,
    pub compaction_step: Histogram,
    pub compaction_total: Histogram,
    pub keys: Gauge,
    pub put_bytes: Gauge,
    pub db_bytes: Gauge,
    pub db_bytes_in_use: Gauge,
    pub open_reads: Gauge,
    pub auth_revision: Gauge,
}

impl CoreMetrics {
    pub fn new() -> CoreMetrics {
        let compaction = "etcd_debugging_mvcc_db_compaction";
        CoreMetrics {
            puts: Counter::default(),
            deletes: Counter::default(),
            txns: Counter::default(),
            applies: ByOperation::new("etcd_server_apply_duration_seconds"),
            applies_slow: Counter::default(),
            proposals_committed: Gauge::default(),
            proposals_applied: Gauge::default(),
            proposals_pending: Gauge::default(),
            proposals_failed: Counter::default(),
            has_leader: Gauge::default(),
            is_leader: Gauge::default(),
            is_learner: Gauge::default(),
            leader_changes: Counter::default(),
            learner_promotes: Counter::default(),
            heartbeat_failures: Counter::default(),
            snapshots_applying: Gauge::default(),
            wal_fsync: Histogram::new("etcd_disk_wal_fsync_duration_seconds"),
            wal_write: Histogram::new("etcd_disk_wal_write_duration_seconds"),
            wal_bytes: Counter::default(),
            backend_commit: Histogram::new("etcd_disk_backend_commit_duration_seconds"),
            backend_write: Histogram::new("etcd_debugging_disk_backend_commit_write_duration_seconds"),
            checkpoint: Histogram::new("etcd_debugging_snap_save_total_duration_seconds"),
            checkpoint_sync: Histogram::new("etcd_snap_fsync_duration_seconds"),
            defrag: Histogram::new("etcd_disk_backend_defrag_duration_seconds"),
            defrag_inflight: Gauge::default(),
            leases_granted: Counter::default(),
            leases_revoked: Counter::default(),
            leases_renewed: Counter::default(),
            leases_expired: Counter::default(),
            lease_ttl: Histogram::new("etcd_debugging_lease_ttl_total"),
            current_revision: Gauge::default(),
            compact_revision: Gauge::default(),
            compaction_keys: Counter::default(),
            compaction_last: Gauge::default(),
            compaction_step: Histogram::new(&format!("{compaction}_pause_duration_milliseconds")),
            compaction_total: Histogram::new(&format!("{compaction}_total_duration_milliseconds")),
            keys: Gauge::default(),
            put_bytes: Gauge::default(),
            db_bytes: Gauge::default(),
            db_bytes_in_use: Gauge::default(),
            open_reads: Gauge::default(),
            auth_revision: Gauge::default(),
        }
    }
}

impl Default for CoreMetrics {
    fn default() -> CoreMetrics {
        CoreMetrics::new()
    }
}

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
            round_trip: Histogram::new("etcd_network_peer_round_trip_time_seconds"),
        }
    }
}

/// What is said of the member rather than counted. Any thread may change it.
#[derive(Debug, Default)]
pub struct Facts {
    member_id: AtomicU64,
    cluster_version: Mutex<Option<String>>,
    /// Member id and name of the type.
    alarms: Mutex<Vec<(u64, String)>>,
}

impl Facts {
    pub fn set_member_id(&self, id: u64) {
        self.member_id.store(id, Ordering::Relaxed);
    }

    /// 0 until it is known.
    pub fn member_id(&self) -> u64 {
        self.member_id.load(Ordering::Relaxed)
    }

    /// `X.Y.Z`, once the cluster has agreed.
    pub fn set_cluster_version(&self, version: Option<String>) {
        *lock(&self.cluster_version) = version;
    }

    pub fn cluster_version(&self) -> Option<String> {
        lock(&self.cluster_version).clone()
    }

    /// All active alarms: member id, name of the type.
    pub fn set_alarms(&self, alarms: Vec<(u64, String)>) {
        *lock(&self.alarms) = alarms;
    }

    pub fn alarms(&self) -> Vec<(u64, String)> {
        lock(&self.alarms).clone()
    }
}

/// A panic elsewhere leaves these values whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
