//! A range that is produced piece by piece: the pinned revision, where to go on, and how much may still come.
//!
//! It owns no view, so that between two steps the snapshot can be let go and a newer one taken; what it reads stays
//! that of the revision it began with. A first pass measures ([`RangeCursor::measure`]), a second produces, and both
//! see the same pairs, because a revision never changes.
//!
//! Invariant: `next` is above every key already produced. A cursor never goes back.

use proto::Error;
use proto::etcdserverpb as pb;
use tree::View;

use crate::range::{Filters, Form, default_order, tail_len};
use crate::rows::Rows;
use crate::span::{End, Span};
use crate::stamp::Revisions;
use crate::versions::{self, Walk};

/// A guess at a pair, bytes: how many a step will see decides only how it finds them.
const ROW_BYTES: usize = 256;

#[derive(Clone, Debug)]
pub struct RangeCursor {
    next: Vec<u8>,
    /// As the request has it.
    range_end: Vec<u8>,
    /// The revision that is read.
    revision: i64,
    /// The newest revision when the cursor was made: for the header.
    header_revision: i64,
    /// Pairs that the limit still allows.
    remaining: u64,
    limited: bool,
    filters: Filters,
    form: Form,
    produced: u64,
    done: bool,
    more: bool,
}

/// What a range amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Pairs within the limit.
    pub rows: u64,
    /// Bytes of those pairs, each with its tag and length.
    pub bytes: u64,
    /// Pairs of the whole span.
    pub count: i64,
    /// The limit leaves some out.
    pub more: bool,
}

impl Sizes {
    /// Bytes of the message without its header.
    pub fn body_len(&self) -> u64 {
        self.bytes + tail_len(self.more, self.count) as u64
    }
}

impl RangeCursor {
    /// `None` when the request cannot be produced in key order, or has no pairs to produce: answer it by
    /// [`crate::range()`] then. Errors: future, compacted.
    pub fn new(revisions: Revisions, request: &pb::RangeRequest) -> Result<Option<RangeCursor>, Error> {
        let revision = versions::readable(revisions, request.revision)?;
        let by_target = request.sort_target != pb::range_request::SortTarget::Key as i32;
        if request.count_only || !default_order(request) || by_target {
            return Ok(None);
        }
        let limit = u64::try_from(request.limit).ok().filter(|&limit| limit > 0);
        Ok(Some(RangeCursor {
            next: request.key.clone(),
            range_end: request.range_end.clone(),
            revision,
            header_revision: revisions.current,
            remaining: limit.unwrap_or(u64::MAX),
            limited: limit.is_some(),
            filters: Filters::of(request),
            form: Form::of(request),
            produced: 0,
            done: false,
            more: false,
        }))
    }

    /// As [`RangeCursor::new`], for RangeStream: there a sort target without an order counts for nothing but the
    /// lease of `keys_only` answers, because etcd cuts the chunks by key.
    pub fn for_stream(
        revisions: Revisions,
        request: &pb::RangeRequest,
    ) -> Result<Option<RangeCursor>, Error> {
        let by_key = pb::RangeRequest { sort_target: 0, ..request.clone() };
        let cursor = RangeCursor::new(revisions, &by_key)?;
        Ok(cursor.map(|cursor| RangeCursor { form: Form::of(request), ..cursor }))
    }

