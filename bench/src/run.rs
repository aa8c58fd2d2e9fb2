//! Runs one workload against one address: client threads, warm-up, window, and what the server cost in the window.
//!
//! The calling thread only watches: it samples the server at both ends of the window and shows progress.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::drive::{Load, Pace, Shared, Until, drive};
use crate::keys::{Keys, Span, Values};
use crate::load::{
    Fill, Grant, KeepAlive, Kubernetes, Learn, RESOURCES, Read, ReadKind, Txn, Update, Watched, Watching,
    Workload,
};
use crate::probe::{Usage, machine_busy_ns};
use crate::progress::Progress;
use crate::report::Sample;
use crate::schedule::Tally;
use crate::sys;

/// A client thread that ran for more than this share of the window may be what limited the throughput.
const CLIENT_BOUND: f64 = 0.9;
/// Between lines of progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

/// The shape of a run. Counts and rates are totals over all client threads.
#[derive(Clone, Debug)]
pub struct Settings {
    pub connections: usize,
    pub streams: usize,
    pub rate: Option<f64>,
    pub warmup: Duration,
    pub window: Duration,
    pub keys: u64,
    pub key_bytes: usize,
    pub value_bytes: usize,
    pub seed: u64,
    pub threads: usize,
    /// CPUs for the client threads, one each in turn; empty: anywhere.
    pub client_cpus: Vec<usize>,
}

/// Where the load goes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub address: SocketAddr,
    /// The server's process, if its cost is to be measured.
    pub pid: Option<u32>,
}

impl Target {
    fn usage(&self) -> Result<Option<Usage>, String> {
        self.pid.map(|pid| Usage::of(pid).map_err(|error| format!("process {pid}: {error}"))).transpose()
    }
}

struct Measured {
    seconds: f64,
    machine_busy_ns: u64,
    before: Option<Usage>,
    after: Option<Usage>,
}

impl Settings {
    fn keys(&self) -> Keys {
        Keys { key_bytes: self.key_bytes, seed: self.seed }
    }

    fn values(&self) -> Values {
        Values::new(self.value_bytes, self.seed)
    }

    fn span(&self, thread: usize) -> Span {
        Span::part(self.keys, thread, self.threads)
    }

    fn links(&self, thread: usize) -> usize {
        Span::part(self.connections as u64, thread, self.threads).count as usize
    }

    fn pace(&self, thread: usize) -> Pace {
        match self.rate {
            None => Pace::Closed,
            Some(rate) => {
                Pace::Open { rate: rate / self.threads as f64, seed: self.seed ^ (thread as u64) << 8 }
            }
        }
    }

    fn window(&self) -> Until {
        Until::Window { warmup_ns: self.warmup.as_nanos() as u64, window_ns: self.window.as_nanos() as u64 }
    }

    /// What can't be run, said before anything is started.
    pub fn check(&self, workload: Workload) -> Result<(), String> {
        let problem = if self.threads == 0 || self.connections < self.threads || self.streams == 0 {
            "every client thread needs a connection, and every connection a stream"
        } else if self.keys < self.threads as u64 {
            "every client thread needs a key"
        } else if self.key_bytes < crate::keys::KEY_BYTES_MIN {
            "keys are at least 19 bytes long"
        } else if self.value_bytes > crate::keys::VALUE_BYTES_MAX {
            "values are at most 512 KiB long"
        } else if matches!(workload, Workload::WatchFanout | Workload::WatchLatency)
            && self.value_bytes < crate::load::STAMP_BYTES
        {
            "a watched value has at least 8 bytes, which hold a time"
        } else if workload == Workload::Kubernetes && self.threads > RESOURCES {
            "the Kubernetes load has fewer resources than client threads"
        } else if self.rate.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
            "a rate is a positive number of operations a second"
        } else {
            return Ok(());
        };
        Err(problem.to_owned())
    }
}

