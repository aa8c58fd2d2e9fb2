//! What kube-apiserver, kubeadm and their kin send, exactly as they send it, and exactly what must come back.
//!
//! One test per row of the wire contract, then the errors that they act on by text, then what they ask over HTTP.

mod common;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use common::client::Client;
use common::server::{Recipe, Server};
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::response_op::Response as OpResponse;
use proto::etcdserverpb::*;
use proto::mvccpb::{Event, KeyValue, event::EventType};
use tonic::Code;

/// Metadata that the apiserver sends with every watch.
const WATCH_METADATA: &[(&str, &str)] = &[("hasleader", "true"), ("client-api-version", "3.7")];
const PODS: &str = "/registry/pods/";

/// Starts the binary under test and hands a client in; skips when there is none.
fn with_server<T: Future<Output = ()>>(flags: &[&str], test: impl FnOnce(Client, String) -> T) {
    let Some(binary) = common::ours() else { return };
    let mut recipe = Recipe::new(&binary);
    recipe.flags.extend(flags.iter().map(|flag| (*flag).to_owned()));
    let server = Server::start(recipe);
    common::run(async {
        let client = Client::connect(&server.endpoint).await;
        test(client, server.endpoint.clone()).await;
    });
}

fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().expect("not empty") += 1;
    end
}

fn list(prefix: &str) -> RangeRequest {
    RangeRequest { key: prefix.into(), range_end: end_of(prefix), ..Default::default() }
}

fn get(key: &str) -> RangeRequest {
    RangeRequest { key: key.into(), limit: 1, ..Default::default() }
}

fn op(request: Op) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn put_op(key: &str, value: &str, lease: i64) -> RequestOp {
    op(Op::RequestPut(PutRequest { key: key.into(), value: value.into(), lease, ..Default::default() }))
}

fn range_op(key: &str) -> RequestOp {
    op(Op::RequestRange(RangeRequest { key: key.into(), ..Default::default() }))
}

/// `[key MOD = revision]`, with the oneof set also when it is 0.
fn unchanged(key: &str, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key: key.into(),
        target_union: Some(TargetUnion::ModRevision(revision)),
        ..Default::default()
    }
}

async fn create(
    client: &mut Client,
    key: &str,
    value: &str,
    lease: i64,
) -> Result<TxnResponse, tonic::Status> {
    let txn = TxnRequest {
        compare: vec![unchanged(key, 0)],
        success: vec![put_op(key, value, lease)],
        failure: Vec::new(),
    };
    Ok(client.kv.txn(txn).await?.into_inner())
}

/// Creates an object and returns its resource version.
async fn created(client: &mut Client, key: &str, value: &str) -> i64 {
    let response = create(client, key, value, 0).await.expect("a create");
    assert!(response.succeeded, "{key} was not there");
    response.header.expect("a header").revision
}

async fn update(client: &mut Client, key: &str, value: &str, revision: i64) -> TxnResponse {
    let txn = TxnRequest {
        compare: vec![unchanged(key, revision)],
        success: vec![put_op(key, value, 0)],
        failure: vec![range_op(key)],
    };
    client.kv.txn(txn).await.expect("an update").into_inner()
}

async fn delete(client: &mut Client, key: &str, revision: i64) -> TxnResponse {
    let remove = DeleteRangeRequest { key: key.into(), ..Default::default() };
    let txn = TxnRequest {
        compare: vec![unchanged(key, revision)],
        success: vec![op(Op::RequestDeleteRange(remove))],
        failure: vec![range_op(key)],
    };
    client.kv.txn(txn).await.expect("a delete").into_inner()
}

fn kvs_of(response: &TxnResponse) -> &[KeyValue] {
    match &response.responses[0].response {
        Some(OpResponse::ResponseRange(range)) => &range.kvs,
        other => panic!("a range was asked for, not {other:?}"),
    }
}

fn revision_of(header: &Option<ResponseHeader>) -> i64 {
    header.as_ref().expect("a header").revision
}

fn refused<T: std::fmt::Debug>(result: Result<T, tonic::Status>, code: Code, message: &str) {
    let status = result.expect_err(message);
    assert_eq!((status.code(), status.message()), (code, message));
}

async fn compact(client: &mut Client, revision: i64) -> Result<CompactionResponse, tonic::Status> {
    let request = CompactionRequest { revision, physical: false };
    Ok(client.kv.compact(request).await?.into_inner())
}

// ---- rows of the wire contract ----

