//! Opening a data file: from the newest whole meta, without reading the pages behind it.
//!
//! A file comes into being under another name and is renamed when its first meta is durable, so a file of this name
//! always has one. Of two whole metas the one with the higher sequence counts. A slot that is not whole is what a
//! crash during its write leaves, or damage: the log knows which ([`OpenReport::unreadable`]).
//!
//! A root page that is not as its checkpoint wrote it is damage, or the file was copied while somebody wrote to it.
//! Then the older meta counts, if its roots are whole: the log still reaches back to it (law 6). A root with a number
//! above its meta's is of a later checkpoint, so the page was used again and the meta is of no use.

use std::io;
use std::sync::Arc;

use disk::{AlignedBuf, File, Files, Mapping, OpenMode};

use crate::bits::Bits;
use crate::checkpoint::{Checkpoints, Durable};
use crate::meta::{Meta, SLOTS, Slot, records, suffix_of};
use crate::node::{BRANCH, LEAF, PAGE_BYTES, STAMP_BYTES, u32_at, u64_at};
use crate::order::{Order, TreeSpec};
use crate::pages::{Extent, Pages};
use crate::pins::{Root, TreeRoot};
use crate::space::Space;
use crate::store::Store;
use crate::walk::Walk;
use crate::{Options, STAMP_WORDS};

/// Why a data file was not opened. Each displays as one line: what, where, what to do.
#[derive(Debug)]
pub enum OpenError {
    /// Not a data file of this program.
    Foreign {
        file: String,
    },
    /// Written by a version that this one does not read.
    Version {
        file: String,
        found: u32,
        supported: u32,
    },
    /// Neither meta is whole, or what they reach is not.
    Damaged {
        file: String,
        what: String,
    },
    /// The file's trees are not those of this program.
    Trees {
        file: String,
        what: String,
    },
    Io {
        file: String,
        source: io::Error,
    },
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            OpenError::Foreign { file } => {
                write!(out, "{file} is not a data file of this program; name another data directory")
            }
            OpenError::Version { file, found, supported } => write!(
                out,
                "{file} has format version {found}, this program reads version {supported}; run the program that wrote it"
            ),
            OpenError::Damaged { file, what } => write!(
                out,
                "{file} is damaged: {what}; restore it from a snapshot, or remove this member and add it again"
            ),
            OpenError::Trees { file, what } => {
                write!(out, "{file} was written by another version of this program: {what}; run that version")
            }
            OpenError::Io { file, source } => write!(out, "{file}: {source}"),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            OpenError::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// What `open` found; the caller judges it by the log.
#[derive(Clone, Debug, Default)]
pub struct OpenReport {
    /// The file was not there.
    pub created: bool,
    /// Sequence of the checkpoint that was opened.
    pub sequence: u64,
    /// The other meta slot is not whole, or what it reaches is not, in words: a checkpoint was cut short by a crash, or
    /// damaged since. If the log says that a checkpoint newer than this one was complete, it is damage.
    pub unreadable: Option<String>,
    /// The allocation bitmap was damaged and has been rebuilt from the pages, in words.
    pub bitmap_rebuilt: Option<String>,
    /// The reserve of law 8 could not be allocated, in words: the device is full.
    pub reserve_missing: Option<String>,
}

struct Opening<'f> {
    file: Arc<dyn File>,
    name: &'f str,
}

impl Opening<'_> {
    fn io(&self, source: io::Error) -> OpenError {
        OpenError::Io { file: self.name.to_owned(), source }
    }

    fn damaged(&self, what: impl Into<String>) -> OpenError {
        OpenError::Damaged { file: self.name.to_owned(), what: what.into() }
    }
}

