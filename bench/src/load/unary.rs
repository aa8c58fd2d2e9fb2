//! Puts and ranges: one request, one answer, no memory of what was.

use base::Random;

use super::{Flights, failure};
use crate::drive::{Links, Load};
use crate::http2::{KEEP_ALL, Message, Method};
use crate::keys::{Keys, Span, Values};
use crate::message::{self, Put, Range};
use crate::schedule::Board;

/// Puts of random existing keys.
pub struct Update {
    keys: Keys,
    span: Span,
    values: Values,
    streams: usize,
    random: Random,
    flights: Flights,
    key: Vec<u8>,
}

impl Update {
    pub fn new(keys: Keys, span: Span, values: Values, streams: usize) -> Update {
        let random = Random::new(keys.seed ^ 0x757064 ^ span.first);
        Update { keys, span, values, streams, random, flights: Flights::default(), key: Vec::new() }
    }
}

impl Load for Update {
    fn slots(&self, _link: usize) -> usize {
        self.streams
    }

    fn start(&mut self, link: usize, links: &mut Links, due_ns: u64, board: &mut Board) -> bool {
        if links.get(link).room() == 0 {
            return false;
        }
        self.key.clear();
        self.keys.write(self.span.pick(&mut self.random), &mut self.key);
        let put = Put { key: &self.key, value: self.values.value(&mut self.random), lease: 0 };
        let call = self.flights.begin(due_ns, link, 0, 0);
        links.get(link).call(Method::Put, call, 0, true, |out| put.encode(out));
        board.began();
        true
    }

    fn message(&mut self, call: u32, _message: Message<'_>, _now_ns: u64, _board: &mut Board) {
        self.flights.get(call).answered = true;
    }

    fn end(&mut self, call: u32, code: u32, text: &str, now_ns: u64, board: &mut Board) {
        let flight = self.flights.end(call);
        match failure(code, text, flight.answered) {
            None => board.observe(flight.due_ns, now_ns),
            Some(failure) => board.error(|| failure),
        }
        board.free(flight.link);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadKind {
    /// One random key.
    One { serializable: bool },
    /// So many keys in a row, from a random one.
    Row { keys: u64 },
    /// The number of all keys.
    Count,
}

/// Ranges over keys that a [`super::Fill`] wrote.
pub struct Read {
    kind: ReadKind,
    keys: Keys,
    /// All keys of the store: reads of all threads go over all of them.
    total: u64,
    value_bytes: usize,
    streams: usize,
    random: Random,
    flights: Flights,
    key: Vec<u8>,
    end: Vec<u8>,
}

impl Read {
    pub fn new(
        kind: ReadKind,
        keys: Keys,
        total: u64,
        value_bytes: usize,
        streams: usize,
        thread: usize,
    ) -> Read {
        Read {
            kind,
            keys,
            total,
            value_bytes,
            streams,
            random: Random::new(keys.seed ^ 0x726561 ^ thread as u64),
            flights: Flights::default(),
            key: Vec::new(),
            end: Vec::new(),
        }
    }

    fn row(&self, keys: u64) -> u64 {
        keys.min(self.total)
    }
}

impl Load for Read {
    fn slots(&self, _link: usize) -> usize {
        self.streams
    }

    fn start(&mut self, link: usize, links: &mut Links, due_ns: u64, board: &mut Board) -> bool {
        if links.get(link).room() == 0 {
            return false;
        }
        self.key.clear();
        self.end.clear();
        let mut range = Range::default();
        let keep = match self.kind {
            ReadKind::One { serializable } => {
                range.serializable = serializable;
                self.keys.write(self.random.below(self.total), &mut self.key);
                KEEP_ALL
            }
            ReadKind::Row { keys } => {
                let row = self.row(keys);
                let first = self.random.below(self.total - row + 1);
                self.keys.write(first, &mut self.key);
                self.keys.write(first + row, &mut self.end);
                0
            }
            ReadKind::Count => {
                range.count_only = true;
                let (from, to) = Keys::all();
                self.key.extend_from_slice(from);
                self.end.extend_from_slice(to);
                KEEP_ALL
            }
        };
        range.key = &self.key;
        range.end = &self.end;
        let call = self.flights.begin(due_ns, link, 0, 0);
        links.get(link).call(Method::Range, call, keep, true, |out| range.encode(out));
        board.began();
        true
    }

    fn message(&mut self, call: u32, message: Message<'_>, _now_ns: u64, board: &mut Board) {
        self.flights.get(call).answered = true;
        let (found, expected) = match self.kind {
            ReadKind::One { .. } => (message::count(message.bytes), 1),
            ReadKind::Count => (message::count(message.bytes), self.total),
            ReadKind::Row { keys } => {
                // The answer is not kept: its length says that the keys and values are in it.
                let pair = (self.keys.key_bytes + self.value_bytes) as u64;
                let expected = self.row(keys);
                ((message.total as u64 / pair).min(expected), expected)
            }
        };
        if found != expected {
            board.error(|| format!("a range found {found} keys where {expected} were written"));
        }
    }

    fn end(&mut self, call: u32, code: u32, text: &str, now_ns: u64, board: &mut Board) {
        let flight = self.flights.end(call);
        match failure(code, text, flight.answered) {
            None => board.observe(flight.due_ns, now_ns),
            Some(failure) => board.error(|| failure),
        }
        board.free(flight.link);
    }
}
