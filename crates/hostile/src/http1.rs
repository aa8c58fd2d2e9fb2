//! HTTP/1.1 requests and the sniffing of first bytes (`edge::request`, `edge::route`, `net::sniff`).
//!
//! Laws: the requests do not depend on how the bytes are split; a request written out plainly is read as the same one
//! (so that two parsers cannot disagree on it); the first bytes never change what they said; a redirect leads to a path
//! that is not redirected again; memory is bounded by the input.

use base::Random;
use base::limits::{EDGE_HEAD_BYTES, EDGE_HEADERS};
use edge::Surface;
use edge::request::{BodyPlan, Parser, Request, Step};
use edge::route::{self, Found};
use net::sniff::{Sniff, sniff};

use crate::choices::Choices;
use crate::meter::bounded;

fn drain(_: &Request) -> BodyPlan {
    BodyPlan::Drain
}

fn keep(_: &Request) -> BodyPlan {
    BodyPlan::Keep(200)
}

/// All steps but `Continue`, which depends on what has arrived when it is asked.
fn steps(bytes: &[u8], plan: fn(&Request) -> BodyPlan, mut piece: impl FnMut() -> usize) -> Vec<Step> {
    let mut parser = Parser::new(plan);
    let mut steps = Vec::new();
    let mut rest = bytes;
    loop {
        let (now, later) = rest.split_at(piece().clamp(1, rest.len().max(1)).min(rest.len()));
        rest = later;
        parser.feed(now);
        loop {
            match parser.step() {
                Step::More => break,
                Step::Continue => {}
                step => steps.push(step),
            }
            assert!(steps.len() <= bytes.len(), "every step takes bytes");
        }
        if rest.is_empty() {
            return steps;
        }
    }
}

pub fn check(input: &[u8]) {
    let mut choices = Choices::new(input);
    let plan = if choices.flag() { keep } else { drain };
    let mut random = Random::new(u64::from(choices.byte()));
    let bytes = choices.rest();
    let whole = bounded((256 << 10) + 128 * bytes.len(), || steps(bytes, plan, || usize::MAX));
    let split = steps(bytes, plan, || 1 + random.below(30) as usize);
    assert_eq!(split, whole, "the split does not matter");
    if bytes.len() < 400 {
        assert_eq!(steps(bytes, plan, || 1), whole, "nor do single bytes");
    }
    for (position, step) in whole.iter().enumerate() {
        match step {
            Step::Request(request) => again(request, plan),
            Step::Refused(answer) => {
                assert_eq!(position + 1, whole.len(), "nothing comes after a refusal");
                assert!(answer.starts_with(b"HTTP/1.1 "), "a refusal is an answer");
            }
            Step::More | Step::Continue => unreachable!("left out"),
        }
    }
    first_bytes(bytes);
    let path = String::from_utf8_lossy(bytes);
    paths(path.split(['\r', '\n']).next().unwrap_or_default());
}

/// Writes the request plainly and reads it again.
fn again(request: &Request, plan: fn(&Request) -> BodyPlan) {
    let version = if request.http_1_0 { "1.0" } else { "1.1" };
    let mut target = String::new();
    for byte in request.path.bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~*".contains(&byte) {
            target.push(char::from(byte));
        } else {
            target.push_str(&format!("%{byte:02X}"));
        }
    }
    if !request.query.is_empty() {
        target = format!("{target}?{}", request.query);
    }
    if request.method == "CONNECT" {
        target = "a:1".into();
    }
    let mut bytes = format!("{} {target} HTTP/{version}\r\n", request.method).into_bytes();
    let framing = ["content-length", "transfer-encoding", "host", "expect", "connection"];
    let kept: Vec<_> = request.headers.iter().filter(|(name, _)| !framing.contains(&name.as_str())).collect();
    for (name, value) in &kept {
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value);
        bytes.extend_from_slice(b"\r\n");
    }
    let end = format!("host: {}\r\ncontent-length: {}\r\n\r\n", request.host, request.body.len());
    bytes.extend_from_slice(end.as_bytes());
    if kept.len() + 2 > EDGE_HEADERS || bytes.len() > EDGE_HEAD_BYTES {
        // As it came it had fewer fields, or shorter ones.
        return;
    }
    bytes.extend_from_slice(&request.body);
    let steps = steps(&bytes, plan, || usize::MAX);
    let [Step::Request(back)] = &steps[..] else { panic!("{request:?} is read again as {steps:?}") };
    assert_eq!((&back.method, back.http_1_0), (&request.method, request.http_1_0));
    assert_eq!((&back.path, &back.query, &back.body), (&request.path, &request.query, &request.body));
    assert_eq!(back.host, request.host);
    let kept_back: Vec<_> =
        back.headers.iter().filter(|(name, _)| !framing.contains(&name.as_str())).collect();
    assert_eq!(kept_back, kept);
    for name in ["", "exclude", "timeout"] {
        let values = request.query_values(name);
        assert!(values.iter().map(String::len).sum::<usize>() <= request.query.len());
    }
}

fn first_bytes(bytes: &[u8]) {
    let whole = sniff(bytes);
    for length in 0..bytes.len().min(64) {
        let part = sniff(&bytes[..length]);
        assert!(part == Sniff::NeedMore || part == whole, "{part:?} after {length} bytes became {whole:?}");
    }
    assert!(bytes.len() <= 4096 || whole != Sniff::NeedMore, "a line is waited for, and no more");
}

fn paths(path: &str) {
    for surface in [Surface::Client, Surface::Metrics] {
        for gateway in [false, true] {
            if let Found::Redirect(to) = route::find(surface, path, gateway) {
                assert!(to.starts_with('/'), "{path:?} leads to {to:?}");
                let next = route::find(surface, &to, gateway);
                assert!(
                    !matches!(next, Found::Redirect(_)),
                    "{path:?} leads to {to:?}, and that to {next:?}"
                );
            }
        }
    }
}

pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let with = |flags: [u8; 2], text: &str| [&flags[..], text.as_bytes()].concat();
    vec![
        (
            "seed-two-requests".into(),
            with(
                [0, 3],
                "GET /health?serializable=true HTTP/1.1\r\nHost: a:2379\r\nAccept: */*\r\n\r\n\
                 GET /metrics HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
            ),
        ),
        (
            "seed-chunks".into(),
            with(
                [1, 4],
                "POST /v3/kv/range HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n\
                 5;x=y\r\n{\"key\r\nB\r\n\": \"Zm9v\"}  \r\n0\r\ntrailer: t\r\n\r\n",
            ),
        ),
        (
            "seed-expect".into(),
            with(
                [1, 5],
                "PUT /v3/ HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
            ),
        ),
        (
            "seed-absolute".into(),
            with(
                [0, 6],
                "OPTIONS http://h:1/a%20b/../c?d=%zz&e+f HTTP/1.1\r\nhost: other\r\nOrigin: http://x\r\n\r\n",
            ),
        ),
        ("seed-star".into(), with([0, 1], "OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")),
        ("seed-preface".into(), with([0, 0], "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")),
        ("seed-path".into(), with([0, 0], "/readyz/../livez//serializable_read/.")),
        ("seed-tls".into(), [0, 0, 0x16, 3, 1, 2, 0, 1, 0, 1].to_vec()),
    ]
}
