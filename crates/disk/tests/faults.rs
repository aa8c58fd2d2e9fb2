//! What the simulated device does wrong, kind by kind: what the caller is told, what is read back, and what a power loss
//! leaves. The tests above rest on each kind doing what its name says, and no more.

use std::io::ErrorKind;
use std::sync::Arc;

use mainstay_disk as disk;

use disk::sim::{Fault, KeepSet, ReadFault, Rot, SECTOR};
use disk::{AlignedBuf, BLOCK, File, Files, OpenMode, SimFiles, errno, is_no_space};

const EIO: i32 = 5;

fn blocks(bytes: &[u8]) -> AlignedBuf {
    let mut buf = AlignedBuf::zeroed(bytes.len() * BLOCK);
    for (block, byte) in buf.chunks_mut(BLOCK).zip(bytes) {
        block.fill(*byte);
    }
    buf
}

fn at(block: u64) -> u64 {
    block * BLOCK as u64
}

/// A file "f" of four durable blocks: 1, 2, 3, 4.
fn world() -> (SimFiles, Arc<dyn File>) {
    let files = SimFiles::new();
    let file = files.open("f", OpenMode::CreateNew).unwrap();
    file.write_at(0, &blocks(&[1, 2, 3, 4])).unwrap();
    file.sync().unwrap();
    files.sync_dir("").unwrap();
    assert_eq!(files.unsynced(), 0);
    (files, file)
}

/// The first byte of each block.
fn firsts(files: &SimFiles) -> Vec<u8> {
    files.bytes("f").unwrap().chunks(BLOCK).map(|block| block[0]).collect()
}

fn durable(files: &SimFiles) -> Vec<u8> {
    firsts(&files.crash(&mut KeepSet::none))
}

fn next(files: &SimFiles, fault: Fault) {
    files.fail_at(files.operations(), fault);
}

type Operation<'o> = &'o dyn Fn(&SimFiles, &dyn File) -> std::io::Result<()>;

