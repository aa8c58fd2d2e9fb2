//! etcd's database file (bbolt), written as a stream and read with full validation.
//!
//! Snapshots leave and enter a member in this format: `Maintenance.Snapshot`, `/raft/snapshot`, `etcdutl`.
//! The store itself is `tree`; this crate knows pages, buckets and what etcd keeps in them ([`schema`]), and
//! nothing of how Mainstay keeps it.
//!
//! Invariants:
//! * A written file is complete and closed: every page below the high-water mark is reachable, every branch has
//!   two children or more (bbolt's rebalancing asserts that when a restored member deletes), and the free list
//!   is present and empty, so that opening it needs no scan.
//! * Memory while writing is one leaf and, per level, one branch page and the keys of two more, whatever the
//!   size of the file; large values pass through one page run.
//! * Reading never panics and never loops, whatever the bytes: bounds, depth and the number of pages visited
//!   are checked, and a violation is [`Error::Corrupt`] with the page and the reason.
//!
//! Must not: edit a file in place, follow a bucket's pages without bounds, or map files (the caller may, and
//! hands the slice in).

mod check;
mod error;
mod format;
mod page;
mod reader;
pub mod schema;
mod tree;
mod writer;

pub use check::Report;
pub use error::Error;
pub use format::{DEPTH_MAX, KEY_BYTES_MAX, NESTING_MAX, PAGE_BYTES, VALUE_BYTES_MAX};
pub use reader::{Bucket, Cursor, Database, Entry, FileSource, Source};
pub use writer::{Summary, Writer};
