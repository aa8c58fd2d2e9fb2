//! Random requests against a plain model, with compaction that goes on in small steps all the while, producers that
//! began before it, and reads and hashes in between.

mod common;
#[path = "common/model.rs"]
mod model;

use base::Random;
use common::{Member, dump};
use mainstay_mvcc as mvcc;
use model::Model;
use mvcc::export::{self, Import};
use mvcc::{Apply, RangeCursor, Rows, hash, stamp, trees};
use pb::request_op::Request;
use proto::Error;
use proto::errors;
use proto::etcdserverpb as pb;
use proto::mvccpb::KeyValue;

struct Run {
    random: Random,
    member: Member,
    model: Model,
    keys: u64,
    /// Producers under way, with what they must still give.
    producers: Vec<(RangeCursor, Vec<KeyValue>)>,
}

impl Run {
    fn key(&mut self) -> Vec<u8> {
        match self.random.below(self.keys) {
            0 => vec![0],
            1 => vec![0xff, 0xff],
            // Keys of which one begins another, and a suffix that looks like a revision.
            n if n % 5 == 0 => [&b"k\0\0\0\0\0\0\0\x02"[..], &[0; 8][..(n % 8) as usize]].concat(),
            n => format!("k{n}").into_bytes(),
        }
    }

    fn end(&mut self) -> Vec<u8> {
        match self.random.below(4) {
            0 => vec![],
            1 => vec![0],
            _ => self.key(),
        }
    }

    fn revision(&mut self) -> i64 {
        let newest = self.model.current;
        match self.random.below(6) {
            0..3 => 0,
            3 => self.model.compacted - 1 + self.random.below(3) as i64,
            _ => 1 + self.random.below(newest as u64 + 1) as i64,
        }
    }

    fn put(&mut self) -> pb::PutRequest {
        let long = if self.random.one_in(10) { 6000 } else { 12 };
        let mut value = vec![0; self.random.below(long) as usize];
        self.random.fill(&mut value);
        let mut request =
            pb::PutRequest { key: self.key(), value, prev_kv: self.random.one_in(2), ..Default::default() };
        if self.random.one_in(3) {
            request.lease = 1 + self.random.below(5) as i64;
        }
        if self.random.one_in(6) {
            request.ignore_value = true;
            request.value.clear();
        }
        if self.random.one_in(6) {
            request.ignore_lease = true;
            request.lease = 0;
        }
        request
    }

    fn delete(&mut self) -> pb::DeleteRangeRequest {
        let range_end = if self.random.one_in(4) { self.end() } else { vec![] };
        pb::DeleteRangeRequest { key: self.key(), range_end, prev_kv: self.random.one_in(2) }
    }

    fn range(&mut self) -> pb::RangeRequest {
        let mut request = pb::RangeRequest {
            key: self.key(),
            range_end: self.end(),
            revision: self.revision(),
            keys_only: self.random.one_in(4),
            count_only: self.random.one_in(5),
            ..Default::default()
        };
        if self.random.one_in(2) {
            request.limit = self.random.below(8) as i64 - 1;
        }
        if self.random.one_in(3) {
            request.sort_order = self.random.below(3) as i32;
            request.sort_target = if self.keys <= 12 { self.random.below(5) as i32 } else { 0 };
        }
        if self.random.one_in(5) {
            let newest = self.model.current as u64;
            request.min_mod_revision = self.random.below(newest) as i64;
            request.max_create_revision = self.random.below(newest) as i64;
        }
        request
    }

    fn txn(&mut self, depth: u32) -> pb::TxnRequest {
        let mut compare = Vec::new();
        if self.random.one_in(2) {
            compare.push(pb::Compare {
                result: pb::compare::CompareResult::Greater as i32,
                target: pb::compare::CompareTarget::Version as i32,
                key: self.key(),
                range_end: if self.random.one_in(3) { self.end() } else { vec![] },
                target_union: Some(pb::compare::TargetUnion::Version(self.random.below(3) as i64)),
            });
        }
        let mut branch = || -> Vec<pb::RequestOp> {
            (0..self.random.below(5))
                .map(|_| {
                    let request = match self.random.below(6) {
                        0 | 1 => Request::RequestPut(self.put()),
                        2 | 3 => Request::RequestDeleteRange(self.delete()),
                        4 if depth > 0 => Request::RequestTxn(self.txn(depth - 1)),
                        _ => Request::RequestRange(self.range()),
                    };
                    pb::RequestOp { request: Some(request) }
                })
                .collect()
        };
        let (success, failure) = (branch(), branch());
        pb::TxnRequest { compare, success, failure }
    }

