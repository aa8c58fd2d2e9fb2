//! What a client of one stream sees, rule by rule.

mod world;

use std::sync::Arc;

use mainstay_watch::{Options, Watchers};
use prost::Message;
use proto::errors::{INVALID_AUTH_TOKEN, PERMISSION_DENIED, STOPPED};
use proto::etcdserverpb::{WatchCreateRequest, WatchResponse};
use world::{Queues, Store, token};

const INTERVAL_MS: u64 = 1000;

struct One {
    store: Store,
    watchers: Watchers,
    queues: Queues,
}

impl One {
    fn new() -> One {
        One::with(Options::new(11, 22, 1 << 20, 5))
    }

    fn with(options: Options) -> One {
        let mut watchers = Watchers::new(options, 1);
        watchers.set_term(33);
        watchers.open(token(1), 0, INTERVAL_MS);
        watchers.open(token(2), 0, INTERVAL_MS);
        One { store: Store::new(), watchers, queues: Queues::default() }
    }

    /// Applies a revision without telling the watchers.
    fn apply(&mut self, changes: &[(&str, Option<&str>)]) {
        let changes: Vec<_> = changes.iter().map(|(k, v)| (k.as_bytes(), v.map(str::as_bytes))).collect();
        assert!(self.store.apply(&changes));
    }

    fn put(&mut self, key: &str, value: &str) {
        self.apply(&[(key, Some(value))]);
        self.deliver(self.store.current);
    }

    fn deliver(&mut self, first: i64) {
        let batch = self.store.batch(first, self.store.current);
        self.watchers.deliver(&batch, &mut self.queues);
    }

    fn create(&mut self, request: &WatchCreateRequest) -> WatchResponse {
        let id = self.watchers.create(token(1), request, None, self.store.current, &mut self.queues);
        let answers = self.answers();
        assert_eq!(answers.len(), 1, "a request has one answer at once");
        assert!(answers[0].created && answers[0].events.is_empty());
        assert_eq!(answers[0].watch_id, id.unwrap_or(-1));
        assert_eq!(answers[0].canceled, id.is_none());
        answers[0].clone()
    }

    fn answers(&mut self) -> Vec<WatchResponse> {
        self.queues.take_all(token(1))
    }

    fn catch_up(&mut self) {
        while self.watchers.wants_catch_up() {
            self.watchers.catch_up(&self.store, &mut self.queues);
        }
    }

    /// Requests progress; the revision that was answered.
    fn progress(&mut self) -> Option<i64> {
        self.watchers.request_progress(token(1), self.store.current, &mut self.queues);
        let answers = self.answers();
        assert!(answers.len() <= 1);
        answers.first().map(|answer| {
            assert_eq!(answer.watch_id, -1);
            assert!(answer.events.is_empty() && !answer.created && !answer.canceled);
            answer.header.as_ref().unwrap().revision
        })
    }
}

fn watch(key: &str, range_end: &str, start_revision: i64) -> WatchCreateRequest {
    WatchCreateRequest {
        key: key.into(),
        range_end: range_end.into(),
        start_revision,
        ..WatchCreateRequest::default()
    }
}

fn revision(response: &WatchResponse) -> i64 {
    response.header.as_ref().unwrap().revision
}

/// Key and revision of each event.
fn events(response: &WatchResponse) -> Vec<(String, i64)> {
    let kvs = response.events.iter().map(|event| event.kv.as_ref().unwrap());
    kvs.map(|kv| (String::from_utf8(kv.key.clone()).unwrap(), kv.mod_revision)).collect()
}

