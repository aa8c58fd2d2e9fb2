//! Starting and ending: addresses belong to one server; a start that is refused leaves no member behind; a server ends by
//! the signal that asked it to, and says so when its data cannot be read.

mod common;

use std::time::Duration;

use common::client::Client;
use common::server::{Recipe, Server};
use proto::etcdserverpb::RangeRequest;

/// Several shards accept from one listener: that must not let another process in.
#[test]
fn an_address_in_use_is_refused_whatever_the_number_of_shards() {
    let Some(binary) = common::ours() else { return };
    let mut first = Server::start(Recipe::new(&binary).flag("--shards=2"));
    let second = tempfile::tempdir().expect("a temporary directory");
    let recipe =
        Recipe::new(&binary).flag("--shards=2").flag(format!("--listen-client-urls={}", first.endpoint));
    let Err(why) = Server::start_in(recipe, &second.path().join("data")) else {
        panic!("two servers listen on {}", first.endpoint);
    };
    assert!(why.contains("ddress already in use"), "{why}");
    common::run(async {
        // More connections than shards: all are served, by one store.
        let mut clients = Vec::new();
        for _ in 0..6 {
            clients.push(Client::connect(&first.endpoint).await);
        }
        for (last, client) in (1..).zip(&mut clients) {
            let revision = client.revision().await;
            client.put("k", "v").await;
            assert_eq!(revision, last);
        }
    });
    assert!(first.terminate(Duration::from_secs(30)), "SIGTERM was ignored");
}

/// A supervisor starts it again, with the same flags: it must not come up alone then.
#[test]
fn a_member_that_was_to_join_a_cluster_is_refused_again_and_again() {
    let Some(binary) = common::ours() else { return };
    let owned = tempfile::tempdir().expect("a temporary directory");
    let dir = owned.path().join("data");
    let joining = Recipe::new(&binary).flag("--initial-cluster-state=existing");
    for _ in 0..3 {
        let Err(why) = Server::start_in(joining.clone(), &dir) else { panic!("it serves alone") };
        assert!(why.contains("--initial-cluster-state=existing cannot be used"), "{why}");
    }
    let mut founded = Server::start_in(Recipe::new(&binary), &dir).unwrap();
    assert!(founded.terminate(Duration::from_secs(30)));
    // As in etcd, these flags count only where nobody lives yet.
    let mut again = Server::start_in(joining, &dir).unwrap();
    assert!(again.terminate(Duration::from_secs(30)));
}

/// The data file is mapped: what cannot be read of it is no error of a call, but a signal. The line of the log tells.
#[test]
fn a_data_file_that_is_cut_short_ends_the_process_with_a_line() {
    let Some(binary) = common::ours() else { return };
    let mut server = Server::start(Recipe::new(&binary));
    common::run(async {
        let mut client = Client::connect(&server.endpoint).await;
        for number in 0..200 {
            client.put(&format!("k{number}"), &"v".repeat(20_000)).await;
        }
    });
    assert!(server.terminate(Duration::from_secs(30)));
    // The next process has read none of it yet.
    server.restart().unwrap();
    std::fs::OpenOptions::new().write(true).open(server.dir.join("data")).unwrap().set_len(16 << 10).unwrap();
    common::run(async {
        let mut client = Client::connect(&server.endpoint).await;
        for number in 0..200 {
            let key = format!("k{number}").into_bytes();
            if client.range(RangeRequest { key, ..Default::default() }).await.is_err() {
                break;
            }
        }
    });
    for _ in 0..600 {
        if server.has_ended() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(server.has_ended(), "pages that are gone were served");
    std::thread::sleep(Duration::from_millis(100));
    let lines = server.last_lines();
    let line = lines.lines().find(|line| line.contains("could not be read")).expect(&lines);
    assert!(line.contains("\"level\":\"fatal\"") && line.contains("/data could not be read"), "{line}");
}
