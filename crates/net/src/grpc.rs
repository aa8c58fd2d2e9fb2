//! gRPC over HTTP/2: the five-byte prefix, content types, timeouts, and percent-encoded messages, with the texts that
//! grpc-go 1.82 gives where it refuses something.

use crate::hpack::encoder::ContentType;
use crate::methods::{self, Methods};

/// Compressed flag and length in front of a message.
pub const PREFIX_BYTES: usize = 5;
/// Encoded status messages are cut here, bytes: clients accept 8 KiB of headers.
const MESSAGE_BYTES: usize = 6 << 10;

/// The status codes that this layer itself answers with.
pub mod code {
    pub const OK: u8 = 0;
    pub const CANCELLED: u8 = 1;
    pub const UNKNOWN: u8 = 2;
    pub const INVALID_ARGUMENT: u8 = 3;
    pub const DEADLINE_EXCEEDED: u8 = 4;
    pub const RESOURCE_EXHAUSTED: u8 = 8;
    pub const UNIMPLEMENTED: u8 = 12;
    pub const INTERNAL: u8 = 13;
    pub const UNAVAILABLE: u8 = 14;
}

/// Prefix of an uncompressed message.
#[inline]
pub fn prefix(message_bytes: usize) -> [u8; PREFIX_BYTES] {
    let length = u32::try_from(message_bytes).expect("a gRPC message is shorter than 4 GiB").to_be_bytes();
    [0, length[0], length[1], length[2], length[3]]
}

/// A prefix that the server refuses: status code and text.
pub(crate) type Refusal = (u8, String);

/// Checks a message's prefix and returns the message's length on the wire, bytes. `gzip`: it may be compressed.
#[inline]
pub(crate) fn check_prefix(prefix: &[u8], max_bytes: usize, gzip: bool) -> Result<usize, Refusal> {
    let length = crate::frame::be32(&prefix[1..]) as usize;
    if length > max_bytes || (prefix[0] != 0 && !(prefix[0] == 1 && gzip)) {
        return Err(refuse_prefix(prefix[0], length, max_bytes));
    }
    Ok(length)
}

#[cold]
fn refuse_prefix(compressed: u8, length: usize, max_bytes: usize) -> Refusal {
    if length > max_bytes {
        let text = format!("grpc: received message larger than max ({length} vs. {max_bytes})");
        return (code::RESOURCE_EXHAUSTED, text);
    }
    let text = match compressed {
        1 => "grpc: compressed flag set with identity or empty encoding".to_string(),
        other => format!("grpc: received unexpected payload format {other}"),
    };
    (code::INTERNAL, text)
}

/// `application/grpc`, alone or with a subtype after `+` or `;`; the server reads all of them as protobuf, as grpc-go
/// does for subtypes it has no codec for.
pub(crate) fn content_type(value: &[u8]) -> Option<ContentType> {
    match value.strip_prefix(b"application/grpc")? {
        b"+proto" | b";proto" => Some(ContentType::GrpcProto),
        [] | [b'+' | b';', ..] => Some(ContentType::Grpc),
        _ => None,
    }
}

/// A `grpc-timeout`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timeout {
    /// Rounded up; 0 only for a timeout of nothing.
    Ms(u64),
    TooShort,
    TooLong,
    BadUnit,
    BadNumber,
}

impl Timeout {
    pub(crate) fn parse(text: &[u8]) -> Timeout {
        let (digits, unit) = match text {
            [] | [_] => return Timeout::TooShort,
            _ if text.len() > 9 => return Timeout::TooLong,
            [digits @ .., unit] => (digits, unit),
        };
        let (multiple, divisor) = match unit {
            b'H' => (3_600_000, 1),
            b'M' => (60_000, 1),
            b'S' => (1000, 1),
            b'm' => (1, 1),
            b'u' => (1, 1000),
            b'n' => (1, 1_000_000),
            _ => return Timeout::BadUnit,
        };
        if !digits.iter().all(u8::is_ascii_digit) {
            return Timeout::BadNumber;
        }
        let number = digits.iter().fold(0u64, |n, b| n * 10 + u64::from(b - b'0'));
        Timeout::Ms((number * multiple).div_ceil(divisor))
    }

    /// What grpc-go says of a timeout that isn't one.
    pub(crate) fn complaint(self, text: &[u8]) -> String {
        let what = match self {
            Timeout::Ms(_) => return String::new(),
            Timeout::TooShort => format!("transport: timeout string is too short: {}", quote(text)),
            Timeout::TooLong => format!("transport: timeout string is too long: {}", quote(text)),
            Timeout::BadUnit => format!("transport: timeout unit is not recognized: {}", quote(text)),
            Timeout::BadNumber => {
                format!("strconv.ParseUint: parsing {}: invalid syntax", quote(&text[..text.len() - 1]))
            }
        };
        format!("malformed grpc-timeout: {what}")
    }
}

/// Why a path isn't served.
pub(crate) fn unknown_method(path: &[u8], methods: &Methods) -> String {
    let text = String::from_utf8_lossy(path);
    match methods::split(&text) {
        None => format!("malformed method name: {}", quote(path)),
        Some((service, method)) if methods.knows_service(service) => {
            format!("unknown method {method} for service {service}")
        }
        Some((service, _)) => format!("unknown service {service}"),
    }
}

