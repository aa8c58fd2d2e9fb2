//! What this crate is fed: events of a batch, and history for those who are behind. Borrowed, never kept.

use base::Revision;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Put,
    Delete,
}

/// One change of one key. Bytes are wire bytes of `mvccpb.KeyValue` without a field prefix.
#[derive(Clone, Copy, Debug)]
pub struct EventRef<'a> {
    pub kind: Kind,
    pub revision: i64,
    pub key: &'a [u8],
    /// The version that a put wrote. Not looked at for a delete: its event carries the key and the revision only.
    pub kv: &'a [u8],
    /// The key's version at the revision *before* this one, as etcd reads it: also for the second change of a key in
    /// one revision.
    pub prev: Option<&'a [u8]>,
    /// A put that created its key: it gets no previous version, whatever `prev` says.
    pub is_create: bool,
}

/// The events of an applied batch: all of the revisions `first..=last`.
pub trait Batch {
    fn first(&self) -> i64;
    fn last(&self) -> i64;
    /// False when its events were dropped (too many bytes): they are then read from history.
    fn whole(&self) -> bool;
    /// In order of (main, sub) revision.
    fn events(&self) -> impl Iterator<Item = EventRef<'_>>;
}

/// One entry of the history of changes.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    pub revision: Revision,
    pub kind: Kind,
    pub key: &'a [u8],
}

/// A snapshot of the store, as far as catching up needs it.
pub trait History {
    /// The newest revision in it.
    fn current(&self) -> i64;
    /// Changes below this are gone; -1 when nothing was compacted yet.
    fn compacted(&self) -> i64;
    /// Changes of revision `from` and later, in order of (main, sub).
    fn changes(&self, from: i64) -> impl Iterator<Item = Change<'_>>;
    /// The version that a put wrote; `None` when compaction has removed it (the change is then passed over, as in
    /// etcd).
    fn kv(&self, change: &Change<'_>) -> Option<&[u8]>;
    /// The version of the change's key at the revision before it, if it existed and is still stored.
    fn prev(&self, change: &Change<'_>) -> Option<&[u8]>;
}

/// Whether this version (wire bytes of a KeyValue) was its key's first: create and mod revision are equal.
pub fn is_create(kv: &[u8]) -> bool {
    let (mut create, mut modified) = (0, 0);
    let mut rest = kv;
    while let Some((tag, after)) = take_varint(rest) {
        let Some((value, after)) = take_varint(after) else { return false };
        rest = match tag {
            // The key; what follows the revisions (fields 4 and up) is of no interest.
            0x0a => match after.get(value as usize..) {
                Some(after) => after,
                None => return false,
            },
            0x10 => {
                create = value;
                after
            }
            0x18 => {
                modified = value;
                after
            }
            _ => break,
        };
    }
    create == modified && modified != 0
}

/// A varint and what follows it.
pub(crate) fn take_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (i, &byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            return Some((value, &bytes[i + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;
    use proto::mvccpb::KeyValue;

    #[test]
    fn the_first_version_of_a_key_is_recognised() {
        let kv = |create_revision, mod_revision| KeyValue {
            key: vec![0x18; 200],
            create_revision,
            mod_revision,
            version: 1,
            value: b"\x10\x01\x18\x01".to_vec(),
            lease: 7,
        };
        assert!(is_create(&kv(5, 5).encode_to_vec()));
        assert!(is_create(&kv(1 << 40, 1 << 40).encode_to_vec()));
        assert!(!is_create(&kv(5, 6).encode_to_vec()));
        assert!(!is_create(&[]) && !is_create(&[0x0a, 9, 1]) && !is_create(&[0x10]));
    }
}
