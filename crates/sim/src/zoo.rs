//! The bug zoo: every mistake of `base::bug` is made again, and the seeds must find it.
//!
//! A bug is found by a seed when the run ends with a finding that the bug explains: each row of [`TABLE`] names its
//! [`Sign`]s, and a finding of any other kind is *strange*, which fails the zoo as much as a bug that nobody finds. It
//! counts as found when [`FINDERS`] of its seeds find it, so that none is found by the luck of one; and the seeds that
//! were tried must find nothing without it.
//!
//! Which seeds, and what they are bent towards, stands in [`TABLE`] too. Seeds are tried from 1 on, and no more than are
//! needed; the number in the table is the bound. What is a matter of memory order, which one thread cannot show, is found
//! by models of threads: their names take the place of seeds, and loom runs them in a process of its own.
//!
//! The runs need panics that unwind, at the speed of a release: that is the profile `sim`.

use std::cell::RefCell;
use std::collections::HashSet;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use base::bug::{self, Bug};

use crate::check::Rule;
use crate::crash::{self, Script};
use crate::world;
use crate::world::profile::Focus;

mod table;

pub use table::TABLE;

/// So many seeds must find a bug.
pub const FINDERS: usize = 3;

/// Who finds a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Finder {
    /// Seeds of the world, bent towards something.
    World(Focus),
    /// Runs of a script, each crashed at every operation.
    Crashes(Script),
    /// Models of threads of `mainstay-tree`, which loom runs: the n-th is seed n.
    Models(&'static [&'static str]),
}

/// How a bug may show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// A rule of the checkers.
    Rule(Rule),
    /// A rule of the world's own, and words of what it says.
    World(&'static str, &'static str),
    /// An assertion of the product, or of the world's clients, in a file whose path ends so.
    Assertion(&'static str),
    /// A law of the crash scripts, or what a model says, by words of it.
    Words(&'static str),
}

/// One bug, and what must find it.
#[derive(Clone, Copy, Debug)]
pub struct Exhibit {
    pub bug: Bug,
    pub finder: Finder,
    /// Seeds 1 to this are tried.
    pub seeds: u64,
    /// What it may be found by.
    pub signs: &'static [Sign],
}

/// What a seed came upon.
#[derive(Clone, Debug)]
struct Find {
    step: u64,
    /// The checkers' rule or the world's; empty for a law in words.
    rule: String,
    text: String,
    /// Where a panic began, if it was one.
    place: Option<(String, u32)>,
}

impl Find {
    fn has(&self, sign: Sign) -> bool {
        match (sign, &self.place) {
            (Sign::Assertion(file), Some((place, _))) => place.ends_with(file),
            (Sign::Assertion(_), None) => false,
            (Sign::Words(words), None) => self.text.contains(words),
            (Sign::Rule(rule), None) => {
                let name = format!("{rule:?}");
                self.rule == name
                    || (self.rule.is_empty() && self.text.starts_with(&format!("{name} at step")))
            }
            (Sign::World(rule, words), None) => self.rule == rule && self.text.contains(words),
            (_, Some(_)) => false,
        }
    }
}

impl std::fmt::Display for Find {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.place {
            Some((file, line)) => write!(f, "an assertion in {file}:{line}: {}", self.text),
            None if self.rule.is_empty() => f.write_str(&self.text),
            None => write!(f, "{}: {}", self.rule, self.text),
        }
    }
}

thread_local! {
    /// Where this thread panicked last: file and line.
    static PANICKED: RefCell<Option<(String, u32)>> = const { RefCell::new(None) };
}

impl Finder {
    /// Runs one seed, with a bug or without: what it found.
    fn run(self, seed: u64, bug: Option<Bug>) -> Option<Find> {
        PANICKED.set(None);
        match self {
            Finder::World(focus) => {
                let outcome = world::run(seed, world::Options { print: false, hash: false, focus, bug });
                let failure = outcome.failure?;
                let place = PANICKED.take().filter(|_| failure.rule == "Panic");
                Some(Find { step: outcome.steps, rule: failure.rule, text: failure.text, place })
            }
            Finder::Crashes(script) => {
                bug::inject(bug);
                // So few images are one run, tried whole.
                let ended = catch_unwind(|| crash::enumerate(script, 1, seed));
                bug::inject(None);
                let (step, text, panicked) = match ended {
                    Ok(report) => {
                        let broken = report.broken?;
                        let panicked = broken.law.starts_with("a panic");
                        (broken.operation.unwrap_or(0), broken.law, panicked)
                    }
                    Err(_) => (0, String::new(), true),
                };
                let place = PANICKED.take().filter(|_| panicked);
                Some(Find { step, rule: String::new(), text, place })
            }
            Finder::Models(models) => run_model(models[(seed - 1) as usize], bug),
        }
    }
}