/// A text in double quotes with escapes, as Go's `%q` writes it.
pub(crate) fn quote(text: &[u8]) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' | '\\' => out.extend(['\\', c]),
                '\x07' => out.push_str("\\a"),
                '\x08' => out.push_str("\\b"),
                '\x0c' => out.push_str("\\f"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\x0b' => out.push_str("\\v"),
                c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
                c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
                c => out.push(c),
            }
        }
        for b in chunk.invalid() {
            out.push_str(&format!("\\x{b:02x}"));
        }
    }
    out.push('"');
    out
}

/// Appends `message` as `grpc-message` carries it: printable ASCII but for `%`, the rest as `%XX` (gRPC's protocol
/// description). Cut, at a character, where it would be too long for a header.
pub(crate) fn percent_encode(message: &str, out: &mut Vec<u8>) {
    let limit = out.len() + MESSAGE_BYTES;
    let mut utf8 = [0; 4];
    for c in message.chars() {
        if out.len() + 12 > limit {
            return;
        }
        if (' '..='~').contains(&c) && c != '%' {
            out.push(c as u8);
            continue;
        }
        for b in c.encode_utf8(&mut utf8).bytes() {
            const HEX: &[u8; 16] = b"0123456789ABCDEF";
            out.extend_from_slice(&[b'%', HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]);
        }
    }
}

/// Reads a `grpc-message`; what isn't a valid escape stays as it is.
pub fn percent_decode(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&b, tail)) = rest.split_first() {
        let digit = |i: usize| tail.get(i).and_then(|&d| char::from(d).to_digit(16));
        match (b, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high << 4 | low) as u8);
                rest = &tail[2..];
            }
            _ => {
                out.push(b);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_of_every_unit_round_up_to_milliseconds() {
        let ms = |text: &str| Timeout::parse(text.as_bytes());
        assert_eq!(ms("2S"), Timeout::Ms(2000));
        assert_eq!(ms("99999999H"), Timeout::Ms(99_999_999 * 3_600_000));
        assert_eq!(ms("3M"), Timeout::Ms(180_000));
        assert_eq!(ms("1999987u"), Timeout::Ms(2000));
        assert_eq!(ms("1n"), Timeout::Ms(1));
        assert_eq!(ms("0m"), Timeout::Ms(0));
        assert_eq!(ms("5"), Timeout::TooShort);
        assert_eq!(ms("123456789S"), Timeout::TooLong);
        assert_eq!(ms("12s"), Timeout::BadUnit);
        assert_eq!(ms("-1S"), Timeout::BadNumber);
        let text = ms("1xS").complaint(b"1xS");
        assert_eq!(text, "malformed grpc-timeout: strconv.ParseUint: parsing \"1x\": invalid syntax");
        let text = ms("5s").complaint(b"5s");
        assert_eq!(text, "malformed grpc-timeout: transport: timeout unit is not recognized: \"5s\"");
    }

    #[test]
    fn refused_prefixes_have_grpc_go_s_words() {
        assert_eq!(check_prefix(&[0, 0, 0, 1, 0], 256, false), Ok(256));
        assert_eq!(check_prefix(&[1, 0, 0, 1, 0], 256, true), Ok(256));
        let (code, text) = check_prefix(&[0, 0, 0, 1, 1], 256, false).unwrap_err();
        assert_eq!((code, text.as_str()), (8, "grpc: received message larger than max (257 vs. 256)"));
        let (code, text) = check_prefix(&[1, 0, 0, 0, 1], 256, false).unwrap_err();
        assert_eq!((code, text.as_str()), (13, "grpc: compressed flag set with identity or empty encoding"));
        let (code, text) = check_prefix(&[7, 0, 0, 0, 1], 256, true).unwrap_err();
        assert_eq!((code, text.as_str()), (13, "grpc: received unexpected payload format 7"));
    }

    #[test]
    fn unknown_paths_have_grpc_go_s_words() {
        let methods = Methods::new(&["/etcdserverpb.KV/Range"]);
        assert_eq!(unknown_method(b"/a.B/C", &methods), "unknown service a.B");
        let text = unknown_method(b"/etcdserverpb.KV/X", &methods);
        assert_eq!(text, "unknown method X for service etcdserverpb.KV");
        assert_eq!(unknown_method(b"a/b", &methods), "malformed method name: \"a/b\"");
        assert_eq!(unknown_method(b"/a\"\n", &methods), r#"malformed method name: "/a\"\n""#);
    }

    #[test]
    fn content_types_follow_grpc_go() {
        assert_eq!(content_type(b"application/grpc"), Some(ContentType::Grpc));
        assert_eq!(content_type(b"application/grpc+proto"), Some(ContentType::GrpcProto));
        assert_eq!(content_type(b"application/grpc;charset=x"), Some(ContentType::Grpc));
        assert_eq!(content_type(b"application/grpc-web"), None);
        assert_eq!(content_type(b"application/json"), None);
    }

    #[test]
    fn messages_survive_percent_coding() {
        for text in
            ["", "etcdserver: no leader", "100 %", "line\nbreak", "\u{e9}\u{20ac}\u{1f600}", "\0\x7f~"]
        {
            let mut out = Vec::new();
            percent_encode(text, &mut out);
            assert!(out.iter().all(|b| (b' '..=b'~').contains(b)));
            assert_eq!(percent_decode(&out), text);
        }
        let mut out = Vec::new();
        percent_encode("a%b\u{e9}", &mut out);
        assert_eq!(out, b"a%25b%C3%A9");
        assert_eq!(percent_decode(b"50% off %4"), "50% off %4");
        out.clear();
        percent_encode(&"\u{e9}".repeat(10_000), &mut out);
        assert!(out.len() <= MESSAGE_BYTES && out.len() % 6 == 0);
    }
}
