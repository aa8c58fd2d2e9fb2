//! gRPC between our client half and our server half: messages, statuses, refusals in grpc-go's words, plain requests.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use base::Random;
use common::*;
use mainstay_net::client::{Answers, ClientConnection};
use mainstay_net::frame::{flag, kind};
use mainstay_net::{ErrorCode, Limits};

#[derive(Default)]
struct Log {
    messages: BTreeMap<u32, Vec<Vec<u8>>>,
    ends: BTreeMap<u32, Result<(u8, String), ErrorCode>>,
    goaways: Vec<(u32, ErrorCode, Vec<u8>)>,
}

impl Answers for Log {
    fn message(&mut self, stream: u32, message: &[u8]) {
        self.messages.entry(stream).or_default().push(message.to_vec());
    }
    fn finished(&mut self, stream: u32, code: u8, message: &str) {
        assert!(self.ends.insert(stream, Ok((code, message.into()))).is_none());
    }
    fn reset(&mut self, stream: u32, code: ErrorCode) {
        assert!(self.ends.insert(stream, Err(code)).is_none());
    }
    fn goaway(&mut self, last: u32, code: ErrorCode, debug: &[u8]) {
        self.goaways.push((last, code, debug.to_vec()));
    }
}

struct World {
    client: ClientConnection,
    pair: Pair,
    log: Log,
}

impl World {
    fn new(limits: Limits) -> World {
        World { client: ClientConnection::new(), pair: Pair::raw(limits), log: Log::default() }
    }

    /// Moves bytes both ways until nothing moves.
    fn settle(&mut self) {
        loop {
            let length = self.client.output().len();
            let up = self.client.output().contiguous().unwrap().to_vec();
            self.client.output().consumed(length);
            if !up.is_empty() {
                let _ = self.pair.feed(&up);
            }
            let down = self.pair.take();
            self.pair.server.outbound().drain_writable(&mut Vec::new());
            self.client.receive(&down, &mut self.log).unwrap();
            if up.is_empty() && down.is_empty() {
                return;
            }
        }
    }

    fn status(&self, stream: u32) -> (u8, &str) {
        match &self.log.ends[&stream] {
            Ok((code, text)) => (*code, text),
            Err(code) => panic!("stream {stream} was reset: {code}"),
        }
    }
}

#[test]
fn unary_calls_of_every_size_come_back() {
    let mut world = World::new(Limits::default());
    let mut random = Random::new(1);
    let sizes = [0, 1, 100, 16_379, 16_380, 16_384, 65_530, 65_531, 65_535, 70_000, 1 << 20, (2 << 20) - 5];
    let mut sent = BTreeMap::new();
    for size in sizes {
        let mut message = vec![0; size];
        random.fill(&mut message);
        let stream = world.client.start("/t.S/Echo", &message, true);
        sent.insert(stream, vec![message]);
    }
    world.settle();
    assert_eq!(world.log.messages, sent);
    assert!(sent.keys().all(|&stream| world.status(stream) == (0, "")));
    assert_eq!((world.client.open_streams(), world.pair.server.open_streams()), (0, 0));
}

#[test]
fn a_stream_mirrors_many_messages_in_order() {
    let mut world = World::new(Limits::default());
    let stream = world.client.start("/t.S/Stream", b"first", false);
    let mut expected = vec![b"first".to_vec()];
    for i in 0..500u32 {
        let message = vec![i as u8; (i * 37 % 3000) as usize];
        world.client.send(stream, &message, false);
        expected.push(message);
        if i % 50 == 0 {
            world.settle();
        }
    }
    world.client.half_close(stream);
    world.settle();
    assert_eq!(world.log.messages[&stream], expected);
    assert_eq!(world.status(stream), (0, ""));
}

#[test]
fn metadata_arrives_however_often_it_repeats() {
    let mut world = World::new(Limits::default());
    let metadata =
        [("hasleader", "true"), ("token", "abc.def"), ("client-api-version", "3.7"), ("grpc-timeout", "9S")];
    for _ in 0..3 {
        world.client.start_with("/t.S/Hold", &metadata, None, true);
    }
    world.settle();
    let events = world.pair.events();
    let calls: Vec<_> = events.iter().filter(|e| e.starts_with("call")).collect();
    assert_eq!(calls.len(), 3);
    assert_eq!(calls[2], "call 5 /t.S/Hold Some(9000) true Some(\"abc.def\") Some(\"3.7\")");
}

