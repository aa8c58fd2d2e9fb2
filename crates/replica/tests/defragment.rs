//! Defragmentation: an idle replica comes down to what is in use before it answers, and nobody waits for ever.

mod rig;

use disk::SimFiles;
use disk::sim::KeepSet;
use mainstay_replica as replica;
use replica::{CheckpointPolicy, Event, Response};
use rig::{Job, Rig, Setup, compact, delete, put};

/// Checkpoints by time alone, and seldom.
fn patient() -> Setup {
    let policy = CheckpointPolicy {
        dirty_bytes: 1 << 30,
        log_bytes: 1 << 30,
        log_segments: 1000,
        interval_ms: 60_000,
        bytes_per_second: 0,
        ..CheckpointPolicy::default()
    };
    Setup { policy, memory_budget_bytes: 1 << 30, ..Setup::default() }
}

/// Much history, of which hardly anything is left.
fn emptied(setup: Setup, seed: u64) -> Rig {
    let mut rig = Rig::serving(SimFiles::new(), setup, seed);
    for number in 0..300 {
        rig.ask(put(&format!("key-{number:03}"), &vec![number as u8; 20_000])).unwrap();
    }
    rig.ask(delete("key-000", "key-295")).unwrap();
    let revision = rig.revision();
    let compaction = rig.propose(compact(revision, true));
    rig.wait(compaction).unwrap();
    rig
}

fn sizes(rig: &Rig) -> (u64, u64) {
    (rig.replica.published().file_bytes(), rig.replica.published().used_bytes())
}

fn assert_near(rig: &Rig) {
    let (file, used) = sizes(rig);
    assert!(file <= used + used / 16 + (512 << 10), "{file} bytes, {used} in use");
}

#[test]
fn an_idle_replica_has_shrunk_when_it_answers() {
    for setup in [patient(), Setup { memory_budget_bytes: 64 << 10, ..patient() }, Setup::late()] {
        let mut rig = emptied(setup.clone(), 3);
        let (before, used) = sizes(&rig);
        assert!(before > 4 << 20 && used < 1 << 20, "{before} bytes, {used} in use");
        let hash = rig.hash_kv();
        // No time passes.
        let call = rig.call(|token| Event::Defragment { token });
        rig.settle();
        assert!(matches!(rig.answer(call), Ok(Response::Defragmented)));
        assert_near(&rig);
        assert_eq!(rig.hash_kv(), hash);
        // Nothing is left to do the second time: no checkpoint is made for it.
        let (notes, size) = (rig.notes.len(), sizes(&rig));
        let again = rig.call(|token| Event::Defragment { token });
        rig.settle();
        assert!(matches!(rig.answer(again), Ok(Response::Defragmented)));
        assert_eq!((rig.notes.len(), sizes(&rig)), (notes, size));
        // And it was durable.
        let rig = Rig::serving(rig.crash(&mut |count, _| KeepSet::none(count)), setup, 4);
        assert_near(&rig);
        assert_eq!(rig.hash_kv(), hash);
    }
}

#[test]
fn a_snapshot_that_is_held_keeps_the_tail_but_not_the_caller() {
    let mut rig = emptied(patient(), 5);
    // It needs what stands at the end of the file.
    let snapshot = rig.snapshot();
    rig.ask(delete("key-295", "key-299")).unwrap();
    let revision = rig.revision();
    let compaction = rig.propose(compact(revision, true));
    rig.wait(compaction).unwrap();
    let call = rig.call(|token| Event::Defragment { token });
    rig.settle();
    assert!(matches!(rig.answer(call), Ok(Response::Defragmented)), "after a bounded number of checkpoints");
    let (file, used) = sizes(&rig);
    assert!(file > used + (4 << 20), "{file} bytes, {used} in use");
    drop(snapshot);
    let call = rig.call(|token| Event::Defragment { token });
    rig.settle();
    assert!(matches!(rig.answer(call), Ok(Response::Defragmented)));
    assert_near(&rig);
}

#[test]
fn a_checkpoint_that_takes_long_is_not_waited_for_without_end() {
    let mut rig = emptied(patient(), 6);
    let call = rig.call(|token| Event::Defragment { token });
    while rig.has_job(|job| matches!(job, Job::Checkpoint(_))).is_none() {
        rig.turn();
    }
    rig.tick(29_000);
    assert!(!rig.is_answered(call));
    rig.tick(1_000);
    assert!(matches!(rig.answer(call), Ok(Response::Defragmented)));
    // It goes on by itself.
    rig.settle();
    assert_near(&rig);
}

#[test]
fn writes_go_on_meanwhile() {
    let mut rig = emptied(Setup::late(), 7);
    let call = rig.call(|token| Event::Defragment { token });
    for number in 0..200 {
        rig.ask(put(&format!("busy-{}", number % 20), &[number as u8; 5000])).unwrap();
    }
    rig.wait(call).unwrap();
    let (file, used) = sizes(&rig);
    assert!(file < used + (4 << 20), "{file} bytes, {used} in use");
    assert_eq!(rig.get(b"busy-19"), Some(vec![199; 5000]));
}
