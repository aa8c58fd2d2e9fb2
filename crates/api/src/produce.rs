//! Range answers that do not fit one turn: produced window by window, as flow control allows, in bounded memory.
//!
//! Pairs are slices of mapped pages, offered to the socket while the snapshot is pinned; what the socket does not
//! take is copied by `net`. A pin is held for [`PIN_MS`] at most: then the producer goes on by (key, revision) on a
//! newer root. If compaction has passed it meanwhile, the stream is reset: the length was promised already.

use base::Millis;
use base::limits::RANGE_CHUNK_BYTES;
use mvcc::{RangeCursor, Rows};
use net::Outbound;
use prost::Message;
use proto::etcdserverpb as pb;
use tree::Snapshot;

use crate::calls::Rpc;
use crate::shard::{CallState, Shard, Sink};

/// Answers up to this size are encoded in one piece, bytes.
const AT_ONCE_BYTES: usize = 32 << 10;
/// A producer lets go of its snapshot after this.
const PIN_MS: Millis = 500;

/// Pairs that were read and not sent: at most one pair beyond a window.
type Rest = Vec<u8>;

struct Source {
    snapshot: Snapshot,
    pinned_at: Millis,
    cursor: RangeCursor,
}

impl Source {
    /// A newer snapshot when this one was held long enough.
    fn refresh(&mut self, reader: &tree::Reader, now: Millis) {
        if now - self.pinned_at > PIN_MS {
            self.snapshot = reader.pin();
            self.pinned_at = now;
        }
    }
}

/// A unary answer whose length was stated first.
pub(crate) struct LongRange {
    source: Source,
    rest: Rest,
    sent_of_rest: usize,
    /// `more` and `count`, encoded: follows the pairs.
    tail: Vec<u8>,
    tail_added: bool,
}

/// A RangeStream: a message for each chunk.
pub(crate) struct StreamedRange {
    source: Source,
    first: bool,
}

/// etcd begins with a chunk of ten keys; here, with one that fits the first window.
const FIRST_CHUNK_BYTES: usize = 16 << 10;
/// A stream's producer waits while this much is queued, bytes.
const STREAM_QUEUE_BYTES: usize = RANGE_CHUNK_BYTES;

impl Shard {
    pub(crate) fn start_range(
        &mut self,
        out: &mut Outbound,
        sink: Option<&mut dyn Sink>,
        stream: u32,
        snapshot: Snapshot,
        mut cursor: RangeCursor,
        request: &pb::RangeRequest,
    ) {
        let view = snapshot.view();
        let whole = cursor.clone();
        let mut rows = Rows::new();
        let header = self.header_at(cursor.header_revision());
        if let Err(error) = cursor.step(view, AT_ONCE_BYTES, &mut rows) {
            return self.fail(out, stream, Rpc::Range, &error);
        }
        if cursor.is_done() {
            let counted = if cursor.more() || mvcc::has_filters(request) {
                whole.count_rest(view)
            } else {
                Ok(cursor.produced() as i64)
            };
            let count = match counted {
                Ok(count) => count,
                Err(error) => return self.fail(out, stream, Rpc::Range, &error),
            };
            let answer = mvcc::RangeAnswer { revision: header.revision, count, more: cursor.more(), rows };
            self.release(out, stream);
            out.unary(stream, |buffer| answer.encode(&header, buffer));
            return self.finished(Rpc::Range, 0);
        }
        let sizes = match whole.measure(view) {
            Ok(sizes) => sizes,
            Err(error) => return self.fail(out, stream, Rpc::Range, &error),
        };
        let mut tail = Vec::with_capacity(16);
        mvcc::push_tail(sizes.more, sizes.count, &mut tail);
        let mut rest = Vec::with_capacity(64);
        rest.push(0x0a);
        header.encode_length_delimited(&mut rest).expect("a vector grows");
        let message_bytes = rest.len() as u64 + sizes.body_len();
        out.open_sized(stream, message_bytes as usize);
        let source = Source { snapshot: snapshot.clone(), pinned_at: self.now, cursor: whole };
        let state = LongRange { source, rest, sent_of_rest: 0, tail, tail_added: false };
        self.hold(out, stream, Rpc::Range, CallState::LongRange(Box::new(state)));
        if let Some(position) = crate::shard::position_of(out, stream) {
            match sink {
                Some(sink) => self.produce_range(out, sink, stream, position),
                None => self.produce_range(out, &mut NoSink, stream, position),
            }
        }
    }

