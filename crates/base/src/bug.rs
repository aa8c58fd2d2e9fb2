//! The bug zoo: mistakes that can be made again, each at one place of the real code or two, to prove that the simulated
//! world finds them.
//!
//! Real code asks `base::bug!(Name)` where the mistake would be. Without the feature `zoo` that is the constant
//! `false`, and the compiler removes it with whatever hangs on it: a production build contains none of this. With the
//! feature, one bug at most is injected into one thread at a time, by [`inject`].
//!
//! Must not be switched on by anything but tests: besides `sim`, which nothing that is shipped depends on, only `tree` has
//! the feature, for its models of threads.

/// Declares the bugs: the documentation of each is what the zoo prints of it.
macro_rules! bugs {
    ($($(#[doc = $what:literal])+ $name:ident,)+) => {
        /// A mistake that can be made again. The documentation says what it breaks, and which law of
        /// docs/ARCHITECTURE.md or rule of etcd that violates.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Bug {
            $($(#[doc = $what])+ $name,)+
        }

        /// All of them, in the order of the layers.
        pub const ALL: &[Bug] = &[$(Bug::$name,)+];

        impl Bug {
            pub const fn name(self) -> &'static str {
                match self {
                    $(Bug::$name => stringify!($name),)+
                }
            }

            /// What it breaks, in a sentence or two.
            pub const fn what(self) -> &'static str {
                match self {
                    $(Bug::$name => concat!($($what,)+),)+
                }
            }
        }
    };
}

bugs! {
    // --- wal ---
    /// All that was handed out counts as durable when any write completes (law 1: acknowledged before sync).
    AckBeforeSync,
    /// A completed write counts although one before it is still in flight (law 2: durability is a prefix).
    DurableNotAPrefix,
    /// A write whose entries were superseded while it was in flight completes last, and still counts: the durable index
    /// is one that the log does not have any more (law 2).
    StaleCompletionCounts,
    /// A batch begins on the last block of the one before it (law 3: no acknowledged sector is written again).
    UsedBlockRewritten,
    /// Segments are recycled as soon as their entries are durable, whatever the checkpoints have (laws 4 and 6).
    SegmentRecycledEarly,
    /// A recycled segment's new name is not made durable before it is used (law 4).
    SegmentNameNotSynced,
    /// A batch counts at recovery though its records fail their checksum: recovery cuts too little (law 5).
    TornBatchCounts,
    /// What an earlier life of a recycled segment left is taken for this one's (law 5).
    EarlierLifeCounts,
    /// What a killed process left in the device's cache is read back and built upon, and not synced first (law 5).
    KilledWritesTrusted,

    // --- tree ---
    /// A superseded page is used again while the last durable meta still reaches it (law 6).
    PageReusedEarly,
    /// A superseded page is used again while a pinned snapshot still reaches it (law 6).
    PinIgnored,
    /// A pin is published without a fence, so that the writer may not see it in time (law 6).
    PinWithoutFence,
    /// A checkpoint's meta is written before its pages are durable (law 6).
    MetaBeforePages,
    /// A checkpoint is reported complete before its meta is durable (law 6).
    MetaNotSynced,
    /// A page that a durable meta reaches is changed in place (law 6).
    DurablePageEdited,
    /// A page that a checkpoint is still writing is given back to the system (law 6).
    PageDroppedWhileWritten,
    /// The applied index and the revisions that stand beside the roots are those of the checkpoint before (law 7).
    StampOutsideMeta,
    /// Of two whole metas the older one is opened (law 6).
    OlderMetaOpened,
    /// A write of a checkpoint that failed is passed over (law 8: I/O errors end the process).
    WriteErrorIgnored,

    /// What a step of the scrub found counts although the checkpoint that it read was given up on the way (law 6).
    StaleScrubCounts,

    // --- mvcc ---
    /// The tombstone exactly at the compacted revision is removed: a watcher that starts there misses it.
    TombstoneLost,
    /// Removal takes one revision more than was compacted.
    CompactionOffByOne,
    /// The end of a removal brings back the revision at which it began (the revision only grows).
    RevisionBackAfterRemoval,
    /// Each put of a transaction is a revision of its own (a transaction is one revision).
    TxnSplit,
    /// A key that is given another lease stays attached to the old one, and goes with it.
    KeyKeepsOldLease,
    /// A deleted key stays attached to its lease.
    DeletedKeyKeepsLease,
    /// The hash of a revision before the newest is refused as compacted.
    PastHashRefused,
    /// The count of a range in the past is that of the newest revision.
    PastCountIsNewest,
    /// A range that is produced piece by piece begins each piece with the last key of the one before.
    PieceRepeatsKey,
    /// A range that goes on after its snapshot was given up reads the newest revision there (a range is of one
    /// revision).
    LaterPieceIsNewer,

    // --- lease ---
    /// A lease that has expired and is being revoked is renewed (a renewal that is answered holds).
    ExpiredLeaseRenewed,
    /// A renewal does not reach the expiry queue: the lease ends at its first term.
    RenewalForgotten,
    /// Each key of a lease that ends is a revision of its own.
    LeaseKeysOneByOne,

    // --- replica ---
    /// An entry counts as persisted when it was handed to the log (law 1).
    CommitBeforeSync,
    /// A root is published after the outcomes of its batch have left (law 1).
    AnswerBeforePublish,
    /// The log says that a checkpoint is complete when it has begun (law 6).
    CheckpointRecordedEarly,
    /// Entries that are durable and above the recorded commit index are dropped at start: recovery cuts too much (law 2).
    RecoveryCutsTooMuch,
    /// A start in the midst of a removal takes the compacted revision for the newest one (the revision only grows).
    RevisionBackAfterCrash,
    /// Reads are served before the log is applied after a start (law 10: the root must have an entry of this term).
    ReadBeforeReplay,
    /// Applying a put renews its lease (law 9; only a keep-alive renews).
    LeaseRenewedByPut,
    /// A put that is applied again at a start gives its lease another term on top of its own (law 9; only a keep-alive
    /// renews).
    LeaseRenewedByReplay,
    /// A lease is not renewed for the time in which nobody led: it never gets an expiry after a start.
    LeaseNotPromoted,
    /// An expired lease is revoked without an entry of the log (law 9).
    ExpiryOutsideLog,
    /// A revoked lease stays in the store, and is there again after a start.
    RevokedLeaseReturns,
    /// Apply refuses by the bytes in use, which replay does not repeat (law 9: quota decided outside the log).
    QuotaOutsideLog,
    /// Room on the disk is not reserved at admission (law 8).
    RoomNotReserved,
    /// An alarm is kept in memory alone.
    AlarmNotStored,
    /// The alarm is raised when half of the quota is used.
    QuotaCutShort,
    /// Whoever waits for a defragmentation is told after the time of a request that it timed out, and it goes on.
    DefragmentTimedOut,

    // --- watch ---
    /// An event for a watcher whose queue is full is dropped (law 12).
    WatcherEventDropped,
    /// A shard that missed a batch does not read it from history (laws 11 and 12).
    GapIgnored,
    /// Periodic progress is told to watchers that are behind (law 12: progress goes behind the events).
    ProgressAheadOfEvents,
    /// Requested progress is told although watchers of the stream are behind (law 12).
    RequestedProgressAhead,
    /// A watcher that needs what compaction has taken goes on above it, and is not cancelled.
    CompactedWatcherGoesOn,
    /// A watcher that starts at the newest revision counts as served up to there.
    WatchStartMissed,
    /// The previous pair of an event read from history is the pair itself.
    PrevKvIsItself,
    /// A watcher that wants no puts is sent them.
    FilterIgnored,
    /// A step of catching up goes on one revision before where it ended.
    StepRepeated,
    /// A train of fragments does not say that it goes on.
    FragmentUnmarked,
    /// What a step of catching up reads goes to watchers too that are farther behind.
    FartherBehindServed,
}

impl Bug {
    pub fn parse(name: &str) -> Option<Bug> {
        ALL.iter().copied().find(|bug| bug.name() == name)
    }
}

#[cfg(feature = "zoo")]
mod injected {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static INJECTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Injects a bug into this thread, in the place of another, or none.
    pub fn inject(bug: Option<Bug>) {
        INJECTED.set(bug);
    }

    /// Whether the bug is injected into this thread.
    pub fn is(bug: Bug) -> bool {
        INJECTED.get() == Some(bug)
    }
}

#[cfg(feature = "zoo")]
pub use injected::{inject, is};

/// Whether the bug is injected into this thread: never, without the feature `zoo`.
#[cfg(not(feature = "zoo"))]
#[inline(always)]
pub const fn is(_: Bug) -> bool {
    false
}

/// Whether a bug of the zoo is injected: `bug!(AckBeforeSync)`. The constant `false` without the feature `zoo`.
#[macro_export]
macro_rules! bug {
    ($name:ident) => {
        $crate::bug::is($crate::bug::Bug::$name)
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A build without the feature does not compile unless every bug is the constant `false`.
    #[cfg(not(feature = "zoo"))]
    const _: () = {
        let mut at = 0;
        while at < ALL.len() {
            assert!(!is(ALL[at]), "a production build has no bugs of the zoo");
            at += 1;
        }
        assert!(!crate::bug!(AckBeforeSync));
    };

    #[test]
    fn names_are_parsed_back() {
        for &bug in ALL {
            assert_eq!(Bug::parse(bug.name()), Some(bug));
            assert!(bug.what().trim().ends_with('.'), "{bug:?} says what it breaks");
        }
        assert_eq!(Bug::parse("NoSuchBug"), None);
    }

    #[cfg(feature = "zoo")]
    #[test]
    fn a_bug_is_injected_into_one_thread_alone() {
        inject(Some(Bug::PinIgnored));
        assert!(crate::bug!(PinIgnored) && !crate::bug!(TxnSplit));
        std::thread::spawn(|| assert!(!crate::bug!(PinIgnored))).join().unwrap();
        inject(None);
        assert!(ALL.iter().all(|&bug| !is(bug)));
    }
}
