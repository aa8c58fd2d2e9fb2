//! An unmodified etcdctl against the binary under test: what it prints is what operators and scripts see.
//!
//! The binary is ETCDCTL_BIN or `etcdctl` in PATH (etcdutl likewise). The load checks run for a minute and more, so
//! they wait for ETCDCTL_CHECK_PERF=1.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use common::client::Client;
use common::server::{Recipe, Server};
use proto::etcdserverpb::{AlarmRequest, AlarmType, StatusRequest};
use serde_json::Value;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

struct Ctl {
    binary: PathBuf,
    server: Server,
}

impl Ctl {
    fn start() -> Option<Ctl> {
        Ctl::start_with(&[])
    }

    fn start_with(flags: &[&str]) -> Option<Ctl> {
        let (ours, binary) = (common::ours()?, common::tool("ETCDCTL_BIN", "etcdctl")?);
        let mut recipe = Recipe::new(&ours);
        recipe.flags.extend(flags.iter().map(|flag| (*flag).to_owned()));
        Some(Ctl { binary, server: Server::start(recipe) })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(["--endpoints", &self.server.endpoint]).args(arguments);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ETCDCTL_") {
                command.env_remove(name);
            }
        }
        command
    }

    fn run(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("etcdctl starts");
        // It may have ended without reading everything.
        let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
        child.wait_with_output().expect("etcdctl ends")
    }

    /// What it prints when it succeeds.
    fn ok(&self, arguments: &[&str]) -> String {
        self.ok_with(arguments, "")
    }

    fn ok_with(&self, arguments: &[&str], input: &str) -> String {
        let output = self.run(arguments, input);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {text}{errors}");
        text
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let text = self.ok(&[arguments, &["-w", "json"]].concat());
        serde_json::from_str(&text).expect(&text)
    }

    /// Whether the server has what this command needs; says so when it has not.
    fn has(&self, arguments: &[&str]) -> bool {
        !common::is_not_yet(&String::from_utf8_lossy(&self.run(arguments, "").stderr))
    }

    /// The error line when it fails.
    fn fails(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments, "");
        assert!(!output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        errors.lines().rev().find(|line| line.starts_with("Error: ")).unwrap_or(&errors).to_owned()
    }

    fn put(&self, key: &str, value: &str) {
        assert_eq!(self.ok(&["put", key, value]), "OK\n");
    }

    /// Starts something that goes on until it is dropped.
    fn follow(&self, arguments: &[&str]) -> Follow {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcdctl starts");
        let (sender, lines) = channel();
        let output = BufReader::new(child.stdout.take().expect("piped"));
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Follow { input: child.stdin.take(), child, lines }
    }
}

struct Follow {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Follow {
    #[track_caller]
    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line in time")
    }

