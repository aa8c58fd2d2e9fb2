//! HTTP/1.x requests out of bytes. Pure: no socket, no clock. `httparse` reads the head; framing of bodies, limits and
//! the strictness that keeps two parsers from disagreeing (request smuggling) are here.
//!
//! Invariants: the buffer never holds more than one head, or one body piece, beyond what the last read brought; after
//! a refusal nothing more is parsed.

use base::limits::{EDGE_DRAIN_BYTES, EDGE_HEAD_BYTES, EDGE_HEADERS};

use crate::response::refusal;

/// One whole request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    /// Percent-decoded, without the query; `*` for the server as a whole; empty for CONNECT.
    pub path: String,
    /// As sent, without the question mark.
    pub query: String,
    pub host: String,
    /// Names in lower case, in the order of arrival.
    pub headers: Vec<(String, Vec<u8>)>,
    pub http_1_0: bool,
    pub keep_alive: bool,
    /// An `Expect` that is not `100-continue`.
    pub expects_more: bool,
    /// Empty unless the route reads bodies.
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        let value = self.headers.iter().find(|(n, _)| n == name)?;
        std::str::from_utf8(&value.1).ok()
    }

    /// All values of a query parameter, decoded. Pieces that do not decode are skipped, as Go's parser does.
    pub fn query_values(&self, name: &str) -> Vec<String> {
        let pieces = self.query.split('&').filter(|piece| !piece.is_empty() && !piece.contains(';'));
        pieces
            .filter_map(|piece| {
                let (key, value) = piece.split_once('=').unwrap_or((piece, ""));
                (decode(key, true)? == name).then(|| decode(value, true))?
            })
            .collect()
    }
}

/// What a route does with a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyPlan {
    /// Read and thrown away, up to `EDGE_DRAIN_BYTES`.
    Drain,
    /// Kept, up to this many bytes; above it the request is refused.
    Keep(usize),
}

/// What the buffered bytes gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing whole yet.
    More,
    /// The client waits for `100 Continue` before it sends the body.
    Continue,
    Request(Box<Request>),
    /// Send these bytes and close.
    Refused(Vec<u8>),
}

/// What the parser waits for: which time-out applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    Idle,
    Head,
    Body,
}

enum Phase {
    Head,
    Body(Box<Body>),
    Ended,
}

struct Body {
    request: Request,
    plan: BodyPlan,
    left: Left,
    seen: usize,
    announce: bool,
}

enum Left {
    Bytes(u64),
    ChunkSize,
    Chunk(u64),
    /// The line end after a chunk's data.
    ChunkEnd,
    Trailers,
}

/// Parses one connection's requests, one after the other.
pub struct Parser {
    buffer: Vec<u8>,
    phase: Phase,
    plan: fn(&Request) -> BodyPlan,
}

impl Parser {
    /// `plan` says, once the head is known, what becomes of the body.
    pub fn new(plan: fn(&Request) -> BodyPlan) -> Parser {
        Parser { buffer: Vec::new(), phase: Phase::Head, plan }
    }

    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    pub fn waiting(&self) -> Waiting {
        match self.phase {
            Phase::Head if self.buffer.is_empty() => Waiting::Idle,
            Phase::Head => Waiting::Head,
            Phase::Body(_) | Phase::Ended => Waiting::Body,
        }
    }

    /// The next step; call again until `More`.
    pub fn step(&mut self) -> Step {
        match self.advance() {
            Ok(step) => step,
            Err(bytes) => {
                self.phase = Phase::Ended;
                self.buffer.clear();
                Step::Refused(bytes)
            }
        }
    }

