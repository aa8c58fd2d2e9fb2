//! Reads what the newest durable meta reaches back from the device, some pages at a time, so that rot is found before
//! somebody needs the page.
//!
//! A step reads the file and not the mapping: memory says nothing of the device, and reading there would fill it with
//! pages that nobody asked for. It trusts nothing that it reads: each number is checked before it is used.
//!
//! Invariant: neither the newest meta nor what it reaches is written while it is the newest (law 6; the next checkpoint takes
//! the other slot), so a step needs no pin. What it found counts only if the meta was still the newest when the step had
//! ended ([`Store::scrub_done`]).
//!
//! Must not change anything; must not read faster than it is asked to, a value's run aside.

use std::cmp::Ordering;
use std::sync::Arc;

use disk::{AlignedBuf, File};

use crate::TreeId;
use crate::meta::{Meta, SLOTS, Slot};
use crate::node::*;
use crate::order::Order;
use crate::store::Store;
use crate::walk::check_layout;

/// One read of a run, bytes.
const READ_BYTES: usize = 1 << 20;

/// Where a step goes on: at the leaf of this tree whose range holds the key, or at the tree's first.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    tree: TreeId,
    key: Option<Vec<u8>>,
}

/// How far the pass under way has come.
#[derive(Default)]
pub(crate) struct Pass {
    /// `None`: at its begin.
    next: Option<Place>,
    underway: bool,
    pages: u64,
}

/// One step, for a thread that may block.
#[must_use = "while a step is not run and reported there is no other"]
pub struct ScrubJob {
    file: Arc<dyn File>,
    sequence: u64,
    from: Option<Place>,
    pages: u32,
}

/// A step that has ended; for [`Store::scrub_done`].
#[derive(Debug)]
pub struct ScrubDone {
    sequence: u64,
    pages: u64,
    next: Option<Place>,
    /// What is wrong, and where.
    found: Option<String>,
}

impl Store {
    /// A step that reads about so many pages; `None` while one is under way.
    pub fn scrub_job(&mut self, pages: u32) -> Option<ScrubJob> {
        assert!(pages > 0, "a step reads something");
        if self.scrub.underway {
            return None;
        }
        self.scrub.underway = true;
        let file = self.space().mapping().file().clone();
        let sequence = self.checkpoints.newer_sequence();
        Some(ScrubJob { file, sequence, from: self.scrub.next.clone(), pages })
    }

    /// Takes note of a step: the pages that the whole pass has read, where it has ended with this step. The error says
    /// which durable page is not what was written to it.
    pub fn scrub_done(&mut self, done: ScrubDone) -> Result<Option<u64>, String> {
        assert!(self.scrub.underway, "a step was asked for");
        self.scrub.underway = false;
        if done.sequence != self.checkpoints.newer_sequence() && !base::bug!(StaleScrubCounts) {
            // Its slot may be the next one's by now, and after that its pages are free. The next step reads the same.
            return Ok(None);
        }
        if let Some(found) = done.found {
            return Err(found);
        }
        self.scrub.pages += done.pages;
        self.scrub.next = done.next;
        let ended = self.scrub.next.is_none();
        Ok(ended.then(|| std::mem::take(&mut self.scrub.pages)))
    }
}

impl ScrubJob {
    /// Blocks for as long as the device takes.
    pub fn run(self) -> ScrubDone {
        let mut step = Step { file: &*self.file, limit: SLOTS, chunk_pages: 1, read: 0 };
        let result = step.run(self.sequence, self.from, u64::from(self.pages));
        let (next, found) = match result {
            Ok(next) => (next, None),
            Err(found) => (None, Some(found)),
        };
        ScrubDone { sequence: self.sequence, pages: step.read, next, found }
    }
}

/// A page as the device has it.
struct Page(AlignedBuf);

impl Page {
    fn node(&self) -> Node<'_> {
        Node { body: self.0[STAMP_BYTES..PAGE_BYTES].try_into().expect("a page is a stamp and a body") }
    }
}

