//! The meta block: the one record from which a data file is a tree again (law 7).
//!
//! ```text
//! 0   magic 8            | 8  version u32         | 12 crc32c u32 of all behind it
//! 16  sequence u64       | 24 publication u64     | 32 pages u32 | 36 page bytes u32 | 40 chunk bytes u64
//! 48  bitmap page u32    | 52 bitmap pages u32    | 56 bitmap crc32c u32 | 60 trees u32
//! 64  stamp 16 x u64
//! 192 trees, 48 bytes each: root u32 | suffix u16 | level u8 | name_len u8 | entries u64 | name 32
//! ```
//!
//! Two slots, pages 0 and 1; sequence `s` stands in slot `s % 2`, so the write of one never touches the other. Magic,
//! version and crc keep their places in every version, so that an unknown version is told from damage.

use crate::Stamp;
use crate::node::{PAGE_BYTES, u16_at, u32_at, u64_at};
use crate::order::{KeyOrder, TreeSpec};
use crate::pages::Extent;
use crate::pins::TreeRoot;

pub(crate) const MAGIC: [u8; 8] = *b"mnst.tre";
pub(crate) const VERSION: u32 = 1;
/// Pages 0 and 1.
pub(crate) const SLOTS: u32 = 2;
/// Longest name of a tree, bytes.
pub const NAME_BYTES: usize = 32;
const TREES_AT: usize = 192;
const TREE_BYTES: usize = 48;
/// Trees that one meta can name.
pub const TREES_MAX: usize = (PAGE_BYTES - TREES_AT) / TREE_BYTES;

/// One tree, as the meta has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TreeRecord {
    pub root: TreeRoot,
    pub suffix: u16,
    pub name: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub sequence: u64,
    pub publication: u64,
    /// All pages in use are below.
    pub pages: u32,
    pub chunk_bytes: u64,
    /// Where the bitmap of reachable pages stands; no pages when the trees are empty.
    pub bitmap: Extent,
    pub bitmap_crc: u32,
    pub stamp: Stamp,
    pub trees: Vec<TreeRecord>,
}

/// What a slot holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// Zeros: never written.
    Empty,
    /// No magic.
    Foreign,
    /// Whole, of another version.
    Version(u32),
    Damaged,
    Valid(Box<Meta>),
}

pub(crate) fn suffix_of(order: KeyOrder) -> u16 {
    match order {
        KeyOrder::Bytes => 0,
        KeyOrder::Suffixed(suffix) => u16::try_from(suffix).expect("a suffix is a few bytes"),
    }
}

pub(crate) fn records(specs: &[TreeSpec], roots: &[TreeRoot]) -> Vec<TreeRecord> {
    assert!(specs.len() == roots.len() && specs.len() <= TREES_MAX, "{} trees", specs.len());
    let record = |(spec, root): (&TreeSpec, &TreeRoot)| {
        assert!(!spec.name.is_empty() && spec.name.len() <= NAME_BYTES, "a tree named {:?}", spec.name);
        TreeRecord { root: *root, suffix: suffix_of(spec.order), name: spec.name.as_bytes().to_vec() }
    };
    specs.iter().zip(roots).map(record).collect()
}

impl Meta {
    pub fn slot(&self) -> u32 {
        (self.sequence % u64::from(SLOTS)) as u32
    }

    /// Fills a block of zeros.
    pub fn encode(&self, block: &mut [u8]) {
        assert!(block.len() == PAGE_BYTES && self.trees.len() <= TREES_MAX, "a meta is one page");
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(8, &VERSION.to_le_bytes());
        put(16, &self.sequence.to_le_bytes());
        put(24, &self.publication.to_le_bytes());
        put(32, &self.pages.to_le_bytes());
        put(36, &(PAGE_BYTES as u32).to_le_bytes());
        put(40, &self.chunk_bytes.to_le_bytes());
        put(48, &self.bitmap.page.to_le_bytes());
        put(52, &self.bitmap.pages.to_le_bytes());
        put(56, &self.bitmap_crc.to_le_bytes());
        put(60, &(self.trees.len() as u32).to_le_bytes());
        for (i, word) in self.stamp.iter().enumerate() {
            put(64 + i * 8, &word.to_le_bytes());
        }
        for (i, tree) in self.trees.iter().enumerate() {
            let at = TREES_AT + i * TREE_BYTES;
            put(at, &tree.root.page.to_le_bytes());
            put(at + 4, &tree.suffix.to_le_bytes());
            put(at + 6, &[tree.root.level, tree.name.len() as u8]);
            put(at + 8, &tree.root.entries.to_le_bytes());
            put(at + 16, &tree.name);
        }
        let crc = base::crc32c(&block[16..]);
        block[12..16].copy_from_slice(&crc.to_le_bytes());
    }

