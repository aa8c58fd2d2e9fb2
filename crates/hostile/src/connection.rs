//! A whole HTTP/2 connection, server side: preface, frames, HPACK, flow control, gRPC messages (`net`).
//!
//! Laws: the result does not depend on how the bytes are split; every call's life is in order, and each call that was
//! begun was answered or ended; what goes out is valid HTTP/2, in step with the client's table and within its windows;
//! after the end nothing is called back; memory is bounded by the input.
//!
//! Input: two bytes that choose splits, one of flags, then the client's bytes.

use std::collections::HashMap;
use std::sync::Arc;

use base::Random;
use net::frame::{self, flag, kind};
use net::{CallHead, Calls, Closed, Connection, End, Limits, Outbound, PlainHead};

use crate::choices::Choices;
use crate::meter::bounded;
use crate::wire::{self, Allowance, push_frame};

/// Where a call stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    HalfClosed,
    /// Answered by us, or ended without us.
    Over,
}

#[derive(Default)]
struct Service {
    events: Vec<String>,
    phases: HashMap<u32, Phase>,
    last: u32,
    /// Bytes of a long answer that are not passed yet.
    long: HashMap<u32, usize>,
    takes_plain: bool,
    pauses: bool,
    messages: usize,
}

/// What a call does, by its method.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    Echo,
    Hold,
    Stream,
    Long,
    Parts,
}

fn manner(method: u16) -> Manner {
    [Manner::Echo, Manner::Hold, Manner::Stream, Manner::Long, Manner::Parts][usize::from(method) % 5]
}

impl Service {
    fn phase(&self, stream: u32) -> Phase {
        *self.phases.get(&stream).expect("a call begins with its head")
    }

    fn over(&mut self, stream: u32) {
        self.phases.insert(stream, Phase::Over);
    }

    /// Passes as much of a long answer as may go.
    fn go_on(&mut self, out: &mut Outbound, stream: u32) {
        let Some(left) = self.long.get(&stream).copied() else { return };
        let now = out.sendable(stream).min(left);
        if now > 0 {
            out.direct(stream, [&vec![b'L'; now][..]], &mut |_| 0);
        }
        if now == left {
            self.long.remove(&stream);
            out.finish(stream, 0, "");
            self.over(stream);
        } else {
            self.long.insert(stream, left - now);
        }
    }
}

impl Calls for Service {
    fn call(&mut self, out: &mut Outbound, stream: u32, head: &CallHead<'_>) {
        assert!(stream % 2 == 1 && stream > self.last, "streams count upwards");
        self.last = stream;
        self.phases.insert(stream, Phase::Open);
        self.events.push(format!("call {stream} {head:?}"));
        assert!(out.is_open(stream) && out.method(stream) == Some(head.method));
        assert_eq!(out.word(stream), 0, "a new call has no word yet");
        out.set_word(stream, u64::from(stream) + 7);
        if manner(head.method) == Manner::Stream {
            out.open(stream);
        }
    }

    fn message(&mut self, out: &mut Outbound, stream: u32, message: &[u8]) {
        assert_eq!(self.phase(stream), Phase::Open, "messages come while a call is open");
        assert_eq!(out.word(stream), u64::from(stream) + 7);
        self.events.push(format!("message {stream} {message:?}"));
        self.messages += 1;
        match manner(out.method(stream).expect("a call has a method")) {
            Manner::Echo => {
                out.unary(stream, |buffer| buffer.extend_from_slice(message));
                self.over(stream);
            }
            Manner::Hold if self.pauses && self.messages % 3 == 1 => out.pause(stream),
            Manner::Hold => {}
            Manner::Stream => out.send(stream, message),
            Manner::Long if self.long.contains_key(&stream) => {}
            Manner::Long => {
                out.open_sized(stream, message.len() * 37 + 1);
                self.long.insert(stream, message.len() * 37 + 1);
                self.go_on(out, stream);
            }
            Manner::Parts => {
                let shared: Arc<[u8]> = vec![b'S'; 1500].into();
                out.send_parts(stream, message, &shared, message.len().min(1000)..1500);
            }
        }
    }

    fn half_close(&mut self, out: &mut Outbound, stream: u32, end: End) {
        assert_eq!(self.phase(stream), Phase::Open, "a client ends its side once");
        assert!(out.is_half_closed(stream));
        self.events.push(format!("half_close {stream} {end:?}"));
        self.phases.insert(stream, Phase::HalfClosed);
        if self.long.contains_key(&stream) {
            return;
        }
        match out.method(stream).map(manner) {
            None => out.respond(stream, 200, "text/plain", b"a plain answer"),
            Some(Manner::Hold) => out.fail(stream, 5, "h\u{e9}ld, 100%\n"),
            Some(_) => out.finish(stream, 0, ""),
        }
        self.over(stream);
    }

    fn cancelled(&mut self, out: &mut Outbound, stream: u32) {
        assert_ne!(self.phase(stream), Phase::Over, "who was answered is not cancelled");
        assert!(!out.is_open(stream));
        assert!(out.method(stream).is_none() || out.word(stream) == u64::from(stream) + 7);
        self.events.push(format!("cancelled {stream}"));
        self.long.remove(&stream);
        self.over(stream);
    }

