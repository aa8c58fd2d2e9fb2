//! Anonymous page-aligned memory for structures that the kernel reads and writes beside us.

use std::io;

/// Zeroed, page-aligned, unmapped on drop.
pub struct Pages {
    base: *mut u8,
    len: usize,
}

// SAFETY: plain memory owned by this value alone.
unsafe impl Send for Pages {}

impl Pages {
    pub fn zeroed(len: usize) -> io::Result<Pages> {
        assert!(len > 0, "an empty mapping cannot be made");
        // SAFETY: a fresh anonymous mapping touches nobody else's memory.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Pages { base: base.cast(), len })
    }

    pub fn base(&self) -> *mut u8 {
        self.base
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: mapped readable for its whole length; the kernel writes a buffer only while it owns it, and
        // callers read only buffers that the kernel handed over.
        unsafe { std::slice::from_raw_parts(self.base, self.len) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: mapped by `zeroed` with this length, and nobody refers to it any more.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}
