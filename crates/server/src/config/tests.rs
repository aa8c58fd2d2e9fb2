//! Command line, environment and file, held against what etcd 3.7.1 does and prints.

use std::ffi::OsString;
use std::io::Write;
use std::time::Duration;

use super::facts::{FLAGS_3_7_1, FLAGS_ONLY_3_6};
use super::settings::{Origin, Settings, read_args};
use super::table::{FLAGS, Use, find};
use super::values::{Value, default_of};
use super::*;

fn start(args: &[&str], env: &[(&str, &str)]) -> Start {
    let args: Vec<OsString> = args.iter().map(Into::into).collect();
    let env: Vec<_> = env.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    load(&args, &env)
}

fn run(args: &[&str]) -> (Config, Vec<Note>) {
    match start(args, &[]) {
        Start::Run { config, notes } => (*config, notes),
        other => panic!("{args:?}: {other:?}"),
    }
}

fn refused(start: Start) -> (FailureStage, String) {
    match start {
        Start::Refuse { failure, .. } => (failure.stage, failure.error),
        other => panic!("{other:?}"),
    }
}

/// The first line on stderr of a usage error.
fn usage_error(args: &[&str]) -> String {
    match start(args, &[]) {
        Start::Print { stderr, code: 2, stdout } => {
            assert!(stdout.is_empty() && stderr.contains("\nUsage:\n"), "{stderr}");
            stderr.lines().next().unwrap().to_string()
        }
        other => panic!("{args:?}: {other:?}"),
    }
}

fn says(notes: &[Note], text: &str) -> bool {
    notes.iter().any(|note| note.message.contains(text))
}

/// A value that every flag of this type accepts.
fn sample(kind: &str, name: &str) -> &'static str {
    match (kind, name) {
        (_, "feature-gates") => "CompactHashCheck=true",
        (_, "initial-cluster-state") => "existing",
        (_, "discovery-fallback") => "exit",
        (_, "v2-deprecation") => "gone,write-only",
        ("bool", _) => "true",
        ("duration", _) => "1m30s",
        ("url list", _) => "http://127.0.0.1:1,https://127.0.0.1:2",
        ("uint" | "uint32" | "uint64" | "int" | "int64", _) => "7",
        _ => "word",
    }
}

#[test]
fn every_flag_of_etcd_parses_in_every_syntax() {
    for (name, kind, default, yaml) in FLAGS_3_7_1 {
        let row = find(name).unwrap_or_else(|| panic!("{name} is missing"));
        let flag = &FLAGS[row];
        assert_eq!(flag.yaml, *yaml, "{name}");
        assert_eq!(flag.default, *default, "{name}");
        let value = sample(kind, name);
        let mut values = Vec::new();
        for args in [
            vec![format!("--{name}={value}")],
            vec![format!("-{name}={value}")],
            vec![format!("--{name}"), value.to_string()],
            vec![format!("--{name}=junk-that-is-overruled"), format!("--{name}={value}")],
        ] {
            let separate = args.len() == 2 && !args[0].contains('=');
            if separate && flag.is_bare() {
                continue;
            }
            let last_wins = args.len() == 2 && !separate;
            let args: Vec<OsString> = match last_wins {
                // The first of the two must parse as well.
                true => vec![format!("--{name}={}", sample(kind, name)).into(), args[1].clone().into()],
                false => args.into_iter().map(Into::into).collect(),
            };
            let mut settings = Settings::defaults();
            read_args(&mut settings, &args).unwrap_or_else(|error| panic!("{args:?}: {error:?}"));
            assert_eq!(settings.origin(row), Origin::CommandLine);
            values.push(settings.value(row).clone());
        }
        let mut settings = Settings::defaults();
        settings.set(row, value, Origin::Environment).unwrap();
        values.push(settings.value(row).clone());
        assert!(values.windows(2).all(|pair| pair[0] == pair[1]), "{name}: {values:?}");
        if flag.usage != Use::Ignored
            && *name != "discovery-fallback"
            && !(*kind == "bool" && *default == "true")
        {
            assert_ne!(values[0], default_of(flag.kind, flag.default), "{name} took the value");
        }
    }
    for name in FLAGS_ONLY_3_6 {
        assert!(find(name).is_some(), "{name} is missing");
    }
    let ours = FLAGS.iter().filter(|flag| {
        !FLAGS_3_7_1.iter().any(|(name, ..)| *name == flag.name) && !FLAGS_ONLY_3_6.contains(&flag.name)
    });
    let ours: Vec<_> = ours.map(|flag| flag.name).collect();
    assert_eq!(ours, ["shards", "reported-version", "memory-budget-bytes"]);
    let mut names: Vec<_> = FLAGS.iter().map(|flag| flag.name).collect();
    names.sort();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "each name once");
}

