//! Published roots and the pins that keep them: how readers on other threads see the tree without a lock.
//!
//! A pin is a publication number in the reader's own cache line; everything that a root of that or a later
//! publication reaches stays. To pin: read the number, publish it as the pin, fence, read the number again, and start
//! over when it moved. To free: publish the new root, fence, read all pins. Of the two fences one comes first; so
//! either the writer sees the pin, or the reader sees the new number.
//!
//! The gate: a writer whose readers share its thread may close it while it changes published pages in place, when no
//! pin stands. Close, fence, read all pins; a reader publishes its pin, fences, and reads the gate. So either the
//! writer sees the pin and opens again, or the reader sees the gate closed, takes its pin back and waits until the
//! batch is published. Only threads beside the cores ever wait (status, hash, export).

use std::collections::VecDeque;
use std::sync::PoisonError;

use base::sync::thread::{self, ThreadId};
use base::sync::{
    Arc, AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Life, Mutex, MutexGuard, Ordering, fence,
};

use crate::order::{Order, TreeSpec};
use crate::space::Space;
use crate::view::View;
use crate::{Stamp, TreeId};

/// Where one tree begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TreeRoot {
    /// 0 (a meta page) when the tree is empty.
    pub page: u32,
    /// Of the root page; leaves are 0.
    pub level: u8,
    pub entries: u64,
}

/// All trees and the stamp, as one batch left them. Immutable once published.
#[derive(Clone, Debug)]
pub(crate) struct Root {
    pub publication: u64,
    pub stamp: Stamp,
    pub trees: Box<[TreeRoot]>,
}

/// A root that readers may reach by pointer.
struct PublishedRoot {
    root: Root,
    life: Life,
}

impl PublishedRoot {
    fn new(root: Root) -> PublishedRoot {
        PublishedRoot { root, life: Life::default() }
    }
}

const IDLE: u64 = u64::MAX;
/// A model has few threads, and each of its atomics costs it time.
const SLOTS: usize = if cfg!(loom) { 3 } else { base::limits::PIN_SLOTS };

/// One reader's line; two lines, as neighbours are fetched in pairs.
#[repr(align(128))]
struct Pin(AtomicU64);

/// What the writer and all readers share.
pub struct Readers {
    space: std::sync::Arc<Space>,
    specs: &'static [TreeSpec],
    orders: Box<[Order]>,
    root: AtomicPtr<PublishedRoot>,
    published: AtomicU64,
    /// The writer changes what the published root reaches.
    closed: AtomicBool,
    /// The thread that closed the gate: were it to pin, it would wait for itself.
    writer: Mutex<Option<ThreadId>>,
    pins: Box<[Pin]>,
    /// Slots ever taken: the writer looks no further.
    taken: AtomicUsize,
    vacant: Mutex<Vec<usize>>,
    /// Roots that a pin may still reach, with the publication that superseded each. The writer's alone.
    superseded: Mutex<VecDeque<(u64, Box<PublishedRoot>)>>,
}

impl Readers {
    pub(crate) fn new(space: std::sync::Arc<Space>, specs: &'static [TreeSpec], root: Root) -> Readers {
        let orders = specs.iter().map(|spec| Order::from(spec.order)).collect();
        let pins = (0..SLOTS).map(|_| Pin(AtomicU64::new(IDLE))).collect();
        Readers {
            space,
            specs,
            orders,
            published: AtomicU64::new(root.publication),
            root: AtomicPtr::new(Box::into_raw(Box::new(PublishedRoot::new(root)))),
            closed: AtomicBool::new(false),
            writer: Mutex::new(None),
            pins,
            taken: AtomicUsize::new(0),
            vacant: Mutex::new((0..SLOTS).rev().collect()),
            superseded: Mutex::new(VecDeque::new()),
        }
    }

    pub(crate) fn space(&self) -> &std::sync::Arc<Space> {
        &self.space
    }

