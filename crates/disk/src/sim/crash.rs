//! What survives a power loss.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use base::Random;

use super::blocks::{Block, Blocks, block_of};
use super::fault::SECTOR;
use super::world::{Change, Pending, World};
use crate::BLOCK;

/// What becomes of one unsynced change. Changes of names and sizes are atomic: torn counts as whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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

    /// What a crash with unsynced changes of these shapes is tried with: none of them, all, each alone, all but each, and
    /// these torn at 512 B and at 4 KiB; and so many sets drawn at random, which are torn here and there. No set comes
    /// twice.
    pub(super) fn sweep(shapes: &[Shape], drawn: usize, random: &mut Random) -> Vec<KeepSet> {
        let count = shapes.len();
        let mut whole = vec![KeepSet::none(count), KeepSet::all(count)];
        whole.extend((0..count).map(|at| KeepSet::only(count, at)));
        whole.extend((0..count).map(|at| KeepSet::all_but(count, at)));
        let mut sets = Vec::new();
        for set in whole {
            for unit in [SECTOR, BLOCK] {
                sets.push(set.clone().torn(unit, random));
            }
            sets.push(set);
        }
        sets.extend((0..drawn).map(|_| KeepSet::random(count, random)));
        for set in &mut sets {
            for (keep, shape) in set.0.iter_mut().zip(shapes) {
                shape.settle(keep);
            }
        }
        let mut seen = HashSet::new();
        sets.retain(|set| seen.insert(set.clone()));
        sets
    }
}

/// How one change can be torn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Of a name or a size: not at all.
    Atomic,
    Blocks(usize),
}

impl Shape {
    /// Says a fate in the one way in which it is said: a tear that can have but two ends is one of them.
    fn settle(self, keep: &mut Keep) {
        if let Keep::Torn { unit, seed } = *keep
            && (self == Shape::Atomic || (self == Shape::Blocks(1) && unit == BLOCK))
        {
            *keep = if seed & 1 == 0 || self == Shape::Atomic { Keep::Whole } else { Keep::Lost };
        }
    }
}

impl World {
    /// The world of durable things, with the chosen changes on top. Nothing of it is unsynced. The changes are made in
    /// their order, or, with `shuffle`, those of contents in any: as a device that obeys nothing but syncs.
    pub(super) fn crashed(&self, keep: &KeepSet, shuffle: Option<&mut Random>) -> World {
        assert_eq!(keep.0.len(), self.pending.len(), "a choice for each unsynced change");
        let mut after = World {
            names: self.durable_names.clone(),
            dirs: self.durable_dirs.clone(),
            inodes: self.inodes.clone(),
            capacity: self.capacity,
            next_file: self.next_file,
            ..World::default()
        };
        for inode in after.inodes.values_mut() {
            inode.current = inode.durable.clone();
            inode.opens = 0;
        }
        let mut kept: Vec<(&Change, Keep)> =
            self.pending.iter().map(|Pending { change, .. }| change).zip(keep.0.iter().copied()).collect();
        kept.retain(|(_, keep)| *keep != Keep::Lost);
        if let Some(random) = shuffle {
            shuffle_writes(&mut kept, random);
        }
        for (change, keep) in kept {
            match (change, keep) {
                (Change::Write { file, at, payload }, Keep::Torn { unit, seed }) => {
                    let inode = after.inodes.get_mut(file).expect("a file of a pending write");
                    tear(&mut inode.current, *at, payload.blocks(), unit, seed);
                }
                (change, _) => change.apply(&mut after.names, &mut after.dirs, &mut after.inodes),
            }
        }
        // A file in a directory that was lost is lost too.
        let lost = |name: &str, dirs: &BTreeSet<Arc<str>>| {
            name.split_once('/').is_some_and(|(dir, _)| !dirs.contains(dir))
        };
        if after.names.keys().any(|name| lost(name, &after.dirs)) {
            let dirs = after.dirs.clone();
            Arc::make_mut(&mut after.names).retain(|name, _| !lost(name, &dirs));
        }
        let names = after.names.clone();
        after.inodes.retain(|id, _| names.values().any(|named| named == id));
        for inode in after.inodes.values_mut() {
            inode.durable = inode.current.clone();
        }
        after.durable_names = after.names.clone();
        after.durable_dirs = after.dirs.clone();
        after
    }
}

