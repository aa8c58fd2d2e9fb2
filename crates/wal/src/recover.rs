//! Reading the log back after any crash: cut what was torn, refuse everything else (law 5).
//!
//! Two phases. The first only reads: it finds the chain of segments, follows it batch by batch to the first place
//! where none counts, and asks all later blocks whether that one was durable. The second begins only when the first
//! has accepted the log: it makes what was read durable (a killed process may have left it in the device's cache),
//! opens a fresh segment whose header names where the chain ends, and sorts the files that are left over.
//!
//! Invariant: a crash at any point of the second phase leaves a log that the first phase reads to the same end, or,
//! once the fresh segment has its name, one that ends in that segment.

use std::collections::VecDeque;
use std::sync::Arc;

use base::limits::{LOG_BATCH_BYTES, LOG_BATCHES_IN_FLIGHT, LOG_SPARE_SEGMENTS, SEGMENT_BYTES_MAX};
use base::{Index, Term};
use disk::{AlignedBuf, BLOCK, File, Files, OpenMode};

use crate::layout::{FirstBlock, SegmentHeader, VERSION, boot_of};
use crate::log::{Current, Sealed, Start};
use crate::position::Position;
use crate::replay::Replay;
use crate::scan::{Bad, Expected, batch_at, stated_durable};
use crate::segment::{NUMBER_MAX, SegmentId, create, reuse};
use crate::{Entry, HardState, Options, Wal, WalError};

/// What the log held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// `commit` is at most the last index: the entries of a torn tail are not committed by it.
    pub hard_state: HardState,
    /// Consecutive; from the oldest segment that was kept or the entry that was asked for, so the first ones may lie
    /// below the checkpoint.
    pub entries: Vec<Entry>,
    /// The highest completed checkpoint.
    pub checkpoint: Option<(Index, Term)>,
    /// The number that the last completed checkpoint of the data file had; 0 when none is known.
    pub checkpoint_sequence: u64,
    /// Index and term of the last entry, also when it is covered by a checkpoint and not among `entries`.
    pub last: (Index, Term),
    /// Something was thrown away that was never acknowledged; `None` when the log ended cleanly.
    pub cut: Option<Cut>,
}

/// Where a torn tail began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    pub file: String,
    pub offset: u64,
    /// The first batch that does not count.
    pub seq: u64,
    pub what: String,
}

/// A segment file that was found.
struct Found {
    id: SegmentId,
    name: String,
    file: Arc<dyn File>,
    bytes: u64,
    first: First,
}

enum First {
    /// In use, or once in use and left out since: the header carries this file's number.
    Used(SegmentHeader, u32),
    /// Never used under this number: zeros, or a header of the number that the file had before.
    Unused,
    Unreadable,
    /// The same, and no crash explains it.
    Damaged,
}

impl Found {
    fn header(&self) -> Option<&SegmentHeader> {
        match &self.first {
            First::Used(header, _) => Some(header),
            _ => None,
        }
    }

    /// The whole file when its header is good, else as much as batches can have been in flight with it: the header and
    /// all but one. The next one was submitted when the header was durable, and says so.
    fn load(&self, options: &Options) -> Result<AlignedBuf, WalError> {
        let window = options.in_flight.max(LOG_BATCHES_IN_FLIGHT) as u64
            * options.batch_bytes.max(LOG_BATCH_BYTES) as u64
            + BLOCK as u64;
        let bytes = match self.first {
            First::Used(..) => self.bytes,
            _ => self.bytes.min(window),
        };
        let bytes = bytes.min(SEGMENT_BYTES_MAX) / BLOCK as u64 * BLOCK as u64;
        let mut image = AlignedBuf::zeroed(bytes as usize);
        self.file
            .read_at(0, &mut image[..bytes as usize])
            .map_err(|error| WalError::io(format!("read {}", self.name), error))?;
        Ok(image)
    }
}

/// What stands in the log's directory.
struct Survey {
    /// By number.
    segments: Vec<Found>,
    temporary: Vec<String>,
    highest: u64,
}

