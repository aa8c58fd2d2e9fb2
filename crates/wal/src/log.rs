//! The writing side: gathers records into batches, hands out writes, and counts what is durable.
//!
//! Invariants:
//! - Sequence numbers are consecutive over batches and segment headers; `flights` holds those that are handed out
//!   and not in the durable prefix, in order.
//! - What a segment header says of the log's position is what the writes before it say, never what is only gathered.
//! - No allocation per batch: buffers go from the pool to the gathering batch, out with the write, and back.

use std::collections::VecDeque;
use std::sync::Arc;

use base::limits::LOG_SPARE_SEGMENTS;
use base::{Index, Term};
use disk::{AlignedBuf, BLOCK, File};

use crate::gather::Gather;
use crate::layout::{BatchHeader, RecordHeader, RecordKind, SegmentHeader};
use crate::position::Position;
use crate::segment::{SegmentId, SegmentJob, SegmentReady, Work};
use crate::{HardState, Options, Record};

/// One write to do: `buf[..len]` to `offset` of `file`, durably (RWF_DSYNC, or a write and fdatasync). Writes may be
/// done at once and complete in any order; each is then given back by [`Wal::written`].
pub struct Write {
    pub seq: u64,
    pub segment: SegmentId,
    pub file: Arc<dyn File>,
    pub offset: u64,
    pub buf: AlignedBuf,
    pub len: usize,
}

impl std::fmt::Debug for Write {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Write {} of {} bytes at {} of {}", self.seq, self.len, self.offset, self.segment)
    }
}

impl Write {
    /// The bytes to write.
    pub fn data(&self) -> &[u8] {
        &self.buf[..self.len]
    }

    /// Does the write, blocking: for simulation and for a server without a ring.
    pub fn perform(&self) -> std::io::Result<()> {
        self.file.write_durable(self.offset, self.data())
    }
}

/// Where the contiguous prefix of completed writes stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Durable {
    /// Of [`Wal::mark_ready`].
    pub ready: u64,
    /// The last entry. The index may fall, when entries were superseded (law 2).
    pub term: Term,
    pub index: Index,
}

/// A write that is handed out.
struct Flight {
    done: bool,
    /// Where the log stands when this and all before it are durable.
    position: Position,
}

/// The segment that is written to.
pub(crate) struct Current {
    pub(crate) number: SegmentId,
    pub(crate) file: Arc<dyn File>,
    /// Its length: that of the options at its making.
    pub(crate) bytes: u64,
    /// Where the next batch goes.
    pub(crate) end: u64,
    pub(crate) max_index: Index,
}

/// A segment that is written to no more.
pub(crate) struct Sealed {
    pub(crate) number: SegmentId,
    pub(crate) bytes: u64,
    pub(crate) max_index: Index,
    /// The sequence of its successor's header, which must be durable before this one is given up (law 4).
    pub(crate) successor_seq: u64,
}

/// What recovery hands to the writing side.
pub(crate) struct Start {
    pub(crate) dir: String,
    pub(crate) options: Options,
    pub(crate) log: u64,
    pub(crate) position: Position,
    /// Sequence and checksum of the current segment's header.
    pub(crate) seq: u64,
    pub(crate) crc: u32,
    pub(crate) current: Current,
    pub(crate) sealed: VecDeque<Sealed>,
    pub(crate) ready: VecDeque<(SegmentId, Arc<dyn File>)>,
    pub(crate) spares: Vec<SegmentId>,
    pub(crate) doomed: Vec<SegmentId>,
    /// (highest index, bytes of the log up to there) for each recovered segment.
    pub(crate) marks: VecDeque<(Index, u64)>,
}

/// The log of one member. See the crate's documentation for what it guarantees.
pub struct Wal {
    options: Options,
    dir: String,
    log: u64,

    open: Gather,
    full: VecDeque<Gather>,
    pool: Vec<AlignedBuf>,
    unsubmitted: usize,

    flights: VecDeque<Flight>,
    next_seq: u64,
    last_crc: u32,
    /// The position behind the last write that was handed out.
    submitted: Position,
    /// The last sequence with records, and the highest that a header has called durable.
    last_with_records: u64,
    stated_durable: u64,

    durable_seq: u64,
    durable: Position,

