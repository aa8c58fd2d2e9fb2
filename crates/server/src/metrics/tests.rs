//! The text that Prometheus and the rules of etcd-mixin see.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::calls::Rpc;
use api::meter::Operation;

use super::table::{Kind, TABLE};
use super::{Facts, PeerMetrics, Registry};
use crate::config::{Config, Start, load};

fn config(args: &[&str]) -> Config {
    let args: Vec<_> = args.iter().map(Into::into).collect();
    match load(&args, &[]) {
        Start::Run { config, .. } => *config,
        other => panic!("{other:?}"),
    }
}

/// Every sample: name with labels, to value. Checks the shape of the text on the way.
fn samples(text: &str) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    let mut family = String::new();
    let mut families = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(!help.is_empty());
            families.push(name.to_string());
            family = name.to_string();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(name, family);
            assert!(["counter", "gauge", "histogram"].contains(&kind));
        } else {
            assert!(line.starts_with(&family), "{line} is not of {family}");
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(value == "+Inf" || value.parse::<f64>().is_ok(), "{line}");
            assert!(out.insert(name.to_string(), value.to_string()).is_none(), "{name} twice");
        }
    }
    assert!(families.is_sorted(), "families are in the order of their names");
    out
}

#[test]
fn the_table_is_sorted_and_all_of_it_renders() {
    assert!(TABLE.is_sorted_by(|a, b| a.name < b.name));
    for row in TABLE {
        assert_eq!(row.kind == Kind::Histogram, !row.buckets.bounds().is_empty(), "{}", row.name);
        assert!(row.labels.is_sorted(), "{}", row.name);
    }
    let registry = Registry::new(&config(&["--metrics=extensive"]), 2);
    // Families that etcd too shows only after their first sample.
    let facts = Facts {
        member_id: 0x3ac8_bdcc_62d9_9bdf,
        cluster_version: Some("3.7.0".into()),
        alarms: vec![(0x3ac8_bdcc_62d9_9bdf, "NOSPACE".into())],
        ..Facts::default()
    };
    registry.add_peer(Arc::new(PeerMetrics::new(0xab)));
    let shard = &registry.shards[1];
    shard.range_ok.observe(1);
    shard.requests.observe(Operation::Put, true, 3_000_000);
    shard.client_versions.count(Some(b"3.7"), true);
    registry.core.applies.observe(Operation::Put, true, 150_000);
    registry.edge.check("readyz", "non_learner", true);
    // Rendering asserts that each histogram has the buckets of its family.
    let text = registry.render(&facts);
    let shown: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let missing: Vec<_> = TABLE.iter().map(|row| row.name).filter(|name| !shown.contains(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    // The labels of each sample are those of its row.
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, _) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let row = TABLE.iter().rfind(|row| {
            name.strip_prefix(row.name).is_some_and(|rest| ["", "_bucket", "_sum", "_count"].contains(&rest))
        });
        let row = row.unwrap_or_else(|| panic!("{line}"));
        let names: Vec<&str> = labels
            .trim_end_matches('}')
            .split("\",")
            .filter(|label| !label.is_empty())
            .map(|label| label.split('=').next().unwrap())
            .filter(|label| *label != "le")
            .collect();
        assert_eq!(names, row.labels, "{line}");
    }
}

#[test]
fn what_monitoring_of_kubernetes_reads() {
    let registry = Registry::new(&config(&["--metrics=extensive"]), 3);
    registry.add_peer(Arc::new(PeerMetrics::new(0xab)));
    let got = samples(&registry.render(&Facts::default()));
    let call = "grpc_method=\"Range\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"";
    let watch = "grpc_method=\"Watch\",grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"";
    for series in [
        "etcd_server_has_leader",
        "etcd_server_leader_changes_seen_total",
        "etcd_server_proposals_failed_total",
        "etcd_server_proposals_committed_total",
        "etcd_server_proposals_applied_total",
        "etcd_server_proposals_pending",
        "etcd_server_quota_backend_bytes",
        "etcd_mvcc_db_total_size_in_bytes",
        "etcd_mvcc_db_total_size_in_use_in_bytes",
        "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.001\"}",
        "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"8.192\"}",
        "etcd_disk_backend_commit_duration_seconds_bucket{le=\"+Inf\"}",
        "etcd_network_peer_round_trip_time_seconds_bucket{To=\"ab\",le=\"0.0001\"}",
        "etcd_network_peer_sent_failures_total{To=\"ab\"}",
        "etcd_network_peer_sent_bytes_total{To=\"ab\"}",
        "etcd_network_peer_received_bytes_total{From=\"ab\"}",
        "etcd_network_client_grpc_sent_bytes_total",
        "etcd_network_client_grpc_received_bytes_total",
        "process_resident_memory_bytes",
        "process_start_time_seconds",
    ] {
        assert!(got.contains_key(series), "{series}");
    }
    for labels in [call, watch] {
        assert_eq!(got[&format!("grpc_server_started_total{{{labels}}}")], "0");
        assert_eq!(got[&format!("grpc_server_handled_total{{grpc_code=\"OK\",{labels}}}")], "0");
        assert_eq!(got[&format!("grpc_server_handled_total{{grpc_code=\"Unavailable\",{labels}}}")], "0");
        assert_eq!(got[&format!("grpc_server_handling_seconds_bucket{{{labels},le=\"0.005\"}}")], "0");
    }
    let basic = samples(&Registry::new(&config(&[]), 1).render(&Facts::default()));
    assert!(!basic.keys().any(|series| series.starts_with("grpc_server_handling_seconds")));
}

