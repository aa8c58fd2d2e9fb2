//! The data file: metas, bitmaps and pages (`tree`).
//!
//! Laws: opening refuses or opens, `verify` accepts or names a page, and neither panics; without false checksums what
//! `verify` accepts is what the checkpoint that was opened held, of which the newest is there as long as its meta and
//! all that it reaches are; what `verify` accepts, forged or not, can be read in every way, changed, and made durable.
//!
//! Input: a script of insertions, removals and checkpoints, then edits ([`crate::damage`]) of the file.

use base::crc32c;
use disk::SimFiles;
use tree::{KeyOrder, OpenError, Options, Store, TreeSpec, verify};

use crate::choices::{Choices, push_block};
use crate::damage::{self, Image, put_u32, u32_at};
use crate::meter::bounded;

const FILE: &str = "data";
const PAGE: usize = base::limits::BLOCK_BYTES;
static SPECS: &[TreeSpec] = &[
    TreeSpec { name: "plain", order: KeyOrder::Bytes },
    TreeSpec { name: "versions", order: KeyOrder::Suffixed(4) },
];

fn open(files: &SimFiles) -> Result<Store, OpenError> {
    let options = Options { chunk_bytes: 64 << 10, max_chunks: 512, reserve_bytes: 0 };
    Store::open(files, FILE, SPECS, options)
}

/// All that a store holds.
type Content = (tree::Stamp, Vec<Vec<(Vec<u8>, Vec<u8>)>>);

fn content(store: &Store) -> Content {
    let view = store.view();
    let dump = |tree| {
        let mut all = Vec::new();
        let mut cursor = view.cursor(tree);
        let mut more = cursor.seek_first();
        while more {
            all.push((cursor.key().to_vec(), cursor.value().to_vec()));
            more = cursor.next();
        }
        all
    };
    (*store.stamp(), (0..SPECS.len()).map(dump).collect())
}

fn checkpoint(store: &mut Store) {
    store.publish();
    let job = store.cut().expect("no checkpoint runs");
    let done = job.run().expect("no fault");
    store.checkpoint_done(done).expect("memory does not fail");
}

fn step(store: &mut Store, choices: &mut Choices<'_>) -> bool {
    store.reserve(2 << 20).expect("the device is large");
    let how = choices.byte();
    let tree = usize::from(how >> 4 & 1);
    let count = if how & 32 == 0 { 1 } else { choices.below(128) };
    let (key, value) = (choices.block(), choices.block());
    let mut value = if how & 64 == 0 { value.to_vec() } else { value.repeat(90) };
    let mut key = if how & 128 == 0 { key.to_vec() } else { key.repeat(300) };
    // Longer ones are refused before they come to a store.
    value.truncate(store.longest_bytes());
    key.truncate(store.longest_bytes() - size_of::<u32>());
    for n in 0..=count as u32 {
        let key = [&key[..], &n.wrapping_mul(0x9e37_79b9).to_be_bytes()].concat();
        match how & 7 {
            0 | 1 => store.insert(tree, &key, &value),
            2 => drop(store.remove(tree, &key)),
            3 => {
                if let Some(taken) = store.take(tree, &key) {
                    store.insert_taken(1 - tree, &key, taken);
                }
            }
            _ => {}
        }
    }
    match how & 7 {
        4 => drop(store.publish()),
        5 => store.set_stamp([u64::from(how); tree::STAMP_WORDS]),
        6 | 7 => {
            checkpoint(store);
            return true;
        }
        _ => {}
    }
    false
}

/// The bytes that the checksum of a page, or of a run that begins with it, stands for.
fn sealed(bytes: &[u8], page: usize) -> Option<std::ops::Range<usize>> {
    let at = page * PAGE;
    let length = match *bytes.get(at + 16)? {
        1 | 2 => PAGE,
        3 => 32 + u32_at(bytes, at + 24) as usize,
        _ => return None,
    };
    let end = at.checked_add(length).filter(|&end| end <= bytes.len())?;
    Some(at + 4..end)
}

/// The pages that begin something with a checksum: all but metas, bitmaps, and the further pages of runs.
fn heads(bytes: &[u8]) -> Vec<usize> {
    let right = |page: &usize| {
        sealed(bytes, *page).is_some_and(|range| crc32c(&bytes[range]) == u32_at(bytes, page * PAGE))
            && u32_at(bytes, page * PAGE + 4) == *page as u32
    };
    (2..bytes.len() / PAGE).filter(right).collect()
}

/// Right checksums for all that carries one, and pages' own numbers.
fn seal(bytes: &mut [u8], heads: &[usize]) {
    let pages = bytes.len() / PAGE;
    for &page in heads {
        if let Some(range) = sealed(bytes, page) {
            put_u32(bytes, page * PAGE + 4, page as u32);
            let crc = crc32c(&bytes[range]);
            put_u32(bytes, page * PAGE, crc);
        }
    }
    for slot in 0..2.min(pages) {
        let at = slot * PAGE;
        if bytes[at..at + 8] != *b"mnst.tre" {
            continue;
        }
        let from = (u32_at(bytes, at + 48) as usize).saturating_mul(PAGE);
        let to = from.saturating_add((u32_at(bytes, at + 52) as usize).saturating_mul(PAGE));
        if let Some(bitmap) = bytes.get(from..to).filter(|bitmap| !bitmap.is_empty()) {
            let crc = crc32c(bitmap);
            put_u32(bytes, at + 56, crc);
        }
        let crc = crc32c(&bytes[at + 16..at + PAGE]);
        put_u32(bytes, at + 12, crc);
    }
}

