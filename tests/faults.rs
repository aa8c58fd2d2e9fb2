//! Faults of the real machine, under the checkers of the simulated world.
//!
//! Clients put, delete, read, watch and hold leases all the time, and record what they saw, while the server is killed,
//! suspended, runs out of disk, or has a disk that is slow. Afterwards the history is judged as a whole: linearizable,
//! nothing acknowledged lost, every rule of watches and leases kept (`sim::check`).
//!
//! FAULTS (6) and FAULT_SEED (1) decide how many, and which.

mod common;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base::Random;
use common::client::Client;
use common::recorder::{Clients, Mix, Recorder};
use common::server::{Recipe, Server};
use common::small_disk::SmallDisk;
use proto::etcdserverpb::{AlarmMember, AlarmRequest};
use sim::check::{self, Summary, lease::Clocks};
use sim::history::History;

const ASKERS: u32 = 5;

/// Everything that can be said about the history, and that there was something to say.
fn judge(history: &History) -> Summary {
    let summary = check::history(history, &Clocks::default()).unwrap_or_else(|finding| {
        panic!("{finding}\n{}", history.trace_of(finding.step.saturating_sub(40), finding.step + 5))
    });
    eprintln!("{summary}");
    assert!(summary.linear.writes > 100 && summary.linear.reads > 50, "too little happened: {summary}");
    assert!(summary.watch.events > 100 && summary.watch.bookmarks > 0, "too little was watched: {summary}");
    summary
}

async fn pause(random: &mut Random, least_ms: u64, most_ms: u64) {
    tokio::time::sleep(Duration::from_millis(least_ms + random.below(most_ms - least_ms))).await;
}

/// Starts again what ended or was killed.
fn restart(server: &mut Server, recorder: &Recorder) {
    recorder.process_started();
    server.restart().unwrap_or_else(|why| panic!("{why}"));
}

#[test]
fn killed_and_suspended() {
    let Some(binary) = common::ours() else { return };
    let (faults, seed) = (common::setting("FAULTS", 6), common::setting("FAULT_SEED", 1));
    eprintln!("{faults} faults, seed {seed}");
    let mut random = Random::new(seed);
    let recorder = Recorder::new(Mix { value_bytes: 2000, leases: true, compactions: true });
    recorder.process_started();
    let mut server = Server::start(Recipe::new(&binary));
    common::run(async move {
        let clients = Clients::start(&recorder, ASKERS, seed, &server.endpoint);
        for no in 0..faults {
            pause(&mut random, 100, 900).await;
            // The first two are one of each.
            let suspended = if no < 2 { no == 1 } else { random.one_in(2) };
            eprintln!("{}", if suspended { "suspended" } else { "killed" });
            if suspended {
                server.suspend();
                pause(&mut random, 50, 1500).await;
                server.resume();
                continue;
            }
            server.kill();
            recorder.process_stopped();
            while random.one_in(3) {
                recorder.process_started();
                let after = Duration::from_millis(random.below(150));
                server.restart_and_kill(after).unwrap_or_else(|why| panic!("{why}"));
                recorder.process_stopped();
            }
            restart(&mut server, &recorder);
        }
        pause(&mut random, 200, 400).await;
        let history = clients.settle(&server.endpoint).await;
        let summary = judge(&history);
        assert!(summary.lease.leases > 5 && summary.linear.expired > 0, "too few leases: {summary}");
        assert!(server.terminate(Duration::from_secs(30)), "SIGTERM was ignored");
    });
}

