//! The Watch service: streams of this shard, fed by event batches and, for those behind, by pinned snapshots.
//!
//! The rules are in the `watch` crate; here is only how its responses reach connections, and what it is fed.
//! Law 12's order across the ring: before a watcher is created or progress is asked for, the root is read, and the
//! watchers' head tells what was delivered: whoever is created ahead of it passes over what it is too young for.

use std::ops::Range;
use std::sync::Arc;

use base::{CallToken, Millis};
use mvcc::event::EventBatch;
use net::Outbound;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::watch_request::RequestUnion;

use crate::calls::Rpc;
use crate::shard::{CallState, Config, Connections, Shard, connection_of};

/// The watchers of a shard, made when the first stream opens: then the revision is known.
pub(crate) struct Watches {
    watchers: Option<watch::Watchers>,
    /// How many of them `Published` counts.
    counted: i64,
    progress_interval_ms: Millis,
    fragment_bytes: usize,
    seed: u64,
    /// Spreads the periodic progress of streams that opened together.
    spread: base::Random,
    framed: Framed,
}

/// The last responses as they go out, for the next watcher that gets the same under the same id: mostly there is one
/// watcher on a stream and one stream on a connection, and all of them have the same ids.
#[derive(Default)]
struct Framed {
    key: (u64, usize, i64),
    messages: Vec<u8>,
    /// The same as DATA of this stream, as soon as a second watcher gets it.
    frame: Option<(u32, Arc<[u8]>)>,
    head: Vec<u8>,
}

/// Responses up to this are put together before they go out, bytes; longer ones are shared piece by piece.
const FRAMED_BYTES: usize = 32 << 10;

impl Framed {
    fn send(&mut self, out: &mut Outbound, stream: u32, responses: &watch::Responses<'_>) {
        if self.key != responses.key() {
            self.key = responses.key();
            self.frame = None;
            self.messages.clear();
            let messages = &mut self.messages;
            responses.for_each(&mut self.head, |parts| {
                messages.extend_from_slice(&net::grpc::prefix(parts.head.len() + parts.events.len()));
                messages.extend_from_slice(parts.head);
                messages.extend_from_slice(&parts.shared[parts.events]);
            });
            return out.send_framed(stream, &self.messages);
        }
        let messages = &self.messages;
        let (id, frame) = self.frame.get_or_insert_with(|| (stream, net::frame::data(stream, messages)));
        if *id == stream { out.send_frame(stream, frame) } else { out.send_framed(stream, messages) }
    }
}

impl Watches {
    pub fn new(config: &Config) -> Watches {
        Watches {
            watchers: None,
            counted: 0,
            progress_interval_ms: config.progress_interval_ms,
            fragment_bytes: config.max_request_bytes + base::limits::GRPC_OVERHEAD_BYTES,
            seed: config.seed,
            spread: base::Random::new(config.seed),
            framed: Framed::default(),
        }
    }
}

/// One message: what is a watcher's own, then what it shares with others.
fn send_parts(out: &mut Outbound, stream: u32, head: &[u8], events: Option<(&Arc<[u8]>, Range<usize>)>) {
    match events {
        None => out.send(stream, head),
        Some((events, range)) => out.send_parts(stream, head, events, range),
    }
}

/// To one stream, on the connection at hand.
struct OneStream<'o> {
    out: &'o mut Outbound,
    sent: u64,
}

impl watch::Outlet for OneStream<'_> {
    fn queued_bytes(&self, stream: CallToken) -> usize {
        self.out.queued(stream.stream)
    }

    fn send(&mut self, stream: CallToken, head: &[u8], events: Option<(&Arc<[u8]>, Range<usize>)>) {
        send_parts(self.out, stream.stream, head, events);
        self.sent += 1;
    }
}

/// To any stream of the shard.
struct AnyStream<'c> {
    connections: std::cell::RefCell<&'c mut dyn Connections>,
    framed: &'c mut Framed,
    sent: u64,
}

impl<'c> AnyStream<'c> {
    fn new(connections: &'c mut dyn Connections, framed: &'c mut Framed) -> AnyStream<'c> {
        AnyStream { connections: std::cell::RefCell::new(connections), framed, sent: 0 }
    }
}

