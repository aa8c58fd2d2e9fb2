//! A request's header list (RFC 9113 section 8.3, gRPC's protocol description): gathered field by field, then judged.
//!
//! One `Head` serves all requests of a connection. It holds texts only where somebody needs them. The order of the
//! checks, and their words, are grpc-go's.

use crate::field::{Class, Encoding, Verb};
use crate::grpc::{self, Timeout, code};
use crate::hpack::decoder::ENTRY_OVERHEAD;
use crate::hpack::encoder::ContentType;
use crate::methods::{MethodIndex, Methods};
use crate::streams::Ending;

/// A call whose headers are complete. Borrowed: gone after `Calls::call`.
#[derive(Clone, Copy, Debug)]
pub struct CallHead<'a> {
    /// Position in the table of methods. Unknown methods are answered by this layer.
    pub method: MethodIndex,
    /// From `grpc-timeout`, rounded up, never 0. The connection's `tick` enforces it: RST_STREAM and `cancelled`.
    pub timeout_ms: Option<u64>,
    /// `hasleader: true`: the call must end when there is no leader.
    pub has_leader: bool,
    /// From `token`, else from `authorization`.
    pub token: Option<&'a [u8]>,
    pub client_api_version: Option<&'a [u8]>,
}

/// A request that isn't gRPC: what browsers and curl send over HTTP/2.
#[derive(Clone, Copy, Debug)]
pub struct PlainHead<'a> {
    pub method: &'a [u8],
    /// With the query, if there is one.
    pub path: &'a [u8],
    pub authorization: Option<&'a [u8]>,
    /// The request has no body: its headers ended it.
    pub ended: bool,
}

/// What to do with a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Call,
    Plain,
    /// Against the RFC: PROTOCOL_ERROR on the stream.
    Malformed,
    /// More header list than allowed: grpc-go's FRAME_SIZE_ERROR on the stream.
    TooLarge,
    /// A complete answer of headers: HTTP status, gRPC status, text.
    Abort(u16, u8, String),
}

#[derive(Clone, Copy, Default)]
struct Span(u32, u32);

const METHOD: u8 = 1;
const PATH: u8 = 2;
const SCHEME: u8 = 4;
const AUTHORITY: u8 = 8;

#[derive(Default)]
pub(crate) struct Head {
    limit_bytes: usize,
    list_bytes: usize,
    malformed: bool,
    /// Pseudo-header fields seen, as bits.
    pseudo: u8,
    regular: bool,
    verb: Option<Verb>,
    method: Option<MethodIndex>,
    pub(crate) content_type: Option<ContentType>,
    pub(crate) content_length: Option<u64>,
    hosts: u8,
    timeout: Option<Timeout>,
    pub(crate) encoding: Encoding,
    has_leader: Option<bool>,
    bad_binary: Option<(Span, Span)>,
    texts: Vec<u8>,
    verb_text: Span,
    path_text: Span,
    type_text: Span,
    timeout_text: Span,
    encoding_text: Span,
    token: Option<Span>,
    authorization: Option<Span>,
    version: Option<Span>,
}

impl Head {
    pub(crate) fn new(limit_bytes: usize) -> Head {
        Head { limit_bytes, ..Head::default() }
    }

    /// Forgets the last request, keeps the buffer.
    pub(crate) fn reset(&mut self) {
        let mut texts = std::mem::take(&mut self.texts);
        texts.clear();
        *self = Head { limit_bytes: self.limit_bytes, texts, ..Head::default() };
    }

    fn keep(&mut self, text: &[u8]) -> Span {
        let start = self.texts.len() as u32;
        self.texts.extend_from_slice(text);
        Span(start, self.texts.len() as u32)
    }

    fn text(&self, span: Span) -> &[u8] {
        &self.texts[span.0 as usize..span.1 as usize]
    }

    fn pseudo(&mut self, bit: u8) {
        self.malformed |= self.regular || self.pseudo & bit != 0;
        self.pseudo |= bit;
    }

