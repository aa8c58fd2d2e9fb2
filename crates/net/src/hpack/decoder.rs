//! The HPACK decoder (RFC 7541 sections 2.3, 3, 4 and 6) with its dynamic table.
//!
//! Every entry is classified once, when it enters the table: an indexed field hands its class on. Entries live in one
//! byte buffer, oldest first; the buffer is compacted when it has twice the table's size, so inserting costs a copy of
//! the field and no allocation. An entry larger than the table empties it, as the RFC says.

use std::collections::VecDeque;

use super::static_table::STATIC_TABLE;
use super::{huffman, integer};
use crate::field::{Class, Name};
use crate::methods::Methods;

/// What an entry costs beyond its bytes (RFC 7541 section 4.1).
pub const ENTRY_OVERHEAD: usize = 32;

/// A header block that can't be decoded: the table is out of step, so the connection must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HpackError(pub &'static str);

#[derive(Clone, Copy)]
struct Entry {
    /// Position of the name in the stream of all bytes ever inserted, wrapping.
    at: u32,
    name_len: u32,
    value_len: u32,
    name: Name,
    class: Class,
}

impl Entry {
    fn bytes(&self) -> usize {
        (self.name_len + self.value_len) as usize
    }
}

pub(crate) struct Decoder {
    methods: Option<&'static Methods>,
    /// Newest at the back.
    entries: VecDeque<Entry>,
    bytes: Vec<u8>,
    /// Position of `bytes[0]` in the stream of all bytes ever inserted, wrapping.
    base: u32,
    /// Size by the RFC's count, which includes the overhead.
    size: usize,
    /// What the peer's encoder uses now, and the most that we allow.
    max_size: usize,
    allowed: usize,
    /// Where literals are decoded to.
    text: Vec<u8>,
}

impl Decoder {
    /// `methods` classifies paths; the client half has none. `allowed` is the announced SETTINGS_HEADER_TABLE_SIZE.
    pub(crate) fn new(methods: Option<&'static Methods>, allowed: usize) -> Decoder {
        Decoder {
            methods,
            entries: VecDeque::new(),
            bytes: Vec::new(),
            base: 0,
            size: 0,
            max_size: allowed,
            allowed,
            text: Vec::new(),
        }
    }

    /// Decodes a whole header block, field by field, in order.
    pub(crate) fn decode(
        &mut self,
        block: &[u8],
        mut field: impl FnMut(Class, &[u8], &[u8]),
    ) -> Result<(), HpackError> {
        const CUT: HpackError = HpackError("a header block that is cut short");
        let mut rest = block;
        let mut begun = false;
        while let Some((&first, tail)) = rest.split_first() {
            rest = tail;
            if first & 0x80 != 0 {
                let index = integer::read(first, 7, &mut rest).ok_or(CUT)? as usize;
                let (class, name, value) = self.indexed(index)?;
                field(class, name, value);
            } else if first & 0xe0 == 0x20 {
                let size = integer::read(first, 5, &mut rest).ok_or(CUT)? as usize;
                if begun || size > self.allowed {
                    return Err(HpackError("a dynamic table size update that is late or too large"));
                }
                self.max_size = size;
                self.evict(0);
                continue;
            } else {
                let keep = first & 0x40 != 0;
                let prefix = if keep { 6 } else { 4 };
                let index = integer::read(first, prefix, &mut rest).ok_or(CUT)? as usize;
                self.literal(index, keep, &mut rest, &mut field)?;
            }
            begun = true;
        }
        Ok(())
    }

    #[inline]
    fn indexed(&self, index: usize) -> Result<(Class, &[u8], &[u8]), HpackError> {
        if let Some(entry) = self.entry(index) {
            let (name, value) = self.text_of(entry);
            return Ok((entry.class, name, value));
        }
        match index.checked_sub(1).and_then(|i| STATIC_TABLE.get(i)) {
            Some(&(name, value)) => Ok((Class::of_static(index), name, value)),
            None => Err(HpackError("an index beyond the tables")),
        }
    }

    #[inline]
    fn entry(&self, index: usize) -> Option<&Entry> {
        let from_newest = index.checked_sub(STATIC_TABLE.len() + 1)?;
        self.entries.len().checked_sub(from_newest + 1).map(|i| &self.entries[i])
    }

    #[inline]
    fn text_of(&self, entry: &Entry) -> (&[u8], &[u8]) {
        let at = entry.at.wrapping_sub(self.base) as usize;
        self.bytes[at..at + entry.bytes()].split_at(entry.name_len as usize)
    }

