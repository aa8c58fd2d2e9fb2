//! One shard's calls: which are under way, what each waits for, and where their answers go.
//!
//! Invariants: a call stands in the slab from its first message until its last byte is handed to `net`, or it is
//! answered at once and never stands there; the stream's word in `net` is its position plus one. A call that was
//! cancelled leaves at once: an outcome that comes later finds no call and is dropped.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::{Arc, OnceLock};

use base::limits::STREAM_PAUSE_BYTES;
use base::{CallToken, Millis};
use net::{CallHead, Outbound};
use proto::errors::{self, Error};
use proto::etcdserverpb as pb;
use replica::{Event, Published};

use crate::calls::{Rpc, Shape, TABLE};
use crate::maintenance::{Job, SnapshotStream};
use crate::meter::Meter;
use crate::meter::turn::{Held, Turn};
use crate::produce::{LongRange, Starting, StreamedRange};

/// What a shard is told at start.
#[derive(Clone, Debug)]
pub struct Config {
    pub shard: u16,
    /// As Status and /version report it.
    pub version: String,
    pub max_txn_ops: usize,
    pub max_request_bytes: usize,
    /// After this a call that waits for the log core is answered "request timed out".
    pub request_timeout_ms: Millis,
    pub progress_interval_ms: Millis,
    /// Unary calls that take longer are told of, microseconds ([`Shard::slow_calls`]).
    pub slow_request_us: u64,
    /// Anything that clients do not know: shapes trees and spreads timers.
    pub seed: u64,
}

/// A connection of this shard: its slot, and the epoch that tells it from the slot's earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    pub slot: u32,
    pub epoch: u32,
}

impl ConnectionId {
    /// As it stands in [`Outbound::tag`].
    pub fn to_tag(self) -> u64 {
        u64::from(self.epoch) << 32 | u64::from(self.slot)
    }

    pub fn from_tag(tag: u64) -> ConnectionId {
        ConnectionId { slot: tag as u32, epoch: (tag >> 32) as u32 }
    }
}

/// Takes borrowed bytes on their way out at once; says how many.
pub trait Sink {
    fn offer(&mut self, slices: &[IoSlice<'_>]) -> usize;
}

/// The server's connections, as the shard reaches them.
pub trait Connections {
    /// `None` when that connection is gone. The server flushes whatever was written through this.
    fn outbound(&mut self, id: ConnectionId) -> Option<(&mut Outbound, &mut dyn Sink)>;
}

pub struct Shard {
    pub(crate) config: Config,
    pub(crate) published: Arc<Published>,
    pub(crate) reader: tree::Reader,
    pub(crate) calls: slab::Slab<Call>,
    /// Positions of the calls whose answers are produced piece by piece.
    pub(crate) long_reads: Vec<usize>,
    /// The log core was told of one of them.
    pub(crate) holds_history: bool,
    pub(crate) watches: crate::watch::Watches,
    pub(crate) meter: Arc<Meter>,
    pub(crate) turn: Turn,
    /// For the log core; the server moves them into the ring.
    pub outgoing: VecDeque<Event>,
    /// For the helper pool.
    pub jobs: Vec<Job>,
    /// Long answers to begin, once their sockets are at hand: call [`Shard::writable`] for each, in this turn.
    pub starting: Vec<CallToken>,
    pub(crate) now: Millis,
    /// Calls with a deadline, in the order of their deadlines.
    timeouts: VecDeque<(Millis, CallToken)>,
    draining: bool,
}

/// One call that is not answered yet.
pub(crate) struct Call {
    pub token: CallToken,
    pub rpc: Rpc,
    pub state: CallState,
    pub held: Held,
}

pub(crate) enum CallState {
    /// Waits for the log core to pass its read barrier; then it runs.
    Parked(Read),
    /// Waits for an outcome; times out.
    Waiting,
    /// Waits for work of its own; takes as long as it takes.
    Working,
    Starting(Box<Starting>),
    LongRange(Box<LongRange>),
    StreamedRange(Box<StreamedRange>),
    Snapshot(Box<SnapshotStream>),
    Watch,
    KeepAlive {
        in_flight: u32,
        /// Where the client ended its side, once it did.
        end: Option<net::End>,
    },
    HealthWatch,
}

/// A read that needs the barrier.
pub(crate) enum Read {
    Range(pb::RangeRequest),
    RangeStream(pb::RangeRequest),
    Txn(pb::TxnRequest),
    MemberList,
}

/// The table for `net`.
pub fn methods() -> &'static net::Methods {
    static METHODS: OnceLock<net::Methods> = OnceLock::new();
    METHODS.get_or_init(|| net::Methods::new(&TABLE.map(|(_, path, _)| path)))
}

impl Shard {
    pub fn new(config: Config, published: Arc<Published>, reader: tree::Reader, meter: Arc<Meter>) -> Shard {
        let watches = crate::watch::Watches::new(&config);
        let turn = Turn::new(config.slow_request_us);
        Shard {
            config,
            published,
            reader,
            calls: slab::Slab::new(),
            long_reads: Vec::new(),
            holds_history: false,
            watches,
            meter,
            turn,
            outgoing: VecDeque::new(),
            jobs: Vec::new(),
            starting: Vec::new(),
            now: 0,
            timeouts: VecDeque::new(),
            draining: false,
        }
    }

