//! Names and contents, each as they are and as they are durable, and the unsynced changes between the two.
//!
//! Invariant: the current state is the durable one with all pending changes applied in order.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::blocks::Blocks;
use crate::{BLOCK, OpenMode};

pub(super) type FileId = u64;

/// A fault to inject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// EIO. A failed sync loses what it should have made durable.
    Io,
    /// ENOSPC, before anything was changed.
    NoSpace,
}

#[derive(Clone, Default)]
pub(super) struct Inode {
    pub(super) current: Blocks,
    pub(super) durable: Blocks,
    /// Handles that are open; the contents of a removed file live as long.
    pub(super) opens: usize,
}

/// One change that a crash may keep or lose.
#[derive(Clone)]
pub(super) enum Change {
    Write { file: FileId, offset: u64, data: Vec<u8> },
    Size { file: FileId, len: u64 },
    Create { name: String, file: FileId },
    Rename { from: String, to: String, file: FileId },
    Remove { name: String },
    Directory { name: String },
}

#[derive(Clone)]
pub(super) struct Pending {
    pub(super) change: Change,
    /// A sync failed that should have covered it: no later one does.
    forgotten: bool,
}

#[derive(Clone)]
pub(super) struct World {
    pub(super) names: BTreeMap<String, FileId>,
    pub(super) dirs: BTreeSet<String>,
    pub(super) durable_names: BTreeMap<String, FileId>,
    pub(super) durable_dirs: BTreeSet<String>,
    pub(super) inodes: BTreeMap<FileId, Inode>,
    pub(super) pending: Vec<Pending>,
    pub(super) next_file: FileId,
    pub(super) capacity: u64,
    pub(super) operations: u64,
    pub(super) reads: u64,
    pub(super) fail_operation: Option<(u64, Fault)>,
    pub(super) fail_read: Option<u64>,
    pub(super) halt: Option<u64>,
}

impl Default for World {
    fn default() -> Self {
        World {
            names: BTreeMap::new(),
            dirs: BTreeSet::new(),
            durable_names: BTreeMap::new(),
            durable_dirs: BTreeSet::new(),
            inodes: BTreeMap::new(),
            pending: Vec::new(),
            next_file: 0,
            capacity: 1 << 50,
            operations: 0,
            reads: 0,
            fail_operation: None,
            fail_read: None,
            halt: None,
        }
    }
}

/// What the next operation does.
enum Turn {
    Go,
    /// Leaves its change unsynced, and fails.
    Halt,
}

fn halted() -> io::Error {
    io::Error::other("the simulated power is off")
}

fn not_found() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOENT)
}

fn parent_of(name: &str) -> &str {
    name.split_once('/').map_or("", |(dir, _)| dir)
}

impl Change {
    pub(super) fn apply(
        &self,
        names: &mut BTreeMap<String, FileId>,
        dirs: &mut BTreeSet<String>,
        inodes: &mut BTreeMap<FileId, Inode>,
    ) {
        match self {
            Change::Write { file, .. } | Change::Size { file, .. } => {
                self.apply_to(&mut inodes.get_mut(file).expect("a file lives while it is open").current);
            }
            _ => self.apply_name(names, dirs),
        }
    }

    fn apply_to(&self, blocks: &mut Blocks) {
        match self {
            Change::Write { offset, data, .. } => blocks.write(*offset, data),
            Change::Size { len, .. } => blocks.set_len(*len),
            _ => unreachable!("a change of a name"),
        }
    }

    fn apply_name(&self, names: &mut BTreeMap<String, FileId>, dirs: &mut BTreeSet<String>) {
        match self {
            Change::Create { name, file } => {
                names.insert(name.clone(), *file);
            }
            Change::Rename { from, to, file } => {
                // The name may stand for another file by now, when an earlier change was lost.
                if names.get(from) == Some(file) {
                    names.remove(from);
                }
                names.insert(to.clone(), *file);
            }
            Change::Remove { name } => {
                names.remove(name);
            }
            Change::Directory { name } => {
                dirs.insert(name.clone());
            }
            Change::Write { .. } | Change::Size { .. } => unreachable!("a change of contents"),
        }
    }

    fn file(&self) -> Option<FileId> {
        match self {
            Change::Write { file, .. } | Change::Size { file, .. } => Some(*file),
            _ => None,
        }
    }

