//! Every script of `sim::crash`: each operation of several runs crashed with every kind of survivor.
//!
//! CRASH_IMAGES (15000): images of each script, at least. SEED (1): of the first run.

use sim::crash::{self, Plan, Promises, Script};

/// Of each script: all together are above 100,000.
const IMAGES: u64 = 15_000;

fn variable(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |value| value.parse().expect("a number"))
}

fn every_crash_of(script: Script) {
    let images = variable("CRASH_IMAGES", IMAGES);
    let report = crash::enumerate(script, images, variable("SEED", 1));
    println!("{script}: {report}");
    if let Some(broken) = &report.broken {
        panic!("{broken}");
    }
    assert!(report.images >= images, "{report}");
    // Each operation is crashed in several ways, one of its recoveries is, and one life goes on.
    assert!(report.moments > 20 * report.runs && report.images > 5 * report.moments, "{report}");
    assert_eq!((report.recoveries_crashed, report.continued), (report.moments, report.moments), "{report}");
    assert!(report.recovery_images > report.moments, "{report}");
}

#[test]
fn all_scripts_together_are_a_hundred_thousand_images() {
    assert!(Script::ALL.len() as u64 * IMAGES >= 100_000);
}

#[test]
fn first_initialisation() {
    every_crash_of(Script::FirstInitialisation);
}

#[test]
fn log_append() {
    every_crash_of(Script::LogAppend);
}

#[test]
fn segment_recycling() {
    every_crash_of(Script::SegmentRecycling);
}

#[test]
fn checkpoint() {
    every_crash_of(Script::Checkpoint);
}

#[test]
fn growth() {
    every_crash_of(Script::Growth);
}

#[test]
fn compaction() {
    every_crash_of(Script::Compaction);
}

#[test]
fn snapshot() {
    every_crash_of(Script::Snapshot);
}

#[test]
fn replica() {
    every_crash_of(Script::Replica);
}

/// Acknowledged before it was durable: every script but finds that.
#[test]
fn a_broken_promise_is_found() {
    for script in Script::ALL {
        let plan = Plan { script, seed: 1, images: 50_000, operation: None, promises: Promises::Early };
        let report = plan.run();
        let Some(broken) = report.broken else { panic!("{script}: nothing was found in {report}") };
        let text = broken.to_string();
        let operation = broken.operation.expect("it shows in a crash");
        assert!(text.contains(&format!("--script {script} --seed {} --operation {operation}", broken.seed)));
        // And again from what it says.
        let again = Plan { seed: broken.seed, operation: Some(operation), ..plan }.run();
        assert_eq!(again.broken.map(|again| again.what), Some(broken.what), "{text}");
        assert!(again.images < 1000 && again.moments == 1);
    }
}

/// A seed replays.
#[test]
fn a_seed_replays() {
    for script in Script::ALL {
        assert_eq!(crash::enumerate(script, 1, 7), crash::enumerate(script, 1, 7));
    }
}
