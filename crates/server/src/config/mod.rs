//! The configuration: etcd's flags, environment and YAML file, in etcd's order of precedence and with its words.
//!
//! `load` is a function of arguments and environment (and the file they name); it logs nothing and exits nowhere. What
//! is to be said comes back as notes, in order.
//!
//! | module | job |
//! |---|---|
//! | `table` | every flag, as data |
//! | `values` | Go's spellings of numbers, booleans, durations |
//! | `url` | URLs of listeners and members |
//! | `gates` | feature gates |
//! | `settings` | command line and environment |
//! | `yaml` | the configuration file |
//! | `rules` | rules between flags, and what is refused |
//! | `text` | --version, --help |
//!
//! Flags of our own:
//!
//! | flag | default | meaning |
//! |---|---|---|
//! | `--shards` | 0 | threads that serve clients; 0 chooses by the cores at hand |
//! | `--reported-version` | 3.7.1 | the version that clients, /version and --version are told |
//! | `--memory-budget-bytes` | 0 | memory that the store may keep resident when idle; 0 is 128 MiB |

#[cfg(test)]
mod facts;
mod gates;
mod rules;
mod settings;
mod table;
#[cfg(test)]
mod tests;
mod text;
mod url;
mod values;
mod yaml;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

pub use gates::{GATES, Gate, Gates, Stage};
pub use text::go_arch;
pub use url::{Scheme, Url};
pub use values::format_duration;

use crate::log::{self, Level};
use settings::{ArgsError, Settings, read_args, read_env};

/// Something to log once the log runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub level: Level,
    pub message: String,
    pub fields: Vec<(&'static str, String)>,
}

impl Note {
    pub fn warn(message: String) -> Note {
        Note { level: Level::Warn, message, fields: Vec::new() }
    }

    pub fn info(message: String) -> Note {
        Note { level: Level::Info, message, fields: Vec::new() }
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Note {
        self.fields.push((name, value.into()));
        self
    }
}

/// What the arguments ask for.
#[derive(Debug)]
pub enum Start {
    /// Run with this configuration; log the notes first.
    Run { config: Box<Config>, notes: Vec<Note> },
    /// Print and exit with this code.
    Print { stdout: String, stderr: String, code: u8 },
    /// The configuration cannot be used: log the notes and the failure, exit with 1.
    Refuse { failure: Failure, notes: Vec<Note> },
}

/// Why the server does not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub stage: FailureStage,
    pub error: String,
}

/// How etcd logs a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureStage {
    /// "failed to verify flags", a warning.
    Verify,
    /// "discovery failed", fatal: everything that goes wrong at bootstrap.
    Bootstrap,
    /// Fatal, the error is the message.
    Environment,
}

impl Failure {
    fn bootstrap(error: String) -> Failure {
        Failure { stage: FailureStage::Bootstrap, error }
    }

    /// Logs it as etcd does.
    pub fn log(&self) {
        match self.stage {
            FailureStage::Verify => {
                log::emit(Level::Warn, "failed to verify flags", &[("error", &self.error)]);
                if self.error == rules::UNSET_ADVERTISE {
                    log::emit(Level::Warn, "advertise client URLs are not set", &[("error", &self.error)]);
                }
            }
            FailureStage::Bootstrap if self.error.contains("include") => {
                log::emit(Level::Warn, "failed to start", &[("error", &self.error)]);
            }
            FailureStage::Bootstrap => log::emit(Level::Fatal, "discovery failed", &[("error", &self.error)]),
            FailureStage::Environment => log::emit(Level::Fatal, &self.error, &[]),
        }
    }
}

/// Everything that the server goes by. Durations that etcd replaces when 0 are replaced here.
#[derive(Clone, Debug)]
pub struct Config {
    pub name: String,
    pub data_dir: PathBuf,
    /// Apart from the data directory, when given.
    pub wal_dir: Option<PathBuf>,

