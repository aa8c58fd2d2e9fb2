//! One client connection: frames, flow control, message assembly (RFC 9113 and gRPC's length prefix).
//!
//! Invariants: a stream lives in the slot that its id maps to, and ids are chosen so that no two live streams share
//! one; data that flow control holds back leaves in the order in which it was written. Everything received counts
//! against the connection's window, also for streams that are gone. Must not touch a socket or read a clock.

use std::collections::VecDeque;

use super::Method;
use super::hpack::{Decoder, Encoder, Fields};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEADER_BYTES: usize = 9;
/// gRPC's prefix of a message: a compression flag and a length, bytes.
const PREFIX_BYTES: usize = 5;
/// The window that every stream and connection begins with, bytes.
const INITIAL_WINDOW_BYTES: u32 = 65_535;
/// What we grant a stream, bytes: a 500-key answer never waits for us.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// What we grant the connection, bytes.
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;
/// The largest frame that we accept, bytes: the protocol's default.
const FRAME_BYTES: usize = base::limits::FRAME_BYTES;
const LAST_STREAM_ID: u32 = i32::MAX as u32;

/// Keep the whole message, whatever its length: see [`Connection::call`].
pub const KEEP_ALL: u32 = u32::MAX;

mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

mod flag {
    pub const END_STREAM: u8 = 0x1;
    pub const ACK: u8 = 0x1;
    pub const END_HEADERS: u8 = 0x4;
    pub const PADDED: u8 = 0x8;
    pub const PRIORITY: u8 = 0x20;
}

