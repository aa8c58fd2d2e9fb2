//! Names and contents, each as they are and as they are durable, and the unsynced changes between the two.
//!
//! Invariant: the current state is the durable one with all pending changes applied in order.
//! A copy of a world shares everything with it and costs a few pointers a file.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::blocks::{Blocks, Payload};
use super::crash::Shape;
use super::fault::{Fault, ReadFault};
use super::moment::{Moment, Operation};
use crate::{BLOCK, OpenMode};

pub(super) type FileId = u64;
pub(super) type Names = Arc<BTreeMap<Arc<str>, FileId>>;
pub(super) type Dirs = Arc<BTreeSet<Arc<str>>>;
pub(super) type Inodes = BTreeMap<FileId, Inode>;

#[derive(Clone, Default)]
pub(super) struct Inode {
    pub(super) current: Blocks,
    pub(super) durable: Blocks,
    /// What each durable block was before it was last overwritten.
    pub(super) stale: Blocks,
    /// Handles that are open; the contents of a removed file live as long.
    pub(super) opens: usize,
}

/// One change that a crash may keep or lose.
#[derive(Clone)]
pub(super) enum Change {
    /// `at` is a block number.
    Write {
        file: FileId,
        at: usize,
        payload: Payload,
    },
    Size {
        file: FileId,
        len: u64,
    },
    Create {
        name: Arc<str>,
        file: FileId,
    },
    Rename {
        from: Arc<str>,
        to: Arc<str>,
        file: FileId,
    },
    Remove {
        name: Arc<str>,
    },
    Directory {
        name: Arc<str>,
    },
}

#[derive(Clone)]
pub(super) struct Pending {
    pub(super) change: Change,
    /// A sync failed that should have covered it: no later one does.
    forgotten: bool,
}

#[derive(Clone)]
pub(super) struct World {
    pub(super) names: Names,
    pub(super) dirs: Dirs,
    pub(super) durable_names: Names,
    pub(super) durable_dirs: Dirs,
    pub(super) inodes: Inodes,
    pub(super) pending: Vec<Pending>,
    pub(super) next_file: FileId,
    pub(super) capacity: u64,
    pub(super) operations: u64,
    pub(super) reads: u64,
    pub(super) fail_operation: Option<(u64, Fault)>,
    pub(super) fail_read: Option<(u64, ReadFault)>,
    pub(super) halt: Option<u64>,
    /// From this operation on, syncs answer well and do nothing.
    pub(super) lies_from: Option<u64>,
}

impl Default for World {
    fn default() -> Self {
        World {
            names: Names::default(),
            dirs: Dirs::default(),
            durable_names: Names::default(),
            durable_dirs: Dirs::default(),
            inodes: BTreeMap::new(),
            pending: Vec::new(),
            next_file: 0,
            capacity: 1 << 50,
            operations: 0,
            reads: 0,
            fail_operation: None,
            fail_read: None,
            halt: None,
            lies_from: None,
        }
    }
}

/// What is kept of a run beside its world.
#[derive(Default)]
pub(super) struct Record {
    pub(super) on: bool,
    pub(super) mark: u64,
    pub(super) moments: Vec<Moment>,
}

impl Record {
    /// In the midst of an operation.
    fn note(&mut self, world: &World, number: u64, under_way: impl FnOnce() -> Operation) {
        if self.on {
            let world = World { operations: number, ..world.clone() };
            self.moments.push(Moment::new(world, Some(under_way()), self.mark));
        }
    }
}

/// What the next operation does.
enum Turn {
    Go,
    /// Leaves its change unsynced, and fails.
    Halt,
    /// Leaves a part of its change unsynced, and fails.
    Short {
        blocks: usize,
    },
    /// Does nothing, and answers well.
    Lost,
    Misdirected {
        blocks: u64,
    },
}

fn halted() -> io::Error {
    io::Error::other("the simulated power is off")
}

fn not_found() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOENT)
}

fn input_output() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

fn no_space() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOSPC)
}

fn parent_of(name: &str) -> &str {
    name.split_once('/').map_or("", |(dir, _)| dir)
}

impl Change {
    pub(super) fn apply(&self, names: &mut Names, dirs: &mut Dirs, inodes: &mut Inodes) {
        match self {
            Change::Write { file, at, payload } => {
                inodes
                    .get_mut(file)
                    .expect("a file lives while it is open")
                    .current
                    .put_all(*at, payload.blocks());
            }
            Change::Size { file, len } => {
                inodes.get_mut(file).expect("a file lives while it is open").current.set_len(*len);
            }
            _ => self.apply_name(names, dirs),
        }
    }

