//! The encoder of answers: constant blocks, almost nothing else.
//!
//! Every answer carries `content-type: application/grpc` and, at its end, `grpc-status: 0`. Both enter the peer's
//! dynamic table with their first use and cost one byte from then on; if the peer's table is smaller than the default,
//! or shrinks, they go as literals instead. All else is a literal without indexing.

use super::static_table::index;
use super::{huffman, integer};

/// Our two entries need far less; below this we don't index at all, so that nothing of ours is ever evicted.
const LEAST_TABLE_BYTES: u32 = 256;
const FIRST_DYNAMIC: u8 = 62;

/// The content-type of a call, as far as its answer repeats it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ContentType {
    #[default]
    Grpc,
    GrpcProto,
}

impl ContentType {
    pub fn text(self) -> &'static [u8] {
        match self {
            ContentType::Grpc => b"application/grpc",
            ContentType::GrpcProto => b"application/grpc+proto",
        }
    }
}

pub(crate) struct Encoder {
    /// Fields that we put into the peer's table so far, of the two.
    inserted: u8,
    /// The order in which each entered, or NOT_YET.
    content_type: u8,
    status_ok: u8,
    indexing: bool,
    /// The table's size, bytes; it only ever shrinks.
    table_bytes: u32,
    /// The next block must begin with an update to `table_bytes`.
    announce: bool,
}

const NOT_YET: u8 = u8::MAX;

impl Encoder {
    pub(crate) fn new() -> Encoder {
        Encoder {
            inserted: 0,
            content_type: NOT_YET,
            status_ok: NOT_YET,
            indexing: true,
            table_bytes: 4096,
            announce: false,
        }
    }

    /// The peer announced its SETTINGS_HEADER_TABLE_SIZE. A smaller one must be confirmed in the next block.
    pub(crate) fn table_size(&mut self, bytes: u32) {
        if bytes >= self.table_bytes {
            return;
        }
        self.indexing &= bytes >= LEAST_TABLE_BYTES;
        self.table_bytes = if self.indexing { bytes } else { 0 };
        self.announce = true;
    }

    #[inline]
    fn begin(&mut self, out: &mut Vec<u8>) {
        if self.announce {
            self.announce = false;
            integer::write(out, 0x20, 5, self.table_bytes as usize);
        }
    }

    /// `:status 200` and the content-type: the block in front of messages, and of a status that comes alone.
    #[inline]
    pub(crate) fn response(&mut self, out: &mut Vec<u8>, content_type: ContentType) {
        self.begin(out);
        out.push(0x80 | index::STATUS_200 as u8);
        self.content_type(out, content_type);
    }

    fn content_type(&mut self, out: &mut Vec<u8>, content_type: ContentType) {
        if content_type == ContentType::Grpc && self.indexing {
            if self.content_type != NOT_YET {
                out.push(0x80 | (FIRST_DYNAMIC + self.inserted - 1 - self.content_type));
                return;
            }
            self.content_type = self.inserted;
            self.inserted += 1;
            integer::write(out, 0x40, 6, index::CONTENT_TYPE);
        } else {
            integer::write(out, 0, 4, index::CONTENT_TYPE);
        }
        value(out, content_type.text());
    }

    /// `grpc-status: 0`.
    #[inline]
    pub(crate) fn ok(&mut self, out: &mut Vec<u8>) {
        self.begin(out);
        if self.status_ok != NOT_YET && self.indexing {
            out.push(0x80 | (FIRST_DYNAMIC + self.inserted - 1 - self.status_ok));
            return;
        }
        if self.indexing {
            self.status_ok = self.inserted;
            self.inserted += 1;
        }
        out.extend_from_slice(if self.indexing {
            b"\x40\x0bgrpc-status\x010"
        } else {
            b"\x00\x0bgrpc-status\x010"
        });
    }

    /// `grpc-status` and `grpc-message`; the message is percent-encoded by the caller.
    pub(crate) fn status(&mut self, out: &mut Vec<u8>, code: u8, message: &[u8]) {
        self.begin(out);
        let mut digits = [0; 3];
        field(out, b"grpc-status", decimal(u64::from(code), &mut digits));
        field(out, b"grpc-message", message);
    }

    /// `:status` of an answer that isn't gRPC's 200, with a content-type.
    pub(crate) fn http(&mut self, out: &mut Vec<u8>, status: u16, content_type: &[u8]) {
        self.begin(out);
        let mut digits = [0; 5];
        integer::write(out, 0, 4, index::STATUS_200);
        value(out, decimal(u64::from(status), &mut digits));
        integer::write(out, 0, 4, index::CONTENT_TYPE);
        value(out, content_type);
    }