    fn advance(&mut self) -> Result<Step, Vec<u8>> {
        if matches!(self.phase, Phase::Head) {
            match self.head()? {
                Some(body) => self.phase = Phase::Body(Box::new(body)),
                None => return Ok(Step::More),
            }
        }
        let Phase::Body(body) = &mut self.phase else { return Ok(Step::More) };
        if body.announce {
            body.announce = false;
            if self.buffer.is_empty() {
                return Ok(Step::Continue);
            }
        }
        if !read_body(&mut self.buffer, body)? {
            return Ok(Step::More);
        }
        let over = body.plan == BodyPlan::Drain && body.seen > EDGE_DRAIN_BYTES;
        let phase = if over { Phase::Ended } else { Phase::Head };
        if over {
            self.buffer.clear();
        }
        let Phase::Body(body) = std::mem::replace(&mut self.phase, phase) else {
            unreachable!("the phase was matched above")
        };
        let mut request = body.request;
        request.keep_alive &= !over;
        Ok(Step::Request(Box::new(request)))
    }

    /// The head, when it is whole; its bytes leave the buffer.
    fn head(&mut self) -> Result<Option<Body>, Vec<u8>> {
        let mut fields = [httparse::EMPTY_HEADER; EDGE_HEADERS];
        let mut parsed = httparse::Request::new(&mut fields);
        let length = match parsed.parse(&self.buffer) {
            Ok(httparse::Status::Complete(length)) if length <= EDGE_HEAD_BYTES => length,
            Ok(httparse::Status::Partial) if self.buffer.len() <= EDGE_HEAD_BYTES => return Ok(None),
            Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(refusal(431, "")),
            Err(httparse::Error::Version) => return Err(refusal(505, "unsupported protocol version")),
            Err(httparse::Error::HeaderName) => return Err(refusal(400, "invalid header name")),
            Err(httparse::Error::HeaderValue) => return Err(refusal(400, "invalid header value")),
            Err(_) => return Err(refusal(400, "")),
        };
        let body = interpret(&parsed, self.plan)?;
        self.buffer.drain(..length);
        Ok(Some(body))
    }
}

fn interpret(parsed: &httparse::Request<'_, '_>, plan: fn(&Request) -> BodyPlan) -> Result<Body, Vec<u8>> {
    let bad = || refusal(400, "");
    let mut request = Request {
        method: parsed.method.unwrap_or_default().to_string(),
        http_1_0: parsed.version == Some(0),
        ..Request::default()
    };
    let mut hosts = Vec::new();
    let mut length: Option<u64> = None;
    let mut chunked = false;
    let (mut close, mut keep, mut announce) = (false, false, false);
    for field in parsed.headers.iter() {
        let name = field.name.to_ascii_lowercase();
        match name.as_str() {
            "host" => hosts.push(String::from_utf8_lossy(field.value).into_owned()),
            "content-length" => {
                let text = std::str::from_utf8(field.value).map_err(|_| bad())?.trim();
                let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
                let value = text.parse::<u64>().ok().filter(|_| digits).ok_or_else(bad)?;
                if length.is_some_and(|earlier| earlier != value) {
                    return Err(bad());
                }
                length = Some(value);
            }
            "transfer-encoding" => {
                let text = std::str::from_utf8(field.value).map_err(|_| bad())?;
                if chunked || request.http_1_0 {
                    return Err(bad());
                }
                if !text.trim().eq_ignore_ascii_case("chunked") {
                    return Err(refusal(501, ""));
                }
                chunked = true;
            }
            "connection" => {
                for token in String::from_utf8_lossy(field.value).split(',') {
                    close |= token.trim().eq_ignore_ascii_case("close");
                    keep |= token.trim().eq_ignore_ascii_case("keep-alive");
                }
            }
            "expect" => {
                let wants = field.value.trim_ascii().eq_ignore_ascii_case(b"100-continue");
                announce |= wants;
                request.expects_more |= !wants && !field.value.is_empty();
            }
            _ => {}
        }
        request.headers.push((name, field.value.to_vec()));
    }
    match hosts.len() {
        0 if !request.http_1_0 => return Err(refusal(400, "missing required Host header")),
        0 => {}
        1 => request.host = hosts.remove(0),
        _ => return Err(bad()),
    }
    if !is_host(&request.host) {
        return Err(refusal(400, "malformed Host header"));
    }
    read_target(&mut request, parsed.path.unwrap_or_default())?;
    // Length and chunks together: the chunks win, as in Go; what another parser saw is unknown, so the
    // connection ends.
    close |= chunked && length.is_some();
    request.keep_alive = !close && (!request.http_1_0 || keep);
    let plan = plan(&request);
    let left = match (chunked, length) {
        (true, _) => Left::ChunkSize,
        (false, length) => Left::Bytes(length.unwrap_or(0)),
    };
    let has_body = !matches!(left, Left::Bytes(0));
    let mut body = Body { request, plan, left, seen: 0, announce: false };
    match plan {
        BodyPlan::Keep(limit) if length.is_some_and(|length| length > limit as u64) => {
            return Err(refusal(413, ""));
        }
        BodyPlan::Keep(_) => body.announce = announce && has_body,
        // Nobody will ask for that body: answer at once and end, rather than wait for it.
        BodyPlan::Drain
            if has_body && (announce || length.is_some_and(|length| length > EDGE_DRAIN_BYTES as u64)) =>
        {
            body.left = Left::Bytes(0);
            body.seen = EDGE_DRAIN_BYTES + 1;
        }
        BodyPlan::Drain => {}
    }
    Ok(body)
}

