//! The bug zoo: every mistake of `base::bug` is made again, and the seeds must find it.
//!
//! A bug is found by a seed when the run ends with a finding: a checker's, the world's own, or an assertion of the
//! product. It counts as found when [`FINDERS`] of its seeds find it, so that none is found by the luck of one; and the
//! seeds that were tried must find nothing without it.
//!
//! Which seeds, and what they are bent towards, stands in [`TABLE`]. Seeds are tried from 1 on, and no more than are
//! needed; the number in the table is the bound.
//!
//! The runs need panics that unwind, at the speed of a release: that is the profile `sim`.

use std::collections::HashSet;
use std::panic::catch_unwind;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use base::bug::{self, Bug};

use crate::crash::{self, Script};
use crate::world;
use crate::world::profile::Focus;

/// So many seeds must find a bug.
pub const FINDERS: usize = 3;

/// Who finds a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Finder {
    /// Seeds of the world, bent towards something.
    World(Focus),
    /// Runs of a script, each crashed at every operation.
    Crashes(Script),
    /// Nobody here: the world has one thread, and the mistake is one of memory order. A model checker's part.
    MemoryOrder,
}

/// One bug, and what must find it.
#[derive(Clone, Copy, Debug)]
pub struct Exhibit {
    pub bug: Bug,
    pub finder: Finder,
    /// Seeds 1 to this are tried.
    pub seeds: u64,
}

impl Finder {
    /// Runs one seed, with a bug or without; the step that failed, and how.
    fn run(self, seed: u64, bug: Option<Bug>) -> Option<(u64, String)> {
        match self {
            Finder::World(focus) => {
                let outcome = world::run(seed, world::Options { print: false, focus, bug });
                outcome.failure.map(|failure| (outcome.steps, failure.to_string()))
            }
            Finder::Crashes(script) => {
                bug::inject(bug);
                // So few images are one run, tried whole.
                let ended = catch_unwind(|| crash::enumerate(script, 1, seed));
                bug::inject(None);
                match ended {
                    Ok(report) => report.broken.map(|broken| (broken.operation.unwrap_or(0), broken.law)),
                    Err(_) => Some((0, "an assertion of the product".to_owned())),
                }
            }
            Finder::MemoryOrder => None,
        }
    }
}

impl std::fmt::Display for Finder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Finder::World(focus) => f.write_str(focus.name()),
            Finder::Crashes(script) => write!(f, "crashes of {script}"),
            Finder::MemoryOrder => f.write_str("a model checker of memory order"),
        }
    }
}

const fn world(bug: Bug, focus: Focus, seeds: u64) -> Exhibit {
    Exhibit { bug, finder: Finder::World(focus), seeds }
}

const fn crashes(bug: Bug, script: Script, seeds: u64) -> Exhibit {
    Exhibit { bug, finder: Finder::Crashes(script), seeds }
}

