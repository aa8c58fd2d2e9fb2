//! What clients saw: a record of operations, watch streams and what is known of the servers, for the checkers.
//!
//! Plain data, whoever records it: the simulated world in its one thread, or a test that kills real servers. Such a
//! test keeps the history behind a mutex and enters a call before it sends, an answer after it received: then the
//! order of entries is an order that real time agrees with, which is all that the checkers ask of it.
//!
//! Invariants:
//! - Every entry has a [`Moment`] of its own; steps count up in the order of entry.
//! - An operation ends once: answered, refused (surely not executed) or lost (nobody knows).
//! - The store is empty, at revision 1, when the history begins, and changed by recorded operations and by the expiry
//!   of leases only.
//!
//! What the checkers need besides, to explain a revision that no answer accounts for: its changes. They come from a
//! watcher of all keys, or from a [`Dump`]; without either, only where a single lost operation fits.

mod message;
mod shared;
mod trace;

use std::sync::Arc;

pub use base::LeaseId;
pub use message::Unsupported;
pub(crate) use trace::Shown;

/// A key or a value. Values that are unique make every finding sharper.
pub type Bytes = Arc<[u8]>;

/// When something was recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment {
    /// Its place in the order of all entries, from 1.
    pub step: u64,
    /// The recorder's clock, microseconds; used for leases only.
    pub at_us: u64,
}

