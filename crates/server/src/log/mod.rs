//! The log: zap's JSON lines, as etcd's harnesses and log collectors read them, from `tracing` events.
//!
//! Invariants: the caller formats one line and offers it to a bounded queue; it never waits for an output. A full queue
//! drops the line and counts it; the log thread says so in a line of its own. Lines reach the outputs at once, whole
//! and in the order in which they were queued; at exit and at a panic they are flushed.
//!
//! | module | job |
//! |---|---|
//! | `line` | one event to one line (pure) |
//! | `sink` | queue, log thread, outputs |
//!
//! Fields: strings, numbers and booleans go as such; `%` and `?` give strings; [`json`] and [`strings`] give JSON.
//! `zap.level` names a level that `tracing` has not: `tracing::error!(zap.level = "fatal", "...")`.

mod line;
mod sink;
#[cfg(test)]
mod tests;

use std::io;
use std::panic::Location;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

pub use line::{Json, json, strings};
use line::{Line, Value};
use sink::Sink;

/// zap's levels, lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
    DPanic,
    Panic,
    Fatal,
}

impl Level {
    /// As --log-level spells it; case does not matter, empty is info.
    pub fn parse(text: &str) -> Option<Level> {
        Some(match text.to_ascii_lowercase().as_str() {
            "debug" => Level::Debug,
            "info" | "" => Level::Info,
            "warn" => Level::Warn,
            "error" => Level::Error,
            "dpanic" => Level::DPanic,
            "panic" => Level::Panic,
            "fatal" => Level::Fatal,
            _ => return None,
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
            Level::DPanic => "dpanic",
            Level::Panic => "panic",
            Level::Fatal => "fatal",
        }
    }

    fn of(level: &tracing::Level) -> Level {
        match *level {
            tracing::Level::ERROR => Level::Error,
            tracing::Level::WARN => Level::Warn,
            tracing::Level::INFO => Level::Info,
            _ => Level::Debug,
        }
    }

    fn filter(self) -> LevelFilter {
        match self {
            Level::Debug => LevelFilter::DEBUG,
            Level::Info => LevelFilter::INFO,
            Level::Warn => LevelFilter::WARN,
            _ => LevelFilter::ERROR,
        }
    }
}

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    Stderr,
    Stdout,
    /// Appended to, made when absent.
    File(PathBuf),
}

