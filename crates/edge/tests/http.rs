//! The edge on a loopback port, raw HTTP/1.1 against a state in memory. Bodies and headers are what etcd 3.7.1
//! answers, but for the date.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mainstay_edge as edge;
use mainstay_edge::{Access, Alarm, Bind, Edge, Listen, Options, Reply, State, Surface, Timeouts, Versions};

#[derive(Default)]
struct Memory {
    leader: AtomicU64,
    learner: AtomicBool,
    alarms: Mutex<Vec<Alarm>>,
    read_error: Mutex<Option<String>>,
    /// Linearizable checks are never answered.
    stuck: AtomicBool,
    held: Mutex<Vec<Reply>>,
    healthy: AtomicU64,
    unhealthy: AtomicU64,
    checks: Mutex<Vec<(&'static str, &'static str, bool)>>,
}

impl State for Memory {
    fn leader(&self) -> u64 {
        self.leader.load(Ordering::Relaxed)
    }
    fn is_learner(&self) -> bool {
        self.learner.load(Ordering::Relaxed)
    }
    fn alarms(&self) -> Vec<Alarm> {
        self.alarms.lock().unwrap().clone()
    }
    fn versions(&self) -> Versions {
        let cluster = (self.leader() != 0).then(|| "3.7.0".to_string());
        Versions { server: "3.7.1".into(), storage: cluster.clone(), cluster }
    }
    fn serializable_check(&self) -> Result<(), String> {
        self.read_error.lock().unwrap().clone().map_or(Ok(()), Err)
    }
    fn linearizable_check(&self, reply: Reply) {
        if self.stuck.load(Ordering::Relaxed) {
            self.held.lock().unwrap().push(reply);
            return;
        }
        let outcome = self.serializable_check();
        // From another thread and later, as the log core does it.
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(2));
            reply.send(outcome);
        });
    }
    fn render_metrics(&self) -> String {
        "# TYPE etcd_server_has_leader gauge\netcd_server_has_leader 1\n".into()
    }
    fn debug_vars(&self) -> Vec<(String, String)> {
        vec![("cmdline".into(), "[\"etcd\"]".into()), ("file_descriptor_limit".into(), "20000".into())]
    }
    fn health_answered(&self, healthy: bool) {
        let count = if healthy { &self.healthy } else { &self.unhealthy };
        count.fetch_add(1, Ordering::Relaxed);
    }
    fn check_answered(&self, kind: &'static str, name: &'static str, ok: bool) {
        self.checks.lock().unwrap().push((kind, name, ok));
    }
}

struct World {
    edge: Edge,
    state: Arc<Memory>,
    client: SocketAddr,
    metrics: SocketAddr,
}

fn world_with(change: impl FnOnce(&mut Options)) -> World {
    let any = Bind::Tcp("127.0.0.1:0".parse().unwrap());
    let mut options = Options {
        listen: vec![
            Listen { bind: any.clone(), surface: Surface::Client },
            Listen { bind: any, surface: Surface::Metrics },
        ],
        ..Options::default()
    };
    change(&mut options);
    let state = Arc::new(Memory { leader: AtomicU64::new(7), ..Memory::default() });
    let edge = edge::start(options, state.clone()).unwrap();
    let (client, metrics) = (edge.addresses()[0].unwrap(), edge.addresses()[1].unwrap());
    World { edge, state, client, metrics }
}

fn world() -> World {
    world_with(|_| {})
}

