//! Starts that apply a long log again: what compactions had given back between its entries is not there twice (law 8).

mod rig;

use disk::sim::{Fault, KeepSet};
use disk::{Files, OpenMode, SimFiles};
use mainstay_replica as replica;
use proto::errors;
use proto::etcdserverpb as pb;
use replica::{CheckpointPolicy, Event, Note};
use rig::{Rig, Setup, alarm, ask_again, compact, delete, grant, put, put_leased, used};

/// No checkpoint, unless something needs one: a start has the whole log to apply again.
fn long_log() -> Setup {
    let policy = CheckpointPolicy {
        dirty_bytes: 1 << 30,
        log_bytes: 1 << 30,
        log_segments: 10_000,
        interval_ms: 1 << 40,
        ..Setup::default().policy
    };
    Setup { policy, ..Setup::default() }
}

/// Goes on until it serves, or ends.
fn come_up(rig: &mut Rig) {
    for _ in 0..100 {
        rig.settle();
        if rig.ready > 0 || rig.failed.is_some() {
            return;
        }
        rig.tick(100);
    }
}

fn waited(rig: &Rig) -> usize {
    rig.notes.iter().filter(|note| matches!(note, Note::ReplayWaitsForRoom { .. })).count()
}

/// Compactions had given pages back between the entries of a log that a start applies again; all together they store
/// several times what the disk has. The start removes on the way, as the life before did.
#[test]
fn a_start_on_a_full_disk_needs_no_more_room_than_the_life_before() {
    let mut rig = Rig::serving(SimFiles::new(), long_log(), 1);
    rig.ask(grant(7, 100)).unwrap();
    let (mut bytes, mut rounds) = (0, 0);
    while rounds < 40 {
        for number in 0..12u8 {
            let len = 20_000 + 3_000 * u64::from(number);
            ask_again(&mut rig, put(&format!("long-{number}"), &vec![rounds; len as usize])).unwrap();
            bytes += len;
        }
        ask_again(&mut rig, put_leased(&format!("kept-{rounds}"), 7)).unwrap();
        let revision = rig.revision();
        rig.ask(compact(revision, false)).unwrap();
        rounds += 1;
    }
    assert!(bytes > 4 * rig.replica.store().file_bytes(), "{bytes} bytes were stored");
    let checkpoints = rig.notes.iter().filter(|note| matches!(note, Note::CheckpointFinished { .. })).count();
    assert_eq!(checkpoints, 0, "the log is as long as that");
    let state = rig.fingerprint();

    let mut files = rig.crash(&mut |count, _| KeepSet::all(count));
    // One that is told to stop while an entry waits does not wait for its room.
    files.set_capacity(used(&files));
    let mut stopped = Rig::open(files, long_log(), 2).unwrap_or_else(|error| panic!("{error}"));
    // The first turn publishes what it applied: that may free enough.
    (0..2).for_each(|_| stopped.turn());
    stopped.handle(Event::Stop);
    stopped.settle();
    assert_eq!((stopped.ready, stopped.stopped, waited(&stopped)), (0, 1, 1));
    files = stopped.crash(&mut |count, _| KeepSet::none(count));
    for start in 3..9 {
        let first = files.image();
        first.set_capacity(used(&first));
        // Hashes, checkpoints and drops end when they like.
        let setup = Setup { late: start % 2 == 0, ..long_log() };
        let mut rig = Rig::open(first, setup.clone(), start).unwrap_or_else(|error| panic!("{error}"));
        come_up(&mut rig);
        assert!(rig.now < 1000, "checkpoints wait for nobody's sake: {} ms", rig.now);
        assert_eq!((rig.ready, rig.failed.take()), (1, None), "start {start}");
        assert_eq!(waited(&rig), 1, "start {start}: said once");
        assert_eq!(rig.fingerprint(), state, "start {start}");
        // Checkpoints have some of it now, and the rest is applied once more.
        let second = rig.crash(&mut |count, random| KeepSet::random(count, random));
        second.set_capacity(used(&second));
        let mut rig = Rig::open(second, setup, start).unwrap_or_else(|error| panic!("{error}"));
        come_up(&mut rig);
        assert_eq!((rig.ready, rig.failed.take()), (1, None), "start {start}, once more");
        assert_eq!(rig.fingerprint(), state, "start {start}, once more");
    }
}

