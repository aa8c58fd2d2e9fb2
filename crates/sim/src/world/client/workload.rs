//! What clients ask for: requests of every kind, over few keys, so that they meet.

use base::Random;
use proto::etcdserverpb as pb;

use super::Client;
use crate::world::Env;
use crate::world::profile::Workload;
use crate::world::queue::between;

/// Something to ask.
#[derive(Clone, Debug)]
pub(in crate::world) enum Ask {
    Put(pb::PutRequest),
    Delete(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Range(pb::RangeRequest),
    /// Sorted or filtered: judged by [`crate::world::ranges`].
    OddRange(pb::RangeRequest),
    Stream(pb::RangeRequest),
    Compact(pb::CompactionRequest),
    Grant(pb::LeaseGrantRequest),
    Revoke(pb::LeaseRevokeRequest),
    KeepAlive(i64),
    TimeToLive(pb::LeaseTimeToLiveRequest),
    Leases,
    Hash(pb::HashKvRequest),
    Snapshot,
    Defragment,
    Alarm(pb::AlarmRequest),
}

impl Ask {
    /// Lowers the alarm of a member that had no room.
    pub fn disarm(member_id: u64) -> Ask {
        Ask::Alarm(pb::AlarmRequest {
            action: pb::alarm_request::AlarmAction::Deactivate as i32,
            member_id,
            alarm: pb::AlarmType::Nospace as i32,
        })
    }
}

fn key(random: &mut Random, workload: &Workload) -> Vec<u8> {
    format!("k{:03}", random.below(workload.keys)).into_bytes()
}

/// A span of keys: one, a stretch, or all. The first bytes of keys sort as their numbers.
fn span(random: &mut Random, workload: &Workload) -> (Vec<u8>, Vec<u8>) {
    let from = key(random, workload);
    match random.below(6) {
        0..3 => (from, Vec::new()),
        3 => (from, format!("k{:03}", random.below(workload.keys + 2)).into_bytes()),
        4 => (b"k".to_vec(), b"l".to_vec()),
        _ => (vec![0], vec![0]),
    }
}

impl Client {
    /// The next thing to ask.
    pub(super) fn choose(&mut self, env: &mut Env) -> Ask {
        let workload = env.profile.workload.clone();
        let mix = &workload.mix;
        let weights = [
            mix.put,
            mix.delete,
            mix.txn,
            mix.range,
            mix.odd_range,
            mix.stream,
            mix.compact,
            mix.grant,
            mix.revoke,
            mix.keep_alive,
            mix.time_to_live,
            mix.hash,
            mix.snapshot,
            mix.defragment,
            mix.disarm,
        ];
        let mut drawn = self.random.below(weights.iter().sum());
        let mut kind = 0;
        while drawn >= weights[kind] {
            drawn -= weights[kind];
            kind += 1;
        }
        match kind {
            0 => {
                let mut put = self.put(&workload);
                if self.random.one_in(40) {
                    self.spoil(&mut put, env.profile.sizes.max_request_bytes);
                }
                Ask::Put(put)
            }
            1 => Ask::Delete(self.delete(&workload)),
            2 => Ask::Txn(self.txn(&workload, 0)),
            3 => Ask::Range(self.range(&workload)),
            4 => Ask::OddRange(self.odd_range(&workload)),
            5 => {
                // A streamed range says "no more" as its count only at its end; one of a single key is not streamed.
                Ask::Stream(self.range(&workload))
            }
            6 => Ask::Compact(self.compaction(&workload)),
            7 => {
                let id = if self.random.one_in(2) { 0 } else { 1 + self.random.below(6) as i64 };
                let ttl = match self.random.below(32) {
                    0 => base::limits::LEASE_TTL_MAX_S + 1,
                    1..5 => 600,
                    _ => 1 + self.random.below(20) as i64,
                };
                Ask::Grant(pb::LeaseGrantRequest { id, ttl })
            }
            8 => Ask::Revoke(pb::LeaseRevokeRequest { id: self.lease() }),
            9 => Ask::KeepAlive(self.lease()),
            10 => {
                let keys = self.random.one_in(2);
                Ask::TimeToLive(pb::LeaseTimeToLiveRequest { id: self.lease(), keys })
            }
            11 => {
                let revision = if self.random.one_in(2) { 0 } else { self.past() };
                Ask::Hash(pb::HashKvRequest { revision })
            }
            12 => Ask::Snapshot,
            13 => Ask::Defragment,
            _ => Ask::disarm(crate::world::member::member_id()),
        }
    }

    /// A lease that it knows of, or one that may be there.
    fn lease(&mut self) -> i64 {
        let known = self.knows.leases.len() as u64;
        if known > 0 && !self.random.one_in(6) {
            self.knows.leases[self.random.below(known) as usize]
        } else {
            1 + self.random.below(6) as i64
        }
    }

    /// A revision that was reached; mostly a recent one.
    fn past(&mut self) -> i64 {
        let newest = self.knows.revision.max(1);
        let back = if self.random.one_in(4) { self.random.below(200) } else { self.random.below(12) };
        (newest - back as i64).max(1)
    }

    fn value(&mut self, workload: &Workload) -> Vec<u8> {
        self.knows.serial += 1;
        let mut value = format!("c{}.{}", self.id, self.knows.serial).into_bytes();
        if self.random.one_in(workload.long_one_in) {
            let len = between(&mut self.random, workload.value_bytes / 2, workload.value_bytes) as usize;
            let filler = value[value.len() - 1];
            value.resize(value.len().max(len), filler);
        }
        value
    }

