//! Every crash of scripted workloads: what a machine finds after a power loss in the midst of each operation of the disk,
//! opened by the real recovery and held against what had been promised by then.
//!
//! A [`Script`] runs once, recorded; it notes before each operation what was acknowledged so far. Then each of its
//! moments is tried with none of the unsynced writes kept, all, each alone, all but each, and sets drawn at random, whole
//! and torn; with some written in another order; and as a kill, which loses nothing. For one image of each moment the
//! recovery itself is crashed at each of its operations, and one life goes on.
//!
//! What must hold of every image:
//! - it opens: no crash is taken for damage (law 5);
//! - nothing acknowledged is lost, there is no gap, and nothing is there that was never proposed (laws 1 and 2);
//! - what is there equals a plain model at the index that was recovered, and has the hash that other images have there;
//! - the page graph is closed, counts are recounts, no page is both free and reachable (law 6);
//! - the data file is never ahead of its log, and no revision goes below an acknowledged one (law 7);
//! - either of two metas is a start: with the newest damaged, the older one and the log give everything back (law 6);
//! - a recovery that is crashed decides as the one that was not.
//!
//! Invariant: all of it follows from (script, seed), but for what the product itself draws. Must not know the laws of a
//! layer twice: what can be said of a store at rest is in [`crate::check::state`].

pub(crate) mod command;
pub mod faults;
mod interleave;
mod log;
mod member;
mod model;
mod rig;
mod store;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::ops::AddAssign;
use std::panic::{AssertUnwindSafe, catch_unwind};

use base::Random;
use disk::SimFiles;
use disk::sim::{KeepSet, Moment};

/// Sets of survivors that each moment draws at random.
pub const DRAWN_SETS: usize = 64;
/// A recovery that is crashed with so many unsynced writes, at most, keeps each of them alone, too.
const SINGLES_OF: usize = 4;
/// Images of each moment whose writes reach the device in another order.
const REORDERED: usize = 8;

/// The newest meta was damaged, and the older one served.
const OLDER_META: &str = "the older meta";

/// A workload to crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Script {
    /// A member from an empty directory to its first writes, and a second start.
    FirstInitialisation,
    /// The log alone: entries of all sizes, hard states, superseded entries, several writes in flight, restarts.
    LogAppend,
    /// The log alone, in the smallest segments: checkpoints, release, recycling.
    SegmentRecycling,
    /// The data file alone: changes, checkpoints beside them, restarts.
    Checkpoint,
    /// The data file alone: growth ahead and in need, long values, deletes, shrinking.
    Growth,
    /// A member whose history is compacted while it is written.
    Compaction,
    /// The log alone, restarted from snapshots that take its place: the record of a restart, which only a member that is
    /// sent a snapshot will write. (What is exported to clients goes through a file without a name, past these files.)
    Snapshot,
    /// A member with everything: puts, transactions, deletes, leases that end, compactions, checkpoints, kills.
    Replica,
}

impl Script {
    pub const ALL: [Script; 8] = [
        Script::FirstInitialisation,
        Script::LogAppend,
        Script::SegmentRecycling,
        Script::Checkpoint,
        Script::Growth,
        Script::Compaction,
        Script::Snapshot,
        Script::Replica,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Script::FirstInitialisation => "first-initialisation",
            Script::LogAppend => "log-append",
            Script::SegmentRecycling => "segment-recycling",
            Script::Checkpoint => "checkpoint",
            Script::Growth => "growth",
            Script::Compaction => "compaction",
            Script::Snapshot => "snapshot",
            Script::Replica => "replica",
        }
    }

    pub fn of_name(name: &str) -> Option<Script> {
        Script::ALL.into_iter().find(|script| script.name() == name)
    }
}

impl Display for Script {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a script notes as acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Promises {
    /// What the product acknowledged.
    #[default]
    Kept,
    /// What it has only handed to the disk: nobody could keep that. So a test can see that the enumeration fails.
    Early,
}

/// What is to be enumerated.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub script: Script,
    /// Of the first run; later ones follow from it.
    pub seed: u64,
    /// So many images at least; every run is tried whole.
    pub images: u64,
    /// Only this operation of the first run.
    pub operation: Option<u64>,
    pub promises: Promises,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Recorded runs.
    pub runs: u64,
    /// Operations in whose midst the power went.
    pub moments: u64,
    /// Power losses and kills that were recovered from and judged.
    pub images: u64,
    /// Recoveries that were crashed in turn, and the images of that, which do not count above.
    pub recoveries_crashed: u64,
    pub recovery_images: u64,
    /// Lives that went on, and were looked at once more after another power loss.
    pub continued: u64,
    /// What the runs and their images have met, and how often: see [`Met`].
    pub met: Met,
    pub broken: Option<Broken>,
}

