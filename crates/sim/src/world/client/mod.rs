//! A client of the simulated world: connections over the simulated network, the real client half of HTTP/2, and a
//! record of everything that it was told.
//!
//! - A call whose connection breaks, or that the client gives up, has an unknown outcome: that is what the history
//!   says of it.
//! - A watch that ends with its connection is taken up again behind the last event (`watches`).
//! - A client can be slow: it leaves what arrives where it is, until everything up to the server's queues is full.

mod calls;
mod reasons;
mod watches;
mod workload;

use std::collections::BTreeMap;

use base::Random;
use net::client::{Answers, ClientConnection};

use self::calls::Call;
use self::reasons::demand_reason_of_end;
use self::watches::Stream;
use super::coverage::Mechanism;
use super::network::{ConnectionId, Node, Side};
use super::queue::magnitude;
use super::trace::{self, What};
use super::{Env, Event};

pub(super) use self::workload::Ask;

/// Something that a client wants to be woken for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Timer {
    /// The next operation.
    Next,
    /// A link may be tried again.
    Reconnect { link: usize },
    /// A call has taken long enough.
    GiveUp { connection: ConnectionId, stream: u32 },
    /// A slow reader wakes up.
    Read { link: usize },
    /// Something is done with watch streams.
    Watch,
}

/// One connection to the member.
struct Link {
    id: ConnectionId,
    since_us: u64,
    /// The same by the clock of the member's machine.
    since_clock_us: u64,
    http: ClientConnection,
    /// The server takes no call beyond this stream.
    last: u32,
    /// It is not read before this.
    slow_until_us: u64,
}

/// What came of received bytes.
enum Arrival {
    Message(u32, Vec<u8>),
    Finished(u32, u8, String),
    Reset(u32, net::ErrorCode),
}

impl Arrival {
    fn stream(&self) -> u32 {
        match self {
            Arrival::Message(stream, _) | Arrival::Finished(stream, ..) | Arrival::Reset(stream, _) => {
                *stream
            }
        }
    }
}

#[derive(Default)]
struct Arrivals {
    all: Vec<Arrival>,
    /// The server takes no call beyond this stream.
    last: Option<u32>,
    /// For which error the server ends the connection, and what it says.
    cut: Option<(net::ErrorCode, String)>,
}

impl Answers for Arrivals {
    fn message(&mut self, stream: u32, message: &[u8]) {
        self.all.push(Arrival::Message(stream, message.to_vec()));
    }

    fn finished(&mut self, stream: u32, code: u8, message: &str) {
        self.all.push(Arrival::Finished(stream, code, message.to_owned()));
    }

    fn reset(&mut self, stream: u32, code: net::ErrorCode) {
        self.all.push(Arrival::Reset(stream, code));
    }

    fn goaway(&mut self, last: u32, code: net::ErrorCode, debug: &[u8]) {
        self.last = Some(last);
        if code != net::ErrorCode::NO_ERROR {
            self.cut = Some((code, String::from_utf8_lossy(debug).into_owned()));
        }
    }
}

/// What a client has learned, for the choice of what it asks next.
#[derive(Default)]
struct Knows {
    revision: i64,
    leases: Vec<i64>,
    /// Values are numbered, so that each is one of its kind.
    serial: u64,
}

/// What the first GOAWAY of a graceful end says.
const LAST_UNKNOWN: u32 = net::frame::MAX_31_BITS;
/// Links: for calls, and for streams where they are apart.
const LINKS: usize = 2;

/// See the module's documentation.
pub(super) struct Client {
    pub id: u32,
    /// Whom it asks.
    member: u32,
    links: [Option<Link>; LINKS],
    reconnecting: [bool; LINKS],
    calls: BTreeMap<(usize, u32), Call>,
    streams: Vec<Stream>,
    knows: Knows,
    random: Random,
    burst_left: u64,
    /// Calls that were lost, or ended with an error.
    without_answer: u64,
    /// Of the calls since it last asked for something, the last to end with one.
    last_error: Option<proto::Error>,
    streams_apart: bool,
    /// It begins nothing more, and gives nothing up.
    resting: bool,
}

impl Client {
    pub fn new(env: &mut Env, id: u32, member: u32) -> Client {
        let mut random = Random::new(env.random.next_u64());
        let streams = watches::wanted(env, &mut random);
        let client = Client {
            id,
            member,
            links: [const { None }; LINKS],
            reconnecting: [false; LINKS],
            calls: BTreeMap::new(),
            streams,
            knows: Knows::default(),
            random,
            burst_left: 0,
            without_answer: 0,
            last_error: None,
            streams_apart: env.profile.workload.streams_apart,
            resting: false,
        };
        client.wake(env, 1, Timer::Next);
        client.wake(env, 2, Timer::Watch);
        client
    }

