//! Every target over its corpus, and over seeded mutations of it: the fuzz targets as ordinary tests.
//!
//! `HOSTILE_MUTATIONS=n` multiplies the number of mutations, `HOSTILE_SEED=s` chooses others.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use base::Random;
use mainstay_hostile as hostile;

/// All corpora together, bytes: they are read by people and cloned by everybody.
const CORPUS_BYTES: u64 = 300 << 10;

fn corpus() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus")
}

/// The files of one target by name.
fn files(name: &str) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(corpus().join(name)).expect("the target has a corpus") {
        let path = entry.expect("a readable folder").path();
        let name = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
        files.insert(name, std::fs::read(&path).expect("a readable file"));
    }
    assert!(!files.is_empty(), "{name} has an empty corpus");
    files
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().map_or(default, |text| text.parse().expect("a number"))
}

fn try_input(target: &hostile::Target, input: &[u8], of: &str) {
    if catch_unwind(AssertUnwindSafe(|| (target.check)(input))).is_err() {
        let path = std::env::temp_dir().join(format!("hostile-{}-{:08x}", target.name, base::crc32c(input)));
        std::fs::write(&path, input).expect("room for the input");
        panic!("{} breaks a law with an input made of {of}; it stands in {}", target.name, path.display());
    }
}

fn run(name: &str) {
    let target = hostile::target(name).expect("a target of this name");
    let files = files(name);
    for (file, input) in &files {
        try_input(target, input, file);
    }
    let inputs: Vec<(&String, &Vec<u8>)> = files.iter().collect();
    let mut random = Random::new(number("HOSTILE_SEED", 1));
    for _ in 0..u64::from(target.mutations) * number("HOSTILE_MUTATIONS", 1) {
        let (file, input) = inputs[random.below(inputs.len() as u64) as usize];
        let (_, other) = inputs[random.below(inputs.len() as u64) as usize];
        let mutated = hostile::mutate::mutate(&mut random, input, other, target.longest_bytes);
        try_input(target, &mutated, file);
    }
}

macro_rules! each {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            run(stringify!($name));
        })*

        #[test]
        fn every_target_is_run_here() {
            let mut here = vec![$(stringify!($name)),*];
            here.sort_unstable();
            let all: Vec<&str> = hostile::TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(here, all);
        }
    };
}

each! { bbolt cells config connection grpc hpack http1 import log pages requests schema }

#[test]
fn the_corpus_is_small_and_up_to_date() {
    let mut total = 0;
    for target in hostile::TARGETS {
        let files = files(target.name);
        total += files.values().map(|bytes| bytes.len() as u64).sum::<u64>();
        for (name, bytes) in (target.seeds)() {
            let there = files.get(&name).unwrap_or_else(|| panic!("{}/{name} is missing", target.name));
            assert!(
                *there == bytes,
                "{}/{name} is not what its encoder makes today: see fuzz/README.md, \"Corpus\"",
                target.name
            );
        }
    }
    assert!(total <= CORPUS_BYTES, "the corpus has {total} bytes");
}

/// Each fuzz target of the folder is one of ours, and the other way round.
#[test]
fn the_fuzz_folder_has_the_same_targets() {
    let folder = corpus().join("../fuzz_targets");
    let mut there: Vec<String> = std::fs::read_dir(folder)
        .expect("the fuzz targets")
        .map(|entry| entry.expect("a readable folder").path())
        .map(|path| path.file_stem().expect("a file has a name").to_string_lossy().into_owned())
        .collect();
    there.sort_unstable();
    let all: Vec<&str> = hostile::TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(there, all);
}