#[test]
fn ids_count_up_and_step_over_those_taken() {
    let mut one = One::new();
    let with_id = |watch_id| WatchCreateRequest { watch_id, ..watch("a", "", 0) };
    assert_eq!(one.create(&with_id(0)).watch_id, 0);
    assert_eq!(one.create(&with_id(2)).watch_id, 2);
    assert_eq!(one.create(&with_id(-7)).watch_id, -7);
    assert_eq!(one.create(&with_id(0)).watch_id, 1);
    assert_eq!(one.create(&with_id(0)).watch_id, 3, "2 is taken");
    let taken = one.create(&with_id(2));
    assert_eq!(taken.cancel_reason, "mvcc: duplicate watch ID provided on the WatchStream");
    assert_eq!((taken.watch_id, taken.compact_revision, revision(&taken)), (-1, 0, 1));

    one.watchers.cancel(token(1), 1, 1, &mut one.queues);
    one.watchers.cancel(token(1), 1, 1, &mut one.queues);
    one.watchers.cancel(token(1), 99, 1, &mut one.queues);
    one.watchers.cancel(token(9), 1, 1, &mut one.queues);
    let answers = one.answers();
    assert_eq!(answers.len(), 1, "only a watch that is there is cancelled");
    assert!(answers[0].canceled && !answers[0].created && answers[0].cancel_reason.is_empty());
    assert_eq!((answers[0].watch_id, revision(&answers[0])), (1, 1));
    assert_eq!(one.create(&with_id(0)).watch_id, 4, "ids are not handed out again");
    assert_eq!(one.create(&with_id(1)).watch_id, 1, "but may be asked for again");
}

#[test]
fn refusals_come_in_order_and_in_etcds_words() {
    let mut one = One::new();
    one.put("x", "1");
    let negative = one.create(&watch("b", "a", -1));
    assert_eq!(negative.cancel_reason, "etcdserver: mvcc: required revision has been compacted");
    assert_eq!((negative.compact_revision, revision(&negative)), (0, 2));
    for range in [("b", "a"), ("b", "b"), ("\0", "\0\0")] {
        let answer = one.create(&watch(range.0, range.1, 0));
        if range.0 == "\0" {
            assert!(!answer.canceled);
        } else {
            assert_eq!(answer.cancel_reason, "mvcc: watcher range is empty");
        }
    }
    assert!(!one.create(&watch("", "", 0)).canceled && !one.create(&watch("", "\0", 0)).canceled);

    let mut refused = |error: proto::Error, start| {
        let request = watch("b", "a", start);
        let id = one.watchers.create(token(1), &request, Some(&error), 2, &mut one.queues);
        assert_eq!(id, None);
        one.queues.take(token(1)).unwrap().cancel_reason
    };
    let denied = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
    assert_eq!(refused(PERMISSION_DENIED, 0), denied);
    assert_eq!(refused(STOPPED, 0), denied, "what it has no words for, etcd calls denied");
    assert_eq!(
        refused(INVALID_AUTH_TOKEN, 0),
        "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token"
    );
    assert!(refused(PERMISSION_DENIED, -1).contains("compacted"), "the start is looked at first");
}

#[test]
fn a_key_a_range_and_from_a_key_on() {
    let mut one = One::new();
    for (key, end) in [("b", ""), ("a", "b"), ("b", "\0"), ("", ""), ("", "\0")] {
        one.create(&watch(key, end, 0));
    }
    for key in ["a", "b", "ba", "\0"] {
        one.put(key, "v");
        let ids: Vec<i64> = one.answers().iter().map(|response| response.watch_id).collect();
        let expected: &[i64] = match key {
            "a" => &[1, 4],
            "b" => &[0, 2, 4],
            "ba" => &[2, 4],
            _ => &[3, 4],
        };
        let mut ids = ids.clone();
        ids.sort_unstable();
        assert_eq!(ids, expected, "{key:?}");
    }
}

#[test]
fn live_events_come_one_revision_a_response() {
    let mut one = One::new();
    assert_eq!(revision(&one.create(&watch("a", "z", 0))), 1);
    one.apply(&[("a", Some("1")), ("b", Some("1"))]);
    one.apply(&[("a", None)]);
    one.apply(&[("zz", Some("1"))]);
    one.apply(&[("b", Some("2"))]);
    one.deliver(2);
    let answers = one.answers();
    let seen: Vec<_> = answers.iter().map(|r| (revision(r), events(r).len())).collect();
    assert_eq!(seen, [(2, 2), (3, 1), (5, 1)], "the header is the revision of the events");
    one.deliver(2);
    assert_eq!(one.answers(), [], "what comes twice is sent once");
}

