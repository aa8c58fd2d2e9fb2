//! Event batches to synced watchers: one response for each watcher and revision, as etcd sends them.

use std::ops::Range;
use std::sync::Arc;

use crate::event::{Batch, EventRef};
use crate::sheet::{Responses, Sheet};
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
        let head = self.head;
        let events: Vec<EventRef<'_>> = batch.events().filter(|event| event.revision > head).collect();
        let mut touched = std::mem::take(&mut self.touched);
        for (number, event) in events.iter().enumerate() {
            let revision = event.revision;
            assert!((first..=last).contains(&revision), "revision {revision} outside of {first}..={last}");
            self.synced.note(event.key, event.kind, number as u32, &mut touched);
        }
        let mut fallen = std::mem::take(&mut self.fallen);
        // Most batches have few events: whoever gets all of them, whatever the range, shares the bytes.
        let mut all: [Option<Vec<Sheet>>; 2] = [None, None];
        for group in touched.drain(..) {
            let matched = self.synced.matched(group);
            let prev = self.synced.wants_prev(group);
            let picked = matched.iter().map(|&i| &events[i as usize]);
            if matched.len() == events.len() {
                let shared = all[usize::from(prev)]
                    .get_or_insert_with(|| self.sheets.encode(&self.member, picked, prev));
                self.deliver_to_group(group, shared, &mut fallen, out);
            } else {
                let sheets = self.sheets.encode(&self.member, picked, prev);
                self.deliver_to_group(group, &sheets, &mut fallen, out);
            }
            self.synced.forget(group, matched);
        }
        for (slot, next) in fallen.drain(..) {
            self.move_to(slot, Place::Stalled, next);
        }
        (self.touched, self.fallen) = (touched, fallen);
        self.head = last;
        self.answer_requested(out);
    }

    /// Everything for one watcher, then the next: its connection is at hand once.
    fn deliver_to_group(
        &mut self,
        group: u32,
        sheets: &[Sheet],
        fallen: &mut Vec<(u32, i64)>,
        out: &mut impl Outlet,
    ) {
        for position in 0..self.synced.members(group).len() {
            let slot = self.synced.members(group)[position];
            for sheet in sheets {
                let watcher = &self.watchers[slot as usize];
                let Some(responses) = sheet.responses(watcher.id, watcher.next) else { continue };
                if !self.send_responses(slot, &responses, out) {
                    if !base::bug!(WatcherEventDropped) {
                        fallen.push((slot, responses.first_revision()));
                    }
                    break;
                }
                self.watchers[slot as usize].next = sheet.last_revision() + 1;
            }
        }
    }

    /// False, and nothing was sent: its queue is full.
    fn send_responses(&mut self, slot: u32, responses: &Responses<'_>, out: &mut impl Outlet) -> bool {
        let watcher = &mut self.watchers[slot as usize];
        assert!(watcher.next <= responses.first_revision(), "an event is sent once, and in order");
        let token = self.streams[watcher.stream as usize].token;
        // The longest head and id; what comes near the limit takes the other way, where it is looked at closely.
        const NEAR_BYTES: usize = 64;
        if watcher.fragment && responses.longest_bytes() + NEAR_BYTES >= self.options.fragment_bytes {
            if out.queued_bytes(token) >= self.options.queue_bytes {
                return false;
            }
            for (revision, count, bytes, range) in responses.events() {
                self.send_events(slot, (revision, revision), revision, count, (bytes, range), out);
            }
            return true;
        }
        if !out.send_all(token, responses, self.options.queue_bytes) {
            return false;
        }
        watcher.quiet = false;
        self.events_sent += responses.event_count() as u64;
        true
    }

    /// Sends `count` encoded events of the revisions `from..=through` to a watcher that has been served below `from`.
    /// `revision` is the store's, for the header.
    pub(crate) fn send_events(
        &mut self,
        slot: u32,
        (from, through): (i64, i64),
        revision: i64,
        count: usize,
        (shared, range): (&Arc<[u8]>, Range<usize>),
        out: &mut impl Outlet,
    ) {
        let watcher = &mut self.watchers[slot as usize];
        assert!(count > 0 && !range.is_empty(), "a response with events has some");
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
            fragments(self.head_buf.len(), &shared[range.clone()], self.options.fragment_bytes)
        } else {
            None
        };
        let Some(ends) = parts else {
            out.send(token, &self.head_buf, Some((shared, range)));
            return;
        };
        let mut begin = range.start;
        for end in ends {
            let end = range.start + end;
            head.fragment = end < range.end && !base::bug!(FragmentUnmarked);
            head.encode(&self.member, &mut self.head_buf);
            out.send(token, &self.head_buf, Some((shared, begin..end)));
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
        for (slot, next) in missed.into_iter().filter(|_| !base::bug!(GapIgnored)) {
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
