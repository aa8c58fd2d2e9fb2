//! Calls: sent, answered, refused, given up; and what the history says of each.

use std::collections::VecDeque;

use api::calls::Rpc;
use prost::Message;
use proto::etcdserverpb as pb;
use sha2::{Digest, Sha256};

use super::reasons::Asked;
use super::workload::Ask;
use super::{Client, Timer};
use crate::history::{Answer, OpId, Outcome, Range, Request};
use crate::world::Env;
use crate::world::coverage::Mechanism;
use crate::world::network::ConnectionId;
use crate::world::queue::magnitude;
use crate::world::ranges::OddAnswer;
use crate::world::trace::{self, What};

/// A call under way.
pub(super) enum Call {
    /// Recorded; one answer.
    Op {
        asked: Asked,
        op: OpId,
        odd: Option<Box<pb::RangeRequest>>,
    },
    /// A streamed range, put together as it comes.
    Stream {
        op: OpId,
        answer: Box<pb::RangeResponse>,
    },
    /// The stream of renewals, with those that wait for their answer.
    KeepAlive {
        waiting: VecDeque<(OpId, i64)>,
    },
    /// A watch stream, by its place.
    Watch {
        place: usize,
    },
    /// Not in the history.
    Plain {
        asked: Asked,
    },
    Snapshot {
        bytes: Vec<u8>,
        digest: Vec<u8>,
    },
}

impl Call {
    /// Answers that it waits for.
    pub fn waiting(&self) -> usize {
        match self {
            Call::KeepAlive { waiting } => waiting.len(),
            Call::Watch { .. } => 0,
            _ => 1,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Call::Op { asked, .. } | Call::Plain { asked } => asked.rpc.path(),
            Call::Stream { .. } => Rpc::RangeStream.path(),
            Call::KeepAlive { .. } => Rpc::LeaseKeepAlive.path(),
            Call::Watch { .. } => Rpc::Watch.path(),
            Call::Snapshot { .. } => Rpc::Snapshot.path(),
        }
    }
}

/// A message, what it is called by, and what the history makes of it.
struct Sending {
    rpc: Rpc,
    bytes: Vec<u8>,
    request: Option<Request>,
}

fn recorded<M: Message>(rpc: Rpc, message: &M, request: Option<Request>) -> Sending {
    Sending { rpc, bytes: message.encode_to_vec(), request }
}

/// What the history is told of a range that it cannot judge: its count, which no filter and no order changes.
fn counted(range: &pb::RangeRequest) -> Request {
    Request::Range(Range {
        key: range.key[..].into(),
        range_end: range.range_end[..].into(),
        revision: range.revision,
        limit: 0,
        serializable: range.serializable,
        keys_only: false,
        count_only: true,
    })
}

fn sending(ask: &Ask) -> Sending {
    let known = |request: Result<Request, crate::history::Unsupported>| {
        Some(request.unwrap_or_else(|why| panic!("the workload asks what the history knows: {why:?}")))
    };
    match ask {
        Ask::Put(put) => recorded(Rpc::Put, put, Some(put.into())),
        Ask::Delete(delete) => recorded(Rpc::DeleteRange, delete, Some(delete.into())),
        Ask::Txn(txn) => recorded(Rpc::Txn, txn, known(txn.try_into())),
        Ask::Range(range) => recorded(Rpc::Range, range, known(range.try_into())),
        Ask::OddRange(range) => recorded(Rpc::Range, range, Some(counted(range))),
        Ask::Stream(range) => recorded(Rpc::RangeStream, range, known(range.try_into())),
        Ask::Compact(compact) => recorded(Rpc::Compact, compact, Some(compact.into())),
        Ask::Grant(grant) => recorded(Rpc::LeaseGrant, grant, Some(grant.into())),
        Ask::Revoke(revoke) => recorded(Rpc::LeaseRevoke, revoke, Some(revoke.into())),
        Ask::KeepAlive(id) => {
            let renewal = pb::LeaseKeepAliveRequest { id: *id };
            recorded(Rpc::LeaseKeepAlive, &renewal, Some((&renewal).into()))
        }
        Ask::TimeToLive(query) => recorded(Rpc::LeaseTimeToLive, query, Some(query.into())),
        Ask::Leases => recorded(Rpc::LeaseLeases, &pb::LeaseLeasesRequest {}, None),
        Ask::Hash(hash) => recorded(Rpc::HashKV, hash, None),
        Ask::Snapshot => recorded(Rpc::Snapshot, &pb::SnapshotRequest {}, None),
        Ask::Defragment => recorded(Rpc::Defragment, &pb::DefragmentRequest {}, None),
        Ask::Alarm(alarm) => recorded(Rpc::Alarm, alarm, None),
    }
}

