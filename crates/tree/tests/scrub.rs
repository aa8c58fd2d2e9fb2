//! The scrub finds whatever is damaged of the newest checkpoint and nothing else, however the store goes on beside it.

mod common;

use base::Random;
use common::*;
use disk::SimFiles;
use mainstay_tree as tree;
use tree::{CheckpointDone, OpenReport, Options, ScrubDone, ScrubError, ScrubJob, Store};

const PAGE: u64 = 4096;

fn small() -> Options {
    Options { chunk_bytes: 128 << 10, max_chunks: 1024, reserve_bytes: 16 << 10 }
}

fn open(files: &SimFiles) -> Store {
    Store::open(files, "data", SPECS, small()).unwrap()
}

/// A whole pass, in steps of so many pages: how many steps, and the pages that were read, or what is damaged.
fn pass(store: &mut Store, pages: u32) -> (u32, Result<u64, ScrubError>) {
    for steps in 1.. {
        let job = store.scrub_job(pages).expect("none is under way");
        match store.scrub_done(job.run()) {
            Ok(None) => assert!(steps < 100_000, "a pass ends"),
            Ok(Some(read)) => return (steps, Ok(read)),
            Err(found) => return (steps, Err(found)),
        }
    }
    unreachable!()
}

/// Short and long keys and values, in leaves and runs; branches of several levels, since keys differ only at their ends.
fn filled() -> (SimFiles, Store) {
    let files = SimFiles::new();
    let mut store = open(&files);
    for round in 0..3u64 {
        for number in 0..400u64 {
            let value = vec![round as u8; [30, 300, 2500, 9000, 1_000][number as usize % 5]];
            store.insert(PLAIN, &number.to_be_bytes(), &value);
            let mut long = if number % 7 == 0 { vec![b'l'; 5000] } else { vec![b'k'; 900] };
            long.extend_from_slice(&number.to_be_bytes());
            long.extend_from_slice(&[0; SUFFIX]);
            store.insert(VERSIONS, &long, b"v");
        }
        store.publish();
        checkpoint(&mut store);
    }
    (files, store)
}

#[test]
fn every_page_of_the_newest_checkpoint_is_read_and_no_other() {
    let (files, store) = filled();
    let report = verified(&store);
    assert!(report.levels >= 3 && report.run_pages > 300 && report.free + report.waiting > 100, "{report:?}");
    drop(store);
    let mut store = open(&files);
    let frontier = files.bytes("data").unwrap().len() as u64 / PAGE;
    for pages in [1, 7, 100, u32::MAX] {
        let (steps, read) = pass(&mut store, pages);
        let read = read.expect("nothing is damaged");
        // Of leaves and their runs; where a step goes on in a leaf, that is read once more.
        let most = report.pages + u64::from(steps);
        assert!((report.pages * 9 / 10..=most).contains(&read), "{read} pages in {steps} steps, {report:?}");
        assert_eq!(steps == 1, pages == u32::MAX);
    }

    // A bit of each page in turn. What the start reads itself, it passes by, refuses or makes good: metas, roots, bitmap.
    let (mut found, mut at_start) = (0, 0);
    for page in 0..frontier {
        let image = files.image();
        let offset = page * PAGE + [40, 9, 17, 33][page as usize % 4];
        image.edit("data", offset, &mut |bytes| bytes[0] ^= 4);
        let opened = Store::open(&image, "data", SPECS, small());
        let amiss = |report: &OpenReport| report.unreadable.is_some() || report.bitmap_rebuilt.is_some();
        let Some(mut store) = opened.ok().filter(|store| !amiss(store.report())) else {
            at_start += 1;
            continue;
        };
        match pass(&mut store, 50).1 {
            Ok(_) => {}
            Err(ScrubError { what, .. }) => {
                // Of a run the first page is named.
                let named =
                    (page.saturating_sub(2)..=page).any(|no| what.contains(&format!("page {no}, at offset")));
                assert!(named, "{page}: {what}");
                found += 1;
            }
        }
    }
    // Both metas, the bitmap, the pages that the trees reach.
    assert_eq!(found + at_start, 2 + 1 + report.pages, "{found} and {at_start} at the start");
    assert!(at_start < 10, "{at_start}");
}

