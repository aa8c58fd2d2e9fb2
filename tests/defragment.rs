//! Defragmentation seen from outside: what fragmentation alerts and controllers look at, `dbSize` against `dbSizeInUse`.

mod common;

use common::client::Client;
use common::server::{Recipe, Server};
use proto::etcdserverpb::*;

const KEYS: usize = 600;
const VALUE_BYTES: usize = 100 << 10;

async fn sizes(client: &mut Client) -> (i64, i64) {
    let status = client.maintenance.status(StatusRequest {}).await.expect("a status").into_inner();
    (status.db_size, status.db_size_in_use)
}

/// Less than a chunk of the file, and with one key left, so that nothing but the answer is waited for.
#[test]
fn after_a_defragmentation_the_size_is_near_what_is_in_use() {
    let Some(binary) = common::ours() else { return };
    let server = Server::start(Recipe::new(&binary));
    common::run(async {
        let mut client = Client::connect(&server.endpoint).await;
        for number in 0..KEYS {
            let put = PutRequest {
                key: format!("key-{number:04}").into_bytes(),
                value: vec![number as u8; VALUE_BYTES],
                ..Default::default()
            };
            client.kv.put(put).await.expect("a put");
        }
        let delete =
            DeleteRangeRequest { key: b"key-0001".to_vec(), range_end: b"key-9".to_vec(), prev_kv: false };
        let header = client.kv.delete_range(delete).await.expect("a delete").into_inner().header;
        let revision = header.expect("a header").revision;
        client.kv.compact(CompactionRequest { revision, physical: true }).await.expect("a compaction");
        let (before, in_use) = sizes(&mut client).await;
        assert!(before > (KEYS * VALUE_BYTES) as i64 && in_use < 2 << 20, "{before}, {in_use} in use");
        client.maintenance.defragment(DefragmentRequest {}).await.expect("a defragmentation");
        let (after, in_use) = sizes(&mut client).await;
        assert!(after <= in_use + in_use / 16 + (512 << 10), "{before} became {after}, {in_use} in use");
        // Idle, it stays so; and a second one changes nothing.
        client.maintenance.defragment(DefragmentRequest {}).await.expect("another");
        assert!(sizes(&mut client).await.0 <= after);
        let kept = RangeRequest { key: b"key-0000".to_vec(), ..Default::default() };
        let kept = client.kv.range(kept).await.expect("a range").into_inner();
        assert_eq!(kept.kvs[0].value, vec![0; VALUE_BYTES]);
    });
}