/// One version of a key, as answers carry it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Kv {
    pub key: Bytes,
    pub value: Bytes,
    pub create: i64,
    pub modified: i64,
    pub version: i64,
    pub lease: LeaseId,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Put {
    pub key: Bytes,
    pub value: Bytes,
    pub lease: LeaseId,
    pub prev_kv: bool,
    pub ignore_value: bool,
    pub ignore_lease: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteRange {
    pub key: Bytes,
    pub range_end: Bytes,
    pub prev_kv: bool,
}

/// In key order, without filters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    pub key: Bytes,
    pub range_end: Bytes,
    /// 0 or below: the newest.
    pub revision: i64,
    /// 0 or below: none.
    pub limit: i64,
    pub serializable: bool,
    pub keys_only: bool,
    pub count_only: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    Equal,
    NotEqual,
    Greater,
    Less,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Version(i64),
    Create(i64),
    Modified(i64),
    Value(Bytes),
    Lease(LeaseId),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    pub key: Bytes,
    pub range_end: Bytes,
    pub relation: Relation,
    pub target: Target,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnOp {
    Put(Put),
    DeleteRange(DeleteRange),
    Range(Range),
    Txn(Txn),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    pub compares: Vec<Compare>,
    pub then: Vec<TxnOp>,
    pub otherwise: Vec<TxnOp>,
}

impl Txn {
    /// Nothing but ranges in both branches: it makes no entry in the log.
    pub fn is_read_only(&self) -> bool {
        self.then.iter().chain(&self.otherwise).all(|op| matches!(op, TxnOp::Range(_)))
    }

    /// Read-only, and no range in it asks for the newest state: it needs no read barrier.
    pub fn is_serializable(&self) -> bool {
        let serializable = |op: &TxnOp| matches!(op, TxnOp::Range(range) if range.serializable);
        self.then.iter().chain(&self.otherwise).all(serializable)
    }

    pub fn branch(&self, succeeded: bool) -> &[TxnOp] {
        if succeeded { &self.then } else { &self.otherwise }
    }

    /// Every operation in it, nested ones and both branches included.
    pub fn each_op<'t>(&'t self, visit: &mut impl FnMut(&'t TxnOp)) {
        for op in self.then.iter().chain(&self.otherwise) {
            visit(op);
            if let TxnOp::Txn(nested) = op {
                nested.each_op(visit);
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    Put(Put),
    DeleteRange(DeleteRange),
    Range(Range),
    Txn(Txn),
    Compact { revision: i64 },
    LeaseGrant { id: LeaseId, ttl_s: i64 },
    LeaseRevoke { id: LeaseId },
    LeaseKeepAlive { id: LeaseId },
    LeaseTimeToLive { id: LeaseId, keys: bool },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeAnswer {
    pub revision: i64,
    pub kvs: Vec<Kv>,
    pub more: bool,
    pub count: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutAnswer {
    pub revision: i64,
    pub prev: Option<Kv>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteAnswer {
    pub revision: i64,
    pub deleted: i64,
    pub prevs: Vec<Kv>,
}

/// The header of a nested one says 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TxnAnswer {
    pub revision: i64,
    pub succeeded: bool,
    pub answers: Vec<OpAnswer>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpAnswer {
    Put(PutAnswer),
    DeleteRange(DeleteAnswer),
    Range(RangeAnswer),
    Txn(TxnAnswer),
}

/// `revision` is that of the header everywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Put(PutAnswer),
    DeleteRange(DeleteAnswer),
    Range(RangeAnswer),
    Txn(TxnAnswer),
    Compact {
        revision: i64,
    },
    LeaseGrant {
        revision: i64,
        id: LeaseId,
        ttl_s: i64,
    },
    LeaseRevoke {
        revision: i64,
    },
    /// TTL 0: there is no such lease.
    LeaseKeepAlive {
        revision: i64,
        ttl_s: i64,
    },
    /// TTL -1 and granted TTL 0: there is no such lease. `keys` is empty where they were not asked for.
    LeaseTimeToLive {
        revision: i64,
        ttl_s: i64,
        granted_ttl_s: i64,
        keys: Vec<Bytes>,
    },
}

impl Answer {
    pub fn revision(&self) -> i64 {
        match self {
            Answer::Put(answer) => answer.revision,
            Answer::DeleteRange(answer) => answer.revision,
            Answer::Range(answer) => answer.revision,
            Answer::Txn(answer) => answer.revision,
            Answer::Compact { revision }
            | Answer::LeaseGrant { revision, .. }
            | Answer::LeaseRevoke { revision }
            | Answer::LeaseKeepAlive { revision, .. }
            | Answer::LeaseTimeToLive { revision, .. } => *revision,
        }
    }

    /// For tests that break histories.
    pub fn revision_mut(&mut self) -> &mut i64 {
        match self {
            Answer::Put(answer) => &mut answer.revision,
            Answer::DeleteRange(answer) => &mut answer.revision,
            Answer::Range(answer) => &mut answer.revision,
            Answer::Txn(answer) => &mut answer.revision,
            Answer::Compact { revision }
            | Answer::LeaseGrant { revision, .. }
            | Answer::LeaseRevoke { revision }
            | Answer::LeaseKeepAlive { revision, .. }
            | Answer::LeaseTimeToLive { revision, .. } => revision,
        }
    }
}

/// Why an operation was surely not executed. Errors that leave that open are [`Outcome::Lost`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    KeyNotFound,
    LeaseNotFound,
    LeaseExists,
    Compacted,
    FutureRevision,
    /// Any other, by its text: invalid, too many requests, too large.
    Other(Arc<str>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Answered(Answer),
    Refused(Refusal),
    /// The connection broke, time ran out, the server died: executed at any time after the call, or never.
    Lost,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    pub client: u32,
    /// Which member was asked.
    pub member: u32,
    pub call: Moment,
    /// `None`: it was under way when the history ended, which is as good as lost.
    pub end: Option<Moment>,
    pub request: Request,
    pub outcome: Outcome,
}

impl Operation {
    pub fn answer(&self) -> Option<&Answer> {
        match &self.outcome {
            Outcome::Answered(answer) => Some(answer),
            _ => None,
        }
    }

    pub fn is_lost(&self) -> bool {
        self.outcome == Outcome::Lost
    }

    /// The step by which it was executed, if ever; after everything else when that is not known.
    pub fn end_step(&self) -> u64 {
        self.end.filter(|_| !self.is_lost()).map_or(u64::MAX, |end| end.step)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Put,
    Delete,
}

/// Of a delete, the pair has key and mod revision only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub kind: Kind,
    pub kv: Kv,
    pub prev: Option<Kv>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchCreate {
    pub key: Bytes,
    pub range_end: Bytes,
    /// 0: from the next revision on.
    pub start_revision: i64,
    /// 0: the server chooses.
    pub watch_id: i64,
    pub prev_kv: bool,
    pub no_put: bool,
    pub no_delete: bool,
    pub progress_notify: bool,
    pub fragment: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchAnswer {
    /// -1 for requested progress, which is about every watcher of the stream.
    pub watch_id: i64,
    pub revision: i64,
    pub created: bool,
    pub canceled: bool,
    pub compact_revision: i64,
    pub reason: Arc<str>,
    pub fragment: bool,
    pub events: Vec<Event>,
}

impl WatchAnswer {
    /// Neither news about the watcher nor events: a bookmark.
    pub fn is_progress(&self) -> bool {
        self.events.is_empty() && !self.created && !self.canceled && !self.fragment
    }
}

/// What passes on a watch stream, in the order of sending and receiving at the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Passage {
    Create(WatchCreate),
    Cancel { watch_id: i64 },
    RequestProgress,
    Received(WatchAnswer),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    pub client: u32,
    pub member: u32,
    pub opened: Moment,
    pub passages: Vec<(Moment, Passage)>,
    /// It broke or was closed; `None`: it lived until the history ended.
    pub closed: Option<Moment>,
}

/// Every change of revisions `first` to `last`, read after everything that was answered before `at`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dump {
    pub at: Moment,
    pub first: i64,
    pub last: i64,
    /// In order; previous versions are not looked at.
    pub events: Vec<Arc<Event>>,
}

/// What HashKV gave the hash of; only once the compaction is physically finished: before that a hash may depend on how
/// far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HashOf {
    pub revision: i64,
    pub compact_revision: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashSample {
    pub at: Moment,
    pub member: u32,
    pub of: HashOf,
    pub hash: u64,
}

/// What the recorder knows of the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// The process ended, or was killed, at or before this.
    Stopped { member: u32 },
    /// A process is started after this. A single member thereby leads anew, not before this.
    Started { member: u32 },
    /// Several members: nobody led from here on, as far as leases are concerned.
    LeaderLost,
    /// Several members: another leader was elected, not before this.
    LeaderWon { member: u32 },
    /// The servers may compact up to there on their own, not before this.
    Compacting { revision: i64 },
    /// From here on the servers may have more to do than they can, or too little room: they may refuse for that.
    Strained,
    /// They have caught up: what is asked from here on is not refused for that.
    Relieved,
    /// Faults have ended, everybody had time: every open watcher has everything up to `revision`, every lease that
    /// is due has expired.
    Settled { revision: i64 },
}

/// Names an operation under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OpId(pub usize);

/// Names a watch stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamId(pub usize);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// In the order of their calls.
    pub operations: Vec<Operation>,
    pub streams: Vec<Stream>,
    pub dumps: Vec<Dump>,
    pub hashes: Vec<HashSample>,
    pub notes: Vec<(Moment, Note)>,
    steps: u64,
    shared: shared::Shared,
}

impl History {
    pub fn new() -> History {
        History::default()
    }

    fn moment(&mut self, at_us: u64) -> Moment {
        self.steps += 1;
        Moment { step: self.steps, at_us }
    }

    /// Entries so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Before the request is sent.
    pub fn call(&mut self, client: u32, member: u32, at_us: u64, request: Request) -> OpId {
        let call = self.moment(at_us);
        let outcome = Outcome::Lost;
        self.operations.push(Operation { client, member, call, end: None, request, outcome });
        OpId(self.operations.len() - 1)
    }

    fn end(&mut self, op: OpId, at_us: u64, outcome: Outcome) {
        let end = self.moment(at_us);
        let operation = &mut self.operations[op.0];
        assert!(operation.end.is_none(), "an operation ends once");
        operation.end = Some(end);
        operation.outcome = outcome;
    }

    /// After the answer was received.
    pub fn answered(&mut self, op: OpId, at_us: u64, mut answer: Answer) {
        self.shared.answer(&mut answer);
        self.end(op, at_us, Outcome::Answered(answer));
    }

    pub fn refused(&mut self, op: OpId, at_us: u64, refusal: Refusal) {
        self.end(op, at_us, Outcome::Refused(refusal));
    }

    pub fn lost(&mut self, op: OpId, at_us: u64) {
        self.end(op, at_us, Outcome::Lost);
    }

    /// An error answer: refused or lost, as [`Outcome::of_error`] says.
    pub fn failed(&mut self, op: OpId, at_us: u64, error: &proto::Error) {
        self.end(op, at_us, Outcome::of_error(error));
    }

    /// Before the stream is opened.
    pub fn open_stream(&mut self, client: u32, member: u32, at_us: u64) -> StreamId {
        let opened = self.moment(at_us);
        self.streams.push(Stream { client, member, opened, passages: Vec::new(), closed: None });
        StreamId(self.streams.len() - 1)
    }

    /// What is about to be sent, or was just received.
    pub fn passed(&mut self, stream: StreamId, at_us: u64, mut passage: Passage) {
        self.shared.passage(&mut passage);
        let at = self.moment(at_us);
        let stream = &mut self.streams[stream.0];
        assert!(stream.closed.is_none(), "nothing passes on a closed stream");
        stream.passages.push((at, passage));
    }

    pub fn close_stream(&mut self, stream: StreamId, at_us: u64) {
        let at = self.moment(at_us);
        let closed = self.streams[stream.0].closed.replace(at);
        assert!(closed.is_none(), "a stream is closed once");
    }

    pub fn dump(&mut self, at_us: u64, first: i64, last: i64, events: Vec<Event>) {
        // Collected in the place of what it is made from, it would keep the room of all events.
        let mut shared = Vec::with_capacity(events.len());
        shared.extend(events.into_iter().map(|event| self.shared.dumped(event)));
        let at = self.moment(at_us);
        self.dumps.push(Dump { at, first, last, events: shared });
    }

    pub fn hash(&mut self, member: u32, at_us: u64, of: HashOf, hash: u64) {
        let at = self.moment(at_us);
        self.hashes.push(HashSample { at, member, of, hash });
    }

    pub fn note(&mut self, at_us: u64, note: Note) {
        let at = self.moment(at_us);
        self.notes.push((at, note));
    }

    /// The newest revision that the recorder declared settled.
    pub fn settled(&self) -> Option<(Moment, i64)> {
        self.notes.iter().rev().find_map(|(at, note)| match note {
            Note::Settled { revision } => Some((*at, *revision)),
            _ => None,
        })
    }
}
