//! What a client speaks, from its first bytes: one port serves gRPC, HTTP/1.1 and TLS.

use crate::frame::PREFACE;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sniff {
    /// Not enough bytes to tell; look again with more.
    NeedMore,
    /// The HTTP/2 connection preface, with prior knowledge.
    Http2,
    Http1,
    /// A TLS handshake record.
    Tls,
    /// None of these: close the socket.
    Garbage,
}

/// The longest HTTP/1 method we wait for, bytes.
const METHOD_BYTES: usize = 24;
/// The longest request line we wait for, bytes; one that is longer is left to the HTTP/1 server to judge.
const LINE_BYTES: usize = 4096;

/// Looks at all bytes received so far.
pub fn sniff(bytes: &[u8]) -> Sniff {
    let common = bytes.len().min(PREFACE.len());
    if bytes[..common] == PREFACE[..common] {
        return if common == PREFACE.len() { Sniff::Http2 } else { Sniff::NeedMore };
    }
    match bytes {
        // Record type handshake, version 3.0 to 3.4.
        [0x16, 0x03, 0x00..=0x04, ..] => return Sniff::Tls,
        [0x16] | [0x16, 0x03] => return Sniff::NeedMore,
        _ => {}
    }
    // A method is a token; those in use are capital letters, some with a hyphen.
    let is_method = |b: &u8| b.is_ascii_uppercase() || *b == b'-';
    let method = bytes.iter().take_while(|b| is_method(b)).count();
    match bytes.get(method) {
        Some(b' ') if (1..=METHOD_BYTES).contains(&method) => request_line(bytes),
        None if method <= METHOD_BYTES => Sniff::NeedMore,
        _ => Sniff::Garbage,
    }
}

/// Whether a line that begins like a request ends like one: others get no answer, as from etcd.
fn request_line(bytes: &[u8]) -> Sniff {
    let head = &bytes[..bytes.len().min(LINE_BYTES)];
    let Some(end) = head.iter().position(|&b| b == b'\n') else {
        return if bytes.len() < LINE_BYTES { Sniff::NeedMore } else { Sniff::Http1 };
    };
    let line = head[..end].strip_suffix(b"\r").unwrap_or(&head[..end]);
    let version = line.rsplit(|&b| b == b' ').next().unwrap_or_default();
    if version.starts_with(b"HTTP/1.") { Sniff::Http1 } else { Sniff::Garbage }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_tell_and_prefixes_wait() {
        assert_eq!(sniff(PREFACE), Sniff::Http2);
        for n in 0..PREFACE.len() {
            assert_eq!(sniff(&PREFACE[..n]), Sniff::NeedMore, "{n}");
        }
        assert_eq!(sniff(b"PRI * HTTP/2.0\r\n\r\nXX"), Sniff::Garbage, "version 2 begins with its preface");
        let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(5000));
        for request in [
            "GET / HTTP/1.1\r\n",
            "POST /v3/kv/range HTTP/1.0\nHost: a",
            "M-SEARCH * HTTP/1.1\r\n\r\n",
            &long,
        ] {
            assert_eq!(sniff(request.as_bytes()), Sniff::Http1);
            for end in 1..request.find('\n').unwrap_or(0).min(4096) {
                assert_eq!(sniff(&request.as_bytes()[..end]), Sniff::NeedMore, "{:?}", &request[..end]);
            }
        }
        for line in ["INVALID CONNECTION PREFACE\r\n\r\n", "GET /\r\n", "GET / HTTP/2.0\r\n", "GET  \n"] {
            assert_eq!(sniff(line.as_bytes()), Sniff::Garbage);
        }
        assert_eq!(sniff(b"GE"), Sniff::NeedMore);
        assert_eq!(sniff(b"P"), Sniff::NeedMore);
        assert_eq!(sniff(&[0x16, 0x03, 0x01, 0x02]), Sniff::Tls);
        assert_eq!(sniff(&[0x16, 0x03]), Sniff::NeedMore);
        // However many bytes came at once.
        for garbage in [
            &b"\0"[..],
            b" GET",
            b"get / ",
            b"SSH-2.0-x",
            &[0x16, 0x04],
            &[b'A'; 30],
            &[0xff; 3],
            &[&[b'A'; 30][..], b" / HTTP/1.1\r\n"].concat(),
        ] {
            assert_eq!(sniff(garbage), Sniff::Garbage, "{garbage:?}");
        }
    }
}
