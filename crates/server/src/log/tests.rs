//! Events in, lines out; order, drops, flushes.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tracing_subscriber::layer::SubscriberExt;

use super::sink::Sink;
use super::{Level, LogLayer, Options, Output, strings};

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Memory {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A few bytes at a time, and now and then not ready: lines stay whole all the same.
        let count = bytes.len().min(1000);
        self.0.lock().unwrap().extend_from_slice(&bytes[..count]);
        Ok(count)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Logs with `log` at `level` and returns the lines.
fn lines(level: Level, console: bool, log: impl FnOnce()) -> Vec<String> {
    let memory = Memory::default();
    let options = Options { level, console, outputs: Vec::new() };
    let sink = Sink::start(&options, vec![Box::new(memory.clone())], 1000).unwrap();
    let subscriber = tracing_subscriber::registry().with(LogLayer::new(sink.clone(), level));
    tracing::subscriber::with_default(subscriber, log);
    assert!(sink.flush(Duration::from_secs(10)));
    memory.text().lines().map(String::from).collect()
}

/// The line's JSON without time and line number.
fn parsed(line: &str) -> serde_json::Value {
    let mut value: serde_json::Value = serde_json::from_str(line).unwrap();
    let object = value.as_object_mut().unwrap();
    let ts = object.remove("ts").unwrap();
    let ts = ts.as_str().unwrap();
    assert!(ts.len() >= 27 && &ts[10..11] == "T" && &ts[19..20] == ".", "{ts}");
    let caller = object["caller"].as_str().unwrap();
    assert!(caller.contains("log/tests.rs:"), "{caller}");
    object.remove("caller");
    value
}

#[test]
fn a_line_is_zaps() {
    let got = lines(Level::Info, false, || {
        let error = io::Error::other("it \"broke\"");
        tracing::info!(
            "local-member-id" = %format_args!("{:x}", 255),
            urls = ?strings(["http://a:1", "http://b:1"]),
            index = 5u64,
            ok = true,
            ratio = 0.5,
            error = %error,
            "published local member to cluster"
        );
    });
    let line = &got[0];
    assert!(line.starts_with("{\"level\":\"info\",\"ts\":\""), "{line}");
    let fields = r#""msg":"published local member to cluster","local-member-id":"ff","urls":["http://a:1","http://b:1"],"index":5,"ok":true,"ratio":0.5,"error":"it \"broke\""}"#;
    assert!(line.ends_with(fields), "{line}");
    assert_eq!(parsed(line)["level"], "info");
}

#[test]
fn levels_filter_and_rename() {
    let log = || {
        tracing::trace!("trace");
        tracing::debug!("debug");
        tracing::info!("info");
        tracing::warn!("warn");
        tracing::error!("error");
        tracing::error!(zap.level = "fatal", "fatal");
    };
    let levels = |level| -> Vec<String> {
        let got = lines(level, false, log);
        got.iter().map(|line| parsed(line)["level"].as_str().unwrap().to_string()).collect()
    };
    assert_eq!(levels(Level::Debug), ["debug", "info", "warn", "error", "fatal"]);
    assert_eq!(levels(Level::Warn), ["warn", "error", "fatal"]);
    assert_eq!(levels(Level::Fatal), ["fatal"]);
    let fatal = lines(Level::Fatal, false, log);
    assert_eq!(parsed(&fatal[0]), serde_json::json!({"level": "fatal", "msg": "fatal"}));
}

#[test]
fn level_names() {
    for level in ["debug", "info", "warn", "error", "dpanic", "panic", "fatal"] {
        assert_eq!(Level::parse(level).unwrap().name(), level);
    }
    assert_eq!(Level::parse("WARN"), Some(Level::Warn));
    assert_eq!(Level::parse(""), Some(Level::Info));
    assert_eq!(Level::parse("foo"), None);
    assert_eq!(Output::parse("default"), Output::Stderr);
    assert_eq!(Output::parse("/var/log/x"), Output::File("/var/log/x".into()));
}

#[test]
fn console_format() {
    let got = lines(Level::Info, true, || tracing::warn!(a = 1, b = "x", "hello"));
    let parts: Vec<&str> = got[0].split('\t').collect();
    assert_eq!((parts[1], parts[3], parts[4]), ("warn", "hello", "{\"a\": 1, \"b\": \"x\"}"));
    assert!(parts[2].contains("log/tests.rs:"));
}

#[test]
fn lines_of_many_threads_stay_whole() {
    let memory = Memory::default();
    let options = Options::default();
    let sink = Sink::start(&options, vec![Box::new(memory.clone())], 10_000).unwrap();
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let subscriber = tracing_subscriber::registry().with(LogLayer::new(sink.clone(), Level::Info));
            std::thread::spawn(move || {
                tracing::subscriber::with_default(subscriber, || {
                    for number in 0..500 {
                        tracing::info!(thread, number, padding = "x".repeat(number), "line");
                    }
                });
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(sink.flush(Duration::from_secs(10)));
    let mut next = [0u64; 4];
    for line in memory.text().lines() {
        let line = parsed(line);
        let thread = line["thread"].as_u64().unwrap() as usize;
        assert_eq!(line["number"].as_u64().unwrap(), next[thread]);
        next[thread] += 1;
    }
    assert_eq!(next, [500; 4]);
}

/// An output that waits for leave before each write.
struct Gated {
    leave: Receiver<()>,
    entered: Sender<()>,
    memory: Memory,
}

impl Write for Gated {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.entered.send(());
        let _ = self.leave.recv();
        self.memory.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_stuck_output_drops_lines_and_says_so() {
    let (leave, wait) = channel();
    let (entered, inside) = channel();
    let memory = Memory::default();
    let gated = Gated { leave: wait, entered, memory: memory.clone() };
    let sink = Sink::start(&Options::default(), vec![Box::new(gated)], 4).unwrap();
    let subscriber = tracing_subscriber::registry().with(LogLayer::new(sink.clone(), Level::Info));
    tracing::subscriber::with_default(subscriber, || {
        tracing::info!("first");
        inside.recv().unwrap();
        // The log thread is stuck in its write: four lines fit, the others are dropped without waiting.
        for number in 0..10 {
            tracing::info!(number, "more");
        }
    });
    assert_eq!(sink.dropped_total(), 6);
    assert!(!sink.flush(Duration::from_millis(5)), "nothing can be flushed yet");
    drop(leave);
    assert!(sink.flush(Duration::from_secs(10)));
    let text = memory.text();
    assert!(text.contains("\"msg\":\"dropped log lines\",\"dropped\":6}"), "{text}");
    assert_eq!(text.matches("\"msg\":\"more\"").count(), 4);
}

struct Broken;

impl Write for Broken {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_broken_output_does_not_keep_others_from_writing() {
    let memory = Memory::default();
    let outputs: Vec<Box<dyn Write + Send>> = vec![Box::new(Broken), Box::new(memory.clone())];
    let sink = Sink::start(&Options::default(), outputs, 100).unwrap();
    let subscriber = tracing_subscriber::registry().with(LogLayer::new(sink.clone(), Level::Info));
    tracing::subscriber::with_default(subscriber, || tracing::info!("hello"));
    assert!(sink.flush(Duration::from_secs(10)));
    assert!(memory.text().contains("\"msg\":\"hello\""));
    assert_eq!(sink.dropped_total(), 1);
}

#[test]
fn files_are_appended_to() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    std::fs::write(&path, "before\n").unwrap();
    let options = Options { outputs: vec![Output::File(path.clone())], ..Options::default() };
    let sink = Sink::open(&options).unwrap();
    let subscriber = tracing_subscriber::registry().with(LogLayer::new(sink.clone(), Level::Info));
    tracing::subscriber::with_default(subscriber, || tracing::info!("after"));
    assert!(sink.flush(Duration::from_secs(10)));
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("before\n{") && text.ends_with("}\n"), "{text}");
    let nowhere = Options { outputs: vec![Output::File(dir.path().join("a/b"))], ..Options::default() };
    assert!(Sink::open(&nowhere).err().unwrap().to_string().starts_with("open log output "));
}
