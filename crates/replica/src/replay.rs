//! Entries that earlier lives left in the log: each is applied when the room for it is there, and held.
//!
//! Whoever proposed them saw to their room (law 8), but in a life that is gone: between them, removals went on and gave
//! pages back. One after the other, without removals, they can want more than there ever was; on a full disk that is
//! too much. So an entry that finds no room waits here, and those behind it: for what compactions left to be removed, as
//! much of it as there is, then for two checkpoints, which bring superseded pages out of the reach of both metas, and
//! let go of log. After that it may use the reserve, but for what removals and checkpoints live on. At last the log gives
//! back the segments that it keeps to use again, so that the file can grow. What finds no room even then, with all freed
//! that could be, ends the process; a checkpoint has what was applied, and the next start goes on there. That takes a
//! data file that lost its tail, or free pages in pieces so small that a long value finds none side by side.
//!
//! Must not know who is answered: nobody waits for these entries.

use std::collections::VecDeque;

use base::limits::SEGMENTS_READY;
use base::{Index, Millis};
use raft::eraftpb::{Entry, EntryType};
use tree::Hold;

use crate::admission::{Tier, cost};
use crate::event::{Action, Note, Request};
use crate::machine::{Replica, decode};
use crate::waiting::Cost;

/// Before a start gives up it waits for the log's segments that are given back, this long.
const LAST_WAIT_MS: Millis = 1000;

pub(crate) struct Replay {
    /// The last entry that earlier lives left in the log.
    until: Index,
    /// Committed and durable, not applied, in order; only those up to `until` stay for longer than a moment.
    pub entries: VecDeque<Entry>,
    room: Room,
    /// The first of them, where it waits.
    tried: Option<Tried>,
    /// Until then an entry waits, whatever was freed.
    wait_until: Millis,
    /// What was applied when an entry found no room, and pages were to come free.
    freed_at: Option<Index>,
    /// What was applied when an entry found no room though all was freed.
    gave_up_at: Option<Index>,
    /// This start has said that it waits.
    told: bool,
    /// An entry found no room, and what those before it superseded comes free when their batch is published.
    unpublished: bool,
}

/// An entry of an earlier life that is applied now.
pub(crate) struct Again {
    pub request: Request,
    /// For its runs of several pages.
    pub hold: Option<Hold>,
}

/// An entry that found no room: what it takes is not counted each time that it is tried, for it may delete many keys.
struct Tried {
    request: Request,
    cost: Cost,
    /// When that was counted.
    removed: Removed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    /// The last entry found what it needed, and the part of the reserve that its kind leaves alone.
    Ample,
    /// The next one waits. `removed`: what the removals had done when it was tried last; `checkpoints`: cut since, and
    /// all but the last of them complete.
    Short { removed: Removed, checkpoints: u32 },
    /// All that can come has come: some of the reserve is for use, until removals go on.
    Last { removed: Removed },
}

/// What is to be removed, what was, and where it goes on: differs after every step.
type Removed = (i64, i64, base::Revision);

impl Replay {
    pub fn new(until: Index) -> Replay {
        let entries = VecDeque::new();
        Replay {
            until,
            entries,
            room: Room::Ample,
            tried: None,
            wait_until: 0,
            freed_at: None,
            gave_up_at: None,
            told: false,
            unpublished: false,
        }
    }

    /// Whether an earlier life left the entry at `index`.
    pub fn covers(&self, index: Index) -> bool {
        index <= self.until
    }

    /// This life writes the log from `index` on: what earlier lives left there is gone.
    pub fn written_from(&mut self, index: Index) {
        self.until = self.until.min(index - 1);
    }

    /// Whether an entry waits for room.
    pub fn waits(&self) -> bool {
        !self.entries.is_empty()
    }

    /// A checkpoint was cut: what was superseded by now is one nearer to being free.
    pub fn checkpoint_cut(&mut self) {
        if let Room::Short { checkpoints, .. } = &mut self.room {
            *checkpoints += 1;
        }
    }
}

