//! A network between nodes: messages that may be lost, replayed, late and out of order, and connections whose bytes
//! come in order or not at all. Partitions cut it, in one direction or both.
//!
//! Two kinds of traffic, as a real network has them:
//! - **Messages** are the seam for what members say to each other. The peer protocol carries raft messages over
//!   streams that break and are opened anew, so that raft sees loss, repetition and change of order: all of that, and
//!   more than any TCP would do, happens to messages here. The cluster work gives the world a message type, hands each
//!   outgoing raft message to [`Network::send`], and feeds each [`Delivery::Message`] to the replica of `to` as an
//!   event. Snapshots, which are long, take a connection.
//! - **Connections** are for clients: bytes are cut anywhere, late, and held up by a partition until it heals or
//!   patience ends. A connection can break without one side being told: that side holds a dead connection for a
//!   while, as after a power loss of the other.
//!
//! Invariants: bytes of one direction arrive in order, each once, a prefix of what was written; nothing is delivered
//! across a cut; everything follows from the seed and the calls.
//! Must not know what messages and bytes mean, nor which nodes are up: whoever runs them says when a node has ended.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use base::Random;

use super::queue::{Queue, between, magnitude};

/// Who is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Node {
    Member(u32),
    Client(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// The ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Opener,
    Acceptor,
}

impl Side {
    pub fn other(self) -> Side {
        match self {
            Side::Opener => Side::Acceptor,
            Side::Acceptor => Side::Opener,
        }
    }
}

/// How good a network or a link is.
#[derive(Clone, Copy, Debug)]
pub struct Quality {
    /// The shortest and the longest delay, microseconds; every magnitude between is as likely.
    pub delay_us: (u64, u64),
    /// One message in so many is lost; 0: none.
    pub loss_one_in: u64,
    /// One message in so many comes again, up to `replay_us` later; 0: none.
    pub replay_one_in: u64,
    pub replay_us: u64,
    /// Bytes of one direction of a connection that may be under way.
    pub buffer_bytes: usize,
}

impl Default for Quality {
    /// A good one.
    fn default() -> Quality {
        Quality {
            delay_us: (20, 500),
            loss_one_in: 0,
            replay_one_in: 0,
            replay_us: 1_000_000,
            buffer_bytes: 64 << 10,
        }
    }
}

/// A stalled segment is tried again after this, microseconds.
const RETRANSMIT_US: (u64, u64) = (50_000, 800_000);
/// A connection on which nothing got through for so long breaks, microseconds.
const PATIENCE_US: u64 = 20_000_000;
/// Whoever was not told that a connection broke finds out within this, microseconds.
const FINDS_OUT_US: (u64, u64) = (200_000, 30_000_000);

/// Something that reaches a node.
#[derive(Debug, PartialEq, Eq)]
pub enum Delivery<M> {
    Message {
        from: Node,
        to: Node,
        message: M,
    },
    /// Somebody opened a connection to this node.
    Opened {
        connection: ConnectionId,
        node: Node,
    },
    /// There is something to [`Network::read`].
    Readable {
        connection: ConnectionId,
        side: Side,
        node: Node,
    },
    /// There is room again for [`Network::write`].
    Writable {
        connection: ConnectionId,
        side: Side,
        node: Node,
    },
    /// The connection is over for this side: it is forgotten.
    Ended {
        connection: ConnectionId,
        side: Side,
        node: Node,
    },
}

enum Flight<M> {
    Message {
        from: Node,
        to: Node,
        message: M,
    },
    Open {
        connection: ConnectionId,
    },
    /// The first segment of a direction may have arrived.
    Segment {
        connection: ConnectionId,
        from: Side,
    },
    /// A side finds out that the connection broke.
    End {
        connection: ConnectionId,
        to: Side,
    },
    Room {
        connection: ConnectionId,
        side: Side,
    },
}

struct Segment {
    at_us: u64,
    written_us: u64,
    /// `None`: there is nothing behind it, the writer has closed.
    bytes: Option<Vec<u8>>,
}

/// One direction of a connection.
#[derive(Default)]
struct Pipe {
    /// In order of writing and of arrival.
    segments: VecDeque<Segment>,
    /// Written and not read, bytes.
    unread: usize,
    readable: Vec<u8>,
    /// The writer found no room.
    wants_room: bool,
    /// Nothing written later arrives before this.
    last_us: u64,
}

struct Connection {
    /// Opener and acceptor.
    nodes: [Node; 2],
    /// Which sides still hold it.
    open: [bool; 2],
    /// Nothing passes any more.
    broken: bool,
    /// By who writes.
    pipes: [Pipe; 2],
}

