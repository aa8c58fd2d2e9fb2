//! The Raft log in memory, as the `raft` crate wants to read it.
//!
//! Holds the entries that are not yet applied and, when there are followers, some that are, bounded in entries and
//! bytes. What is durable is the `wal` crate's business: this is only a window on it.
//!
//! Invariant: the entries are contiguous and begin at `floor.0 + 1`; `floor` is an applied (index, term).

use std::collections::VecDeque;

use base::{Index, Term};
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, StorageError};

pub struct Log {
    hard_state: HardState,
    conf_state: ConfState,
    /// The last entry that is no longer here.
    floor: (Index, Term),
    entries: VecDeque<Entry>,
    bytes: usize,
}

impl Log {
    /// `entries` begin right after `floor` and are contiguous: recovery made sure of that.
    pub fn new(
        hard_state: HardState,
        conf_state: ConfState,
        floor: (Index, Term),
        entries: Vec<Entry>,
    ) -> Log {
        let bytes = entries.iter().map(|e| e.data.len()).sum();
        for (entry, index) in entries.iter().zip(floor.0 + 1..) {
            assert_eq!(entry.index, index, "the recovered log is contiguous");
        }
        Log { hard_state, conf_state, floor, entries: entries.into(), bytes }
    }

    pub fn set_hard_state(&mut self, hard_state: HardState) {
        assert!(hard_state.term >= self.hard_state.term, "a term never falls");
        self.hard_state = hard_state;
    }

    pub fn set_conf_state(&mut self, conf_state: ConfState) {
        self.conf_state = conf_state;
    }

    pub fn last(&self) -> Index {
        self.floor.0 + self.entries.len() as u64
    }

    /// Entries at or above the first new one are superseded.
    pub fn append(&mut self, entries: Vec<Entry>) {
        let Some(first) = entries.first() else { return };
        assert!(first.index > self.floor.0, "an applied entry is never superseded");
        assert!(first.index <= self.last() + 1, "the log has no gap");
        while self.last() >= first.index {
            if let Some(entry) = self.entries.pop_back() {
                self.bytes -= entry.data.len();
            }
        }
        self.bytes += entries.iter().map(|e| e.data.len()).sum::<usize>();
        self.entries.extend(entries);
    }

    /// Forgets applied entries beyond what `keep` entries and `keep_bytes` allow.
    pub fn trim(&mut self, applied: Index, keep: usize, keep_bytes: usize) {
        assert!(applied <= self.last(), "what is applied is in the log");
        while let Some(entry) = self.entries.front()
            && entry.index <= applied
            && ((applied - entry.index) as usize >= keep || self.bytes > keep_bytes)
        {
            self.floor = (entry.index, entry.term);
            self.bytes -= entry.data.len();
            self.entries.pop_front();
        }
    }

    fn position(&self, index: Index) -> raft::Result<usize> {
        if index <= self.floor.0 {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if index > self.last() {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        Ok((index - self.floor.0 - 1) as usize)
    }
}

impl raft::Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState { hard_state: self.hard_state.clone(), conf_state: self.conf_state.clone() })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        assert!(
            low <= high && high <= self.last() + 1,
            "raft asks for [{low}, {high}) of ..={}",
            self.last()
        );
        if low == high {
            return Ok(Vec::new());
        }
        let from = self.position(low)?;
        let to = self.position(high - 1)? + 1;
        let limit = max_size.into().unwrap_or(u64::MAX);
        let mut size = 0;
        let mut chosen = Vec::with_capacity(to - from);
        for entry in self.entries.range(from..to) {
            size += entry.data.len() as u64 + 16;
            if size > limit && !chosen.is_empty() {
                break;
            }
            chosen.push(entry.clone());
        }
        Ok(chosen)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.floor.0 {
            return Ok(self.floor.1);
        }
        Ok(self.entries[self.position(index)?].term)
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.floor.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, _request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        // Sending state to a follower comes with the peer layer; raft asks again later.
        Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::Storage;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, data: vec![0; 100].into(), ..Entry::default() }
    }

    #[test]
    fn a_later_term_supersedes_and_trimming_keeps_what_is_not_applied() {
        let mut log =
            Log::new(HardState::default(), ConfState::default(), (4, 1), vec![entry(5, 1), entry(6, 1)]);
        log.append(vec![entry(6, 2), entry(7, 2)]);
        assert_eq!(log.last(), 7);
        assert_eq!(log.term(6).unwrap(), 2);
        assert_eq!(log.term(4).unwrap(), 1);
        log.trim(6, 1, usize::MAX);
        assert_eq!(log.first_index().unwrap(), 6);
        log.trim(6, 10, 0);
        assert_eq!(log.first_index().unwrap(), 7, "the byte limit also trims");
        assert!(log.term(5).is_err());
        let got = log.entries(7, 8, None, GetEntriesContext::empty(false)).unwrap();
        assert_eq!(got.len(), 1);
    }
}
