//! Seeds of the simulated world, every time the tests run: some as they come, most bent towards something, which takes
//! less time. None may find anything.
//!
//! SIM_SEED (1) and SIM_SEEDS (1000) choose others; what is found is replayed by the command that the failure names.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use sim::world::profile::Focus;
use sim::world::{self, Options};

fn variable(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().expect("a number"))
}

/// One seed in twenty runs its whole course.
fn focus(seed: u64) -> Focus {
    const BENT: [Focus; 7] = [
        Focus::Crash,
        Focus::Watch,
        Focus::Lease,
        Focus::History,
        Focus::Checkpoint,
        Focus::Quota,
        Focus::Memory,
    ];
    if seed.is_multiple_of(20) { Focus::None } else { BENT[(seed % BENT.len() as u64) as usize] }
}

#[test]
fn seeds_find_nothing() {
    let (first, seeds) = (variable("SIM_SEED", 1), variable("SIM_SEEDS", 1000));
    let next = AtomicU64::new(first);
    let ran = AtomicU64::new(0);
    let operations = AtomicU64::new(0);
    let findings = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + seeds {
                        return;
                    }
                    let focus = focus(seed);
                    let outcome = world::run(seed, Options::new(false, focus));
                    ran.fetch_add(1, Ordering::Relaxed);
                    operations.fetch_add(outcome.operations, Ordering::Relaxed);
                    if let Some(failure) = outcome.failure {
                        let replay = format!("sim --seed {seed} --focus {} --trace", focus.name());
                        findings.lock().expect("no panic holds it").push(format!("{replay}: {failure}"));
                    }
                }
            });
        }
    });
    let findings = findings.into_inner().expect("no panic holds it");
    println!("{} seeds, {} operations", ran.load(Ordering::Relaxed), operations.load(Ordering::Relaxed));
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
    assert_eq!(ran.into_inner(), seeds);
    assert!(operations.into_inner() > 100 * seeds, "seeds in which nothing happens prove nothing");
}
