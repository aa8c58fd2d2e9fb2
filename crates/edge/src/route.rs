//! Which path does what, on which listener. Pure.
//!
//! One table. Paths are exact but for those that end in a slash, which take everything below them; the JSON gateway
//! will fill its subtree.

use crate::request::{BodyPlan, Request};

/// Which kind of listener a connection came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    /// --listen-client-urls or --listen-client-http-urls: every route, behind host whitelist and CORS.
    Client,
    /// --listen-metrics-urls: health and metrics only.
    Metrics,
}

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Health,
    /// All checks of a kind, or the one named.
    Checks(Kind, Option<Check>),
    Metrics,
    Version,
    DebugVars,
    /// The pages of Go's request tracer, which this server has not.
    DebugPage(&'static str),
    /// The JSON gateway's subtree.
    Gateway,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Livez,
    Readyz,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

struct Route {
    path: &'static str,
    /// Also on the metrics listener.
    metrics: bool,
    target: Target,
}

const fn route(path: &'static str, metrics: bool, target: Target) -> Route {
    Route { path, metrics, target }
}

const TABLE: &[Route] = &[
    route("/health", true, Target::Health),
    route("/livez", true, Target::Checks(Kind::Livez, None)),
    route("/livez/serializable_read", true, Target::Checks(Kind::Livez, Some(Check::SerializableRead))),
    route("/readyz", true, Target::Checks(Kind::Readyz, None)),
    route("/readyz/data_corruption", true, Target::Checks(Kind::Readyz, Some(Check::DataCorruption))),
    route("/readyz/serializable_read", true, Target::Checks(Kind::Readyz, Some(Check::SerializableRead))),
    route("/readyz/linearizable_read", true, Target::Checks(Kind::Readyz, Some(Check::LinearizableRead))),
    route("/readyz/non_learner", true, Target::Checks(Kind::Readyz, Some(Check::NonLearner))),
    route("/metrics", true, Target::Metrics),
    route("/version", false, Target::Version),
    route("/debug/vars", false, Target::DebugVars),
    route("/debug/requests", false, Target::DebugPage("/debug/requests")),
    route("/debug/events", false, Target::DebugPage("/debug/events")),
    route("/v3/", false, Target::Gateway),
];

/// Where a path leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Target(Target),
    /// The client should ask for this path instead (the query is kept).
    Redirect(String),
    Nothing,
}

/// Finds the route of a decoded path. `gateway` is --enable-grpc-gateway.
pub fn find(surface: Surface, path: &str, gateway: bool) -> Found {
    let seen = TABLE
        .iter()
        .filter(|route| route.metrics || surface == Surface::Client)
        .filter(|route| gateway || route.target != Target::Gateway);
    let clean = clean(path);
    let mut subtree = None;
    for route in seen {
        if clean == route.path || (route.path.ends_with('/') && clean.starts_with(route.path)) {
            if clean != path {
                return Found::Redirect(clean);
            }
            return Found::Target(route.target);
        }
        if route.path.strip_suffix('/') == Some(&clean) {
            subtree = Some(route.path.to_string());
        }
    }
    match subtree {
        Some(path) => Found::Redirect(path),
        None if clean != path && surface == Surface::Client => Found::Redirect(clean),
        None => Found::Nothing,
    }
}

/// What becomes of a request's body, known from its head. No route reads one yet; the gateway will.
pub fn body_plan(_: &Request) -> BodyPlan {
    BodyPlan::Drain
}

/// The shortest path that means the same: no `//`, no `.`, no `..`; a final slash stays.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    let mut out = String::from("/");
    out.push_str(&parts.join("/"));
    if path.ends_with('/') && out.len() > 1 {
        out.push('/');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned() {
        for (path, want) in [
            ("/", "/"),
            ("//health", "/health"),
            ("/a/../health", "/health"),
            ("/./health", "/health"),
            ("/a/./b/../", "/a/"),
            ("/../..", "/"),
            ("", "/"),
        ] {
            assert_eq!(clean(path), want, "{path}");
        }
    }

    #[test]
    fn surfaces_differ() {
        for path in ["/health", "/livez", "/readyz/non_learner", "/metrics"] {
            for surface in [Surface::Client, Surface::Metrics] {
                assert!(matches!(find(surface, path, true), Found::Target(_)), "{path}");
            }
        }
        for path in ["/version", "/debug/vars", "/v3/kv/range", "/debug/requests"] {
            assert!(matches!(find(Surface::Client, path, true), Found::Target(_)), "{path}");
            assert_eq!(find(Surface::Metrics, path, true), Found::Nothing, "{path}");
        }
    }

    #[test]
    fn subtrees_and_redirects() {
        assert_eq!(find(Surface::Client, "/v3", true), Found::Redirect("/v3/".into()));
        assert_eq!(find(Surface::Client, "/v3/", true), Found::Target(Target::Gateway));
        assert_eq!(find(Surface::Client, "/v3/kv/range", false), Found::Nothing);
        assert_eq!(find(Surface::Client, "//health", true), Found::Redirect("/health".into()));
        for path in ["/", "/health/", "/readyz/", "/readyz/foo", "/nosuch", "/debug/pprof/"] {
            assert_eq!(find(Surface::Client, path, true), Found::Nothing, "{path}");
        }
    }
}
