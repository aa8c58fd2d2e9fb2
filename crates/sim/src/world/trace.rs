//! What happened in the run of this thread: a hash over all of it, the last lines for whoever looks for the cause of a
//! finding, and everything on request.
//!
//! Kept by the thread and not by the world, so that it can be told after a panic. A line is a small value; it becomes
//! text only when somebody reads it. The hash covers every line, with its time: two runs of a seed that differ in
//! anything differ in it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::hash::{Hash, Hasher};

/// Lines that are kept.
const TAIL: usize = 400;

/// One thing that happened.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) enum What {
    Turn {
        member: u32,
        core: u8,
    },
    LogPiece {
        member: u32,
        seq: u64,
        block: u64,
    },
    LogWritten {
        member: u32,
        seq: u64,
        bytes: u64,
    },
    JobBegins {
        member: u32,
        job: &'static str,
    },
    JobEnds {
        member: u32,
        job: &'static str,
        well: bool,
    },
    /// Another thread gets the processor in the midst of a job.
    Between {
        operation: u64,
    },
    Published {
        member: u32,
        revision: i64,
        applied: u64,
    },
    Note {
        member: u32,
        note: &'static str,
        number: i64,
    },
    Start {
        member: u32,
        life: u32,
    },
    Started {
        member: u32,
        applied: u64,
        replayed: u64,
    },
    StartFailed {
        member: u32,
    },
    Ended {
        member: u32,
        how: &'static str,
    },
    Fault {
        fault: &'static str,
        number: u64,
    },
    Disk {
        member: u32,
        fault: &'static str,
        operation: u64,
    },
    Opened {
        connection: u64,
    },
    Arrived {
        connection: u64,
        bytes: u64,
    },
    Closed {
        connection: u64,
        client: u32,
    },
    Call {
        client: u32,
        what: &'static str,
        op: u64,
    },
    Answer {
        client: u32,
        what: &'static str,
        op: u64,
        revision: i64,
    },
    Failed {
        client: u32,
        what: &'static str,
        op: u64,
        code: u8,
    },
    Lost {
        client: u32,
        what: &'static str,
        op: u64,
    },
    Watch {
        client: u32,
        stream: u64,
        watch_id: i64,
        revision: i64,
        events: u64,
    },
    Phase {
        phase: &'static str,
    },
}

/// A hasher whose result is the same on every machine and in every version: FNV-1a over words.
#[derive(Clone)]
struct Fold(u64);

impl Fold {
    fn word(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29);
    }
}

impl Hasher for Fold {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.word(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, n: u8) {
        self.word(n.into());
    }

    fn write_u32(&mut self, n: u32) {
        self.word(n.into());
    }

    fn write_u64(&mut self, n: u64) {
        self.word(n);
    }

    fn write_i64(&mut self, n: i64) {
        self.word(n as u64);
    }

    fn write_isize(&mut self, n: isize) {
        self.word(n as u64);
    }
}

struct Trace {
    seed: u64,
    now_us: u64,
    steps: u64,
    hash: Fold,
    tail: VecDeque<(u64, u64, What)>,
    print: bool,
}

impl Trace {
    fn new(seed: u64, print: bool) -> Trace {
        let hash = Fold(0xcbf2_9ce4_8422_2325);
        Trace { seed, now_us: 0, steps: 0, hash, tail: VecDeque::with_capacity(TAIL), print }
    }
}

thread_local! {
    static TRACE: RefCell<Trace> = RefCell::new(Trace::new(0, false));
}

/// Another run begins.
pub(super) fn begin(seed: u64, print: bool) {
    TRACE.set(Trace::new(seed, print));
}

/// Virtual time has come to this.
pub(super) fn at(now_us: u64) {
    TRACE.with_borrow_mut(|trace| trace.now_us = now_us);
}

pub(super) fn note(what: What) {
    TRACE.with_borrow_mut(|trace| {
        trace.steps += 1;
        trace.hash.word(trace.now_us);
        what.hash(&mut trace.hash);
        if trace.tail.len() == TAIL {
            trace.tail.pop_front();
        }
        let line = (trace.steps, trace.now_us, what);
        trace.tail.push_back(line);
        if trace.print {
            println!("{}", text(line));
        }
    });
}

fn text((step, at_us, what): (u64, u64, What)) -> String {
    format!("{step:>8} {:>5}.{:06}s {what:?}", at_us / 1_000_000, at_us % 1_000_000)
}

pub(super) fn steps() -> u64 {
    TRACE.with_borrow(|trace| trace.steps)
}

pub(super) fn hash() -> u64 {
    TRACE.with_borrow(|trace| trace.hash.finish())
}

/// The seed of the run of this thread.
pub fn seed() -> u64 {
    TRACE.with_borrow(|trace| trace.seed)
}

/// The last lines, oldest first.
pub fn tail(lines: usize) -> Vec<String> {
    TRACE.with_borrow(|trace| {
        let skip = trace.tail.len().saturating_sub(lines);
        trace.tail.iter().skip(skip).map(|&line| text(line)).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(lines: &[(u64, What)]) -> u64 {
        begin(1, false);
        for &(at_us, what) in lines {
            at(at_us);
            note(what);
        }
        hash()
    }

    #[test]
    fn every_line_and_every_time_shows_in_the_hash() {
        let lines = [
            (3, What::Turn { member: 0, core: 1 }),
            (4, What::Fault { fault: "pause", number: 7 }),
            (9, What::Published { member: 0, revision: -1, applied: 5 }),
        ];
        let whole = run(&lines);
        assert_eq!(run(&lines), whole);
        assert_ne!(run(&lines[..2]), whole);
        let mut other = lines;
        other[1].0 += 1;
        assert_ne!(run(&other), whole);
        other = lines;
        other[0].1 = What::Turn { member: 1, core: 0 };
        assert_ne!(run(&other), whole);
    }

    #[test]
    fn the_tail_is_the_end() {
        begin(5, false);
        for number in 0..1000 {
            note(What::Fault { fault: "none", number });
        }
        let tail = tail(2);
        assert_eq!((tail.len(), seed(), steps()), (2, 5, 1000));
        assert!(tail[1].contains("number: 999"), "{tail:?}");
    }
}
