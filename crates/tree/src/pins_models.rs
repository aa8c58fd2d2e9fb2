//! Models of pins, the gate and the publication of roots: the real [`Readers`] under every schedule within the bound.
//! docs/TESTING.md says how they are run and what each of them guards; `ZOO_BUG` makes them find a bug of the zoo.
//!
//! Pages are loom's cells: publication n stands in a page as the number n, a root names the page of its one tree, and
//! the writer does with pages what [`crate::Store::publish`] does. So a page that is written while a reader may look at
//! it is a race that loom reports, and one that was reused too early, but in order, holds a wrong number. Roots that are
//! freed say so themselves ([`base::sync::Life`]).

use std::sync::LazyLock;

use base::sync::UnsafeCell;
use disk::{Files, Mapping, OpenMode, SimFiles};

use super::*;

static SPECS: &[TreeSpec] = &[TreeSpec { name: "only", order: crate::KeyOrder::Bytes }];

/// Nobody looks at its pages; it is there because readers have one.
static SPACE: LazyLock<std::sync::Arc<Space>> = LazyLock::new(|| {
    let file = SimFiles::new().open("data", OpenMode::CreateNew).unwrap();
    std::sync::Arc::new(Space::new(Mapping::open(file, 64 << 10, 1).unwrap()))
});

/// All schedules with at most so many switches away from a thread that could go on.
fn model(preemptions: usize, run: impl Fn() + Sync + Send + 'static) {
    LazyLock::force(&SPACE);
    // Loom's threads are coroutines of this one, so all of them have the bug.
    #[cfg(feature = "zoo")]
    base::bug::inject(std::env::var("ZOO_BUG").ok().and_then(|name| base::bug::Bug::parse(&name)));
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(run);
}

const PAGES: usize = 2;

/// Readers and the pages that their roots name.
struct World {
    readers: Arc<Readers>,
    pages: [UnsafeCell<u64>; PAGES],
}

/// The writer's view of pages, as [`crate::pages`] has it: which are free, which wait for a publication's pins to go.
struct Writer {
    world: Arc<World>,
    working: u64,
    current: usize,
    free: Vec<usize>,
    /// With the publication that superseded each.
    waiting: Vec<(u64, usize)>,
}

fn root(publication: u64, page: usize) -> Root {
    let tree = TreeRoot { page: page as u32, level: 0, entries: 1 };
    Root { publication, stamp: Default::default(), trees: Box::new([tree]) }
}

/// Publication 1 stands in page 0; all other pages are free.
fn world() -> (Arc<World>, Writer) {
    let readers = Arc::new(Readers::new(SPACE.clone(), SPECS, root(1, 0)));
    let world =
        Arc::new(World { readers, pages: std::array::from_fn(|page| UnsafeCell::new(u64::from(page == 0))) });
    let writer = Writer {
        world: world.clone(),
        working: 2,
        current: 0,
        free: (1..PAGES).collect(),
        waiting: Vec::new(),
    };
    (world, writer)
}

impl Writer {
    fn write(&self, page: usize) {
        // SAFETY: that nobody reads the page is what the model is to show; loom fails it otherwise.
        self.world.pages[page].with_mut(|cell| unsafe { *cell = self.working });
    }

    /// A batch that copies: false when no page is free for it.
    fn batch(&mut self) -> bool {
        self.release();
        let Some(page) = self.free.pop() else { return false };
        self.write(page);
        self.waiting.push((self.working, self.current));
        self.current = page;
        self.publish();
        self.release();
        true
    }

    /// A batch that changes the published page where it stands, if the gate closes: false when it does not.
    fn batch_in_place(&mut self) -> bool {
        if !self.world.readers.close() {
            return false;
        }
        self.write(self.current);
        self.publish();
        self.world.readers.open();
        self.release();
        true
    }

    fn publish(&mut self) {
        self.world.readers.publish(root(self.working, self.current));
        self.working += 1;
    }

    fn release(&mut self) {
        let bound = self.world.readers.oldest_pin();
        self.world.readers.free_roots(bound);
        self.waiting.retain(|&(number, page)| {
            let held = number > bound;
            if !held {
                self.free.push(page);
            }
            held
        });
    }
}

/// What a reader finds behind a root must be what was published with it.
fn look(world: &World, snapshot: &Snapshot) -> u64 {
    let root = snapshot.root();
    let page = root.trees[0].page as usize;
    // SAFETY: that nobody writes the page is what the model is to show; loom fails it otherwise.
    let found = world.pages[page].with(|cell| unsafe { *cell });
    assert_eq!(found, root.publication, "page {page} was reused under a pin");
    assert!(root.publication >= snapshot.pinned, "a root is never older than its pin");
    root.publication
}

