//! Memory: free pages made private ahead of the writer, and cold pages given back.
//!
//! A page that was written is private memory of this process. Dropping it makes it the file's again, which is the
//! same bytes when it belongs to a completed checkpoint; the next use then finds it in the page cache. Both jobs
//! block and belong on a helper thread.
//!
//! Drops go by windows of pages side by side ([`crate::pages::Pages::window`]), all or nothing: each call to the system
//! flushes the TLBs of all cores, so few large ones it must be, and huge pages come back whole.
//!
//! Invariant: what a drop covers is durable or of no use, and is not written while the drop runs: live pages are
//! immutable, free ones are withheld, waiting ones come free only after it ([`crate::pages::Pages::bounds`]), and a
//! window with a page that is in memory alone, or is held, is passed by. What is withheld is neither of the reserve nor of
//! what was promised.

use std::io;
use std::sync::Arc;

use base::limits::POPULATE_PAGES_MAX;

use crate::bits::Bits;
use crate::node::PAGE_BYTES;
use crate::pages::Extent;
use crate::space::Space;
use crate::store::Store;

/// Free pages made ready at once, at least; up to [`POPULATE_PAGES_MAX`] it is twice what was taken since the last time.
/// An idle store makes none: what it gives back stays so.
const POPULATE_PAGES_MIN: u64 = 256;
/// One drop covers at most this, pages: 64 MiB.
const DROP_PAGES: u64 = 16 << 10;

/// Makes free pages private memory, so that the writer takes no fault.
pub struct PopulateJob {
    space: Arc<Space>,
    extents: Vec<Extent>,
    _underway: Arc<()>,
}

impl PopulateJob {
    /// Never fails: a page that is not populated costs the writer a fault, no more.
    pub fn run(self) {
        for extent in &self.extents {
            self.space.mapping().populate(extent.page, extent.pages);
        }
    }

    pub fn bytes(&self) -> u64 {
        self.extents.iter().map(|extent| u64::from(extent.pages) * PAGE_BYTES as u64).sum()
    }
}

/// Gives the memory of pages back to the system.
#[must_use = "pages of a drop that is not run and reported stay unusable"]
pub struct DropJob {
    space: Arc<Space>,
    /// Whole windows.
    windows: Vec<Extent>,
    /// Those among them to read into the page cache: an idle store has time for that. What a busy one gives back is
    /// mostly what was appended, which is seldom read again.
    wanted: Vec<Extent>,
    withheld: Vec<Extent>,
}

/// For [`Store::drop_done`].
#[derive(Debug)]
pub struct DropDone {
    withheld: Vec<Extent>,
}

impl DropJob {
    /// Drops, and reads what is in use back into the page cache, where the system may take it from. After an error
    /// the process must end: the pages could not be read (law 8).
    pub fn run(self) -> io::Result<DropDone> {
        let mapping = self.space.mapping();
        for extent in &self.wanted {
            // A checkpoint's direct writes are in no cache: without this the next use would wait for the disk.
            mapping.read_ahead(extent.page, extent.pages);
        }
        for extent in &self.windows {
            mapping.discard(extent.page, extent.pages)?;
        }
        Ok(DropDone { withheld: self.withheld })
    }

    pub fn bytes(&self) -> u64 {
        self.windows.iter().map(|extent| u64::from(extent.pages) * PAGE_BYTES as u64).sum()
    }
}

fn push(extents: &mut Vec<Extent>, page: u32, pages: u32) {
    match extents.last_mut() {
        Some(last) if last.page + last.pages == page => last.pages += pages,
        _ => extents.push(Extent { page, pages }),
    }
}

/// What of a window would be given back.
struct Window {
    pages: std::ops::Range<u32>,
    private: u32,
    private_live: u32,
}

impl Store {
    /// A job that makes the pages that will be allocated next private memory; `None` when enough are.
    pub fn populate_job(&mut self) -> Option<PopulateJob> {
        let ready = self.pages.ready_pages();
        let ahead = (2 * self.pages.taken).clamp(POPULATE_PAGES_MIN, POPULATE_PAGES_MAX);
        if self.pages.taken == 0 || ready > ahead / 2 || Arc::strong_count(&self.populating) > 1 {
            return None;
        }
        self.pages.taken = 0;
        let warmed = self.pages.warm_up((ahead - ready) as usize);
        if warmed.is_empty() {
            return None;
        }
        let mut extents = Vec::new();
        warmed.into_iter().for_each(|no| push(&mut extents, no, 1));
        Some(PopulateJob { space: self.readers.space().clone(), extents, _underway: self.populating.clone() })
    }

