//! Making a published root durable, off the writer's thread.
//!
//! The writer only cuts: it hands over the root, the set of pages written since the last cut, and the set of all
//! reachable pages. The job stamps and writes the former from their own addresses, writes the latter as a bitmap,
//! syncs, writes the meta into the slot of the older one, syncs. At every instant one of the two metas is whole, and
//! all that it reaches is on the device (law 6):
//!
//! | crash | newest whole meta | its pages |
//! |---|---|---|
//! | before the first sync ended | the last one | untouched: what it reaches is not reused, so not rewritten |
//! | during the write of the meta | the last one, in the other slot | as above |
//! | after the second sync began | this one, or as above | durable by the first sync |
//!
//! After a start that had to pass by a whole meta, because a root of it was damaged, that meta is cleared, and synced,
//! before anything else: the pages that only it reaches are free.
//!
//! Any error of the job is for the caller to end the process with (law 8): nothing here is tried again.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use disk::AlignedBuf;

use crate::Stamp;
use crate::bits::Bits;
use crate::meta::{Meta, SLOTS, records};
use crate::node::PAGE_BYTES;
use crate::pages::Extent;
use crate::space::Space;
use crate::store::Store;

/// After so many checkpoints, cut since, what was superseded is free, pins aside: it waits for the older of two metas.
pub const FREEING_CHECKPOINTS: u32 = 2;
/// Two that are durable, and the next.
const BITMAPS: usize = 3;
/// One write, at most, pages: 1 MiB.
const WRITE_PAGES: u32 = 256;
/// Writes handed to the device together, at most: what `write_many` keeps in flight.
const WRITES_TOGETHER: usize = 32;
/// With a cap, what is handed over together takes about this part of a second, so that the log's writes come between
/// and a new cap is soon heard of.
const CAPPED_BURSTS_PER_SECOND: u64 = 20;
/// But never less than this, bytes: below it the device works for the calls.
const CAPPED_BURST_MIN_BYTES: u64 = 256 << 10;

/// A checkpoint that is on the device, or will be.
#[derive(Clone, Debug)]
pub(crate) struct Durable {
    pub sequence: u64,
    pub publication: u64,
    pub stamp: Stamp,
    pub bitmap: Extent,
    pub pages: u32,
}

struct Running {
    durable: Durable,
    dirty: Arc<Bits>,
}

/// The writer's books of what is durable.
pub(crate) struct Checkpoints {
    newer: Durable,
    older: Option<Durable>,
    running: Option<Running>,
    /// A meta above `newer` is whole, and what it reaches is not: no page may be written before that meta is gone.
    false_meta: bool,
}

impl Checkpoints {
    pub fn new(newer: Durable, older: Option<Durable>) -> Checkpoints {
        assert!(
            older.as_ref().is_none_or(|older| older.sequence < newer.sequence),
            "sequences count upwards"
        );
        Checkpoints { newer, older, running: None, false_meta: false }
    }

    /// The slot that the next checkpoint takes holds a meta that must not count any more.
    pub fn note_false_meta(&mut self) {
        assert!(self.older.is_none(), "a store has two slots");
        self.false_meta = true;
    }

    /// Of the newer durable meta.
    pub fn newer_sequence(&self) -> u64 {
        self.newer.sequence
    }

    /// Of the older durable meta; of the only one while there is but one.
    pub fn older_publication(&self) -> u64 {
        self.older.as_ref().map_or(self.newer.publication, |older| older.publication)
    }

    /// Whether the page is among those that a running job stamps and writes.
    pub fn is_being_written(&self, no: u32) -> bool {
        self.running.as_ref().is_some_and(|running| running.dirty.contains(no))
    }

    /// The pages that a running job stamps and writes.
    pub fn being_written(&self) -> Option<&Bits> {
        self.running.as_ref().map(|running| &*running.dirty)
    }

    /// Pages of bitmaps, which are neither live nor free.
    pub fn held(&self) -> impl Iterator<Item = Extent> + '_ {
        let running = self.running.as_ref().map(|running| &running.durable);
        let all = std::iter::once(&self.newer).chain(&self.older).chain(running);
        all.map(|durable| durable.bitmap).filter(|bitmap| bitmap.pages > 0)
    }

    /// No durable meta speaks of pages at or above.
    pub fn pages(&self) -> u32 {
        self.newer.pages.max(self.older.as_ref().map_or(0, |older| older.pages))
    }

    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }
}

/// A cut, to be run on a thread that may block.
#[must_use = "a cut that is not run never becomes durable"]
pub struct CheckpointJob {
    space: Arc<Space>,
    dirty: Arc<Bits>,
    live: Bits,
    meta: Meta,
    clear_slot: bool,
    bandwidth: Arc<AtomicU64>,
}

/// A checkpoint that is durable; for [`Store::checkpoint_done`].
#[derive(Debug)]
pub struct CheckpointDone {
    /// Of the checkpoint, from 1.
    pub sequence: u64,
    /// Written, bytes.
    pub bytes: u64,
}

