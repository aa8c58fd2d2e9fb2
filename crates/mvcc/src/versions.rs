//! Which version of a key a revision sees: by lookup, by a walk over a span, and counted.
//!
//! A read below the newest revision merges `LIVE` and `HISTORY` by seeking (key, <= revision) once per key. It never
//! steps through the versions of a key, so its cost is that of the keys, however often they changed.

use std::cmp::Ordering;
use std::collections::HashSet;

use base::Revision;
use tree::{Cursor, View};

use crate::cell::Cell;
use crate::span::{End, Span};
use crate::stamp::{self, Revisions};
use crate::trees::{self, CHANGES, HISTORY, LIVE};

/// Above this many changes since a revision, relative to the keys of the span, a merge counts faster than the
/// changes correct the newest count: a correction costs two lookups, a merge step about a quarter of one.
const CORRECTION_FACTOR: u64 = 8;

/// The newest version; `None` when the key does not exist.
#[inline]
pub fn newest<'a>(view: View<'a>, key: &[u8]) -> Option<Cell<'a>> {
    view.get(LIVE, key).map(Cell::new)
}

/// The version that `revision` sees; `None` when the key did not exist then. `revision` must not be one whose
/// versions are removed.
pub fn at<'a>(view: View<'a>, key: &[u8], revision: i64) -> Option<Cell<'a>> {
    match newest(view, key) {
        Some(cell) if cell.revision().main <= revision => Some(cell),
        _ => superseded_at(view, key, revision),
    }
}

/// What `HISTORY` holds of `key` that `revision` sees; right when the live version is known to be above it.
pub fn superseded_at<'a>(view: View<'a>, key: &[u8], revision: i64) -> Option<Cell<'a>> {
    assert!(revision < i64::MAX, "there is a revision above {revision}");
    if revision < 1 {
        return None;
    }
    let mut seek = Vec::new();
    trees::history_key(&mut seek, key, Revision::new(revision + 1, 0));
    let mut cursor = view.cursor(HISTORY);
    if !cursor.seek_before(&seek) {
        return None;
    }
    let (found, main) = trees::split_history_key(cursor.key());
    if found != key || cursor.value().is_empty() {
        return None;
    }
    assert!(main.main <= revision, "the entry before a revision is not above it");
    Some(Cell::new(cursor.value()))
}

/// The version that was written exactly at `revision`; `None` when that change was a delete, or is removed.
pub fn exactly<'a>(view: View<'a>, key: &[u8], revision: Revision) -> Option<Cell<'a>> {
    if let Some(cell) = newest(view, key)
        && cell.revision() == revision
    {
        return Some(cell);
    }
    let mut seek = Vec::new();
    trees::history_key(&mut seek, key, revision);
    view.get(HISTORY, &seek).filter(|stored| !stored.is_empty()).map(Cell::new)
}

/// The keys of a span that a revision sees, in key order.
pub struct Walk<'a, 'r> {
    view: View<'a>,
    span: Span<'r>,
    revision: i64,
    live: Cursor<'a>,
    /// Only when the revision is not the newest. At the oldest entry of its key.
    history: Option<Cursor<'a>>,
    seek: Vec<u8>,
}

impl<'a, 'r> Walk<'a, 'r> {
    /// `newest` is the revision of the newest version in `view`.
    pub fn new(view: View<'a>, span: Span<'r>, revision: i64, newest: i64) -> Walk<'a, 'r> {
        assert!(revision < i64::MAX, "there is a revision above {revision}");
        let mut live = view.cursor(LIVE);
        live.seek(span.start);
        let mut seek = Vec::new();
        let history = (revision < newest).then(|| {
            let mut history = view.cursor(HISTORY);
            seek.extend_from_slice(span.start);
            seek.extend_from_slice(&[0; Revision::BYTES]);
            history.seek(&seek);
            history
        });
        Walk { view, span, revision, live, history, seek }
    }

    /// The next key and the version of it that is seen.
    #[inline]
    pub fn step(&mut self) -> Option<(&'a [u8], Cell<'a>)> {
        if self.history.is_some() {
            return self.step_merged();
        }
        if !self.live.valid() {
            return None;
        }
        let key = self.live.key();
        if !self.span.reaches(key) {
            return None;
        }
        let cell = Cell::new(self.live.value());
        self.live.next();
        Some((key, cell))
    }

