//! Start-up: from the files of a data directory to a replica that can take its first event.
//!
//! The only part of this crate that waits for a disk. It decides between founding and recovering, checks that log
//! and store meet without a gap, and never repairs anything by guessing: what does not fit is refused in one line.
//!
//! The store opens the newest of its two metas that is whole. The log reaches back to the older one (law 6), and knows
//! the number of the checkpoint that completed last. So when the newest meta is damaged, the older one and the log give
//! everything back, and the report says what was lost on the way. Two checkpoints behind means that pages may have been
//! used again since, as in a file that was copied while the member ran: that is refused.

use std::sync::Arc;

use base::{Index, MemberId, Term};
use bbolt::schema::Malformed;
use disk::Files;
use prost::Message;
use proto::raftpb;
use raft::eraftpb::{ConfState, Entry, EntryType, HardState};
use raft::{Config, RawNode};
use sha1::{Digest, Sha1};

use crate::cluster::{self, Member};
use crate::machine::{Options, Parts, Replica};
use crate::published::Published;
use crate::records::{self, Records};
use crate::state::{State, version_word};
use crate::storage::Log;

/// The data file, in the data directory.
pub const DATA_FILE: &str = "data";
/// The directory of the log, in the data directory.
pub const LOG_DIR: &str = "log";
/// Number of the checkpoint that a new data file begins with: it has nothing in it.
const FOUNDING: u64 = 1;

/// What this process was told to be.
pub struct Start {
    pub options: Options,
    pub quota_config_bytes: i64,
    pub tree: tree::Options,
    pub wal: wal::Options,
    /// Entropy for ids: differs between any two starts.
    pub boot: u64,
}

/// What start-up found, for the log.
pub struct OpenReport {
    pub founded: bool,
    pub member_id: MemberId,
    pub cluster_id: MemberId,
    pub applied: Index,
    pub replayed_entries: usize,
    pub store: tree::OpenReport,
    /// A checkpoint that was complete could not be opened any more, in words; the one before and the log replaced it.
    /// Nothing is lost, but the device loses data.
    pub checkpoint_lost: Option<String>,
    pub cut: Option<wal::Cut>,
}

#[derive(Debug)]
pub enum OpenError {
    Store(tree::OpenError),
    Log(wal::WalError),
    /// Store and log do not belong together.
    Gap {
        applied: Index,
        first: Index,
    },
    /// The same: the store is ahead of its log.
    LogBehind {
        applied: Index,
        last: Index,
    },
    /// The store is older than what the log has let go of.
    Stale {
        opened: u64,
        completed: u64,
    },
    /// The same: they disagree about an entry.
    Foreign {
        index: Index,
        store_term: Term,
        log_term: Term,
    },
    /// The store has a record that is none of its kind, or lacks one.
    Record(Malformed),
    /// A log without a data file that does not begin with the founding of a member.
    Unfounded,
    /// The cluster runs a newer version than this one.
    Newer {
        cluster: String,
        own: String,
    },
    /// Nobody lives there, and nobody is to.
    MayNotFound(String),
    Io(std::io::Error),
    Raft(String),
}

/// What to do about a directory whose parts do not fit together.
pub(crate) const REPLACE: &str = "restore a snapshot (a copy of a running member's directory is none: take one with etcdctl \
                       snapshot save), or remove this member and add it again";

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            OpenError::Store(error) => error.fmt(f),
            OpenError::Log(error) => error.fmt(f),
            OpenError::Gap { applied, first } => write!(
                f,
                "the data file has applied entries up to {applied}, but the log begins at {first}: a part of the log \
                 is missing, or the data file is an older one; {REPLACE}"
            ),
            OpenError::LogBehind { applied, last } => write!(
                f,
                "the data file has applied entries up to {applied}, but the log ends at {last}: a part of the log is \
                 missing, and with it this member's vote; {REPLACE}"
            ),
            OpenError::Stale { opened, completed } => write!(
                f,
                "the newest whole checkpoint of the data file is number {opened}, but the log says that number \
                 {completed} was complete: the data file is an older one, or its metas are damaged; {REPLACE}"
            ),
            OpenError::Foreign { index, store_term, log_term } => write!(
                f,
                "entry {index} is of term {store_term} in the data file and of term {log_term} in the log: they are \
                 not of one member; {REPLACE}"
            ),
            OpenError::Record(Malformed(what)) => write!(
                f,
                "the data file has a malformed {what}: the device lost or damaged a page of it; {REPLACE}"
            ),
            OpenError::Unfounded => {
                write!(f, "there is no data file, and the first entry of the log founds no member; {REPLACE}")
            }
            OpenError::Newer { cluster, own } => write!(
                f,
                "the cluster has version {cluster}, which is newer than {own} of this program: start that version, or \
                 downgrade the cluster first"
            ),
            OpenError::MayNotFound(why) => f.write_str(why),
            OpenError::Io(error) => write!(f, "cannot prepare the data directory: {error}"),
            OpenError::Raft(error) => write!(f, "raft refuses the recovered state: {error}"),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            OpenError::Store(error) => error.source(),
            OpenError::Log(error) => error.source(),
            _ => None,
        }
    }
}