/// Fills the store with the workload's keys.
pub fn fill(target: Target, settings: &Settings, progress: &mut Progress) -> Result<Sample, String> {
    progress.phase("fill");
    let closed =
        Settings { rate: None, connections: 64.max(settings.threads), streams: 16, ..settings.clone() };
    let make = |thread| {
        let fill = Fill::new(closed.keys(), closed.values(), closed.span(thread), closed.streams);
        (closed.links(thread), fill)
    };
    let (_, tally, measured) = together(target, &closed, Until::Finished, progress, make)?;
    let sample = summarise(tally, measured);
    match &sample.first_error {
        Some(error) => Err(format!("filling the store: {error}")),
        None => Ok(sample),
    }
}

/// Runs `workload`, whose keys are in the store.
pub fn run(
    workload: Workload,
    target: Target,
    settings: &Settings,
    progress: &mut Progress,
) -> Result<Sample, String> {
    settings.check(workload)?;
    let (keys, values, streams) = (settings.keys(), settings.values(), settings.streams);
    let window = settings.window();
    let read = |kind, progress: &mut Progress| {
        let make = |thread| {
            let load = Read::new(kind, keys, settings.keys, settings.value_bytes, streams, thread);
            (settings.links(thread), load)
        };
        together(target, settings, window, progress, make).map(untyped)
    };
    let watch = |watched, progress: &mut Progress| {
        let make = |thread| {
            // Every thread has all the watchers, so that a put reaches as many of them with two threads as with one.
            let links = settings.connections;
            let span = settings.span(thread);
            (links + 1, Watching::new(watched, keys, span, values.clone(), links, streams))
        };
        together(target, settings, window, progress, make).map(untyped)
    };
    let (tally, measured) = match workload {
        Workload::Range => read(ReadKind::One { serializable: false }, progress)?,
        Workload::Serializable => read(ReadKind::One { serializable: true }, progress)?,
        Workload::Range500 => read(ReadKind::Row { keys: 500 }, progress)?,
        Workload::Count => read(ReadKind::Count, progress)?,
        Workload::WatchFanout => watch(Watched::OneKey, progress)?,
        Workload::WatchLatency => watch(Watched::AllKeys, progress)?,
        Workload::Put | Workload::PutPaced => {
            let make = |thread| {
                (settings.links(thread), Update::new(keys, settings.span(thread), values.clone(), streams))
            };
            together(target, settings, window, progress, make).map(untyped)?
        }
        Workload::Txn => run_txn(target, settings, progress)?,
        Workload::KeepAlive => run_keep_alive(target, settings, progress)?,
        Workload::Kubernetes => run_kubernetes(target, settings, progress)?,
        Workload::State => return fill(target, settings, progress),
    };
    Ok(summarise(tally, measured))
}

fn run_txn(
    target: Target,
    settings: &Settings,
    progress: &mut Progress,
) -> Result<(Tally, Measured), String> {
    let make = |thread| (1, Learn::new(settings.keys(), settings.span(thread)));
    let learnt = prepare(target, settings, progress, "reading revisions", make)?;
    let txn = |(thread, learn): (usize, Learn)| {
        let (keys, span, values) = (settings.keys(), settings.span(thread), settings.values());
        Txn::new(keys, span, values, settings.streams, learn.into_revisions())
    };
    let loads = learnt.into_iter().enumerate().map(txn);
    measure(target, settings, progress, |thread| settings.links(thread), loads)
}

fn run_keep_alive(
    target: Target,
    settings: &Settings,
    progress: &mut Progress,
) -> Result<(Tally, Measured), String> {
    let make = |thread| (1, Grant::new(settings.links(thread) * settings.streams));
    let granted = prepare(target, settings, progress, "granting leases", make)?;
    let loads = granted.into_iter().map(|grant| KeepAlive::new(grant.into_ids(), settings.streams));
    measure(target, settings, progress, |thread| settings.links(thread), loads)
}