    fn put(&mut self, workload: &Workload) -> pb::PutRequest {
        let mut put = pb::PutRequest {
            key: key(&mut self.random, workload),
            prev_kv: self.random.one_in(4),
            ..Default::default()
        };
        match self.random.below(10) {
            0 => put.ignore_value = true,
            _ => put.value = self.value(workload),
        }
        match self.random.below(10) {
            0 => put.ignore_lease = true,
            1..4 if workload.mix.grant > 0 => put.lease = self.lease(),
            _ => {}
        }
        put
    }

    /// Makes it one that is refused for what it is, whatever the state.
    fn spoil(&mut self, put: &mut pb::PutRequest, max_request_bytes: usize) {
        match self.random.below(4) {
            0 => put.key.clear(),
            1 => (put.ignore_value, put.value) = (true, b"both".to_vec()),
            2 => (put.ignore_lease, put.lease) = (true, 1 + self.random.below(6) as i64),
            _ => {
                put.ignore_value = false;
                put.value = vec![b'x'; max_request_bytes + 1];
            }
        }
    }

    fn delete(&mut self, workload: &Workload) -> pb::DeleteRangeRequest {
        let (key, range_end) = span(&mut self.random, workload);
        // Not everything, every time.
        let range_end = if self.random.one_in(3) { range_end } else { Vec::new() };
        let key = if key == [0] && range_end.is_empty() { b"k000".to_vec() } else { key };
        pb::DeleteRangeRequest { key, range_end, prev_kv: self.random.one_in(3) }
    }

    fn range(&mut self, workload: &Workload) -> pb::RangeRequest {
        let (key, range_end) = span(&mut self.random, workload);
        let revision = match self.random.below(8) {
            0 | 1 => self.past(),
            2 if self.random.one_in(8) => self.knows.revision + 1_000_000,
            _ => 0,
        };
        pb::RangeRequest {
            key,
            range_end,
            limit: if self.random.one_in(3) { 1 + self.random.below(10) as i64 } else { 0 },
            revision,
            serializable: self.random.one_in(3),
            keys_only: self.random.one_in(6),
            count_only: self.random.one_in(10),
            ..Default::default()
        }
    }

    fn odd_range(&mut self, workload: &Workload) -> pb::RangeRequest {
        let mut range = pb::RangeRequest { count_only: false, ..self.range(workload) };
        if self.random.one_in(2) {
            (range.key, range.range_end) = (vec![0], vec![0]);
        }
        range.sort_order = self.random.below(3) as i32;
        range.sort_target = self.random.below(5) as i32;
        let near = self.past();
        match self.random.below(8) {
            0 => range.min_mod_revision = near,
            1 => range.max_mod_revision = near,
            2 => range.min_create_revision = near,
            3 => range.max_create_revision = near,
            _ => {}
        }
        range
    }

    fn compare(&mut self, workload: &Workload) -> pb::Compare {
        use pb::compare::{CompareTarget, TargetUnion};
        let (key, range_end) = match self.random.below(6) {
            0 => span(&mut self.random, workload),
            _ => (key(&mut self.random, workload), Vec::new()),
        };
        let (target, union) = match self.random.below(5) {
            0 => (CompareTarget::Version, TargetUnion::Version(self.random.below(4) as i64)),
            1 => (CompareTarget::Create, TargetUnion::CreateRevision(self.past())),
            2 => (CompareTarget::Mod, TargetUnion::ModRevision(self.past())),
            3 => (CompareTarget::Value, TargetUnion::Value(b"c1.5".to_vec())),
            _ => (CompareTarget::Lease, TargetUnion::Lease(self.random.below(3) as i64)),
        };
        pb::Compare {
            result: self.random.below(4) as i32,
            target: target as i32,
            key,
            range_end,
            target_union: Some(union),
        }
    }

    fn txn(&mut self, workload: &Workload, depth: u64) -> pb::TxnRequest {
        let compare = (0..self.random.below(3)).map(|_| self.compare(workload)).collect();
        let read_only = depth == 0 && self.random.one_in(5);
        let mut branch = || {
            let operations = self.random.below(4);
            (0..operations).map(|_| self.operation(workload, depth, read_only)).collect()
        };
        pb::TxnRequest { compare, success: branch(), failure: branch() }
    }

    fn operation(&mut self, workload: &Workload, depth: u64, read_only: bool) -> pb::RequestOp {
        use pb::request_op::Request;
        let request = match self.random.below(10) {
            _ if read_only => Request::RequestRange(self.range(workload)),
            0..5 => Request::RequestPut(self.put(workload)),
            5 | 6 => Request::RequestDeleteRange(self.delete(workload)),
            7 if depth < 2 => Request::RequestTxn(self.txn(workload, depth + 1)),
            _ => Request::RequestRange(self.range(workload)),
        };
        pb::RequestOp { request: Some(request) }
    }

    fn compaction(&mut self, workload: &Workload) -> pb::CompactionRequest {
        let revision = match self.random.below(12) {
            0 => self.knows.revision + 1_000_000,
            1 => self.knows.revision,
            _ => self.past(),
        };
        pb::CompactionRequest { revision, physical: self.random.one_in(workload.physical_one_in) }
    }
}