#[test]
fn history_comes_in_one_response_with_the_current_revision() {
    let mut one = One::new();
    for i in 0..5 {
        one.put("a", &i.to_string());
    }
    let created = one.create(&watch("a", "", 3));
    assert_eq!(revision(&created), 6);
    one.catch_up();
    let answers = one.answers();
    assert_eq!(answers.len(), 1);
    assert_eq!(revision(&answers[0]), 6);
    assert_eq!(events(&answers[0]), (3..=6).map(|r| ("a".to_string(), r)).collect::<Vec<_>>());
    one.put("b", "other");
    one.put("a", "more");
    assert_eq!(events(&one.answers()[0]), [("a".to_string(), 8)]);
}

#[test]
fn watches_start_where_they_say() {
    let mut one = One::new();
    one.put("a", "2");
    one.create(&watch("a", "", 5));
    one.create(&watch("a", "", 3));
    assert_eq!(one.progress(), None, "both start in the future, the second just so");
    one.put("a", "3");
    one.put("a", "4");
    let seen: Vec<_> = one.answers().iter().map(|r| (r.watch_id, revision(r))).collect();
    assert_eq!(seen, [(1, 3), (1, 4)]);
    assert_eq!(one.progress(), None, "the first still does");
    one.put("a", "5");
    let seen: Vec<_> = one.answers().iter().map(|r| (r.watch_id, revision(r))).collect();
    assert_eq!(seen, [(0, 5), (1, 5)]);
    assert_eq!(one.progress(), Some(5));
}

#[test]
fn filters_and_previous_versions() {
    let mut one = One::new();
    let base = watch("a", "", 0);
    one.create(&WatchCreateRequest { filters: vec![0], ..base.clone() });
    one.create(&WatchCreateRequest { filters: vec![1], prev_kv: true, ..base.clone() });
    one.create(&WatchCreateRequest { filters: vec![0, 1], ..base.clone() });
    one.create(&WatchCreateRequest { filters: vec![9], prev_kv: true, ..base });
    one.put("a", "1");
    one.put("a", "2");
    one.apply(&[("a", None)]);
    one.deliver(4);
    let mut seen: Vec<_> = one
        .answers()
        .into_iter()
        .map(|r| (r.watch_id, revision(&r), r.events[0].prev_kv.as_ref().map(|kv| kv.value.clone())))
        .collect();
    seen.sort();
    let value = |v: &str| Some(v.as_bytes().to_vec());
    assert_eq!(
        seen,
        [
            (0, 4, None),
            (1, 2, None),
            (1, 3, value("1")),
            (3, 2, None),
            (3, 3, value("1")),
            (3, 4, value("2"))
        ]
    );
    // And the same from history.
    one.create(&WatchCreateRequest { prev_kv: true, watch_id: 9, ..watch("a", "", 2) });
    one.catch_up();
    let answers = one.answers();
    let previous: Vec<_> =
        answers[0].events.iter().map(|e| e.prev_kv.as_ref().map(|kv| kv.mod_revision)).collect();
    assert_eq!(previous, [None, Some(2), Some(3)]);
}

#[test]
fn a_key_that_changes_twice_in_a_revision() {
    let mut one = One::new();
    one.put("a", "old");
    let request = WatchCreateRequest { prev_kv: true, ..watch("a", "", 0) };
    one.create(&request);
    one.apply(&[("a", Some("new")), ("a", None), ("b", Some("1")), ("b", None)]);
    one.deliver(3);
    let live = one.answers();
    one.create(&WatchCreateRequest { start_revision: 3, ..request });
    one.catch_up();
    let read = one.answers();
    assert_eq!(live[0].events, read[0].events);
    let previous = |i: usize| live[0].events[i].prev_kv.as_ref().map(|kv| &kv.value[..]);
    assert_eq!((live[0].events.len(), previous(0), previous(1)), (2, Some(&b"old"[..]), Some(&b"old"[..])));
}

#[test]
fn a_version_that_compaction_took_is_passed_over() {
    let mut one = One::new();
    one.apply(&[("a", Some("1")), ("a", None)]);
    one.apply(&[("b", Some("1")), ("b", None)]);
    one.apply(&[("a", Some("3"))]);
    one.deliver(2);
    one.store.events[0].gone = true;
    one.create(&watch("a", "c", 2));
    one.catch_up();
    let answers = one.answers();
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].events.iter().map(|e| e.r#type).collect::<Vec<_>>(), [1, 0, 1, 0]);
    // When nothing of a step is left, nothing is sent.
    one.store.events.iter_mut().for_each(|stored| stored.gone = stored.key == b"a" && stored.kv.version > 0);
    one.create(&WatchCreateRequest { filters: vec![1], ..watch("a", "", 2) });
    one.catch_up();
    assert_eq!(one.answers(), []);
    assert_eq!(one.progress(), Some(4));
}

