//! The key space as a plain map, index by index of the log: written from etcd's rules, not from Mainstay's code. Knows
//! only what the scripts propose.

use std::collections::{BTreeMap, BTreeSet};

use mvcc::Revisions;
use mvcc::cell::Cell;
use mvcc::trees::{LEASES, LIVE};
use proto::etcdserverpb as pb;
use replica::Request;
use tree::View;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pair {
    value: Vec<u8>,
    create: i64,
    modified: i64,
    version: i64,
    lease: i64,
}

#[derive(Clone, Debug)]
pub(super) struct Model {
    revision: i64,
    compacted: i64,
    pairs: BTreeMap<Vec<u8>, Pair>,
    leases: BTreeSet<i64>,
    /// A disk was full: nothing grows until somebody lowers the alarm, which no script does.
    full: bool,
}

/// What a state looks like to clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Picture {
    pub revision: i64,
    pub compacted: i64,
    /// Pairs, and a checksum of all there is to them.
    pub pairs: (u64, u32),
    pub leases: Vec<i64>,
}

fn digest<'a>(pairs: impl Iterator<Item = (&'a [u8], &'a [u8], [i64; 4])>) -> (u64, u32) {
    let (mut count, mut hash) = (0, 0);
    for (key, value, numbers) in pairs {
        count += 1;
        hash = base::crc32c_append(hash, key);
        hash = base::crc32c_append(hash, value);
        for number in numbers {
            hash = base::crc32c_append(hash, &number.to_le_bytes());
        }
    }
    (count, hash)
}

impl Picture {
    pub fn of(view: View<'_>) -> Picture {
        let Revisions { current, compacted } = Revisions::of(view.stamp());
        let mut cursor = view.cursor(LIVE);
        let mut more = cursor.seek_first();
        let pairs = digest(std::iter::from_fn(|| {
            if !std::mem::replace(&mut more, false) {
                return None;
            }
            let kv = Cell::new(cursor.value()).kv();
            more = cursor.next();
            Some((kv.key, kv.value, [kv.create, kv.mod_, kv.version, kv.lease]))
        }));
        let mut cursor = view.cursor(LEASES);
        let (mut leases, mut more) = (Vec::new(), cursor.seek_first());
        while more {
            leases.push(i64::from_be_bytes(cursor.key().try_into().expect("the id of a lease")));
            more = cursor.next();
        }
        Picture { revision: current, compacted, pairs, leases }
    }
}

impl Model {
    pub fn new() -> Model {
        Model { revision: 1, compacted: -1, pairs: BTreeMap::new(), leases: BTreeSet::new(), full: false }
    }

    pub fn picture(&self) -> Picture {
        let pairs = self.pairs.iter().map(|(key, pair)| {
            (&key[..], &pair.value[..], [pair.create, pair.modified, pair.version, pair.lease])
        });
        Picture {
            revision: self.revision,
            compacted: self.compacted,
            pairs: digest(pairs),
            leases: self.leases.iter().copied().collect(),
        }
    }

    /// Applies a committed entry of a request.
    pub fn apply(&mut self, data: &[u8]) -> Result<(), String> {
        let (_, request) =
            Request::decode(data).map_err(|error| format!("an entry does not decode: {error}"))?;
        let main = self.revision + 1;
        let changed = match request {
            // The transactions of scripts have a put in them.
            Request::Put(_) | Request::Txn(_) | Request::LeaseGrant(_) if self.full => false,
            Request::Put(put) => self.put(&put, main),
            Request::DeleteRange(delete) => self.delete(&delete),
            Request::Txn(txn) => self.txn(&txn, main),
            Request::Compaction(compaction) => {
                let revision = compaction.revision;
                if revision > self.compacted && revision <= self.revision {
                    self.compacted = revision;
                }
                false
            }
            Request::LeaseGrant(grant) => {
                self.leases.insert(grant.id);
                false
            }
            Request::LeaseRevoke(revoke) => {
                let before = self.pairs.len();
                if self.leases.remove(&revoke.id) {
                    self.pairs.retain(|_, pair| pair.lease != revoke.id);
                }
                self.pairs.len() < before
            }
            Request::Alarm(alarm) => {
                let raises = alarm.action == pb::alarm_request::AlarmAction::Activate as i32;
                self.full |= raises && alarm.alarm == pb::AlarmType::Nospace as i32;
                false
            }
            // What the cluster says to itself.
            Request::Other(_) => false,
        };
        self.revision += i64::from(changed);
        Ok(())
    }

    fn put(&mut self, put: &pb::PutRequest, main: i64) -> bool {
        if put.lease != 0 && !self.leases.contains(&put.lease) {
            return false;
        }
        let fresh = Pair { value: Vec::new(), create: main, modified: 0, version: 0, lease: 0 };
        let pair = self.pairs.entry(put.key.clone()).or_insert(fresh);
        pair.value.clone_from(&put.value);
        pair.modified = main;
        pair.version += 1;
        pair.lease = put.lease;
        true
    }

    fn delete(&mut self, delete: &pb::DeleteRangeRequest) -> bool {
        let before = self.pairs.len();
        if delete.range_end.is_empty() {
            self.pairs.remove(&delete.key);
        } else {
            self.pairs.retain(|key, _| *key < delete.key || *key >= delete.range_end);
        }
        self.pairs.len() < before
    }

    /// Compares versions for equality; puts and deletes, each key at most once.
    fn txn(&mut self, txn: &pb::TxnRequest, main: i64) -> bool {
        let holds = txn.compare.iter().all(|compare| {
            let Some(pb::compare::TargetUnion::Version(version)) = &compare.target_union else {
                unreachable!("scripts compare versions")
            };
            self.pairs.get(&compare.key).map_or(0, |pair| pair.version) == *version
        });
        let mut changed = false;
        for operation in if holds { &txn.success } else { &txn.failure } {
            changed |= match &operation.request {
                Some(pb::request_op::Request::RequestPut(put)) => self.put(put, main),
                Some(pb::request_op::Request::RequestDeleteRange(delete)) => self.delete(delete),
                _ => false,
            };
        }
        changed
    }
}