    current: Current,
    sealed: VecDeque<Sealed>,
    ready: VecDeque<(SegmentId, Arc<dyn File>)>,
    /// A job is under way.
    preparing: bool,
    next_number: u64,
    /// Released files: to be used again, and to be removed.
    spares: Vec<SegmentId>,
    doomed: Vec<SegmentId>,

    released: Index,
    /// Bytes handed out since the begin of the oldest segment at start.
    log_bytes: u64,
    /// Of them, those up to the newest checkpoint.
    checkpoint_bytes: u64,
    /// (last index, `log_bytes`) now and then: how far a release reaches in bytes.
    marks: VecDeque<(Index, u64)>,
    released_bytes: u64,
}

/// Log bytes between two marks: the precision of [`Wal::bytes_since_release`].
const MARK_BYTES: u64 = 256 << 10;

impl Wal {
    pub(crate) fn start(start: Start) -> Wal {
        let Start { dir, options, log, position, seq, crc, current, sealed, ready, spares, doomed, marks } =
            start;
        options.check();
        assert!(current.end == BLOCK as u64, "a start writes into a new segment");
        assert!(sealed.iter().all(|old| old.number < current.number), "the current segment is the newest");
        let log_bytes = marks.back().map_or(0, |&(_, bytes)| bytes) + BLOCK as u64;
        let checkpoint_bytes = bytes_up_to(&marks, position.checkpoint_index).unwrap_or(0);
        Wal {
            open: Gather::new(AlignedBuf::zeroed(options.batch_bytes), position),
            full: VecDeque::new(),
            pool: Vec::with_capacity(options.in_flight + 2),
            unsubmitted: 0,
            flights: VecDeque::with_capacity(options.in_flight),
            next_seq: seq + 1,
            last_crc: crc,
            submitted: position,
            last_with_records: 0,
            stated_durable: seq,
            durable_seq: seq,
            durable: position,
            next_number: ready.back().map_or(current.number.0, |last| last.0.0) + 1,
            current,
            sealed,
            ready,
            preparing: false,
            spares,
            doomed,
            released: 0,
            log_bytes,
            checkpoint_bytes,
            marks,
            released_bytes: 0,
            options,
            dir,
            log,
        }
    }

    /// Gathers a record. What is not handed out yet has no limit here: the caller watches
    /// [`Wal::unsubmitted_bytes`].
    pub fn append(&mut self, record: Record<'_>) {
        let header = |kind, term, index, total| RecordHeader {
            kind,
            first: true,
            last: true,
            entry_kind: 0,
            length: 0,
            term,
            index,
            total,
        };
        match record {
            Record::HardState(state) => {
                let HardState { term, vote, commit } = state;
                assert!(term >= self.open.position.hard_state.term, "a term never falls");
                self.push(header(RecordKind::HardState, term, vote, commit), &[]);
                self.open.position.hard_state = state;
            }
            Record::Entry { term, index, kind, data } => {
                assert!(index > self.open.position.checkpoint_index, "entry {index} is below a checkpoint");
                assert!(
                    index > 0 && index - 1 <= self.open.position.last_index,
                    "entry {index} leaves a gap"
                );
                let header = RecordHeader {
                    entry_kind: kind,
                    ..header(RecordKind::Entry, term, index, data.len() as u64)
                };
                self.push(header, data);
                self.open.position.entry(index, term);
            }
            Record::Checkpoint { index, term, sequence } => {
                self.push(header(RecordKind::Checkpoint, term, index, sequence), &[]);
                self.open.position.checkpoint(index, term, sequence);
                let covered = bytes_up_to(&self.marks, index).unwrap_or(self.released_bytes);
                self.checkpoint_bytes = self.checkpoint_bytes.max(covered);
            }
            Record::Restart { index, term } => {
                assert!(
                    index >= self.open.position.checkpoint_index,
                    "a snapshot is newer than a checkpoint"
                );
                self.push(header(RecordKind::Restart, term, index, 0), &[]);
                self.open.position.restart(index, term);
            }
        }
    }

