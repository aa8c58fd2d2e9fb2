//! RFC 9113's state machine: what a peer may not do, and the scope and code of the error that follows.

mod common;

use common::*;
use mainstay_net::frame::{flag, kind};
use mainstay_net::{ErrorCode, Limits};

/// The connection ends with this code, in the result and in the last GOAWAY.
fn ends(bytes: &[Vec<u8>], code: ErrorCode, what: &str) {
    let mut pair = Pair::new();
    let closed = pair.feed(&bytes.concat()).expect_err(what);
    assert_eq!(closed.code, code, "{what}");
    let frames = pair.output();
    let last = frames.last().expect(what);
    assert_eq!((last.kind, last.code()), (kind::GOAWAY, code), "{what}");
    assert_eq!(pair.feed(&window_update(0, 1)).unwrap_err(), closed, "{what}: after the end");
    assert!(pair.output().is_empty(), "{what}: nothing follows the end");
}

/// Stream 1 is reset with this code, and the connection still answers.
fn resets(bytes: &[Vec<u8>], code: ErrorCode, what: &str) {
    let mut pair = Pair::new();
    pair.feed(&bytes.concat()).expect(what);
    let resets: Vec<Frame> = pair.output().into_iter().filter(|f| f.kind == kind::RST_STREAM).collect();
    let found: Vec<_> = resets.iter().map(|f| (f.stream, f.code())).collect();
    assert_eq!(found, [(1, code)], "{what}");
    echoes(&mut pair, 101, what);
}

fn echoes(pair: &mut Pair, stream: u32, what: &str) {
    pair.feed(&headers(stream, "/t.S/Echo", 0)).expect(what);
    pair.feed(&raw(kind::DATA, flag::END_STREAM, stream, &prefixed(b"alive"))).expect(what);
    let frames = pair.output();
    assert!(frames.iter().any(|f| f.stream == stream && f.payload.ends_with(b"alive")), "{what}: {frames:?}");
    assert!(frames.last().is_some_and(|f| f.stream == stream && f.ends_stream()), "{what}");
}

fn end(stream: u32) -> Vec<u8> {
    raw(kind::DATA, flag::END_STREAM, stream, &[])
}

fn hold(stream: u32) -> Vec<u8> {
    headers(stream, "/t.S/Hold", 0)
}

#[test]
fn a_call_is_echoed_in_three_frames() {
    let mut pair = Pair::new();
    echoes(&mut pair, 1, "echo");
    assert_eq!(pair.events(), ["call 1 /t.S/Echo None false None None", "message 1 5"]);
    assert_eq!(pair.server.open_streams(), 0);
    pair.feed(&headers(3, "/t.S/Echo", 0)).unwrap();
    pair.feed(&raw(kind::DATA, flag::END_STREAM, 3, &prefixed(b"x"))).unwrap();
    let bytes = pair.take();
    // Indexed from the second answer on: 9+2, 9+5+1, 9+1 bytes.
    assert_eq!(bytes.len(), 11 + 15 + 10);
    assert_eq!(parse(&bytes).iter().map(|f| f.kind).collect::<Vec<_>>(), [1, 0, 1]);
}

#[test]
fn our_first_frame_is_settings_and_theirs_must_be() {
    let mut pair = Pair::raw(Limits::default());
    let first = pair.output();
    assert_eq!((first[0].kind, first[1].kind, first.len()), (kind::SETTINGS, kind::WINDOW_UPDATE, 2));
    let mut bytes = preface()[..24].to_vec();
    bytes.extend(raw(kind::PING, 0, 0, &[0; 8]));
    assert_eq!(pair.feed(&bytes).unwrap_err().code, ErrorCode::PROTOCOL_ERROR);

    let mut pair = Pair::raw(Limits { max_concurrent_streams: 9, ..Limits::default() });
    assert!(pair.output()[0].payload.ends_with(&[0, 3, 0, 0, 0, 9]));
    assert!(pair.feed(b"GET / HTTP/1.1\r\n").is_err());
}

#[test]
fn settings_are_acknowledged_and_pings_answered() {
    let mut pair = Pair::new();
    pair.feed(&settings(&[(4, 100), (0xabc, 5)])).unwrap();
    pair.feed(&raw(kind::PING, 0, 0, b"12345678")).unwrap();
    let frames = pair.output();
    assert_eq!((frames[0].kind, frames[0].flags, frames[0].payload.len()), (kind::SETTINGS, flag::ACK, 0));
    assert_eq!(
        (frames[1].kind, frames[1].flags, &frames[1].payload[..]),
        (kind::PING, flag::ACK, &b"12345678"[..])
    );
}