    /// The revision that is read: a producer registers it, so that removal waits.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    pub fn header_revision(&self) -> i64 {
        self.header_revision
    }

    /// Every pair is produced.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Once done: the limit left some out.
    pub fn more(&self) -> bool {
        assert!(self.done, "known at the end only");
        self.more
    }

    /// Pairs produced so far.
    pub fn produced(&self) -> u64 {
        self.produced
    }

    fn span(&self) -> Span<'_> {
        Span::new(&self.next, &self.range_end)
    }

    /// Moves a cursor that has produced nothing behind `last`, the key of the `produced`-th pair: for a caller that
    /// gathered more than it could use.
    pub fn resume_after(&mut self, last: &[u8], produced: u64) {
        assert!(self.produced == 0 && produced > 0, "only a fresh cursor is moved, and forward");
        assert!(produced <= self.remaining && last >= self.next.as_slice(), "a cursor never goes back");
        self.produced = produced;
        self.remaining -= produced;
        self.next.clear();
        self.next.extend_from_slice(last);
        if self.range_end.is_empty() {
            self.done = true;
        } else {
            self.next.push(0);
        }
    }

    /// How many keys the rest of the span has, whatever the limit. Before the first step: the count of the answer.
    pub fn count_rest(&self, view: View<'_>) -> Result<i64, Error> {
        let newest = versions::still_readable(view, self.revision)?;
        if self.produced > 0 && self.span().is_single() {
            return Ok(0);
        }
        Ok(versions::count_at(view, self.span(), self.revision, newest) as i64)
    }

    /// Adds pairs to `rows` until they come to `budget` bytes (the last may go beyond) or the range is done.
    /// Errors: compacted, when what is left to read is no longer there.
    pub fn step<'a>(
        &mut self,
        view: View<'a>,
        budget_bytes: usize,
        rows: &mut Rows<'a>,
    ) -> Result<(), Error> {
        assert!(budget_bytes > 0, "a step makes progress");
        if self.done {
            return Ok(());
        }
        let newest = versions::still_readable(view, self.revision)?;
        self.revision =
            if base::bug!(LaterPieceIsNewer) && self.produced > 0 { newest } else { self.revision };
        let next = std::mem::take(&mut self.next);
        let rows_hint = self.remaining.min((budget_bytes / ROW_BYTES) as u64);
        let mut walk = Walk::new(view, Span::new(&next, &self.range_end), self.revision, newest, rows_hint);
        let start = rows.bytes();
        let mut last: Option<&'a [u8]> = None;
        loop {
            let Some((key, cell)) = walk.step() else {
                self.done = true;
                break;
            };
            if !self.filters.pass(cell) {
                continue;
            }
            if self.remaining == 0 {
                (self.done, self.more) = (true, true);
                break;
            }
            self.form.push(cell, rows);
            self.remaining -= 1;
            self.produced += 1;
            last = Some(key);
            if matches!(Span::new(&next, &self.range_end).end, End::Single) {
                self.done = true;
                break;
            }
            if rows.bytes() - start >= budget_bytes {
                break;
            }
        }
        self.next = next;
        if let Some(last) = last {
            assert!(last >= self.next.as_slice(), "a cursor never goes back");
            self.next.clear();
            self.next.extend_from_slice(last);
            if !self.range_end.is_empty() && !base::bug!(PieceRepeatsKey) {
                self.next.push(0);
            }
        }
        Ok(())
    }

    /// Walks what [`RangeCursor::step`] will produce, and measures it.
    pub fn measure(&self, view: View<'_>) -> Result<Sizes, Error> {
        assert!(self.produced == 0, "measured before it is produced");
        let newest = versions::still_readable(view, self.revision)?;
        let mut walk = Walk::new(view, self.span(), self.revision, newest, self.remaining);
        let mut sizes = Sizes { rows: 0, bytes: 0, count: 0, more: false };
        let mut scratch = Vec::new();
        while let Some((_, cell)) = walk.step() {
            if !self.filters.pass(cell) {
                continue;
            }
            if sizes.rows == self.remaining {
                sizes.more = true;
                break;
            }
            sizes.rows += 1;
            sizes.bytes += match self.form {
                Form::Whole => cell.framed().len() as u64,
                Form::Bare | Form::Leased => {
                    scratch.clear();
                    self.form.fields(cell).push_framed(&mut scratch);
                    scratch.len() as u64
                }
            };
        }
        sizes.count = if self.filters.is_empty() && !sizes.more {
            sizes.rows as i64
        } else {
            versions::count_at(view, self.span(), self.revision, newest) as i64
        };
        assert!(self.limited || !sizes.more, "only a limit leaves pairs out");
        Ok(sizes)
    }
}
