//! `bench`: the load generator, and the comparison of Mainstay with etcd.
//!
//! Standard output carries results, standard error progress. The exit code is 0 when everything ran, 1 when not, 2
//! when a comparison missed an accepted bar. docs/BENCHMARKS.md says how it measures.

mod compare;
mod drive;
mod http2;
mod keys;
mod load;
mod message;
mod probe;
mod progress;
mod report;
mod run;
mod schedule;
mod server;
mod svg;
mod sys;
mod table;

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use compare::{Overrides, Plan};
use load::Workload;
use progress::Progress;
use report::{Outcome, Sample};
use run::Target;
use server::{Server, Setting, data_parent};

#[derive(Parser)]
#[command(name = "bench", about = "Loads an etcd-compatible server, or compares Mainstay with etcd")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run one workload against a server.
    Run(RunArgs),
    /// Start both servers, run the workloads on both in turn, and print one table.
    Compare(CompareArgs),
    /// List the workloads.
    List,
}

#[derive(Args)]
struct RunArgs {
    /// A workload of `bench list`.
    workload: String,
    /// The server's client address.
    #[arg(long, default_value = "127.0.0.1:2379", conflicts_with = "start")]
    endpoint: String,
    /// Start this binary on a fresh data directory, and stop it at the end.
    #[arg(long, value_name = "PATH")]
    start: Option<PathBuf>,
    /// The process of the server at --endpoint, to measure what it costs.
    #[arg(long)]
    pid: Option<u32>,
    /// The keys are in the store: don't write them first.
    #[arg(long)]
    no_fill: bool,
    /// Length of the measurement, seconds.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Write the result here, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    shape: Shape,
}

#[derive(Args)]
struct CompareArgs {
    /// Mainstay's binary; by default the `mainstay` beside this one, or on PATH.
    #[arg(long, value_name = "PATH")]
    ours: Option<PathBuf>,
    /// etcd's binary; by default the `etcd` on PATH.
    #[arg(long, value_name = "PATH")]
    etcd: Option<PathBuf>,
    /// Only these workloads, by comma.
    #[arg(long, value_delimiter = ',')]
    workloads: Vec<String>,
    /// How often each workload runs on each server; medians are shown.
    #[arg(long)]
    rounds: Option<usize>,
    /// One round of short runs over fewer keys: an impression, in under three minutes.
    #[arg(long)]
    quick: bool,
    /// Length of each measurement, seconds.
    #[arg(long)]
    seconds: Option<f64>,
    /// Write everything here, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the ratios here.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    shape: Shape,
}

#[derive(Args)]
struct Shape {
    /// Connections, instead of the workload's own number.
    #[arg(long)]
    connections: Option<usize>,
    /// Streams (calls in flight) on each connection.
    #[arg(long)]
    streams: Option<usize>,
    /// Open loop: so many operations a second, whatever the server does.
    #[arg(long)]
    rate: Option<f64>,
    /// Keys in the store.
    #[arg(long)]
    keys: Option<u64>,
    #[arg(long, default_value_t = 64)]
    key_bytes: usize,
    #[arg(long)]
    value_bytes: Option<usize>,
    /// Before the measurement, seconds.
    #[arg(long)]
    warmup: Option<f64>,
    /// Keys, values and arrivals follow from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Threads that make load; one is enough for most servers.
    #[arg(long, default_value_t = 1)]
    client_threads: usize,
    /// CPUs for the server, such as 0-2,5; by default those that the client leaves.
    #[arg(long, value_parser = cpu_list)]
    server_cpus: Option<CpuList>,
    /// CPUs for the client; by default the last, one for each thread.
    #[arg(long, value_parser = cpu_list)]
    client_cpus: Option<CpuList>,
    /// Let everything run anywhere.
    #[arg(long)]
    no_pin: bool,
    /// Where data directories are made; by default a place for temporary files that is on a disk.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// A flag for every started server, besides the usual ones. May be given several times.
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    server_flag: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct CpuList(Vec<usize>);

fn cpu_list(text: &str) -> Result<CpuList, String> {
    let wrong = |_| format!("{text:?} is no list of CPUs such as 0-2,5");
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to): (usize, usize) = (from.parse().map_err(wrong)?, to.parse().map_err(wrong)?);
        cpus.extend(from..=to);
    }
    if cpus.is_empty() { Err(format!("{text:?} names no CPU")) } else { Ok(CpuList(cpus)) }
}

