//! A history as text: one line an entry, in the order of steps; and its hash, by which two runs of one seed are
//! compared.
//!
//! ```text
//! 12..15 @3400..3900us c3 m0 put "a" "v1" lease 5 prev -> 7 prev "a"@4#2 "v0"
//! ```
//!
//! A pair reads `"key"@mod/create#version lease N "value"`. Bytes that are not printable are escaped; what is longer
//! than [`SHOWN_BYTES`] is cut, with its length and checksum in place of the rest.

use std::fmt::{self, Display, Formatter, Write};

use super::{
    Answer, Compare, DeleteAnswer, DeleteRange, Dump, Event, HashOf, HashSample, History, Kind, Kv, Moment,
    Note, OpAnswer, Operation, Outcome, Passage, Put, PutAnswer, Range, RangeAnswer, Refusal, Relation,
    Request, Target, Txn, TxnAnswer, TxnOp, WatchAnswer, WatchCreate,
};

/// Of a key or value, bytes.
pub const SHOWN_BYTES: usize = 40;

/// Bytes, readable.
pub struct Shown<'b>(pub &'b [u8]);

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let head = &self.0[..self.0.len().min(SHOWN_BYTES)];
        f.write_char('"')?;
        for &byte in head {
            match byte {
                b'"' | b'\\' => write!(f, "\\{}", byte as char)?,
                b' '..=b'~' => f.write_char(byte as char)?,
                _ => write!(f, "\\x{byte:02x}")?,
            }
        }
        f.write_char('"')?;
        if head.len() < self.0.len() {
            write!(f, "..{}:{:08x}", self.0.len(), base::crc32c(self.0))?;
        }
        Ok(())
    }
}

struct Span<'b>(&'b [u8], &'b [u8]);

impl Display for Span<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.1 {
            [] => write!(f, "{}", Shown(self.0)),
            [0] => write!(f, "[{}..]", Shown(self.0)),
            end => write!(f, "[{}..{})", Shown(self.0), Shown(end)),
        }
    }
}

struct Flags<'f>(&'f [(bool, &'f str)]);

impl Display for Flags<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.iter().filter(|(set, _)| *set).try_for_each(|(_, name)| write!(f, " {name}"))
    }
}

struct Number(&'static str, i64);

impl Display for Number {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.1 == 0 { Ok(()) } else { write!(f, " {} {}", self.0, self.1) }
    }
}

impl Display for Kv {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Kv { key, value, create, modified, version, lease } = self;
        write!(f, "{}@{modified}/{create}#{version}", Shown(key))?;
        write!(f, "{} {}", Number("lease", *lease), Shown(value))
    }
}

struct List<'l, T>(&'l [T]);

impl<T: Display> Display for List<'_, T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_char('[')?;
        for (i, item) in self.0.iter().enumerate() {
            write!(f, "{}{item}", if i == 0 { "" } else { "; " })?;
        }
        f.write_char(']')
    }
}

impl Display for Put {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Put { key, value, lease, prev_kv, ignore_value, ignore_lease } = self;
        write!(f, "put {} {}{}", Shown(key), Shown(value), Number("lease", *lease))?;
        let flags = [(*prev_kv, "prev"), (*ignore_value, "ignore_value"), (*ignore_lease, "ignore_lease")];
        write!(f, "{}", Flags(&flags))
    }
}

impl Display for DeleteRange {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "delete {}{}", Span(&self.key, &self.range_end), Flags(&[(self.prev_kv, "prev")]))
    }
}

impl Display for Range {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Range { key, range_end, revision, limit, serializable, keys_only, count_only } = self;
        write!(f, "range {}{}", Span(key, range_end), Number("at", *revision))?;
        let flags = [(*serializable, "serializable"), (*keys_only, "keys"), (*count_only, "count")];
        write!(f, "{}{}", Number("limit", *limit), Flags(&flags))
    }
}

impl Display for Compare {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let relation = match self.relation {
            Relation::Equal => "=",
            Relation::NotEqual => "!=",
            Relation::Greater => ">",
            Relation::Less => "<",
        };
        write!(f, "{} ", Span(&self.key, &self.range_end))?;
        match &self.target {
            Target::Version(n) => write!(f, "version {relation} {n}"),
            Target::Create(n) => write!(f, "create {relation} {n}"),
            Target::Modified(n) => write!(f, "mod {relation} {n}"),
            Target::Lease(n) => write!(f, "lease {relation} {n}"),
            Target::Value(value) => write!(f, "value {relation} {}", Shown(value)),
        }
    }
}

impl Display for TxnOp {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            TxnOp::Put(put) => put.fmt(f),
            TxnOp::DeleteRange(delete) => delete.fmt(f),
            TxnOp::Range(range) => range.fmt(f),
            TxnOp::Txn(nested) => nested.fmt(f),
        }
    }
}

