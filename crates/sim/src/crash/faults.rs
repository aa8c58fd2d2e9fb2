//! Scripts over a device that does wrong: each fault of `disk::sim`, at an operation that is drawn, then a power loss, a
//! kill or a start, and a look at what is there.
//!
//! What must hold:
//! - An error that was told ([`Kind::Io`], [`Kind::NoSpace`], [`Kind::Short`]) ends the process, or is an answer where room
//!   was asked for. What a power loss then leaves has everything that was acknowledged.
//! - A read that fails while a member starts ends that start; the next one has everything.
//! - Whatever a device loses, misplaces or lets rot: what is found is right, or it is refused with the name of the file, or
//!   `tree::verify` finds it. Never anything else, never a panic. Two things are beyond any checksum, and are counted:
//!   - [`Verdict::Tail`]: the end of the log is gone, and nothing that is left says that it was acknowledged. No more can
//!     be missing than what was acknowledged after the newest intact write was handed out ([`Floor::Stated`]); on a device
//!     that lies about everything, more, but what is found is what once was.
//!   - [`Tally::twins`]: a page was lost whose place holds an older version of itself, sound in every byte.
//!
//! Invariant: all of it follows from (script, seed, trial). Must not know formats beyond a page's stamp.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use base::Random;
use disk::sim::{Fault, KeepSet, Moment, Operation, ReadFault, Rot, SECTOR};
use disk::{BLOCK, Files, SimFiles};

use super::{Promises, Script, Subject, guarded, log, member, store};

const DATA: &str = "data";
/// Of a start that finds its data file ahead of its log (law 7).
pub(super) const LOG_BEHIND: &str = "but the log ends at";
/// The log's directory, whose names only say which segments there are.
const LOG: &str = "log";
/// Moments after a lie at which the power goes, and sets of each that are drawn.
const MOMENTS: usize = 3;
const DRAWN_SETS: usize = 2;

/// What is done to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Io,
    NoSpace,
    Short,
    Lost,
    Misdirected,
    Lying,
    ReadIo,
    ReadShort,
    ReadFlipped,
    RotFlip,
    RotZeros,
    RotStale,
    RotCopy,
}

impl Kind {
    pub const ALL: [Kind; 13] = [
        Kind::Io,
        Kind::NoSpace,
        Kind::Short,
        Kind::Lost,
        Kind::Misdirected,
        Kind::Lying,
        Kind::ReadIo,
        Kind::ReadShort,
        Kind::ReadFlipped,
        Kind::RotFlip,
        Kind::RotZeros,
        Kind::RotStale,
        Kind::RotCopy,
    ];
}

/// What must be found, at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Floor {
    /// All that was acknowledged.
    Acknowledged,
    /// What the newest complete write says to be durable: one fault may take that write, or what came after.
    Stated,
    /// What writes that were complete when this mark was noted say: a misdirected write damages what it should have
    /// been, and what it hits.
    Of(u64),
    /// Any true state of before: a device that lies about all it is given loses also what it had, since segments and
    /// pages are used again for what took their place.
    Nothing,
}

/// What came of opening it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All that was promised, and nothing else.
    Right,
    /// A true state of before, not below the floor.
    Tail,
    /// In these words.
    Refused(String),
    /// Opened; `tree::verify` finds it.
    Verified(String),
    Wrong(String),
}

/// What came of the images of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub trials: u64,
    pub right: u64,
    pub tails: u64,
    pub refused: u64,
    /// Refused since the data file is ahead of its log, whose end says nothing.
    pub behind: u64,
    pub verified: u64,
    /// Nothing can tell.
    pub twins: u64,
    /// Runs that went on after an error that was told, room asked for.
    pub survived: u64,
    /// Runs that a lost page ended, by an assertion: it was read back before anybody looked at its checksum.
    pub panics: u64,
}

