//! Start-up and shutdown: from a configuration to running cores, and back.
//!
//! Order of a start: directory and lock, limits of the host, recovery, listeners, edge, cores; "ready" is said by the
//! log core once the member is announced and leads. Order of a stop: no new connections, calls under way, the log
//! core, the edge.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base::limits::{OUTCOME_RING_SLOTS, PROPOSAL_RING_SLOTS};
use base::ring::ring;
use disk::probe::SyncForm;

use crate::config::{AutoCompaction, Config, Scheme};
use crate::core::doorbell::Doorbell;
use crate::core::logcore::{Hooks, LogCore, Means, ShardLink};
use crate::core::mailbox::{Mailbox, Sender};
use crate::core::pool::Pool;
use crate::core::run::{Clock, Core, spawn};
use crate::core::shard::{Environment, Mail, Parts, ShardCore};
use crate::core::spool;
use crate::limits_check::{self, Layout};
use crate::log::{Level, emit};
use crate::metrics::Registry;
use crate::status::Status;
use crate::{listen, notify, signals};

/// Helper threads: one long export, one checkpoint and the log's segments at the same time.
const POOL_THREADS: usize = 4;
/// How long calls under way may take at shutdown: as etcd's request timeout with its usual election timeout.
const DRAIN: Duration = Duration::from_secs(7);
/// How long the log core may take to end after that.
const STOP: Duration = Duration::from_secs(1);
/// How often it looks at the memory of the process.
const MEMORY_INTERVAL: Duration = Duration::from_millis(250);
/// How often the main thread looks around while it waits for a signal.
const WATCH_INTERVAL: Duration = Duration::from_millis(50);

