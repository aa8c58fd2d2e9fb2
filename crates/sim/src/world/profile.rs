//! What a seed makes of its run: sizes, workload and faults, drawn together, so that over the seeds every mechanism
//! meets every other in quiet and in stormy weather. (Swarm testing: a run that does less of most things does more of
//! one thing.)
//!
//! Sizes are small, so that segments are recycled, checkpoints made, the file grown, history compacted and cold pages
//! dropped within simulated minutes.

use base::Random;

use super::network::Quality;
use super::queue::between;

/// What a run is bent towards: more of what meets there, and less time. Ordinary runs have none, and are what proves
/// the product; a run with a focus looks for one kind of mistake (the zoo), or is one that somebody wants to see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Focus {
    #[default]
    None,
    /// Ends without warning, small segments, checkpoints all the time.
    Crash,
    /// Many watchers, slow readers, short rings, compactions.
    Watch,
    /// Leases that are granted, renewed, given other keys, and end.
    Lease,
    /// Reads of the past, in pieces, and compactions.
    History,
    /// The power goes within the operations of checkpoints, and the disk has errors.
    Checkpoint,
    /// A tight quota, alarms that are lowered, compactions.
    Quota,
    /// Full disks, long values, long logs.
    Disk,
    /// Long values and slow readers fill the queues of watchers.
    Flood,
    /// Memory is given back while checkpoints run.
    Memory,
}

impl Focus {
    pub const ALL: [Focus; 10] = [
        Focus::None,
        Focus::Crash,
        Focus::Watch,
        Focus::Lease,
        Focus::History,
        Focus::Checkpoint,
        Focus::Quota,
        Focus::Disk,
        Focus::Flood,
        Focus::Memory,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Focus::None => "none",
            Focus::Crash => "crash",
            Focus::Watch => "watch",
            Focus::Lease => "lease",
            Focus::History => "history",
            Focus::Checkpoint => "checkpoint",
            Focus::Quota => "quota",
            Focus::Disk => "disk",
            Focus::Flood => "flood",
            Focus::Memory => "memory",
        }
    }

    /// The one that a seed of a mixed run has: one seed in twenty runs its whole course, the others are bent in turn,
    /// which takes less time.
    pub fn of_seed(seed: u64) -> Focus {
        let bent = &Focus::ALL[1..];
        if seed.is_multiple_of(20) { Focus::None } else { bent[(seed % bent.len() as u64) as usize] }
    }

    pub fn parse(name: &str) -> Option<Focus> {
        Focus::ALL.into_iter().find(|focus| focus.name() == name)
    }
}

/// Sizes and options of a member.
#[derive(Clone, Debug)]
pub(super) struct Sizes {
    pub shards: u16,
    /// Log core and shard take turns on one thread, as on machines with few processors.
    pub shared_core: bool,
    pub segment_bytes: u64,
    pub batch_bytes: usize,
    pub in_flight: usize,
    pub chunk_bytes: u64,
    pub reserve_bytes: u64,
    pub dirty_bytes: u64,
    pub log_bytes: u64,
    pub checkpoint_interval_ms: u64,
    pub scrub: replica::ScrubPolicy,
    pub memory_budget_bytes: u64,
    pub quota_bytes: i64,
    pub auto_compaction: replica::AutoCompaction,
    pub progress_interval_ms: u64,
    pub max_request_bytes: usize,
    pub proposal_slots: usize,
    pub outcome_slots: usize,
    /// A batch of events goes to a shard only while more slots than this are free.
    pub event_slots_kept: usize,
    pub helpers: usize,
}

impl Sizes {
    /// The server compacts without being asked.
    pub fn compacts_by_itself(&self) -> bool {
        !matches!(self.auto_compaction, replica::AutoCompaction::Off)
    }
}