    pub listen_peer_urls: Vec<Url>,
    pub listen_client_urls: Vec<Url>,
    /// When not empty, HTTP/1.1 is served here and no longer on the client URLs.
    pub listen_client_http_urls: Vec<Url>,
    pub listen_metrics_urls: Vec<Url>,
    pub initial_advertise_peer_urls: Vec<Url>,
    pub advertise_client_urls: Vec<Url>,

    /// Member name to peer URLs, sorted.
    pub initial_cluster: BTreeMap<String, Vec<Url>>,
    /// As given, for the log.
    pub initial_cluster_text: String,
    /// --initial-cluster-state=existing.
    pub join_existing: bool,
    pub initial_cluster_token: String,
    pub strict_reconfig_check: bool,
    pub max_learners: i64,

    pub heartbeat_interval_ms: u64,
    pub election_timeout_ms: u64,
    pub initial_election_tick_advance: bool,
    pub pre_vote: bool,
    pub snapshot_count: u64,
    pub snapshot_catchup_entries: u64,

    /// As given: 0 is etcd's 2 GiB, negative is no quota. See `quota_bytes`.
    pub quota_backend_bytes: i64,
    pub max_txn_ops: u64,
    pub max_request_bytes: u64,
    pub max_concurrent_streams: u32,
    pub grpc_keepalive_min_time: Duration,
    /// Zero: never ping.
    pub grpc_keepalive_interval: Duration,
    /// Zero: wait for ever.
    pub grpc_keepalive_timeout: Duration,
    pub socket_reuse_port: bool,
    pub socket_reuse_address: bool,

    pub auto_compaction: AutoCompaction,
    /// Revisions; never 0.
    pub compaction_batch_limit: u64,
    pub compaction_sleep_interval: Duration,
    pub watch_progress_notify_interval: Duration,
    pub warning_apply_duration: Duration,
    pub warning_unary_request_duration: Duration,
    pub downgrade_check_time: Duration,
    pub compact_hash_check_time: Duration,

    pub bcrypt_cost: u32,
    pub auth_token_ttl_s: u64,

    pub cors: BTreeSet<String>,
    pub host_whitelist: BTreeSet<String>,
    pub enable_grpc_gateway: bool,
    /// --metrics=extensive.
    pub metrics_extensive: bool,
    pub gates: Gates,
    pub log: log::Options,

    /// `None`: chosen by the cores at hand.
    pub shards: Option<usize>,
    /// X.Y.Z.
    pub reported_version: String,
    /// `None`: no limit.
    pub memory_budget_bytes: Option<u64>,
}

/// --auto-compaction-mode and -retention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    Off,
    /// Keep what is younger.
    Periodic(Duration),
    /// Keep this many revisions.
    Revision(u64),
}

impl Config {
    /// The size above which writes are refused; `None` without a quota. 0 means etcd's 2 GiB.
    pub fn quota_bytes(&self) -> Option<u64> {
        match self.quota_backend_bytes {
            0 => Some(2 << 30),
            bytes => u64::try_from(bytes).ok(),
        }
    }

    /// etcd's bound on one request: 5 s and two election timeouts, ms.
    pub fn request_timeout_ms(&self) -> u64 {
        5000 + 2 * self.election_timeout_ms
    }

    /// `X.Y.0` of the reported version: what the cluster and the storage agree on.
    pub fn cluster_version(&self) -> String {
        let (minor, _) = self.reported_version.rsplit_once('.').expect("the rules require X.Y.Z");
        format!("{minor}.0")
    }

