//! Snapshot import: the pairs of etcd's `key` bucket, played into an empty store (`mvcc::export::Import`).
//!
//! Laws: any pairs either are refused or leave trees that fit together ([`fits`]); what was imported is exported again,
//! pair for pair; a compaction that the file had begun runs to its end; the store takes writes, ranges and hashes as any
//! other.
//!
//! Input: the compacted revisions that the file names (two bytes), then pairs: raw ones, or ones made nearly right.

use mvcc::cell::Fields;
use mvcc::export::{self, Import, ImportError};
use mvcc::hash::{bucket_key, hash_kv};
use mvcc::trees::{self, Kind};
use mvcc::{Apply, Revisions, Work, changes, stamp, versions};
use proto::etcdserverpb as pb;
use tree::{Options, Store};

use base::Revision;
use base::limits::REVISION_MAX;
use disk::SimFiles;

use crate::choices::{Choices, push_block};
use crate::meter::bounded;

/// An empty store in memory.
pub fn fresh() -> Store {
    let options = Options { chunk_bytes: 1 << 20, max_chunks: 256, reserve_bytes: 64 << 10 };
    let mut store = Store::open(&SimFiles::new(), "data", &trees::SPECS, options).expect("a new file opens");
    assert!(stamp::initialise(&mut store));
    store
}

/// The invariants that tie the trees of a store together.
pub fn fits(store: &Store) {
    tree::verify(store).expect("the pages are sound");
    let view = store.view();
    let Revisions { current, .. } = Revisions::of(view.stamp());
    let mut changed = 0;
    for change in changes::changes(view, 0, i64::MAX) {
        changed += 1;
        assert!(change.revision.main <= current, "no change is of a revision to come");
        if let Some(cell) = change.cell() {
            assert_eq!((cell.kv().key, cell.revision()), (change.key, change.revision));
        }
    }
    assert_eq!(view.len(trees::CHANGES), changed);
    assert_eq!(view.len(trees::LIVE) + view.len(trees::HISTORY), changed, "a change is one version");
    let mut named = 0;
    let mut cursor = view.cursor(trees::HISTORY);
    let mut more = cursor.seek_first();
    while more {
        let (key, revision) = trees::split_history_key(cursor.key());
        if let Some(cell) = trees::superseded(view, cursor.value()) {
            assert_eq!((cell.kv().key, cell.revision()), (key, revision));
            named += 1;
        }
        more = cursor.next();
    }
    assert_eq!(view.len(trees::SUPERSEDED), named, "history names each superseded version once");
    let mut leased = 0;
    let mut cursor = view.cursor(trees::LIVE);
    let mut more = cursor.seek_first();
    while more {
        let kv = versions::newest(view, cursor.key()).expect("a live key").kv();
        let known = kv.lease != 0 && view.get(trees::LEASES, &trees::lease_key(kv.lease)).is_some();
        if known {
            assert!(trees::keys_of_lease(view, kv.lease).any(|key| key == kv.key));
            leased += 1;
        }
        more = cursor.next();
    }
    assert_eq!(view.len(trees::LEASE_KEYS), leased, "a lease's keys are those that name it");
}

type Pair = (Vec<u8>, Vec<u8>);

/// The next pair; `at` is the revision that the next right one has.
fn pair(choices: &mut Choices<'_>, at: &mut Revision) -> Pair {
    let how = choices.byte();
    if how & 3 == 0 {
        return (choices.block().to_vec(), choices.block().to_vec());
    }
    match how >> 2 & 3 {
        0 => at.sub += 1,
        1 => *at = Revision::new(at.main + 1, 0),
        2 => *at = Revision::new(at.main + i64::from(choices.byte()), choices.below(3) as i64),
        _ => *at = Revision::new(choices.number(8) as i64 & i64::MAX, choices.number(4) as i64),
    }
    let kind = if how & 16 == 0 { Kind::Put } else { Kind::Delete };
    let key = [b'k', choices.byte() % 4];
    let (bucket, length) = bucket_key(*at, kind);
    let mut value = Vec::new();
    if kind == Kind::Delete {
        value = export::tombstone_value(&key);
    } else {
        let odd = how & 32 != 0;
        let fields = Fields {
            key: &key,
            create: if odd { choices.number(2) as i64 } else { at.main },
            mod_: at.main,
            version: if odd { choices.number(2) as i64 } else { 1 },
            value: choices.block(),
            lease: [0, 7, 9, -1][choices.below(4)],
        };
        fields.push_wire(&mut value);
    }
    (bucket[..length].to_vec(), value)
}

