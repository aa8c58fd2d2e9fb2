//! Flow control (RFC 9113 section 5.2): how much a peer may still send us, and how much we may send it.
//!
//! Invariants: what we grant never exceeds the window's size; a send window never exceeds 2^31-1, may be negative after
//! the peer lowers its initial window, and nothing is sent while it is not positive. Updates are batched: a window is
//! given back in one frame when half of it was used.

use crate::frame::MAX_31_BITS;

/// What the peer may still send, on a stream or on the connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReceiveWindow {
    /// Bytes the peer may send now.
    open: u32,
    /// Bytes that arrived and were not given back yet.
    used: u32,
}

impl ReceiveWindow {
    pub(crate) fn new(size: u32) -> ReceiveWindow {
        debug_assert!(size <= MAX_31_BITS);
        ReceiveWindow { open: size, used: 0 }
    }

    /// Takes `length` bytes that arrived. False: the peer sent more than it may.
    #[must_use]
    #[inline]
    pub(crate) fn take(&mut self, length: usize) -> bool {
        if length > self.open as usize {
            return false;
        }
        self.open -= length as u32;
        self.used += length as u32;
        true
    }

    /// The increment to announce, once enough was used to be worth a frame.
    #[inline]
    pub(crate) fn give_back(&mut self) -> Option<u32> {
        // open + used is the window's size at all times.
        if self.used < self.open || self.used == 0 {
            return None;
        }
        let increment = self.used;
        self.open += increment;
        self.used = 0;
        Some(increment)
    }
}

/// What we may still send on the connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SendWindow(i64);

impl SendWindow {
    pub(crate) fn new(size: u32) -> SendWindow {
        SendWindow(i64::from(size))
    }

    /// Bytes that may be sent now; never negative.
    #[inline]
    pub(crate) fn open(self) -> usize {
        self.0.max(0) as usize
    }

    #[inline]
    pub(crate) fn spend(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.open());
        self.0 -= bytes as i64;
    }

    /// False: the window would pass 2^31-1.
    #[must_use]
    pub(crate) fn widen(&mut self, increment: u32) -> bool {
        self.0 += i64::from(increment);
        self.0 <= i64::from(MAX_31_BITS)
    }
}

/// What we may still send on a stream, relative to the peer's initial window: a new SETTINGS_INITIAL_WINDOW_SIZE then
/// moves every stream's window by changing one number.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Balance(i64);

impl Balance {
    #[inline]
    pub(crate) fn open(self, initial: u32) -> usize {
        (i64::from(initial) + self.0).max(0) as usize
    }

    #[inline]
    pub(crate) fn spend(&mut self, bytes: usize) {
        self.0 -= bytes as i64;
    }

    /// False: the window would pass 2^31-1.
    #[must_use]
    pub(crate) fn widen(&mut self, increment: u32, initial: u32) -> bool {
        self.0 += i64::from(increment);
        self.fits(initial)
    }

    pub(crate) fn fits(self, initial: u32) -> bool {
        i64::from(initial) + self.0 <= i64::from(MAX_31_BITS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receive_window_is_given_back_by_halves_and_never_grows() {
        let mut window = ReceiveWindow::new(100);
        assert!(window.take(49));
        assert_eq!(window.give_back(), None);
        assert!(window.take(1));
        assert_eq!(window.give_back(), Some(50));
        assert!(window.take(100));
        assert!(!window.take(1), "the window is used up");
        assert_eq!(window.give_back(), Some(100));
        assert_eq!(window.give_back(), None);
    }

    #[test]
    fn a_lowered_initial_window_makes_a_stream_window_negative() {
        let mut balance = Balance::default();
        balance.spend(60);
        assert_eq!(balance.open(100), 40);
        assert_eq!(balance.open(50), 0);
        assert!(balance.widen(20, 50));
        assert_eq!(balance.open(50), 10);
    }

    #[test]
    fn windows_stop_at_31_bits() {
        let mut connection = SendWindow::new(1);
        assert!(connection.widen(MAX_31_BITS - 1));
        assert!(!connection.widen(1));
        let mut stream = Balance::default();
        assert!(stream.widen(MAX_31_BITS - 10, 10));
        assert!(!stream.fits(11));
        assert!(!stream.widen(1, 10));
    }
}
