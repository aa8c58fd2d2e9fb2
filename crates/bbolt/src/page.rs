//! One page (or run of pages) that was read: validated as a whole, so that its accessors cannot fail.

use std::borrow::Cow;

use crate::Error;
use crate::format::{
    ELEMENT_BYTES, FLAG_BUCKET, KEY_BYTES_MAX, KIND_BRANCH, KIND_FREELIST, KIND_LEAF, PAGE_HEADER_BYTES,
    u16_at, u32_at, u64_at,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Branch,
    Leaf,
    Freelist,
}

/// A branch, leaf or free list whose every offset was checked.
#[derive(Clone, Debug)]
pub(crate) struct Page<'a> {
    bytes: Cow<'a, [u8]>,
    pub kind: Kind,
    pub count: usize,
    pub overflow: u32,
}

impl<'a> Page<'a> {
    /// Takes a whole run of pages. `id` is the page's number, 0 for an inline page; `high_water` bounds children.
    pub fn parse(bytes: Cow<'a, [u8]>, id: u64, high_water: u64) -> Result<Page<'a>, Error> {
        if bytes.len() < PAGE_HEADER_BYTES {
            return Err(Error::corrupt(id, "no room for a page header"));
        }
        if u64_at(&bytes, 0) != id {
            return Err(Error::corrupt(id, "the page says that it is another one"));
        }
        let kind = match u16_at(&bytes, 8) {
            KIND_BRANCH => Kind::Branch,
            KIND_LEAF => Kind::Leaf,
            KIND_FREELIST => Kind::Freelist,
            _ => return Err(Error::corrupt(id, "neither a branch, a leaf nor a free list")),
        };
        let page = Page { kind, count: usize::from(u16_at(&bytes, 10)), overflow: u32_at(&bytes, 12), bytes };
        match kind {
            Kind::Branch | Kind::Leaf => page.check_elements(id, high_water)?,
            Kind::Freelist => page.check_freelist(id)?,
        }
        Ok(page)
    }

    fn check_elements(&self, id: u64, high_water: u64) -> Result<(), Error> {
        let data = PAGE_HEADER_BYTES + self.count * ELEMENT_BYTES;
        if data > self.bytes.len() {
            return Err(Error::corrupt(id, "more elements than the page has room for"));
        }
        if self.kind == Kind::Branch && self.count == 0 {
            return Err(Error::corrupt(id, "a branch without children"));
        }
        let mut before: &[u8] = &[];
        for index in 0..self.count {
            let at = PAGE_HEADER_BYTES + index * ELEMENT_BYTES;
            let (pos, key_len, value_len) = self.extent(at);
            // 32-bit numbers: their sum cannot overflow a usize of 64 bits.
            let (start, end) = (at + pos, at + pos + key_len + value_len);
            if start < data || end > self.bytes.len() {
                return Err(Error::corrupt(id, "an element points out of its page"));
            }
            if key_len == 0 || key_len > KEY_BYTES_MAX {
                return Err(Error::corrupt(id, "a key is empty or too long"));
            }
            let key = &self.bytes[start..start + key_len];
            if key <= before {
                return Err(Error::corrupt(id, "keys out of order within the page"));
            }
            before = key;
            if self.kind == Kind::Branch {
                let child = u64_at(&self.bytes, at + 8);
                if child < 2 || child >= high_water {
                    return Err(Error::corrupt(id, "a child lies outside of the pages in use"));
                }
            }
        }
        Ok(())
    }

    fn check_freelist(&self, id: u64) -> Result<(), Error> {
        let (first, count) = self.free_extent();
        let room = (self.bytes.len() - PAGE_HEADER_BYTES) / 8;
        if first > room || count > (room - first) as u64 {
            return Err(Error::corrupt(id, "the free list is longer than its pages"));
        }
        Ok(())
    }

    /// (position from the element, key bytes, value bytes) of the element at offset `at`.
    fn extent(&self, at: usize) -> (usize, usize, usize) {
        match self.kind {
            Kind::Leaf => (
                u32_at(&self.bytes, at + 4) as usize,
                u32_at(&self.bytes, at + 8) as usize,
                u32_at(&self.bytes, at + 12) as usize,
            ),
            _ => (u32_at(&self.bytes, at) as usize, u32_at(&self.bytes, at + 4) as usize, 0),
        }
    }

    pub fn key(&self, index: usize) -> &[u8] {
        let at = self.element(index);
        let (pos, key_len, _) = self.extent(at);
        &self.bytes[at + pos..at + pos + key_len]
    }

    /// The value of a leaf element.
    pub fn value(&self, index: usize) -> &[u8] {
        let at = self.element(index);
        let (pos, key_len, value_len) = self.extent(at);
        &self.bytes[at + pos + key_len..at + pos + key_len + value_len]
    }

    pub fn is_bucket(&self, index: usize) -> bool {
        self.kind == Kind::Leaf && u32_at(&self.bytes, self.element(index)) & FLAG_BUCKET != 0
    }

    pub fn child(&self, index: usize) -> u64 {
        assert_eq!(self.kind, Kind::Branch, "only branches have children");
        u64_at(&self.bytes, self.element(index) + 8)
    }

    fn element(&self, index: usize) -> usize {
        assert!(self.kind != Kind::Freelist && index < self.count, "no such element");
        PAGE_HEADER_BYTES + index * ELEMENT_BYTES
    }

    /// The first index at or after which keys are >= `key`.
    pub fn lower_bound(&self, key: &[u8]) -> usize {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.key(middle) < key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    fn free_extent(&self) -> (usize, u64) {
        if self.count == 0xffff && self.bytes.len() >= PAGE_HEADER_BYTES + 8 {
            (1, u64_at(&self.bytes, PAGE_HEADER_BYTES))
        } else {
            (0, self.count as u64)
        }
    }

    /// The page ids of a free list.
    pub fn free_pages(&self) -> impl Iterator<Item = u64> + '_ {
        assert_eq!(self.kind, Kind::Freelist, "only a free list has free pages");
        let (first, count) = self.free_extent();
        (first..first + count as usize).map(|index| u64_at(&self.bytes, PAGE_HEADER_BYTES + index * 8))
    }
}
