//! Memory that O_DIRECT accepts.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use crate::BLOCK;

/// Bytes at a block address, a whole number of blocks, zeroed at first. Never moves, never grows.
pub struct AlignedBuf {
    start: NonNull<u8>,
    len: usize,
    tag: u32,
}

// SAFETY: the buffer owns its memory and has no interior mutability, as a Box<[u8]>.
unsafe impl Send for AlignedBuf {}
// SAFETY: as above; a shared reference only reads.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// `len` bytes, rounded up to whole blocks; at least one block.
    pub fn zeroed(len: usize) -> AlignedBuf {
        let len = len.max(1).next_multiple_of(BLOCK);
        let layout = Self::layout(len);
        // SAFETY: the layout is not of size zero.
        let start = unsafe { alloc_zeroed(layout) };
        AlignedBuf { start: NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout)), len, tag: 0 }
    }

    /// The first byte. Valid for reads and writes of `len()` bytes while the buffer lives.
    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// A mark of whoever writes the buffer out, 0 at first. It goes with the memory: that of another buffer at the
    /// same address, after this one is gone, is its own.
    pub fn tag(&self) -> u32 {
        self.tag
    }

    pub fn set_tag(&mut self, tag: u32) {
        self.tag = tag;
    }

    fn layout(len: usize) -> Layout {
        Layout::from_size_align(len, BLOCK).expect("a buffer is smaller than half the address space")
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: start..start+len was allocated zeroed and lives as long as self.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in deref; the exclusive borrow of self is the exclusive borrow of the memory.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed` with this very layout, and freed once.
        unsafe { dealloc(self.start.as_ptr(), Self::layout(self.len)) };
    }
}

impl std::fmt::Debug for AlignedBuf {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "AlignedBuf({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_zeroed_blocks_at_block_addresses() {
        for len in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 1 << 20] {
            let mut buf = AlignedBuf::zeroed(len);
            assert_eq!(buf.as_ptr().addr() % BLOCK, 0);
            assert!(
                buf.len() >= len.max(1) && buf.len().is_multiple_of(BLOCK) && buf.len() < len + 2 * BLOCK
            );
            assert!(buf.iter().all(|&b| b == 0));
            buf[0] = 7;
            *buf.last_mut().unwrap() = 9;
            assert_eq!((buf[0], buf[buf.len() - 1]), (7, 9));
            assert_eq!(buf.tag(), 0);
            buf.set_tag(5);
            assert_eq!(buf.tag(), 5);
        }
    }
}