    fn write(&mut self) {
        match self.random.below(10) {
            0..4 => {
                let request = self.put();
                assert_eq!(self.member.put(&request), self.model.put(&request), "{request:?}");
            }
            4..6 => {
                let request = self.delete();
                assert_eq!(self.member.delete(&request), Ok(self.model.delete(&request)), "{request:?}");
            }
            6 if self.random.one_in(5) => {
                let id = 1 + self.random.below(5) as i64;
                let deleted = self.member.apply(|apply| apply.delete_keys_of_lease(id));
                assert_eq!(deleted, self.model.revoke(id));
            }
            _ => {
                let request = self.txn(2);
                // Not every such transaction passes the front door; apply must take it all the same.
                let answer = self.member.apply(|apply| apply.txn(&request));
                assert_eq!(answer, self.model.txn(&request), "{request:?}");
            }
        }
        assert_eq!(self.member.revisions().current, self.model.current);
    }

    fn read(&mut self) {
        let request = self.range();
        assert_eq!(self.member.range(&request), self.model.range(&request), "{request:?}");
        let request = pb::RangeRequest { sort_order: 0, sort_target: 0, count_only: false, ..request };
        if let (true, Ok(answer)) = (self.producers.len() < 4, self.model.range(&request)) {
            let cursor =
                RangeCursor::new(self.member.revisions(), &request).expect("readable").expect("in order");
            self.producers.push((cursor, answer.kvs));
        }
    }

    fn produce(&mut self) {
        if self.producers.is_empty() {
            return;
        }
        let which = self.random.below(self.producers.len() as u64) as usize;
        let (cursor, rest) = &mut self.producers[which];
        let mut rows = Rows::new();
        let budget = 1 + self.random.below(60) as usize;
        cursor.step(self.member.view(), budget, &mut rows).expect("what is held stays");
        let given = rows.to_messages();
        assert_eq!(given, rest[..given.len()]);
        rest.drain(..given.len());
        if cursor.is_done() {
            assert!(rest.is_empty(), "a producer gives everything");
            self.producers.swap_remove(which);
        }
    }

    fn compact(&mut self) {
        let revision = match self.random.below(3) {
            0 => self.model.current,
            1 => self.revision(),
            _ => (self.model.current - 30).max(self.model.compacted),
        };
        let answer =
            self.member.apply(|apply| apply.compact(&pb::CompactionRequest { revision, physical: false }));
        assert_eq!(answer.map(|done| done.revision), self.model.compact(revision).map(|()| revision));
    }

    fn remove(&mut self) {
        let held = self.producers.iter().map(|(cursor, _)| cursor.revision()).min().unwrap_or(i64::MAX);
        let limit = 1 + self.random.below(5) as usize;
        Apply::new(&mut self.member.store, &mut self.member.work).compaction_step_below(limit, held);
    }

    fn hash(&mut self) {
        let bounds = self.member.revisions();
        let low = bounds.compacted.max(1);
        let revision = low + self.random.below((bounds.current - low + 1) as u64) as i64;
        let removed = !stamp::removal_pending(self.member.store.stamp());
        if let Some(expected) = self.model.hash_kv(revision, removed) {
            assert_eq!(hash::hash_kv(self.member.view(), revision), Ok(expected));
        }
    }

    /// Export and import, at whatever point removal has reached.
    fn twin(&self) {
        let mut twin = Member::new();
        for (key, value) in dump(self.member.view(), trees::LEASES) {
            twin.store.insert(trees::LEASES, &key, &value);
        }
        let mut import = Import::new(&mut twin.store).expect("empty");
        for pair in export::pairs(self.member.view()) {
            import.push(pair.key(), &pair.value).expect("a sound pair");
        }
        let stamp = self.member.store.stamp();
        import.finish(stamp::finished(stamp), stamp::compacted(stamp)).expect("sound bounds");
        assert_eq!(twin.revisions(), self.member.revisions());
        for tree in [trees::LIVE, trees::HISTORY, trees::SUPERSEDED, trees::CHANGES, trees::LEASE_KEYS] {
            assert_eq!(dump(twin.view(), tree), dump(self.member.view(), tree));
        }
        while twin.remove(7) {}
        twin.check();
    }
}

