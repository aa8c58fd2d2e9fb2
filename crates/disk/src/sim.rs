//! The simulated twin of the operating system's files: in memory, with crashes, faults and a size.
//!
//! What it models, as pessimistic as POSIX allows:
//! - Every change is visible at once and durable only after the sync that covers it: contents and sizes by `sync`
//!   of their file (or `write_durable`, for its own range), names by `sync_dir`. A file's sync does not make its
//!   name durable, a directory's sync no contents.
//! - At a crash ([`SimFiles::crash`]) any subset of the unsynced changes may have reached the device, in any
//!   combination, and each write may be torn at 512 B or 4 KiB ([`Keep`]).
//! - After a failed sync the changes it should have covered are visible, and no later sync makes them durable: as
//!   the kernel does it, and why law 8 forbids to retry. As of the real form no later sync of the open file goes well.
//! - Devices that err, lie or rot: see [`Fault`], [`ReadFault`] and [`Rot`]. How slow they are is for a world with a
//!   clock.
//!
//! A run can be recorded ([`SimFiles::record`]): then each of its operations leaves a [`Moment`], of which any number of
//! crashes can be tried. A world is copied in the time of a few pointers.
//!
//! Must not read a clock or entropy: a crash is chosen by the caller, so that a seed replays it. Clones are handles
//! to the same world.

mod blocks;
mod chunk;
mod crash;
mod fault;
mod moment;
mod world;

pub use crash::{Keep, KeepSet};
pub use fault::{Fault, ReadFault, Rot, SECTOR};
pub use moment::{Moment, Operation};

use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, MutexGuard};

use base::Random;

use crate::error::named;
use crate::syncs::Syncs;
use crate::{BLOCK, Chunk, DioAlignment, File, Files, OpenMode, assert_aligned, assert_name};
use blocks::Blocks;
use chunk::SimChunk;
use world::{Change, FileId, Inode, Record, World};

/// A world of files. Cloning gives another handle to the same world; [`SimFiles::image`] gives a copy.
#[derive(Clone)]
pub struct SimFiles {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    world: World,
    record: Record,
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
        SimFiles { state: Arc::new(Mutex::new(State { world, record: Record::default() })) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Does one operation, and notes it where the run is recorded.
    fn with<T>(&self, operation: impl FnOnce(&mut World, &mut Record) -> T) -> T {
        let State { world, record } = &mut *self.lock();
        operation(world, record)
    }

    // --- crashes ---

    /// What a machine would find after a power loss now. `choose` is told how many changes are unsynced, oldest
    /// first, and says what becomes of each. The new world has no faults; this one is unchanged.
    pub fn crash(&self, choose: &mut dyn FnMut(usize) -> KeepSet) -> SimFiles {
        let world = &self.lock().world;
        let keep = choose(world.pending.len());
        SimFiles::of(world.crashed(&keep, None))
    }

    /// The same on a device that writes what it keeps in any order: of two writes to one place either may stay.
    pub fn crash_reordered(&self, choose: &mut dyn FnMut(usize) -> KeepSet, random: &mut Random) -> SimFiles {
        let world = &self.lock().world;
        let keep = choose(world.pending.len());
        SimFiles::of(world.crashed(&keep, Some(random)))
    }

    /// A copy of the world as it is, unsynced changes included and faults not.
    pub fn image(&self) -> SimFiles {
        SimFiles::of(self.lock().world.image())
    }

    /// Changes that a crash now could lose.
    pub fn unsynced(&self) -> usize {
        self.lock().world.pending.len()
    }

    /// Operations so far that change something or make it durable; each write of a `write_many` is one.
    pub fn operations(&self) -> u64 {
        self.lock().world.operations
    }

    /// Reads so far, mappings included.
    pub fn reads(&self) -> u64 {
        self.lock().world.reads
    }

    // --- recording ---

    /// From now on every operation leaves a [`Moment`].
    pub fn record(&self) {
        self.lock().record.on = true;
    }

    /// Moments bear this from now on: what the caller knows that the disk cannot.
    pub fn mark(&self, mark: u64) {
        self.lock().record.mark = mark;
    }

    /// The moments so far, one for each operation that was begun, and one for now. They are not kept.
    pub fn take_moments(&self) -> Vec<Moment> {
        let State { world, record } = &mut *self.lock();
        let mut moments = std::mem::take(&mut record.moments);
        moments.push(Moment::new(world.clone(), None, record.mark));
        moments
    }

    // --- faults ---

    /// Lets operation `number` (the first one is 0), and only that, go wrong.
    pub fn fail_at(&self, number: u64, fault: Fault) {
        self.lock().world.fail_operation = Some((number, fault));
    }

    /// Lets read `number` (the first one is 0) fail with EIO.
    pub fn fail_read_at(&self, number: u64) {
        self.spoil_read_at(number, ReadFault::Io);
    }

    /// Lets read `number` (the first one is 0), and only that, go wrong.
    pub fn spoil_read_at(&self, number: u64, fault: ReadFault) {
        self.lock().world.fail_read = Some((number, fault));
    }

    /// While it lies, every sync and durable write answers well and makes nothing durable: a device that was told to
    /// answer before its cache is written, or a file system mounted without barriers.
    pub fn set_lying(&self, lying: bool) {
        let world = &mut self.lock().world;
        world.lies_from = lying.then_some(world.operations);
    }

    /// It lies from operation `number` on (the first one is 0).
    pub fn lie_from(&self, number: u64) {
        self.lock().world.lies_from = Some(number);
    }

    /// The power goes in the midst of operation `number`: it leaves its change unsynced and fails, and so does all
    /// that follows. Then ask for [`SimFiles::crash`].
    pub fn halt_at(&self, number: u64) {
        self.lock().world.halt = Some(number);
    }

    /// True when the operation of [`SimFiles::halt_at`] was reached.
    pub fn halted(&self) -> bool {
        self.lock().world.halted()
    }

    /// The size of the device, bytes: growth beyond it is ENOSPC.
    pub fn set_capacity(&self, bytes: u64) {
        self.lock().world.capacity = bytes;
    }

    /// The whole current content of a file.
    pub fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        let world = &self.lock().world;
        let inode = &world.inodes[world.names.get(name)?];
        let mut bytes = vec![0; inode.current.len() as usize];
        inode.current.read(0, &mut bytes);
        Some(bytes)
    }

