//! The bytes of a page behind its stamp, read side: header, slots, cells, and the search among them.
//!
//! ```text
//! page:  stamp 16 | body 4080
//! body:  kind u8 | level u8 | count u16 | cells u16 | garbage u16 | prefix u16 | last u16 | streak u8 | 0 x3 | born u64
//!        slots: (head u32 | offset u16) x count  ->   ...gap...   <-  cells, packed from the end
//! leaf cell:    key_len u16 | value_len u16 | key | value
//! branch cell:  key_len u16 | child u32 | entries u48 | key
//! ```
//!
//! All little-endian; offsets count from the start of the body. A length with its top bit set says that eight bytes
//! follow instead, (first page u32, bytes u32) of a page run. Entry 0 of a branch has an empty key: it stands for
//! everything below entry 1.
//!
//! `prefix` is a number of bytes that all keys of the page certainly share (entry 0 of a branch aside), and a slot's
//! `head` is the four bytes behind them. So a search reads slots only, and touches a cell to break a tie and to see
//! that the sought key shares the prefix too.

use std::cmp::Ordering;

use crate::order::{Order, head_of};
use crate::space::Space;

pub(crate) const PAGE_BYTES: usize = base::limits::BLOCK_BYTES;
/// What a checkpoint writes in front of a page: crc32c u32, number u32, checkpoint sequence u64.
pub(crate) const STAMP_BYTES: usize = 16;
pub(crate) const BODY_BYTES: usize = PAGE_BYTES - STAMP_BYTES;
pub(crate) const HEADER_BYTES: usize = 24;
pub(crate) const USABLE_BYTES: usize = BODY_BYTES - HEADER_BYTES;
pub(crate) const SLOT_BYTES: usize = 6;
pub(crate) const LEAF_CELL_BYTES: usize = 4;
pub(crate) const BRANCH_CELL_BYTES: usize = 12;

/// A leaf cell above this sends its value to a page run. Half a page: any page that overflows can then be split in
/// two, and a value of 1-2 KiB still shares a page instead of wasting half of its own.
pub(crate) const CELL_BYTES_MAX: usize = USABLE_BYTES / 2 - SLOT_BYTES;
/// A key above this goes to a page run: three separators of this length still fit a branch.
pub(crate) const KEY_INLINE_MAX: usize = 1000;

/// Set in a cell's length: a [`RunRef`] follows instead of the bytes.
pub(crate) const BY_RUN: u16 = 0x8000;

pub(crate) type Body = [u8; BODY_BYTES];

pub(crate) const LEAF: u8 = 1;
pub(crate) const BRANCH: u8 = 2;
pub(crate) const RUN: u8 = 3;

/// Bytes that live in a page run of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunRef {
    pub page: u32,
    pub len: u32,
}

/// In front of a run's bytes: the stamp, then kind u8, 0 x3, pages u32, bytes u32, 0 x4.
pub(crate) const RUN_HEADER_BYTES: usize = 32;

impl RunRef {
    pub const BYTES: usize = 8;

    pub fn pages(self) -> u32 {
        run_pages(self.len as usize)
    }

    /// The page behind its last.
    pub fn end(self) -> u32 {
        self.page + self.pages()
    }

    pub fn to_bytes(self) -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&self.page.to_le_bytes());
        bytes[4..].copy_from_slice(&self.len.to_le_bytes());
        bytes
    }

    fn read(bytes: &[u8]) -> RunRef {
        RunRef { page: u32_at(bytes, 0), len: u32_at(bytes, 4) }
    }
}

pub(crate) fn run_pages(len: usize) -> u32 {
    (len + RUN_HEADER_BYTES).div_ceil(PAGE_BYTES) as u32
}

#[inline]
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

#[inline]
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

#[inline]
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Bytes of a cell: there, or in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Payload<'a> {
    Inline(&'a [u8]),
    Run(RunRef),
}

