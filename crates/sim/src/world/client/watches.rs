//! Watch streams of a client: several watchers each, taken up again after every break behind the last event, as
//! client libraries do it.
//!
//! A watcher's position is the revision from which it would go on: behind the last whole revision that it received, or
//! behind a bookmark. A train of fragments counts when its last one has come.

use std::collections::VecDeque;

use api::calls::Rpc;
use base::Random;
use prost::Message;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::watch_request::RequestUnion;

use super::Client;
use super::calls::Call;
use crate::history::{Passage, StreamId};
use crate::world::Env;
use crate::world::coverage::Mechanism;
use crate::world::trace::{self, What};

/// One watcher, over all the streams that it lives on.
struct Watcher {
    /// What it asks for; the start is that of its first life.
    create: pb::WatchCreateRequest,
    /// On the present stream, from the created answer on.
    id: Option<i64>,
    /// Asked for on the present stream.
    asked: bool,
    /// The client wants it to end.
    cancelling: bool,
    /// Everything below was received, or is not asked for.
    position: Option<i64>,
}

/// One watch stream, open or to be opened.
pub(super) struct Stream {
    /// HTTP/2 stream and history entry, while it is open.
    open: Option<(u32, StreamId)>,
    /// The client has ended its own side: it listens, and says nothing more.
    mute: bool,
    watchers: Vec<Watcher>,
    /// Watchers whose created answers are to come, in order.
    creating: VecDeque<usize>,
}

/// The streams that a client wants.
pub(super) fn wanted(env: &mut Env, random: &mut Random) -> Vec<Stream> {
    let workload = &env.profile.workload;
    let mut left = if workload.watchers == 0 { 0 } else { 1 + random.below(workload.watchers) };
    let mut streams = Vec::new();
    while left > 0 {
        let count = 1 + random.below(left);
        left -= count;
        let watchers = (0..count).map(|_| watcher(random, workload.keys)).collect();
        streams.push(Stream { open: None, mute: false, watchers, creating: VecDeque::new() });
    }
    streams
}

fn watcher(random: &mut Random, keys: u64) -> Watcher {
    use pb::watch_create_request::FilterType;
    let (key, range_end) = match random.below(5) {
        0 | 1 => (format!("k{:03}", random.below(keys)).into_bytes(), Vec::new()),
        2 => (b"k".to_vec(), b"k005".to_vec()),
        3 => (b"k".to_vec(), b"l".to_vec()),
        _ => (vec![0], vec![0]),
    };
    let mut filters = Vec::new();
    for filter in [FilterType::Noput, FilterType::Nodelete] {
        if random.one_in(8) {
            filters.push(filter as i32);
        }
    }
    let create = pb::WatchCreateRequest {
        key,
        range_end,
        start_revision: if random.one_in(3) { 1 + random.below(20) as i64 } else { 0 },
        progress_notify: random.one_in(2),
        filters,
        prev_kv: random.one_in(2),
        watch_id: if random.one_in(4) { 100 + random.below(1000) as i64 } else { 0 },
        fragment: random.one_in(2),
    };
    Watcher { create, id: None, asked: false, cancelling: false, position: None }
}

impl Watcher {
    fn request(&self) -> pb::WatchCreateRequest {
        let start_revision = self.position.unwrap_or(self.create.start_revision);
        pb::WatchCreateRequest { start_revision, ..self.create.clone() }
    }
}

impl Client {
    /// Opens the streams that are not open, and asks for the watchers that are not there.
    pub(super) fn tend_watches(&mut self, env: &mut Env) {
        for place in 0..self.streams.len() {
            let missing = |stream: &Stream| -> Vec<usize> {
                (0..stream.watchers.len()).filter(|&watcher| !stream.watchers[watcher].asked).collect()
            };
            if self.streams[place].mute && !missing(&self.streams[place]).is_empty() {
                self.leave(env, place);
            }
            let missing = missing(&self.streams[place]);
            for watcher in missing {
                self.create(env, place, watcher);
            }
        }
    }

    fn create(&mut self, env: &mut Env, place: usize, watcher: usize) {
        let resumed = self.streams[place].watchers[watcher].position.is_some();
        let create = self.streams[place].watchers[watcher].request();
        if self.say(env, place, RequestUnion::CreateRequest(create)) {
            let stream = &mut self.streams[place];
            stream.watchers[watcher].asked = true;
            stream.creating.push_back(watcher);
            if resumed {
                self.count(env, Mechanism::WatchResume);
            }
        }
    }

    /// Leaves a stream behind.
    fn leave(&mut self, env: &mut Env, place: usize) {
        let Some((stream, _)) = self.streams[place].open else { return };
        let link = self.stream_link();
        if let Some(of) = self.links[link].as_mut() {
            of.http.cancel(stream);
        }
        self.calls.remove(&(link, stream));
        self.watch_lost(env, place);
        self.flush(env, link);
    }

