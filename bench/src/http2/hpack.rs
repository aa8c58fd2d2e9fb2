//! Header blocks as a gRPC client needs them: of answers only what they mean, of requests the one head there is.
//!
//! Requests go through the dynamic table, as real gRPC clients send them: a repeated call is a few bytes, copied from
//! where the first one left them. The format itself is `net::hpack`'s. Must not know frames.

use net::hpack::decoder::ENTRY_OVERHEAD;
use net::hpack::static_table::{STATIC_TABLE, index};
use net::hpack::{self, encoder, integer};

use super::Method;

/// Dynamic table of either side, bytes: the protocol's default, which we never change.
pub const TABLE_BYTES: usize = base::limits::HPACK_TABLE_BYTES;

/// What a header block said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    pub http_status: Option<u32>,
    pub grpc_status: Option<u32>,
    /// Percent-decoded.
    pub grpc_message: String,
}

impl Fields {
    /// Reads one whole block in place of what was read before. After an error the connection is lost.
    pub fn read(&mut self, table: &mut hpack::Fields, block: &[u8]) -> Result<(), &'static str> {
        self.http_status = None;
        self.grpc_status = None;
        self.grpc_message.clear();
        let mut wrong = None;
        let decoded = table.decode(block, |name, value| match name {
            b":status" => match number(value) {
                None => wrong = Some("a :status that is no number"),
                status => self.http_status = status,
            },
            b"grpc-status" => match number(value) {
                None => wrong = Some("a grpc-status that is no number"),
                status => self.grpc_status = status,
            },
            b"grpc-message" if !value.is_empty() => self.grpc_message = net::grpc::percent_decode(value),
            _ => {}
        });
        decoded.map_err(|error| error.0)?;
        wrong.map_or(Ok(()), Err)
    }
}

fn number(digits: &[u8]) -> Option<u32> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Writes request heads of one connection. Every field that stays the same enters the peer's dynamic table once.
pub struct Encoder {
    authority: String,
    /// Entries that the peer's table holds because of us. They are few and small: none is ever evicted.
    inserted: usize,
    inserted_bytes: usize,
    /// Insertion numbers (from 1) of the common fields' first, and of each method's path.
    common: Option<usize>,
    paths: [Option<usize>; Method::COUNT],
    /// The block of a method whose fields are all in the table.
    ready: [Vec<u8>; Method::COUNT],
}

/// Fields of every request besides the path and the authority: static index of the name, the name, and the value.
const COMMON: [(usize, &str, &str); 4] = [
    (index::CONTENT_TYPE, "content-type", "application/grpc"),
    (index::USER_AGENT, "user-agent", "mainstay-bench/0.1"),
    (0, "te", "trailers"),
    (0, "grpc-accept-encoding", "identity"),
];
const METHOD_POST: u8 = 0x80 | index::METHOD_POST as u8;
const SCHEME_HTTP: u8 = 0x80 | index::SCHEME_HTTP as u8;

impl Encoder {
    pub fn new(authority: &str) -> Encoder {
        Encoder {
            authority: authority.to_owned(),
            inserted: 0,
            inserted_bytes: 0,
            common: None,
            paths: [None; Method::COUNT],
            ready: std::array::from_fn(|_| Vec::new()),
        }
    }

    /// Appends the header block of a call of `method`.
    pub fn encode(&mut self, method: Method, out: &mut Vec<u8>) {
        let slot = method as usize;
        if self.ready[slot].is_empty() {
            self.encode_first(method, out);
        } else {
            out.extend_from_slice(&self.ready[slot]);
        }
    }

    fn encode_first(&mut self, method: Method, out: &mut Vec<u8>) {
        out.extend_from_slice(&[METHOD_POST, SCHEME_HTTP]);
        match self.paths[method as usize] {
            Some(number) => out.push(self.index_byte(number)),
            None => {
                let number = self.insert(index::PATH, ":path", method.path(), out);
                self.paths[method as usize] = Some(number);
                // Every index moved by one.
                self.ready.iter_mut().for_each(Vec::clear);
            }
        }
        if let Some(first) = self.common {
            out.extend((first..=first + COMMON.len()).map(|number| self.index_byte(number)));
        } else {
            let authority = std::mem::take(&mut self.authority);
            self.common = Some(self.insert(index::AUTHORITY, ":authority", &authority, out));
            for (name_index, name, value) in COMMON {
                self.insert(name_index, name, value, out);
            }
        }
        // The next call of this method finds everything in the table.
        let first = self.common.expect("inserted above");
        let path = self.paths[method as usize].expect("inserted above");
        let mut block = vec![METHOD_POST, SCHEME_HTTP, self.index_byte(path)];
        block.extend((first..=first + COMMON.len()).map(|number| self.index_byte(number)));
        self.ready[method as usize] = block;
    }

