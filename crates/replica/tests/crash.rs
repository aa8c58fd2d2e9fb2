//! Random workloads with power losses: what was acknowledged is there, and what is there is a prefix of what was
//! proposed, equal in every tree to what a member that never crashed has after the same prefix.

mod rig;

use std::collections::VecDeque;

use base::Random;
use disk::SimFiles;
use disk::sim::KeepSet;
use mainstay_replica as replica;
use proto::etcdserverpb as pb;
use replica::{Event, Note, Request, Response};
use rig::{Halted, Rig, Setup};

/// A member that never crashes, and applies one request after the other.
struct Shadow {
    rig: Rig,
    /// Accepted by the member under test, in order, and not yet applied here; with the call, if somebody waits.
    behind: VecDeque<(Option<u32>, Request)>,
}

impl Shadow {
    fn new() -> Shadow {
        // Long intervals: its leases never expire by themselves.
        Shadow { rig: Rig::serving(SimFiles::new(), Setup::default(), 7), behind: VecDeque::new() }
    }

    fn apply_one(&mut self) {
        let (_, request) = self.behind.pop_front().expect("something is behind");
        let request = match request {
            // Somebody else is waiting for the physical end.
            Request::Compaction(compaction) => {
                Request::Compaction(pb::CompactionRequest { physical: false, ..compaction })
            }
            request => request,
        };
        let _ = self.rig.ask(request);
    }

    /// Everything up to the call, which was answered.
    fn apply_through(&mut self, call: u32) {
        let Some(position) = self.behind.iter().position(|(of, _)| *of == Some(call)) else { return };
        for _ in 0..=position {
            self.apply_one();
        }
    }
}

fn key(random: &mut Random) -> String {
    format!("key-{:02}", random.below(30))
}

fn request(random: &mut Random, revision: i64, member: u64) -> Request {
    let lease = 1 + random.below(6) as i64;
    match random.below(24) {
        0..8 => {
            // Some values have pages of their own.
            let len = [0, 10, 300, 5000][random.below(4) as usize];
            let mut value = vec![0; len];
            random.fill(&mut value);
            rig::put(&key(random), &value)
        }
        8..11 => rig::put_leased(&key(random), lease),
        11..14 => rig::txn(&key(random), random.below(3) as i64, b"from a transaction"),
        14..16 => rig::delete(&key(random), ""),
        16 => rig::delete(&key(random), "key-99"),
        17..19 => rig::grant(lease, 2 + random.below(5) as i64),
        19 => rig::revoke(lease),
        20..23 => {
            let back = random.below(12) as i64;
            rig::compact(revision - back, random.one_in(3))
        }
        _ => rig::alarm(1 + random.below(2) as i32, member, 1 + random.below(2) as i32),
    }
}

struct Run {
    rig: Rig,
    shadow: Shadow,
    /// Calls whose outcome was looked at.
    seen: usize,
    revision: i64,
    seed: u64,
}

impl Run {
    fn new(seed: u64) -> Run {
        let rig = Rig::serving(SimFiles::new(), Setup::default(), seed);
        let mut run = Run { rig, shadow: Shadow::new(), seen: 0, revision: 1, seed };
        run.rig.setup.late = true;
        run
    }

    fn notice(&mut self) {
        for note in self.rig.notes.drain(..) {
            if let Note::LeaseExpired { id } = note {
                self.shadow.behind.push_back((None, rig::revoke(id)));
            }
        }
        // Law 1: whatever is answered can be read, so it counts.
        for call in self.rig.answered.split_off(self.seen) {
            self.shadow.apply_through(call);
        }
        self.seen = self.rig.answered.len();
        let revision = self.rig.revision();
        assert!(revision >= self.revision, "the revision never goes back");
        self.revision = revision;
    }

    fn act(&mut self) -> Result<(), Halted> {
        if self.rig.random.one_in(4) {
            let by = 10 + self.rig.random.below(400);
            self.rig.tick(by);
            self.notice();
        }
        match self.rig.random.below(12) {
            0 => {
                self.rig.call(|token| Event::Defragment { token });
            }
            1 => {
                let id = 1 + self.rig.random.below(6) as i64;
                self.rig.call(|token| Event::LeaseRenew { token, id });
            }
            2 => {
                self.rig.call(|token| Event::Barrier { token });
            }
            _ if self.rig.replica.has_credit() => {
                let member = self.rig.replica.published().member_id;
                let revision = self.rig.revision();
                let request = request(&mut self.rig.random, revision, member);
                let call = self.rig.propose(request.clone());
                // A refusal at once was never proposed.
                if !self.rig.is_answered(call) {
                    self.shadow.behind.push_back((Some(call), request));
                }
            }
            _ => {}
        }
        self.rig.step()?;
        self.notice();
        Ok(())
    }

