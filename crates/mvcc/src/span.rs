//! The set of keys that a request means: one key, all from a key on, or a half-open interval.

/// Where a span ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End<'r> {
    /// Only the start itself (no `range_end`).
    Single,
    /// All keys from the start on (`range_end` is one zero byte).
    Open,
    /// Keys below this one.
    Before(&'r [u8]),
}

/// Keys from `start`, up to `end`. An interval whose end is not above its start has no keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span<'r> {
    pub start: &'r [u8],
    pub end: End<'r>,
}

impl<'r> Span<'r> {
    pub fn new(key: &'r [u8], range_end: &'r [u8]) -> Span<'r> {
        let end = match range_end {
            [] => End::Single,
            [0] => End::Open,
            end => End::Before(end),
        };
        Span { start: key, end }
    }

    pub fn all() -> Span<'static> {
        Span { start: &[], end: End::Open }
    }

    /// Whether `key`, known to be at or above the start, is still inside.
    #[inline]
    pub fn reaches(&self, key: &[u8]) -> bool {
        match self.end {
            End::Single => key == self.start,
            End::Open => true,
            End::Before(end) => key < end,
        }
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        key >= self.start && self.reaches(key)
    }

    pub fn is_single(&self) -> bool {
        self.end == End::Single
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_hold_what_their_bounds_say() {
        let cases = [
            ("b", "", "b", true),
            ("b", "", "b\0", false),
            ("b", "\0", "a", false),
            ("b", "\0", "\u{7f}\u{7f}", true),
            ("b", "d", "b", true),
            ("b", "d", "d", false),
            ("d", "b", "c", false),
            ("b", "b", "b", false),
            ("b", "\0\0", "b", false),
        ];
        for (key, end, probe, inside) in cases {
            let span = Span::new(key.as_bytes(), end.as_bytes());
            assert_eq!(span.contains(probe.as_bytes()), inside, "{key:?} {end:?} {probe:?}");
        }
    }
}
