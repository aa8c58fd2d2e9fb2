//! Log segments: recovery over damaged files (`wal`).
//!
//! Laws: recovery refuses or answers, and does neither by a panic; without false checksums its answer is a state that
//! the log once had, and all of it as long as the last write (which says that all before it was durable) is whole; or the
//! last batch with its segment's header, while nothing was given up that only the header of a later start repeats; a
//! refusal changes no file; what was recovered is recovered again, and can be added to. With false checksums the first of
//! these is open: somebody forged the log, and gets what it says or a refusal.
//!
//! Input: a script of appends, flushes and restarts, then edits ([`crate::damage`]) of the files.

use base::crc32c;
use base::limits::SEGMENTS_READY;
use disk::{BLOCK, SimFiles};
use wal::{Entry, HardState, Options, Record, Recovered, Wal, WalError};

use crate::choices::Choices;
use crate::damage::{self, Image, put_u32, u32_at};
use crate::meter::bounded;

const DIR: &str = "log";

/// Small enough that a short script meets every border.
fn options(boot: u64) -> Options {
    Options { segment_bytes: 6 * BLOCK as u64, batch_bytes: 2 * BLOCK, in_flight: 3, boot }
}

fn recover(files: &SimFiles, boot: u64) -> Result<(Wal, Recovered), WalError> {
    Wal::recover(damage::shared(files), DIR, options(boot))
}

/// What the log says; the front of `entries` may be released.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    hard_state: HardState,
    entries: Vec<Entry>,
    last: (u64, u64),
    checkpoint: (u64, u64),
    sequence: u64,
}

impl State {
    fn agrees(&self, found: &Recovered) -> bool {
        let commit = self.hard_state.commit.min(self.last.0);
        let checkpoint = (self.checkpoint.0 > 0).then_some(self.checkpoint);
        (HardState { commit, ..self.hard_state }) == found.hard_state
            && (self.last, checkpoint, self.sequence)
                == (found.last, found.checkpoint, found.checkpoint_sequence)
            && self.entries.ends_with(&found.entries)
            && self.entries[..self.entries.len() - found.entries.len()]
                .iter()
                .all(|entry| entry.index <= self.checkpoint.0)
    }
}

struct Writer {
    files: SimFiles,
    wal: Wal,
    state: State,
    /// After each record, the empty log first.
    states: Vec<State>,
    boot: u64,
    /// Segments may have been given up.
    released: bool,
}

impl Writer {
    fn new() -> Writer {
        let files = SimFiles::new();
        let (wal, _) = recover(&files, 1).expect("a new log");
        let state = State::default();
        Writer { files, wal, states: vec![state.clone()], state, boot: 1, released: false }
    }

    fn append(&mut self, record: Record<'_>) {
        self.wal.append(record);
        match record {
            Record::HardState(hard_state) => self.state.hard_state = hard_state,
            Record::Entry { term, index, kind, data } => {
                self.state.entries.retain(|old| old.index < index);
                self.state.entries.push(Entry { term, index, kind, data: data.to_vec() });
                self.state.last = (index, term);
            }
            Record::Checkpoint { index, term, sequence } => {
                self.state.sequence = sequence;
                self.state.checkpoint = (index, term);
            }
            Record::Restart { index, term } => {
                self.state.entries.clear();
                (self.state.checkpoint, self.state.last) = ((index, term), (index, term));
            }
        }
        self.states.push(self.state.clone());
    }

    /// Brings everything to the disk.
    fn settle(&mut self) {
        loop {
            if let Some(job) = self.wal.wants_segment(SEGMENTS_READY) {
                self.wal.segment_ready(job.run(&self.files).expect("no fault"));
            }
            let Some(write) = self.wal.submit() else { break };
            write.perform().expect("no fault");
            self.wal.written(write.seq, write.buf);
        }
        assert_eq!((self.wal.unsubmitted_bytes(), self.wal.in_flight()), (0, 0));
    }

