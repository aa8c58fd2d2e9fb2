//! One shard's sockets: accepts, receives, hands bytes to `net`, and sends what comes out, one write a connection
//! and turn.
//!
//! Invariants: a slot is reused only after the last completion that names it; every touched connection is flushed
//! before the turn ends; nothing here blocks.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use api::{ConnectionId, Connections, JobResult, Sink};
use base::limits::{CONNECTIONS_PER_SHARD, LINGER_MS, PREFACE_TIMEOUT_MS, SEND_SLICES};
use base::ring::{Consumer, Producer};
use base::{CallToken, Millis};
use mvcc::event::EventBatch;
use net::Outbound;
use replica::{Event, Outcome};

use super::doorbell::Doorbell;
use super::mailbox::{Mailbox, Sender};
use super::pool::Pool;
use super::run::Clock;
use super::sends::Sends;
use super::spool;
use super::uring::{Completion, Ring, Tag, epoch_after};

/// Log core to shard.
pub enum ToShard {
    Outcome(Outcome),
    Events(Arc<EventBatch>),
}

/// Helper threads and other shards to shard.
pub enum Mail {
    Job(CallToken, JobResult),
    Connection(OwnedFd),
    /// The log is applied, and this member known to the cluster: connections are taken from now on.
    Serve,
    /// No new connections; calls under way finish.
    Drain,
}

/// Items taken from the log core per turn.
const ITEMS_PER_TURN: usize = 4096;
/// Between two looks at every connection's timers.
const CONNECTION_TICK_MS: Millis = 500;

/// A connection that speaks HTTP/1.1: the descriptor, and what was read from it already.
pub type HandOver = Arc<dyn Fn(OwnedFd, Vec<u8>) + Send + Sync>;

pub struct ShardCore {
    number: u16,
    shard: api::Shard,
    slots: Slots,
    listeners: Vec<OwnedFd>,
    to_log: Producer<Event>,
    log_doorbell: Doorbell,
    from_log: Consumer<ToShard>,
    mailbox: Mailbox<Mail>,
    peers: Vec<Sender<Mail>>,
    loads: Arc<Vec<AtomicUsize>>,
    environment: Arc<Environment>,
    limits: Arc<net::Limits>,
    ticked_at: Millis,
    connections_ticked_at: Millis,
    taken: Vec<Mail>,
    streams: Vec<u32>,
    sends: Sends,
    /// The ring has not taken all sends of the last turn yet.
    unsettled: bool,
    draining: bool,
    slow_request: std::time::Duration,
}

/// What all shards share.
pub struct Environment {
    pub pool: Pool,
    pub readers: Arc<tree::Readers>,
    pub published: Arc<replica::Published>,
    pub spools: spool::Directory,
    pub spool_slots: Arc<api::SpoolSlots>,
    pub http1: HandOver,
}

/// What one shard is built from.
pub struct Parts {
    pub shard: api::Shard,
    pub number: u16,
    pub listeners: Vec<OwnedFd>,
    pub to_log: Producer<Event>,
    pub log_doorbell: Doorbell,
    pub from_log: Consumer<ToShard>,
    pub mailbox: Mailbox<Mail>,
    /// The mailboxes of all shards, by number.
    pub peers: Vec<Sender<Mail>>,
    /// Connections of all shards, by number.
    pub loads: Arc<Vec<AtomicUsize>>,
    pub environment: Arc<Environment>,
    pub limits: Arc<net::Limits>,
    /// Unary calls that take longer are logged as warnings.
    pub slow_request: std::time::Duration,
}

struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
    dirty: Vec<u32>,
}

#[derive(Default)]
struct Slot {
    epoch: u32,
    /// Operations whose last completion is still to come.
    armed_receive: bool,
    armed_writable: bool,
    connection: Option<Connection>,
}

