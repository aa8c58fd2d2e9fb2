//! What other threads hand to the edge: sockets that turned out to speak HTTP/1.x, and "stop".
//!
//! Invariants: nobody waits here; a full mailbox gives the socket back; a wake-up is never lost, because the queue
//! and the waker stand under the same lock. The lock is held for a few instructions only.

use std::collections::VecDeque;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use base::limits::EDGE_MAILBOX;

use crate::route::Surface;

/// A connection on its way to the edge.
pub(crate) struct Arrival {
    pub socket: OwnedFd,
    /// What was read from it before.
    pub read: Vec<u8>,
    pub surface: Surface,
}

#[derive(Default)]
struct Inner {
    arrivals: VecDeque<Arrival>,
    stopping: bool,
    waker: Option<Waker>,
}

/// The sending end; clones are cheap and usable on any thread.
#[derive(Clone, Default)]
pub struct Handle {
    inner: Arc<Mutex<Inner>>,
}

impl Handle {
    /// Hands over a connected stream socket and the bytes already read from it. `Err` gives the socket back when the
    /// edge is stopping or has too many untaken: close it.
    pub fn adopt(&self, socket: OwnedFd, read: Vec<u8>, surface: Surface) -> Result<(), OwnedFd> {
        let waker = {
            let mut inner = self.lock();
            if inner.stopping || inner.arrivals.len() >= EDGE_MAILBOX {
                return Err(socket);
            }
            inner.arrivals.push_back(Arrival { socket, read, surface });
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    /// Asks the edge to end: it stops accepting, answers what is under way and ends its thread. Any number of times.
    pub fn stop(&self) {
        let waker = {
            let mut inner = self.lock();
            inner.stopping = true;
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(crate) fn stopping(&self) -> bool {
        self.lock().stopping
    }

    /// The next arrival, or `None` once stopping.
    pub(crate) fn next(&self) -> Next<'_> {
        Next { handle: self }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

pub(crate) struct Next<'a> {
    handle: &'a Handle,
}

impl Future for Next<'_> {
    type Output = Option<Arrival>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Arrival>> {
        let mut inner = self.handle.lock();
        if inner.stopping {
            inner.arrivals.clear();
            return Poll::Ready(None);
        }
        match inner.arrivals.pop_front() {
            Some(arrival) => Poll::Ready(Some(arrival)),
            None => {
                inner.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}