    /// Private memory of the mapping, bytes: pages written or populated, and not dropped since.
    pub fn private_bytes(&self) -> u64 {
        self.pages.private.count() * PAGE_BYTES as u64
    }

    /// A job of these is under way: until it ends no page that was in a checkpoint comes free.
    pub fn is_dropping(&self) -> bool {
        self.dropping
    }

    /// A job that gives back about `bytes` of private memory, in turn over the file. `None` when there is nothing to
    /// do, or a drop or populating is under way. `idle`: nothing is written at present, so no free page is wanted soon.
    pub fn drop_cold(&mut self, bytes: u64, idle: bool) -> Option<DropJob> {
        if idle && !self.dropping && bytes >= PAGE_BYTES as u64 {
            self.pages.cool();
        }
        // What is free or soon will be is wanted next by a busy store.
        let gain = |window: &Window| {
            if idle || window.private == window.private_live { window.private } else { 0 }
        };
        self.drop_windows(bytes, idle, gain)
    }

    /// A job that unmaps about `bytes` of what was read, in turn over the file: it stays in the page cache, and this
    /// process stops being charged for it. `None` while a drop is under way.
    pub fn drop_mapped(&mut self, bytes: u64) -> Option<DropJob> {
        self.drop_windows(bytes, true, |window| window.pages.end - window.pages.start)
    }

    /// Gathers windows until `gain` pages of them make `bytes`.
    fn drop_windows(&mut self, bytes: u64, idle: bool, gain: impl Fn(&Window) -> u32) -> Option<DropJob> {
        let want = (bytes / PAGE_BYTES as u64).min(DROP_PAGES);
        if self.dropping || want == 0 || Arc::strong_count(&self.populating) > 1 {
            return None;
        }
        let window_pages = self.pages.window();
        let windows = self.pages.frontier() / window_pages;
        let (mut found, mut dropped, mut wanted, mut withheld) = (0, Vec::new(), Vec::new(), Vec::new());
        for _ in 0..windows {
            if found >= want {
                break;
            }
            let no = if self.drop_hand < windows { self.drop_hand } else { 0 };
            self.drop_hand = no + 1;
            let Some(window) = self.window(no).filter(|window| gain(window) > 0) else { continue };
            if !self.spares(&window) {
                continue;
            }
            found += u64::from(gain(&window));
            let (page, pages) = (window.pages.start, window_pages);
            push(&mut dropped, page, pages);
            if idle && window.private_live > window_pages / 4 {
                push(&mut wanted, page, pages);
            }
            self.pages.withhold(window.pages, |no| push(&mut withheld, no, 1));
        }
        if dropped.is_empty() {
            return None;
        }
        self.dropping = true;
        let space = self.readers.space().clone();
        Some(DropJob { space, windows: dropped, wanted, withheld })
    }

    /// Whether the free pages of the window may be withheld for a while: a disk may be full, and the file not grow in
    /// their stead (law 8).
    fn spares(&self, window: &Window) -> bool {
        let free = u64::from(self.pages.free_in(window.pages.clone()));
        let run = u32::try_from(self.promised.run_bytes.div_ceil(PAGE_BYTES as u64)).unwrap_or(u32::MAX);
        // Runs may come from the tail, where no window is.
        free == 0 || (free + self.owed_pages() <= self.pages.free_pages() && self.pages.tail_has(run.max(1)))
    }

    /// `None` when something in the window must stay in memory.
    fn window(&self, no: u32) -> Option<Window> {
        let pages = no * self.pages.window()..(no + 1) * self.pages.window();
        assert!(pages.end <= self.pages.frontier(), "a window is below the tail");
        let any = |bits: &Bits| bits.count_in(pages.clone(), None) > 0;
        let overlaps = |held: Extent| held.page < pages.end && pages.start < held.page + held.pages;
        if any(&self.pages.dirty)
            || any(&self.pages.loose)
            || self.checkpoints.being_written().is_some_and(any) && !base::bug!(PageDroppedWhileWritten)
            || self.checkpoints.held().any(overlaps)
            || self.pages.holds.iter().any(overlaps)
        {
            return None;
        }
        let private = self.pages.private.count_in(pages.clone(), None);
        let private_live = self.pages.private.count_in(pages.clone(), Some(&self.pages.live));
        Some(Window { pages, private, private_live })
    }

    /// Takes note that the drop has ended.
    pub fn drop_done(&mut self, done: DropDone) {
        assert!(std::mem::take(&mut self.dropping), "a drop is under way");
        for extent in done.withheld {
            self.pages.free_held(extent);
        }
        self.release();
    }
}
