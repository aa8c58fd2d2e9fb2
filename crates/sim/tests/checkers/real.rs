//! The same requests executed by the real store: its answers pass the checkers, and a store that is tampered with
//! does not.

use base::Random;
use disk::SimFiles;
use mvcc::cell::{Cell, Fields};
use mvcc::trees::{self, CHANGES, HISTORY, LEASE_KEYS, LEASES, LIVE, SUPERSEDED};
use mvcc::{Apply, Revisions, Work, changes, stamp, versions};
use pb::request_op::Request as PbOp;
use proto::etcdserverpb as pb;
use sim::check::{self, Rule};
use sim::history::*;
use tree::Store;

use crate::generator::{self, Options};

fn put_of(put: &Put) -> pb::PutRequest {
    pb::PutRequest {
        key: put.key.to_vec(),
        value: put.value.to_vec(),
        lease: put.lease,
        prev_kv: put.prev_kv,
        ignore_value: put.ignore_value,
        ignore_lease: put.ignore_lease,
    }
}

fn delete_of(delete: &DeleteRange) -> pb::DeleteRangeRequest {
    let (key, range_end) = (delete.key.to_vec(), delete.range_end.to_vec());
    pb::DeleteRangeRequest { key, range_end, prev_kv: delete.prev_kv }
}

fn range_of(range: &Range) -> pb::RangeRequest {
    pb::RangeRequest {
        key: range.key.to_vec(),
        range_end: range.range_end.to_vec(),
        revision: range.revision,
        limit: range.limit,
        serializable: range.serializable,
        keys_only: range.keys_only,
        count_only: range.count_only,
        ..Default::default()
    }
}

fn compare_of(compare: &Compare) -> pb::Compare {
    use pb::compare::{CompareResult, CompareTarget, TargetUnion};
    let result = match compare.relation {
        Relation::Equal => CompareResult::Equal,
        Relation::NotEqual => CompareResult::NotEqual,
        Relation::Greater => CompareResult::Greater,
        Relation::Less => CompareResult::Less,
    };
    let (target, union) = match &compare.target {
        Target::Version(n) => (CompareTarget::Version, TargetUnion::Version(*n)),
        Target::Create(n) => (CompareTarget::Create, TargetUnion::CreateRevision(*n)),
        Target::Modified(n) => (CompareTarget::Mod, TargetUnion::ModRevision(*n)),
        Target::Lease(n) => (CompareTarget::Lease, TargetUnion::Lease(*n)),
        Target::Value(value) => (CompareTarget::Value, TargetUnion::Value(value.to_vec())),
    };
    pb::Compare {
        result: result as i32,
        target: target as i32,
        key: compare.key.to_vec(),
        range_end: compare.range_end.to_vec(),
        target_union: Some(union),
    }
}

fn txn_of(txn: &Txn) -> pb::TxnRequest {
    let ops = |ops: &[TxnOp]| {
        let ops = ops.iter().map(|op| match op {
            TxnOp::Put(put) => PbOp::RequestPut(put_of(put)),
            TxnOp::DeleteRange(delete) => PbOp::RequestDeleteRange(delete_of(delete)),
            TxnOp::Range(range) => PbOp::RequestRange(range_of(range)),
            TxnOp::Txn(nested) => PbOp::RequestTxn(txn_of(nested)),
        });
        ops.map(|request| pb::RequestOp { request: Some(request) }).collect()
    };
    let compare = txn.compares.iter().map(compare_of).collect();
    pb::TxnRequest { compare, success: ops(&txn.then), failure: ops(&txn.otherwise) }
}

/// The rules that only stores and logs break: the tests below hold each of them against something that is wrong.
pub const DEMANDED: [Rule; 3] = [Rule::Rows, Rule::Pages, Rule::Durable];

struct Member {
    files: SimFiles,
    store: Store,
    work: Work,
    history: History,
    now_us: u64,
}

fn open(files: &SimFiles) -> Result<Store, tree::OpenError> {
    let options = tree::Options { chunk_bytes: 1 << 20, max_chunks: 1 << 8, reserve_bytes: 1 << 16 };
    Store::open(files, "data", &trees::SPECS, options)
}

const LEASED: std::ops::Range<i64> = 1..4;

impl Member {
    fn new() -> Member {
        let files = SimFiles::new();
        let mut store = open(&files).expect("a new file opens");
        assert!(stamp::initialise(&mut store));
        let mut member = Member { files, store, work: Work::default(), history: History::new(), now_us: 0 };
        for id in LEASED {
            member.store.insert(LEASES, &trees::lease_key(id), &[]);
            let op = member.history.call(0, 0, 0, Request::LeaseGrant { id, ttl_s: 1_000_000 });
            let answer = Answer::LeaseGrant { revision: 1, id, ttl_s: 1_000_000 };
            member.history.answered(op, 0, answer);
        }
        member
    }