struct Connection {
    socket: Socket,
    /// `None` until the first bytes say what the client speaks.
    http2: Option<Box<net::Connection>>,
    first_bytes: Vec<u8>,
    born_at: Millis,
    /// Since the timers were looked at last.
    flushed: bool,
    dirty: bool,
    /// Output is on its way through the ring; nothing may overtake it.
    sending: bool,
    /// The socket takes nothing more for now.
    blocked: bool,
    /// Reading stopped until output has drained.
    paused: bool,
    /// Flush what is left, then close.
    closing: bool,
    /// Everything is sent and the end said; what the client still sends is thrown away until it has closed too, or until
    /// then: closing first would answer it with a reset, which may overtake what it has not read yet.
    lingers_until: Option<Millis>,
    /// Shut down: waits for the last completions.
    dead: bool,
}

struct Socket {
    fd: OwnedFd,
    /// Since they were last counted.
    sent_bytes: u64,
}

impl Sink for Socket {
    fn offer(&mut self, slices: &[IoSlice<'_>]) -> usize {
        self.send(slices).unwrap_or(0)
    }
}

impl Socket {
    /// How many bytes the socket took at once; else why it took none, as an error number ([`is_full`]).
    fn send(&mut self, slices: &[IoSlice<'_>]) -> Result<usize, i32> {
        const FLAGS: libc::c_int = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        let fd = self.fd.as_raw_fd();
        let sent = if let [slice] = slices {
            // SAFETY: the kernel only reads the slice, and only during this call.
            unsafe { libc::send(fd, slice.as_ptr().cast(), slice.len(), FLAGS) }
        } else {
            let slices = &slices[..slices.len().min(SEND_SLICES)];
            // SAFETY: an all-zero msghdr is valid; IoSlice is ABI-compatible with iovec; the kernel only reads the
            // slices, and only during this call.
            unsafe {
                let mut message: libc::msghdr = std::mem::zeroed();
                message.msg_iov = slices.as_ptr().cast::<libc::iovec>().cast_mut();
                message.msg_iovlen = slices.len();
                libc::sendmsg(fd, &message, FLAGS)
            }
        };
        if sent < 0 {
            return Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO));
        }
        self.sent_bytes += sent as u64;
        Ok(sent as usize)
    }
}

/// Whether a send failed for want of room: it can be tried again. Any other error is the end of the connection.
fn is_full(error: i32) -> bool {
    [libc::EAGAIN, libc::EINTR, libc::ENOBUFS, libc::ENOMEM].contains(&error)
}

impl Slots {
    fn get(&mut self, slot: u32, epoch: u32) -> Option<&mut Slot> {
        self.slots.get_mut(slot as usize).filter(|s| s.epoch == epoch)
    }

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
    fn outbound(&mut self, id: ConnectionId) -> Option<(&mut Outbound, &mut dyn Sink)> {
        self.get(id.slot, id.epoch)?.connection.as_ref()?.http2.as_ref()?;
        self.mark_dirty(id.slot);
        let connection = self.slots[id.slot as usize].connection.as_mut()?;
        if connection.dead {
            return None;
        }
        let outbound = connection.http2.as_mut()?.outbound();
        Some((outbound, &mut connection.socket))
    }
}

impl ShardCore {
    pub fn new(parts: Parts) -> ShardCore {
        assert_eq!(parts.peers.len(), parts.loads.len(), "every shard has a mailbox and a load");
        ShardCore {
            number: parts.number,
            shard: parts.shard,
            slots: Slots { slots: Vec::new(), free: Vec::new(), dirty: Vec::new() },
            listeners: parts.listeners,
            to_log: parts.to_log,
            log_doorbell: parts.log_doorbell,
            from_log: parts.from_log,
            mailbox: parts.mailbox,
            peers: parts.peers,
            loads: parts.loads,
            environment: parts.environment,
            limits: parts.limits,
            ticked_at: 0,
            connections_ticked_at: 0,
            taken: Vec::new(),
            streams: Vec::new(),
            sends: Sends::default(),
            unsettled: false,
            draining: false,
            slow_request: parts.slow_request,
        }
    }

    pub fn begin_turn(&mut self, now_us: u64) {
        self.shard.begin_turn(now_us);
    }

