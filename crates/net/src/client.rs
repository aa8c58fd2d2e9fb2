//! The client's half, small and pure: for the load generator and for tests. It speaks to a server it trusts: what it
//! receives is checked for form, not limited against abuse.
//!
//! Header fields that every call repeats enter the server's dynamic table with their first use, as grpc-go's do; from
//! then on the block of a path is copied.

use std::collections::VecDeque;

use crate::error::{ErrorCode, Fault};
use crate::field::Class;
use crate::frame::{self, FrameHeader, HEADER_BYTES, flag, kind};
use crate::grpc::{self, PREFIX_BYTES};
use crate::hpack::decoder::Decoder;
use crate::hpack::static_table::index;
use crate::hpack::{encoder, integer};
use crate::output::Output;
use crate::settings::{DEFAULT_WINDOW, PeerSettings, id};
use crate::streams::Streams;
use crate::window::{Balance, ReceiveWindow, SendWindow};

/// Who takes the answers.
pub trait Answers {
    /// One whole gRPC message, without its prefix.
    fn message(&mut self, stream: u32, message: &[u8]);
    /// The call ended with this status. An HTTP status other than 200 without a gRPC status is code 2.
    fn finished(&mut self, stream: u32, code: u8, message: &str);
    /// The server reset the stream.
    fn reset(&mut self, stream: u32, code: ErrorCode);
    /// The server closes the connection, after the streams up to `last`.
    fn goaway(&mut self, _last: u32, _code: ErrorCode, _debug: &[u8]) {}
}

/// The windows that this client grants, bytes.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Bytes of the server's table that we fill; paths beyond it are literals.
const TABLE_BYTES: usize = 3500;
const FIRST_DYNAMIC: usize = 62;
/// Paths whose header block is kept.
const KNOWN_PATHS: usize = 64;

/// A field in the server's table: name, value, and how many were there before it.
struct Known(Vec<u8>, Vec<u8>, usize);

struct Call {
    send: Balance,
    receive: ReceiveWindow,
    /// An unfinished message.
    assembly: Vec<u8>,
    /// Prefixed messages that wait for a window, and whether END_STREAM follows them.
    waiting: VecDeque<u8>,
    end: bool,
    end_sent: bool,
    http_status: u16,
    status: Option<u8>,
    text: String,
}

impl Call {
    fn new(window: u32, end_sent: bool) -> Call {
        Call {
            send: Balance::default(),
            receive: ReceiveWindow::new(window),
            assembly: Vec::new(),
            waiting: VecDeque::new(),
            end: end_sent,
            end_sent,
            http_status: 0,
            status: None,
            text: String::new(),
        }
    }
}

/// One HTTP/2 connection to a server.
pub struct ClientConnection {
    output: Output,
    calls: Streams<Call>,
    next_stream: u32,
    hpack: Decoder,
    peer: PeerSettings,
    send: SendWindow,
    receive: ReceiveWindow,
    partial: Vec<u8>,
    block: Vec<u8>,
    block_of: Option<(u32, bool)>,
    authority: String,
    /// Fields in the server's table: how many, and their bytes by the RFC's count.
    inserted: usize,
    table_bytes: usize,
    known: Vec<Known>,
    /// The fields of a call that don't vary, by path, and how many fields the table held when they were encoded.
    blocks: Vec<(Box<str>, usize, Vec<u8>)>,
    stream_window: u32,
    goaway: bool,
}

impl Default for ClientConnection {
    fn default() -> Self {
        ClientConnection::new()
    }
}

impl ClientConnection {
    /// Preface and settings are in the output at once.
    pub fn new() -> ClientConnection {
        ClientConnection::with_window(STREAM_WINDOW)
    }

    /// The same with another window per stream, bytes; the connection's is larger.
    pub fn with_window(stream_window: u32) -> ClientConnection {
        let mut output = Output::default();
        let tail = output.tail();
        tail.extend_from_slice(frame::PREFACE);
        frame::put_settings(tail, &[(id::ENABLE_PUSH, 0), (id::INITIAL_WINDOW_SIZE, stream_window)]);
        frame::put_window_update(tail, 0, CONNECTION_WINDOW - DEFAULT_WINDOW);
        let peer = PeerSettings::default();
        ClientConnection {
            output,
            calls: Streams::new(),
            next_stream: 1,
            hpack: Decoder::new(None, 4096),
            send: SendWindow::new(peer.initial_window),
            peer,
            receive: ReceiveWindow::new(CONNECTION_WINDOW),
            partial: Vec::new(),
            block: Vec::new(),
            block_of: None,
            authority: "localhost".into(),
            inserted: 0,
            table_bytes: 0,
            known: Vec::new(),
            blocks: Vec::new(),
            stream_window,
            goaway: false,
        }
    }

