//! The liveness phase, stage by stage, each with a limit in simulated time; then a last end and start of the member,
//! and the checkers.
//!
//! Once faults have ended: the member serves again; alarms that a full disk raised can be lowered; everything under
//! way is answered; writes are accepted; leases run out; watchers are all there and have everything.

use proto::errors;
use proto::etcdserverpb as pb;

use super::client::{Ask, Client};
use super::coverage::Mechanism;
use super::member::{Blow, Member};
use super::nemesis::Nemesis;
use super::process::Process;
use super::ranges::{self, Versions};
use super::trace::{self, What};
use super::{Env, Event, Failure};
use crate::check::{self, state};
use crate::history::{Note, Outcome};

/// Between two looks, microseconds.
const LOOK_US: u64 = 250_000;
/// Every stage but that of the leases has so long, microseconds.
const PATIENCE_US: u64 = 90_000_000;
/// While much flows that was asked for, so much longer in all, microseconds: networks are slow, and values are long.
const FLOW_US: u64 = 20 * PATIENCE_US;
/// Leases of more than this are revoked and not waited for, seconds; and so long all others have, microseconds.
const WAITED_FOR_S: i64 = 30;
const LEASES_US: u64 = 120_000_000;
/// Watchers have so long for what happened last, microseconds.
const WATCHERS_US: u64 = 3_000_000;
/// Between two looks at clients that are sent no events, but progress and answers, bytes at most.
const QUIET_BYTES: u64 = 8 << 10;
/// How late leases may expire, microseconds: scans, retries, and a log core that is busy.
const LATE_US: u64 = 10_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Storm,
    Serve,
    Alarms,
    Answers,
    Writes,
    Leases,
    Watchers,
    Settle {
        revision: i64,
    },
    Read,
    End,
    /// The life that has ended.
    Again {
        life: u32,
    },
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Stage::Storm => "storm",
            Stage::Serve => "the member serves",
            Stage::Alarms => "alarms can be lowered",
            Stage::Answers => "every call is answered",
            Stage::Writes => "writes are accepted",
            Stage::Leases => "leases run out",
            Stage::Watchers => "watchers are there",
            Stage::Settle { .. } => "watchers have everything",
            Stage::Read => "reads are answered",
            Stage::End => "the member ends",
            Stage::Again { .. } => "the member serves again",
        }
    }
}

/// What a store looks like to clients.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Picture {
    revision: i64,
    compacted: i64,
    /// Entries and checksum of the trees that compaction leaves alone.
    trees: Vec<(u64, u32)>,
}

impl Picture {
    fn of(snapshot: &tree::Snapshot) -> Picture {
        Picture {
            revision: mvcc::stamp::current(snapshot.stamp()),
            compacted: mvcc::stamp::compacted(snapshot.stamp()),
            trees: state::lasting(snapshot.view()),
        }
    }
}

pub(super) struct Finale {
    stage: Stage,
    since_us: u64,
    began_us: u64,
    /// The stage's question was asked.
    asked: bool,
    /// Calls of the operator that had ended without an answer before it.
    without_answer: u64,
    /// By the network, when the stage was looked at last.
    delivered_bytes: u64,
    picture: Option<Picture>,
}

impl Finale {
    pub fn new() -> Finale {
        Finale {
            stage: Stage::Storm,
            since_us: 0,
            began_us: 0,
            asked: false,
            without_answer: 0,
            delivered_bytes: 0,
            picture: None,
        }
    }

    fn enter(&mut self, env: &Env, stage: Stage) {
        trace::note(What::Phase { phase: stage.name() });
        (self.stage, self.asked) = (stage, false);
        (self.since_us, self.began_us) = (env.now_us, env.now_us);
    }

