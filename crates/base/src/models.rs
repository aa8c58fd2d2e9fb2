//! Models of rings and sleep announcements: every schedule of two or three threads within the bound, every value that
//! the orderings allow a load to have. docs/TESTING.md says how they are run and what each of them guards.

use std::sync::PoisonError;

use loom::sync::{Arc, Condvar, Mutex, Notify};
use loom::thread;

use crate::ring::ring;
use crate::sleep::SleepFlag;

/// All schedules with at most so many switches away from a thread that could go on.
fn model(preemptions: usize, run: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(run);
}

/// A wake-up that stays until it is taken, as an eventfd's count does.
#[derive(Default)]
struct Descriptor {
    count: Mutex<u64>,
    rung: Condvar,
}

impl Descriptor {
    fn write(&self) {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.rung.notify_one();
    }

    /// Sleeps until it was written, and empties it.
    fn wait(&self) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        while *count == 0 {
            count = self.rung.wait(count).unwrap_or_else(PoisonError::into_inner);
        }
        *count = 0;
    }
}

#[test]
fn a_ring_gives_every_value_once_and_in_order() {
    model(3, || {
        let (producer, consumer) = ring(2);
        let writer = thread::spawn(move || {
            for i in 0..3u64 {
                let mut value = Box::new(i);
                while let Err(back) = producer.push(value) {
                    value = back;
                    thread::yield_now();
                }
            }
        });
        for expected in 0..3 {
            let got = loop {
                match consumer.pop() {
                    Some(value) => break value,
                    None => thread::yield_now(),
                }
            };
            assert_eq!(*got, expected);
        }
        writer.join().unwrap();
        assert!(consumer.pop().is_none());
    });
}

/// Loom's `Arc`s say at the end of every schedule when one was not dropped.
#[test]
fn what_a_ring_holds_when_both_ends_go_is_dropped_once() {
    model(3, || {
        let counted = Arc::new(());
        let (producer, consumer) = ring(2);
        let values = [counted.clone(), counted.clone()];
        let writer = thread::spawn(move || {
            for value in values {
                assert!(producer.push(value).is_ok(), "it has two slots");
            }
        });
        let reader = thread::spawn(move || drop(consumer.pop()));
        writer.join().unwrap();
        reader.join().unwrap();
        assert_eq!(Arc::strong_count(&counted), 1);
    });
}

#[test]
fn free_slots_are_free() {
    model(3, || {
        let (producer, consumer) = ring(1);
        assert!(producer.push(0).is_ok());
        let reader = thread::spawn(move || assert_eq!(consumer.pop(), Some(0)));
        if producer.free() == 1 {
            assert!(producer.push(1).is_ok(), "what is free stays free");
        }
        reader.join().unwrap();
    });
}

/// The loop of a core: turn, announce, look again, sleep.
fn work_until(
    sleep: &SleepFlag,
    descriptor: &Descriptor,
    has_work: impl Fn() -> bool,
    turn: impl Fn() -> bool,
) {
    while !turn() {
        sleep.announce_sleep();
        if !has_work() {
            descriptor.wait();
        }
        sleep.announce_awake();
    }
}

/// With `values` from each of `wakers`, each by a ring of its own: a wake-up that is lost is a deadlock.
fn wakes(wakers: usize, values: usize, preemptions: usize) {
    model(preemptions, move || {
        let bell = Arc::new((SleepFlag::default(), Descriptor::default()));
        let (mut threads, mut consumers) = (Vec::new(), Vec::new());
        for _ in 0..wakers {
            let (producer, consumer) = ring(values);
            consumers.push(consumer);
            let bell = bell.clone();
            threads.push(thread::spawn(move || {
                for i in 0..values {
                    assert!(producer.push(i).is_ok());
                    bell.0.ring(|| bell.1.write());
                }
            }));
        }
        let taken = std::cell::Cell::new(0);
        work_until(
            &bell.0,
            &bell.1,
            || consumers.iter().any(|consumer| !consumer.is_empty()),
            || {
                for consumer in &consumers {
                    while consumer.pop().is_some() {
                        taken.set(taken.get() + 1);
                    }
                }
                taken.get() == wakers * values
            },
        );
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn a_sleeper_is_woken_by_whoever_has_work_for_it() {
    wakes(1, 1, 4);
}

#[test]
fn a_sleeper_is_woken_time_and_again() {
    wakes(1, 2, 3);
}

#[test]
fn of_two_wakers_neither_is_forgotten() {
    wakes(2, 1, 2);
}

/// A mailbox is a lock, not a ring: the announcement must be as good for work behind that.
#[test]
fn work_behind_a_lock_wakes_too() {
    model(3, || {
        let shared = Arc::new((SleepFlag::default(), Notify::new(), Mutex::new(0)));
        let waker = {
            let shared = shared.clone();
            thread::spawn(move || {
                *shared.2.lock().unwrap() += 1;
                shared.0.ring(|| shared.1.notify());
            })
        };
        while *shared.2.lock().unwrap() == 0 {
            shared.0.announce_sleep();
            if *shared.2.lock().unwrap() == 0 {
                shared.1.wait();
            }
            shared.0.announce_awake();
        }
        waker.join().unwrap();
    });
}