impl Store {
    /// Opens `name` below `files`, or creates it. `specs` names the trees: those that the file does not have yet
    /// (the file's may be the first few of them) are empty.
    pub fn open(
        files: &dyn Files,
        name: &str,
        specs: &'static [TreeSpec],
        options: Options,
    ) -> Result<Store, OpenError> {
        assert!(!specs.is_empty() && specs.len() <= crate::meta::TREES_MAX, "{} trees", specs.len());
        let failed = |source| OpenError::Io { file: name.to_owned(), source };
        let created = !files.exists(name).map_err(failed)?;
        if created {
            create(files, name, specs, &options).map_err(failed)?;
        }
        let file = files.open(name, OpenMode::ReadWrite).map_err(failed)?;
        let opening = Opening { file, name };
        let mut report = OpenReport { created, ..OpenReport::default() };
        let (newer, older) = opening.metas(&mut report)?;
        // A killed process may have left name, pages and meta in the caches. What was read is built upon from here on
        // (the log lets go of what this meta covers), so it must be durable first.
        opening.file.sync().map_err(failed)?;
        files.sync_dir(parent(name)).map_err(failed)?;
        check_trees(name, &newer, specs)?;
        let mapping = Mapping::open(opening.file.clone(), newer.chunk_bytes, options.max_chunks)
            .map_err(|source| opening.io(source))?;
        let space = Arc::new(Space::new(mapping));
        let mut store = opening.assemble(space, specs, newer, older, options, report)?;
        store.hold_bitmaps();
        match store.reserve(0) {
            Ok(()) => {}
            Err(full) if full.is_for_room() => store.report.reserve_missing = Some(full.to_string()),
            Err(failed) => return Err(OpenError::Io { file: name.to_owned(), source: failed.source }),
        }
        Ok(store)
    }
}

