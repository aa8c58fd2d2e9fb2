//! Where calls end, what is said to those that end wrongly, and that a client which takes no answers is not read.
//! The statuses are those of etcd 3.7.1, asked with hand-made frames.

mod member;

use base::limits::{OUTPUT_BYTES_PER_CONNECTION, RENEWALS_PER_STREAM, STREAM_PAUSE_BYTES};
use member::{Member, prefixed};
use prost::Message;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::watch_request::RequestUnion;

const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE_STREAM: &str = "/etcdserverpb.KV/RangeStream";
const SNAPSHOT: &str = "/etcdserverpb.Maintenance/Snapshot";
const WATCH: &str = "/etcdserverpb.Watch/Watch";
const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
const GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";

fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest { key: key.into(), value: value.into(), ..Default::default() }
}

fn watch(key: &str) -> pb::WatchRequest {
    let create = pb::WatchCreateRequest { key: key.into(), ..Default::default() };
    pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }
}

fn cut(message: &impl Message, bytes: usize) -> Vec<u8> {
    prefixed(message)[..bytes].to_vec()
}

#[test]
fn a_unary_call_that_ends_too_early_says_where() {
    let request = put("a", "1");
    for (bytes, text) in [(0, "EOF"), (1, "EOF"), (4, "EOF"), (5, "unexpected EOF"), (9, "unexpected EOF")] {
        let mut member = Member::new();
        let stream = member.start_raw(PUT, &cut(&request, bytes), true);
        assert_eq!(member.status(stream), (2, text.into()), "cut after {bytes}");
        assert_eq!(member.shard.open_calls(), 0);
    }
}

#[test]
fn a_unary_call_has_one_request_whatever_follows() {
    let request = put("a", "1");
    let follows: [&[u8]; 4] = [&prefixed(&request), &[0, 0], &[7; 20], &[0, 0xff, 0xff, 0xff, 0xff]];
    for follows in follows {
        let mut member = Member::new();
        let stream = member.start_raw(PUT, &[&prefixed(&request), follows].concat(), true);
        assert_eq!(member.status(stream), (0, String::new()));
        let answers: Vec<pb::PutResponse> = member.decoded(stream);
        assert_eq!(answers.len(), 1);
        assert_eq!(member.call(PUT, &request).0, 0);
        let revision = mvcc::stamp::current(member.replica.readers().register().pin().stamp());
        assert_eq!(revision, 3, "one put each");
    }
}

#[test]
fn streams_of_the_server_have_one_request() {
    let request = pb::RangeRequest { key: "a".into(), ..Default::default() };
    let none = "cardinality violation: received no request message from non-client-streaming RPC";
    let many = "cardinality violation: received multiple request messages for non-client-streaming RPC";
    for (path, bytes, text) in [
        (RANGE_STREAM, 0, none),
        (RANGE_STREAM, 3, none),
        (RANGE_STREAM, 6, "unexpected EOF"),
        (SNAPSHOT, 0, none),
        (SNAPSHOT, 4, none),
    ] {
        let mut member = Member::new();
        let stream = member.start_raw(path, &cut(&request, bytes), true);
        assert_eq!(member.status(stream), (13, text.into()), "{path} cut after {bytes}");
    }
    // Answered by a job, which nobody runs here: the call is still open when the second request comes.
    let mut member = Member::new();
    let twice = [prefixed(&()), prefixed(&())].concat();
    let stream = member.start_raw(SNAPSHOT, &twice, false);
    assert_eq!(member.status(stream), (13, many.into()));
    let cut = [prefixed(&()), vec![0, 0, 0, 0, 9, 1]].concat();
    let stream = member.start_raw(SNAPSHOT, &cut, true);
    assert_eq!(member.status(stream), (13, "unexpected EOF".into()));
}

