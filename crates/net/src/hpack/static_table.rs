//! The static table (RFC 7541 appendix A).

/// Name and value by index; position 0 is index 1.
pub const STATIC_TABLE: [(&[u8], &[u8]); 61] = [
    (b":authority", b""),
    (b":method", b"GET"),
    (b":method", b"POST"),
    (b":path", b"/"),
    (b":path", b"/index.html"),
    (b":scheme", b"http"),
    (b":scheme", b"https"),
    (b":status", b"200"),
    (b":status", b"204"),
    (b":status", b"206"),
    (b":status", b"304"),
    (b":status", b"400"),
    (b":status", b"404"),
    (b":status", b"500"),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    (b"accept-language", b""),
    (b"accept-ranges", b""),
    (b"accept", b""),
    (b"access-control-allow-origin", b""),
    (b"age", b""),
    (b"allow", b""),
    (b"authorization", b""),
    (b"cache-control", b""),
    (b"content-disposition", b""),
    (b"content-encoding", b""),
    (b"content-language", b""),
    (b"content-length", b""),
    (b"content-location", b""),
    (b"content-range", b""),
    (b"content-type", b""),
    (b"cookie", b""),
    (b"date", b""),
    (b"etag", b""),
    (b"expect", b""),
    (b"expires", b""),
    (b"from", b""),
    (b"host", b""),
    (b"if-match", b""),
    (b"if-modified-since", b""),
    (b"if-none-match", b""),
    (b"if-range", b""),
    (b"if-unmodified-since", b""),
    (b"last-modified", b""),
    (b"link", b""),
    (b"location", b""),
    (b"max-forwards", b""),
    (b"proxy-authenticate", b""),
    (b"proxy-authorization", b""),
    (b"range", b""),
    (b"referer", b""),
    (b"refresh", b""),
    (b"retry-after", b""),
    (b"server", b""),
    (b"set-cookie", b""),
    (b"strict-transport-security", b""),
    (b"transfer-encoding", b""),
    (b"user-agent", b""),
    (b"vary", b""),
    (b"via", b""),
    (b"www-authenticate", b""),
];

/// Indices that the encoders name.
pub mod index {
    pub const AUTHORITY: usize = 1;
    pub const METHOD_POST: usize = 3;
    pub const PATH: usize = 4;
    pub const SCHEME_HTTP: usize = 6;
    pub const STATUS_200: usize = 8;
    pub const CONTENT_LENGTH: usize = 28;
    pub const CONTENT_TYPE: usize = 31;
    pub const USER_AGENT: usize = 58;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_indices_name_what_they_say() {
        let name = |i: usize| STATIC_TABLE[i - 1];
        assert_eq!(name(index::AUTHORITY).0, b":authority");
        assert_eq!(name(index::METHOD_POST), (&b":method"[..], &b"POST"[..]));
        assert_eq!(name(index::PATH).0, b":path");
        assert_eq!(name(index::SCHEME_HTTP), (&b":scheme"[..], &b"http"[..]));
        assert_eq!(name(index::STATUS_200), (&b":status"[..], &b"200"[..]));
        assert_eq!(name(index::CONTENT_LENGTH).0, b"content-length");
        assert_eq!(name(index::CONTENT_TYPE).0, b"content-type");
        assert_eq!(name(index::USER_AGENT).0, b"user-agent");
        assert_eq!(STATIC_TABLE.len(), 61);
    }
}
