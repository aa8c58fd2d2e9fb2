//! Signals as values: blocked in every thread, waited for by the main one.

use std::time::Duration;

fn set() -> libc::sigset_t {
    // SAFETY: an all-zero sigset_t is valid storage; sigemptyset and sigaddset only write it.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGTERM);
        libc::sigaddset(&mut set, libc::SIGINT);
        set
    }
}

/// Before any other thread starts: threads inherit it. SIGPIPE is ignored: a closed socket is an error code here.
pub fn block() {
    // SAFETY: blocks two signals for this thread and ignores one; no handler runs.
    unsafe {
        libc::pthread_sigmask(libc::SIG_BLOCK, &set(), std::ptr::null_mut());
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
}

/// The signal's name, or `None` when the time is up.
pub fn wait(timeout: Duration) -> Option<&'static str> {
    let timespec = libc::timespec {
        tv_sec: timeout.as_secs() as libc::time_t,
        tv_nsec: libc::c_long::from(timeout.subsec_nanos()),
    };
    // SAFETY: reads the set and the time, writes nothing (no siginfo is asked for).
    match unsafe { libc::sigtimedwait(&set(), std::ptr::null_mut(), &timespec) } {
        libc::SIGTERM => Some("terminated"),
        libc::SIGINT => Some("interrupt"),
        _ => None,
    }
}
