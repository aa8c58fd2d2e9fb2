//! The client: one thread, one epoll, many connections, one load.
//!
//! A turn starts what is due, writes once per connection that has something to say, waits, then reads each ready
//! connection once and hands the answers to the load. Everything the load does happens in between, so there are no
//! locks and no wake-ups inside the client. Any broken connection ends the run with its reason.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::http2::{Answers, Connection, Message};
use crate::schedule::{Arrivals, Board, Counted, Tally};
use crate::sys::{self, Poll};

/// One read from a socket, bytes: a batch of answers, or most of one long answer.
const READ_BYTES: usize = 256 << 10;
/// Operations in flight above which an open loop lets them wait: below etcd's own limit of 5000 proposals.
const OPEN_LOOP_CAP: usize = 4000;
/// Streams and leases must stand within this, nanoseconds.
const SETTLE_NS: u64 = 60_000_000_000;
/// After the window, calls in flight may end within this, nanoseconds.
const DRAIN_NS: u64 = 10_000_000_000;
/// The longest wait, nanoseconds: interrupts and the common start are noticed within it.
const WAIT_NS: u64 = 20_000_000;
/// After this an open loop tries again to start what the load could not, nanoseconds.
const RETRY_NS: u64 = 200_000;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What the client does to the server. `link` is the number of a connection.
pub trait Load: Send {
    /// Operations that a closed loop keeps in flight on this connection. None: the load uses it otherwise.
    fn slots(&self, link: usize) -> usize;

    /// The connection stands: streams that live through the run are opened here.
    fn connected(&mut self, _link: usize, _links: &mut Links, _board: &mut Board) {}

    /// True when everything that `connected` began is answered. Nothing starts before.
    fn settled(&self) -> bool {
        true
    }

    /// Starts one operation in `slot`; false when none can start now (it will be asked again).
    fn start(&mut self, slot: &mut Slot<'_>) -> bool;

    fn message(&mut self, call: u32, message: Message<'_>, now_ns: u64, board: &mut Board);

    /// A call ended; `code` is gRPC's.
    fn end(&mut self, call: u32, code: u32, text: &str, now_ns: u64, board: &mut Board);

    /// For loads with a fixed amount of work: nothing is left to start.
    fn finished(&self) -> bool {
        false
    }

    /// Nothing is awaited beyond the calls in flight.
    fn is_quiet(&self) -> bool {
        true
    }

    /// After the end: did everything arrive that must?
    fn check(&self, _board: &mut Board) {}
}

/// The connections, as loads see them.
pub struct Links {
    connections: Vec<Connection>,
    dirty: Vec<u32>,
    is_dirty: Vec<bool>,
}

impl Links {
    fn new(count: usize, authority: &str) -> Links {
        Links {
            connections: (0..count).map(|_| Connection::new(authority)).collect(),
            dirty: (0..count as u32).collect(),
            is_dirty: vec![true; count],
        }
    }

    /// A connection to write to; it is flushed at the end of the turn.
    pub fn get(&mut self, link: usize) -> &mut Connection {
        if !self.is_dirty[link] {
            self.is_dirty[link] = true;
            self.dirty.push(link as u32);
        }
        &mut self.connections[link]
    }
}

/// Where and when an operation may start.
pub struct Slot<'a> {
    pub link: usize,
    pub due_ns: u64,
    pub links: &'a mut Links,
    pub board: &'a mut Board,
}

impl Slot<'_> {
    /// The server takes one more stream on this connection.
    pub fn has_room(&mut self) -> bool {
        self.links.get(self.link).room() > 0
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// As many in flight as the load has slots.
    Closed,
    /// This many operations a second, whatever the server does.
    Open { rate: f64, seed: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// The load has no more to do.
    Finished,
    /// A window of measurement after a warm-up, nanoseconds.
    Window { warmup_ns: u64, window_ns: u64 },
}

/// What client threads and the one that watches them share.
#[derive(Default)]
pub struct Shared {
    /// Threads whose load has settled.
    pub settled: AtomicUsize,
    /// When the warm-up begins on the monotonic clock, nanoseconds; 0 as long as it isn't known.
    pub start_ns: AtomicU64,
    /// Operations that ended, also outside the window.
    pub operations: AtomicU64,
    /// Threads that gave up.
    pub failed: AtomicUsize,
}

struct Socket {
    stream: TcpStream,
    /// Received bytes that are no whole frame yet.
    rest: Vec<u8>,
    written: usize,
    blocked: bool,
}

struct Driver<'a, L> {
    poll: Poll,
    sockets: Vec<Socket>,
    links: Links,
    load: L,
    board: Board,
    shared: &'a Shared,
    buffer: Vec<u8>,
    /// Free slots that the load could not use yet.
    parked: Vec<u32>,
    spare: Vec<u32>,
    ready: Vec<sys::Ready>,
}

/// Runs `load` over `link_count` connections on the calling thread.
pub fn drive<L: Load>(
    address: SocketAddr,
    link_count: usize,
    pace: Pace,
    until: Until,
    load: L,
    shared: &Shared,
) -> Result<(L, Tally), String> {
    sys::sharp_timers();
    let connected = Driver::connect(address, link_count, pace, load, shared);
    let result = connected.and_then(|driver| driver.run(pace, until));
    if result.is_err() {
        shared.failed.fetch_add(1, Ordering::Relaxed);
    }
    result
}

impl<'a, L: Load> Driver<'a, L> {
    fn connect(
        address: SocketAddr,
        count: usize,
        pace: Pace,
        load: L,
        shared: &'a Shared,
    ) -> Result<Driver<'a, L>, String> {
        let poll = Poll::new(count).map_err(|error| format!("epoll: {error}"))?;
        let mut sockets = Vec::with_capacity(count);
        for link in 0..count {
            let open = || -> io::Result<TcpStream> {
                let stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                poll.add(stream.as_raw_fd(), link)?;
                Ok(stream)
            };
            let stream = open().map_err(|error| format!("connecting to {address}: {error}"))?;
            sockets.push(Socket { stream, rest: Vec::new(), written: 0, blocked: false });
        }
        let counted = if pace == Pace::Closed { Counted::ByEnd } else { Counted::ByDue };
        let mut driver = Driver {
            poll,
            sockets,
            links: Links::new(count, &address.to_string()),
            load,
            board: Board::new(counted),
            shared,
            buffer: vec![0; READ_BYTES + 2 * base::limits::FRAME_BYTES],
            parked: Vec::new(),
            spare: Vec::new(),
            ready: Vec::new(),
        };
        for link in 0..count {
            driver.load.connected(link, &mut driver.links, &mut driver.board);
        }
        Ok(driver)
    }