    /// The rules for a member that has no log yet; to be called only then, as on a restart etcd ignores these flags.
    /// Resolves names: may block.
    pub fn verify_bootstrap(&self) -> Result<(), Failure> {
        let name = &self.name;
        let Some(urls) = self.initial_cluster.get(name) else {
            return Err(Failure::bootstrap(format!(
                "couldn't find local name {name:?} in the initial cluster configuration"
            )));
        };
        if !self.join_existing {
            self.advertised_matches(urls).map_err(Failure::bootstrap)?;
        }
        let all = self.initial_cluster.values().flatten();
        if all.clone().collect::<BTreeSet<_>>().len() != all.count() {
            let mut pairs: Vec<String> = self
                .initial_cluster
                .iter()
                .flat_map(|(name, urls)| urls.iter().map(move |url| format!("{name}={url}")))
                .collect();
            pairs.sort();
            let pairs = pairs.join(",");
            return Err(Failure::bootstrap(format!("initial cluster {pairs} has duplicate url")));
        }
        if self.join_existing {
            return Err(Failure::bootstrap(
                "--initial-cluster-state=existing cannot be used: joining a cluster is not part of this version; \
                 alone, the member would be another cluster of the same name"
                    .into(),
            ));
        }
        if self.initial_cluster.len() > 1 {
            return Err(Failure::bootstrap(format!(
                "--initial-cluster names {} members: clusters of more than one voter are not part of this \
                 version; each would start alone",
                self.initial_cluster.len()
            )));
        }
        Ok(())
    }

    fn advertised_matches(&self, cluster: &[Url]) -> Result<(), String> {
        let advertised = &self.initial_advertise_peer_urls;
        let Err(why) = rules::same_urls(advertised, cluster) else { return Ok(()) };
        let missing = |from: &[Url], there: &[Url]| {
            let names = from.iter().filter(|url| !there.contains(url)).map(Url::to_string);
            names.collect::<Vec<_>>()
        };
        let ours = rules::join(advertised);
        let absent = missing(cluster, advertised);
        if !absent.is_empty() {
            let pairs: Vec<String> = absent.iter().map(|url| format!("{}={url}", self.name)).collect();
            return Err(format!(
                "--initial-cluster has {} but missing from --initial-advertise-peer-urls={ours} ({why})",
                pairs.join(",")
            ));
        }
        let absent = missing(advertised, cluster);
        let all: Vec<String> = advertised.iter().map(|url| format!("{}={url}", self.name)).collect();
        if !absent.is_empty() {
            return Err(format!(
                "--initial-advertise-peer-urls has {} but missing from --initial-cluster={}",
                absent.join(","),
                all.join(",")
            ));
        }
        Err(format!("failed to resolve {ours} to match --initial-cluster={} ({why})", all.join(",")))
    }
}

/// Reads arguments (without the program's name), environment and the file they name.
pub fn load(args: &[OsString], env: &[(String, String)]) -> Start {
    load_with(args, env, &|path| std::fs::read_to_string(path))
}

