//! Streams and their watchers: opening, creating, cancelling, closing, and the moves between the places.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use base::limits::{CATCH_UP_BYTES, CATCH_UP_CHANGES, WATCHER_QUEUE_BYTES, WATCHERS_PER_SHARD};
use base::{CallToken, Millis};
use proto::errors::{
    AUTH_OLD_REVISION, COMPACTED, INVALID_AUTH_TOKEN, PERMISSION_DENIED, REQUEST_TOO_MANY_REQUESTS,
    USER_EMPTY,
};
use proto::etcdserverpb::WatchCreateRequest;
use proto::etcdserverpb::watch_create_request::FilterType;
use slab::Slab;

use crate::index::{End, Flavor, Index, Interest, Seat};
use crate::sheet::{Responses, Sheets};
use crate::wire::{Head, Member};

/// Where responses go: the queues of the connections.
pub trait Outlet {
    /// Bytes of this stream that its client has not taken yet.
    fn queued_bytes(&self, stream: CallToken) -> usize;
    /// One response: the bytes of `head`, then those of `events[range]`. A stream that is gone takes it silently.
    fn send(&mut self, stream: CallToken, head: &[u8], events: Option<(&Arc<[u8]>, std::ops::Range<usize>)>);
    /// Several responses of one watcher, all or none of them. False: none, as `limit_bytes` or more are queued.
    fn send_all(&mut self, stream: CallToken, responses: &Responses<'_>, limit_bytes: usize) -> bool {
        if self.queued_bytes(stream) >= limit_bytes {
            return false;
        }
        responses.for_each(&mut Vec::new(), |parts| {
            self.send(stream, parts.head, Some((parts.shared, parts.events)));
        });
        true
    }
}

#[derive(Clone, Debug)]
pub struct Options {
    pub cluster_id: u64,
    pub member_id: u64,
    /// A response of this size is parted for watchers that asked for it: --max-request-bytes and gRPC's overhead.
    pub fragment_bytes: usize,
    /// With this much queued, a stream's watchers fall behind instead of getting more.
    pub queue_bytes: usize,
    /// What one catch-up step reads, changes, rounded up to a whole revision.
    pub catch_up_changes: usize,
    /// The same, bytes of events that somebody waits for.
    pub catch_up_bytes: usize,
    /// For the shape of trees; no result depends on it.
    pub seed: u64,
}

impl Options {
    /// With the limits that a server has; `seed` may be anything that clients do not know.
    pub fn new(cluster_id: u64, member_id: u64, fragment_bytes: usize, seed: u64) -> Options {
        Options {
            cluster_id,
            member_id,
            fragment_bytes,
            queue_bytes: WATCHER_QUEUE_BYTES,
            catch_up_changes: CATCH_UP_CHANGES,
            catch_up_bytes: CATCH_UP_BYTES,
            seed,
        }
    }
}

/// For metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub streams: usize,
    pub watchers: usize,
    /// Behind or stalled.
    pub slow: usize,
    /// Events sent, once for each watcher that got one; only ever grows.
    pub events_sent: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Synced,
    Behind,
    Stalled,
    Compacted,
}

#[derive(Debug)]
pub(crate) struct Watcher {
    pub stream: u32,
    pub id: i64,
    pub interest: Arc<Interest>,
    pub fragment: bool,
    /// Asked for periodic progress.
    pub notify: bool,
    /// Got no events since the last periodic progress was due.
    pub quiet: bool,
    pub place: Place,
    /// In the index of its place, when it has one.
    pub seat: Seat,
    /// No event below this is sent any more. While synced, everything up to the head is served as well.
    pub next: i64,
    /// Progress may not be told below this: where it starts, and what its created answer said.
    pub floor: i64,
}

#[derive(Debug)]
pub(crate) struct Stream {
    pub token: CallToken,
    pub watchers: BTreeMap<i64, u32>,
    next_id: i64,
    /// Watchers that are not synced: behind, stalled or compacted.
    pub unsynced: usize,
    pub stalled: BTreeSet<u32>,
    pub interval_ms: Millis,
    pub progress_at: Millis,
    /// The head that a requested progress answer waits for.
    pub requested: Option<i64>,
}