impl Opening<'_> {
    /// The metas to go by, the newer first.
    fn metas(&self, report: &mut OpenReport) -> Result<(Meta, Option<Meta>), OpenError> {
        let len = self.file.len().map_err(|source| self.io(source))?;
        let metas_len = u64::from(SLOTS) * PAGE_BYTES as u64;
        if len < metas_len {
            return Err(self.damaged(format!("it has {len} bytes, less than its metas take")));
        }
        let mut blocks = AlignedBuf::zeroed(metas_len as usize);
        self.file.read_at(0, &mut blocks).map_err(|source| self.io(source))?;
        let slots = [0, 1].map(|slot| Meta::decode(&blocks[slot * PAGE_BYTES..][..PAGE_BYTES], slot as u32));
        if let Some(Slot::Version(found)) = slots.iter().find(|slot| matches!(slot, Slot::Version(_))) {
            let supported = crate::meta::VERSION;
            return Err(OpenError::Version { file: self.name.to_owned(), found: *found, supported });
        }
        let [a, b] = slots;
        let (newer, older) = match (a, b) {
            (Slot::Valid(a), Slot::Valid(b)) if (a.sequence > b.sequence) != base::bug!(OlderMetaOpened) => {
                (a, Some(b))
            }
            (Slot::Valid(a), Slot::Valid(b)) => (b, Some(a)),
            (Slot::Valid(one), other) | (other, Slot::Valid(one)) => {
                if !(other == Slot::Empty && one.sequence == 1) {
                    report.unreadable = Some(format!(
                        "{}: the meta in slot {} cannot be read; opened checkpoint {} in slot {}",
                        self.name,
                        1 - one.slot(),
                        one.sequence,
                        one.slot()
                    ));
                }
                (one, None)
            }
            (Slot::Foreign | Slot::Empty, Slot::Foreign | Slot::Empty) => {
                return Err(OpenError::Foreign { file: self.name.to_owned() });
            }
            _ => return Err(self.damaged("neither of its two metas (pages 0 and 1) is whole")),
        };
        report.sequence = newer.sequence;
        Ok((*newer, older.map(|older| *older)))
    }

    fn assemble(
        &self,
        space: Arc<Space>,
        specs: &'static [TreeSpec],
        newer: Meta,
        older: Option<Meta>,
        options: Options,
        mut report: OpenReport,
    ) -> Result<Store, OpenError> {
        let mapped = space.mapping().pages();
        let (mut newer, mut older) = (newer, older);
        let mut false_meta = false;
        if let Some(what) = self.broken(&newer, mapped, specs)? {
            let Some(fallback) = older.take() else { return Err(self.damaged(what)) };
            check_trees(self.name, &fallback, specs)?;
            if self.broken(&fallback, mapped, specs)?.is_some() {
                return Err(self.damaged(what));
            }
            let sequence = fallback.sequence;
            report.sequence = sequence;
            report.unreadable = Some(format!("{}: {what}; opened checkpoint {sequence}", self.name));
            (newer, false_meta) = (fallback, true);
        }
        let live = match self.bitmap(&newer)? {
            Some(live) => live,
            None => {
                report.bitmap_rebuilt = Some(format!(
                    "{}: the allocation bitmap of checkpoint {} was damaged and is rebuilt from the pages",
                    self.name, newer.sequence
                ));
                reachable(&space, specs, &newer).map_err(|what| self.damaged(what))?
            }
        };
        // The older meta is kept a whole tree as long as it is one. If its bitmap is gone, its pages tell; if they
        // do not, there is nothing left to keep.
        older = older.filter(|older| older.pages <= mapped);
        let mut older_live = Bits::default();
        if let Some(meta) = &older {
            match self.bitmap(meta)?.map_or_else(|| reachable(&space, specs, meta), Ok) {
                Ok(bits) => older_live = bits,
                Err(what) => {
                    report.unreadable = Some(format!(
                        "{}: checkpoint {}, the one before the newest, is damaged: {what}",
                        self.name, meta.sequence
                    ));
                    older = None;
                }
            }
        }
        let durable = |meta: &Meta| Durable {
            sequence: meta.sequence,
            publication: meta.publication,
            stamp: meta.stamp,
            // Its pages come free one day: never a meta's, nor those of a tree.
            bitmap: match within(meta) {
                true if !overlaps(meta.bitmap, &live) && !overlaps(meta.bitmap, &older_live) => meta.bitmap,
                _ => Extent { page: 0, pages: 0 },
            },
            pages: meta.pages,
        };
        let mut checkpoints = Checkpoints::new(durable(&newer), older.as_ref().map(durable));
        if false_meta {
            checkpoints.note_false_meta();
        }
        let frontier = newer.pages.max(older.as_ref().map_or(0, |older| older.pages));
        let held: Vec<Extent> = checkpoints.held().collect();
        let mut pages = Pages::new(SLOTS, mapped, space.mapping().chunk_pages());
        pages.scarce_pages = (options.reserve_bytes + options.ahead_bytes()) / PAGE_BYTES as u64;
        pages.restore(live, &older_live, &held, frontier, newer.publication);
        let mut trees: Vec<TreeRoot> = newer.trees.iter().map(|tree| tree.root).collect();
        trees.resize(specs.len(), TreeRoot::default());
        let root = Root { publication: newer.publication, stamp: newer.stamp, trees: trees.into() };
        Ok(Store::assemble(space, specs, root, pages, checkpoints, options, report))
    }

    /// What a meta names and is not as its checkpoint wrote it, in words: the file's length, the roots.
    fn broken(
        &self,
        meta: &Meta,
        mapped: u32,
        specs: &'static [TreeSpec],
    ) -> Result<Option<String>, OpenError> {
        let sequence = meta.sequence;
        if meta.pages > mapped {
            return Ok(Some(format!("checkpoint {sequence} has {} pages, the file {mapped}", meta.pages)));
        }
        for (spec, tree) in specs.iter().zip(&meta.trees).filter(|(_, tree)| tree.root.page != 0) {
            let page = tree.root.page;
            if page < SLOTS || page >= meta.pages || !self.is_root(page, sequence)? {
                let name = spec.name;
                return Ok(Some(format!(
                    "page {page}, the root of tree {name:?}, is not as checkpoint {sequence} wrote it"
                )));
            }
        }
        Ok(None)
    }

    /// Whether the page is a node of a checkpoint up to `sequence`, every byte of it.
    fn is_root(&self, page: u32, sequence: u64) -> Result<bool, OpenError> {
        let mut block = AlignedBuf::zeroed(PAGE_BYTES);
        let offset = u64::from(page) * PAGE_BYTES as u64;
        self.file.read_at(offset, &mut block).map_err(|source| self.io(source))?;
        let kind = block[STAMP_BYTES];
        Ok(matches!(kind, LEAF | BRANCH)
            && u32_at(&block, 0) == base::crc32c(&block[4..])
            && u32_at(&block, 4) == page
            && u64_at(&block, 8) <= sequence)
    }

    /// The bitmap that a meta names; `None` when it is not what the meta says.
    fn bitmap(&self, meta: &Meta) -> Result<Option<Bits>, OpenError> {
        if meta.bitmap.pages == 0 {
            return Ok(meta.trees.iter().all(|tree| tree.root.page == 0).then(Bits::default));
        }
        if !within(meta) {
            return Ok(None);
        }
        let mut block = AlignedBuf::zeroed(meta.bitmap.pages as usize * PAGE_BYTES);
        let offset = u64::from(meta.bitmap.page) * PAGE_BYTES as u64;
        self.file.read_at(offset, &mut block).map_err(|source| self.io(source))?;
        if base::crc32c(&block) != meta.bitmap_crc {
            return Ok(None);
        }
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
        Ok(Some(Bits::from_words(block.chunks_exact(8).map(word).collect())))
    }
}