/// One model in a process of its own, compiled for loom into a folder of its own.
fn run_model(model: &str, bug: Option<Bug>) -> Option<Find> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(root)
        .env("RUSTFLAGS", "--cfg loom")
        .env("CARGO_TARGET_DIR", target.join("loom"))
        .env("ZOO_BUG", bug.map_or("", Bug::name))
        .args(["test", "--release", "-p", "mainstay-tree", "--features", "zoo", "--lib", "--"])
        .args(["--exact", model]);
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => {
            let text = format!("cargo does not run: {error}");
            return Some(Find { step: 0, rule: "Cargo".to_owned(), text, place: None });
        }
    };
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if output.status.success() && said.contains("1 passed") {
        return None;
    }
    let ran = said.contains("running 1 test");
    // From the first panic on, when it is the model's.
    let text = said.find("panicked at").filter(|_| ran).map_or(&*said, |at| &said[at..]).to_owned();
    Some(Find { step: 0, rule: if ran { "" } else { "Cargo" }.to_owned(), text, place: None })
}

impl std::fmt::Display for Finder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Finder::World(focus) => f.write_str(focus.name()),
            Finder::Crashes(script) => write!(f, "crashes of {script}"),
            Finder::Models(_) => f.write_str("models of threads"),
        }
    }
}

/// A seed that found a bug.
#[derive(Clone, Debug)]
pub struct Found {
    pub seed: u64,
    /// The step of the world at which the run ended.
    pub step: u64,
    pub finding: String,
}

/// What came of one bug.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub exhibit: Exhibit,
    pub tried: u64,
    pub found: Vec<Found>,
    /// What was found and is not among the bug's signs.
    pub strange: Vec<Found>,
    pub seconds: f64,
}

impl Verdict {
    /// By enough seeds, and by nothing that the bug does not explain.
    pub fn is_found(&self) -> bool {
        self.found.len() >= FINDERS && self.strange.is_empty()
    }
}

/// Tries the seeds of one bug, until enough have found it.
pub fn look(exhibit: Exhibit, enough: usize) -> Verdict {
    let started = Instant::now();
    let mut verdict = Verdict { exhibit, tried: 0, found: Vec::new(), strange: Vec::new(), seconds: 0.0 };
    for seed in 1..=exhibit.seeds {
        verdict.tried = seed;
        if let Some(find) = exhibit.finder.run(seed, Some(exhibit.bug)) {
            let found = Found { seed, step: find.step, finding: find.to_string() };
            let is_sign = exhibit.signs.iter().any(|&sign| find.has(sign));
            if is_sign { &mut verdict.found } else { &mut verdict.strange }.push(found);
        }
        if verdict.found.len() >= enough {
            break;
        }
    }
    verdict.seconds = started.elapsed().as_secs_f64();
    verdict
}

/// A seed that finds something though no bug was injected.
#[derive(Clone, Debug)]
pub struct FalseAlarm {
    pub finder: Finder,
    pub seed: u64,
    pub finding: String,
}

/// Does the work of a list on some threads; the results in the order of the list. Panics stay quiet meanwhile, but for
/// where they began: most bugs end in one.
pub fn on_threads<T: Sync, R: Send>(threads: usize, list: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|info| {
        PANICKED.set(info.location().map(|at| (at.file().to_owned(), at.line())));
    }));
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while let Some((at, item)) = take(&next, list) {
                    let result = work(item);
                    results.lock().unwrap_or_else(PoisonError::into_inner).push((at, result));
                }
            });
        }
    });
    std::panic::set_hook(hook);
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|&(at, _)| at);
    results.into_iter().map(|(_, result)| result).collect()
}

fn take<'l, T>(next: &AtomicUsize, list: &'l [T]) -> Option<(usize, &'l T)> {
    let at = next.fetch_add(1, Ordering::Relaxed);
    list.get(at).map(|item| (at, item))
}

