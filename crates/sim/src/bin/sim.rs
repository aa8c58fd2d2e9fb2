//! Runs seeds of the simulated world: see `sim::main`.

fn main() -> std::process::ExitCode {
    sim::main()
}