    /// Says something on a stream, which is opened for it if need be. False: there is no connection.
    fn say(&mut self, env: &mut Env, place: usize, request: RequestUnion) -> bool {
        let link = self.stream_link();
        if self.link(env, link).is_none() {
            return false;
        }
        let message = pb::WatchRequest { request_union: Some(request) };
        let bytes = message.encode_to_vec();
        let at_us = env.history_us();
        let (client, member) = (self.id, self.member);
        let open = self.streams[place].open;
        let entry = match open {
            Some((_, entry)) => entry,
            None => env.history.open_stream(client, member, at_us),
        };
        let passage = Passage::try_from(&message).unwrap_or_else(|why| panic!("nothing was asked: {why:?}"));
        env.history.passed(entry, at_us, passage);
        let Some(of) = self.links[link].as_mut() else { return false };
        match open {
            Some((stream, _)) => of.http.send(stream, &bytes, false),
            None => {
                let stream = of.http.start(Rpc::Watch.path(), &bytes, false);
                self.streams[place].open = Some((stream, entry));
                self.calls.insert((link, stream), Call::Watch { place });
                trace::note(What::Call { client, what: Rpc::Watch.path(), op: entry.0 as u64 });
            }
        }
        self.flush(env, link);
        true
    }

    /// Now and then: repairs what is missing, and while it is not resting also asks for progress, cancels a watcher,
    /// or closes a stream.
    pub(super) fn stir_watches(&mut self, env: &mut Env) {
        self.tend_watches(env);
        if self.resting || self.streams.is_empty() {
            return;
        }
        let place = self.random.below(self.streams.len() as u64) as usize;
        let Some((stream, _)) = self.streams[place].open else { return };
        let mute = self.streams[place].mute;
        match self.random.below(8) {
            0..4 if mute => {}
            0..3 => {
                self.say(env, place, RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
            }
            3 => {
                let watcher = self.random.below(self.streams[place].watchers.len() as u64) as usize;
                let watcher = &mut self.streams[place].watchers[watcher];
                if let Some(watch_id) = watcher.id.filter(|_| !watcher.cancelling) {
                    watcher.cancelling = true;
                    self.say(env, place, RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id }));
                }
            }
            4 if self.random.one_in(3) && !self.streams[place].mute => {
                let link = self.stream_link();
                self.streams[place].mute = true;
                if let Some(of) = self.links[link].as_mut() {
                    of.http.half_close(stream);
                }
                self.flush(env, link);
            }
            4 => self.leave(env, place),
            _ => {}
        }
    }

    /// Every watcher is there.
    pub fn watches(&self) -> bool {
        self.streams.iter().flat_map(|stream| &stream.watchers).all(|w| w.id.is_some() && !w.cancelling)
    }

    /// The stream is over. Its watchers will go on elsewhere.
    pub(super) fn watch_lost(&mut self, env: &mut Env, place: usize) {
        let at_us = env.history_us();
        let stream = &mut self.streams[place];
        if let Some((_, entry)) = stream.open.take() {
            env.history.close_stream(entry, at_us);
        }
        stream.creating.clear();
        stream.mute = false;
        for watcher in &mut stream.watchers {
            (watcher.id, watcher.asked, watcher.cancelling) = (None, false, false);
        }
    }

    pub(super) fn watch_answer(&mut self, env: &mut Env, place: usize, answer: &pb::WatchResponse) {
        let at_us = env.history_us();
        let client = self.id;
        let stream = &mut self.streams[place];
        let Some((_, entry)) = stream.open else { return };
        env.history.passed(entry, at_us, answer.into());
        let revision = answer.header.as_ref().map_or(0, |header| header.revision);
        trace::note(What::Watch {
            client,
            stream: entry.0 as u64,
            watch_id: answer.watch_id,
            revision,
            events: answer.events.len() as u64,
        });
        self.knows.revision = self.knows.revision.max(revision);
        if answer.created {
            let Some(number) = stream.creating.pop_front() else { return };
            let watcher = &mut stream.watchers[number];
            if answer.canceled {
                // Its id is taken, on a stream that had it before.
                watcher.asked = false;
                watcher.create.watch_id = 0;
                return;
            }
            watcher.id = Some(answer.watch_id);
            if watcher.position.is_none() {
                let start = watcher.create.start_revision;
                watcher.position = Some(if start == 0 { revision + 1 } else { start });
            }
            env.coverage.one(Mechanism::Watcher);
            return;
        }
        if answer.watch_id == -1 {
            env.coverage.one(Mechanism::WatchProgress);
            for watcher in stream.watchers.iter_mut().filter(|watcher| watcher.id.is_some()) {
                watcher.position = watcher.position.max(Some(revision + 1));
            }
            return;
        }
        let Some(watcher) = stream.watchers.iter_mut().find(|watcher| watcher.id == Some(answer.watch_id))
        else {
            return;
        };
        if answer.canceled {
            (watcher.id, watcher.asked, watcher.cancelling) = (None, false, false);
            if answer.compact_revision > 0 {
                env.coverage.one(Mechanism::WatchCompacted);
                // The old id stays taken on this stream.
                watcher.create.watch_id = 0;
                watcher.position = watcher.position.max(Some(answer.compact_revision));
            }
            return;
        }
        let filtered = if watcher.create.filters.is_empty() { 0 } else { answer.events.len() };
        let with_previous = answer.events.iter().filter(|event| event.prev_kv.is_some());
        env.coverage.add(Mechanism::WatchEvents, answer.events.len() as u64);
        env.coverage.add(Mechanism::WatchFiltered, filtered as u64);
        env.coverage.add(Mechanism::WatchPrevKv, with_previous.count() as u64);
        env.coverage.add(Mechanism::WatchFragment, u64::from(answer.fragment));
        if answer.fragment {
            return;
        }
        let last = answer.events.last().and_then(|event| event.kv.as_ref()).map(|kv| kv.mod_revision);
        env.coverage.add(Mechanism::WatchProgress, u64::from(last.is_none()));
        watcher.position = watcher.position.max(Some(last.unwrap_or(revision) + 1));
    }
}