impl watch::Outlet for AnyStream<'_> {
    fn queued_bytes(&self, stream: CallToken) -> usize {
        let mut connections = self.connections.borrow_mut();
        connections.outbound(connection_of(stream)).map_or(0, |(out, _)| out.queued(stream.stream))
    }

    fn send(&mut self, stream: CallToken, head: &[u8], events: Option<(&Arc<[u8]>, Range<usize>)>) {
        if let Some((out, _)) = self.connections.get_mut().outbound(connection_of(stream)) {
            send_parts(out, stream.stream, head, events);
            self.sent += 1;
        }
    }

    fn send_all(&mut self, stream: CallToken, responses: &watch::Responses<'_>, limit_bytes: usize) -> bool {
        let Some((out, _)) = self.connections.get_mut().outbound(connection_of(stream)) else { return true };
        let queued = out.queued(stream.stream);
        if queued >= limit_bytes {
            return false;
        }
        self.sent += responses.count() as u64;
        if queued == 0 && responses.bytes() <= FRAMED_BYTES {
            self.framed.send(out, stream.stream, responses);
            return true;
        }
        // What waits keeps no copy of its own.
        responses.for_each(&mut self.framed.head, |parts| {
            out.send_parts(stream.stream, parts.head, parts.shared, parts.events);
        });
        true
    }
}

impl Shard {
    pub(crate) fn open_watch_stream(&mut self, out: &mut Outbound, stream: u32) {
        let revision = self.revisions().current;
        let token = self.hold(out, stream, Rpc::Watch, CallState::Watch);
        let (cluster_id, member_id) = (self.published.cluster_id, self.published.member_id);
        let watches = &mut self.watches;
        let watchers = watches.watchers.get_or_insert_with(|| {
            let options = watch::Options::new(cluster_id, member_id, watches.fragment_bytes, watches.seed);
            watch::Watchers::new(options, revision)
        });
        let interval = watches.progress_interval_ms;
        let spread = watches.spread.below(interval / 10 + 1);
        watchers.open(token, self.now, interval + spread);
        out.open(stream);
    }

    pub(crate) fn watch_request(&mut self, out: &mut Outbound, stream: u32, request: pb::WatchRequest) {
        let token = self.token(out, stream);
        if let Some(RequestUnion::CreateRequest(_)) = request.request_union {
            // Before the root is read: a batch applied later than that root then carries its events.
            self.watches.counted += 1;
            self.published.add_watchers(1);
        }
        let current = self.revisions().current;
        let Some(watchers) = &mut self.watches.watchers else { return };
        watchers.set_term(self.published.term());
        let mut outlet = OneStream { out, sent: 0 };
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => {
                watchers.create(token, &create, None, current, &mut outlet);
            }
            Some(RequestUnion::CancelRequest(cancel)) => {
                watchers.cancel(token, cancel.watch_id, current, &mut outlet);
            }
            Some(RequestUnion::ProgressRequest(_)) => watchers.request_progress(token, current, &mut outlet),
            None => {}
        }
        let sent = outlet.sent;
        self.meter.messages_sent[Rpc::Watch as usize].add(sent);
        self.turn.watch_control(sent);
        self.recount_watchers();
    }

    /// The stream of a call is over; nothing is sent.
    pub(crate) fn end_watch_stream(&mut self, position: usize) {
        let token = self.calls[position].token;
        if let Some(watchers) = &mut self.watches.watchers {
            watchers.close(token);
        }
        self.recount_watchers();
    }

    fn recount_watchers(&mut self) {
        let count = self.watches.watchers.as_ref().map_or(0, |w| w.counts().watchers as i64);
        self.published.add_watchers(count - self.watches.counted);
        self.watches.counted = count;
    }

    /// A batch from the log core.
    pub fn events(&mut self, batch: &EventBatch, connections: &mut dyn Connections) {
        let Some(watchers) = &mut self.watches.watchers else { return };
        watchers.set_term(self.published.term());
        let mut outlet = AnyStream::new(connections, &mut self.watches.framed);
        watchers.deliver(&Delivered(batch), &mut outlet);
        let sent = outlet.sent;
        self.sent_events(sent);
    }

    /// Counts responses that told of events.
    fn sent_events(&mut self, responses: u64) {
        let Some(watchers) = &self.watches.watchers else { return };
        if responses == 0 {
            return;
        }
        let total = watchers.counts().events_sent;
        let events = total - self.meter.watch_events.get();
        self.meter.watch_events.set(total);
        self.meter.messages_sent[Rpc::Watch as usize].add(responses);
        self.turn.watch_events(responses, events);
    }

    /// Whether a root is visible whose events did not come, or somebody reads history.
    pub fn wants_catch_up(&self) -> bool {
        let Some(watchers) = &self.watches.watchers else { return false };
        watchers.wants_catch_up()
    }

    /// Once a turn. `sent` is [`replica::Published::event_revision`] as it was before the ring was drained: batches up
    /// to there that have not come never will. Reads history for those who are behind, one bounded step.
    pub fn catch_up(&mut self, sent: i64, connections: &mut dyn Connections) {
        let Some(watchers) = &mut self.watches.watchers else { return };
        if watchers.head() < sent {
            watchers.gap(sent);
        }
        if !watchers.wants_catch_up() {
            return;
        }
        let snapshot = self.reader.pin();
        let revisions = mvcc::Revisions::of(snapshot.stamp());
        if revisions.current >= watchers.head() {
            let history = Past { view: snapshot.view(), revisions };
            let mut outlet = AnyStream::new(connections, &mut self.watches.framed);
            watchers.catch_up(&history, &mut outlet);
            let sent = outlet.sent;
            self.sent_events(sent);
        }
    }

    /// Periodic progress; metrics of watchers.
    pub(crate) fn watch_tick(&mut self, connections: &mut dyn Connections) {
        let Some(watchers) = &mut self.watches.watchers else { return };
        watchers.set_term(self.published.term());
        let mut outlet = AnyStream::new(connections, &mut self.watches.framed);
        watchers.tick(self.now, &mut outlet);
        let sent = outlet.sent;
        let counts = watchers.counts();
        self.meter.messages_sent[Rpc::Watch as usize].add(sent);
        self.turn.watch_progress(sent);
        self.meter.watchers.set(counts.watchers as i64);
        self.meter.watch_streams.set(counts.streams as i64);
        self.meter.slow_watchers.set(counts.slow as i64);
        self.meter.watch_events.set(counts.events_sent);
    }

    /// The client of a watch stream has taken some of what was queued.
    pub(crate) fn watch_writable(&mut self, out: &mut Outbound, position: usize) {
        let token = self.calls[position].token;
        if let Some(watchers) = &mut self.watches.watchers {
            watchers.drained(token, &OneStream { out, sent: 0 });
        }
    }
}

