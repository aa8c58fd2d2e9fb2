//! Real clients whose calls and watch streams are recorded as a history, for the checkers of the simulated world.
//!
//! The order of entries is one that real time agrees with: a call is entered before it is sent, an answer when it is
//! here. Values are unique, keys are few.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use base::Random;
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::*;
use sim::history::{Answer, Event, History, Note, Outcome, Passage, Request, StreamId};
use tonic::{Code, Response, Status};

use super::client::{Client, WatchStream, requests};

/// A call without an answer for so long is given up, and counts as lost.
const PATIENCE: Duration = Duration::from_secs(8);
/// Longer than a restart and a catch-up take.
const CATCH_UP: Duration = Duration::from_secs(30);
const KEYS: u64 = 24;
/// Longer than a short lease lasts.
const SHORT_LEASES: Duration = Duration::from_secs(4);
/// The only member.
const MEMBER: u32 = 1;

/// What the clients ask.
#[derive(Clone, Copy)]
pub struct Mix {
    /// Of a long value, at most; one put in four has one.
    pub value_bytes: u64,
    /// Leases run out in two seconds or more, so a run without them can be shorter.
    pub leases: bool,
    /// Without, the store grows.
    pub compactions: bool,
}

/// Shared by all clients of a run.
pub struct Recorder {
    history: Mutex<History>,
    began: Instant,
    mix: Mix,
    leases: Mutex<Vec<i64>>,
    serial: AtomicU64,
    /// The newest revision that any answer carried.
    newest: AtomicI64,
    /// Up to where each watcher has certainly seen everything.
    progress: [AtomicI64; 2],
    /// The askers are to stop, and then the watchers.
    stop: AtomicBool,
    end: AtomicBool,
}

impl Recorder {
    pub fn new(mix: Mix) -> Arc<Recorder> {
        Arc::new(Recorder {
            history: Mutex::new(History::new()),
            began: Instant::now(),
            mix,
            leases: Mutex::default(),
            serial: AtomicU64::new(0),
            newest: AtomicI64::new(1),
            progress: [const { AtomicI64::new(0) }; 2],
            stop: AtomicBool::new(false),
            end: AtomicBool::new(false),
        })
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().expect("no panic holds the history")
    }

