//! What is written is what is read; what is damaged is an error, never a panic and never a loop.

use std::collections::BTreeMap;
use std::io::Cursor as Memory;

use base::Random;
use mainstay_bbolt::{Bucket, Database, Entry, Error, FileSource, PAGE_BYTES, Source, Summary, Writer};

type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;
type Model = BTreeMap<Vec<u8>, Pairs>;

fn write(model: &Model) -> (Vec<u8>, Summary) {
    let mut file = Memory::new(Vec::new());
    let mut writer = Writer::new(&mut file).expect("begins");
    // The order of buckets is free.
    for (name, pairs) in model.iter().rev() {
        writer.bucket(name).expect("a fresh bucket");
        for (key, value) in pairs {
            writer.put(key, value).expect("ascending");
        }
    }
    let summary = writer.finish().expect("ends");
    let bytes = file.into_inner();
    assert_eq!(bytes.len() as u64, summary.bytes);
    assert_eq!(summary.pages * PAGE_BYTES as u64, summary.bytes);
    assert_eq!(summary.pairs, model.values().map(|pairs| pairs.len() as u64).sum::<u64>());
    assert_eq!(summary.buckets, model.len() as u64);
    (bytes, summary)
}

fn pairs_of<S: Source>(database: &Database<S>, bucket: &Bucket) -> Result<Pairs, Error> {
    let mut cursor = database.cursor(bucket)?;
    let mut pairs = Pairs::new();
    while let Some(entry) = cursor.next()? {
        // Nobody writes buckets here; a damaged file may show one.
        if let Entry::Pair { key, value } = entry {
            pairs.insert(key.to_vec(), value.to_vec());
        }
    }
    Ok(pairs)
}

fn read<S: Source>(database: &Database<S>) -> Result<Model, Error> {
    database.buckets()?.into_iter().map(|(name, bucket)| Ok((name, pairs_of(database, &bucket)?))).collect()
}

fn random_model(random: &mut Random, buckets: u64, pairs: u64, key_max: u64, value_max: u64) -> Model {
    let mut bytes = |max: u64, least: u64| {
        let mut bytes = vec![0; (least + random.below(max + 1 - least)) as usize];
        random.fill(&mut bytes);
        bytes
    };
    (0..buckets)
        .map(|_| {
            let count = u64::from(u32::from_le_bytes(bytes(4, 4).try_into().expect("four"))) % (pairs + 1);
            let pairs = (0..count).map(|_| (bytes(key_max, 1), bytes(value_max, 0))).collect();
            (bytes(40, 1), pairs)
        })
        .collect()
}

#[test]
fn random_stores_come_back() {
    let mut random = Random::new(1);
    let shapes = [
        (0, 0, 1, 0),
        (1, 0, 1, 0),
        (3, 4, 10, 20),
        (12, 60, 30, 60),
        (4, 5000, 20, 100),
        (2, 600, 2000, 50),
        (2, 300, 32768, 10),
        (2, 100, 17, 100_000),
        (900, 20, 12, 30),
    ];
    for (buckets, pairs, key_max, value_max) in shapes {
        for _ in 0..4 {
            let model = random_model(&mut random, buckets, pairs, key_max, value_max);
            let (bytes, summary) = write(&model);
            let database = Database::open(bytes.as_slice()).expect("opens");
            let report = database.check().expect("sound");
            assert_eq!((report.pairs, report.buckets), (summary.pairs, summary.buckets));
            assert_eq!((report.pages, report.free_pages), (summary.pages, 0));
            assert_eq!(read(&database).expect("readable"), model);
            for (name, pairs) in model.iter().take(5) {
                let bucket = database.bucket(name).expect("readable").expect("there");
                for (key, value) in pairs.iter().step_by(7) {
                    assert_eq!(database.get(&bucket, key).expect("readable").as_ref(), Some(value));
                    let mut absent = key.clone();
                    absent.push(0);
                    let expected = pairs.get(&absent);
                    assert_eq!(database.get(&bucket, &absent).expect("readable").as_ref(), expected);
                    let mut cursor = database.cursor(&bucket).expect("readable");
                    cursor.seek(&absent).expect("readable");
                    let next = pairs.range(absent..).next();
                    match cursor.next().expect("readable") {
                        Some(Entry::Pair { key, value }) => {
                            assert_eq!(next, Some((&key.to_vec(), &value.to_vec())));
                        }
                        other => assert!(other.is_none() && next.is_none()),
                    }
                }
            }
            assert!(
                database.bucket(b"no such bucket, and no such length of name: 0123456789").unwrap().is_none()
            );
        }
    }
}

