//! Scripts over the log alone, beside a list of what was appended to it. What a recovery returns must be the state after
//! some first part of that list, at least as long as what was acknowledged.

use std::sync::Arc;

use base::Random;
use base::limits::SEGMENTS_READY;
use disk::sim::{KeepSet, Moment};
use disk::{BLOCK, SimFiles};
use wal::{Durable, Entry, HardState, Options, Record, Recovered, Wal, WalError, Write};

use super::faults::{Floor, LOG_BEHIND, Verdict};
use super::interleave::{interleaved, stopping};
use super::{Met, Promises, Script, guarded};
use crate::check::state;

const DIR: &str = "log";
/// What a client would have to guess of a boot number.
const SECRET: u64 = 0x5ec2_e700 << 32;
/// Processes of one run, and what each does.
const LIVES: usize = 3;
const STEPS: usize = 60;

#[derive(Clone, Debug)]
enum Owned {
    HardState(HardState),
    Entry(Entry),
    Checkpoint(u64, u64),
    Restart(u64, u64),
}

/// What the log says after some records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    hard_state: HardState,
    entries: Vec<Entry>,
    last: (u64, u64),
    checkpoint: (u64, u64),
    sequence: u64,
}

/// The number of the data file's checkpoint: any, as long as both sides agree.
fn sequence(index: u64, term: u64) -> u64 {
    1000 * term + index
}

impl State {
    fn of(records: &[Owned]) -> State {
        let mut state = State::default();
        records.iter().for_each(|record| state.apply(record));
        state
    }

