//! Floods and bombs: each ends the connection, or is bounded, by a named limit; and what looks alike but is ordinary
//! use passes.

mod common;

use base::limits;
use common::*;
use mainstay_net::frame::{flag, kind};
use mainstay_net::{ErrorCode, Limits};

/// Feeds `bytes` until the connection ends; returns how often it took and why.
fn until_closed(pair: &mut Pair, bytes: &[u8], most: usize) -> (usize, &'static str) {
    for i in 0..most {
        if let Err(closed) = pair.feed(bytes) {
            assert_eq!(closed.code, ErrorCode::ENHANCE_YOUR_CALM, "{}", closed.why);
            return (i, closed.why);
        }
        pair.take();
    }
    panic!("still open after {most}");
}

#[test]
fn floods_of_frames_without_effect_end_the_connection() {
    let most = limits::CONTROL_FRAMES_PER_SECOND as usize;
    for (bytes, what) in [
        (raw(kind::PRIORITY, 0, 1, &[0, 0, 0, 3, 1]), "PRIORITY"),
        (raw(0xfa, 0, 0, b"what"), "unknown"),
        (raw(kind::SETTINGS, flag::ACK, 0, &[]), "SETTINGS acknowledgements"),
        (raw(kind::PING, flag::ACK, 0, &[0; 8]), "PING acknowledgements"),
        (raw(kind::GOAWAY, 0, 0, &[0; 8]), "GOAWAY"),
    ] {
        let (count, why) = until_closed(&mut Pair::new(), &bytes, most + 1);
        assert!(count + 2 >= most && why.contains(what), "{what}: {count} {why}");
        // The same number over a longer time is nobody's flood.
        let mut pair = Pair::new();
        for _ in 0..most + 10 {
            pair.now += 1;
            pair.feed(&bytes).unwrap();
        }
    }
}

#[test]
fn empty_data_and_settings_floods() {
    let mut pair = Pair::new();
    pair.feed(&headers(1, "/t.S/Hold", 0)).unwrap();
    let (count, _) = until_closed(&mut pair, &raw(kind::DATA, 0, 1, &[]), 3000);
    assert!(count <= limits::CONTROL_FRAMES_PER_SECOND as usize);
    let mut pair = Pair::new();
    pair.feed(&headers(1, "/t.S/Hold", 0)).unwrap();
    until_closed(&mut pair, &raw(kind::DATA, flag::PADDED, 1, &[3, 0, 0, 0]), 3000);
    let (count, _) = until_closed(&mut Pair::new(), &settings(&[(4, 1000)]), 200);
    assert!(count <= limits::SETTINGS_PER_SECOND as usize);
}

#[test]
fn pings_that_come_too_fast_are_too_many() {
    let mut pair = Pair::new();
    pair.feed(&headers(1, "/t.S/Hold", 0)).unwrap();
    let ping = raw(kind::PING, 0, 0, &[1; 8]);
    pair.now += 100_000;
    let (count, why) = until_closed(&mut pair, &ping, 10);
    assert_eq!((count, why), (3, "too_many_pings"));
    assert_eq!(pair.events().last().unwrap(), "cancelled 1");

    let mut pair = Pair::new();
    for i in 0..50 {
        // Kubernetes: every 30 s, with open streams and without.
        if i == 25 {
            pair.feed(&headers(1, "/t.S/Hold", 0)).unwrap();
        }
        pair.now += 30_000;
        pair.feed(&ping).unwrap();
    }
    // grpc-go measures bandwidth: a ping after each answer.
    let mut pair = Pair::new();
    for i in 0..5000 {
        pair.feed(&headers(2 * i + 1, "/t.S/Echo", 0)).unwrap();
        pair.feed(&raw(kind::DATA, flag::END_STREAM, 2 * i + 1, &prefixed(b"x"))).unwrap();
        pair.feed(&ping).unwrap();
        pair.take();
    }
}