#[test]
fn a_watch_outlives_the_client_s_side_unless_a_message_was_cut() {
    let request = watch("a");
    for follows in [0, 2] {
        let mut member = Member::new();
        let body = [prefixed(&request), cut(&request, follows)].concat();
        let stream = member.start_raw(WATCH, &body, true);
        assert_eq!(member.call(PUT, &put("a", "1")).0, 0);
        assert!(member.is_open(stream));
        let answers: Vec<pb::WatchResponse> = member.decoded(stream);
        assert_eq!((answers.len(), answers[1].events.len()), (2, 1));
    }
    let mut member = Member::new();
    let nothing = member.start_raw(WATCH, &[], true);
    assert!(member.is_open(nothing));
    for follows in [5, 7] {
        let mut member = Member::new();
        let body = [prefixed(&request), cut(&request, follows)].concat();
        let stream = member.start_raw(WATCH, &body, true);
        assert_eq!(member.status(stream), (13, "unexpected EOF".into()));
        assert_eq!(member.replica.published().watchers(), 0);
    }
}

#[test]
fn keep_alives_are_answered_before_their_stream_ends() {
    let request = pb::LeaseKeepAliveRequest { id: 7 };
    for (follows, status) in [(0, (0, "")), (3, (0, "")), (6, (13, "unexpected EOF"))] {
        let mut member = Member::new();
        member.turns = false;
        let body = [prefixed(&request), prefixed(&request), cut(&request, follows)].concat();
        let stream = member.start_raw(KEEP_ALIVE, &body, true);
        assert!(member.is_open(stream), "two renewals are owed");
        member.turns = true;
        member.settle();
        assert_eq!(member.decoded::<pb::LeaseKeepAliveResponse>(stream).len(), 2);
        assert_eq!(member.status(stream), (status.0, status.1.to_string()));
    }
}

#[test]
fn a_watch_stream_that_is_not_read_is_not_listened_to_and_loses_nothing() {
    let mut member = Member::new();
    let stream = member.start(WATCH, &watch("a"), false);
    member.settle();
    member.reads = false;
    let mut asked = 1;
    // Ids that are taken have the longest answers.
    let again = pb::WatchCreateRequest { key: "b".into(), watch_id: 0, ..Default::default() };
    let request =
        pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(again)) }.encode_to_vec();
    while asked < 100_000 {
        for _ in 0..1000 {
            member.client.send(stream, &request, false);
            asked += 1;
        }
        member.settle();
        // One request is answered above the limit; a response takes far less than a KiB.
        let most = OUTPUT_BYTES_PER_CONNECTION + STREAM_PAUSE_BYTES + (64 << 10) + 1024;
        assert!(member.unsent(stream) < most, "{} after {asked}", member.unsent(stream));
    }
    let answered = |member: &Member| member.decoded::<pb::WatchResponse>(stream).len();
    assert!(answered(&member) < asked / 2);
    member.reads = true;
    member.settle();
    assert_eq!(answered(&member), asked);
    let ids: Vec<i64> = member.decoded::<pb::WatchResponse>(stream).iter().map(|r| r.watch_id).collect();
    assert_eq!(ids, (0..asked as i64).collect::<Vec<_>>());
}

#[test]
fn renewals_wait_with_the_client_when_the_log_core_does_not_turn() {
    let mut member = Member::new();
    let grant = pb::LeaseGrantRequest { ttl: 60, id: 7 };
    assert_eq!(member.call(GRANT, &grant).0, 0);
    member.turns = false;
    let request = pb::LeaseKeepAliveRequest { id: 7 };
    let stream = member.start(KEEP_ALIVE, &request, false);
    for _ in 1..10_000 {
        member.client.send(stream, &request.encode_to_vec(), false);
    }
    member.client.half_close(stream);
    member.settle();
    assert_eq!(member.shard.outgoing.len(), RENEWALS_PER_STREAM as usize);
    member.turns = true;
    member.settle();
    assert_eq!(member.decoded::<pb::LeaseKeepAliveResponse>(stream).len(), 10_000);
    assert_eq!(member.status(stream), (0, String::new()));
}
