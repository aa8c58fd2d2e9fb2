//! The pages of a mapping as Rust references: the one place that turns page numbers into memory.
//!
//! The argument on which every `unsafe` block of this module rests:
//!
//! 1. A page number comes from a root, a branch, a cell or the allocator, so it is below `Mapping::pages()`
//!    (asserted there); a chunk never moves and is unmapped only when no root that is pinned or durable reaches it.
//! 2. A page that a published root reaches is immutable from its publication until it is freed and no pin covers it
//!    ([`crate::pages`], law 6). Readers come to pages only through a root that they pinned (or, in the writer,
//!    through a borrow of the store), so the bytes behind a shared slice do not change while the slice lives. Where
//!    the writer takes a published page over ([`PageWriter::adopt`]), no pin stands and none can come.
//! 3. The writer changes a page only through [`PageWriter`], of which there is one per store, by `&mut`, and only
//!    while the page was born in the open batch (asserted on every access), or was taken over by it: no other thread
//!    can know its number.
//! 4. The stamp in front of a page belongs to the checkpoint's thread alone, and no slice of this module that others
//!    see covers it: bodies begin behind it, and a run's bytes behind its whole header.
//! 5. Dropping a cold page (`discard`) replaces its memory by the file's bytes, which are the same: it was written by
//!    a completed checkpoint, and is immutable by 2.

use std::sync::Arc;

use disk::Mapping;

use crate::edit;
use crate::node::*;

/// Reads pages. Shared by the writer and all readers.
pub(crate) struct Space {
    mapping: Arc<Mapping>,
}

impl Space {
    pub fn new(mapping: Arc<Mapping>) -> Space {
        Space { mapping }
    }

    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// The body of a page that the caller reached from a root it holds.
    #[inline]
    pub fn node(&self, no: u32) -> Node<'_> {
        // SAFETY: points 1, 2 and 4 of the module: the page is mapped, the body lies in it behind the stamp, any
        // bytes are a valid array, and nobody writes them while the caller's root lives.
        let body = unsafe { &*self.mapping.page(no).add(STAMP_BYTES).cast::<Body>() };
        Node { body }
    }

    /// Has the processor load a page that will be read soon. A hint: nothing is read, and nothing fails.
    #[inline]
    pub fn prefetch(&self, no: u32) {
        let page = self.mapping.page(no);
        #[cfg(target_arch = "x86_64")]
        for line in (0..PAGE_BYTES).step_by(64) {
            use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
            // SAFETY: the instruction reads nothing that the program could see, and faults nowhere; the line lies in a
            // mapped page.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(page.add(line).cast()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = page;
    }

    /// The bytes of a run that the caller reached from a root it holds.
    #[inline]
    pub fn run(&self, run: RunRef) -> &[u8] {
        let base = self.side_by_side(run.page, run.pages());
        // SAFETY: `side_by_side` has seen that the run's pages are mapped side by side; points 2 and 4 as above.
        unsafe { std::slice::from_raw_parts(base.add(RUN_HEADER_BYTES), run.len as usize) }
    }

    /// The address of `no`, having seen that `pages` pages follow it in memory.
    #[inline]
    fn side_by_side(&self, no: u32, pages: u32) -> *mut u8 {
        let base = self.mapping.page(no);
        let chunk = self.mapping.chunk_pages();
        assert!(no % chunk + pages <= chunk, "{pages} pages from {no} on lie within one chunk");
        base
    }

    /// Whether a page that a meta names looks like one of a tree at all.
    pub fn is_node(&self, no: u32) -> bool {
        matches!(self.node(no).kind(), LEAF | BRANCH)
    }

    /// Kind and page count of what begins at `no`, from its header: for the checkpoint and `verify`.
    pub fn kind_and_pages(&self, no: u32) -> (u8, u32) {
        let body = self.node(no).body;
        match body[0] {
            RUN => (RUN, u32_at(body, 4)),
            kind => (kind, 1),
        }
    }

    /// For a run's first page: what its header says of it.
    pub fn run_header(&self, no: u32) -> RunRef {
        let body = self.node(no).body;
        RunRef { page: no, len: u32_at(body, 8) }
    }

    /// Stamps the page or run at `no` and returns its length in pages. Only the one running checkpoint calls this,
    /// for what its cut reaches.
    pub fn stamp(&self, no: u32, sequence: u64) -> u32 {
        let (kind, pages) = self.kind_and_pages(no);
        assert!(matches!(kind, LEAF | BRANCH | RUN), "page {no} of a cut has kind {kind}");
        let len = if kind == RUN { self.run_header(no).len as usize + RUN_HEADER_BYTES } else { PAGE_BYTES };
        assert!(pages as usize == len.div_ceil(PAGE_BYTES), "page {no}: a run's header agrees with itself");
        let base = self.side_by_side(no, pages);
        // SAFETY: point 4: the first 16 bytes belong to this thread, and no slice covers them now.
        unsafe {
            base.add(4).cast::<[u8; 4]>().write(no.to_le_bytes());
            base.add(8).cast::<[u8; 8]>().write(sequence.to_le_bytes());
        }
        // SAFETY: points 1, 2 and 4; the pages lie side by side.
        let crc = base::crc32c(unsafe { std::slice::from_raw_parts(base.add(4), len - 4) });
        // SAFETY: as for the other parts of the stamp; the slice above is gone.
        unsafe { base.cast::<[u8; 4]>().write(crc.to_le_bytes()) };
        pages
    }

    /// The whole memory of pages that the running checkpoint has stamped, for writing.
    pub fn stamped(&self, no: u32, pages: u32) -> &[u8] {
        let base = self.side_by_side(no, pages);
        // SAFETY: points 1, 2 and 4; a page is stamped once in a checkpoint, and that was before.
        unsafe { std::slice::from_raw_parts(base, pages as usize * PAGE_BYTES) }
    }

    /// Whether the stamp of a page or run that no checkpoint is writing says its number and its checksum.
    pub fn stamp_holds(&self, no: u32) -> bool {
        let (kind, pages) = self.kind_and_pages(no);
        let len = if kind == RUN { self.run_header(no).len as usize + RUN_HEADER_BYTES } else { PAGE_BYTES };
        if pages as usize != len.div_ceil(PAGE_BYTES) {
            return false;
        }
        let base = self.side_by_side(no, pages);
        // SAFETY: points 1 and 2; the caller sees to it that no checkpoint is writing this stamp.
        let bytes = unsafe { std::slice::from_raw_parts(base, len) };
        u32_at(bytes, 4) == no && u32_at(bytes, 0) == base::crc32c(&bytes[4..])
    }
}

