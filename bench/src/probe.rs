//! What a server process costs, as the kernel counts it: CPU time, resident memory, bytes written.
//!
//! For the whole process: threads that ended are in the sums. From /proc/PID, but CPU time from the process's clock,
//! which is the sum of utime and stime without rounding to ticks (and from /proc/PID/stat where there is none). Reads
//! only.

use std::fs;
use std::io;
use std::path::Path;

use crate::sys;

/// Counters and gauges of one process at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// User and system time since its start, nanoseconds.
    pub cpu_ns: u64,
    /// VmRSS, of which private memory and mapped files, bytes.
    pub resident: u64,
    pub resident_anonymous: u64,
    pub resident_file: u64,
    /// Bytes that it caused to be written to storage since its start.
    pub written: u64,
}

impl Usage {
    pub fn of(pid: u32) -> io::Result<Usage> {
        let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}"));
        let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/{what}"));
        let cpu_ns = match sys::process_cpu_ns(pid) {
            Ok(cpu_ns) => cpu_ns,
            Err(_) => {
                let ticks = cpu_ticks(&read("stat")?).ok_or_else(|| invalid("stat"))?;
                ticks * (1_000_000_000 / sys::ticks_per_second())
            }
        };
        let status = read("status")?;
        let kib = |name| field(&status, name).map(|kib| kib * 1024);
        Ok(Usage {
            cpu_ns,
            resident: kib("VmRSS:").ok_or_else(|| invalid("status"))?,
            resident_anonymous: kib("RssAnon:").unwrap_or(0),
            resident_file: kib("RssFile:").unwrap_or(0),
            // Needs the process's owner; without it the column stays empty.
            written: read("io").ok().and_then(|io| field(&io, "write_bytes:")).unwrap_or(0),
        })
    }
}

/// utime + stime: the 14th and 15th fields, counted after the name, which may contain anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// CPU time of the whole machine that was not idle, nanoseconds, with what its host took away.
pub fn machine_busy_ns() -> Option<u64> {
    busy_ticks(&fs::read_to_string("/proc/stat").ok()?)
        .map(|ticks| ticks * (1_000_000_000 / sys::ticks_per_second()))
}

/// user nice system idle iowait irq softirq steal: all but the two idle ones.
fn busy_ticks(stat: &str) -> Option<u64> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_ascii_whitespace();
    let ticks = fields.take(8).map(str::parse).collect::<Result<Vec<u64>, _>>().ok()?;
    Some(ticks.iter().enumerate().filter(|(at, _)| !matches!(at, 3 | 4)).map(|(_, ticks)| ticks).sum())
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// Bytes that a directory's files occupy on disk.
pub fn disk_bytes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(facts) if facts.is_dir() => disk_bytes(&entry.path()),
            Ok(facts) => facts.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_also_behind_hostile_names() {
        let stat = "7 (a) 1 (b) S 1 7 7 0 -1 4194560 100 0 0 0 123 45 6 7 20 0 9 0 1 2 3";
        assert_eq!(cpu_ticks(stat), Some(168));
        assert_eq!(cpu_ticks("7 (x) S 1"), None);
        let status = "Name:\tVmRSS:\nVmRSS:\t    2048 kB\nRssAnon:\t 4 kB\n";
        assert_eq!((field(status, "VmRSS:"), field(status, "RssAnon:")), (Some(2048), Some(4)));
        assert_eq!(field(status, "RssFile:"), None);
        assert_eq!(busy_ticks("cpu  1 2 4 1000 2000 8 16 32 64 128\ncpu0 1"), Some(63));
        assert_eq!(busy_ticks("intr 1"), None);
    }

    #[test]
    fn a_process_sees_its_own_cost_grow() {
        let before = Usage::of(std::process::id()).unwrap();
        assert!(before.resident > 0);
        let begun = sys::thread_cpu_ns();
        while sys::thread_cpu_ns() - begun < 60_000_000 {
            std::hint::spin_loop();
        }
        let after = Usage::of(std::process::id()).unwrap();
        assert!(after.cpu_ns >= before.cpu_ns + 60_000_000, "the process includes this thread");
        let stat = fs::read_to_string("/proc/self/stat").unwrap();
        let by_ticks = cpu_ticks(&stat).unwrap() * (1_000_000_000 / sys::ticks_per_second());
        assert!(by_ticks + 20_000_000 >= after.cpu_ns, "both count the same: {by_ticks}, {}", after.cpu_ns);
        assert!(Usage::of(u32::MAX).is_err());
    }
}
