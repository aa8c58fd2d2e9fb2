//! From the records of counted batches back to hard state, entries and checkpoint.
//!
//! Invariant: `entries` are consecutive, and the last one is `position.last_index` unless a checkpoint or restart
//! stands there. A record counts when all its parts were read; parts that no crash explains are an error.
//! Entries that nobody wants are checked like all others, and their data is not kept.

use base::{Index, Term};

use crate::layout::{RECORD_HEADER, RecordHeader, RecordKind};
use crate::position::Position;
use crate::{Entry, HardState};

pub(crate) struct Replay {
    pub(crate) position: Position,
    pub(crate) entries: Vec<Entry>,
    /// The highest entry of which the current segment has a part.
    pub(crate) max_index: Index,
    /// An entry that began before the oldest segment: it ended here, its data is not known.
    pub(crate) headless_index: Index,
    /// No record has begun yet, so parts without a begin may be the rest of one in a released segment.
    headless: bool,
    /// Entries below are not kept.
    wanted: Index,
    /// An entry that has begun, and the bytes of it that were read.
    partial: Option<(Entry, u64)>,
}

impl Replay {
    /// `headless`: the oldest segment had a predecessor in the same start of the process. Entries from `wanted` on are
    /// kept.
    pub(crate) fn new(position: Position, headless: bool, wanted: Index) -> Replay {
        let (entries, partial) = (Vec::new(), None);
        Replay { position, entries, max_index: 0, headless_index: 0, headless, wanted, partial }
    }

    /// The next segment begins. `started`: by a start of the process, so nobody goes on with an unfinished record.
    pub(crate) fn segment(&mut self, started: bool) {
        self.max_index = 0;
        if started {
            self.partial = None;
            self.headless = false;
        }
    }

    pub(crate) fn batch(&mut self, mut payload: &[u8]) -> Result<(), String> {
        while !payload.is_empty() {
            let header = payload.get(..RECORD_HEADER).and_then(RecordHeader::decode);
            let header = header.ok_or("a record header is not one")?;
            let rest = &payload[RECORD_HEADER..];
            let data = rest.get(..header.length as usize).ok_or("a record is longer than its batch")?;
            payload = &rest[data.len()..];
            self.record(&header, data)?;
        }
        Ok(())
    }

    fn record(&mut self, header: &RecordHeader, data: &[u8]) -> Result<(), String> {
        if header.kind == RecordKind::Entry {
            return self.part(header, data);
        }
        if !(header.first && header.last && data.is_empty()) || self.partial.is_some() {
            return Err("a record stands where the part of another belongs".to_owned());
        }
        self.headless = false;
        match header.kind {
            RecordKind::HardState => {
                self.position.hard_state =
                    HardState { term: header.term, vote: header.index, commit: header.total };
            }
            RecordKind::Checkpoint => self.checkpoint(header.index, header.term, header.total),
            RecordKind::Restart => {
                let covered = self.position.checkpoint_index;
                if header.index < covered {
                    return Err(format!(
                        "the log begins again at {} below a checkpoint at {covered}",
                        header.index
                    ));
                }
                self.entries.clear();
                self.position.restart(header.index, header.term);
            }
            RecordKind::Entry => unreachable!("taken above"),
        }
        Ok(())
    }

    /// A checkpoint leaves the entries above it; one that contradicts the log is a snapshot that replaced it.
    fn checkpoint(&mut self, index: Index, term: Term, sequence: u64) {
        let first = self.entries.first().map_or(0, |entry| entry.index);
        let known = index.checked_sub(first).and_then(|at| self.entries.get(at as usize));
        if known.is_some_and(|entry| entry.term != term) {
            self.entries.clear();
            self.position.restart(index, term);
            self.position.checkpoint(index, term, sequence);
        } else if self.position.checkpoint(index, term, sequence) {
            self.entries.clear();
        }
    }