/// All of [`bug::ALL`], each once.
pub const TABLE: &[Exhibit] = &[
    world(Bug::AckBeforeSync, Focus::Crash, 20),
    world(Bug::DurableNotAPrefix, Focus::Crash, 40),
    world(Bug::UsedBlockRewritten, Focus::Crash, 6),
    world(Bug::SegmentRecycledEarly, Focus::Crash, 20),
    world(Bug::SegmentNameNotSynced, Focus::Crash, 20),
    crashes(Bug::TornBatchCounts, Script::LogAppend, 6),
    world(Bug::EarlierLifeCounts, Focus::Crash, 6),
    world(Bug::KilledWritesTrusted, Focus::Crash, 100),
    world(Bug::PageReusedEarly, Focus::Crash, 20),
    world(Bug::PinIgnored, Focus::History, 40),
    Exhibit { bug: Bug::PinWithoutFence, finder: Finder::MemoryOrder, seeds: 0 },
    crashes(Bug::MetaBeforePages, Script::Checkpoint, 6),
    world(Bug::MetaNotSynced, Focus::Crash, 10),
    world(Bug::DurablePageEdited, Focus::Memory, 30),
    world(Bug::PageDroppedWhileWritten, Focus::Memory, 40),
    world(Bug::StampOutsideMeta, Focus::Crash, 6),
    world(Bug::OlderMetaOpened, Focus::Crash, 6),
    world(Bug::WriteErrorIgnored, Focus::Checkpoint, 40),
    world(Bug::TombstoneLost, Focus::Watch, 20),
    world(Bug::CompactionOffByOne, Focus::History, 10),
    world(Bug::RevisionBackAfterCompaction, Focus::History, 6),
    world(Bug::TxnSplit, Focus::History, 10),
    world(Bug::KeyKeepsOldLease, Focus::Lease, 6),
    world(Bug::DeletedKeyKeepsLease, Focus::Lease, 6),
    world(Bug::PastCountIsNewest, Focus::History, 10),
    world(Bug::PieceRepeatsKey, Focus::History, 10),
    world(Bug::LaterPieceIsNewer, Focus::History, 20),
    world(Bug::ExpiredLeaseRenewed, Focus::Lease, 40),
    world(Bug::RenewalForgotten, Focus::Lease, 6),
    world(Bug::CommitBeforeSync, Focus::Crash, 6),
    world(Bug::AnswerBeforePublish, Focus::Crash, 6),
    world(Bug::CheckpointRecordedEarly, Focus::Crash, 20),
    world(Bug::RecoveryCutsTooMuch, Focus::Crash, 6),
    world(Bug::ReadBeforeReplay, Focus::Crash, 6),
    world(Bug::LeaseRenewedByPut, Focus::Lease, 20),
    world(Bug::LeaseNotPromoted, Focus::Lease, 6),
    world(Bug::ExpiryOutsideLog, Focus::Lease, 30),
    world(Bug::RevokedLeaseReturns, Focus::Lease, 6),
    world(Bug::QuotaOutsideLog, Focus::Quota, 40),
    world(Bug::RoomNotReserved, Focus::Disk, 20),
    world(Bug::AlarmNotStored, Focus::Quota, 20),
    world(Bug::WatcherEventDropped, Focus::Flood, 8),
    world(Bug::GapIgnored, Focus::Watch, 6),
    world(Bug::ProgressAheadOfEvents, Focus::Watch, 10),
    world(Bug::RequestedProgressAhead, Focus::Watch, 15),
    world(Bug::CompactedWatcherGoesOn, Focus::Watch, 10),
    world(Bug::WatchStartMissed, Focus::Watch, 20),
    world(Bug::PrevKvIsItself, Focus::Watch, 6),
];

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
    pub seconds: f64,
}

impl Verdict {
    pub fn is_found(&self) -> bool {
        self.found.len() >= FINDERS || self.exhibit.finder == Finder::MemoryOrder
    }
}

/// Tries the seeds of one bug, until enough have found it.
pub fn look(exhibit: Exhibit, enough: usize) -> Verdict {
    let started = Instant::now();
    let mut verdict = Verdict { exhibit, tried: 0, found: Vec::new(), seconds: 0.0 };
    for seed in 1..=exhibit.seeds {
        verdict.tried = seed;
        if let Some((step, finding)) = exhibit.finder.run(seed, Some(exhibit.bug)) {
            verdict.found.push(Found { seed, step, finding });
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

/// Does the work of a list on some threads; the results in the order of the list. Panics stay quiet meanwhile: most
/// bugs end in one.
pub fn on_threads<T: Sync, R: Send>(threads: usize, list: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
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
        finding.map(|(_, finding)| FalseAlarm { finder, seed, finding })
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
    let Exhibit { bug, finder, seeds } = verdict.exhibit;
    if finder == Finder::MemoryOrder {
        return format!("{}: left to {finder}", bug.name());
    }
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
    text
}

/// A line's worth of it.
fn short(text: &str) -> String {
    let line: String = text.chars().map(|c| if c == '\n' { ' ' } else { c }).take(200).collect();
    line
}