#[test]
fn the_last_of_several_wins_and_bare_booleans() {
    let (config, _) =
        run(&["--name=a", "-name", "b", "--pre-vote", "--pre-vote=false", "--socket-reuse-port"]);
    assert_eq!(config.name, "b");
    assert!(!config.pre_vote && config.socket_reuse_port);
    // A bare boolean takes no argument: what follows is no flag.
    let (stage, error) = refused(start(&["--pre-vote", "false"], &[]));
    assert_eq!((stage, error.as_str()), (FailureStage::Verify, "\"false\" is not a valid flag"));
    for stray in ["stray", "-"] {
        let (_, error) = refused(start(&[stray, "--nosuch"], &[]));
        assert_eq!(error, format!("{stray:?} is not a valid flag"));
    }
    let (_, error) = refused(start(&["--", "x"], &[]));
    assert_eq!(error, "\"x\" is not a valid flag");
    run(&["--"]);
}

#[test]
fn usage_errors_are_etcds() {
    for (args, want) in [
        (&["--nosuch"][..], "flag provided but not defined: -nosuch"),
        (&["---x"], "bad flag syntax: ---x"),
        (&["--=x"], "bad flag syntax: --=x"),
        (&["--name"], "flag needs an argument: -name"),
        (&["--heartbeat-interval=abc"], "invalid value \"abc\" for flag -heartbeat-interval: parse error"),
        (&["--pre-vote=maybe"], "invalid boolean value \"maybe\" for -pre-vote: parse error"),
        (&["--pre-vote="], "invalid boolean value \"\" for -pre-vote: parse error"),
        (
            &["--listen-client-urls", "ftp://127.0.0.1:1"],
            "invalid value \"ftp://127.0.0.1:1\" for flag -listen-client-urls: URL scheme must be http, https, unix, or unixs: ftp://127.0.0.1:1",
        ),
        (
            &["--initial-cluster-state=zzz"],
            "invalid value \"zzz\" for flag -initial-cluster-state: invalid value",
        ),
        (
            &["--v2-deprecation=not-yet"],
            "invalid value \"not-yet\" for flag -v2-deprecation: invalid value \"not-yet\"",
        ),
        (
            &["--feature-gates=Foo=true"],
            "invalid value \"Foo=true\" for flag -feature-gates: unrecognized feature gate: Foo",
        ),
        (
            &["--grpc-keepalive-interval=5"],
            "invalid value \"5\" for flag -grpc-keepalive-interval: parse error",
        ),
        (
            &["--max-concurrent-streams=-1"],
            "invalid value \"-1\" for flag -max-concurrent-streams: strconv.ParseUint: parsing \"-1\": invalid syntax",
        ),
        (
            &["--max-concurrent-streams=99999999999"],
            "invalid value \"99999999999\" for flag -max-concurrent-streams: strconv.ParseUint: parsing \"99999999999\": value out of range",
        ),
        (
            &["--max-learners=99999999999999999999"],
            "invalid value \"99999999999999999999\" for flag -max-learners: value out of range",
        ),
        (&["--max-txn-ops=-1"], "invalid value \"-1\" for flag -max-txn-ops: parse error"),
        (
            &["--cors", "foo"],
            "invalid value \"foo\" for flag -cors: URL scheme must be http, https, unix, or unixs: foo",
        ),
    ] {
        assert_eq!(usage_error(args), want);
    }
}

