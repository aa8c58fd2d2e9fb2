//! Range answers that do not fit one turn: produced window by window, as flow control allows, in bounded memory.
//!
//! Pairs are slices of mapped pages, offered to the socket while the snapshot is pinned; what the socket does not
//! take is copied by `net`. A pin is held for [`PIN_MS`] at most, also when the client reads nothing: then the producer
//! goes on by (key, revision) on a newer root. Compaction leaves it what it reads for [`HISTORY_HOLD_MS`]; if it has
//! passed it after that, the stream is reset: the length was promised already.

use base::Millis;
use base::limits::{HISTORY_HOLD_MS, RANGE_CHUNK_BYTES};
use mvcc::{RangeCursor, Rows};
use net::Outbound;
use prost::Message;
use proto::etcdserverpb as pb;
use tree::Snapshot;

use crate::calls::Rpc;
use crate::shard::{CallState, Shard, Sink};

/// Answers up to this size are encoded in one piece, bytes.
const AT_ONCE_BYTES: usize = 8 << 10;
/// What one walk gathers as slices before anything is sent; above it, the answer is measured first, bytes.
const GATHER_BYTES: usize = 2 << 20;
/// A producer lets go of its snapshot after this.
const PIN_MS: Millis = 500;

/// Pairs that were read and not sent: at most one pair beyond a window.
type Rest = Vec<u8>;

pub(crate) struct Source {
    snapshot: Snapshot,
    pinned_at: Millis,
    begun_at: Millis,
    cursor: RangeCursor,
}

impl Source {
    fn new(snapshot: Snapshot, cursor: RangeCursor, now: Millis) -> Source {
        Source { snapshot, pinned_at: now, begun_at: now, cursor }
    }

    /// The revision whose history it may still ask for.
    pub(crate) fn reads(&self, now: Millis) -> Option<i64> {
        (now - self.begun_at <= HISTORY_HOLD_MS).then(|| self.cursor.revision())
    }

    /// A newer snapshot when this one was held long enough.
    fn refresh(&mut self, reader: &tree::Reader, now: Millis) {
        if now - self.pinned_at > PIN_MS {
            self.snapshot = reader.pin();
            self.pinned_at = now;
        }
    }
}

/// A long answer that waits for its socket.
pub(crate) struct Starting {
    source: Source,
    filtered: bool,
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

impl CallState {
    /// What a long answer is produced from.
    pub(crate) fn source(&mut self) -> Option<&mut Source> {
        match self {
            CallState::Starting(state) => Some(&mut state.source),
            CallState::LongRange(state) => Some(&mut state.source),
            CallState::StreamedRange(state) => Some(&mut state.source),
            _ => None,
        }
    }
}

impl Shard {
    /// Lets go of snapshots that were held long enough, those of clients that read nothing too, and says what history
    /// the long answers of this shard still need.
    pub(crate) fn tend_long_reads(&mut self) {
        if self.long_reads.is_empty() && !self.holds_history {
            return;
        }
        let mut oldest = None;
        for &position in &self.long_reads {
            let Some(source) = self.calls[position].state.source() else { continue };
            source.refresh(&self.reader, self.now);
            oldest = source.reads(self.now).into_iter().chain(oldest).min();
        }
        self.holds_history = oldest.is_some();
        self.published.hold_history(self.config.shard, oldest);
    }

    /// Answers at once when the answer is small; else when the socket is at hand ([`Shard::begin_range`]).
    pub(crate) fn start_range(
        &mut self,
        out: &mut Outbound,
        sink: Option<&mut dyn Sink>,
        stream: u32,
        snapshot: Snapshot,
        cursor: RangeCursor,
        filtered: bool,
    ) {
        let view = snapshot.view();
        let mut rows = Rows::new();
        let mut probe = cursor.clone();
        if let Err(error) = probe.step(view, AT_ONCE_BYTES, &mut rows) {
            return self.fail(out, stream, Rpc::Range, &error);
        }
        if probe.is_done() {
            let count = match count_of(&cursor, &probe, filtered, view) {
                Ok(count) => count,
                Err(error) => return self.fail(out, stream, Rpc::Range, &error),
            };
            let header = self.header_at(cursor.header_revision());
            let answer = mvcc::RangeAnswer { revision: header.revision, count, more: probe.more(), rows };
            let count = u64::try_from(answer.count).unwrap_or(0);
            return self.answer_with(out, stream, Rpc::Range, count, |buffer| answer.encode(&header, buffer));
        }
        let snapshot = snapshot.clone();
        let state = Starting { source: Source::new(snapshot, cursor, self.now), filtered };
        let token = self.hold(out, stream, Rpc::Range, CallState::Starting(Box::new(state)));
        match sink {
            Some(sink) => {
                if let Some(position) = crate::shard::position_of(out, stream) {
                    self.begin_range(out, sink, stream, position);
                }
            }
            None => self.starting.push(token),
        }
    }

