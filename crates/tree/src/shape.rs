//! How a tree grows and shrinks: splits on the way up after an insertion, merges after a removal.
//!
//! Invariants: every page on the path belongs to the open batch; branch counts are those of the subtrees when a
//! function returns; a separator's run belongs to the one branch cell that names it.
//!
//! A page splits in the middle by bytes, except where keys come in ascending order: at the right edge of the tree the
//! new entry alone goes to the new page, and elsewhere after a streak of insertions side by side the page is cut
//! where the streak stands. So appends fill pages. Where keys come in no order, a full leaf first shares with a
//! neighbour that has room: it costs the insertion a sixth more and saves a fifth of all memory.

use crate::TreeId;
use crate::edit;
use crate::node::*;
use crate::order::Order;
use crate::store::{Path, Store, encode_branch_cell};

/// A page with fewer bytes in use looks for a neighbour to merge with.
const UNDERFULL_BYTES: usize = USABLE_BYTES / 3;
/// A merged page may use this much: some room stays, so that the next insertion does not split it again.
const MERGED_BYTES_MAX: usize = USABLE_BYTES * 5 / 6;
/// Insertions in a row, each right behind the last, that make an ascending streak.
const STREAK: u8 = 4;

/// A key on its way to a branch.
struct Separator {
    run: Option<RunRef>,
    bytes: Vec<u8>,
}

impl Separator {
    fn payload(&self) -> Payload<'_> {
        self.run.map_or(Payload::Inline(&self.bytes), Payload::Run)
    }

    /// The key of a cell, which moves here with its run.
    fn of(key: Payload) -> Separator {
        match key {
            Payload::Inline(bytes) => Separator { run: None, bytes: bytes.to_vec() },
            Payload::Run(run) => Separator { run: Some(run), bytes: Vec::new() },
        }
    }
}

/// Puts cells into a page just formatted, in order. Heads are set afterwards.
fn fill<'c>(body: &mut Body, cells: impl Iterator<Item = &'c [u8]>) {
    for (i, cell) in cells.enumerate() {
        assert!(edit::insert_cell(body, i, 0, cell), "the cells of a page were counted");
    }
}

fn size(cell: &&[u8]) -> usize {
    cell.len() + SLOT_BYTES
}

/// Where to cut `cells` in two halves that differ least; `None` when one would not fit a page.
fn middle(cells: &[&[u8]]) -> Option<usize> {
    let total: usize = cells.iter().map(size).sum();
    let (mut left, mut best, mut best_left) = (0, 0, 0);
    for (i, cell) in cells.iter().enumerate().take(cells.len() - 1) {
        left += size(cell);
        if best == 0 || left.abs_diff(total - left) < usize::abs_diff(best_left, total - best_left) {
            (best, best_left) = (i + 1, left);
        }
    }
    (best > 0 && best_left <= USABLE_BYTES && total - best_left <= USABLE_BYTES).then_some(best)
}

/// Where to cut the cells of a page that overflows. At least one on either side.
fn cut_point(cells: &[&[u8]], position: usize, right_edge: bool, ascending: bool) -> usize {
    if right_edge {
        return cells.len() - 1;
    }
    if ascending && position > 0 {
        let left: usize = cells[..position].iter().map(size).sum();
        let right: usize = cells[position..].iter().map(size).sum();
        if left <= USABLE_BYTES && right <= USABLE_BYTES {
            return position;
        }
    }
    middle(cells).expect("no cell exceeds half a page, so the halves of an overflowing page fit")
}

impl Store {
    /// Puts `cell` at `position` of the path's leaf, and splits as far up as needed. `added` entries are new.
    pub(crate) fn insert_at(&mut self, tree: TreeId, path: &Path, position: usize, cell: &[u8], added: u64) {
        let (order, batch) = (self.order(tree), self.batch());
        self.working.trees[tree].entries += added;
        let mut step = path.depth - 1;
        if self.place(order, path.page[step], position, cell) {
            self.add_entries(path, step, added as i64);
            return;
        }
        if self.share(order, path, position, cell) {
            self.add_entries(path, step - 1, added as i64);
            return;
        }
        let mut position = position;
        let mut cell = cell.to_vec();
        loop {
            let edge = self.is_right_edge(path, step);
            let (right, separator) = self.split(order, path.page[step], position, &cell, edge);
            let entries = |no: u32| self.space().node(no).total();
            let (left_entries, right_entries) = (entries(path.page[step]), entries(right));
            cell.clear();
            encode_branch_cell(&mut cell, separator.payload(), right, right_entries);
            if step == 0 {
                self.grow_root(tree, left_entries, &cell);
                return;
            }
            step -= 1;
            edit::set_entries(
                self.writer.body(path.page[step], batch),
                usize::from(path.at[step]),
                left_entries,
            );
            position = usize::from(path.at[step]) + 1;
            if self.place(order, path.page[step], position, &cell) {
                self.add_entries(path, step, added as i64);
                return;
            }
        }
    }