#[test]
fn a_file_reads_like_its_bytes_wherever_it_begins() {
    let model = random_model(&mut Random::new(2), 5, 400, 40, 9000);
    let (bytes, summary) = write(&model);
    let mut file = tempfile::tempfile().expect("a temporary file");
    std::io::Write::write_all(&mut file, &bytes).expect("written");
    // A checksum behind the pages does not disturb.
    std::io::Write::write_all(&mut file, &[7; 32]).expect("written");
    let database = Database::open(FileSource::new(file).expect("its size")).expect("opens");
    assert_eq!(database.bytes(), summary.bytes);
    assert_eq!(read(&database).expect("readable"), model);

    let mut shifted = Memory::new(vec![9; 100]);
    shifted.set_position(100);
    let mut writer = Writer::new(&mut shifted).expect("begins");
    writer.bucket(b"b").expect("fresh");
    writer.put(b"k", b"v").expect("ascending");
    let summary = writer.finish().expect("ends");
    assert_eq!(shifted.position(), 100 + summary.bytes, "the sink is left at the end");
    let shifted = shifted.into_inner();
    assert_eq!(&shifted[..100], &[9; 100]);
    Database::open(&shifted[100..]).expect("opens").check().expect("sound");
}

/// bbolt asserts two children or more when a delete rebalances; `check` cannot see that, so count here.
#[test]
fn no_branch_has_fewer_than_two_children() {
    let mut random = Random::new(3);
    for round in 0..60 {
        let key_max = [8, 500, 1000, 2000, 3000, 32768][round % 6];
        let count = 2 + random.below(if key_max > 8 { 60 } else { 30_000 });
        let mut file = Memory::new(Vec::new());
        let mut writer = Writer::new(&mut file).expect("begins");
        writer.bucket(b"b").expect("fresh");
        for number in 0..count {
            let mut key = number.to_be_bytes().to_vec();
            key.resize(8 + random.below(key_max + 1 - 8) as usize, 0);
            writer.put(&key, &[1; 30]).expect("ascending");
        }
        writer.finish().expect("ends");
        let bytes = file.into_inner();
        Database::open(bytes.as_slice()).expect("opens").check().expect("sound");
        let mut at = 2 * PAGE_BYTES;
        while at < bytes.len() {
            let word = |offset: usize| u16::from_le_bytes([bytes[at + offset], bytes[at + offset + 1]]);
            assert!(word(8) != 1 || word(10) >= 2, "a branch with {} children", word(10));
            let overflow = u32::from_le_bytes(bytes[at + 12..at + 16].try_into().expect("four"));
            at += (1 + overflow as usize) * PAGE_BYTES;
        }
    }
}

#[test]
fn the_writer_refuses_what_the_format_cannot_hold() {
    let refused = |result: Result<(), Error>| matches!(result, Err(Error::Misuse(_)));
    let mut writer = Writer::new(Memory::new(Vec::new())).expect("begins");
    assert!(refused(writer.put(b"k", b"")), "no bucket yet");
    assert!(refused(writer.sequence(1)), "no bucket yet");
    assert!(refused(writer.bucket(b"")));
    writer.bucket(b"a").expect("fresh");
    writer.put(b"k", b"1").expect("first");
    assert!(refused(writer.put(b"k", b"2")), "twice");
    assert!(refused(writer.put(b"j", b"2")), "backwards");
    assert!(refused(writer.put(b"", b"2")), "empty");
    assert!(refused(writer.put(&[b'z'; 32769], b"2")), "too long");
    writer.put(&[b'z'; 32768], b"2").expect("just right");
    writer.bucket(b"b").expect("fresh");
    writer.sequence(77).expect("open");
    assert!(refused(writer.bucket(b"a")), "a name twice");
    writer.bucket(b"c").expect("fresh");
    assert_eq!(writer.finish().expect("ends").pairs, 2);
}

