//! The writing side's promises, one by one, and a real disk.

mod model;

use std::sync::Arc;

use base::limits::SEGMENTS_READY;
use disk::{BLOCK, Files, OsFiles, SimFiles};
use mainstay_wal::{Durable, Entry, HardState, Options, Record, Wal, Write};
use model::{DIR, names, options, recover};

fn entry(index: u64, term: u64, data: &[u8]) -> Record<'_> {
    Record::Entry { term, index, kind: 0, data }
}

/// Does a write and gives it back.
fn finish(wal: &mut Wal, write: Write) -> Option<Durable> {
    write.perform().unwrap();
    wal.written(write.seq, write.buf)
}

/// Keeps the segments ready and writes all that is gathered.
fn settle(wal: &mut Wal, files: &dyn Files) {
    loop {
        while let Some(job) = wal.wants_segment(SEGMENTS_READY) {
            wal.segment_ready(job.run(files).unwrap());
        }
        let Some(write) = wal.submit() else { return };
        finish(wal, write);
    }
}

/// A full disk is no reason to refuse: what a start needs was there before (law 8). As often as segments were ready.
#[test]
fn a_start_without_room_comes_up() {
    // Of all boots, those that have segments of one length.
    let mut boots = (1..).filter(|boot| boot % 4 != 2);
    let mut killed_at_once = |files: &SimFiles, index| {
        let (mut wal, recovered) = recover(files, boots.next().unwrap()).unwrap();
        assert_eq!(recovered.last.0, index - 1, "what was written is there");
        wal.append(entry(index, 1, b"x"));
        while let Some(write) = wal.submit() {
            finish(&mut wal, write);
        }
        wal
    };
    let fill = |files: &SimFiles| files.set_capacity((1 << 50) - files.free_bytes().unwrap());

    let files = SimFiles::new();
    drop(killed_at_once(&files, 1));
    fill(&files);
    drop(killed_at_once(&files, 2));
    let refused = recover(&files, 3).err().unwrap().to_string();
    assert!(refused.contains("make the log segment"), "{refused}");
    files.set_capacity(1 << 50);

    let mut wal = killed_at_once(&files, 3);
    settle(&mut wal, &files);
    drop(wal);
    fill(&files);
    for index in 4..4 + SEGMENTS_READY as u64 {
        drop(killed_at_once(&files, index));
    }
}

/// Nor is it where nothing was left ready, but the oldest segment is not needed any more; and of those that are needed none
/// is taken.
#[test]
fn a_start_without_room_takes_what_is_covered() {
    let start = |files: &SimFiles, boot, covered| {
        Wal::read(Arc::new(files.clone()), DIR, options(boot), 10)?.open(covered)
    };
    let files = SimFiles::new();
    let (mut wal, _) = recover(&files, 1).unwrap();
    for index in 1..=10 {
        wal.append(entry(index, 1, &[1; 7000]));
        settle(&mut wal, &files);
    }
    wal.append(Record::Checkpoint { index: 8, term: 1, sequence: 5 });
    settle(&mut wal, &files);
    drop(wal);
    // Those that are ready are gone, as after starts that were killed.
    for name in names(&files).iter().rev().take(SEGMENTS_READY) {
        files.remove(name).unwrap();
    }
    files.sync_dir(DIR).unwrap();
    files.set_capacity((1 << 50) - files.free_bytes().unwrap());
    let before = names(&files);
    assert!(before.len() >= 4, "three entries in each: {before:?}");
    for (covered, taken) in [(2, false), (3, true), (8, true), (10, true)] {
        let files = files.image();
        match start(&files, 3, covered) {
            Ok((mut wal, recovered)) => {
                assert!(taken, "{covered}");
                assert_eq!((recovered.last.0, recovered.checkpoint_sequence), (10, 5));
                assert_eq!(recovered.entries.first().map(|entry| entry.index), Some(10));
                assert!(!names(&files).contains(&before[0]) && names(&files).len() == before.len());
                // Released again, the rest that is covered follows.
                wal.release_to(covered);
                assert_eq!(wal.segments_left() > 0, covered >= 6, "{covered}");
                let again = start(&files.image(), 4, 0).err().map(|error| error.to_string());
                assert_eq!(again, None, "a fresh segment without a batch is used again");
            }
            Err(error) => assert!(!taken && error.to_string().contains("make the log segment"), "{error}"),
        }
    }
    // The only one is never taken: a crash on the way would leave no log at all.
    let files = SimFiles::new();
    let (mut wal, _) = recover(&files, 1).unwrap();
    wal.append(entry(1, 1, b"x"));
    wal.append(Record::Checkpoint { index: 1, term: 1, sequence: 5 });
    settle(&mut wal, &files);
    drop(wal);
    for name in names(&files).iter().rev().take(SEGMENTS_READY) {
        files.remove(name).unwrap();
    }
    assert_eq!(names(&files).len(), 1);
    files.set_capacity((1 << 50) - files.free_bytes().unwrap());
    assert!(start(&files, 3, 1).is_err());
    assert_eq!(names(&files), ["log/00000001.seg"]);
    // A checkpoint that the log does not speak of covers nothing.
    let (files, sizes) = (SimFiles::new(), options(1));
    let (mut wal, _) = Wal::recover(Arc::new(files.clone()), DIR, sizes).unwrap();
    for index in 1..=10 {
        wal.append(entry(index, 1, &[1; 7000]));
        settle(&mut wal, &files);
    }
    drop(wal);
    for name in names(&files).iter().rev().take(SEGMENTS_READY) {
        files.remove(name).unwrap();
    }
    files.set_capacity((1 << 50) - files.free_bytes().unwrap());
    assert!(start(&files, 3, 10).is_err());
}