    pub(crate) fn is_right_edge(&self, path: &Path, step: usize) -> bool {
        (0..step).all(|up| usize::from(path.at[up]) + 1 == self.space().node(path.page[up]).count())
    }

    /// Puts `cell` at `position` of the path's leaf, which is full, by evening out with a neighbour below the same
    /// branch. False, and nothing has changed, when keys come in order here, or no neighbour has the room.
    fn share(&mut self, order: Order, path: &Path, position: usize, cell: &[u8]) -> bool {
        let (batch, step) = (self.batch(), path.depth - 1);
        if step == 0 {
            return false;
        }
        let leaf = self.space().node(path.page[step]);
        let (last, streak) = leaf.streak();
        let at_end = position == leaf.count();
        if (last == position && streak >= STREAK) || (at_end && self.is_right_edge(path, step)) {
            return false;
        }
        let (parent_no, at) = (path.page[step - 1], usize::from(path.at[step - 1]));
        let parent = self.space().node(parent_no);
        let room = |at: usize| self.space().node(parent.child(at)).free();
        let right_room = if at + 1 < parent.count() { room(at + 1) } else { 0 };
        let left_room = if at > 0 { room(at - 1) } else { 0 };
        if left_room.max(right_room) < cell.len() + SLOT_BYTES {
            return false;
        }
        let left_at = if right_room >= left_room { at } else { at - 1 };
        let (left, right) = (parent.child(left_at), parent.child(left_at + 1));
        let old: [Body; 2] = [*self.space().node(left).body, *self.space().node(right).body];
        let [l, r] = [Node { body: &old[0] }, Node { body: &old[1] }];
        let mut cells: Vec<&[u8]> = Vec::with_capacity(l.count() + r.count() + 1);
        cells.extend((0..l.count()).map(|i| l.cell(i)));
        cells.extend((0..r.count()).map(|i| r.cell(i)));
        cells.insert(if left_at == at { position } else { l.count() + position }, cell);
        let Some(cut) = middle(&cells) else { return false };
        let (low, high) = (cell_key(LEAF, cells[cut - 1]), cell_key(LEAF, cells[cut]));
        let separator = order.separator(low.bytes(self.space()), high.bytes(self.space()));
        let old_separator = parent.key(left_at + 1);
        let grows = separator.len().saturating_sub(old_separator.stored_bytes());
        if separator.len() > KEY_INLINE_MAX || old_separator.run().is_some() || parent.free() < grows {
            return false;
        }

        let mut pages = [left, right];
        for (side, (no, node)) in pages.iter_mut().zip([l, r]).enumerate() {
            if node.born() != batch {
                let new = self.allocate(1);
                self.supersede_page(*no);
                *no = new;
            }
            let body = self.writer.format(*no, LEAF, 0, batch);
            fill(body, if side == 0 { &cells[..cut] } else { &cells[cut..] }.iter().copied());
            self.rehead(order, *no);
        }
        let mut entry = Vec::with_capacity(BRANCH_CELL_BYTES + separator.len());
        let right_entries = (cells.len() - cut) as u64;
        encode_branch_cell(&mut entry, Payload::Inline(&separator), pages[1], right_entries);
        let (body, space) = self.writer.body_and_space(parent_no, batch);
        edit::set_child(body, left_at, pages[0]);
        edit::set_entries(body, left_at, cut as u64);
        edit::remove_cell(body, left_at + 1);
        let head = edit::admit_key(body, space, order, &separator);
        assert!(edit::insert_cell(body, left_at + 1, head, &entry), "the room was counted");
        true
    }

    /// Counts `added` at every branch above `step`.
    fn add_entries(&mut self, path: &Path, step: usize, added: i64) {
        if added == 0 {
            return;
        }
        let batch = self.batch();
        for up in 0..step {
            let at = usize::from(path.at[up]);
            let entries = self.space().node(path.page[up]).entries(at).checked_add_signed(added);
            let entries = entries.expect("a subtree has as many entries as were counted");
            edit::set_entries(self.writer.body(path.page[up], batch), at, entries);
        }
    }

