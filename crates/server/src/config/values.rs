//! Values as Go's flag package reads and words them. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::table::Kind;
use super::url::{Url, parse_list};

/// A parsed value; the variant follows from the flag's kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Text(String),
    Bool(bool),
    Uint(u64),
    Int(i64),
    /// Nanoseconds.
    Duration(i64),
    Urls(Vec<Url>),
    Set(BTreeSet<String>),
    List(Vec<String>),
    /// As given, not yet applied.
    Gates(BTreeMap<String, bool>),
    Nothing,
}

/// Parses `text` for a flag of `kind` that now holds `before`. The error is what etcd prints after the flag's name.
pub fn parse(kind: Kind, text: &str, before: &Value) -> Result<Value, String> {
    Ok(match kind {
        Kind::Text => Value::Text(text.into()),
        Kind::Bool => Value::Bool(parse_bool(text).ok_or("parse error")?),
        Kind::Uint => Value::Uint(parse_uint(text, u64::MAX).map_err(|error| error.flag_text().to_string())?),
        Kind::Uint32 => Value::Uint(
            parse_uint(text, u64::from(u32::MAX))
                .map_err(|error| format!("strconv.ParseUint: parsing {text:?}: {}", error.go_text()))?,
        ),
        Kind::Int => Value::Int(parse_int(text).map_err(|error| error.flag_text().to_string())?),
        Kind::Duration => Value::Duration(parse_duration(text).ok_or("parse error")?),
        Kind::Urls if text.is_empty() => before.clone(),
        Kind::Urls => Value::Urls(unique(parse_list(text)?)),
        Kind::Origins => {
            let mut words = BTreeSet::new();
            if text == "*" {
                words.insert("*".to_string());
            } else {
                words.extend(parse_list(text)?.iter().map(Url::to_string));
            }
            Value::Set(words)
        }
        Kind::Set => Value::Set(text.split(',').map(String::from).collect()),
        Kind::List => Value::List(text.split(',').map(String::from).collect()),
        Kind::Choice(choices) if choices.contains(&text) => Value::Text(text.into()),
        Kind::Choice(_) => return Err("invalid value".into()),
        Kind::Choices(choices) => match text.split(',').find(|word| !choices.contains(word)) {
            Some(word) => return Err(format!("invalid value {word:?}")),
            None => Value::Text(text.into()),
        },
        Kind::Gates => {
            let mut gates = match before {
                Value::Gates(gates) => gates.clone(),
                _ => BTreeMap::new(),
            };
            gates.extend(super::gates::parse(text)?);
            Value::Gates(gates)
        }
        Kind::Ignored => Value::Nothing,
    })
}

/// The value of a default column.
pub fn default_of(kind: Kind, text: &str) -> Value {
    let empty = match kind {
        Kind::Urls => Value::Urls(Vec::new()),
        Kind::Set | Kind::Origins => Value::Set(BTreeSet::new()),
        Kind::List => Value::List(Vec::new()),
        Kind::Gates => Value::Gates(BTreeMap::new()),
        Kind::Bool => Value::Bool(false),
        Kind::Uint | Kind::Uint32 => Value::Uint(0),
        Kind::Int => Value::Int(0),
        Kind::Duration => Value::Duration(0),
        Kind::Text | Kind::Choice(_) | Kind::Choices(_) => Value::Text(String::new()),
        Kind::Ignored => Value::Nothing,
    };
    if text.is_empty() {
        return empty;
    }
    match parse(kind, text, &empty) {
        Ok(value) => value,
        Err(error) => panic!("the table's default {text:?} does not parse: {error}"),
    }
}

fn unique(urls: Vec<Url>) -> Vec<Url> {
    let mut seen = BTreeSet::new();
    urls.into_iter().filter(|url| seen.insert(url.to_string())).collect()
}

/// Why a number does not parse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberError {
    Syntax,
    Range,
}

impl NumberError {
    fn flag_text(self) -> &'static str {
        match self {
            NumberError::Syntax => "parse error",
            NumberError::Range => "value out of range",
        }
    }

    fn go_text(self) -> &'static str {
        match self {
            NumberError::Syntax => "invalid syntax",
            NumberError::Range => "value out of range",
        }
    }
}

pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Go's ParseUint with base 0: decimal, 0x, 0o, 0b, a leading 0 for octal, underscores between digits.
pub fn parse_uint(text: &str, max: u64) -> Result<u64, NumberError> {
    let lower = text.to_ascii_lowercase();
    let (digits, base) = match lower.as_bytes() {
        [b'0', b'x', ..] => (&lower[2..], 16),
        [b'0', b'b', ..] => (&lower[2..], 2),
        [b'0', b'o', ..] => (&lower[2..], 8),
        [b'0', _, ..] => (&lower[1..], 8),
        _ => (lower.as_str(), 10),
    };
    let prefixed = base != 10;
    let inner = if prefixed { digits.strip_prefix('_').unwrap_or(digits) } else { digits };
    let malformed =
        inner.is_empty() || inner.starts_with('_') || inner.ends_with('_') || inner.contains("__");
    if malformed || !inner.chars().all(|c| c == '_' || c.is_digit(base)) {
        return Err(NumberError::Syntax);
    }
    let plain: String = inner.chars().filter(|c| *c != '_').collect();
    u64::from_str_radix(&plain, base).ok().filter(|value| *value <= max).ok_or(NumberError::Range)
}