impl Shape {
    /// CPUs of the server and of the client: apart from each other where there are two.
    fn cpus(&self) -> (Vec<usize>, Vec<usize>) {
        if self.no_pin {
            return (Vec::new(), Vec::new());
        }
        let all = sys::cpus();
        let (mut server, mut client) = (Vec::new(), Vec::new());
        if all.len() > self.client_threads {
            let (for_server, for_client) = all.split_at(all.len() - self.client_threads);
            (server, client) = (for_server.to_vec(), for_client.to_vec());
        }
        let given = |list: &Option<CpuList>, otherwise| list.clone().map_or(otherwise, |list| list.0);
        (given(&self.server_cpus, server), given(&self.client_cpus, client))
    }

    fn overrides(&self, window: f64, warmup: f64, client_cpus: Vec<usize>) -> Result<Overrides, String> {
        let seconds = |name: &str, value: f64| {
            Duration::try_from_secs_f64(value).map_err(|_| format!("--{name} {value} is no length of time"))
        };
        Ok(Overrides {
            connections: self.connections,
            streams: self.streams,
            rate: self.rate,
            keys: self.keys,
            value_bytes: self.value_bytes,
            key_bytes: self.key_bytes,
            warmup: seconds("warmup", self.warmup.unwrap_or(warmup))?,
            window: seconds("seconds", window)?,
            seed: self.seed,
            threads: self.client_threads,
            client_cpus,
        })
    }

    fn setting(&self, cpus: Vec<usize>, progress: &Progress) -> Result<Setting, String> {
        let (dir, warning) = data_parent(self.dir.as_deref())?;
        if let Some(warning) = warning {
            progress.say(&format!("warning: {warning}"));
        }
        Ok(Setting { dir, cpus, extra: self.server_flag.clone() })
    }
}

fn main() -> ExitCode {
    sys::raise_file_limit();
    let result = match Cli::parse().command {
        Command::List => {
            list();
            Ok(ExitCode::SUCCESS)
        }
        Command::Run(args) => run_one(&args),
        Command::Compare(args) => run_comparison(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("bench: {error}");
        ExitCode::FAILURE
    })
}

fn list() {
    let mut table = table::Table::new(&[
        "workload",
        "what it does",
        "connections",
        "streams",
        "rate",
        "keys",
        "operation",
    ]);
    for workload in Workload::ALL {
        let spec = workload.spec();
        table.push(vec![
            spec.name.to_owned(),
            spec.about.to_owned(),
            spec.connections.to_string(),
            spec.streams.to_string(),
            spec.rate.map_or("closed loop".to_owned(), |rate| format!("{rate:.0}/s")),
            spec.keys.to_string(),
            spec.operation.to_owned(),
        ]);
    }
    print!("{}", table.render());
}

fn workload(name: &str) -> Result<Workload, String> {
    Workload::named(name).ok_or_else(|| {
        let names: Vec<&str> = Workload::ALL.iter().map(|workload| workload.name()).collect();
        format!("there is no workload {name:?}; there are {}", names.join(", "))
    })
}

