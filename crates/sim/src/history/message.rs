//! Recording straight from etcd's messages: requests as they are sent, answers as they come.

use std::borrow::Cow;
use std::sync::Arc;

use pb::request_op::Request as PbOp;
use pb::response_op::Response as PbAnswer;
use proto::etcdserverpb as pb;
use proto::mvccpb;
use proto::{Code, Error, errors};

use super::{
    Answer, Bytes, Compare, DeleteAnswer, DeleteRange, Event, Kind, Kv, OpAnswer, Outcome, Passage, Put,
    PutAnswer, Range, RangeAnswer, Refusal, Relation, Request, Target, Txn, TxnAnswer, TxnOp, WatchAnswer,
    WatchCreate,
};

/// A request that the checkers' model does not know: sorted, filtered, or malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsupported(pub &'static str);

fn bytes(of: &[u8]) -> Bytes {
    Arc::from(of)
}

fn revision(header: &Option<pb::ResponseHeader>) -> i64 {
    header.as_ref().map_or(0, |header| header.revision)
}

impl From<&mvccpb::KeyValue> for Kv {
    fn from(kv: &mvccpb::KeyValue) -> Kv {
        Kv {
            key: bytes(&kv.key),
            value: bytes(&kv.value),
            create: kv.create_revision,
            modified: kv.mod_revision,
            version: kv.version,
            lease: kv.lease,
        }
    }
}

fn kvs(of: &[mvccpb::KeyValue]) -> Vec<Kv> {
    of.iter().map(Kv::from).collect()
}

impl From<&mvccpb::Event> for Event {
    fn from(event: &mvccpb::Event) -> Event {
        let deleted = event.r#type == mvccpb::event::EventType::Delete as i32;
        Event {
            kind: if deleted { Kind::Delete } else { Kind::Put },
            kv: event.kv.as_ref().map(Kv::from).unwrap_or_default(),
            prev: event.prev_kv.as_ref().map(Kv::from),
        }
    }
}

impl From<&pb::PutRequest> for Put {
    fn from(put: &pb::PutRequest) -> Put {
        Put {
            key: bytes(&put.key),
            value: bytes(&put.value),
            lease: put.lease,
            prev_kv: put.prev_kv,
            ignore_value: put.ignore_value,
            ignore_lease: put.ignore_lease,
        }
    }
}

impl From<&pb::DeleteRangeRequest> for DeleteRange {
    fn from(delete: &pb::DeleteRangeRequest) -> DeleteRange {
        DeleteRange { key: bytes(&delete.key), range_end: bytes(&delete.range_end), prev_kv: delete.prev_kv }
    }
}

impl TryFrom<&pb::RangeRequest> for Range {
    type Error = Unsupported;

    fn try_from(range: &pb::RangeRequest) -> Result<Range, Unsupported> {
        use pb::range_request::{SortOrder, SortTarget};
        let by_key = range.sort_target == SortTarget::Key as i32;
        if !by_key || range.sort_order == SortOrder::Descend as i32 {
            return Err(Unsupported("a range in an order of its own"));
        }
        let filters = [
            range.min_mod_revision,
            range.max_mod_revision,
            range.min_create_revision,
            range.max_create_revision,
        ];
        if filters != [0; 4] {
            return Err(Unsupported("a range with filters"));
        }
        Ok(Range {
            key: bytes(&range.key),
            range_end: bytes(&range.range_end),
            revision: range.revision,
            limit: range.limit,
            serializable: range.serializable,
            keys_only: range.keys_only,
            count_only: range.count_only,
        })
    }
}

impl TryFrom<&pb::Compare> for Compare {
    type Error = Unsupported;

    fn try_from(compare: &pb::Compare) -> Result<Compare, Unsupported> {
        use pb::compare::{CompareResult, CompareTarget, TargetUnion};
        let relation = match CompareResult::try_from(compare.result) {
            Ok(CompareResult::Equal) => Relation::Equal,
            Ok(CompareResult::NotEqual) => Relation::NotEqual,
            Ok(CompareResult::Greater) => Relation::Greater,
            Ok(CompareResult::Less) => Relation::Less,
            Err(_) => return Err(Unsupported("a compare of no known relation")),
        };
        let target = match (CompareTarget::try_from(compare.target), &compare.target_union) {
            (Ok(CompareTarget::Version), Some(TargetUnion::Version(n))) => Target::Version(*n),
            (Ok(CompareTarget::Create), Some(TargetUnion::CreateRevision(n))) => Target::Create(*n),
            (Ok(CompareTarget::Mod), Some(TargetUnion::ModRevision(n))) => Target::Modified(*n),
            (Ok(CompareTarget::Value), Some(TargetUnion::Value(value))) => Target::Value(bytes(value)),
            (Ok(CompareTarget::Lease), Some(TargetUnion::Lease(n))) => Target::Lease(*n),
            _ => return Err(Unsupported("a compare whose operand is not of its target")),
        };
        Ok(Compare { key: bytes(&compare.key), range_end: bytes(&compare.range_end), relation, target })
    }
}