    /// `name_index` 0: the name is spelled out.
    fn insert(&mut self, name_index: usize, name: &str, value: &str, out: &mut Vec<u8>) -> usize {
        integer::write(out, 0x40, 6, name_index);
        if name_index == 0 {
            encoder::value(out, name.as_bytes());
        }
        encoder::value(out, value.as_bytes());
        self.inserted += 1;
        self.inserted_bytes += name.len() + value.len() + ENTRY_OVERHEAD;
        assert!(self.inserted_bytes <= TABLE_BYTES, "our fields fit the peer's table, so none is evicted");
        self.inserted
    }

    fn index_byte(&self, number: usize) -> u8 {
        let index = STATIC_TABLE.len() + 1 + self.inserted - number;
        assert!(index < 0x7f, "few enough entries for one byte");
        0x80 | index as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(table: &mut hpack::Fields, block: &[u8]) -> Fields {
        let mut fields = Fields::default();
        fields.read(table, block).unwrap();
        fields
    }

    fn literal(first: u8, name: &str, value: &str) -> Vec<u8> {
        let mut block = vec![first];
        if !name.is_empty() {
            encoder::value(&mut block, name.as_bytes());
        }
        encoder::value(&mut block, value.as_bytes());
        block
    }

    #[test]
    fn trailers_come_from_literals_and_from_the_table() {
        let mut table = hpack::Fields::new(TABLE_BYTES);
        assert_eq!(read(&mut table, &literal(0x40, "grpc-status", "0")).grpc_status, Some(0));
        // The same again by index, then another value under the same name.
        assert_eq!(read(&mut table, &[0xbe]).grpc_status, Some(0));
        assert_eq!(read(&mut table, &literal(0x7e, "", "14")).grpc_status, Some(14));
        let block = [literal(0, "grpc-message", "100%25 wrong%2"), vec![0x88]].concat();
        let mut fields = read(&mut table, &block);
        assert_eq!((&fields.grpc_message[..], fields.http_status), ("100% wrong%2", Some(200)));
        fields.read(&mut table, &[0xbf]).unwrap();
        let of_before = Fields { grpc_status: Some(0), ..Fields::default() };
        assert_eq!(fields, of_before, "nothing is left of the block before");
    }

    #[test]
    fn malformed_blocks_are_errors() {
        for block in [&[0x80][..], &[0xbe], b"\x48\x03abc", &literal(0, "grpc-status", "fine")] {
            let result = Fields::default().read(&mut hpack::Fields::new(TABLE_BYTES), block);
            assert!(result.is_err(), "{block:x?} must not be taken");
        }
    }

    #[test]
    fn repeated_calls_shrink_to_indices_that_stay_right() {
        let mut encoder = Encoder::new("127.0.0.1:2379");
        let mut lengths = Vec::new();
        let mut peer = hpack::Fields::new(TABLE_BYTES);
        for method in [Method::Put, Method::Put, Method::Range, Method::Put, Method::Watch, Method::Range] {
            let mut block = Vec::new();
            encoder.encode(method, &mut block);
            lengths.push(block.len());
            let mut fields = Vec::new();
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            peer.decode(&block, |name, value| fields.push((text(name), text(value)))).unwrap();
            let expected = [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", method.path()),
                (":authority", "127.0.0.1:2379"),
                ("content-type", "application/grpc"),
                ("user-agent", "mainstay-bench/0.1"),
                ("te", "trailers"),
                ("grpc-accept-encoding", "identity"),
            ];
            assert_eq!(fields, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        }
        assert_eq!([lengths[1], lengths[3], lengths[5]], [8; 3]);
    }
}
