//! `sim crash`: enumerates on several threads, says how it goes, and gives the counts of each script.
//!
//! The work is cut into pieces, each a plan with a seed of its own. So what is found does not depend on the number of
//! threads, and each piece can be had again by itself.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base::Random;

use super::{Plan, Promises, Report, Script, here};
use crate::command::any_seed;

/// Images of one piece, at least: seconds of work.
const PIECE_IMAGES: u64 = 20_000;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only this script.
    #[arg(long, value_parser = script)]
    script: Option<Script>,
    /// How many images, over all scripts, each as its images cost; every run is tried whole.
    #[arg(long, default_value_t = 160_000)]
    images: u64,
    /// The first seed; drawn at random where absent.
    #[arg(long)]
    seed: Option<u64>,
    /// Only this operation, of the run of this very seed.
    #[arg(long, requires = "script", requires = "seed")]
    operation: Option<u64>,
    /// As many as there are cores where absent.
    #[arg(long)]
    threads: Option<usize>,
}

fn script(name: &str) -> Result<Script, String> {
    Script::of_name(name).ok_or_else(|| {
        let names: Vec<&str> = Script::ALL.into_iter().map(Script::name).collect();
        format!("there are {}", names.join(", "))
    })
}

/// What part of all images a script gets: more where one costs less.
fn share(script: Script) -> u64 {
    match script {
        Script::LogAppend | Script::SegmentRecycling | Script::Snapshot => 8,
        Script::Checkpoint | Script::Growth => 5,
        Script::FirstInitialisation | Script::Compaction | Script::Replica => 2,
    }
}

/// The pieces: of each script as many, and the scripts in turn.
fn pieces(arguments: &Arguments, seed: u64) -> Vec<Plan> {
    let plan = |script, seed, images| Plan {
        script,
        seed,
        images,
        operation: arguments.operation,
        promises: Promises::Kept,
    };
    if let (Some(_), Some(script)) = (arguments.operation, arguments.script) {
        return vec![plan(script, seed, 1)];
    }
    let scripts = match arguments.script {
        Some(script) => vec![script],
        None => Script::ALL.to_vec(),
    };
    let whole: u64 = scripts.iter().map(|script| share(*script)).sum();
    let mut pieces = Vec::new();
    for script in scripts {
        let mut left = (arguments.images * share(script)).div_ceil(whole);
        let mut seeds = Random::new(seed);
        let mut seed = seed;
        while left > 0 {
            let images = PIECE_IMAGES.min(left);
            pieces.push((left, plan(script, seed, images)));
            left -= images;
            // The first one is the seed's own; the others are short, to be typed.
            seed = seeds.next_u64() >> 32;
        }
    }
    // In turn, so that all are under way from the beginning.
    pieces.sort_by_key(|(left, piece)| std::cmp::Reverse(left / share(piece.script)));
    pieces.into_iter().map(|(_, piece)| piece).collect()
}

/// What all threads have done so far.
struct Sums {
    started: Instant,
    shown: Instant,
    wanted: u64,
    /// By script, in their order, with the time that its pieces took.
    scripts: Vec<(Report, Duration)>,
}

impl Sums {
    fn add(&mut self, script: Script, report: &Report, took: Duration) {
        let at = Script::ALL.iter().position(|other| *other == script).expect("all are there");
        self.scripts[at].0 += report;
        self.scripts[at].1 += took;
        let between = if std::io::stdout().is_terminal() { 1 } else { 30 };
        if self.shown.elapsed() >= Duration::from_secs(between) {
            self.shown = Instant::now();
            self.progress();
        }
    }

    fn total(&self) -> Report {
        let mut total = Report::default();
        self.scripts.iter().for_each(|(report, _)| total += report);
        total
    }

    fn progress(&self) {
        let images = self.total().images;
        let rate = images as f64 / self.started.elapsed().as_secs_f64();
        let line = format!("{images} of {} images, {rate:.0} a second", self.wanted);
        if std::io::stdout().is_terminal() {
            print!("\r{line}\x1b[K");
            // Where nobody looks, nothing is lost.
            let _ = std::io::stdout().flush();
        } else {
            println!("{line}");
        }
    }
}

/// 0 when every image kept the laws, 1 when one broke them.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    // A program that ends at a panic says first how to come back to it.
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if let Some(again) = here() {
            eprintln!("again with: {again}");
        }
        before(info);
    }));
    let seed = arguments.seed.unwrap_or_else(any_seed);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = arguments.threads.unwrap_or(cores).max(1);
    let pieces = pieces(arguments, seed);
    println!("seed {seed}, {} pieces on {threads} threads", pieces.len());
    let started = Instant::now();
    let sums = Mutex::new(Sums {
        started,
        shown: started,
        wanted: pieces.iter().map(|piece| piece.images).sum(),
        scripts: vec![(Report::default(), Duration::ZERO); Script::ALL.len()],
    });
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
                    let began = Instant::now();
                    let report = piece.run();
                    if report.broken.is_some() {
                        stop.store(true, Ordering::Relaxed);
                    }
                    let mut sums = sums.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    sums.add(piece.script, &report, began.elapsed());
                }
            });
        }
    });
    let sums = sums.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    conclude(&sums)
}

fn conclude(sums: &Sums) -> ExitCode {
    if std::io::stdout().is_terminal() {
        print!("\r\x1b[K");
    }
    for (script, (report, took)) in Script::ALL.iter().zip(&sums.scripts) {
        if report.moments > 0 {
            println!("{script}: {report}; {:.1} s", took.as_secs_f64());
            println!("    met: {}", report.met);
        }
    }
    let total = sums.total();
    println!("all: {total}; {:.1} s", sums.started.elapsed().as_secs_f64());
    for broken in sums.scripts.iter().filter_map(|(report, _)| report.broken.as_ref()) {
        println!("BROKEN: {broken}");
    }
    if total.broken.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
