//! What the black-box tests share: server processes, clients, the tools of etcd.
//!
//! The tests know nothing of Mainstay but its binary. "Ours" is MAINSTAY_BIN, or the binary that cargo built; the
//! reference is ETCD_BIN, or `etcd` in PATH. With MAINSTAY_BIN=etcd every test must pass too: that is how the tests
//! themselves are tested.
//!
//! A tool that is absent makes a test skip, and say so.

#![allow(dead_code)] // Each test uses its part.

pub mod client;
pub mod recorder;
pub mod server;
pub mod small_disk;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

static SKIPPED: AtomicUsize = AtomicUsize::new(0);

/// Says on stderr that something was not tested, and how often that has happened in this process.
pub fn skip(why: &str) {
    let count = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
    eprintln!("SKIPPED ({count} so far): {why}");
}

/// The binary under test.
pub fn ours() -> Option<PathBuf> {
    let found = std::env::var_os("MAINSTAY_BIN")
        .map(PathBuf::from)
        .or_else(|| option_env!("CARGO_BIN_EXE_mainstay").map(PathBuf::from));
    if found.is_none() {
        skip("no MAINSTAY_BIN, and cargo built no binary");
    }
    found
}

/// The version of etcd that decides what is right; older tools lack commands and print other texts.
const COMPARED: &str = "3.7";

/// What a server answers to a call that its version does not have yet.
pub const NOT_YET: &str = "is not supported by this version yet";

/// Whether a call failed because it is not there yet; says that the rest of the test is skipped.
pub fn is_not_yet(error: &str) -> bool {
    let not_yet = error.contains(NOT_YET);
    if not_yet {
        skip(error.lines().find(|line| line.contains(NOT_YET)).unwrap_or(error));
    }
    not_yet
}

/// The binary that decides what is right.
pub fn reference() -> Option<PathBuf> {
    tool("ETCD_BIN", "etcd")
}

/// A program of etcd from an environment variable or PATH; None when it is absent or not of the version compared with.
pub fn tool(variable: &str, name: &str) -> Option<PathBuf> {
    let found = std::env::var_os(variable).map(PathBuf::from).or_else(|| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
    });
    let Some(found) = found else {
        skip(&format!("no {variable}, and no {name} in PATH"));
        return None;
    };
    // The server has a flag where its tools have a command.
    let asked = if name == "etcd" { "--version" } else { "version" };
    let output = std::process::Command::new(&found).arg(asked).env("ETCDCTL_API", "3").output();
    let says = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    if !says.to_lowercase().contains(&format!("version: {COMPARED}.")) {
        let first = says.lines().next().unwrap_or("nothing");
        skip(&format!("{name} {COMPARED} is wanted, and {} says {first:?}", found.display()));
        return None;
    }
    Some(found)
}

/// A number from the environment.
pub fn setting(variable: &str, otherwise: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")),
        Err(_) => otherwise,
    }
}

/// Runs a test's future; panics inside it fail the test.
pub fn run<F: Future>(test: F) -> F::Output {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(test)
}
