//! Many senders, one core: what helper threads and other cores leave for a core, with its doorbell.

use std::sync::{Arc, Mutex, PoisonError};

use super::doorbell::Doorbell;

/// The receiving side belongs to one core; senders are clones of [`Sender`].
pub struct Mailbox<T> {
    queue: Arc<Mutex<Vec<T>>>,
    doorbell: Doorbell,
}

pub struct Sender<T> {
    queue: Arc<Mutex<Vec<T>>>,
    doorbell: Doorbell,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Sender { queue: self.queue.clone(), doorbell: self.doorbell.clone() }
    }
}

impl<T: Send> Mailbox<T> {
    pub fn new(doorbell: Doorbell) -> Mailbox<T> {
        Mailbox { queue: Arc::default(), doorbell }
    }

    pub fn sender(&self) -> Sender<T> {
        Sender { queue: self.queue.clone(), doorbell: self.doorbell.clone() }
    }

    pub fn is_empty(&self) -> bool {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Everything that waits, in order, into `into` (which must be empty).
    pub fn take(&self, into: &mut Vec<T>) {
        assert!(into.is_empty(), "what was taken before must be handled first");
        std::mem::swap(&mut *self.queue.lock().unwrap_or_else(PoisonError::into_inner), into);
    }
}

impl<T: Send> Sender<T> {
    pub fn send(&self, value: T) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).push(value);
        self.doorbell.ring();
    }
}