impl Display for Txn {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "txn {} then {}", List(&self.compares), List(&self.then))?;
        if self.otherwise.is_empty() { Ok(()) } else { write!(f, " else {}", List(&self.otherwise)) }
    }
}

impl Display for Request {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Request::Put(put) => put.fmt(f),
            Request::DeleteRange(delete) => delete.fmt(f),
            Request::Range(range) => range.fmt(f),
            Request::Txn(txn) => txn.fmt(f),
            Request::Compact { revision } => write!(f, "compact {revision}"),
            Request::LeaseGrant { id, ttl_s } => write!(f, "grant {id} for {ttl_s}s"),
            Request::LeaseRevoke { id } => write!(f, "revoke {id}"),
            Request::LeaseKeepAlive { id } => write!(f, "renew {id}"),
            Request::LeaseTimeToLive { id, keys } => write!(f, "ttl {id}{}", Flags(&[(*keys, "keys")])),
        }
    }
}

struct Prev<'p>(&'p Option<Kv>);

impl Display for Prev<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |kv| write!(f, " prev {kv}"))
    }
}

impl Display for PutAnswer {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.revision, Prev(&self.prev))
    }
}

impl Display for DeleteAnswer {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} deleted {}", self.revision, self.deleted)?;
        if self.prevs.is_empty() { Ok(()) } else { write!(f, " prev {}", List(&self.prevs)) }
    }
}

impl Display for RangeAnswer {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let RangeAnswer { revision, kvs, more, count } = self;
        write!(f, "{revision} of {count}{} {}", Flags(&[(*more, "more")]), List(kvs))
    }
}

impl Display for TxnAnswer {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let taken = if self.succeeded { "then" } else { "else" };
        write!(f, "{} {taken} {}", self.revision, List(&self.answers))
    }
}

impl Display for OpAnswer {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            OpAnswer::Put(answer) => answer.fmt(f),
            OpAnswer::DeleteRange(answer) => answer.fmt(f),
            OpAnswer::Range(answer) => answer.fmt(f),
            OpAnswer::Txn(answer) => answer.fmt(f),
        }
    }
}

impl Display for Answer {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Put(answer) => answer.fmt(f),
            Answer::DeleteRange(answer) => answer.fmt(f),
            Answer::Range(answer) => answer.fmt(f),
            Answer::Txn(answer) => answer.fmt(f),
            Answer::Compact { revision } | Answer::LeaseRevoke { revision } => write!(f, "{revision}"),
            Answer::LeaseGrant { revision, id, ttl_s } => write!(f, "{revision} lease {id} for {ttl_s}s"),
            Answer::LeaseKeepAlive { revision, ttl_s } => write!(f, "{revision} for {ttl_s}s"),
            Answer::LeaseTimeToLive { revision, ttl_s, granted_ttl_s, keys } => {
                write!(f, "{revision} left {ttl_s}s of {granted_ttl_s}s ")?;
                let keys: Vec<Shown<'_>> = keys.iter().map(|key| Shown(key)).collect();
                write!(f, "{}", List(&keys))
            }
        }
    }
}

impl Display for Refusal {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::KeyNotFound => f.write_str("key not found"),
            Refusal::LeaseNotFound => f.write_str("lease not found"),
            Refusal::LeaseExists => f.write_str("lease exists"),
            Refusal::Compacted => f.write_str("compacted"),
            Refusal::FutureRevision => f.write_str("future revision"),
            Refusal::Other(text) => f.write_str(text),
        }
    }
}

impl Display for Operation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Operation { client, member, call, end, request, outcome } = self;
        write!(f, "{}..", call.step)?;
        if let Some(end) = end {
            write!(f, "{} @{}..{}us", end.step, call.at_us, end.at_us)?;
        } else {
            write!(f, " @{}us..", call.at_us)?;
        }
        write!(f, " c{client} m{member} {request} -> ")?;
        match outcome {
            Outcome::Answered(answer) => answer.fmt(f),
            Outcome::Refused(refusal) => write!(f, "refused: {refusal}"),
            Outcome::Lost => f.write_str("lost"),
        }
    }
}

impl Display for Event {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Put => "put",
            Kind::Delete => "delete",
        };
        write!(f, "{kind} {}{}", self.kv, Prev(&self.prev))
    }
}

impl Display for WatchCreate {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let watch = self;
        write!(f, "watch {}{}", Span(&watch.key, &watch.range_end), Number("from", watch.start_revision))?;
        let flags = [
            (watch.prev_kv, "prev"),
            (watch.no_put, "no_put"),
            (watch.no_delete, "no_delete"),
            (watch.progress_notify, "progress"),
            (watch.fragment, "fragment"),
        ];
        write!(f, "{}{}", Number("id", watch.watch_id), Flags(&flags))
    }
}

