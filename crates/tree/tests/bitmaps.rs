//! The pages of allocation bitmaps, in a file for which one page comes to have too few bits.

mod common;

use common::*;
use disk::SimFiles;
use mainstay_tree as tree;
use tree::{Hold, Options, Store};

/// Three chunks of 64 MiB, and no more: a bitmap of two pages, from the last of them on.
fn wide() -> Options {
    Options { chunk_bytes: 64 << 20, max_chunks: 3, reserve_bytes: 1 << 20 }
}

/// Every free page is taken, those side by side too, and the file is as long as it can be: checkpoints go on, in this
/// life and in those that follow, though the last growth made bitmaps longer than those that there were.
#[test]
fn a_full_file_has_pages_for_its_checkpoints() {
    let mut files = SimFiles::new();
    let mut store = Store::open(&files, "data", SPECS, wide()).unwrap();
    for number in 0..100u64 {
        store.insert(PLAIN, &number.to_be_bytes(), &[3; 4000]);
        store.publish();
    }
    (0..3).for_each(|_| checkpoint(&mut store));
    store.reserve(128 << 20).unwrap();
    assert_eq!(store.allocated_bytes(), 192 << 20);
    for life in 0..3 {
        let mut taken = Vec::new();
        for round in 0..4 {
            // What a bitmap that was too short gives back goes the same way.
            while let Some(page) = store.hold(4096) {
                taken.push(page);
            }
            assert!(taken.len() > 48_000, "{}", taken.len());
            let mut stamp = *store.stamp();
            stamp[3] = 10 * life + round;
            store.set_stamp(stamp);
            store.publish();
            checkpoint(&mut store);
            verified(&store);
        }
        taken.into_iter().for_each(|page| store.give_back(page));
        drop(store);
        files = files.image();
        store = Store::open(&files, "data", SPECS, wide()).unwrap();
        assert_eq!((store.report().bitmap_rebuilt.clone(), store.stamp()[3]), (None, 10 * life + 3));
        assert_eq!(store.view().len(PLAIN), 100);
    }
}

/// A store of a little data, bitmaps of two pages in the third chunk, and below them free pages of which no two lie side
/// by side, more than a quick search looks at: what is between them is handed out.
fn scattered(files: &SimFiles) -> (Store, Vec<Hold>) {
    let mut store = Store::open(files, "data", SPECS, wide()).unwrap();
    for number in 0..100u64 {
        store.insert(PLAIN, &number.to_be_bytes(), &[3; 4000]);
        store.insert(VERSIONS, &number.to_be_bytes(), &[3; 8000]);
        store.publish();
    }
    (0..3).for_each(|_| checkpoint(&mut store));
    store.reserve(32 << 20).unwrap();
    let taken: Vec<_> = (0..4096).map(|_| store.hold(4096).unwrap()).collect();
    store.reserve(128 << 20).unwrap();
    (0..3).for_each(|_| checkpoint(&mut store));
    let (every_other, between): (Vec<_>, Vec<_>) =
        taken.into_iter().enumerate().partition(|(at, _)| at % 2 == 0);
    every_other.into_iter().for_each(|(_, hold)| store.give_back(hold));
    (0..3).for_each(|_| checkpoint(&mut store));
    assert!(store.file_bytes() > 16 << 20 && store.used_bytes() < 3 << 20, "{}", store.file_bytes());
    (store, between.into_iter().map(|(_, hold)| hold).collect())
}

/// A pass ends that has no hole for a bitmap below its line: nothing would tell it that one has come. The next pass has.
#[test]
fn a_bitmap_without_a_hole_below_the_line_does_not_keep_a_pass_open() {
    let files = SimFiles::new();
    let (mut store, taken) = scattered(&files);
    for checkpoints in 0.. {
        while store.shrink_step() {}
        assert!(checkpoints < 8, "a pass without an end");
        store.publish();
        checkpoint(&mut store);
        verified(&store);
        if !store.is_shrinking() {
            break;
        }
    }
    assert!(store.file_bytes() > 16 << 20);
    taken.into_iter().for_each(|hold| store.give_back(hold));
    while store.shrink_step() {}
    store.publish();
    (0..4).for_each(|_| checkpoint(&mut store));
    assert!(!store.is_shrinking() && store.file_bytes() < 3 << 20, "{}", store.file_bytes());
    verified(&store);
}

/// Holes that come while a pass is open are for the bitmaps beyond its line, whichever of the three lies highest: it goes
/// on to its end. (It also waits two checkpoints for them; no order of checkpoints was found here that would miss that.)
#[test]
fn bitmaps_go_to_the_holes_that_come_during_a_pass() {
    for rotated in 0..3 {
        let files = SimFiles::new();
        let (mut store, taken) = scattered(&files);
        // One pass leaves three places for bitmaps, and no more.
        while store.shrink_step() {}
        (0..6 + rotated).for_each(|_| checkpoint(&mut store));
        assert!(!store.is_shrinking());
        (0..100u64).for_each(|number| assert!(store.remove(VERSIONS, &number.to_be_bytes())));
        store.publish();
        while store.shrink_step() {}
        store.publish();
        checkpoint(&mut store);
        taken.into_iter().for_each(|hold| store.give_back(hold));
        (0..6).for_each(|_| checkpoint(&mut store));
        assert!(!store.is_shrinking() && store.file_bytes() < 3 << 20, "{rotated}: {}", store.file_bytes());
        verified(&store);
    }
}

/// A helper has grown the file, and the store does not know yet: a checkpoint has a bitmap for what it knows, and none
/// of the pages that came is needed for a longer one.
#[test]
fn growth_that_nobody_has_noted_asks_for_no_longer_bitmap() {
    let files = SimFiles::new();
    let mut store = Store::open(&files, "data", SPECS, wide()).unwrap();
    store.reserve(64 << 20).unwrap();
    assert_eq!(store.allocated_bytes(), 128 << 20);
    store.insert(PLAIN, b"key", b"value");
    store.publish();
    (0..3).for_each(|_| checkpoint(&mut store));
    let mut taken = Vec::new();
    while let Some(page) = store.hold(4096) {
        taken.push(page);
    }
    let job = store.grow_job(1 << 20).expect("nothing is free");
    job.run().unwrap();
    (0..3).for_each(|_| checkpoint(&mut store));
    store.reserve(0).unwrap();
    assert_eq!(store.allocated_bytes(), 192 << 20);
    (0..3).for_each(|_| checkpoint(&mut store));
    verified(&store);
    taken.into_iter().for_each(|hold| store.give_back(hold));
}
