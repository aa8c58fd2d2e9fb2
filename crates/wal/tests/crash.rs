//! Power loss at every operation, with every kind of survivor, and again while recovering.

mod model;

use std::sync::Arc;

use base::Random;
use base::limits::SEGMENTS_READY;
use disk::sim::KeepSet;
use disk::{BLOCK, Files, SimFiles};
use mainstay_wal::{Options, Wal, WalError};
use model::{Life, Model, Owned, names, options, recover_beside, script};

/// The survivors to try for `count` unsynced changes.
fn keep_sets(count: usize, random: &mut Random) -> Vec<KeepSet> {
    let mut sets = vec![KeepSet::none(count), KeepSet::all(count)];
    for at in 0..count {
        sets.push(KeepSet::only(count, at));
        sets.push(KeepSet::all_but(count, at));
    }
    for unit in [512, 4096] {
        sets.push(KeepSet::all(count).torn(unit, random));
    }
    sets.extend((0..3).map(|_| KeepSet::random(count, random)));
    sets
}

/// Recovers and checks; the model is afterwards what was recovered.
fn check(files: &SimFiles, model: &mut Model, boot: u64, context: &dyn Fn() -> String) {
    match recover_beside(files, boot, model.released) {
        Ok((_, recovered)) => model.check(&recovered, context),
        Err(error) => panic!("{}: {error}", context()),
    }
}

#[test]
fn at_every_operation_of_a_script() {
    const STEPS: usize = 400;
    for seed in [1, 2] {
        let files = SimFiles::new();
        script(&files, Model::default(), seed, STEPS);
        let operations = files.operations();
        assert!(operations > 150, "the script does something: {operations}");
        for at in 0..=operations {
            let files = SimFiles::new();
            files.halt_at(at);
            let model = script(&files, Model::default(), seed, STEPS);
            let mut random = Random::new(at);
            for (number, set) in keep_sets(files.unsynced(), &mut random).into_iter().enumerate() {
                let after = files.crash(&mut |_| set.clone());
                let mut model = model.clone();
                let context = || format!("seed {seed}, operation {at}, survivors {number}: {set:?}");
                check(&after, &mut model, seed + 100, &context);
                // What was recovered stays, whatever happens next.
                let again = after.crash(&mut KeepSet::none);
                check(&again, &mut model, seed + 200, &context);
            }
        }
    }
}

#[test]
fn at_every_operation_of_a_recovery() {
    for seed in [2, 3] {
        at_every_operation_of_recoveries_after(seed);
    }
}

fn at_every_operation_of_recoveries_after(seed: u64) {
    const STEPS: usize = 200;
    let files = SimFiles::new();
    script(&files, Model::default(), seed, STEPS);
    let operations = files.operations();
    let mut random = Random::new(seed);
    for at in 0..operations {
        let files = SimFiles::new();
        files.halt_at(at);
        let model = script(&files, Model::default(), seed, STEPS);
        let set = KeepSet::random(files.unsynced(), &mut random);
        let crashed = files.crash(&mut |_| set.clone());
        let counted = crashed.image();
        let mut complete = model.clone();
        check(&counted, &mut complete, 100, &|| format!("operation {at}, {set:?}"));
        for second in 0..counted.operations() {
            let files = crashed.image();
            files.halt_at(second);
            assert!(matches!(recover_beside(&files, 100, model.released), Err(WalError::Io { .. })));
            let sets = [
                KeepSet::none(files.unsynced()),
                KeepSet::all(files.unsynced()),
                KeepSet::random(files.unsynced(), &mut random),
            ];
            for again in sets {
                let context = || format!("operation {at}, {set:?}, then {second} of recovery, {again:?}");
                let after = files.crash(&mut |_| again.clone());
                let mut model = model.clone();
                check(&after, &mut model, 200, &context);
                // Both recoveries decide alike.
                assert_eq!(model.records.len(), complete.records.len(), "{}", context());
            }
        }
    }
}