    /// Sends as much as flow control allows.
    pub(crate) fn produce_range(
        &mut self,
        out: &mut Outbound,
        sink: &mut dyn Sink,
        stream: u32,
        position: usize,
    ) {
        let now = self.now;
        let CallState::LongRange(state) = &mut self.calls[position].state else { return };
        state.source.refresh(&self.reader, now);
        let snapshot = state.source.snapshot.clone();
        let view = snapshot.view();
        let mut rows = Rows::new();
        loop {
            let window = out.sendable(stream).min(RANGE_CHUNK_BYTES);
            if window == 0 {
                return;
            }
            let waiting = state.rest.len() - state.sent_of_rest;
            rows.clear();
            if waiting < window
                && !state.source.cursor.is_done()
                && let Err(_gone) = state.source.cursor.step(view, window - waiting, &mut rows)
            {
                out.reset(stream);
                self.release(out, stream);
                return self.finished(Rpc::Range, proto::Code::Internal as usize);
            }
            let mut after = Vec::new();
            if state.source.cursor.is_done() && !state.tail_added {
                state.tail_added = true;
                after = std::mem::take(&mut state.tail);
            }
            let rest = std::mem::take(&mut state.rest);
            let pieces =
                [&rest[state.sent_of_rest..]].into_iter().chain(rows.pieces()).chain([after.as_slice()]);
            let (now_bytes, later) = split(pieces, window);
            let slices = now_bytes.iter().copied();
            out.direct(stream, slices, &mut |slices| sink.offer(slices));
            state.rest = later;
            state.sent_of_rest = 0;
            if state.rest.is_empty() && state.tail_added {
                return self.finish_range(out, stream);
            }
        }
    }

    fn finish_range(&mut self, out: &mut Outbound, stream: u32) {
        self.release(out, stream);
        out.finish(stream, 0, "");
        self.finished(Rpc::Range, 0);
    }

    pub(crate) fn start_range_stream(
        &mut self,
        out: &mut Outbound,
        sink: Option<&mut dyn Sink>,
        stream: u32,
        snapshot: Snapshot,
        cursor: RangeCursor,
    ) {
        out.open(stream);
        let source = Source { snapshot, pinned_at: self.now, cursor };
        let state = StreamedRange { source, first: true };
        self.hold(out, stream, Rpc::RangeStream, CallState::StreamedRange(Box::new(state)));
        if let Some(position) = crate::shard::position_of(out, stream) {
            self.produce_range_stream(out, sink, stream, position);
        }
    }

    /// Sends chunks until the client has enough for now.
    pub(crate) fn produce_range_stream(
        &mut self,
        out: &mut Outbound,
        _sink: Option<&mut dyn Sink>,
        stream: u32,
        position: usize,
    ) {
        let now = self.now;
        let identity = self.header_at(0);
        while out.queued(stream) < STREAM_QUEUE_BYTES {
            let CallState::StreamedRange(state) = &mut self.calls[position].state else { return };
            state.source.refresh(&self.reader, now);
            let snapshot = state.source.snapshot.clone();
            let view = snapshot.view();
            let cursor = &mut state.source.cursor;
            let budget = if state.first { FIRST_CHUNK_BYTES } else { RANGE_CHUNK_BYTES };
            state.first = false;
            let mut rows = Rows::new();
            let stepped = cursor.step(view, budget, &mut rows).and_then(|()| {
                if !cursor.is_done() {
                    return Ok(None);
                }
                let rest = if cursor.more() { cursor.count_rest(view)? } else { 0 };
                Ok(Some(cursor.produced() as i64 + rest))
            });
            let end = match stepped {
                Ok(end) => end,
                Err(error) => {
                    self.release(out, stream);
                    out.finish(stream, error.code as u8, &error.message);
                    return self.finished(Rpc::RangeStream, error.code as usize);
                }
            };
            let mut body = Vec::with_capacity(rows.bytes() + 64);
            if end.is_some() {
                body.push(0x0a);
                let header = pb::ResponseHeader { revision: cursor.header_revision(), ..identity };
                header.encode_length_delimited(&mut body).expect("a vector grows");
            }
            for piece in rows.pieces() {
                body.extend_from_slice(piece);
            }
            if let Some(count) = end {
                mvcc::push_tail(cursor.more(), count, &mut body);
            }
            // RangeStreamResponse.range_response is field 1.
            let mut head = Vec::with_capacity(12);
            head.push(0x0a);
            prost::encoding::encode_varint(body.len() as u64, &mut head);
            out.send(stream, &[head, body].concat());
            self.meter.messages_sent[Rpc::RangeStream as usize].add(1);
            if end.is_some() {
                return self.finish_stream(out, stream, Rpc::RangeStream);
            }
        }
    }
}

/// Where no socket is at hand: everything is copied, and sent when the connection is flushed.
struct NoSink;

impl Sink for NoSink {
    fn offer(&mut self, _slices: &[std::io::IoSlice<'_>]) -> usize {
        0
    }
}

/// The first `window` bytes as slices, and a copy of the others.
fn split<'p>(pieces: impl Iterator<Item = &'p [u8]>, window: usize) -> (Vec<&'p [u8]>, Vec<u8>) {
    let mut left = window;
    let mut now = Vec::new();
    let mut later = Vec::new();
    for piece in pieces {
        let (first, second) = piece.split_at(left.min(piece.len()));
        if !first.is_empty() {
            now.push(first);
        }
        left -= first.len();
        later.extend_from_slice(second);
    }
    (now, later)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_cuts_anywhere() {
        let pieces: [&[u8]; 4] = [b"abc", b"", b"defg", b"hi"];
        for window in 0..12 {
            let (now, later) = split(pieces.into_iter(), window);
            let joined: Vec<u8> = now.concat();
            assert_eq!(joined.len(), window.min(9));
            assert_eq!([joined, later].concat(), b"abcdefghi");
        }
    }
}
