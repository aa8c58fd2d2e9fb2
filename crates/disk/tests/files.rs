//! The contract of `Files`, `File` and `Chunk`, asked of the real form and of its simulated twin alike.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use base::Random;
use mainstay_disk as disk;

use disk::{AlignedBuf, BLOCK, File, Files, Mapping, OpenMode, OsFiles, SimFiles, errno, is_no_space, probe};

/// Both forms; the directory of the real one lies beside the build, where there is a disk below it.
fn both(test: impl Fn(&dyn Files)) {
    test(&SimFiles::new());
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    test(&OsFiles::new(dir.path()).unwrap());
}

fn filled(blocks: usize, seed: u64) -> AlignedBuf {
    let mut buf = AlignedBuf::zeroed(blocks * BLOCK);
    Random::new(seed).fill(&mut buf);
    buf
}

fn content(file: &dyn File) -> Vec<u8> {
    let mut buf = AlignedBuf::zeroed(file.len().unwrap() as usize);
    let len = file.len().unwrap() as usize;
    file.read_at(0, &mut buf[..len]).unwrap();
    buf[..len].to_vec()
}

#[test]
fn names_come_and_go() {
    both(|files| {
        assert_eq!(files.list("log").unwrap_err().kind(), ErrorKind::NotFound);
        files.create_dir("log").unwrap();
        files.create_dir("log").unwrap();
        files.sync_dir("").unwrap();
        for name in ["log/b", "log/a", "top"] {
            assert!(!files.exists(name).unwrap());
            files.open(name, OpenMode::CreateNew).unwrap();
            assert!(files.exists(name).unwrap());
            let again = files.open(name, OpenMode::CreateNew).err().unwrap();
            assert_eq!(again.kind(), ErrorKind::AlreadyExists);
            assert_eq!(errno(&again), Some(17));
        }
        assert_eq!(files.list("log").unwrap(), ["a", "b"]);
        assert_eq!(files.list("").unwrap(), ["log", "top"]);
        files.open("log/a", OpenMode::ReadWrite).unwrap().write_at(0, &filled(1, 1)).unwrap();
        files.rename("log/a", "log/b").unwrap();
        assert_eq!(files.list("log").unwrap(), ["b"]);
        assert_eq!(files.open("log/b", OpenMode::Read).unwrap().len().unwrap(), BLOCK as u64);
        files.sync_dir("log").unwrap();
        files.remove("log/b").unwrap();
        for error in [
            files.remove("log/b").unwrap_err(),
            files.rename("log/b", "log/c").unwrap_err(),
            files.open("log/b", OpenMode::Read).err().unwrap(),
            files.open("log/b", OpenMode::ReadWrite).err().unwrap(),
            files.open("absent/b", OpenMode::CreateNew).err().unwrap(),
            files.sync_dir("absent").unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        }
        assert!(files.free_bytes().unwrap() > 0);
    });
}

#[test]
fn contents_are_what_was_written_last() {
    both(|files| {
        let file = files.open("f", OpenMode::CreateNew).unwrap();
        let mut model = vec![0u8; 64 * BLOCK];
        file.allocate(model.len() as u64).unwrap();
        assert_eq!(content(&*file), model);
        let mut random = Random::new(3);
        for round in 0..60 {
            let at = random.below(60) as usize;
            let data = filled(1 + random.below(4) as usize, round);
            let offset = (at * BLOCK) as u64;
            match random.below(3) {
                0 => file.write_at(offset, &data).unwrap(),
                1 => file.write_durable(offset, &data).unwrap(),
                _ => {
                    let (head, tail) = data.split_at(BLOCK);
                    file.write_many(&[(offset + BLOCK as u64, tail), (offset, head)]).unwrap();
                }
            }
            model[offset as usize..][..data.len()].copy_from_slice(&data);
        }
        file.sync().unwrap();
        assert!(content(&*file) == model);
        let again = files.open("f", OpenMode::Read).unwrap();
        assert!(content(&*again) == model);

        file.truncate(BLOCK as u64).unwrap();
        file.allocate(3 * BLOCK as u64).unwrap();
        file.allocate(BLOCK as u64).unwrap();
        model.truncate(BLOCK);
        model.resize(3 * BLOCK, 0);
        assert!(content(&*file) == model);
        let beyond = file.read_at(3 * BLOCK as u64, &mut AlignedBuf::zeroed(BLOCK)).unwrap_err();
        assert_eq!(beyond.kind(), ErrorKind::UnexpectedEof);
        // A file that was removed while open keeps its contents.
        files.remove("f").unwrap();
        assert!(content(&*file) == model);
    });
}