    fn step_merged(&mut self) -> Option<(&'a [u8], Cell<'a>)> {
        loop {
            let history = self.history.as_ref().filter(|cursor| cursor.valid());
            let old = history.map(|cursor| trees::split_history_key(cursor.key()).0);
            let live = self.live.valid().then(|| self.live.key());
            let (key, has_live, has_old) = match (live, old) {
                (None, None) => return None,
                (Some(live), None) => (live, true, false),
                (None, Some(old)) => (old, false, true),
                (Some(live), Some(old)) => match live.cmp(old) {
                    Ordering::Less => (live, true, false),
                    Ordering::Greater => (old, false, true),
                    Ordering::Equal => (live, true, true),
                },
            };
            if !self.span.reaches(key) {
                return None;
            }
            let mut seen = None;
            if has_live {
                let cell = Cell::new(self.live.value());
                if cell.revision().main <= self.revision {
                    seen = Some(cell);
                }
                self.live.next();
            }
            if has_old {
                let older = self.pass_history(key, seen.is_none());
                seen = seen.or(older);
            }
            if let Some(cell) = seen {
                return Some((key, cell));
            }
        }
    }

    /// Moves the history cursor, which is at the oldest entry of `key`, to the next key; on the way finds what the
    /// revision sees, if that is `wanted`.
    fn pass_history(&mut self, key: &[u8], wanted: bool) -> Option<Cell<'a>> {
        let history = self.history.as_mut()?;
        let mut seen = None;
        let (_, oldest) = trees::split_history_key(history.key());
        if wanted && oldest.main <= self.revision {
            let mut stored = history.value();
            let more = history.next();
            if more && trees::split_history_key(history.key()).0 == key {
                trees::history_key(&mut self.seek, key, Revision::new(self.revision + 1, 0));
                let found = history.seek_before(&self.seek);
                assert!(found, "there is an entry at or below the revision");
                assert!(trees::split_history_key(history.key()).0 == key, "and it is of this key");
                stored = history.value();
            } else {
                return (!stored.is_empty()).then(|| Cell::new(stored));
            }
            seen = (!stored.is_empty()).then(|| Cell::new(stored));
        }
        // Most keys have few versions: look at the next entry before seeking over the rest.
        if history.next() && trees::split_history_key(history.key()).0 == key {
            self.seek.clear();
            self.seek.extend_from_slice(key);
            self.seek.extend_from_slice(&[0xff; Revision::BYTES]);
            history.seek(&self.seek);
        }
        seen
    }

    pub fn view(&self) -> View<'a> {
        self.view
    }
}

/// How many keys of the span exist at the newest revision, by the counts that branches carry.
pub fn count_newest(view: View<'_>, span: Span<'_>) -> u64 {
    match span.end {
        End::Single => u64::from(view.get(LIVE, span.start).is_some()),
        End::Open => view.len(LIVE) - view.rank(LIVE, span.start),
        End::Before(end) if end <= span.start => 0,
        End::Before(end) => view.rank(LIVE, end) - view.rank(LIVE, span.start),
    }
}

/// How many keys of the span `revision` sees.
pub fn count_at(view: View<'_>, span: Span<'_>, revision: i64, newest: i64) -> u64 {
    if revision >= newest {
        return count_newest(view, span);
    }
    if span.is_single() {
        return u64::from(at(view, span.start, revision).is_some());
    }
    let since = Revision::new(revision + 1, 0).to_bytes();
    let changed = view.len(CHANGES) - view.rank(CHANGES, &since);
    let now = count_newest(view, span);
    if changed > now / CORRECTION_FACTOR {
        let mut walk = Walk::new(view, span, revision, newest);
        let mut count = 0;
        while walk.step().is_some() {
            count += 1;
        }
        return count;
    }
    // Few changes since: correct the newest count by the keys that they name.
    let mut count = now as i64;
    let mut seen = HashSet::new();
    let mut cursor = view.cursor(CHANGES);
    let mut more = cursor.seek(&since);
    while more {
        let (_, key) = trees::split_change(cursor.value());
        if span.contains(key) && seen.insert(key) {
            count -= i64::from(view.get(LIVE, key).is_some());
            count += i64::from(superseded_at(view, key, revision).is_some());
        }
        more = cursor.next();
    }
    assert!(count >= 0, "a corrected count is a count");
    count as u64
}

/// The revision that a request for `revision` reads, by the rules of a plain range: 0 and below mean the newest.
pub fn readable(revisions: Revisions, revision: i64) -> Result<i64, proto::Error> {
    if revision > revisions.current {
        return Err(proto::errors::FUTURE_REV);
    }
    if revision <= 0 {
        return Ok(revisions.current);
    }
    if revision < revisions.compacted {
        return Err(proto::errors::COMPACTED);
    }
    Ok(revision)
}

/// Whether a producer that reads at `revision` may go on over `view`, however far compaction has come.
pub(crate) fn still_readable(view: View<'_>, revision: i64) -> Result<i64, proto::Error> {
    let revisions = Revisions::of(view.stamp());
    assert!(revision <= revisions.current, "snapshots only get newer");
    if revision < revisions.compacted && !stamp::intact_at(view.stamp(), revision) {
        return Err(proto::errors::COMPACTED);
    }
    Ok(revisions.current)
}
