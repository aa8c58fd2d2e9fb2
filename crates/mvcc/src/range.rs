//! The answer to one RangeRequest, by etcd's rules.
//!
//! What clients do not expect, and what is therefore done on purpose:
//! - A revision of 0 or below means the newest; the header carries the newest revision whatever was read.
//! - `count` is that of the whole span: limit and revision filters do not change it.
//! - With filters or an order of their own, limit and `more` look at what passed the filters. Without, and also with
//!   a sort target but order NONE, the span is cut to limit + 1 keys *first* and sorted ascending by the target
//!   then. (With filters and order NONE all that passed is sorted.)
//! - `keys_only` leaves the lease out too, unless the sort target is VALUE.
//! - Equal elements of a sort come in the order in which Go's `sort.Sort` leaves them ([`crate::sort`]).

use base::varint;
use pb::range_request::{SortOrder, SortTarget};
use prost::Message;
use proto::Error;
use proto::etcdserverpb as pb;
use tree::View;

use crate::cell::{Cell, Fields};
use crate::rows::Rows;
use crate::sort;
use crate::span::{End, Span};
use crate::stamp::Revisions;
use crate::trees::LIVE;
use crate::versions::{self, Walk};

/// A whole answer. Slices point into the pages of the view.
#[derive(Clone, Debug)]
pub struct RangeAnswer<'a> {
    /// For the header: the newest revision.
    pub revision: i64,
    pub count: i64,
    pub more: bool,
    pub rows: Rows<'a>,
}

const MORE: u8 = 0x18;
const COUNT: u8 = 0x20;
const HEADER: u8 = 0x0a;

/// Bytes of the fields that follow the pairs.
pub fn tail_len(more: bool, count: i64) -> usize {
    let more = if more { 2 } else { 0 };
    more + if count == 0 { 0 } else { 1 + varint::len(count as u64) }
}

/// Appends the fields that follow the pairs.
pub fn push_tail(more: bool, count: i64, out: &mut Vec<u8>) {
    if more {
        out.extend_from_slice(&[MORE, 1]);
    }
    if count != 0 {
        out.push(COUNT);
        varint::push(out, count as u64);
    }
}

impl RangeAnswer<'_> {
    /// Bytes of the message without its header.
    pub fn body_len(&self) -> usize {
        self.rows.bytes() + tail_len(self.more, self.count)
    }

    /// Appends the whole message.
    pub fn encode(&self, header: &pb::ResponseHeader, out: &mut Vec<u8>) {
        let header_len = header.encoded_len();
        out.reserve(2 + header_len + self.body_len());
        out.push(HEADER);
        varint::push(out, header_len as u64);
        header.encode_raw(out);
        for piece in self.rows.pieces() {
            out.extend_from_slice(piece);
        }
        push_tail(self.more, self.count, out);
    }

    /// As a message of its own, its header with nothing but the revision: as answers inside a Txn have it.
    pub fn to_message(&self) -> pb::RangeResponse {
        pb::RangeResponse {
            header: Some(pb::ResponseHeader { revision: self.revision, ..Default::default() }),
            kvs: self.rows.to_messages(),
            more: self.more,
            count: self.count,
        }
    }
}

/// Whether the order asked for is the one in which keys are stored.
pub fn default_order(request: &pb::RangeRequest) -> bool {
    request.sort_order == SortOrder::None as i32
        || (request.sort_target == SortTarget::Key as i32 && request.sort_order == SortOrder::Ascend as i32)
}

/// Whether the request filters by revision.
pub fn has_filters(request: &pb::RangeRequest) -> bool {
    !Filters::of(request).is_empty()
}

/// Bounds on revisions, 0 being none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filters {
    min_mod: i64,
    max_mod: i64,
    min_create: i64,
    max_create: i64,
}

impl Filters {
    pub fn of(request: &pb::RangeRequest) -> Filters {
        Filters {
            min_mod: request.min_mod_revision,
            max_mod: request.max_mod_revision,
            min_create: request.min_create_revision,
            max_create: request.max_create_revision,
        }
    }

    pub fn is_empty(&self) -> bool {
        *self == Filters::default()
    }

    pub fn pass(&self, cell: Cell<'_>) -> bool {
        if self.is_empty() {
            return true;
        }
        let kv = cell.kv();
        let above = |bound: i64, value: i64| bound == 0 || value >= bound;
        let below = |bound: i64, value: i64| bound == 0 || value <= bound;
        above(self.min_mod, kv.mod_)
            && below(self.max_mod, kv.mod_)
            && above(self.min_create, kv.create)
            && below(self.max_create, kv.create)
    }
}

/// How a pair is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Whole,
    /// Without value and lease.
    Bare,
    /// Without value.
    Leased,
}

impl Form {
    pub fn of(request: &pb::RangeRequest) -> Form {
        match (request.keys_only, request.sort_target == SortTarget::Value as i32) {
            (false, _) => Form::Whole,
            (true, false) => Form::Bare,
            (true, true) => Form::Leased,
        }
    }

    pub fn fields<'a>(self, cell: Cell<'a>) -> Fields<'a> {
        let fields = cell.kv().fields;
        match self {
            Form::Whole => fields,
            Form::Bare => Fields { value: &[], lease: 0, ..fields },
            Form::Leased => Fields { value: &[], ..fields },
        }
    }

    pub fn push<'a>(self, cell: Cell<'a>, rows: &mut Rows<'a>) {
        match self {
            Form::Whole => rows.push_cell(cell),
            Form::Bare | Form::Leased => rows.push_made(&self.fields(cell)),
        }
    }
}

