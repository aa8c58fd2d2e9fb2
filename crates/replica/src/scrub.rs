//! When a part of the data file is read back, and how much: seldom enough that nobody notices, and all of it within a day.
//!
//! Must not know what is read: the tree goes over its pages.

use base::Millis;
use base::limits::{BLOCK_BYTES, SCRUB_DELAY_MS, SCRUB_PAGES_PER_SECOND, SCRUB_PASS_MS, SCRUB_REST_MS};
use tree::ScrubError;

use crate::event::{Action, Note};
use crate::machine::Replica;
use crate::open::{DATA_FILE, REPLACE};

/// The pace of the scrub.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Nothing is read before a start is this long ago: a start has better to do, and whoever has damage can save what
    /// there is.
    pub delay_ms: Millis,
    /// At least so many pages are read each second of a pass.
    pub pages_per_second: u32,
    /// More, where it would take longer than this otherwise.
    pub pass_ms: Millis,
    /// From the begin of one pass to that of the next, at least.
    pub rest_ms: Millis,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            delay_ms: SCRUB_DELAY_MS,
            pages_per_second: SCRUB_PAGES_PER_SECOND,
            pass_ms: SCRUB_PASS_MS,
            rest_ms: SCRUB_REST_MS,
        }
    }
}

const STEP_MS: Millis = 1000;

pub(crate) struct Scrub {
    policy: Policy,
    /// Not before this; `None` before the first tick.
    next_at: Option<Millis>,
    pass_began_at: Option<Millis>,
}

impl Scrub {
    pub fn new(policy: Policy) -> Scrub {
        assert!(policy.pages_per_second > 0 && policy.pass_ms >= STEP_MS, "a pass comes to its end");
        Scrub { policy, next_at: None, pass_began_at: None }
    }

    /// The pages to read now, of a store that has so many in use; `None` when it is not yet time.
    pub fn due(&mut self, now: Millis, pages: u64) -> Option<u32> {
        if now < *self.next_at.get_or_insert(now + self.policy.delay_ms) {
            return None;
        }
        self.next_at = Some(now + STEP_MS);
        self.pass_began_at.get_or_insert(now);
        let steps = self.policy.pass_ms / STEP_MS;
        let step = pages.div_ceil(steps).max(u64::from(self.policy.pages_per_second));
        Some(u32::try_from(step).unwrap_or(u32::MAX))
    }

    /// All pages were read.
    pub fn pass_ended(&mut self) {
        let began_at = self.pass_began_at.take().expect("a pass has begun");
        self.next_at = self.next_at.max(Some(began_at + self.policy.rest_ms));
    }
}

impl Replica {
    /// Asks for the next step, when it is time.
    pub(crate) fn scrub_some(&mut self, actions: &mut Vec<Action>) {
        let store = &mut self.state.store;
        let pages = store.used_bytes() / BLOCK_BYTES as u64;
        if let Some(pages) = self.scrub.due(self.now, pages) {
            actions.extend(store.scrub_job(pages).map(Action::Scrub));
        }
    }

    /// Damage ends the process, as an error of the disk does (law 8): what was read wrong may be served next.
    pub(crate) fn scrubbed(&mut self, done: tree::ScrubDone, actions: &mut Vec<Action>) {
        match self.state.store.scrub_done(done) {
            Ok(None) => {}
            Ok(Some(pages)) => {
                self.scrub.pass_ended();
                actions.push(Action::Note(Note::ScrubFinished { pages }));
            }
            Err(found) => {
                let what = match found {
                    ScrubError { what, unreadable: true } => {
                        format!("the file {DATA_FILE} is not whole: {what}: check the disk, then start again")
                    }
                    ScrubError { what, unreadable: false } => {
                        format!("the file {DATA_FILE} is damaged: {what}; {REPLACE}")
                    }
                };
                actions.push(Action::DiskFailed { what });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_store_is_read_faster_and_a_small_one_not_all_the_time() {
        let mut scrub =
            Scrub::new(Policy { delay_ms: 4000, pages_per_second: 10, pass_ms: 100_000, rest_ms: 50_000 });
        assert_eq!((scrub.due(1000, 30), scrub.due(4999, 30)), (None, None));
        assert_eq!(scrub.due(5000, 30), Some(10));
        assert_eq!(scrub.due(5999, 30), None);
        assert_eq!(scrub.due(6000, 30), Some(10));
        scrub.pass_ended();
        assert_eq!((scrub.due(54_999, 30), scrub.due(55_000, 30)), (None, Some(10)));
        assert_eq!(scrub.due(56_000, 4001), Some(41), "100 steps come to the end of 4001 pages");
        scrub.pass_ended();
        assert_eq!((scrub.due(104_999, 1), scrub.due(105_000, 1)), (None, Some(10)));
    }
}
