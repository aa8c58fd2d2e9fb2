//! The comparison: both servers in turn, several rounds, one report.
//!
//! Workloads are grouped into sessions, each on freshly started servers with fresh data: reads, leases and watches
//! share one, workloads that write much have one each, so that the faster server isn't punished with more history.
//! Which server goes first alternates. A workload that fails on one server is reported and the rest goes on.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::keys::Keys;
use crate::load::Workload;
use crate::probe;
use crate::progress::Progress;
use crate::report::{About, Report, Sample};
use crate::run::{self, Settings, Target};
use crate::server::{Server, Setting, version_of};
use crate::sys;

/// After filling and between workloads, so that what one left behind isn't charged to the next.
const SETTLE: Duration = Duration::from_millis(700);
/// After the last put and before memory is read: checkpoints and garbage collection come to rest.
const STATE_SETTLE: Duration = Duration::from_secs(5);
/// The paced puts run at this share of etcd's peak.
const PACED_SHARE: f64 = 0.5;

/// What to compare.
pub struct Plan {
    pub ours: PathBuf,
    pub etcd: PathBuf,
    pub workloads: Vec<Workload>,
    pub rounds: usize,
    /// Divides the number of keys: 1, or more in a quick comparison.
    pub keys_divisor: u64,
    /// What the command line fixed for all workloads.
    pub overrides: Overrides,
    pub setting: Setting,
}

/// Settings that replace a workload's own.
#[derive(Clone, Debug)]
pub struct Overrides {
    pub connections: Option<usize>,
    pub streams: Option<usize>,
    pub rate: Option<f64>,
    pub keys: Option<u64>,
    pub value_bytes: Option<usize>,
    pub key_bytes: usize,
    pub warmup: Duration,
    pub window: Duration,
    pub seed: u64,
    pub threads: usize,
    pub client_cpus: Vec<usize>,
}

