//! A full disk (law 8): growth is refused, once alarmed; what gives room back still gets through; nothing is lost;
//! and limits on what is not durable yet.

mod rig;

use disk::sim::{Fault, KeepSet};
use disk::{Files, SimFiles};
use mainstay_replica as replica;
use proto::errors;
use proto::etcdserverpb as pb;
use replica::{CheckpointPolicy, Event, Note, Request, Response};
use rig::{Job, Rig, Setup, alarm, ask_again, compact, delete, grant, put, put_leased, revoke, txn, used};

const NOSPACE: i32 = pb::AlarmType::Nospace as i32;
const DEACTIVATE: i32 = pb::alarm_request::AlarmAction::Deactivate as i32;

fn raised(rig: &Rig) -> usize {
    rig.notes.iter().filter(|note| matches!(note, Note::AlarmRaised { .. })).count()
}

/// Puts until one is refused for want of space; the keys that were accepted.
fn fill(rig: &mut Rig, limit: u32) -> Vec<String> {
    let mut keys = Vec::new();
    for number in 0..limit {
        let key = format!("fill-{number:05}");
        match ask_again(rig, put(&key, &[number as u8; 4000])) {
            Ok(()) => keys.push(key),
            Err(error) => {
                assert_eq!(error, errors::NO_SPACE);
                return keys;
            }
        }
    }
    panic!("the disk did not fill up");
}

fn check_filled(rig: &Rig, keys: &[String]) {
    for (number, key) in keys.iter().enumerate() {
        assert_eq!(rig.get(key.as_bytes()), Some(vec![number as u8; 4000]), "{key}");
    }
}

#[test]
fn a_data_file_that_cannot_grow_refuses_growth_and_lets_the_rest_through() {
    // As in production, the reserve is larger than a step of the defragmentation.
    let setup = Setup { reserve_bytes: 6 << 20, ..Setup::default() };
    let mut rig = Rig::serving(SimFiles::new(), setup.clone(), 1);
    rig.ask(grant(7, 100)).unwrap();
    rig.ask(put_leased("leased", 7)).unwrap();
    // Room for the log's segments, and a little for the data file.
    let room = used(&rig.files) + 8 * rig::SEGMENT_BYTES + 2 * rig::CHUNK_BYTES;
    rig.files.set_capacity(room);
    let keys = fill(&mut rig, 2000);
    assert!(keys.len() > 50, "{}", keys.len());
    rig.settle();
    let member = rig.replica.published().member_id;
    assert_eq!(rig.alarms(), [(member, NOSPACE)]);
    let (revision, hash) = (rig.revision(), rig.hash_kv());
    for _ in 0..50 {
        assert_eq!(rig.ask(put("more", b"x")).unwrap_err(), errors::NO_SPACE);
        assert_eq!(rig.ask(grant(8, 100)).unwrap_err(), errors::NO_SPACE);
        assert_eq!(rig.ask(txn("more", 0, b"x")).unwrap_err(), errors::NO_SPACE);
    }
    assert_eq!(raised(&rig), 1, "the alarm is raised once");
    assert_eq!((rig.revision(), rig.hash_kv()), (revision, hash), "what is refused changes nothing");
    check_filled(&rig, &keys);

    // Deletes, a transaction without puts, a revocation, compactions, a defragmentation: all use the reserve.
    let kept = keys.len() / 2;
    for key in &keys[kept..] {
        match rig.ask(delete(key, "")) {
            Ok(Response::DeleteRange(answer)) => assert_eq!(answer.deleted, 1),
            other => panic!("{other:?}"),
        }
    }
    let no_put = pb::TxnRequest {
        success: vec![pb::RequestOp {
            request: Some(pb::request_op::Request::RequestDeleteRange(pb::DeleteRangeRequest {
                key: b"absent".to_vec(),
                ..Default::default()
            })),
        }],
        ..Default::default()
    };
    rig.ask(Request::Txn(no_put)).unwrap();
    rig.ask(revoke(7)).unwrap();
    assert_eq!(rig.get(b"leased"), None);
    let revision = rig.revision();
    let compaction = rig.propose(compact(revision, true));
    rig.wait(compaction).unwrap();
    let defragment = rig.call(|token| Event::Defragment { token });
    assert!(matches!(rig.wait(defragment), Ok(Response::Defragmented)));
    check_filled(&rig, &keys[..kept]);

    // The alarm stays until it is disarmed; then what was freed is used again, without more disk.
    assert_eq!(rig.ask(put("more", b"x")).unwrap_err(), errors::NO_SPACE);
    rig.ask(alarm(DEACTIVATE, member, NOSPACE)).unwrap();
    assert_eq!(rig.alarms(), []);
    for number in 0..10 {
        ask_again(&mut rig, put(&format!("after-{number}"), b"room")).unwrap();
    }
    // And nothing is lost by a crash in this state.
    let hash = rig.hash_kv();
    let mut again = Rig::serving(rig.crash(&mut |count, _| KeepSet::none(count)), setup, 2);
    assert_eq!(again.hash_kv(), hash);
    check_filled(&again, &keys[..kept]);
    again.files.set_capacity(1 << 50);
    let more = fill_some(&mut again, 200);
    assert_eq!(more, 200, "with room it goes on");
}