#[test]
fn over_many_lives() {
    for seed in 0..150 {
        let mut files = SimFiles::new();
        let mut model = Model::default();
        let mut random = Random::new(seed);
        for life in 0..8 {
            if random.one_in(2) {
                files.halt_at(files.operations() + random.below(120));
            }
            model = script(&files, model, seed * 100 + life, 150);
            files = match random.below(4) {
                // The process was killed, the machine stayed up.
                0 => files.image(),
                1 => files.crash(&mut KeepSet::none),
                2 => files.crash(&mut KeepSet::all),
                _ => files.crash(&mut |count| KeepSet::random(count, &mut random)),
            };
        }
        check(&files, &mut model, 1, &|| format!("seed {seed}"));
    }
}

/// A killed process leaves writes in the device's cache. A start that reads them acknowledges them by doing so, and
/// must make them durable first.
#[test]
fn what_a_start_has_read_survives_the_next_power_loss() {
    let mut kept = 0;
    for seed in 0..60 {
        let files = SimFiles::new();
        let mut life = Life::begin(&files, Model::default(), seed).unwrap();
        for index in 1..=3 {
            life.append_entry(index, 1, 100);
            life.submit_all().unwrap();
        }
        assert_eq!(life.model.acked, 0);
        let mut model = life.model;
        assert!(files.unsynced() > 0);
        check(&files, &mut model, seed + 1, &|| "killed".to_owned());
        kept += model.acked;
        let after = files.crash(&mut KeepSet::none);
        check(&after, &mut model, seed + 2, &|| "killed, then without power".to_owned());
    }
    assert_eq!(kept, 180);
}

#[test]
fn segments_are_recycled_and_their_old_lives_forgotten() {
    for seed in 0..20 {
        let mut files = SimFiles::new();
        let mut model = Model::default();
        let mut highest = 0;
        for boot in 0..4 {
            let mut life = Life::begin(&files, model, seed * 10 + boot).unwrap();
            for _ in 0..30 {
                let last = life.wal.durable().index;
                for index in last + 1..last + 4 {
                    life.append_entry(index, 1, 3000);
                }
                life.append(model::Owned::Checkpoint(last + 3, 1));
                life.settle().unwrap();
                life.model.released = last + 3;
                life.wal.release_to(last + 3);
                life.run_job().unwrap();
            }
            model = life.model;
            let names = model::names(&files);
            assert!(names.len() <= 10, "released segments are used again: {names:?}");
            highest = names.iter().max().unwrap()[4..12].parse::<u64>().unwrap();
            let mut random = Random::new(seed);
            files = files.crash(&mut |count| KeepSet::random(count, &mut random));
        }
        assert!(highest > 50, "{highest}");
        check(&files, &mut model, 1, &|| format!("seed {seed}"));
    }
}

/// Two segments were in flight together, and of their headers only the later one survived. A start reuses files that are
/// left over; cut short in that, it must not leave the later segment without the one that it names: the next start would
/// take it for the begin of the log.
#[test]
fn a_recovery_cut_short_leaves_no_later_segment_to_begin_the_log() {
    let files = SimFiles::new();
    // Segments so small that each of these entries has one of its own.
    let mut life = Life::begin(&files, Model::default(), 2).unwrap();
    for index in 1..=6 {
        life.append_entry(index, 1, 7000);
        life.settle().unwrap();
    }
    life.append(Owned::Checkpoint(5, 1));
    life.settle().unwrap();
    // Four are kept to be used again, the fifth is removed: the chain begins at the sixth.
    life.model.released = 5;
    life.wal.release_to(5);
    life.run_job().unwrap();
    let numbers = [1, 2, 3, 4, 6, 7, 8, 9].map(|number| format!("log/{number:08}.seg"));
    assert_eq!(names(&files), numbers);
    life.append_entry(7, 1, 7000);
    life.append_entry(8, 1, 7000);
    life.submit_all().unwrap();
    assert_eq!(life.outstanding(), 4, "two headers, two batches");
    let crashed = files.crash(&mut |count| KeepSet::only(count, 2));
    let model = life.model.clone();
    drop(life);
    let mut second = 0;
    loop {
        let files = crashed.image();
        files.halt_at(second);
        let ended = recover_beside(&files, 102, model.released).is_ok();
        let count = files.unsynced();
        for set in [KeepSet::none(count), KeepSet::all(count)] {
            let context = || format!("operation {second} of the recovery, {set:?}");
            let after = files.crash(&mut |_| set.clone());
            let mut model = model.clone();
            check(&after, &mut model, 202, &context);
            assert_eq!(model.records.len(), 7, "{}", context());
        }
        if ended {
            break;
        }
        second += 1;
    }
    assert!(second > 5, "{second}");
}

