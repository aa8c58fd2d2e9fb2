//! A whole member without sockets, threads or a clock: one client connection, one shard, the log core over simulated
//! files. Bytes of the client go in, bytes for it come out; nothing moves but in [`Member::settle`].

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::HashMap;
use std::io::IoSlice;
use std::sync::Arc;

use base::Millis;
use disk::SimFiles;
use mainstay_api as api;
use net::client::{Answers, ClientConnection};
use net::{ErrorCode, Outbound};
use prost::Message;
use replica::{Action, Event, Replica};

/// What the client got.
#[derive(Default)]
pub struct Log {
    pub messages: HashMap<u32, Vec<Vec<u8>>>,
    pub statuses: HashMap<u32, (u8, String)>,
    pub resets: Vec<(u32, ErrorCode)>,
}

impl Answers for Log {
    fn message(&mut self, stream: u32, message: &[u8]) {
        self.messages.entry(stream).or_default().push(message.to_vec());
    }

    fn finished(&mut self, stream: u32, code: u8, message: &str) {
        let before = self.statuses.insert(stream, (code, message.to_string()));
        assert!(before.is_none(), "a call ends once");
    }

    fn reset(&mut self, stream: u32, code: ErrorCode) {
        self.resets.push((stream, code));
    }
}

/// Takes nothing at once: all goes through the output.
struct FullSocket;

impl api::Sink for FullSocket {
    fn offer(&mut self, _: &[IoSlice<'_>]) -> usize {
        0
    }
}

/// The server's side of the only connection.
struct Wire {
    server: Box<net::Connection>,
    id: api::ConnectionId,
    socket: FullSocket,
}

impl api::Connections for Wire {
    fn outbound(&mut self, id: api::ConnectionId) -> Option<(&mut Outbound, &mut dyn api::Sink)> {
        (id == self.id).then_some((self.server.outbound(), &mut self.socket))
    }
}

pub struct Member {
    pub client: ClientConnection,
    pub log: Log,
    pub shard: api::Shard,
    pub replica: Replica,
    /// The client takes what is sent to it.
    pub reads: bool,
    /// The log core turns.
    pub turns: bool,
    /// Helpers hash what is compacted, which removal waits for.
    pub hashes: bool,
    hashes_due: Vec<replica::HashJob>,
    pub now: Millis,
    wire: Wire,
    files: SimFiles,
    actions: Vec<Action>,
}

fn start(quota_bytes: i64) -> replica::Start {
    let member = replica::founding_member(
        "default",
        &["http://localhost:2380".into()],
        &["http://localhost:2379".into()],
        "etcd-cluster",
    );
    replica::Start {
        options: replica::Options {
            member,
            heartbeat_ms: 100,
            election_ms: 1000,
            auto_compaction: replica::AutoCompaction::Off,
            checkpoint: replica::CheckpointPolicy::default(),
            scrub: replica::ScrubPolicy::default(),
            memory_budget_bytes: 64 << 20,
            cluster_version: "3.7.0".into(),
        },
        quota_config_bytes: quota_bytes,
        tree: tree::Options { chunk_bytes: 4 << 20, max_chunks: 64, reserve_bytes: 1 << 20 },
        wal: wal::Options { segment_bytes: 1 << 20, batch_bytes: 64 << 10, in_flight: 4, boot: 1 },
        boot: 1,
    }
}

impl Member {
    pub fn new() -> Member {
        Member::with_quota(-1)
    }

    /// It serves, and its client is connected.
    pub fn with_quota(quota_bytes: i64) -> Member {
        let files = SimFiles::new();
        let (replica, _) = replica::open(Arc::new(files.clone()), start(quota_bytes), || Ok(()))
            .unwrap_or_else(|error| panic!("{error}"));
        let config = api::Config {
            shard: 0,
            version: "3.7.1".into(),
            max_txn_ops: 128,
            max_request_bytes: 3 << 19,
            request_timeout_ms: 7000,
            progress_interval_ms: 600_000,
            slow_request_us: u64::MAX,
            seed: 1,
        };
        let (published, reader) = (replica.published().clone(), replica.readers().register());
        let id = api::ConnectionId { slot: 3, epoch: 5 };
        let mut server = Box::new(net::Connection::new(Arc::default(), api::methods(), 1));
        server.outbound().tag = id.to_tag();
        let mut member = Member {
            client: ClientConnection::new(),
            log: Log::default(),
            shard: api::Shard::new(config, published, reader, Arc::default()),
            replica,
            reads: true,
            turns: true,
            hashes: true,
            hashes_due: Vec::new(),
            now: 1,
            wire: Wire { server, id, socket: FullSocket },
            files,
            actions: Vec::new(),
        };
        member.settle();
        assert!(member.replica.published().read_ready());
        member
    }

    /// Starts a call with this request.
    pub fn start(&mut self, path: &str, request: &impl Message, end: bool) -> u32 {
        self.client.start(path, &request.encode_to_vec(), end)
    }

    /// A call from its first byte to its status.
    pub fn call(&mut self, path: &str, request: &impl Message) -> (u8, String) {
        let stream = self.start(path, request, true);
        self.settle();
        self.status(stream)
    }

    /// Starts a call without a message and then sends these bytes of its body.
    pub fn start_raw(&mut self, path: &str, body: &[u8], end: bool) -> u32 {
        let stream = self.client.start_with(path, &[], None, false);
        self.settle();
        self.raw(stream, body, end);
        stream
    }

