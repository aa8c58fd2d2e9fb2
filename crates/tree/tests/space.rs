//! Space and memory: full devices, reuse, drops, shrinking; and readers on other threads while all that goes on.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use base::Random;
use common::*;
use disk::SimFiles;
use mainstay_tree as tree;
use tree::{Options, Store};

fn small() -> Options {
    Options { chunk_bytes: 64 << 10, max_chunks: 4096, reserve_bytes: 64 << 10 }
}

#[test]
fn a_full_device_is_an_answer_and_removals_make_room() {
    let files = SimFiles::new();
    files.set_capacity(4 << 20);
    let mut store = Store::open(&files, "data", SPECS, small()).unwrap();
    let mut count = 0u64;
    let refused = loop {
        let cost = store.insert_cost(PLAIN, 8, 9000);
        if let Err(refused) = store.reserve(cost) {
            break refused;
        }
        store.insert(PLAIN, &count.to_be_bytes(), &[3; 9000]);
        store.publish();
        count += 1;
        if count.is_multiple_of(50) {
            checkpoint(&mut store);
        }
    };
    assert!(refused.to_string().contains("cannot grow"), "{refused}");
    assert!(count > 100 && store.allocated_bytes() <= 4 << 20);
    assert_eq!(store.view().len(PLAIN), count, "a refusal changes nothing");
    // Removal, checkpoint and small changes go on from the reserve.
    for i in 0..count / 2 {
        assert!(store.remove(PLAIN, &i.to_be_bytes()));
        store.publish();
    }
    checkpoint(&mut store);
    checkpoint(&mut store);
    let cost = store.insert_cost(PLAIN, 8, 9000);
    store.reserve(cost).expect("half of the content is gone");
    store.insert(PLAIN, b"more", &[3; 9000]);
    store.publish();
    verified(&store);
}

/// Takes from the store what it last promised, and cuts, for which there is the reserve.
fn take_what_was_promised(files: &SimFiles, store: &mut Store, promised_bytes: u64, value: &[u8]) {
    files.set_capacity(store.allocated_bytes());
    let mut taken = 0;
    for number in 0u64.. {
        let cost = store.insert_cost(PLAIN, 9, value.len());
        if taken + cost > promised_bytes {
            break;
        }
        taken += cost;
        store.insert(PLAIN, &[&[0xff][..], &number.to_be_bytes()].concat(), value);
    }
    store.publish();
    let job = store.cut().expect("no checkpoint is running");
    store.checkpoint_done(job.run().unwrap()).unwrap();
    verified(store);
}

#[test]
fn pages_that_a_drop_withholds_are_not_those_of_the_reserve() {
    for value in [&[5; 100][..], &[5; 40_000]] {
        let files = SimFiles::new();
        files.set_capacity(4 << 20);
        let (mut store, _) = thinned(&files, small(), 3 << 20, 3);
        checkpoint(&mut store);
        checkpoint(&mut store);
        // All that the device has.
        let mut promised_bytes = 4 << 20;
        while promised_bytes > 0 && store.reserve(promised_bytes).is_err() {
            promised_bytes -= 4 << 10;
        }
        assert!(promised_bytes >= 16 << 10, "a third of 3 MiB is left");
        // It would drop all it may; it runs while the promise is taken up.
        let job = store.drop_cold(u64::MAX, true);
        take_what_was_promised(&files, &mut store, promised_bytes, value);
        if let Some(job) = job {
            store.drop_done(job.run().unwrap());
        }
        // With nothing owed it takes what is beyond the reserve.
        store.owes(0);
        checkpoint(&mut store);
        checkpoint(&mut store);
        assert!(store.drop_cold(u64::MAX, true).is_some());
        let job = store.cut().expect("no checkpoint is running");
        store.checkpoint_done(job.run().unwrap()).unwrap();
    }
}

#[test]
fn a_file_that_gets_shorter_keeps_what_was_promised() {
    for value in [&[5; 100][..], &[5; 40_000]] {
        let files = SimFiles::new();
        let options = Options { chunk_bytes: 256 << 10, max_chunks: 1024, reserve_bytes: 64 << 10 };
        let (mut store, _) = thinned(&files, options, 8 << 20, 40);
        let before = store.allocated_bytes();
        checkpoint(&mut store);
        checkpoint(&mut store);
        while store.shrink_step() {}
        store.publish();
        let promised_bytes = 2 << 20;
        store.make_room(tree::Room { bytes: promised_bytes, run_bytes: 200 << 10, keep_bytes: 0 }).unwrap();
        for _ in 0..4 {
            checkpoint(&mut store);
        }
        assert!(store.allocated_bytes() < before - (1 << 20), "{} of {before}", store.allocated_bytes());
        take_what_was_promised(&files, &mut store, promised_bytes, value);
    }
}

