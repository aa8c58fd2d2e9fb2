//! How etcd derives the ids of members and clusters from their URLs.

use base::MemberId;
pub use bbolt::schema::Member;
use sha1::{Digest, Sha1};

/// A founding member: its id follows from its peer URLs and the cluster's token, so every founder derives the same
/// ids without talking.
pub fn founding_member(name: &str, peer_urls: &[String], client_urls: &[String], token: &str) -> Member {
    let mut peer_urls = peer_urls.to_vec();
    peer_urls.sort();
    let mut hash = Sha1::new();
    for url in &peer_urls {
        hash.update(url.as_bytes());
    }
    hash.update(token.as_bytes());
    Member {
        id: leading_u64(&hash.finalize()),
        peer_urls,
        is_learner: false,
        name: name.to_owned(),
        client_urls: client_urls.to_vec(),
    }
}

/// The id of a cluster: a hash of its founders' ids in order.
pub fn cluster_id(members: &[MemberId]) -> MemberId {
    let mut sorted = members.to_vec();
    sorted.sort_unstable();
    let mut hash = Sha1::new();
    for id in sorted {
        hash.update(id.to_be_bytes());
    }
    leading_u64(&hash.finalize())
}

fn leading_u64(digest: &[u8]) -> u64 {
    u64::from_be_bytes(std::array::from_fn(|i| digest[i]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_that_etcd_derives() {
        // What etcd 3.7.1 answers for the default single member.
        let member = founding_member("default", &["http://localhost:2380".into()], &[], "etcd-cluster");
        assert_eq!(format!("{:x}", member.id), "8e9e05c52164694d");
        assert_eq!(format!("{:x}", cluster_id(&[member.id])), "cdf818194e3a8c32");
    }
}
