//! One client connection: frames, flow control, message assembly (RFC 9113 and gRPC's length prefix).
//!
//! Invariants: a stream lives in the slot that its id maps to, and ids are chosen so that no two live streams share
//! one; data that flow control holds back leaves in the order in which it was written. Everything received counts
//! against the connection's window, also for streams that are gone. Must not touch a socket or read a clock.

use std::collections::VecDeque;

use net::frame::{self, FrameHeader, HEADER_BYTES, PREFACE, flag, kind};
use net::grpc::{self, PREFIX_BYTES};
use net::settings::{DEFAULT_WINDOW, id as setting};
use net::{ErrorCode, hpack};

use super::Method;
use super::hpack::{Encoder, Fields, TABLE_BYTES};

/// What we grant a stream, bytes: a 500-key answer never waits for us.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// What we grant the connection, bytes.
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;
/// The largest frame that we accept, bytes: the protocol's default.
const FRAME_BYTES: usize = base::limits::FRAME_BYTES;
const PADDING: &str = "more padding than frame";

/// Keep the whole message, whatever its length: see [`Connection::call`].
pub const KEEP_ALL: u32 = u32::MAX;

/// One gRPC message of an answer.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The message, or its beginning when the call asked to keep less than it has.
    pub bytes: &'a [u8],
    /// The length of the whole, bytes.
    pub total: usize,
}

/// Who hears the answers. `call` is the number that the caller gave to [`Connection::call`].
pub trait Answers {
    fn message(&mut self, call: u32, message: Message<'_>);
    /// The call is over: `code` is gRPC's, `text` its message. Nothing about `call` follows.
    fn end(&mut self, call: u32, code: u32, text: &str);
}

/// The connection is of no more use; the text says why.
#[derive(Debug)]
pub struct Broken(pub String);

impl From<&'static str> for Broken {
    fn from(what: &'static str) -> Broken {
        Broken(what.to_owned())
    }
}

#[derive(Default)]
struct Stream {
    /// 0: the slot is free.
    id: u32,
    call: u32,
    /// Bytes of a message to keep for the caller.
    keep: u32,
    send_window: i64,
    /// Received and not yet given back to the peer as window, bytes.
    uncredited: u32,
    prefix: [u8; PREFIX_BYTES],
    prefix_bytes: usize,
    /// Of the message under assembly: its length, how much came, and what is kept.
    total: usize,
    seen: usize,
    kept: Vec<u8>,
}

impl Stream {
    fn reuse(&mut self, id: u32, call: u32, keep: u32, send_window: i64) {
        assert_eq!(self.id, 0, "a slot is given to one stream at a time");
        self.id = id;
        self.call = call;
        self.keep = keep;
        self.send_window = send_window;
        self.uncredited = 0;
        self.prefix_bytes = 0;
    }
}

/// Data that waits for window, of one write.
struct Held {
    id: u32,
    data: Vec<u8>,
    sent: usize,
    last: bool,
}

/// See the module.
pub struct Connection {
    /// What must go to the socket. The owner takes it from the front.
    pub output: Vec<u8>,
    encoder: Encoder,
    decoder: hpack::Fields,
    fields: Fields,
    slots: Vec<Stream>,
    live: usize,
    next_id: u32,
    send_window: i64,
    held: VecDeque<Held>,
    uncredited: u32,
    peer_window: i64,
    peer_frame_bytes: usize,
    peer_streams: u32,
    /// A header block that goes on in CONTINUATION frames: its stream, whether it ends the stream, its bytes so far.
    unfinished: Option<(u32, bool, Vec<u8>)>,
}

impl Connection {
    /// A connection whose preface, settings and window stand in the output. `authority` is host:port.
    pub fn new(authority: &str) -> Connection {
        let mut output = Vec::with_capacity(64 << 10);
        output.extend_from_slice(PREFACE);
        let settings = [(setting::ENABLE_PUSH, 0), (setting::INITIAL_WINDOW_SIZE, STREAM_WINDOW_BYTES)];
        frame::put_settings(&mut output, &settings);
        frame::put_window_update(&mut output, 0, CONNECTION_WINDOW_BYTES - DEFAULT_WINDOW);
        Connection {
            output,
            encoder: Encoder::new(authority),
            decoder: hpack::Fields::new(TABLE_BYTES),
            fields: Fields::default(),
            slots: std::iter::repeat_with(Stream::default).take(64).collect(),
            live: 0,
            next_id: 1,
            send_window: i64::from(DEFAULT_WINDOW),
            held: VecDeque::new(),
            uncredited: 0,
            peer_window: i64::from(DEFAULT_WINDOW),
            peer_frame_bytes: FRAME_BYTES,
            peer_streams: u32::MAX,
            unfinished: None,
        }
    }