    pub fn set_authority(&mut self, authority: &str) {
        self.blocks.clear();
        self.authority = authority.into();
    }

    /// What must go to the socket.
    pub fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    /// Calls under way.
    pub fn open_streams(&self) -> usize {
        self.calls.len()
    }

    /// The server takes no more calls on this connection.
    pub fn is_going_away(&self) -> bool {
        self.goaway
    }

    /// Opens a call and sends its first message. Returns the stream.
    pub fn start(&mut self, path: &str, message: &[u8], end: bool) -> u32 {
        self.start_with(path, &[], Some(message), end)
    }

    /// Opens a call with metadata, and with a first message or without.
    pub fn start_with(
        &mut self,
        path: &str,
        metadata: &[(&str, &str)],
        message: Option<&[u8]>,
        end: bool,
    ) -> u32 {
        let stream = self.next_stream;
        self.next_stream += 2;
        let at = self.output.tail().len();
        let only_headers = message.is_none() && end;
        let flags = flag::END_HEADERS | if only_headers { flag::END_STREAM } else { 0 };
        frame::put_header(self.output.tail(), 0, kind::HEADERS, flags, stream);
        self.constant_fields(path);
        for (name, value) in metadata {
            encoder::field(self.output.tail(), name.as_bytes(), value.as_bytes());
        }
        frame::patch_length(self.output.tail(), at);
        self.calls.insert(stream, Call::new(self.stream_window, only_headers));
        if let Some(message) = message {
            self.send(stream, message, end);
        }
        stream
    }

    /// Everything but metadata: encoded once per path, and again when the server's table has moved on.
    fn constant_fields(&mut self, path: &str) {
        let known = self.blocks.iter().position(|(of, ..)| **of == *path);
        if let Some((_, inserted, block)) = known.map(|i| &self.blocks[i])
            && *inserted == self.inserted
        {
            return self.output.tail().extend_from_slice(block);
        }
        let before = self.inserted;
        let mut block = vec![0x80 | index::METHOD_POST as u8, 0x80 | index::SCHEME_HTTP as u8];
        self.field(&mut block, index::PATH, b":path", path.as_bytes());
        let authority = self.authority.clone();
        self.field(&mut block, index::AUTHORITY, b":authority", authority.as_bytes());
        self.field(&mut block, index::CONTENT_TYPE, b"content-type", b"application/grpc");
        self.field(&mut block, index::USER_AGENT, b"user-agent", b"mainstay");
        self.field(&mut block, 0, b"te", b"trailers");
        self.output.tail().extend_from_slice(&block);
        if let Some(i) = known {
            self.blocks.swap_remove(i);
        }
        if before == self.inserted && self.blocks.len() < KNOWN_PATHS {
            self.blocks.push((path.into(), before, block));
        }
    }

    /// A header field that later calls may repeat.
    fn field(&mut self, out: &mut Vec<u8>, name_index: usize, name: &[u8], value: &[u8]) {
        if let Some(Known(.., before)) = self.known.iter().find(|k| k.0 == name && k.1 == value) {
            return integer::write(out, 0x80, 7, FIRST_DYNAMIC + self.inserted - 1 - before);
        }
        let cost = name.len() + value.len() + 32;
        let keep = self.table_bytes + cost <= TABLE_BYTES;
        match keep {
            true => integer::write(out, 0x40, 6, name_index),
            false => integer::write(out, 0, 4, name_index),
        }
        if name_index == 0 {
            encoder::compact_value(out, name);
        }
        encoder::compact_value(out, value);
        if keep {
            self.known.push(Known(name.to_vec(), value.to_vec(), self.inserted));
            self.inserted += 1;
            self.table_bytes += cost;
        }
    }

    /// Sends a message on an open call; what the windows don't allow waits.
    pub fn send(&mut self, stream: u32, message: &[u8], end: bool) {
        let Some(call) = self.calls.get_mut(stream).filter(|call| !call.end) else { return };
        call.end = end;
        let length = PREFIX_BYTES + message.len();
        let window = self.send.open().min(call.send.open(self.peer.initial_window));
        if call.waiting.is_empty() && length <= window && length <= self.peer.max_frame_bytes as usize {
            let out = self.output.tail();
            frame::put_header(out, length, kind::DATA, u8::from(end), stream);
            out.extend_from_slice(&grpc::prefix(message.len()));
            out.extend_from_slice(message);
            self.send.spend(length);
            call.send.spend(length);
            call.end_sent = end;
            return;
        }
        call.waiting.extend(grpc::prefix(message.len()));
        call.waiting.extend(message);
        self.flush(stream);
    }

