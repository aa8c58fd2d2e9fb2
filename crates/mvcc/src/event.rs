//! What changed, for those who watch: one immutable batch per applied batch, shared by all shards.
//!
//! All bytes of a batch stand in one arena; an event is a few offsets. A batch is built only when somebody watches.
//!
//! A batch has a limit in bytes. One that grows beyond it (a delete of half the store, say) drops its events and says
//! so: whoever wants them reads them from `CHANGES`, as a watcher does that lags.

use base::limits::EVENT_RING_BYTES;
use base::{Revision, varint};

use crate::cell::Fields;
pub use crate::trees::Kind;

/// The changes of revisions `first` to `last`, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventBatch {
    pub first: i64,
    pub last: i64,
    pub events: Vec<Event>,
    /// False when there were more bytes than a batch may hold: then `events` is empty, and the changes of
    /// `first..=last` must be read from the store.
    pub whole: bool,
    arena: Vec<u8>,
}

/// One change; its bytes stand in the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    pub kind: Kind,
    /// The put made the key (its create revision is its mod revision).
    pub create: bool,
    pub revision: Revision,
    at: usize,
    wire_len: u32,
    /// Of the key, from `at`.
    key_at: u32,
    key_len: u32,
    /// Behind the wire bytes; `u32::MAX` when there is none.
    prev_len: u32,
}

const NO_PREV: u32 = u32::MAX;

/// An event with its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventRef<'a> {
    pub kind: Kind,
    pub create: bool,
    pub revision: Revision,
    pub key: &'a [u8],
    /// The KeyValue message; of a delete, key and mod revision only.
    pub kv: &'a [u8],
    /// The KeyValue message of what the revision before saw.
    pub prev: Option<&'a [u8]>,
}

fn stored_len(len: usize) -> u32 {
    assert!(len < NO_PREV as usize, "a version of {len} bytes is beyond every request limit");
    len as u32
}

impl EventBatch {
    pub fn new() -> EventBatch {
        EventBatch { whole: true, ..EventBatch::default() }
    }

    pub fn is_empty(&self) -> bool {
        self.first == 0
    }

    pub fn get<'b>(&'b self, event: &Event) -> EventRef<'b> {
        let wire = &self.arena[event.at..event.at + event.wire_len as usize];
        let key_at = event.key_at as usize;
        let prev = (event.prev_len != NO_PREV).then(|| {
            let start = event.at + event.wire_len as usize;
            &self.arena[start..start + event.prev_len as usize]
        });
        EventRef {
            kind: event.kind,
            create: event.create,
            revision: event.revision,
            key: &wire[key_at..key_at + event.key_len as usize],
            kv: wire,
            prev,
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = EventRef<'_>> {
        self.events.iter().map(|event| self.get(event))
    }

    /// Bytes that the batch keeps alive.
    pub fn bytes(&self) -> usize {
        self.arena.len() + self.events.len() * size_of::<Event>()
    }

    /// Adds a put; `kv` is the KeyValue message.
    pub fn push_put(&mut self, revision: Revision, create: bool, key: &[u8], kv: &[u8], prev: Option<&[u8]>) {
        let at = self.arena.len();
        if self.admit(revision, kv.len() + prev.map_or(0, <[u8]>::len)) {
            self.arena.extend_from_slice(kv);
            self.finish(Kind::Put, revision, create, at, key.len(), prev);
        }
    }

    /// Adds a delete.
    pub fn push_delete(&mut self, revision: Revision, key: &[u8], prev: Option<&[u8]>) {
        let at = self.arena.len();
        if self.admit(revision, key.len() + 24 + prev.map_or(0, <[u8]>::len)) {
            Fields { key, mod_: revision.main, ..Fields::default() }.push_wire(&mut self.arena);
            self.finish(Kind::Delete, revision, false, at, key.len(), prev);
        }
    }

    /// Notes the revision; true when there is room for `bytes` more.
    fn admit(&mut self, revision: Revision, bytes: usize) -> bool {
        assert!(revision.main >= self.last, "events come in revision order");
        if self.first == 0 {
            self.first = revision.main;
        }
        self.last = revision.main;
        if self.whole && self.bytes() + bytes > EVENT_RING_BYTES {
            self.whole = false;
            self.events = Vec::new();
            self.arena = Vec::new();
        }
        self.whole
    }

    fn finish(
        &mut self,
        kind: Kind,
        revision: Revision,
        create: bool,
        at: usize,
        key_len: usize,
        prev: Option<&[u8]>,
    ) {
        let wire_len = stored_len(self.arena.len() - at);
        // The key is the first field: a tag, its length, its bytes.
        let key_at = 1 + varint::len(key_len as u64) as u32;
        assert!(key_at + stored_len(key_len) <= wire_len, "a message holds its key");
        if let Some(prev) = prev {
            self.arena.extend_from_slice(prev);
        }
        self.events.push(Event {
            kind,
            create,
            revision,
            at,
            wire_len,
            key_at,
            key_len: stored_len(key_len),
            prev_len: prev.map_or(NO_PREV, |prev| stored_len(prev.len())),
        });
    }

    /// Hands the batch over and begins a new one; `None` when nothing happened.
    pub fn take(&mut self) -> Option<EventBatch> {
        let batch = std::mem::replace(self, EventBatch::new());
        (!batch.is_empty()).then_some(batch)
    }
}