    pub fn decode(block: &[u8], slot: u32) -> Slot {
        assert!(block.len() == PAGE_BYTES, "a meta is one page");
        if block.iter().all(|b| *b == 0) {
            return Slot::Empty;
        }
        if block[..8] != MAGIC {
            return Slot::Foreign;
        }
        if u32_at(block, 12) != base::crc32c(&block[16..]) {
            return Slot::Damaged;
        }
        match u32_at(block, 8) {
            VERSION => {
                Self::decode_fields(block, slot).map_or(Slot::Damaged, |meta| Slot::Valid(Box::new(meta)))
            }
            other => Slot::Version(other),
        }
    }

    fn decode_fields(block: &[u8], slot: u32) -> Option<Meta> {
        let trees = u32_at(block, 60) as usize;
        let chunk_bytes = u64_at(block, 40);
        let sound = trees <= TREES_MAX
            && u32_at(block, 36) as usize == PAGE_BYTES
            && chunk_bytes.is_power_of_two()
            && chunk_bytes >= PAGE_BYTES as u64;
        if !sound {
            return None;
        }
        let tree = |i: usize| {
            let at = TREES_AT + i * TREE_BYTES;
            let name_len = usize::from(block[at + 7]);
            let root =
                TreeRoot { page: u32_at(block, at), level: block[at + 6], entries: u64_at(block, at + 8) };
            let name = block[at + 16..].get(..name_len.min(NAME_BYTES))?.to_vec();
            (name_len <= NAME_BYTES).then_some(TreeRecord { root, suffix: u16_at(block, at + 4), name })
        };
        let meta = Meta {
            sequence: u64_at(block, 16),
            publication: u64_at(block, 24),
            pages: u32_at(block, 32),
            chunk_bytes,
            bitmap: Extent { page: u32_at(block, 48), pages: u32_at(block, 52) },
            bitmap_crc: u32_at(block, 56),
            stamp: std::array::from_fn(|i| u64_at(block, 64 + i * 8)),
            trees: (0..trees).map(tree).collect::<Option<_>>()?,
        };
        // A meta in the other's slot was put there by a copy gone wrong, not by a checkpoint.
        (meta.slot() == slot).then_some(meta)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta() -> Meta {
        let root = TreeRoot { page: 7, level: 2, entries: 1 << 40 };
        Meta {
            sequence: 9,
            publication: 1234,
            pages: 800,
            chunk_bytes: 65536,
            bitmap: Extent { page: 5, pages: 1 },
            bitmap_crc: 0xdead_beef,
            stamp: std::array::from_fn(|i| i as u64 * 3),
            trees: vec![TreeRecord { root, suffix: 16, name: b"history".to_vec() }; TREES_MAX],
        }
    }

    #[test]
    fn a_meta_comes_back_and_any_flipped_bit_is_noticed() {
        let mut block = vec![0; PAGE_BYTES];
        meta().encode(&mut block);
        assert_eq!(Meta::decode(&block, 1), Slot::Valid(Box::new(meta())));
        assert_eq!(Meta::decode(&block, 0), Slot::Damaged, "in the other slot");
        for at in (0..PAGE_BYTES).filter(|at| !(8..12).contains(at)) {
            let mut bad = block.clone();
            bad[at] ^= 4;
            let expected = if at < 8 { Slot::Foreign } else { Slot::Damaged };
            assert_eq!(Meta::decode(&bad, 1), expected, "byte {at}");
        }
        block[8] = 2;
        assert_eq!(Meta::decode(&block, 1), Slot::Version(2));
        // As much as a page has room for.
        let left = PAGE_BYTES - (TREES_AT + TREES_MAX * TREE_BYTES);
        assert!(left < TREE_BYTES, "{left} bytes are left");
        let mut long = meta();
        long.trees[3].name = vec![b'n'; NAME_BYTES];
        long.encode(&mut block);
        assert_eq!(Meta::decode(&block, 1), Slot::Valid(Box::new(long)));
        assert_eq!(Meta::decode(&vec![0; PAGE_BYTES], 0), Slot::Empty);
    }
}
