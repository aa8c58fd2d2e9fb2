//! What the simulated disk keeps and loses: it must be no kinder than POSIX, or every crash test above it is void.

use mainstay_disk as disk;

use disk::sim::{Fault, Keep, KeepSet};
use disk::{AlignedBuf, BLOCK, Files, OpenMode, SimFiles, errno, is_no_space};

use base::Random;

fn block(byte: u8) -> AlignedBuf {
    let mut buf = AlignedBuf::zeroed(BLOCK);
    buf.fill(byte);
    buf
}

/// A file "f" of `blocks` zeroed, durable blocks.
fn world(blocks: u64) -> SimFiles {
    let files = SimFiles::new();
    let file = files.open("f", OpenMode::CreateNew).unwrap();
    file.allocate(blocks * BLOCK as u64).unwrap();
    file.sync().unwrap();
    files.sync_dir("").unwrap();
    assert_eq!(files.unsynced(), 0);
    files
}

/// The first byte of each block.
fn firsts(files: &SimFiles) -> Vec<u8> {
    files.bytes("f").unwrap().chunks(BLOCK).map(|block| block[0]).collect()
}

#[test]
fn any_subset_of_unsynced_writes_survives() {
    let files = world(3);
    let file = files.open("f", OpenMode::ReadWrite).unwrap();
    file.write_at(0, &block(1)).unwrap();
    file.write_at(BLOCK as u64, &block(2)).unwrap();
    file.write_at(2 * BLOCK as u64, &block(3)).unwrap();
    assert_eq!(firsts(&files), [1, 2, 3]);
    assert_eq!(firsts(&files.crash(&mut KeepSet::none)), [0, 0, 0]);
    assert_eq!(firsts(&files.crash(&mut KeepSet::all)), [1, 2, 3]);
    assert_eq!(firsts(&files.crash(&mut |n| KeepSet::only(n, 1))), [0, 2, 0]);
    assert_eq!(firsts(&files.crash(&mut |n| KeepSet::all_but(n, 1))), [1, 0, 3]);
    file.sync().unwrap();
    assert_eq!(firsts(&files.crash(&mut KeepSet::none)), [1, 2, 3]);
    // What a crash left is durable.
    let after = files.crash(&mut KeepSet::none);
    assert_eq!((after.unsynced(), firsts(&after.crash(&mut KeepSet::none))), (0, vec![1, 2, 3]));
}

#[test]
fn a_durable_write_covers_its_own_range_only() {
    let files = world(4);
    let file = files.open("f", OpenMode::ReadWrite).unwrap();
    let mut wide = AlignedBuf::zeroed(3 * BLOCK);
    wide.fill(1);
    file.write_at(0, &wide).unwrap();
    file.write_at(3 * BLOCK as u64, &block(2)).unwrap();
    file.write_durable(BLOCK as u64, &block(9)).unwrap();
    assert_eq!(firsts(&files), [1, 9, 1, 2]);
    assert_eq!(firsts(&files.crash(&mut KeepSet::none)), [0, 9, 0, 0]);
    // The older write below it may reach the device around it, never over it.
    assert_eq!(firsts(&files.crash(&mut KeepSet::all)), [1, 9, 1, 2]);
    assert_eq!(files.unsynced(), 3);
}

#[test]
fn torn_writes_keep_whole_sectors() {
    let files = world(8);
    let file = files.open("f", OpenMode::ReadWrite).unwrap();
    let mut wide = AlignedBuf::zeroed(8 * BLOCK);
    wide.fill(7);
    file.write_at(0, &wide).unwrap();
    for (unit, seed) in [(512, 1), (512, 2), (4096, 3), (4096, 4)] {
        let after = files.crash(&mut |_| KeepSet(vec![Keep::Torn { unit, seed }]));
        let bytes = after.bytes("f").unwrap();
        let kept: Vec<bool> = bytes
            .chunks(unit)
            .map(|part| {
                assert!(part.iter().all(|&byte| byte == part[0]), "a sector is old or new");
                part[0] == 7
            })
            .collect();
        assert!(kept.contains(&true) && kept.contains(&false), "{unit} {seed}: torn");
    }
}

#[test]
fn names_need_their_own_sync() {
    let files = SimFiles::new();
    files.create_dir("log").unwrap();
    let file = files.open("log/a.tmp", OpenMode::CreateNew).unwrap();
    file.write_at(0, &block(1)).unwrap();
    file.sync().unwrap();
    assert!(!files.crash(&mut KeepSet::none).exists("log/a.tmp").unwrap());
    files.sync_dir("log").unwrap();
    // The directory itself was not synced in its parent.
    assert!(!files.crash(&mut KeepSet::none).exists("log/a.tmp").unwrap());
    files.sync_dir("").unwrap();
    assert!(files.crash(&mut KeepSet::none).exists("log/a.tmp").unwrap());

    files.rename("log/a.tmp", "log/a").unwrap();
    let lost = files.crash(&mut KeepSet::none);
    assert_eq!(lost.list("log").unwrap(), ["a.tmp"]);
    let kept = files.crash(&mut KeepSet::all);
    assert_eq!(kept.list("log").unwrap(), ["a"]);
    assert_eq!(kept.bytes("log/a").unwrap(), block(1)[..]);
    files.sync_dir("log").unwrap();
    files.remove("log/a").unwrap();
    assert_eq!(files.crash(&mut KeepSet::none).list("log").unwrap(), ["a"]);
    files.sync_dir("log").unwrap();
    assert!(files.crash(&mut KeepSet::none).list("log").unwrap().is_empty());
}

