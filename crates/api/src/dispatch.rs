//! From a method and its message to the service that answers, and from an outcome back to its call. Exhaustive
//! over [`Rpc`] (law 13).

use base::CallToken;
use net::{End, Outbound};
use prost::Message;
use proto::errors::{self, Code, Error};
use proto::etcdserverpb as pb;
use replica::{Event, Outcome, Response};

use crate::calls::{Rpc, Shape};
use crate::maintenance::Work;
use crate::shard::{CallState, Connections, Read, Shard, Sink, connection_of, position_of};

/// A message that its client did not finish, as grpc-go reports it on streams.
pub(crate) const UNEXPECTED_EOF: Error = Error::fixed(Code::Internal, "unexpected EOF");

/// A request that does not parse, as grpc-go reports it.
fn malformed(error: &prost::DecodeError) -> Error {
    let text = error.to_string();
    let reason = if text.contains("UTF-8") {
        "string field contains invalid UTF-8"
    } else {
        "proto: cannot parse invalid wire-format data"
    };
    Error::new(Code::Internal, format!("grpc: error unmarshalling request: {reason}"))
}

/// A call that ended before its request was whole.
fn no_message(shape: Shape, end: End) -> Error {
    match (shape, end) {
        (Shape::Unary, End::InMessage) => Error::fixed(Code::Unknown, "unexpected EOF"),
        (Shape::Unary, End::Clean | End::InPrefix) => Error::fixed(Code::Unknown, "EOF"),
        (Shape::ServerStream | Shape::BidiStream, End::InMessage) => UNEXPECTED_EOF,
        (Shape::ServerStream | Shape::BidiStream, End::Clean | End::InPrefix) => Error::fixed(
            Code::Internal,
            "cardinality violation: received no request message from non-client-streaming RPC",
        ),
    }
}

/// What comes with a later stage of the project: said plainly.
fn not_yet(rpc: Rpc) -> Error {
    Error::new(Code::Unimplemented, format!("mainstay: {} is not supported by this version yet", rpc.path()))
}

macro_rules! decode {
    ($self:ident, $out:ident, $stream:ident, $rpc:ident, $bytes:ident as $message:ty) => {
        match <$message>::decode($bytes) {
            Ok(request) => request,
            Err(error) => return $self.fail($out, $stream, $rpc, &malformed(&error)),
        }
    };
}

impl Shard {
    /// The head of a call is known. Streams that clients only talk to open here.
    pub(crate) fn open_call(&mut self, out: &mut Outbound, stream: u32, rpc: Rpc) {
        match rpc {
            Rpc::Watch => self.open_watch_stream(out, stream),
            Rpc::LeaseKeepAlive => {
                out.open(stream);
                self.hold(out, stream, rpc, CallState::KeepAlive { in_flight: 0, end: None });
            }
            _ => {}
        }
    }

