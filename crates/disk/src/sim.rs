//! The simulated twin of the operating system's files: in memory, with crashes, faults and a size.
//!
//! What it models, as pessimistic as POSIX allows:
//! - Every change is visible at once and durable only after the sync that covers it: contents and sizes by `sync`
//!   of their file (or `write_durable`, for its own range), names by `sync_dir`. A file's sync does not make its
//!   name durable, a directory's sync no contents.
//! - At a crash ([`SimFiles::crash`]) any subset of the unsynced changes may have reached the device, in any
//!   combination, and each write may be torn at 512 B or 4 KiB ([`Keep`]).
//! - After a failed sync the changes it should have covered are visible, and no later sync makes them durable: as
//!   the kernel does it, and why law 8 forbids to retry.
//!
//! Must not read a clock or entropy: a crash is chosen by the caller, so that a seed replays it. Clones are handles
//! to the same world.

mod blocks;
mod crash;
mod world;

pub use crash::{Keep, KeepSet};
pub use world::Fault;

use std::io;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::error::named;
use crate::{AlignedBuf, BLOCK, Chunk, DioAlignment, File, Files, OpenMode, assert_aligned, assert_name};
use world::{Change, FileId, World};

/// A world of files. Cloning gives another handle to the same world; [`SimFiles::image`] gives a copy.
#[derive(Clone)]
pub struct SimFiles {
    world: Arc<Mutex<World>>,
}

impl Default for SimFiles {
    fn default() -> Self {
        Self::new()
    }
}

impl SimFiles {
    /// An empty world of 1 PiB.
    pub fn new() -> SimFiles {
        SimFiles::of(World::default())
    }

    fn of(world: World) -> SimFiles {
        SimFiles { world: Arc::new(Mutex::new(world)) }
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// What a machine would find after a power loss now. `choose` is told how many changes are unsynced, oldest
    /// first, and says what becomes of each. The new world has no faults; this one is unchanged.
    pub fn crash(&self, choose: &mut dyn FnMut(usize) -> KeepSet) -> SimFiles {
        let world = self.lock();
        let keep = choose(world.pending.len());
        SimFiles::of(world.crashed(&keep))
    }

    /// A copy of the world as it is, unsynced changes included and faults not.
    pub fn image(&self) -> SimFiles {
        SimFiles::of(self.lock().image())
    }

    /// Changes that a crash now could lose.
    pub fn unsynced(&self) -> usize {
        self.lock().pending.len()
    }

    /// Operations so far that change something or make it durable; each write of a `write_many` is one.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Reads so far, mappings included.
    pub fn reads(&self) -> u64 {
        self.lock().reads
    }

    /// Lets operation `number` (the first one is 0), and only that, fail.
    pub fn fail_at(&self, number: u64, fault: Fault) {
        self.lock().fail_operation = Some((number, fault));
    }

    /// Lets read `number` (the first one is 0) fail with EIO.
    pub fn fail_read_at(&self, number: u64) {
        self.lock().fail_read = Some(number);
    }

    /// The power goes in the midst of operation `number`: it leaves its change unsynced and fails, and so does all
    /// that follows. Then ask for [`SimFiles::crash`].
    pub fn halt_at(&self, number: u64) {
        self.lock().halt = Some(number);
    }

    /// True when the operation of [`SimFiles::halt_at`] was reached.
    pub fn halted(&self) -> bool {
        self.lock().halted()
    }

    /// The size of the device, bytes: growth beyond it is ENOSPC.
    pub fn set_capacity(&self, bytes: u64) {
        self.lock().capacity = bytes;
    }

    /// The whole current content of a file.
    pub fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        let world = self.lock();
        let inode = &world.inodes[world.names.get(name)?];
        let mut bytes = vec![0; inode.current.len() as usize];
        inode.current.read(0, &mut bytes);
        Some(bytes)
    }

    /// Changes what the device holds from `offset` on, durably and behind everybody's back: bit rot.
    pub fn edit(&self, name: &str, offset: u64, edit: &mut dyn FnMut(&mut [u8])) {
        let mut world = self.lock();
        let id = *world.names.get(name).expect("a file to edit");
        let inode = world.inodes.get_mut(&id).expect("a name has a file");
        for blocks in [&mut inode.current, &mut inode.durable] {
            let mut bytes = vec![0; blocks.len().saturating_sub(offset) as usize];
            blocks.read(offset, &mut bytes);
            edit(&mut bytes);
            blocks.write(offset, &bytes);
        }
    }
}

impl Files for SimFiles {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        assert_name(name);
        let mut world = self.lock();
        let id = world.open(name, mode).map_err(|error| named(format!("open {name}"), error))?;
        drop(world);
        Ok(Arc::new(SimFile { files: self.clone(), id, name: name.to_owned(), mode }))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.lock().list(dir).map_err(|error| named(format!("list the directory {dir}"), error))
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        assert_name(dir);
        let mut world = self.lock();
        let change = (!world.dirs.contains(dir)).then(|| Change::Directory { name: dir.to_owned() });
        world.change(change).map_err(|error| named(format!("create the directory {dir}"), error))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        assert_name(from);
        assert_name(to);
        let mut world = self.lock();
        let moved = world.find(from).and_then(|file| {
            world.parent(to)?;
            world.change(Some(Change::Rename { from: from.to_owned(), to: to.to_owned(), file }))
        });
        moved.map_err(|error| named(format!("rename {from} to {to}"), error))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        assert_name(name);
        let mut world = self.lock();
        let removed =
            world.find(name).and_then(|_| world.change(Some(Change::Remove { name: name.to_owned() })));
        removed.map_err(|error| named(format!("remove {name}"), error))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.lock().sync_dir(dir).map_err(|error| named(format!("sync the directory {dir}"), error))
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        let world = self.lock();
        Ok(world.names.contains_key(name) || world.dirs.contains(name))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let world = self.lock();
        Ok(world.capacity.saturating_sub(world.used_bytes()))
    }
}

