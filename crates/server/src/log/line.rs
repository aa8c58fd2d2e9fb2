//! One event as one line: zap's JSON and console encodings, as etcd configures them. Pure but for `unix_us`.

use std::fmt::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use edge::json::{Escapes, push_string};

use super::Level;

/// Marks debug output that is JSON already. No text that a program logs begins with it.
const MARK: char = '\u{1}';

/// A field's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    /// Already encoded.
    Json(String),
}

/// JSON as a field: `tracing::info!(urls = ?log::strings(&urls), "...")`.
pub struct Json(String);

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{MARK}{}", self.0)
    }
}

/// A field whose value is this JSON text.
pub fn json(text: impl Into<String>) -> Json {
    Json(text.into())
}

/// A field whose value is an array of strings.
pub fn strings<T: fmt::Display>(items: impl IntoIterator<Item = T>) -> Json {
    let mut out = String::from("[");
    for (at, item) in items.into_iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        quote(&mut out, &item.to_string());
    }
    out.push(']');
    Json(out)
}

pub(super) fn from_debug(value: &dyn fmt::Debug) -> Value {
    let text = format!("{value:?}");
    match text.strip_prefix(MARK) {
        Some(json) => Value::Json(json.to_string()),
        None => Value::Text(text),
    }
}

/// An event before it is text.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub level: Level,
    pub caller: String,
    pub message: String,
    pub fields: Vec<(String, Value)>,
}

impl Line {
    pub fn new(level: Level, caller: String, message: String) -> Line {
        Line { level, caller, message, fields: Vec::new() }
    }

    pub fn push(&mut self, name: &str, value: Value) {
        self.fields.push((name.to_string(), value));
    }

    /// zap's JSON encoding, without the line end. `offset_s` is the local time's, seconds east of UTC.
    pub fn json(&self, unix_us: i64, offset_s: i32) -> String {
        let mut out = String::with_capacity(160 + self.message.len());
        let time = timestamp(unix_us, offset_s);
        let _ = write!(out, "{{\"level\":\"{}\",\"ts\":\"{time}\",\"caller\":", self.level.name());
        quote(&mut out, &self.caller);
        out.push_str(",\"msg\":");
        quote(&mut out, &self.message);
        for (name, value) in &self.fields {
            out.push(',');
            quote(&mut out, name);
            out.push(':');
            push_value(&mut out, value);
        }
        out.push('}');
        out
    }

    /// zap's console encoding: tabs between the parts, fields as JSON at the end. Without colours.
    pub fn console(&self, unix_us: i64, offset_s: i32) -> String {
        let time = timestamp(unix_us, offset_s);
        let message = self.message.replace('\n', "\\n");
        let mut out = format!("{time}\t{}\t{}\t{message}", self.level.name(), self.caller);
        for (at, (name, value)) in self.fields.iter().enumerate() {
            out.push_str(if at == 0 { "\t{" } else { ", " });
            quote(&mut out, name);
            out.push_str(": ");
            push_value(&mut out, value);
        }
        if !self.fields.is_empty() {
            out.push('}');
        }
        out
    }
}

fn push_value(out: &mut String, value: &Value) {
    match value {
        Value::Text(text) => quote(out, text),
        Value::Json(json) => out.push_str(json),
    }
}

/// A JSON string with zap's escapes.
fn quote(out: &mut String, text: &str) {
    push_string(out, text, Escapes::Plain);
}

/// `crate/file.rs:line`, whatever path the compiler was given.
pub(super) fn caller(file: &str, line: u32) -> String {
    let short = match file.rfind("/src/") {
        Some(at) => {
            let name = file[..at].rsplit('/').next().unwrap_or("");
            format!("{name}/{}", &file[at + 5..])
        }
        None => file.rsplit('/').take(2).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("/"),
    };
    format!("{short}:{line}")
}

/// Microseconds since the epoch.
pub(super) fn unix_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}

/// `2006-01-02T15:04:05.000000Z0700` in Go's terms.
pub(super) fn timestamp(unix_us: i64, offset_s: i32) -> String {
    let local_us = unix_us + i64::from(offset_s) * 1_000_000;
    let (seconds, micros) = (local_us.div_euclid(1_000_000), local_us.rem_euclid(1_000_000));
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Civil date from days, by 400-year eras that begin on 1 March.
    let shifted = days + 719_468;
    let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let zone = match offset_s {
        0 => "Z".to_string(),
        _ => {
            let sign = if offset_s < 0 { '-' } else { '+' };
            let minutes = offset_s.unsigned_abs() / 60;
            format!("{sign}{:02}{:02}", minutes / 60, minutes % 60)
        }
    };
    format!("{year:04}-{month:02}-{day_of_month:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}{zone}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps() {
        assert_eq!(timestamp(1_795_229_202_767_229, 0), "2026-11-21T02:46:42.767229Z");
        assert_eq!(timestamp(1_795_229_202_000_050, 7200), "2026-11-21T04:46:42.000050+0200");
        assert_eq!(timestamp(1_795_229_202_000_000, -12_600), "2026-11-20T23:16:42.000000-0330");
        assert_eq!(timestamp(951_782_400_000_000, 0), "2000-02-29T00:00:00.000000Z");
        assert_eq!(timestamp(-1, 0), "1969-12-31T23:59:59.999999Z");
    }

    #[test]
    fn callers() {
        assert_eq!(caller("crates/wal/src/lib.rs", 7), "wal/lib.rs:7");
        assert_eq!(caller("/x/registry/src/index/raft-0.7.0/src/raft.rs", 9), "raft-0.7.0/raft.rs:9");
        assert_eq!(caller("crates/edge/tests/http.rs", 1), "tests/http.rs:1");
        assert_eq!(caller("", 0), ":0");
    }

    #[test]
    fn strings_are_escaped() {
        let mut out = String::new();
        quote(&mut out, "a\"b\\\n\t\u{1}<é>");
        assert_eq!(out, "\"a\\\"b\\\\\\n\\t\\u0001<é>\"");
        assert_eq!(format!("{:?}", strings(["a\"", "b"])), "\u{1}[\"a\\\"\",\"b\"]");
    }

    #[test]
    fn console_lines() {
        let mut line = Line::new(Level::Warn, "a/b.rs:1".into(), "two\nlines".into());
        assert!(line.console(0, 0).ends_with("Z\twarn\ta/b.rs:1\ttwo\\nlines"));
        line.push("k", Value::Text("v".into()));
        line.push("n", Value::Json("1".into()));
        assert!(line.console(0, 0).ends_with("\t{\"k\": \"v\", \"n\": 1}"));
    }
}
