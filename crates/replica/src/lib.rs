//! The log core's machine: raft, log and store, driven by events and asking for actions.
//!
//! Everything here is a pure function of the events that come in: no `async`, no system call, no clock, no
//! randomness of its own. Start-up ([`open`]) reads files through `disk`'s traits and is the only part that waits.
//! Must not know HTTP, gRPC, TLS or sockets.

mod admission;
mod apply;
mod autocompact;
mod barriers;
mod checkpoint;
mod cluster;
mod compaction;
mod defragment;
mod event;
mod machine;
mod memory;
mod open;
mod published;
mod records;
mod replay;
mod request;
mod scrub;
mod state;
mod storage;
mod waiting;

pub use autocompact::AutoCompaction;
pub use checkpoint::Policy as CheckpointPolicy;
pub use cluster::{Member, cluster_id, founding_member};
pub use event::{Action, Event, HashJob, Note, Outcome, Proposal, Request, RequestKind, Response};
pub use machine::{Options, Replica};
pub use open::{DATA_FILE, LOG_DIR, OpenError, OpenReport, Start, open};
pub use published::{Published, QUOTA_DEFAULT_BYTES};
pub use request::entry_header_bytes;
pub use scrub::Policy as ScrubPolicy;