    /// The `net::Calls` of one connection, for one `receive`.
    pub fn calls(&mut self, now: Millis) -> ShardCalls<'_> {
        self.now = now;
        ShardCalls { shard: self }
    }

    pub fn published(&self) -> &Arc<Published> {
        &self.published
    }

    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// A turn begins: what is held from now on takes from here. Microseconds of the server's clock.
    pub fn begin_turn(&mut self, now_us: u64) {
        self.turn.begin(now_us);
    }

    /// Whether something was done whose time [`Shard::share_time`] would note.
    pub fn has_unmeasured_work(&self) -> bool {
        self.turn.has_work()
    }

    /// What was done since the turn began, or since this was called in it, was done at `now_us`.
    pub fn share_time(&mut self, now_us: u64) {
        self.turn.share(&self.meter, now_us);
    }

    /// Unary calls that were slow, since this was last asked; the first ones if they are very many.
    pub fn slow_calls(&mut self) -> std::vec::Drain<'_, crate::meter::Slow> {
        self.turn.slow.drain(..)
    }

    /// What never ends by itself ends (watches, keep-alives), nothing new is taken; the rest finishes.
    pub fn drain(&mut self, connections: &mut dyn Connections) {
        self.draining = true;
        let streams: Vec<(usize, CallToken)> = self
            .calls
            .iter()
            .filter(|(_, call)| call.rpc.is_endless())
            .map(|(position, call)| (position, call.token))
            .collect();
        for (position, token) in streams {
            if let Some((out, _)) = connections.outbound(connection_of(token)) {
                self.fail_call(out, token.stream, position, &errors::STOPPED);
            }
        }
    }

    /// Calls whose answers are still owed.
    pub fn open_calls(&self) -> usize {
        self.calls.len()
    }

    /// Time passes: deadlines, progress notifications.
    pub fn tick(&mut self, now: Millis, connections: &mut dyn Connections) {
        self.now = now;
        while let Some(&(deadline, token)) = self.timeouts.front()
            && deadline <= now
        {
            self.timeouts.pop_front();
            let Some((out, _)) = connections.outbound(connection_of(token)) else { continue };
            let Some(position) = position_of(out, token.stream) else { continue };
            let call = &self.calls[position];
            if call.token == token && matches!(call.state, CallState::Waiting | CallState::Parked(_)) {
                self.fail_call(out, token.stream, position, &errors::TIMEOUT);
            }
        }
        self.tend_long_reads();
        self.watch_tick(connections);
    }

    // --- what calls have in common ---

    pub(crate) fn token(&self, out: &Outbound, stream: u32) -> CallToken {
        let id = ConnectionId::from_tag(out.tag);
        CallToken { shard: self.config.shard, connection: id.slot, epoch: id.epoch, stream }
    }

    /// Notes that a call goes on beyond this turn.
    pub(crate) fn hold(&mut self, out: &mut Outbound, stream: u32, rpc: Rpc, state: CallState) -> CallToken {
        let token = self.token(out, stream);
        let timed = matches!(state, CallState::Waiting | CallState::Parked(_));
        let barrier = matches!(state, CallState::Parked(_));
        let long =
            matches!(state, CallState::Starting(_) | CallState::LongRange(_) | CallState::StreamedRange(_));
        let position = match position_of(out, stream) {
            Some(position) => {
                self.calls[position].state = state;
                position
            }
            None => {
                let held = self.turn.hold();
                let position = self.calls.insert(Call { token, rpc, state, held });
                out.set_word(stream, position as u64 + 1);
                self.meter.defrags.add(i64::from(rpc == Rpc::Defragment));
                position
            }
        };
        let held = &mut self.calls[position].held;
        held.barrier |= barrier;
        if long && !held.long {
            held.long = true;
            self.meter.long_reads.add(1);
            self.long_reads.push(position);
            let now = self.now;
            if let Some(revision) = self.calls[position].state.source().and_then(|source| source.reads(now)) {
                self.holds_history = true;
                self.published.hold_history_too(self.config.shard, revision);
            }
        }
        if timed {
            self.timeouts.push_back((self.now + self.config.request_timeout_ms, token));
        }
        token
    }

    /// Takes a call out: nothing more will be asked of it.
    pub(crate) fn release(&mut self, out: &mut Outbound, stream: u32) -> Option<Call> {
        let position = position_of(out, stream)?;
        out.set_word(stream, 0);
        let call = self.calls.remove(position);
        if call.held.long {
            self.long_reads.retain(|&long| long != position);
        }
        self.turn.release(&self.meter, call.token, call.held);
        Some(call)
    }

    pub(crate) fn answer<M: prost::Message>(
        &mut self,
        out: &mut Outbound,
        stream: u32,
        rpc: Rpc,
        message: &M,
    ) {
        self.answer_counted(out, stream, rpc, message, 0);
    }

    /// `count`: what [`crate::meter::Answer`] says of it.
    pub(crate) fn answer_counted<M: prost::Message>(
        &mut self,
        out: &mut Outbound,
        stream: u32,
        rpc: Rpc,
        message: &M,
        count: u64,
    ) {
        self.answer_with(out, stream, rpc, count, |buffer| message.encode(buffer).expect("a vector grows"));
    }

    /// Answers with the message that `encode` appends.
    pub(crate) fn answer_with(
        &mut self,
        out: &mut Outbound,
        stream: u32,
        rpc: Rpc,
        count: u64,
        encode: impl FnOnce(&mut Vec<u8>),
    ) {
        self.release(out, stream);
        let mut bytes = 0;
        out.unary(stream, |buffer| {
            let before = buffer.len();
            encode(buffer);
            bytes = buffer.len() - before;
        });
        self.turn.answered(count, bytes);
        self.finished(rpc, 0);
    }

    pub(crate) fn fail(&mut self, out: &mut Outbound, stream: u32, rpc: Rpc, error: &Error) {
        self.release(out, stream);
        out.fail(stream, error.code as u8, &error.message);
        self.finished(rpc, error.code as usize);
    }

    pub(crate) fn fail_call(&mut self, out: &mut Outbound, stream: u32, position: usize, error: &Error) {
        let call = &self.calls[position];
        let (rpc, watching) = (call.rpc, matches!(call.state, CallState::Watch));
        if watching {
            self.end_watch_stream(position);
        }
        self.fail(out, stream, rpc, error);
    }

    pub(crate) fn finished(&mut self, rpc: Rpc, code: usize) {
        self.turn.finished(&self.meter, rpc, code);
    }

    /// Sends a write to the log core; the outcome answers the call.
    pub(crate) fn propose(
        &mut self,
        out: &mut Outbound,
        stream: u32,
        rpc: Rpc,
        request: impl Into<replica::Request>,
    ) {
        let request = request.into();
        // What etcd measures: the entry with its header.
        let header_bytes = replica::entry_header_bytes(self.published.member_id);
        if request.encoded_len() + header_bytes > self.config.max_request_bytes {
            return self.fail(out, stream, rpc, &errors::REQUEST_TOO_LARGE);
        }
        let put_bytes = put_bytes(&request);
        let token = self.hold(out, stream, rpc, CallState::Waiting);
        if let Some(position) = position_of(out, stream) {
            let held = &mut self.calls[position].held;
            held.proposed = true;
            held.put_bytes = put_bytes;
            self.meter.proposals_pending.add(1);
        }
        self.outgoing.push_back(Event::Propose(replica::Proposal { token: Some(token), request }));
    }

    /// Runs a read now if the published root is the barrier, or parks it until the log core says so.
    pub(crate) fn after_barrier(&mut self, out: &mut Outbound, stream: u32, rpc: Rpc, read: Read) {
        if self.published.read_ready() {
            return self.run_read(out, None, stream, rpc, read);
        }
        let token = self.hold(out, stream, rpc, CallState::Parked(read));
        self.outgoing.push_back(Event::Barrier { token });
    }
}

