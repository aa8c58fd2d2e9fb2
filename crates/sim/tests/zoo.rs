//! Every bug of the zoo is found by the seeds that stand in its table, by what the table says, and nothing without one.
//!
//! `cargo test --profile sim -p mainstay-sim --features zoo --test zoo -- --nocapture` prints seed, bug and failing step.
//! ZOO_THREADS (2): how many bugs are tried at once. ZOO_BUGS (all): these alone, with commas between.

use std::collections::BTreeSet;

use base::bug::Bug;
use sim::zoo::{self, Exhibit, TABLE, Verdict};

#[test]
fn every_bug_is_in_the_table_once() {
    let listed: Vec<_> = TABLE.iter().map(|exhibit| exhibit.bug).collect();
    let set: BTreeSet<_> = listed.iter().copied().collect();
    assert_eq!(listed.len(), set.len(), "a bug stands there twice");
    assert_eq!(set, base::bug::ALL.iter().copied().collect(), "a bug of base::bug is missing");
    for exhibit in TABLE {
        assert!(exhibit.seeds >= zoo::FINDERS as u64 && !exhibit.signs.is_empty(), "{:?}", exhibit.bug);
    }
}

fn wanted() -> Vec<Exhibit> {
    let Ok(names) = std::env::var("ZOO_BUGS") else { return TABLE.to_vec() };
    let named = |name: &str| Bug::parse(name).unwrap_or_else(|| panic!("{name} is no bug of the zoo"));
    let bugs: BTreeSet<Bug> = names.split(',').map(named).collect();
    TABLE.iter().copied().filter(|exhibit| bugs.contains(&exhibit.bug)).collect()
}

#[test]
fn every_bug_is_found_by_its_signs_and_nothing_without() {
    let threads = std::env::var("ZOO_THREADS").map_or(2, |threads| threads.parse().expect("a number"));
    let verdicts = zoo::on_threads(threads, &wanted(), |&exhibit| {
        let verdict = zoo::look(exhibit, zoo::FINDERS);
        println!("{}", zoo::text(&verdict));
        verdict
    });
    let missed: Vec<&Verdict> = verdicts.iter().filter(|verdict| !verdict.is_found()).collect();
    assert!(missed.is_empty(), "not found, or by what the table does not say: {missed:#?}");
    let (seeds, alarms) = zoo::without_bugs(threads, &verdicts);
    assert!(alarms.is_empty(), "found without a bug: {alarms:#?}");
    println!("{} bugs, all found; {seeds} seeds without a bug, nothing found", verdicts.len());
}