    fn is_in(&self, dir: &str) -> bool {
        match self {
            Change::Create { name, .. } | Change::Remove { name } | Change::Directory { name } => {
                parent_of(name) == dir
            }
            Change::Rename { from, to, .. } => parent_of(from) == dir || parent_of(to) == dir,
            Change::Write { .. } | Change::Size { .. } => false,
        }
    }
}

impl World {
    pub(super) fn image(&self) -> World {
        let mut world = World {
            fail_operation: None,
            fail_read: None,
            halt: None,
            operations: 0,
            reads: 0,
            ..self.clone()
        };
        world.inodes.values_mut().for_each(|inode| inode.opens = 0);
        world.purge();
        world
    }

    pub(super) fn halted(&self) -> bool {
        self.halt.is_some_and(|at| self.operations > at)
    }

    pub(super) fn used_bytes(&self) -> u64 {
        let named: BTreeSet<FileId> = self.names.values().copied().collect();
        let live = self.inodes.iter().filter(|(id, inode)| inode.opens > 0 || named.contains(id));
        live.map(|(_, inode)| inode.current.len()).sum()
    }

    /// Forgets the files that no name, no handle and no pending change knows any more.
    pub(super) fn purge(&mut self) {
        let named = self.names.values().chain(self.durable_names.values()).copied();
        let pending = self.pending.iter().filter_map(|pending| match &pending.change {
            Change::Create { file, .. } | Change::Rename { file, .. } => Some(*file),
            change => change.file(),
        });
        let known: BTreeSet<FileId> = named.chain(pending).collect();
        self.inodes.retain(|id, inode| inode.opens > 0 || known.contains(id));
    }

    pub(super) fn close(&mut self, file: FileId) {
        let inode = self.inodes.get_mut(&file).expect("an open file");
        inode.opens -= 1;
        if inode.opens == 0 && !self.names.values().any(|&named| named == file) {
            self.purge();
        }
    }

    pub(super) fn find(&self, name: &str) -> io::Result<FileId> {
        self.names.get(name).copied().ok_or_else(not_found)
    }

    pub(super) fn parent(&self, name: &str) -> io::Result<()> {
        let dir = parent_of(name);
        if dir.is_empty() || self.dirs.contains(dir) { Ok(()) } else { Err(not_found()) }
    }