/// What is free lies in pieces, and all but one long piece is small: whoever holds that one gets it, though others took
/// all the rest in the meantime.
#[test]
fn what_is_held_is_there_for_a_run_whatever_else_was_stored() {
    let mut random = Random::new(3);
    let (mut held, mut refused) = (0, 0);
    for round in 0..200 {
        let files = SimFiles::new();
        files.set_capacity(3 << 20);
        let (mut store, model) = thinned(&files, small(), (1 << 20) + random.below(1 << 20), 2);
        (0..random.below(3)).for_each(|_| checkpoint(&mut store));
        let value = vec![7; 5000 + random.below(40_000) as usize];
        let run_bytes = store.run_cost(9, value.len());
        assert!(run_bytes >= value.len() as u64 && run_bytes <= store.insert_cost(PLAIN, 9, value.len()));
        let room = |bytes| tree::Room { bytes, run_bytes, keep_bytes: 64 << 10 };
        let cost = store.insert_cost(PLAIN, 9, value.len());
        if store.make_room(room(cost)).is_err() {
            refused += 1;
            continue;
        }
        let hold = store.hold(run_bytes).expect("room was made");
        verified(&store);
        // Small ones take what they can get, up to what was promised to the long one beside its run.
        let small_cost = store.insert_cost(PLAIN, 9, 10);
        for number in 0u64.. {
            let room =
                tree::Room { bytes: small_cost + cost - run_bytes, run_bytes: 0, keep_bytes: 64 << 10 };
            if store.make_room(room).is_err() || number == 2000 {
                break;
            }
            store.insert(PLAIN, &[&[0xee][..], &random.next_u64().to_be_bytes()].concat(), &[1; 10]);
            if random.one_in(3) {
                store.publish();
            }
        }
        if store.is_touched() {
            store.publish();
        }
        // A drop goes around it.
        if let Some(job) = store.drop_cold(u64::MAX, true) {
            store.drop_done(job.run().unwrap());
        }
        verified(&store);
        if round % 4 == 0 {
            store.give_back(hold);
            verified(&store);
            continue;
        }
        files.set_capacity(store.allocated_bytes());
        held += 1;
        store.open_hold(hold);
        store.insert(PLAIN, b"long-key!", &value);
        store.close_hold();
        store.publish();
        verified(&store);
        assert_eq!(store.view().get(PLAIN, b"long-key!"), Some(&value[..]));
        assert!(store.view().len(PLAIN) > model.trees[PLAIN].len() as u64);
        checkpoint(&mut store);
        verified(&store);
    }
    assert!(held > 50, "{held} held, {refused} refused");
}

#[test]
fn a_capped_checkpoint_writes_the_same() {
    let files = SimFiles::new();
    let mut random = Random::new(2);
    let mut store = Store::open(&files, "data", SPECS, options()).unwrap();
    let mut model = Model::default();
    (0..300).for_each(|_| step(&mut random, &mut store, &mut model));
    store.publish();
    store.set_checkpoint_bandwidth(40 << 20);
    checkpoint(&mut store);
    drop(store);
    let store = Store::open(&files, "data", SPECS, options()).unwrap();
    check(store.view(), &model, &mut random);
    verified(&store);
}

#[test]
fn overwriting_without_checkpoints_does_not_grow_the_file() {
    let files = SimFiles::new();
    let mut store = Store::open(&files, "data", SPECS, small()).unwrap();
    let mut random = Random::new(8);
    let mut fill = |store: &mut Store, rounds: u64| {
        for _ in 0..rounds {
            for _ in 0..20 {
                let key = random.below(500).to_be_bytes();
                store.insert(PLAIN, &key, &vec![1; 100 + random.below(2) as usize * 6000]);
            }
            store.publish();
        }
    };
    fill(&mut store, 200);
    let size = store.file_bytes();
    fill(&mut store, 2000);
    assert!(store.file_bytes() <= size + size / 4, "{size} grew to {}", store.file_bytes());
    // With a pin it must grow: what the pin sees stays.
    let reader = store.readers().register();
    let snapshot = reader.pin();
    let before = store.file_bytes();
    fill(&mut store, 200);
    assert!(store.file_bytes() > before + before / 2);
    drop(snapshot);
    store.publish();
    assert_eq!(store.waiting_bytes(), 0);
    verified(&store);
}

