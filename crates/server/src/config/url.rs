//! URLs of listeners and members: http, https, unix, unixs. Parsed and refused as Go's net/url and etcd do it. Pure but
//! for `Url::addresses`, which asks the resolver.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    Http,
    Https,
    /// A socket file.
    Unix,
    /// A socket file with TLS.
    Unixs,
}

impl Scheme {
    pub fn is_tls(self) -> bool {
        matches!(self, Scheme::Https | Scheme::Unixs)
    }

    pub fn is_unix(self) -> bool {
        matches!(self, Scheme::Unix | Scheme::Unixs)
    }
}

/// One URL. Equal when the text is.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Url {
    text: String,
    scheme: Scheme,
    /// Without brackets.
    host: String,
    /// As written; empty when there was none.
    port: String,
    path: String,
}

impl Url {
    /// Parses one URL; `text` is trimmed. The error is etcd's.
    pub fn parse(text: &str) -> Result<Url, String> {
        let text = text.trim();
        let go = |what: &str| format!("parse {text:?}: {what}");
        if text.bytes().any(|b| b < b' ' || b == 0x7f) {
            return Err(go("net/url: invalid control character in URL"));
        }
        let (scheme, rest) = split_scheme(text).ok_or_else(|| go("missing protocol scheme"))?;
        let scheme = match scheme.as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "unix" => Scheme::Unix,
            "unixs" => Scheme::Unixs,
            other => {
                if other.is_empty() && rest.split('/').next().is_some_and(|first| first.contains(':')) {
                    return Err(go("first path segment in URL cannot contain colon"));
                }
                return Err(format!("URL scheme must be http, https, unix, or unixs: {text}"));
            }
        };
        let (authority, tail) = match rest.strip_prefix("//") {
            Some(after) => after.split_at(after.find(['/', '?', '#']).unwrap_or(after.len())),
            None => ("", rest),
        };
        let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let (host, port) = split_authority(authority).map_err(|what| go(&what))?;
        let path = &tail[..tail.find(['?', '#']).unwrap_or(tail.len())];
        if !scheme.is_unix() {
            // The form is etcd's own check, after Go has parsed.
            if port.is_none() {
                return Err(format!("URL address does not have the form \"host:port\": {text}"));
            }
            if !path.is_empty() {
                return Err(format!("URL must not contain a path: {text}"));
            }
        }
        let name = text[..text.len() - rest.len()].to_ascii_lowercase();
        Ok(Url {
            text: name + rest,
            scheme,
            host: host.to_string(),
            port: port.unwrap_or_default().to_string(),
            path: path.to_string(),
        })
    }

    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Name or address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port's number; 0 when empty, which lets the system choose. `None` when it is above 65535.
    pub fn port(&self) -> Option<u16> {
        if self.port.is_empty() { Some(0) } else { self.port.parse().ok() }
    }

    /// `host:port` as written; what etcd calls the URL's host.
    pub fn authority(&self) -> String {
        match (self.host.contains(':'), self.port.is_empty() && self.scheme.is_unix()) {
            (_, true) => self.host.clone(),
            (true, _) => format!("[{}]:{}", self.host, self.port),
            _ => format!("{}:{}", self.host, self.port),
        }
    }

    /// The socket file of a unix URL: authority and path in one, relative to the working directory unless the
    /// authority is empty.
    pub fn socket_path(&self) -> String {
        assert!(self.scheme.is_unix(), "only unix URLs name a file");
        self.authority() + &self.path
    }

    /// Where to listen: the address, or both families for a wildcard of IPv4, as Go listens. Only for http and https
    /// whose host is an IP address or `localhost`; anything else was refused by the rules.
    pub fn bind_address(&self) -> io::Result<SocketAddr> {
        let refuse = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("{what}: {self}"));
        let port = self.port().ok_or_else(|| refuse("invalid port"))?;
        let ip = match self.host.as_str() {
            "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            host => host.parse().map_err(|_| refuse("expected IP in URL for binding"))?,
        };
        let ip = if ip == IpAddr::V4(Ipv4Addr::UNSPECIFIED) && has_ipv6() {
            IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        } else {
            ip
        };
        Ok(SocketAddr::new(ip, port))
    }

    /// The URL with its host resolved to the first address; `localhost` and socket files stay. Blocks on the
    /// resolver.
    pub fn resolved(&self) -> io::Result<String> {
        if self.scheme.is_unix() || self.host == "localhost" {
            return Ok(self.to_string());
        }
        let mut found = (self.host.as_str(), self.port().unwrap_or(0)).to_socket_addrs()?;
        let address = found.next().ok_or_else(|| io::Error::other("no address"))?;
        let scheme = self.text.split(':').next().unwrap_or_default();
        Ok(format!("{scheme}://{address}"))
    }
}

