//! The limits of one server's connections: `base::limits` by default, the operator's flags where there are any.

use base::{Millis, limits};

use crate::settings::DEFAULT_WINDOW;

/// Shared by all connections of a listener.
#[derive(Clone, Debug)]
pub struct Limits {
    /// One received gRPC message, bytes: --max-request-bytes plus `GRPC_OVERHEAD_BYTES`.
    pub max_message_bytes: usize,
    /// --max-concurrent-streams; u32::MAX announces no limit, and `STREAMS_PER_CONNECTION` holds.
    pub max_concurrent_streams: u32,
    /// --grpc-keepalive-min-time, ms: pings that come faster are strikes.
    pub ping_min_time_ms: Millis,
    /// --grpc-keepalive-interval, ms: silence after which we ping. u64::MAX: never.
    pub keepalive_interval_ms: Millis,
    /// --grpc-keepalive-timeout, ms: silence after our ping that ends the connection.
    pub keepalive_timeout_ms: Millis,
    /// Windows that we grant, bytes; at least the protocol's default.
    pub stream_window_bytes: u32,
    pub connection_window_bytes: u32,
    /// A decoded header list, bytes, by the RFC's count (32 more per field).
    pub header_list_bytes: usize,
    /// Unsent output at which a connection counts as congested, bytes.
    pub output_bytes: usize,
    pub resets_per_second: u32,
    pub control_frames_per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_message_bytes: (3 << 19) + limits::GRPC_OVERHEAD_BYTES,
            max_concurrent_streams: u32::MAX,
            ping_min_time_ms: 5_000,
            keepalive_interval_ms: 7_200_000,
            keepalive_timeout_ms: 20_000,
            stream_window_bytes: limits::RECEIVE_WINDOW_BYTES,
            connection_window_bytes: limits::RECEIVE_WINDOW_BYTES,
            header_list_bytes: limits::HEADER_LIST_BYTES,
            output_bytes: limits::OUTPUT_BYTES_PER_CONNECTION,
            resets_per_second: limits::RESETS_PER_SECOND,
            control_frames_per_second: limits::CONTROL_FRAMES_PER_SECOND,
        }
    }
}

impl Limits {
    /// Panics when a window is below what peers may assume before they see our settings.
    pub(crate) fn check(&self) {
        assert!(self.stream_window_bytes >= DEFAULT_WINDOW && self.stream_window_bytes < 1 << 31);
        assert!(self.connection_window_bytes >= DEFAULT_WINDOW && self.connection_window_bytes < 1 << 31);
    }

    pub(crate) fn streams(&self) -> usize {
        self.max_concurrent_streams.min(limits::STREAMS_PER_CONNECTION) as usize
    }
}

/// Counts events per second of the caller's clock.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rate {
    since: Millis,
    count: u32,
}

impl Rate {
    /// Counts one event. False: more than `limit` within a second.
    #[must_use]
    pub(crate) fn allow(&mut self, now: Millis, limit: u32) -> bool {
        if now.saturating_sub(self.since) >= 1000 {
            *self = Rate { since: now, count: 0 };
        }
        self.count += 1;
        self.count <= limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_forgets_after_a_second() {
        let mut rate = Rate::default();
        assert!((0..3).all(|_| rate.allow(5000, 3)));
        assert!(!rate.allow(5999, 3));
        assert!(rate.allow(6000, 3));
    }

    #[test]
    fn the_defaults_are_etcd_s() {
        let limits = Limits::default();
        limits.check();
        assert_eq!(limits.max_message_bytes, 2 << 20);
        assert_eq!(limits.streams(), limits::STREAMS_PER_CONNECTION as usize);
    }
}
