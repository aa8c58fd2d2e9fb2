//! Keepalive in both directions, as grpc-go's server does it: pings of ours into silence, and strikes for a client
//! whose pings come too fast.
//!
//! A ping after we sent HEADERS or DATA is never a strike: grpc-go's clients measure bandwidth that way, thousands of
//! times a second on a short path.

use base::{Millis, limits};

use crate::limits::Limits;

#[derive(Debug)]
pub(crate) struct Keepalive {
    heard_at: Millis,
    /// Our ping that nothing followed yet.
    pinged_at: Option<Millis>,
    last_ping_at: Option<Millis>,
    strikes: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    Ping,
    Dead,
}

impl Keepalive {
    pub(crate) fn new(now: Millis) -> Keepalive {
        Keepalive { heard_at: now, pinged_at: None, last_ping_at: None, strikes: 0 }
    }

    /// Bytes came in.
    pub(crate) fn heard(&mut self, now: Millis) {
        self.heard_at = now;
        self.pinged_at = None;
    }

    /// The client pings. `progress`: we sent HEADERS or DATA since its last ping. False: too many strikes.
    #[must_use]
    pub(crate) fn pinged(
        &mut self,
        now: Millis,
        progress: bool,
        streams_open: bool,
        limits: &Limits,
    ) -> bool {
        let last = self.last_ping_at.replace(now);
        if progress {
            self.strikes = 0;
            return true;
        }
        let least = match streams_open {
            true => limits.ping_min_time_ms,
            false => limits.ping_min_time_ms.max(limits::PING_IDLE_INTERVAL_MS),
        };
        if last.is_some_and(|last| now.saturating_sub(last) < least) {
            self.strikes += 1;
        }
        self.strikes <= limits::PING_STRIKES
    }

    /// What the clock asks for. `Ping` counts as sent.
    pub(crate) fn due(&mut self, now: Millis, limits: &Limits) -> Due {
        match self.pinged_at {
            Some(at) if now.saturating_sub(at) >= limits.keepalive_timeout_ms => Due::Dead,
            Some(_) => Due::Nothing,
            None if now.saturating_sub(self.heard_at) >= limits.keepalive_interval_ms => {
                self.pinged_at = Some(now);
                Due::Ping
            }
            None => Due::Nothing,
        }
    }

    /// When `due` may next say something.
    pub(crate) fn next(&self, limits: &Limits) -> Millis {
        match self.pinged_at {
            Some(at) => at.saturating_add(limits.keepalive_timeout_ms),
            None => self.heard_at.saturating_add(limits.keepalive_interval_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_fast_pings_after_the_first_are_too_many() {
        let limits = Limits::default();
        let mut k = Keepalive::new(0);
        assert!(k.pinged(0, false, true, &limits), "the first ping has no predecessor");
        assert!(k.pinged(4999, false, true, &limits));
        assert!(k.pinged(5000, false, true, &limits));
        assert!(!k.pinged(5001, false, true, &limits));
    }

    #[test]
    fn pings_of_kubernetes_and_after_progress_are_free() {
        let limits = Limits::default();
        let mut k = Keepalive::new(0);
        for i in 0..100 {
            assert!(k.pinged(i * 30_000, false, i % 2 == 0, &limits));
        }
        for i in 0..10_000 {
            assert!(k.pinged(3_000_000 + i, true, true, &limits));
        }
    }

    #[test]
    fn without_streams_pings_must_be_further_apart() {
        let limits = Limits::default();
        let mut k = Keepalive::new(0);
        let allowed: Vec<bool> = (0..5).map(|i| k.pinged(i * 10_000, false, false, &limits)).collect();
        assert_eq!(allowed, [true, true, true, false, false]);
    }

    #[test]
    fn silence_is_pinged_once_and_then_fatal() {
        let limits = Limits { keepalive_interval_ms: 100, keepalive_timeout_ms: 20, ..Limits::default() };
        let mut k = Keepalive::new(0);
        assert_eq!((k.due(99, &limits), k.next(&limits)), (Due::Nothing, 100));
        assert_eq!(k.due(100, &limits), Due::Ping);
        assert_eq!((k.due(119, &limits), k.next(&limits)), (Due::Nothing, 120));
        k.heard(119);
        assert_eq!(k.due(218, &limits), Due::Nothing);
        assert_eq!(k.due(219, &limits), Due::Ping);
        assert_eq!(k.due(239, &limits), Due::Dead);
    }
}
