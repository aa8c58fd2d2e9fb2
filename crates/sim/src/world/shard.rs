//! One shard of a simulated process: the real [`api::Shard`] over real HTTP/2 connections, whose bytes the simulated
//! network carries. What the server's shard does with sockets and its ring, this does with the network: receive, hand
//! over, take what the log core sent, flush.
//!
//! Invariants are those of the server: a slot is used again under a new epoch; every touched connection is flushed
//! before the turn ends.

use std::io::IoSlice;
use std::sync::Arc;

use api::{ConnectionId as SlotId, Connections, Sink};
use base::ring::{Consumer, Producer};
use base::{CallToken, Millis};
use mvcc::event::EventBatch;
use net::Outbound;

use super::Env;
use super::coverage::Mechanism;
use super::network::{ConnectionId, Side};
use super::trace::{self, What};

/// From the log core.
pub(super) enum ToShard {
    Outcome(replica::Outcome),
    Events(Arc<EventBatch>),
}

/// Between two looks at every connection's timers, as in the server.
const CONNECTION_TICK_MS: Millis = 500;

struct Socket {
    /// Bytes that it still takes in this turn, and those that it took.
    room: usize,
    bytes: Vec<u8>,
}

impl Sink for Socket {
    fn offer(&mut self, slices: &[IoSlice<'_>]) -> usize {
        let mut taken = 0;
        for slice in slices {
            let part = &slice[..slice.len().min(self.room)];
            self.bytes.extend_from_slice(part);
            self.room -= part.len();
            taken += part.len();
        }
        taken
    }
}

struct Connection {
    id: ConnectionId,
    http2: Box<net::Connection>,
    socket: Socket,
    /// Output that is with the ring, and how much of it the socket took: known at the next turn.
    sending: Option<(net::Batch, usize)>,
    dirty: bool,
    /// The socket takes nothing more for now.
    blocked: bool,
    /// Since the timers were looked at last.
    flushed: bool,
    /// Flush what is left, then close.
    closing: bool,
    /// The client is gone.
    ended: bool,
}

#[derive(Default)]
struct Slot {
    epoch: u32,
    connection: Option<Connection>,
}

#[derive(Default)]
struct Slots {
    slots: Vec<Slot>,
    dirty: Vec<u32>,
}

impl Slots {
    fn mark_dirty(&mut self, slot: u32) {
        if let Some(connection) = &mut self.slots[slot as usize].connection
            && !connection.dirty
        {
            connection.dirty = true;
            self.dirty.push(slot);
        }
    }
}

impl Connections for Slots {
    fn outbound(&mut self, id: SlotId) -> Option<(&mut Outbound, &mut dyn Sink)> {
        let slot = self.slots.get(id.slot as usize).filter(|slot| slot.epoch == id.epoch)?;
        slot.connection.as_ref().filter(|connection| !connection.ended)?;
        self.mark_dirty(id.slot);
        let connection = self.slots[id.slot as usize].connection.as_mut()?;
        Some((connection.http2.outbound(), &mut connection.socket))
    }
}

/// See the module's documentation.
pub(super) struct ShardCore {
    pub shard: api::Shard,
    slots: Slots,
    to_log: Producer<replica::Event>,
    from_log: Consumer<ToShard>,
    pub mail: Vec<(CallToken, api::JobResult)>,
    limits: Arc<net::Limits>,
    ticked_at: Millis,
    connections_ticked_at: Millis,
    draining: bool,
    streams: Vec<u32>,
}

impl ShardCore {
    pub fn new(
        shard: api::Shard,
        to_log: Producer<replica::Event>,
        from_log: Consumer<ToShard>,
        limits: Arc<net::Limits>,
    ) -> ShardCore {
        ShardCore {
            shard,
            slots: Slots::default(),
            to_log,
            from_log,
            mail: Vec::new(),
            limits,
            ticked_at: 0,
            connections_ticked_at: 0,
            draining: false,
            streams: Vec::new(),
        }
    }

    pub fn connections(&self) -> usize {
        self.slots.slots.iter().filter(|slot| slot.connection.is_some()).count()
    }

    pub fn has_work(&self) -> bool {
        let sending = self.slots.slots.iter().filter_map(|slot| slot.connection.as_ref());
        !self.from_log.is_empty()
            || !self.mail.is_empty()
            || (!self.shard.outgoing.is_empty() && self.to_log.free() > 0)
            || self.shard.wants_catch_up()
            || sending.into_iter().any(|connection| connection.sending.is_some())
    }

