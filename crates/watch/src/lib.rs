//! The watchers of one shard: who watches what, up to where each has been served, and the bytes that each gets next.
//! Pure: event batches, requests and time come in, responses go out through an [`Outlet`].
//!
//! Every watcher has a next revision that never decreases, and is in one of four places:
//!
//! | place | meaning | leaves it |
//! |---|---|---|
//! | synced | everything it asked for up to [`Watchers::head`] is queued; also when its start is still to come | its queue is full, or a gap |
//! | behind | reads its way through history, [`Watchers::catch_up`] | it reaches the head |
//! | stalled | is behind and its queue is full | [`Watchers::drained`] |
//! | compacted | was cancelled because its next revision is gone; keeps its id until the client cancels it | cancel |
//!
//! Invariants:
//! - A watcher gets each matching event exactly once, in revision order, all of one revision in one response (or its
//!   fragments). A full queue delays; nothing is ever dropped (law 12).
//! - `head` is the last revision up to which batches were delivered or declared missing. No response tells of events
//!   beyond it, and progress says exactly it.
//! - Progress, created and cancelled answers take the same way out as events: a stream's order is the order of the
//!   calls to its outlet. So progress R stands behind every event up to R.
//! - Events are encoded once for all watchers that want the same: what is a watcher's own is the head of a response,
//!   which goes before the shared bytes (protobuf fields may be concatenated).
//!
//! Where etcd's answers depend on its timing (how catch-up is cut into responses), so do ours; where they do not, they
//! are the same. Must not: know HTTP, take a lock, read a clock, hold a snapshot between calls.

mod catch_up;
mod deliver;
mod event;
mod index;
mod interval;
mod progress;
mod sheet;
mod watchers;
mod wire;

pub use event::{Batch, Change, EventRef, History, Kind, is_create};
pub use sheet::{Parts, Responses};
pub use watchers::{Counts, Options, Outlet, Watchers};