#[test]
fn the_disk_is_full_for_a_while() {
    let Some(binary) = common::ours() else { return };
    let Some(disk) = SmallDisk::new(1536 << 20) else { return };
    // A server that is not ours may, as etcd does.
    let may_end = std::env::var_os("MAINSTAY_BIN").is_some();
    let seed = common::setting("FAULT_SEED", 1);
    let recorder = Recorder::new(Mix { value_bytes: 1_000_000, leases: false, compactions: false });
    recorder.process_started();
    // So that the quota is not what stops it.
    let recipe = Recipe::new(&binary).flag("--quota-backend-bytes=8589934592");
    let started = Server::start_in(recipe, &disk.mounted.join("data"));
    let mut server = started.unwrap_or_else(|why| panic!("{why}"));
    common::run(async move {
        let mut random = Random::new(seed);
        let clients = Clients::start(&recorder, ASKERS, seed, &server.endpoint);
        recorder.strained();
        for _ in 0..2 {
            pause(&mut random, 300, 600).await;
            let ballast = disk.fill(8 << 20);
            let mut patience = 300;
            while !server.has_ended() && alarms(&server.endpoint).await.is_empty() {
                patience -= 1;
                assert!(patience > 0, "a disk of 1.5 GiB never was full");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            pause(&mut random, 300, 600).await;
            std::fs::remove_file(&ballast).expect("room again");
            assert!(may_end || !server.has_ended(), "a full disk ends no process");
            if server.has_ended() {
                server.kill();
                recorder.process_stopped();
                restart(&mut server, &recorder);
            }
            disarm(&server.endpoint).await;
        }
        // What the alarm refused at its last moment is not to be the end of the run.
        pause(&mut random, 600, 900).await;
        judge(&clients.settle(&server.endpoint).await);
        drop(server);
        drop(disk);
    });
}

/// The alarms that are up; none where nobody answers.
async fn alarms(endpoint: &str) -> Vec<AlarmMember> {
    let Ok(mut client) = Client::try_connect(endpoint).await else { return Vec::new() };
    let alarms = AlarmRequest { action: 0, member_id: 0, alarm: 0 };
    client.maintenance.alarm(alarms).await.map_or_else(|_| Vec::new(), |answer| answer.into_inner().alarms)
}

/// Takes all alarms back, as an operator does.
async fn disarm(endpoint: &str) {
    let raised = alarms(endpoint).await;
    eprintln!("alarms: {raised:?}");
    let mut client = Client::connect(endpoint).await;
    for alarm in raised {
        let disarm = AlarmRequest { action: 2, member_id: alarm.member_id, alarm: alarm.alarm };
        client.maintenance.alarm(disarm).await.expect("a disarm");
    }
}

/// A group of processes whose writes to one device are held down (the `blkio` controller).
struct Brake {
    group: PathBuf,
    device: String,
}

impl Brake {
    /// `None`, and said so, where that is not possible.
    fn new(mounted: &Path, process: u32) -> Option<Brake> {
        let group = PathBuf::from(format!("/sys/fs/cgroup/blkio/faults-{process}"));
        let device = std::fs::metadata(mounted).expect("it is mounted").dev();
        // Major and minor number of a device, as Linux packs them.
        let device = format!("{}:{}", device >> 8 & 0xfff, device & 0xff);
        if std::fs::create_dir(&group).is_err() {
            common::skip("no blkio controller to slow a disk down with");
            return None;
        }
        let brake = Brake { group, device };
        let joined = std::fs::write(brake.group.join("cgroup.procs"), process.to_string());
        if joined.is_err() || !brake.set(0) {
            common::skip("the blkio controller does not throttle here");
            return None;
        }
        Some(brake)
    }

    /// Writes per second; 0 is no limit.
    fn set(&self, writes_per_second: u64) -> bool {
        let limit = format!("{} {writes_per_second}", self.device);
        std::fs::write(self.group.join("blkio.throttle.write_iops_device"), limit).is_ok()
    }

    /// Writes that were made so far.
    fn writes(&self) -> u64 {
        let stat = std::fs::read_to_string(self.group.join("blkio.throttle.io_serviced")).expect("it counts");
        let name = format!("{} Write ", self.device);
        let ours = stat.lines().find_map(|line| line.strip_prefix(&name));
        ours.map_or(0, |count| count.parse().expect("a count"))
    }

    /// Writes a second, while something goes on.
    async fn rate(&self, meanwhile: impl Future<Output = ()>) -> f64 {
        let (before, since) = (self.writes(), Instant::now());
        meanwhile.await;
        (self.writes() - before) as f64 / since.elapsed().as_secs_f64()
    }
}

impl Drop for Brake {
    fn drop(&mut self) {
        // It can go when no process is in it any more.
        let _ = std::fs::remove_dir(&self.group);
    }
}

#[test]
fn the_disk_is_slow_for_a_while() {
    let Some(binary) = common::ours() else { return };
    let Some(disk) = SmallDisk::new(1024 << 20) else { return };
    let seed = common::setting("FAULT_SEED", 1);
    let recorder = Recorder::new(Mix { value_bytes: 4000, leases: true, compactions: true });
    recorder.process_started();
    let started = Server::start_in(Recipe::new(&binary), &disk.mounted.join("data"));
    let mut server = started.unwrap_or_else(|why| panic!("{why}"));
    let Some(brake) = Brake::new(&disk.mounted, server.id()) else { return };
    common::run(async move {
        let mut random = Random::new(seed);
        let clients = Clients::start(&recorder, ASKERS, seed, &server.endpoint);
        recorder.strained();
        for writes_per_second in [20, 3] {
            let freely = brake.rate(pause(&mut random, 300, 600)).await;
            assert!(brake.set(writes_per_second), "the limit is taken");
            let held = brake.rate(pause(&mut random, 2000, 3000)).await;
            assert!(brake.set(0), "the limit is taken back");
            eprintln!("{freely:.0} writes a second; with a limit of {writes_per_second}, {held:.0}");
            // Otherwise this proves nothing. Some are on their way when the limit comes.
            assert!(held < freely / 2.0 && held < 30.0 + writes_per_second as f64, "the disk was not slow");
        }
        pause(&mut random, 300, 600).await;
        judge(&clients.settle(&server.endpoint).await);
        server.kill();
        drop(brake);
        drop(server);
        drop(disk);
    });
}
