//! etcd's key-value state over the `tree` crate: keys, revisions, history, ranges, transactions, compaction, hashes.
//!
//! Pure: no clock, no randomness, no I/O, no network. What happens is a function of (state, request).
//!
//! Invariants:
//! - `LIVE` holds the newest version of every key that exists, `HISTORY` every superseded version and every
//!   tombstone that compaction has not removed yet, `CHANGES` one entry for each of both.
//! - A revision is never empty: whatever raised the current revision has at least one entry in `CHANGES`.
//! - A stored cell is canonical protobuf, so that it is answered, hashed and exported without being looked at.
//!
//! Must not know raft, the wire's framing, or who is allowed to do what.

mod apply;
pub mod cell;
pub mod changes;
mod compact;
mod cursor;
pub mod event;
pub mod export;
pub mod hash;
pub mod quota;
mod range;
mod rows;
mod sort;
pub mod span;
pub mod stamp;
pub mod trees;
mod txn;
pub mod validate;
pub mod versions;

pub use apply::{Apply, Work};
pub use compact::Compaction;
pub use cursor::{RangeCursor, Sizes};
pub use range::{RangeAnswer, default_order, has_filters, push_tail, range};
pub use rows::Rows;
pub use stamp::Revisions;
pub use txn::{is_read_only, is_serializable, txn_read_only};