    fn apply(&mut self, record: &Owned) {
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

    /// The last entry that `durable`, an earlier one, has as well, for good.
    fn common_with(&self, durable: &State) -> u64 {
        let same = |entry: &&Entry| {
            self.entries.iter().any(|other| (other.index, other.term) == (entry.index, entry.term))
        };
        let entry = durable.entries.iter().rfind(same).map_or(0, |entry| entry.index);
        entry.max(durable.checkpoint.0)
    }

    /// True when `recovered` says the same; entries up to `released` may be missing at the front.
    fn agrees(&self, recovered: &Recovered, released: u64) -> bool {
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

/// What was known at some moment.
#[derive(Clone, Debug, Default)]
struct Promise {
    life: usize,
    /// Of this life's records, those that were acknowledged and those that were appended.
    acked: usize,
    appended: usize,
    /// Of these, what was acknowledged when the newest write that is complete was handed out: that write says so.
    stated: usize,
    released: u64,
    durable: Option<(Durable, HardState)>,
}

pub(super) struct Subject {
    script: Script,
    moments: Vec<Moment>,
    promises: Vec<Promise>,
    /// What each life appended, after what it had found.
    lives: Vec<Vec<Owned>>,
    /// Of the promise that was looked at last: the states that a recovery may find.
    expected: Option<(u64, Vec<State>)>,
    met: Met,
}

fn options(script: Script, boot: u64) -> Options {
    let (blocks, in_flight) = match script {
        // So small that whole segments are in flight together; and of two sizes, so that some cannot be used again.
        Script::SegmentRecycling => (4 + boot % 2, 6),
        _ => (8, 3),
    };
    Options { segment_bytes: blocks * BLOCK as u64, batch_bytes: 2 * BLOCK, in_flight, boot: boot | SECRET }
}

/// `released`: what the data file is said to have. A start that finds it ahead of its log is refused, as `replica::open`
/// does (law 7): what the log says no more can have been given up, for the data file has it.
fn recover(files: &SimFiles, script: Script, released: u64, boot: u64) -> Result<(Wal, Recovered), String> {
    let text = |error: WalError| error.to_string();
    let reading = Wal::read(Arc::new(files.clone()), DIR, options(script, boot), 0).map_err(text)?;
    let (last, _) = reading.recovered().last;
    if last < released {
        return Err(format!("the data file has entries up to {released}, {LOG_BEHIND} {last}"));
    }
    reading.open(released).map_err(text)
}

impl super::Subject for Subject {
    /// How many of the records are there.
    type Found = usize;

    fn play(
        script: Script,
        seed: u64,
        promises: Promises,
        files: &SimFiles,
        _like: Option<&Subject>,
        until: u64,
    ) -> (Subject, Result<(), String>) {
        let mut random = Random::new(seed);
        let mut subject = Subject {
            script,
            moments: Vec::new(),
            promises: vec![Promise::default()],
            lives: vec![Vec::new()],
            expected: None,
            met: Met::default(),
        };
        let mut ended = Ok(());
        for _ in 0..LIVES {
            ended = guarded(|| Life::begin(&mut subject, files, &mut random, promises)?.run());
            if ended.is_err() || files.operations() > until {
                break;
            }
        }
        subject.moments = files.take_moments();
        (subject, ended)
    }

    fn promises(&self) -> u64 {
        self.promises.len() as u64
    }

    fn verdict(&mut self, files: &SimFiles, mark: u64, floor: Floor, boot: u64) -> Verdict {
        let recovered = match recover(files, self.script, self.promises[mark as usize].released, boot) {
            Ok((_, recovered)) => recovered,
            Err(text) => return Verdict::Refused(text),
        };
        let judged = self.judge(&recovered, mark);
        let Err(text) = judged else { return Verdict::Right };
        let promise = &self.promises[mark as usize];
        let given_up = floor == Floor::Nothing;
        let floor = match floor {
            Floor::Acknowledged => return Verdict::Wrong(text),
            Floor::Stated => promise.stated,
            Floor::Of(mark) => self.promises[mark as usize].stated,
            Floor::Nothing => 0,
        };
        // A device that lies may also lose segments, all that a checkpoint covers: whether the data file can do without
        // them is asked where there is one.
        let released = if given_up { u64::MAX } else { promise.released };
        let mut state = State::default();
        let mut after: Vec<usize> = Vec::new();
        if state.agrees(&recovered, released) {
            after.push(0);
        }
        for (number, record) in self.lives[promise.life][..promise.appended].iter().enumerate() {
            state.apply(record);
            if state.agrees(&recovered, released) {
                after.push(number + 1);
            }
        }
        match after.iter().any(|after| *after >= floor) {
            true => Verdict::Tail,
            false => Verdict::Wrong(format!("{text}; as after {after:?} of at least {floor}")),
        }
    }

    fn take_moments(&mut self) -> Vec<Moment> {
        std::mem::take(&mut self.moments)
    }

    fn met(&self) -> &Met {
        &self.met
    }

    fn reopen(&mut self, files: &SimFiles, mark: u64, boot: u64) -> Result<usize, String> {
        let released = self.promises[mark as usize].released;
        let (wal, recovered) = recover(files, self.script, released, boot)?;
        let found = self.judge(&recovered, mark)?;
        let promise = &self.promises[mark as usize];
        self.met.add("a torn tail cut", u64::from(recovered.cut.is_some()));
        self.met.add("more than was acknowledged", u64::from(found > promise.acked));
        self.met.add("less than was appended", u64::from(found < promise.appended));
        if (wal.durable().index, wal.durable().term) != recovered.last {
            return Err(format!("{:?} is durable, {:?} was recovered", wal.durable(), recovered.last));
        }
        Ok(found)
    }

    fn recover(&self, files: &SimFiles, mark: u64, boot: u64) -> Result<(), String> {
        recover(files, self.script, self.promises[mark as usize].released, boot).map(|_| ())
    }

    fn fall_back(&mut self, _files: &SimFiles, _mark: u64, _boot: u64) -> Result<bool, String> {
        Ok(false)
    }

    fn go_on(&mut self, files: &SimFiles, mark: u64, boot: u64) -> Result<(), String> {
        let released = self.promises[mark as usize].released;
        let (wal, recovered) = recover(files, self.script, released, boot)?;
        let found = self.judge(&recovered, mark)?;
        let promise = self.promises[mark as usize].clone();
        let mut next = Subject {
            script: self.script,
            moments: Vec::new(),
            promises: vec![Promise { acked: found, appended: found, life: 0, ..promise }],
            lives: vec![self.lives[promise.life][..found].to_vec()],
            expected: None,
            met: Met::default(),
        };
        let mut random = Random::new(boot);
        let mut life = Life::over(&mut next, files, &mut random, Promises::Kept, wal);
        life.left = 20;
        life.steps()?;
        let mark = next.promises.len() as u64 - 1;
        let lost = files.crash(&mut |count| KeepSet::random(count, &mut random));
        let (_, recovered) =
            recover(&lost, self.script, next.promises[mark as usize].released, random.next_u64())?;
        next.judge(&recovered, mark).map(|_| ())
    }
}

impl Subject {
    /// How many of the records `recovered` is the state of.
    fn judge(&mut self, recovered: &Recovered, mark: u64) -> Result<usize, String> {
        let promise = &self.promises[mark as usize];
        if let Some((durable, hard_state)) = &promise.durable {
            state::durable(durable, hard_state, recovered).map_err(|finding| finding.to_string())?;
        }
        if self.expected.as_ref().is_none_or(|(of, _)| *of != mark) {
            let records = &self.lives[promise.life];
            let mut states = vec![State::of(&records[..promise.acked])];
            for record in &records[promise.acked..promise.appended] {
                let mut state = states.last().expect("the first one").clone();
                state.apply(record);
                states.push(state);
            }
            self.expected = Some((mark, states));
        }
        let (_, states) = self.expected.as_ref().expect("made above");
        let found = states.iter().rposition(|state| state.agrees(recovered, promise.released));
        found.map(|more| promise.acked + more).ok_or_else(|| {
            format!(
                "no first part of {}..={} records agrees with {recovered:?}; acknowledged: {:?}",
                promise.acked, promise.appended, states[0]
            )
        })
    }
}

/// One process.
struct Life<'s> {
    subject: &'s mut Subject,
    files: &'s SimFiles,
    random: &'s mut Random,
    promises: Promises,
    wal: Wal,
    /// Handed out, on their way to the disk, with the records that were acknowledged by then.
    outstanding: Vec<(Write, usize)>,
    /// Steps that are left to this life.
    left: usize,
    state: State,
    /// Records that were handed out.
    submitted: usize,
    now: Promise,
}

impl<'s> Life<'s> {
    /// Opens the log; the one before was killed, or there was none.
    fn begin(
        subject: &'s mut Subject,
        files: &'s SimFiles,
        random: &'s mut Random,
        promises: Promises,
    ) -> Result<Life<'s>, String> {
        let mark = subject.promises.len() as u64 - 1;
        let released = subject.promises[mark as usize].released;
        let (wal, recovered) = recover(files, subject.script, released, random.next_u64())?;
        let found = subject.judge(&recovered, mark)?;
        let before = subject.promises.last().expect("the first one").clone();
        let records = subject.lives[before.life][..found].to_vec();
        subject.lives.push(records);
        let life = subject.lives.len() - 1;
        let promise = Promise { life, acked: found, appended: found, stated: found, durable: None, ..before };
        subject.promises.push(promise);
        Ok(Life::over(subject, files, random, promises, wal))
    }

    /// Goes on where the newest promise stands.
    fn over(
        subject: &'s mut Subject,
        files: &'s SimFiles,
        random: &'s mut Random,
        promises: Promises,
        mut wal: Wal,
    ) -> Life<'s> {
        let now = subject.promises.last().expect("the first one").clone();
        let state = State::of(&subject.lives[now.life]);
        wal.mark_ready(now.appended as u64);
        let submitted = now.appended;
        let (outstanding, left) = (Vec::new(), STEPS);
        let mut life =
            Life { subject, files, random, promises, wal, outstanding, left, state, submitted, now };
        life.mark();
        life
    }

