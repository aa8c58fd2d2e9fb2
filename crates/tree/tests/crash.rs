//! Power losses at every operation, damaged metas and bitmaps, and foreign files.

mod common;

use base::Random;
use common::*;
use disk::SimFiles;
use disk::sim::KeepSet;
use mainstay_tree as tree;
use tree::{KeyOrder, OpenError, Options, Store, TreeSpec};

fn small() -> Options {
    Options { chunk_bytes: 64 << 10, max_chunks: 1024, reserve_bytes: 16 << 10 }
}

/// What a device may hold after a crash.
struct Found {
    /// Of the checkpoint before the last durable one.
    older: Model,
    durable: Model,
    /// Of the checkpoint that was being written.
    in_flight: Option<Model>,
}

/// Runs a scripted workload until an operation fails.
fn work(files: &SimFiles, seed: u64) -> Found {
    let mut random = Random::new(seed);
    let mut model = Model { value_max: 50_000, ..Model::default() };
    let mut found = Found { older: model.clone(), durable: model.clone(), in_flight: None };
    let mut store = match Store::open(files, "data", SPECS, small()) {
        Ok(store) => store,
        Err(OpenError::Io { .. }) => return found,
        Err(error) => panic!("{error}"),
    };
    // Both ways of writing: a batch in place before the restart, copies after it, or the other way round.
    if seed % 2 == 1 {
        store.share_thread();
    }
    for round in 0..6 {
        if round == 3 {
            // A restart: what the older meta holds is now known from its bitmap only.
            drop(store);
            store = match Store::open(files, "data", SPECS, small()) {
                Ok(store) => store,
                Err(_) => return found,
            };
            if seed.is_multiple_of(2) {
                store.share_thread();
            }
            model = found.durable.clone();
        }
        for _ in 0..3 {
            if store.reserve(1 << 20).is_err() {
                return found;
            }
            for _ in 0..random.below(25) {
                step(&mut random, &mut store, &mut model);
            }
            store.publish();
        }
        if random.one_in(2) {
            store.shrink_step();
            store.publish();
        }
        let job = store.cut().unwrap();
        let cut = model.clone();
        // The writer goes on beside the job.
        for _ in 0..10 {
            step(&mut random, &mut store, &mut model);
        }
        store.publish();
        match job.run() {
            Ok(done) => {
                // A file that could not be made shorter: the checkpoint is durable, and the process ends.
                let went_on = store.checkpoint_done(done).is_ok();
                found.older = std::mem::replace(&mut found.durable, cut);
                if !went_on {
                    return found;
                }
            }
            Err(_) => {
                found.in_flight = Some(cut);
                return found;
            }
        };
    }
    found
}

fn keeps(count: usize, random: &mut Random) -> Vec<KeepSet> {
    let mut sets = vec![KeepSet::none(count), KeepSet::all(count)];
    if count > 0 {
        sets.push(KeepSet::only(count, random.below(count as u64) as usize));
        sets.push(KeepSet::all_but(count, random.below(count as u64) as usize));
        sets.push(KeepSet::random(count, random));
        sets.push(KeepSet::all(count).torn(512, random));
    }
    sets
}

fn same(store: &Store, model: &Model) -> bool {
    let lengths = |tree: usize| store.view().len(tree) == model.trees[tree].len() as u64;
    *store.stamp() == model.stamp && (0..3).all(lengths)
}