    fn part(&mut self, header: &RecordHeader, data: &[u8]) -> Result<(), String> {
        let RecordHeader { term, index, total, entry_kind, .. } = *header;
        self.max_index = self.max_index.max(index);
        if header.first {
            if self.partial.is_some() {
                return Err(format!("entry {index} begins before another has ended"));
            }
            self.headless = false;
            let kept = if index < self.wanted { Vec::new() } else { data.to_vec() };
            let entry = Entry { term, index, kind: entry_kind, data: kept };
            self.partial = Some((entry, data.len() as u64));
        } else {
            match &mut self.partial {
                Some((entry, read)) if (entry.term, entry.index, entry.kind) == (term, index, entry_kind) => {
                    *read += data.len() as u64;
                    if index >= self.wanted {
                        entry.data.extend_from_slice(data);
                    }
                }
                None if self.headless => {
                    if header.last {
                        self.check_index(index)?;
                        self.position.entry(index, term);
                        self.headless_index = index;
                    }
                    return Ok(());
                }
                _ => return Err(format!("a part of entry {index} has no begin")),
            }
        }
        if !header.last {
            return Ok(());
        }
        let (entry, read) = self.partial.take().expect("set above");
        if read != total {
            return Err(format!("entry {index} has {read} bytes instead of {total}"));
        }
        self.check_index(index)?;
        self.position.entry(index, term);
        if index < self.wanted {
            self.entries.clear();
            return Ok(());
        }
        let first = self.entries.first().map_or(index, |entry| entry.index);
        self.entries.truncate(index.saturating_sub(first) as usize);
        assert!(self.entries.last().is_none_or(|last| last.index + 1 == index), "entries are consecutive");
        self.entries.push(entry);
        Ok(())
    }

