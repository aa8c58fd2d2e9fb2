//! Builds the tree of one bucket from the bottom up, as pairs arrive in order.
//!
//! A leaf is written when the next pair does not fit; its first key goes to the branch above. A branch is
//! written only while two more children wait behind it, so that none ends up with fewer than two.

use std::io::Write;

use crate::Error;
use crate::format::{ELEMENT_BYTES, KIND_BRANCH, KIND_LEAF, PAGE_BYTES, PAGE_HEADER_BYTES, page_header};

/// bbolt keeps a bucket inside its parent's leaf up to this size, bytes.
pub(crate) const INLINE_BYTES_MAX: usize = PAGE_BYTES / 4;
const ZEROS: [u8; PAGE_BYTES] = [0; PAGE_BYTES];

/// Where pages go: numbered as they are written.
pub(crate) struct Pages<W> {
    pub out: W,
    pub next: u64,
}

impl<W: Write> Pages<W> {
    /// Writes one page run (header, `elements`, `data`, padding) and returns its number.
    pub fn write(&mut self, kind: u16, count: usize, elements: &[u8], data: &[u8]) -> Result<u64, Error> {
        let size = PAGE_HEADER_BYTES + elements.len() + data.len();
        let run = size.div_ceil(PAGE_BYTES);
        let count = u16::try_from(count).map_err(|_| Error::Misuse("more elements than a page can count"))?;
        let overflow = u32::try_from(run - 1).map_err(|_| Error::Misuse("a page run above 2^32 pages"))?;
        let id = self.next;
        self.out.write_all(&page_header(id, kind, count, overflow))?;
        self.out.write_all(elements)?;
        self.out.write_all(data)?;
        self.out.write_all(&ZEROS[..run * PAGE_BYTES - size])?;
        self.next += run as u64;
        Ok(id)
    }
}

/// The leaf being filled.
#[derive(Default)]
struct Leaf {
    /// (flags, key bytes, value bytes)
    pairs: Vec<(u32, u32, u32)>,
    data: Vec<u8>,
}

impl Leaf {
    fn size(&self) -> usize {
        PAGE_HEADER_BYTES + self.pairs.len() * ELEMENT_BYTES + self.data.len()
    }

    fn elements(&self) -> Vec<u8> {
        let mut elements = Vec::with_capacity(self.pairs.len() * ELEMENT_BYTES);
        let mut pos = self.pairs.len() * ELEMENT_BYTES;
        for (index, &(flags, key_len, value_len)) in self.pairs.iter().enumerate() {
            let from_element = (pos - index * ELEMENT_BYTES) as u32;
            for word in [flags, from_element, key_len, value_len] {
                elements.extend_from_slice(&word.to_le_bytes());
            }
            pos += key_len as usize + value_len as usize;
        }
        elements
    }
}

/// The children that one level has yet to write.
#[derive(Default)]
struct Level {
    children: Vec<(Vec<u8>, u64)>,
    bytes: usize,
    written: bool,
}

impl Level {
    /// How many children the next page takes: as many as fit, never fewer than two.
    fn fit(&self) -> usize {
        let mut size = PAGE_HEADER_BYTES;
        for (index, (key, _)) in self.children.iter().enumerate() {
            size += ELEMENT_BYTES + key.len();
            if size > PAGE_BYTES && index >= 2 {
                return index;
            }
        }
        self.children.len()
    }

    fn write<W: Write>(&mut self, take: usize, pages: &mut Pages<W>) -> Result<(Vec<u8>, u64), Error> {
        assert!(take >= 2, "a branch has two children or more");
        let mut elements = Vec::with_capacity(take * ELEMENT_BYTES);
        let mut data = Vec::new();
        for (index, (key, child)) in self.children[..take].iter().enumerate() {
            let pos = ((take - index) * ELEMENT_BYTES + data.len()) as u32;
            elements.extend_from_slice(&pos.to_le_bytes());
            elements.extend_from_slice(&(key.len() as u32).to_le_bytes());
            elements.extend_from_slice(&child.to_le_bytes());
            data.extend_from_slice(key);
        }
        let id = pages.write(KIND_BRANCH, take, &elements, &data)?;
        self.written = true;
        self.bytes -= elements.len() + data.len();
        let mut gone = self.children.drain(..take);
        let first = gone.next().expect("at least two children").0;
        Ok((first, id))
    }
}