/// A batch as the watchers want to see it. One that lost its events to its size reads as a gap.
struct Delivered<'b>(&'b EventBatch);

impl watch::Batch for Delivered<'_> {
    fn first(&self) -> i64 {
        self.0.first
    }

    fn last(&self) -> i64 {
        self.0.last
    }

    fn whole(&self) -> bool {
        self.0.whole
    }

    fn events(&self) -> impl Iterator<Item = watch::EventRef<'_>> {
        self.0.iter().map(|event| watch::EventRef {
            kind: kind_of(event.kind),
            revision: event.revision.main,
            key: event.key,
            kv: event.kv,
            prev: event.prev,
            is_create: event.create,
        })
    }
}

fn kind_of(kind: mvcc::event::Kind) -> watch::Kind {
    match kind {
        mvcc::event::Kind::Put => watch::Kind::Put,
        mvcc::event::Kind::Delete => watch::Kind::Delete,
    }
}

/// History on a pinned snapshot, for those who catch up.
struct Past<'a> {
    view: tree::View<'a>,
    revisions: mvcc::Revisions,
}

impl watch::History for Past<'_> {
    fn current(&self) -> i64 {
        self.revisions.current
    }

    fn compacted(&self) -> i64 {
        self.revisions.compacted
    }

    fn changes(&self, from: i64) -> impl Iterator<Item = watch::Change<'_>> {
        mvcc::changes::changes(self.view, from, self.revisions.current).map(|change| watch::Change {
            revision: change.revision,
            kind: kind_of(change.kind),
            key: change.key,
        })
    }

    fn kv(&self, change: &watch::Change<'_>) -> Option<&[u8]> {
        mvcc::versions::exactly(self.view, change.key, change.revision).map(mvcc::cell::Cell::wire)
    }

    fn prev(&self, change: &watch::Change<'_>) -> Option<&[u8]> {
        let before = change.revision.main - i64::from(!base::bug!(PrevKvIsItself));
        mvcc::versions::superseded_at(self.view, change.key, before).map(mvcc::cell::Cell::wire)
    }
}