impl Store {
    /// Takes the published root for a checkpoint; `None` while one is running. Call it between batches. All pages
    /// that the root reaches are copied from now on before they change.
    pub fn cut(&mut self) -> Option<CheckpointJob> {
        assert!(!self.touched, "a cut is made between batches: publish first");
        if self.checkpoints.running.is_some() {
            return None;
        }
        let pages = self.bitmap_pages();
        let bitmap = loop {
            let held = self.pages.take_bitmap(pages);
            let found = held.or_else(|| Some(Extent { page: self.pages.allocate_held(pages)?, pages }));
            if let Some(bitmap) = found {
                break bitmap;
            }
            // Reached only in a file that was full when it was opened, and had no run for a bitmap then.
            if let Err(error) = self.grow(u64::from(pages)) {
                panic!("the data file is full where the reserve should be: {error}");
            }
        };
        let dirty = Arc::new(std::mem::take(&mut self.pages.dirty));
        let live = self.pages.live.clone();
        let publication = self.batch() - 1;
        let durable = Durable {
            sequence: self.checkpoints.newer.sequence + 1,
            publication,
            stamp: self.working.stamp,
            bitmap,
            pages: self.pages.frontier(),
        };
        let meta = Meta {
            sequence: durable.sequence,
            publication,
            pages: durable.pages,
            chunk_bytes: u64::from(self.pages.chunk()) * PAGE_BYTES as u64,
            bitmap,
            bitmap_crc: 0,
            stamp: if base::bug!(StampOutsideMeta) { self.checkpoints.newer.stamp } else { durable.stamp },
            trees: records(self.readers.specs(), &self.working.trees),
        };
        self.checkpoints.running = Some(Running { durable, dirty: dirty.clone() });
        let (space, bandwidth) = (self.readers.space().clone(), self.bandwidth.clone());
        let clear_slot = std::mem::take(&mut self.checkpoints.false_meta);
        Some(CheckpointJob { space, dirty, live, meta, clear_slot, bandwidth })
    }

    /// Takes note that the job has ended well: what only the meta before the last one held is free, and the file may get
    /// shorter. Returns the stamp that is now durable. After an error of that the process must end (law 8).
    pub fn checkpoint_done(&mut self, done: CheckpointDone) -> io::Result<Stamp> {
        let running = self.checkpoints.running.take().expect("a checkpoint is running");
        assert!(running.durable.sequence == done.sequence, "checkpoints end in the order of their cuts");
        let newer = std::mem::replace(&mut self.checkpoints.newer, running.durable);
        if let Some(gone) = self.checkpoints.older.replace(newer).filter(|gone| gone.bitmap.pages > 0) {
            self.pages.free_held(gone.bitmap);
        }
        self.release();
        self.hold_bitmaps();
        self.truncate_free_tail()?;
        Ok(self.checkpoints.newer.stamp)
    }

    /// Pages of a bitmap: a bit for each that the store knows of, however far they come to be used. The file may have more
    /// by now, of which none can be held yet.
    fn bitmap_pages(&self) -> u32 {
        let bits = u64::from(self.pages.mapped());
        u32::try_from(bits.div_ceil(8 * PAGE_BYTES as u64)).expect("a bitmap fits a chunk")
    }

    /// The next checkpoints' bitmaps have their pages from now on. Of those of the metas only what is long enough counts:
    /// they come free one by one, and what is too short then is of no use to the next.
    pub(crate) fn hold_bitmaps(&mut self) {
        let pages = self.bitmap_pages();
        let there = self.checkpoints.held().filter(|bitmap| bitmap.pages >= pages).count();
        self.pages.hold_bitmaps(BITMAPS.saturating_sub(there), pages);
    }

    /// The stamp of the newest durable checkpoint.
    pub fn durable_stamp(&self) -> &Stamp {
        &self.checkpoints.newer.stamp
    }

    /// The stamp of the one before it, which is kept whole as well; `None` where there is none that could be read.
    pub fn older_stamp(&self) -> Option<&Stamp> {
        self.checkpoints.older.as_ref().map(|older| &older.stamp)
    }

    /// A cut was made and its job has not been reported done.
    pub fn checkpoint_running(&self) -> bool {
        self.checkpoints.is_running()
    }

    /// Bytes a second that a checkpoint may write, also one already running; 0 is no limit.
    pub fn set_checkpoint_bandwidth(&self, bytes_per_second: u64) {
        self.bandwidth.store(bytes_per_second, Ordering::Relaxed);
    }
}

impl CheckpointJob {
    /// Bytes of pages that the job will write.
    pub fn bytes(&self) -> u64 {
        self.dirty.count() * PAGE_BYTES as u64
    }

    /// Of the checkpoint that it makes.
    pub fn sequence(&self) -> u64 {
        self.meta.sequence
    }

    /// The stamp that will be durable.
    pub fn stamp(&self) -> &Stamp {
        &self.meta.stamp
    }