impl Tally {
    /// `twin`: whether a page may have been lost whose place holds an older version of itself.
    fn count(&mut self, verdict: Verdict, twin: impl FnOnce() -> bool) -> Result<(), String> {
        match verdict {
            Verdict::Right => self.right += 1,
            Verdict::Tail => self.tails += 1,
            Verdict::Refused(text) if text.contains(LOG_BEHIND) => self.behind += 1,
            Verdict::Refused(text) if names_a_file(&text) => self.refused += 1,
            Verdict::Refused(text) => return Err(format!("refused without the name of a file: {text}")),
            Verdict::Verified(_) => self.verified += 1,
            Verdict::Wrong(law) if law.starts_with("a panic") => return Err(law),
            Verdict::Wrong(_) if twin() => self.twins += 1,
            Verdict::Wrong(law) => return Err(law),
        }
        Ok(())
    }
}

impl Display for Tally {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Tally { trials, right, tails, refused, behind, verified, twins, survived, panics } = self;
        write!(
            f,
            "{trials} trials, {survived} survived; {right} right, {tails} without the tail, {refused} refused, \
             {behind} behind, {verified} found by verify, {twins} twins, {panics} panics"
        )
    }
}

/// By kind.
pub type Tallies = BTreeMap<Kind, Tally>;

/// Tries so many faults of each kind over runs of `script`; `only`: that trial alone. The error is the law that was
/// broken, and where.
pub fn try_all(script: Script, seed: u64, trials: u64, only: Option<u64>) -> Result<Tallies, String> {
    match script {
        Script::LogAppend | Script::SegmentRecycling | Script::Snapshot => {
            try_of::<log::Subject>(script, seed, trials, only)
        }
        Script::Checkpoint | Script::Growth => try_of::<store::Subject>(script, seed, trials, only),
        Script::FirstInitialisation | Script::Compaction | Script::Replica => {
            try_of::<member::Subject>(script, seed, trials, only)
        }
    }
}

fn try_of<S: Subject>(script: Script, seed: u64, trials: u64, only: Option<u64>) -> Result<Tallies, String> {
    let files = SimFiles::new();
    files.record();
    let (mut subject, ended) = S::play(script, seed, Promises::Kept, &files, None, u64::MAX);
    ended?;
    let moments = subject.take_moments();
    let mut run = Run { script, seed, subject, moments, tally: Tally::default() };
    let mut tallies = Tallies::new();
    for trial in 0..trials * Kind::ALL.len() as u64 {
        if only.is_some_and(|only| only != trial) {
            continue;
        }
        let kind = Kind::ALL[(trial % Kind::ALL.len() as u64) as usize];
        run.tally = tallies.remove(&kind).unwrap_or_default();
        run.tally.trials += 1;
        let mut random = Random::new(Random::new(seed).next_u64() ^ trial);
        let tried = run.try_one(kind, &mut random);
        tried.map_err(|law| format!("{script}, seed {seed}, trial {trial}, {kind:?}: {law}"))?;
        tallies.insert(kind, run.tally);
    }
    Ok(tallies)
}

/// A run without faults, and those with them.
struct Run<S> {
    script: Script,
    seed: u64,
    subject: S,
    moments: Vec<Moment>,
    tally: Tally,
}

impl<S: Subject> Run<S> {
    fn try_one(&mut self, kind: Kind, random: &mut Random) -> Result<(), String> {
        // The last moment is the end, without an operation.
        let operation = random.below(self.moments.len() as u64 - 1);
        let blocks = random.below(4) as usize;
        let by = 1 + random.below(40);
        let bit = random.below(8 * SECTOR as u64) as usize;
        match kind {
            Kind::Io => self.told(operation, Fault::Io, random),
            Kind::NoSpace => self.told(operation, Fault::NoSpace, random),
            Kind::Short => self.told(operation, Fault::Short { blocks }, random),
            Kind::Lost => self.lie(operation, Some(Fault::Lost), random),
            Kind::Misdirected => self.lie(operation, Some(Fault::Misdirected { blocks: by }), random),
            Kind::Lying => self.lie(operation, None, random),
            Kind::ReadIo => self.read(ReadFault::Io, random),
            Kind::ReadShort => self.read(ReadFault::Short, random),
            Kind::ReadFlipped => {
                self.read(ReadFault::Flipped { at: random.next_u64() as usize, mask: 1 << (bit % 8) }, random)
            }
            Kind::RotFlip => self.rot(|_, _| Rot::Flip { bit }, random),
            Kind::RotZeros => self.rot(|_, _| Rot::Zeros, random),
            Kind::RotStale => self.rot(|_, _| Rot::Stale, random),
            Kind::RotCopy => {
                // From the same place of another block, or from anywhere.
                self.rot(
                    |sectors, random| Rot::CopyOf {
                        sector: random.below(sectors) / if random.one_in(2) { 8 } else { 1 },
                    },
                    random,
                )
            }
        }
    }