#[test]
fn row_01_get_one_object() {
    with_server(&[], async |mut client, _| {
        // The resource root, which gives the current revision and is never there.
        let absent = client.range(get("/registry/pods")).await.expect("a range");
        assert_eq!(revision_of(&absent.header), 1, "a fresh store is at revision 1");
        assert!(absent.kvs.is_empty() && absent.count == 0 && !absent.more);

        let first = created(&mut client, "/registry/pods/default/a", "one").await;
        let second = revision_of(&update(&mut client, "/registry/pods/default/a", "two", first).await.header);
        let now = client.range(get("/registry/pods/default/a")).await.expect("a range");
        assert_eq!(revision_of(&now.header), second);
        let expected = KeyValue {
            key: b"/registry/pods/default/a".to_vec(),
            value: b"two".to_vec(),
            create_revision: first,
            mod_revision: second,
            version: 2,
            lease: 0,
        };
        assert_eq!((now.kvs.as_slice(), now.count, now.more), (&[expected][..], 1, false));

        // An exact read: the header still tells the current revision, not the one that was asked for.
        let then = RangeRequest { revision: first, ..get("/registry/pods/default/a") };
        let then = client.range(then).await.expect("a range");
        assert_eq!((then.kvs[0].value.as_slice(), then.kvs[0].mod_revision), (&b"one"[..], first));
        assert_eq!(revision_of(&then.header), second);
    });
}

#[test]
fn row_02_count_objects() {
    with_server(&[], async |mut client, _| {
        for number in 0..5 {
            created(&mut client, &format!("{PODS}default/{number}"), "x").await;
        }
        created(&mut client, "/registry/podtemplates/default/a", "x").await;
        let count = client.range(RangeRequest { count_only: true, ..list(PODS) }).await.expect("a range");
        assert_eq!((count.count, count.kvs.len(), count.more), (5, 0, false));
        assert_eq!(revision_of(&count.header), 7);
    });
}

#[test]
fn row_03_list_in_pages_at_one_revision() {
    with_server(&[], async |mut client, _| {
        for number in 0..30 {
            created(&mut client, &format!("{PODS}default/{number:02}"), &format!("v{number}")).await;
        }
        let first = client.range(RangeRequest { limit: 7, ..list(PODS) }).await.expect("a range");
        let pinned = revision_of(&first.header);
        assert_eq!((first.kvs.len(), first.count, first.more), (7, 30, true), "count ignores the limit");

        // What happens between the pages must not show in them.
        created(&mut client, &format!("{PODS}default/155"), "late").await;
        delete(&mut client, &format!("{PODS}default/20"), first.kvs[0].mod_revision + 20).await;
        let latest = client.revision().await;
        assert_eq!(latest, pinned + 2);

        let mut keys: Vec<Vec<u8>> = first.kvs.into_iter().map(|kv| kv.key).collect();
        let mut limit = 7;
        loop {
            limit *= 2;
            let key = [keys.last().expect("a page").as_slice(), b"\0"].concat();
            let page = RangeRequest { key, limit, revision: pinned, ..list(PODS) };
            let page = client.range(page).await.expect("a range");
            assert_eq!(revision_of(&page.header), latest, "the header is current, the contents are pinned");
            assert_eq!(page.count, 30 - keys.len() as i64, "count is that of the rest of the range");
            let more = page.more;
            keys.extend(page.kvs.into_iter().map(|kv| kv.key));
            if !more {
                break;
            }
        }
        let expected: Vec<Vec<u8>> =
            (0..30).map(|number| format!("{PODS}default/{number:02}").into_bytes()).collect();
        assert_eq!(keys, expected);
    });
}

#[test]
fn row_03b_list_keys_only() {
    with_server(&[], async |mut client, _| {
        for number in 0..3 {
            created(&mut client, &format!("{PODS}{number}"), "a long value").await;
        }
        let keys = client.range(RangeRequest { keys_only: true, ..list(PODS) }).await.expect("a range");
        assert_eq!(keys.count, 3);
        for (number, kv) in keys.kvs.iter().enumerate() {
            assert_eq!(kv.key, format!("{PODS}{number}").into_bytes());
            assert!(kv.value.is_empty() && kv.mod_revision == number as i64 + 2 && kv.version == 1);
        }
    });
}

async fn stream(client: &mut Client, request: RangeRequest) -> Result<Vec<RangeResponse>, tonic::Status> {
    let mut stream = client.kv.range_stream(request).await?.into_inner();
    let mut chunks = Vec::new();
    while let Some(chunk) = stream.message().await? {
        chunks.push(chunk.range_response.expect("a chunk carries a response"));
    }
    Ok(chunks)
}

/// Checks what holds of every stream, and joins it.
fn joined(chunks: Vec<RangeResponse>) -> RangeResponse {
    let (last, front) = chunks.split_last().expect("one chunk at least");
    for chunk in front {
        assert!(chunk.header.is_none() && !chunk.more && chunk.count == 0, "only the last chunk has these");
        assert!(!chunk.kvs.is_empty(), "an empty chunk in the middle");
    }
    let mut joined = last.clone();
    joined.kvs = chunks.iter().flat_map(|chunk| chunk.kvs.iter().cloned()).collect();
    assert!(joined.kvs.is_sorted_by(|a, b| a.key < b.key), "in order, and each key once");
    joined
}

