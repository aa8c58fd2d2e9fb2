//! A store that keeps everything in a list, and clients that check every response against it.

// Each test file uses its part.
#![allow(dead_code)]

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use base::{CallToken, Revision};
use mainstay_watch::{Batch, Change, EventRef, History, Kind, Outlet, is_create};
use prost::Message;
use proto::etcdserverpb::watch_create_request::FilterType;
use proto::etcdserverpb::{WatchCreateRequest, WatchResponse};
use proto::mvccpb::{Event, KeyValue};

#[derive(Clone, Debug)]
pub struct Stored {
    pub revision: Revision,
    pub kind: Kind,
    pub key: Vec<u8>,
    pub kv: KeyValue,
    pub kv_bytes: Vec<u8>,
    pub prev: Option<KeyValue>,
    pub prev_bytes: Option<Vec<u8>>,
    /// Compaction took this version, although its change is still listed.
    pub gone: bool,
}

#[derive(Clone, Debug)]
pub struct Store {
    pub events: Vec<Stored>,
    pub live: BTreeMap<Vec<u8>, KeyValue>,
    pub current: i64,
    pub compacted: i64,
}

impl Store {
    pub fn new() -> Store {
        Store { events: Vec::new(), live: BTreeMap::new(), current: 1, compacted: -1 }
    }

    /// One revision: each pair is a put of a value, or a delete. Returns false when it would change nothing.
    pub fn apply(&mut self, changes: &[(&[u8], Option<&[u8]>)]) -> bool {
        let before = self.live.clone();
        let main = self.current + 1;
        let mut sub = 0;
        for &(key, value) in changes {
            let old = self.live.get(key).cloned();
            let prev = before.get(key).cloned();
            let (kind, kv) = match (value, old) {
                (None, None) => continue,
                (None, Some(_)) => {
                    self.live.remove(key);
                    (Kind::Delete, KeyValue { key: key.to_vec(), mod_revision: main, ..KeyValue::default() })
                }
                (Some(value), old) => {
                    let kv = KeyValue {
                        key: key.to_vec(),
                        value: value.to_vec(),
                        create_revision: old.as_ref().map_or(main, |old| old.create_revision),
                        mod_revision: main,
                        version: old.map_or(1, |old| old.version + 1),
                        lease: 0,
                    };
                    self.live.insert(key.to_vec(), kv.clone());
                    (Kind::Put, kv)
                }
            };
            self.events.push(Stored {
                revision: Revision::new(main, sub),
                kind,
                key: key.to_vec(),
                kv_bytes: kv.encode_to_vec(),
                kv,
                prev_bytes: prev.as_ref().map(KeyValue::encode_to_vec),
                prev,
                gone: false,
            });
            sub += 1;
        }
        self.current += i64::from(sub > 0);
        sub > 0
    }

    pub fn from(&self, revision: i64) -> &[Stored] {
        &self.events[self.events.partition_point(|e| e.revision.main < revision)..]
    }

    pub fn batch(&self, first: i64, last: i64) -> Owned {
        let events = self.from(first).iter().take_while(|e| e.revision.main <= last).cloned().collect();
        Owned { first, last, events, whole: true }
    }
}

fn reference(stored: &Stored) -> EventRef<'_> {
    EventRef {
        kind: stored.kind,
        revision: stored.revision.main,
        key: &stored.key,
        kv: &stored.kv_bytes,
        prev: stored.prev_bytes.as_deref(),
        is_create: stored.kind == Kind::Put && is_create(&stored.kv_bytes),
    }
}

#[derive(Debug)]
pub struct Owned {
    first: i64,
    last: i64,
    events: Vec<Stored>,
    whole: bool,
}

impl Owned {
    /// As a batch that outgrew its limit.
    pub fn dropped(self) -> Owned {
        Owned { events: Vec::new(), whole: false, ..self }
    }
}

impl Batch for Owned {
    fn first(&self) -> i64 {
        self.first
    }

    fn last(&self) -> i64 {
        self.last
    }

    fn whole(&self) -> bool {
        self.whole
    }

    fn events(&self) -> impl Iterator<Item = EventRef<'_>> {
        self.events.iter().map(reference)
    }
}

impl History for Store {
    fn current(&self) -> i64 {
        self.current
    }