    /// Puts `cell` at `position` of a page if there is room.
    fn place(&mut self, order: Order, no: u32, position: usize, cell: &[u8]) -> bool {
        let batch = self.batch();
        let (body, space) = self.writer.body_and_space(no, batch);
        let node = Node { body };
        if node.free() < cell.len() + SLOT_BYTES {
            return false;
        }
        let (last, streak) = node.streak();
        let key = cell_key(node.kind(), cell).bytes(space);
        let head = edit::admit_key(body, space, order, key);
        edit::set_streak(body, position + 1, if last == position { streak.saturating_add(1) } else { 0 });
        edit::insert_cell(body, position, head, cell)
    }

    /// Splits a page around a cell that comes to `position`; the new page is the right one.
    fn split(&mut self, order: Order, no: u32, position: usize, cell: &[u8], edge: bool) -> (u32, Separator) {
        let batch = self.batch();
        let old: Body = *self.writer.body(no, batch);
        let node = Node { body: &old };
        let (kind, level, (last, streak)) = (node.kind(), node.level(), node.streak());
        let mut cells: Vec<&[u8]> = (0..node.count()).map(|i| node.cell(i)).collect();
        let right_edge = edge && position == cells.len();
        let ascending = last == position && streak >= STREAK;
        cells.insert(position, cell);
        let cut = cut_point(&cells, position, right_edge, ascending);

        let separator = if kind == LEAF {
            let space = self.space();
            let (low, high) = (cell_key(kind, cells[cut - 1]), cell_key(kind, cells[cut]));
            let bytes = order.separator(low.bytes(space), high.bytes(space));
            let run = (bytes.len() > KEY_INLINE_MAX).then(|| self.store_run(&bytes));
            Separator { run, bytes }
        } else {
            Separator::of(cell_key(kind, cells[cut]))
        };

        let body = self.writer.format(no, kind, level, batch);
        fill(body, cells[..cut].iter().copied());
        self.rehead(order, no);
        let right = if right_edge && kind == LEAF { self.allocate_at_edge() } else { self.allocate(1) };
        let body = self.writer.format(right, kind, level, batch);
        fill(body, cells[cut..].iter().copied());
        if kind == BRANCH {
            edit::blank_first_key(body);
        }
        if ascending || right_edge {
            edit::set_streak(
                body,
                (position + 1).saturating_sub(cut),
                if position >= cut { STREAK } else { 0 },
            );
        }
        self.rehead(order, right);
        (right, separator)
    }

    fn rehead(&mut self, order: Order, no: u32) {
        let batch = self.batch();
        let (body, space) = self.writer.body_and_space(no, batch);
        edit::rehead(body, space, order);
    }

    /// A new root above the old one, with the cell of the page that was split off.
    fn grow_root(&mut self, tree: TreeId, left_entries: u64, right_cell: &[u8]) {
        let (order, batch) = (self.order(tree), self.batch());
        let root = self.working.trees[tree];
        assert!(usize::from(root.level) + 2 < crate::view::LEVELS_MAX, "a tree of {} levels", root.level);
        let no = self.allocate(1);
        let mut left_cell = Vec::with_capacity(BRANCH_CELL_BYTES);
        encode_branch_cell(&mut left_cell, Payload::Inline(&[]), root.page, left_entries);
        let body = self.writer.format(no, BRANCH, root.level + 1, batch);
        fill(body, [&left_cell[..], right_cell].into_iter());
        self.rehead(order, no);
        self.working.trees[tree].page = no;
        self.working.trees[tree].level = root.level + 1;
        debug_assert_eq!(self.space().node(no).total(), self.working.trees[tree].entries);
    }

    /// Removes the cell at `position` of the path's leaf, and merges as far up as needed. The runs that the cell
    /// names have found another owner or were superseded.
    pub(crate) fn remove_at(&mut self, tree: TreeId, path: &mut Path, position: usize) {
        let batch = self.batch();
        let mut step = path.depth - 1;
        edit::remove_cell(self.writer.body(path.page[step], batch), position);
        let entries = &mut self.working.trees[tree].entries;
        *entries = entries.checked_sub(1).expect("a tree counts its entries");
        self.add_entries(path, step, -1);
        while step > 0 {
            let no = path.page[step];
            let node = self.space().node(no);
            if node.count() == 0 {
                self.supersede_page(no);
                self.remove_child(tree, path.page[step - 1], usize::from(path.at[step - 1]), true);
            } else if node.used() >= UNDERFULL_BYTES || !self.merge(tree, path, step) {
                return;
            }
            step -= 1;
        }
        self.lower_root(tree);
    }

