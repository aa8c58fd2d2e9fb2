//! Defragmentation while the store runs: pages beyond a line move to free pages below it, a few leaves at a time; the
//! frontier comes down to the last page in use, and the chunks that are left empty are taken off the file.
//!
//! A pass goes over all trees in key order, because a page does not know its parent. What it moves becomes part of
//! the open batch like any other change, so readers and checkpoints need not know of it. The frontier comes down when no
//! durable meta, no pin and no drop reaches the tail any more, two checkpoints later at the earliest; the file is cut
//! when no durable meta speaks of the tail either, two more checkpoints later.
//!
//! The line stands at what is in use and [`slack`], not at a multiple of the chunk: [`Store::file_bytes`] comes near
//! [`Store::used_bytes`] in a small store too. The file itself keeps whole chunks, and the reserve of law 8.

use std::io;
use std::sync::Arc;

use crate::TreeId;
use crate::checkpoint::FREEING_CHECKPOINTS;
use crate::edit;
use crate::meta::SLOTS;
use crate::node::*;
use crate::pages::Extent;
use crate::store::{Path, Store, encode_branch_cell, encode_leaf_cell};

/// Leaves that one step looks at: a step stays far below a millisecond unless it moves long runs.
const STEP_LEAVES: usize = 32;
/// Pages that one step moves, at most, the last leaf's aside.
const STEP_PAGES: u32 = 256;

/// Room that a pass leaves below its line beyond what is in use, pages: what moves must not fight for the last hole with
/// what is written meanwhile.
pub(crate) fn slack(live: u64) -> u64 {
    live / 16 + 64
}

/// How far a pass has come.
pub(crate) struct Pass {
    /// Pages at or above move.
    ceiling: u32,
    tree: TreeId,
    /// The next leaf is the one of this key; `None` is the first.
    key: Option<Vec<u8>>,
    /// Runs of this length, pages, found no hole below them, nor would longer ones: what comes free meanwhile waits for
    /// a checkpoint.
    no_hole: u32,
    /// Everything was looked at: the tail only waits to be out of reach.
    moved_all: bool,
    /// Checkpoints that must end before what was moved has left its holes, once all is moved.
    freeing: u32,
}

impl Store {
    /// Moves some pages towards the start of the file, as part of the open batch. False when nothing is left to
    /// move; the file itself gets shorter with the checkpoints after that.
    pub fn shrink_step(&mut self) -> bool {
        if self.shrink.is_none() {
            let held: u64 = self.checkpoints.held().map(|extent| u64::from(extent.pages)).sum();
            let live = self.pages.live.count();
            let ceiling = u64::from(SLOTS) + live + slack(live) + 2 * held;
            let frontier = self.pages.frontier();
            if ceiling >= u64::from(frontier) && self.kept_pages(frontier) >= self.space().mapping().pages() {
                return false;
            }
            self.pages.cool();
            let ceiling = u32::try_from(ceiling).expect("page numbers are 32 bits");
            self.pages.ceiling = Some(ceiling);
            self.hold_bitmaps();
            self.shrink =
                Some(Pass { ceiling, tree: 0, key: None, no_hole: u32::MAX, moved_all: false, freeing: 0 });
        }
        let mut pass = self.shrink.take().expect("made above");
        let moved_before = pass.moved_all;
        pass.moved_all |= self.pages.live.next_from(pass.ceiling).is_none();
        let mut moved = 0;
        for _ in 0..STEP_LEAVES {
            if pass.moved_all || moved >= STEP_PAGES {
                break;
            }
            match self.shrink_leaf(&mut pass) {
                // No hole is left below the line: what is above stays.
                None => pass.moved_all = true,
                Some((pages, next)) => {
                    moved += pages;
                    if next.is_none() {
                        pass.tree += 1;
                    }
                    pass.key = next;
                    pass.moved_all = pass.tree == self.working.trees.len();
                }
            }
        }
        let more = !pass.moved_all;
        if !moved_before {
            // One that was cut before frees nothing of it.
            pass.freeing = FREEING_CHECKPOINTS + u32::from(self.checkpoints.is_running());
        }
        self.shrink = Some(pass);
        more
    }