/// As [`load`]; `read` gives the text of the file.
pub fn load_with(
    args: &[OsString],
    env: &[(String, String)],
    read: &dyn Fn(&str) -> std::io::Result<String>,
) -> Start {
    let mut settings = Settings::defaults();
    let mut notes = Vec::new();
    let refuse = |stage, error: String, notes| Start::Refuse { failure: Failure { stage, error }, notes };
    match read_args(&mut settings, args) {
        Ok(()) => {}
        Err(ArgsError::Help) => {
            return Start::Print { stdout: text::help(), stderr: text::usage(), code: 0 };
        }
        Err(ArgsError::Usage(line)) => {
            let stderr = format!("{line}\n{}", text::usage());
            return Start::Print { stdout: String::new(), stderr, code: 2 };
        }
        Err(ArgsError::Stray(arg)) => {
            return refuse(FailureStage::Verify, format!("{arg:?} is not a valid flag"), notes);
        }
    }
    let from_env = |name: &str| {
        let found = env.iter().find(|(key, value)| key == name && !value.is_empty());
        found.map(|(_, value)| value.clone())
    };
    if settings.bool("version") {
        // Harnesses ask for the version without any other flag: here the environment counts as well.
        let reported = match settings.is_set("reported-version") {
            false => from_env("ETCD_REPORTED_VERSION"),
            true => None,
        };
        let reported = reported.unwrap_or_else(|| settings.text("reported-version").to_string());
        return Start::Print { stdout: text::version(&reported), stderr: String::new(), code: 0 };
    }
    let file = match settings.text("config-file") {
        "" => from_env("ETCD_CONFIG_FILE"),
        path => Some(path.to_string()),
    };
    if let Some(path) = file {
        settings = Settings::defaults();
        let text = match read(&path) {
            Ok(text) => text,
            Err(error) => {
                return refuse(FailureStage::Verify, format!("open {path}: {}", os_text(&error)), notes);
            }
        };
        match yaml::read(&mut settings, &text, &mut notes) {
            Ok(()) => {}
            Err(yaml::FileError::Plain(line)) => {
                return Start::Print { stdout: String::new(), stderr: line + "\n", code: 1 };
            }
            Err(yaml::FileError::Config(error)) => return refuse(FailureStage::Verify, error, notes),
        }
        notes.push(
            Note::info(
                "loaded server configuration, other configuration command line flags and environment variables \
                 will be ignored if provided"
                    .into(),
            )
            .with("path", path),
        );
    } else {
        if let Err(error) = read_env(&mut settings, env, &mut notes) {
            let conflict = error.starts_with("conflicting");
            let stage = if conflict { FailureStage::Environment } else { FailureStage::Verify };
            return refuse(stage, error, notes);
        }
        if settings.text("discovery-fallback") == "proxy" {
            let error = "v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\"";
            return refuse(FailureStage::Verify, error.into(), notes);
        }
    }
    if let Err(error) = rules::validate(&settings, &mut notes) {
        let level = error.starts_with("unrecognized level");
        if level {
            // etcd panics here; the exit code is the same.
            let stderr = format!("panic: {error}\n");
            return Start::Print { stdout: String::new(), stderr, code: 2 };
        }
        return refuse(FailureStage::Verify, error, notes);
    }
    notes.extend(settings.notes());
    if let Err(error) = rules::unsupported(&settings) {
        return refuse(FailureStage::Bootstrap, error, notes);
    }
    match build(&settings, &mut notes) {
        Ok(config) => Start::Run { config: Box::new(config), notes },
        Err(error) => refuse(FailureStage::Bootstrap, error, notes),
    }
}

/// Go's words for the commonest errors of opening a file.
fn os_text(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or directory".into(),
        std::io::ErrorKind::PermissionDenied => "permission denied".into(),
        _ => error.to_string(),
    }
}

