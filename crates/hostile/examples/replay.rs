//! Runs one target over files, without a fuzzer: `replay TARGET FILE...`. What breaks a law panics.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let target = args.next().and_then(|name| mainstay_hostile::target(&name));
    let Some(target) = target else {
        let names: Vec<&str> = mainstay_hostile::TARGETS.iter().map(|target| target.name).collect();
        eprintln!("usage: replay TARGET FILE...; the targets are {}", names.join(", "));
        return ExitCode::from(2);
    };
    for path in args {
        match std::fs::read(&path) {
            Ok(input) => (target.check)(&input),
            Err(error) => {
                eprintln!("{path}: {error}");
                return ExitCode::FAILURE;
            }
        }
        println!("{path}: no law broken");
    }
    ExitCode::SUCCESS
}
