//! The data file in memory: a table of chunks that never move, read without a lock.
//!
//! Invariants: a chunk's address is in the table before [`Mapping::pages`] covers its pages, and stays there until
//! [`Mapping::shrink`] has taken them out again. The file is always at least as long as the mapped chunks, so no
//! access within `pages()` can meet the end of the file: nobody shrinks it while somebody may be growing it.
//! Must not know which page is in use: that a page is not touched during `discard` or after `shrink` is the
//! caller's part.

use std::io;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::{BLOCK, Chunk, File};

/// A file of [`BLOCK`]-sized pages, mapped in chunks of equal size.
pub struct Mapping {
    file: Arc<dyn File>,
    /// Pages of a chunk are 1 << `shift`.
    shift: u32,
    pages: AtomicU32,
    bases: Box<[AtomicPtr<u8>]>,
    /// Owns the memory. Whoever holds it adds chunks, or takes some away.
    chunks: Mutex<Vec<Arc<dyn Chunk>>>,
}

impl Mapping {
    /// Maps the whole chunks that `file` has. `chunk_bytes` must be a power of two and at least a block; a tail
    /// shorter than a chunk (growth that a full disk ended half-way) stays unmapped until the next growth.
    pub fn open(file: Arc<dyn File>, chunk_bytes: u64, max_chunks: usize) -> io::Result<Arc<Mapping>> {
        assert!(chunk_bytes.is_power_of_two() && chunk_bytes >= BLOCK as u64, "chunk of {chunk_bytes} bytes");
        assert!(max_chunks > 0, "a mapping has room for a chunk");
        let pages_per_chunk = chunk_bytes / BLOCK as u64;
        assert!(
            pages_per_chunk.checked_mul(max_chunks as u64).is_some_and(|pages| pages <= u64::from(u32::MAX)),
            "page numbers are 32 bits"
        );
        let whole = file.len()? / chunk_bytes;
        let mapping = Mapping {
            file,
            shift: pages_per_chunk.trailing_zeros(),
            pages: AtomicU32::new(0),
            bases: (0..max_chunks).map(|_| AtomicPtr::new(std::ptr::null_mut())).collect(),
            chunks: Mutex::new(Vec::new()),
        };
        mapping.check_room(whole)?;
        mapping.map_to(&mut mapping.lock(), whole as usize, false)?;
        Ok(Arc::new(mapping))
    }

    /// Pages that may be used: `0..pages()`.
    pub fn pages(&self) -> u32 {
        self.pages.load(Ordering::Acquire)
    }

    /// Pages of one chunk; no run of pages that must be contiguous in memory may cross a multiple of it.
    pub fn chunk_pages(&self) -> u32 {
        1 << self.shift
    }

    pub fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    /// Makes at least `pages` pages usable, in whole chunks, with room reserved on the device, durably: what is promised
    /// to be stored there must find it after a power loss too, when others have filled the disk. No room, on the device or
    /// in the table: an error for which [`crate::is_no_space`] holds, and nothing has changed for readers.
    pub fn grow(&self, pages: u32) -> io::Result<()> {
        let wanted = u64::from(pages).div_ceil(u64::from(self.chunk_pages()));
        if wanted <= self.lock().len() as u64 {
            return Ok(());
        }
        self.check_room(wanted)?;
        // Without the lock: whoever else grows it meanwhile does not wait for the device, and finds the same room.
        self.file.allocate(wanted * self.chunk_bytes() as u64)?;
        // Other writes of the file may have failed in this: whatever the reason, it is no answer about room (law 8).
        self.file.sync().map_err(|error| io::Error::other(error.to_string()))?;
        self.map_to(&mut self.lock(), wanted as usize, true)
    }

    /// Takes the chunks that are wholly at or above page `pages` out of the mapping and off the file. Nobody may
    /// use them or be growing the file, and no reader may reach them any more. The new size is durable after the next
    /// `sync`.
    pub fn shrink(&self, pages: u32) -> io::Result<()> {
        let mut chunks = self.lock();
        let keep = pages.div_ceil(self.chunk_pages()) as usize;
        if keep >= chunks.len() {
            return Ok(());
        }
        self.pages.store((keep as u32) << self.shift, Ordering::Release);
        for base in &self.bases[keep..chunks.len()] {
            base.store(std::ptr::null_mut(), Ordering::Release);
        }
        chunks.truncate(keep);
        self.file.truncate(keep as u64 * self.chunk_bytes() as u64)
    }

