//! A connection: bytes in, calls out. Frames are cut from the input here and handed on by kind.
//!
//! Invariants: the result doesn't depend on how the input is split; after the end nothing is read and nothing called
//! back; whatever a peer sends leads to an answer, a stream error or a connection error, never to a panic or to growth
//! without limit. DATA is handed on as it arrives, other frames when they are whole (at most 16 KiB).

mod control;
mod data;
mod headers;

use std::sync::Arc;

use base::{Millis, limits};

use crate::error::{Closed, ErrorCode, Fault};
use crate::frame::{self, FrameHeader, HEADER_BYTES, PREFACE, kind};
use crate::head::{CallHead, Head, PlainHead};
use crate::hpack::decoder::Decoder;
use crate::keepalive::{Due, Keepalive};
use crate::limits::{Limits, Rate};
use crate::methods::Methods;
use crate::outbound::Outbound;
use crate::output::Output;
use crate::settings::{DEFAULT_WINDOW, id};
use crate::window::ReceiveWindow;

/// Who serves the calls. Called synchronously from `Connection::receive` and `tick`; answers go to the `Outbound` that
/// is passed, at once or later.
pub trait Calls {
    /// The headers of a call are complete.
    fn call(&mut self, connection: &mut Outbound, stream: u32, head: &CallHead<'_>);
    /// One whole gRPC message, without its prefix.
    fn message(&mut self, connection: &mut Outbound, stream: u32, message: &[u8]);
    /// The client sends no more. Not called when the call was answered before.
    fn half_close(&mut self, connection: &mut Outbound, stream: u32, end: End);
    /// The call is over without your last word: reset, deadline, a fault of the client, the end of the connection.
    /// Answers to it are dropped from now on.
    fn cancelled(&mut self, connection: &mut Outbound, stream: u32);
    /// A request that isn't gRPC. True: taken; its body comes by `plain_body` and ends with `half_close`, and
    /// `Outbound::respond` answers it. False: refused, as grpc-go does.
    fn plain(&mut self, _connection: &mut Outbound, _stream: u32, _head: &PlainHead<'_>) -> bool {
        false
    }
    /// Some bytes of the body of a request that isn't gRPC.
    fn plain_body(&mut self, _connection: &mut Outbound, _stream: u32, _bytes: &[u8]) {}
}

/// Where a client's side ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Behind a whole message, or before the first.
    Clean,
    /// In the five bytes before a message.
    InPrefix,
    InMessage,
}

/// What the ping of a graceful end carries.
const DRAIN_PING: [u8; 8] = *b"draining";
const KEEPALIVE_PING: [u8; 8] = *b"keepaliv";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drain {
    No,
    /// The first GOAWAY is out: new streams are still served, as they may have been sent before it arrived.
    Announced(Millis),
    /// The second GOAWAY named this last stream. What comes on later ones is ignored (RFC 9113 section 6.8): the client
    /// had not read it yet, and calls them again elsewhere.
    Final(u32),
}

/// One HTTP/2 connection of a client.
pub struct Connection {
    out: Outbound,
    limits: Arc<Limits>,
    methods: &'static Methods,
    hpack: Decoder,
    head: Head,
    window: ReceiveWindow,
    /// Bytes of the preface that are still to come.
    preface_left: usize,
    /// The beginning of a frame that isn't whole.
    partial: Vec<u8>,
    /// A DATA frame whose payload is still arriving.
    data: Option<data::DataFrame>,
    /// A header block whose CONTINUATION is still to come, and its bytes so far.
    block: Option<headers::Block>,
    block_bytes: Vec<u8>,
    /// The highest stream id that the client used.
    last_stream: u32,
    now: Millis,
    born_at: Millis,
    /// When the peer's settings came, with which its preface is complete.
    settings_at: Option<Millis>,
    settings_acked: bool,
    resets: Rate,
    controls: Rate,
    settings_frames: Rate,
    keepalive: Keepalive,
    drain: Drain,
    /// No call has a deadline before this.
    deadline: Millis,
    closed: Option<Closed>,
}

