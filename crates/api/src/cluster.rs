//! The Cluster service, as far as one member has one.

use net::Outbound;
use prost::Message;
use proto::etcdserverpb as pb;

use crate::calls::Rpc;
use crate::shard::{Read, Shard};

impl Shard {
    pub(crate) fn member_list(&mut self, out: &mut Outbound, stream: u32, request: pb::MemberListRequest) {
        if request.linearizable {
            self.after_barrier(out, stream, Rpc::MemberList, Read::MemberList);
        } else {
            self.run_member_list(out, stream, Rpc::MemberList);
        }
    }

    pub(crate) fn run_member_list(&mut self, out: &mut Outbound, stream: u32, rpc: Rpc) {
        let snapshot = self.reader.pin();
        let mut cursor = snapshot.view().cursor(mvcc::trees::MEMBERS);
        let mut members = Vec::new();
        let mut more = cursor.seek_first();
        while more {
            // Written by this program; a start refuses what does not parse.
            if let Ok(member) = bbolt::schema::parse_member(cursor.value()) {
                members.push(pb::Member {
                    id: member.id,
                    name: member.name,
                    peer_ur_ls: member.peer_urls,
                    client_ur_ls: member.client_urls,
                    is_learner: member.is_learner,
                });
            }
            more = cursor.next();
        }
        members.sort_by_key(|member| member.id);
        // etcd leaves the revision out of this header.
        let message = pb::MemberListResponse { header: Some(self.header_at(0)), members };
        assert!(message.encoded_len() > 0, "a header is never empty");
        self.answer(out, stream, rpc, &message);
    }
}