struct Step<'a> {
    file: &'a dyn File,
    /// Of the meta: all pages in use are below, and no run crosses a border of chunks.
    limit: u32,
    chunk_pages: u32,
    /// Pages read.
    read: u64,
}

fn at(no: u32) -> String {
    format!("page {no}, at offset {}", u64::from(no) * PAGE_BYTES as u64)
}

fn wrong<T>(no: u32, what: &str) -> Result<T, String> {
    Err(format!("{}: {what}", at(no)))
}

impl Step<'_> {
    fn run(&mut self, sequence: u64, from: Option<Place>, pages: u64) -> Result<Option<Place>, String> {
        let meta = self.meta(sequence)?;
        self.limit = meta.pages;
        self.chunk_pages = (meta.chunk_bytes / PAGE_BYTES as u64) as u32;
        let mut place = match from {
            Some(place) => place,
            None => {
                self.bitmap(&meta)?;
                Place { tree: 0, key: None }
            }
        };
        while place.tree < meta.trees.len() {
            if self.read > pages {
                return Ok(Some(place));
            }
            let name = String::from_utf8_lossy(&meta.trees[place.tree].name).into_owned();
            place = self.leaves(&meta, place, pages).map_err(|what| format!("tree {name}, {what}"))?;
        }
        Ok(None)
    }

    fn bytes(&mut self, no: u32, pages: u32) -> Result<AlignedBuf, String> {
        let mut buf = AlignedBuf::zeroed(pages as usize * PAGE_BYTES);
        self.read += u64::from(pages);
        match self.file.read_at(u64::from(no) * PAGE_BYTES as u64, &mut buf) {
            Ok(()) => Ok(buf),
            Err(error) => wrong(no, &format!("cannot be read: {error}")),
        }
    }

    fn meta(&mut self, sequence: u64) -> Result<Meta, String> {
        let slot = (sequence % u64::from(SLOTS)) as u32;
        let block = self.bytes(slot, 1)?;
        match Meta::decode(&block, slot) {
            Slot::Valid(meta) if meta.sequence == sequence && meta.pages > 0 => Ok(*meta),
            _ => wrong(slot, &format!("is not the meta of checkpoint {sequence}, which was complete")),
        }
    }

    fn bitmap(&mut self, meta: &Meta) -> Result<(), String> {
        let bitmap = meta.bitmap;
        if bitmap.pages == 0 {
            return Ok(());
        }
        self.inside(bitmap.page, bitmap.pages)?;
        let bytes = self.bytes(bitmap.page, bitmap.pages)?;
        match base::crc32c(&bytes) == meta.bitmap_crc {
            true => Ok(()),
            false => wrong(bitmap.page, "the checksum is not that of the bitmap"),
        }
    }

    fn inside(&self, no: u32, pages: u32) -> Result<(), String> {
        let end = u64::from(no) + u64::from(pages);
        let inside = no >= SLOTS && end <= u64::from(self.limit);
        if !inside || no / self.chunk_pages != (end - 1) as u32 / self.chunk_pages {
            return wrong(no, &format!("{pages} pages do not lie in the file and one chunk"));
        }
        Ok(())
    }

    fn stamp(&self, no: u32, bytes: &[u8], crc: u32) -> Result<(), String> {
        if u32_at(bytes, 4) != no || u32_at(bytes, 0) != crc {
            return wrong(no, "the checksum is not that of the page");
        }
        Ok(())
    }

    /// A node, which must be what its parent or the meta says of it.
    fn node(&mut self, no: u32, level: u8, entries: u64) -> Result<Page, String> {
        self.inside(no, 1)?;
        let page = Page(self.bytes(no, 1)?);
        self.stamp(no, &page.0, base::crc32c(&page.0[4..]))?;
        let node = page.node();
        let kind = if level == 0 { LEAF } else { BRANCH };
        if (node.kind(), node.level()) != (kind, level) {
            let found =
                format!("kind {} level {} where {kind} at {level} belongs", node.kind(), node.level());
            return wrong(no, &found);
        }
        if let Err(what) = check_layout(node) {
            return wrong(no, &what);
        }
        if node.count() == 0 || node.total() != entries {
            return wrong(no, &format!("{} entries where there are {entries}", node.total()));
        }
        Ok(page)
    }

    /// Checks a run, piece by piece; its bytes if they are wanted.
    fn value(&mut self, run: RunRef, wanted: bool) -> Result<Vec<u8>, String> {
        self.inside(run.page, run.pages())?;
        let (mut kept, mut first, mut crc) = (Vec::new(), [0; RUN_HEADER_BYTES], 0);
        let (mut no, mut left) = (run.page, run.len as usize + RUN_HEADER_BYTES);
        while left > 0 {
            let pages = left.min(READ_BYTES).div_ceil(PAGE_BYTES) as u32;
            let bytes = self.bytes(no, pages)?;
            let len = left.min(bytes.len());
            let begin = if no == run.page { RUN_HEADER_BYTES } else { 0 };
            if no == run.page {
                first.copy_from_slice(&bytes[..RUN_HEADER_BYTES]);
                crc = base::crc32c(&bytes[4..len]);
            } else {
                crc = base::crc32c_append(crc, &bytes[..len]);
            }
            if wanted {
                kept.extend_from_slice(&bytes[begin..len]);
            }
            no += pages;
            left -= len;
        }
        self.stamp(run.page, &first, crc)?;
        let header = &first[STAMP_BYTES..];
        if header[0] != RUN || u32_at(header, 4) != run.pages() || u32_at(header, 8) != run.len {
            return wrong(run.page, &format!("the header is not that of a run of {} bytes", run.len));
        }
        Ok(kept)
    }

    fn key(&mut self, key: Payload) -> Result<Vec<u8>, String> {
        match key {
            Payload::Inline(bytes) => Ok(bytes.to_vec()),
            Payload::Run(run) => self.value(run, true),
        }
    }

    fn runs_of_leaf(&mut self, leaf: &Page) -> Result<(), String> {
        let node = leaf.node();
        for i in 0..node.count() {
            for run in [node.key(i).run(), node.value(i).run()].into_iter().flatten() {
                self.value(run, false)?;
            }
        }
        Ok(())
    }

    /// The child to go on with for `place`, and the key at which the one behind it begins.
    fn route(&mut self, order: Order, node: Node, place: &Place) -> Result<(usize, Option<Vec<u8>>), String> {
        let mut child = 0;
        for i in 1..node.count() {
            let key = self.key(node.key(i))?;
            match &place.key {
                Some(sought) if order.compare(&key, sought) != Ordering::Greater => child = i,
                _ => return Ok((child, Some(key))),
            }
        }
        Ok((child, None))
    }

    /// Reads the leaves from `place` on that have one parent; where to go on.
    fn leaves(&mut self, meta: &Meta, place: Place, pages: u64) -> Result<Place, String> {
        let tree = &meta.trees[place.tree];
        let (order, root) = (Order { suffix: usize::from(tree.suffix) }, tree.root);
        let mut behind = Place { tree: place.tree + 1, key: None };
        if root.page == 0 {
            return Ok(behind);
        }
        let (mut no, mut entries) = (root.page, root.entries);
        for level in (1..=root.level).rev() {
            let page = self.node(no, level, entries)?;
            let node = page.node();
            let (child, next) = self.route(order, node, &place)?;
            if level > 1 {
                if let Some(key) = next {
                    behind = Place { tree: place.tree, key: Some(key) };
                }
                (no, entries) = (node.child(child), node.entries(child));
                continue;
            }
            for i in child..node.count() {
                if i > child {
                    let key = self.key(node.key(i))?;
                    if self.read > pages {
                        return Ok(Place { tree: place.tree, key: Some(key) });
                    }
                }
                let leaf = self.node(node.child(i), 0, node.entries(i))?;
                self.runs_of_leaf(&leaf)?;
            }
            return Ok(behind);
        }
        let leaf = self.node(no, 0, entries)?;
        self.runs_of_leaf(&leaf)?;
        Ok(behind)
    }
}
