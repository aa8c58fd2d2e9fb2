//! The log's line for a unary call that took long: etcd's "request stats".
//!
//! Written after the fact, from what the call kept: the beginning of its message. What was not kept (how much was
//! answered) shows as -1, which is what etcd shows for methods that it knows nothing of. Calls that ended in the turn
//! they came in are not told of: turns are bounded.

use std::time::Duration;

use api::calls::Rpc;
use api::meter::Slow;

use crate::config::format_duration;

/// A line at warn beyond `limit`, else at debug.
pub fn log(slow: &Slow, remote: &str, limit: Duration) {
    let took = Duration::from_micros(slow.took_us);
    let spent = format_duration(i64::try_from(took.as_nanos()).unwrap_or(i64::MAX));
    let size = slow.request.message_bytes() as i64;
    let (count, size, key) = match slow.rpc {
        Rpc::Put => (1, size, key(slow.request.bytes())),
        Rpc::Range | Rpc::DeleteRange => (0, size, key(slow.request.bytes())),
        Rpc::Txn => (-1, size, None),
        _ => (-1, -1, None),
    };
    let content = key.map_or(String::new(), |key| format!("key:\"{}\"", key.escape_ascii()));
    let method = slow.rpc.path();
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                "time spent" = spent,
                remote,
                "response type" = method,
                "request count" = count,
                "request size" = size,
                "response count" = -1,
                "response size" = -1,
                "request content" = content,
                "request stats"
            )
        };
    }
    if took > limit { line!(warn) } else { line!(debug) }
}

/// Field 1 of the message, as far as it was kept.
fn key(message: &[u8]) -> Option<&[u8]> {
    let rest = message.strip_prefix(&[0x0a])?;
    let mut length = 0usize;
    for (at, byte) in rest.iter().enumerate().take(5) {
        length |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            let key = &rest[at + 1..];
            return Some(&key[..length.min(key.len())]);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_messages() {
        assert_eq!(key(b"\x0a\x03abc\x12\x01v"), Some(&b"abc"[..]));
        assert_eq!(key(b"\x0a\xac\x02abc"), Some(&b"abc"[..]), "cut at what was kept");
        for odd in [&b""[..], b"\x0a", b"\x12\x01v", b"\x0a\xff\xff\xff\xff\xff\x01a"] {
            assert_eq!(key(odd), None);
        }
    }
}
