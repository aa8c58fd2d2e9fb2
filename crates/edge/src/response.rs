//! One answer and its bytes. Pure; the clock comes in as a value.
//!
//! Header order is Go's: what a route set, by name; then Date, Content-Length, Content-Type where it was derived, and
//! Connection. Every answer states its length; nothing is chunked.

use crate::date::http_date;

/// An answer before it is bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub status: u16,
    /// Names in canonical spelling; order does not matter.
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// The connection ends after this answer whatever the client wished.
    pub close: bool,
}

/// How the answer is framed: what the request said about the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Framing {
    pub http_1_0: bool,
    pub keep_alive: bool,
    /// HEAD: headers as for GET, no body.
    pub head: bool,
}

impl Response {
    pub fn new(status: u16) -> Response {
        Response { status, headers: Vec::new(), body: Vec::new(), close: false }
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Response {
        self.headers.push((name, value.into()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Response {
        self.body = body.into();
        self
    }

    /// Plain text of an error, with the newline and the headers that Go's http.Error gives it.
    pub fn error(status: u16, text: &str) -> Response {
        Response::new(status)
            .with("Content-Type", "text/plain; charset=utf-8")
            .with("X-Content-Type-Options", "nosniff")
            .body(format!("{text}\n"))
    }

    pub fn not_found() -> Response {
        Response::error(404, "404 page not found")
    }

    pub fn only_get() -> Response {
        Response::error(405, "Method Not Allowed").with("Allow", "GET")
    }

    /// Appends the bytes to `out`. `unix_s` is the wall clock, seconds.
    pub fn encode(&self, framing: Framing, unix_s: u64, out: &mut Vec<u8>) {
        let version = if framing.http_1_0 { "HTTP/1.0" } else { "HTTP/1.1" };
        let mut head = format!("{version} {} {}\r\n", self.status, reason(self.status));
        let mut headers: Vec<_> = self.headers.iter().collect();
        headers.sort();
        for (name, value) in headers {
            head.push_str(name);
            head.push_str(": ");
            // A value that came from a request must not smuggle a header.
            head.extend(value.chars().filter(|c| *c != '\r' && *c != '\n'));
            head.push_str("\r\n");
        }
        head.push_str(&format!("Date: {}\r\n", http_date(unix_s)));
        head.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        if !self.body.is_empty() && !self.headers.iter().any(|(name, _)| *name == "Content-Type") {
            head.push_str("Content-Type: text/plain; charset=utf-8\r\n");
        }
        let keep = framing.keep_alive && !self.close;
        if keep && framing.http_1_0 {
            head.push_str("Connection: keep-alive\r\n");
        } else if !keep && !framing.http_1_0 {
            head.push_str("Connection: close\r\n");
        }
        head.push_str("\r\n");
        out.extend_from_slice(head.as_bytes());
        if !framing.head {
            out.extend_from_slice(&self.body);
        }
    }
}

/// What a request that cannot be parsed gets: no Date, no length, and the connection ends. `detail` follows the
/// status where the client can be told more.
pub(crate) fn refusal(status: u16, detail: &str) -> Vec<u8> {
    let line = match (status, detail) {
        (501, _) => {
            let body = "Unsupported transfer encoding";
            return format!(
                "HTTP/1.1 501 Not Implemented\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n{body}"
            )
            .into_bytes();
        }
        (_, "") => format!("{status} {}", reason(status)),
        _ => format!("{status} {}: {detail}", reason(status)),
    };
    format!("HTTP/1.1 {line}\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n{line}")
        .into_bytes()
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Request Entity Too Large",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Internal Server Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Framing = Framing { http_1_0: false, keep_alive: true, head: false };

    fn text(response: &Response, framing: Framing) -> String {
        let mut out = Vec::new();
        response.encode(framing, 1_795_229_205, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_error_looks_as_etcds() {
        let got = text(&Response::only_get(), KEEP);
        assert_eq!(
            got,
            "HTTP/1.1 405 Method Not Allowed\r\nAllow: GET\r\nContent-Type: text/plain; charset=utf-8\r\n\
             X-Content-Type-Options: nosniff\r\nDate: Sat, 21 Nov 2026 02:46:45 GMT\r\nContent-Length: 19\r\n\r\n\
             Method Not Allowed\n"
        );
    }

    #[test]
    fn a_derived_content_type_follows_the_length() {
        let got = text(&Response::new(200).body("{}"), KEEP);
        assert!(
            got.contains("Content-Length: 2\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{}"),
            "{got}"
        );
        assert!(!text(&Response::new(200), KEEP).contains("Content-Type"));
    }

    #[test]
    fn connection_header_by_version() {
        let plain = Response::new(200);
        let close = Framing { keep_alive: false, ..KEEP };
        assert!(!text(&plain, KEEP).contains("Connection"));
        assert!(text(&plain, close).contains("Connection: close\r\n"));
        let old = Framing { http_1_0: true, keep_alive: true, head: false };
        assert!(text(&plain, old).starts_with("HTTP/1.0 200 OK\r\n"));
        assert!(text(&plain, old).contains("Connection: keep-alive\r\n"));
        assert!(!text(&plain, Framing { keep_alive: false, ..old }).contains("Connection"));
        let ending = Response { close: true, ..plain };
        assert!(text(&ending, KEEP).contains("Connection: close\r\n"));
    }

    #[test]
    fn head_has_a_length_and_no_body() {
        let got = text(&Response::not_found(), Framing { head: true, ..KEEP });
        assert!(got.contains("Content-Length: 19\r\n") && got.ends_with("\r\n\r\n"), "{got}");
    }

    #[test]
    fn values_cannot_smuggle_headers() {
        let got = text(&Response::new(307).with("Location", "/a\r\nX-Evil: 1"), KEEP);
        assert!(!got.contains("\r\nX-Evil"), "{got}");
    }
}
