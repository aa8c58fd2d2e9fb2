//! What the server's own limit of a request's time ends, and what takes as long as it takes.

mod member;

use member::Member;
use proto::etcdserverpb as pb;

#[test]
fn work_that_was_asked_for_outlasts_what_waits_to_be_agreed_on() {
    let mut member = Member::new();
    let put = pb::PutRequest { key: b"k".to_vec(), value: b"v".to_vec(), ..Default::default() };
    assert_eq!(member.call("/etcdserverpb.KV/Put", &put).0, 0);
    let compaction = pb::CompactionRequest { revision: 2, physical: true };
    assert_eq!(member.call("/etcdserverpb.KV/Compact", &compaction).0, 0);
    member.turns = false;
    let waits = member.start("/etcdserverpb.KV/Put", &put, true);
    // What it asks for was done before; that is for the log to say.
    let waits = [waits, member.start("/etcdserverpb.KV/Compact", &compaction, true)];
    let works = member.start("/etcdserverpb.Maintenance/Defragment", &pb::DefragmentRequest {}, true);
    member.settle();
    member.later(6_999);
    assert!(waits.iter().all(|&stream| member.is_open(stream)), "not yet");
    member.later(1);
    for stream in waits {
        assert_eq!(member.status(stream), (14, "etcdserver: request timed out".to_owned()));
    }
    member.later(20_000);
    assert!(member.is_open(works));
    member.turns = true;
    member.settle();
    assert_eq!(member.status(works).0, 0);
}

/// etcd has a limit for the first part of a physical compaction, and none for the second.
#[test]
fn a_compaction_that_was_agreed_on_is_waited_for() {
    let mut member = Member::new();
    let put = pb::PutRequest { key: b"k".to_vec(), value: b"v".to_vec(), ..Default::default() };
    for _ in 0..3 {
        assert_eq!(member.call("/etcdserverpb.KV/Put", &put).0, 0);
    }
    member.hashes = false;
    let compaction = pb::CompactionRequest { revision: 3, physical: true };
    let works = member.start("/etcdserverpb.KV/Compact", &compaction, true);
    member.settle();
    member.later(20_000);
    assert!(member.is_open(works));
    let range = pb::RangeRequest { key: b"k".to_vec(), revision: 2, ..Default::default() };
    assert_eq!(member.call("/etcdserverpb.KV/Range", &range).0, 11, "it was agreed on");
    // Refused, once that removal is over.
    let again = member.start("/etcdserverpb.KV/Compact", &compaction, true);
    member.settle();
    member.later(20_000);
    assert!(member.is_open(works) && member.is_open(again));
    member.hashes = true;
    member.settle();
    assert_eq!((member.status(works).0, member.status(again).0), (0, 11));
}
