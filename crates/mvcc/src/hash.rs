//! HashKV: CRC-32C over what etcd's `key` bucket would hold, byte for byte, so that members of both kinds agree.
//!
//! The bytes: the bucket's name, then for each change in revision order its key (main BE8, `_`, sub BE8, and `t` for
//! a tombstone) and its stored KeyValue. What is left out, for a hash at `revision` with `compacted` as the bound:
//! - everything above `revision`;
//! - at or below `compacted`: whatever is not the newest version of its key at `revision`, but only when at least one
//!   key has such a version; otherwise everything still stored counts, and the hash depends on how far removal has
//!   come;
//! - tombstones exactly at `compacted`.
//!
//! The hash of a compaction uses the compacted revision before it as its bound, so it must run over a view in which
//! nothing of that compaction is removed yet: pin it when the request is applied, and hold removal until it is done.
//!
//! Runs to minutes on large stores: for a helper, in steps if the pin shall not be held.

use base::{Revision, crc32c, crc32c_append};
use proto::{Error, errors};
use tree::View;

use crate::cell::Cell;
use crate::changes::{self, Change};
use crate::span::Span;
use crate::stamp::{self, Revisions};
use crate::trees::{self, HISTORY, Kind};
use crate::versions::{self, Walk};

const BUCKET: &[u8] = b"key";
const SEPARATOR: u8 = b'_';
const TOMBSTONE: u8 = b't';

/// A hash and what it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyValueHash {
    pub hash: u32,
    /// The bound that it was computed with; -1 when nothing was ever compacted.
    pub compact_revision: i64,
    pub revision: i64,
}

/// The key of etcd's bucket for a change: 17 bytes, or 18 for a tombstone.
pub fn bucket_key(revision: Revision, kind: Kind) -> ([u8; 18], usize) {
    let bytes = revision.to_bytes();
    let mut key = [TOMBSTONE; 18];
    key[..8].copy_from_slice(&bytes[..8]);
    key[8] = SEPARATOR;
    key[9..17].copy_from_slice(&bytes[8..]);
    (key, if kind == Kind::Delete { 18 } else { 17 })
}

/// The reverse of [`bucket_key`]; `None` when it is no such key.
pub fn parse_bucket_key(key: &[u8]) -> Option<(Revision, Kind)> {
    let kind = match key.len() {
        17 => Kind::Put,
        18 if key[17] == TOMBSTONE => Kind::Delete,
        _ => return None,
    };
    let mut bytes = [0; Revision::BYTES];
    bytes[..8].copy_from_slice(&key[..8]);
    bytes[8..].copy_from_slice(&key[9..17]);
    if key[8] != SEPARATOR {
        return None;
    }
    Revision::from_bytes(&bytes).map(|revision| (revision, kind))
}

/// A hash under way. All steps must see the same content up to the revision: one snapshot, or several with no
/// removal between them.
#[derive(Clone, Debug)]
pub struct Hasher {
    crc: u32,
    compacted: i64,
    revision: i64,
    next: Revision,
    /// Only newest versions count at or below the bound.
    kept_only: bool,
    made: Vec<u8>,
}

impl Hasher {
    /// What HashKV asks for; revision 0 means the newest. Errors: compacted, future.
    pub fn query(view: View<'_>, revision: i64) -> Result<Hasher, Error> {
        let Revisions { current, compacted } = Revisions::of(view.stamp());
        let first = if base::bug!(PastHashRefused) { current } else { compacted };
        if revision > 0 && revision < first {
            return Err(errors::COMPACTED);
        }
        if revision > current {
            return Err(errors::FUTURE_REV);
        }
        let revision = if revision == 0 { current } else { revision };
        let kept_only = revision > 0 && keeps_any(view, revision, current);
        Ok(Hasher::start(compacted, revision, kept_only))
    }

    /// What the compaction at `revision` hashes, where `previous` was the compacted revision before.
    pub fn compaction(view: View<'_>, previous: i64, revision: i64) -> Hasher {
        let current = Revisions::of(view.stamp()).current;
        assert!(previous < revision && revision <= current, "a compaction moves forward, within the store");
        assert!(stamp::intact_at(view.stamp(), previous), "nothing that it hashes is removed yet");
        // Unlike a query, a compaction counts the tombstones at its revision as kept.
        let kept_only = keeps_any(view, revision, current)
            || changes::changes(view, revision, revision).any(|change| change.kind == Kind::Delete);
        Hasher::start(previous, revision, kept_only)
    }

    fn start(compacted: i64, revision: i64, kept_only: bool) -> Hasher {
        let next = Revision::new(0, 0);
        Hasher { crc: crc32c(BUCKET), compacted, revision, next, kept_only, made: Vec::new() }
    }

