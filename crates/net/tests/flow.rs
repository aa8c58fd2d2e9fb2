//! Flow control against a model of the peer: windows are never exceeded, frames never too large, streams never
//! reordered, and everything arrives once the windows allow it; for every way of answering.

mod common;

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::sync::Arc;

use base::Random;
use common::*;
use mainstay_net::frame::{self, flag, kind};
use mainstay_net::{ErrorCode, Limits, Outbound};

/// What a peer knows: its windows and what arrived.
struct Model {
    initial: i64,
    max_frame: usize,
    connection: i64,
    streams: BTreeMap<u32, (i64, Vec<u8>, bool)>,
}

impl Model {
    fn new() -> Model {
        Model { initial: 65_535, max_frame: 16_384, connection: 65_535, streams: BTreeMap::new() }
    }

    fn arrived(&mut self, bytes: &[u8]) {
        for f in parse(bytes) {
            match f.kind {
                kind::DATA => {
                    let (window, data, ended) =
                        self.streams.get_mut(&f.stream).expect("a stream that was opened");
                    assert!(!*ended, "DATA after the end of stream {}", f.stream);
                    assert!(f.payload.len() <= self.max_frame);
                    *window -= f.payload.len() as i64;
                    self.connection -= f.payload.len() as i64;
                    assert!(
                        f.payload.is_empty() || (*window >= 0 && self.connection >= 0),
                        "a window was exceeded: stream {} {window}, connection {}, {}",
                        f.stream,
                        self.connection,
                        f.payload.len()
                    );
                    data.extend_from_slice(&f.payload);
                }
                kind::HEADERS if f.flags & flag::END_STREAM != 0 => {
                    let stream = self.streams.get_mut(&f.stream).expect("a stream that was opened");
                    assert!(!std::mem::replace(&mut stream.2, true));
                }
                _ => {}
            }
        }
    }

    fn finished(&self) -> bool {
        self.streams.values().all(|(.., ended)| *ended)
    }
}

/// A long message that is being produced by `direct`.
struct Producer {
    stream: u32,
    bytes: Vec<u8>,
    at: usize,
}

impl Producer {
    /// Produces while there is room; the socket takes a random part of what it is offered.
    fn go_on(&mut self, out: &mut Outbound, wire: &mut Vec<u8>, random: &mut Random) -> bool {
        loop {
            let n = out.sendable(self.stream).min(self.bytes.len() - self.at);
            if self.at == self.bytes.len() {
                out.finish(self.stream, 0, "");
                return true;
            }
            if n == 0 {
                return false;
            }
            let n = 1 + random.below(n as u64) as usize;
            let part = &self.bytes[self.at..self.at + n];
            let step = 1 + random.below(500) as usize;
            let refuses = random.one_in(3);
            let mut sink = |iov: &[IoSlice<'_>]| {
                let total: usize = iov.iter().map(|s| s.len()).sum();
                let takes = if refuses { random.below(total as u64 + 1) as usize } else { total };
                let flat = iov.iter().flat_map(|s| s.iter().copied());
                wire.extend(flat.take(takes));
                takes
            };
            out.direct(self.stream, part.chunks(step), &mut sink);
            self.at += n;
        }
    }
}

fn random_message(random: &mut Random, most: u64) -> Vec<u8> {
    let mut message = vec![0; random.below(most) as usize];
    random.fill(&mut message);
    message
}