    /// From now on crashes are held against what is known now.
    fn mark(&mut self) {
        self.now.durable = Some((self.wal.durable(), self.wal.durable_hard_state()));
        self.subject.promises.push(self.now.clone());
        self.files.mark(self.subject.promises.len() as u64 - 1);
    }

    fn append(&mut self, record: Owned) {
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
        let records = &mut self.subject.lives[self.now.life];
        records.push(record);
        self.now.appended = records.len();
        self.wal.mark_ready(self.now.appended as u64);
    }

    fn append_entry(&mut self, index: u64, term: u64, bytes: usize) {
        let mut data = vec![0; bytes];
        self.random.fill(&mut data);
        let kind = self.random.below(3) as u8;
        self.append(Owned::Entry(Entry { term, index, kind, data }));
    }

    fn append_hard_state(&mut self) {
        // Each of another term: nobody votes twice in one, and no two are alike.
        let (last, term) = self.state.last;
        let term = self.state.hard_state.term.max(term) + 1;
        let vote = 1 + self.random.below(3);
        self.append(Owned::HardState(HardState { term, vote, commit: last }));
    }

    fn submit_all(&mut self) -> Result<(), String> {
        // What is written now may be found, though nothing of it was acknowledged.
        self.mark();
        while let Some(write) = self.wal.submit() {
            write.file.write_at(write.offset, write.data()).map_err(|error| error.to_string())?;
            self.outstanding.push((write, self.now.acked));
        }
        if self.wal.unsubmitted_bytes() == 0 {
            self.submitted = self.now.appended;
        }
        if self.promises == Promises::Early {
            self.now.acked = self.now.acked.max(self.submitted);
            self.mark();
        }
        Ok(())
    }