#[test]
fn compacted_starts_are_created_then_cancelled_and_hold_progress_up() {
    let mut one = One::new();
    for i in 0..9 {
        one.put("a", &i.to_string());
    }
    one.store.compacted = 6;
    assert_eq!(revision(&one.create(&watch("a", "", 5))), 10);
    one.create(&watch("a", "", 6));
    one.catch_up();
    let answers = one.answers();
    assert_eq!(answers.len(), 2);
    let cancelled = &answers[0];
    assert_eq!((cancelled.watch_id, cancelled.compact_revision), (0, 6));
    assert!(cancelled.canceled && !cancelled.created && cancelled.cancel_reason.is_empty());
    assert_eq!(revision(cancelled), 0);
    assert_eq!(
        events(&answers[1]).first(),
        Some(&("a".to_string(), 6)),
        "the compacted revision itself is there"
    );

    assert_eq!(one.progress(), None, "a watch that lost its history is not served");
    let taken = WatchCreateRequest { watch_id: 0, ..watch("a", "", 0) };
    assert_eq!(one.create(&taken).watch_id, 2, "its id is still its own");
    one.watchers.cancel(token(1), 0, 10, &mut one.queues);
    assert!(one.answers()[0].canceled);
    assert_eq!(one.progress(), Some(10));
}

#[test]
fn progress_needs_watches_and_no_arrears() {
    let mut one = One::new();
    assert_eq!(one.progress(), None, "no watches, no progress");
    one.put("a", "1");
    one.create(&watch("a", "", 0));
    one.create(&watch("b", "", 1));
    assert_eq!(one.progress(), None, "one has history to read");
    one.catch_up();
    assert_eq!(one.answers(), []);
    assert_eq!(one.progress(), Some(2));
    one.watchers.request_progress(token(7), 2, &mut one.queues);
    assert_eq!(one.queues.take(token(7)), None, "no stream, no answer");
}

#[test]
fn progress_waits_for_batches_that_are_on_their_way() {
    let mut one = One::new();
    one.create(&watch("a", "", 0));
    one.apply(&[("a", Some("1"))]);
    one.apply(&[("b", Some("1"))]);
    one.apply(&[("a", Some("2"))]);
    assert_eq!(one.progress(), None);
    one.watchers.deliver(&one.store.batch(2, 3), &mut one.queues);
    assert_eq!(one.answers().len(), 1);
    one.watchers.deliver(&one.store.batch(4, 4), &mut one.queues);
    let answers = one.answers();
    assert_eq!(events(&answers[0]), [("a".to_string(), 4)]);
    assert_eq!((answers[1].watch_id, revision(&answers[1])), (-1, 4));
    assert_eq!(answers.len(), 2, "asked once, answered once");
}

#[test]
fn progress_that_waited_is_answered_after_a_gap() {
    let mut one = One::new();
    for through in [3, 5] {
        one.apply(&[("a", Some("1"))]);
        one.apply(&[("b", Some("1"))]);
        if through == 3 {
            // Nobody watched, so that nobody built a batch.
            one.create(&watch("a", "", 0));
        }
        assert_eq!(one.progress(), None);
        one.watchers.gap(through);
        assert!(one.watchers.wants_catch_up());
        one.catch_up();
        let last = one.answers().pop().unwrap();
        assert_eq!((last.watch_id, revision(&last)), (-1, through), "behind the events");
        assert!(!one.watchers.wants_catch_up());
    }
    assert_eq!(one.watchers.counts().events_sent, 1);
    one.apply(&[("a", Some("2"))]);
    one.watchers.deliver(&one.store.batch(6, 6).dropped(), &mut one.queues);
    one.catch_up();
    assert_eq!(events(&one.answers()[0]), [("a".to_string(), 6)], "a batch without its events is a gap");
}

