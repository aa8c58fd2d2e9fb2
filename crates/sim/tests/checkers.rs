//! The checkers are held to two promises: a right history passes every one of them, and a wrong one is rejected, by
//! the rule that it breaks.

#[path = "checkers/generator.rs"]
mod generator;
#[path = "checkers/server.rs"]
mod server;

use generator::Options;
use sim::check;

#[test]
fn right_histories_pass() {
    for seed in 0..3000 {
        let run = generator::run(Options::of_seed(seed));
        match check::history(&run.history, &run.clocks) {
            Ok(summary) => {
                if seed < 10 {
                    println!("{seed}: {summary}");
                }
            }
            Err(finding) => panic!("seed {seed}: {finding}"),
        }
    }
}

#[test]
#[ignore = "prints"]
fn show() {
    let seed = std::env::var("SEED").expect("SEED").parse().expect("a number");
    let run = generator::run(Options::of_seed(seed));
    print!("{}", run.history.trace());
    println!("{:?}", check::history(&run.history, &run.clocks).map_err(|finding| finding.to_string()));
}