mod setting {
    pub const HEADER_TABLE_SIZE: u16 = 1;
    pub const ENABLE_PUSH: u16 = 2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    pub const MAX_FRAME_SIZE: u16 = 5;
}

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
    decoder: Decoder,
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
        frame_header(&mut output, 12, kind::SETTINGS, 0, 0);
        for (name, value) in [(setting::ENABLE_PUSH, 0), (setting::INITIAL_WINDOW_SIZE, STREAM_WINDOW_BYTES)]
        {
            output.extend_from_slice(&name.to_be_bytes());
            output.extend_from_slice(&value.to_be_bytes());
        }
        window_update(&mut output, 0, CONNECTION_WINDOW_BYTES - INITIAL_WINDOW_BYTES);
        Connection {
            output,
            encoder: Encoder::new(authority),
            decoder: Decoder::default(),
            fields: Fields::default(),
            slots: std::iter::repeat_with(Stream::default).take(64).collect(),
            live: 0,
            next_id: 1,
            send_window: i64::from(INITIAL_WINDOW_BYTES),
            held: VecDeque::new(),
            uncredited: 0,
            peer_window: i64::from(INITIAL_WINDOW_BYTES),
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
        frame_header(&mut self.output, 0, kind::HEADERS, flag::END_HEADERS, id);
        self.encoder.encode(method, &mut self.output);
        close_frame(&mut self.output, at);
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
        frame_header(&mut self.output, 0, kind::DATA, if last { flag::END_STREAM } else { 0 }, id);
        let prefix = self.output.len();
        self.output.extend_from_slice(&[0; PREFIX_BYTES]);
        write(&mut self.output);
        let data = self.output.len() - prefix;
        let length = u32::try_from(data - PREFIX_BYTES).expect("a request is far below 4 GiB");
        self.output[prefix + 1..prefix + PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
        let window = self.send_window.min(self.slots[slot].send_window);
        if self.held.is_empty() && data <= self.peer_frame_bytes && data as i64 <= window {
            self.send_window -= data as i64;
            self.slots[slot].send_window -= data as i64;
            close_frame(&mut self.output, at);
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
        while let Some(header) = input[used..].first_chunk::<FRAME_HEADER_BYTES>() {
            let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
            if length > FRAME_BYTES {
                return Err("a frame larger than we allow".into());
            }
            let end = used + FRAME_HEADER_BYTES + length;
            let Some(payload) = input.get(used + FRAME_HEADER_BYTES..end) else { break };
            let id = u32::from_be_bytes([header[5], header[6], header[7], header[8]]) & LAST_STREAM_ID;
            self.frame(header[3], header[4], id, payload, answers)?;
            used = end;
        }
        if self.uncredited >= CONNECTION_WINDOW_BYTES / 4 {
            window_update(&mut self.output, 0, self.uncredited);
            self.uncredited = 0;
        }
        Ok(used)
    }

    fn frame(
        &mut self,
        kind: u8,
        flags: u8,
        id: u32,
        payload: &[u8],
        answers: &mut impl Answers,
    ) -> Result<(), Broken> {
        if self.unfinished.is_some() && kind != kind::CONTINUATION {
            return Err("a frame inside a header block".into());
        }
        match kind {
            kind::DATA => self.data(flags, id, payload, answers),
            kind::HEADERS => {
                let mut block = unpadded(flags, payload)?;
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
                        grpc_code_of_reset(code),
                        &format!("the server reset the stream: {code}"),
                    );
                }
                Ok(())
            }
            kind::SETTINGS if flags & flag::ACK != 0 => Ok(()),
            kind::SETTINGS => self.settings(payload),
            kind::PING if flags & flag::ACK != 0 => Ok(()),
            kind::PING => {
                if payload.len() != 8 {
                    return Err("a ping of a wrong length".into());
                }
                frame_header(&mut self.output, 8, kind::PING, flag::ACK, 0);
                self.output.extend_from_slice(payload);
                Ok(())
            }
            kind::WINDOW_UPDATE => {
                let increment =
                    i64::from(u32_of(payload, "a window update of a wrong length")? & LAST_STREAM_ID);
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
        let mut rest = unpadded(flags, payload)?;
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
            window_update(&mut self.output, id, credit);
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
        self.fields.http_status = None;
        self.fields.grpc_status = None;
        self.fields.grpc_message.clear();
        self.decoder.decode(block, &mut self.fields)?;
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
                setting::HEADER_TABLE_SIZE if (value as usize) < base::limits::HPACK_TABLE_BYTES => {
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
        frame_header(&mut self.output, 0, kind::SETTINGS, flag::ACK, 0);
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
                frame_header(
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
            assert!(id < LAST_STREAM_ID, "a run of this length has fewer than 2^30 calls a connection");
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
    Ok(u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize)
}

fn unpadded(flags: u8, payload: &[u8]) -> Result<&[u8], Broken> {
    if flags & flag::PADDED == 0 {
        return Ok(payload);
    }
    let (&padding, rest) = payload.split_first().ok_or("a padded frame without a length")?;
    let kept = rest.len().checked_sub(padding as usize).ok_or("more padding than frame")?;
    Ok(&rest[..kept])
}

fn u32_of(payload: &[u8], otherwise: &'static str) -> Result<u32, Broken> {
    Ok(u32::from_be_bytes(payload.try_into().map_err(|_| otherwise)?))
}

/// gRPC's mapping of HTTP/2 error codes: refused is Unavailable, cancel is Cancelled, calm down is exhausted.
fn grpc_code_of_reset(code: u32) -> u32 {
    match code {
        7 => 14,
        8 => 1,
        11 => 8,
        _ => 13,
    }
}

fn frame_header(out: &mut Vec<u8>, length: usize, kind: u8, flags: u8, id: u32) {
    let length = (length as u32).to_be_bytes();
    let id = id.to_be_bytes();
    out.extend_from_slice(&[length[1], length[2], length[3], kind, flags, id[0], id[1], id[2], id[3]]);
}

/// Writes the length of the frame that begins at `at` and ends with the output.
fn close_frame(out: &mut [u8], at: usize) {
    let length = ((out.len() - at - FRAME_HEADER_BYTES) as u32).to_be_bytes();
    out[at..at + 3].copy_from_slice(&length[1..]);
}

fn window_update(out: &mut Vec<u8>, id: u32, increment: u32) {
    frame_header(out, 4, kind::WINDOW_UPDATE, 0, id);
    out.extend_from_slice(&increment.to_be_bytes());
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