    fn node(&self) -> Node {
        Node::Client(self.id)
    }

    fn wake(&self, env: &mut Env, after_us: u64, timer: Timer) {
        env.at(env.now_us + after_us, Event::Client { client: self.id, timer });
    }

    pub fn timer(&mut self, env: &mut Env, timer: Timer) {
        match timer {
            Timer::Next => self.next(env),
            Timer::Reconnect { link } => {
                self.reconnecting[link] = false;
                if link == self.stream_link() {
                    self.tend_watches(env);
                }
            }
            Timer::GiveUp { connection, stream } => self.give_up(env, connection, stream),
            Timer::Read { link } => self.read(env, link),
            Timer::Watch => {
                self.stir_watches(env);
                let after_us = magnitude(&mut self.random, 50_000, 20_000_000);
                self.wake(env, after_us, Timer::Watch);
            }
        }
    }

    /// Asks for the next thing, or rests.
    fn next(&mut self, env: &mut Env) {
        let workload = env.profile.workload.clone();
        if self.burst_left == 0 {
            self.burst_left = 1 + self.random.below(workload.burst);
            let after_us = magnitude(&mut self.random, workload.rest_us.0, workload.rest_us.1);
            return self.wake(env, after_us, Timer::Next);
        }
        self.burst_left -= 1;
        if !self.resting && self.unanswered() < workload.depth {
            let ask = self.choose(env);
            self.ask(env, ask);
        }
        let after_us = magnitude(&mut self.random, workload.think_us.0, workload.think_us.1);
        self.wake(env, after_us, Timer::Next);
    }

    // --- links ---

    /// The link that streams go over.
    fn stream_link(&self) -> usize {
        usize::from(self.streams_apart)
    }

    /// A link that is connected, or is being connected now; `None` while it must not be tried.
    fn link(&mut self, env: &mut Env, link: usize) -> Option<&mut Link> {
        if self.links[link].is_none() {
            if self.reconnecting[link] {
                return None;
            }
            let id = env.network.connect(env.now_us, self.node(), Node::Member(self.member));
            trace::note(What::Opened { connection: id.0 });
            let http = ClientConnection::with_window(env.profile.workload.window_bytes);
            let (since_us, since_clock_us) = (env.now_us, env.history_us());
            self.links[link] =
                Some(Link { id, since_us, since_clock_us, http, last: u32::MAX, slow_until_us: 0 });
        }
        // Nothing is begun on a connection whose last stream is known.
        self.links[link].as_mut().filter(|link| link.last >= LAST_UNKNOWN)
    }

    /// Sends what a link has to send.
    fn flush(&mut self, env: &mut Env, link: usize) {
        let Some(Link { id, http, .. }) = &mut self.links[link] else { return };
        let output = http.output();
        if output.is_empty() {
            return;
        }
        let mut slices = Vec::new();
        output.gather(&mut slices);
        let mut bytes = Vec::with_capacity(slices.iter().map(|slice| slice.len()).sum());
        slices.iter().for_each(|slice| bytes.extend_from_slice(slice));
        output.consumed(bytes.len());
        env.network.write(env.now_us, *id, Side::Opener, &bytes);
    }

    fn link_of(&self, id: ConnectionId) -> Option<usize> {
        self.links.iter().position(|link| link.as_ref().is_some_and(|link| link.id == id))
    }

    /// There is something to read.
    pub fn readable(&mut self, env: &mut Env, id: ConnectionId) {
        if let Some(link) = self.link_of(id) {
            self.read(env, link);
        }
    }

