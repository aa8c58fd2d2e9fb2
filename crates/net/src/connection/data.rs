//! DATA (RFC 9113 section 6.1) and the gRPC messages in it.
//!
//! Flow control, stream state and content-length are judged when a frame begins; its bytes are then delivered as they
//! arrive. A message that lies whole in the input is handed on where it is; others are put together in a buffer of the
//! stream. Windows are given back at once: what is kept is bounded by the message limit and by
//! `ASSEMBLY_BYTES_PER_CONNECTION`. Only a stream that its owner has paused keeps its window shut, and what still came.

use base::limits;

use super::{Calls, Connection, End};
use crate::error::{ErrorCode, Fault};
use crate::frame::{self, FrameHeader, flag, kind};
use crate::grpc::{self, PREFIX_BYTES, Refusal};
use crate::gzip;
use crate::streams::Ending;

/// The room a message gets at once when its prefix announces it; more comes as its bytes do.
const FIRST_ROOM: usize = 64 << 10;

/// A DATA frame whose payload is arriving.
#[derive(Debug)]
pub(super) struct DataFrame {
    stream: u32,
    /// Bytes of data, and of padding, still to come.
    left: usize,
    padding: usize,
    padded: bool,
    end: bool,
    /// Its end was delivered, or it is to be ignored.
    delivered: bool,
}

impl DataFrame {
    /// Bytes of payload before the data: the pad length.
    pub(super) fn lead(&self) -> usize {
        usize::from(self.padded)
    }

    pub(super) fn is_done(&self) -> bool {
        self.left == 0 && self.padding == 0
    }
}

/// The frame can be begun with `available` bytes of its payload.
pub(super) fn can_begin(header: &FrameHeader, available: usize) -> bool {
    header.kind == kind::DATA && available >= usize::from(header.has(flag::PADDED))
}

impl Connection {
    /// Judges a DATA frame by its header and its pad length, the first byte of `payload`.
    pub(super) fn begin_data(
        &mut self,
        header: &FrameHeader,
        payload: &[u8],
        calls: &mut impl Calls,
    ) -> Result<DataFrame, Fault> {
        let stream = header.stream;
        let padded = header.has(flag::PADDED);
        let padding = if padded { payload.first().map_or(usize::MAX, |&p| usize::from(p)) } else { 0 };
        let lead = usize::from(padded);
        let Some(left) = header.length.checked_sub(lead).and_then(|n| n.checked_sub(padding)) else {
            return Err(Fault::protocol("padding longer than its frame"));
        };
        if self.is_idle(stream) {
            return Err(Fault::protocol("DATA on an idle stream"));
        }
        if !self.window.take(header.length) {
            return Err(Fault::Connection(
                ErrorCode::FLOW_CONTROL_ERROR,
                "DATA beyond the connection's window",
            ));
        }
        if let Some(increment) = self.window.give_back() {
            frame::put_window_update(self.out.output.tail(), 0, increment);
        }
        let end = header.has(flag::END_STREAM);
        if header.length == lead + padding && !end {
            self.count_control("empty DATA frames flood")?;
        }
        let mut data = DataFrame { stream, left, padding, padded, end, delivered: false };
        if self.is_beyond_the_last(stream) {
            data.delivered = true;
        } else if let Err(code) = self.admit_data(header, left) {
            data.delivered = true;
            if let Some(code) = code {
                self.stream_fault(stream, code, calls)?;
            }
        }
        Ok(data)
    }

    /// The stream's part of the judgement. Err: ignore the frame, and reset the stream if there is a code.
    #[inline]
    fn admit_data(&mut self, header: &FrameHeader, data_bytes: usize) -> Result<(), Option<ErrorCode>> {
        let Some(stream) = self.out.streams.get_mut(header.stream) else {
            let ours = self.out.resets.contains(header.stream);
            return Err(if ours { None } else { Some(ErrorCode::STREAM_CLOSED) });
        };
        if stream.remote_closed || stream.held_end {
            return Err(Some(ErrorCode::STREAM_CLOSED));
        }
        if !stream.receive.take(header.length) {
            return Err(Some(ErrorCode::FLOW_CONTROL_ERROR));
        }
        let end = header.has(flag::END_STREAM);
        if stream.body_left != u64::MAX {
            let Some(left) = stream.body_left.checked_sub(data_bytes as u64) else {
                return Err(Some(ErrorCode::PROTOCOL_ERROR));
            };
            stream.body_left = left;
            if end && left != 0 {
                return Err(Some(ErrorCode::PROTOCOL_ERROR));
            }
        }
        let refused = stream.ending.as_ref().is_some_and(Ending::is_refusal);
        let listened_to = (!stream.answered || refused) && !stream.deaf && !stream.paused;
        if !end
            && listened_to
            && let Some(increment) = stream.receive.give_back()
        {
            frame::put_window_update(self.out.output.tail(), header.stream, increment);
        }
        Ok(())
    }