    /// Takes the next field of the list.
    #[inline]
    pub(crate) fn field(&mut self, class: Class, name: &[u8], value: &[u8]) {
        self.list_bytes += name.len() + value.len() + ENTRY_OVERHEAD;
        if self.list_bytes > self.limit_bytes {
            return;
        }
        match class {
            Class::Method(verb) => {
                self.pseudo(METHOD);
                self.verb = Some(verb);
                if verb != Verb::Post {
                    self.verb_text = self.keep(value);
                }
                return;
            }
            Class::Path(method) => {
                self.pseudo(PATH);
                self.method = method;
                if method.is_none() {
                    self.path_text = self.keep(value);
                }
                return;
            }
            Class::Scheme => return self.pseudo(SCHEME),
            Class::Authority => return self.pseudo(AUTHORITY),
            Class::Status(_) => self.malformed = true,
            Class::ContentType(Some(kind)) => self.content_type = Some(kind),
            Class::ContentType(None) => self.type_text = self.keep(value),
            Class::ContentLength(bytes) => {
                self.malformed |= self.content_length.is_some_and(|other| other != bytes);
                self.content_length = Some(bytes);
            }
            Class::Host => self.hosts = self.hosts.saturating_add(1),
            Class::Timeout(timeout) => {
                self.timeout = Some(timeout);
                if !matches!(timeout, Timeout::Ms(_)) {
                    self.timeout_text = self.keep(value);
                }
            }
            Class::Encoding(encoding) => {
                self.encoding = encoding;
                if encoding == Encoding::Unknown {
                    self.encoding_text = self.keep(value);
                }
            }
            Class::HasLeader(yes) => self.has_leader = self.has_leader.or(Some(yes)),
            Class::Token if self.token.is_none() => self.token = Some(self.keep(value)),
            Class::Authorization if self.authorization.is_none() => {
                self.authorization = Some(self.keep(value));
            }
            Class::ClientApiVersion if self.version.is_none() => self.version = Some(self.keep(value)),
            Class::BadBinary if self.bad_binary.is_none() => {
                self.bad_binary = Some((self.keep(name), self.keep(value)));
            }
            Class::Malformed => self.malformed = true,
            Class::Token
            | Class::Authorization
            | Class::ClientApiVersion
            | Class::BadBinary
            | Class::GrpcStatus(_)
            | Class::GrpcMessage
            | Class::Other => {}
        }
        self.regular = true;
    }

    /// Trailers of a request: no pseudo-header fields.
    pub(crate) fn is_valid_trailer(&self) -> bool {
        !self.malformed && self.pseudo == 0 && self.list_bytes <= self.limit_bytes
    }

    pub(crate) fn verdict(&self, methods: &Methods) -> Verdict {
        if self.list_bytes > self.limit_bytes {
            return Verdict::TooLarge;
        }
        let required = if self.verb == Some(Verb::Connect) { METHOD } else { METHOD | PATH | SCHEME };
        if self.malformed || self.pseudo & required != required {
            return Verdict::Malformed;
        }
        if self.hosts > 1 {
            let authorities = u8::from(self.pseudo & AUTHORITY != 0);
            let text = format!(
                "num values of :authority: {authorities}, num values of host: {}, both must only have 1 value as per \
                 HTTP/2 spec",
                self.hosts
            );
            return Verdict::Abort(400, code::INTERNAL, text);
        }
        if self.content_type.is_none() {
            return Verdict::Plain;
        }
        self.judge_call(methods)
    }

    #[inline]
    fn judge_call(&self, methods: &Methods) -> Verdict {
        let in_order = matches!(self.timeout, None | Some(Timeout::Ms(1..)))
            && self.verb == Some(Verb::Post)
            && self.method.is_some()
            && self.encoding != Encoding::Unknown
            && self.bad_binary.is_none();
        if in_order { Verdict::Call } else { self.refuse_call(methods) }
    }