    fn run(mut self, pace: Pace, until: Until) -> Result<(L, Tally), String> {
        let patience = sys::now_ns() + SETTLE_NS;
        while !self.load.settled() {
            self.turn(WAIT_NS)?;
            if let Some(error) = self.board.first_error() {
                return Err(format!("while setting up: {error}"));
            }
            if sys::now_ns() > patience {
                return Err("streams and watches did not stand within a minute".to_owned());
            }
        }
        self.shared.settled.fetch_add(1, Ordering::Relaxed);
        let (start, warmup_ns, window_ns) = match until {
            Until::Finished => (sys::now_ns(), 0, u64::MAX / 4),
            Until::Window { warmup_ns, window_ns } => (self.common_start()?, warmup_ns, window_ns),
        };
        let (from, to) = (start + warmup_ns, start + warmup_ns + window_ns);
        self.board.set_window(from, to);
        let mut arrivals = match pace {
            Pace::Closed => None,
            Pace::Open { rate, seed } => Some(Arrivals::new(rate, seed, start)),
        };
        let issuers = self.fill_slots();

        let mut cpu_from = None;
        let mut next_issuer = 0;
        loop {
            let now = sys::now_ns();
            if now >= from && cpu_from.is_none() {
                cpu_from = Some((sys::thread_cpu_ns(), now));
            }
            if now >= to || (self.load.finished() && self.board.in_flight() == 0) {
                break;
            }
            let wait = match &mut arrivals {
                Some(arrivals) => {
                    let mut wait = WAIT_NS;
                    while let Some(due) = arrivals.ready(now, self.board.in_flight(), OPEN_LOOP_CAP) {
                        let link = issuers[next_issuer % issuers.len()];
                        next_issuer += 1;
                        if !self.start(link, due) {
                            wait = RETRY_NS;
                            break;
                        }
                        arrivals.advance();
                    }
                    if arrivals.due() > now { arrivals.due() - now } else { wait }
                }
                None => {
                    self.refill(now);
                    WAIT_NS
                }
            };
            self.turn(wait.min(to - now).min(if now < from { from - now } else { WAIT_NS }))?;
        }
        let (cpu, began) = cpu_from.unwrap_or((0, start));
        let client_cpu_ns = sys::thread_cpu_ns() - cpu;
        let busiest = client_cpu_ns as f64 / (sys::now_ns() - began).max(1) as f64;

        let end = self.drain()?;
        if let Some(mut arrivals) = arrivals {
            while arrivals.due() < to {
                self.board.abandon(arrivals.due(), end);
                arrivals.advance();
            }
        }
        self.load.check(&mut self.board);
        let tally = Tally { client_cpu_ns, busiest, ..self.board.into_tally() };
        Ok((self.load, tally))
    }

    /// Waits for the time at which all threads begin.
    fn common_start(&mut self) -> Result<u64, String> {
        loop {
            match self.shared.start_ns.load(Ordering::Relaxed) {
                0 => self.turn(WAIT_NS / 10)?,
                start => return Ok(start),
            }
            if self.shared.failed.load(Ordering::Relaxed) > 0 {
                return Err("another client thread failed".to_owned());
            }
        }
    }

