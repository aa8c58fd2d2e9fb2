//! Header compression as a gRPC client needs it (RFC 7541).
//!
//! The decoder follows the whole format (static and dynamic table, Huffman, size updates) but keeps of each field
//! only what a gRPC answer means: `:status`, `grpc-status`, `grpc-message`. The encoder writes the one kind of
//! request head there is, through the dynamic table, as real gRPC clients do: a repeated call is a few bytes.
//! Must not know frames.

use std::collections::VecDeque;

use super::{Method, huffman};

/// Dynamic table of either side, bytes: the protocol's default, which we never change.
const TABLE_BYTES: usize = base::limits::HPACK_TABLE_BYTES;
/// What an entry costs beyond its name and value, bytes (RFC 7541, 4.1).
const ENTRY_OVERHEAD: usize = 32;
/// Entries of the static table.
const STATIC_ENTRIES: usize = 61;

/// Lengths of the names in the static table, from entry 1, bytes: they count towards a dynamic entry's size.
const STATIC_NAME_BYTES: [u8; STATIC_ENTRIES] = [
    10, 7, 7, 5, 5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 14, 15, 15, 13, 6, 27, 3, 5, 13, 13, 19, 16, 16, 14, 16, 13,
    12, 6, 4, 4, 6, 7, 4, 4, 8, 17, 13, 8, 19, 13, 4, 8, 12, 18, 19, 5, 7, 7, 11, 6, 10, 25, 17, 10, 4, 3,
    16,
];
/// Where the `:status` entries stand, and their values.
const STATIC_STATUS_FIRST: usize = 8;
const STATIC_STATUS: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    HttpStatus,
    GrpcStatus,
    GrpcMessage,
    Other,
}

impl Name {
    fn of(bytes: &[u8]) -> Name {
        match bytes {
            b":status" => Name::HttpStatus,
            b"grpc-status" => Name::GrpcStatus,
            b"grpc-message" => Name::GrpcMessage,
            _ => Name::Other,
        }
    }
}

#[derive(Clone, Debug)]
struct Entry {
    name: Name,
    name_bytes: usize,
    value_bytes: usize,
    /// The value of the fields that mean something to us, empty for others.
    value: Box<[u8]>,
}

impl Entry {
    fn size(&self) -> usize {
        self.name_bytes + self.value_bytes + ENTRY_OVERHEAD
    }
}

/// What a header block said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    pub http_status: Option<u32>,
    pub grpc_status: Option<u32>,
    /// Percent-decoded.
    pub grpc_message: String,
}

impl Fields {
    fn take(&mut self, name: Name, value: &[u8]) -> Result<(), &'static str> {
        match name {
            Name::Other => {}
            Name::HttpStatus => self.http_status = Some(number(value).ok_or("a :status that is no number")?),
            Name::GrpcStatus => {
                self.grpc_status = Some(number(value).ok_or("a grpc-status that is no number")?)
            }
            Name::GrpcMessage => self.grpc_message = percent_decoded(value),
        }
        Ok(())
    }
}

fn number(digits: &[u8]) -> Option<u32> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn percent_decoded(text: &[u8]) -> String {
    let hex = |byte: Option<&u8>| byte.and_then(|&b| (b as char).to_digit(16));
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        match (text[at], hex(text.get(at + 1)), hex(text.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Decodes header blocks of one connection, in the order in which they arrive.
pub struct Decoder {
    /// Newest first, as the index counts.
    table: VecDeque<Entry>,
    size: usize,
    capacity: usize,
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder {
            table: VecDeque::new(),
            size: 0,
            capacity: TABLE_BYTES,
            name: Vec::new(),
            value: Vec::new(),
        }
    }
}

impl Decoder {
    /// Reads one whole block. After an error the connection is lost: the tables no longer agree.
    pub fn decode(&mut self, mut block: &[u8], fields: &mut Fields) -> Result<(), &'static str> {
        while let Some(&first) = block.first() {
            if first & 0x80 != 0 {
                let index = integer(&mut block, 7)?;
                self.indexed(index, fields)?;
            } else if first & 0xe0 == 0x20 {
                let capacity = integer(&mut block, 5)?;
                if capacity > TABLE_BYTES {
                    return Err("a dynamic table larger than we allow");
                }
                self.capacity = capacity;
                self.evict();
            } else {
                let remembered = first & 0x40 != 0;
                let index = integer(&mut block, if remembered { 6 } else { 4 })?;
                self.literal(&mut block, index, remembered, fields)?;
            }
        }
        Ok(())
    }

    fn indexed(&mut self, index: usize, fields: &mut Fields) -> Result<(), &'static str> {
        if index == 0 {
            return Err("header index 0");
        }
        if index > STATIC_ENTRIES {
            let entry =
                self.table.get(index - STATIC_ENTRIES - 1).ok_or("a header index beyond the table")?;
            return fields.take(entry.name, &entry.value);
        }
        if let Some(&status) = index.checked_sub(STATIC_STATUS_FIRST).and_then(|i| STATIC_STATUS.get(i)) {
            fields.http_status = Some(u32::from(status));
        }
        Ok(())
    }

    fn literal(
        &mut self,
        block: &mut &[u8],
        index: usize,
        remembered: bool,
        fields: &mut Fields,
    ) -> Result<(), &'static str> {
        let (name, name_bytes) = match index {
            0 => {
                string(block, &mut self.name)?;
                (Name::of(&self.name), self.name.len())
            }
            1..=STATIC_ENTRIES => {
                let is_status =
                    (STATIC_STATUS_FIRST..STATIC_STATUS_FIRST + STATIC_STATUS.len()).contains(&index);
                let name = if is_status { Name::HttpStatus } else { Name::Other };
                (name, usize::from(STATIC_NAME_BYTES[index - 1]))
            }
            _ => {
                let entry =
                    self.table.get(index - STATIC_ENTRIES - 1).ok_or("a name index beyond the table")?;
                (entry.name, entry.name_bytes)
            }
        };
        string(block, &mut self.value)?;
        fields.take(name, &self.value)?;
        if remembered {
            let kept = if name == Name::Other { &[][..] } else { &self.value };
            let entry = Entry { name, name_bytes, value_bytes: self.value.len(), value: kept.into() };
            self.size += entry.size();
            self.table.push_front(entry);
            // An entry larger than the table empties it, itself included.
            self.evict();
        }
        Ok(())
    }

    fn evict(&mut self) {
        while self.size > self.capacity {
            let oldest = self.table.pop_back().expect("a table with a size has an entry");
            self.size -= oldest.size();
        }
    }
}