#[test]
fn rules_between_flags_are_etcds() {
    for (args, want) in [
        (&["--heartbeat-interval=0"][..], "--heartbeat-interval must be >0 (set to 0ms)"),
        (&["--election-timeout=0"], "--election-timeout must be >0 (set to 0ms)"),
        (
            &["--heartbeat-interval", "300"],
            "--election-timeout[1000ms] should be at least as 5 times as --heartbeat-interval[300ms]",
        ),
        (
            &["--election-timeout", "60000"],
            "--election-timeout[60000ms] is too long, and should be set less than 50000ms",
        ),
        (
            &["--listen-client-urls", "http://127.0.0.1:1"],
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        ),
        (
            &["--listen-client-urls", "http://foo.bar:1", "--advertise-client-urls", "http://a:1"],
            "expected IP in URL for binding (http://foo.bar:1)",
        ),
        (
            &["--advertise-client-urls=http://:1"],
            "--advertise-client-urls \"http://:1\" must be in the format \"host:port\", \"unix:/path/to/socket\" or \"unixs:/path/to/socket\" (unexpected empty host (http://:1))",
        ),
        (
            &["--initial-advertise-peer-urls=http://:1"],
            "--initial-advertise-peer-urls \"http://:1\" must be \"host:port\" (unexpected empty host (http://:1))",
        ),
        (
            &["--discovery-fallback=proxy"],
            "v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\"",
        ),
        (&["--logger=capnslog"], "--logger=capnslog is removed in v3.5"),
        (&["--logger=x"], "unknown logger option \"x\""),
        (&["--log-format=foo"], "unknown log format: foo, supported values json, console"),
        (&["--log-outputs=stdout,default"], "multi logoutput for \"default\" is not supported yet"),
        (
            &["--enable-log-rotation"],
            "--log-outputs requires a single file path when --log-rotate-config-json is defined",
        ),
        (
            &["--max-request-bytes=50331649"],
            "--max-request-bytes=50331649 is above 50331648: a value must fit a chunk of the data file; set less",
        ),
        (&["--auto-compaction-mode=foo"], "unknown auto-compaction-mode \"foo\""),
        (&["--compact-hash-check-time=0s"], "--compact-hash-check-time must be >0 (set to 0s)"),
        (&["--compact-hash-check-time=-1m"], "--compact-hash-check-time must be >0 (set to -1m0s)"),
        (
            &["--feature-gates=LeaseCheckpointPersist=true"],
            "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint",
        ),
        (&["--tls-min-version=foo"], "unexpected TLS version \"foo\" (must be one of: TLS1.2, TLS1.3)"),
        (
            &["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"],
            "min version (TLS1.3) is greater than max version (TLS1.2)",
        ),
        (&["--discovery-token=x"], "both --discovery-token and --discovery-endpoints must be set"),
        (
            &["--discovery-endpoints=x", "--initial-cluster=default=http://localhost:2380"],
            "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \"discovery-endpoints\" or \"discovery-srv\"",
        ),
        (
            &["--enable-distributed-tracing", "--distributed-tracing-sampling-rate=-1"],
            "distributed tracing configurition is not valid: (tracing sampling rate must be positive)",
        ),
        (&["--config-file=/nonexistent"], "open /nonexistent: no such file or directory"),
    ] {
        assert_eq!(refused(start(args, &[])), (FailureStage::Verify, want.to_string()), "{args:?}");
    }
    let Start::Print { stderr, code: 2, .. } = start(&["--log-level=foo"], &[]) else { panic!("refused") };
    assert_eq!(stderr, "panic: unrecognized level: \"foo\"\n");
}

#[test]
fn what_cannot_be_ignored_ends_the_start() {
    for args in [
        &["--cert-file=a"][..],
        &["--key-file=a"],
        &["--client-cert-auth"],
        &["--trusted-ca-file=a"],
        &["--auto-tls"],
        &["--peer-auto-tls"],
        &["--peer-cert-file=a"],
        &["--force-new-cluster"],
        &["--discovery=http://a"],
        &["--discovery-token=t", "--discovery-endpoints=e"],
        &["--discovery-srv=example.com"],
        &["--auth-token=jwt,sign-method=RS256"],
        &["--shards=-1"],
        &["--reported-version=3.7"],
        &["--reported-version=3.7.x"],
        &["--memory-budget-bytes=-1"],
    ] {
        let (stage, error) = refused(start(args, &[]));
        let name = args[0].trim_start_matches('-').split('=').next().unwrap();
        let named =
            error.contains(name) || name == "discovery-token" && error.contains("discovery-endpoints");
        assert!(stage == FailureStage::Bootstrap && named, "{args:?}: {error}");
    }
    for (args, want) in [
        (
            &["--listen-client-urls=https://127.0.0.1:1", "--advertise-client-urls=https://127.0.0.1:1"][..],
            "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:1 with HTTPS scheme",
        ),
        (
            &["--listen-metrics-urls=https://127.0.0.1:1"],
            "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url",
        ),
        (&["--auth-token=foo"], "auth: invalid auth options"),
        (
            &["--auto-compaction-retention=abc"],
            "error parsing CompactionRetention: time: invalid duration \"abc\"",
        ),
        (
            &["--initial-cluster=default=foo"],
            "error setting up initial cluster: URL scheme must be http, https, unix, or unixs: foo",
        ),
        (
            &["--listen-metrics-urls=http://127.0.0.1:99999"],
            "listen tcp: address 127.0.0.1:99999: invalid port",
        ),
    ] {
        assert_eq!(refused(start(args, &[])), (FailureStage::Bootstrap, want.to_string()));
    }
    // Set to the default, a flag asks for nothing.
    run(&["--cert-file=", "--client-cert-auth=false", "--force-new-cluster=false", "--auth-token=simple"]);
}