/// Long values and short ones wait for the log together, and the disk is full: what is free lies in pieces, and each long
/// one was promised pages side by side. What of that the replica has to do; that the pages are there for it is the tree's
/// (`what_is_held_is_there_for_a_run_whatever_else_was_stored`), and seed 4993 of the world has both fail together.
#[test]
fn long_values_that_were_accepted_find_their_run() {
    let mut random = base::Random::new(5);
    let (mut stored, mut refused) = (0, 0);
    for round in 0..30 {
        let setup = Setup { reserve_bytes: 1 << 20, ..Setup::default() };
        let mut rig = Rig::serving(SimFiles::new(), setup.clone(), round);
        let room = used(&rig.files) + 8 * rig::SEGMENT_BYTES + 3 * rig::CHUNK_BYTES;
        rig.files.set_capacity(room);
        let keys = fill(&mut rig, 4000);
        let member = rig.replica.published().member_id;
        for key in keys.iter().filter(|_| random.one_in(2)) {
            rig.ask(delete(key, "")).unwrap();
        }
        let revision = rig.revision();
        let compaction = rig.propose(compact(revision, true));
        rig.wait(compaction).unwrap();
        (0..6).for_each(|_| rig.tick(1000));
        rig.ask(alarm(DEACTIVATE, member, NOSPACE)).unwrap();
        // From here on the file cannot grow at all.
        let full = used(&rig.files);
        rig.files.set_capacity(full);
        for _ in 0..6 {
            let calls: Vec<(u32, String, usize)> = (0..1 + random.below(40))
                .map(|number| {
                    let len =
                        if random.one_in(4) { 30_000 + random.below(90_000) } else { random.below(900) };
                    let key = format!("k{}-{number}", random.below(30));
                    (rig.propose(put(&key, &vec![3; len as usize])), key, len as usize)
                })
                .collect();
            let mut last = std::collections::BTreeMap::new();
            for (call, key, len) in calls {
                match rig.wait(call) {
                    Ok(_) => {
                        stored += u32::from(len > 900);
                        last.insert(key, len);
                    }
                    Err(error) => {
                        refused += 1;
                        let full = error == errors::NO_SPACE || error == errors::REQUEST_TOO_MANY_REQUESTS;
                        assert!(full, "{error:?}");
                    }
                }
            }
            for (key, len) in last {
                assert_eq!(rig.get(key.as_bytes()).map(|value| value.len()), Some(len), "{key}");
            }
            rig.tick(1000);
        }
        let hash = rig.hash_kv();
        let again = Rig::serving(rig.crash(&mut |count, _| KeepSet::none(count)), setup, 2);
        assert_eq!(again.hash_kv(), hash);
    }
    assert!(stored > 30 && refused > 30, "{stored} stored, {refused} refused");
}