    /// A record that fits into a batch is never cut: it goes to the open one or begins the next. A larger one goes
    /// on over as many batches as it needs.
    fn push(&mut self, header: RecordHeader, data: &[u8]) {
        if self.open.fits_empty(data.len()) {
            if !self.open.fits(data.len()) {
                self.next_batch();
            }
            self.push_part(RecordHeader { length: data.len() as u32, ..header }, data);
            return;
        }
        let mut rest = data;
        while !rest.is_empty() {
            if self.open.room() < BLOCK / 4 {
                self.next_batch();
            }
            let (part, behind) = rest.split_at(rest.len().min(self.open.room()));
            let (first, last) = (rest.len() == data.len(), behind.is_empty());
            self.push_part(RecordHeader { first, last, length: part.len() as u32, ..header }, part);
            rest = behind;
        }
    }

    fn push_part(&mut self, header: RecordHeader, data: &[u8]) {
        let before = self.open.payload_bytes();
        self.open.push(&header, data);
        self.unsubmitted += self.open.payload_bytes() - before;
        if header.kind == RecordKind::Entry {
            self.open.max_index = self.open.max_index.max(header.index);
        }
    }

    /// Sets the open batch aside and opens the next.
    fn next_batch(&mut self) {
        if self.open.payload_bytes() == 0 {
            return;
        }
        let next = self.fresh();
        self.full.push_back(std::mem::replace(&mut self.open, next));
    }

    fn fresh(&mut self) -> Gather {
        let buf = self.buffer();
        Gather::new(buf, self.open.position)
    }

    fn buffer(&mut self) -> AlignedBuf {
        self.pool.pop().unwrap_or_else(|| AlignedBuf::zeroed(self.options.batch_bytes))
    }

    /// All that was appended so far belongs to Ready numbers up to `ready`. When all of it is durable already, so
    /// is the number: ask [`Wal::durable`].
    pub fn mark_ready(&mut self, ready: u64) {
        assert!(ready >= self.open.position.ready, "Ready numbers rise");
        self.open.position.ready = ready;
        if !self.open.is_idle() {
            return;
        }
        assert!(self.full.is_empty(), "a batch is set aside only for the next record");
        // Nothing is gathered, so the last write in flight covers the number too.
        self.submitted.ready = ready;
        match self.flights.back_mut() {
            Some(last) => last.position.ready = ready,
            None => self.durable.ready = ready,
        }
    }

    /// The next write. Call it until it says `None`: nothing is gathered, the limit in flight is reached, or the
    /// next segment is not ready (see [`Wal::wants_segment`]).
    pub fn submit(&mut self) -> Option<Write> {
        assert!(self.flights.len() <= self.options.in_flight, "the limit in flight holds");
        let bytes = match self.full.front() {
            Some(front) => front.sealed_bytes(),
            None if self.open.is_idle() => return None,
            None => self.open.sealed_bytes(),
        };
        if self.flights.len() == self.options.in_flight {
            return None;
        }
        if self.current.end + bytes as u64 > self.current.bytes {
            return self.open_segment();
        }
        let gather = match self.full.pop_front() {
            Some(gather) => gather,
            None => {
                let next = self.fresh();
                std::mem::replace(&mut self.open, next)
            }
        };
        let payload = gather.payload_bytes();
        let position = gather.position;
        self.unsubmitted -= payload;
        self.current.max_index = self.current.max_index.max(gather.max_index);
        let seq = self.next_seq;
        let (buf, len, crc) = gather.seal(BatchHeader {
            segment: self.current.number.0,
            boot: self.options.boot,
            seq,
            durable: self.durable_seq,
            ready: position.ready,
            length: 0,
            payload_crc: 0,
            previous_crc: self.last_crc,
            block: (self.current.end / BLOCK as u64) as u32,
        });
        if payload > 0 {
            self.last_with_records = seq;
        }
        Some(self.hand_out(buf, len, crc, position))
    }

    /// Leaves the current segment: the next write is the header of a new one.
    fn open_segment(&mut self) -> Option<Write> {
        let (number, file) = self.ready.pop_front()?;
        assert!(number > self.current.number, "numbers rise");
        let mut buf = self.buffer();
        let header = SegmentHeader {
            log: self.log,
            number: number.0,
            boot: self.options.boot,
            seq: self.next_seq,
            durable: self.durable_seq,
            predecessor: self.current.number.0,
            predecessor_end: self.current.end,
            previous_crc: self.last_crc,
            segment_bytes: self.options.segment_bytes,
            started: false,
            position: self.submitted,
        };
        let crc = header.encode(&mut buf[..BLOCK]);
        let bytes = self.options.segment_bytes;
        let next = Current { number, file, bytes, end: 0, max_index: 0 };
        let old = std::mem::replace(&mut self.current, next);
        self.sealed.push_back(Sealed {
            number: old.number,
            bytes: old.bytes,
            max_index: old.max_index,
            successor_seq: self.next_seq,
        });
        let position = self.submitted;
        Some(self.hand_out(buf, BLOCK, crc, position))
    }