    fn read(&mut self, env: &mut Env, link: usize) {
        let Some(Link { id, since_us, since_clock_us, http, last, slow_until_us }) = &mut self.links[link]
        else {
            return;
        };
        if env.now_us < *slow_until_us {
            return;
        }
        let bytes = env.network.read(env.now_us, *id, Side::Opener);
        let mut arrivals = Arrivals::default();
        if let Err(why) = http.receive(&bytes, &mut arrivals) {
            panic!("client {}: the server breaks HTTP/2: {why}", self.id);
        }
        if let Some((code, why)) = arrivals.cut {
            demand_reason_of_end(env, *since_us, *since_clock_us, code, &why);
        }
        assert!(arrivals.last.is_none_or(|named| named <= *last), "the last stream rises from {last}");
        *last = arrivals.last.unwrap_or(*last);
        let last = *last;
        let (since_us, going_away) = (*since_us, http.is_going_away());
        for arrival in arrivals.all {
            assert!(arrival.stream() <= last, "a call is answered beyond the last that is taken, {last}");
            if let Arrival::Reset(stream, code) = &arrival
                && let Some(call) = self.calls.get(&(link, *stream))
            {
                match call {
                    Call::Op { asked, .. } => asked.demand_reason_of_reset(env, *code),
                    _ => panic!("a stream is reset: {code:?}"),
                }
            }
            self.arrived(env, link, since_us, arrival);
        }
        if arrivals.last.is_some() {
            let beyond = |of: &(usize, u32)| of.0 == link && of.1 > last;
            for of in self.calls.keys().copied().filter(beyond).collect::<Vec<_>>() {
                let call = self.calls.remove(&of).expect("its key was found");
                self.call_lost(env, call);
            }
        }
        self.flush(env, link);
        // The server ends in order: whoever has nothing under way goes elsewhere.
        if going_away && !self.calls.keys().any(|(of, _)| *of == link) {
            self.hang_up(env, link);
        }
    }

    /// Does not read for a while.
    pub fn dawdle(&mut self, env: &mut Env, for_us: u64) {
        for link in 0..LINKS {
            if let Some(slow) = &mut self.links[link] {
                slow.slow_until_us = env.now_us + for_us;
                self.wake(env, for_us, Timer::Read { link });
            }
        }
    }

    /// Closes a link by itself.
    pub fn hang_up(&mut self, env: &mut Env, link: usize) {
        if let Some(of) = &self.links[link] {
            let id = of.id;
            env.network.close(env.now_us, id, Side::Opener);
            self.lost(env, link);
        }
    }

    /// The connection is over.
    pub fn ended(&mut self, env: &mut Env, id: ConnectionId) {
        if let Some(link) = self.link_of(id) {
            self.lost(env, link);
        }
    }

    fn lost(&mut self, env: &mut Env, link: usize) {
        let Some(Link { id, .. }) = self.links[link].take() else { return };
        trace::note(What::Closed { connection: id.0, client: self.id });
        let of_link = self.calls.split_off(&(link, 0));
        let (of_link, others): (Vec<_>, Vec<_>) = of_link.into_iter().partition(|((of, _), _)| *of == link);
        self.calls.extend(others);
        for (_, call) in of_link {
            self.call_lost(env, call);
        }
        let after_us = magnitude(&mut self.random, 1_000, 2_000_000);
        self.reconnecting[link] = true;
        self.wake(env, after_us, Timer::Reconnect { link });
    }

    fn arrived(&mut self, env: &mut Env, link: usize, since_us: u64, arrival: Arrival) {
        let stream = arrival.stream();
        // What was given up may still be answered.
        let Some(call) = self.calls.remove(&(link, stream)) else { return };
        let goes_on = match arrival {
            Arrival::Message(_, bytes) => self.message(env, call, &bytes),
            Arrival::Finished(_, code, text) => self.finished(env, call, since_us, code, &text),
            Arrival::Reset(..) => {
                self.call_lost(env, call);
                None
            }
        };
        if let Some(call) = goes_on {
            self.calls.insert((link, stream), call);
        }
    }

    /// Calls that wait for an answer, streams aside.
    pub fn unanswered(&self) -> usize {
        self.calls.values().map(Call::waiting).sum()
    }

    /// Calls that were lost, or ended with an error, so far.
    pub fn without_answer(&self) -> u64 {
        self.without_answer
    }

    /// With which a call ended, none asked for since.
    pub fn last_error(&self) -> Option<&proto::Error> {
        self.last_error.as_ref()
    }

    /// From now on it begins nothing more, and is patient.
    pub fn rest(&mut self, env: &mut Env) {
        self.resting = true;
        for link in 0..LINKS {
            if let Some(slow) = &mut self.links[link] {
                slow.slow_until_us = 0;
            }
            self.read(env, link);
        }
    }

    /// Keeps its watches alive.
    pub fn tend(&mut self, env: &mut Env) {
        self.tend_watches(env);
    }

    /// Connections, for faults.
    pub fn connections(&self) -> impl Iterator<Item = ConnectionId> + '_ {
        self.links.iter().flatten().map(|link| link.id)
    }

    fn count(&self, env: &mut Env, mechanism: Mechanism) {
        env.coverage.one(mechanism);
    }
}