/// A segment of the chain: number, header, where its counted batches end, highest index in it.
type Link = (SegmentId, SegmentHeader, u64, Index);

/// The log up to its last counted batch.
struct History {
    /// Oldest first. Empty for a new log.
    chain: Vec<Link>,
    replay: Replay,
    seq: u64,
    crc: u32,
    cut: Option<Cut>,
}

/// A log that was read and accepted. No file has changed so far.
pub struct Reading {
    files: Arc<dyn Files>,
    dir: String,
    options: Options,
    survey: Survey,
    chain: Vec<Link>,
    position: Position,
    seq: u64,
    crc: u32,
    recovered: Recovered,
}

impl Wal {
    /// Opens the log in `dir`, creating it when it is absent. The answer is complete: nothing was durable that is
    /// not in it, and nothing in it can be lost any more. After an error no file has changed, unless it is
    /// `WalError::Io`; then trying again is safe. What was released and not yet recycled before comes back: call
    /// [`Wal::release_to`] again.
    pub fn recover(files: Arc<dyn Files>, dir: &str, options: Options) -> Result<(Wal, Recovered), WalError> {
        Wal::read(files, dir, options, 0)?.open(0)
    }

    /// The first half of [`Wal::recover`], for a caller who compares what the log holds with what he has before anything
    /// changes, and who wants no entries below `wanted`: their bytes are checked, not kept.
    pub fn read(
        files: Arc<dyn Files>,
        dir: &str,
        options: Options,
        wanted: Index,
    ) -> Result<Reading, WalError> {
        options.check();
        let make = |error| WalError::io(format!("create the directory {dir}"), error);
        if !files.exists(dir).map_err(make)? {
            files.create_dir(dir).map_err(make)?;
        }
        files.sync_dir("").map_err(make)?;

        let survey = survey(&*files, dir)?;
        let History { chain, replay, seq, crc, cut } = read(&survey, dir, &options, wanted)?;
        let position = replay.position;
        let HardState { term, vote, commit } = position.hard_state;
        let recovered = Recovered {
            hard_state: HardState { term, vote, commit: commit.min(position.last_index) },
            entries: replay.entries,
            checkpoint: (position.checkpoint_index > 0)
                .then_some((position.checkpoint_index, position.checkpoint_term)),
            checkpoint_sequence: position.checkpoint_sequence,
            last: (position.last_index, position.last_term),
            cut,
        };
        Ok(Reading { files, dir: dir.to_owned(), options, survey, chain, position, seq, crc, recovered })
    }
}

impl Reading {
    pub fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    /// The second half. Up to `covered` every meta of the data file that can be opened has everything (see
    /// [`Wal::release_to`]): where no segment was left ready, the oldest is taken if nothing in it is needed any more, so
    /// that a full disk does not matter.
    pub fn open(self, covered: Index) -> Result<(Wal, Recovered), WalError> {
        let wal = open(&self, covered)?;
        Ok((wal, self.recovered))
    }
}

fn survey(files: &dyn Files, dir: &str) -> Result<Survey, WalError> {
    let names = files.list(dir).map_err(|error| WalError::io(format!("list {dir}"), error))?;
    let mut survey = Survey { segments: Vec::new(), temporary: Vec::new(), highest: 0 };
    let mut log = None;
    for (id, temporary) in names.iter().filter_map(|name| SegmentId::parse(name)) {
        survey.highest = survey.highest.max(id.0);
        if temporary {
            survey.temporary.push(id.temporary(dir));
            continue;
        }
        let found = look(files, dir, id)?;
        if let Some(header) = found.header() {
            if log.is_some_and(|log| log != header.log) {
                return Err(WalError::corrupt(&found.name, 0, "the segment belongs to another log"));
            }
            log = Some(header.log);
        }
        survey.segments.push(found);
    }
    survey.segments.sort_by_key(|found| found.id);
    // What was given up before a start stays until it is recycled. Without the header of that start the log would be read
    // as it stood then.
    let behind = survey.segments.iter().rev().take_while(|found| found.header().is_none());
    if let Some(damaged) = behind.filter(|found| matches!(found.first, First::Damaged)).last() {
        let what = "the segment header is damaged, and it was durable before the file had its name";
        return Err(WalError::corrupt(&damaged.name, 0, what));
    }
    Ok(survey)
}