/// Go's ParseInt with base 0.
pub fn parse_int(text: &str) -> Result<i64, NumberError> {
    let (negative, digits) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    let limit = if negative { 1 << 63 } else { i64::MAX as u64 };
    let value = parse_uint(digits, limit)?;
    Ok(if negative { (value as i64).wrapping_neg() } else { value as i64 })
}

/// Go's ParseDuration: a sum of decimal numbers with units, or 0. Nanoseconds.
pub fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let whole = &rest[..end];
        rest = &rest[end..];
        let mut fraction = "";
        if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
            fraction = &after[..end];
            rest = &after[end..];
        }
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let end = rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len());
        let unit: u128 = match &rest[..end] {
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        rest = &rest[end..];
        let number = |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<u128>().ok() };
        total = total.checked_add(number(whole)?.checked_mul(unit)?)?;
        // 18 digits are more than any unit resolves.
        let fraction = &fraction[..fraction.len().min(18)];
        total += number(fraction)? * unit / 10u128.pow(fraction.len() as u32);
        if total > 1 << 63 {
            return None;
        }
    }
    match (negative, total) {
        (true, total) => Some((total as i64).wrapping_neg()),
        (false, total) => i64::try_from(total).ok(),
    }
}

/// Go's Duration.String.
pub fn format_duration(ns: i64) -> String {
    let sign = if ns < 0 { "-" } else { "" };
    let left = ns.unsigned_abs();
    let fraction = |value: u64, unit: u64, name: &str| {
        let digits = format!("{:0width$}", value % unit, width = unit.ilog10() as usize);
        let digits = digits.trim_end_matches('0');
        match (unit, digits) {
            (1, _) | (_, "") => format!("{}{name}", value / unit),
            _ => format!("{}.{digits}{name}", value / unit),
        }
    };
    let text = match left {
        0 => "0s".to_string(),
        1..1_000 => fraction(left, 1, "ns"),
        1_000..1_000_000 => fraction(left, 1_000, "\u{b5}s"),
        1_000_000..1_000_000_000 => fraction(left, 1_000_000, "ms"),
        _ => {
            let minutes = left / 60_000_000_000;
            let seconds = fraction(left % 60_000_000_000, 1_000_000_000, "s");
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    };
    format!("{sign}{text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_go_reads_them() {
        for (text, want) in [
            ("0", Ok(0)),
            ("10", Ok(10)),
            ("0x10", Ok(16)),
            ("0X_fF", Ok(255)),
            ("0b101", Ok(5)),
            ("0o17", Ok(15)),
            ("017", Ok(15)),
            ("1_000", Ok(1000)),
            ("18446744073709551615", Ok(u64::MAX)),
            ("18446744073709551616", Err(NumberError::Range)),
            ("", Err(NumberError::Syntax)),
            ("-1", Err(NumberError::Syntax)),
            ("+1", Err(NumberError::Syntax)),
            ("1.5", Err(NumberError::Syntax)),
            ("1__0", Err(NumberError::Syntax)),
            ("_1", Err(NumberError::Syntax)),
            ("1_", Err(NumberError::Syntax)),
            ("0x", Err(NumberError::Syntax)),
            ("08", Err(NumberError::Syntax)),
            ("abc", Err(NumberError::Syntax)),
            (" 1", Err(NumberError::Syntax)),
        ] {
            assert_eq!(parse_uint(text, u64::MAX), want, "{text:?}");
        }
        assert_eq!(parse_uint("4294967296", u64::from(u32::MAX)), Err(NumberError::Range));
        assert_eq!(parse_int("-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(parse_int("9223372036854775807"), Ok(i64::MAX));
        assert_eq!(parse_int("9223372036854775808"), Err(NumberError::Range));
        assert_eq!(parse_int("+0x10"), Ok(16));
        assert_eq!(parse_int("--1"), Err(NumberError::Syntax));
    }

    #[test]
    fn durations_both_ways() {
        for (text, ns, shown) in [
            ("0", 0, "0s"),
            ("1ns", 1, "1ns"),
            ("1.5us", 1_500, "1.5\u{b5}s"),
            ("886.056\u{b5}s", 886_056, "886.056\u{b5}s"),
            ("100ms", 100_000_000, "100ms"),
            ("2h", 7_200_000_000_000, "2h0m0s"),
            ("1m", 60_000_000_000, "1m0s"),
            ("1h2m3.25s", 3_723_250_000_000, "1h2m3.25s"),
            (".5s", 500_000_000, "500ms"),
            ("1.s", 1_000_000_000, "1s"),
            ("-5s", -5_000_000_000, "-5s"),
            ("+5s", 5_000_000_000, "5s"),
        ] {
            assert_eq!(parse_duration(text), Some(ns), "{text}");
            assert_eq!(format_duration(ns), shown);
        }
        for text in ["", "5", "s", ".s", "-", "1x", "1s ", "9999999999h", "1e3s", "-x"] {
            assert_eq!(parse_duration(text), None, "{text:?}");
        }
        let mut random = base::Random::new(3);
        for _ in 0..2000 {
            let ns = (random.next_u64() >> random.below(63)) as i64 >> 1;
            assert_eq!(parse_duration(&format_duration(ns)), Some(ns));
        }
    }

    #[test]
    fn every_default_parses() {
        for flag in super::super::table::FLAGS {
            default_of(flag.kind, flag.default);
        }
    }
}