/// Puts until the data file grows; the growth's number among the operations.
fn grow_in_admission(rig: &mut Rig, fail_at: Option<u64>) -> u64 {
    rig.growth_is_late = true;
    for number in 0..5000 {
        rig.settle();
        let before = rig.files.operations();
        if let Some(number) = fail_at {
            rig.files.fail_at(number, Fault::Io);
        }
        let _call = rig.propose(put(&format!("k{number}"), &[1; 4000]));
        if rig.files.operations() > before {
            return before;
        }
    }
    panic!("the file would have to grow");
}

/// A disk that fails is not a full one: nobody is told to make room, and the process ends (law 8).
#[test]
fn growth_that_fails_otherwise_ends_the_process() {
    let serving = || Rig::serving(SimFiles::new(), Setup::default(), 1);
    let growth = grow_in_admission(&mut serving(), None);
    let mut rig = serving();
    assert_eq!(grow_in_admission(&mut rig, Some(growth)), growth);
    assert!(rig.failed.take().is_some_and(|what| what.contains("cannot grow")));
    rig.settle();
    assert_eq!((rig.alarms(), raised(&rig)), (vec![], 0));
}

fn fill_some(rig: &mut Rig, count: u32) -> u32 {
    let accepted = |number: &u32| ask_again(rig, put(&format!("some-{number}"), &[1; 4000])).is_ok();
    (0..count).filter(accepted).count() as u32
}

#[test]
fn a_log_without_room_for_segments_recycles_and_waits_but_does_not_die() {
    let mut rig = Rig::serving(SimFiles::new(), Setup::default(), 1);
    for number in 0..20 {
        rig.ask(put(&format!("before-{number}"), &[9; 1000])).unwrap();
    }
    // Not one more byte.
    rig.files.set_capacity(used(&rig.files));
    let mut refused = 0;
    for number in 0..300 {
        rig.tick(200);
        if let Err(error) = ask_again(&mut rig, put("same", &[number as u8; 2000])) {
            assert_eq!(error, errors::NO_SPACE);
            refused += 1;
        }
    }
    assert!(refused > 0, "the disk is full");
    let member = rig.replica.published().member_id;
    assert_eq!(rig.alarms(), [(member, NOSPACE)]);
    // Far more deletes than the segments that there are could hold: they are recycled behind checkpoints.
    for round in 0..400 {
        rig.tick(500);
        rig.ask(delete(&format!("before-{}", round % 20), "")).unwrap();
    }
    assert_eq!(rig.get(b"before-3"), None);
    let (hash, revision) = (rig.hash_kv(), rig.revision());
    let image = rig.crash(&mut |count, _| KeepSet::none(count));
    image.set_capacity(1 << 50);
    let mut again = Rig::serving(image, Setup::default(), 2);
    assert_eq!((again.hash_kv(), again.revision()), (hash, revision));
    again.ask(alarm(DEACTIVATE, member, NOSPACE)).unwrap();
    again.ask(put("again", b"room")).unwrap();
}

#[test]
fn a_log_that_can_have_no_second_segment_raises_the_alarm() {
    let mut rig = Rig::open(SimFiles::new(), Setup::default(), 1).unwrap_or_else(|error| panic!("{error}"));
    // The first turn asks for the data file's growth and for a segment: only the latter finds no room.
    rig.turn();
    let grow = rig.has_job(|job| matches!(job, Job::Grow(_)));
    if let Some(grow) = grow {
        rig.run_job(grow).unwrap();
    }
    rig.files.set_capacity(used(&rig.files));
    rig.settle();
    let member = rig.replica.published().member_id;
    assert_eq!(rig.alarms(), [(member, NOSPACE)]);
    let applied = rig.replica.published().applied();
    assert_eq!(rig.ask(put("a", b"1")).unwrap_err(), errors::NO_SPACE);
    assert_eq!(rig.replica.published().applied(), applied, "no entry of a short log is spent on a refusal");
    rig.ask(delete("a", "")).unwrap();
    // Disarmed while the disk is still full: refused all the same, and raised again.
    rig.ask(alarm(DEACTIVATE, member, NOSPACE)).unwrap();
    assert_eq!(rig.ask(put("a", b"1")).unwrap_err(), errors::NO_SPACE);
    assert_eq!(rig.alarms(), [(member, NOSPACE)]);
    rig.files.set_capacity(1 << 50);
    rig.tick(1000);
    rig.settle();
    rig.ask(alarm(DEACTIVATE, member, NOSPACE)).unwrap();
    rig.ask(put("a", b"1")).unwrap();
    assert_eq!(raised(&rig), 2);
}