    /// States the length of a long answer and sends its first windows.
    pub(crate) fn begin_range(
        &mut self,
        out: &mut Outbound,
        sink: &mut dyn Sink,
        stream: u32,
        position: usize,
    ) {
        let state = std::mem::replace(&mut self.calls[position].state, CallState::Working);
        let CallState::Starting(starting) = state else { return };
        let Starting { mut source, filtered } = *starting;
        let snapshot = source.snapshot.clone();
        let view = snapshot.view();
        let mut rows = Rows::new();
        let mut gathered = source.cursor.clone();
        let sized = gathered.step(view, GATHER_BYTES, &mut rows).and_then(|()| {
            if !gathered.is_done() {
                return source.cursor.measure(view);
            }
            Ok(mvcc::Sizes {
                rows: rows.len() as u64,
                bytes: rows.bytes() as u64,
                count: count_of(&source.cursor, &gathered, filtered, view)?,
                more: gathered.more(),
            })
        });
        let sizes = match sized {
            Ok(sizes) => sizes,
            Err(error) => return self.fail(out, stream, Rpc::Range, &error),
        };
        let header = self.header_at(source.cursor.header_revision());
        let mut tail = Vec::with_capacity(16);
        mvcc::push_tail(sizes.more, sizes.count, &mut tail);
        let mut head = Vec::with_capacity(64);
        head.push(0x0a);
        header.encode_length_delimited(&mut head).expect("a vector grows");
        out.open_sized(stream, head.len() + sizes.body_len() as usize);

        // Straight from the pages, as long as windows last.
        let mut pieces: Vec<&[u8]> = Vec::with_capacity(rows.len() + 2);
        pieces.push(&head);
        pieces.extend(rows.pieces());
        let done = gathered.is_done();
        if done {
            pieces.push(&tail);
        }
        let sent = send_pieces(&pieces, out, sink, stream);
        if sent.is_all(&pieces) && done {
            return self.finish_range(out, stream);
        }
        // What is left: a part of one piece, and whatever the cursor then finds again.
        let mut rest = if sent.pieces_begun == 0 { head.clone() } else { sent.rest_of_piece(&pieces) };
        let rows_begun = sent.pieces_begun.saturating_sub(1).min(rows.len());
        let mut tail_added = done && sent.pieces_begun == pieces.len();
        if rows_begun == rows.len() {
            if done && !tail_added {
                rest.extend_from_slice(&tail);
                tail_added = true;
            }
            source.cursor = gathered;
        } else if rows_begun > 0 && !rows.made().is_empty() {
            // Cells made for the answer stand in one piece, which has begun: its rest was taken whole.
            source.cursor = gathered;
        } else if rows_begun > 0
            && let Some(last) = rows.pairs().nth(rows_begun - 1)
        {
            source.cursor.resume_after(last.key, rows_begun as u64);
        }
        drop(pieces);
        let state = LongRange { source, rest, sent_of_rest: 0, tail, tail_added };
        self.calls[position].state = CallState::LongRange(Box::new(state));
        self.produce_range(out, sink, stream, position);
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
        stream: u32,
        snapshot: Snapshot,
        cursor: RangeCursor,
    ) {
        out.open(stream);
        let source = Source::new(snapshot, cursor, self.now);
        let state = StreamedRange { source, first: true };
        self.hold(out, stream, Rpc::RangeStream, CallState::StreamedRange(Box::new(state)));
        if let Some(position) = crate::shard::position_of(out, stream) {
            self.produce_range_stream(out, stream, position);
        }
    }

    /// Sends chunks until the client has enough for now.
    pub(crate) fn produce_range_stream(&mut self, out: &mut Outbound, stream: u32, position: usize) {
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
            let body_bytes = body.len();
            out.send_parts(stream, &head, &body.into(), 0..body_bytes);
            self.meter.messages_sent[Rpc::RangeStream as usize].add(1);
            if end.is_some() {
                return self.finish_stream(out, stream, Rpc::RangeStream);
            }
        }
    }
}

/// The count that an answer shows, once its pairs are known.
fn count_of(
    from: &RangeCursor,
    done: &RangeCursor,
    filtered: bool,
    view: tree::View<'_>,
) -> Result<i64, proto::Error> {
    if done.more() || filtered { from.count_rest(view) } else { Ok(done.produced() as i64) }
}

/// How far a list of pieces was handed over.
struct Sent {
    /// Pieces of which at least a byte was handed over, empty ones in front included.
    pieces_begun: usize,
    /// Bytes handed over of the last of them.
    of_last: usize,
}

impl Sent {
    fn is_all(&self, pieces: &[&[u8]]) -> bool {
        self.pieces_begun == pieces.len() && self.of_last == pieces.last().map_or(0, |piece| piece.len())
    }

    /// The bytes of the last begun piece that are still to come.
    fn rest_of_piece(&self, pieces: &[&[u8]]) -> Vec<u8> {
        match self.pieces_begun {
            0 => Vec::new(),
            begun => pieces[begun - 1][self.of_last..].to_vec(),
        }
    }
}

/// Hands over pieces as long as flow control allows.
fn send_pieces(pieces: &[&[u8]], out: &mut Outbound, sink: &mut dyn Sink, stream: u32) -> Sent {
    let mut sent = Sent { pieces_begun: 0, of_last: 0 };
    let mut chosen: Vec<&[u8]> = Vec::with_capacity(pieces.len());
    while !sent.is_all(pieces) {
        let mut window = out.sendable(stream).min(RANGE_CHUNK_BYTES);
        if window == 0 {
            break;
        }
        chosen.clear();
        while window > 0 && !sent.is_all(pieces) {
            if sent.pieces_begun == 0 || sent.of_last == pieces[sent.pieces_begun - 1].len() {
                sent.pieces_begun += 1;
                sent.of_last = 0;
            }
            let left = &pieces[sent.pieces_begun - 1][sent.of_last..];
            let part = &left[..left.len().min(window)];
            window -= part.len();
            sent.of_last += part.len();
            chosen.push(part);
        }
        out.direct(stream, chosen.iter().copied(), &mut |slices| sink.offer(slices));
    }
    sent
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
