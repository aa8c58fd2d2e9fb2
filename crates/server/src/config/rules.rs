//! The rules between flags, in etcd's order and words, and what this version refuses. Pure.

use std::collections::BTreeSet;

use base::limits::REQUEST_BYTES_MAX;

use super::Note;
use super::settings::{Origin, Settings};
use super::table::find;
use super::url::Url;
use super::values::format_duration;
use crate::log;

/// The longest election timeout, ms.
const ELECTION_MAX_MS: u64 = 50_000;

/// etcd's Validate: the first rule broken is the error.
pub fn validate(settings: &Settings, notes: &mut Vec<Note>) -> Result<(), String> {
    logging(settings)?;
    check_bind(settings.urls("listen-peer-urls"))?;
    check_bind(settings.urls("listen-client-urls"))?;
    check_bind(settings.urls("listen-client-http-urls"))?;
    if settings.urls("listen-client-http-urls").is_empty() {
        notes.push(Note::warn(
            "Running http and grpc server on single port. This is not recommended for production.".into(),
        ));
    }
    check_bind(settings.urls("listen-metrics-urls"))?;
    let peers = settings.urls("initial-advertise-peer-urls");
    check_host(peers).map_err(|error| {
        format!("--initial-advertise-peer-urls {:?} must be \"host:port\" ({error})", join(peers))
    })?;
    let clients = settings.urls("advertise-client-urls");
    check_host(clients).map_err(|error| {
        format!(
            "--advertise-client-urls {:?} must be in the format \"host:port\", \"unix:/path/to/socket\" or \
             \"unixs:/path/to/socket\" ({error})",
            join(clients)
        )
    })?;
    let state = settings.text("initial-cluster-state");
    if !["new", "existing", ""].contains(&state) {
        return Err(format!("unexpected clusterState {state:?}"));
    }
    bootstrap_flags(settings)?;
    timing(settings)?;
    let unset = settings.is_set("listen-client-urls") && !settings.is_set("advertise-client-urls");
    if unset && settings.origin(find("listen-client-urls").expect("in the table")) != Origin::File {
        return Err(UNSET_ADVERTISE.into());
    }
    match settings.text("auto-compaction-mode") {
        "periodic" | "revision" => {}
        "" => return Err("undefined auto-compaction-mode".into()),
        mode => return Err(format!("unknown auto-compaction-mode {mode:?}")),
    }
    let request_bytes = settings.uint("max-request-bytes");
    if request_bytes > REQUEST_BYTES_MAX {
        return Err(format!(
            "--max-request-bytes={request_bytes} is above {REQUEST_BYTES_MAX}: a value must fit a chunk of the data \
             file; set less"
        ));
    }
    if settings.bool("enable-distributed-tracing") {
        let rate = settings.int("distributed-tracing-sampling-rate");
        let invalid = |what: &str| format!("distributed tracing configurition is not valid: ({what})");
        if rate < 0 {
            return Err(invalid("tracing sampling rate must be positive"));
        }
        if rate > 1_000_000 {
            return Err(invalid("tracing sampling rate must be less than 1000000"));
        }
    }
    let gates = settings.gates();
    let (checkpoint, persist) = (gates.enabled("LeaseCheckpoint"), gates.enabled("LeaseCheckpointPersist"));
    if checkpoint && !persist {
        notes.push(Note::warn(
            "Detected that checkpointing is enabled without persistence. Consider enabling feature gate \
             LeaseCheckpointPersist"
                .into(),
        ));
    }
    if persist && !checkpoint {
        return Err(
            "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint"
                .into(),
        );
    }
    let interval = settings.duration("compact-hash-check-time");
    if interval <= 0 {
        return Err(format!("--compact-hash-check-time must be >0 (set to {})", format_duration(interval)));
    }
    if settings.text("name") == "default" {
        notes.push(
            Note::warn(
                "it isn't recommended to use default name, please set a value for --name. Note that etcd might \
                 run into issue when multiple members have the same default name"
                    .into(),
            )
            .with("name", "default"),
        );
    }
    tls_versions(settings)
}

pub const UNSET_ADVERTISE: &str =
    "--advertise-client-urls is required when --listen-client-urls is set explicitly";

