//! Defragmentations under way: when pages move, when the checkpoints are made that let the file's tail go, and when
//! whoever asked is answered. How pages move is the tree's business.
//!
//! One goes in three phases, again and again while that gains anything:
//!
//! | phase | ends |
//! |---|---|
//! | freeing | what was superseded before is free, two checkpoints later: it makes the holes |
//! | moving | nothing is left to move: a bounded step a turn |
//! | emptying | what moved has left the tail and no durable meta speaks of it: four checkpoints later |
//!
//! In the first and the last, checkpoints are due one after the other, also where nothing else changes; but only so many
//! (a snapshot that is held keeps the tail, however many are made), and never while a job holds pages of the tail.
//!
//! Invariant: whoever asked is answered when the shrinking has come to its end, at the latest [`ANSWER_MS`] after the
//! first who asked; what is not done by then goes on by itself.

use base::limits::DEFRAGMENT_PASSES;
use base::{CallToken, Millis};

use crate::event::{Action, Response};
use crate::state::State;

/// One step copies at most this, bytes: the paths to the leaves that it looks at, and what it moves.
const STEP_ROOM_BYTES: u64 = 4 << 20;
/// Two until what moved is free, two until no meta speaks of the tail, and as many again for what comes between.
const EMPTYING_CHECKPOINTS: u32 = 8;
/// Nobody waits longer.
const ANSWER_MS: Millis = 30_000;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Idle,
    Freeing {
        checkpoints: u32,
    },
    Moving,
    Emptying {
        checkpoints: u32,
    },
}

#[derive(Default)]
pub(crate) struct Defragmentation {
    phase: Phase,
    waiting: Vec<CallToken>,
    since: Millis,
    passes: u32,
    /// The file before this pass, bytes.
    before_bytes: u64,
}

impl State {
    /// Somebody asks for one: it begins, or they wait for the one under way.
    pub fn defragment(&mut self, token: CallToken, now: Millis) {
        if self.defragmentation.waiting.is_empty() {
            self.defragmentation.since = now;
        }
        self.defragmentation.waiting.push(token);
        if self.defragmentation.phase == Phase::Idle {
            self.defragmentation.passes = 0;
            self.begin_pass();
        }
    }

    fn begin_pass(&mut self) {
        self.defragmentation.passes += 1;
        self.defragmentation.before_bytes = self.store.file_bytes();
        self.defragmentation.phase = match self.store.waiting_bytes() {
            0 => Phase::Moving,
            _ => Phase::Freeing { checkpoints: tree::FREEING_CHECKPOINTS + self.checkpoints_under_way() },
        };
    }

    /// One that was cut before frees nothing that was superseded since.
    fn checkpoints_under_way(&self) -> u32 {
        u32::from(self.store.checkpoint_running())
    }

    /// Whether a turn would move something, or answer.
    pub fn defragment_runnable(&self) -> bool {
        self.defragmentation.phase == Phase::Moving
    }

    /// Whether the next checkpoint is awaited, and nothing stands in its way.
    pub fn defragment_wants_checkpoint(&self) -> bool {
        matches!(self.defragmentation.phase, Phase::Freeing { .. } | Phase::Emptying { .. })
            && !self.store.shrink_is_held_up()
    }

    /// Page space that a step may take, bytes.
    pub fn defragment_room(&self) -> u64 {
        STEP_ROOM_BYTES.min(self.store.used_bytes())
    }

    /// One bounded step; answers when there is nothing left to do.
    pub fn defragment_step(&mut self, actions: &mut Vec<Action>) {
        assert!(self.defragment_runnable(), "asked before");
        if self.store.shrink_step() {
            return;
        }
        if self.store.is_shrinking() {
            let checkpoints = EMPTYING_CHECKPOINTS + self.checkpoints_under_way();
            self.defragmentation.phase = Phase::Emptying { checkpoints };
        } else {
            self.defragmentation.phase = Phase::Idle;
            self.answer_defragments(actions);
        }
    }

    /// A checkpoint has become durable.
    pub fn defragment_checkpointed(&mut self, actions: &mut Vec<Action>) {
        match &mut self.defragmentation.phase {
            Phase::Idle | Phase::Moving => {}
            Phase::Freeing { checkpoints } => {
                *checkpoints -= 1;
                if *checkpoints == 0 {
                    self.defragmentation.phase = Phase::Moving;
                }
            }
            Phase::Emptying { checkpoints } => {
                *checkpoints -= 1;
                let out_of_patience = *checkpoints == 0;
                let gained = self.store.file_bytes() < self.defragmentation.before_bytes;
                if !self.store.is_shrinking() && gained && self.defragmentation.passes < DEFRAGMENT_PASSES {
                    self.begin_pass();
                } else if !self.store.is_shrinking() || out_of_patience {
                    self.defragmentation.phase = Phase::Idle;
                    self.answer_defragments(actions);
                }
            }
        }
    }

    /// Nobody waits for ever.
    pub fn defragment_tick(&mut self, now: Millis, actions: &mut Vec<Action>) {
        if now >= self.defragmentation.since + ANSWER_MS {
            self.answer_defragments(actions);
        }
    }

    fn answer_defragments(&mut self, actions: &mut Vec<Action>) {
        for token in self.defragmentation.waiting.drain(..) {
            actions.push(Action::outcome(token, Ok(Response::Defragmented)));
        }
    }

    /// Everybody who waits for the end of one; nothing more is done for it.
    pub fn drain_defragments(&mut self) -> impl Iterator<Item = CallToken> + '_ {
        self.defragmentation.phase = Phase::Idle;
        self.defragmentation.waiting.drain(..)
    }
}
