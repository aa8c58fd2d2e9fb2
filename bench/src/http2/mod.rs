//! A gRPC client's side of HTTP/2, pure: bytes in, answers out; calls in, bytes out. No socket, no clock.
//!
//! Lean on purpose, so that the load generator costs a fraction of the server it drives: one pass over the received
//! bytes, requests encoded straight into the output, no allocation for a call whose answer fits a frame, and of a long
//! answer only as much kept as the load looks at. The layout of frames and the compression of headers are `net`'s, which
//! the `h2` crate judges in its tests; streams, flow control and messages are this client's own.

mod connection;
mod hpack;

pub use connection::{Answers, Connection, KEEP_ALL, Message};

macro_rules! methods {
    ($($name:ident = $path:literal,)*) => {
        /// The RPCs that the loads call.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Method { $($name,)* }

        impl Method {
            pub const COUNT: usize = [$(Method::$name,)*].len();

            pub fn path(self) -> &'static str {
                match self { $(Method::$name => concat!("/etcdserverpb.", $path),)* }
            }
        }
    };
}

methods! {
    Put = "KV/Put",
    Range = "KV/Range",
    RangeStream = "KV/RangeStream",
    Txn = "KV/Txn",
    Compact = "KV/Compact",
    Watch = "Watch/Watch",
    LeaseGrant = "Lease/LeaseGrant",
    LeaseKeepAlive = "Lease/LeaseKeepAlive",
}