    /// Looks at up to `limit` changes; the hash when that was the last of them.
    pub fn step(&mut self, view: View<'_>, limit: usize) -> Option<KeyValueHash> {
        assert!(limit > 0, "a step makes progress");
        for (seen, change) in changes::changes_from(view, self.next, self.revision).enumerate() {
            if seen == limit {
                return None;
            }
            self.next = Revision::new(change.revision.main, change.revision.sub + 1);
            self.add(view, &change);
        }
        Some(KeyValueHash { hash: self.crc, compact_revision: self.compacted, revision: self.revision })
    }

    fn add(&mut self, view: View<'_>, change: &Change<'_>) {
        let Revision { main, .. } = change.revision;
        assert!(main <= self.revision, "changes above the revision are not looked at");
        let tombstone = change.kind == Kind::Delete;
        if main <= self.compacted {
            if self.kept_only && (tombstone || !newest_at(view, change, self.revision)) {
                return;
            }
            if tombstone && main == self.compacted {
                return;
            }
        }
        let (key, len) = bucket_key(change.revision, change.kind);
        self.crc = crc32c_append(self.crc, &key[..len]);
        self.crc = crc32c_append(self.crc, change.stored(&mut self.made));
    }
}

/// Whether the put is what `revision` sees of its key.
fn newest_at(view: View<'_>, change: &Change<'_>, revision: i64) -> bool {
    let live = versions::newest(view, change.key).map(Cell::revision);
    if live == Some(change.revision) {
        return true;
    }
    // It was superseded by the next entry of its key in history; without one, by the live version.
    let mut seek = Vec::new();
    trees::history_key(&mut seek, change.key, Revision::new(change.revision.main, change.revision.sub + 1));
    let mut cursor = view.cursor(HISTORY);
    if cursor.seek(&seek) {
        let (key, next) = trees::split_history_key(cursor.key());
        if key == change.key {
            return next.main > revision;
        }
    }
    match live {
        Some(live) => live.main > revision,
        None => panic!("a put that is not live was superseded by something: {:?}", change.revision),
    }
}

/// Whether any key has a version at `revision` that a compaction there would keep.
fn keeps_any(view: View<'_>, revision: i64, newest: i64) -> bool {
    let mut walk = Walk::new(view, Span::all(), revision, newest, 1);
    let mut seek = Vec::new();
    while let Some((key, cell)) = walk.step() {
        let seen = cell.revision();
        if seen.main < revision || seen.sub == 0 {
            return true;
        }
        // A key that was deleted and put again within this very revision: etcd looks at the deleted life only, and
        // finds nothing to keep.
        trees::history_key(&mut seek, key, seen);
        let mut cursor = view.cursor(HISTORY);
        let reborn = cursor.seek_before(&seek) && {
            let (found, before) = trees::split_history_key(cursor.key());
            found == key && before.main == revision && cursor.value().is_empty()
        };
        if !reborn {
            return true;
        }
    }
    false
}

/// The hash of all that is readable up to `revision`. Errors: compacted, future.
pub fn hash_kv(view: View<'_>, revision: i64) -> Result<KeyValueHash, Error> {
    let mut hasher = Hasher::query(view, revision)?;
    match hasher.step(view, usize::MAX) {
        Some(hash) => Ok(hash),
        None => unreachable!("a step without a limit ends"),
    }
}

/// The hash that the compaction at `revision` leaves behind.
pub fn compaction_hash(view: View<'_>, previous: i64, revision: i64) -> KeyValueHash {
    match Hasher::compaction(view, previous, revision).step(view, usize::MAX) {
        Some(hash) => hash,
        None => unreachable!("a step without a limit ends"),
    }
}

/// The hashes of the newest compactions. They answer HashKV at exactly their revision before anything is computed or
/// checked, below the compacted revision too. In memory only: a restart forgets them.
#[derive(Clone, Debug, Default)]
pub struct CompactionHashes {
    newest_last: Vec<KeyValueHash>,
}

impl CompactionHashes {
    /// As many as etcd keeps.
    pub const KEPT: usize = 10;

    pub fn store(&mut self, hash: KeyValueHash) {
        self.newest_last.push(hash);
        self.newest_last.sort_by_key(|hash| hash.revision);
        if self.newest_last.len() > Self::KEPT {
            self.newest_last.remove(0);
        }
        assert!(self.newest_last.len() <= Self::KEPT, "one goes for one that comes");
    }

    pub fn get(&self, revision: i64) -> Option<KeyValueHash> {
        self.newest_last.iter().find(|hash| hash.revision == revision).copied()
    }

    /// Oldest first.
    pub fn all(&self) -> &[KeyValueHash] {
        &self.newest_last
    }
}

/// Answers HashKV: from the kept hashes, else from the store.
pub fn answer(view: View<'_>, kept: &CompactionHashes, revision: i64) -> Result<KeyValueHash, Error> {
    match kept.get(revision) {
        Some(hash) => Ok(hash),
        None => hash_kv(view, revision),
    }
}

/// How many keys exist; for metrics.
pub fn keys(view: View<'_>) -> u64 {
    versions::count_newest(view, Span::all())
}
