//! The mix of requests that a kube-apiserver sends, in the proportions of a recorded test run.
//!
//! One watch per resource on a connection of its own, with previous values and progress notifications; gets, guarded
//! creates, updates and deletes on shared connections; streamed lists (or ranges where the server has none); lease
//! grants whose leases go to the first resource's objects, as events have them; a compaction every two seconds to
//! where the store was at the one before; progress requests, which are sent and not waited for. Each object belongs
//! to one client thread and to one call at a time, so every guard must hold, and every write must come back as an
//! event.

use std::io::Write;

use base::Random;

use super::calls::{Flights, Watches};
use crate::drive::{Links, Load, Slot};
use crate::http2::{KEEP_ALL, Message, Method};
use crate::keys::Values;
use crate::message::{self, Change, Fields, Guarded, Range, WatchAnswer};
use crate::schedule::Board;

/// Resources of a cluster, each with a watch: what an apiserver of today has.
pub const RESOURCES: usize = 60;
/// Between compactions, nanoseconds. The apiserver takes minutes; a run is short.
const COMPACT_EVERY_NS: u64 = 2_000_000_000;
const LEASE_TTL_S: i64 = 3600;
const UNIMPLEMENTED: u32 = 12;

/// Requests, and how many of each the recorded run had; creates and deletes are evened out, so that the number of
/// objects stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
enum Op {
    Get,
    Update,
    Create,
    Delete,
    List,
    Progress,
    Grant,
    Count,
    Compact,
}

const MIX: [(Op, u64); 8] = [
    (Op::Get, 2483),
    (Op::Update, 1328),
    (Op::Create, 640),
    (Op::Delete, 640),
    (Op::Progress, 348),
    (Op::List, 172),
    (Op::Grant, 20),
    (Op::Count, 11),
];
const OPS: [Op; 9] =
    [Op::Get, Op::Update, Op::Create, Op::Delete, Op::List, Op::Progress, Op::Grant, Op::Count, Op::Compact];

#[derive(Clone, Copy, Debug)]
struct Object {
    /// Part of the name; a new object in an old place has a new one.
    serial: u64,
    revision: i64,
    busy: bool,
}

/// See the module.
pub struct Kubernetes {
    thread: usize,
    resources: usize,
    streams: usize,
    values: Values,
    random: Random,
    flights: Flights,
    objects: Vec<Object>,
    /// Places in `objects` that exist in the store, and those that don't.
    live: Vec<u32>,
    dead: Vec<u32>,
    /// Objects to begin with.
    wanted: usize,
    serial: u64,
    filling: bool,
    watches: Watches,
    /// The streams of the watches, by resource.
    watch_streams: Vec<u32>,
    writes: u64,
    unsure: u64,
    events: u64,
    lease: i64,
    revision: i64,
    compact_to: i64,
    compact_at_ns: u64,
    lists_stream: bool,
    key: Vec<u8>,
    end: Vec<u8>,
}

impl Kubernetes {
    /// `objects` objects spread over `resources` resources; the first run fills the store with them.
    pub fn new(
        thread: usize,
        resources: usize,
        objects: usize,
        values: Values,
        streams: usize,
        seed: u64,
    ) -> Kubernetes {
        let spare = objects / 10 + 1024;
        let absent = Object { serial: 0, revision: 0, busy: false };
        Kubernetes {
            thread,
            resources,
            streams,
            values,
            random: Random::new(seed ^ 0x6b3873 ^ thread as u64),
            flights: Flights::default(),
            objects: vec![absent; objects + spare],
            live: Vec::new(),
            dead: (0..(objects + spare) as u32).rev().collect(),
            wanted: objects,
            serial: 0,
            filling: true,
            watches: Watches::default(),
            watch_streams: Vec::new(),
            writes: 0,
            unsure: 0,
            events: 0,
            lease: 0,
            revision: 0,
            compact_to: 0,
            compact_at_ns: 0,
            lists_stream: true,
            key: Vec::new(),
            end: Vec::new(),
        }
    }

    /// The store is filled: what follows is the mix.
    pub fn begin_mix(&mut self) {
        assert!(self.finished(), "all objects were created");
        self.filling = false;
        self.writes = 0;
    }

    fn prefix(&self, resource: usize, out: &mut Vec<u8>) {
        out.clear();
        write!(out, "/registry/c{:02}.resource-{resource:02}/", self.thread).expect("memory takes all");
    }

    fn set_key(&mut self, place: u32) {
        let serial = self.objects[place as usize].serial;
        let mut key = std::mem::take(&mut self.key);
        self.prefix(place as usize % self.resources, &mut key);
        let (namespace, suffix) = (serial % 50, serial.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 36);
        write!(key, "namespace-{namespace:02}/object-{serial:08}-{suffix:07x}").expect("memory takes all");
        self.key = key;
    }