#[test]
fn only_the_contiguous_prefix_counts() {
    let files = SimFiles::new();
    let (mut wal, recovered) = recover(&files, 1).unwrap();
    assert_eq!((recovered.last, recovered.cut, recovered.checkpoint), ((0, 0), None, None));
    assert!(wal.submit().is_none(), "nothing is gathered");
    let mut writes = Vec::new();
    for index in 1..=4 {
        wal.append(entry(index, 1, b"x"));
        wal.mark_ready(index * 10);
        writes.extend(wal.submit());
    }
    assert_eq!((writes.len(), wal.in_flight()), (3, 3), "the limit in flight");
    assert!(wal.unsubmitted_bytes() > 0);
    let offsets: Vec<u64> = writes.iter().map(|write| write.offset / BLOCK as u64).collect();
    assert_eq!(offsets, [1, 2, 3], "each on a block of its own");

    let [first, second, third]: [Write; 3] = writes.try_into().unwrap();
    assert_eq!(finish(&mut wal, third), None);
    assert_eq!(finish(&mut wal, second), None);
    assert_eq!(wal.durable(), Durable { ready: 0, term: 0, index: 0 });
    assert!(wal.submit().is_none(), "done, but not counted: still in flight");
    assert_eq!(finish(&mut wal, first), Some(Durable { ready: 30, term: 1, index: 3 }));
    let last = wal.submit().unwrap();
    assert_eq!((wal.unsubmitted_bytes(), last.seq), (0, 5));
    assert_eq!(finish(&mut wal, last), Some(Durable { ready: 40, term: 1, index: 4 }));
}

#[test]
fn the_durable_index_may_fall_and_terms_go_with_it() {
    let files = SimFiles::new();
    let (mut wal, _) = recover(&files, 1).unwrap();
    for index in 1..=5 {
        wal.append(entry(index, 1, b"old"));
    }
    settle(&mut wal, &files);
    assert_eq!(wal.durable().index, 5);
    wal.append(entry(3, 2, b"new"));
    let write = wal.submit().unwrap();
    assert_eq!(wal.durable().index, 5, "not before it is durable");
    assert_eq!(finish(&mut wal, write), Some(Durable { ready: 0, term: 2, index: 3 }));
    let (_, recovered) = recover(&files, 2).unwrap();
    let terms: Vec<(u64, u64)> = recovered.entries.iter().map(|e| (e.index, e.term)).collect();
    assert_eq!(terms, [(1, 1), (2, 1), (3, 2)]);
}

