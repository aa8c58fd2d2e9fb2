//! Fills the store: every key once, in shuffled order, as fast as the server takes them.

use base::Random;

use super::{Flights, failure};
use crate::drive::{Links, Load};
use crate::http2::{Message, Method};
use crate::keys::{Keys, Shuffle, Span, Values};
use crate::message::Put;
use crate::schedule::Board;

/// See the module.
pub struct Fill {
    keys: Keys,
    values: Values,
    first: u64,
    order: Shuffle,
    left: u64,
    streams: usize,
    random: Random,
    flights: Flights,
    key: Vec<u8>,
}

impl Fill {
    pub fn new(keys: Keys, values: Values, span: Span, streams: usize) -> Fill {
        Fill {
            keys,
            values,
            first: span.first,
            order: Shuffle::new(span.count, keys.seed),
            left: span.count,
            streams,
            random: Random::new(keys.seed ^ span.first),
            flights: Flights::default(),
            key: Vec::new(),
        }
    }
}

impl Load for Fill {
    fn slots(&self, _link: usize) -> usize {
        self.streams
    }

    fn start(&mut self, link: usize, links: &mut Links, due_ns: u64, board: &mut Board) -> bool {
        if self.left == 0 || links.get(link).room() == 0 {
            return false;
        }
        let number = self.order.next().expect("as many numbers as are left");
        self.left -= 1;
        self.key.clear();
        self.keys.write(self.first + number, &mut self.key);
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

    fn finished(&self) -> bool {
        self.left == 0
    }
}