pub fn check(input: &[u8]) {
    bounded(96 << 20, || run(input));
}

fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    let flags = choices.byte();
    let forged = flags & 1 != 0;
    let files = SimFiles::new();
    let mut store = open(&files).expect("a new file");
    // By sequence: the empty file has 1.
    let mut held = vec![content(&store)];
    for _ in 0..choices.below(24) {
        if step(&mut store, &mut choices) {
            held.push(content(&store));
        }
    }
    checkpoint(&mut store);
    held.push(content(&store));
    verify(&store).expect("our own store is sound");
    drop(store);

    let whole = damage::image(&files, "");
    let mut image = whole.clone();
    let bytes = image.get_mut(FILE).expect("the file is there");
    while !choices.is_empty() {
        damage::edit(&mut choices, bytes);
    }
    if forged {
        let heads = heads(&whole[FILE]);
        seal(bytes, &heads);
        let mut same = whole[FILE].clone();
        seal(&mut same, &heads);
        let empty = held[held.len() - 1].1.iter().all(|entries| entries.is_empty());
        assert!(same == whole[FILE] && (empty || !heads.is_empty()), "seals are what a checkpoint writes");
    }
    let damaged = damage::world(&image);
    let store = match open(&damaged) {
        Ok(store) => store,
        Err(OpenError::Io { source, .. }) => panic!("no call failed, and yet: {source}"),
        Err(error) => {
            assert!(image != whole, "an undamaged file opens: {error}");
            return;
        }
    };
    let sequence = store.report().sequence;
    if image == whole {
        assert_eq!(sequence as usize, held.len(), "the newest checkpoint is opened");
        verify(&store).expect("an undamaged file is sound");
    }
    if verify(&store).is_err() {
        return;
    }
    if !forged {
        let expected = held.get(sequence as usize - 1).expect("a checkpoint that was made");
        assert!(content(&store) == *expected, "checkpoint {sequence} holds something else");
        assert!(sequence as usize + 2 > held.len(), "of the newest two");
        if newest_meta(&image, held.len() as u64) == newest_meta(&whole, held.len() as u64) {
            assert!(sequence as usize == held.len() || store.report().unreadable.is_some());
        }
    }
    goes_on(store, &damaged);
}

fn newest_meta(image: &Image, sequence: u64) -> Option<&[u8]> {
    let at = (sequence % 2) as usize * PAGE;
    image[FILE].get(at..at + PAGE)
}

/// What `verify` accepts can be read in every way, changed, and made durable.
fn goes_on(mut store: Store, files: &SimFiles) {
    let (stamp, trees) = content(&store);
    for (tree, entries) in trees.iter().enumerate() {
        let view = store.view();
        assert_eq!(view.len(tree), entries.len() as u64);
        for (position, (key, value)) in entries.iter().enumerate().step_by(1 + entries.len() / 40) {
            assert!(view.get(tree, key) == Some(&value[..]), "a key that is there is found");
            assert_eq!(view.rank(tree, key), position as u64);
            let mut cursor = view.cursor(tree);
            assert!(cursor.seek(key) && cursor.key() == &key[..]);
        }
    }
    store.reserve(4 << 20).expect("the device is large");
    let mut expected = trees;
    for (tree, entries) in expected.iter_mut().enumerate() {
        let removed: Vec<Vec<u8>> = entries.iter().step_by(3).map(|(key, _)| key.clone()).collect();
        for key in &removed {
            assert!(store.remove(tree, key));
        }
        entries.retain(|(key, _)| !removed.contains(key));
    }
    store.set_stamp(stamp);
    checkpoint(&mut store);
    checkpoint(&mut store);
    verify(&store).expect("a changed store is sound");
    assert!(content(&store).1 == expected, "a third is gone and nothing else");
    drop(store);
    let store = open(files).expect("what was made durable opens");
    assert!(content(&store).1 == expected, "it is durable");
}

pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let step = |how: u8, count: Option<u8>, key: &[u8], value: &[u8]| {
        let mut out = vec![how];
        out.extend(count);
        push_block(&mut out, key);
        push_block(&mut out, value);
        out
    };
    let (many, long_value, long_key, versions) = (32, 64, 128, 16);
    let steps = [
        step(many, Some(100), b"/registry/pods/", &[b'v'; 60]),
        step(long_value, None, b"large", &[b'x'; 200]),
        step(6, None, b"", b""),
        step(many | versions, Some(60), b"key", &[b'w'; 90]),
        step(long_key, None, b"name", b"v"),
        step(3, None, b"large", b""),
        step(2 | many, Some(20), b"/registry/pods/", b""),
        step(5, None, b"", b""),
    ];
    let count = steps.len() as u8;
    let with = |flags: u8, edits: &[u8]| [&[flags, count], &steps.concat()[..], edits].concat();
    vec![
        ("seed-whole".into(), with(0, &[])),
        ("seed-flipped-leaf".into(), with(0, &[0, 4, 100, 1])),
        ("seed-flipped-meta".into(), with(0, &[0, 1, 20, 1])),
        ("seed-zeroed-page".into(), with(0, &[4, 6, 2])),
        ("seed-forged-count".into(), with(1, &[2, 4, 18, 1, 255, 255])),
        ("seed-forged-root".into(), with(1, &[2, 1, 192, 2, 200, 0, 0, 0])),
        ("seed-forged-offset".into(), with(1, &[2, 5, 44, 1, 255, 15])),
        ("seed-swapped".into(), with(1, &[5, 4, 5, 5, 8, 3])),
        ("seed-cut".into(), with(0, &[7, 7, 0])),
    ]
}
