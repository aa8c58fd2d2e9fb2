//! The Maintenance and Health services. What is long (hashes, the snapshot) runs as a job on a helper thread, with a
//! pinned snapshot of its own; a shard only hands it out and sends what comes back.

use std::io::{Seek, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base::CallToken;
use base::limits::SNAPSHOT_SPOOLS;
use bbolt::schema::{self, bucket};
use net::Outbound;
use prost::Message;
use proto::errors::{self, Code, Error};
use proto::etcdserverpb as pb;
use proto::health::health_check_response::ServingStatus;
use proto::health::{HealthCheckRequest, HealthCheckResponse};
use replica::Published;

use crate::calls::Rpc;
use crate::shard::{CallState, Connections, Shard, connection_of, position_of};

/// etcd sends a snapshot in pieces of this size, bytes.
const SNAPSHOT_PIECE_BYTES: usize = 32 << 10;
/// Read from the spool at once, bytes.
const SPOOL_READ_BYTES: usize = 1 << 20;

/// Long work of one call.
pub struct Job {
    pub token: CallToken,
    pub work: Work,
}

pub enum Work {
    Hash,
    HashKv {
        revision: i64,
    },
    Snapshot,
    /// The next bytes of a spooled snapshot.
    Read {
        spool: Arc<dyn Spool>,
        offset: u64,
    },
}

/// A finished export, on disk.
pub trait Spool: Send + Sync {
    fn size_bytes(&self) -> u64;
    fn sha256(&self) -> [u8; 32];
    /// Blocks: for helper threads.
    fn read(&self, offset: u64, len: usize) -> std::io::Result<Vec<u8>>;
}

/// How many snapshots a member has spooled or is spooling: each is a copy of the whole state, on the disk, for as long
/// as its client takes to read it.
#[derive(Default)]
pub struct SpoolSlots {
    taken: AtomicUsize,
}

/// One of them, until it is dropped.
struct SpoolSlot(Arc<SpoolSlots>);

impl SpoolSlots {
    fn take(self: &Arc<Self>) -> Option<SpoolSlot> {
        let one_more = |taken: usize| (taken < SNAPSHOT_SPOOLS).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(SpoolSlot(self.clone()))
    }
}

impl Drop for SpoolSlot {
    fn drop(&mut self) {
        let before = self.0.taken.fetch_sub(1, Ordering::Relaxed);
        assert!(before > 0, "a slot was taken before it is given back");
    }
}

/// A spool that holds its slot.
struct Slotted {
    spool: Arc<dyn Spool>,
    _slot: SpoolSlot,
}

impl Spool for Slotted {
    fn size_bytes(&self) -> u64 {
        self.spool.size_bytes()
    }

    fn sha256(&self) -> [u8; 32] {
        self.spool.sha256()
    }

    fn read(&self, offset: u64, len: usize) -> std::io::Result<Vec<u8>> {
        self.spool.read(offset, len)
    }
}

pub enum JobResult {
    Hash { hash: u32, revision: i64 },
    HashKv(Result<HashKv, Error>),
    Snapshot { spool: Arc<dyn Spool>, version: String },
    Bytes(Vec<u8>),
    Failed(Error),
}

/// What a HashKVResponse says.
pub struct HashKv {
    pub hash: mvcc::hash::KeyValueHash,
    pub current_revision: i64,
}

/// A snapshot on its way to a client.
pub(crate) struct SnapshotStream {
    spool: Arc<dyn Spool>,
    version: String,
    /// Sent so far.
    offset: u64,
    /// Read and not sent.
    buffer: Vec<u8>,
    sent_of_buffer: usize,
    reading: bool,
}

impl Work {
    /// Runs on a helper thread. `spool` makes the file that a snapshot is written to, where one of the `slots` is free.
    pub fn run(
        self,
        readers: &Arc<tree::Readers>,
        published: &Published,
        slots: &Arc<SpoolSlots>,
        spool: impl FnOnce(&dyn Fn(&mut dyn Export) -> Result<(), Error>) -> Result<Arc<dyn Spool>, Error>,
    ) -> JobResult {
        match self {
            Work::Read { spool, offset } => match spool.read(offset, SPOOL_READ_BYTES) {
                Ok(bytes) => JobResult::Bytes(bytes),
                Err(error) => JobResult::Failed(Error::new(Code::Unknown, error.to_string())),
            },
            Work::HashKv { revision } => {
                let reader = readers.register();
                let snapshot = reader.pin();
                let current_revision = mvcc::stamp::current(snapshot.stamp());
                let kept = published.compaction_hashes().clone();
                let hash = mvcc::hash::answer(snapshot.view(), &kept, revision);
                JobResult::HashKv(hash.map(|hash| HashKv { hash, current_revision }))
            }
            Work::Hash => {
                let reader = readers.register();
                let snapshot = reader.pin();
                let revision = mvcc::stamp::current(snapshot.stamp());
                let mut sink = Hasher { hash: 0 };
                match export(snapshot.view(), &mut sink) {
                    Ok(()) => JobResult::Hash { hash: sink.hash, revision },
                    Err(error) => JobResult::Failed(error),
                }
            }
            Work::Snapshot => {
                let Some(slot) = slots.take() else {
                    return JobResult::Failed(errors::REQUEST_TOO_MANY_REQUESTS);
                };
                let reader = readers.register();
                let snapshot = reader.pin();
                let view = snapshot.view();
                let version = storage_version(view).unwrap_or_default();
                match spool(&|sink| export(view, sink)) {
                    Ok(spool) => {
                        let spool = Arc::new(Slotted { spool, _slot: slot });
                        JobResult::Snapshot { spool, version }
                    }
                    Err(error) => JobResult::Failed(error),
                }
            }
        }
    }
}

/// Takes etcd's buckets, in the order of a database file.
pub trait Export {
    fn bucket(&mut self, name: &[u8]) -> Result<(), Error>;
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error>;
}

/// Writes the buckets as etcd's database file.
pub struct Database<W: Write + Seek>(pub bbolt::Writer<W>);

impl<W: Write + Seek> Export for Database<W> {
    fn bucket(&mut self, name: &[u8]) -> Result<(), Error> {
        self.0.bucket(name).map_err(|error| Error::new(Code::Unknown, error.to_string()))
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.0.put(key, value).map_err(|error| Error::new(Code::Unknown, error.to_string()))
    }
}

/// Maintenance.Hash: everything but the consistent index, its term and the storage version, as etcd leaves them out.
struct Hasher {
    hash: u32,
}

impl Export for Hasher {
    fn bucket(&mut self, name: &[u8]) -> Result<(), Error> {
        self.hash = base::crc32c_append(self.hash, name);
        Ok(())
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        if ![schema::meta::CONSISTENT_INDEX, schema::meta::TERM, schema::meta::STORAGE_VERSION].contains(&key)
        {
            self.hash = base::crc32c_append(self.hash, key);
            self.hash = base::crc32c_append(self.hash, value);
        }
        Ok(())
    }
}

/// The cluster version as stored, which is also etcd's storage version once it is known.
pub(crate) fn storage_version(view: tree::View<'_>) -> Option<String> {
    let stored = view.get(mvcc::trees::META, schema::cluster::VERSION)?;
    Some(String::from_utf8_lossy(stored).into_owned())
}

/// Writes the whole state as etcd's buckets.
pub fn export(view: tree::View<'_>, sink: &mut dyn Export) -> Result<(), Error> {
    for name in bucket::ALL {
        sink.bucket(name)?;
        match name {
            bucket::ALARM => copy(view, mvcc::trees::ALARMS, sink)?,
            bucket::AUTH => copy(view, mvcc::trees::AUTH, sink)?,
            bucket::AUTH_ROLES => copy(view, mvcc::trees::AUTH_ROLES, sink)?,
            bucket::AUTH_USERS => copy(view, mvcc::trees::AUTH_USERS, sink)?,
            bucket::LEASE => copy(view, mvcc::trees::LEASES, sink)?,
            bucket::MEMBERS => copy(view, mvcc::trees::MEMBERS, sink)?,
            bucket::MEMBERS_REMOVED => copy(view, mvcc::trees::REMOVED_MEMBERS, sink)?,
            bucket::CLUSTER => {
                if let Some(version) = storage_version(view) {
                    sink.put(schema::cluster::VERSION, version.as_bytes())?;
                }
            }
            bucket::KEY => {
                for pair in mvcc::export::pairs(view) {
                    sink.put(pair.key(), &pair.value)?;
                }
            }
            bucket::META => meta(view, sink)?,
            _ => unreachable!("the buckets of etcd are all named above"),
        }
    }
    Ok(())
}

fn copy(view: tree::View<'_>, tree: tree::TreeId, sink: &mut dyn Export) -> Result<(), Error> {
    let mut cursor = view.cursor(tree);
    let mut more = cursor.seek_first();
    while more {
        sink.put(cursor.key(), cursor.value())?;
        more = cursor.next();
    }
    Ok(())
}

fn meta(view: tree::View<'_>, sink: &mut dyn Export) -> Result<(), Error> {
    use schema::meta as key;
    let stamp = view.stamp();
    let (index, term) = mvcc::stamp::applied(stamp);
    let compacted = mvcc::stamp::compacted(stamp);
    let finished = mvcc::stamp::finished(stamp);
    if let Some(conf_state) = view.get(mvcc::trees::META, key::CONF_STATE) {
        sink.put(key::CONF_STATE, conf_state)?;
    }
    sink.put(key::CONSISTENT_INDEX, &schema::u64_value(index))?;
    if finished > 0 {
        sink.put(key::FINISHED_COMPACT, &schema::revision_key(base::Revision::new(finished, 0)))?;
    }
    if compacted > 0 {
        sink.put(key::SCHEDULED_COMPACT, &schema::revision_key(base::Revision::new(compacted, 0)))?;
    }
    if let Some(version) = storage_version(view) {
        sink.put(key::STORAGE_VERSION, version.as_bytes())?;
    }
    sink.put(key::TERM, &schema::u64_value(term))
}

impl Shard {
    pub(crate) fn status(&self) -> pb::StatusResponse {
        let snapshot = self.reader.pin();
        let view = snapshot.view();
        let published = &self.published;
        let mut errors = Vec::new();
        if published.leader() == 0 {
            errors.push("etcdserver: no leader".to_owned());
        }
        for alarm in crate::maintenance::alarms(view) {
            errors.push(alarm_text(&alarm));
        }
        let quota = published.quota_config_bytes;
        pb::StatusResponse {
            header: Some(self.header()),
            version: self.config.version.clone(),
            db_size: published.file_bytes() as i64,
            leader: published.leader(),
            raft_index: published.committed(),
            raft_term: published.term(),
            raft_applied_index: published.applied(),
            errors,
            db_size_in_use: published.used_bytes() as i64,
            is_learner: published.is_learner(),
            storage_version: storage_version(view).unwrap_or_default(),
            db_size_quota: if quota == 0 { replica::QUOTA_DEFAULT_BYTES } else { quota },
            downgrade_info: Some(pb::DowngradeInfo::default()),
        }
    }

    pub(crate) fn start_job(&mut self, out: &mut Outbound, stream: u32, rpc: Rpc, work: Work) {
        let token = self.hold(out, stream, rpc, CallState::Working);
        self.jobs.push(Job { token, work });
    }

    /// A job has ended.
    pub fn job_done(&mut self, token: CallToken, result: JobResult, connections: &mut dyn Connections) {
        let Some((out, _)) = connections.outbound(connection_of(token)) else { return };
        let stream = token.stream;
        let Some(position) = position_of(out, stream) else { return };
        if self.calls[position].token != token {
            return;
        }
        let rpc = self.calls[position].rpc;
        match result {
            JobResult::Failed(error) => self.fail(out, stream, rpc, &error),
            JobResult::Hash { hash, revision } => {
                let message = pb::HashResponse { header: Some(self.header_at(revision)), hash };
                self.answer(out, stream, rpc, &message);
            }
            JobResult::HashKv(Err(error)) => self.fail(out, stream, rpc, &error),
            JobResult::HashKv(Ok(HashKv { hash, current_revision })) => {
                let message = pb::HashKvResponse {
                    header: Some(self.header_at(current_revision)),
                    hash: hash.hash,
                    compact_revision: hash.compact_revision,
                    hash_revision: hash.revision,
                };
                self.answer(out, stream, rpc, &message);
            }
            JobResult::Snapshot { spool, version } => {
                out.open(stream);
                let state = SnapshotStream {
                    spool,
                    version,
                    offset: 0,
                    buffer: Vec::new(),
                    sent_of_buffer: 0,
                    reading: false,
                };
                self.calls[position].state = CallState::Snapshot(Box::new(state));
                self.produce_snapshot(out, stream, position);
            }
            JobResult::Bytes(bytes) => {
                if let CallState::Snapshot(state) = &mut self.calls[position].state {
                    state.buffer = bytes;
                    state.sent_of_buffer = 0;
                    state.reading = false;
                }
                self.produce_snapshot(out, stream, position);
            }
        }
    }

    /// Sends pieces while the client takes them; asks for more bytes when there are none.
    pub(crate) fn produce_snapshot(&mut self, out: &mut Outbound, stream: u32, position: usize) {
        let token = self.calls[position].token;
        let CallState::Snapshot(state) = &mut self.calls[position].state else { return };
        let size = state.spool.size_bytes();
        while out.queued(stream) == 0 && out.sendable(stream) > 0 {
            let waiting = state.buffer.len() - state.sent_of_buffer;
            if state.offset == size {
                let digest = pb::SnapshotResponse {
                    blob: state.spool.sha256().to_vec(),
                    version: state.version.clone(),
                    ..Default::default()
                };
                out.send(stream, &digest.encode_to_vec());
                self.meter.messages_sent[Rpc::Snapshot as usize].add(1);
                return self.finish_stream(out, stream, Rpc::Snapshot);
            }
            if waiting == 0 {
                if !state.reading {
                    state.reading = true;
                    let work = Work::Read { spool: state.spool.clone(), offset: state.offset };
                    self.jobs.push(Job { token, work });
                }
                return;
            }
            let len = waiting.min(SNAPSHOT_PIECE_BYTES);
            let from = state.sent_of_buffer;
            state.offset += len as u64;
            state.sent_of_buffer += len;
            let piece = pb::SnapshotResponse {
                header: None,
                remaining_bytes: size - state.offset,
                blob: state.buffer[from..from + len].to_vec(),
                version: state.version.clone(),
            };
            out.send(stream, &piece.encode_to_vec());
            self.meter.messages_sent[Rpc::Snapshot as usize].add(1);
        }
    }

    pub(crate) fn health_check(&mut self, out: &mut Outbound, stream: u32, request: &HealthCheckRequest) {
        match serving_status(&request.service) {
            Some(status) => {
                let message = HealthCheckResponse { status: status as i32 };
                self.answer(out, stream, Rpc::HealthCheck, &message);
            }
            None => {
                let error = Error::fixed(Code::NotFound, "unknown service");
                self.fail(out, stream, Rpc::HealthCheck, &error);
            }
        }
    }

    pub(crate) fn health_list(&mut self, out: &mut Outbound, stream: u32) {
        // A map of one entry, whose empty key Go's encoder writes down: "" is serving.
        const STATUSES: [u8; 8] = [0x0a, 6, 0x0a, 0, 0x12, 2, 0x08, ServingStatus::Serving as u8];
        self.release(out, stream);
        out.unary(stream, |buffer| buffer.extend_from_slice(&STATUSES));
        self.finished(Rpc::HealthList, 0);
    }

    pub(crate) fn health_watch(&mut self, out: &mut Outbound, stream: u32, request: &HealthCheckRequest) {
        let status = serving_status(&request.service).unwrap_or(ServingStatus::ServiceUnknown);
        out.open(stream);
        out.send(stream, &HealthCheckResponse { status: status as i32 }.encode_to_vec());
        self.meter.messages_sent[Rpc::HealthWatch as usize].add(1);
        // Defragmentation never stops service here, so the status never changes while we run.
        self.hold(out, stream, Rpc::HealthWatch, CallState::HealthWatch);
    }
}

/// etcd registers the empty service name only.
fn serving_status(service: &str) -> Option<ServingStatus> {
    service.is_empty().then_some(ServingStatus::Serving)
}

/// The alarms that are up, from the tree that holds them.
pub fn alarms(view: tree::View<'_>) -> Vec<pb::AlarmMember> {
    let mut cursor = view.cursor(mvcc::trees::ALARMS);
    let mut alarms = Vec::new();
    let mut more = cursor.seek_first();
    while more {
        alarms.extend(schema::parse_alarm_key(cursor.key()).ok());
        more = cursor.next();
    }
    alarms
}

/// An alarm in Go's protobuf text form, as Status shows it: fields that are zero are left out, and a kind that has no
/// name is its number.
fn alarm_text(alarm: &pb::AlarmMember) -> String {
    let mut fields = Vec::new();
    if alarm.member_id != 0 {
        fields.push(format!("memberID:{}", alarm.member_id));
    }
    match pb::AlarmType::try_from(alarm.alarm) {
        Ok(pb::AlarmType::None) => {}
        Ok(kind) => fields.push(format!("alarm:{}", kind.as_str_name())),
        Err(_) => fields.push(format!("alarm:{}", alarm.alarm)),
    }
    fields.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;

    impl Spool for Nothing {
        fn size_bytes(&self) -> u64 {
            0
        }

        fn sha256(&self) -> [u8; 32] {
            [0; 32]
        }

        fn read(&self, _: u64, _: usize) -> std::io::Result<Vec<u8>> {
            Ok(Vec::new())
        }
    }

    /// Clients that stop reading would fill the disk with copies of the state.
    #[test]
    fn snapshots_on_their_way_are_bounded() {
        let slots = Arc::new(SpoolSlots::default());
        let spool = |slot| Slotted { spool: Arc::new(Nothing), _slot: slot };
        let mut spools: Vec<Slotted> = (0..SNAPSHOT_SPOOLS).filter_map(|_| slots.take()).map(spool).collect();
        assert_eq!(spools.len(), SNAPSHOT_SPOOLS);
        assert!(slots.take().is_none(), "one more is refused");
        drop(spools.pop());
        spools.extend(slots.take().map(spool));
        assert_eq!(spools.len(), SNAPSHOT_SPOOLS, "whoever ends makes room for another");
        assert!(slots.take().is_none());
    }
}