impl Replica {
    /// Applies what is committed and durable, up to an entry of an earlier life that has to wait for room.
    pub(crate) fn apply_committed(&mut self, actions: &mut Vec<Action>) {
        while let Some(entry) = self.replay.entries.pop_front() {
            let left = self.replay.covers(entry.index) && entry.get_entry_type() == EntryType::EntryNormal;
            let mut again = None;
            if left && !entry.data.is_empty() {
                let tried = self.replay.tried.take().filter(|tried| self.is_priced(tried));
                let tried = tried.unwrap_or_else(|| self.priced(&entry));
                let Some(hold) = self.make_room_again(entry.index, &tried, actions) else {
                    self.replay.tried = Some(tried);
                    return self.replay.entries.push_front(entry);
                };
                again = Some(Again { request: tried.request, hold });
            }
            self.apply(entry, again, actions);
        }
    }

    /// What the next entry asks for, and what applying it takes. What was before it is applied: it is known what apply
    /// will say, and there is no other value that it could keep.
    fn priced(&self, entry: &Entry) -> Tried {
        assert!(entry.index == self.state.applied() + 1, "entries are applied in order");
        let request = decode(entry);
        let cost = match self.state.refusal(&request) {
            Some(_) => Cost::default(),
            None => cost(&self.state.store, &request, 0),
        };
        Tried { request, cost, removed: self.removed() }
    }

    /// Whether that still holds. A removal makes it less, so it is counted anew when one has come to its end, or to
    /// where it has no room.
    fn is_priced(&self, tried: &Tried) -> bool {
        tried.removed == self.removed() || self.has_background_work()
    }

    /// Segments of the log that are to be ready: while entries of earlier lives are left to be applied, the disk's room is
    /// for them, but for what the next start needs.
    pub(crate) fn segments_wanted(&self) -> usize {
        if self.replay.covers(self.state.applied() + 1) { 1 } else { SEGMENTS_READY }
    }

    /// Whether a turn would try an entry that waits once more, for pages that came free, or because none will.
    pub(crate) fn has_replay_work(&self) -> bool {
        if self.replay.unpublished {
            return true;
        }
        let Room::Short { removed, checkpoints } = self.replay.room else { return false };
        !self.stopping && (removed != self.removed() || self.all_is_freed(checkpoints))
    }

    fn removed(&self) -> Removed {
        let stamp = self.state.store.stamp();
        (mvcc::stamp::compacted(stamp), mvcc::stamp::finished(stamp), mvcc::stamp::removal_cursor(stamp))
    }

    /// Whether a hash is being made, before which nothing is removed.
    fn is_hashing(&self) -> bool {
        mvcc::stamp::removal_pending(self.state.store.stamp()) && !self.state.compaction_runnable()
    }

    /// Whether nothing is left to be removed, or no room for that, and so many checkpoints since have given back all that
    /// there was.
    fn all_is_freed(&self, checkpoints: u32) -> bool {
        let store = &self.state.store;
        let nothing_to_write = store.waiting_bytes() == 0 && store.stamp() == store.durable_stamp();
        let under_way = store.checkpoint_running() || store.is_dropping() || self.is_hashing();
        let freed = checkpoints >= tree::FREEING_CHECKPOINTS || nothing_to_write;
        freed && !under_way && !self.has_background_work() && self.now >= self.replay.wait_until
    }

    /// The room that an entry needs and the run that it holds, if it needs one; `None` when the entry has to wait, or the
    /// process to end.
    fn make_room_again(
        &mut self,
        index: Index,
        Tried { request, cost, .. }: &Tried,
        actions: &mut Vec<Action>,
    ) -> Option<Option<Hold>> {
        assert!(index == self.state.applied() + 1, "entries are applied in order");
        if (cost.room_bytes, cost.run_bytes) == (0, 0) {
            return Some(None);
        }
        let mut room = tree::Room {
            bytes: self.waiting.total().room_bytes + cost.room_bytes + cost.run_bytes,
            run_bytes: cost.run_bytes,
            keep_bytes: Tier::of(request).keep_bytes(self.state.store.reserve_bytes()),
        };
        self.replay.unpublished = false;
        let mut made = self.make_room_unasked(room, false);
        if made.is_ok() && matches!(self.replay.room, Room::Short { .. }) {
            self.replay.room = Room::Ample;
        }
        let for_room =
            |refused: &Option<tree::NoSpace>| refused.as_ref().is_none_or(tree::NoSpace::is_for_room);
        if made.as_ref().is_err_and(for_room) {
            if self.state.store.is_touched() {
                self.replay.unpublished = true;
                return None;
            }
            // The next start has it before it.
            if self.stopping || self.more_room_comes(index, room.bytes, actions) {
                return None;
            }
            room.keep_bytes = room.keep_bytes.min(self.needed_later_bytes());
            made = self.make_room_unasked(room, self.replay.gave_up_at == Some(index - 1));
        }
        let Err(refused) = made else {
            let hold = if cost.run_bytes > 0 { self.state.store.hold(cost.run_bytes) } else { None };
            assert!(hold.is_some() || cost.run_bytes == 0, "room was made for the run");
            return Some(hold);
        };
        if let Some(failed) = refused.as_ref().filter(|refused| !refused.is_for_room()) {
            actions.push(Action::DiskFailed { what: failed.to_string() });
        } else if !self.wait_once_more(room) {
            let refused = refused.expect("the disk is asked before a start gives up");
            let chunk_bytes = self.state.store.chunk_bytes();
            let advice = match refused.is_of_device() {
                true => format!(
                    "free some space on the disk of the data directory, {chunk_bytes} bytes at least, then start again"
                ),
                false => "the data file is as long as it can be: start again, and if that does not help, restore a \
                          snapshot into a new data directory"
                    .to_owned(),
            };
            let what = format!(
                "entry {index} of the log cannot be applied again: {refused}; nothing is lost: {advice}"
            );
            actions.push(Action::DiskFailed { what });
        }
        None
    }