    /// Streams that the peer still lets us open.
    pub fn room(&self) -> usize {
        (self.peer_streams as usize).saturating_sub(self.live)
    }

    /// Begins a call with its first message, which `write` appends. `last`: no message follows (the call is unary).
    /// Of each answer at most `keep` bytes are kept for [`Answers::message`]; those in one frame come whole anyway.
    /// Returns the stream's id.
    pub fn call(
        &mut self,
        method: Method,
        call: u32,
        keep: u32,
        last: bool,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> u32 {
        let id = self.take_id();
        let slot = self.slot(id);
        self.slots[slot].reuse(id, call, keep, self.peer_window);
        self.live += 1;
        let at = self.output.len();
        frame::put_header(&mut self.output, 0, kind::HEADERS, flag::END_HEADERS, id);
        self.encoder.encode(method, &mut self.output);
        frame::patch_length(&mut self.output, at);
        self.send(id, last, write);
        id
    }

    /// One more message on an open stream; a stream that has ended meanwhile swallows it.
    pub fn send(&mut self, id: u32, last: bool, write: impl FnOnce(&mut Vec<u8>)) {
        let slot = self.slot(id);
        if self.slots[slot].id != id {
            return;
        }
        let at = self.output.len();
        frame::put_header(&mut self.output, 0, kind::DATA, if last { flag::END_STREAM } else { 0 }, id);
        let prefix = self.output.len();
        self.output.extend_from_slice(&[0; PREFIX_BYTES]);
        write(&mut self.output);
        let data = self.output.len() - prefix;
        self.output[prefix..prefix + PREFIX_BYTES].copy_from_slice(&grpc::prefix(data - PREFIX_BYTES));
        let window = self.send_window.min(self.slots[slot].send_window);
        if self.held.is_empty() && data <= self.peer_frame_bytes && data as i64 <= window {
            self.send_window -= data as i64;
            self.slots[slot].send_window -= data as i64;
            frame::patch_length(&mut self.output, at);
        } else {
            let data = self.output.split_off(prefix);
            self.output.truncate(at);
            self.held.push_back(Held { id, data, sent: 0, last });
            self.release();
        }
    }

    /// Takes as many whole frames as `input` holds and returns the bytes used; the caller gives the rest again, with
    /// what follows it. Answers go to `answers` as they are found.
    pub fn receive(&mut self, input: &[u8], answers: &mut impl Answers) -> Result<usize, Broken> {
        let mut used = 0;
        while input.len() - used >= HEADER_BYTES {
            let header = FrameHeader::parse(&input[used..]);
            if header.length > FRAME_BYTES {
                return Err("a frame larger than we allow".into());
            }
            let end = used + HEADER_BYTES + header.length;
            let Some(payload) = input.get(used + HEADER_BYTES..end) else { break };
            self.frame(header, payload, answers)?;
            used = end;
        }
        if self.uncredited >= CONNECTION_WINDOW_BYTES / 4 {
            frame::put_window_update(&mut self.output, 0, self.uncredited);
            self.uncredited = 0;
        }
        Ok(used)
    }

    fn frame(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        answers: &mut impl Answers,
    ) -> Result<(), Broken> {
        let FrameHeader { kind, flags, stream: id, .. } = header;
        if self.unfinished.is_some() && kind != kind::CONTINUATION {
            return Err("a frame inside a header block".into());
        }
        match kind {
            kind::DATA => self.data(flags, id, payload, answers),
            kind::HEADERS => {
                let mut block = frame::strip_padding(flags, payload).ok_or(PADDING)?;
                if flags & flag::PRIORITY != 0 {
                    block = block.get(5..).ok_or("a header frame too short for its priority")?;
                }
                let ends = flags & flag::END_STREAM != 0;
                if flags & flag::END_HEADERS != 0 {
                    self.headers(id, ends, block, answers)
                } else {
                    self.unfinished = Some((id, ends, block.to_vec()));
                    Ok(())
                }
            }
            kind::CONTINUATION => {
                let (stream, ends, mut block) = self.unfinished.take().ok_or("a continuation of nothing")?;
                if stream != id {
                    return Err("a continuation of another stream".into());
                }
                block.extend_from_slice(payload);
                if block.len() > base::limits::HEADER_LIST_BYTES {
                    return Err("a header block larger than we allow".into());
                }
                if flags & flag::END_HEADERS != 0 {
                    self.headers(id, ends, &block, answers)
                } else {
                    self.unfinished = Some((stream, ends, block));
                    Ok(())
                }
            }
            kind::RST_STREAM => {
                let code = u32_of(payload, "a reset frame of a wrong length")?;
                if let Some(call) = self.retire(id) {
                    answers.end(
                        call,
                        grpc_code_of_reset(ErrorCode(code)).into(),
                        &format!("the server reset the stream: {code}"),
                    );
                }
                Ok(())
            }
            kind::SETTINGS if flags & flag::ACK != 0 => Ok(()),
            kind::SETTINGS => self.settings(payload),
            kind::PING if flags & flag::ACK != 0 => Ok(()),
            kind::PING => {
                let payload = payload.try_into().map_err(|_| "a ping of a wrong length")?;
                frame::put_ping(&mut self.output, true, payload);
                Ok(())
            }
            kind::WINDOW_UPDATE => {
                let increment =
                    i64::from(u32_of(payload, "a window update of a wrong length")? & frame::MAX_31_BITS);
                if id == 0 {
                    self.send_window += increment;
                } else if let Some(stream) = self.stream(id) {
                    stream.send_window += increment;
                }
                self.release();
                Ok(())
            }
            kind::GOAWAY => {
                let code = payload.get(4..8).map_or(0, |code| u32_of(code, "").unwrap_or(0));
                let text = String::from_utf8_lossy(payload.get(8..).unwrap_or(&[]));
                Err(Broken(format!("the server closes the connection: error {code}, {text:?}")))
            }
            kind::PUSH_PROMISE => Err("a pushed stream, which we refused".into()),
            _ => Ok(()),
        }
    }

    fn data(&mut self, flags: u8, id: u32, payload: &[u8], answers: &mut impl Answers) -> Result<(), Broken> {
        self.uncredited += payload.len() as u32;
        let mut rest = frame::strip_padding(flags, payload).ok_or(PADDING)?;
        let slot = self.slot(id);
        if self.slots[slot].id != id || id == 0 {
            return Ok(());
        }
        let stream = &mut self.slots[slot];
        while !rest.is_empty() {
            // The common case first: a whole message within the frame is handed on where it lies.
            if stream.prefix_bytes == 0
                && let Some(prefix) = rest.first_chunk::<PREFIX_BYTES>()
            {
                let total = message_bytes(prefix)?;
                if let Some(bytes) = rest.get(PREFIX_BYTES..PREFIX_BYTES + total) {
                    answers.message(stream.call, Message { bytes, total });
                    rest = &rest[PREFIX_BYTES + total..];
                    continue;
                }
            }
            rest = stream.assemble(rest)?;
            if stream.prefix_bytes == PREFIX_BYTES && stream.seen == stream.total {
                answers.message(stream.call, Message { bytes: &stream.kept, total: stream.total });
                stream.prefix_bytes = 0;
            }
        }
        if flags & flag::END_STREAM != 0 {
            let call = self.retire(id).expect("the stream is live");
            answers.end(call, 2, "the server ended the stream without a status");
            return Ok(());
        }
        stream.uncredited += payload.len() as u32;
        if stream.uncredited >= STREAM_WINDOW_BYTES / 4 {
            let credit = std::mem::take(&mut stream.uncredited);
            frame::put_window_update(&mut self.output, id, credit);
        }
        Ok(())
    }

    fn headers(
        &mut self,
        id: u32,
        ends: bool,
        block: &[u8],
        answers: &mut impl Answers,
    ) -> Result<(), Broken> {
        self.fields.read(&mut self.decoder, block)?;
        if !ends {
            return Ok(());
        }
        let Some(call) = self.retire(id) else { return Ok(()) };
        match (self.fields.grpc_status, self.fields.http_status) {
            (Some(code), _) => answers.end(call, code, &self.fields.grpc_message),
            (None, status) => {
                answers.end(call, 2, &format!("no grpc-status; HTTP status {}", status.unwrap_or(0)));
            }
        }
        Ok(())
    }

    fn settings(&mut self, payload: &[u8]) -> Result<(), Broken> {
        for entry in payload.chunks(6) {
            let &[n0, n1, v0, v1, v2, v3] = entry else { return Err("settings of a wrong length".into()) };
            let value = u32::from_be_bytes([v0, v1, v2, v3]);
            match u16::from_be_bytes([n0, n1]) {
                setting::HEADER_TABLE_SIZE if (value as usize) < TABLE_BYTES => {
                    return Err(
                        "a header table below the protocol's default, which this client relies on".into()
                    );
                }
                setting::MAX_CONCURRENT_STREAMS => self.peer_streams = value,
                setting::INITIAL_WINDOW_SIZE => {
                    let change = i64::from(value) - self.peer_window;
                    self.peer_window = i64::from(value);
                    self.slots.iter_mut().for_each(|stream| stream.send_window += change);
                }
                setting::MAX_FRAME_SIZE => self.peer_frame_bytes = value as usize,
                _ => {}
            }
        }
        frame::put_settings_ack(&mut self.output);
        self.release();
        Ok(())
    }

    /// Sends what flow control held back and now allows. The first that can't go on stops those behind it: a client
    /// under measurement whose window is short is short for all.
    fn release(&mut self) {
        while let Some(held) = self.held.front_mut() {
            let slot = (held.id >> 1) as usize & (self.slots.len() - 1);
            let stream = &mut self.slots[slot];
            if stream.id == held.id {
                let left = held.data.len() - held.sent;
                let window = self.send_window.min(stream.send_window).max(0) as usize;
                let now = left.min(window).min(self.peer_frame_bytes);
                if now == 0 {
                    return;
                }
                let ends = held.last && now == left;
                frame::put_header(
                    &mut self.output,
                    now,
                    kind::DATA,
                    if ends { flag::END_STREAM } else { 0 },
                    held.id,
                );
                self.output.extend_from_slice(&held.data[held.sent..held.sent + now]);
                held.sent += now;
                stream.send_window -= now as i64;
                self.send_window -= now as i64;
                if now < left {
                    continue;
                }
            }
            self.held.pop_front();
        }
    }

    fn slot(&self, id: u32) -> usize {
        (id >> 1) as usize & (self.slots.len() - 1)
    }

    fn stream(&mut self, id: u32) -> Option<&mut Stream> {
        let slot = self.slot(id);
        let stream = &mut self.slots[slot];
        (stream.id == id && id != 0).then_some(stream)
    }

    /// The next id whose slot is free. Skipping ids is allowed: they count as closed.
    fn take_id(&mut self) -> u32 {
        if self.live * 2 >= self.slots.len() {
            let old = std::mem::take(&mut self.slots);
            self.slots = std::iter::repeat_with(Stream::default).take(old.len() * 2).collect();
            for stream in old.into_iter().filter(|stream| stream.id != 0) {
                let slot = self.slot(stream.id);
                self.slots[slot] = stream;
            }
        }
        loop {
            let id = self.next_id;
            assert!(id < frame::MAX_31_BITS, "a run of this length has fewer than 2^30 calls a connection");
            self.next_id += 2;
            if self.slots[self.slot(id)].id == 0 {
                return id;
            }
        }
    }

    fn retire(&mut self, id: u32) -> Option<u32> {
        let stream = self.stream(id)?;
        stream.id = 0;
        let call = stream.call;
        self.live -= 1;
        Some(call)
    }
}

impl Stream {
    /// Takes the part of `data` that belongs to the message under assembly; returns what follows it.
    fn assemble<'a>(&mut self, data: &'a [u8]) -> Result<&'a [u8], Broken> {
        let mut rest = data;
        if self.prefix_bytes < PREFIX_BYTES {
            let taken = rest.len().min(PREFIX_BYTES - self.prefix_bytes);
            self.prefix[self.prefix_bytes..self.prefix_bytes + taken].copy_from_slice(&rest[..taken]);
            self.prefix_bytes += taken;
            rest = &rest[taken..];
            if self.prefix_bytes < PREFIX_BYTES {
                return Ok(rest);
            }
            self.total = message_bytes(&self.prefix)?;
            self.seen = 0;
            self.kept.clear();
        }
        let taken = rest.len().min(self.total - self.seen);
        let wanted = (self.keep as usize).saturating_sub(self.kept.len()).min(taken);
        self.kept.extend_from_slice(&rest[..wanted]);
        self.seen += taken;
        Ok(&rest[taken..])
    }
}

fn message_bytes(prefix: &[u8; PREFIX_BYTES]) -> Result<usize, Broken> {
    if prefix[0] != 0 {
        return Err("a compressed message, which we did not ask for".into());
    }
    Ok(frame::be32(&prefix[1..]) as usize)
}

fn u32_of(payload: &[u8], otherwise: &'static str) -> Result<u32, Broken> {
    Ok(u32::from_be_bytes(payload.try_into().map_err(|_| otherwise)?))
}

/// gRPC's mapping of HTTP/2 error codes.
fn grpc_code_of_reset(code: ErrorCode) -> u8 {
    match code {
        ErrorCode::REFUSED_STREAM => grpc::code::UNAVAILABLE,
        ErrorCode::CANCEL => grpc::code::CANCELLED,
        ErrorCode::ENHANCE_YOUR_CALM => grpc::code::RESOURCE_EXHAUSTED,
        _ => grpc::code::INTERNAL,
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