/// How often clients do what; weights.
#[derive(Clone, Debug, Default)]
pub(super) struct Mix {
    pub put: u64,
    pub delete: u64,
    pub txn: u64,
    pub range: u64,
    /// Sorted, filtered: compared with a model of its own.
    pub odd_range: u64,
    pub stream: u64,
    pub compact: u64,
    pub grant: u64,
    pub revoke: u64,
    pub keep_alive: u64,
    pub time_to_live: u64,
    pub hash: u64,
    pub snapshot: u64,
    pub defragment: u64,
    /// Lowers the alarm that room raised.
    pub disarm: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Workload {
    pub clients: u32,
    pub keys: u64,
    /// The longest value, bytes.
    pub value_bytes: u64,
    /// One put in so many has a value of about that length; the others are short.
    pub long_one_in: u64,
    pub mix: Mix,
    /// One compaction in so many asks for its physical end, which makes a checkpoint.
    pub physical_one_in: u64,
    /// Operations that a client has under way together.
    pub depth: usize,
    /// Between operations of a burst, and between bursts, microseconds.
    pub think_us: (u64, u64),
    pub rest_us: (u64, u64),
    pub burst: u64,
    pub watchers: u64,
    /// Watch streams have a connection of their own.
    pub streams_apart: bool,
    pub window_bytes: u32,
    pub give_up_us: (u64, u64),
}

/// Weights of faults; 0 is never.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    pub every_us: (u64, u64),
    pub power: u64,
    pub power_at_operation: u64,
    pub kill: u64,
    pub restart: u64,
    pub pause: u64,
    pub clock_jump: u64,
    pub clock_rate: u64,
    pub io_error: u64,
    pub no_space: u64,
    pub full_disk: u64,
    pub slow_disk: u64,
    pub slow_helpers: u64,
    pub slow_core: u64,
    pub partition: u64,
    pub reset: u64,
    pub slow_reader: u64,
    pub memory: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Profile {
    pub sizes: Sizes,
    pub workload: Workload,
    pub faults: Faults,
    pub network: Quality,
    /// How long faults come, microseconds.
    pub storm_us: u64,
}

fn pick<T: Copy>(random: &mut Random, from: &[T]) -> T {
    from[random.below(from.len() as u64) as usize]
}

/// A weight that is 0 in some runs and large in a few.
fn weight(random: &mut Random, usual: u64) -> u64 {
    match random.below(8) {
        0 | 1 => 0,
        2 => 4 * usual,
        _ => usual,
    }
}

impl Profile {
    pub fn draw(random: &mut Random, focus: Focus) -> Profile {
        // Long values fill queues and windows: watchers stall, answers come in fragments and piece by piece.
        let heavy = random.one_in(8) || focus == Focus::Flood;
        let mut profile = Profile {
            sizes: sizes(random, heavy),
            workload: workload(random, heavy),
            faults: faults(random),
            network: Quality {
                delay_us: (20, pick(random, &[300, 2_000, 50_000])),
                buffer_bytes: pick(random, &[4 << 10, 64 << 10, 256 << 10]),
                ..Quality::default()
            },
            storm_us: between(random, 60, 420) * 1_000_000,
        };
        if focus != Focus::None {
            profile.bend(random, focus);
        }
        profile
    }