/// Whether the bitmap that a meta names lies among the pages that the meta speaks of.
fn within(meta: &Meta) -> bool {
    let end = u64::from(meta.bitmap.page) + u64::from(meta.bitmap.pages);
    meta.bitmap.page >= SLOTS && end <= u64::from(meta.pages)
}

fn overlaps(extent: Extent, bits: &Bits) -> bool {
    (extent.page..extent.page + extent.pages).any(|no| bits.contains(no))
}

/// All pages that a meta reaches, from the pages themselves.
fn reachable(space: &Space, specs: &'static [TreeSpec], meta: &Meta) -> Result<Bits, String> {
    let mut walk = Walk::new(space, meta.pages);
    for (spec, tree) in specs.iter().zip(&meta.trees) {
        walk.tree(spec.name, Order::from(spec.order), tree.root).map_err(|error| error.to_string())?;
    }
    Ok(walk.seen)
}

fn check_trees(name: &str, meta: &Meta, specs: &[TreeSpec]) -> Result<(), OpenError> {
    let wrong = |what: String| Err(OpenError::Trees { file: name.to_owned(), what });
    if meta.trees.len() > specs.len() {
        return wrong(format!("it has {} trees, this program knows {}", meta.trees.len(), specs.len()));
    }
    for (i, (tree, spec)) in meta.trees.iter().zip(specs).enumerate() {
        if tree.name != spec.name.as_bytes() || tree.suffix != suffix_of(spec.order) {
            let found = String::from_utf8_lossy(&tree.name);
            return wrong(format!("tree {i} is {found:?} (suffix {}), not {:?}", tree.suffix, spec.name));
        }
    }
    Ok(())
}

/// Writes an empty data file under another name, and renames it when it is durable.
fn create(files: &dyn Files, name: &str, specs: &[TreeSpec], options: &Options) -> io::Result<()> {
    assert!(options.chunk_bytes >= 4 * PAGE_BYTES as u64, "a chunk has room for the metas and a page");
    let young = format!("{name}.new");
    if files.exists(&young)? {
        files.remove(&young)?;
    }
    let file = files.open(&young, OpenMode::CreateNew)?;
    file.allocate(options.chunk_bytes)?;
    let roots = vec![TreeRoot::default(); specs.len()];
    let meta = Meta {
        sequence: 1,
        publication: 1,
        pages: SLOTS,
        chunk_bytes: options.chunk_bytes,
        bitmap: Extent { page: 0, pages: 0 },
        bitmap_crc: 0,
        stamp: [0; STAMP_WORDS],
        trees: records(specs, &roots),
    };
    let mut block = AlignedBuf::zeroed(PAGE_BYTES);
    meta.encode(&mut block);
    file.write_at(u64::from(meta.slot()) * PAGE_BYTES as u64, &block)?;
    file.sync()?;
    files.rename(&young, name)?;
    files.sync_dir(parent(name))
}

/// The directory of a name.
fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(dir, _)| dir)
}
