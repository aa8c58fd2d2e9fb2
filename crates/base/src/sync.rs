//! The primitives of everything that threads share without a queue of the kernel between them: std's in every ordinary
//! build, loom's under `--cfg loom`, so that loom runs the very code that ships (docs/TESTING.md has the command).
//!
//! Code that a model is to see takes its atomics, fences, cells, locks and shared pointers from here and from nowhere
//! else. Must add nothing of its own to an ordinary build: what is not std's here is inlined to what std's would be.
//!
//! Loom takes sequentially consistent loads and stores for acquiring and releasing ones: what must not pass another
//! location's store needs a fence, which is also all that the language promises where one of the two is weaker.

#[cfg(loom)]
pub use loom::{
    cell::UnsafeCell,
    sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence},
    sync::{Arc, Mutex, MutexGuard},
    thread,
};
#[cfg(not(loom))]
pub use std::{
    sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence},
    sync::{Arc, Mutex, MutexGuard},
    thread,
};

/// std's cell with loom's interface: the pointer lives no longer than the closure, so that loom knows when a look ends.
#[cfg(not(loom))]
#[derive(Debug)]
#[repr(transparent)]
pub struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    pub const fn new(value: T) -> UnsafeCell<T> {
        UnsafeCell(std::cell::UnsafeCell::new(value))
    }

    /// For reading: the caller sees to it that nobody writes meanwhile.
    #[inline(always)]
    pub fn with<R>(&self, look: impl FnOnce(*const T) -> R) -> R {
        look(self.0.get())
    }

    /// For writing: the caller sees to it that nobody reads or writes meanwhile.
    #[inline(always)]
    pub fn with_mut<R>(&self, change: impl FnOnce(*mut T) -> R) -> R {
        change(self.0.get())
    }
}

/// Stands in what is freed while other threads could still hold a pointer to it. Nothing in an ordinary build; in a
/// model, a look that is not ordered before the end, or comes after it, fails.
#[derive(Debug, Default)]
pub struct Life {
    #[cfg(loom)]
    ended: UnsafeCell<bool>,
}

impl Life {
    /// By whoever follows a pointer to what this stands in.
    #[inline(always)]
    pub fn look(&self) {
        // SAFETY: the cell is written by `end` alone, and loom fails the model when that races or came before.
        #[cfg(loom)]
        self.ended.with(|ended| assert!(!unsafe { *ended }, "a look at what was freed"));
    }

    /// Frees `owner`, whose life this is. In a model its memory stays, so that a late look finds the flag.
    #[inline(always)]
    pub fn end<T>(owner: Box<T>, life: impl FnOnce(&T) -> &Life) {
        #[cfg(loom)]
        {
            let owner = Box::leak(owner);
            // SAFETY: nobody else writes the cell, and loom fails the model when somebody reads it.
            life(owner).ended.with_mut(|ended| unsafe { *ended = true });
        }
        #[cfg(not(loom))]
        {
            let _ = life;
            drop(owner);
        }
    }
}
