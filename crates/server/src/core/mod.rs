//! The cores: rings, threads, and what carries values between them. The only code that talks to the kernel about
//! sockets and log writes.

pub mod doorbell;
pub mod fixed;
pub mod logcore;
pub mod mailbox;
pub mod meter;
pub mod pages;
pub mod pool;
pub mod run;
pub mod sends;
pub mod shard;
pub mod spool;
pub mod uring;

/// io_uring was refused: says what that usually means and what to do.
pub fn ring_refused(error: &std::io::Error) -> String {
    let cause = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "a seccomp profile (containers' default ones do this) or kernel.io_uring_disabled forbids it; allow the \
             io_uring_* system calls (tuning/seccomp.json) or set kernel.io_uring_disabled=0"
        }
        Some(libc::ENOSYS) => "the kernel has no io_uring; Linux 6.1 or later is needed",
        Some(libc::ENOMEM) => {
            "the limit of locked memory is too low; raise LimitMEMLOCK (ulimit -l) to 64 MiB or more"
        }
        Some(libc::EINVAL) => "the kernel's io_uring is too old; Linux 6.1 or later is needed",
        _ => "see tuning/README.md",
    };
    format!("io_uring cannot be set up: {error}: {cause}")
}