#[test]
fn what_has_no_effect_is_said() {
    let (_, notes) = run(&[
        "--enable-pprof",
        "--unsafe-no-fsync",
        "--max-snapshots=3",
        "--v2-deprecation=gone",
        "--config=x",
        "--vv",
        "--feature-gates=InitialCorruptCheck=true",
        "--enable-distributed-tracing",
        "--listen-peer-urls=http://127.0.0.1:1",
        "--max-wals=5",
    ]);
    for text in [
        "--enable-pprof has no effect",
        "--unsafe-no-fsync has no effect",
        "--max-snapshots is deprecated in 3.6 and will be decommissioned in 3.8.",
        "--v2-deprecation is deprecated and scheduled for removal in v3.8. The default value is enforced, ignoring user input.",
        "flag is no longer supported - ignoring",
        "feature gate InitialCorruptCheck",
        "--enable-distributed-tracing has no effect",
        "peer URLs are advertised but not listened on",
        "Running http and grpc server on single port.",
        "it isn't recommended to use default name",
        "'data-dir' was empty",
    ] {
        assert!(says(&notes, text), "{text}: {notes:?}");
    }
    assert!(!says(&notes, "--max-wals"), "given its default it is not mentioned");
    let (_, notes) = run(&["--name=m", "--data-dir=d", "--listen-client-http-urls=http://127.0.0.1:3"]);
    assert_eq!(notes, [], "an ordinary start has nothing to say");
}

