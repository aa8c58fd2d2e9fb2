//! HTTP/2 and gRPC for servers, as a pure function: bytes in, calls out; answers in, bytes out.
//!
//! Must not know a socket, an executor, a clock, a key or a revision: time comes in as a value, and whoever owns the
//! socket moves the bytes. One file per concept of RFC 9113 and RFC 7541. Every limit against abuse stands in
//! `base::limits` or `Limits`. In steady state no call allocates.
//!
//! The owner's duties, per connection and turn:
//! 1. `receive` what the socket gave (not while `is_congested`), `tick` when `next_tick` has come;
//! 2. answer through `outbound`, `resume` what that made possible;
//! 3. send `output` (`gather` and `consumed`, or `take` and `recycle`), then ask `drain_writable` who can go on and let
//!    them, until nothing is left to do;
//! 4. after an error, or when `is_drained`: send the rest of the output and close; when the socket ends: `disconnected`.

pub mod client;
mod connection;
mod error;
mod field;
pub mod frame;
pub mod grpc;
mod gzip;
mod head;
pub mod hpack;
mod keepalive;
mod limits;
mod methods;
mod outbound;
mod output;
pub mod settings;
pub mod sniff;
mod streams;
mod window;

pub use connection::{Calls, Connection, End};
pub use error::{Closed, ErrorCode};
pub use head::{CallHead, PlainHead};
pub use limits::Limits;
pub use methods::{MethodIndex, Methods};
pub use outbound::Outbound;
pub use output::{Batch, Output};
