//! What is proposed: etcd's InternalRaftRequest, taken apart, so that the few kinds that make up the traffic move
//! through rings and queues as small values. The bytes in the log are those of the message.

use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use proto::etcdserverpb as pb;

/// A request for the log. A client's request is one of the named kinds; the rest is the replica's own.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    Put(pb::PutRequest),
    DeleteRange(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Compaction(pb::CompactionRequest),
    LeaseGrant(pb::LeaseGrantRequest),
    LeaseRevoke(pb::LeaseRevokeRequest),
    Alarm(pb::AlarmRequest),
    /// Everything rare, without a header.
    Other(Box<pb::InternalRaftRequest>),
}

impl From<pb::InternalRaftRequest> for Request {
    /// The message's one request; its header is dropped.
    fn from(mut message: pb::InternalRaftRequest) -> Request {
        message.header = None;
        if let Some(put) = message.put {
            Request::Put(put)
        } else if let Some(delete) = message.delete_range {
            Request::DeleteRange(delete)
        } else if let Some(txn) = message.txn {
            Request::Txn(txn)
        } else if let Some(compaction) = message.compaction {
            Request::Compaction(compaction)
        } else if let Some(grant) = message.lease_grant {
            Request::LeaseGrant(grant)
        } else if let Some(revoke) = message.lease_revoke {
            Request::LeaseRevoke(revoke)
        } else if let Some(alarm) = message.alarm {
            Request::Alarm(alarm)
        } else {
            Request::Other(Box::new(message))
        }
    }
}

/// Field numbers of InternalRaftRequest.
const PUT: u32 = 4;
const DELETE_RANGE: u32 = 5;
const TXN: u32 = 6;
const COMPACTION: u32 = 7;
const LEASE_GRANT: u32 = 8;
const LEASE_REVOKE: u32 = 9;
const ALARM: u32 = 10;
const HEADER: u32 = 100;
/// A header with an id, its key and length included, takes no more than this, bytes.
const HEADER_BYTES: usize = 14;

impl Request {
    /// The entry's bytes: the request with a header that carries `id`.
    pub fn encode_with(&self, id: u64) -> Vec<u8> {
        let mut data = match self {
            Request::Put(put) => field(PUT, put),
            Request::DeleteRange(delete) => field(DELETE_RANGE, delete),
            Request::Txn(txn) => field(TXN, txn),
            Request::Compaction(compaction) => field(COMPACTION, compaction),
            Request::LeaseGrant(grant) => field(LEASE_GRANT, grant),
            Request::LeaseRevoke(revoke) => field(LEASE_REVOKE, revoke),
            Request::Alarm(alarm) => field(ALARM, alarm),
            Request::Other(message) => {
                let mut data = Vec::with_capacity(message.encoded_len() + HEADER_BYTES);
                message.encode_raw(&mut data);
                data
            }
        };
        push_field(&mut data, HEADER, &pb::RequestHeader { id, ..Default::default() });
        data
    }

    /// The id in an entry's header, and its request.
    pub fn decode(data: &[u8]) -> Result<(u64, Request), prost::DecodeError> {
        let message = pb::InternalRaftRequest::decode(data)?;
        let id = match (message.id, &message.header) {
            (0, Some(header)) => header.id,
            (id, _) => id,
        };
        Ok((id, Request::from(message)))
    }

    /// Whether it adds to what is stored: what a full store or disk refuses.
    pub(crate) fn grows(&self) -> bool {
        match self {
            Request::Put(_) | Request::LeaseGrant(_) => true,
            Request::Txn(txn) => mvcc::quota::txn_cost(txn) > 0,
            _ => false,
        }
    }
}

fn field(tag: u32, message: &impl Message) -> Vec<u8> {
    let len = message.encoded_len();
    let mut data = Vec::with_capacity(len + 6 + HEADER_BYTES);
    encode_key(tag, WireType::LengthDelimited, &mut data);
    encode_varint(len as u64, &mut data);
    message.encode_raw(&mut data);
    data
}

fn push_field(data: &mut Vec<u8>, tag: u32, message: &impl Message) {
    encode_key(tag, WireType::LengthDelimited, data);
    encode_varint(message.encoded_len() as u64, data);
    message.encode_raw(data);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_the_messages_bytes() {
        let put = pb::PutRequest { key: b"k".to_vec(), value: vec![3; 300], lease: 7, ..Default::default() };
        let txn = pb::TxnRequest {
            success: vec![pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put.clone())) }],
            ..Default::default()
        };
        let messages = [
            pb::InternalRaftRequest { put: Some(put), ..Default::default() },
            pb::InternalRaftRequest { delete_range: Some(Default::default()), ..Default::default() },
            pb::InternalRaftRequest { txn: Some(txn), ..Default::default() },
            pb::InternalRaftRequest {
                compaction: Some(pb::CompactionRequest { revision: 9, physical: true }),
                ..Default::default()
            },
            pb::InternalRaftRequest {
                lease_grant: Some(pb::LeaseGrantRequest { id: 1, ttl: 2 }),
                ..Default::default()
            },
            pb::InternalRaftRequest {
                lease_revoke: Some(pb::LeaseRevokeRequest { id: 1 }),
                ..Default::default()
            },
            pb::InternalRaftRequest { alarm: Some(Default::default()), ..Default::default() },
            pb::InternalRaftRequest {
                cluster_version_set: Some(proto::membershippb::ClusterVersionSetRequest {
                    ver: "3.7.0".into(),
                }),
                ..Default::default()
            },
        ];
        for message in messages {
            let data = Request::from(message.clone()).encode_with(u64::MAX);
            let mut expected = message.clone();
            expected.header = Some(pb::RequestHeader { id: u64::MAX, ..Default::default() });
            assert_eq!(pb::InternalRaftRequest::decode(&data[..]), Ok(expected.clone()));
            assert_eq!(data.len(), expected.encoded_len());
            assert_eq!(Request::decode(&data), Ok((u64::MAX, Request::from(message))));
            assert!(data.capacity() - data.len() <= 16, "no entry is copied as it grows");
        }
    }

    #[test]
    fn requests_are_small_values() {
        assert!(size_of::<Request>() <= 96, "{} bytes", size_of::<Request>());
    }
}