    /// Gives what was done its share of the time; reads the clock only when there is something.
    pub fn share_time(&mut self, clock: Clock) {
        if self.shard.has_unmeasured_work() {
            self.shard.share_time(clock.now_us());
        }
        for slow in self.shard.slow_calls() {
            let id = api::connection_of(slow.token);
            let connection = self.slots.get(id.slot, id.epoch).and_then(|slot| slot.connection.as_ref());
            let remote = connection.map_or(String::new(), |connection| remote_of(&connection.socket.fd));
            crate::metrics::slow::log(&slow, &remote, self.slow_request);
        }
    }

    /// Arms the listeners. Once, and not before: clients of a start that still applies its log would see the past.
    fn serve(&mut self, ring: &mut Ring) {
        for (number, listener) in self.listeners.iter().enumerate() {
            ring.accept(number as u32, listener.as_raw_fd());
        }
    }

    pub fn has_work(&self) -> bool {
        !self.from_log.is_empty()
            || !self.mailbox.is_empty()
            || !self.shard.outgoing.is_empty()
            || self.shard.wants_catch_up()
            || self.unsettled
    }

    /// Draining has ended: every call was answered and every connection closed.
    pub fn is_drained(&self) -> bool {
        self.draining && self.slots.slots.iter().all(|slot| slot.connection.is_none())
    }

    pub fn completed(&mut self, ring: &mut Ring, completion: &Completion, now: Millis) {
        match completion.tag {
            Tag::Accept { listener } => self.accepted(ring, listener, completion),
            Tag::Receive { slot, epoch } => self.received(ring, slot, epoch, completion, now),
            Tag::Writable { slot, epoch } => {
                if let Some(s) = self.slots.get(slot, epoch) {
                    s.armed_writable = false;
                    if let Some(connection) = &mut s.connection {
                        connection.blocked = false;
                    }
                    self.slots.mark_dirty(slot);
                    self.reap(slot);
                }
            }
            Tag::Log { .. } | Tag::LogPart { .. } | Tag::Sent { .. } | Tag::Wake | Tag::Ignored => {}
        }
    }

    /// Takes in what waits, hands over proposals and jobs, flushes every touched connection.
    pub fn turn(&mut self, ring: &mut Ring, now: Millis) {
        self.take_mail(ring, now);
        let sent = self.environment.published.event_revision() as i64;
        let drained = self.take_from_log();
        if now != self.ticked_at {
            self.ticked_at = now;
            self.shard.tick(now, &mut self.slots);
        }
        if now >= self.connections_ticked_at + CONNECTION_TICK_MS {
            self.connections_ticked_at = now;
            self.tick_connections(ring, now);
        }
        // What was not drained yet may still bring the batches up to `sent`.
        self.shard.catch_up(if drained { sent } else { 0 }, &mut self.slots);
        self.begin_long_answers();
        self.flush(ring);
        self.hand_over();
    }

    fn begin_long_answers(&mut self) {
        let mut starting = std::mem::take(&mut self.shard.starting);
        for token in starting.drain(..) {
            if let Some((out, sink)) = self.slots.outbound(api::connection_of(token)) {
                self.shard.writable(out, sink, token.stream);
            }
        }
        self.shard.starting = starting;
    }

    fn take_mail(&mut self, ring: &mut Ring, now: Millis) {
        let mut taken = std::mem::take(&mut self.taken);
        self.mailbox.take(&mut taken);
        for mail in taken.drain(..) {
            match mail {
                Mail::Job(token, result) => self.shard.job_done(token, result, &mut self.slots),
                Mail::Connection(fd) => self.insert(ring, fd),
                Mail::Serve => self.serve(ring),
                Mail::Drain => self.drain(ring, now),
            }
        }
        self.taken = taken;
    }

    /// True when nothing is left.
    fn take_from_log(&mut self) -> bool {
        for _ in 0..ITEMS_PER_TURN {
            match self.from_log.pop() {
                Some(ToShard::Outcome(outcome)) => self.shard.outcome(outcome, &mut self.slots),
                Some(ToShard::Events(batch)) => self.shard.events(&batch, &mut self.slots),
                None => return true,
            }
        }
        self.from_log.is_empty()
    }

