//! The command line: runs seeds, each on one thread, says how it goes, and what was found.
//!
//! The only place of this crate that looks at a real clock: to compare it with the simulated one.

use std::cell::Cell;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};

use crate::crash;
use crate::world::coverage::Coverage;
use crate::world::profile::Focus;
use crate::world::{self, Outcome};

/// Of a run of so many seeds, at most, each is shown with its hash.
const LISTED: u64 = 20;

/// Runs seeds of the simulated world.
#[derive(Debug, Parser)]
#[command(name = "sim", about = "Runs seeds of the simulated world and judges what its clients saw")]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The first seed; drawn at random where absent.
    #[arg(long)]
    seed: Option<u64>,
    /// How many seeds, from the first on.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Print every step of each seed, and its history.
    #[arg(long)]
    trace: bool,
    /// Go on after a finding.
    #[arg(long)]
    keep_going: bool,
    /// Print what the seeds have exercised.
    #[arg(long)]
    coverage: bool,
    /// Bend the seeds towards something: crash, watch, lease, history, checkpoint, quota, disk, flood, memory; or mixed,
    /// each towards one of these or none.
    #[arg(long, value_parser = bend, default_value = "none")]
    focus: Bend,
    /// As many as there are cores where absent; every seed runs on one.
    #[arg(long)]
    threads: Option<usize>,
}

pub(crate) fn focus(name: &str) -> Result<Focus, String> {
    Focus::parse(name).ok_or_else(|| format!("one of {:?}", Focus::ALL.map(Focus::name)))
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Crashes scripted workloads at each of their operations, and judges every image.
    Crash(crash::command::Arguments),
    /// Makes mistakes again, one by one, and sees that the seeds find each.
    #[cfg(feature = "zoo")]
    Zoo(crate::zoo::Arguments),
}

/// A seed nobody chose.
pub(crate) fn any_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // Differs from process to process; short, to be typed.
    std::hash::RandomState::new().build_hasher().finish() >> 32
}

/// Sums over seeds.
#[derive(Default)]
struct Sums {
    seeds: u64,
    findings: u64,
    simulated: Duration,
    steps: u64,
    operations: u64,
    coverage: Coverage,
}

impl Sums {
    fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.findings += u64::from(outcome.failure.is_some());
        self.simulated += Duration::from_micros(outcome.simulated_us);
        self.steps += outcome.steps;
        self.operations += outcome.operations;
        self.coverage += &outcome.coverage;
    }
}

/// What the seeds of a run are bent towards.
#[derive(Clone, Copy, Debug)]
enum Bend {
    One(Focus),
    /// As [`Focus::of_seed`] says.
    Mixed,
}

impl Bend {
    fn of(self, seed: u64) -> Focus {
        match self {
            Bend::One(focus) => focus,
            Bend::Mixed => Focus::of_seed(seed),
        }
    }
}

fn bend(name: &str) -> Result<Bend, String> {
    if name == "mixed" {
        return Ok(Bend::Mixed);
    }
    focus(name).map(Bend::One).map_err(|names| format!("{names}, or \"mixed\""))
}

thread_local! {
    static HERE: Cell<Option<(u64, Focus)>> = const { Cell::new(None) };
}

/// Where a panic ends the program, it says first how to come back to it.
fn say_where_at_a_panic() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if let Some((seed, focus)) = HERE.get() {
            eprintln!("again with: sim --seed {seed} --focus {} --trace", focus.name());
        }
        before(info);
    }));
}

/// What all threads have done so far.
struct Run {
    started: Instant,
    shown: Instant,
    sums: Sums,
}

