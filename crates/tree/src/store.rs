//! The writer: insert, replace, take, remove, publish. One per data file; owned by the thread that applies.
//!
//! A batch is everything since the last [`Store::publish`]. Pages born in it are changed in place, all others are
//! copied first, from the root down ([`Store::own_path`]); so a reader's root never changes under it (law 6). Where the
//! readers share the writer's thread ([`Store::share_thread`]) and none of them holds a pin, pages born after the last
//! cut are changed in place too: nobody can look at them before the batch is published, and no meta reaches them. Space
//! is reserved before ([`Store::reserve`], law 8): nothing here fails.
//!
//! Must not know what keys and values mean, nor when to publish, cut or reserve.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};

use disk::Mapping;

use crate::checkpoint::Checkpoints;
use crate::edit;
use crate::node::*;
use crate::open::OpenReport;
use crate::order::{Order, TreeSpec};
use crate::pages::{Extent, Holders, Pages};
use crate::pins::{Readers, Root};
use crate::space::{PageWriter, Space};
use crate::view::{LEVELS_MAX, View};
use crate::{Options, Stamp, TreeId};

/// There is no room for what was asked; nothing has changed.
#[derive(Debug)]
pub struct NoSpace {
    /// Bytes that were to be there, the reserve included.
    pub wanted_bytes: u64,
    /// They are, but not so many side by side; 0: they are not.
    pub run_bytes: u64,
    pub source: io::Error,
}

impl NoSpace {
    /// The device is full, or the file as long as it can be: the one I/O error that is an answer. Any other is the
    /// caller's to end the process with (law 8).
    pub fn is_for_room(&self) -> bool {
        disk::is_no_space(&self.source)
    }

    /// The device is full, and others may make room on it.
    pub fn is_of_device(&self) -> bool {
        self.is_for_room() && disk::errno(&self.source).is_some()
    }
}

impl std::fmt::Display for NoSpace {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let NoSpace { wanted_bytes, run_bytes, source } = self;
        match run_bytes {
            0 => write!(out, "the data file cannot grow to have {wanted_bytes} bytes free: {source}"),
            _ => write!(out, "the data file has no {run_bytes} bytes side by side and cannot grow: {source}"),
        }
    }
}

impl std::error::Error for NoSpace {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// What [`Store::make_room`] is asked for, bytes of page space.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    pub bytes: u64,
    /// So much of it side by side.
    pub run_bytes: u64,
    /// Stays free beyond `bytes`.
    pub keep_bytes: u64,
}

/// Grows the file, which may block; the store notices by itself when it is done.
pub struct GrowJob {
    mapping: Arc<Mapping>,
    pages: u32,
    /// There was no room. Also says that the job is under way.
    refused: Arc<AtomicBool>,
}

impl GrowJob {
    /// That there is no room is no more than a hint: [`Store::reserve`] tries for itself and answers. Any other error
    /// is for the caller to end the process with (law 8).
    pub fn run(self) -> io::Result<()> {
        self.mapping.grow(self.pages).inspect_err(|error| {
            if disk::is_no_space(error) {
                self.refused.store(true, Relaxed);
            }
        })
    }
}

/// A value that was taken out of a tree and has an owner again only after [`Store::insert_taken`] or
/// [`Store::discard`], before the batch is published. A value in a page run moves without its bytes being touched.
#[derive(Debug)]
#[must_use = "a taken value is put back or discarded before the batch is published"]
pub struct Taken {
    value: TakenValue,
}

#[derive(Debug)]
enum TakenValue {
    Copied(Vec<u8>),
    Run(RunRef),
}

/// The way from the root to a leaf.
#[derive(Clone, Copy)]
pub(crate) struct Path {
    pub page: [u32; LEVELS_MAX],
    pub at: [u16; LEVELS_MAX],
    pub depth: usize,
}

impl Path {
    pub fn leaf(&self) -> u32 {
        self.page[self.depth - 1]
    }
}

