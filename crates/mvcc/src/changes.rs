//! The changes of a stretch of revisions, in order: what a watcher that lags reads, and what hash and export run over.
//!
//! An entry names its key and kind; the version itself is looked up only when it is asked for, so that changes of
//! keys that nobody wants cost a step and nothing more.
//!
//! The version before a change is given whenever it is still stored, below the compacted revision too. etcd gives
//! none there; Kubernetes ends a watch whose events lack it.

use base::Revision;
use tree::{Cursor, View};

use crate::cell::{Cell, Fields};
use crate::event::EventBatch;
use crate::trees::{self, CHANGES, Kind};
use crate::versions;

/// One change that is still stored.
#[derive(Clone, Copy)]
pub struct Change<'a> {
    pub revision: Revision,
    pub kind: Kind,
    pub key: &'a [u8],
    view: View<'a>,
}

/// The changes from one main revision to another, both included, as far as compaction has left them.
pub fn changes(view: View<'_>, from: i64, to: i64) -> Changes<'_> {
    changes_from(view, Revision::new(from.max(0), 0), to)
}

/// As [`changes`], from the middle of a revision.
pub fn changes_from(view: View<'_>, from: Revision, to: i64) -> Changes<'_> {
    let mut cursor = view.cursor(CHANGES);
    let at = cursor.seek(&from.to_bytes());
    Changes { cursor, at, to }
}

pub struct Changes<'a> {
    cursor: Cursor<'a>,
    at: bool,
    to: i64,
}

impl<'a> Iterator for Changes<'a> {
    type Item = Change<'a>;

    fn next(&mut self) -> Option<Change<'a>> {
        if !self.at {
            return None;
        }
        let revision = trees::change_revision(self.cursor.key());
        if revision.main > self.to {
            self.at = false;
            return None;
        }
        let (kind, key) = trees::split_change(self.cursor.value());
        let view = self.cursor.view();
        self.at = self.cursor.next();
        Some(Change { revision, kind, key, view })
    }
}

impl<'a> Change<'a> {
    /// The version that a put wrote; `None` for a delete.
    pub fn cell(&self) -> Option<Cell<'a>> {
        if self.kind == Kind::Delete {
            return None;
        }
        let cell = versions::exactly(self.view, self.key, self.revision);
        assert!(cell.is_some(), "a put has its version: {:?}", self.revision);
        cell
    }

    /// What the revision before saw of the key, if it saw anything and it is still stored.
    pub fn prev(&self) -> Option<Cell<'a>> {
        versions::superseded_at(self.view, self.key, self.revision.main - 1)
    }

    /// The KeyValue message as etcd stores it for this change; of a delete, the key alone. `made` may be written to.
    pub fn stored<'b>(&self, made: &'b mut Vec<u8>) -> &'b [u8]
    where
        'a: 'b,
    {
        match self.cell() {
            Some(cell) => cell.wire(),
            None => {
                made.clear();
                Fields { key: self.key, ..Fields::default() }.push_wire(made);
                made
            }
        }
    }
}

impl EventBatch {
    /// Adds what a watcher is told about a change.
    pub fn push_change(&mut self, change: &Change<'_>, with_prev: bool) {
        let prev = |wanted: bool| if wanted { change.prev().map(Cell::wire) } else { None };
        match change.cell() {
            Some(cell) => {
                let kv = cell.kv();
                assert!(kv.key == change.key, "a version is of its change's key");
                let created = kv.create == kv.mod_;
                let prev = prev(with_prev && !created);
                self.push_put(change.revision, created, kv.key, kv.wire, prev);
            }
            None => self.push_delete(change.revision, change.key, prev(with_prev)),
        }
    }
}