    fn complete(&mut self, at: usize) -> Result<(), String> {
        let (write, stated) = self.outstanding.swap_remove(at);
        write.perform().map_err(|error| error.to_string())?;
        self.now.stated = self.now.stated.max(stated);
        if let Some(durable) = self.wal.written(write.seq, write.buf) {
            self.now.acked = self.now.acked.max(durable.ready as usize);
            let records = &self.subject.lives[self.now.life];
            let last = State::of(&records[..durable.ready as usize]).last;
            if (durable.index, durable.term) != last {
                return Err(format!("{durable:?} is called durable, the records end at {last:?}"));
            }
        }
        self.mark();
        Ok(())
    }

    fn run_job(&mut self) -> Result<(), String> {
        let Some(job) = self.wal.wants_segment(SEGMENTS_READY) else { return Ok(()) };
        self.mark();
        let files = stopping(self.files);
        let ran = interleaved(|| job.run(&files), || self.others())?;
        match ran {
            Ok(ready) => self.wal.segment_ready(ready),
            Err(error) if disk::is_no_space(&error) => self.wal.segment_failed(),
            Err(error) => return Err(error.to_string()),
        }
        self.mark();
        Ok(())
    }

    /// In the midst of a job.
    fn others(&mut self) -> Result<(), String> {
        while self.left > 0 && self.random.one_in(2) {
            self.left -= 1;
            self.subject.met.add("a step within a job", 1);
            self.step(true)?;
        }
        Ok(())
    }

    fn checkpoint(&mut self) {
        let (last, _) = self.state.last;
        let (before, _) = self.state.checkpoint;
        if last > before {
            // The whole log, at times: then the segment in use can be given up as soon as there is another.
            let whole = self.subject.script == Script::SegmentRecycling && self.random.one_in(2);
            let index = if whole { last } else { before + 1 + self.random.below(last - before) };
            let at = self.state.entries.iter().find(|entry| entry.index == index);
            let term = at.expect("above the checkpoint").term;
            self.append(Owned::Checkpoint(index, term));
        }
    }

    fn release(&mut self) {
        let (checkpoint, _) = self.state.checkpoint;
        let behind = if self.subject.script == Script::SegmentRecycling { 1 } else { 3 };
        let index = checkpoint.saturating_sub(self.random.below(behind));
        // The data file has no entry that was not durable in the log before.
        let durable = State::of(&self.subject.lives[self.now.life][..self.now.acked]);
        let index = index.min(self.state.common_with(&durable));
        self.now.released = self.now.released.max(index);
        self.wal.release_to(index);
    }

    /// `nested`: a job is under way.
    fn step(&mut self, nested: bool) -> Result<(), String> {
        let (last, last_term) = self.state.last;
        // What the data file has stays.
        let applied = self.state.checkpoint.0.max(self.now.released);
        let term = self.state.hard_state.term.max(last_term).max(1);
        let (recycles, restarts) =
            (self.subject.script == Script::SegmentRecycling, self.subject.script == Script::Snapshot);
        match self.random.below(100) {
            0..26 => {
                let bytes = match self.random.below(10) {
                    0..5 => self.random.below(300),
                    5..9 => self.random.below(2 * BLOCK as u64),
                    _ => 2 * BLOCK as u64 + self.random.below(4 * BLOCK as u64),
                };
                self.append_entry(last + 1, term, bytes as usize);
            }
            26..32 => self.append_hard_state(),
            32..36 if last > applied => {
                let back = self.random.below((last - applied).min(4));
                self.append_entry(last - back, term + 1, 50);
            }
            36..40 => self.checkpoint(),
            40..48 if recycles => self.checkpoint(),
            40..48 if restarts => {
                let index = applied + 1 + self.random.below(last - applied + 5);
                self.append(Owned::Restart(index, term + 1));
                self.subject.met.add("a snapshot in place of the log", 1);
            }
            48..52 => self.release(),
            52..56 if recycles => self.release(),
            56..72 => self.submit_all()?,
            72..91 if !self.outstanding.is_empty() => {
                let at = self.random.below(self.outstanding.len() as u64) as usize;
                self.complete(at)?;
            }
            91..98 if !nested => self.run_job()?,
            98..100 => {
                self.wal.affirm();
            }
            _ => {}
        }
        Ok(())
    }

    fn steps(&mut self) -> Result<(), String> {
        while self.left > 0 {
            self.left -= 1;
            self.step(false)?;
        }
        Ok(())
    }

    /// The whole life, up to a kill.
    fn run(mut self) -> Result<(), String> {
        self.steps()?;
        // What is gathered and not handed out dies with the process.
        self.mark();
        Ok(())
    }
}
