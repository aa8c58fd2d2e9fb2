//! Lookups in one root: get, length, rank. Lock-free; see [`crate::space`] for why the slices hold still.

use crate::cursor::Cursor;
use crate::node::Probe;
use crate::order::Order;
use crate::pins::{Readers, Root, TreeRoot};
use crate::space::Space;
use crate::{Stamp, TreeId};

/// Levels of the highest tree that is read: a branch that was split holds at least three entries, so this is far
/// beyond any file.
pub(crate) const LEVELS_MAX: usize = 32;

/// All trees as one root has them.
#[derive(Clone, Copy)]
pub struct View<'a> {
    readers: &'a Readers,
    root: &'a Root,
}

impl<'a> View<'a> {
    #[inline]
    pub(crate) fn new(readers: &'a Readers, root: &'a Root) -> View<'a> {
        View { readers, root }
    }

    #[inline]
    pub(crate) fn space(self) -> &'a Space {
        self.readers.space()
    }

    #[inline]
    pub(crate) fn order(self, tree: TreeId) -> Order {
        self.readers.order(tree)
    }

    #[inline]
    pub(crate) fn tree(self, tree: TreeId) -> TreeRoot {
        self.root.trees[tree]
    }

    pub(crate) fn specs(self) -> &'static [crate::TreeSpec] {
        self.readers.specs()
    }

    /// The number of trees.
    pub fn trees(self) -> usize {
        self.root.trees.len()
    }

    /// The value of `key`: always one slice.
    #[inline]
    pub fn get(&self, tree: TreeId, key: &[u8]) -> Option<&'a [u8]> {
        let root = self.tree(tree);
        if root.page == 0 {
            return None;
        }
        let space = self.space();
        let probe = Probe::new(self.order(tree), key);
        let mut node = space.node(root.page);
        for _ in 0..root.level {
            node = space.node(node.child(node.route(space, &probe)));
        }
        assert!(node.level() == 0, "a descent of a tree's height ends at a leaf");
        let at = node.find(space, &probe).ok()?;
        Some(node.value(at).bytes(space))
    }

    pub fn cursor(&self, tree: TreeId) -> Cursor<'a> {
        Cursor::new(*self, tree)
    }

    /// Entries of the tree.
    pub fn len(&self, tree: TreeId) -> u64 {
        self.tree(tree).entries
    }

    pub fn is_empty(&self, tree: TreeId) -> bool {
        self.len(tree) == 0
    }

    /// How many keys are below `key`, in as many steps as the tree has levels.
    pub fn rank(&self, tree: TreeId, key: &[u8]) -> u64 {
        let root = self.tree(tree);
        if root.page == 0 {
            return 0;
        }
        let space = self.space();
        let probe = Probe::new(self.order(tree), key);
        let mut node = space.node(root.page);
        let mut rank = 0;
        for _ in 0..root.level {
            let child = node.route(space, &probe);
            // Of the two sides, the one with fewer cells to touch would do; counts stand beside the children.
            rank += (0..child).map(|i| node.entries(i)).sum::<u64>();
            node = space.node(node.child(child));
        }
        assert!(node.level() == 0, "a descent of a tree's height ends at a leaf");
        let (Ok(at) | Err(at)) = node.find(space, &probe);
        rank + at as u64
    }

    #[inline]
    pub fn stamp(&self) -> &'a Stamp {
        &self.root.stamp
    }

    /// The publication that this root is, or will be when it is the writer's open batch.
    pub fn publication(&self) -> u64 {
        self.root.publication
    }
}