impl Connection {
    fn node(&self, side: Side) -> Node {
        self.nodes[side as usize]
    }
}

/// What the network did, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub sent: u64,
    pub lost: u64,
    pub replayed: u64,
    /// Messages that a partition kept back.
    pub cut: u64,
    /// Segments of connections that had to be sent again.
    pub stalled: u64,
    /// Bytes that the openers of connections have read.
    pub delivered_bytes: u64,
    pub opened: u64,
    pub broken: u64,
}

/// See the module's documentation. `M` is a message.
pub struct Network<M> {
    random: Random,
    quality: Quality,
    links: BTreeMap<(Node, Node), Quality>,
    cuts: BTreeSet<(Node, Node)>,
    flights: Queue<Flight<M>>,
    connections: BTreeMap<ConnectionId, Connection>,
    next_connection: u64,
    counts: Counts,
}

impl<M: Clone> Network<M> {
    pub fn new(random: Random, quality: Quality) -> Network<M> {
        Network {
            random,
            quality,
            links: BTreeMap::new(),
            cuts: BTreeSet::new(),
            flights: Queue::new(),
            connections: BTreeMap::new(),
            next_connection: 1,
            counts: Counts::default(),
        }
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    // --- what it is like ---

    pub fn set_quality(&mut self, quality: Quality) {
        self.quality = quality;
        self.links.clear();
    }

    /// One direction only.
    pub fn set_link(&mut self, from: Node, to: Node, quality: Quality) {
        self.links.insert((from, to), quality);
    }

    /// Nothing gets from one node to the other. The way back stays open.
    pub fn cut(&mut self, from: Node, to: Node) {
        self.cuts.insert((from, to));
    }

    /// Cuts everything between two groups, both ways.
    pub fn part(&mut self, one: &[Node], other: &[Node]) {
        for &a in one {
            for &b in other {
                self.cut(a, b);
                self.cut(b, a);
            }
        }
    }

    pub fn heal(&mut self) {
        self.cuts.clear();
    }

    pub fn is_cut(&self, from: Node, to: Node) -> bool {
        self.cuts.contains(&(from, to))
    }

    fn quality(&self, from: Node, to: Node) -> Quality {
        self.links.get(&(from, to)).copied().unwrap_or(self.quality)
    }

    fn delay(&mut self, from: Node, to: Node) -> u64 {
        let (low, high) = self.quality(from, to).delay_us;
        magnitude(&mut self.random, low, high)
    }

    fn fly(&mut self, at_us: u64, flight: Flight<M>) {
        let tie = self.random.next_u64();
        self.flights.push(at_us, tie, flight);
    }

    // --- messages ---

    pub fn send(&mut self, now_us: u64, from: Node, to: Node, message: M) {
        self.counts.sent += 1;
        let quality = self.quality(from, to);
        if quality.loss_one_in > 0 && self.random.one_in(quality.loss_one_in) {
            self.counts.lost += 1;
            return;
        }
        if quality.replay_one_in > 0 && self.random.one_in(quality.replay_one_in) {
            self.counts.replayed += 1;
            let later_us = now_us + self.delay(from, to) + self.random.below(quality.replay_us + 1);
            self.fly(later_us, Flight::Message { from, to, message: message.clone() });
        }
        let at_us = now_us + self.delay(from, to);
        self.fly(at_us, Flight::Message { from, to, message });
    }

    // --- connections ---

    /// Opens a connection. The opener may write at once; if nobody accepts, it is told that it ended.
    pub fn connect(&mut self, now_us: u64, from: Node, to: Node) -> ConnectionId {
        let id = ConnectionId(self.next_connection);
        self.next_connection += 1;
        self.counts.opened += 1;
        let at_us = now_us + self.delay(from, to);
        let mut pipes = [Pipe::default(), Pipe::default()];
        pipes[Side::Opener as usize].last_us = at_us;
        let connection = Connection { nodes: [from, to], open: [true, false], broken: false, pipes };
        self.connections.insert(id, connection);
        self.fly(at_us, Flight::Open { connection: id });
        id
    }

    /// Bytes that may be written now.
    pub fn room(&mut self, id: ConnectionId, side: Side) -> usize {
        let Some(connection) = self.connections.get(&id) else { return usize::MAX };
        let (from, to) = (connection.node(side), connection.node(side.other()));
        let capacity = self.quality(from, to).buffer_bytes;
        let pipe = &mut self.connections.get_mut(&id).expect("it was there").pipes[side as usize];
        let room = capacity.saturating_sub(pipe.unread);
        pipe.wants_room |= room == 0;
        room
    }

    /// Writes, whether there is room or not. What is written to a connection that broke disappears.
    pub fn write(&mut self, now_us: u64, id: ConnectionId, side: Side, bytes: &[u8]) {
        let Some(connection) = self.connections.get(&id) else { return };
        assert!(connection.open[side as usize], "whoever writes holds the connection");
        if bytes.is_empty() || connection.broken {
            return;
        }
        let cut = if bytes.len() > 1 && self.random.one_in(8) {
            1 + self.random.below(bytes.len() as u64 - 1) as usize
        } else {
            bytes.len()
        };
        for part in [&bytes[..cut], &bytes[cut..]] {
            if !part.is_empty() {
                self.connections.get_mut(&id).expect("it was there").pipes[side as usize].unread +=
                    part.len();
                self.append(now_us, id, side, Some(part.to_vec()));
            }
        }
    }

    fn append(&mut self, now_us: u64, id: ConnectionId, side: Side, bytes: Option<Vec<u8>>) {
        let connection = &self.connections[&id];
        let (from, to) = (connection.node(side), connection.node(side.other()));
        let arrives_us = now_us + self.delay(from, to);
        let connection = self.connections.get_mut(&id).expect("it was there");
        let pipe = &mut connection.pipes[side as usize];
        pipe.last_us = pipe.last_us.max(arrives_us);
        let at_us = pipe.last_us;
        pipe.segments.push_back(Segment { at_us, written_us: now_us, bytes });
        self.fly(at_us, Flight::Segment { connection: id, from: side });
    }

    /// Everything that has arrived and was not read.
    pub fn read(&mut self, now_us: u64, id: ConnectionId, side: Side) -> Vec<u8> {
        let Some(connection) = self.connections.get_mut(&id) else { return Vec::new() };
        let writer = side.other();
        let pipe = &mut connection.pipes[writer as usize];
        let bytes = std::mem::take(&mut pipe.readable);
        assert!(bytes.len() <= pipe.unread, "what is read was written");
        pipe.unread -= bytes.len();
        if side == Side::Opener {
            self.counts.delivered_bytes += bytes.len() as u64;
        }
        if !bytes.is_empty() && std::mem::take(&mut pipe.wants_room) {
            let (from, to) = (connection.node(side), connection.node(writer));
            let at_us = now_us + self.delay(from, to);
            self.fly(at_us, Flight::Room { connection: id, side: writer });
        }
        bytes
    }

    /// One side closes in order: the other is told behind everything that was written.
    pub fn close(&mut self, now_us: u64, id: ConnectionId, side: Side) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.open[side as usize] = false;
        self.append(now_us, id, side, None);
        self.forget_if_over(id);
    }

