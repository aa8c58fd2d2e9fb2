//! Bounded single-producer single-consumer rings: what crosses between a shard and the log core.
//!
//! Invariants: `head <= tail <= head + capacity`; the slots of `head..tail` are initialised and belong to the
//! consumer, all others to the producer. Neither side ever waits: a full push gives the value back. Waking the
//! other side is not done here (see `server`): it costs a system call and is done once a batch.

use std::cell::Cell;
use std::mem::MaybeUninit;

use crate::sync::{Arc, AtomicUsize, Ordering, UnsafeCell};

/// Keeps the two counters off one cache line (two lines: adjacent-line prefetch).
#[repr(align(128))]
struct Padded(AtomicUsize);

struct Shared<T> {
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
    head: Padded,
    tail: Padded,
}

// SAFETY: a slot is touched by one side at a time, as the counters say; values move between threads, so T: Send.
unsafe impl<T: Send> Sync for Shared<T> {}
// SAFETY: as above; dropping the ring drops values on whichever thread is last.
unsafe impl<T: Send> Send for Shared<T> {}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        let head = self.head.0.load(Ordering::Relaxed);
        let tail = self.tail.0.load(Ordering::Relaxed);
        for position in head..tail {
            let slot = &self.slots[position % self.slots.len()];
            // SAFETY: slots of head..tail are initialised, and this is the only reference left.
            slot.with_mut(|slot| unsafe { (*slot).assume_init_drop() });
        }
    }
}

/// The writing end. Not clonable; may move to another thread.
pub struct Producer<T> {
    shared: Arc<Shared<T>>,
    tail: Cell<usize>,
    head_seen: Cell<usize>,
}

/// The reading end. Not clonable; may move to another thread.
pub struct Consumer<T> {
    shared: Arc<Shared<T>>,
    head: Cell<usize>,
    tail_seen: Cell<usize>,
}

/// A ring of `capacity` slots, which must not be 0.
pub fn ring<T: Send>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    assert!(capacity > 0, "a ring has at least one slot");
    let slots = (0..capacity).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect();
    let shared =
        Arc::new(Shared { slots, head: Padded(AtomicUsize::new(0)), tail: Padded(AtomicUsize::new(0)) });
    let producer = Producer { shared: shared.clone(), tail: Cell::new(0), head_seen: Cell::new(0) };
    (producer, Consumer { shared, head: Cell::new(0), tail_seen: Cell::new(0) })
}

impl<T: Send> Producer<T> {
    /// Slots that are certainly free now; the consumer can only add to them.
    pub fn free(&self) -> usize {
        self.head_seen.set(self.shared.head.0.load(Ordering::Acquire));
        let used = self.tail.get() - self.head_seen.get();
        assert!(used <= self.shared.slots.len(), "the consumer cannot be ahead of the producer");
        self.shared.slots.len() - used
    }

    /// Hands `value` over, or back when the ring is full.
    pub fn push(&self, value: T) -> Result<(), T> {
        let capacity = self.shared.slots.len();
        let tail = self.tail.get();
        if tail - self.head_seen.get() == capacity && self.free() == 0 {
            return Err(value);
        }
        let slot = &self.shared.slots[tail % capacity];
        // SAFETY: the slot at `tail` is outside head..tail, so it belongs to this, the only producer.
        slot.with_mut(|slot| unsafe {
            (*slot).write(value);
        });
        self.tail.set(tail + 1);
        self.shared.tail.0.store(tail + 1, Ordering::Release);
        Ok(())
    }
}

impl<T: Send> Consumer<T> {
    pub fn is_empty(&self) -> bool {
        self.tail_seen.get() == self.head.get() && {
            self.tail_seen.set(self.shared.tail.0.load(Ordering::Acquire));
            self.tail_seen.get() == self.head.get()
        }
    }

    pub fn pop(&self) -> Option<T> {
        if self.is_empty() {
            return None;
        }
        let head = self.head.get();
        assert!(head < self.tail_seen.get(), "a slot is popped once");
        let slot = &self.shared.slots[head % self.shared.slots.len()];
        // SAFETY: head < tail, so the slot is initialised and belongs to this, the only consumer.
        let value = slot.with(|slot| unsafe { (*slot).assume_init_read() });
        self.head.set(head + 1);
        self.shared.head.0.store(head + 1, Ordering::Release);
        Some(value)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn full_rings_give_the_value_back_and_order_holds() {
        let (producer, consumer) = ring(3);
        for round in 0..10 {
            for i in 0..3 {
                producer.push(round * 10 + i).unwrap();
            }
            assert_eq!(producer.free(), 0);
            assert_eq!(producer.push(99), Err(99));
            for i in 0..3 {
                assert_eq!(consumer.pop(), Some(round * 10 + i));
            }
            assert_eq!(consumer.pop(), None);
        }
    }

    #[test]
    fn what_was_never_popped_is_dropped_once() {
        let counted = Arc::new(());
        let (producer, consumer) = ring(8);
        for _ in 0..5 {
            producer.push(counted.clone()).unwrap();
        }
        drop(consumer.pop());
        drop((producer, consumer));
        assert_eq!(Arc::strong_count(&counted), 1);
    }

    #[test]
    fn two_threads_see_every_value_in_order() {
        let (producer, consumer) = ring(16);
        let writer = std::thread::spawn(move || {
            for i in 0..100_000u64 {
                let mut value = i;
                while let Err(back) = producer.push(value) {
                    value = back;
                    std::thread::yield_now();
                }
            }
        });
        for expected in 0..100_000u64 {
            let got = loop {
                match consumer.pop() {
                    Some(value) => break value,
                    None => std::thread::yield_now(),
                }
            };
            assert_eq!(got, expected);
        }
        writer.join().unwrap();
    }
}