    #[track_caller]
    fn lines(&self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.line()).collect()
    }

    fn say(&mut self, text: &str) {
        self.input.as_mut().expect("piped").write_all(text.as_bytes()).expect("it reads");
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn put() {
    let Some(ctl) = Ctl::start() else { return };
    assert_eq!(ctl.ok(&["put", "foo", "one"]), "OK\n");
    assert_eq!(ctl.ok(&["put", "foo", "two", "--prev-kv"]), "OK\nfoo\none\n");
    assert_eq!(ctl.ok(&["put", "new", "x", "--prev-kv"]), "OK\n");
    assert_eq!(ctl.ok_with(&["put", "piped"], "from standard input\n"), "OK\n");
    assert_eq!(ctl.ok(&["get", "piped", "--print-value-only"]), "from standard input\n\n");
    assert_eq!(ctl.ok(&["put", "--", "-dash", "-value"]), "OK\n");
    assert_eq!(ctl.ok(&["get", "--", "-dash"]), "-dash\n-value\n");

    let lease = ctl.ok(&["lease", "grant", "500"]).split(' ').nth(1).expect("an id").to_owned();
    assert_eq!(ctl.ok(&["put", "leased", "x", "--lease", &lease]), "OK\n");
    assert_eq!(ctl.ok(&["put", "leased", "y", "--ignore-lease"]), "OK\n");
    assert_eq!(ctl.ok(&["put", "leased", "--ignore-value", "--lease=0"]), "OK\n");
    let kv = ctl.json(&["get", "leased"])["kvs"][0].clone();
    assert_eq!(
        (kv["value"].as_str(), kv["version"].as_i64(), kv.get("lease")),
        (Some("eQ=="), Some(3), None)
    );
    assert_eq!(ctl.fails(&["put", "absent", "--ignore-value"]), "Error: etcdserver: key not found");
    assert_eq!(
        ctl.fails(&["put", "x", "y", "--lease", "77"]),
        "Error: etcdserver: requested lease not found"
    );
    assert_eq!(ctl.json(&["put", "foo", "three"])["header"]["revision"], 10);
}

#[test]
fn get() {
    let Some(ctl) = Ctl::start() else { return };
    for (key, value) in [("a", "3"), ("b", "1"), ("c", "2"), ("c/1", "x"), ("c/2", "y"), ("d", "4")] {
        ctl.put(key, value);
    }
    ctl.put("b", "5");
    let get = |arguments: &[&str]| ctl.ok(&[&["get"], arguments].concat());
    let keys = |arguments: &[&str]| -> Vec<String> {
        let text = ctl.ok(&[&["get", "--keys-only"], arguments].concat());
        text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    };
    assert_eq!(get(&["a"]), "a\n3\n");
    assert_eq!(get(&["none"]), "");
    assert_eq!(get(&["a", "c"]), "a\n3\nb\n5\n");
    assert_eq!(get(&["a", "--hex"]), "\\x61\n\\x33\n");
    assert_eq!(get(&["a", "--print-value-only"]), "3\n");
    assert_eq!(get(&["a", "--consistency=s"]), "a\n3\n");
    assert_eq!(get(&["a", "--consistency=l"]), "a\n3\n");
    assert_eq!(get(&["b", "--rev=3"]), "b\n1\n");
    assert_eq!(get(&["c/", "--prefix"]), "c/1\nx\nc/2\ny\n");
    assert_eq!(get(&["c/", "--prefix", "--stream"]), "c/1\nx\nc/2\ny\n");
    assert_eq!(keys(&["c", "--from-key"]), ["c", "c/1", "c/2", "d"]);
    assert_eq!(keys(&["", "--prefix"]), ["a", "b", "c", "c/1", "c/2", "d"]);
    assert_eq!(keys(&["", "--from-key", "--limit=2"]), ["a", "b"]);
    assert_eq!(keys(&["", "--prefix", "--order=DESCEND"]), ["d", "c/2", "c/1", "c", "b", "a"]);
    assert_eq!(
        keys(&["", "--prefix", "--sort-by=VALUE", "--order=ASCEND"]),
        ["c", "a", "d", "b", "c/1", "c/2"]
    );
    assert_eq!(keys(&["", "--prefix", "--sort-by=MODIFY", "--order=DESCEND", "--limit=2"]), ["b", "d"]);
    assert_eq!(keys(&["", "--prefix", "--sort-by=CREATE"]), ["a", "b", "c", "c/1", "c/2", "d"]);
    assert_eq!(keys(&["", "--prefix", "--sort-by=VERSION", "--order=DESCEND", "--limit=1"]), ["b"]);
    assert_eq!(keys(&["", "--prefix", "--min-mod-rev=6"]), ["b", "c/2", "d"]);
    assert_eq!(keys(&["", "--prefix", "--max-mod-rev=4"]), ["a", "c"]);
    assert_eq!(keys(&["", "--prefix", "--min-create-rev=6"]), ["c/2", "d"]);
    assert_eq!(keys(&["", "--prefix", "--max-create-rev=3"]), ["a", "b"]);
    let count = get(&["", "--prefix", "--count-only", "--write-out=fields"]);
    assert!(count.contains("\"Count\" : 6\n") && count.contains("\"Revision\" : 8\n"), "{count}");
    let json = ctl.json(&["get", "b"]);
    assert_eq!(json["count"], 1);
    let kv = serde_json::json!({"key": "Yg==", "value": "NQ==", "create_revision": 3, "mod_revision": 8, "version": 2});
    assert_eq!(json["kvs"][0], kv);
    assert!(
        json["header"]["cluster_id"].as_u64() > Some(0) && json["header"]["raft_term"].as_u64() >= Some(2)
    );
    let future = "Error: etcdserver: mvcc: required revision is a future revision";
    assert_eq!(ctl.fails(&["get", "a", "--rev=99"]), future);
}

#[test]
fn del() {
    let Some(ctl) = Ctl::start() else { return };
    for key in ["a", "b", "c", "c/1", "c/2", "d", "e", "f"] {
        ctl.put(key, &format!("value of {key}"));
    }
    assert_eq!(ctl.ok(&["del", "none"]), "0\n");
    assert_eq!(ctl.ok(&["del", "a"]), "1\n");
    assert_eq!(ctl.ok(&["del", "c/", "--prefix", "--prev-kv"]), "2\nc/1\nvalue of c/1\nc/2\nvalue of c/2\n");
    assert_eq!(ctl.ok(&["del", "b", "d"]), "2\n");
    assert_eq!(ctl.ok(&["del", "d", "e", "--range"]), "1\n");
    assert_eq!(ctl.ok(&["del", "e", "--from-key"]), "2\n");
    assert_eq!(ctl.ok(&["get", "", "--prefix"]), "");
    assert_eq!(ctl.json(&["get", "a"])["header"]["revision"], 14, "a delete of nothing is no revision");
}

#[test]
fn txn() {
    let Some(ctl) = Ctl::start() else { return };
    ctl.put("foo", "bar");
    let txn = "mod(\"foo\") > \"0\"\nver(\"none\") = \"0\"\nval(\"foo\") = \"bar\"\n\nput r \"1\"\nget foo\ndel foo\n\nput r 2\n\n";
    assert_eq!(ctl.ok_with(&["txn"], txn), "SUCCESS\n\nOK\n\nfoo\nbar\n\n1\n");
    assert_eq!(ctl.ok_with(&["txn"], txn), "FAILURE\n\nOK\n");
    assert_eq!(ctl.ok(&["get", "r"]), "r\n2\n");
    let interactive = "create(\"r\") < \"2\"\n\nput x y\n\nget r\n\n";
    let said = ctl.ok_with(&["txn", "-i"], interactive);
    assert!(said.ends_with("FAILURE\n\nr\n2\n"), "{said}");
    let output = ctl.run(&["txn"], "mod(\"foo\") = \"0\"\n\nput a 1\nput a 2\n\n\n");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("Error: etcdserver: duplicate key given in txn request"), "{errors}");
}

