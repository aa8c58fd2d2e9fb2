//! One of the two servers: executes steps, maps the lease ids that it chose, collects what watchers are told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proto::etcdserverpb::*;
use tokio::sync::Notify;

use super::compare::StreamLog;
use super::steps::{Answer, Failure, Request, Step};
use crate::common::client::Client;
use crate::common::server::{Recipe, Server};

/// Ids from here on stand for the n-th lease whose id the server chose.
pub const CHOSEN_LEASE: i64 = 0x7ff0_0000_0000_0000;
/// How long a watcher may take for what it must say.
const WATCH_PATIENCE: Duration = Duration::from_secs(10);

/// An open watch stream and what it said.
pub struct Stream {
    requests: tokio::sync::mpsc::UnboundedSender<WatchRequest>,
    pub log: Arc<Mutex<StreamLog>>,
    news: Arc<Notify>,
    reader: tokio::task::JoinHandle<()>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Stream {
    async fn open(client: &Client) -> Stream {
        let log = Arc::new(Mutex::new(StreamLog::default()));
        let news = Arc::new(Notify::new());
        let (requests, mut outbound) = tokio::sync::mpsc::unbounded_channel();
        let mut stream = client.clone().watch().await;
        let (into, heard) = (Arc::clone(&log), Arc::clone(&news));
        let reader = tokio::spawn(async move {
            loop {
                tokio::select! {
                    request = outbound.recv() => match request {
                        Some(WatchRequest { request_union }) => stream.send(request_union).await,
                        None => return,
                    },
                    response = stream.next() => {
                        let mut log = into.lock().expect("no panic holds the log");
                        match response {
                            Ok(Some(response)) => log.add(response),
                            Ok(None) => log.ended = Some("end of stream".into()),
                            Err(status) => log.ended = Some(format!("{:?}", Failure::from(status))),
                        }
                        let ended = log.ended.is_some();
                        drop(log);
                        heard.notify_waiters();
                        if ended {
                            return;
                        }
                    }
                }
            }
        });
        Stream { requests, log, news, reader }
    }

    /// Waits until the log satisfies `enough`; false when it does not in time.
    async fn wait(&self, patience: Duration, enough: impl Fn(&StreamLog) -> bool) -> bool {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let heard = self.news.notified();
            tokio::pin!(heard);
            heard.as_mut().enable();
            {
                let log = self.log.lock().expect("no panic holds the log");
                if enough(&log) {
                    return true;
                }
            }
            if tokio::time::timeout_at(deadline, heard).await.is_err() {
                return false;
            }
        }
    }
}

/// What a step came to, before exemptions.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Answers(Vec<Answer>),
    /// Whether the expected control response came, and the watch id that it created.
    Watch {
        answered: bool,
        created: Option<i64>,
    },
    Nothing,
}

pub struct Side {
    pub server: Server,
    pub client: Client,
    pub streams: BTreeMap<usize, Stream>,
    chosen: Vec<i64>,
}

impl Side {
    pub async fn start(recipe: Recipe) -> Side {
        let server =
            tokio::task::spawn_blocking(|| Server::start(recipe)).await.expect("the start does not panic");
        let client = Client::connect(&server.endpoint).await;
        let side = Side { server, client, streams: BTreeMap::new(), chosen: Vec::new() };
        side.wait_versioned().await;
        side
    }