    fn plain(&mut self, _: &mut Outbound, stream: u32, head: &PlainHead<'_>) -> bool {
        assert!(stream % 2 == 1 && stream > self.last, "streams count upwards");
        self.last = stream;
        self.events.push(format!("plain {stream} {head:?}"));
        if self.takes_plain {
            self.phases.insert(stream, Phase::Open);
        }
        self.takes_plain
    }

    fn plain_body(&mut self, _: &mut Outbound, stream: u32, bytes: &[u8]) {
        assert_eq!(self.phase(stream), Phase::Open, "a body comes while a request is open");
        // Bodies come as they arrive: only their sum does not depend on the split.
        self.events.push(format!("plain_body {stream}"));
        self.messages += bytes.len();
    }
}

/// How one run ended; equal for every split.
#[derive(Debug, PartialEq)]
struct Outcome {
    events: Vec<String>,
    output: Vec<u8>,
    closed: Option<Closed>,
}

fn limits(flags: u8) -> Limits {
    let mut limits = Limits { ping_min_time_ms: 5, ..Limits::default() };
    if flags & 1 != 0 {
        limits.max_message_bytes = 300;
        limits.max_concurrent_streams = 3;
        limits.header_list_bytes = 400;
    }
    if flags & 2 != 0 {
        limits.output_bytes = 2000;
        limits.stream_window_bytes = net::settings::DEFAULT_WINDOW;
        limits.connection_window_bytes = net::settings::DEFAULT_WINDOW;
        limits.control_frames_per_second = 10;
        limits.resets_per_second = 4;
    }
    limits
}

const START_MS: u64 = 1000;

fn run(bytes: &[u8], flags: u8, mut piece: impl FnMut() -> usize) -> Outcome {
    let mut server = Connection::new(Arc::new(limits(flags)), api::methods(), START_MS);
    let mut service = Service { takes_plain: flags & 4 != 0, pauses: flags & 8 != 0, ..Service::default() };
    let mut rest = bytes;
    let mut closed = None;
    while !rest.is_empty() && closed.is_none() {
        let (now, later) = rest.split_at(piece().clamp(1, rest.len()));
        closed = server.receive(now, START_MS, &mut service).err();
        rest = later;
    }
    if let Some(closed) = closed {
        let before = service.events.len();
        assert_eq!(server.receive(b"more", START_MS, &mut service), Err(closed), "it stays closed");
        assert_eq!(server.tick(START_MS + 1, &mut service), Err(closed));
        assert_eq!(service.events.len(), before, "nothing is called back after the end");
    }
    let mut output = Vec::new();
    let mut writable = Vec::new();
    loop {
        let more = wire::drain(server.output());
        server.outbound().drain_writable(&mut writable);
        if more.is_empty() && writable.is_empty() {
            break;
        }
        output.extend(more);
        for stream in writable.drain(..) {
            service.go_on(server.outbound(), stream);
        }
    }
    let bodies = service.messages;
    let mut events = service.events.clone();
    events.dedup_by(|a, b| a == b && a.starts_with("plain_body"));
    events.push(format!("bytes or messages: {bodies}"));
    let outcome = Outcome { events, output: output.clone(), closed };
    end(server, service, output, bytes, flags);
    outcome
}

/// What comes after, whatever came before: held streams go on, deadlines pass, the socket ends.
fn end(mut server: Connection, mut service: Service, mut output: Vec<u8>, bytes: &[u8], flags: u8) {
    let streams: Vec<u32> = service.phases.keys().copied().collect();
    if flags & 16 != 0 {
        server.drain(START_MS);
    }
    streams.iter().for_each(|&stream| server.outbound().listen(stream));
    server.resume(&mut service);
    let mut now = START_MS;
    for _ in 0..8 {
        now = now.max(server.next_tick().min(now + 100_000_000));
        if server.tick(now, &mut service).is_err() {
            break;
        }
    }
    output.extend(wire::drain(server.output()));
    server.disconnected(&mut service);
    assert!(
        service.phases.values().all(|phase| *phase == Phase::Over),
        "every call ends: {:?}",
        service.phases
    );
    assert_eq!(server.open_streams(), 0, "nothing is left of a connection");
    output.extend(wire::drain(server.output()));
    let answers = wire::read_server(&output);
    Allowance::of(bytes).check(&answers);
}

pub fn check(input: &[u8]) {
    let mut choices = Choices::new(input);
    let seed = choices.number(2);
    let flags = choices.byte();
    let mut bytes = if flags & 32 != 0 { Vec::new() } else { wire::preface() };
    bytes.extend_from_slice(choices.rest());
    // A call of a few bytes is remembered in some hundred; an answer of ours is forty times its message.
    bounded((1 << 20) + 512 * bytes.len(), || {
        let whole = run(&bytes, flags, || usize::MAX);
        let mut random = Random::new(seed);
        let most = [3, 30, 300][seed as usize % 3];
        let split = run(&bytes, flags, || 1 + random.below(most) as usize);
        assert_eq!(split, whole, "the split does not matter");
        if bytes.len() < 600 {
            assert_eq!(run(&bytes, flags, || 1), whole, "nor do single bytes");
        }
    });
}