#[test]
fn after_a_power_loss_at_any_operation_the_store_is_that_of_a_checkpoint() {
    let (mut cases, mut newer_seen, mut fallbacks) = (0, 0, 0);
    for seed in 0..2 {
        let whole = SimFiles::new();
        work(&whole, seed);
        let operations = whole.operations();
        assert!(operations > 60, "{operations} operations are too few to learn from");
        for at in 0..operations {
            let files = SimFiles::new();
            files.halt_at(at);
            let Found { older, durable, in_flight } = work(&files, seed);
            assert!(files.halted(), "operation {at} was reached");
            let mut random = Random::new(at);
            // Killed, not cut off: the caches live on. What a start then finds, a power loss must not take away.
            let killed = files.image();
            let store = Store::open(&killed, "data", SPECS, small()).unwrap();
            let expected =
                if store.report().sequence > 1 && in_flight.as_ref().is_some_and(|m| same(&store, m)) {
                    in_flight.as_ref().unwrap()
                } else {
                    &durable
                };
            let sequence = store.report().sequence;
            let lost = killed.crash(&mut |count| KeepSet::none(count));
            let after = Store::open(&lost, "data", SPECS, small()).unwrap();
            assert_eq!(after.report().sequence, sequence, "operation {at}: what was opened is durable");
            check(after.view(), expected, &mut random);
            drop((store, after));
            for keep in keeps(files.unsynced(), &mut random) {
                let mut keep = Some(keep);
                let after = files.crash(&mut |_| keep.take().expect("asked once"));
                let mut store = Store::open(&after, "data", SPECS, small()).unwrap_or_else(|error| {
                    panic!("seed {seed}, operation {at}: {error}");
                });
                let is_newer = in_flight.as_ref().is_some_and(|newer| same(&store, newer));
                let expected = if is_newer { in_flight.as_ref().unwrap() } else { &durable };
                check(store.view(), expected, &mut random);
                verified(&store);
                cases += 1;
                newer_seen += u32::from(is_newer);
                // The meta before it is as whole, unless it was the one being overwritten.
                if store.report().unreadable.is_none() && store.report().sequence > 1 {
                    let image = after.image();
                    image.edit("data", store.report().sequence % 2 * 4096 + 64, &mut |bytes| bytes[0] ^= 1);
                    let fallback = Store::open(&image, "data", SPECS, small()).unwrap();
                    assert!(fallback.report().unreadable.is_some());
                    check(fallback.view(), if is_newer { &durable } else { &older }, &mut random);
                    verified(&fallback);
                    fallbacks += 1;
                }
                // And it goes on from there.
                let mut model = expected.clone();
                for _ in 0..10 {
                    step(&mut random, &mut store, &mut model);
                }
                store.publish();
                checkpoint(&mut store);
                verified(&store);
                let again = Store::open(&after, "data", SPECS, small()).unwrap();
                check(again.view(), &model, &mut random);
            }
        }
    }
    assert!(
        cases > 300 && newer_seen > 0 && fallbacks > 100,
        "{cases} cases, {newer_seen} of them newer, {fallbacks} with the meta before"
    );
}

fn two_checkpoints(files: &SimFiles) -> (Model, Model) {
    let mut random = Random::new(9);
    let mut model = Model { value_max: 50_000, ..Model::default() };
    let mut store = Store::open(files, "data", SPECS, small()).unwrap();
    let mut older = model.clone();
    for _ in 0..5 {
        for _ in 0..80 {
            step(&mut random, &mut store, &mut model);
        }
        let mut stamp = *store.stamp();
        stamp[0] += 1;
        store.set_stamp(stamp);
        model.stamp = stamp;
        store.publish();
        if store.durable_stamp()[0] < 5 {
            older = std::mem::replace(&mut older, model.clone());
        }
        let before = model.clone();
        checkpoint(&mut store);
        if stamp[0] == 4 {
            older = before;
        }
    }
    (older, model)
}

#[test]
fn the_older_meta_is_a_whole_tree_when_the_newest_is_damaged() {
    let files = SimFiles::new();
    let (older, newer) = two_checkpoints(&files);
    let sequence = Store::open(&files.image(), "data", SPECS, small()).unwrap().report().sequence;
    let slot = sequence % 2 * 4096;
    files.edit("data", slot + 70, &mut |bytes| bytes[0] ^= 1);
    let mut random = Random::new(1);
    let mut store = Store::open(&files, "data", SPECS, small()).unwrap();
    assert_eq!(store.report().sequence, sequence - 1);
    assert!(store.report().unreadable.as_deref().is_some_and(|text| text.contains("slot")));
    check(store.view(), &older, &mut random);
    verified(&store);
    // The next checkpoint takes the damaged slot, never the good one.
    store.publish();
    checkpoint(&mut store);
    drop(store);
    let store = Store::open(&files, "data", SPECS, small()).unwrap();
    assert!(store.report().unreadable.is_none());
    assert_ne!(older, newer);
    check(store.view(), &older, &mut random);
    drop(store);
    files.edit("data", 16, &mut |bytes| bytes[0] ^= 1);
    files.edit("data", 4096 + 16, &mut |bytes| bytes[0] ^= 1);
    match Store::open(&files, "data", SPECS, small()) {
        Err(error @ OpenError::Damaged { .. }) => {
            let line = error.to_string();
            assert!(line.contains("data") && line.contains("neither") && !line.contains('\n'), "{line}");
        }
        _ => panic!("two damaged metas must be refused"),
    }
}

