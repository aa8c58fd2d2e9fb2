//! Random histories, watches, slow clients, lagging rings, gaps and compactions: every client receives what its
//! watches asked for exactly once, in order, whole revisions at a time, and no progress is ahead of the events.

mod world;

use std::collections::{BTreeMap, VecDeque};

use base::Random;
use mainstay_watch::{Options, Watchers};
use proto::etcdserverpb::WatchCreateRequest;
use world::{Client, Owned, Queues, Store, token};

const FRAGMENT_BYTES: usize = 160;

struct World {
    random: Random,
    store: Store,
    watchers: Watchers,
    queues: Queues,
    clients: BTreeMap<u32, Client>,
    /// Batches on their way.
    ring: VecDeque<Owned>,
    /// The last revision in the ring.
    sent: i64,
    now: u64,
    streams: u32,
    seen: Seen,
}

#[derive(Debug, Default)]
struct Seen {
    slow: usize,
    progress: usize,
    compactions: usize,
    fragments: usize,
    refused: usize,
}

impl World {
    fn new(seed: u64) -> World {
        let options = Options {
            queue_bytes: 400,
            catch_up_changes: 1 + seed as usize % 7,
            catch_up_bytes: 300,
            ..Options::new(11, 22, FRAGMENT_BYTES, seed)
        };
        let mut watchers = Watchers::new(options, 1);
        watchers.set_term(33);
        World {
            random: Random::new(seed),
            store: Store::new(),
            watchers,
            queues: Queues::default(),
            clients: BTreeMap::new(),
            ring: VecDeque::new(),
            sent: 1,
            now: 0,
            streams: 0,
            seen: Seen::default(),
        }
    }

    fn key(&mut self) -> Vec<u8> {
        let length = 1 + self.random.below(2) as usize;
        (0..length).map(|_| b'a' + self.random.below(5) as u8).collect()
    }

    fn write(&mut self) {
        let count = if self.random.one_in(10) { 12 } else { 1 + self.random.below(3) };
        let changes: Vec<(Vec<u8>, Option<Vec<u8>>)> = (0..count)
            .map(|_| {
                let value = vec![b'v'; self.random.below(40) as usize];
                (self.key(), (!self.random.one_in(3)).then_some(value))
            })
            .collect();
        let changes: Vec<_> = changes.iter().map(|(k, v)| (&k[..], v.as_deref())).collect();
        self.store.apply(&changes);
    }

    fn publish(&mut self) {
        let last = self.store.current;
        if last > self.sent {
            let batch = self.store.batch(self.sent + 1, last);
            self.ring.push_back(if self.random.one_in(40) { batch.dropped() } else { batch });
            self.sent = last;
        }
    }

    fn stream(&mut self) -> Option<u32> {
        let streams: Vec<u32> = self.clients.keys().copied().collect();
        (!streams.is_empty()).then(|| streams[self.random.below(streams.len() as u64) as usize])
    }

    fn create(&mut self, stream: u32) {
        let current = self.store.current;
        let range_end = match self.random.below(4) {
            0 => vec![],
            1 => vec![0],
            _ => self.key(),
        };
        let start_revision = match self.random.below(6) {
            0..3 => 0,
            3 => current + self.random.below(6) as i64,
            4 => 1 + self.random.below(current as u64) as i64,
            _ => self.store.compacted + self.random.below(4) as i64 - 1,
        };
        let request = WatchCreateRequest {
            key: if self.random.one_in(8) { vec![] } else { self.key() },
            range_end,
            start_revision,
            progress_notify: self.random.one_in(2),
            filters: (0..2).filter(|_| self.random.one_in(5)).collect(),
            prev_kv: self.random.one_in(2),
            watch_id: if self.random.one_in(3) { self.random.below(6) as i64 } else { 0 },
            fragment: self.random.one_in(2),
        };
        self.clients.get_mut(&stream).unwrap().creating.push_back(request.clone());
        let created = self.watchers.create(token(stream), &request, None, current, &mut self.queues);
        self.seen.refused += usize::from(created.is_none());
    }

    fn cancel(&mut self, stream: u32) {
        let id = self.random.below(8) as i64;
        let before = self.queues.queues.get(&stream).map_or(0, VecDeque::len);
        self.watchers.cancel(token(stream), id, self.store.current, &mut self.queues);
        if self.queues.queues.get(&stream).map_or(0, VecDeque::len) > before {
            self.clients.get_mut(&stream).unwrap().cancelling.push_back(id);
        }
    }

    /// The client takes up to `count` responses.
    fn read(&mut self, stream: u32, count: u64) {
        let client = self.clients.get_mut(&stream).unwrap();
        for _ in 0..count {
            let Some(response) = self.queues.take(token(stream)) else { break };
            client.receive(&response, &self.store, FRAGMENT_BYTES);
        }
        self.watchers.drained(token(stream), &self.queues);
    }