fn run_kubernetes(
    target: Target,
    settings: &Settings,
    progress: &mut Progress,
) -> Result<(Tally, Measured), String> {
    let resources = |thread| Span::part(RESOURCES as u64, thread, settings.threads).count as usize;
    let make = |thread| {
        let objects = settings.span(thread).count as usize;
        let values = settings.values();
        let load =
            Kubernetes::new(thread, resources(thread), objects, values, settings.streams, settings.seed);
        (settings.links(thread), load)
    };
    let mut filled = prepare(target, settings, progress, "creating objects", make)?;
    filled.iter_mut().for_each(Kubernetes::begin_mix);
    let links = |thread| resources(thread) + settings.links(thread);
    measure(target, settings, progress, links, filled.into_iter())
}

/// Runs loads that end by themselves, in a closed loop, and gives them back by thread; `what` they do stands in front
/// of an error.
fn prepare<L: Load>(
    target: Target,
    settings: &Settings,
    progress: &mut Progress,
    what: &str,
    make: impl FnMut(usize) -> (usize, L),
) -> Result<Vec<L>, String> {
    let closed = Settings { rate: None, ..settings.clone() };
    let (loads, tally, _) = together(target, &closed, Until::Finished, progress, make)?;
    match tally.first_error {
        Some(error) => Err(format!("{what}: {error}")),
        None => Ok(loads),
    }
}

/// Measures loads that were prepared, one for each thread, in the threads' order. `links`: a thread's connections.
fn measure<L: Load>(
    target: Target,
    settings: &Settings,
    progress: &mut Progress,
    links: impl Fn(usize) -> usize,
    mut loads: impl Iterator<Item = L>,
) -> Result<(Tally, Measured), String> {
    let make = |thread| (links(thread), loads.next().expect("a load for each thread"));
    together(target, settings, settings.window(), progress, make).map(untyped)
}

fn untyped<L>((_, tally, measured): (Vec<L>, Tally, Measured)) -> (Tally, Measured) {
    (tally, measured)
}

