//! Which version of a key a revision sees: by lookup, by a walk over a span, and counted.
//!
//! A read below the newest revision merges `LIVE` and `HISTORY` by seeking (key, <= revision) once per key. It never
//! steps through the versions of a key, so its cost is that of the keys, however often they changed.

use std::cmp::Ordering;

use base::Revision;
use tree::{Cursor, View};

use crate::cell::Cell;
use crate::span::{End, Span};
use crate::stamp::{self, Revisions};
use crate::trees::{self, CHANGES, HISTORY, LIVE};

/// With more than one change since a revision to so many keys of the span, a walk counts faster than the changes
/// correct the newest count: a correction costs two lookups, a step of a walk a fraction of one.
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
    superseded_at_by(view, key, revision, &mut Vec::new())
}

fn superseded_at_by<'a>(view: View<'a>, key: &[u8], revision: i64, seek: &mut Vec<u8>) -> Option<Cell<'a>> {
    assert!(revision < i64::MAX, "there is a revision above {revision}");
    if revision < 1 {
        return None;
    }
    trees::history_key(seek, key, Revision::new(revision + 1, 0));
    let mut cursor = view.cursor(HISTORY);
    if !cursor.seek_before(seek) {
        return None;
    }
    let (found, main) = trees::split_history_key(cursor.key());
    if found != key {
        return None;
    }
    assert!(main.main <= revision, "the entry before a revision is not above it");
    trees::superseded(view, cursor.value())
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
    trees::superseded(view, view.get(HISTORY, &seek)?)
}

/// The keys of a span that changed after a revision, in order, each once.
fn changed_keys<'a>(view: View<'a>, span: Span<'_>, revision: i64) -> Vec<&'a [u8]> {
    let mut keys = Vec::new();
    let mut cursor = view.cursor(CHANGES);
    let mut more = cursor.seek(&Revision::new(revision + 1, 0).to_bytes());
    while more {
        let (_, key) = trees::split_change(cursor.value());
        if span.contains(key) {
            keys.push(key);
        }
        more = cursor.next();
    }
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// How many changes came after a revision.
fn changes_since(view: View<'_>, revision: i64) -> u64 {
    view.len(CHANGES) - view.rank(CHANGES, &Revision::new(revision + 1, 0).to_bytes())
}

/// The keys of a span that a revision sees, in key order.
///
/// Below the newest revision there are two ways. When few changes came since, their keys are gathered first, and
/// `LIVE` is walked with only those looked up in `HISTORY`. Otherwise both trees are merged.
pub struct Walk<'a, 'r> {
    view: View<'a>,
    span: Span<'r>,
    revision: i64,
    live: Cursor<'a>,
    past: Past<'a>,
    seek: Vec<u8>,
}

enum Past<'a> {
    /// What is live is what is seen.
    Newest,
    /// All that is live and not one of these is seen; these are looked up. The last comes first.
    Corrected(Vec<&'a [u8]>),
    /// At the oldest entry of a key.
    Merged(Box<Cursor<'a>>),
}

impl<'a, 'r> Walk<'a, 'r> {
    /// `newest` is the revision of the newest version in `view`; `rows` is about how many steps will be made, when
    /// that is known to be fewer than the span has keys.
    pub fn new(view: View<'a>, span: Span<'r>, revision: i64, newest: i64, rows: u64) -> Walk<'a, 'r> {
        assert!(revision < i64::MAX, "there is a revision above {revision}");
        let mut live = view.cursor(LIVE);
        live.seek(span.start);
        let mut seek = Vec::new();
        let past = if revision >= newest {
            Past::Newest
        } else if changes_since(view, revision) <= rows.min(count_newest(view, span)) {
            let mut changed = changed_keys(view, span, revision);
            changed.reverse();
            Past::Corrected(changed)
        } else {
            let mut history = view.cursor(HISTORY);
            seek.extend_from_slice(span.start);
            seek.extend_from_slice(&[0; Revision::BYTES]);
            history.seek(&seek);
            Past::Merged(Box::new(history))
        };
        Walk { view, span, revision, live, past, seek }
    }

    /// The next key and the version of it that is seen.
    #[inline]
    pub fn step(&mut self) -> Option<(&'a [u8], Cell<'a>)> {
        match self.past {
            Past::Newest => self.step_live(),
            Past::Corrected(_) => self.step_corrected(),
            Past::Merged(_) => self.step_merged(),
        }
    }

    #[inline]
    fn step_live(&mut self) -> Option<(&'a [u8], Cell<'a>)> {
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

    fn step_corrected(&mut self) -> Option<(&'a [u8], Cell<'a>)> {
        loop {
            let Past::Corrected(changed) = &mut self.past else { return None };
            let live = self.live.valid().then(|| self.live.key());
            let Some(&key) = changed.last().filter(|changed| live.is_none_or(|live| **changed <= live))
            else {
                return self.step_live();
            };
            changed.pop();
            if live == Some(key) {
                self.live.next();
            }
            if let Some(cell) = superseded_at_by(self.view, key, self.revision, &mut self.seek) {
                return Some((key, cell));
            }
        }
    }

    fn step_merged(&mut self) -> Option<(&'a [u8], Cell<'a>)> {
        loop {
            let Past::Merged(history) = &self.past else { return None };
            let old = history.valid().then(|| trees::split_history_key(history.key()).0);
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
        let Past::Merged(history) = &mut self.past else { return None };
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
                return trees::superseded(self.view, stored);
            }
            seen = trees::superseded(self.view, stored);
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
    if revision >= newest || base::bug!(PastCountIsNewest) {
        return count_newest(view, span);
    }
    if span.is_single() {
        return u64::from(at(view, span.start, revision).is_some());
    }
    let now = count_newest(view, span);
    if changes_since(view, revision) > now / CORRECTION_FACTOR {
        let mut walk = Walk::new(view, span, revision, newest, u64::MAX);
        let mut count = 0;
        while walk.step().is_some() {
            count += 1;
        }
        return count;
    }
    // Few changes since: correct the newest count by the keys that they name.
    let mut count = now as i64;
    let mut seek = Vec::new();
    for key in changed_keys(view, span, revision) {
        count -= i64::from(view.get(LIVE, key).is_some());
        count += i64::from(superseded_at_by(view, key, revision, &mut seek).is_some());
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