    /// Whether a pass is moving pages or waits for the tail to come out of reach.
    pub fn is_shrinking(&self) -> bool {
        self.shrink.is_some()
    }

    /// Moves what is beyond the line on the way to one leaf and below it. Pages moved, and the key of the next leaf.
    fn shrink_leaf(&mut self, pass: &mut Pass) -> Option<(u32, Option<Vec<u8>>)> {
        let (tree, ceiling) = (pass.tree, pass.ceiling);
        if self.working.trees[tree].page == 0 {
            return Some((0, None));
        }
        let mut path = match &pass.key {
            Some(key) => self.find(tree, key).0,
            None => self.first_path(tree),
        };
        let mut moved = 0;
        for step in 0..path.depth {
            if path.page[step] >= ceiling {
                moved += self.shrink_page(tree, &mut path, step, ceiling)?;
            }
            if step + 1 < path.depth {
                moved += self.shrink_separator(tree, &mut path, step, pass);
            }
        }
        for at in 0..self.space().node(path.leaf()).count() {
            moved += self.shrink_cell(tree, &mut path, at, pass);
        }
        let next = (0..path.depth - 1).rev().find_map(|step| {
            let node = self.space().node(path.page[step]);
            let at = usize::from(path.at[step]) + 1;
            (at < node.count()).then(|| node.key(at).bytes(self.space()).to_vec())
        });
        Some((moved, next))
    }

    fn first_path(&self, tree: TreeId) -> Path {
        let mut path = self.find(tree, &[]).0;
        // The empty key is the lowest of all in every order, so this is the first leaf.
        assert!(path.at[..path.depth - 1].iter().all(|at| *at == 0), "nothing is below the empty key");
        path.at[path.depth - 1] = 0;
        path
    }

    /// Owns the pages above `step`, and moves the one at `step` below the line.
    fn shrink_page(&mut self, tree: TreeId, path: &mut Path, step: usize, ceiling: u32) -> Option<u32> {
        self.own_above(tree, path, step);
        let new = self.pages.allocate_below(1, ceiling)?;
        self.touched = true;
        self.move_page(tree, path, step, new);
        Some(1)
    }

    /// Makes the pages above `step` part of the open batch.
    fn own_above(&mut self, tree: TreeId, path: &mut Path, step: usize) {
        for up in 0..step {
            if self.space().node(path.page[up]).born() != self.batch() {
                self.touched = true;
                let new = self.allocate(1);
                self.move_page(tree, path, up, new);
            }
        }
    }

    /// `None` when no hole below it is long enough: it stays, and a later pass may find one.
    fn shrink_run(&mut self, run: RunRef, pass: &mut Pass) -> Option<RunRef> {
        if run.pages() >= pass.no_hole {
            return None;
        }
        let Some(page) = self.pages.allocate_below(run.pages(), run.page) else {
            pass.no_hole = run.pages();
            return None;
        };
        let new = RunRef { page, len: run.len };
        self.touched = true;
        self.writer.copy_run(run, new);
        self.pages.supersede(Extent { page: run.page, pages: run.pages() }, false);
        Some(new)
    }

    /// Moves the run of the separator that leads down from `step`. Pages moved.
    fn shrink_separator(&mut self, tree: TreeId, path: &mut Path, step: usize, pass: &mut Pass) -> u32 {
        let at = usize::from(path.at[step]);
        let ceiling = pass.ceiling;
        let Some(run) = self.space().node(path.page[step]).key(at).run().filter(|run| run.end() > ceiling)
        else {
            return 0;
        };
        let Some(new) = self.shrink_run(run, pass) else { return 0 };
        self.own_above(tree, path, step + 1);
        let node = self.space().node(path.page[step]);
        let mut cell = Vec::new();
        encode_branch_cell(&mut cell, Payload::Run(new), node.child(at), node.entries(at));
        let batch = self.batch();
        assert!(
            edit::replace_cell(self.writer.body(path.page[step], batch), at, &cell),
            "cells of one length"
        );
        new.pages()
    }

