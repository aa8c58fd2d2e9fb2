//! The store's ordered maps: several named copy-on-write B+trees in one data file, read in place by any number of
//! threads while one writes.
//!
//! - One writer ([`Store`]), in batches; readers ([`Reader`], [`Snapshot`], [`View`], [`Cursor`]) see whole batches
//!   only, without a lock, as slices of the mapped pages.
//! - A page that a published root reaches never changes; it is used again only when no pin and no durable meta
//!   reaches it (law 6; [`pages`] keeps it, [`pins`] and [`checkpoint`] say who reaches what).
//! - All roots and one opaque stamp stand in the same meta (law 7; [`meta`]).
//! - Memory is private until a checkpoint writes it ([`checkpoint`]); space is reserved before it is needed (law 8).
//!
//! Must not know revisions, Raft, or what a stamp means; reads no clock except to pace a checkpoint's writes.

mod bits;
mod checkpoint;
mod cold;
mod cursor;
mod edit;
mod hold;
mod meta;
mod node;
mod open;
mod order;
mod pages;
mod pins;
mod scrub;
mod shape;
mod shrink;
mod space;
mod store;
mod verify;
mod view;
mod walk;

pub use checkpoint::{CheckpointDone, CheckpointJob, FREEING_CHECKPOINTS};
pub use cold::{DropDone, DropJob, PopulateJob};
pub use cursor::Cursor;
pub use hold::Hold;
pub use open::{OpenError, OpenReport};
pub use order::{KeyOrder, TreeSpec};
pub use pins::{Reader, Readers, Snapshot};
pub use scrub::{ScrubDone, ScrubError, ScrubJob};
pub use store::{GrowJob, NoSpace, Room, Store, Taken};
pub use verify::{VerifyError, VerifyReport, verify, verify_view};
pub use view::View;

/// A tree's position in the specs given at open.
pub type TreeId = usize;

pub const STAMP_WORDS: usize = 16;
/// Opaque words of the caller that stand in the same meta as the roots.
pub type Stamp = [u64; STAMP_WORDS];

/// Sizes of a store; the defaults are the limits of [`base::limits`].
#[derive(Clone, Debug)]
pub struct Options {
    /// The file grows by this, bytes, a power of two; a file keeps the size that it was created with. Also bounds
    /// the longest key or value.
    pub chunk_bytes: u64,
    /// Chunks that may be mapped: the largest file.
    pub max_chunks: usize,
    /// Kept free for what must not fail when the device is full, bytes.
    pub reserve_bytes: u64,
}

impl Options {
    /// The file is to grow ([`Store::grow_job`]) before less than this is free beyond the reserve, bytes.
    pub fn ahead_bytes(&self) -> u64 {
        self.reserve_bytes / 2
    }
}

impl Default for Options {
    fn default() -> Options {
        Options {
            chunk_bytes: base::limits::MAPPING_CHUNK_BYTES,
            max_chunks: base::limits::MAPPING_CHUNKS,
            reserve_bytes: base::limits::DATA_RESERVE_BYTES,
        }
    }
}
