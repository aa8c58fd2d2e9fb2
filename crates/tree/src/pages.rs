//! Which page may be used for what, and when a freed page may be used again.
//!
//! A page is *live* (the working root reaches it), *waiting* (superseded, but a pin or a durable meta may still reach
//! it), *held* by a checkpoint's bitmap or for a run to come ([`crate::hold`]), or *free*. Law 6 is kept here and nowhere
//! else, in [`Pages::bounds`]:
//!
//! - A page that was born after the last cut and superseded before the next is in no checkpoint. It waits for the
//!   pins alone, and is reused first of all: it is hot, and steady overwriting does not grow the file.
//! - Any other page waits for the pins and for the older of the two durable metas, so that either is a whole tree.
//! - A page born and superseded in the same batch never was anyone's: it is free at once.
//!
//! Leaves at the right edge of a tree, where entries are appended, get pages apart from the others, set aside by
//! windows: what was appended is seldom touched again, and so leaves memory in large pieces.
//!
//! While a drop of cold pages runs ([`crate::cold`]) no page of a checkpoint comes free: what the drop covers must not
//! be written to.
//!
//! Free pages that are private memory already are used before others: reading a stale page of the file only to
//! overwrite it is dear.
//!
//! Where few pages are free and the disk may be full, long runs are dearer still: what needs less comes from the
//! shortest holes, and the pages never used come last. A start depends on it. It has the runs that the life before filled
//! since the last checkpoint, and must have them yet when it comes to the entries that filled them.
//!
//! Numbers: a page superseded in batch `w` is reached by publications below `w` only.

use std::collections::VecDeque;

use base::limits::HOT_PAGES;

use crate::bits::{Bits, FreeSet};
use crate::hold::Holds;

/// Pages side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub page: u32,
    pub pages: u32,
}

/// Until which superseding publication waiting pages are free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// For pages that no checkpoint has.
    pub fleeting: u64,
    /// For pages that one may have.
    pub durable: u64,
}

/// What may still reach a superseded page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holders {
    /// The oldest publication under a pin, or the last one.
    pub oldest_pin: u64,
    /// The publication of the older durable meta, or of the only one.
    pub older_meta: u64,
    /// A drop of cold pages is under way.
    pub dropping: bool,
}

/// A window, pages: a huge page of the processor, where a chunk has 32 of them; never less than the second figure.
const WINDOW_PAGES: u32 = 512;
const WINDOW_PAGES_MIN: u32 = 16;
/// Run lengths, pages, that have a hot list.
const HOT_LENGTHS: usize = 32;

#[derive(Default)]
pub(crate) struct Pages {
    /// The working root reaches it.
    pub live: Bits,
    /// Live, and born since the last cut.
    pub dirty: Bits,
    /// In private memory: written (or populated for writing) since the mapping or the last drop.
    pub private: Bits,
    /// Not live, and what is in memory must stay: fleeting pages that wait, and hot free ones.
    pub loose: Bits,
    free: FreeSet,
    /// Those of `free` that are private memory.
    warm: FreeSet,
    /// By length in pages, from 1: the last freed is the first used.
    hot: Vec<Vec<u32>>,
    hot_pages: u64,
    /// Set aside for right edges, and free; the last is the first used.
    edge: Vec<u32>,
    /// Set aside so, free or not.
    edges: Bits,
    /// All pages from here on were never used: `frontier..mapped`.
    frontier: u32,
    mapped: u32,
    chunk: u32,
    /// Superseded in the open batch.
    open_fleeting: Vec<Extent>,
    open_durable: Vec<Extent>,
    fleeting: VecDeque<(u64, Vec<Extent>)>,
    durable: VecDeque<(u64, Vec<Extent>)>,
    pub(crate) waiting_pages: u64,
    spare: Vec<Vec<Extent>>,
    /// Where fewer are free, and the disk is full, long holes are spared.
    pub scarce_pages: u64,
    /// The disk has refused room since the file grew last, or was not asked yet.
    pub may_be_full: bool,
    /// The file shrinks to this: freed pages go among the others at once, and runs take the lowest hole.
    pub ceiling: Option<u32>,
    /// Set aside for runs to come.
    pub holds: Holds,
    /// Pages allocated since some were made ready last.
    pub taken: u64,
    /// The tail is private memory up to here.
    tail_warm: u32,
}