    /// Moves the runs of key and value of one entry. Pages moved.
    fn shrink_cell(&mut self, tree: TreeId, path: &mut Path, at: usize, pass: &mut Pass) -> u32 {
        let node = self.space().node(path.leaf());
        let ceiling = pass.ceiling;
        let beyond = |payload: Payload| payload.run().filter(|run| run.end() > ceiling);
        let (key, value) = (beyond(node.key(at)), beyond(node.value(at)));
        let mut moved = 0;
        for (old, is_key) in [(key, true), (value, false)] {
            let Some(new) = old.and_then(|old| self.shrink_run(old, pass)) else { continue };
            self.own_above(tree, path, path.depth);
            moved += new.pages();
            let node = self.space().node(path.leaf());
            let mut cell = Vec::new();
            let (key, value) =
                if is_key { (Payload::Run(new), node.value(at)) } else { (node.key(at), Payload::Run(new)) };
            encode_leaf_cell(&mut cell, key, value);
            let batch = self.batch();
            assert!(
                edit::replace_cell(self.writer.body(path.leaf(), batch), at, &cell),
                "cells of one length"
            );
        }
        moved
    }

    /// What a file with this frontier keeps, pages: whole chunks with what the durable metas speak of, the reserve,
    /// what growth keeps ahead of it, so that a cut file does not grow again at once, and what was promised:
    /// its longest run, too, where the rest of a chunk is too short for it.
    fn kept_pages(&self, frontier: u32) -> u32 {
        let ahead = self.options.ahead_bytes() + self.promised.run_bytes;
        let reserve = ahead.div_ceil(PAGE_BYTES as u64) + self.owed_pages();
        let keep = u64::from(frontier.max(self.checkpoints.pages())) + reserve;
        let keep = keep.next_multiple_of(u64::from(self.pages.chunk()));
        u32::try_from(keep).unwrap_or(u32::MAX)
    }

    /// Whether a job holds page numbers, so that no checkpoint would cut the tail now.
    pub fn shrink_is_held_up(&self) -> bool {
        self.dropping || Arc::strong_count(&self.populating) > 1 || Arc::strong_count(&self.growing) > 1
    }

    /// After a checkpoint: lowers the frontier over the tail that a pass has emptied and nobody reaches, and cuts whole
    /// free chunks off the end.
    pub(crate) fn truncate_free_tail(&mut self) -> io::Result<()> {
        let Some(pass) = self.shrink.as_mut().filter(|pass| pass.moved_all) else { return Ok(()) };
        pass.freeing = pass.freeing.saturating_sub(1);
        let (ceiling, all_freed) = (pass.ceiling, pass.freeing == 0);
        // Jobs that hold page numbers of the tail must have ended.
        if self.shrink_is_held_up() {
            return Ok(());
        }
        assert!(!self.checkpoints.is_running(), "a meta under way speaks of the tail");
        let frontier = self.pages.retract();
        let keep = self.kept_pages(frontier);
        let mapping = self.space().mapping().clone();
        if keep < mapping.pages() {
            mapping.shrink(keep)?;
            self.pages.set_mapped(mapping.pages());
            self.pages.forget_from(keep);
        }
        // Done when no meta speaks of the tail any more. What is in use up there (it came while the pass went on, or is
        // a run that found no hole) would never leave by itself: the next pass takes it, once the file is cut to it.
        let spoken_of = self.checkpoints.pages();
        let done = frontier <= ceiling && spoken_of <= ceiling;
        let last = frontier - 1;
        let no_hole = all_freed && self.pages.holds.is_for_bitmap(last);
        let stays = no_hole || self.pages.live.contains(last);
        let stuck = frontier > ceiling && spoken_of <= frontier && stays;
        if done || stuck {
            self.give_back_tail(frontier);
            self.pages.ceiling = None;
            self.shrink = None;
        }
        Ok(())
    }

    /// Gives the private memory of the tail back: the drops of [`crate::cold`] look below the frontier only.
    fn give_back_tail(&mut self, frontier: u32) {
        let mapping = self.space().mapping().clone();
        let mut from = frontier;
        while let Some(page) = self.pages.private.next_from(from).filter(|page| *page < mapping.pages()) {
            let mut end = page + 1;
            while end < mapping.pages() && self.pages.private.contains(end) {
                end += 1;
            }
            // Memory that stays is only memory: its content is of no use, and no use is made of it.
            let _ = mapping.discard(page, end - page);
            from = end;
        }
        self.pages.forget_from(frontier);
    }
}
