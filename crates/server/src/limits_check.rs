//! What this machine lets us have: cores, locked memory, io_uring. Read once at start.
//!
//! Invariant: a refusal says what was refused, with the errno, the likely cause and the fix.

use std::fs;
use std::io;
use std::path::Path;

use base::limits::SHARDS_MAX;

/// Bytes of locked memory that one ring needs on kernels that still account it; above it nobody complains.
const MEMLOCK_BYTES: u64 = 8 << 20;

/// A resource limit, bytes; `u64::MAX` is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    pub soft: u64,
    pub hard: u64,
}

/// RLIMIT_MEMLOCK.
pub fn memlock() -> io::Result<Limit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live rlimit, which the call fills and does not keep.
    if unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Limit { soft: limit.rlim_cur, hard: limit.rlim_max })
}

/// Raises the soft limit of locked memory to the hard one when it is small. What is worth a warning comes back.
pub fn raise_memlock() -> Option<String> {
    let limit = memlock().ok()?;
    if limit.soft >= MEMLOCK_BYTES {
        return None;
    }
    let wanted = libc::rlimit { rlim_cur: limit.hard, rlim_max: limit.hard };
    // SAFETY: the pointer is to a live rlimit, which the call only reads.
    let raised = unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &wanted) } == 0;
    let now = if raised { limit.hard } else { limit.soft };
    (now < MEMLOCK_BYTES).then(|| {
        format!(
            "the limit of locked memory is {now} bytes; registered buffers may be refused: set LimitMEMLOCK= or \
             ulimit -l to {} KiB or more",
            MEMLOCK_BYTES >> 10
        )
    })
}

/// io_uring cannot be used; `Display` is one line with cause and fix.
#[derive(Debug)]
pub struct RingRefused {
    error: io::Error,
    /// /proc/sys/kernel/io_uring_disabled, when there is one.
    disabled: Option<u32>,
    /// A seccomp filter is in place.
    filtered: bool,
}

impl RingRefused {
    pub fn errno(&self) -> Option<i32> {
        self.error.raw_os_error()
    }
}

impl std::error::Error for RingRefused {}

impl std::fmt::Display for RingRefused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sysctl = "kernel.io_uring_disabled";
        let seccomp = "the container's seccomp profile refuses it (the default profiles do): run with a profile \
                       that allows io_uring_setup, io_uring_enter and io_uring_register";
        let (cause, fix) = match (self.errno(), self.disabled) {
            (Some(libc::EPERM), Some(2)) => (format!("{sysctl} is 2"), format!("set {sysctl}=0")),
            (Some(libc::EPERM), Some(1)) if !self.filtered => (
                format!("{sysctl} is 1 and this process is not in {sysctl}'s group"),
                format!("set {sysctl}=0, or kernel.io_uring_group to a group of this process"),
            ),
            (Some(libc::EPERM | libc::EACCES), _) if self.filtered => (seccomp.into(), String::new()),
            (Some(libc::EPERM | libc::EACCES), _) => {
                ("a security module refuses it".into(), "allow io_uring for this process".into())
            }
            (Some(libc::ENOSYS), _) if self.filtered => (seccomp.into(), String::new()),
            (Some(libc::ENOSYS), _) => {
                ("this kernel has none".into(), "use Linux 6.1 or later, built with CONFIG_IO_URING".into())
            }
            (Some(libc::EINVAL), _) => {
                ("this kernel lacks flags that we need".into(), "use Linux 6.1 or later".into())
            }
            (Some(libc::ENOMEM), _) => (
                "the limit of locked memory is too low, or memory is short".into(),
                "raise LimitMEMLOCK= or ulimit -l to 8192 KiB".into(),
            ),
            (Some(libc::EMFILE | libc::ENFILE), _) => {
                ("too many open files".into(), "raise LimitNOFILE= or ulimit -n".into())
            }
            _ => ("unknown cause".into(), "see io_uring_setup(2)".into()),
        };
        write!(f, "io_uring is refused: {}; likely cause: {cause}", self.error)?;
        if fix.is_empty() { Ok(()) } else { write!(f, "; fix: {fix}") }
    }
}

/// Makes a ring with the flags of our loops, and drops it.
pub fn probe_ring() -> Result<(), RingRefused> {
    let built: io::Result<io_uring::IoUring> =
        io_uring::IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(8);
    built.map(drop).map_err(|error| RingRefused {
        error,
        disabled: read_number(Path::new("/proc/sys/kernel/io_uring_disabled")),
        filtered: seccomp_filtered(&fs::read_to_string("/proc/self/status").unwrap_or_default()),
    })
}

fn read_number(path: &Path) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Mode 2 of /proc/self/status's Seccomp line is a filter.
fn seccomp_filtered(status: &str) -> bool {
    status.lines().any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "2"))
}

/// Cores that this process may really use: affinity, cut by the CPU quota of its control groups (whole cores, at least
/// one: a core that is throttled half of the time is worse than none).
pub fn cores() -> usize {
    let cgroup = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    usable(affinity(), quota(Path::new("/sys/fs/cgroup"), &cgroup))
}

fn usable(affinity: usize, quota: Option<f64>) -> usize {
    let by_quota = quota.map_or(affinity, |cores| cores as usize);
    affinity.min(by_quota).max(1)
}