#[test]
fn connection_errors() {
    let protocol = ErrorCode::PROTOCOL_ERROR;
    let size = ErrorCode::FRAME_SIZE_ERROR;
    let flow = ErrorCode::FLOW_CONTROL_ERROR;
    let closed = ErrorCode::STREAM_CLOSED;
    let eh = flag::END_HEADERS;
    ends(&[raw(kind::DATA, 0, 0, b"x")], protocol, "DATA on the connection");
    ends(&[raw(kind::DATA, 0, 1, b"x")], protocol, "DATA on an idle stream");
    ends(&[hold(1), raw(kind::DATA, flag::PADDED, 1, &[5, 0, 0, 0, 0])], protocol, "padding too long");
    ends(&[hold(1), raw(kind::DATA, flag::PADDED, 1, &[])], protocol, "no pad length");
    ends(&[raw(kind::HEADERS, eh, 0, &call_block("/t.S/Hold"))], protocol, "HEADERS on the connection");
    ends(&[raw(kind::HEADERS, eh, 2, &call_block("/t.S/Hold"))], protocol, "HEADERS on an even stream");
    ends(&[raw(kind::HEADERS, eh | flag::PADDED, 1, &[9, 0])], protocol, "HEADERS padding too long");
    ends(&[raw(kind::HEADERS, eh | flag::PRIORITY, 1, &[0; 4])], size, "HEADERS shorter than its priority");
    ends(&[raw(kind::HEADERS, eh, 1, &[0x80])], ErrorCode::COMPRESSION_ERROR, "HPACK index 0");
    ends(&[raw(kind::HEADERS, 0, 1, &[]), hold(3)], protocol, "HEADERS within a header block");
    ends(
        &[raw(kind::HEADERS, 0, 1, &[]), raw(kind::CONTINUATION, eh, 3, &[])],
        protocol,
        "another CONTINUATION",
    );
    ends(&[raw(kind::HEADERS, 0, 1, &[]), raw(99, 0, 0, &[])], protocol, "an unknown frame within a block");
    ends(&[raw(kind::CONTINUATION, eh, 1, &[])], protocol, "CONTINUATION alone");
    ends(&[hold(1), raw(kind::CONTINUATION, eh, 1, &[])], protocol, "CONTINUATION after the block");
    ends(&[hold(5), reset(5), hold(3)], closed, "HEADERS on a lower id");
    ends(
        &[headers(1, "/t.S/Echo", flag::END_STREAM), reset(1), hold(1)],
        closed,
        "HEADERS on a closed stream",
    );
    ends(&[raw(kind::PRIORITY, 0, 0, &[0; 5])], protocol, "PRIORITY on the connection");
    ends(&[reset(0)], protocol, "RST_STREAM on the connection");
    ends(&[reset(1)], protocol, "RST_STREAM on an idle stream");
    ends(&[hold(1), raw(kind::RST_STREAM, 0, 1, &[0; 3])], size, "RST_STREAM of three bytes");
    ends(&[raw(kind::SETTINGS, 0, 1, &[])], protocol, "SETTINGS on a stream");
    ends(&[raw(kind::SETTINGS, flag::ACK, 0, &[0; 6])], size, "an acknowledgement with payload");
    ends(&[raw(kind::SETTINGS, 0, 0, &[0; 5])], size, "SETTINGS of five bytes");
    ends(&[settings(&[(2, 2)])], protocol, "ENABLE_PUSH 2");
    ends(&[settings(&[(4, 1 << 31)])], flow, "an initial window of 2^31");
    ends(&[settings(&[(5, 100)])], protocol, "a frame size of 100");
    ends(&[raw(kind::PUSH_PROMISE, eh, 1, &[0; 4])], protocol, "PUSH_PROMISE");
    ends(&[raw(kind::PING, 0, 1, &[0; 8])], protocol, "PING on a stream");
    ends(&[raw(kind::PING, 0, 0, &[0; 7])], size, "PING of seven bytes");
    ends(&[raw(kind::GOAWAY, 0, 1, &[0; 8])], protocol, "GOAWAY on a stream");
    ends(&[raw(kind::GOAWAY, 0, 0, &[0; 7])], size, "GOAWAY of seven bytes");
    ends(&[window_update(0, 0)], protocol, "WINDOW_UPDATE of nothing");
    ends(&[window_update(0, 0x7fff_ffff)], flow, "the connection's window beyond 2^31-1");
    ends(&[window_update(1, 1)], protocol, "WINDOW_UPDATE on an idle stream");
    ends(&[raw(kind::WINDOW_UPDATE, 0, 0, &[0; 3])], size, "WINDOW_UPDATE of three bytes");
    ends(&[raw(kind::DATA, 0, 1, &vec![0; 16_385])], size, "a frame above 16 KiB");
    let window = [hold(1), window_update(1, 0x7fff_0000), settings(&[(4, 0x1_0000)])];
    ends(&window, flow, "an initial window that lifts a stream's beyond 2^31-1");
}

