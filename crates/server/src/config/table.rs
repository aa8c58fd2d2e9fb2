//! Every flag: name, kind, default, key in the YAML file, and what this server does with it. The one list that the
//! flag parser, the environment, the YAML reader and --help go by.
//!
//! The rows are etcd 3.7.1's flags, the --experimental spellings that 3.6 still took, etcd's ignored flags, and three
//! of our own (`Section::Mainstay`).

/// What a value looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    Bool,
    /// 64-bit; Go's uint and uint64.
    Uint,
    Uint32,
    /// 64-bit; Go's int and int64.
    Int,
    /// Go's duration on the command line, integer nanoseconds in YAML.
    Duration,
    /// URLs separated by commas; the empty string changes nothing.
    Urls,
    /// The same; `*` stands for all.
    Origins,
    /// Words separated by commas, sorted, each once.
    Set,
    /// Words separated by commas, as given.
    List,
    /// One of these.
    Choice(&'static [&'static str]),
    /// Some of these, separated by commas.
    Choices(&'static [&'static str]),
    /// name=bool pairs.
    Gates,
    /// Accepted with or without a value, and thrown away.
    Ignored,
}

/// What this server does with a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    Read,
    /// Parsed; set to another value than the default it is warned about, with the reason.
    NoEffect(&'static str),
    /// Like `NoEffect`, for what a later version will do.
    Later(&'static str),
    /// Set to another value than the default it ends the start, with the reason.
    Refused(&'static str),
    /// etcd's own warning.
    Deprecated(&'static str),
    /// An old spelling of this flag.
    Renamed(&'static str),
    /// An old spelling of this feature gate.
    Gate(&'static str),
    Ignored,
}

/// Where --help lists a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    Member,
    Clustering,
    Security,
    Auth,
    Compaction,
    Logging,
    Observability,
    Features,
    Unsafe,
    Mainstay,
    /// Old spellings: not listed.
    Renamed,
    Ignored,
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    pub name: &'static str,
    pub kind: Kind,
    pub default: &'static str,
    /// Path of keys, with dots; empty when the file cannot set it.
    pub yaml: &'static str,
    pub section: Section,
    pub usage: Use,
    pub help: &'static str,
}

impl Flag {
    /// The environment variable of this flag.
    pub fn env(&self) -> String {
        format!("ETCD_{}", self.name.to_uppercase().replace('-', "_"))
    }

    /// Stands without a value on the command line.
    pub fn is_bare(&self) -> bool {
        matches!(self.kind, Kind::Bool | Kind::Ignored)
    }
}

/// Row of a flag by its name.
pub fn find(name: &str) -> Option<usize> {
    FLAGS.iter().position(|flag| flag.name == name)
}

const fn flag(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    yaml: &'static str,
    section: Section,
    usage: Use,
    help: &'static str,
) -> Flag {
    Flag { name, kind, default, yaml, section, usage, help }
}

#[rustfmt::skip]
pub static FLAGS: &[Flag] = &[
    flag("data-dir", Kind::Text, "", "data-dir", Section::Member, Use::Read, "Directory of this member, empty or its own."),
    flag("wal-dir", Kind::Text, "", "wal-dir", Section::Member, Use::Read, "Directory of the write-ahead log, when apart from the data."),
    flag("listen-peer-urls", Kind::Urls, "http://localhost:2380", "listen-peer-urls", Section::Member, Use::Read, "Where to listen for other members."),
    flag("listen-client-urls", Kind::Urls, "http://localhost:2379", "listen-client-urls", Section::Member, Use::Read, "Where to listen for clients: gRPC, and HTTP unless it has listeners of its own."),
    flag("listen-client-http-urls", Kind::Urls, "", "listen-client-http-urls", Section::Member, Use::Read, "Where to listen for HTTP alone; moves HTTP off the client URLs."),
    flag("listen-metrics-urls", Kind::Urls, "", "listen-metrics-urls", Section::Observability, Use::Read, "Where to listen for /metrics and health probes in addition."),
    flag("max-snapshots", Kind::Uint, "5", "max-snapshots", Section::Member, Use::Deprecated("--max-snapshots is deprecated in 3.6 and will be decommissioned in 3.8."), "Snapshot files kept."),
    flag("max-wals", Kind::Uint, "5", "max-wals", Section::Member, Use::NoEffect("log segments are recycled, their number is fixed"), "Log files kept."),
    flag("name", Kind::Text, "default", "name", Section::Member, Use::Read, "Name of this member, unique in the cluster."),
    flag("snapshot-count", Kind::Uint, "10000", "snapshot-count", Section::Member, Use::NoEffect("checkpoints follow the bytes that changed, not the entries"), "Applied entries between snapshots."),
    flag("heartbeat-interval", Kind::Uint, "100", "heartbeat-interval", Section::Member, Use::Read, "Time between heartbeats, ms."),
    flag("election-timeout", Kind::Uint, "1000", "election-timeout", Section::Member, Use::Read, "Time without a leader before an election, ms; at most 50000 and at least 5 heartbeats."),
    flag("initial-election-tick-advance", Kind::Bool, "true", "initial-election-tick-advance", Section::Member, Use::Later("elections among several members"), "Shorten the first election timeout after a start."),
    flag("quota-backend-bytes", Kind::Int, "0", "quota-backend-bytes", Section::Member, Use::Read, "Size of the store above which writes are refused, bytes; 0 is 2 GiB, negative is no quota."),
    flag("backend-bbolt-freelist-type", Kind::Text, "", "backend-bbolt-freelist-type", Section::Member, Use::NoEffect("the store is not bbolt"), "Kind of bbolt free list."),
    flag("backend-batch-interval", Kind::Duration, "0s", "backend-batch-interval", Section::Member, Use::NoEffect("the log makes every write durable, pages are written by checkpoints"), "Longest time between commits of the backend."),
    flag("backend-batch-limit", Kind::Int, "0", "backend-batch-limit", Section::Member, Use::NoEffect("the log makes every write durable, pages are written by checkpoints"), "Most operations between commits of the backend."),
    flag("max-txn-ops", Kind::Uint, "128", "max-txn-ops", Section::Member, Use::Read, "Most operations in one transaction."),
    flag("max-request-bytes", Kind::Uint, "1572864", "max-request-bytes", Section::Member, Use::Read, "Largest request accepted, bytes."),
    flag("grpc-keepalive-min-time", Kind::Duration, "5s", "grpc-keepalive-min-time", Section::Member, Use::Read, "Shortest interval at which clients may ping."),
    flag("grpc-keepalive-interval", Kind::Duration, "2h0m0s", "grpc-keepalive-interval", Section::Member, Use::Read, "Interval at which the server pings idle clients; 0 is never."),
    flag("grpc-keepalive-timeout", Kind::Duration, "20s", "grpc-keepalive-timeout", Section::Member, Use::Read, "Time that a pinged client has to answer; 0 is for ever."),
    flag("socket-reuse-port", Kind::Bool, "false", "socket-options.reuse-port", Section::Member, Use::Read, "Listen with SO_REUSEPORT."),
    flag("socket-reuse-address", Kind::Bool, "false", "socket-options.reuse-address", Section::Member, Use::NoEffect("every listener has SO_REUSEADDR, as etcd's do"), "Listen with SO_REUSEADDR."),
    flag("max-concurrent-streams", Kind::Uint32, "4294967295", "max-concurrent-streams", Section::Member, Use::Read, "Most streams that one connection may have open."),
    flag("raft-read-timeout", Kind::Duration, "5s", "", Section::Member, Use::NoEffect("there are no peer connections in this version"), "Read time-out of connections between members; at least 5s."),
    flag("raft-write-timeout", Kind::Duration, "5s", "", Section::Member, Use::NoEffect("there are no peer connections in this version"), "Write time-out of connections between members; at least 5s."),
    flag("initial-advertise-peer-urls", Kind::Urls, "http://localhost:2380", "initial-advertise-peer-urls", Section::Clustering, Use::Read, "Peer URLs that this member tells the cluster."),
    flag("advertise-client-urls", Kind::Urls, "http://localhost:2379", "advertise-client-urls", Section::Clustering, Use::Read, "Client URLs that this member tells the cluster."),
    flag("discovery", Kind::Text, "", "discovery", Section::Clustering, Use::Refused("v2 discovery was removed in etcd 3.7"), "URL of a v2 discovery service."),
    flag("discovery-endpoints", Kind::Set, "", "discovery-config.client.endpoints", Section::Clustering, Use::Refused("discovery is not part of this version; a member that bootstraps alone instead would split the cluster"), "Endpoints of the discovery service."),
    flag("discovery-token", Kind::Text, "", "discovery-config.token", Section::Clustering, Use::Refused("discovery is not part of this version; a member that bootstraps alone instead would split the cluster"), "Token of the cluster to discover."),
    flag("discovery-dial-timeout", Kind::Duration, "2s", "discovery-config.client.dial-timeout", Section::Clustering, Use::NoEffect("discovery is not part of this version"), "Dial time-out towards the discovery service."),
    flag("discovery-request-timeout", Kind::Duration, "5s", "discovery-config.client.request-timeout", Section::Clustering, Use::NoEffect("discovery is not part of this version"), "Request time-out towards the discovery service."),
    flag("discovery-keepalive-time", Kind::Duration, "2s", "discovery-config.client.keepalive-time", Section::Clustering, Use::NoEffect("discovery is not part of this version"), "Keepalive interval towards the discovery service."),
    flag("discovery-keepalive-timeout", Kind::Duration, "6s", "discovery-config.client.keepalive-timeout", Section::Clustering, Use::NoEffect("discovery is not part of this version"), "Keepalive time-out towards the discovery service."),
    flag("discovery-insecure-transport", Kind::Bool, "true", "discovery-config.client.secure.insecure-transport", Section::Clustering, Use::NoEffect("discovery is not part of this version"), "Talk to the discovery service in plain."),
    flag("discovery-insecure-skip-tls-verify", Kind::Bool, "false", "discovery-config.client.secure.insecure-skip-tls-verify", Section::Clustering, Use::NoEffect("discovery is not part of this version"), "Do not verify the discovery service."),
    flag("discovery-cert", Kind::Text, "", "discovery-config.client.secure.cert", Section::Clustering, Use::NoEffect("discovery is not part of this version"), "Certificate towards the discovery service."),
    flag("discovery-key", Kind::Text, "", "discovery-config.client.secure.key", Section::Clustering, Use::NoEffect("discovery is not part of this version"), "Key towards the discovery service."),
    flag("discovery-cacert", Kind::Text, "", "discovery-config.client.secure.cacert", Section::Clustering, Use::NoEffect("discovery is not part of this version"), "CA of the discovery service."),
    flag("discovery-user", Kind::Text, "", "discovery-config.client.auth.username", Section::Clustering, Use::NoEffect("discovery is not part of this version"), "User[:password] at the discovery service."),
    flag("discovery-password", Kind::Text, "", "discovery-config.client.auth.password", Section::Clustering, Use::NoEffect("discovery is not part of this version"), "Password at the discovery service."),
    flag("discovery-proxy", Kind::Text, "", "discovery-proxy", Section::Clustering, Use::NoEffect("v2 discovery was removed in etcd 3.7"), "HTTP proxy towards a v2 discovery service."),
    flag("discovery-srv", Kind::Text, "", "discovery-srv", Section::Clustering, Use::Refused("discovery is not part of this version; a member that bootstraps alone instead would split the cluster"), "DNS domain that lists the members."),
    flag("discovery-srv-name", Kind::Text, "", "discovery-srv-name", Section::Clustering, Use::NoEffect("discovery is not part of this version"), "Suffix of the DNS SRV names."),
    flag("initial-cluster", Kind::Text, "default=http://localhost:2380", "initial-cluster", Section::Clustering, Use::Read, "Members at bootstrap: name=peer-url, separated by commas."),
    flag("initial-cluster-token", Kind::Text, "etcd-cluster", "initial-cluster-token", Section::Clustering, Use::Read, "Tells clusters with equal URLs apart."),
    flag("strict-reconfig-check", Kind::Bool, "true", "strict-reconfig-check", Section::Clustering, Use::Later("changes of the membership"), "Refuse membership changes that would lose the quorum."),
    flag("pre-vote", Kind::Bool, "true", "pre-vote", Section::Clustering, Use::Later("elections among several members"), "Ask for votes before an election is begun."),
    flag("cert-file", Kind::Text, "", "client-transport-security.cert-file", Section::Security, Use::Refused("TLS is not part of this version; serving in plain what was meant to be encrypted would be unsafe"), "Server certificate towards clients."),
    flag("key-file", Kind::Text, "", "client-transport-security.key-file", Section::Security, Use::Refused("TLS is not part of this version; serving in plain what was meant to be encrypted would be unsafe"), "Its key."),
    flag("client-cert-file", Kind::Text, "", "client-transport-security.client-cert-file", Section::Security, Use::Refused("TLS is not part of this version; serving in plain what was meant to be encrypted would be unsafe"), "Client certificate that the server uses towards itself."),
    flag("client-key-file", Kind::Text, "", "client-transport-security.client-key-file", Section::Security, Use::Refused("TLS is not part of this version; serving in plain what was meant to be encrypted would be unsafe"), "Its key."),
    flag("client-cert-auth", Kind::Bool, "false", "client-transport-security.client-cert-auth", Section::Security, Use::Refused("TLS is not part of this version; serving in plain what was meant to be encrypted would be unsafe"), "Require certificates of clients."),
    flag("client-crl-file", Kind::Text, "", "", Section::Security, Use::Refused("TLS is not part of this version; serving in plain what was meant to be encrypted would be unsafe"), "Revoked client certificates."),
    flag("client-cert-allowed-hostname", Kind::List, "", "client-transport-security.allowed-hostname", Section::Security, Use::Refused("TLS is not part of this version; serving in plain what was meant to be encrypted would be unsafe"), "Host names allowed in client certificates."),
    flag("trusted-ca-file", Kind::Text, "", "client-transport-security.trusted-ca-file", Section::Security, Use::Refused("TLS is not part of this version; serving in plain what was meant to be encrypted would be unsafe"), "CA of client certificates."),
    flag("auto-tls", Kind::Bool, "false", "client-transport-security.auto-tls", Section::Security, Use::Refused("TLS is not part of this version; serving in plain what was meant to be encrypted would be unsafe"), "Generate a certificate for clients."),
    flag("peer-cert-file", Kind::Text, "", "peer-transport-security.cert-file", Section::Security, Use::Refused("TLS between members is not part of this version"), "Server certificate towards members."),
    flag("peer-key-file", Kind::Text, "", "peer-transport-security.key-file", Section::Security, Use::Refused("TLS between members is not part of this version"), "Its key."),
    flag("peer-client-cert-file", Kind::Text, "", "peer-transport-security.client-cert-file", Section::Security, Use::Refused("TLS between members is not part of this version"), "Client certificate towards members."),
    flag("peer-client-key-file", Kind::Text, "", "peer-transport-security.client-key-file", Section::Security, Use::Refused("TLS between members is not part of this version"), "Its key."),
    flag("peer-client-cert-auth", Kind::Bool, "false", "peer-transport-security.client-cert-auth", Section::Security, Use::Refused("TLS between members is not part of this version"), "Require certificates of members."),
    flag("peer-trusted-ca-file", Kind::Text, "", "peer-transport-security.trusted-ca-file", Section::Security, Use::Refused("TLS between members is not part of this version"), "CA of member certificates."),
    flag("peer-auto-tls", Kind::Bool, "false", "peer-transport-security.auto-tls", Section::Security, Use::Refused("TLS between members is not part of this version"), "Generate a certificate for members."),
    flag("self-signed-cert-validity", Kind::Uint, "1", "self-signed-cert-validity", Section::Security, Use::NoEffect("TLS is not part of this version"), "Validity of generated certificates, years."),
    flag("peer-crl-file", Kind::Text, "", "", Section::Security, Use::Refused("TLS between members is not part of this version"), "Revoked member certificates."),
    flag("peer-cert-allowed-cn", Kind::List, "", "peer-transport-security.allowed-cn", Section::Security, Use::Refused("TLS between members is not part of this version"), "Common names allowed in member certificates."),
    flag("peer-cert-allowed-hostname", Kind::List, "", "peer-transport-security.allowed-hostname", Section::Security, Use::Refused("TLS between members is not part of this version"), "Host names allowed in member certificates."),
    flag("cipher-suites", Kind::List, "", "cipher-suites", Section::Security, Use::NoEffect("TLS is not part of this version"), "TLS cipher suites."),
    flag("experimental-peer-skip-client-san-verification", Kind::Bool, "", "experimental-peer-skip-client-san-verification", Section::Renamed, Use::Renamed("peer-skip-client-san-verification"), ""),
    flag("peer-skip-client-san-verification", Kind::Bool, "false", "peer-transport-security.skip-client-san-verification", Section::Security, Use::NoEffect("TLS is not part of this version"), "Do not verify the SAN of members."),
    flag("tls-min-version", Kind::Text, "TLS1.2", "tls-min-version", Section::Security, Use::NoEffect("TLS is not part of this version"), "Lowest TLS version: TLS1.2 or TLS1.3."),
    flag("tls-max-version", Kind::Text, "", "tls-max-version", Section::Security, Use::NoEffect("TLS is not part of this version"), "Highest TLS version: TLS1.2 or TLS1.3."),
    flag("cors", Kind::Origins, "*", "cors", Section::Security, Use::Read, "Origins allowed to call from browsers; * is all."),
    flag("host-whitelist", Kind::Set, "*", "host-whitelist", Section::Security, Use::Read, "Host headers accepted without TLS; * is all."),
    flag("logger", Kind::Text, "zap", "logger", Section::Logging, Use::Read, "Only zap."),
    flag("log-outputs", Kind::Set, "default", "log-outputs", Section::Logging, Use::Read, "stderr, stdout or files, separated by commas."),
    flag("log-level", Kind::Text, "info", "log-level", Section::Logging, Use::Read, "debug, info, warn, error, dpanic, panic or fatal."),
    flag("log-format", Kind::Text, "json", "log-format", Section::Logging, Use::Read, "json or console."),
    flag("enable-log-rotation", Kind::Bool, "false", "enable-log-rotation", Section::Logging, Use::NoEffect("log rotation is not part of this version: the file grows"), "Rotate the log file."),
    flag("log-rotation-config-json", Kind::Text, "{\"maxsize\": 100, \"maxage\": 0, \"maxbackups\": 0, \"localtime\": false, \"compress\": false}", "log-rotation-config-json", Section::Logging, Use::NoEffect("log rotation is not part of this version: the file grows"), "How to rotate the log file."),
    flag("auto-compaction-retention", Kind::Text, "0", "auto-compaction-retention", Section::Compaction, Use::Read, "History kept by auto-compaction; 0 is off."),
    flag("auto-compaction-mode", Kind::Text, "periodic", "auto-compaction-mode", Section::Compaction, Use::Read, "periodic (a time) or revision (a number)."),
    flag("enable-pprof", Kind::Bool, "false", "enable-pprof", Section::Observability, Use::NoEffect("there is no Go runtime to profile"), "Serve Go profiles."),
    flag("metrics", Kind::Text, "basic", "metrics", Section::Observability, Use::Read, "basic, or extensive for histograms of each gRPC method."),
    flag("experimental-enable-distributed-tracing", Kind::Bool, "", "experimental-enable-distributed-tracing", Section::Renamed, Use::Renamed("enable-distributed-tracing"), ""),
    flag("enable-distributed-tracing", Kind::Bool, "false", "enable-distributed-tracing", Section::Observability, Use::Later("distributed tracing is not part of this version"), "Export OpenTelemetry traces."),
    flag("experimental-distributed-tracing-address", Kind::Text, "", "experimental-distributed-tracing-address", Section::Renamed, Use::Renamed("distributed-tracing-address"), ""),
    flag("distributed-tracing-address", Kind::Text, "localhost:4317", "distributed-tracing-address", Section::Observability, Use::Later("distributed tracing is not part of this version"), "Collector of the traces."),
    flag("experimental-distributed-tracing-service-name", Kind::Text, "", "experimental-distributed-tracing-service-name", Section::Renamed, Use::Renamed("distributed-tracing-service-name"), ""),
    flag("distributed-tracing-service-name", Kind::Text, "etcd", "distributed-tracing-service-name", Section::Observability, Use::Later("distributed tracing is not part of this version"), "Service name in the traces."),
    flag("experimental-distributed-tracing-instance-id", Kind::Text, "", "experimental-distributed-tracing-instance-id", Section::Renamed, Use::Renamed("distributed-tracing-instance-id"), ""),
    flag("distributed-tracing-instance-id", Kind::Text, "", "distributed-tracing-instance-id", Section::Observability, Use::Later("distributed tracing is not part of this version"), "Instance id in the traces."),
    flag("experimental-distributed-tracing-sampling-rate", Kind::Int, "", "experimental-distributed-tracing-sampling-rate", Section::Renamed, Use::Renamed("distributed-tracing-sampling-rate"), ""),
    flag("distributed-tracing-sampling-rate", Kind::Int, "0", "distributed-tracing-sampling-rate", Section::Observability, Use::Later("distributed tracing is not part of this version"), "Samples per million spans."),
    flag("auth-token", Kind::Text, "simple", "auth-token", Section::Auth, Use::Read, "simple, or jwt with its options."),
    flag("bcrypt-cost", Kind::Uint, "10", "bcrypt-cost", Section::Auth, Use::Later("authentication"), "Cost of password hashes, 4 to 31."),
    flag("auth-token-ttl", Kind::Uint, "300", "auth-token-ttl", Section::Auth, Use::Later("authentication"), "Life of simple tokens, seconds."),
    flag("enable-grpc-gateway", Kind::Bool, "true", "enable-grpc-gateway", Section::Observability, Use::Later("the JSON gateway"), "Serve the JSON gateway."),
    flag("experimental-initial-corrupt-check", Kind::Bool, "", "experimental-initial-corrupt-check", Section::Renamed, Use::Gate("InitialCorruptCheck"), ""),
    flag("experimental-corrupt-check-time", Kind::Duration, "", "experimental-corrupt-check-time", Section::Renamed, Use::Renamed("corrupt-check-time"), ""),
    flag("corrupt-check-time", Kind::Duration, "0s", "corrupt-check-time", Section::Observability, Use::Later("corruption checks between members"), "Interval of corruption checks between members; 0 is off."),
    flag("experimental-compact-hash-check-enabled", Kind::Bool, "", "experimental-compact-hash-check-enabled", Section::Renamed, Use::Gate("CompactHashCheck"), ""),
    flag("experimental-compact-hash-check-time", Kind::Duration, "", "experimental-compact-hash-check-time", Section::Renamed, Use::Renamed("compact-hash-check-time"), ""),
    flag("compact-hash-check-time", Kind::Duration, "1m0s", "compact-hash-check-time", Section::Observability, Use::Later("corruption checks between members"), "Interval of hash checks between members."),
    flag("experimental-enable-lease-checkpoint", Kind::Bool, "", "experimental-enable-lease-checkpoint", Section::Renamed, Use::Gate("LeaseCheckpoint"), ""),
    flag("experimental-enable-lease-checkpoint-persist", Kind::Bool, "", "experimental-enable-lease-checkpoint-persist", Section::Renamed, Use::Gate("LeaseCheckpointPersist"), ""),
    flag("experimental-compaction-batch-limit", Kind::Int, "", "experimental-compaction-batch-limit", Section::Renamed, Use::Renamed("compaction-batch-limit"), ""),
    flag("compaction-batch-limit", Kind::Int, "0", "compaction-batch-limit", Section::Compaction, Use::NoEffect("a compaction removes in steps too short to be seen"), "Most revisions removed in one step."),
    flag("experimental-compaction-sleep-interval", Kind::Duration, "", "experimental-compaction-sleep-interval", Section::Renamed, Use::Renamed("compaction-sleep-interval"), ""),
    flag("compaction-sleep-interval", Kind::Duration, "0s", "compaction-sleep-interval", Section::Compaction, Use::NoEffect("a compaction removes in steps too short to be seen"), "Pause between steps."),
    flag("experimental-watch-progress-notify-interval", Kind::Duration, "", "experimental-watch-progress-notify-interval", Section::Renamed, Use::Renamed("watch-progress-notify-interval"), ""),
    flag("watch-progress-notify-interval", Kind::Duration, "0s", "watch-progress-notify-interval", Section::Observability, Use::Read, "Interval of watch progress notifications."),
    flag("downgrade-check-time", Kind::Duration, "5s", "downgrade-check-time", Section::Observability, Use::Later("downgrades"), "Interval of downgrade checks."),
    flag("experimental-downgrade-check-time", Kind::Duration, "", "experimental-downgrade-check-time", Section::Renamed, Use::Renamed("downgrade-check-time"), ""),
    flag("experimental-warning-apply-duration", Kind::Duration, "", "experimental-warning-apply-duration", Section::Renamed, Use::Renamed("warning-apply-duration"), ""),
    flag("warning-apply-duration", Kind::Duration, "100ms", "warning-apply-duration", Section::Observability, Use::Read, "Apply time above which a warning is logged."),
    flag("warning-unary-request-duration", Kind::Duration, "0s", "warning-unary-request-duration", Section::Observability, Use::Read, "Request time above which a warning is logged."),
    flag("experimental-warning-unary-request-duration", Kind::Duration, "", "experimental-warning-unary-request-duration", Section::Renamed, Use::Renamed("warning-unary-request-duration"), ""),
    flag("experimental-memory-mlock", Kind::Bool, "", "experimental-memory-mlock", Section::Renamed, Use::Renamed("memory-mlock"), ""),
    flag("memory-mlock", Kind::Bool, "false", "memory-mlock", Section::Member, Use::Later("locking the store in memory"), "Lock the store in memory."),
    flag("experimental-txn-mode-write-with-shared-buffer", Kind::Bool, "", "experimental-txn-mode-write-with-shared-buffer", Section::Renamed, Use::Gate("TxnModeWriteWithSharedBuffer"), ""),
    flag("experimental-stop-grpc-service-on-defrag", Kind::Bool, "", "experimental-stop-grpc-service-on-defrag", Section::Renamed, Use::Gate("StopGRPCServiceOnDefrag"), ""),
    flag("experimental-bootstrap-defrag-threshold-megabytes", Kind::Uint, "", "experimental-bootstrap-defrag-threshold-megabytes", Section::Renamed, Use::Renamed("bootstrap-defrag-threshold-megabytes"), ""),
    flag("bootstrap-defrag-threshold-megabytes", Kind::Uint, "0", "bootstrap-defrag-threshold-megabytes", Section::Member, Use::NoEffect("the file shrinks while the server runs"), "Defragment at start when it frees this much, MiB."),
    flag("max-learners", Kind::Int, "1", "max-learners", Section::Clustering, Use::Later("learners"), "Most learners in the cluster."),
    flag("experimental-snapshot-catchup-entries", Kind::Uint, "", "experimental-snapshot-catch-up-entries", Section::Renamed, Use::Renamed("snapshot-catchup-entries"), ""),
    flag("snapshot-catchup-entries", Kind::Uint, "5000", "snapshot-catchup-entries", Section::Member, Use::Later("slow followers"), "Log entries kept for slow followers."),
    flag("unsafe-no-fsync", Kind::Bool, "false", "unsafe-no-fsync", Section::Unsafe, Use::NoEffect("every write is made durable"), "Do not wait for the disk."),
    flag("force-new-cluster", Kind::Bool, "false", "force-new-cluster", Section::Unsafe, Use::Refused("it is not part of this version; ignored, the member would wait for peers that are gone"), "Make a one-member cluster of this member."),
    flag("config-file", Kind::Text, "", "", Section::Member, Use::Read, "YAML file with the configuration; all other flags and the environment are then ignored. Durations in it are integers of nanoseconds."),
    flag("discovery-fallback", Kind::Choice(&["exit", "proxy"]), "exit", "", Section::Clustering, Use::Read, "What to do when v2 discovery fails."),
    flag("initial-cluster-state", Kind::Choice(&["existing", "new"]), "new", "initial-cluster-state", Section::Clustering, Use::Read, "new: bootstrap a cluster. existing: join one."),
    flag("v2-deprecation", Kind::Choices(&["write-only", "write-only-skip-check", "write-only-drop-data", "gone"]), "write-only", "v2-deprecation", Section::Member, Use::Deprecated("--v2-deprecation is deprecated and scheduled for removal in v3.8. The default value is enforced, ignoring user input."), "Stage of the v2 store's removal."),
    flag("version", Kind::Bool, "false", "", Section::Member, Use::Read, "Print the version and exit."),
    flag("feature-gates", Kind::Gates, "", "feature-gates", Section::Features, Use::Read, "Feature gates: name=true|false, separated by commas."),
    flag("cluster-active-size", Kind::Ignored, "", "", Section::Ignored, Use::Ignored, ""),
    flag("cluster-remove-delay", Kind::Ignored, "", "", Section::Ignored, Use::Ignored, ""),
    flag("cluster-sync-interval", Kind::Ignored, "", "", Section::Ignored, Use::Ignored, ""),
    flag("config", Kind::Ignored, "", "", Section::Ignored, Use::Ignored, ""),
    flag("force", Kind::Ignored, "", "", Section::Ignored, Use::Ignored, ""),
    flag("max-result-buffer", Kind::Ignored, "", "", Section::Ignored, Use::Ignored, ""),
    flag("max-retry-attempts", Kind::Ignored, "", "", Section::Ignored, Use::Ignored, ""),
    flag("peer-heartbeat-interval", Kind::Ignored, "", "", Section::Ignored, Use::Ignored, ""),
    flag("peer-election-timeout", Kind::Ignored, "", "", Section::Ignored, Use::Ignored, ""),
    flag("retry-interval", Kind::Ignored, "", "", Section::Ignored, Use::Ignored, ""),
    flag("snapshot", Kind::Ignored, "", "", Section::Ignored, Use::Ignored, ""),
    flag("v", Kind::Ignored, "", "", Section::Ignored, Use::Ignored, ""),
    flag("vv", Kind::Ignored, "", "", Section::Ignored, Use::Ignored, ""),
    flag("test.coverprofile", Kind::Ignored, "", "", Section::Ignored, Use::Ignored, ""),
    flag("test.outputdir", Kind::Ignored, "", "", Section::Ignored, Use::Ignored, ""),
    flag("shards", Kind::Int, "0", "shards", Section::Mainstay, Use::Read, "Threads that serve clients; 0 chooses by the cores at hand."),
    flag("reported-version", Kind::Text, "3.7.1", "reported-version", Section::Mainstay, Use::Read, "Version that is reported to clients, as X.Y.Z."),
    flag("memory-budget-bytes", Kind::Int, "0", "memory-budget-bytes", Section::Mainstay, Use::Read, "Memory that an idle store may keep resident, bytes; 0 is 128 MiB."),
];