    /// Lets calls in flight end, starting none; returns when it was over.
    fn drain(&mut self) -> Result<u64, String> {
        let patience = sys::now_ns() + DRAIN_NS;
        while self.board.in_flight() > 0 || !self.load.is_quiet() {
            self.turn(WAIT_NS)?;
            let now = sys::now_ns();
            if now > patience {
                let lost = self.board.in_flight();
                if lost > 0 {
                    self.board.error(|| format!("{lost} calls had no answer ten seconds after the end"));
                }
                return Ok(now);
            }
        }
        Ok(sys::now_ns())
    }

    /// All slots are free at first, interleaved so that connections begin together. Returns the links with slots.
    fn fill_slots(&mut self) -> Vec<u32> {
        let slots: Vec<usize> = (0..self.sockets.len()).map(|link| self.load.slots(link)).collect();
        let deepest = slots.iter().copied().max().unwrap_or(0);
        for depth in 0..deepest {
            self.parked.extend((0..slots.len()).filter(|&link| slots[link] > depth).map(|link| link as u32));
        }
        let issuers: Vec<u32> =
            (0..slots.len()).filter(|&link| slots[link] > 0).map(|link| link as u32).collect();
        assert!(!issuers.is_empty(), "a load has a connection to start operations on");
        issuers
    }

    fn start(&mut self, link: u32, due_ns: u64) -> bool {
        let (links, board) = (&mut self.links, &mut self.board);
        self.load.start(&mut Slot { link: link as usize, due_ns, links, board })
    }

    /// Closed loop: starts an operation in every free slot.
    fn refill(&mut self, now: u64) {
        self.board.take_freed(&mut self.parked);
        let mut free = std::mem::replace(&mut self.parked, std::mem::take(&mut self.spare));
        for link in free.drain(..) {
            if !self.start(link, now) {
                self.parked.push(link);
            }
        }
        self.spare = free;
    }

    /// Writes what is to be written, waits, reads what came.
    fn turn(&mut self, wait_ns: u64) -> Result<(), String> {
        if sys::interrupted() {
            return Err("interrupted".to_owned());
        }
        let mut dirty = std::mem::take(&mut self.links.dirty);
        for link in dirty.drain(..) {
            self.links.is_dirty[link as usize] = false;
            self.flush(link as usize)?;
        }
        self.links.dirty = dirty;

        let before = self.board.completed();
        let mut ready = std::mem::take(&mut self.ready);
        self.poll.wait(wait_ns, &mut ready).map_err(|error| format!("epoll: {error}"))?;
        for event in ready.drain(..) {
            if event.writable {
                self.flush(event.link)?;
            }
            if event.readable {
                self.receive(event.link)?;
            }
        }
        self.ready = ready;
        let ended = self.board.completed() - before;
        if ended > 0 {
            self.shared.operations.fetch_add(ended, Ordering::Relaxed);
        }
        Ok(())
    }

    fn flush(&mut self, link: usize) -> Result<(), String> {
        let socket = &mut self.sockets[link];
        let output = &mut self.links.connections[link].output;
        while socket.written < output.len() {
            match socket.stream.write(&output[socket.written..]) {
                Ok(written) => socket.written += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(format!("sending to the server: {error}")),
            }
        }
        let blocked = socket.written < output.len();
        if !blocked {
            output.clear();
            socket.written = 0;
        }
        if blocked != socket.blocked {
            socket.blocked = blocked;
            let fd = socket.stream.as_raw_fd();
            self.poll.want_write(fd, link, blocked).map_err(|error| format!("epoll: {error}"))?;
        }
        Ok(())
    }

    fn receive(&mut self, link: usize) -> Result<(), String> {
        let socket = &mut self.sockets[link];
        let begun = socket.rest.len();
        self.buffer[..begun].copy_from_slice(&socket.rest);
        let received = match socket.stream.read(&mut self.buffer[begun..]) {
            Ok(0) => return Err("the server closed the connection".to_owned()),
            Ok(received) => received,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return Ok(());
            }
            Err(error) => return Err(format!("receiving from the server: {error}")),
        };
        let input = &self.buffer[..begun + received];
        let mut sink = Sink { load: &mut self.load, board: &mut self.board, now: sys::now_ns() };
        let connection = &mut self.links.connections[link];
        let used = connection.receive(input, &mut sink).map_err(|broken| broken.0)?;
        socket.rest.clear();
        socket.rest.extend_from_slice(&input[used..]);
        if !connection.output.is_empty() {
            self.links.get(link);
        }
        Ok(())
    }
}

struct Sink<'a, L> {
    load: &'a mut L,
    board: &'a mut Board,
    now: u64,
}

impl<L: Load> Answers for Sink<'_, L> {
    fn message(&mut self, call: u32, message: Message<'_>) {
        self.load.message(call, message, self.now, self.board);
    }

    fn end(&mut self, call: u32, code: u32, text: &str) {
        self.load.end(call, code, text, self.now, self.board);
    }
}
