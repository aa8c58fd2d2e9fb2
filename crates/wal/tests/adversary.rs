//! Law 5 against somebody who wants to lose an acknowledged write, or bring back one that was cut. What can do that:
//!
//! 1. a torn tail is cut, others are written in its place, and the next crash shows the old bytes again;
//! 2. the same over the border of two segments, when the cut falls before a segment that was in use;
//! 3. a recycled segment's old life is taken for the new one, because a client stored bytes that look like it;
//! 4. damage to what is acknowledged looks like a tear, because nothing later speaks of it yet (the window of
//!    `Wal::affirm`);
//! 5. damage to the one header that says where a cut was, or that a segment begins.

mod model;

use base::Random;
use disk::sim::{Keep, KeepSet};
use disk::{BLOCK, SimFiles};
use mainstay_wal::{Entry, SegmentId, WalError};
use model::{DIR, Life, Model, Owned, names, recover};

/// Every choice among so many unsynced changes: each lost, whole, or torn either way.
fn every_choice(count: usize, seed: u64) -> Vec<KeepSet> {
    let torn = |unit| Keep::Torn { unit, seed };
    let kinds = [Keep::Lost, Keep::Whole, torn(512), torn(4096)];
    let kinds = if count > 4 { &kinds[..2] } else { &kinds[..] };
    let total = kinds.len().pow(count as u32);
    (0..total)
        .map(|number| {
            KeepSet((0..count).map(|at| kinds[number / kinds.len().pow(at as u32) % kinds.len()]).collect())
        })
        .collect()
}

/// A log with entries `1..=settled`, all durable, and `flying` more on their way.
fn flying(settled: u64, flying: u64, seed: u64) -> (SimFiles, Model) {
    let files = SimFiles::new();
    let mut life = Life::begin(&files, Model::default(), seed).unwrap();
    for index in 1..=settled {
        life.append_entry(index, 1, 1500);
        life.settle().unwrap();
    }
    life.run_job().unwrap();
    for index in settled + 1..=settled + flying {
        // The last one takes two blocks.
        life.append_entry(index, 1, if index == settled + flying { 5000 } else { 100 });
        life.submit_all().unwrap();
    }
    (files, life.model)
}

/// Ways 1 and 2: whatever a first crash left of some batches, and a second one of those written after it, what a
/// start finds is a prefix of one history: that which the first start decided upon, and then its own.
#[test]
fn what_was_cut_stays_cut_whatever_the_next_crash_shows() {
    let mut cases = 0;
    for settled in 1..7 {
        let (first, model) = flying(settled, 3, 1);
        for (number, keep) in every_choice(first.unsynced(), settled).into_iter().enumerate() {
            let crashed = first.crash(&mut |_| keep.clone());
            // The second life writes other entries at the same indexes, in the same shape.
            let second = crashed.image();
            let mut life = Life::begin(&second, model.clone(), 2).unwrap();
            let recovered = life.model.records.len();
            let last = life.wal.durable().index;
            for index in last + 1..=last + 2 {
                life.append_entry(index, 2, 100);
                life.submit_all().unwrap();
            }
            let model = life.model.clone();
            assert_eq!(model.acked, recovered, "nothing of it was acknowledged yet");
            for again in every_choice(second.unsynced(), number as u64) {
                let third = second.crash(&mut |_| again.clone());
                let mut model = model.clone();
                let context = || format!("{settled} settled, {keep:?}, then {again:?}");
                match recover(&third, 3) {
                    Ok((_, found)) => model.check(&found, &context),
                    Err(error) => panic!("{}: {error}", context()),
                }
                cases += 1;
            }
        }
    }
    assert!(cases > 5_000, "{cases}");
}

/// A sound batch header, as the log writes it, with a boot number that its maker had to guess: the upper half of what `options` makes of it.
fn forged(segment: u64, boot: u64, seq: u64, block: u32) -> [u8; 72] {
    let mut header = [0; 72];
    header[..8].copy_from_slice(b"MSTYBTCH");
    header[8..16].copy_from_slice(&segment.to_le_bytes());
    header[16..24].copy_from_slice(&boot.to_le_bytes());
    header[24..32].copy_from_slice(&seq.to_le_bytes());
    // Everything is durable, it says.
    header[32..40].copy_from_slice(&(1u64 << 40).to_le_bytes());
    header[60..64].copy_from_slice(&block.to_le_bytes());
    let crc = base::crc32c(&header[..68]);
    header[68..].copy_from_slice(&crc.to_le_bytes());
    header
}

