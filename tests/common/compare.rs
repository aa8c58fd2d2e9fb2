//! What may differ between two servers that behave alike, and nothing else.
//!
//! Every exemption stands in [`EXEMPTIONS`] with its reason; code that applies one names it through [`Exempt::use_of`].

use std::collections::BTreeMap;

use proto::etcdserverpb::*;
use proto::mvccpb::{self, KeyValue};

use super::steps::{Answer, Request};

/// (name, what is not compared, why)
pub const EXEMPTIONS: &[(&str, &str, &str)] = &[
    ("status-size", "Status.dbSize, dbSizeInUse", "sizes of bbolt's file, and of whatever we store in"),
    ("applied-index", "Status.raftAppliedIndex one behind raftIndex", "etcd stores it after it has answered"),
    ("hash", "Hash.hash", "covers the buckets of the backend; HashKV is the one that members compare"),
    ("remaining-ttl", "LeaseTimeToLive.TTL", "counts seconds down; must lie within the age of the run"),
    (
        "chosen-lease",
        "ids that a server chose for LeaseGrant(ID=0)",
        "random by design; always mapped to placeholders",
    ),
    ("lease-keys", "order of LeaseTimeToLive.keys", "etcd ranges over a Go map"),
    (
        "lease-order",
        "order of LeaseLeases",
        "by expiry, and two leases that expire within a moment of each other may stand either way: each server \
         granted them by its own clock",
    ),
    ("alarm-order", "order of alarms in Alarm(GET) and Status.errors", "etcd ranges over a Go map"),
    (
        "alarm-text",
        "spaces within Status.errors",
        "Go's protobuf text varies them with the build of the binary",
    ),
    (
        "sort-ties",
        "order within equal sort values, above 12 items",
        "Go's unstable sort; at the limit the choice too",
    ),
    (
        "stream-chunks",
        "chunk borders of RangeStream",
        "etcd sizes chunks by its own estimate; contents are compared",
    ),
    (
        "event-batches",
        "how events are grouped into responses, and those headers' revisions",
        "depends on timing; always joined",
    ),
    (
        "compacted-prev-kv",
        "prev_kv that etcd cannot read any more",
        "ours may keep supplying it, as Kubernetes wants",
    ),
    ("token", "Authenticate.token", "random by design"),
];

/// Counts how often each exemption mattered.
#[derive(Default)]
pub struct Exempt {
    pub used: BTreeMap<&'static str, u64>,
    /// Seconds since the run began, rounded up.
    pub age_s: i64,
}

impl Exempt {
    fn use_of(&mut self, name: &'static str) {
        assert!(EXEMPTIONS.iter().any(|exemption| exemption.0 == name), "{name} is not in the table");
        *self.used.entry(name).or_default() += 1;
    }