    /// One operation fails, and says so.
    fn told(&mut self, operation: u64, fault: Fault, random: &mut Random) -> Result<(), String> {
        let files = SimFiles::new();
        files.fail_at(operation, fault);
        let (mut subject, ended) = S::play(self.script, self.seed, Promises::Kept, &files, None, operation);
        let under_way = self.moments[operation as usize].under_way();
        match ended {
            Ok(()) if fault == Fault::NoSpace && under_way.is_some_and(asks_for_room) => {
                self.tally.survived += 1;
            }
            Ok(()) => {
                return Err(format!(
                    "operation {operation} ({under_way:?}) failed, and the run goes on (law 8)"
                ));
            }
            Err(text) if text.contains("os error") && !text.starts_with("a panic") => {}
            Err(text) => return Err(format!("operation {operation} failed, and the run ended: {text}")),
        }
        let mark = subject.promises() - 1;
        let count = files.unsynced();
        let mut sets = vec![KeepSet::none(count), KeepSet::all(count)];
        sets.extend((0..2 * DRAWN_SETS).map(|_| KeepSet::random(count, random)));
        for set in sets {
            let boot = random.next_u64();
            let image = files.crash(&mut |_| set.clone());
            match guarded(|| Ok(subject.verdict(&image, mark, Floor::Acknowledged, boot)))? {
                Verdict::Right => self.tally.right += 1,
                other => {
                    return Err(format!("operation {operation} failed; kept {:?}: {other:?}", set.0));
                }
            }
        }
        Ok(())
    }

    /// One operation answers well and does something else; or, without a fault, all syncs from there on lie.
    fn lie(&mut self, operation: u64, fault: Option<Fault>, random: &mut Random) -> Result<(), String> {
        let files = SimFiles::new();
        files.record();
        match fault {
            Some(fault) => files.fail_at(operation, fault),
            None => files.lie_from(operation),
        }
        let like = Some(&self.subject);
        let (mut subject, ended) = S::play(self.script, self.seed, Promises::Kept, &files, like, operation);
        let struck = &self.moments[operation as usize];
        assert_eq!(struck.operation(), operation, "a moment for each operation");
        // A write that was lost takes no other page with it.
        let pages = match struck.under_way() {
            Some(Operation::Write { name, blocks }) if name == DATA && fault.is_some() => blocks.clone(),
            _ => 0..0,
        };
        // A sync of pages did nothing: this one, or some from here on.
        let unsynced = match struck.under_way() {
            Some(Operation::Sync { name }) => fault.is_none() || name == DATA,
            _ => fault.is_none(),
        };
        let (written, older) = (struck.kill(), &self.moments[..operation as usize]);
        let moments = subject.take_moments();
        let next = operation as usize + 1;
        // Of a sync that did nothing, everything is left that it covers.
        let floor = match fault {
            Some(Fault::Lost) if moments[next].unsynced() <= self.moments[next].unsynced() => Floor::Stated,
            Some(Fault::Misdirected { .. }) => Floor::Of(struck.mark()),
            _ => Floor::Nothing,
        };
        let from = moments.partition_point(|moment| moment.operation() <= operation);
        let last = moments.len() - 1;
        let mut chosen: Vec<usize> = (0..MOMENTS)
            .map(|_| from.min(last) + random.below((moments.len() - from.min(last)) as u64) as usize)
            .collect();
        chosen.push(last);
        let what = format!("operation {operation} ({:?})", struck.under_way());
        let mut sound = true;
        for at in chosen {
            let moment = &moments[at];
            let count = moment.unsynced();
            let now = moment.kill();
            let mut images = vec![("killed", moment.kill())];
            images.push(("kept none", moment.crash(&KeepSet::none(count))));
            images.push(("kept all", moment.crash(&KeepSet::all(count))));
            images.extend(
                (0..DRAWN_SETS).map(|_| ("kept some", moment.crash(&KeepSet::random(count, random)))),
            );
            for (how, image) in images {
                let boot = random.next_u64();
                // What was lost in whole: by the fault itself, or since a sync did nothing.
                let twin = || match pages.is_empty() {
                    false => is_one_a_twin(&image, pages.clone(), &written, older),
                    true if !unsynced => false,
                    true => is_one_a_twin(&image, differing(&image, &now), &now, &moments[..at]),
                };
                let verdict = subject_verdict(&mut subject, &image, moment.mark(), floor, boot);
                if how == "killed" && at == last {
                    sound = verdict == Verdict::Right;
                }
                let place = || format!("{what}; at {} {how}", moment.operation());
                self.tally.count(verdict, twin).map_err(|law| format!("{}: {law}", place()))?;
            }
        }
        match ended {
            Err(text) if text.starts_with("a panic") && !pages.is_empty() => {
                self.tally.panics += 1;
                Ok(())
            }
            // Met while it was still in use, the page has been replaced since.
            Err(text)
                if sound && !pages.clone().any(|page| text.contains(&format!("page {page}, at offset"))) =>
            {
                Err(format!("{what}: the run ended, and what it left is right: {text}"))
            }
            _ => Ok(()),
        }
    }