    fn set_range(&mut self, resource: usize) {
        let (mut key, mut end) = (std::mem::take(&mut self.key), std::mem::take(&mut self.end));
        self.prefix(resource, &mut key);
        self.prefix(resource, &mut end);
        *end.last_mut().expect("a prefix ends with a slash") += 1;
        (self.key, self.end) = (key, end);
    }

    fn draw(&mut self, now_ns: u64) -> Op {
        if self.thread == 0 && now_ns >= self.compact_at_ns {
            let first = self.compact_at_ns == 0;
            self.compact_at_ns = now_ns + COMPACT_EVERY_NS;
            if !first && self.compact_to > 0 {
                return Op::Compact;
            }
            self.compact_to = self.revision;
        }
        let total: u64 = MIX.iter().map(|(_, weight)| weight).sum();
        let mut at = self.random.below(total);
        for (op, weight) in MIX {
            if at < weight {
                return op;
            }
            at -= weight;
        }
        unreachable!("a number below the sum of the weights falls into one of them")
    }

    /// A random object that exists and that no write in flight touches: its position in `live`.
    fn idle_object(&mut self) -> Option<usize> {
        if self.live.is_empty() {
            return None;
        }
        (0..32)
            .map(|_| self.random.below(self.live.len() as u64) as usize)
            .find(|&position| !self.objects[self.live[position] as usize].busy)
    }

    fn write(&mut self, op: Op, place: u32, slot: &mut Slot<'_>) {
        if op == Op::Create {
            self.serial += 1;
            self.objects[place as usize] = Object { serial: self.serial, revision: 0, busy: true };
        }
        self.objects[place as usize].busy = true;
        self.set_key(place);
        let has_lease = op == Op::Create && (place as usize).is_multiple_of(self.resources);
        let lease = if has_lease { self.lease } else { 0 };
        let change = match op {
            Op::Delete => Change::Delete,
            _ => Change::Put { value: self.values.value(&mut self.random), lease },
        };
        let revision = self.objects[place as usize].revision;
        let txn = Guarded { key: &self.key, revision, change, read_else: op != Op::Create };
        let place = u64::from(place);
        self.flights.call(slot, Method::Txn, KEEP_ALL, op as u32, place, |out| txn.encode(out));
    }

    fn create(&mut self, slot: &mut Slot<'_>) -> bool {
        let place = self.dead.pop();
        if let Some(place) = place {
            self.write(Op::Create, place, slot);
        }
        place.is_some()
    }

    fn read(&mut self, op: Op, slot: &mut Slot<'_>) {
        self.end.clear();
        let mut method = Method::Range;
        let mut keep = KEEP_ALL;
        let resource = self.random.below(self.resources as u64) as usize;
        match op {
            Op::Get if !self.live.is_empty() => {
                let position = self.random.below(self.live.len() as u64) as usize;
                self.set_key(self.live[position]);
            }
            Op::List => {
                self.set_range(resource);
                keep = 0;
                if self.lists_stream {
                    method = Method::RangeStream;
                }
            }
            _ => self.set_range(resource),
        }
        let limit = i64::from(op == Op::Get);
        let range =
            Range { key: &self.key, end: &self.end, limit, count_only: op == Op::Count, ..Range::default() };
        self.flights.call(slot, method, keep, op as u32, 0, |out| range.encode(out));
    }

    fn on_written(&mut self, op: Op, place: u32, bytes: &[u8], board: &mut Board) {
        let object = &mut self.objects[place as usize];
        object.busy = false;
        if !message::succeeded(bytes) {
            let expected = object.revision;
            let found = message::revision_read(bytes);
            board.error(|| {
                format!("{op:?} for revision {expected} failed at {found} though nobody else wrote")
            });
            return;
        }
        self.writes += 1;
        object.revision = message::revision(bytes);
        match op {
            Op::Create => self.live.push(place),
            Op::Delete => self.dead.push(place),
            _ => {}
        }
    }
}

impl Load for Kubernetes {
    fn slots(&self, link: usize) -> usize {
        if self.filling || link >= self.resources { self.streams } else { 0 }
    }

    fn connected(&mut self, link: usize, links: &mut Links, _board: &mut Board) {
        if self.filling || link >= self.resources {
            return;
        }
        self.set_range(link);
        let (key, end) = (&self.key, &self.end);
        self.watch_streams.push(self.watches.open(link, links, key, end, true));
    }

    fn settled(&self) -> bool {
        self.watches.settled()
    }

