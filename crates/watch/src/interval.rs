//! Ranges that contain a point: a treap ordered by (begin, end, flavour) in which every node knows the farthest end
//! of its subtree.
//!
//! Invariants: in-order is ascending and without duplicates; a parent's priority is not below its children's; `far`
//! is the node of the subtree with the greatest end. Expected depth is logarithmic whatever the order of insertion,
//! as nobody outside knows the priorities.

use std::cmp::Ordering;
use std::sync::Arc;

use base::Random;

use crate::index::{End, Interest};

const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Node {
    interest: Arc<Interest>,
    value: u32,
    priority: u64,
    left: u32,
    right: u32,
    far: u32,
}

/// Maps ranges to values.
#[derive(Debug)]
pub struct Intervals {
    nodes: slab::Slab<Node>,
    root: u32,
    random: Random,
}

impl Intervals {
    pub fn new(seed: u64) -> Intervals {
        Intervals { nodes: slab::Slab::new(), root: NONE, random: Random::new(seed) }
    }

    pub fn get(&self, interest: &Interest) -> Option<u32> {
        let mut at = self.root;
        while at != NONE {
            let node = &self.nodes[at as usize];
            at = match interest.cmp(&node.interest) {
                Ordering::Less => node.left,
                Ordering::Greater => node.right,
                Ordering::Equal => return Some(node.value),
            };
        }
        None
    }

    /// `interest` must not be there yet.
    pub fn insert(&mut self, interest: Arc<Interest>, value: u32) {
        assert!(!matches!(interest.end, End::Single), "single keys are not ranges");
        let priority = self.random.next_u64();
        let node = Node { interest, value, priority, left: NONE, right: NONE, far: NONE };
        let slot = self.nodes.insert(node) as u32;
        self.refresh(slot);
        self.root = self.insert_at(self.root, slot);
    }

    /// `interest` must be there; its value.
    pub fn remove(&mut self, interest: &Interest) -> u32 {
        let (root, removed) = self.remove_at(self.root, interest);
        self.root = root;
        self.nodes.remove(removed as usize).value
    }

    /// Calls `found` for every range that contains `key`, in order.
    pub fn stab(&self, key: &[u8], found: &mut impl FnMut(u32)) {
        self.stab_at(self.root, key, found);
    }

    fn stab_at(&self, at: u32, key: &[u8], found: &mut impl FnMut(u32)) {
        if at == NONE {
            return;
        }
        let node = &self.nodes[at as usize];
        if !self.nodes[node.far as usize].interest.end.is_after(key) {
            return;
        }
        self.stab_at(node.left, key, found);
        if *node.interest.key <= *key {
            if node.interest.end.is_after(key) {
                found(node.value);
            }
            self.stab_at(node.right, key, found);
        }
    }

    fn insert_at(&mut self, at: u32, slot: u32) -> u32 {
        if at == NONE {
            return slot;
        }
        if self.nodes[slot as usize].priority > self.nodes[at as usize].priority {
            let (left, right) = self.split(at, slot);
            let node = &mut self.nodes[slot as usize];
            (node.left, node.right) = (left, right);
            self.refresh(slot);
            return slot;
        }
        match self.nodes[slot as usize].interest.cmp(&self.nodes[at as usize].interest) {
            Ordering::Less => {
                let left = self.insert_at(self.nodes[at as usize].left, slot);
                self.nodes[at as usize].left = left;
            }
            Ordering::Greater => {
                let right = self.insert_at(self.nodes[at as usize].right, slot);
                self.nodes[at as usize].right = right;
            }
            Ordering::Equal => panic!("a range is inserted once"),
        }
        self.refresh(at);
        at
    }

    /// Parts the subtree into what is before and what is after the range of `slot`.
    fn split(&mut self, at: u32, slot: u32) -> (u32, u32) {
        if at == NONE {
            return (NONE, NONE);
        }
        match self.nodes[at as usize].interest.cmp(&self.nodes[slot as usize].interest) {
            Ordering::Less => {
                let (left, right) = self.split(self.nodes[at as usize].right, slot);
                self.nodes[at as usize].right = left;
                self.refresh(at);
                (at, right)
            }
            Ordering::Greater => {
                let (left, right) = self.split(self.nodes[at as usize].left, slot);
                self.nodes[at as usize].left = right;
                self.refresh(at);
                (left, at)
            }
            Ordering::Equal => panic!("a range is inserted once"),
        }
    }

