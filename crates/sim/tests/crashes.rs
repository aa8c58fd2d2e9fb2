//! Every script of `sim::crash`: each operation of several runs crashed with every kind of survivor.
//!
//! CRASH_IMAGES (15000): images of each script, at least. SEED (1): of the first run.

use sim::crash::{self, Plan, Promises, Script};

/// Of each script: all together are above 100,000.
const IMAGES: u64 = 15_000;

fn variable(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |value| value.parse().expect("a number"))
}

/// Crashes `script`, whose runs and images must have met all of `mechanisms`.
fn every_crash_of(script: Script, mechanisms: &[&str]) {
    let images = variable("CRASH_IMAGES", IMAGES);
    let report = crash::enumerate(script, images, variable("SEED", 1));
    println!("{script}: {report}; met: {}", report.met);
    if let Some(broken) = &report.broken {
        panic!("{broken}");
    }
    assert!(report.images >= images, "{report}");
    // Each operation is crashed in several ways, one of its recoveries is, and one life goes on.
    assert!(report.moments > 20 * report.runs && report.images > 5 * report.moments, "{report}");
    assert_eq!((report.recoveries_crashed, report.continued), (report.moments, report.moments), "{report}");
    assert!(report.recovery_images > report.moments, "{report}");
    for mechanism in mechanisms {
        assert!(report.met.times(mechanism) > 0, "{mechanism} was not met, but {}", report.met);
    }
}

#[test]
fn all_scripts_together_are_a_hundred_thousand_images() {
    assert!(Script::ALL.len() as u64 * IMAGES >= 100_000);
    // Besides none, all, each and all but each, which `disk` sees to.
    assert_eq!(crash::DRAWN_SETS, 64);
}

#[test]
fn first_initialisation() {
    every_crash_of(
        Script::FirstInitialisation,
        &["founded", "a file named", "a torn tail cut", "more than was published"],
    );
}

#[test]
fn log_append() {
    every_crash_of(
        Script::LogAppend,
        &["a torn tail cut", "more than was acknowledged", "less than was appended"],
    );
}

#[test]
fn segment_recycling() {
    every_crash_of(
        Script::SegmentRecycling,
        &["a segment recycled", "a segment removed", "a file named", "a torn tail cut"],
    );
}

#[test]
fn checkpoint() {
    every_crash_of(
        Script::Checkpoint,
        &["a torn meta", "a checkpoint cut short", "a checkpoint nobody was told of", "the older meta"],
    );
}

#[test]
fn growth() {
    every_crash_of(
        Script::Growth,
        &["a data file of another length", "a step of shrinking", "a shorter file", "the older meta"],
    );
}

#[test]
fn compaction() {
    every_crash_of(
        Script::Compaction,
        &["a compaction finished", "a removal under way", "a checkpoint", "the older meta"],
    );
}

#[test]
fn snapshot() {
    every_crash_of(
        Script::Snapshot,
        &["a snapshot in place of the log", "a segment recycled", "a torn tail cut"],
    );
}

#[test]
fn replica() {
    every_crash_of(
        Script::Replica,
        &[
            "a checkpoint",
            "a compaction finished",
            "a lease ended",
            "a segment recycled",
            "a meta under way",
            "a torn meta",
            "the older meta",
        ],
    );
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
    for script in [Script::FirstInitialisation, Script::Snapshot, Script::Growth] {
        assert_eq!(crash::enumerate(script, 1, 7), crash::enumerate(script, 1, 7));
    }
}

/// Runs that once found something. The product's: a start took the file of the only header that knew where the log stands;
/// directly: `a_start_keeps_the_only_header_until_there_is_another` of `wal/tests/crash.rs`.
#[test]
fn a_start_lost_the_only_header() {
    for seed in [2_235_258_262, 1_886_779_686] {
        let report = crash::enumerate(Script::SegmentRecycling, 1, seed);
        assert!(report.broken.is_none() && report.images > 1000, "{report}");
    }
}