/// The typed configuration out of settings that keep the rules.
fn build(settings: &Settings, notes: &mut Vec<Note>) -> Result<Config, String> {
    let name = settings.text("name").to_string();
    let mut advertised = settings.urls("initial-advertise-peer-urls").to_vec();
    let listens = settings.urls("listen-peer-urls").first();
    let is_default = matches!(advertised.as_slice(), [one] if one.to_string() == "http://localhost:2380");
    if is_default && let Some(listen) = listens.filter(|url| url.host() == "0.0.0.0") {
        // Told to listen everywhere and nothing about what to advertise: the machine's own address.
        match default_host() {
            Ok(host) => {
                let url = format!("http://{}", std::net::SocketAddr::new(host, listen.port().unwrap_or(0)));
                advertised = vec![Url::parse(&url)?];
                let message = "detected default host for advertise";
                notes.push(Note::info(message.into()).with("host", host.to_string()));
            }
            Err(error) => notes
                .push(Note::info("failed to detect default host".into()).with("error", error.to_string())),
        }
    }
    let mut cluster_text = settings.text("initial-cluster").to_string();
    if cluster_text == "default=http://localhost:2380" && name != "default" {
        let pairs: Vec<String> = advertised.iter().map(|url| format!("{name}={url}")).collect();
        cluster_text = pairs.join(",");
    }
    let data_dir = match settings.text("data-dir") {
        "" => {
            let dir = format!("{name}.etcd");
            notes.push(
                Note::warn("'data-dir' was empty; using default".into()).with("data-dir", dir.as_str()),
            );
            dir
        }
        dir => dir.to_string(),
    };
    let gates = settings.gates();
    for gate in GATES.iter().filter(|gate| !gate.note.is_empty()) {
        if gates.enabled(gate.name) != gate.default {
            let message = format!("feature gate {}: {}", gate.name, gate.note);
            notes.push(Note::warn(message));
        }
    }
    if settings.is_set("listen-peer-urls") {
        notes.push(Note::info(
            "peer URLs are advertised but not listened on: this version serves clusters of one member".into(),
        ));
    }
    for option in ["listen-client-urls", "listen-client-http-urls", "listen-metrics-urls", "listen-peer-urls"]
    {
        if let Some(url) = settings.urls(option).iter().find(|url| url.port().is_none()) {
            return Err(format!("listen tcp: address {}: invalid port", url.authority()));
        }
    }
    let cost = settings.uint("bcrypt-cost");
    let bcrypt_cost = match u32::try_from(cost) {
        Ok(cost @ 4..=31) => cost,
        _ => {
            notes.push(
                Note::warn("use default bcrypt cost instead of the invalid given cost".into())
                    .with("default-cost", "10")
                    .with("given-cost", cost.to_string()),
            );
            10
        }
    };
    let file = |name: &str| (!settings.text(name).is_empty()).then(|| PathBuf::from(settings.text(name)));
    let time = |name: &str| Duration::from_nanos(settings.duration(name).max(0) as u64);
    let or = |given: Duration, default_ms: u64| {
        if given.is_zero() { Duration::from_millis(default_ms) } else { given }
    };
    Ok(Config {
        wal_dir: file("wal-dir"),
        data_dir: PathBuf::from(data_dir),
        listen_peer_urls: settings.urls("listen-peer-urls").to_vec(),
        listen_client_urls: settings.urls("listen-client-urls").to_vec(),
        listen_client_http_urls: settings.urls("listen-client-http-urls").to_vec(),
        listen_metrics_urls: settings.urls("listen-metrics-urls").to_vec(),
        initial_advertise_peer_urls: advertised,
        advertise_client_urls: settings.urls("advertise-client-urls").to_vec(),
        initial_cluster: parse_cluster(&cluster_text)
            .map_err(|error| format!("error setting up initial cluster: {error}"))?,
        initial_cluster_text: cluster_text,
        join_existing: settings.text("initial-cluster-state") == "existing",
        initial_cluster_token: settings.text("initial-cluster-token").into(),
        strict_reconfig_check: settings.bool("strict-reconfig-check"),
        max_learners: settings.int("max-learners"),
        heartbeat_interval_ms: settings.uint("heartbeat-interval"),
        election_timeout_ms: settings.uint("election-timeout"),
        initial_election_tick_advance: settings.bool("initial-election-tick-advance"),
        pre_vote: settings.bool("pre-vote"),
        snapshot_count: settings.uint("snapshot-count"),
        snapshot_catchup_entries: settings.uint("snapshot-catchup-entries"),
        quota_backend_bytes: settings.int("quota-backend-bytes"),
        max_txn_ops: settings.uint("max-txn-ops"),
        max_request_bytes: settings.uint("max-request-bytes"),
        max_concurrent_streams: settings.uint("max-concurrent-streams") as u32,
        grpc_keepalive_min_time: time("grpc-keepalive-min-time"),
        grpc_keepalive_interval: time("grpc-keepalive-interval"),
        grpc_keepalive_timeout: time("grpc-keepalive-timeout"),
        socket_reuse_port: settings.bool("socket-reuse-port"),
        socket_reuse_address: settings.bool("socket-reuse-address"),
        auto_compaction: auto_compaction(
            settings.text("auto-compaction-mode"),
            settings.text("auto-compaction-retention"),
        )?,
        compaction_batch_limit: match settings.int("compaction-batch-limit") {
            1.. => settings.int("compaction-batch-limit") as u64,
            _ => 1000,
        },
        compaction_sleep_interval: or(time("compaction-sleep-interval"), 10),
        watch_progress_notify_interval: or(time("watch-progress-notify-interval"), 600_000),
        warning_apply_duration: time("warning-apply-duration"),
        warning_unary_request_duration: or(time("warning-unary-request-duration"), 300),
        downgrade_check_time: time("downgrade-check-time"),
        compact_hash_check_time: time("compact-hash-check-time"),
        bcrypt_cost,
        auth_token_ttl_s: settings.uint("auth-token-ttl"),
        cors: settings.words("cors").clone(),
        host_whitelist: settings.words("host-whitelist").clone(),
        enable_grpc_gateway: settings.bool("enable-grpc-gateway"),
        metrics_extensive: settings.text("metrics") == "extensive",
        gates,
        log: log::Options {
            level: Level::parse(settings.text("log-level")).expect("the rules checked the level"),
            console: settings.text("log-format") == "console",
            outputs: settings.words("log-outputs").iter().map(|word| log::Output::parse(word)).collect(),
        },
        shards: usize::try_from(settings.int("shards")).ok().filter(|shards| *shards > 0),
        reported_version: settings.text("reported-version").into(),
        memory_budget_bytes: u64::try_from(settings.int("memory-budget-bytes")).ok().filter(|b| *b > 0),
        name,
    })
}

