//! Where etcd surprises, as text: requests in, answers out. Every section of `data/traps.txt` is a fresh store.
//!
//! A line without a mark is a request, `=` begins the answer expected of it, `#` a comment, `==` a section. All
//! sections but those marked `!` gave the same answers when they were played to etcd 3.7.1: with `MAINSTAY_DUMP`
//! naming a directory the requests are written there, in the form that `recorded.rs` reads.

mod common;

use std::fmt::Write as _;
use std::iter::Peekable;
use std::str::SplitWhitespace;

use common::Member;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::request_op::Request;
use pb::response_op::Response;
use prost::Message;
use proto::etcdserverpb as pb;
use proto::mvccpb::KeyValue;
use proto::{Code, Error};

type Words<'w> = Peekable<SplitWhitespace<'w>>;

fn bytes(word: &str) -> Vec<u8> {
    match word {
        "-" => Vec::new(),
        word => word.replace("\\0", "\0").into_bytes(),
    }
}

fn number(word: &str) -> i64 {
    word.parse().unwrap_or_else(|_| panic!("{word} is a number"))
}

/// The next word, when the operation has not ended.
fn more<'w>(words: &mut Words<'w>) -> Option<&'w str> {
    words.next_if(|word| !matches!(*word, ";" | "}" | "else"))
}

fn expect<'w>(words: &mut Words<'w>) -> &'w str {
    words.next().expect("the request goes on")
}

fn put(words: &mut Words<'_>) -> pb::PutRequest {
    let mut request = pb::PutRequest { key: bytes(expect(words)), ..Default::default() };
    while let Some(word) = more(words) {
        match word.split_once(':') {
            Some(("lease", id)) => request.lease = number(id),
            _ => match word {
                "prev" => request.prev_kv = true,
                "keep-value" => request.ignore_value = true,
                "keep-lease" => request.ignore_lease = true,
                value => request.value = bytes(value),
            },
        }
    }
    request
}

fn delete(words: &mut Words<'_>) -> pb::DeleteRangeRequest {
    let mut request = pb::DeleteRangeRequest { key: bytes(expect(words)), ..Default::default() };
    while let Some(word) = more(words) {
        match word {
            "prev" => request.prev_kv = true,
            end => request.range_end = bytes(end),
        }
    }
    request
}

fn range(words: &mut Words<'_>) -> pb::RangeRequest {
    let mut request = pb::RangeRequest { key: bytes(expect(words)), ..Default::default() };
    while let Some(word) = more(words) {
        match word.split_once(':') {
            Some(("rev", n)) => request.revision = number(n),
            Some(("limit", n)) => request.limit = number(n),
            Some(("minmod", n)) => request.min_mod_revision = number(n),
            Some(("maxmod", n)) => request.max_mod_revision = number(n),
            Some(("mincreate", n)) => request.min_create_revision = number(n),
            Some(("maxcreate", n)) => request.max_create_revision = number(n),
            Some(("by", target)) => {
                request.sort_target = pb::range_request::SortTarget::from_str_name(&target.to_uppercase())
                    .expect("a target") as i32;
            }
            _ => match word {
                "asc" => request.sort_order = 1,
                "desc" => request.sort_order = 2,
                "keys" => request.keys_only = true,
                "count" => request.count_only = true,
                end => request.range_end = bytes(end),
            },
        }
    }
    request
}

fn compare(words: &mut Words<'_>) -> pb::Compare {
    let (target, key) = (expect(words), bytes(expect(words)));
    let mut range_end = Vec::new();
    let mut sign = expect(words);
    if !matches!(sign, "=" | "!=" | "<" | ">") {
        range_end = bytes(sign);
        sign = expect(words);
    }
    let operand = expect(words);
    let result = match sign {
        "=" => CompareResult::Equal,
        "!=" => CompareResult::NotEqual,
        "<" => CompareResult::Less,
        _ => CompareResult::Greater,
    };
    let (target, union) = match target {
        "value" => (CompareTarget::Value, TargetUnion::Value(bytes(operand))),
        "version" => (CompareTarget::Version, TargetUnion::Version(number(operand))),
        "create" => (CompareTarget::Create, TargetUnion::CreateRevision(number(operand))),
        "mod" => (CompareTarget::Mod, TargetUnion::ModRevision(number(operand))),
        "lease" => (CompareTarget::Lease, TargetUnion::Lease(number(operand))),
        other => panic!("{other} is no target"),
    };
    let (result, target) = (result as i32, target as i32);
    pb::Compare { result, target, key, range_end, target_union: Some(union) }
}