    fn now_us(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn ended(&self) -> bool {
        self.end.load(Ordering::SeqCst)
    }

    pub fn process_stopped(&self) {
        let now_us = self.now_us();
        self.history().note(now_us, Note::Stopped { member: MEMBER });
    }

    pub fn process_started(&self) {
        let now_us = self.now_us();
        self.history().note(now_us, Note::Started { member: MEMBER });
    }

    /// The disk is about to be full or slow: refusals for that are to be expected from here on.
    pub fn strained(&self) {
        let now_us = self.now_us();
        self.history().note(now_us, Note::Strained);
    }

    /// Sends one call and records what came of it; false when the connection is of no more use.
    async fn ask<M>(
        &self,
        client: u32,
        request: Request,
        call: impl Future<Output = Result<Response<M>, Status>>,
    ) -> bool
    where
        Answer: for<'m> From<&'m M>,
    {
        let op = {
            let now_us = self.now_us();
            self.history().call(client, MEMBER, now_us, request)
        };
        let ended = tokio::time::timeout(PATIENCE, call).await;
        let now_us = self.now_us();
        let mut history = self.history();
        match ended {
            Ok(Ok(answer)) => {
                let answer = Answer::from(answer.get_ref());
                self.newest.fetch_max(answer.revision(), Ordering::SeqCst);
                if let Answer::LeaseGrant { id, .. } = &answer {
                    self.leases.lock().expect("no panic holds the leases").push(*id);
                }
                history.answered(op, now_us, answer);
                true
            }
            Ok(Err(status)) => match Outcome::of_status(status.code(), status.message()) {
                Outcome::Refused(refusal) => {
                    history.refused(op, now_us, refusal);
                    true
                }
                _ => {
                    history.lost(op, now_us);
                    status.code() == Code::ResourceExhausted
                }
            },
            Err(_) => {
                history.lost(op, now_us);
                false
            }
        }
    }
}

/// Connects anew until it works or there is no use for it.
async fn reconnect(endpoint: &str, over: impl Fn() -> bool) -> Option<Client> {
    while !over() {
        match tokio::time::timeout(Duration::from_secs(1), Client::try_connect(endpoint)).await {
            Ok(Ok(client)) => return Some(client),
            _ => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    None
}

/// One client: a call at a time.
struct Asker {
    number: u32,
    random: Random,
    recorder: Arc<Recorder>,
}

impl Asker {
    fn key(&mut self) -> Vec<u8> {
        format!("k{:02}", self.random.below(KEYS)).into_bytes()
    }

    fn span(&mut self) -> (Vec<u8>, Vec<u8>) {
        match self.random.below(4) {
            0 => (vec![0], vec![0]),
            1 => (self.key(), self.key()),
            _ => (self.key(), Vec::new()),
        }
    }

    fn value(&mut self) -> Vec<u8> {
        let serial = self.recorder.serial.fetch_add(1, Ordering::SeqCst);
        let mut value = format!("{}.{serial}.", self.number).into_bytes();
        if self.random.one_in(4) {
            value.resize(value.len() + self.random.below(self.recorder.mix.value_bytes) as usize, b'.');
        }
        value
    }

    fn lease(&mut self) -> i64 {
        let leases = self.recorder.leases.lock().expect("no panic holds the leases");
        match leases.len() {
            0 => 0,
            len => leases[len - 1 - self.random.below(len.min(5) as u64) as usize],
        }
    }

    fn put(&mut self) -> PutRequest {
        let lease = if self.recorder.mix.leases && self.random.one_in(3) { self.lease() } else { 0 };
        let prev_kv = self.random.one_in(3);
        PutRequest { key: self.key(), value: self.value(), lease, prev_kv, ..Default::default() }
    }

    fn delete(&mut self) -> DeleteRangeRequest {
        let (key, range_end) = if self.random.one_in(4) { self.span() } else { (self.key(), Vec::new()) };
        DeleteRangeRequest { key, range_end, prev_kv: self.random.one_in(3) }
    }

    fn range(&mut self) -> RangeRequest {
        let (key, range_end) = self.span();
        let newest = self.recorder.newest.load(Ordering::SeqCst);
        let past = (newest - self.random.below(40) as i64).max(1);
        RangeRequest {
            key,
            range_end,
            revision: if self.random.one_in(3) { past } else { 0 },
            limit: if self.random.one_in(3) { 1 + self.random.below(8) as i64 } else { 0 },
            serializable: self.random.one_in(3),
            ..Default::default()
        }
    }

    fn txn(&mut self) -> TxnRequest {
        use compare::{CompareResult, CompareTarget, TargetUnion};
        let newest = self.recorder.newest.load(Ordering::SeqCst);
        let compare = Compare {
            result: CompareResult::Greater as i32,
            target: CompareTarget::Mod as i32,
            key: self.key(),
            target_union: Some(TargetUnion::ModRevision(newest - 10)),
            ..Default::default()
        };
        let op = |request| RequestOp { request: Some(request) };
        // A key is changed once in a transaction: the branches take keys of their own.
        let mut put = self.put();
        put.key.push(b'+');
        let branch =
            vec![op(Op::RequestPut(self.put())), op(Op::RequestRange(self.range())), op(Op::RequestPut(put))];
        let other = vec![op(Op::RequestDeleteRange(self.delete())), op(Op::RequestRange(self.range()))];
        TxnRequest { compare: vec![compare], success: branch, failure: other }
    }

    /// One call; false when the connection is of no more use.
    async fn once(&mut self, client: &mut Client) -> bool {
        let recorder = Arc::clone(&self.recorder);
        let number = self.number;
        let kinds = if recorder.mix.leases { 13 } else { 10 };
        match self.random.below(kinds) {
            0..4 => {
                let put = self.put();
                recorder.ask(number, Request::from(&put), client.kv.put(put)).await
            }
            4 => {
                let delete = self.delete();
                recorder.ask(number, Request::from(&delete), client.kv.delete_range(delete)).await
            }
            5 | 6 => {
                let txn = self.txn();
                let request = Request::try_from(&txn).expect("the model knows it");
                recorder.ask(number, request, client.kv.txn(txn)).await
            }
            7 | 8 => {
                let range = self.range();
                let request = Request::try_from(&range).expect("the model knows it");
                recorder.ask(number, request, client.kv.range(range)).await
            }
            9 => {
                // Behind the watchers, so that everything is seen once before it goes.
                let seen = recorder.progress.iter().map(|seen| seen.load(Ordering::SeqCst)).min();
                let revision = seen.unwrap_or(0) - 60;
                if !recorder.mix.compactions || revision < 1 || !self.random.one_in(20) {
                    return true;
                }
                let compact = CompactionRequest { revision, physical: self.random.one_in(2) };
                recorder.ask(number, Request::from(&compact), client.kv.compact(compact)).await
            }
            10 => {
                let ttl = if self.random.one_in(4) { 600 } else { 2 + self.random.below(2) as i64 };
                let grant = LeaseGrantRequest { id: 0, ttl };
                recorder.ask(number, Request::from(&grant), client.lease.lease_grant(grant)).await
            }
            11 => {
                let renewal = LeaseKeepAliveRequest { id: self.lease() };
                let request = Request::from(&renewal);
                let mut lease = client.lease.clone();
                let call = async move {
                    let mut answers = lease.lease_keep_alive(requests(vec![renewal])).await?.into_inner();
                    let answer = answers.message().await?;
                    answer.map(Response::new).ok_or_else(|| Status::unavailable("the stream ended"))
                };
                recorder.ask(number, request, call).await
            }
            _ if self.random.one_in(3) => {
                let revoke = LeaseRevokeRequest { id: self.lease() };
                recorder.ask(number, Request::from(&revoke), client.lease.lease_revoke(revoke)).await
            }
            _ => {
                let query = LeaseTimeToLiveRequest { id: self.lease(), keys: self.random.one_in(2) };
                recorder.ask(number, Request::from(&query), client.lease.lease_time_to_live(query)).await
            }
        }
    }
}

/// Asks until the run ends.
async fn ask_until_stopped(number: u32, seed: u64, endpoint: String, recorder: Arc<Recorder>) {
    let random = Random::new(seed.wrapping_mul(1000).wrapping_add(u64::from(number)));
    let mut asker = Asker { number, random, recorder: Arc::clone(&recorder) };
    while let Some(mut client) = reconnect(&endpoint, || recorder.stopped()).await {
        while !recorder.stopped() && asker.once(&mut client).await {}
    }
}

/// Watches until the run ends, asks for progress all the time, and goes on after each break where it was. The first of
/// the two watches everything from the beginning; the second some keys, and always from its next revision on.
async fn watch_until_ended(first: bool, endpoint: String, recorder: Arc<Recorder>) {
    let number = if first { 100 } else { 101 };
    let progress = &recorder.progress[usize::from(!first)];
    let (mut next, mut answers) = (1, 0_u64);
    while let Some(mut client) = reconnect(&endpoint, || recorder.ended()).await {
        let create = if first {
            WatchCreateRequest {
                key: vec![0],
                range_end: vec![0],
                start_revision: next,
                prev_kv: true,
                ..Default::default()
            }
        } else {
            let (key, range_end) = (b"k0".to_vec(), b"k1".to_vec());
            WatchCreateRequest { key, range_end, progress_notify: true, ..Default::default() }
        };
        let mut watched = Watched::open(&mut client, number, &recorder).await;
        watched.create(create).await;
        while !recorder.ended() {
            let answer = match tokio::time::timeout(Duration::from_millis(100), watched.stream.next()).await {
                Err(_) => {
                    watched.request_progress().await;
                    continue;
                }
                Ok(Ok(Some(answer))) => answer,
                Ok(_) => break,
            };
            watched.received(&answer);
            answers += 1;
            if answers % 50 == 0 {
                watched.request_progress().await;
            }
            if let Some(event) = answer.events.last() {
                next = event.kv.as_ref().map_or(next, |kv| next.max(kv.mod_revision + 1));
                progress.fetch_max(next - 1, Ordering::SeqCst);
            }
            if answer.canceled {
                next = next.max(answer.compact_revision + 1);
                break;
            }
            let bookmark = answer.events.is_empty() && !answer.created;
            if let Some(header) = answer.header.filter(|_| bookmark) {
                progress.fetch_max(header.revision, Ordering::SeqCst);
            }
        }
        watched.close();
    }
}

/// A recorded stream with one watcher.
struct Watched<'r> {
    stream: WatchStream,
    id: StreamId,
    recorder: &'r Recorder,
}

impl<'r> Watched<'r> {
    async fn open(client: &mut Client, number: u32, recorder: &'r Recorder) -> Watched<'r> {
        let id = {
            let now_us = recorder.now_us();
            recorder.history().open_stream(number, MEMBER, now_us)
        };
        Watched { stream: client.watch().await, id, recorder }
    }

    fn passed(&self, passage: Passage) {
        let now_us = self.recorder.now_us();
        self.recorder.history().passed(self.id, now_us, passage);
    }

    async fn create(&mut self, create: WatchCreateRequest) {
        self.passed(Passage::Create((&create).into()));
        self.stream.create(create).await;
    }

    async fn request_progress(&mut self) {
        self.passed(Passage::RequestProgress);
        self.stream.progress().await;
    }

    fn received(&self, answer: &WatchResponse) {
        self.passed(answer.into());
    }

    fn close(self) {
        let now_us = self.recorder.now_us();
        self.recorder.history().close_stream(self.id, now_us);
    }
}

/// The clients of a run.
pub struct Clients {
    recorder: Arc<Recorder>,
    askers: Vec<tokio::task::JoinHandle<()>>,
    watchers: Vec<tokio::task::JoinHandle<()>>,
}

impl Clients {
    /// Some that ask, and both watchers.
    pub fn start(recorder: &Arc<Recorder>, askers: u32, seed: u64, endpoint: &str) -> Clients {
        let asker =
            |number| tokio::spawn(ask_until_stopped(number, seed, endpoint.to_owned(), Arc::clone(recorder)));
        let watcher =
            |first| tokio::spawn(watch_until_ended(first, endpoint.to_owned(), Arc::clone(recorder)));
        Clients {
            recorder: Arc::clone(recorder),
            askers: (1..=askers).map(asker).collect(),
            watchers: [true, false].map(watcher).into(),
        }
    }

    /// Ends the run on a server that is well: the askers stop, both watchers come to the newest revision, all that is
    /// left of the history is read once more.
    pub async fn settle(self, endpoint: &str) -> History {
        let recorder = self.recorder;
        recorder.stop.store(true, Ordering::SeqCst);
        for asker in self.askers {
            asker.await.expect("a client ends well");
        }
        if recorder.mix.leases {
            // One expiry at least, whatever the askers left: what is under short leases goes.
            let mut client = Client::connect(endpoint).await;
            let grant = LeaseGrantRequest { id: 0, ttl: 2 };
            recorder.ask(0, Request::from(&grant), client.lease.lease_grant(grant)).await;
            let lease =
                *recorder.leases.lock().expect("no panic holds the leases").last().expect("one was granted");
            let put = PutRequest { key: b"leased".to_vec(), lease, ..Default::default() };
            recorder.ask(0, Request::from(&put), client.kv.put(put)).await;
            tokio::time::sleep(SHORT_LEASES).await;
        }
        let mut client = Client::connect(endpoint).await;
        let revision = client.revision().await;
        let newest = recorder.newest.load(Ordering::SeqCst);
        assert!(revision >= newest, "the store went back from revision {newest} to {revision}");
        let give_up = Instant::now() + CATCH_UP;
        while recorder.progress.iter().any(|seen| seen.load(Ordering::SeqCst) < revision) {
            let seen: Vec<i64> = recorder.progress.iter().map(|seen| seen.load(Ordering::SeqCst)).collect();
            assert!(Instant::now() < give_up, "watchers came to {seen:?} of revision {revision}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let now_us = recorder.now_us();
        recorder.history().note(now_us, Note::Settled { revision });
        recorder.end.store(true, Ordering::SeqCst);
        for watcher in self.watchers {
            watcher.await.expect("a watcher ends well");
        }
        let (first, events) = dump(&mut client, revision).await;
        let now_us = recorder.now_us();
        let mut history = std::mem::take(&mut *recorder.history());
        history.dump(now_us, first, revision, events);
        history
    }
}

/// Everything that can still be read of the history up to `last`, and from where on.
async fn dump(client: &mut Client, last: i64) -> (i64, Vec<Event>) {
    let mut first = 1;
    let mut events: Vec<Event> = Vec::new();
    'again: loop {
        let mut stream = client.watch().await;
        let everything = WatchCreateRequest {
            key: vec![0],
            range_end: vec![0],
            start_revision: first,
            ..Default::default()
        };
        stream.create(everything).await;
        loop {
            stream.progress().await;
            let answer = stream.expect().await;
            if answer.canceled {
                assert!(answer.compact_revision >= first, "{answer:?}");
                first = answer.compact_revision + 1;
                events.clear();
                continue 'again;
            }
            let bookmark = answer.events.is_empty() && !answer.created;
            events.extend(answer.events.iter().map(Event::from));
            let done = events.last().is_some_and(|event| event.kv.modified >= last);
            if done || (bookmark && answer.header.is_some_and(|header| header.revision >= last)) {
                events.retain(|event| event.kv.modified <= last);
                return (first, events);
            }
        }
    }
}
