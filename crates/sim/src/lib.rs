//! The simulated world that tries to break Mainstay, and the checkers that judge what its clients saw.
//!
//! - [`world`]: the real log, store, replica, leases, watches and shards in one thread, on a simulated disk, clock and
//!   network, all from one seed.
//! - [`history`]: what clients saw, as plain data; also for tests of real processes.
//! - [`crash`]: every crash of scripted workloads over the real log, store and replica, judged one by one.
//! - [`check`]: judges of a history, and of a store at rest.

pub mod check;
mod command;
pub mod crash;
pub mod history;
pub mod world;
#[cfg(feature = "zoo")]
pub mod zoo;

pub use command::main;
