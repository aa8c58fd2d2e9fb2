//! Which seeds must find which bug, and by what.

use base::bug::Bug;

use super::Sign::{self, Assertion, Rule as By, Words, World};
use super::{Exhibit, Finder};
use crate::check::Rule::*;
use crate::crash::Script;
use crate::world::profile::Focus;

const fn world(bug: Bug, focus: Focus, seeds: u64, signs: &'static [Sign]) -> Exhibit {
    Exhibit { bug, finder: Finder::World(focus), seeds, signs }
}

const fn crashes(bug: Bug, script: Script, seeds: u64, signs: &'static [Sign]) -> Exhibit {
    Exhibit { bug, finder: Finder::Crashes(script), seeds, signs }
}

/// A log that is not one piece any more.
const DAMAGED_LOG: Sign = World("Start", "the log is damaged");
/// What the scrub says.
const ROTTEN: Sign = World("Disk", "the file data is damaged");
/// A store that has what its log has lost (law 7).
const AHEAD: Sign = World("Start", "the data file has applied entries up to");

/// An error came that nothing had led to, or the end of a stream in the midst of an answer.
const NO_REASON: Sign = Assertion("sim/src/world/client/reasons.rs");

/// Of `crates/tree/src/pins_models.rs`.
const MODELS: &[&str] = &[
    "pins::models::what_a_pin_reaches_is_not_reused",
    "pins::models::one_reader_pins_again_while_roots_change",
    "pins::models::two_readers_hold_what_each_of_them_sees",
    "pins::models::nobody_looks_while_the_gate_is_closed",
];

