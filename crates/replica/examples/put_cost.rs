//! What one put costs the log core, in processor time and allocations: propose, raft, log, apply, outcome.
//!
//! The disk takes no time and nothing is written: log writes complete as soon as they are handed out, segments and
//! pages are memory. What helpers would do (segments, checkpoints, growth, pages made ready) is done, and not counted.
//! What is left is the log core's own work. Run it in release, on a quiet machine:
//! `cargo run --release -p mainstay-replica --example put_cost -- [seconds] [keys] [value bytes] [puts in a batch]`;
//! with a fifth word `shared` as on a machine where log core and shard share a thread.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base::{CallToken, Random};
use disk::{Files, SimFiles};
use mainstay_replica as replica;
use proto::etcdserverpb as pb;
use replica::{Action, Event, Proposal, Replica, Request, Start};

fn main() {
    let number = |position: usize, default: u64| {
        std::env::args().nth(position).and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let (seconds, keys, value_bytes) = (number(1, 2), number(2, 100_000), number(3, 100));
    println!("{keys} keys, values of {value_bytes} bytes; Event is {} bytes", size_of::<Event>());
    let batches = if number(4, 0) > 0 { vec![number(4, 0)] } else { vec![1, 16, 256] };
    let shared = std::env::args().nth(5).is_some_and(|word| word == "shared");
    for batch in batches {
        let mut machine = Machine::open();
        if shared {
            machine.replica.share_thread();
        }
        machine.fill(keys, value_bytes as usize);
        let Cost { puts, cpu_ns, allocations } = machine.measure(batch, seconds, keys, value_bytes as usize);
        let a_put = |total: u64| total as f64 / puts as f64;
        println!(
            "batch {batch:4}: {:7.3} us, {:5.2} allocations a put ({puts} puts)",
            a_put(cpu_ns) / 1000.0,
            a_put(allocations)
        );
    }
}

/// The system's allocator, counted.
struct Counted;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

#[global_allocator]
static ALLOCATOR: Counted = Counted;

// SAFETY: all of it is the system allocator's work; counting touches no memory of the caller's.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are those that the system allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above; the memory is from `alloc`.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// What was measured.
struct Cost {
    puts: u64,
    cpu_ns: u64,
    allocations: u64,
}

/// What the helpers took.
#[derive(Clone, Copy, Default)]
struct Helped {
    cpu_ns: u64,
    allocations: u64,
}

impl Helped {
    fn run<T>(&mut self, job: impl FnOnce() -> T) -> T {
        let (started, before) = (cpu_ns(), ALLOCATIONS.load(Ordering::Relaxed));
        let result = job();
        self.cpu_ns += cpu_ns() - started;
        self.allocations += ALLOCATIONS.load(Ordering::Relaxed) - before;
        result
    }
}

struct Machine {
    replica: Replica,
    files: SimFiles,
    actions: Vec<Action>,
    now: u64,
    outcomes: u64,
    helped: Helped,
    random: Random,
}

impl Machine {
    fn open() -> Machine {
        let files = SimFiles::new();
        let member = replica::founding_member(
            "default",
            &["http://localhost:2380".into()],
            &["http://localhost:2379".into()],
            "etcd-cluster",
        );
        let start = Start {
            options: replica::Options {
                member,
                heartbeat_ms: 100,
                election_ms: 1000,
                auto_compaction: replica::AutoCompaction::Off,
                checkpoint: replica::CheckpointPolicy {
                    dirty_bytes: 64 << 20,
                    interval_ms: u64::MAX,
                    bytes_per_second: 0,
                    ..replica::CheckpointPolicy::default()
                },
                scrub: replica::ScrubPolicy::default(),
                memory_budget_bytes: u64::MAX,
                cluster_version: "3.7.0".into(),
            },
            quota_config_bytes: -1,
            tree: tree::Options::default(),
            wal: wal::Options::new(1),
            boot: 1,
        };
        let shared: Arc<dyn Files> = Arc::new(files.clone());
        let (replica, _) = replica::open(shared, start, || Ok(())).unwrap_or_else(|error| panic!("{error}"));
        let mut machine = Machine {
            replica,
            files,
            actions: Vec::new(),
            now: 1,
            outcomes: 0,
            helped: Helped::default(),
            random: Random::new(1),
        };
        while !machine.replica.published().read_ready() {
            machine.now += 100;
            machine.replica.handle(Event::Tick { now: machine.now }, &mut machine.actions);
            machine.settle();
        }
        machine
    }

    fn put(&mut self, keys: u64, value_bytes: usize) {
        let put = pb::PutRequest {
            key: format!("/registry/pods/{:012}", self.random.below(keys)).into_bytes(),
            value: vec![7; value_bytes],
            ..Default::default()
        };
        let token = CallToken { shard: 0, connection: 0, epoch: 0, stream: 1 };
        let proposal = Proposal { token: Some(token), request: Request::Put(put) };
        self.replica.handle(Event::Propose(proposal), &mut self.actions);
    }

    fn settle(&mut self) {
        loop {
            self.replica.turn(&mut self.actions);
            self.replica.events_sent();
            let mut actions = std::mem::take(&mut self.actions);
            let mut answered = false;
            for action in actions.drain(..) {
                match action {
                    Action::WriteLog(write) => {
                        answered = true;
                        let event = Event::LogWritten { seq: write.seq, buffer: write.buf };
                        self.replica.handle(event, &mut self.actions);
                    }
                    Action::PrepareSegment(job) => {
                        answered = true;
                        let ready = self.helped.run(|| job.run(&self.files).expect("memory has room"));
                        self.replica.handle(Event::SegmentReady(ready), &mut self.actions);
                    }
                    Action::Checkpoint(job) => {
                        answered = true;
                        let done = self.helped.run(|| job.run().expect("memory does not fail"));
                        self.replica.handle(Event::Checkpointed(done), &mut self.actions);
                    }
                    Action::Grow(job) => self.helped.run(|| job.run().expect("memory has room")),
                    Action::Populate(job) => self.helped.run(|| job.run()),
                    Action::Outcome(outcome) => {
                        if let Err(error) = outcome.result {
                            panic!("a put fails: {error}");
                        }
                        self.outcomes += 1;
                    }
                    _ => {}
                }
            }
            if self.actions.is_empty() {
                self.actions = actions;
            }
            if !answered && !self.replica.has_work() {
                return;
            }
        }
    }

    fn fill(&mut self, keys: u64, value_bytes: usize) {
        for _ in 0..keys / 256 {
            for _ in 0..256 {
                self.put(keys, value_bytes);
            }
            self.settle();
        }
    }

    /// Puts and the processor time that they took, the making of the requests left out.
    fn measure(&mut self, batch: u64, seconds: u64, keys: u64, value_bytes: usize) -> Cost {
        let (mut puts, mut making) = (0, 0);
        (self.outcomes, self.helped) = (0, Helped::default());
        let (started, before) = (cpu_ns(), ALLOCATIONS.load(Ordering::Relaxed));
        while cpu_ns() - started < seconds * 1_000_000_000 {
            for _ in 0..256 {
                self.now += 1;
                self.replica.handle(Event::Tick { now: self.now }, &mut self.actions);
                for _ in 0..batch {
                    self.put(keys, value_bytes);
                }
                self.settle();
                puts += batch;
            }
        }
        let took = cpu_ns() - started - self.helped.cpu_ns;
        let allocated = ALLOCATIONS.load(Ordering::Relaxed) - before - self.helped.allocations;
        assert_eq!(self.outcomes, puts, "every put was answered");
        // The same loop without the replica.
        let (started, before) = (cpu_ns(), ALLOCATIONS.load(Ordering::Relaxed));
        for _ in 0..puts.min(200_000) {
            let key = format!("/registry/pods/{:012}", self.random.below(keys)).into_bytes();
            std::hint::black_box((key, vec![7u8; value_bytes]));
            making += 1;
        }
        let one = (cpu_ns() - started) as f64 / making as f64;
        let allocated_by_one = (ALLOCATIONS.load(Ordering::Relaxed) - before) / making;
        Cost {
            puts,
            cpu_ns: took - (one * puts as f64) as u64,
            allocations: allocated - allocated_by_one * puts,
        }
    }
}

/// Processor time of this thread, ns.
fn cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes the structure it is given.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