    pub(crate) fn specs(&self) -> &'static [TreeSpec] {
        self.specs
    }

    #[inline]
    pub(crate) fn order(&self, tree: TreeId) -> Order {
        self.orders[tree]
    }

    /// The number of the last publication.
    pub fn published(&self) -> u64 {
        self.published.load(Ordering::Acquire)
    }

    /// A reader for the calling thread. Panics when all of `PIN_SLOTS` are taken: threads are counted at start.
    #[cfg(not(loom))]
    pub fn register(self: &Arc<Self>) -> Reader {
        Reader::of(self)
    }

    /// Makes `root` what new pins get. The writer's alone.
    pub(crate) fn publish(&self, root: Root) {
        let number = root.publication;
        assert!(number > self.published.load(Ordering::Relaxed), "publications count upwards");
        let old = self.root.swap(Box::into_raw(Box::new(PublishedRoot::new(root))), Ordering::AcqRel);
        // SAFETY: the pointer came from `Box::into_raw`, and swapping it out made this its only owner; readers that
        // pinned it keep it alive through `superseded`.
        let old = unsafe { Box::from_raw(old) };
        let mut superseded = self.superseded.lock().unwrap_or_else(PoisonError::into_inner);
        superseded.push_back((number, old));
        self.published.store(number, Ordering::SeqCst);
    }

    /// The oldest publication that a pin covers; the last one when there is no pin. Everything superseded by it or
    /// an earlier publication is out of every reader's reach.
    pub(crate) fn oldest_pin(&self) -> u64 {
        let last = self.published.load(Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let taken = self.taken.load(Ordering::SeqCst);
        let oldest = self.pins[..taken].iter().map(|pin| pin.0.load(Ordering::Acquire)).min();
        oldest.unwrap_or(IDLE).min(last)
    }

    /// How many readers hold a snapshot at this moment.
    pub fn pinned(&self) -> usize {
        let taken = self.taken.load(Ordering::SeqCst);
        self.pins[..taken].iter().filter(|pin| pin.0.load(Ordering::Acquire) != IDLE).count()
    }

    /// Keeps new pins away until [`Readers::open`]. False, and they are not, when one stands. The writer's alone.
    pub(crate) fn close(&self) -> bool {
        assert!(!self.closed.load(Ordering::Relaxed), "the gate is closed once a batch");
        *self.writer.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread::current().id());
        self.closed.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let taken = self.taken.load(Ordering::SeqCst);
        let free = self.pins[..taken].iter().all(|pin| pin.0.load(Ordering::Acquire) == IDLE);
        if !free {
            self.open();
        }
        free
    }

    /// The writer's alone.
    pub(crate) fn open(&self) {
        self.closed.store(false, Ordering::Release);
    }

    fn wait_until_open(&self) {
        let writer = *self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        while self.closed.load(Ordering::Acquire) {
            assert!(writer != Some(thread::current().id()), "the writer pins between its batches only");
            thread::yield_now();
        }
    }

    /// Frees roots that are out of reach by `bound`, an answer of [`Readers::oldest_pin`].
    pub(crate) fn free_roots(&self, bound: u64) {
        let mut superseded = self.superseded.lock().unwrap_or_else(PoisonError::into_inner);
        while superseded.front().is_some_and(|(number, _)| *number <= bound) {
            let (_, root) = superseded.pop_front().expect("as just seen");
            Life::end(root, |root| &root.life);
        }
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        // SAFETY: from `Box::into_raw`, and nobody else is left.
        drop(unsafe { Box::from_raw(self.root.load(Ordering::Relaxed)) });
    }
}

struct ReaderLine {
    readers: Arc<Readers>,
    slot: usize,
    /// Publications pinned by live snapshots, oldest first, each with the number of its snapshots. The lock is
    /// there so that readers and snapshots may move between threads; one thread at a time takes it.
    held: Mutex<Vec<(u64, usize)>>,
}

impl ReaderLine {
    fn pin(&self) -> &AtomicU64 {
        &self.readers.pins[self.slot].0
    }