struct SimFile {
    files: SimFiles,
    id: FileId,
    name: String,
    mode: OpenMode,
}

impl SimFile {
    fn error(&self, what: &str, source: io::Error) -> io::Error {
        named(format!("{what} {}", self.name), source)
    }

    fn write(&self, offset: u64, data: &[u8], durable: bool) -> io::Result<()> {
        assert_aligned(offset, data);
        assert!(self.mode != OpenMode::Read, "{} was opened for reading", self.name);
        let mut world = self.files.lock();
        world
            .write(self.id, offset, data, durable)
            .map_err(|error| self.error(&format!("write {} bytes at offset {offset} of", data.len()), error))
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.files.lock().close(self.id);
    }
}

impl File for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.files.lock().inodes[&self.id].current.len())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        assert_aligned(offset, buf);
        let mut world = self.files.lock();
        let len = buf.len();
        world
            .read(self.id, offset, buf)
            .map_err(|error| self.error(&format!("read {len} bytes at offset {offset} of"), error))
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write(offset, data, false)
    }

    fn write_durable(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write(offset, data, true)
    }

    fn write_many(&self, writes: &[(u64, &[u8])]) -> io::Result<()> {
        writes.iter().try_for_each(|&(offset, data)| self.write(offset, data, false))
    }

    fn sync(&self) -> io::Result<()> {
        self.files.lock().sync(self.id).map_err(|error| self.error("sync", error))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        assert!(self.mode != OpenMode::Read, "{} was opened for reading", self.name);
        self.files
            .lock()
            .allocate(self.id, len)
            .map_err(|error| self.error(&format!("reserve {len} bytes for"), error))
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        assert!(self.mode != OpenMode::Read, "{} was opened for reading", self.name);
        self.files
            .lock()
            .change(Some(Change::Size { file: self.id, len }))
            .map_err(|error| self.error(&format!("set the length to {len} of"), error))
    }

    fn raw_fd(&self) -> Option<RawFd> {
        None
    }

    fn dio_alignment(&self) -> Option<DioAlignment> {
        Some(DioAlignment { memory: BLOCK as u32, offset: BLOCK as u32 })
    }

    fn map(&self, offset: u64, len: usize) -> io::Result<Box<dyn Chunk>> {
        assert!(len > 0 && len.is_multiple_of(BLOCK), "a chunk is whole blocks, not {len} bytes");
        assert!(offset.is_multiple_of(BLOCK as u64), "a chunk begins at a block, not at {offset}");
        let mut memory = AlignedBuf::zeroed(len);
        self.read_at(offset, &mut memory)?;
        let base = NonNull::new(memory.as_ptr()).expect("an allocation is not null");
        self.files.lock().inodes.get_mut(&self.id).expect("an open file").opens += 1;
        let file =
            SimFile { files: self.files.clone(), id: self.id, name: self.name.clone(), mode: self.mode };
        Ok(Box::new(SimChunk { _memory: memory, base, len, file, offset }))
    }
}

/// Memory that was loaded from the file. The buffer is only kept for its lifetime: all access is through `base`.
struct SimChunk {
    _memory: AlignedBuf,
    base: NonNull<u8>,
    len: usize,
    file: SimFile,
    offset: u64,
}

// SAFETY: the memory is the chunk's own; accesses through `base` are ordered by their callers, as `Chunk` says.
unsafe impl Send for SimChunk {}
// SAFETY: as above.
unsafe impl Sync for SimChunk {}

impl Chunk for SimChunk {
    fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    fn len(&self) -> usize {
        self.len
    }

    fn populate_write(&self, offset: usize, len: usize) -> io::Result<()> {
        assert!(offset + len <= self.len, "{offset} + {len} is beyond the chunk");
        Ok(())
    }

    fn populate_read(&self, offset: usize, len: usize) -> io::Result<()> {
        assert!(offset + len <= self.len, "{offset} + {len} is beyond the chunk");
        Ok(())
    }

    fn discard(&self, offset: usize, len: usize) -> io::Result<()> {
        assert!(
            offset.is_multiple_of(BLOCK) && len.is_multiple_of(BLOCK),
            "{offset}, {len}: not whole blocks"
        );
        assert!(offset + len <= self.len, "{offset} + {len} is beyond the chunk");
        let mut fresh = AlignedBuf::zeroed(len);
        if len > 0 {
            self.file.read_at(self.offset + offset as u64, &mut fresh[..len])?;
        }
        // SAFETY: the range lies in the chunk's memory (asserted), nobody uses it meanwhile (contract of
        // `Chunk::discard`), and `fresh` is another allocation of at least `len` bytes.
        unsafe { std::ptr::copy_nonoverlapping(fresh.as_ptr(), self.base.as_ptr().add(offset), len) };
        Ok(())
    }

    fn read_ahead(&self, _offset: usize, _len: usize) {}
}