    /// The cluster version is proposed some time after the start, and the storage version climbs to it; until then
    /// both still move by themselves.
    async fn wait_versioned(&self) {
        for _ in 0..1000 {
            if let Answer::Status(status) = Request::Status(StatusRequest {}).send(self.client.clone()).await
                && let Some((minor, _)) = status.version.rsplit_once('.')
                && status.storage_version == format!("{minor}.0")
                && status.raft_index >= 4
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{:?} never set the cluster version", self.server.endpoint);
    }

    fn real_lease(&self, id: i64) -> i64 {
        match usize::try_from(id.saturating_sub(CHOSEN_LEASE)) {
            Ok(number) if id >= CHOSEN_LEASE => self.chosen.get(number).copied().unwrap_or(id),
            _ => id,
        }
    }

    fn placeholder(&self, id: i64) -> i64 {
        match self.chosen.iter().position(|&chosen| chosen == id) {
            Some(number) => CHOSEN_LEASE + number as i64,
            None => id,
        }
    }

    async fn answer(&mut self, mut request: Request) -> Answer {
        match &mut request {
            Request::LeaseRevoke(LeaseRevokeRequest { id })
            | Request::LeaseTimeToLive(LeaseTimeToLiveRequest { id, .. }) => *id = self.real_lease(*id),
            Request::KeepAlive(ids) => ids.iter_mut().for_each(|id| *id = self.real_lease(*id)),
            _ => {}
        }
        let chooses = matches!(&request, Request::LeaseGrant(grant) if grant.id == 0);
        let mut answer = request.send(self.client.clone()).await;
        match &mut answer {
            Answer::LeaseGrant(grant) => {
                if chooses {
                    self.chosen.push(grant.id);
                }
                grant.id = self.placeholder(grant.id);
            }
            Answer::LeaseTimeToLive(answer) => answer.id = self.placeholder(answer.id),
            Answer::KeepAlive(answers) => {
                answers.iter_mut().for_each(|answer| answer.id = self.placeholder(answer.id));
            }
            Answer::LeaseLeases(answer) => {
                answer.leases.iter_mut().for_each(|lease| lease.id = self.placeholder(lease.id));
            }
            _ => {}
        }
        answer
    }

    /// Streams that the server has ended, with the reason.
    pub fn ended(&self) -> Vec<(usize, String)> {
        let reason = |stream: &Stream| stream.log.lock().expect("no panic holds the log").ended.clone();
        self.streams.iter().filter_map(|(&number, stream)| Some((number, reason(stream)?))).collect()
    }

    async fn stream(&mut self, number: usize) -> &Stream {
        if !self.streams.contains_key(&number) {
            let stream = Stream::open(&self.client).await;
            self.streams.insert(number, stream);
        }
        &self.streams[&number]
    }

    /// Executes one step. `compacted`: a watch that starts before it must be cancelled. `known`: whether the watcher
    /// to cancel exists; another is ignored without an answer.
    pub async fn execute(&mut self, step: Step, compacted: i64, known: bool) -> Outcome {
        match step {
            Step::Write(request) => Outcome::Answers(vec![self.answer(request).await]),
            Step::Reads(reads) => {
                if reads
                    .iter()
                    .any(|read| matches!(read, Request::LeaseTimeToLive(_) | Request::LeaseLeases(_)))
                {
                    // These map ids, and need `self` one after the other.
                    let mut answers = Vec::new();
                    for read in reads {
                        answers.push(self.answer(read).await);
                    }
                    return Outcome::Answers(answers);
                }
                let running: Vec<_> =
                    reads.into_iter().map(|read| tokio::spawn(read.send(self.client.clone()))).collect();
                let mut answers = Vec::new();
                for one in running {
                    answers.push(one.await.expect("a call does not panic"));
                }
                Outcome::Answers(answers)
            }
            Step::WatchCreate { stream, request } => {
                let start = request.start_revision;
                self.control(stream, watch_request::RequestUnion::CreateRequest(request), 1, |created| {
                    u64::from(created && start > 0 && start < compacted)
                })
                .await
            }
            Step::WatchCancel { stream, id } => {
                let request = WatchCancelRequest { watch_id: id };
                let union = watch_request::RequestUnion::CancelRequest(request);
                self.control(stream, union, 0, |_| u64::from(known)).await
            }
            Step::WatchNothing { stream } => {
                let stream = self.stream(stream).await;
                let _ = stream.requests.send(WatchRequest { request_union: None });
                Outcome::Nothing
            }
            Step::WatchClose { stream } => {
                self.streams.remove(&stream);
                Outcome::Nothing
            }
            Step::Settle => Outcome::Nothing,
        }
    }

    /// Sends a watch request and waits for what must come back: `creates` created responses, then as many
    /// cancellations as `cancels` says, given whether a watcher was created.
    async fn control(
        &mut self,
        number: usize,
        request: watch_request::RequestUnion,
        creates: u64,
        cancels: impl Fn(bool) -> u64,
    ) -> Outcome {
        let stream = self.stream(number).await;
        let (created, cancelled) = {
            let log = stream.log.lock().expect("no panic holds the log");
            (log.created, log.cancelled)
        };
        let _ = stream.requests.send(WatchRequest { request_union: Some(request) });
        let mut answered = stream.wait(WATCH_PATIENCE, |log| log.created >= created + creates).await;
        let created = {
            let log = stream.log.lock().expect("no panic holds the log");
            let newest = log.newest.as_ref().filter(|newest| creates == 1 && !newest.canceled);
            newest.map(|newest| newest.watch_id)
        };
        let more = cancels(created.is_some());
        answered &= stream.wait(WATCH_PATIENCE, |log| log.cancelled >= cancelled + more).await;
        Outcome::Watch { answered, created }
    }

    /// Waits until `number` has told its watchers everything up to `revision`: false when it does not say so.
    pub async fn progress(&mut self, number: usize, revision: i64) -> bool {
        let stream = self.stream(number).await;
        for _ in 0..200 {
            let request = watch_request::RequestUnion::ProgressRequest(WatchProgressRequest {});
            let _ = stream.requests.send(WatchRequest { request_union: Some(request) });
            // etcd drops the request while a watcher catches up: ask again.
            if stream
                .wait(Duration::from_millis(50), |log| log.progress >= revision || log.ended.is_some())
                .await
            {
                return stream.log.lock().expect("no panic holds the log").progress == revision;
            }
        }
        false
    }
}