#[test]
fn row_04_stream_a_list() {
    with_server(&[], async |mut client, _| {
        let empty = joined(stream(&mut client, list(PODS)).await.expect("a stream"));
        assert_eq!((revision_of(&empty.header), empty.kvs.len(), empty.count, empty.more), (1, 0, 0, false));

        // Values large enough that a response cannot hold them all.
        let value = "x".repeat(40_000);
        for number in 0..300 {
            created(&mut client, &format!("{PODS}{number:03}"), &value).await;
        }
        let revision = client.revision().await;
        let all = joined(stream(&mut client, list(PODS)).await.expect("a stream"));
        assert_eq!(
            (revision_of(&all.header), all.kvs.len(), all.count, all.more),
            (revision, 300, 300, false)
        );
        assert!(all.kvs.iter().all(|kv| kv.value.len() == 40_000));

        let some = RangeRequest { limit: 120, ..list(PODS) };
        let some = joined(stream(&mut client, some).await.expect("a stream"));
        assert_eq!((some.kvs.len(), some.count, some.more), (120, 300, true), "count is beyond the limit");
        let exact = RangeRequest { limit: 300, ..list(PODS) };
        let exact = joined(stream(&mut client, exact).await.expect("a stream"));
        assert_eq!((exact.kvs.len(), exact.count, exact.more), (300, 300, false));

        let pinned = RangeRequest { revision: 101, ..list(PODS) };
        let pinned = joined(stream(&mut client, pinned).await.expect("a stream"));
        assert_eq!((pinned.kvs.len(), pinned.count), (100, 100));
        let counted = RangeRequest { count_only: true, ..list(PODS) };
        let counted = joined(stream(&mut client, counted).await.expect("a stream"));
        assert_eq!((counted.kvs.len(), counted.count, revision_of(&counted.header)), (0, 300, revision));
    });
}

#[test]
fn row_04_a_stream_shows_one_revision_while_writes_go_on() {
    with_server(&[], async |mut client, _| {
        for number in 0..400 {
            created(&mut client, &format!("{PODS}{number:03}"), &"x".repeat(5000)).await;
        }
        let mut writer = client.clone();
        let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
        let writing = tokio::spawn(async move {
            let mut number = 0;
            while stopped.try_recv().is_err() {
                writer.put(&format!("{PODS}{:03}", number % 500), "new").await;
                number += 1;
            }
        });
        for _ in 0..20 {
            let answer = joined(stream(&mut client, list(PODS)).await.expect("a stream"));
            let revision = revision_of(&answer.header);
            assert!(answer.kvs.iter().all(|kv| kv.mod_revision <= revision));
            let same = RangeRequest { revision, ..list(PODS) };
            assert_eq!(
                client.range(same).await.expect("a range").kvs,
                answer.kvs,
                "as a range at that revision"
            );
        }
        stop.send(()).expect("the writer listens");
        writing.await.expect("the writer ends well");
    });
}

#[test]
fn row_05_create() {
    with_server(&[], async |mut client, _| {
        let revision = created(&mut client, "/registry/pods/a", "one").await;
        let kv = client.range(get("/registry/pods/a")).await.expect("a range").kvs.remove(0);
        assert_eq!((kv.mod_revision, kv.create_revision, kv.version), (revision, revision, 1));
        let again = create(&mut client, "/registry/pods/a", "two", 0).await.expect("a txn");
        assert!(!again.succeeded && again.responses.is_empty());
        assert_eq!(revision_of(&again.header), revision, "nothing changed");
    });
}

#[test]
fn row_06_update() {
    with_server(&[], async |mut client, _| {
        let key = "/registry/pods/a";
        let first = created(&mut client, key, "one").await;
        let won = update(&mut client, key, "two", first).await;
        let second = revision_of(&won.header);
        assert!(won.succeeded && second == first + 1);
        let lost = update(&mut client, key, "three", first).await;
        assert!(!lost.succeeded);
        assert_eq!(revision_of(&lost.header), second);
        let kvs = kvs_of(&lost);
        assert_eq!((kvs.len(), kvs[0].value.as_slice(), kvs[0].mod_revision), (1, &b"two"[..], second));
        // The object is gone: nothing comes back.
        assert!(kvs_of(&update(&mut client, "/registry/pods/none", "x", 7).await).is_empty());
        // Master leases are written at revision 0.
        assert!(update(&mut client, "/registry/masterleases/10.0.0.1", "x", 0).await.succeeded);
    });
}

