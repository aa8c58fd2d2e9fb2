//! From cells to samples: one arm per family of the table. A family without an arm panics, and a test renders them all.

use std::sync::Arc;

use super::cells::{Counter, Gauge, Histogram};
use super::format::Samples;
use super::groups::{CODES, METHODS, MethodCells, PeerMetrics, STREAM_APIS, ShardMetrics, lock};
use super::process::{self, Process};
use super::{Registry, table};

/// One rendering.
pub struct Reading<'a> {
    registry: &'a Registry,
    process: Process,
    member: String,
    peers: Vec<Arc<PeerMetrics>>,
}

impl<'a> Reading<'a> {
    pub fn new(registry: &'a Registry) -> Reading<'a> {
        Reading {
            registry,
            process: process::read(),
            member: format!("{:x}", registry.facts.member_id()),
            peers: lock(&registry.peers).clone(),
        }
    }

    /// The samples of the family `name`.
    pub fn collect(&self, name: &'static str, out: &mut Samples) {
        match name.split('_').next() {
            Some("grpc") => self.grpc(name, out),
            Some("process" | "os" | "promhttp") => self.process(name, out),
            _ if name.starts_with("etcd_network_") => self.network(name, out),
            _ if name.starts_with("etcd_server_") => self.server(name, out),
            _ => self.store(name, out),
        }
    }

    fn store(&self, name: &'static str, out: &mut Samples) {
        let core = &*self.registry.core;
        match name {
            "etcd_cluster_version" => {
                if let Some(version) = self.registry.facts.cluster_version() {
                    let minor = version.rsplit_once('.').map_or(version.as_str(), |(minor, _)| minor);
                    out.labelled(&[("cluster_version", minor)], 1.0);
                }
            }
            "etcd_debugging_auth_revision" => gauge(out, &core.auth_revision),
            "etcd_debugging_disk_backend_commit_rebalance_duration_seconds"
            | "etcd_debugging_disk_backend_commit_spill_duration_seconds"
            | "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds"
            | "etcd_debugging_snap_save_marshalling_duration_seconds"
            | "etcd_snap_db_fsync_duration_seconds"
            | "etcd_snap_db_save_total_duration_seconds" => nothing_observed(out, name),
            "etcd_debugging_disk_backend_commit_write_duration_seconds" => {
                out.histogram(&[], core.backend_write.read());
            }
            "etcd_debugging_lease_granted_total" => counter(out, &core.leases_granted),
            "etcd_debugging_lease_renewed_total" => counter(out, &core.leases_renewed),
            "etcd_debugging_lease_revoked_total" => counter(out, &core.leases_revoked),
            "etcd_debugging_lease_ttl_total" => out.histogram(&[], core.lease_ttl.read()),
            "etcd_debugging_mvcc_compact_revision" => gauge(out, &core.compact_revision),
            "etcd_debugging_mvcc_current_revision" => gauge(out, &core.current_revision),
            "etcd_debugging_mvcc_db_compaction_keys_total" => counter(out, &core.compaction_keys),
            "etcd_debugging_mvcc_db_compaction_last" => gauge(out, &core.compaction_last),
            "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds" => {
                out.histogram(&[], core.compaction_step.read());
            }
            "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds" => {
                out.histogram(&[], core.compaction_total.read());
            }
            "etcd_debugging_mvcc_events_total" => out.number(self.total(|shard| &shard.events)),
            "etcd_debugging_mvcc_keys_total" => gauge(out, &core.keys),
            "etcd_debugging_mvcc_pending_events_total" => self.level(out, |shard| &shard.events_pending),
            "etcd_debugging_mvcc_slow_watcher_total" => self.level(out, |shard| &shard.watchers_slow),
            "etcd_debugging_mvcc_total_put_size_in_bytes" => gauge(out, &core.put_bytes),
            "etcd_debugging_mvcc_watch_stream_total" => self.level(out, |shard| &shard.watch_streams),
            "etcd_debugging_mvcc_watcher_total" => self.level(out, |shard| &shard.watchers),
            "etcd_debugging_server_alarms" => {
                for (member, alarm) in self.registry.facts.alarms() {
                    let member = format!("{member:x}");
                    out.labelled(&[("alarm_type", &alarm), ("server_id", &member)], 1.0);
                }
            }
            "etcd_debugging_server_lease_expired_total" => counter(out, &core.leases_expired),
            "etcd_debugging_server_watch_send_loop_control_stream_duration_seconds" => {
                self.times(out, |shard| &shard.watch_send_control);
            }
            "etcd_debugging_server_watch_send_loop_progress_duration_seconds" => {
                self.times(out, |shard| &shard.watch_send_progress);
            }
            "etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds" => {
                self.times(out, |shard| &shard.watch_send_per_event);
            }
            "etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds" => {
                self.times(out, |shard| &shard.watch_send_events);
            }
            "etcd_debugging_snap_save_total_duration_seconds" => out.histogram(&[], core.checkpoint.read()),
            "etcd_debugging_store_expires_total"
            | "etcd_debugging_store_watch_requests_total"
            | "etcd_debugging_store_watchers" => out.number(0.0),
            "etcd_disk_backend_commit_duration_seconds" => out.histogram(&[], core.backend_commit.read()),
            "etcd_disk_backend_defrag_duration_seconds" => out.histogram(&[], core.defrag.read()),
            "etcd_disk_backend_snapshot_duration_seconds" => self.times(out, |shard| &shard.snapshot_export),
            "etcd_disk_defrag_inflight" => gauge(out, &core.defrag_inflight),
            "etcd_disk_wal_fsync_duration_seconds" => out.histogram(&[], core.wal_fsync.read()),
            "etcd_disk_wal_write_bytes_total" => counter(out, &core.wal_bytes),
            "etcd_disk_wal_write_duration_seconds" => out.histogram(&[], core.wal_write.read()),
            "etcd_mvcc_db_open_read_transactions" => gauge(out, &core.open_reads),
            "etcd_mvcc_db_total_size_in_bytes" => gauge(out, &core.db_bytes),
            "etcd_mvcc_db_total_size_in_use_in_bytes" => gauge(out, &core.db_bytes_in_use),
            "etcd_mvcc_delete_total" => counter(out, &core.deletes),
            "etcd_mvcc_hash_duration_seconds" => self.times(out, |shard| &shard.hash),
            "etcd_mvcc_hash_rev_duration_seconds" => self.times(out, |shard| &shard.hash_rev),
            "etcd_mvcc_put_total" => counter(out, &core.puts),
            "etcd_mvcc_range_total" => out.number(self.total(|shard| &shard.ranges)),
            "etcd_mvcc_txn_total" => counter(out, &core.txns),
            "etcd_snap_fsync_duration_seconds" => out.histogram(&[], core.checkpoint_sync.read()),
            _ => unknown(name),
        }
    }

    fn network(&self, name: &'static str, out: &mut Samples) {
        let pair = |peer| [("Local", self.member.as_str()), ("Remote", peer)];
        match name {
            "etcd_network_client_grpc_received_bytes_total" => {
                out.number(self.total(|shard| &shard.received_bytes));
            }
            "etcd_network_client_grpc_sent_bytes_total" => out.number(self.total(|shard| &shard.sent_bytes)),
            "etcd_network_known_peers" => {
                // etcd counts the member itself among them.
                if self.registry.facts.member_id() != 0 {
                    out.labelled(&pair(&self.member), 1.0);
                }
                self.peers.iter().for_each(|peer| out.labelled(&pair(&peer.id), 1.0));
            }
            "etcd_network_active_peers" => {
                self.peers.iter().for_each(|peer| out.labelled(&pair(&peer.id), peer.active.get() as f64));
            }
            "etcd_network_disconnected_peers_total" => {
                let counts = self.peers.iter().map(|peer| (&peer.id, peer.disconnects.get()));
                counts.for_each(|(id, count)| out.labelled(&pair(id), count as f64));
            }
            "etcd_network_peer_round_trip_time_seconds" => {
                self.peers.iter().for_each(|peer| out.histogram(&[("To", &peer.id)], peer.round_trip.read()));
            }
            "etcd_network_peer_received_bytes_total" => {
                self.by_peer(out, "From", |peer| &peer.received_bytes)
            }
            "etcd_network_peer_received_failures_total" => {
                self.by_peer(out, "From", |peer| &peer.receive_failures);
            }
            "etcd_network_peer_sent_bytes_total" => self.by_peer(out, "To", |peer| &peer.sent_bytes),
            "etcd_network_peer_sent_failures_total" => self.by_peer(out, "To", |peer| &peer.send_failures),
            "etcd_network_server_stream_failures_total" => {
                for (at, api) in STREAM_APIS.iter().enumerate() {
                    for (way, kind) in ["receive", "send"].iter().enumerate() {
                        let count = self.total(|shard| &shard.stream_failures[at][way]);
                        if count > 0.0 {
                            out.labelled(&[("API", api), ("Type", kind)], count);
                        }
                    }
                }
            }
            _ => unknown(name),
        }
    }

    fn server(&self, name: &'static str, out: &mut Samples) {
        let (core, edge) = (&*self.registry.core, &*self.registry.edge);
        match name {
            "etcd_server_apply_duration_seconds" => {
                for (operation, ok, histogram) in core.applies.used() {
                    let labels = [("op", operation), ("success", word(ok)), ("version", "v3")];
                    out.histogram(&labels, histogram.read());
                }
            }
            "etcd_server_client_requests_total" => self.client_requests(out),
            "etcd_server_feature_enabled" => {
                for (gate, stage, on) in &self.registry.features {
                    out.labelled(&[("name", gate), ("stage", stage)], f64::from(u8::from(*on)));
                }
            }
            "etcd_server_go_version" => {
                let compiler = concat!("rust", env!("CARGO_PKG_RUST_VERSION"));
                out.labelled(&[("server_go_version", compiler)], 1.0);
            }
            "etcd_server_has_leader" => gauge(out, &core.has_leader),
            "etcd_server_health_failures" => counter(out, &edge.unhealthy),
            "etcd_server_health_success" => counter(out, &edge.healthy),
            "etcd_server_healthcheck" => {
                for (kind, check, count) in edge.checks() {
                    let last = f64::from(u8::from(count.last_ok));
                    out.labelled(&[("name", check), ("type", kind)], last);
                }
            }
            "etcd_server_healthchecks_total" => {
                for (kind, check, count) in edge.checks() {
                    for (status, count) in [("success", count.ok), ("error", count.failed)] {
                        if count > 0 {
                            let labels = [("name", check), ("status", status), ("type", kind)];
                            out.labelled(&labels, count as f64);
                        }
                    }
                }
            }
            "etcd_server_heartbeat_send_failures_total" => counter(out, &core.heartbeat_failures),
            "etcd_server_id" => {
                if self.registry.facts.member_id() != 0 {
                    out.labelled(&[("server_id", &self.member)], 1.0);
                }
            }
            "etcd_server_is_leader" => gauge(out, &core.is_leader),
            "etcd_server_is_learner" => gauge(out, &core.is_learner),
            "etcd_server_leader_changes_seen_total" => counter(out, &core.leader_changes),
            "etcd_server_learner_promote_successes" => counter(out, &core.learner_promotes),
            "etcd_server_proposals_applied_total" => gauge(out, &core.proposals_applied),
            "etcd_server_proposals_committed_total" => gauge(out, &core.proposals_committed),
            "etcd_server_proposals_failed_total" => {
                out.number(core.proposals_failed.get() as f64 + self.total(|shard| &shard.proposals_failed));
            }
            "etcd_server_proposals_pending" => gauge(out, &core.proposals_pending),
            "etcd_server_quota_backend_bytes" => out.number(self.registry.quota_bytes as f64),
            "etcd_server_range_duration_seconds" => {
                for shard in &self.registry.shards {
                    for (ok, histogram) in [(true, &shard.range_ok), (false, &shard.range_failed)] {
                        let (counts, sum) = histogram.read();
                        if counts.iter().any(|count| *count > 0) {
                            out.histogram(&[("success", word(ok))], (counts, sum));
                        }
                    }
                }
            }
            "etcd_server_read_indexes_failed_total" => {
                out.number(self.total(|shard| &shard.read_indexes_failed));
            }
            "etcd_server_request_duration_seconds" => {
                for shard in &self.registry.shards {
                    for (operation, ok, histogram) in shard.requests.used() {
                        out.histogram(&[("success", word(ok)), ("type", operation)], histogram.read());
                    }
                }
            }
            "etcd_server_slow_apply_total" => counter(out, &core.applies_slow),
            "etcd_server_slow_read_indexes_total" => {
                out.number(self.total(|shard| &shard.read_indexes_slow));
            }
            "etcd_server_snapshot_apply_in_progress_total" => gauge(out, &core.snapshots_applying),
            "etcd_server_version" => out.labelled(&[("server_version", &self.registry.version)], 1.0),
            _ => unknown(name),
        }
    }

    fn client_requests(&self, out: &mut Samples) {
        let mut totals = std::collections::BTreeMap::new();
        for shard in &self.registry.shards {
            for (version, kind, count) in shard.client_versions.used() {
                *totals.entry((version.to_string(), kind)).or_insert(0u64) += count;
            }
        }
        for ((version, kind), count) in totals {
            out.labelled(&[("client_api_version", &version), ("type", kind)], count as f64);
        }
    }

    fn grpc(&self, name: &'static str, out: &mut Samples) {
        for (at, method) in METHODS.iter().enumerate() {
            let sum = |pick: &dyn Fn(&MethodCells) -> &Counter| -> u64 {
                self.registry.shards.iter().map(|shard| pick(&shard.methods[at]).get()).sum()
            };
            if !method.eager && sum(&|cells| &cells.started) == 0 {
                continue;
            }
            let labels = [
                ("grpc_method", method.name),
                ("grpc_service", method.service),
                ("grpc_type", method.flow.name()),
            ];
            match name {
                "grpc_server_started_total" => out.labelled(&labels, sum(&|cells| &cells.started) as f64),
                "grpc_server_msg_received_total" => {
                    out.labelled(&labels, sum(&|cells| &cells.received) as f64)
                }
                "grpc_server_msg_sent_total" => out.labelled(&labels, sum(&|cells| &cells.sent) as f64),
                "grpc_server_handled_total" => {
                    for (number, code) in CODES.iter().enumerate() {
                        let count = sum(&|cells| &cells.handled[number]);
                        let [method, service, kind] = labels;
                        out.labelled(&[("grpc_code", code), method, service, kind], count as f64);
                    }
                }
                "grpc_server_handling_seconds" => {
                    for shard in &self.registry.shards {
                        if let Some(histogram) = &shard.methods[at].handling {
                            out.histogram(&labels, histogram.read());
                        }
                    }
                }
                _ => unknown(name),
            }
        }
    }

    fn process(&self, name: &'static str, out: &mut Samples) {
        let process = &self.process;
        let reading = match name {
            "os_fd_limit" | "process_max_fds" => process.max_fds,
            "os_fd_used" | "process_open_fds" => process.open_fds,
            "process_cpu_seconds_total" => process.cpu_seconds,
            "process_network_receive_bytes_total" => process.received_bytes,
            "process_network_transmit_bytes_total" => process.sent_bytes,
            "process_resident_memory_bytes" => process.resident_bytes,
            "process_start_time_seconds" => process.start_seconds,
            "process_virtual_memory_bytes" => process.virtual_bytes,
            "process_virtual_memory_max_bytes" => process.virtual_max_bytes,
            "promhttp_metric_handler_requests_in_flight" => Some(1.0),
            "promhttp_metric_handler_requests_total" => {
                // The scrape under way is counted when it has ended.
                let done = self.registry.edge.scrapes.get().saturating_sub(1);
                for (code, count) in [("200", done), ("500", 0), ("503", 0)] {
                    out.labelled(&[("code", code)], count as f64);
                }
                None
            }
            _ => unknown(name),
        };
        if let Some(value) = reading {
            out.number(value);
        }
    }

    fn total(&self, pick: impl Fn(&ShardMetrics) -> &Counter) -> f64 {
        self.registry.shards.iter().map(|shard| pick(shard).get()).sum::<u64>() as f64
    }

    fn level(&self, out: &mut Samples, pick: impl Fn(&ShardMetrics) -> &Gauge) {
        out.number(self.registry.shards.iter().map(|shard| pick(shard).get()).sum::<i64>() as f64);
    }

    fn times(&self, out: &mut Samples, pick: impl Fn(&ShardMetrics) -> &Histogram) {
        self.registry.shards.iter().for_each(|shard| out.histogram(&[], pick(shard).read()));
    }

    fn by_peer(&self, out: &mut Samples, label: &'static str, pick: impl Fn(&PeerMetrics) -> &Counter) {
        self.peers.iter().for_each(|peer| out.labelled(&[(label, &peer.id)], pick(peer).get() as f64));
    }
}

fn counter(out: &mut Samples, counter: &Counter) {
    out.number(counter.get() as f64);
}

fn gauge(out: &mut Samples, gauge: &Gauge) {
    out.number(gauge.get() as f64);
}

/// A histogram that this server has no use for; etcd always shows it.
fn nothing_observed(out: &mut Samples, name: &str) {
    let buckets = table::find(name).buckets.bounds().len() + 1;
    out.histogram(&[], (vec![0; buckets], 0.0));
}

fn word(ok: bool) -> &'static str {
    if ok { "true" } else { "false" }
}

fn unknown(name: &str) -> ! {
    panic!("the metric {name} has no source")
}