impl Display for WatchAnswer {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let WatchAnswer { watch_id, revision, created, canceled, compact_revision, reason, fragment, events } =
            self;
        let flags = [(*created, "created"), (*canceled, "canceled"), (*fragment, "fragment")];
        write!(f, "id {watch_id} at {revision}{}", Flags(&flags))?;
        write!(f, "{}", Number("compacted", *compact_revision))?;
        if !reason.is_empty() {
            write!(f, " because {reason:?}")?;
        }
        if events.is_empty() { Ok(()) } else { write!(f, " {}", List(events)) }
    }
}

impl Display for Passage {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Passage::Create(create) => create.fmt(f),
            Passage::Cancel { watch_id } => write!(f, "cancel id {watch_id}"),
            Passage::RequestProgress => f.write_str("progress?"),
            Passage::Received(answer) => write!(f, "<- {answer}"),
        }
    }
}

impl Display for Note {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Note::Stopped { member } => write!(f, "member {member} stopped"),
            Note::Started { member } => write!(f, "member {member} started"),
            Note::LeaderLost => f.write_str("nobody leads"),
            Note::LeaderWon { member } => write!(f, "member {member} leads"),
            Note::Compacting { revision } => write!(f, "compacting to {revision}"),
            Note::Strained => f.write_str("strained"),
            Note::Relieved => f.write_str("relieved"),
            Note::Settled { revision } => write!(f, "settled at {revision}"),
        }
    }
}

impl Display for HashSample {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let HashOf { revision, compact_revision } = self.of;
        write!(
            f,
            "m{} hash {:08x} of keys at {revision} compacted {compact_revision}",
            self.member, self.hash
        )
    }
}

impl Display for Dump {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "dump {}..={} {}", self.first, self.last, List(&self.events))
    }
}

/// One line of a trace.
enum Line<'h> {
    Operation(&'h Operation),
    Opened(Moment, usize, u32, u32),
    Passed(Moment, usize, &'h Passage),
    Closed(Moment, usize),
    Dump(&'h Dump),
    Hash(&'h HashSample),
    Note(Moment, &'h Note),
}

impl Line<'_> {
    fn step(&self) -> u64 {
        match self {
            Line::Operation(operation) => operation.call.step,
            Line::Opened(at, ..) | Line::Passed(at, ..) | Line::Closed(at, _) | Line::Note(at, _) => at.step,
            Line::Dump(dump) => dump.at.step,
            Line::Hash(sample) => sample.at.step,
        }
    }
}

impl Display for Line<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let at = |at: &Moment, f: &mut Formatter<'_>| write!(f, "{} @{}us ", at.step, at.at_us);
        match self {
            Line::Operation(operation) => operation.fmt(f),
            Line::Opened(moment, stream, client, member) => {
                at(moment, f)?;
                write!(f, "stream {stream} c{client} m{member} opened")
            }
            Line::Passed(moment, stream, passage) => {
                at(moment, f)?;
                write!(f, "stream {stream} {passage}")
            }
            Line::Closed(moment, stream) => {
                at(moment, f)?;
                write!(f, "stream {stream} closed")
            }
            Line::Dump(dump) => {
                at(&dump.at, f)?;
                dump.fmt(f)
            }
            Line::Hash(sample) => {
                at(&sample.at, f)?;
                sample.fmt(f)
            }
            Line::Note(moment, note) => {
                at(moment, f)?;
                note.fmt(f)
            }
        }
    }
}

/// The text of a history, by [`History::trace`].
pub struct Trace<'h> {
    lines: Vec<Line<'h>>,
}

impl Display for Trace<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// FNV-1a, 64 bits: any change of the text changes it, and nothing else does.
struct Fnv(u64);

impl Write for Fnv {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Ok(())
    }
}

impl History {
    /// The whole history, a line an entry; an operation stands where it was called.
    pub fn trace(&self) -> Trace<'_> {
        self.trace_of(0, u64::MAX)
    }

    /// The entries of steps `from` to `to`, both included.
    pub fn trace_of(&self, from: u64, to: u64) -> Trace<'_> {
        let mut lines: Vec<Line<'_>> = self.operations.iter().map(Line::Operation).collect();
        for (number, stream) in self.streams.iter().enumerate() {
            lines.push(Line::Opened(stream.opened, number, stream.client, stream.member));
            lines.extend(stream.passages.iter().map(|(at, passage)| Line::Passed(*at, number, passage)));
            lines.extend(stream.closed.map(|at| Line::Closed(at, number)));
        }
        lines.extend(self.dumps.iter().map(Line::Dump));
        lines.extend(self.hashes.iter().map(Line::Hash));
        lines.extend(self.notes.iter().map(|(at, note)| Line::Note(*at, note)));
        lines.retain(|line| (from..=to).contains(&line.step()));
        lines.sort_by_key(Line::step);
        Trace { lines }
    }

    /// The hash of the trace: the same for the same seed, wherever it runs.
    pub fn trace_hash(&self) -> u64 {
        let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
        let written = write!(hash, "{}", self.trace());
        assert!(written.is_ok(), "a hash takes any text");
        hash.0
    }
}