    fn check_index(&self, index: Index) -> Result<(), String> {
        let last = self.position.last_index;
        if index == 0 || index - 1 > last {
            return Err(format!("entry {index} follows entry {last}"));
        }
        // What a checkpoint covers is applied, and so committed: nothing supersedes it.
        let covered = self.position.checkpoint_index;
        if index <= covered {
            return Err(format!("entry {index} supersedes what a checkpoint at {covered} covers"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(kind: RecordKind, term: Term, index: u64, total: u64) -> RecordHeader {
        RecordHeader { kind, first: true, last: true, entry_kind: 0, length: 0, term, index, total }
    }

    fn entry(replay: &mut Replay, index: Index, term: Term) -> Result<(), String> {
        replay.record(&header(RecordKind::Entry, term, index, 0), &[])
    }

    fn state(replay: &Replay) -> (Vec<(Index, Term)>, Index) {
        (replay.entries.iter().map(|e| (e.index, e.term)).collect(), replay.position.last_index)
    }

    #[test]
    fn later_entries_supersede_and_gaps_are_refused() {
        let mut replay = Replay::new(Position::default(), false, 0);
        for index in 1..=4 {
            entry(&mut replay, index, 1).unwrap();
        }
        entry(&mut replay, 3, 2).unwrap();
        assert_eq!(state(&replay), (vec![(1, 1), (2, 1), (3, 2)], 3));
        assert!(entry(&mut replay, 5, 2).is_err());
        assert!(entry(&mut replay, 0, 2).is_err());
        entry(&mut replay, 1, 3).unwrap();
        assert_eq!(state(&replay), (vec![(1, 3)], 1));
    }

    #[test]
    fn checkpoints_keep_entries_and_restarts_do_not() {
        let fresh = || {
            let mut replay = Replay::new(Position::default(), false, 0);
            (1..=4).for_each(|index| entry(&mut replay, index, 1).unwrap());
            replay
        };
        let mut replay = fresh();
        replay.record(&header(RecordKind::Checkpoint, 1, 2, 0), &[]).unwrap();
        assert_eq!(state(&replay).1, 4);
        assert_eq!(replay.entries.len(), 4);

        for (kind, term, index) in
            [(RecordKind::Restart, 1, 2), (RecordKind::Restart, 3, 9), (RecordKind::Checkpoint, 3, 9)]
        {
            let mut replay = fresh();
            replay.record(&header(kind, term, index, 0), &[]).unwrap();
            assert_eq!(state(&replay), (vec![], index));
            entry(&mut replay, index + 1, 3).unwrap();
            assert_eq!(state(&replay), (vec![(index + 1, 3)], index + 1));
        }
        // A checkpoint of another term than the entry has: the log was replaced.
        let mut replay = fresh();
        replay.record(&header(RecordKind::Checkpoint, 2, 3, 0), &[]).unwrap();
        assert_eq!(state(&replay), (vec![], 3));
    }

    #[test]
    fn entries_that_nobody_wants_leave_the_rest_as_it_is() {
        let mut replay = Replay::new(Position::default(), false, 4);
        let data = |index, term, data: &[u8]| {
            let header = header(RecordKind::Entry, term, index, data.len() as u64);
            (RecordHeader { length: data.len() as u32, ..header }, data.to_vec())
        };
        let run = |replay: &mut Replay, from: Index, to: Index, term: Term| {
            for index in from..=to {
                let (header, data) = data(index, term, &[index as u8; 9]);
                replay.record(&header, &data).unwrap();
            }
        };
        run(&mut replay, 1, 3, 1);
        assert_eq!(state(&replay), (vec![], 3));
        run(&mut replay, 4, 6, 1);
        assert_eq!(state(&replay), (vec![(4, 1), (5, 1), (6, 1)], 6));
        // What supersedes an entry below voids all that are kept.
        run(&mut replay, 2, 2, 2);
        assert_eq!(state(&replay), (vec![], 2));
        run(&mut replay, 3, 5, 2);
        assert_eq!(state(&replay), (vec![(4, 2), (5, 2)], 5));
        assert_eq!(replay.entries[0].data, [4; 9]);
        assert!(entry(&mut replay, 7, 2).is_err(), "a gap is one all the same");
        // The length is checked though nothing is kept.
        let (mut short, bytes) = data(1, 3, &[0; 9]);
        short.total = 10;
        assert!(replay.record(&short, &bytes).is_err());
    }

    #[test]
    fn an_entry_counts_when_all_its_parts_are_there() {
        let part = |first, last, data: &[u8]| {
            let mut header = header(RecordKind::Entry, 1, 1, 4);
            (header.first, header.last, header.length) = (first, last, data.len() as u32);
            (header, data.to_vec())
        };
        let run = |replay: &mut Replay, parts: &[(RecordHeader, Vec<u8>)]| {
            parts.iter().try_for_each(|(header, data)| replay.record(header, data))
        };
        let (begin, middle, end) =
            (part(true, false, b"ab"), part(false, false, b"c"), part(false, true, b"d"));
        let mut replay = Replay::new(Position::default(), false, 0);
        run(&mut replay, &[begin.clone(), middle.clone()]).unwrap();
        assert!(replay.entries.is_empty());
        run(&mut replay, std::slice::from_ref(&end)).unwrap();
        assert_eq!(replay.entries[0].data, b"abcd");

        // A start leaves the unfinished one behind.
        let mut replay = Replay::new(Position::default(), false, 0);
        run(&mut replay, std::slice::from_ref(&begin)).unwrap();
        replay.segment(true);
        run(&mut replay, &[begin.clone(), middle.clone(), end.clone()]).unwrap();
        assert_eq!(replay.entries.len(), 1);

        for wrong in [
            vec![end.clone()],
            vec![begin.clone(), begin.clone()],
            vec![begin.clone(), end.clone()],
            vec![begin.clone(), (header(RecordKind::HardState, 1, 1, 1), vec![])],
        ] {
            assert!(run(&mut Replay::new(Position::default(), false, 0), &wrong).is_err());
        }
        // The rest of an entry whose begin was released with its segment.
        let mut replay = Replay::new(Position::default(), true, 0);
        run(&mut replay, &[middle.clone(), end.clone()]).unwrap();
        assert_eq!((replay.headless_index, state(&replay)), (1, (vec![], 1)));
        assert!(run(&mut replay, &[header(RecordKind::HardState, 1, 1, 1)].map(|h| (h, vec![]))).is_ok());
        assert!(run(&mut replay, &[end]).is_err());
    }
}