    #[cold]
    fn refuse_call(&self, methods: &Methods) -> Verdict {
        if let Some((name, value)) = self.bad_binary {
            let text = self.text(value);
            let alphabet = |b: &u8| b.is_ascii_alphanumeric() || *b == b'+' || *b == b'/';
            let at = text.iter().position(|b| !alphabet(b)).unwrap_or(text.len());
            let text = format!(
                "malformed binary metadata {} in header {}: illegal base64 data at input byte {at}",
                grpc::quote(text),
                grpc::quote(self.text(name))
            );
            return Verdict::Abort(400, code::INTERNAL, text);
        }
        if let Some(timeout) = self.timeout
            && !matches!(timeout, Timeout::Ms(_))
        {
            let text = timeout.complaint(self.text(self.timeout_text));
            return Verdict::Abort(400, code::INTERNAL, text);
        }
        if self.verb != Some(Verb::Post) {
            let verb = grpc::quote(self.text(self.verb_text));
            let text = format!("Received a HEADERS frame with :method {verb} which should be POST");
            return Verdict::Abort(405, code::INTERNAL, text);
        }
        if self.timeout == Some(Timeout::Ms(0)) {
            return Verdict::Abort(200, code::DEADLINE_EXCEEDED, "context deadline exceeded".into());
        }
        if self.method.is_none() {
            let text = grpc::unknown_method(self.text(self.path_text), methods);
            return Verdict::Abort(200, code::UNIMPLEMENTED, text);
        }
        let encoding = grpc::quote(self.text(self.encoding_text));
        let text = format!("grpc: Decompressor is not installed for grpc-encoding {encoding}");
        Verdict::Abort(200, code::UNIMPLEMENTED, text)
    }

    /// What grpc-go says to a request that isn't gRPC.
    pub(crate) fn refuse_plain(&self) -> Ending {
        let kind = grpc::quote(self.text(self.type_text));
        let text = format!("invalid gRPC request content-type {kind}");
        Ending::Refusal(415, code::INVALID_ARGUMENT, text.into())
    }