    fn step(&mut self, choices: &mut Choices<'_>) {
        let term = self.state.hard_state.term.max(self.state.last.1).max(1);
        let (last, checkpoint) = (self.state.last.0, self.state.checkpoint.0);
        match choices.below(10) {
            0..=2 => {
                let data = vec![choices.byte(); choices.below(40) * 300];
                self.append(Record::Entry { term, index: last + 1, kind: 0, data: &data });
            }
            3 if last > checkpoint => {
                let back = choices.below((last - checkpoint).min(4) as usize) as u64;
                self.append(Record::Entry { term: term + 1, index: last - back, kind: 1, data: b"again" });
            }
            4 => {
                let vote = u64::from(choices.byte());
                self.append(Record::HardState(HardState { term, vote, commit: last }));
            }
            5 if last > checkpoint => {
                let index = checkpoint + 1 + choices.below((last - checkpoint) as usize) as u64;
                let entry = self.state.entries.iter().find(|entry| entry.index == index);
                let term = entry.expect("above the checkpoint").term;
                self.append(Record::Checkpoint { index, term, sequence: self.state.sequence + 1 });
            }
            6 if choices.below(4) == 3 => {
                self.append(Record::Restart { index: last + 2, term: term + 1 });
            }
            7 => {
                self.settle();
                self.wal.release_to(checkpoint);
                self.released = true;
            }
            8 => {
                self.settle();
                self.boot += 1;
                let (wal, found) = recover(&self.files, self.boot).expect("an undamaged log is read");
                assert!(self.state.agrees(&found) && found.cut.is_none(), "what was written is read");
                self.state.entries = found.entries;
                self.wal = wal;
                let state = self.state.clone();
                self.states.push(state);
            }
            _ => self.settle(),
        }
    }
}

/// Gives all headers right checksums, and each the checksum of the one before it.
fn seal(image: &mut Image) {
    for bytes in image.values_mut().filter(|bytes| bytes.len() >= BLOCK && bytes[..8] == *b"MSTYSEGM") {
        let crc = crc32c(&bytes[..BLOCK - 4]);
        put_u32(bytes, BLOCK - 4, crc);
        let mut previous = crc;
        let number: [u8; 8] = bytes[16..24].try_into().expect("eight bytes");
        for at in (BLOCK..bytes.len() - bytes.len() % BLOCK).step_by(BLOCK) {
            // What an earlier life of the file left carries another number.
            if bytes[at..at + 8] != *b"MSTYBTCH" || bytes[at + 8..at + 16] != number {
                continue;
            }
            let payload = at + 72..(at + 72).saturating_add(u32_at(bytes, at + 48) as usize);
            if let Some(payload) = bytes.get(payload) {
                let crc = crc32c(payload);
                put_u32(bytes, at + 52, crc);
            }
            put_u32(bytes, at + 56, previous);
            previous = crc32c(&bytes[at..at + 68]);
            put_u32(bytes, at + 68, previous);
        }
    }
}

/// What stays when a recovery is repeated.
fn lasting(found: &Recovered) -> Recovered {
    Recovered { cut: None, ..found.clone() }
}

pub fn check(input: &[u8]) {
    bounded(64 << 20, || run(input));
}

fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    let flags = choices.byte();
    let mut writer = Writer::new();
    for _ in 0..choices.below(24) {
        writer.step(&mut choices);
    }
    writer.settle();
    if writer.wal.affirm() {
        writer.settle();
    }
    let whole = damage::image(&writer.files, DIR);
    let mut image = whole.clone();
    let names: Vec<String> = image.keys().cloned().collect();
    while !choices.is_empty() {
        let name = &names[choices.below(names.len())];
        if choices.below(16) == 15 {
            image.remove(name);
        } else if let Some(bytes) = image.get_mut(name) {
            damage::edit(&mut choices, bytes);
        }
    }
    let forged = flags & 1 != 0;
    if forged {
        seal(&mut image);
        let mut sealed = whole.clone();
        seal(&mut sealed);
        assert!(sealed == whole, "seals are what the log writes");
    }

    let files = damage::world(&image);
    let found = recover(&files, 1000);
    let (wal, found) = match found {
        Err(WalError::Io { what, source }) => panic!("no call failed, and yet: {what}: {source}"),
        Err(error) => {
            assert!(image != whole, "an undamaged log is read: {error}");
            assert!(damage::image(&files, DIR) == image, "a refusal changes nothing");
            return;
        }
        Ok(found) => found,
    };
    if !forged {
        let is_whole = |tail: Option<Place<'_>>| {
            tail.is_some_and(|(_, name, at, length)| {
                // A block of which a part was cut off is not read; what pads the last one does not matter.
                let there = |image: &Image| {
                    let bytes = image.get(name)?.get(at..at + length.next_multiple_of(BLOCK))?;
                    Some(bytes[..length].to_vec())
                };
                there(&image) == there(&whole)
            })
        };
        let last_batch = last_batch(&whole);
        let last_write = last_batch.max(last_header(&whole));
        // A batch whose segment has lost its header may have been in flight with it.
        let its_header = last_batch.map(|(seq, name, ..)| (seq, name, 0, BLOCK));
        let batch_is_whole = is_whole(last_batch) && is_whole(its_header);
        let tail_is_whole = is_whole(last_write) || (!writer.released && batch_is_whole);
        let allowed =
            if tail_is_whole { &writer.states[writer.states.len() - 1..] } else { &writer.states[..] };
        assert!(
            allowed.iter().any(|state| state.agrees(&found)),
            "recovered {:?} and not {:?}; the end is whole: {tail_is_whole}",
            brief(
                &found.entries,
                (found.hard_state, found.last, found.checkpoint, found.checkpoint_sequence)
            ),
            brief(&writer.state.entries, State { entries: Vec::new(), ..writer.state.clone() }),
        );
    }
    goes_on(&files, wal, &found);
}