fn run(seed: u64, keys: u64, rounds: u32) {
    let (member, model) = (Member::new(), Model::new());
    let mut run = Run { random: Random::new(seed), member, model, keys, producers: Vec::new() };
    for id in 1..5 {
        run.member.grant(&pb::LeaseGrantRequest { id, ttl: 100 }).expect("granted");
        run.model.leases.insert(id);
    }
    for round in 0..rounds {
        match run.random.below(20) {
            0..9 => run.write(),
            9..13 => run.read(),
            13..16 => run.produce(),
            16..18 => run.remove(),
            18 => run.hash(),
            _ => {
                if run.random.one_in(4) {
                    run.compact();
                }
            }
        }
        if round % 8 == 0 {
            run.member.store.publish();
        }
        if round % 100 == 0 {
            run.member.check();
        }
        if round % 1000 == 500 {
            run.twin();
        }
        run.member.batches.clear();
    }
    while !run.producers.is_empty() {
        run.produce();
    }
    while run.member.remove(5) {}
    run.member.check();
    run.twin();
}

#[test]
fn few_keys_agree_with_the_model() {
    for seed in 0..6 {
        run(seed, 8, 2500);
    }
}

#[test]
fn many_keys_agree_with_the_model() {
    for seed in 100..103 {
        run(seed, 60, 2500);
    }
}

/// Without anybody who holds it, history goes, and a producer is told so rather than given less.
#[test]
fn a_producer_that_nobody_holds_history_for_fails() {
    let mut member = Member::new();
    for round in 0..3 {
        for key in [b"a", b"b", b"c"] {
            let value = vec![round];
            let put = pb::PutRequest { key: key.to_vec(), value, ..Default::default() };
            member.put(&put).expect("a put");
        }
    }
    let request =
        pb::RangeRequest { key: b"a".to_vec(), range_end: vec![0], revision: 4, ..Default::default() };
    let mut cursor = RangeCursor::new(member.revisions(), &request).expect("readable").expect("in order");
    let give = |cursor: &mut RangeCursor, member: &Member| -> Result<Vec<u8>, Error> {
        let mut rows = Rows::new();
        cursor.step(member.view(), 1, &mut rows)?;
        Ok(rows.to_messages()[0].value.clone())
    };
    assert_eq!(give(&mut cursor, &member), Ok(vec![0]));
    let compact = pb::CompactionRequest { revision: 9, physical: false };
    member.apply(|apply| apply.compact(&compact)).expect("accepted");
    // Accepted, not begun: it goes on, while a new request is refused.
    assert_eq!(member.range(&request), Err(errors::COMPACTED));
    assert_eq!(give(&mut cursor, &member), Ok(vec![0]));
    // Held at its revision, removal stops short of what it needs.
    let mut apply = Apply::new(&mut member.store, &mut member.work);
    assert!(!apply.compaction_step_below(100, 4));
    assert_eq!(give(&mut cursor.clone(), &member), Ok(vec![0]));
    // One change further, and it may miss something.
    assert!(member.remove(1));
    assert_eq!(give(&mut cursor, &member), Err(errors::COMPACTED));
    while member.remove(2) {}
    assert_eq!(give(&mut cursor, &member), Err(errors::COMPACTED));
}

/// A second compaction that comes while the first is under way takes over where that stands.
#[test]
fn a_compaction_overtakes_another() {
    for steps in 0..12 {
        let mut member = Member::new();
        for round in 0..4 {
            for key in [b"a", b"b", b"c"] {
                let put = pb::PutRequest { key: key.to_vec(), value: vec![round], ..Default::default() };
                member.put(&put).expect("a put");
            }
            let delete = pb::DeleteRangeRequest { key: b"b".to_vec(), range_end: vec![0], prev_kv: false };
            member.delete(&delete).expect("a delete");
        }
        // Revision 9 deletes b and c: their tombstones stay for the first compaction, not for the second.
        for revision in [9, 10] {
            let request = pb::CompactionRequest { revision, physical: false };
            let done = member.apply(|apply| apply.compact(&request)).expect("accepted");
            assert_eq!(done.previous_finished, revision == 9 || steps > 9);
            for _ in 0..steps {
                Apply::new(&mut member.store, &mut member.work).compaction_step(1);
            }
        }
        while member.remove(1) {}
        member.check();
        let kept: Vec<_> =
            mvcc::changes::changes(member.view(), 0, 10).map(|change| change.revision.main).collect();
        assert_eq!(kept, [10], "of a its newest version; b and c were deleted before");
    }
}

