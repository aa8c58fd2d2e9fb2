//! Long answers and what happens beside them: a list that a slow client takes is that of one revision to its end, also
//! when the history that it is read from is compacted away meanwhile.

mod common;

use std::pin::pin;
use std::time::Duration;

use common::client::{CALL_TIMEOUT, Client};
use common::server::{Recipe, Server};
use proto::etcdserverpb::*;
use tonic::Code;

const KEYS: usize = 3000;
const VALUE_BYTES: usize = 8 << 10;

fn key(number: usize) -> Vec<u8> {
    format!("/registry/pods/{number:05}").into_bytes()
}

fn list(revision: i64) -> RangeRequest {
    RangeRequest {
        key: b"/registry/".to_vec(),
        range_end: b"/registry0".to_vec(),
        revision,
        ..Default::default()
    }
}

/// Every key once more, a hundred in a transaction.
async fn write_all(client: &mut Client, fill: u8) -> i64 {
    let mut revision = 0;
    for first in (0..KEYS).step_by(100) {
        let puts = (first..first + 100).map(|number| {
            let put = PutRequest { key: key(number), value: vec![fill; VALUE_BYTES], ..Default::default() };
            RequestOp { request: Some(request_op::Request::RequestPut(put)) }
        });
        let txn = TxnRequest { success: puts.collect(), ..Default::default() };
        revision = client.kv.txn(txn).await.expect("a write").into_inner().header.expect("a header").revision;
    }
    revision
}

#[test]
fn a_list_that_began_before_a_compaction_is_given_whole() {
    let Some(binary) = common::ours() else { return };
    let server = Server::start(Recipe::new(&binary));
    common::run(async {
        let mut client = Client::connect(&server.endpoint).await;
        let old = write_all(&mut client, 1).await;
        write_all(&mut client, 2).await;
        let mut reader = Client::connect(&server.endpoint).await;
        // The connection takes what its windows allow; nothing more is read while nobody asks for the answer.
        let mut answer = pin!(reader.kv.range(list(old)));
        let early = tokio::time::timeout(Duration::from_millis(15), &mut answer).await;
        let newest = write_all(&mut client, 3).await;
        let compaction = CompactionRequest { revision: newest, physical: false };
        client.kv.compact(compaction).await.expect("a compaction");
        // Longer than any snapshot is kept for a reader.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let refused = client.kv.range(list(old)).await.expect_err("who comes now comes too late");
        assert_eq!(refused.code(), Code::OutOfRange);
        let answer = match early {
            Ok(answer) => answer,
            Err(_) => answer.await,
        };
        let answer = answer.expect("the whole list").into_inner();
        assert_eq!(answer.count as usize, KEYS);
        assert_eq!(answer.kvs.len(), KEYS);
        for (number, kv) in answer.kvs.iter().enumerate() {
            assert_eq!(kv.key, key(number));
            assert!(kv.mod_revision <= old && kv.value == vec![1; VALUE_BYTES], "key {number} as it was");
        }
    });
}

/// Many answers at once on one connection are more pieces than the kernel takes in one call: the rest follows by itself.
#[test]
fn answers_of_many_pieces_do_not_wait_for_the_next_call() {
    let Some(binary) = common::ours() else { return };
    let server = Server::start(Recipe::new(&binary));
    common::run(async {
        let mut client = Client::connect(&server.endpoint).await;
        client.put("key", &"v".repeat(1100)).await;
        // They all arrive in one turn of the server.
        server.suspend();
        let streams: Vec<_> = (0..1500)
            .map(|_| {
                let mut kv = client.kv.clone();
                let request =
                    RangeRequest { key: b"key".to_vec(), range_end: b"kez".to_vec(), ..Default::default() };
                tokio::spawn(async move {
                    let mut stream = kv.range_stream(request).await?.into_inner();
                    let mut pairs = 0;
                    while let Some(chunk) = stream.message().await? {
                        pairs += chunk.range_response.map_or(0, |range| range.kvs.len());
                    }
                    Ok::<usize, tonic::Status>(pairs)
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(500)).await;
        server.resume();
        for stream in streams {
            let ended = tokio::time::timeout(CALL_TIMEOUT, stream).await.expect("an answer in time");
            assert_eq!(ended.expect("no panic").expect("an answer"), 1);
        }
    });
}

/// Who reads a long list when SIGTERM comes gets all of it, slowly as it may; who watches is told at once.
#[test]
fn a_server_that_is_terminated_finishes_what_it_began() {
    let Some(binary) = common::ours() else { return };
    let mut server = Server::start(Recipe::new(&binary));
    common::run(async {
        let mut client = Client::connect(&server.endpoint).await;
        write_all(&mut client, 1).await;
        let mut reader = Client::connect(&server.endpoint).await;
        let mut stream = reader.kv.range_stream(list(0)).await.expect("a stream").into_inner();
        let first = stream.message().await.expect("a chunk").expect("a chunk");
        let mut pairs = first.range_response.map_or(0, |range| range.kvs.len());
        let mut watch = client.watch().await;
        watch.create(WatchCreateRequest { key: b"k".to_vec(), ..Default::default() }).await;
        assert!(watch.expect().await.created);
        let ending = tokio::task::spawn_blocking(move || server.terminate(Duration::from_secs(30)));
        while let Ok(Some(_)) = watch.next().await {}
        // Longer than nothing, shorter than etcd's patience.
        tokio::time::sleep(Duration::from_secs(2)).await;
        while let Some(chunk) = stream.message().await.expect("it goes on to its end") {
            pairs += chunk.range_response.map_or(0, |range| range.kvs.len());
        }
        assert_eq!(pairs, KEYS);
        drop((client, reader));
        assert!(ending.await.expect("no panic"), "SIGTERM was ignored");
    });
}

/// As deep as the number of operations allows, and no deeper.
#[test]
fn transactions_nest_as_deep_as_operations_are_allowed() {
    let Some(binary) = common::ours() else { return };
    let server = Server::start(Recipe::new(&binary));
    let nested = |levels: usize| {
        let op = |request| vec![RequestOp { request: Some(request) }];
        let put =
            PutRequest { key: b"deep".to_vec(), value: levels.to_string().into(), ..Default::default() };
        let mut txn = TxnRequest { success: op(request_op::Request::RequestPut(put)), ..Default::default() };
        for _ in 1..levels {
            txn = TxnRequest { success: op(request_op::Request::RequestTxn(txn)), ..Default::default() };
        }
        txn
    };
    common::run(async {
        let mut client = Client::connect(&server.endpoint).await;
        for levels in [49, 60, 100, 128, 129, 400, 3000] {
            let before = client.revision().await;
            // The answer is as deep: whether this client can decode it is not the question.
            let answer = client.kv.txn(nested(levels)).await;
            let done = client.revision().await - before;
            if levels <= 128 {
                assert_eq!(done, 1, "{levels} levels: {answer:?}");
            } else {
                let error = answer.expect_err("too deep");
                assert_eq!((error.code(), done), (Code::InvalidArgument, 0), "{levels} levels: {error:?}");
                assert_eq!(error.message(), "etcdserver: too many operations in txn request");
            }
        }
    });
}
