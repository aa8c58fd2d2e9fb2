//! Names one call of one client connection of one shard, across the rings and back.

/// Where an answer belongs. `epoch` tells a reused connection slot from its predecessor: an answer whose epoch is
/// no longer the slot's is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallToken {
    pub shard: u16,
    pub connection: u32,
    pub epoch: u32,
    /// The HTTP/2 stream id.
    pub stream: u32,
}