#[test]
fn damage_to_meta_and_bitmap_is_found_while_the_store_is_open() {
    let (files, mut store) = filled();
    assert!(pass(&mut store, 10).1.is_ok());
    let newest = store.report().sequence + 3;
    let slot = newest % 2;
    files.edit("data", (1 - slot) * PAGE + 100, &mut |bytes| bytes[0] ^= 1);
    assert!(pass(&mut store, 10).1.is_ok(), "the older one is rewritten by the next checkpoint");
    let bytes = files.bytes("data").unwrap();
    let meta = &bytes[(slot * PAGE) as usize..];
    let bitmap = u32::from_le_bytes(meta[48..52].try_into().unwrap());
    for (page, text) in
        [(slot, "is not the meta of checkpoint"), (u64::from(bitmap), "not that of the bitmap")]
    {
        files.edit("data", page * PAGE + 100, &mut |bytes| bytes[0] ^= 1);
        let what = pass(&mut store, 10).1.unwrap_err().what;
        assert!(what.contains(text) && what.contains(&format!("page {page},")), "{what}");
        files.edit("data", page * PAGE + 100, &mut |bytes| bytes[0] ^= 1);
    }
    assert!(pass(&mut store, 10).1.is_ok());
}

#[test]
fn a_page_that_cannot_be_read_is_damaged() {
    let (files, mut store) = filled();
    files.fail_read_at(files.reads() + 20);
    let found = pass(&mut store, 10).1.unwrap_err();
    assert!(found.unreadable && found.what.contains("cannot be read"), "{found:?}");
}

/// Batches and checkpoints between the steps, and while one waits to begin or to be reported: no false alarm.
#[test]
fn a_store_that_goes_on_beside_it_raises_no_alarm() {
    let (mut passes, mut stale) = (0, 0);
    for seed in 0..30 {
        let mut random = Random::new(seed);
        let files = SimFiles::new();
        let mut store = open(&files);
        let mut model = Model { value_max: 60_000, ..Model::default() };
        let mut written: Option<CheckpointDone> = None;
        let mut job: Option<ScrubJob> = None;
        let mut done: Option<ScrubDone> = None;
        for _ in 0..400 {
            for _ in 0..random.below(20) {
                step(&mut random, &mut store, &mut model);
            }
            store.publish();
            // Reported late, too.
            match written.take() {
                Some(done) if random.one_in(2) => drop(store.checkpoint_done(done).unwrap()),
                Some(done) => written = Some(done),
                None if random.one_in(3) => written = Some(store.cut().unwrap().run().unwrap()),
                None => {}
            }
            let pages = 1 + random.below(60) as u32;
            if job.is_none() && done.is_none() {
                job = store.scrub_job(pages);
            }
            // Begun late, or reported late.
            if random.one_in(2)
                && let Some(job) = job.take()
            {
                done = Some(job.run());
            }
            if random.one_in(2)
                && let Some(done) = done.take()
            {
                stale += u64::from(format!("{done:?}").contains("found: Some"));
                let ended = store.scrub_done(done).unwrap_or_else(|found| panic!("seed {seed}: {found:?}"));
                passes += u64::from(ended.is_some());
            }
        }
        verified(&store);
    }
    assert!(passes > 100 && stale > 20, "{passes} passes, {stale} stale findings");
}

/// What is appended at one end and taken away at the other, as history is, faster than it is read: a pass ends.
#[test]
fn a_pass_ends_while_a_tree_moves_on_faster_than_it_is_read() {
    let files = SimFiles::new();
    let mut store = open(&files);
    let (mut from, mut to) = (0u64, 0u64);
    let mut ends = 0;
    for step in 0..200 {
        while to < 2000 + 400 * step {
            store.insert(LOG, &to.to_be_bytes(), &[1; 200]);
            to += 1;
        }
        while from + 2000 < to {
            assert!(store.remove(LOG, &from.to_be_bytes()));
            from += 1;
        }
        store.insert(PLAIN, b"other", &step.to_be_bytes());
        store.publish();
        checkpoint(&mut store);
        // Twenty leaves are new each time.
        let job = store.scrub_job(4).unwrap();
        ends += u64::from(store.scrub_done(job.run()).unwrap().is_some());
    }
    assert!((5..100).contains(&ends), "{ends}");
}