    fn hand_out(&mut self, buf: AlignedBuf, len: usize, crc: u32, position: Position) -> Write {
        let offset = self.current.end;
        assert!(offset + len as u64 <= self.current.bytes, "a write lies within its segment");
        assert!(self.durable_seq < self.next_seq, "only what is handed out becomes durable");
        let write = Write {
            seq: self.next_seq,
            segment: self.current.number,
            file: self.current.file.clone(),
            offset,
            buf,
            len,
        };
        self.next_seq += 1;
        self.last_crc = crc;
        self.submitted = position;
        self.stated_durable = self.durable_seq;
        self.current.end += if base::bug!(UsedBlockRewritten) { len - BLOCK } else { len } as u64;
        self.log_bytes += len as u64;
        let marked = self.marks.back().map_or(self.released_bytes, |&(_, bytes)| bytes);
        if self.log_bytes - marked >= MARK_BYTES {
            self.marks.push_back((self.current.max_index.max(position.last_index), self.log_bytes));
        }
        self.flights.push_back(Flight { done: false, position });
        write
    }

    /// Write `seq` is durable; `buf` is its buffer. `Some` when the durable prefix advanced.
    pub fn written(&mut self, seq: u64, buf: AlignedBuf) -> Option<Durable> {
        assert!(seq > self.durable_seq && seq < self.next_seq, "write {seq} is not in flight");
        let flight = &mut self.flights[(seq - self.durable_seq - 1) as usize];
        assert!(!flight.done, "write {seq} completes once");
        flight.done = true;
        let own = flight.position;
        if self.pool.len() < self.options.in_flight + 2 && buf.len() == self.options.batch_bytes {
            self.pool.push(buf);
        }
        let before = self.durable_seq;
        while let Some(flight) = self.flights.pop_front_if(|flight| flight.done) {
            self.durable_seq += 1;
            self.durable = if base::bug!(AckBeforeSync) { self.submitted } else { flight.position };
        }
        if base::bug!(StaleCompletionCounts)
            && seq <= self.durable_seq
            && own.last_index > self.durable.last_index
        {
            (self.durable.last_index, self.durable.last_term) = (own.last_index, own.last_term);
        }
        if base::bug!(DurableNotAPrefix)
            && let Some(last) = self.flights.iter().rev().find(|later| later.done)
        {
            self.durable = last.position;
        }
        if self.durable_seq == before {
            return None;
        }
        self.reclaim();
        Some(self.durable())
    }

    /// The state that is durable now; a crash cannot take it back.
    pub fn durable(&self) -> Durable {
        let Position { ready, last_term, last_index, .. } = self.durable;
        Durable { ready, term: last_term, index: last_index }
    }

    /// The hard state as it is durable.
    pub fn durable_hard_state(&self) -> HardState {
        self.durable.hard_state
    }

    /// When the log is idle: gathers an empty batch that says on disk that the last records are durable, unless that
    /// is said already. Without it, damage to the very last batch looks like a torn write, and is cut. True when
    /// there is something to submit.
    pub fn affirm(&mut self) -> bool {
        let said = self.stated_durable >= self.last_with_records;
        if !said && self.flights.is_empty() && self.full.is_empty() && self.open.is_idle() {
            self.open.affirms = true;
        }
        self.open.affirms
    }

    /// Bytes gathered and not handed out.
    pub fn unsubmitted_bytes(&self) -> usize {
        self.unsubmitted
    }