    /// After `Verdict::Call`.
    pub(crate) fn call(&self) -> CallHead<'_> {
        CallHead {
            method: self.method.expect("judged to be a call"),
            timeout_ms: match self.timeout {
                Some(Timeout::Ms(ms)) => Some(ms),
                _ => None,
            },
            has_leader: self.has_leader == Some(true),
            token: self.token.or(self.authorization).map(|span| self.text(span)),
            client_api_version: self.version.map(|span| self.text(span)),
        }
    }

    /// After `Verdict::Plain`.
    pub(crate) fn plain(&self, methods: &Methods, ended: bool) -> PlainHead<'_> {
        PlainHead {
            method: if self.verb == Some(Verb::Post) { b"POST" } else { self.text(self.verb_text) },
            path: match self.method {
                Some(method) => methods.path(method).as_bytes(),
                None => self.text(self.path_text),
            },
            authorization: self.authorization.map(|span| self.text(span)),
            ended,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::Name;

    fn head(fields: &[(&str, &str)]) -> (Head, Verdict) {
        let methods = Methods::new(&["/s.S/M"]);
        let mut head = Head::new(1000);
        for (name, value) in fields {
            let (name, value) = (name.as_bytes(), value.as_bytes());
            head.field(Class::of(Name::of(name), name, value, Some(&methods)), name, value);
        }
        let verdict = head.verdict(&methods);
        (head, verdict)
    }

    const GOOD: [(&str, &str); 4] =
        [(":method", "POST"), (":scheme", "http"), (":path", "/s.S/M"), ("content-type", "application/grpc")];

    fn with(extra: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
        GOOD.iter().chain(extra).copied().collect()
    }

    fn abort(fields: &[(&str, &str)]) -> (u16, u8, String) {
        match head(fields).1 {
            Verdict::Abort(http, code, text) => (http, code, text),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_call_carries_its_metadata_and_the_first_value_counts() {
        let fields = with(&[
            ("te", "trailers"),
            ("grpc-timeout", "1500m"),
            ("authorization", "b"),
            ("hasleader", "true"),
            ("hasleader", "false"),
            ("client-api-version", "3.7"),
        ]);
        let (parsed, verdict) = head(&fields);
        assert_eq!(verdict, Verdict::Call);
        let call = parsed.call();
        assert_eq!((call.method, call.timeout_ms, call.has_leader), (0, Some(1500), true));
        assert_eq!((call.token, call.client_api_version), (Some(&b"b"[..]), Some(&b"3.7"[..])));
        let fields = with(&[("authorization", "b"), ("token", "t"), ("token", "u")]);
        assert_eq!(head(&fields).0.call().token, Some(&b"t"[..]));
        assert_eq!(head(&GOOD).0.call().token, None);
    }

    #[test]
    fn what_breaks_the_rfc_is_malformed() {
        let malformed = |fields: &[(&str, &str)]| head(fields).1 == Verdict::Malformed;
        for missing in 0..3 {
            let fields: Vec<_> = GOOD.iter().copied().enumerate().filter(|(i, _)| *i != missing).collect();
            assert!(malformed(&fields.iter().map(|(_, f)| *f).collect::<Vec<_>>()), "{missing}");
        }
        assert!(malformed(&with(&[(":authority", "x")])), "a pseudo-header after a regular one");
        let twice: Vec<_> = [GOOD[0]].into_iter().chain(GOOD).collect();
        assert!(malformed(&twice), "a pseudo-header twice");
        assert!(malformed(&with(&[("connection", "close")])));
        assert!(malformed(&with(&[("content-length", "1"), ("content-length", "2")])));
        assert!(!malformed(&GOOD));
    }

    #[test]
    fn refusals_are_grpc_go_s() {
        let (http, code, text) = abort(&with(&[("grpc-timeout", "zz")]));
        assert_eq!((http, code), (400, 13));
        assert_eq!(text, "malformed grpc-timeout: transport: timeout unit is not recognized: \"zz\"");
        assert_eq!(abort(&with(&[("grpc-timeout", "0n")])), (200, 4, "context deadline exceeded".into()));
        let mut get = GOOD;
        get[0].1 = "GET";
        let text = "Received a HEADERS frame with :method \"GET\" which should be POST";
        assert_eq!(abort(&get), (405, 13, text.into()));
        let mut unknown = GOOD;
        unknown[2].1 = "/s.S/N";
        assert_eq!(abort(&unknown), (200, 12, "unknown method N for service s.S".into()));
        let text = "grpc: Decompressor is not installed for grpc-encoding \"snappy\"";
        assert_eq!(abort(&with(&[("grpc-encoding", "snappy")])), (200, 12, text.into()));
        assert_eq!(head(&with(&[("grpc-encoding", "gzip")])).1, Verdict::Call);
        assert_eq!(abort(&with(&[("host", "a"), ("host", "b")])).0, 400);
        assert_eq!(abort(&with(&[("k-bin", "*")])).0, 400);
        let mut json = GOOD;
        json[3].1 = "application/json";
        let (parsed, verdict) = head(&json);
        assert_eq!(verdict, Verdict::Plain);
        let text = "invalid gRPC request content-type \"application/json\"";
        assert_eq!(parsed.refuse_plain(), Ending::Refusal(415, 3, text.into()));
    }

    #[test]
    fn an_oversize_list_is_told_apart_and_not_kept() {
        let large = "x".repeat(400);
        let fields: Vec<(&str, &str)> = GOOD
            .iter()
            .copied()
            .chain([("token", &*large), ("token", &*large), ("token", &*large)])
            .collect();
        let (parsed, verdict) = head(&fields);
        assert_eq!(verdict, Verdict::TooLarge);
        assert!(parsed.texts.len() <= 1000);
    }
}