    /// Writes and syncs; blocks for as long as the device takes. After an error the process must end.
    pub fn run(mut self) -> io::Result<CheckpointDone> {
        let mut pace = Pace { bandwidth: self.bandwidth.clone(), bytes: 0, debt: Duration::ZERO };
        let mut block = AlignedBuf::zeroed(PAGE_BYTES);
        let slot = u64::from(self.meta.slot()) * PAGE_BYTES as u64;
        if self.clear_slot {
            // Its broken page may be written anew, and would then look whole.
            let file = self.space.mapping().file();
            file.write_at(slot, &block)?;
            file.sync()?;
        }
        self.write_pages(&mut pace)?;
        self.write_bitmap()?;
        let file = self.space.mapping().file();
        if !base::bug!(MetaBeforePages) {
            file.sync()?;
        }
        self.meta.encode(&mut block);
        file.write_at(slot, &block)?;
        if !base::bug!(MetaNotSynced) {
            file.sync()?;
        }
        Ok(CheckpointDone { sequence: self.meta.sequence, bytes: pace.bytes })
    }

    fn write_pages(&self, pace: &mut Pace) -> io::Result<()> {
        let chunk = self.space.mapping().chunk_pages();
        let mut extents: Vec<Extent> = Vec::with_capacity(WRITES_TOGETHER);
        let (mut stamped, mut gathered) = (0, 0);
        let mut next = self.dirty.next_from(SLOTS);
        while let Some(no) = next {
            let pages = self.space.stamp(no, self.meta.sequence);
            stamped += u64::from(pages);
            gathered += u64::from(pages) * PAGE_BYTES as u64;
            if gathered > pace.burst_bytes() {
                self.write(&extents, pace)?;
                extents.clear();
                gathered = u64::from(pages) * PAGE_BYTES as u64;
            }
            match extents.last_mut() {
                Some(last)
                    if last.page + last.pages == no
                        && !no.is_multiple_of(chunk)
                        && last.pages + pages <= WRITE_PAGES =>
                {
                    last.pages += pages;
                }
                _ => {
                    if extents.len() == WRITES_TOGETHER {
                        self.write(&extents, pace)?;
                        extents.clear();
                    }
                    extents.push(Extent { page: no, pages });
                }
            }
            next = self.dirty.next_from(no + pages);
        }
        assert!(stamped == self.dirty.count(), "the pages of a cut are those of its nodes and runs");
        self.write(&extents, pace)
    }

    fn write(&self, extents: &[Extent], pace: &mut Pace) -> io::Result<()> {
        if extents.is_empty() {
            return Ok(());
        }
        let started = Instant::now();
        let offset = |extent: &Extent| u64::from(extent.page) * PAGE_BYTES as u64;
        let writes: Vec<(u64, &[u8])> = extents
            .iter()
            .map(|extent| (offset(extent), self.space.stamped(extent.page, extent.pages)))
            .collect();
        let written = self.space.mapping().file().write_many(&writes);
        if base::bug!(WriteErrorIgnored) {
            drop(written)
        } else {
            written?
        };
        pace.wrote(writes.iter().map(|(_, bytes)| bytes.len() as u64).sum(), started.elapsed());
        Ok(())
    }

    fn write_bitmap(&mut self) -> io::Result<()> {
        let mut block = AlignedBuf::zeroed(self.meta.bitmap.pages as usize * PAGE_BYTES);
        let words = self.live.words();
        let used = words.len() - words.iter().rev().take_while(|word| **word == 0).count();
        assert!(used * 8 <= block.len(), "all live pages are below the frontier");
        for (place, word) in block.chunks_exact_mut(8).zip(&words[..used]) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        self.meta.bitmap_crc = base::crc32c(&block);
        self.space.mapping().file().write_at(u64::from(self.meta.bitmap.page) * PAGE_BYTES as u64, &block)
    }
}

/// Keeps the job's mean rate below the cap by sleeping between writes.
struct Pace {
    bandwidth: Arc<AtomicU64>,
    bytes: u64,
    /// Time that was slept too short so far.
    debt: Duration,
}

impl Pace {
    /// How much may be handed over together now.
    fn burst_bytes(&self) -> u64 {
        match self.bandwidth.load(Ordering::Relaxed) {
            0 => u64::MAX,
            cap => (cap / CAPPED_BURSTS_PER_SECOND).max(CAPPED_BURST_MIN_BYTES),
        }
    }

    fn wrote(&mut self, bytes: u64, took: Duration) {
        self.bytes += bytes;
        let cap = self.bandwidth.load(Ordering::Relaxed);
        if cap == 0 {
            self.debt = Duration::ZERO;
            return;
        }
        let due = self.debt + Duration::from_secs_f64(bytes as f64 / cap as f64);
        self.debt = due.saturating_sub(took);
        if self.debt >= Duration::from_millis(1) {
            std::thread::sleep(self.debt);
            self.debt = Duration::ZERO;
        }
    }
}