impl Connection {
    /// Our settings are in the output at once. `methods` lives as long as the process.
    pub fn new(limits: Arc<Limits>, methods: &'static Methods, now: Millis) -> Connection {
        limits.check();
        let mut out = Outbound::new(limits.clone());
        let tail = out.output.tail();
        let mut settings = [(0, 0); 3];
        settings[0] = (id::INITIAL_WINDOW_SIZE, limits.stream_window_bytes);
        settings[1] = (id::MAX_HEADER_LIST_SIZE, limits.header_list_bytes as u32);
        settings[2] = (id::MAX_CONCURRENT_STREAMS, limits.max_concurrent_streams);
        let unlimited = limits.max_concurrent_streams == u32::MAX;
        frame::put_settings(tail, &settings[..if unlimited { 2 } else { 3 }]);
        if limits.connection_window_bytes > DEFAULT_WINDOW {
            frame::put_window_update(tail, 0, limits.connection_window_bytes - DEFAULT_WINDOW);
        }
        Connection {
            out,
            hpack: Decoder::new(Some(methods), limits::HPACK_TABLE_BYTES),
            head: Head::new(limits.header_list_bytes),
            window: ReceiveWindow::new(limits.connection_window_bytes),
            limits,
            methods,
            preface_left: PREFACE.len(),
            partial: Vec::new(),
            data: None,
            block: None,
            block_bytes: Vec::new(),
            last_stream: 0,
            now,
            born_at: now,
            settings_at: None,
            settings_acked: false,
            resets: Rate::default(),
            controls: Rate::default(),
            settings_frames: Rate::default(),
            keepalive: Keepalive::new(now),
            drain: Drain::No,
            deadline: Millis::MAX,
            closed: None,
        }
    }

    /// Handles all frames in `bytes`. After an error: send what the output holds, close the socket, drop the connection.
    pub fn receive(&mut self, bytes: &[u8], now: Millis, calls: &mut impl Calls) -> Result<(), Closed> {
        if let Some(closed) = self.closed {
            return Err(closed);
        }
        self.now = now;
        self.keepalive.heard(now);
        self.read(bytes, calls).and_then(|()| self.check_growth()).map_err(|fault| self.shut(fault, calls))
    }

    /// Keepalive, deadlines, settings acknowledgement, the steps of a graceful end. Call at `next_tick`, or as often as
    /// you like.
    pub fn tick(&mut self, now: Millis, calls: &mut impl Calls) -> Result<(), Closed> {
        if let Some(closed) = self.closed {
            return Err(closed);
        }
        self.now = now;
        if self.deadline <= now {
            self.expire(now, calls);
        }
        self.check_time(now).and_then(|()| self.check_growth()).map_err(|fault| self.shut(fault, calls))
    }

    /// The earliest time at which `tick` may have something to do.
    pub fn next_tick(&self) -> Millis {
        let mut next = self.keepalive.next(&self.limits).min(self.deadline);
        match self.settings_at {
            None => next = next.min(self.born_at + limits::PREFACE_TIMEOUT_MS),
            Some(at) if !self.settings_acked => next = next.min(at + limits::SETTINGS_ACK_TIMEOUT_MS),
            Some(_) => {}
        }
        if let Drain::Announced(at) = self.drain {
            next = next.min(at + limits::DRAIN_PING_TIMEOUT_MS);
        }
        next
    }

    /// Where answers go.
    pub fn outbound(&mut self) -> &mut Outbound {
        &mut self.out
    }

    /// What must go to the socket.
    pub fn output(&mut self) -> &mut Output {
        &mut self.out.output
    }

    /// Streams that are open.
    pub fn open_streams(&self) -> usize {
        self.out.streams.len()
    }