/// Nothing was left ready, so a start takes the oldest segment, which a checkpoint covers; cut short anywhere in that, the log
/// loses nothing that was needed.
#[test]
fn a_start_that_takes_a_covered_segment_may_be_cut_short() {
    let files = SimFiles::new();
    let mut life = Life::begin(&files, Model::default(), 1).unwrap();
    for index in 1..=9 {
        life.append_entry(index, 1, 7000);
        life.settle().unwrap();
    }
    life.append(Owned::Checkpoint(7, 1));
    life.append_hard_state();
    life.settle().unwrap();
    life.model.released = 7;
    let model = life.model.clone();
    drop(life);
    for name in names(&files).iter().rev().take(base::limits::SEGMENTS_READY) {
        files.remove(name).unwrap();
    }
    files.sync_dir(model::DIR).unwrap();
    let left = names(&files);
    assert_eq!(left.len(), 3, "three entries in each: {left:?}");
    let (mut at, mut taken) = (0, 0);
    loop {
        let files = files.image();
        files.halt_at(at);
        let ended = recover_beside(&files, 3, model.released).is_ok();
        taken += u64::from(!names(&files).contains(&left[0]));
        let count = files.unsynced();
        let singles = (0..count).map(|one| KeepSet::only(count, one));
        for set in [KeepSet::none(count), KeepSet::all(count)].into_iter().chain(singles) {
            let context = || format!("operation {at} of the start, {set:?}");
            let after = files.crash(&mut |_| set.clone());
            // Whatever became of the first one, the second is still there for the next start.
            for boot in [4, 5] {
                check(&after, &mut model.clone(), boot, &context);
            }
        }
        if ended {
            break;
        }
        at += 1;
    }
    assert!(at > 8 && taken > 4, "{at} operations, {taken} after the rename");
}

/// All that was written is covered and given up, and the segment in use has no batch yet: its header alone knows where the log
/// stands. A start that is cut short must not lose it. (Found by `sim crash --script segment-recycling --seed 2235258262`.)
#[test]
fn a_start_keeps_the_only_header_until_there_is_another() {
    let sizes = |boot: u64, blocks: u64| Options { segment_bytes: blocks * BLOCK as u64, ..options(boot) };
    let read = |files: &SimFiles, boot, blocks| {
        Wal::read(Arc::new(files.clone()), model::DIR, sizes(boot, blocks), 0)?.open(6)
    };
    for blocks in [6, 7] {
        let files = SimFiles::new();
        let mut life = Life::begin(&files, Model::default(), 1).unwrap();
        for index in 1..=6 {
            life.append_entry(index, 1, 7000);
        }
        life.append(Owned::Checkpoint(6, 1));
        life.settle().unwrap();
        drop(life);
        // The files of other starts are of no use to this one.
        let (mut wal, _) = read(&files, 3, 6).unwrap();
        wal.release_to(6);
        while let Some(job) = wal.wants_segment(SEGMENTS_READY) {
            let more = names(&files).len() > 1;
            wal.segment_ready(job.run(&files).unwrap());
            if !more {
                break;
            }
        }
        drop(wal);
        for name in names(&files).iter().skip(1) {
            files.remove(name).unwrap();
        }
        files.sync_dir(model::DIR).unwrap();
        assert_eq!(names(&files).len(), 1);
        for at in 0.. {
            let files = files.image();
            files.halt_at(at);
            let ended = read(&files, 4, blocks).is_ok();
            let count = files.unsynced();
            for set in [KeepSet::none(count), KeepSet::all(count)] {
                let after = files.crash(&mut |_| set.clone());
                let (_, recovered) =
                    read(&after, 5, blocks).unwrap_or_else(|error| panic!("operation {at}: {error}"));
                assert_eq!(recovered.last, (6, 1), "operation {at} of the start, {set:?}");
                assert_eq!(recovered.checkpoint, Some((6, 1)));
            }
            if ended {
                break;
            }
        }
    }
}
