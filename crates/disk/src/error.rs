//! Errors that say what was tried, on which file, and what can be done about it.
//!
//! They travel as `io::Error`, with the system's error kind, so that the traits stay those of the standard library.

use std::io;
use std::path::Path;

/// What was tried, on what, and why it failed. Displayed as one line.
#[derive(Debug)]
pub struct DiskError {
    /// A whole clause: "write 4096 bytes at offset 0 of DIR/log/00000001.seg".
    pub what: String,
    pub source: io::Error,
    /// What an operator can do; empty when there is nothing beyond reading `source`.
    pub advice: String,
}

impl std::fmt::Display for DiskError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "cannot {}: {}", self.what, self.source)?;
        if !self.advice.is_empty() {
            write!(out, ". {}", self.advice)?;
        }
        Ok(())
    }
}

impl std::error::Error for DiskError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Wraps `source`; kind and errno stay visible.
pub(crate) fn named(what: String, source: io::Error) -> io::Error {
    advised(what, source, String::new())
}

pub(crate) fn advised(what: String, source: io::Error, advice: String) -> io::Error {
    io::Error::new(source.kind(), DiskError { what, source, advice })
}

/// The system's error number of an error of this crate.
pub fn errno(error: &io::Error) -> Option<i32> {
    error.raw_os_error().or_else(|| {
        let inner = error.get_ref()?.downcast_ref::<DiskError>()?;
        errno(&inner.source)
    })
}

/// True for "no space left" and "quota exceeded": the one answer of growth that does not end the process.
pub fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Why io_uring was refused, in words: with the errno, the likely cause and the fix. For every ring of the process.
pub fn ring_error(source: io::Error) -> io::Error {
    let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok();
    let advice = ring_advice(source.raw_os_error(), disabled.as_deref().map(str::trim));
    let number = source.raw_os_error().map_or(String::new(), |number| format!(" (errno {number})"));
    advised(format!("set up io_uring{number}"), source, advice)
}

/// `disabled` is the content of kernel.io_uring_disabled, where the kernel has it.
fn ring_advice(errno: Option<i32>, disabled: Option<&str>) -> String {
    let seccomp = "a seccomp profile of the container runtime that leaves out io_uring; allow io_uring_setup, \
                   io_uring_enter and io_uring_register in it (securityContext.seccompProfile, or --security-opt \
                   seccomp=PROFILE)";
    match (errno, disabled) {
        (Some(libc::EPERM | libc::EACCES), Some("2")) => {
            "The likely cause: kernel.io_uring_disabled is 2 on this host; set it to 0 (sysctl -w \
             kernel.io_uring_disabled=0)"
                .to_owned()
        }
        (Some(libc::EPERM | libc::EACCES), Some("1")) => {
            "The likely cause: kernel.io_uring_disabled is 1 on this host and this process is not in the group of \
             kernel.io_uring_group; set it to 0, or add the group"
                .to_owned()
        }
        (Some(libc::EPERM | libc::EACCES), _) => format!("The likely cause: {seccomp}"),
        (Some(libc::ENOSYS), _) => {
            format!("The likely cause: a kernel without io_uring (5.14 or later is needed), or {seccomp}")
        }
        (Some(libc::ENOMEM), _) => {
            "The likely cause: the limit of locked memory; raise it (ulimit -l, LimitMEMLOCK=)".to_owned()
        }
        (Some(libc::EMFILE | libc::ENFILE), _) => {
            "The likely cause: the limit of open files; raise it (ulimit -n, LimitNOFILE=)".to_owned()
        }
        _ => "io_uring is needed: a kernel of 5.14 or later that allows it".to_owned(),
    }
}

/// The file system of `path` has no direct I/O.
pub(crate) fn no_direct_io(path: &Path, source: io::Error) -> io::Error {
    let kind = file_system(path);
    advised(
        format!("open {} for direct I/O (O_DIRECT)", path.display()),
        source,
        format!(
            "The file system below it{} does not support direct I/O; put the data directory on one that does, \
             such as ext4, xfs or btrfs on a local disk",
            kind.map_or(String::new(), |kind| format!(" ({kind})"))
        ),
    )
}

/// The type of the file system that holds `path`, where it is one that people meet without direct I/O.
fn file_system(path: &Path) -> Option<&'static str> {
    let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).ok()?;
    let mut answer = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: `path` ends in NUL and `answer` is writable memory of the right size.
    if unsafe { libc::statfs(path.as_ptr(), answer.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: the call succeeded, so it has filled the structure.
    let magic = unsafe { answer.assume_init() }.f_type as u64;
    Some(match magic & 0xffff_ffff {
        0x0102_1994 => "tmpfs",
        0x8584_58f6 => "ramfs",
        0x794c_7630 => "overlayfs",
        0x6573_5546 => "fuse",
        0x0102_1997 => "9p",
        0x2fc1_2fc1 => "zfs",
        0x6969 => "nfs",
        0xf15f => "ecryptfs",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrapping_keeps_kind_and_errno() {
        let error = named("allocate 1 byte of x".into(), io::Error::from_raw_os_error(libc::ENOSPC));
        assert!(is_no_space(&error));
        assert_eq!(errno(&error), Some(libc::ENOSPC));
        assert!(error.to_string().starts_with("cannot allocate 1 byte of x: No space left"));
        assert!(!is_no_space(&io::Error::from_raw_os_error(libc::EIO)));
        assert_eq!(errno(&io::Error::from_raw_os_error(libc::EIO)), Some(libc::EIO));
    }

    #[test]
    fn a_refused_ring_names_cause_and_fix() {
        for (number, sysctl, word) in [
            (libc::EPERM, Some("2"), "kernel.io_uring_disabled=0"),
            (libc::EPERM, Some("1"), "io_uring_group"),
            (libc::EPERM, Some("0"), "seccomp"),
            (libc::EACCES, None, "seccomp"),
            (libc::ENOSYS, None, "5.14"),
            (libc::ENOMEM, Some("0"), "LimitMEMLOCK"),
        ] {
            assert!(ring_advice(Some(number), sysctl).contains(word), "{number} {sysctl:?}");
        }
        let error = ring_error(io::Error::from_raw_os_error(libc::EPERM));
        assert!(error.to_string().contains("errno 1"), "{error}");
        assert_eq!(errno(&error), Some(libc::EPERM));
    }
}
