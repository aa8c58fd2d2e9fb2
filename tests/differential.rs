//! The same requests to etcd and to Mainstay, in lockstep; answers are compared field by field.
//!
//! Both members have the same name, token and advertised URLs, so that cluster and member ids are equal, and every
//! write waits for the one before, so that revisions are. What may differ all the same stands in one table,
//! `compare::EXEMPTIONS`. A difference is reported with seed, step, request and both answers, then replayed on fresh
//! servers with fewer and fewer steps before it.
//!
//! DIFF_REQUESTS (3000), DIFF_SEEDS (1, the seeds 1..=n; DIFF_SEED alone picks one), DIFF_SHRINK_S (120).

mod common;
#[path = "common/compare.rs"]
mod compare;
#[path = "common/script.rs"]
mod script;
#[path = "common/side.rs"]
mod side;
#[path = "common/steps.rs"]
mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use common::server::Recipe;
use compare::{EXEMPTIONS, Exempt, StreamLog, Told};
use proto::etcdserverpb::PutRequest;
use script::{Recording, Script, Source, World};
use side::{Outcome, Side};
use steps::{Answer, Request, Step};

/// Watchers that nothing tells whether they are done get this long.
const PATIENCE: Duration = Duration::from_secs(10);
/// Characters of a request or answer that a report shows.
const SHOWN: usize = 3000;
/// Bytes of a key or value that a report shows.
const BYTES_SHOWN: usize = 48;
/// Steps of a reproduction that a report shows: the last ones.
const STEPS_SHOWN: usize = 60;

/// Where two servers parted.
struct Difference {
    /// What was executed, the step that differed last.
    steps: Vec<Step>,
    report: String,
}

impl Difference {
    /// The call that differed: shrinking must not wander off to another one.
    fn call(&self) -> &'static str {
        match self.steps.last() {
            Some(Step::Write(request)) => request.name(),
            Some(Step::Reads(_)) => "reads",
            _ => "watch",
        }
    }
}

/// A value on one line: bytes as text, fields with default values left out, the end cut off.
fn shown(value: &impl std::fmt::Debug) -> String {
    let plain = format!("{value:?}");
    let mut text = String::new();
    let mut rest = plain.as_str();
    while let Some(at) = rest.find('[') {
        text.push_str(&rest[..at]);
        let end = rest[at..].find(']').map_or(rest.len(), |end| at + end);
        let bytes: Option<Vec<u8>> =
            rest[at + 1..end].split(", ").map(|number| number.parse().ok()).collect();
        match bytes {
            Some(bytes) if end < rest.len() => {
                let shown = &bytes[..bytes.len().min(BYTES_SHOWN)];
                write!(text, "\"{}\"", shown.escape_ascii()).expect("a string takes everything");
                if shown.len() < bytes.len() {
                    write!(text, "...{} bytes", bytes.len()).expect("a string takes everything");
                }
                rest = &rest[end + 1..];
            }
            _ => {
                text.push('[');
                rest = &rest[at + 1..];
            }
        }
    }
    text.push_str(rest);
    for default in [": 0", ": false", ": []", ": \"\"", ": None"] {
        for (after, instead) in [(", ", ""), (" }", " }")] {
            let field = format!("{default}{after}");
            while let Some(at) = text.find(&field) {
                let name = text[..at].rfind([' ', '{']).map_or(0, |before| before + 1);
                text.replace_range(name..at + field.len(), instead);
            }
        }
    }
    if text.len() > SHOWN {
        let cut = (0..=SHOWN).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(cut);
        text.push_str("... (cut)");
    }
    text
}

fn recipe(binary: &Path) -> Recipe {
    // Hashing passwords at full cost would be most of the run.
    Recipe::new(binary).flag("--bcrypt-cost=4")
}

/// Two servers in lockstep.
struct Lockstep {
    theirs: Side,
    ours: Side,
    world: World,
    exempt: Exempt,
    began: Instant,
    requests: u64,
    /// The revision at which the streams were compared last.
    settled_at: i64,
    /// How often each call came to each end, by the reference.
    ends: BTreeMap<String, u64>,
}