/// One answer off the stream: the head's lines without the date, and the body.
fn read_answer(stream: &mut impl Read) -> (Vec<String>, String) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "closed after {:?}", String::from_utf8_lossy(&head));
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let lines: Vec<String> =
        head.trim_end().split("\r\n").filter(|line| !line.starts_with("Date: ")).map(String::from).collect();
    let length = lines.iter().find_map(|line| line.strip_prefix("Content-Length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).unwrap();
    (lines, String::from_utf8(body).unwrap())
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

fn ask(address: SocketAddr, method: &str, path: &str) -> (Vec<String>, String) {
    let mut stream = connect(address);
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: localhost:2379\r\n\r\n").unwrap();
    read_answer(&mut stream)
}

const CORS: [&str; 3] = [
    "Access-Control-Allow-Headers: accept, content-type, authorization",
    "Access-Control-Allow-Methods: POST, GET, OPTIONS, PUT, DELETE",
    "Access-Control-Allow-Origin: *",
];
const TEXT: &str = "Content-Type: text/plain; charset=utf-8";
const NOSNIFF: &str = "X-Content-Type-Options: nosniff";

/// The answer of both listeners: they differ in the CORS headers only.
fn both(world: &World, method: &str, path: &str, status: &str, headers: &[&str], body: &str) {
    let (got, text) = ask(world.metrics, method, path);
    let want: Vec<&str> = [&[status], headers].concat();
    assert_eq!((got.as_slice(), text.as_str()), (as_strings(&want).as_slice(), body), "{method} {path}");
    let (got, text) = ask(world.client, method, path);
    let want: Vec<&str> = [&[status], &CORS[..], headers].concat();
    assert_eq!((got.as_slice(), text.as_str()), (as_strings(&want).as_slice(), body), "{method} {path}");
}

fn as_strings(lines: &[&str]) -> Vec<String> {
    lines.iter().map(|line| line.to_string()).collect()
}

const OK: &str = "HTTP/1.1 200 OK";

#[test]
fn health() {
    let world = world();
    let healthy = r#"{"health":"true","reason":""}"#;
    both(&world, "GET", "/health", OK, &["Content-Length: 29", TEXT], healthy);
    let only_get = ["Allow: GET", TEXT, NOSNIFF, "Content-Length: 19"];
    let refused = "HTTP/1.1 405 Method Not Allowed";
    both(&world, "POST", "/health", refused, &only_get, "Method Not Allowed\n");
    assert_eq!(world.state.healthy.load(Ordering::Relaxed), 2);

    world.state.leader.store(0, Ordering::Relaxed);
    let sick = "HTTP/1.1 503 Service Unavailable";
    let body = "{\"health\":\"false\",\"reason\":\"RAFT NO LEADER\"}\n";
    both(&world, "GET", "/health", sick, &[TEXT, NOSNIFF, &format!("Content-Length: {}", body.len())], body);
    both(&world, "GET", "/health?serializable=true", OK, &["Content-Length: 29", TEXT], healthy);
    world.state.leader.store(7, Ordering::Relaxed);

    *world.state.alarms.lock().unwrap() = vec![Alarm::NoSpace];
    let body = "{\"health\":\"false\",\"reason\":\"ALARM NOSPACE\"}\n";
    both(&world, "GET", "/health", sick, &[TEXT, NOSNIFF, &format!("Content-Length: {}", body.len())], body);
    both(&world, "GET", "/health?exclude=NOSPACE", OK, &["Content-Length: 29", TEXT], healthy);
    *world.state.alarms.lock().unwrap() = vec![Alarm::NoSpace, Alarm::Other(9)];
    let (_, text) = ask(world.client, "GET", "/health?exclude=NOSPACE");
    assert_eq!(text, "{\"health\":\"false\",\"reason\":\"ALARM UNKNOWN\"}\n");
    world.state.alarms.lock().unwrap().clear();

    *world.state.read_error.lock().unwrap() = Some("it \"broke\"".into());
    let (_, text) = ask(world.client, "GET", "/health");
    assert_eq!(text, "{\"health\":\"false\",\"reason\":\"RANGE ERROR:it \\\"broke\\\"\"}\n");
    assert_eq!(world.state.unhealthy.load(Ordering::Relaxed), 6);
}

#[test]
fn livez_and_readyz() {
    let world = world();
    let plain = [TEXT, NOSNIFF, "Content-Length: 3"];
    for path in ["/livez", "/readyz", "/livez/serializable_read", "/readyz/linearizable_read"] {
        both(&world, "GET", path, OK, &plain, "ok\n");
    }
    let (_, text) = ask(world.client, "GET", "/livez?verbose");
    assert_eq!(text, "[+]serializable_read ok\nok\n");
    let (_, text) = ask(world.client, "GET", "/readyz?verbose&exclude=linearizable_read&exclude=foo");
    assert_eq!(text, "[+]data_corruption ok\n[+]serializable_read ok\n[+]non_learner ok\nok\n");
    assert!(world.state.checks.lock().unwrap().contains(&("readyz", "linearizable_read", true)));

    world.state.learner.store(true, Ordering::Relaxed);
    *world.state.alarms.lock().unwrap() = vec![Alarm::Corrupt];
    let (head, text) = ask(world.metrics, "GET", "/readyz");
    assert_eq!(head[0], "HTTP/1.1 503 Service Unavailable");
    assert_eq!(
        text,
        "[-]data_corruption failed: alarm activated: CORRUPT\n[+]serializable_read ok\n\
         [+]linearizable_read ok\n[-]non_learner failed: not supported for learner\n\n"
    );
    both(&world, "GET", "/livez", OK, &plain, "ok\n");
    assert!(world.state.checks.lock().unwrap().contains(&("readyz", "non_learner", false)));
}

#[test]
fn a_linearizable_check_that_never_ends_or_whose_server_went_away() {
    let world = world_with(|options| options.request_timeout_ms = 50);
    world.state.stuck.store(true, Ordering::Relaxed);
    let (_, text) = ask(world.client, "GET", "/readyz/linearizable_read");
    assert_eq!(text, "[-]linearizable_read failed: etcdserver: request timed out\n\n");
    world.state.held.lock().unwrap().clear();

    let world = world_with(|options| options.request_timeout_ms = 60_000);
    world.state.stuck.store(true, Ordering::Relaxed);
    let mut stream = connect(world.client);
    stream.write_all(b"GET /readyz/linearizable_read HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    while world.state.held.lock().unwrap().is_empty() {
        std::thread::sleep(Duration::from_millis(1));
    }
    world.state.held.lock().unwrap().clear();
    let (_, text) = read_answer(&mut stream);
    assert_eq!(text, "[-]linearizable_read failed: etcdserver: server stopped\n\n");
}

#[test]
fn version_metrics_debug() {
    let world = world();
    let (head, text) = ask(world.client, "GET", "/version");
    assert_eq!(head[4..], ["Content-Type: application/json", "Content-Length: 62"]);
    assert_eq!(text, r#"{"etcdserver":"3.7.1","etcdcluster":"3.7.0","storage":"3.7.0"}"#);
    world.state.leader.store(0, Ordering::Relaxed);
    let (_, text) = ask(world.client, "GET", "/version");
    assert_eq!(text, r#"{"etcdserver":"3.7.1","etcdcluster":"not_decided","storage":"unknown"}"#);
    for address in [world.client, world.metrics] {
        for method in ["GET", "POST"] {
            let (head, text) = ask(address, method, "/metrics");
            let kind = "Content-Type: text/plain; version=0.0.4; charset=utf-8; escaping=underscores";
            assert!(head.contains(&kind.to_string()), "{head:?}");
            assert!(text.ends_with("etcd_server_has_leader 1\n"));
        }
    }
    let (_, text) = ask(world.client, "GET", "/debug/vars");
    assert_eq!(text, "{\n\"cmdline\": [\"etcd\"],\n\"file_descriptor_limit\": 20000\n}\n");
    assert_eq!(ask(world.client, "POST", "/debug/vars").0[0], "HTTP/1.1 405 Method Not Allowed");
    assert_eq!(ask(world.client, "GET", "/debug/requests").0[0], OK);
}

#[test]
fn not_found_redirects_gateway() {
    let world = world();
    let headers = [TEXT, NOSNIFF, "Content-Length: 19"];
    for path in ["/nosuch", "/", "/readyz/", "/readyz/foo", "/health/"] {
        both(&world, "GET", path, "HTTP/1.1 404 Not Found", &headers, "404 page not found\n");
    }
    assert_eq!(ask(world.metrics, "GET", "/version").0[0], "HTTP/1.1 404 Not Found");
    let (head, text) = ask(world.client, "GET", "//health?x=<1>");
    assert_eq!(head[0], "HTTP/1.1 307 Temporary Redirect");
    assert!(head.contains(&"Location: /health?x=<1>".to_string()), "{head:?}");
    assert_eq!(text, "<a href=\"/health?x=&lt;1&gt;\">Temporary Redirect</a>.\n\n");
    let (head, text) = ask(world.client, "POST", "/a/../health");
    assert_eq!((head[4].as_str(), text.as_str()), ("Location: /health", ""));
    for path in ["/v3/kv/range", "/v3beta/kv/range", "/v3/"] {
        assert_eq!(ask(world.client, "POST", path).0[0], "HTTP/1.1 501 Not Implemented", "{path}");
    }
    let closed = world_with(|options| options.gateway = false);
    assert_eq!(ask(closed.client, "POST", "/v3/kv/range").0[0], "HTTP/1.1 404 Not Found");
}

#[test]
fn access_control() {
    let set = |name: &str| BTreeSet::from([name.to_string()]);
    let world = world_with(|options| {
        options.access = Access { hosts: set("good.example"), origins: set("http://ui") };
    });
    let (head, text) = ask(world.client, "GET", "/health");
    assert_eq!(head[0], "HTTP/1.1 421 Misdirected Request");
    assert!(text.contains("--host-whitelist \"localhost\"") && !head[1].starts_with("Access"), "{text}");
    assert_eq!(ask(world.metrics, "GET", "/health").0[0], OK, "the metrics listener is not checked");
    let mut stream = connect(world.client);
    stream
        .write_all(b"OPTIONS /health HTTP/1.1\r\nHost: good.example:1\r\nOrigin: http://ui\r\n\r\n")
        .unwrap();
    let (head, text) = read_answer(&mut stream);
    assert_eq!((head[0].as_str(), text.as_str()), (OK, ""));
    assert!(head.contains(&"Access-Control-Allow-Origin: http://ui".to_string()));
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: good.example\r\nOrigin: http://evil\r\n\r\n").unwrap();
    let (head, _) = read_answer(&mut stream);
    assert!(!head.iter().any(|line| line.starts_with("Access-Control")), "{head:?}");
}

#[test]
fn keep_alive_pipelining_and_order() {
    let world = world();
    let mut stream = connect(world.client);
    let mut requests = String::new();
    for round in 0..50 {
        let path = ["/health", "/version", "/livez", "/nosuch"][round % 4];
        let body = if round % 3 == 0 { "Content-Length: 3\r\n\r\nabc" } else { "\r\n" };
        requests.push_str(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n{body}"));
    }
    // In pieces that end anywhere.
    for piece in requests.as_bytes().chunks(37) {
        stream.write_all(piece).unwrap();
    }
    for round in 0..50 {
        let (_, text) = read_answer(&mut stream);
        let want = ["{\"health\"", "{\"etcdserver\"", "ok\n", "404"][round % 4];
        assert!(text.starts_with(want), "{round}: {text}");
    }
    stream.write_all(b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let (head, _) = read_answer(&mut stream);
    assert_eq!(head.last().unwrap(), "Connection: close");
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn refusals_end_the_connection() {
    let world = world();
    for (input, status) in [
        ("garbage\r\n\r\n", "HTTP/1.1 400 Bad Request\r\n"),
        ("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 400 Bad Request: missing required Host header\r\n"),
        ("GET / HTTP/1.1\r\nHost: a\r\nExpect: foo\r\n\r\n", "HTTP/1.1 417 Expectation Failed\r\n"),
        ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 400 Bad Request\r\n"),
        ("GET /livez HTTP/1.0\r\n\r\n", "HTTP/1.0 200 OK\r\n"),
        ("POST /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\nabc", "HTTP/1.1 405 "),
    ] {
        let mut stream = connect(world.client);
        stream.write_all(input.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.starts_with(status), "{input:?}: {text:?}");
    }
    let mut stream = connect(world.client);
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: a\r\nX: ").unwrap();
    // The server may close before all is written: that is no error of the test.
    let _ = stream.write_all(&[b'a'; 200_000]);
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text);
    assert!(text.starts_with(b"HTTP/1.1 431 Request Header Fields Too Large\r\n"));
}

#[test]
fn slow_and_idle_clients_are_closed() {
    let world = world_with(|options| {
        options.timeouts = Timeouts { idle_ms: 60, head_ms: 60, body_ms: 60, write_ms: 60 };
    });
    for start in ["", "GET /a", "POST /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n1"] {
        let mut stream = connect(world.client);
        stream.write_all(start.as_bytes()).unwrap();
        // Trickling does not help: the limit is for the whole.
        let mut trickle = stream.try_clone().unwrap();
        let slow = std::thread::spawn(move || {
            for _ in 0..20 {
                std::thread::sleep(Duration::from_millis(20));
                if start.is_empty() || trickle.write_all(b"a").is_err() {
                    break;
                }
            }
        });
        let mut text = Vec::new();
        // A reset counts as closed: the trickle may have been under way.
        let _ = stream.read_to_end(&mut text);
        assert!(text.is_empty(), "{start:?}");
        slow.join().unwrap();
    }
}

#[test]
fn sockets_come_from_other_threads_with_what_was_read() {
    let world = world();
    let handle = world.edge.handle();
    for round in 0..20 {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let handle = handle.clone();
        let read = b"GET /livez?verbose HTTP/1.1\r\nHost: a\r\n\r\nGET /ver".to_vec();
        std::thread::spawn(move || handle.adopt(theirs.into(), read, Surface::Client).unwrap())
            .join()
            .unwrap();
        let mut ours = ours;
        assert_eq!(read_answer(&mut ours).1, "[+]serializable_read ok\nok\n", "{round}");
        ours.write_all(b"sion HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        assert!(read_answer(&mut ours).1.starts_with("{\"etcdserver\""));
    }
    world.edge.stop().unwrap();
    let (_ours, theirs) = UnixStream::pair().unwrap();
    assert!(handle.adopt(theirs.into(), Vec::new(), Surface::Client).is_err());
}

#[test]
fn socket_files_and_ports_in_use() {
    let path = std::env::temp_dir().join(format!("mainstay-edge-{}.sock", std::process::id()));
    let options = || Options {
        listen: vec![Listen { bind: Bind::Unix(path.clone()), surface: Surface::Metrics }],
        ..Options::default()
    };
    // The second start replaces the stale file of the first.
    for _ in 0..2 {
        let edge = edge::start(options(), Arc::new(Memory::default())).unwrap();
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        assert_eq!(read_answer(&mut stream).1, "ok\n");
        edge.stop().unwrap();
    }
    std::fs::remove_file(&path).unwrap();

    let world = world();
    let taken = Bind::Tcp(world.client);
    let options =
        Options { listen: vec![Listen { bind: taken, surface: Surface::Client }], ..Options::default() };
    let error = match edge::start(options, world.state.clone()) {
        Ok(_) => panic!("the port is taken"),
        Err(error) => error.to_string(),
    };
    assert!(error.starts_with(&format!("listen tcp {}: ", world.client)), "{error}");
}

#[test]
fn stopping_answers_what_is_under_way() {
    let world = world();
    world.state.stuck.store(true, Ordering::Relaxed);
    let mut stream = connect(world.client);
    stream.write_all(b"GET /readyz/linearizable_read HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    while world.state.held.lock().unwrap().is_empty() {
        std::thread::sleep(Duration::from_millis(1));
    }
    world.edge.handle().stop();
    world.state.held.lock().unwrap().drain(..).for_each(|reply| reply.send(Ok(())));
    let (head, text) = read_answer(&mut stream);
    assert_eq!((head.last().unwrap().as_str(), text.as_str()), ("Connection: close", "ok\n"));
    world.edge.stop().unwrap();
}