fn is_host(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:[]%@".contains(&b))
}

/// The request target: origin form, absolute form, `*`, or CONNECT's authority.
fn read_target(request: &mut Request, target: &str) -> Result<(), Vec<u8>> {
    if request.method == "CONNECT" {
        return Ok(());
    }
    if target == "*" {
        request.path = "*".into();
        return Ok(());
    }
    let mut rest = target;
    let lower = target.get(..8).unwrap_or(target).to_ascii_lowercase();
    for scheme in ["http://", "https://"] {
        if lower.starts_with(scheme) {
            let after = &target[scheme.len()..];
            let end = after.find(['/', '?']).unwrap_or(after.len());
            if !is_host(&after[..end]) {
                return Err(refusal(400, ""));
            }
            request.host = after[..end].to_string();
            rest = &after[end..];
        }
    }
    let rest = rest.split('#').next().unwrap_or(rest);
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let absolute = rest.len() != target.len() && path.is_empty();
    if !path.starts_with('/') && !absolute {
        return Err(refusal(400, ""));
    }
    request.path = if absolute { "/".into() } else { decode(path, false).ok_or_else(|| refusal(400, ""))? };
    request.query = query.to_string();
    Ok(())
}

/// Percent-decoding; `None` when an escape is malformed or the result is no UTF-8.
fn decode(text: &str, plus_is_space: bool) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let digit = |b: Option<u8>| (b? as char).to_digit(16);
                let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
                out.push((high * 16 + low) as u8);
            }
            b'+' if plus_is_space => out.push(b' '),
            _ => out.push(byte),
        }
    }
    String::from_utf8(out).ok()
}