    /// The power goes, and the member starts again; also when it goes during the start.
    fn crash(&mut self) {
        let which = self.rig.random.below(4);
        let mut files = self.rig.crash(&mut |count, random| match which {
            0 => KeepSet::none(count),
            1 => KeepSet::all(count),
            _ => KeepSet::random(count, random),
        });
        let (now, mut random) = (self.rig.now, self.rig.random.clone());
        let mut boot = random.next_u64();
        let rig = loop {
            if random.one_in(2) {
                let at = random.below(12);
                files.halt_at(at);
            }
            match Rig::open(files.clone(), Setup::late(), boot) {
                Ok(mut rig) => {
                    rig.now = now;
                    match rig.try_settle() {
                        Ok(()) => break rig,
                        Err(Halted(_)) => {
                            files = rig.crash(&mut |count, random| KeepSet::random(count, random));
                        }
                    }
                }
                Err(error) => {
                    assert!(files.halted(), "seed {}: {error}", self.seed);
                    files = files.crash(&mut |count| KeepSet::random(count, &mut random));
                }
            }
            boot = random.next_u64();
        };
        // A fault that did not come stays out of the way.
        rig.files.halt_at(u64::MAX);
        self.rig = rig;
        self.rig.random = random;
        self.seen = 0;
        // It settled, so compactions have ended: it is comparable.
        self.match_prefix();
        self.notice();
    }

    /// Finds the prefix of what was proposed that the member has, at least what was acknowledged.
    fn match_prefix(&mut self) {
        let found = self.rig.fingerprint();
        let mut tried = vec![self.shadow.rig.fingerprint()];
        while tried.last() != Some(&found) {
            assert!(
                !self.shadow.behind.is_empty(),
                "seed {}: the member has {found:?}, and no prefix of what was proposed gives that: {tried:?}",
                self.seed
            );
            self.shadow.apply_one();
            tried.push(self.shadow.rig.fingerprint());
        }
        // The rest was lost, and nobody was told otherwise.
        self.shadow.behind.clear();
    }

    fn finish(mut self) {
        self.rig.setup.late = false;
        self.rig.settle();
        self.notice();
        while !self.shadow.behind.is_empty() {
            self.shadow.apply_one();
        }
        assert_eq!(self.rig.fingerprint(), self.shadow.rig.fingerprint(), "seed {}", self.seed);
    }
}

/// Crashes between two operations of the workload.
#[test]
fn nothing_acknowledged_is_lost() {
    let mut crashes = 0;
    for seed in 0..200 {
        let mut run = Run::new(seed);
        for _ in 0..150 {
            run.act().expect("no fault is injected");
            if run.rig.random.one_in(60) {
                run.crash();
                crashes += 1;
            }
        }
        run.finish();
    }
    assert!(crashes > 200, "{crashes}");
}

/// Crashes in the midst of an operation of the disk: of a log write, a segment, a checkpoint.
#[test]
fn a_power_loss_at_any_operation_of_the_disk_loses_nothing() {
    let mut halts = 0;
    for seed in 1000..1200 {
        let mut run = Run::new(seed);
        for _ in 0..4 {
            let at = run.rig.files.operations() + run.rig.random.below(120);
            run.rig.files.halt_at(at);
            for _ in 0..120 {
                if run.act().is_err() {
                    halts += 1;
                    run.crash();
                    break;
                }
            }
            run.rig.files.halt_at(u64::MAX);
        }
        run.finish();
    }
    assert!(halts > 400, "{halts}");
}

/// Checkpoints and recycled segments under steady load: the log stays bounded, and every start reads it.
#[test]
fn the_log_is_recycled_behind_checkpoints() {
    let mut rig = Rig::serving(SimFiles::new(), Setup::default(), 3);
    let mut highest = 0;
    for round in 0..400u32 {
        rig.ask(rig::put(&format!("key-{}", round % 50), &[round as u8; 2000])).unwrap();
        highest = highest.max(disk::Files::list(&rig.files, "log").unwrap().len());
    }
    let checkpoints = rig.notes.iter().filter(|note| matches!(note, Note::CheckpointFinished { .. })).count();
    assert!(checkpoints >= 5, "{checkpoints}");
    // 400 x 4 KiB are many segments of 96 KiB; what the policy lets stand plus ready and spare ones is not.
    assert!(highest <= 12, "{highest} segments");
    let (hash, revision) = (rig.hash_kv(), rig.revision());
    let image = rig.crash(&mut |count, _| KeepSet::none(count));
    let (replica, report) = rig::open(&image, &Setup::default(), 4).unwrap_or_else(|error| panic!("{error}"));
    assert!(report.replayed_entries < 150, "{} entries were replayed", report.replayed_entries);
    let mut again = Rig::over(image, replica, Setup::default(), 4);
    again.settle();
    assert_eq!((again.hash_kv(), again.revision()), (hash, revision));
}

/// A log of entries that change nothing is bounded too.
#[test]
fn entries_without_effect_are_checkpointed_away() {
    let mut rig = Rig::serving(SimFiles::new(), Setup::default(), 3);
    for round in 0..400 {
        let no_op = rig::txn("absent", 5 + round, b"never");
        assert!(matches!(rig.ask(no_op), Ok(Response::Txn(answer)) if !answer.succeeded));
    }
    assert_eq!(rig.revision(), 1);
    let segments = disk::Files::list(&rig.files, "log").unwrap().len();
    assert!(segments <= 12, "{segments} segments");
}