/// Way 3: a client knows the format and foresees which segment will get which number, and stores values that are
/// batches of those. In a recycled segment they count for nothing: neither as batches nor as witnesses of damage.
#[test]
fn bytes_that_a_client_chose_are_never_the_logs_own() {
    let mut recycled = 0;
    for seed in 0..40 {
        // Batches of at most two blocks, in segments of eight.
        let boot = 4 * seed + 101;
        let mut random = Random::new(seed);
        let files = SimFiles::new();
        let mut life = Life::begin(&files, Model::default(), boot).unwrap();
        for round in 0..24u64 {
            if random.one_in(3) {
                // A batch of one block, so that ends fall everywhere.
                life.append_hard_state();
                life.settle().unwrap();
            }
            let index = life.wal.durable().index + 1;
            // Behind batch header and record header: at `at` the value's second block begins.
            let mut data = vec![0; 2 * BLOCK - 72 - 32];
            let at = BLOCK - 72 - 32;
            let behind = batches(&files).last().map_or(1, |(_, block, blocks)| block + blocks);
            let block = if behind + 2 <= 8 { behind as u32 + 1 } else { 2 };
            let guess = [0, 1, boot + 1, random.next_u64()][random.below(4) as usize];
            let target = 2 + round / 3 + random.below(5);
            data[at..at + 72].copy_from_slice(&forged(target, guess, index + random.below(4), block));
            life.append(Owned::Entry(Entry { term: 1, index, kind: 0, data }));
            life.settle().unwrap();
            if round % 3 == 2 {
                life.append(Owned::Checkpoint(index, 1));
                life.settle().unwrap();
                life.model.released = index;
                life.wal.release_to(index);
                life.run_job().unwrap();
                life.run_job().unwrap();
            }
            // A start after each batch, clean and after a crash; nothing was in flight, so nothing may be cut.
            for image in [files.image(), files.crash(&mut KeepSet::none), files.crash(&mut KeepSet::all)] {
                let found = image.bytes(&names(&image).pop().unwrap()).unwrap();
                recycled += u64::from(found.windows(8).any(|bytes| bytes == b"MSTYBTCH"));
                match recover(&image, boot + 4) {
                    Ok((_, recovered)) => {
                        life.model.clone().check(&recovered, &|| format!("seed {seed}, round {round}"))
                    }
                    Err(error) => panic!("seed {seed}, round {round}: {error}"),
                }
            }
        }
    }
    assert!(recycled > 500, "{recycled} starts met a recycled segment that was not in use yet");
}

/// Where each batch of the log stands, in order: file, first block, blocks.
fn batches(files: &SimFiles) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    for name in names(files) {
        let bytes = files.bytes(&name).unwrap();
        if bytes[..8] != *b"MSTYSEGM" {
            continue;
        }
        let mut block = 1;
        while block < bytes.len() / BLOCK {
            let header = &bytes[block * BLOCK..];
            let number = u64::from_le_bytes(header[8..16].try_into().unwrap());
            if header[..8] != *b"MSTYBTCH" || name != format!("{DIR}/{}", SegmentId(number)) {
                break;
            }
            let length = u32::from_le_bytes(header[48..52].try_into().unwrap()) as usize;
            let blocks = (72 + length).div_ceil(BLOCK);
            found.push((name.clone(), block, blocks));
            block += blocks;
        }
    }
    found
}

fn damaged(
    files: &SimFiles,
    (name, block, blocks): &(String, usize, usize),
    random: &mut Random,
) -> SimFiles {
    let image = files.image();
    // A bit of the header, or of the records behind it.
    let reach = if random.one_in(2) { 72 } else { blocks * BLOCK };
    let at = block * BLOCK + random.below(reach as u64) as usize;
    image.edit(name, at as u64, &mut |bytes| bytes[0] ^= 1 << random.below(8));
    image
}

/// Way 4: damage to an acknowledged batch is refused as soon as anything later was submitted after its completion,
/// be it a batch, the header of a segment, an affirmation or a start. Only the last one is open to it until then.
#[test]
fn only_the_last_batch_can_be_lost_to_damage_and_only_until_it_is_affirmed() {
    let (mut refused, mut cut) = (0, 0);
    for seed in 0..12 {
        let mut random = Random::new(seed);
        let files = SimFiles::new();
        let mut life = Life::begin(&files, Model::default(), 1).unwrap();
        for index in 1..=9 {
            life.append_entry(index, 1, 300 * (index as usize % 5));
            life.settle().unwrap();
            for step in ["written", "affirmed", "started"] {
                let base = match step {
                    "written" if index < 9 => files.image(),
                    "written" => continue,
                    "affirmed" => {
                        if index % 3 != 0 {
                            continue;
                        }
                        assert!(life.wal.affirm());
                        life.settle().unwrap();
                        files.image()
                    }
                    _ => {
                        let image = files.image();
                        recover(&image, 2).unwrap();
                        image
                    }
                };
                let whole = recover(&base.image(), 9).unwrap().1;
                assert_eq!(whole.entries.len() as u64, index);
                let all = batches(&base);
                for (at, place) in all.iter().enumerate() {
                    let context = format!("seed {seed}, {step} {index}, batch {at} of {}", all.len());
                    match recover(&damaged(&base, place, &mut random), 9) {
                        Err(WalError::Corrupt { .. }) => refused += 1,
                        Err(error) => panic!("{context}: {error}"),
                        // A bit of the padding behind the records.
                        Ok((_, recovered)) if recovered == whole => {}
                        Ok((_, recovered)) => {
                            assert!(at + 1 == all.len() && step != "started", "{context}: lost");
                            assert!(recovered.cut.is_some(), "{context}: not even said");
                            let lost = if step == "affirmed" { 0 } else { 1 };
                            assert_eq!(
                                recovered.entries,
                                whole.entries[..index as usize - lost],
                                "{context}"
                            );
                            cut += 1;
                        }
                    }
                }
            }
        }
    }
    assert!(refused > 500 && cut > 50, "{refused} {cut}");
}

