//! A walk over all pages of a tree that trusts nothing: for `verify`, and for the bitmap when its block is damaged.
//!
//! Every number is checked before it is used, so a damaged page is an answer, not a panic.

use std::cmp::Ordering;

use crate::bits::Bits;
use crate::meta::SLOTS;
use crate::node::*;
use crate::order::{Order, head_of};
use crate::pins::TreeRoot;
use crate::space::Space;
use crate::view::LEVELS_MAX;

/// What is wrong, and with which page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyError {
    /// Name of the tree, where one is concerned.
    pub tree: &'static str,
    pub page: u32,
    pub what: String,
}

impl std::fmt::Display for VerifyError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "tree {:?}, page {}: {}", self.tree, self.page, self.what)
    }
}

impl std::error::Error for VerifyError {}

pub(crate) struct Walk<'a> {
    pub space: &'a Space,
    /// Pages at or above it are outside of the tree's file.
    pub limit: u32,
    /// All pages met so far, of all trees.
    pub seen: Bits,
    pub run_pages: u64,
    pub deepest: u8,
}

type Bound<'a> = Option<&'a [u8]>;

impl<'a> Walk<'a> {
    pub fn new(space: &'a Space, limit: u32) -> Walk<'a> {
        let limit = limit.min(space.mapping().pages());
        Walk { space, limit, seen: Bits::default(), run_pages: 0, deepest: 0 }
    }

    /// Walks one tree; counts and keys must be as the root says.
    pub fn tree(&mut self, name: &'static str, order: Order, root: TreeRoot) -> Result<(), VerifyError> {
        if root.page == 0 {
            let sound = root == TreeRoot::default();
            return if sound { Ok(()) } else { Err(self.error(name, 0, "an empty tree counts entries")) };
        }
        if usize::from(root.level) >= LEVELS_MAX {
            return Err(self.error(name, root.page, "the tree is higher than any tree"));
        }
        self.deepest = self.deepest.max(root.level + 1);
        let entries = self
            .page(order, root.page, root.level, None, None)
            .map_err(|(page, what)| VerifyError { tree: name, page, what })?;
        if entries != root.entries {
            let what = format!("the root counts {} entries, the tree has {entries}", root.entries);
            return Err(VerifyError { tree: name, page: root.page, what });
        }
        Ok(())
    }

    fn error(&self, tree: &'static str, page: u32, what: &str) -> VerifyError {
        VerifyError { tree, page, what: what.to_owned() }
    }

    fn meet(&mut self, no: u32) -> Result<(), (u32, String)> {
        if no < SLOTS || no >= self.limit {
            return Err((no, format!("is outside of the pages {SLOTS}..{}", self.limit)));
        }
        if !self.seen.insert(no) {
            return Err((no, "is reached twice".to_owned()));
        }
        Ok(())
    }

    fn page(
        &mut self,
        order: Order,
        no: u32,
        level: u8,
        low: Bound<'a>,
        high: Bound<'a>,
    ) -> Result<u64, (u32, String)> {
        self.meet(no)?;
        let node = self.space.node(no);
        let fail = |what: String| Err((no, what));
        let kind = if level == 0 { LEAF } else { BRANCH };
        if node.kind() != kind || node.level() != level {
            return fail(format!(
                "kind {} level {} where {kind} at {level} belongs",
                node.kind(),
                node.level()
            ));
        }
        check_layout(node).map_err(|what| (no, what))?;
        if node.count() == 0 {
            return fail("holds nothing".to_owned());
        }
        let first = usize::from(kind == BRANCH);
        if first == 1 && node.key(0) != Payload::Inline(&[]) {
            return fail("the first child has a key".to_owned());
        }
        let mut entries = if kind == LEAF { node.count() as u64 } else { 0 };
        let mut before: Bound = None;
        for i in 0..node.count() {
            if let Some(run) = node.key(i).run() {
                self.run(run)?;
            }
            let key = node.key(i).bytes(self.space);
            if i >= first {
                let primary = order.primary(key);
                if before.is_some_and(|before| order.compare(before, key) != Ordering::Less) {
                    return fail(format!("key {i} is not above the one before"));
                }
                if low.is_some_and(|low| order.compare(low, key) == Ordering::Greater)
                    || high.is_some_and(|high| order.compare(high, key) != Ordering::Greater)
                {
                    return fail(format!("key {i} is outside of the range of its page"));
                }
                let shares = primary.len() >= node.prefix()
                    && primary[..node.prefix()]
                        == order.primary(node.key(first).bytes(self.space))[..node.prefix()];
                if !shares || node.head(i) != head_of(primary, node.prefix()) {
                    return fail(format!("the head of key {i} is not that of the key"));
                }
                before = Some(key);
            }
            if kind == LEAF {
                if let Some(run) = node.value(i).run() {
                    self.run(run)?;
                }
                continue;
            }
            let child_low = if i == 0 { low } else { Some(key) };
            let child_high = match i + 1 < node.count() {
                true => {
                    let next = node.key(i + 1);
                    if let Some(run) = next.run() {
                        self.check_run(run)?;
                    }
                    Some(next.bytes(self.space))
                }
                false => high,
            };
            let found = self.page(order, node.child(i), level - 1, child_low, child_high)?;
            if found != node.entries(i) {
                return fail(format!("child {i} counts {} entries and has {found}", node.entries(i)));
            }
            entries += found;
        }
        Ok(entries)
    }

    fn check_run(&self, run: RunRef) -> Result<(), (u32, String)> {
        let pages = run.pages();
        let chunk = self.space.mapping().chunk_pages();
        let end = u64::from(run.page) + u64::from(pages);
        if run.page < SLOTS || end > u64::from(self.limit) || run.page / chunk != (end - 1) as u32 / chunk {
            return Err((run.page, format!("a run of {pages} pages does not lie in the file and one chunk")));
        }
        if self.space.kind_and_pages(run.page) != (RUN, pages) || self.space.run_header(run.page) != run {
            return Err((run.page, format!("the header is not that of a run of {} bytes", run.len)));
        }
        Ok(())
    }

    fn run(&mut self, run: RunRef) -> Result<(), (u32, String)> {
        self.check_run(run)?;
        self.run_pages += u64::from(run.pages());
        (run.page..run.page + run.pages()).try_for_each(|no| self.meet(no))
    }
}

/// Slots and cells lie in the page, do not overlap, and the free bytes are as counted.
pub(crate) fn check_layout(node: Node) -> Result<(), String> {
    let slots_end = HEADER_BYTES + node.count() * SLOT_BYTES;
    if node.cells() > BODY_BYTES || slots_end > node.cells() {
        return Err(format!("{} slots and cells from {} overlap", node.count(), node.cells()));
    }
    let header = if node.kind() == LEAF { LEAF_CELL_BYTES } else { BRANCH_CELL_BYTES };
    let mut spans = Vec::with_capacity(node.count());
    for i in 0..node.count() {
        let at = node.offset(i);
        if at < node.cells() || at + header > BODY_BYTES || at + node.cell_len(at) > BODY_BYTES {
            return Err(format!("cell {i} at {at} leaves the page"));
        }
        spans.push((at, at + node.cell_len(at)));
    }
    spans.sort_unstable();
    if spans.windows(2).any(|pair| pair[0].1 > pair[1].0) {
        return Err("cells overlap".to_owned());
    }
    let live: usize = spans.iter().map(|(from, to)| to - from).sum();
    if live + node.garbage() != BODY_BYTES - node.cells() {
        return Err(format!("{live} bytes of cells and {} dead ones do not add up", node.garbage()));
    }
    Ok(())
}

#[cfg(test)]
#[path = "walk_tests.rs"]
mod tests;
