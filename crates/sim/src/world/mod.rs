//! The world: members with simulated cores, clients, a network and a nemesis, all driven from one seed in one thread.
//!
//! What runs is the product: log, tree, MVCC, replica, leases, watches, and the shards with their HTTP/2. Only the
//! disk ([`disk::SimFiles`], behind `world::disk`), the clock ([`clock`]) and the network ([`network`]) are simulated.
//! A seed draws a [`profile`]: sizes, workload and faults. Then:
//!
//! 1. **Safety**: clients work while faults come.
//! 2. **Liveness**: faults have ended; everything that is under way must end in bounded simulated time, the member
//!    must serve, watchers must catch up, leases that are due must be gone ([`finale`]).
//! 3. **Judgement**: the recorded history goes to the checkers, the store at rest to its own; the member ends once
//!    more, in order or without power, and must come up with the same state.
//!
//! Invariants: whatever happens follows from the seed. No clock of the machine is read, no thread started, nothing
//! iterated whose order is not given; [`trace`] proves it: the same seed gives the same hash.
//!
//! Members are a list, and events and faults name their member; there is one today, which is a cluster of its own. What
//! the cluster work adds is a message type for [`network::Network`], a list of peers at the start of each, and what still
//! speaks of the first member alone: the clock of the history, the finale, and the judgement.

mod causes;
mod client;
mod clock;
pub mod coverage;
pub(crate) mod disk;
mod finale;
mod job;
mod member;
mod nemesis;
pub mod network;
mod process;
pub mod profile;
mod queue;
mod ranges;
mod shard;
mod snapshot;
pub mod trace;
mod witness;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use base::Random;

use self::causes::Causes;
use self::client::{Client, Timer};
use self::clock::Clock;
use self::coverage::{Coverage, Mechanism};
use self::finale::Finale;
use self::job::Mail;
use self::member::Member;
use self::nemesis::{Nemesis, Undo};
use self::network::{Delivery, Network, Node};
use self::profile::{Focus, Profile};
use self::queue::Queue;
use self::ranges::OddAnswer;
use self::trace::What;
use crate::check;
use crate::history::{History, Note};

/// etcd's defaults.
const HEARTBEAT_MS: u64 = 100;
const ELECTION_MS: u64 = 1000;
/// After a disk was full, or slow, members may be short of room or behind with checkpoints for so long, microseconds.
const GETS_OVER_US: u64 = 10_000_000;
/// A run that takes more steps than this makes no progress in time.
const STEPS_MAX: u64 = 20_000_000;
/// What a member's clock shows when the world begins, microseconds.
const CLOCK_STARTS_US: u64 = 1_000_000_000;

/// What is to happen.
enum Event {
    Turn {
        member: u32,
        life: u32,
        core: u8,
        at_us: u64,
    },
    LogPiece {
        member: u32,
        life: u32,
        write: u64,
        block: u64,
    },
    LogWrite {
        member: u32,
        life: u32,
        write: u64,
    },
    Job {
        member: u32,
        life: u32,
        job: u64,
    },
    Mail {
        member: u32,
        life: u32,
        mail: Mail,
    },
    Start {
        member: u32,
    },
    /// The log core is told to stop, whoever is still connected.
    StopLog {
        member: u32,
        life: u32,
    },
    Client {
        client: u32,
        timer: Timer,
    },
    Fault,
    Undo(Undo),
    Finale,
}

/// How fast things are at the moment, microseconds: the shortest and the longest.
#[derive(Clone, Copy, Debug)]
struct Weather {
    /// Until a core that has work takes its turn.
    core_us: (u64, u64),
    /// A durable write.
    disk_us: (u64, u64),
    /// Until a helper begins a job, and until its result arrives.
    helper_us: (u64, u64),
}

const FAIR: Weather = Weather { core_us: (2, 60), disk_us: (80, 4_000), helper_us: (50, 20_000) };

