//! A model of the trees (one BTreeMap each), and seeded operations on both.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::cmp::Ordering;
use std::collections::BTreeMap;

use base::Random;
use mainstay_tree as tree;
use tree::{KeyOrder, Options, Stamp, Store, TreeSpec, View, verify};

pub const SUFFIX: usize = 4;
pub static SPECS: &[TreeSpec] = &[
    TreeSpec { name: "plain", order: KeyOrder::Bytes },
    TreeSpec { name: "versions", order: KeyOrder::Suffixed(SUFFIX) },
    TreeSpec { name: "log", order: KeyOrder::Bytes },
];
pub const PLAIN: usize = 0;
pub const VERSIONS: usize = 1;
pub const LOG: usize = 2;

/// Small chunks, so that images stay small and chunk edges are met often.
pub fn options() -> Options {
    Options { chunk_bytes: 1 << 20, max_chunks: 1024, reserve_bytes: 64 << 10 }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelKey(usize, pub Vec<u8>);

impl Ord for ModelKey {
    fn cmp(&self, other: &ModelKey) -> Ordering {
        let split = |key: &ModelKey| {
            let at = key.1.len().saturating_sub(key.0);
            (key.1[..at].to_vec(), key.1[at..].to_vec())
        };
        if self.0 == 0 { self.1.cmp(&other.1) } else { split(self).cmp(&split(other)) }
    }
}

impl PartialOrd for ModelKey {
    fn partial_cmp(&self, other: &ModelKey) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    pub trees: [BTreeMap<ModelKey, Vec<u8>>; 3],
    pub stamp: Stamp,
    /// The longest value that steps insert: a run must fit a chunk.
    pub value_max: u64,
}

impl Default for Model {
    fn default() -> Model {
        Model { trees: Default::default(), stamp: Stamp::default(), value_max: 200_000 }
    }
}

pub fn model_key(tree: usize, key: &[u8]) -> ModelKey {
    ModelKey(if tree == VERSIONS { SUFFIX } else { 0 }, key.to_vec())
}

pub fn random_key(random: &mut Random, tree: usize) -> Vec<u8> {
    if tree == LOG {
        return random.below(4000).to_be_bytes().to_vec();
    }
    let mut key = match random.below(40) {
        0 => vec![b'x'; random.below(6000) as usize],
        1 => {
            let mut key = vec![b'y'; 900 + random.below(300) as usize];
            key.push(random.below(256) as u8);
            key
        }
        2..=9 => (0..random.below(5)).map(|_| random.below(3) as u8).collect(),
        10..=29 => {
            format!("/registry/pods/namespace-{}/pod-{}", random.below(6), random.below(400)).into_bytes()
        }
        _ => format!("k{}", random.below(900)).into_bytes(),
    };
    if tree == VERSIONS {
        key.extend_from_slice(&(random.below(30) as u32).to_be_bytes());
    }
    key
}

pub fn random_value(random: &mut Random, max: u64) -> Vec<u8> {
    let len = match random.below(60) {
        0 => random.below(max),
        1..=4 => random.below(12_000),
        5..=9 => 1900 + random.below(300),
        10..=20 => 0,
        _ => random.below(700),
    };
    let byte = random.below(256) as u8;
    let mut value = vec![byte; len as usize];
    let end = value.len().min(16);
    random.fill(&mut value[..end]);
    value
}

/// One change on both.
pub fn step(random: &mut Random, store: &mut Store, model: &mut Model) {
    let tree = random.below(3) as usize;
    let key = random_key(random, tree);
    let at = model_key(tree, &key);
    match random.below(20) {
        0..=9 => {
            let value = random_value(random, model.value_max);
            store.insert(tree, &key, &value);
            model.trees[tree].insert(at, value);
        }
        10..=11 => {
            let value = random_value(random, model.value_max);
            let old = store.replace(tree, &key, &value);
            let expected = model.trees[tree].insert(at, value);
            assert_eq!(old.as_ref().map(|taken| store.taken_bytes(taken).to_vec()), expected);
            if let Some(taken) = old {
                if random.one_in(3) {
                    store.discard(taken);
                } else {
                    let other = random_key(random, VERSIONS);
                    store.insert_taken(VERSIONS, &other, taken);
                    model.trees[VERSIONS].insert(model_key(VERSIONS, &other), expected.unwrap());
                }
            }
        }
        12 => {
            let taken = store.take(tree, &key);
            let expected = model.trees[tree].remove(&at);
            assert_eq!(taken.as_ref().map(|taken| store.taken_bytes(taken).to_vec()), expected);
            if let Some(taken) = taken {
                store.insert_taken(PLAIN, &key, taken);
                model.trees[PLAIN].insert(model_key(PLAIN, &key), expected.unwrap());
            }
        }
        13..=17 => {
            // An existing key, so that removals keep up with insertions.
            let present = model.trees[tree].range(at.clone()..).next().map(|(key, _)| key.clone());
            let at = present.unwrap_or(at);
            assert_eq!(store.remove(tree, &at.1), model.trees[tree].remove(&at).is_some());
        }
        18 => {
            let mut stamp = *store.stamp();
            stamp[random.below(16) as usize] = random.next_u64();
            store.set_stamp(stamp);
            model.stamp = stamp;
        }
        _ => {
            // An appending run, and now and then the end of the log goes as a whole.
            let next = model.trees[LOG]
                .last_key_value()
                .map_or(0, |(key, _)| u64::from_be_bytes(key.1[..8].try_into().unwrap()) + 1);
            for i in 0..random.below(40) {
                let key = (next + i).to_be_bytes();
                store.insert(LOG, &key, b"entry");
                model.trees[LOG].insert(model_key(LOG, &key), b"entry".to_vec());
            }
        }
    }
}

/// The whole content, both ways, and some probes.
pub fn check(view: View, model: &Model, random: &mut Random) {
    assert_eq!(view.stamp(), &model.stamp);
    for (tree, entries) in model.trees.iter().enumerate() {
        assert_eq!(view.len(tree), entries.len() as u64, "tree {tree}");
        let mut cursor = view.cursor(tree);
        assert!(!cursor.valid() && !cursor.next() && !cursor.prev());
        let mut at = cursor.seek_first();
        for (key, value) in entries {
            assert!(at, "tree {tree} ends before {:?}", key.1);
            assert!(cursor.key() == key.1 && cursor.value() == value, "tree {tree} at {:?}", key.1);
            at = cursor.next();
        }
        assert!(!at && !cursor.valid());
        let mut at = cursor.seek_last();
        for key in entries.keys().rev() {
            assert!(at && cursor.key() == key.1, "tree {tree} backwards at {:?}", key.1);
            at = cursor.prev();
        }
        assert!(!at);
    }
    for _ in 0..40 {
        probe(view, model, random);
    }
}

pub fn probe(view: View, model: &Model, random: &mut Random) {
    let tree = random.below(3) as usize;
    let entries = &model.trees[tree];
    let mut key = random_key(random, tree);
    if random.one_in(8) {
        key.truncate(random.below(4) as usize);
    }
    let at = model_key(tree, &key);
    assert_eq!(view.get(tree, &key), entries.get(&at).map(Vec::as_slice), "tree {tree} {key:?}");
    assert_eq!(view.rank(tree, &key), entries.range(..at.clone()).count() as u64, "tree {tree} {key:?}");
    let mut cursor = view.cursor(tree);
    let next = entries.range(at.clone()..).next();
    assert_eq!(cursor.seek(&key), next.is_some());
    if let Some((next, value)) = next {
        assert_eq!((cursor.key(), cursor.value()), (&next.1[..], &value[..]));
    }
    assert_eq!(cursor.seek_exact(&key), entries.contains_key(&at));
    let before = entries.range(..at).next_back();
    assert_eq!(cursor.seek_before(&key), before.is_some());
    if let Some((before, _)) = before {
        assert_eq!(cursor.key(), before.1);
        assert_eq!(cursor.next(), next.is_some());
        assert_eq!(cursor.valid().then(|| cursor.key()), next.map(|(key, _)| &key.1[..]));
    }
}

pub fn verified(store: &Store) -> tree::VerifyReport {
    verify(store).unwrap_or_else(|error| panic!("{error}"))
}

/// Cuts, runs and reports a checkpoint.
pub fn checkpoint(store: &mut Store) {
    let job = store.cut().expect("no checkpoint is running");
    let done = job.run().expect("the simulated device works");
    store.checkpoint_done(done).expect("the simulated device works");
}