    /// Ends our side of a call.
    pub fn half_close(&mut self, stream: u32) {
        if let Some(call) = self.calls.get_mut(stream) {
            call.end = true;
        }
        self.flush(stream);
    }

    /// Gives a call up.
    pub fn cancel(&mut self, stream: u32) {
        if self.calls.remove(stream).is_some() {
            frame::put_reset(self.output.tail(), stream, ErrorCode::CANCEL);
        }
    }

    /// Sends what waits on a stream, as far as windows allow.
    fn flush(&mut self, stream: u32) {
        let Some(call) = self.calls.get_mut(stream) else { return };
        while !call.waiting.is_empty() || (call.end && !call.end_sent) {
            let window = self.send.open().min(call.send.open(self.peer.initial_window));
            let n = call.waiting.len().min(window).min(self.peer.max_frame_bytes as usize);
            if n == 0 && !call.waiting.is_empty() {
                return;
            }
            let last = call.end && n == call.waiting.len();
            let out = self.output.tail();
            frame::put_header(out, n, kind::DATA, u8::from(last), stream);
            let (front, back) = call.waiting.as_slices();
            out.extend_from_slice(&front[..n.min(front.len())]);
            out.extend_from_slice(&back[..n.saturating_sub(front.len())]);
            call.waiting.drain(..n);
            self.send.spend(n);
            call.send.spend(n);
            call.end_sent = last;
        }
    }

    /// Handles all frames in `bytes`. An error is the server's, and final.
    pub fn receive(&mut self, bytes: &[u8], answers: &mut impl Answers) -> Result<(), String> {
        let mut rest = bytes;
        if !self.partial.is_empty() {
            let mut partial = std::mem::take(&mut self.partial);
            loop {
                let need = match partial.len() {
                    0..HEADER_BYTES => HEADER_BYTES,
                    _ => HEADER_BYTES + FrameHeader::parse(&partial).length,
                };
                let n = need.saturating_sub(partial.len()).min(rest.len());
                partial.extend_from_slice(&rest[..n]);
                rest = &rest[n..];
                if partial.len() < need {
                    self.partial = partial;
                    return Ok(());
                }
                let header = FrameHeader::parse(&partial);
                if partial.len() == HEADER_BYTES + header.length {
                    self.frame(&header, &partial[HEADER_BYTES..], answers)?;
                    partial.clear();
                    self.partial = partial;
                    break;
                }
            }
        }
        while rest.len() >= HEADER_BYTES {
            let header = FrameHeader::parse(rest);
            if rest.len() < HEADER_BYTES + header.length {
                break;
            }
            let (payload, after) = rest[HEADER_BYTES..].split_at(header.length);
            self.frame(&header, payload, answers)?;
            rest = after;
        }
        self.partial.extend_from_slice(rest);
        Ok(())
    }

    fn frame(
        &mut self,
        header: &FrameHeader,
        payload: &[u8],
        answers: &mut impl Answers,
    ) -> Result<(), String> {
        if header.length > crate::settings::DEFAULT_FRAME_BYTES as usize {
            return Err("a frame larger than allowed".into());
        }
        match header.kind {
            kind::DATA => self.data(header, payload, answers),
            kind::HEADERS | kind::CONTINUATION => self.headers(header, payload, answers),
            kind::SETTINGS if !header.has(flag::ACK) => {
                self.peer.apply(payload).map_err(describe)?;
                frame::put_settings_ack(self.output.tail());
                self.flush_all();
                Ok(())
            }
            kind::PING if !header.has(flag::ACK) => {
                let payload = payload.try_into().map_err(|_| "PING of a length other than eight")?;
                frame::put_ping(self.output.tail(), true, payload);
                Ok(())
            }
            kind::WINDOW_UPDATE if payload.len() == 4 => {
                let increment = frame::be32(payload) & frame::MAX_31_BITS;
                let fits = match self.calls.get_mut(header.stream) {
                    Some(call) => call.send.widen(increment, self.peer.initial_window),
                    None if header.stream == 0 => self.send.widen(increment),
                    None => true,
                };
                if !fits || increment == 0 {
                    return Err("WINDOW_UPDATE of nothing, or beyond 2^31-1".into());
                }
                match header.stream {
                    0 => self.flush_all(),
                    stream => self.flush(stream),
                }
                Ok(())
            }
            kind::RST_STREAM if payload.len() == 4 => {
                if self.calls.remove(header.stream).is_some() {
                    answers.reset(header.stream, ErrorCode(frame::be32(payload)));
                }
                Ok(())
            }
            kind::GOAWAY if payload.len() >= 8 => {
                self.goaway = true;
                let last = frame::be32(payload) & frame::STREAM_ID_MASK;
                answers.goaway(last, ErrorCode(frame::be32(&payload[4..])), &payload[8..]);
                Ok(())
            }
            kind::WINDOW_UPDATE | kind::RST_STREAM | kind::GOAWAY => Err("a frame of a wrong size".into()),
            kind::PUSH_PROMISE => Err("PUSH_PROMISE though it is disabled".into()),
            _ => Ok(()),
        }
    }

