//! Who may talk to the client listeners: the host whitelist (DNS rebinding, CVE-2018-5702) and CORS. Pure.

use std::collections::BTreeSet;

/// `--host-whitelist` and `--cors`. An empty set, or one that holds `*`, allows everybody.
#[derive(Clone, Debug, Default)]
pub struct Access {
    pub hosts: BTreeSet<String>,
    pub origins: BTreeSet<String>,
}

impl Access {
    /// `host` is the Host header or the authority of an absolute request target.
    pub(crate) fn host_allowed(&self, host: &str) -> bool {
        allows_all(&self.hosts) || self.hosts.contains(hostname(host))
    }

    /// The value of Access-Control-Allow-Origin, when the origin may have one.
    pub(crate) fn origin<'a>(&self, origin: Option<&'a str>) -> Option<&'a str> {
        if allows_all(&self.origins) {
            return Some("*");
        }
        origin.filter(|origin| self.origins.contains(*origin))
    }
}

/// The body of the 421 that a rejected host gets.
pub(crate) fn rejection(host: &str) -> String {
    format!(
        "\nThe Host header {host:?} is not one that this server answers to, so the request was refused.\n\n\
         Either of these lets it pass:\n\
         - serve clients over TLS: https requests are not checked;\n\
         - name the host at start: --host-whitelist {:?}\n\n\
         The check protects a server without TLS from DNS rebinding (CVE-2018-5702).\n",
        hostname(host)
    )
}

fn allows_all(set: &BTreeSet<String>) -> bool {
    set.is_empty() || set.contains("*")
}

/// Without port and brackets.
fn hostname(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    match host.rsplit_once(':') {
        Some((name, _)) if !name.contains(':') => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    #[test]
    fn hosts() {
        let open = Access::default();
        assert!(open.host_allowed("anything"));
        assert!(Access { hosts: set(&["*", "a"]), ..Access::default() }.host_allowed("b"));
        let narrow = Access { hosts: set(&["a.example", "127.0.0.1", "::1"]), ..Access::default() };
        for host in ["a.example", "a.example:2379", "127.0.0.1:2379", "[::1]:2379", "[::1]", "::1"] {
            assert!(narrow.host_allowed(host), "{host}");
        }
        for host in ["b.example", "", "a.example.evil:80", "xa.example"] {
            assert!(!narrow.host_allowed(host), "{host}");
        }
    }

    #[test]
    fn origins() {
        assert_eq!(Access::default().origin(None), Some("*"));
        let narrow = Access { origins: set(&["http://ui:1"]), ..Access::default() };
        assert_eq!(narrow.origin(Some("http://ui:1")), Some("http://ui:1"));
        assert_eq!(narrow.origin(Some("http://ui:2")), None);
        assert_eq!(narrow.origin(None), None);
    }
}