    fn bend(&mut self, random: &mut Random, focus: Focus) {
        let Profile { sizes, workload, faults, network, storm_us } = self;
        *storm_us = between(random, 30, 90) * 1_000_000;
        workload.clients = workload.clients.max(2);
        workload.rest_us.1 = workload.rest_us.1.min(3_000_000);
        workload.mix.put = workload.mix.put.max(20);
        network.delay_us.1 = network.delay_us.1.min(2_000);
        faults.every_us = (500_000, 15_000_000);
        // Clocks are true in most, so that what lives by them has its time. A copy decides: what is drawn after this is
        // the same either way.
        let (one_in, weight) = if focus == Focus::Lease { (2, 3) } else { (4, 1) };
        let trouble = Random::new(random.clone().next_u64()).one_in(one_in);
        faults.clock_jump = if trouble { faults.clock_jump.max(weight) } else { 0 };
        faults.clock_rate = if trouble { faults.clock_rate.max(weight) } else { 0 };
        match focus {
            Focus::None => {}
            Focus::Crash => {
                faults.every_us = (100_000, 6_000_000);
                (faults.power, faults.power_at_operation, faults.kill) = (8, 12, 8);
                faults.io_error = faults.io_error.max(2);
                // Writes stay in flight long enough to be caught there.
                faults.slow_disk = 10;
                sizes.in_flight = pick(random, &[2, 4, 8]);
                sizes.segment_bytes = sizes.segment_bytes.min(256 << 10);
                sizes.batch_bytes = sizes.batch_bytes.min(16 << 10);
                sizes.log_bytes = 2 * sizes.segment_bytes;
                sizes.dirty_bytes = pick(random, &[32 << 10, 128 << 10]);
                sizes.checkpoint_interval_ms = pick(random, &[500, 2_000, 10_000]);
                sizes.quota_bytes = -1;
                workload.value_bytes = pick(random, &[400, 6_000, 12_000]);
                workload.long_one_in = 3;
                workload.depth = 6;
                workload.mix.range = workload.mix.range.max(14);
                sizes.max_request_bytes = 128 << 10;
            }
            Focus::Watch => {
                faults.slow_reader = 8;
                faults.reset = faults.reset.max(3);
                faults.partition = faults.partition.max(2);
                sizes.outcome_slots = 4;
                sizes.event_slots_kept = pick(random, &[2, 3]);
                sizes.progress_interval_ms = 300;
                workload.watchers = 6;
                workload.clients = workload.clients.max(3);
                workload.window_bytes = 64 << 10;
                workload.value_bytes = pick(random, &[400, 6_000, 30_000]);
                workload.long_one_in = 2;
                workload.mix.delete = workload.mix.delete.max(10);
                workload.mix.compact = workload.mix.compact.max(3);
                network.buffer_bytes = 4 << 10;
            }
            Focus::Lease => {
                faults.power = faults.power.max(3);
                faults.slow_disk = 6;
                workload.mix.grant = 10;
                workload.mix.keep_alive = 16;
                workload.mix.revoke = 2;
                workload.mix.time_to_live = 12;
                workload.rest_us.1 = 1_000_000;
                workload.keys = workload.keys.min(40);
                sizes.quota_bytes = -1;
            }
            Focus::History => {
                faults.power = faults.power.max(3);
                faults.slow_reader = faults.slow_reader.max(4);
                workload.mix.range = 30;
                workload.mix.stream = 8;
                workload.mix.delete = workload.mix.delete.max(10);
                workload.mix.txn = workload.mix.txn.max(10);
                workload.mix.compact = 6;
                workload.keys = pick(random, &[8, 40]);
                workload.watchers = 3;
                workload.value_bytes = pick(random, &[400, 6_000, 30_000]);
                workload.long_one_in = 2;
                workload.window_bytes = 64 << 10;
                network.buffer_bytes = 4 << 10;
                sizes.quota_bytes = -1;
            }
            Focus::Checkpoint => {
                faults.every_us = (50_000, 1_500_000);
                (faults.power, faults.power_at_operation, faults.kill, faults.io_error) = (0, 24, 2, 6);
                sizes.dirty_bytes = 32 << 10;
                sizes.checkpoint_interval_ms = 500;
                sizes.quota_bytes = -1;
                workload.keys = 200;
                workload.value_bytes = pick(random, &[400, 6_000]);
                workload.rest_us.1 = 300_000;
            }
            Focus::Quota => {
                (faults.power, faults.kill) = (8, 8);
                (faults.full_disk, faults.no_space) = (0, 0);
                sizes.quota_bytes = between(random, 112 << 10, 288 << 10) as i64;
                // Much to apply again at a start.
                sizes.checkpoint_interval_ms = 60_000;
                sizes.dirty_bytes = 8 << 20;
                sizes.segment_bytes = 256 << 10;
                sizes.log_bytes = 2 << 20;
                workload.keys = 40;
                workload.value_bytes = pick(random, &[2_000, 6_000]);
                workload.long_one_in = 2;
                workload.mix.compact = 12;
                workload.mix.delete = 12;
                workload.mix.disarm = 20;
                workload.rest_us.1 = 500_000;
            }
            Focus::Disk => {
                (faults.full_disk, faults.no_space) = (24, 3);
                sizes.quota_bytes = -1;
                sizes.reserve_bytes = 512 << 10;
                workload.keys = 200;
                workload.value_bytes = 30_000;
                workload.long_one_in = 1;
                workload.mix.put = 80;
                workload.mix.disarm = 6;
                workload.clients = 2;
                workload.depth = 6;
                workload.burst = 60;
                workload.watchers = workload.watchers.min(1);
                *storm_us /= 2;
                // In half of them the disk is full while compactions keep up with the puts, and no checkpoint is made: a
                // start then has much to apply again, and no more room than there was. A copy decides, as above.
                if Random::new(random.clone().next_u64()).one_in(2) {
                    (faults.kill, faults.power) = (12, 6);
                    sizes.checkpoint_interval_ms = 60_000;
                    sizes.dirty_bytes = 16 << 20;
                    sizes.segment_bytes = 1 << 20;
                    sizes.log_bytes = 8 << 20;
                    sizes.memory_budget_bytes = pick(random, &[2 << 20, 64 << 20]);
                    (workload.keys, workload.depth) = (8, 1);
                    workload.physical_one_in = 100;
                    workload.mix =
                        Mix { put: 60, delete: 2, range: 3, compact: 6, disarm: 6, ..Mix::default() };
                }
            }
            Focus::Flood => {
                faults.slow_reader = 20;
                faults.every_us = (100_000, 4_000_000);
                faults.partition = faults.partition.max(4);
                sizes.quota_bytes = -1;
                workload.long_one_in = 2;
                workload.watchers = 3;
                workload.clients = 2;
                workload.keys = 8;
                workload.mix = Mix { put: 30, delete: 3, range: 3, compact: 1, ..Mix::default() };
                network.buffer_bytes = 4 << 10;
            }
            Focus::Memory => {
                faults.memory = 20;
                faults.slow_helpers = 6;
                faults.every_us = (100_000, 2_000_000);
                faults.power = faults.power.max(3);
                sizes.memory_budget_bytes = 0;
                sizes.checkpoint_interval_ms = 500;
                sizes.shared_core = random.one_in(2);
                workload.keys = 200;
                workload.value_bytes = pick(random, &[400, 6_000]);
                workload.mix.hash = workload.mix.hash.max(4);
                workload.mix.snapshot = workload.mix.snapshot.max(2);
            }
        }
    }
}

fn sizes(random: &mut Random, heavy: bool) -> Sizes {
    let batch_bytes = if heavy { 64 << 10 } else { pick(random, &[8 << 10, 16 << 10, 32 << 10]) };
    let segment_bytes = if heavy { 1 << 20 } else { pick(random, &[96 << 10, 128 << 10, 256 << 10]) };
    let quota_bytes = if random.one_in(6) { between(random, 128 << 10, 1 << 20) as i64 } else { -1 };
    Sizes {
        shards: pick(random, &[1, 1, 2, 3]),
        shared_core: random.one_in(3),
        segment_bytes,
        batch_bytes,
        in_flight: pick(random, &[1, 2, 4, 8]),
        chunk_bytes: if heavy { 1 << 20 } else { 256 << 10 },
        reserve_bytes: if heavy { 2 << 20 } else { 1 << 20 },
        dirty_bytes: pick(random, &[32 << 10, 128 << 10, 1 << 20]),
        log_bytes: 2 * segment_bytes,
        checkpoint_interval_ms: pick(random, &[2_000, 10_000, 60_000]),
        scrub: replica::ScrubPolicy {
            delay_ms: 0,
            pages_per_second: pick(random, &[1, 16, 256]),
            pass_ms: 60_000,
            rest_ms: pick(random, &[0, 10_000]),
        },
        memory_budget_bytes: pick(random, &[0, 64 << 10, 64 << 20]),
        quota_bytes,
        auto_compaction: match random.below(6) {
            0 => replica::AutoCompaction::Periodic { retention_ms: between(random, 5_000, 60_000) },
            1 => replica::AutoCompaction::Revision { revisions: between(random, 20, 300) as i64 },
            _ => replica::AutoCompaction::Off,
        },
        progress_interval_ms: pick(random, &[300, 2_000, 10_000]),
        max_request_bytes: if heavy { 256 << 10 } else { 128 << 10 },
        proposal_slots: pick(random, &[2, 16, 256]),
        outcome_slots: pick(random, &[4, 32, 512]),
        event_slots_kept: pick(random, &[1, 2, 3]),
        helpers: pick(random, &[1, 2, 4]),
    }
}

fn workload(random: &mut Random, heavy: bool) -> Workload {
    let mix = Mix {
        put: 4 + weight(random, 30),
        delete: weight(random, 6),
        txn: weight(random, 10),
        range: weight(random, 14),
        odd_range: weight(random, 4),
        stream: weight(random, 2),
        compact: weight(random, 3),
        grant: weight(random, 4),
        revoke: weight(random, 1),
        keep_alive: weight(random, 4),
        time_to_live: weight(random, 2),
        hash: weight(random, 2),
        // Each costs as much as the store is large, on the disk, on the way and in the history.
        snapshot: if heavy { 0 } else { weight(random, 1) / 2 },
        defragment: weight(random, 1),
        disarm: 0,
    };
    Workload {
        clients: between(random, 1, 5) as u32,
        keys: pick(random, &[2, 8, 40, 200]),
        value_bytes: if heavy { 200 << 10 } else { pick(random, &[16, 400, 6_000, 30_000]) },
        long_one_in: if heavy { 6 } else { pick(random, &[2, 5, 20]) },
        mix,
        physical_one_in: 3,
        depth: pick(random, &[1, 2, 6]),
        think_us: (1, pick(random, &[500, 20_000])),
        rest_us: (1_000, pick(random, &[1_000_000, 10_000_000, 30_000_000])),
        burst: pick(random, &[4, 20, 60]),
        watchers: pick(random, &[0, 1, 3, 6]),
        streams_apart: random.one_in(2),
        window_bytes: pick(random, &[64 << 10, 256 << 10, 4 << 20]),
        give_up_us: (pick(random, &[50_000, 2_000_000]), 20_000_000),
    }
}

fn faults(random: &mut Random) -> Faults {
    // Some runs are calm: what goes wrong in them goes wrong by itself.
    if random.one_in(12) {
        return Faults { every_us: (600_000_000, 700_000_000), power: 1, ..Faults::default() };
    }
    Faults {
        every_us: (pick(random, &[100_000, 2_000_000]), pick(random, &[20_000_000, 60_000_000])),
        power: weight(random, 3),
        power_at_operation: 1 + weight(random, 4),
        kill: weight(random, 3),
        restart: weight(random, 2),
        pause: weight(random, 3),
        clock_jump: weight(random, 1),
        clock_rate: weight(random, 1),
        io_error: weight(random, 1),
        no_space: weight(random, 1),
        full_disk: weight(random, 1),
        slow_disk: weight(random, 2),
        slow_helpers: weight(random, 2),
        slow_core: weight(random, 2),
        partition: weight(random, 2),
        reset: weight(random, 3),
        slow_reader: weight(random, 2),
        memory: weight(random, 2),
    }
}