/// A message with its prefix.
fn prefixed(message: &[u8]) -> Vec<u8> {
    [&net::grpc::prefix(message.len())[..], message].concat()
}

pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let with = |flags: u8, bytes: &[u8]| [&[7, 0, flags][..], bytes].concat();
    let mut seeds = Vec::new();
    // Our own client's calls, in a table that fills.
    let mut client = net::client::ClientConnection::new();
    let paths = api::calls::TABLE.map(|(_, path, _)| path);
    for path in &paths[..5] {
        let stream = client.start(path, b"the message", false);
        client.send(stream, b"another", true);
    }
    let stream = client.start(paths[2], b"to be cancelled", false);
    client.cancel(stream);
    seeds.push(("seed-calls".into(), with(32, &wire::drain(client.output()))));

    let mut bytes = Vec::new();
    let block = wire::call_block(paths[0], &[("grpc-timeout", "5S"), ("token", "t"), ("hasleader", "true")]);
    let (first, second) = block.split_at(20);
    push_frame(&mut bytes, kind::HEADERS, 0, 1, first);
    push_frame(&mut bytes, kind::CONTINUATION, flag::END_HEADERS, 1, second);
    let data = prefixed(b"in two frames, the first one padded");
    push_frame(&mut bytes, kind::DATA, flag::PADDED, 1, &[&[2], &data[..10], &[0, 0]].concat());
    push_frame(&mut bytes, kind::DATA, flag::END_STREAM, 1, &data[10..]);
    frame::put_ping(&mut bytes, false, [1; 8]);
    push_frame(&mut bytes, kind::PRIORITY, 0, 3, &[0, 0, 0, 0, 9]);
    push_frame(&mut bytes, 0x42, 0, 0, b"unknown");
    seeds.push(("seed-frames".into(), with(0, &bytes)));

    let mut bytes = Vec::new();
    frame::put_settings(&mut bytes, &[(4, 10), (5, 20_000), (1, 0), (3, 7)]);
    push_frame(&mut bytes, kind::HEADERS, flag::END_HEADERS, 1, &wire::call_block(paths[3], &[]));
    push_frame(&mut bytes, kind::DATA, flag::END_STREAM, 1, &prefixed(b"a long answer"));
    push_frame(&mut bytes, kind::HEADERS, flag::END_HEADERS, 3, &wire::call_block(paths[2], &[]));
    push_frame(&mut bytes, kind::DATA, 0, 3, &prefixed(b"waits for its window"));
    frame::put_window_update(&mut bytes, 1, 100);
    frame::put_settings(&mut bytes, &[(4, 60_000), (1, 4096)]);
    frame::put_window_update(&mut bytes, 0, 1 << 16);
    push_frame(&mut bytes, kind::DATA, flag::END_STREAM, 3, &prefixed(b"goes on"));
    seeds.push(("seed-windows".into(), with(2, &bytes)));

    let mut bytes = Vec::new();
    let mut block = Vec::new();
    for (name, value) in [(":method", "GET"), (":scheme", "http"), (":path", "/health?x=1"), ("host", "a")] {
        net::hpack::encoder::field(&mut block, name.as_bytes(), value.as_bytes());
    }
    push_frame(&mut bytes, kind::HEADERS, flag::END_HEADERS, 1, &block);
    push_frame(&mut bytes, kind::DATA, flag::END_STREAM, 1, b"a body");
    push_frame(&mut bytes, kind::HEADERS, flag::END_HEADERS, 3, &wire::call_block(paths[1], &[]));
    push_frame(&mut bytes, kind::DATA, 0, 3, &[prefixed(b"one"), prefixed(b"two")].concat());
    frame::put_reset(&mut bytes, 3, net::ErrorCode::CANCEL);
    frame::put_goaway(&mut bytes, 0, net::ErrorCode::NO_ERROR, b"bye");
    seeds.push(("seed-plain-and-resets".into(), with(4 | 8 | 16, &bytes)));

    let mut bytes = Vec::new();
    for (stream, more) in [
        (1, [("grpc-encoding", "snappy"), ("te", "trailers")]),
        (3, [("grpc-timeout", "1x"), ("te", "trailers")]),
        (5, [("x-bin", "!!"), ("te", "trailers")]),
        (7, [("host", "a"), ("host", "b")]),
        (9, [("content-length", "3"), ("connection", "close")]),
    ] {
        push_frame(&mut bytes, kind::HEADERS, flag::END_HEADERS, stream, &wire::call_block(paths[0], &more));
    }
    push_frame(&mut bytes, kind::HEADERS, flag::END_HEADERS, 11, &wire::call_block("/no.Such/Method", &[]));
    seeds.push(("seed-refusals".into(), with(1, &bytes)));
    seeds
}
