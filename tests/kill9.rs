//! What a client was told stays true, whenever the process dies.
//!
//! Writers, a reader and a resuming watcher run all the time; the server is killed at random moments, also while it
//! recovers. After each restart the whole history since the last check is read back and held against everything that
//! was acknowledged, against everything that was attempted, and against what the watcher saw.
//!
//! KILLS (4), KILL_SEED (1). The full-disk test needs root, for a small file system of its own.

mod common;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use base::Random;
use common::client::Client;
use common::server::{Recipe, Server};
use common::small_disk::SmallDisk;
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::*;
use proto::mvccpb::event::EventType;
use tokio::sync::{Mutex, RwLock};
use tonic::Code;

const WRITERS: usize = 4;
const KEYS_PER_WRITER: u64 = 40;
/// Longer than a restart and a catch-up take.
const PATIENCE: Duration = Duration::from_secs(30);

/// One change: a key, and its value or that it went.
type Change = (Vec<u8>, Option<Vec<u8>>);
/// Revision by revision, the changes in order.
type History = BTreeMap<i64, Vec<Change>>;

/// What the clients know together.
#[derive(Default)]
struct Known {
    /// Acknowledged since the last check.
    acknowledged: Mutex<History>,
    /// Every value that was ever sent; each is unique.
    attempted: Mutex<HashSet<Vec<u8>>>,
    /// What the watcher saw since the last check.
    watched: Mutex<History>,
    /// The newest revision that any answer carried.
    newest: AtomicI64,
    /// Held for reading during a write, for writing while history is checked.
    pause: RwLock<()>,
    stop: AtomicBool,
    writes: AtomicI64,
}

