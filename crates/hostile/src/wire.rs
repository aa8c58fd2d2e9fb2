//! What a peer of the server sees on the wire: frames, header blocks, messages; and the laws that hold of them whatever
//! was sent before.

use std::collections::HashMap;

use net::frame::{self, FrameHeader, HEADER_BYTES, PREFACE, flag, kind};
use net::hpack::{Fields, encoder};
use net::{ErrorCode, Output};

/// The most that the server puts into one frame, whatever its peer allows.
const FRAME_BYTES_MAX: usize = base::limits::SEND_FRAME_BYTES;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// Everything that waits in an output, as if sent.
pub fn drain(output: &mut Output) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !output.is_empty() {
        let mut slices = Vec::new();
        output.gather(&mut slices);
        let before = bytes.len();
        slices.iter().for_each(|slice| bytes.extend_from_slice(slice));
        let taken = bytes.len() - before;
        assert!(taken > 0, "what waits can be sent");
        output.consumed(taken);
    }
    bytes
}

/// The whole frames of a stream of bytes, behind a client's preface if there is one; what is not whole is left out.
pub fn frames(bytes: &[u8]) -> Vec<Frame> {
    let mut rest = bytes.strip_prefix(PREFACE).unwrap_or(bytes);
    let mut frames = Vec::new();
    while rest.len() >= HEADER_BYTES {
        let header = FrameHeader::parse(rest);
        let Some(payload) = rest[HEADER_BYTES..].get(..header.length) else { break };
        frames.push(Frame {
            kind: header.kind,
            flags: header.flags,
            stream: header.stream,
            payload: payload.to_vec(),
        });
        rest = &rest[HEADER_BYTES + header.length..];
    }
    frames
}

pub fn push_frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    frame::put_header(out, payload.len(), kind, flags, stream);
    out.extend_from_slice(payload);
}

/// A client's first bytes.
pub fn preface() -> Vec<u8> {
    let mut out = PREFACE.to_vec();
    frame::put_settings(&mut out, &[]);
    frame::put_settings_ack(&mut out);
    out
}

/// The header block of a call, as literals.
pub fn call_block(path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    let usual =
        [(":method", "POST"), (":scheme", "http"), (":path", path), ("content-type", "application/grpc")];
    for (name, value) in usual.iter().chain(more) {
        encoder::field(&mut block, name.as_bytes(), value.as_bytes());
    }
    block
}

/// One stream as the server answered it.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub fields: Vec<(String, String)>,
    pub data: Vec<u8>,
    pub ended: bool,
    pub reset: bool,
    blocks: u32,
}

impl Answer {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// The messages, if the data is whole ones.
    pub fn messages(&self) -> Option<Vec<&[u8]>> {
        let mut messages = Vec::new();
        let mut rest = self.data.as_slice();
        while !rest.is_empty() {
            let (prefix, after) = rest.split_first_chunk::<5>()?;
            let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
            let (message, behind) = after.split_at_checked(length)?;
            assert_eq!(prefix[0], 0, "the server does not compress");
            messages.push(message);
            rest = behind;
        }
        Some(messages)
    }
}

/// Of ids that are less than this apart the server knows which it has reset.
const RESETS_KNOWN: u32 = 2 * (16 << 10);