/// Opens or founds the member that lives in `files`. Where there is none, `may_found` is asked, and may say in one line
/// why none is to be founded: then nothing is, and the next start asks again.
pub fn open(
    files: Arc<dyn Files>,
    start: Start,
    may_found: impl FnOnce() -> Result<(), String>,
) -> Result<(Replica, OpenReport), OpenError> {
    let mut store =
        tree::Store::open(&*files, DATA_FILE, &mvcc::trees::SPECS, start.tree).map_err(OpenError::Store)?;
    if base::bug!(RevisionBackAfterCrash) && mvcc::stamp::removal_pending(store.stamp()) {
        let mut stamp = *store.stamp();
        stamp[mvcc::stamp::CURRENT] = stamp[mvcc::stamp::COMPACTED];
        store.set_stamp(stamp);
        store.publish();
    }
    let (applied, applied_term) = mvcc::stamp::applied(store.stamp());
    let reading = wal::Wal::read(files, LOG_DIR, start.wal, applied).map_err(OpenError::Log)?;
    let founded = applied == 0 && reading.recovered().last.0 == 0;
    check_together(reading.recovered(), (applied, applied_term))?;
    let checkpoint_lost = check_sequence(reading.recovered(), store.report())?;
    let cluster_version = records::cluster_version(store.view()).map_err(OpenError::Record)?;
    check_version(cluster_version.as_deref(), &start.options.cluster_version)?;
    let records = Records::read(&store).map_err(OpenError::Record)?;
    let identity = match records.identity {
        Some(identity) => identity,
        None if founded => (start.options.member.id, cluster::cluster_id(&[start.options.member.id])),
        None => founder(&reading.recovered().entries)?,
    };
    if founded {
        may_found().map_err(OpenError::MayNotFound)?;
    }
    // The meta of an unreadable slot can be opened no more: there is but one to cover.
    let (covered, _) = mvcc::stamp::applied(store.older_stamp().unwrap_or(store.durable_stamp()));
    let (mut wal, recovered) = reading.open(covered).map_err(OpenError::Log)?;
    let sequence = store.report().sequence;
    if sequence == FOUNDING && recovered.checkpoint_sequence > FOUNDING {
        // Numbers of checkpoints begin again.
        wal.append(wal::Record::Checkpoint { index: 0, term: 0, sequence });
        write_now(&mut wal).map_err(OpenError::Io)?;
    }

    let mut entries: Vec<Entry> = recovered
        .entries
        .into_iter()
        .filter(|entry| entry.index > applied)
        .filter(|entry| entry.index <= recovered.hard_state.commit || !base::bug!(RecoveryCutsTooMuch))
        .map(|entry| raft_entry(entry.term, entry.index, entry.kind, entry.data))
        .collect();
    let mut hard_state = HardState {
        term: recovered.hard_state.term,
        vote: recovered.hard_state.vote,
        commit: recovered.hard_state.commit,
        ..HardState::default()
    };
    if founded {
        let entry = founding_entry(&start.options.member);
        hard_state.term = entry.term;
        hard_state.commit = entry.index;
        found(&mut wal, &entry).map_err(OpenError::Io)?;
        entries.push(entry);
    }
    let last = entries.last().map_or((applied, applied_term), |entry| (entry.index, entry.term));
    // Commit advances are not always written, and the store is durable only up to what was committed.
    hard_state.commit = hard_state.commit.max(applied).min(last.0);
    hard_state.term = hard_state.term.max(last.1);

    let mut options = start.options;
    options.member.id = identity.0;
    let conf_state = records
        .conf_state
        .clone()
        .unwrap_or_else(|| ConfState { voters: vec![identity.0], ..ConfState::default() });
    let published = Arc::new(Published::new(identity.1, identity.0, start.quota_config_bytes));
    let report = OpenReport {
        founded,
        member_id: identity.0,
        cluster_id: identity.1,
        applied,
        replayed_entries: entries.len(),
        store: store.report().clone(),
        checkpoint_lost,
        cut: recovered.cut,
    };

    let config = Config {
        id: identity.0,
        election_tick: (options.election_ms / options.heartbeat_ms).max(2) as usize,
        heartbeat_tick: 1,
        applied,
        max_size_per_msg: 1 << 20,
        max_inflight_msgs: 512,
        check_quorum: true,
        pre_vote: true,
        ..Config::default()
    };
    let log = Log::new(hard_state, conf_state, (applied, applied_term), entries);
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    let raft = RawNode::new(&config, log, &logger).map_err(|e| OpenError::Raft(e.to_string()))?;
    let min_ttl_s = lease::min_ttl_s(options.election_ms / options.heartbeat_ms, options.heartbeat_ms);
    let lease_options = lease::Options { min_ttl_s, checkpoint_interval_s: None };
    let state =
        State::load(store, published.clone(), lease_options, identity, records, cluster_version.as_deref());
    let segment_bytes = start.wal.segment_bytes;
    let first_id = first_id(options.member.id, start.boot);
    let inherited = last.0;
    let parts = Parts { raft, wal, segment_bytes, state, published, options, first_id, inherited };
    Ok((Replica::assemble(parts), report))
}

