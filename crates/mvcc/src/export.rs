//! The `key` bucket of an etcd database file, out and in: pairs of (17 or 18 byte revision key, KeyValue message) in
//! revision order.
//!
//! An import rebuilds the trees by playing the changes. It believes nothing: what does not parse, does not stand in
//! order, does not fit or leaves no numbers to count on is an error that says where. Leases must be imported before, so
//! that keys find theirs.

use std::borrow::Cow;
use std::fmt;

use base::Revision;
use base::limits::REVISION_MAX;
use tree::{Store, View};

use crate::cell::{Cell, Fields, KvRef};
use crate::changes::{self, Changes};
use crate::compact;
use crate::hash::{bucket_key, parse_bucket_key};
use crate::stamp::{self, Revisions};
use crate::trees::{self, CHANGES, HISTORY, Kind, LEASE_KEYS, LEASES, LIVE};
use crate::versions;

/// One pair of the bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair<'a> {
    key: [u8; 18],
    key_len: usize,
    pub value: Cow<'a, [u8]>,
}

impl Pair<'_> {
    pub fn key(&self) -> &[u8] {
        &self.key[..self.key_len]
    }
}

/// Everything stored, in order. What compaction has not removed yet is there too, as in etcd's file.
pub fn pairs(view: View<'_>) -> Pairs<'_> {
    Pairs { changes: changes::changes(view, 0, Revisions::of(view.stamp()).current) }
}

pub struct Pairs<'a> {
    changes: Changes<'a>,
}

impl<'a> Iterator for Pairs<'a> {
    type Item = Pair<'a>;

    fn next(&mut self) -> Option<Pair<'a>> {
        let change = self.changes.next()?;
        let (key, key_len) = bucket_key(change.revision, change.kind);
        let value = match change.cell() {
            Some(cell) => Cow::Borrowed(cell.wire()),
            None => {
                let mut made = Vec::new();
                Cow::Owned(change.stored(&mut made).to_vec())
            }
        };
        Some(Pair { key, key_len, value })
    }
}

/// What a bucket cannot hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImportError {
    /// Not a revision key.
    Key(Vec<u8>),
    /// Not above the pair before.
    Order(Revision),
    /// Not a KeyValue message in canonical form, or without a key, or of another revision.
    Value(Revision),
    /// Longer than a store can hold.
    Large(Revision),
    /// A revision above [`REVISION_MAX`]: of a pair, or up to which the file is compacted.
    Far(i64),
    /// The store is not empty.
    NotEmpty,
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImportError::Key(key) => write!(f, "{key:02x?} is no key of the bucket `key`"),
            ImportError::Order(revision) => {
                write!(f, "revision {}_{} does not come after the one before it", revision.main, revision.sub)
            }
            ImportError::Value(revision) => {
                write!(f, "the value at revision {}_{} is not a key-value pair", revision.main, revision.sub)
            }
            ImportError::Large(revision) => {
                write!(f, "the pair at revision {}_{} is too long", revision.main, revision.sub)
            }
            ImportError::Far(revision) => {
                write!(
                    f,
                    "revision {revision} is above {REVISION_MAX}: there would be none left for later writes"
                )
            }
            ImportError::NotEmpty => write!(f, "the store to import into holds keys already"),
        }
    }
}

impl std::error::Error for ImportError {}

/// An import under way. The caller reserves room and publishes as it goes.
pub struct Import<'s> {
    store: &'s mut Store,
    last: Revision,
    cell: Vec<u8>,
    key: Vec<u8>,
    change: Vec<u8>,
}