impl Client {
    /// Asks, if there is a connection to ask over.
    pub fn ask(&mut self, env: &mut Env, ask: Ask) -> bool {
        let link = if matches!(ask, Ask::KeepAlive(_)) { self.stream_link() } else { 0 };
        if self.link(env, link).is_none() {
            return false;
        }
        let Sending { rpc, bytes, request } = sending(&ask);
        env.relieve();
        self.last_error = None;
        let asked = Asked::new(env, &ask, rpc, bytes.len());
        env.causes.cost_asked(asked.cost_bytes());
        if let Ask::Snapshot = ask {
            env.causes.snapshot_asked();
        }
        let (client, member, at_us) = (self.id, self.member, env.history_us());
        let op = request.map(|request| env.history.call(client, member, at_us, request));
        let number = op.map_or(0, |op| op.0 as u64);
        trace::note(What::Call { client, what: rpc.path(), op: number });
        if let (Ask::KeepAlive(id), Some(op)) = (&ask, op) {
            return self.keep_alive(env, link, *id, op, &bytes);
        }
        let Some(of) = self.links[link].as_mut() else { return false };
        let stream = of.http.start(rpc.path(), &bytes, true);
        let connection = of.id;
        let call = match (ask, op) {
            (Ask::Snapshot, _) => Call::Snapshot { bytes: Vec::new(), digest: Vec::new() },
            (Ask::Stream(_), Some(op)) => Call::Stream { op, answer: Box::default() },
            (Ask::OddRange(range), Some(op)) => Call::Op { asked, op, odd: Some(Box::new(range)) },
            (_, Some(op)) => Call::Op { asked, op, odd: None },
            (_, None) => Call::Plain { asked },
        };
        self.calls.insert((link, stream), call);
        self.flush(env, link);
        if !self.resting {
            let (low_us, high_us) = env.profile.workload.give_up_us;
            let after_us = magnitude(&mut self.random, low_us, high_us);
            self.wake(env, after_us, Timer::GiveUp { connection, stream });
        }
        true
    }

    /// One more renewal on the stream of renewals, which is opened for the first.
    fn keep_alive(&mut self, env: &mut Env, link: usize, id: i64, op: OpId, bytes: &[u8]) -> bool {
        let open = self.calls.iter_mut().find_map(|(&(of, stream), call)| match call {
            Call::KeepAlive { waiting } if of == link => Some((stream, waiting)),
            _ => None,
        });
        let Some(of) = self.links[link].as_mut() else { return false };
        match open {
            Some((stream, waiting)) => {
                waiting.push_back((op, id));
                of.http.send(stream, bytes, false);
            }
            None => {
                let stream = of.http.start(Rpc::LeaseKeepAlive.path(), bytes, false);
                self.calls.insert((link, stream), Call::KeepAlive { waiting: VecDeque::from([(op, id)]) });
            }
        }
        self.flush(env, link);
        true
    }

    pub(super) fn give_up(&mut self, env: &mut Env, connection: ConnectionId, stream: u32) {
        let Some(link) = self.link_of(connection).filter(|_| !self.resting) else { return };
        let Some(call) = self.calls.remove(&(link, stream)) else { return };
        self.call_lost(env, call);
        if let Some(of) = self.links[link].as_mut() {
            of.http.cancel(stream);
        }
        self.flush(env, link);
    }

    /// Nobody will say what became of it.
    pub(super) fn call_lost(&mut self, env: &mut Env, call: Call) {
        let (client, what, at_us) = (self.id, call.name(), env.history_us());
        self.without_answer += call.waiting() as u64;
        let mut lost = |op: OpId| {
            trace::note(What::Lost { client, what, op: op.0 as u64 });
            env.coverage.one(Mechanism::Lost);
            env.history.lost(op, at_us);
        };
        match call {
            Call::Op { op, .. } | Call::Stream { op, .. } => lost(op),
            Call::KeepAlive { waiting } => waiting.into_iter().for_each(|(op, _)| lost(op)),
            Call::Watch { place } => self.watch_lost(env, place),
            Call::Plain { .. } | Call::Snapshot { .. } => {}
        }
    }