#[test]
fn watch() {
    let Some(ctl) = Ctl::start() else { return };
    ctl.put("foo", "one");
    ctl.put("foo", "two");
    ctl.put("fob", "other");
    ctl.ok(&["del", "foo"]);

    let past = ctl.follow(&["watch", "foo", "--rev=2"]);
    assert_eq!(past.lines(8), ["PUT", "foo", "one", "PUT", "foo", "two", "DELETE", "foo"]);
    // With an empty value behind the deleted key.
    assert_eq!(past.line(), "");
    let prefix = ctl.follow(&["watch", "fo", "--prefix", "--rev=3", "--prev-kv"]);
    let expected =
        ["PUT", "foo", "one", "foo", "two", "PUT", "fob", "other", "DELETE", "foo", "two", "foo", ""];
    assert_eq!(prefix.lines(13), expected);

    // From now on: what was there before does not come.
    let live = ctl.follow(&["watch", "foo", "--progress-notify"]);
    let range = ctl.follow(&["watch", "a", "c"]);
    let from = ctl.follow(&["watch", "b", "z", "-w", "json"]);
    let mut interactive = ctl.follow(&["watch", "-i"]);
    interactive.say("watch foo --rev=2\nwatch b\n");
    assert_eq!(interactive.lines(9), ["PUT", "foo", "one", "PUT", "foo", "two", "DELETE", "foo", ""]);
    // They have no word for "I watch now": write until they show it.
    let mut shown = Vec::new();
    for round in 0.. {
        ctl.put("foo", &format!("live {round}"));
        ctl.put("b", "in range");
        if live.lines.recv_timeout(Duration::from_millis(300)).is_ok_and(|line| line == "PUT") {
            shown.extend(live.lines(2));
            break;
        }
        assert!(round < 20, "a watch that shows nothing");
    }
    assert!(shown[0] == "foo" && shown[1].starts_with("live "), "{shown:?}");
    assert_eq!(range.lines(3), ["PUT", "b", "in range"]);
    let event: Value = serde_json::from_str(&from.line()).expect("JSON");
    let kv = &event["Events"][0]["kv"];
    assert!(kv["key"] == "Yg==" || kv["key"] == "Zm9v", "{event}");
    assert_eq!(interactive.line(), "PUT");

    ctl.ok(&["compaction", "5"]);
    let output = ctl.run(&["watch", "foo", "--rev=2"], "");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        errors.contains("watch was canceled (etcdserver: mvcc: required revision has been compacted)"),
        "{errors}"
    );
}

