//! Every metric that this server has: name, type, labels, buckets, help. The one list that the renderer goes by; the
//! names, types, labels and buckets are etcd 3.7.1's.
//!
//! Left out:
//! - `go_*`: there is no Go runtime; `process_*` and `promhttp_*` are real.
//! - `etcd_network_snapshot_*`: no snapshots between members yet.
//! - `etcd_network_server_stream_failures_total`, `etcd_server_learner_promote_failures` and
//!   `etcd_debugging_store_*{action}`: etcd shows them only after the first event of theirs, which this server has not.
//!
//! Shown, and always zero: what etcd does and this store does not (rebalancing, spilling, a key index, files of
//! snapshots, a v2 store), what a gRPC proxy counts (etcd's server shows it too), what needs other members (heartbeats, promotion), and events that wait for their watchers:
//! an event is on its way to a connection at once, or its watcher is counted as slow.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Upper bounds of a histogram, in the metric's unit.
#[derive(Clone, Copy, Debug)]
pub enum Buckets {
    /// The first bound, each next one twice as large, this many.
    Doubling(f64, usize),
    List(&'static [f64]),
}

impl Buckets {
    pub fn bounds(self) -> Vec<f64> {
        match self {
            // By powers of two, which are exact, and never by repeated multiplication.
            Buckets::Doubling(first, count) => {
                (0..count).map(|n| round(first * (1u64 << n) as f64)).collect()
            }
            Buckets::List(bounds) => bounds.to_vec(),
        }
    }
}

/// Twelve significant digits: 0.001 x 2^n has binary dust behind them.
fn round(value: f64) -> f64 {
    format!("{value:.11e}").parse().unwrap_or(value)
}

/// One family.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub name: &'static str,
    pub kind: Kind,
    /// Sorted, as Prometheus writes them.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests hold the samples against it"))]
    pub labels: &'static [&'static str],
    pub buckets: Buckets,
    /// What histograms observe, in the metric's unit: nanoseconds for seconds and milliseconds, else as is.
    pub raw_per_unit: f64,
    pub help: &'static str,
}

const fn row(
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    buckets: Buckets,
    raw_per_unit: f64,
    help: &'static str,
) -> Row {
    Row { name, kind, labels, buckets, raw_per_unit, help }
}

const fn doubling(first: f64, count: usize) -> Buckets {
    Buckets::Doubling(first, count)
}

const NONE: Buckets = Buckets::List(&[]);

impl Row {
    /// Whether a histogram with these bounds, raw, is of this family.
    pub fn has_raw_bounds(&self, raw: &[u64]) -> bool {
        let bounds =
            self.buckets.bounds().into_iter().map(|bound| (bound * self.raw_per_unit).round() as u64);
        bounds.eq(raw.iter().copied())
    }
}

/// The row of a name. Panics for a name that is not in the table.
pub fn find(name: &str) -> &'static Row {
    let at = TABLE.binary_search_by(|row| row.name.cmp(name));
    &TABLE[at.unwrap_or_else(|_| panic!("no metric {name}"))]
}

