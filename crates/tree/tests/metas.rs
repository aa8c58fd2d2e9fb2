//! What a start makes of metas that no checkpoint of this program wrote, and of files that are just as they should be:
//! refused, or passed by, with a line that says what; and nothing said where nothing is amiss.

mod common;

use common::*;
use disk::sim::{Fault, KeepSet};
use disk::{Files, OpenMode, SimFiles};
use mainstay_tree as tree;
use tree::{OpenError, Options, Store};

/// Byte offsets in a meta, as docs/DATA_FILES.md draws it.
const PAGE_BYTES: usize = 36;
const CHUNK_BYTES: usize = 40;
const BITMAP: usize = 48;
const TREES: usize = 60;
const ROOT: usize = 192;

fn small() -> Options {
    Options { chunk_bytes: 64 << 10, max_chunks: 1024, reserve_bytes: 16 << 10 }
}

fn open(files: &SimFiles) -> Result<Store, OpenError> {
    Store::open(files, "data", SPECS, small())
}

/// A file with some content, checkpoint after checkpoint; the slot of the newest meta.
fn filled(files: &SimFiles) -> u64 {
    let mut store = open(files).unwrap();
    for round in 0..4u64 {
        for number in 0..200u64 {
            store.insert(PLAIN, &number.to_be_bytes(), &vec![round as u8; 20 + 50 * number as usize % 7000]);
        }
        store.publish();
        checkpoint(&mut store);
    }
    drop(store);
    open(&files.image()).unwrap().report().sequence % 2
}

/// Changes the meta of a slot and makes its checksum right again.
fn forge(files: &SimFiles, slot: u64, change: impl Fn(&mut [u8])) {
    files.edit("data", slot * 4096, &mut |block| {
        change(block);
        let crc = base::crc32c(&block[16..4096]);
        block[12..16].copy_from_slice(&crc.to_le_bytes());
    });
}