#[test]
fn watch_runs_commands() {
    let Some(ctl) = Ctl::start() else { return };
    ctl.put("foo", "one");
    let watch = ctl.follow(&[
        "watch",
        "foo",
        "--rev=2",
        "--",
        "sh",
        "-c",
        "echo $ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY",
    ]);
    assert_eq!(watch.lines(4), ["PUT", "foo", "one", "\"PUT\" \"foo\""]);
}

#[test]
fn lease() {
    let Some(ctl) = Ctl::start() else { return };
    assert_eq!(ctl.ok(&["lease", "list"]), "found 0 leases\n");
    let granted = ctl.ok(&["lease", "grant", "500"]);
    let id = granted.split(' ').nth(1).expect("an id").to_owned();
    assert_eq!(granted, format!("lease {id} granted with TTL(500s)\n"));
    assert_eq!(ctl.ok(&["lease", "list"]), format!("found 1 leases\n{id}\n"));
    ctl.ok(&["put", "k", "v", "--lease", &id]);
    let shown = ctl.ok(&["lease", "timetolive", &id, "--keys"]);
    let (left, keys) = shown.split_once("remaining(").expect("the rest").1.split_once("s), ").expect("keys");
    assert!((400..=500).contains(&left.parse::<i64>().expect("seconds")), "{shown}");
    assert!(
        shown.starts_with(&format!("lease {id} granted with TTL(500s), ")) && keys == "attached keys([k])\n"
    );
    let alive = format!("lease {id} keepalived with TTL(500)\n");
    assert_eq!(ctl.ok(&["lease", "keep-alive", "--once", &id]), alive);
    let goes_on = ctl.follow(&["lease", "keep-alive", &id]);
    assert_eq!(goes_on.line() + "\n", alive);
    drop(goes_on);
    assert_eq!(ctl.ok(&["lease", "revoke", &id]), format!("lease {id} revoked\n"));
    assert_eq!(ctl.ok(&["get", "k"]), "");
    assert_eq!(ctl.ok(&["lease", "timetolive", &id]), format!("lease {id} already expired\n"));
    let message = "Error: failed to revoke lease (etcdserver: requested lease not found)";
    assert_eq!(ctl.fails(&["lease", "revoke", &id]), message);
    let gone = ctl.run(&["lease", "keep-alive", "--once", &id], "");
    let text = String::from_utf8_lossy(&gone.stderr).into_owned() + &String::from_utf8_lossy(&gone.stdout);
    assert!(text.contains("requested lease not found") || text.contains("expired or revoked"), "{text}");

    // A lease that nobody keeps goes, with its keys.
    let short = ctl.ok(&["lease", "grant", "2"]).split(' ').nth(1).expect("an id").to_owned();
    ctl.ok(&["put", "short", "v", "--lease", &short]);
    let watch = ctl.follow(&["watch", "short", "--rev=4"]);
    assert_eq!(watch.lines(5), ["PUT", "short", "v", "DELETE", "short"]);
}