#[test]
fn shards_add_up() {
    let registry = Registry::new(&config(&[]), 3);
    let put = Rpc::Put as usize;
    for (n, shard) in registry.shards.iter().enumerate() {
        shard.started[put].add(n as u64 + 1);
        shard.handled[put][0].inc();
        shard.handled[put][14].inc();
        shard.watchers.add(10);
        shard.range_ok.observe(150_000);
        shard.received_bytes.add(500_000);
        shard.ranges.add(2);
        shard.read_txns.inc();
        shard.client_versions.count(Some(b"3.7"), false);
        shard.client_versions.count(None, true);
    }
    registry.shards[0].watchers.add(-3);
    registry.core.ranges.add(5);
    registry.core.txns.add(5);
    let got = samples(&registry.render(&Facts::default()));
    let call = "grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"";
    assert_eq!(got[&format!("grpc_server_started_total{{{call}}}")], "6");
    assert_eq!(got[&format!("grpc_server_handled_total{{grpc_code=\"Unavailable\",{call}}}")], "3");
    assert_eq!(got["etcd_debugging_mvcc_watcher_total"], "27");
    assert_eq!(got["etcd_mvcc_range_total"], "11");
    assert_eq!(got["etcd_mvcc_txn_total"], "8");
    assert_eq!(got["etcd_network_client_grpc_received_bytes_total"], "1.5e+06");
    assert_eq!(got["etcd_server_range_duration_seconds_count{success=\"true\"}"], "3");
    assert_eq!(got["etcd_server_range_duration_seconds_bucket{success=\"true\",le=\"0.0002\"}"], "3");
    assert_eq!(got["etcd_server_range_duration_seconds_bucket{success=\"true\",le=\"0.0001\"}"], "0");
    assert!(!got.contains_key("etcd_server_range_duration_seconds_count{success=\"false\"}"));
    let requests = "etcd_server_client_requests_total";
    assert_eq!(got[&format!("{requests}{{client_api_version=\"3.7\",type=\"unary\"}}")], "3");
    assert_eq!(got[&format!("{requests}{{client_api_version=\"unknown\",type=\"stream\"}}")], "3");
}

#[test]
fn facts_of_the_member() {
    let registry = Registry::new(&config(&["--reported-version=3.6.14", "--quota-backend-bytes=1048576"]), 1);
    let got = samples(&registry.render(&Facts::default()));
    assert_eq!(got["etcd_server_version{server_version=\"3.6.14\"}"], "1");
    assert_eq!(got["etcd_server_quota_backend_bytes"], "1.048576e+06");
    assert_eq!(got["etcd_server_has_leader"], "0");
    assert_eq!(got["promhttp_metric_handler_requests_total{code=\"200\"}"], "0");
    assert!(!got.keys().any(|series| series.starts_with("etcd_server_id")));
    registry.edge.check("readyz", "linearizable_read", true);
    registry.edge.check("readyz", "linearizable_read", false);
    let mut facts = Facts {
        member_id: 255,
        leader: 255,
        cluster_version: Some("3.6.0".into()),
        applied: 17,
        committed: 18,
        current_revision: 5,
        compact_revision: -1,
        keys: 3,
        ..Facts::default()
    };
    let got = samples(&registry.render(&facts));
    assert_eq!(got["etcd_server_id{server_id=\"ff\"}"], "1");
    assert_eq!(got["etcd_cluster_version{cluster_version=\"3.6\"}"], "1");
    assert_eq!(got["etcd_network_known_peers{Local=\"ff\",Remote=\"ff\"}"], "1");
    assert_eq!(got["etcd_server_has_leader"], "1");
    assert_eq!(got["etcd_server_is_leader"], "1");
    assert_eq!(got["etcd_server_proposals_applied_total"], "17");
    assert_eq!(got["etcd_server_proposals_committed_total"], "18");
    assert_eq!(got["etcd_debugging_mvcc_compact_revision"], "-1");
    assert_eq!(got["etcd_debugging_mvcc_keys_total"], "3");
    assert_eq!(got["etcd_server_healthcheck{name=\"linearizable_read\",type=\"readyz\"}"], "0");
    let total = "etcd_server_healthchecks_total{name=\"linearizable_read\",status=";
    assert_eq!(got[&format!("{total}\"success\",type=\"readyz\"}}")], "1");
    assert_eq!(got[&format!("{total}\"error\",type=\"readyz\"}}")], "1");
    assert_eq!(got["promhttp_metric_handler_requests_total{code=\"200\"}"], "1");
    assert_eq!(got["etcd_mvcc_db_open_read_transactions"], "0");
    facts.leader = 1;
    // A shard with two long answers under its one pin, and a hash.
    registry.shards[0].long_reads.set(2);
    facts.pins = 2;
    let got = samples(&registry.render(&facts));
    assert_eq!(got["etcd_mvcc_db_open_read_transactions"], "3");
    assert_eq!((&*got["etcd_server_has_leader"], &*got["etcd_server_is_leader"]), ("1", "0"));
}

#[test]
fn methods_show_as_etcd_shows_them() {
    let registry = Registry::new(&config(&[]), 1);
    let started = |registry: &Registry| {
        let got = samples(&registry.render(&Facts::default()));
        got.keys().filter(|series| series.starts_with("grpc_server_started_total")).count()
    };
    assert_eq!(started(&registry), 45, "as many as etcd shows from the start");
    registry.shards[0].started[Rpc::Lock as usize].inc();
    assert_eq!(started(&registry), 46);
}
