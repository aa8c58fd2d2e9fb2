//! What goes into the replica and what comes out: two closed enums. Everything that the world does to the log core
//! is an [`Event`]; everything that it wants done is an [`Action`]. That is what makes it simulatable.

use std::sync::Arc;

use base::{CallToken, LeaseId, Millis};
use mvcc::event::EventBatch;
use proto::Error;
use proto::etcdserverpb as pb;

pub use crate::request::{Request, RequestKind};

/// A write on its way into the log.
pub struct Proposal {
    /// Who waits for the outcome; `None` when nobody does.
    pub token: Option<CallToken>,
    pub request: Request,
}

pub enum Event {
    Propose(Proposal),
    /// A linearizable read that arrived: passed once a round that began after this has confirmed the leader.
    Barrier {
        token: CallToken,
    },
    LeaseRenew {
        token: CallToken,
        id: LeaseId,
    },
    LeaseTimeToLive {
        token: CallToken,
        id: LeaseId,
        keys: bool,
    },
    LeaseList {
        token: CallToken,
    },
    Defragment {
        token: CallToken,
    },
    MoveLeader {
        token: CallToken,
        target: u64,
    },
    /// A shard found no room under the quota for this call: it is refused when the alarm is up.
    OverQuota {
        token: CallToken,
    },
    LogWritten {
        seq: u64,
        buffer: disk::AlignedBuf,
    },
    SegmentReady(wal::SegmentReady),
    /// The disk had no room for a segment. The replica stops admitting growth and asks again later.
    SegmentRefused,
    /// The disk had no room for the data file's growth ahead of need. The replica asks again later.
    GrowthRefused,
    CompactionHashed(mvcc::hash::KeyValueHash),
    /// What the process keeps resident, bytes, when that is more than the budget.
    Resident {
        bytes: u64,
    },
    /// Cold pages were given back to the system.
    ColdDropped(tree::DropDone),
    Checkpointed(tree::CheckpointDone),
    /// Some pages of the data file were read back.
    Scrubbed(tree::ScrubDone),
    /// Time passes; also what drives elections, leases, checkpoints and compaction.
    Tick {
        now: Millis,
    },
    /// Stop accepting proposals and make the last checkpoint.
    Stop,
}

pub enum Action {
    /// Write durably, then report [`Event::LogWritten`]. A failure ends the process (law 8).
    WriteLog(wal::Write),
    /// For the helper pool; then [`Event::SegmentReady`], or [`Event::SegmentRefused`] where there is no room.
    PrepareSegment(wal::SegmentJob),
    /// For the helper pool; then [`Event::Checkpointed`].
    Checkpoint(tree::CheckpointJob),
    /// For the helper pool, before anything is removed; then [`Event::CompactionHashed`].
    HashCompaction(HashJob),
    /// For the helper pool; then [`Event::ColdDropped`].
    DropCold(tree::DropJob),
    /// For the helper pool; then [`Event::Scrubbed`].
    Scrub(tree::ScrubJob),
    /// For the helper pool; no answer, but [`Event::GrowthRefused`] where there is no room. Any other error is final.
    Grow(tree::GrowJob),
    /// The disk failed otherwise than by being full: the process ends (law 8), and says this.
    DiskFailed {
        what: String,
    },
    /// For the helper pool; no answer.
    Populate(tree::PopulateJob),
    Outcome(Outcome),
    /// What the batch just published changed; for every shard.
    Events(Arc<EventBatch>),
    /// This member's name and URLs are known to the cluster: time to say that it serves.
    Ready,
    /// Everything asked for by [`Event::Stop`] is done.
    Stopped,
    /// A line for the log.
    Note(Note),
}

/// Things that an operator wants to read about, with the numbers that matter.
#[derive(Debug, PartialEq, Eq)]
pub enum Note {
    BecameLeader {
        term: u64,
    },
    CompactionScheduled {
        revision: i64,
    },
    CompactionFinished {
        revision: i64,
    },
    CheckpointStarted {
        dirty_bytes: u64,
    },
    CheckpointFinished {
        index: u64,
    },
    /// All durable pages were read back, and are what was written.
    ScrubFinished {
        pages: u64,
    },
    AlarmRaised {
        alarm: &'static str,
        member: u64,
    },
    AlarmDisarmed {
        alarm: &'static str,
        member: u64,
    },
    ClusterVersion {
        version: String,
    },
    LeaseExpired {
        id: LeaseId,
    },
    NoRoomOnDisk {
        wanted_bytes: u64,
    },
    /// An entry of an earlier life waits until removals and checkpoints have given back enough for it; others may follow.
    ReplayWaitsForRoom {
        index: u64,
        wanted_bytes: u64,
    },
    /// An entry was applied for which nobody waits: this member's own (an expired lease's end, a cluster version, an alarm,
    /// an automatic compaction), or one of an earlier life. `refused`: it changed nothing.
    AppliedUnasked {
        kind: RequestKind,
        refused: bool,
    },
}

/// The end of a call that went through the log core; but see [`Response::CompactionAgreed`].
pub struct Outcome {
    pub token: CallToken,
    pub result: Result<Response, Error>,
}

/// Answers, with `header.revision` filled where apply decides it; the shard fills the ids and the term.
#[derive(Debug)]
pub enum Response {
    Barrier,
    Put(pb::PutResponse),
    DeleteRange(pb::DeleteRangeResponse),
    Txn(pb::TxnResponse),
    /// Not the last word: a compaction that asked for its physical end was applied, and waits for that.
    CompactionAgreed,
    Compact(pb::CompactionResponse),
    LeaseGrant(pb::LeaseGrantResponse),
    LeaseRevoke(pb::LeaseRevokeResponse),
    /// The TTL that a renewal granted; `None` when there is no such lease. `revision` is that of its arrival.
    LeaseRenewed {
        id: LeaseId,
        ttl_s: Option<i64>,
        revision: i64,
    },
    LeaseTimeToLive(pb::LeaseTimeToLiveResponse),
    LeaseList(pb::LeaseLeasesResponse),
    Alarm(pb::AlarmResponse),
    Defragmented,
    LeaderMoved,
}

impl Action {
    pub(crate) fn outcome(token: CallToken, result: Result<Response, Error>) -> Action {
        Action::Outcome(Outcome { token, result })
    }
}

/// Hashes the history that a compaction is about to thin out, on a pinned snapshot.
pub struct HashJob {
    reader: tree::Reader,
    previous: i64,
    revision: i64,
}

impl HashJob {
    pub(crate) fn new(reader: tree::Reader, compaction: &mvcc::Compaction) -> HashJob {
        HashJob { reader, previous: compaction.previous, revision: compaction.revision }
    }

    /// Blocks for as long as reading the whole history takes.
    pub fn run(self) -> mvcc::hash::KeyValueHash {
        let snapshot = self.reader.pin();
        mvcc::hash::compaction_hash(snapshot.view(), self.previous, self.revision)
    }
}