#[test]
fn stream_errors() {
    let protocol = ErrorCode::PROTOCOL_ERROR;
    let closed = ErrorCode::STREAM_CLOSED;
    resets(&[hold(1), end(1), end(1)], closed, "DATA after END_STREAM");
    resets(&[hold(1), end(1), headers(1, "/t.S/Hold", flag::END_STREAM)], closed, "HEADERS after END_STREAM");
    resets(&[hold(1), hold(1)], protocol, "trailers without END_STREAM");
    let pseudo = headers(1, "/t.S/Hold", flag::END_STREAM);
    resets(&[hold(1), pseudo], protocol, "trailers with pseudo-header fields");
    resets(&[hold(1), window_update(1, 0)], protocol, "WINDOW_UPDATE of nothing");
    let large = window_update(1, 0x7fff_ffff);
    resets(&[hold(1), large], ErrorCode::FLOW_CONTROL_ERROR, "a stream's window beyond 2^31-1");
    resets(&[raw(kind::PRIORITY, 0, 1, &[0; 4])], ErrorCode::FRAME_SIZE_ERROR, "PRIORITY of four bytes");
    resets(&[raw(kind::PRIORITY, 0, 1, &[0, 0, 0, 1, 0])], protocol, "a stream that depends on itself");
    let mut payload = vec![0, 0, 0, 1, 0];
    payload.extend(call_block("/t.S/Hold"));
    let depends = raw(kind::HEADERS, flag::END_HEADERS | flag::PRIORITY, 1, &payload);
    resets(&[depends], protocol, "HEADERS that depend on themselves");

    let with = |extra: (&'static str, &'static str)| {
        let mut fields = call_fields("/t.S/Hold");
        fields.push(extra);
        raw(kind::HEADERS, flag::END_HEADERS, 1, &block(&fields))
    };
    for extra in [("Upper", "x"), ("connection", "close"), ("te", "gzip"), (":path", "/"), (":what", "x")] {
        resets(&[with(extra)], protocol, extra.0);
    }
    for missing in 0..3 {
        let mut fields = call_fields("/t.S/Hold");
        fields.remove(missing);
        resets(
            &[raw(kind::HEADERS, flag::END_HEADERS, 1, &block(&fields))],
            protocol,
            "a missing pseudo-header",
        );
    }
    let short = [with(("content-length", "3")), raw(kind::DATA, flag::END_STREAM, 1, b"ab")];
    resets(&short, protocol, "less body than content-length");
    let long = [with(("content-length", "3")), raw(kind::DATA, 0, 1, b"abcd")];
    resets(&long, protocol, "more body than content-length");
}

#[test]
fn closed_streams_are_told_from_our_own_resets() {
    let mut pair = Pair::new();
    // Answered before the client ended its side: END_STREAM, then RST_STREAM with NO_ERROR.
    pair.feed(&headers(1, "/t.S/Echo", 0)).unwrap();
    pair.feed(&raw(kind::DATA, 0, 1, &prefixed(b"x"))).unwrap();
    let frames = pair.output();
    let last = frames.last().unwrap();
    assert_eq!((last.kind, last.code()), (kind::RST_STREAM, ErrorCode::NO_ERROR));
    assert!(frames[frames.len() - 2].ends_stream());
    // What was under way is ignored: DATA, trailers, window updates, a reset.
    pair.feed(&raw(kind::DATA, 0, 1, b"more")).unwrap();
    pair.feed(&raw(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 1, &block(&[("x", "y")]))).unwrap();
    pair.feed(&window_update(1, 5)).unwrap();
    pair.feed(&reset(1)).unwrap();
    assert!(pair.output().is_empty());
    // A stream that both sides ended: DATA is an error of the stream.
    echoes(&mut pair, 3, "both ended");
    pair.feed(&raw(kind::DATA, 0, 3, b"more")).unwrap();
    assert_eq!(pair.output()[0].code(), ErrorCode::STREAM_CLOSED);
}

