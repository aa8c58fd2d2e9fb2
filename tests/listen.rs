//! Addresses belong to one server, and a server ends by the signal that asked it to.

mod common;

use std::time::Duration;

use common::client::Client;
use common::server::{Recipe, Server};

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
