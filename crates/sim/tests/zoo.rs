//! Every bug of the zoo is found by the seeds that stand in its table, and nothing without one.
//!
//! `cargo test --profile sim -p mainstay-sim --features zoo --test zoo -- --nocapture` prints seed, bug and failing step.
//! ZOO_THREADS (2): how many bugs are tried at once.

use std::collections::BTreeSet;

use sim::zoo::{self, TABLE, Verdict};

#[test]
fn every_bug_is_in_the_table_once() {
    let listed: Vec<_> = TABLE.iter().map(|exhibit| exhibit.bug).collect();
    let set: BTreeSet<_> = listed.iter().copied().collect();
    assert_eq!(listed.len(), set.len(), "a bug stands there twice");
    assert_eq!(set, base::bug::ALL.iter().copied().collect(), "a bug of base::bug is missing");
}

#[test]
fn every_bug_is_found_and_nothing_without() {
    let threads = std::env::var("ZOO_THREADS").map_or(2, |threads| threads.parse().expect("a number"));
    let verdicts = zoo::on_threads(threads, TABLE, |&exhibit| {
        let verdict = zoo::look(exhibit, zoo::FINDERS);
        println!("{}", zoo::text(&verdict));
        verdict
    });
    let missed: Vec<&Verdict> = verdicts.iter().filter(|verdict| !verdict.is_found()).collect();
    assert!(missed.is_empty(), "not found: {missed:#?}");
    let (_, alarms) = zoo::without_bugs(threads, &verdicts);
    assert!(alarms.is_empty(), "found without a bug: {alarms:#?}");
}