#[test]
fn unknown_methods_and_services_have_grpc_go_s_words() {
    let mut world = World::new(Limits::default());
    let cases = [
        ("/t.S/Nope", "unknown method Nope for service t.S"),
        ("/no.Such/M", "unknown service no.Such"),
        ("/justone", "malformed method name: \"/justone\""),
        ("nolead/x", "malformed method name: \"nolead/x\""),
    ];
    let streams: Vec<u32> = cases.iter().map(|(path, _)| world.client.start(path, b"", true)).collect();
    world.settle();
    for (stream, (_, text)) in streams.into_iter().zip(cases) {
        assert_eq!(world.status(stream), (12, text));
    }
    assert!(world.pair.events().is_empty());
}

#[test]
fn refusals_of_encoding_timeout_and_size() {
    let mut world = World::new(Limits { max_message_bytes: 1000, ..Limits::default() });
    let gzip = world.client.start_with("/t.S/Echo", &[("grpc-encoding", "snappy")], Some(b"x"), true);
    let identity = world.client.start_with("/t.S/Echo", &[("grpc-encoding", "identity")], Some(b"x"), true);
    let late = world.client.start_with("/t.S/Echo", &[("grpc-timeout", "0m")], Some(b"x"), true);
    let bad = world.client.start_with("/t.S/Echo", &[("grpc-timeout", "5")], Some(b"x"), true);
    let large = world.client.start("/t.S/Echo", &[0; 1001], true);
    let fits = world.client.start("/t.S/Echo", &[0; 1000], true);
    let cut = world.client.start("/t.S/Stream", &[1; 10], false);
    world.client.send(cut, &[0; 5000], false);
    world.settle();
    assert_eq!(world.status(gzip), (12, "grpc: Decompressor is not installed for grpc-encoding \"snappy\""));
    assert_eq!(world.status(identity), (0, ""));
    assert_eq!(world.status(late), (4, "context deadline exceeded"));
    let text = "malformed grpc-timeout: transport: timeout string is too short: \"5\"";
    assert_eq!(world.status(bad), (13, text));
    assert_eq!(world.status(large), (8, "grpc: received message larger than max (1001 vs. 1000)"));
    assert_eq!(world.status(fits), (0, ""));
    assert_eq!(world.status(cut), (8, "grpc: received message larger than max (5000 vs. 1000)"));
    assert_eq!(world.log.messages[&cut], [vec![1; 10]]);
    assert!(world.pair.events().contains(&format!("cancelled {cut}")));
}

#[test]
fn messages_may_share_a_frame_or_span_many() {
    let mut pair = Pair::new();
    pair.feed(&headers(1, "/t.S/Hold", 0)).unwrap();
    let mut bytes = Vec::new();
    for size in [3, 0, 700, 1, 20_000] {
        bytes.extend(prefixed(&vec![size as u8; size]));
    }
    pair.feed(&raw(kind::DATA, 0, 1, &bytes[..720])).unwrap();
    assert_eq!(pair.events()[1..], ["message 1 3", "message 1 0", "message 1 700"]);
    for piece in bytes[720..].chunks(7) {
        pair.feed(&raw(kind::DATA, 0, 1, piece)).unwrap();
    }
    assert_eq!(pair.events(), ["message 1 1", "message 1 20000"]);
    pair.feed(&raw(kind::DATA, flag::END_STREAM, 1, &[])).unwrap();
    assert_eq!(pair.events(), ["half_close 1"]);
}

