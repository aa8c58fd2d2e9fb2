//! Wakes a core that sleeps in its ring: an eventfd, rung only when the core said that it sleeps.
//!
//! Who must wake whom, and why no wake-up is lost, is [`base::sleep`]'s; here are the descriptor and its system calls.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use base::sleep::SleepFlag;

#[derive(Clone)]
pub struct Doorbell {
    inner: Arc<Inner>,
}

struct Inner {
    fd: OwnedFd,
    sleep: SleepFlag,
}

impl Doorbell {
    pub fn new() -> io::Result<Doorbell> {
        // SAFETY: eventfd takes no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Doorbell { inner: Arc::new(Inner { fd, sleep: SleepFlag::default() }) })
    }

    pub fn fd(&self) -> RawFd {
        self.inner.fd.as_raw_fd()
    }

    /// By the sleeper: from now on rings cost a system call. Look for work once more before sleeping.
    pub fn announce_sleep(&self) {
        self.inner.sleep.announce_sleep();
    }

    /// By the sleeper, awake again.
    pub fn announce_awake(&self) {
        self.inner.sleep.announce_awake();
    }

    /// By the sleeper, when its poll fired: empties the descriptor.
    pub fn drain(&self) {
        let mut count = [0u8; 8];
        // SAFETY: reads at most 8 bytes into an array of 8.
        unsafe { libc::read(self.fd(), count.as_mut_ptr().cast(), count.len()) };
    }

    /// By anyone who has put work down.
    pub fn ring(&self) {
        self.inner.sleep.ring(|| {
            let one = 1u64.to_ne_bytes();
            // SAFETY: writes 8 bytes from an array of 8; a full counter means that the sleeper will wake anyway.
            unsafe { libc::write(self.fd(), one.as_ptr().cast(), one.len()) };
        });
    }
}