    fn answered(&mut self, env: &mut Env, op: OpId, what: &'static str, answer: Answer) {
        let revision = answer.revision();
        self.knows.revision = self.knows.revision.max(revision);
        trace::note(What::Answer { client: self.id, what, op: op.0 as u64, revision });
        let at_us = env.history_us();
        env.history.answered(op, at_us, answer);
    }

    /// A message of a call; the call, when more may come.
    pub(super) fn message(&mut self, env: &mut Env, call: Call, bytes: &[u8]) -> Option<Call> {
        match call {
            Call::Op { asked, op, odd } => {
                let answer = self.unary(env, asked.rpc, bytes, odd);
                self.answered(env, op, asked.rpc.path(), answer);
                None
            }
            Call::Stream { op, mut answer } => {
                let chunk: pb::RangeStreamResponse = decode(bytes);
                let chunk = chunk.range_response.expect("a chunk carries a part of the answer");
                answer.kvs.extend(chunk.kvs);
                if chunk.header.is_some() {
                    answer.header = chunk.header;
                    (answer.more, answer.count) = (chunk.more, chunk.count);
                }
                Some(Call::Stream { op, answer })
            }
            Call::KeepAlive { mut waiting } => {
                let answer: pb::LeaseKeepAliveResponse = decode(bytes);
                // A renewal that waits for its lease's fate is overtaken by those of other leases.
                let at = waiting.iter().position(|&(_, id)| id == answer.id);
                let (op, _) = at.and_then(|at| waiting.remove(at)).expect("a renewal is answered once");
                if answer.ttl > 0 {
                    self.count(env, Mechanism::LeaseRenewed);
                } else {
                    self.knows.leases.retain(|&id| id != answer.id);
                }
                self.answered(env, op, Rpc::LeaseKeepAlive.path(), (&answer).into());
                Some(Call::KeepAlive { waiting })
            }
            Call::Watch { place } => {
                let answer: pb::WatchResponse = decode(bytes);
                self.watch_answer(env, place, &answer);
                Some(Call::Watch { place })
            }
            Call::Plain { asked } => {
                self.plain(env, asked.rpc, bytes);
                None
            }
            Call::Snapshot { bytes: mut all, digest: _ } => {
                let piece: pb::SnapshotResponse = decode(bytes);
                // The digest comes last, alone.
                let digest = if piece.remaining_bytes == 0 && piece.header.is_none() && piece.blob.len() == 32
                {
                    piece.blob
                } else {
                    all.extend(piece.blob);
                    Vec::new()
                };
                Some(Call::Snapshot { bytes: all, digest })
            }
        }
    }

    fn unary(&mut self, env: &mut Env, rpc: Rpc, bytes: &[u8], odd: Option<Box<pb::RangeRequest>>) -> Answer {
        match rpc {
            Rpc::Put => {
                self.count(env, Mechanism::Put);
                (&decode::<pb::PutResponse>(bytes)).into()
            }
            Rpc::DeleteRange => (&decode::<pb::DeleteRangeResponse>(bytes)).into(),
            Rpc::Txn => {
                self.count(env, Mechanism::Txn);
                (&decode::<pb::TxnResponse>(bytes)).into()
            }
            Rpc::Range => {
                let mut answer: pb::RangeResponse = decode(bytes);
                self.count(env, Mechanism::Range);
                if let Some(request) = odd {
                    self.count(env, Mechanism::OddRange);
                    let kvs = std::mem::take(&mut answer.kvs);
                    let (more, header) = (std::mem::take(&mut answer.more), answer.header);
                    let revision = header.map_or(0, |header| header.revision);
                    env.odd_answers.push(OddAnswer { request: *request, revision, kvs, more });
                }
                (&answer).into()
            }
            Rpc::Compact => (&decode::<pb::CompactionResponse>(bytes)).into(),
            Rpc::LeaseGrant => {
                let answer: pb::LeaseGrantResponse = decode(bytes);
                self.count(env, Mechanism::LeaseGranted);
                if self.knows.leases.len() == 8 {
                    self.knows.leases.remove(0);
                }
                self.knows.leases.push(answer.id);
                (&answer).into()
            }
            Rpc::LeaseRevoke => {
                self.count(env, Mechanism::LeaseRevoked);
                (&decode::<pb::LeaseRevokeResponse>(bytes)).into()
            }
            Rpc::LeaseTimeToLive => (&decode::<pb::LeaseTimeToLiveResponse>(bytes)).into(),
            _ => panic!("{rpc:?} is not in the history"),
        }
    }