#[test]
fn more_writes_at_once_than_the_ring_is_deep() {
    both(|files| {
        let file = files.open("f", OpenMode::CreateNew).unwrap();
        file.write_many(&[]).unwrap();
        let blocks: Vec<AlignedBuf> = (0..100).map(|seed| filled(1 + seed as usize % 3, seed)).collect();
        let big = filled(600, 7);
        let mut writes: Vec<(u64, &[u8])> =
            blocks.iter().enumerate().map(|(i, block)| ((i * 4 * BLOCK) as u64, &block[..])).collect();
        writes.push((400 * BLOCK as u64, &big));
        for _ in 0..2 {
            file.write_many(&writes).unwrap();
        }
        file.sync().unwrap();
        let all = content(&*file);
        for (offset, data) in writes {
            assert!(all[offset as usize..][..data.len()] == *data, "at {offset}");
        }
    });
}

#[test]
fn a_directory_can_stand_elsewhere() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (root, apart) = (dir.path().join("root"), dir.path().join("apart"));
    std::fs::create_dir(&root).unwrap();
    let files = OsFiles::new(&root).unwrap().with_directory("log", &apart);
    assert!(!files.exists("log").unwrap());
    files.create_dir("log").unwrap();
    files.create_dir("log").unwrap();
    files.open("log/a", OpenMode::CreateNew).unwrap();
    files.open("logbook", OpenMode::CreateNew).unwrap();
    files.rename("log/a", "log/b").unwrap();
    files.sync_dir("log").unwrap();
    assert_eq!(
        (files.list("log").unwrap(), files.list("").unwrap()),
        (vec!["b".into()], vec!["logbook".into()])
    );
    assert!(apart.join("b").is_file() && root.join("logbook").is_file() && !root.join("log").exists());
    files.remove("log/b").unwrap();
    assert!(files.list("log").unwrap().is_empty());
}

#[test]
fn a_write_that_fails_says_where() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let files = OsFiles::new(dir.path()).unwrap();
    files.open("f", OpenMode::CreateNew).unwrap();
    let file = files.open("f", OpenMode::Read).unwrap();
    let block = AlignedBuf::zeroed(BLOCK);
    for error in [
        file.write_at(0, &block).unwrap_err(),
        file.write_durable(0, &block).unwrap_err(),
        file.write_many(&[(0, &block), (8192, &block)]).unwrap_err(),
    ] {
        assert_eq!(errno(&error), Some(9), "{error}");
        assert!(error.to_string().contains("/f: "), "{error}");
    }
    let huge = files.open("g", OpenMode::CreateNew).unwrap().allocate(1 << 55).unwrap_err();
    assert!(is_no_space(&huge) || errno(&huge) == Some(27), "{huge}");
    assert!(OsFiles::new(dir.path().join("absent")).is_err());
    assert!(OsFiles::new(dir.path().join("f")).is_err());
}

#[test]
#[should_panic(expected = "not a multiple of a block")]
fn odd_lengths_are_a_bug() {
    let file = SimFiles::new().open("f", OpenMode::CreateNew).unwrap();
    let _ = file.write_at(0, &AlignedBuf::zeroed(BLOCK)[..100]);
}

#[test]
#[should_panic(expected = "not below the directory")]
fn names_stay_below_the_directory() {
    let _ = SimFiles::new().open("a/../../b", OpenMode::Read);
}

#[expect(clippy::mut_from_ref, reason = "what a page is: memory that the table only names")]
fn page(mapping: &Mapping, no: u32) -> &mut [u8] {
    // SAFETY: these tests are one thread, and hold one reference to a page at a time.
    unsafe { std::slice::from_raw_parts_mut(mapping.page(no), BLOCK) }
}