fn look(files: &dyn Files, dir: &str, id: SegmentId) -> Result<Found, WalError> {
    let name = id.path(dir);
    let io = |error| WalError::io(format!("read {name}"), error);
    let file = files.open(&name, OpenMode::Read).map_err(io)?;
    let bytes = file.len().map_err(io)?;
    if bytes < BLOCK as u64 {
        return Ok(Found { id, name, file, bytes, first: First::Damaged });
    }
    let mut block = AlignedBuf::zeroed(BLOCK);
    file.read_at(0, &mut block).map_err(io)?;
    let first = match SegmentHeader::decode(&block) {
        FirstBlock::Header(header, crc) if header.number == id.0 => First::Used(header, crc),
        FirstBlock::Header(header, _) if header.number > id.0 => {
            let what = format!("the file holds segment {}: it was renamed", header.number);
            return Err(WalError::corrupt(&name, 0, what));
        }
        FirstBlock::Header(..) | FirstBlock::Zeros => First::Unused,
        FirstBlock::Version(found) => {
            return Err(WalError::Version { file: name, found, supported: VERSION });
        }
        FirstBlock::Unreadable if SegmentHeader::was_of_a_start(&block, id.0) => First::Damaged,
        FirstBlock::Unreadable => First::Unreadable,
    };
    Ok(Found { id, name, file, bytes, first })
}

/// Phase one.
fn read(survey: &Survey, dir: &str, options: &Options, wanted: Index) -> Result<History, WalError> {
    let chain = chain(survey)?;
    let Some(oldest) = chain.first() else {
        let replay = Replay::new(Default::default(), false, wanted);
        return Ok(History { chain: Vec::new(), replay, seq: 0, crc: 0, cut: None });
    };
    let header = oldest.header().expect("a chain is of segments in use");
    let Position { last_index, checkpoint_index, .. } = header.position;
    if checkpoint_index > last_index {
        let what =
            format!("the header names a checkpoint at {checkpoint_index} above its last entry, {last_index}");
        return Err(WalError::corrupt(&oldest.name, 0, what));
    }
    if header.predecessor == 0 && (last_index, checkpoint_index) != (0, 0) {
        let what =
            format!("the header says that the log begins with it, and that entry {last_index} was before it");
        return Err(WalError::corrupt(&oldest.name, 0, what));
    }
    if !(1..=NUMBER_MAX).contains(&header.seq) {
        let what = format!(
            "the header is said to be write {}: they count from 1, and no log comes to {NUMBER_MAX}",
            header.seq
        );
        return Err(WalError::corrupt(&oldest.name, 0, what));
    }
    let headless = header.predecessor != 0 && !header.started;
    let replay = Replay::new(header.position, headless, wanted);
    let mut history = History { chain: Vec::new(), replay, seq: 0, crc: 0, cut: None };
    for (at, found) in chain.iter().enumerate() {
        let next = chain.get(at + 1).and_then(|next| next.header());
        let image = link(&mut history, found, next, options)?;
        let bad = follow(&mut history, found, next, &image)?;
        let (_, _, end, _) = *history.chain.last().expect("the segment was linked");
        if next.is_some() && bad.is_none() {
            continue;
        }
        history.cut = judge(&history, survey, found, &image, end, bad, options)?;
        break;
    }
    check_begin(&history, dir)?;
    Ok(history)
}