/// `{ if compare , compare then op ; op else op }`, every part optional.
fn txn(words: &mut Words<'_>) -> pb::TxnRequest {
    assert_eq!(expect(words), "{");
    let mut request = pb::TxnRequest::default();
    let mut failure = false;
    loop {
        match expect(words) {
            "}" => return request,
            "if" | "," => request.compare.push(compare(words)),
            "then" | ";" => {}
            "else" => failure = true,
            word => {
                let op = match word {
                    "put" => Request::RequestPut(put(words)),
                    "del" => Request::RequestDeleteRange(delete(words)),
                    "get" => Request::RequestRange(range(words)),
                    "txn" => Request::RequestTxn(txn(words)),
                    other => panic!("{other} is no operation"),
                };
                let branch = if failure { &mut request.failure } else { &mut request.success };
                branch.push(pb::RequestOp { request: Some(op) });
            }
        }
    }
}

fn pair(kv: &KeyValue) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace('\0', "\\0");
    let mut out = format!("{}={}", text(&kv.key), text(&kv.value));
    let numbers = [('c', kv.create_revision), ('m', kv.mod_revision), ('v', kv.version), ('l', kv.lease)];
    for (name, value) in numbers.into_iter().filter(|(_, value)| *value != 0) {
        let _ = write!(out, "/{name}{value}");
    }
    out
}

fn pairs(kvs: &[KeyValue]) -> String {
    kvs.iter().map(|kv| format!(" {}", pair(kv))).collect()
}

fn revision(header: &Option<pb::ResponseHeader>) -> i64 {
    header.as_ref().expect("a header is there").revision
}

fn say_put(answer: &pb::PutResponse) -> String {
    let prev = answer.prev_kv.as_ref().map(|kv| format!(" was {}", pair(kv))).unwrap_or_default();
    format!("rev {}{prev}", revision(&answer.header))
}

fn say_delete(answer: &pb::DeleteRangeResponse) -> String {
    format!("rev {} deleted {}{}", revision(&answer.header), answer.deleted, pairs(&answer.prev_kvs))
}

fn say_range(answer: &pb::RangeResponse) -> String {
    let more = if answer.more { " more" } else { "" };
    format!("rev {} count {}{more}{}", revision(&answer.header), answer.count, pairs(&answer.kvs))
}

fn say_txn(answer: &pb::TxnResponse) -> String {
    let mut out =
        format!("rev {} {}", revision(&answer.header), if answer.succeeded { "then" } else { "else" });
    for op in &answer.responses {
        let said = match op.response.as_ref().expect("every operation is answered") {
            Response::ResponsePut(answer) => say_put(answer),
            Response::ResponseDeleteRange(answer) => say_delete(answer),
            Response::ResponseRange(answer) => say_range(answer),
            Response::ResponseTxn(answer) => say_txn(answer),
        };
        let _ = write!(out, " [{said}]");
    }
    out
}

fn say<A>(answer: Result<A, Error>, words: impl Fn(&A) -> String) -> String {
    match answer {
        Ok(answer) => words(&answer),
        Err(Error { code, message }) => format!("error {code:?} {message}"),
    }
}