impl Pages {
    /// `first` pages at the start belong to the metas and are never anyone's.
    pub fn new(first: u32, mapped: u32, chunk: u32) -> Pages {
        let hot = vec![Vec::new(); HOT_LENGTHS];
        Pages { frontier: first, mapped, chunk, hot, may_be_full: true, ..Pages::default() }
    }

    pub fn frontier(&self) -> u32 {
        self.frontier
    }

    pub fn chunk(&self) -> u32 {
        self.chunk
    }

    /// Pages of a window, in which pages are set aside and leave memory. Windows begin at multiples of it.
    pub fn window(&self) -> u32 {
        (self.chunk / 32).clamp(WINDOW_PAGES_MIN.min(self.chunk), WINDOW_PAGES)
    }

    /// Free pages, those never used included.
    pub fn free_pages(&self) -> u64 {
        self.free.count() + self.hot_pages + self.edge.len() as u64 + self.tail_pages()
    }

    /// Pages at the end that were never used.
    pub fn tail_pages(&self) -> u64 {
        u64::from(self.mapped - self.frontier)
    }

    pub fn waiting_pages(&self) -> u64 {
        self.waiting_pages
    }

    /// Pages of the file that may be used.
    pub fn mapped(&self) -> u32 {
        self.mapped
    }

    /// True when that is news.
    pub fn set_mapped(&mut self, mapped: u32) -> bool {
        assert!(mapped >= self.frontier, "the mapping covers every page in use");
        self.may_be_full &= mapped == self.mapped;
        std::mem::replace(&mut self.mapped, mapped) != mapped
    }

    fn are_scarce(&self) -> bool {
        self.may_be_full && self.free_pages() < self.scarce_pages
    }

    /// Whether so many pages are free, and `run` of them side by side; without `thorough`, small holes may hide those.
    pub fn has_room(&mut self, pages: u64, run: u32, thorough: bool) -> bool {
        self.free_pages() >= pages && self.has_run(run, thorough)
    }

    fn has_run(&mut self, pages: u32, thorough: bool) -> bool {
        if thorough {
            self.cool();
        }
        self.tail_start(pages, self.chunk).is_some()
            || self.free.find_run(pages, self.chunk, thorough).is_some()
    }

    /// Where a run from the tail would begin: runs do not cross multiples of `within`.
    fn tail_start(&self, pages: u32, within: u32) -> Option<u32> {
        let room = within - self.frontier % within;
        let start = if room >= pages { self.frontier } else { self.frontier.checked_add(room)? };
        (start.checked_add(pages)? <= self.mapped).then_some(start)
    }

    /// Pages side by side within a chunk; `None` when there are none and the mapping must grow.
    pub fn allocate(&mut self, pages: u32) -> Option<u32> {
        assert!(
            pages > 0 && pages <= self.chunk,
            "a run of {pages} pages does not fit a chunk of {}",
            self.chunk
        );
        let first = self.choose(pages)?;
        self.mark_live(first, pages);
        Some(first)
    }

    pub(crate) fn mark_live(&mut self, first: u32, pages: u32) {
        self.taken += u64::from(pages);
        for no in first..first + pages {
            assert!(self.live.insert(no), "page {no} is allocated once");
            self.dirty.insert(no);
            self.private.insert(no);
        }
    }

    fn give_free(&mut self, extent: Extent) {
        for no in extent.page..extent.page + extent.pages {
            self.free.insert(no);
            if self.private.contains(no) {
                self.warm.insert(no);
            }
        }
    }

    fn take_free(&mut self, first: u32, pages: u32) {
        for no in first..first + pages {
            self.free.remove(no);
            if self.private.contains(no) {
                self.warm.remove(no);
            }
        }
    }

