//! Signals as values: blocked in every thread, waited for by the main one. But for SIGBUS, which a read of the mapped data
//! file is when the device fails or the file was cut from outside: it ends the process where it stands (law 8), with a line
//! that says what it was.

use std::sync::OnceLock;
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

/// Said before the process ends by SIGBUS.
static BUS_LINE: OnceLock<Vec<u8>> = OnceLock::new();

/// From now on a page of the mapped file that cannot be read ends the process with `line` as its last word. The first call
/// counts.
pub fn explain_bus_error(line: String) {
    if BUS_LINE.set(line.into_bytes()).is_err() {
        return;
    }
    // SAFETY: an all-zero sigaction is valid; the handler is one, is asynchronous-signal-safe, and runs once: the default
    // action is back before it begins.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = say_bus_error as extern "C" fn(libc::c_int) as libc::sighandler_t;
        action.sa_flags = libc::SA_RESETHAND;
        libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut());
    }
}

/// Nothing but a write of what was made ready: allocation and locks are not for a handler. The read that failed is tried
/// again when this returns, fails again, and ends the process.
extern "C" fn say_bus_error(_: libc::c_int) {
    if let Some(line) = BUS_LINE.get() {
        // SAFETY: the line is never changed; whether it could be written changes nothing.
        unsafe { libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), line.len()) };
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
