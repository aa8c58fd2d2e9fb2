//! The trees against BTreeMaps: random changes, snapshots that must not change, checkpoints and restarts.

mod common;

use base::Random;
use common::*;
use disk::SimFiles;
use mainstay_tree as tree;
use tree::Store;

#[test]
fn trees_equal_their_models_and_snapshots_hold_still() {
    for seed in 0..6 {
        let mut random = Random::new(seed);
        let files = SimFiles::new();
        let mut store = Store::open(&files, "data", SPECS, options()).unwrap();
        if seed % 2 == 1 {
            store.share_thread();
        }
        let mut model = Model::default();
        let reader = store.readers().register();
        let mut held = Vec::new();
        for batch in 0..120 {
            for _ in 0..random.below(60) {
                step(&mut random, &mut store, &mut model);
            }
            if batch % 10 == 0 {
                check(store.view(), &model, &mut random);
            }
            let number = store.publish();
            if random.one_in(4) {
                let snapshot = reader.pin();
                assert_eq!(snapshot.publication(), number);
                assert_eq!(snapshot.stamp(), &model.stamp);
                held.push((snapshot, model.clone()));
            }
            if !held.is_empty() && random.one_in(4) {
                let (snapshot, then) = held.swap_remove(random.below(held.len() as u64) as usize);
                check(snapshot.view(), &then, &mut random);
            }
            if random.one_in(12) {
                checkpoint(&mut store);
            }
            if batch % 20 == 0 {
                let report = verified(&store);
                assert_eq!(report.entries, model.trees.iter().map(|t| t.len() as u64).collect::<Vec<_>>());
            }
        }
        for (snapshot, then) in &held {
            check(snapshot.view(), then, &mut random);
            tree::verify_view(snapshot.view()).unwrap();
        }
        drop(held);
        // Down to nothing, through all merges.
        for tree in 0..3 {
            let mut keys: Vec<Vec<u8>> = model.trees[tree].keys().map(|key| key.1.clone()).collect();
            while !keys.is_empty() {
                let key = keys.swap_remove(random.below(keys.len() as u64) as usize);
                assert!(store.remove(tree, &key) && !store.remove(tree, &key));
                model.trees[tree].remove(&model_key(tree, &key));
                if keys.len().is_multiple_of(97) {
                    verified(&store);
                    probe(store.view(), &model, &mut random);
                }
            }
        }
        store.publish();
        assert_eq!(store.used_bytes(), 0, "an empty store uses no page");
        checkpoint(&mut store);
        checkpoint(&mut store);
        let report = verified(&store);
        assert_eq!((report.pages, report.waiting), (0, 0), "and nothing waits once both metas are empty");
    }
}

#[test]
fn a_restart_finds_the_last_checkpoint_exactly() {
    for seed in 0..4 {
        let mut random = Random::new(100 + seed);
        let files = SimFiles::new();
        let mut model = Model::default();
        let mut durable = model.clone();
        let mut store = Store::open(&files, "data", SPECS, options()).unwrap();
        assert!(store.report().created);
        for _ in 0..40 {
            for _ in 0..random.below(80) {
                step(&mut random, &mut store, &mut model);
            }
            store.publish();
            if random.one_in(2) {
                let before = *store.durable_stamp();
                checkpoint(&mut store);
                durable = model.clone();
                assert_eq!((store.older_stamp(), store.durable_stamp()), (Some(&before), &model.stamp));
                assert_eq!(store.dirty_bytes(), 0);
            }
            if random.one_in(3) {
                drop(store);
                store = Store::open(&files, "data", SPECS, options()).unwrap();
                let report = store.report();
                assert!(!report.created && report.unreadable.is_none() && report.bitmap_rebuilt.is_none());
                model = durable.clone();
                check(store.view(), &model, &mut random);
                verified(&store);
            }
        }
    }
}

#[test]
fn checkpoints_run_beside_the_writer() {
    let mut random = Random::new(77);
    let files = SimFiles::new();
    let mut store = Store::open(&files, "data", SPECS, options()).unwrap();
    store.share_thread();
    let mut model = Model::default();
    for _ in 0..30 {
        for _ in 0..100 {
            step(&mut random, &mut store, &mut model);
        }
        store.publish();
        let at_cut = model.clone();
        let job = store.cut().unwrap();
        assert!(store.cut().is_none(), "one at a time");
        let helper = std::thread::spawn(move || job.run().unwrap());
        for _ in 0..5 {
            for _ in 0..20 {
                step(&mut random, &mut store, &mut model);
            }
            store.publish();
            verified(&store);
        }
        let stamp = store.checkpoint_done(helper.join().unwrap()).unwrap();
        assert_eq!(stamp, at_cut.stamp);
        let other = Store::open(&files.image(), "data", SPECS, options()).unwrap();
        check(other.view(), &at_cut, &mut random);
        check(store.view(), &model, &mut random);
    }
}

#[test]
fn huge_keys_and_values_work_in_every_order() {
    let mut random = Random::new(5);
    let files = SimFiles::new();
    let options = tree::Options { chunk_bytes: 4 << 20, ..options() };
    let mut store = Store::open(&files, "data", SPECS, options.clone()).unwrap();
    let mut model = Model::default();
    for tree in [PLAIN, VERSIONS] {
        for i in 0..40u32 {
            // They differ in the last bytes only, so separators are as long as the keys.
            let mut key = vec![b'k'; [2 << 20, 5000, 1001, 70_000][i as usize % 4]];
            key.extend_from_slice(&(i * 7 % 40).to_be_bytes());
            let value = vec![i as u8; if i % 5 == 0 { 2 << 20 } else { 10 }];
            store.insert(tree, &key, &value);
            model.trees[tree].insert(model_key(tree, &key), value);
        }
        for i in 0..600u32 {
            let mut key = vec![b'm'; if i % 2 == 0 { 980 } else { 1100 }];
            key.extend_from_slice(&(i * 311 % 600).to_be_bytes());
            store.insert(tree, &key, b"");
            model.trees[tree].insert(model_key(tree, &key), Vec::new());
        }
    }
    check(store.view(), &model, &mut random);
    assert!(verified(&store).levels >= 3, "separators by run fill branches too");
    store.publish();
    checkpoint(&mut store);
    let mut store = Store::open(&files, "data", SPECS, options).unwrap();
    check(store.view(), &model, &mut random);
    verified(&store);
    for tree in [PLAIN, VERSIONS] {
        for key in std::mem::take(&mut model.trees[tree]).into_keys() {
            assert!(store.remove(tree, &key.1));
        }
    }
    assert_eq!(store.used_bytes(), 0, "runs of separators and keys go with their cells");
}

#[test]
fn appends_fill_pages_and_ascending_runs_inside_do_too() {
    let files = SimFiles::new();
    let mut store = Store::open(&files, "data", SPECS, options()).unwrap();
    for i in 0..50_000u64 {
        store.insert(LOG, &i.to_be_bytes(), b"some forty bytes of a change's own content");
    }
    let appended = verified(&store);
    assert!(appended.fill_percent >= 95, "{appended:?}");
    store.publish();
    // Ascending keys of one prefix between two others.
    store.insert(PLAIN, b"a", b"");
    store.insert(PLAIN, b"z", b"");
    for i in 0..50_000u64 {
        store.insert(PLAIN, format!("m{i:08}").as_bytes(), b"some forty bytes of a change's own content");
    }
    let both = verified(&store);
    assert!(both.fill_percent >= 90, "{both:?}");
}
