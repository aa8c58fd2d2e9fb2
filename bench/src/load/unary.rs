//! Puts and ranges: one request, one answer, no memory of what was.

use base::Random;

use super::calls::{Flights, Puts};
use crate::drive::{Load, Slot};
use crate::http2::{KEEP_ALL, Message, Method};
use crate::keys::{Keys, Span, Values};
use crate::message::{self, Range};
use crate::schedule::Board;

/// Puts of random existing keys.
pub struct Update {
    puts: Puts,
    span: Span,
    streams: usize,
}

impl Update {
    pub fn new(keys: Keys, span: Span, values: Values, streams: usize) -> Update {
        Update { puts: Puts::new(keys, values, 0x757064 ^ span.first), span, streams }
    }
}

impl Load for Update {
    fn slots(&self, _link: usize) -> usize {
        self.streams
    }

    fn start(&mut self, slot: &mut Slot<'_>) -> bool {
        if !slot.has_room() {
            return false;
        }
        let number = self.span.pick(&mut self.puts.random);
        self.puts.call(slot, number, false);
        true
    }

    fn message(&mut self, call: u32, _message: Message<'_>, _now_ns: u64, _board: &mut Board) {
        self.puts.flights.answered(call);
    }

    fn end(&mut self, call: u32, code: u32, text: &str, now_ns: u64, board: &mut Board) {
        self.puts.flights.settle(call, code, text, now_ns, board);
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

    fn start(&mut self, slot: &mut Slot<'_>) -> bool {
        if !slot.has_room() {
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
        self.flights.call(slot, Method::Range, keep, 0, 0, |out| range.encode(out));
        true
    }

    fn message(&mut self, call: u32, message: Message<'_>, _now_ns: u64, board: &mut Board) {
        self.flights.answered(call);
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
        self.flights.settle(call, code, text, now_ns, board);
    }
}
