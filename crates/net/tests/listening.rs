//! What the owner does not want to hear now, or ever: pauses, deafness, and compressed messages.

mod common;

use std::io::Write;

use common::{Pair, headers, prefixed, raw};
use mainstay_net::frame::{self, flag, kind};
use mainstay_net::{ErrorCode, Limits};

fn data(stream: u32, flags: u8, bytes: &[u8]) -> Vec<u8> {
    raw(kind::DATA, flags, stream, bytes)
}

fn held_pair() -> Pair {
    let mut pair = Pair::new();
    pair.feed(&headers(1, "/t.S/Hold", 0)).unwrap();
    pair.events();
    pair
}

/// Increments that the server gave for a stream.
fn given(pair: &mut Pair, stream: u32) -> u32 {
    let updates = pair.output().into_iter().filter(|f| f.kind == kind::WINDOW_UPDATE && f.stream == stream);
    updates.map(|f| frame::be32(&f.payload)).sum()
}

#[test]
fn a_paused_stream_keeps_what_comes_and_its_window_shut() {
    let window = Limits::default().stream_window_bytes as usize;
    let mut pair = held_pair();
    pair.feed(&data(1, 0, &prefixed(b"one"))).unwrap();
    pair.server.outbound().pause(1);
    let mut sent = 8;
    let message = prefixed(&[7; 4091]);
    while sent + message.len() <= window {
        pair.feed(&data(1, 0, &message)).unwrap();
        sent += message.len();
    }
    assert_eq!(pair.events(), ["message 1 3"]);
    assert_eq!(given(&mut pair, 1), 0, "a client that is not listened to has to stop");
    pair.resume();
    assert!(pair.events().is_empty(), "it is paused still");
    pair.server.outbound().listen(1);
    assert!(pair.server.outbound().has_resumed());
    pair.resume();
    assert_eq!(pair.events().len(), (sent - 8) / 4096);
    assert!(given(&mut pair, 1) as usize > window / 2);
    pair.feed(&data(1, flag::END_STREAM, &prefixed(b"last"))).unwrap();
    assert_eq!(pair.events(), ["message 1 4", "half_close 1"]);
}

#[test]
fn a_pause_within_a_frame_holds_the_rest_of_it_and_the_end() {
    for listens in [1, 3] {
        let mut pair = held_pair();
        pair.calls.pause_after = Some(listens);
        let bytes: Vec<u8> = (0..7).flat_map(|i| prefixed(&vec![i; usize::from(i)])).collect();
        let (first, second) = bytes.split_at(13);
        pair.feed(&data(1, 0, first)).unwrap();
        pair.feed(&data(1, flag::END_STREAM, second)).unwrap();
        let mut events = pair.events();
        assert_eq!(events.len(), listens);
        for round in 0..10 {
            assert_eq!(pair.server.outbound().is_half_closed(1), round >= 6 / listens);
            pair.server.outbound().listen(1);
            pair.resume();
            events.extend(pair.events());
        }
        let expected: Vec<String> = (0..7).map(|i| format!("message 1 {i}")).collect();
        assert_eq!(events[..7], expected);
        assert_eq!(events[7..], ["half_close 1"]);
        assert!(pair.feed(&data(1, 0, b"more")).is_ok());
        assert_eq!(pair.output().last().unwrap().kind, kind::RST_STREAM, "nothing comes behind the end");
    }
}

#[test]
fn a_pause_holds_an_end_alone_and_pauses_may_come_often() {
    let mut pair = held_pair();
    let message = prefixed(&[1; 16_000]);
    // Far more in all than a connection may gather.
    for _ in 0..150 {
        pair.server.outbound().pause(1);
        for _ in 0..60 {
            pair.feed(&data(1, 0, &message)).unwrap();
        }
        assert!(pair.events().is_empty());
        pair.server.outbound().listen(1);
        pair.resume();
        assert_eq!(pair.events().len(), 60);
        pair.output();
    }
    pair.server.outbound().pause(1);
    pair.feed(&data(1, flag::END_STREAM, &[])).unwrap();
    assert!(pair.events().is_empty());
    pair.server.outbound().listen(1);
    pair.resume();
    assert_eq!(pair.events(), ["half_close 1"]);
}