    /// So much is unsent that the socket should not be read before some of it is gone.
    pub fn is_congested(&self) -> bool {
        self.out.output.unsent() >= self.limits.output_bytes
    }

    /// The connection has ended; the same that `receive` returned.
    pub fn closed(&self) -> Option<Closed> {
        self.closed
    }

    /// Begins a graceful end: the client is told to open no more streams, those that are open finish.
    pub fn drain(&mut self, now: Millis) {
        if self.drain == Drain::No && self.closed.is_none() {
            self.drain = Drain::Announced(now);
            let tail = self.out.output.tail();
            frame::put_goaway(tail, frame::MAX_31_BITS, ErrorCode::NO_ERROR, b"");
            frame::put_ping(tail, false, DRAIN_PING);
        }
    }

    /// A graceful end is complete: send what the output holds, then close the socket.
    pub fn is_drained(&self) -> bool {
        matches!(self.drain, Drain::Final(_)) && self.out.streams.len() == 0
    }

    /// The socket has ended: `cancelled` for every open call.
    pub fn disconnected(&mut self, calls: &mut impl Calls) {
        if self.closed.is_none() {
            self.closed = Some(Closed { code: ErrorCode::NO_ERROR, why: "the client closed the connection" });
            self.cancel_all(calls);
        }
    }

    // ---- inside -------------------------------------------------------------------------------------------------

    fn read(&mut self, bytes: &[u8], calls: &mut impl Calls) -> Result<(), Fault> {
        let mut rest = bytes;
        if self.preface_left > 0 {
            let n = self.preface_left.min(rest.len());
            let expected = &PREFACE[PREFACE.len() - self.preface_left..][..n];
            if &rest[..n] != expected {
                return Err(Fault::protocol("not the HTTP/2 connection preface"));
            }
            self.preface_left -= n;
            rest = &rest[n..];
        }
        if let Some(mut data) = self.data.take() {
            self.data_arrived(&mut data, &mut rest, calls);
            if !data.is_done() {
                self.data = Some(data);
                return Ok(());
            }
        }
        if !self.partial.is_empty() && !self.complete_partial(&mut rest, calls)? {
            return Ok(());
        }
        loop {
            if rest.len() < HEADER_BYTES {
                self.partial.extend_from_slice(rest);
                return Ok(());
            }
            let header = FrameHeader::parse(rest);
            self.admit(&header)?;
            let body = &rest[HEADER_BYTES..];
            if body.len() >= header.length {
                let (payload, after) = body.split_at(header.length);
                self.frame(&header, payload, calls)?;
                rest = after;
                continue;
            }
            if !data::can_begin(&header, body.len()) {
                self.partial.extend_from_slice(rest);
                return Ok(());
            }
            let mut data = self.begin_data(&header, body, calls)?;
            rest = &body[data.lead()..];
            self.data_arrived(&mut data, &mut rest, calls);
            debug_assert!(rest.is_empty() && !data.is_done());
            self.data = Some(data);
            return Ok(());
        }
    }

    /// Goes on with a frame whose beginning came earlier. False: `rest` is used up.
    fn complete_partial(&mut self, rest: &mut &[u8], calls: &mut impl Calls) -> Result<bool, Fault> {
        let mut partial = std::mem::take(&mut self.partial);
        let mut fill = |partial: &mut Vec<u8>, to: usize| {
            let n = to.saturating_sub(partial.len()).min(rest.len());
            partial.extend_from_slice(&rest[..n]);
            *rest = &rest[n..];
            partial.len() >= to
        };
        if !fill(&mut partial, HEADER_BYTES) {
            self.partial = partial;
            return Ok(false);
        }
        let header = FrameHeader::parse(&partial);
        self.admit(&header)?;
        if header.kind == kind::DATA && header.length > 0 {
            // The pad length belongs to what is judged; nothing else of the payload does.
            if !fill(&mut partial, HEADER_BYTES + usize::from(header.has(frame::flag::PADDED))) {
                self.partial = partial;
                return Ok(false);
            }
            let mut data = self.begin_data(&header, &partial[HEADER_BYTES..], calls)?;
            let mut first = &partial[HEADER_BYTES + data.lead()..];
            self.data_arrived(&mut data, &mut first, calls);
            self.data_arrived(&mut data, rest, calls);
            partial.clear();
            self.partial = partial;
            if !data.is_done() {
                self.data = Some(data);
                return Ok(false);
            }
            return Ok(true);
        }
        if !fill(&mut partial, HEADER_BYTES + header.length) {
            self.partial = partial;
            return Ok(false);
        }
        let result = self.frame(&header, &partial[HEADER_BYTES..], calls);
        partial.clear();
        self.partial = partial;
        result.map(|()| true)
    }