    /// An answer that only has to come, and to make sense.
    fn plain(&mut self, env: &mut Env, rpc: Rpc, bytes: &[u8]) {
        trace::note(What::Answer { client: self.id, what: rpc.path(), op: 0, revision: 0 });
        match rpc {
            Rpc::HashKV => {
                let answer: pb::HashKvResponse = decode(bytes);
                let made = (answer.hash_revision, answer.compact_revision, answer.hash);
                assert!(env.hashes.contains(&made), "{answer:?}: no helper has made that");
            }
            Rpc::Defragment => {
                decode::<pb::DefragmentResponse>(bytes);
                self.count(env, Mechanism::Defragment);
            }
            Rpc::LeaseLeases => {
                let answer: pb::LeaseLeasesResponse = decode(bytes);
                env.leases = Some(answer.leases.iter().map(|lease| lease.id).collect());
            }
            Rpc::Alarm => {
                decode::<pb::AlarmResponse>(bytes);
            }
            _ => panic!("{rpc:?} is in the history"),
        }
    }

    /// The end of a call; it, when it goes on nevertheless.
    /// `since_us`: when its connection began.
    pub(super) fn finished(
        &mut self,
        env: &mut Env,
        call: Call,
        since_us: u64,
        code: u8,
        text: &str,
    ) -> Option<Call> {
        let what = call.name();
        let stream = |rpc: Rpc| Asked::of_stream(rpc, since_us);
        match call {
            Call::Stream { op, answer } if code == 0 => {
                self.count(env, Mechanism::RangeStream);
                assert!(answer.header.is_some(), "a streamed range ends with its header");
                self.answered(env, op, what, (&*answer).into());
            }
            Call::Op { asked, op, .. } => {
                assert!(code != 0, "{what} ends well, and was not answered");
                self.failed(env, op, asked, code, text);
            }
            Call::Stream { op, .. } => self.failed(env, op, stream(Rpc::RangeStream), code, text),
            Call::KeepAlive { waiting } => {
                for (op, _) in waiting {
                    self.failed(env, op, stream(Rpc::LeaseKeepAlive), code, text);
                }
            }
            Call::Watch { place } => {
                assert!(code != 0, "a watch stream does not end well by itself");
                stream(Rpc::Watch).demand_reason(env, &error(code, text));
                self.watch_lost(env, place);
            }
            Call::Snapshot { bytes, digest } if code == 0 => {
                assert!(*Sha256::digest(&bytes) == *digest, "a snapshot has the digest that it says");
                self.count(env, Mechanism::Snapshot);
            }
            Call::Plain { asked } => self.plain_failed(env, asked, code, text),
            Call::Snapshot { .. } => self.plain_failed(env, stream(Rpc::Snapshot), code, text),
        }
        None
    }

    fn plain_failed(&mut self, env: &mut Env, asked: Asked, code: u8, text: &str) {
        let what = asked.rpc.path();
        trace::note(What::Failed { client: self.id, what, op: 0, code });
        assert!(code != 0, "{what} ends well, and was not answered");
        self.without_answer += 1;
        asked.demand_reason(env, &error(code, text));
    }

    fn failed(&mut self, env: &mut Env, op: OpId, asked: Asked, code: u8, text: &str) {
        trace::note(What::Failed { client: self.id, what: asked.rpc.path(), op: op.0 as u64, code });
        self.without_answer += 1;
        let error = error(code, text);
        if Outcome::of_error(&error) == Outcome::Lost {
            asked.demand_reason(env, &error);
            self.count(env, Mechanism::Lost);
        }
        let at_us = env.history_us();
        env.history.failed(op, at_us, &error);
        self.last_error = Some(error);
    }
}

fn error(code: u8, text: &str) -> proto::Error {
    proto::Error::new(proto::Code::from(i32::from(code)), text.to_owned())
}

fn decode<M: Message + Default>(bytes: &[u8]) -> M {
    M::decode(bytes).unwrap_or_else(|error| panic!("an answer does not decode: {error}"))
}