/// `name=url,name=url`; a name may come several times.
fn parse_cluster(text: &str) -> Result<BTreeMap<String, Vec<Url>>, String> {
    let mut out: BTreeMap<String, Vec<Url>> = BTreeMap::new();
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let (name, url) = pair.split_once('=').unwrap_or((pair, ""));
        out.entry(name.to_string()).or_default().push(Url::parse(url)?);
    }
    out.values_mut().for_each(|urls| urls.sort());
    Ok(out)
}

/// A bare number is hours or revisions, by the mode; anything else a duration, whatever the mode.
fn auto_compaction(mode: &str, retention: &str) -> Result<AutoCompaction, String> {
    let ns = match retention.parse::<i64>() {
        Ok(number) if number >= 0 && mode == "revision" => number,
        Ok(number) if number >= 0 => number.saturating_mul(3_600_000_000_000),
        _ => values::parse_duration(retention).ok_or_else(|| {
            format!("error parsing CompactionRetention: time: invalid duration {retention:?}")
        })?,
    };
    Ok(match (u64::try_from(ns).unwrap_or(0), mode) {
        (0, _) => AutoCompaction::Off,
        (revisions, "revision") => AutoCompaction::Revision(revisions),
        (ns, _) => AutoCompaction::Periodic(Duration::from_nanos(ns)),
    })
}

/// The address that this machine would use towards the outside. Nothing is sent: connecting a datagram socket only
/// asks the routing table.
fn default_host() -> std::io::Result<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    socket.connect("192.0.2.1:9")?;
    Ok(socket.local_addr()?.ip())
}

/// Logs the notes, and the command line as etcd does.
pub fn log_start(program: Option<&std::ffi::OsStr>, args: &[OsString], notes: &[Note]) {
    for note in notes {
        let fields: Vec<(&str, &str)> =
            note.fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        log::emit(note.level, &note.message, &fields);
    }
    let program = program.map_or_else(|| "etcd".into(), |program| program.to_string_lossy());
    let words = std::iter::once(program).chain(args.iter().map(|arg| arg.to_string_lossy()));
    tracing::info!(args = ?log::strings(words), "Running: ");
}