/// An integer whose first byte leaves `prefix` bits to it.
fn integer(input: &mut &[u8], prefix: u32) -> Result<usize, &'static str> {
    let short = "a header block that ends within an integer";
    let mask = (1usize << prefix) - 1;
    let (&first, mut rest) = input.split_first().ok_or(short)?;
    let mut value = first as usize & mask;
    if value == mask {
        for shift in (0..).step_by(7) {
            let (&byte, after) = rest.split_first().ok_or(short)?;
            rest = after;
            if shift > 21 {
                return Err("a header integer too large to mean anything");
            }
            value += (byte as usize & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    *input = rest;
    Ok(value)
}

fn string(input: &mut &[u8], out: &mut Vec<u8>) -> Result<(), &'static str> {
    let coded = input.first().is_some_and(|first| first & 0x80 != 0);
    let length = integer(input, 7)?;
    let (bytes, rest) = input.split_at_checked(length).ok_or("a header block that ends within a string")?;
    *input = rest;
    out.clear();
    if coded {
        huffman::decode(bytes, out)
    } else {
        out.extend_from_slice(bytes);
        Ok(())
    }
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

/// Fields of every request besides the path and the authority: name or static index, and value.
const COMMON: [(Field, &str); 4] = [
    (Field::Static(31), "application/grpc"),
    (Field::Static(58), "mainstay-bench/0.1"),
    (Field::Named("te"), "trailers"),
    (Field::Named("grpc-accept-encoding"), "identity"),
];
const AUTHORITY_INDEX: u8 = 1;
const PATH_INDEX: u8 = 4;
const METHOD_POST: u8 = 0x83;
const SCHEME_HTTP: u8 = 0x86;

#[derive(Clone, Copy)]
enum Field {
    Static(u8),
    Named(&'static str),
}

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
                let number = self.insert(Field::Static(PATH_INDEX), method.path(), out);
                self.paths[method as usize] = Some(number);
                // Every index moved by one.
                self.ready.iter_mut().for_each(Vec::clear);
            }
        }
        if let Some(first) = self.common {
            out.extend((first..=first + COMMON.len()).map(|number| self.index_byte(number)));
        } else {
            let authority = std::mem::take(&mut self.authority);
            self.common = Some(self.insert(Field::Static(AUTHORITY_INDEX), &authority, out));
            for (field, value) in COMMON {
                self.insert(field, value, out);
            }
        }
        // The next call of this method finds everything in the table.
        let first = self.common.expect("inserted above");
        let path = self.paths[method as usize].expect("inserted above");
        let mut block = vec![METHOD_POST, SCHEME_HTTP, self.index_byte(path)];
        block.extend((first..=first + COMMON.len()).map(|number| self.index_byte(number)));
        self.ready[method as usize] = block;
    }

    fn insert(&mut self, field: Field, value: &str, out: &mut Vec<u8>) -> usize {
        let name_bytes = match field {
            Field::Static(index) => {
                out.push(0x40 | index);
                usize::from(STATIC_NAME_BYTES[index as usize - 1])
            }
            Field::Named(name) => {
                out.push(0x40);
                plain_string(name, out);
                name.len()
            }
        };
        plain_string(value, out);
        self.inserted += 1;
        self.inserted_bytes += name_bytes + value.len() + ENTRY_OVERHEAD;
        assert!(self.inserted_bytes <= TABLE_BYTES, "our fields fit the peer's table, so none is evicted");
        self.inserted
    }

    fn index_byte(&self, number: usize) -> u8 {
        let index = STATIC_ENTRIES + 1 + self.inserted - number;
        assert!(index < 0x7f, "few enough entries for one byte");
        0x80 | index as u8
    }
}

