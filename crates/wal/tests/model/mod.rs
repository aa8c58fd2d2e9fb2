//! A log on a simulated disk beside a model of what it must hold: every record that was appended, in order. What a
//! recovery returns must be the state after some prefix of them, at least as long as what was acknowledged.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::BTreeSet;
use std::sync::Arc;

use base::Random;
use base::limits::SEGMENTS_READY;
use disk::{BLOCK, Files, SimFiles};
use mainstay_wal::{Entry, HardState, Options, Record, Recovered, SegmentId, Wal, WalError, Write};

pub const DIR: &str = "log";

/// Small segments and batches, so that a short script meets every border. Some starts have so small ones that whole
/// segments are in flight together. The upper half of the boot number is what a client would have to guess; each start
/// draws its own, as those of a server do.
pub fn options(boot: u64) -> Options {
    let (blocks, in_flight) = if boot % 4 == 2 { (4, 8) } else { (8, 3) };
    let boot = boot | Random::new(boot).next_u64() << 32;
    Options { segment_bytes: blocks * BLOCK as u64, batch_bytes: 2 * BLOCK, in_flight, boot }
}

pub fn recover(files: &SimFiles, boot: u64) -> Result<(Wal, Recovered), WalError> {
    Wal::recover(Arc::new(files.clone()), DIR, options(boot))
}

/// The same, beside a data file that has everything up to `released`.
pub fn recover_beside(files: &SimFiles, boot: u64, released: u64) -> Result<(Wal, Recovered), WalError> {
    Wal::read(Arc::new(files.clone()), DIR, options(boot), 0)?.open(released)
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owned {
    HardState(HardState),
    Entry(Entry),
    Checkpoint(u64, u64),
    Restart(u64, u64),
}

/// What the log says after some records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub hard_state: HardState,
    pub entries: Vec<Entry>,
    pub last: (u64, u64),
    pub checkpoint: (u64, u64),
    pub sequence: u64,
}

/// The number of the data file's checkpoint: any, as long as both sides agree.
pub fn sequence(index: u64, term: u64) -> u64 {
    1000 * term + index
}

impl State {
    pub fn apply(&mut self, record: &Owned) {
        match record {
            Owned::HardState(state) => self.hard_state = *state,
            Owned::Entry(entry) => {
                self.entries.retain(|old| old.index < entry.index);
                self.entries.push(entry.clone());
                self.last = (entry.index, entry.term);
            }
            &Owned::Checkpoint(index, term) => {
                self.sequence = sequence(index, term);
                self.checkpoint = self.checkpoint.max((index, term));
                if index > self.last.0 {
                    self.entries.clear();
                    self.last = (index, term);
                }
            }
            &Owned::Restart(index, term) => {
                self.entries.clear();
                self.checkpoint = (index, term);
                self.last = (index, term);
            }
        }
    }

    pub fn of(records: &[Owned]) -> State {
        let mut state = State::default();
        records.iter().for_each(|record| state.apply(record));
        state
    }

    /// True when `recovered` says the same; entries up to `released` may be missing at the front.
    pub fn agrees(&self, recovered: &Recovered, released: u64) -> bool {
        let mut hard_state = self.hard_state;
        hard_state.commit = hard_state.commit.min(self.last.0);
        let checkpoint = (self.checkpoint.0 > 0).then_some(self.checkpoint);
        let found = (recovered.hard_state, recovered.checkpoint, recovered.last);
        if (hard_state, checkpoint, self.last) != found || self.sequence != recovered.checkpoint_sequence {
            return false;
        }
        let given_up = released.min(self.checkpoint.0);
        let missing = self.entries.len().checked_sub(recovered.entries.len());
        missing.is_some_and(|missing| {
            let (front, rest) = self.entries.split_at(missing);
            rest == recovered.entries && front.iter().all(|entry| entry.index <= given_up)
        })
    }
}