fn run(seed: u64) {
    let mut random = Random::new(seed);
    let limits = Limits { output_bytes: 1000 + random.below(100_000) as usize, ..Limits::default() };
    let mut pair = Pair::with(limits);
    let mut model = Model::new();
    let mut expected: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    let mut producers: Vec<Producer> = Vec::new();
    let mut streaming: Vec<u32> = Vec::new();
    let mut wire = Vec::new();
    if random.one_in(2) {
        model.initial = random.below(5000) as i64;
        pair.feed(&settings(&[(4, model.initial as u32)])).unwrap();
    }
    if random.one_in(3) {
        model.max_frame = 16_384 + random.below(100_000) as usize;
        pair.feed(&settings(&[(5, model.max_frame as u32)])).unwrap();
    }
    let mut next = 1;
    for step in 0..3000 {
        if step > 400 && model.finished() && streaming.is_empty() && producers.is_empty() {
            break;
        }
        match random.below(if step < 400 { 8 } else { 4 }) {
            0 => {
                let increment = 1 + random.below(20_000);
                model.connection += increment as i64;
                pair.feed(&window_update(0, increment as u32)).unwrap();
            }
            1 | 2 => {
                let open: Vec<u32> = model.streams.iter().filter(|(_, s)| !s.2).map(|(id, _)| *id).collect();
                if !open.is_empty() {
                    let id = open[random.below(open.len() as u64) as usize];
                    let increment = 1 + random.below(20_000);
                    model.streams.get_mut(&id).unwrap().0 += increment as i64;
                    pair.feed(&window_update(id, increment as u32)).unwrap();
                }
            }
            3 => {
                if random.one_in(10) {
                    let initial = random.below(70_000) as i64;
                    // The server may send by the old window until it has seen the new one: what waits goes first.
                    model.arrived_all(&mut wire, &mut pair);
                    model.streams.values_mut().for_each(|s| s.0 += initial - model.initial);
                    model.initial = initial;
                    pair.now += 1000;
                    pair.feed(&settings(&[(4, initial as u32)])).unwrap();
                }
                if step >= 400 {
                    for stream in streaming.drain(..) {
                        pair.server.outbound().finish(stream, 5, "the end");
                    }
                }
            }
            4 => {
                let hold = headers(next, "/t.S/Hold", flag::END_STREAM);
                pair.feed(&hold).unwrap();
                model.streams.insert(next, (model.initial, Vec::new(), false));
                let message = random_message(&mut random, 60_000);
                let out = pair.server.outbound();
                expected.insert(next, prefixed(&message));
                match random.below(3) {
                    0 => out.unary(next, |to| to.extend_from_slice(&message)),
                    1 => {
                        out.open_sized(next, message.len());
                        producers.push(Producer { stream: next, bytes: message, at: 0 });
                    }
                    _ => {
                        out.send(next, &message);
                        streaming.push(next);
                    }
                }
                next += 2;
            }
            5 | 6 => {
                if !streaming.is_empty() {
                    let id = streaming[random.below(streaming.len() as u64) as usize];
                    let message = random_message(&mut random, 5000);
                    expected.get_mut(&id).unwrap().extend(prefixed(&message));
                    if random.one_in(2) {
                        pair.server.outbound().send(id, &message);
                    } else {
                        let message: Arc<[u8]> = Arc::from(message);
                        pair.server.outbound().send_parts(id, &[], &message, 0..message.len());
                    }
                }
            }
            _ => {
                if !streaming.is_empty() {
                    let id = streaming.swap_remove(random.below(streaming.len() as u64) as usize);
                    pair.server.outbound().finish(id, 0, "");
                }
            }
        }
        // A socket that takes some of what waits, in order; what `direct` handed to it came before.
        let mut iov = Vec::new();
        pair.server.output().gather(&mut iov);
        let waiting: Vec<u8> = iov.iter().flat_map(|s| s.to_vec()).collect();
        let takes = random.below(waiting.len() as u64 + 1) as usize;
        wire.extend_from_slice(&waiting[..takes]);
        pair.server.output().consumed(takes);
        let mut writable = Vec::new();
        pair.server.outbound().drain_writable(&mut writable);
        producers.retain_mut(|p| !p.go_on(pair.server.outbound(), &mut wire, &mut random));
        model.whole_frames(&mut wire);
    }
    // Open everything, and let it finish.
    model.connection += 1 << 30;
    pair.feed(&window_update(0, 1 << 30)).unwrap();
    let open: Vec<u32> = model.streams.iter().filter(|(_, s)| !s.2).map(|(id, _)| *id).collect();
    for id in open {
        model.streams.get_mut(&id).unwrap().0 += 1 << 20;
        pair.feed(&window_update(id, 1 << 20)).unwrap();
    }
    for stream in streaming.drain(..) {
        pair.server.outbound().finish(stream, 0, "");
    }
    for _ in 0..10_000 {
        producers.retain_mut(|p| !p.go_on(pair.server.outbound(), &mut wire, &mut random));
        model.arrived_all(&mut wire, &mut pair);
        let mut writable = Vec::new();
        pair.server.outbound().drain_writable(&mut writable);
    }
    assert!(producers.is_empty() && model.finished(), "seed {seed}: something never went on");
    for (id, bytes) in &expected {
        assert!(model.streams[id].1 == *bytes, "seed {seed}: stream {id} differs");
    }
    assert_eq!(pair.server.open_streams(), 0, "seed {seed}");
}