impl<'s> Import<'s> {
    pub fn new(store: &'s mut Store) -> Result<Import<'s>, ImportError> {
        stamp::initialise(store);
        if !store.view().is_empty(CHANGES) || !store.view().is_empty(LIVE) {
            return Err(ImportError::NotEmpty);
        }
        let last = Revision::new(0, 0);
        Ok(Import { store, last, cell: Vec::new(), key: Vec::new(), change: Vec::new() })
    }

    /// For publishing and reserving between pairs.
    pub fn store(&mut self) -> &mut Store {
        self.store
    }

    /// Adds the next pair.
    pub fn push(&mut self, key: &[u8], value: &[u8]) -> Result<(), ImportError> {
        let (revision, kind) = parse_bucket_key(key).ok_or_else(|| ImportError::Key(key.to_vec()))?;
        if revision <= self.last {
            return Err(ImportError::Order(revision));
        }
        if revision.main > REVISION_MAX {
            return Err(ImportError::Far(revision.main));
        }
        let sub = u32::try_from(revision.sub).map_err(|_| ImportError::Key(key.to_vec()))?;
        let kv =
            KvRef::from_wire(value).filter(|kv| !kv.key.is_empty()).ok_or(ImportError::Value(revision))?;
        let sound = kv.mod_ == revision.main
            && (1..=kv.mod_).contains(&kv.create)
            && (1..=REVISION_MAX).contains(&kv.version);
        if kind == Kind::Put && !sound {
            return Err(ImportError::Value(revision));
        }
        self.cell.clear();
        if kind == Kind::Put {
            kv.fields.push_cell(sub, &mut self.cell);
        }
        // The longest key is that of `HISTORY`.
        if self.cell.len().max(kv.key.len() + Revision::BYTES) > self.store.longest_bytes() {
            return Err(ImportError::Large(revision));
        }
        self.last = revision;
        let old = versions::newest(self.store.view(), kv.key).map(Cell::kv);
        let old = old.map(|old| (old.revision(), old.lease));
        let taken = match kind {
            Kind::Put => self.store.replace(LIVE, kv.key, &self.cell),
            Kind::Delete => self.store.take(LIVE, kv.key),
        };
        if let (Some(taken), Some((old, _))) = (taken, old) {
            trees::supersede(self.store, &mut self.key, kv.key, old, revision, taken);
        }
        if kind == Kind::Delete {
            trees::history_key(&mut self.key, kv.key, revision);
            self.store.insert(HISTORY, &self.key, &[]);
        }
        self.change.clear();
        self.change.push(kind as u8);
        self.change.extend_from_slice(kv.key);
        self.store.insert(CHANGES, &revision.to_bytes(), &self.change);
        self.attach(kv.key, old.map_or(0, |(_, lease)| lease), if kind == Kind::Put { kv.lease } else { 0 });
        Ok(())
    }

    fn attach(&mut self, key: &[u8], from: i64, to: i64) {
        if from == to {
            return;
        }
        if from != 0 {
            trees::lease_item_key(&mut self.key, from, key);
            self.store.remove(LEASE_KEYS, &self.key);
        }
        if to != 0 && self.store.view().get(LEASES, &trees::lease_key(to)).is_some() {
            trees::lease_item_key(&mut self.key, to, key);
            self.store.insert(LEASE_KEYS, &self.key, &[]);
        }
    }

    /// Ends the import. `finished` and `scheduled` are the compacted revisions that the file's meta bucket names, -1
    /// when it names none; a compaction that was scheduled and not finished goes on here. Returns the revision.
    pub fn finish(self, finished: i64, scheduled: i64) -> Result<i64, ImportError> {
        let compacted = finished.max(scheduled);
        if compacted > REVISION_MAX {
            return Err(ImportError::Far(compacted));
        }
        let current = self.last.main.max(compacted).max(1);
        stamp::set_imported(self.store, current, finished.max(-1));
        if scheduled > finished {
            compact::begin(self.store, scheduled);
        }
        Ok(current)
    }
}

/// What etcd stores for a tombstone.
pub fn tombstone_value(key: &[u8]) -> Vec<u8> {
    let mut value = Vec::new();
    Fields { key, ..Fields::default() }.push_wire(&mut value);
    value
}