/// Sorted by name.
#[rustfmt::skip]
pub static TABLE: &[Row] = &[
    row("etcd_cluster_version", Kind::Gauge, &["cluster_version"], NONE, 1.0, "1, labelled with the version the cluster agreed on."),
    row("etcd_debugging_auth_revision", Kind::Gauge, &[], NONE, 1.0, "Revision of users, roles and the switch of authentication."),
    row("etcd_debugging_disk_backend_commit_rebalance_duration_seconds", Kind::Histogram, &[], doubling(0.001, 14), 1e9, "Time in rebalancing at a commit; this store does not rebalance."),
    row("etcd_debugging_disk_backend_commit_spill_duration_seconds", Kind::Histogram, &[], doubling(0.001, 14), 1e9, "Time in spilling at a commit; this store does not spill."),
    row("etcd_debugging_disk_backend_commit_write_duration_seconds", Kind::Histogram, &[], doubling(0.001, 14), 1e9, "Time in writing pages at a checkpoint."),
    row("etcd_debugging_lease_granted_total", Kind::Counter, &[], NONE, 1.0, "Leases granted."),
    row("etcd_debugging_lease_renewed_total", Kind::Counter, &[], NONE, 1.0, "Leases renewed, seen by the leader."),
    row("etcd_debugging_lease_revoked_total", Kind::Counter, &[], NONE, 1.0, "Leases revoked."),
    row("etcd_debugging_lease_ttl_total", Kind::Histogram, &[], doubling(1.0, 24), 1.0, "TTLs of leases, seconds."),
    row("etcd_debugging_mvcc_compact_revision", Kind::Gauge, &[], NONE, 1.0, "Revision of the last compaction."),
    row("etcd_debugging_mvcc_current_revision", Kind::Gauge, &[], NONE, 1.0, "Revision of the store."),
    row("etcd_debugging_mvcc_db_compaction_keys_total", Kind::Counter, &[], NONE, 1.0, "Versions removed by compactions."),
    row("etcd_debugging_mvcc_db_compaction_last", Kind::Gauge, &[], NONE, 1.0, "Unix time of the last compaction's end."),
    row("etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds", Kind::Histogram, &[], doubling(1.0, 13), 1e6, "Length of turns that held a step of a compaction."),
    row("etcd_debugging_mvcc_db_compaction_total_duration_milliseconds", Kind::Histogram, &[], doubling(100.0, 14), 1e6, "Length of a compaction."),
    row("etcd_debugging_mvcc_events_total", Kind::Counter, &[], NONE, 1.0, "Events sent to watchers."),
    row("etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds", Kind::Histogram, &[], doubling(0.5, 14), 1e6, "Pause for compacting a key index; this store has none."),
    row("etcd_debugging_mvcc_keys_total", Kind::Gauge, &[], NONE, 1.0, "Live keys."),
    row("etcd_debugging_mvcc_pending_events_total", Kind::Gauge, &[], NONE, 1.0, "Events that wait for their watchers."),
    row("etcd_debugging_mvcc_slow_watcher_total", Kind::Gauge, &[], NONE, 1.0, "Watchers that catch up from history."),
    row("etcd_debugging_mvcc_total_put_size_in_bytes", Kind::Gauge, &[], NONE, 1.0, "Bytes of keys and values put."),
    row("etcd_debugging_mvcc_watch_stream_total", Kind::Gauge, &[], NONE, 1.0, "Watch streams."),
    row("etcd_debugging_mvcc_watcher_total", Kind::Gauge, &[], NONE, 1.0, "Watchers."),
    row("etcd_debugging_server_alarms", Kind::Gauge, &["alarm_type", "server_id"], NONE, 1.0, "Active alarms, by member and type."),
    row("etcd_debugging_server_lease_expired_total", Kind::Counter, &[], NONE, 1.0, "Leases that expired."),
    row("etcd_debugging_server_watch_send_loop_control_stream_duration_seconds", Kind::Histogram, &[], doubling(0.001, 14), 1e9, "Time to send answers to create and cancel."),
    row("etcd_debugging_server_watch_send_loop_progress_duration_seconds", Kind::Histogram, &[], doubling(0.001, 14), 1e9, "Time to send progress notifications."),
    row("etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds", Kind::Histogram, &[], doubling(0.001, 14), 1e9, "Time to send events, for each event."),
    row("etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds", Kind::Histogram, &[], doubling(0.001, 14), 1e9, "Time to send events, for each answer."),
    row("etcd_debugging_snap_save_marshalling_duration_seconds", Kind::Histogram, &[], doubling(0.001, 14), 1e9, "Time in encoding snapshots; checkpoints encode nothing."),
    row("etcd_debugging_snap_save_total_duration_seconds", Kind::Histogram, &[], doubling(0.001, 14), 1e9, "Time to save a snapshot of the log; checkpoints take their place."),
    row("etcd_debugging_store_expires_total", Kind::Counter, &[], NONE, 1.0, "Keys of the v2 store that expired; there is no v2 store."),
    row("etcd_debugging_store_watch_requests_total", Kind::Counter, &[], NONE, 1.0, "Watches of the v2 store; there is no v2 store."),
    row("etcd_debugging_store_watchers", Kind::Gauge, &[], NONE, 1.0, "Watchers of the v2 store; there is no v2 store."),
    row("etcd_disk_backend_commit_duration_seconds", Kind::Histogram, &[], doubling(0.001, 14), 1e9, "Time of a checkpoint: to make the store's pages durable, beside the calls."),
    row("etcd_disk_backend_defrag_duration_seconds", Kind::Histogram, &[], doubling(0.1, 13), 1e9, "Time of a defragmentation."),
    row("etcd_disk_backend_snapshot_duration_seconds", Kind::Histogram, &[], doubling(0.01, 17), 1e9, "Time to export a snapshot."),
    row("etcd_disk_defrag_inflight", Kind::Gauge, &[], NONE, 1.0, "1 while a defragmentation runs."),
    row("etcd_disk_wal_fsync_duration_seconds", Kind::Histogram, &[], doubling(0.001, 14), 1e9, "Time to make a batch of the log durable."),
    row("etcd_disk_wal_write_bytes_total", Kind::Gauge, &[], NONE, 1.0, "Bytes written to the log."),
    row("etcd_disk_wal_write_duration_seconds", Kind::Histogram, &[], doubling(0.001, 14), 1e9, "Time of a write to the log."),
    row("etcd_grpc_proxy_cache_hits_total", Kind::Gauge, &[], NONE, 1.0, "Cache hits of a gRPC proxy; this is none."),
    row("etcd_grpc_proxy_cache_keys_total", Kind::Gauge, &[], NONE, 1.0, "Keys cached by a gRPC proxy; this is none."),
    row("etcd_grpc_proxy_cache_misses_total", Kind::Gauge, &[], NONE, 1.0, "Cache misses of a gRPC proxy; this is none."),
    row("etcd_grpc_proxy_events_coalescing_total", Kind::Counter, &[], NONE, 1.0, "Events a gRPC proxy gave to several watchers; this is none."),
    row("etcd_grpc_proxy_watchers_coalescing_total", Kind::Gauge, &[], NONE, 1.0, "Watchers a gRPC proxy joined; this is none."),
    row("etcd_mvcc_db_open_read_transactions", Kind::Gauge, &[], NONE, 1.0, "Snapshots that are held now."),
    row("etcd_mvcc_db_total_size_in_bytes", Kind::Gauge, &[], NONE, 1.0, "Size of the store's file."),
    row("etcd_mvcc_db_total_size_in_use_in_bytes", Kind::Gauge, &[], NONE, 1.0, "Bytes of the store's file that are in use."),
    row("etcd_mvcc_delete_total", Kind::Counter, &[], NONE, 1.0, "Deletes seen by this member."),
    row("etcd_mvcc_hash_duration_seconds", Kind::Histogram, &[], doubling(0.01, 15), 1e9, "Time to hash the whole store."),
    row("etcd_mvcc_hash_rev_duration_seconds", Kind::Histogram, &[], doubling(0.01, 15), 1e9, "Time to hash the store at a revision."),
    row("etcd_mvcc_put_total", Kind::Counter, &[], NONE, 1.0, "Puts seen by this member."),
    row("etcd_mvcc_range_total", Kind::Counter, &[], NONE, 1.0, "Ranges seen by this member."),
    row("etcd_mvcc_txn_total", Kind::Counter, &[], NONE, 1.0, "Transactions seen by this member."),
    row("etcd_network_active_peers", Kind::Gauge, &["Local", "Remote"], NONE, 1.0, "1 for each peer that is connected."),
    row("etcd_network_client_grpc_received_bytes_total", Kind::Counter, &[], NONE, 1.0, "Bytes received from gRPC clients, framing included."),
    row("etcd_network_client_grpc_sent_bytes_total", Kind::Counter, &[], NONE, 1.0, "Bytes sent to gRPC clients, framing included."),
    row("etcd_network_disconnected_peers_total", Kind::Counter, &["Local", "Remote"], NONE, 1.0, "Times that a peer was lost."),
    row("etcd_network_known_peers", Kind::Gauge, &["Local", "Remote"], NONE, 1.0, "1 for each member known."),
    row("etcd_network_peer_received_bytes_total", Kind::Counter, &["From"], NONE, 1.0, "Bytes received from a peer."),
    row("etcd_network_peer_received_failures_total", Kind::Counter, &["From"], NONE, 1.0, "Failures to receive from a peer."),
    row("etcd_network_peer_round_trip_time_seconds", Kind::Histogram, &["To"], doubling(0.0001, 16), 1e9, "Round trips to a peer."),
    row("etcd_network_peer_sent_bytes_total", Kind::Counter, &["To"], NONE, 1.0, "Bytes sent to a peer."),
    row("etcd_network_peer_sent_failures_total", Kind::Counter, &["To"], NONE, 1.0, "Failures to send to a peer."),
    row("etcd_server_apply_duration_seconds", Kind::Histogram, &["op", "success", "version"], doubling(0.0001, 20), 1e9, "Time to apply an entry, by operation."),
    row("etcd_server_client_requests_total", Kind::Counter, &["client_api_version", "type"], NONE, 1.0, "Requests, by the client's version."),
    row("etcd_server_feature_enabled", Kind::Gauge, &["name", "stage"], NONE, 1.0, "1 for each feature gate that is on."),
    row("etcd_server_go_version", Kind::Gauge, &["server_go_version"], NONE, 1.0, "1, labelled with what the server was compiled by; this one is not a Go program."),
    row("etcd_server_has_leader", Kind::Gauge, &[], NONE, 1.0, "1 while a leader is known."),
    row("etcd_server_health_failures", Kind::Counter, &[], NONE, 1.0, "Health checks answered \"false\"."),
    row("etcd_server_health_success", Kind::Counter, &[], NONE, 1.0, "Health checks answered \"true\"."),
    row("etcd_server_healthcheck", Kind::Gauge, &["name", "type"], NONE, 1.0, "Outcome of the last check of each kind."),
    row("etcd_server_healthchecks_total", Kind::Counter, &["name", "status", "type"], NONE, 1.0, "Checks of each kind, by outcome."),
    row("etcd_server_heartbeat_send_failures_total", Kind::Counter, &[], NONE, 1.0, "Heartbeats sent too late."),
    row("etcd_server_id", Kind::Gauge, &["server_id"], NONE, 1.0, "1, labelled with this member's id."),
    row("etcd_server_is_leader", Kind::Gauge, &[], NONE, 1.0, "1 while this member leads."),
    row("etcd_server_is_learner", Kind::Gauge, &[], NONE, 1.0, "1 while this member is a learner."),
    row("etcd_server_leader_changes_seen_total", Kind::Counter, &[], NONE, 1.0, "Changes of the leader."),
    row("etcd_server_learner_promote_successes", Kind::Counter, &[], NONE, 1.0, "Learners promoted while this member leads."),
    row("etcd_server_proposals_applied_total", Kind::Gauge, &[], NONE, 1.0, "Entries applied."),
    row("etcd_server_proposals_committed_total", Kind::Gauge, &[], NONE, 1.0, "Entries committed."),
    row("etcd_server_proposals_failed_total", Kind::Counter, &[], NONE, 1.0, "Proposals that failed."),
    row("etcd_server_proposals_pending", Kind::Gauge, &[], NONE, 1.0, "Proposals not yet committed."),
    row("etcd_server_quota_backend_bytes", Kind::Gauge, &[], NONE, 1.0, "Size of the store at which writes are refused."),
    row("etcd_server_range_duration_seconds", Kind::Histogram, &["success"], doubling(0.0001, 20), 1e9, "Time of a range."),
    row("etcd_server_read_indexes_failed_total", Kind::Counter, &[], NONE, 1.0, "Read barriers that failed."),
    row("etcd_server_request_duration_seconds", Kind::Histogram, &["success", "type"], doubling(0.001, 14), 1e9, "Time of a request, by kind."),
    row("etcd_server_slow_apply_total", Kind::Counter, &[], NONE, 1.0, "Applies that took longer than the warning threshold."),
    row("etcd_server_slow_read_indexes_total", Kind::Counter, &[], NONE, 1.0, "Read barriers that took longer than they should."),
    row("etcd_server_snapshot_apply_in_progress_total", Kind::Gauge, &[], NONE, 1.0, "1 while a received snapshot is applied."),
    row("etcd_server_version", Kind::Gauge, &["server_version"], NONE, 1.0, "1, labelled with the version of this server."),
    row("etcd_snap_db_fsync_duration_seconds", Kind::Histogram, &[], doubling(0.001, 14), 1e9, "Time to sync a received snapshot."),
    row("etcd_snap_db_save_total_duration_seconds", Kind::Histogram, &[], doubling(0.1, 10), 1e9, "Time to save a received snapshot."),
    row("etcd_snap_fsync_duration_seconds", Kind::Histogram, &[], doubling(0.001, 14), 1e9, "Time to sync a snapshot of the log; checkpoints take their place."),
    row("grpc_server_handled_total", Kind::Counter, &["grpc_code", "grpc_method", "grpc_service", "grpc_type"], NONE, 1.0, "Calls ended, by code."),
    row("grpc_server_handling_seconds", Kind::Histogram, &["grpc_method", "grpc_service", "grpc_type"], Buckets::List(&[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]), 1e9, "Time of a call."),
    row("grpc_server_msg_received_total", Kind::Counter, &["grpc_method", "grpc_service", "grpc_type"], NONE, 1.0, "Messages received."),
    row("grpc_server_msg_sent_total", Kind::Counter, &["grpc_method", "grpc_service", "grpc_type"], NONE, 1.0, "Messages sent."),
    row("grpc_server_started_total", Kind::Counter, &["grpc_method", "grpc_service", "grpc_type"], NONE, 1.0, "Calls begun."),
    row("os_fd_limit", Kind::Gauge, &[], NONE, 1.0, "Most file descriptors that may be open."),
    row("os_fd_used", Kind::Gauge, &[], NONE, 1.0, "File descriptors open."),
    row("process_cpu_seconds_total", Kind::Counter, &[], NONE, 1.0, "CPU time of the process, seconds."),
    row("process_max_fds", Kind::Gauge, &[], NONE, 1.0, "Most file descriptors that may be open."),
    row("process_network_receive_bytes_total", Kind::Counter, &[], NONE, 1.0, "Bytes received in this network namespace."),
    row("process_network_transmit_bytes_total", Kind::Counter, &[], NONE, 1.0, "Bytes sent in this network namespace."),
    row("process_open_fds", Kind::Gauge, &[], NONE, 1.0, "File descriptors open."),
    row("process_resident_memory_bytes", Kind::Gauge, &[], NONE, 1.0, "Resident memory."),
    row("process_start_time_seconds", Kind::Gauge, &[], NONE, 1.0, "Start of the process, Unix time."),
    row("process_virtual_memory_bytes", Kind::Gauge, &[], NONE, 1.0, "Virtual memory."),
    row("process_virtual_memory_max_bytes", Kind::Gauge, &[], NONE, 1.0, "Most virtual memory allowed."),
    row("promhttp_metric_handler_requests_in_flight", Kind::Gauge, &[], NONE, 1.0, "Scrapes under way."),
    row("promhttp_metric_handler_requests_total", Kind::Counter, &["code"], NONE, 1.0, "Scrapes, by status code."),
];