#[test]
fn headers_may_come_in_pieces_padded_and_with_priority() {
    let mut pair = Pair::new();
    let block = call_block("/t.S/Echo");
    let mut first = vec![3, 0, 0, 0, 0, 9];
    first.extend_from_slice(&block[..10]);
    first.extend_from_slice(&[0; 3]);
    pair.feed(&raw(kind::HEADERS, flag::PADDED | flag::PRIORITY, 1, &first)).unwrap();
    pair.feed(&raw(kind::CONTINUATION, 0, 1, &block[10..11])).unwrap();
    pair.feed(&raw(kind::CONTINUATION, 0, 1, &[])).unwrap();
    assert!(pair.events().is_empty());
    pair.feed(&raw(kind::CONTINUATION, flag::END_HEADERS, 1, &block[11..])).unwrap();
    let mut data = vec![4];
    data.extend(prefixed(b"padded"));
    data.extend([0; 4]);
    pair.feed(&raw(kind::DATA, flag::PADDED | flag::END_STREAM, 1, &data)).unwrap();
    assert!(pair.output()[1].payload.ends_with(b"padded"));
    assert_eq!(pair.events().len(), 2);
}

#[test]
fn trailers_of_a_client_end_its_side() {
    let mut pair = Pair::new();
    pair.feed(&hold(1)).unwrap();
    pair.feed(&raw(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 1, &block(&[("x", "y")]))).unwrap();
    assert_eq!(pair.events()[1..], ["half_close 1"]);
}

#[test]
fn reset_and_disconnection_cancel_open_calls_only() {
    let mut pair = Pair::new();
    for stream in [1, 3, 5] {
        pair.feed(&hold(stream)).unwrap();
    }
    pair.feed(&reset(3)).unwrap();
    assert_eq!(pair.events()[3..], ["cancelled 3"]);
    pair.server.outbound().unary(3, |_| panic!("a cancelled call is not encoded"));
    pair.server.outbound().fail(1, 5, "gone");
    pair.server.disconnected(&mut pair.calls);
    assert_eq!(pair.events(), ["cancelled 5"]);
    assert!(pair.feed(&window_update(0, 1)).is_err());
    pair.server.disconnected(&mut pair.calls);
    assert!(pair.events().is_empty(), "once");
}