    /// Takes entry `at` out of a branch. `free_key`: its separator goes too; else it has moved.
    fn remove_child(&mut self, tree: TreeId, no: u32, at: usize, free_key: bool) {
        let (order, batch) = (self.order(tree), self.batch());
        let node = self.space().node(no);
        let first_goes = at == 0;
        // Entry 0 has no key; when it goes, the next one becomes entry 0 and loses its own.
        let lost = if first_goes && node.count() > 1 { node.key(1).run() } else { node.key(at).run() };
        let body = self.writer.body(no, batch);
        edit::remove_cell(body, at);
        if first_goes && (Node { body }).count() > 0 {
            edit::blank_first_key(body);
            // The witness of the prefix must be a key that is still there; with one entry there is none.
            if (Node { body }).count() == 1 {
                self.rehead(order, no);
            }
        }
        if let Some(run) = lost.filter(|_| free_key) {
            self.supersede_run(run);
        }
    }

    /// Merges the page at `step` with a neighbour below the same branch; false when none has the room.
    fn merge(&mut self, tree: TreeId, path: &mut Path, step: usize) -> bool {
        let (order, batch) = (self.order(tree), self.batch());
        let (parent_no, at) = (path.page[step - 1], usize::from(path.at[step - 1]));
        let space = self.space();
        let parent = space.node(parent_no);
        let fits = |left: usize| {
            let (l, r) = (space.node(parent.child(left)), space.node(parent.child(left + 1)));
            let key = if l.kind() == BRANCH { parent.key(left + 1).stored_bytes() } else { 0 };
            l.used() + r.used() + key <= MERGED_BYTES_MAX
        };
        let left_at = if at + 1 < parent.count() && fits(at) {
            at
        } else if at > 0 && fits(at - 1) {
            at - 1
        } else {
            return false;
        };
        let (left, right) = (parent.child(left_at), parent.child(left_at + 1));
        let separator = Separator::of(parent.key(left_at + 1));
        let entries = parent.entries(left_at) + parent.entries(left_at + 1);

        // Both into the left one, which becomes a page of this batch; the right one is only read.
        let old: Body = *space.node(left).body;
        let l = Node { body: &old };
        let other: Body = *space.node(right).body;
        let r = Node { body: &other };
        let (kind, level) = (l.kind(), l.level());
        let merged = if l.born() == batch {
            left
        } else {
            let new = self.allocate(1);
            self.supersede_page(left);
            new
        };
        let mut first = Vec::new();
        if kind == BRANCH {
            encode_branch_cell(&mut first, separator.payload(), r.child(0), r.entries(0));
        } else {
            first.extend_from_slice(r.cell(0));
        }
        let body = self.writer.format(merged, kind, level, batch);
        let from_left = (0..l.count()).map(|i| l.cell(i));
        let from_right = (1..r.count()).map(|i| r.cell(i));
        fill(body, from_left.chain(std::iter::once(&first[..])).chain(from_right));
        self.rehead(order, merged);
        self.supersede_page(right);
        let parent = self.writer.body(parent_no, batch);
        edit::set_child(parent, left_at, merged);
        edit::set_entries(parent, left_at, entries);
        // A branch's separator has moved down with its run; a leaf's has no further use.
        self.remove_child(tree, parent_no, left_at + 1, kind == LEAF);
        path.at[step - 1] = left_at as u16;
        path.page[step] = merged;
        true
    }

    /// While the root has one child, the child is the root; an empty tree has none.
    fn lower_root(&mut self, tree: TreeId) {
        loop {
            let root = self.working.trees[tree];
            let node = self.space().node(root.page);
            match (node.kind(), node.count()) {
                (_, 0) => {
                    assert!(root.entries == 0, "an empty root has no entries");
                    self.supersede_page(root.page);
                    self.working.trees[tree] = crate::pins::TreeRoot::default();
                    return;
                }
                (BRANCH, 1) => {
                    let child = node.child(0);
                    self.supersede_page(root.page);
                    self.working.trees[tree].page = child;
                    self.working.trees[tree].level = root.level - 1;
                }
                _ => return,
            }
        }
    }
}

/// The key of an encoded cell.
pub(crate) fn cell_key(kind: u8, cell: &[u8]) -> Payload<'_> {
    let header = if kind == LEAF { LEAF_CELL_BYTES } else { BRANCH_CELL_BYTES };
    let word = u16_at(cell, 0);
    if word & BY_RUN == 0 {
        Payload::Inline(&cell[header..header + usize::from(word)])
    } else {
        Payload::Run(RunRef { page: u32_at(cell, header), len: u32_at(cell, header + 4) })
    }
}
