//! Seeds of the simulated world, every time the tests run: some as they come, most bent towards something, which takes
//! less time. None may find anything, and together they must have exercised every mechanism that is counted.
//!
//! Seeds that once found something are run again below. The world draws anew with every change of it, so that they are
//! no proof of anything by themselves: beside each stands the test that holds the same thing directly.
//!
//! SIM_SEED (1) and SIM_SEEDS (1000) choose others; what is found is replayed by the command that the failure names.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use sim::world::coverage::Coverage;
use sim::world::profile::Focus;
use sim::world::{self, Options};

/// So many mixed seeds reach everything.
const SEEDS_OF_ALL: u64 = 1000;

fn variable(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().expect("a number"))
}

#[test]
fn seeds_find_nothing() {
    let (first, seeds) = (variable("SIM_SEED", 1), variable("SIM_SEEDS", SEEDS_OF_ALL));
    let next = AtomicU64::new(first);
    let ran = AtomicU64::new(0);
    let operations = AtomicU64::new(0);
    let findings = Mutex::new(Vec::new());
    let coverage = Mutex::new(Coverage::default());
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
                    let outcome = world::run(seed, Options { hash: false, ..Options::new(false, focus) });
                    ran.fetch_add(1, Ordering::Relaxed);
                    operations.fetch_add(outcome.operations, Ordering::Relaxed);
                    *coverage.lock().expect("no panic holds it") += &outcome.coverage;
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
    let coverage = coverage.into_inner().expect("no panic holds it");
    println!("{coverage}");
    if seeds >= SEEDS_OF_ALL {
        let missing: Vec<_> = coverage.missing().into_iter().map(|mechanism| mechanism.text()).collect();
        assert!(missing.is_empty(), "no seed has exercised {missing:?}");
    }
}

/// Seeds that once found something.
fn find_nothing_any_more(seeds: &[u64], focus: Focus) {
    let mut operations = 0;
    for &seed in seeds {
        let outcome = world::run(seed, Options::new(false, focus));
        assert_eq!(outcome.failure, None, "sim --seed {seed} --focus {} --trace", focus.name());
        operations += outcome.operations;
    }
    assert!(operations > 100 * seeds.len() as u64, "seeds in which nothing happens prove nothing");
}

/// The product's; directly: `a_write_of_an_earlier_life_raises_no_alarm` of `replica/tests/behaviour.rs`.
#[test]
fn a_lowered_alarm_came_up_again_at_a_restart() {
    find_nothing_any_more(&[621, 726], Focus::Quota);
}

/// The product's; directly: `ReadBeforeReplay` of the zoo, which serves before the log is applied.
#[test]
fn a_lease_was_gone_while_the_log_was_not_applied() {
    find_nothing_any_more(&[5461], Focus::Watch);
    find_nothing_any_more(&[6227], Focus::Checkpoint);
}

/// The product's; directly: `a_start_without_room_takes_what_is_covered` of `wal/tests/log.rs`.
#[test]
fn a_start_found_no_segment_where_some_were_not_needed_any_more() {
    find_nothing_any_more(&[566], Focus::Memory);
}

/// The product's; directly: `a_store_that_goes_on_beside_it_raises_no_alarm` of `tree/tests/scrub.rs`.
#[test]
fn a_meta_that_was_just_written_anew_was_taken_for_damage() {
    find_nothing_any_more(&[982], Focus::Watch);
}

/// The product's; directly: `snapshots_on_their_way_are_bounded` of `api/src/maintenance.rs`.
#[test]
fn snapshots_that_nobody_read_took_all_room() {
    find_nothing_any_more(&[300], Focus::None);
}

/// The product's; directly: `a_full_disk_leaves_nothing_behind` of `wal/src/segment.rs`.
#[test]
fn a_file_that_could_not_be_removed_went_unsaid() {
    find_nothing_any_more(&[2092], Focus::Checkpoint);
}