/// A log that nothing of was in a checkpoint, and the data file grown for it, after a power loss; and what it makes.
fn grown() -> (SimFiles, rig::Fingerprint) {
    let mut rig = Rig::serving(SimFiles::new(), long_log(), 1);
    for number in 0..120 {
        rig.ask(put(&format!("key-{number}"), &[number; 30_000])).unwrap();
    }
    let state = rig.fingerprint();
    (rig.crash(&mut |count, _| KeepSet::none(count)), state)
}

#[test]
fn room_that_was_promised_is_there_after_a_power_loss_when_others_have_filled_the_disk() {
    let (files, state) = grown();
    files.set_capacity(used(&files));
    let mut rig = Rig::serving(files, long_log(), 2);
    assert_eq!((rig.fingerprint(), waited(&rig)), (state, 0));
}

/// The same, and the data file has lost its tail, as by a tool that copies only what is in use.
fn without_tail() -> (SimFiles, rig::Fingerprint) {
    let (files, state) = grown();
    let data = files.open(replica::DATA_FILE, OpenMode::ReadWrite).unwrap();
    data.truncate(rig::CHUNK_BYTES).unwrap();
    data.sync().unwrap();
    (files, state)
}

#[test]
fn a_start_that_finds_no_room_says_what_it_needs_and_goes_on_when_it_has_it() {
    let (mut files, state) = without_tail();
    let mut applied = 0;
    for start in 2..5 {
        files.set_capacity(used(&files));
        let mut rig = Rig::open(files, long_log(), start).unwrap_or_else(|error| panic!("{error}"));
        assert!(
            rig.replica.published().applied() >= applied,
            "start {start}: a checkpoint has what was applied"
        );
        come_up(&mut rig);
        let said = rig.failed.take().expect("it cannot be applied");
        assert!(said.contains("cannot be applied again") && said.contains("free some space"), "{said}");
        assert_eq!(rig.ready, 0, "it never says that it serves");
        assert_eq!(
            (rig.get(b"key-0").is_some(), rig.get(b"key-119")),
            (true, None),
            "what has room is applied"
        );
        applied = rig.replica.published().applied();
        files = rig.crash(&mut |count, _| KeepSet::none(count));
    }
    files.set_capacity(1 << 50);
    let mut rig = Rig::serving(files, long_log(), 9);
    assert_eq!((rig.fingerprint(), waited(&rig)), (state, 0));
}

/// The log keeps segments to use again: before a start gives up, their room is for the data file.
#[test]
fn a_start_that_finds_no_room_has_that_of_a_spare_segment_of_the_log() {
    // One segment is room for one chunk.
    let sizes = Setup { segment_bytes: rig::CHUNK_BYTES, ..Setup::default() };
    for puts in 120..136 {
        let mut rig = Rig::serving(SimFiles::new(), sizes.clone(), 1);
        for number in 0..puts {
            ask_again(&mut rig, put("same", &[number; 30_000])).unwrap();
        }
        // A checkpoint has all of it, and the log's segments are released.
        (0..4).for_each(|_| {
            rig.tick(sizes.policy.interval_ms);
            rig.settle();
        });
        let bytes = rig.replica.store().file_bytes().next_multiple_of(rig::CHUNK_BYTES);
        let files = rig.crash(&mut |count, _| KeepSet::all(count));
        let setup = Setup { policy: long_log().policy, ..sizes.clone() };
        let mut rig = Rig::serving(files, setup.clone(), 2);
        rig.ask(put("long", &[1; 20_000])).unwrap();
        let state = rig.fingerprint();
        let files = rig.crash(&mut |count, _| KeepSet::all(count));
        let data = files.open(replica::DATA_FILE, OpenMode::ReadWrite).unwrap();
        data.truncate(bytes).unwrap();
        data.sync().unwrap();
        files.set_capacity(used(&files));
        let mut rig = Rig::open(files, setup, 3).unwrap_or_else(|error| panic!("{error}"));
        come_up(&mut rig);
        assert_eq!((rig.ready, rig.failed.take(), waited(&rig)), (1, None, 1), "{puts} puts");
        assert!(rig.replica.store().allocated_bytes() > bytes, "{puts} puts: the file has grown");
        assert_eq!(rig.fingerprint(), state);
    }
}

