//! The queue between callers and the log thread, and the thread itself.
//!
//! Invariants: `offer` never waits; the log thread alone writes to the outputs; a line is written whole or, after an
//! output has refused it for a second, not at all.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use base::limits::LOG_LINES_QUEUED;

use super::line::{Line, Value, unix_us};
use super::{Level, Options, Output};

enum Message {
    Line(String),
    Flush(SyncSender<()>),
}

/// The callers' end.
pub(super) struct Sink {
    sender: SyncSender<Message>,
    level: Level,
    console: bool,
    /// Seconds east of UTC; the log thread keeps it fresh, so that no caller reads a time zone file.
    offset_s: AtomicI32,
    dropped: AtomicU64,
    thread: OnceLock<ThreadId>,
}

impl Sink {
    /// Opens the outputs and starts the log thread.
    pub fn open(options: &Options) -> io::Result<Arc<Sink>> {
        let mut outputs: Vec<Box<dyn Write + Send>> = Vec::new();
        for output in &options.outputs {
            outputs.push(match output {
                Output::Stderr => Box::new(io::stderr()),
                Output::Stdout => Box::new(io::stdout()),
                Output::File(path) => {
                    let open = OpenOptions::new().append(true).create(true).mode(0o644).open(path);
                    Box::new(open.map_err(|error| {
                        io::Error::new(error.kind(), format!("open log output {}: {error}", path.display()))
                    })?)
                }
            });
        }
        Sink::start(options, outputs, LOG_LINES_QUEUED)
    }

    /// The same with outputs and queue of the caller's choice.
    pub fn start(
        options: &Options,
        outputs: Vec<Box<dyn Write + Send>>,
        queued: usize,
    ) -> io::Result<Arc<Sink>> {
        let (sender, receiver) = sync_channel(queued);
        let sink = Arc::new(Sink {
            sender,
            level: options.level,
            console: options.console,
            offset_s: AtomicI32::new(local_offset_s()),
            dropped: AtomicU64::new(0),
            thread: OnceLock::new(),
        });
        // Weak, or the thread would keep alive the sender whose end it waits for.
        let weak = Arc::downgrade(&sink);
        let thread = std::thread::Builder::new().name("log".into()).spawn(move || {
            run(&receiver, outputs, || weak.upgrade());
        })?;
        let _ = sink.thread.set(thread.thread().id());
        Ok(sink)
    }

    pub fn level(&self) -> Level {
        self.level
    }

    /// Queues a line, or counts it as dropped.
    pub fn offer(&self, line: &Line) {
        let text = self.encode(line);
        if self.sender.try_send(Message::Line(text)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn dropped_total(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    pub fn is_log_thread(&self) -> bool {
        self.thread.get() == Some(&std::thread::current().id())
    }

    /// Waits until what was queued before is written.
    pub fn flush(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let (done, written) = sync_channel(1);
        let mut message = Message::Flush(done);
        loop {
            match self.sender.try_send(message) {
                Ok(()) => break,
                Err(TrySendError::Disconnected(_)) => return false,
                Err(TrySendError::Full(_)) if Instant::now() >= deadline => return false,
                Err(TrySendError::Full(back)) => {
                    message = back;
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
        written.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_ok()
    }

    fn encode(&self, line: &Line) -> String {
        let offset_s = self.offset_s.load(Ordering::Relaxed);
        let mut text =
            if self.console { line.console(unix_us(), offset_s) } else { line.json(unix_us(), offset_s) };
        text.push('\n');
        text
    }
}

/// The log thread: everything that waits in one write per output, then sleep until there is more.
fn run(
    receiver: &Receiver<Message>,
    mut outputs: Vec<Box<dyn Write + Send>>,
    sink: impl Fn() -> Option<Arc<Sink>>,
) {
    let mut reported = 0;
    let mut zone_read = Instant::now();
    while let Ok(first) = receiver.recv() {
        let mut text = String::new();
        let mut flushes = Vec::new();
        let mut lines = 0;
        let mut next = Ok(first);
        while let Ok(message) = next {
            match message {
                Message::Line(line) => {
                    text.push_str(&line);
                    lines += 1;
                }
                Message::Flush(done) => flushes.push(done),
            }
            // One write stays small, so that a slow output does not hold back a flush for long.
            next = if text.len() < 256 << 10 { receiver.try_recv() } else { Err(TryRecvError::Empty) };
        }
        if let Some(sink) = sink() {
            let dropped = sink.dropped_total();
            if dropped > reported {
                let mut line = Line::new(Level::Warn, "log/sink.rs:0".into(), "dropped log lines".into());
                line.push("dropped", Value::Json((dropped - reported).to_string()));
                text.push_str(&sink.encode(&line));
                reported = dropped;
            }
            if zone_read.elapsed() > Duration::from_secs(60) {
                sink.offset_s.store(local_offset_s(), Ordering::Relaxed);
                zone_read = Instant::now();
            }
            let failed = outputs.iter_mut().filter_map(|output| write_whole(output, text.as_bytes()).err());
            if failed.count() > 0 {
                sink.dropped.fetch_add(lines, Ordering::Relaxed);
                // There is no place to say it but the metric.
                reported = sink.dropped_total();
            }
        } else {
            outputs.iter_mut().for_each(|output| drop(write_whole(output, text.as_bytes())));
        }
        for done in flushes {
            // Whoever asked may have stopped waiting.
            let _ = done.send(());
        }
    }
}

/// Writes all of it; an output that is not ready (a terminal in non-blocking mode) gets a second.
fn write_whole(output: &mut dyn Write, mut bytes: &[u8]) -> io::Result<()> {
    let mut waits = 0;
    while !bytes.is_empty() {
        match output.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && waits < 1000 => {
                waits += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error),
        }
    }
    output.flush()
}

/// The local time's distance from UTC now, seconds east. Reads the time zone file the first time.
pub(super) fn local_offset_s() -> i32 {
    // SAFETY: time with a null pointer only returns the time.
    let now = unsafe { libc::time(std::ptr::null_mut()) };
    // SAFETY: tm is plain data, for which all zeros are a value.
    let mut local: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live values of the right type; localtime_r keeps neither.
    let done = unsafe { libc::localtime_r(&now, &mut local) };
    if done.is_null() { 0 } else { i32::try_from(local.tm_gmtoff).unwrap_or(0) }
}
