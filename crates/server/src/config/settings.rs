//! The value of every flag and where it came from; the command line and the environment, with Go's syntax.
//!
//! Invariants: a row of the table has exactly one value of its kind; old spellings write the row of the new one.

use std::collections::BTreeSet;
use std::ffi::OsString;

use super::Note;
use super::gates::Gates;
use super::table::{FLAGS, Kind, Use, find};
use super::url::Url;
use super::values::{Value, default_of, parse, parse_bool};

/// Where a value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    CommandLine,
    Environment,
    File,
}

#[derive(Clone, Debug)]
pub struct Settings {
    values: Vec<Value>,
    origins: Vec<Origin>,
    /// Rows of old spellings that were used.
    old: BTreeSet<usize>,
}

/// Why the command line cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArgsError {
    /// -h, -help or --help.
    Help,
    /// etcd prints this, then its usage, and exits with 2.
    Usage(String),
    /// The first argument that is no flag.
    Stray(String),
}

impl Settings {
    pub fn defaults() -> Settings {
        Settings {
            values: FLAGS.iter().map(|flag| default_of(flag.kind, flag.default)).collect(),
            origins: vec![Origin::Default; FLAGS.len()],
            old: BTreeSet::new(),
        }
    }

    /// Sets row `row` from text. The error is what etcd prints after naming the flag.
    pub fn set(&mut self, row: usize, text: &str, origin: Origin) -> Result<(), String> {
        let flag = &FLAGS[row];
        match flag.usage {
            Use::Renamed(name) => {
                let to = find(name).expect("an old spelling names a row");
                self.values[to] = parse(FLAGS[to].kind, text, &self.values[to])?;
                self.origins[to] = origin;
            }
            Use::Gate(name) => {
                let value = parse_bool(text).ok_or("parse error")?;
                let to = find("feature-gates").expect("the table has the gates");
                self.values[to] = parse(Kind::Gates, &format!("{name}={value}"), &self.values[to])?;
                self.origins[to] = origin;
            }
            _ => self.values[row] = parse(flag.kind, text, &self.values[row])?,
        }
        if matches!(flag.usage, Use::Renamed(_) | Use::Gate(_)) {
            self.old.insert(row);
        }
        self.origins[row] = origin;
        Ok(())
    }

    /// Sets row `row` to a value that was decoded already (YAML).
    pub fn put(&mut self, row: usize, value: Value, origin: Origin) {
        self.values[row] = value;
        self.origins[row] = origin;
    }

    #[cfg(test)]
    pub fn value(&self, row: usize) -> &Value {
        &self.values[row]
    }

    pub fn origin(&self, row: usize) -> Origin {
        self.origins[row]
    }

    pub fn is_set(&self, name: &str) -> bool {
        self.origins[row(name)] != Origin::Default
    }

    /// What is to be said about rows that were set: old spellings, flags without effect, ignored flags.
    pub fn notes(&self) -> Vec<Note> {
        let mut notes = Vec::new();
        for (row, flag) in FLAGS.iter().enumerate() {
            if self.origins[row] == Origin::Default {
                continue;
            }
            let changed = self.values[row] != default_of(flag.kind, flag.default);
            match flag.usage {
                Use::Renamed(to) if self.old.contains(&row) => {
                    notes.push(Note::warn(format!("--{} is an old spelling, use --{to}", flag.name)))
                }
                Use::Gate(gate) if self.old.contains(&row) => notes.push(Note::warn(format!(
                    "--{} is an old spelling, use --feature-gates={gate}=true|false",
                    flag.name
                ))),
                Use::NoEffect(why) if changed => {
                    notes.push(Note::warn(format!("--{} has no effect: {why}", flag.name)));
                }
                Use::Later(what) if changed => notes.push(Note::warn(format!(
                    "--{} has no effect: not part of this version ({what})",
                    flag.name
                ))),
                Use::Deprecated(text) => notes.push(Note::warn(text.to_string())),
                Use::Ignored => notes.push(
                    Note::warn("flag is no longer supported - ignoring".into()).with("flag-name", flag.name),
                ),
                _ => {}
            }
        }
        notes
    }

    /// The first flag that must not be ignored and is set, with the reason.
    pub fn refused(&self) -> Option<String> {
        FLAGS.iter().enumerate().find_map(|(row, flag)| match flag.usage {
            Use::Refused(why) if self.values[row] != default_of(flag.kind, flag.default) => {
                Some(format!("--{} cannot be used: {why}", flag.name))
            }
            _ => None,
        })
    }

    pub fn text(&self, name: &str) -> &str {
        match self.get(name) {
            Value::Text(text) => text,
            other => wrong(name, other),
        }
    }

    pub fn bool(&self, name: &str) -> bool {
        match self.get(name) {
            Value::Bool(value) => *value,
            other => wrong(name, other),
        }
    }

    pub fn uint(&self, name: &str) -> u64 {
        match self.get(name) {
            Value::Uint(value) => *value,
            other => wrong(name, other),
        }
    }

    pub fn int(&self, name: &str) -> i64 {
        match self.get(name) {
            Value::Int(value) => *value,
            other => wrong(name, other),
        }
    }