/// The program: 0 when nothing was found, 1 when something was.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match &arguments.command {
        Some(Command::Crash(arguments)) => return crash::command::run(arguments),
        #[cfg(feature = "zoo")]
        Some(Command::Zoo(arguments)) => return crate::zoo::main(arguments),
        None => {}
    }
    say_where_at_a_panic();
    if arguments.keep_going && cfg!(panic = "abort") {
        eprintln!(
            "an assertion of the product ends this build; --profile sim makes it a finding, and goes on"
        );
    }
    let first = arguments.seed.unwrap_or_else(any_seed);
    let end = first.saturating_add(arguments.seeds);
    println!("seeds {first} to {}", end.saturating_sub(1));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    // One after the other where their lines would mix.
    let threads = if arguments.trace { 1 } else { arguments.threads.unwrap_or(cores).max(1) };
    let started = Instant::now();
    let run = Mutex::new(Run { started, shown: started, sums: Sums::default() });
    let (next, stop) = (AtomicU64::new(first), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    let focus = arguments.focus.of(seed);
                    HERE.set(Some((seed, focus)));
                    let hash = arguments.seeds <= LISTED;
                    let options = world::Options { hash, ..world::Options::new(arguments.trace, focus) };
                    let outcome = world::run(seed, options);
                    HERE.set(None);
                    stop.fetch_or(outcome.failure.is_some() && !arguments.keep_going, Ordering::Relaxed);
                    let mut run = run.lock().unwrap_or_else(PoisonError::into_inner);
                    run.ended(&arguments, &outcome, focus);
                }
            });
        }
    });
    clear_progress();
    let sums = run.into_inner().unwrap_or_else(PoisonError::into_inner).sums;
    let took = started.elapsed();
    println!(
        "{} seeds in {:.1} s: {} findings; {:.1} simulated hours, {:.0} to 1; {} operations, {} steps",
        sums.seeds,
        took.as_secs_f64(),
        sums.findings,
        sums.simulated.as_secs_f64() / 3600.0,
        sums.simulated.as_secs_f64() / took.as_secs_f64(),
        sums.operations,
        sums.steps
    );
    if arguments.coverage {
        print!("{}", sums.coverage);
    }
    if sums.findings > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

impl Run {
    fn ended(&mut self, arguments: &Arguments, outcome: &Outcome, focus: Focus) {
        self.sums.add(outcome);
        if outcome.failure.is_some() {
            clear_progress();
            report(outcome, focus);
        } else if arguments.seeds <= LISTED {
            println!(
                "seed {}: hash {:016x}, {} operations in {} simulated seconds",
                outcome.seed,
                outcome.hash,
                outcome.operations,
                outcome.simulated_us / 1_000_000
            );
        }
        let between_s = if std::io::stdout().is_terminal() { 1 } else { 30 };
        if self.shown.elapsed() >= Duration::from_secs(between_s) {
            self.shown = Instant::now();
            progress(&self.sums, arguments.seeds, self.started.elapsed());
        }
    }
}

fn progress(sums: &Sums, seeds: u64, took: Duration) {
    let line = format!(
        "{} of {seeds} seeds, {} findings, {:.1} seeds a second, {:.0} to 1",
        sums.seeds,
        sums.findings,
        sums.seeds as f64 / took.as_secs_f64(),
        sums.simulated.as_secs_f64() / took.as_secs_f64()
    );
    if std::io::stdout().is_terminal() {
        print!("\r{line}\x1b[K");
        // Where nobody looks, nothing is lost.
        let _ = std::io::stdout().flush();
    } else {
        println!("{line}");
    }
}

fn clear_progress() {
    if std::io::stdout().is_terminal() {
        print!("\r\x1b[K");
    }
}

fn report(outcome: &Outcome, focus: Focus) {
    let Some(failure) = &outcome.failure else { return };
    println!("seed {} FAILED at step {}, {} us:", outcome.seed, outcome.steps, outcome.simulated_us);
    for line in &outcome.tail {
        println!("    {line}");
    }
    println!("seed {}: {failure}", outcome.seed);
    println!(
        "seed {}: hash {:016x}; again with: sim --seed {} --focus {} --trace",
        outcome.seed,
        outcome.hash,
        outcome.seed,
        focus.name()
    );
}
