//! What the log core counts, from what the replica says: answers, notes, and how long its turns took.
//!
//! Invariants: written by the log core's thread; the checkpoint's histogram by the one helper that writes the running
//! checkpoint. Times come from one reading of the clock before and one after a turn that has work, and are shared
//! evenly by the entries that the turn applied.
//!
//! The replica answers whoever proposed, and notes what nobody waits for (this member's own entries). An entry that
//! somebody waits for and that failed is not told apart by operation here; nor are the keys that the end of a lease
//! deletes among the deletes.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use api::meter::{ByOperation, Counter, Gauge, Histogram, Operation};
use base::Revision;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::response_op::Response as OpResponse;
use replica::{Note, Outcome, RequestKind, Response};

const MS: u64 = 1_000_000;

/// See the module.
#[derive(Debug)]
pub struct CoreMeter {
    pub puts: Counter,
    pub deletes: Counter,
    /// Ranges inside transactions that write.
    pub ranges: Counter,
    /// Transactions of more than one operation.
    pub txns: Counter,
    pub applies: ByOperation,
    /// Entries of turns that took longer than the warning threshold.
    pub applies_slow: Counter,
    pub leader_changes: Counter,
    /// From handing a batch to the kernel to knowing it durable.
    pub log_writes: Histogram,
    pub log_bytes: Counter,
    pub checkpoints: Histogram,
    pub leases_granted: Counter,
    pub leases_revoked: Counter,
    pub leases_renewed: Counter,
    pub leases_expired: Counter,
    /// Seconds.
    pub lease_ttl: Histogram,
    /// Versions that compaction removed.
    pub compaction_keys: Counter,
    /// Unix time, seconds.
    pub compaction_last: Gauge,
    /// Turns that held a step of removal.
    pub compaction_step: Histogram,
    pub compaction_total: Histogram,
}

impl Default for CoreMeter {
    fn default() -> CoreMeter {
        CoreMeter {
            puts: Counter::default(),
            deletes: Counter::default(),
            ranges: Counter::default(),
            txns: Counter::default(),
            applies: ByOperation::doubling(MS / 10, 20),
            applies_slow: Counter::default(),
            leader_changes: Counter::default(),
            log_writes: Histogram::doubling(MS, 14),
            log_bytes: Counter::default(),
            checkpoints: Histogram::doubling(MS, 14),
            leases_granted: Counter::default(),
            leases_revoked: Counter::default(),
            leases_renewed: Counter::default(),
            leases_expired: Counter::default(),
            lease_ttl: Histogram::doubling(1, 24),
            compaction_keys: Counter::default(),
            compaction_last: Gauge::default(),
            compaction_step: Histogram::doubling(MS, 13),
            compaction_total: Histogram::doubling(100 * MS, 14),
        }
    }
}

impl CoreMeter {
    pub fn log_write(&self, took: Duration, bytes: u64) {
        self.log_writes.observe_duration(took);
        self.log_bytes.add(bytes);
    }

    /// An answer leaves; its entry took `share_ns` to apply.
    pub fn outcome(&self, outcome: &Outcome, share_ns: u64) {
        let Ok(response) = &outcome.result else { return };
        let operation = match response {
            Response::Put(_) => {
                self.puts.inc();
                Operation::Put
            }
            Response::DeleteRange(_) => {
                self.deletes.inc();
                Operation::DeleteRange
            }
            Response::Txn(answer) => {
                self.count_txn(answer);
                Operation::Txn
            }
            Response::Compact(_) => Operation::Compaction,
            Response::LeaseGrant(answer) => {
                self.leases_granted.inc();
                self.lease_ttl.observe(u64::try_from(answer.ttl).unwrap_or(0));
                Operation::LeaseGrant
            }
            Response::LeaseRevoke(_) => {
                self.leases_revoked.inc();
                Operation::LeaseRevoke
            }
            Response::Alarm(_) => Operation::Alarm,
            Response::LeaseRenewed { ttl_s, .. } => {
                self.leases_renewed.add(u64::from(ttl_s.is_some()));
                return;
            }
            Response::Barrier
            | Response::CompactionAgreed
            | Response::LeaseTimeToLive(_)
            | Response::LeaseList(_)
            | Response::Defragmented
            | Response::LeaderMoved => return,
        };
        self.applies.observe(operation, true, share_ns);
    }