pub struct Store {
    pub(crate) readers: base::sync::Arc<Readers>,
    pub(crate) writer: PageWriter,
    pub(crate) pages: Pages,
    /// The open batch: its number is that of the publication it will be.
    pub(crate) working: Root,
    /// Something was changed since the last publication.
    pub(crate) touched: bool,
    taken_out: usize,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) bandwidth: Arc<AtomicU64>,
    pub(crate) options: Options,
    pub(crate) report: OpenReport,
    /// A drop is under way.
    pub(crate) dropping: bool,
    /// The window that the next drop looks at first.
    pub(crate) drop_hand: u32,
    /// Held by a growth job under way; true when one has found no room.
    pub(crate) growing: Arc<AtomicBool>,
    /// Held by populate jobs under way.
    pub(crate) populating: Arc<()>,
    pub(crate) shrink: Option<crate::shrink::Pass>,
    pub(crate) scrub: crate::scrub::Pass,
    /// What [`Store::make_room`] has promised last: a drop or a shorter file leaves it, and all of the reserve.
    pub(crate) promised: Room,
    /// The readers of the cores run on the writer's thread.
    thread_shared: bool,
    /// Whether this batch changes in place what only the published root reaches; decided when it first matters.
    in_place: Option<bool>,
    cell: Vec<u8>,
    spare: Vec<Vec<u8>>,
}

impl Store {
    pub(crate) fn assemble(
        space: Arc<Space>,
        specs: &'static [TreeSpec],
        published: Root,
        pages: Pages,
        checkpoints: Checkpoints,
        options: Options,
        report: OpenReport,
    ) -> Store {
        let mut working = published.clone();
        working.publication += 1;
        Store {
            readers: base::sync::Arc::new(Readers::new(space.clone(), specs, published)),
            writer: PageWriter::new(space),
            pages,
            working,
            touched: false,
            taken_out: 0,
            checkpoints,
            bandwidth: Arc::new(AtomicU64::new(0)),
            options,
            report,
            dropping: false,
            drop_hand: 0,
            growing: Arc::new(AtomicBool::new(false)),
            populating: Arc::new(()),
            shrink: None,
            scrub: Default::default(),
            promised: Room { bytes: 0, run_bytes: 0, keep_bytes: 0 },
            thread_shared: false,
            in_place: None,
            cell: Vec::new(),
            spare: Vec::new(),
        }
    }

    /// What readers on other threads start from.
    pub fn readers(&self) -> base::sync::Arc<Readers> {
        self.readers.clone()
    }

    /// What `open` found.
    pub fn report(&self) -> &OpenReport {
        &self.report
    }

