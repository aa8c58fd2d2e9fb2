//! Watchers that are behind read their events from history, in bounded steps, in company: one step reads the changes
//! after one position for all who stand there or are met on the way, who from then on go together.

use std::ops::Bound;
use std::sync::Arc;

use base::CallToken;

use crate::deliver::encode;
use crate::event::{EventRef, History, Kind, is_create};
use crate::watchers::{Outlet, Place, Watchers};
use crate::wire::Head;

impl Watchers {
    /// Whether [`Watchers::catch_up`] has work.
    pub fn wants_catch_up(&self) -> bool {
        !self.positions.is_empty() || self.answerable
    }

    /// One step: so many changes or bytes of events as the options say, rounded up to a whole revision.
    /// Positions take turns, so that nobody waits for somebody else's long way.
    ///
    /// `history` must be no older than the head. Returns true while another step with it would do something.
    pub fn catch_up(&mut self, history: &impl History, out: &mut impl Outlet) -> bool {
        let more = self.catch_up_step(history, out);
        if self.answerable {
            self.answer_after_gap(out);
        }
        more
    }

    fn catch_up_step(&mut self, history: &impl History, out: &mut impl Outlet) -> bool {
        if !self.cancel_compacted(history.compacted(), out) {
            return true;
        }
        // Not beyond the head, though history may be: progress at the head would then come after later events.
        let to = history.current().min(self.head);
        let Some(from) = self.next_position(to) else { return false };
        let through = self.read(history, from, to, out);
        assert!((from..=to).contains(&through), "a step goes forward: {from} to {through}");
        let arrived: Vec<(i64, u32)> =
            self.positions.range((from, 0)..=(through, u32::MAX)).copied().collect();
        let place = if through == self.head { Place::Synced } else { Place::Behind };
        for (_, slot) in arrived {
            self.move_to(slot, place, through + 1);
        }
        self.turn = through + 2;
        self.next_position(to).is_some()
    }

    /// The position whose turn it is, if `to` lets it move.
    fn next_position(&self, to: i64) -> Option<i64> {
        let mut from_turn = self.positions.range((Bound::Included((self.turn, 0)), Bound::Unbounded));
        let next = from_turn.next().filter(|(next, _)| *next <= to);
        next.or_else(|| self.positions.first().filter(|(next, _)| *next <= to)).map(|&(next, _)| next)
    }

    /// Cancels whoever needs revisions below `compacted`, a bounded number; false when that was not all.
    fn cancel_compacted(&mut self, compacted: i64, out: &mut impl Outlet) -> bool {
        let compacted = if base::bug!(CompactedWatcherGoesOn) { 0 } else { compacted };
        let lost: Vec<(i64, u32)> =
            self.positions.range(..(compacted, 0)).take(self.options.catch_up_changes).copied().collect();
        for (next, slot) in lost {
            let watcher = &self.watchers[slot as usize];
            let (stream, watch_id) = (watcher.stream, watcher.id);
            if self.is_full(stream, out) {
                self.move_to(slot, Place::Stalled, next);
                continue;
            }
            self.move_to(slot, Place::Compacted, next);
            // As etcd: no reason, and no revision in the header.
            let head = Head { watch_id, canceled: true, compact_revision: compacted, ..Head::default() };
            self.answer(stream, head, out);
        }
        self.positions.first().is_none_or(|&(next, _)| next >= compacted)
    }