    /// One DATA frame.
    pub fn raw(&mut self, stream: u32, body: &[u8], end: bool) {
        let flags = if end { net::frame::flag::END_STREAM } else { 0 };
        let mut frame = net::frame::header(body.len(), net::frame::kind::DATA, flags, stream).to_vec();
        frame.extend_from_slice(body);
        let calls = &mut self.shard.calls(self.now);
        self.wire.server.receive(&frame, self.now, calls).expect("nothing is wrong with it");
        self.settle();
    }

    pub fn status(&self, stream: u32) -> (u8, String) {
        self.log.statuses.get(&stream).cloned().unwrap_or_else(|| panic!("call {stream} has no end"))
    }

    pub fn is_open(&self, stream: u32) -> bool {
        !self.log.statuses.contains_key(&stream)
    }

    pub fn decoded<M: Message + Default>(&self, stream: u32) -> Vec<M> {
        let messages = self.log.messages.get(&stream).map_or(&[][..], Vec::as_slice);
        messages.iter().map(|bytes| M::decode(&bytes[..]).expect("an answer decodes")).collect()
    }

    /// Bytes for the client that the server keeps, on their way to the socket and behind it.
    pub fn unsent(&mut self, stream: u32) -> usize {
        self.wire.server.output().unsent() + self.wire.server.outbound().queued(stream)
    }

    /// So much later.
    pub fn later(&mut self, by_ms: Millis) {
        self.now += by_ms;
        self.shard.tick(self.now, &mut self.wire);
        self.settle();
    }

    /// Goes on until nothing is left to do.
    pub fn settle(&mut self) {
        while self.step() {}
    }

    fn step(&mut self) -> bool {
        let mut moved = self.client_to_server();
        if self.turns {
            while let Some(event) = self.shard.outgoing.pop_front() {
                self.replica.handle(event, &mut self.actions);
                moved = true;
            }
            moved |= self.log_core();
        }
        let sent = self.replica.published().event_revision() as i64;
        self.shard.catch_up(sent, &mut self.wire);
        moved |= self.shard.wants_catch_up();
        moved | self.server_to_client()
    }

    fn client_to_server(&mut self) -> bool {
        let bytes = flat(self.client.output());
        if !bytes.is_empty() {
            let calls = &mut self.shard.calls(self.now);
            self.wire.server.receive(&bytes, self.now, calls).expect("the client does nothing wrong");
        }
        !bytes.is_empty()
    }

    fn log_core(&mut self) -> bool {
        self.replica.turn(&mut self.actions);
        self.replica.events_sent();
        let actions = std::mem::take(&mut self.actions);
        let moved = !actions.is_empty() || self.replica.has_work();
        for action in actions {
            let event = match action {
                Action::WriteLog(write) => {
                    write.perform().expect("the disk is fine");
                    Event::LogWritten { seq: write.seq, buffer: write.buf }
                }
                Action::PrepareSegment(job) => {
                    Event::SegmentReady(job.run(&self.files).expect("the disk has room"))
                }
                Action::Checkpoint(job) => Event::Checkpointed(job.run().expect("the disk is fine")),
                Action::HashCompaction(job) => {
                    self.hashes_due.push(job);
                    continue;
                }
                Action::Scrub(job) => Event::Scrubbed(job.run()),
                Action::DropCold(job) => Event::ColdDropped(job.run().expect("the disk is fine")),
                Action::Grow(job) => {
                    job.run().expect("the disk has room");
                    continue;
                }
                Action::DiskFailed { what } => panic!("{what}"),
                Action::Populate(job) => {
                    job.run();
                    continue;
                }
                Action::Outcome(outcome) => {
                    self.shard.outcome(outcome, &mut self.wire);
                    continue;
                }
                Action::Events(batch) => {
                    self.shard.events(&batch, &mut self.wire);
                    continue;
                }
                Action::Ready | Action::Stopped | Action::Note(_) => continue,
            };
            self.replica.handle(event, &mut self.actions);
        }
        let done = if self.hashes { std::mem::take(&mut self.hashes_due) } else { Vec::new() };
        let moved = moved || !done.is_empty();
        for job in done {
            self.replica.handle(Event::CompactionHashed(job.run()), &mut self.actions);
        }
        moved
    }

    fn server_to_client(&mut self) -> bool {
        let server = &mut self.wire.server;
        let mut streams = Vec::new();
        server.outbound().drain_writable(&mut streams);
        for stream in streams {
            self.shard.writable(server.outbound(), &mut FullSocket, stream);
        }
        if server.outbound().has_resumed() {
            server.resume(&mut self.shard.calls(self.now));
        }
        if !self.reads {
            return false;
        }
        let bytes = flat(server.output());
        self.client.receive(&bytes, &mut self.log).expect("the server does nothing wrong");
        !bytes.is_empty()
    }
}

/// Everything that waits, as if the socket had taken it.
fn flat(output: &mut net::Output) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !output.is_empty() {
        let mut slices = Vec::new();
        output.gather(&mut slices);
        let sent: usize = slices.iter().map(|slice| slice.len()).sum();
        slices.iter().for_each(|slice| bytes.extend_from_slice(slice));
        output.consumed(sent);
    }
    bytes
}

/// A gRPC message with its prefix.
pub fn prefixed(message: &impl Message) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    [&net::grpc::prefix(bytes.len())[..], &bytes].concat()
}