#[test]
fn compaction_and_defrag() {
    let Some(ctl) = Ctl::start() else { return };
    for number in 0..10 {
        ctl.put("foo", &number.to_string());
    }
    assert_eq!(ctl.ok(&["compaction", "5"]), "compacted revision 5\n");
    assert_eq!(ctl.ok(&["compaction", "7", "--physical"]), "compacted revision 7\n");
    let compacted = "Error: etcdserver: mvcc: required revision has been compacted";
    assert_eq!(ctl.fails(&["compaction", "7"]), compacted);
    assert_eq!(ctl.fails(&["get", "foo", "--rev=6"]), compacted);
    assert_eq!(ctl.ok(&["get", "foo", "--rev=7"]), "foo\n5\n");
    let future = "Error: etcdserver: mvcc: required revision is a future revision";
    assert_eq!(ctl.fails(&["compaction", "99"]), future);
    let done = ctl.ok(&["defrag"]);
    let expected = format!("Finished defragmenting etcd member[{}]. took ", ctl.server.endpoint);
    assert!(done.starts_with(&expected), "{done}");
    assert_eq!(ctl.ok(&["get", "foo"]), "foo\n9\n");
}

#[test]
fn alarm() {
    let Some(ctl) = Ctl::start() else { return };
    assert_eq!(ctl.ok(&["alarm", "list"]), "");
    let endpoint = ctl.server.endpoint.clone();
    let member_id = common::run(async {
        let mut client = Client::connect(&endpoint).await;
        let member_id =
            client.maintenance.status(StatusRequest {}).await.expect("a status").into_inner().leader;
        let raise = AlarmRequest { action: 1, member_id, alarm: AlarmType::Nospace.into() };
        client.maintenance.alarm(raise).await.expect("an alarm");
        member_id
    });
    let alarm = format!("memberID:{member_id} alarm:NOSPACE");
    let same = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ") == alarm;
    assert!(same(&ctl.ok(&["alarm", "list"])));
    assert_eq!(ctl.fails(&["put", "a", "b"]), "Error: etcdserver: mvcc: database space exceeded");
    let sick = ctl.run(&["endpoint", "health"], "");
    assert!(!sick.status.success(), "an alarm is bad health");
    assert!(same(&ctl.ok(&["alarm", "disarm"])));
    assert_eq!(ctl.ok(&["alarm", "list"]), "");
    ctl.put("a", "b");
}

