//! Founding, restarting, and refusing what does not belong together.

mod rig;

use std::sync::Arc;

use disk::sim::KeepSet;
use disk::{Files, SimFiles};
use mainstay_replica as replica;
use prost::Message;
use proto::etcdserverpb as pb;
use replica::{Event, OpenError};
use rig::{Rig, Setup, put};

/// The log's entries as (index, term, what).
fn entries(files: &SimFiles) -> Vec<(u64, u64, String)> {
    let shared: Arc<dyn Files> = Arc::new(files.image());
    let options =
        wal::Options { segment_bytes: rig::SEGMENT_BYTES, batch_bytes: 16 << 10, in_flight: 4, boot: 99 };
    let (_, recovered) = wal::Wal::recover(shared, "log", options).unwrap();
    let describe = |entry: &wal::Entry| match entry.kind {
        1 => "conf change".to_owned(),
        _ if entry.data.is_empty() => "empty".to_owned(),
        _ => {
            let message = pb::InternalRaftRequest::decode(&entry.data[..]).unwrap();
            assert_ne!(message.header.unwrap().id, 0, "a request has an id");
            match (message.cluster_member_attr_set, message.cluster_version_set, message.put) {
                (Some(set), None, None) => format!("attributes {}", set.member_attributes.unwrap().name),
                (None, Some(set), None) => format!("version {}", set.ver),
                (None, None, Some(put)) => format!("put {}", String::from_utf8(put.key).unwrap()),
                other => panic!("{other:?}"),
            }
        }
    };
    recovered.entries.iter().map(|entry| (entry.index, entry.term, describe(entry))).collect()
}

/// Who is told not to found a cluster must not find one at the next try.
#[test]
fn a_refused_founding_leaves_nothing_that_counts_as_one() {
    let files = SimFiles::new();
    let setup = Setup::default();
    let open = |may_found: Result<(), String>| {
        let shared: std::sync::Arc<dyn Files> = std::sync::Arc::new(files.clone());
        let opened = replica::open(shared, setup.start(7), || may_found);
        opened.map(|(_, report)| report.founded)
    };
    for _ in 0..2 {
        let refused = open(Err("not here".to_owned())).unwrap_err();
        assert!(matches!(&refused, OpenError::MayNotFound(why) if why == "not here"), "{refused}");
        assert_eq!(refused.to_string(), "not here");
    }
    assert!(open(Ok(())).unwrap());
    assert!(!open(Err("nobody asks".to_owned())).unwrap(), "a member lives there: it is started");
}

#[test]
fn the_first_entries_and_terms_are_those_of_etcd() {
    let mut rig = Rig::serving(SimFiles::new(), Setup::default(), 1);
    let published = rig.replica.published().clone();
    assert_eq!((published.term(), published.applied(), published.committed()), (2, 4, 4));
    assert_eq!(published.leader(), published.member_id);
    assert_eq!(published.cluster_version(), 3 << 16 | 7);
    assert_eq!(rig.revision(), 1);
    rig.ask(put("a", b"1")).unwrap();
    let owned = |list: &[(u64, u64, &str)]| -> Vec<(u64, u64, String)> {
        list.iter().map(|&(index, term, what)| (index, term, what.to_owned())).collect()
    };
    let first = owned(&[
        (1, 1, "conf change"),
        (2, 2, "empty"),
        (3, 2, "attributes default"),
        (4, 2, "version 3.7.0"),
        (5, 2, "put a"),
    ]);
    assert_eq!(entries(&rig.files), first);
    // A restart adds a term, an empty entry and the attributes.
    let mut again = Rig::serving(rig.crash(&mut |count, _| KeepSet::all(count)), Setup::default(), 2);
    assert_eq!(again.replica.published().term(), 3);
    again.ask(put("b", b"2")).unwrap();
    let second = owned(&[(6, 3, "empty"), (7, 3, "attributes default"), (8, 3, "put b")]);
    assert_eq!(entries(&again.files), [first, second].concat());
    assert_eq!(again.revision(), 3);
}

#[test]
fn a_start_serves_without_a_tick() {
    // No election timeout is waited for: neither by a founder nor after a restart.
    let rig = Rig::serving(SimFiles::new(), Setup::default(), 1);
    assert_eq!(rig.now, 1);
    let files = rig.files.image();
    drop(rig);
    assert_eq!(Rig::serving(files, Setup::default(), 2).now, 1);
}