/// What a message says of a log.
fn brief(entries: &[Entry], more: impl std::fmt::Debug) -> String {
    let entries: Vec<(u64, u64, usize)> = entries.iter().map(|e| (e.index, e.term, e.data.len())).collect();
    format!("{entries:?} {more:?}")
}

/// Sequence, file, offset and length of a write.
type Place<'a> = (u64, &'a String, usize, usize);

/// The header of the newest segment in use.
fn last_header(image: &Image) -> Option<Place<'_>> {
    let number =
        |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let headers = image.iter().filter(|(name, bytes)| {
        // What was recycled and not used since carries its old number.
        bytes[..8] == *b"MSTYSEGM" && **name == format!("{DIR}/{:08}.seg", number(bytes, 16))
    });
    headers.map(|(name, bytes)| (number(bytes, 40), name, 0, BLOCK)).max()
}

/// The last batch.
fn last_batch(image: &Image) -> Option<Place<'_>> {
    let seq = |bytes: &[u8], at: usize| {
        u64::from_le_bytes(bytes[at + 24..at + 32].try_into().expect("eight bytes"))
    };
    let batches = image.iter().flat_map(|(name, bytes)| {
        let number = u64::from_le_bytes(bytes[16..24].try_into().expect("eight bytes"));
        let ours = move |at: &usize| {
            bytes[*at..*at + 8] == *b"MSTYBTCH" && bytes[*at + 8..*at + 16] == number.to_le_bytes()
        };
        (BLOCK..bytes.len())
            .step_by(BLOCK)
            .filter(ours)
            .map(move |at| (seq(bytes, at), name, at, 72 + u32_at(bytes, at + 48) as usize))
    });
    batches.max()
}

/// What was recovered is there for good, and the log takes more.
fn goes_on(files: &SimFiles, wal: Wal, found: &Recovered) {
    drop(wal);
    let (wal, again) = recover(files, 1001).expect("what was read is read again");
    assert!(again == lasting(found), "the same again");
    let (last, term) = found.last;
    if last > 1 << 60 || term > 1 << 60 {
        return;
    }
    let mut writer = Writer {
        files: files.clone(),
        wal,
        state: State::default(),
        states: Vec::new(),
        boot: 1001,
        released: false,
    };
    writer.append(Record::Entry { term: term + 1, index: last + 1, kind: 2, data: b"one more" });
    writer.settle();
    drop(writer);
    let (_, more) = recover(files, 1002).expect("what was added is read");
    assert_eq!(more.last, (last + 1, term + 1));
    assert_eq!(more.entries.last().map(|entry| &entry.data[..]), Some(&b"one more"[..]));
    assert_eq!(more.entries.len(), found.entries.len() + 1);
}

pub fn seeds() -> Vec<(String, Vec<u8>)> {
    // Steps of `Writer::step`: appends of some sizes, a flush, a vote, a checkpoint, a restart of the process.
    let script: &[u8] = &[0, 1, 1, 1, 2, 20, 9, 4, 7, 0, 3, 39, 5, 0, 7, 1, 4, 30, 8, 2, 5, 10, 3, 0, 9];
    let with = |flags: u8, steps: u8, edits: &[u8]| [&[flags, steps], script, edits].concat();
    vec![
        ("seed-whole".into(), with(0, 12, &[])),
        ("seed-flipped".into(), with(0, 12, &[0, 0, 0, 1, 40, 255])),
        ("seed-zeroed".into(), with(0, 12, &[1, 0, 4, 1, 3])),
        (
            "seed-forged-sequence".into(),
            with(1, 12, &[0, 0, 2, 1, 24, 3, 255, 255, 255, 255, 255, 255, 255, 255]),
        ),
        (
            "seed-forged-position".into(),
            with(1, 12, &[1, 0, 2, 0, 104, 3, 255, 255, 255, 255, 255, 255, 255, 255]),
        ),
        ("seed-forged-length".into(), with(1, 12, &[0, 0, 2, 1, 48, 2, 255, 255, 255, 255])),
        ("seed-removed".into(), with(0, 12, &[0, 15])),
        ("seed-cut".into(), with(0, 12, &[1, 0, 7, 1, 0])),
    ]
}
