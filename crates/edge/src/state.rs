//! What the server tells the edge. The edge asks; it never reaches into the store.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

/// An active alarm, as `/health` and `/readyz` name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alarm {
    NoSpace,
    Corrupt,
    /// A type that this version has no name for; its number.
    Other(i32),
}

impl Alarm {
    /// etcd's name of the type, as `exclude=` spells it.
    pub fn name(self) -> String {
        match self {
            Alarm::NoSpace => "NOSPACE".into(),
            Alarm::Corrupt => "CORRUPT".into(),
            Alarm::Other(number) => number.to_string(),
        }
    }
}

/// The answer of `/version`. `None` before the cluster has agreed, or before the storage has a version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Versions {
    pub server: String,
    pub cluster: Option<String>,
    pub storage: Option<String>,
}

/// What the edge asks of the server. Called on the edge's thread: must not block for longer than a lock-free read,
/// but for `render_metrics`, which may take milliseconds.
pub trait State: Send + Sync + 'static {
    /// The leader's member id; 0 is "none known".
    fn leader(&self) -> u64;
    fn is_learner(&self) -> bool;
    fn alarms(&self) -> Vec<Alarm>;
    fn versions(&self) -> Versions;
    /// One key read from the local snapshot; the error is what the Range would have failed with.
    fn serializable_check(&self) -> Result<(), String>;
    /// The same behind a read barrier. `reply` may be called on any thread, once; dropped uncalled it counts as
    /// "server stopped".
    fn linearizable_check(&self, reply: Reply);
    /// The whole of `/metrics`, Prometheus' text format.
    fn render_metrics(&self) -> String;
    /// `/debug/vars`: name and value, which is JSON already; in the order of names.
    fn debug_vars(&self) -> Vec<(String, String)>;
    /// `/health` was answered so.
    fn health_answered(&self, healthy: bool);
    /// One check of `/livez` or `/readyz` (`kind` without the slash) ended so.
    fn check_answered(&self, kind: &'static str, name: &'static str, ok: bool);
}

struct Slot {
    outcome: Option<Result<(), String>>,
    closed: bool,
    waker: Option<Waker>,
}

/// Carries the outcome of one linearizable check back to the edge, from any thread.
pub struct Reply {
    slot: Arc<Mutex<Slot>>,
}

impl Reply {
    /// The pair: the server's half, and the edge's.
    pub(crate) fn new() -> (Reply, Outcome) {
        let slot = Arc::new(Mutex::new(Slot { outcome: None, closed: false, waker: None }));
        (Reply { slot: slot.clone() }, Outcome { slot })
    }

    pub fn send(self, outcome: Result<(), String>) {
        lock(&self.slot).outcome = Some(outcome);
        // Dropping wakes the edge.
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        let waker = {
            let mut slot = lock(&self.slot);
            slot.closed = true;
            slot.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The edge's half: resolves to what was sent, or to an error when the other half was dropped unused.
pub(crate) struct Outcome {
    slot: Arc<Mutex<Slot>>,
}

impl Future for Outcome {
    type Output = Result<(), String>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slot = lock(&self.slot);
        if let Some(outcome) = slot.outcome.take() {
            return Poll::Ready(outcome);
        }
        if slot.closed {
            return Poll::Ready(Err("etcdserver: server stopped".into()));
        }
        slot.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

/// A panic elsewhere leaves the slot whole: it is three plain words.
fn lock(slot: &Mutex<Slot>) -> std::sync::MutexGuard<'_, Slot> {
    slot.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