#[test]
fn founding_survives_a_crash_at_every_operation() {
    let whole = Rig::serving(SimFiles::new(), Setup::default(), 1);
    let operations = whole.files.operations();
    let identity = |rig: &Rig| {
        let published = rig.replica.published();
        (published.member_id, published.cluster_id)
    };
    assert!(operations > 10, "{operations}");
    for halt in 0..operations {
        for keep in 0..4 {
            let files = SimFiles::new();
            files.halt_at(halt);
            let mut rig = match Rig::open(files.clone(), Setup::default(), 1) {
                Ok(mut rig) => {
                    assert!(rig.try_settle().is_err(), "the power goes at operation {halt}");
                    Some(rig)
                }
                Err(_) => None,
            };
            let mut random = base::Random::new(halt * 4 + keep);
            let mut choose = |count: usize| match keep {
                0 => KeepSet::none(count),
                1 => KeepSet::all(count),
                _ => KeepSet::random(count, &mut random),
            };
            let after = match &mut rig {
                Some(rig) => rig.crash(&mut |count, _| choose(count)),
                None => files.crash(&mut choose),
            };
            let mut again = Rig::serving(after, Setup::default(), 2);
            assert_eq!(identity(&again), identity(&whole));
            again.ask(put("a", b"1")).unwrap();
            assert_eq!(again.revision(), 2);
        }
    }
}

#[test]
fn a_founder_keeps_its_identity_whatever_it_is_started_with_next() {
    let rig = Rig::serving(SimFiles::new(), Setup::default(), 1);
    let member = rig.replica.published().member_id;
    assert_eq!(format!("{member:x}"), "8e9e05c52164694d");
    // Before any checkpoint the log alone knows.
    let image = rig.files.image();
    image.remove("data").unwrap();
    let again = Rig::serving(image, Setup::default(), 2);
    assert_eq!(again.replica.published().member_id, member);
    assert_eq!(again.replica.published().applied(), 6, "the log was replayed into a new store");
}

#[test]
fn a_store_and_a_log_that_do_not_belong_together_are_refused() {
    let mut rig = Rig::serving(SimFiles::new(), Setup::default(), 1);
    for round in 0..80 {
        rig.ask(put("key", &[round; 3000])).unwrap();
    }
    // A checkpoint that covers all of it.
    rig.handle(Event::Stop);
    rig.settle();
    assert_eq!(rig.stopped, 1);
    let image = rig.files.image();
    let open = |files: &SimFiles| rig::open(files, &Setup::default(), 5).err();

    let no_store = image.image();
    no_store.remove("data").unwrap();
    assert!(matches!(open(&no_store), Some(OpenError::Gap { applied: 0, .. })));

    let no_log = image.image();
    for name in no_log.list("log").unwrap() {
        no_log.remove(&format!("log/{name}")).unwrap();
    }
    let error = open(&no_log).expect("a lost log is not made up for");
    assert!(matches!(error, OpenError::LogBehind { last: 0, .. }));
    assert!(error.to_string().contains("remove this member and add it again"), "{error}");

    let older = Setup { cluster_version: "3.6.0".into(), ..Setup::default() };
    let error = rig::open(&image, &older, 5).err().expect("an older program is refused");
    assert!(matches!(error, OpenError::Newer { .. }), "{error}");

    let newer = Setup { cluster_version: "3.8.0".into(), ..Setup::default() };
    let upgraded = Rig::serving(image, newer, 6);
    assert_eq!(upgraded.replica.published().cluster_version(), 3 << 16 | 8);
}

/// A log that was never this program's: whatever it begins with, no member is made of it.
#[test]
fn a_log_that_founds_nobody_is_refused() {
    // No member, a request in its place, a change that does not decode.
    for (kind, data) in [(0, &b""[..]), (0, b"\x10\x01"), (1, b"\xff")] {
        let files = SimFiles::new();
        let options = Setup::default().start(3).wal;
        let (mut log, _) = wal::Wal::recover(Arc::new(files.clone()), "log", options).unwrap();
        log.append(wal::Record::Entry { term: 1, index: 1, kind, data });
        log.append(wal::Record::HardState(wal::HardState { term: 1, vote: 0, commit: 1 }));
        while let Some(write) = log.submit() {
            write.perform().unwrap();
            log.written(write.seq, write.buf);
        }
        drop(log);
        let names = files.list("log").unwrap();
        let error = rig::open(&files, &Setup::default(), 4).err().expect("refused");
        assert!(matches!(error, OpenError::Unfounded), "{error}");
        let line = error.to_string();
        assert!(line.contains("founds no member; restore a snapshot") && !line.contains('\n'), "{line}");
        assert_eq!(files.list("log").unwrap(), names, "refused, and the log has changed");
    }
}