#[test]
fn a_watch_is_not_given_what_was_before_it() {
    let mut one = One::new();
    one.apply(&[("a", Some("1"))]);
    one.apply(&[("a", Some("2"))]);
    // The shard has not heard of these two; the client has.
    let created = one.create(&WatchCreateRequest { progress_notify: true, ..watch("a", "", 0) });
    assert_eq!(revision(&created), 3);
    one.watchers.tick(INTERVAL_MS, &mut one.queues);
    assert_eq!(one.answers(), [], "progress does not go back behind the created answer");
    one.deliver(2);
    assert_eq!(one.answers(), []);
    one.put("a", "3");
    assert_eq!(events(&one.answers()[0]), [("a".to_string(), 4)]);
}

#[test]
fn periodic_progress_skips_busy_intervals() {
    let mut one = One::new();
    one.create(&WatchCreateRequest { progress_notify: true, ..watch("a", "", 0) });
    one.create(&watch("b", "", 0));
    let tick = |one: &mut One| {
        let now = one.watchers.next_tick().unwrap();
        one.watchers.tick(now - 1, &mut one.queues);
        assert_eq!(one.queues.queued(), 0, "not before its time");
        one.watchers.tick(now, &mut one.queues);
        one.answers().iter().map(|r| (r.watch_id, revision(r), r.events.len())).collect::<Vec<_>>()
    };
    assert_eq!(tick(&mut one), [(0, 1, 0)]);
    one.put("b", "1");
    assert_eq!(one.answers().len(), 1);
    assert_eq!(tick(&mut one), [(0, 2, 0)]);
    one.put("a", "1");
    assert_eq!(one.answers().len(), 1);
    assert_eq!(tick(&mut one), []);
    assert_eq!(tick(&mut one), [(0, 3, 0)]);
    one.watchers.gap(5);
    assert_eq!(tick(&mut one), [], "a watch with arrears");
}

#[test]
fn a_late_tick_keeps_the_rhythm() {
    let mut one = One::new();
    one.create(&WatchCreateRequest { progress_notify: true, ..watch("a", "", 0) });
    one.watchers.tick(3 * INTERVAL_MS + 10, &mut one.queues);
    assert_eq!(one.answers().len(), 1);
    assert_eq!(one.watchers.next_tick(), Some(4 * INTERVAL_MS));
}

#[test]
fn a_full_queue_delays_and_loses_nothing() {
    let mut one = One::with(Options { queue_bytes: 100, ..Options::new(11, 22, 1 << 20, 5) });
    one.create(&watch("a", "", 0));
    one.create(&watch("b", "", 0));
    for i in 0..20 {
        one.put("a", &i.to_string());
    }
    assert_eq!(one.watchers.counts().slow, 1, "the other watch has nothing to wait for");
    assert!(!one.watchers.wants_catch_up(), "nothing to do before the client reads");
    assert!(one.queues.queued() < 200);
    one.watchers.request_progress(token(1), 21, &mut one.queues);
    let mut seen = Vec::new();
    let mut responses = 0;
    while let Some(response) = one.queues.take(token(1)) {
        seen.extend(events(&response));
        responses += 1;
        one.watchers.drained(token(1), &one.queues);
        one.catch_up();
    }
    assert_eq!(seen, (2..=21).map(|r| ("a".to_string(), r)).collect::<Vec<_>>());
    assert!(responses < 20, "what was missed comes together");
    assert_eq!(one.progress(), Some(21));

    // Without a word about the drained queue, the tick finds out.
    for i in 0..20 {
        one.put("a", &i.to_string());
    }
    assert_eq!(one.watchers.counts().slow, 1);
    one.answers();
    one.watchers.tick(1, &mut one.queues);
    assert!(one.watchers.wants_catch_up());
}

#[test]
fn a_client_that_asks_and_does_not_read_fills_no_memory() {
    let mut one = One::with(Options { queue_bytes: 100, ..Options::new(11, 22, 1 << 20, 5) });
    one.create(&WatchCreateRequest { progress_notify: true, ..watch("a", "", 0) });
    for _ in 0..1000 {
        one.watchers.request_progress(token(1), 1, &mut one.queues);
        let now = one.watchers.next_tick().unwrap();
        one.watchers.tick(now, &mut one.queues);
    }
    assert!((100..150).contains(&one.queues.queued()));
}