fn logging(settings: &Settings) -> Result<(), String> {
    match settings.text("logger") {
        "zap" => {}
        "capnslog" => return Err("--logger=capnslog is removed in v3.5".into()),
        other => return Err(format!("unknown logger option {other:?}")),
    }
    let outputs = settings.words("log-outputs");
    if outputs.len() > 1 && outputs.contains("default") {
        return Err("multi logoutput for \"default\" is not supported yet".into());
    }
    if settings.bool("enable-log-rotation") {
        let files = outputs.iter().filter(|o| !["default", "stderr", "stdout"].contains(&o.as_str())).count();
        if (outputs.len() == 1 && files == 0) || files > 1 {
            return Err(
                "--log-outputs requires a single file path when --log-rotate-config-json is defined".into()
            );
        }
        let text = settings.text("log-rotation-config-json");
        match serde_json::from_str::<serde_json::Value>(text) {
            Err(error) => return Err(format!("improperly formatted log rotation config: {error}")),
            Ok(value) if !value.is_object() => return Err(format!("invalid log rotation config: {text}")),
            Ok(_) => {}
        }
    }
    if outputs.contains("systemd/journal") {
        return Err(
            "--log-outputs=systemd/journal is not part of this version: under systemd, stderr reaches \
                    the journal as well"
                .into(),
        );
    }
    match settings.text("log-format") {
        "json" | "console" => {}
        other => return Err(format!("unknown log format: {other}, supported values json, console")),
    }
    let level = settings.text("log-level");
    log::Level::parse(level).map(|_| ()).ok_or_else(|| format!("unrecognized level: {level:?}"))
}

fn bootstrap_flags(settings: &Settings) -> Result<(), String> {
    let token = settings.text("discovery-token");
    let endpoints = settings.words("discovery-endpoints");
    let discovers = !endpoints.is_empty() || !settings.text("discovery-srv").is_empty();
    // The default of initial-cluster gives way to discovery.
    let cluster = settings.is_set("initial-cluster") && !settings.text("initial-cluster").is_empty();
    let set = [cluster, !settings.text("discovery-srv").is_empty(), !endpoints.is_empty()];
    if discovers && set.iter().filter(|set| **set).count() > 1 {
        return Err("multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \
                    \"discovery-endpoints\" or \"discovery-srv\""
            .into());
    }
    if token.is_empty() != endpoints.is_empty() {
        return Err("both --discovery-token and --discovery-endpoints must be set".into());
    }
    if endpoints.iter().any(|endpoint| endpoint.trim().is_empty()) {
        return Err("--discovery-endpoints must not contain empty endpoints".into());
    }
    Ok(())
}

fn timing(settings: &Settings) -> Result<(), String> {
    let (tick, election) = (settings.uint("heartbeat-interval"), settings.uint("election-timeout"));
    if tick == 0 {
        return Err(format!("--heartbeat-interval must be >0 (set to {tick}ms)"));
    }
    if election == 0 {
        return Err(format!("--election-timeout must be >0 (set to {election}ms)"));
    }
    if tick.saturating_mul(5) > election {
        return Err(format!(
            "--election-timeout[{election}ms] should be at least as 5 times as --heartbeat-interval[{tick}ms]"
        ));
    }
    if election > ELECTION_MAX_MS {
        return Err(format!(
            "--election-timeout[{election}ms] is too long, and should be set less than {ELECTION_MAX_MS}ms"
        ));
    }
    Ok(())
}

fn tls_versions(settings: &Settings) -> Result<(), String> {
    let version = |name: &str| match settings.text(name) {
        "" => Ok(0),
        "TLS1.2" => Ok(12),
        "TLS1.3" => Ok(13),
        other => Err(format!("unexpected TLS version {other:?} (must be one of: TLS1.2, TLS1.3)")),
    };
    let (min, max) = (version("tls-min-version")?, version("tls-max-version")?);
    if max != 0 && min > max {
        return Err(format!(
            "min version ({}) is greater than max version ({})",
            settings.text("tls-min-version"),
            settings.text("tls-max-version")
        ));
    }
    if min == 13 && settings.is_set("cipher-suites") {
        return Err("cipher suites cannot be configured when only TLS1.3 is enabled".into());
    }
    Ok(())
}