/// The cores of this thread's affinity mask, by number.
pub fn affinity_cores() -> Vec<usize> {
    // SAFETY: cpu_set_t is a plain bit array, for which all zeros are a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: size and pointer are those of a live cpu_set_t; 0 is the calling thread.
    let done = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) };
    if done != 0 {
        // More processors than the mask holds; then the number of them will do.
        return (0..std::thread::available_parallelism().map_or(1, usize::from)).collect();
    }
    // SAFETY: the index is below CPU_SETSIZE, the number of bits of the set.
    (0..libc::CPU_SETSIZE as usize).filter(|core| unsafe { libc::CPU_ISSET(*core, &set) }).collect()
}

fn affinity() -> usize {
    affinity_cores().len().max(1)
}

/// The lowest quota on the way from this process's control group to the root, in cores. `root` is where version 2 is
/// mounted, `cgroup` the text of /proc/self/cgroup.
fn quota(root: &Path, cgroup: &str) -> Option<f64> {
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mut lowest: Option<f64> = None;
    let mut group = root.join(path.trim_start_matches('/'));
    loop {
        if let Ok(text) = fs::read_to_string(group.join("cpu.max"))
            && let Some(cores) = parse_cpu_max(&text)
        {
            lowest = Some(lowest.map_or(cores, |low| low.min(cores)));
        }
        if group == root || !group.pop() {
            return lowest;
        }
    }
}

/// `max 100000` is no limit, `150000 100000` is 1.5 cores.
fn parse_cpu_max(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period) = (quota.parse::<f64>().ok()?, period.parse::<f64>().ok()?);
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

/// Memory of this process that is resident, bytes: private and mapped.
pub fn resident_bytes() -> io::Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    // SAFETY: takes no pointers.
    let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64;
    Ok(pages.unwrap_or(0) * page_bytes)
}

/// Which threads there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub shards: usize,
    /// The only shard and the log core share a thread and a ring.
    pub shared: bool,
}

/// How `cores` are used: on one or two, one shard shares its thread with the log core (the second core is for the edge,
/// the helpers and the kernel); on more, one core is the log core's and each other has a shard. `wanted` is --shards.
pub fn layout(cores: usize, wanted: Option<usize>) -> Layout {
    let shards = match wanted {
        Some(shards) => shards.clamp(1, SHARDS_MAX),
        None if cores <= 2 => 1,
        None => (cores - 1).min(SHARDS_MAX),
    };
    Layout { shards, shared: shards == 1 && cores <= 2 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts() {
        for (cores, wanted, shards, shared) in [
            (1, None, 1, true),
            (2, None, 1, true),
            (3, None, 2, false),
            (8, None, 7, false),
            (1000, None, SHARDS_MAX, false),
            (2, Some(1), 1, true),
            (2, Some(2), 2, false),
            (8, Some(1), 1, false),
            (8, Some(0), 1, false),
            (8, Some(10_000), SHARDS_MAX, false),
        ] {
            assert_eq!(layout(cores, wanted), Layout { shards, shared }, "{cores} {wanted:?}");
        }
    }

    #[test]
    fn quotas_of_nested_groups() {
        assert_eq!(parse_cpu_max("max 100000\n"), None);
        assert_eq!(parse_cpu_max("150000 100000\n"), Some(1.5));
        assert_eq!(parse_cpu_max("garbage"), None);
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        fs::write(root.path().join("cpu.max"), "max 100000\n").unwrap();
        fs::write(root.path().join("a/cpu.max"), "250000 100000\n").unwrap();
        fs::write(inner.join("cpu.max"), "400000 100000\n").unwrap();
        assert_eq!(quota(root.path(), "1:cpu:/x\n0::/a/b\n"), Some(2.5));
        assert_eq!(quota(root.path(), "0::/\n"), None);
        assert_eq!(quota(root.path(), "1:cpu:/x\n"), None);
        for (affinity, quota, cores) in
            [(8, None, 8), (8, Some(2.5), 2), (8, Some(0.5), 1), (1, Some(64.0), 1), (4, Some(4.0), 4)]
        {
            assert_eq!(usable(affinity, quota), cores);
        }
        assert!(cores() >= 1 && cores() <= affinity_cores().len());
    }

    #[test]
    fn refusals_name_cause_and_fix() {
        let text = |errno, disabled, filtered| {
            let error = io::Error::from_raw_os_error(errno);
            RingRefused { error, disabled, filtered }.to_string()
        };
        for (errno, disabled, filtered, word) in [
            (libc::EPERM, Some(2), false, "set kernel.io_uring_disabled=0"),
            (libc::EPERM, Some(1), false, "kernel.io_uring_group"),
            (libc::EPERM, Some(0), true, "seccomp profile"),
            (libc::EPERM, None, false, "security module"),
            (libc::ENOSYS, None, false, "Linux 6.1 or later"),
            (libc::ENOSYS, None, true, "seccomp profile"),
            (libc::EINVAL, Some(0), false, "Linux 6.1 or later"),
            (libc::ENOMEM, Some(0), false, "MEMLOCK"),
            (libc::EMFILE, Some(0), false, "NOFILE"),
            (libc::EIO, Some(0), false, "io_uring_setup(2)"),
        ] {
            let text = text(errno, disabled, filtered);
            assert!(text.contains(word) && text.contains(&format!("os error {errno}")), "{text}");
        }
        assert!(seccomp_filtered("Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n"));
        assert!(!seccomp_filtered("Seccomp:\t0\n"));
        assert!(memlock().is_ok());
    }
}
