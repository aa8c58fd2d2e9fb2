//! Mapped parts of simulated files: memory that was loaded from the file.
//!
//! The memory comes from a small pool of the thread, so that a store over small chunks is opened without asking the
//! system for anything. What is in it when it is mapped anew never depends on who had it before.

use std::cell::RefCell;
use std::io;
use std::ptr::NonNull;

use super::SimFile;
use crate::{AlignedBuf, BLOCK, Chunk, File};

/// Memory of chunks that a thread keeps for the next ones, at most, bytes.
const POOL_BYTES: usize = 16 << 20;
/// What a chunk over new room holds until it is written: anything may stand there, so nothing that looks right.
const FRESH: u8 = 0xa5;

thread_local! {
    static POOL: RefCell<Vec<AlignedBuf>> = const { RefCell::new(Vec::new()) };
}

fn take(len: usize) -> AlignedBuf {
    let found = POOL.with_borrow_mut(|pool| {
        let at = pool.iter().rposition(|buf| buf.len() == len)?;
        Some(pool.swap_remove(at))
    });
    found.unwrap_or_else(|| AlignedBuf::zeroed(len))
}

fn give_back(memory: AlignedBuf) {
    // A thread that ends has no pool any more, and then the memory just goes.
    let _ = POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        let kept: usize = pool.iter().map(|buf| buf.len()).sum();
        if kept + memory.len() <= POOL_BYTES {
            pool.push(memory);
        }
    });
}

/// All access to the memory is through `base`; the buffer is only kept for its lifetime.
pub(super) struct SimChunk {
    memory: Option<AlignedBuf>,
    base: NonNull<u8>,
    len: usize,
    file: SimFile,
    offset: u64,
}

// SAFETY: the memory is the chunk's own; accesses through `base` are ordered by their callers, as `Chunk` says.
unsafe impl Send for SimChunk {}
// SAFETY: as above.
unsafe impl Sync for SimChunk {}

impl SimChunk {
    /// `fresh`: what stands in the file is of no use.
    pub(super) fn new(file: SimFile, offset: u64, len: usize, fresh: bool) -> io::Result<SimChunk> {
        assert!(len > 0 && len.is_multiple_of(BLOCK), "a chunk is whole blocks, not {len} bytes");
        assert!(offset.is_multiple_of(BLOCK as u64), "a chunk begins at a block, not at {offset}");
        let mut memory = take(len);
        file.read_at(offset, &mut memory)?;
        if fresh {
            memory.fill(FRESH);
        }
        let base = NonNull::new(memory.as_ptr()).expect("an allocation is not null");
        Ok(SimChunk { memory: Some(memory), base, len, file, offset })
    }

    fn assert_within(&self, offset: usize, len: usize) {
        assert!(
            offset.is_multiple_of(BLOCK) && len.is_multiple_of(BLOCK),
            "{offset}, {len}: not whole blocks"
        );
        assert!(offset + len <= self.len, "{offset} + {len} is beyond the chunk");
    }
}

impl Drop for SimChunk {
    fn drop(&mut self) {
        give_back(self.memory.take().expect("a chunk is dropped once"));
    }
}

impl Chunk for SimChunk {
    fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    fn len(&self) -> usize {
        self.len
    }

    fn populate_write(&self, offset: usize, len: usize) -> io::Result<()> {
        self.assert_within(offset, len);
        Ok(())
    }

    fn populate_read(&self, offset: usize, len: usize) -> io::Result<()> {
        self.assert_within(offset, len);
        Ok(())
    }

    fn discard(&self, offset: usize, len: usize) -> io::Result<()> {
        self.assert_within(offset, len);
        if len == 0 {
            return Ok(());
        }
        let mut fresh = take(len);
        self.file.read_at(self.offset + offset as u64, &mut fresh)?;
        // SAFETY: the range lies in the chunk's memory (asserted), nobody uses it meanwhile (contract of
        // `Chunk::discard`), and `fresh` is another allocation of `len` bytes.
        unsafe { std::ptr::copy_nonoverlapping(fresh.as_ptr(), self.base.as_ptr().add(offset), len) };
        give_back(fresh);
        Ok(())
    }

    fn read_ahead(&self, _offset: usize, _len: usize) {}
}
