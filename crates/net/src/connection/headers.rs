//! HEADERS and CONTINUATION (RFC 9113 sections 6.2, 6.10 and 8.1): new calls, and trailers.
//!
//! A header block is always decoded, even when its stream is refused: the HPACK tables of both sides must stay in step.

use base::limits;

use super::{Calls, Connection};
use crate::error::{ErrorCode, Fault};
use crate::field::Encoding;
use crate::frame::{self, FrameHeader, flag};
use crate::head::Verdict;
use crate::streams::Stream;

/// A header block that is being gathered.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) stream: u32,
    end_stream: bool,
    self_dependent: bool,
    continuations: u32,
}

impl Connection {
    pub(super) fn headers(
        &mut self,
        header: &FrameHeader,
        payload: &[u8],
        calls: &mut impl Calls,
    ) -> Result<(), Fault> {
        if header.stream.is_multiple_of(2) {
            return Err(Fault::protocol("HEADERS on a stream that a client can't open"));
        }
        let Some(mut fragment) = frame::strip_padding(header.flags, payload) else {
            return Err(Fault::protocol("padding longer than its frame"));
        };
        let mut self_dependent = false;
        if header.has(flag::PRIORITY) {
            if fragment.len() < 5 {
                return Err(Fault::frame_size("HEADERS too short for its priority"));
            }
            self_dependent = frame::be32(fragment) & frame::STREAM_ID_MASK == header.stream;
            fragment = &fragment[5..];
        }
        let end_stream = header.has(flag::END_STREAM);
        let block = Block { stream: header.stream, end_stream, self_dependent, continuations: 0 };
        if header.has(flag::END_HEADERS) {
            return self.block_complete(&block, fragment, calls);
        }
        self.block_bytes.clear();
        self.block_bytes.extend_from_slice(fragment);
        self.block = Some(block);
        Ok(())
    }

    pub(super) fn continuation(
        &mut self,
        header: &FrameHeader,
        payload: &[u8],
        calls: &mut impl Calls,
    ) -> Result<(), Fault> {
        let Some(mut block) = self.block.take() else {
            return Err(Fault::protocol("CONTINUATION without a header block"));
        };
        block.continuations += 1;
        if block.continuations > limits::CONTINUATIONS_PER_BLOCK
            || self.block_bytes.len() + payload.len() > limits::HEADER_BLOCK_BYTES
        {
            return Err(Fault::flood("a header block without end"));
        }
        self.block_bytes.extend_from_slice(payload);
        if !header.has(flag::END_HEADERS) {
            self.block = Some(block);
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.block_bytes);
        self.block_complete(&block, &bytes, calls)
    }

    fn block_complete(&mut self, block: &Block, bytes: &[u8], calls: &mut impl Calls) -> Result<(), Fault> {
        self.head.reset();
        let head = &mut self.head;
        let decoded = self.hpack.decode(bytes, |class, name, value| head.field(class, name, value));
        decoded.map_err(|error| Fault::Connection(ErrorCode::COMPRESSION_ERROR, error.0))?;
        let new = block.stream > self.last_stream;
        self.last_stream = self.last_stream.max(block.stream);
        if self.is_beyond_the_last(block.stream) {
            return Ok(());
        }
        if new {
            return self.request(block, calls);
        }
        self.trailers(block, calls)
    }

    /// HEADERS on a stream that was used before.
    fn trailers(&mut self, block: &Block, calls: &mut impl Calls) -> Result<(), Fault> {
        let id = block.stream;
        let Some(stream) = self.out.streams.get(id) else {
            if self.out.resets.contains(id) {
                return Ok(());
            }
            return Err(Fault::Connection(ErrorCode::STREAM_CLOSED, "HEADERS on a closed stream"));
        };
        if stream.remote_closed || stream.held_end {
            return Err(Fault::Stream(id, ErrorCode::STREAM_CLOSED));
        }
        let promised = !matches!(stream.body_left, 0 | u64::MAX);
        if !block.end_stream || !self.head.is_valid_trailer() || block.self_dependent || promised {
            return Err(Fault::Stream(id, ErrorCode::PROTOCOL_ERROR));
        }
        self.deliver(id, &[], true, true, calls);
        Ok(())
    }

    /// HEADERS on a new stream.
    fn request(&mut self, block: &Block, calls: &mut impl Calls) -> Result<(), Fault> {
        let id = block.stream;
        if block.self_dependent {
            return Err(Fault::Stream(id, ErrorCode::PROTOCOL_ERROR));
        }
        let verdict = self.head.verdict(self.methods);
        let plain = match verdict {
            Verdict::Call => false,
            Verdict::Plain => true,
            Verdict::Malformed => return Err(Fault::Stream(id, ErrorCode::PROTOCOL_ERROR)),
            Verdict::TooLarge => return Err(Fault::Stream(id, ErrorCode::FRAME_SIZE_ERROR)),
            Verdict::Abort(http, code, text) => {
                self.out.abort(id, block.end_stream, http, code, &text);
                return Ok(());
            }
        };
        let body_left = self.head.content_length.unwrap_or(u64::MAX);
        if block.end_stream && !matches!(body_left, 0 | u64::MAX) {
            return Err(Fault::Stream(id, ErrorCode::PROTOCOL_ERROR));
        }
        if self.out.streams.len() >= self.limits.streams()
            || self.out.backlog_bytes > limits::BACKLOG_BYTES_PER_CONNECTION
        {
            self.out.reset_with(id, ErrorCode::REFUSED_STREAM);
            return Ok(());
        }
        let mut stream = Stream::new(id, self.limits.stream_window_bytes, self.now);
        stream.remote_closed = block.end_stream;
        stream.body_left = body_left;
        stream.plain = plain;
        if plain {
            self.out.streams.insert(id, stream);
            let head = self.head.plain(self.methods, block.end_stream);
            if !calls.plain(&mut self.out, id, &head) {
                let stream = self.out.streams.get_mut(id).expect("inserted above");
                // Judged to its end before it is refused: whoever breaks the RFC hears of that.
                stream.answered = true;
                stream.ending = Some(self.head.refuse_plain());
            }
        } else {
            let head = self.head.call();
            stream.method = head.method;
            stream.gzip = self.head.encoding == Encoding::Gzip;
            stream.content_type = self.head.content_type.unwrap_or_default();
            if let Some(timeout_ms) = head.timeout_ms {
                stream.deadline = self.now.saturating_add(timeout_ms);
                self.deadline = self.deadline.min(stream.deadline);
            }
            self.out.streams.insert(id, stream);
            calls.call(&mut self.out, id, &head);
        }
        if block.end_stream {
            self.deliver(id, &[], true, true, calls);
        }
        Ok(())
    }
}