#[test]
fn a_graceful_end_lets_calls_finish() {
    let mut pair = Pair::new();
    pair.feed(&hold(1)).unwrap();
    pair.server.drain(1000);
    pair.server.drain(1001);
    let frames = pair.output();
    assert_eq!(frames.iter().map(|f| f.kind).collect::<Vec<_>>(), [kind::GOAWAY, kind::PING]);
    assert_eq!(frames[0].payload, [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    // Sent before the client heard: still served.
    pair.feed(&hold(3)).unwrap();
    pair.feed(&raw(kind::PING, flag::ACK, 0, &frames[1].payload)).unwrap();
    let goaway = &pair.output()[0];
    assert_eq!((goaway.kind, &goaway.payload[..4]), (kind::GOAWAY, &[0, 0, 0, 3][..]));
    // Sent after: ignored, but decoded.
    pair.feed(&hold(5)).unwrap();
    pair.feed(&raw(kind::DATA, 0, 5, b"x")).unwrap();
    assert_eq!(pair.events().len(), 2);
    assert!(!pair.server.is_drained());
    pair.server.outbound().unary(1, |out| out.push(1));
    pair.server.outbound().fail(3, 14, "etcdserver: server stopped");
    assert!(pair.server.is_drained());
}

/// A busy client has sent much before it reads the last GOAWAY (found by seed 2492 of the world, focus memory).
#[test]
fn calls_beyond_the_last_stream_are_ignored_and_are_no_flood() {
    let mut pair = Pair::new();
    pair.feed(&hold(1)).unwrap();
    pair.server.drain(1000);
    let ping = pair.output().pop().unwrap();
    pair.feed(&raw(kind::PING, flag::ACK, 0, &ping.payload)).unwrap();
    pair.output();
    pair.events();
    let most = 3 * Limits::default().resets_per_second.max(Limits::default().control_frames_per_second);
    for stream in (3..).step_by(2).take(most as usize) {
        pair.feed(&headers(stream, "/t.S/Hold", 0)).unwrap();
        pair.feed(&raw(kind::DATA, 0, stream, &[0; 1000])).unwrap();
        pair.feed(&window_update(stream, 0)).unwrap();
        // Trailers, or a call that was canceled.
        match stream % 4 {
            1 => pair.feed(&headers(stream, "/t.S/Hold", flag::END_STREAM)).unwrap(),
            _ => pair.feed(&reset(stream)).unwrap(),
        }
    }
    assert_eq!(pair.events(), [""; 0]);
    let frames = pair.output_all();
    // Their bytes count for the window of the connection, and their fields for the tables of both sides.
    assert!(frames.iter().all(|frame| (frame.kind, frame.stream) == (kind::WINDOW_UPDATE, 0)), "{frames:?}");
    assert!(!frames.is_empty());
    pair.server.outbound().unary(1, |out| out.push(1));
    assert!(pair.server.is_drained());
    assert!(pair.output().iter().all(|frame| frame.stream == 1));
    // A connection that is cut after all names no more than it did.
    pair.feed(&window_update(0, 0)).unwrap_err();
    assert_eq!(pair.output().pop().unwrap().payload[..4], [0, 0, 0, 1]);
}

#[test]
fn a_client_that_ignores_the_drain_ping_is_not_waited_for() {
    let mut pair = Pair::new();
    pair.server.drain(1000);
    assert!(pair.server.next_tick() <= 6000);
    pair.server.tick(5999, &mut pair.calls).unwrap();
    assert!(!pair.server.is_drained());
    pair.server.tick(6000, &mut pair.calls).unwrap();
    assert!(pair.server.is_drained());
}

#[test]
fn deadlines_reset_the_stream_and_cancel_the_call() {
    let mut pair = Pair::new();
    for (stream, timeout) in [(1, "50m"), (3, "2S"), (5, "50m")] {
        let mut fields = call_fields("/t.S/Hold");
        fields.push(("grpc-timeout", timeout));
        pair.feed(&raw(kind::HEADERS, flag::END_HEADERS, stream, &block(&fields))).unwrap();
    }
    pair.server.outbound().unary(5, |_| {});
    pair.output();
    pair.events();
    assert_eq!(pair.server.next_tick(), 1050);
    pair.server.tick(1049, &mut pair.calls).unwrap();
    assert!(pair.events().is_empty());
    pair.server.tick(1050, &mut pair.calls).unwrap();
    assert_eq!(pair.events(), ["cancelled 1"]);
    let frames = pair.output();
    assert_eq!((frames.len(), frames[0].stream, frames[0].code()), (1, 1, ErrorCode::CANCEL));
    assert_eq!(pair.server.next_tick(), 3000);
}

#[test]
fn silence_is_pinged_and_then_ends_the_connection() {
    let mut pair = Pair::new();
    pair.feed(&hold(1)).unwrap();
    pair.output();
    let silent = 1000 + 7_200_000;
    pair.server.tick(silent - 1, &mut pair.calls).unwrap();
    assert!(pair.output().is_empty());
    pair.server.tick(silent, &mut pair.calls).unwrap();
    assert_eq!(pair.output()[0].kind, kind::PING);
    assert_eq!(pair.server.next_tick(), silent + 20_000);
    pair.server.tick(silent + 20_000, &mut pair.calls).unwrap_err();
    assert_eq!(pair.events().last().unwrap(), "cancelled 1");
}

#[test]
fn preface_and_settings_acknowledgement_have_their_time() {
    let mut pair = Pair::raw(Limits::default());
    pair.server.tick(119_999, &mut pair.calls).unwrap();
    assert_eq!(pair.server.next_tick(), 120_000);
    pair.server.tick(120_000, &mut pair.calls).unwrap_err();

    let mut pair = Pair::raw(Limits::default());
    let whole = preface();
    // However late this process reads it: the peer has had ours since then at most.
    pair.now = 500_000;
    pair.feed(&whole[..whole.len() - 9]).unwrap();
    assert_eq!(pair.server.next_tick(), 680_000);
    pair.server.tick(679_999, &mut pair.calls).unwrap();
    let closed = pair.server.tick(680_000, &mut pair.calls).unwrap_err();
    assert_eq!(closed.code, ErrorCode::SETTINGS_TIMEOUT);
}