    fn flush_all(&mut self) {
        if self.calls.iter().any(|call| !call.waiting.is_empty()) {
            self.calls.ids().into_iter().for_each(|stream| self.flush(stream));
        }
    }

    fn data(
        &mut self,
        header: &FrameHeader,
        payload: &[u8],
        answers: &mut impl Answers,
    ) -> Result<(), String> {
        if !self.receive.take(payload.len()) {
            return Err("DATA beyond the connection's window".into());
        }
        if let Some(increment) = self.receive.give_back() {
            frame::put_window_update(self.output.tail(), 0, increment);
        }
        let Some(call) = self.calls.get_mut(header.stream) else {
            return Ok(());
        };
        if !call.receive.take(payload.len()) {
            return Err("DATA beyond the stream's window".into());
        }
        if let Some(increment) = call.receive.give_back() {
            frame::put_window_update(self.output.tail(), header.stream, increment);
        }
        let mut chunk = frame::strip_padding(header.flags, payload).ok_or("padding longer than its frame")?;
        while !chunk.is_empty() {
            if call.assembly.is_empty() && chunk.len() >= PREFIX_BYTES {
                let length = frame::be32(&chunk[1..]) as usize;
                if chunk.len() >= PREFIX_BYTES + length {
                    answers.message(header.stream, &chunk[PREFIX_BYTES..][..length]);
                    chunk = &chunk[PREFIX_BYTES + length..];
                    continue;
                }
            }
            let need = match call.assembly.len() {
                0..PREFIX_BYTES => PREFIX_BYTES,
                _ => PREFIX_BYTES + frame::be32(&call.assembly[1..]) as usize,
            };
            let n = (need - call.assembly.len()).min(chunk.len());
            call.assembly.extend_from_slice(&chunk[..n]);
            chunk = &chunk[n..];
            let known = call.assembly.len() >= PREFIX_BYTES;
            if known && call.assembly.len() == PREFIX_BYTES + frame::be32(&call.assembly[1..]) as usize {
                answers.message(header.stream, &call.assembly[PREFIX_BYTES..]);
                call.assembly.clear();
            }
        }
        if header.has(flag::END_STREAM) {
            self.finished(header.stream, answers);
        }
        Ok(())
    }

    fn headers(
        &mut self,
        header: &FrameHeader,
        payload: &[u8],
        answers: &mut impl Answers,
    ) -> Result<(), String> {
        let fragment = match header.kind {
            kind::HEADERS => {
                let fragment =
                    frame::strip_padding(header.flags, payload).ok_or("padding longer than its frame")?;
                self.block.clear();
                self.block_of = Some((header.stream, header.has(flag::END_STREAM)));
                fragment
            }
            _ => payload,
        };
        self.block.extend_from_slice(fragment);
        if !header.has(flag::END_HEADERS) {
            return Ok(());
        }
        let (stream, end) = self.block_of.take().ok_or("CONTINUATION without a header block")?;
        let mut dropped = Call::new(0, true);
        let call = self.calls.get_mut(stream).unwrap_or(&mut dropped);
        let decoded = self.hpack.decode(&self.block, |class, _, value| match class {
            Class::Status(status) => call.http_status = status,
            Class::GrpcStatus(code) => call.status = Some(code),
            Class::GrpcMessage => call.text = grpc::percent_decode(value),
            _ => {}
        });
        decoded.map_err(|error| error.0)?;
        if end {
            self.finished(stream, answers);
        }
        Ok(())
    }

    fn finished(&mut self, stream: u32, answers: &mut impl Answers) {
        let Some(call) = self.calls.remove(stream) else { return };
        match call.status {
            Some(code) => answers.finished(stream, code, &call.text),
            None => {
                let text = format!("HTTP status {} without a gRPC status", call.http_status);
                answers.finished(stream, grpc::code::UNKNOWN, &text);
            }
        }
    }
}

fn describe(fault: Fault) -> String {
    match fault {
        Fault::Stream(stream, code) => format!("{code} on stream {stream}"),
        Fault::Connection(code, why) => format!("{code}: {why}"),
    }
}