#[test]
fn rapid_reset_ends_the_connection_but_ending_old_watches_does_not() {
    let mut pair = Pair::new();
    let mut opened = 0;
    let closed = loop {
        let id = 2 * opened + 1;
        opened += 1;
        if let Err(closed) = pair.feed(&[headers(id, "/t.S/Hold", 0), reset(id)].concat()) {
            break closed;
        }
    };
    assert_eq!(closed.code, ErrorCode::ENHANCE_YOUR_CALM);
    assert_eq!(opened, limits::RESETS_PER_SECOND + 1);

    let mut pair = Pair::new();
    for i in 0..2000 {
        pair.feed(&headers(2 * i + 1, "/t.S/Hold", 0)).unwrap();
    }
    pair.now += 5000;
    for i in 0..2000 {
        pair.feed(&reset(2 * i + 1)).unwrap();
    }
}

#[test]
fn resets_that_a_peer_provokes_count_too() {
    let mut pair = Pair::new();
    let mut opened = 0;
    let closed = loop {
        let id = 2 * opened + 1;
        opened += 1;
        if let Err(closed) = pair.feed(&[headers(id, "/t.S/Hold", 0), window_update(id, 0)].concat()) {
            break closed;
        }
    };
    assert_eq!(closed.code, ErrorCode::ENHANCE_YOUR_CALM);
    assert_eq!(opened, limits::RESETS_PER_SECOND + 1);
}

#[test]
fn header_blocks_without_end_are_bounded() {
    let mut pair = Pair::new();
    pair.feed(&raw(kind::HEADERS, 0, 1, &[])).unwrap();
    let (count, _) = until_closed(&mut pair, &raw(kind::CONTINUATION, 0, 1, &[]), 100);
    assert_eq!(count as u32, limits::CONTINUATIONS_PER_BLOCK);
    let mut pair = Pair::new();
    pair.feed(&raw(kind::HEADERS, 0, 1, &[])).unwrap();
    let (count, _) = until_closed(&mut pair, &raw(kind::CONTINUATION, 0, 1, &[0; 16_000]), 100);
    assert_eq!(count, limits::HEADER_BLOCK_BYTES / 16_000);
}

#[test]
fn an_oversize_header_list_resets_its_stream_and_keeps_the_tables_in_step() {
    let mut pair = Pair::new();
    // An HPACK bomb: one large entry, then a thousand references to it.
    let mut bomb = vec![0x40, 1, b'x', 0x7f, 0x81, 0x1e];
    bomb.extend([b'y'; 4000]);
    assert_eq!(0x7f + 1 + 0x1e * 128, 3968);
    bomb.truncate(6 + 3968);
    bomb.extend([0x80 | 62; 1000]);
    pair.feed(&raw(kind::HEADERS, flag::END_HEADERS, 1, &bomb)).unwrap();
    let frames = pair.output();
    assert_eq!((frames.len(), frames[0].code()), (1, ErrorCode::FRAME_SIZE_ERROR));
    // The entry is in the table: 62 is still it.
    let mut block = call_block("/t.S/Hold");
    block.push(0x80 | 62);
    pair.feed(&raw(kind::HEADERS, flag::END_HEADERS, 3, &block)).unwrap();
    assert_eq!(pair.events().len(), 1);
}

#[test]
fn unfinished_messages_are_bounded_together() {
    let mut pair = Pair::new();
    let mut bytes = mainstay_net::grpc::prefix(2 << 20).to_vec();
    bytes.resize(16_384, 0);
    let mut id = 1;
    let failed = loop {
        pair.feed(&headers(id, "/t.S/Hold", 0)).unwrap();
        for _ in 0..127 {
            pair.feed(&raw(kind::DATA, 0, id, &bytes)).unwrap();
            bytes[..5].copy_from_slice(&[0; 5]);
        }
        bytes[..5].copy_from_slice(&mainstay_net::grpc::prefix(2 << 20));
        if pair.output().iter().any(|f| f.ends_stream()) {
            break id;
        }
        id += 2;
    };
    let per_stream = 127 * 16_384;
    assert_eq!(failed as usize / 2, limits::ASSEMBLY_BYTES_PER_CONNECTION / per_stream);
    assert_eq!(pair.events().last().unwrap(), &format!("cancelled {failed}"));
    // The others go on, and the failed one's bytes are free again.
    pair.feed(&reset(1)).unwrap();
    pair.feed(&headers(id + 2, "/t.S/Hold", 0)).unwrap();
    pair.feed(&raw(kind::DATA, 0, id + 2, &bytes)).unwrap();
    assert!(pair.output().iter().all(|f| f.kind == kind::WINDOW_UPDATE));
}

