//! What is to happen when: items by virtual time. Ties are broken by a number that the caller draws from the seed, so
//! that everything that may happen at one moment happens in every order, over the seeds.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use base::Random;

/// When an item's turn is: time, tie, number of arrival; and its slot.
type Turn = (u64, u64, u64, usize);

/// Items in the order of their times.
pub(super) struct Queue<T> {
    /// The earliest is the greatest: a heap gives the greatest first.
    heap: BinaryHeap<Reverse<Turn>>,
    /// Apart from the heap, which moves what it orders.
    items: Vec<Option<T>>,
    free: Vec<usize>,
    next: u64,
}

impl<T> Queue<T> {
    pub fn new() -> Queue<T> {
        Queue { heap: BinaryHeap::new(), items: Vec::new(), free: Vec::new(), next: 0 }
    }

    /// `tie` decides among items of the same microsecond; equal ones keep their order.
    pub fn push(&mut self, at_us: u64, tie: u64, item: T) {
        self.next += 1;
        let slot = self.free.pop().unwrap_or(self.items.len());
        if slot == self.items.len() {
            self.items.push(Some(item));
        } else {
            self.items[slot] = Some(item);
        }
        self.heap.push(Reverse((at_us, tie, self.next, slot)));
    }

    pub fn next_us(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((at_us, ..))| *at_us)
    }

    /// The first item, if its time is not after `until_us`.
    pub fn pop_until(&mut self, until_us: u64) -> Option<(u64, T)> {
        self.next_us().filter(|&at_us| at_us <= until_us)?;
        let Reverse((at_us, _, _, slot)) = self.heap.pop()?;
        self.free.push(slot);
        Some((at_us, self.items[slot].take().expect("an item that waits is there")))
    }
}

/// A number in `low..=high` whose order of magnitude is uniform: delays are mostly short and sometimes very long.
pub(super) fn magnitude(random: &mut Random, low: u64, high: u64) -> u64 {
    assert!(0 < low && low <= high, "{low} to {high} has no magnitudes");
    let doublings = (high / low).ilog2();
    let from = low << random.below(u64::from(doublings) + 1);
    (from + random.below(from)).min(high)
}

/// A number in `low..=high`.
pub(super) fn between(random: &mut Random, low: u64, high: u64) -> u64 {
    assert!(low <= high, "{low} to {high} is empty");
    low + random.below(high - low + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_by_time_then_tie_then_order_of_arrival() {
        let mut queue = Queue::new();
        for (at_us, tie, item) in [(5, 0, 'd'), (3, 9, 'c'), (3, 1, 'a'), (3, 1, 'b'), (9, 0, 'e')] {
            queue.push(at_us, tie, item);
        }
        assert_eq!(queue.next_us(), Some(3));
        let mut order = String::new();
        while let Some((_, item)) = queue.pop_until(5) {
            order.push(item);
        }
        assert_eq!(order, "abcd");
        assert_eq!(queue.next_us(), Some(9), "its time has not come");
    }

    #[test]
    fn magnitudes_stay_within_their_bounds_and_reach_both() {
        let mut random = Random::new(3);
        let drawn: Vec<u64> = (0..2000).map(|_| magnitude(&mut random, 10, 5000)).collect();
        assert!(drawn.iter().all(|n| (10..=5000).contains(n)));
        assert!(drawn.iter().any(|n| *n < 20) && drawn.iter().any(|n| *n > 2500));
        assert_eq!(magnitude(&mut random, 7, 7), 7);
    }
}