    /// Removes from both answers what may differ.
    pub fn apply(&mut self, request: &Request, theirs: &mut Answer, ours: &mut Answer) {
        if theirs == ours {
            return;
        }
        match (request, theirs, ours) {
            (_, Answer::Status(a), Answer::Status(b)) => {
                self.use_of("status-size");
                for status in [&mut *a, &mut *b] {
                    status.db_size = i64::from(status.db_size > 0);
                    status.db_size_in_use = i64::from(status.db_size_in_use > 0);
                }
                if a.raft_applied_index != b.raft_applied_index {
                    self.use_of("applied-index");
                    for status in [&mut *a, &mut *b] {
                        if status.raft_applied_index + 1 == status.raft_index {
                            status.raft_applied_index = status.raft_index;
                        }
                    }
                }
                if a.errors != b.errors {
                    self.use_of("alarm-text");
                    for error in a.errors.iter_mut().chain(&mut b.errors) {
                        *error = error.split_whitespace().collect::<Vec<_>>().join(" ");
                    }
                }
                if a.errors != b.errors {
                    self.use_of("alarm-order");
                    a.errors.sort();
                    b.errors.sort();
                }
            }
            (_, Answer::Hash(a), Answer::Hash(b)) => {
                self.use_of("hash");
                (a.hash, b.hash) = (0, 0);
            }
            (_, Answer::Authenticate(a), Answer::Authenticate(b)) => {
                self.use_of("token");
                for answer in [a, b] {
                    answer.token = if answer.token.is_empty() { String::new() } else { "some".into() };
                }
            }
            (_, Answer::Alarm(a), Answer::Alarm(b)) => {
                self.use_of("alarm-order");
                for answer in [a, b] {
                    answer.alarms.sort_by_key(|alarm| (alarm.alarm, alarm.member_id));
                }
            }
            (_, Answer::LeaseTimeToLive(a), Answer::LeaseTimeToLive(b)) => {
                if a.ttl != b.ttl {
                    self.use_of("remaining-ttl");
                    for answer in [&mut *a, &mut *b] {
                        let gone = answer.granted_ttl - answer.ttl;
                        if answer.ttl >= 0 && (0..=self.age_s + 1).contains(&gone) {
                            answer.ttl = answer.granted_ttl;
                        }
                    }
                }
                if a.keys != b.keys {
                    self.use_of("lease-keys");
                    a.keys.sort();
                    b.keys.sort();
                }
            }
            (_, Answer::LeaseLeases(a), Answer::LeaseLeases(b)) if a.leases != b.leases => {
                self.use_of("lease-order");
                for answer in [a, b] {
                    answer.leases.sort_by_key(|lease| lease.id);
                }
            }
            (_, Answer::RangeStream(a), Answer::RangeStream(b)) => {
                self.use_of("stream-chunks");
                join_chunks(a);
                join_chunks(b);
            }
            (Request::Range(request), Answer::Range(a), Answer::Range(b)) => self.ties(request, a, b),
            (Request::Txn(request), Answer::Txn(a), Answer::Txn(b)) => self.txn_ties(request, a, b),
            _ => {}
        }
    }

    fn txn_ties(&mut self, request: &TxnRequest, a: &mut TxnResponse, b: &mut TxnResponse) {
        if a.succeeded != b.succeeded || a.responses.len() != b.responses.len() {
            return;
        }
        let ops = if a.succeeded { &request.success } else { &request.failure };
        for ((op, a), b) in ops.iter().zip(&mut a.responses).zip(&mut b.responses) {
            use request_op::Request as Op;
            use response_op::Response;
            match (&op.request, &mut a.response, &mut b.response) {
                (
                    Some(Op::RequestRange(r)),
                    Some(Response::ResponseRange(a)),
                    Some(Response::ResponseRange(b)),
                ) => {
                    self.ties(r, a, b);
                }
                (Some(Op::RequestTxn(r)), Some(Response::ResponseTxn(a)), Some(Response::ResponseTxn(b))) => {
                    self.txn_ties(r, a, b);
                }
                _ => {}
            }
        }
    }

    fn ties(&mut self, request: &RangeRequest, a: &mut RangeResponse, b: &mut RangeResponse) {
        // Up to 12 items Go sorts by insertion, which is stable.
        if request.sort_target == 0 || a.count <= 12 || a.count != b.count || a.kvs.len() != b.kvs.len() {
            return;
        }
        let value = |kv: &KeyValue| match request.sort_target {
            1 => kv.version.to_be_bytes().to_vec(),
            2 => kv.create_revision.to_be_bytes().to_vec(),
            3 => kv.mod_revision.to_be_bytes().to_vec(),
            // With keys_only the values are gone, and everything may be a tie.
            _ => kv.value.clone(),
        };
        if a.kvs.iter().zip(&b.kvs).any(|(a, b)| value(a) != value(b)) {
            return;
        }
        self.use_of("sort-ties");
        for answer in [a, b] {
            let last = answer.kvs.last().map(value);
            if answer.more {
                // Who of the last group got in is up to the sort.
                for kv in answer.kvs.iter_mut().rev().take_while(|kv| Some(value(kv)) == last) {
                    *kv = KeyValue::default();
                }
            }
            for group in answer.kvs.chunk_by_mut(|x, y| value(x) == value(y)) {
                group.sort_by(|x, y| x.key.cmp(&y.key));
            }
        }
    }
}

