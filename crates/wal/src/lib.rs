//! The log: what to write, where, and when it counts. Pure: no system call of its own, no clock, no randomness, no
//! thread. It hands out [`Write`]s and is told when they are durable; [`Wal::recover`] reads it back over
//! `disk::Files`. The format is in docs/DATA_FILES.md, "The log".
//!
//! Invariants (the laws' numbers are those of docs/ARCHITECTURE.md):
//! - Durability is a prefix (law 2). Writes have consecutive sequence numbers and complete in any order; only the
//!   contiguous completed prefix counts, for records, Ready numbers and the release of segments alike.
//! - A durable block is never written again in its segment's life (law 3): each batch starts on a block of its own.
//! - A segment is zeroed, synced and named before its first use, then recycled under a new, higher number (law 4).
//!   Its header carries the newest hard state and checkpoint, and is in the durable prefix before an older segment
//!   is given up.
//! - Recovery cuts only what a crash can have torn; anything else is refused (law 5). It never writes into a
//!   segment that holds records: it opens a new one, which names the end of its predecessor.
//! - No segment is given up before a [`Record::Checkpoint`] that covers it is durable, nor before the caller lets go
//!   of it: that is when the older of the data file's two metas covers it (law 6).
//! - Bytes that a client chose are never taken for the log's own: what a recycled segment still holds of them counts
//!   for nothing without a boot number of this log, which nobody outside knows.
//!
//! Must not know what an entry's data means, nor when to take a checkpoint.

mod error;
mod gather;
mod layout;
mod log;
mod position;
mod recover;
mod replay;
mod scan;
mod segment;

pub use error::WalError;
pub use log::{Durable, Wal, Write};
pub use recover::{Cut, Reading, Recovered};
pub use segment::{SegmentId, SegmentJob, SegmentReady};

use base::limits;
use base::{Index, Term};

/// The sizes of a log. All are multiples of `disk::BLOCK`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Of one segment file. At least one block more than `batch_bytes`; may change from start to start.
    pub segment_bytes: u64,
    /// Of one batch, its header included: a gathered batch never grows beyond.
    pub batch_bytes: usize,
    /// Writes handed out and not yet part of the durable prefix.
    pub in_flight: usize,
    /// Tells this start of the process from others, by its lower half; the first one names the log. Take it at random,
    /// and let nothing that a client can see follow from it.
    pub boot: u64,
}

impl Options {
    pub fn new(boot: u64) -> Options {
        Options {
            segment_bytes: limits::SEGMENT_BYTES,
            batch_bytes: limits::LOG_BATCH_BYTES,
            in_flight: limits::LOG_BATCHES_IN_FLIGHT,
            boot,
        }
    }

    fn check(&self) {
        let block = disk::BLOCK as u64;
        assert!(self.segment_bytes.is_multiple_of(block), "a segment is whole blocks");
        assert!(self.segment_bytes <= limits::SEGMENT_BYTES_MAX, "a segment fits into memory");
        assert!(
            self.batch_bytes.is_multiple_of(disk::BLOCK) && self.batch_bytes > 0,
            "a batch is whole blocks"
        );
        assert!(self.segment_bytes >= block + self.batch_bytes as u64, "a batch fits into a segment");
        assert!(self.in_flight > 0, "a write can be in flight");
    }
}

/// Raft's hard state. All zero before the first one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    pub term: Term,
    pub vote: u64,
    pub commit: Index,
}

/// What is appended. The order of appends is the order in which records count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// Append it behind the entries of the same Ready: then a recovered `commit` has its entries.
    HardState(HardState),
    /// Supersedes every earlier record of an entry at `index` or above. `index` is at most one above the last.
    Entry { term: Term, index: Index, kind: u8, data: &'a [u8] },
    /// The data file's checkpoint number `sequence`, which covers everything up to `index`, is complete and durable.
    /// Above the last entry it means the same as `Restart`.
    Checkpoint { index: Index, term: Term, sequence: u64 },
    /// A snapshot from the leader took the place of the log: it is durable in the data file, all entries are void,
    /// those above `index` too, and the next one is at `index` + 1.
    Restart { index: Index, term: Term },
}

/// An entry that was read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub term: Term,
    pub index: Index,
    pub kind: u8,
    pub data: Vec<u8>,
}
