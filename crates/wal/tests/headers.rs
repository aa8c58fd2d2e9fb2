//! Segment headers that contradict what stands around them, or are gone. Whatever the contradiction, the log is refused
//! with the file where it shows and what it is (law 5): an operator acts on that line.

mod model;

use std::sync::Arc;

use base::limits::SEGMENTS_READY;
use disk::sim::KeepSet;
use disk::{BLOCK, Files, OpenMode, OsFiles, SimFiles};
use mainstay_wal::{Options, Record, Wal, WalError, Write};
use model::{DIR, Life, Model, Owned, names, recover, recover_beside};

/// Byte offsets in a segment header, as docs/DATA_FILES.md draws it.
const SEQ: usize = 40;
const PREDECESSOR_END: usize = 64;
const SEGMENT_BYTES: usize = 72;
const LAST_INDEX: usize = 104;
const CHECKPOINT_INDEX: usize = 120;
const PREVIOUS_CRC: usize = 136;

/// A log of one life over at least four segments, all durable, and the names of those in use.
fn settled() -> (SimFiles, Vec<String>) {
    let files = SimFiles::new();
    let mut life = Life::begin(&files, Model::default(), 1).unwrap();
    for index in 1..=17 {
        life.append_entry(index, 1, 5000);
        life.settle().unwrap();
    }
    let files = files.crash(&mut KeepSet::none);
    let used: Vec<String> =
        names(&files).into_iter().filter(|name| files.bytes(name).unwrap()[..8] == *b"MSTYSEGM").collect();
    assert!(used.len() >= 4, "{used:?}");
    (files, used)
}