#[test]
fn a_ready_number_waits_for_what_was_appended_before_it() {
    let files = SimFiles::new();
    let (mut wal, _) = recover(&files, 1).unwrap();
    wal.mark_ready(1);
    assert_eq!(wal.durable().ready, 1, "nothing to wait for");
    wal.append(entry(1, 1, b"x"));
    wal.mark_ready(2);
    let first = wal.submit().unwrap();
    wal.mark_ready(3);
    assert_eq!(wal.durable().ready, 1);
    assert_eq!(finish(&mut wal, first).unwrap().ready, 3, "nothing was appended for 3");
    // A record of several batches: its number comes with the last of them.
    let big = vec![7; 5 * BLOCK];
    wal.append(entry(2, 1, &big));
    wal.mark_ready(4);
    let mut seen = Vec::new();
    while let Some(write) = wal.submit() {
        seen.push(finish(&mut wal, write).unwrap());
    }
    let (last, parts) = seen.split_last().unwrap();
    assert!(parts.len() >= 2 && parts.iter().all(|part| (part.ready, part.index) == (3, 1)), "{parts:?}");
    assert_eq!((last.ready, last.index), (4, 2));
}

#[test]
fn without_a_ready_segment_submit_waits() {
    let files = SimFiles::new();
    let (mut wal, _) = recover(&files, 1).unwrap();
    let data = vec![1; 7000];
    for index in 1..=7 {
        wal.append(entry(index, 1, &data));
    }
    // Three batches, the header of the segment that was there from the founding on, three batches.
    for _ in 0..7 {
        let write = wal.submit().unwrap();
        finish(&mut wal, write);
    }
    // Blocks 1..7 of both are full; one is left, the next batch needs two.
    assert!(wal.submit().is_none() && wal.unsubmitted_bytes() > 0 && wal.in_flight() == 0);
    let job = wal.wants_segment(SEGMENTS_READY).unwrap();
    assert!(wal.wants_segment(SEGMENTS_READY).is_none(), "one job at a time");
    let ready = job.run(&files).unwrap();
    wal.segment_ready(ready);
    let header = wal.submit().unwrap();
    assert_eq!((header.offset, header.len, header.segment.to_string()), (0, BLOCK, "00000003.seg".into()));
    let batch = wal.submit().unwrap();
    assert_eq!((batch.offset, batch.len, batch.segment), (BLOCK as u64, 2 * BLOCK, header.segment));
    assert_eq!(finish(&mut wal, batch), None, "its segment has no header yet");
    assert_eq!(finish(&mut wal, header).unwrap().index, 7);
    settle(&mut wal, &files);
    assert_eq!(wal.segments_ready(), SEGMENTS_READY, "law 8's reserve");
    assert_eq!(wal.segments(), 3);
}

#[test]
fn a_full_disk_only_delays_the_next_segment() {
    let files = SimFiles::new();
    let (mut wal, _) = recover(&files, 1).unwrap();
    files.set_capacity(10 * BLOCK as u64);
    let refused = wal.wants_segment(SEGMENTS_READY).unwrap().run(&files).err().unwrap();
    assert!(disk::is_no_space(&refused), "{refused}");
    wal.segment_failed();
    files.set_capacity(1 << 30);
    settle(&mut wal, &files);
    assert_eq!(wal.segments_ready(), SEGMENTS_READY);
}

#[test]
fn segments_are_kept_until_a_durable_checkpoint_covers_them() {
    let files = SimFiles::new();
    let (mut wal, _) = recover(&files, 1).unwrap();
    let data = vec![1; 3000];
    let mut index = 0;
    let mut write_some = |wal: &mut Wal| {
        for _ in 0..20 {
            index += 1;
            wal.append(entry(index, 1, &data));
            settle(wal, &files);
        }
        index
    };
    let covered = write_some(&mut wal);
    let all = wal.segments();
    assert!(all >= 3);
    wal.release_to(covered);
    assert_eq!(wal.segments(), all, "no checkpoint is durable");
    wal.append(Record::Checkpoint { index: covered, term: 1, sequence: 1 });
    let write = wal.submit().unwrap();
    assert_eq!(wal.segments(), all, "still not");
    finish(&mut wal, write);
    let kept = wal.segments();
    assert!(kept < all, "now it takes effect");
    write_some(&mut wal);
    let (_, recovered) = recover(&files, 2).unwrap();
    assert_eq!(recovered.checkpoint, Some((covered, 1)));
    assert_eq!(recovered.last, (40, 1));
    assert!(recovered.entries[0].index <= covered + 1);
}

