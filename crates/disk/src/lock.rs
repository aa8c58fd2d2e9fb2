//! One process per data directory.

use std::fs::{OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::error::{advised, named};

/// The name of the lock file in the data directory.
const LOCK: &str = "LOCK";

/// Holds the directory until dropped or the process ends, however it ends: the lock is the kernel's (flock).
/// The file stays; its content, the holder's process id, is only a hint for people.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: std::fs::File,
}

/// Takes the data directory for this process. `ResourceBusy` when another holds it; does not wait.
pub fn lock_directory(dir: &Path) -> io::Result<DirectoryLock> {
    let path = dir.join(LOCK);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| named(format!("open the lock file {}", path.display()), error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // A hint for people; without it the message is only shorter.
            let _ = file.read_to_string(&mut holder);
            let holder = match holder.trim() {
                "" => String::new(),
                id => format!(" (process {id}, as it wrote there)"),
            };
            return Err(advised(
                format!("lock {}", path.display()),
                io::Error::new(
                    io::ErrorKind::ResourceBusy,
                    format!("data directory is in use by another process{holder}"),
                ),
                "Stop that process first, or give this one a data directory of its own".to_owned(),
            ));
        }
        Err(TryLockError::Error(error)) => {
            return Err(named(format!("lock {}", path.display()), error));
        }
    }
    let id = format!("{}\n", std::process::id());
    file.set_len(0)
        .and_then(|()| file.write_all(id.as_bytes()))
        .map_err(|error| named(format!("write {}", path.display()), error))?;
    Ok(DirectoryLock { _file: file })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_holder_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock_directory(dir.path()).unwrap();
        let refused = lock_directory(dir.path()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ResourceBusy);
        let text = refused.to_string();
        assert!(text.contains("data directory is in use by another process"), "{text}");
        assert!(text.contains(&std::process::id().to_string()), "{text}");
        drop(held);
        lock_directory(dir.path()).unwrap();
        assert!(lock_directory(&dir.path().join("absent")).is_err());
    }
}