impl TryFrom<&pb::TxnRequest> for Txn {
    type Error = Unsupported;

    fn try_from(txn: &pb::TxnRequest) -> Result<Txn, Unsupported> {
        let ops = |ops: &[pb::RequestOp]| -> Result<Vec<TxnOp>, Unsupported> {
            ops.iter()
                .map(|op| match &op.request {
                    Some(PbOp::RequestPut(put)) => Ok(TxnOp::Put(put.into())),
                    Some(PbOp::RequestDeleteRange(delete)) => Ok(TxnOp::DeleteRange(delete.into())),
                    Some(PbOp::RequestRange(range)) => range.try_into().map(TxnOp::Range),
                    Some(PbOp::RequestTxn(nested)) => nested.try_into().map(TxnOp::Txn),
                    None => Err(Unsupported("an operation that is none")),
                })
                .collect()
        };
        Ok(Txn {
            compares: txn.compare.iter().map(Compare::try_from).collect::<Result<_, _>>()?,
            then: ops(&txn.success)?,
            otherwise: ops(&txn.failure)?,
        })
    }
}

macro_rules! request {
    ($($message:ty => $make:expr;)*) => {$(
        impl From<&$message> for Request {
            fn from(message: &$message) -> Request {
                let make: fn(&$message) -> Request = $make;
                make(message)
            }
        }
    )*};
}

request! {
    pb::PutRequest => |put| Request::Put(put.into());
    pb::DeleteRangeRequest => |delete| Request::DeleteRange(delete.into());
    pb::CompactionRequest => |compact| Request::Compact { revision: compact.revision };
    pb::LeaseGrantRequest => |grant| Request::LeaseGrant { id: grant.id, ttl_s: grant.ttl };
    pb::LeaseRevokeRequest => |revoke| Request::LeaseRevoke { id: revoke.id };
    pb::LeaseKeepAliveRequest => |renewal| Request::LeaseKeepAlive { id: renewal.id };
    pb::LeaseTimeToLiveRequest => |query| Request::LeaseTimeToLive { id: query.id, keys: query.keys };
}

impl TryFrom<&pb::RangeRequest> for Request {
    type Error = Unsupported;

    fn try_from(range: &pb::RangeRequest) -> Result<Request, Unsupported> {
        range.try_into().map(Request::Range)
    }
}

impl TryFrom<&pb::TxnRequest> for Request {
    type Error = Unsupported;

    fn try_from(txn: &pb::TxnRequest) -> Result<Request, Unsupported> {
        txn.try_into().map(Request::Txn)
    }
}

impl From<&pb::RangeResponse> for RangeAnswer {
    fn from(answer: &pb::RangeResponse) -> RangeAnswer {
        RangeAnswer {
            revision: revision(&answer.header),
            kvs: kvs(&answer.kvs),
            more: answer.more,
            count: answer.count,
        }
    }
}

impl From<&pb::PutResponse> for PutAnswer {
    fn from(answer: &pb::PutResponse) -> PutAnswer {
        PutAnswer { revision: revision(&answer.header), prev: answer.prev_kv.as_ref().map(Kv::from) }
    }
}

impl From<&pb::DeleteRangeResponse> for DeleteAnswer {
    fn from(answer: &pb::DeleteRangeResponse) -> DeleteAnswer {
        DeleteAnswer {
            revision: revision(&answer.header),
            deleted: answer.deleted,
            prevs: kvs(&answer.prev_kvs),
        }
    }
}

impl From<&pb::TxnResponse> for TxnAnswer {
    /// An operation without an answer is left out, which the checkers then find.
    fn from(answer: &pb::TxnResponse) -> TxnAnswer {
        let answers = answer.responses.iter().filter_map(|op| match op.response.as_ref()? {
            PbAnswer::ResponsePut(put) => Some(OpAnswer::Put(put.into())),
            PbAnswer::ResponseDeleteRange(delete) => Some(OpAnswer::DeleteRange(delete.into())),
            PbAnswer::ResponseRange(range) => Some(OpAnswer::Range(range.into())),
            PbAnswer::ResponseTxn(nested) => Some(OpAnswer::Txn(nested.into())),
        });
        TxnAnswer {
            revision: revision(&answer.header),
            succeeded: answer.succeeded,
            answers: answers.collect(),
        }
    }
}

