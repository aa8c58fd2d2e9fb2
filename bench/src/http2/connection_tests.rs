//! The codec against hand-made frames, cut at every place.

use super::*;

#[derive(Default, Debug, PartialEq, Eq)]
struct Log(Vec<String>);

impl Answers for Log {
    fn message(&mut self, call: u32, message: Message<'_>) {
        self.0.push(format!("{call}: {:?} of {}", String::from_utf8_lossy(message.bytes), message.total));
    }

    fn end(&mut self, call: u32, code: u32, text: &str) {
        self.0.push(format!("{call}: end {code} {text}"));
    }
}

fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::put_header(&mut out, payload.len(), kind, flags, id);
    out.extend_from_slice(payload);
    out
}

fn message(text: &[u8]) -> Vec<u8> {
    let mut out = vec![0];
    out.extend_from_slice(&(text.len() as u32).to_be_bytes());
    out.extend_from_slice(text);
    out
}

fn trailers(code: &str) -> Vec<u8> {
    let mut block = vec![0x00, 11];
    block.extend_from_slice(b"grpc-status");
    block.push(code.len() as u8);
    block.extend_from_slice(code.as_bytes());
    block
}

fn settings(entries: &[(u16, u32)]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::put_settings(&mut out, entries);
    out
}

/// Frames that the connection wrote since last asked: (kind, flags, stream, payload).
fn written(connection: &mut Connection) -> Vec<(u8, u8, u32, Vec<u8>)> {
    let mut bytes = &std::mem::take(&mut connection.output)[..];
    bytes = bytes.strip_prefix(PREFACE).unwrap_or(bytes);
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let header = FrameHeader::parse(bytes);
        let (payload, rest) = bytes[HEADER_BYTES..].split_at(header.length);
        frames.push((header.kind, header.flags, header.stream, payload.to_vec()));
        bytes = rest;
    }
    frames
}

fn opened() -> Connection {
    let mut connection = Connection::new("a:1");
    written(&mut connection);
    connection
}

#[test]
fn answers_are_the_same_wherever_the_bytes_are_cut() {
    let mut stream = settings(&[]);
    stream.extend(frame(kind::HEADERS, flag::END_HEADERS, 1, &[0x88]));
    stream.extend(frame(kind::DATA, 0, 1, &message(b"whole")));
    // A message across three frames, with padding in the middle; two messages in one frame.
    let split = message(b"in three parts");
    stream.extend(frame(kind::DATA, 0, 1, &split[..3]));
    let mut padded = vec![4];
    padded.extend_from_slice(&split[3..10]);
    padded.extend_from_slice(&[0; 4]);
    stream.extend(frame(kind::DATA, flag::PADDED, 1, &padded));
    stream.extend(frame(kind::DATA, 0, 1, &split[10..]));
    stream.extend(frame(kind::DATA, 0, 1, &[message(b""), message(b"two")].concat()));
    // Trailers in a HEADERS and a CONTINUATION frame.
    let block = trailers("0");
    stream.extend(frame(kind::HEADERS, flag::END_STREAM, 1, &block[..5]));
    stream.extend(frame(kind::CONTINUATION, flag::END_HEADERS, 1, &block[5..]));
    stream.extend(frame(kind::HEADERS, flag::END_STREAM | flag::END_HEADERS, 3, &trailers("14")));
    stream.extend(frame(kind::RST_STREAM, 0, 5, &7u32.to_be_bytes()));

    let expected = [
        "10: \"whole\" of 5",
        "10: \"in three parts\" of 14",
        "10: \"\" of 0",
        "10: \"two\" of 3",
        "10: end 0 ",
        "30: end 14 ",
        "50: end 14 the server reset the stream: 7",
    ];
    for cut in 0..=stream.len() {
        let mut connection = opened();
        for call in [10, 30, 50] {
            connection.call(Method::Range, call, KEEP_ALL, true, |out| out.push(1));
        }
        let mut log = Log::default();
        let used = connection.receive(&stream[..cut], &mut log).unwrap();
        let used = used + connection.receive(&stream[used..], &mut log).unwrap();
        assert_eq!(used, stream.len());
        assert_eq!(log.0, expected, "cut at {cut}");
        assert_eq!(connection.live, 0);
    }
}

#[test]
fn a_long_answer_is_counted_and_only_its_beginning_kept() {
    let mut connection = opened();
    connection.call(Method::Range, 1, 4, true, |_| {});
    let mut log = Log::default();
    let answer = message(&[b'x'; 100]);
    for part in answer.chunks(30) {
        connection.receive(&frame(kind::DATA, 0, 1, part), &mut log).unwrap();
    }
    assert_eq!(log.0, ["1: \"xxxx\" of 100"]);
}

#[test]
fn requests_are_headers_and_one_prefixed_message() {
    let mut connection = opened();
    let id = connection.call(Method::Put, 0, KEEP_ALL, true, |out| out.extend_from_slice(b"abc"));
    let frames = written(&mut connection);
    assert_eq!(frames.len(), 2);
    assert_eq!((frames[0].0, frames[0].1, frames[0].2), (kind::HEADERS, flag::END_HEADERS, id));
    assert_eq!(frames[1], (kind::DATA, flag::END_STREAM, id, message(b"abc")));
}