#[test]
fn a_request_that_is_not_grpc_is_refused_when_it_ends() {
    let fields = || {
        let fields: Vec<(&str, &str)> =
            call_fields("/x").into_iter().filter(|(name, _)| *name != "content-type").collect();
        [&fields[..], &[("content-length", "40000")]].concat()
    };
    let refused = |frames: &[Frame]| {
        let head = frames.iter().find(|f| f.kind == kind::HEADERS).expect("an answer");
        assert!(head.ends_stream());
        String::from_utf8_lossy(&head.payload).contains("invalid gRPC request content-type")
    };
    let mut pair = Pair::new();
    pair.feed(&raw(kind::HEADERS, flag::END_HEADERS, 1, &block(&fields()))).unwrap();
    pair.feed(&raw(kind::DATA, 0, 1, &[0; 16_000])).unwrap();
    pair.feed(&raw(kind::DATA, 0, 1, &[0; 16_000])).unwrap();
    assert!(pair.output().iter().all(|f| f.stream == 0), "nothing is said before it ends");
    pair.feed(&raw(kind::DATA, flag::END_STREAM, 1, &[0; 8000])).unwrap();
    assert!(refused(&pair.output()));
    assert_eq!(pair.server.open_streams(), 0);

    pair.feed(&raw(kind::HEADERS, flag::END_HEADERS, 3, &block(&fields()))).unwrap();
    pair.feed(&raw(kind::DATA, flag::END_STREAM, 3, &[0; 8000])).unwrap();
    let reset = pair.output().pop().unwrap();
    assert_eq!(
        (reset.kind, reset.code()),
        (kind::RST_STREAM, ErrorCode::PROTOCOL_ERROR),
        "it is judged first"
    );

    // As large as it likes.
    let fields: Vec<(&str, &str)> =
        fields().into_iter().filter(|(name, _)| *name != "content-length").collect();
    pair.feed(&raw(kind::HEADERS, flag::END_HEADERS, 5, &block(&fields))).unwrap();
    for _ in 0..400 {
        pair.feed(&raw(kind::DATA, 0, 5, &[0; 16_000])).unwrap();
    }
    pair.output();
    pair.feed(&raw(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 5, &block(&[("trailer", "x")])))
        .unwrap();
    assert!(refused(&pair.output()));
    assert!(pair.events().is_empty(), "the owner took none of them");
}

#[test]
fn the_owner_hears_where_a_client_ended() {
    for cut in 0..=8 {
        let mut pair = Pair::new();
        pair.feed(&headers(1, "/t.S/Hold", 0)).unwrap();
        let bytes = [prefixed(b"whole"), prefixed(b"abc")[..cut].to_vec()].concat();
        let (first, second) = bytes.split_at(12.min(bytes.len()));
        pair.feed(&raw(kind::DATA, 0, 1, first)).unwrap();
        pair.feed(&raw(kind::DATA, flag::END_STREAM, 1, second)).unwrap();
        let expected: &[&str] = match cut {
            0 => &["message 1 5", "half_close 1"],
            1..5 => &["message 1 5", "half_close 1 InPrefix"],
            5..8 => &["message 1 5", "half_close 1 InMessage"],
            _ => &["message 1 5", "message 1 3", "half_close 1"],
        };
        assert_eq!(pair.events()[1..], *expected, "cut at {cut}");
        assert!(pair.output().is_empty(), "the answer is the owner's");
    }
}

#[test]
fn flags_that_lie() {
    let text = |bytes: &[u8], flags: u8| {
        let mut pair = Pair::new();
        pair.feed(&headers(1, "/t.S/Hold", 0)).unwrap();
        pair.feed(&raw(kind::DATA, flags, 1, bytes)).unwrap();
        assert_eq!(pair.events().last().unwrap(), "cancelled 1");
        let frames = pair.output();
        assert!(frames[0].ends_stream());
        assert_eq!(frames.len() == 2, flags == 0, "a client that hasn't ended is told to stop");
        String::from_utf8_lossy(&frames[0].payload).into_owned()
    };
    let compressed = "grpc: compressed flag set with identity or empty encoding";
    assert!(text(&[1, 0, 0, 0, 1, 0], 0).ends_with(compressed));
    assert!(text(&[9, 0, 0, 0, 1], flag::END_STREAM).ends_with("grpc: received unexpected payload format 9"));
}

