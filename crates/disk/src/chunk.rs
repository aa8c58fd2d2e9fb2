//! Mapped parts of a file of the operating system.
//!
//! Two forms, alike to their user. A chunk over existing content is a private mapping of the file. One over room that
//! was just allocated is anonymous memory in huge pages where the system has them: nothing is read from the file that
//! would only be overwritten, and random access misses the TLB less. A part that is discarded becomes a mapping of the
//! file in either form.
//!
//! Invariant: at most [`MAPPING_SPLITS`] boundaries between the two kinds of memory exist in the process, well below the
//! kernel's limit of mappings (vm.max_map_count, 65530); beyond it a discard keeps the memory, whose content is the
//! same.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use base::limits::MAPPING_SPLITS;
use memmap2::{Advice, MmapOptions, MmapRaw, UncheckedAdvice};

use crate::error::named;
use crate::{BLOCK, Chunk};

/// Boundaries between anonymous memory and mapped file within chunks, in this process.
static SPLITS: AtomicUsize = AtomicUsize::new(0);

/// A part of a file as memory.
pub(crate) struct MappedChunk {
    map: MmapRaw,
    /// Of anonymous memory that takes the place of content nobody has read; none for a mapping of the file.
    fresh: Option<Fresh>,
}

/// What anonymous memory needs to become a mapping of the file.
struct Fresh {
    file: Arc<File>,
    /// Of the chunk in the file.
    offset: u64,
    /// Blocks that are mapped from the file by now. The lock also keeps discards apart.
    mapped: Mutex<Vec<bool>>,
}

fn assert_within(map: &MmapRaw, offset: usize, len: usize) {
    assert!(offset.is_multiple_of(BLOCK) && len.is_multiple_of(BLOCK), "{offset}, {len}: not whole blocks");
    assert!(offset + len <= map.len(), "{offset} + {len} is beyond the chunk");
}

impl MappedChunk {
    /// A private mapping of existing content. The range must lie within the file.
    pub fn of_content(file: &File, offset: u64, len: usize) -> io::Result<MappedChunk> {
        // SAFETY: the mapping is private, so no store of ours reaches the file. Others can change the file below
        // us: the directory is locked by this process, and the tree writes only what its own mapping holds.
        let map = unsafe { MmapOptions::new().offset(offset).len(len).map_copy(file) }?;
        Ok(MappedChunk { map: MmapRaw::from(map), fresh: None })
    }

    /// Memory for room in the file. The range must lie within the file, and its content be of no use to anyone.
    pub fn of_room(file: Arc<File>, offset: u64, len: usize) -> io::Result<MappedChunk> {
        let map = MmapRaw::from(MmapOptions::new().len(len).map_anon()?);
        // Not every kernel has huge pages; small ones serve as well.
        let _ = map.advise(Advice::HugePage);
        let mapped = Mutex::new(vec![false; len / BLOCK]);
        Ok(MappedChunk { map, fresh: Some(Fresh { file, offset, mapped }) })
    }
}

impl Fresh {
    /// Maps the file over a range of `map`, the chunk's memory. False when that would make too many mappings.
    fn map_file(&self, map: &MmapRaw, offset: usize, len: usize) -> io::Result<bool> {
        let mut mapped = self.mapped.lock().expect("no panic happens below the lock");
        let (first, end) = (offset / BLOCK, (offset + len) / BLOCK);
        let around = first.saturating_sub(1)..(end + 1).min(mapped.len());
        let splits = |mapped: &[bool]| mapped.windows(2).filter(|pair| pair[0] != pair[1]).count();
        let before = splits(&mapped[around.clone()]);
        let ends = [(first > 0).then(|| mapped[first - 1]), mapped.get(end).copied()];
        let after = ends.into_iter().flatten().filter(|neighbour| !neighbour).count();
        if after > before && SPLITS.load(Ordering::Relaxed) >= MAPPING_SPLITS {
            return Ok(false);
        }
        // SAFETY: the range lies within this chunk's own memory (asserted by the caller), so nothing else is replaced;
        // nobody holds a reference into it (the contract of `Chunk::discard`). `map` unmaps by address and length,
        // whatever is mapped there.
        let result = unsafe {
            libc::mmap(
                map.as_mut_ptr().add(offset).cast(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_FIXED,
                self.file.as_raw_fd(),
                (self.offset + offset as u64) as libc::off_t,
            )
        };
        if result == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        mapped[first..end].fill(true);
        SPLITS.fetch_add(after, Ordering::Relaxed);
        SPLITS.fetch_sub(before, Ordering::Relaxed);
        Ok(true)
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        let mapped = self.mapped.get_mut().expect("no panic happens below the lock");
        let splits = mapped.windows(2).filter(|pair| pair[0] != pair[1]).count();
        SPLITS.fetch_sub(splits, Ordering::Relaxed);
    }
}

impl Chunk for MappedChunk {
    fn base(&self) -> *mut u8 {
        self.map.as_mut_ptr()
    }

    fn len(&self) -> usize {
        self.map.len()
    }

    fn populate_write(&self, offset: usize, len: usize) -> io::Result<()> {
        assert_within(&self.map, offset, len);
        self.map
            .advise_range(Advice::PopulateWrite, offset, len)
            .map_err(|error| named(format!("populate {len} bytes of a mapping"), error))
    }

    fn populate_read(&self, offset: usize, len: usize) -> io::Result<()> {
        assert_within(&self.map, offset, len);
        self.map
            .advise_range(Advice::PopulateRead, offset, len)
            .map_err(|error| named(format!("read {len} bytes into a mapping"), error))
    }

    fn discard(&self, offset: usize, len: usize) -> io::Result<()> {
        assert_within(&self.map, offset, len);
        if let Some(fresh) = &self.fresh {
            return fresh
                .map_file(&self.map, offset, len)
                .map(|_| ())
                .map_err(|error| named(format!("map {len} bytes of the file in place of memory"), error));
        }
        // SAFETY: the contract of `Chunk::discard`: nobody holds a reference into the range meanwhile.
        let result = unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, offset, len) };
        result.map_err(|error| named(format!("drop {len} bytes of a mapping"), error))
    }

    fn read_ahead(&self, offset: usize, len: usize) {
        assert_within(&self.map, offset, len);
        // A hint: without it pages are read when they are touched.
        let Some(fresh) = &self.fresh else {
            let _ = self.map.advise_range(Advice::WillNeed, offset, len);
            return;
        };
        // To the file, since most of it is not mapped here.
        // SAFETY: a system call on an open descriptor; no memory is passed.
        let _ = unsafe {
            libc::posix_fadvise(
                fresh.file.as_raw_fd(),
                (fresh.offset + offset as u64) as libc::off_t,
                len as libc::off_t,
                libc::POSIX_FADV_WILLNEED,
            )
        };
    }
}