#[test]
fn checkpointed_overwriting_settles_at_a_size() {
    let files = SimFiles::new();
    let mut store = Store::open(&files, "data", SPECS, small()).unwrap();
    let mut random = Random::new(8);
    let mut sizes = Vec::new();
    (0..2000u64).for_each(|i| store.insert(PLAIN, &i.to_be_bytes(), &[1; 300]));
    for _ in 0..40 {
        for _ in 0..30 {
            for _ in 0..10 {
                store.insert(PLAIN, &random.below(2000).to_be_bytes(), &[1; 300]);
            }
            store.publish();
        }
        checkpoint(&mut store);
        sizes.push(store.file_bytes());
    }
    assert!(sizes[39] <= sizes[12] + (64 << 10), "{sizes:?}");
}

#[test]
fn cold_pages_leave_memory_and_keep_their_content() {
    let files = SimFiles::new();
    let mut random = Random::new(21);
    let mut store = Store::open(&files, "data", SPECS, options()).unwrap();
    let mut model = Model::default();
    for round in 0..20 {
        for _ in 0..200 {
            step(&mut random, &mut store, &mut model);
        }
        store.publish();
        if let Some(job) = store.populate_job() {
            assert!(job.bytes() > 0);
            job.run();
        }
        let job = store.cut().unwrap();
        let helper = std::thread::spawn(move || job.run().unwrap());
        let excess = store.private_bytes().saturating_sub(64 << 10);
        let Some(drop_job) = store.drop_cold(excess, round % 2 == 0) else {
            store.checkpoint_done(helper.join().unwrap()).unwrap();
            continue;
        };
        assert!(store.drop_cold(u64::MAX, true).is_none(), "one at a time");
        let private = store.private_bytes();
        let dropper = std::thread::spawn(move || drop_job.run().unwrap());
        for _ in 0..50 {
            step(&mut random, &mut store, &mut model);
        }
        store.publish();
        store.checkpoint_done(helper.join().unwrap()).unwrap();
        for _ in 0..50 {
            step(&mut random, &mut store, &mut model);
        }
        store.publish();
        assert!(store.private_bytes() >= private);
        let done = dropper.join().unwrap();
        store.drop_done(done);
        check(store.view(), &model, &mut random);
        verified(&store);
        if round > 2 {
            checkpoint(&mut store);
            while let Some(job) = store.drop_cold(u64::MAX, true) {
                let done = job.run().unwrap();
                store.drop_done(done);
            }
            check(store.view(), &model, &mut random);
            verified(&store);
            // What was populated in the tail, and three windows around the bitmaps of checkpoints.
            let bound = (8 << 20) + 3 * (64 << 10) + (64 << 10);
            assert!(store.private_bytes() <= bound, "{}", store.private_bytes());
        }
    }
}