    /// Changes what the device holds from `offset` on, durably and behind everybody's back: bit rot.
    pub fn edit(&self, name: &str, offset: u64, edit: &mut dyn FnMut(&mut [u8])) {
        self.rot_contents(name, &mut |blocks, _| {
            let mut bytes = vec![0; blocks.len().saturating_sub(offset) as usize];
            blocks.read(offset, &mut bytes);
            edit(&mut bytes);
            blocks.edit(offset, &bytes);
        });
    }

    /// Damages one sector of a file, behind everybody's back. False when that changes nothing, or the file has no such
    /// sector.
    pub fn rot(&self, name: &str, sector: u64, rot: Rot) -> bool {
        let mut changed = false;
        self.rot_contents(name, &mut |blocks, stale| {
            let offset = sector * SECTOR as u64;
            let within = |blocks: &Blocks, offset: u64| offset + SECTOR as u64 <= blocks.len();
            if !within(blocks, offset) {
                return;
            }
            let mut before = [0; SECTOR];
            blocks.read(offset, &mut before);
            let mut after = before;
            match rot {
                Rot::Flip { bit } => after[bit / 8 % SECTOR] ^= 1 << (bit % 8),
                Rot::Zeros => after.fill(0),
                Rot::Stale if within(stale, offset) => stale.read(offset, &mut after),
                Rot::CopyOf { sector } if within(blocks, sector * SECTOR as u64) => {
                    blocks.read(sector * SECTOR as u64, &mut after);
                }
                Rot::Stale | Rot::CopyOf { .. } => {}
            }
            if before != after {
                blocks.edit(offset, &after);
                changed = true;
            }
        });
        changed
    }

    /// Gives the contents of a file as they are and as they are durable, each with what its blocks were before.
    fn rot_contents(&self, name: &str, rot: &mut dyn FnMut(&mut Blocks, &Blocks)) {
        let world = &mut self.lock().world;
        let id = *world.names.get(name).expect("a file to damage");
        let Inode { current, durable, stale, .. } = world.inodes.get_mut(&id).expect("a name has a file");
        rot(current, stale);
        rot(durable, stale);
    }
}