impl Model {
    fn whole_frames(&mut self, wire: &mut Vec<u8>) {
        let mut end = 0;
        while wire.len() >= end + 9 {
            let length = frame::FrameHeader::parse(&wire[end..]).length;
            if wire.len() < end + 9 + length {
                break;
            }
            end += 9 + length;
        }
        let rest = wire.split_off(end);
        self.arrived(wire);
        *wire = rest;
    }

    fn arrived_all(&mut self, wire: &mut Vec<u8>, pair: &mut Pair) {
        wire.extend(pair.take());
        self.whole_frames(wire);
        assert!(wire.is_empty());
    }
}

#[test]
fn random_peers_see_their_windows_respected_and_get_everything() {
    for seed in 0..60 {
        run(seed);
    }
}

#[test]
fn streams_take_turns_when_the_connection_window_reopens() {
    let mut pair = Pair::new();
    pair.feed(&settings(&[(4, 1 << 20)])).unwrap();
    for stream in [1, 3, 5] {
        pair.feed(&headers(stream, "/t.S/Hold", flag::END_STREAM)).unwrap();
        pair.server.outbound().unary(stream, |out| out.extend_from_slice(&[0; 100_000]));
    }
    pair.output();
    pair.feed(&window_update(0, 16_384 * 6)).unwrap();
    let order: Vec<u32> = pair.output().iter().filter(|f| f.kind == kind::DATA).map(|f| f.stream).collect();
    assert_eq!(order, [1, 3, 5, 1, 3, 5]);
}

#[test]
fn a_producer_hears_once_that_it_can_go_on() {
    let mut pair = Pair::new();
    pair.feed(&settings(&[(4, 10)])).unwrap();
    pair.feed(&headers(1, "/t.S/Hold", flag::END_STREAM)).unwrap();
    let out = pair.server.outbound();
    out.open_sized(1, 30);
    assert_eq!(out.sendable(1), 5, "the prefix takes its share");
    out.direct(1, [&[1u8; 5][..]], &mut |_| 0);
    assert_eq!(out.sendable(1), 0);
    let mut writable = Vec::new();
    out.drain_writable(&mut writable);
    assert!(writable.is_empty());
    pair.feed(&window_update(1, 25)).unwrap();
    pair.server.outbound().drain_writable(&mut writable);
    pair.server.outbound().drain_writable(&mut writable);
    assert_eq!(writable, [1]);
    assert_eq!(pair.server.outbound().sendable(1), 25);
    // More than the window: what exceeds it is copied and waits.
    pair.feed(&headers(3, "/t.S/Hold", flag::END_STREAM)).unwrap();
    pair.server.outbound().open_sized(3, 100);
    pair.server.outbound().direct(3, [&[3u8; 60][..], &[4u8; 40][..]], &mut |_| 0);
    assert_eq!(pair.server.outbound().queued(3), 95);
    pair.server.outbound().finish(3, 0, "");
    pair.output();
    pair.feed(&window_update(3, 95)).unwrap();
    let frames = pair.output();
    assert_eq!((frames[0].payload.len(), frames[1].ends_stream()), (95, true));
}