/// Nobody waits for the answer: the state is the same, the header too.
#[test]
fn answers_that_nobody_wants_change_nothing() {
    let (mut told, mut silent) = (Member::new(), Member::new());
    silent.work.answers = false;
    let mut run = Run {
        random: Random::new(77),
        member: Member::new(),
        model: Model::new(),
        keys: 10,
        producers: Vec::new(),
    };
    for _ in 0..400 {
        let request = run.txn(2);
        let (a, b) = (told.apply(|apply| apply.txn(&request)), silent.apply(|apply| apply.txn(&request)));
        match (a, b) {
            (Ok(a), Ok(b)) => assert_eq!((a.header, a.succeeded), (b.header, b.succeeded)),
            (a, b) => assert_eq!(a.map(|_| ()), b.map(|_| ())),
        }
    }
    for tree in 0..trees::SPECS.len() {
        assert_eq!(dump(told.view(), tree), dump(silent.view(), tree));
    }
}

/// Many keys at once: what is foreseen is enough, and not beyond measure.
#[test]
fn a_large_delete_stays_within_its_room() {
    for value in [10, 900, 3000, 9000] {
        let mut member = Member::new();
        for round in 0..2 {
            for i in 0..600 {
                let put = pb::PutRequest {
                    key: format!("key-{:05}", i * 7919 % 600).into_bytes(),
                    value: vec![round; value],
                    ..Default::default()
                };
                member.put(&put).expect("a put");
                member.store.publish();
                member.batches.clear();
            }
        }
        let used = member.store.used_bytes();
        let delete = pb::DeleteRangeRequest { key: b"key-".to_vec(), range_end: vec![0], prev_kv: false };
        let logged = pb::InternalRaftRequest { delete_range: Some(delete.clone()), ..Default::default() };
        let room = mvcc::quota::room(&member.store, &logged, 0).bytes;
        assert!(room < 5 * used + (1 << 20), "{room} bytes for a store of {used}");
        // Checks the room.
        assert_eq!(member.delete(&delete).expect("a delete").deleted, 600);
    }
}

/// An import believes nothing.
#[test]
fn a_bucket_that_is_none_is_refused() {
    use export::ImportError;
    let mut member = Member::new();
    member.put(&pb::PutRequest { key: b"k".to_vec(), ..Default::default() }).expect("a put");
    assert_eq!(Import::new(&mut member.store).err(), Some(ImportError::NotEmpty));
    let revision = base::Revision::new(2, 0);
    let (put, put_len) = hash::bucket_key(revision, trees::Kind::Put);
    let (delete, delete_len) = hash::bucket_key(revision, trees::Kind::Delete);
    let pair = export::pairs(member.view()).next().expect("one pair");
    assert_eq!(pair.key(), &put[..put_len]);
    let value = pair.value.to_vec();
    let tombstone = export::tombstone_value(b"k");
    let mut wrong = put;
    wrong[8] = b'-';
    let cases = [
        (&put[..16], &value, ImportError::Key(put[..16].to_vec())),
        (&wrong[..put_len], &value, ImportError::Key(wrong[..put_len].to_vec())),
        (&[&put[..put_len], b"x"].concat()[..], &value, ImportError::Key([&put[..put_len], b"x"].concat())),
        (&put[..put_len], &tombstone, ImportError::Value(revision)),
        (&put[..put_len], &vec![0xff; 9], ImportError::Value(revision)),
        (&delete[..delete_len], &vec![], ImportError::Value(revision)),
    ];
    for (key, value, expected) in cases {
        let mut twin = Member::new();
        let mut import = Import::new(&mut twin.store).expect("empty");
        assert_eq!(import.push(key, value), Err(expected));
    }
    let mut twin = Member::new();
    let mut import = Import::new(&mut twin.store).expect("empty");
    import.push(&put[..put_len], &value).expect("a sound pair");
    assert_eq!(import.push(&delete[..delete_len], &tombstone), Err(ImportError::Order(revision)));
    assert_eq!(import.finish(-1, -1), Ok(2));
    assert_eq!(hash::hash_kv(twin.view(), 0), hash::hash_kv(member.view(), 0));
}
