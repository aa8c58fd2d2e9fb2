//! Corruption is not a crash (law 5): whatever is damaged in what was acknowledged is refused, with file and offset,
//! or, where it can be nothing but a torn tail to whoever reads it, reported as a cut. Never passed over.

mod model;

use base::Random;
use disk::sim::KeepSet;
use disk::{BLOCK, Files, OpenMode, SimFiles};
use mainstay_wal::{Recovered, WalError};
use model::{DIR, Life, Model, Owned, names, recover, script};

/// A log of some segments, everything durable. `affirmed`: the last batch says so.
fn settled(seed: u64, affirmed: bool) -> (SimFiles, Recovered) {
    let files = SimFiles::new();
    let mut life = Life::begin(&files, Model::default(), seed).unwrap();
    for index in 1..=25 {
        life.append_entry(index, 1, 400 * (index as usize % 9));
        life.append_hard_state();
        if index % 2 == 0 {
            life.settle().unwrap();
        }
    }
    life.settle().unwrap();
    if affirmed {
        assert!(life.wal.affirm());
        life.settle().unwrap();
        assert!(!life.wal.affirm(), "it is said now");
    }
    let files = files.crash(&mut KeepSet::none);
    let (_, recovered) = recover(&files.image(), 99).unwrap();
    assert_eq!(recovered.cut, None);
    assert_eq!(recovered.entries.len(), 25);
    (files, recovered)
}

/// The log as its first start has left it: the first segment, then whatever one name holds.
fn segment(number: u64) -> String {
    format!("{DIR}/{number:08}.seg")
}

#[test]
fn a_flipped_bit_is_never_passed_over() {
    let mut random = Random::new(5);
    for affirmed in [false, true] {
        let (files, whole) = settled(1, affirmed);
        let (mut refused, mut cut, mut harmless) = (0, 0, 0);
        for name in names(&files) {
            let size = files.bytes(&name).unwrap().len();
            for block in 0..size / BLOCK {
                // The headers' bytes, and some of the rest.
                let mut bytes: Vec<usize> = (0..12).map(|_| random.below(BLOCK as u64) as usize).collect();
                bytes.extend((0..10).map(|_| random.below(110) as usize));
                for byte in bytes {
                    let damaged = files.image();
                    damaged.edit(&name, (block * BLOCK + byte) as u64, &mut |bytes| {
                        bytes[0] ^= 1 << random.below(8);
                    });
                    let before = names(&damaged).len();
                    match recover(&damaged, 99) {
                        Err(WalError::Corrupt { .. }) => {
                            assert_eq!(names(&damaged).len(), before, "a refused log is left alone");
                            refused += 1;
                        }
                        Err(other) => panic!("{name} byte {}: {other}", block * BLOCK + byte),
                        Ok((_, recovered)) if recovered == whole => harmless += 1,
                        Ok((_, recovered)) => {
                            let context = format!("{name} byte {}", block * BLOCK + byte);
                            assert!(recovered.cut.is_some(), "{context}: silently changed");
                            let kept = recovered.entries.len();
                            assert!(recovered.entries == whole.entries[..kept], "{context}: a prefix");
                            if affirmed {
                                // Only the batch that affirms can be lost, and it has no records.
                                assert_eq!(Recovered { cut: None, ..recovered }, whole, "{context}");
                            }
                            cut += 1;
                        }
                    }
                }
            }
        }
        assert!(refused > 100 && cut > 5 && harmless > 100, "{refused} {cut} {harmless}");
    }
}

#[test]
fn a_lost_block_is_never_passed_over() {
    let (files, whole) = settled(2, true);
    let mut refused = 0;
    for name in names(&files) {
        let size = files.bytes(&name).unwrap().len();
        for block in 0..size / BLOCK {
            let damaged = files.image();
            damaged.edit(&name, (block * BLOCK) as u64, &mut |bytes| bytes[..BLOCK].fill(0));
            match recover(&damaged, 99) {
                Err(WalError::Corrupt { .. }) => refused += 1,
                Err(other) => panic!("{other}"),
                Ok((_, recovered)) => assert_eq!(Recovered { cut: None, ..recovered }, whole),
            }
        }
    }
    assert!(refused > 10, "{refused}");
}