/// Reads all that a server sent on one connection, and panics where it breaks the protocol.
pub fn read_server(bytes: &[u8]) -> HashMap<u32, Answer> {
    let all = frames(bytes);
    let read: usize = all.iter().map(|frame| HEADER_BYTES + frame.payload.len()).sum();
    assert_eq!(read, bytes.len(), "the server sends whole frames");
    assert_eq!(all.first().map(|frame| frame.kind), Some(kind::SETTINGS), "settings come first");
    let mut fields = Fields::new(base::limits::HPACK_TABLE_BYTES);
    let mut answers: HashMap<u32, Answer> = HashMap::new();
    let mut newest_reset = 0;
    for frame in all {
        assert!(frame.payload.len() <= FRAME_BYTES_MAX, "a frame of {} bytes", frame.payload.len());
        let size = frame.payload.len();
        match frame.kind {
            kind::DATA | kind::HEADERS => {
                assert!(frame.stream % 2 == 1, "answers go to the client's streams");
                assert!(frame.flags & flag::PADDED == 0, "the server does not pad");
                let answer = answers.entry(frame.stream).or_default();
                assert!(!answer.ended && !answer.reset, "stream {} goes on after its end", frame.stream);
                answer.ended = frame.flags & flag::END_STREAM != 0;
                if frame.kind == kind::DATA {
                    assert!(answer.blocks == 1, "data stands between headers and trailers");
                    answer.data.extend_from_slice(&frame.payload);
                } else {
                    read_block(&mut fields, &frame, answer);
                }
            }
            kind::RST_STREAM => {
                assert!(size == 4 && frame.stream != 0, "a reset of four bytes");
                let answer = answers.entry(frame.stream).or_default();
                // A PRIORITY of a wrong length is an error of its stream even when that is closed (RFC 9113, 5.1, 6.3).
                let code = frame::be32(&frame.payload);
                let priority = code == ErrorCode::FRAME_SIZE_ERROR.0;
                // Resets are remembered for ids near the newest one; what comes for others is answered anew (5.1 allows it).
                let forgotten =
                    code == ErrorCode::STREAM_CLOSED.0 && newest_reset >= frame.stream + RESETS_KNOWN;
                assert!(
                    !answer.reset || priority || forgotten,
                    "a stream is reset once: {:?}",
                    frame.payload
                );
                answer.reset = true;
                newest_reset = newest_reset.max(frame.stream);
            }
            kind::SETTINGS => assert!(frame.stream == 0 && size.is_multiple_of(6), "settings"),
            kind::PING => assert!(frame.stream == 0 && size == 8, "a ping of eight bytes"),
            kind::GOAWAY => assert!(frame.stream == 0 && size >= 8, "a goaway"),
            kind::WINDOW_UPDATE => {
                assert!(size == 4 && frame::be32(&frame.payload) & frame::MAX_31_BITS > 0, "a window grows");
            }
            other => panic!("the server sends no frames of kind {other}"),
        }
    }
    answers
}

fn read_block(fields: &mut Fields, frame: &Frame, answer: &mut Answer) {
    assert!(frame.flags & flag::END_HEADERS != 0, "answers need no continuation");
    let first = answer.fields.len();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("answers are text");
    let read = fields.decode(&frame.payload, |name, value| answer.fields.push((text(name), text(value))));
    read.expect("the server's blocks are in step with the table");
    answer.blocks += 1;
    assert!(answer.blocks <= 2, "headers, and trailers");
    let has_status = answer.fields[first..].iter().any(|(name, _)| name == ":status");
    assert_eq!(has_status, answer.blocks == 1, "a status stands in the first block");
    assert!(answer.blocks == 1 || answer.ended, "trailers end the stream");
    if answer.ended && answer.field("grpc-status") == Some("0") {
        assert!(answer.messages().is_some(), "a call that ends well has whole messages");
    }
}

/// Upper bounds of what a client's bytes allow the server to send: DATA on the connection, and on one stream.
pub struct Allowance {
    connection: u64,
    streams: HashMap<u32, u64>,
    initial: u64,
}

impl Allowance {
    /// What a conversation grants, were all of it valid.
    pub fn of(bytes: &[u8]) -> Allowance {
        let default = u64::from(net::settings::DEFAULT_WINDOW);
        let mut allowance = Allowance { connection: default, streams: HashMap::new(), initial: default };
        for frame in frames(bytes) {
            if frame.kind == kind::WINDOW_UPDATE && frame.payload.len() == 4 {
                let more = u64::from(frame::be32(&frame.payload) & frame::MAX_31_BITS);
                match frame.stream {
                    0 => allowance.connection += more,
                    stream => *allowance.streams.entry(stream).or_default() += more,
                }
            }
            if frame.kind == kind::SETTINGS {
                for setting in frame.payload.chunks_exact(6) {
                    if setting[..2] == [0, net::settings::id::INITIAL_WINDOW_SIZE as u8] {
                        allowance.initial = allowance.initial.max(u64::from(frame::be32(&setting[2..])));
                    }
                }
            }
        }
        allowance
    }

    pub fn check(&self, answers: &HashMap<u32, Answer>) {
        let total: usize = answers.values().map(|answer| answer.data.len()).sum();
        assert!(total as u64 <= self.connection, "{total} bytes of data, {} allowed", self.connection);
        for (stream, answer) in answers {
            let allowed = self.initial + self.streams.get(stream).copied().unwrap_or(0);
            assert!(answer.data.len() as u64 <= allowed, "stream {stream}: beyond its window");
        }
    }
}
