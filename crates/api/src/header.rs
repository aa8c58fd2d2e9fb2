//! The header of every answer: who speaks, for which cluster, at which revision and term.

use proto::etcdserverpb::ResponseHeader;

use crate::shard::Shard;

impl Shard {
    /// A header at the newest revision that this shard can see.
    pub(crate) fn header(&self) -> ResponseHeader {
        self.header_at(self.revisions().current)
    }

    pub(crate) fn header_at(&self, revision: i64) -> ResponseHeader {
        ResponseHeader {
            cluster_id: self.published.cluster_id,
            member_id: self.published.member_id,
            revision,
            raft_term: self.published.term(),
        }
    }

    /// Completes a header that apply began: it knows the revision (0: take the newest), not who answers.
    pub(crate) fn fill(&self, header: Option<ResponseHeader>) -> Option<ResponseHeader> {
        let revision = header.map_or(0, |header| header.revision);
        Some(if revision == 0 { self.header() } else { self.header_at(revision) })
    }
}