/// Runs until a signal ends it. The error is one line for the log.
pub fn run(config: Config) -> Result<signals::Asked, String> {
    signals::block();
    let directory = prepare_directory(&config.data_dir, "data-dir")?;
    let _lock = disk::lock_directory(&directory).map_err(|error| error.to_string())?;
    if let Some(warning) = limits_check::raise_memlock() {
        emit(Level::Warn, &warning, &[]);
    }
    limits_check::probe_ring().map_err(|refused| refused.to_string())?;
    let mut files = disk::OsFiles::new(&directory).map_err(|error| error.to_string())?;
    let mut _log_lock = None;
    let log_directory = match &config.wal_dir {
        None => None,
        Some(path) => Some(prepare_directory(path, "wal-dir")?),
    };
    if let Some(path) = &log_directory {
        _log_lock = Some(disk::lock_directory(path).map_err(|error| error.to_string())?);
        files = files.with_directory(replica::LOG_DIR, path);
    }
    let files: Arc<dyn disk::Files> = Arc::new(files);
    let sync_form = probe_sync(log_directory.as_ref().unwrap_or(&directory))?;
    let boot = entropy().map_err(|error| format!("no entropy: {error}"))?;

    signals::explain_bus_error(crate::log::text(
        Level::Fatal,
        &format!(
            "a page of {} could not be read: the device fails, or the file was cut short from outside; check the disk, then \
             start again",
            directory.join(replica::DATA_FILE).display()
        ),
    ));
    let may_found = || config.verify_bootstrap().map_err(|failure| failure.error);
    let opened = replica::open(files.clone(), replica_start(&config, boot), may_found);
    let (mut replica, report) = opened.map_err(|error| match error {
        replica::OpenError::MayNotFound(why) => why,
        error => format!("{}: {error}", directory.display()),
    })?;
    log_report(&report);

    let layout = limits_check::layout(limits_check::cores(), config.shards);
    if layout.shared {
        replica.share_thread();
    }
    let (pool, pool_threads) =
        Pool::start(POOL_THREADS).map_err(|error| format!("cannot start helper threads: {error}"))?;
    let registry = Arc::new(Registry::new(&config, layout.shards));
    let published = replica.published().clone();
    let readers = replica.readers();
    let status = Arc::new(Status::new(
        published.clone(),
        readers.register(),
        config.reported_version.clone(),
        registry.clone(),
        Duration::from_millis(config.request_timeout_ms()),
    ));
    let edge = edge::start(edge_options(&config)?, status.clone()).map_err(|error| error.to_string())?;
    let edge_handle = edge.handle();
    let environment = Arc::new(Environment {
        pool: pool.clone(),
        readers: readers.clone(),
        published: published.clone(),
        spools: spool::Directory::new(directory.clone()),
        spool_slots: Arc::default(),
        http1: Arc::new(move |socket: OwnedFd, read: Vec<u8>| {
            // A full edge closes the socket: dropping it does.
            let _ = edge_handle.adopt(socket, read, edge::Surface::Client);
        }),
    });

    let mut listeners = Vec::new();
    for url in &config.listen_client_urls {
        listeners.push(bind(url, config.socket_reuse_port)?);
    }
    let clock = Clock::start();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::new(AtomicBool::new(false));
    let log_doorbell = doorbell()?;
    let log_mailbox = Mailbox::new(log_doorbell.clone());
    let log_sender = log_mailbox.sender();
    let mut cores = Vec::new();
    let mut links = Vec::new();
    let mut mail_senders = Vec::new();
    let mut shard_parts = Vec::new();
    let loads: Arc<Vec<AtomicUsize>> = Arc::new((0..layout.shards).map(|_| AtomicUsize::new(0)).collect());
    for number in 0..layout.shards {
        let shard_doorbell = if layout.shared { log_doorbell.clone() } else { doorbell()? };
        let (to_log, inbox) = ring(PROPOSAL_RING_SLOTS);
        let (outbox, from_log) = ring(OUTCOME_RING_SLOTS);
        let mailbox = Mailbox::new(shard_doorbell.clone());
        mail_senders.push(mailbox.sender());
        links.push(ShardLink { inbox, outbox, doorbell: shard_doorbell.clone() });
        shard_parts.push((number, shard_doorbell, to_log, from_log, mailbox));
    }
    let limits = Arc::new(net_limits(&config));
    let mut make_shards = Vec::new();
    for (number, shard_doorbell, to_log, from_log, mailbox) in shard_parts {
        let copies: Result<Vec<OwnedFd>, _> = listeners.iter().map(OwnedFd::try_clone).collect();
        let listeners = copies.map_err(|error| format!("cannot copy a descriptor: {error}"))?;
        let api_config = api_config(&config, number, boot);
        let (published, readers, meter) =
            (published.clone(), readers.clone(), registry.shards[number].clone());
        let (peers, loads, environment) = (mail_senders.clone(), loads.clone(), environment.clone());
        let (limits, log_doorbell) = (limits.clone(), log_doorbell.clone());
        let slow_request = config.warning_unary_request_duration;
        let make = move || {
            ShardCore::new(Parts {
                shard: api::Shard::new(api_config, published, readers.register(), meter),
                number: number as u16,
                listeners,
                to_log,
                log_doorbell,
                from_log,
                mailbox,
                peers,
                loads,
                environment,
                limits,
                slow_request,
            })
        };
        make_shards.push((shard_doorbell, Box::new(make) as Box<dyn FnOnce() -> ShardCore + Send>));
    }
    let hooks = Hooks { ready: ready_hook(&config, mail_senders.clone()), stopped: raise(&stopped) };
    let make_log = {
        let means = Means {
            pool: pool.clone(),
            files: files.clone(),
            sync_form,
            metrics: registry.core.clone(),
            slow_apply: config.warning_apply_duration,
        };
        move || LogCore::new(replica, links, log_mailbox, means, hooks)
    };
    let cpus = limits_check::affinity_cores();
    let mut make_log = Some(Box::new(make_log) as Box<dyn FnOnce() -> LogCore + Send>);
    if !layout.shared {
        cores.push(Core {
            name: "log".into(),
            cpu: cpu_for(&cpus, 0, layout),
            doorbell: log_doorbell.clone(),
            log: make_log.take(),
            shard: None,
        });
    }
    for (number, (shard_doorbell, make)) in make_shards.into_iter().enumerate() {
        cores.push(Core {
            name: format!("shard-{number}"),
            cpu: cpu_for(&cpus, number + 1, layout),
            doorbell: shard_doorbell,
            log: make_log.take(),
            shard: Some(make),
        });
    }
    let mut threads = Vec::new();
    for core in cores {
        let thread = spawn(core, clock, stop.clone());
        threads.push(thread.map_err(|error| format!("cannot start a core: {error}"))?);
    }

    let memory_budget_bytes = config.memory_budget_bytes.unwrap_or(base::limits::MEMORY_BUDGET_BYTES);
    let mut looked_at_memory = Instant::now();
    let asked = loop {
        status.poll();
        if looked_at_memory.elapsed() >= MEMORY_INTERVAL {
            looked_at_memory = Instant::now();
            let bytes = limits_check::resident_bytes().unwrap_or(0);
            if bytes > memory_budget_bytes {
                log_sender.send(replica::Event::Resident { bytes });
            }
        }
        if let Some(asked) = signals::wait(WATCH_INTERVAL) {
            break asked;
        }
    };
    emit(Level::Info, "received signal; shutting down", &[("signal", asked.name)]);
    let _ = notify::stopping();
    for sender in &mail_senders {
        sender.send(Mail::Drain);
    }
    let deadline = Instant::now() + DRAIN;
    let open = || loads.iter().map(|load| load.load(Ordering::Relaxed)).sum::<usize>();
    while open() > 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    log_sender.send(replica::Event::Stop);
    let deadline = Instant::now() + STOP;
    while !stopped.load(Ordering::Acquire) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    stop.store(true, Ordering::Release);
    for thread in threads {
        let _ = thread.join();
    }
    pool.close();
    for thread in pool_threads {
        let _ = thread.join();
    }
    let _ = edge.stop();
    emit(Level::Info, "stopped", &[]);
    Ok(asked)
}