    fn compacted(&self) -> i64 {
        self.compacted
    }

    fn changes(&self, from: i64) -> impl Iterator<Item = Change<'_>> {
        assert!(from >= self.compacted, "nobody reads what compaction took");
        self.from(from).iter().map(|e| Change { revision: e.revision, kind: e.kind, key: &e.key })
    }

    fn kv(&self, change: &Change<'_>) -> Option<&[u8]> {
        let at = self.events.binary_search_by_key(&change.revision, |e| e.revision).unwrap();
        (!self.events[at].gone).then_some(&self.events[at].kv_bytes)
    }

    fn prev(&self, change: &Change<'_>) -> Option<&[u8]> {
        let at = self.events.binary_search_by_key(&change.revision, |e| e.revision).unwrap();
        self.events[at].prev_bytes.as_deref()
    }
}

/// Queues of streams, which their clients take from when they please.
#[derive(Default)]
pub struct Queues {
    pub queues: BTreeMap<u32, VecDeque<Vec<u8>>>,
    pub shared: RefCell<Vec<Arc<[u8]>>>,
}

impl Outlet for Queues {
    fn queued_bytes(&self, stream: CallToken) -> usize {
        self.queues.get(&stream.stream).map_or(0, |queue| queue.iter().map(Vec::len).sum())
    }

    fn send(&mut self, stream: CallToken, head: &[u8], events: Option<(&Arc<[u8]>, Range<usize>)>) {
        let mut bytes = head.to_vec();
        if let Some((shared, range)) = events {
            bytes.extend(&shared[range]);
            self.shared.borrow_mut().push(shared.clone());
        }
        self.queues.entry(stream.stream).or_default().push_back(bytes);
    }
}

impl Queues {
    /// The next response of a stream.
    pub fn take(&mut self, stream: CallToken) -> Option<WatchResponse> {
        let bytes = self.queues.get_mut(&stream.stream)?.pop_front()?;
        let response = WatchResponse::decode(&bytes[..]).expect("a response decodes");
        assert_eq!(response.encode_to_vec(), bytes, "bytes are as the generated encoder writes them");
        Some(response)
    }

    /// Bytes in all queues.
    pub fn queued(&self) -> usize {
        self.queues.values().flatten().map(Vec::len).sum()
    }

    pub fn take_all(&mut self, stream: CallToken) -> Vec<WatchResponse> {
        std::iter::from_fn(|| self.take(stream)).collect()
    }
}

pub fn token(stream: u32) -> CallToken {
    CallToken { shard: 0, connection: 1, epoch: 1, stream }
}

/// What a watch must see of one change; `None` when it is not for it.
pub fn expected(request: &WatchCreateRequest, stored: &Stored) -> Option<Event> {
    let key: &[u8] = if request.key.is_empty() { b"\0" } else { &request.key };
    let inside = match &request.range_end[..] {
        [] => stored.key == key,
        [0] => *stored.key >= *key,
        end => *stored.key >= *key && *stored.key < *end,
    };
    let filtered = match stored.kind {
        Kind::Put => request.filters.contains(&(FilterType::Noput as i32)),
        Kind::Delete => request.filters.contains(&(FilterType::Nodelete as i32)),
    };
    let create = stored.kind == Kind::Put && stored.kv.create_revision == stored.kv.mod_revision;
    (inside && !filtered && !stored.gone).then(|| Event {
        r#type: i32::from(stored.kind == Kind::Delete),
        kv: Some(stored.kv.clone()),
        prev_kv: stored.prev.clone().filter(|_| request.prev_kv && !create),
    })
}

/// One watch as its client knows it.
#[derive(Debug)]
pub struct Watch {
    pub request: WatchCreateRequest,
    /// All events below have been received.
    pub next: i64,
    pub created: i64,
    /// Fragments that were received and not completed.
    pub partial: Vec<Event>,
    pub over: bool,
}

/// A client of one stream: checks that each response is one that may come now.
#[derive(Debug, Default)]
pub struct Client {
    pub watches: BTreeMap<i64, Watch>,
    /// Requests whose created answer has not come.
    pub creating: VecDeque<WatchCreateRequest>,
    pub cancelling: VecDeque<i64>,
    /// The store's revision at each progress request.
    pub asked: VecDeque<i64>,
    pub progress_answers: usize,
    pub compactions: usize,
    pub fragments: usize,
}