    /// One look. True when all stages are through.
    pub fn go_on(
        &mut self,
        env: &mut Env,
        members: &mut [Member],
        clients: &mut [Client],
        nemesis: &mut Nemesis,
    ) -> Result<bool, Failure> {
        if self.stage == Stage::Storm {
            nemesis.end(env, members);
            clients.iter_mut().for_each(|client| client.rest(env));
            for member in members.iter_mut() {
                member.recover(env);
            }
            self.enter(env, Stage::Serve);
        }
        // While much still flows nobody can say that something does not come.
        let delivered_bytes = env.network.counts().delivered_bytes;
        let flows = delivered_bytes - self.delivered_bytes > QUIET_BYTES;
        self.delivered_bytes = delivered_bytes;
        if flows && env.now_us < self.began_us + FLOW_US {
            self.since_us = env.now_us;
        }
        let limit_us = if self.stage == Stage::Leases { LEASES_US } else { PATIENCE_US };
        if env.now_us > self.since_us + limit_us {
            let under_way: Vec<usize> = clients.iter().map(Client::unanswered).collect();
            let text = format!(
                "{} s after faults ended it is not yet so that {}; calls under way: {under_way:?}",
                limit_us / 1_000_000,
                self.stage.name()
            );
            return Err(Failure::new("Liveness", text));
        }
        for client in clients.iter_mut() {
            client.tend(env);
        }
        if self.look(env, &mut members[0], clients)? {
            return Ok(true);
        }
        env.at(env.now_us + LOOK_US, Event::Finale);
        Ok(false)
    }

