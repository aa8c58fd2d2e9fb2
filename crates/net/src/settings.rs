//! Settings (RFC 9113 section 6.5): what the peer asked for, checked, and what we ask for.
//!
//! Unknown settings are ignored, as the RFC says. Values out of range are faults of the connection.

use crate::error::{ErrorCode, Fault};
use crate::frame::{self, MAX_31_BITS};

pub mod id {
    pub const HEADER_TABLE_SIZE: u16 = 0x1;
    pub const ENABLE_PUSH: u16 = 0x2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 0x3;
    pub const INITIAL_WINDOW_SIZE: u16 = 0x4;
    pub const MAX_FRAME_SIZE: u16 = 0x5;
    pub const MAX_HEADER_LIST_SIZE: u16 = 0x6;
}

/// The protocol's initial window, bytes, and its frame size, bytes, until settings say otherwise.
pub const DEFAULT_WINDOW: u32 = 65_535;
pub const DEFAULT_FRAME_BYTES: u32 = 16_384;
const MAX_FRAME_BYTES: u32 = (1 << 24) - 1;

/// The settings of the other side, with the protocol's defaults before it said anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSettings {
    /// Bytes of HPACK dynamic table that our encoder may use.
    pub header_table_bytes: u32,
    pub initial_window: u32,
    pub max_frame_bytes: u32,
    /// None: no limit was stated.
    pub max_concurrent_streams: Option<u32>,
    pub max_header_list_bytes: Option<u32>,
}

impl Default for PeerSettings {
    fn default() -> Self {
        PeerSettings {
            header_table_bytes: 4096,
            initial_window: DEFAULT_WINDOW,
            max_frame_bytes: DEFAULT_FRAME_BYTES,
            max_concurrent_streams: None,
            max_header_list_bytes: None,
        }
    }
}

impl PeerSettings {
    /// Applies the payload of a SETTINGS frame (not an acknowledgement), in order.
    pub(crate) fn apply(&mut self, payload: &[u8]) -> Result<(), Fault> {
        if !payload.len().is_multiple_of(6) {
            return Err(Fault::frame_size("SETTINGS of a length that is no multiple of six"));
        }
        for setting in payload.chunks_exact(6) {
            let value = frame::be32(&setting[2..]);
            match u16::from_be_bytes([setting[0], setting[1]]) {
                id::HEADER_TABLE_SIZE => self.header_table_bytes = value,
                id::ENABLE_PUSH if value > 1 => return Err(Fault::protocol("SETTINGS_ENABLE_PUSH above 1")),
                id::MAX_CONCURRENT_STREAMS => self.max_concurrent_streams = Some(value),
                id::INITIAL_WINDOW_SIZE if value > MAX_31_BITS => {
                    return Err(Fault::Connection(
                        ErrorCode::FLOW_CONTROL_ERROR,
                        "SETTINGS_INITIAL_WINDOW_SIZE above 2^31-1",
                    ));
                }
                id::INITIAL_WINDOW_SIZE => self.initial_window = value,
                id::MAX_FRAME_SIZE if !(DEFAULT_FRAME_BYTES..=MAX_FRAME_BYTES).contains(&value) => {
                    return Err(Fault::protocol("SETTINGS_MAX_FRAME_SIZE out of range"));
                }
                id::MAX_FRAME_SIZE => self.max_frame_bytes = value,
                id::MAX_HEADER_LIST_SIZE => self.max_header_list_bytes = Some(value),
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(settings: &[(u16, u32)]) -> Vec<u8> {
        let mut out = Vec::new();
        frame::put_settings(&mut out, settings);
        out.split_off(frame::HEADER_BYTES)
    }

    #[test]
    fn known_settings_are_taken_and_unknown_ones_ignored() {
        let mut peer = PeerSettings::default();
        peer.apply(&payload(&[(1, 0), (4, 7), (5, 20_000), (3, 9), (6, 100), (0xf0f0, 1), (2, 1)])).unwrap();
        let expected = PeerSettings {
            header_table_bytes: 0,
            initial_window: 7,
            max_frame_bytes: 20_000,
            max_concurrent_streams: Some(9),
            max_header_list_bytes: Some(100),
        };
        assert_eq!(peer, expected);
    }

    #[test]
    fn values_out_of_range_have_the_codes_of_the_rfc() {
        let code = |settings: &[(u16, u32)]| match PeerSettings::default().apply(&payload(settings)) {
            Err(Fault::Connection(code, _)) => Some(code),
            _ => None,
        };
        assert_eq!(code(&[(2, 2)]), Some(ErrorCode::PROTOCOL_ERROR));
        assert_eq!(code(&[(4, 0x8000_0000)]), Some(ErrorCode::FLOW_CONTROL_ERROR));
        assert_eq!(code(&[(5, 16_383)]), Some(ErrorCode::PROTOCOL_ERROR));
        assert_eq!(code(&[(5, 1 << 24)]), Some(ErrorCode::PROTOCOL_ERROR));
        assert_eq!(code(&[(5, (1 << 24) - 1)]), None);
        let cut = PeerSettings::default().apply(b"\0\x04\0\0\0");
        assert!(matches!(cut, Err(Fault::Connection(ErrorCode::FRAME_SIZE_ERROR, _))));
    }
}
