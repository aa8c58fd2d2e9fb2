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
        Some(b' ') if method > 0 => Sniff::Http1,
        None if method <= METHOD_BYTES => Sniff::NeedMore,
        _ => Sniff::Garbage,
    }
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
        assert_eq!(sniff(b"PRI * HTTP/2.0\r\n\r\nXX"), Sniff::Http1, "a method, though nobody's");
        for request in ["GET / HTTP/1.1\r\n", "POST /v3/kv/range HTTP/1.1", "M-SEARCH * HTTP/1.1", "PUT "] {
            assert_eq!(sniff(request.as_bytes()), Sniff::Http1);
        }
        assert_eq!(sniff(b"GE"), Sniff::NeedMore);
        assert_eq!(sniff(b"P"), Sniff::NeedMore);
        assert_eq!(sniff(&[0x16, 0x03, 0x01, 0x02]), Sniff::Tls);
        assert_eq!(sniff(&[0x16, 0x03]), Sniff::NeedMore);
        for garbage in [&b"\0"[..], b" GET", b"get / ", b"SSH-2.0-x", &[0x16, 0x04], &[b'A'; 30], &[0xff; 3]]
        {
            assert_eq!(sniff(garbage), Sniff::Garbage, "{garbage:?}");
        }
    }
}