impl<'a> Payload<'a> {
    #[inline]
    pub fn bytes(self, space: &'a Space) -> &'a [u8] {
        match self {
            Payload::Inline(bytes) => bytes,
            Payload::Run(run) => space.run(run),
        }
    }

    pub fn run(self) -> Option<RunRef> {
        match self {
            Payload::Inline(_) => None,
            Payload::Run(run) => Some(run),
        }
    }

    /// The length word that a cell carries for it.
    pub fn length_word(self) -> u16 {
        match self {
            Payload::Inline(bytes) => {
                assert!(bytes.len() < usize::from(BY_RUN), "{} bytes do not fit a cell", bytes.len());
                bytes.len() as u16
            }
            Payload::Run(_) => BY_RUN,
        }
    }

    pub fn stored_bytes(self) -> usize {
        match self {
            Payload::Inline(bytes) => bytes.len(),
            Payload::Run(_) => RunRef::BYTES,
        }
    }

    pub fn push_to(self, cell: &mut Vec<u8>) {
        match self {
            Payload::Inline(bytes) => cell.extend_from_slice(bytes),
            Payload::Run(run) => cell.extend_from_slice(&run.to_bytes()),
        }
    }
}

/// Bytes that a length word stands for.
#[inline]
fn stored(word: u16) -> usize {
    if word & BY_RUN == 0 { usize::from(word) } else { RunRef::BYTES }
}

#[inline]
fn payload(body: &Body, at: usize, word: u16) -> Payload<'_> {
    if word & BY_RUN == 0 {
        Payload::Inline(&body[at..at + usize::from(word)])
    } else {
        Payload::Run(RunRef::read(&body[at..at + RunRef::BYTES]))
    }
}

/// A sought key with its primary part.
#[derive(Clone, Copy)]
pub(crate) struct Probe<'k> {
    pub order: Order,
    pub key: &'k [u8],
    pub primary: &'k [u8],
}

impl<'k> Probe<'k> {
    #[inline]
    pub fn new(order: Order, key: &'k [u8]) -> Probe<'k> {
        Probe { order, key, primary: order.primary(key) }
    }

    /// How the key's first `prefix` bytes stand to those that the page's keys share.
    #[inline]
    fn against_prefix(&self, prefix: usize, witness: &[u8]) -> Ordering {
        let shared = &witness[..prefix];
        match self.primary.get(..prefix) {
            Some(mine) => mine.cmp(shared),
            None => self.primary.cmp(shared),
        }
    }
}

/// One page's body.
#[derive(Clone, Copy)]
pub(crate) struct Node<'a> {
    pub body: &'a Body,
}

impl<'a> Node<'a> {
    #[inline]
    pub fn kind(self) -> u8 {
        self.body[0]
    }
    #[inline]
    pub fn level(self) -> u8 {
        self.body[1]
    }
    #[inline]
    pub fn count(self) -> usize {
        usize::from(u16_at(self.body, 2))
    }
    /// Where the lowest cell begins.
    #[inline]
    pub fn cells(self) -> usize {
        usize::from(u16_at(self.body, 4))
    }
    /// Bytes of dead cells.
    #[inline]
    pub fn garbage(self) -> usize {
        usize::from(u16_at(self.body, 6))
    }
    #[inline]
    pub fn prefix(self) -> usize {
        usize::from(u16_at(self.body, 8))
    }
    /// Position behind the last insertion, and how many insertions in a row went exactly there.
    #[inline]
    pub fn streak(self) -> (usize, u8) {
        (usize::from(u16_at(self.body, 10)), self.body[12])
    }
    /// The publication in whose batch the page was written.
    #[inline]
    pub fn born(self) -> u64 {
        u64_at(self.body, 16)
    }
    #[inline]
    pub fn head(self, i: usize) -> u32 {
        u32_at(self.body, HEADER_BYTES + i * SLOT_BYTES)
    }
    #[inline]
    pub fn offset(self, i: usize) -> usize {
        usize::from(u16_at(self.body, HEADER_BYTES + i * SLOT_BYTES + 4))
    }
    #[inline]
    pub fn gap(self) -> usize {
        self.cells() - HEADER_BYTES - self.count() * SLOT_BYTES
    }
    #[inline]
    pub fn free(self) -> usize {
        self.gap() + self.garbage()
    }
    #[inline]
    pub fn used(self) -> usize {
        USABLE_BYTES - self.free()
    }

    pub fn cell_len(self, at: usize) -> usize {
        let key = stored(u16_at(self.body, at));
        if self.kind() == LEAF {
            LEAF_CELL_BYTES + key + stored(u16_at(self.body, at + 2))
        } else {
            BRANCH_CELL_BYTES + key
        }
    }

