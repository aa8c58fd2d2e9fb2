//! What clients can see of the log core, compared with what etcd does.

mod rig;

use disk::SimFiles;
use disk::sim::KeepSet;
use mainstay_replica as replica;
use proto::errors;
use proto::etcdserverpb as pb;
use replica::{CheckpointPolicy, Event, Note, Response};
use rig::{Job, Rig, Setup, alarm, compact, delete, grant, put, put_leased, revoke, txn};

const GET: i32 = pb::alarm_request::AlarmAction::Get as i32;
const ACTIVATE: i32 = pb::alarm_request::AlarmAction::Activate as i32;
const DEACTIVATE: i32 = pb::alarm_request::AlarmAction::Deactivate as i32;
const NONE: i32 = pb::AlarmType::None as i32;
const NOSPACE: i32 = pb::AlarmType::Nospace as i32;
const CORRUPT: i32 = pb::AlarmType::Corrupt as i32;

fn serving() -> Rig {
    Rig::serving(SimFiles::new(), Setup::default(), 1)
}

fn alarm_answer(rig: &mut Rig, action: i32, member: u64, kind: i32) -> Vec<(u64, i32)> {
    match rig.ask(alarm(action, member, kind)) {
        Ok(Response::Alarm(answer)) => {
            answer.alarms.iter().map(|alarm| (alarm.member_id, alarm.alarm)).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn alarms_are_raised_listed_and_lowered_as_in_etcd() {
    let mut rig = serving();
    let applied = rig.replica.published().applied();
    assert_eq!(alarm_answer(&mut rig, GET, 0, NONE), []);
    assert_eq!(rig.replica.published().applied(), applied + 1, "a question takes an index too");
    assert_eq!(alarm_answer(&mut rig, ACTIVATE, 5, NONE), [], "NONE is no alarm");
    assert_eq!(alarm_answer(&mut rig, ACTIVATE, 5, NOSPACE), [(5, NOSPACE)]);
    assert_eq!(alarm_answer(&mut rig, ACTIVATE, 5, NOSPACE), [(5, NOSPACE)], "what is up is answered again");
    assert_eq!(alarm_answer(&mut rig, ACTIVATE, 4, CORRUPT), [(4, CORRUPT)]);
    assert_eq!(alarm_answer(&mut rig, GET, 0, NONE), [(5, NOSPACE), (4, CORRUPT)]);
    assert_eq!(alarm_answer(&mut rig, GET, 9, CORRUPT), [(4, CORRUPT)], "GET ignores the member");
    assert_eq!(alarm_answer(&mut rig, DEACTIVATE, 4, NOSPACE), [], "another member's");
    assert_eq!(alarm_answer(&mut rig, DEACTIVATE, 4, NONE), [], "NONE lowers nothing");
    assert_eq!(alarm_answer(&mut rig, DEACTIVATE, 4, CORRUPT), [(4, CORRUPT)]);
    assert_eq!(alarm_answer(&mut rig, 77, 5, NOSPACE), [], "an unknown action does nothing");
    assert_eq!(alarm_answer(&mut rig, GET, 0, NONE), [(5, NOSPACE)]);
    let again = Rig::serving(rig.crash(&mut |count, _| KeepSet::none(count)), Setup::default(), 2);
    assert!(again.replica.published().alarm(pb::AlarmType::Nospace));
}

#[test]
fn an_alarm_of_an_unknown_kind_is_kept_and_means_nothing() {
    let mut rig = serving();
    // The low bits of these look like NOSPACE and CORRUPT.
    for kind in [9, 10, -7, i32::MAX, i32::MIN] {
        assert_eq!(alarm_answer(&mut rig, ACTIVATE, 5, kind), [(5, kind)]);
    }
    assert_eq!(alarm_answer(&mut rig, GET, 0, 9), [(5, 9)]);
    assert!(!rig.replica.published().alarm(pb::AlarmType::Nospace));
    rig.ask(put("a", b"1")).unwrap();
    let mut again = Rig::serving(rig.crash(&mut |count, _| KeepSet::none(count)), Setup::default(), 2);
    assert_eq!(again.alarms().len(), 5);
    assert_eq!(alarm_answer(&mut again, DEACTIVATE, 5, i32::MIN), [(5, i32::MIN)]);
    assert_eq!(again.alarms().len(), 4);
}

#[test]
fn corrupt_refuses_what_changes_keys_or_leases_before_nospace_does() {
    let mut rig = serving();
    rig.ask(grant(1, 60)).unwrap();
    alarm_answer(&mut rig, ACTIVATE, 5, NOSPACE);
    for (request, refused) in [
        (put("a", b"1"), true),
        (grant(2, 60), true),
        (txn("a", 0, b"1"), true),
        (delete("a", ""), false),
        (compact(1, false), false),
    ] {
        let answer = rig.ask(request).map(|_| ());
        assert_eq!(answer, if refused { Err(errors::NO_SPACE) } else { Ok(()) });
    }
    alarm_answer(&mut rig, ACTIVATE, 5, CORRUPT);
    let requests =
        [put("a", b"1"), grant(2, 60), txn("a", 0, b"1"), delete("a", ""), compact(1, false), revoke(1)];
    for request in requests {
        assert_eq!(rig.ask(request).unwrap_err(), errors::CORRUPT);
    }
    alarm_answer(&mut rig, DEACTIVATE, 5, CORRUPT);
    assert_eq!(rig.ask(put("a", b"1")).unwrap_err(), errors::NO_SPACE);
    rig.ask(revoke(1)).unwrap();
}

#[test]
fn a_write_over_quota_is_done_and_answered_when_the_alarm_is_up() {
    let quota_bytes = 64 << 10;
    let mut rig = Rig::serving(SimFiles::new(), Setup { quota_bytes, ..Setup::default() }, 1);
    let mut number = 0;
    let refused = loop {
        number += 1;
        assert!(number < 100, "the quota is reached");
        if let Err(error) = rig.ask(put(&format!("key-{number}"), &[1; 3000])) {
            break error;
        }
    };
    assert_eq!(refused, errors::NO_SPACE);
    assert_eq!(rig.get(format!("key-{number}").as_bytes()), Some(vec![1; 3000]), "size never changes state");
    let member = rig.replica.published().member_id;
    let raised = |rig: &Rig| rig.notes.iter().filter(|note| matches!(note, Note::AlarmRaised { .. })).count();
    assert_eq!(raised(&rig), 1);
    assert_eq!(rig.alarms(), [(member, NOSPACE)]);
    // Two at once after disarming: each is done, each is answered after the one alarm.
    rig.ask(alarm(DEACTIVATE, member, NOSPACE)).unwrap();
    let revision = rig.revision();
    let (one, two) = (rig.propose(put("one", b"1")), rig.propose(put("two", b"2")));
    let get = rig.propose(alarm(GET, 0, NONE));
    rig.settle();
    assert_eq!(rig.revision(), revision + 2);
    assert_eq!(*rig.answer(one).as_ref().unwrap_err(), errors::NO_SPACE);
    assert_eq!(*rig.answer(two).as_ref().unwrap_err(), errors::NO_SPACE);
    assert_eq!(raised(&rig), 2, "once more");
    let order: Vec<u32> =
        rig.answered.iter().copied().filter(|call| [one, two, get].contains(call)).collect();
    assert_eq!(
        order,
        [get, one, two],
        "the refusals wait for the alarm, which was proposed after the question"
    );
    // What costs nothing passes, also while the store is over quota.
    rig.ask(delete("one", "")).unwrap();
}

/// A start meets writes in the log whose size was judged when they were proposed. It may find the store larger than
/// it was then (a compaction has to be repeated, the quota was lowered); the alarm comes with the next write, if at all.
#[test]
fn a_write_of_an_earlier_life_raises_no_alarm() {
    let mut rig = serving();
    for number in 0..40 {
        rig.ask(put(&format!("key-{number}"), &[1; 3000])).unwrap();
    }
    // Of the last one the log does not say yet that it is committed: a start finds that out once it leads.
    rig.propose(put("last", b"1"));
    rig.turn();
    assert!(!rig.writes.is_empty());
    while !rig.writes.is_empty() {
        rig.complete_write(0).unwrap();
    }
    let lowered = Setup { quota_bytes: 64 << 10, ..Setup::default() };
    let mut again = Rig::serving(rig.crash(&mut |count, _| KeepSet::none(count)), lowered, 2);
    assert_eq!(again.get(b"last"), Some(b"1".to_vec()));
    assert_eq!(again.alarms(), []);
    assert_eq!(again.ask(put("one", b"more")).unwrap_err(), errors::NO_SPACE);
    let member = again.replica.published().member_id;
    assert_eq!(again.alarms(), [(member, NOSPACE)]);
}

/// The quota is held against the larger branch, nested ones included, taken or not; the branch that is taken is done all
/// the same. Under the alarm what could put anything is refused, and what cannot goes on.
#[test]
fn a_transaction_is_measured_by_its_larger_branch() {
    let setup = Setup { quota_bytes: 256 << 10, ..Setup::default() };
    let mut rig = Rig::serving(SimFiles::new(), setup, 1);
    let op = |request| pb::RequestOp { request: Some(request) };
    let put_op = |key: &str, bytes: usize| {
        let put = pb::PutRequest { key: key.into(), value: vec![1; bytes], ..Default::default() };
        op(pb::request_op::Request::RequestPut(put))
    };
    let nested = |success: Vec<pb::RequestOp>| {
        let txn = pb::TxnRequest { success, ..Default::default() };
        op(pb::request_op::Request::RequestTxn(txn))
    };
    let delete_op = |key: &str| {
        let delete = pb::DeleteRangeRequest { key: key.into(), ..Default::default() };
        op(pb::request_op::Request::RequestDeleteRange(delete))
    };
    let txn = |success: Vec<pb::RequestOp>, failure: Vec<pb::RequestOp>| {
        replica::Request::Txn(pb::TxnRequest { success, failure, ..Default::default() })
    };
    let large = || nested(vec![nested(vec![put_op("large", 300 << 10)])]);
    rig.ask(txn(vec![put_op("a", 10)], vec![put_op("b", 10)])).unwrap();
    let revision = rig.revision();
    assert_eq!(rig.ask(txn(vec![put_op("c", 10)], vec![large()])).unwrap_err(), errors::NO_SPACE);
    assert_eq!((rig.revision(), rig.get(b"c")), (revision + 1, Some(vec![1; 10])), "it is done");
    assert_eq!(rig.get(b"large"), None, "the other branch was not taken");
    assert!(rig.replica.published().alarm(pb::AlarmType::Nospace));
    // Under the alarm nothing is done.
    for refused in [
        txn(vec![put_op("d", 1)], vec![]),
        txn(vec![delete_op("a")], vec![nested(vec![put_op("d", 1)])]),
        put("d", b"1"),
    ] {
        assert_eq!(rig.ask(refused).unwrap_err(), errors::NO_SPACE);
    }
    assert_eq!(rig.revision(), revision + 1);
    rig.ask(txn(vec![delete_op("a"), nested(vec![delete_op("c")])], vec![])).unwrap();
    rig.ask(txn(vec![], vec![])).unwrap();
    assert_eq!(rig.revision(), revision + 2);
    // CORRUPT comes before it, and refuses that too.
    rig.ask(alarm(ACTIVATE, 5, CORRUPT)).unwrap();
    for refused in [txn(vec![delete_op("a")], vec![]), txn(vec![put_op("d", 1)], vec![]), txn(vec![], vec![])]
    {
        assert_eq!(rig.ask(refused).unwrap_err(), errors::CORRUPT);
    }
}

#[test]
fn a_shard_that_refuses_for_quota_raises_the_alarm_once() {
    let mut rig = serving();
    let mut calls: Vec<u32> = (0..3).map(|_| rig.call(|token| Event::OverQuota { token })).collect();
    rig.turn();
    assert!(!rig.replica.published().alarm(pb::AlarmType::Nospace));
    assert!(
        calls.iter().all(|call| !rig.answers.contains_key(call)),
        "whoever is refused finds the alarm up"
    );
    rig.settle();
    calls.push(rig.call(|token| Event::OverQuota { token }));
    rig.settle();
    for call in calls {
        assert_eq!(*rig.answer(call).as_ref().unwrap_err(), errors::NO_SPACE);
    }
    let raised = rig.notes.iter().filter(|note| matches!(note, Note::AlarmRaised { .. })).count();
    assert_eq!(raised, 1);
    assert!(rig.replica.published().alarm(pb::AlarmType::Nospace));
}

#[test]
fn a_lease_without_an_id_gets_one_of_its_own() {
    let mut rig = serving();
    let mut ids = Vec::new();
    for _ in 0..10 {
        match rig.ask(grant(0, 60)) {
            Ok(Response::LeaseGrant(answer)) => {
                assert!(answer.id > 0 && answer.ttl == 60, "{answer:?}");
                assert_eq!(answer.header.as_ref().map(|header| header.revision), Some(1));
                ids.push(answer.id);
            }
            other => panic!("{other:?}"),
        }
    }
    let mut again = Rig::serving(rig.crash(&mut |count, _| KeepSet::none(count)), Setup::default(), 2);
    for _ in 0..10 {
        match again.ask(grant(0, 60)) {
            Ok(Response::LeaseGrant(answer)) => ids.push(answer.id),
            other => panic!("{other:?}"),
        }
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 20);
    assert_eq!(again.ask(grant(ids[3], 60)).unwrap_err(), errors::LEASE_EXIST);
    assert_eq!(again.ask(grant(1, i64::MAX)).unwrap_err(), errors::LEASE_TTL_TOO_LARGE);
    assert!(matches!(again.ask(grant(1, 0)), Ok(Response::LeaseGrant(answer)) if answer.ttl == 2));
    assert_eq!(again.ask(revoke(4711)).unwrap_err(), errors::LEASE_NOT_FOUND);
    assert_eq!(again.ask(put_leased("a", 4711)).unwrap_err(), errors::LEASE_NOT_FOUND);
}

/// While the disk hangs the revocation of an expired lease is not proposed again: it would come to the log behind a
/// grant that gave the id to somebody else.
#[test]
fn an_expired_lease_is_revoked_once_however_slow_the_disk_is() {
    let mut rig = serving();
    rig.ask(grant(7, 2)).unwrap();
    let expired =
        |rig: &Rig| rig.notes.iter().filter(|note| matches!(note, Note::LeaseExpired { .. })).count();
    let mut granted = None;
    for _ in 0..80 {
        rig.tick(100);
        rig.turn();
        // Nothing is completed.
        if expired(&rig) == 1 && granted.is_none() {
            granted = Some(rig.propose(grant(7, 600)));
        }
    }
    assert_eq!(expired(&rig), 1, "over five seconds passed since");
    rig.settle();
    assert!(rig.answer(granted.expect("it expired")).is_ok());
    assert_eq!(rig.leases(), [(7, 600)]);
}

#[test]
fn an_expired_lease_is_revoked_in_one_revision_and_its_renewal_waits_for_that() {
    let mut rig = serving();
    rig.ask(grant(7, 2)).unwrap();
    rig.ask(put_leased("b", 7)).unwrap();
    rig.ask(put_leased("a", 7)).unwrap();
    let early = rig.call(|token| Event::LeaseRenew { token, id: 7 });
    assert!(matches!(rig.answer(early), Ok(Response::LeaseRenewed { id: 7, ttl_s: Some(2), revision: 3 })));
    // Expired, and its revocation is on its way through the log.
    rig.tick(2_600);
    let late = rig.call(|token| Event::LeaseRenew { token, id: 7 });
    assert!(!rig.is_answered(late));
    rig.settle();
    assert!(
        matches!(rig.answer(late), Ok(Response::LeaseRenewed { id: 7, ttl_s: None, revision: 3 })),
        "the header is that of the arrival"
    );
    assert_eq!((rig.get(b"a"), rig.get(b"b"), rig.revision()), (None, None, 4));
    let gone = rig.call(|token| Event::LeaseTimeToLive { token, id: 7, keys: true });
    assert!(matches!(rig.answer(gone), Ok(Response::LeaseTimeToLive(answer)) if answer.ttl == -1));
    // A lease without keys takes no revision.
    rig.ask(grant(8, 2)).unwrap();
    rig.ask(revoke(8)).unwrap();
    assert_eq!(rig.revision(), 4);
}

#[test]
fn leases_survive_a_restart_and_start_anew() {
    let mut rig = serving();
    rig.ask(grant(7, 5)).unwrap();
    rig.ask(put_leased("a", 7)).unwrap();
    rig.tick(4_000);
    rig.settle();
    let image = rig.crash(&mut |count, _| KeepSet::none(count));
    let mut again = Rig::open(image, Setup::default(), 2).unwrap_or_else(|error| panic!("{error}"));
    // Before the entries of earlier lives are applied nobody knows how long a lease has: renewals wait.
    again.tick(1);
    let renewal = again.call(|token| Event::LeaseRenew { token, id: 7 });
    assert!(!again.is_answered(renewal) || again.answer(renewal).is_ok());
    again.settle();
    assert!(matches!(again.answer(renewal), Ok(Response::LeaseRenewed { ttl_s: Some(5), .. })));
    again.tick(4_900);
    again.settle();
    assert!(again.get(b"a").is_some(), "the whole TTL was granted again");
    again.tick(2_000);
    again.settle();
    assert_eq!(again.get(b"a"), None);
}

#[test]
fn barriers_wait_for_the_first_entry_of_the_term() {
    let mut rig = serving();
    rig.ask(put("a", b"1")).unwrap();
    let image = rig.crash(&mut |count, _| KeepSet::none(count));
    let mut again = Rig::open(image, Setup::late(), 2).unwrap_or_else(|error| panic!("{error}"));
    let barrier = again.call(|token| Event::Barrier { token });
    for _ in 0..5 {
        again.turn();
        again.tick(600);
    }
    assert!(!again.is_answered(barrier), "nothing of this term is durable yet");
    assert!(!again.replica.published().read_ready());
    again.settle();
    assert!(matches!(again.answer(barrier), Ok(Response::Barrier)));
    assert!(again.replica.published().read_ready());
    let next = again.call(|token| Event::Barrier { token });
    again.turn();
    assert!(matches!(again.answer(next), Ok(Response::Barrier)), "from now on the root is the barrier");
}

#[test]
fn no_outcome_comes_before_its_write_and_all_before_it_are_durable() {
    let mut rig = serving();
    rig.turn();
    let first = rig.propose(put("a", b"1"));
    rig.turn();
    let second = rig.propose(put("b", b"2"));
    rig.turn();
    assert_eq!(rig.writes.len(), 2, "two batches are in flight");
    rig.complete_write(1).unwrap();
    rig.turn();
    assert!(!rig.is_answered(second), "its batch is durable, the one before is not (law 2)");
    assert_eq!(rig.get(b"b"), None);
    rig.complete_write(0).unwrap();
    assert!(!rig.is_answered(first), "nothing is answered before the root is published");
    rig.turn();
    assert!(rig.answer(first).is_ok() && rig.answer(second).is_ok());
    assert_eq!(rig.revision(), 3);
}

#[test]
fn compactions_answer_as_etcd_does() {
    let mut rig = serving();
    assert_eq!(rig.ask(compact(-1, false)).unwrap_err(), errors::COMPACTED);
    rig.ask(compact(0, false)).unwrap();
    assert_eq!(rig.ask(compact(0, false)).unwrap_err(), errors::COMPACTED);
    for round in 0..20 {
        rig.ask(put("a", &[round])).unwrap();
    }
    assert_eq!(rig.ask(compact(22, false)).unwrap_err(), errors::FUTURE_REV);
    assert_eq!(rig.ask(compact(22, true)).unwrap_err(), errors::FUTURE_REV);
    match rig.ask(compact(15, false)) {
        Ok(Response::Compact(answer)) => assert_eq!(answer.header.as_ref().unwrap().revision, 21),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_physical_compaction_is_answered_when_a_crash_cannot_bring_anything_back() {
    let policy = CheckpointPolicy { interval_ms: u64::MAX, dirty_bytes: u64::MAX, ..Setup::default().policy };
    let setup = Setup { policy, ..Setup::default() };
    let mut rig = Rig::serving(SimFiles::new(), setup.clone(), 1);
    for round in 0..300u32 {
        rig.ask(put(&format!("key-{}", round % 7), &round.to_be_bytes())).unwrap();
    }
    let call = rig.propose(compact(290, true));
    let plain = rig.propose(compact(280, false));
    let late = rig.propose(compact(280, true));
    rig.turn();
    rig.complete_write(0).unwrap();
    rig.turn();
    // Accepted, refused, and nothing removed: the hash is still to be made.
    assert_eq!(*rig.answer(plain).as_ref().unwrap_err(), errors::COMPACTED);
    assert!(!rig.is_answered(call));
    assert!(!rig.is_answered(late), "a physical request waits for what is being removed, even to be refused");
    assert!(!rig.replica.has_work(), "nothing is removed before the hash is made");
    let hash = rig.has_job(|job| matches!(job, Job::Hash(_))).expect("the hash comes first");
    rig.run_job(hash).unwrap();
    while rig.replica.has_work() {
        rig.turn();
    }
    assert_eq!(*rig.answer(late).as_ref().unwrap_err(), errors::COMPACTED);
    assert!(!rig.is_answered(call), "removed, but a crash would bring it back");
    let checkpoint = rig.has_job(|job| matches!(job, Job::Checkpoint(_))).expect("it asks for a checkpoint");
    rig.run_job(checkpoint).unwrap();
    match rig.answer(call) {
        Ok(Response::Compact(answer)) => assert_eq!(answer.header.as_ref().unwrap().revision, 301),
        other => panic!("{other:?}"),
    }
    let image = rig.crash(&mut |count, _| KeepSet::none(count));
    let (again, _) = rig::open(&image, &setup, 2).unwrap_or_else(|error| panic!("{error}"));
    let again = Rig::over(image, again, setup, 2);
    let snapshot = again.snapshot();
    assert_eq!(mvcc::stamp::finished(snapshot.stamp()), 290, "nothing is left to remove");
}

#[test]
fn compactions_keep_their_hash_unless_the_one_before_was_under_way() {
    let mut rig = serving();
    for round in 0..50u8 {
        rig.ask(put(&format!("key-{}", round % 5), &[round])).unwrap();
    }
    let kept = |rig: &Rig| {
        let hashes = rig.replica.published().compaction_hashes();
        hashes.all().iter().map(|hash| (hash.revision, hash.compact_revision)).collect::<Vec<_>>()
    };
    rig.ask(compact(10, false)).unwrap();
    assert_eq!(kept(&rig), [(10, -1)]);
    // Three in a row before the first is removed: only the first hashes everything since the one before.
    for revision in [20, 30, 40] {
        rig.propose(compact(revision, false));
    }
    rig.settle();
    assert_eq!(kept(&rig), [(10, -1), (20, 10)]);
    rig.ask(compact(45, false)).unwrap();
    assert_eq!(kept(&rig), [(10, -1), (20, 10), (45, 40)]);
}

/// A range that began before a compaction and let its snapshot go on the way is given to its end: removal stops short
/// of what it reads, and goes on when it has ended. New requests for that revision are refused at once, as in etcd.
#[test]
fn a_range_that_began_before_a_compaction_is_given_to_its_end() {
    let mut rig = serving();
    for round in 0..3u8 {
        for key in 0..40 {
            rig.ask(put(&format!("key-{key:02}"), &[round; 50])).unwrap();
        }
    }
    let all = pb::RangeRequest { key: b"key".to_vec(), range_end: b"kez".to_vec(), ..Default::default() };
    let begun = {
        let snapshot = rig.snapshot();
        let old = pb::RangeRequest { revision: 60, ..all.clone() };
        mvcc::RangeCursor::new(mvcc::Revisions::of(snapshot.stamp()), &old).unwrap().unwrap()
    };
    let expected = mvcc::range(rig.snapshot().view(), mvcc::Revisions::of(rig.snapshot().stamp()), &{
        pb::RangeRequest { revision: 60, ..all.clone() }
    })
    .unwrap()
    .to_message()
    .kvs;
    rig.replica.published().hold_history(3, Some(begun.revision()));
    let physical = rig.propose(compact(121, true));
    rig.settle();
    assert!(!rig.is_answered(physical), "the physical end has to wait");
    assert!(!rig.notes.contains(&Note::CompactionFinished { revision: 121 }));
    let mut cursor = begun.clone();
    let mut given = Vec::new();
    while !cursor.is_done() {
        // A newer snapshot for each step, and time in between: removal looks again and again.
        rig.tick(200);
        rig.settle();
        let snapshot = rig.snapshot();
        let mut rows = mvcc::Rows::new();
        cursor.step(snapshot.view(), 100, &mut rows).unwrap();
        given.extend(rows.to_messages());
    }
    assert_eq!(given, expected);
    let snapshot = rig.snapshot();
    let refused = mvcc::RangeCursor::new(
        mvcc::Revisions::of(snapshot.stamp()),
        &pb::RangeRequest { revision: 60, ..all.clone() },
    );
    assert_eq!(refused.err(), Some(errors::COMPACTED));
    drop(snapshot);
    // While it is held up nothing spins, checkpoints are made, and what is not history is as always.
    assert!(!rig.replica.has_work());
    rig.tick(10_000);
    rig.settle();
    rig.ask(put("another", b"1")).unwrap();
    // The oldest of all shards counts.
    rig.replica.published().hold_history_too(5, 100);
    rig.replica.published().hold_history(3, None);
    rig.tick(200);
    rig.settle();
    assert!(!rig.is_answered(physical));
    let mut rows = mvcc::Rows::new();
    assert_eq!(begun.clone().step(rig.snapshot().view(), 100, &mut rows), Err(errors::COMPACTED));
    rig.replica.published().hold_history(5, None);
    rig.tick(200);
    rig.settle();
    assert!(matches!(rig.answer(physical), Ok(Response::Compact(_))));
    assert!(rig.notes.contains(&Note::CompactionFinished { revision: 121 }));
}

#[test]
fn an_interrupted_removal_goes_on_after_a_restart() {
    let policy = CheckpointPolicy { interval_ms: 1, ..Setup::default().policy };
    let setup = Setup { policy, ..Setup::default() };
    let mut rig = Rig::serving(SimFiles::new(), setup.clone(), 1);
    for round in 0..600u32 {
        rig.ask(put(&format!("key-{}", round % 3), &round.to_be_bytes())).unwrap();
    }
    rig.propose(compact(590, false));
    rig.turn();
    rig.complete_write(0).unwrap();
    rig.turn();
    let hash = rig.has_job(|job| matches!(job, Job::Hash(_))).unwrap();
    rig.run_job(hash).unwrap();
    // A step, and a checkpoint in the midst of the removal.
    rig.turn();
    rig.tick(10);
    rig.turn();
    let checkpoint = rig.has_job(|job| matches!(job, Job::Checkpoint(_))).unwrap();
    rig.run_job(checkpoint).unwrap();
    assert!(mvcc::stamp::removal_pending(rig.snapshot().stamp()));
    let image = rig.crash(&mut |count, _| KeepSet::none(count));
    rig.settle();
    let mut again = Rig::serving(image, setup, 2);
    again.settle();
    let (one, two) = (rig.fingerprint(), again.fingerprint());
    assert_eq!(one.trees, two.trees);
    assert_eq!((one.hash_kv, one.compacted, one.revision), (two.hash_kv, two.compacted, two.revision));
    let hashes = again.replica.published().compaction_hashes().all().len();
    assert_eq!(hashes, 0, "hashes are not kept over a restart, nor made for what was interrupted");
}

#[test]
fn stop_takes_no_more_finishes_what_was_taken_and_makes_the_last_checkpoint() {
    let mut rig = Rig::serving(SimFiles::new(), Setup::late(), 1);
    let last = rig.propose(put("last", b"1"));
    rig.ask(grant(7, 2)).unwrap();
    rig.tick(2_600);
    let renewal = rig.call(|token| Event::LeaseRenew { token, id: 7 });
    rig.handle(Event::Stop);
    let refused = rig.propose(put("late", b"2"));
    assert_eq!(*rig.answer(refused).as_ref().unwrap_err(), errors::STOPPED);
    rig.settle();
    rig.turn();
    rig.turn();
    assert_eq!(rig.stopped, 1, "it says once that it has stopped");
    assert!(rig.answer(last).is_ok());
    assert!(rig.is_answered(renewal), "nobody is left waiting");
    let barrier = rig.call(|token| Event::Barrier { token });
    assert!(rig.is_answered(barrier));
    // What it leaves needs no replay.
    let image = rig.crash(&mut |count, _| KeepSet::none(count));
    let (_, report) = rig::open(&image, &Setup::default(), 2).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(report.replayed_entries, 0);
    let mut again = Rig::serving(image, Setup::default(), 3);
    assert_eq!(again.get(b"last"), Some(b"1".to_vec()));
    again.ask(put("next", b"3")).unwrap();
}

#[test]
fn many_starts_do_not_pile_up_segments() {
    let mut files = SimFiles::new();
    for boot in 0..20 {
        let mut rig = Rig::serving(files, Setup::default(), boot);
        rig.ask(put("a", &[boot as u8])).unwrap();
        files = rig.crash(&mut |count, _| KeepSet::all(count));
    }
    let segments = disk::Files::list(&files, "log").unwrap().len();
    assert!(segments <= 14, "{segments} segments");
}

#[test]
fn events_cover_every_revision_while_somebody_watches() {
    let mut rig = serving();
    rig.ask(put("before", b"0")).unwrap();
    assert!(rig.events.is_empty(), "nobody watches");
    rig.replica.published().add_watchers(1);
    for _ in 0..3 {
        rig.propose(put("a", b"1"));
        rig.propose(put("b", b"2"));
        rig.settle();
    }
    let covered: Vec<(i64, i64)> = rig.events.iter().map(|batch| (batch.first, batch.last)).collect();
    assert_eq!(covered.first().map(|first| first.0), Some(3));
    assert_eq!(covered.last().map(|last| last.1), Some(8));
    for pair in covered.windows(2) {
        assert_eq!(pair[0].1 + 1, pair[1].0, "no gap");
    }
    assert_eq!(rig.replica.published().event_revision(), 8);
}
