//! Snapshot exports, spooled to files at disk speed, so that a pin never waits for a client.
//!
//! The file is unlinked as soon as it is open: it lives as long as somebody sends it, and a crash leaves nothing.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use api::{Export, Spool};
use proto::{Code, Error};
use sha2::{Digest, Sha256};

/// Where spools are made: inside the data directory, on the disk that must have room anyway.
pub struct Directory {
    path: PathBuf,
    next: AtomicU64,
}

struct Spooled {
    file: File,
    size_bytes: u64,
    sha256: [u8; 32],
}

impl Directory {
    pub fn new(path: PathBuf) -> Directory {
        Directory { path, next: AtomicU64::new(0) }
    }

    /// Makes a database file of what `write` exports.
    pub fn export(
        &self,
        write: &dyn Fn(&mut dyn Export) -> Result<(), Error>,
    ) -> Result<Arc<dyn Spool>, Error> {
        let failed = |error: std::io::Error| Error::new(Code::Unknown, format!("snapshot spool: {error}"));
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.path.join(format!("spool-{number}.tmp"));
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        let file = options.open(&path).map_err(failed)?;
        std::fs::remove_file(&path).map_err(failed)?;
        let writer = BufWriter::with_capacity(1 << 20, file.try_clone().map_err(failed)?);
        let writer = bbolt::Writer::new(writer).map_err(|e| Error::new(Code::Unknown, e.to_string()))?;
        let mut database = api::Database(writer);
        write(&mut database)?;
        let summary = database.0.finish().map_err(|e| Error::new(Code::Unknown, e.to_string()))?;
        let sha256 = digest(&file, summary.bytes).map_err(failed)?;
        Ok(Arc::new(Spooled { file, size_bytes: summary.bytes, sha256 }))
    }
}

/// The meta pages are written last, so the digest needs a pass of its own.
fn digest(mut file: &File, size_bytes: u64) -> std::io::Result<[u8; 32]> {
    file.flush()?;
    file.seek(SeekFrom::Start(0))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut left = size_bytes;
    while left > 0 {
        let len = left.min(buffer.len() as u64) as usize;
        file.read_exact(&mut buffer[..len])?;
        hash.update(&buffer[..len]);
        left -= len as u64;
    }
    Ok(hash.finalize().into())
}

impl Spool for Spooled {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn sha256(&self) -> [u8; 32] {
        self.sha256
    }

    fn read(&self, offset: u64, len: usize) -> std::io::Result<Vec<u8>> {
        let len = (self.size_bytes - offset).min(len as u64) as usize;
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }
}
