//! From a key to those who watch it: single keys by hash, ranges by the interval tree. Watchers that want the same
//! bytes (same range, same filters, same wish for previous versions) sit in one group.
//!
//! Invariants: a group has members, or it is gone; a watcher sits in one group of one index, and knows its seat.

use std::collections::HashMap;
use std::sync::Arc;

use crate::event::Kind;
use crate::interval::Intervals;

/// Where a range ends. The order is that of the ends themselves, for ranges; a single key is none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// Not a range: the key alone.
    Single,
    Before(Box<[u8]>),
    Infinity,
}

impl End {
    /// For a range: whether `key`, which is not below its begin, is in it.
    pub fn is_after(&self, key: &[u8]) -> bool {
        match self {
            End::Single => false,
            End::Before(end) => **end > *key,
            End::Infinity => true,
        }
    }
}

/// What makes events of one range differ between watchers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flavor {
    pub no_put: bool,
    pub no_delete: bool,
    pub prev: bool,
}

impl Flavor {
    fn wants(self, kind: Kind) -> bool {
        match kind {
            Kind::Put => !self.no_put || base::bug!(FilterIgnored),
            Kind::Delete => !self.no_delete,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interest {
    pub key: Box<[u8]>,
    pub end: End,
    pub flavor: Flavor,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Seat {
    group: u32,
    position: u32,
}

#[derive(Debug)]
struct Group {
    interest: Arc<Interest>,
    members: Vec<u32>,
    /// Events noted for this group, by position in the list that is being matched.
    matched: Vec<u32>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Index {
    groups: slab::Slab<Group>,
    // Never iterated: its order shows nowhere.
    single: HashMap<Box<[u8]>, Vec<u32>>,
    ranges: Intervals,
}

/// What [`Index::note`] found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Noted {
    pub any: bool,
    /// Somebody who matched wants the previous version.
    pub prev: bool,
}

impl Index {
    pub fn new(seed: u64) -> Index {
        Index { groups: slab::Slab::new(), single: HashMap::new(), ranges: Intervals::new(seed) }
    }

    pub fn add(&mut self, interest: &Arc<Interest>, watcher: u32) -> Seat {
        let group = self.find(interest).unwrap_or_else(|| self.open(interest));
        let members = &mut self.groups[group as usize].members;
        members.push(watcher);
        Seat { group, position: members.len() as u32 - 1 }
    }

    /// Empties a seat. `Some`: this watcher now sits there.
    pub fn remove(&mut self, seat: Seat, watcher: u32) -> Option<u32> {
        let group = &mut self.groups[seat.group as usize];
        let removed = group.members.swap_remove(seat.position as usize);
        assert_eq!(removed, watcher, "a watcher knows its seat");
        if group.members.is_empty() {
            let interest = self.groups.remove(seat.group as usize).interest;
            self.close(&interest, seat.group);
            return None;
        }
        group.members.get(seat.position as usize).copied()
    }

    fn find(&self, interest: &Interest) -> Option<u32> {
        if interest.end != End::Single {
            return self.ranges.get(interest);
        }
        let groups = self.single.get(&*interest.key)?;
        groups.iter().copied().find(|&group| self.groups[group as usize].interest.flavor == interest.flavor)
    }

    fn open(&mut self, interest: &Arc<Interest>) -> u32 {
        let group = Group { interest: interest.clone(), members: Vec::new(), matched: Vec::new() };
        let group = self.groups.insert(group) as u32;
        if interest.end == End::Single {
            self.single.entry(interest.key.clone()).or_default().push(group);
        } else {
            self.ranges.insert(interest.clone(), group);
        }
        group
    }

    fn close(&mut self, interest: &Interest, group: u32) {
        if interest.end != End::Single {
            let removed = self.ranges.remove(interest);
            assert_eq!(removed, group, "a range has one group");
            return;
        }
        let groups = self.single.get_mut(&*interest.key).expect("a watched key is in the map");
        groups.retain(|&other| other != group);
        if groups.is_empty() {
            self.single.remove(&*interest.key);
        }
    }

    /// Notes event number `event` for every group that wants it; groups that had nothing noted are added to
    /// `touched`.
    pub fn note(&mut self, key: &[u8], kind: Kind, event: u32, touched: &mut Vec<u32>) -> Noted {
        let mut noted = Noted::default();
        let groups = &mut self.groups;
        let mut found = |slot: u32| {
            let group = &mut groups[slot as usize];
            let flavor = group.interest.flavor;
            if flavor.wants(kind) {
                if group.matched.is_empty() {
                    touched.push(slot);
                }
                group.matched.push(event);
                noted.any = true;
                noted.prev |= flavor.prev;
            }
        };
        if let Some(single) = self.single.get(key) {
            single.iter().for_each(|&slot| found(slot));
        }
        self.ranges.stab(key, &mut found);
        noted
    }

    /// The events noted for a group, ascending. Give the list back by [`Index::forget`].
    pub fn matched(&mut self, group: u32) -> Vec<u32> {
        std::mem::take(&mut self.groups[group as usize].matched)
    }

    /// Gives the list back, so that its memory is used again.
    pub fn forget(&mut self, group: u32, mut matched: Vec<u32>) {
        matched.clear();
        // A burst's memory is not kept for good.
        matched.shrink_to(256);
        self.groups[group as usize].matched = matched;
    }

    pub fn wants_prev(&self, group: u32) -> bool {
        self.groups[group as usize].interest.flavor.prev
    }

    pub fn members(&self, group: u32) -> &[u32] {
        &self.groups[group as usize].members
    }
}

impl Seat {
    /// The seat of the watcher that moved into it.
    pub fn taken_over(self, moved: &mut Seat) {
        assert_eq!(moved.group, self.group, "watchers move within their group");
        moved.position = self.position;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interest(key: &[u8], end: End, flavor: Flavor) -> Arc<Interest> {
        Arc::new(Interest { key: key.into(), end, flavor })
    }

    fn noted(index: &mut Index, key: &[u8], kind: Kind) -> Vec<u32> {
        let mut touched = Vec::new();
        index.note(key, kind, 0, &mut touched);
        let mut watchers = Vec::new();
        for group in touched {
            watchers.extend_from_slice(index.members(group));
            let matched = index.matched(group);
            assert_eq!(matched, [0]);
            index.forget(group, matched);
        }
        watchers.sort_unstable();
        watchers
    }

    #[test]
    fn keys_ranges_and_filters_select() {
        let mut index = Index::new(1);
        let plain = Flavor::default();
        let no_put = Flavor { no_put: true, ..plain };
        let nothing = Flavor { no_put: true, no_delete: true, ..plain };
        let before = |end: &[u8]| End::Before(end.into());
        let mut seats = Vec::new();
        for (watcher, interest) in [
            interest(b"b", End::Single, plain),
            interest(b"b", End::Single, no_put),
            interest(b"b", End::Single, plain),
            interest(b"a", before(b"b"), plain),
            interest(b"a", before(b"c"), no_put),
            interest(b"b", End::Infinity, plain),
            interest(b"a", before(b"z"), nothing),
            interest(b"b", before(b"b\0"), plain),
        ]
        .iter()
        .enumerate()
        {
            seats.push(index.add(interest, watcher as u32));
        }
        assert_eq!(noted(&mut index, b"b", Kind::Put), [0, 2, 5, 7]);
        assert_eq!(noted(&mut index, b"b", Kind::Delete), [0, 1, 2, 4, 5, 7]);
        assert_eq!(noted(&mut index, b"a", Kind::Delete), [3, 4]);
        assert_eq!(noted(&mut index, b"zz", Kind::Put), [5]);
        assert_eq!(noted(&mut index, b"0", Kind::Put), []);

        assert_eq!(index.remove(seats[0], 0), Some(2), "the last of the group takes the seat");
        let mut moved = seats[2];
        seats[0].taken_over(&mut moved);
        seats[2] = moved;
        for (watcher, &seat) in seats.iter().enumerate().skip(1) {
            assert_eq!(index.remove(seat, watcher as u32), None);
        }
        assert_eq!(noted(&mut index, b"b", Kind::Delete), []);
        assert!(index.groups.is_empty() && index.single.is_empty());
    }
}