#[test]
fn writes_wait_while_no_segment_is_ready() {
    let mut rig = Rig::serving(SimFiles::new(), Setup::default(), 1);
    // The helper that makes segments is stuck.
    let mut calls = Vec::new();
    let mut held = Vec::new();
    for number in 0..400u32 {
        if rig.replica.has_credit() {
            calls.push(rig.propose(put(&format!("key-{number}"), &[1; 2000])));
        }
        rig.turn();
        while !rig.writes.is_empty() {
            rig.complete_write(0).unwrap();
        }
        while let Some(position) = rig.has_job(|job| matches!(job, Job::Segment(_))) {
            held.push(rig.jobs.remove(position));
        }
        while !rig.jobs.is_empty() {
            rig.run_job(0).unwrap();
        }
    }
    assert!(!rig.replica.has_credit(), "no more is taken in");
    assert_eq!(rig.replica.log().segments_ready(), 1, "the next start has a segment to take");
    assert_eq!(held.len(), 1, "one segment is asked for at a time");
    assert!(calls.len() > 20 && calls.len() < 150, "{}", calls.len());
    assert_eq!(raised(&rig), 0, "waiting is no reason for an alarm");
    rig.jobs.append(&mut held);
    rig.settle();
    assert!(rig.replica.has_credit());
    for call in calls {
        assert!(rig.answer(call).is_ok());
    }
    rig.ask(put("after", b"x")).unwrap();
}

#[test]
fn a_full_disk_is_emptied_without_any_more_room() {
    let mut rig = Rig::serving(SimFiles::new(), Setup::default(), 1);
    let room = used(&rig.files) + 8 * rig::SEGMENT_BYTES + 2 * rig::CHUNK_BYTES;
    rig.files.set_capacity(room);
    let keys = fill(&mut rig, 2000);
    // Ranges of some keys at a time: a delete of everything copies more than any reserve.
    let mut deleted = 0;
    for pair in keys.chunks(8) {
        let end = format!("{}~", pair[pair.len() - 1]);
        let call = rig.propose(delete(&pair[0], &end));
        match rig.wait(call) {
            Ok(Response::DeleteRange(answer)) => deleted += answer.deleted,
            other => panic!("{other:?}"),
        }
        let revision = rig.revision();
        let compaction = rig.propose(compact(revision, false));
        rig.wait(compaction).unwrap();
    }
    assert_eq!(deleted, keys.len() as i64);
    let member = rig.replica.published().member_id;
    rig.ask(alarm(DEACTIVATE, member, NOSPACE)).unwrap();
    for _ in 0..30 {
        rig.tick(200);
        rig.settle();
    }
    let stored = fill_some(&mut rig, keys.len() as u32 / 4);
    assert_eq!(stored, keys.len() as u32 / 4, "what was deleted and compacted is room again");
}