    /// Breaks a connection: what is under way is gone. Each side is told soon, or finds out much later.
    pub fn break_off(&mut self, now_us: u64, id: ConnectionId) {
        let told = [!self.random.one_in(3), !self.random.one_in(3)];
        self.break_telling(now_us, id, told);
    }

    fn break_telling(&mut self, now_us: u64, id: ConnectionId, told: [bool; 2]) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.broken {
            return;
        }
        connection.broken = true;
        self.counts.broken += 1;
        for side in [Side::Opener, Side::Acceptor] {
            let (low, high) = if told[side as usize] { (100, 2_000) } else { FINDS_OUT_US };
            let at_us = now_us + magnitude(&mut self.random, low, high);
            self.fly(at_us, Flight::End { connection: id, to: side });
        }
    }

    /// The process behind a node has ended. Its system closes its connections, unless that lost its power too: then
    /// the others find out for themselves.
    pub fn node_ended(&mut self, now_us: u64, node: Node, power_lost: bool) {
        for id in self.connections_of(node) {
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            for side in [Side::Opener, Side::Acceptor] {
                if connection.node(side) == node {
                    connection.open[side as usize] = false;
                }
            }
            // A machine without power sends nothing, but one that is back refuses what it does not know.
            let told = !power_lost || self.random.one_in(2);
            self.break_telling(now_us, id, [told; 2]);
            self.forget_if_over(id);
        }
    }

    /// Whether somebody who opened a connection has yet to find out that it broke.
    pub fn keeps_from_openers(&self) -> bool {
        self.connections
            .values()
            .any(|connection| connection.broken && connection.open[Side::Opener as usize])
    }

    /// In the order of their opening.
    pub fn connections_of(&self, node: Node) -> Vec<ConnectionId> {
        let own = self.connections.iter().filter(|(_, connection)| connection.nodes.contains(&node));
        own.map(|(&id, _)| id).collect()
    }

    fn forget_if_over(&mut self, id: ConnectionId) {
        if self.connections.get(&id).is_some_and(|connection| connection.open == [false; 2]) {
            self.connections.remove(&id);
        }
    }

    // --- what arrives ---

    /// When something may arrive next.
    pub fn next_us(&self) -> Option<u64> {
        self.flights.next_us()
    }

    /// The first thing that arrives, if any does by `until_us`; and when.
    pub fn next(&mut self, until_us: u64) -> Option<(u64, Delivery<M>)> {
        loop {
            let (now_us, flight) = self.flights.pop_until(until_us)?;
            if let Some(delivery) = self.land(now_us, flight) {
                return Some((now_us, delivery));
            }
        }
    }

    fn land(&mut self, now_us: u64, flight: Flight<M>) -> Option<Delivery<M>> {
        match flight {
            Flight::Message { from, to, message } => {
                if self.is_cut(from, to) {
                    self.counts.cut += 1;
                    return None;
                }
                Some(Delivery::Message { from, to, message })
            }
            Flight::Open { connection: id } => {
                let connection = self.connections.get(&id)?;
                let [from, to] = connection.nodes;
                if connection.broken || self.is_cut(from, to) || self.is_cut(to, from) {
                    self.break_telling(now_us, id, [false; 2]);
                    return None;
                }
                self.connections.get_mut(&id)?.open[Side::Acceptor as usize] = true;
                Some(Delivery::Opened { connection: id, node: to })
            }
            Flight::Segment { connection, from } => self.segment(now_us, connection, from),
            Flight::End { connection: id, to } => {
                let connection = self.connections.get_mut(&id)?;
                let node = connection.node(to);
                if !std::mem::replace(&mut connection.open[to as usize], false) {
                    return None;
                }
                self.forget_if_over(id);
                Some(Delivery::Ended { connection: id, side: to, node })
            }
            Flight::Room { connection: id, side } => {
                let connection = self.connections.get(&id)?;
                let node = connection.node(side);
                connection.open[side as usize].then_some(Delivery::Writable { connection: id, side, node })
            }
        }
    }

    fn segment(&mut self, now_us: u64, id: ConnectionId, from: Side) -> Option<Delivery<M>> {
        let connection = self.connections.get_mut(&id)?;
        let to = from.other();
        let nodes = (connection.node(from), connection.node(to));
        if connection.broken || !connection.open[to as usize] {
            return None;
        }
        // One that is held up holds up all behind it.
        let first =
            connection.pipes[from as usize].segments.front_mut().filter(|first| first.at_us <= now_us)?;
        // Without the way back nothing is acknowledged, which holds up a connection as well.
        if self.cuts.contains(&nodes) || self.cuts.contains(&(nodes.1, nodes.0)) {
            self.counts.stalled += 1;
            if now_us - first.written_us > PATIENCE_US {
                self.break_telling(now_us, id, [false; 2]);
                return None;
            }
            let again_us = now_us + between(&mut self.random, RETRANSMIT_US.0, RETRANSMIT_US.1);
            first.at_us = again_us;
            self.fly(again_us, Flight::Segment { connection: id, from });
            return None;
        }
        let pipe = &mut connection.pipes[from as usize];
        let mut closed = false;
        while let Some(segment) = pipe.segments.pop_front_if(|segment| segment.at_us <= now_us) {
            match segment.bytes {
                Some(bytes) => pipe.readable.extend_from_slice(&bytes),
                None => closed = true,
            }
        }
        if closed {
            // What was not read before this is lost with the connection, as after a reset.
            self.fly(now_us, Flight::End { connection: id, to });
        }
        Some(Delivery::Readable { connection: id, side: to, node: nodes.1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Node = Node::Member(0);
    const B: Node = Node::Member(1);
    const C: Node = Node::Member(2);

    fn network(seed: u64, quality: Quality) -> Network<u32> {
        Network::new(Random::new(seed), quality)
    }

    /// Sends numbers between three nodes, one every millisecond; what arrived where, in order.
    fn chatter(
        network: &mut Network<u32>,
        from_us: u64,
        numbers: std::ops::Range<u32>,
    ) -> Vec<(u64, Node, u32)> {
        let mut arrived = Vec::new();
        let mut now_us = from_us;
        for number in numbers {
            let (from, to) = [(A, B), (B, C), (C, A), (B, A)][number as usize % 4];
            network.send(now_us, from, to, number);
            now_us += 1_000;
            while let Some((at_us, delivery)) = network.next(now_us) {
                let Delivery::Message { to, message, .. } = delivery else { panic!("{delivery:?}") };
                arrived.push((at_us, to, message));
            }
        }
        while let Some((at_us, Delivery::Message { to, message, .. })) = network.next(u64::MAX) {
            arrived.push((at_us, to, message));
        }
        arrived
    }

    #[test]
    fn a_good_network_delivers_everything_once_and_a_bad_one_loses_repeats_and_mixes() {
        let good = chatter(&mut network(1, Quality::default()), 0, 0..400);
        let mut numbers: Vec<u32> = good.iter().map(|&(_, _, number)| number).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..400).collect::<Vec<_>>());

        let quality =
            Quality { delay_us: (100, 50_000), loss_one_in: 10, replay_one_in: 10, ..Quality::default() };
        let mut bad = network(2, quality);
        let arrived = chatter(&mut bad, 0, 0..400);
        let counts = bad.counts();
        assert!(counts.lost > 10 && counts.replayed > 10, "{counts:?}");
        assert_eq!(arrived.len() as u64, counts.sent - counts.lost + counts.replayed);
        let to_a: Vec<u32> = arrived.iter().filter(|(_, to, _)| *to == A).map(|&(_, _, n)| n).collect();
        assert!(to_a.windows(2).any(|pair| pair[0] > pair[1]), "order changes");
        assert!(to_a.iter().any(|n| to_a.iter().filter(|m| *m == n).count() == 2), "some come twice");
        assert_eq!(chatter(&mut network(2, quality), 0, 0..400), arrived, "a seed replays");
        assert_ne!(chatter(&mut network(3, quality), 0, 0..400), arrived);
    }

    #[test]
    fn a_partition_lets_nothing_through_in_the_directions_that_it_cuts() {
        let mut network = network(5, Quality::default());
        network.cut(A, B);
        let arrived = chatter(&mut network, 0, 0..100);
        assert!(arrived.iter().all(|(_, to, _)| *to != B), "A -> B is the only way to B");
        assert!(arrived.iter().any(|&(_, to, n)| to == A && n % 4 == 3), "B -> A is open");
        network.part(&[C], &[A, B]);
        let arrived = chatter(&mut network, 10_000_000, 100..200);
        assert!(arrived.iter().all(|&(_, to, n)| to == A && n % 4 == 3));
        network.heal();
        assert_eq!(chatter(&mut network, 20_000_000, 200..300).len(), 100);
        assert_eq!(network.counts().cut, 25 + 75);
    }

    #[test]
    fn a_link_is_good_or_bad_in_one_direction_alone() {
        let good = Quality { delay_us: (10, 20), ..Quality::default() };
        let mut network = network(6, good);
        let slow = Quality { delay_us: (700_000, 800_000), ..good };
        network.set_link(B, A, slow);
        network.set_link(C, A, Quality { loss_one_in: 1, ..good });
        let arrived = chatter(&mut network, 0, 0..100);
        let sent_us = |number: u32| u64::from(number) * 1_000;
        for (at_us, to, number) in &arrived {
            let late_us = at_us - sent_us(*number);
            assert_eq!(late_us >= 700_000, *to == A, "only the way from B to A is slow: {number}");
        }
        assert_eq!(
            (arrived.len(), network.counts().lost),
            (75, 25),
            "all that C sends to A, and nothing else"
        );
        // The whole network anew: what was said of links counts no more.
        network.set_quality(good);
        let arrived = chatter(&mut network, 10_000_000, 100..200);
        assert_eq!(arrived.len(), 100);
        assert!(arrived.iter().all(|(at_us, _, n)| at_us - 10_000_000 - sent_us(n - 100) < 1_000));
    }

    /// What one side read, and whether it was told of the end.
    #[derive(Default)]
    struct Reader {
        bytes: Vec<u8>,
        ended: bool,
    }

    fn run_until(network: &mut Network<u32>, until_us: u64, readers: &mut [Reader; 2]) {
        while let Some((now_us, delivery)) = network.next(until_us) {
            match delivery {
                Delivery::Readable { connection, side, .. } => {
                    let bytes = network.read(now_us, connection, side);
                    readers[side as usize].bytes.extend(bytes);
                }
                Delivery::Ended { side, .. } => readers[side as usize].ended = true,
                _ => {}
            }
        }
    }

    #[test]
    fn bytes_come_in_order_through_delays_and_partitions_and_then_the_end() {
        for seed in 0..50 {
            let quality = Quality { delay_us: (10, 20_000), ..Quality::default() };
            let mut network = network(seed, quality);
            let mut random = Random::new(seed);
            let id = network.connect(0, A, B);
            let (mut written, mut readers) = (Vec::new(), [Reader::default(), Reader::default()]);
            let mut now_us = 0;
            for round in 0..200u32 {
                let mut bytes = vec![0; 1 + random.below(100) as usize];
                random.fill(&mut bytes);
                network.write(now_us, id, Side::Opener, &bytes);
                written.extend(bytes);
                match round {
                    60 => network.cut(B, A),
                    120 => network.heal(),
                    _ => {}
                }
                now_us += random.below(20_000);
                run_until(&mut network, now_us, &mut readers);
                assert!(written.starts_with(&readers[1].bytes));
            }
            assert!(network.counts().stalled > 0);
            network.close(now_us, id, Side::Opener);
            run_until(&mut network, u64::MAX, &mut readers);
            assert!(readers[1].bytes == written && readers[1].ended && !readers[0].ended);
            assert!(network.connections.is_empty(), "who is told forgets");
        }
    }

    #[test]
    fn a_break_loses_what_is_under_way_and_both_find_out() {
        let (mut short, mut late) = (false, false);
        for seed in 0..200 {
            let mut network = network(seed, Quality::default());
            let id = network.connect(0, A, B);
            let mut readers = [Reader::default(), Reader::default()];
            network.write(0, id, Side::Opener, b"first");
            run_until(&mut network, 10_000, &mut readers);
            network.write(10_000, id, Side::Opener, b"second");
            network.break_off(10_001, id);
            run_until(&mut network, 20_000, &mut readers);
            assert!(b"firstsecond".starts_with(&readers[1].bytes[..]));
            short |= readers[1].bytes == b"first";
            late |= readers[0].ended != readers[1].ended;
            run_until(&mut network, u64::MAX, &mut readers);
            assert!(readers[0].ended && readers[1].ended && network.connections.is_empty());
        }
        assert!(short && late, "bytes are lost and sides left in the dark, over the seeds");
    }

    #[test]
    fn a_lasting_partition_and_a_dead_peer_end_connections() {
        let mut network = network(9, Quality::default());
        let mut readers = [Reader::default(), Reader::default()];
        let id = network.connect(0, A, B);
        run_until(&mut network, 10_000, &mut readers);
        network.part(&[A], &[B]);
        network.write(20_000, id, Side::Acceptor, b"never");
        run_until(&mut network, u64::MAX, &mut readers);
        assert!(readers[0].ended && readers[1].ended && readers[0].bytes.is_empty());
        network.heal();
        for power_lost in [false, true] {
            let mut readers = [Reader::default(), Reader::default()];
            let id = network.connect(0, A, B);
            run_until(&mut network, 10_000, &mut readers);
            network.write(20_000, id, Side::Opener, b"to a dead one");
            network.node_ended(20_000, B, power_lost);
            run_until(&mut network, u64::MAX, &mut readers);
            assert!(readers[0].ended && readers[1].bytes.is_empty());
        }
        assert!(network.connections_of(A).is_empty());
    }

    #[test]
    fn a_writer_is_told_when_a_slow_reader_has_made_room() {
        let quality = Quality { buffer_bytes: 100, ..Quality::default() };
        let mut network = network(4, quality);
        let id = network.connect(0, A, B);
        assert_eq!(network.room(id, Side::Opener), 100);
        network.write(0, id, Side::Opener, &[7; 100]);
        assert_eq!(network.room(id, Side::Opener), 0);
        let mut writable = 0;
        while let Some((now_us, delivery)) = network.next(1_000_000) {
            writable += u64::from(matches!(delivery, Delivery::Writable { .. }));
            assert!(now_us < 1_000_000);
        }
        assert_eq!(writable, 0, "nobody has read");
        assert_eq!(network.read(1_000_000, id, Side::Acceptor).len(), 100);
        while let Some((_, delivery)) = network.next(u64::MAX) {
            assert_eq!(delivery, Delivery::Writable { connection: id, side: Side::Opener, node: A });
            writable += 1;
        }
        assert_eq!((writable, network.room(id, Side::Opener)), (1, 100));
    }
}
