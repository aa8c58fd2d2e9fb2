//! Watches: many watchers, one writer, and how long events take from the put to the watcher.
//!
//! The writer has the last connection to itself. A put's value begins with the time at which it was due, so an
//! event tells its own latency. Every put must reach every watcher: what is missing at the end is an error.

use super::calls::{Puts, STAMP_BYTES, Watches};
use crate::drive::{Links, Load, Slot};
use crate::http2::Message;
use crate::keys::{Keys, Span, Values};
use crate::message::WatchAnswer;
use crate::schedule::Board;

/// Puts in flight in a closed loop, each until its events have reached all watchers.
const PUTS_AWAITED: usize = 16;

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
    watcher_links: usize,
    streams: usize,
    watches: Watches,
    puts: Puts,
    sent: u64,
    failed: u64,
    events: u64,
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
            watcher_links,
            streams,
            watches: Watches::default(),
            puts: Puts::new(keys, values, 0x776174 ^ span.first),
            sent: 0,
            failed: 0,
            events: 0,
        }
    }

    fn watchers(&self) -> u64 {
        (self.watcher_links * self.streams) as u64
    }
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
            self.watches.open(link, links, key, end, false);
        }
    }

    fn settled(&self) -> bool {
        self.watches.settled()
    }

    fn start(&mut self, slot: &mut Slot<'_>) -> bool {
        let awaited = (self.sent * self.watchers()).saturating_sub(self.events);
        if self.watched == Watched::OneKey && awaited >= PUTS_AWAITED as u64 * self.watchers() {
            return false;
        }
        let number = match self.watched {
            Watched::OneKey => self.span.first,
            Watched::AllKeys => self.span.pick(&mut self.puts.random),
        };
        self.puts.call(slot, number, true);
        self.sent += 1;
        true
    }

    fn message(&mut self, call: u32, message: Message<'_>, now_ns: u64, board: &mut Board) {
        if call != Watches::CALL {
            self.puts.flights.answered(call);
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
        self.watches.hear(&answer, board);
    }

    fn end(&mut self, call: u32, code: u32, text: &str, _now_ns: u64, board: &mut Board) {
        if call == Watches::CALL {
            return Watches::end(code, text, board);
        }
        // An operation is an event: the put itself counts for nothing.
        if let (_, Some(failure)) = self.puts.flights.end(call, code, text, board) {
            self.failed += 1;
            board.error(|| failure);
        }
    }

    fn is_quiet(&self) -> bool {
        self.events >= (self.sent - self.failed) * self.watchers()
    }

    fn check(&self, board: &mut Board) {
        let (events, puts, watchers) = (self.events, self.sent - self.failed, self.watchers());
        if events < puts * watchers || (self.failed == 0 && events > puts * watchers) {
            board.error(|| format!("{events} events of {puts} puts for {watchers} watchers"));
        }
    }
}
