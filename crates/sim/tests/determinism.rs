//! A seed is all there is to a run: the same seed gives the same trace and the same history, on whatever thread, whatever
//! runs beside it. Without that no finding could be replayed.

use sim::world::profile::Focus;
use sim::world::{self, Options, Outcome};

fn run(seed: u64, focus: Focus) -> Outcome {
    world::run(seed, Options::new(false, focus))
}

/// What must be the same.
fn told(outcome: &Outcome) -> (u64, u64, u64, u64) {
    (outcome.hash, outcome.steps, outcome.operations, outcome.simulated_us)
}

#[test]
fn a_seed_is_the_same_on_every_thread() {
    let mut hashes = Vec::new();
    for (number, focus) in (0..).zip(Focus::ALL) {
        let (seed, beside) = (40 + number, 400 + number);
        // One thread has run something else before, and both run beside each other and beside that.
        let [(first, other), (again, _)] = std::thread::scope(|scope| {
            let fresh = scope.spawn(|| (run(seed, focus), run(beside, focus)));
            let used = scope.spawn(|| {
                let other = run(beside, focus);
                (run(seed, focus), other)
            });
            [fresh, used].map(|thread| thread.join().expect("a run does not panic"))
        });
        assert_eq!(told(&first), told(&again), "sim --seed {seed} --focus {}", focus.name());
        assert_ne!(first.hash, other.hash, "another seed is another run");
        assert_eq!(first.coverage, again.coverage);
        hashes.push(first.hash);
    }
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), Focus::ALL.len(), "every run is one of its own");
}