fn word(meta: &[u8], at: usize) -> u64 {
    u64::from(u32::from_le_bytes(meta[at..at + 4].try_into().unwrap()))
}

/// The metas of a file, the older first.
fn metas(files: &SimFiles) -> [Vec<u8>; 2] {
    let whole = files.bytes("data").unwrap();
    let mut metas = [whole[..4096].to_vec(), whole[4096..8192].to_vec()];
    metas.sort_by_key(|meta| word(meta, 16));
    metas
}

#[test]
fn a_damaged_bitmap_is_rebuilt() {
    let files = SimFiles::new();
    let (_, model) = two_checkpoints(&files);
    for meta in &metas(&files) {
        files.edit("data", word(meta, 48) * 4096 + 1, &mut |bytes| bytes[0] ^= 0x10);
    }
    let mut random = Random::new(1);
    let store = Store::open(&files, "data", SPECS, small()).unwrap();
    assert!(store.report().bitmap_rebuilt.is_some() && store.report().unreadable.is_none());
    check(store.view(), &model, &mut random);
    verified(&store);
}

/// The newest meta is whole and a root of it is not: the older one counts, and the newest never does again, though its
/// broken page is used anew; whatever a crash leaves of the checkpoint that does so.
#[test]
fn a_damaged_root_gives_way_to_the_older_meta_for_good() {
    let mut random = Random::new(1);
    let whole = SimFiles::new();
    let (older, newer) = two_checkpoints(&whole);
    assert_ne!(older, newer);
    let [_, newest] = metas(&whole);
    let sequence = word(&newest, 16);
    let (mut fallen, mut renewed) = (0, 0);
    for tree in 0..3 {
        let root = word(&newest, 192 + 48 * tree);
        let damaged = whole.image();
        damaged.edit("data", root * 4096 + 2000, &mut |bytes| bytes[0] ^= 0x10);
        // A walk over every operation of what comes next: the fallback, changes, a checkpoint.
        for at in 0.. {
            let files = damaged.image();
            let mut store = Store::open(&files, "data", SPECS, small()).unwrap();
            assert_eq!(store.report().sequence, sequence - 1);
            let said = store.report().unreadable.clone().unwrap();
            assert!(said.contains(&format!("page {root}")) && !said.contains('\n'), "{said}");
            check(store.view(), &older, &mut random);
            verified(&store);
            let mut model = older.clone();
            for _ in 0..40 {
                step(&mut random, &mut store, &mut model);
            }
            store.publish();
            files.halt_at(files.operations() + at);
            let done = store.cut().unwrap().run();
            let ended = done.is_ok();
            drop(store);
            for keep in keeps(files.unsynced(), &mut random) {
                let mut keep = Some(keep);
                let after = files.crash(&mut |_| keep.take().expect("asked once"));
                let store = Store::open(&after, "data", SPECS, small()).unwrap();
                let again = if store.report().sequence == sequence { &model } else { &older };
                fallen += u32::from(store.report().sequence < sequence);
                renewed += u32::from(store.report().sequence == sequence);
                check(store.view(), again, &mut random);
                verified(&store);
            }
            if ended {
                break;
            }
        }
    }
    assert!(fallen > 50 && renewed > 5, "{fallen} fell back again, {renewed} found the new checkpoint");
}

#[test]
fn damaged_roots_of_both_metas_are_refused() {
    let files = SimFiles::new();
    two_checkpoints(&files);
    for meta in &metas(&files) {
        files.edit("data", word(meta, 192) * 4096 + 2000, &mut |bytes| bytes[0] ^= 0x10);
    }
    let root = word(&metas(&files)[1], 192);
    match Store::open(&files, "data", SPECS, small()) {
        Err(error @ OpenError::Damaged { .. }) => {
            assert!(error.to_string().contains(&format!("page {root}")), "{error}")
        }
        _ => panic!("a damaged root must be refused"),
    }
}