impl Output {
    /// One word of --log-outputs; `default` is stderr.
    pub fn parse(word: &str) -> Output {
        match word {
            "default" | "stderr" => Output::Stderr,
            "stdout" => Output::Stdout,
            path => Output::File(PathBuf::from(path)),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub level: Level,
    /// zap's console format instead of JSON.
    pub console: bool,
    pub outputs: Vec<Output>,
}

impl Default for Options {
    fn default() -> Options {
        Options { level: Level::Info, console: false, outputs: vec![Output::Stderr] }
    }
}

static SINK: OnceLock<Arc<Sink>> = OnceLock::new();

/// Flushes the log when dropped: keep it in `main`.
pub struct Guard(());

impl Drop for Guard {
    fn drop(&mut self) {
        flush(Duration::from_secs(2));
    }
}

/// Opens the outputs, starts the log thread, and makes this the process's log; also of panics. Once per process: a
/// second call changes nothing.
pub fn start(options: &Options) -> io::Result<Guard> {
    if SINK.get().is_none() {
        let sink = Sink::open(options)?;
        if SINK.set(sink.clone()).is_ok() {
            let subscriber = tracing_subscriber::registry().with(LogLayer::new(sink, options.level));
            // Somebody else's subscriber may be in place (tests): then `emit` and panics are all that we log.
            let _ = tracing::subscriber::set_global_default(subscriber);
            std::panic::set_hook(Box::new(log_panic));
        }
    }
    Ok(Guard(()))
}

/// A moment as lines show theirs, from microseconds since the epoch.
pub fn timestamp_of(unix_us: i64) -> String {
    line::timestamp(unix_us, sink::local_offset_s())
}

/// Waits until what was queued so far has been written, or `timeout`. False when it was not.
pub fn flush(timeout: Duration) -> bool {
    SINK.get().is_none_or(|sink| sink.flush(timeout))
}

/// Lines dropped since the start, because the queue was full or an output failed.
pub fn dropped_total() -> u64 {
    SINK.get().map_or(0, |sink| sink.dropped_total())
}

/// Logs a line whose level, message and fields are only known at run time. Before `start` it goes to stderr.
#[track_caller]
pub fn emit(level: Level, message: &str, fields: &[(&str, &str)]) {
    let location = Location::caller();
    let mut line = Line::new(level, line::caller(location.file(), location.line()), message.to_string());
    for (name, value) in fields {
        line.push(name, Value::Text((*value).to_string()));
    }
    match SINK.get() {
        Some(sink) if level < sink.level() => {}
        Some(sink) => sink.offer(&line),
        None => eprintln!("{}", line.json(line::unix_us(), 0)),
    }
}

/// A line as it would be written now, for whoever cannot make one when the time comes.
#[track_caller]
pub fn text(level: Level, message: &str) -> String {
    let location = Location::caller();
    let line = Line::new(level, line::caller(location.file(), location.line()), message.to_string());
    format!("{}\n", line.json(line::unix_us(), 0))
}

fn log_panic(info: &std::panic::PanicHookInfo<'_>) {
    let payload = info.payload();
    let message = match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_string(),
        (_, Some(text)) => text.clone(),
        _ => "panicked".to_string(),
    };
    let caller = info.location().map_or_else(String::new, |at| line::caller(at.file(), at.line()));
    let mut line = Line::new(Level::Panic, caller, message);
    let thread = std::thread::current();
    line.push("thread", Value::Text(thread.name().unwrap_or("unnamed").to_string()));
    let backtrace = std::backtrace::Backtrace::capture();
    if backtrace.status() == std::backtrace::BacktraceStatus::Captured {
        line.push("stacktrace", Value::Text(backtrace.to_string()));
    }
    match SINK.get() {
        // The log thread cannot wait for itself.
        Some(sink) if !sink.is_log_thread() => {
            sink.offer(&line);
            sink.flush(Duration::from_secs(1));
        }
        _ => eprintln!("{}", line.json(line::unix_us(), 0)),
    }
}

/// Turns events into lines.
struct LogLayer {
    sink: Arc<Sink>,
    level: Level,
}

impl LogLayer {
    fn new(sink: Arc<Sink>, level: Level) -> LogLayer {
        LogLayer { sink, level }
    }

    /// Runtimes that we only use are heard from warnings up.
    fn wants(&self, metadata: &Metadata<'_>) -> bool {
        let foreign = ["glommio", "mio"].iter().any(|name| metadata.target().starts_with(name));
        let floor = if foreign { self.level.max(Level::Warn) } else { self.level };
        *metadata.level() <= floor.filter()
    }
}

impl<S: Subscriber> Layer<S> for LogLayer {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.wants(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level.filter())
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let caller = line::caller(metadata.file().unwrap_or(""), metadata.line().unwrap_or(0));
        let mut line = Line::new(Level::of(metadata.level()), caller, String::new());
        event.record(&mut Collect(&mut line));
        if line.level >= self.level {
            self.sink.offer(&line);
        }
    }
}

/// Takes an event's fields into a line.
struct Collect<'a>(&'a mut Line);

impl Collect<'_> {
    fn take(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::Text(text)) => self.0.message = text,
            ("zap.level", Value::Text(text)) => self.0.level = Level::parse(&text).unwrap_or(self.0.level),
            (name, value) => self.0.push(name, value),
        }
    }
}

impl Visit for Collect<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field, Value::Text(value.to_string()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.take(field, Value::Json(value.to_string()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.take(field, Value::Json(value.to_string()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.take(field, Value::Json(value.to_string()));
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.take(field, Value::Json(value.to_string()));
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.take(field, Value::Json(value.to_string()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        let text =
            if value.is_finite() { Value::Json(value.to_string()) } else { Value::Text(value.to_string()) };
        self.take(field, text);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.take(field, Value::Text(value.to_string()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.take(field, line::from_debug(value));
    }
}
