//! Memory: free pages made private ahead of the writer, and cold pages given back.
//!
//! A page that was written is private memory of this process. Dropping it makes it the file's again, which is the
//! same bytes when it belongs to a completed checkpoint; the next use then finds it in the page cache. Both jobs
//! block and belong on a helper thread.
//!
//! Invariant: a page under a drop is live and durable, or out of the free set; the first cannot be reused while the
//! drop runs ([`crate::pages::Pages::bounds`]), the second comes back when it has ended.

use std::io;
use std::sync::Arc;

use crate::node::PAGE_BYTES;
use crate::pages::Extent;
use crate::space::Space;
use crate::store::Store;

/// Free pages kept ready, pages: 8 MiB, some milliseconds of the heaviest writing.
const POPULATE_PAGES: usize = 2048;
/// A job is made when at least this many are missing.
const POPULATE_MIN_PAGES: usize = 256;
/// One drop covers at most this, pages: 64 MiB.
const DROP_PAGES: u64 = 16 << 10;
/// The lowest free pages stay in memory: they are used next.
const FREE_PAGES_KEPT: usize = 2 * POPULATE_PAGES;

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
    /// Private memory of pages in use.
    live: Vec<Extent>,
    /// Pages in use that are mapped from the page cache, if at all.
    mapped: Vec<Extent>,
    free: Vec<Extent>,
}

/// For [`Store::drop_done`].
#[derive(Debug)]
pub struct DropDone {
    free: Vec<Extent>,
}

impl DropJob {
    /// Drops, and reads what is in use back into the page cache, where the system may take it from. After an error
    /// the process must end: the pages could not be read (law 8).
    pub fn run(self) -> io::Result<DropDone> {
        let mapping = self.space.mapping();
        for extent in &self.live {
            // A checkpoint's direct writes are in no cache: without this the next use would wait for the disk.
            mapping.read_ahead(extent.page, extent.pages);
            mapping.discard(extent.page, extent.pages)?;
        }
        for extent in self.mapped.iter().chain(&self.free) {
            mapping.discard(extent.page, extent.pages)?;
        }
        Ok(DropDone { free: self.free })
    }

    pub fn bytes(&self) -> u64 {
        let pages = self
            .live
            .iter()
            .chain(&self.mapped)
            .chain(&self.free)
            .map(|extent| u64::from(extent.pages))
            .sum::<u64>();
        pages * PAGE_BYTES as u64
    }
}

fn push(extents: &mut Vec<Extent>, no: u32) {
    match extents.last_mut() {
        Some(last) if last.page + last.pages == no => last.pages += 1,
        _ => extents.push(Extent { page: no, pages: 1 }),
    }
}

impl Store {
    /// A job that makes the pages that will be allocated next private memory; `None` when enough are.
    pub fn populate_job(&mut self) -> Option<PopulateJob> {
        if self.pages.ready > POPULATE_PAGES / 2 {
            return None;
        }
        let next: Vec<u32> = self.pages.next_to_use().take(POPULATE_PAGES).collect();
        let cold = |no: &&u32| !self.pages.private.contains(**no);
        let missing = next.iter().filter(cold).count();
        if missing < POPULATE_MIN_PAGES {
            self.pages.ready = next.len();
            return None;
        }
        let mut extents = Vec::new();
        for no in next.iter().filter(cold) {
            push(&mut extents, *no);
        }
        next.iter().for_each(|no| {
            self.pages.private.insert(*no);
        });
        self.pages.ready = next.len();
        Some(PopulateJob { space: self.readers.space().clone(), extents, _underway: self.populating.clone() })
    }

    /// Private memory of the mapping, bytes: pages written or populated, and not dropped since.
    pub fn private_bytes(&self) -> u64 {
        self.pages.private.count() * PAGE_BYTES as u64
    }

    /// When private memory exceeds `budget_bytes`: a job that gives back free pages, from the end, and pages of
    /// completed checkpoints, in turn. `None` when there is nothing to do or a drop is under way.
    pub fn drop_cold(&mut self, budget_bytes: u64) -> Option<DropJob> {
        if self.dropping.is_some() {
            return None;
        }
        let excess = self.private_bytes().saturating_sub(budget_bytes) / PAGE_BYTES as u64;
        let want = excess.min(DROP_PAGES);
        if want == 0 {
            return None;
        }
        let mut free = Vec::new();
        let kept: Vec<u32> = self.pages.next_to_use().skip(FREE_PAGES_KEPT).collect();
        let droppable = |no: &u32| self.pages.private.contains(*no) && *no < self.pages.frontier();
        let mut from_free: Vec<u32> = kept.into_iter().rev().filter(droppable).take(want as usize).collect();
        from_free.sort_unstable();
        for no in &from_free {
            self.pages.withhold(*no);
            push(&mut free, *no);
        }
        let mut live = Vec::new();
        let mut found = from_free.len() as u64;
        let start = self.drop_hand;
        let mut wrapped = false;
        while found < want {
            match self.pages.private.next_from(self.drop_hand) {
                Some(no) if !wrapped || no < start => {
                    self.drop_hand = no + 1;
                    if self.pages.live.contains(no)
                        && !self.pages.dirty.contains(no)
                        && !self.checkpoints.is_being_written(no)
                    {
                        push(&mut live, no);
                        found += 1;
                    }
                }
                None if !wrapped => {
                    self.drop_hand = 0;
                    wrapped = true;
                }
                _ => break,
            }
        }
        if found == 0 {
            return None;
        }
        for extent in live.iter().chain(&free) {
            (extent.page..extent.page + extent.pages).for_each(|no| {
                self.pages.private.remove(no);
            });
        }
        // Pages superseded from now on may be under the drop: they wait for its end.
        self.dropping = Some(self.batch() - 1);
        Some(DropJob { space: self.readers.space().clone(), live, mapped: Vec::new(), free })
    }

    /// A job that unmaps up to `bytes` of pages in use that were read but not written: they stay in the page cache,
    /// and this process stops being charged for them. In turn over the file. `None` while a drop is under way.
    pub fn drop_mapped(&mut self, bytes: u64) -> Option<DropJob> {
        if self.dropping.is_some() {
            return None;
        }
        let want = (bytes / PAGE_BYTES as u64).min(DROP_PAGES);
        let mut mapped = Vec::new();
        let mut found = 0;
        let mut looked = 0;
        let pages = u64::from(self.pages.frontier());
        while found < want && looked < pages.min(4 * DROP_PAGES) {
            let no = self.mapped_hand;
            self.mapped_hand = if u64::from(no) + 1 >= pages { 0 } else { no + 1 };
            looked += 1;
            if self.pages.live.contains(no)
                && !self.pages.private.contains(no)
                && !self.pages.dirty.contains(no)
                && !self.checkpoints.is_being_written(no)
            {
                push(&mut mapped, no);
                found += 1;
            }
        }
        if found == 0 {
            return None;
        }
        self.dropping = Some(self.batch() - 1);
        Some(DropJob { space: self.readers.space().clone(), live: Vec::new(), mapped, free: Vec::new() })
    }

    /// Takes note that the drop has ended.
    pub fn drop_done(&mut self, done: DropDone) {
        assert!(self.dropping.take().is_some(), "a drop is under way");
        for extent in done.free {
            self.pages.free_held(extent);
        }
        self.release();
    }
}