    /// Some disk that a process or a power loss has left, and what was promised then.
    fn left(&self, random: &mut Random) -> (SimFiles, u64) {
        let moment = &self.moments[random.below(self.moments.len() as u64) as usize];
        let files = match random.below(3) {
            0 => moment.kill(),
            1 => moment.crash(&KeepSet::none(moment.unsynced())),
            _ => moment.crash(&KeepSet::random(moment.unsynced(), random)),
        };
        (files, moment.mark())
    }

    /// A read of a start goes wrong.
    fn read(&mut self, fault: ReadFault, random: &mut Random) -> Result<(), String> {
        let (files, mark) = self.left(random);
        let boot = random.next_u64();
        let whole = files.image();
        match subject_verdict(&mut self.subject, &whole, mark, Floor::Acknowledged, boot) {
            Verdict::Right => {}
            other => return Err(format!("without a fault: {other:?}")),
        }
        if whole.reads() == 0 {
            // There is nothing yet.
            return Ok(());
        }
        let number = random.below(whole.reads());
        files.spoil_read_at(number, fault);
        let flipped = matches!(fault, ReadFault::Flipped { .. });
        let floor = if flipped { Floor::Stated } else { Floor::Acknowledged };
        let verdict = subject_verdict(&mut self.subject, &files, mark, floor, boot);
        let again = matches!(verdict, Verdict::Refused(_));
        let what = |law| format!("read {number} with {fault:?}: {law}");
        match &verdict {
            Verdict::Right | Verdict::Verified(_) | Verdict::Tail if !flipped => {
                return Err(what(format!("{verdict:?}")));
            }
            _ => self.tally.count(verdict, || false).map_err(what)?,
        }
        if again {
            // It has changed nothing.
            files.spoil_read_at(u64::MAX, fault);
            match subject_verdict(&mut self.subject, &files, mark, Floor::Acknowledged, boot) {
                Verdict::Right => {}
                other => return Err(what(format!("refused, and the next start: {other:?}"))),
            }
        }
        Ok(())
    }