/// All that was appended to one log, over all its lives.
#[derive(Clone, Default)]
pub struct Model {
    pub records: Vec<Owned>,
    /// Records that were acknowledged.
    pub acked: usize,
    pub released: u64,
}

impl Model {
    /// Panics unless `recovered` is a prefix that covers everything acknowledged; forgets the rest.
    pub fn check(&mut self, recovered: &Recovered, context: &dyn Fn() -> String) {
        let mut state = State::of(&self.records[..self.acked]);
        let mut found = None;
        for count in self.acked..=self.records.len() {
            if count > self.acked {
                state.apply(&self.records[count - 1]);
            }
            if state.agrees(recovered, self.released) {
                found = Some(count);
            }
        }
        let Some(count) = found else {
            panic!(
                "{}: no prefix of {}..={} records agrees with {recovered:?}; acknowledged: {:?}",
                context(),
                self.acked,
                self.records.len(),
                State::of(&self.records[..self.acked]),
            )
        };
        self.records.truncate(count);
        // What was recovered can be lost no more.
        self.acked = count;
    }
}

/// One life of a log: a random script that a seed replays.
pub struct Life {
    pub wal: Wal,
    pub model: Model,
    pub random: Random,
    files: SimFiles,
    /// Handed out, on their way to the disk.
    outstanding: Vec<Write>,
    /// Blocks that this life has written, by segment (law 3).
    blocks: BTreeSet<(SegmentId, u64)>,
    state: State,
    votes: u64,
}

impl Life {
    /// Opens the log and checks what it holds.
    pub fn begin(files: &SimFiles, mut model: Model, seed: u64) -> Result<Life, WalError> {
        let (mut wal, recovered) = recover_beside(files, seed, model.released)?;
        model.check(&recovered, &|| format!("life {seed}"));
        wal.mark_ready(model.records.len() as u64);
        assert_eq!(wal.durable().ready, model.records.len() as u64, "nothing is on its way");
        let state = State::of(&model.records);
        let votes = model.records.len() as u64 * 1000;
        let (random, files) = (Random::new(seed), files.clone());
        Ok(Life { wal, model, random, files, outstanding: Vec::new(), blocks: BTreeSet::new(), state, votes })
    }

    pub fn append(&mut self, record: Owned) {
        match &record {
            Owned::HardState(state) => self.wal.append(Record::HardState(*state)),
            Owned::Entry(entry) => self.wal.append(Record::Entry {
                term: entry.term,
                index: entry.index,
                kind: entry.kind,
                data: &entry.data,
            }),
            &Owned::Checkpoint(index, term) => {
                self.wal.append(Record::Checkpoint { index, term, sequence: sequence(index, term) });
            }
            &Owned::Restart(index, term) => self.wal.append(Record::Restart { index, term }),
        }
        self.state.apply(&record);
        self.model.records.push(record);
        self.wal.mark_ready(self.model.records.len() as u64);
    }

    pub fn append_entry(&mut self, index: u64, term: u64, bytes: usize) {
        let mut data = vec![0; bytes];
        self.random.fill(&mut data);
        let kind = self.random.below(3) as u8;
        self.append(Owned::Entry(Entry { term, index, kind, data }));
    }

    pub fn append_hard_state(&mut self) {
        self.votes += 1;
        let (last, term) = self.state.last;
        let term = self.state.hard_state.term.max(term);
        self.append(Owned::HardState(HardState { term, vote: self.votes, commit: last }));
    }

    pub fn submit_all(&mut self) -> std::io::Result<()> {
        while let Some(write) = self.wal.submit() {
            for block in write.offset / BLOCK as u64..(write.offset + write.len as u64) / BLOCK as u64 {
                assert!(self.blocks.insert((write.segment, block)), "block {block} is written twice");
            }
            // In flight: it may reach the disk, in part, from now on.
            let sent = write.file.write_at(write.offset, write.data());
            self.outstanding.push(write);
            sent?;
        }
        Ok(())
    }