    /// Proposals go into the ring, as far as it has room (law 11: the rest waits here), jobs to the pool.
    pub fn hand_over(&mut self) {
        let mut any = false;
        while let Some(event) = self.shard.outgoing.pop_front() {
            if let Err(event) = self.to_log.push(event) {
                self.shard.outgoing.push_front(event);
                break;
            }
            any = true;
        }
        if any {
            self.log_doorbell.ring();
        }
        for job in self.shard.jobs.drain(..) {
            let environment = self.environment.clone();
            let sender = self.peers[usize::from(self.number)].clone();
            self.environment.pool.run(move || {
                let Environment { readers, published, spools, spool_slots, .. } = &*environment;
                let result = job.work.run(readers, published, spool_slots, |write| spools.export(write));
                sender.send(Mail::Job(job.token, result));
            });
        }
    }

    fn drain(&mut self, ring: &mut Ring, now: Millis) {
        self.draining = true;
        for number in 0..self.listeners.len() {
            ring.cancel(Tag::Accept { listener: number as u32 });
        }
        self.listeners.clear();
        self.shard.drain(&mut self.slots);
        for slot in 0..self.slots.slots.len() as u32 {
            let Some(connection) = &mut self.slots.slots[slot as usize].connection else { continue };
            match &mut connection.http2 {
                Some(http2) => http2.drain(now),
                None => connection.closing = true,
            }
            self.slots.mark_dirty(slot);
        }
    }

    fn tick_connections(&mut self, ring: &mut Ring, now: Millis) {
        for slot in 0..self.slots.slots.len() as u32 {
            let Some(connection) = &mut self.slots.slots[slot as usize].connection else { continue };
            if connection.dead {
                continue;
            }
            if let Some(until) = connection.lingers_until {
                if now >= until {
                    self.disconnected(ring, slot, now);
                    self.reap(slot);
                }
                continue;
            }
            let Some(http2) = &mut connection.http2 else {
                // It never said what it speaks.
                if now >= connection.born_at + PREFACE_TIMEOUT_MS {
                    self.disconnected(ring, slot, now);
                    self.reap(slot);
                }
                continue;
            };
            if !std::mem::take(&mut connection.flushed) {
                http2.output().shrink();
            }
            if http2.next_tick() > now {
                continue;
            }
            if http2.tick(now, &mut self.shard.calls(now)).is_err() {
                connection.closing = true;
            }
            self.slots.mark_dirty(slot);
        }
    }

    // --- connections coming and going ---

    fn accepted(&mut self, ring: &mut Ring, listener: u32, completion: &Completion) {
        if let Some(fd) = self.listeners.get(listener as usize)
            && !completion.more
        {
            ring.accept(listener, fd.as_raw_fd());
        }
        if completion.result < 0 {
            return;
        }
        // SAFETY: a successful accept gives a descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(completion.result) };
        let own = self.loads[usize::from(self.number)].load(Ordering::Relaxed);
        let least = (0..self.loads.len()).min_by_key(|&n| self.loads[n].load(Ordering::Relaxed));
        match least {
            Some(other) if self.loads[other].load(Ordering::Relaxed) < own => {
                self.loads[other].fetch_add(1, Ordering::Relaxed);
                self.peers[other].send(Mail::Connection(fd));
            }
            _ => {
                self.loads[usize::from(self.number)].fetch_add(1, Ordering::Relaxed);
                self.insert(ring, fd);
            }
        }
    }