/// What became of a bucket.
pub(crate) enum Root {
    Page(u64),
    /// The bytes of a leaf page that fits inside the parent.
    Inline(Vec<u8>),
}

#[derive(Default)]
pub(crate) struct Builder {
    leaf: Leaf,
    leaf_key: Vec<u8>,
    levels: Vec<Level>,
    leaves: u64,
}

impl Builder {
    /// Appends a pair; the caller has checked order and sizes.
    pub fn push<W: Write>(
        &mut self,
        flags: u32,
        key: &[u8],
        value: &[u8],
        pages: &mut Pages<W>,
    ) -> Result<(), Error> {
        let more = ELEMENT_BYTES + key.len() + value.len();
        if !self.leaf.pairs.is_empty() && self.leaf.size() + more > PAGE_BYTES {
            self.flush_leaf(pages)?;
        }
        if self.leaf.pairs.is_empty() {
            self.leaf_key.clear();
            self.leaf_key.extend_from_slice(key);
        }
        self.leaf.pairs.push((flags, key.len() as u32, value.len() as u32));
        self.leaf.data.extend_from_slice(key);
        self.leaf.data.extend_from_slice(value);
        Ok(())
    }

    fn flush_leaf<W: Write>(&mut self, pages: &mut Pages<W>) -> Result<(), Error> {
        let id = pages.write(KIND_LEAF, self.leaf.pairs.len(), &self.leaf.elements(), &self.leaf.data)?;
        self.leaf.pairs.clear();
        self.leaf.data.clear();
        // One huge value must not stay with us for the rest of the file.
        self.leaf.data.shrink_to(4 * PAGE_BYTES);
        self.leaves += 1;
        let first = std::mem::take(&mut self.leaf_key);
        self.add(0, first, id, pages)
    }

    fn add<W: Write>(
        &mut self,
        level: usize,
        key: Vec<u8>,
        child: u64,
        pages: &mut Pages<W>,
    ) -> Result<(), Error> {
        if self.levels.len() == level {
            self.levels.push(Level::default());
        }
        let this = &mut self.levels[level];
        this.bytes += ELEMENT_BYTES + key.len();
        this.children.push((key, child));
        if PAGE_HEADER_BYTES + this.bytes <= PAGE_BYTES {
            return Ok(());
        }
        let take = this.fit();
        if this.children.len() < take + 2 {
            return Ok(());
        }
        let (first, id) = this.write(take, pages)?;
        self.add(level + 1, first, id, pages)
    }

    /// Writes what is left. A bucket that is small enough, and `may_inline`, becomes an inline page.
    pub fn finish<W: Write>(mut self, may_inline: bool, pages: &mut Pages<W>) -> Result<Root, Error> {
        if self.leaves == 0 && may_inline && self.leaf.size() <= INLINE_BYTES_MAX {
            let mut page = page_header(0, KIND_LEAF, self.leaf.pairs.len() as u16, 0).to_vec();
            page.extend_from_slice(&self.leaf.elements());
            page.extend_from_slice(&self.leaf.data);
            return Ok(Root::Inline(page));
        }
        if self.leaves == 0 || !self.leaf.pairs.is_empty() {
            self.flush_leaf(pages)?;
        }
        let mut level = 0;
        loop {
            let this = &self.levels[level];
            if !this.written && this.children.len() == 1 {
                assert_eq!(level + 1, self.levels.len(), "the root has nothing above it");
                return Ok(Root::Page(this.children[0].1));
            }
            while !self.levels[level].children.is_empty() {
                let this = &mut self.levels[level];
                let (fit, have) = (this.fit(), this.children.len());
                let take = match have - fit {
                    // One left over: it takes a sibling along, or all three share an oversize page.
                    1 if fit > 2 => fit - 1,
                    1 => have,
                    _ => fit,
                };
                let (first, id) = this.write(take, pages)?;
                self.add(level + 1, first, id, pages)?;
            }
            level += 1;
        }
    }
}