#[test]
fn release_counts_in_bytes_too() {
    let files = SimFiles::new();
    let sizes = Options { segment_bytes: 1 << 20, batch_bytes: 64 << 10, in_flight: 4, boot: 1 };
    let (mut wal, _) = Wal::recover(Arc::new(files.clone()), DIR, sizes).unwrap();
    let data = vec![1; 60_000];
    for index in 1..=100 {
        wal.append(entry(index, 1, &data));
        settle(&mut wal, &files);
    }
    let written = wal.bytes_since_release();
    assert!(written > 6_000_000, "{written}");
    wal.append(Record::Checkpoint { index: 50, term: 1, sequence: 1 });
    settle(&mut wal, &files);
    wal.release_to(50);
    let left = wal.bytes_since_release();
    assert!((3_000_000..3_900_000).contains(&left), "{left}");
    let (mut wal, _) = Wal::recover(Arc::new(files.clone()), DIR, Options { boot: 2, ..sizes }).unwrap();
    wal.release_to(50);
    let after = wal.bytes_since_release();
    assert!((3_000_000..4_500_000).contains(&after), "{after}");
}

/// What a restart would replay follows the newest checkpoint, what it would read follows the release (law 6).
#[test]
fn the_newest_checkpoint_and_the_release_are_counted_apart() {
    let files = SimFiles::new();
    let sizes = Options { segment_bytes: 1 << 20, batch_bytes: 64 << 10, in_flight: 4, boot: 1 };
    let (mut wal, _) = Wal::recover(Arc::new(files.clone()), DIR, sizes).unwrap();
    let data = vec![1; 60_000];
    let append = |wal: &mut Wal, index| {
        wal.append(entry(index, 1, &data));
        settle(wal, &files);
    };
    (1..=100).for_each(|index| append(&mut wal, index));
    let (all, segments) = (wal.bytes_since_checkpoint(), wal.segments());
    assert_eq!((wal.bytes_since_release(), wal.segments_since_checkpoint()), (all, segments));
    wal.append(Record::Checkpoint { index: 90, term: 1, sequence: 7 });
    settle(&mut wal, &files);
    assert!((600_000..1_000_000).contains(&wal.bytes_since_checkpoint()), "{}", wal.bytes_since_checkpoint());
    assert!(wal.bytes_since_release() >= all, "nothing is released");
    assert_eq!(wal.segments(), segments);
    assert!(wal.segments_since_checkpoint() <= 2, "the current one and at most one before");
    wal.release_to(40);
    assert_eq!(wal.released(), 40);
    assert!(wal.bytes_since_release() < all * 7 / 10 && wal.segments() < segments);
    drop(wal);

    let (mut wal, recovered) =
        Wal::read(Arc::new(files.clone()), DIR, Options { boot: 2, ..sizes }, 90).unwrap().open(0).unwrap();
    assert_eq!((recovered.checkpoint, recovered.checkpoint_sequence), (Some((90, 1)), 7));
    let kept: Vec<u64> = recovered.entries.iter().map(|entry| entry.index).collect();
    assert_eq!(kept, (90..=100).collect::<Vec<u64>>(), "older ones are read and not kept");
    let after = wal.bytes_since_checkpoint();
    assert!((600_000..2_200_000).contains(&after), "by whole segments: {after}");
    assert!(wal.bytes_since_release() > 3_000_000);
    (101..=120).for_each(|index| append(&mut wal, index));
    wal.append(Record::Checkpoint { index: 120, term: 1, sequence: 8 });
    settle(&mut wal, &files);
    assert!(wal.bytes_since_checkpoint() < 300_000, "{}", wal.bytes_since_checkpoint());
    assert_eq!(wal.segments_since_checkpoint(), 1);
}

