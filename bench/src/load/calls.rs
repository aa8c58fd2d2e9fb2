//! What loads share: their calls in flight, the puts that several of them send, and the watches that some open.
//!
//! Invariant: a call begun here takes one slot of the board and gives it back when it ends, whatever its end is.

use base::Random;

use crate::drive::{Links, Slot};
use crate::http2::{KEEP_ALL, Method};
use crate::keys::{Keys, Values};
use crate::message::{self, Put, WatchAnswer};
use crate::schedule::Board;

/// Bytes of a value that hold the time.
pub const STAMP_BYTES: usize = 8;

/// One call in flight.
#[derive(Clone, Copy, Debug)]
pub struct Flight {
    pub due_ns: u64,
    pub link: u32,
    /// What the load makes of it.
    pub what: u32,
    pub key: u64,
    /// A message came.
    pub answered: bool,
}

/// The calls in flight of a load, by number.
#[derive(Default)]
pub struct Flights {
    flights: Vec<Flight>,
    free: Vec<u32>,
}

impl Flights {
    /// Begins a unary call in `slot`, whose request `write` appends. Of the answer `keep` bytes are kept; `what` and
    /// `key` are the load's own.
    pub fn call(
        &mut self,
        slot: &mut Slot<'_>,
        method: Method,
        keep: u32,
        what: u32,
        key: u64,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let link = slot.link as u32;
        let call = self.begin(Flight { due_ns: slot.due_ns, link, what, key, answered: false });
        slot.links.get(slot.link).call(method, call, keep, true, write);
        slot.board.began();
    }

    fn begin(&mut self, flight: Flight) -> u32 {
        match self.free.pop() {
            Some(call) => {
                self.flights[call as usize] = flight;
                call
            }
            None => {
                self.flights.push(flight);
                (self.flights.len() - 1) as u32
            }
        }
    }

    /// A message came for this call.
    pub fn answered(&mut self, call: u32) -> Flight {
        let flight = &mut self.flights[call as usize];
        flight.answered = true;
        *flight
    }

    /// A call ended and its slot is free. What went wrong with it, if anything: a status other than OK, or no answer.
    pub fn end(&mut self, call: u32, code: u32, text: &str, board: &mut Board) -> (Flight, Option<String>) {
        self.free.push(call);
        let flight = self.flights[call as usize];
        board.free(flight.link);
        let failure = match (code, flight.answered) {
            (0, true) => None,
            (0, false) => Some("a call ended well without an answer".to_owned()),
            _ => Some(format!("gRPC status {code}: {text}")),
        };
        (flight, failure)
    }

    /// The end of a call that is an operation: its latency or its failure goes to the board. None: it failed.
    pub fn settle(
        &mut self,
        call: u32,
        code: u32,
        text: &str,
        now_ns: u64,
        board: &mut Board,
    ) -> Option<Flight> {
        match self.end(call, code, text, board) {
            (flight, None) => {
                board.observe(flight.due_ns, now_ns);
                Some(flight)
            }
            (_, Some(failure)) => {
                board.error(|| failure);
                None
            }
        }
    }
}

/// Puts of random values, and the calls that they are.
pub struct Puts {
    keys: Keys,
    values: Values,
    /// For the values, and for the load that picks keys.
    pub random: Random,
    pub flights: Flights,
    key: Vec<u8>,
}

impl Puts {
    /// `seed` tells the loads of one run apart; it goes with the keys' own.
    pub fn new(keys: Keys, values: Values, seed: u64) -> Puts {
        let random = Random::new(keys.seed ^ seed);
        Puts { keys, values, random, flights: Flights::default(), key: Vec::new() }
    }

    /// Begins a put of key `number` in `slot`. `is_stamped`: the value begins with the time at which it was due.
    pub fn call(&mut self, slot: &mut Slot<'_>, number: u64, is_stamped: bool) {
        self.key.clear();
        self.keys.write(number, &mut self.key);
        let put = Put { key: &self.key, value: self.values.value(&mut self.random), lease: 0 };
        let due_ns = slot.due_ns;
        self.flights.call(slot, Method::Put, 0, 0, 0, |out| {
            put.encode(out);
            if is_stamped {
                // The value is the last field.
                let at = out.len() - put.value.len();
                out[at..at + STAMP_BYTES].copy_from_slice(&due_ns.to_le_bytes());
            }
        });
    }
}

/// The watches of a load. They have no flight and take no slot: all are the call [`Watches::CALL`].
#[derive(Default)]
pub struct Watches {
    /// Those whose creation isn't answered yet.
    unsettled: usize,
}

impl Watches {
    /// Above every flight's number.
    pub const CALL: u32 = 1 << 31;

    /// Opens a watch of `[key, end)`, or of `key` when `end` is empty; returns its stream. With `extras` it asks for
    /// previous values and for notifications of progress.
    pub fn open(&mut self, link: usize, links: &mut Links, key: &[u8], end: &[u8], extras: bool) -> u32 {
        self.unsettled += 1;
        links.get(link).call(Method::Watch, Watches::CALL, KEEP_ALL, false, |out| {
            message::watch_create(out, key, end, extras, extras);
        })
    }

    pub fn settled(&self) -> bool {
        self.unsettled == 0
    }

    /// Takes notice of what an answer says beside its events.
    pub fn hear(&mut self, answer: &WatchAnswer<'_>, board: &mut Board) {
        if answer.canceled() {
            board.error(|| "the server cancelled a watch".to_owned());
        } else if answer.created() {
            self.unsettled = self.unsettled.saturating_sub(1);
        }
    }

    /// No watch ends in a run.
    pub fn end(code: u32, text: &str, board: &mut Board) {
        board.error(|| format!("a watch stream ended: gRPC status {code}: {text}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Counted;

    #[test]
    fn flights_are_reused_and_keep_their_facts() {
        let (mut flights, mut board) = (Flights::default(), Board::new(Counted::ByEnd));
        board.set_window(0, 1000);
        let begin = |flights: &mut Flights, board: &mut Board, number: u32| {
            board.began();
            let (due_ns, key) = (u64::from(number), u64::from(number) * 2);
            flights.begin(Flight { due_ns, link: number, what: number, key, answered: false })
        };
        let first = begin(&mut flights, &mut board, 1);
        let second = begin(&mut flights, &mut board, 5);
        assert_ne!(first, second);
        assert_eq!(flights.answered(second).key, 10);
        let (ended, failure) = flights.end(first, 0, "", &mut board);
        assert_eq!((ended.due_ns, ended.link, ended.what, ended.key, ended.answered), (1, 1, 1, 2, false));
        assert_eq!(failure.as_deref(), Some("a call ended well without an answer"));
        assert_eq!(begin(&mut flights, &mut board, 9), first);
        assert_eq!(flights.settle(second, 0, "", 100, &mut board).map(|flight| flight.what), Some(5));
        flights.answered(first);
        assert!(flights.settle(first, 14, "gone", 100, &mut board).is_none());
        let mut freed = Vec::new();
        board.take_freed(&mut freed);
        assert_eq!((board.in_flight(), &freed[..]), (0, &[1, 5, 9][..]), "every end frees a slot");
        assert_eq!(board.first_error(), Some("gRPC status 14: gone"));
        assert_eq!(board.into_tally().completed, 1, "only what was answered counts");
    }
}