/// The same with several in flight, which complete in any order: what can be lost to damage is what completed since
/// the last write was submitted, never more.
#[test]
fn with_several_in_flight_only_what_nothing_speaks_of_can_be_lost() {
    let mut refused = 0;
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let files = SimFiles::new();
        let mut life = Life::begin(&files, Model::default(), 1).unwrap();
        // How many entries were acknowledged when the newest write was handed out.
        let mut stated = 0;
        for index in 1..=10 {
            life.append_entry(index, 1, 200);
            let before = life.wal.in_flight();
            let acked = life.model.acked;
            life.submit_all().unwrap();
            if life.wal.in_flight() > before {
                stated = acked;
            }
            while life.wal.in_flight() > 0 && (life.wal.in_flight() > 2 || random.one_in(2)) {
                let at = random.below(life.outstanding() as u64) as usize;
                life.complete(at).unwrap();
            }
            life.run_job().unwrap();
            // Everything in flight has reached the disk: the most that can be there to speak of.
            let base = files.crash(&mut KeepSet::all);
            for place in batches(&base) {
                let Ok((_, recovered)) = recover(&damaged(&base, &place, &mut random), 9) else {
                    refused += 1;
                    continue;
                };
                assert!(
                    recovered.entries.len() >= stated,
                    "seed {seed}, entry {index}: {} left of {stated} that were spoken of",
                    recovered.entries.len()
                );
            }
        }
    }
    assert!(refused > 300, "{refused}");
}

/// Way 5: after a cut, the header behind it is all that tells it from a gap. When it is damaged too, the log is
/// refused, or ends where it was cut; nothing acknowledged since is passed over, and nothing comes back.
#[test]
fn a_damaged_header_behind_a_cut_loses_nothing_silently() {
    let (mut refused, mut ended) = (0, 0);
    for settled in 1..6 {
        let (first, model) = flying(settled, 3, 1);
        for keep in every_choice(first.unsynced(), settled).into_iter().step_by(3) {
            let files = first.crash(&mut |_| keep.clone());
            for written in 0..4 {
                let files = files.image();
                // Another boot number: the witnesses behind a lost header are of another start than the cut.
                let mut life = Life::begin(&files, model.clone(), 3).unwrap();
                let last = life.wal.durable().index;
                let newest = names(&files).pop().unwrap();
                for index in last + 1..=last + written {
                    life.append_entry(index, 2, 100);
                    life.settle().unwrap();
                }
                for zeroed in [false, true] {
                    let image = files.image();
                    image.edit(&newest, 0, &mut |bytes| {
                        if zeroed { bytes[..BLOCK].fill(0) } else { bytes[100] ^= 1 }
                    });
                    let context = || format!("{settled} settled, {keep:?}, {written} written since");
                    match recover(&image, 4) {
                        Err(WalError::Corrupt { .. }) => refused += 1,
                        Err(error) => panic!("{}: {error}", context()),
                        Ok((_, found)) => {
                            // A header that can still be told for that of a start is missed whatever stands behind it.
                            assert!(written == 0 && zeroed, "{}: lost", context());
                            life.model.clone().check(&found, &context);
                            ended += 1;
                        }
                    }
                }
            }
        }
    }
    assert!(refused > 700 && ended > 100, "{refused} {ended}");
}

/// Way 6: the first blocks of the newest segment are gone, header and first batch at once. Who opened it stands nowhere
/// any more, and the batches behind them are known for the log's own all the same.
#[test]
fn a_segment_without_its_first_blocks_is_missed() {
    let mut refused = 0;
    for boot in [3, 4] {
        for batches_behind in 1..4 {
            let (first, model) = flying(3, 0, 1);
            let files = first.image();
            let mut life = Life::begin(&files, model, boot).unwrap();
            for index in 4..=4 + batches_behind {
                life.append_entry(index, 1, 100);
                life.settle().unwrap();
            }
            let (newest, ..) = batches(&files).pop().unwrap();
            files.edit(&newest, 0, &mut |bytes| bytes[..2 * BLOCK].fill(0));
            match recover(&files, 40) {
                Err(WalError::Corrupt { .. }) => refused += u64::from(batches_behind > 1),
                Err(error) => panic!("{error}"),
                Ok((_, found)) => {
                    assert!(batches_behind == 1, "entries up to {:?} of {batches_behind}", found.last)
                }
            }
        }
    }
    assert_eq!(refused, 4);
}