    fn start(&mut self, slot: &mut Slot<'_>) -> bool {
        if !slot.has_room() {
            return false;
        }
        if self.filling {
            return !self.finished() && self.create(slot);
        }
        loop {
            let op = self.draw(slot.due_ns);
            match op {
                Op::Progress => {
                    // Not an operation: no answer is promised.
                    let watch = self.random.below(self.resources as u64) as usize;
                    slot.links.get(watch).send(self.watch_streams[watch], false, message::watch_progress);
                    continue;
                }
                Op::Update | Op::Delete => {
                    let Some(position) = self.idle_object() else { continue };
                    let place = self.live[position];
                    if op == Op::Delete {
                        self.live.swap_remove(position);
                    }
                    self.write(op, place, slot);
                }
                Op::Create => {
                    if !self.create(slot) {
                        continue;
                    }
                }
                Op::Get | Op::List | Op::Count => self.read(op, slot),
                Op::Grant => {
                    let write = |out: &mut Vec<u8>| message::lease_grant(out, LEASE_TTL_S);
                    self.flights.call(slot, Method::LeaseGrant, KEEP_ALL, op as u32, 0, write);
                }
                Op::Compact => {
                    let to = std::mem::replace(&mut self.compact_to, self.revision);
                    let write = |out: &mut Vec<u8>| message::compact(out, to);
                    self.flights.call(slot, Method::Compact, KEEP_ALL, op as u32, 0, write);
                }
            }
            return true;
        }
    }

    fn message(&mut self, call: u32, message: Message<'_>, _now_ns: u64, board: &mut Board) {
        if call == Watches::CALL {
            let answer = WatchAnswer::of(message.bytes);
            self.events += answer.values().count() as u64;
            self.watches.hear(&answer, board);
            return;
        }
        let flight = self.flights.answered(call);
        let (op, place) = (OPS[flight.what as usize], flight.key as u32);
        match op {
            Op::List => {}
            Op::Create | Op::Update | Op::Delete => self.on_written(op, place, message.bytes, board),
            Op::Grant => self.lease = Fields(message.bytes).number(2).unwrap_or(0) as i64,
            _ => {}
        }
        if op != Op::List {
            self.revision = self.revision.max(message::revision(message.bytes));
        }
    }

    fn end(&mut self, call: u32, code: u32, text: &str, now_ns: u64, board: &mut Board) {
        if call == Watches::CALL {
            return Watches::end(code, text, board);
        }
        let (flight, failure) = self.flights.end(call, code, text, board);
        let op = OPS[flight.what as usize];
        if op == Op::List && code == UNIMPLEMENTED && self.lists_stream {
            // An older server: as the apiserver does, go on with ranges.
            self.lists_stream = false;
        } else {
            match failure {
                None => board.observe(flight.due_ns, now_ns),
                Some(failure) => {
                    // The object of a write stays busy: whether it changed is unknown.
                    self.unsure += u64::from(matches!(op, Op::Create | Op::Update | Op::Delete));
                    board.error(|| format!("{op:?}: {failure}"));
                }
            }
        }
    }

    fn finished(&self) -> bool {
        self.filling && self.objects.len() - self.dead.len() >= self.wanted
    }

    fn is_quiet(&self) -> bool {
        self.filling || self.events >= self.writes
    }

    fn check(&self, board: &mut Board) {
        let (events, writes) = (self.events, self.writes);
        if !self.filling && (events < writes || (self.unsure == 0 && events > writes)) {
            board.error(|| format!("{events} events of {writes} writes"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Kubernetes {
        Kubernetes::new(0, 6, 100, Values::new(16, 1), 1, 1)
    }

    #[test]
    fn ops_are_numbered_as_listed() {
        for (number, op) in OPS.into_iter().enumerate() {
            assert_eq!(op as usize, number);
        }
    }

    #[test]
    fn the_mix_has_its_proportions_and_compacts_now_and_then() {
        let mut load = small();
        load.revision = 5;
        let mut counts = [0u64; OPS.len()];
        let draws = 200_000u64;
        for at in 0..draws {
            counts[load.draw(1 + at * 50_000) as usize] += 1;
        }
        let total: u64 = MIX.iter().map(|(_, weight)| weight).sum();
        for (op, weight) in MIX {
            let share = counts[op as usize] as f64 / draws as f64;
            let wanted = weight as f64 / total as f64;
            assert!((share - wanted).abs() < 0.01, "{op:?}: {share} instead of {wanted}");
        }
        assert_eq!(counts[Op::Compact as usize], 4, "ten seconds, the first two of which only look");
    }

    #[test]
    fn keys_lie_in_their_resources_range_and_fill_ends_with_the_objects() {
        let mut load = small();
        for place in 0..12 {
            load.serial += 1;
            load.objects[place].serial = load.serial;
            load.set_key(place as u32);
            let key = load.key.clone();
            load.set_range(place % 6);
            assert!(key.starts_with(&load.key) && key < load.end);
        }
        assert!(!load.finished());
        load.dead.truncate(load.objects.len() - 99);
        assert!(!load.finished());
        load.dead.truncate(load.objects.len() - 100);
        assert!(load.finished());
    }
}