#[test]
fn a_peer_that_never_reads_is_congested_and_then_ends() {
    let mut pair = Pair::new();
    let ping = [headers(1, "/t.S/Hold", 0), raw(kind::PING, 0, 0, &[0; 8])].concat();
    pair.feed(&ping).unwrap();
    // Requests that are refused with a text: output for little input.
    let mut id = 3;
    let mut congested_at = 0;
    let closed = loop {
        let result = pair.feed(&headers(id, "/no.Such/Method", flag::END_STREAM));
        if pair.server.is_congested() && congested_at == 0 {
            congested_at = pair.server.output().len();
        }
        if let Err(closed) = result {
            break closed;
        }
        id += 2;
    };
    assert_eq!(closed.code, ErrorCode::ENHANCE_YOUR_CALM);
    assert!(congested_at < limits::OUTPUT_BYTES_PER_CONNECTION + 1000);
    assert!(pair.server.output().len() < limits::OUTPUT_HARD_BYTES_PER_CONNECTION + 1000);
}

#[test]
fn answers_that_wait_for_windows_refuse_new_streams() {
    let mut pair = Pair::new();
    pair.feed(&settings(&[(4, 0)])).unwrap();
    let answer = vec![0; 1 << 20];
    let mut id = 1;
    loop {
        pair.feed(&headers(id, "/t.S/Hold", flag::END_STREAM)).unwrap();
        if pair.output().iter().any(|f| f.kind == kind::RST_STREAM && f.code() == ErrorCode::REFUSED_STREAM) {
            break;
        }
        pair.server.outbound().unary(id, |out| out.extend_from_slice(&answer));
        id += 2;
    }
    assert_eq!(id as usize / 2, limits::BACKLOG_BYTES_PER_CONNECTION / answer.len());
    // With a window for one of them there is room again.
    pair.feed(&window_update(1, 2 << 20)).unwrap();
    pair.feed(&window_update(0, 2 << 20)).unwrap();
    pair.feed(&headers(id + 2, "/t.S/Echo", 0)).unwrap();
    let frames = pair.output_all();
    assert!(frames.iter().any(|f| f.stream == 1 && f.ends_stream()));
    assert!(frames.iter().all(|f| f.kind != kind::RST_STREAM));
    // Those that still wait end with the connection, and nothing is left.
    pair.server.disconnected(&mut pair.calls);
    assert_eq!(pair.server.open_streams(), 0);
}

#[test]
fn streams_are_bounded_without_a_configured_limit() {
    let mut pair = Pair::new();
    let most = limits::STREAMS_PER_CONNECTION;
    let mut batch = Vec::new();
    for i in 0..=most {
        batch.extend(headers(2 * i + 1, "/t.S/Hold", 0));
        if batch.len() > 1 << 20 || i == most {
            pair.feed(&batch).unwrap();
            batch.clear();
            pair.calls.events.clear();
        }
    }
    assert_eq!(pair.server.open_streams(), most as usize);
    let frames = pair.output();
    assert_eq!((frames.len(), frames[0].code()), (1, ErrorCode::REFUSED_STREAM));
}

#[test]
fn the_queue_of_turns_does_not_grow_with_streams_that_come_and_go() {
    let mut pair = Pair::with(Limits { resets_per_second: u32::MAX, ..Limits::default() });
    pair.feed(&headers(1, "/t.S/Hold", flag::END_STREAM)).unwrap();
    // Uses up the connection's window: all later answers wait for it.
    pair.server.outbound().unary(1, |out| out.resize(out.len() + 70_000, 0));
    for i in 1..20_000 {
        let id = 2 * i + 1;
        pair.feed(&headers(id, "/t.S/Hold", flag::END_STREAM)).unwrap();
        pair.server.outbound().unary(id, |out| out.resize(out.len() + 1000, 0));
        pair.feed(&reset(id)).unwrap();
        pair.take();
    }
    assert_eq!(pair.server.open_streams(), 1);
    pair.feed(&window_update(0, 1 << 20)).unwrap();
    pair.feed(&window_update(1, 1 << 20)).unwrap();
    assert!(pair.output().last().unwrap().ends_stream());
}
