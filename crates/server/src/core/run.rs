//! Threads and loops: the log core and the shards, each pinned, each in its ring.
//!
//! With one shard, the log core and the shard share a thread and a ring: `turn` looks at log completions first, so
//! that what they release (outcomes, events) is answered in the same turn. With more, each has a thread of its own
//! and doorbells between them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base::Millis;

use super::doorbell::Doorbell;
use super::logcore::{LogCore, fatal};
use super::shard::ShardCore;
use super::uring::{Completion, Ring, Tag};

/// The longest sleep of a core: timers are this coarse.
const SLEEP_MS: u64 = 50;

/// What runs on one thread.
pub struct Core {
    pub name: String,
    /// The processor to stay on.
    pub cpu: Option<usize>,
    pub doorbell: Doorbell,
    /// Made on the thread itself: a shard's reader and a replica's parts never change threads afterwards.
    pub log: Option<Box<dyn FnOnce() -> LogCore + Send>>,
    pub shard: Option<Box<dyn FnOnce() -> ShardCore + Send>>,
}

/// A clock that begins with the process: monotonic milliseconds.
#[derive(Clone, Copy)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    pub fn start() -> Clock {
        Clock { start: Instant::now() }
    }

    /// Never 0, so that 0 can mean "not yet".
    pub fn now(&self) -> Millis {
        Clock::millis(self.now_us())
    }

    /// Microseconds since the start.
    pub fn now_us(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    /// The same moment as [`Clock::now`] tells it.
    pub fn millis(us: u64) -> Millis {
        us / 1000 + 1
    }
}

/// Starts one core. It ends when `stop` is raised.
pub fn spawn(core: Core, clock: Clock, stop: Arc<AtomicBool>) -> std::io::Result<JoinHandle<()>> {
    let builder = std::thread::Builder::new().name(core.name.clone());
    builder.spawn(move || {
        if let Some(cpu) = core.cpu {
            pin(cpu);
        }
        let ring = match Ring::new(core.shard.is_some()) {
            Ok(ring) => ring,
            Err(error) => fatal(&super::ring_refused(&error)),
        };
        let log = core.log.map(|make| make());
        let shard = core.shard.map(|make| make());
        turn_until_stopped(ring, core.doorbell, log, shard, clock, &stop);
    })
}

fn turn_until_stopped(
    mut ring: Ring,
    doorbell: Doorbell,
    mut log: Option<LogCore>,
    mut shard: Option<ShardCore>,
    clock: Clock,
    stop: &AtomicBool,
) {
    ring.wake_on(doorbell.fd());
    let mut completions: Vec<Completion> = Vec::with_capacity(1024);
    while !stop.load(Ordering::Relaxed) {
        let now_us = clock.now_us();
        let now = Clock::millis(now_us);
        if let Some(shard) = &mut shard {
            shard.begin_turn(now_us);
        }
        ring.completions(&mut completions);
        if let Some(shard) = &mut shard {
            shard.settle(&mut ring, &completions, now);
        }
        // Log completions first: they decide what can be answered.
        if let Some(log) = &mut log {
            for completion in
                completions.iter().filter(|c| matches!(c.tag, Tag::Log { .. } | Tag::LogPart { .. }))
            {
                log.completed(completion);
            }
        }
        for completion in &completions {
            match completion.tag {
                Tag::Wake => {
                    doorbell.drain();
                    if !completion.more {
                        ring.wake_on(doorbell.fd());
                    }
                }
                Tag::Log { .. } | Tag::LogPart { .. } | Tag::Sent { .. } | Tag::Ignored => {}
                Tag::Accept { .. } | Tag::Receive { .. } | Tag::Writable { .. } => {
                    if let Some(shard) = &mut shard {
                        shard.completed(&mut ring, completion, now);
                    }
                }
            }
        }
        // Requests decoded above go to the log core before it turns, and its outcomes back before the shard flushes.
        if let Some(shard) = &mut shard {
            shard.hand_over();
            shard.share_time(clock);
        }
        if let Some(log) = &mut log {
            log.turn(&mut ring, now);
        }
        if let Some(shard) = &mut shard {
            shard.turn(&mut ring, now);
            shard.share_time(clock);
        }
        doorbell.announce_sleep();
        let busy =
            log.as_ref().is_some_and(LogCore::has_work) || shard.as_ref().is_some_and(ShardCore::has_work);
        let wait = if busy { None } else { Some(Duration::from_millis(SLEEP_MS)) };
        if busy {
            doorbell.announce_awake();
        }
        if let Err(error) = ring.enter(wait) {
            fatal(&format!("io_uring_enter failed: {error}"));
        }
        doorbell.announce_awake();
    }
}

/// Keeps the calling thread on one processor. Best effort: an affinity that is refused costs speed, nothing else.
fn pin(cpu: usize) {
    // SAFETY: an all-zero cpu_set_t is the empty set; the call reads it only.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set);
    }
}