    /// Reads changes from revision `from` and sends what watchers behind wait for; the last revision that was read
    /// whole, `to` at most. Moves only those that turn out to be full.
    fn read(&mut self, history: &impl History, from: i64, to: i64, out: &mut impl Outlet) -> i64 {
        let mut touched = std::mem::take(&mut self.touched);
        let mut events: Vec<EventRef<'_>> = Vec::new();
        let (mut changes, mut bytes, mut reached, mut through) = (0, 0, from, to);
        for change in history.changes(from) {
            let revision = change.revision.main;
            assert!(revision >= reached, "history is in order: {revision} after {reached}");
            if revision > to {
                break;
            }
            if revision > reached
                && (changes >= self.options.catch_up_changes || bytes >= self.options.catch_up_bytes)
            {
                through = if base::bug!(StepRepeated) { (revision - 2).max(from) } else { revision - 1 };
                break;
            }
            reached = revision;
            changes += 1;
            let noted = self.behind.note(change.key, change.kind, events.len() as u32, &mut touched);
            if !noted.any {
                continue;
            }
            let kv = match change.kind {
                Kind::Put => history.kv(&change),
                Kind::Delete => Some(&[][..]),
            };
            // A version that compaction has taken leaves an event that is sent to nobody.
            let gone = kv.is_none();
            let kv = kv.unwrap_or_default();
            let is_create = change.kind == Kind::Put && is_create(kv);
            let prev = if noted.prev && !is_create && !gone { history.prev(&change) } else { None };
            bytes += change.key.len() + kv.len() + prev.map_or(0, <[u8]>::len);
            let revision = if gone { GONE } else { revision };
            events.push(EventRef { kind: change.kind, revision, key: change.key, kv, prev, is_create });
        }
        for group in touched.drain(..) {
            self.send_group(group, &events, (from, through), to, out);
        }
        self.touched = touched;
        through
    }

    /// Sends what was noted for a group to those of its members who stand in `from..=through`, each from its own
    /// position.
    fn send_group(
        &mut self,
        group: u32,
        events: &[EventRef<'_>],
        (from, through): (i64, i64),
        to: i64,
        out: &mut impl Outlet,
    ) {
        let mut matched = self.behind.matched(group);
        matched.retain(|&i| events[i as usize].revision != GONE);
        let prev = self.behind.wants_prev(group);
        let mut fallen = std::mem::take(&mut self.fallen);
        let mut encoded: Vec<(usize, Arc<[u8]>)> = Vec::new();
        for position in 0..self.behind.members(group).len() {
            let slot = self.behind.members(group)[position];
            let watcher = &self.watchers[slot as usize];
            // Whoever is farther behind must not get these before those.
            if (watcher.next < from && !base::bug!(FartherBehindServed)) || watcher.next > through {
                continue;
            }
            let start = matched.partition_point(|&i| events[i as usize].revision < watcher.next);
            let Some(&first) = matched.get(start) else { continue };
            let first = events[first as usize].revision;
            if self.is_full(watcher.stream, out) {
                fallen.push((slot, first));
                continue;
            }
            let last = events[matched[matched.len() - 1] as usize].revision;
            let known = encoded.iter().position(|(s, _)| *s == start).unwrap_or_else(|| {
                let picked = matched[start..].iter().map(|&i| &events[i as usize]);
                encoded.push((start, encode(&mut self.events_buf, picked, prev)));
                encoded.len() - 1
            });
            let bytes = &encoded[known].1;
            let all = (bytes, 0..bytes.len());
            self.send_events(slot, (first, last), to, matched.len() - start, all, out);
        }
        // Before anybody moves: a group goes with its last member.
        self.behind.forget(group, matched);
        for (slot, next) in fallen.drain(..) {
            self.move_to(slot, Place::Stalled, next);
        }
        self.fallen = fallen;
    }

    /// The client of this stream has taken what was queued, or most of it: its stalled watchers go on.
    pub fn drained(&mut self, token: CallToken, out: &impl Outlet) {
        if let Some(stream) = self.stream(token) {
            self.unblock(stream, out);
        }
    }

    pub(crate) fn unblock(&mut self, stream: u32, out: &impl Outlet) {
        if !self.blocked.contains(&stream) || self.is_full(stream, out) {
            return;
        }
        let stalled: Vec<u32> = self.streams[stream as usize].stalled.iter().copied().collect();
        for slot in stalled {
            let next = self.watchers[slot as usize].next;
            self.move_to(slot, Place::Behind, next);
        }
        assert!(!self.blocked.contains(&stream), "nobody is left waiting");
    }
}

/// Marks an event whose version compaction has taken.
const GONE: i64 = i64::MIN;
