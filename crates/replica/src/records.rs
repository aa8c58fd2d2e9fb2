//! The records of the data file that a start reads: who this member is and with whom it votes, its cluster's members and
//! version, the leases, the alarms.
//!
//! Invariant: what is not a record of its kind ends the start before the log changes. To go on without it would be to lose
//! it: a lease whose keys never go, a vote in another's name. Where a device lost a page, an older one may stand there.
//! Must not know pages: whether their checksums hold is seen by whoever opens and scrubs them.

use std::collections::BTreeSet;

use base::MemberId;
use bbolt::schema::{self, Malformed};
use mvcc::trees::{ALARMS, LEASES, MEMBERS, META};
use raft::eraftpb::ConfState;
use tree::{TreeId, View};

/// Names in the META tree that are not etcd's own.
pub(crate) const MEMBER_ID: &[u8] = b"mainstay.memberId";
pub(crate) const CLUSTER_ID: &[u8] = b"mainstay.clusterId";

const CONF_STATE: Malformed = Malformed("configuration state");

/// See the module's documentation.
pub(crate) struct Records {
    /// Member and cluster; `None` before anything was applied.
    pub identity: Option<(MemberId, MemberId)>,
    /// `None` before anything was applied.
    pub conf_state: Option<ConfState>,
    pub leases: Vec<lease::Lease>,
    pub alarms: BTreeSet<(i32, MemberId)>,
}

impl Records {
    pub fn read(store: &tree::Store) -> Result<Records, Malformed> {
        let view = store.view();
        let is_fresh = mvcc::stamp::applied(store.stamp()).0 == 0;
        let identity = identity(view, is_fresh)?;
        let conf_state = conf_state(view, is_fresh)?;
        let members = each(view, MEMBERS, member)?;
        if let (Some((own, _)), Some(conf_state)) = (identity, &conf_state) {
            if !conf_state.voters.contains(&own) && !conf_state.learners.contains(&own) {
                return Err(CONF_STATE);
            }
            if !members.contains(&own) {
                return Err(Malformed("list of members"));
            }
        }
        Ok(Records {
            identity,
            conf_state,
            leases: each(view, LEASES, lease)?,
            alarms: each(view, ALARMS, alarm)?.into_iter().collect(),
        })
    }
}

fn each<T>(
    view: View<'_>,
    tree: TreeId,
    parse: impl Fn(&[u8], &[u8]) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    let mut cursor = view.cursor(tree);
    let (mut records, mut more) = (Vec::new(), cursor.seek_first());
    while more {
        records.push(parse(cursor.key(), cursor.value())?);
        more = cursor.next();
    }
    Ok(records)
}

fn identity(view: View<'_>, is_fresh: bool) -> Result<Option<(MemberId, MemberId)>, Malformed> {
    const WHAT: Malformed = Malformed("identity of its member");
    let [member, cluster] = [MEMBER_ID, CLUSTER_ID].map(|name| view.get(META, name));
    if is_fresh && member.is_none() && cluster.is_none() {
        return Ok(None);
    }
    let read = |stored: Option<&[u8]>| stored.and_then(|stored| schema::parse_u64(stored).ok()).ok_or(WHAT);
    Ok(Some((read(member)?, read(cluster)?)))
}

/// Stored with the entry that founds a member.
fn conf_state(view: View<'_>, is_fresh: bool) -> Result<Option<ConfState>, Malformed> {
    let Some(stored) = view.get(META, schema::meta::CONF_STATE) else {
        return if is_fresh { Ok(None) } else { Err(CONF_STATE) };
    };
    let stored = schema::parse_conf_state(stored)?;
    Ok(Some(ConfState {
        voters: stored.voters,
        learners: stored.learners,
        voters_outgoing: stored.voters_outgoing,
        learners_next: stored.learners_next,
        auto_leave: stored.auto_leave,
        ..ConfState::default()
    }))
}

/// As text; `None` while undecided. Looked at first: a newer version may have records that this one does not know.
pub(crate) fn cluster_version(view: View<'_>) -> Result<Option<String>, Malformed> {
    let Some(stored) = view.get(META, schema::cluster::VERSION) else { return Ok(None) };
    let text = std::str::from_utf8(stored).unwrap_or_default();
    let parts: Vec<&str> = text.split('.').collect();
    if parts.len() != 3 || parts.iter().any(|part| part.parse::<u16>().is_err()) {
        return Err(Malformed("version of its cluster"));
    }
    Ok(Some(text.to_owned()))
}

fn member(key: &[u8], value: &[u8]) -> Result<MemberId, Malformed> {
    let id = schema::parse_member(value)?.id;
    if key == schema::member_key(id) { Ok(id) } else { Err(Malformed("member")) }
}

fn lease(key: &[u8], value: &[u8]) -> Result<lease::Lease, Malformed> {
    let stored = schema::parse_lease(value)?;
    if key != schema::lease_key(stored.id) {
        return Err(Malformed("lease"));
    }
    Ok(lease::Lease { id: stored.id, ttl_s: stored.ttl, remaining_ttl_s: stored.remaining_ttl })
}

fn alarm(key: &[u8], value: &[u8]) -> Result<(i32, MemberId), Malformed> {
    let alarm = schema::parse_alarm_key(key)?;
    // Other bytes can be read as an alarm, too. None is stored of the kind that stands for all of them.
    if !value.is_empty() || key != schema::alarm_key(&alarm) || alarm.alarm == 0 {
        return Err(Malformed("alarm"));
    }
    Ok((alarm.alarm, alarm.member_id))
}