/// The world's own: a client asked for the compaction that the member made by itself, and came second.
#[test]
fn a_compaction_by_itself_was_taken_for_a_clients() {
    find_nothing_any_more(&[21243], Focus::History);
    find_nothing_any_more(&[36982], Focus::Watch);
}

/// The world's own: starts that were cut short had taken the segment; a member that ends refuses what comes, and stores none.
#[test]
fn a_start_without_a_segment_had_a_reason() {
    find_nothing_any_more(&[6826, 23575], Focus::Checkpoint);
    find_nothing_any_more(&[26010], Focus::Crash);
}

/// The world's own: its finale compared what may differ.
#[test]
fn a_compaction_by_itself_was_taken_for_a_loss() {
    find_nothing_any_more(&[963], Focus::Checkpoint);
}

/// The checkers' own; directly: the right histories with restarts, and "a restart gives more than another term", of
/// `tests/checkers.rs`.
#[test]
fn a_promotion_was_taken_for_a_prolonged_lease() {
    find_nothing_any_more(&[816], Focus::Checkpoint);
}

/// The world's own: whoever found a connection full was not woken when there was room.
#[test]
fn room_in_a_connection_was_noticed_late() {
    find_nothing_any_more(&[12, 15, 17], Focus::Flood);
}

/// The world's own: its finale did not wait for what still flowed.
#[test]
fn events_in_a_slow_network_were_taken_for_lost() {
    find_nothing_any_more(&[844], Focus::Flood);
}

/// The product's; directly: `an_expired_lease_is_revoked_once_however_slow_the_disk_is` of
/// `replica/tests/behaviour.rs`.
#[test]
fn an_expired_lease_was_revoked_twice() {
    find_nothing_any_more(&[29], Focus::Lease);
}

/// The product's; directly: `pages_that_a_drop_withholds_are_not_those_of_the_reserve` of `tree/tests/space.rs`.
#[test]
fn a_drop_of_cold_pages_took_the_reserve() {
    find_nothing_any_more(&[258], Focus::Disk);
}

/// The product's; directly: `what_is_held_is_there_for_a_run_whatever_else_was_stored` of `tree/tests/space.rs`.
#[test]
fn a_long_value_found_no_pages_side_by_side() {
    find_nothing_any_more(&[4993], Focus::Flood);
}

/// The product's; directly: `a_start_on_a_full_disk_needs_no_more_room_than_the_life_before` of
/// `replica/tests/replay.rs`.
#[test]
fn a_start_stored_again_what_compactions_had_removed() {
    find_nothing_any_more(&[51991], Focus::Flood);
}

/// The product's; directly: `room_that_was_promised_is_there_after_a_power_loss_when_others_have_filled_the_disk` of
/// `replica/tests/replay.rs`.
#[test]
fn a_power_loss_took_back_room_that_was_promised() {
    find_nothing_any_more(&[53772], Focus::Disk);
}

/// The product's; directly: `on_a_full_device_a_long_run_is_left_when_much_else_was_taken` of `tree/tests/growth.rs`.
#[test]
fn a_start_on_a_full_disk_splintered_the_only_long_run() {
    find_nothing_any_more(&[15918], Focus::Disk);
}

/// The checkers' own: no checkpoint was made in all of the run, and the store at rest was read as if there had been one.
#[test]
fn a_store_that_never_saw_a_checkpoint_was_taken_for_a_broken_one() {
    find_nothing_any_more(&[52269, 53430, 53988], Focus::Disk);
}

/// The checkers' own: a clock stood still, and what happened at one instant had no order.
#[test]
fn a_restart_within_an_instant_was_taken_for_an_earlier_one() {
    find_nothing_any_more(&[8180], Focus::None);
}

/// The world's own: watchers that catch up over a slow network were called missing.
#[test]
fn watchers_in_a_slow_network_were_taken_for_lost() {
    find_nothing_any_more(&[8620], Focus::None);
}
