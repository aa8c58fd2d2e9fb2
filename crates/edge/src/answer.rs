//! From a request to its answer: access control, then the route.

use std::time::Duration;

use crate::access::{self, Access};
use crate::request::Request;
use crate::response::Response;
use crate::route::{Found, Surface, Target, find};
use crate::state::State;
use crate::{health, json};

/// What answers depend on beside the request.
pub(crate) struct Answers<'a> {
    pub state: &'a dyn State,
    pub access: &'a Access,
    /// --enable-grpc-gateway.
    pub gateway: bool,
    /// Bounds each read of a health check.
    pub timeout: Duration,
}

impl Answers<'_> {
    pub async fn answer(&self, surface: Surface, mut request: Request) -> Response {
        if request.path == "*" && request.method == "OPTIONS" {
            return Response::new(200);
        }
        if request.expects_more {
            return Response { close: true, ..Response::new(417) };
        }
        if surface == Surface::Metrics {
            return self.dispatch(surface, &request).await;
        }
        if let Some(rest) = request.path.strip_prefix("/v3beta/") {
            request.path = format!("/v3/{rest}");
        }
        if !self.access.host_allowed(&request.host) {
            tracing::warn!(host = %request.host, "rejecting HTTP request to prevent DNS rebinding attacks");
            return Response::error(421, &access::rejection(&request.host));
        }
        let response = match request.method.as_str() {
            "OPTIONS" => Response::new(200),
            _ => self.dispatch(surface, &request).await,
        };
        match self.access.origin(request.header("origin")) {
            Some(origin) => response
                .with("Access-Control-Allow-Methods", "POST, GET, OPTIONS, PUT, DELETE")
                .with("Access-Control-Allow-Origin", origin)
                .with("Access-Control-Allow-Headers", "accept, content-type, authorization"),
            None => response,
        }
    }

    async fn dispatch(&self, surface: Surface, request: &Request) -> Response {
        if request.path == "*" {
            return Response { close: true, ..Response::new(400) };
        }
        if request.method == "CONNECT" {
            return Response::not_found();
        }
        let target = match find(surface, &request.path, self.gateway) {
            Found::Target(target) => target,
            Found::Redirect(path) => return redirect(request, path),
            Found::Nothing => return Response::not_found(),
        };
        let get = request.method == "GET";
        match target {
            Target::Health => health::health(request, self.state, self.timeout).await,
            Target::Checks(kind, one) => health::checks(request, kind, one, self.state, self.timeout).await,
            Target::Metrics => Response::new(200)
                .with("Content-Type", "text/plain; version=0.0.4; charset=utf-8; escaping=underscores")
                .body(self.state.render_metrics()),
            Target::Version if get => self.version(),
            Target::DebugVars if get => self.debug_vars(),
            Target::Version | Target::DebugVars => Response::only_get(),
            Target::DebugPage(title) => {
                Response::new(200).with("Content-Type", "text/html; charset=utf-8").body(format!(
                    "<html>\n<head><title>{title}</title></head>\n<body>\n<h1>{title}</h1>\n\
                     <p>This server keeps no request traces.</p>\n</body>\n</html>\n"
                ))
            }
            Target::Gateway => Response::error(
                501,
                "The JSON gateway is not part of this version of the server; use gRPC on the same port.",
            ),
        }
    }

    fn version(&self) -> Response {
        let versions = self.state.versions();
        Response::new(200).with("Content-Type", "application/json").body(format!(
            "{{\"etcdserver\":{},\"etcdcluster\":{},\"storage\":{}}}",
            json::string(&versions.server),
            json::string(versions.cluster.as_deref().unwrap_or("not_decided")),
            json::string(versions.storage.as_deref().unwrap_or("unknown")),
        ))
    }

    fn debug_vars(&self) -> Response {
        let vars: Vec<String> = self
            .state
            .debug_vars()
            .into_iter()
            .map(|(name, value)| format!("{}: {value}", json::string(&name)))
            .collect();
        Response::new(200)
            .with("Content-Type", "application/json; charset=utf-8")
            .body(format!("{{\n{}\n}}\n", vars.join(",\n")))
    }
}

fn redirect(request: &Request, path: String) -> Response {
    let mut to = encode_path(&path);
    if !request.query.is_empty() {
        to.push('?');
        to.push_str(&request.query);
    }
    let shown = to.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let shown = shown.replace('"', "&#34;").replace('\'', "&#39;");
    let response = Response::new(307).with("Location", to);
    match request.method.as_str() {
        "GET" | "HEAD" => response
            .with("Content-Type", "text/html; charset=utf-8")
            .body(format!("<a href=\"{shown}\">Temporary Redirect</a>.\n\n")),
        _ => response,
    }
}

/// A decoded path as a request target: everything but unreserved characters and delimiters is escaped.
fn encode_path(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(&byte) {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
