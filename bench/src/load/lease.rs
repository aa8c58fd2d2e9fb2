//! Leases: granting them, and keeping them alive on many streams.

use super::calls::Flights;
use crate::drive::{Links, Load, Slot};
use crate::http2::{KEEP_ALL, Message, Method};
use crate::message::{self, Fields};
use crate::schedule::Board;

/// Long enough that none expires in a run, short enough that they go soon after one, seconds.
const TTL_S: i64 = 600;

/// Grants so many leases.
pub struct Grant {
    left: usize,
    ids: Vec<i64>,
    flights: Flights,
}

impl Grant {
    pub fn new(count: usize) -> Grant {
        Grant { left: count, ids: Vec::with_capacity(count), flights: Flights::default() }
    }

    pub fn into_ids(self) -> Vec<i64> {
        self.ids
    }
}

impl Load for Grant {
    fn slots(&self, _link: usize) -> usize {
        64
    }

    fn start(&mut self, slot: &mut Slot<'_>) -> bool {
        if self.left == 0 || !slot.has_room() {
            return false;
        }
        self.left -= 1;
        self.flights.call(slot, Method::LeaseGrant, KEEP_ALL, 0, 0, |out| message::lease_grant(out, TTL_S));
        true
    }

    fn message(&mut self, call: u32, message: Message<'_>, _now_ns: u64, board: &mut Board) {
        self.flights.answered(call);
        match Fields(message.bytes).number(2) {
            Some(id) => self.ids.push(id as i64),
            None => board.error(|| "a granted lease has no id".to_owned()),
        }
    }

    fn end(&mut self, call: u32, code: u32, text: &str, now_ns: u64, board: &mut Board) {
        self.flights.settle(call, code, text, now_ns, board);
    }

    fn finished(&self) -> bool {
        self.left == 0
    }
}

struct Beat {
    link: u32,
    stream: u32,
    lease: i64,
    due_ns: u64,
}

/// One keep-alive in flight on each stream, again and again. `call` is the number of the stream.
pub struct KeepAlive {
    streams: usize,
    leases: Vec<i64>,
    beats: Vec<Beat>,
    /// Streams of each link whose keep-alive was answered.
    idle: Vec<Vec<u32>>,
    /// Streams whose first answer is awaited.
    unsettled: usize,
}

impl KeepAlive {
    /// One stream for each of `leases`, `streams` of them on each connection.
    pub fn new(leases: Vec<i64>, streams: usize) -> KeepAlive {
        let unsettled = leases.len();
        KeepAlive { streams, leases, beats: Vec::new(), idle: Vec::new(), unsettled }
    }
}

impl Load for KeepAlive {
    fn slots(&self, _link: usize) -> usize {
        self.streams
    }

    fn connected(&mut self, link: usize, links: &mut Links, _board: &mut Board) {
        self.idle.push(Vec::with_capacity(self.streams));
        for _ in 0..self.streams {
            let lease = self.leases.pop().expect("a lease for each stream");
            let call = self.beats.len() as u32;
            let stream = links.get(link).call(Method::LeaseKeepAlive, call, KEEP_ALL, false, |out| {
                message::lease_keep_alive(out, lease);
            });
            self.beats.push(Beat { link: link as u32, stream, lease, due_ns: 0 });
        }
    }

    fn settled(&self) -> bool {
        self.unsettled == 0
    }

    fn start(&mut self, slot: &mut Slot<'_>) -> bool {
        let Some(call) = self.idle[slot.link].pop() else { return false };
        let beat = &mut self.beats[call as usize];
        beat.due_ns = slot.due_ns;
        let connection = slot.links.get(slot.link);
        connection.send(beat.stream, false, |out| message::lease_keep_alive(out, beat.lease));
        slot.board.began();
        true
    }

    fn message(&mut self, call: u32, message: Message<'_>, now_ns: u64, board: &mut Board) {
        let beat = &self.beats[call as usize];
        let answer = Fields(message.bytes);
        if answer.number(2) != Some(beat.lease as u64) || answer.number(3).unwrap_or(0) == 0 {
            board.error(|| format!("lease {:x} was not kept alive", beat.lease));
        }
        self.idle[beat.link as usize].push(call);
        if self.unsettled > 0 {
            self.unsettled -= 1;
        } else {
            board.observe(beat.due_ns, now_ns);
            board.free(beat.link);
        }
    }

    fn end(&mut self, _call: u32, code: u32, text: &str, _now_ns: u64, board: &mut Board) {
        board.error(|| format!("a keep-alive stream ended: gRPC status {code}: {text}"));
    }
}
