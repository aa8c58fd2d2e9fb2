//! The store as a plain map of versions, written from etcd's rules and as slowly as clarity wants. Compaction only
//! forbids here; it removes nothing.

use std::collections::{BTreeMap, BTreeSet};

use base::Revision;
use mainstay_mvcc as mvcc;
use mvcc::hash::{KeyValueHash, bucket_key};
use mvcc::span::Span;
use mvcc::trees::Kind;
use pb::range_request::{SortOrder, SortTarget};
use pb::request_op::Request;
use pb::response_op::Response;
use prost::Message;
use proto::etcdserverpb as pb;
use proto::mvccpb::KeyValue;
use proto::{Error, errors};

#[derive(Clone)]
pub struct Model {
    pub keys: BTreeMap<Vec<u8>, Vec<(Revision, Option<KeyValue>)>>,
    pub current: i64,
    pub compacted: i64,
    pub leases: BTreeSet<i64>,
    changes: i64,
}

fn header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { revision, ..Default::default() })
}

impl Model {
    pub fn new() -> Model {
        let leases = BTreeSet::new();
        Model { keys: BTreeMap::new(), current: 1, compacted: -1, leases, changes: 0 }
    }

    /// The newest revision, that of a request under way included.
    fn now(&self) -> i64 {
        self.current + i64::from(self.changes > 0)
    }

    fn at(&self, key: &[u8], revision: i64) -> Option<&KeyValue> {
        let versions = self.keys.get(key)?;
        versions.iter().rev().find(|(at, _)| at.main <= revision)?.1.as_ref()
    }

    fn newest(&self, key: &[u8]) -> Option<&KeyValue> {
        self.at(key, i64::MAX)
    }

    pub fn span(&self, key: &[u8], end: &[u8], revision: i64) -> Vec<KeyValue> {
        let span = Span::new(key, end);
        let inside = self.keys.keys().filter(|key| span.contains(key));
        inside.filter_map(|key| self.at(key, revision)).cloned().collect()
    }

    fn end(&mut self) {
        self.current = self.now();
        self.changes = 0;
    }

    fn change(&mut self, key: &[u8], kv: Option<KeyValue>) {
        let revision = Revision::new(self.current + 1, self.changes);
        self.changes += 1;
        self.keys.entry(key.to_vec()).or_default().push((revision, kv));
    }

    fn check_put(&self, request: &pb::PutRequest) -> Result<(), Error> {
        if request.lease != 0 && !self.leases.contains(&request.lease) {
            return Err(errors::LEASE_NOT_FOUND);
        }
        if (request.ignore_value || request.ignore_lease) && self.newest(&request.key).is_none() {
            return Err(errors::KEY_NOT_FOUND);
        }
        Ok(())
    }

    fn put_inside(&mut self, request: &pb::PutRequest) -> Result<pb::PutResponse, Error> {
        let old = self.newest(&request.key).cloned();
        if (request.ignore_value || request.ignore_lease) && old.is_none() {
            return Err(errors::KEY_NOT_FOUND);
        }
        let main = self.current + 1;
        let before = old.clone().unwrap_or_default();
        let kv = KeyValue {
            key: request.key.clone(),
            create_revision: if old.is_some() { before.create_revision } else { main },
            mod_revision: main,
            version: before.version + 1,
            value: if request.ignore_value { before.value } else { request.value.clone() },
            lease: if request.ignore_lease { before.lease } else { request.lease },
        };
        self.change(&request.key, Some(kv));
        Ok(pb::PutResponse { header: header(main), prev_kv: old.filter(|_| request.prev_kv) })
    }

    pub fn put(&mut self, request: &pb::PutRequest) -> Result<pb::PutResponse, Error> {
        self.check_put(request)?;
        let answer = self.put_inside(request)?;
        self.end();
        Ok(answer)
    }

    fn delete_inside(&mut self, request: &pb::DeleteRangeRequest) -> pb::DeleteRangeResponse {
        let gone = self.span(&request.key, &request.range_end, i64::MAX);
        for kv in &gone {
            self.change(&kv.key, None);
        }
        let deleted = gone.len() as i64;
        let prev_kvs = if request.prev_kv { gone } else { Vec::new() };
        pb::DeleteRangeResponse { header: header(self.now()), deleted, prev_kvs }
    }

