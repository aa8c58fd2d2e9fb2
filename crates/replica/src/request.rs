//! What is proposed: etcd's InternalRaftRequest, taken apart, so that the few kinds that make up the traffic move
//! through rings and queues as small values. The bytes in the log are those of the message.

use base::MemberId;
use bytes::BytesMut;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
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

/// What a request is, for whoever counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    Put,
    DeleteRange,
    Txn,
    Compaction,
    LeaseGrant,
    LeaseRevoke,
    LeaseCheckpoint,
    Alarm,
    ClusterVersionSet,
    ClusterMemberAttrSet,
    DowngradeInfoSet,
    /// Of users and roles, or unknown to this version.
    Other,
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

/// What the header of an entry takes that this member proposes, bytes: the request limit covers it. Ids begin with two
/// bytes of the member's, here as in etcd.
pub fn entry_header_bytes(member: MemberId) -> usize {
    let id = (member & 0xffff) << 48 | 0xffff_ffff_ffff;
    HEADER_BYTES - 10 + encoded_len_varint(id)
}

impl Request {
    pub fn kind(&self) -> RequestKind {
        match self {
            Request::Put(_) => RequestKind::Put,
            Request::DeleteRange(_) => RequestKind::DeleteRange,
            Request::Txn(_) => RequestKind::Txn,
            Request::Compaction(_) => RequestKind::Compaction,
            Request::LeaseGrant(_) => RequestKind::LeaseGrant,
            Request::LeaseRevoke(_) => RequestKind::LeaseRevoke,
            Request::Alarm(_) => RequestKind::Alarm,
            Request::Other(message) if message.lease_checkpoint.is_some() => RequestKind::LeaseCheckpoint,
            Request::Other(message) if message.cluster_version_set.is_some() => {
                RequestKind::ClusterVersionSet
            }
            Request::Other(message) if message.cluster_member_attr_set.is_some() => {
                RequestKind::ClusterMemberAttrSet
            }
            Request::Other(message) if message.downgrade_info_set.is_some() => RequestKind::DowngradeInfoSet,
            Request::Other(_) => RequestKind::Other,
        }
    }

    /// Bytes of the message without its header.
    pub fn encoded_len(&self) -> usize {
        match self {
            Request::Put(put) => field_len(PUT, put),
            Request::DeleteRange(delete) => field_len(DELETE_RANGE, delete),
            Request::Txn(txn) => field_len(TXN, txn),
            Request::Compaction(compaction) => field_len(COMPACTION, compaction),
            Request::LeaseGrant(grant) => field_len(LEASE_GRANT, grant),
            Request::LeaseRevoke(revoke) => field_len(LEASE_REVOKE, revoke),
            Request::Alarm(alarm) => field_len(ALARM, alarm),
            Request::Other(message) => message.encoded_len(),
        }
    }

    /// Appends the entry's bytes: the request with a header that carries `id`.
    pub fn encode_to(&self, id: u64, out: &mut BytesMut) {
        let (start, len) = (out.len(), self.encoded_len());
        out.reserve(len + HEADER_BYTES);
        match self {
            Request::Put(put) => push_field(out, PUT, put),
            Request::DeleteRange(delete) => push_field(out, DELETE_RANGE, delete),
            Request::Txn(txn) => push_field(out, TXN, txn),
            Request::Compaction(compaction) => push_field(out, COMPACTION, compaction),
            Request::LeaseGrant(grant) => push_field(out, LEASE_GRANT, grant),
            Request::LeaseRevoke(revoke) => push_field(out, LEASE_REVOKE, revoke),
            Request::Alarm(alarm) => push_field(out, ALARM, alarm),
            Request::Other(message) => message.encode_raw(out),
        }
        assert!(out.len() - start == len, "a request is as long as it says");
        push_field(out, HEADER, &pb::RequestHeader { id, ..Default::default() });
    }

    /// The id in an entry's header, and its request.
    pub fn decode(data: &[u8]) -> Result<(u64, Request), prost::DecodeError> {
        let message = proto::deep::internal_raft_request(data)?;
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

fn field_len(tag: u32, message: &impl Message) -> usize {
    let len = message.encoded_len();
    key_len(tag) + encoded_len_varint(len as u64) + len
}

fn push_field(out: &mut BytesMut, tag: u32, message: &impl Message) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(message.encoded_len() as u64, out);
    message.encode_raw(out);
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
            let mut data = BytesMut::from(&b"another's"[..]);
            let request = Request::from(message.clone());
            request.encode_to(u64::MAX, &mut data);
            let data = data.split_off(9);
            assert_eq!(request.encoded_len(), message.encoded_len());
            let mut expected = message.clone();
            expected.header = Some(pb::RequestHeader { id: u64::MAX, ..Default::default() });
            assert_eq!(pb::InternalRaftRequest::decode(&data[..]), Ok(expected.clone()));
            assert_eq!(data.len(), expected.encoded_len());
            assert_eq!(Request::decode(&data), Ok((u64::MAX, Request::from(message))));
        }
    }

    /// etcd takes a request of exactly the limit, header included; ids of 62 bits have nine bytes.
    #[test]
    fn a_header_is_as_long_as_this_members_ids_make_it() {
        for (member, bytes) in [(0x2731, 13), (0xd24e_b335_f6f8_a731, 14), (0x8000, 14), (0xff, 12), (0, 11)]
        {
            assert_eq!(entry_header_bytes(member), bytes, "{member:x}");
            let id = (member & 0xffff) << 48 | 0x7fff_ffff_ffff_u64 | 1 << 47;
            let header = Some(pb::RequestHeader { id, ..Default::default() });
            let message = pb::InternalRaftRequest { header, ..Default::default() };
            assert_eq!(message.encoded_len(), bytes);
        }
    }

    #[test]
    fn requests_are_small_values() {
        assert!(size_of::<Request>() <= 96, "{} bytes", size_of::<Request>());
    }
}