    fn count_txn(&self, answer: &pb::TxnResponse) {
        let mut counts = TxnCounts::default();
        counts.add(answer);
        self.puts.add(counts.puts);
        self.deletes.add(counts.deletes);
        self.ranges.add(counts.ranges);
        self.txns.add(u64::from(counts.puts + counts.deletes + counts.ranges > 1));
    }

    /// An entry that the note is of took `share_ns` to apply.
    pub fn note(&self, note: &Note, share_ns: u64) {
        match note {
            Note::AppliedUnasked { kind, refused } => {
                if let Some(operation) = operation_of(*kind) {
                    self.applies.observe(operation, !refused, share_ns);
                }
            }
            Note::BecameLeader { .. } => self.leader_changes.inc(),
            // The lease is revoked by a proposal of this member's own, which nobody waits for.
            Note::LeaseExpired { .. } => {
                self.leases_expired.inc();
                self.leases_revoked.inc();
            }
            _ => {}
        }
    }

    /// A turn of the replica that had work took so long and applied so many entries. Answers each entry's share,
    /// nanoseconds.
    pub fn turned(&self, took: Duration, applied: u64, slow: Duration) -> u64 {
        if applied == 0 {
            return 0;
        }
        if took > slow {
            self.applies_slow.add(applied);
        }
        took.as_nanos() as u64 / applied
    }
}

fn operation_of(kind: RequestKind) -> Option<Operation> {
    Some(match kind {
        RequestKind::Put => Operation::Put,
        RequestKind::DeleteRange => Operation::DeleteRange,
        RequestKind::Txn => Operation::Txn,
        RequestKind::Compaction => Operation::Compaction,
        RequestKind::LeaseGrant => Operation::LeaseGrant,
        RequestKind::LeaseRevoke => Operation::LeaseRevoke,
        RequestKind::LeaseCheckpoint => Operation::LeaseCheckpoint,
        RequestKind::Alarm => Operation::Alarm,
        RequestKind::ClusterVersionSet => Operation::ClusterVersionSet,
        RequestKind::ClusterMemberAttrSet => Operation::ClusterMemberAttrSet,
        RequestKind::DowngradeInfoSet => Operation::DowngradeInfoSet,
        RequestKind::Other => return None,
    })
}

/// What a transaction did, nested ones included.
#[derive(Default)]
struct TxnCounts {
    puts: u64,
    deletes: u64,
    ranges: u64,
}

impl TxnCounts {
    fn add(&mut self, answer: &pb::TxnResponse) {
        for op in &answer.responses {
            match &op.response {
                Some(OpResponse::ResponsePut(_)) => self.puts += 1,
                Some(OpResponse::ResponseDeleteRange(_)) => self.deletes += 1,
                Some(OpResponse::ResponseRange(_)) => self.ranges += 1,
                Some(OpResponse::ResponseTxn(inner)) => self.add(inner),
                None => {}
            }
        }
    }
}

/// Follows compactions: when they began, and how many changes stood below the revision at which that was.
pub struct Compactions {
    reader: tree::Reader,
    since: Option<Instant>,
    revision: i64,
    changes: u64,
    removing: bool,
}

impl Compactions {
    pub fn new(reader: tree::Reader) -> Compactions {
        Compactions { reader, since: None, revision: 0, changes: 0, removing: false }
    }

    /// The history was hashed: removal begins.
    pub fn hashed(&mut self) {
        self.removing = true;
    }