    pub fn delete(&mut self, request: &pb::DeleteRangeRequest) -> pb::DeleteRangeResponse {
        let answer = self.delete_inside(request);
        self.end();
        answer
    }

    pub fn revoke(&mut self, id: i64) -> i64 {
        let leased: Vec<Vec<u8>> = self
            .span(&[0], &[0], i64::MAX)
            .into_iter()
            .filter(|kv| kv.lease == id)
            .map(|kv| kv.key)
            .collect();
        for key in &leased {
            self.change(key, None);
        }
        self.end();
        leased.len() as i64
    }

    /// With the steps that etcd takes, in its order.
    pub fn range(&self, request: &pb::RangeRequest) -> Result<pb::RangeResponse, Error> {
        let now = self.now();
        if request.revision > now {
            return Err(errors::FUTURE_REV);
        }
        let revision = if request.revision <= 0 { now } else { request.revision };
        if revision < self.compacted {
            return Err(errors::COMPACTED);
        }
        let mut kvs = self.span(&request.key, &request.range_end, revision);
        let count = kvs.len() as i64;
        if request.count_only {
            return Ok(pb::RangeResponse { header: header(now), kvs: vec![], more: false, count });
        }
        if request.keys_only && request.sort_target != SortTarget::Value as i32 {
            kvs.iter_mut().for_each(|kv| kv.lease = 0);
        }
        if mvcc::default_order(request) && !mvcc::has_filters(request) && request.limit > 0 {
            kvs.truncate(request.limit as usize + 1);
        }
        let bounds = [
            (
                request.min_mod_revision,
                request.max_mod_revision,
                (|kv| kv.mod_revision) as fn(&KeyValue) -> i64,
            ),
            (request.min_create_revision, request.max_create_revision, |kv| kv.create_revision),
        ];
        for (min, max, of) in bounds {
            kvs.retain(|kv| (min == 0 || of(kv) >= min) && (max == 0 || of(kv) <= max));
        }
        let descend = request.sort_order == SortOrder::Descend as i32;
        let target = SortTarget::try_from(request.sort_target).expect("a target");
        if target != SortTarget::Key || descend {
            // Up to 12 elements etcd's sort is stable.
            assert!(kvs.len() <= 12 || target == SortTarget::Key, "the test asks for no ties above 12");
            kvs.sort_by(|a, b| {
                let order = match target {
                    SortTarget::Key => a.key.cmp(&b.key),
                    SortTarget::Version => a.version.cmp(&b.version),
                    SortTarget::Create => a.create_revision.cmp(&b.create_revision),
                    SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
                    SortTarget::Value => a.value.cmp(&b.value),
                };
                if descend { order.reverse() } else { order }
            });
        }
        let more = request.limit > 0 && kvs.len() > request.limit as usize;
        if more {
            kvs.truncate(request.limit as usize);
        }
        if request.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value.clear());
        }
        Ok(pb::RangeResponse { header: header(now), kvs, more, count })
    }

    /// Compares as versions only: the recorded traces have all the others.
    fn path(&self, request: &pb::TxnRequest, path: &mut Vec<bool>) {
        let holds = request.compare.iter().all(|compare| {
            let Some(pb::compare::TargetUnion::Version(bound)) = compare.target_union else {
                panic!("a version")
            };
            let kvs = self.span(&compare.key, &compare.range_end, i64::MAX);
            let greater = |version: i64| version > bound;
            if kvs.is_empty() { greater(0) } else { kvs.iter().all(|kv| greater(kv.version)) }
        });
        path.push(holds);
        for op in if holds { &request.success } else { &request.failure } {
            if let Some(Request::RequestTxn(nested)) = &op.request {
                self.path(nested, path);
            }
        }
    }

    fn check(&self, request: &pb::TxnRequest, path: &mut impl Iterator<Item = bool>) -> Result<(), Error> {
        let taken = path.next().expect("decided");
        for op in if taken { &request.success } else { &request.failure } {
            match op.request.as_ref().expect("an operation") {
                Request::RequestRange(range) if range.revision > self.current => {
                    return Err(errors::FUTURE_REV);
                }
                Request::RequestRange(range) if range.revision != 0 && range.revision < self.compacted => {
                    return Err(errors::COMPACTED);
                }
                Request::RequestPut(put) => self.check_put(put)?,
                Request::RequestTxn(nested) => self.check(nested, path)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn execute(
        &mut self,
        request: &pb::TxnRequest,
        path: &mut impl Iterator<Item = bool>,
    ) -> Result<pb::TxnResponse, Error> {
        let succeeded = path.next().expect("decided");
        let mut responses = Vec::new();
        for op in if succeeded { &request.success } else { &request.failure } {
            let response = match op.request.as_ref().expect("an operation") {
                Request::RequestRange(range) => Response::ResponseRange(self.range(range)?),
                Request::RequestPut(put) => Response::ResponsePut(self.put_inside(put)?),
                Request::RequestDeleteRange(delete) => {
                    Response::ResponseDeleteRange(self.delete_inside(delete))
                }
                Request::RequestTxn(nested) => Response::ResponseTxn(self.execute(nested, path)?),
            };
            responses.push(pb::ResponseOp { response: Some(response) });
        }
        Ok(pb::TxnResponse { header: header(0), succeeded, responses })
    }

    /// What fails half-way is undone as a whole.
    pub fn txn(&mut self, request: &pb::TxnRequest) -> Result<pb::TxnResponse, Error> {
        let mut path = Vec::new();
        self.path(request, &mut path);
        self.check(request, &mut path.iter().copied())?;
        let mut after = self.clone();
        let mut answer = after.execute(request, &mut path.iter().copied())?;
        answer.header = header(after.now());
        after.end();
        *self = after;
        Ok(answer)
    }

    pub fn compact(&mut self, revision: i64) -> Result<(), Error> {
        if revision <= self.compacted {
            return Err(errors::COMPACTED);
        }
        if revision > self.current {
            return Err(errors::FUTURE_REV);
        }
        self.compacted = revision;
        Ok(())
    }

    /// `None` when nothing is kept and removal is under way: then the hash says how far it has come.
    pub fn hash_kv(&self, revision: i64, removed: bool) -> Option<KeyValueHash> {
        let kept = |versions: &Vec<(Revision, Option<KeyValue>)>| {
            let seen = versions.iter().rposition(|(at, _)| at.main <= revision)?;
            let (at, kv) = &versions[seen];
            kv.as_ref()?;
            let reborn = versions[..seen]
                .iter()
                .any(|(other, kv)| other.main == revision && at.main == revision && kv.is_none());
            (!reborn).then_some(*at)
        };
        let any = self.keys.values().any(|versions| kept(versions).is_some());
        if !any && !removed {
            return None;
        }
        let mut all = BTreeMap::new();
        for (key, versions) in &self.keys {
            let seen = versions.iter().rfind(|(at, _)| at.main <= revision).map(|(at, _)| *at);
            let stays = versions.iter().rfind(|(at, _)| at.main <= self.compacted).map(|(at, _)| *at);
            for (at, kv) in versions.iter().filter(|(at, _)| at.main <= revision) {
                let counts = at.main > self.compacted
                    || (kv.is_some() && if any { Some(*at) == seen } else { Some(*at) == stays });
                if counts {
                    all.insert(*at, (key, kv));
                }
            }
        }
        let mut crc = base::crc32c(b"key");
        for (at, (key, kv)) in all {
            let kind = if kv.is_some() { Kind::Put } else { Kind::Delete };
            let (name, len) = bucket_key(at, kind);
            crc = base::crc32c_append(crc, &name[..len]);
            let tombstone = KeyValue { key: key.clone(), ..Default::default() };
            crc = base::crc32c_append(crc, &kv.as_ref().unwrap_or(&tombstone).encode_to_vec());
        }
        Some(KeyValueHash { hash: crc, compact_revision: self.compacted, revision })
    }
}