    fn held(&self) -> MutexGuard<'_, Vec<(u64, usize)>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ReaderLine {
    fn drop(&mut self) {
        self.pin().store(IDLE, Ordering::Release);
        self.readers.vacant.lock().unwrap_or_else(PoisonError::into_inner).push(self.slot);
    }
}

/// Access to published roots, with a pin line of its own. One per thread: sharing one is sound and slow.
pub struct Reader {
    line: Arc<ReaderLine>,
}

impl Reader {
    /// The body of [`Readers::register`], which loom's `Arc` cannot be the receiver of.
    pub(crate) fn of(readers: &Arc<Readers>) -> Reader {
        let slot = readers.vacant.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let slot = slot.expect("more threads read the tree than PIN_SLOTS allows");
        readers.taken.fetch_max(slot + 1, Ordering::SeqCst);
        let line = ReaderLine { readers: readers.clone(), slot, held: Mutex::new(Vec::new()) };
        Reader { line: Arc::new(line) }
    }

    /// [`Readers::pinned`] of all readers of this store.
    pub fn all_pinned(&self) -> usize {
        self.line.readers.pinned()
    }

    /// Pins the last published root: nothing that it reaches changes or goes until the snapshot is dropped.
    pub fn pin(&self) -> Snapshot {
        let readers = &self.line.readers;
        let mut held = self.line.held();
        if held.is_empty() {
            let mut number = readers.published.load(Ordering::Acquire);
            loop {
                if base::bug!(PinWithoutFence) {
                    self.line.pin().store(number, Ordering::Release);
                } else {
                    self.line.pin().store(number, Ordering::SeqCst);
                    fence(Ordering::SeqCst);
                }
                if readers.closed.load(Ordering::SeqCst) {
                    self.line.pin().store(IDLE, Ordering::SeqCst);
                    readers.wait_until_open();
                    number = readers.published.load(Ordering::Acquire);
                    continue;
                }
                let again = readers.published.load(Ordering::SeqCst);
                if again == number {
                    break;
                }
                number = again;
            }
            held.push((number, 0));
        }
        // The pin that stands covers this root whatever its number: it was loaded after the pin was confirmed, so it
        // is at least as new, and a root goes only when every pin has reached the publication that superseded it.
        let root = readers.root.load(Ordering::Acquire);
        // SAFETY: as just said, the root is alive.
        let number = unsafe {
            (*root).life.look();
            (*root).root.publication
        };
        let last = held.last_mut().expect("at least the entry made above");
        assert!(number >= last.0, "roots count upwards");
        if last.1 == 0 || last.0 == number {
            last.1 += 1;
            let pinned = last.0;
            return Snapshot { line: self.line.clone(), root, pinned };
        }
        held.push((number, 1));
        Snapshot { line: self.line.clone(), root, pinned: number }
    }

    /// The publication of this reader's oldest snapshot, when it holds one.
    pub fn oldest(&self) -> Option<u64> {
        self.line.held().first().map(|(number, _)| *number)
    }
}

/// One published root, kept until this is dropped. A snapshot held for long holds back the reuse of pages.
pub struct Snapshot {
    line: Arc<ReaderLine>,
    root: *const PublishedRoot,
    pinned: u64,
}

// SAFETY: the root is immutable plain data that the pin keeps alive whichever thread looks at it; the pin's books are
// behind a lock.
unsafe impl Send for Snapshot {}
// SAFETY: as above; `&Snapshot` gives shared access to immutable data only.
unsafe impl Sync for Snapshot {}

impl Snapshot {
    #[inline]
    fn root(&self) -> &Root {
        // SAFETY: the pin that this snapshot holds keeps the root alive, and it is immutable.
        let published = unsafe { &*self.root };
        published.life.look();
        &published.root
    }

    #[inline]
    pub fn view(&self) -> View<'_> {
        View::new(&self.line.readers, self.root())
    }

    pub fn stamp(&self) -> &Stamp {
        &self.root().stamp
    }

    pub fn publication(&self) -> u64 {
        self.root().publication
    }
}

