//! The system calls of the bench: epoll, clocks, affinity, signals. The only module with `unsafe`.
//!
//! Linux only, as the rest of the project. Knows nothing of loads and servers.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Nanoseconds of a clock.
fn clock_ns(clock: libc::clockid_t) -> io::Result<u64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place to write to; an unknown clock is answered with an error.
    check(unsafe { libc::clock_gettime(clock, &mut time) })?;
    Ok(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// The monotonic clock, nanoseconds; the same for all threads.
pub fn now_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC).expect("the monotonic clock exists")
}

/// CPU time of the calling thread, nanoseconds.
pub fn thread_cpu_ns() -> u64 {
    clock_ns(libc::CLOCK_THREAD_CPUTIME_ID).expect("the thread's clock exists")
}

/// CPU time of a whole process, threads that ended included, nanoseconds: what /proc/PID/stat counts in ticks.
pub fn process_cpu_ns(pid: u32) -> io::Result<u64> {
    let mut clock: libc::clockid_t = 0;
    // SAFETY: `clock` is a valid place to write to; an unknown pid is answered with an error.
    let result = unsafe { libc::clock_getcpuclockid(pid as libc::pid_t, &mut clock) };
    if result == 0 { clock_ns(clock) } else { Err(io::Error::from_raw_os_error(result)) }
}

/// Clock ticks in a second, as /proc counts CPU time.
pub fn ticks_per_second() -> u64 {
    // SAFETY: sysconf takes no pointers.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    u64::try_from(ticks).ok().filter(|&ticks| ticks > 0).unwrap_or(100)
}

/// Readiness of sockets, by number.
pub struct Poll {
    epoll: OwnedFd,
    events: Vec<libc::epoll_event>,
}

/// What a socket is ready for.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    pub link: usize,
    pub readable: bool,
    pub writable: bool,
}

impl Poll {
    pub fn new(capacity: usize) -> io::Result<Poll> {
        // SAFETY: takes no pointers.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the descriptor was just created and has no other owner.
        let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Poll { epoll, events: vec![libc::epoll_event { events: 0, u64: 0 }; capacity.max(1)] })
    }

    pub fn add(&self, fd: RawFd, link: usize) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, link, false)
    }

    /// From now on also tells when the socket is writable, or no longer does.
    pub fn want_write(&self, fd: RawFd, link: usize, wanted: bool) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, link, wanted)
    }

    fn control(&self, operation: libc::c_int, fd: RawFd, link: usize, write: bool) -> io::Result<()> {
        let events = libc::EPOLLIN as u32 | if write { libc::EPOLLOUT as u32 } else { 0 };
        let mut event = libc::epoll_event { events, u64: link as u64 };
        // SAFETY: `event` lives through the call; bad descriptors are answered with an error.
        check(unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), operation, fd, &mut event) }).map(drop)
    }

    /// Waits for readiness or until `timeout_ns` has passed, and replaces what is in `ready`. A signal ends the wait
    /// early, with nothing ready.
    pub fn wait(&mut self, timeout_ns: u64, ready: &mut Vec<Ready>) -> io::Result<()> {
        ready.clear();
        let timeout = libc::timespec {
            tv_sec: (timeout_ns / 1_000_000_000) as libc::time_t,
            tv_nsec: (timeout_ns % 1_000_000_000) as libc::c_long,
        };
        // SAFETY: `events` has the length that is given and `timeout` lives through the call; no signal mask.
        let found = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.epoll.as_raw_fd(),
                self.events.as_mut_ptr(),
                self.events.len() as libc::c_int,
                &timeout as *const libc::timespec,
                std::ptr::null::<libc::sigset_t>(),
                0usize,
            )
        };
        let found = match check(found as libc::c_int) {
            Ok(found) => found as usize,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        ready.extend(self.events[..found].iter().map(|event| {
            let events = event.events;
            let failed = events & (libc::EPOLLERR | libc::EPOLLHUP) as u32 != 0;
            Ready {
                link: event.u64 as usize,
                readable: failed || events & libc::EPOLLIN as u32 != 0,
                writable: events & libc::EPOLLOUT as u32 != 0,
            }
        }));
        Ok(())
    }
}

/// Lets timers of this thread fire within a microsecond; the default slack is 50.
pub fn sharp_timers() {
    // SAFETY: takes numbers only; where it fails timers stay as they were.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_000u64) };
}

/// CPUs that this process may run on.
pub fn cpus() -> Vec<usize> {
    // SAFETY: a cpu_set_t of zeros is an empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is as long as is said.
    let result = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) };
    if result != 0 {
        return Vec::new();
    }
    // SAFETY: the index is below CPU_SETSIZE.
    (0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect()
}

/// Binds the calling thread to `cpus`; also safe between fork and exec. An empty list changes nothing.
pub fn pin(cpus: &[usize]) -> io::Result<()> {
    if cpus.is_empty() {
        return Ok(());
    }
    // SAFETY: a cpu_set_t of zeros is an empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for &cpu in cpus.iter().filter(|&&cpu| cpu < libc::CPU_SETSIZE as usize) {
        // SAFETY: the index is below CPU_SETSIZE.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    // SAFETY: `set` is as long as is said.
    check(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) }).map(drop)
}

/// Binds the child to `cpus` and ends it should the bench die without stopping it.
pub fn prepare_child(command: &mut std::process::Command, cpus: Vec<usize>) {
    use std::os::unix::process::CommandExt;
    command.process_group(0);
    let prepare = move || {
        // SAFETY: takes numbers only.
        check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong) })?;
        pin(&cpus)
    };
    // SAFETY: between fork and exec only system calls are made; nothing is allocated and no lock is taken.
    unsafe { command.pre_exec(prepare) };
}

/// Asks one process to end.
pub fn terminate(pid: u32) -> io::Result<()> {
    // SAFETY: takes numbers only; the pid is that of a child not yet reaped.
    check(unsafe { libc::kill(pid as libc::pid_t, libc::SIGTERM) }).map(drop)
}

/// True when `path` lies in memory: what is written there never meets a disk.
pub fn is_in_memory(path: &Path) -> io::Result<bool> {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: zeros are a valid statfs to write over.
    let mut facts: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: `path` ends with a zero byte and `facts` is a valid place to write to.
    check(unsafe { libc::statfs(path.as_ptr(), &mut facts) })?;
    const RAMFS_MAGIC: i64 = 0x8584_58f6;
    Ok([libc::TMPFS_MAGIC, RAMFS_MAGIC].contains(&facts.f_type))
}

/// Raises the number of open files to what the system allows.
pub fn raise_file_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` lives through both calls.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn on_interrupt(_signal: libc::c_int) {
    if INTERRUPTED.swap(true, Ordering::Relaxed) {
        // SAFETY: _exit may be called from a signal handler.
        unsafe { libc::_exit(130) };
    }
}

/// From now on an interrupt only sets a flag, so that servers are stopped and directories removed; a second one
/// ends the process.
pub fn catch_interrupts() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let action = on_interrupt as extern "C" fn(libc::c_int);
        // SAFETY: the function only touches an atomic and calls _exit.
        unsafe { libc::signal(signal, action as libc::sighandler_t) };
    }
}

pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Sleeps, but not on after an interrupt.
pub fn sleep(duration: Duration) {
    let end = now_ns() + duration.as_nanos() as u64;
    while !interrupted() {
        let left = end.saturating_sub(now_ns());
        if left == 0 {
            return;
        }
        std::thread::sleep(Duration::from_nanos(left.min(50_000_000)));
    }
}
