//! etcd's database file (`bbolt`): what a snapshot that somebody hands in may hold.
//!
//! Laws: opening, checking and walking end, without a panic, whatever the pages say; what the check accepts can be
//! walked, each pair is found by its key, keys ascend, and a copy of it holds the same; an undamaged file holds what was
//! written; memory is bounded by the file.
//!
//! Input: a byte of flags, then either a script of buckets and pairs or nothing but zeros to begin with, then edits
//! ([`crate::damage`]), of which the metas get right checksums when a flag says so.

use std::io::Cursor;

use bbolt::{Database, Entry, Writer};

use crate::choices::{Choices, push_block};
use crate::damage;
use crate::meter::bounded;

/// One bucket: its name and pairs, or what it nests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Content {
    name: Vec<u8>,
    pairs: Vec<(Vec<u8>, Vec<u8>)>,
    nested: usize,
}

fn write(contents: &[Content]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(Cursor::new(&mut bytes)).expect("memory takes it");
    for content in contents {
        writer.bucket(&content.name).expect("names differ");
        for (key, value) in &content.pairs {
            writer.put(key, value).expect("keys ascend");
        }
    }
    writer.finish().expect("memory takes it");
    bytes
}

/// Written files stay below this, bytes: damage anywhere in them is then a few bytes of input.
const CONTENT_BYTES_MAX: usize = 256 << 10;

fn script(choices: &mut Choices<'_>) -> Vec<Content> {
    let mut contents: Vec<Content> = Vec::new();
    let mut left = CONTENT_BYTES_MAX;
    for bucket in 0..choices.below(5) {
        let mut name = choices.block().to_vec();
        name.push(bucket as u8);
        let mut pairs = std::collections::BTreeMap::new();
        for _ in 0..choices.below(16) {
            let (repeat, key, value) = (choices.below(32), choices.block(), choices.block());
            for copy in 0..=repeat as u8 {
                let size = key.len() + value.len() * (1 + repeat) + 32;
                if size > left {
                    break;
                }
                left -= size;
                pairs.insert([key, &[copy]].concat(), value.repeat(1 + repeat));
            }
        }
        contents.push(Content { name, pairs: pairs.into_iter().collect(), nested: 0 });
    }
    contents.sort_by(|a, b| a.name.cmp(&b.name));
    contents
}

/// Right checksums for metas that carry the magic number, wherever a page size puts them.
fn seal(bytes: &mut [u8]) {
    let places = std::iter::once(0).chain((0..7).map(|shift| 1024 << shift));
    for at in places {
        let Some(meta) = bytes.get_mut(at + 16..at + 80) else { continue };
        if meta[..4] == 0xED0C_DAED_u32.to_le_bytes() {
            let sum = meta[..56].iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
            });
            meta[56..].copy_from_slice(&sum.to_le_bytes());
        }
    }
}

/// Entries that are read of a file, at most: pages of one that is not sound may be reached over and over.
fn entries_max(bytes: &[u8]) -> usize {
    bytes.len() / 16 + 16
}

/// Everything at the top, if all of it can be read, and whether the walk ended within `left` entries.
fn read(bytes: &[u8], mut left: usize) -> Result<(Vec<Content>, bool), bbolt::Error> {
    let database = Database::open(bytes)?;
    let mut contents = Vec::new();
    for (name, bucket) in database.buckets()? {
        let mut content = Content { name, ..Content::default() };
        let mut cursor = database.cursor(&bucket)?;
        while let Some(entry) = cursor.next()? {
            if left == 0 {
                return Ok((contents, false));
            }
            left -= 1;
            match entry {
                Entry::Pair { key, value } => content.pairs.push((key.to_vec(), value.to_vec())),
                Entry::Bucket { .. } => content.nested += 1,
            }
        }
        contents.push(content);
    }
    Ok((contents, true))
}