/// Makes the directory that `flag` names where it is absent; its whole path.
fn prepare_directory(path: &Path, flag: &str) -> Result<PathBuf, String> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    let shown = path.display();
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| {
        format!("cannot create the directory {shown}: {error}; name another one with --{flag}")
    })?;
    if path.join("member").is_dir() {
        return Err(format!(
            "{shown} is a data directory of etcd, which this version cannot open: name another one with --data-dir, \
             and bring the data over with etcdctl make-mirror"
        ));
    }
    if let Ok(metadata) = path.metadata()
        && metadata.mode() & 0o777 != 0o700
    {
        let mode = format!("{:03o}", metadata.mode() & 0o777);
        let fields = [("directory", &*shown.to_string()), ("mode", &*mode), ("recommended", "700")];
        emit(Level::Warn, "check file permission", &fields);
    }
    path.canonicalize().map_err(|error| format!("cannot use the directory {shown} of --{flag}: {error}"))
}

/// Which form of a durable write the log's device does fastest.
fn probe_sync(directory: &Path) -> Result<SyncForm, String> {
    let files = disk::OsFiles::new(directory).map_err(|error| error.to_string())?;
    let probe = disk::probe::probe(&files, disk::probe::PROBE_BUDGET)
        .map_err(|error| format!("the disk of {} cannot be probed: {error}", directory.display()))?;
    let (dsync, synced) = (probe.dsync_write_us.to_string(), probe.write_then_sync_us.to_string());
    let form = format!("{:?}", probe.form);
    let fields = [("form", form.as_str()), ("dsync-write-us", &dsync), ("write-then-sync-us", &synced)];
    emit(Level::Info, "probed durable writes", &fields);
    Ok(probe.form)
}