/// What everything in the world may use.
struct Env {
    now_us: u64,
    random: Random,
    queue: Queue<Event>,
    /// Members do not talk to each other yet.
    network: Network<Infallible>,
    /// Of the members' machines.
    clocks: Vec<Clock>,
    history: History,
    coverage: Coverage,
    profile: Rc<Profile>,
    weather: Weather,
    /// Until then refusals for want of room or time are to be expected; 0: they are not.
    strained_until_us: u64,
    causes: Causes,
    odd_answers: Vec<OddAnswer>,
    /// That helpers have made: of a revision, after a compaction, which.
    hashes: BTreeSet<(i64, i64, u32)>,
    /// The newest answer to a listing of leases.
    leases: Option<Vec<i64>>,
}

impl Env {
    fn at(&mut self, at_us: u64, event: Event) {
        let tie = self.random.next_u64();
        self.queue.push(at_us, tie, event);
    }

    /// Something begins that takes room or time from the members, and some time to get over.
    fn strain(&mut self, until_us: u64) {
        if self.strained_until_us == 0 {
            let at_us = self.history_us();
            self.history.note(at_us, Note::Strained);
        }
        self.strained_until_us = self.strained_until_us.max(until_us + GETS_OVER_US);
        self.hold_up(until_us);
    }

    /// Something begins that members are late by, or take themselves for late.
    fn hold_up(&mut self, until_us: u64) {
        self.causes.hold_up(until_us + GETS_OVER_US);
    }

    /// How long helpers take from now on for `times` steps. Where they are slow, what is `awaited` holds its member up
    /// until then: it may be done long after they are quick again.
    fn helper_takes_us(&mut self, times: u64, awaited: bool) -> u64 {
        let (low, high) = self.weather.helper_us;
        let takes_us = (0..times).map(|_| queue::magnitude(&mut self.random, low, high)).sum();
        if awaited && self.weather.helper_us != FAIR.helper_us {
            self.causes.await_helpers(self.now_us + takes_us + GETS_OVER_US);
        }
        takes_us
    }

    /// Before each call: whoever had time to get over it has no excuse any more.
    fn relieve(&mut self) {
        if self.strained_until_us != 0 && self.now_us > self.strained_until_us {
            self.strained_until_us = 0;
            let at_us = self.history_us();
            self.history.note(at_us, Note::Relieved);
        }
    }

    /// The clock by which the history is kept: that of the first member's machine, since leases live by it.
    fn history_us(&self) -> u64 {
        self.clocks[0].at(self.now_us)
    }
}

/// What was found wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// A rule of the checkers, or one of the world's own.
    pub rule: String,
    pub text: String,
}

impl Failure {
    fn new(rule: &str, text: String) -> Failure {
        Failure { rule: rule.to_owned(), text }
    }
}

impl From<check::Finding> for Failure {
    fn from(finding: check::Finding) -> Failure {
        let text = format!("step {} of the history: {}", finding.step, finding.text);
        Failure { rule: format!("{:?}", finding.rule), text }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.rule, self.text)
    }
}

/// How to run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Every line of the trace goes to standard output, and the history at the end.
    pub print: bool,
    /// The outcome has a hash also where nothing is wrong; it costs a twentieth of a run.
    pub hash: bool,
    /// What the seeds are bent towards.
    pub focus: Focus,
    /// A mistake that the product is made to make.
    #[cfg(feature = "zoo")]
    pub bug: Option<base::bug::Bug>,
}

impl Options {
    pub fn new(print: bool, focus: Focus) -> Options {
        Options {
            print,
            hash: true,
            focus,
            #[cfg(feature = "zoo")]
            bug: None,
        }
    }
}

/// What came of a seed.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub seed: u64,
    pub failure: Option<Failure>,
    /// Over every step and everything that clients saw; 0 where it was not asked for.
    pub hash: u64,
    pub steps: u64,
    pub simulated_us: u64,
    pub operations: u64,
    pub coverage: Coverage,
    /// The last steps.
    pub tail: Vec<String>,
}

