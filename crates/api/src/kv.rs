//! The KV service: what is checked before a request goes anywhere, in etcd's order, and reads of pinned snapshots.

use mvcc::validate;
use net::Outbound;
use prost::Message;
use proto::errors;
use proto::etcdserverpb as pb;
use replica::Event;

use crate::calls::Rpc;
use crate::shard::{CallState, Read, Shard, Sink};

impl Shard {
    /// The revisions of the newest published root.
    pub(crate) fn revisions(&self) -> mvcc::Revisions {
        mvcc::Revisions::of(self.reader.pin().stamp())
    }

    /// The quota comes before validation, as in etcd: a store that is full says so first, and whoever is told so finds
    /// the alarm up. True: refused.
    pub(crate) fn refuse_over_quota(
        &mut self,
        out: &mut Outbound,
        stream: u32,
        rpc: Rpc,
        cost_bytes: u64,
    ) -> bool {
        if self.published.has_room(cost_bytes) {
            return false;
        }
        if self.published.alarm(pb::AlarmType::Nospace) {
            self.fail(out, stream, rpc, &errors::NO_SPACE);
        } else {
            let token = self.hold(out, stream, rpc, CallState::Waiting);
            self.outgoing.push_back(Event::OverQuota { token });
        }
        true
    }

    pub(crate) fn put(&mut self, out: &mut Outbound, stream: u32, request: pb::PutRequest) {
        if self.refuse_over_quota(out, stream, Rpc::Put, mvcc::quota::put_cost(&request)) {
            return;
        }
        if let Err(error) = validate::put(&request) {
            return self.fail(out, stream, Rpc::Put, &error);
        }
        let request = pb::InternalRaftRequest { put: Some(request), ..Default::default() };
        self.propose(out, stream, Rpc::Put, request);
    }

    pub(crate) fn delete_range(&mut self, out: &mut Outbound, stream: u32, request: pb::DeleteRangeRequest) {
        if let Err(error) = validate::delete_range(&request) {
            return self.fail(out, stream, Rpc::DeleteRange, &error);
        }
        let request = pb::InternalRaftRequest { delete_range: Some(request), ..Default::default() };
        self.propose(out, stream, Rpc::DeleteRange, request);
    }

    pub(crate) fn txn(&mut self, out: &mut Outbound, stream: u32, request: pb::TxnRequest) {
        let cost_bytes = mvcc::quota::txn_cost(&request);
        // What writes nothing passes also when the store is full.
        if cost_bytes > 0 && self.refuse_over_quota(out, stream, Rpc::Txn, cost_bytes) {
            return;
        }
        if let Err(error) = validate::txn(&request, self.config.max_txn_ops) {
            return self.fail(out, stream, Rpc::Txn, &error);
        }
        if !mvcc::is_read_only(&request) {
            let request = pb::InternalRaftRequest { txn: Some(request), ..Default::default() };
            return self.propose(out, stream, Rpc::Txn, request);
        }
        if mvcc::is_serializable(&request) {
            self.run_read_txn(out, stream, &request);
        } else {
            self.after_barrier(out, stream, Rpc::Txn, Read::Txn(request));
        }
    }

    pub(crate) fn run_read_txn(&mut self, out: &mut Outbound, stream: u32, request: &pb::TxnRequest) {
        let answer = {
            let snapshot = self.reader.pin();
            mvcc::txn_read_only(snapshot.view(), mvcc::Revisions::of(snapshot.stamp()), request)
        };
        match answer {
            Ok(mut answer) => {
                self.meter.ranges.add(answer.responses.len() as u64);
                self.meter.read_txns.add(u64::from(answer.responses.len() > 1));
                answer.header = self.fill(answer.header);
                self.answer(out, stream, Rpc::Txn, &answer);
            }
            Err(error) => self.fail(out, stream, Rpc::Txn, &error),
        }
    }

    pub(crate) fn range(&mut self, out: &mut Outbound, stream: u32, request: pb::RangeRequest) {
        if let Err(error) = validate::range(&request) {
            return self.fail(out, stream, Rpc::Range, &error);
        }
        if request.serializable {
            self.run_range(out, None, stream, &request);
        } else {
            self.after_barrier(out, stream, Rpc::Range, Read::Range(request));
        }
    }

    pub(crate) fn range_stream(&mut self, out: &mut Outbound, stream: u32, request: pb::RangeRequest) {
        if let Err(error) = validate::range_stream(&request) {
            return self.fail(out, stream, Rpc::RangeStream, &error);
        }
        if request.serializable {
            self.run_range_stream(out, stream, &request);
        } else {
            self.after_barrier(out, stream, Rpc::RangeStream, Read::RangeStream(request));
        }
    }

    /// Answers at once where the whole answer is small or has an order of its own; else by [`crate::produce`].
    pub(crate) fn run_range(
        &mut self,
        out: &mut Outbound,
        sink: Option<&mut dyn Sink>,
        stream: u32,
        request: &pb::RangeRequest,
    ) {
        self.meter.ranges.inc();
        let snapshot = self.reader.pin();
        let view = snapshot.view();
        let revisions = mvcc::Revisions::of(snapshot.stamp());
        let single = request.range_end.is_empty();
        let cursor = if single { Ok(None) } else { mvcc::RangeCursor::new(revisions, request) };
        match cursor {
            Err(error) => self.fail(out, stream, Rpc::Range, &error),
            Ok(Some(cursor)) => {
                let filtered = mvcc::has_filters(request);
                self.start_range(out, sink, stream, snapshot, cursor, filtered);
            }
            Ok(None) => match mvcc::range(view, revisions, request) {
                Err(error) => self.fail(out, stream, Rpc::Range, &error),
                Ok(answer) => {
                    let header = self.header_at(answer.revision);
                    let count = u64::try_from(answer.count).unwrap_or(0);
                    self.answer_with(out, stream, Rpc::Range, count, |buffer| answer.encode(&header, buffer));
                }
            },
        }
    }

    pub(crate) fn run_range_stream(&mut self, out: &mut Outbound, stream: u32, request: &pb::RangeRequest) {
        self.meter.ranges.inc();
        let snapshot = self.reader.pin();
        let revisions = mvcc::Revisions::of(snapshot.stamp());
        match mvcc::RangeCursor::for_stream(revisions, request) {
            Err(error) => self.fail(out, stream, Rpc::RangeStream, &error),
            Ok(Some(cursor)) => self.start_range_stream(out, stream, snapshot, cursor),
            Ok(None) => match mvcc::range(snapshot.view(), revisions, request) {
                Err(error) => self.fail(out, stream, Rpc::RangeStream, &error),
                Ok(answer) => {
                    let chunk = pb::RangeStreamResponse {
                        range_response: Some(pb::RangeResponse {
                            header: Some(self.header_at(answer.revision)),
                            kvs: Vec::new(),
                            more: false,
                            count: answer.count,
                        }),
                    };
                    out.open(stream);
                    out.send(stream, &chunk.encode_to_vec());
                    self.finish_stream(out, stream, Rpc::RangeStream);
                }
            },
        }
    }
}