/// Writes a number of `bytes` bytes into a header, and makes its checksum right again.
fn forge(header: &mut [u8], at: usize, bytes: usize, value: u64) {
    header[at..at + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
    let crc = base::crc32c(&header[..BLOCK - 4]);
    header[BLOCK - 4..BLOCK].copy_from_slice(&crc.to_le_bytes());
}

fn u64_at(header: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(header[at..at + 8].try_into().unwrap())
}

/// What recovery says of `files` after a change: file, offset and the contradiction.
fn refused(files: &SimFiles, change: &dyn Fn(&SimFiles)) -> (String, u64, String) {
    let damaged = files.image();
    change(&damaged);
    match recover(&damaged, 99) {
        Err(WalError::Corrupt { file, offset, what, .. }) => (file, offset, what),
        Err(other) => panic!("{other}"),
        Ok((_, recovered)) => panic!("accepted up to {:?}, cut: {:?}", recovered.last, recovered.cut),
    }
}

/// Where the batches of a segment end, by the header of the next one.
fn end_of(files: &SimFiles, next: &str) -> u64 {
    u64_at(&files.bytes(next).unwrap(), PREDECESSOR_END)
}

#[test]
fn a_header_that_does_not_go_on_where_the_one_before_ends_is_refused() {
    let (files, used) = settled();
    let header = files.bytes(&used[2]).unwrap();
    for (at, bytes, value) in
        [(SEQ, 8, u64_at(&header, SEQ) + 1), (PREVIOUS_CRC, 4, u64_at(&header, PREVIOUS_CRC) ^ 1)]
    {
        let (file, offset, what) = refused(&files, &|files| {
            files.edit(&used[2], 0, &mut |header| forge(header, at, bytes, value));
        });
        assert_eq!((&file, offset), (&used[2], 0), "{what}");
        assert!(what.contains("does not go on where 00000002.seg ends"), "{what}");
    }
}

#[test]
fn a_predecessor_that_is_too_short_for_what_is_said_of_it_is_refused() {
    let (files, used) = settled();
    let length = files.bytes(&used[1]).unwrap().len() as u64;
    for value in [length + BLOCK as u64, 0] {
        let (file, _, what) = refused(&files, &|files| {
            files.edit(&used[2], 0, &mut |header| forge(header, PREDECESSOR_END, 8, value));
        });
        assert_eq!(file, used[1], "{what}");
        assert!(what.contains("shorter than it once was"), "{what}");
    }
}

#[test]
fn a_length_that_is_not_the_headers_is_refused() {
    let (files, used) = settled();
    let length = files.bytes(&used[1]).unwrap().len() as u64;
    for bytes in [length + BLOCK as u64, length - BLOCK as u64, BLOCK as u64] {
        let (file, offset, what) = refused(&files, &|files| {
            files.open(&used[1], OpenMode::ReadWrite).unwrap().truncate(bytes).unwrap();
        });
        assert_eq!((&file, offset), (&used[1], bytes), "{what}");
        assert!(what.contains(&format!("the file has {bytes} bytes, its header says {length}")), "{what}");
    }
}

/// Recovery reads a segment whole: what would fill the memory is no segment of ours.
#[test]
fn a_segment_above_the_longest_is_refused_unread() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let files: Arc<dyn Files> = Arc::new(OsFiles::new(dir.path()).unwrap());
    let options = Options { segment_bytes: 64 << 10, batch_bytes: 8 << 10, in_flight: 2, boot: 1 };
    drop(Wal::recover(files.clone(), DIR, options).unwrap());
    let name = format!("{DIR}/00000001.seg");
    let path = dir.path().join(&name);
    let mut header = std::fs::read(&path).unwrap();
    let bytes = base::limits::SEGMENT_BYTES_MAX + BLOCK as u64;
    forge(&mut header, SEGMENT_BYTES, 8, bytes);
    std::fs::write(&path, &header).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(bytes).unwrap();
    match Wal::recover(files, DIR, Options { boot: 2, ..options }).err() {
        Some(WalError::Corrupt { file, what, .. }) => {
            assert_eq!(file, name, "{what}");
            assert!(what.contains(&format!("the file has {bytes} bytes")), "{what}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_segment_under_the_name_of_an_earlier_one_was_renamed() {
    let (files, used) = settled();
    let (file, _, what) = refused(&files, &|files| files.rename(&used[3], &used[1]).unwrap());
    assert_eq!(file, used[1], "{what}");
    assert!(what.contains("the file holds segment 4: it was renamed"), "{what}");
}

/// The newest segments lost their headers, and their batches are witnesses.
#[test]
fn a_lost_header_is_missed_where_its_batches_are_left() {
    let (files, used) = settled();
    let [.., third, second, newest] = &used[..] else { panic!("{used:?}") };
    let behead = |files: &SimFiles, name: &str| files.edit(name, 0, &mut |bytes| bytes[..BLOCK].fill(0));
    // The newest has two batches at least: the second says that the first was durable.
    for (lost, named) in [(&[newest][..], newest), (&[second, newest][..], second)] {
        let (file, offset, what) = refused(&files, &|files| lost.iter().for_each(|name| behead(files, name)));
        assert_eq!((&file, offset), (named, 0), "{what}");
        assert!(what.contains("the segment header is damaged, and its batches are not"), "{what}");
    }
    // With the last batch before it torn, that is where the log breaks off.
    let end = end_of(&files, newest);
    let torn = refused(&files, &|files| {
        behead(files, newest);
        files.edit(second, end - 2 * BLOCK as u64 + 80, &mut |bytes| bytes[0] ^= 1);
    });
    assert_eq!((&torn.0, torn.1), (second, end - 2 * BLOCK as u64), "{}", torn.2);
    assert!(torn.2.contains("and later batches say that all up to"), "{}", torn.2);
    // Gone without a trace, with all headers good: again where the log breaks off, not where it goes on.
    let end = end_of(&files, second);
    let gone = refused(&files, &|files| {
        files.edit(third, end - 2 * BLOCK as u64, &mut |bytes| bytes[..2 * BLOCK].fill(0));
    });
    assert_eq!((&gone.0, gone.1), (third, end - 2 * BLOCK as u64), "{}", gone.2);
    assert!(gone.2.contains("is missing, and later batches say that all up to"), "{}", gone.2);
}

/// The header and all but one of the batches that can be in flight with it are gone, at full size: the next one was
/// submitted when the header was durable, and it is looked at.
#[test]
fn a_witness_is_looked_for_as_far_as_batches_can_be_in_flight() {
    let files = SimFiles::new();
    let options = Options { segment_bytes: 16 << 20, batch_bytes: 1 << 20, in_flight: 8, boot: 1 };
    let (mut wal, _) = Wal::recover(Arc::new(files.clone()), DIR, options).unwrap();
    let (mut index, mut held, mut segments) = (0, Vec::<Write>::new(), 1);
    // In the second segment its header and seven batches are in flight at once, and then one more is written.
    let data = vec![7; (1 << 20) - 72 - 32];
    while index < 24 {
        if let Some(job) = wal.wants_segment(SEGMENTS_READY) {
            wal.segment_ready(job.run(&files).unwrap());
        }
        index += 1;
        wal.append(Record::Entry { term: 1, index, kind: 0, data: &data });
        while let Some(write) = wal.submit() {
            segments += u64::from(write.offset == 0);
            held.push(write);
        }
        if segments == 1 || wal.in_flight() == 8 || index == 24 {
            for write in held.drain(..) {
                write.perform().unwrap();
                wal.written(write.seq, write.buf);
            }
        }
    }
    assert_eq!((wal.in_flight(), wal.unsubmitted_bytes(), segments), (0, 0, 2));
    drop(wal);
    // All of both is read where nothing is amiss.
    let whole = Wal::recover(Arc::new(files.image()), DIR, Options { boot: 2, ..options }).unwrap().1;
    assert_eq!((whole.last, whole.entries.len()), ((24, 1), 24));
    let second = format!("{DIR}/00000002.seg");
    let lost = BLOCK + (7 << 20);
    for (bytes, why) in [(lost, "the eighth batch is the first that knows of the header"), (BLOCK, "all do")]
    {
        let damaged = files.image();
        damaged.edit(&second, 0, &mut |image| image[..bytes].fill(0));
        match Wal::recover(Arc::new(damaged), DIR, Options { boot: 2, ..options }).err() {
            Some(WalError::Corrupt { file, .. }) => assert_eq!(file, second),
            other => panic!("{why}: {other:?}"),
        }
    }
}

/// The segment that begins the log cannot say that something was before it.
#[test]
fn a_first_segment_with_a_past_is_refused() {
    let (files, used) = settled();
    for (at, text) in [(LAST_INDEX, "entry 7 was before it"), (CHECKPOINT_INDEX, "was before it")] {
        let (file, offset, what) = refused(&files, &|files| {
            files.edit(&used[0], 0, &mut |header| {
                forge(header, LAST_INDEX, 8, 7);
                forge(header, at, 8, 7);
            });
        });
        assert_eq!((&file, offset), (&used[0], 0), "{what}");
        assert!(what.contains("the log begins with it") && what.contains(text), "{what}");
    }
}

/// Nor can its header be a write that no log has made: numbers that cannot be counted on from are refused.
#[test]
fn a_header_with_an_impossible_number_is_refused() {
    let (files, used) = settled();
    for seq in [0, 1 << 63, u64::MAX] {
        let (file, offset, what) =
            refused(&files, &|files| files.edit(&used[0], 0, &mut |header| forge(header, SEQ, 8, seq)));
        assert_eq!((&file, offset), (&used[0], 0), "{what}");
        assert!(what.contains(&format!("is said to be write {seq}:")), "{what}");
    }
}

/// Gives the batches of a segment the checksums that follow from its header.
fn chain_anew(segment: &mut [u8]) {
    let mut previous = base::crc32c(&segment[..BLOCK - 4]);
    for at in (BLOCK..segment.len()).step_by(BLOCK) {
        if segment[at..at + 8] != *b"MSTYBTCH" {
            continue;
        }
        segment[at + 56..at + 60].copy_from_slice(&previous.to_le_bytes());
        previous = base::crc32c(&segment[at..at + 68]);
        segment[at + 68..at + 72].copy_from_slice(&previous.to_le_bytes());
    }
}

/// A checkpoint covers the oldest segment, but the next one's header speaks of entries that nothing covers: a start that took
/// the oldest would leave a log that the next start refuses.
#[test]
fn the_oldest_segment_is_not_taken_from_one_that_needs_it() {
    let files = SimFiles::new();
    let mut life = Life::begin(&files, Model::default(), 1).unwrap();
    for index in 1..=6 {
        life.append_entry(index, 1, 7000);
        life.settle().unwrap();
    }
    life.append(Owned::Checkpoint(3, 1));
    life.settle().unwrap();
    drop(life);
    for name in names(&files).iter().rev().take(SEGMENTS_READY) {
        files.remove(name).unwrap();
    }
    let [first, second] = &names(&files)[..] else { panic!("three entries in each") };
    for (last_index, taken) in [(3, true), (1000, false)] {
        let files = files.image();
        files.edit(second, 0, &mut |bytes| {
            forge(bytes, LAST_INDEX, 8, last_index);
            chain_anew(bytes);
        });
        let (_, recovered) = recover_beside(&files, 3, 3).unwrap();
        assert_eq!(recovered.last, (6, 1));
        assert_eq!(names(&files).contains(first), !taken, "{last_index}");
        let (_, again) = recover_beside(&files, 4, 3).unwrap();
        assert_eq!((again.last, again.checkpoint), (recovered.last, recovered.checkpoint));
    }
}