    pub(crate) fn take_message(&mut self, out: &mut Outbound, stream: u32, rpc: Rpc, bytes: &[u8]) {
        match rpc {
            Rpc::Range => {
                let request = decode!(self, out, stream, rpc, bytes as pb::RangeRequest);
                self.range(out, stream, request);
            }
            Rpc::RangeStream => {
                let request = decode!(self, out, stream, rpc, bytes as pb::RangeRequest);
                self.range_stream(out, stream, request);
            }
            Rpc::Put => {
                let request = decode!(self, out, stream, rpc, bytes as pb::PutRequest);
                self.put(out, stream, request);
            }
            Rpc::DeleteRange => {
                let request = decode!(self, out, stream, rpc, bytes as pb::DeleteRangeRequest);
                self.delete_range(out, stream, request);
            }
            Rpc::Txn => {
                match proto::deep::txn(bytes) {
                    Ok(Some(request)) => self.txn(out, stream, request),
                    // Each level takes up operations, so so many levels hold too many.
                    Ok(None) => self.fail(out, stream, rpc, &errors::TOO_MANY_OPS),
                    Err(error) => self.fail(out, stream, rpc, &malformed(&error)),
                }
            }
            Rpc::Compact => {
                let request = decode!(self, out, stream, rpc, bytes as pb::CompactionRequest);
                let request = pb::InternalRaftRequest { compaction: Some(request), ..Default::default() };
                self.propose(out, stream, rpc, request);
            }
            Rpc::Watch => {
                let request = decode!(self, out, stream, rpc, bytes as pb::WatchRequest);
                self.watch_request(out, stream, request);
            }
            Rpc::LeaseGrant => {
                let request = decode!(self, out, stream, rpc, bytes as pb::LeaseGrantRequest);
                self.lease_grant(out, stream, request);
            }
            Rpc::LeaseRevoke => {
                let request = decode!(self, out, stream, rpc, bytes as pb::LeaseRevokeRequest);
                let request = pb::InternalRaftRequest { lease_revoke: Some(request), ..Default::default() };
                self.propose(out, stream, rpc, request);
            }
            Rpc::LeaseKeepAlive => {
                let request = decode!(self, out, stream, rpc, bytes as pb::LeaseKeepAliveRequest);
                self.lease_keep_alive(out, stream, request.id);
            }
            Rpc::LeaseTimeToLive => {
                let request = decode!(self, out, stream, rpc, bytes as pb::LeaseTimeToLiveRequest);
                let token = self.hold(out, stream, rpc, CallState::Waiting);
                self.outgoing.push_back(Event::LeaseTimeToLive { token, id: request.id, keys: request.keys });
            }
            Rpc::LeaseLeases => {
                decode!(self, out, stream, rpc, bytes as pb::LeaseLeasesRequest);
                let token = self.hold(out, stream, rpc, CallState::Waiting);
                self.outgoing.push_back(Event::LeaseList { token });
            }
            Rpc::MemberList => {
                let request = decode!(self, out, stream, rpc, bytes as pb::MemberListRequest);
                self.member_list(out, stream, request);
            }
            Rpc::Alarm => {
                let request = decode!(self, out, stream, rpc, bytes as pb::AlarmRequest);
                let request = pb::InternalRaftRequest { alarm: Some(request), ..Default::default() };
                self.propose(out, stream, rpc, request);
            }
            Rpc::Status => {
                decode!(self, out, stream, rpc, bytes as pb::StatusRequest);
                let status = self.status();
                self.answer(out, stream, rpc, &status);
            }
            Rpc::Defragment => {
                decode!(self, out, stream, rpc, bytes as pb::DefragmentRequest);
                // As in etcd without a limit of the server's; the log core answers in time.
                let timed = base::bug!(DefragmentTimedOut);
                let state = if timed { CallState::Waiting } else { CallState::Working };
                let token = self.hold(out, stream, rpc, state);
                self.outgoing.push_back(Event::Defragment { token });
            }
            Rpc::Hash => {
                decode!(self, out, stream, rpc, bytes as pb::HashRequest);
                self.start_job(out, stream, rpc, Work::Hash);
            }
            Rpc::HashKV => {
                let request = decode!(self, out, stream, rpc, bytes as pb::HashKvRequest);
                self.start_job(out, stream, rpc, Work::HashKv { revision: request.revision });
            }
            Rpc::Snapshot => {
                decode!(self, out, stream, rpc, bytes as pb::SnapshotRequest);
                self.start_job(out, stream, rpc, Work::Snapshot);
            }
            Rpc::MoveLeader => {
                let request = decode!(self, out, stream, rpc, bytes as pb::MoveLeaderRequest);
                let token = self.hold(out, stream, rpc, CallState::Waiting);
                self.outgoing.push_back(Event::MoveLeader { token, target: request.target_id });
            }
            Rpc::HealthCheck => {
                let request = decode!(self, out, stream, rpc, bytes as proto::health::HealthCheckRequest);
                self.health_check(out, stream, &request);
            }
            Rpc::HealthList => {
                decode!(self, out, stream, rpc, bytes as ());
                self.health_list(out, stream);
            }
            Rpc::HealthWatch => {
                let request = decode!(self, out, stream, rpc, bytes as proto::health::HealthCheckRequest);
                self.health_watch(out, stream, &request);
            }
            Rpc::MemberAdd
            | Rpc::MemberRemove
            | Rpc::MemberUpdate
            | Rpc::MemberPromote
            | Rpc::Downgrade
            | Rpc::AuthEnable
            | Rpc::AuthDisable
            | Rpc::AuthStatus
            | Rpc::Authenticate
            | Rpc::UserAdd
            | Rpc::UserGet
            | Rpc::UserList
            | Rpc::UserDelete
            | Rpc::UserChangePassword
            | Rpc::UserGrantRole
            | Rpc::UserRevokeRole
            | Rpc::RoleAdd
            | Rpc::RoleGet
            | Rpc::RoleList
            | Rpc::RoleDelete
            | Rpc::RoleGrantPermission
            | Rpc::RoleRevokePermission
            | Rpc::ElectionCampaign
            | Rpc::ElectionProclaim
            | Rpc::ElectionLeader
            | Rpc::ElectionObserve
            | Rpc::ElectionResign
            | Rpc::Lock
            | Rpc::LockUnlock => self.fail(out, stream, rpc, &not_yet(rpc)),
        }
    }

    /// The client has said everything on this stream. The statuses are grpc-go's.
    pub(crate) fn half_closed(&mut self, out: &mut Outbound, stream: u32, rpc: Rpc, end: End) {
        let Some(position) = position_of(out, stream) else {
            if out.is_open(stream) {
                self.fail(out, stream, rpc, &no_message(rpc.shape(), end));
            }
            return;
        };
        match &mut self.calls[position].state {
            CallState::KeepAlive { in_flight: 0, .. } => self.end_keep_alives(out, stream, end),
            CallState::KeepAlive { end: then, .. } => *then = Some(end),
            // Whoever ends a watch stream's own side goes on receiving, as from etcd.
            _ if end == End::InMessage => self.fail_call(out, stream, position, &UNEXPECTED_EOF),
            _ => {}
        }
    }