macro_rules! answer {
    ($($message:ty => $make:expr;)*) => {$(
        impl From<&$message> for Answer {
            fn from(message: &$message) -> Answer {
                let make: fn(&$message) -> Answer = $make;
                make(message)
            }
        }
    )*};
}

answer! {
    pb::PutResponse => |put| Answer::Put(put.into());
    pb::DeleteRangeResponse => |delete| Answer::DeleteRange(delete.into());
    pb::RangeResponse => |range| Answer::Range(range.into());
    pb::TxnResponse => |txn| Answer::Txn(txn.into());
    pb::CompactionResponse => |compact| Answer::Compact { revision: revision(&compact.header) };
    pb::LeaseGrantResponse => |grant| Answer::LeaseGrant {
        revision: revision(&grant.header), id: grant.id, ttl_s: grant.ttl,
    };
    pb::LeaseRevokeResponse => |revoke| Answer::LeaseRevoke { revision: revision(&revoke.header) };
    pb::LeaseKeepAliveResponse => |renewal| Answer::LeaseKeepAlive {
        revision: revision(&renewal.header), ttl_s: renewal.ttl,
    };
    pb::LeaseTimeToLiveResponse => |query| Answer::LeaseTimeToLive {
        revision: revision(&query.header),
        ttl_s: query.ttl,
        granted_ttl_s: query.granted_ttl,
        keys: query.keys.iter().map(|key| bytes(key)).collect(),
    };
}

impl Outcome {
    /// What an error says about execution. "No space" is also the answer to a write that was executed and found the
    /// store full, so it leaves that open.
    pub fn of_error(error: &Error) -> Outcome {
        Outcome::of_status(error.code, &error.message)
    }

    /// The same from a gRPC status.
    pub fn of_status(code: Code, message: &str) -> Outcome {
        let is = |error: &Error| error.code == code && error.message == Cow::Borrowed(message);
        let known = [
            (&errors::KEY_NOT_FOUND, Refusal::KeyNotFound),
            (&errors::LEASE_NOT_FOUND, Refusal::LeaseNotFound),
            (&errors::LEASE_EXIST, Refusal::LeaseExists),
            (&errors::COMPACTED, Refusal::Compacted),
            (&errors::FUTURE_REV, Refusal::FutureRevision),
        ];
        if let Some((_, refusal)) = known.into_iter().find(|(error, _)| is(error)) {
            return Outcome::Refused(refusal);
        }
        let refused = match code {
            Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::Unimplemented
            | Code::NotFound
            | Code::OutOfRange => true,
            _ => is(&errors::REQUEST_TOO_MANY_REQUESTS),
        };
        if refused { Outcome::Refused(Refusal::Other(Arc::from(message))) } else { Outcome::Lost }
    }
}

impl From<&pb::WatchCreateRequest> for WatchCreate {
    fn from(create: &pb::WatchCreateRequest) -> WatchCreate {
        use pb::watch_create_request::FilterType;
        let has = |filter: FilterType| create.filters.contains(&(filter as i32));
        WatchCreate {
            key: bytes(&create.key),
            range_end: bytes(&create.range_end),
            start_revision: create.start_revision,
            watch_id: create.watch_id,
            prev_kv: create.prev_kv,
            no_put: has(FilterType::Noput),
            no_delete: has(FilterType::Nodelete),
            progress_notify: create.progress_notify,
            fragment: create.fragment,
        }
    }
}

impl From<&pb::WatchResponse> for WatchAnswer {
    fn from(answer: &pb::WatchResponse) -> WatchAnswer {
        WatchAnswer {
            watch_id: answer.watch_id,
            revision: revision(&answer.header),
            created: answer.created,
            canceled: answer.canceled,
            compact_revision: answer.compact_revision,
            reason: Arc::from(answer.cancel_reason.as_str()),
            fragment: answer.fragment,
            events: answer.events.iter().map(Event::from).collect(),
        }
    }
}

impl From<&pb::WatchResponse> for Passage {
    fn from(answer: &pb::WatchResponse) -> Passage {
        Passage::Received(answer.into())
    }
}

impl TryFrom<&pb::WatchRequest> for Passage {
    type Error = Unsupported;

    fn try_from(request: &pb::WatchRequest) -> Result<Passage, Unsupported> {
        use pb::watch_request::RequestUnion;
        match &request.request_union {
            Some(RequestUnion::CreateRequest(create)) => Ok(Passage::Create(create.into())),
            Some(RequestUnion::CancelRequest(cancel)) => Ok(Passage::Cancel { watch_id: cancel.watch_id }),
            Some(RequestUnion::ProgressRequest(_)) => Ok(Passage::RequestProgress),
            None => Err(Unsupported("a watch request that asks nothing")),
        }
    }
}
