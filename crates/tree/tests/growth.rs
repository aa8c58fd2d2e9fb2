//! The file grows: ahead of need, on a full device, and on one that fails.

mod common;

use common::*;
use disk::SimFiles;
use disk::sim::Fault;
use mainstay_tree as tree;
use tree::{Options, Room, Store};

fn small() -> Options {
    Options { chunk_bytes: 64 << 10, max_chunks: 4096, reserve_bytes: 64 << 10 }
}

#[test]
fn growth_ahead_of_need_is_noticed() {
    let files = SimFiles::new();
    let mut store = Store::open(&files, "data", SPECS, small()).unwrap();
    let job = store.grow_job(10 << 20).expect("so much is not free yet");
    assert!(store.grow_job(10 << 20).is_none(), "one at a time");
    let operations = files.operations();
    job.run().unwrap();
    assert!(files.operations() > operations);
    let operations = files.operations();
    store.reserve(10 << 20).unwrap();
    assert_eq!(files.operations(), operations, "the writer itself grows nothing");
    assert!(store.grow_job(10 << 20).is_none());
    files.set_capacity(store.allocated_bytes());
    assert!(store.grow_job(1 << 30).expect("wanted").run().is_err_and(|error| disk::is_no_space(&error)));
    assert!(store.reserve(1 << 30).is_err());
}

/// There is room, and even a run of the length that is wanted, but behind more holes than a quick search looks at: the
/// file shall grow instead. On a full device it need not; a device that fails is not passed over (law 8).
#[test]
fn a_run_that_is_hard_to_find_excuses_a_full_device_but_no_failing_one() {
    let scattered = |fault: Fault| {
        let files = SimFiles::new();
        let mut store = Store::open(&files, "data", SPECS, small()).unwrap();
        store.reserve(8 << 20).unwrap();
        let mut taken = Vec::new();
        while let Some(page) = store.hold(4096) {
            taken.push(page);
        }
        assert!(taken.len() > 2000, "{}", taken.len());
        let last_two = taken.split_off(taken.len() - 2);
        let every_other = taken.into_iter().enumerate().filter(|(at, _)| at % 2 == 0);
        every_other.for_each(|(_, page)| store.give_back(page));
        last_two.into_iter().for_each(|page| store.give_back(page));
        let size = store.allocated_bytes();
        files.fail_at(files.operations(), fault);
        let made = store.make_room(Room { bytes: 8192, run_bytes: 8192, keep_bytes: 0 });
        assert_eq!(store.allocated_bytes(), size, "it did not grow");
        let run = store.hold(8192);
        run.map_or_else(|| panic!("the run is there"), |run| store.give_back(run));
        made
    };
    scattered(Fault::NoSpace).unwrap();
    let refused = scattered(Fault::Io).unwrap_err();
    assert!(!refused.is_for_room(), "{refused}");
}

/// The file has its room, and making that durable fails as if there were none: other writes may be lost in that, so it is
/// no answer about room.
#[test]
fn a_sync_that_says_no_space_left_is_no_answer_about_room() {
    let files = SimFiles::new();
    let mut store = Store::open(&files, "data", SPECS, small()).unwrap();
    files.fail_at(files.operations() + 1, Fault::NoSpace);
    let refused = store.reserve(8 << 20).unwrap_err();
    assert!(!refused.is_for_room(), "{refused}");
    assert!(refused.to_string().contains("No space left"), "{refused}");
}

/// How a store comes to know that it may not be able to grow.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Told {
    /// It has grown since it was opened, and nobody has said that the disk is full now.
    Nothing,
    ByStart,
    ByRefusal,
    ByJob,
}

/// A start on a full disk gave its only long run to single pages and to bitmaps, and had none for the value that the life
/// before had stored there.
#[test]
fn on_a_full_device_a_long_run_is_left_when_much_else_was_taken() {
    let files = SimFiles::new();
    let mut store = Store::open(&files, "data", SPECS, small()).unwrap();
    store.insert(PLAIN, b"a long one", &[1; 40_000]);
    let mut numbers = 0u32..;
    while numbers.start < 300 || !(3..6).contains(&(store.free_bytes() / 4096)) {
        let number = numbers.next().unwrap();
        store.insert(PLAIN, &number.to_be_bytes(), &[2; 4000]);
    }
    store.publish();
    store.remove(PLAIN, b"a long one");
    // Holes of one page, and all of them behind the long one.
    (100..numbers.start).step_by(50).for_each(|number| {
        store.remove(PLAIN, &number.to_be_bytes());
    });
    store.publish();
    files.set_capacity(0);
    (0..3).for_each(|_| checkpoint(&mut store));
    drop(store);

    for told in [Told::Nothing, Told::ByStart, Told::ByRefusal, Told::ByJob] {
        let files = files.image();
        files.set_capacity(1 << 50);
        let mut store = Store::open(&files, "data", SPECS, small()).unwrap();
        if told != Told::ByStart {
            let free = store.free_bytes();
            store.reserve(free).unwrap();
            let grown = store.free_bytes() - free;
            let _grown = store.hold(grown).expect("the new chunks");
        }
        files.set_capacity(0);
        match told {
            Told::Nothing | Told::ByStart => {}
            Told::ByRefusal => assert!(store.reserve(1 << 20).is_err()),
            Told::ByJob => {
                assert!(store.grow_job(1 << 20).expect("wanted").run().is_err());
                assert!(!store.find_room(Room { bytes: 1 << 20, run_bytes: 0, keep_bytes: 0 }));
            }
        }
        let mut singles = 0;
        while store.free_bytes() > 12 * 4096 {
            store.hold(4096).map(drop).expect("so much is free");
            singles += 1;
        }
        assert!(singles > 5, "{told:?}: {singles}");
        let is_left = store.hold(40_000).is_some();
        assert_eq!(is_left, told != Told::Nothing, "{told:?}: {singles} single pages were taken");
        verified(&store);
    }
}

/// Room for all of it, but not side by side, is another thing to say than no room.
#[test]
fn a_refusal_says_what_is_missing() {
    let files = SimFiles::new();
    let mut store = Store::open(&files, "data", SPECS, small()).unwrap();
    files.set_capacity(0);
    let taken: Vec<_> = std::iter::from_fn(|| store.hold(4096)).collect();
    taken.into_iter().step_by(2).for_each(|page| store.give_back(page));
    let free = store.free_bytes();
    let none = store.make_room(Room { bytes: 4096, run_bytes: 4096, keep_bytes: free }).unwrap_err();
    let text = format!("the data file cannot grow to have {} bytes free: ", free + 4096);
    assert!(none.to_string().starts_with(&text), "{none}");
    let pieces = store.make_room(Room { bytes: free, run_bytes: 8192, keep_bytes: 0 }).unwrap_err();
    let text = "the data file has no 8192 bytes side by side and cannot grow: ";
    assert!(pieces.to_string().starts_with(text), "{pieces}");
}