    pub(crate) fn finish_stream(&mut self, out: &mut Outbound, stream: u32, rpc: Rpc) {
        self.release(out, stream);
        out.finish(stream, 0, "");
        self.finished(rpc, 0);
    }

    /// An outcome from the log core.
    pub fn outcome(&mut self, outcome: Outcome, connections: &mut dyn Connections) {
        let token: CallToken = outcome.token;
        let Some((out, sink)) = connections.outbound(connection_of(token)) else { return };
        let stream = token.stream;
        let Some(position) = position_of(out, stream) else { return };
        let call = &mut self.calls[position];
        if call.token != token {
            return;
        }
        let rpc = call.rpc;
        let response = match outcome.result {
            Ok(response) => response,
            Err(error) => return self.fail_call(out, stream, position, &error),
        };
        match response {
            Response::Barrier => {
                if let CallState::Parked(_) = call.state
                    && let CallState::Parked(read) = std::mem::replace(&mut call.state, CallState::Waiting)
                {
                    self.run_read(out, Some(sink), stream, rpc, read);
                }
            }
            Response::Put(mut message) => {
                self.meter.put_bytes.add(u64::from(self.calls[position].held.put_bytes));
                message.header = self.fill(message.header);
                self.answer(out, stream, rpc, &message);
            }
            Response::DeleteRange(mut message) => {
                message.header = self.fill(message.header);
                self.answer_counted(out, stream, rpc, &message, u64::try_from(message.deleted).unwrap_or(0));
            }
            Response::Txn(mut message) => {
                if message.succeeded {
                    self.meter.put_bytes.add(u64::from(self.calls[position].held.put_bytes));
                }
                message.header = self.fill(message.header);
                self.answer_counted(out, stream, rpc, &message, message.responses.len() as u64);
            }
            // Answered when everything is removed: that takes as long as it takes.
            Response::CompactionAgreed => {
                call.state = CallState::Working;
                call.held.agreed(&self.meter);
            }
            Response::Compact(mut message) => {
                message.header = self.fill(None);
                self.answer(out, stream, rpc, &message);
            }
            Response::LeaseGrant(mut message) => {
                message.header = self.fill(message.header);
                self.answer(out, stream, rpc, &message);
            }
            Response::LeaseRevoke(mut message) => {
                message.header = self.fill(message.header);
                self.answer(out, stream, rpc, &message);
            }
            Response::LeaseRenewed { id, ttl_s, revision } => {
                self.lease_renewed(out, stream, position, id, ttl_s, revision);
            }
            Response::LeaseTimeToLive(mut message) => {
                message.header = self.fill(None);
                self.answer(out, stream, rpc, &message);
            }
            Response::LeaseList(mut message) => {
                message.header = self.fill(None);
                self.answer(out, stream, rpc, &message);
            }
            Response::Alarm(mut message) => {
                message.header = self.fill(None);
                self.answer(out, stream, rpc, &message);
            }
            Response::Defragmented => {
                self.answer(out, stream, rpc, &pb::DefragmentResponse::default());
            }
            Response::LeaderMoved => self.answer(out, stream, rpc, &pb::MoveLeaderResponse::default()),
        }
    }

    /// A read whose barrier has passed.
    pub(crate) fn run_read(
        &mut self,
        out: &mut Outbound,
        sink: Option<&mut dyn Sink>,
        stream: u32,
        rpc: Rpc,
        read: Read,
    ) {
        match read {
            Read::Range(request) => self.run_range(out, sink, stream, &request),
            Read::RangeStream(request) => self.run_range_stream(out, stream, &request),
            Read::Txn(request) => self.run_read_txn(out, stream, &request),
            Read::MemberList => self.run_member_list(out, stream, rpc),
        }
    }

    /// Streams of a connection whose windows reopened, or whose output drained: produce more.
    pub fn writable(&mut self, out: &mut Outbound, sink: &mut dyn Sink, stream: u32) {
        let Some(position) = position_of(out, stream) else { return };
        match self.calls[position].state {
            CallState::Starting(_) => self.begin_range(out, sink, stream, position),
            CallState::LongRange(_) => self.produce_range(out, sink, stream, position),
            CallState::StreamedRange(_) => self.produce_range_stream(out, stream, position),
            CallState::Snapshot(_) => self.produce_snapshot(out, stream, position),
            CallState::Watch => {
                self.watch_writable(out, position);
                out.listen(stream);
            }
            CallState::KeepAlive { .. } => out.listen(stream),
            CallState::Parked(_) | CallState::Waiting | CallState::Working | CallState::HealthWatch => {}
        }
    }
}