/// What was met, by name, and how often.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Met(BTreeMap<&'static str, u64>);

impl Met {
    fn add(&mut self, what: &'static str, count: u64) {
        if count > 0 {
            *self.0.entry(what).or_default() += count;
        }
    }

    pub fn times(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    fn add_all(&mut self, other: &Met) {
        other.0.iter().for_each(|(what, count)| self.add(what, *count));
    }
}

impl Display for Met {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (no, (what, count)) in self.0.iter().enumerate() {
            write!(f, "{}{what} {count}", if no == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl AddAssign<&Report> for Report {
    fn add_assign(&mut self, other: &Report) {
        self.runs += other.runs;
        self.moments += other.moments;
        self.images += other.images;
        self.recoveries_crashed += other.recoveries_crashed;
        self.recovery_images += other.recovery_images;
        self.continued += other.continued;
        self.met.add_all(&other.met);
        if self.broken.is_none() {
            self.broken.clone_from(&other.broken);
        }
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} images of {} operations in {} runs; {} images of {} crashed recoveries; {} lives went on",
            self.images,
            self.moments,
            self.runs,
            self.recovery_images,
            self.recoveries_crashed,
            self.continued
        )
    }
}

/// The first law that was broken, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    pub script: Script,
    /// Of the run in which it shows.
    pub seed: u64,
    /// Under way when the power went; `None` when the run itself went wrong.
    pub operation: Option<u64>,
    /// What was kept, and what was done then.
    pub what: String,
    /// The unsynced changes, oldest first.
    pub unsynced: Vec<String>,
    pub law: String,
}

impl Display for Broken {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Broken { script, seed, operation, what, unsynced, law } = self;
        match operation {
            Some(operation) => writeln!(f, "{script}, seed {seed}, operation {operation}: {law}")?,
            None => writeln!(f, "{script}, seed {seed}, in the run itself: {law}")?,
        }
        writeln!(f, "  {what}")?;
        for (no, line) in unsynced.iter().enumerate() {
            writeln!(f, "  unsynced {no}: {line}")?;
        }
        write!(f, "  again with: sim crash --script {script} --seed {seed}")?;
        match operation {
            Some(operation) => write!(f, " --operation {operation}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Broken {}

/// Crashes `script` until `budget` images were judged, in whole runs, or a law was broken.
pub fn enumerate(script: Script, budget: u64, seed: u64) -> Report {
    Plan { script, seed, images: budget, operation: None, promises: Promises::Kept }.run()
}

/// A recorded run, and the judge of its images.
trait Subject: Sized {
    /// What a recovery found.
    type Found: Clone + fmt::Debug + PartialEq;

    /// Runs the script over an empty disk, up to its end, the first error, or the end of the life in which operation
    /// `until` was. What was known by then is known also after an error. `like`: a run that does the same, for what this
    /// one cannot read back from a disk that lies.
    fn play(
        script: Script,
        seed: u64,
        promises: Promises,
        files: &SimFiles,
        like: Option<&Self>,
        until: u64,
    ) -> (Self, Result<(), String>);

    fn record(script: Script, seed: u64, promises: Promises) -> Result<Self, String> {
        let files = SimFiles::new();
        files.record();
        let (subject, ended) = Self::play(script, seed, promises, &files, None, u64::MAX);
        ended.map(|()| subject)
    }

    /// How many were noted: marks are below.
    fn promises(&self) -> u64;

    /// Opens what a device with a fault left, and says what came of it.
    fn verdict(&mut self, files: &SimFiles, mark: u64, floor: faults::Floor, boot: u64) -> faults::Verdict;

    /// The run's moments; they are not kept.
    fn take_moments(&mut self) -> Vec<Moment>;

    /// What was met so far.
    fn met(&self) -> &Met;

    /// Opens what a crash left when `mark` was noted last, and judges it.
    fn reopen(&mut self, files: &SimFiles, mark: u64, boot: u64) -> Result<Self::Found, String>;

    /// Only opens it.
    fn recover(&self, files: &SimFiles, mark: u64, boot: u64) -> Result<(), String>;

    /// Damages the newest meta of the data file: the older one, and the log, must give everything back (law 6). False
    /// where there is no other.
    fn fall_back(&mut self, files: &SimFiles, mark: u64, boot: u64) -> Result<bool, String>;

    /// Opens it, goes on, loses the power again, and judges.
    fn go_on(&mut self, files: &SimFiles, mark: u64, boot: u64) -> Result<(), String>;
}

thread_local! {
    static HERE: Cell<Option<(Script, u64, Option<u64>)>> = const { Cell::new(None) };
}

/// How to come back to what this thread is doing: for a program that ends at a panic.
pub fn here() -> Option<String> {
    HERE.get().map(|(script, seed, operation)| {
        let operation = operation.map(|operation| format!(" --operation {operation}")).unwrap_or_default();
        format!("sim crash --script {script} --seed {seed}{operation}")
    })
}

impl Plan {
    pub fn run(self) -> Report {
        match self.script {
            Script::LogAppend | Script::SegmentRecycling | Script::Snapshot => self.run_of::<log::Subject>(),
            Script::Checkpoint | Script::Growth => self.run_of::<store::Subject>(),
            Script::FirstInitialisation | Script::Compaction | Script::Replica => {
                self.run_of::<member::Subject>()
            }
        }
    }

    fn run_of<S: Subject>(self) -> Report {
        let mut report = Report::default();
        let mut seeds = Random::new(self.seed);
        let mut seed = self.seed;
        loop {
            let run = Run { plan: self, seed };
            if let Err(broken) = run.sweep::<S>(&mut report) {
                report.broken = Some(broken);
                return report;
            }
            report.runs += 1;
            if report.images >= self.images || self.operation.is_some() {
                return report;
            }
            // Short, to be typed.
            seed = seeds.next_u64() >> 32;
        }
    }
}

/// One recorded run, under way.
struct Run {
    plan: Plan,
    seed: u64,
}

impl Run {
    fn broken(&self, operation: Option<u64>, law: String) -> Broken {
        Broken {
            script: self.plan.script,
            seed: self.seed,
            operation,
            what: String::new(),
            unsynced: Vec::new(),
            law,
        }
    }

    /// Records the script and tries every crash of it.
    fn sweep<S: Subject>(&self, report: &mut Report) -> Result<(), Broken> {
        HERE.set(Some((self.plan.script, self.seed, None)));
        let recorded = guarded(|| S::record(self.plan.script, self.seed, self.plan.promises));
        let mut subject = recorded.map_err(|law| self.broken(None, law))?;
        let mut trial = Report::default();
        let swept = self.sweep_moments(&mut subject, &mut trial);
        trial.met.add_all(subject.met());
        *report += &trial;
        HERE.set(None);
        swept
    }

    fn sweep_moments<S: Subject>(&self, subject: &mut S, report: &mut Report) -> Result<(), Broken> {
        let salt = Random::new(self.seed).next_u64();
        for moment in subject.take_moments() {
            let operation = moment.operation();
            if self.plan.operation.is_some_and(|only| only != operation) {
                continue;
            }
            HERE.set(Some((self.plan.script, self.seed, Some(operation))));
            let mut random = Random::new(salt ^ operation);
            report.moments += 1;
            crash_at(subject, &moment, &mut random, report).map_err(|(what, law)| Broken {
                what,
                unsynced: moment.describe(),
                ..self.broken(Some(operation), law)
            })?;
            note_operation(&moment, &mut report.met);
        }
        Ok(())
    }
}

/// What of the kinds that scripts are about was unsynced.
fn note_operation(moment: &Moment, met: &mut Met) {
    for line in moment.describe() {
        if line.starts_with("rename") && line.contains(".seg to") {
            met.add("a segment recycled", 1);
        } else if line.starts_with("rename") {
            met.add("a file named", 1);
        } else if line.starts_with("remove") {
            met.add("a segment removed", 1);
        } else if line.starts_with("set the length of data") {
            met.add("a data file of another length", 1);
        } else if line.starts_with("write blocks 0..1 of data")
            || line.starts_with("write blocks 1..2 of data")
        {
            met.add("a meta under way", 1);
        }
    }
}

/// (What was done, the law that was broken.)
type Flaw = (String, String);

fn crash_at<S: Subject>(
    subject: &mut S,
    moment: &Moment,
    random: &mut Random,
    report: &mut Report,
) -> Result<(), Flaw> {
    let mark = moment.mark();
    let sets = moment.sweep(DRAWN_SETS, random);
    let crashed_again = random.below(sets.len() as u64) as usize;
    let continued = random.below(sets.len() as u64) as usize;
    let damaged = random.below(sets.len() as u64) as usize;
    for (no, set) in sets.iter().enumerate() {
        let boot = random.next_u64();
        let what = |what: &'static str| move |law: String| (format!("kept {:?}{what}", set.0), law);
        report.images += 1;
        let found = guarded(|| subject.reopen(&moment.crash(set), mark, boot))
            .map_err(what(": the first recovery"))?;
        if no == crashed_again {
            crash_recovery(subject, moment, set, &found, random, report)?;
        }
        if no == damaged {
            let fell = guarded(|| subject.fall_back(&moment.crash(set), mark, boot))
                .map_err(what(", and the newest meta damaged"))?;
            report.met.add(OLDER_META, u64::from(fell));
        }
        if no == continued {
            report.continued += 1;
            guarded(|| subject.go_on(&moment.crash(set), mark, boot)).map_err(what(": the life after it"))?;
        }
    }
    if moment.unsynced() > 1 {
        for _ in 0..REORDERED {
            let set = KeepSet::random(moment.unsynced(), random);
            let (boot, order) = (random.next_u64(), random.next_u64());
            let files = moment.crash_reordered(&set, &mut Random::new(order));
            report.images += 1;
            guarded(|| subject.reopen(&files, mark, boot))
                .map_err(|law| (format!("kept {:?}, written in another order ({order})", set.0), law))?;
        }
    }
    // A kill keeps everything; what a start then finds, a power loss must not take away.
    let boot = random.next_u64();
    let files = moment.kill();
    report.images += 1;
    let what = |law| ("killed".to_owned(), law);
    let found = guarded(|| subject.reopen(&files, mark, boot)).map_err(what)?;
    let fell = guarded(|| subject.fall_back(&moment.kill(), mark, boot))
        .map_err(|law| ("killed, and the newest meta damaged".to_owned(), law))?;
    report.met.add(OLDER_META, u64::from(fell));
    let files = moment.kill();
    guarded(|| subject.recover(&files, mark, boot)).map_err(what)?;
    again(subject, &files.crash(&mut KeepSet::none), mark, &found, random.next_u64())
        .map_err(|law| ("killed, and opened; then the power went".to_owned(), law))
}

/// Crashes the recovery from one image at each of its operations.
fn crash_recovery<S: Subject>(
    subject: &mut S,
    moment: &Moment,
    set: &KeepSet,
    found: &S::Found,
    random: &mut Random,
    report: &mut Report,
) -> Result<(), Flaw> {
    let files = moment.crash(set);
    files.record();
    let boot = random.next_u64();
    guarded(|| subject.recover(&files, moment.mark(), boot))
        .map_err(|law| (format!("kept {:?}", set.0), law))?;
    report.recoveries_crashed += 1;
    for second in files.take_moments() {
        let count = second.unsynced();
        let mut sets = vec![KeepSet::none(count)];
        if count > 0 {
            sets.extend([KeepSet::all(count), KeepSet::random(count, random)]);
        }
        if (2..=SINGLES_OF).contains(&count) {
            sets.extend((0..count).map(|at| KeepSet::only(count, at)));
        }
        for keep in sets {
            report.recovery_images += 1;
            again(subject, &second.crash(&keep), moment.mark(), found, random.next_u64()).map_err(|law| {
                let at = second.operation();
                (format!("kept {:?}; then operation {at} of the recovery, kept {:?}", set.0, keep.0), law)
            })?;
        }
    }
    Ok(())
}

/// Opens what a crashed recovery left: it must decide as the first one did.
fn again<S: Subject>(
    subject: &mut S,
    files: &SimFiles,
    mark: u64,
    found: &S::Found,
    boot: u64,
) -> Result<(), String> {
    let second = guarded(|| subject.reopen(files, mark, boot))?;
    if second != *found {
        return Err(format!("the first recovery found {found:?}, the second {second:?}"));
    }
    Ok(())
}

/// A panic of the product is a law that it knows itself.
fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text");
        Err(format!("a panic: {text}"))
    })
}