#[test]
fn sequences_and_the_older_meta() {
    let mut file = Memory::new(Vec::new());
    let mut writer = Writer::new(&mut file).expect("begins");
    writer.bucket(b"s").expect("fresh");
    writer.sequence(42).expect("open");
    writer.finish().expect("ends");
    let mut bytes = file.into_inner();
    let open = |bytes: &[u8]| Database::open(bytes).map(|database| (database.txid(), database.page_bytes()));
    assert_eq!(open(&bytes).expect("opens"), (2, 4096));
    let database = Database::open(bytes.as_slice()).expect("opens");
    assert_eq!(database.bucket(b"s").expect("readable").expect("there").sequence, 42);
    bytes[20] ^= 1;
    assert_eq!(open(&bytes).expect("the other meta counts"), (1, 4096));
    bytes[4096 + 20] ^= 1;
    assert!(matches!(open(&bytes), Err(Error::Version(_))));
    for len in [0, 1, 79, 80, 4095, 8192] {
        let (bytes, _) = write(&Model::new());
        assert!(open(&bytes[..len]).is_err(), "cut to {len}");
    }
    assert!(matches!(open(&[0; 70_000]), Err(Error::NotADatabase)));
}

/// Reads everything there is, by every road.
fn exercise(bytes: &[u8]) -> bool {
    let Ok(database) = Database::open(bytes) else { return false };
    let walked = read(&database).is_ok();
    let got = database
        .buckets()
        .is_ok_and(|buckets| buckets.iter().all(|(_, bucket)| database.get(bucket, b"\x80").is_ok()));
    let checked = database.check().is_ok();
    // What the check passes, the walk must read.
    assert!(walked || !checked, "checked, and yet unreadable");
    walked && got && checked
}

#[test]
fn damaged_files_are_errors() {
    let mut random = Random::new(4);
    let model = random_model(&mut random, 6, 300, 60, 300);
    let (sound, _) = write(&model);
    assert!(exercise(&sound));
    let mut noticed = 0;
    for _ in 0..4000 {
        let mut bytes = sound.clone();
        for _ in 0..=random.below(3) {
            // Headers and element tables matter most: aim at the front of pages.
            let page = random.below((bytes.len() / PAGE_BYTES) as u64) as usize;
            let aim = if random.one_in(2) { 64 } else { PAGE_BYTES as u64 };
            let within = random.below(aim) as usize;
            let at = page * PAGE_BYTES + within;
            match random.below(4) {
                0 => bytes[at] = random.next_u64() as u8,
                1 => bytes[at] ^= 1 << random.below(8),
                2 => bytes[at] = 0xff,
                _ => {
                    let other = random.below((bytes.len() / PAGE_BYTES) as u64) as usize * PAGE_BYTES;
                    let copy = bytes[other..other + PAGE_BYTES].to_vec();
                    bytes[page * PAGE_BYTES..(page + 1) * PAGE_BYTES].copy_from_slice(&copy);
                }
            }
        }
        if random.one_in(10) {
            bytes.truncate(random.below(bytes.len() as u64 + 1) as usize);
        }
        noticed += usize::from(!exercise(&bytes));
    }
    assert!(noticed > 1000, "{noticed} of 4000 damaged files were noticed");
}

/// A branch that is its own child, with sound checksums: an attacker's file, not an accident.
#[test]
fn loops_end() {
    let (mut bytes, _) = write(&Model::from([(
        b"b".to_vec(),
        (0..9000u32).map(|n| (n.to_be_bytes().to_vec(), vec![1; 40])).collect(),
    )]));
    let branch = (2..bytes.len() / PAGE_BYTES)
        .find(|page| bytes[page * PAGE_BYTES + 8] == 1)
        .expect("so many pairs need a branch");
    let count = u16::from_le_bytes([bytes[branch * PAGE_BYTES + 10], bytes[branch * PAGE_BYTES + 11]]);
    for index in 0..usize::from(count) {
        let at = branch * PAGE_BYTES + 16 + index * 16 + 8;
        bytes[at..at + 8].copy_from_slice(&(branch as u64).to_le_bytes());
    }
    let database = Database::open(bytes.as_slice()).expect("metas are sound");
    assert!(matches!(read(&database), Err(Error::Corrupt { .. })));
    assert!(matches!(database.check(), Err(Error::Corrupt { .. })));
    let bucket = database.bucket(b"b").expect("readable").expect("there");
    assert!(matches!(database.get(&bucket, b"\0\0\x10\0"), Err(Error::Corrupt { .. })));
}
