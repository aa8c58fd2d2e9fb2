//! The `mainstay` binary: everything it does is in the `server` crate.

fn main() -> std::process::ExitCode {
    server::main(std::env::args_os())
}