/// The segments from the oldest to the newest, each named as predecessor by the next.
fn chain(survey: &Survey) -> Result<Vec<&Found>, WalError> {
    let find = |number: u64| survey.segments.iter().find(|found| found.id.0 == number);
    let newest_below = |number: u64| {
        survey.segments.iter().rev().find(|found| found.id.0 < number && found.header().is_some())
    };
    let Some(mut newest) = newest_below(u64::MAX) else {
        // The first segment gets its name when its header is durable, and some segment always has one since.
        return match survey.segments.first() {
            None => Ok(Vec::new()),
            Some(found) => {
                Err(WalError::corrupt(&found.name, 0, "no segment of the log has a readable header"))
            }
        };
    };
    'again: loop {
        let mut chain = vec![newest];
        let mut header = newest.header().expect("chosen for it");
        while header.predecessor != 0 {
            let (number, name) = (header.predecessor, &chain.last().expect("never empty").name);
            if number >= header.number {
                return Err(WalError::corrupt(name, 0, "the segment names a later one as its predecessor"));
            }
            let Some(found) = find(number) else { break };
            match found.header() {
                Some(found_header) => {
                    header = found_header;
                    chain.push(found);
                }
                // Its header and those behind it were in flight together when the crash came, or it is damaged:
                // the batches before it decide.
                None => match newest_below(number) {
                    Some(below) => {
                        newest = below;
                        continue 'again;
                    }
                    None => {
                        let what = "the segment header is damaged, and later segments were in use";
                        return Err(WalError::corrupt(&found.name, 0, what));
                    }
                },
            }
        }
        chain.reverse();
        return Ok(chain);
    }
}

/// Checks that `found` goes on where the history stands, and adds it.
fn link(
    history: &mut History,
    found: &Found,
    next: Option<&SegmentHeader>,
    options: &Options,
) -> Result<AlignedBuf, WalError> {
    let First::Used(header, crc) = found.first else { unreachable!("a chain is of segments in use") };
    if header.segment_bytes != found.bytes || found.bytes > SEGMENT_BYTES_MAX {
        let what = format!("the file has {} bytes, its header says {}", found.bytes, header.segment_bytes);
        return Err(WalError::corrupt(&found.name, found.bytes, what));
    }
    if let Some(&(before, _, end, _)) = history.chain.last() {
        assert_eq!(
            header.predecessor_end, end,
            "the one before was followed to where this one says that it ends"
        );
        if header.seq != history.seq + 1 || header.previous_crc != history.crc {
            let what = format!("the segment does not go on where {before} ends");
            return Err(WalError::corrupt(&found.name, 0, what));
        }
    }
    if next.is_some_and(|next| next.predecessor_end > found.bytes || next.predecessor_end < BLOCK as u64) {
        return Err(WalError::corrupt(&found.name, found.bytes, "the file is shorter than it once was"));
    }
    history.seq = header.seq;
    history.crc = crc;
    history.chain.push((found.id, header, BLOCK as u64, 0));
    history.replay.segment(header.started);
    found.load(options)
}

/// Takes in batch after batch, up to where `next` says that the segment ends. Why it stopped before that; in the
/// newest segment it always stops.
fn follow(
    history: &mut History,
    found: &Found,
    next: Option<&SegmentHeader>,
    image: &[u8],
) -> Result<Option<Bad>, WalError> {
    let limit = next.map_or(image.len(), |next| next.predecessor_end as usize);
    loop {
        let (id, header, end, max_index) = history.chain.last_mut().expect("the segment was linked");
        if *end as usize == limit && next.is_some() {
            return Ok(None);
        }
        let expected =
            Expected { segment: id.0, boot: header.boot, seq: history.seq + 1, previous_crc: history.crc };
        let batch = match batch_at(image, *end as usize, limit, &expected) {
            Ok(batch) => batch,
            Err(Bad::Wrong(what)) => return Err(WalError::corrupt(&found.name, *end, what)),
            Err(bad) => return Ok(Some(bad)),
        };
        history.replay.batch(batch.payload).map_err(|what| {
            WalError::corrupt(&found.name, *end, format!("in batch {}: {what}", batch.header.seq))
        })?;
        *end = batch.end as u64;
        *max_index = history.replay.max_index;
        history.seq += 1;
        history.crc = batch.crc;
    }
}