#[test]
fn shrinking_moves_the_tail_and_cuts_the_file_under_load() {
    let files = SimFiles::new();
    let mut random = Random::new(31);
    let mut store = Store::open(&files, "data", SPECS, options()).unwrap();
    let mut model = Model::default();
    for _ in 0..10 {
        for _ in 0..600 {
            step(&mut random, &mut store, &mut model);
        }
        store.publish();
    }
    // Long keys bring separators in runs.
    for tree in [PLAIN, VERSIONS] {
        for i in 0..300u32 {
            let mut key = vec![b'm'; 1100];
            key.extend_from_slice(&i.to_be_bytes());
            store.insert(tree, &key, &[4; 3000]);
            model.trees[tree].insert(model_key(tree, &key), vec![4; 3000]);
        }
    }
    store.publish();
    checkpoint(&mut store);
    for tree in 0..3 {
        let keys: Vec<_> = model.trees[tree].keys().filter(|_| !random.one_in(4)).cloned().collect();
        for key in keys {
            store.remove(tree, &key.1);
            model.trees[tree].remove(&key);
        }
    }
    store.publish();
    checkpoint(&mut store);
    checkpoint(&mut store);
    let reader = store.readers().register();
    let (snapshot, then) = (reader.pin(), model.clone());
    let (before, mapped) = (store.file_bytes(), store.allocated_bytes());
    let mut steps = 0;
    while store.shrink_step() {
        steps += 1;
        for _ in 0..3 {
            step(&mut random, &mut store, &mut model);
        }
        store.publish();
        if steps % 5 == 0 {
            verified(&store);
            checkpoint(&mut store);
        }
    }
    store.publish();
    checkpoint(&mut store);
    checkpoint(&mut store);
    check(snapshot.view(), &then, &mut random);
    drop(snapshot);
    checkpoint(&mut store);
    checkpoint(&mut store);
    checkpoint(&mut store);
    check(store.view(), &model, &mut random);
    verified(&store);
    assert!(
        steps > 0 && store.file_bytes() < before / 2,
        "{steps} steps, {before} became {}",
        store.file_bytes()
    );
    assert!(store.allocated_bytes() < mapped, "what the one pass emptied is cut, whatever came meanwhile");
    assert_eq!(files.bytes("data").unwrap().len() as u64, store.allocated_bytes());
    // The load left a run beyond the line while the pin kept the holes away; a next pass finds none for it, and ends.
    let left = store.file_bytes();
    while store.shrink_step() {}
    store.publish();
    (0..4).for_each(|_| checkpoint(&mut store));
    assert!(!store.is_shrinking() && store.file_bytes() == left, "nothing is left to move");
    drop(store);
    let store = Store::open(&files, "data", SPECS, options()).unwrap();
    check(store.view(), &model, &mut random);
    verified(&store);
}

/// Fills a store to `filled_bytes` in values of a few lengths, and removes all but one entry in `keep_one_in`.
fn thinned(files: &SimFiles, options: Options, filled_bytes: u64, keep_one_in: u64) -> (Store, Model) {
    let mut random = Random::new(77);
    let mut store = Store::open(files, "data", SPECS, options).unwrap();
    let mut model = Model::default();
    let mut number = 0u32;
    while store.used_bytes() < filled_bytes {
        let value = vec![number as u8; [20, 900, 3000, 9000, 50_000][random.below(5) as usize]];
        store.insert(PLAIN, &number.to_be_bytes(), &value);
        model.trees[PLAIN].insert(model_key(PLAIN, &number.to_be_bytes()), value);
        number += 1;
        if number.is_multiple_of(50) {
            store.publish();
        }
    }
    store.publish();
    checkpoint(&mut store);
    for number in 0..number {
        if !random.one_in(keep_one_in) {
            store.remove(PLAIN, &number.to_be_bytes());
            model.trees[PLAIN].remove(&model_key(PLAIN, &number.to_be_bytes()));
        }
    }
    store.publish();
    (store, model)
}

/// What a shrunken store may have beyond what is in use.
fn near(store: &Store) -> u64 {
    store.used_bytes() + store.used_bytes() / 16 + (512 << 10)
}

#[test]
fn an_idle_store_shrinks_to_its_use_within_a_few_checkpoints() {
    let chunks = |chunk_bytes| Options { chunk_bytes, max_chunks: 1024, reserve_bytes: 64 << 10 };
    // Below one chunk, over many, and nearly nothing left in the end.
    for (options, filled_bytes, keep) in
        [(chunks(16 << 20), 8 << 20, 8), (chunks(256 << 10), 8 << 20, 4), (options(), 20 << 20, 500)]
    {
        let files = SimFiles::new();
        let (mut store, model) = thinned(&files, options.clone(), filled_bytes, keep);
        let mut random = Random::new(5);
        // What was removed is free.
        checkpoint(&mut store);
        checkpoint(&mut store);
        while store.shrink_step() {}
        store.publish();
        for _ in 0..4 {
            checkpoint(&mut store);
            verified(&store);
        }
        assert!(!store.is_shrinking());
        assert!(store.file_bytes() <= near(&store), "{} of {}", store.file_bytes(), store.used_bytes());
        assert_eq!(files.bytes("data").unwrap().len() as u64, store.allocated_bytes());
        assert!(!store.shrink_step(), "nothing is left to do");
        check(store.view(), &model, &mut random);
        // The tail's memory went with it.
        assert!(store.private_bytes() <= store.file_bytes(), "{}", store.private_bytes());
        // A start from these metas sees the same size, and the tail is used again.
        let size = store.file_bytes();
        drop(store);
        let mut store = Store::open(&files, "data", SPECS, options).unwrap();
        assert_eq!(store.file_bytes(), size);
        let mut model = model;
        (0..2000).for_each(|_| step(&mut random, &mut store, &mut model));
        store.publish();
        checkpoint(&mut store);
        check(store.view(), &model, &mut random);
        verified(&store);
    }
}