/// Somebody makes room while an entry waits.
#[test]
fn an_entry_that_waits_takes_the_room_that_comes() {
    let (files, state) = without_tail();
    files.set_capacity(used(&files));
    let mut rig = Rig::open(files, long_log(), 2).unwrap_or_else(|error| panic!("{error}"));
    rig.settle();
    assert_eq!((rig.ready, waited(&rig), rig.failed.is_none()), (0, 1, true));
    // However often it is tried meanwhile, the disk is not asked again at once.
    let operations = rig.files.operations();
    (0..100).for_each(|_| rig.turn());
    assert_eq!(rig.files.operations(), operations);
    rig.files.set_capacity(1 << 50);
    come_up(&mut rig);
    assert_eq!((rig.ready, rig.fingerprint()), (1, state));
}

/// The file is just long enough for what is applied again, with the reserve: the removal that ends the shortage has room,
/// and so has all else then.
#[test]
fn a_start_that_used_the_reserve_removes_what_was_compacted() {
    // What alarms need of it is more than a chunk: the file has less then.
    let setup = Setup { reserve_bytes: 16 << 20, ..long_log() };
    let mut rig = Rig::serving(SimFiles::new(), setup.clone(), 1);
    for number in 0..60 {
        rig.ask(put("same", &[number; 30_000])).unwrap();
    }
    let stored = rig.crash(&mut |count, _| KeepSet::none(count));
    let mut rig = Rig::serving(stored.image(), setup.clone(), 2);
    let revision = rig.revision();
    // Accepted, and the power goes before anything is removed.
    rig.propose(compact(revision, false));
    rig.turn();
    let stored = rig.crash(&mut |count, _| KeepSet::all(count));
    let mut chunks = 1;
    let mut rig = loop {
        let files = stored.image();
        let data = files.open(replica::DATA_FILE, OpenMode::ReadWrite).unwrap();
        data.truncate(chunks * rig::CHUNK_BYTES).unwrap();
        data.sync().unwrap();
        files.set_capacity(used(&files));
        let mut rig = Rig::open(files, setup.clone(), 3).unwrap_or_else(|error| panic!("{error}"));
        come_up(&mut rig);
        if rig.failed.is_none() {
            break rig;
        }
        chunks += 1;
        assert!(chunks < 40, "{:?}", rig.failed);
    };
    assert_eq!((rig.ready, waited(&rig)), (1, 1), "{chunks} chunks");
    let free = rig.replica.store().allocated_bytes() - rig.replica.store().used_bytes();
    (0..100).for_each(|_| {
        rig.tick(100);
        rig.settle();
    });
    let removed = rig.notes.contains(&Note::CompactionFinished { revision });
    assert!(removed, "{chunks} chunks, {free} bytes are not in use");
    assert_eq!(rig.get(b"same"), Some(vec![59; 30_000]));
    // The reserve is not there, so nobody stores more before the disk has room again.
    assert_eq!(ask_again(&mut rig, put("same", &[60; 30_000])), Err(errors::NO_SPACE));
    rig.files.set_capacity(1 << 50);
    rig.tick(2000);
    rig.settle();
    let member = rig.replica.published().member_id;
    let kind = pb::AlarmType::Nospace as i32;
    rig.ask(alarm(pb::alarm_request::AlarmAction::Deactivate as i32, member, kind)).unwrap();
    ask_again(&mut rig, put("same", &[60; 30_000])).unwrap();
}

