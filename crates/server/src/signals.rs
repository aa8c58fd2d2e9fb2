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

/// A signal that asks for an orderly end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    pub name: &'static str,
    number: libc::c_int,
}

/// What came, or `None` when the time is up.
pub fn wait(timeout: Duration) -> Option<Asked> {
    let timespec = libc::timespec {
        tv_sec: timeout.as_secs() as libc::time_t,
        tv_nsec: libc::c_long::from(timeout.subsec_nanos()),
    };
    // SAFETY: reads the set and the time, writes nothing (no siginfo is asked for).
    match unsafe { libc::sigtimedwait(&set(), std::ptr::null_mut(), &timespec) } {
        number @ libc::SIGTERM => Some(Asked { name: "terminated", number }),
        number @ libc::SIGINT => Some(Asked { name: "interrupt", number }),
        _ => None,
    }
}

/// The last act: ends this process by the signal that asked for it, so that whoever waits for the process sees why it
/// ended, as with etcd. Returns only as process 1, which signals without a handler do not end.
pub fn end(asked: Asked) {
    if std::process::id() == 1 {
        return;
    }
    // SAFETY: everything is written and every other thread has ended or may end anywhere; the set lives through the call.
    unsafe {
        libc::signal(asked.number, libc::SIG_DFL);
        libc::raise(asked.number);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &set(), std::ptr::null_mut());
    }
}