    fn apply_name(&self, names: &mut Names, dirs: &mut Dirs) {
        match self {
            Change::Create { name, file } => {
                Arc::make_mut(names).insert(name.clone(), *file);
            }
            Change::Rename { from, to, file } => {
                let names = Arc::make_mut(names);
                // The name may stand for another file by now, when an earlier change was lost.
                if names.get(from) == Some(file) {
                    names.remove(from);
                }
                names.insert(to.clone(), *file);
            }
            Change::Remove { name } => {
                Arc::make_mut(names).remove(name);
            }
            Change::Directory { name } => {
                Arc::make_mut(dirs).insert(name.clone());
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

impl Inode {
    /// Blocks of an older write or of a lost sync become durable.
    fn commit(&mut self, change: &Change) {
        match change {
            Change::Write { at, payload, .. } => {
                for (no, block) in payload.blocks().iter().enumerate() {
                    let before = self.durable.put(at + no, block.clone());
                    self.stale.put(at + no, before);
                }
            }
            Change::Size { len, .. } => self.durable.set_len(*len),
            _ => unreachable!("a change of a name"),
        }
    }
}

impl World {
    pub(super) fn image(&self) -> World {
        let mut world = World {
            fail_operation: None,
            fail_read: None,
            halt: None,
            lies_from: None,
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

    fn is_named(&self, file: FileId) -> bool {
        self.names.values().any(|named| *named == file)
    }

    pub(super) fn used_bytes(&self) -> u64 {
        let live = self.inodes.iter().filter(|(id, inode)| inode.opens > 0 || self.is_named(**id));
        live.map(|(_, inode)| inode.current.len()).sum()
    }

    /// Forgets the files that no name, no handle and no pending change knows any more.
    pub(super) fn purge(&mut self) {
        let World { names, durable_names, pending, inodes, .. } = self;
        let known = |id: FileId| {
            names.values().chain(durable_names.values()).any(|named| *named == id)
                || pending.iter().any(|pending| match &pending.change {
                    Change::Create { file, .. } | Change::Rename { file, .. } => *file == id,
                    change => change.file() == Some(id),
                })
        };
        inodes.retain(|id, inode| inode.opens > 0 || known(*id));
    }

    pub(super) fn close(&mut self, file: FileId) {
        let inode = self.inodes.get_mut(&file).expect("an open file");
        inode.opens -= 1;
        if inode.opens == 0 && !self.is_named(file) {
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
            names.extend(self.dirs.iter().map(|dir| String::from(&**dir)));
        }
        names.sort();
        Ok(names)
    }

    pub(super) fn open(&mut self, record: &mut Record, name: &str, mode: OpenMode) -> io::Result<FileId> {
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
        self.change(record, Some(Change::Create { name: name.into(), file: id }))?;
        self.inodes.get_mut(&id).expect("inserted above").opens += 1;
        Ok(id)
    }

    fn lies(&self, operation: u64) -> bool {
        self.lies_from.is_some_and(|from| operation >= from)
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
        match self.fail_operation.filter(|(at, _)| *at == number) {
            None => Ok(Turn::Go),
            Some((_, Fault::Io)) => Err(input_output()),
            Some((_, Fault::NoSpace)) => Err(no_space()),
            Some((_, Fault::Short { blocks })) => Ok(Turn::Short { blocks }),
            Some((_, Fault::Lost)) => Ok(Turn::Lost),
            Some((_, Fault::Misdirected { blocks })) => Ok(Turn::Misdirected { blocks }),
        }
    }

    fn make(&mut self, change: Change) {
        change.apply(&mut self.names, &mut self.dirs, &mut self.inodes);
        self.pending.push(Pending { change, forgotten: false });
    }

    /// One counted operation that makes `change` of a name or a size, or nothing.
    pub(super) fn change(&mut self, record: &mut Record, change: Option<Change>) -> io::Result<()> {
        let number = self.operations;
        let turn = self.turn()?;
        match turn {
            // It is the journal of the file system that makes these, so no single write can lose or misplace one.
            Turn::Short { .. } => return Err(input_output()),
            Turn::Lost | Turn::Misdirected { .. } | Turn::Go | Turn::Halt => {}
        }
        if let Some(change) = change {
            self.make(change);
        }
        record.note(self, number, || Operation::Metadata);
        match turn {
            Turn::Halt => Err(halted()),
            _ => Ok(()),
        }
    }

    pub(super) fn write(
        &mut self,
        record: &mut Record,
        file: FileId,
        at: usize,
        data: &[u8],
        durable: bool,
    ) -> io::Result<()> {
        let blocks = data.len() / BLOCK;
        let end = ((at + blocks) * BLOCK) as u64;
        let growth = end.saturating_sub(self.inodes[&file].current.len());
        if growth > 0 && self.used_bytes() + growth > self.capacity {
            self.turn()?;
            return Err(no_space());
        }
        let number = self.operations;
        let asked = at as u64..(at + blocks) as u64;
        let under_way = |world: &World| Operation::Write { name: world.name_of(file), blocks: asked };
        let (mut at, mut part, mut failed) = (at, 0..blocks, None);
        match self.turn()? {
            Turn::Go => {}
            Turn::Halt => failed = Some(halted()),
            Turn::Short { blocks: made } => {
                part = 0..made.min(blocks);
                failed = Some(input_output());
            }
            Turn::Lost => {
                record.note(self, number, || under_way(self));
                return Ok(());
            }
            Turn::Misdirected { blocks: by } => {
                let whole = (self.inodes[&file].current.len() / BLOCK as u64).max(end / BLOCK as u64);
                let room = whole - blocks as u64 + 1;
                at = ((at as u64 + by) % room) as usize;
            }
        }
        let payload = Payload::new(data).part(part);
        if durable && self.is_on_its_way(file, at, &payload) {
            // Written before, and only now waited for.
        } else if payload.len() > 0 {
            self.make(Change::Write { file, at, payload: payload.clone() });
        }
        record.note(self, number, || under_way(self));
        if let Some(error) = failed {
            return Err(error);
        }
        if !durable || self.lies(number) {
            return Ok(());
        }
        let end = ((at + payload.len()) * BLOCK) as u64;
        if end > self.inodes[&file].durable.len() {
            // The new size reaches the device with all that the file has so far: more than RWF_DSYNC promises,
            // but nothing here grows a file by durable writes.
            self.commit(|change| change.file() == Some(file));
        } else {
            self.commit_range(file, at, payload);
        }
        Ok(())
    }

    /// Whether the newest unsynced change that touches this range is this very write.
    fn is_on_its_way(&self, file: FileId, at: usize, payload: &Payload) -> bool {
        let newest = self.pending.iter().rev().find(|pending| match &pending.change {
            Change::Write { file: of, at: from, payload: other } => {
                *of == file && *from < at + payload.len() && at < from + other.len()
            }
            Change::Size { file: of, .. } => *of == file,
            _ => false,
        });
        newest.is_some_and(|pending| match &pending.change {
            Change::Write { at: from, payload: other, .. } => *from == at && other.equals(payload),
            _ => false,
        })
    }

    /// Makes a range durable, and takes it out of the pending writes: they are older.
    fn commit_range(&mut self, file: FileId, at: usize, payload: Payload) {
        let covered = at..at + payload.len();
        let inode = self.inodes.get_mut(&file).expect("a file lives while it is open");
        inode.commit(&Change::Write { file, at, payload });
        let overlaps = |change: &Change| match change {
            Change::Write { file: of, at, payload } => {
                *of == file && *at < covered.end && covered.start < at + payload.len()
            }
            _ => false,
        };
        if !self.pending.iter().any(|pending| overlaps(&pending.change)) {
            return;
        }
        for Pending { change, forgotten } in std::mem::take(&mut self.pending) {
            match change {
                Change::Write { at, payload, .. } if overlaps(&change) => {
                    for rest in rest_of(at..at + payload.len(), &covered) {
                        let payload = payload.part(rest.start - at..rest.end - at);
                        let change = Change::Write { file, at: rest.start, payload };
                        self.pending.push(Pending { change, forgotten });
                    }
                }
                change => self.pending.push(Pending { change, forgotten }),
            }
        }
    }

    /// Makes the covered changes durable, in their order.
    fn commit(&mut self, covers: impl Fn(&Change) -> bool) {
        for Pending { change, forgotten } in std::mem::take(&mut self.pending) {
            if forgotten || !covers(&change) {
                self.pending.push(Pending { change, forgotten });
                continue;
            }
            match change.file() {
                Some(file) => {
                    self.inodes.get_mut(&file).expect("a file lives while it is open").commit(&change);
                }
                None => change.apply_name(&mut self.durable_names, &mut self.durable_dirs),
            }
        }
    }

    fn sync_where(
        &mut self,
        record: &mut Record,
        name: impl Fn(&World) -> String,
        covers: impl Fn(&Change) -> bool,
    ) -> io::Result<()> {
        let number = self.operations;
        let turn = match self.turn() {
            Ok(Turn::Short { .. }) => Err(input_output()),
            turn => turn,
        };
        match turn {
            Ok(Turn::Halt) => Err(halted()),
            Ok(Turn::Lost) => {
                record.note(self, number, || Operation::Sync { name: name(self) });
                Ok(())
            }
            Ok(_) => {
                record.note(self, number, || Operation::Sync { name: name(self) });
                if !self.lies(number) {
                    self.commit(covers);
                }
                Ok(())
            }
            Err(error) => {
                for pending in self.pending.iter_mut().filter(|pending| covers(&pending.change)) {
                    pending.forgotten = true;
                }
                Err(error)
            }
        }
    }

    pub(super) fn sync(&mut self, record: &mut Record, file: FileId) -> io::Result<()> {
        self.sync_where(record, |world| world.name_of(file), |change| change.file() == Some(file))
    }

    pub(super) fn sync_dir(&mut self, record: &mut Record, dir: &str) -> io::Result<()> {
        if !dir.is_empty() && !self.dirs.contains(dir) {
            return Err(not_found());
        }
        self.sync_where(record, |_| dir.to_owned(), |change| change.is_in(dir))?;
        self.purge();
        Ok(())
    }

    pub(super) fn allocate(&mut self, record: &mut Record, file: FileId, len: u64) -> io::Result<()> {
        let current = self.inodes[&file].current.len();
        if len > current && len - current > self.capacity.saturating_sub(self.used_bytes()) {
            // What the device still has is taken, as a real file system may do.
            let free = self.capacity.saturating_sub(self.used_bytes());
            let part = current + free / BLOCK as u64 * BLOCK as u64;
            self.change(record, (part > current).then_some(Change::Size { file, len: part }))?;
            return Err(no_space());
        }
        self.change(record, (len > current).then_some(Change::Size { file, len }))
    }

    pub(super) fn read(&mut self, file: FileId, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let number = self.reads;
        self.reads += 1;
        if self.halted() {
            return Err(halted());
        }
        let fault = self.fail_read.filter(|(at, _)| *at == number).map(|(_, fault)| fault);
        let current = &self.inodes[&file].current;
        if fault == Some(ReadFault::Io) {
            return Err(input_output());
        }
        if fault == Some(ReadFault::Short) || offset + buf.len() as u64 > current.len() {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        current.read(offset, buf);
        if let Some(ReadFault::Flipped { at, mask }) = fault
            && !buf.is_empty()
        {
            let at = at % buf.len();
            buf[at] ^= mask;
        }
        Ok(())
    }

    /// How each of the unsynced changes can be torn.
    pub(super) fn shapes(&self) -> Vec<Shape> {
        let shape = |pending: &Pending| match &pending.change {
            Change::Write { payload, .. } => Shape::Blocks(payload.len()),
            _ => Shape::Atomic,
        };
        self.pending.iter().map(shape).collect()
    }

    fn name_of(&self, file: FileId) -> String {
        let found = self.names.iter().chain(self.durable_names.iter()).find(|(_, id)| **id == file);
        found.map_or_else(|| format!("file {file}"), |(name, _)| String::from(&**name))
    }

    pub(super) fn describe(&self) -> Vec<String> {
        let name = |file: &FileId| self.name_of(*file);
        let describe = |pending: &Pending| match &pending.change {
            Change::Write { file, at, payload } => {
                format!("write blocks {}..{} of {}", at, at + payload.len(), name(file))
            }
            Change::Size { file, len } => format!("set the length of {} to {len}", name(file)),
            Change::Create { name, .. } => format!("create {name}"),
            Change::Rename { from, to, .. } => format!("rename {from} to {to}"),
            Change::Remove { name } => format!("remove {name}"),
            Change::Directory { name } => format!("create the directory {name}"),
        };
        self.pending.iter().map(describe).collect()
    }
}

/// What of `whole` lies before and behind `hole`.
fn rest_of(whole: Range<usize>, hole: &Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let before = whole.start..hole.start.min(whole.end);
    let behind = hole.end.max(whole.start)..whole.end;
    [before, behind].into_iter().filter(|rest| rest.start < rest.end)
}