/// A root that a later checkpoint has used again, as a copy of a file in use may have it: sound, and not what the meta
/// means.
#[test]
fn a_root_of_a_later_checkpoint_is_not_believed() {
    let files = SimFiles::new();
    let (older, _) = two_checkpoints(&files);
    let [_, newest] = metas(&files);
    let (root, sequence) = (word(&newest, 192), word(&newest, 16));
    files.edit("data", root * 4096, &mut |bytes| {
        bytes[8..16].copy_from_slice(&(sequence + 1).to_le_bytes());
        let crc = base::crc32c(&bytes[4..4096]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
    });
    let store = Store::open(&files, "data", SPECS, small()).unwrap();
    assert_eq!(store.report().sequence, sequence - 1);
    check(store.view(), &older, &mut Random::new(1));
}

/// A file cut short behind what the newest meta reaches.
#[test]
fn a_file_that_lost_its_end_gives_way_to_the_older_meta_or_is_refused() {
    let files = SimFiles::new();
    let (older, _) = two_checkpoints(&files);
    let [before, newest] = metas(&files);
    let chunk = |meta: &[u8]| (word(meta, 32) * 4096).next_multiple_of(64 << 10);
    for len in [chunk(&newest) - (64 << 10), 64 << 10] {
        let image = files.image();
        disk::Files::open(&image, "data", disk::OpenMode::ReadWrite).unwrap().truncate(len).unwrap();
        match Store::open(&image, "data", SPECS, small()) {
            Ok(store) => {
                assert!(len >= word(&before, 32) * 4096);
                check(store.view(), &older, &mut Random::new(1));
            }
            Err(OpenError::Damaged { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn verify_finds_a_flipped_bit_in_any_page_of_the_newest_checkpoint() {
    let files = SimFiles::new();
    two_checkpoints(&files);
    let report = verified(&Store::open(&files.image(), "data", SPECS, small()).unwrap());
    assert!(report.pages > 20 && report.run_pages > 20, "{report:?}");
    let (mut found, len) = (0, files.bytes("data").unwrap().len() as u64);
    for page in 2..len / 4096 {
        let image = files.image();
        // Behind the last byte of a run nothing counts: of its last page the first certainly does.
        image.edit("data", page * 4096, &mut |bytes| bytes[0] ^= 0x40);
        match Store::open(&image, "data", SPECS, small()) {
            // A root that is damaged leaves the older meta, where there is one.
            Ok(store) => {
                found += u64::from(tree::verify(&store).is_err() || store.report().unreadable.is_some())
            }
            Err(OpenError::Damaged { .. }) => found += 1,
            Err(error) => panic!("{error}"),
        }
    }
    // A damaged bitmap is made anew, and verified to be right.
    assert_eq!(found, report.pages, "a flip in each page that is in use is noticed");
}

#[test]
fn foreign_files_other_versions_and_other_trees_have_errors_of_their_own() {
    let files = SimFiles::new();
    two_checkpoints(&files);
    let image = files.image();
    for slot in [0, 4096] {
        image.edit("data", slot, &mut |bytes| bytes[..8].copy_from_slice(b"whatever"));
    }
    assert!(matches!(Store::open(&image, "data", SPECS, small()), Err(OpenError::Foreign { .. })));
    let image = files.image();
    image.edit("data", 8, &mut |bytes| bytes[0] = 9);
    match Store::open(&image, "data", SPECS, small()) {
        Err(OpenError::Version { found: 9, supported: 1, .. }) => {}
        _ => panic!("a newer version in either slot must be refused"),
    }
    static RENAMED: &[TreeSpec] = &[
        TreeSpec { name: "plain", order: KeyOrder::Bytes },
        TreeSpec { name: "other", order: KeyOrder::Suffixed(SUFFIX) },
        TreeSpec { name: "log", order: KeyOrder::Bytes },
    ];
    static REORDERED: &[TreeSpec] = &[
        TreeSpec { name: "plain", order: KeyOrder::Bytes },
        TreeSpec { name: "versions", order: KeyOrder::Bytes },
        TreeSpec { name: "log", order: KeyOrder::Bytes },
    ];
    for specs in [RENAMED, REORDERED, &SPECS[..2]] {
        assert!(matches!(Store::open(&files, "data", specs, small()), Err(OpenError::Trees { .. })));
    }
    static MORE: &[TreeSpec] = &[
        TreeSpec { name: "plain", order: KeyOrder::Bytes },
        TreeSpec { name: "versions", order: KeyOrder::Suffixed(SUFFIX) },
        TreeSpec { name: "log", order: KeyOrder::Bytes },
        TreeSpec { name: "new", order: KeyOrder::Bytes },
    ];
    let mut store = Store::open(&files, "data", MORE, small()).unwrap();
    assert_eq!(store.view().len(3), 0);
    store.insert(3, b"a", b"b");
    store.publish();
    checkpoint(&mut store);
    assert_eq!(Store::open(&files, "data", MORE, small()).unwrap().view().get(3, b"a"), Some(&b"b"[..]));
}