    pub fn cell(self, i: usize) -> &'a [u8] {
        let at = self.offset(i);
        &self.body[at..at + self.cell_len(at)]
    }

    #[inline]
    pub fn key(self, i: usize) -> Payload<'a> {
        let at = self.offset(i);
        let header = if self.kind() == LEAF { LEAF_CELL_BYTES } else { BRANCH_CELL_BYTES };
        payload(self.body, at + header, u16_at(self.body, at))
    }

    #[inline]
    fn leaf_key(self, i: usize) -> Payload<'a> {
        let at = self.offset(i);
        payload(self.body, at + LEAF_CELL_BYTES, u16_at(self.body, at))
    }

    #[inline]
    fn branch_key(self, i: usize) -> Payload<'a> {
        let at = self.offset(i);
        payload(self.body, at + BRANCH_CELL_BYTES, u16_at(self.body, at))
    }

    #[inline]
    pub fn value(self, i: usize) -> Payload<'a> {
        let at = self.offset(i);
        let key = stored(u16_at(self.body, at));
        payload(self.body, at + LEAF_CELL_BYTES + key, u16_at(self.body, at + 2))
    }

    #[inline]
    pub fn child(self, i: usize) -> u32 {
        u32_at(self.body, self.offset(i) + 2)
    }

    /// Entries below child `i`.
    #[inline]
    pub fn entries(self, i: usize) -> u64 {
        let at = self.offset(i) + 6;
        let mut bytes = [0; 8];
        bytes[..6].copy_from_slice(&self.body[at..at + 6]);
        u64::from_le_bytes(bytes)
    }

    /// Entries of the whole subtree.
    pub fn total(self) -> u64 {
        if self.kind() == LEAF {
            self.count() as u64
        } else {
            (0..self.count()).map(|i| self.entries(i)).sum()
        }
    }

    /// The first of `from..to` whose head is not below (`after`: is above) `head`.
    #[inline]
    fn partition(self, mut from: usize, mut to: usize, head: u32, after: bool) -> usize {
        while from < to {
            let middle = from.midpoint(to);
            let here = self.head(middle);
            if here < head || (after && here == head) {
                from = middle + 1;
            } else {
                to = middle;
            }
        }
        from
    }

    /// In a leaf: the position of the key, or the one where it would stand.
    #[inline]
    pub fn find(self, space: &'a Space, probe: &Probe) -> Result<usize, usize> {
        debug_assert_eq!(self.kind(), LEAF);
        let count = self.count();
        if count == 0 {
            return Err(0);
        }
        let prefix = self.prefix();
        let head = head_of(probe.primary, prefix);
        let mut position = self.partition(0, count, head, false);
        if position < count && self.head(position) == head {
            let mut end = position + 1;
            if end < count && self.head(end) == head {
                end = self.partition(end, count, head, true);
            }
            while position < end {
                let middle = position.midpoint(end);
                let key = self.leaf_key(middle).bytes(space);
                match probe.order.compare(key, probe.key) {
                    Ordering::Less => position = middle + 1,
                    Ordering::Equal => return Ok(middle),
                    Ordering::Greater => end = middle,
                }
            }
        }
        if prefix > 0 {
            let witness = self.leaf_key(position.min(count - 1)).bytes(space);
            match probe.against_prefix(prefix, witness) {
                Ordering::Less => return Err(0),
                Ordering::Greater => return Err(count),
                Ordering::Equal => {}
            }
        }
        Err(position)
    }

    /// In a branch: the child whose range holds the key.
    #[inline]
    pub fn route(self, space: &'a Space, probe: &Probe) -> usize {
        debug_assert_eq!(self.kind(), BRANCH);
        let count = self.count();
        if count <= 1 {
            return 0;
        }
        let prefix = self.prefix();
        let head = head_of(probe.primary, prefix);
        let mut position = self.partition(1, count, head, false);
        if position < count && self.head(position) == head {
            let mut end = position + 1;
            if end < count && self.head(end) == head {
                end = self.partition(end, count, head, true);
            }
            while position < end {
                let middle = position.midpoint(end);
                let key = self.branch_key(middle).bytes(space);
                if probe.order.compare(key, probe.key) == Ordering::Greater {
                    end = middle;
                } else {
                    position = middle + 1;
                }
            }
        }
        let child = position - 1;
        if prefix > 0 {
            let witness = self.branch_key(child.max(1)).bytes(space);
            match probe.against_prefix(prefix, witness) {
                Ordering::Less => return 0,
                Ordering::Greater => return count - 1,
                Ordering::Equal => {}
            }
        }
        child
    }
}
