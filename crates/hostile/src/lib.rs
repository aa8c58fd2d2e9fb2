//! What bytes from outside, or from a damaged disk, must not be able to do: one function per decoder, which takes any
//! bytes and panics when a law is broken.
//!
//! The laws go beyond "no panic": what decodes encodes to the same, the split of a stream does not matter, an
//! independent reading agrees, damage is refused or has no effect, memory stays within a bound of the input's length.
//! Each target's law stands at the top of its module.
//!
//! The same functions are run by cargo-fuzz (`fuzz/`, see its README) and, over the corpus and seeded mutations of it,
//! by the ordinary test `tests/corpus.rs`. The seeds come from the project's own encoders; `examples/corpus.rs` writes
//! them to `fuzz/corpus`.
//!
//! Must not hold state from one input to the next: a finding is a file, and the file alone shows it.

pub mod bbolt_file;
pub mod cells;
pub mod choices;
pub mod config;
pub mod connection;
pub mod damage;
pub mod grpc;
pub mod hpack;
pub mod http1;
pub mod import;
pub mod log;
pub mod meter;
pub mod mutate;
pub mod pages;
pub mod requests;
pub mod schema;
pub mod wire;

/// One decoder and its laws.
pub struct Target {
    /// Of the fuzz target and its folder of the corpus.
    pub name: &'static str,
    /// Panics when a law is broken.
    pub check: fn(&[u8]),
    /// Inputs made by real encoders, with names.
    pub seeds: fn() -> Vec<(String, Vec<u8>)>,
    /// Mutations that the ordinary test runs: a second or two.
    pub mutations: u32,
    /// Mutations do not grow an input beyond, bytes.
    pub longest_bytes: usize,
}

macro_rules! targets {
    ($($name:literal $module:ident $mutations:literal $longest_bytes:literal;)*) => {
        /// Every target, in alphabetical order.
        pub const TARGETS: &[Target] = &[$(Target {
            name: $name,
            check: $module::check,
            seeds: $module::seeds,
            mutations: $mutations,
            longest_bytes: $longest_bytes,
        }),*];
    };
}

targets! {
    "bbolt" bbolt_file 3000 16384;
    "cells" cells 1000000 2048;
    "config" config 10000 4096;
    "connection" connection 40000 8192;
    "grpc" grpc 100000 8192;
    "hpack" hpack 300000 4096;
    "http1" http1 100000 6000;
    "import" import 400 2048;
    "log" log 2000 1024;
    "pages" pages 1000 1024;
    "requests" requests 1000 4096;
    "schema" schema 1000000 2048;
}

/// The target of that name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