    /// Delivers what `rest` holds of a frame, and advances it.
    #[inline]
    pub(super) fn data_arrived(&mut self, data: &mut DataFrame, rest: &mut &[u8], calls: &mut impl Calls) {
        let (chunk, after) = rest.split_at(data.left.min(rest.len()));
        data.left -= chunk.len();
        let padding = data.padding.min(after.len());
        data.padding -= if data.left == 0 { padding } else { 0 };
        *rest = if data.left == 0 { &after[padding..] } else { after };
        if data.delivered {
            return;
        }
        let fin = data.end && data.left == 0;
        data.delivered = data.left == 0;
        if fin || !chunk.is_empty() {
            self.deliver(data.stream, chunk, data.end, fin, calls);
        }
    }

    /// Hands the messages in `chunk` on. `end`: the frame ends the client's side; `fin`: these are its last bytes.
    pub(super) fn deliver(&mut self, id: u32, chunk: &[u8], end: bool, fin: bool, calls: &mut impl Calls) {
        match self.messages(id, chunk, fin, calls) {
            Ok(true) if fin => self.half_close(id, calls),
            Ok(_) => {}
            Err((code, text)) => {
                if let Some(stream) = self.out.streams.get_mut(id) {
                    stream.remote_closed = end;
                }
                self.out.fail(id, code, &text);
                calls.cancelled(&mut self.out, id);
            }
        }
    }

    fn half_close(&mut self, id: u32, calls: &mut impl Calls) {
        let Some(stream) = self.out.streams.get_mut(id) else { return };
        if stream.paused && !stream.answered {
            stream.held_end = true;
            return;
        }
        stream.remote_closed = true;
        if stream.answered {
            if let Some(Ending::Refusal(http, code, text)) = stream.ending.take_if(|e| e.is_refusal()) {
                self.out.remove(id);
                self.out.abort(id, true, http, code, &text);
            }
            return;
        }
        let end = match stream.assembly.len() {
            0 => End::Clean,
            1..PREFIX_BYTES => End::InPrefix,
            _ => End::InMessage,
        };
        calls.half_close(&mut self.out, id, end);
    }

    /// False: the stream is paused, and what is left was kept.
    #[inline]
    fn messages(
        &mut self,
        id: u32,
        chunk: &[u8],
        fin: bool,
        calls: &mut impl Calls,
    ) -> Result<bool, Refusal> {
        let max = self.limits.max_message_bytes;
        let mut chunk = chunk;
        while !chunk.is_empty() {
            // Looked up each time: the owner may have answered, and so closed the stream, in the last call.
            let Some(stream) = self.out.streams.get_mut(id).filter(|s| !s.answered && !s.deaf) else {
                return Ok(true);
            };
            if stream.plain {
                calls.plain_body(&mut self.out, id, chunk);
                return Ok(true);
            }
            if stream.paused {
                return self.keep(id, chunk, fin).map(|()| false);
            }
            if !stream.assembly.is_empty() {
                chunk = self.assemble(id, chunk, fin, calls)?;
                continue;
            }
            if chunk.len() >= PREFIX_BYTES {
                let length = grpc::check_prefix(chunk, max, stream.gzip)?;
                if chunk.len() >= PREFIX_BYTES + length {
                    let (message, after) = chunk.split_at(PREFIX_BYTES + length);
                    // The last message of a call is answered as one whose client has ended.
                    stream.remote_closed = fin && after.is_empty();
                    self.hand_on(id, message, calls)?;
                    chunk = after;
                    continue;
                }
            }
            let buffer = self.out.spare_buffer();
            self.out.streams.get_mut(id).expect("looked up before").assembly = buffer;
            chunk = self.assemble(id, chunk, fin, calls)?;
        }
        Ok(true)
    }

