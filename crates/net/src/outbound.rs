//! Answering: frames are encoded at once into the connection's output, as far as flow control allows; the rest waits in
//! the stream's backlog and continues with the peer's WINDOW_UPDATE.
//!
//! Invariants: DATA never exceeds the stream's or the connection's window, nor the peer's frame size; nothing overtakes
//! a backlog on its stream; streams with a backlog take turns, a frame each; an answer to a stream that is gone is
//! dropped. A small unary answer costs a copy into the output and nothing else.
//!
//! The output limit holds DATA back, not control frames: producers see it as `sendable` 0 or a growing `queued`.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

use base::limits;

use crate::error::ErrorCode;
use crate::frame::{self, HEADER_BYTES, flag, kind};
use crate::grpc::{self, PREFIX_BYTES};
use crate::hpack::encoder::Encoder;
use crate::limits::Limits;
use crate::methods::MethodIndex;
use crate::output::{Batch, Output};
use crate::settings::PeerSettings;
use crate::streams::{Ending, RecentResets, Stream, Streams};
use crate::window::SendWindow;

/// Shared messages below this are copied: a reference costs more, bytes.
const SHARE_BYTES: usize = 1024;
/// Shared messages are copied as long as no more than this waits for the socket, bytes: one slice goes out cheaper than
/// several.
const COPY_BYTES: usize = 16 << 10;
/// The own part of a message that goes before a shared one, at most, bytes; a longer one is copied with the rest.
const FRONT_BYTES: usize = 128;
/// Buffers kept for the next backlog or assembly, and the largest that is kept, bytes.
const SPARES: usize = 8;
const SPARE_BYTES: usize = 64 << 10;

/// The answering half of a connection.
pub struct Outbound {
    /// A word for the owner: which connection this is.
    pub tag: u64,
    pub(crate) limits: Arc<Limits>,
    pub(crate) streams: Streams,
    pub(crate) output: Output,
    pub(crate) peer: PeerSettings,
    pub(crate) window: SendWindow,
    /// The stream that was removed last, and its word: `Calls::cancelled` still sees it.
    ended: (u32, u64),
    pub(crate) encoder: Encoder,
    pub(crate) resets: RecentResets,
    /// HEADERS or DATA went out since the last ping came in.
    pub(crate) progress: bool,
    pub(crate) backlog_bytes: usize,
    pub(crate) assembled_bytes: usize,
    /// Streams with a backlog and a window of their own, waiting for the connection's window or the output.
    turns: VecDeque<u32>,
    /// Streams whose producer waits for room.
    hungry: Vec<u32>,
    /// A window or the output opened since `drain_writable`.
    reopened: bool,
    /// Something waits because the output is full.
    full: bool,
    /// Streams that are no longer paused and whose messages wait to be handed on.
    pub(crate) resumed: Vec<u32>,
    #[expect(clippy::vec_box, reason = "the boxes themselves are what is reused")]
    spare_backlogs: Vec<Box<Batch>>,
    spare_buffers: Vec<Vec<u8>>,
    scratch: Vec<u8>,
}