#[test]
fn status_texts_survive_with_everything_in_them() {
    let mut world = World::new(Limits::default());
    let texts =
        ["etcdserver: mvcc: required revision has been compacted", "100 %\n\u{e9}\u{1f600}", "", "a%20b"];
    for (i, text) in texts.iter().enumerate() {
        let stream = world.client.start("/t.S/Hold", b"", true);
        world.settle();
        world.pair.server.outbound().fail(stream, 3 + i as u8, text);
        world.settle();
        assert_eq!(world.status(stream), (3 + i as u8, *text));
    }
    let stream = world.client.start("/t.S/Stream", b"one", false);
    world.settle();
    world.pair.server.outbound().finish(stream, 14, "etcdserver: no leader");
    world.settle();
    assert_eq!(world.status(stream), (14, "etcdserver: no leader"));
    assert_eq!(world.log.messages[&stream], [b"one"]);
}

#[test]
fn requests_that_are_not_grpc() {
    let fields = [(":method", "GET"), (":scheme", "http"), (":path", "/health?x=1"), ("accept", "*/*")];
    let get = raw(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 1, &block(&fields));
    let mut pair = Pair::new();
    pair.feed(&get).unwrap();
    let frames = pair.output();
    assert_eq!(frames.len(), 1);
    let text = String::from_utf8_lossy(&frames[0].payload).into_owned();
    assert!(text.contains("415") && text.ends_with("invalid gRPC request content-type \"\""), "{text}");

    let mut pair = Pair::new();
    pair.calls.takes_plain = true;
    pair.feed(&get).unwrap();
    assert_eq!(pair.events(), ["plain 1 GET /health?x=1", "half_close 1"]);
    let frames = pair.output();
    assert_eq!(frames.iter().map(|f| f.kind).collect::<Vec<_>>(), [kind::HEADERS, kind::DATA, kind::DATA]);
    assert_eq!(frames[1].payload, b"plain answer");
    assert!(frames[2].ends_stream());

    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/v3/kv/put"),
        ("content-type", "application/json"),
    ];
    pair.feed(&raw(kind::HEADERS, flag::END_HEADERS, 3, &block(&fields))).unwrap();
    pair.feed(&raw(kind::DATA, 0, 3, b"{\"key\":")).unwrap();
    pair.feed(&raw(kind::DATA, flag::END_STREAM, 3, b"\"Zm9v\"}")).unwrap();
    let body: Vec<u8> = pair.calls.messages.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
    assert_eq!(body, b"{\"key\":\"Zm9v\"}");
    assert_eq!(pair.events(), ["plain 3 POST /v3/kv/put", "half_close 3"]);
}

#[test]
fn a_method_other_than_post_is_refused() {
    let mut fields = call_fields("/t.S/Echo");
    fields[0].1 = "GET";
    let mut pair = Pair::new();
    pair.feed(&raw(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 1, &block(&fields))).unwrap();
    let text = String::from_utf8_lossy(&pair.output()[0].payload).into_owned();
    assert!(text.contains("405") && text.ends_with("with :method \"GET\" which should be POST"), "{text}");
}

#[test]
fn the_limit_of_streams_refuses_and_frees() {
    let mut world = World::new(Limits { max_concurrent_streams: 2, ..Limits::default() });
    let streams: Vec<u32> = (0..3).map(|_| world.client.start("/t.S/Hold", b"", true)).collect();
    world.settle();
    assert_eq!(world.log.ends[&streams[2]], Err(ErrorCode::REFUSED_STREAM));
    world.pair.server.outbound().unary(streams[0], |out| out.push(9));
    world.settle();
    let again = world.client.start("/t.S/Echo", b"again", true);
    world.settle();
    assert_eq!(world.status(again), (0, ""));
}

#[test]
fn shared_messages_reach_many_streams() {
    let mut world = World::new(Limits::default());
    let streams: Vec<u32> = (0..10).map(|_| world.client.start("/t.S/Stream", b"", false)).collect();
    world.settle();
    let large: Arc<[u8]> = (0..40_000u32).map(|i| i as u8).collect();
    let small: Arc<[u8]> = Arc::from(&b"small"[..]);
    for _ in 0..5 {
        for &stream in &streams {
            world.pair.server.outbound().send_parts(stream, &[], &large, 0..large.len());
            world.pair.server.outbound().send_parts(stream, &[], &small, 0..small.len());
        }
        world.settle();
    }
    for stream in &streams {
        let got = &world.log.messages[stream];
        assert_eq!(got.len(), 11);
        assert!(got[1..].chunks(2).all(|pair| *pair[0] == *large && *pair[1] == *small));
    }
    assert_eq!(Arc::strong_count(&large), 1, "nothing sent is kept");
}