#[test]
fn starts_that_write_nothing_use_up_nothing() {
    let files = SimFiles::new();
    let (mut wal, _) = recover(&files, 1).unwrap();
    wal.append(entry(1, 1, b"x"));
    settle(&mut wal, &files);
    drop(wal);
    for boot in 2..30 {
        let (mut wal, recovered) = recover(&files, boot).unwrap();
        assert_eq!((recovered.last, recovered.cut), ((1, 1), None));
        assert_eq!(wal.segments(), 2);
        settle(&mut wal, &files);
        assert!(names(&files).len() <= 6, "{:?}", names(&files));
    }
    // Nor do they need any room, where segments keep their length.
    for boot in 30..40 {
        let used = names(&files).iter().map(|name| files.bytes(name).unwrap().len() as u64).sum();
        let options = Options { boot, ..options(29) };
        let (mut wal, recovered) = Wal::recover(Arc::new(files.clone()), DIR, options).unwrap();
        assert_eq!(recovered.last, (1, 1));
        settle(&mut wal, &files);
        files.set_capacity(used);
    }
}

#[test]
fn of_what_is_left_over_some_is_kept_and_the_rest_given_back() {
    let files = SimFiles::new();
    let (mut wal, _) = recover(&files, 1).unwrap();
    for index in 1..=40 {
        wal.append(entry(index, 1, &[1; 7000]));
        settle(&mut wal, &files);
    }
    wal.append(Record::Checkpoint { index: 40, term: 1, sequence: 1 });
    settle(&mut wal, &files);
    let all = names(&files);
    let newest = all.iter().rposition(|name| files.bytes(name).unwrap()[..8] == *b"MSTYSEGM").unwrap();
    assert!(newest > 10, "{newest}");
    drop(wal);
    // The chain begins at the newest; those in front of it are left over.
    files.remove(&all[newest - 1]).unwrap();
    let (mut wal, recovered) = recover(&files, 3).unwrap();
    assert_eq!(recovered.last, (40, 1));
    settle(&mut wal, &files);
    // The newest, the fresh one, and spare ones, of which two are ready.
    assert_eq!(names(&files).len(), 2 + base::limits::LOG_SPARE_SEGMENTS, "{:?}", names(&files));
}

#[test]
fn a_restart_from_a_snapshot_voids_all_entries() {
    let files = SimFiles::new();
    let (mut wal, _) = recover(&files, 1).unwrap();
    for index in 1..=30 {
        wal.append(entry(index, 2, &[0; 2000]));
        settle(&mut wal, &files);
    }
    wal.append(Record::Restart { index: 20, term: 3 });
    settle(&mut wal, &files);
    assert_eq!((wal.durable().index, wal.durable().term), (20, 3));
    let (mut wal, recovered) = recover(&files, 2).unwrap();
    assert_eq!((recovered.entries.len(), recovered.last), (0, (20, 3)));
    wal.append(entry(21, 3, b"next"));
    wal.append(Record::HardState(HardState { term: 3, vote: 7, commit: 99 }));
    settle(&mut wal, &files);
    let (_, recovered) = recover(&files, 3).unwrap();
    assert_eq!((recovered.entries.len(), recovered.checkpoint), (1, Some((20, 3))));
    assert_eq!(recovered.hard_state, HardState { term: 3, vote: 7, commit: 21 }, "no more than there is");
}

#[test]
#[should_panic(expected = "leaves a gap")]
fn a_gap_is_a_bug() {
    recover(&SimFiles::new(), 1).unwrap().0.append(entry(2, 1, b""));
}

#[test]
#[should_panic(expected = "below a checkpoint")]
fn an_entry_below_a_checkpoint_is_a_bug() {
    let (mut wal, _) = recover(&SimFiles::new(), 1).unwrap();
    wal.append(Record::Checkpoint { index: 5, term: 1, sequence: 1 });
    wal.append(entry(5, 2, b""));
}

#[test]
#[should_panic(expected = "completes once")]
fn a_write_completes_once() {
    let (mut wal, _) = recover(&SimFiles::new(), 1).unwrap();
    wal.append(entry(1, 1, b""));
    let _first = wal.submit().unwrap();
    wal.append(entry(2, 1, b""));
    let second = wal.submit().unwrap();
    wal.written(second.seq, second.buf);
    wal.written(second.seq, disk::AlignedBuf::zeroed(BLOCK));
}

