//! From cells to samples: one arm per family of the table. A family without an arm panics, and a test renders them all.

use std::sync::Arc;

use api::Meter;
use api::calls::{Rpc, Shape, TABLE};
use api::meter::{Counter, Gauge, Histogram};

use super::format::Samples;
use super::groups::{CODES, Facts, PeerMetrics, lock};
use super::process::{self, Process};
use super::{Registry, table};

/// One rendering.
pub struct Reading<'a> {
    registry: &'a Registry,
    facts: &'a Facts,
    process: Process,
    member: String,
    peers: Vec<Arc<PeerMetrics>>,
}

impl<'a> Reading<'a> {
    pub fn new(registry: &'a Registry, facts: &'a Facts) -> Reading<'a> {
        Reading {
            registry,
            facts,
            process: process::read(),
            member: format!("{:x}", facts.member_id),
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
        let (core, facts) = (&*self.registry.core, self.facts);
        match name {
            "etcd_cluster_version" => {
                if let Some(version) = &facts.cluster_version {
                    let minor = version.rsplit_once('.').map_or(version.as_str(), |(minor, _)| minor);
                    out.labelled(&[("cluster_version", minor)], 1.0);
                }
            }
            "etcd_debugging_auth_revision" => out.number(facts.auth_revision as f64),
            "etcd_debugging_disk_backend_commit_rebalance_duration_seconds"
            | "etcd_debugging_disk_backend_commit_spill_duration_seconds"
            | "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds"
            | "etcd_debugging_snap_save_marshalling_duration_seconds"
            | "etcd_debugging_snap_save_total_duration_seconds"
            | "etcd_snap_fsync_duration_seconds"
            | "etcd_snap_db_fsync_duration_seconds"
            | "etcd_snap_db_save_total_duration_seconds" => nothing_observed(out, name),
            "etcd_debugging_disk_backend_commit_write_duration_seconds"
            | "etcd_disk_backend_commit_duration_seconds" => times(out, name, &[], &core.checkpoints),
            "etcd_debugging_lease_granted_total" => counter(out, &core.leases_granted),
            "etcd_debugging_lease_renewed_total" => counter(out, &core.leases_renewed),
            "etcd_debugging_lease_revoked_total" => counter(out, &core.leases_revoked),
            "etcd_debugging_lease_ttl_total" => times(out, name, &[], &core.lease_ttl),
            "etcd_debugging_mvcc_compact_revision" => out.number(facts.compact_revision as f64),
            "etcd_debugging_mvcc_current_revision" => out.number(facts.current_revision as f64),
            "etcd_debugging_mvcc_db_compaction_keys_total" => counter(out, &core.compaction_keys),
            "etcd_debugging_mvcc_db_compaction_last" => gauge(out, &core.compaction_last),
            "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds" => {
                times(out, name, &[], &core.compaction_step);
            }
            "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds" => {
                times(out, name, &[], &core.compaction_total);
            }
            "etcd_debugging_mvcc_events_total" => out.number(self.total(|shard| &shard.watch_events)),
            "etcd_debugging_mvcc_keys_total" => out.number(facts.keys as f64),
            // An event is on its way to a connection, or its watcher is behind: none waits between.
            "etcd_debugging_mvcc_pending_events_total" => out.number(0.0),
            "etcd_debugging_mvcc_slow_watcher_total" => self.level(out, |shard| &shard.slow_watchers),
            "etcd_debugging_mvcc_total_put_size_in_bytes" => {
                out.number(self.total(|shard| &shard.put_bytes));
            }
            "etcd_debugging_mvcc_watch_stream_total" => self.level(out, |shard| &shard.watch_streams),
            "etcd_debugging_mvcc_watcher_total" => self.level(out, |shard| &shard.watchers),
            "etcd_debugging_server_alarms" => {
                for (member, alarm) in &facts.alarms {
                    let member = format!("{member:x}");
                    out.labelled(&[("alarm_type", alarm), ("server_id", &member)], 1.0);
                }
            }
            "etcd_debugging_server_lease_expired_total" => counter(out, &core.leases_expired),
            "etcd_debugging_server_watch_send_loop_control_stream_duration_seconds" => {
                self.times(out, name, |shard| &shard.watch_send_control);
            }
            "etcd_debugging_server_watch_send_loop_progress_duration_seconds" => {
                self.times(out, name, |shard| &shard.watch_send_progress);
            }
            "etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds" => {
                self.times(out, name, |shard| &shard.watch_send_per_event);
            }
            "etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds" => {
                self.times(out, name, |shard| &shard.watch_send_events);
            }
            "etcd_grpc_proxy_cache_hits_total"
            | "etcd_grpc_proxy_cache_keys_total"
            | "etcd_grpc_proxy_cache_misses_total"
            | "etcd_grpc_proxy_events_coalescing_total"
            | "etcd_grpc_proxy_watchers_coalescing_total"
            | "etcd_debugging_store_expires_total"
            | "etcd_debugging_store_watch_requests_total"
            | "etcd_debugging_store_watchers" => out.number(0.0),
            "etcd_disk_backend_defrag_duration_seconds" => self.times(out, name, |shard| &shard.defrag),
            "etcd_disk_backend_snapshot_duration_seconds" => {
                self.times(out, name, |shard| &shard.snapshot_export)
            }
            "etcd_disk_defrag_inflight" => {
                let running = self.registry.shards.iter().any(|shard| shard.defrags.get() > 0);
                out.number(f64::from(u8::from(running)));
            }
            // A batch is written and made durable in one step.
            "etcd_disk_wal_fsync_duration_seconds" | "etcd_disk_wal_write_duration_seconds" => {
                times(out, name, &[], &core.log_writes);
            }
            "etcd_disk_wal_write_bytes_total" => counter(out, &core.log_bytes),
            "etcd_mvcc_db_open_read_transactions" => {
                // All long answers of a shard share its pin; the other pins are those of hashes, exports and short reads.
                let long = self.registry.shards.iter().map(|shard| shard.long_reads.get());
                let (answers, pins) = long.fold((0, 0), |(sum, some), n| (sum + n, some + u64::from(n > 0)));
                out.number(answers as f64 + facts.pins.saturating_sub(pins) as f64);
            }
            "etcd_mvcc_db_total_size_in_bytes" => out.number(facts.db_bytes as f64),
            "etcd_mvcc_db_total_size_in_use_in_bytes" => out.number(facts.db_bytes_in_use as f64),
            "etcd_mvcc_delete_total" => counter(out, &core.deletes),
            "etcd_mvcc_hash_duration_seconds" => self.times(out, name, |shard| &shard.hash),
            "etcd_mvcc_hash_rev_duration_seconds" => self.times(out, name, |shard| &shard.hash_rev),
            "etcd_mvcc_put_total" => counter(out, &core.puts),
            "etcd_mvcc_range_total" => {
                out.number(core.ranges.get() as f64 + self.total(|shard| &shard.ranges));
            }
            "etcd_mvcc_txn_total" => {
                out.number(core.txns.get() as f64 + self.total(|shard| &shard.read_txns));
            }
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
                if self.facts.member_id != 0 {
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
                self.peers.iter().for_each(|peer| times(out, name, &[("To", &peer.id)], &peer.round_trip));
            }
            "etcd_network_peer_received_bytes_total" => {
                self.by_peer(out, "From", |peer| &peer.received_bytes)
            }
            "etcd_network_peer_received_failures_total" => {
                self.by_peer(out, "From", |peer| &peer.receive_failures);
            }
            "etcd_network_peer_sent_bytes_total" => self.by_peer(out, "To", |peer| &peer.sent_bytes),
            "etcd_network_peer_sent_failures_total" => self.by_peer(out, "To", |peer| &peer.send_failures),
            _ => unknown(name),
        }
    }