/// See the crate's documentation.
#[derive(Debug)]
pub struct Watchers {
    pub(crate) options: Options,
    pub(crate) member: Member,
    pub(crate) head: i64,
    pub(crate) watchers: Slab<Watcher>,
    pub(crate) streams: Slab<Stream>,
    // Never iterated.
    by_token: HashMap<CallToken, u32>,
    pub(crate) synced: Index,
    pub(crate) behind: Index,
    /// Those in `behind`, by next revision.
    pub(crate) positions: BTreeSet<(i64, u32)>,
    /// The position from which the next catch-up step looks for work.
    pub(crate) turn: i64,
    /// Streams with stalled watchers.
    pub(crate) blocked: BTreeSet<u32>,
    /// Streams that wait for the head to answer a progress request.
    pub(crate) requested: BTreeSet<u32>,
    /// The head has passed a gap since they were looked at.
    pub(crate) answerable: bool,
    pub(crate) progress_due: BTreeSet<(Millis, u32)>,
    pub(crate) events_sent: u64,
    /// Working memory.
    pub(crate) sheets: Sheets,
    pub(crate) head_buf: Vec<u8>,
    pub(crate) events_buf: Vec<u8>,
    pub(crate) touched: Vec<u32>,
    pub(crate) fallen: Vec<(u32, i64)>,
}

impl Watchers {
    /// `head` is the store's revision; the first batch that is delivered begins after it.
    pub fn new(options: Options, head: i64) -> Watchers {
        assert!(options.queue_bytes > 0 && options.fragment_bytes > 0, "sizes are not nothing");
        Watchers {
            member: Member { cluster_id: options.cluster_id, member_id: options.member_id, term: 0 },
            head,
            watchers: Slab::new(),
            streams: Slab::new(),
            by_token: HashMap::new(),
            synced: Index::new(options.seed),
            behind: Index::new(options.seed ^ 1),
            positions: BTreeSet::new(),
            turn: 0,
            blocked: BTreeSet::new(),
            requested: BTreeSet::new(),
            answerable: false,
            progress_due: BTreeSet::new(),
            events_sent: 0,
            sheets: Sheets::default(),
            head_buf: Vec::new(),
            events_buf: Vec::new(),
            touched: Vec::new(),
            fallen: Vec::new(),
            options,
        }
    }

    /// The last revision up to which every synced watcher has been served.
    pub fn head(&self) -> i64 {
        self.head
    }

    /// The Raft term that headers show.
    pub fn set_term(&mut self, term: u64) {
        self.member.term = term;
    }

    pub fn counts(&self) -> Counts {
        let stalled: usize = self.blocked.iter().map(|&s| self.streams[s as usize].stalled.len()).sum();
        Counts {
            streams: self.streams.len(),
            watchers: self.watchers.len(),
            slow: self.positions.len() + stalled,
            events_sent: self.events_sent,
        }
    }

    /// A new stream. Its periodic progress comes every `interval_ms`, which the caller has spread by up to a tenth,
    /// so that streams opened together do not answer together.
    pub fn open(&mut self, token: CallToken, now: Millis, interval_ms: Millis) {
        assert!(interval_ms > 0, "progress has an interval");
        let progress_at = now + interval_ms;
        let stream = self.streams.insert(Stream {
            token,
            watchers: BTreeMap::new(),
            next_id: 0,
            unsynced: 0,
            stalled: BTreeSet::new(),
            interval_ms,
            progress_at,
            requested: None,
        }) as u32;
        let before = self.by_token.insert(token, stream);
        assert!(before.is_none(), "a stream is opened once");
        self.progress_due.insert((progress_at, stream));
    }

    /// The end of a stream and of its watchers. Nothing is sent; an unknown stream is fine.
    pub fn close(&mut self, token: CallToken) {
        let Some(stream) = self.by_token.remove(&token) else { return };
        while let Some((_, watcher)) = self.streams[stream as usize].watchers.pop_first() {
            self.take_place(watcher);
            self.watchers.remove(watcher as usize);
        }
        self.requested.remove(&stream);
        let closed = self.streams.remove(stream as usize);
        assert!(self.progress_due.remove(&(closed.progress_at, stream)), "every stream has its time");
        assert!(closed.unsynced == 0 && closed.stalled.is_empty(), "its watchers are gone");
    }

