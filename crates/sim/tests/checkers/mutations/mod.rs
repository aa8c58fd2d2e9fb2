//! Ways to make a right history wrong. Each picks a place where the change cannot be right by chance, or says that
//! there is none in this history.

mod answers;
mod leases;
mod streams;

use base::Random;
use sim::check::Rule;
use sim::history::*;

use crate::generator::{Options, Run};

pub struct Mutation {
    pub name: &'static str,
    /// By which rules it may be found.
    pub rules: &'static [Rule],
    /// What kind of history it needs.
    pub of: fn(u64) -> Options,
    /// False: there was no place for it.
    pub apply: fn(&mut Run, &mut Random) -> Option<()>,
}

pub fn all() -> Vec<Mutation> {
    let mut all = answers::mutations();
    all.extend(streams::mutations());
    all.extend(leases::mutations());
    all
}

/// One of them, at random.
fn pick<T>(random: &mut Random, mut from: Vec<T>) -> Option<T> {
    if from.is_empty() {
        return None;
    }
    let which = random.below(from.len() as u64) as usize;
    Some(from.swap_remove(which))
}

/// A place in a list, at random.
fn place(random: &mut Random, len: usize) -> Option<usize> {
    (len > 0).then(|| random.below(len as u64) as usize)
}

/// One of the operations that `wanted` wants, which is told the answer.
fn answered(run: &Run, random: &mut Random, wanted: impl Fn(&Operation, &Answer) -> bool) -> Option<usize> {
    let ops = run.history.operations.iter().enumerate();
    let found = ops.filter(|(_, op)| op.answer().is_some_and(|answer| wanted(op, answer)));
    pick(random, found.map(|(number, _)| number).collect())
}

fn answer_mut(run: &mut Run, number: usize) -> &mut Answer {
    match &mut run.history.operations[number].outcome {
        Outcome::Answered(answer) => answer,
        outcome => panic!("answered was asked for: {outcome:?}"),
    }
}

fn range_mut(run: &mut Run, number: usize) -> &mut RangeAnswer {
    match answer_mut(run, number) {
        Answer::Range(answer) => answer,
        answer => panic!("a range was asked for: {answer:?}"),
    }
}

/// Everything that told of revisions, with the step at which it did, and the member.
fn told(run: &Run) -> Vec<(u64, i64, u32)> {
    let mut told = Vec::new();
    for op in &run.history.operations {
        if let (Some(answer), Some(end)) = (op.answer(), op.end) {
            told.push((end.step, answer.revision(), op.member));
        }
    }
    for stream in &run.history.streams {
        for (at, passage) in &stream.passages {
            if let Passage::Received(answer) = passage {
                told.push((at.step, answer.revision, stream.member));
            }
        }
    }
    told.extend(run.history.dumps.iter().map(|dump| (dump.at.step, dump.last, u32::MAX)));
    told
}

/// The highest revision that was told before a step.
fn floor(run: &Run, step: u64) -> i64 {
    told(run).iter().filter(|(at, ..)| *at < step).map(|told| told.1).max().unwrap_or(1).max(1)
}

/// The same of one member. Only where no member was ever restarted.
fn member_floor(run: &Run, member: u32, step: u64) -> Option<i64> {
    if run.history.notes.iter().any(|(_, note)| matches!(note, Note::Started { .. })) {
        return None;
    }
    let told = told(run).into_iter().filter(|(at, _, who)| *at < step && *who == member);
    Some(told.map(|told| told.1).max().unwrap_or(1).max(1))
}

/// When a revision was first told.
fn first_told(run: &Run, revision: i64) -> Option<u64> {
    told(run).into_iter().filter(|told| told.1 >= revision).map(|told| told.0).min()
}

fn last_revision(run: &Run) -> i64 {
    run.states.len() as i64
}

/// Calls and is answered at once, at the end of the history.
fn append(run: &mut Run, request: Request, outcome: Outcome) {
    run.now_us += 1000;
    let op = run.history.call(90, 0, run.now_us, request);
    match outcome {
        Outcome::Answered(answer) => run.history.answered(op, run.now_us, answer),
        Outcome::Refused(refusal) => run.history.refused(op, run.now_us, refusal),
        Outcome::Lost => run.history.lost(op, run.now_us),
    }
}

fn key(text: &str) -> Bytes {
    Bytes::from(text.as_bytes())
}
