//! Progress: what a client may take for granted. A wrong revision here makes a reader miss writes silently, so there is
//! one rule for both kinds: revision R is told only when every watcher it is told for is synced, has its start at or
//! below R, and R is the head; and it goes out behind all events up to R.
//!
//! A requested answer that may not be given now is dropped, as etcd drops it: the client asks again. One exception:
//! while batches up to the revision at the time of the request are still on their way to this shard, the request waits
//! for them. etcd has no such gap; its answer would have come at once, and says at least that revision.

use base::{CallToken, Millis};

use crate::watchers::{Outlet, Place, Watchers};
use crate::wire::Head;

impl Watchers {
    /// Handles a progress request. `current` is the store's revision, read after the request came in.
    pub fn request_progress(&mut self, token: CallToken, current: i64, out: &mut impl Outlet) {
        let Some(stream) = self.stream(token) else { return };
        let requested = &mut self.streams[stream as usize].requested;
        // Of two that wait, the later answer does for both.
        *requested = Some(requested.map_or(current, |earlier| earlier.max(current)));
        self.requested.insert(stream);
        self.answer_stream(stream, out);
    }

    /// Answers or drops the requests that waited for the head, as far as it has come.
    pub(crate) fn answer_requested(&mut self, out: &mut impl Outlet) {
        self.answerable = false;
        if self.requested.is_empty() {
            return;
        }
        let waiting: Vec<u32> = self.requested.iter().copied().collect();
        for stream in waiting {
            self.answer_stream(stream, out);
        }
    }

    /// The same after a gap: it put watchers behind that etcd would have served, so their streams' requests wait until
    /// nobody is behind any more.
    pub(crate) fn answer_after_gap(&mut self, out: &mut impl Outlet) {
        if self.positions.is_empty() {
            return self.answer_requested(out);
        }
        let served = self.requested.iter().filter(|&&stream| self.streams[stream as usize].unsynced == 0);
        let served: Vec<u32> = served.copied().collect();
        for stream in served {
            self.answer_stream(stream, out);
        }
    }

    fn answer_stream(&mut self, slot: u32, out: &mut impl Outlet) {
        let stream = &mut self.streams[slot as usize];
        let wanted = stream.requested.expect("it is among the waiting");
        if wanted > self.head {
            return;
        }
        stream.requested = None;
        self.requested.remove(&slot);
        let stream = &self.streams[slot as usize];
        let served = (stream.unsynced == 0 || base::bug!(RequestedProgressAhead))
            && !stream.watchers.is_empty()
            && stream.watchers.values().all(|&w| self.watchers[w as usize].floor <= self.head);
        // A client that asks and does not read gets no more: it would fill the memory.
        if served && !self.is_full(slot, out) {
            self.answer(slot, Head { revision: self.head, watch_id: -1, ..Head::default() }, out);
        }
    }

    /// When [`Watchers::tick`] has something to do next.
    pub fn next_tick(&self) -> Option<Millis> {
        self.progress_due.first().map(|&(at, _)| at)
    }

    /// Sends the periodic progress that is due: to watchers that asked for it, are synced, and got no events since the
    /// last time. Also looks again at streams whose queues were full, lest a forgotten [`Watchers::drained`] leaves
    /// them waiting: call it at least every second.
    pub fn tick(&mut self, now: Millis, out: &mut impl Outlet) {
        let blocked: Vec<u32> = self.blocked.iter().copied().collect();
        for stream in blocked {
            self.unblock(stream, out);
        }
        while let Some(&(at, slot)) = self.progress_due.first()
            && at <= now
        {
            self.progress_due.remove(&(at, slot));
            let stream = &mut self.streams[slot as usize];
            assert_eq!(stream.progress_at, at, "a stream knows its time");
            // Times that were missed are passed over; the rhythm stays.
            stream.progress_at = now + stream.interval_ms - (now - at) % stream.interval_ms;
            self.progress_due.insert((stream.progress_at, slot));
            self.notify(slot, out);
        }
    }

    fn notify(&mut self, slot: u32, out: &mut impl Outlet) {
        let watchers: Vec<u32> = self.streams[slot as usize].watchers.values().copied().collect();
        for watcher in watchers {
            let watcher = &mut self.watchers[watcher as usize];
            if !watcher.notify {
                continue;
            }
            let was_quiet = std::mem::replace(&mut watcher.quiet, true);
            let synced = watcher.place == Place::Synced || base::bug!(ProgressAheadOfEvents);
            let served = synced && watcher.floor <= self.head;
            let watch_id = watcher.id;
            if was_quiet && served && !self.is_full(slot, out) {
                self.answer(slot, Head { revision: self.head, watch_id, ..Head::default() }, out);
            }
        }
    }
}