#[test]
fn the_output_limit_holds_producers_back_until_the_socket_takes() {
    let mut pair = Pair::with(Limits { output_bytes: 4000, ..Limits::default() });
    pair.feed(&headers(1, "/t.S/Stream", 0)).unwrap();
    for _ in 0..20 {
        pair.server.outbound().send(1, &[7; 1000]);
    }
    assert!(pair.server.is_congested());
    assert!(pair.server.output().len() < 6000 && pair.server.outbound().queued(1) > 14_000);
    assert_eq!(pair.server.outbound().sendable(1), 0);
    let (mut total, mut writable) = (0, Vec::new());
    while writable.is_empty() {
        let n = pair.take().len();
        assert!(n > 0 && n <= 16_384 + 9 + 4000);
        total += n;
        pair.server.outbound().drain_writable(&mut writable);
    }
    assert!(total > 16_000 || pair.server.outbound().queued(1) == 0);
    assert_eq!(writable, [1]);
}

#[test]
fn an_answer_that_can_not_be_completed_is_reset() {
    let mut pair = Pair::new();
    pair.feed(&headers(1, "/t.S/Hold", flag::END_STREAM)).unwrap();
    let out = pair.server.outbound();
    out.open_sized(1, 100);
    out.direct(1, [&[1u8; 50][..]], &mut |_| 0);
    out.finish(1, 0, "");
    assert_eq!(pair.output().last().unwrap().kind, kind::RST_STREAM);
    assert_eq!(pair.server.open_streams(), 0);
}

#[test]
fn what_we_receive_is_given_back_by_halves() {
    let limits =
        Limits { stream_window_bytes: 65_535, connection_window_bytes: 100_000, ..Limits::default() };
    let mut pair = Pair::with(limits);
    pair.feed(&headers(1, "/t.S/Hold", 0)).unwrap();
    let mut given: BTreeMap<u32, u64> = BTreeMap::new();
    let mut updates = 0;
    for _ in 0..200 {
        pair.feed(&raw(kind::DATA, 0, 1, &prefixed(&[0; 9995]))).unwrap();
        for f in pair.output() {
            assert_eq!(f.kind, kind::WINDOW_UPDATE);
            *given.entry(f.stream).or_default() += u64::from(frame::be32(&f.payload));
            updates += 1;
        }
    }
    assert!(given[&0] >= 2_000_000 - 50_000 && given[&1] >= 2_000_000 - 33_000);
    assert!(updates <= 2_000_000 / 32_768 + 2_000_000 / 50_000 + 2, "{updates} window updates");
}

#[test]
fn an_answered_call_gets_no_more_window() {
    let mut pair = Pair::with(Limits { stream_window_bytes: 65_535, ..Limits::default() });
    pair.feed(&settings(&[(4, 0)])).unwrap();
    pair.feed(&headers(1, "/t.S/Hold", 0)).unwrap();
    pair.server.outbound().unary(1, |out| out.push(1));
    pair.output();
    for _ in 0..4 {
        pair.feed(&raw(kind::DATA, 0, 1, &[0; 16_000])).unwrap();
    }
    assert!(pair.output().is_empty());
    pair.feed(&raw(kind::DATA, 0, 1, &[0; 16_000])).unwrap();
    let frames = pair.output();
    assert_eq!((frames[0].kind, frames[0].code()), (kind::RST_STREAM, ErrorCode::FLOW_CONTROL_ERROR));
    assert_eq!(pair.events().len(), 1, "the owner had its last word");
}

#[test]
fn a_shared_frame_waits_for_windows_like_any_other() {
    let mut pair = Pair::new();
    pair.feed(&headers(1, "/t.S/Stream", 0)).unwrap();
    let message = prefixed(&[9; 10_000]);
    let frame = frame::data(1, &message);
    for _ in 0..10 {
        pair.server.outbound().send_frame(1, &frame);
        // Each alone, so that it could go by reference.
        let frames = pair.output();
        assert!(frames.iter().all(|f| f.payload.len() <= 16_384));
    }
    let sent = 10 * message.len() - pair.server.outbound().queued(1);
    assert_eq!(sent, 65_535, "the window, and no byte more");
    pair.feed(&[window_update(0, 50_000), window_update(1, 50_000)].concat()).unwrap();
    let rest: Vec<u8> = pair.output_all().into_iter().flat_map(|f| f.payload).collect();
    let all = message.repeat(10);
    assert!(rest.ends_with(&all[65_535..]));
}