    fn execute(&mut self, request: &Request) -> Option<Result<Answer, proto::Error>> {
        let answer = match request {
            Request::Put(put) => self.apply().put(&put_of(put)).map(|answer| Answer::from(&answer)),
            Request::DeleteRange(delete) => Ok(Answer::from(&self.apply().delete_range(&delete_of(delete)))),
            Request::Txn(txn) => self.apply().txn(&txn_of(txn)).map(|answer| Answer::from(&answer)),
            Request::Range(range) => {
                let revisions = Revisions::of(self.store.stamp());
                let answer = mvcc::range(self.store.view(), revisions, &range_of(range));
                answer.map(|answer| Answer::from(&answer.to_message()))
            }
            Request::Compact { revision } => {
                let compact = pb::CompactionRequest { revision: *revision, physical: false };
                let done = self.apply().compact(&compact);
                while self.apply().compaction_step(5) {}
                done.map(|done| Answer::from(&done.response))
            }
            _ => return None,
        };
        self.store.publish();
        Some(answer)
    }

    fn apply(&mut self) -> Apply<'_> {
        Apply::new(&mut self.store, &mut self.work)
    }

    fn run(&mut self, request: Request) {
        self.now_us += 10;
        // What is not a matter of the store is left out.
        let Some(result) = self.execute(&request) else { return };
        let op = self.history.call(0, 0, self.now_us, request);
        match result {
            Ok(answer) => self.history.answered(op, self.now_us, answer),
            Err(error) => self.history.failed(op, self.now_us, &error),
        }
    }

    fn dump(&mut self) {
        let Revisions { current, compacted } = Revisions::of(self.store.stamp());
        let first = compacted.max(1) + 1;
        let events = changes::changes(self.store.view(), first, current).map(|change| match change.cell() {
            Some(cell) => Event { kind: Kind::Put, kv: Kv::from(&cell.kv().to_message()), prev: None },
            None => {
                let (key, modified) = (change.key.into(), change.revision.main);
                Event { kind: Kind::Delete, kv: Kv { key, modified, ..Kv::default() }, prev: None }
            }
        });
        let events = events.collect();
        self.history.dump(self.now_us, first, current, events);
    }
}

/// Plays what the plain server was asked, from one seed.
fn play(seed: u64) -> Member {
    let asked = generator::run(Options::lossless(seed)).history.operations;
    let mut member = Member::new();
    for op in asked {
        member.run(op.request);
    }
    member
}

#[test]
fn the_real_store_passes() {
    for seed in 0..crate::seeds() / 2 {
        let mut member = play(seed);
        member.dump();
        let clocks = check::lease::Clocks::default();
        if let Err(finding) = check::history(&member.history, &clocks) {
            panic!("seed {seed}: {finding}");
        }
        let whole = check::state::store(&member.store);
        let view = check::state::view(member.store.view());
        let (whole, view) = (whole.expect("the store is sound"), view.expect("its newest root too"));
        assert_eq!((whole.changes, whole.keys, whole.leased), (view.changes, view.keys, view.leased));
        assert!(whole.pages.pages > 0);
    }
}