    fn server(&self, name: &'static str, out: &mut Samples) {
        let (core, edge, facts) = (&*self.registry.core, &self.registry.edge, self.facts);
        let flag = |out: &mut Samples, on: bool| out.number(f64::from(u8::from(on)));
        match name {
            "etcd_server_apply_duration_seconds" => {
                for (operation, ok, histogram) in core.applies.used() {
                    let labels = [("op", operation), ("success", word(ok)), ("version", "v3")];
                    times(out, name, &labels, histogram);
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
            "etcd_server_has_leader" => flag(out, facts.leader != 0),
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
            // These need other members.
            "etcd_server_heartbeat_send_failures_total"
            | "etcd_server_learner_promote_successes"
            | "etcd_server_snapshot_apply_in_progress_total" => out.number(0.0),
            "etcd_server_id" => {
                if self.facts.member_id != 0 {
                    out.labelled(&[("server_id", &self.member)], 1.0);
                }
            }
            "etcd_server_is_leader" => flag(out, facts.leader != 0 && facts.leader == facts.member_id),
            "etcd_server_is_learner" => flag(out, facts.is_learner),
            "etcd_server_leader_changes_seen_total" => counter(out, &core.leader_changes),
            "etcd_server_proposals_applied_total" => out.number(facts.applied as f64),
            "etcd_server_proposals_committed_total" => out.number(facts.committed as f64),
            "etcd_server_proposals_failed_total" => {
                out.number(self.total(|shard| &shard.proposals_failed));
            }
            "etcd_server_proposals_pending" => self.level(out, |shard| &shard.proposals_pending),
            "etcd_server_quota_backend_bytes" => out.number(self.registry.quota_bytes as f64),
            "etcd_server_range_duration_seconds" => {
                for shard in &self.registry.shards {
                    for (ok, histogram) in [(true, &shard.range_ok), (false, &shard.range_failed)] {
                        if histogram.count() > 0 {
                            times(out, name, &[("success", word(ok))], histogram);
                        }
                    }
                }
            }
            "etcd_server_read_indexes_failed_total" => {
                out.number(self.total(|shard| &shard.barriers_failed));
            }
            "etcd_server_request_duration_seconds" => {
                for shard in &self.registry.shards {
                    for (operation, ok, histogram) in shard.requests.used() {
                        times(out, name, &[("success", word(ok)), ("type", operation)], histogram);
                    }
                }
            }
            "etcd_server_slow_apply_total" => counter(out, &core.applies_slow),
            "etcd_server_slow_read_indexes_total" => {
                out.number(self.total(|shard| &shard.barriers_slow));
            }
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
        for (rpc, path, shape) in TABLE {
            let at = rpc as usize;
            let sum = |pick: &dyn Fn(&Meter) -> &Counter| -> u64 {
                self.registry.shards.iter().map(|shard| pick(shard).get()).sum()
            };
            let (service, method) = split(path);
            if service.starts_with("v3") && sum(&|shard| &shard.started[at]) == 0 {
                // etcd shows the services of its own from the start, and these once they were called.
                continue;
            }
            let labels = labels(service, method, shape);
            match name {
                "grpc_server_started_total" => {
                    out.labelled(&labels, sum(&|shard| &shard.started[at]) as f64);
                }
                "grpc_server_msg_received_total" => {
                    out.labelled(&labels, sum(&|shard| &shard.messages_received[at]) as f64);
                }
                "grpc_server_msg_sent_total" => {
                    out.labelled(&labels, sum(&|shard| &shard.messages_sent[at]) as f64);
                }
                "grpc_server_handled_total" => {
                    for (number, code) in CODES.iter().enumerate() {
                        let count = sum(&|shard| &shard.handled[at][number]);
                        let [method, service, kind] = labels;
                        out.labelled(&[("grpc_code", code), method, service, kind], count as f64);
                    }
                }
                "grpc_server_handling_seconds" => self.handling(name, rpc, &labels, out),
                _ => unknown(name),
            }
        }
    }

    fn handling(&self, name: &'static str, rpc: Rpc, labels: &[(&str, &str)], out: &mut Samples) {
        for shard in &self.registry.shards {
            if let Some(histogram) = shard.handling(rpc) {
                times(out, name, labels, histogram);
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

    fn total(&self, pick: impl Fn(&Meter) -> &Counter) -> f64 {
        self.registry.shards.iter().map(|shard| pick(shard).get()).sum::<u64>() as f64
    }

    fn level(&self, out: &mut Samples, pick: impl Fn(&Meter) -> &Gauge) {
        out.number(self.registry.shards.iter().map(|shard| pick(shard).get()).sum::<i64>() as f64);
    }

    fn times(&self, out: &mut Samples, name: &str, pick: impl Fn(&Meter) -> &Histogram) {
        self.registry.shards.iter().for_each(|shard| times(out, name, &[], pick(shard)));
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

/// A histogram's sample, in the unit of its family.
fn times(out: &mut Samples, name: &str, labels: &[(&str, &str)], histogram: &Histogram) {
    let row = table::find(name);
    debug_assert!(row.has_raw_bounds(histogram.bounds()), "{name} observes by the buckets of its row");
    let (counts, sum) = histogram.read();
    out.histogram(labels, (counts, sum as f64 / row.raw_per_unit));
}

/// `/service/method`.
fn split(path: &'static str) -> (&'static str, &'static str) {
    path[1..].split_once('/').expect("a path names a service and a method")
}

fn labels(service: &'static str, method: &'static str, shape: Shape) -> [(&'static str, &'static str); 3] {
    let kind = match shape {
        Shape::Unary => "unary",
        Shape::ServerStream => "server_stream",
        Shape::BidiStream => "bidi_stream",
    };
    [("grpc_method", method), ("grpc_service", service), ("grpc_type", kind)]
}

/// A histogram that this server has no use for; etcd always shows it.
fn nothing_observed(out: &mut Samples, name: &str) {
    out.histogram(&[], nothing(name));
}

fn nothing(name: &str) -> (Vec<u64>, f64) {
    (vec![0; table::find(name).buckets.bounds().len() + 1], 0.0)
}

fn word(ok: bool) -> &'static str {
    if ok { "true" } else { "false" }
}

fn unknown(name: &str) -> ! {
    panic!("the metric {name} has no source")
}
