//! The server: configuration, start-up, the shard and log-core loops, logs, metrics, shutdown.

pub mod config;
pub mod core;
pub mod limits_check;
mod listen;
pub mod log;
pub mod metrics;
pub mod notify;
mod signals;
mod start;
mod status;

use std::process::ExitCode;

/// The program. Exit codes are etcd's: 0, 1 for what is configured wrongly, 2 for what cannot be parsed.
pub fn main(mut args: std::env::ArgsOs) -> ExitCode {
    let program = args.next();
    let args: Vec<_> = args.collect();
    let env: Vec<(String, String)> = std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .collect();
    match config::load(&args, &env) {
        config::Start::Print { stdout, stderr, code } => {
            eprint!("{stderr}");
            print!("{stdout}");
            ExitCode::from(code)
        }
        config::Start::Refuse { failure, notes } => {
            let _guard = log::start(&log::Options::default());
            config::log_start(program.as_deref(), &args, &notes);
            failure.log();
            ExitCode::FAILURE
        }
        config::Start::Run { config, notes } => {
            let _guard = match log::start(&config.log) {
                Ok(guard) => guard,
                Err(error) => {
                    log::emit(log::Level::Fatal, "cannot start the log", &[("error", &error.to_string())]);
                    return ExitCode::FAILURE;
                }
            };
            config::log_start(program.as_deref(), &args, &notes);
            match start::run(*config) {
                Ok(asked) => {
                    // The log's last lines are written first.
                    drop(_guard);
                    signals::end(asked);
                    ExitCode::SUCCESS
                }
                Err(error) => {
                    log::emit(log::Level::Fatal, &error, &[]);
                    ExitCode::FAILURE
                }
            }
        }
    }
}
