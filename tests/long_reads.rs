//! Long answers and what happens beside them: a list that a slow client takes is that of one revision to its end, also
//! when the history that it is read from is compacted away meanwhile.

mod common;

use std::pin::pin;
use std::time::Duration;

use common::client::Client;
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
