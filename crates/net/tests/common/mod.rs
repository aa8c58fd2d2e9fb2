//! What the tests share: a server that records what it is told, and a peer that speaks in raw frames.
#![allow(dead_code)]

use std::sync::{Arc, LazyLock};

use mainstay_net::frame::{self, FrameHeader, HEADER_BYTES, PREFACE, flag, kind};
use mainstay_net::{
    CallHead, Calls, Closed, Connection, End, ErrorCode, Limits, Methods, Outbound, PlainHead,
};

pub static METHODS: LazyLock<Methods> =
    LazyLock::new(|| Methods::new(&["/t.S/Echo", "/t.S/Hold", "/t.S/Stream", "/t.T/Other"]));
pub const ECHO: u16 = 0;
pub const HOLD: u16 = 1;
pub const STREAM: u16 = 2;

/// Echoes unary calls, holds others, mirrors streams; and writes down everything.
#[derive(Default)]
pub struct Recorder {
    pub events: Vec<String>,
    pub messages: Vec<(u32, Vec<u8>)>,
    pub takes_plain: bool,
    /// Pauses a stream whenever so many messages more have come.
    pub pause_after: Option<usize>,
}

impl Calls for Recorder {
    fn call(&mut self, connection: &mut Outbound, stream: u32, head: &CallHead<'_>) {
        let text = |bytes: Option<&[u8]>| bytes.map(|b| String::from_utf8_lossy(b).into_owned());
        self.events.push(format!(
            "call {stream} {} {:?} {} {:?} {:?}",
            METHODS.path(head.method),
            head.timeout_ms,
            head.has_leader,
            text(head.token),
            text(head.client_api_version)
        ));
        assert_eq!(connection.method(stream), Some(head.method));
        connection.set_word(stream, u64::from(stream) + 7);
        if head.method == STREAM {
            connection.open(stream);
        }
    }

    fn message(&mut self, connection: &mut Outbound, stream: u32, message: &[u8]) {
        assert_eq!(connection.word(stream), u64::from(stream) + 7);
        self.events.push(format!("message {stream} {}", message.len()));
        self.messages.push((stream, message.to_vec()));
        if self.pause_after.is_some_and(|count| self.messages.len().is_multiple_of(count)) {
            connection.pause(stream);
        }
        match connection.method(stream) {
            Some(ECHO) => connection.unary(stream, |out| out.extend_from_slice(message)),
            Some(STREAM) => connection.send(stream, message),
            _ => {}
        }
    }

    fn half_close(&mut self, connection: &mut Outbound, stream: u32, end: End) {
        let end = if end == End::Clean { String::new() } else { format!(" {end:?}") };
        self.events.push(format!("half_close {stream}{end}"));
        assert!(connection.is_half_closed(stream));
        match connection.method(stream) {
            Some(STREAM) => connection.finish(stream, 0, ""),
            None => connection.respond(stream, 200, "text/plain", b"plain answer"),
            _ => {}
        }
    }

    fn cancelled(&mut self, connection: &mut Outbound, stream: u32) {
        assert!(!connection.is_open(stream));
        self.events.push(format!("cancelled {stream}"));
    }

    fn plain(&mut self, _: &mut Outbound, stream: u32, head: &PlainHead<'_>) -> bool {
        if self.takes_plain {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            self.events.push(format!("plain {stream} {} {}", text(head.method), text(head.path)));
        }
        self.takes_plain
    }

    fn plain_body(&mut self, _: &mut Outbound, stream: u32, bytes: &[u8]) {
        self.messages.push((stream, bytes.to_vec()));
    }
}

/// A frame that the server sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn code(&self) -> ErrorCode {
        let at = if self.kind == kind::GOAWAY { 4 } else { 0 };
        ErrorCode(frame::be32(&self.payload[at..]))
    }

    pub fn ends_stream(&self) -> bool {
        matches!(self.kind, kind::DATA | kind::HEADERS) && self.flags & flag::END_STREAM != 0
    }
}