    /// A client's connection was given to this shard.
    pub fn accept(&mut self, id: ConnectionId, now: Millis) {
        let free = self.slots.slots.iter().position(|slot| slot.connection.is_none());
        let slot = free.unwrap_or_else(|| {
            self.slots.slots.push(Slot::default());
            self.slots.slots.len() - 1
        }) as u32;
        let entry = &mut self.slots.slots[slot as usize];
        let mut http2 = Box::new(net::Connection::new(self.limits.clone(), api::methods(), now));
        http2.outbound().tag = SlotId { slot, epoch: entry.epoch }.to_tag();
        entry.connection = Some(Connection {
            id,
            http2,
            socket: Socket { room: 0, bytes: Vec::new() },
            sending: None,
            dirty: false,
            blocked: false,
            flushed: false,
            closing: self.draining,
            ended: false,
        });
        self.slots.mark_dirty(slot);
    }

    /// Whether it holds this connection.
    pub fn holds(&self, id: ConnectionId) -> bool {
        self.find(id).is_some()
    }

    fn find(&self, id: ConnectionId) -> Option<u32> {
        let holds = |slot: &Slot| slot.connection.as_ref().is_some_and(|connection| connection.id == id);
        self.slots.slots.iter().position(holds).map(|slot| slot as u32)
    }

    /// The client is gone.
    pub fn disconnected(&mut self, id: ConnectionId) {
        let Some(slot) = self.find(id) else { return };
        if let Some(connection) = &mut self.slots.slots[slot as usize].connection {
            connection.ended = true;
        }
    }

    /// Watches end, nothing new is taken, connections close when their calls have ended.
    pub fn drain(&mut self, now: Millis) {
        self.draining = true;
        self.shard.drain(&mut self.slots);
        for slot in 0..self.slots.slots.len() as u32 {
            if let Some(connection) = &mut self.slots.slots[slot as usize].connection {
                connection.http2.drain(now);
                self.slots.mark_dirty(slot);
            }
        }
    }

    /// Begins a turn: what came of the last one's output, then what clients sent.
    pub fn receive(&mut self, env: &mut Env, now_us: u64, now: Millis) {
        self.shard.begin_turn(now_us);
        for slot in 0..self.slots.slots.len() as u32 {
            let entry = &mut self.slots.slots[slot as usize];
            let Some(connection) = &mut entry.connection else { continue };
            if let Some((batch, sent)) = connection.sending.take() {
                connection.http2.output().give_back(batch, sent);
                connection.dirty = true;
                self.slots.dirty.push(slot);
            }
            if connection.ended {
                connection.http2.disconnected(&mut self.shard.calls(now));
                self.release(slot);
                continue;
            }
            connection.socket.room = env.network.room(connection.id, Side::Acceptor);
            if connection.blocked && connection.socket.room > 0 {
                connection.blocked = false;
                self.slots.mark_dirty(slot);
            }
            let Some(connection) = &mut self.slots.slots[slot as usize].connection else { continue };
            if connection.closing || connection.http2.is_congested() {
                continue;
            }
            let bytes = env.network.read(env.now_us, connection.id, Side::Acceptor);
            if bytes.is_empty() {
                continue;
            }
            trace::note(What::Arrived { connection: connection.id.0, bytes: bytes.len() as u64 });
            if let Err(why) = connection.http2.receive(&bytes, now, &mut self.shard.calls(now)) {
                panic!("a client that keeps to HTTP/2 is told that it does not: {why:?}");
            }
            self.slots.mark_dirty(slot);
        }
    }

    /// The rest of a turn, as the server does it. `published` is that of the process.
    pub fn turn(&mut self, env: &mut Env, published: &replica::Published, now: Millis) {
        for (token, result) in std::mem::take(&mut self.mail) {
            self.shard.job_done(token, result, &mut self.slots);
        }
        let sent = published.event_revision() as i64;
        let mut left = 1 + env.random.below(64);
        let mut drained = false;
        while left > 0 {
            left -= 1;
            match self.from_log.pop() {
                Some(ToShard::Outcome(outcome)) => {
                    self.shard.outcome(outcome, &mut self.slots);
                }
                Some(ToShard::Events(batch)) => self.shard.events(&batch, &mut self.slots),
                None => {
                    drained = true;
                    break;
                }
            }
        }
        drained |= self.from_log.is_empty();
        if now != self.ticked_at {
            self.ticked_at = now;
            self.shard.tick(now, &mut self.slots);
        }
        if now >= self.connections_ticked_at + CONNECTION_TICK_MS {
            self.connections_ticked_at = now;
            self.tick_connections(now);
        }
        self.shard.catch_up(if drained { sent } else { 0 }, &mut self.slots);
        for token in std::mem::take(&mut self.shard.starting) {
            env.coverage.one(Mechanism::LongRange);
            if let Some((out, sink)) = self.slots.outbound(api::connection_of(token)) {
                self.shard.writable(out, sink, token.stream);
            }
        }
        self.flush(env, now);
    }

