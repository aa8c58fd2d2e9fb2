//! What survives a power loss.

use base::Random;

use super::blocks::Blocks;
use super::world::{Change, Pending, World};

/// What becomes of one unsynced change. Changes of names and sizes are atomic: torn counts as whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    Lost,
    Whole,
    /// Each `unit` bytes of the write (512 or 4096) are kept or lost by a coin that `seed` tosses.
    Torn {
        unit: usize,
        seed: u64,
    },
}

/// What becomes of each unsynced change, oldest first.
#[derive(Clone, Debug)]
pub struct KeepSet(pub Vec<Keep>);

impl KeepSet {
    pub fn none(count: usize) -> KeepSet {
        KeepSet(vec![Keep::Lost; count])
    }

    pub fn all(count: usize) -> KeepSet {
        KeepSet(vec![Keep::Whole; count])
    }

    pub fn only(count: usize, kept: usize) -> KeepSet {
        let mut set = KeepSet::none(count);
        set.0[kept] = Keep::Whole;
        set
    }

    pub fn all_but(count: usize, lost: usize) -> KeepSet {
        let mut set = KeepSet::all(count);
        set.0[lost] = Keep::Lost;
        set
    }

    /// Each change lost, whole or torn at 512 B or 4 KiB, all equally likely.
    pub fn random(count: usize, random: &mut Random) -> KeepSet {
        let one = |_| match random.below(4) {
            0 => Keep::Lost,
            1 => Keep::Whole,
            2 => Keep::Torn { unit: 512, seed: random.next_u64() },
            _ => Keep::Torn { unit: 4096, seed: random.next_u64() },
        };
        KeepSet((0..count).map(one).collect())
    }

    /// The same set, with what it keeps whole torn at `unit`.
    pub fn torn(mut self, unit: usize, random: &mut Random) -> KeepSet {
        for keep in &mut self.0 {
            if *keep == Keep::Whole {
                *keep = Keep::Torn { unit, seed: random.next_u64() };
            }
        }
        self
    }
}

impl World {
    /// The world of durable things, with the chosen changes on top, in their order. Nothing of it is unsynced.
    pub(super) fn crashed(&self, keep: &KeepSet) -> World {
        assert_eq!(keep.0.len(), self.pending.len(), "a choice for each unsynced change");
        let mut after = World {
            names: self.durable_names.clone(),
            dirs: self.durable_dirs.clone(),
            capacity: self.capacity,
            next_file: self.next_file,
            ..World::default()
        };
        let mut contents = self.inodes.clone();
        for inode in contents.values_mut() {
            inode.current = inode.durable.clone();
            inode.opens = 0;
        }
        for (Pending { change, .. }, &keep) in self.pending.iter().zip(&keep.0) {
            match (change, keep) {
                (_, Keep::Lost) => {}
                (Change::Write { file, offset, data }, Keep::Torn { unit, seed }) => {
                    let inode = contents.get_mut(file).expect("a file of a pending write");
                    tear(&mut inode.current, *offset, data, unit, seed);
                }
                (change, _) => change.apply(&mut after.names, &mut after.dirs, &mut contents),
            }
        }
        // A file in a directory that was lost is lost too.
        let dirs = after.dirs.clone();
        after.names.retain(|name, _| name.split_once('/').is_none_or(|(dir, _)| dirs.contains(dir)));
        let live: std::collections::BTreeSet<_> = after.names.values().copied().collect();
        contents.retain(|id, _| live.contains(id));
        for inode in contents.values_mut() {
            inode.durable = inode.current.clone();
        }
        after.inodes = contents;
        after.durable_names = after.names.clone();
        after.durable_dirs = after.dirs.clone();
        after
    }
}

fn tear(blocks: &mut Blocks, offset: u64, data: &[u8], unit: usize, seed: u64) {
    let mut coin = Random::new(seed);
    for (number, part) in data.chunks(unit).enumerate() {
        if coin.one_in(2) {
            blocks.write(offset + (number * unit) as u64, part);
        }
    }
}