    fn choose(&mut self, pages: u32) -> Option<u32> {
        if let Some(hot) = self.hot.get_mut(pages as usize - 1)
            && let Some(first) = hot.pop()
        {
            self.hot_pages -= u64::from(pages);
            (first..first + pages).for_each(|no| assert!(self.loose.remove(no), "hot page {no} is known"));
            return Some(first);
        }
        let shrinking = self.ceiling.is_some();
        if !shrinking && self.are_scarce() {
            return self.choose_tight(pages);
        }
        let warm = match pages {
            _ if shrinking => None,
            1 => self.warm.next_from(0),
            _ => self.warm.find_run(pages, self.chunk, false),
        };
        let found = warm.or_else(|| match pages {
            1 => self.free.next_from(0),
            _ => self.free.find_run(pages, self.chunk, shrinking),
        });
        if let Some(first) = found {
            self.take_free(first, pages);
            return Some(first);
        }
        match self.take_tail(pages, self.chunk) {
            Some(start) => Some(start),
            // Before the file grows: the hot lists of other lengths, and the holes that the bounded search passed by.
            None => {
                self.cool();
                let first = match pages {
                    1 => self.free.next_from(0)?,
                    _ => self.free.find_run(pages, self.chunk, true)?,
                };
                self.take_free(first, pages);
                Some(first)
            }
        }
    }

    fn choose_tight(&mut self, pages: u32) -> Option<u32> {
        let mut tight = self.free.find_tight(pages, self.chunk);
        if tight.is_none() {
            self.cool();
            tight = self.free.find_tight(pages, self.chunk);
        }
        let Some(first) = tight else { return self.take_tail(pages, self.chunk) };
        self.take_free(first, pages);
        Some(first)
    }

    /// A page for a leaf at the right edge of a tree; `None` when none can be set aside, and any page will do.
    pub fn allocate_at_edge(&mut self) -> Option<u32> {
        if self.edge.is_empty() {
            if self.ceiling.is_some() || self.are_scarce() {
                return None;
            }
            let pages = self.window();
            let warm = self.warm.find_run(pages, pages, false);
            let found = warm.or_else(|| self.free.find_run(pages, pages, false));
            let first = match found {
                Some(first) => {
                    self.take_free(first, pages);
                    first
                }
                None => self.take_tail(pages, pages)?,
            };
            for no in (first..first + pages).rev() {
                self.edge.push(no);
                self.edges.insert(no);
                self.loose.insert(no);
            }
        }
        let no = self.edge.pop()?;
        assert!(self.loose.remove(no) && self.edges.contains(no), "page {no} is set aside");
        self.mark_live(no, 1);
        Some(no)
    }

    /// Pages from the tail that do not cross a multiple of `within`; those that are skipped for it are free.
    fn take_tail(&mut self, pages: u32, within: u32) -> Option<u32> {
        let start = self.tail_start(pages, within)?;
        let skipped = start - self.frontier;
        self.give_free(Extent { page: self.frontier, pages: skipped });
        self.frontier = start + pages;
        Some(start)
    }

    /// A free extent that ends at or below `ceiling`, for what moves down while the file shrinks.
    pub fn allocate_below(&mut self, pages: u32, ceiling: u32) -> Option<u32> {
        let first = match pages {
            1 => self.free.next_from(0)?,
            _ => self.free.find_run(pages, self.chunk, true)?,
        };
        if first + pages > ceiling {
            return None;
        }
        self.take_free(first, pages);
        self.mark_live(first, pages);
        Some(first)
    }

    /// The working root no longer reaches these pages. `unpublished`: they were born in the open batch.
    pub fn supersede(&mut self, extent: Extent, unpublished: bool) {
        let fleeting = self.dirty.contains(extent.page);
        assert!(fleeting || !unpublished, "page {}: what was born in this batch is dirty", extent.page);
        for no in extent.page..extent.page + extent.pages {
            assert!(self.live.remove(no), "page {no} is superseded once");
            if fleeting {
                self.dirty.remove(no);
                self.loose.insert(no);
            }
        }
        if unpublished {
            self.make_free(extent, true);
            return;
        }
        self.waiting_pages += u64::from(extent.pages);
        if fleeting { &mut self.open_fleeting } else { &mut self.open_durable }.push(extent);
    }