#[test]
fn row_07_delete() {
    with_server(&[], async |mut client, _| {
        let key = "/registry/pods/a";
        let revision = created(&mut client, key, "one").await;
        let lost = delete(&mut client, key, revision + 5).await;
        assert!(!lost.succeeded && kvs_of(&lost)[0].mod_revision == revision);
        let won = delete(&mut client, key, revision).await;
        assert!(won.succeeded);
        assert_eq!(revision_of(&won.header), revision + 1, "the revision of the deletion");
        let Some(OpResponse::ResponseDeleteRange(deleted)) = &won.responses[0].response else {
            panic!("a deletion was asked for")
        };
        assert_eq!(deleted.deleted, 1);
        assert!(client.range(get(key)).await.expect("a range").kvs.is_empty());
    });
}

#[test]
fn row_08_09_compactor_election_and_compaction() {
    with_server(&[], async |mut client, _| {
        let elect = |version: i64, revision: i64| TxnRequest {
            compare: vec![Compare {
                result: CompareResult::Equal.into(),
                target: CompareTarget::Version.into(),
                key: b"compact_rev_key".to_vec(),
                target_union: Some(TargetUnion::Version(version)),
                ..Default::default()
            }],
            success: vec![put_op("compact_rev_key", &revision.to_string(), 0)],
            failure: vec![range_op("compact_rev_key")],
        };
        // Three apiservers with the same idea; one wins, the others learn version and value.
        let won = client.kv.txn(elect(0, 0)).await.expect("a txn").into_inner();
        assert!(won.succeeded);
        let first = revision_of(&won.header);
        for _ in 0..2 {
            let lost = client.kv.txn(elect(0, 0)).await.expect("a txn").into_inner();
            let kv = &kvs_of(&lost)[0];
            assert_eq!((lost.succeeded, kv.version, kv.value.as_slice()), (false, 1, &b"0"[..]));
            assert_eq!(revision_of(&lost.header), first);
        }
        for number in 0..10 {
            created(&mut client, &format!("{PODS}{number}"), "x").await;
        }
        let won = client.kv.txn(elect(1, first)).await.expect("a txn").into_inner();
        assert!(won.succeeded);
        let target = first + 5;
        let done = compact(&mut client, target).await.expect("a compaction");
        assert_eq!(revision_of(&done.header), revision_of(&won.header), "a compaction is no revision");
        // The second apiserver asks for the same, or less: logged, ignored.
        for late in [target, target - 1] {
            let message = "etcdserver: mvcc: required revision has been compacted";
            refused(compact(&mut client, late).await, Code::OutOfRange, message);
        }
        let at = RangeRequest { revision: target, ..list(PODS) };
        assert_eq!(client.range(at).await.expect("exactly the compacted revision is readable").count, 5);
        let message = "etcdserver: mvcc: required revision is a future revision";
        refused(compact(&mut client, 1000).await, Code::OutOfRange, message);
    });
}

#[test]
fn row_10_followers_watch_the_compaction() {
    with_server(&[], async |mut client, _| {
        let request = RangeRequest { key: b"compact_rev_key".to_vec(), ..Default::default() };
        let known = client.range(request).await.expect("a range");
        let mut watch = client.watch().await;
        let start_revision = revision_of(&known.header) + 1;
        let key = b"compact_rev_key".to_vec();
        watch.create(WatchCreateRequest { key, start_revision, ..Default::default() }).await;
        assert!(watch.expect().await.created);
        client.put("compact_rev_key", "77").await;
        let event = watch.expect().await.events.remove(0);
        assert_eq!(event.kv.expect("a pair").value, b"77");
        assert!(event.prev_kv.is_none(), "nobody asked for it");
    });
}

#[test]
fn row_11_health_key() {
    with_server(&[], async |mut client, _| {
        let request = RangeRequest { key: b"/registry/health".to_vec(), ..Default::default() };
        let answer = client.range(request).await.expect("no error is what counts");
        assert!(answer.kvs.is_empty());
    });
}

fn watch_all(start_revision: i64) -> WatchCreateRequest {
    WatchCreateRequest {
        key: PODS.into(),
        range_end: end_of(PODS),
        start_revision,
        prev_kv: true,
        progress_notify: true,
        ..Default::default()
    }
}

/// The next response that carries events.
async fn events(watch: &mut common::client::WatchStream) -> Vec<Event> {
    loop {
        let response = watch.expect().await;
        assert!(!response.canceled, "{response:?}");
        if !response.events.is_empty() {
            return response.events;
        }
    }
}

