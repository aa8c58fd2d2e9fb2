//! What can go wrong with a database file.

use std::fmt;
use std::io;

/// Why a file could not be read or written.
#[derive(Debug)]
pub enum Error {
    /// The source or the sink failed.
    Io(io::Error),
    /// Neither meta page carries the magic number: some other file.
    NotADatabase,
    /// The magic is right, the format version is one that nobody writes today.
    Version(u32),
    /// Both meta pages are damaged: the last reason found.
    Meta(&'static str),
    /// The meta page promises more bytes than the file has.
    Truncated { want: u64, have: u64 },
    /// A page breaks the format's rules.
    Corrupt { page: u64, what: &'static str },
    /// The writer was given something that the format cannot hold, or out of order.
    Misuse(&'static str),
}

impl Error {
    pub(crate) fn corrupt(page: u64, what: &'static str) -> Error {
        Error::Corrupt { page, what }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io(error) => write!(f, "database file: {error}"),
            Error::NotADatabase => write!(f, "not a database file: no meta page has the magic number"),
            Error::Version(version) => write!(f, "database format version {version} is not supported"),
            Error::Meta(what) => write!(f, "both meta pages of the database are damaged: {what}"),
            Error::Truncated { want, have } => {
                write!(f, "the database file is cut short: {want} bytes are in use, {have} are there")
            }
            Error::Corrupt { page, what } => write!(f, "database page {page}: {what}"),
            Error::Misuse(what) => write!(f, "cannot write this to a database file: {what}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        Error::Io(error)
    }
}
