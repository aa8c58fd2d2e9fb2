//! Frames (RFC 9113 sections 4 and 6): the nine-byte header, and writers for every frame that we send.
//!
//! Knows layout only: no stream state, no limits. Unknown kinds and flags pass through unjudged.

use crate::error::ErrorCode;

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 9;
/// What a client sends first (RFC 9113 section 3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Stream ids have 31 bits; the top one is reserved and ignored.
pub const STREAM_ID_MASK: u32 = 0x7fff_ffff;
/// The largest stream id, and the largest flow-control window.
pub const MAX_31_BITS: u32 = 0x7fff_ffff;

pub mod kind {
    pub const DATA: u8 = 0x0;
    pub const HEADERS: u8 = 0x1;
    pub const PRIORITY: u8 = 0x2;
    pub const RST_STREAM: u8 = 0x3;
    pub const SETTINGS: u8 = 0x4;
    pub const PUSH_PROMISE: u8 = 0x5;
    pub const PING: u8 = 0x6;
    pub const GOAWAY: u8 = 0x7;
    pub const WINDOW_UPDATE: u8 = 0x8;
    pub const CONTINUATION: u8 = 0x9;
}

pub mod flag {
    pub const END_STREAM: u8 = 0x1;
    pub const ACK: u8 = 0x1;
    pub const END_HEADERS: u8 = 0x4;
    pub const PADDED: u8 = 0x8;
    pub const PRIORITY: u8 = 0x20;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Bytes of payload.
    pub length: usize,
    pub kind: u8,
    pub flags: u8,
    /// 0 is the connection.
    pub stream: u32,
}

impl FrameHeader {
    /// Reads the first nine bytes of `bytes`; there must be that many.
    #[inline]
    pub fn parse(bytes: &[u8]) -> FrameHeader {
        let b: &[u8; HEADER_BYTES] = bytes[..HEADER_BYTES].try_into().expect("nine bytes");
        FrameHeader {
            length: usize::from(b[0]) << 16 | usize::from(b[1]) << 8 | usize::from(b[2]),
            kind: b[3],
            flags: b[4],
            stream: u32::from_be_bytes([b[5], b[6], b[7], b[8]]) & STREAM_ID_MASK,
        }
    }

    #[inline]
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// The nine bytes of a frame's header.
#[inline]
pub fn header(length: usize, kind: u8, flags: u8, stream: u32) -> [u8; HEADER_BYTES] {
    debug_assert!(length < 1 << 24);
    let l = (length as u32).to_be_bytes();
    let s = stream.to_be_bytes();
    [l[1], l[2], l[3], kind, flags, s[0], s[1], s[2], s[3]]
}

#[inline]
pub fn put_header(out: &mut Vec<u8>, length: usize, kind: u8, flags: u8, stream: u32) {
    out.extend_from_slice(&header(length, kind, flags, stream));
}

/// A DATA frame. Its payload must be shorter than 16 MiB.
pub fn data(stream: u32, payload: &[u8]) -> std::sync::Arc<[u8]> {
    [&header(payload.len(), kind::DATA, 0, stream), payload].concat().into()
}

/// Writes the true length of the frame that starts at `at` and reaches to the end of `out`.
#[inline]
pub fn patch_length(out: &mut [u8], at: usize) {
    let length = out.len() - at - HEADER_BYTES;
    debug_assert!(length < 1 << 24);
    out[at..at + 3].copy_from_slice(&(length as u32).to_be_bytes()[1..]);
}

pub fn put_settings(out: &mut Vec<u8>, settings: &[(u16, u32)]) {
    put_header(out, settings.len() * 6, kind::SETTINGS, 0, 0);
    for (id, value) in settings {
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

pub fn put_settings_ack(out: &mut Vec<u8>) {
    put_header(out, 0, kind::SETTINGS, flag::ACK, 0);
}

pub fn put_ping(out: &mut Vec<u8>, ack: bool, payload: [u8; 8]) {
    put_header(out, 8, kind::PING, if ack { flag::ACK } else { 0 }, 0);
    out.extend_from_slice(&payload);
}

pub fn put_goaway(out: &mut Vec<u8>, last_stream: u32, code: ErrorCode, debug: &[u8]) {
    put_header(out, 8 + debug.len(), kind::GOAWAY, 0, 0);
    out.extend_from_slice(&last_stream.to_be_bytes());
    out.extend_from_slice(&code.0.to_be_bytes());
    out.extend_from_slice(debug);
}

pub fn put_reset(out: &mut Vec<u8>, stream: u32, code: ErrorCode) {
    put_header(out, 4, kind::RST_STREAM, 0, stream);
    out.extend_from_slice(&code.0.to_be_bytes());
}

pub fn put_window_update(out: &mut Vec<u8>, stream: u32, increment: u32) {
    debug_assert!(increment > 0 && increment <= MAX_31_BITS);
    put_header(out, 4, kind::WINDOW_UPDATE, 0, stream);
    out.extend_from_slice(&increment.to_be_bytes());
}

/// The first four bytes as a big-endian number.
#[inline]
pub fn be32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// Cuts padding (RFC 9113 section 6.1) off a whole payload. None when the padding is as long as the payload or longer.
pub fn strip_padding(flags: u8, payload: &[u8]) -> Option<&[u8]> {
    if flags & flag::PADDED == 0 {
        return Some(payload);
    }
    let (&padding, rest) = payload.split_first()?;
    rest.len().checked_sub(usize::from(padding)).map(|length| &rest[..length])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_the_trip() {
        let bytes = header(0x01_23_45, kind::HEADERS, flag::END_HEADERS | flag::PADDED, 0x7fff_fffe);
        let parsed = FrameHeader::parse(&bytes);
        assert_eq!(parsed, FrameHeader { length: 0x01_23_45, kind: 1, flags: 12, stream: 0x7fff_fffe });
        assert!(parsed.has(flag::PADDED) && !parsed.has(flag::END_STREAM));
    }

    #[test]
    fn the_reserved_bit_of_a_stream_id_is_ignored() {
        let mut bytes = header(0, kind::PING, 0, 5);
        bytes[5] |= 0x80;
        assert_eq!(FrameHeader::parse(&bytes).stream, 5);
    }

    #[test]
    fn padding_is_cut_and_must_be_shorter_than_the_payload() {
        assert_eq!(strip_padding(0, b"abc"), Some(&b"abc"[..]));
        assert_eq!(strip_padding(flag::PADDED, b"\x02abcd"), Some(&b"ab"[..]));
        assert_eq!(strip_padding(flag::PADDED, b"\x04abcd"), Some(&b""[..]));
        assert_eq!(strip_padding(flag::PADDED, b"\x05abcd"), None);
        assert_eq!(strip_padding(flag::PADDED, b""), None);
    }

    #[test]
    fn written_frames_have_the_layout_of_the_rfc() {
        let mut out = Vec::new();
        put_goaway(&mut out, 7, ErrorCode::ENHANCE_YOUR_CALM, b"hi");
        assert_eq!(out, b"\0\0\x0a\x07\0\0\0\0\0\0\0\0\x07\0\0\0\x0bhi");
        out.clear();
        put_settings(&mut out, &[(4, 65535)]);
        assert_eq!(out, b"\0\0\x06\x04\0\0\0\0\0\0\x04\0\0\xff\xff");
        out.clear();
        put_header(&mut out, 0, kind::HEADERS, 0, 1);
        out.extend_from_slice(b"xyz");
        patch_length(&mut out, 0);
        assert_eq!(FrameHeader::parse(&out).length, 3);
    }
}