#[test]
fn name_and_contents_survive_independently() {
    let files = SimFiles::new();
    let file = files.open("f", OpenMode::CreateNew).unwrap();
    file.write_at(0, &block(1)).unwrap();
    assert_eq!(files.unsynced(), 2);
    assert_eq!(files.crash(&mut |n| KeepSet::only(n, 0)).bytes("f").unwrap(), []);
    assert!(files.crash(&mut |n| KeepSet::only(n, 1)).bytes("f").is_none());
    // The size is lost with the sync that was missing.
    files.sync_dir("").unwrap();
    assert_eq!(files.crash(&mut KeepSet::none).bytes("f").unwrap(), []);
}

#[test]
fn a_failed_sync_is_never_made_good() {
    let files = world(2);
    let file = files.open("f", OpenMode::ReadWrite).unwrap();
    file.write_at(0, &block(1)).unwrap();
    files.fail_at(files.operations(), Fault::Io);
    assert_eq!(errno(&file.sync().unwrap_err()), Some(5));
    let later = file.sync().unwrap_err();
    assert!(later.to_string().contains("earlier sync"), "whoever syncs after it is told: {later}");
    let again = files.open("f", OpenMode::ReadWrite).unwrap();
    again.write_at(BLOCK as u64, &block(2)).unwrap();
    again.sync().unwrap();
    assert_eq!(firsts(&files), [1, 2]);
    assert_eq!(firsts(&files.crash(&mut KeepSet::none)), [0, 2]);
}

#[test]
fn a_halt_leaves_the_last_operation_undecided() {
    for (kept, first) in [(false, 0), (true, 1)] {
        let files = world(1);
        let file = files.open("f", OpenMode::ReadWrite).unwrap();
        files.halt_at(files.operations());
        file.write_durable(0, &block(1)).unwrap_err();
        assert!(files.halted());
        file.write_at(0, &block(2)).unwrap_err();
        file.sync().unwrap_err();
        file.read_at(0, &mut block(0)).unwrap_err();
        assert_eq!(files.unsynced(), 1);
        let after = files.crash(&mut |n| if kept { KeepSet::all(n) } else { KeepSet::none(n) });
        assert_eq!(firsts(&after), [first]);
        after.open("f", OpenMode::ReadWrite).unwrap().write_durable(0, &block(3)).unwrap();
    }
}

#[test]
fn a_full_device_says_so_and_removal_makes_room() {
    let files = world(2);
    files.set_capacity(4 * BLOCK as u64);
    assert_eq!(files.free_bytes().unwrap(), 2 * BLOCK as u64);
    let file = files.open("g", OpenMode::CreateNew).unwrap();
    let refused = file.allocate(3 * BLOCK as u64).unwrap_err();
    assert!(is_no_space(&refused), "{refused}");
    assert_eq!(file.len().unwrap(), 2 * BLOCK as u64);
    assert!(is_no_space(&file.write_at(2 * BLOCK as u64, &block(1)).unwrap_err()));
    file.write_at(BLOCK as u64, &block(1)).unwrap();
    files.remove("f").unwrap();
    assert_eq!(files.free_bytes().unwrap(), 2 * BLOCK as u64);
    file.allocate(4 * BLOCK as u64).unwrap();
    files.remove("g").unwrap();
    drop(file);
    assert_eq!(files.free_bytes().unwrap(), 4 * BLOCK as u64);
}

#[test]
fn faults_strike_once_and_copies_are_free_of_them() {
    let files = world(1);
    let file = files.open("f", OpenMode::ReadWrite).unwrap();
    files.fail_at(files.operations() + 1, Fault::NoSpace);
    files.fail_read_at(files.reads());
    let copy = files.image();
    assert_eq!(errno(&file.read_at(0, &mut block(0)).unwrap_err()), Some(5));
    file.read_at(0, &mut block(0)).unwrap();
    file.write_at(0, &block(1)).unwrap();
    assert!(is_no_space(&file.write_at(0, &block(2)).unwrap_err()));
    file.write_at(0, &block(3)).unwrap();
    copy.open("f", OpenMode::Read).unwrap().read_at(0, &mut block(0)).unwrap();
    assert_eq!((firsts(&files), firsts(&copy)), (vec![3], vec![0]));
    files.edit("f", 1, &mut |bytes| bytes[0] ^= 0x80);
    assert_eq!(files.bytes("f").unwrap()[..3], [3, 0x83, 3]);
    assert_eq!(files.crash(&mut KeepSet::none).bytes("f").unwrap()[..3], [0, 0x80, 0]);
}

#[test]
fn random_sets_have_every_fate() {
    let set = KeepSet::random(100, &mut Random::new(1));
    assert!(set.0.contains(&Keep::Lost) && set.0.contains(&Keep::Whole));
    for wanted in [512, 4096] {
        assert!(set.0.iter().any(|keep| matches!(keep, Keep::Torn { unit, .. } if *unit == wanted)));
    }
    let torn = KeepSet::only(3, 1).torn(512, &mut Random::new(1));
    assert!(matches!(torn.0[..], [Keep::Lost, Keep::Torn { unit: 512, .. }, Keep::Lost]));
}