/// Takes body bytes out of `buffer`; true when the body has ended.
fn read_body(buffer: &mut Vec<u8>, body: &mut Body) -> Result<bool, Vec<u8>> {
    let mut at = 0;
    let ended = loop {
        if body.plan == BodyPlan::Drain && body.seen > EDGE_DRAIN_BYTES {
            break true;
        }
        match &mut body.left {
            Left::Bytes(0) => break true,
            Left::Chunk(0) => body.left = Left::ChunkEnd,
            Left::Bytes(left) | Left::Chunk(left) => {
                let here = (buffer.len() - at).min(usize::try_from(*left).unwrap_or(usize::MAX));
                if here == 0 {
                    break false;
                }
                *left -= here as u64;
                body.seen += here;
                if let BodyPlan::Keep(limit) = body.plan {
                    if body.request.body.len() + here > limit {
                        return Err(refusal(413, ""));
                    }
                    body.request.body.extend_from_slice(&buffer[at..at + here]);
                }
                at += here;
            }
            Left::ChunkSize => match httparse::parse_chunk_size(&buffer[at..]) {
                Ok(httparse::Status::Complete((used, size))) => {
                    at += used;
                    // The lines count too, or a body of empty extensions would never end.
                    body.seen += used;
                    body.left = if size == 0 { Left::Trailers } else { Left::Chunk(size) };
                }
                Ok(httparse::Status::Partial) if buffer.len() - at <= LINE_BYTES => break false,
                _ => return Err(refusal(400, "")),
            },
            Left::ChunkEnd => match buffer[at..] {
                [b'\r', b'\n', ..] => {
                    at += 2;
                    body.left = Left::ChunkSize;
                }
                [] | [b'\r'] => break false,
                _ => return Err(refusal(400, "")),
            },
            Left::Trailers => {
                let Some(end) = buffer[at..].iter().position(|b| *b == b'\n') else {
                    if buffer.len() - at > LINE_BYTES {
                        return Err(refusal(400, ""));
                    }
                    break false;
                };
                let empty = buffer[at..at + end].trim_ascii().is_empty();
                at += end + 1;
                body.seen += end + 1;
                if empty {
                    body.left = Left::Bytes(0);
                }
            }
        }
    };
    buffer.drain(..at);
    Ok(ended)
}