/// Answers a request over `view`, whose newest versions are those of `revisions.current`. Errors: future, compacted.
pub fn range<'a>(
    view: View<'a>,
    revisions: Revisions,
    request: &pb::RangeRequest,
) -> Result<RangeAnswer<'a>, Error> {
    let revision = versions::readable(revisions, request.revision)?;
    let span = Span::new(&request.key, &request.range_end);
    let mut answer = RangeAnswer { revision: revisions.current, count: 0, more: false, rows: Rows::new() };
    if request.count_only {
        answer.count = versions::count_at(view, span, revision, revisions.current) as i64;
        return Ok(answer);
    }
    let filters = Filters::of(request);
    let form = Form::of(request);
    if span.is_single() {
        // A single pair is its own order, and no positive limit cuts it.
        if let Some(cell) = versions::at(view, span.start, revision) {
            answer.count = 1;
            if filters.pass(cell) {
                form.push(cell, &mut answer.rows);
            }
        }
        return Ok(answer);
    }
    let limit = usize::try_from(request.limit).ok().filter(|&limit| limit > 0);
    let by_key = request.sort_target == SortTarget::Key as i32;
    let collected = if default_order(request) && (by_key || filters.is_empty()) {
        collect(view, span, revision, revisions.current, filters, limit)
    } else if descends_by_key(request) && revision >= revisions.current {
        collect_backwards(view, span, filters, limit)
    } else {
        collect(view, span, revision, revisions.current, filters, None)
    };
    let Collected { mut cells, complete } = collected;
    order(&mut cells, request);
    let kept = limit.unwrap_or(usize::MAX).min(cells.len());
    answer.more = kept < cells.len();
    answer.count = if complete && filters.is_empty() {
        cells.len() as i64
    } else {
        versions::count_at(view, span, revision, revisions.current) as i64
    };
    for &cell in &cells[..kept] {
        form.push(cell, &mut answer.rows);
    }
    assert!(answer.rows.len() as i64 <= answer.count, "an answer has no more pairs than the span");
    Ok(answer)
}

struct Collected<'a> {
    cells: Vec<Cell<'a>>,
    /// The walk came to the end of the span.
    complete: bool,
}

/// Passing cells in key order, one more than `limit` at most.
fn collect<'a>(
    view: View<'a>,
    span: Span<'_>,
    revision: i64,
    newest: i64,
    filters: Filters,
    limit: Option<usize>,
) -> Collected<'a> {
    let enough = limit.map_or(usize::MAX, |limit| limit.saturating_add(1));
    let mut cells = Vec::new();
    let mut walk = Walk::new(view, span, revision, newest, enough as u64);
    while cells.len() < enough {
        let Some((_, cell)) = walk.step() else { return Collected { cells, complete: true } };
        if filters.pass(cell) {
            cells.push(cell);
        }
    }
    Collected { cells, complete: false }
}

fn descends_by_key(request: &pb::RangeRequest) -> bool {
    request.sort_target == SortTarget::Key as i32 && request.sort_order == SortOrder::Descend as i32
}

/// The last passing cells of the newest revision, one more than `limit` at most, in key order.
fn collect_backwards<'a>(
    view: View<'a>,
    span: Span<'_>,
    filters: Filters,
    limit: Option<usize>,
) -> Collected<'a> {
    let enough = limit.map_or(usize::MAX, |limit| limit.saturating_add(1));
    let mut cursor = view.cursor(LIVE);
    let mut more = match span.end {
        End::Before(end) => cursor.seek_before(end),
        End::Open | End::Single => cursor.seek_last(),
    };
    let mut cells = Vec::new();
    while more && cursor.key() >= span.start && cells.len() < enough {
        let cell = Cell::new(cursor.value());
        if filters.pass(cell) {
            cells.push(cell);
        }
        more = cursor.prev();
    }
    let complete = cells.len() < enough;
    cells.reverse();
    Collected { cells, complete }
}

/// Puts cells that stand in key order into the order asked for.
fn order(cells: &mut Vec<Cell<'_>>, request: &pb::RangeRequest) {
    let descend = match SortOrder::try_from(request.sort_order) {
        Ok(SortOrder::Descend) => true,
        Ok(SortOrder::Ascend | SortOrder::None) => false,
        Err(_) => return,
    };
    match SortTarget::try_from(request.sort_target) {
        Ok(SortTarget::Key) | Err(_) => {
            // Keys differ, so that there is only one order.
            if descend {
                cells.reverse();
            }
        }
        Ok(SortTarget::Version) => order_by(cells, descend, |cell| cell.kv().version),
        Ok(SortTarget::Create) => order_by(cells, descend, |cell| cell.kv().create),
        Ok(SortTarget::Mod) => order_by(cells, descend, |cell| cell.kv().mod_),
        Ok(SortTarget::Value) => order_by(cells, descend, |cell| cell.kv().value),
    }
}

fn order_by<'a, K: Ord>(cells: &mut Vec<Cell<'a>>, descend: bool, key: impl Fn(Cell<'a>) -> K) {
    let mut keyed: Vec<(K, Cell<'a>)> = cells.iter().map(|&cell| (key(cell), cell)).collect();
    if descend {
        sort::sort(&mut keyed, |a, b| b.0 < a.0);
    } else {
        sort::sort(&mut keyed, |a, b| a.0 < b.0);
    }
    cells.clear();
    cells.extend(keyed.into_iter().map(|(_, cell)| cell));
}
