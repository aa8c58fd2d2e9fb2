//! The writer's books are made wrong in every way that [`verify`] speaks of, and it must say so: a page is reachable,
//! free, waiting or held, never two of them, and never none.

use disk::SimFiles;

use super::*;
use crate::pages::Extent;
use crate::{KeyOrder, Options, TreeSpec};

static SPECS: &[TreeSpec] = &[TreeSpec { name: "only", order: KeyOrder::Bytes }];

/// A store with pages of every kind: reachable, free, waiting for the older meta, and held by bitmaps.
fn store() -> Store {
    let options = Options { chunk_bytes: 1 << 20, max_chunks: 64, reserve_bytes: 64 << 10 };
    let mut store = Store::open(&SimFiles::new(), "data", SPECS, options).expect("a new file opens");
    for round in 0..6u32 {
        for key in 0..400u32 {
            store.insert(0, &key.to_be_bytes(), &[round as u8; 100]);
        }
        for key in 300..400u32 {
            store.remove(0, &key.to_be_bytes());
        }
        store.publish();
        if round < 4 {
            let job = store.cut().expect("no other runs");
            store.checkpoint_done(job.run().expect("the disk is well")).expect("the file keeps its length");
        }
    }
    let report = verify(&store).expect("nothing is wrong yet");
    assert!(report.pages > 8 && report.free > 0 && report.waiting > 0 && report.held > 0, "{report:?}");
    store
}

fn some_reachable(store: &Store) -> u32 {
    store.pages.live.iter().nth(3).expect("it has pages")
}

fn some_held(store: &Store) -> u32 {
    store.checkpoints.held().next().expect("a checkpoint has a bitmap").page
}

fn one(page: u32) -> Extent {
    Extent { page, pages: 1 }
}

type Tampering = (&'static str, fn(&mut Store));

#[test]
fn books_that_are_wrong_are_found() {
    let tamperings: [Tampering; 9] = [
        ("is reachable and the writer thinks it is not in use", |store| {
            let page = some_reachable(store);
            assert!(store.pages.live.remove(page));
        }),
        ("is reachable and waits to be reused", |store| {
            let page = some_reachable(store);
            store.pages.free_held(one(page));
        }),
        ("is reachable and waits to be reused", |store| {
            let page = some_reachable(store);
            store.pages.supersede(one(page), false);
            store.pages.live.insert(page);
        }),
        ("is not reachable and the writer thinks it is in use", |store| {
            store.pages.allocate(1).expect("there is room");
        }),
        ("is not reachable and the writer thinks it is in use", |store| {
            let page = store.pages.waiting_bits().iter().next().expect("some wait");
            store.pages.live.insert(page);
        }),
        ("is free and waits", |store| {
            let page = store.pages.waiting_bits().iter().next().expect("some wait");
            store.pages.free_held(one(page));
        }),
        ("pages wait, ", |store| store.pages.waiting_pages += 1),
        ("is held, for a bitmap or a run, and something else", |store| {
            let page = some_held(store);
            store.pages.free_held(one(page));
        }),
        // Nobody has it: it is lost.
        ("pages are accounted for", |store| {
            store.pages.allocate_held(1).expect("there is room");
        }),
    ];
    for (what, tamper) in tamperings {
        let mut store = store();
        tamper(&mut store);
        match verify(&store) {
            Err(error) => assert!(error.to_string().contains(what), "{what}: {error}"),
            Ok(report) => panic!("{what}: nothing was found, {report:?}"),
        }
    }
}

/// One root, beside a running writer, knows nothing of the writer's books.
#[test]
fn a_view_is_right_while_the_books_are_not() {
    let mut store = store();
    let page = some_reachable(&store);
    store.pages.free_held(one(page));
    assert!(verify(&store).is_err());
    verify_view(store.view()).expect("its pages are what they were");
}

#[test]
fn a_report_says_how_full_pages_are_and_how_many_checksums_it_compared() {
    let options = Options { chunk_bytes: 1 << 20, max_chunks: 64, reserve_bytes: 64 << 10 };
    let mut store = Store::open(&SimFiles::new(), "data", SPECS, options).expect("a new file opens");
    for key in 0..10u32 {
        store.insert(0, &key.to_be_bytes(), &[1; 100]);
    }
    store.publish();
    let fill = |entries: u64| entries * (6 + 4 + 4 + 100) * 100 / 4096;
    let report = verify(&store).expect("nothing is wrong");
    // No checkpoint has stamped the leaf.
    assert_eq!((report.pages, report.stamps, report.fill_percent), (1, 0, fill(10)));
    let job = store.cut().expect("no other runs");
    store.checkpoint_done(job.run().expect("the disk is well")).expect("the file keeps its length");
    let report = verify(&store).expect("nothing is wrong");
    assert_eq!((report.pages, report.stamps, report.fill_percent), (1, 1, fill(10)));
    // In order: full leaves, a branch that is nearly empty, and a leaf of what is left.
    for key in 10..100u32 {
        store.insert(0, &key.to_be_bytes(), &[1; 100]);
    }
    store.publish();
    let report = verify(&store).expect("nothing is wrong");
    let leaves = report.pages - 1;
    let most = (fill(100) + leaves) / report.pages;
    assert!(leaves == 3 && (most - 2..=most + 2).contains(&report.fill_percent), "{report:?}");
}