impl Lockstep {
    async fn start(reference: Recipe, ours: Recipe) -> Lockstep {
        let (theirs, ours) = tokio::join!(Side::start(reference), Side::start(ours));
        Lockstep {
            theirs,
            ours,
            world: World::new(),
            exempt: Exempt::default(),
            began: Instant::now(),
            requests: 0,
            settled_at: 0,
            ends: BTreeMap::new(),
        }
    }

    async fn run(&mut self, source: &mut impl Source) -> Result<(), Difference> {
        let mut steps = Vec::new();
        while let Some(step) = source.next(&self.world) {
            steps.push(step.clone());
            self.requests += step.requests();
            if let Err(mut report) = self.step(step).await {
                for (who, side) in [("reference", &mut self.theirs), ("ours", &mut self.ours)] {
                    if side.server.has_ended() {
                        let _ = write!(report, "\n{who} has ended; it said:\n{}", side.server.last_lines());
                    }
                }
                return Err(Difference { steps, report });
            }
        }
        Ok(())
    }

    async fn step(&mut self, step: Step) -> Result<(), String> {
        if matches!(step, Step::Settle) {
            return self.settle().await;
        }
        let compacted = self.world.compacted;
        let known = match &step {
            Step::WatchCancel { stream, id } => self.world.has_watcher(*stream, *id),
            _ => false,
        };
        let (theirs, ours) = tokio::join!(
            self.theirs.execute(step.clone(), compacted, known),
            self.ours.execute(step.clone(), compacted, known)
        );
        self.world.observe(&step, &theirs);
        self.exempt.age_s = self.began.elapsed().as_secs() as i64 + 1;
        match (&step, theirs, ours) {
            (Step::Write(request), Outcome::Answers(theirs), Outcome::Answers(ours)) => {
                self.compare(std::slice::from_ref(request), theirs, ours)?;
                if let Request::Compact(_) = request
                    && self.world.compacting
                {
                    // The hash of a compaction is kept only when the one before had ended: let it end.
                    tokio::time::sleep(Duration::from_millis(60)).await;
                }
                Ok(())
            }
            (Step::Reads(reads), Outcome::Answers(theirs), Outcome::Answers(ours)) => {
                self.compare(reads, theirs, ours)
            }
            (_, theirs, ours)
                if theirs == ours && !matches!(theirs, Outcome::Watch { answered: false, .. }) =>
            {
                Ok(())
            }
            (step, theirs, ours) => Err(format!(
                "{}\nreference: {theirs:?} {:?}\nours: {ours:?} {:?}",
                shown(step),
                self.theirs.ended(),
                self.ours.ended()
            )),
        }
    }

    fn compare(
        &mut self,
        requests: &[Request],
        theirs: Vec<Answer>,
        ours: Vec<Answer>,
    ) -> Result<(), String> {
        for ((request, mut theirs), mut ours) in requests.iter().zip(theirs).zip(ours) {
            let end = match &theirs {
                Answer::Failed(failure) => format!("{}: {}", request.name(), failure.message),
                _ => format!("{}: ok", request.name()),
            };
            *self.ends.entry(end).or_default() += 1;
            self.exempt.apply(request, &mut theirs, &mut ours);
            if theirs != ours {
                return Err(format!(
                    "{}\nreference: {}\nours: {}",
                    shown(request),
                    shown(&theirs),
                    shown(&ours)
                ));
            }
        }
        Ok(())
    }