    /// What must be left however full the disk is: for a step of a removal, and for entries such as those with which the
    /// replica begins to lead. Bitmaps of checkpoints have their pages.
    fn needed_later_bytes(&self) -> u64 {
        self.state.removal_room(1) + self.own_entries_bytes()
    }

    /// Whether there is a reason to wait for room; if not, all has come that could, and the entry may use the reserve.
    fn more_room_comes(&mut self, index: Index, wanted_bytes: u64, actions: &mut Vec<Action>) -> bool {
        let removed = self.removed();
        let short = |checkpoints| Room::Short { removed, checkpoints };
        self.replay.room = match self.replay.room {
            Room::Ample => short(0),
            Room::Last { removed: then } if then != removed => short(0),
            last @ Room::Last { .. } => last,
            Room::Short { removed: then, .. } if then != removed => short(0),
            Room::Short { checkpoints, .. } if self.all_is_freed(checkpoints) => Room::Last { removed },
            Room::Short { checkpoints, .. } => short(checkpoints),
        };
        let waits = matches!(self.replay.room, Room::Short { .. });
        // While a hash is made its pin keeps what checkpoints would free; and a removal goes faster without them.
        if waits && self.has_background_work() {
            self.checkpoints.relieve(self.now);
        } else if waits && !self.is_hashing() {
            self.checkpoints.relieve_at_once();
        }
        if waits && !std::mem::replace(&mut self.replay.told, true) {
            actions.push(Action::Note(Note::ReplayWaitsForRoom { index, wanted_bytes }));
        }
        waits
    }

    /// Nothing of the reserve is left for an entry. Whether something may still come: what those before it superseded, by
    /// two checkpoints; then, once, the log that checkpoints have let go of, what it would use again too.
    fn wait_once_more(&mut self, room: tree::Room) -> bool {
        let Room::Last { removed } = self.replay.room else { return false };
        let applied = Some(self.state.applied());
        if self.state.store.waiting_bytes() > 0 && self.replay.freed_at != applied {
            self.replay.freed_at = applied;
        } else if self.replay.gave_up_at != applied {
            self.replay.gave_up_at = applied;
            // What one chunk takes, or more; fewer would be of no use.
            let growth_bytes = self.state.store.chunks_short(room) * self.state.store.chunk_bytes();
            self.wal.give_back_spares(growth_bytes.div_ceil(self.segment_bytes) as usize);
            self.replay.wait_until = self.now + LAST_WAIT_MS;
        } else {
            return false;
        }
        self.replay.room = Room::Short { removed, checkpoints: 0 };
        self.checkpoints.relieve_at_once();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_life_writes_over_is_no_earlier_ones() {
        let mut replay = Replay::new(10);
        replay.written_from(11);
        assert!(replay.covers(10) && !replay.covers(11));
        replay.written_from(8);
        assert!(replay.covers(7) && !replay.covers(8) && !replay.covers(10));
        replay.written_from(9);
        assert!(!replay.covers(8), "what is gone does not come back");
    }
}
