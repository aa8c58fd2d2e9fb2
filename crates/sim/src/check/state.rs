//! A store at rest, by the public faces of its layers.
//!
//! - [`store`], [`view`]: the page graph is closed, counts are recounts, no page is both free and reachable
//!   (`tree::verify`); and the trees agree with each other: every change has its version and every version its
//!   change, revisions and the changes in them have no gaps, each key's versions count up, what a lease holds is what
//!   names the lease, what compaction should have removed is gone. Not for a store that was restored with its
//!   revision raised: there revisions do have a gap.
//! - [`durable`], [`applied`]: after a crash the log holds what it had promised, and the data file is not ahead of it.

use std::collections::HashMap;

use mvcc::cell::Cell;
use mvcc::trees::{self, CHANGES, HISTORY, Kind, LEASE_KEYS, LEASES, LIVE, SUPERSEDED};
use mvcc::{Revisions, changes, stamp, versions};
use tree::{Store, VerifyReport, View};

use super::{Finding, Rule};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub pages: VerifyReport,
    /// Versions and tombstones that are stored.
    pub changes: u64,
    pub keys: u64,
    pub leased: u64,
}

fn rows(text: String) -> Finding {
    Finding::new(Rule::Rows, 0, text)
}

/// The writer's store: its books too.
pub fn store(store: &Store) -> Result<Summary, Finding> {
    let pages = tree::verify(store).map_err(|error| Finding::new(Rule::Pages, 0, error.to_string()))?;
    check_rows(store.view(), pages)
}

/// One root, beside a running writer.
pub fn view(view: View<'_>) -> Result<Summary, Finding> {
    let pages = tree::verify_view(view).map_err(|error| Finding::new(Rule::Pages, 0, error.to_string()))?;
    check_rows(view, pages)
}

/// What the newest change of a key so far left.
#[derive(Clone, Copy)]
enum Left {
    Pair { create: i64, version: i64 },
    Nothing,
}

fn check_rows(view: View<'_>, pages: VerifyReport) -> Result<Summary, Finding> {
    if view.stamp().iter().all(|word| *word == 0) {
        // Made, and no checkpoint since: the log alone has everything.
        return match (0..view.trees()).find(|tree| view.len(*tree) > 0) {
            Some(tree) => Err(rows(format!("tree {tree} of a store without a checkpoint has rows"))),
            None => Ok(Summary { pages, ..Summary::default() }),
        };
    }
    let revisions = Revisions::of(view.stamp());
    let removed_to = if stamp::removal_pending(view.stamp()) {
        stamp::finished(view.stamp())
    } else {
        revisions.compacted
    };
    let mut summary = Summary { pages, ..Summary::default() };
    check_history(view)?;
    let mut left: HashMap<&[u8], (i64, Left)> = HashMap::new();
    let mut newest = revisions.compacted.max(1);
    let (mut last_main, mut last_sub) = (0, 0);
    for change in changes::changes(view, 0, i64::MAX - 1) {
        let at = change.revision;
        let key = String::from_utf8_lossy(change.key);
        summary.changes += 1;
        if at.main > revisions.compacted {
            let follows = if at.main == last_main { at.sub == last_sub + 1 } else { at.sub == 0 };
            if !follows || at.main > newest + 1 {
                return Err(rows(format!(
                    "{at:?} of {key} follows ({last_main}, {last_sub}): there is a gap"
                )));
            }
        }
        newest = newest.max(at.main);
        (last_main, last_sub) = (at.main, at.sub);
        let (main_before, before) = left.get(change.key).copied().unzip();
        let spared = change.kind == Kind::Put || at.main >= removed_to;
        // Deletes at the compacted revision itself stay, also when that put the key again.
        let tombstone = main_before == Some(removed_to) && matches!(before, Some(Left::Nothing));
        let superseded = before.is_some() && !tombstone;
        if at.main <= removed_to && (superseded || !spared) {
            return Err(rows(format!("{key} at {at:?} should have been removed: compacted to {removed_to}")));
        }
        let after = match change.kind {
            Kind::Put => put_at(view, change.key, at, before, revisions)?,
            Kind::Delete => {
                let mut name = Vec::new();
                trees::history_key(&mut name, change.key, at);
                if view.get(HISTORY, &name) != Some(&[]) {
                    return Err(rows(format!("the delete of {key} at {at:?} has no tombstone")));
                }
                let excused = before.is_none() && at.main <= revisions.compacted;
                if !excused && !matches!(before, Some(Left::Pair { .. })) {
                    return Err(rows(format!("{at:?} deletes {key}, which did not exist")));
                }
                Left::Nothing
            }
        };
        left.insert(change.key, (at.main, after));
    }
    if newest != revisions.current {
        return Err(rows(format!("the newest change is of revision {newest}: {revisions:?}")));
    }
    let stored = view.len(LIVE) + view.len(HISTORY);
    if (summary.changes, summary.changes) != (view.len(CHANGES), stored) {
        return Err(rows(format!("{} changes, {stored} versions and tombstones", summary.changes)));
    }
    summary.keys = left.values().filter(|(_, left)| matches!(left, Left::Pair { .. })).count() as u64;
    check_live(view, &mut summary)?;
    Ok(summary)
}