fn entropy() -> std::io::Result<u64> {
    use std::io::Read;
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

fn replica_start(config: &Config, boot: u64) -> replica::Start {
    let texts = |urls: &[crate::config::Url]| urls.iter().map(ToString::to_string).collect::<Vec<_>>();
    let member = replica::founding_member(
        &config.name,
        &texts(&config.initial_advertise_peer_urls),
        &texts(&config.advertise_client_urls),
        &config.initial_cluster_token,
    );
    replica::Start {
        options: replica::Options {
            member,
            heartbeat_ms: config.heartbeat_interval_ms,
            election_ms: config.election_timeout_ms,
            auto_compaction: match config.auto_compaction {
                AutoCompaction::Off => replica::AutoCompaction::Off,
                AutoCompaction::Periodic(retention) => {
                    replica::AutoCompaction::Periodic { retention_ms: retention.as_millis() as u64 }
                }
                AutoCompaction::Revision(revisions) => {
                    replica::AutoCompaction::Revision { revisions: revisions as i64 }
                }
            },
            checkpoint: replica::CheckpointPolicy::default(),
            scrub: replica::ScrubPolicy::default(),
            memory_budget_bytes: config.memory_budget_bytes.unwrap_or(base::limits::MEMORY_BUDGET_BYTES),
            cluster_version: config.cluster_version(),
        },
        quota_config_bytes: config.quota_backend_bytes,
        tree: tree::Options::default(),
        wal: wal::Options::new(boot),
        boot,
    }
}

fn log_report(report: &replica::OpenReport) {
    let (member, cluster) = (format!("{:x}", report.member_id), format!("{:x}", report.cluster_id));
    let (applied, replayed) = (report.applied.to_string(), report.replayed_entries.to_string());
    let fields = [
        ("local-member-id", member.as_str()),
        ("cluster-id", cluster.as_str()),
        ("checkpoint-index", applied.as_str()),
        ("log-entries", replayed.as_str()),
    ];
    emit(Level::Info, if report.founded { "founded a new member" } else { "recovered the member" }, &fields);
    if let Some(what) = &report.store.unreadable {
        emit(Level::Warn, "a meta of the data file is not whole; the other one was used", &[("what", what)]);
    }
    if let Some(what) = &report.checkpoint_lost {
        let message = "the data file lost a checkpoint that the disk had confirmed; the log made up for it, check the disk";
        emit(Level::Error, message, &[("what", what)]);
    }
    if let Some(what) = &report.store.bitmap_rebuilt {
        emit(Level::Warn, "the allocation bitmap was damaged and has been rebuilt", &[("what", what)]);
    }
    if let Some(what) = &report.store.reserve_missing {
        emit(Level::Warn, "the disk has no room for the reserve", &[("what", what)]);
    }
    if let Some(cut) = &report.cut {
        let what = format!("{cut:?}");
        emit(
            Level::Info,
            "cut a torn batch from the log's end; it was never acknowledged",
            &[("cut", &what)],
        );
    }
}

fn api_config(config: &Config, number: usize, boot: u64) -> api::Config {
    api::Config {
        shard: number as u16,
        version: config.reported_version.clone(),
        max_txn_ops: config.max_txn_ops as usize,
        max_request_bytes: config.max_request_bytes as usize,
        request_timeout_ms: config.request_timeout_ms(),
        progress_interval_ms: config.watch_progress_notify_interval.as_millis() as u64,
        // At debug every call that is held beyond a turn has its line.
        slow_request_us: match config.log.level {
            Level::Debug => 0,
            _ => config.warning_unary_request_duration.as_micros() as u64,
        },
        seed: boot ^ number as u64,
    }
}

fn net_limits(config: &Config) -> net::Limits {
    let ms = |duration: Duration| duration.as_millis() as u64;
    net::Limits {
        max_message_bytes: config.max_request_bytes as usize + base::limits::GRPC_OVERHEAD_BYTES,
        max_concurrent_streams: config.max_concurrent_streams,
        ping_min_time_ms: ms(config.grpc_keepalive_min_time),
        keepalive_interval_ms: ms(config.grpc_keepalive_interval),
        keepalive_timeout_ms: ms(config.grpc_keepalive_timeout),
        ..net::Limits::default()
    }
}

fn edge_options(config: &Config) -> Result<edge::Options, String> {
    let mut listen = Vec::new();
    let surfaces = [
        (&config.listen_client_http_urls, edge::Surface::Client),
        (&config.listen_metrics_urls, edge::Surface::Metrics),
    ];
    for (urls, surface) in surfaces {
        for url in urls {
            let bind = match url.scheme() {
                Scheme::Unix | Scheme::Unixs => edge::Bind::Unix(url.socket_path().into()),
                Scheme::Http | Scheme::Https => {
                    let address: SocketAddr =
                        url.bind_address().map_err(|error| format!("cannot resolve {url}: {error}"))?;
                    edge::Bind::Tcp(address)
                }
            };
            listen.push(edge::Listen { bind, surface });
        }
    }
    Ok(edge::Options {
        listen,
        access: edge::Access { hosts: config.host_whitelist.clone(), origins: config.cors.clone() },
        gateway: config.enable_grpc_gateway,
        request_timeout_ms: config.request_timeout_ms(),
        ..edge::Options::default()
    })
}

/// A listener: all shards accept from it, and nobody else can have the address unless `reuse_port` says so.
fn bind(url: &crate::config::Url, reuse_port: bool) -> Result<OwnedFd, String> {
    let failed = |error: std::io::Error| format!("cannot listen on {url}: {error}");
    match url.scheme() {
        Scheme::Unix | Scheme::Unixs => listen::unix(Path::new(&url.socket_path())).map_err(failed),
        Scheme::Http | Scheme::Https => {
            let address = url.bind_address().map_err(failed)?;
            listen::tcp(address, reuse_port).map_err(failed)
        }
    }
}

fn doorbell() -> Result<Doorbell, String> {
    Doorbell::new().map_err(|error| format!("cannot make a wake-up descriptor: {error}"))
}

/// Cores stay on processors of their own where there are enough; with one or two, the scheduler knows better.
fn cpu_for(cpus: &[usize], position: usize, layout: Layout) -> Option<usize> {
    if layout.shared || cpus.len() < layout.shards + 1 { None } else { cpus.get(position).copied() }
}

fn ready_hook(config: &Config, shards: Vec<Sender<Mail>>) -> Box<dyn FnOnce() + Send> {
    let urls: Vec<(String, bool)> =
        config.listen_client_urls.iter().map(|url| (url.authority(), url.scheme().is_tls())).collect();
    Box::new(move || {
        for shard in &shards {
            shard.send(Mail::Serve);
        }
        emit(Level::Info, "ready to serve client requests", &[]);
        for (address, tls) in &urls {
            let message = if *tls {
                "serving client traffic securely"
            } else {
                "serving client traffic insecurely; this is strongly discouraged!"
            };
            emit(Level::Info, message, &[("traffic", "grpc+http"), ("address", address)]);
        }
        if let Err(error) = notify::ready() {
            emit(Level::Warn, "failed to notify systemd for readiness", &[("error", &error.to_string())]);
        }
    })
}

fn raise(flag: &Arc<AtomicBool>) -> Box<dyn FnOnce() + Send> {
    let flag = flag.clone();
    Box::new(move || flag.store(true, Ordering::Release))
}
