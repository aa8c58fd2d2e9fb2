//! Guarded updates: each writer knows the last revision of its keys, as a Kubernetes client does.

use base::Random;

use super::calls::Flights;
use crate::drive::{Load, Slot};
use crate::http2::{KEEP_ALL, Message, Method};
use crate::keys::{Keys, Span, Values};
use crate::message::{self, Change, Guarded, Range};
use crate::schedule::Board;

/// Keys that one range of [`Learn`] asks for.
const LEARN_KEYS: u64 = 1000;

/// Reads the last revisions of a span of keys.
pub struct Learn {
    keys: Keys,
    span: Span,
    next: u64,
    revisions: Vec<i64>,
    flights: Flights,
}

impl Learn {
    pub fn new(keys: Keys, span: Span) -> Learn {
        let revisions = vec![0; span.count as usize];
        Learn { keys, span, next: 0, revisions, flights: Flights::default() }
    }

    /// By position in the span; 0 for a key that isn't there.
    pub fn into_revisions(self) -> Vec<i64> {
        self.revisions
    }
}

impl Load for Learn {
    fn slots(&self, _link: usize) -> usize {
        4
    }

    fn start(&mut self, slot: &mut Slot<'_>) -> bool {
        if self.finished() || !slot.has_room() {
            return false;
        }
        let first = self.next;
        self.next = (first + LEARN_KEYS).min(self.span.count);
        let key = self.keys.key(self.span.first + first);
        let end = self.keys.key(self.span.first + self.next);
        let range = Range { key: &key, end: &end, ..Range::default() };
        self.flights.call(slot, Method::Range, KEEP_ALL, 0, first, |out| range.encode(out));
        true
    }

    fn message(&mut self, call: u32, message: Message<'_>, _now_ns: u64, board: &mut Board) {
        self.flights.answered(call);
        for (key, revision) in message::pairs(message.bytes) {
            let position = Keys::number(key).and_then(|number| number.checked_sub(self.span.first));
            match position.and_then(|position| self.revisions.get_mut(position as usize)) {
                Some(slot) => *slot = revision,
                None => board.error(|| "a range answered a key outside of it".to_owned()),
            }
        }
    }

    fn end(&mut self, call: u32, code: u32, text: &str, now_ns: u64, board: &mut Board) {
        self.flights.settle(call, code, text, now_ns, board);
    }

    fn finished(&self) -> bool {
        self.next == self.span.count
    }
}

/// See the module. No two writers share a key, so every guard must hold.
pub struct Txn {
    keys: Keys,
    span: Span,
    values: Values,
    streams: usize,
    random: Random,
    flights: Flights,
    /// Last revision by position in the span.
    revisions: Vec<i64>,
    busy: Vec<bool>,
    key: Vec<u8>,
}

impl Txn {
    pub fn new(keys: Keys, span: Span, values: Values, streams: usize, revisions: Vec<i64>) -> Txn {
        assert_eq!(revisions.len() as u64, span.count, "a revision for each key");
        let busy = vec![false; revisions.len()];
        let random = Random::new(keys.seed ^ 0x74786e ^ span.first);
        Txn {
            keys,
            span,
            values,
            streams,
            random,
            flights: Flights::default(),
            revisions,
            busy,
            key: Vec::new(),
        }
    }

    /// A random key that no call in flight changes. Few are busy, so few tries are needed.
    fn idle_key(&mut self) -> Option<usize> {
        (0..64).map(|_| self.random.below(self.span.count) as usize).find(|&position| !self.busy[position])
    }
}

impl Load for Txn {
    fn slots(&self, _link: usize) -> usize {
        self.streams
    }

    fn start(&mut self, slot: &mut Slot<'_>) -> bool {
        if !slot.has_room() {
            return false;
        }
        let Some(position) = self.idle_key() else { return false };
        self.busy[position] = true;
        self.key.clear();
        self.keys.write(self.span.first + position as u64, &mut self.key);
        let txn = Guarded {
            key: &self.key,
            revision: self.revisions[position],
            change: Change::Put { value: self.values.value(&mut self.random), lease: 0 },
            read_else: true,
        };
        self.flights.call(slot, Method::Txn, KEEP_ALL, 0, position as u64, |out| txn.encode(out));
        true
    }

    fn message(&mut self, call: u32, message: Message<'_>, _now_ns: u64, board: &mut Board) {
        let flight = self.flights.answered(call);
        let revision = &mut self.revisions[flight.key as usize];
        if message::succeeded(message.bytes) {
            *revision = message::revision(message.bytes);
        } else {
            let expected = std::mem::replace(revision, message::revision_read(message.bytes));
            let found = *revision;
            board.error(|| {
                format!("a guard for revision {expected} failed at {found} though nobody else wrote")
            });
        }
    }

    fn end(&mut self, call: u32, code: u32, text: &str, now_ns: u64, board: &mut Board) {
        // Whether a failed one was applied is unknown: its key stays busy and is never guessed about.
        if let Some(flight) = self.flights.settle(call, code, text, now_ns, board) {
            self.busy[flight.key as usize] = false;
        }
    }
}
