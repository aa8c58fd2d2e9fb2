//! HPACK (RFC 7541): one file per concept.
//!
//! The decoder classifies a header when it enters the dynamic table, so that an indexed header costs one match and no
//! comparison of strings. The encoder is minimal: it indexes three fields that every answer repeats, and nothing else.

pub mod decoder;
pub mod encoder;
pub mod huffman;
pub mod integer;
pub mod static_table;

use decoder::{Decoder, HpackError};

/// The decoder with its table, for those who want names and values and nothing else.
pub struct Fields(Decoder);

impl Fields {
    /// `table_bytes` is the SETTINGS_HEADER_TABLE_SIZE that the encoder was told.
    pub fn new(table_bytes: usize) -> Fields {
        Fields(Decoder::new(None, table_bytes))
    }

    /// Every field of a whole header block, in order. After an error the table is out of step: the connection must end.
    pub fn decode(&mut self, block: &[u8], mut field: impl FnMut(&[u8], &[u8])) -> Result<(), HpackError> {
        self.0.decode(block, |_, name, value| field(name, value))
    }
}
