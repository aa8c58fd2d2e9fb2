//! Header fields by meaning: a field is classified once, and everything after that matches on the class.
//!
//! A class says all that the server needs of a field; texts are kept only where they are needed (tokens, unknown paths).
//! Validity (RFC 9113 section 8.2) is part of the class. Deliberately lenient, as grpc-go is: spaces around a value pass.

use std::sync::LazyLock;

use crate::grpc::{self, Timeout};
use crate::hpack::encoder::ContentType;
use crate::hpack::static_table::STATIC_TABLE;
use crate::methods::{MethodIndex, Methods};

/// A field's name, as far as anyone cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Method,
    Path,
    Scheme,
    Authority,
    Status,
    UnknownPseudo,
    ContentType,
    ContentLength,
    Te,
    Host,
    /// `connection` and its kin, which HTTP/2 forbids.
    ConnectionSpecific,
    GrpcTimeout,
    GrpcEncoding,
    GrpcStatus,
    GrpcMessage,
    HasLeader,
    Token,
    Authorization,
    ClientApiVersion,
    /// Ends in `-bin`: base64.
    Binary,
    /// Not a token in lower case.
    Malformed,
    Other,
}

impl Name {
    pub(crate) fn of(name: &[u8]) -> Name {
        match name {
            b":method" => Name::Method,
            b":path" => Name::Path,
            b":scheme" => Name::Scheme,
            b":authority" => Name::Authority,
            b":status" => Name::Status,
            [b':', ..] => Name::UnknownPseudo,
            b"content-type" => Name::ContentType,
            b"content-length" => Name::ContentLength,
            b"te" => Name::Te,
            b"host" => Name::Host,
            b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade" => {
                Name::ConnectionSpecific
            }
            b"grpc-timeout" => Name::GrpcTimeout,
            b"grpc-encoding" => Name::GrpcEncoding,
            b"grpc-status" => Name::GrpcStatus,
            b"grpc-message" => Name::GrpcMessage,
            b"hasleader" => Name::HasLeader,
            b"token" => Name::Token,
            b"authorization" => Name::Authorization,
            b"client-api-version" => Name::ClientApiVersion,
            _ if name.is_empty() || !name.iter().all(|&b| is_name_byte(b)) => Name::Malformed,
            _ if name.ends_with(b"-bin") => Name::Binary,
            _ => Name::Other,
        }
    }

    /// The name of an entry of the static table, by its index.
    pub(crate) fn of_static(index: usize) -> Name {
        STATIC_CLASSES[index - 1].0
    }
}

/// `:method`, as far as answers differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Post,
    Connect,
    Other,
}

/// How the messages of a request may be compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Encoding {
    #[default]
    Identity,
    Gzip,
    Unknown,
}

/// What a field says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Method(Verb),
    /// None: not in the table of methods. Empty paths are malformed.
    Path(Option<MethodIndex>),
    Scheme,
    Authority,
    /// Of an answer; 0 when it isn't a number.
    Status(u16),
    /// None: not a gRPC content-type.
    ContentType(Option<ContentType>),
    ContentLength(u64),
    Host,
    Timeout(Timeout),
    Encoding(Encoding),
    /// Of an answer; 2 (unknown) when it isn't a number.
    GrpcStatus(u8),
    GrpcMessage,
    HasLeader(bool),
    Token,
    Authorization,
    ClientApiVersion,
    /// A `-bin` field that isn't base64.
    BadBinary,
    Malformed,
    Other,
}

impl Class {
    pub(crate) fn of(name: Name, text: &[u8], value: &[u8], methods: Option<&Methods>) -> Class {
        if !value.iter().all(|&b| is_value_byte(b)) {
            return Class::Malformed;
        }
        match name {
            Name::Method => Class::Method(match value {
                b"POST" => Verb::Post,
                b"CONNECT" => Verb::Connect,
                b"" => return Class::Malformed,
                _ => Verb::Other,
            }),
            Name::Path if value.is_empty() => Class::Malformed,
            Name::Path => Class::Path(methods.and_then(|m| m.find(value))),
            Name::Scheme => Class::Scheme,
            Name::Authority => Class::Authority,
            Name::Status => Class::Status(number(value).and_then(|n| n.try_into().ok()).unwrap_or(0)),
            Name::UnknownPseudo | Name::ConnectionSpecific | Name::Malformed => Class::Malformed,
            Name::ContentType => Class::ContentType(grpc::content_type(value)),
            Name::ContentLength => number(value).map_or(Class::Malformed, Class::ContentLength),
            Name::Te if value.eq_ignore_ascii_case(b"trailers") => Class::Other,
            Name::Te => Class::Malformed,
            Name::Host => Class::Host,
            Name::GrpcTimeout => Class::Timeout(Timeout::parse(value)),
            Name::GrpcEncoding => Class::Encoding(match value {
                b"" | b"identity" => Encoding::Identity,
                b"gzip" => Encoding::Gzip,
                _ => Encoding::Unknown,
            }),
            Name::GrpcStatus => Class::GrpcStatus(number(value).and_then(|n| n.try_into().ok()).unwrap_or(2)),
            Name::GrpcMessage => Class::GrpcMessage,
            Name::HasLeader => Class::HasLeader(value == b"true"),
            Name::Token => Class::Token,
            Name::Authorization => Class::Authorization,
            Name::ClientApiVersion => Class::ClientApiVersion,
            Name::Binary if !is_base64(value) => Class::BadBinary,
            Name::Binary | Name::Other => {
                debug_assert!(!text.is_empty());
                Class::Other
            }
        }
    }