/// Keys and values of its puts, bytes; of a Txn those that stand in its success branch.
fn put_bytes(request: &replica::Request) -> u32 {
    use pb::request_op::Request;
    let of = |put: &pb::PutRequest| (put.key.len() + put.value.len()) as u32;
    match request {
        replica::Request::Put(put) => of(put),
        replica::Request::Txn(txn) => {
            let puts = txn.success.iter().map(|op| match &op.request {
                Some(Request::RequestPut(put)) => of(put),
                _ => 0,
            });
            puts.sum()
        }
        _ => 0,
    }
}

pub fn connection_of(token: CallToken) -> ConnectionId {
    ConnectionId { slot: token.connection, epoch: token.epoch }
}

pub(crate) fn position_of(out: &Outbound, stream: u32) -> Option<usize> {
    match out.word(stream) {
        0 => None,
        word => Some(word as usize - 1),
    }
}

/// See [`Shard::calls`].
pub struct ShardCalls<'s> {
    shard: &'s mut Shard,
}

impl net::Calls for ShardCalls<'_> {
    fn call(&mut self, out: &mut Outbound, stream: u32, head: &CallHead<'_>) {
        let shard = &mut *self.shard;
        let rpc = Rpc::at(usize::from(head.method));
        shard.meter.started[rpc as usize].add(1);
        shard.meter.client_versions.count(head.client_api_version, rpc.shape() != Shape::Unary);
        if shard.draining {
            return shard.fail(out, stream, rpc, &errors::STOPPED);
        }
        if head.has_leader && shard.published.leader() == 0 {
            return shard.fail(out, stream, rpc, &errors::NO_LEADER);
        }
        shard.open_call(out, stream, rpc);
    }

    fn message(&mut self, out: &mut Outbound, stream: u32, message: &[u8]) {
        let Some(method) = out.method(stream) else { return };
        let rpc = Rpc::at(usize::from(method));
        self.shard.meter.messages_received[rpc as usize].add(1);
        let holds = self.shard.turn.holds;
        match rpc.shape() {
            // What follows a request is never looked at.
            Shape::Unary => out.ignore_rest(stream),
            Shape::ServerStream => {
                if let Some(position) = position_of(out, stream) {
                    let text = "cardinality violation: received multiple request messages for \
                                non-client-streaming RPC";
                    let error = Error::fixed(errors::Code::Internal, text);
                    return self.shard.fail_call(out, stream, position, &error);
                }
            }
            // A client that asks and does not take the answers is not listened to for a while.
            Shape::BidiStream => {
                if out.queued(stream) >= STREAM_PAUSE_BYTES {
                    out.pause(stream);
                }
            }
        }
        self.shard.take_message(out, stream, rpc, message);
        if self.shard.turn.holds != holds
            && let Some(position) = position_of(out, stream)
        {
            self.shard.calls[position].held.keep(message);
        }
    }

    fn half_close(&mut self, out: &mut Outbound, stream: u32, end: net::End) {
        let Some(method) = out.method(stream) else { return };
        self.shard.half_closed(out, stream, Rpc::at(usize::from(method)), end);
    }

    fn cancelled(&mut self, out: &mut Outbound, stream: u32) {
        let Some(position) = position_of(out, stream) else { return };
        if matches!(self.shard.calls[position].state, CallState::Watch) {
            self.shard.end_watch_stream(position);
        }
        if let Some(call) = self.shard.release(out, stream) {
            self.shard.finished(call.rpc, errors::CANCELED.code as usize);
        }
    }
}