#[test]
fn row_12_watch() {
    with_server(&[], async |mut client, _| {
        let start = client.revision().await;
        let mut watch = client.watch_with(WATCH_METADATA).await;
        watch.create(watch_all(start + 1)).await;
        let response = watch.expect().await;
        assert!(
            response.created && !response.canceled && response.watch_id >= 0 && response.events.is_empty()
        );
        assert_eq!(revision_of(&response.header), start);

        let key = "/registry/pods/a";
        let first = created(&mut client, key, "one").await;
        let second = revision_of(&update(&mut client, key, "two", first).await.header);
        let third = revision_of(&delete(&mut client, key, second).await.header);
        let fourth = created(&mut client, key, "again").await;
        created(&mut client, "/registry/services/unrelated", "x").await;

        let pair = |value: &str, create_revision, mod_revision, version| KeyValue {
            key: key.into(),
            value: value.into(),
            create_revision,
            mod_revision,
            version,
            lease: 0,
        };
        let (one, two) = (pair("one", first, first, 1), pair("two", first, second, 2));
        let gone = KeyValue { key: key.into(), mod_revision: third, ..Default::default() };
        let put = i32::from(EventType::Put);
        let expected = [
            Event { r#type: put, kv: Some(one.clone()), prev_kv: None },
            Event { r#type: put, kv: Some(two.clone()), prev_kv: Some(one) },
            Event { r#type: EventType::Delete.into(), kv: Some(gone), prev_kv: Some(two) },
            Event { r#type: put, kv: Some(pair("again", fourth, fourth, 1)), prev_kv: None },
        ];
        let mut seen = Vec::new();
        while seen.len() < expected.len() {
            seen.extend(events(&mut watch).await);
        }
        assert_eq!(seen, expected);

        // The same from the past.
        let mut replay = client.watch_with(WATCH_METADATA).await;
        replay.create(watch_all(start + 1)).await;
        assert!(replay.expect().await.created);
        let mut seen = Vec::new();
        while seen.len() < expected.len() {
            seen.extend(events(&mut replay).await);
        }
        assert_eq!(seen, expected);
    });
}

#[test]
fn row_12_a_revision_comes_whole() {
    with_server(&[], async |mut client, _| {
        let mut watch = client.watch_with(WATCH_METADATA).await;
        watch.create(watch_all(2)).await;
        assert!(watch.expect().await.created);
        let ops = |count: usize| -> Vec<RequestOp> {
            (0..count).map(|number| put_op(&format!("{PODS}{number:03}"), &"y".repeat(10_000), 0)).collect()
        };
        for count in [100, 3, 1] {
            let txn = TxnRequest { success: ops(count), ..Default::default() };
            let revision = revision_of(&client.kv.txn(txn).await.expect("a txn").into_inner().header);
            let events = events(&mut watch).await;
            assert_eq!(events.len(), count, "all changes of a revision in one response");
            assert!(
                events.iter().all(|event| event.kv.as_ref().is_some_and(|kv| kv.mod_revision == revision))
            );
        }
    });
}

#[test]
fn row_12_one_watch_on_each_of_many_connections() {
    with_server(&[], async |mut client, endpoint| {
        let mut watches = Vec::new();
        for _ in 0..63 {
            let mut watch = Client::connect(&endpoint).await.watch_with(WATCH_METADATA).await;
            watch.create(watch_all(2)).await;
            watches.push(watch);
        }
        for watch in &mut watches {
            assert!(watch.expect().await.created);
        }
        let revision = created(&mut client, &format!("{PODS}a"), "x").await;
        for watch in &mut watches {
            let event = events(watch).await.remove(0);
            assert_eq!(event.kv.expect("a pair").mod_revision, revision);
        }
    });
}

#[test]
fn row_12_a_watch_from_before_the_compaction_is_cancelled_with_its_revision() {
    with_server(&[], async |mut client, _| {
        for number in 0..10 {
            created(&mut client, &format!("{PODS}{number}"), "x").await;
        }
        compact(&mut client, 6).await.expect("a compaction");
        let mut watch = client.watch_with(WATCH_METADATA).await;
        watch.create(watch_all(5)).await;
        let response = watch.expect().await;
        assert!(response.created && !response.canceled);
        let response = watch.expect().await;
        assert!(response.canceled && response.compact_revision == 6, "{response:?}");
        assert!(response.cancel_reason.is_empty(), "the compact revision decides");

        // From the compacted revision itself everything still comes.
        let mut watch = client.watch_with(WATCH_METADATA).await;
        watch.create(watch_all(6)).await;
        assert!(watch.expect().await.created);
        let mut revisions = Vec::new();
        while revisions.last() != Some(&11) {
            let events = events(&mut watch).await;
            revisions.extend(events.into_iter().map(|event| event.kv.expect("a pair").mod_revision));
        }
        assert_eq!(revisions, [6, 7, 8, 9, 10, 11]);
    });
}

#[test]
fn row_12_periodic_progress() {
    with_server(&["--watch-progress-notify-interval=1s"], async |mut client, _| {
        let mut watch = client.watch_with(WATCH_METADATA).await;
        watch.create(watch_all(0)).await;
        let id = watch.expect().await.watch_id;
        client.put("/registry/elsewhere/a", "x").await;
        for _ in 0..2 {
            let response = watch.expect().await;
            assert_eq!((response.watch_id, response.events.len()), (id, 0), "to the watch itself");
            assert_eq!(revision_of(&response.header), 2);
        }
    });
}

#[test]
fn row_13_watch_without_progress() {
    with_server(&["--watch-progress-notify-interval=1s"], async |mut client, _| {
        let mut watch = client.watch_with(WATCH_METADATA).await;
        watch.create(WatchCreateRequest { progress_notify: false, ..watch_all(0) }).await;
        assert!(watch.expect().await.created);
        assert!(watch.is_silent(Duration::from_millis(2500)).await, "progress that nobody asked for");
        created(&mut client, &format!("{PODS}a"), "x").await;
        assert_eq!(events(&mut watch).await.len(), 1);
    });
}

/// A consistent read from the cache: read the revision, then ask for progress until the watch has reached it.
#[test]
fn row_14_requested_progress_means_that_all_was_sent() {
    with_server(&[], async |mut client, _| {
        let mut watch = client.watch_with(WATCH_METADATA).await;
        watch.create(watch_all(0)).await;
        assert!(watch.expect().await.created);
        let mut writer = client.clone();
        let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
        let writing = tokio::spawn(async move {
            let mut number = 0;
            while stopped.try_recv().is_err() {
                writer.put(&format!("{PODS}{:02}", number % 40), &number.to_string()).await;
                number += 1;
            }
        });
        let mut cache = BTreeMap::new();
        let mut seen = 0;
        for _ in 0..40 {
            let wanted = client.range(get("/registry/pods")).await.expect("a range");
            let wanted = revision_of(&wanted.header);
            let mut reached = 0;
            watch.progress().await;
            while reached < wanted {
                let response = match tokio::time::timeout(Duration::from_millis(100), watch.next()).await {
                    Ok(response) => response.expect("goes on").expect("goes on"),
                    // A progress request may be dropped while the watch catches up.
                    Err(_) => {
                        watch.progress().await;
                        continue;
                    }
                };
                if response.events.is_empty() {
                    assert_eq!(response.watch_id, -1);
                    reached = revision_of(&response.header);
                }
                for event in response.events {
                    let kv = event.kv.expect("a pair");
                    assert!(
                        kv.mod_revision > reached.max(seen),
                        "an event behind the progress, or out of order"
                    );
                    assert!(event.prev_kv.is_some() || kv.create_revision == kv.mod_revision);
                    seen = kv.mod_revision;
                    cache.insert(kv.key, (kv.mod_revision, kv.value));
                }
            }
            // The cache now holds at least everything up to `wanted`, and nothing that never was.
            let request = RangeRequest { revision: wanted, ..list(PODS) };
            for kv in client.range(request).await.expect("a range").kvs {
                let (revision, value) = &cache[&kv.key];
                assert!(*revision >= kv.mod_revision, "the cache missed an event");
                assert!(*revision > wanted || *value == kv.value);
            }
        }
        stop.send(()).expect("the writer listens");
        writing.await.expect("the writer ends well");
    });
}

#[test]
fn row_15_leases_expire_as_ordinary_deletions() {
    with_server(&[], async |mut client, _| {
        let grant = LeaseGrantRequest { ttl: 2, id: 0 };
        let granted = client.lease.lease_grant(grant).await.expect("a grant").into_inner();
        assert!(granted.id > 0 && granted.ttl == 2 && granted.error.is_empty());
        let long = LeaseGrantRequest { ttl: 3600, id: 0 };
        let long = client.lease.lease_grant(long).await.expect("a grant").into_inner();
        assert_ne!(long.id, granted.id);
        let mut watch = client.watch_with(WATCH_METADATA).await;
        watch.create(watch_all(0)).await;
        assert!(watch.expect().await.created);
        for name in ["b", "a"] {
            create(&mut client, &format!("{PODS}{name}"), name, granted.id).await.expect("a create");
        }
        create(&mut client, &format!("{PODS}stays"), "x", long.id).await.expect("a create");
        let mut seen = Vec::new();
        while seen.len() < 5 {
            seen.extend(events(&mut watch).await);
        }
        assert!(seen[..3].iter().all(|event| event.r#type == i32::from(EventType::Put)));
        let gone = &seen[3..];
        for (event, name) in gone.iter().zip(["a", "b"]) {
            assert_eq!(event.r#type, i32::from(EventType::Delete));
            let kv = event.kv.as_ref().expect("a pair");
            assert_eq!((kv.key.clone(), kv.mod_revision), (format!("{PODS}{name}").into_bytes(), 5));
            let before = event.prev_kv.as_ref().expect("the apiserver needs it");
            assert_eq!((before.value.as_slice(), before.lease), (name.as_bytes(), granted.id));
        }
        assert_eq!(client.revision().await, 5, "both keys go in one revision");
        assert_eq!(client.range(list(PODS)).await.expect("a range").count, 1);
    });
}

#[test]
fn row_16_status_and_version_gates() {
    with_server(&[], async |mut client, _| {
        let status = client.maintenance.status(StatusRequest {}).await.expect("a status").into_inner();
        let version: Vec<u64> =
            status.version.split('.').map(|part| part.parse().expect("a number")).collect();
        assert_eq!(version.len(), 3, "{} is a semantic version", status.version);
        assert!((version[0], version[1], version[2]) >= (3, 5, 24), "progress and kubeadm's gates");
        assert!(status.db_size > 0 && status.db_size_in_use > 0);
        assert!(status.errors.is_empty() && !status.is_learner);
        assert_eq!(status.leader, status.header.expect("a header").member_id);
        assert!(status.raft_applied_index > 0 && status.raft_index >= status.raft_applied_index);
    });
}

// ---- errors that clients act on ----

#[test]
fn errors_of_reads() {
    with_server(&[], async |mut client, _| {
        for number in 0..5 {
            created(&mut client, &format!("{PODS}{number}"), "x").await;
        }
        compact(&mut client, 4).await.expect("a compaction");
        let compacted = "etcdserver: mvcc: required revision has been compacted";
        let future = "etcdserver: mvcc: required revision is a future revision";
        for (revision, message) in [(3, compacted), (1000, future)] {
            let at = |request: RangeRequest| RangeRequest { revision, ..request };
            refused(client.range(at(list(PODS))).await, Code::OutOfRange, message);
            refused(client.range(at(get(PODS))).await, Code::OutOfRange, message);
            refused(stream(&mut client, at(list(PODS))).await, Code::OutOfRange, message);
        }
        let sorted = RangeRequest { sort_order: SortOrder::Descend.into(), ..list(PODS) };
        let status = stream(&mut client, sorted).await.expect_err("streams do not sort");
        assert_eq!(status.code(), Code::Unimplemented);
        let filtered = RangeRequest { min_mod_revision: 2, ..list(PODS) };
        let status = stream(&mut client, filtered).await.expect_err("streams do not filter");
        assert_eq!(status.code(), Code::Unimplemented);
        let by_value = RangeRequest { sort_target: SortTarget::Value.into(), ..list(PODS) };
        assert_eq!(client.range(by_value).await.expect("a range sorts").kvs.len(), 5);
    });
}

#[test]
fn errors_of_writes() {
    with_server(&[], async |mut client, _| {
        let message = "etcdserver: requested lease not found";
        refused(create(&mut client, &format!("{PODS}a"), "x", 123_456).await, Code::NotFound, message);
        // 1.5 MiB is the limit; gRPC's own lies half a MiB above.
        let fits = "x".repeat(1_572_000);
        assert!(create(&mut client, &format!("{PODS}large"), &fits, 0).await.expect("a create").succeeded);
        let large = "x".repeat(1_600_000);
        let message = "etcdserver: request is too large";
        refused(create(&mut client, &format!("{PODS}b"), &large, 0).await, Code::InvalidArgument, message);
        let read = client.range(get(&format!("{PODS}large"))).await.expect("a range");
        assert_eq!(read.kvs[0].value.len(), fits.len());

        let member_id = read.header.expect("a header").member_id;
        let mut alarm = AlarmRequest { action: 1, member_id, alarm: AlarmType::Nospace.into() };
        client.maintenance.alarm(alarm).await.expect("an alarm");
        let message = "etcdserver: mvcc: database space exceeded";
        refused(create(&mut client, &format!("{PODS}c"), "x", 0).await, Code::ResourceExhausted, message);
        let grant = LeaseGrantRequest { ttl: 60, id: 0 };
        refused(client.lease.lease_grant(grant).await, Code::ResourceExhausted, message);
        let status = client.maintenance.status(StatusRequest {}).await.expect("a status").into_inner();
        // Go's protobuf text varies its spaces from build to build.
        let words: Vec<&str> = status.errors.iter().flat_map(|error| error.split_whitespace()).collect();
        assert_eq!(words, [&format!("memberID:{member_id}"), "alarm:NOSPACE"]);
        let revision = read.kvs[0].mod_revision;
        assert!(
            delete(&mut client, &format!("{PODS}none"), revision).await.responses.len() == 1,
            "deletes go on"
        );
        alarm.action = 2;
        client.maintenance.alarm(alarm).await.expect("a disarm");
        assert!(create(&mut client, &format!("{PODS}c"), "x", 0).await.expect("a create").succeeded);
    });
}

#[test]
fn members_as_kubeadm_joins_them() {
    with_server(&[], async |mut client, _| {
        let request = MemberListRequest { linearizable: true };
        let members = client.cluster.member_list(request).await.expect("a list").into_inner().members;
        assert_eq!((members.len(), members[0].name.as_str(), members[0].is_learner), (1, "m", false));
        assert_eq!(members[0].peer_ur_ls, ["http://127.0.0.1:32380"]);
        assert_eq!(members[0].client_ur_ls, ["http://127.0.0.1:32379"]);

        let learner = |url: &str| MemberAddRequest { peer_ur_ls: vec![url.to_owned()], is_learner: true };
        let added = client.cluster.member_add(learner("http://127.0.0.1:9")).await;
        if added.as_ref().is_err_and(|status| common::is_not_yet(status.message())) {
            return;
        }
        let added = added.expect("a learner").into_inner();
        let member = added.member.expect("the new member");
        assert!(member.is_learner && member.name.is_empty() && member.client_ur_ls.is_empty());
        assert_eq!(added.members.len(), 2);
        let message = "etcdserver: Peer URLs already exists";
        // The same URL within the same second would give the same id, and be refused for that.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        for url in ["http://127.0.0.1:9", "http://127.0.0.1:32380"] {
            refused(client.cluster.member_add(learner(url)).await, Code::FailedPrecondition, message);
        }
        let message = "etcdserver: can only promote a learner member which is in sync with leader";
        let promote = MemberPromoteRequest { id: member.id };
        refused(client.cluster.member_promote(promote).await, Code::FailedPrecondition, message);
        let message = "etcdserver: too many learner members in cluster";
        let second = client.cluster.member_add(learner("http://127.0.0.1:10")).await;
        refused(second, Code::FailedPrecondition, message);
        let removed =
            client.cluster.member_remove(MemberRemoveRequest { id: member.id }).await.expect("a removal");
        assert_eq!(removed.into_inner().members.len(), 1);
        let message = "etcdserver: member not found";
        let again = client.cluster.member_remove(MemberRemoveRequest { id: member.id }).await;
        refused(again, Code::NotFound, message);
        // Writes went on all the time.
        client.put("/registry/pods/a", "x").await;
    });
}

// ---- HTTP ----

/// GET over HTTP/1.1; the status code and the body.
fn http_get(endpoint: &str, path: &str) -> (u16, String) {
    let address = endpoint.strip_prefix("http://").expect("plain HTTP");
    let mut socket = TcpStream::connect(address).expect("connects");
    socket.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    write!(socket, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("an answer");
    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (code, body.to_owned())
}

#[test]
fn http_health_and_version() {
    with_server(&[], async |mut client, endpoint| {
        let json = |body: &str| -> serde_json::Value { serde_json::from_str(body).expect(body) };
        // The cluster's version is decided a moment after the start.
        let (code, version) = loop {
            let (code, body) = http_get(&endpoint, "/version");
            let version = json(&body);
            if version["etcdcluster"] != "not_decided" {
                break (code, version);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let status = client.maintenance.status(StatusRequest {}).await.expect("a status").into_inner();
        assert_eq!((code, version["etcdserver"].as_str()), (200, Some(status.version.as_str())));
        assert_eq!(version["etcdcluster"].as_str(), Some("3.7.0"));
        let (code, body) = http_get(&endpoint, "/health");
        assert_eq!((code, json(&body)), (200, serde_json::json!({"health": "true", "reason": ""})));
        for path in ["/livez", "/readyz"] {
            assert_eq!(http_get(&endpoint, path), (200, "ok\n".into()), "{path}");
        }
        let (code, body) = http_get(&endpoint, "/readyz?verbose");
        assert_eq!(code, 200);
        for check in ["serializable_read", "linearizable_read", "non_learner", "data_corruption"] {
            assert!(body.contains(&format!("[+]{check} ok")), "{check} in {body}");
        }
        let alarm = AlarmRequest { action: 1, member_id: status.leader, alarm: AlarmType::Nospace.into() };
        client.maintenance.alarm(alarm).await.expect("an alarm");
        let (code, body) = http_get(&endpoint, "/health");
        assert_eq!((code, json(&body)["health"].as_str()), (503, Some("false")), "{body}");
        let (code, _) = http_get(&endpoint, "/health?exclude=NOSPACE&serializable=true");
        assert_eq!(code, 200);
    });
}