    pub(crate) fn stream(&self, token: CallToken) -> Option<u32> {
        self.by_token.get(&token).copied()
    }

    /// Handles a create request on an open stream; the new watcher's id, or `None` when it was refused. Sends to this
    /// stream only: exactly one answer.
    ///
    /// `current` is the store's revision, read after the request came in. It may be ahead of the batches delivered
    /// here: the watcher then passes over those it is too young for. `refusal` is what the authorisation of
    /// (key or `\0`, range_end) said. Checks in etcd's order: negative start, authorisation, empty range, taken id.
    pub fn create(
        &mut self,
        token: CallToken,
        request: &WatchCreateRequest,
        refusal: Option<&proto::Error>,
        current: i64,
        out: &mut impl Outlet,
    ) -> Option<i64> {
        let stream = self.stream(token).expect("watchers are created on open streams");
        let created = self.admit(stream, request, refusal, current);
        let mut head = Head { revision: current.max(self.head), created: true, ..Head::default() };
        match &created {
            Ok(id) => head.watch_id = *id,
            Err(reason) => {
                (head.watch_id, head.canceled, head.cancel_reason) = (-1, true, reason);
            }
        }
        self.answer(stream, head, out);
        created.ok()
    }

    fn admit(
        &mut self,
        stream: u32,
        request: &WatchCreateRequest,
        refusal: Option<&proto::Error>,
        current: i64,
    ) -> Result<i64, String> {
        if request.start_revision < 0 {
            return Err(COMPACTED.message.into_owned());
        }
        if let Some(refusal) = refusal {
            let known = [INVALID_AUTH_TOKEN, AUTH_OLD_REVISION, USER_EMPTY];
            let error = known.into_iter().find(|error| error == refusal).unwrap_or(PERMISSION_DENIED);
            // etcd shows these as Go prints a gRPC status.
            return Err(format!("rpc error: code = {:?} desc = {}", error.code, error.message));
        }
        let interest = Arc::new(interest(request).ok_or("mvcc: watcher range is empty")?);
        if self.watchers.len() >= WATCHERS_PER_SHARD {
            return Err(REQUEST_TOO_MANY_REQUESTS.message.into_owned());
        }
        let id = self.streams[stream as usize]
            .choose_id(request.watch_id)
            .ok_or("mvcc: duplicate watch ID provided on the WatchStream")?;

        let start = request.start_revision;
        let current = current.max(self.head);
        let next = if start == 0 { current + 1 } else { start };
        let synced = next > self.head || (base::bug!(WatchStartMissed) && next == self.head);
        let place = if synced { Place::Synced } else { Place::Behind };
        let slot = self.watchers.vacant_key() as u32;
        self.watchers.insert(Watcher {
            stream,
            id,
            interest,
            fragment: request.fragment,
            notify: request.progress_notify,
            quiet: true,
            place: Place::Compacted,
            seat: Seat::default(),
            next,
            floor: start.max(current),
        });
        let stream = &mut self.streams[stream as usize];
        let before = stream.watchers.insert(id, slot);
        assert!(before.is_none(), "an id is free when it is chosen");
        stream.unsynced += 1;
        self.put_place(slot, place);
        Ok(id)
    }

    /// Handles a cancel request: one answer to this stream, none when there is no such watcher. `current` is the
    /// store's revision.
    pub fn cancel(&mut self, token: CallToken, id: i64, current: i64, out: &mut impl Outlet) {
        let Some(stream) = self.stream(token) else { return };
        let Some(slot) = self.streams[stream as usize].watchers.remove(&id) else { return };
        self.take_place(slot);
        let watcher = self.watchers.remove(slot as usize);
        assert_eq!((watcher.stream, watcher.id), (stream, id), "a stream knows its watchers");
        let revision = current.max(self.head);
        self.answer(stream, Head { revision, watch_id: id, canceled: true, ..Head::default() }, out);
    }

