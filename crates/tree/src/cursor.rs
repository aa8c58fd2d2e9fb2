//! A position among a tree's entries, in either direction.
//!
//! Holds the page and slot of every level; a step costs a slot, and at a page's end a walk up and down. Keeps no copy
//! of anything: key and value are slices of the pages.

use crate::TreeId;
use crate::node::{Node, Probe};
use crate::view::{LEVELS_MAX, View};

/// Over one tree of one view. New cursors, and those that ran past either end, are at no entry.
#[derive(Clone)]
pub struct Cursor<'a> {
    view: View<'a>,
    tree: TreeId,
    /// From the root down; the last of `depth` is the leaf. `at` of a branch is the child below.
    path: [Step; LEVELS_MAX],
    depth: usize,
    leaf: Option<Node<'a>>,
    at: usize,
    count: usize,
    /// Children of the leaf's parent below this were asked for ahead.
    fetched: u16,
}

/// How many leaves a walk has the processor load ahead: a leaf is read in less time than it takes to come.
const LEAVES_AHEAD: usize = 2;

#[derive(Clone, Copy, Default)]
struct Step {
    page: u32,
    at: u16,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(view: View<'a>, tree: TreeId) -> Cursor<'a> {
        let root = view.tree(tree);
        assert!(usize::from(root.level) < LEVELS_MAX, "a tree of {} levels", root.level);
        let depth = usize::from(root.level);
        Cursor {
            view,
            tree,
            path: [Step::default(); LEVELS_MAX],
            depth,
            leaf: None,
            at: 0,
            count: 0,
            fetched: 0,
        }
    }

    fn enter(&mut self, leaf: Node<'a>) {
        assert!(leaf.level() == 0, "a descent of a tree's height ends at a leaf");
        self.count = leaf.count();
        self.leaf = Some(leaf);
    }

    /// From `page` at `level` of the path down to a leaf, always by the first or the last child.
    fn descend(&mut self, mut page: u32, level: usize, last: bool) {
        for step in level..self.depth {
            let node = self.view.space().node(page);
            let at = if last { node.count() - 1 } else { 0 };
            self.path[step] = Step { page, at: at as u16 };
            self.fetched = 0;
            page = node.child(at);
        }
        self.enter(self.view.space().node(page));
        self.at = if last { self.count - 1 } else { 0 };
    }

    /// Down to the leaf whose range holds `key`; the position where it stands or would stand, and which it is.
    fn route(&mut self, key: &[u8]) -> Option<bool> {
        let root = self.view.tree(self.tree);
        self.leaf = None;
        if root.page == 0 {
            return None;
        }
        self.fetched = 0;
        let space = self.view.space();
        let probe = Probe::new(self.view.order(self.tree), key);
        let mut page = root.page;
        for step in 0..self.depth {
            let node = space.node(page);
            let at = node.route(space, &probe);
            self.path[step] = Step { page, at: at as u16 };
            page = node.child(at);
        }
        let leaf = space.node(page);
        self.enter(leaf);
        let found = leaf.find(space, &probe);
        let (Ok(at) | Err(at)) = found;
        self.at = at;
        Some(found.is_ok())
    }

    /// To the next leaf to the right, or to no entry.
    fn leaf_after(&mut self) -> bool {
        for level in (0..self.depth).rev() {
            let Step { page, at } = self.path[level];
            let node = self.view.space().node(page);
            let next = usize::from(at) + 1;
            if next < node.count() {
                self.path[level].at = next as u16;
                self.descend(node.child(next), level + 1, false);
                if level + 1 == self.depth {
                    self.look_ahead(node, next);
                }
                return true;
            }
        }
        self.leaf = None;
        false
    }

    /// A walk that came to a second leaf will want those behind it: whole, as answers copy what they hold.
    fn look_ahead(&mut self, parent: Node<'a>, at: usize) {
        let wanted = (at + 1 + LEAVES_AHEAD).min(parent.count());
        for ahead in (at + 1).max(usize::from(self.fetched))..wanted {
            self.view.space().prefetch(parent.child(ahead));
        }
        self.fetched = wanted as u16;
    }

    /// To the last entry of the next leaf to the left, or to no entry.
    fn leaf_before(&mut self) -> bool {
        for level in (0..self.depth).rev() {
            let Step { page, at } = self.path[level];
            if at > 0 {
                self.path[level].at = at - 1;
                let child = self.view.space().node(page).child(usize::from(at) - 1);
                self.descend(child, level + 1, true);
                return true;
            }
        }
        self.leaf = None;
        false
    }

    /// To the first entry at or above `key`; true when there is one.
    pub fn seek(&mut self, key: &[u8]) -> bool {
        match self.route(key) {
            None => false,
            Some(_) if self.at < self.count => true,
            Some(_) => self.leaf_after(),
        }
    }

    /// To the entry of `key`; when there is none, to no entry.
    pub fn seek_exact(&mut self, key: &[u8]) -> bool {
        let found = self.route(key) == Some(true);
        if !found {
            self.leaf = None;
        }
        found
    }

    /// To the last entry below `key`; true when there is one.
    pub fn seek_before(&mut self, key: &[u8]) -> bool {
        match self.route(key) {
            None => false,
            Some(_) if self.at > 0 => {
                self.at -= 1;
                true
            }
            Some(_) => self.leaf_before(),
        }
    }

    pub fn seek_first(&mut self) -> bool {
        self.seek_end(false)
    }

    pub fn seek_last(&mut self) -> bool {
        self.seek_end(true)
    }

    fn seek_end(&mut self, last: bool) -> bool {
        let root = self.view.tree(self.tree);
        self.leaf = None;
        if root.page != 0 {
            self.descend(root.page, 0, last);
        }
        self.leaf.is_some()
    }

    /// One entry on; true when there is one. A cursor at no entry stays there.
    #[expect(
        clippy::should_implement_trait,
        reason = "a cursor goes both ways and lends entries, it yields none"
    )]
    #[inline]
    pub fn next(&mut self) -> bool {
        if self.leaf.is_none() {
            return false;
        }
        self.at += 1;
        self.at < self.count || self.leaf_after()
    }

    /// One entry back; true when there is one. A cursor at no entry stays there.
    #[inline]
    pub fn prev(&mut self) -> bool {
        if self.leaf.is_none() {
            return false;
        }
        if self.at > 0 {
            self.at -= 1;
            return true;
        }
        self.leaf_before()
    }

    #[inline]
    pub fn valid(&self) -> bool {
        self.leaf.is_some()
    }

    /// The key of the entry. Panics when the cursor is at none.
    #[inline]
    pub fn key(&self) -> &'a [u8] {
        self.leaf.expect("the cursor is at an entry").key(self.at).bytes(self.view.space())
    }

    /// The value of the entry, one slice. Panics when the cursor is at none.
    #[inline]
    pub fn value(&self) -> &'a [u8] {
        self.leaf.expect("the cursor is at an entry").value(self.at).bytes(self.view.space())
    }

    pub fn view(&self) -> View<'a> {
        self.view
    }
}
