//! The ground that every layer stands on: ids, revisions, time that comes in as a value, checksums, seeded
//! randomness, bounded rings, sleep announcements, varints, and every limit with its unit and reason.
//!
//! Must not know anything else of the project. Reads no clock and no entropy: callers hand both in.

pub mod bug;
pub mod limits;
#[cfg(all(test, loom))]
mod models;
mod outbox;
mod random;
mod revision;
pub mod ring;
pub mod sleep;
pub mod sync;
mod token;
pub mod varint;

pub use crc32c::{crc32c, crc32c_append};
pub use outbox::Outbox;
pub use random::Random;
pub use revision::Revision;
pub use token::CallToken;

/// Milliseconds on the process's monotonic clock. Differences mean something, the value itself does not.
pub type Millis = u64;
/// A Raft log index; 0 is "before the first entry".
pub type Index = u64;
/// A Raft term.
pub type Term = u64;
/// A member or cluster id, as etcd derives them.
pub type MemberId = u64;
/// A lease id; 0 is "no lease".
pub type LeaseId = i64;