impl Client {
    pub fn receive(&mut self, response: &WatchResponse, store: &Store, limit: usize) {
        let header = response.header.as_ref().expect("every response has a header");
        assert_eq!((header.cluster_id, header.member_id, header.raft_term), (11, 22, 33));
        assert!(header.revision <= store.current);
        let id = response.watch_id;
        if response.created {
            let request = self.creating.pop_front().expect("one answer a request, in order");
            assert!(response.events.is_empty());
            if response.canceled {
                assert_eq!((id, response.compact_revision), (-1, 0));
                assert!(!response.cancel_reason.is_empty());
                return;
            }
            assert!(request.watch_id == 0 || request.watch_id == id);
            let next = if request.start_revision == 0 { header.revision + 1 } else { request.start_revision };
            let watch = Watch { request, next, created: header.revision, partial: Vec::new(), over: false };
            let before = self.watches.insert(id, watch);
            assert!(before.is_none(), "an id names one watch at a time");
            return;
        }
        if response.canceled && response.compact_revision == 0 {
            assert_eq!(self.cancelling.pop_front(), Some(id));
            let watch = self.watches.remove(&id).expect("a watch is cancelled once");
            assert!(watch.partial.is_empty(), "fragments end before anything else");
            return;
        }
        if response.canceled {
            let watch = self.watches.get_mut(&id).unwrap();
            assert!(!watch.over && watch.partial.is_empty());
            assert!(watch.next < response.compact_revision && response.compact_revision <= store.compacted);
            assert_eq!((header.revision, &response.cancel_reason[..]), (0, ""));
            watch.over = true;
            self.compactions += 1;
            return;
        }
        if response.events.is_empty() {
            return self.progress(id, header.revision, store);
        }
        let watch = self.watches.get_mut(&id).expect("events come to watches");
        assert!(!watch.over);
        assert!(!response.fragment || watch.request.fragment);
        self.fragments += usize::from(response.fragment);
        if watch.request.fragment && response.events.len() > 1 {
            assert!(response.encoded_len() < limit, "a fragment of several events keeps the limit");
        }
        watch.partial.extend(response.events.iter().cloned());
        if response.fragment {
            return;
        }
        let events = std::mem::take(&mut watch.partial);
        let last = events.last().unwrap().kv.as_ref().unwrap().mod_revision;
        assert!(last <= header.revision);
        let wanted: Vec<Event> = store
            .from(watch.next)
            .iter()
            .take_while(|stored| stored.revision.main <= last)
            .filter_map(|stored| expected(&watch.request, stored))
            .collect();
        assert_eq!(events, wanted, "watch {id} from {}", watch.next);
        watch.next = last + 1;
    }

    fn progress(&mut self, id: i64, revision: i64, store: &Store) {
        self.progress_answers += 1;
        let told: Vec<i64> = match id {
            -1 => {
                let asked = self.asked.iter().position(|&asked| asked <= revision);
                let asked = asked.expect("an answer has a question, and is not older than it");
                self.asked.drain(..=asked);
                self.watches.keys().copied().collect()
            }
            id => {
                assert!(self.watches[&id].request.progress_notify);
                vec![id]
            }
        };
        assert!(!told.is_empty());
        for id in told {
            let watch = self.watches.get_mut(&id).unwrap();
            assert!(!watch.over && watch.partial.is_empty());
            assert!(revision >= watch.created && revision >= watch.request.start_revision);
            let missing = store
                .from(watch.next)
                .iter()
                .take_while(|stored| stored.revision.main <= revision)
                .find(|stored| expected(&watch.request, stored).is_some());
            assert!(
                missing.is_none(),
                "progress {revision} before {missing:?} to watch {id} at {}",
                watch.next
            );
            assert!(revision + 1 >= watch.next, "progress does not go back: {revision} after {}", watch.next);
            watch.next = watch.next.max(revision + 1);
        }
    }

    /// Nothing that any watch wants is missing.
    pub fn is_complete(&self, store: &Store) -> bool {
        self.creating.is_empty()
            && self.cancelling.is_empty()
            && self.watches.values().all(|watch| {
                watch.over
                    || store.from(watch.next).iter().all(|stored| expected(&watch.request, stored).is_none())
            })
    }
}