/// Changes pages of the open batch. One per store.
pub(crate) struct PageWriter {
    space: Arc<Space>,
}

impl PageWriter {
    pub fn new(space: Arc<Space>) -> PageWriter {
        PageWriter { space }
    }

    pub fn space(&self) -> &Space {
        &self.space
    }

    /// The body of a page that was born in batch `born`, for change.
    #[inline]
    pub fn body(&mut self, no: u32, born: u64) -> &mut Body {
        assert!(self.space.node(no).born() == born, "page {no} is published and so immutable");
        // SAFETY: points 1, 3 and 4: no one else knows the page, and `&mut self` makes this the only slice of it.
        unsafe { &mut *self.space.mapping.page(no).add(STAMP_BYTES).cast::<Body>() }
    }

    /// The same, with the space beside it for reading runs: keys that do not stand in the page itself.
    #[inline]
    pub fn body_and_space(&mut self, no: u32, born: u64) -> (&mut Body, &Space) {
        assert!(self.space.node(no).born() == born, "page {no} is published and so immutable");
        // SAFETY: points 1, 3 and 4, as in `body`. The space yields slices of this body only through its number,
        // which the caller does not use while it holds the body.
        let body = unsafe { &mut *self.space.mapping.page(no).add(STAMP_BYTES).cast::<Body>() };
        (body, &self.space)
    }

    /// Makes a page just allocated an empty node of the open batch.
    pub fn format(&mut self, no: u32, kind: u8, level: u8, born: u64) -> &mut Body {
        // SAFETY: points 1 and 4; an allocated page is reachable from no root (law 6), so `&mut self` is alone.
        let body = unsafe { &mut *self.space.mapping.page(no).add(STAMP_BYTES).cast::<Body>() };
        edit::format(body, kind, level, born);
        body
    }

    /// Makes a published page part of the open batch as it stands. The caller knows that no one can reach it: no pin
    /// stands and none can come (the gate of [`crate::pins`]), no checkpoint has it.
    pub fn adopt(&mut self, no: u32, born: u64) {
        assert!(self.space.node(no).born() < born, "page {no} is of an earlier batch");
        // SAFETY: points 1 and 4, and the caller's word takes the place of point 3: without pins nobody reads the
        // published root, so `&mut self` makes this the only slice of the page.
        let body = unsafe { &mut *self.space.mapping.page(no).add(STAMP_BYTES).cast::<Body>() };
        edit::set_born(body, born);
    }

    /// Copies a published page into one just allocated, which so becomes part of the open batch.
    pub fn copy(&mut self, from: u32, to: u32, born: u64) {
        assert!(from != to, "a page is not copied onto itself");
        // SAFETY: as in `format`.
        let new = unsafe { &mut *self.space.mapping.page(to).add(STAMP_BYTES).cast::<Body>() };
        let old = self.space.node(from);
        let (slots, cells) = (HEADER_BYTES + old.count() * SLOT_BYTES, old.cells());
        new[..slots].copy_from_slice(&old.body[..slots]);
        new[cells..].copy_from_slice(&old.body[cells..]);
        edit::set_born(new, born);
    }

    /// Copies a run into pages just allocated.
    pub fn copy_run(&mut self, from: RunRef, to: RunRef) {
        assert!(from.len == to.len && from.page != to.page, "a run is copied whole");
        let bytes: *const [u8] = self.space.run(from);
        // SAFETY: points 1 and 2: the old run is reachable and immutable; it does not overlap pages just allocated.
        self.fill_run(to, unsafe { &*bytes });
    }

    /// Fills a run just allocated.
    pub fn fill_run(&mut self, run: RunRef, bytes: &[u8]) {
        assert!(bytes.len() == run.len as usize, "a run is filled whole");
        let base = self.space.side_by_side(run.page, run.pages());
        let mut header = [0u8; RUN_HEADER_BYTES - STAMP_BYTES];
        header[0] = RUN;
        header[4..8].copy_from_slice(&run.pages().to_le_bytes());
        header[8..12].copy_from_slice(&run.len.to_le_bytes());
        // SAFETY: as in `format`, for all pages of the run, which `side_by_side` has seen to lie side by side.
        let memory =
            unsafe { std::slice::from_raw_parts_mut(base.add(STAMP_BYTES), header.len() + bytes.len()) };
        memory[..header.len()].copy_from_slice(&header);
        memory[header.len()..].copy_from_slice(bytes);
    }
}
