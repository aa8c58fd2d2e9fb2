//! The log's line for a unary call that took long: etcd's "request stats".
//!
//! Written after the fact, from what the call kept: the beginning of its message, and the count and size of its answer. As
//! in etcd, counts and sizes are told of puts, ranges, deletes and transactions, and -1 of all else (so of a compaction:
//! etcd's line for one says no more), and values are told by their size. Where the meaning differs from etcd's: the content
//! ends where the kept part of the message does ("..."); the size of a transaction is that of all of it, not of the branch
//! that was done; a failed call, and an answer that was sent piece by piece, show -1. Calls that ended in the turn they came
//! in are not told of: turns are bounded.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api::calls::Rpc;
use api::meter::Slow;

use super::request_text::{DELETE_RANGE, PUT, RANGE, TXN, text};
use crate::config::format_duration;

/// A line at warn beyond `limit`, else at debug.
pub fn log(slow: &Slow, remote: &str, limit: Duration) {
    let took = Duration::from_micros(slow.took_us);
    let spent = format_duration(i64::try_from(took.as_nanos()).unwrap_or(i64::MAX));
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(took);
    let start = crate::log::timestamp_of(since.as_micros() as i64);
    let said = stats(slow);
    let method = slow.rpc.path();
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                "start time" = start,
                "time spent" = spent,
                remote,
                "response type" = method,
                "request count" = said.count,
                "request size" = said.bytes,
                "response count" = said.answer_count,
                "response size" = said.answer_bytes,
                "request content" = said.content,
                "request stats"
            )
        };
    }
    if took > limit { line!(warn) } else { line!(debug) }
}

#[derive(Debug, PartialEq, Eq)]
struct Stats {
    count: i64,
    bytes: i64,
    answer_count: i64,
    answer_bytes: i64,
    content: String,
}

fn stats(slow: &Slow) -> Stats {
    let answered = |none: i64| slow.answer.map_or(none, |answer| answer.count as i64);
    let (count, answer_count, fields) = match slow.rpc {
        Rpc::Put => (1, slow.answer.map_or(-1, |_| 0), PUT),
        Rpc::Range => (0, answered(-1), RANGE),
        Rpc::DeleteRange => (0, answered(-1), DELETE_RANGE),
        Rpc::Txn => (answered(-1), slow.answer.map_or(-1, |_| 0), TXN),
        _ => {
            return Stats {
                count: -1,
                bytes: -1,
                answer_count: -1,
                answer_bytes: -1,
                content: String::new(),
            };
        }
    };
    let bytes = slow.request.message_bytes();
    Stats {
        count,
        bytes: bytes as i64,
        answer_count,
        answer_bytes: slow.answer.map_or(-1, |answer| answer.bytes as i64),
        content: text(slow.request.bytes(), bytes, fields),
    }
}