impl Known {
    fn saw(&self, revision: i64) {
        self.newest.fetch_max(revision, Ordering::SeqCst);
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

/// Connects anew until it works or the test ends.
async fn reconnect(endpoint: &str, known: &Known) -> Option<Client> {
    while !known.stopped() {
        match tokio::time::timeout(Duration::from_secs(1), Client::try_connect(endpoint)).await {
            Ok(Ok(client)) => return Some(client),
            _ => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    None
}

fn put_op(key: &[u8], value: &[u8]) -> RequestOp {
    let put = PutRequest { key: key.to_vec(), value: value.to_vec(), ..Default::default() };
    RequestOp { request: Some(Op::RequestPut(put)) }
}

async fn write_until_stopped(number: usize, endpoint: String, known: Arc<Known>) {
    let mut random = Random::new(number as u64 + 1);
    let mut count = 0_u64;
    while let Some(mut client) = reconnect(&endpoint, &known).await {
        while !known.stopped() {
            let guard = known.pause.read().await;
            let key =
                |random: &mut Random| format!("w/{number}/{}", random.below(KEYS_PER_WRITER)).into_bytes();
            let mut value = || {
                count += 1;
                let mut value = format!("{number}-{count}-").into_bytes();
                value.resize(value.len() + (count % 7) as usize * 300, b'.');
                value
            };
            let (first, mut second) = (key(&mut random), key(&mut random));
            if first == second {
                second.push(b'+');
            }
            let mut changes = vec![(first, Some(value()))];
            // Some are transactions, of two puts, or of a put and a deletion of what the same writer put before.
            let kind = random.below(5);
            if kind == 0 {
                changes.push((second, Some(value())));
            }
            {
                let mut attempted = known.attempted.lock().await;
                attempted.extend(changes.iter().filter_map(|(_, value)| value.clone()));
            }
            let txn = TxnRequest {
                success: changes
                    .iter()
                    .map(|(key, value)| put_op(key, value.as_deref().unwrap_or_default()))
                    .collect(),
                ..Default::default()
            };
            let sent = match kind {
                0 | 1 => client.kv.txn(txn).await.map(|answer| answer.into_inner().header),
                2 => {
                    // Deletes what it puts: put first, so that the deletion is of something.
                    let (key, value) = changes[0].clone();
                    let put = PutRequest {
                        key: key.clone(),
                        value: value.unwrap_or_default(),
                        ..Default::default()
                    };
                    match client.kv.put(put).await {
                        Ok(answer) => {
                            let revision = answer.into_inner().header.expect("a header").revision;
                            known.saw(revision);
                            known.acknowledged.lock().await.insert(revision, changes.clone());
                            changes = vec![(key.clone(), None)];
                            let request = DeleteRangeRequest { key, ..Default::default() };
                            client.kv.delete_range(request).await.map(|answer| answer.into_inner().header)
                        }
                        Err(status) => Err(status),
                    }
                }
                _ => {
                    let (key, value) = changes[0].clone();
                    let put = PutRequest { key, value: value.unwrap_or_default(), ..Default::default() };
                    client.kv.put(put).await.map(|answer| answer.into_inner().header)
                }
            };
            match sent {
                Ok(header) => {
                    let revision = header.expect("a header").revision;
                    known.saw(revision);
                    known.writes.fetch_add(1, Ordering::SeqCst);
                    let before = known.acknowledged.lock().await.insert(revision, changes);
                    assert!(before.is_none(), "two writes were acknowledged with revision {revision}");
                }
                Err(status) => {
                    let expected = [Code::Unavailable, Code::Unknown, Code::Cancelled, Code::Internal];
                    assert!(expected.contains(&status.code()), "{status:?}");
                    drop(guard);
                    break;
                }
            }
        }
    }
}

/// Linearizable reads: none may show an older store than any answer before it did.
async fn read_until_stopped(endpoint: String, known: Arc<Known>) {
    while let Some(mut client) = reconnect(&endpoint, &known).await {
        while !known.stopped() {
            let floor = known.newest.load(Ordering::SeqCst);
            let request = RangeRequest { key: b"w/0/0".to_vec(), ..Default::default() };
            let Ok(answer) = client.range(request).await else { break };
            let revision = answer.header.expect("a header").revision;
            assert!(revision >= floor, "a read at {revision} after an answer at {floor}");
            known.saw(revision);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

fn change(event: proto::mvccpb::Event) -> (i64, Change) {
    let kv = event.kv.expect("an event has a pair");
    let value = (event.r#type == i32::from(EventType::Put)).then_some(kv.value);
    (kv.mod_revision, (kv.key, value))
}

/// Watches everything, and goes on after each break where it was.
async fn watch_until_stopped(endpoint: String, known: Arc<Known>) {
    let mut next = 2;
    while let Some(mut client) = reconnect(&endpoint, &known).await {
        let mut stream = client.watch().await;
        stream.create(everything(next)).await;
        while !known.stopped() {
            let response = match tokio::time::timeout(Duration::from_millis(200), stream.next()).await {
                Err(_) => continue,
                Ok(Ok(Some(response))) => response,
                Ok(_) => break,
            };
            assert!(!response.canceled, "{response:?}");
            let mut watched = known.watched.lock().await;
            for event in response.events {
                let (revision, change) = change(event);
                assert!(revision >= next, "revision {revision} came again: {next} was next");
                watched.entry(revision).or_default().push(change);
            }
            // A revision comes whole.
            next = watched.last_key_value().map_or(next, |(newest, _)| next.max(newest + 1));
            drop(watched);
            known.saw(next - 1);
        }
    }
}

fn everything(start_revision: i64) -> WatchCreateRequest {
    WatchCreateRequest { key: vec![0], range_end: vec![0], start_revision, ..Default::default() }
}

/// All changes from `from` to `to`, by a watch from the past.
async fn history(client: &mut Client, from: i64, to: i64) -> History {
    let mut history = History::new();
    if from > to {
        return history;
    }
    let mut stream = client.watch().await;
    stream.create(everything(from)).await;
    while history.last_key_value().is_none_or(|(newest, _)| *newest < to) {
        let response = stream.expect().await;
        assert!(!response.canceled, "{response:?}");
        for event in response.events {
            let (revision, change) = change(event);
            history.entry(revision).or_default().push(change);
        }
    }
    history
}

/// What the store must hold, from its history alone.
#[derive(Default)]
struct Model {
    /// value, create revision, mod revision, version
    live: BTreeMap<Vec<u8>, (Vec<u8>, i64, i64, i64)>,
    /// In which revision each value was put.
    put_at: BTreeMap<Vec<u8>, i64>,
    verified: i64,
}

impl Model {
    fn add(&mut self, history: &History) {
        for (&revision, changes) in history {
            assert_eq!(revision, self.verified + 1, "a gap in the history");
            self.verified = revision;
            for (key, value) in changes {
                match value {
                    None => assert!(self.live.remove(key).is_some(), "a deletion of nothing at {revision}"),
                    Some(value) => {
                        let before = self.put_at.insert(value.clone(), revision);
                        assert_eq!(before, None, "a write was applied twice: at {revision} too");
                        let created = self.live.get(key).map_or((revision, 0), |live| (live.1, live.3));
                        self.live.insert(key.clone(), (value.clone(), created.0, revision, created.1 + 1));
                    }
                }
            }
        }
    }

    async fn check(&mut self, client: &mut Client, known: &Known) {
        let newest = known.newest.load(Ordering::SeqCst);
        let revision = client.revision().await;
        assert!(revision >= newest, "the store went back from revision {newest} to {revision}");
        let history = history(client, self.verified + 1, revision).await;
        self.add(&history);
        assert_eq!(self.verified, revision, "history ends early");
        for (revision, changes) in std::mem::take(&mut *known.acknowledged.lock().await) {
            assert_eq!(
                history.get(&revision),
                Some(&changes),
                "acknowledged with revision {revision}, and lost"
            );
        }
        let attempted = known.attempted.lock().await;
        for value in history.values().flatten().filter_map(|(_, value)| value.as_ref()) {
            assert!(attempted.contains(value), "nobody ever wrote {:?}", value.escape_ascii().to_string());
        }
        drop(attempted);

        let all = RangeRequest { key: vec![0], range_end: vec![0], ..Default::default() };
        let stored = client.range(all).await.expect("a range").kvs;
        let stored: BTreeMap<_, _> = stored
            .into_iter()
            .map(|kv| (kv.key, (kv.value, kv.create_revision, kv.mod_revision, kv.version)))
            .collect();
        assert_eq!(stored, self.live, "the keys are not what the history makes of them");

        // The watcher resumes by itself, and has exactly this history then.
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let mut watched = known.watched.lock().await;
            if watched.last_key_value().map_or(0, |(newest, _)| *newest) >= revision || history.is_empty() {
                assert!(
                    std::mem::take(&mut *watched) == history,
                    "the resumed watch has a gap, or something twice"
                );
                return;
            }
            drop(watched);
            assert!(tokio::time::Instant::now() < deadline, "the watcher never reached revision {revision}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[test]
fn acknowledged_writes_survive_kills() {
    let Some(binary) = common::ours() else { return };
    let kills = common::setting("KILLS", 4);
    let seed = common::setting("KILL_SEED", 1);
    eprintln!("{kills} kills, seed {seed}");
    let mut random = Random::new(seed);
    let mut server = Server::start(Recipe::new(&binary));
    common::run(async move {
        let known = Arc::new(Known::default());
        let mut clients: Vec<tokio::task::JoinHandle<()>> = (0..WRITERS)
            .map(|number| {
                tokio::spawn(write_until_stopped(number, server.endpoint.clone(), Arc::clone(&known)))
            })
            .collect();
        clients.push(tokio::spawn(read_until_stopped(server.endpoint.clone(), Arc::clone(&known))));
        clients.push(tokio::spawn(watch_until_stopped(server.endpoint.clone(), Arc::clone(&known))));
        let mut model = Model { verified: 1, ..Model::default() };
        let mut compacted = 0;
        for kill in 1..=kills {
            tokio::time::sleep(Duration::from_millis(30 + random.below(600))).await;
            server.kill();
            let paused = known.pause.write().await;
            // Now and then it dies again before it has recovered.
            while random.one_in(3) {
                let after = Duration::from_millis(random.below(150));
                server.restart_and_kill(after).unwrap_or_else(|why| panic!("{why}"));
            }
            server.restart().unwrap_or_else(|why| panic!("after kill {kill}: {why}"));
            let mut client = Client::connect(&server.endpoint).await;
            model.check(&mut client, &known).await;
            if kill % 5 == 0 && model.verified > compacted + 50 {
                compacted = model.verified - 20;
                let request = CompactionRequest { revision: compacted, physical: random.one_in(2) };
                client.kv.compact(request).await.expect("a compaction");
            }
            drop(paused);
            assert!(clients.iter().all(|client| !client.is_finished()), "a client ended early");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        let paused = known.pause.write().await;
        let mut client = Client::connect(&server.endpoint).await;
        model.check(&mut client, &known).await;
        known.stop.store(true, Ordering::SeqCst);
        drop(paused);
        for client in clients {
            client.await.expect("a client ends well");
        }
        let writes = known.writes.load(Ordering::SeqCst);
        eprintln!("{writes} acknowledged writes, {} revisions, all there", model.verified);
        assert!(writes > 0, "nothing was written");
    });
}

/// The orderly end loses nothing either, and is quick.
#[test]
fn a_terminated_server_comes_back() {
    let Some(binary) = common::ours() else { return };
    let mut server = Server::start(Recipe::new(&binary));
    common::run(async move {
        for round in 0..3 {
            let mut client = Client::connect(&server.endpoint).await;
            let revision = client.put(&format!("k{round}"), "v").await.header.expect("a header").revision;
            assert_eq!(revision, round + 2);
            assert!(server.terminate(PATIENCE), "SIGTERM was ignored");
            server.restart().unwrap_or_else(|why| panic!("{why}"));
        }
        let mut client = Client::connect(&server.endpoint).await;
        let all = RangeRequest { key: vec![0], range_end: vec![0], ..Default::default() };
        assert_eq!(client.range(all).await.expect("a range").count, 3);
    });
}

/// --wal-dir: the log is there and nowhere else, survives a kill, and is missed where it is not named.
#[test]
fn the_log_may_stand_on_a_disk_of_its_own() {
    let Some(binary) = common::ours() else { return };
    let apart = tempfile::tempdir().expect("a temporary directory");
    let apart = apart.path().join("log");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let dir = dir.path().join("data");
    let recipe = Recipe::new(&binary).flag(format!("--wal-dir={}", apart.display()));
    let mut server = Server::start_in(recipe, &dir).unwrap_or_else(|why| panic!("{why}"));
    let files = |path: &std::path::Path| std::fs::read_dir(path).map_or(0, |entries| entries.count());
    common::run(async {
        let mut client = Client::connect(&server.endpoint).await;
        client.put("k", "v").await;
        server.kill();
        assert!(files(&apart) > 0 && files(&dir.join("log")) == 0 && files(&dir.join("member/wal")) == 0);
        server.restart().unwrap_or_else(|why| panic!("{why}"));
        let mut client = Client::connect(&server.endpoint).await;
        assert_eq!(client.put("k", "w").await.header.expect("a header").revision, 3);
        assert!(server.terminate(PATIENCE), "SIGTERM was ignored");
    });
}

/// On a full disk a server may refuse writes or end; what it has acknowledged is there, and with room it goes on.
#[test]
fn a_full_disk_loses_nothing() {
    let Some(binary) = common::ours() else { return };
    let Some(disk) = SmallDisk::new(1536 << 20) else { return };
    // So that the quota is not what stops it.
    let recipe = Recipe::new(&binary).flag("--quota-backend-bytes=8589934592");
    let mut server =
        Server::start_in(recipe, &disk.mounted.join("data")).unwrap_or_else(|why| panic!("{why}"));
    common::run(async move {
        let mut client = Client::connect(&server.endpoint).await;
        let value = "x".repeat(100_000);
        let mut acknowledged: BTreeMap<String, i64> = BTreeMap::new();
        let write = async |client: &mut Client, acknowledged: &mut BTreeMap<String, i64>| {
            let key = format!("k{:05}", acknowledged.len());
            let put =
                PutRequest { key: key.clone().into(), value: value.clone().into(), ..Default::default() };
            match tokio::time::timeout(PATIENCE, client.kv.put(put)).await {
                Err(_) => Err(tonic::Status::deadline_exceeded("hangs")),
                Ok(Err(status)) => Err(status),
                Ok(Ok(answer)) => {
                    acknowledged.insert(key, answer.into_inner().header.expect("a header").revision);
                    Ok(())
                }
            }
        };
        for _ in 0..50 {
            write(&mut client, &mut acknowledged).await.expect("there is room");
        }
        let ballast = disk.fill(24 << 20);
        let refused = loop {
            if let Err(status) = write(&mut client, &mut acknowledged).await {
                break status;
            }
            assert!(
                acknowledged.len() < 12_000,
                "a disk of 1.5 GiB holds more than 1.2 GB beside the ballast"
            );
        };
        // Its end may take a moment.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let ended = server.has_ended();
        eprintln!(
            "full after {} writes: {refused:?}; the server {}",
            acknowledged.len(),
            if ended { "ended" } else { "goes on" }
        );

        let check = async |client: &mut Client, acknowledged: &BTreeMap<String, i64>| {
            for (key, revision) in acknowledged {
                let request = RangeRequest { key: key.clone().into(), ..Default::default() };
                let answer = client.range(request).await.expect("reads go on");
                let kv = answer.kvs.first().unwrap_or_else(|| panic!("{key} was acknowledged and is gone"));
                assert_eq!((kv.mod_revision, kv.value.len()), (*revision, value.len()), "{key}");
            }
        };
        if !ended {
            assert!(
                matches!(refused.code(), Code::ResourceExhausted | Code::Unavailable),
                "a server that goes on says why: {refused:?}"
            );
            check(&mut client, &acknowledged).await;
        }
        std::fs::remove_file(&ballast).expect("room again");
        if ended {
            server.kill();
            server.restart().unwrap_or_else(|why| panic!("with room again: {why}"));
            client = Client::connect(&server.endpoint).await;
        }
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            // As an operator does.
            let alarms = AlarmRequest { action: 0, member_id: 0, alarm: 0 };
            for alarm in client.maintenance.alarm(alarms).await.expect("alarms").into_inner().alarms {
                let disarm = AlarmRequest { action: 2, member_id: alarm.member_id, alarm: alarm.alarm };
                client.maintenance.alarm(disarm).await.expect("a disarm");
            }
            match write(&mut client, &mut acknowledged).await {
                Ok(()) => break,
                Err(status) => assert!(tokio::time::Instant::now() < deadline, "with room again: {status:?}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        check(&mut client, &acknowledged).await;
        server.kill();
        server.restart().unwrap_or_else(|why| panic!("{why}"));
        let mut client = Client::connect(&server.endpoint).await;
        check(&mut client, &acknowledged).await;
        drop(server);
        drop(disk);
    });
}