pub fn parse(mut bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let header = FrameHeader::parse(bytes);
        let end = HEADER_BYTES + header.length;
        let payload = bytes[HEADER_BYTES..end].to_vec();
        frames.push(Frame { kind: header.kind, flags: header.flags, stream: header.stream, payload });
        bytes = &bytes[end..];
    }
    frames
}

pub fn raw(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = frame::header(payload.len(), kind, flags, stream).to_vec();
    out.extend_from_slice(payload);
    out
}

pub fn preface() -> Vec<u8> {
    let mut out = PREFACE.to_vec();
    frame::put_settings(&mut out, &[]);
    frame::put_settings_ack(&mut out);
    out
}

pub fn settings(settings: &[(u16, u32)]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::put_settings(&mut out, settings);
    out
}

pub fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    raw(kind::WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

pub fn reset(stream: u32) -> Vec<u8> {
    raw(kind::RST_STREAM, 0, stream, &8u32.to_be_bytes())
}

/// A header block of literals that don't enter any table.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            assert!(text.len() < 127);
            out.push(text.len() as u8);
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

pub fn call_fields(path: &str) -> Vec<(&str, &str)> {
    vec![
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]
}

pub fn call_block(path: &str) -> Vec<u8> {
    block(&call_fields(path))
}

pub fn headers(stream: u32, path: &str, flags: u8) -> Vec<u8> {
    raw(kind::HEADERS, flag::END_HEADERS | flags, stream, &call_block(path))
}

pub fn headers_with(stream: u32, path: &str, flags: u8, more: &[(&str, &str)]) -> Vec<u8> {
    let fields = [&call_fields(path), more].concat();
    raw(kind::HEADERS, flag::END_HEADERS | flags, stream, &block(&fields))
}

pub fn prefixed(message: &[u8]) -> Vec<u8> {
    let mut out = mainstay_net::grpc::prefix(message.len()).to_vec();
    out.extend_from_slice(message);
    out
}

/// Server and raw peer.
pub struct Pair {
    pub server: Connection,
    pub calls: Recorder,
    pub now: u64,
}

impl Pair {
    /// After the handshake, with the handshake's output dropped.
    pub fn new() -> Pair {
        Pair::with(Limits::default())
    }

    pub fn with(limits: Limits) -> Pair {
        let mut pair = Pair::raw(limits);
        pair.feed(&preface()).unwrap();
        pair.output();
        pair
    }

    pub fn raw(limits: Limits) -> Pair {
        let server = Connection::new(Arc::new(limits), &METHODS, 0);
        Pair { server, calls: Recorder::default(), now: 1000 }
    }

    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Closed> {
        self.server.receive(bytes, self.now, &mut self.calls)
    }

    pub fn resume(&mut self) {
        self.server.resume(&mut self.calls);
    }

    /// Everything that the server wants to send, as if sent.
    pub fn take(&mut self) -> Vec<u8> {
        let mut iov = Vec::new();
        self.server.output().gather(&mut iov);
        let bytes: Vec<u8> = iov.iter().flat_map(|slice| slice.to_vec()).collect();
        self.server.output().consumed(bytes.len());
        bytes
    }

    /// The frames of one send.
    pub fn output(&mut self) -> Vec<Frame> {
        parse(&self.take())
    }

    /// The frames of as many sends as it takes, as a socket that is always ready would see them.
    pub fn output_all(&mut self) -> Vec<Frame> {
        let mut bytes = Vec::new();
        loop {
            let more = self.take();
            if more.is_empty() {
                return parse(&bytes);
            }
            bytes.extend(more);
            self.server.outbound().drain_writable(&mut Vec::new());
        }
    }

    pub fn events(&mut self) -> Vec<String> {
        std::mem::take(&mut self.calls.events)
    }
}