#[test]
fn a_damaged_batch_in_the_middle_is_refused_with_its_place() {
    let (files, _) = settled(3, false);
    // The second batch of the first segment follows the first one.
    let bytes = files.bytes(&segment(1)).unwrap();
    let length = u32::from_le_bytes(bytes[BLOCK + 48..BLOCK + 52].try_into().unwrap()) as usize;
    let second = (BLOCK + 72 + length).next_multiple_of(BLOCK);
    for (at, word) in [(second + 20, "header"), (second + 72 + 5, "records")] {
        let damaged = files.image();
        damaged.edit(&segment(1), at as u64, &mut |bytes| bytes[0] ^= 1);
        let Err(error) = recover(&damaged, 99) else { panic!("accepted") };
        let text = error.to_string();
        let WalError::Corrupt { file, offset, what, advice } = error else { panic!("{text}") };
        assert_eq!((file, offset), (segment(1), second as u64), "{what}");
        assert!(what.contains(word) && what.contains("were durable"), "{what}");
        assert!(advice.contains("member remove") && advice.contains("member add"), "{advice}");
        assert!(!text.contains('\n'), "one line: {text}");
    }
}

#[test]
fn segments_that_are_gone_or_moved_are_refused() {
    let (files, _) = settled(4, true);
    let used: Vec<String> =
        names(&files).into_iter().filter(|name| files.bytes(name).unwrap()[..8] == *b"MSTYSEGM").collect();
    assert!(used.len() >= 3, "{used:?}");
    let refused = |change: &dyn Fn(&SimFiles), what: &str| {
        let damaged = files.image();
        change(&damaged);
        match recover(&damaged, 99) {
            Err(WalError::Corrupt { .. }) => {}
            Err(other) => panic!("{what}: {other}"),
            Ok((_, recovered)) => panic!("{what}: {recovered:?}"),
        }
    };
    for name in &used[..used.len() - 1] {
        refused(&|files| files.remove(name).unwrap(), "a segment is gone");
    }
    refused(&|files| files.rename(&used[1], &segment(90)).map(drop).unwrap(), "moved up");
    refused(&|files| files.rename(&used[2], &segment(1)).unwrap(), "moved down");
    refused(
        &|files| {
            let file = files.open(&used[1], OpenMode::ReadWrite).unwrap();
            file.truncate(3 * BLOCK as u64).unwrap();
        },
        "truncated",
    );
    refused(
        &|files| {
            let file = files.open(&used[0], OpenMode::ReadWrite).unwrap();
            file.truncate(0).unwrap();
        },
        "emptied",
    );
    refused(
        &|files| {
            let (other, _) = settled(77, true);
            let bytes = other.bytes(&segment(1)).unwrap();
            files.edit(&used[0], 0, &mut |target| target.copy_from_slice(&bytes));
        },
        "of another log",
    );
    refused(
        &|files| {
            for name in &used {
                files.edit(name, 0, &mut |bytes| bytes[0] ^= 1);
            }
        },
        "all headers damaged",
    );
}

#[test]
fn another_version_is_named() {
    let (files, _) = settled(5, true);
    files.edit(&segment(1), 0, &mut |bytes| {
        bytes[8] = 9;
        let crc = base::crc32c(&bytes[..BLOCK - 4]);
        bytes[BLOCK - 4..BLOCK].copy_from_slice(&crc.to_le_bytes());
    });
    let error = recover(&files, 99).err().unwrap();
    assert!(matches!(error, WalError::Version { found: 9, supported: 1, .. }), "{error}");
}

#[test]
fn a_read_error_is_an_error_and_not_an_end() {
    let (files, whole) = settled(6, true);
    let counted = files.image();
    recover(&counted, 99).unwrap();
    for at in 0..counted.reads() {
        let failing = files.image();
        failing.fail_read_at(at);
        assert!(matches!(recover(&failing, 99), Err(WalError::Io { .. })), "read {at}");
        assert_eq!(recover(&failing, 99).unwrap().1, whole);
    }
}

#[test]
fn foreign_files_are_left_alone() {
    let (files, whole) = settled(7, true);
    for name in ["log/lost+found", "log/1.seg", "log/00000001.bak"] {
        files.open(name, OpenMode::CreateNew).unwrap();
    }
    assert_eq!(recover(&files, 99).unwrap().1, whole);
    assert!(files.exists("log/00000001.bak").unwrap());
}