#[test]
fn messages_of_a_head_and_a_shared_part_are_one_message() {
    let mut world = World::new(Limits::default());
    let stream = world.client.start("/t.S/Stream", b"", false);
    world.settle();
    let shared: Arc<[u8]> = (0..30_000u32).map(|i| i as u8).collect();
    let mut expected = vec![Vec::new()];
    for head in [0, 1, 30, 200, 5000] {
        for part in [0..0, 5..9, 0..999, 100..20_000, 0..30_000] {
            let head = vec![0xee; head];
            world.pair.server.outbound().send_parts(stream, &head, &shared, part.clone());
            expected.push([&head, &shared[part]].concat());
            world.settle();
        }
    }
    assert!(world.log.messages[&stream] == expected);
}

#[test]
fn framed_messages_share_frames_and_stay_messages() {
    let mut world = World::new(Limits::default());
    let stream = world.client.start("/t.S/Stream", b"", false);
    world.settle();
    let mut expected = vec![Vec::new()];
    for sizes in [&[1, 0, 3][..], &[20_000], &[5, 70_000, 2], &[100; 300]] {
        let mut framed = Vec::new();
        for &size in sizes {
            framed.extend_from_slice(&mainstay_net::grpc::prefix(size));
            framed.extend_from_slice(&vec![size as u8; size]);
            expected.push(vec![size as u8; size]);
        }
        world.pair.server.outbound().send_framed(stream, &framed);
        world.pair.server.outbound().send(stream, b"behind it");
        expected.push(b"behind it".to_vec());
        world.settle();
    }
    assert!(world.log.messages[&stream] == expected);
}

#[test]
fn a_frame_goes_to_many_connections_and_is_cut_where_windows_end() {
    let mut messages = Vec::new();
    for size in [7, 900, 5000] {
        messages.extend_from_slice(&mainstay_net::grpc::prefix(size));
        messages.extend_from_slice(&vec![size as u8; size]);
    }
    let frame = mainstay_net::frame::data(1, &messages);
    for _ in 0..3 {
        let mut world = World::new(Limits::default());
        let stream = world.client.start("/t.S/Stream", b"", false);
        assert_eq!(stream, 1);
        world.settle();
        let mut expected = vec![Vec::new()];
        for round in 0..40 {
            // More than the window of a stream, before the client gives any back.
            for _ in 0..round % 20 {
                world.pair.server.outbound().send_frame(stream, &frame);
                expected.extend([7, 900, 5000].map(|size| vec![size as u8; size]));
            }
            world.settle();
        }
        assert!(world.log.messages[&stream] == expected);
    }
    assert_eq!(Arc::strong_count(&frame), 1, "nothing sent is kept");
}

#[test]
#[should_panic(expected = "the stream that it is made for")]
fn a_frame_of_another_stream_is_a_bug() {
    let mut world = World::new(Limits::default());
    let stream = world.client.start("/t.S/Stream", b"", false);
    world.settle();
    let frame = mainstay_net::frame::data(stream + 2, b"\0\0\0\0\0");
    world.pair.server.outbound().send_frame(stream, &frame);
}

#[test]
fn a_drained_server_finishes_and_says_so() {
    let mut world = World::new(Limits::default());
    let held = world.client.start("/t.S/Hold", b"", true);
    world.settle();
    world.pair.server.drain(1000);
    world.settle();
    assert!(world.client.is_going_away());
    assert_eq!(world.log.goaways.iter().map(|g| g.0).collect::<Vec<_>>(), [0x7fff_ffff, held]);
    assert!(!world.pair.server.is_drained());
    world.pair.server.outbound().unary(held, |out| out.push(1));
    world.settle();
    assert_eq!(world.status(held), (0, ""));
    assert!(world.pair.server.is_drained());
}