impl Overrides {
    pub fn settings(&self, workload: Workload, keys_divisor: u64) -> Settings {
        let spec = workload.spec();
        Settings {
            connections: self.connections.unwrap_or(spec.connections),
            streams: self.streams.unwrap_or(spec.streams),
            rate: self.rate.or(spec.rate),
            warmup: self.warmup,
            window: self.window,
            keys: self.keys.unwrap_or(spec.keys / keys_divisor),
            key_bytes: self.key_bytes,
            value_bytes: self.value_bytes.unwrap_or(spec.value_bytes),
            seed: self.seed,
            threads: self.threads,
            client_cpus: self.client_cpus.clone(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Etcd,
    Ours,
}

/// Workloads in the order of the sessions that hold them.
fn sessions(workloads: &[Workload]) -> Vec<Vec<Workload>> {
    use Workload::*;
    let groups: [&[Workload]; 5] = [
        &[Range, Serializable, Range500, Count, KeepAlive, WatchFanout, WatchLatency],
        &[Put],
        &[PutPaced],
        &[Txn],
        &[Kubernetes],
    ];
    let chosen = |group: &[Workload]| -> Vec<Workload> {
        group.iter().copied().filter(|workload| workloads.contains(workload)).collect()
    };
    groups.into_iter().map(chosen).filter(|session| !session.is_empty()).collect()
}

struct Comparison<'a> {
    plan: &'a Plan,
    progress: &'a mut Progress,
    report: Report,
    /// etcd's peak of puts, from its first round.
    peak: Option<f64>,
    step: usize,
    steps: usize,
}

/// Runs the plan. An error is one that makes all of it pointless: an interrupt, or a binary that is none.
pub fn compare(plan: &Plan, progress: &mut Progress) -> Result<Report, String> {
    let about = About {
        ours: plan.ours.display().to_string(),
        ours_version: version_of(&plan.ours)?,
        etcd: plan.etcd.display().to_string(),
        etcd_version: version_of(&plan.etcd)?,
        kernel: first_line("/proc/sys/kernel/osrelease"),
        processor: processor(),
        server_cpus: plan.setting.cpus.clone(),
        client_cpus: plan.overrides.client_cpus.clone(),
        client_threads: plan.overrides.threads,
        rounds: plan.rounds,
        seconds: plan.overrides.window.as_secs_f64(),
        warmup_seconds: plan.overrides.warmup.as_secs_f64(),
        key_bytes: plan.overrides.key_bytes,
        seed: plan.overrides.seed,
        data_dir: plan.setting.dir.display().to_string(),
    };
    for &workload in &plan.workloads {
        plan.overrides.settings(workload, plan.keys_divisor).check(workload)?;
    }
    let mut workloads = plan.workloads.clone();
    if workloads.contains(&Workload::PutPaced)
        && !workloads.contains(&Workload::Put)
        && plan.overrides.rate.is_none()
    {
        progress.say("put is measured too: put-paced runs at half of etcd's peak");
        workloads.push(Workload::Put);
    }
    let sessions = sessions(&workloads);
    let state = workloads.contains(&Workload::State);
    let steps = 2 * (plan.rounds * sessions.iter().map(Vec::len).sum::<usize>() + usize::from(state));
    let mut comparison = Comparison {
        plan,
        progress,
        report: Report { about, ..Report::default() },
        peak: None,
        step: 0,
        steps,
    };
    for round in 0..plan.rounds {
        for session in &sessions {
            let order = if round % 2 == 0 { [Who::Etcd, Who::Ours] } else { [Who::Ours, Who::Etcd] };
            for who in order {
                comparison.session(who, round, session)?;
            }
        }
    }
    if state {
        for who in [Who::Etcd, Who::Ours] {
            comparison.state(who)?;
        }
    }
    let mut report = comparison.report;
    report.judge();
    Ok(report)
}

impl<'a> Comparison<'a> {
    fn binary(&self, who: Who) -> &'a Path {
        match who {
            Who::Etcd => &self.plan.etcd,
            Who::Ours => &self.plan.ours,
        }
    }

    /// One server, freshly started, through one session.
    fn session(&mut self, who: Who, round: usize, session: &[Workload]) -> Result<(), String> {
        let first = self.settings(session[0]);
        let needs_keys = session.iter().any(|workload| workload.needs_keys());
        self.begin(who, round, "start");
        let started = Server::start(self.binary(who), &self.plan.setting).and_then(|server| {
            let target = target(&server);
            if needs_keys {
                run::fill(target, &first, self.progress).map_err(|error| server.explain(&error))?;
                sys::sleep(SETTLE);
            }
            Ok(server)
        });
        let server = match started {
            Ok(server) => server,
            Err(error) => {
                for &workload in session {
                    self.record(who, round, workload, Err(error.clone()))?;
                }
                return Ok(());
            }
        };
        for &workload in session {
            let mut settings = self.settings(workload);
            if workload == Workload::PutPaced && self.plan.overrides.rate.is_none() {
                settings.rate = self.peak.map(|peak| peak * PACED_SHARE);
            }
            self.begin(who, round, workload.name());
            let result = if settings.rate.is_none() && workload == Workload::PutPaced {
                Err("etcd's peak of puts is not known".to_owned())
            } else {
                run::run(workload, target(&server), &settings, self.progress)
                    .map(|sample| Sample { rate: settings.rate, ..sample })
                    .map_err(|error| server.explain(&error))
            };
            if let (Ok(sample), Who::Etcd, Workload::Put) = (&result, who, workload) {
                self.peak.get_or_insert(sample.per_second);
            }
            self.record(who, round, workload, result)?;
            sys::sleep(SETTLE);
        }
        Ok(())
    }

    /// Fill, memory, restarts. Once: it is long, and varies little.
    fn state(&mut self, who: Who) -> Result<(), String> {
        let settings = self.settings(Workload::State);
        self.begin(who, 0, Workload::State.name());
        let binary = self.binary(who);
        let result = measure_state(binary, &self.plan.setting, &settings, self.progress);
        self.record(who, 0, Workload::State, result)
    }

    fn settings(&self, workload: Workload) -> Settings {
        self.plan.overrides.settings(workload, self.plan.keys_divisor)
    }

    fn begin(&mut self, who: Who, round: usize, what: &str) {
        let (step, steps, rounds) = (self.step + 1, self.steps, self.plan.rounds);
        let name = name_of(who);
        self.progress.begin(format!("[{step}/{steps}] round {} of {rounds}, {name}, {what}", round + 1));
    }

    fn record(
        &mut self,
        who: Who,
        round: usize,
        workload: Workload,
        result: Result<Sample, String>,
    ) -> Result<(), String> {
        if sys::interrupted() {
            return Err("interrupted".to_owned());
        }
        self.step += 1;
        let (name, server) = (workload.name(), name_of(who));
        let told = match &result {
            Ok(sample) => format!(
                "{:>9.0} op/s, p99 {:>8}, {} us CPU/op{}",
                sample.per_second,
                crate::table::duration(sample.p99_us),
                sample.server_cpu_us.map_or("?".to_owned(), |cpu| format!("{cpu:.2}")),
                if sample.errors > 0 { " WITH ERRORS" } else { "" },
            ),
            Err(error) => format!("failed: {error}"),
        };
        let (step, steps) = (self.step, self.steps);
        self.progress.say(&format!("[{step:>2}/{steps}] round {}  {name:<14} {server}  {told}", round + 1));
        let row = self.report.row(name);
        match who {
            Who::Etcd => row.etcd.add(result),
            Who::Ours => row.ours.add(result),
        }
        Ok(())
    }
}

fn measure_state(
    binary: &Path,
    setting: &Setting,
    settings: &Settings,
    progress: &mut Progress,
) -> Result<Sample, String> {
    let mut server = Server::start(binary, setting)?;
    let begun = server.usage()?;
    let filled = run::run(Workload::State, target(&server), settings, progress)
        .map_err(|error| server.explain(&error))?;
    progress.phase("settle");
    sys::sleep(STATE_SETTLE);
    let usage = server.usage()?;
    let disk_bytes = probe::disk_bytes(&server.data_dir()) as f64;
    let key = Keys { key_bytes: settings.key_bytes, seed: settings.seed }.key(settings.keys / 2);
    progress.phase("restart");
    let orderly = server.restart(false, &key)?;
    sys::sleep(SETTLE);
    progress.phase("restart after a kill");
    let killed = server.restart(true, &key)?;
    Ok(Sample {
        resident_bytes: Some(usage.resident as f64),
        resident_anonymous_bytes: Some(usage.resident_anonymous as f64),
        resident_file_bytes: Some(usage.resident_file as f64),
        // With what was still to be written when the last put was answered.
        written_bytes: Some((usage.written - begun.written) as f64),
        server_cpu_us: Some((usage.cpu_ns - begun.cpu_ns) as f64 / 1000.0 / settings.keys as f64),
        disk_bytes: Some(disk_bytes),
        restart_ms: Some(orderly.as_secs_f64() * 1000.0),
        restart_killed_ms: Some(killed.as_secs_f64() * 1000.0),
        ..filled
    })
}

fn name_of(who: Who) -> &'static str {
    match who {
        Who::Etcd => "etcd",
        Who::Ours => "ours",
    }
}

