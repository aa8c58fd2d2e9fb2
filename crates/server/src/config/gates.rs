//! Feature gates: the ones etcd 3.7.1 knows, their defaults, and how they are set. Pure.

use std::collections::BTreeMap;

use super::values::parse_bool;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Alpha,
    Beta,
}

impl Stage {
    /// As the metric etcd_server_feature_enabled labels it.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Alpha => "ALPHA",
            Stage::Beta => "BETA",
        }
    }
}

/// One known gate.
#[derive(Debug)]
pub struct Gate {
    pub name: &'static str,
    pub stage: Stage,
    pub default: bool,
    /// What switching it away from the default changes here; empty when it works as in etcd.
    pub note: &'static str,
}

const fn gate(name: &'static str, stage: Stage, default: bool, note: &'static str) -> Gate {
    Gate { name, stage, default, note }
}

const OTHER_STORE: &str = "it has no effect: the store is built differently";
const OTHER_LEASES: &str = "it has no effect: renewals are always fast here";
const LATER: &str = "it has no effect in this version";

/// By name.
pub static GATES: &[Gate] = &[
    gate("AllAlpha", Stage::Alpha, false, ""),
    gate("AllBeta", Stage::Beta, false, ""),
    gate("CompactHashCheck", Stage::Alpha, false, LATER),
    gate("FastLeaseKeepAlive", Stage::Beta, true, OTHER_LEASES),
    gate("InitialCorruptCheck", Stage::Alpha, false, LATER),
    gate("LeaseCheckpoint", Stage::Alpha, false, LATER),
    gate("LeaseCheckpointPersist", Stage::Alpha, false, LATER),
    gate("PriorityRequest", Stage::Alpha, false, LATER),
    gate("SetMemberLocalAddr", Stage::Alpha, false, LATER),
    gate("StopGRPCServiceOnDefrag", Stage::Alpha, false, OTHER_STORE),
    gate("TxnModeWriteWithSharedBuffer", Stage::Beta, true, OTHER_STORE),
];

/// Parses `A=true,B=false`. Names are checked, the meta gates not yet applied.
pub fn parse(text: &str) -> Result<BTreeMap<String, bool>, String> {
    let mut out = BTreeMap::new();
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let (name, value) = match pair.split_once('=') {
            Some((name, value)) => (name.trim(), value.trim()),
            None => return Err(format!("missing bool value for {}", pair.trim())),
        };
        let value = parse_bool(value).ok_or_else(|| {
            format!(
                "invalid value of {name}={value}, err: strconv.ParseBool: parsing {value:?}: invalid syntax"
            )
        })?;
        out.insert(name.to_string(), value);
    }
    match out.keys().find(|name| !GATES.iter().any(|gate| gate.name == **name)) {
        Some(name) => Err(format!("unrecognized feature gate: {name}")),
        None => Ok(out),
    }
}

/// The gates in effect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gates {
    set: BTreeMap<String, bool>,
}

impl Gates {
    /// Applies what was given; AllAlpha and AllBeta reach the gates that were not named themselves.
    pub fn new(given: &BTreeMap<String, bool>) -> Gates {
        let mut set = given.clone();
        for (all, stage) in [("AllAlpha", Stage::Alpha), ("AllBeta", Stage::Beta)] {
            let Some(value) = given.get(all) else { continue };
            for gate in GATES.iter().filter(|gate| gate.stage == stage) {
                set.entry(gate.name.to_string()).or_insert(*value);
            }
        }
        Gates { set }
    }

    /// Whether a known gate is on. Panics for a name that is not in the table.
    pub fn enabled(&self, name: &str) -> bool {
        let gate = GATES.iter().find(|gate| gate.name == name);
        let default = gate.expect("gates are asked by the names of the table").default;
        self.set.get(name).copied().unwrap_or(default)
    }

    /// What was set away from nothing, as etcd logs it: `A=true,B=false`.
    pub fn to_text(&self) -> String {
        let pairs: Vec<String> = self.set.iter().map(|(name, value)| format!("{name}={value}")).collect();
        pairs.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_errors() {
        let given = parse("CompactHashCheck=true, FastLeaseKeepAlive = 0,").unwrap();
        let gates = Gates::new(&given);
        assert!(gates.enabled("CompactHashCheck") && !gates.enabled("FastLeaseKeepAlive"));
        assert!(gates.enabled("TxnModeWriteWithSharedBuffer") && !gates.enabled("LeaseCheckpoint"));
        assert_eq!(gates.to_text(), "CompactHashCheck=true,FastLeaseKeepAlive=false");
        for (text, want) in [
            ("Foo=true", "unrecognized feature gate: Foo"),
            ("CompactHashCheck", "missing bool value for CompactHashCheck"),
            (
                "CompactHashCheck=x",
                "invalid value of CompactHashCheck=x, err: strconv.ParseBool: parsing \"x\": invalid syntax",
            ),
        ] {
            assert_eq!(parse(text).unwrap_err(), want);
        }
        assert!(parse("").unwrap().is_empty());
    }

    #[test]
    fn meta_gates_spare_what_was_named() {
        let gates = Gates::new(&parse("AllAlpha=true,LeaseCheckpoint=false,AllBeta=false").unwrap());
        assert!(gates.enabled("CompactHashCheck") && gates.enabled("PriorityRequest"));
        assert!(!gates.enabled("LeaseCheckpoint") && !gates.enabled("FastLeaseKeepAlive"));
    }

    #[test]
    fn the_table_is_sorted() {
        assert!(GATES.is_sorted_by(|a, b| a.name < b.name));
    }
}