/// The history ends at `end` of `found`. Was the batch that should follow durable once? Then the log is damaged.
/// Else whatever stands behind was never acknowledged: it is cut.
fn judge(
    history: &History,
    survey: &Survey,
    found: &Found,
    image: &[u8],
    end: u64,
    bad: Option<Bad>,
    options: &Options,
) -> Result<Option<Cut>, WalError> {
    let seq = history.seq + 1;
    let First::Used(SegmentHeader { boot, .. }, _) = found.first else { unreachable!("it is in the chain") };
    let mut stated = stated_durable(image, end as usize, found.id.0, boot);
    // A later segment that has batches, and no header to go with them.
    let mut beheaded = None;
    for later in survey.segments.iter().filter(|later| later.id > found.id) {
        if let Some(header) = later.header() {
            stated = stated.max(Some(header.durable));
        }
        let image = later.load(options)?;
        let batches = stated_durable(&image, 0, later.id.0, boot);
        if later.header().is_none() && batches.is_some() && beheaded.is_none() {
            beheaded = Some(later);
        }
        stated = stated.max(batches);
    }
    let what = match &bad {
        Some(Bad::Torn(what)) => (*what).to_owned(),
        _ => format!("batch {seq} is missing"),
    };
    let torn = matches!(bad, Some(Bad::Torn(_)));
    match stated {
        Some(durable) if durable >= seq => Err(match beheaded {
            Some(later) if !torn => {
                WalError::corrupt(&later.name, 0, "the segment header is damaged, and its batches are not")
            }
            _ => {
                let what = format!("{what}, and later batches say that all up to {durable} were durable");
                WalError::corrupt(&found.name, end, what)
            }
        }),
        None if !torn => Ok(None),
        _ => Ok(Some(Cut { file: found.name.clone(), offset: end, seq, what })),
    }
}

/// Segments before the chain were given up, or lost. They may have been given up only when a checkpoint covers them.
fn check_begin(history: &History, dir: &str) -> Result<(), WalError> {
    let Some((_, header, ..)) = history.chain.first() else { return Ok(()) };
    if header.predecessor == 0 {
        return Ok(());
    }
    let needed = header.position.last_index.max(history.replay.headless_index);
    let covered = history.replay.position.checkpoint_index;
    if needed > covered {
        let what = format!(
            "the segment is missing: the log before {} reached entry {needed}, and the newest checkpoint covers \
             only {covered}",
            SegmentId(header.number)
        );
        return Err(WalError::corrupt(&SegmentId(header.predecessor).path(dir), 0, what));
    }
    Ok(())
}

/// What the fresh segment's header says of its predecessor.
struct End {
    /// Segments of the chain that stay in it.
    links: usize,
    log: Option<u64>,
    predecessor: u64,
    predecessor_end: u64,
    seq: u64,
    crc: u32,
}

impl End {
    /// The newest segments are left out when they have no batch: the fresh one takes their place in the chain, so
    /// that starts which write nothing do not use up the disk.
    fn of(reading: &Reading) -> End {
        let log = reading.chain.first().map(|(_, header, ..)| header.log);
        let mut end =
            End { links: 0, log, predecessor: 0, predecessor_end: 0, seq: reading.seq, crc: reading.crc };
        for (at, &(id, header, bytes, _)) in reading.chain.iter().enumerate().rev() {
            if bytes > BLOCK as u64 {
                let (predecessor, predecessor_end) = (id.0, bytes);
                return End { links: at + 1, predecessor, predecessor_end, ..end };
            }
            assert_eq!(end.seq, header.seq, "a segment without batches ends with its header");
            end.seq = header.seq - 1;
            end.crc = header.previous_crc;
            (end.predecessor, end.predecessor_end) = (header.predecessor, header.predecessor_end);
        }
        end
    }
}

/// Which of the files that are left over becomes the fresh segment. Until that has its name, a leftover whose header
/// survived must not lose the one that it names as its predecessor, though that one's own header was torn: the next
/// start would take it for the begin of the log. So the newest goes first. `last` stays: no batch is left of the log, and
/// what is known of it stands in this one's header alone.
fn reused(leftover: &[&Found], last: Option<SegmentId>, options: &Options) -> Option<SegmentId> {
    for found in leftover.iter().rev().filter(|found| Some(found.id) != last) {
        if found.bytes == options.segment_bytes {
            return Some(found.id);
        }
        if found.header().is_some() {
            break;
        }
    }
    None
}