    pub(super) fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        if !dir.is_empty() && !self.dirs.contains(dir) {
            return Err(not_found());
        }
        let files = self.names.keys().filter(|name| parent_of(name) == dir);
        let mut names: Vec<String> =
            files.map(|name| name.rsplit('/').next().unwrap_or(name).to_owned()).collect();
        if dir.is_empty() {
            names.extend(self.dirs.iter().cloned());
        }
        names.sort();
        Ok(names)
    }

    pub(super) fn open(&mut self, name: &str, mode: OpenMode) -> io::Result<FileId> {
        if mode != OpenMode::CreateNew {
            let id = self.find(name)?;
            self.inodes.get_mut(&id).expect("a name has a file").opens += 1;
            return Ok(id);
        }
        self.parent(name)?;
        if self.names.contains_key(name) || self.dirs.contains(name) {
            return Err(io::Error::from_raw_os_error(libc::EEXIST));
        }
        let id = self.next_file;
        self.next_file += 1;
        self.inodes.insert(id, Inode::default());
        self.change(Some(Change::Create { name: name.to_owned(), file: id }))?;
        self.inodes.get_mut(&id).expect("inserted above").opens += 1;
        Ok(id)
    }

    /// Counts an operation, and says what becomes of it.
    fn turn(&mut self) -> io::Result<Turn> {
        let number = self.operations;
        self.operations += 1;
        if self.halt.is_some_and(|at| number > at) {
            return Err(halted());
        }
        if self.halt == Some(number) {
            return Ok(Turn::Halt);
        }
        match self.fail_operation {
            Some((at, Fault::Io)) if at == number => Err(io::Error::from_raw_os_error(libc::EIO)),
            Some((at, Fault::NoSpace)) if at == number => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
            _ => Ok(Turn::Go),
        }
    }

    /// One counted operation that makes `change`, or nothing.
    pub(super) fn change(&mut self, change: Option<Change>) -> io::Result<()> {
        let turn = self.turn()?;
        if let Some(change) = change {
            change.apply(&mut self.names, &mut self.dirs, &mut self.inodes);
            self.pending.push(Pending { change, forgotten: false });
        }
        match turn {
            Turn::Go => Ok(()),
            Turn::Halt => Err(halted()),
        }
    }

    pub(super) fn write(&mut self, file: FileId, offset: u64, data: &[u8], durable: bool) -> io::Result<()> {
        let end = offset + data.len() as u64;
        let growth = end.saturating_sub(self.inodes[&file].current.len());
        if self.used_bytes() + growth > self.capacity {
            self.turn()?;
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        self.change(Some(Change::Write { file, offset, data: data.to_vec() }))?;
        if durable {
            if end > self.inodes[&file].durable.len() {
                // The new size reaches the device with all that the file has so far: more than RWF_DSYNC promises,
                // but nothing here grows a file by durable writes.
                self.commit(|change| change.file() == Some(file));
            } else {
                self.commit_range(file, offset, data);
            }
        }
        Ok(())
    }

    /// Makes a range durable, and takes it out of the pending writes: they are older.
    fn commit_range(&mut self, file: FileId, offset: u64, data: &[u8]) {
        let end = offset + data.len() as u64;
        let inode = self.inodes.get_mut(&file).expect("a file lives while it is open");
        inode.durable.write(offset, data);
        let before = std::mem::take(&mut self.pending);
        for Pending { change, forgotten } in before {
            match change {
                Change::Write { file: of, offset: start, data }
                    if of == file && start < end && offset < start + data.len() as u64 =>
                {
                    let stop = start + data.len() as u64;
                    if start < offset {
                        let head = data[..(offset - start) as usize].to_vec();
                        let change = Change::Write { file, offset: start, data: head };
                        self.pending.push(Pending { change, forgotten });
                    }
                    if end < stop {
                        let tail = data[(end - start) as usize..].to_vec();
                        let change = Change::Write { file, offset: end, data: tail };
                        self.pending.push(Pending { change, forgotten });
                    }
                }
                change => self.pending.push(Pending { change, forgotten }),
            }
        }
    }

    /// Makes the covered changes durable, in their order.
    fn commit(&mut self, covers: impl Fn(&Change) -> bool) {
        let before = std::mem::take(&mut self.pending);
        for Pending { change, forgotten } in before {
            if forgotten || !covers(&change) {
                self.pending.push(Pending { change, forgotten });
                continue;
            }
            match change.file() {
                Some(file) => {
                    let inode = self.inodes.get_mut(&file).expect("a file lives while it is open");
                    change.apply_to(&mut inode.durable);
                }
                None => change.apply_name(&mut self.durable_names, &mut self.durable_dirs),
            }
        }
    }

    fn sync_where(&mut self, covers: impl Fn(&Change) -> bool) -> io::Result<()> {
        match self.turn() {
            Ok(Turn::Go) => {
                self.commit(covers);
                Ok(())
            }
            Ok(Turn::Halt) => Err(halted()),
            Err(error) => {
                for pending in self.pending.iter_mut().filter(|pending| covers(&pending.change)) {
                    pending.forgotten = true;
                }
                Err(error)
            }
        }
    }

    pub(super) fn sync(&mut self, file: FileId) -> io::Result<()> {
        self.sync_where(|change| change.file() == Some(file))
    }

    pub(super) fn sync_dir(&mut self, dir: &str) -> io::Result<()> {
        if !dir.is_empty() && !self.dirs.contains(dir) {
            return Err(not_found());
        }
        self.sync_where(|change| change.is_in(dir))?;
        self.purge();
        Ok(())
    }

    pub(super) fn allocate(&mut self, file: FileId, len: u64) -> io::Result<()> {
        let current = self.inodes[&file].current.len();
        let free = self.capacity.saturating_sub(self.used_bytes());
        if len.saturating_sub(current) > free {
            // What the device still has is taken, as a real file system may do.
            let part = current + free / BLOCK as u64 * BLOCK as u64;
            self.change((part > current).then_some(Change::Size { file, len: part }))?;
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        self.change((len > current).then_some(Change::Size { file, len }))
    }

    pub(super) fn read(&mut self, file: FileId, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let number = self.reads;
        self.reads += 1;
        if self.halted() {
            return Err(halted());
        }
        if self.fail_read == Some(number) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let current = &self.inodes[&file].current;
        if offset + buf.len() as u64 > current.len() {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        current.read(offset, buf);
        Ok(())
    }
}