/// A delete of many keys is thought to take all that is in use, or less where less is: what its price was before a
/// removal is not what it is after.
#[test]
fn an_entry_is_priced_again_when_what_it_waits_for_is_removed() {
    let mut rig = Rig::serving(SimFiles::new(), long_log(), 1);
    for number in 0..1500 {
        ask_again(&mut rig, put(&format!("many-{number:04}"), &[1; 1000])).unwrap();
    }
    for number in 0..200 {
        ask_again(&mut rig, put("same", &[number; 30_000])).unwrap();
    }
    let revision = rig.revision();
    rig.ask(compact(revision, false)).unwrap();
    rig.settle();
    assert!(rig.notes.contains(&Note::CompactionFinished { revision }));
    rig.ask(delete("many-", "many.")).unwrap();
    let state = rig.fingerprint();
    let files = rig.crash(&mut |count, _| KeepSet::all(count));
    // As it was before the removal: for long steps of that it grew.
    let data = files.open(replica::DATA_FILE, OpenMode::ReadWrite).unwrap();
    data.truncate(42 * rig::CHUNK_BYTES).unwrap();
    data.sync().unwrap();
    files.set_capacity(used(&files));
    let mut rig = Rig::open(files, long_log(), 2).unwrap_or_else(|error| panic!("{error}"));
    // What the log gives back goes to others.
    rig.files.set_capacity(0);
    come_up(&mut rig);
    assert_eq!((rig.ready, rig.failed.take(), waited(&rig)), (1, None, 1));
    assert_eq!(rig.fingerprint(), state);
}

/// What an alarm refuses when it is applied stores nothing, and waits for no room.
#[test]
fn an_entry_that_is_refused_again_needs_no_room() {
    let mut rig = Rig::serving(SimFiles::new(), long_log(), 1);
    let member = rig.replica.published().member_id;
    let kind = pb::AlarmType::Nospace as i32;
    rig.ask(alarm(pb::alarm_request::AlarmAction::Activate as i32, member, kind)).unwrap();
    for number in 0..4 {
        let refused = rig.ask(put("long", &vec![number; rig::CHUNK_BYTES as usize / 2])).unwrap_err();
        assert_eq!(refused, errors::NO_SPACE);
    }
    let (state, mapped) = (rig.fingerprint(), rig.replica.store().allocated_bytes());
    let files = rig.crash(&mut |count, _| KeepSet::none(count));
    let data = files.open(replica::DATA_FILE, OpenMode::ReadWrite).unwrap();
    data.truncate(rig::CHUNK_BYTES).unwrap();
    data.sync().unwrap();
    files.set_capacity(used(&files));
    assert!(mapped > rig::CHUNK_BYTES, "room was made for it in the life before");
    let mut rig = Rig::serving(files, long_log(), 2);
    assert_eq!((rig.fingerprint(), waited(&rig)), (state, 0));
}

/// A disk that fails is not a full one: nobody waits for it.
#[test]
fn growth_that_fails_otherwise_ends_a_start() {
    let (files, state) = without_tail();
    let open =
        |files: &SimFiles| Rig::open(files.image(), long_log(), 2).unwrap_or_else(|error| panic!("{error}"));
    let mut rig = open(&files);
    let growth = rig.files.operations();
    rig.files.fail_at(growth, Fault::Io);
    rig.turn();
    let said = rig.failed.take().expect("the file has to grow");
    assert!(said.contains("cannot grow") && !said.contains("free some space"), "{said}");
    assert_eq!((rig.ready, waited(&rig)), (0, 0));
    let mut rig = open(&files);
    come_up(&mut rig);
    assert_eq!(rig.fingerprint(), state);
}
