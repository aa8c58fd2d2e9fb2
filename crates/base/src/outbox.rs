//! A ring's writing end that refuses nothing: what does not fit waits, in order, and goes first.
//!
//! For items that must arrive, and whose number something else bounds: the overflow itself has no limit. Never waits
//! and wakes nobody; it only remembers that there is something to wake the other side for.

use std::collections::VecDeque;

use crate::ring::Producer;

/// See the module.
pub struct Outbox<T> {
    ring: Producer<T>,
    overflow: VecDeque<T>,
    has_news: bool,
}

impl<T: Send> Outbox<T> {
    pub fn new(ring: Producer<T>) -> Outbox<T> {
        Outbox { ring, overflow: VecDeque::new(), has_news: false }
    }

    pub fn push(&mut self, item: T) {
        self.has_news = true;
        if !self.overflow.is_empty() {
            self.overflow.push_back(item);
        } else if let Err(item) = self.ring.push(item) {
            self.overflow.push_back(item);
        }
    }

    /// Moves what waits into the ring, as far as it goes: the other side, which emptied the ring, may sleep by now.
    pub fn flush(&mut self) {
        while let Some(item) = self.overflow.pop_front() {
            if let Err(item) = self.ring.push(item) {
                self.overflow.push_front(item);
                break;
            }
            self.has_news = true;
        }
    }

    /// Something waits for room.
    pub fn is_behind(&self) -> bool {
        !self.overflow.is_empty()
    }

    /// Slots of the ring that are certainly free now.
    pub fn free(&self) -> usize {
        self.ring.free()
    }

    /// For items that may be left out: true when nothing waits and more than `kept` slots are free.
    pub fn has_room(&self, kept: usize) -> bool {
        !self.is_behind() && self.free() > kept
    }

    /// Something was pushed, or moved into the ring, since this was last asked: the other side must be woken.
    pub fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.has_news)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Random;
    use crate::ring::ring;

    #[test]
    fn everything_arrives_in_order_and_is_told_of_once() {
        let (producer, consumer) = ring(4);
        let mut outbox = Outbox::new(producer);
        let mut random = Random::new(7);
        let (mut pushed, mut popped, mut was_behind) = (0u64, 0u64, false);
        for _ in 0..10_000 {
            let added = random.below(4);
            for _ in 0..added {
                outbox.push(pushed);
                pushed += 1;
            }
            assert_eq!((outbox.take_news(), outbox.take_news()), (added > 0, false));
            assert!(!outbox.is_behind() || !outbox.has_room(0), "nothing overtakes what waits");
            was_behind |= outbox.is_behind();
            for _ in 0..random.below(5) {
                let Some(item) = consumer.pop() else { break };
                assert_eq!(item, popped);
                popped += 1;
            }
            let free = outbox.free();
            outbox.flush();
            assert_eq!(outbox.take_news(), outbox.free() < free, "what is moved is told of, too");
            let in_ring = 4 - outbox.free() as u64;
            assert_eq!(outbox.is_behind(), pushed - popped > in_ring);
            assert!(!outbox.is_behind() || in_ring == 4, "what waits goes as soon as there is room");
            assert_eq!(outbox.has_room(1), !outbox.is_behind() && in_ring < 3);
        }
        assert!(was_behind, "the ring was too short at times");
    }
}
