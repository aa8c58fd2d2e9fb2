//! The only file I/O of the store: what the log and the data file need of a file system, as two object-safe traits,
//! with a real form ([`OsFiles`]) and a simulated twin ([`sim::SimFiles`]).
//!
//! Invariants:
//! - Offsets, lengths and addresses of reads and writes are multiples of [`BLOCK`]; both forms assert it.
//! - Nothing is durable before `sync` or `write_durable` of the file (contents, size) or `sync_dir` (names) returned.
//! - The real form never writes through the page cache: files are opened with O_DIRECT, mappings are private. So
//!   the kernel never writes on its own and every error of a write arrives as the result of a call. A read of a mapping
//!   that fails is a signal, for the program to explain.
//! - An error names what was tried and on which file; its `ErrorKind` and errno are those of the system
//!   ([`errno`], [`is_no_space`]).
//!
//! Must not know what is in a file: no checksums, no formats. Never retries a failed write or sync: after either
//! the caller ends the process (law 8); only [`is_no_space`] of growth is an ordinary answer.

mod buffer;
mod chunk;
mod error;
mod lock;
mod mapping;
mod os;
pub mod probe;
pub mod sim;
mod syncs;
mod uring;

pub use buffer::AlignedBuf;
pub use error::{DiskError, errno, is_no_space, ring_error};
pub use lock::{DirectoryLock, lock_directory};
pub use mapping::Mapping;
pub use os::OsFiles;
pub use sim::SimFiles;

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

/// The unit of every offset and length, bytes.
pub const BLOCK: usize = base::limits::BLOCK_BYTES;

/// How a file is opened. A file is always readable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Read only; `NotFound` when absent.
    Read,
    /// Read and write; `NotFound` when absent.
    ReadWrite,
    /// Read and write a new, empty file; `AlreadyExists` when present. Its name is durable after `sync_dir`.
    CreateNew,
}

/// What the file system asks of direct I/O on a file, bytes (statx's DIOALIGN).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DioAlignment {
    pub memory: u32,
    pub offset: u32,
}

/// The names below one directory. Names are relative to it and may contain one `/`; `""` is the directory itself.
pub trait Files: Send + Sync {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn File>>;
    /// The names in `dir`, sorted; `NotFound` when `dir` is absent.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;
    /// Creates `dir` (mode 0700); no error when it is already there. Durable after `sync_dir("")`.
    fn create_dir(&self, dir: &str) -> io::Result<()>;
    /// Atomic; replaces `to`. Durable after `sync_dir`; of several unsynced changes any subset may survive a crash.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// `NotFound` when absent. The contents live on while the file is open.
    fn remove(&self, name: &str) -> io::Result<()>;
    fn sync_dir(&self, dir: &str) -> io::Result<()>;
    fn exists(&self, name: &str) -> io::Result<bool>;
    /// Bytes that this process may still allocate.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// One open file. All calls may be made from any thread; overlapping writes in flight have no order.
#[expect(clippy::len_without_is_empty, reason = "a length that costs a system call is not an emptiness test")]
pub trait File: Send + Sync {
    fn len(&self) -> io::Result<u64>;
    /// Fills `buf`; `UnexpectedEof` when the file ends before.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
    /// Writes all of `data`; grows the file when needed. Durable only after `sync`.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;
    /// Writes all of `data` and returns when it is durable (RWF_DSYNC). Says nothing of earlier unsynced writes.
    fn write_durable(&self, offset: u64, data: &[u8]) -> io::Result<()>;
    /// Many writes in flight at once, in no order; durable only after `sync`. For checkpoints.
    fn write_many(&self, writes: &[(u64, &[u8])]) -> io::Result<()>;
    /// fdatasync: contents, and the size that finds them. After an error the unsynced writes are lost for good, and so
    /// every later sync of this open file is an error.
    fn sync(&self) -> io::Result<()>;
    /// Grows the file to `len` with room reserved on the device, reading as zeros. No effect when it is as long
    /// already. No room: an error for which [`is_no_space`] holds, and the file may have grown in part.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Sets the length; mapped pages beyond it must not be touched any more.
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// For the log core's own ring; `None` in simulation.
    fn raw_fd(&self) -> Option<RawFd>;
    /// `None` when the file system does not say.
    fn dio_alignment(&self) -> Option<DioAlignment>;
    /// Maps `offset..offset + len`, which must lie within the file, private and copy-on-write.
    fn map(&self, offset: u64, len: usize) -> io::Result<Box<dyn Chunk>>;
    /// The same for a range that was just allocated: what stands there is of no use, and may be read as anything until
    /// it is written or discarded.
    fn map_fresh(&self, offset: u64, len: usize) -> io::Result<Box<dyn Chunk>> {
        self.map(offset, len)
    }
}

/// A private, writable mapping of a part of a file. The memory stays where it is until the chunk is dropped.
/// What is stored here never reaches the file. A page that was not written since `map` or `discard` may or may
/// not show later writes to the file.
///
/// Who writes and reads through [`Chunk::base`] orders these accesses; offsets are multiples of [`BLOCK`].
#[expect(clippy::len_without_is_empty, reason = "a chunk is never empty")]
pub trait Chunk: Send + Sync {
    fn base(&self) -> *mut u8;
    fn len(&self) -> usize;
    /// Makes the pages private memory now, so that a later store does not fault. Contents are unchanged.
    fn populate_write(&self, offset: usize, len: usize) -> io::Result<()>;
    /// Reads the pages in now. An error is a read error of the device, and touching the pages would raise SIGBUS.
    fn populate_read(&self, offset: usize, len: usize) -> io::Result<()>;
    /// Drops the private memory: what is read next is the file's content, or, where the system cannot, still what was
    /// in memory. Nobody may use the pages meanwhile but to read what both have alike.
    fn discard(&self, offset: usize, len: usize) -> io::Result<()>;
    /// Starts reading the range of the file into the system's cache, mapped or not; does not wait, and is only a hint.
    fn read_ahead(&self, offset: usize, len: usize);
    /// The same, for the whole chunk.
    fn warm(&self) {
        self.read_ahead(0, self.len());
    }
}

/// Reads and writes are whole blocks at block addresses, in both forms: O_DIRECT asks for it.
fn assert_aligned(offset: u64, bytes: &[u8]) {
    assert!(offset.is_multiple_of(BLOCK as u64), "offset {offset} is not a multiple of a block");
    assert!(bytes.len().is_multiple_of(BLOCK), "length {} is not a multiple of a block", bytes.len());
    assert!(bytes.as_ptr().addr().is_multiple_of(BLOCK), "the buffer does not begin at a block address");
}

/// Names are written in this program, never taken from outside.
fn assert_name(name: &str) {
    assert!(!name.is_empty() && !name.starts_with('/') && !name.ends_with('/'), "not a file name: {name:?}");
    assert!(name.split('/').count() <= 2 && !name.contains(".."), "not below the directory: {name:?}");
}