#[test]
fn endpoint() {
    let Some(ctl) = Ctl::start() else { return };
    ctl.put("foo", "bar");
    let endpoint = &ctl.server.endpoint;
    let health = ctl.ok(&["endpoint", "health"]);
    let expected = format!("{endpoint} is healthy: successfully committed proposal: took = ");
    assert!(health.starts_with(&expected), "{health}");
    let health = ctl.json(&["endpoint", "health"])[0].clone();
    assert_eq!(
        (health["endpoint"].as_str(), health["health"].as_bool()),
        (Some(endpoint.as_str()), Some(true))
    );

    let status = ctl.json(&["endpoint", "status"])[0].clone();
    assert_eq!(status["Endpoint"].as_str(), Some(endpoint.as_str()));
    let status = &status["Status"];
    assert_eq!(status["header"]["revision"], 2);
    assert_eq!(status["leader"], status["header"]["member_id"]);
    assert_eq!(status["raftIndex"], status["raftAppliedIndex"]);
    assert!(
        status["version"].as_str().expect("a version").starts_with("3.")
            && status["dbSize"].as_u64() > Some(0)
    );
    assert_eq!(status["dbSizeQuota"], 2_147_483_648_u64);
    let table = ctl.ok(&["endpoint", "status", "-w", "table"]);
    for column in ["ENDPOINT", "STORAGE VERSION", "IS LEADER", "IS LEARNER", "RAFT APPLIED INDEX", "ERRORS"] {
        assert!(table.contains(column), "{table}");
    }

    let hash = ctl.json(&["endpoint", "hashkv"])[0]["HashKV"].clone();
    // CRC-32C of "key", the revision key and the pair: the same on every member that ever was.
    let kv: Vec<u8> = [
        b"key".as_slice(),
        b"\0\0\0\0\0\0\0\x02_\0\0\0\0\0\0\0\0",
        b"\x0a\x03foo\x10\x02\x18\x02\x20\x01\x2a\x03bar",
    ]
    .concat();
    assert_eq!(hash["hash"].as_u64(), Some(u64::from(base::crc32c(&kv))));
    assert_eq!((hash["compact_revision"].as_i64(), hash["hash_revision"].as_i64()), (Some(-1), Some(2)));
    let older = ctl.json(&["endpoint", "hashkv", "--rev=1"])[0]["HashKV"]["hash"].clone();
    assert_eq!(older.as_u64(), Some(u64::from(base::crc32c(b"key"))));
}

#[test]
fn member() {
    let Some(ctl) = Ctl::start() else { return };
    if !ctl.has(&["member", "remove", "1"]) {
        return;
    }
    let list = ctl.ok(&["member", "list"]);
    let (id, rest) = list.split_once(", ").expect("fields");
    assert_eq!(rest, "started, m, http://127.0.0.1:32380, http://127.0.0.1:32379, false\n");
    let json = ctl.json(&["member", "list"]);
    let member = &json["members"][0];
    assert_eq!(format!("{:x}", member["ID"].as_u64().expect("an id")), id);
    assert_eq!(member["name"], "m");
    assert!(ctl.ok(&["member", "list", "-w", "table"]).contains("PEER ADDRS"));
    let added = ctl.ok(&["member", "add", "l", "--learner", "--peer-urls=http://127.0.0.1:9"]);
    assert!(
        added.contains("added as learner to cluster")
            && added.contains("ETCD_INITIAL_CLUSTER_STATE=\"existing\""),
        "{added}"
    );
    let list = ctl.ok(&["member", "list"]);
    let learner = list.lines().find(|line| line.contains("unstarted")).expect("the learner");
    assert!(learner.ends_with(", unstarted, , http://127.0.0.1:9, , true"), "{learner}");
    let learner = learner.split(',').next().expect("an id");
    let message = "Error: etcdserver: can only promote a learner member which is in sync with leader";
    assert_eq!(ctl.fails(&["member", "promote", learner]), message);
    let updated = ctl.ok(&["member", "update", learner, "--peer-urls=http://127.0.0.1:10"]);
    assert!(updated.contains(&format!("Member {learner} updated in cluster")), "{updated}");
    let removed = ctl.ok(&["member", "remove", learner]);
    assert!(removed.contains(&format!("Member {learner} removed from cluster")), "{removed}");
    assert_eq!(ctl.fails(&["member", "remove", learner]), "Error: etcdserver: member not found");
    assert_eq!(ctl.fails(&["move-leader", "1"]), "Error: etcdserver: bad leader transferee");
}

