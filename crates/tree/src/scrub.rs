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
//! A pass takes each tree as far as it reached when the pass came to it: what is appended to it meanwhile is for the next one,
//! so that a pass ends under any load.
//!
//! Must not change anything; must not read faster than it is asked to, one value's run aside.

use std::cmp::Ordering;
use std::sync::Arc;

use disk::{AlignedBuf, File};

use crate::TreeId;
use crate::meta::{Meta, SLOTS, Slot};
use crate::node::*;
use crate::order::Order;
use crate::pins::TreeRoot;
use crate::store::Store;
use crate::walk::check_layout;

/// One read of a run, bytes.
const READ_BYTES: usize = 1 << 20;

/// Where a step goes on: in the leaf of this tree whose range holds the key, at the key; or at the tree's begin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Place {
    tree: TreeId,
    key: Option<Vec<u8>>,
    /// Where the last leaf of the tree began when the pass came to it.
    last: Option<Vec<u8>>,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrubError {
    /// The page, and in what way.
    pub what: String,
    /// The device said so itself.
    pub unreadable: bool,
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
    /// A start found the bitmap damaged and does without it.
    without_bitmap: bool,
}

/// A step that has ended; for [`Store::scrub_done`].
#[derive(Debug)]
pub struct ScrubDone {
    sequence: u64,
    pages: u64,
    next: Option<Place>,
    found: Option<ScrubError>,
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
        let without_bitmap = self.report.bitmap_rebuilt.is_some() && self.report.sequence == sequence;
        Some(ScrubJob { file, sequence, from: self.scrub.next.clone(), pages, without_bitmap })
    }

    /// Takes note of a step: the pages that the whole pass has read, where it has ended with this step. The error says
    /// which durable page is not what was written to it.
    pub fn scrub_done(&mut self, done: ScrubDone) -> Result<Option<u64>, ScrubError> {
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
        let mut step =
            Step { file: &*self.file, limit: SLOTS, chunk_pages: 1, pages: 0, most: self.pages.into() };
        let result = step.run(self.sequence, self.from, self.without_bitmap);
        let (next, found) = match result {
            Ok(next) => (next, None),
            Err(found) => (None, Some(found)),
        };
        ScrubDone { sequence: self.sequence, pages: step.pages, next, found }
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
    /// Pages of leaves and values read, and to read at most. The way down to them is not counted.
    pages: u64,
    most: u64,
}

type Found<T> = Result<T, ScrubError>;

fn at(no: u32) -> String {
    format!("page {no}, at offset {}", u64::from(no) * PAGE_BYTES as u64)
}

fn wrong<T>(no: u32, what: &str) -> Found<T> {
    Err(ScrubError { what: format!("{}: {what}", at(no)), unreadable: false })
}