#[test]
fn a_mapping_is_private_and_grows_without_moving() {
    both(|files| {
        let file = files.open("data", OpenMode::CreateNew).unwrap();
        let first = filled(1, 5);
        file.write_at(0, &first).unwrap();
        file.allocate(5 * BLOCK as u64).unwrap();
        // One whole chunk of four blocks; the fifth is a tail that growth left.
        let mapping = Mapping::open(file.clone(), 4 * BLOCK as u64, 3).unwrap();
        assert_eq!((mapping.pages(), mapping.chunk_pages()), (4, 4));
        assert!(page(&mapping, 0) == &first[..]);
        let address = mapping.page(3);
        mapping.grow(4).unwrap();
        assert_eq!(mapping.pages(), 4);
        mapping.grow(9).unwrap();
        assert_eq!((mapping.pages(), file.len().unwrap()), (12, 12 * BLOCK as u64));
        assert_eq!(mapping.page(3), address);
        let refused = mapping.grow(13).unwrap_err();
        assert!(is_no_space(&refused), "{refused}");
        assert_eq!(mapping.pages(), 12);

        // Private: the file does not see it until it is written, from the mapped address to its own offset.
        mapping.populate(2, 5);
        mapping.populate_read(0, 12).unwrap();
        mapping.warm();
        page(&mapping, 5).fill(0xaa);
        page(&mapping, 6).fill(0xbb);
        assert!(content(&*file)[5 * BLOCK..7 * BLOCK].iter().all(|&byte| byte == 0));
        file.write_many(&[(5 * BLOCK as u64, page(&mapping, 5))]).unwrap();
        file.sync().unwrap();
        mapping.discard(3, 5).unwrap();
        assert!(page(&mapping, 5).iter().all(|&byte| byte == 0xaa));
        assert!(page(&mapping, 6).iter().all(|&byte| byte == 0));

        mapping.shrink(5).unwrap();
        assert_eq!((mapping.pages(), file.len().unwrap()), (8, 8 * BLOCK as u64));
        mapping.shrink(8).unwrap();
        assert!(page(&mapping, 5).iter().all(|&byte| byte == 0xaa));
        // What stands in room that was just allocated is nobody's business; that it can be used is.
        mapping.grow(12).unwrap();
        page(&mapping, 9).fill(0xcc);
        file.write_many(&[(9 * BLOCK as u64, page(&mapping, 9))]).unwrap();
        assert!(content(&*file)[9 * BLOCK..10 * BLOCK].iter().all(|&byte| byte == 0xcc));
    });
}

#[test]
#[should_panic(expected = "beyond the mapping")]
fn pages_beyond_the_mapping_are_a_bug() {
    let file = SimFiles::new().open("data", OpenMode::CreateNew).unwrap();
    let mapping = Mapping::open(file, 4 * BLOCK as u64, 3).unwrap();
    mapping.grow(1).unwrap();
    mapping.page(4);
}

#[test]
fn readers_follow_growth_without_a_lock() {
    let file = SimFiles::new().open("data", OpenMode::CreateNew).unwrap();
    let mapping = Mapping::open(file, 2 * BLOCK as u64, 200).unwrap();
    let published = Arc::new(AtomicU32::new(0));
    let reader = {
        let (mapping, published) = (Arc::clone(&mapping), Arc::clone(&published));
        std::thread::spawn(move || {
            while published.load(Ordering::Acquire) < 400 {
                let pages = published.load(Ordering::Acquire);
                assert!(mapping.pages() >= pages, "what is published is mapped");
                // SAFETY: the page is mapped, and nobody writes it any more.
                assert!(pages == 0 || unsafe { mapping.page(pages - 1).read() } == pages as u8);
            }
        })
    };
    for pages in 1..=400 {
        mapping.grow(pages).unwrap();
        // SAFETY: the page is mapped, and nobody reads it before it is published.
        unsafe { mapping.page(pages - 1).write(pages as u8) };
        published.store(pages, Ordering::Release);
    }
    reader.join().unwrap();
}

#[test]
fn the_probe_decides_on_a_real_disk() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let files = OsFiles::new(dir.path()).unwrap();
    let found = probe::probe(&files, probe::PROBE_BUDGET).unwrap();
    assert!(found.samples >= 1);
    assert!(files.list("").unwrap().is_empty());
    println!("{found:?} {:?}", files.open("f", OpenMode::CreateNew).unwrap().dio_alignment());
}

#[test]
fn a_bit_that_is_read_wrong_is_wrong_in_a_mapping_too() {
    let files = disk::SimFiles::new();
    let file = files.open("f", OpenMode::CreateNew).unwrap();
    let mut block = disk::AlignedBuf::zeroed(BLOCK);
    block.fill(1);
    file.write_at(0, &block).unwrap();
    for (spoiled, found) in [(true, 0), (false, 1)] {
        if spoiled {
            files.spoil_read_at(files.reads(), disk::sim::ReadFault::Flipped { at: 0, mask: 1 });
        }
        let chunk = file.map(0, BLOCK).unwrap();
        // SAFETY: the chunk's memory has at least one byte, and nobody writes it.
        assert_eq!(unsafe { chunk.base().read() }, found);
    }
}