/// Phase two.
fn open(reading: &Reading, covered: Index) -> Result<Wal, WalError> {
    let Reading { files, dir, options, survey, position, .. } = reading;
    let (files, options) = (&**files, *options);
    let end = End::of(reading);
    let mut chain = reading.chain[..end.links].to_vec();
    let in_chain = |id: SegmentId| chain.iter().any(|&(link, ..)| link == id);
    for found in survey.segments.iter().filter(|found| in_chain(found.id) && !base::bug!(KilledWritesTrusted))
    {
        found.file.sync().map_err(|error| WalError::io(format!("sync {}", found.name), error))?;
    }
    for name in &survey.temporary {
        files.remove(name).map_err(|error| WalError::io(format!("remove {name}"), error))?;
    }

    let leftover: Vec<&Found> = survey.segments.iter().filter(|found| !in_chain(found.id)).collect();
    let last = reading.chain.last().filter(|_| chain.is_empty());
    let mut reused = reused(&leftover, last.map(|&(id, ..)| id), &options);
    let covered = covered.min(position.checkpoint_index);
    if leftover.is_empty()
        && chain.len() > 1
        && let ((id, first, _, max_index), (_, next, ..)) = (chain[0], chain[1])
        && max_index.max(next.position.last_index) <= covered
        && first.segment_bytes == options.segment_bytes
    {
        // The next one knows all that is still needed of it, and is durable by now (law 4).
        chain.remove(0);
        reused = Some(id);
    }
    let (mut spares, mut doomed) = (Vec::new(), Vec::new());
    for found in leftover.iter().filter(|found| Some(found.id) != reused) {
        let reusable = found.bytes == options.segment_bytes && spares.len() < LOG_SPARE_SEGMENTS;
        if reusable { spares.push(found.id) } else { doomed.push(found.id) }
    }

    let number = SegmentId(survey.highest + 1);
    let log = end.log.unwrap_or(options.boot);
    let options = Options { boot: boot_of(log, options.boot), ..options };
    let header = SegmentHeader {
        log,
        number: number.0,
        boot: options.boot,
        seq: end.seq + 1,
        durable: end.seq,
        predecessor: end.predecessor,
        predecessor_end: end.predecessor_end,
        previous_crc: end.crc,
        segment_bytes: options.segment_bytes,
        started: true,
        position: *position,
    };
    let mut block = AlignedBuf::zeroed(BLOCK);
    let header_crc = header.encode(&mut block);
    let made = match reused {
        Some(from) => reuse(files, dir, from, number, &block),
        None => create(files, dir, number, options.segment_bytes, Some(&block)),
    };
    let file = made.and_then(|()| files.open(&number.path(dir), OpenMode::ReadWrite));
    let file = file.map_err(|error| WalError::io(format!("make the log segment {number}"), error))?;

    // The start that comes next wants a segment as this one did, and may find the disk full. A log that has held records
    // sees to it while it runs.
    let mut ready = VecDeque::new();
    if chain.is_empty() && spares.is_empty() {
        let number = SegmentId(number.0 + 1);
        let made = create(files, dir, number, options.segment_bytes, None);
        let file = made.and_then(|()| files.open(&number.path(dir), OpenMode::ReadWrite));
        let file = file.map_err(|error| WalError::io(format!("make the log segment {number}"), error))?;
        ready.push_back((number, file));
    }

    let mut marks = VecDeque::new();
    let mut sealed = VecDeque::new();
    let mut log_bytes = 0;
    for &(number, old, end, max_index) in &chain {
        log_bytes += end;
        marks.push_back((max_index, log_bytes));
        // Whatever follows it in the chain is durable by now.
        sealed.push_back(Sealed { number, bytes: old.segment_bytes, max_index, successor_seq: header.seq });
    }
    let current = Current { number, file, bytes: options.segment_bytes, end: BLOCK as u64, max_index: 0 };
    Ok(Wal::start(Start {
        dir: dir.clone(),
        options,
        log: header.log,
        position: *position,
        seq: header.seq,
        crc: header_crc,
        current,
        sealed,
        ready,
        spares,
        doomed,
        marks,
    }))
}
