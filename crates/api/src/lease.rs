//! The Lease service: grants and revocations are proposed, renewals are decided by the log core.

use base::limits::RENEWALS_PER_STREAM;
use net::{End, Outbound};
use proto::etcdserverpb as pb;
use replica::Event;

use crate::calls::Rpc;
use crate::dispatch::UNEXPECTED_EOF;
use crate::shard::{CallState, Shard};

impl Shard {
    pub(crate) fn lease_grant(&mut self, out: &mut Outbound, stream: u32, request: pb::LeaseGrantRequest) {
        if self.refuse_over_quota(out, stream, Rpc::LeaseGrant, mvcc::quota::LEASE_COST) {
            return;
        }
        // An id of 0 is chosen by the log core, which knows which are free.
        let request = pb::InternalRaftRequest { lease_grant: Some(request), ..Default::default() };
        self.propose(out, stream, Rpc::LeaseGrant, request);
    }

    pub(crate) fn lease_keep_alive(&mut self, out: &mut Outbound, stream: u32, id: i64) {
        let token = self.token(out, stream);
        let Some(position) = crate::shard::position_of(out, stream) else { return };
        if let CallState::KeepAlive { in_flight, .. } = &mut self.calls[position].state {
            *in_flight += 1;
            if *in_flight >= RENEWALS_PER_STREAM {
                out.pause(stream);
            }
            self.outgoing.push_back(Event::LeaseRenew { token, id });
        }
    }

    pub(crate) fn lease_renewed(
        &mut self,
        out: &mut Outbound,
        stream: u32,
        position: usize,
        id: i64,
        ttl_s: Option<i64>,
        revision: i64,
    ) {
        let message = pb::LeaseKeepAliveResponse {
            header: Some(self.header_at(revision)),
            id,
            ttl: ttl_s.unwrap_or(0),
        };
        out.send(stream, &prost::Message::encode_to_vec(&message));
        self.meter.messages_sent[Rpc::LeaseKeepAlive as usize].add(1);
        if let CallState::KeepAlive { in_flight, end } = &mut self.calls[position].state {
            assert!(*in_flight > 0, "a renewal is answered once");
            *in_flight -= 1;
            if *in_flight == RENEWALS_PER_STREAM / 2 {
                out.listen(stream);
            }
            if *in_flight == 0
                && let Some(end) = *end
            {
                self.end_keep_alives(out, stream, end);
            }
        }
    }

    /// The client has ended its side, and everything before that is answered.
    pub(crate) fn end_keep_alives(&mut self, out: &mut Outbound, stream: u32, end: End) {
        match end {
            End::Clean | End::InPrefix => self.finish_stream(out, stream, Rpc::LeaseKeepAlive),
            End::InMessage => self.fail(out, stream, Rpc::LeaseKeepAlive, &UNEXPECTED_EOF),
        }
    }
}
