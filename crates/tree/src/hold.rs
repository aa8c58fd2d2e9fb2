//! Runs of pages set aside for what will be stored: a long value needs pages side by side, and by the time that it is
//! stored the disk may be full and what is free lie scattered (law 8). Whoever promises to store it holds a run first,
//! and gives it out when the time comes. Three bitmaps of checkpoints have such a run, or are one, at all times (two that
//! are durable, and the next): without one no checkpoint could give anything back.
//!
//! Invariants: a page of a hold is neither live nor free nor waiting, nobody reads or writes it, and no drop touches it,
//! because it may be written at any moment; at most one hold is open, and its pages go to runs only, in order.
//!
//! Must not know who holds what for.

use std::collections::VecDeque;

use crate::node::PAGE_BYTES;
use crate::pages::{Extent, Pages};
use crate::store::Store;

/// A run set aside: for [`Store::open_hold`] or [`Store::give_back`].
#[derive(Debug)]
#[must_use = "pages of a hold that is neither opened nor given back stay unusable"]
pub struct Hold(Extent);

/// All runs set aside.
#[derive(Default)]
pub(crate) struct Holds {
    /// Opened in the order in which they were made, unless some are given back.
    closed: VecDeque<Extent>,
    /// What is left of the open one.
    open: Option<Extent>,
    /// For bitmaps of checkpoints to come.
    bitmaps: Vec<Extent>,
}

impl Holds {
    pub fn iter(&self) -> impl Iterator<Item = Extent> + '_ {
        let runs = self.closed.iter().copied().chain(self.open);
        runs.chain(self.bitmaps.iter().copied()).filter(|extent| extent.pages > 0)
    }

    /// Of a bitmap to come, not of one that a meta has.
    pub fn is_for_bitmap(&self, no: u32) -> bool {
        self.bitmaps.iter().any(|extent| (extent.page..extent.page + extent.pages).contains(&no))
    }
}

impl Pages {
    /// The next pages of the open hold, when so many are left.
    pub fn allocate_from_hold(&mut self, pages: u32) -> Option<u32> {
        let open = self.holds.open.as_mut().filter(|open| open.pages >= pages)?;
        let first = open.page;
        (open.page, open.pages) = (first + pages, open.pages - pages);
        self.mark_live(first, pages);
        Some(first)
    }

    /// Pages for a bitmap of `pages`, where so many are held side by side; they are no hold any more.
    pub fn take_bitmap(&mut self, pages: u32) -> Option<Extent> {
        let at = self.holds.bitmaps.iter().position(|held| held.pages >= pages)?;
        let held = self.holds.bitmaps.swap_remove(at);
        self.free_held(Extent { page: held.page + pages, pages: held.pages - pages });
        Some(Extent { page: held.page, pages })
    }

    /// Sees to it that runs of `pages` are held for so many bitmaps, below the line to which the file shrinks where there
    /// are holes; fewer where there is no room.
    pub fn hold_bitmaps(&mut self, count: usize, pages: u32) {
        let ceiling = self.ceiling.unwrap_or(u32::MAX);
        let mut held = std::mem::take(&mut self.holds.bitmaps);
        held.sort_unstable_by_key(|extent| extent.page);
        let too_many = held.split_off(held.len().min(count));
        let (mut kept, too_short) = held.into_iter().partition::<Vec<_>, _>(|extent| extent.pages >= pages);
        for extent in too_many.into_iter().chain(too_short) {
            self.free_held(extent);
        }
        for extent in kept.iter_mut().filter(|extent| extent.page + extent.pages > ceiling) {
            let Some(page) = self.allocate_held(pages) else { break };
            let lower = Extent { page, pages };
            let given_back = if page < extent.page { std::mem::replace(extent, lower) } else { lower };
            self.free_held(given_back);
        }
        while kept.len() < count
            && let Some(page) = self.allocate_held(pages)
        {
            kept.push(Extent { page, pages });
        }
        self.holds.bitmaps = kept;
    }

    fn unlist(&mut self, hold: Hold) -> Extent {
        let at = self.holds.closed.iter().position(|extent| *extent == hold.0).expect("a hold is listed");
        self.holds.closed.remove(at).expect("it was found there")
    }
}

impl Store {
    /// Sets aside pages side by side for `bytes` of page space; `None` when there are none. Call [`Store::make_room`]
    /// for them first: it grows the file, and after its Ok they are there.
    pub fn hold(&mut self, bytes: u64) -> Option<Hold> {
        assert!(bytes > 0, "a hold has pages");
        // No run is longer than a chunk; the rest comes from elsewhere.
        let pages = bytes.div_ceil(PAGE_BYTES as u64).min(u64::from(self.pages.chunk()));
        let pages = u32::try_from(pages).expect("at most a chunk");
        let page = self.pages.allocate_held(pages)?;
        let extent = Extent { page, pages };
        self.pages.holds.closed.push_back(extent);
        Some(Hold(extent))
    }

    /// Runs come from this hold, as far as it goes, until [`Store::close_hold`].
    pub fn open_hold(&mut self, hold: Hold) {
        assert!(self.pages.holds.open.is_none(), "one hold is open at a time");
        let extent = self.pages.unlist(hold);
        self.pages.holds.open = Some(extent);
    }

    /// What is left of the open hold, if there is one, is free again.
    pub fn close_hold(&mut self) {
        if let Some(left) = self.pages.holds.open.take() {
            self.pages.free_held(left);
        }
    }

    /// The hold is not needed.
    pub fn give_back(&mut self, hold: Hold) {
        let extent = self.pages.unlist(hold);
        assert!(extent.pages > 0, "a hold that was not opened is whole");
        self.pages.free_held(extent);
    }
}