/// Writes one pair of LIVE anew, changed.
fn rewrite(store: &mut Store, key: &[u8], change: impl Fn(&mut Fields<'_>)) {
    let stored = store.view().get(LIVE, key).expect("it lives").to_vec();
    let kv = Cell::new(&stored).kv();
    let mut fields = kv.fields;
    change(&mut fields);
    let mut cell = Vec::new();
    fields.push_cell(kv.sub, &mut cell);
    store.insert(LIVE, key, &cell);
}

fn first_key(store: &Store, tree: usize, wanted: impl Fn(&[u8], &[u8]) -> bool) -> Option<Vec<u8>> {
    let mut cursor = store.view().cursor(tree);
    let mut more = cursor.seek_first();
    while more {
        if wanted(cursor.key(), cursor.value()) {
            return Some(cursor.key().to_vec());
        }
        more = cursor.next();
    }
    None
}

/// Removes the first entry that is wanted; false when there is none.
fn remove(store: &mut Store, tree: usize, wanted: impl Fn(&[u8], &[u8]) -> bool) -> bool {
    first_key(store, tree, wanted).is_some_and(|key| store.remove(tree, &key))
}

/// What is done, what must be said of it, and how it is done.
type Tampering = (&'static str, &'static [&'static str], fn(&mut Store) -> bool);

#[test]
fn tampering_with_a_store_is_found() {
    let tamperings: [Tampering; 18] = [
        ("a key is gone", &["has no version"], |store| remove(store, LIVE, |_, _| true)),
        (
            "a change is gone",
            &["versions and tombstones", "which did not exist", "there is a gap", "is created at"],
            |store| remove(store, CHANGES, |_, _| true),
        ),
        ("the last change is gone", &["the newest change is of revision"], |store| {
            let current = stamp::current(store.stamp());
            remove(store, CHANGES, |key, _| trees::change_revision(key).main == current)
        }),
        ("a superseded version is gone", &["but not the version itself"], |store| {
            remove(store, SUPERSEDED, |_, _| true)
        }),
        ("an entry of history is gone", &["named by history"], |store| {
            remove(store, HISTORY, |_, value| !value.is_empty())
        }),
        ("a tombstone is gone", &["has no tombstone"], |store| {
            remove(store, HISTORY, |_, value| value.is_empty())
        }),
        ("a held key is not listed", &["known: true"], |store| remove(store, LEASE_KEYS, |_, _| true)),
        ("a lease is gone that holds keys", &["known: false"], |store| {
            let Some(item) = first_key(store, LEASE_KEYS, |_, _| true) else { return false };
            store.remove(LEASES, &item[..8])
        }),
        ("a key is listed that is not held", &["name their lease"], |store| {
            let mut item = Vec::new();
            trees::lease_item_key(&mut item, 1, b"nothing");
            store.insert(LEASE_KEYS, &item, &[]);
            true
        }),
        ("a key lives that nobody put", &["versions and tombstones"], |store| {
            let Some(key) = first_key(store, LIVE, |_, _| true) else { return false };
            let cell = store.view().get(LIVE, &key).expect("found").to_vec();
            store.insert(LIVE, b"zz", &cell);
            true
        }),
        ("a change of the future", &["has no version"], |store| {
            let next = base::Revision::new(stamp::current(store.stamp()) + 1, 0);
            store.insert(CHANGES, &next.to_bytes(), b"\0k01");
            true
        }),
        ("a delete of what was not there", &["which did not exist"], |store| {
            let current = stamp::current(store.stamp());
            let last = changes::changes(store.view(), current, current).count() as i64;
            let at = base::Revision::new(current, last);
            store.insert(CHANGES, &at.to_bytes(), b"\x01zz");
            let mut name = Vec::new();
            trees::history_key(&mut name, b"zz", at);
            store.insert(HISTORY, &name, &[]);
            true
        }),
        ("a version too high", &["is created at"], |store| {
            // Of a key whose version before is stored.
            let Some(key) = changed_twice(store) else { return false };
            rewrite(store, &key, |fields| fields.version += 1);
            true
        }),
        ("another create revision", &["is created at"], |store| {
            let Some(key) = changed_twice(store) else { return false };
            rewrite(store, &key, |fields| fields.create -= 1);
            true
        }),
        ("another mod revision", &["has no version"], |store| {
            let Some(key) = first_key(store, LIVE, |_, _| true) else { return false };
            rewrite(store, &key, |fields| fields.mod_ += 1);
            true
        }),
        ("another lease", &["does not hold"], |store| {
            let Some(key) = first_key(store, LIVE, |_, _| true) else { return false };
            rewrite(store, &key, |fields| fields.lease += 1);
            true
        }),
        ("a revision of which nothing is stored", &["the newest change is of revision"], |store| {
            let mut stamp = *store.stamp();
            stamp[stamp::CURRENT] += 1;
            store.set_stamp(stamp);
            true
        }),
        ("a compaction that removed nothing", &["should have been removed"], |store| {
            let mut stamp = *store.stamp();
            for word in [stamp::COMPACTED, stamp::FINISHED] {
                stamp[word] = stamp[stamp::CURRENT];
            }
            store.set_stamp(stamp);
            store.view().len(SUPERSEDED) > 0
        }),
    ];
    let mut random = Random::new(1);
    let mut found = 0;
    for (name, words, tamper) in tamperings {
        let mut done = 0;
        for _ in 0..12 {
            let mut member = play(random.below(1000));
            if !tamper(&mut member.store) {
                continue;
            }
            member.store.publish();
            done += 1;
            match check::state::store(&member.store) {
                Err(finding) => {
                    assert_eq!(finding.rule, Rule::Rows, "{name}: {finding}");
                    let said = finding.to_string();
                    assert!(words.iter().any(|words| said.contains(words)), "{name}: {said}");
                }
                Ok(_) => panic!("{name}: nothing was found"),
            }
        }
        assert!(done > 2, "{name}: {done} times");
        found += done;
    }
    println!("{found} tampered stores, all found");
}

/// A key whose newest version and the one before are both above the compacted revision.
fn changed_twice(store: &Store) -> Option<Vec<u8>> {
    let compacted = stamp::compacted(store.stamp());
    first_key(store, LIVE, |key, value| {
        let kv = Cell::new(value).kv();
        let before = versions::superseded_at(store.view(), key, kv.mod_ - 1);
        kv.version > 1 && before.is_some_and(|before| before.kv().mod_ > compacted)
    })
}

/// Pages that are not what a checkpoint wrote. (The writer's own books are made wrong in `tree`, where they can be.)
#[test]
fn a_data_file_that_is_tampered_with_is_found() {
    const PAGE: u64 = 4096;
    let mut member = play(3);
    for number in 0..600 {
        // So many that trees have more than a root, which a start would look at.
        let key = Bytes::from(format!("p{number:03}").as_bytes());
        member.run(Request::Put(Put { key, value: vec![7; 100].into(), ..Put::default() }));
    }
    for _ in 0..2 {
        let job = member.store.cut().expect("no other runs");
        member.store.checkpoint_done(job.run().expect("the disk is well")).expect("and stays so");
    }
    let len = member.files.bytes("data").expect("it is there").len() as u64;
    let whole = check::state::store(&open(&member.files.image()).expect("it opens")).expect("it is sound");
    let (mut found, mut at_start) = (0, 0);
    for page in 2..len / PAGE {
        let image = member.files.image();
        // Of the last page of a run the first byte is the only one that certainly counts.
        image.edit("data", page * PAGE, &mut |bytes| bytes[0] ^= 0x10);
        // Damage that is seen at the start is the start's matter.
        let store = match open(&image) {
            Ok(store) if store.report().unreadable.is_none() => store,
            _ => {
                at_start += 1;
                continue;
            }
        };
        if let Err(finding) = check::state::store(&store) {
            assert_eq!(finding.rule, Rule::Pages, "{finding}");
            found += 1;
        }
    }
    // What a start refuses, or answers with the older meta, are roots. (It makes a bitmap anew.)
    assert!(whole.pages.pages > 20 && at_start <= trees::SPECS.len() as u64, "{whole:?} {at_start}");
    assert_eq!(found + at_start, whole.pages.pages, "a flip in each page that is in use is noticed");
}

#[test]
fn a_log_that_forgets_is_found() {
    let entry = |index: u64, term: u64| wal::Entry { term, index, kind: 0, data: Vec::new() };
    let hard_state = wal::HardState { term: 3, vote: 7, commit: 5 };
    let recovered = wal::Recovered {
        hard_state,
        entries: vec![entry(4, 2), entry(5, 3), entry(6, 3)],
        checkpoint: None,
        checkpoint_sequence: 0,
        last: (6, 3),
        cut: None,
    };
    let durable = |index: u64, term: u64, hard_state: wal::HardState| {
        let promised = wal::Durable { ready: 0, term, index };
        check::state::durable(&promised, &hard_state, &recovered).map_err(|finding| finding.rule)
    };
    assert_eq!(durable(6, 3, hard_state), Ok(()));
    assert_eq!(durable(5, 2, hard_state), Ok(()), "superseded in a later term");
    assert_eq!(durable(9, 2, hard_state), Ok(()), "truncated by a later term");
    assert_eq!(durable(7, 3, hard_state), Err(Rule::Durable));
    assert_eq!(durable(4, 3, hard_state), Err(Rule::Durable), "an older entry came back");
    assert_eq!(durable(6, 3, wal::HardState { term: 4, ..hard_state }), Err(Rule::Durable));
    assert_eq!(durable(6, 3, wal::HardState { vote: 8, ..hard_state }), Err(Rule::Durable));
    assert_eq!(durable(6, 3, wal::HardState { term: 2, vote: 8, commit: 5 }), Ok(()));

    let mut stamp = tree::Stamp::default();
    stamp[stamp::APPLIED_INDEX] = 6;
    assert_eq!(check::state::applied(&stamp, &recovered), Ok(()));
    stamp[stamp::APPLIED_INDEX] = 7;
    let finding = check::state::applied(&stamp, &recovered).expect_err("the log ends before");
    assert_eq!(finding.rule, Rule::Durable);
}