/// Any bytes at all: recovery answers, and never panics.
#[test]
fn random_damage_never_panics() {
    for seed in 0..400 {
        let files = SimFiles::new();
        let model = script(&files, Model::default(), seed % 20, 150);
        let mut random = Random::new(seed);
        let files = files.crash(&mut |count| KeepSet::random(count, &mut random));
        let names = names(&files);
        if names.is_empty() {
            continue;
        }
        for _ in 0..1 + random.below(4) {
            let name = &names[random.below(names.len() as u64) as usize];
            let len = files.bytes(name).unwrap().len() as u64;
            if len == 0 {
                continue;
            }
            let at = random.below(len);
            files.edit(name, at, &mut |bytes| {
                let count = (1 + random.below(5000)).min(bytes.len() as u64) as usize;
                random.fill(&mut bytes[..count]);
            });
        }
        // A log that is accepted is a prefix of what was appended.
        if let Ok((_, recovered)) = recover(&files, 99) {
            let mut model = Model { acked: 0, released: u64::MAX, ..model };
            if recovered.cut.is_none() {
                model.check(&recovered, &|| format!("seed {seed}"));
            } else {
                assert!(recovered.entries.len() <= model.records.len());
            }
        }
    }
}

/// A batch in the place of another, or one that follows another than the one before it: every checksum holds, and no
/// crash puts it there.
#[test]
fn a_sound_batch_in_another_place_is_refused() {
    let files = SimFiles::new();
    let mut life = Life::begin(&files, Model::default(), 1).unwrap();
    for index in 1..=3 {
        life.append_entry(index, 1, 10);
        life.settle().unwrap();
    }
    let files = files.crash(&mut KeepSet::none);
    let whole = files.bytes(&segment(1)).unwrap();
    let block = |number: usize| whole[number * BLOCK..][..BLOCK].to_vec();
    let refused = |to: usize, bytes: &[u8], why: &str| {
        let damaged = files.image();
        damaged.edit(&segment(1), (to * BLOCK) as u64, &mut |target| {
            target[..BLOCK].copy_from_slice(bytes);
        });
        let Some(WalError::Corrupt { what, offset, .. }) = recover(&damaged, 99).err() else {
            panic!("{why}: accepted")
        };
        assert!(what.contains(why), "{what}");
        assert_eq!(offset, (to * BLOCK) as u64);
    };
    refused(2, &block(3), "where batch 3 should stand");
    // Behind the end, where the next batch would be.
    refused(4, &block(3), "where batch 5 should stand");
    // Made for this place, by somebody who knows everything but the batch before.
    let mut other = block(3);
    other[56] ^= 1;
    let crc = base::crc32c(&other[..68]);
    other[68..72].copy_from_slice(&crc.to_le_bytes());
    refused(3, &other, "does not follow the one before it");
}

/// Valid checksums around records that make no sense: refused, not believed.
#[test]
fn sound_batches_of_impossible_records_are_refused() {
    let files = SimFiles::new();
    let mut life = Life::begin(&files, Model::default(), 1).unwrap();
    life.append_entry(1, 1, 10);
    life.append(Owned::Checkpoint(1, 1));
    life.settle().unwrap();
    let first = files.crash(&mut KeepSet::none);
    // The same in a segment of a later start, where the log begins once the first one is given up.
    let files = first.image();
    let mut life = Life::begin(&files, life.model, 3).unwrap();
    let newest = names(&files).pop().unwrap();
    life.append_entry(2, 1, 10);
    life.append(Owned::Checkpoint(2, 1));
    life.settle().unwrap();
    files.remove(&segment(1)).unwrap();
    let second = files.crash(&mut KeepSet::all);
    assert_eq!(recover(&second.image(), 99).unwrap().1.checkpoint, Some((2, 1)));
    impossible_records_are_refused(&first, &segment(1));
    impossible_records_are_refused(&second, &newest);
}

fn impossible_records_are_refused(files: &SimFiles, name: &str) {
    // (byte of the record header, value): kind, part flags, length, index.
    for (at, value) in [(0, 77), (1, 0), (1, 1), (1, 9), (3, 1), (4, 255), (5, 255), (16, 9), (24, 3)] {
        let damaged = files.image();
        damaged.edit(name, BLOCK as u64, &mut |bytes| {
            bytes[72 + at] = value;
            let length = u32::from_le_bytes(bytes[48..52].try_into().unwrap()) as usize;
            let crc = base::crc32c(&bytes[72..72 + length]);
            bytes[52..56].copy_from_slice(&crc.to_le_bytes());
            let crc = base::crc32c(&bytes[..68]);
            bytes[68..72].copy_from_slice(&crc.to_le_bytes());
        });
        let error = recover(&damaged, 99).err();
        assert!(matches!(error, Some(WalError::Corrupt { .. })), "{name} byte {at}: {error:?}");
    }
}