    pub(crate) fn content_length(&mut self, out: &mut Vec<u8>, bytes: usize) {
        let mut digits = [0; 20];
        integer::write(out, 0, 4, index::CONTENT_LENGTH);
        value(out, decimal(bytes as u64, &mut digits));
    }
}

/// A literal field without indexing, its name spelled out.
pub fn field(out: &mut Vec<u8>, name: &[u8], text: &[u8]) {
    out.push(0);
    value(out, name);
    value(out, text);
}

/// A string literal without Huffman code.
pub fn value(out: &mut Vec<u8>, text: &[u8]) {
    integer::write(out, 0, 7, text.len());
    out.extend_from_slice(text);
}

/// A string literal in whichever code is shorter.
pub fn compact_value(out: &mut Vec<u8>, text: &[u8]) {
    let length = huffman::encoded_len(text);
    if length >= text.len() {
        return value(out, text);
    }
    integer::write(out, 0x80, 7, length);
    huffman::encode(text, out);
}

fn decimal(mut number: u64, digits: &mut [u8]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::decoder::Decoder;
    use super::*;

    fn text(decoder: &mut Decoder, block: &[u8]) -> String {
        let mut out = String::new();
        let lossy = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        decoder.decode(block, |_, n, v| out += &format!("{}: {}\n", lossy(n), lossy(v))).unwrap();
        out
    }

    /// Runs every order of first uses against a real decoder.
    #[test]
    fn blocks_decode_whatever_the_order_and_become_short() {
        for proto_first in [false, true] {
            let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(None, 4096));
            let first = if proto_first { ContentType::GrpcProto } else { ContentType::Grpc };
            for round in 0..3 {
                for content_type in [first, ContentType::Grpc, ContentType::GrpcProto] {
                    let mut block = Vec::new();
                    encoder.response(&mut block, content_type);
                    let name = String::from_utf8_lossy(content_type.text());
                    let expected = format!(":status: 200\ncontent-type: {name}\n");
                    assert_eq!(text(&mut decoder, &block), expected);
                    assert!(round == 0 || content_type != ContentType::Grpc || block.len() == 2);
                    block.clear();
                    encoder.ok(&mut block);
                    assert_eq!(text(&mut decoder, &block), "grpc-status: 0\n");
                    assert!(round == 0 || block.len() == 1);
                    block.clear();
                    encoder.status(&mut block, 14, b"etcdserver: no leader");
                    assert_eq!(
                        text(&mut decoder, &block),
                        "grpc-status: 14\ngrpc-message: etcdserver: no leader\n"
                    );
                }
            }
        }
    }

    #[test]
    fn a_small_table_of_the_peer_ends_indexing() {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(None, 4096));
        let mut block = Vec::new();
        encoder.response(&mut block, ContentType::Grpc);
        text(&mut decoder, &block);
        encoder.table_size(0);
        for i in 0..3 {
            block.clear();
            encoder.response(&mut block, ContentType::Grpc);
            assert_eq!(block[0] == 0x20, i == 0, "the size update stands once, in front");
            assert_eq!(text(&mut decoder, &block), ":status: 200\ncontent-type: application/grpc\n");
            block.clear();
            encoder.ok(&mut block);
            assert_eq!(text(&mut decoder, &block), "grpc-status: 0\n");
        }
    }

    #[test]
    fn a_smaller_table_that_still_holds_our_entries_is_confirmed() {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(None, 4096));
        for (size, confirmed) in [(4096, false), (300, true), (300, false), (8192, false), (256, true)] {
            encoder.table_size(size);
            let mut block = Vec::new();
            encoder.response(&mut block, ContentType::Grpc);
            assert_eq!(block[0] & 0xe0 == 0x20, confirmed);
            assert_eq!(text(&mut decoder, &block), ":status: 200\ncontent-type: application/grpc\n");
            block.clear();
            encoder.ok(&mut block);
            assert_eq!(text(&mut decoder, &block), "grpc-status: 0\n");
        }
    }

    #[test]
    fn other_statuses_are_spelled_out() {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(None, 4096));
        let mut block = Vec::new();
        encoder.http(&mut block, 415, b"text/plain");
        encoder.content_length(&mut block, 1234);
        let expected = ":status: 415\ncontent-type: text/plain\ncontent-length: 1234\n";
        assert_eq!(text(&mut decoder, &block), expected);
    }
}