fn put(block: &mut [u8], at: usize, bytes: usize, value: u64) {
    block[at..at + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
}

#[test]
fn a_meta_with_impossible_sizes_is_passed_by_whatever_its_checksum() {
    let files = SimFiles::new();
    let slot = filled(&files);
    let sequence = open(&files.image()).unwrap().report().sequence;
    let most = tree_count_max();
    for (at, bytes, value) in [
        (TREES, 4, most + 1),
        (TREES, 4, u64::from(u32::MAX)),
        (PAGE_BYTES, 4, 8192),
        (CHUNK_BYTES, 8, 3 * 4096),
        (CHUNK_BYTES, 8, 2048),
        (CHUNK_BYTES, 8, 0),
    ] {
        let image = files.image();
        forge(&image, slot, |block| put(block, at, bytes, value));
        let store = open(&image).unwrap_or_else(|error| panic!("{at} {value}: {error}"));
        assert_eq!(store.report().sequence, sequence - 1, "{at} {value}");
        assert!(store.report().unreadable.as_ref().is_some_and(|text| text.contains("cannot be read")));
        verified(&store);
        // In both, nothing is left to go by.
        forge(&image, 1 - slot, |block| put(block, at, bytes, value));
        assert!(matches!(open(&image), Err(OpenError::Damaged { .. })), "{at} {value}");
    }
}

/// As many as a page has room for behind the fixed fields.
fn tree_count_max() -> u64 {
    (4096 - ROOT as u64) / 48
}

#[test]
fn a_root_or_a_bitmap_outside_the_file_is_not_looked_for() {
    let files = SimFiles::new();
    let slot = filled(&files);
    let sequence = open(&files.image()).unwrap().report().sequence;
    for page in [1, 0x7fff_fff0] {
        let image = files.image();
        forge(&image, slot, |block| put(block, ROOT, 4, page));
        let store = open(&image).unwrap_or_else(|error| panic!("root {page}: {error}"));
        assert_eq!(store.report().sequence, sequence - 1);
        let said = store.report().unreadable.clone().unwrap();
        assert!(said.contains(&format!("page {page}, the root")), "{said}");
        verified(&store);
        let image = files.image();
        forge(&image, slot, |block| put(block, BITMAP, 4, page));
        let store = open(&image).unwrap_or_else(|error| panic!("bitmap {page}: {error}"));
        assert_eq!(store.report().sequence, sequence);
        assert!(store.report().bitmap_rebuilt.is_some() && store.report().unreadable.is_none());
        verified(&store);
    }
}

/// What a bitmap takes comes free with the checkpoint after the next: not when a meta names pages of a tree for it.
#[test]
fn a_bitmap_upon_pages_of_a_tree_is_not_given_back() {
    let files = SimFiles::new();
    let slot = filled(&files);
    let whole = files.bytes("data").unwrap();
    let root = |slot: u64| {
        let at = slot as usize * 4096 + ROOT;
        u64::from(u32::from_le_bytes(whole[at..at + 4].try_into().unwrap()))
    };
    assert_ne!(root(0), root(1));
    for (forged, page) in
        [(slot, root(slot)), (slot, root(1 - slot)), (1 - slot, root(slot)), (1 - slot, root(1 - slot))]
    {
        let image = files.image();
        forge(&image, forged, |block| put(block, BITMAP, 4, page));
        let mut store = open(&image).unwrap();
        assert_eq!(store.report().bitmap_rebuilt.is_some(), forged == slot);
        assert_eq!(verified(&store).held, 3, "that of the other meta, and two to come");
        for round in 0..5u64 {
            (0..60u64).for_each(|number| store.insert(PLAIN, &(round * 7 + number).to_be_bytes(), &[9; 700]));
            store.publish();
            checkpoint(&mut store);
            assert!(verified(&store).held >= 3);
        }
    }
    assert_eq!(verified(&open(&files).unwrap()).held, 3, "one for each meta, and the next one");
}

/// Nothing to say of a file that is as it should be: new, with the first bitmap right behind the metas, and filled.
#[test]
fn a_sound_file_is_opened_without_a_word() {
    let files = SimFiles::new();
    let quiet = |files: &SimFiles| {
        let store = open(&files.image()).unwrap();
        let report = store.report().clone();
        let said = (report.unreadable, report.bitmap_rebuilt, report.reserve_missing);
        assert_eq!(said, (None, None, None), "at checkpoint {}", report.sequence);
        verified(&store);
        report.created
    };
    assert!(open(&files).unwrap().report().created);
    assert!(!quiet(&files));
    let mut store = open(&files).unwrap();
    store.publish();
    checkpoint(&mut store);
    drop(store);
    assert_eq!(
        files.bytes("data").unwrap()[(files_slot(&files) * 4096) as usize + BITMAP],
        2,
        "the first page"
    );
    quiet(&files);
    filled(&files);
    quiet(&files);
}

fn files_slot(files: &SimFiles) -> u64 {
    open(&files.image()).unwrap().report().sequence % 2
}

/// A file used to its last page is whole.
#[test]
fn a_file_without_a_page_to_spare_is_opened() {
    let files = SimFiles::new();
    let options = Options { reserve_bytes: 0, ..small() };
    let mut store = Store::open(&files, "data", SPECS, options.clone()).unwrap();
    // Pages that are in no checkpoint are changed in place: removal takes none, and gives some back.
    store.share_thread();
    let mut number = 0u64;
    while store.file_bytes() < store.allocated_bytes() {
        store.insert(PLAIN, &number.to_be_bytes(), &[1; 300]);
        store.publish();
        number += 1;
    }
    for removed in 0..number / 2 {
        assert!(store.remove(PLAIN, &removed.to_be_bytes()));
        store.publish();
    }
    checkpoint(&mut store);
    let entries = store.view().len(PLAIN);
    let last = store.file_bytes() == store.allocated_bytes();
    drop(store);
    assert!(last, "the file grew");
    let store = Store::open(&files, "data", SPECS, options).unwrap();
    assert!(store.report().unreadable.is_none(), "{:?}", store.report());
    assert_eq!(store.view().len(PLAIN), entries);
    verified(&store);
}

#[test]
fn a_file_shorter_than_its_metas_says_so() {
    let files = SimFiles::new();
    filled(&files);
    for (len, said) in [
        (0, "it has 0 bytes"),
        (6000, "it has 6000 bytes, less than its metas take"),
        (8192, "pages, the file 0"),
    ] {
        let image = files.image();
        image.open("data", OpenMode::ReadWrite).unwrap().truncate(len).unwrap();
        match open(&image) {
            Err(error @ OpenError::Damaged { .. }) => assert!(error.to_string().contains(said), "{error}"),
            Err(error) => panic!("{len}: {error}"),
            Ok(_) => panic!("{len}: accepted"),
        }
    }
}

/// The name is made durable where it stands.
#[test]
fn a_file_in_a_directory_survives_the_next_power_loss() {
    let files = SimFiles::new();
    files.create_dir("deep").unwrap();
    files.sync_dir("").unwrap();
    drop(Store::open(&files, "deep/data", SPECS, small()).unwrap());
    let after = files.crash(&mut KeepSet::none);
    let store = Store::open(&after, "deep/data", SPECS, small()).unwrap();
    assert!(!store.report().created, "it is there");
}

#[test]
fn an_io_error_is_handed_on_with_its_source() {
    let files = SimFiles::new();
    filled(&files);
    files.fail_read_at(files.reads());
    let Err(error) = open(&files) else { panic!("the read failed") };
    assert!(matches!(error, OpenError::Io { .. }) && std::error::Error::source(&error).is_some(), "{error}");
    assert!(std::error::Error::source(&OpenError::Foreign { file: "data".into() }).is_none());
}

/// In place only what nobody can see: without a pin nothing waits to be reused, with one everything does.
#[test]
fn a_batch_changes_in_place_what_nobody_has_pinned() {
    let files = SimFiles::new();
    let mut store = open(&files).unwrap();
    store.share_thread();
    let reader = store.readers().register();
    let rewrite = |store: &mut Store, value: u8| {
        (0..50u64).for_each(|number| store.insert(PLAIN, &number.to_be_bytes(), &[value; 100]));
    };
    rewrite(&mut store, 1);
    store.publish();
    let used = store.file_bytes();
    for value in 2..20 {
        rewrite(&mut store, value);
        store.publish();
        assert_eq!((store.file_bytes(), store.waiting_bytes()), (used, 0));
    }
    let snapshot = reader.pin();
    rewrite(&mut store, 99);
    store.publish();
    assert!(store.waiting_bytes() > 0, "the snapshot holds the old pages");
    assert_eq!(snapshot.view().get(PLAIN, &0u64.to_be_bytes()), Some(&[19; 100][..]));
    drop(snapshot);
    verified(&store);
}

#[test]
#[should_panic(expected = "the writer pins between its batches only")]
fn a_pin_within_a_batch_in_place_is_a_bug() {
    let mut store = open(&SimFiles::new()).unwrap();
    store.share_thread();
    let reader = store.readers().register();
    store.insert(PLAIN, b"key", b"value");
    store.publish();
    store.insert(PLAIN, b"key", b"other");
    drop(reader.pin());
}

#[test]
fn pins_are_counted() {
    let mut store = open(&SimFiles::new()).unwrap();
    let readers = store.readers();
    let (one, other) = (readers.register(), readers.register());
    assert_eq!((readers.pinned(), one.all_pinned()), (0, 0));
    let first = one.pin();
    assert_eq!((readers.pinned(), other.all_pinned()), (1, 1));
    store.publish();
    let (second, third) = (one.pin(), other.pin());
    assert_eq!((readers.pinned(), one.all_pinned()), (2, 2), "readers that hold any");
    drop((first, second));
    assert_eq!(readers.pinned(), 1);
    drop(third);
    assert_eq!(readers.pinned(), 0);
}

/// Without room for the reserve a store opens, and says so; a device that fails while the reserve is made refuses the start.
#[test]
fn only_a_full_disk_is_passed_over_when_the_reserve_is_made() {
    let files = SimFiles::new();
    filled(&files);
    let wants_more = Options { reserve_bytes: 1 << 20, ..small() };
    let full = files.image();
    full.set_capacity((1 << 50) - full.free_bytes().unwrap());
    let store = Store::open(&full, "data", SPECS, wants_more.clone()).unwrap();
    assert!(store.report().reserve_missing.as_ref().is_some_and(|why| why.contains("No space left")));

    let (mut refused, mut at) = (0, 0);
    loop {
        let failing = files.image();
        failing.fail_at(at, Fault::Io);
        match Store::open(&failing, "data", SPECS, wants_more.clone()) {
            Ok(store) if failing.operations() <= at => {
                assert_eq!(store.report().reserve_missing, None);
                break;
            }
            Ok(_) => panic!("operation {at} failed, and nobody noticed"),
            Err(error) => {
                refused += 1;
                assert!(matches!(error, OpenError::Io { .. }), "operation {at}: {error}");
            }
        }
        at += 1;
    }
    assert!(refused >= 2, "a sync, and the growth: {refused}");
}