    /// A turn with work took so long.
    pub fn turned(&self, took: Duration, meter: &CoreMeter) {
        if self.removing {
            meter.compaction_step.observe_duration(took);
        }
    }

    pub fn note(&mut self, note: &Note, meter: &CoreMeter) {
        match note {
            Note::CompactionScheduled { .. } => {
                self.count_removed(meter);
                self.since.get_or_insert_with(Instant::now);
            }
            Note::CompactionFinished { .. } => {
                self.count_removed(meter);
                self.removing = false;
                if let Some(since) = self.since.take() {
                    meter.compaction_total.observe_duration(since.elapsed());
                }
                let unix = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
                meter.compaction_last.set(unix as i64);
            }
            _ => {}
        }
    }

    /// Every change stands in a tree until its version is removed, and those after a revision are never removed by
    /// its compaction: what is missing below the revision was removed since the last look.
    fn count_removed(&mut self, meter: &CoreMeter) {
        let snapshot = self.reader.pin();
        let view = snapshot.view();
        let below =
            |revision: i64| view.rank(mvcc::trees::CHANGES, &Revision::new(revision + 1, 0).to_bytes());
        if self.since.is_some() {
            meter.compaction_keys.add(self.changes.saturating_sub(below(self.revision)));
        }
        self.revision = mvcc::stamp::current(snapshot.stamp());
        self.changes = below(self.revision);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: base::CallToken = base::CallToken { shard: 0, connection: 0, epoch: 0, stream: 1 };

    fn answered(meter: &CoreMeter, response: Response) {
        meter.outcome(&Outcome { token: TOKEN, result: Ok(response) }, 150_000);
    }

    fn op(response: OpResponse) -> pb::ResponseOp {
        pb::ResponseOp { response: Some(response) }
    }

    #[test]
    fn transactions_are_counted_by_their_operations() {
        let meter = CoreMeter::default();
        let inner = pb::TxnResponse {
            responses: vec![op(OpResponse::ResponsePut(Default::default()))],
            ..Default::default()
        };
        answered(&meter, Response::Txn(inner.clone()));
        assert_eq!((meter.puts.get(), meter.txns.get()), (1, 0), "one operation is no transaction");
        let outer = pb::TxnResponse {
            responses: vec![
                op(OpResponse::ResponseRange(Default::default())),
                op(OpResponse::ResponseDeleteRange(Default::default())),
                op(OpResponse::ResponseTxn(inner)),
            ],
            ..Default::default()
        };
        answered(&meter, Response::Txn(outer));
        answered(&meter, Response::Put(Default::default()));
        answered(&meter, Response::DeleteRange(Default::default()));
        let counts = [&meter.puts, &meter.deletes, &meter.ranges, &meter.txns].map(Counter::get);
        assert_eq!(counts, [3, 2, 1, 1]);
        let used: Vec<_> = meter.applies.used().map(|(name, ok, cell)| (name, ok, cell.count())).collect();
        assert_eq!(used, [("Put", true, 1), ("DeleteRange", true, 1), ("Txn", true, 2)]);
    }

    #[test]
    fn leases() {
        let meter = CoreMeter::default();
        let grant = pb::LeaseGrantResponse { ttl: 100, ..Default::default() };
        answered(&meter, Response::LeaseGrant(grant));
        answered(&meter, Response::LeaseRenewed { id: 1, ttl_s: Some(100), revision: 1 });
        answered(&meter, Response::LeaseRenewed { id: 1, ttl_s: None, revision: 1 });
        answered(&meter, Response::LeaseRevoke(Default::default()));
        meter.note(&Note::LeaseExpired { id: 2 }, 0);
        let counts =
            [&meter.leases_granted, &meter.leases_renewed, &meter.leases_revoked, &meter.leases_expired];
        assert_eq!(counts.map(Counter::get), [1, 1, 2, 1]);
        assert_eq!(meter.lease_ttl.read().1, 100);
    }

    #[test]
    fn compactions_count_the_versions_that_they_removed() {
        let options = tree::Options { chunk_bytes: 1 << 20, max_chunks: 1 << 12, reserve_bytes: 1 << 16 };
        let specs = &mvcc::trees::SPECS;
        let mut store = tree::Store::open(&disk::SimFiles::new(), "data", specs, options).expect("it is new");
        assert!(mvcc::stamp::initialise(&mut store));
        let mut work = mvcc::Work::default();
        let mut put = |store: &mut tree::Store, key: &[u8]| {
            let put = pb::PutRequest { key: key.into(), value: b"v".into(), ..Default::default() };
            mvcc::Apply::new(store, &mut work).put(&put).expect("no lease is named");
            let _ = work.events.take();
            store.publish();
        };
        // Revisions 2 to 6: four versions of a, one of b.
        [b"a", b"a", b"b", b"a", b"a"].into_iter().for_each(|key| put(&mut store, key));
        let meter = CoreMeter::default();
        let mut compactions = Compactions::new(store.readers().register());
        let request = pb::CompactionRequest { revision: 5, physical: false };
        mvcc::Apply::new(&mut store, &mut mvcc::Work::default())
            .compact(&request)
            .expect("it can be compacted");
        store.publish();
        compactions.note(&Note::CompactionScheduled { revision: 5 }, &meter);
        // What comes meanwhile does not count.
        put(&mut store, b"c");
        compactions.hashed();
        while mvcc::Apply::new(&mut store, &mut mvcc::Work::default()).compaction_step(1) {}
        store.publish();
        compactions.turned(Duration::from_millis(1), &meter);
        compactions.note(&Note::CompactionFinished { revision: 5 }, &meter);
        compactions.turned(Duration::from_millis(1), &meter);
        // The version of revision 5 is what a read at 5 finds: 2 and 3 went.
        assert_eq!(meter.compaction_keys.get(), 2);
        assert_eq!((meter.compaction_total.count(), meter.compaction_step.count()), (1, 1));
        assert!(meter.compaction_last.get() > 0);
    }

    #[test]
    fn entries_that_nobody_waits_for_are_applies() {
        let meter = CoreMeter::default();
        for (kind, refused) in [
            (RequestKind::LeaseRevoke, false),
            (RequestKind::LeaseRevoke, true),
            (RequestKind::ClusterVersionSet, false),
            (RequestKind::ClusterMemberAttrSet, false),
            (RequestKind::Other, false),
        ] {
            meter.note(&Note::AppliedUnasked { kind, refused }, 150_000);
        }
        let mut used: Vec<_> =
            meter.applies.used().map(|(name, ok, cell)| (name, ok, cell.count())).collect();
        used.sort_unstable();
        let own = [
            ("ClusterMemberAttrSet", true, 1),
            ("ClusterVersionSet", true, 1),
            ("LeaseRevoke", false, 1),
            ("LeaseRevoke", true, 1),
        ];
        assert_eq!(used, own);
        assert_eq!(meter.leases_revoked.get(), 0, "counted when the lease expired");
    }

    #[test]
    fn failures_and_reads_are_no_applies() {
        let meter = CoreMeter::default();
        meter.outcome(&Outcome { token: TOKEN, result: Err(proto::errors::NO_LEADER) }, 1);
        answered(&meter, Response::Barrier);
        assert_eq!(meter.applies.used().count(), 0);
    }

    #[test]
    fn entries_share_their_turn() {
        let meter = CoreMeter::default();
        let slow = Duration::from_millis(100);
        assert_eq!(meter.turned(Duration::from_micros(90), 3, slow), 30_000);
        assert_eq!(meter.turned(Duration::from_micros(90), 0, slow), 0);
        assert_eq!(meter.applies_slow.get(), 0);
        meter.turned(Duration::from_millis(101), 2, slow);
        assert_eq!(meter.applies_slow.get(), 2);
    }
}