    fn literal(
        &mut self,
        index: usize,
        keep: bool,
        rest: &mut &[u8],
        field: &mut impl FnMut(Class, &[u8], &[u8]),
    ) -> Result<(), HpackError> {
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        let name = if index == 0 {
            string(rest, &mut text)?;
            Name::of(&text)
        } else if let Some(entry) = self.entry(index) {
            text.extend_from_slice(self.text_of(entry).0);
            entry.name
        } else {
            let Some((bytes, _)) = STATIC_TABLE.get(index - 1) else {
                return Err(HpackError("a name index beyond the tables"));
            };
            text.extend_from_slice(bytes);
            Name::of_static(index)
        };
        let name_len = text.len();
        string(rest, &mut text)?;
        let (name_text, value) = text.split_at(name_len);
        let class = Class::of(name, name_text, value, self.methods);
        if keep {
            self.insert(name, class, name_text, value);
        }
        field(class, name_text, value);
        self.text = text;
        Ok(())
    }

    fn insert(&mut self, name: Name, class: Class, name_text: &[u8], value: &[u8]) {
        let cost = name_text.len() + value.len() + ENTRY_OVERHEAD;
        self.evict(cost);
        if cost > self.max_size {
            return;
        }
        if self.bytes.len() + cost > 2 * self.allowed {
            // At least half of the buffer is dead: move what lives to its start.
            let live =
                self.entries.front().map_or(self.bytes.len(), |e| e.at.wrapping_sub(self.base) as usize);
            self.bytes.copy_within(live.., 0);
            self.bytes.truncate(self.bytes.len() - live);
            self.base = self.base.wrapping_add(live as u32);
        }
        self.entries.push_back(Entry {
            at: self.base.wrapping_add(self.bytes.len() as u32),
            name_len: name_text.len() as u32,
            value_len: value.len() as u32,
            name,
            class,
        });
        self.bytes.extend_from_slice(name_text);
        self.bytes.extend_from_slice(value);
        self.size += cost;
    }

    /// Drops the oldest entries until `room` more bytes fit.
    fn evict(&mut self, room: usize) {
        while self.size + room > self.max_size {
            let Some(entry) = self.entries.pop_front() else { break };
            self.size -= entry.bytes() + ENTRY_OVERHEAD;
        }
        if self.entries.is_empty() {
            self.bytes.clear();
        }
    }

    #[cfg(test)]
    fn table(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let entries = self.entries.iter().rev();
        entries.map(|e| self.text_of(e)).map(|(n, v)| (n.to_vec(), v.to_vec())).collect()
    }
}

