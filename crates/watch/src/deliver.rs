//! Event batches to synced watchers: one response for each watcher and revision, as etcd sends them.

use std::sync::Arc;

use crate::event::{Batch, EventRef};
use crate::watchers::{Outlet, Place, Watchers};
use crate::wire::{Head, fragments, put_event};

impl Watchers {
    /// Sends the events of a batch to the synced watchers that asked for them. Those whose queue is full fall behind.
    ///
    /// Batches come in order. One that begins after `head + 1` implies a [`Watchers::gap`]; of one that begins earlier,
    /// revisions up to the head are passed over.
    pub fn deliver(&mut self, batch: &impl Batch, out: &mut impl Outlet) {
        let (first, last) = (batch.first(), batch.last());
        assert!(first <= last, "a batch covers a revision at least: {first}..={last}");
        if last <= self.head {
            return;
        }
        if !batch.whole() {
            return self.gap(last);
        }
        self.gap(first - 1);
        let events: Vec<EventRef<'_>> = batch.events().collect();
        for events in events.chunk_by(|a, b| a.revision == b.revision) {
            let revision = events[0].revision;
            assert!((first..=last).contains(&revision), "revision {revision} outside of {first}..={last}");
            if revision > self.head {
                self.deliver_revision(revision, events, out);
            }
        }
        self.head = last;
        self.answer_requested(out);
    }

    fn deliver_revision(&mut self, revision: i64, events: &[EventRef<'_>], out: &mut impl Outlet) {
        let mut touched = std::mem::take(&mut self.touched);
        let mut fallen = std::mem::take(&mut self.fallen);
        for (number, event) in events.iter().enumerate() {
            self.synced.note(event.key, event.kind, number as u32, &mut touched);
        }
        // Most revisions have one event: whoever gets all of them, whatever the range, shares the bytes.
        let mut all: [Option<Arc<[u8]>>; 2] = [None, None];
        for group in touched.drain(..) {
            let matched = self.synced.matched(group);
            let prev = self.synced.wants_prev(group);
            let mut shared =
                if matched.len() == events.len() { all[usize::from(prev)].clone() } else { None };
            for position in 0..self.synced.members(group).len() {
                let slot = self.synced.members(group)[position];
                let watcher = &self.watchers[slot as usize];
                if watcher.next > revision {
                    continue;
                }
                if self.is_full(watcher.stream, out) {
                    fallen.push((slot, revision));
                    continue;
                }
                let bytes = shared.get_or_insert_with(|| {
                    let picked = matched.iter().map(|&i| &events[i as usize]);
                    encode(&mut self.events_buf, picked, prev)
                });
                self.send_events(slot, (revision, revision), revision, matched.len(), bytes, out);
            }
            if matched.len() == events.len() {
                all[usize::from(prev)] = shared;
            }
            self.synced.forget(group, matched);
        }
        for (slot, next) in fallen.drain(..) {
            self.move_to(slot, Place::Stalled, next);
        }
        self.head = revision;
        (self.touched, self.fallen) = (touched, fallen);
    }

    /// Sends `count` encoded events of the revisions `from..=through` to a watcher that has been served below `from`.
    /// `revision` is the store's, for the header.
    pub(crate) fn send_events(
        &mut self,
        slot: u32,
        (from, through): (i64, i64),
        revision: i64,
        count: usize,
        bytes: &Arc<[u8]>,
        out: &mut impl Outlet,
    ) {
        let watcher = &mut self.watchers[slot as usize];
        assert!(count > 0 && !bytes.is_empty(), "a response with events has some");
        assert!(watcher.next <= from && from <= through, "an event is sent once, and in order");
        assert!(through <= revision, "no header tells of less than its events");
        if watcher.place == Place::Synced {
            watcher.next = through + 1;
        }
        watcher.quiet = false;
        self.events_sent += count as u64;
        let token = self.streams[watcher.stream as usize].token;
        let mut head = Head { revision, watch_id: watcher.id, ..Head::default() };
        head.encode(&self.member, &mut self.head_buf);
        let parts = if watcher.fragment {
            fragments(self.head_buf.len(), bytes, self.options.fragment_bytes)
        } else {
            None
        };
        let Some(ends) = parts else {
            out.send(token, &self.head_buf, Some((bytes, 0..bytes.len())));
            return;
        };
        let mut begin = 0;
        for end in ends {
            head.fragment = end < bytes.len();
            head.encode(&self.member, &mut self.head_buf);
            out.send(token, &self.head_buf, Some((bytes, begin..end)));
            begin = end;
        }
    }

    /// The store has reached revision `through`, and batches up to it will not be delivered (a lagging ring, a snapshot
    /// from the leader, events that nobody built because nobody watched): synced watchers that wanted something of
    /// them read it from history. Progress requests that waited for `through` are answered, or dropped, by the next
    /// [`Watchers::catch_up`].
    pub fn gap(&mut self, through: i64) {
        if through <= self.head {
            return;
        }
        let from = self.head + 1;
        let missed = self.watchers.iter().filter(|(_, w)| w.place == Place::Synced && w.next <= through);
        let missed: Vec<(u32, i64)> = missed.map(|(slot, w)| (slot as u32, w.next.max(from))).collect();
        for (slot, next) in missed {
            self.move_to(slot, Place::Behind, next);
        }
        self.head = through;
        self.answerable = !self.requested.is_empty();
    }
}

/// Events as shared bytes. The working memory is kept, unless it has grown out of proportion.
pub(crate) fn encode<'a>(
    buf: &mut Vec<u8>,
    events: impl Iterator<Item = &'a EventRef<'a>>,
    prev: bool,
) -> Arc<[u8]> {
    buf.clear();
    for event in events {
        put_event(buf, event, prev);
    }
    let bytes = Arc::from(&buf[..]);
    buf.clear();
    buf.shrink_to(base::limits::CATCH_UP_BYTES);
    bytes
}
