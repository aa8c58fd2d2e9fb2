//! etcd's own tools as judges: `etcdutl` accepts what we write, etcd starts on it, and we read what etcd wrote.
//!
//! Tools are taken from ETCDUTL_BIN, ETCD_BIN, ETCDCTL_BIN or PATH; without them the tests say so and pass.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use base::Revision;
use mainstay_bbolt::schema::{self, bucket};
use mainstay_bbolt::{Database, Entry, FileSource, Writer};
use prost::Message;
use proto::{authpb, leasepb, mvccpb};
use sha2::{Digest, Sha256};

fn tool(variable: &str, name: &str) -> Option<PathBuf> {
    let found = std::env::var_os(variable).map(PathBuf::from).or_else(|| {
        std::env::split_paths(&std::env::var_os("PATH")?)
            .map(|dir| dir.join(name))
            .find(|path| path.is_file())
    });
    if found.is_none() {
        eprintln!("SKIPPED: no {name} in PATH and no {variable}");
    }
    found
}

fn run(program: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect("the tool starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program:?} {arguments:?}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// Appends what etcd's snapshot stream appends.
fn append_digest(path: &Path) {
    let mut bytes = Vec::new();
    File::open(path).expect("there").read_to_end(&mut bytes).expect("readable");
    let digest = Sha256::digest(&bytes);
    let mut file = File::options().append(true).open(path).expect("there");
    file.write_all(&digest).expect("written");
}

const KEYS: u64 = 20_000;

/// A store as a member would export it: `KEYS` keys, one deleted, one large, a lease, an alarm, a user.
fn export(path: &Path) {
    let file = BufWriter::new(File::create(path).expect("creatable"));
    let mut writer = Writer::new(file).expect("begins");
    let member = schema::Member {
        id: 0x1234,
        peer_urls: vec!["http://127.0.0.1:2380".into()],
        name: "m".into(),
        client_urls: vec!["http://127.0.0.1:2379".into()],
        is_learner: false,
    };
    writer.bucket(bucket::META).expect("fresh");
    let state = schema::ConfState { voters: vec![member.id], ..Default::default() };
    writer.put(schema::meta::CONF_STATE, &schema::conf_state_value(&state)).expect("ascending");
    writer.put(schema::meta::CONSISTENT_INDEX, &schema::u64_value(900)).expect("ascending");
    let compacted = schema::revision_key(Revision { main: 5, sub: 0 });
    writer.put(schema::meta::FINISHED_COMPACT, &compacted).expect("ascending");
    writer.put(schema::meta::SCHEDULED_COMPACT, &compacted).expect("ascending");
    writer.put(schema::meta::STORAGE_VERSION, &schema::storage_version_value(3, 7)).expect("ascending");
    writer.put(schema::meta::TERM, &schema::u64_value(3)).expect("ascending");
    writer.bucket(bucket::MEMBERS).expect("fresh");
    writer.put(&schema::member_key(member.id), &schema::member_value(&member)).expect("ascending");
    writer.bucket(bucket::MEMBERS_REMOVED).expect("fresh");
    writer.put(&schema::member_key(0x99), schema::REMOVED).expect("ascending");
    writer.bucket(bucket::CLUSTER).expect("fresh");
    writer.put(schema::cluster::VERSION, &schema::storage_version_value(3, 7)).expect("ascending");
    let downgrade = schema::downgrade_value(&schema::Downgrade::default());
    writer.put(schema::cluster::DOWNGRADE, &downgrade).expect("ascending");
    writer.bucket(bucket::LEASE).expect("fresh");
    let lease = leasepb::Lease { id: 77, ttl: 5000, remaining_ttl: 0 };
    writer.put(&schema::lease_key(77), &schema::lease_value(&lease)).expect("ascending");
    writer.bucket(bucket::ALARM).expect("fresh");
    writer.bucket(bucket::AUTH).expect("fresh");
    writer.put(schema::auth::ENABLED, &schema::auth_enabled_value(false)).expect("ascending");
    writer.put(schema::auth::REVISION, &schema::u64_value(1)).expect("ascending");
    writer.bucket(bucket::AUTH_USERS).expect("fresh");
    let user = authpb::User { name: b"u".to_vec(), ..Default::default() };
    writer.put(b"u", &schema::user_value(&user)).expect("ascending");
    writer.bucket(bucket::AUTH_ROLES).expect("fresh");
    writer.bucket(bucket::KEY).expect("fresh");
    for number in 0..KEYS {
        let main = 5 + number as i64;
        let pair = mvccpb::KeyValue {
            key: format!("key/{number:08}").into_bytes(),
            value: if number == 7 { vec![b'x'; 1 << 20] } else { format!("value {number}").into_bytes() },
            create_revision: main,
            mod_revision: main,
            version: 1,
            lease: if number == 9 { 77 } else { 0 },
        };
        writer
            .put(&schema::revision_key(Revision { main, sub: 0 }), &pair.encode_to_vec())
            .expect("ascending");
    }
    let gone = Revision { main: 5 + KEYS as i64, sub: 0 };
    writer.put(&schema::tombstone_key(gone), &schema::tombstone_value(b"key/00000003")).expect("ascending");
    writer.finish().expect("ends");
}

struct Etcd {
    child: Child,
    client: String,
}

impl Etcd {
    fn start(program: &Path, dir: &Path, arguments: &[&str]) -> Etcd {
        let [client, peer] = [(); 2].map(|()| {
            let free = TcpListener::bind("127.0.0.1:0").expect("loopback");
            format!("http://127.0.0.1:{}", free.local_addr().expect("bound").port())
        });
        let mut child = Command::new(program)
            .args(["--name=m", "--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls=http://127.0.0.1:2380"])
            .args(["--initial-cluster=m=http://127.0.0.1:2380", "--data-dir"])
            .arg(dir)
            .args(arguments)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("etcd starts");
        let mut log = BufReader::new(child.stderr.take().expect("piped"));
        let mut said = String::new();
        loop {
            let from = said.len();
            if log.read_line(&mut said).expect("readable") == 0 {
                child.wait().expect("it ended");
                panic!("etcd ended: {said}");
            }
            if said[from..].contains("ready to serve client requests") {
                break;
            }
        }
        // Nobody may fill the pipe later.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Etcd { child, client }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.child.kill().expect("it was running");
        self.child.wait().expect("it ended");
    }
}

#[test]
fn etcdutl_and_etcd_accept_what_we_write() {
    let Some(etcdutl) = tool("ETCDUTL_BIN", "etcdutl") else { return };
    let dir = tempfile::tempdir().expect("a temporary directory");
    let snapshot = dir.path().join("snapshot.db");
    export(&snapshot);
    append_digest(&snapshot);
    let snapshot = snapshot.to_str().expect("text");
    let status: serde_json::Value =
        serde_json::from_str(&run(&etcdutl, &["snapshot", "status", snapshot, "-w", "json"])).expect("JSON");
    assert_eq!(status["revision"], 5 + KEYS);
    assert_eq!(status["totalKey"], KEYS - 1);
    assert_eq!(status["version"], "3.7.0");

    let restored = dir.path().join("restored");
    let data = restored.to_str().expect("text");
    let peers = "--initial-cluster=m=http://127.0.0.1:2380";
    let advertised = "--initial-advertise-peer-urls=http://127.0.0.1:2380";
    run(&etcdutl, &["snapshot", "restore", snapshot, "--data-dir", data, "--name=m", peers, advertised]);

    let (Some(etcd), Some(etcdctl)) = (tool("ETCD_BIN", "etcd"), tool("ETCDCTL_BIN", "etcdctl")) else {
        return;
    };
    let server = Etcd::start(&etcd, &restored, &[]);
    let ctl = |arguments: &[&str]| run(&etcdctl, &[&["--endpoints", &server.client], arguments].concat());
    assert_eq!(ctl(&["get", "key/00012345", "--print-value-only"]), "value 12345\n");
    assert_eq!(ctl(&["get", "key/00000003", "--print-value-only"]), "");
    assert_eq!(ctl(&["get", "key/00000007", "--print-value-only"]).len(), (1 << 20) + 1);
    assert!(ctl(&["lease", "timetolive", "4d", "--keys"]).contains("key/00000009"));
    // Removing from our pages, and compacting them away, makes bbolt rebalance what we built.
    ctl(&["del", "key/0000", "key/0001"]);
    for round in 0..3 {
        let revision: serde_json::Value =
            serde_json::from_str(&ctl(&["put", "again", "and again", "-w", "json"])).expect("JSON");
        ctl(&["compaction", "--physical", &revision["header"]["revision"].to_string()]);
        ctl(&["del", &format!("key/0001{round}"), &format!("key/0001{}", round + 1)]);
    }
    ctl(&["defrag"]);
    let left = ctl(&["get", "key/", "--prefix", "--count-only", "--write-out=fields"]);
    assert!(left.contains("\"Count\" : 7000"), "{left}");
}

#[test]
fn we_read_what_etcd_wrote() {
    let (Some(etcd), Some(etcdctl)) = (tool("ETCD_BIN", "etcd"), tool("ETCDCTL_BIN", "etcdctl")) else {
        return;
    };
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let server = Etcd::start(&etcd, &data, &[]);
    let ctl = |arguments: &[&str]| run(&etcdctl, &[&["--endpoints", &server.client], arguments].concat());
    let big = "b".repeat(200_000);
    ctl(&["put", "big", "-w", "json", "--", &big[..100_000]]);
    for number in 0..60 {
        ctl(&["put", &format!("k{number:02}"), &format!("v{number}")]);
    }
    ctl(&["del", "k00"]);
    ctl(&["compaction", "--physical", "20"]);
    let lease = ctl(&["lease", "grant", "5000"]);
    let lease = i64::from_str_radix(lease.split(' ').nth(1).expect("lease ID granted"), 16).expect("an id");
    ctl(&["user", "add", "root:x", "--interactive=false"]);
    ctl(&["role", "add", "r"]);
    ctl(&["alarm", "list"]);
    let snapshot = dir.path().join("snapshot.db");
    ctl(&["snapshot", "save", snapshot.to_str().expect("text")]);
    drop(server);

    let live = data.join("member").join("snap").join("db");
    for path in [&snapshot, &live] {
        let source = FileSource::new(File::open(path).expect("there")).expect("its size");
        let database = Database::open(source).expect("opens");
        database.check().expect("sound");
        let names: Vec<_> = database.buckets().expect("readable").into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, bucket::ALL);
        let get = |name: &[u8], key: &[u8]| {
            let bucket = database.bucket(name).expect("readable").expect("there");
            database.get(&bucket, key).expect("readable")
        };
        let state = get(bucket::META, schema::meta::CONF_STATE).expect("there");
        let parsed = schema::parse_conf_state(&state).expect("well-formed");
        assert_eq!(schema::conf_state_value(&parsed), state, "our encoding is etcd's");
        let id = parsed.voters[0];
        let stored = get(bucket::MEMBERS, &schema::member_key(id)).expect("there");
        let member = schema::parse_member(&stored).expect("well-formed");
        assert_eq!((member.id, member.name.as_str()), (id, "m"));
        assert_eq!(schema::member_value(&member), stored, "our encoding is etcd's");
        assert_eq!(
            get(bucket::META, schema::meta::STORAGE_VERSION),
            Some(schema::storage_version_value(3, 7))
        );
        assert_eq!(get(bucket::CLUSTER, schema::cluster::VERSION), Some(schema::storage_version_value(3, 7)));
        let index = get(bucket::META, schema::meta::CONSISTENT_INDEX).expect("there");
        assert!(schema::parse_u64(&index).expect("well-formed") > 60);
        let mark = get(bucket::META, schema::meta::FINISHED_COMPACT).expect("there");
        assert_eq!(mark, schema::revision_key(Revision { main: 20, sub: 0 }));
        let stored = get(bucket::LEASE, &schema::lease_key(lease)).expect("there");
        let parsed = schema::parse_lease(&stored).expect("well-formed");
        assert_eq!(parsed, leasepb::Lease { id: lease, ttl: 5000, remaining_ttl: 0 });
        assert_eq!(schema::lease_value(&parsed), stored, "our encoding is etcd's");
        let user =
            schema::parse_user(&get(bucket::AUTH_USERS, b"root").expect("there")).expect("well-formed");
        assert_eq!(user.name, b"root");
        let role = get(bucket::AUTH_ROLES, b"r").expect("there");
        assert_eq!(schema::parse_role(&role).expect("well-formed").name, b"r");

        let keys = database.bucket(bucket::KEY).expect("readable").expect("there");
        let mut cursor = database.cursor(&keys).expect("readable");
        let (mut versions, mut deletions) = (0, 0);
        while let Some(entry) = cursor.next().expect("readable") {
            let Entry::Pair { key, value } = entry else { panic!("a bucket among the keys") };
            let (revision, tombstone) = schema::parse_revision_key(key).expect("well-formed");
            let pair = schema::parse_key_value(value).expect("well-formed");
            if tombstone {
                deletions += 1;
                assert_eq!(schema::tombstone_value(b"k00"), value, "our encoding is etcd's");
            } else {
                versions += 1;
                assert_eq!(pair.mod_revision, revision.main);
                assert_eq!(pair.encode_to_vec(), value, "our encoding is etcd's");
            }
        }
        assert_eq!((versions, deletions), (61, 1));
    }
}
