//! The named trees of the store, in their fixed order, and how their keys are made.
//!
//! The order is part of the file format: a new tree goes to the end, an old one is never renamed or moved.

use base::{LeaseId, Revision};
use tree::{KeyOrder, Store, Taken, TreeId, TreeSpec, View};

use crate::cell::Cell;

/// user key -> cell of its newest version.
pub const LIVE: TreeId = 0;
/// user key ++ main BE8 ++ sub BE8 of a superseded version -> key in `SUPERSEDED`; or empty: a tombstone.
pub const HISTORY: TreeId = 1;
/// main BE8 ++ sub BE8 -> kind (one byte) ++ user key.
pub const CHANGES: TreeId = 2;
/// lease id BE8 -> leasepb.Lease.
pub const LEASES: TreeId = 3;
/// lease id BE8 ++ user key -> empty.
pub const LEASE_KEYS: TreeId = 4;
/// member id BE8 -> member.
pub const MEMBERS: TreeId = 5;
/// member id BE8 -> empty.
pub const REMOVED_MEMBERS: TreeId = 6;
/// name -> bytes: cluster version, configuration state and the like.
pub const META: TreeId = 7;
/// member id BE8 ++ alarm BE4 -> empty.
pub const ALARMS: TreeId = 8;
/// name -> bytes: enabled, auth revision.
pub const AUTH: TreeId = 9;
/// user name -> authpb.User.
pub const AUTH_USERS: TreeId = 10;
/// role name -> authpb.Role.
pub const AUTH_ROLES: TreeId = 11;
/// main BE8 ++ sub BE8 of a change -> cell of the version that it superseded, if any. Apart from `HISTORY`, so that
/// values are appended and only small entries go to random places: a page written is a page to make durable.
pub const SUPERSEDED: TreeId = 12;

pub static SPECS: [TreeSpec; 13] = [
    TreeSpec { name: "live", order: KeyOrder::Bytes },
    TreeSpec { name: "history", order: KeyOrder::Suffixed(Revision::BYTES) },
    TreeSpec { name: "changes", order: KeyOrder::Bytes },
    TreeSpec { name: "leases", order: KeyOrder::Bytes },
    TreeSpec { name: "lease_keys", order: KeyOrder::Bytes },
    TreeSpec { name: "members", order: KeyOrder::Bytes },
    TreeSpec { name: "removed_members", order: KeyOrder::Bytes },
    TreeSpec { name: "meta", order: KeyOrder::Bytes },
    TreeSpec { name: "alarms", order: KeyOrder::Bytes },
    TreeSpec { name: "auth", order: KeyOrder::Bytes },
    TreeSpec { name: "auth_users", order: KeyOrder::Bytes },
    TreeSpec { name: "auth_roles", order: KeyOrder::Bytes },
    TreeSpec { name: "superseded", order: KeyOrder::Bytes },
];

/// What a change did to its key; the first byte of an entry of `CHANGES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Put = 0,
    Delete = 1,
}

impl Kind {
    pub fn from_byte(byte: u8) -> Option<Kind> {
        match byte {
            0 => Some(Kind::Put),
            1 => Some(Kind::Delete),
            _ => None,
        }
    }
}

/// Writes the key of `HISTORY` into `buffer`, replacing what was there.
pub fn history_key(buffer: &mut Vec<u8>, key: &[u8], revision: Revision) {
    assert!(!key.is_empty(), "a user key is not empty");
    buffer.clear();
    buffer.reserve(key.len() + Revision::BYTES);
    buffer.extend_from_slice(key);
    buffer.extend_from_slice(&revision.to_bytes());
}

/// Takes a key of `HISTORY` apart.
pub fn split_history_key(stored: &[u8]) -> (&[u8], Revision) {
    let Some((key, revision)) = stored.split_last_chunk::<{ Revision::BYTES }>() else {
        panic!("a history key of {} bytes has no revision", stored.len());
    };
    (key, change_revision(revision))
}