fn accepted(bytes: &[u8]) {
    let database = Database::open(bytes).expect("it was opened before");
    let report = database.check().expect("it was checked before");
    let Ok(buckets) = database.buckets() else { return };
    let (contents, ended) = read(bytes, entries_max(bytes)).expect("what the check accepts can be walked");
    assert!(ended, "a sound file has no more entries than fit in it");
    let pairs: u64 = contents.iter().map(|content| content.pairs.len() as u64).sum();
    assert!(pairs <= report.pairs && contents.len() as u64 <= report.buckets);
    for ((name, bucket), content) in buckets.iter().zip(&contents) {
        let keys = content.pairs.windows(2);
        assert!(keys.clone().all(|pair| pair[0].0 < pair[1].0), "keys ascend");
        assert_eq!(database.bucket(name).expect("readable").as_ref(), Some(bucket));
        for (key, value) in content.pairs.iter().take(50) {
            assert!(database.get(bucket, key).expect("readable").as_ref() == Some(value), "{key:02x?}");
        }
    }
    let whole = contents.iter().all(|content| content.nested == 0);
    let writable = contents.iter().all(|content| !content.name.is_empty())
        && contents.iter().flat_map(|content| &content.pairs).all(|(key, _)| !key.is_empty());
    if whole && writable {
        assert_eq!(pairs, report.pairs);
        let copy = write(&contents);
        let (back, _) = read(&copy, usize::MAX).expect("our own file is read");
        assert!(back == contents, "a copy holds the same");
    }
}

pub fn check(input: &[u8]) {
    let mut choices = Choices::new(input);
    let flags = choices.byte();
    let contents = if flags & 1 == 0 { script(&mut choices) } else { Vec::new() };
    let written = if flags & 1 == 0 { write(&contents) } else { vec![0; 6 * 1024] };
    let mut bytes = written.clone();
    while !choices.is_empty() {
        damage::edit(&mut choices, &mut bytes);
    }
    if flags & 2 != 0 {
        seal(&mut bytes);
    }
    if bytes == written && flags & 1 == 0 {
        let (back, _) = read(&bytes, usize::MAX).expect("an undamaged file is read");
        assert!(back == contents, "an undamaged file holds what was written");
        Database::open(&bytes[..]).expect("whole").check().expect("an undamaged file is sound");
    }
    // A walk keeps what it has read, here; the reader itself keeps a path of pages.
    let sound = bounded((256 << 10) + 40 * bytes.len(), || {
        let _ = read(&bytes, entries_max(&bytes));
        Database::open(&bytes[..]).and_then(|database| database.check()).is_ok()
    });
    if sound {
        accepted(&bytes);
    }
}

pub fn seeds() -> Vec<(String, Vec<u8>)> {
    type Bucket<'a> = (&'a [u8], &'a [(u8, &'a [u8], &'a [u8])]);
    let script = |buckets: &[Bucket<'_>]| {
        let mut out = vec![buckets.len() as u8];
        for (name, pairs) in buckets {
            push_block(&mut out, name);
            out.push(pairs.len() as u8);
            for (repeat, key, value) in *pairs {
                out.push(*repeat);
                push_block(&mut out, key);
                push_block(&mut out, value);
            }
        }
        out
    };
    let small = script(&[
        (b"key", &[(0, b"a", b"1"), (3, b"b", b"22")]),
        (b"meta", &[]),
        (b"lease", &[(0, b"x", b"")]),
    ]);
    let long = [b'v'; 120];
    let large = script(&[(b"key", &[(31, b"long", &long), (31, b"more", &long), (9, b"last", b"tail")])]);
    let with = |flags: u8, script: &[u8], edits: &[u8]| [&[flags], script, edits].concat();
    // Page, offset and bytes of the edits are those of `damage::edit`: here numbers in a meta and in a leaf.
    vec![
        ("seed-small".into(), with(0, &small, &[])),
        ("seed-large".into(), with(0, &large, &[])),
        ("seed-meta-root".into(), with(2, &small, &[2, 0, 32, 3, 3, 0, 0, 0, 0, 0, 0, 0])),
        ("seed-leaf-count".into(), with(2, &large, &[2, 2, 10, 1, 255, 0])),
        ("seed-swapped".into(), with(2, &large, &[5, 3, 4, 5, 4, 2])),
        ("seed-cut".into(), with(0, &large, &[7, 3, 0])),
    ]
}