#[test]
fn errors_are_told_and_change_nothing() {
    for (fault, number) in [(Fault::Io, EIO), (Fault::NoSpace, 28)] {
        let operations: [(&str, Operation<'_>); 9] = [
            ("write", &|_, file| file.write_at(0, &blocks(&[9]))),
            ("durable write", &|_, file| file.write_durable(0, &blocks(&[9]))),
            ("writes", &|_, file| file.write_many(&[(0, &blocks(&[9]))])),
            ("growth", &|_, file| file.allocate(at(8))),
            ("truncation", &|_, file| file.truncate(0)),
            ("creation", &|files, _| files.open("new", OpenMode::CreateNew).map(|_| ())),
            ("directory", &|files, _| files.create_dir("dir")),
            ("rename", &|files, _| files.rename("f", "g")),
            ("removal", &|files, _| files.remove("f")),
        ];
        for (what, operation) in operations {
            let (files, file) = world();
            next(&files, fault);
            let error = operation(&files, &*file).expect_err(what);
            assert_eq!(errno(&error), Some(number), "{what}");
            assert_eq!(is_no_space(&error), fault == Fault::NoSpace, "{what}");
            assert_eq!((firsts(&files), files.unsynced()), (vec![1, 2, 3, 4], 0), "{what}");
            assert_eq!(files.list("").unwrap(), ["f"], "{what}");
            // It strikes once.
            operation(&files, &*file).expect(what);
        }
    }
}

#[test]
fn a_short_write_is_told_and_leaves_its_first_blocks() {
    for durably in [false, true] {
        for made in 0..=4 {
            let (files, file) = world();
            next(&files, Fault::Short { blocks: made });
            let data = blocks(&[7, 8, 9]);
            let written = if durably { file.write_durable(0, &data) } else { file.write_at(0, &data) };
            assert_eq!(errno(&written.unwrap_err()), Some(EIO));
            let mut expected = vec![1, 2, 3, 4];
            expected[..made.min(3)].copy_from_slice(&[7, 8, 9][..made.min(3)]);
            assert_eq!(firsts(&files), expected);
            // Nothing of it is promised.
            assert_eq!(durable(&files), [1, 2, 3, 4]);
            assert_eq!(firsts(&files.crash(&mut KeepSet::all)), expected);
        }
    }
    let (files, file) = world();
    next(&files, Fault::Short { blocks: 1 });
    assert_eq!(errno(&file.sync().unwrap_err()), Some(EIO), "elsewhere it is an error like any other");
    next(&files, Fault::Short { blocks: 1 });
    assert_eq!(errno(&file.allocate(at(8)).unwrap_err()), Some(EIO));
    assert_eq!(file.len().unwrap(), at(4));
}

#[test]
fn a_lost_write_answers_well_and_never_was() {
    for durably in [false, true] {
        let (files, file) = world();
        next(&files, Fault::Lost);
        let data = blocks(&[9]);
        if durably { file.write_durable(at(1), &data) } else { file.write_at(at(1), &data) }.unwrap();
        file.sync().unwrap();
        assert_eq!(firsts(&files), [1, 2, 3, 4], "also for who reads it back");
        assert_eq!(firsts(&files.crash(&mut KeepSet::all)), [1, 2, 3, 4]);
        file.write_durable(at(1), &data).unwrap();
        assert_eq!(durable(&files), [1, 9, 3, 4], "the next one is not lost");
    }
}

#[test]
fn a_lost_sync_leaves_everything_to_the_next_honest_one() {
    let (files, file) = world();
    file.write_at(0, &blocks(&[9])).unwrap();
    next(&files, Fault::Lost);
    file.sync().unwrap();
    assert_eq!((firsts(&files), durable(&files)), (vec![9, 2, 3, 4], vec![1, 2, 3, 4]));
    file.sync().unwrap();
    assert_eq!(durable(&files), [9, 2, 3, 4]);

    files.rename("f", "g").unwrap();
    next(&files, Fault::Lost);
    files.sync_dir("").unwrap();
    assert_eq!(files.crash(&mut KeepSet::none).list("").unwrap(), ["f"]);
    files.sync_dir("").unwrap();
    assert_eq!(files.crash(&mut KeepSet::none).list("").unwrap(), ["g"]);
}

#[test]
fn changes_of_names_and_sizes_are_not_lost_one_by_one() {
    for fault in [Fault::Lost, Fault::Misdirected { blocks: 1 }] {
        let (files, file) = world();
        next(&files, fault);
        file.truncate(at(1)).unwrap();
        next(&files, fault);
        file.allocate(at(2)).unwrap();
        next(&files, fault);
        files.rename("f", "g").unwrap();
        assert_eq!((file.len().unwrap(), files.list("").unwrap()), (at(2), vec!["g".to_owned()]));
    }
}

#[test]
fn a_misdirected_write_lands_elsewhere_and_leaves_its_own_place() {
    for (to, by, expected) in [
        (0, 2, [1, 2, 9, 4]),
        // Around the end of the file.
        (2, 3, [1, 9, 3, 4]),
        (3, 4, [1, 2, 3, 9]),
    ] {
        let (files, file) = world();
        next(&files, Fault::Misdirected { blocks: by });
        file.write_durable(at(to), &blocks(&[9])).unwrap();
        assert_eq!((firsts(&files), durable(&files)), (expected.to_vec(), expected.to_vec()), "{to} by {by}");
    }
    // A longer one stays in one piece within the file.
    let (files, file) = world();
    next(&files, Fault::Misdirected { blocks: 3 });
    file.write_at(at(1), &blocks(&[8, 9])).unwrap();
    assert_eq!((firsts(&files), durable(&files)), (vec![1, 8, 9, 4], vec![1, 2, 3, 4]));
}

#[test]
fn a_device_that_lies_answers_well_and_keeps_nothing() {
    let (files, file) = world();
    files.set_lying(true);
    file.write_durable(0, &blocks(&[7])).unwrap();
    file.write_at(at(1), &blocks(&[8])).unwrap();
    file.sync().unwrap();
    files.open("new", OpenMode::CreateNew).unwrap();
    files.sync_dir("").unwrap();
    assert_eq!(firsts(&files), [7, 8, 3, 4]);
    let lost = files.crash(&mut KeepSet::none);
    assert_eq!((firsts(&lost), lost.list("").unwrap()), (vec![1, 2, 3, 4], vec!["f".to_owned()]));
    assert_eq!(firsts(&files.crash(&mut |count| KeepSet::only(count, 1))), [1, 8, 3, 4], "any part of it");
    // A kill loses nothing, and a copy does not lie.
    let copy = files.image();
    assert_eq!(firsts(&copy), [7, 8, 3, 4]);
    copy.open("f", OpenMode::ReadWrite).unwrap().sync().unwrap();
    assert_eq!(durable(&copy), [7, 8, 3, 4]);
    // It can also begin later.
    files.set_lying(false);
    files.lie_from(files.operations() + 1);
    file.write_durable(at(3), &blocks(&[5])).unwrap();
    file.write_durable(at(2), &blocks(&[6])).unwrap();
    assert_eq!((firsts(&files), durable(&files)), (vec![7, 8, 6, 5], vec![1, 2, 3, 5]));
    file.write_at(at(2), &blocks(&[3])).unwrap();
    file.write_at(at(3), &blocks(&[4])).unwrap();
    files.set_lying(false);
    file.sync().unwrap();
    files.sync_dir("").unwrap();
    let kept = files.crash(&mut KeepSet::none);
    assert_eq!((firsts(&kept), kept.list("").unwrap().len()), (vec![7, 8, 3, 4], 2));
}

#[test]
fn reads_go_wrong_once_and_as_they_say() {
    let (files, file) = world();
    let mut buf = AlignedBuf::zeroed(2 * BLOCK);
    let mut read = |fault: Option<ReadFault>| {
        if let Some(fault) = fault {
            files.spoil_read_at(files.reads(), fault);
        }
        file.read_at(at(1), &mut buf).map(|()| (buf[0], buf[BLOCK], buf[BLOCK + 3]))
    };
    assert_eq!(read(None).unwrap(), (2, 3, 3));
    assert_eq!(errno(&read(Some(ReadFault::Io)).unwrap_err()), Some(EIO));
    assert_eq!(read(Some(ReadFault::Short)).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    let at = 5 * 2 * BLOCK + BLOCK + 3;
    assert_eq!(read(Some(ReadFault::Flipped { at, mask: 0x81 })).unwrap(), (2, 3, 3 ^ 0x81));
    assert_eq!(read(None).unwrap(), (2, 3, 3), "the device holds what it held");
    // A mapping is read too.
    files.spoil_read_at(files.reads(), ReadFault::Io);
    assert!(file.map(0, BLOCK).is_err());
}

#[test]
fn rot_changes_one_sector_of_what_is_held_for_good() {
    let sector = |files: &SimFiles, sector: usize| {
        files.bytes("f").unwrap()[sector * SECTOR..(sector + 1) * SECTOR].to_vec()
    };
    let per_block = BLOCK / SECTOR;
    for rot in [
        Rot::Flip { bit: 8 * SECTOR - 1 },
        Rot::Zeros,
        Rot::Stale,
        Rot::CopyOf { sector: 3 * per_block as u64 },
    ] {
        let (files, file) = world();
        file.write_durable(at(1), &blocks(&[9])).unwrap();
        let damaged = per_block + 2;
        assert!(files.rot("f", damaged as u64, rot), "{rot:?}");
        for files in [&files, &files.crash(&mut KeepSet::none)] {
            let mut expected = vec![9; SECTOR];
            match rot {
                Rot::Flip { .. } => expected[SECTOR - 1] ^= 0x80,
                Rot::Zeros => expected.fill(0),
                Rot::Stale => expected.fill(2),
                Rot::CopyOf { .. } => expected.fill(4),
            }
            assert_eq!(sector(files, damaged), expected, "{rot:?}");
            for other in (0..4 * per_block).filter(|other| *other != damaged) {
                let before = [1, 9, 3, 4][other / per_block];
                assert_eq!(sector(files, other), [before; SECTOR], "{rot:?}: sector {other}");
            }
        }
    }
    let (files, _) = world();
    assert!(!files.rot("f", 4 * per_block as u64, Rot::Zeros), "there is no such sector");
    assert!(!files.rot("f", 0, Rot::CopyOf { sector: 1 }), "the same already");
}
