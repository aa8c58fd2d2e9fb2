//! What the kernel says of this process: /proc/self. Reads files: the edge's thread only, at a scrape.

use std::fs;

/// Readings of one moment. What cannot be read is `None` and not shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process {
    pub cpu_seconds: Option<f64>,
    pub resident_bytes: Option<f64>,
    pub virtual_bytes: Option<f64>,
    pub virtual_max_bytes: Option<f64>,
    /// Unix time.
    pub start_seconds: Option<f64>,
    pub open_fds: Option<f64>,
    pub max_fds: Option<f64>,
    pub received_bytes: Option<f64>,
    pub sent_bytes: Option<f64>,
}

/// Reads them.
pub fn read() -> Process {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let system = fs::read_to_string("/proc/stat").unwrap_or_default();
    let netstat = fs::read_to_string("/proc/self/net/netstat").unwrap_or_default();
    // SAFETY: sysconf reads a constant of the system.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as f64;
    // SAFETY: as above.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) }.max(1) as f64;
    let boot = system.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<f64>().ok());
    let field = |n| stat_field(&stat, n);
    let (received_bytes, sent_bytes) = octets(&netstat);
    Process {
        cpu_seconds: field(14).zip(field(15)).map(|(user, system)| (user + system) / ticks),
        resident_bytes: field(24).map(|pages| pages * page),
        virtual_bytes: field(23),
        virtual_max_bytes: limit(libc::RLIMIT_AS),
        start_seconds: field(22).zip(boot).map(|(start, boot)| boot + start / ticks),
        // The descriptor that reads the directory is among them.
        open_fds: fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as f64 - 1.0),
        max_fds: limit(libc::RLIMIT_NOFILE),
        received_bytes,
        sent_bytes,
    }
}

/// The limit of open files, for /debug/vars.
pub fn max_fds() -> u64 {
    limit(libc::RLIMIT_NOFILE).unwrap_or(0.0) as u64
}

fn limit(which: libc::__rlimit_resource_t) -> Option<f64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live rlimit, which the call fills and does not keep.
    let done = unsafe { libc::getrlimit(which, &mut limit) } == 0;
    done.then_some(limit.rlim_cur as f64)
}

/// Field `n` of proc(5)'s stat, from 1. The second is in parentheses and may hold anything.
fn stat_field(stat: &str, n: usize) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(n - 3)?.parse().ok()
}

/// InOctets and OutOctets of the line pair IpExt.
fn octets(netstat: &str) -> (Option<f64>, Option<f64>) {
    let mut lines = netstat.lines().filter(|line| line.starts_with("IpExt:"));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { return (None, None) };
    let find = |wanted: &str| {
        let at = names.split_whitespace().position(|name| name == wanted)?;
        values.split_whitespace().nth(at)?.parse().ok()
    };
    (find("InOctets"), find("OutOctets"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let stat = "12 (a) b) c) S 1 2 3 4 5 6 7 8 9 10 140 15 16 17 18 19 20 21 220 230 240 25";
        assert_eq!(stat_field(stat, 14), Some(140.0));
        assert_eq!(stat_field(stat, 22), Some(220.0));
        assert_eq!(stat_field("", 3), None);
        let netstat = "TcpExt: A\nTcpExt: 1\nIpExt: X InOctets OutOctets\nIpExt: 1 22 33\n";
        assert_eq!(octets(netstat), (Some(22.0), Some(33.0)));
        assert_eq!(octets(""), (None, None));
    }

    #[test]
    fn this_process() {
        let process = read();
        assert!(process.resident_bytes.unwrap() > 100_000.0);
        assert!(process.virtual_bytes.unwrap() >= process.resident_bytes.unwrap());
        assert!(process.open_fds.unwrap() >= 3.0 && process.max_fds.unwrap() > 3.0);
        assert!(process.start_seconds.unwrap() > 1e9);
        assert!(process.cpu_seconds.unwrap() >= 0.0);
    }
}