#[test]
fn the_same_wish_shares_the_same_bytes() {
    let mut one = One::new();
    for key in ["a", "b"] {
        one.create(&watch(key, "z", 0));
        one.create(&watch(key, "z", 0));
        one.create(&WatchCreateRequest { fragment: true, ..watch(key, "z", 0) });
    }
    one.create(&watch("c", "", 0));
    one.put("c", "1");
    assert_eq!(one.answers().len(), 7);
    let shared = one.queues.shared.take();
    assert!(shared.iter().all(|bytes| Arc::ptr_eq(bytes, &shared[0])), "one event, encoded once");

    one.apply(&[("a", Some("1")), ("c", Some("1"))]);
    one.deliver(3);
    one.answers();
    let shared = one.queues.shared.take();
    let mut kinds: Vec<_> = shared.iter().map(|bytes| Arc::as_ptr(bytes).cast::<u8>()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!((shared.len(), kinds.len()), (7, 3), "one for each range");
}

#[test]
fn fragments_carry_a_revision_between_them() {
    let limit = 200;
    let mut one = One::with(Options::new(11, 22, limit, 5));
    one.create(&WatchCreateRequest { fragment: true, ..watch("a", "z", 0) });
    one.create(&watch("a", "z", 0));
    let keys: Vec<String> = (0..30).map(|i| format!("k{i:02}")).collect();
    let changes: Vec<_> = keys.iter().map(|key| (&key[..], Some("value"))).collect();
    one.apply(&changes);
    one.deliver(2);
    let answers = one.answers();
    let (parts, whole): (Vec<_>, Vec<_>) = answers.iter().partition(|r| r.watch_id == 0);
    assert_eq!(whole.len(), 1);
    assert!(parts.len() > 3 && !whole[0].fragment);
    let (last, before) = parts.split_last().unwrap();
    assert!(!last.fragment && before.iter().all(|part| part.fragment));
    assert!(parts.iter().all(|part| part.encoded_len() < limit && revision(part) == 2));
    let together: Vec<_> = parts.iter().flat_map(|part| events(part)).collect();
    assert_eq!(together, events(whole[0]));
}

#[test]
fn a_long_way_does_not_hold_up_a_short_one() {
    let mut one = One::with(Options { catch_up_changes: 10, ..Options::new(11, 22, 1 << 20, 5) });
    for i in 0..1000 {
        one.put("a", &i.to_string());
    }
    one.create(&watch("a", "", 1));
    one.create(&watch("a", "", 995));
    let mut steps = 0;
    while one.watchers.counts().slow == 2 {
        assert!(one.watchers.catch_up(&one.store, &mut one.queues));
        steps += 1;
    }
    assert!(steps <= 4, "{steps} steps");
    one.catch_up();
    let answers = one.answers();
    for (id, from) in [(0, 2), (1, 995)] {
        let seen: Vec<_> = answers.iter().filter(|r| r.watch_id == id).flat_map(events).collect();
        assert_eq!(seen.first().unwrap().1, from);
        assert_eq!(seen.len() as i64, 1002 - from);
    }
}

#[test]
fn watchers_that_meet_go_on_together() {
    let mut one = One::with(Options { catch_up_changes: 100, ..Options::new(11, 22, 1 << 20, 5) });
    for i in 0..1000 {
        one.put("a", &i.to_string());
    }
    for i in 0..50 {
        one.create(&watch("a", "", 2 + i));
    }
    let mut steps = 1;
    while one.watchers.catch_up(&one.store, &mut one.queues) {
        steps += 1;
    }
    assert!(steps <= 11, "one reading of history for all: {steps} steps");
}

#[test]
fn a_closed_stream_is_gone() {
    let mut one = One::new();
    one.create(&watch("a", "", 0));
    one.create(&watch("a", "z", 1));
    one.watchers.close(token(1));
    one.watchers.close(token(1));
    assert_eq!(one.watchers.counts().watchers, 0);
    one.put("a", "1");
    one.catch_up();
    assert_eq!(one.answers(), []);
    one.watchers.open(token(1), 0, INTERVAL_MS);
    assert_eq!(one.create(&watch("a", "", 0)).watch_id, 0);
}