    /// The open batch as it stands, unpublished changes included.
    #[inline]
    pub fn view(&self) -> View<'_> {
        View::new(&self.readers, &self.working)
    }

    pub fn stamp(&self) -> &Stamp {
        &self.working.stamp
    }

    pub fn set_stamp(&mut self, stamp: Stamp) {
        self.touched = true;
        self.working.stamp = stamp;
    }

    /// Pages that the next checkpoint must write, bytes.
    pub fn dirty_bytes(&self) -> u64 {
        self.pages.dirty.count() * PAGE_BYTES as u64
    }

    /// The file up to the last page that was ever used, bytes; what lies reserved behind it is not counted.
    pub fn file_bytes(&self) -> u64 {
        u64::from(self.pages.frontier()) * PAGE_BYTES as u64
    }

    /// Pages that the current content occupies, bytes.
    pub fn used_bytes(&self) -> u64 {
        self.pages.live.count() * PAGE_BYTES as u64
    }

    /// The file's length with the room reserved ahead, bytes.
    pub fn allocated_bytes(&self) -> u64 {
        u64::from(self.space().mapping().pages()) * PAGE_BYTES as u64
    }

    /// Pages superseded and not yet reusable, bytes: high while a snapshot is held or no checkpoint runs.
    pub fn waiting_bytes(&self) -> u64 {
        self.pages.waiting_pages() * PAGE_BYTES as u64
    }

    /// The file grows by so much, bytes.
    pub fn chunk_bytes(&self) -> u64 {
        u64::from(self.pages.chunk()) * PAGE_BYTES as u64
    }

    /// Chunks that the file would have to grow by for so much room, at least one.
    pub fn chunks_short(&self, room: Room) -> u64 {
        let short_bytes = (room.bytes + room.keep_bytes).saturating_sub(self.free_bytes());
        short_bytes.max(1).div_ceil(self.chunk_bytes())
    }

    /// Free in the file as the store knows it, whatever was promised, bytes.
    pub fn free_bytes(&self) -> u64 {
        self.pages.free_pages() * PAGE_BYTES as u64
    }

    /// The longest key or value, bytes: one run of pages lies in one chunk. A longer one is the caller's to refuse.
    pub fn longest_bytes(&self) -> usize {
        self.pages.chunk() as usize * PAGE_BYTES - RUN_HEADER_BYTES
    }

    /// Page space that one insertion of a key and value of these lengths can take at most, bytes: a copy of every
    /// page on the way, a split of each, a new root, and the runs. The measure of [`Store::reserve`].
    pub fn insert_cost(&self, tree: TreeId, key_len: usize, value_len: usize) -> u64 {
        let levels = u32::from(self.working.trees[tree].level) + 2;
        let mut pages = 2 * levels + 1;
        if key_len > KEY_INLINE_MAX {
            pages += 2 * run_pages(key_len);
        }
        if LEAF_CELL_BYTES + key_len + value_len > CELL_BYTES_MAX {
            pages += run_pages(value_len);
        }
        u64::from(pages) * PAGE_BYTES as u64
    }

    /// How much of [`Store::insert_cost`] are runs of several pages, which need them side by side, bytes: the measure of
    /// [`Store::hold`].
    pub fn run_cost(&self, key_len: usize, value_len: usize) -> u64 {
        let run = |len: usize| if run_pages(len) > 1 { run_pages(len) } else { 0 };
        // The key, and one as long that separates two pages.
        let key = if key_len > KEY_INLINE_MAX { 2 * run(key_len) } else { 0 };
        u64::from(key + run(value_len)) * PAGE_BYTES as u64
    }

    /// Sees to it that `bytes` of page space are free beyond the standing reserve (`Options::reserve_bytes`), in
    /// one piece if need be: grows the file by whole chunks. After Ok, insertions that cost no more cannot fail. On
    /// error nothing has changed, and deletions and checkpoints still have the reserve (law 8).
    pub fn reserve(&mut self, bytes: u64) -> Result<(), NoSpace> {
        self.make_room(Room { bytes, run_bytes: bytes, keep_bytes: self.options.reserve_bytes })
    }

    /// As [`Store::reserve`], for a caller that knows more: how much must be in one piece, and how much of the
    /// standing reserve is to stay. What gives room back in the end may go below the reserve. `room` is everything that
    /// the caller still owes its own callers: it takes the place of what was promised before. Where it comes to grow the
    /// file it waits for the device, for a checkpoint's sync that is under way too: jobs ([`Store::grow_job`]) keep
    /// that away.
    pub fn make_room(&mut self, room: Room) -> Result<(), NoSpace> {
        self.take_growth();
        let (total, run) = self.pages_of(room);
        while !self.pages.has_room(total, run, false) {
            let short = total.saturating_sub(self.pages.free_pages());
            if let Err(source) = self.grow(short.max(1)) {
                let run_bytes = if short == 0 { room.run_bytes } else { 0 };
                let refused = NoSpace { wanted_bytes: total * PAGE_BYTES as u64, run_bytes, source };
                // A disk that fails is not passed over, whatever room there is (law 8).
                if refused.is_for_room() {
                    self.pages.may_be_full = true;
                    if self.pages.has_room(total, run, true) {
                        break;
                    }
                }
                return Err(refused);
            }
        }
        assert!(self.pages.free_pages() >= total, "what was reserved is there");
        self.promised = room;
        Ok(())
    }

    /// As [`Store::make_room`], in the file as it is; false when it would have to grow.
    pub fn find_room(&mut self, room: Room) -> bool {
        self.take_growth();
        let (total, run) = self.pages_of(room);
        let found = self.pages.has_room(total, run, false) || self.pages.has_room(total, run, true);
        if found {
            self.promised = room;
        }
        found
    }

    /// All of it, and the longest run.
    fn pages_of(&self, room: Room) -> (u64, u32) {
        let total = room.bytes.div_ceil(PAGE_BYTES as u64) + room.keep_bytes.div_ceil(PAGE_BYTES as u64);
        let run = room.run_bytes.div_ceil(PAGE_BYTES as u64).clamp(1, u64::from(self.pages.chunk()));
        (total, u32::try_from(run).expect("at most a chunk"))
    }

    /// What is still to be taken of the room last promised, bytes, beside what is held: less when some was used, or given
    /// up.
    pub fn owes(&mut self, bytes: u64) {
        self.promised = Room { bytes, run_bytes: 0, keep_bytes: 0 };
    }

    /// Free pages that must stay: what was promised, beyond the whole reserve.
    pub(crate) fn owed_pages(&self) -> u64 {
        self.promised.bytes.div_ceil(PAGE_BYTES as u64)
            + self.options.reserve_bytes.div_ceil(PAGE_BYTES as u64)
    }

    /// `Options::reserve_bytes`.
    pub fn reserve_bytes(&self) -> u64 {
        self.options.reserve_bytes
    }

    /// [`Options::ahead_bytes`].
    pub fn ahead_bytes(&self) -> u64 {
        self.options.ahead_bytes()
    }

    /// A job that grows the file before [`Store::reserve`] must: when less than `ahead_bytes` and the reserve are
    /// free. `None` when enough is, or a job was given that has not ended.
    pub fn grow_job(&mut self, ahead_bytes: u64) -> Option<GrowJob> {
        self.take_growth();
        let want = (ahead_bytes + self.options.reserve_bytes).div_ceil(PAGE_BYTES as u64);
        let short = want.saturating_sub(self.pages.free_pages());
        if short == 0 || Arc::strong_count(&self.growing) > 1 {
            return None;
        }
        let pages = self.growth(short).ok()?;
        Some(GrowJob { mapping: self.space().mapping().clone(), pages, refused: self.growing.clone() })
    }

    /// Takes note of pages that a job has added, or found no room for.
    fn take_growth(&mut self) {
        let mapped = self.space().mapping().pages();
        if self.pages.set_mapped(mapped) {
            self.hold_bitmaps();
        }
        if self.growing.swap(false, Relaxed) {
            self.pages.may_be_full = true;
        }
    }

    /// The page count of a mapping with so many more pages, when such a file can be.
    fn growth(&self, pages: u64) -> io::Result<u32> {
        let full = |what: &str| Err(io::Error::new(io::ErrorKind::StorageFull, what.to_owned()));
        let wanted = u64::from(self.space().mapping().pages()) + pages.max(1);
        if wanted.div_ceil(PAGE_BYTES as u64 * 8) > u64::from(self.pages.chunk()) {
            return full("the allocation bitmap of a larger file would not fit a chunk");
        }
        u32::try_from(wanted).or_else(|_| full("page numbers are 32 bits"))
    }

    pub(crate) fn grow(&mut self, pages: u64) -> io::Result<()> {
        let wanted = self.growth(pages)?;
        self.space().mapping().grow(wanted)?;
        self.take_growth();
        Ok(())
    }

    #[inline]
    pub(crate) fn space(&self) -> &Space {
        self.writer.space()
    }

    #[inline]
    pub(crate) fn order(&self, tree: TreeId) -> Order {
        self.readers.order(tree)
    }

    #[inline]
    pub(crate) fn batch(&self) -> u64 {
        self.working.publication
    }

    pub(crate) fn allocate(&mut self, pages: u32) -> u32 {
        if pages > 1
            && let Some(first) = self.pages.allocate_from_hold(pages)
        {
            return first;
        }
        loop {
            if let Some(first) = self.pages.allocate(pages) {
                return first;
            }
            // Reached only by callers that reserved nothing; law 8 asks them to.
            if let Err(error) = self.grow(u64::from(pages)) {
                panic!("the data file cannot grow where space should have been reserved: {error}");
            }
        }
    }

    /// A page for a leaf at the right edge of a tree, where entries are appended: apart from others, so that what was
    /// written once and is not touched again lies together.
    pub(crate) fn allocate_at_edge(&mut self) -> u32 {
        match self.pages.allocate_at_edge() {
            Some(no) => no,
            None => self.allocate(1),
        }
    }

    pub(crate) fn supersede_page(&mut self, no: u32) {
        let unpublished = self.space().node(no).born() == self.batch();
        self.pages.supersede(Extent { page: no, pages: 1 }, unpublished);
    }

    pub(crate) fn supersede_run(&mut self, run: RunRef) {
        // A run does not say when it was born; one of this batch waits for its publication, which costs nothing.
        self.pages.supersede(Extent { page: run.page, pages: run.pages() }, false);
    }

    fn supersede_payload(&mut self, run: Option<RunRef>) {
        if let Some(run) = run {
            self.supersede_run(run);
        }
    }

    /// A new run with these bytes.
    pub(crate) fn store_run(&mut self, bytes: &[u8]) -> RunRef {
        let len = u32::try_from(bytes.len()).expect("requests are far below 4 GiB");
        let mut run = RunRef { page: 0, len };
        run.page = self.allocate(run.pages());
        self.writer.fill_run(run, bytes);
        run
    }

    /// The way to the leaf for `key`, and where in it the key is or would be.
    pub(crate) fn find(&self, tree: TreeId, key: &[u8]) -> (Path, Result<usize, usize>) {
        let root = self.working.trees[tree];
        let mut path =
            Path { page: [0; LEVELS_MAX], at: [0; LEVELS_MAX], depth: usize::from(root.level) + 1 };
        assert!(path.depth <= LEVELS_MAX && root.page != 0, "a tree with entries has a root");
        let probe = Probe::new(self.order(tree), key);
        let space = self.space();
        let mut no = root.page;
        for step in 0..path.depth - 1 {
            let node = space.node(no);
            let at = node.route(space, &probe);
            path.page[step] = no;
            path.at[step] = at as u16;
            no = node.child(at);
        }
        path.page[path.depth - 1] = no;
        let leaf = space.node(no);
        assert!(leaf.level() == 0, "a descent of a tree's height ends at a leaf");
        let found = leaf.find(space, &probe);
        (path, found)
    }

    /// From now on the readers of all cores run on the calling thread, between batches: batches may then be made in
    /// place. Readers of other threads wait while a batch is open, so batches must be short.
    pub fn share_thread(&mut self) {
        assert!(!self.touched, "said between batches");
        self.thread_shared = true;
    }

    /// Something was changed since the last publication.
    pub fn is_touched(&self) -> bool {
        self.touched
    }

    fn edits_in_place(&mut self) -> bool {
        match self.in_place {
            Some(decided) => decided,
            None => {
                // What closes the gate must come to a publication, which opens it.
                self.touched = true;
                *self.in_place.insert(self.thread_shared && self.readers.close())
            }
        }
    }

    /// Makes every page of the path one of the open batch, from the root down: what is published is copied, or, where
    /// nobody can see it, taken over as it is.
    pub(crate) fn own_path(&mut self, tree: TreeId, path: &mut Path) {
        let batch = self.batch();
        if self.space().node(path.leaf()).born() == batch {
            return;
        }
        let in_place = self.edits_in_place();
        for step in 0..path.depth {
            let no = path.page[step];
            if self.space().node(no).born() != batch {
                if in_place && (self.pages.dirty.contains(no) || base::bug!(DurablePageEdited)) {
                    self.writer.adopt(no, batch);
                    continue;
                }
                let edge = step > 0 && step + 1 == path.depth && self.is_right_edge(path, step);
                let new = if edge { self.allocate_at_edge() } else { self.allocate(1) };
                self.move_page(tree, path, step, new);
            }
        }
    }

    /// Copies the page at `step` to `new` and hangs it in; the steps above are of the open batch.
    pub(crate) fn move_page(&mut self, tree: TreeId, path: &mut Path, step: usize, new: u32) {
        let (batch, no) = (self.batch(), path.page[step]);
        self.writer.copy(no, new, batch);
        self.supersede_page(no);
        match step.checked_sub(1) {
            None => self.working.trees[tree].page = new,
            Some(up) => {
                edit::set_child(self.writer.body(path.page[up], batch), usize::from(path.at[up]), new)
            }
        }
        path.page[step] = new;
    }

    /// Inserts `key`, or replaces its value.
    pub fn insert(&mut self, tree: TreeId, key: &[u8], value: &[u8]) {
        let old = self.put(tree, key, Payload::Inline(value), false);
        assert!(old.is_none(), "a plain insertion takes nothing out");
    }

    /// Inserts `key`, or replaces its value and gives the old one.
    pub fn replace(&mut self, tree: TreeId, key: &[u8], value: &[u8]) -> Option<Taken> {
        self.put(tree, key, Payload::Inline(value), true)
    }

    /// Inserts a taken value under `key`, or replaces what is there by it.
    pub fn insert_taken(&mut self, tree: TreeId, key: &[u8], taken: Taken) {
        self.taken_out = self.taken_out.checked_sub(1).expect("a taken value comes back once");
        match taken.value {
            TakenValue::Copied(bytes) => {
                self.insert(tree, key, &bytes);
                self.keep_spare(bytes);
            }
            TakenValue::Run(run) => {
                self.put(tree, key, Payload::Run(run), false);
            }
        }
    }

    /// The bytes of a taken value.
    pub fn taken_bytes<'t>(&'t self, taken: &'t Taken) -> &'t [u8] {
        match &taken.value {
            TakenValue::Copied(bytes) => bytes,
            TakenValue::Run(run) => self.space().run(*run),
        }
    }

    /// Ends a taken value.
    pub fn discard(&mut self, taken: Taken) {
        self.taken_out = self.taken_out.checked_sub(1).expect("a taken value ends once");
        match taken.value {
            TakenValue::Copied(bytes) => self.keep_spare(bytes),
            TakenValue::Run(run) => self.supersede_run(run),
        }
    }

    fn keep_spare(&mut self, mut bytes: Vec<u8>) {
        if self.spare.len() < 8 {
            bytes.clear();
            self.spare.push(bytes);
        }
    }

    /// Takes out the value at `at` of a leaf whose cell is about to go.
    fn take_value(&mut self, leaf: u32, at: usize) -> Taken {
        self.taken_out += 1;
        let mut copied = self.spare.pop().unwrap_or_default();
        let value = match self.space().node(leaf).value(at) {
            Payload::Inline(bytes) => {
                copied.extend_from_slice(bytes);
                TakenValue::Copied(copied)
            }
            Payload::Run(run) => TakenValue::Run(run),
        };
        Taken { value }
    }

    fn put(&mut self, tree: TreeId, key: &[u8], value: Payload, take_old: bool) -> Option<Taken> {
        self.touched = true;
        if self.working.trees[tree].page == 0 {
            let (no, batch) = (self.allocate(1), self.batch());
            self.writer.format(no, LEAF, 0, batch);
            self.working.trees[tree].page = no;
        }
        let (mut path, found) = self.find(tree, key);
        self.own_path(tree, &mut path);
        let (leaf, batch) = (path.leaf(), self.batch());
        let mut cell = std::mem::take(&mut self.cell);
        cell.clear();
        let taken = match found {
            Ok(at) => {
                let (old_key, old_run) = {
                    let node = self.space().node(leaf);
                    (node.key(at).run(), node.value(at).run())
                };
                let taken = take_old.then(|| self.take_value(leaf, at));
                if taken.is_none() {
                    self.supersede_payload(old_run);
                }
                let key = old_key.map_or(Payload::Inline(key), Payload::Run);
                let value = self.place_value(key, value);
                encode_leaf_cell(&mut cell, key, value);
                if !edit::replace_cell(self.writer.body(leaf, batch), at, &cell) {
                    edit::remove_cell(self.writer.body(leaf, batch), at);
                    self.insert_at(tree, &path, at, &cell, 0);
                }
                taken
            }
            Err(at) => {
                let stored_key = if key.len() > KEY_INLINE_MAX {
                    Payload::Run(self.store_run(key))
                } else {
                    Payload::Inline(key)
                };
                let value = self.place_value(stored_key, value);
                encode_leaf_cell(&mut cell, stored_key, value);
                self.insert_at(tree, &path, at, &cell, 1);
                None
            }
        };
        self.cell = cell;
        taken
    }

    /// The value as the cell will hold it: itself, or a new run.
    fn place_value<'v>(&mut self, key: Payload, value: Payload<'v>) -> Payload<'v> {
        match value {
            Payload::Inline(bytes) if LEAF_CELL_BYTES + key.stored_bytes() + bytes.len() > CELL_BYTES_MAX => {
                Payload::Run(self.store_run(bytes))
            }
            value => value,
        }
    }

    /// Removes `key`; false when it is absent.
    pub fn remove(&mut self, tree: TreeId, key: &[u8]) -> bool {
        self.delete(tree, key, false).is_some()
    }

    /// Removes `key` and gives its value.
    pub fn take(&mut self, tree: TreeId, key: &[u8]) -> Option<Taken> {
        let taken = self.delete(tree, key, true)?;
        Some(taken.expect("the value was asked for"))
    }

    #[expect(clippy::option_option, reason = "outer: the key was there; inner: the value was asked for")]
    fn delete(&mut self, tree: TreeId, key: &[u8], take: bool) -> Option<Option<Taken>> {
        if self.working.trees[tree].page == 0 {
            return None;
        }
        let (mut path, found) = self.find(tree, key);
        let at = found.ok()?;
        self.touched = true;
        self.own_path(tree, &mut path);
        let node = self.space().node(path.leaf());
        let (key_run, value_run) = (node.key(at).run(), node.value(at).run());
        let taken = take.then(|| self.take_value(path.leaf(), at));
        if taken.is_none() {
            self.supersede_payload(value_run);
        }
        self.supersede_payload(key_run);
        self.remove_at(tree, &mut path, at);
        Some(taken)
    }

    /// Ends the batch: readers that pin from now on see it. Returns its publication number.
    pub fn publish(&mut self) -> u64 {
        assert!(self.taken_out == 0, "a taken value was neither put back nor discarded");
        let number = self.working.publication;
        self.readers.publish(self.working.clone());
        if self.in_place.take() == Some(true) {
            self.readers.open();
        }
        self.pages.seal(number);
        self.working.publication = number + 1;
        self.touched = false;
        self.release();
        number
    }

    /// Frees what is out of everyone's reach; called at every publication and checkpoint.
    pub(crate) fn release(&mut self) {
        let oldest_pin = self.readers.oldest_pin();
        self.readers.free_roots(oldest_pin);
        let older_meta = self.checkpoints.older_publication();
        self.pages.release(Holders { oldest_pin, older_meta, dropping: self.dropping });
    }
}

pub(crate) fn encode_leaf_cell(cell: &mut Vec<u8>, key: Payload, value: Payload) {
    cell.extend_from_slice(&key.length_word().to_le_bytes());
    cell.extend_from_slice(&value.length_word().to_le_bytes());
    key.push_to(cell);
    value.push_to(cell);
    assert!(cell.len() <= CELL_BYTES_MAX, "a leaf cell of {} bytes", cell.len());
}

pub(crate) fn encode_branch_cell(cell: &mut Vec<u8>, key: Payload, child: u32, entries: u64) {
    assert!(entries < 1 << 48, "{entries} entries do not fit a branch");
    cell.extend_from_slice(&key.length_word().to_le_bytes());
    cell.extend_from_slice(&child.to_le_bytes());
    cell.extend_from_slice(&entries.to_le_bytes()[..6]);
    key.push_to(cell);
}
