//! A long, plain history: to see what checking costs, and that it grows as the history does.

use std::collections::BTreeMap;
use std::time::Instant;

use base::Random;
use sim::check;
use sim::history::*;

const KEYS: u64 = 10_000;
const CLIENTS: usize = 64;
const WATCHERS: usize = 100;

fn key(number: u64) -> Bytes {
    Bytes::from(format!("/registry/pods/{number:06}").as_bytes())
}

/// So many operations: puts, transactions and deletes of one key, reads of one and of up to 50.
fn history(operations: usize) -> History {
    let mut random = Random::new(9);
    let mut history = History::new();
    let mut live: BTreeMap<Bytes, Kv> = BTreeMap::new();
    let mut revision = 1;
    let mut now_us = 0;
    let create = |key: Bytes, range_end: Bytes| WatchCreate {
        key,
        range_end,
        start_revision: 1,
        prev_kv: true,
        ..WatchCreate::default()
    };
    let mut streams = Vec::new();
    for number in 0..=WATCHERS as u64 {
        let stream = history.open_stream(0, 0, 0);
        let width = KEYS / WATCHERS as u64;
        let create = match number {
            0 => create(Bytes::default(), Bytes::from(&[0][..])),
            _ => create(key((number - 1) * width), key(number * width)),
        };
        history.passed(stream, 0, Passage::Create(create));
        let answer = WatchAnswer { revision: 1, created: true, ..WatchAnswer::default() };
        history.passed(stream, 0, Passage::Received(answer));
        streams.push(stream);
    }
    let mut waiting: Vec<(OpId, Answer)> = Vec::new();
    for count in 0..operations {
        now_us += 20;
        let number = random.below(KEYS);
        let name = key(number);
        let mut event = None;
        let (request, answer) = match random.below(10) {
            0..5 => {
                revision += 1;
                let old = live.get(&name).cloned();
                let value = Bytes::from(format!("value {count}").as_bytes());
                let kv = Kv {
                    key: name.clone(),
                    value: value.clone(),
                    create: old.as_ref().map_or(revision, |old| old.create),
                    modified: revision,
                    version: old.as_ref().map_or(0, |old| old.version) + 1,
                    lease: 0,
                };
                live.insert(name.clone(), kv.clone());
                event = Some(Event { kind: Kind::Put, kv, prev: old.clone() });
                let put = Put { key: name, value, prev_kv: true, ..Put::default() };
                (Request::Put(put), Answer::Put(PutAnswer { revision, prev: old }))
            }
            5 => {
                let old = live.remove(&name);
                let deleted = i64::from(old.is_some());
                revision += deleted;
                if old.is_some() {
                    let kv = Kv { key: name.clone(), modified: revision, ..Kv::default() };
                    event = Some(Event { kind: Kind::Delete, kv, prev: old });
                }
                let delete = DeleteRange { key: name, ..DeleteRange::default() };
                let answer = DeleteAnswer { revision, deleted, prevs: Vec::new() };
                (Request::DeleteRange(delete), Answer::DeleteRange(answer))
            }
            6..9 => {
                let kvs: Vec<Kv> = live.get(&name).cloned().into_iter().collect();
                let answer = RangeAnswer { revision, count: kvs.len() as i64, more: false, kvs };
                (Request::Range(Range { key: name, ..Range::default() }), Answer::Range(answer))
            }
            _ => {
                let end = key((number + 50).min(KEYS));
                let kvs: Vec<Kv> = live.range(name.clone()..end.clone()).map(|(_, kv)| kv.clone()).collect();
                let answer = RangeAnswer { revision, count: kvs.len() as i64, more: false, kvs };
                (
                    Request::Range(Range { key: name, range_end: end, ..Range::default() }),
                    Answer::Range(answer),
                )
            }
        };
        let op = history.call((count % CLIENTS) as u32, 0, now_us, request);
        waiting.push((op, answer));
        if let Some(event) = event {
            for stream in [streams[0], streams[1 + (number / (KEYS / WATCHERS as u64)) as usize]] {
                let answer = WatchAnswer { revision, events: vec![event.clone()], ..WatchAnswer::default() };
                history.passed(stream, now_us, Passage::Received(answer));
            }
        }
        if waiting.len() == CLIENTS {
            for (op, answer) in waiting.drain(..) {
                history.answered(op, now_us, answer);
            }
        }
    }
    for (op, answer) in waiting {
        history.answered(op, now_us, answer);
    }
    history.note(now_us, Note::Settled { revision });
    history
}

#[test]
#[ignore = "measures"]
fn what_checking_costs() {
    for operations in [125_000, 250_000, 500_000, 1_000_000] {
        let history = history(operations);
        let begin = Instant::now();
        let clocks = check::lease::Clocks::default();
        let summary = check::history(&history, &clocks).unwrap_or_else(|finding| panic!("{finding}"));
        let took = begin.elapsed();
        let begin = Instant::now();
        let hash = history.trace_hash();
        let hashed = begin.elapsed();
        println!("{operations} operations: {took:?}; trace hash {hash:016x} in {hashed:?}; {summary}");
    }
}

#[test]
fn a_long_history_passes() {
    let history = history(20_000);
    let clocks = check::lease::Clocks::default();
    assert!(check::history(&history, &clocks).is_ok());
}