    /// Nanoseconds.
    pub fn duration(&self, name: &str) -> i64 {
        match self.get(name) {
            Value::Duration(ns) => *ns,
            other => wrong(name, other),
        }
    }

    pub fn urls(&self, name: &str) -> &[Url] {
        match self.get(name) {
            Value::Urls(urls) => urls,
            other => wrong(name, other),
        }
    }

    pub fn words(&self, name: &str) -> &BTreeSet<String> {
        match self.get(name) {
            Value::Set(words) => words,
            other => wrong(name, other),
        }
    }

    pub fn gates(&self) -> Gates {
        match self.get("feature-gates") {
            Value::Gates(given) => Gates::new(given),
            other => wrong("feature-gates", other),
        }
    }

    fn get(&self, name: &str) -> &Value {
        &self.values[row(name)]
    }
}

fn row(name: &str) -> usize {
    find(name).unwrap_or_else(|| panic!("the table has no row {name}"))
}

fn wrong(name: &str, value: &Value) -> ! {
    panic!("row {name} holds {value:?}")
}

/// Reads the arguments (without the program's name) as Go's flag package does: one dash or two, `=` or the next
/// argument, bare booleans, the last of several wins, the first error ends it.
pub fn read_args(settings: &mut Settings, args: &[OsString]) -> Result<(), ArgsError> {
    let args: Vec<String> = args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        if arg.len() < 2 || !arg.starts_with('-') {
            return Err(ArgsError::Stray(arg));
        }
        if arg == "--" {
            return args.next().map_or(Ok(()), |stray| Err(ArgsError::Stray(stray)));
        }
        let body = arg.strip_prefix("--").unwrap_or(&arg[1..]);
        if body.is_empty() || body.starts_with(['-', '=']) {
            return Err(ArgsError::Usage(format!("bad flag syntax: {arg}")));
        }
        let (name, value) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value.to_string())),
            None => (body, None),
        };
        let Some(row) = find(name) else {
            if name == "help" || name == "h" {
                return Err(ArgsError::Help);
            }
            return Err(ArgsError::Usage(format!("flag provided but not defined: -{name}")));
        };
        let value = match value {
            Some(value) => value,
            None if FLAGS[row].is_bare() => "true".into(),
            None => {
                args.next().ok_or_else(|| ArgsError::Usage(format!("flag needs an argument: -{name}")))?
            }
        };
        settings.set(row, &value, Origin::CommandLine).map_err(|error| {
            ArgsError::Usage(match FLAGS[row].kind {
                Kind::Bool => format!("invalid boolean value {value:?} for -{name}: {error}"),
                _ => format!("invalid value {value:?} for flag -{name}: {error}"),
            })
        })?;
    }
    Ok(())
}

/// Reads the environment: `ETCD_` and the flag's name. A variable whose flag was given as well is a conflict that ends
/// the start, as in etcd; unknown ones are only warned about.
pub fn read_env(
    settings: &mut Settings,
    env: &[(String, String)],
    notes: &mut Vec<Note>,
) -> Result<(), String> {
    let given: BTreeSet<String> = FLAGS
        .iter()
        .enumerate()
        .filter(|(row, _)| settings.origin(*row) == Origin::CommandLine)
        .map(|(_, flag)| flag.env())
        .collect();
    let mut rows: Vec<usize> = (0..FLAGS.len()).collect();
    rows.sort_by_key(|row| FLAGS[*row].name);
    let mut used = BTreeSet::new();
    let mut outcome = Ok(());
    for row in rows {
        let key = FLAGS[row].env();
        let Some((_, value)) = env.iter().find(|(name, _)| *name == key) else { continue };
        if given.contains(&key) || value.is_empty() {
            continue;
        }
        if key == "ETCD_VERSION" {
            notes.push(
                Note::warn("cannot set special environment variable".into())
                    .with("key", &key)
                    .with("value", value),
            );
            used.insert(key);
            continue;
        }
        // The new spelling wins over an old one of the environment, and a flag over both.
        if let Use::Renamed(to) = FLAGS[row].usage {
            let to = find(to).expect("an old spelling names a row");
            if settings.origin(to) != Origin::Default {
                used.insert(key);
                continue;
            }
        }
        match settings.set(row, value, Origin::Environment) {
            Ok(()) => {
                let secret = key.ends_with("PASSWORD") || key.ends_with("DISCOVERY_USER");
                let shown = if secret { "(hidden)" } else { value };
                notes.push(
                    Note::info("recognized and used environment variable".into())
                        .with("variable-name", &key)
                        .with("variable-value", shown),
                );
            }
            Err(error) => outcome = Err(format!("invalid value {value:?} for {key}: {error}")),
        }
        used.insert(key);
    }
    for (name, _) in env {
        if used.contains(name) {
            continue;
        }
        if given.contains(name) {
            return Err(format!(
                "conflicting environment variable is shadowed by corresponding command-line flag (either unset \
                 environment variable or disable flag)): {name}"
            ));
        }
        if name.starts_with("ETCD_") {
            // Without the value: it may be a secret of whoever wraps the server.
            notes.push(
                Note::warn("unrecognized environment variable".into()).with("environment-variable", name),
            );
        }
    }
    outcome
}
