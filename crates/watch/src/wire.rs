//! The bytes of a `WatchResponse`: a head of its own for each watcher, then events that many share.
//!
//! Fields are written in order of number and zeros are left out, as Go's encoder does; the events (field 11) come
//! last, so that head and events may be sent one after the other as they are.

use base::varint;

use crate::event::{EventRef, Kind, take_varint};

/// Who answers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Member {
    pub cluster_id: u64,
    pub member_id: u64,
    pub term: u64,
}

/// Everything of a response but its events.
#[derive(Clone, Copy, Debug, Default)]
pub struct Head<'a> {
    pub revision: i64,
    pub watch_id: i64,
    pub created: bool,
    pub canceled: bool,
    pub compact_revision: i64,
    pub cancel_reason: &'a str,
    pub fragment: bool,
}

/// A tag and a true: what a fragment's head is longer by.
const FRAGMENT_FLAG_BYTES: usize = 2;

impl Head<'_> {
    /// Replaces what `buf` holds.
    pub fn encode(&self, member: &Member, buf: &mut Vec<u8>) {
        buf.clear();
        self.append(member, buf);
    }

    pub fn append(&self, member: &Member, buf: &mut Vec<u8>) {
        let begin = buf.len();
        buf.extend([0x0a, 0]);
        number(buf, 0x08, member.cluster_id);
        number(buf, 0x10, member.member_id);
        number(buf, 0x18, self.revision as u64);
        number(buf, 0x20, member.term);
        buf[begin + 1] = (buf.len() - begin - 2) as u8;
        assert!(buf[begin + 1] < 0x80, "four numbers need one byte of length");
        put_watch_id(buf, self.watch_id);
        number(buf, 0x18, self.created.into());
        number(buf, 0x20, self.canceled.into());
        number(buf, 0x28, self.compact_revision as u64);
        if !self.cancel_reason.is_empty() {
            buf.push(0x32);
            varint::push(buf, self.cancel_reason.len() as u64);
            buf.extend(self.cancel_reason.as_bytes());
        }
        number(buf, 0x38, self.fragment.into());
    }
}

/// Field 2 of a response, behind its header.
pub fn put_watch_id(buf: &mut Vec<u8>, watch_id: i64) {
    number(buf, 0x10, watch_id as u64);
}

fn number(buf: &mut Vec<u8>, tag: u8, value: u64) {
    if value != 0 {
        buf.push(tag);
        varint::push(buf, value);
    }
}

/// A length-delimited field: tag, length, bytes.
fn field_bytes(len: usize) -> usize {
    1 + varint::len(len as u64) + len
}

/// Appends one event as field 11, with its previous version if `prev` and if it may have one.
pub fn put_event(buf: &mut Vec<u8>, event: &EventRef<'_>, prev: bool) {
    let prev = event.prev.filter(|_| prev && !event.is_create);
    let kv_bytes = match event.kind {
        Kind::Put => event.kv.len(),
        Kind::Delete => field_bytes(event.key.len()) + 1 + varint::len(event.revision as u64),
    };
    let kind_bytes = if event.kind == Kind::Delete { 2 } else { 0 };
    let bytes = kind_bytes + field_bytes(kv_bytes) + prev.map_or(0, |prev| field_bytes(prev.len()));
    buf.reserve(field_bytes(bytes));
    buf.push(0x5a);
    varint::push(buf, bytes as u64);
    let begin = buf.len();
    if event.kind == Kind::Delete {
        buf.extend([0x08, 1]);
    }
    buf.push(0x12);
    varint::push(buf, kv_bytes as u64);
    match event.kind {
        Kind::Put => buf.extend(event.kv),
        Kind::Delete => {
            buf.push(0x0a);
            varint::push(buf, event.key.len() as u64);
            buf.extend(event.key);
            number(buf, 0x18, event.revision as u64);
        }
    }
    if let Some(prev) = prev {
        buf.push(0x1a);
        varint::push(buf, prev.len() as u64);
        buf.extend(prev);
    }
    assert_eq!(buf.len() - begin, bytes, "an event is as long as it says");
}

/// Bytes of the first event in `events`, which [`put_event`] wrote.
fn first_event_bytes(events: &[u8]) -> usize {
    let (len, after) = take_varint(&events[1..]).expect("written by put_event");
    events.len() - after.len() + len as usize
}

