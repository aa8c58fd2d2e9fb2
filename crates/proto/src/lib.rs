//! Wire types: etcd's messages as prost structs, and the error table.
//!
//! Generated from the .proto files beside this crate. Knows the wire and nothing of the store.
//! With the feature `client` the tonic clients are generated too; only tests and the bench ask for it.

pub mod deep;
pub mod errors;

pub use errors::{Code, Error};

macro_rules! packages {
    ($($name:ident = $package:literal;)*) => {$(
        #[allow(clippy::all, missing_docs)]
        pub mod $name {
            include!(concat!(env!("OUT_DIR"), "/", $package, ".rs"));
        }
    )*};
}

packages! {
    mvccpb = "mvccpb";
    authpb = "authpb";
    etcdserverpb = "etcdserverpb";
    leasepb = "leasepb";
    membershippb = "membershippb";
    v3electionpb = "v3electionpb";
    v3lockpb = "v3lockpb";
    raftpb = "raftpb";
}

/// The standard gRPC health service.
pub mod health {
    #![allow(clippy::all, missing_docs)]
    include!(concat!(env!("OUT_DIR"), "/grpc.health.v1.rs"));
}
