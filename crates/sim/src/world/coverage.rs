//! What a run has exercised, by name: a mechanism that no seed reaches is not tested, however many seeds pass. The seeds
//! among the tests must reach all of them together.
//!
//! With one voter, which serves once it has applied its log, nobody waits for a barrier: parked reads and renewals are not
//! exercised, and have no name here.

use std::fmt::{self, Display, Formatter};
use std::ops::AddAssign;

macro_rules! mechanisms {
    ($($(#[$doc:meta])* $name:ident: $text:literal,)*) => {
        /// Something that a run can exercise.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mechanism {
            $($(#[$doc])* $name,)*
        }

        impl Mechanism {
            pub const ALL: &[Mechanism] = &[$(Mechanism::$name,)*];

            pub fn text(self) -> &'static str {
                match self {
                    $(Mechanism::$name => $text,)*
                }
            }
        }
    };
}

mechanisms! {
    PowerLoss: "power losses",
    PowerLossInOperation: "power losses within an operation of the disk",
    PowerLossInStart: "power losses during a start",
    Kill: "kills",
    Stop: "orderly stops",
    Pause: "pauses",
    ClockJump: "clock jumps",
    ClockRate: "changes of a clock's rate",
    IoError: "EIO",
    IoErrorEnd: "processes ended by EIO",
    ReadError: "starts whose reads failed",
    ReplayWait: "starts that waited for room",
    NoSpace: "ENOSPC",
    FullDisk: "full disks",
    SlowDisk: "slow disks",
    Partition: "partitions",
    Reset: "broken connections",
    SlowReader: "slow readers",
    Recovery: "recoveries",
    Replay: "entries replayed at a start",
    OlderMeta: "starts from the older meta",
    TornTail: "torn log tails cut",
    Checkpoint: "checkpoints",
    SegmentReady: "log segments made ready",
    SegmentReleased: "log segments recycled",
    SegmentWanted: "starts refused for want of a log segment",
    ScrubPass: "whole data files read back",
    Growth: "growths of the data file",
    ColdDrop: "drops of cold pages",
    OutOfOrder: "log writes completed out of order",
    Between: "turns of other cores within a job",
    Compaction: "compactions",
    Removal: "removals finished",
    AutoCompaction: "compactions by the server itself",
    NoSpaceAlarm: "NOSPACE alarms",
    LeaseGranted: "leases granted",
    LeaseExpired: "leases expired",
    LeaseRenewed: "leases renewed",
    LeaseRevoked: "leases revoked",
    Put: "puts",
    Txn: "transactions",
    Range: "ranges",
    PastRange: "ranges of the past",
    OddRange: "sorted and filtered ranges",
    LongRange: "range answers in pieces",
    RangeStream: "streamed ranges",
    HashKv: "hashes compared with earlier ones",
    Snapshot: "snapshots read",
    Defragment: "defragmentations",
    Lost: "calls with unknown outcome",
    Watcher: "watchers created",
    WatchEvents: "events received",
    WatchFiltered: "events received through a filter",
    WatchPrevKv: "events received with the pair before",
    WatchResume: "watchers resumed",
    WatchCompacted: "watchers cancelled by compaction",
    WatchFragment: "fragments",
    WatchProgress: "progress answers",
    WatchGap: "batches that a full ring kept from a shard",
    WatchBlocked: "connections found full",
}

/// Counts of mechanisms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage {
    counts: Vec<u64>,
}

impl Default for Coverage {
    fn default() -> Coverage {
        Coverage { counts: vec![0; Mechanism::ALL.len()] }
    }
}

impl Coverage {
    pub fn add(&mut self, mechanism: Mechanism, count: u64) {
        self.counts[mechanism as usize] += count;
    }

    pub fn one(&mut self, mechanism: Mechanism) {
        self.add(mechanism, 1);
    }

    pub fn count(&self, mechanism: Mechanism) -> u64 {
        self.counts[mechanism as usize]
    }

    /// What was never exercised, of what must be: a start that may be refused need not.
    pub fn missing(&self) -> Vec<Mechanism> {
        let missing = |mechanism| self.count(mechanism) == 0 && mechanism != Mechanism::SegmentWanted;
        Mechanism::ALL.iter().copied().filter(|&mechanism| missing(mechanism)).collect()
    }
}

impl AddAssign<&Coverage> for Coverage {
    fn add_assign(&mut self, other: &Coverage) {
        for (sum, count) in self.counts.iter_mut().zip(&other.counts) {
            *sum += count;
        }
    }
}

impl Display for Coverage {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for &mechanism in Mechanism::ALL {
            writeln!(f, "{:>12}  {}", self.count(mechanism), mechanism.text())?;
        }
        Ok(())
    }
}