    /// A sector of a file changes while nobody looks.
    fn rot(&mut self, draw: impl Fn(u64, &mut Random) -> Rot, random: &mut Random) -> Result<(), String> {
        let (files, mark) = self.left(random);
        let mut names: Vec<String> = files.list("").map_err(|error| error.to_string())?;
        names.retain(|name| name != LOG);
        if let Ok(log) = files.list(LOG) {
            names.extend(log.into_iter().map(|name| format!("{LOG}/{name}")));
        }
        // Much of a file is zeros that nothing reads: so several are tried.
        for _ in 0..60 {
            if names.is_empty() {
                return Ok(());
            }
            let name = &names[random.below(names.len() as u64) as usize];
            let sectors = files.bytes(name).map_or(0, |bytes| bytes.len() / SECTOR) as u64;
            if sectors == 0 {
                continue;
            }
            let sector = random.below(sectors);
            let rot = draw(sectors, random);
            let blank = files.bytes(name).is_some_and(|bytes| {
                bytes[sector as usize * SECTOR..][..SECTOR].iter().all(|byte| *byte == 0)
            });
            if (blank && !random.one_in(20)) || !files.rot(name, sector, rot) {
                continue;
            }
            let page = (sector as usize * SECTOR / BLOCK) as u64;
            let twin = || rot == Rot::Stale && name == DATA && is_sound(&files, page);
            let verdict = subject_verdict(&mut self.subject, &files, mark, Floor::Stated, random.next_u64());
            return self
                .tally
                .count(verdict, twin)
                .map_err(|law| format!("sector {sector} of {name} with {rot:?}: {law}"));
        }
        Ok(())
    }
}

/// A panic is wrong, whatever it says.
fn subject_verdict<S: Subject>(
    subject: &mut S,
    files: &SimFiles,
    mark: u64,
    floor: Floor,
    boot: u64,
) -> Verdict {
    guarded(|| Ok(subject.verdict(files, mark, floor, boot))).unwrap_or_else(Verdict::Wrong)
}

fn names_a_file(text: &str) -> bool {
    text.contains(".seg") || text.starts_with(DATA) || text.contains("the data file")
}

/// Whether "no room" is an answer that a process may live with: where files are made, moved and sized, and where a log
/// segment is made ready that is not in use yet.
fn asks_for_room(operation: &Operation) -> bool {
    match operation {
        Operation::Metadata => true,
        Operation::Write { name, .. } => name.ends_with(".tmp"),
        Operation::Sync { name } => name.ends_with(".tmp") || name == LOG,
    }
}

/// Whether one of the pages is sound, is not what was `written` there, and once was just so.
fn is_one_a_twin(
    image: &SimFiles,
    mut pages: impl Iterator<Item = u64>,
    written: &SimFiles,
    older: &[Moment],
) -> bool {
    let of = |files: &SimFiles, page: u64| {
        let bytes = files.bytes(DATA)?;
        Some(bytes.get(page as usize * BLOCK..)?.get(..BLOCK)?.to_vec())
    };
    pages.any(|page| {
        let found = of(image, page);
        is_sound(image, page)
            && found != of(written, page)
            && older.iter().rev().any(|moment| of(&moment.kill(), page) == found)
    })
}

/// Whether a page, or the run that begins there, is sound and says that it belongs there.
fn is_sound(files: &SimFiles, page: u64) -> bool {
    let Some(bytes) = files.bytes(DATA) else { return false };
    let Some(page_bytes) = bytes.get(page as usize * BLOCK..) else { return false };
    let word = |at: usize| u32::from_le_bytes(page_bytes[at..at + 4].try_into().expect("four bytes"));
    if page_bytes.len() < BLOCK || u64::from(word(4)) != page {
        return false;
    }
    let len = match page_bytes[16] {
        1 | 2 => BLOCK,
        3 => 32 + word(24) as usize,
        _ => return false,
    };
    len <= page_bytes.len() && word(0) == base::crc32c(&page_bytes[4..len])
}

/// Pages of the data file that are not the same.
fn differing(image: &SimFiles, other: &SimFiles) -> impl Iterator<Item = u64> {
    let (image, other) = (image.bytes(DATA).unwrap_or_default(), other.bytes(DATA).unwrap_or_default());
    let pages = (image.len().min(other.len()) / BLOCK) as u64;
    (2..pages).filter(move |page| {
        let at = *page as usize * BLOCK;
        image[at..at + BLOCK] != other[at..at + BLOCK]
    })
}