    /// Writes handed out and not completed.
    pub fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    pub fn complete(&mut self, at: usize) -> std::io::Result<()> {
        let write = self.outstanding.swap_remove(at);
        write.perform()?;
        if let Some(durable) = self.wal.written(write.seq, write.buf) {
            self.model.acked = self.model.acked.max(durable.ready as usize);
            let state = State::of(&self.model.records[..durable.ready as usize]);
            assert_eq!((durable.index, durable.term), state.last, "the durable position");
        }
        Ok(())
    }

    pub fn run_job(&mut self) -> std::io::Result<()> {
        if let Some(job) = self.wal.wants_segment(SEGMENTS_READY) {
            self.wal.segment_ready(job.run(&self.files)?);
        }
        Ok(())
    }

    /// Brings everything to the disk.
    pub fn settle(&mut self) -> std::io::Result<()> {
        loop {
            self.run_job()?;
            self.submit_all()?;
            if self.outstanding.is_empty() {
                assert_eq!((self.wal.unsubmitted_bytes(), self.wal.in_flight()), (0, 0));
                return Ok(());
            }
            while !self.outstanding.is_empty() {
                self.complete(0)?;
            }
        }
    }

    /// One random step; an error when the power went.
    pub fn step(&mut self) -> std::io::Result<()> {
        let (last, _) = self.state.last;
        let (checkpoint, _) = self.state.checkpoint;
        let term = self.state.hard_state.term.max(self.state.last.1).max(1);
        match self.random.below(100) {
            0..30 => {
                let bytes = match self.random.below(10) {
                    0..5 => self.random.below(300),
                    5..9 => self.random.below(2 * BLOCK as u64),
                    _ => 2 * BLOCK as u64 + self.random.below(6 * BLOCK as u64),
                };
                self.append_entry(last + 1, term, bytes as usize);
            }
            30..38 => self.append_hard_state(),
            38..42 if last > checkpoint => {
                let back = self.random.below((last - checkpoint).min(4));
                self.append_entry(last - back, term + 1, 50);
            }
            42..46 if last > checkpoint => {
                let index = checkpoint + 1 + self.random.below(last - checkpoint);
                let at = self.state.entries.iter().find(|entry| entry.index == index);
                let record = Owned::Checkpoint(index, at.expect("above the checkpoint").term);
                self.append(record);
            }
            46..47 => {
                let index = checkpoint + 1 + self.random.below(last - checkpoint + 5);
                self.append(Owned::Restart(index, term + 1));
            }
            47..53 => {
                let index = checkpoint.saturating_sub(self.random.below(3));
                self.model.released = self.model.released.max(index);
                self.wal.release_to(index);
            }
            53..70 => self.submit_all()?,
            70..92 if !self.outstanding.is_empty() => {
                let at = self.random.below(self.outstanding.len() as u64) as usize;
                self.complete(at)?;
            }
            92..98 => self.run_job()?,
            98..100 => {
                self.wal.affirm();
            }
            _ => {}
        }
        Ok(())
    }
}

/// Runs a life of `steps` on `files` until the power goes; what was appended and acknowledged.
pub fn script(files: &SimFiles, model: Model, seed: u64, steps: usize) -> Model {
    let before = model.clone();
    let mut life = match Life::begin(files, model, seed) {
        Ok(life) => life,
        Err(WalError::Io { .. }) if files.halted() => return before,
        Err(error) => panic!("seed {seed}: {error}"),
    };
    for _ in 0..steps {
        if let Err(error) = life.step() {
            assert!(files.halted(), "seed {seed}: {error}");
            break;
        }
    }
    life.model
}

/// Every file of the log, by name.
pub fn names(files: &SimFiles) -> Vec<String> {
    files.list(DIR).unwrap().into_iter().map(|name| format!("{DIR}/{name}")).collect()
}