    /// A connection that was counted for this shard.
    fn insert(&mut self, ring: &mut Ring, fd: OwnedFd) {
        let open = self.slots.slots.len() - self.slots.free.len();
        if self.draining || open >= CONNECTIONS_PER_SHARD {
            self.loads[usize::from(self.number)].fetch_sub(1, Ordering::Relaxed);
            return;
        }
        set_no_delay(fd.as_raw_fd());
        let slot = self.slots.free.pop().unwrap_or_else(|| {
            self.slots.slots.push(Slot::default());
            self.slots.slots.len() as u32 - 1
        });
        let entry = &mut self.slots.slots[slot as usize];
        assert!(entry.connection.is_none() && !entry.armed_receive, "a free slot has no operations");
        ring.receive_once(slot, entry.epoch, fd.as_raw_fd());
        entry.armed_receive = true;
        entry.connection = Some(Connection {
            socket: Socket { fd, sent_bytes: 0 },
            http2: None,
            first_bytes: Vec::new(),
            born_at: self.ticked_at,
            flushed: false,
            dirty: false,
            sending: false,
            blocked: false,
            paused: false,
            closing: false,
            lingers_until: None,
            dead: false,
        });
    }

    fn received(&mut self, ring: &mut Ring, slot: u32, epoch: u32, completion: &Completion, now: Millis) {
        let Some(entry) = self.slots.get(slot, epoch) else {
            if let Some(buffer) = completion.buffer {
                ring.recycle(buffer);
            }
            return;
        };
        if !completion.more {
            entry.armed_receive = false;
        }
        let Some(connection) = &mut entry.connection else { return };
        if completion.result > 0 {
            let buffer = completion.buffer.expect("received bytes stand in a provided buffer");
            let bytes = ring.received(buffer, completion.result as usize);
            self.shard.meter().received_bytes.add(bytes.len() as u64);
            if !connection.dead && !connection.closing && connection.lingers_until.is_none() {
                match &mut connection.http2 {
                    Some(http2) => {
                        if http2.receive(bytes, now, &mut self.shard.calls(now)).is_err() {
                            connection.closing = true;
                        }
                        self.slots.mark_dirty(slot);
                    }
                    None => {
                        connection.first_bytes.extend_from_slice(bytes);
                        self.sniff(slot, now);
                    }
                }
            }
            ring.recycle(buffer);
        } else if completion.result == 0
            || ![-libc::ENOBUFS, -libc::EINTR, -libc::EAGAIN, -libc::ECANCELED].contains(&completion.result)
        {
            self.disconnected(ring, slot, now);
        }
        self.rearm(ring, slot);
        self.reap(slot);
    }

    /// Decides by the first bytes who serves this connection.
    fn sniff(&mut self, slot: u32, now: Millis) {
        let entry = &mut self.slots.slots[slot as usize];
        let epoch = entry.epoch;
        let Some(connection) = &mut entry.connection else { return };
        match net::sniff::sniff(&connection.first_bytes) {
            net::sniff::Sniff::NeedMore => {}
            net::sniff::Sniff::Http2 => {
                let mut http2 = Box::new(net::Connection::new(self.limits.clone(), api::methods(), now));
                http2.outbound().tag = ConnectionId { slot, epoch }.to_tag();
                let bytes = std::mem::take(&mut connection.first_bytes);
                if http2.receive(&bytes, now, &mut self.shard.calls(now)).is_err() {
                    connection.closing = true;
                }
                connection.http2 = Some(http2);
                self.slots.mark_dirty(slot);
            }
            net::sniff::Sniff::Http1 if !entry.armed_receive => {
                // No operation is under way: the descriptor can change hands.
                if let Some(connection) = entry.connection.take() {
                    (self.environment.http1)(connection.socket.fd, connection.first_bytes);
                    self.release(slot);
                }
            }
            net::sniff::Sniff::Http1 => {}
            net::sniff::Sniff::Tls | net::sniff::Sniff::Garbage => connection.closing = true,
        }
        self.slots.mark_dirty(slot);
    }