    /// Proposals go into the ring as far as it has room (law 11), jobs to the caller. Whether the log core has news.
    pub fn hand_over(&mut self, jobs: &mut Vec<api::Job>) -> bool {
        let mut any = false;
        while let Some(event) = self.shard.outgoing.pop_front() {
            if let Err(event) = self.to_log.push(event) {
                self.shard.outgoing.push_front(event);
                break;
            }
            any = true;
        }
        jobs.append(&mut self.shard.jobs);
        any
    }

    fn tick_connections(&mut self, now: Millis) {
        for slot in 0..self.slots.slots.len() as u32 {
            let Some(connection) = &mut self.slots.slots[slot as usize].connection else { continue };
            if connection.ended {
                continue;
            }
            if !std::mem::take(&mut connection.flushed) {
                connection.http2.output().shrink();
            }
            if connection.http2.next_tick() > now {
                continue;
            }
            if connection.http2.tick(now, &mut self.shard.calls(now)).is_err() {
                connection.closing = true;
            }
            self.slots.mark_dirty(slot);
        }
    }

    fn release(&mut self, slot: u32) {
        let entry = &mut self.slots.slots[slot as usize];
        entry.connection = None;
        entry.epoch += 1;
    }

    fn flush(&mut self, env: &mut Env, now: Millis) {
        while let Some(slot) = self.slots.dirty.pop() {
            let Some(connection) = &mut self.slots.slots[slot as usize].connection else { continue };
            connection.dirty = false;
            connection.flushed = true;
            if connection.sending.is_some() || connection.ended {
                continue;
            }
            if self.flush_connection(env, slot, now) {
                let Some(connection) = &mut self.slots.slots[slot as usize].connection else { continue };
                env.network.close(env.now_us, connection.id, Side::Acceptor);
                connection.http2.disconnected(&mut self.shard.calls(now));
                self.release(slot);
            }
        }
    }

    /// True when the connection is over.
    fn flush_connection(&mut self, env: &mut Env, slot: u32, now: Millis) -> bool {
        let Some(connection) = &mut self.slots.slots[slot as usize].connection else { return false };
        let Connection { id, http2, socket, sending, blocked, closing, .. } = connection;
        loop {
            self.streams.clear();
            http2.outbound().drain_writable(&mut self.streams);
            for &stream in &self.streams {
                self.shard.writable(http2.outbound(), socket, stream);
            }
            if http2.outbound().has_resumed() {
                http2.resume(&mut self.shard.calls(now));
            }
            if *blocked || http2.output().is_empty() {
                break;
            }
            let simple = !*closing
                && !http2.is_drained()
                && !http2.is_congested()
                && !http2.outbound().awaits_output();
            if simple && env.random.one_in(2) {
                // With the ring: nobody knows yet what the socket will take of it.
                let batch = http2.output().take();
                let mut slices = Vec::new();
                batch.gather(&mut slices);
                let sent = socket.offer(&slices);
                *sending = Some((batch, sent));
                break;
            }
            let mut slices = Vec::with_capacity(16);
            http2.output().gather(&mut slices);
            let sent = socket.offer(&slices);
            *blocked = sent == 0;
            http2.output().consumed(sent);
        }
        if *blocked {
            env.coverage.one(Mechanism::WatchBlocked);
        }
        let bytes = std::mem::take(&mut socket.bytes);
        env.network.write(env.now_us, *id, Side::Acceptor, &bytes);
        if *blocked {
            // As a send that the kernel holds: news of room wakes the core, it does not find out by and by.
            env.network.room(*id, Side::Acceptor);
        }
        let flushed = http2.output().is_empty() && sending.is_none();
        (flushed && (*closing || http2.is_drained())) || (*closing && *blocked)
    }
}