    fn look(&mut self, env: &mut Env, member: &mut Member, clients: &mut [Client]) -> Result<bool, Failure> {
        let quiet = clients.iter().all(|client| client.unanswered() == 0);
        let operator = clients.last_mut().expect("there is an operator");
        let quota = env.profile.sizes.quota_bytes > 0;
        match self.stage {
            Stage::Storm => unreachable!("it has ended"),
            Stage::Serve => {
                if member.process.as_ref().is_some_and(|process| process.is_up()) {
                    self.enter(env, Stage::Alarms);
                }
            }
            Stage::Alarms => {
                let Some(process) = &member.process else { return Ok(false) };
                // Over its quota the store raises it again.
                if quota || !process.published.alarm(pb::AlarmType::Nospace) {
                    self.enter(env, Stage::Answers);
                } else if operator.unanswered() == 0 {
                    operator.ask(env, Ask::disarm(process.published.member_id));
                }
            }
            Stage::Answers => {
                if quiet {
                    self.enter(env, Stage::Writes);
                }
            }
            Stage::Writes => {
                if !quiet {
                    return Ok(false);
                }
                let last = env.history.operations.last().map(|last| &last.outcome);
                let alarm = |p: &Process| p.published.alarm(pb::AlarmType::Nospace);
                let alarm = member.process.as_ref().is_some_and(alarm);
                let accepted = matches!(last, Some(Outcome::Answered(_)))
                    || quota && alarm && operator.last_error() == Some(&errors::NO_SPACE);
                if self.asked && accepted {
                    self.enter(env, Stage::Leases);
                } else if alarm && !quota {
                    self.enter(env, Stage::Alarms);
                } else {
                    let put = pb::PutRequest { key: b"k000".to_vec(), ..Default::default() };
                    self.asked = operator.ask(env, Ask::Put(put));
                }
            }
            Stage::Leases => {
                if !quiet {
                    return Ok(false);
                }
                match env.leases.take() {
                    Some(leases) if leases.is_empty() => self.enter(env, Stage::Watchers),
                    Some(leases) if !self.asked => {
                        self.asked = true;
                        for id in long_lived(env, &leases) {
                            operator.ask(env, Ask::Revoke(pb::LeaseRevokeRequest { id }));
                        }
                    }
                    _ => {
                        operator.ask(env, Ask::Leases);
                    }
                }
            }
            Stage::Watchers => {
                // Who waits at a connection that broke has no watcher, and does not know it.
                if clients.iter().all(Client::watches) && !env.network.keeps_from_openers() {
                    let revision = member.process.as_ref().map_or(0, |process| process.revision());
                    self.enter(env, Stage::Settle { revision });
                }
            }
            Stage::Settle { revision } => {
                if env.now_us > self.since_us + WATCHERS_US {
                    let at_us = env.history_us();
                    env.history.note(at_us, Note::Settled { revision });
                    self.enter(env, Stage::Read);
                }
            }
            Stage::Read => {
                if !self.asked {
                    self.without_answer = operator.without_answer();
                    let all = pb::RangeRequest { key: vec![0], range_end: vec![0], ..Default::default() };
                    self.asked = operator.ask(env, Ask::Range(all));
                    operator.ask(env, Ask::Hash(pb::HashKvRequest { revision: 0 }));
                } else if quiet {
                    self.asked = operator.without_answer() == self.without_answer;
                    if self.asked {
                        self.enter(env, Stage::End);
                    }
                }
            }
            Stage::End => {
                let Some(process) = &mut member.process else { return Ok(false) };
                let life = process.life;
                let snapshot = process.snapshot();
                check::state::view(snapshot.view())?;
                let stored = !snapshot.view().is_empty(mvcc::trees::ALARMS);
                let known = process.published.alarm(pb::AlarmType::Nospace);
                if stored != known {
                    let text = format!("an alarm is known: {known}, and stored: {stored}");
                    return Err(Failure::new("Alarms", text));
                }
                self.picture = Some(Picture::of(&snapshot));
                drop(snapshot);
                if env.random.one_in(2) {
                    process.stop(env);
                    env.at(env.now_us + 100_000, Event::StopLog { member: member.id, life });
                } else {
                    member.strike(env, Blow::Power);
                }
                self.enter(env, Stage::Again { life });
            }
            Stage::Again { life } => {
                let again = member.process.as_ref().filter(|process| process.life != life && process.is_up());
                if let Some(process) = again {
                    let mut picture = Picture::of(&process.snapshot());
                    let before = self.picture.as_ref().expect("a member ends after it was pictured");
                    // Nobody asks for anything any more; what compacts by itself may go on.
                    let by_itself = env.profile.sizes.compacts_by_itself();
                    if by_itself && picture.compacted > before.compacted {
                        picture.compacted = before.compacted;
                    }
                    if picture != *before {
                        let text = format!("before {before:?}, after {picture:?}");
                        return Err(Failure::new("Picture", text));
                    }
                    check::state::view(process.snapshot().view())?;
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

/// Leases that would have to be waited for too long: those granted with a long TTL.
fn long_lived(env: &Env, leases: &[i64]) -> Vec<i64> {
    use crate::history::{Answer, Request};
    let long = |id: &i64| {
        env.history.operations.iter().any(|operation| match (&operation.request, operation.answer()) {
            (Request::LeaseGrant { ttl_s, .. }, Some(Answer::LeaseGrant { id: of, .. })) => {
                of == id && *ttl_s > WAITED_FOR_S
            }
            // Nobody knows which id it got.
            (Request::LeaseGrant { ttl_s, .. }, None) => *ttl_s > WAITED_FOR_S,
            _ => false,
        })
    };
    leases.iter().copied().filter(long).collect()
}

/// The store at rest, with its writer's books; then everything that clients saw.
pub(super) fn judge(env: &mut Env, member: &Member) -> Result<(), Failure> {
    let sizes = &env.profile.sizes;
    let options = tree::Options {
        chunk_bytes: sizes.chunk_bytes,
        max_chunks: 1024,
        reserve_bytes: sizes.reserve_bytes,
    };
    let image = member.files.image();
    let store = tree::Store::open(&image, "data", &mvcc::trees::SPECS, options)
        .map_err(|error| Failure::new("Store", error.to_string()))?;
    check::state::store(&store)?;
    let clocks = check::lease::Clocks {
        drift_ppm: 0,
        slack_us: 5_000,
        min_ttl_s: lease::min_ttl_s(super::ELECTION_MS / super::HEARTBEAT_MS, super::HEARTBEAT_MS),
        // Fewer leases than would be spread.
        extension_us: Some(super::ELECTION_MS * 1_000),
        late_us: Some(LATE_US),
    };
    let summary = check::history(&env.history, &clocks)?;
    env.coverage.add(Mechanism::HashKv, summary.hash.compared);
    let versions = Versions::of(&env.history);
    for answer in &env.odd_answers {
        ranges::check(answer, &versions).map_err(|text| Failure::new("OddRange", text))?;
    }
    let past = env.history.operations.iter().filter(|operation| match &operation.request {
        crate::history::Request::Range(range) => range.revision > 0 && operation.answer().is_some(),
        _ => false,
    });
    env.coverage.add(Mechanism::PastRange, past.count() as u64);
    Ok(())
}
