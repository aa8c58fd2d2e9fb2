//! `/health`, `/livez`, `/readyz`: one judgement of the member each, with etcd's bodies.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::executor::within;
use crate::json;
use crate::request::Request;
use crate::response::Response;
use crate::route::{Check, Kind};
use crate::state::{Alarm, Reply, State};

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Livez => "livez",
            Kind::Readyz => "readyz",
        }
    }

    fn checks(self) -> &'static [Check] {
        match self {
            Kind::Livez => &[Check::SerializableRead],
            Kind::Readyz => {
                &[Check::DataCorruption, Check::SerializableRead, Check::LinearizableRead, Check::NonLearner]
            }
        }
    }
}

impl Check {
    fn name(self) -> &'static str {
        match self {
            Check::DataCorruption => "data_corruption",
            Check::SerializableRead => "serializable_read",
            Check::LinearizableRead => "linearizable_read",
            Check::NonLearner => "non_learner",
        }
    }
}

/// `/health`: alarms, a leader, one read. `timeout` bounds the read.
pub(crate) async fn health(request: &Request, state: &dyn State, timeout: Duration) -> Response {
    if request.method != "GET" {
        tracing::warn!("status-code" = 405, "/health error");
        return Response::only_get();
    }
    let excluded: BTreeSet<String> = request.query_values("exclude").into_iter().collect();
    let serializable = request.query_values("serializable").first().is_some_and(|value| value == "true");
    let reason = judge(state, &excluded, serializable, timeout).await;
    state.health_answered(reason.is_none());
    let word = if reason.is_none() { "true" } else { "false" };
    let body =
        format!("{{\"health\":\"{word}\",\"reason\":{}}}", json::string(reason.as_deref().unwrap_or("")));
    if reason.is_some() {
        tracing::warn!(output = %body, "status-code" = 503, "/health error");
        return Response::error(503, &body);
    }
    tracing::debug!("status-code" = 200, "/health OK");
    Response::new(200).body(body)
}

/// Why the member is unhealthy, or nothing.
async fn judge(
    state: &dyn State,
    excluded: &BTreeSet<String>,
    serializable: bool,
    timeout: Duration,
) -> Option<String> {
    let alarms = state.alarms();
    if let Some(alarm) = alarms.iter().find(|alarm| !excluded.contains(&alarm.name())) {
        tracing::warn!(alarm = %alarm.name(), "serving /health false due to an alarm");
        return Some(match alarm {
            Alarm::NoSpace => "ALARM NOSPACE".into(),
            Alarm::Corrupt => "ALARM CORRUPT".into(),
            Alarm::Other(_) => "ALARM UNKNOWN".into(),
        });
    }
    if !serializable && state.leader() == 0 {
        tracing::warn!("serving /health false; no leader");
        return Some("RAFT NO LEADER".into());
    }
    let check = if serializable { Check::SerializableRead } else { Check::LinearizableRead };
    match run(check, state, timeout).await {
        Ok(()) => None,
        Err(error) => {
            tracing::warn!(error = %error, "serving /health false; Range fails");
            Some(format!("RANGE ERROR:{error}"))
        }
    }
}

/// `/livez` and `/readyz`, whole or one check of theirs.
pub(crate) async fn checks(
    request: &Request,
    kind: Kind,
    one: Option<Check>,
    state: &dyn State,
    timeout: Duration,
) -> Response {
    if request.method != "GET" {
        tracing::warn!(path = %request.path, "status-code" = 405, "Health request error");
        return Response::only_get();
    }
    let wanted: Vec<Check> = match one {
        Some(check) => vec![check],
        None => {
            let mut excluded: BTreeSet<String> = request.query_values("exclude").into_iter().collect();
            excluded.remove("");
            let wanted =
                kind.checks().iter().filter(|check| !excluded.remove(check.name())).copied().collect();
            if !excluded.is_empty() {
                let names: Vec<String> = excluded.iter().map(|name| format!("{name:?}")).collect();
                tracing::warn!(
                    "missing-health-checks" = %names.join(","),
                    "some health checks cannot be excluded"
                );
            }
            wanted
        }
    };
    let mut report = String::new();
    let mut failed = false;
    for check in wanted {
        let outcome = run(check, state, timeout).await;
        state.check_answered(kind.name(), check.name(), outcome.is_ok());
        match outcome {
            Ok(()) => report.push_str(&format!("[+]{} ok\n", check.name())),
            Err(error) => {
                failed = true;
                report.push_str(&format!("[-]{} failed: {error}\n", check.name()));
            }
        }
    }
    if failed {
        tracing::error!(path = %request.path, reason = %report, "status-code" = 503, "Health check error");
        return Response::error(503, &report);
    }
    tracing::debug!(path = %request.path, reason = %report, "status-code" = 200, "Health check OK");
    if request.query_values("verbose").is_empty() {
        report.clear();
    }
    Response::new(200)
        .with("Content-Type", "text/plain; charset=utf-8")
        .with("X-Content-Type-Options", "nosniff")
        .body(report + "ok\n")
}

async fn run(check: Check, state: &dyn State, timeout: Duration) -> Result<(), String> {
    match check {
        Check::DataCorruption if state.alarms().contains(&Alarm::Corrupt) => {
            Err("alarm activated: CORRUPT".into())
        }
        Check::DataCorruption => Ok(()),
        Check::NonLearner if state.is_learner() => Err("not supported for learner".into()),
        Check::NonLearner => Ok(()),
        Check::SerializableRead => state.serializable_check(),
        Check::LinearizableRead => {
            let (reply, outcome) = Reply::new();
            state.linearizable_check(reply);
            match within(timeout, outcome).await {
                Some(outcome) => outcome,
                None => Err("etcdserver: request timed out".into()),
            }
        }
    }
}
