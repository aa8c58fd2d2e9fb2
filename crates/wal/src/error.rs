//! Why a log cannot be used: what, where, and what to do, in one line.

use std::io;

/// What recovery answers instead of guessing.
#[derive(Debug)]
pub enum WalError {
    /// Something that no crash can have done: damage, loss, or files that were moved.
    Corrupt {
        file: String,
        /// In bytes, within `file`.
        offset: u64,
        what: String,
        advice: String,
    },
    /// The log was written by a version of the format that this program does not know.
    Version { file: String, found: u32, supported: u32 },
    /// The system failed a call.
    Io { what: String, source: io::Error },
}

/// A damaged log or vote is never repaired under the same member id: what it promised to others is lost.
const REPLACE: &str = "The other members still have the data: remove this member from the cluster (etcdctl member \
                       remove), delete its data directory and add it again as a new one (etcdctl member add). If it \
                       is the only member, restore its last snapshot. A copy of the directory of a running member is \
                       not one, and often looks like this: take snapshots with etcdctl snapshot save";

impl WalError {
    pub(crate) fn corrupt(file: &str, offset: u64, what: impl Into<String>) -> WalError {
        WalError::Corrupt { file: file.to_owned(), offset, what: what.into(), advice: REPLACE.to_owned() }
    }

    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> WalError {
        WalError::Io { what: what.into(), source }
    }
}

impl std::fmt::Display for WalError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            WalError::Corrupt { file, offset, what, advice } => {
                write!(out, "the log is damaged in {file} at offset {offset}: {what}. {advice}")
            }
            WalError::Version { file, found, supported } => write!(
                out,
                "the log in {file} has format version {found}, this program knows version {supported}. Start the \
                 version of the program that wrote it, or a newer one"
            ),
            WalError::Io { what, source } => write!(out, "cannot {what}: {source}"),
        }
    }
}

impl std::error::Error for WalError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            WalError::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
