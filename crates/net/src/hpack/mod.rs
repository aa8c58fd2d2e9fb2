//! HPACK (RFC 7541): one file per concept.
//!
//! The decoder classifies a header when it enters the dynamic table, so that an indexed header costs one match and no
//! comparison of strings. The encoder is minimal: it indexes three fields that every answer repeats, and nothing else.

pub mod decoder;
pub mod encoder;
pub mod huffman;
pub mod integer;
pub mod static_table;
