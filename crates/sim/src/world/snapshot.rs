//! What a helper's answer says of the whole store, entered into the history where it was made: hashes, and the changes
//! that a snapshot holds.

use std::collections::BTreeMap;

use api::JobResult;
use base::Revision;
use bbolt::schema::bucket;
use mvcc::hash::parse_bucket_key;
use mvcc::trees;
use prost::Message;
use proto::mvccpb::KeyValue;

use super::job::Mail;
use super::{Env, Failure};
use crate::history::{Event, HashOf, Kind, Kv};

/// Looks at the result of a job over `before` or something newer.
pub(super) fn look(
    env: &mut Env,
    member: u32,
    mail: &Mail,
    before: &tree::Snapshot,
    published: &replica::Published,
) -> Result<(), Failure> {
    match mail {
        Mail::Shard(_, _, JobResult::HashKv(Ok(answer))) => {
            let hash = answer.hash;
            env.hashes.insert((hash.revision, hash.compact_revision, hash.hash));
            // A hash that was kept has another bound, and one that meets a removal depends on how far that has come.
            let settled = !mvcc::stamp::removal_pending(before.stamp())
                && mvcc::stamp::compacted(before.stamp()) == hash.compact_revision
                && published.compaction_hashes().get(hash.revision).is_none();
            if settled {
                let of = HashOf { revision: hash.revision, compact_revision: hash.compact_revision };
                let at_us = env.history_us();
                env.history.hash(member, at_us, of, hash.hash.into());
            }
            Ok(())
        }
        Mail::Shard(_, _, JobResult::Snapshot { spool, .. }) => {
            let read = spool.read(0, spool.size_bytes() as usize);
            let bytes = read.map_err(|error| Failure::new("Snapshot", error.to_string()))?;
            let compacted = mvcc::stamp::compacted(before.stamp());
            let changes = changes(&bytes, compacted)
                .map_err(|error| Failure::new("Snapshot", format!("a snapshot cannot be read: {error}")))?;
            let current = mvcc::stamp::current(before.stamp());
            // Who starts again gives snapshots before it has applied its log; they are sound, and not the newest.
            if published.read_ready() && current > compacted.max(1) {
                let at_us = env.history_us();
                env.history.dump(at_us, (compacted + 1).max(2), current, changes);
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The changes above the compacted revision, in order.
fn changes(bytes: &[u8], compacted: i64) -> Result<Vec<Event>, String> {
    let text = |error: bbolt::Error| error.to_string();
    let database = bbolt::Database::open(bytes).map_err(text)?;
    let keys = database.bucket(bucket::KEY).map_err(text)?.ok_or("there is no bucket of keys")?;
    let mut cursor = database.cursor(&keys).map_err(text)?;
    let mut changes: BTreeMap<Revision, Event> = BTreeMap::new();
    while let Some(entry) = cursor.next().map_err(text)? {
        let bbolt::Entry::Pair { key, value } = entry else {
            return Err("a bucket among the keys".to_owned());
        };
        let (revision, kind) = parse_bucket_key(key).ok_or("a key that is no revision")?;
        let kv = KeyValue::decode(value).map_err(|error| error.to_string())?;
        let event = match kind {
            trees::Kind::Put => Event { kind: Kind::Put, kv: Kv::from(&kv), prev: None },
            trees::Kind::Delete => {
                let kv = Kv { key: kv.key[..].into(), modified: revision.main, ..Kv::default() };
                Event { kind: Kind::Delete, kv, prev: None }
            }
        };
        if revision.main > compacted {
            changes.insert(revision, event);
        }
    }
    Ok(changes.into_values().collect())
}
