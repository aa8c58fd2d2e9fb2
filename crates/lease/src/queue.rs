//! Times at which a lease must be looked at, in order.
//!
//! Invariant: a lease has at most one entry, and its record says which ([`NEVER`]: none). The record's own deadline
//! may be later than the entry: whoever takes the entry looks at the record and puts the lease back. It is never
//! earlier: the queue would sleep through it.

use std::collections::BTreeSet;

use base::{LeaseId, Millis};

/// Not queued; also the expiry of a lease that has none.
pub const NEVER: Millis = Millis::MAX;

#[derive(Debug, Default)]
pub struct Queue {
    entries: BTreeSet<(Millis, LeaseId)>,
}

impl Queue {
    pub fn clear(&mut self) {
        self.entries.clear();
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The earliest entry.
    pub fn first(&self) -> Option<(Millis, LeaseId)> {
        self.entries.first().copied()
    }

    /// Moves the entry of `id` from `*at` to `to`; [`NEVER`] on either side means that there is, or will be, none.
    pub fn set(&mut self, id: LeaseId, at: &mut Millis, to: Millis) {
        if *at == to {
            return;
        }
        if *at != NEVER {
            assert!(self.entries.remove(&(*at, id)), "lease {id} says it is queued at {at}");
        }
        if to != NEVER {
            assert!(self.entries.insert((to, id)), "lease {id} is queued once");
        }
        *at = to;
    }
}
