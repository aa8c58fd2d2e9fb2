//! Replays what etcd 3.7.1 was asked and compares what it answered, byte for byte.
//!
//! The traces were recorded from a running etcd by random requests: puts, deletes, nested transactions, ranges with
//! every option at every revision, streams, watches from the past, physical compactions, HashKV, lease revocations.
//! A line is `operation request answer`: the request as hex of its message, the answer as `=hex`, or, when longer,
//! `#length:crc32c`, or `!code text`. Cluster id, member id and term are cleared.

mod common;

use common::{Member, dump, from_hex};
use mainstay_mvcc as mvcc;
use mvcc::export::{self, Import};
use mvcc::{hash, trees};
use prost::Message;
use proto::Error;
use proto::etcdserverpb as pb;

fn judge<M: Message + Default + std::fmt::Debug>(
    line: usize,
    operation: &str,
    expected: &str,
    answer: Result<M, Error>,
) {
    let got = match &answer {
        Err(error) => format!("!{} {}", error.code as i32, error.message),
        Ok(message) => {
            let bytes = message.encode_to_vec();
            if expected.starts_with('#') {
                format!("#{}:{:08x}", bytes.len(), base::crc32c(&bytes))
            } else {
                format!("={}", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
            }
        }
    };
    if got != expected {
        let full = expected.strip_prefix('=').and_then(|hex| M::decode(from_hex(hex).as_slice()).ok());
        panic!("line {line}: {operation}\n expected {expected}\n {full:?}\n got {got}\n {answer:?}");
    }
}

fn replay(trace: &str) -> Member {
    fn decode<M: Message + Default>(hex: &str) -> M {
        M::decode(from_hex(hex).as_slice()).expect("a recorded request decodes")
    }
    let mut member = Member::new();
    for (line, text) in trace.lines().enumerate() {
        let line = line + 1;
        let mut words = text.splitn(3, ' ');
        let (Some(operation), Some(hex), Some(expected)) = (words.next(), words.next(), words.next()) else {
            panic!("line {line}: three words");
        };
        member.step = 1 + line % 7;
        match operation {
            "put" => judge(line, operation, expected, member.put(&decode(hex))),
            "delete" => judge(line, operation, expected, member.delete(&decode(hex))),
            "txn" => judge(line, operation, expected, member.txn(&decode(hex))),
            "range" => judge(line, operation, expected, member.range(&decode(hex))),
            "stream" => judge(line, operation, expected, member.stream(&decode(hex))),
            "compact" => judge(line, operation, expected, member.compact(&decode(hex))),
            "hashkv" => judge(line, operation, expected, member.hash_kv(&decode(hex))),
            "watch" => judge(line, operation, expected, Ok(member.watch(&decode(hex)))),
            "revoke" => judge(line, operation, expected, member.revoke(&decode(hex))),
            "grant" => judge(line, operation, expected, member.grant(&decode(hex))),
            other => panic!("line {line}: {other}"),
        }
        if line % 50 == 0 {
            member.store.publish();
            member.check();
        }
    }
    member.check();
    member
}

/// What comes out as etcd's bucket goes in again and is the same store.
fn export_and_import(member: &Member) {
    let mut twin = Member::new();
    for (key, value) in dump(member.view(), trees::LEASES) {
        twin.store.insert(trees::LEASES, &key, &value);
    }
    let compacted = member.revisions().compacted;
    let mut import = Import::new(&mut twin.store).expect("an empty store takes an import");
    for pair in export::pairs(member.view()) {
        import.push(pair.key(), &pair.value).expect("an exported pair is sound");
    }
    import.finish(compacted, compacted).expect("sound bounds");
    assert_eq!(twin.revisions(), member.revisions());
    for tree in [trees::LIVE, trees::HISTORY, trees::SUPERSEDED, trees::CHANGES, trees::LEASE_KEYS] {
        assert_eq!(dump(twin.view(), tree), dump(member.view(), tree), "{}", trees::SPECS[tree].name);
    }
    assert_eq!(hash::hash_kv(twin.view(), 0), hash::hash_kv(member.view(), 0));
    twin.check();
}

#[test]
fn many_keys() {
    export_and_import(&replay(include_str!("data/many_keys.trace")));
}

#[test]
fn few_keys() {
    export_and_import(&replay(include_str!("data/few_keys.trace")));
}

/// For longer runs than the repository holds: `MAINSTAY_TRACES` names trace files, separated by colons.
#[test]
fn named_by_the_environment() {
    for file in
        std::env::var("MAINSTAY_TRACES").unwrap_or_default().split(':').filter(|file| !file.is_empty())
    {
        println!("{file}");
        export_and_import(&replay(&std::fs::read_to_string(file).expect("a trace is readable")));
    }
}

#[test]
fn the_answer_to_an_empty_request_list_is_no_write() {
    let mut member = Member::new();
    let before = member.revisions();
    let answer = member.txn(&pb::TxnRequest::default()).expect("an empty transaction");
    assert!(answer.succeeded && answer.responses.is_empty());
    assert_eq!(member.revisions(), before);
}
