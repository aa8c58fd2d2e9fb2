//! Faults of the device under the scripts of `sim::crash`: see `sim::crash::faults`.
//!
//! FAULT_TRIALS (25; 100 over the first initialisation): faults of each kind over each script. SEED (1): of the runs. FAULT_TRIAL: only this one.

use sim::crash::Script;
use sim::crash::faults::{self, Kind, Tallies, Tally};
use sim::world::profile::Focus;
use sim::world::{self, Options};

/// Most of what a first start writes it writes once: few sectors have been something else before, to which rot could
/// bring them back.
fn trials(script: Script) -> u64 {
    let usual = if script == Script::FirstInitialisation { 100 } else { 25 };
    variable("FAULT_TRIALS").unwrap_or(usual)
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

fn every_fault_of(script: Script) -> Tallies {
    let (seed, only) = (variable("SEED").unwrap_or(1), variable("FAULT_TRIAL"));
    let tried = faults::try_all(script, seed, trials(script), only);
    let tallies = tried.unwrap_or_else(|law| panic!("{law}"));
    for (kind, tally) in &tallies {
        println!("{script}, {kind:?}: {tally}");
    }
    if only.is_none() {
        assert_eq!(tallies.len(), Kind::ALL.len(), "every kind was tried");
        let right = |kind: &Kind| tallies[kind].right > 0;
        let sure = Kind::ALL.iter().filter(|kind| !READS.contains(kind));
        assert!(sure.clone().all(right), "a start that is always refused proves nothing");
    }
    tallies
}

fn sum(tallies: &Tallies, kinds: &[Kind], of: impl Fn(&Tally) -> u64) -> u64 {
    kinds.iter().filter_map(|kind| tallies.get(kind)).map(of).sum()
}

const LIES: &[Kind] = &[Kind::Lost, Kind::Misdirected, Kind::Lying];
const ROT: &[Kind] = &[Kind::RotFlip, Kind::RotZeros, Kind::RotStale, Kind::RotCopy];
const READS: &[Kind] = &[Kind::ReadIo, Kind::ReadShort];

/// The log has no pages; what is wrong with it is refused, or a tail that nothing speaks of.
fn a_log(script: Script) {
    let tallies = every_fault_of(script);
    if variable("FAULT_TRIAL").is_none() {
        for kinds in [LIES, ROT, READS] {
            assert!(sum(&tallies, kinds, |tally| tally.refused) > 0, "{kinds:?} were never refused");
        }
        assert!(sum(&tallies, LIES, |tally| tally.tails) > 0, "no tail was lost");
        assert_eq!(sum(&tallies, Kind::ALL.as_slice(), |tally| tally.twins + tally.verified), 0);
    }
}

fn a_store(script: Script) {
    let tallies = every_fault_of(script);
    if variable("FAULT_TRIAL").is_none() {
        for kinds in [LIES, ROT] {
            let found = sum(&tallies, kinds, |tally| tally.refused + tally.verified);
            assert!(found > 0, "{kinds:?} were never found");
        }
        assert!(sum(&tallies, READS, |tally| tally.refused) > 0, "a failed read stops a start");
        // Bits that flip have no twin.
        let sure = [Kind::Io, Kind::NoSpace, Kind::Short, Kind::RotFlip, Kind::RotZeros, Kind::ReadFlipped];
        assert_eq!(sum(&tallies, &sure, |tally| tally.twins), 0);
        for (kind, tally) in &tallies {
            let found = tally.refused + tally.behind + tally.verified;
            let images = tally.right + tally.tails + found + tally.twins;
            assert!(tally.twins * 20 <= images, "{kind:?}: what nothing can tell is rare: {tally}");
        }
    }
}

#[test]
fn log_append() {
    a_log(Script::LogAppend);
}

#[test]
fn segment_recycling() {
    a_log(Script::SegmentRecycling);
}

#[test]
fn snapshot() {
    a_log(Script::Snapshot);
}

#[test]
fn checkpoint() {
    a_store(Script::Checkpoint);
}

#[test]
fn growth() {
    a_store(Script::Growth);
}

#[test]
fn first_initialisation() {
    every_fault_of(Script::FirstInitialisation);
}

#[test]
fn compaction() {
    a_store(Script::Compaction);
}

#[test]
fn replica() {
    a_store(Script::Replica);
}

#[test]
fn a_seed_replays() {
    let run = || faults::try_all(Script::Checkpoint, 3, 2, None);
    assert_eq!(run(), run());
}

/// Of the world: its checker took a restart while the clock stood still for one of before, or of after.
#[test]
fn a_restart_under_a_clock_that_stands_still() {
    for (seed, focus) in [(99, Focus::Crash), (119, Focus::Lease)] {
        let outcome = world::run(seed, Options::new(false, focus));
        assert_eq!(outcome.failure, None, "sim --seed {seed} --focus {} --trace", focus.name());
    }
}