    /// A whole message, with its prefix.
    #[inline]
    fn hand_on(&mut self, id: u32, message: &[u8], calls: &mut impl Calls) -> Result<(), Refusal> {
        let (prefix, message) = message.split_at(PREFIX_BYTES);
        if prefix[0] == 0 {
            calls.message(&mut self.out, id, message);
            return Ok(());
        }
        let mut inflated = self.out.spare_buffer();
        gzip::inflate(message, self.limits.max_message_bytes, &mut inflated)?;
        calls.message(&mut self.out, id, &inflated);
        self.out.keep_buffer(inflated);
        Ok(())
    }

    /// Adds to the unfinished message of a stream; hands it on when it is whole. Returns what is left of `chunk`.
    fn assemble<'c>(
        &mut self,
        id: u32,
        chunk: &'c [u8],
        fin: bool,
        calls: &mut impl Calls,
    ) -> Result<&'c [u8], Refusal> {
        let stream = self.out.streams.get_mut(id).expect("looked up before");
        let mut rest = chunk;
        let mut fill = |assembly: &mut Vec<u8>, to: usize| {
            let n = to.saturating_sub(assembly.len()).min(rest.len());
            assembly.extend_from_slice(&rest[..n]);
            rest = &rest[n..];
            n
        };
        let mut added = fill(&mut stream.assembly, PREFIX_BYTES);
        let mut whole = false;
        let mut judged = Ok(0);
        if stream.assembly.len() >= PREFIX_BYTES {
            judged = grpc::check_prefix(&stream.assembly, self.limits.max_message_bytes, stream.gzip);
            if let Ok(length) = judged {
                let need = PREFIX_BYTES + length;
                if stream.assembly.len() == PREFIX_BYTES {
                    stream.assembly.reserve(length.min(FIRST_ROOM));
                }
                added += fill(&mut stream.assembly, need);
                whole = stream.assembly.len() == need;
            }
        }
        self.out.assembled_bytes += added;
        judged?;
        let message = if whole { std::mem::take(&mut stream.assembly) } else { Vec::new() };
        stream.remote_closed = whole && fin && rest.is_empty();
        self.check_assembled()?;
        if whole {
            self.out.assembled_bytes -= message.len();
            self.hand_on(id, &message, calls)?;
            self.out.keep_buffer(message);
        }
        Ok(rest)
    }

    fn check_assembled(&self) -> Result<(), Refusal> {
        if self.out.assembled_bytes > limits::ASSEMBLY_BYTES_PER_CONNECTION {
            let text = "too many bytes of unfinished messages".to_string();
            return Err((grpc::code::RESOURCE_EXHAUSTED, text));
        }
        Ok(())
    }

    /// Keeps what came for a stream that is paused.
    fn keep(&mut self, id: u32, chunk: &[u8], fin: bool) -> Result<(), Refusal> {
        let mut held = self.out.spare_buffer();
        let stream = self.out.streams.get_mut(id).expect("looked up before");
        if stream.held.capacity() == 0 {
            std::mem::swap(&mut stream.held, &mut held);
        }
        stream.held.extend_from_slice(chunk);
        stream.held_end |= fin;
        self.out.keep_buffer(held);
        self.out.assembled_bytes += chunk.len();
        self.check_assembled()
    }

    /// Hands on what was kept for streams that are no longer paused ([`Outbound::has_resumed`]).
    ///
    /// [`Outbound::has_resumed`]: crate::Outbound::has_resumed
    pub fn resume(&mut self, calls: &mut impl Calls) {
        for _ in 0..self.out.resumed.len() {
            let Some(id) = self.out.resumed.pop() else { return };
            let Some(stream) = self.out.streams.get_mut(id).filter(|s| !s.paused && !s.answered) else {
                continue;
            };
            let held = std::mem::take(&mut stream.held);
            let fin = std::mem::take(&mut stream.held_end);
            self.out.assembled_bytes -= held.len();
            self.deliver(id, &held, fin, fin, calls);
            self.out.keep_buffer(held);
            if let Some(stream) = self.out.streams.get_mut(id)
                && !(stream.paused || stream.answered || stream.deaf || stream.remote_closed)
                && let Some(increment) = stream.receive.give_back()
            {
                frame::put_window_update(self.out.output.tail(), id, increment);
            }
        }
    }
}