/// Draws a new order for the writes; changes of names and sizes stay where they are.
fn shuffle_writes(changes: &mut [(&Change, Keep)], random: &mut Random) {
    let writes: Vec<usize> =
        (0..changes.len()).filter(|&at| matches!(changes[at].0, Change::Write { .. })).collect();
    for last in (1..writes.len()).rev() {
        changes.swap(writes[last], writes[random.below(last as u64 + 1) as usize]);
    }
}

fn tear(blocks: &mut Blocks, at: usize, payload: &[Block], unit: usize, seed: u64) {
    assert!(unit == BLOCK || unit == SECTOR, "writes are torn at {SECTOR} or {BLOCK} bytes, not {unit}");
    let mut coin = Random::new(seed);
    for (no, block) in payload.iter().enumerate() {
        if unit == BLOCK {
            if coin.one_in(2) {
                blocks.put(at + no, block.clone());
            }
            continue;
        }
        let mut bytes = blocks.block(at + no).as_deref().copied().unwrap_or([0; BLOCK]);
        let mut kept = 0;
        for sector in 0..BLOCK / SECTOR {
            if coin.one_in(2) {
                let range = sector * SECTOR..(sector + 1) * SECTOR;
                match block {
                    Some(new) => bytes[range.clone()].copy_from_slice(&new[range]),
                    None => bytes[range].fill(0),
                }
                kept += 1;
            }
        }
        if kept > 0 {
            blocks.put(at + no, block_of(&bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether `set` keeps exactly what `wanted` keeps, torn at `unit` where that can be (whole where `unit` is `None`).
    fn is_torn_so(set: &KeepSet, wanted: &KeepSet, shapes: &[Shape], unit: Option<usize>) -> bool {
        let mut each = set.0.iter().zip(&wanted.0).zip(shapes);
        each.all(|((keep, wanted), shape)| match (wanted, unit, shape) {
            (Keep::Lost, ..) => *keep == Keep::Lost,
            (_, None, _) | (_, _, Shape::Atomic) => *keep == Keep::Whole,
            // One block that is torn at its own size is there or not.
            (_, Some(BLOCK), Shape::Blocks(1)) => !matches!(keep, Keep::Torn { .. }),
            (_, Some(unit), Shape::Blocks(_)) => {
                matches!(keep, Keep::Torn { unit: torn, .. } if *torn == unit)
            }
        })
    }

    #[test]
    fn a_sweep_has_every_set_that_it_speaks_of() {
        let shapes = [Shape::Blocks(3), Shape::Blocks(1), Shape::Atomic, Shape::Blocks(2)];
        let count = shapes.len();
        let sets = KeepSet::sweep(&shapes, 0, &mut Random::new(1));
        let mut wanted = vec![KeepSet::none(count), KeepSet::all(count)];
        for at in 0..count {
            wanted.push(KeepSet::only(count, at));
            wanted.push(KeepSet::all_but(count, at));
        }
        for wanted in &wanted {
            for unit in [None, Some(512), Some(4096)] {
                let found = sets.iter().any(|set| is_torn_so(set, wanted, &shapes, unit));
                assert!(found, "{wanted:?} torn at {unit:?} is not tried");
            }
        }
        // And nothing else: each is one of these.
        for set in &sets {
            let known = wanted.iter().any(|wanted| {
                [None, Some(512), Some(4096)].iter().any(|unit| is_torn_so(set, wanted, &shapes, *unit))
            });
            assert!(known, "{set:?} was not asked for");
        }
        for drawn in [1, 64] {
            let more = KeepSet::sweep(&[Shape::Blocks(3); 20], drawn, &mut Random::new(2));
            let none = KeepSet::sweep(&[Shape::Blocks(3); 20], 0, &mut Random::new(2));
            assert_eq!(more.len(), none.len() + drawn, "each drawn set is another one");
        }
    }
}