#[test]
fn snapshot() {
    let Some(ctl) = Ctl::start() else { return };
    let Some(etcdutl) = common::tool("ETCDUTL_BIN", "etcdutl") else { return };
    for number in 0..300 {
        ctl.put(&format!("k{number:03}"), &"v".repeat(number * 20));
    }
    ctl.ok(&["del", "k000"]);
    ctl.ok(&["compaction", "100", "--physical"]);
    let lease = ctl.ok(&["lease", "grant", "5000"]).split(' ').nth(1).expect("an id").to_owned();
    ctl.ok(&["put", "leased", "x", "--lease", &lease]);
    let has_auth = ctl.has(&["user", "list"]);
    if has_auth {
        ctl.ok(&["user", "add", "u:secret"]);
        ctl.ok(&["role", "add", "r"]);
    }
    let live = ctl.ok(&["get", "", "--prefix"]);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| dir.path().join(name).to_str().expect("text").to_owned();
    let saved = ctl.ok(&["snapshot", "save", &path("db")]);
    assert_eq!(saved, format!("Snapshot saved at {}\nServer version 3.7.0\n", path("db")));

    let utl = |arguments: &[&str]| {
        let output = Command::new(&etcdutl).args(arguments).output().expect("etcdutl starts");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {errors}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let status: Value =
        serde_json::from_str(&utl(&["snapshot", "status", &path("db"), "-w", "json"])).expect("JSON");
    assert_eq!((status["revision"].as_i64(), status["totalKey"].as_i64()), (Some(303), Some(300)));
    assert_eq!(status["version"], "3.7.0");

    // What was saved, restored, and served by the reference: nothing is missing.
    let Some(reference) = common::reference() else { return };
    let restore = ["snapshot", "restore", &path("db"), "--data-dir", &path("data"), "--name=m"];
    let cluster = [
        "--initial-cluster=m=http://127.0.0.1:32380",
        "--initial-advertise-peer-urls=http://127.0.0.1:32380",
        "--initial-cluster-token=black-box",
    ];
    utl(&[&restore[..], &cluster].concat());
    let data = dir.path().join("data");
    let server = Server::start_in(Recipe::new(&reference), &data).unwrap_or_else(|why| panic!("{why}"));
    let restored = Ctl { binary: ctl.binary.clone(), server };
    assert_eq!(restored.ok(&["get", "", "--prefix"]), live);
    assert_eq!(restored.ok(&["get", "k150", "--rev=152", "--print-value-only"]).len(), 3001);
    let compacted = "Error: etcdserver: mvcc: required revision has been compacted";
    assert_eq!(restored.fails(&["get", "k150", "--rev=99"]), compacted);
    if has_auth {
        assert_eq!(restored.ok(&["user", "list"]), "u\n");
        assert_eq!(restored.ok(&["role", "list"]), "r\n");
    }
    assert!(restored.ok(&["lease", "timetolive", &lease, "--keys"]).ends_with("attached keys([leased])\n"));
    let hash = |ctl: &Ctl| ctl.json(&["endpoint", "hashkv", "--rev=303"])[0]["HashKV"].clone();
    let (ours, theirs) = (hash(&ctl), hash(&restored));
    assert_eq!((&ours["hash"], &ours["compact_revision"]), (&theirs["hash"], &theirs["compact_revision"]));
    restored.put("after", "the restore");
}

#[test]
fn users_roles_and_authentication() {
    let Some(ctl) = Ctl::start_with(&["--bcrypt-cost=4"]) else { return };
    if !ctl.has(&["user", "list"]) {
        return;
    }
    assert_eq!(ctl.ok(&["user", "add", "root:rootpw"]), "User root created\n");
    assert_eq!(ctl.ok(&["user", "add", "alice:pw"]), "User alice created\n");
    assert_eq!(ctl.ok(&["role", "add", "reader"]), "Role reader created\n");
    let granted = ctl.ok(&["role", "grant-permission", "reader", "read", "public/", "--prefix=true"]);
    assert_eq!(granted, "Role reader updated\n");
    assert_eq!(ctl.ok(&["role", "grant-permission", "reader", "readwrite", "box"]), "Role reader updated\n");
    assert_eq!(ctl.ok(&["user", "grant-role", "alice", "reader"]), "Role reader is granted to user alice\n");
    ctl.put("public/a", "open");
    ctl.put("private", "secret");
    // etcdctl itself reacts to the refusals, and makes and grants the role root.
    assert_eq!(ctl.ok(&["auth", "enable"]), "Authentication Enabled\n");
    assert_eq!(ctl.fails(&["get", "private"]), "Error: etcdserver: user name is empty");
    let alice = |arguments: &[&str]| ctl.run(&[&["--user=alice:pw"], arguments].concat(), "");
    let text = |output: Output| {
        (
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    assert_eq!(text(alice(&["get", "public/a"])).0, "public/a\nopen\n");
    assert_eq!(text(alice(&["put", "box", "x"])).0, "OK\n");
    for denied in
        [&["get", "private"][..], &["put", "public/a", "x"], &["compaction", "2"], &["user", "list"]]
    {
        let (said, errors) = text(alice(denied));
        assert!(errors.contains("etcdserver: permission denied"), "{denied:?}: {said}{errors}");
    }
    let wrong = ctl.fails(&["--user=alice:guess", "get", "box"]);
    assert_eq!(wrong, "Error: etcdserver: authentication failed, invalid user ID or password");
    let root = |arguments: &[&str]| ctl.ok(&[&["--user=root:rootpw"], arguments].concat());
    assert_eq!(root(&["user", "list"]), "alice\nroot\n");
    let role = root(&["role", "get", "reader"]);
    assert!(role.contains("KV Read:") && role.contains("[public/, public0) (prefix public/)"), "{role}");
    assert!(root(&["auth", "status"]).starts_with("Authentication Status: true\n"));
    assert_eq!(root(&["auth", "disable"]), "Authentication Disabled\n");
    assert_eq!(ctl.ok(&["get", "private"]), "private\nsecret\n");
}

#[test]
fn lock_and_elect() {
    let Some(ctl) = Ctl::start() else { return };
    assert_eq!(ctl.ok(&["lock", "l", "echo", "held"]), "held\n");
    let holder = ctl.follow(&["lock", "l"]);
    let key = holder.line();
    assert!(key.starts_with("l/"), "{key}");
    let mut waiting = ctl.follow(&["lock", "l"]);
    assert!(waiting.lines.recv_timeout(Duration::from_millis(500)).is_err(), "two hold the lock");
    // The holder goes; its key is removed by hand, as its lease would in time.
    drop(holder);
    ctl.ok(&["del", &key]);
    assert!(waiting.line().starts_with("l/"));
    waiting.input = None;

    let leader = ctl.follow(&["elect", "e", "first"]);
    assert!(leader.line().starts_with("e/") && leader.line() == "first");
    let observer = ctl.follow(&["elect", "e", "-l"]);
    assert!(observer.line().starts_with("e/") && observer.line() == "first");
}

#[test]
fn downgrade() {
    let Some(ctl) = Ctl::start() else { return };
    if !ctl.has(&["downgrade", "validate", "3.6"]) {
        return;
    }
    assert_eq!(
        ctl.ok(&["downgrade", "validate", "3.6.0"]),
        "Downgrade validate success, cluster version 3.7\n"
    );
    let message = "Error: etcdserver: invalid downgrade target version";
    assert_eq!(ctl.fails(&["downgrade", "validate", "3.4.0"]), message);
}

#[test]
fn check() {
    if common::setting("ETCDCTL_CHECK_PERF", 0) == 0 {
        return common::skip("the load checks take minutes: set ETCDCTL_CHECK_PERF=1");
    }
    let Some(ctl) = Ctl::start() else { return };
    let perf = ctl.ok(&["check", "perf", "--load=s", "--auto-compact", "--auto-defrag"]);
    assert!(perf.trim_end().ends_with("PASS"), "{perf}");
    let scale = ctl.ok(&["check", "datascale", "--load=s", "--auto-compact"]);
    assert!(scale.contains("PASS: Approximate system memory used"), "{scale}");
}