/// Lines of the trace that go with a failure.
const TAIL: usize = 40;

/// Runs one seed to its end, or to the first thing that is wrong.
pub fn run(seed: u64, options: Options) -> Outcome {
    trace::begin(seed, options.print);
    let world = Rc::new(RefCell::new(World::new(seed, options.focus)));
    #[cfg(feature = "zoo")]
    base::bug::inject(options.bug);
    let ended = catch_unwind(AssertUnwindSafe(|| World::run(&world)));
    #[cfg(feature = "zoo")]
    base::bug::inject(None);
    disk::between(None);
    let ended = ended.unwrap_or_else(|panic| Err(Failure::new("Panic", panic_text(&*panic))));
    let world = world.borrow();
    let env = &world.env;
    if options.print {
        println!("{}", env.history.trace());
    }
    let hashed = options.hash || ended.is_err();
    let hash = || trace::hash() ^ env.history.trace_hash().rotate_left(17);
    Outcome {
        seed,
        failure: ended.err(),
        hash: if hashed { hash() } else { 0 },
        steps: trace::steps(),
        simulated_us: env.now_us,
        operations: env.history.operations.len() as u64,
        coverage: env.coverage.clone(),
        tail: trace::tail(TAIL),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words").to_owned()
}

struct World {
    env: Env,
    members: Vec<Member>,
    clients: Vec<Client>,
    nemesis: Nemesis,
    finale: Finale,
    /// Found in the midst of something that could not stop for it.
    failure: Option<Failure>,
}

/// What a step came to.
enum Step {
    Went,
    /// A helper begins a job.
    Job {
        member: u32,
        life: u32,
        job: u64,
    },
    Done,
}

impl World {
    fn new(seed: u64, focus: Focus) -> World {
        let mut random = Random::new(seed);
        let profile = Rc::new(Profile::draw(&mut random, focus));
        let network = Network::new(Random::new(random.next_u64()), profile.network);
        let member = Member::new(0, Random::new(random.next_u64()));
        let nemesis = Nemesis::new(Random::new(random.next_u64()));
        let mut env = Env {
            now_us: 0,
            random,
            queue: Queue::new(),
            network,
            clocks: vec![Clock::new(CLOCK_STARTS_US)],
            history: History::new(),
            coverage: Coverage::default(),
            profile: profile.clone(),
            weather: FAIR,
            strained_until_us: 0,
            causes: Causes::default(),
            odd_answers: Vec::new(),
            hashes: BTreeSet::new(),
            leases: None,
        };
        env.at(0, Event::Start { member: 0 });
        // The last client is the operator: it works in the end.
        let clients = (0..=profile.workload.clients).map(|id| Client::new(&mut env, id, 0)).collect();
        nemesis.begin(&mut env);
        env.at(profile.storm_us, Event::Finale);
        World { env, members: vec![member], clients, nemesis, finale: Finale::new(), failure: None }
    }

    /// Everything up to the judgement.
    fn run(world: &Rc<RefCell<World>>) -> Result<(), Failure> {
        loop {
            // The borrow ends before a job runs: what runs between its operations borrows anew.
            let step = world.borrow_mut().step(false)?;
            match step {
                Step::Went => {}
                Step::Job { member, life, job } => World::run_job(world, member, life, job)?,
                Step::Done => break,
            }
            if let Some(failure) = world.borrow_mut().failure.take() {
                return Err(failure);
            }
        }
        world.borrow_mut().judge()
    }

    /// One thing happens. Within a job, `nested`, no other job begins.
    fn step(&mut self, nested: bool) -> Result<Step, Failure> {
        if trace::steps() > STEPS_MAX {
            return Err(Failure::new("Steps", format!("more than {STEPS_MAX}: nothing comes to an end")));
        }
        let queued_us = self.env.queue.next_us().unwrap_or(u64::MAX);
        if self.env.network.next_us().is_some_and(|at_us| at_us <= queued_us) {
            if let Some((at_us, delivery)) = self.env.network.next(queued_us) {
                self.advance(at_us);
                self.deliver(delivery);
            }
            return Ok(Step::Went);
        }
        let Some((at_us, event)) = self.env.queue.pop_until(u64::MAX) else { return Ok(Step::Done) };
        self.advance(at_us);
        self.happen(event, nested)
    }

    fn advance(&mut self, at_us: u64) {
        assert!(at_us >= self.env.now_us, "time does not run backwards");
        self.env.now_us = at_us;
        trace::at(at_us);
    }

    fn happen(&mut self, event: Event, nested: bool) -> Result<Step, Failure> {
        let World { env, members, clients, .. } = self;
        match event {
            Event::Turn { member, life, core, at_us } => {
                let machine = &mut members[member as usize];
                if let Some(process) = machine.process_of(life) {
                    process.turn(env, core.into(), at_us);
                    machine.look(env)?;
                }
            }
            Event::LogPiece { member, life, write, block } => {
                let machine = &mut members[member as usize];
                if let Some(process) = machine.process_of(life) {
                    process.write_piece(write, block);
                    machine.look(env)?;
                }
            }
            Event::LogWrite { member, life, write } => {
                let machine = &mut members[member as usize];
                if let Some(process) = machine.process_of(life) {
                    process.complete_write(env, write);
                    machine.look(env)?;
                }
            }
            Event::Job { member, life, job } if nested => {
                // The helper is held up by the one that works.
                let after_us = 100 + env.random.below(1_000);
                env.at(env.now_us + after_us, Event::Job { member, life, job });
            }
            Event::Job { member, life, job } => return Ok(Step::Job { member, life, job }),
            Event::Mail { member, life, mail } => {
                if let Some(process) = members[member as usize].process_of(life) {
                    process.post(env, mail);
                }
            }
            Event::Start { member } => {
                let profile = env.profile.clone();
                let machine = &mut members[member as usize];
                machine.start(env, &profile.sizes)?;
                machine.look(env)?;
            }
            Event::StopLog { member, life } => {
                if let Some(process) = members[member as usize].process_of(life) {
                    process.stop_log(env);
                }
            }
            Event::Client { client, timer } => clients[client as usize].timer(env, timer),
            Event::Fault => self.nemesis.strike(env, members, clients),
            Event::Undo(undo) => self.nemesis.undo(env, members, undo),
            Event::Finale if nested => env.at(env.now_us + 1_000, Event::Finale),
            Event::Finale => {
                if self.finale.go_on(env, members, clients, &mut self.nemesis)? {
                    return Ok(Step::Done);
                }
            }
        }
        Ok(Step::Went)
    }

    fn deliver(&mut self, delivery: Delivery<Infallible>) {
        let World { env, members, clients, .. } = self;
        match delivery {
            Delivery::Message { message, .. } => match message {},
            Delivery::Opened { connection, node: Node::Member(member) } => {
                match &mut members[member as usize].process {
                    Some(process) => process.accept(env, connection),
                    None => env.network.node_ended(env.now_us, Node::Member(member), false),
                }
            }
            Delivery::Readable { connection, node: Node::Member(member), .. }
            | Delivery::Writable { connection, node: Node::Member(member), .. } => {
                if let Some(process) = &mut members[member as usize].process {
                    process.stirred(env, connection);
                }
            }
            Delivery::Ended { connection, node: Node::Member(member), .. } => {
                if let Some(process) = &mut members[member as usize].process {
                    process.disconnected(env, connection);
                }
            }
            Delivery::Readable { connection, node: Node::Client(client), .. } => {
                clients[client as usize].readable(env, connection);
            }
            Delivery::Ended { connection, node: Node::Client(client), .. } => {
                clients[client as usize].ended(env, connection);
            }
            Delivery::Writable { .. } | Delivery::Opened { .. } => {}
        }
    }

    /// A helper runs a job. Between its operations on the disk others get the processor.
    fn run_job(world: &Rc<RefCell<World>>, member: u32, life: u32, number: u64) -> Result<(), Failure> {
        let (job, files, readers, published, slots) = {
            let mut world = world.borrow_mut();
            let World { members, .. } = &mut *world;
            let Some(process) = members[member as usize].process_of(life) else { return Ok(()) };
            let Some(job) = process.take_job(number) else { return Ok(()) };
            let (readers, published) = (process.readers.clone(), process.published.clone());
            (job, process.files.clone(), readers, published, process.spool_slots.clone())
        };
        let (name, awaited) = (job.name(), job.is_awaited());
        trace::note(What::JobBegins { member, job: name });
        match &job {
            job::Job::Drop(_) => world.borrow_mut().env.coverage.one(Mechanism::ColdDrop),
            job::Job::Segment(job) if job.recycles() => {
                world.borrow_mut().env.coverage.one(Mechanism::SegmentReleased);
            }
            _ => {}
        }
        let weak = Rc::downgrade(world);
        disk::between(Some(Rc::new(move |operation| {
            let Some(world) = weak.upgrade() else { return };
            // Busy: the operation is that of a core, whose turn it is.
            if let Ok(mut world) = world.try_borrow_mut() {
                world.others_run(operation);
            }
        })));
        let before = readers.register().pin();
        let ended = job.run(&files, &readers, &published, &slots);
        disk::between(None);
        trace::note(What::JobEnds { member, job: name, well: ended.is_ok() });
        world.borrow_mut().job_ended(member, life, name, awaited, &before, ended)
    }

    /// In the midst of a job: some steps of everything else.
    fn others_run(&mut self, operation: u64) {
        if self.failure.is_some() || !self.env.random.one_in(3) {
            return;
        }
        trace::note(What::Between { operation });
        self.env.coverage.one(Mechanism::Between);
        for _ in 0..=self.env.random.below(12) {
            // Time goes on only as far as a helper may be away.
            match self.step(true) {
                Ok(Step::Went) => {}
                Ok(Step::Job { .. } | Step::Done) => return,
                Err(failure) => {
                    self.failure.get_or_insert(failure);
                    return;
                }
            }
        }
    }

    fn job_ended(
        &mut self,
        member: u32,
        life: u32,
        name: &'static str,
        awaited: bool,
        before: &tree::Snapshot,
        ended: Result<Option<Mail>, job::Fatal>,
    ) -> Result<(), Failure> {
        let World { env, members, .. } = self;
        let machine = &mut members[member as usize];
        let Some(process) = machine.process_of(life) else { return Ok(()) };
        let wounded = process.files.is_wounded();
        match ended {
            Err(job::Fatal) => process.end = Some(process::End::Disk),
            Ok(_) if wounded && process.end.is_none() => {
                let text = format!("member {member} goes on after a {name} that met an error (law 8)");
                return Err(Failure::new("Survived", text));
            }
            Ok(None) => env.coverage.add(Mechanism::Growth, u64::from(name == "growth")),
            Ok(Some(mail)) => {
                let mechanism = match &mail {
                    Mail::Log(replica::Event::SegmentReady(_)) => Some(Mechanism::SegmentReady),
                    _ => None,
                };
                mechanism.into_iter().for_each(|mechanism| env.coverage.one(mechanism));
                snapshot::look(env, member, &mail, before, &process.published)?;
                let at_us = env.now_us + env.helper_takes_us(1, awaited);
                env.at(at_us, Event::Mail { member, life, mail });
            }
        }
        machine.look(env)
    }

    /// The last word: the checkers look at everything.
    fn judge(&mut self) -> Result<(), Failure> {
        trace::note(What::Phase { phase: "judgement" });
        finale::judge(&mut self.env, &self.members[0])
    }
}