/// Moves a version out of `LIVE` into the past: the change at `by` superseded it. `buffer` may be written to.
pub fn supersede(
    store: &mut Store,
    buffer: &mut Vec<u8>,
    key: &[u8],
    revision: Revision,
    by: Revision,
    version: Taken,
) {
    assert!(revision < by, "a change supersedes what is older");
    history_key(buffer, key, revision);
    store.insert(HISTORY, buffer, &by.to_bytes());
    store.insert_taken(SUPERSEDED, &by.to_bytes(), version);
}

/// The cell that a value of `HISTORY` stands for; `None` for a tombstone.
#[inline]
pub fn superseded<'a>(view: View<'a>, stored: &[u8]) -> Option<Cell<'a>> {
    if stored.is_empty() {
        return None;
    }
    assert!(stored.len() == Revision::BYTES, "an entry of history names a revision");
    match view.get(SUPERSEDED, stored) {
        Some(cell) => Some(Cell::new(cell)),
        None => panic!("what history names is there: {stored:?}"),
    }
}

/// Reads the key of an entry of `CHANGES`.
pub fn change_revision(stored: &[u8]) -> Revision {
    match Revision::from_bytes(stored) {
        Some(revision) => revision,
        None => panic!("{stored:?} is not a revision"),
    }
}

/// Takes the value of an entry of `CHANGES` apart.
pub fn split_change(stored: &[u8]) -> (Kind, &[u8]) {
    let Some((&kind, key)) = stored.split_first() else { panic!("a change names its key") };
    assert!(!key.is_empty(), "a user key is not empty");
    match Kind::from_byte(kind) {
        Some(kind) => (kind, key),
        None => panic!("{kind} is no kind of change"),
    }
}

/// The key of `LEASES`; also the prefix of the lease's keys in `LEASE_KEYS`.
pub fn lease_key(id: LeaseId) -> [u8; 8] {
    id.to_be_bytes()
}

/// Writes the key of `LEASE_KEYS` into `buffer`, replacing what was there.
pub fn lease_item_key(buffer: &mut Vec<u8>, id: LeaseId, key: &[u8]) {
    assert!(id != 0, "lease 0 is no lease");
    buffer.clear();
    buffer.extend_from_slice(&lease_key(id));
    buffer.extend_from_slice(key);
}

/// The keys that a lease holds, in byte order.
pub fn keys_of_lease<'a>(view: View<'a>, id: LeaseId) -> impl Iterator<Item = &'a [u8]> {
    let prefix = lease_key(id);
    let mut cursor = view.cursor(LEASE_KEYS);
    let mut at = cursor.seek(&prefix);
    std::iter::from_fn(move || {
        if !at {
            return None;
        }
        let key = cursor.key().strip_prefix(&prefix)?;
        at = cursor.next();
        Some(key)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_positions() {
        let names = [
            (LIVE, "live"),
            (HISTORY, "history"),
            (CHANGES, "changes"),
            (LEASES, "leases"),
            (LEASE_KEYS, "lease_keys"),
            (MEMBERS, "members"),
            (REMOVED_MEMBERS, "removed_members"),
            (META, "meta"),
            (ALARMS, "alarms"),
            (AUTH, "auth"),
            (AUTH_USERS, "auth_users"),
            (AUTH_ROLES, "auth_roles"),
            (SUPERSEDED, "superseded"),
        ];
        assert_eq!(names.len(), SPECS.len());
        for (id, name) in names {
            assert_eq!(SPECS[id].name, name);
        }
    }

    #[test]
    fn keys_come_apart_as_they_were_made() {
        let mut buffer = vec![9];
        history_key(&mut buffer, b"k", Revision::new(7, 3));
        assert_eq!(split_history_key(&buffer), (&b"k"[..], Revision::new(7, 3)));
        assert_eq!(split_change(&[1, b'k']), (Kind::Delete, &b"k"[..]));
        lease_item_key(&mut buffer, -1, b"k");
        assert_eq!(buffer, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, b'k']);
    }
}