impl EventRef<'_> {
    /// Bytes of the mvccpb.Event message.
    pub fn encoded_len(&self, with_prev: bool) -> usize {
        let kind = if self.kind == Kind::Delete { 2 } else { 0 };
        let framed = |bytes: &[u8]| 1 + varint::len(bytes.len() as u64) + bytes.len();
        kind + framed(self.kv) + self.prev.filter(|_| with_prev).map_or(0, framed)
    }

    /// Appends the mvccpb.Event message.
    pub fn encode(&self, with_prev: bool, out: &mut Vec<u8>) {
        if self.kind == Kind::Delete {
            out.extend_from_slice(&[0x08, 1]);
        }
        let mut push = |tag: u8, bytes: &[u8]| {
            out.push(tag);
            varint::push(out, bytes.len() as u64);
            out.extend_from_slice(bytes);
        };
        push(0x12, self.kv);
        if let Some(prev) = self.prev.filter(|_| with_prev) {
            push(0x1a, prev);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;
    use proto::mvccpb;

    fn wire(fields: Fields<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        fields.push_wire(&mut out);
        out
    }

    #[test]
    fn events_encode_as_the_messages_they_stand_for() {
        let mut batch = EventBatch::new();
        let long = vec![b'k'; 300];
        let old = Fields { key: &long, create: 4, mod_: 4, version: 1, value: b"old", lease: 0 };
        let new = Fields { key: &long, create: 4, mod_: 5, version: 2, value: b"", lease: 9 };
        batch.push_put(Revision::new(5, 0), false, &long, &wire(new), Some(&wire(old)));
        batch.push_delete(Revision::new(6, 0), b"gone", None);
        let batch = batch.take().expect("two events");
        assert_eq!((batch.first, batch.last, batch.whole), (5, 6, true));
        let expected = [
            mvccpb::Event { r#type: 0, kv: Some(new.to_message()), prev_kv: Some(old.to_message()) },
            mvccpb::Event {
                r#type: 1,
                kv: Some(mvccpb::KeyValue { key: b"gone".to_vec(), mod_revision: 6, ..Default::default() }),
                prev_kv: None,
            },
        ];
        for (event, expected) in batch.iter().zip(expected) {
            assert_eq!(event.key, expected.kv.as_ref().expect("set").key);
            for with_prev in [true, false] {
                let mut expected = expected.clone();
                if !with_prev {
                    expected.prev_kv = None;
                }
                let mut out = Vec::new();
                event.encode(with_prev, &mut out);
                assert_eq!(out, expected.encode_to_vec());
                assert_eq!(out.len(), event.encoded_len(with_prev));
            }
        }
    }

    #[test]
    fn a_batch_that_grows_too_large_says_so_and_keeps_its_bounds() {
        let mut batch = EventBatch::new();
        let value = vec![0; EVENT_RING_BYTES / 4];
        for main in 2..8 {
            let kv =
                wire(Fields { key: b"k", create: 2, mod_: main, version: main - 1, value: &value, lease: 0 });
            batch.push_put(Revision::new(main, 0), main == 2, b"k", &kv, None);
        }
        let batch = batch.take().expect("there were events");
        assert_eq!((batch.first, batch.last, batch.whole), (2, 7, false));
        assert!(batch.events.is_empty() && batch.bytes() == 0);
        assert_eq!(EventBatch::new().take(), None);
    }
}