fn import(input: &[u8]) {
    let mut choices = Choices::new(input);
    // A key of the meta bucket names no negative revision; -1 stands for none, the highest bytes for the highest numbers.
    let mut compacted = || match choices.byte() as i8 {
        127 => i64::MAX,
        126 => REVISION_MAX,
        small => i64::from(small).max(-1),
    };
    let (finished, scheduled) = (compacted(), compacted());
    let mut store = fresh();
    store.insert(trees::LEASES, &trees::lease_key(7), &[]);
    store.insert(trees::LEASES, &trees::lease_key(-1), &[]);
    let mut import = Import::new(&mut store).expect("an empty store");
    let mut pairs = Vec::new();
    let mut at = Revision::new(1, 0);
    while !choices.is_empty() {
        let (key, value) = pair(&mut choices, &mut at);
        import.store().reserve(4 << 20).expect("the device is large");
        match import.push(&key, &value) {
            Ok(()) => pairs.push((key, value)),
            Err(ImportError::NotEmpty) => panic!("that was asked before"),
            Err(_) => break,
        }
        import.store().publish();
    }
    let Ok(current) = import.finish(finished, scheduled) else {
        assert!(finished.max(scheduled) > REVISION_MAX, "nothing else is refused at the end");
        return;
    };
    store.publish();
    fits(&store);
    let revisions = Revisions::of(store.stamp());
    assert_eq!(revisions.current, current);
    assert!(current >= finished.max(scheduled) && revisions.compacted >= finished.max(-1));
    let exported: Vec<Pair> =
        export::pairs(store.view()).map(|pair| (pair.key().to_vec(), pair.value.to_vec())).collect();
    assert_eq!(exported.len(), pairs.len());
    for ((key, value), (given_key, given)) in exported.iter().zip(&pairs) {
        let message = |bytes: &[u8]| bbolt::schema::parse_key_value(bytes).expect("a pair");
        assert_eq!(key, given_key);
        if key.len() == 17 {
            assert_eq!(message(value), message(given), "what was imported is exported");
        } else {
            assert_eq!(message(value).key, message(given).key);
        }
    }
    use_it(&mut store);
}

/// A store that was imported is one like any other.
fn use_it(store: &mut Store) {
    let mut work = Work::default();
    for _ in 0..10_000 {
        if !Apply::new(store, &mut work).compaction_step(5) {
            break;
        }
    }
    assert!(!stamp::removal_pending(store.stamp()), "a compaction ends");
    fits(store);
    let revisions = Revisions::of(store.stamp());
    let all = pb::RangeRequest { key: vec![0], range_end: vec![0], ..Default::default() };
    let answer = mvcc::range(store.view(), revisions, &all).expect("everything can be read").to_message();
    assert_eq!(answer.count as u64, store.view().len(trees::LIVE));
    let _ = hash_kv(store.view(), 0);
    store.reserve(4 << 20).expect("the device is large");
    let put =
        pb::PutRequest { key: b"k\0".into(), value: b"new".into(), prev_kv: true, ..Default::default() };
    let delete = pb::DeleteRangeRequest { key: vec![0], range_end: vec![0], prev_kv: true };
    Apply::new(store, &mut work).put(&put).expect("a plain put");
    let deleted = Apply::new(store, &mut work).delete_range(&delete).deleted;
    assert!(deleted >= 1 && store.view().is_empty(trees::LIVE));
    store.publish();
    fits(store);
}

pub fn check(input: &[u8]) {
    bounded((24 << 20) + 16384 * input.len(), || import(input));
}

pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let put = |how: u8, key: u8, value: &[u8], lease: u8| {
        let mut out = vec![how, key];
        push_block(&mut out, value);
        out.push(lease);
        out
    };
    let delete = |how: u8, key: u8| vec![how | 16, key];
    let (next, same) = (1 | 1 << 2, 1);
    let history = [
        put(next, 0, b"one", 0),
        put(same, 1, b"in the same revision", 1),
        put(next, 0, b"two", 0),
        delete(next, 1),
        put(next, 1, b"again", 3),
        delete(next, 0),
    ]
    .concat();
    let with =
        |finished: i8, scheduled: i8, pairs: &[u8]| [&[finished as u8, scheduled as u8], pairs].concat();
    // What a real store exports.
    let mut store = fresh();
    let mut work = Work::default();
    for (key, value) in [("a", "1"), ("b", "2"), ("a", "3")] {
        let put = pb::PutRequest { key: key.into(), value: value.into(), ..Default::default() };
        Apply::new(&mut store, &mut work).put(&put).expect("a plain put");
    }
    let delete_b = pb::DeleteRangeRequest { key: b"b".into(), ..Default::default() };
    Apply::new(&mut store, &mut work).delete_range(&delete_b);
    let mut raw = Vec::new();
    for pair in export::pairs(store.view()) {
        raw.push(0);
        push_block(&mut raw, pair.key());
        push_block(&mut raw, &pair.value);
    }
    vec![
        ("seed-history".into(), with(-1, -1, &history)),
        ("seed-compacted".into(), with(3, 3, &history)),
        ("seed-compacting".into(), with(2, 4, &history)),
        ("seed-exported".into(), with(-1, -1, &raw)),
        (
            "seed-odd-versions".into(),
            with(-1, -1, &[33 | 4, 0, 2, 0, 9, 0, 1, b'v', 0, 33, 0, 3, 0, 0, 0, 0, 0]),
        ),
    ]
}