fn plain_string(text: &str, out: &mut Vec<u8>) {
    assert!(text.len() < 0x7f, "names and values of requests are short");
    out.push(text.len() as u8);
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u32> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
        digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
    }

    fn decode(decoder: &mut Decoder, hex: &str) -> Fields {
        let mut fields = Fields::default();
        decoder.decode(&bytes(hex), &mut fields).unwrap();
        fields
    }

    #[test]
    fn the_rfcs_responses_keep_table_and_eviction_right() {
        // RFC 7541, C.6: the table is 256 bytes there; a size update says so.
        let mut decoder = Decoder::default();
        decode(&mut decoder, "3f e1 01");
        let first = decode(
            &mut decoder,
            "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e
             919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
        );
        assert_eq!(first.http_status, Some(302));
        assert_eq!((decoder.table.len(), decoder.size), (4, 222));
        let second = decode(&mut decoder, "4883 640e ffc1 c0bf");
        assert_eq!(second.http_status, Some(307));
        assert_eq!((decoder.table.len(), decoder.size), (4, 222));
        let third = decode(
            &mut decoder,
            "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7
             821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed
             4ee5 b106 3d50 07",
        );
        assert_eq!(third.http_status, Some(200));
        assert_eq!((decoder.table.len(), decoder.size), (3, 215));
    }

    #[test]
    fn trailers_come_from_literals_and_from_the_table() {
        let mut decoder = Decoder::default();
        let mut block = vec![0x40];
        plain_string("grpc-status", &mut block);
        plain_string("0", &mut block);
        let mut fields = Fields::default();
        decoder.decode(&block, &mut fields).unwrap();
        assert_eq!(fields.grpc_status, Some(0));
        // The same again by index, then another value under the same name.
        assert_eq!(decode(&mut decoder, "be").grpc_status, Some(0));
        let mut block = vec![0x7e];
        plain_string("14", &mut block);
        let mut fields = Fields::default();
        decoder.decode(&block, &mut fields).unwrap();
        assert_eq!(fields.grpc_status, Some(14));
        let mut block = vec![0x00];
        plain_string("grpc-message", &mut block);
        plain_string("100%25 wrong%2", &mut block);
        let mut fields = Fields::default();
        decoder.decode(&block, &mut fields).unwrap();
        assert_eq!(fields.grpc_message, "100% wrong%2");
        assert_eq!(decoder.table.len(), 2, "a literal without indexing is not remembered");
    }

    #[test]
    fn malformed_blocks_are_errors() {
        for hex in ["80", "be", "7f", "40 05 61", "3f e2 ff ff 7f", "ff ff ff ff ff ff", "48 03 61 62 63"] {
            let result = Decoder::default().decode(&bytes(hex), &mut Fields::default());
            assert!(result.is_err(), "{hex} must not decode");
        }
    }

    #[test]
    fn repeated_calls_shrink_to_indices_that_stay_right() {
        let mut encoder = Encoder::new("127.0.0.1:2379");
        let mut lengths = Vec::new();
        let mut peer: VecDeque<String> = VecDeque::new();
        for method in [Method::Put, Method::Put, Method::Range, Method::Put, Method::Watch, Method::Range] {
            let mut block = Vec::new();
            encoder.encode(method, &mut block);
            lengths.push(block.len());
            let values = expand(&block, &mut peer);
            assert_eq!(values[2], method.path(), "the path of {method:?}");
            assert_eq!(values[3], "127.0.0.1:2379");
            assert_eq!(values[4..], ["application/grpc", "mainstay-bench/0.1", "trailers", "identity"]);
        }
        assert_eq!(lengths[1], 8);
        assert_eq!(lengths[3], 8);
        assert_eq!(lengths[5], 8);
    }

    /// Values of a request block, by a table of our own.
    fn expand(mut block: &[u8], table: &mut VecDeque<String>) -> Vec<String> {
        let mut values = Vec::new();
        while let Some(&first) = block.first() {
            if first & 0x80 != 0 {
                let index = integer(&mut block, 7).unwrap();
                values.push(match index {
                    3 => "POST".to_owned(),
                    6 => "http".to_owned(),
                    _ => table[index - 62].clone(),
                });
            } else {
                assert_eq!(first & 0xc0, 0x40);
                let mut text = Vec::new();
                if integer(&mut block, 6).unwrap() == 0 {
                    string(&mut block, &mut text).unwrap();
                }
                string(&mut block, &mut text).unwrap();
                table.push_front(String::from_utf8(text).unwrap());
                values.push(table[0].clone());
            }
        }
        values
    }
}