#[test]
fn data_behind_an_end_that_waits_is_refused() {
    let mut pair = held_pair();
    pair.server.outbound().pause(1);
    pair.feed(&data(1, flag::END_STREAM, &prefixed(b"one"))).unwrap();
    pair.feed(&data(1, 0, &prefixed(b"two"))).unwrap();
    assert_eq!(pair.events(), ["cancelled 1"]);
    let reset = pair.output().pop().unwrap();
    assert_eq!((reset.kind, frame::be32(&reset.payload)), (kind::RST_STREAM, ErrorCode::STREAM_CLOSED.0));
}

#[test]
fn what_is_held_goes_with_its_stream() {
    let mut pair = held_pair();
    // Far more than a connection may gather, if it were still counted.
    for id in (3..403).step_by(2) {
        pair.feed(&headers(id, "/t.S/Hold", 0)).unwrap();
        pair.server.outbound().pause(id);
        for _ in 0..60 {
            pair.feed(&data(id, 0, &[0; 16 << 10])).unwrap();
        }
        pair.server.outbound().fail(id, 1, "enough");
        pair.output();
        pair.events();
    }
    pair.server.outbound().listen(1);
    pair.feed(&data(1, flag::END_STREAM, &prefixed(b"still here"))).unwrap();
    assert_eq!(pair.events(), ["message 1 10", "half_close 1"]);
}

#[test]
fn a_deaf_stream_hears_the_end_only() {
    let mut pair = held_pair();
    pair.feed(&data(1, 0, &prefixed(b"one"))).unwrap();
    pair.server.outbound().ignore_rest(1);
    pair.feed(&data(1, 0, &prefixed(b"two"))).unwrap();
    pair.feed(&data(1, flag::END_STREAM, b"\x09 no message at all")).unwrap();
    assert_eq!(pair.events(), ["message 1 3", "half_close 1"]);
    pair.server.outbound().unary(1, |out| out.push(1));
    assert!(pair.output().last().unwrap().ends_stream());
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn compressed(bytes: &[u8]) -> Vec<u8> {
    let mut message = prefixed(&gzip(bytes));
    message[0] = 1;
    message
}

#[test]
fn compressed_messages_come_out_plain_however_they_are_cut() {
    let messages = [b"first".to_vec(), Vec::new(), vec![b'x'; 100_000], b"plain".to_vec(), vec![1; 3000]];
    let mut bytes = Vec::new();
    for message in &messages {
        bytes.extend(if message == b"plain" { prefixed(message) } else { compressed(message) });
    }
    for piece in [1, 7, 100, bytes.len()] {
        let mut pair = Pair::new();
        pair.feed(&common::headers_with(1, "/t.S/Hold", 0, &[("grpc-encoding", "gzip")])).unwrap();
        for piece in bytes.chunks(piece) {
            pair.feed(&data(1, 0, piece)).unwrap();
        }
        let got: Vec<Vec<u8>> = pair.calls.messages.iter().map(|(_, message)| message.clone()).collect();
        assert!(got == messages, "pieces of {piece}");
    }
}

#[test]
fn compressed_messages_need_an_encoding_and_stay_below_the_limit() {
    let answer = |encoding: &str, message: &[u8]| {
        let mut pair = Pair::new();
        pair.feed(&common::headers_with(1, "/t.S/Hold", 0, &[("grpc-encoding", encoding)])).unwrap();
        for piece in message.chunks(16 << 10) {
            pair.feed(&data(1, 0, piece)).unwrap();
        }
        assert_eq!(pair.events().last().unwrap(), "cancelled 1");
        assert!(pair.calls.messages.is_empty());
        let frames = pair.output();
        let head = frames.iter().find(|f| f.kind == kind::HEADERS).expect("an answer");
        String::from_utf8_lossy(&head.payload).into_owned()
    };
    let lie = "grpc: compressed flag set with identity or empty encoding";
    assert!(answer("identity", &compressed(b"a")).ends_with(lie));
    let max = Limits::default().max_message_bytes;
    let text = format!("grpc: received message after decompression larger than max {max}");
    assert!(answer("gzip", &compressed(&vec![0; 20 << 20])).ends_with(&text));
    let mut broken = prefixed(b"this is not gzip");
    broken[0] = 1;
    assert!(
        answer("gzip", &broken).ends_with("grpc: failed to decompress the message: gzip: invalid header")
    );
}