/// Parts events as etcd fragments a response: `None` when they go out in one, else the end of each part. A part
/// has one event at least, and else stays below `limit` with its head.
pub fn fragments(head_bytes: usize, events: &[u8], limit: usize) -> Option<Vec<usize>> {
    if head_bytes + events.len() < limit || first_event_bytes(events) == events.len() {
        return None;
    }
    let head_bytes = head_bytes + FRAGMENT_FLAG_BYTES;
    let (mut ends, mut begin, mut end) = (Vec::new(), 0, 0);
    while end < events.len() {
        let next = end + first_event_bytes(&events[end..]);
        if end > begin && head_bytes + next - begin >= limit {
            ends.push(end);
            begin = end;
        }
        end = next;
    }
    ends.push(end);
    Some(ends)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;
    use proto::etcdserverpb::{ResponseHeader, WatchResponse};
    use proto::mvccpb::{Event, KeyValue};

    #[test]
    fn heads_equal_the_generated_encoder() {
        let members =
            [Member::default(), Member { cluster_id: u64::MAX, member_id: 1 << 63, term: u64::MAX }];
        for member in members {
            for (revision, watch_id) in [(0, 0), (1, -1), (i64::MAX, i64::MIN), (300, 7)] {
                for bits in 0..8 {
                    let (created, canceled, fragment) = (bits & 1 > 0, bits & 2 > 0, bits & 4 > 0);
                    let reason = if canceled { "because" } else { "" };
                    let compact_revision = revision / 2;
                    let head = Head {
                        revision,
                        watch_id,
                        created,
                        canceled,
                        compact_revision,
                        cancel_reason: reason,
                        fragment,
                    };
                    let expected = WatchResponse {
                        header: Some(ResponseHeader {
                            cluster_id: member.cluster_id,
                            member_id: member.member_id,
                            revision,
                            raft_term: member.term,
                        }),
                        watch_id,
                        created,
                        canceled,
                        compact_revision,
                        cancel_reason: reason.to_string(),
                        fragment,
                        events: vec![],
                    };
                    let mut bytes = vec![9; 3];
                    head.encode(&member, &mut bytes);
                    assert_eq!(bytes, expected.encode_to_vec());
                }
            }
        }
    }

    fn kv(key: &[u8], revision: i64, value: usize) -> KeyValue {
        KeyValue {
            key: key.to_vec(),
            create_revision: 2,
            mod_revision: revision,
            version: 3,
            value: vec![b'v'; value],
            lease: 0,
        }
    }

    #[test]
    fn events_equal_the_generated_encoder() {
        let key = [b'k'; 150];
        for value in [0, 1, 100, 200, 20_000] {
            let (new, old) = (kv(&key, 500, value), kv(&key, 499, value));
            let (new_bytes, old_bytes) = (new.encode_to_vec(), old.encode_to_vec());
            for kind in [Kind::Put, Kind::Delete] {
                for (has_prev, wants, is_create) in
                    [(true, true, false), (true, true, true), (true, false, false), (false, true, false)]
                {
                    let event = EventRef {
                        kind,
                        revision: 500,
                        key: &key,
                        kv: &new_bytes,
                        prev: has_prev.then_some(&old_bytes),
                        is_create,
                    };
                    let deleted = KeyValue { key: key.to_vec(), mod_revision: 500, ..KeyValue::default() };
                    let expected = Event {
                        r#type: if kind == Kind::Put { 0 } else { 1 },
                        kv: Some(if kind == Kind::Put { new.clone() } else { deleted }),
                        prev_kv: (has_prev && wants && !is_create).then(|| old.clone()),
                    };
                    let response = WatchResponse { events: vec![expected], ..WatchResponse::default() };
                    let mut bytes = Vec::new();
                    put_event(&mut bytes, &event, wants);
                    assert_eq!(bytes, response.encode_to_vec());
                }
            }
        }
    }

    #[test]
    fn fragments_have_an_event_each_and_stay_below_the_limit() {
        let mut events = Vec::new();
        let mut ends = Vec::new();
        for value in [10, 10, 500, 10, 80, 10, 10, 10] {
            let bytes = kv(b"k", 9, value).encode_to_vec();
            let event = EventRef {
                kind: Kind::Put,
                revision: 9,
                key: b"k",
                kv: &bytes,
                prev: None,
                is_create: false,
            };
            put_event(&mut events, &event, false);
            ends.push(events.len());
        }
        assert_eq!(fragments(20, &events, 21 + events.len()), None);
        assert_eq!(fragments(20, &events[..ends[0]], 1), None, "one event is never parted");
        let exactly = fragments(20, &events, 20 + events.len()).expect("etcd's limit is exclusive");
        assert_eq!(exactly, [ends[6], ends[7]]);
        let parts = fragments(20, &events, 120).unwrap();
        let mut begin = 0;
        for &end in &parts {
            let inside = ends.iter().filter(|&&e| e > begin && e <= end).count();
            assert!(ends.contains(&end) && inside > 0);
            assert!(inside == 1 || 22 + end - begin < 120);
            begin = end;
        }
        assert_eq!(begin, events.len());
        assert_eq!(fragments(20, &events, 1).unwrap(), ends, "an event each");
    }
}