    /// The open batch was published as `number`: what it superseded waits for that number.
    pub fn seal(&mut self, number: u64) {
        for durable in [false, true] {
            let spare = self.spare.pop().unwrap_or_default();
            let (open, queue) = if durable {
                (&mut self.open_durable, &mut self.durable)
            } else {
                (&mut self.open_fleeting, &mut self.fleeting)
            };
            if open.is_empty() {
                self.spare.push(spare);
                continue;
            }
            assert!(queue.back().is_none_or(|(last, _)| *last < number), "publications count upwards");
            queue.push_back((number, std::mem::replace(open, spare)));
        }
    }

    /// THE rule of reuse: the lowest of all that may still reach a page.
    pub fn bounds(holders: Holders) -> Bounds {
        let fleeting = if base::bug!(PinIgnored) { u64::MAX } else { holders.oldest_pin };
        let older_meta = if base::bug!(PageReusedEarly) { u64::MAX } else { holders.older_meta };
        let durable = if holders.dropping { 0 } else { fleeting.min(older_meta) };
        Bounds { fleeting, durable }
    }

    /// Frees what waits and is out of everyone's reach.
    pub fn release(&mut self, holders: Holders) {
        let bounds = Self::bounds(holders);
        for durable in [false, true] {
            let (queue, bound) = if durable {
                (&mut self.durable, bounds.durable)
            } else {
                (&mut self.fleeting, bounds.fleeting)
            };
            let mut freed = Vec::new();
            while queue.front().is_some_and(|(number, _)| *number <= bound) {
                freed.extend(queue.pop_front());
            }
            for (_, mut extents) in freed {
                for extent in extents.drain(..) {
                    self.waiting_pages -= u64::from(extent.pages);
                    self.make_free(extent, !durable);
                }
                if self.spare.len() < 16 {
                    self.spare.push(extents);
                }
            }
        }
    }

    fn make_free(&mut self, extent: Extent, hot: bool) {
        if extent.pages == 1 && self.edges.contains(extent.page) {
            if hot && self.ceiling.is_none() && self.edge.len() < 2 * WINDOW_PAGES as usize {
                self.loose.insert(extent.page);
                self.edge.push(extent.page);
                return;
            }
            self.edges.remove(extent.page);
        }
        if hot
            && self.ceiling.is_none()
            && let Some(list) = self.hot.get_mut(extent.pages as usize - 1)
            && list.len() * (extent.pages as usize) < HOT_PAGES
        {
            list.push(extent.page);
            self.hot_pages += u64::from(extent.pages);
        } else {
            (extent.page..extent.page + extent.pages).for_each(|no| {
                self.loose.remove(no);
            });
            self.give_free(extent);
        }
    }

    /// Puts the hot pages and those set aside among the others, so that the lowest free page is what it is.
    pub fn cool(&mut self) {
        for (i, list) in std::mem::take(&mut self.hot).into_iter().enumerate() {
            for first in list {
                let extent = Extent { page: first, pages: i as u32 + 1 };
                (first..first + extent.pages).for_each(|no| assert!(self.loose.remove(no)));
                self.give_free(extent);
            }
        }
        self.hot.resize_with(HOT_LENGTHS, Vec::new);
        self.hot_pages = 0;
        for no in std::mem::take(&mut self.edge) {
            assert!(self.loose.remove(no) && self.edges.remove(no), "page {no} was set aside");
            self.give_free(Extent { page: no, pages: 1 });
        }
    }

    /// Takes pages for a checkpoint's bitmap, or for a hold: neither live nor free.
    pub fn allocate_held(&mut self, pages: u32) -> Option<u32> {
        self.choose(pages)
    }

    pub fn free_held(&mut self, extent: Extent) {
        self.give_free(extent);
    }

    /// At start: the pages that only the older meta reaches wait, all others below `frontier` that are not live and
    /// not held are free.
    pub fn restore(
        &mut self,
        live: Bits,
        older_only: &Bits,
        held: &[Extent],
        frontier: u32,
        publication: u64,
    ) {
        assert!(frontier >= self.frontier && frontier <= self.mapped, "the file covers every page in use");
        let is_held = |no: u32| held.iter().any(|h| (h.page..h.page + h.pages).contains(&no));
        let mut waiting = Vec::new();
        for no in self.frontier..frontier {
            if live.contains(no) || is_held(no) {
                continue;
            }
            if older_only.contains(no) {
                waiting.push(Extent { page: no, pages: 1 });
            } else {
                self.free.insert(no);
            }
        }
        self.frontier = frontier;
        self.waiting_pages = waiting.len() as u64;
        self.live = live;
        if !waiting.is_empty() {
            self.durable.push_back((publication, waiting));
        }
    }

