//! A run's moments: the world as it stood in the midst of each operation, kept for crashes that are tried later.
//!
//! So a script runs once, whatever the number of crashes: a moment shares all blocks with the world that it was taken
//! of. What a caller knew at the time (what it had been promised, say) it writes as a mark.

use std::ops::Range;

use base::Random;

use super::SimFiles;
use super::crash::KeepSet;
use super::world::World;

/// What an operation was about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A name was made, moved or removed, or a length changed.
    Metadata,
    Write {
        name: String,
        blocks: Range<u64>,
    },
    /// Of a file, or of a directory's names.
    Sync {
        name: String,
    },
}

/// The world when one operation had begun: its change is made, and like all before it since the last sync not durable.
#[derive(Clone)]
pub struct Moment {
    world: World,
    under_way: Option<Operation>,
    mark: u64,
}

impl Moment {
    pub(super) fn new(world: World, under_way: Option<Operation>, mark: u64) -> Moment {
        Moment { world, under_way, mark }
    }

    /// What was under way; at the end of a run, nothing.
    pub fn under_way(&self) -> Option<&Operation> {
        self.under_way.as_ref()
    }

    /// The operation that was under way: as counted by [`SimFiles::operations`], from 0.
    pub fn operation(&self) -> u64 {
        self.world.operations
    }

    /// What [`SimFiles::mark`] had been told last.
    pub fn mark(&self) -> u64 {
        self.mark
    }

    /// Changes that a crash now could lose.
    pub fn unsynced(&self) -> usize {
        self.world.pending.len()
    }

    /// The sets that a crash then is tried with: none of the unsynced changes, all, each alone, all but each, so many
    /// drawn at random; whole, and torn at 512 B and at 4 KiB. No set comes twice.
    pub fn sweep(&self, drawn: usize, random: &mut Random) -> Vec<KeepSet> {
        KeepSet::sweep(&self.world.shapes(), drawn, random)
    }

    /// What a machine would find after a power loss then.
    pub fn crash(&self, keep: &KeepSet) -> SimFiles {
        SimFiles::of(self.world.crashed(keep, None))
    }

    /// The same on a device that writes what it keeps in any order.
    pub fn crash_reordered(&self, keep: &KeepSet, random: &mut Random) -> SimFiles {
        SimFiles::of(self.world.crashed(keep, Some(random)))
    }

    /// What a process would find that was started when another was killed then: the system's caches live on.
    pub fn kill(&self) -> SimFiles {
        SimFiles::of(self.world.image())
    }

    /// One line for each unsynced change, oldest first.
    pub fn describe(&self) -> Vec<String> {
        self.world.describe()
    }
}