/// What etcd can do and this version cannot, where going on without it would be unsafe or misleading. Checked after
/// etcd's own rules.
pub fn unsupported(settings: &Settings) -> Result<(), String> {
    if let Some(refused) = settings.refused() {
        return Err(refused);
    }
    for name in ["listen-client-urls", "listen-client-http-urls"] {
        if let Some(url) = settings.urls(name).iter().find(|url| url.scheme().is_tls()) {
            return Err(format!(
                "TLS key/cert (--cert-file, --key-file) must be provided for client url {url} with HTTPS scheme"
            ));
        }
    }
    if settings.urls("listen-metrics-urls").iter().any(|url| url.scheme().is_tls()) {
        return Err(
            "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url".into()
        );
    }
    if let Some(url) = settings.urls("listen-peer-urls").iter().find(|url| url.scheme().is_tls()) {
        return Err(format!("TLS between members is not part of this version: {url}"));
    }
    match settings.text("auth-token").split(',').next() {
        Some("simple" | "") => {}
        Some("jwt") => {
            return Err("--auth-token=jwt cannot be used: signed tokens are not part of this version".into());
        }
        _ => return Err("auth: invalid auth options".into()),
    }
    let version = settings.text("reported-version");
    let parts: Vec<&str> = version.split('.').collect();
    if parts.len() != 3 || parts.iter().any(|part| part.parse::<u16>().is_err() || part.starts_with('+')) {
        return Err(format!("--reported-version must be of the form X.Y.Z (set to {version:?})"));
    }
    let shards = settings.int("shards");
    if !(0..=base::limits::SHARDS_MAX as i64).contains(&shards) {
        return Err(format!("--shards must be 0 to {} (set to {shards})", base::limits::SHARDS_MAX));
    }
    if settings.int("memory-budget-bytes") < 0 {
        return Err("--memory-budget-bytes must not be negative".into());
    }
    Ok(())
}

/// Listening addresses are IP addresses, `localhost` or socket files: nothing is resolved to listen on it.
fn check_bind(urls: &[Url]) -> Result<(), String> {
    for url in urls.iter().filter(|url| !url.scheme().is_unix()) {
        if url.host() != "localhost" && url.host().parse::<std::net::IpAddr>().is_err() {
            return Err(format!("expected IP in URL for binding ({url})"));
        }
    }
    Ok(())
}

fn check_host(urls: &[Url]) -> Result<(), String> {
    match urls.iter().find(|url| !url.scheme().is_unix() && url.host().is_empty()) {
        Some(url) => Err(format!("unexpected empty host ({url})")),
        None => Ok(()),
    }
}

pub fn join(urls: &[Url]) -> String {
    urls.iter().map(Url::to_string).collect::<Vec<_>>().join(",")
}

/// Whether both lists mean the same places: as text, or once resolved. The error says how they differ. Blocks on the
/// resolver.
pub fn same_urls(ours: &[Url], theirs: &[Url]) -> Result<(), String> {
    let quoted = |urls: &[Url]| {
        let words: Vec<String> = urls.iter().map(|url| format!("{:?}", url.to_string())).collect();
        format!("[{}]", words.join(" "))
    };
    if ours.len() != theirs.len() {
        return Err(format!("len({}) != len({})", quoted(ours), quoted(theirs)));
    }
    if ours.iter().collect::<BTreeSet<_>>() == theirs.iter().collect::<BTreeSet<_>>() {
        return Ok(());
    }
    let resolve = |urls: &[Url]| {
        let mut out = Vec::new();
        for url in urls {
            let found = url.resolved();
            out.push(found.map_err(|error| format!("failed to resolve {:?} ({error})", url.to_string()))?);
        }
        out.sort();
        Ok::<_, String>(out)
    };
    let (ours, theirs) = (resolve(ours)?, resolve(theirs)?);
    match ours.iter().zip(&theirs).find(|(a, b)| a != b) {
        Some((a, b)) => Err(format!("resolved urls: {a:?} != {b:?}")),
        None => Ok(()),
    }
}
