//! HPACK: `net::hpack`.
//!
//! Laws: an independent, naive reading of RFC 7541 (the table a plain list) gives the same fields or refuses as well;
//! what was read and is written as literals reads the same; Huffman code has one form; integers come back; a block
//! costs memory in proportion to its length and the table's size.

use net::hpack::{Fields, encoder, huffman, integer, static_table::STATIC_TABLE};

use crate::choices::{Choices, push_block};
use crate::meter::bounded;

/// What an entry costs beyond its bytes, in the RFC's count.
const OVERHEAD: usize = 32;

type Field = (Vec<u8>, Vec<u8>);

/// The dynamic table as a list, newest first.
struct Naive {
    table: Vec<Field>,
    max: usize,
    allowed: usize,
}

impl Naive {
    fn number(rest: &mut &[u8], first: u8, prefix: u32) -> Option<usize> {
        let mask = (1 << prefix) - 1;
        let mut value = u64::from(first & mask as u8);
        if value < mask {
            return Some(value as usize);
        }
        for shift in [0, 7, 14, 21] {
            let (&byte, after) = rest.split_first()?;
            *rest = after;
            value += u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return usize::try_from(value).ok().filter(|&value| value < 1 << 28);
            }
        }
        None
    }

    fn string(rest: &mut &[u8]) -> Option<Vec<u8>> {
        let (&first, after) = rest.split_first()?;
        *rest = after;
        let length = Naive::number(rest, first, 7)?;
        let text = rest.get(..length)?;
        *rest = &rest[length..];
        if first & 0x80 == 0 {
            return Some(text.to_vec());
        }
        let mut out = Vec::new();
        huffman::decode(text, &mut out)?;
        Some(out)
    }

    fn at(&self, index: usize) -> Option<Field> {
        let own = |(name, value): &(&[u8], &[u8])| (name.to_vec(), value.to_vec());
        match index.checked_sub(STATIC_TABLE.len() + 1) {
            Some(dynamic) => self.table.get(dynamic).cloned(),
            None => STATIC_TABLE.get(index.checked_sub(1)?).map(own),
        }
    }

    fn size(&self) -> usize {
        self.table.iter().map(|(name, value)| name.len() + value.len() + OVERHEAD).sum()
    }

    fn shrink(&mut self) {
        while self.size() > self.max {
            self.table.pop();
        }
    }

    fn decode(&mut self, block: &[u8]) -> Option<Vec<Field>> {
        let mut fields = Vec::new();
        let mut rest = block;
        while let Some((&first, after)) = rest.split_first() {
            rest = after;
            if first & 0x80 != 0 {
                let index = Naive::number(&mut rest, first, 7)?;
                fields.push(self.at(index)?);
            } else if first & 0x20 != 0 && first & 0x40 == 0 {
                let size = Naive::number(&mut rest, first, 5)?;
                if size > self.allowed || !fields.is_empty() {
                    return None;
                }
                self.max = size;
                self.shrink();
            } else {
                let keep = first & 0x40 != 0;
                let index = Naive::number(&mut rest, first, if keep { 6 } else { 4 })?;
                let name = if index == 0 { Naive::string(&mut rest)? } else { self.at(index)?.0 };
                let value = Naive::string(&mut rest)?;
                if keep {
                    self.table.insert(0, (name.clone(), value.clone()));
                    self.shrink();
                }
                fields.push((name, value));
            }
        }
        Some(fields)
    }
}

fn read(decoder: &mut Fields, block: &[u8]) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    let done = decoder.decode(block, |name, value| fields.push((name.to_vec(), value.to_vec())));
    done.is_ok().then_some(fields)
}

pub fn check(input: &[u8]) {
    let mut choices = Choices::new(input);
    let kind = choices.byte();
    match kind % 4 {
        0 => text(choices.rest()),
        1 => number(&mut choices),
        _ => blocks(&mut choices),
    }
}

