//! What watchers that want the same get alike: the responses of one batch, encoded once, with everything in them but
//! the watcher's id, which stands between the header and the events.
//!
//! A sheet is short (one HTTP/2 frame, unless a single response is longer), so that queues are looked at often enough;
//! longer batches have several.

use std::ops::Range;
use std::sync::Arc;

use crate::event::EventRef;
use crate::wire::{Head, Member, put_event, put_watch_id};

/// Responses are gathered in a sheet up to here, bytes: with the prefixes that gRPC adds they fill one frame of HTTP/2.
const SHEET_BYTES: usize = 15 << 10;

/// See the module.
#[derive(Debug)]
pub(crate) struct Sheet {
    number: u64,
    bytes: Arc<[u8]>,
    responses: Vec<Response>,
}

/// One response: positions in the sheet's bytes.
#[derive(Clone, Copy, Debug)]
struct Response {
    revision: i64,
    /// Events in it.
    count: usize,
    begin: usize,
    /// Its header ends, and its events begin.
    head_end: usize,
    end: usize,
}

/// Numbers sheets and keeps their working memory.
#[derive(Debug, Default)]
pub(crate) struct Sheets {
    last_number: u64,
    buf: Vec<u8>,
    responses: Vec<Response>,
}

impl Sheets {
    /// One response for each revision of `events`, which are in order.
    pub fn encode<'e>(
        &mut self,
        member: &Member,
        events: impl Iterator<Item = &'e EventRef<'e>>,
        prev: bool,
    ) -> Vec<Sheet> {
        let mut sheets = Vec::new();
        let mut revision = i64::MIN;
        self.buf.clear();
        for event in events {
            assert!(event.revision >= revision, "events are in order");
            if event.revision > revision {
                self.cut(&mut sheets);
                revision = event.revision;
                let begin = self.buf.len();
                Head { revision, ..Head::default() }.append(member, &mut self.buf);
                let head_end = self.buf.len();
                self.responses.push(Response { revision, count: 0, begin, head_end, end: head_end });
            }
            put_event(&mut self.buf, event, prev);
            let response = self.responses.last_mut().expect("begun above");
            response.count += 1;
            response.end = self.buf.len();
        }
        self.cut(&mut sheets);
        let left = self.responses.len();
        self.close(left, &mut sheets);
        self.buf.shrink_to(base::limits::CATCH_UP_BYTES);
        sheets
    }

    /// Closes the sheet before its last response, if that one made it too long.
    fn cut(&mut self, sheets: &mut Vec<Sheet>) {
        if self.buf.len() > SHEET_BYTES && self.responses.len() > 1 {
            self.close(self.responses.len() - 1, sheets);
        }
    }

    /// Makes a sheet of the first `count` responses.
    fn close(&mut self, count: usize, sheets: &mut Vec<Sheet>) {
        let Some(last) = self.responses[..count].last() else { return };
        let end = last.end;
        self.last_number += 1;
        let bytes = Arc::from(&self.buf[..end]);
        let responses: Vec<Response> = self.responses.drain(..count).collect();
        self.buf.drain(..end);
        for response in &mut self.responses {
            (response.begin, response.head_end) = (response.begin - end, response.head_end - end);
            response.end -= end;
        }
        sheets.push(Sheet { number: self.last_number, bytes, responses });
    }
}

impl Sheet {
    pub fn last_revision(&self) -> i64 {
        self.responses[self.responses.len() - 1].revision
    }

    /// What a watcher gets of it whose next revision is `next`; `None` when that is nothing.
    pub fn responses(&self, watch_id: i64, next: i64) -> Option<Responses<'_>> {
        let from = self.responses.iter().position(|response| response.revision >= next)?;
        Some(Responses { sheet: self, from, watch_id })
    }
}

/// Responses to one watcher, in order, one for each revision.
#[derive(Clone, Copy, Debug)]
pub struct Responses<'s> {
    sheet: &'s Sheet,
    from: usize,
    watch_id: i64,
}

/// One of [`Responses`]: a message is `head` and then `shared[events]`.
pub struct Parts<'s> {
    pub head: &'s [u8],
    pub shared: &'s Arc<[u8]>,
    pub events: Range<usize>,
}