    fn step(&mut self) {
        self.now += self.random.below(20);
        match self.random.below(100) {
            0..22 => self.write(),
            22..32 => self.publish(),
            32..45 => {
                if let Some(batch) = self.ring.pop_front() {
                    self.watchers.deliver(&batch, &mut self.queues);
                }
            }
            45..48 => {
                // A snapshot that was taken earlier goes as far as it goes.
                let current = self.store.current;
                let behind = (current - self.store.compacted.max(1)).min(5);
                self.store.current -= self.random.below(behind as u64 + 1) as i64;
                self.watchers.catch_up(&self.store, &mut self.queues);
                self.store.current = current;
            }
            48..60 => {
                let expects_more = self.watchers.catch_up(&self.store, &mut self.queues);
                assert!(!expects_more || self.watchers.wants_catch_up());
            }
            60..75 => {
                if let Some(stream) = self.stream() {
                    let count = self.random.below(8);
                    self.read(stream, count);
                }
            }
            75..82 => match self.stream() {
                Some(stream) => self.create(stream),
                None => self.open(),
            },
            82..85 => {
                if let Some(stream) = self.stream() {
                    self.cancel(stream);
                }
            }
            85..92 => {
                if let Some(stream) = self.stream() {
                    self.clients.get_mut(&stream).unwrap().asked.push_back(self.store.current);
                    self.watchers.request_progress(token(stream), self.store.current, &mut self.queues);
                }
            }
            92..96 => self.watchers.tick(self.now, &mut self.queues),
            96 => {
                if self.clients.len() < 5 {
                    self.open();
                } else if let Some(stream) = self.stream() {
                    self.close(stream);
                }
            }
            97 => {
                // The ring was full: what was in it arrives, the rest does not.
                self.ring.truncate(1);
                self.sent = self.store.current;
                if self.random.one_in(2) {
                    self.watchers.gap(self.sent);
                }
            }
            _ => {
                let room = self.store.current - self.store.compacted;
                self.store.compacted += self.random.below(room as u64 / 2 + 1) as i64;
            }
        }
        self.seen.slow = self.seen.slow.max(self.watchers.counts().slow);
    }

    fn open(&mut self) {
        self.streams += 1;
        let interval_ms = 100 + self.random.below(50);
        self.watchers.open(token(self.streams), self.now, interval_ms);
        self.clients.insert(self.streams, Client::default());
    }

    fn close(&mut self, stream: u32) {
        self.watchers.close(token(stream));
        self.queues.queues.remove(&stream);
        self.forget(stream);
    }

    fn forget(&mut self, stream: u32) {
        let client = self.clients.remove(&stream).unwrap();
        self.seen.progress += client.progress_answers;
        self.seen.compactions += client.compactions;
        self.seen.fragments += client.fragments;
    }

    /// Clients read, batches arrive: in the end nobody misses anything.
    fn settle(&mut self) {
        self.publish();
        for _ in 0..100_000 {
            let batch = self.ring.pop_front();
            if let Some(batch) = &batch {
                self.watchers.deliver(batch, &mut self.queues);
            }
            self.watchers.catch_up(&self.store, &mut self.queues);
            for stream in self.clients.keys().copied().collect::<Vec<_>>() {
                self.read(stream, u64::MAX);
            }
            if batch.is_none() && !self.watchers.wants_catch_up() {
                break;
            }
        }
        self.watchers.gap(self.store.current);
        while self.watchers.wants_catch_up() {
            self.watchers.catch_up(&self.store, &mut self.queues);
            for stream in self.clients.keys().copied().collect::<Vec<_>>() {
                self.read(stream, u64::MAX);
            }
        }
        assert_eq!(self.watchers.head(), self.store.current);
        assert_eq!(self.watchers.counts().slow, 0);
        for (stream, client) in &self.clients {
            assert!(client.is_complete(&self.store), "stream {stream}: {client:?}");
        }
        // And now everybody can be told so, who has started and was not cancelled.
        for (&stream, client) in &mut self.clients {
            let current = self.store.current;
            let all = client.watches.values().all(|w| !w.over && w.request.start_revision <= current);
            let may = all && !client.watches.is_empty();
            client.asked.push_back(current);
            self.watchers.request_progress(token(stream), current, &mut self.queues);
            let answers = self.queues.take_all(token(stream));
            assert_eq!(answers.len(), usize::from(may), "stream {stream}");
            answers.iter().for_each(|answer| client.receive(answer, &self.store, FRAGMENT_BYTES));
        }
    }
}

#[test]
fn every_watch_sees_its_history_exactly_once() {
    let mut seen = Seen::default();
    for seed in 0..120 {
        let mut world = World::new(seed);
        for _ in 0..5 {
            for _ in 0..400 {
                world.step();
            }
            world.settle();
        }
        let streams: Vec<u32> = world.clients.keys().copied().collect();
        for stream in streams {
            world.close(stream);
        }
        assert_eq!(world.watchers.counts().watchers, 0);
        seen.slow = seen.slow.max(world.seen.slow);
        seen.progress += world.seen.progress;
        seen.compactions += world.seen.compactions;
        seen.fragments += world.seen.fragments;
        seen.refused += world.seen.refused;
    }
    let Seen { slow, progress, compactions, fragments, refused } = seen;
    assert!(
        slow > 5 && progress > 1000 && compactions > 100 && fragments > 1000 && refused > 100,
        "{seen:?}"
    );
}
