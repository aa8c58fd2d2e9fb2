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
                    let focus = Focus::of_seed(seed);
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

/// Seeds that once found something.
fn find_nothing_any_more(seeds: &[u64], focus: Focus) {
    for &seed in seeds {
        let outcome = world::run(seed, Options::new(false, focus));
        assert_eq!(outcome.failure, None, "sim --seed {seed} --focus {} --trace", focus.name());
        assert!(outcome.operations > 100, "a seed in which nothing happens proves nothing");
    }
}

#[test]
fn a_lowered_alarm_came_up_again_at_a_restart() {
    find_nothing_any_more(&[621, 726], Focus::Quota);
}

#[test]
fn a_lease_was_gone_while_the_log_was_not_applied() {
    find_nothing_any_more(&[5461], Focus::Watch);
    find_nothing_any_more(&[6227], Focus::Checkpoint);
}

#[test]
fn snapshots_that_nobody_read_took_all_room() {
    find_nothing_any_more(&[300], Focus::None);
}

#[test]
fn a_compaction_by_itself_was_taken_for_a_loss() {
    find_nothing_any_more(&[963], Focus::Checkpoint);
}

#[test]
fn a_promotion_was_taken_for_a_prolonged_lease() {
    find_nothing_any_more(&[816], Focus::Checkpoint);
}

#[test]
fn room_in_a_connection_was_noticed_late() {
    find_nothing_any_more(&[12, 15, 17], Focus::Flood);
}

#[test]
fn events_in_a_slow_network_were_taken_for_lost() {
    find_nothing_any_more(&[844], Focus::Flood);
}

#[test]
fn an_expired_lease_was_revoked_twice() {
    find_nothing_any_more(&[29], Focus::Lease);
}

#[test]
fn a_drop_of_cold_pages_took_the_reserve() {
    find_nothing_any_more(&[258], Focus::Disk);
}
