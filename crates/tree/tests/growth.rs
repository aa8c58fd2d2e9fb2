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