/// Whether a socket of IPv6 can be made at all, and hears IPv4 as well.
fn has_ipv6() -> bool {
    let only_v6 = std::fs::read_to_string("/proc/sys/net/ipv6/bindv6only");
    only_v6.is_ok_and(|text| text.trim() == "0")
        && std::net::UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok()
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

/// Parses a list separated by commas, and sorts it as etcd does.
pub fn parse_list(text: &str) -> Result<Vec<Url>, String> {
    let mut urls = text.split(',').map(Url::parse).collect::<Result<Vec<_>, _>>()?;
    urls.sort_by(|a, b| a.text.cmp(&b.text));
    Ok(urls)
}

/// The scheme in lower case, empty when there is none, and what follows the colon. `None` when the colon comes first.
fn split_scheme(text: &str) -> Option<(String, &str)> {
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if at > 0 => {}
            b':' if at == 0 => return None,
            b':' => return Some((text[..at].to_ascii_lowercase(), &text[at + 1..])),
            _ => break,
        }
    }
    Some((String::new(), text))
}

/// Host without brackets, and port; `None` when there is no colon.
fn split_authority(authority: &str) -> Result<(&str, Option<&str>), String> {
    let valid_port = |rest: &str| match rest.strip_prefix(':') {
        None if rest.is_empty() => Ok(()),
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => Ok(()),
        _ => Err(format!("invalid port {rest:?} after host")),
    };
    if let Some(inner) = authority.strip_prefix('[') {
        let (host, rest) = inner.split_once(']').ok_or("missing ']' in host")?;
        valid_port(rest)?;
        return Ok((host, rest.strip_prefix(':')));
    }
    let allowed = |c: char| c.is_alphanumeric() || "-._~!$&'()*+,;=:%<>\"".contains(c);
    if let Some(c) = authority.chars().find(|c| !allowed(*c)) {
        return Err(format!("invalid character {:?} in host name", c.to_string()));
    }
    match authority.rfind(':') {
        Some(at) => {
            valid_port(&authority[at..])?;
            Ok((&authority[..at], Some(&authority[at + 1..])))
        }
        None => Ok((authority, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_accepted() {
        let url = Url::parse(" HTTP://127.0.0.1:2379 ").unwrap();
        assert_eq!((url.to_string().as_str(), url.host()), ("http://127.0.0.1:2379", "127.0.0.1"));
        assert_eq!((url.port(), url.authority().as_str()), (Some(2379), "127.0.0.1:2379"));
        let url = Url::parse("https://[::1]:0").unwrap();
        assert_eq!((url.host(), url.authority().as_str()), ("::1", "[::1]:0"));
        assert_eq!(url.bind_address().unwrap(), "[::1]:0".parse().unwrap());
        for (text, path) in [
            ("unix://localhost:20000", "localhost:20000"),
            ("unix:///run/a.sock", "/run/a.sock"),
            ("unixs://dir/a.sock", "dir/a.sock"),
            ("unix:/run/a.sock", "/run/a.sock"),
            ("unix:a.sock", "a.sock"),
            ("unix://a", "a"),
        ] {
            let url = Url::parse(text).unwrap();
            assert_eq!((url.socket_path().as_str(), url.to_string().as_str()), (path, text));
        }
        let local = Url::parse("http://localhost:1").unwrap();
        assert_eq!(local.bind_address().unwrap(), "127.0.0.1:1".parse().unwrap());
        assert_eq!(Url::parse("http://127.0.0.1:").unwrap().port(), Some(0));
        assert_eq!(Url::parse("http://127.0.0.1:99999").unwrap().port(), None);
        assert!(Url::parse("http://a.example:1").unwrap().bind_address().is_err());
    }

    #[test]
    fn what_is_refused_and_how() {
        for (text, want) in [
            ("ftp://127.0.0.1:1", "URL scheme must be http, https, unix, or unixs: ftp://127.0.0.1:1"),
            ("", "URL scheme must be http, https, unix, or unixs: "),
            ("localhost:2379", "URL scheme must be http, https, unix, or unixs: localhost:2379"),
            ("http://127.0.0.1", "URL address does not have the form \"host:port\": http://127.0.0.1"),
            ("http://127.0.0.1:1/x", "URL must not contain a path: http://127.0.0.1:1/x"),
            ("http://localhost:1/", "URL must not contain a path: http://localhost:1/"),
            ("http://a b:1", "parse \"http://a b:1\": invalid character \" \" in host name"),
            ("http://[::1", "parse \"http://[::1\": missing ']' in host"),
            ("://", "parse \"://\": missing protocol scheme"),
            ("http://127.0.0.1:abc", "parse \"http://127.0.0.1:abc\": invalid port \":abc\" after host"),
            ("127.0.0.1:2379", "parse \"127.0.0.1:2379\": first path segment in URL cannot contain colon"),
            ("http://a:1\u{1}", "parse \"http://a:1\\u{1}\": net/url: invalid control character in URL"),
        ] {
            assert_eq!(Url::parse(text).unwrap_err(), want, "{text:?}");
        }
    }

    #[test]
    fn lists_are_sorted() {
        let urls = parse_list("http://b:1, http://a:1").unwrap();
        assert_eq!(format!("{urls:?}"), r#"["http://a:1", "http://b:1"]"#);
        assert!(parse_list("http://b:1,").is_err());
    }
}
