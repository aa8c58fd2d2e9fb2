//! Flags, environment and the YAML file (`server::config`).
//!
//! Laws: the same words give the same configuration; what is accepted keeps the rules that the rest of the server
//! relies on; a URL and a duration are written as they are read; memory is bounded by the input.
//!
//! Input: one byte that says which of the three, then lines: arguments, `NAME=value`, or the file.

use std::ffi::OsString;

use server::config::{self, Config, Start, Url};

use crate::meter::bounded;

fn load(args: &[OsString], env: &[(String, String)], file: &str) -> Start {
    config::load_with(args, env, &|_| Ok(file.to_owned()))
}

pub fn check(input: &[u8]) {
    let Some((&kind, rest)) = input.split_first() else { return };
    let text = String::from_utf8_lossy(rest).into_owned();
    let (mut args, mut env, mut file) = (Vec::new(), Vec::new(), String::new());
    match kind % 3 {
        0 => args = text.lines().map(OsString::from).collect(),
        1 => {
            let pair = |line: &str| line.split_once('=').map(|(name, value)| (name.into(), value.into()));
            env = text.lines().filter_map(pair).collect();
        }
        _ => {
            args = vec!["--config-file".into(), "file".into()];
            file = text.clone();
        }
    }
    // Notes repeat what was given; a YAML value costs a node.
    let once = bounded((512 << 10) + 1024 * input.len(), || load(&args, &env, &file));
    let twice = load(&args, &env, &file);
    assert_eq!(format!("{once:?}"), format!("{twice:?}"), "the same words, the same result");
    match once {
        Start::Run { config, .. } => sound(&config),
        Start::Print { code, .. } => assert!(code <= 2, "etcd's exit codes"),
        Start::Refuse { failure, .. } => assert!(!failure.error.is_empty(), "a refusal has a reason"),
    }
    for line in text.lines().take(20) {
        if let Ok(url) = Url::parse(line) {
            let written = url.to_string();
            assert_eq!(Url::parse(&written), Ok(url), "{line:?} is written {written:?}");
        }
    }
}

fn sound(config: &Config) {
    assert_eq!(config.cluster_version().split('.').count(), 3, "X.Y.0");
    assert!(config.quota_bytes() != Some(0), "a quota of nothing is the default");
    assert!(config.request_timeout_ms() >= 5000);
    assert!(config.election_timeout_ms >= 5 * config.heartbeat_interval_ms, "etcd's rule");
    assert!((4..=31).contains(&config.bcrypt_cost) && config.compaction_batch_limit > 0);
    assert!(config.shards != Some(0) && config.memory_budget_bytes != Some(0));
    let listened = [&config.listen_client_urls, &config.listen_client_http_urls, &config.listen_metrics_urls];
    assert!(listened.into_iter().flatten().all(|url| url.port().is_some()), "a listener has a port");
    let _ = config::format_duration(config.warning_apply_duration.as_nanos().min(i64::MAX as u128) as i64);
}

pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let with = |kind: u8, text: &str| [&[kind][..], text.as_bytes()].concat();
    let args = "--name=m1\n--data-dir\n/d\n--listen-client-urls=http://127.0.0.1:2379,https://[::1]:1\n\
                --advertise-client-urls=http://127.0.0.1:2379\n--auto-compaction-retention=5m\n\
                --auto-compaction-mode=periodic\n--feature-gates=CompactHashCheck=true\n\
                --experimental-watch-progress-notify-interval=5s\n--quota-backend-bytes=-1\n--shards=2\n";
    let env = "ETCD_NAME=m1\nETCD_INITIAL_CLUSTER=m1=http://a:2380,m1=http://b:2380\n\
               ETCD_INITIAL_ADVERTISE_PEER_URLS=http://a:2380,http://b:2380\nETCD_LOG_LEVEL=debug\n\
               ETCD_LOG_OUTPUTS=stderr,/x/y\nETCD_CORS=http://x\nETCD_SNAPSHOT_COUNT=7\n";
    let yaml = "name: m1\ndata-dir: /d\nlisten-client-urls: http://127.0.0.1:2379\n\
                advertise-client-urls: 'http://127.0.0.1:2379'\nheartbeat-interval: 100\n\
                election-timeout: 1000\nsnapshot-count: 10_000\nlog-outputs: [stderr]\nforce-new-cluster: off\n\
                client-transport-security:\n  cert-file: &a /c\n  key-file: *a\n\
                cors: '*'\nwarning-apply-duration: 100000000\nmax-txn-ops: 128\n";
    vec![
        ("seed-args".into(), with(0, args)),
        ("seed-version".into(), with(0, "--version\n--reported-version=3.7.9\n")),
        ("seed-env".into(), with(1, env)),
        ("seed-yaml".into(), with(2, yaml)),
        ("seed-json".into(), with(2, r#"{"name": "m1", "logger": "zap", "strict-reconfig-check": true}"#)),
        ("seed-urls".into(), with(0, "unix://a:0\nhttp://[fe80::1%25eth0]:80\nhttps://user@h:9/p?q#f\n")),
    ]
}