/// One response for a whole stream, unless a chunk breaks a rule: then the chunks stay as they are.
fn join_chunks(chunks: &mut Vec<RangeResponse>) {
    let Some((last, front)) = chunks.split_last() else { return };
    let rules = front
        .iter()
        .all(|chunk| chunk.header.is_none() && !chunk.more && chunk.count == 0 && !chunk.kvs.is_empty());
    if rules && last.header.is_some() {
        let mut joined = last.clone();
        joined.kvs = chunks.iter().flat_map(|chunk| chunk.kvs.iter().cloned()).collect();
        *chunks = vec![joined];
    }
}

/// What one watcher was told, in order, without the borders of responses.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// A response that created or cancelled, without events.
    Control(WatchResponse),
    Event(mvccpb::Event),
    /// A response that breaks a rule by itself.
    Wrong(String),
}

/// Stands for the watchers that were never created.
const REFUSED: i64 = i64::MIN;

/// What the watchers of one stream were told.
#[derive(Debug, Default)]
pub struct StreamLog {
    pub told: BTreeMap<i64, Vec<Told>>,
    pub created: u64,
    pub cancelled: u64,
    /// The newest response with `created`.
    pub newest: Option<WatchResponse>,
    /// Revision of the newest progress answer.
    pub progress: i64,
    /// The stream's end: code and text.
    pub ended: Option<String>,
}

impl StreamLog {
    pub fn add(&mut self, response: WatchResponse) {
        // A refused creation has the id -1, which a watcher may have too.
        let refused = response.created && response.canceled;
        let told = self.told.entry(if refused { REFUSED } else { response.watch_id }).or_default();
        let Some(header) = response.header else {
            told.push(Told::Wrong("a watch response without a header".into()));
            return;
        };
        if response.created || response.canceled {
            self.created += u64::from(response.created);
            self.cancelled += u64::from(response.canceled);
            if response.created {
                self.newest = Some(response.clone());
            }
            if !response.events.is_empty() {
                told.push(Told::Wrong(format!("events in a control response: {response:?}")));
            }
            told.push(Told::Control(response));
            return;
        }
        if response.events.is_empty() {
            if response.watch_id == -1 {
                self.progress = self.progress.max(header.revision);
            } else {
                told.push(Told::Wrong(format!("an empty response: {response:?}")));
            }
            return;
        }
        let newest =
            response.events.iter().filter_map(|event| event.kv.as_ref()).map(|kv| kv.mod_revision).max();
        if newest.is_none_or(|newest| header.revision < newest) {
            told.push(Told::Wrong(format!(
                "header revision {} before an event of {newest:?}",
                header.revision
            )));
        }
        told.extend(response.events.into_iter().map(Told::Event));
    }
}

impl Exempt {
    /// Whether both streams said the same; drops `prev_kv` where etcd could not read it any more.
    pub fn same_stream(&mut self, theirs: &mut StreamLog, ours: &mut StreamLog, compacted: i64) -> bool {
        for (id, told) in &theirs.told {
            let Some(other) = ours.told.get_mut(id) else { continue };
            for (theirs, ours) in told.iter().zip(other.iter_mut()) {
                if let (Told::Event(theirs), Told::Event(ours)) = (theirs, ours)
                    && theirs.prev_kv.is_none()
                    && ours.prev_kv.is_some()
                    && theirs.kv.as_ref().is_some_and(|kv| kv.mod_revision <= compacted)
                {
                    self.use_of("compacted-prev-kv");
                    ours.prev_kv = None;
                }
            }
        }
        let quiet = |told: &BTreeMap<i64, Vec<Told>>| -> BTreeMap<i64, Vec<Told>> {
            told.iter().filter(|(_, told)| !told.is_empty()).map(|(id, told)| (*id, told.clone())).collect()
        };
        theirs.ended == ours.ended && quiet(&theirs.told) == quiet(&ours.told)
    }
}
