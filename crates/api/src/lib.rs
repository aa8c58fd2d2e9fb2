//! etcd's services over one shard: validate, read pinned snapshots, propose, answer.
//!
//! [`Shard`] is pure: requests come from `net` (bytes already framed), outcomes and event batches from the log core,
//! results of long work from the helper pool; what it wants from them is left in queues that the server empties once
//! a turn. It reads no clock and touches no socket.
//! Must not know the log or raft.

pub mod calls;
mod cluster;
mod dispatch;
mod header;
mod kv;
mod lease;
mod maintenance;
pub mod meter;
mod produce;
mod shard;
mod watch;

pub use maintenance::{Database, Export, Job, JobResult, Spool, SpoolSlots, Work, alarms};
pub use meter::Meter;
pub use shard::{Config, ConnectionId, Connections, Shard, ShardCalls, Sink, connection_of, methods};