#[test]
fn dirty_pages_beyond_the_hard_limit_wait_for_a_checkpoint() {
    let policy = CheckpointPolicy {
        dirty_soft_bytes: 128 << 10,
        dirty_hard_bytes: 512 << 10,
        bytes_per_second: 1 << 40,
        ..Setup::default().policy
    };
    let mut rig = Rig::serving(SimFiles::new(), Setup { policy, ..Setup::default() }, 1);
    let mut held = Vec::new();
    let mut refused = None;
    for number in 0..600 {
        let call = rig.propose(put(&format!("key-{number}"), &[1; 4000]));
        rig.turn();
        while !rig.writes.is_empty() {
            rig.complete_write(0).unwrap();
        }
        rig.turn();
        while let Some(position) = rig.jobs.iter().position(|job| !matches!(job, Job::Checkpoint(_))) {
            rig.run_job(position).unwrap();
        }
        held.append(&mut rig.jobs);
        if let Err(error) = rig.answer(call) {
            assert_eq!(*error, errors::REQUEST_TOO_MANY_REQUESTS);
            refused = Some(number);
            break;
        }
    }
    let refused = refused.expect("the limit holds");
    assert!(refused > 20, "{refused}");
    // Alarms still get through, and reads do.
    let member = rig.replica.published().member_id;
    let disarm = rig.propose(alarm(DEACTIVATE, member, NOSPACE));
    assert_eq!(held.len(), 1, "one checkpoint runs");
    rig.jobs.append(&mut held);
    rig.settle();
    assert!(rig.answer(disarm).is_ok());
    rig.ask(put("after", b"x")).unwrap();
    assert_eq!(rig.get(b"key-0"), Some(vec![1; 4000]));
}

/// The disk fills up and is given room again at random, under load and crashes: nothing panics for want of room that
/// should have been reserved, and what was acknowledged stays.
#[test]
fn a_disk_that_fills_and_empties_at_random_loses_nothing() {
    let mut refused = 0;
    let (mut full_starts, mut refused_starts) = (0, 0);
    for seed in 0..40 {
        let mut rig = Rig::serving(SimFiles::new(), Setup::default(), seed);
        // The log gets its spare segments first, so that it is mostly the data file that finds no room.
        for _ in 0..80 {
            rig.ask(put("churn", &[1; 9000])).unwrap();
        }
        rig.setup.late = true;
        let mut stored = std::collections::BTreeMap::new();
        let mut asked = std::collections::BTreeMap::new();
        for number in 0..400u32 {
            if rig.random.one_in(12) {
                let more = rig.random.below(2) * rig::CHUNK_BYTES / 2;
                let capacity = if rig.random.one_in(10) { 1 << 50 } else { used(&rig.files) + more };
                rig.files.set_capacity(capacity);
            }
            let by = rig.random.below(300);
            rig.tick(by);
            if rig.replica.has_credit() {
                let key = format!("key-{number:04}");
                let len = [10, 9000, 30_000][rig.random.below(3) as usize];
                match rig.random.below(10) {
                    0 => {
                        let revision = rig.revision();
                        rig.propose(compact(revision, false));
                    }
                    1 => {
                        rig.call(|token| Event::Defragment { token });
                    }
                    2 => {
                        // Unique keys stay; these come and go.
                        rig.propose(put("churn", &vec![1; len]));
                    }
                    3 => {
                        rig.propose(delete("churn", ""));
                    }
                    4 if rig.random.one_in(2) => {
                        let member = rig.replica.published().member_id;
                        rig.propose(alarm(DEACTIVATE, member, NOSPACE));
                    }
                    _ => {
                        let call = rig.propose(put(&key, &vec![number as u8; len]));
                        asked.insert(call, (key, vec![number as u8; len]));
                    }
                }
            }
            rig.step().expect("a full disk is no fault");
            asked.retain(|call, entry| match rig.answers.get(call) {
                None => true,
                Some(Ok(_)) => {
                    stored.insert(entry.0.clone(), entry.1.clone());
                    false
                }
                Some(Err(error)) => {
                    assert!([errors::NO_SPACE, errors::REQUEST_TOO_MANY_REQUESTS].contains(error), "{error}");
                    refused += 1;
                    false
                }
            });
            if rig.random.one_in(100) {
                let segments_left = rig.replica.log().segments_left();
                let image = rig.crash(&mut |count, random| KeepSet::random(count, random));
                asked.clear();
                let now = rig.now;
                full_starts += u32::from(image.free_bytes().unwrap() < 1 << 40);
                rig = match Rig::open(image.clone(), Setup::late(), seed + 1000) {
                    Ok(rig) => rig,
                    Err(error) => {
                        // One crash upon another has used them up: then an operator sees to the start.
                        assert_eq!(segments_left, 0, "seed {seed}: {error}");
                        refused_starts += 1;
                        image.set_capacity(1 << 50);
                        Rig::open(image, Setup::late(), seed + 1000).unwrap_or_else(|error| panic!("{error}"))
                    }
                };
                rig.now = now;
                rig.settle();
            }
            for (key, value) in stored.iter().take(5).chain(stored.iter().rev().take(5)) {
                assert_eq!(rig.get(key.as_bytes()).as_ref(), Some(value), "seed {seed}: {key}");
            }
        }
        rig.files.set_capacity(1 << 50);
        rig.tick(2000);
        rig.settle();
        let member = rig.replica.published().member_id;
        rig.ask(alarm(DEACTIVATE, member, NOSPACE)).unwrap();
        ask_again(&mut rig, put("end", b"room")).unwrap();
        for (key, value) in &stored {
            assert_eq!(rig.get(key.as_bytes()).as_ref(), Some(value), "seed {seed}: {key}");
        }
    }
    assert!(refused > 150, "{refused}");
    assert!(full_starts > 50 && refused_starts < 10, "{full_starts}, {refused_starts} of them refused");
}