    /// Keeps receiving armed while the connection wants bytes.
    fn rearm(&mut self, ring: &mut Ring, slot: u32) {
        let entry = &mut self.slots.slots[slot as usize];
        let Some(connection) = &mut entry.connection else { return };
        let listens = match connection.lingers_until {
            Some(_) => !connection.dead,
            None => !connection.dead && !connection.closing && !connection.paused,
        };
        if entry.armed_receive || !listens {
            return;
        }
        let fd = connection.socket.fd.as_raw_fd();
        if connection.http2.is_some() {
            ring.receive(slot, entry.epoch, fd);
        } else {
            ring.receive_once(slot, entry.epoch, fd);
        }
        entry.armed_receive = true;
    }

    /// The peer is gone, or must go.
    fn disconnected(&mut self, ring: &mut Ring, slot: u32, now: Millis) {
        let entry = &mut self.slots.slots[slot as usize];
        let epoch = entry.epoch;
        let Some(connection) = &mut entry.connection else { return };
        if connection.dead {
            return;
        }
        connection.dead = true;
        if let Some(http2) = &mut connection.http2
            && connection.lingers_until.is_none()
        {
            http2.disconnected(&mut self.shard.calls(now));
        }
        // SAFETY: takes no pointers; makes operations under way on this socket complete.
        unsafe { libc::shutdown(connection.socket.fd.as_raw_fd(), libc::SHUT_RDWR) };
        if entry.armed_receive {
            ring.cancel(Tag::Receive { slot, epoch });
        }
        if entry.armed_writable {
            ring.cancel(Tag::Writable { slot, epoch });
        }
    }

    /// Everything was said: the client hears so, and closes.
    fn linger(&mut self, ring: &mut Ring, slot: u32, now: Millis) {
        let entry = &mut self.slots.slots[slot as usize];
        let Some(connection) = &mut entry.connection else { return };
        if connection.dead || connection.lingers_until.is_some() {
            return;
        }
        connection.lingers_until = Some(now + LINGER_MS);
        if let Some(http2) = &mut connection.http2 {
            http2.disconnected(&mut self.shard.calls(now));
        }
        // SAFETY: takes no pointers; the other direction stays open.
        unsafe { libc::shutdown(connection.socket.fd.as_raw_fd(), libc::SHUT_WR) };
        self.rearm(ring, slot);
    }

    /// Frees a slot whose connection is dead once its last completion was seen.
    fn reap(&mut self, slot: u32) {
        let entry = &mut self.slots.slots[slot as usize];
        let done = entry.connection.as_ref().is_some_and(|connection| connection.dead && !connection.sending)
            && !entry.armed_receive
            && !entry.armed_writable;
        if done {
            entry.connection = None;
            self.release(slot);
        }
    }

    fn release(&mut self, slot: u32) {
        let entry = &mut self.slots.slots[slot as usize];
        assert!(entry.connection.is_none(), "only an empty slot is released");
        entry.epoch = epoch_after(entry.epoch);
        self.slots.free.push(slot);
        self.loads[usize::from(self.number)].fetch_sub(1, Ordering::Relaxed);
    }

    // --- output ---

    /// Takes back what the last turn gave to the ring. Call it with the completions that came since, before anything
    /// else that may end a connection or write to it.
    pub fn settle(&mut self, ring: &mut Ring, completions: &[Completion], now: Millis) {
        if self.sends.is_empty() {
            return;
        }
        for completion in completions {
            if let Tag::Sent { position } = completion.tag {
                self.sends.completed(position, completion.result);
            }
        }
        let mut sends = std::mem::take(&mut self.sends);
        for settled in sends.settled(ring.is_submitted()) {
            let slot = settled.slot;
            let entry = &mut self.slots.slots[slot as usize];
            let connection = entry.connection.as_mut().expect("a slot outlives its sends");
            let http2 = connection.http2.as_mut().expect("who sends speaks HTTP/2");
            connection.sending = false;
            http2.output().give_back(settled.batch, settled.sent);
            // A call takes so many slices and no more, and what was written since the send began could not go with it.
            let more = self.unsettled || !http2.output().is_empty();
            self.shard.meter().sent_bytes.add(settled.sent as u64);
            match settled.error {
                None => {}
                Some(error) if is_full(error) => {
                    connection.blocked = true;
                    arm_writable(ring, entry, slot);
                }
                Some(_) => {
                    self.disconnected(ring, slot, now);
                    self.reap(slot);
                }
            }
            if more {
                self.slots.mark_dirty(slot);
            }
        }
        self.sends = sends;
        self.unsettled = !self.sends.is_empty();
    }