/// Appends the string literal (RFC 7541 section 5.2) that `rest` starts with.
fn string(rest: &mut &[u8], text: &mut Vec<u8>) -> Result<(), HpackError> {
    const CUT: HpackError = HpackError("a string literal that is cut short");
    let (&first, tail) = rest.split_first().ok_or(CUT)?;
    *rest = tail;
    let length = integer::read(first, 7, rest).ok_or(CUT)? as usize;
    if length > rest.len() {
        return Err(CUT);
    }
    let (bytes, tail) = rest.split_at(length);
    *rest = tail;
    if first & 0x80 == 0 {
        text.extend_from_slice(bytes);
        return Ok(());
    }
    huffman::decode(bytes, text).ok_or(HpackError("a string that isn't valid Huffman code"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Random;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    fn fields(decoder: &mut Decoder, block: &[u8]) -> Result<String, HpackError> {
        let mut out = String::new();
        decoder.decode(block, |_, name, value| {
            out += &format!("{}: {}\n", String::from_utf8_lossy(name), String::from_utf8_lossy(value));
        })?;
        Ok(out)
    }

    fn table(decoder: &Decoder) -> String {
        let lossy = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        decoder.table().iter().map(|(n, v)| format!("{}: {}\n", lossy(n), lossy(v))).collect()
    }

    #[test]
    fn representations_of_appendix_c_2() {
        let mut d = Decoder::new(None, 4096);
        let block = hex("400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572");
        assert_eq!(fields(&mut d, &block).unwrap(), "custom-key: custom-header\n");
        assert_eq!((table(&d).as_str(), d.size), ("custom-key: custom-header\n", 55));
        let mut d = Decoder::new(None, 4096);
        let block = hex("040c 2f73 616d 706c 652f 7061 7468");
        assert_eq!(fields(&mut d, &block).unwrap(), ":path: /sample/path\n");
        assert_eq!(d.size, 0);
        let block = hex("1008 7061 7373 776f 7264 0673 6563 7265 74");
        assert_eq!(fields(&mut d, &block).unwrap(), "password: secret\n");
        assert_eq!((fields(&mut d, &hex("82")).unwrap().as_str(), d.size), (":method: GET\n", 0));
    }

    const REQUESTS: [&str; 3] = [
        ":method: GET\n:scheme: http\n:path: /\n:authority: www.example.com\n",
        ":method: GET\n:scheme: http\n:path: /\n:authority: www.example.com\ncache-control: no-cache\n",
        ":method: GET\n:scheme: https\n:path: /index.html\n:authority: www.example.com\ncustom-key: custom-value\n",
    ];

    fn run_requests(blocks: [&str; 3]) {
        let mut d = Decoder::new(None, 4096);
        for (block, expected) in blocks.iter().zip(REQUESTS) {
            assert_eq!(fields(&mut d, &hex(block)).unwrap(), expected);
        }
        let expected = "custom-key: custom-value\ncache-control: no-cache\n:authority: www.example.com\n";
        assert_eq!((table(&d).as_str(), d.size), (expected, 164));
    }

    #[test]
    fn requests_of_appendix_c_3_and_c_4() {
        run_requests([
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "8286 84be 5808 6e6f 2d63 6163 6865",
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
        ]);
        run_requests([
            "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
            "8286 84be 5886 a8eb 1064 9cbf",
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
        ]);
    }

    #[test]
    fn responses_of_appendix_c_5_and_c_6_with_evictions() {
        let plain = [
            "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 \
             3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "4803 3330 37c1 c0bf",
            "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 \
             7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 \
             6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
        ];
        let huffman = [
            "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad \
             1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
            "4883 640e ffc1 c0bf",
            "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 \
             e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
        ];
        for blocks in [plain, huffman] {
            let mut d = Decoder::new(None, 256);
            let first = fields(&mut d, &hex(blocks[0])).unwrap();
            assert_eq!(
                first,
                ":status: 302\ncache-control: private\ndate: Mon, 21 Oct 2013 20:13:21 GMT\n\
                 location: https://www.example.com\n"
            );
            assert_eq!(d.size, 222);
            assert_eq!(fields(&mut d, &hex(blocks[1])).unwrap(), first.replace("302", "307"));
            assert_eq!(d.size, 222);
            assert_eq!(
                fields(&mut d, &hex(blocks[2])).unwrap(),
                ":status: 200\ncache-control: private\ndate: Mon, 21 Oct 2013 20:13:22 GMT\n\
                 location: https://www.example.com\ncontent-encoding: gzip\n\
                 set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1\n"
            );
            assert_eq!(
                (table(&d).as_str(), d.size),
                (
                    "set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1\n\
                     content-encoding: gzip\ndate: Mon, 21 Oct 2013 20:13:22 GMT\n",
                    215
                )
            );
        }
    }

    #[test]
    fn damaged_blocks_are_refused() {
        let refused = |block: &[u8]| fields(&mut Decoder::new(None, 4096), block).is_err();
        assert!(refused(&[0x80]), "index 0");
        assert!(refused(&[0x80 | 62]), "an index beyond an empty dynamic table");
        assert!(refused(&[0x7f, 0x00]), "a literal with a name index beyond the tables");
        assert!(refused(&[0x40, 0x05, b'a']), "a name that is cut short");
        assert!(refused(&[0x40]), "no name");
        assert!(refused(&[0x3f, 0xe2, 0x1f]), "a table of 4097 bytes");
        assert!(!refused(&[0x3f, 0xe1, 0x1f]), "a table of 4096 bytes");
        assert!(refused(&[0x82, 0x20]), "a size update after a field");
    }

    #[test]
    fn a_size_update_evicts_and_an_oversize_entry_empties_the_table() {
        let mut d = Decoder::new(None, 4096);
        fields(&mut d, &hex("400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572")).unwrap();
        fields(&mut d, &[0x20]).unwrap();
        assert_eq!((d.entries.len(), d.size), (0, 0));
        fields(&mut d, &[0x3f, 0x1f, 0x40, 1, b'a', 1, b'b']).unwrap();
        assert_eq!((d.entries.len(), d.size, d.max_size), (1, 34, 62));
        let mut large = vec![0x40, 1, b'a', 40];
        large.extend_from_slice(&[b'x'; 40]);
        fields(&mut d, &large).unwrap();
        assert_eq!((d.entries.len(), d.size), (0, 0));
    }

    /// A model: the table as a plain list, newest first.
    #[test]
    fn the_table_equals_a_plain_list_under_random_inserts() {
        let mut random = Random::new(11);
        let mut d = Decoder::new(None, 300);
        let mut model: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let cost = |(n, v): &(Vec<u8>, Vec<u8>)| n.len() + v.len() + ENTRY_OVERHEAD;
        for _ in 0..5000 {
            let mut value = vec![b'v'; random.below(90) as usize];
            random.fill(&mut value);
            value.iter_mut().for_each(|b| *b = b'a' + *b % 26);
            let mut block = Vec::new();
            let name = if !model.is_empty() && random.one_in(2) {
                let i = random.below(model.len() as u64) as usize;
                integer::write(&mut block, 0x40, 6, 62 + i);
                model[i].0.clone()
            } else {
                let name = format!("name-{}", random.below(20)).into_bytes();
                block.push(0x40);
                integer::write(&mut block, 0, 7, name.len());
                block.extend_from_slice(&name);
                name
            };
            integer::write(&mut block, 0, 7, value.len());
            block.extend_from_slice(&value);
            let line = format!("{}: {}\n", String::from_utf8_lossy(&name), String::from_utf8_lossy(&value));
            assert_eq!(fields(&mut d, &block).unwrap(), line);
            model.insert(0, (name, value));
            while model.iter().map(cost).sum::<usize>() > 300 {
                model.pop();
            }
            assert_eq!(d.table(), model);
            assert!(d.bytes.len() <= 600);
        }
    }
}