impl Responses<'_> {
    /// Equal where the bytes are: who makes something of them can keep it for the next watcher.
    pub fn key(&self) -> (u64, usize, i64) {
        (self.sheet.number, self.from, self.watch_id)
    }

    pub fn count(&self) -> usize {
        self.sheet.responses.len() - self.from
    }

    pub(crate) fn event_count(&self) -> usize {
        self.sheet.responses[self.from..].iter().map(|response| response.count).sum()
    }

    pub(crate) fn first_revision(&self) -> i64 {
        self.sheet.responses[self.from].revision
    }

    /// Bytes of all of them, but for the ids.
    pub fn bytes(&self) -> usize {
        self.sheet.bytes.len() - self.sheet.responses[self.from].begin
    }

    /// The longest one, but for the id, bytes.
    pub(crate) fn longest_bytes(&self) -> usize {
        self.sheet.responses[self.from..].iter().map(|r| r.end - r.begin).max().unwrap_or(0)
    }

    /// Calls `each` for every response. `head` is working memory.
    pub fn for_each(&self, head: &mut Vec<u8>, mut each: impl FnMut(Parts<'_>)) {
        for response in &self.sheet.responses[self.from..] {
            head.clear();
            head.extend_from_slice(&self.sheet.bytes[response.begin..response.head_end]);
            put_watch_id(head, self.watch_id);
            each(Parts { head, shared: &self.sheet.bytes, events: response.head_end..response.end });
        }
    }

    /// Of each response its revision, how many events it has and where they stand in the shared bytes.
    pub(crate) fn events(&self) -> impl Iterator<Item = (i64, usize, &Arc<[u8]>, Range<usize>)> {
        let bytes = &self.sheet.bytes;
        self.sheet.responses[self.from..].iter().map(move |r| (r.revision, r.count, bytes, r.head_end..r.end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Kind;
    use prost::Message;
    use proto::etcdserverpb::WatchResponse;
    use proto::mvccpb::KeyValue;

    fn kv(revision: i64, value_bytes: usize) -> Vec<u8> {
        let kv = KeyValue {
            key: b"k".to_vec(),
            create_revision: 1,
            mod_revision: revision,
            version: 2,
            value: vec![b'v'; value_bytes],
            lease: 0,
        };
        kv.encode_to_vec()
    }

    #[test]
    fn sheets_hold_whole_responses_and_stay_short() {
        let sizes = [
            (5, 100),
            (5, 9000),
            (6, 9000),
            (7, 20_000),
            (8, 10),
            (9, 10),
            (9, 10),
            (11, 14_000),
            (12, 2000),
        ];
        let stored: Vec<(i64, Vec<u8>)> = sizes.iter().map(|&(r, bytes)| (r, kv(r, bytes))).collect();
        let events: Vec<EventRef<'_>> = stored
            .iter()
            .map(|(revision, kv)| EventRef {
                kind: Kind::Put,
                revision: *revision,
                key: b"k",
                kv,
                prev: None,
                is_create: false,
            })
            .collect();
        let member = Member { cluster_id: 1, member_id: 2, term: 3 };
        let mut made = Sheets::default();
        let sheets = made.encode(&member, events.iter(), false);
        let revisions: Vec<Vec<i64>> =
            sheets.iter().map(|sheet| sheet.responses.iter().map(|r| r.revision).collect()).collect();
        assert_eq!(revisions, [vec![5], vec![6], vec![7], vec![8, 9, 11], vec![12]]);
        let mut seen = Vec::new();
        for sheet in &sheets {
            assert!(sheet.bytes.len() <= SHEET_BYTES || sheet.responses.len() == 1);
            for (watch_id, next) in [(0, 0), (7, 9), (-1, 12), (7, 13)] {
                let Some(responses) = sheet.responses(watch_id, next) else {
                    assert!(sheet.last_revision() < next);
                    continue;
                };
                let mut decoded = Vec::new();
                responses.for_each(&mut Vec::new(), |parts| {
                    let bytes = [parts.head, &parts.shared[parts.events]].concat();
                    let response = WatchResponse::decode(&bytes[..]).expect("it decodes");
                    assert_eq!(
                        response.encode_to_vec(),
                        bytes,
                        "bytes are as the generated encoder writes them"
                    );
                    assert_eq!(response.watch_id, watch_id);
                    decoded.push(response);
                });
                let count: usize = decoded.iter().map(|response| response.events.len()).sum();
                assert_eq!((decoded.len(), count), (responses.count(), responses.event_count()));
                let header = decoded[0].header.as_ref().expect("there is one");
                assert_eq!(header.revision, responses.first_revision());
                assert!(header.revision >= next);
                if next == 0 {
                    seen.extend(decoded.iter().flat_map(|r| r.events.iter().map(|e| e.kv.clone().unwrap())));
                }
            }
        }
        let seen: Vec<Vec<u8>> = seen.iter().map(KeyValue::encode_to_vec).collect();
        assert_eq!(seen, stored.iter().map(|(_, kv)| kv.clone()).collect::<Vec<_>>());
        let again = made.encode(&member, events[..1].iter(), false);
        assert!(again[0].number > sheets[4].number, "a number is never used again");
        assert!(made.encode(&member, [].iter(), false).is_empty());
    }
}