/// One chunk-size or trailer line, bytes.
const LINE_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(_: &Request) -> BodyPlan {
        BodyPlan::Drain
    }

    fn keep(_: &Request) -> BodyPlan {
        BodyPlan::Keep(10)
    }

    /// All steps of `input`, given whole and given byte by byte: both must agree.
    fn steps(plan: fn(&Request) -> BodyPlan, input: &[u8]) -> Vec<Step> {
        let run = |pieces: &mut dyn Iterator<Item = &[u8]>| {
            let mut parser = Parser::new(plan);
            let mut out = Vec::new();
            for piece in pieces {
                parser.feed(piece);
                loop {
                    match parser.step() {
                        Step::More => break,
                        step => out.push(step),
                    }
                }
            }
            out
        };
        let whole = run(&mut std::iter::once(input));
        let bytes = run(&mut input.chunks(1));
        let strip = |steps: &[Step]| -> Vec<String> {
            steps.iter().filter(|s| **s != Step::Continue).map(|s| format!("{s:?}")).collect()
        };
        assert_eq!(strip(&whole), strip(&bytes), "{:?}", String::from_utf8_lossy(input));
        whole
    }

    fn one(input: &str) -> Request {
        match steps(drain, input.as_bytes()).as_slice() {
            [Step::Request(request)] => (**request).clone(),
            other => panic!("{input:?}: {other:?}"),
        }
    }

    fn refused(input: &str) -> String {
        match steps(drain, input.as_bytes()).as_slice() {
            [Step::Refused(bytes)] => {
                let text = String::from_utf8(bytes.clone()).unwrap();
                assert!(text.contains("\r\nConnection: close\r\n\r\n"), "{text}");
                text.lines().next().unwrap().strip_prefix("HTTP/1.1 ").unwrap().to_string()
            }
            other => panic!("{input:?}: {other:?}"),
        }
    }

    #[test]
    fn a_plain_get() {
        let request = one("GET /health?a=1&exclude=NOSPACE&exclude=%43ORRUPT HTTP/1.1\r\nHost: h:1\r\n\r\n");
        assert_eq!((request.method.as_str(), request.path.as_str()), ("GET", "/health"));
        assert_eq!(request.query_values("exclude"), ["NOSPACE", "CORRUPT"]);
        assert_eq!(request.query_values("verbose"), [""; 0]);
        assert_eq!(request.host, "h:1");
        assert!(request.keep_alive && !request.http_1_0);
    }

    #[test]
    fn query_oddities() {
        let request = one("GET /h?verbose&x=%zz&y=a+b&c;d=1&=&z=1;2 HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(request.query_values("verbose"), [""]);
        assert_eq!(request.query_values("x"), [""; 0]);
        assert_eq!(request.query_values("y"), ["a b"]);
        assert_eq!(request.query_values("z"), [""; 0]);
    }

    #[test]
    fn targets() {
        assert_eq!(one("GET /%68ealth HTTP/1.1\r\nHost: a\r\n\r\n").path, "/health");
        let absolute = one("GET http://foo:1/health?x HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!((absolute.path.as_str(), absolute.host.as_str()), ("/health", "foo:1"));
        assert_eq!(one("GET http://foo HTTP/1.1\r\nHost: a\r\n\r\n").path, "/");
        assert_eq!(one("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").path, "*");
        assert_eq!(one("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n").path, "");
        assert_eq!(refused("GET health HTTP/1.1\r\nHost: a\r\n\r\n"), "400 Bad Request");
        assert_eq!(refused("GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n"), "400 Bad Request");
        assert_eq!(refused("GET /%4 HTTP/1.1\r\nHost: a\r\n\r\n"), "400 Bad Request");
    }

    #[test]
    fn keep_alive_by_version_and_header() {
        assert!(!one("GET / HTTP/1.0\r\n\r\n").keep_alive);
        assert!(one("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").keep_alive);
        assert!(!one("GET / HTTP/1.1\r\nHost: a\r\nConnection: foo, Close\r\n\r\n").keep_alive);
        assert!(one("GET / HTTP/1.1\nHost: a\n\n").keep_alive, "bare line feeds are read");
    }

    #[test]
    fn refusals() {
        let missing = "400 Bad Request: missing required Host header";
        assert_eq!(refused("GET / HTTP/1.1\r\n\r\n"), missing);
        assert_eq!(refused("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"), "400 Bad Request");
        let host = "400 Bad Request: malformed Host header";
        assert_eq!(refused("GET / HTTP/1.1\r\nHost: a b\r\n\r\n"), host);
        let name = "400 Bad Request: invalid header name";
        assert_eq!(refused("GET / HTTP/1.1\r\nHost: a\r\nBad Header: x\r\n\r\n"), name);
        assert_eq!(refused("G@T / HTTP/1.1\r\nHost: a\r\n\r\n"), "400 Bad Request");
        let version = "505 HTTP Version Not Supported: unsupported protocol version";
        assert_eq!(refused("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), version);
        for length in ["x", "-1", "+1", "1 2", "", "99999999999999999999"] {
            let input = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
            assert_eq!(refused(&input), "400 Bad Request", "{length}");
        }
        let two = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n";
        assert_eq!(refused(two), "400 Bad Request");
        let other = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n";
        assert_eq!(refused(other), "501 Not Implemented");
        let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(refused(old), "400 Bad Request");
        let chunk = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n";
        assert_eq!(refused(chunk), "400 Bad Request");
        let end = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\naXX";
        assert_eq!(refused(end), "400 Bad Request");
    }

    #[test]
    fn heads_have_a_limit() {
        let mut parser = Parser::new(drain);
        parser.feed(b"GET / HTTP/1.1\r\nHost: a\r\nX: ");
        assert_eq!(parser.step(), Step::More);
        assert_eq!(parser.waiting(), Waiting::Head);
        parser.feed(&vec![b'a'; EDGE_HEAD_BYTES]);
        assert!(matches!(parser.step(), Step::Refused(bytes) if bytes.starts_with(b"HTTP/1.1 431 ")));
        let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(EDGE_HEADERS));
        let mut parser = Parser::new(drain);
        parser.feed(many.as_bytes());
        assert!(matches!(parser.step(), Step::Refused(bytes) if bytes.starts_with(b"HTTP/1.1 431 ")));
    }

    #[test]
    fn bodies_are_drained_and_the_next_request_follows() {
        let next = "GET /b HTTP/1.1\r\nHost: a\r\n\r\n";
        for first in [
            "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
            "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nGET /",
            "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nT: v\r\n\r\n",
        ] {
            let got = steps(drain, format!("{first}{next}").as_bytes());
            let paths: Vec<_> = got
                .iter()
                .map(|step| match step {
                    Step::Request(request) => {
                        assert!(request.body.is_empty() && request.keep_alive);
                        request.path.as_str()
                    }
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(paths, ["/a", "/b"], "{first}");
        }
    }

    #[test]
    fn kept_bodies_have_a_limit() {
        let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let got = steps(keep, format!("{chunked}3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").as_bytes());
        assert!(matches!(got.as_slice(), [Step::Request(request)] if request.body == b"abcde"));
        let got = steps(keep, format!("{chunked}6\r\nabcdef\r\n5\r\nghijk\r\n0\r\n\r\n").as_bytes());
        assert!(matches!(got.as_slice(), [Step::Refused(bytes)] if bytes.starts_with(b"HTTP/1.1 413 ")));
        let got = steps(keep, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n0123456789");
        assert!(matches!(got.as_slice(), [Step::Request(request)] if request.body == b"0123456789"));
        let got = steps(keep, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n");
        assert!(matches!(got.as_slice(), [Step::Refused(bytes)] if bytes.starts_with(b"HTTP/1.1 413 ")));
    }

    #[test]
    fn large_unread_bodies_end_the_connection_at_once() {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", EDGE_DRAIN_BYTES + 1);
        let mut parser = Parser::new(drain);
        parser.feed(head.as_bytes());
        assert!(matches!(parser.step(), Step::Request(request) if !request.keep_alive));
        parser.feed(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(parser.step(), Step::More, "what follows is body, never a request");

        let mut parser = Parser::new(drain);
        parser.feed(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        let chunk = [b"8000\r\n".as_slice(), &vec![b'x'; 0x8000], b"\r\n"].concat();
        let mut seen = None;
        for _ in 0..20 {
            parser.feed(&chunk);
            if let Step::Request(request) = parser.step() {
                seen = Some(request);
                break;
            }
        }
        assert!(!seen.expect("answered before the end").keep_alive);
    }

    #[test]
    fn lengths_and_chunks_together_end_the_connection() {
        let request = one(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        );
        assert!(!request.keep_alive);
    }

    #[test]
    fn expectations() {
        let head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n";
        let mut parser = Parser::new(keep);
        parser.feed(head);
        assert_eq!(parser.step(), Step::Continue);
        assert_eq!(parser.step(), Step::More);
        parser.feed(b"abc");
        assert!(matches!(parser.step(), Step::Request(request) if request.body == b"abc"));
        // Nobody reads the body here: answered and closed without asking for it.
        let mut parser = Parser::new(drain);
        parser.feed(head);
        assert!(matches!(parser.step(), Step::Request(request) if !request.keep_alive));
        assert!(one("GET / HTTP/1.1\r\nHost: a\r\nExpect: foo\r\n\r\n").expects_more);
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut random = base::Random::new(7);
        let seed =
            b"POST /v3/kv HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        for _ in 0..20_000 {
            let mut input = seed.to_vec();
            for _ in 0..1 + random.below(4) {
                let at = random.below(input.len() as u64) as usize;
                match random.below(3) {
                    0 => input[at] = random.below(256) as u8,
                    1 => drop(input.remove(at)),
                    _ => input.insert(at, random.below(256) as u8),
                }
            }
            let mut parser = Parser::new(keep);
            parser.feed(&input);
            for _ in 0..10 {
                if parser.step() == Step::More {
                    break;
                }
            }
        }
    }
}