#[test]
fn readers_on_other_threads_see_whole_batches_only() {
    whole_batches(false);
}

/// The gate: what others look at between two batches is not changed while they look.
#[test]
fn readers_on_other_threads_see_whole_batches_only_of_a_writer_in_place() {
    whole_batches(true);
}

fn whole_batches(in_place: bool) {
    const KEYS: u64 = 300;
    let files = SimFiles::new();
    let mut store = Store::open(&files, "data", SPECS, small()).unwrap();
    if in_place {
        store.share_thread();
    }
    let set = |store: &mut Store, batch: u64| {
        for i in 0..KEYS {
            let mut value = vec![batch as u8; 20 + (i * batch % 97) as usize * 60];
            value[..8].copy_from_slice(&batch.to_be_bytes());
            store.insert(PLAIN, &i.to_be_bytes(), &value);
        }
        store.set_stamp([batch; 16]);
        store.publish();
    };
    set(&mut store, 1);
    let stop = Arc::new(AtomicBool::new(false));
    let looks = Arc::new(AtomicU64::new(0));
    let threads: Vec<_> = (0..2)
        .map(|n| {
            let (readers, stop, looks) = (store.readers(), stop.clone(), looks.clone());
            std::thread::spawn(move || {
                let reader = readers.register();
                let mut kept = Vec::new();
                let mut last = 0;
                while !stop.load(Ordering::Relaxed) {
                    let snapshot = reader.pin();
                    let batch = snapshot.stamp()[0];
                    assert!(batch >= last, "time does not run backwards");
                    last = batch;
                    let mut cursor = snapshot.view().cursor(PLAIN);
                    let mut seen = 0;
                    let mut at = cursor.seek_first();
                    while at {
                        let value = cursor.value();
                        assert_eq!(value[..8], batch.to_be_bytes());
                        assert!(value[8..].iter().all(|byte| *byte == batch as u8));
                        seen += 1;
                        at = cursor.next();
                    }
                    assert_eq!(seen, KEYS);
                    looks.fetch_add(1, Ordering::Relaxed);
                    kept.push(snapshot);
                    if in_place {
                        // A pin that stands would send the writer another way.
                        kept.clear();
                    } else if kept.len() > 3 + n {
                        kept.remove(0);
                    }
                }
                for snapshot in kept {
                    let batch = snapshot.stamp()[0];
                    assert_eq!(
                        snapshot.view().get(PLAIN, &0u64.to_be_bytes()).unwrap()[..8],
                        batch.to_be_bytes()
                    );
                }
            })
        })
        .collect();
    let mut batch = 1;
    while looks.load(Ordering::Relaxed) < 300 || batch < 100 {
        batch += 1;
        set(&mut store, batch);
        if batch.is_multiple_of(10) {
            checkpoint(&mut store);
        }
        if batch.is_multiple_of(7)
            && let Some(job) = store.drop_cold(u64::MAX, false)
        {
            let done = job.run().unwrap();
            store.drop_done(done);
        }
    }
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().expect("every reader saw whole batches");
    }
    verified(&store);
    store.publish();
    assert_eq!(store.readers().published(), batch + 2);
}

#[test]
#[should_panic(expected = "neither put back nor discarded")]
fn a_taken_value_does_not_get_lost() {
    let mut store = Store::open(&SimFiles::new(), "data", SPECS, small()).unwrap();
    store.insert(PLAIN, b"a", b"b");
    let _lost = store.take(PLAIN, b"a");
    store.publish();
}

#[test]
#[should_panic(expected = "publish first")]
fn a_cut_does_not_split_a_batch() {
    let mut store = Store::open(&SimFiles::new(), "data", SPECS, small()).unwrap();
    store.insert(PLAIN, b"a", b"b");
    let _ = store.cut();
}