    /// The address of page `no`. The page and all behind it up to the end of its chunk are contiguous.
    #[inline]
    pub fn page(&self, no: u32) -> *mut u8 {
        assert!(no < self.pages(), "page {no} is beyond the mapping");
        let base = self.bases[(no >> self.shift) as usize].load(Ordering::Acquire);
        let within = (no & (self.chunk_pages() - 1)) as usize * BLOCK;
        // SAFETY: no < pages, so the chunk is mapped and `within` is less than its length.
        unsafe { base.add(within) }
    }

    /// Makes pages private memory ahead of the writer. Only an optimisation, so a refusal is no error: the first
    /// store takes the fault instead.
    pub fn populate(&self, no: u32, count: u32) {
        let _ = self.each(no, count, |chunk, offset, len| chunk.populate_write(offset, len));
    }

    /// Reads cold pages in, waiting for the device. After an error they must not be touched: that would raise
    /// SIGBUS.
    pub fn populate_read(&self, no: u32, count: u32) -> io::Result<()> {
        self.each(no, count, |chunk, offset, len| chunk.populate_read(offset, len))
    }

    /// Gives the memory of pages back; their next use reads the file. Nobody may use them meanwhile.
    pub fn discard(&self, no: u32, count: u32) -> io::Result<()> {
        self.each(no, count, |chunk, offset, len| chunk.discard(offset, len))
    }

    /// Starts reading pages into the system's cache; does not wait.
    pub fn read_ahead(&self, no: u32, count: u32) {
        let started = self.each(no, count, |chunk, offset, len| {
            chunk.read_ahead(offset, len);
            Ok(())
        });
        assert!(started.is_ok(), "a hint does not fail");
    }

    /// Starts reading the whole file ahead; does not wait.
    pub fn warm(&self) {
        let chunks: Vec<_> = self.lock().clone();
        chunks.iter().for_each(|chunk| chunk.warm());
    }

    fn chunk_bytes(&self) -> usize {
        BLOCK << self.shift
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<dyn Chunk>>> {
        self.chunks.lock().expect("no panic happens below the lock")
    }

    fn check_room(&self, chunks: u64) -> io::Result<()> {
        if chunks <= self.bases.len() as u64 {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::StorageFull,
            format!("the data file would need {chunks} chunks; at most {} can be mapped", self.bases.len()),
        ))
    }

    /// `fresh`: what the file holds there is of no use.
    fn map_to(&self, chunks: &mut Vec<Arc<dyn Chunk>>, wanted: usize, fresh: bool) -> io::Result<()> {
        while chunks.len() < wanted {
            let offset = chunks.len() as u64 * self.chunk_bytes() as u64;
            let len = self.chunk_bytes();
            let chunk = if fresh { self.file.map_fresh(offset, len)? } else { self.file.map(offset, len)? };
            let chunk: Arc<dyn Chunk> = chunk.into();
            assert_eq!(chunk.base().addr() % BLOCK, 0, "a chunk begins at a block address");
            self.bases[chunks.len()].store(chunk.base(), Ordering::Release);
            chunks.push(chunk);
            self.pages.store((chunks.len() as u32) << self.shift, Ordering::Release);
        }
        Ok(())
    }

    /// Calls `each` for the part of every chunk that the pages lie in, without the lock: a populate may take long.
    fn each(
        &self,
        no: u32,
        count: u32,
        mut each: impl FnMut(&dyn Chunk, usize, usize) -> io::Result<()>,
    ) -> io::Result<()> {
        let end = u64::from(no) + u64::from(count);
        assert!(end <= u64::from(self.pages()), "pages {no}..{end} are beyond the mapping");
        let mut at = no;
        while u64::from(at) < end {
            let index = at >> self.shift;
            let next = (u64::from(index) + 1) << self.shift;
            let stop = next.min(end);
            let chunk = self.lock()[index as usize].clone();
            let within = (at & (self.chunk_pages() - 1)) as usize * BLOCK;
            each(&*chunk, within, (stop - u64::from(at)) as usize * BLOCK)?;
            at = stop as u32;
        }
        Ok(())
    }
}