impl Outbound {
    pub(crate) fn new(limits: Arc<Limits>) -> Outbound {
        let peer = PeerSettings::default();
        Outbound {
            tag: 0,
            limits,
            streams: Streams::new(),
            output: Output::default(),
            window: SendWindow::new(peer.initial_window),
            ended: (0, 0),
            peer,
            encoder: Encoder::new(),
            resets: RecentResets::default(),
            progress: false,
            backlog_bytes: 0,
            assembled_bytes: 0,
            turns: VecDeque::new(),
            hungry: Vec::new(),
            reopened: false,
            full: false,
            resumed: Vec::new(),
            spare_backlogs: Vec::new(),
            spare_buffers: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// What must go to the socket.
    pub fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    /// The stream takes answers: it is open and was not given its last word.
    pub fn is_open(&self, stream: u32) -> bool {
        self.streams.get(stream).is_some_and(|s| !s.answered)
    }

    /// The method that the stream called. None when the stream is gone, or isn't a gRPC call.
    pub fn method(&self, stream: u32) -> Option<MethodIndex> {
        self.streams.get(stream).filter(|s| !s.plain).map(|s| s.method)
    }

    /// The owner's word of this stream: 0 at first, and when the stream is gone; within `Calls::cancelled` still what
    /// it was.
    pub fn word(&self, stream: u32) -> u64 {
        match self.streams.get(stream) {
            Some(s) => s.word,
            None if self.ended.0 == stream => self.ended.1,
            None => 0,
        }
    }

    pub fn set_word(&mut self, stream: u32, word: u64) {
        if let Some(s) = self.streams.get_mut(stream) {
            s.word = word;
        } else if self.ended.0 == stream {
            self.ended.1 = word;
        }
    }

    /// The client ended its side.
    pub fn is_half_closed(&self, stream: u32) -> bool {
        self.streams.get(stream).is_some_and(|s| s.remote_closed)
    }

    // ---- listening ----------------------------------------------------------------------------------------------

    /// What the client still says on this stream is dropped, and its window stays shut; its end is told.
    pub fn ignore_rest(&mut self, stream: u32) {
        if let Some(s) = self.streams.get_mut(stream) {
            s.deaf = true;
        }
    }

    /// No messages of this stream from now on: what comes is kept, and its window stays shut, until `listen`.
    pub fn pause(&mut self, stream: u32) {
        if let Some(s) = self.streams.get_mut(stream) {
            s.paused = true;
        }
    }

    /// Ends `pause`: what was kept comes with the next `Connection::resume`.
    pub fn listen(&mut self, stream: u32) {
        if let Some(s) = self.streams.get_mut(stream).filter(|s| s.paused) {
            s.paused = false;
            self.resumed.push(stream);
        }
    }

    pub fn has_resumed(&self) -> bool {
        !self.resumed.is_empty()
    }

    // ---- whole answers ------------------------------------------------------------------------------------------

    /// Headers, one message, trailers with status 0. `encode` appends the message and must not touch what is there.
    pub fn unary(&mut self, stream: u32, encode: impl FnOnce(&mut Vec<u8>)) {
        let max_frame = self.max_frame();
        let room = self.has_room();
        let Some(s) = self.streams.get_mut(stream).filter(|s| !s.answered) else { return };
        let out = self.output.tail();
        if !s.headers_sent {
            s.headers_sent = true;
            let at = out.len();
            frame::put_header(out, 0, kind::HEADERS, flag::END_HEADERS, stream);
            self.encoder.response(out, s.content_type);
            frame::patch_length(out, at);
        }
        let at = out.len();
        out.extend_from_slice(&[0; HEADER_BYTES + PREFIX_BYTES]);
        encode(out);
        let message = out.len().checked_sub(at + HEADER_BYTES + PREFIX_BYTES).expect("encoding only appends");
        let length = PREFIX_BYTES + message;
        out[at + HEADER_BYTES..][..PREFIX_BYTES].copy_from_slice(&grpc::prefix(message));
        let window = self.window.open().min(s.send.open(self.peer.initial_window));
        if length > max_frame || length > window || s.backlog.is_some() || !room {
            self.scratch.clear();
            self.scratch.extend_from_slice(&out[at + HEADER_BYTES..]);
            out.truncate(at);
            let mut scratch = std::mem::take(&mut self.scratch);
            self.transmit(stream, &[], Body::Borrowed(&scratch));
            if scratch.capacity() > SPARE_BYTES {
                scratch = Vec::new();
            }
            self.scratch = scratch;
            return self.finish(stream, grpc::code::OK, "");
        }
        out[at..at + HEADER_BYTES].copy_from_slice(&frame::header(length, kind::DATA, 0, stream));
        self.window.spend(length);
        s.send.spend(length);
        let at = out.len();
        frame::put_header(out, 0, kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream);
        self.encoder.ok(out);
        frame::patch_length(out, at);
        self.retire(stream);
    }

    /// The call failed: its status alone, or trailers after what was sent.
    pub fn fail(&mut self, stream: u32, code: u8, message: &str) {
        self.finish(stream, code, message);
    }

    /// An answer that isn't gRPC: status, content-type, body.
    pub fn respond(&mut self, stream: u32, status: u16, content_type: &str, body: &[u8]) {
        let Some(s) = self.streams.get_mut(stream).filter(|s| !s.answered && !s.headers_sent) else { return };
        s.headers_sent = true;
        s.answered = true;
        let flags = flag::END_HEADERS | if body.is_empty() { flag::END_STREAM } else { 0 };
        let out = self.output.tail();
        let at = out.len();
        frame::put_header(out, 0, kind::HEADERS, flags, stream);
        self.encoder.http(out, status, content_type.as_bytes());
        self.encoder.content_length(out, body.len());
        frame::patch_length(out, at);
        if body.is_empty() {
            return self.retire(stream);
        }
        self.transmit(stream, &[], Body::Borrowed(body));
        self.end(stream, Ending::Plain);
    }

    // ---- streaming answers --------------------------------------------------------------------------------------

    /// Response headers of a streaming call.
    pub fn open(&mut self, stream: u32) {
        let Some(s) = self.streams.get_mut(stream).filter(|s| !s.answered && !s.headers_sent) else { return };
        s.headers_sent = true;
        let out = self.output.tail();
        let at = out.len();
        frame::put_header(out, 0, kind::HEADERS, flag::END_HEADERS, stream);
        self.encoder.response(out, s.content_type);
        frame::patch_length(out, at);
        self.progress = true;
    }

    /// One gRPC message; the prefix is added here. Opens the answer if it isn't.
    pub fn send(&mut self, stream: u32, message: &[u8]) {
        self.open(stream);
        self.transmit(stream, &grpc::prefix(message.len()), Body::Borrowed(message));
    }

    /// Whole messages with their prefixes, one behind the other: they share frames.
    pub fn send_framed(&mut self, stream: u32, messages: &[u8]) {
        self.open(stream);
        self.transmit(stream, &[], Body::Borrowed(messages));
    }

    /// The same in a frame from [`frame::data`] that other connections send too: it must be for streams of this id.
    pub fn send_frame(&mut self, stream: u32, data: &Arc<[u8]>) {
        let header = frame::FrameHeader::parse(data);
        let length = data.len() - HEADER_BYTES;
        assert!(
            header.stream == stream
                && header.length == length
                && header.kind == kind::DATA
                && header.flags == 0,
            "a frame goes to the stream that it is made for"
        );
        self.open(stream);
        // Behind other bytes a copy is cheaper than one more slice.
        if self.output.is_empty() && length <= self.max_frame() && length <= self.window_for(stream) {
            self.output.batch.push_shared(data.clone(), 0, data.len());
            return self.spend(stream, length);
        }
        self.transmit(stream, &[], Body::Borrowed(&data[HEADER_BYTES..]));
    }

    /// One message made of bytes of its own and a part of shared ones; the shared ones go by reference where that is
    /// cheaper.
    pub fn send_parts(&mut self, stream: u32, head: &[u8], shared: &Arc<[u8]>, part: std::ops::Range<usize>) {
        self.open(stream);
        let mut front = [0; PREFIX_BYTES + FRONT_BYTES];
        let Some(room) = front.get_mut(PREFIX_BYTES..PREFIX_BYTES + head.len()) else {
            return self.send(stream, &[head, &shared[part]].concat());
        };
        room.copy_from_slice(head);
        front[..PREFIX_BYTES].copy_from_slice(&grpc::prefix(head.len() + part.len()));
        let front = &front[..PREFIX_BYTES + head.len()];
        // What goes to the socket at once is cheapest in one piece; what waits keeps no copy of its own.
        let waits = self.output.unsent() + part.len() > COPY_BYTES || self.queued(stream) > 0;
        if part.len() < SHARE_BYTES || !waits {
            return self.transmit(stream, front, Body::Borrowed(&shared[part]));
        }
        self.transmit(stream, front, Body::Shared(shared, part));
    }

    /// The last word: trailers, after everything that waits. A message begun with `open_sized` that isn't complete
    /// can't end well: status 0 becomes a reset.
    pub fn finish(&mut self, stream: u32, code: u8, message: &str) {
        let Some(s) = self.streams.get_mut(stream).filter(|s| !s.answered) else { return };
        if s.sized_left > 0 && code == grpc::code::OK {
            return self.reset(stream);
        }
        self.end(stream, Ending::Status(code, message.into()));
    }

    /// RST_STREAM with INTERNAL_ERROR: the answer can't be completed.
    pub fn reset(&mut self, stream: u32) {
        self.reset_with(stream, ErrorCode::INTERNAL_ERROR);
    }

    /// Bytes of answers that wait on this stream for a window or for the output: back-pressure for producers.
    pub fn queued(&self, stream: u32) -> usize {
        self.streams.get(stream).and_then(|s| s.backlog.as_ref()).map_or(0, |b| b.len())
    }

    // ---- long messages, window by window ------------------------------------------------------------------------

    /// Begins a message of `message_bytes`, which follow by `direct`. Opens the answer if it isn't.
    pub fn open_sized(&mut self, stream: u32, message_bytes: usize) {
        self.open(stream);
        let Some(s) = self.streams.get_mut(stream).filter(|s| !s.answered) else { return };
        assert!(s.sized_left == 0 && !s.prefix_due, "a message was begun before the last was complete");
        assert!(u32::try_from(message_bytes).is_ok(), "a gRPC message is shorter than 4 GiB");
        s.sized_left = message_bytes;
        s.sized_bytes = message_bytes;
        s.prefix_due = true;
        if message_bytes == 0 {
            s.prefix_due = false;
            self.transmit(stream, &grpc::prefix(0), Body::Borrowed(&[]));
        }
    }

    /// Bytes of message that flow control and the output limit allow now. 0 also puts the stream on the list that
    /// `drain_writable` answers from.
    pub fn sendable(&mut self, stream: u32) -> usize {
        let room = self.limits.output_bytes.saturating_sub(self.output.unsent());
        let bytes = self.allowed(stream).min(room);
        if bytes == 0 && self.is_open(stream) {
            self.full |= room == 0;
            self.want(stream);
        }
        bytes
    }

    /// The next bytes of a message begun with `open_sized`, as borrowed slices; together at most what `sendable` said
    /// (what exceeds it is copied and waits). They are wrapped in DATA frames and offered to `sink`, behind what the
    /// output already holds; it says how many bytes the socket took, and the rest is copied.
    pub fn direct<'a>(
        &mut self,
        stream: u32,
        slices: impl IntoIterator<Item = &'a [u8]>,
        sink: &mut dyn FnMut(&[IoSlice<'_>]) -> usize,
    ) {
        let Some(s) = self.streams.get_mut(stream).filter(|s| !s.answered) else { return };
        let prefix = grpc::prefix(s.sized_bytes);
        let due = std::mem::replace(&mut s.prefix_due, false);
        let mut slices = (due.then_some(&prefix[..]).into_iter())
            .chain(slices.into_iter().filter(|slice| !slice.is_empty()).map(|slice| slice as &[u8]))
            .peekable();
        let mut passed = 0;
        let mut open = self.output.in_flight() == 0;
        let mut carried: &[u8] = &[];
        while !carried.is_empty() || slices.peek().is_some() {
            let mut burst = Burst::default();
            burst.fill(&mut carried, &mut slices, self.window_for(stream), self.max_frame());
            if burst.bytes == 0 {
                // Past the window: what is left waits.
                let rest = if carried.is_empty() {
                    slices.next().unwrap_or(&[])
                } else {
                    std::mem::take(&mut carried)
                };
                passed += rest.len();
                self.transmit(stream, &[], Body::Borrowed(rest));
                continue;
            }
            passed += burst.bytes;
            self.spend(stream, burst.bytes);
            open = self.offer(&burst, stream, open, sink);
        }
        let Some(s) = self.streams.get_mut(stream) else { return };
        let message = passed - if due { PREFIX_BYTES } else { 0 };
        s.sized_left = s
            .sized_left
            .checked_sub(message)
            .expect("more bytes were passed than the message was said to have");
    }

    /// Offers a burst to the sink, if it is still `open`, and copies what it leaves. False: it took less than all.
    fn offer(
        &mut self,
        burst: &Burst<'_>,
        stream: u32,
        open: bool,
        sink: &mut dyn FnMut(&[IoSlice<'_>]) -> usize,
    ) -> bool {
        let headers = burst.headers(stream);
        let mut took = 0;
        let mut waiting = 0;
        if open && let Some(queued) = self.output.contiguous() {
            waiting = queued.len();
            let mut iov = [IoSlice::new(&[]); 1 + BURST_FRAMES + BURST_PARTS];
            let mut used = 0;
            if !queued.is_empty() {
                iov[0] = IoSlice::new(queued);
                used = 1;
            }
            burst.each(&headers, |bytes| {
                iov[used] = IoSlice::new(bytes);
                used += 1;
            });
            took = sink(&iov[..used]);
            let total = waiting + burst.bytes + burst.frames * HEADER_BYTES;
            assert!(took <= total, "the socket took more than it was offered");
        }
        self.output.consumed(took.min(waiting));
        let mut skip = took.saturating_sub(waiting);
        let batch = &mut self.output.batch;
        burst.each(&headers, |bytes| {
            let n = skip.min(bytes.len());
            skip -= n;
            batch.push(&bytes[n..]);
        });
        open && self.output.is_empty()
    }

    /// Somebody waits for the output to drain: `drain_writable` must be asked as soon as it has.
    pub fn awaits_output(&self) -> bool {
        self.full || self.reopened
    }

    /// Appends the streams that can send again, once each. Ask after every `receive`, and after output was consumed;
    /// it also moves backlogs on.
    pub fn drain_writable(&mut self, writable: &mut Vec<u32>) {
        if self.full && self.output.unsent() * 2 <= self.limits.output_bytes {
            self.full = false;
            self.reopened = true;
        }
        if !self.reopened {
            return;
        }
        self.reopened = false;
        self.run_turns();
        if self.hungry.is_empty() || !self.has_room() {
            self.full |= !self.hungry.is_empty();
            return;
        }
        let hungry = std::mem::take(&mut self.hungry);
        for id in hungry {
            if !self.is_open(id) {
                continue;
            }
            let allowed = self.allowed(id);
            let s = self.streams.get_mut(id).expect("an open stream");
            if allowed > 0 {
                s.hungry = false;
                writable.push(id);
            } else {
                self.hungry.push(id);
            }
        }
    }

    // ---- inside -------------------------------------------------------------------------------------------------

    fn max_frame(&self) -> usize {
        (self.peer.max_frame_bytes as usize).min(limits::SEND_FRAME_BYTES)
    }

    fn has_room(&self) -> bool {
        self.output.unsent() < self.limits.output_bytes
    }

    /// Bytes of DATA that flow control allows on this stream now, behind its backlog.
    fn window_for(&self, stream: u32) -> usize {
        match self.streams.get(stream) {
            Some(s) if s.backlog.is_none() => self.window.open().min(s.send.open(self.peer.initial_window)),
            _ => 0,
        }
    }

    /// The same in bytes of message: a prefix that is due takes its share.
    fn allowed(&self, stream: u32) -> usize {
        let due = self.streams.get(stream).is_some_and(|s| s.prefix_due);
        self.window_for(stream).saturating_sub(if due { PREFIX_BYTES } else { 0 })
    }

    fn spend(&mut self, stream: u32, bytes: usize) {
        self.window.spend(bytes);
        self.progress = true;
        if let Some(s) = self.streams.get_mut(stream) {
            s.send.spend(bytes);
        }
    }

    fn want(&mut self, stream: u32) {
        let Some(s) = self.streams.get_mut(stream).filter(|s| !s.hungry) else { return };
        s.hungry = true;
        if self.hungry.len() > 2 * self.streams.len() + 64 {
            self.hungry.retain(|&id| self.streams.get(id).is_some());
        }
        self.hungry.push(stream);
    }

    /// Sends DATA as far as windows and output allow, the rest goes to the backlog.
    fn transmit(&mut self, stream: u32, prefix: &[u8], body: Body<'_>) {
        if self.streams.get(stream).is_none() {
            return;
        }
        let total = prefix.len() + body.len();
        let max_frame = self.max_frame();
        let mut sent = 0;
        while sent < total && self.has_room() {
            let n = (total - sent).min(max_frame).min(self.window_for(stream));
            if n == 0 {
                break;
            }
            frame::put_header(self.output.tail(), n, kind::DATA, 0, stream);
            body.append(prefix, sent, sent + n, &mut self.output.batch);
            self.spend(stream, n);
            sent += n;
        }
        if sent == total {
            return;
        }
        self.full |= !self.has_room();
        let mut spare = self.spare_backlogs.pop();
        let s = self.streams.get_mut(stream).expect("looked up before");
        let backlog = s.backlog.get_or_insert_with(|| spare.take().unwrap_or_default());
        body.append(prefix, sent, total, backlog);
        self.spare_backlogs.extend(spare);
        self.backlog_bytes += total - sent;
        self.take_turn(stream);
        self.want(stream);
    }

    /// Puts a stream with a backlog into the queue, unless it waits for its own window.
    fn take_turn(&mut self, stream: u32) {
        let Some(s) = self.streams.get_mut(stream) else { return };
        if s.in_turn || s.backlog.is_none() || s.send.open(self.peer.initial_window) == 0 {
            return;
        }
        s.in_turn = true;
        if self.turns.len() > 2 * self.streams.len() + 64 {
            self.turns.retain(|&id| self.streams.get(id).is_some());
        }
        self.turns.push_back(stream);
    }

    /// Moves backlogs on, a frame per stream and turn.
    fn run_turns(&mut self) {
        while self.window.open() > 0 && !self.turns.is_empty() {
            if !self.has_room() {
                self.full = true;
                return;
            }
            let id = self.turns.pop_front().expect("not empty");
            let Some(s) = self.streams.get_mut(id) else { continue };
            s.in_turn = false;
            let Some(backlog) = s.backlog.as_mut() else { continue };
            let max_frame = (self.peer.max_frame_bytes as usize).min(limits::SEND_FRAME_BYTES);
            let n = (backlog.len().min(max_frame))
                .min(self.window.open())
                .min(s.send.open(self.peer.initial_window));
            if n == 0 {
                continue;
            }
            frame::put_header(self.output.tail(), n, kind::DATA, 0, id);
            backlog.move_to(n, &mut self.output.batch);
            self.backlog_bytes -= n;
            let done = backlog.is_empty();
            self.spend(id, n);
            if done {
                self.backlog_done(id);
            } else {
                self.take_turn(id);
            }
        }
    }

    fn backlog_done(&mut self, stream: u32) {
        let Some(s) = self.streams.get_mut(stream) else { return };
        let spare = s.backlog.take();
        let ending = s.ending.take();
        if let Some(batch) = spare
            && self.spare_backlogs.len() < SPARES
        {
            self.spare_backlogs.push(batch);
        }
        if let Some(ending) = ending {
            self.write_ending(stream, ending);
        }
    }

    /// Gives the last word now, or leaves it for the end of the backlog.
    fn end(&mut self, stream: u32, ending: Ending) {
        let Some(s) = self.streams.get_mut(stream) else { return };
        s.answered = true;
        if s.backlog.is_some() {
            s.ending = Some(ending);
            let buffers = [std::mem::take(&mut s.assembly), std::mem::take(&mut s.held)];
            self.forget(buffers);
        } else {
            self.write_ending(stream, ending);
        }
    }

    fn write_ending(&mut self, stream: u32, ending: Ending) {
        let Some(s) = self.streams.get_mut(stream) else { return };
        match ending {
            // Written when the request ends, not after a backlog: there is none.
            Ending::Refusal(..) => return,
            Ending::Plain => frame::put_header(self.output.tail(), 0, kind::DATA, flag::END_STREAM, stream),
            Ending::Status(code, message) => {
                let out = self.output.tail();
                let at = out.len();
                frame::put_header(out, 0, kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream);
                if !s.headers_sent {
                    self.encoder.response(out, s.content_type);
                }
                if code == grpc::code::OK {
                    self.encoder.ok(out);
                } else {
                    self.scratch.clear();
                    grpc::percent_encode(&message, &mut self.scratch);
                    self.encoder.status(out, code, &self.scratch);
                }
                frame::patch_length(out, at);
            }
        }
        self.retire(stream);
    }

    /// Closes a stream whose END_STREAM we just wrote. A client that hasn't ended its side is told to stop, as
    /// RFC 9113 section 8.1 allows.
    fn retire(&mut self, stream: u32) {
        self.progress = true;
        let Some(s) = self.remove(stream) else { return };
        if !(s.remote_closed || s.held_end) {
            frame::put_reset(self.output.tail(), stream, ErrorCode::NO_ERROR);
            self.resets.add(stream);
        }
    }

    /// Forgets a stream; its buffers are kept for others.
    pub(crate) fn remove(&mut self, stream: u32) -> Option<Stream> {
        let mut s = self.streams.remove(stream)?;
        self.ended = (stream, s.word);
        if let Some(mut backlog) = s.backlog.take() {
            self.backlog_bytes -= backlog.len();
            backlog.reset();
            if self.spare_backlogs.len() < SPARES {
                self.spare_backlogs.push(backlog);
            }
        }
        if s.assembly.capacity() + s.held.capacity() > 0 {
            let buffers = [std::mem::take(&mut s.assembly), std::mem::take(&mut s.held)];
            self.forget(buffers);
        }
        Some(s)
    }

    /// RST_STREAM, for a stream that is open or not; what the peer still sends on it is ignored.
    pub(crate) fn reset_with(&mut self, stream: u32, code: ErrorCode) {
        self.remove(stream);
        frame::put_reset(self.output.tail(), stream, code);
        self.resets.add(stream);
    }

    /// A complete answer of headers to a request that never became a stream.
    pub(crate) fn abort(&mut self, stream: u32, ended: bool, http: u16, code: u8, message: &str) {
        self.scratch.clear();
        grpc::percent_encode(message, &mut self.scratch);
        let out = self.output.tail();
        let at = out.len();
        frame::put_header(out, 0, kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream);
        if http == 200 {
            self.encoder.response(out, Default::default());
        } else {
            self.encoder.http(out, http, b"application/grpc");
        }
        self.encoder.status(out, code, &self.scratch);
        frame::patch_length(out, at);
        self.progress = true;
        if !ended {
            frame::put_reset(out, stream, ErrorCode::NO_ERROR);
            self.resets.add(stream);
        }
    }

    /// A window of `stream`, or of the connection (0), opened.
    pub(crate) fn window_opened(&mut self, stream: u32) {
        self.reopened = true;
        if stream != 0 {
            self.take_turn(stream);
        }
        self.run_turns();
    }

    /// The peer's initial window grew: every stream may go on.
    pub(crate) fn initial_window_grew(&mut self) {
        self.reopened = true;
        if self.backlog_bytes > 0 {
            for id in self.streams.ids() {
                self.take_turn(id);
            }
            self.run_turns();
        }
    }

    /// Drops what a stream had gathered.
    fn forget(&mut self, buffers: [Vec<u8>; 2]) {
        for buffer in buffers {
            self.assembled_bytes -= buffer.len();
            self.keep_buffer(buffer);
        }
    }

    pub(crate) fn spare_buffer(&mut self) -> Vec<u8> {
        self.spare_buffers.pop().unwrap_or_default()
    }

    pub(crate) fn keep_buffer(&mut self, mut buffer: Vec<u8>) {
        if self.spare_buffers.len() < SPARES && buffer.capacity() > 0 && buffer.capacity() <= SPARE_BYTES {
            buffer.clear();
            self.spare_buffers.push(buffer);
        }
    }
}

/// Bytes of a message, borrowed or shared.
enum Body<'a> {
    Borrowed(&'a [u8]),
    Shared(&'a Arc<[u8]>, std::ops::Range<usize>),
}

impl Body<'_> {
    fn len(&self) -> usize {
        match self {
            Body::Borrowed(bytes) => bytes.len(),
            Body::Shared(_, part) => part.len(),
        }
    }

    /// Appends bytes `from..to` of `prefix` followed by the body.
    fn append(&self, prefix: &[u8], from: usize, to: usize, batch: &mut Batch) {
        if from < prefix.len() {
            batch.push(&prefix[from..to.min(prefix.len())]);
        }
        let (from, to) = (from.saturating_sub(prefix.len()), to.saturating_sub(prefix.len()));
        match self {
            Body::Borrowed(bytes) => batch.push(&bytes[from..to]),
            Body::Shared(bytes, part) => {
                batch.push_shared((*bytes).clone(), part.start + from, part.start + to);
            }
        }
    }
}

const BURST_PARTS: usize = 64;
const BURST_FRAMES: usize = 16;

/// DATA frames around borrowed slices, gathered on the stack.
struct Burst<'a> {
    parts: [&'a [u8]; BURST_PARTS],
    used: usize,
    /// Of each frame: its parts end before this position, and its payload's length.
    ends: [(usize, usize); BURST_FRAMES],
    frames: usize,
    /// Payload of all frames.
    bytes: usize,
}

impl Default for Burst<'_> {
    fn default() -> Self {
        Burst { parts: [&[]; BURST_PARTS], used: 0, ends: [(0, 0); BURST_FRAMES], frames: 0, bytes: 0 }
    }
}

impl<'a> Burst<'a> {
    /// Takes slices until the window, the parts or the frames are used up. `carried` is the rest of a slice.
    fn fill(
        &mut self,
        carried: &mut &'a [u8],
        slices: &mut impl Iterator<Item = &'a [u8]>,
        window: usize,
        max_frame: usize,
    ) {
        let mut in_frame = 0;
        while self.used < BURST_PARTS && self.bytes < window {
            if in_frame == max_frame {
                self.ends[self.frames] = (self.used, in_frame);
                self.frames += 1;
                in_frame = 0;
                if self.frames == BURST_FRAMES {
                    return;
                }
            }
            if carried.is_empty() {
                let Some(next) = slices.next() else { break };
                *carried = next;
            }
            let n = carried.len().min(window - self.bytes).min(max_frame - in_frame);
            let (part, rest) = carried.split_at(n);
            *carried = rest;
            self.parts[self.used] = part;
            self.used += 1;
            self.bytes += n;
            in_frame += n;
        }
        if in_frame > 0 {
            self.ends[self.frames] = (self.used, in_frame);
            self.frames += 1;
        }
    }

    fn headers(&self, stream: u32) -> [[u8; HEADER_BYTES]; BURST_FRAMES] {
        self.ends.map(|(_, length)| frame::header(length, kind::DATA, 0, stream))
    }

    /// Every slice in the order of the wire.
    fn each<'s>(&'s self, headers: &'s [[u8; HEADER_BYTES]; BURST_FRAMES], mut sink: impl FnMut(&'s [u8])) {
        let mut at = 0;
        for (header, &(end, _)) in headers.iter().zip(&self.ends[..self.frames]) {
            sink(header);
            self.parts[at..end].iter().for_each(|part| sink(part));
            at = end;
        }
    }
}
