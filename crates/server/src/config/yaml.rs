//! The configuration file. etcd turns YAML into JSON and decodes it into typed fields; the errors are worded so.
//!
//! Beside etcd's keys the file may hold this server's own. Unknown keys are warned about (etcd ignores them).

use serde_json::Value as Json;

use super::Note;
use super::settings::{Origin, Settings};
use super::table::{FLAGS, Flag, Kind};
use super::url::parse_list;
use super::values::Value;

/// What the keys at the top may be beside those of the table: etcd's sample still has those of the v2 proxy.
const SILENT: [&str; 8] = [
    "discovery-fallback",
    "grpc-additional-server-options",
    "proxy",
    "proxy-dial-timeout",
    "proxy-failure-wait",
    "proxy-read-timeout",
    "proxy-refresh-interval",
    "proxy-write-timeout",
];
/// Sections: their keys are those of the table with the section in front.
const SECTIONS: [&str; 4] =
    ["client-transport-security", "peer-transport-security", "socket-options", "discovery-config"];

/// Why the file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileError {
    /// Reported as a configuration error.
    Config(String),
    /// etcd prints this line by itself.
    Plain(String),
}

/// Reads the file's text into the settings.
pub fn read(settings: &mut Settings, text: &str, notes: &mut Vec<Note>) -> Result<(), FileError> {
    let wrong =
        |text: String| FileError::Config(format!("error unmarshaling JSON: while decoding JSON: {text}"));
    let options = serde_saphyr::options! { duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins };
    let document: Json = if text.trim().is_empty() {
        Json::Null
    } else {
        serde_saphyr::from_str_with_options(text, options)
            .map_err(|error| FileError::Config(not_yaml(&error.to_string())))?
    };
    let top = match &document {
        Json::Null => return Ok(()),
        Json::Object(top) => top,
        other => {
            return Err(wrong(format!(
                "json: cannot unmarshal {} into Go value of type embed.configYAML",
                json_kind(other)
            )));
        }
    };
    for key in top.keys() {
        let known = FLAGS.iter().any(|flag| flag.yaml.split('.').next() == Some(key))
            || SILENT.contains(&key.as_str());
        if !known {
            notes.push(Note::warn("unknown key in the configuration file".into()).with("key", key));
        }
    }
    for section in SECTIONS {
        match top.get(section) {
            None | Some(Json::Null | Json::Object(_)) => {}
            Some(other) => {
                return Err(wrong(mismatch(other, section, section_type(section))));
            }
        }
    }
    for (row, flag) in FLAGS.iter().enumerate() {
        if flag.yaml.is_empty() {
            continue;
        }
        let mut found = Some(&document);
        for part in flag.yaml.split('.') {
            found = found.and_then(|value| value.get(part));
        }
        match found {
            None | Some(Json::Null) => {}
            Some(value) => put(settings, row, flag, value)?,
        }
    }
    Ok(())
}

fn put(settings: &mut Settings, row: usize, flag: &Flag, json: &Json) -> Result<(), FileError> {
    let mismatched = |kind: &str| {
        let text = mismatch(json, flag.yaml, kind);
        FileError::Config(format!("error unmarshaling JSON: while decoding JSON: {text}"))
    };
    let value = match flag.kind {
        Kind::Bool => Value::Bool(match json {
            Json::Bool(value) => *value,
            // YAML 1.1, which etcd reads, has more spellings than the parser here.
            Json::String(word) => yaml_bool(word).ok_or_else(|| mismatched("bool"))?,
            _ => return Err(mismatched("bool")),
        }),
        Kind::Uint => Value::Uint(json.as_u64().ok_or_else(|| mismatched("uint"))?),
        Kind::Uint32 => {
            let value = json.as_u64().filter(|value| *value <= u64::from(u32::MAX));
            Value::Uint(value.ok_or_else(|| mismatched("uint32"))?)
        }
        Kind::Int => Value::Int(json.as_i64().ok_or_else(|| mismatched("int"))?),
        Kind::Duration => Value::Duration(json.as_i64().ok_or_else(|| mismatched("time.Duration"))?),
        Kind::List => Value::List(strings(json).ok_or_else(|| mismatched("[]string"))?),
        // host-whitelist is one string in the file; the other sets are lists.
        Kind::Set if flag.name != "host-whitelist" => {
            Value::Set(strings(json).ok_or_else(|| mismatched("[]string"))?.into_iter().collect())
        }
        _ => {
            let text = json.as_str().ok_or_else(|| mismatched("string"))?;
            match flag.kind {
                Kind::Text | Kind::Choice(_) | Kind::Choices(_) => Value::Text(text.into()),
                Kind::Urls | Kind::Origins | Kind::Set if text.is_empty() => return Ok(()),
                Kind::Urls => {
                    let urls = parse_list(text).map_err(|error| {
                        FileError::Plain(format!("unexpected error setting up {}: {error}", flag.name))
                    })?;
                    Value::Urls(urls)
                }
                _ => {
                    return settings.set(row, text, Origin::File).map_err(FileError::Config);
                }
            }
        }
    };
    match flag.usage {
        // Old spellings go by text, so that the row of the new one takes the value.
        super::table::Use::Renamed(_) | super::table::Use::Gate(_) => {
            let text = match value {
                Value::Bool(value) => value.to_string(),
                Value::Uint(value) => value.to_string(),
                Value::Int(value) => value.to_string(),
                Value::Duration(ns) => format!("{ns}ns"),
                Value::Text(text) => text,
                other => panic!("no old spelling holds {other:?}"),
            };
            settings.set(row, &text, Origin::File).map_err(FileError::Config)
        }
        _ => {
            settings.put(row, value, Origin::File);
            Ok(())
        }
    }
}

/// The parser's first line says what and where; the picture below it does not belong into a log line.
fn not_yaml(error: &str) -> String {
    let line = error.lines().next().unwrap_or_default();
    format!("error converting YAML to JSON: yaml: {}", line.strip_prefix("error: ").unwrap_or(line))
}

fn yaml_bool(word: &str) -> Option<bool> {
    match word.to_ascii_lowercase().as_str() {
        "y" | "yes" | "on" => Some(true),
        "n" | "no" | "off" => Some(false),
        _ => None,
    }
}

fn strings(json: &Json) -> Option<Vec<String>> {
    json.as_array()?.iter().map(|item| item.as_str().map(String::from)).collect()
}

fn mismatch(json: &Json, path: &str, kind: &str) -> String {
    let first = path.split('.').next().unwrap_or(path);
    let outer = match first {
        "listen-peer-urls"
        | "listen-client-urls"
        | "listen-client-http-urls"
        | "initial-advertise-peer-urls"
        | "advertise-client-urls"
        | "cors"
        | "host-whitelist"
        | "client-transport-security"
        | "peer-transport-security"
        | "feature-gates" => "configJSON",
        _ => "Config",
    };
    let shown = match json {
        Json::Number(number) if kind != "string" && !kind.starts_with("embed.") => format!("number {number}"),
        other => json_kind(other).to_string(),
    };
    format!("json: cannot unmarshal {shown} into Go struct field configYAML.{outer}.{path} of type {kind}")
}

fn section_type(section: &str) -> &'static str {
    match section {
        "socket-options" => "transport.SocketOpts",
        "discovery-config" => "v3discovery.DiscoveryConfig",
        _ => "embed.securityConfig",
    }
}

fn json_kind(json: &Json) -> &'static str {
    match json {
        Json::Null => "null",
        Json::Bool(_) => "bool",
        Json::Number(_) => "number",
        Json::String(_) => "string",
        Json::Array(_) => "array",
        Json::Object(_) => "object",
    }
}