    /// Sends a response without events.
    pub(crate) fn answer(&mut self, stream: u32, head: Head<'_>, out: &mut impl Outlet) {
        head.encode(&self.member, &mut self.head_buf);
        out.send(self.streams[stream as usize].token, &self.head_buf, None);
    }

    pub(crate) fn is_full(&self, stream: u32, out: &impl Outlet) -> bool {
        out.queued_bytes(self.streams[stream as usize].token) >= self.options.queue_bytes
    }

    /// Takes a watcher out of its place. It counts as unsynced no longer: it goes away, or [`Self::put_place`] puts
    /// it somewhere.
    fn take_place(&mut self, slot: u32) {
        let watcher = &self.watchers[slot as usize];
        let (place, seat) = (watcher.place, watcher.seat);
        let (stream_slot, next) = (watcher.stream, watcher.next);
        let stream = &mut self.streams[stream_slot as usize];
        stream.unsynced -= usize::from(place != Place::Synced);
        let moved = match place {
            Place::Synced => self.synced.remove(seat, slot),
            Place::Behind => {
                assert!(self.positions.remove(&(next, slot)), "whoever is behind has a position");
                self.behind.remove(seat, slot)
            }
            Place::Stalled => {
                assert!(stream.stalled.remove(&slot), "a stream knows its stalled watchers");
                if stream.stalled.is_empty() {
                    self.blocked.remove(&stream_slot);
                }
                None
            }
            Place::Compacted => None,
        };
        if let Some(moved) = moved {
            seat.taken_over(&mut self.watchers[moved as usize].seat);
        }
    }

    fn put_place(&mut self, slot: u32, place: Place) {
        let watcher = &mut self.watchers[slot as usize];
        let stream = &mut self.streams[watcher.stream as usize];
        // The mirror of what `take_place` counted; a new watcher comes in as unsynced.
        if place == Place::Synced {
            stream.unsynced -= 1;
        }
        watcher.place = place;
        match place {
            Place::Synced => watcher.seat = self.synced.add(&watcher.interest, slot),
            Place::Behind => {
                watcher.seat = self.behind.add(&watcher.interest, slot);
                self.positions.insert((watcher.next, slot));
            }
            Place::Stalled => {
                stream.stalled.insert(slot);
                self.blocked.insert(watcher.stream);
            }
            Place::Compacted => {}
        }
    }

    /// Moves a watcher to `place`; its next revision becomes `next`, which must not be below what it was.
    pub(crate) fn move_to(&mut self, slot: u32, place: Place, next: i64) {
        self.take_place(slot);
        let watcher = &mut self.watchers[slot as usize];
        assert!(next >= watcher.next, "a next revision never decreases: {} to {next}", watcher.next);
        assert!(
            place != Place::Synced || next > self.head,
            "nothing up to the head is left to a synced watcher"
        );
        watcher.next = next;
        self.streams[watcher.stream as usize].unsynced += 1;
        self.put_place(slot, place);
    }
}

impl Stream {
    /// The id for a new watcher: the next free one for 0, else the one asked for; `None` when that is taken.
    fn choose_id(&mut self, asked: i64) -> Option<i64> {
        if asked != 0 {
            return (!self.watchers.contains_key(&asked)).then_some(asked);
        }
        while self.watchers.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        Some(self.next_id - 1)
    }
}

/// What a request watches, in etcd's reading: an empty key is the smallest, an end of `\0` is no end. `None` for a
/// range that cannot hold a key. Filters that nobody knows are passed over.
fn interest(request: &WatchCreateRequest) -> Option<Interest> {
    let key: &[u8] = if request.key.is_empty() { &[0] } else { &request.key };
    let end = match &request.range_end[..] {
        [] => End::Single,
        [0] => End::Infinity,
        end if key < end => End::Before(end.into()),
        _ => return None,
    };
    let has = |filter: FilterType| request.filters.contains(&(filter as i32));
    let flavor = Flavor {
        no_put: has(FilterType::Noput),
        no_delete: has(FilterType::Nodelete),
        prev: request.prev_kv,
    };
    Some(Interest { key: key.into(), end, flavor })
}