    /// What a frame's header alone can be guilty of. No effects: a frame may be looked at more than once.
    #[inline]
    fn admit(&self, header: &FrameHeader) -> Result<(), Fault> {
        if header.length > limits::FRAME_BYTES {
            return Err(Fault::frame_size("a frame larger than SETTINGS_MAX_FRAME_SIZE"));
        }
        match &self.block {
            Some(block) if header.kind != kind::CONTINUATION || header.stream != block.stream => {
                return Err(Fault::protocol("a header block was interrupted"));
            }
            None if header.kind == kind::CONTINUATION => {
                return Err(Fault::protocol("CONTINUATION without a header block"));
            }
            _ => {}
        }
        if self.settings_at.is_none() && (header.kind != kind::SETTINGS || header.has(frame::flag::ACK)) {
            return Err(Fault::protocol("the first frame is not SETTINGS"));
        }
        Ok(())
    }

    /// Handles a whole frame. Stream errors end here.
    #[inline]
    fn frame(&mut self, header: &FrameHeader, payload: &[u8], calls: &mut impl Calls) -> Result<(), Fault> {
        let result = match header.kind {
            kind::DATA => {
                let mut data = self.begin_data(header, payload, calls)?;
                let mut rest = &payload[data.lead()..];
                self.data_arrived(&mut data, &mut rest, calls);
                return Ok(());
            }
            kind::HEADERS => self.headers(header, payload, calls),
            kind::CONTINUATION => self.continuation(header, payload, calls),
            kind::WINDOW_UPDATE => self.window_update(header, payload),
            kind::RST_STREAM => self.reset_by_peer(header, payload, calls),
            kind::SETTINGS => self.settings(header, payload),
            kind::PING => self.ping(header, payload),
            kind::GOAWAY => self.goaway(header, payload),
            kind::PRIORITY => self.priority(header, payload),
            kind::PUSH_PROMISE => Err(Fault::protocol("PUSH_PROMISE from a client")),
            _ => self.count_control("unknown frames flood"),
        };
        match result {
            Err(Fault::Stream(stream, code)) => self.stream_fault(stream, code, calls),
            other => other,
        }
    }

    /// Resets a stream for what the peer did. Provoked resets count like the peer's own (CVE-2025-8671).
    fn stream_fault(&mut self, stream: u32, code: ErrorCode, calls: &mut impl Calls) -> Result<(), Fault> {
        let told = self.out.is_open(stream);
        self.out.reset_with(stream, code);
        if told {
            calls.cancelled(&mut self.out, stream);
        }
        if self.resets.allow(self.now, self.limits.resets_per_second) {
            return Ok(());
        }
        Err(Fault::flood("too many stream errors"))
    }

    fn count_control(&mut self, why: &'static str) -> Result<(), Fault> {
        if self.controls.allow(self.now, self.limits.control_frames_per_second) {
            return Ok(());
        }
        Err(Fault::flood(why))
    }

    /// An id that was never used: only HEADERS (and PRIORITY) may come on it.
    fn is_idle(&self, stream: u32) -> bool {
        stream > self.last_stream || stream.is_multiple_of(2)
    }