impl Clone for Snapshot {
    fn clone(&self) -> Snapshot {
        let mut held = self.line.held();
        let entry = held.iter_mut().find(|(number, _)| *number == self.pinned);
        entry.expect("a live snapshot is counted").1 += 1;
        Snapshot { line: self.line.clone(), root: self.root, pinned: self.pinned }
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        let mut held = self.line.held();
        let at =
            held.iter().position(|(number, _)| *number == self.pinned).expect("a live snapshot is counted");
        held[at].1 -= 1;
        if held[at].1 > 0 {
            return;
        }
        held.remove(at);
        if at == 0 {
            let oldest = held.first().map_or(IDLE, |(number, _)| *number);
            self.line.pin().store(oldest, Ordering::Release);
        }
    }
}

#[cfg(all(test, loom))]
#[path = "pins_models.rs"]
mod models;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::{Options, Store};
    use disk::SimFiles;

    static SPECS: &[TreeSpec] = &[TreeSpec { name: "only", order: crate::KeyOrder::Bytes }];

    fn store() -> Store {
        let options = Options { chunk_bytes: 64 << 10, max_chunks: 16, reserve_bytes: 0 };
        Store::open(&SimFiles::new(), "data", SPECS, options).unwrap()
    }

    #[test]
    fn what_crosses_threads_may() {
        fn send<T: Send>() {}
        fn sync<T: Sync>() {}
        send::<Store>();
        send::<Reader>();
        send::<Snapshot>();
        send::<crate::CheckpointJob>();
        send::<crate::CheckpointDone>();
        send::<crate::PopulateJob>();
        send::<crate::DropJob>();
        send::<crate::GrowJob>();
        sync::<Readers>();
        sync::<Snapshot>();
    }

    #[test]
    fn the_oldest_snapshot_of_any_reader_is_the_bound() {
        let mut store = store();
        let readers = store.readers();
        let (a, b) = (readers.register(), readers.register());
        let first = store.publish();
        assert_eq!(readers.oldest_pin(), first);
        let one = a.pin();
        store.publish();
        let two = a.pin();
        let third = store.publish();
        let other = b.pin();
        assert_eq!((one.publication(), two.publication(), other.publication()), (first, first + 1, third));
        assert_eq!(readers.oldest_pin(), first);
        let again = one.clone();
        drop(one);
        assert_eq!(readers.oldest_pin(), first, "its clone holds it");
        drop(again);
        assert_eq!((readers.oldest_pin(), a.oldest()), (first + 1, Some(first + 1)));
        drop(two);
        assert_eq!((readers.oldest_pin(), a.oldest()), (third, None));
        store.publish();
        assert_eq!(readers.oldest_pin(), third);
        drop(b);
        assert_eq!(readers.oldest_pin(), third, "a snapshot outlives its reader");
        drop(other);
        assert_eq!(readers.oldest_pin(), third + 1);
    }

    #[test]
    fn a_superseded_root_goes_with_the_last_pin_before_it() {
        let mut store = store();
        let readers = store.readers();
        let kept = || readers.superseded.lock().unwrap().len();
        let reader = readers.register();
        store.publish();
        assert_eq!(kept(), 0, "nobody looks at it");
        let snapshot = reader.pin();
        for _ in 0..5 {
            store.publish();
        }
        assert_eq!(kept(), 5);
        drop(snapshot);
        store.publish();
        assert_eq!(kept(), 0);
    }

    #[test]
    fn pin_slots_are_given_back() {
        let store = store();
        for _ in 0..3 {
            let all: Vec<Reader> = (0..base::limits::PIN_SLOTS).map(|_| store.readers().register()).collect();
            assert_eq!(all.len(), base::limits::PIN_SLOTS);
        }
    }

    #[test]
    fn a_snapshot_outlives_the_store() {
        let mut store = store();
        store.insert(0, b"key", b"value");
        store.publish();
        let snapshot = store.readers().register().pin();
        store.remove(0, b"key");
        store.publish();
        drop(store);
        assert_eq!(snapshot.view().get(0, b"key"), Some(&b"value"[..]));
    }
}