/// Not a byte left on the disk: a start takes a segment that was kept ready, says that the reserve cannot be had, and
/// serves what it has; again and again.
#[test]
fn a_start_needs_no_room_on_the_disk() {
    let mut rig = Rig::serving(SimFiles::new(), Setup::default(), 1);
    for number in 0..60 {
        rig.ask(put(&format!("key-{number}"), &[number; 3000])).unwrap();
    }
    let hash = rig.hash_kv();
    let mut files = rig.crash(&mut |count, _| KeepSet::none(count));
    let wants_more = Setup { reserve_bytes: 64 << 20, ..Setup::default() };
    for start in 2..8 {
        files.set_capacity(used(&files));
        let (replica, report) =
            rig::open(&files, &wants_more, start).unwrap_or_else(|error| panic!("start {start}: {error}"));
        assert!(report.store.reserve_missing.is_some(), "start {start}");
        let mut rig = Rig::over(files, replica, wants_more.clone(), start);
        rig.settle();
        assert_eq!((rig.ready, rig.hash_kv()), (1, hash), "start {start}");
        files = rig.crash(&mut |count, _| KeepSet::none(count));
    }
}

/// A removal cannot end the shortage while a pin keeps all that it supersedes: it stops before it has taken what alarms
/// need, and goes on when the pin is gone.
#[test]
fn a_removal_that_frees_nothing_leaves_room_for_alarms() {
    let setup = Setup { reserve_bytes: 2 << 20, ..Setup::default() };
    let mut rig = Rig::serving(SimFiles::new(), setup, 1);
    rig.files.set_capacity(used(&rig.files) + 8 * rig::SEGMENT_BYTES + 4 * rig::CHUNK_BYTES);
    // Small and many: a step removes little, and copies a path for it.
    let mut number = 0u32;
    while ask_again(&mut rig, put(&format!("key-{:03}", number % 200), &[1; 700])).is_ok() {
        number += 1;
        assert!(number < 100_000, "the disk did not fill up");
    }
    rig.settle();
    let member = rig.replica.published().member_id;
    assert_eq!(rig.alarms(), [(member, NOSPACE)]);
    let (snapshot, revision) = (rig.snapshot(), rig.revision());
    rig.ask(compact(revision, false)).unwrap();
    let finished = |rig: &Rig| rig.notes.contains(&Note::CompactionFinished { revision });
    for round in 0..200 {
        rig.tick(100);
        rig.settle();
        if round % 10 == 0 {
            rig.ask(alarm(DEACTIVATE, member, NOSPACE)).unwrap();
        }
    }
    assert!(!finished(&rig), "the pin keeps it from its end");
    drop(snapshot);
    for _ in 0..200 {
        rig.tick(100);
        rig.settle();
    }
    assert!(finished(&rig));
    rig.ask(alarm(DEACTIVATE, member, NOSPACE)).unwrap();
    ask_again(&mut rig, put("more", &[1; 700])).unwrap();
}