/// Runs one load on each client thread; `make` gives a thread's number of connections and its load, asked for each
/// thread in order.
fn together<L: Load>(
    target: Target,
    settings: &Settings,
    until: Until,
    progress: &mut Progress,
    mut make: impl FnMut(usize) -> (usize, L),
) -> Result<(Vec<L>, Tally, Measured), String> {
    let shared = Shared::default();
    let jobs: Vec<_> = (0..settings.threads).map(|thread| (thread, make(thread))).collect();
    std::thread::scope(|scope| {
        let shared = &shared;
        let clients: Vec<_> = jobs
            .into_iter()
            .map(|(thread, (links, load))| {
                scope.spawn(move || {
                    if !settings.client_cpus.is_empty() {
                        let cpu = settings.client_cpus[thread % settings.client_cpus.len()];
                        sys::pin(&[cpu]).map_err(|error| format!("binding to CPU {cpu}: {error}"))?;
                    }
                    drive(target.address, links, settings.pace(thread), until, load, shared)
                })
            })
            .collect();
        let all_ended = || clients.iter().all(|client| client.is_finished());
        let measured = observe(target, shared, settings.threads, until, progress, all_ended);
        let mut loads = Vec::new();
        let mut total: Option<Tally> = None;
        let mut problem = None;
        for client in clients {
            match client.join() {
                Ok(Ok((load, tally))) => {
                    loads.push(load);
                    match &mut total {
                        Some(total) => total.add(tally),
                        None => total = Some(tally),
                    }
                }
                // The first is the cause; threads that gave up because of it come with less to say.
                Ok(Err(error)) => problem = problem.or(Some(error)),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        progress.clear();
        match (problem, total) {
            (None, Some(total)) => Ok((loads, total, measured?)),
            (problem, _) => Err(problem.unwrap_or_else(|| "no client thread ran".to_owned())),
        }
    })
}

/// Samples the server around the window while the clients work.
fn observe(
    target: Target,
    shared: &Shared,
    threads: usize,
    until: Until,
    progress: &mut Progress,
    all_ended: impl Fn() -> bool,
) -> Result<Measured, String> {
    let threads_wait = Duration::from_millis(2);
    match until {
        Until::Finished => {
            let before = target.usage()?;
            let busy = machine_busy_ns().unwrap_or(0);
            let begun = sys::now_ns();
            let mut shown = begun;
            while !all_ended() {
                std::thread::sleep(threads_wait);
                let now = sys::now_ns();
                if now - shown >= PROGRESS_EVERY.as_nanos() as u64 {
                    shown = now;
                    progress.show(shared.operations.load(Ordering::Relaxed), now - begun, None);
                }
            }
            let seconds = (sys::now_ns() - begun) as f64 / 1e9;
            let machine_busy_ns = machine_busy_ns().unwrap_or(0).saturating_sub(busy);
            Ok(Measured { seconds, machine_busy_ns, before, after: target.usage()? })
        }
        Until::Window { warmup_ns, window_ns } => {
            while shared.settled.load(Ordering::Relaxed) < threads {
                if shared.failed.load(Ordering::Relaxed) > 0 || all_ended() {
                    return Err("a client thread failed".to_owned());
                }
                std::thread::sleep(threads_wait);
            }
            let start = sys::now_ns() + 5_000_000;
            shared.start_ns.store(start, Ordering::Relaxed);
            sleep_until(start + warmup_ns);
            let before = target.usage()?;
            let busy = machine_busy_ns().unwrap_or(0);
            let from = sys::now_ns();
            let to = start + warmup_ns + window_ns;
            while sys::now_ns() < to && !all_ended() {
                sleep_until(to.min(sys::now_ns() + PROGRESS_EVERY.as_nanos() as u64));
                let now = sys::now_ns();
                progress.show(shared.operations.load(Ordering::Relaxed), now - from, Some(window_ns));
            }
            let after = target.usage()?;
            let machine_busy_ns = machine_busy_ns().unwrap_or(0).saturating_sub(busy);
            Ok(Measured { seconds: window_ns as f64 / 1e9, machine_busy_ns, before, after })
        }
    }
}

fn sleep_until(time_ns: u64) {
    sys::sleep(Duration::from_nanos(time_ns.saturating_sub(sys::now_ns())));
}

fn summarise(tally: Tally, measured: Measured) -> Sample {
    let operations = tally.completed;
    let per_operation = |value: f64| if operations == 0 { 0.0 } else { value / operations as f64 };
    let quantile = |q| tally.latencies.value_at_quantile(q) as f64 / 1000.0;
    let used = measured.before.zip(measured.after);
    let server_cpu = used.map(|(before, after)| after.cpu_ns - before.cpu_ns);
    let known_cpu = tally.client_cpu_ns + server_cpu.unwrap_or(0);
    let others_cpu = measured.machine_busy_ns.saturating_sub(known_cpu);
    Sample {
        operations,
        seconds: measured.seconds,
        per_second: operations as f64 / measured.seconds,
        p50_us: quantile(0.5),
        p99_us: quantile(0.99),
        p999_us: quantile(0.999),
        max_us: tally.latencies.max() as f64 / 1000.0,
        server_cpu_us: server_cpu.map(|cpu| per_operation(cpu as f64 / 1000.0)),
        server_busy: server_cpu.map(|cpu| cpu as f64 / 1e9 / measured.seconds),
        resident_bytes: used.map(|(_, after)| after.resident as f64),
        resident_anonymous_bytes: used.map(|(_, after)| after.resident_anonymous as f64),
        resident_file_bytes: used.map(|(_, after)| after.resident_file as f64),
        written_bytes: used.map(|(before, after)| after.written.saturating_sub(before.written) as f64),
        client_cpu_us: per_operation(tally.client_cpu_ns as f64 / 1000.0),
        client_busy: tally.busiest,
        // Without the server's pid its own work would count among the others'.
        others_busy: server_cpu.map_or(0.0, |_| others_cpu as f64 / 1e9 / measured.seconds),
        client_bound: tally.busiest > CLIENT_BOUND,
        errors: tally.errors,
        first_error: tally.first_error,
        ..Sample::default()
    }
}