#[test]
fn sizes_may_change_from_start_to_start() {
    let files = SimFiles::new();
    let mut last = 0;
    for (boot, blocks) in [(1, 8), (2, 16), (3, 4), (4, 8)] {
        let sizes = Options { segment_bytes: blocks * BLOCK as u64, ..options(boot) };
        let (mut wal, recovered) = Wal::recover(Arc::new(files.clone()), DIR, sizes).unwrap();
        assert_eq!((recovered.last.0, recovered.entries.len() as u64), (last, last));
        for _ in 0..20 {
            last += 1;
            wal.append(entry(last, 1, &[3; 3000]));
            settle(&mut wal, &files);
        }
    }
    let (mut wal, _) = recover(&files, 5).unwrap();
    wal.append(Record::Checkpoint { index: last, term: 1, sequence: 1 });
    settle(&mut wal, &files);
    wal.release_to(last);
    settle(&mut wal, &files);
    for name in names(&files) {
        assert_eq!(files.bytes(&name).unwrap().len(), 8 * BLOCK, "other sizes are not used again: {name}");
    }
}

#[test]
fn a_real_disk_gives_back_what_it_took() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let files: Arc<dyn Files> = Arc::new(OsFiles::new(dir.path()).unwrap());
    let sizes = Options { segment_bytes: 256 << 10, batch_bytes: 32 << 10, in_flight: 4, boot: 1 };
    let mut random = base::Random::new(1);
    let mut model: Vec<Entry> = Vec::new();
    let mut given_up = 0;
    for boot in 1..=4 {
        let (mut wal, recovered) = Wal::recover(files.clone(), DIR, Options { boot, ..sizes }).unwrap();
        assert_eq!(recovered.cut, None);
        let missing = model.len() - recovered.entries.len();
        assert!(model[missing..] == recovered.entries[..], "boot {boot}");
        assert!(missing as u64 <= given_up);
        for _ in 0..60 {
            let mut data = vec![0; random.below(20_000) as usize];
            random.fill(&mut data);
            let index = model.len() as u64 + 1;
            wal.append(Record::Entry { term: boot, index, kind: 1, data: &data });
            model.push(Entry { term: boot, index, kind: 1, data });
            while let Some(job) = wal.wants_segment(SEGMENTS_READY) {
                wal.segment_ready(job.run(&*files).unwrap());
            }
            // Out of order, as a ring completes them.
            let mut writes: Vec<Write> = std::iter::from_fn(|| wal.submit()).collect();
            while let Some(write) = writes.pop() {
                finish(&mut wal, write);
            }
        }
        settle(&mut wal, &*files);
        assert_eq!(wal.durable().index, model.len() as u64);
        given_up = model.len() as u64 - 20;
        wal.append(Record::Checkpoint { index: given_up, term: boot, sequence: 1 });
        settle(&mut wal, &*files);
        wal.release_to(given_up);
        settle(&mut wal, &*files);
    }
    let (_, recovered) = Wal::recover(files, DIR, Options { boot: 9, ..sizes }).unwrap();
    assert!(recovered.entries.len() < model.len(), "old segments were given up");
    assert_eq!(recovered.last, (240, 4));
}

/// Law 4: the header that carries hard state and checkpoint onwards comes before the segment that held them goes.
#[test]
fn a_segment_is_kept_until_its_successor_has_a_durable_header() {
    let files = SimFiles::new();
    let (mut wal, _) = recover(&files, 1).unwrap();
    settle(&mut wal, &files);
    for index in 1..=3 {
        wal.append(entry(index, 1, &[1; 7000]));
        settle(&mut wal, &files);
    }
    wal.append(Record::Checkpoint { index: 3, term: 1, sequence: 1 });
    settle(&mut wal, &files);
    wal.release_to(3);
    wal.append(entry(4, 1, b"x"));
    let header = wal.submit().unwrap();
    let batch = wal.submit().unwrap();
    assert_eq!((header.offset, wal.segments()), (0, 2));
    assert_eq!(finish(&mut wal, batch), None);
    wal.release_to(3);
    assert_eq!(wal.segments(), 2, "the old header is all there is of the hard state");
    finish(&mut wal, header);
    assert_eq!(wal.segments(), 1);
}