    /// Lowers the frontier over free pages at the end. Returns it.
    pub fn retract(&mut self) -> u32 {
        while let Some(last) = self.free.last().filter(|last| last + 1 == self.frontier) {
            self.take_free(last, 1);
            self.frontier = last;
        }
        self.frontier
    }

    /// Free pages that are private memory already, among those that come next.
    pub fn ready_pages(&self) -> u64 {
        self.warm.count() + self.hot_pages + u64::from(self.tail_warm.saturating_sub(self.frontier))
    }

    /// Counts up to `pages` free pages as private memory: the lowest that are not, then the tail. The caller makes
    /// them so.
    pub fn warm_up(&mut self, pages: usize) -> Vec<u32> {
        let mut warmed = Vec::with_capacity(pages);
        let mut from = 0;
        while warmed.len() < pages
            && let Some(no) = self.free.next_from(from)
        {
            from = no + 1;
            if self.private.insert(no) {
                self.warm.insert(no);
                warmed.push(no);
            }
        }
        let tail = self.frontier.max(self.tail_warm)..self.mapped;
        for no in tail.take(pages - warmed.len()) {
            self.private.insert(no);
            self.tail_warm = no + 1;
            warmed.push(no);
        }
        warmed
    }

    /// Takes the free pages of these out of use until [`Pages::free_held`], and none of these counts as private memory
    /// any more.
    pub fn withhold(&mut self, pages: std::ops::Range<u32>, mut each: impl FnMut(u32)) {
        assert!(pages.end <= self.frontier, "pages {pages:?} are below the tail");
        for no in pages {
            assert!(!self.loose.contains(no) && !self.dirty.contains(no), "page {no} is in memory alone");
            if self.free.contains(no) {
                self.take_free(no, 1);
                each(no);
            }
            self.private.remove(no);
        }
    }

    /// Free pages among these, the hot ones and those set aside not counted.
    pub fn free_in(&self, pages: std::ops::Range<u32>) -> u32 {
        pages.map(|no| u32::from(self.free.contains(no))).sum()
    }

    /// Whether the pages never used have room for a run.
    pub fn tail_has(&self, pages: u32) -> bool {
        self.tail_start(pages, self.chunk).is_some()
    }

    /// The mapping no longer has pages from `no` on.
    pub fn forget_from(&mut self, no: u32) {
        self.tail_warm = self.tail_warm.min(no);
        while let Some(gone) = self.private.next_from(no) {
            self.private.remove(gone);
        }
    }

    #[cfg(test)]
    pub fn is_free(&self, no: u32) -> bool {
        let hot = || {
            self.hot
                .iter()
                .enumerate()
                .any(|(i, list)| list.iter().any(|first| (*first..*first + i as u32 + 1).contains(&no)))
        };
        no >= self.frontier || self.free.contains(no) || self.edge.contains(&no) || hot()
    }

    /// All free pages below the frontier.
    pub fn free_bits(&self) -> Bits {
        let mut bits = Bits::default();
        let mut from = 0;
        while let Some(no) = self.free.next_from(from) {
            bits.insert(no);
            from = no + 1;
        }
        for no in &self.edge {
            assert!(bits.insert(*no), "page {no} is free twice");
        }
        for (i, list) in self.hot.iter().enumerate() {
            for first in list {
                (*first..*first + i as u32 + 1)
                    .for_each(|no| assert!(bits.insert(no), "page {no} is free twice"));
            }
        }
        bits
    }

    /// All waiting pages.
    pub fn waiting_bits(&self) -> Bits {
        let mut bits = Bits::default();
        let queued = self.fleeting.iter().chain(&self.durable).flat_map(|(_, extents)| extents);
        for extent in queued.chain(&self.open_fleeting).chain(&self.open_durable) {
            for no in extent.page..extent.page + extent.pages {
                assert!(bits.insert(no), "page {no} waits twice");
            }
        }
        bits
    }
}

#[cfg(test)]
#[path = "pages_tests.rs"]
mod tests;
