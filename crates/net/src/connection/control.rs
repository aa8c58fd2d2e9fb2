//! The frames that carry no data: SETTINGS, PING, WINDOW_UPDATE, RST_STREAM, GOAWAY, PRIORITY (RFC 9113 section 6),
//! each with the limit that keeps a flood of it harmless.

use base::limits;

use super::{Calls, Connection, DRAIN_PING, Drain};
use crate::error::{ErrorCode, Fault};
use crate::frame::{self, FrameHeader, flag};

/// A stream that lived longer than this may be reset at no charge, ms: ending old watches is no attack.
const YOUNG_MS: u64 = 1000;

impl Connection {
    pub(super) fn settings(&mut self, header: &FrameHeader, payload: &[u8]) -> Result<(), Fault> {
        if header.stream != 0 {
            return Err(Fault::protocol("SETTINGS on a stream"));
        }
        if header.has(flag::ACK) {
            if !payload.is_empty() {
                return Err(Fault::frame_size("an acknowledgement of SETTINGS with a payload"));
            }
            self.settings_acked = true;
            return self.count_control("SETTINGS acknowledgements flood");
        }
        if !self.settings_frames.allow(self.now, limits::SETTINGS_PER_SECOND) {
            return Err(Fault::flood("SETTINGS flood"));
        }
        let before = self.out.peer.initial_window;
        self.out.peer.apply(payload)?;
        self.settings_at.get_or_insert(self.now);
        let initial = self.out.peer.initial_window;
        self.out.encoder.table_size(self.out.peer.header_table_bytes);
        frame::put_settings_ack(self.out.output.tail());
        if initial > before {
            if !self.out.streams.iter().all(|stream| stream.send.fits(initial)) {
                return Err(Fault::Connection(
                    ErrorCode::FLOW_CONTROL_ERROR,
                    "a stream's window above 2^31-1",
                ));
            }
            self.out.initial_window_grew();
        }
        Ok(())
    }

    pub(super) fn ping(&mut self, header: &FrameHeader, payload: &[u8]) -> Result<(), Fault> {
        if header.stream != 0 {
            return Err(Fault::protocol("PING on a stream"));
        }
        let Ok(payload) = <[u8; 8]>::try_from(payload) else {
            return Err(Fault::frame_size("PING of a length other than eight"));
        };
        if header.has(flag::ACK) {
            if payload == DRAIN_PING && matches!(self.drain, Drain::Announced(_)) {
                self.finish_drain();
            }
            return self.count_control("PING acknowledgements flood");
        }
        frame::put_ping(self.out.output.tail(), true, payload);
        let progress = std::mem::replace(&mut self.out.progress, false);
        let streams_open = self.out.streams.len() > 0;
        if !self.keepalive.pinged(self.now, progress, streams_open, &self.limits) {
            return Err(Fault::flood("too_many_pings"));
        }
        Ok(())
    }

    pub(super) fn window_update(&mut self, header: &FrameHeader, payload: &[u8]) -> Result<(), Fault> {
        if payload.len() != 4 {
            return Err(Fault::frame_size("WINDOW_UPDATE of a length other than four"));
        }
        let increment = frame::be32(payload) & frame::MAX_31_BITS;
        if header.stream == 0 {
            if increment == 0 {
                return Err(Fault::protocol("WINDOW_UPDATE of nothing"));
            }
            if !self.out.window.widen(increment) {
                return Err(Fault::Connection(
                    ErrorCode::FLOW_CONTROL_ERROR,
                    "the connection's window above 2^31-1",
                ));
            }
            self.out.window_opened(0);
            return Ok(());
        }
        if self.is_idle(header.stream) {
            return Err(Fault::protocol("WINDOW_UPDATE on an idle stream"));
        }
        let initial = self.out.peer.initial_window;
        let Some(stream) = self.out.streams.get_mut(header.stream) else {
            // Closed: the peer could not know yet.
            return Ok(());
        };
        if increment == 0 {
            return Err(Fault::Stream(header.stream, ErrorCode::PROTOCOL_ERROR));
        }
        if !stream.send.widen(increment, initial) {
            return Err(Fault::Stream(header.stream, ErrorCode::FLOW_CONTROL_ERROR));
        }
        self.out.window_opened(header.stream);
        Ok(())
    }

    pub(super) fn reset_by_peer(
        &mut self,
        header: &FrameHeader,
        payload: &[u8],
        calls: &mut impl Calls,
    ) -> Result<(), Fault> {
        if payload.len() != 4 {
            return Err(Fault::frame_size("RST_STREAM of a length other than four"));
        }
        if self.is_idle(header.stream) {
            return Err(Fault::protocol("RST_STREAM on an idle stream"));
        }
        if self.is_beyond_the_last(header.stream) {
            // Not counted: it costs nothing and says nothing, and ends with the connection.
            return Ok(());
        }
        let Some(stream) = self.out.remove(header.stream) else {
            return self.count_control("RST_STREAM flood on closed streams");
        };
        if !stream.answered {
            calls.cancelled(&mut self.out, header.stream);
        }
        let young = self.now.saturating_sub(stream.opened_at) < YOUNG_MS;
        if young && !self.resets.allow(self.now, self.limits.resets_per_second) {
            return Err(Fault::flood("too many streams opened and reset"));
        }
        Ok(())
    }

    /// The client opens no more streams; those that are open go on. It closes the socket itself.
    pub(super) fn goaway(&mut self, header: &FrameHeader, payload: &[u8]) -> Result<(), Fault> {
        if header.stream != 0 {
            return Err(Fault::protocol("GOAWAY on a stream"));
        }
        if payload.len() < 8 {
            return Err(Fault::frame_size("GOAWAY shorter than eight"));
        }
        self.count_control("GOAWAY flood")
    }

    /// Priorities are deprecated and ignored; only their form is judged.
    pub(super) fn priority(&mut self, header: &FrameHeader, payload: &[u8]) -> Result<(), Fault> {
        self.count_control("PRIORITY flood")?;
        if header.stream == 0 {
            return Err(Fault::protocol("PRIORITY on the connection"));
        }
        if payload.len() != 5 {
            return Err(Fault::Stream(header.stream, ErrorCode::FRAME_SIZE_ERROR));
        }
        if frame::be32(payload) & frame::STREAM_ID_MASK == header.stream {
            return Err(Fault::Stream(header.stream, ErrorCode::PROTOCOL_ERROR));
        }
        Ok(())
    }
}