fn run_one(args: &RunArgs) -> Result<ExitCode, String> {
    sys::catch_interrupts();
    let workload = workload(&args.workload)?;
    let mut progress = Progress::new();
    let (server_cpus, mut client_cpus) = args.shape.cpus();
    if args.start.is_none() && args.shape.client_cpus.is_none() {
        // Where that server runs is not ours to know.
        client_cpus.clear();
    }
    let overrides = args.shape.overrides(args.seconds, 1.0, client_cpus)?;
    let settings = overrides.settings(workload, 1);
    settings.check(workload)?;
    progress.begin(workload.name().to_owned());
    let server = match &args.start {
        Some(binary) => Some(Server::start(binary, &args.shape.setting(server_cpus, &progress)?)?),
        None => None,
    };
    let target = match &server {
        Some(server) => Target { address: server.address(), pid: Some(server.pid()) },
        None => Target { address: resolve(&args.endpoint)?, pid: args.pid },
    };
    if workload.needs_keys() && !args.no_fill {
        run::fill(target, &settings, &mut progress)?;
    }
    progress.phase("");
    let sample = run::run(workload, target, &settings, &mut progress)?;
    let sample = Sample { rate: settings.rate, ..sample };
    print!("{}", table::single(workload.name(), &sample));
    write_json(args.json.as_deref(), &sample)?;
    Ok(if sample.errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_comparison(args: &CompareArgs) -> Result<ExitCode, String> {
    sys::catch_interrupts();
    let mut progress = Progress::new();
    let etcd = match &args.etcd {
        Some(path) => path.clone(),
        None => on_path("etcd").ok_or(
            "there is no etcd to compare with: none was given with --etcd, and there is none on PATH. \
             etcd's releases have the binary; give its path with --etcd",
        )?,
    };
    let beside =
        std::env::current_exe().ok().map(|own| own.with_file_name("mainstay")).filter(|path| path.is_file());
    let ours = args.ours.clone().or(beside).or_else(|| on_path("mainstay")).ok_or(
        "there is no Mainstay to compare: none was given with --ours, none lies beside this binary, and there is \
         none on PATH. Build it with `cargo build --release`",
    )?;
    for path in [&etcd, &ours] {
        if !path.is_file() {
            return Err(format!("{} is not a file", path.display()));
        }
    }
    let workloads = match &args.workloads[..] {
        [] => Workload::ALL.to_vec(),
        names => names.iter().map(|name| workload(name)).collect::<Result<_, _>>()?,
    };
    let (server_cpus, client_cpus) = args.shape.cpus();
    let (window, warmup) = if args.quick { (2.0, 0.5) } else { (5.0, 1.5) };
    let rounds = args.rounds.unwrap_or(if args.quick { 1 } else { 3 });
    if rounds == 0 {
        return Err("at least one round is needed".to_owned());
    }
    let plan = Plan {
        ours,
        etcd,
        workloads,
        rounds,
        keys_divisor: if args.quick { 5 } else { 1 },
        overrides: args.shape.overrides(args.seconds.unwrap_or(window), warmup, client_cpus)?,
        setting: args.shape.setting(server_cpus, &progress)?,
    };
    let report = compare::compare(&plan, &mut progress)?;
    print!("{}\n{}", table::comparison(&report), table::verdicts(&report.verdicts));
    write_json(args.json.as_deref(), &report)?;
    if let Some(path) = &args.svg {
        std::fs::write(path, svg::chart(&report)).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let missed = report.verdicts.iter().any(|verdict| verdict.outcome == Outcome::Missed);
    let wrong = |side: &report::Side| {
        side.failure.is_some() || side.median.as_ref().is_some_and(|median| median.errors > 0)
    };
    let failed = report.rows.iter().any(|row| wrong(&row.ours) || wrong(&row.etcd));
    Ok(match (failed, missed) {
        (true, _) => ExitCode::FAILURE,
        (false, true) => ExitCode::from(2),
        (false, false) => ExitCode::SUCCESS,
    })
}

fn resolve(endpoint: &str) -> Result<SocketAddr, String> {
    let plain = endpoint.strip_prefix("http://").unwrap_or(endpoint);
    let mut found = plain.to_socket_addrs().map_err(|error| format!("--endpoint {endpoint}: {error}"))?;
    found.next().ok_or_else(|| format!("--endpoint {endpoint}: no such address"))
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

fn write_json(path: Option<&Path>, value: &impl serde::Serialize) -> Result<(), String> {
    let Some(path) = path else { return Ok(()) };
    let mut text = serde_json::to_string_pretty(value).map_err(|error| format!("JSON: {error}"))?;
    text.push('\n');
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn cpu_lists_have_numbers_and_ranges() {
        assert_eq!(cpu_list("0-2,5"), Ok(CpuList(vec![0, 1, 2, 5])));
        assert_eq!(cpu_list("3"), Ok(CpuList(vec![3])));
        for wrong in ["", "a", "1-", "5-2", "1;2"] {
            assert!(cpu_list(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn endpoints_may_have_a_scheme() {
        assert_eq!(resolve("http://127.0.0.1:2379").unwrap(), resolve("127.0.0.1:2379").unwrap());
        assert!(resolve("no port").is_err());
    }
}
