//! Watches: many watchers, one writer, and how long events take from the put to the watcher.
//!
//! The writer has the last connection to itself. A put's value begins with the time at which it was due, so an
//! event tells its own latency. Every put must reach every watcher: what is missing at the end is an error.

use base::Random;

use super::{Flights, failure};
use crate::drive::{Links, Load};
use crate::http2::{KEEP_ALL, Message, Method};
use crate::keys::{Keys, Span, Values};
use crate::message::{self, Put, WatchAnswer};
use crate::schedule::Board;

/// Puts in flight in a closed loop, each until its events have reached all watchers.
const PUTS_AWAITED: usize = 16;
/// Bytes of a value that hold the time.
pub const STAMP_BYTES: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    /// All watchers watch one key, to which all puts go.
    OneKey,
    /// All watchers watch all keys; puts go to random ones.
    AllKeys,
}

/// See the module.
pub struct Watching {
    watched: Watched,
    keys: Keys,
    span: Span,
    values: Values,
    watcher_links: usize,
    streams: usize,
    random: Random,
    flights: Flights,
    /// Watches by `call` number, below which no flight may lie: 0..watchers.
    unsettled: usize,
    puts: u64,
    failed_puts: u64,
    events: u64,
    key: Vec<u8>,
}

impl Watching {
    /// `watcher_links` x `streams` watchers, and a writer on one more link. In [`Watched::OneKey`] the key is the
    /// first of `span`.
    pub fn new(
        watched: Watched,
        keys: Keys,
        span: Span,
        values: Values,
        watcher_links: usize,
        streams: usize,
    ) -> Watching {
        Watching {
            watched,
            keys,
            span,
            values,
            watcher_links,
            streams,
            random: Random::new(keys.seed ^ 0x776174 ^ span.first),
            flights: Flights::default(),
            unsettled: watcher_links * streams,
            puts: 0,
            failed_puts: 0,
            events: 0,
            key: Vec::new(),
        }
    }

    fn watchers(&self) -> u64 {
        (self.watcher_links * self.streams) as u64
    }

    /// Watches have no flight: their calls are numbered from here.
    const WATCH: u32 = 1 << 31;
}

impl Load for Watching {
    fn slots(&self, link: usize) -> usize {
        if link == self.watcher_links { PUTS_AWAITED } else { 0 }
    }

    fn connected(&mut self, link: usize, links: &mut Links, _board: &mut Board) {
        if link == self.watcher_links {
            return;
        }
        let one = self.keys.key(self.span.first);
        let (key, end) = match self.watched {
            Watched::OneKey => (&one[..], &b""[..]),
            Watched::AllKeys => Keys::all(),
        };
        for _ in 0..self.streams {
            links.get(link).call(Method::Watch, Watching::WATCH, KEEP_ALL, false, |out| {
                message::watch_create(out, key, end, false, false);
            });
        }
    }

    fn settled(&self) -> bool {
        self.unsettled == 0
    }

    fn start(&mut self, link: usize, links: &mut Links, due_ns: u64, board: &mut Board) -> bool {
        let awaited = (self.puts * self.watchers()).saturating_sub(self.events);
        if self.watched == Watched::OneKey && awaited >= PUTS_AWAITED as u64 * self.watchers() {
            return false;
        }
        let number = match self.watched {
            Watched::OneKey => self.span.first,
            Watched::AllKeys => self.span.pick(&mut self.random),
        };
        self.key.clear();
        self.keys.write(number, &mut self.key);
        let put = Put { key: &self.key, value: self.values.value(&mut self.random), lease: 0 };
        let call = self.flights.begin(due_ns, link, 0, 0);
        links.get(link).call(Method::Put, call, 0, true, |out| {
            put.encode(out);
            // The value is the last field.
            let at = out.len() - put.value.len();
            out[at..at + STAMP_BYTES].copy_from_slice(&due_ns.to_le_bytes());
        });
        self.puts += 1;
        board.began();
        true
    }

    fn message(&mut self, call: u32, message: Message<'_>, now_ns: u64, board: &mut Board) {
        if call != Watching::WATCH {
            self.flights.get(call).answered = true;
            return;
        }
        let answer = WatchAnswer::of(message.bytes);
        for value in answer.values() {
            self.events += 1;
            match value.first_chunk::<STAMP_BYTES>() {
                Some(stamp) => board.observe(u64::from_le_bytes(*stamp), now_ns),
                None => board.error(|| "an event without the value that was put".to_owned()),
            }
        }
        if answer.canceled() {
            board.error(|| "the server cancelled a watch".to_owned());
        } else if answer.created() {
            self.unsettled = self.unsettled.saturating_sub(1);
        }
    }

    fn end(&mut self, call: u32, code: u32, text: &str, _now_ns: u64, board: &mut Board) {
        if call == Watching::WATCH {
            board.error(|| format!("a watch stream ended: gRPC status {code}: {text}"));
            return;
        }
        let flight = self.flights.end(call);
        if let Some(failure) = failure(code, text, flight.answered) {
            self.failed_puts += 1;
            board.error(|| failure);
        }
        board.free(flight.link);
    }

    fn is_quiet(&self) -> bool {
        self.events >= (self.puts - self.failed_puts) * self.watchers()
    }

    fn check(&self, board: &mut Board) {
        let (events, puts, watchers) = (self.events, self.puts - self.failed_puts, self.watchers());
        if events < puts * watchers || (self.failed_puts == 0 && events > puts * watchers) {
            board.error(|| format!("{events} events of {puts} puts for {watchers} watchers"));
        }
    }
}
