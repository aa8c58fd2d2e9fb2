//! What was known when: every revision that any answer carried is one that the store had reached by then.

use std::collections::HashMap;

use crate::history::{Answer, History, Moment, Note, Passage, Request};

/// The highest of several numbers that became known, by time.
#[derive(Debug, Default)]
pub struct Highest {
    /// Rising in both.
    rises: Vec<(Moment, i64)>,
}

impl Highest {
    pub fn of(mut known: Vec<(Moment, i64)>) -> Highest {
        known.sort_unstable_by_key(|(at, _)| at.step);
        let mut rises: Vec<(Moment, i64)> = Vec::new();
        for (at, number) in known {
            if rises.last().is_none_or(|&(_, highest)| number > highest) {
                rises.push((at, number));
            }
        }
        Highest { rises }
    }

    /// The highest that was known before a step; `None`: nothing was.
    pub fn before(&self, step: u64) -> Option<i64> {
        let end = self.rises.partition_point(|(at, _)| at.step < step);
        Some(self.rises[..end].last()?.1)
    }

    /// When a number, or a higher one, was first known.
    pub fn first(&self, number: i64) -> Option<Moment> {
        let at = self.rises.partition_point(|&(_, highest)| highest < number);
        Some(self.rises.get(at)?.0)
    }

    pub fn last(&self) -> Option<i64> {
        Some(self.rises.last()?.1)
    }
}

/// One life of a member's process: a member, and how often it was started.
type Life = (u32, usize);

#[derive(Debug)]
pub struct Observed {
    /// Revisions that the store had reached.
    reached: Highest,
    of_lives: HashMap<Life, Highest>,
    /// Steps at which a member was started.
    starts: HashMap<u32, Vec<u64>>,
    /// Compactions that were answered.
    compacted: Highest,
    /// Compactions that may have been executed, from their call on.
    may_be_compacted: Highest,
    /// Revisions that compactions named, with the step of the first call.
    compactions: HashMap<i64, u64>,
}

impl Observed {
    pub fn of(history: &History) -> Observed {
        let mut starts: HashMap<u32, Vec<u64>> = HashMap::new();
        let (mut compacted, mut asked) = (Vec::new(), Vec::new());
        let mut compactions = HashMap::new();
        for (at, note) in &history.notes {
            match note {
                Note::Started { member } => starts.entry(*member).or_default().push(at.step),
                Note::Compacting { revision } => {
                    asked.push((*at, *revision));
                    compactions.entry(*revision).or_insert(at.step);
                }
                _ => {}
            }
        }
        let life = |member: u32, step: u64| {
            let starts = starts.get(&member).map_or(&[][..], Vec::as_slice);
            (member, starts.partition_point(|&start| start < step))
        };

        let mut reached = Vec::new();
        let mut of_lives: HashMap<Life, Vec<(Moment, i64)>> = HashMap::new();
        for op in &history.operations {
            if let (Some(answer), Some(end)) = (op.answer(), op.end) {
                reached.push((end, answer.revision()));
                // An answer that spans a restart may be of either life.
                if life(op.member, op.call.step) == life(op.member, end.step) {
                    of_lives.entry(life(op.member, end.step)).or_default().push((end, answer.revision()));
                }
            }
            if let Request::Compact { revision } = op.request {
                match op.answer() {
                    Some(Answer::Compact { .. }) => compacted.extend(op.end.map(|end| (end, revision))),
                    _ if op.is_lost() => {}
                    _ => continue,
                }
                asked.push((op.call, revision));
                let first = compactions.entry(revision).or_insert(op.call.step);
                *first = op.call.step.min(*first);
            }
        }
        for stream in &history.streams {
            for (at, passage) in &stream.passages {
                let Passage::Received(answer) = passage else { continue };
                let newest = answer.events.last().map_or(0, |event| event.kv.modified).max(answer.revision);
                reached.push((*at, newest));
                if life(stream.member, stream.opened.step) == life(stream.member, at.step) {
                    of_lives.entry(life(stream.member, at.step)).or_default().push((*at, newest));
                }
            }
        }
        reached.extend(history.dumps.iter().map(|dump| (dump.at, dump.last)));
        let reached = Highest::of(reached);
        // Nobody compacts what the store never came to: each operation makes one revision, and each lease granted is
        // one that may revoke its keys.
        let ceiling = reached.last().unwrap_or(1) + 2 * history.operations.len() as i64;
        asked.retain(|&(_, revision)| revision <= ceiling);
        Observed {
            reached,
            of_lives: of_lives.into_iter().map(|(life, known)| (life, Highest::of(known))).collect(),
            starts,
            compacted: Highest::of(compacted),
            may_be_compacted: Highest::of(asked),
            compactions,
        }
    }

    fn life(&self, member: u32, step: u64) -> Life {
        let starts = self.starts.get(&member).map_or(&[][..], Vec::as_slice);
        (member, starts.partition_point(|&start| start < step))
    }

    /// The revision that the store had surely reached before a step; 1 at first.
    pub fn floor(&self, step: u64) -> i64 {
        self.reached.before(step).unwrap_or(1).max(1)
    }

    /// The same for what one member, in the life that it has at that step, had shown.
    pub fn member_floor(&self, member: u32, step: u64) -> i64 {
        let known = self.of_lives.get(&self.life(member, step));
        known.and_then(|known| known.before(step)).unwrap_or(1).max(1)
    }

    /// Whether the member was not started between two steps.
    pub fn same_life(&self, member: u32, from: u64, to: u64) -> bool {
        self.life(member, from) == self.life(member, to)
    }

    /// When the revision was surely reached.
    pub fn first_seen(&self, revision: i64) -> Option<Moment> {
        self.reached.first(revision)
    }

    /// The highest revision that was ever seen.
    pub fn last(&self) -> i64 {
        self.reached.last().unwrap_or(1).max(1)
    }

    /// The compacted revision that was surely in force before a step; -1 at first.
    pub fn compacted(&self, step: u64) -> i64 {
        self.compacted.before(step).unwrap_or(-1)
    }

    /// The highest that may have been in force before a step.
    pub fn may_be_compacted(&self, step: u64) -> i64 {
        self.may_be_compacted.before(step).unwrap_or(-1)
    }

    /// Whether somebody had asked for exactly this compaction before a step.
    pub fn was_compaction_asked(&self, revision: i64, step: u64) -> bool {
        self.compactions.get(&revision).is_some_and(|&call| call < step)
    }
}