    fn check_growth(&self) -> Result<(), Fault> {
        if self.out.output.unsent()
            > limits::OUTPUT_HARD_BYTES_PER_CONNECTION.max(2 * self.limits.output_bytes)
        {
            return Err(Fault::flood("too much output that is not read"));
        }
        if self.out.backlog_bytes > limits::BACKLOG_HARD_BYTES_PER_CONNECTION {
            return Err(Fault::flood("too many answers that wait for a window"));
        }
        Ok(())
    }

    fn check_time(&mut self, now: Millis) -> Result<(), Fault> {
        match self.settings_at {
            None if now.saturating_sub(self.born_at) >= limits::PREFACE_TIMEOUT_MS => {
                return Err(Fault::protocol("no connection preface in time"));
            }
            // A pause of this process before it came to read them does not count against the peer.
            Some(at) if !self.settings_acked && now.saturating_sub(at) >= limits::SETTINGS_ACK_TIMEOUT_MS => {
                let why = "our settings were not acknowledged";
                return Err(Fault::Connection(ErrorCode::SETTINGS_TIMEOUT, why));
            }
            _ => {}
        }
        if let Drain::Announced(at) = self.drain
            && now.saturating_sub(at) >= limits::DRAIN_PING_TIMEOUT_MS
        {
            self.finish_drain();
        }
        match self.keepalive.due(now, &self.limits) {
            Due::Nothing => Ok(()),
            Due::Ping => {
                frame::put_ping(self.out.output.tail(), false, KEEPALIVE_PING);
                Ok(())
            }
            Due::Dead => Err(Fault::Connection(ErrorCode::NO_ERROR, "keepalive ping not answered in time")),
        }
    }

    fn finish_drain(&mut self) {
        self.drain = Drain::Final(self.last_stream);
        frame::put_goaway(self.out.output.tail(), self.last_stream, ErrorCode::NO_ERROR, b"");
    }

    /// A stream that the client opened after the last one that a graceful end named.
    #[inline]
    fn is_beyond_the_last(&self, stream: u32) -> bool {
        matches!(self.drain, Drain::Final(last) if stream > last)
    }

    /// Ends the calls whose deadline has passed, as grpc-go does: RST_STREAM with CANCEL.
    fn expire(&mut self, now: Millis, calls: &mut impl Calls) {
        let mut expired: Vec<u32> = Vec::new();
        self.deadline = Millis::MAX;
        for stream in self.out.streams.iter() {
            if stream.deadline <= now {
                expired.push(stream.id);
            } else {
                self.deadline = self.deadline.min(stream.deadline);
            }
        }
        expired.sort_unstable();
        for stream in expired {
            let told = self.out.is_open(stream);
            self.out.reset_with(stream, ErrorCode::CANCEL);
            if told {
                calls.cancelled(&mut self.out, stream);
            }
        }
    }

    fn shut(&mut self, fault: Fault, calls: &mut impl Calls) -> Closed {
        let closed = match fault {
            Fault::Connection(code, why) => Closed { code, why },
            Fault::Stream(_, code) => Closed { code, why: "a stream error" },
        };
        let last_stream = match self.drain {
            // Never more than was named before (RFC 9113 section 6.8).
            Drain::Final(last) => last,
            Drain::No | Drain::Announced(_) => self.last_stream,
        };
        frame::put_goaway(self.out.output.tail(), last_stream, closed.code, closed.why.as_bytes());
        self.closed = Some(closed);
        self.cancel_all(calls);
        closed
    }

    fn cancel_all(&mut self, calls: &mut impl Calls) {
        let mut open: Vec<u32> = self.out.streams.iter().filter(|s| !s.answered).map(|s| s.id).collect();
        open.sort_unstable();
        for stream in open {
            self.out.remove(stream);
            calls.cancelled(&mut self.out, stream);
        }
        for stream in self.out.streams.ids() {
            self.out.remove(stream);
        }
    }
}
