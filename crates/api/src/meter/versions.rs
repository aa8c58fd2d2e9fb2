//! Requests by the version that clients name in their metadata. Bounded: a client chooses the text.

use std::sync::OnceLock;

use super::cells::Counter;

/// Versions that one shard tells apart; further ones count as "unknown".
pub const CLIENT_VERSIONS: usize = 16;
/// Longer texts are no versions, bytes.
const VERSION_BYTES: usize = 32;

#[derive(Debug, Default)]
pub struct ClientVersions {
    names: [OnceLock<Box<str>>; CLIENT_VERSIONS],
    unary: [Counter; CLIENT_VERSIONS],
    stream: [Counter; CLIENT_VERSIONS],
}

impl ClientVersions {
    /// A call came in from a client of this version.
    pub fn count(&self, version: Option<&[u8]>, stream: bool) {
        let slot = self.slot(version);
        if stream { &self.stream[slot] } else { &self.unary[slot] }.inc();
    }

    /// Slot 0 is "unknown".
    fn slot(&self, version: Option<&[u8]>) -> usize {
        let Some(version) = version.filter(|version| (1..=VERSION_BYTES).contains(&version.len())) else {
            return 0;
        };
        for (slot, name) in self.names.iter().enumerate().skip(1) {
            match name.get() {
                Some(name) if name.as_bytes() == version => return slot,
                Some(_) => {}
                None => {
                    let Ok(version) = std::str::from_utf8(version) else { return 0 };
                    // One writer: nobody came between.
                    let _ = name.set(version.into());
                    return slot;
                }
            }
        }
        0
    }

    /// Version, "unary" or "stream", requests; only what was counted.
    pub fn used(&self) -> impl Iterator<Item = (&str, &'static str, u64)> {
        self.names.iter().enumerate().flat_map(move |(slot, name)| {
            let name = name.get().map_or("unknown", |name| &**name);
            [(name, "unary", self.unary[slot].get()), (name, "stream", self.stream[slot].get())]
                .into_iter()
                .filter(|(_, _, count)| *count > 0)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_apart_up_to_a_bound() {
        let versions = ClientVersions::default();
        versions.count(Some(b"3.7"), false);
        versions.count(Some(b"3.7"), true);
        versions.count(None, false);
        for odd in [&b"\xff"[..], &[b'x'; 100], b""] {
            versions.count(Some(odd), false);
        }
        let used: Vec<_> = versions.used().collect();
        assert_eq!(used, [("unknown", "unary", 4), ("3.7", "unary", 1), ("3.7", "stream", 1)]);
        for n in 0..100 {
            versions.count(Some(format!("v{n}").as_bytes()), false);
        }
        assert!(versions.used().count() <= 2 * CLIENT_VERSIONS);
        assert_eq!(versions.used().map(|(_, _, count)| count).sum::<u64>(), 106);
    }
}