fn target(server: &Server) -> Target {
    Target { address: server.address(), pid: Some(server.pid()) }
}

fn first_line(path: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").to_owned()
}

fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let model = model.map_or("unknown processor", |(_, name)| name.trim());
    format!("{model}, {} CPUs", sys::cpus().len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_has_a_session_or_is_the_state() {
        let mut all: Vec<Workload> = sessions(&Workload::ALL).concat();
        all.push(Workload::State);
        assert_eq!(all.len(), Workload::ALL.len());
        assert!(Workload::ALL.iter().all(|workload| all.contains(workload)));
        assert_eq!(sessions(&[Workload::Txn, Workload::Count]), [vec![Workload::Count], vec![Workload::Txn]]);
        assert!(sessions(&[Workload::State]).is_empty());
        let put = all.iter().position(|&workload| workload == Workload::Put);
        assert!(
            put < all.iter().position(|&workload| workload == Workload::PutPaced),
            "the peak comes first"
        );
    }

    #[test]
    fn overrides_win_over_the_workloads_defaults() {
        let overrides = Overrides {
            connections: Some(3),
            streams: None,
            rate: None,
            keys: None,
            value_bytes: Some(7),
            key_bytes: 64,
            warmup: Duration::ZERO,
            window: Duration::from_secs(1),
            seed: 1,
            threads: 1,
            client_cpus: vec![],
        };
        let settings = overrides.settings(Workload::Range, 5);
        assert_eq!((settings.connections, settings.streams), (3, 16));
        assert_eq!((settings.keys, settings.value_bytes), (20_000, 7));
        for workload in Workload::ALL {
            overrides.settings(workload, 1).check(workload).unwrap_or_else(|error| {
                assert!(matches!(workload, Workload::WatchFanout | Workload::WatchLatency), "{error}");
            });
        }
    }
}