    /// Writes handed out and not in the durable prefix.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Work for the helper pool; ask again when it is done. It makes so many segments `ready`, [`SEGMENTS_READY`] where
    /// the log is to be written to (law 8).
    ///
    /// [`SEGMENTS_READY`]: base::limits::SEGMENTS_READY
    pub fn wants_segment(&mut self, ready: usize) -> Option<SegmentJob> {
        if self.preparing {
            return None;
        }
        let work = if self.ready.len() < ready {
            match self.spares.pop() {
                Some(from) => Work::Recycle { from },
                // First what gives room.
                None if !self.doomed.is_empty() => Work::Remove { numbers: std::mem::take(&mut self.doomed) },
                None => Work::Create { bytes: self.options.segment_bytes },
            }
        } else if !self.doomed.is_empty() {
            Work::Remove { numbers: std::mem::take(&mut self.doomed) }
        } else {
            return None;
        };
        self.preparing = true;
        let number = SegmentId(self.next_number);
        if !matches!(work, Work::Remove { .. }) {
            self.next_number += 1;
        }
        Some(SegmentJob { dir: self.dir.clone(), number, work })
    }

    pub fn segment_ready(&mut self, ready: SegmentReady) {
        assert!(self.preparing, "a job was under way");
        self.preparing = false;
        if let Some((number, file)) = ready.made {
            assert!(number > self.ready.back().map_or(self.current.number, |last| last.0), "numbers rise");
            self.ready.push_back((number, file));
        }
    }

    /// So many of the released segments that are kept to be used again are to be removed instead, if there are so many.
    pub fn give_back_spares(&mut self, segments: usize) {
        if let Some(kept) = self.spares.len().checked_sub(segments) {
            self.doomed.extend(self.spares.drain(kept..));
        }
    }

    /// The job found no room; [`Wal::wants_segment`] gives a new one.
    pub fn segment_failed(&mut self) {
        assert!(self.preparing, "a job was under way");
        self.preparing = false;
    }

    /// Segments that a restart would read. Each start adds one, so take a checkpoint when there are many, though
    /// they may hold few bytes.
    pub fn segments(&self) -> usize {
        self.sealed.len() + 1
    }

    /// Segments ready for use.
    pub fn segments_ready(&self) -> usize {
        self.ready.len()
    }

    /// Files that a start could take for its own segment: those that are ready, and released ones.
    pub fn segments_left(&self) -> usize {
        self.ready.len() + self.spares.len()
    }

    /// Segments with an entry that the newest checkpoint does not cover, the current one included.
    pub fn segments_since_checkpoint(&self) -> usize {
        let covered = self.open.position.checkpoint_index;
        self.sealed.iter().filter(|old| old.max_index > covered).count() + 1
    }

    /// Entries up to here are not needed any more: what [`Wal::release_to`] was told last.
    pub fn released(&self) -> Index {
        self.released
    }

    /// Everything up to `index` is in both metas of the data file, so that either of them and the log are all there
    /// is to know: older segments may be recycled. Takes effect up to the highest [`Record::Checkpoint`] that is
    /// durable in this log, now or when it becomes so (laws 4 and 6).
    pub fn release_to(&mut self, index: Index) {
        self.released = self.released.max(index);
        self.reclaim();
    }

    fn reclaim(&mut self) {
        let limit = self.released.min(self.durable.checkpoint_index);
        let limit = if base::bug!(SegmentRecycledEarly) { self.durable.last_index } else { limit };
        while let Some(&(index, bytes)) = self.marks.front()
            && index <= limit
        {
            self.released_bytes = bytes;
            self.marks.pop_front();
        }
        while let Some(old) = self.sealed.front()
            && old.max_index <= limit
            && old.successor_seq <= self.durable_seq
        {
            let reusable = old.bytes == self.options.segment_bytes && self.spares.len() < LOG_SPARE_SEGMENTS;
            if reusable {
                self.spares.push(old.number)
            } else {
                self.doomed.push(old.number)
            }
            self.sealed.pop_front();
        }
    }

    /// Log bytes behind what was released: what a restart would read, within 256 KiB.
    pub fn bytes_since_release(&self) -> u64 {
        self.log_bytes - self.released_bytes
    }

    /// Log bytes behind the newest checkpoint: what a restart would replay, within 256 KiB; what the log held at the
    /// start counts by whole segments.
    pub fn bytes_since_checkpoint(&self) -> u64 {
        self.log_bytes - self.checkpoint_bytes
    }
}

/// The bytes of the log up to the last of the marks that `index` covers.
fn bytes_up_to(marks: &VecDeque<(Index, u64)>, index: Index) -> Option<u64> {
    marks.iter().take_while(|&&(last, _)| last <= index).last().map(|&(_, bytes)| bytes)
}