impl Files for SimFiles {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        assert_name(name);
        let id = self.with(|world, record| world.open(record, name, mode));
        let id = id.map_err(|error| named(format!("open {name}"), error))?;
        Ok(Arc::new(SimFile { files: self.clone(), id, name: name.into(), mode, syncs: Syncs::default() }))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.lock().world.list(dir).map_err(|error| named(format!("list the directory {dir}"), error))
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        assert_name(dir);
        let created = self.with(|world, record| {
            let change = (!world.dirs.contains(dir)).then(|| Change::Directory { name: dir.into() });
            world.change(record, change)
        });
        created.map_err(|error| named(format!("create the directory {dir}"), error))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        assert_name(from);
        assert_name(to);
        let moved = self.with(|world, record| {
            let file = world.find(from)?;
            world.parent(to)?;
            world.change(record, Some(Change::Rename { from: from.into(), to: to.into(), file }))
        });
        moved.map_err(|error| named(format!("rename {from} to {to}"), error))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        assert_name(name);
        let removed = self.with(|world, record| {
            world.find(name)?;
            world.change(record, Some(Change::Remove { name: name.into() }))
        });
        removed.map_err(|error| named(format!("remove {name}"), error))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let synced = self.with(|world, record| world.sync_dir(record, dir));
        synced.map_err(|error| named(format!("sync the directory {dir}"), error))
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        let world = &self.lock().world;
        Ok(world.names.contains_key(name) || world.dirs.contains(name))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let world = &self.lock().world;
        Ok(world.capacity.saturating_sub(world.used_bytes()))
    }
}

struct SimFile {
    files: SimFiles,
    id: FileId,
    name: Arc<str>,
    mode: OpenMode,
    syncs: Syncs,
}

impl SimFile {
    fn error(&self, what: &str, source: io::Error) -> io::Error {
        named(format!("{what} {}", self.name), source)
    }

    fn assert_writable(&self) {
        assert!(self.mode != OpenMode::Read, "{} was opened for reading", self.name);
    }

    fn write(&self, offset: u64, data: &[u8], durable: bool) -> io::Result<()> {
        assert_aligned(offset, data);
        self.assert_writable();
        let at = (offset / BLOCK as u64) as usize;
        let written = self.files.with(|world, record| world.write(record, self.id, at, data, durable));
        written
            .map_err(|error| self.error(&format!("write {} bytes at offset {offset} of", data.len()), error))
    }

    /// Another handle to the same file.
    fn again(&self) -> SimFile {
        self.files.lock().world.inodes.get_mut(&self.id).expect("an open file").opens += 1;
        let (files, name) = (self.files.clone(), self.name.clone());
        SimFile { files, id: self.id, name, mode: self.mode, syncs: Syncs::default() }
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.files.lock().world.close(self.id);
    }
}

impl File for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.files.lock().world.inodes[&self.id].current.len())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        assert_aligned(offset, buf);
        let len = buf.len();
        let read = self.files.lock().world.read(self.id, offset, buf);
        read.map_err(|error| self.error(&format!("read {len} bytes at offset {offset} of"), error))
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
        let synced = self.syncs.run(|| self.files.with(|world, record| world.sync(record, self.id)));
        synced.map_err(|error| self.error("sync", error))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.assert_writable();
        let allocated = self.files.with(|world, record| world.allocate(record, self.id, len));
        allocated.map_err(|error| self.error(&format!("reserve {len} bytes for"), error))
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.assert_writable();
        let change = Change::Size { file: self.id, len };
        let cut = self.files.with(|world, record| world.change(record, Some(change)));
        cut.map_err(|error| self.error(&format!("set the length to {len} of"), error))
    }

    fn raw_fd(&self) -> Option<RawFd> {
        None
    }

    fn dio_alignment(&self) -> Option<DioAlignment> {
        Some(DioAlignment { memory: BLOCK as u32, offset: BLOCK as u32 })
    }

    fn map(&self, offset: u64, len: usize) -> io::Result<Box<dyn Chunk>> {
        Ok(Box::new(SimChunk::new(self.again(), offset, len, false)?))
    }

    fn map_fresh(&self, offset: u64, len: usize) -> io::Result<Box<dyn Chunk>> {
        Ok(Box::new(SimChunk::new(self.again(), offset, len, true)?))
    }
}