    fn flush(&mut self, ring: &mut Ring) {
        // All sends of a turn go out in one go, when the ring is entered: clients that wait on several connections are
        // woken for many at once.
        while let Some(slot) = self.slots.dirty.pop() {
            let now = self.ticked_at;
            self.flush_connection(ring, slot, now);
            self.rearm(ring, slot);
            self.reap(slot);
        }
    }

    fn flush_connection(&mut self, ring: &mut Ring, slot: u32, now: Millis) {
        let entry = &mut self.slots.slots[slot as usize];
        let Some(connection) = &mut entry.connection else { return };
        connection.dirty = false;
        connection.flushed = true;
        let Some(http2) = &mut connection.http2 else {
            if connection.closing {
                self.disconnected(ring, slot, now);
            }
            return;
        };
        if connection.sending || connection.lingers_until.is_some() {
            return;
        }
        let mut broken = false;
        while !connection.dead {
            self.streams.clear();
            http2.outbound().drain_writable(&mut self.streams);
            for &stream in &self.streams {
                self.shard.writable(http2.outbound(), &mut connection.socket, stream);
            }
            if http2.outbound().has_resumed() {
                http2.resume(&mut self.shard.calls(now));
            }
            if connection.blocked || http2.output().is_empty() {
                break;
            }
            // Nobody waits for what becomes of it: it goes out with all the others.
            let simple = !connection.closing
                && !http2.is_drained()
                && !http2.is_congested()
                && !http2.outbound().awaits_output();
            if simple {
                let batch = http2.output().take();
                self.sends.push(ring, slot, connection.socket.fd.as_raw_fd(), batch);
                connection.sending = true;
                break;
            }
            let sent = {
                let mut slices = Vec::with_capacity(16);
                http2.output().gather(&mut slices);
                connection.socket.send(&slices)
            };
            match sent {
                Ok(sent) => http2.output().consumed(sent),
                Err(error) if is_full(error) => connection.blocked = true,
                Err(_) => {
                    broken = true;
                    break;
                }
            }
        }
        self.shard.meter().sent_bytes.add(std::mem::take(&mut connection.socket.sent_bytes));
        let congested = http2.is_congested();
        if congested && !connection.paused && entry.armed_receive {
            ring.cancel(Tag::Receive { slot, epoch: entry.epoch });
        }
        connection.paused = congested;
        let flushed = http2.output().is_empty() && !connection.sending;
        let done = flushed && !broken && (connection.closing || http2.is_drained());
        let over = (connection.closing && connection.blocked) || broken;
        if connection.blocked {
            arm_writable(ring, entry, slot);
        }
        if over {
            self.disconnected(ring, slot, now);
        } else if done {
            self.linger(ring, slot, now);
        }
    }
}

/// Asks to be told when the socket takes bytes again.
fn arm_writable(ring: &mut Ring, entry: &mut Slot, slot: u32) {
    let Some(connection) = &entry.connection else { return };
    if !entry.armed_writable && !connection.dead {
        ring.writable(slot, entry.epoch, connection.socket.fd.as_raw_fd());
        entry.armed_writable = true;
    }
}

/// The peer's address, for the log; empty when the socket has none.
fn remote_of(fd: &OwnedFd) -> String {
    let Ok(copy) = fd.try_clone() else { return String::new() };
    std::net::TcpStream::from(copy).peer_addr().map_or(String::new(), |address| address.to_string())
}

fn set_no_delay(fd: RawFd) {
    let on: libc::c_int = 1;
    // SAFETY: passes a pointer to an int that lives through the call; on a unix socket it fails harmlessly.
    unsafe {
        libc::setsockopt(
            fd,
            libc::IPPROTO_TCP,
            libc::TCP_NODELAY,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
}