impl Step<'_> {
    fn run(&mut self, sequence: u64, from: Option<Place>, without_bitmap: bool) -> Found<Option<Place>> {
        let meta = self.meta(sequence)?;
        self.limit = meta.pages;
        self.chunk_pages = (meta.chunk_bytes / PAGE_BYTES as u64) as u32;
        if from.is_none() && !without_bitmap {
            self.bitmap(&meta)?;
        }
        let mut place = from.unwrap_or_default();
        while place.tree < meta.trees.len() {
            if self.is_full() {
                return Ok(Some(place));
            }
            let name = String::from_utf8_lossy(&meta.trees[place.tree].name).into_owned();
            place = self
                .leaves(&meta, place)
                .map_err(|found| ScrubError { what: format!("tree {name}, {}", found.what), ..found })?;
        }
        Ok(None)
    }

    fn is_full(&self) -> bool {
        self.pages >= self.most
    }

    fn bytes(&mut self, no: u32, pages: u32) -> Found<AlignedBuf> {
        let mut buf = AlignedBuf::zeroed(pages as usize * PAGE_BYTES);
        match self.file.read_at(u64::from(no) * PAGE_BYTES as u64, &mut buf) {
            Ok(()) => Ok(buf),
            Err(error) => {
                Err(ScrubError { what: format!("{} cannot be read: {error}", at(no)), unreadable: true })
            }
        }
    }

    fn meta(&mut self, sequence: u64) -> Found<Meta> {
        let slot = (sequence % u64::from(SLOTS)) as u32;
        let block = self.bytes(slot, 1)?;
        match Meta::decode(&block, slot) {
            Slot::Valid(meta) if meta.sequence == sequence && meta.pages > 0 => Ok(*meta),
            _ => wrong(slot, &format!("is not the meta of checkpoint {sequence}, which was complete")),
        }
    }

    fn bitmap(&mut self, meta: &Meta) -> Found<()> {
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

    fn inside(&self, no: u32, pages: u32) -> Found<()> {
        let end = u64::from(no) + u64::from(pages);
        let inside = no >= SLOTS && end <= u64::from(self.limit);
        if !inside || no / self.chunk_pages != (end - 1) as u32 / self.chunk_pages {
            return wrong(no, &format!("{pages} pages do not lie in the file and one chunk"));
        }
        Ok(())
    }

    fn stamp(&self, no: u32, bytes: &[u8], crc: u32) -> Found<()> {
        if u32_at(bytes, 4) != no || u32_at(bytes, 0) != crc {
            return wrong(no, "the checksum is not that of the page");
        }
        Ok(())
    }

    /// A node, which must be what its parent or the meta says of it.
    fn node(&mut self, no: u32, level: u8, entries: u64) -> Found<Page> {
        self.inside(no, 1)?;
        let page = Page(self.bytes(no, 1)?);
        self.pages += u64::from(level == 0);
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
    fn run_of(&mut self, run: RunRef, wanted: bool) -> Found<Vec<u8>> {
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

    fn key(&mut self, key: Payload) -> Found<Vec<u8>> {
        match key {
            Payload::Inline(bytes) => Ok(bytes.to_vec()),
            Payload::Run(run) => self.run_of(run, true),
        }
    }

    /// The runs that a leaf's entries from `from` on name. The key of the entry to go on with, where they were too many.
    fn runs(&mut self, order: Order, leaf: &Page, from: Option<&[u8]>) -> Found<Option<Vec<u8>>> {
        let (node, mut read) = (leaf.node(), false);
        for i in 0..node.count() {
            let runs = [node.key(i).run(), node.value(i).run()];
            if runs == [None, None] {
                continue;
            }
            let key = self.key(node.key(i))?;
            if from.is_some_and(|from| order.compare(&key, from) == Ordering::Less) {
                continue;
            }
            if read && self.is_full() {
                return Ok(Some(key));
            }
            read = true;
            self.pages += runs.iter().flatten().map(|run| u64::from(run.pages())).sum::<u64>();
            if let [_, Some(value)] = runs {
                self.run_of(value, false)?;
            }
        }
        Ok(None)
    }

    /// The child to go on with for `place`, and the key at which the one behind it begins.
    fn route(&mut self, order: Order, node: Node, place: &Place) -> Found<(usize, Option<Vec<u8>>)> {
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

    /// Where the last leaf begins; `None` where it is the first one too.
    fn last(&mut self, root: TreeRoot) -> Found<Option<Vec<u8>>> {
        let (mut no, mut entries, mut last) = (root.page, root.entries, None);
        for level in (1..=root.level).rev() {
            let page = self.node(no, level, entries)?;
            let node = page.node();
            let child = node.count() - 1;
            if child > 0 {
                last = Some(self.key(node.key(child))?);
            }
            (no, entries) = (node.child(child), node.entries(child));
        }
        Ok(last)
    }

    /// Reads the leaves from `place` on that have one parent; where to go on.
    fn leaves(&mut self, meta: &Meta, mut place: Place) -> Found<Place> {
        let tree = &meta.trees[place.tree];
        let (order, root) = (Order { suffix: usize::from(tree.suffix) }, tree.root);
        let behind = Place { tree: place.tree + 1, ..Place::default() };
        if root.page == 0 {
            return Ok(behind);
        }
        if place.key.is_none() {
            place.last = self.last(root)?;
        }
        let is_new =
            |key: &[u8]| place.last.as_ref().is_none_or(|last| order.compare(key, last) == Ordering::Greater);
        let (mut no, mut entries, mut next) = (root.page, root.entries, None);
        for level in (2..=root.level).rev() {
            let page = self.node(no, level, entries)?;
            let node = page.node();
            let (child, key) = self.route(order, node, &place)?;
            next = key.or(next);
            (no, entries) = (node.child(child), node.entries(child));
        }
        if root.level == 0 {
            let leaf = self.node(no, 0, entries)?;
            let cut = self.runs(order, &leaf, place.key.as_deref())?;
            return Ok(cut.map_or(behind, |key| Place { key: Some(key), ..place }));
        }
        let page = self.node(no, 1, entries)?;
        let node = page.node();
        let (first, _) = self.route(order, node, &place)?;
        for i in first..node.count() {
            if i > first {
                let key = self.key(node.key(i))?;
                if is_new(&key) {
                    return Ok(behind);
                }
                if self.is_full() {
                    return Ok(Place { key: Some(key), ..place });
                }
            }
            let leaf = self.node(node.child(i), 0, node.entries(i))?;
            let from = if i == first { place.key.as_deref() } else { None };
            if let Some(key) = self.runs(order, &leaf, from)? {
                return Ok(Place { key: Some(key), ..place });
            }
        }
        match next {
            Some(key) if !is_new(&key) => Ok(Place { key: Some(key), ..place }),
            _ => Ok(behind),
        }
    }
}