#[test]
fn data_waits_for_both_windows_and_leaves_in_order() {
    let mut connection = opened();
    let mut log = Log::default();
    connection.receive(&settings(&[(setting::INITIAL_WINDOW_SIZE, 10)]), &mut log).unwrap();
    let first = connection.call(Method::Put, 0, KEEP_ALL, true, |out| out.extend_from_slice(&[b'a'; 11]));
    let second = connection.call(Method::Put, 1, KEEP_ALL, true, |out| out.push(b'b'));
    let data = |connection: &mut Connection| -> Vec<(u8, u32, usize)> {
        let frames = written(connection).into_iter().filter(|frame| frame.0 == kind::DATA);
        frames.map(|(_, flags, id, payload)| (flags, id, payload.len())).collect()
    };
    assert_eq!(data(&mut connection), [(0, first, 10)], "16 bytes of which the stream's window lets 10 go");
    connection.receive(&frame(kind::WINDOW_UPDATE, 0, first, &6u32.to_be_bytes()), &mut log).unwrap();
    assert_eq!(data(&mut connection), [(flag::END_STREAM, first, 6), (flag::END_STREAM, second, 6)]);

    // The connection's window: 65,535 less what went.
    connection.receive(&settings(&[(setting::INITIAL_WINDOW_SIZE, 1 << 20)]), &mut log).unwrap();
    connection.call(Method::Put, 2, KEEP_ALL, true, |out| out.resize(out.len() + 70_000, 0));
    let sent: usize = data(&mut connection).iter().map(|frame| frame.2).sum();
    assert_eq!(sent, 65_535 - 22);
    connection.receive(&frame(kind::WINDOW_UPDATE, 0, 0, &100_000u32.to_be_bytes()), &mut log).unwrap();
    let rest = data(&mut connection);
    assert_eq!(sent + rest.iter().map(|frame| frame.2).sum::<usize>(), 70_005);
    assert_eq!(rest.last().unwrap().0, flag::END_STREAM);
    assert!(rest.iter().all(|frame| frame.2 <= FRAME_BYTES));
}

#[test]
fn windows_are_given_back_also_for_streams_that_are_gone() {
    let mut connection = opened();
    let id = connection.call(Method::Watch, 0, 0, false, |_| {});
    written(&mut connection);
    let mut log = Log::default();
    // One endless message, of which nothing is kept.
    connection.receive(&frame(kind::DATA, 0, id, &[0, 0xff, 0xff, 0xff, 0xff]), &mut log).unwrap();
    let whole = frame(kind::DATA, 0, id, &[0; FRAME_BYTES]);
    let stray = frame(kind::DATA, 0, 99, &[0; FRAME_BYTES]);
    let (mut stream_credit, mut connection_credit) = (0, 0);
    for _ in 0..3000 {
        connection.receive(&whole, &mut log).unwrap();
        connection.receive(&stray, &mut log).unwrap();
        for (kind, _, stream, payload) in written(&mut connection) {
            assert_eq!(kind, kind::WINDOW_UPDATE);
            let credit = u64::from(u32::from_be_bytes(payload.try_into().unwrap()));
            if stream == 0 { connection_credit += credit } else { stream_credit += credit }
        }
    }
    let received = 3000 * FRAME_BYTES as u64;
    assert!(received - stream_credit < u64::from(STREAM_WINDOW_BYTES) / 2);
    assert!(2 * received - connection_credit < u64::from(CONNECTION_WINDOW_BYTES) / 2);
}

#[test]
fn a_long_lived_stream_keeps_its_slot_while_thousands_pass() {
    let mut connection = opened();
    let watch = connection.call(Method::Watch, 7, KEEP_ALL, false, |_| {});
    let mut log = Log::default();
    let mut live = VecDeque::new();
    for call in 0..5000u32 {
        live.push_back(connection.call(Method::Range, 1000 + call, KEEP_ALL, true, |_| {}));
        if live.len() > 200 {
            let id = live.pop_front().unwrap();
            let end = frame(kind::HEADERS, flag::END_STREAM | flag::END_HEADERS, id, &trailers("0"));
            connection.receive(&end, &mut log).unwrap();
        }
    }
    let expected: Vec<String> = (1000..1000 + 4800).map(|call| format!("{call}: end 0 ")).collect();
    assert_eq!(log.0, expected);
    connection.receive(&frame(kind::DATA, 0, watch, &message(b"event")), &mut log).unwrap();
    assert_eq!(log.0.last().unwrap(), "7: \"event\" of 5");
}

#[test]
fn the_peers_demands_are_answered() {
    let mut connection = opened();
    let mut log = Log::default();
    connection.receive(&frame(kind::PING, 0, 0, b"12345678"), &mut log).unwrap();
    connection.receive(&settings(&[(setting::MAX_CONCURRENT_STREAMS, 2)]), &mut log).unwrap();
    let frames = written(&mut connection);
    assert_eq!(frames[0], (kind::PING, flag::ACK, 0, b"12345678".to_vec()));
    assert_eq!(frames[1], (kind::SETTINGS, flag::ACK, 0, vec![]));
    connection.call(Method::Range, 0, 0, true, |_| {});
    assert_eq!(connection.room(), 1);
    let broken = [
        frame(kind::GOAWAY, 0, 0, &[0; 8]),
        frame(kind::CONTINUATION, 0, 1, &[]),
        frame(kind::PUSH_PROMISE, 0, 1, &[]),
        frame(kind::PING, 0, 0, &[0; 7]),
        frame(kind::DATA, flag::PADDED, 1, &[9, 1]),
        frame(kind::DATA, 0, 1, &[1, 0, 0, 0, 0]),
        frame(kind::SETTINGS, 0, 0, &[0; 7]),
        settings(&[(setting::HEADER_TABLE_SIZE, 0)]),
        vec![0xff; 9],
    ];
    for bytes in broken {
        let mut connection = opened();
        connection.call(Method::Range, 0, 0, true, |_| {});
        assert!(connection.receive(&bytes, &mut log).is_err(), "{bytes:?}");
    }
}