#[test]
fn old_spellings() {
    let (config, notes) = run(&[
        "--experimental-compaction-batch-limit=50",
        "--experimental-watch-progress-notify-interval=5s",
        "--experimental-snapshot-catchup-entries=9",
        "--experimental-compact-hash-check-enabled",
        "--experimental-txn-mode-write-with-shared-buffer=false",
        "--feature-gates=FastLeaseKeepAlive=false",
    ]);
    assert_eq!(config.compaction_batch_limit, 50);
    assert_eq!(config.watch_progress_notify_interval, Duration::from_secs(5));
    assert_eq!(config.snapshot_catchup_entries, 9);
    assert!(config.gates.enabled("CompactHashCheck"));
    assert!(
        !config.gates.enabled("TxnModeWriteWithSharedBuffer") && !config.gates.enabled("FastLeaseKeepAlive")
    );
    assert!(says(
        &notes,
        "--experimental-compaction-batch-limit is an old spelling, use --compaction-batch-limit"
    ));
    assert!(says(&notes, "use --feature-gates=CompactHashCheck=true|false"));
    assert_eq!(
        usage_error(&["--experimental-compaction-batch-limit=x"]),
        "invalid value \"x\" for flag -experimental-compaction-batch-limit: parse error"
    );
    for name in FLAGS_ONLY_3_6.iter().filter(|name| name.starts_with("experimental-")) {
        let flag = &FLAGS[find(name).unwrap()];
        match flag.usage {
            Use::Renamed(to) => assert_eq!(FLAGS[find(to).unwrap()].kind, flag.kind, "{name}"),
            Use::Gate(gate) => assert!(GATES.iter().any(|known| known.name == gate), "{name}"),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn the_environment() {
    let env = [
        ("ETCD_NAME", "from-env"),
        ("ETCD_HEARTBEAT_INTERVAL", "10"),
        ("ETCD_ELECTION_TIMEOUT", "100"),
        ("ETCD_UNSUPPORTED_ARCH", "arm64"),
        ("ETCD_VERIFY", "all"),
        ("ETCD_DATA_DIR", ""),
        ("ETCD_VERSION", "1"),
        ("ETCDCTL_API", "3"),
        ("PATH", "/bin"),
        ("ETCD_EXPERIMENTAL_COMPACTION_BATCH_LIMIT", "5"),
    ];
    let Start::Run { config, notes } = start(&["--snapshot-count=7"], &env) else { panic!("runs") };
    assert_eq!((config.name.as_str(), config.snapshot_count), ("from-env", 7));
    assert_eq!((config.heartbeat_interval_ms, config.election_timeout_ms), (10, 100));
    assert_eq!(config.compaction_batch_limit, 5);
    assert_eq!(config.data_dir, PathBuf::from("from-env.etcd"));
    let unknown: Vec<_> = notes
        .iter()
        .filter(|note| note.message == "unrecognized environment variable")
        .map(|note| note.fields[0].1.as_str())
        .collect();
    // etcd lists the empty one as well.
    assert_eq!(unknown, ["ETCD_UNSUPPORTED_ARCH", "ETCD_VERIFY", "ETCD_DATA_DIR"]);
    assert!(says(&notes, "cannot set special environment variable"));
    assert!(says(&notes, "recognized and used environment variable"));

    let (stage, error) = refused(start(&[], &[("ETCD_HEARTBEAT_INTERVAL", "abc")]));
    let want = "invalid value \"abc\" for ETCD_HEARTBEAT_INTERVAL: parse error";
    assert_eq!((stage, error.as_str()), (FailureStage::Verify, want));
    // etcd refuses to guess which of the two was meant.
    let (stage, error) = refused(start(&["--name=a"], &[("ETCD_NAME", "b")]));
    assert!(
        error.starts_with("conflicting environment variable is shadowed by corresponding command-line flag")
    );
    assert_eq!(stage, FailureStage::Environment);
    // The listeners of the environment count as set.
    let (_, error) = refused(start(&[], &[("ETCD_LISTEN_CLIENT_URLS", "http://127.0.0.1:1")]));
    assert_eq!(error, "--advertise-client-urls is required when --listen-client-urls is set explicitly");
    let Start::Run { notes, .. } = start(&[], &[("ETCD_DISCOVERY_PASSWORD", "secret")]) else {
        panic!("runs")
    };
    assert!(!format!("{notes:?}").contains("secret"));
}

#[test]
fn defaults_are_etcds() {
    let (config, _) = run(&[]);
    assert_eq!((config.name.as_str(), config.data_dir.to_str().unwrap()), ("default", "default.etcd"));
    assert_eq!(format!("{:?}", config.listen_client_urls), "[\"http://localhost:2379\"]");
    assert_eq!(format!("{:?}", config.listen_peer_urls), "[\"http://localhost:2380\"]");
    assert_eq!(config.advertise_client_urls, config.listen_client_urls);
    assert!(config.listen_metrics_urls.is_empty() && config.listen_client_http_urls.is_empty());
    assert_eq!((config.heartbeat_interval_ms, config.election_timeout_ms), (100, 1000));
    assert_eq!((config.snapshot_count, config.snapshot_catchup_entries), (10_000, 5000));
    assert_eq!((config.max_txn_ops, config.max_request_bytes), (128, 1_572_864));
    assert_eq!(config.max_concurrent_streams, u32::MAX);
    assert_eq!(config.grpc_keepalive_min_time, Duration::from_secs(5));
    assert_eq!(config.grpc_keepalive_interval, Duration::from_secs(7200));
    assert_eq!(config.grpc_keepalive_timeout, Duration::from_secs(20));
    assert_eq!((config.quota_backend_bytes, config.quota_bytes()), (0, Some(2 << 30)));
    assert_eq!(config.auto_compaction, AutoCompaction::Off);
    assert_eq!(config.compaction_batch_limit, 1000);
    assert_eq!(config.compaction_sleep_interval, Duration::from_millis(10));
    assert_eq!(config.watch_progress_notify_interval, Duration::from_secs(600));
    assert_eq!(config.warning_apply_duration, Duration::from_millis(100));
    assert_eq!(config.warning_unary_request_duration, Duration::from_millis(300));
    assert_eq!(config.request_timeout_ms(), 7000);
    assert!(config.pre_vote && config.strict_reconfig_check && config.enable_grpc_gateway);
    assert_eq!((config.bcrypt_cost, config.auth_token_ttl_s, config.max_learners), (10, 300, 1));
    assert_eq!((config.reported_version.as_str(), config.cluster_version()), ("3.7.1", "3.7.0".into()));
    assert_eq!((config.shards, config.memory_budget_bytes), (None, None));
    assert_eq!(config.log, log::Options::default());
    assert_eq!(config.initial_cluster_token, "etcd-cluster");
    config.verify_bootstrap().unwrap();
}

#[test]
fn values_in_effect() {
    let (config, notes) = run(&[
        "--quota-backend-bytes=-1",
        "--bcrypt-cost=99",
        "--compaction-batch-limit=-5",
        "--grpc-keepalive-interval=-1s",
        "--log-outputs=stdout,/tmp/x",
        "--log-level=DEBUG",
        "--log-format=console",
        "--shards=3",
        "--memory-budget-bytes=1048576",
        "--metrics=extensive",
        "--host-whitelist=b,a",
        "--cors=http://ui:1",
        "--quota-backend-bytes=0x10",
    ]);
    assert_eq!(config.quota_bytes(), Some(16));
    assert_eq!((config.bcrypt_cost, config.compaction_batch_limit), (10, 1000));
    assert!(says(&notes, "use default bcrypt cost"));
    assert_eq!(config.grpc_keepalive_interval, Duration::ZERO);
    assert_eq!(config.log.outputs, [log::Output::File("/tmp/x".into()), log::Output::Stdout]);
    assert!(config.log.console && config.log.level == Level::Debug && config.metrics_extensive);
    assert_eq!((config.shards, config.memory_budget_bytes), (Some(3), Some(1 << 20)));
    assert_eq!(config.host_whitelist.iter().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(config.cors.iter().collect::<Vec<_>>(), ["http://ui:1"]);
    assert_eq!(run(&["--quota-backend-bytes=-1"]).0.quota_bytes(), None);
    for (mode, retention, want) in [
        ("periodic", "1", AutoCompaction::Periodic(Duration::from_secs(3600))),
        ("periodic", "30m", AutoCompaction::Periodic(Duration::from_secs(1800))),
        ("periodic", "0", AutoCompaction::Off),
        ("revision", "1000", AutoCompaction::Revision(1000)),
        ("revision", "0", AutoCompaction::Off),
    ] {
        let args =
            [format!("--auto-compaction-mode={mode}"), format!("--auto-compaction-retention={retention}")];
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        assert_eq!(run(&args).0.auto_compaction, want);
    }
}

#[test]
fn urls_are_unique_and_the_empty_string_changes_nothing() {
    let client = "--listen-client-urls=http://127.0.0.1:3,http://127.0.0.1:1,http://127.0.0.1:3";
    let (config, _) = run(&[client, "--advertise-client-urls=http://a:1", "--listen-metrics-urls="]);
    assert_eq!(format!("{:?}", config.listen_client_urls), r#"["http://127.0.0.1:1", "http://127.0.0.1:3"]"#);
    assert!(config.listen_metrics_urls.is_empty());
    let (config, _) = run(&["--listen-client-urls=", "--advertise-client-urls=http://a:1"]);
    assert_eq!(format!("{:?}", config.listen_client_urls), "[\"http://localhost:2379\"]");
}

#[test]
fn bootstrap_rules_are_etcds() {
    let failure = |args: &[&str]| run(args).0.verify_bootstrap().map_err(|failure| failure.error);
    for (cluster, want) in [
        (
            "a=http://localhost:2380",
            "couldn't find local name \"default\" in the initial cluster configuration",
        ),
        (
            "default=http://localhost:23800",
            "--initial-cluster has default=http://localhost:23800 but missing from --initial-advertise-peer-urls=http://localhost:2380 (resolved urls: \"http://localhost:2380\" != \"http://localhost:23800\")",
        ),
        (
            "default=http://localhost:2380,default=http://localhost:2382",
            "--initial-cluster has default=http://localhost:2382 but missing from --initial-advertise-peer-urls=http://localhost:2380 (len([\"http://localhost:2380\"]) != len([\"http://localhost:2380\" \"http://localhost:2382\"]))",
        ),
        (
            "default=http://localhost:2380,b=http://localhost:2380",
            "initial cluster b=http://localhost:2380,default=http://localhost:2380 has duplicate url",
        ),
    ] {
        assert_eq!(failure(&[&format!("--initial-cluster={cluster}")]), Err(want.to_string()));
    }
    let several = failure(&["--initial-cluster=default=http://localhost:2380,b=http://localhost:2382"]);
    assert!(several.unwrap_err().starts_with("--initial-cluster names 2 members"));
    let existing = failure(&["--initial-cluster-state=existing"]);
    assert!(existing.unwrap_err().starts_with("--initial-cluster-state=existing cannot be used"));
    // Two ways to write one address.
    let (config, _) = run(&[
        "--initial-advertise-peer-urls=http://127.0.0.1:5,http://[::1]:6",
        "--initial-cluster=default=http://127.0.0.1:05,default=http://[0:0::1]:6",
    ]);
    config.verify_bootstrap().unwrap();
    // Only the name was given: the cluster's default follows it.
    let (config, _) = run(&["--name=m1", "--initial-advertise-peer-urls=http://127.0.0.1:7"]);
    assert_eq!(config.initial_cluster_text, "m1=http://127.0.0.1:7");
    config.verify_bootstrap().unwrap();
}

#[test]
fn version_and_help() {
    let printed = |args: &[&str], env: &[(&str, &str)]| match start(args, env) {
        Start::Print { stdout, code: 0, .. } => stdout,
        other => panic!("{other:?}"),
    };
    let text = printed(&["--version"], &[]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "etcd Version: 3.7.1");
    for (line, start) in lines[1..].iter().zip(["Git SHA: ", "Go Version: ", "Go OS/Arch: linux/"]) {
        assert!(line.starts_with(start), "{line}");
    }
    assert!(printed(&["-version", "--reported-version=3.6.14"], &[]).starts_with("etcd Version: 3.6.14\n"));
    let env = [("ETCD_REPORTED_VERSION", "3.6.14"), ("ETCD_NAME", "x")];
    assert!(printed(&["--version"], &env).starts_with("etcd Version: 3.6.14\n"));
    run(&["--version=false"]);
    for arg in ["--help", "-h", "-help", "--h"] {
        let help = printed(&[arg], &[]);
        for flag in FLAGS.iter().filter(|flag| !flag.help.is_empty()) {
            assert!(help.contains(&format!("  --{} '", flag.name)), "{}", flag.name);
        }
        assert!(!help.contains("--experimental-"));
    }
}

fn from_file(text: &str) -> Start {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let path = file.path().to_str().unwrap();
    // Everything else is ignored, conflicts of the environment included.
    let by_flag = start(&[&format!("--config-file={path}"), "--name=other"], &[("ETCD_NAME", "third")]);
    let by_env = start(&["--name=other"], &[("ETCD_CONFIG_FILE", path), ("ETCD_NAME", "third")]);
    assert_eq!(format!("{by_flag:?}"), format!("{by_env:?}"));
    by_flag
}

#[test]
fn the_file() {
    let text = "
# as in etcd's sample
name: 'filed'
data-dir: /var/lib/x
snapshot-count: 123
heartbeat-interval: 10
election-timeout: 100
quota-backend-bytes: 8589934592
pre-vote: no
listen-client-urls: http://127.0.0.1:3,http://127.0.0.1:1
listen-metrics-urls:
cors: 'http://ui:1'
host-whitelist: a,b
log-outputs: [stderr]
log-level: warn
watch-progress-notify-interval: 5000000000
auto-compaction-mode: revision
auto-compaction-retention: \"77\"
feature-gates: CompactHashCheck=true
experimental-compaction-batch-limit: 12
client-transport-security:
  cert-file: ''
  client-cert-auth: false
socket-options:
  reuse-port: true
discovery-config:
  client:
    dial-timeout: 3000000000
shards: 2
reported-version: 3.6.14
name: last-wins
";
    let Start::Run { config, notes } = from_file(text) else { panic!("{:?}", from_file(text)) };
    assert_eq!((config.name.as_str(), config.data_dir.to_str().unwrap()), ("last-wins", "/var/lib/x"));
    assert_eq!((config.snapshot_count, config.heartbeat_interval_ms), (123, 10));
    assert_eq!(config.quota_bytes(), Some(8 << 30));
    assert!(!config.pre_vote && config.socket_reuse_port);
    assert_eq!(format!("{:?}", config.listen_client_urls), r#"["http://127.0.0.1:1", "http://127.0.0.1:3"]"#);
    // In a file this is no error: the default stays.
    assert_eq!(format!("{:?}", config.advertise_client_urls), r#"["http://localhost:2379"]"#);
    assert_eq!(config.host_whitelist.len(), 2);
    assert_eq!((config.log.level, config.log.outputs.len()), (Level::Warn, 1));
    assert_eq!(config.watch_progress_notify_interval, Duration::from_secs(5));
    assert_eq!(config.auto_compaction, AutoCompaction::Revision(77));
    assert!(config.gates.enabled("CompactHashCheck"));
    assert_eq!((config.compaction_batch_limit, config.shards), (12, Some(2)));
    assert_eq!(config.reported_version, "3.6.14");
    assert!(says(&notes, "loaded server configuration, other configuration command line flags"));
    assert!(says(&notes, "--discovery-dial-timeout has no effect"));
    let Start::Run { config, notes } = from_file("nosuch: 1\ngrpc-additional-server-options: []\n") else {
        panic!("an unknown key is no error")
    };
    assert_eq!(config.name, "default");
    assert_eq!(notes.iter().filter(|note| note.message.contains("unknown key")).count(), 1);
    assert!(matches!(from_file(""), Start::Run { .. }));
    assert!(matches!(from_file("# nothing\n"), Start::Run { .. }));
}

#[test]
fn errors_of_the_file_are_etcds() {
    let decoding = "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal";
    for (text, want) in [
        (
            "heartbeat-interval: abc",
            "string into Go struct field configYAML.Config.heartbeat-interval of type uint",
        ),
        ("name: 5", "number into Go struct field configYAML.Config.name of type string"),
        (
            "backend-batch-interval: 5s",
            "string into Go struct field configYAML.Config.backend-batch-interval of type time.Duration",
        ),
        (
            "peer-transport-security: 5",
            "number into Go struct field configYAML.configJSON.peer-transport-security of type embed.securityConfig",
        ),
        (
            "snapshot-count: -1",
            "number -1 into Go struct field configYAML.Config.snapshot-count of type uint",
        ),
        ("pre-vote: 1", "number 1 into Go struct field configYAML.Config.pre-vote of type bool"),
        ("log-outputs: stderr", "string into Go struct field configYAML.Config.log-outputs of type []string"),
        ("[]", "array into Go value of type embed.configYAML"),
    ] {
        assert_eq!(refused(from_file(text)), (FailureStage::Verify, format!("{decoding} {want}")), "{text}");
    }
    for (text, want) in [
        ("feature-gates: Foo=true", "unrecognized feature gate: Foo"),
        ("listen-client-urls: http://foo:1", "expected IP in URL for binding (http://foo:1)"),
        ("initial-cluster-state: zzz", "unexpected clusterState \"zzz\""),
        ("heartbeat-interval: 0", "--heartbeat-interval must be >0 (set to 0ms)"),
    ] {
        assert_eq!(refused(from_file(text)), (FailureStage::Verify, want.to_string()), "{text}");
    }
    let (_, error) = refused(from_file("name: [foo\n"));
    assert!(error.starts_with("error converting YAML to JSON: yaml: line 1"), "{error}");
    assert!(!error.contains('\n'), "one line: {error}");
    let Start::Print { stderr, code: 1, .. } = from_file("listen-client-urls: ftp://foo:1") else {
        panic!("ends")
    };
    assert_eq!(
        stderr,
        "unexpected error setting up listen-client-urls: URL scheme must be http, https, unix, or unixs: ftp://foo:1\n"
    );
    let (_, error) = refused(from_file("client-transport-security:\n  cert-file: a\n"));
    assert!(error.starts_with("--cert-file cannot be used"), "{error}");
}

#[test]
fn every_key_of_the_file_is_read() {
    for (name, kind, default, yaml) in FLAGS_3_7_1.iter().filter(|(.., yaml)| !yaml.is_empty()) {
        let row = find(name).unwrap();
        let value = match (*kind, *name) {
            (_, "feature-gates") => "CompactHashCheck=true",
            (_, "initial-cluster-state") => "existing",
            (_, "host-whitelist") => "word",
            (_, "v2-deprecation") => "gone",
            ("bool", _) if *default == "true" => "false",
            ("bool", _) => "true",
            ("string list", _) => "[word]",
            ("uint" | "uint32" | "uint64" | "int" | "int64" | "duration", _) => "7",
            ("url list", _) => "http://127.0.0.1:1",
            _ => "word",
        };
        let mut text = String::new();
        let parts: Vec<&str> = yaml.split('.').collect();
        for (depth, part) in parts.iter().enumerate() {
            let end = if depth + 1 == parts.len() { format!(" {value}") } else { String::new() };
            text.push_str(&format!("{}{part}:{end}\n", "  ".repeat(depth)));
        }
        let (mut settings, mut notes) = (Settings::defaults(), Vec::new());
        super::yaml::read(&mut settings, &text, &mut notes).unwrap_or_else(|e| panic!("{text}: {e:?}"));
        assert_eq!(notes, [], "{text}");
        assert_ne!(settings.value(row), &default_of(FLAGS[row].kind, FLAGS[row].default), "{text}");
        assert!(!matches!(settings.value(row), Value::Nothing));
    }
}