fn text(input: &[u8]) {
    bounded(1024 + 16 * input.len(), || {
        let mut code = Vec::new();
        huffman::encode(input, &mut code);
        assert_eq!(code.len(), huffman::encoded_len(input), "the length is known before");
        let mut back = Vec::new();
        assert_eq!(huffman::decode(&code, &mut back), Some(()), "our own code is read");
        assert_eq!(back, input);
        back.clear();
        if huffman::decode(input, &mut back).is_some() {
            code.clear();
            huffman::encode(&back, &mut code);
            assert_eq!(code, input, "a text has one code");
        }
    });
}

fn number(choices: &mut Choices<'_>) {
    let prefix = 1 + choices.below(8) as u32;
    let value = choices.number(4) as usize % (1 << 28);
    let mut out = Vec::new();
    integer::write(&mut out, 0, prefix, value);
    let mut rest = &out[1..];
    assert_eq!(integer::read(out[0], prefix, &mut rest), Some(value as u32));
    assert!(rest.is_empty());
    let bytes = choices.rest();
    let Some((&first, mut rest)) = bytes.split_first() else { return };
    let mut naive_rest = rest;
    let naive = Naive::number(&mut naive_rest, first, prefix.min(7));
    let real = integer::read(first, prefix.min(7), &mut rest);
    assert_eq!(real.map(|value| value as usize), naive);
    assert!(naive.is_none() || rest == naive_rest, "both read as far");
}

fn blocks(choices: &mut Choices<'_>) {
    let allowed = [4096, 0, 64, 256][choices.below(4)];
    let mut decoder = Fields::new(allowed);
    let mut naive = Naive { table: Vec::new(), max: allowed, allowed };
    while !choices.is_empty() {
        let block = choices.block();
        let expected = naive.decode(block);
        // A reference of one byte stands for a whole entry; the naive reader's list is not counted.
        let fields = read(&mut decoder, block);
        assert_eq!(fields, expected, "both readings agree");
        let Some(fields) = fields else { return };
        bounded((64 << 10) + 16 * block.len(), || decoder.decode(&[], |_, _| ())).expect("an empty block");
        let mut literal = Vec::new();
        for (name, value) in &fields {
            literal.push(0);
            encoder::compact_value(&mut literal, name);
            encoder::value(&mut literal, value);
        }
        assert_eq!(read(&mut Fields::new(0), &literal), Some(fields), "literals say the same");
    }
}

pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let mut seeds = vec![("seed-text".into(), [&[0][..], b"application/grpc+proto"].concat())];
    let mut code = vec![0];
    huffman::encode(b"/etcdserverpb.KV/Range", &mut code);
    seeds.push(("seed-code".into(), code));
    seeds.push(("seed-number".into(), vec![1, 4, 0xff, 0xff, 3, 0, 0x7f, 0x80, 0x80, 1]));
    // What our own client's first two calls say.
    let mut client = net::client::ClientConnection::new();
    let mut bytes = vec![2, 0];
    for path in ["/etcdserverpb.KV/Range", "/etcdserverpb.KV/Put", "/etcdserverpb.KV/Range"] {
        client.start_with(path, &[("token", "abc"), ("hasleader", "true")], None, true);
        for frame in crate::wire::frames(&crate::wire::drain(client.output())) {
            if frame.kind == net::frame::kind::HEADERS {
                push_block(&mut bytes, &frame.payload);
            }
        }
    }
    seeds.push(("seed-calls".into(), bytes));
    // Every representation, a size update first.
    let mut block = vec![0x3f, 0x1f];
    block.push(0x82);
    for (flags, prefix) in [(0x40, 6), (0, 4), (0x10, 4)] {
        integer::write(&mut block, flags, prefix, 4);
        encoder::compact_value(&mut block, b"/a/long/path");
        block.push(flags);
        encoder::value(&mut block, b"name");
        encoder::compact_value(&mut block, b"value");
    }
    block.push(0xbe);
    let mut bytes = vec![2, 3];
    push_block(&mut bytes, &block);
    push_block(&mut bytes, &[0x20, 0x3f, 0x21, 0xbe]);
    push_block(&mut bytes, &[0xbe, 0xbf]);
    seeds.push(("seed-representations".into(), bytes));
    seeds
}