    /// The new root of the subtree and the node taken out of it.
    fn remove_at(&mut self, at: u32, interest: &Interest) -> (u32, u32) {
        assert!(at != NONE, "a range that is removed is there");
        let (left, right) = (self.nodes[at as usize].left, self.nodes[at as usize].right);
        let removed = match interest.cmp(&self.nodes[at as usize].interest) {
            Ordering::Equal => return (self.merge(left, right), at),
            Ordering::Less => {
                let (left, removed) = self.remove_at(left, interest);
                self.nodes[at as usize].left = left;
                removed
            }
            Ordering::Greater => {
                let (right, removed) = self.remove_at(right, interest);
                self.nodes[at as usize].right = right;
                removed
            }
        };
        self.refresh(at);
        (at, removed)
    }

    fn merge(&mut self, left: u32, right: u32) -> u32 {
        if left == NONE || right == NONE {
            return if left == NONE { right } else { left };
        }
        let root = if self.nodes[left as usize].priority > self.nodes[right as usize].priority {
            let merged = self.merge(self.nodes[left as usize].right, right);
            self.nodes[left as usize].right = merged;
            left
        } else {
            let merged = self.merge(left, self.nodes[right as usize].left);
            self.nodes[right as usize].left = merged;
            right
        };
        self.refresh(root);
        root
    }

    fn refresh(&mut self, at: u32) {
        let node = &self.nodes[at as usize];
        let mut far = at;
        for child in [node.left, node.right] {
            if child != NONE {
                let theirs = self.nodes[child as usize].far;
                if self.nodes[theirs as usize].interest.end > self.nodes[far as usize].interest.end {
                    far = theirs;
                }
            }
        }
        self.nodes[at as usize].far = far;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Flavor;

    fn interest(begin: u64, end: u64) -> Interest {
        let key = |n: u64| n.to_be_bytes()[6..].into();
        let end = if end > 300 { End::Infinity } else { End::Before(key(end)) };
        Interest { key: key(begin), end, flavor: Flavor::default() }
    }

    impl Intervals {
        /// The subtree's depth; checks the invariants on the way.
        fn check(&self, at: u32) -> usize {
            if at == NONE {
                return 0;
            }
            let node = &self.nodes[at as usize];
            let far = &self.nodes[node.far as usize].interest.end;
            assert!(*far >= node.interest.end);
            let depths =
                [(node.left, Ordering::Less), (node.right, Ordering::Greater)].map(|(child, order)| {
                    if child != NONE {
                        let child = &self.nodes[child as usize];
                        assert_eq!(child.interest.cmp(&node.interest), order);
                        assert!(child.priority <= node.priority);
                        assert!(self.nodes[child.far as usize].interest.end <= *far);
                    }
                    self.check(child)
                });
            1 + depths[0].max(depths[1])
        }
    }

    #[test]
    fn stabs_match_a_plain_list() {
        let mut random = Random::new(3);
        let mut tree = Intervals::new(4);
        let mut plain: Vec<(Interest, u32)> = Vec::new();
        for value in 0..6000 {
            let begin = random.below(256);
            let new = interest(begin, begin + 1 + random.below(100));
            let there = plain.iter().position(|(interest, _)| *interest == new);
            assert_eq!(tree.get(&new), there.map(|i| plain[i].1));
            match there {
                None => {
                    tree.insert(Arc::new(interest(begin, 0)).with_end_of(&new), value);
                    plain.push((new, value));
                }
                Some(i) => {
                    let (interest, value) = plain.swap_remove(i);
                    assert_eq!(tree.remove(&interest), value);
                }
            }
            if value % 8 == 0 {
                tree.check(tree.root);
                let key = &random.below(300).to_be_bytes()[6..];
                let mut found = Vec::new();
                tree.stab(key, &mut |value| found.push(value));
                let mut expected: Vec<_> = plain
                    .iter()
                    .filter(|(interest, _)| *interest.key <= *key && interest.end.is_after(key))
                    .collect();
                expected.sort_by(|a, b| a.0.cmp(&b.0));
                assert_eq!(found, expected.iter().map(|(_, value)| *value).collect::<Vec<_>>());
            }
        }
        assert_eq!(tree.nodes.len(), plain.len());
    }

    #[test]
    fn sorted_insertion_stays_shallow() {
        let mut tree = Intervals::new(1);
        for i in 0..20_000u64 {
            let key = i.to_be_bytes();
            let end = End::Before((i + 1).to_be_bytes().into());
            tree.insert(Arc::new(Interest { key: key.into(), end, flavor: Flavor::default() }), i as u32);
        }
        assert!(tree.check(tree.root) < 60, "logarithmic, not linear");
    }

    impl Interest {
        fn with_end_of(self: Arc<Self>, other: &Interest) -> Arc<Interest> {
            Arc::new(Interest { key: self.key.clone(), end: other.end.clone(), flavor: self.flavor })
        }
    }
}