/// Entries and checksum of each tree that compaction leaves alone: of one member (its id is among them) the same at the
/// same applied index, whatever came between.
pub fn lasting(view: View<'_>) -> Vec<(u64, u32)> {
    let lasting = (0..view.trees()).filter(|tree| ![CHANGES, HISTORY, SUPERSEDED].contains(tree));
    lasting
        .map(|tree| {
            let mut cursor = view.cursor(tree);
            let (mut hash, mut more) = (0, cursor.seek_first());
            while more {
                for bytes in [cursor.key(), cursor.value()] {
                    hash = base::crc32c_append(hash, &(bytes.len() as u64).to_le_bytes());
                    hash = base::crc32c_append(hash, bytes);
                }
                more = cursor.next();
            }
            (view.len(tree), hash)
        })
        .collect()
}

/// Every entry of history names a superseded version of its own, or nothing: a tombstone.
fn check_history(view: View<'_>) -> Result<(), Finding> {
    let mut cursor = view.cursor(HISTORY);
    let (mut named, mut more) = (0, cursor.seek_first());
    while more {
        let (key, at) = trees::split_history_key(cursor.key());
        let by = cursor.value();
        if !by.is_empty() {
            named += 1;
            let cell = view.get(SUPERSEDED, by).map(Cell::new);
            if cell.is_none_or(|cell| cell.kv().key != key || cell.revision() != at) {
                let key = String::from_utf8_lossy(key);
                return Err(rows(format!("history has {key} at {at:?}, but not the version itself")));
            }
        }
        more = cursor.next();
    }
    match view.len(SUPERSEDED) {
        count if count == named => Ok(()),
        count => Err(rows(format!("{count} superseded versions, {named} named by history"))),
    }
}

/// The version that a put wrote, against the one before.
fn put_at(
    view: View<'_>,
    key: &[u8],
    at: base::Revision,
    before: Option<Left>,
    revisions: Revisions,
) -> Result<Left, Finding> {
    let name = String::from_utf8_lossy(key);
    let Some(kv) = versions::exactly(view, key, at).map(Cell::kv) else {
        return Err(rows(format!("the put of {name} at {at:?} has no version")));
    };
    let (create, version) = (kv.create, kv.version);
    let fits = match before {
        Some(Left::Pair { create: since, version: count }) => (create, version) == (since, count + 1),
        Some(Left::Nothing) => (create, version) == (at.main, 1),
        None if at.main > revisions.compacted => (create, version) == (at.main, 1),
        None => create <= at.main && version >= 1,
    };
    if !fits || kv.key != key || kv.mod_ != at.main {
        return Err(rows(format!("{name} at {at:?} is created at {create}, version {version}")));
    }
    Ok(Left::Pair { create, version })
}

fn check_live(view: View<'_>, summary: &mut Summary) -> Result<(), Finding> {
    let mut cursor = view.cursor(LIVE);
    let (mut walked, mut more) = (0, cursor.seek_first());
    let mut name = Vec::new();
    while more {
        walked += 1;
        let kv = Cell::new(cursor.value()).kv();
        if kv.lease != 0 {
            summary.leased += 1;
            trees::lease_item_key(&mut name, kv.lease, kv.key);
            let known = view.get(LEASES, &trees::lease_key(kv.lease)).is_some();
            if !known || view.get(LEASE_KEYS, &name).is_none() {
                let key = String::from_utf8_lossy(kv.key);
                return Err(rows(format!("lease {} does not hold {key}; known: {known}", kv.lease)));
            }
        }
        more = cursor.next();
    }
    if walked != summary.keys {
        return Err(rows(format!("{} keys live by their changes, {walked} by a walk", summary.keys)));
    }
    if view.len(LEASE_KEYS) != summary.leased {
        let held = view.len(LEASE_KEYS);
        return Err(rows(format!("leases hold {held} keys, {} name their lease", summary.leased)));
    }
    Ok(())
}

/// After a crash: what the log had called durable is there, or was superseded in a later term. `hard_state` is what
/// was durable of it before.
pub fn durable(
    promised: &wal::Durable,
    hard_state: &wal::HardState,
    recovered: &wal::Recovered,
) -> Result<(), Finding> {
    let (last, last_term) = recovered.last;
    let broken = |text: String| Err(Finding::new(Rule::Durable, 0, text));
    if last < promised.index && last_term <= promised.term {
        return broken(format!("{promised:?} was promised, the log ends at {last} of term {last_term}"));
    }
    let entry = recovered.entries.iter().find(|entry| entry.index == promised.index);
    if let Some(entry) = entry
        && entry.term < promised.term
    {
        return broken(format!("{promised:?} was promised, the log has term {} there", entry.term));
    }
    let found = recovered.hard_state;
    let voted_again = found.term == hard_state.term && hard_state.vote != 0 && found.vote != hard_state.vote;
    if found.term < hard_state.term || voted_again {
        return broken(format!("{hard_state:?} was durable, the log has {found:?}"));
    }
    Ok(())
}

/// The data file has applied nothing that its log does not hold.
pub fn applied(stamp: &tree::Stamp, recovered: &wal::Recovered) -> Result<(), Finding> {
    let (applied, term) = stamp::applied(stamp);
    let (last, last_term) = recovered.last;
    if applied > last {
        let text = format!("applied is {applied} of term {term}, the log ends at {last} of term {last_term}");
        return Err(Finding::new(Rule::Durable, 0, text));
    }
    Ok(())
}