    /// The class of an entry of the static table, by its index. None of its paths is ever a method.
    #[inline]
    pub(crate) fn of_static(index: usize) -> Class {
        STATIC_CLASSES[index - 1].1
    }
}

static STATIC_CLASSES: LazyLock<[(Name, Class); 61]> = LazyLock::new(|| {
    STATIC_TABLE.map(|(name, value)| {
        let kind = Name::of(name);
        (kind, Class::of(kind, name, value, None))
    })
});

/// The characters of an HTTP token, without upper case (RFC 9113 section 8.2.1).
fn is_name_byte(b: u8) -> bool {
    matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'!' | b'#' | b'$' | b'%' | b'&' | b'\''
        | b'*' | b'+' | b'^' | b'`' | b'|' | b'~')
}

/// Anything but control characters; a tab passes.
#[inline]
fn is_value_byte(b: u8) -> bool {
    (b >= b' ' && b != 0x7f) || b == b'\t'
}

fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 18 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(text.iter().fold(0, |n, &b| n * 10 + u64::from(b - b'0')))
}

/// Standard base64, padded or not, as metadata carries it.
fn is_base64(text: &[u8]) -> bool {
    let end = text.iter().position(|&b| b == b'=').unwrap_or(text.len());
    let (digits, padding) = text.split_at(end);
    let alphabet = |&b: &u8| b.is_ascii_alphanumeric() || b == b'+' || b == b'/';
    if !digits.iter().all(alphabet) || !padding.iter().all(|&b| b == b'=') || digits.len() % 4 == 1 {
        return false;
    }
    padding.is_empty() || (padding.len() < 3 && text.len().is_multiple_of(4))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(name: &str, value: &[u8]) -> Class {
        Class::of(Name::of(name.as_bytes()), name.as_bytes(), value, None)
    }

    #[test]
    fn names_and_values_of_a_call_are_classified() {
        assert_eq!(class(":method", b"POST"), Class::Method(Verb::Post));
        assert_eq!(class(":path", b"/x"), Class::Path(None));
        assert_eq!(class(":path", b""), Class::Malformed);
        assert_eq!(class("content-type", b"application/grpc"), Class::ContentType(Some(ContentType::Grpc)));
        assert_eq!(class("content-type", b"text/html"), Class::ContentType(None));
        assert_eq!(class("hasleader", b"true"), Class::HasLeader(true));
        assert_eq!(class("hasleader", b"True"), Class::HasLeader(false));
        assert_eq!(class("grpc-encoding", b"identity"), Class::Encoding(Encoding::Identity));
        assert_eq!(class("grpc-encoding", b"gzip"), Class::Encoding(Encoding::Gzip));
        assert_eq!(class("grpc-encoding", b"GZIP"), Class::Encoding(Encoding::Unknown));
        assert_eq!(class("te", b"trailers"), Class::Other);
        assert_eq!(class("te", b"gzip"), Class::Malformed);
        assert_eq!(class("user-agent", b"grpc-go/1.82.1"), Class::Other);
        assert_eq!(class("content-length", b"12"), Class::ContentLength(12));
        assert_eq!(class("content-length", b"-1"), Class::Malformed);
        assert_eq!(class("grpc-status", b"14"), Class::GrpcStatus(14));
        assert_eq!(class("grpc-status", b"400"), Class::GrpcStatus(2));
    }

    #[test]
    fn what_the_rfc_forbids_is_malformed() {
        for (name, value) in [
            ("connection", &b"close"[..]),
            ("upgrade", b"h2c"),
            ("X-Upper", b"a"),
            ("with space", b"a"),
            ("", b"a"),
            (":unknown", b"a"),
            ("x", b"a\rb"),
            ("x", b"a\0b"),
            ("x", b"a\x7f"),
        ] {
            assert_eq!(class(name, value), Class::Malformed, "{name}: {value:?}");
        }
        assert_eq!(class("x", b" spaced\t\xc3\xa9 "), Class::Other);
    }

    #[test]
    fn binary_metadata_must_be_base64() {
        for good in [&b""[..], b"YQ", b"YQ==", b"YWI", b"YWI=", b"YWJj", b"a+/b"] {
            assert_eq!(class("k-bin", good), Class::Other, "{good:?}");
        }
        for bad in [&b"Y"[..], b"YQ=", b"YQ===", b"Y Q=", b"YWJj=", b"a=b="] {
            assert_eq!(class("k-bin", bad), Class::BadBinary, "{bad:?}");
        }
    }

    #[test]
    fn static_entries_have_the_class_of_their_text() {
        assert_eq!(Class::of_static(3), Class::Method(Verb::Post));
        assert_eq!(Class::of_static(8), Class::Status(200));
        assert_eq!(Name::of_static(23), Name::Authorization);
        assert_eq!(Class::of_static(28), Class::Malformed, "an empty content-length");
    }
}