/// All of [`bug::ALL`], each once.
pub const TABLE: &[Exhibit] = &[
    world(
        Bug::AckBeforeSync,
        Focus::Crash,
        20,
        &[By(StaleRead), By(WriteOrder), AHEAD, By(RevisionReused), By(Unexplained), By(Dump), DAMAGED_LOG],
    ),
    world(
        Bug::DurableNotAPrefix,
        Focus::Crash,
        40,
        &[
            By(StaleRead),
            By(WriteOrder),
            AHEAD,
            By(RevisionReused),
            By(Unexplained),
            By(Dump),
            DAMAGED_LOG,
            // A revision that a client knows, and that is of the future now.
            NO_REASON,
        ],
    ),
    crashes(
        Bug::StaleCompletionCounts,
        Script::LogAppend,
        40,
        &[Words("is called durable, the records end at")],
    ),
    world(Bug::UsedBlockRewritten, Focus::Crash, 6, &[DAMAGED_LOG, Assertion("wal/src/layout.rs")]),
    world(Bug::SegmentRecycledEarly, Focus::Crash, 20, &[World("Start", "the segment is missing")]),
    world(Bug::SegmentNameNotSynced, Focus::Crash, 20, &[World("Start", "it was renamed")]),
    crashes(
        Bug::TornBatchCounts,
        Script::LogAppend,
        6,
        &[Words("no first part of"), Words("a record header is not one")],
    ),
    world(Bug::EarlierLifeCounts, Focus::Crash, 6, &[DAMAGED_LOG]),
    world(
        Bug::KilledWritesTrusted,
        Focus::Crash,
        100,
        &[World("Start", "later batches say that all up to"), World("Start", "and its batches are not")],
    ),
    world(
        Bug::PageReusedEarly,
        Focus::Crash,
        20,
        &[
            World("Start", "is not as checkpoint"),
            World("Lost", "was complete and is not there any more"),
            ROTTEN,
            Assertion("tree/src/bits.rs"),
            Assertion("tree/src/space.rs"),
            Assertion("tree/src/view.rs"),
            Assertion("tree/src/checkpoint.rs"),
            Assertion("mvcc/src/apply.rs"),
            Assertion("mvcc/src/trees.rs"),
            Assertion("mvcc/src/cell.rs"),
            Assertion("tree/src/cursor.rs"),
        ],
    ),
    world(
        Bug::PinIgnored,
        Focus::History,
        40,
        &[
            NO_REASON,
            Assertion("net/src/outbound.rs"),
            Assertion("mvcc/src/cell.rs"),
            Assertion("mvcc/src/trees.rs"),
            Assertion("tree/src/view.rs"),
            Assertion("tree/src/space.rs"),
            By(ReadState),
            Assertion("tree/src/cursor.rs"),
        ],
    ),
    Exhibit {
        bug: Bug::PinWithoutFence,
        finder: Finder::Models(MODELS),
        seeds: MODELS.len() as u64,
        signs: &[Words("was reused under a pin"), Words("Causality violation")],
    },
    crashes(
        Bug::MetaBeforePages,
        Script::Checkpoint,
        6,
        &[
            Words("the allocation bitmap of checkpoint"),
            Words("where 1 at 0 belongs"),
            Words("data is damaged: tree"),
        ],
    ),
    world(Bug::MetaNotSynced, Focus::Crash, 10, &[World("Lost", "was complete and is not there any more")]),
    world(Bug::StaleScrubCounts, Focus::Checkpoint, 20, &[ROTTEN]),
    world(
        Bug::DurablePageEdited,
        Focus::Memory,
        30,
        &[
            Assertion("tree/src/pages.rs"),
            Assertion("tree/src/space.rs"),
            Assertion("tree/src/shape.rs"),
            Assertion("mvcc/src/changes.rs"),
            Assertion("mvcc/src/cell.rs"),
            // The next checkpoint writes it where it stands, and the one before counts other entries in it.
            ROTTEN,
        ],
    ),
    world(
        Bug::PageDroppedWhileWritten,
        Focus::Memory,
        40,
        &[
            Assertion("tree/src/space.rs"),
            Assertion("tree/src/edit.rs"),
            Assertion("mvcc/src/cell.rs"),
            Assertion("tree/src/view.rs"),
            Assertion("mvcc/src/trees.rs"),
            // A page of zeros: its children are page 0.
            Assertion("tree/src/pages.rs"),
            Assertion("tree/src/cursor.rs"),
            ROTTEN,
        ],
    ),
    world(
        Bug::StampOutsideMeta,
        Focus::Crash,
        6,
        &[Assertion("mvcc/src/trees.rs"), Assertion("mvcc/src/cell.rs"), World("Picture", "")],
    ),
    world(Bug::OlderMetaOpened, Focus::Crash, 6, &[Assertion("tree/src/checkpoint.rs")]),
    world(
        Bug::WriteErrorIgnored,
        Focus::Checkpoint,
        40,
        &[
            World("Survived", "goes on after a checkpoint that met an error"),
            World("Survived", "goes on after an operation that failed"),
            Assertion("mvcc/src/changes.rs"),
        ],
    ),
    world(
        Bug::TombstoneLost,
        Focus::Watch,
        20,
        &[By(WatchBookmarkable), By(WatchResumable), By(WatchReliable)],
    ),
    world(
        Bug::CompactionOffByOne,
        Focus::History,
        10,
        &[By(Rows), By(ReadState), By(WriteAnswer), By(WatchPrevKv)],
    ),
    world(
        Bug::RevisionBackAfterRemoval,
        Focus::History,
        6,
        &[Assertion("mvcc/src/compact.rs"), Assertion("mvcc/src/trees.rs"), Assertion("mvcc/src/cell.rs")],
    ),
    world(Bug::TxnSplit, Focus::History, 10, &[By(Unexplained)]),
    world(Bug::KeyKeepsOldLease, Focus::Lease, 6, &[Assertion("mvcc/src/apply.rs"), By(Rows)]),
    world(Bug::DeletedKeyKeepsLease, Focus::Lease, 6, &[Assertion("mvcc/src/apply.rs"), By(Rows)]),
    world(
        Bug::PastCountIsNewest,
        Focus::History,
        10,
        &[By(ReadState), By(WriteAnswer), Assertion("mvcc/src/range.rs")],
    ),
    world(
        Bug::PieceRepeatsKey,
        Focus::History,
        10,
        &[By(ReadState), NO_REASON, Assertion("net/src/outbound.rs")],
    ),
    world(
        Bug::LaterPieceIsNewer,
        Focus::History,
        20,
        &[By(ReadState), NO_REASON, Assertion("net/src/outbound.rs")],
    ),
    // Granted again with a shorter term, it has less to live than the renewal had promised.
    world(Bug::ExpiredLeaseRenewed, Focus::Lease, 40, &[By(LeaseEarly), By(LeaseTwice), By(LeaseShortened)]),
    world(Bug::RenewalForgotten, Focus::Lease, 6, &[By(LeaseEarly), By(LeaseTwice)]),
    world(Bug::CommitBeforeSync, Focus::Crash, 6, &[Assertion("replica/src/machine.rs")]),
    world(
        Bug::AnswerBeforePublish,
        Focus::Crash,
        6,
        &[Assertion("tree/src/pins.rs"), Assertion("tree/src/checkpoint.rs")],
    ),
    world(
        Bug::CheckpointRecordedEarly,
        Focus::Crash,
        20,
        &[World("Lost", "was complete and is not there any more")],
    ),
    world(
        Bug::RecoveryCutsTooMuch,
        Focus::Crash,
        6,
        &[By(WriteOrder), By(StaleRead), By(RevisionReused), By(Dump), By(LeaseEarly), By(LeaseGone)],
    ),
    crashes(
        Bug::RevisionBackAfterCrash,
        Script::Compaction,
        6,
        &[
            By(Rows),
            Assertion("mvcc/src/trees.rs"),
            Assertion("mvcc/src/cell.rs"),
            Assertion("mvcc/src/apply.rs"),
            Assertion("mvcc/src/stamp.rs"),
            Assertion("mvcc/src/compact.rs"),
        ],
    ),
    world(Bug::PastHashRefused, Focus::History, 20, &[NO_REASON]),
    world(Bug::DefragmentTimedOut, Focus::History, 100, &[NO_REASON]),
    world(Bug::QuotaCutShort, Focus::Quota, 6, &[Assertion("sim/src/world/causes.rs")]),
    world(Bug::ReadBeforeReplay, Focus::Crash, 6, &[By(StaleRead), By(Dump), By(MemberBackwards)]),
    world(Bug::LeaseKeysOneByOne, Focus::Lease, 20, &[By(LeaseKeys)]),
    world(Bug::LeaseRenewedByPut, Focus::Lease, 20, &[By(LeaseProlonged)]),
    world(Bug::LeaseRenewedByReplay, Focus::Lease, 30, &[By(LeaseProlonged)]),
    world(Bug::LeaseNotPromoted, Focus::Lease, 6, &[World("Liveness", "every call is answered"), NO_REASON]),
    world(
        Bug::ExpiryOutsideLog,
        Focus::Lease,
        30,
        &[
            World("Picture", ""),
            By(Unexplained),
            By(WriteOrder),
            By(StaleRead),
            By(RevisionReused),
            By(Dump),
            // A start replays a log that knows nothing of it: lease and keys are back, and the revisions others.
            By(LeaseGone),
            By(ReadState),
        ],
    ),
    world(
        Bug::RevokedLeaseReturns,
        Focus::Lease,
        6,
        // A start accepts puts that were refused when the lease was gone.
        &[By(LeaseGone), World("Picture", ""), By(WrongRefusal), By(ReadState)],
    ),
    world(
        Bug::QuotaOutsideLog,
        Focus::Quota,
        40,
        &[
            By(WriteOrder),
            By(StaleRead),
            By(RevisionReused),
            By(Dump),
            By(Unexplained),
            By(ReadState),
            By(WriteAnswer),
            World("Picture", ""),
            NO_REASON,
        ],
    ),
    world(Bug::RoomNotReserved, Focus::Disk, 60, &[Assertion("tree/src/store.rs")]),
    world(Bug::AlarmNotStored, Focus::Quota, 20, &[World("Alarms", "has an alarm that is not stored")]),
    world(
        Bug::WatcherEventDropped,
        Focus::Flood,
        8,
        &[By(WatchReliable), By(WatchBookmarkable), By(WatchResumable)],
    ),
    world(Bug::GapIgnored, Focus::Watch, 6, &[By(WatchBookmarkable), By(WatchReliable), By(WatchResumable)]),
    world(
        Bug::ProgressAheadOfEvents,
        Focus::Watch,
        10,
        &[By(WatchCanceled), By(WatchBookmarkable), By(WatchCreated)],
    ),
    world(
        Bug::RequestedProgressAhead,
        Focus::Watch,
        15,
        &[By(WatchBookmarkable), By(WatchCanceled), By(WatchCreated)],
    ),
    world(
        Bug::CompactedWatcherGoesOn,
        Focus::Watch,
        10,
        &[By(WatchResumable), By(WatchBookmarkable), By(WatchReliable)],
    ),
    world(
        Bug::WatchStartMissed,
        Focus::Watch,
        20,
        &[By(WatchBookmarkable), By(WatchResumable), By(WatchReliable)],
    ),
    world(Bug::PrevKvIsItself, Focus::Watch, 6, &[By(WatchPrevKv)]),
    world(Bug::FilterIgnored, Focus::Watch, 20, &[By(WatchFilter)]),
    world(Bug::StepRepeated, Focus::Watch, 100, &[By(WatchUnique), By(WatchOrdered)]),
    world(Bug::FragmentUnmarked, Focus::Watch, 100, &[By(WatchAtomic)]),
    world(Bug::FartherBehindServed, Focus::Watch, 20, &[By(WatchOrdered), By(WatchReliable)]),
];
