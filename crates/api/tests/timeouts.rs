//! What the server's own limit of a request's time ends, and what takes as long as it takes.

mod member;

use member::Member;
use proto::etcdserverpb as pb;

#[test]
fn work_that_was_asked_for_outlasts_what_waits_to_be_agreed_on() {
    let mut member = Member::new();
    let put = pb::PutRequest { key: b"k".to_vec(), value: b"v".to_vec(), ..Default::default() };
    assert_eq!(member.call("/etcdserverpb.KV/Put", &put).0, 0);
    member.turns = false;
    let waits = member.start("/etcdserverpb.KV/Put", &put, true);
    let compaction = pb::CompactionRequest { revision: 2, physical: true };
    let works = [
        member.start("/etcdserverpb.Maintenance/Defragment", &pb::DefragmentRequest {}, true),
        member.start("/etcdserverpb.KV/Compact", &compaction, true),
    ];
    member.settle();
    member.later(6_999);
    assert!(member.is_open(waits), "not yet");
    member.later(1);
    assert_eq!(member.status(waits), (14, "etcdserver: request timed out".to_owned()));
    member.later(20_000);
    assert!(works.iter().all(|&stream| member.is_open(stream)));
    member.turns = true;
    member.settle();
    assert!(works.iter().all(|&stream| member.status(stream).0 == 0));
}