/// Plays one request; how etcd's recorder names it, its bytes, and what came back.
fn play(member: &mut Member, line: &str) -> (&'static str, Vec<u8>, String) {
    let mut words = line.split_whitespace().peekable();
    let words = &mut words;
    match expect(words) {
        "put" => {
            let request = put(words);
            ("put", request.encode_to_vec(), say(member.put(&request), say_put))
        }
        "del" => {
            let request = delete(words);
            ("delete", request.encode_to_vec(), say(member.delete(&request), say_delete))
        }
        "get" => {
            let request = range(words);
            ("range", request.encode_to_vec(), say(member.range(&request), say_range))
        }
        "stream" => {
            let request = range(words);
            ("stream", request.encode_to_vec(), say(member.stream(&request), say_range))
        }
        "txn" => {
            let request = txn(words);
            ("txn", request.encode_to_vec(), say(member.txn(&request), say_txn))
        }
        "compact" => {
            let request = pb::CompactionRequest { revision: number(expect(words)), physical: true };
            let said = say(member.compact(&request), |answer| format!("rev {}", revision(&answer.header)));
            ("compact", request.encode_to_vec(), said)
        }
        "hashkv" => {
            let request = pb::HashKvRequest { revision: number(expect(words)) };
            let said = say(member.hash_kv(&request), |answer| {
                let pb::HashKvResponse { header, hash, compact_revision, hash_revision } = answer;
                format!("rev {} {hash:08x} compacted {compact_revision} at {hash_revision}", revision(header))
            });
            ("hashkv", request.encode_to_vec(), said)
        }
        "grant" => {
            let request = pb::LeaseGrantRequest { id: number(expect(words)), ttl: 10_000 };
            let said = say(member.grant(&request), |answer| format!("rev {}", revision(&answer.header)));
            ("grant", request.encode_to_vec(), said)
        }
        "revoke" => {
            let request = pb::LeaseRevokeRequest { id: number(expect(words)) };
            let said = say(member.revoke(&request), |answer| format!("rev {}", revision(&answer.header)));
            ("revoke", request.encode_to_vec(), said)
        }
        "watch" => {
            let (key, end) = (bytes(expect(words)), bytes(expect(words)));
            let mut request = pb::WatchCreateRequest { key, range_end: end, ..Default::default() };
            request.start_revision = number(expect(words));
            request.prev_kv = words.next() == Some("prev");
            let answer = member.watch(&request);
            let mut said = match answer.compact_revision {
                0 => String::from("events"),
                compacted => format!("compacted {compacted}"),
            };
            for event in &answer.events {
                let kind = if event.r#type == 0 { "put" } else { "del" };
                let _ = write!(said, " [{kind} {}", pair(event.kv.as_ref().expect("an event has a pair")));
                if let Some(prev) = &event.prev_kv {
                    let _ = write!(said, " was {}", pair(prev));
                }
                said.push(']');
            }
            ("watch", request.encode_to_vec(), said)
        }
        other => panic!("{other} is no request"),
    }
}

#[test]
fn answers_are_those_written_down() {
    let dump = std::env::var("MAINSTAY_DUMP").ok();
    let mut member = Member::new();
    let mut section = String::new();
    let mut said: Option<String> = None;
    let mut dumped = String::new();
    let mut wrong = String::new();
    for (number, line) in include_str!("data/traps.txt").lines().enumerate() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix("== ") {
            assert!(said.is_none(), "line {number}: an answer is missing");
            member.check();
            if let (Some(dir), false) = (&dump, section.is_empty() || section.starts_with('!')) {
                let file = format!("{dir}/{}.requests", section.replace(' ', "_"));
                std::fs::write(file, &dumped).expect("the directory takes files");
            }
            (member, section, dumped) = (Member::new(), name.to_owned(), String::new());
        } else if let Some(expected) = line.strip_prefix("= ") {
            let got = said.take().expect("a request comes before its answer");
            if got != expected {
                let _ = writeln!(wrong, "{section}, line {}:\n= {expected}\n= {got}", number + 1);
            }
        } else if !line.is_empty() && !line.starts_with('#') {
            assert!(said.is_none(), "line {number}: an answer is missing");
            let (operation, request, answer) = play(&mut member, line);
            let hex: String = request.iter().map(|byte| format!("{byte:02x}")).collect();
            let _ = writeln!(dumped, "{operation} {hex}");
            said = Some(answer);
        }
    }
    member.check();
    assert!(wrong.is_empty(), "answers differ (expected, got):\n{wrong}");
    assert_eq!(section, "end", "the file ends with a section of that name");
}

#[test]
fn errors_carry_the_codes_that_clients_act_on() {
    let mut member = Member::new();
    let future = pb::RangeRequest { key: b"k".to_vec(), revision: 9, ..Default::default() };
    assert_eq!(member.range(&future).expect_err("too new").code, Code::OutOfRange);
    let leased = pb::PutRequest { key: b"k".to_vec(), lease: 5, ..Default::default() };
    assert_eq!(member.put(&leased).expect_err("no lease").code, Code::NotFound);
}