/// A leaf of many long values is read piece by piece too.
#[test]
fn a_step_reads_little_more_than_it_was_asked_to() {
    let files = SimFiles::new();
    let mut store = open(&files);
    for number in 0..60u64 {
        store.insert(PLAIN, &number.to_be_bytes(), &vec![1; 40_000]);
    }
    store.publish();
    checkpoint(&mut store);
    assert_eq!(verified(&store).levels, 1, "one leaf has them all");
    let (mut steps, mut reads) = (0, files.reads());
    loop {
        let job = store.scrub_job(8).unwrap();
        let ended = store.scrub_done(job.run()).unwrap();
        assert!(files.reads() - reads < 8, "{}", files.reads() - reads);
        (steps, reads) = (steps + 1, files.reads());
        if let Some(pages) = ended {
            assert_eq!(pages, 600 + 60, "each value once, and the leaf with each");
            break;
        }
    }
    assert_eq!(steps, 60 + 1, "the other trees are empty");
}

/// A bitmap that a start found damaged was said to be, and is written anew by the next checkpoint.
#[test]
fn a_bitmap_that_was_rebuilt_is_no_damage() {
    let (files, mut store) = filled();
    let slot = (store.report().sequence + 3) % 2;
    let bytes = files.bytes("data").unwrap();
    let at = (slot * PAGE + 48) as usize;
    let bitmap = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    files.edit("data", u64::from(bitmap) * PAGE + 100, &mut |bytes| bytes[0] ^= 1);
    assert!(pass(&mut store, 10).1.is_err());
    drop(store);
    let mut store = open(&files);
    assert!(store.report().bitmap_rebuilt.is_some());
    assert!(pass(&mut store, 10).1.is_ok());
    store.insert(PLAIN, b"new", b"");
    store.publish();
    checkpoint(&mut store);
    assert!(pass(&mut store, 10).1.is_ok());
    // One that was sound at the start is damage, before the first checkpoint too.
    drop(store);
    let mut store = open(&files);
    assert!(store.report().bitmap_rebuilt.is_none());
    let at = (store.report().sequence % 2 * PAGE + 48) as usize;
    let bitmap = u32::from_le_bytes(files.bytes("data").unwrap()[at..at + 4].try_into().unwrap());
    files.edit("data", u64::from(bitmap) * PAGE + 100, &mut |bytes| bytes[0] ^= 1);
    assert!(pass(&mut store, 10).1.unwrap_err().what.contains("not that of the bitmap"));
}

/// Makes the checksum of a page right again after a change.
fn forge(files: &SimFiles, page: u64, change: impl Fn(&mut [u8])) {
    files.edit("data", page * PAGE, &mut |bytes| {
        let page = &mut bytes[..PAGE as usize];
        change(page);
        let crc = base::crc32c(&page[4..]);
        page[..4].copy_from_slice(&crc.to_le_bytes());
    });
}

