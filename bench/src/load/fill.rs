//! Fills the store: every key once, in shuffled order, as fast as the server takes them.

use super::calls::Puts;
use crate::drive::{Load, Slot};
use crate::http2::Message;
use crate::keys::{Keys, Shuffle, Span, Values};
use crate::schedule::Board;

/// See the module.
pub struct Fill {
    puts: Puts,
    first: u64,
    order: Shuffle,
    left: u64,
    streams: usize,
}

impl Fill {
    pub fn new(keys: Keys, values: Values, span: Span, streams: usize) -> Fill {
        let (first, left) = (span.first, span.count);
        let order = Shuffle::new(left, keys.seed);
        Fill { puts: Puts::new(keys, values, first), first, order, left, streams }
    }
}

impl Load for Fill {
    fn slots(&self, _link: usize) -> usize {
        self.streams
    }

    fn start(&mut self, slot: &mut Slot<'_>) -> bool {
        if self.left == 0 || !slot.has_room() {
            return false;
        }
        let number = self.order.next().expect("as many numbers as are left");
        self.left -= 1;
        self.puts.call(slot, self.first + number, false);
        true
    }

    fn message(&mut self, call: u32, _message: Message<'_>, _now_ns: u64, _board: &mut Board) {
        self.puts.flights.answered(call);
    }

    fn end(&mut self, call: u32, code: u32, text: &str, now_ns: u64, board: &mut Board) {
        self.puts.flights.settle(call, code, text, now_ns, board);
    }

    fn finished(&self) -> bool {
        self.left == 0
    }
}