/// The seeds that were tried, without any bug.
pub fn without_bugs(threads: usize, verdicts: &[Verdict]) -> (usize, Vec<FalseAlarm>) {
    let mut tried = HashSet::new();
    for verdict in verdicts {
        tried.extend((1..=verdict.tried).map(|seed| (verdict.exhibit.finder, seed)));
    }
    let mut tried: Vec<(Finder, u64)> = tried.into_iter().collect();
    tried.sort_by_key(|(finder, seed)| (finder.to_string(), *seed));
    let findings = on_threads(threads, &tried, |&(finder, seed)| finder.run(seed, None));
    let alarms = tried.iter().zip(findings).filter_map(|(&(finder, seed), finding)| {
        finding.map(|finding| FalseAlarm { finder, seed, finding: finding.to_string() })
    });
    (tried.len(), alarms.collect())
}

/// `sim zoo`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// This one alone.
    #[arg(long, value_parser = named)]
    bug: Option<Bug>,
    /// Try so many seeds at most, instead of what the table says.
    #[arg(long)]
    seeds: Option<u64>,
    /// Try all seeds, also when enough have found the bug.
    #[arg(long)]
    survey: bool,
    /// Bend the seeds towards this, instead of what the table says.
    #[arg(long, value_parser = crate::command::focus)]
    towards: Option<Focus>,
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn named(name: &str) -> Result<Bug, String> {
    Bug::parse(name).ok_or_else(|| {
        format!("one of {}", bug::ALL.iter().map(|bug| bug.name()).collect::<Vec<_>>().join(", "))
    })
}

/// The program: 0 when every bug is found, and nothing without one.
pub(crate) fn main(arguments: &Arguments) -> ExitCode {
    let started = Instant::now();
    let mut exhibits: Vec<Exhibit> =
        TABLE.iter().copied().filter(|exhibit| arguments.bug.is_none_or(|bug| bug == exhibit.bug)).collect();
    for exhibit in &mut exhibits {
        exhibit.seeds = arguments.seeds.unwrap_or(exhibit.seeds);
        if let (Finder::World(_), Some(focus)) = (exhibit.finder, arguments.towards) {
            exhibit.finder = Finder::World(focus);
        }
    }
    let enough = if arguments.survey { usize::MAX } else { FINDERS };
    let verdicts = on_threads(arguments.threads, &exhibits, |&exhibit| {
        let verdict = look(exhibit, enough);
        println!("{}", text(&verdict));
        verdict
    });
    let (seeds, alarms) = without_bugs(arguments.threads, &verdicts);
    for alarm in &alarms {
        println!("NO BUG: seed {} ({}): {}", alarm.seed, alarm.finder, short(&alarm.finding));
    }
    let missed: Vec<&str> = verdicts
        .iter()
        .filter(|verdict| !verdict.is_found())
        .map(|verdict| verdict.exhibit.bug.name())
        .collect();
    println!(
        "{} bugs, {} not found {missed:?}; {seeds} seeds without a bug, {} of them with a finding; {:.1} s",
        verdicts.len(),
        missed.len(),
        alarms.len(),
        started.elapsed().as_secs_f64()
    );
    if missed.is_empty() && alarms.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A verdict in lines: bug, seeds, and the step that failed in each.
pub fn text(verdict: &Verdict) -> String {
    let Exhibit { bug, finder, seeds, .. } = verdict.exhibit;
    let mut text = format!(
        "{}{}: {} of {} seeds ({finder}; at most {seeds}), {:.1} s:{}",
        if verdict.is_found() { "" } else { "NOT FOUND " },
        bug.name(),
        verdict.found.len(),
        verdict.tried,
        verdict.seconds,
        bug.what()
    );
    for found in &verdict.found {
        text += &format!("\n    seed {}, step {}: {}", found.seed, found.step, short(&found.finding));
    }
    for strange in &verdict.strange {
        text += &format!(
            "\n    STRANGE seed {}, step {}: {}",
            strange.seed,
            strange.step,
            short(&strange.finding)
        );
    }
    text
}

/// A line's worth of it.
fn short(text: &str) -> String {
    let line: String = text.chars().map(|c| if c == '\n' { ' ' } else { c }).take(200).collect();
    line
}