/// Ids of requests and leases: two bytes of the member as in etcd, the rest at random and counted up from there. Two
/// starts would have to meet within the requests of one.
fn first_id(member: MemberId, boot: u64) -> u64 {
    // One-way: clients see these ids, and must not learn the boot number from them. The log rests on that.
    let hash = Sha1::digest(boot.to_be_bytes());
    let random = u64::from_be_bytes(std::array::from_fn(|i| hash[i]));
    (member & 0xffff) << 48 | (random & 0x7fff_ffff_ffff) | 1
}

/// The log reaches from the store's entry on, and they agree about it.
fn check_together(recovered: &wal::Recovered, applied: (Index, Term)) -> Result<(), OpenError> {
    let (index, store_term) = applied;
    let last = recovered.last.0;
    if last < index {
        return Err(OpenError::LogBehind { applied: index, last });
    }
    let first = recovered.entries.first().map_or(last + 1, |entry| entry.index);
    if first > index + 1 {
        return Err(OpenError::Gap { applied: index, first });
    }
    match recovered.entries.iter().find(|entry| entry.index == index) {
        Some(entry) if entry.term != store_term => {
            Err(OpenError::Foreign { index, store_term, log_term: entry.term })
        }
        _ => Ok(()),
    }
}

/// Compares the checkpoint that was opened with the one that the log knows to be complete: whether it is the one
/// before, in words, or an error when it is older still.
fn check_sequence(recovered: &wal::Recovered, store: &tree::OpenReport) -> Result<Option<String>, OpenError> {
    let (opened, completed) = (store.sequence, recovered.checkpoint_sequence);
    if completed <= opened {
        return Ok(None);
    }
    // The founding checkpoint reaches no page that could have been used again: the log alone tells all, or has a gap.
    if completed > opened + 1 && opened != FOUNDING {
        return Err(OpenError::Stale { opened, completed });
    }
    Ok(Some(format!(
        "checkpoint {completed} was complete and is not there any more; checkpoint {opened} and the log replaced it"
    )))
}

fn check_version(cluster: Option<&str>, own: &str) -> Result<(), OpenError> {
    let Some(cluster) = cluster else { return Ok(()) };
    if version_word(cluster) > version_word(own) {
        return Err(OpenError::Newer { cluster: cluster.to_owned(), own: own.to_owned() });
    }
    Ok(())
}

/// Writes the founding entry. It is durable before raft hears of it: what raft finds in its log counts as durable.
fn found(wal: &mut wal::Wal, entry: &Entry) -> std::io::Result<()> {
    wal.append(wal::Record::Entry { term: entry.term, index: entry.index, kind: 1, data: &entry.data });
    let hard_state = wal::HardState { term: entry.term, vote: 0, commit: entry.index };
    wal.append(wal::Record::HardState(hard_state));
    write_now(wal)?;
    assert_eq!(wal.durable().index, entry.index, "the founding entry fits a fresh log");
    Ok(())
}

fn write_now(wal: &mut wal::Wal) -> std::io::Result<()> {
    while let Some(write) = wal.submit() {
        write.perform()?;
        wal.written(write.seq, write.buf);
    }
    assert!(wal.unsubmitted_bytes() == 0, "a few records fit a fresh segment");
    Ok(())
}

/// etcd's log begins with the configuration change that adds its founder, in term 1.
fn founding_entry(member: &Member) -> Entry {
    // The attributes come with an entry of their own, once the member serves.
    let context = bbolt::schema::member_value(&Member {
        name: member.name.clone(),
        client_urls: Vec::new(),
        ..member.clone()
    });
    let change = raftpb::ConfChange {
        id: 0,
        r#type: raftpb::ConfChangeType::ConfChangeAddNode as i32,
        node_id: member.id,
        context,
    };
    raft_entry(1, 1, 1, change.encode_to_vec())
}

fn raft_entry(term: Term, index: Index, kind: u8, data: Vec<u8>) -> Entry {
    let entry_type = match kind {
        0 => EntryType::EntryNormal,
        1 => EntryType::EntryConfChange,
        2 => EntryType::EntryConfChangeV2,
        _ => panic!("the log holds an entry of unknown kind {kind}: recovery lets none through"),
    };
    Entry { term, index, entry_type, data: data.into(), ..Entry::default() }
}

/// (member, cluster) of a directory without a checkpoint: its log begins with the entry that founded it.
fn founder(entries: &[wal::Entry]) -> Result<(MemberId, MemberId), OpenError> {
    let first = entries.first().filter(|entry| entry.index == 1 && entry.kind == 1);
    let change = first.and_then(|first| raftpb::ConfChange::decode(&first.data[..]).ok());
    let Some(change) = change else { return Err(OpenError::Unfounded) };
    Ok((change.node_id, cluster::cluster_id(&[change.node_id])))
}
