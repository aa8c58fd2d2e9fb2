//! What the log core lets everybody see without asking it: plain atomics beside the published root.
//!
//! Each value is a statement of its own; nothing may be derived from two of them being read together, except what
//! the fields' own words promise. The revision that a reader acts on always comes from the root it pinned.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering};

use base::MemberId;
#[cfg(doc)]
use base::limits::HISTORY_HOLD_MS;
use base::limits::PIN_SLOTS;
use proto::etcdserverpb::AlarmType;

pub struct Published {
    pub cluster_id: MemberId,
    pub member_id: MemberId,
    /// Quota of the store in bytes as configured: 0 is the default, negative is "no quota".
    pub quota_config_bytes: i64,
    leader: AtomicU64,
    term: AtomicU64,
    committed: AtomicU64,
    applied: AtomicU64,
    read_ready: AtomicBool,
    is_learner: AtomicBool,
    alarms: AtomicU8,
    used_bytes: AtomicU64,
    file_bytes: AtomicU64,
    watchers: AtomicI64,
    /// `major << 16 | minor`, 0 while undecided.
    cluster_version: AtomicU64,
    event_revision: AtomicU64,
    /// For each shard (each has a pin of its own) the oldest revision that a range under way there still reads; `i64::MAX` when there is none.
    held: Box<[AtomicI64]>,
    compaction_hashes: Mutex<mvcc::hash::CompactionHashes>,
}

/// etcd's default quota: 2 GiB.
pub const QUOTA_DEFAULT_BYTES: i64 = mvcc::quota::DEFAULT_BYTES as i64;

macro_rules! word {
    ($get:ident, $set:ident) => {
        pub fn $get(&self) -> u64 {
            self.$get.load(Ordering::Acquire)
        }

        pub(crate) fn $set(&self, value: u64) {
            self.$get.store(value, Ordering::Release);
        }
    };
}

impl Published {
    pub fn new(cluster_id: MemberId, member_id: MemberId, quota_config_bytes: i64) -> Published {
        Published {
            cluster_id,
            member_id,
            quota_config_bytes,
            leader: AtomicU64::new(0),
            term: AtomicU64::new(0),
            committed: AtomicU64::new(0),
            applied: AtomicU64::new(0),
            read_ready: AtomicBool::new(false),
            is_learner: AtomicBool::new(false),
            alarms: AtomicU8::new(0),
            used_bytes: AtomicU64::new(0),
            file_bytes: AtomicU64::new(0),
            watchers: AtomicI64::new(0),
            cluster_version: AtomicU64::new(0),
            event_revision: AtomicU64::new(0),
            held: (0..PIN_SLOTS).map(|_| AtomicI64::new(i64::MAX)).collect(),
            compaction_hashes: Mutex::default(),
        }
    }

    // The member that leads, as far as this one knows; 0 is nobody.
    word!(leader, set_leader);
    word!(term, set_term);
    word!(committed, set_committed);
    word!(applied, set_applied);
    word!(used_bytes, set_used_bytes);
    word!(file_bytes, set_file_bytes);
    word!(cluster_version, set_cluster_version);
    // Every event up to this revision was put into the shards' rings, or never will be.
    word!(event_revision, set_event_revision);

    /// The hashes of the newest finished compactions, for HashKV. Helper threads only: the lock is held while
    /// hashing.
    pub fn compaction_hashes(&self) -> std::sync::MutexGuard<'_, mvcc::hash::CompactionHashes> {
        self.compaction_hashes.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// True while the published root is itself a read barrier: this member leads, is the only voter, and the root
    /// has applied an entry of its own term (law 10).
    pub fn read_ready(&self) -> bool {
        self.read_ready.load(Ordering::Acquire)
    }

    pub(crate) fn set_read_ready(&self, ready: bool) {
        self.read_ready.store(ready, Ordering::Release);
    }

    pub fn is_learner(&self) -> bool {
        self.is_learner.load(Ordering::Acquire)
    }

    pub fn alarm(&self, alarm: AlarmType) -> bool {
        self.alarms.load(Ordering::Acquire) & (1 << alarm as u8) != 0
    }

    pub(crate) fn set_alarms(&self, mask: u8) {
        self.alarms.store(mask, Ordering::Release);
    }

    /// How many watchers all shards have, synced or not. While there are none, apply builds no events.
    pub fn watchers(&self) -> i64 {
        self.watchers.load(Ordering::SeqCst)
    }

    /// A shard says that it has `delta` more watchers. Raised before the shard reads the root that a new watcher
    /// starts from, so that a batch applied later carries its events (or the shard sees the gap).
    pub fn add_watchers(&self, delta: i64) {
        let before = self.watchers.fetch_add(delta, Ordering::SeqCst);
        assert!(before + delta >= 0, "watchers are counted down as often as up");
    }

    /// A shard says what it still reads of history: the revision of its oldest range that is produced piece by piece,
    /// or nothing. Removal stops short of it, so that a range which began before a compaction is given to its end. For
    /// [`HISTORY_HOLD_MS`] each, which the shard counts. It is a wish: removal may have passed the revision already,
    /// which the range notices by itself.
    pub fn hold_history(&self, shard: u16, oldest: Option<i64>) {
        self.held[usize::from(shard)].store(oldest.unwrap_or(i64::MAX), Ordering::Release);
    }

    /// As [`Published::hold_history`], beside what the shard holds already.
    pub fn hold_history_too(&self, shard: u16, revision: i64) {
        self.held[usize::from(shard)].fetch_min(revision, Ordering::AcqRel);
    }

    /// The oldest revision that anybody still reads; `i64::MAX` when nobody reads any.
    pub(crate) fn held_history(&self) -> i64 {
        self.held.iter().map(|held| held.load(Ordering::Acquire)).min().unwrap_or(i64::MAX)
    }

    /// Whether a request that costs `cost_bytes` still fits.
    pub fn has_room(&self, cost_bytes: u64) -> bool {
        self.has_room_at(self.used_bytes(), cost_bytes)
    }

    pub(crate) fn has_room_at(&self, used_bytes: u64, cost_bytes: u64) -> bool {
        let used_bytes = if base::bug!(QuotaCutShort) { 2 * used_bytes } else { used_bytes };
        mvcc::quota::available(cost_bytes, used_bytes, self.quota_config_bytes)
    }
}