    /// Every stream has told its watchers everything, and the same on both sides.
    async fn settle(&mut self) -> Result<(), String> {
        let numbers: Vec<usize> = self.theirs.streams.keys().copied().collect();
        // An answer to an earlier progress request must not pass for one to this.
        if self.world.revision == self.settled_at
            || numbers.iter().any(|&number| self.world.awaits_next(number))
        {
            let put = PutRequest { key: b"settle".to_vec(), value: b"next".to_vec(), ..Default::default() };
            Box::pin(self.step(Step::Write(Request::Put(put)))).await?;
        }
        for number in numbers {
            let mut patience = PATIENCE;
            if self.world.can_progress(number) && self.world.revision > self.settled_at {
                let revision = self.world.revision;
                let (theirs, ours) = tokio::join!(
                    self.theirs.progress(number, revision),
                    self.ours.progress(number, revision)
                );
                if !theirs || !ours {
                    return Err(format!(
                        "progress of stream {number} at revision {revision}: reference {theirs}, ours {ours}"
                    ));
                }
                // Progress promises that all was said before: nothing may come late.
                patience = Duration::ZERO;
            }
            self.same_stream(number, patience).await?;
        }
        self.settled_at = self.world.revision;
        Ok(())
    }

    async fn same_stream(&mut self, number: usize, patience: Duration) -> Result<(), String> {
        let deadline = Instant::now() + patience;
        loop {
            {
                let [theirs, ours] = [&self.theirs, &self.ours].map(|side| &side.streams[&number].log);
                let mut theirs = theirs.lock().expect("no panic holds the log");
                let mut ours = ours.lock().expect("no panic holds the log");
                if self.exempt.same_stream(&mut theirs, &mut ours, self.world.compacted) {
                    for told in theirs.told.values().flatten() {
                        let kind = match told {
                            Told::Event(event) if event.prev_kv.is_some() => "Watch: event with prev_kv",
                            Told::Event(_) => "Watch: event",
                            Told::Control(response) if response.compact_revision != 0 => "Watch: compacted",
                            Told::Control(response) if response.created && response.canceled => {
                                "Watch: refused"
                            }
                            Told::Control(response) if response.created => "Watch: created",
                            Told::Control(_) => "Watch: cancelled",
                            Told::Wrong(_) => "Watch: wrong on both sides",
                        };
                        *self.ends.entry(kind.into()).or_default() += 1;
                    }
                    theirs.told.clear();
                    ours.told.clear();
                    return Ok(());
                }
                if Instant::now() >= deadline {
                    return Err(stream_report(number, &theirs, &ours));
                }
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

fn stream_report(number: usize, theirs: &StreamLog, ours: &StreamLog) -> String {
    let mut report = format!("watch stream {number}: ended: {:?} and {:?}\n", theirs.ended, ours.ended);
    let ids: BTreeSet<i64> = theirs.told.keys().chain(ours.told.keys()).copied().collect();
    for id in ids {
        let [theirs, ours] = [theirs, ours].map(|log| log.told.get(&id).cloned().unwrap_or_default());
        if theirs != ours {
            let same = theirs.iter().zip(&ours).take_while(|(theirs, ours)| theirs == ours).count();
            let _ = write!(
                report,
                "watcher {id}: {} and {} items, equal before item {same}\nreference: {}\nours: {}\n",
                theirs.len(),
                ours.len(),
                shown(&theirs.get(same)),
                shown(&ours.get(same)),
            );
        }
    }
    report
}

type Counts = (BTreeMap<&'static str, u64>, BTreeMap<String, u64>);

/// One seed. `Err` has the report.
async fn compare_servers(
    reference: &Recipe,
    ours: &Recipe,
    seed: u64,
    requests: u64,
    whole: bool,
) -> Result<Counts, String> {
    let mut lockstep = Lockstep::start(reference.clone(), ours.clone()).await;
    let Err(difference) = lockstep.run(&mut Script::new(seed, requests, whole)).await else {
        eprintln!(
            "seed {seed}: {} requests to both, no difference, revision {}, compacted {}, {:.1} s",
            lockstep.requests,
            lockstep.world.revision,
            lockstep.world.compacted,
            lockstep.began.elapsed().as_secs_f64()
        );
        return Ok((lockstep.exempt.used, lockstep.ends));
    };
    drop(lockstep);
    let mut report =
        format!("DIFFERENCE with seed {seed}, at step {}:\n{}\n", difference.steps.len(), difference.report);
    eprintln!("{report}\nshrinking ...");
    let short = shrink(reference, ours, difference).await;
    let _ = write!(report, "\nShort reproduction, {} steps:\n", short.steps.len());
    let from = short.steps.len().saturating_sub(STEPS_SHOWN);
    for (number, step) in short.steps.iter().enumerate().skip(from) {
        let _ = writeln!(report, "{number}: {}", shown(step));
    }
    let _ = write!(report, "which ends with:\n{}", short.report);
    Err(report)
}

/// Drops steps, in ever smaller pieces, as long as some difference remains.
async fn shrink(reference: &Recipe, ours: &Recipe, mut best: Difference) -> Difference {
    let budget = Duration::from_secs(common::setting("DIFF_SHRINK_S", 120));
    let began = Instant::now();
    let mut piece = best.steps.len() / 2;
    while piece > 0 && began.elapsed() < budget {
        let mut at = 0;
        // The last step is the one that differs.
        while at + 1 < best.steps.len() && began.elapsed() < budget {
            let end = (at + piece).min(best.steps.len() - 1);
            let mut fewer = best.steps.clone();
            fewer.drain(at..end);
            let mut lockstep = Lockstep::start(reference.clone(), ours.clone()).await;
            match lockstep.run(&mut Recording(fewer.into())).await {
                Err(difference) if difference.call() == best.call() => best = difference,
                _ => at = end,
            }
        }
        piece /= 2;
    }
    best
}

/// Whether a server has users and roles; one that has not lacks membership changes and downgrades too.
async fn has_users(recipe: Recipe) -> bool {
    let server = common::server::Server::start(recipe);
    let mut client = common::client::Client::connect(&server.endpoint).await;
    let status = client.auth.auth_status(proto::etcdserverpb::AuthStatusRequest {}).await;
    !status.is_err_and(|status| common::is_not_yet(status.message()))
}

#[test]
fn etcd_and_mainstay_answer_alike() {
    let (Some(reference), Some(ours)) = (common::reference(), common::ours()) else { return };
    let requests = common::setting("DIFF_REQUESTS", 3000);
    let seeds = match common::setting("DIFF_SEED", 0) {
        0 => 1..=common::setting("DIFF_SEEDS", 1),
        seed => seed..=seed,
    };
    let whole = common::run(has_users(recipe(&ours)));
    let mut used = BTreeMap::<&str, u64>::new();
    let mut ends = BTreeMap::<String, u64>::new();
    for seed in seeds {
        match common::run(compare_servers(&recipe(&reference), &recipe(&ours), seed, requests, whole)) {
            Ok((exemptions, counts)) => {
                exemptions.into_iter().for_each(|(name, count)| *used.entry(name).or_default() += count);
                counts.into_iter().for_each(|(end, count)| *ends.entry(end).or_default() += count);
            }
            Err(report) => panic!("{report}"),
        }
    }
    eprintln!("calls, by how they ended:");
    ends.iter().for_each(|(end, count)| eprintln!("  {count:>8} {end}"));
    eprintln!("exemptions, and how often each was needed:");
    for (name, what, why) in EXEMPTIONS {
        eprintln!("  {:>8} {name}: {what} ({why})", used.get(name).copied().unwrap_or(0));
    }
}

/// The harness must be able to fail: etcd against etcd with another limit differs, and the report is short.
#[test]
fn a_planted_difference_is_found() {
    let Some(reference) = common::reference() else { return };
    let planted = recipe(&reference).flag("--max-txn-ops=64");
    let found = common::run(async {
        let mut lockstep = Lockstep::start(recipe(&reference), planted).await;
        lockstep.run(&mut Script::new(7, 20_000, true)).await
    });
    let Err(difference) = found else { panic!("a server with another limit of operations looked the same") };
    assert!(difference.report.contains("too many operations"), "{}", difference.report);
}