/// Pages that are sound by themselves, and not what the page that leads to them says: one tree of two levels and a value in
/// a run, its places read from the file as docs/DATA_FILES.md draws it.
#[test]
fn a_page_that_does_not_belong_where_it_stands_is_damage_and_no_panic() {
    let files = SimFiles::new();
    let mut store = open(&files);
    for number in 0..40u64 {
        store.insert(PLAIN, &number.to_be_bytes(), &vec![1; if number == 0 { 5000 } else { 500 }]);
    }
    store.publish();
    checkpoint(&mut store);
    assert_eq!(verified(&store).levels, 2);
    assert!(pass(&mut store, 10).1.is_ok());

    let number = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let half =
        |bytes: &[u8], at: usize| usize::from(u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap()));
    let page_of = |no: u64| files.bytes("data").unwrap()[(no * PAGE) as usize..][..PAGE as usize].to_vec();
    let slot = (store.report().sequence + 1) % 2;
    let root = u64::from(number(&page_of(slot), 192));
    // Behind the stamp of 16 bytes: a header of 24, slots of 6 with the cell's offset at 4.
    let cell = |page: &[u8], i: usize| 16 + half(page, 16 + 24 + 6 * i + 4);
    let branch = page_of(root);
    let (first, second) = (cell(&branch, 0), cell(&branch, 1));
    let leaf = u64::from(number(&branch, first + 2));
    let leaf_bytes = page_of(leaf);
    // Key of eight bytes, then the run: its first page, its length.
    let run_ref = cell(&leaf_bytes, 0) + 4 + 8;
    let run = u64::from(number(&leaf_bytes, run_ref));
    assert_eq!(number(&leaf_bytes, run_ref + 4), 5000);

    type Change<'a> = &'a dyn Fn(&mut [u8]);
    let put =
        |at: usize, value: u32| move |page: &mut [u8]| page[at..at + 4].copy_from_slice(&value.to_le_bytes());
    let cases: [(u64, Change, &str); 11] = [
        (root, &put(first + 2, u32::MAX), "do not lie in the file"),
        (root, &put(first + 2, 1), "do not lie in the file"),
        (root, &put(first + 2, root as u32), "kind 2 level 1 where 1 at 0 belongs"),
        (root, &put(first + 2, run as u32), "the checksum is not that of the page"),
        (root, &put(first + 2, number(&branch, second + 2)), "entries where there are"),
        (root, &put(first + 6, 3), "entries where there are"),
        (leaf, &put(run_ref, u32::MAX), "do not lie in the file"),
        (leaf, &put(run_ref, leaf as u32), "the checksum is not that of the page"),
        (leaf, &put(run_ref + 4, 5001), "the checksum is not that of the page"),
        (leaf, &put(run_ref + 4, u32::MAX), "do not lie in the file"),
        (leaf, &|page: &mut [u8]| page[18] = 0xff, "overlap"),
    ];
    for (number, (page, change, text)) in cases.into_iter().enumerate() {
        let before = page_of(page);
        forge(&files, page, change);
        let what = pass(&mut store, 10).1.unwrap_err().what;
        assert!(what.contains(text) && what.starts_with("tree plain, page "), "{number}: {what}");
        forge(&files, page, |bytes| bytes.copy_from_slice(&before));
        assert!(pass(&mut store, 10).1.is_ok(), "{number}");
    }
    // The run's own header: kind, pages, bytes.
    for (at, byte) in [(16, 1), (20, 3), (25, 1)] {
        let (before, after) = (page_of(run), page_of(run + 1));
        files.edit("data", run * PAGE, &mut |bytes| {
            bytes[at] = byte;
            let crc = base::crc32c(&bytes[4..32 + 5000]);
            bytes[..4].copy_from_slice(&crc.to_le_bytes());
        });
        let what = pass(&mut store, 10).1.unwrap_err().what;
        assert!(what.contains("the header is not that of a run of 5000 bytes"), "{at}: {what}");
        files.edit("data", run * PAGE, &mut |bytes| {
            bytes[..PAGE as usize].copy_from_slice(&before);
            bytes[PAGE as usize..2 * PAGE as usize].copy_from_slice(&after);
        });
    }
    assert!(pass(&mut store, 10).1.is_ok());
}

/// Longer than what is read at once.
#[test]
fn a_long_value_is_read_to_its_end() {
    let files = SimFiles::new();
    let options = Options { chunk_bytes: 8 << 20, ..small() };
    let mut store = Store::open(&files, "data", SPECS, options).unwrap();
    let value: Vec<u8> = (0..(5 << 19) + 77u32).map(|at| (at / 7) as u8).collect();
    store.insert(PLAIN, b"long", &value);
    store.publish();
    checkpoint(&mut store);
    assert!(pass(&mut store, 10).1.is_ok());
    let bytes = files.bytes("data").unwrap();
    let begin = bytes.windows(64).position(|window| window == &value[..64]).unwrap() as u64;
    for at in [0, (1 << 20) + 5, (2 << 20) + 1, value.len() as u64 - 1] {
        files.edit("data", begin + at, &mut |bytes| bytes[0] ^= 1);
        let what = pass(&mut store, 10).1.unwrap_err().what;
        assert!(what.contains("the checksum is not that of the page"), "{at}: {what}");
        files.edit("data", begin + at, &mut |bytes| bytes[0] ^= 1);
    }
    assert!(pass(&mut store, 10).1.is_ok());
}