/// A pin gets at least what was published before it, and the next one no less.
fn read(world: &World, reader: &Reader) {
    let before = world.readers.published();
    let snapshot = reader.pin();
    let number = look(world, &snapshot);
    assert!(number >= before, "what was seen published is what a later pin gets");
}

#[test]
fn what_a_pin_reaches_is_not_reused() {
    model(3, || {
        let (world, mut writer) = world();
        let reading = {
            let world = world.clone();
            let reader = Reader::of(&world.readers);
            thread::spawn(move || read(&world, &reader))
        };
        for _ in 0..2 {
            writer.batch();
        }
        reading.join().unwrap();
        writer.release();
        assert_eq!(writer.free.len(), PAGES - 1, "without pins all but the current page come back");
    });
}

/// Two looks by one reader: the second pin is another publication of the same line, and roots count upwards.
#[test]
fn one_reader_pins_again_while_roots_change() {
    model(2, || {
        let (world, mut writer) = world();
        let reading = {
            let world = world.clone();
            let reader = Reader::of(&world.readers);
            thread::spawn(move || {
                let first = reader.pin();
                let second = reader.pin();
                assert!(look(&world, &second) >= look(&world, &first), "roots count upwards");
                drop(first);
                look(&world, &second);
            })
        };
        for _ in 0..2 {
            writer.batch();
        }
        reading.join().unwrap();
        assert_eq!(world.readers.oldest_pin(), writer.working - 1, "the line is given back");
    });
}

#[test]
fn two_readers_hold_what_each_of_them_sees() {
    model(2, || {
        let (world, mut writer) = world();
        let reading: Vec<_> = (0..2)
            .map(|_| {
                let world = world.clone();
                // Registered by the thread itself: the writer must see a slot that was just taken.
                thread::spawn(move || read(&world, &Reader::of(&world.readers)))
            })
            .collect();
        for _ in 0..2 {
            writer.batch();
        }
        for thread in reading {
            thread.join().unwrap();
        }
    });
}

#[test]
fn clones_on_other_threads_hold_the_root_to_the_last() {
    model(2, || {
        let (world, mut writer) = world();
        let reader = Reader::of(&world.readers);
        let snapshot = reader.pin();
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (world, snapshot) = (world.clone(), snapshot.clone());
                thread::spawn(move || {
                    let again = snapshot.clone();
                    drop(snapshot);
                    assert_eq!(look(&world, &again), 1);
                })
            })
            .collect();
        drop((snapshot, reader));
        for _ in 0..2 {
            writer.batch();
        }
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(world.readers.oldest_pin(), writer.working - 1);
    });
}

/// One line, two threads: a snapshot of an old root goes on one while the other pins a new one.
#[test]
fn a_line_moves_on_when_its_oldest_snapshot_goes() {
    model(2, || {
        let (world, mut writer) = world();
        let reader = Reader::of(&world.readers);
        let old = reader.pin();
        let other = {
            let world = world.clone();
            thread::spawn(move || {
                look(&world, &old);
                drop(old);
            })
        };
        assert!(writer.batch(), "one page is free");
        let new = reader.pin();
        assert_eq!(look(&world, &new), 2);
        writer.batch();
        assert_eq!(look(&world, &new), 2);
        other.join().unwrap();
        assert_eq!(reader.oldest(), Some(2));
        assert_eq!(world.readers.oldest_pin(), 2);
    });
}

#[test]
fn nobody_looks_while_the_gate_is_closed() {
    model(3, || {
        let (world, mut writer) = world();
        let reading = {
            let world = world.clone();
            let reader = Reader::of(&world.readers);
            thread::spawn(move || read(&world, &reader))
        };
        for _ in 0..2 {
            if !writer.batch_in_place() {
                writer.batch();
            }
        }
        reading.join().unwrap();
        assert!(writer.batch_in_place(), "without pins the gate closes");
    });
}

/// A reader that registers beside a closed gate, waits, and must go on when the batch is published.
#[test]
fn who_comes_to_a_closed_gate_goes_on_when_it_opens() {
    model(3, || {
        let (world, mut writer) = world();
        assert!(world.readers.close(), "nobody pins");
        let reading = {
            let world = world.clone();
            thread::spawn(move || {
                let reader = Reader::of(&world.readers);
                let snapshot = reader.pin();
                assert_eq!(look(&world, &snapshot), 2, "the batch behind the gate, or nothing");
            })
        };
        writer.write(writer.current);
        writer.publish();
        world.readers.open();
        writer.release();
        reading.join().unwrap();
    });
}
