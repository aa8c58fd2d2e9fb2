//! What is refused at the shard, and small services that it answers by itself.

mod member;

use member::Member;
use proto::etcdserverpb as pb;

const PUT: &str = "/etcdserverpb.KV/Put";

fn put(key: &str, value_bytes: usize) -> pb::PutRequest {
    pb::PutRequest { key: key.into(), value: vec![b'v'; value_bytes], ..Default::default() }
}

#[test]
fn whoever_is_refused_for_the_quota_finds_the_alarm_up() {
    let mut member = Member::with_quota(1 << 20);
    let mut key = 0;
    while member.replica.published().has_room(100_000) {
        key += 1;
        assert_eq!(member.call(PUT, &put(&format!("{key}"), 50_000)).0, 0);
    }
    assert!(!member.replica.published().alarm(pb::AlarmType::Nospace));
    let calls = |member: &mut Member| {
        let guarded = pb::TxnRequest {
            success: vec![pb::RequestOp {
                request: Some(pb::request_op::Request::RequestPut(put("x", 100_000))),
            }],
            ..Default::default()
        };
        let put = member.start(PUT, &put("x", 100_000), true);
        [put, member.start("/etcdserverpb.KV/Txn", &guarded, true)]
    };
    member.turns = false;
    let first = calls(&mut member);
    member.settle();
    assert!(first.iter().all(|&call| member.is_open(call)), "nobody is refused before the alarm is proposed");
    member.turns = true;
    member.settle();
    let refused = (8, "etcdserver: mvcc: database space exceeded".to_string());
    assert!(first.iter().all(|&call| member.status(call) == refused));
    assert!(member.replica.published().alarm(pb::AlarmType::Nospace));
    let applied = member.replica.published().applied();
    let then = calls(&mut member);
    member.settle();
    assert!(then.iter().all(|&call| member.status(call) == refused));
    assert_eq!(member.replica.published().applied(), applied, "one alarm is enough");
}

#[test]
fn the_health_service_lists_what_it_checks() {
    let mut member = Member::new();
    let stream = member.start("/grpc.health.v1.Health/List", &(), true);
    member.settle();
    assert_eq!(member.status(stream), (0, String::new()));
    assert_eq!(member.log.messages[&stream], [[0x0a, 6, 0x0a, 0, 0x12, 2, 8, 1]], "as etcd's bytes");
}
