//! The Huffman code (RFC 7541 section 5.2 and appendix B).
//!
//! The code is canonical: codes of one length are consecutive and in the order of their symbols, so the lengths alone
//! define it. Decoding looks at eight bits at once, which covers every symbol that headers commonly use; longer codes
//! are found by their first code per length. The end-of-string symbol (thirty ones) must not occur in the text.

/// Bits of each symbol's code.
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, //
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28, //
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, //
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, //
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, //
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, //
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, //
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, //
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, //
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, //
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, //
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, //
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, //
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, //
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, //
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, //
];
const LONGEST: usize = 30;

struct Tables {
    /// Code of each symbol, right-aligned.
    codes: [u32; 256],
    /// Symbol and code length by the next eight bits; length 0: the code is longer.
    short: [(u8, u8); 256],
    /// Symbols in the order of their codes.
    order: [u8; 256],
    /// Per length: the first code, how many there are, and where its symbols start in `order`.
    first: [u32; LONGEST + 1],
    count: [u16; LONGEST + 1],
    start: [u16; LONGEST + 1],
}

static TABLES: Tables = build();

const fn build() -> Tables {
    let mut t = Tables {
        codes: [0; 256],
        short: [(0, 0); 256],
        order: [0; 256],
        first: [0; LONGEST + 1],
        count: [0; LONGEST + 1],
        start: [0; LONGEST + 1],
    };
    let mut code = 0u32;
    let mut position = 0usize;
    let mut length = 1usize;
    while length <= LONGEST {
        code <<= 1;
        t.first[length] = code;
        t.start[length] = position as u16;
        let mut symbol = 0usize;
        while symbol < 256 {
            if LENGTHS[symbol] as usize == length {
                t.codes[symbol] = code;
                t.order[position] = symbol as u8;
                if length <= 8 {
                    let from = (code as usize) << (8 - length);
                    let mut i = 0;
                    while i < 1 << (8 - length) {
                        t.short[from + i] = (symbol as u8, length as u8);
                        i += 1;
                    }
                }
                t.count[length] += 1;
                position += 1;
                code += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    t
}

/// Appends the text that `input` encodes. None: the end-of-string symbol, or padding that isn't a few ones.
pub fn decode(input: &[u8], out: &mut Vec<u8>) -> Option<()> {
    out.reserve(input.len() * 8 / 5 + 1);
    let mut bits: u64 = 0;
    let mut held: u32 = 0;
    let mut input = input;
    loop {
        while held <= 56 {
            let Some((&byte, rest)) = input.split_first() else { break };
            input = rest;
            bits |= u64::from(byte) << (56 - held);
            held += 8;
        }
        let (symbol, length) = TABLES.short[(bits >> 56) as usize];
        if length != 0 && u32::from(length) <= held {
            out.push(symbol);
            bits <<= length;
            held -= u32::from(length);
            continue;
        }
        if length == 0
            && let Some((symbol, length)) = long(bits, held)
        {
            out.push(symbol);
            bits <<= length;
            held -= length;
            continue;
        }
        // What is left must be a prefix of the end-of-string symbol, shorter than a byte.
        let ones = if held == 0 { 0 } else { u64::MAX << (64 - held) };
        return (held < 8 && bits == ones).then_some(());
    }
}

/// The code longer than eight bits that `bits` starts with, if all of it is there.
fn long(bits: u64, held: u32) -> Option<(u8, u32)> {
    for length in 9..=LONGEST.min(held as usize) {
        let code = (bits >> (64 - length)) as u32;
        let offset = code.wrapping_sub(TABLES.first[length]);
        if offset < u32::from(TABLES.count[length]) {
            return Some((TABLES.order[TABLES.start[length] as usize + offset as usize], length as u32));
        }
    }
    None
}

/// Bytes that `text` takes when encoded.
pub fn encoded_len(text: &[u8]) -> usize {
    text.iter().map(|&b| usize::from(LENGTHS[usize::from(b)])).sum::<usize>().div_ceil(8)
}

/// Appends the code of `text`, padded with ones.
pub fn encode(text: &[u8], out: &mut Vec<u8>) {
    let mut bits: u64 = 0;
    let mut held = 0;
    for &symbol in text {
        let length = u32::from(LENGTHS[usize::from(symbol)]);
        bits = bits << length | u64::from(TABLES.codes[usize::from(symbol)]);
        held += length;
        while held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    if held > 0 {
        out.push((bits << (8 - held)) as u8 | 0xff >> held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Random;

    #[test]
    fn codes_of_appendix_b() {
        let check = |symbol: u8, code: u32, length: u8| {
            assert_eq!((TABLES.codes[symbol as usize], LENGTHS[symbol as usize]), (code, length));
        };
        check(b'0', 0x0, 5);
        check(b'a', 0x3, 5);
        check(b' ', 0x14, 6);
        check(b':', 0x5c, 7);
        check(b'&', 0xf8, 8);
        check(b'!', 0x3f8, 10);
        check(b'\\', 0x7fff0, 19);
        check(0, 0x1ff8, 13);
        check(255, 0x3ffffee, 26);
        check(b'\n', 0x3ffffffc, 30);
        check(22, 0x3ffffffe, 30);
    }

    #[test]
    fn texts_of_appendix_c_4() {
        let mut out = Vec::new();
        encode(b"www.example.com", &mut out);
        assert_eq!(out, [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff]);
        let mut text = Vec::new();
        decode(&out, &mut text).unwrap();
        assert_eq!(text, b"www.example.com");
        out.clear();
        encode(b"no-cache", &mut out);
        assert_eq!(out, [0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]);
    }

    #[test]
    fn random_texts_survive() {
        let mut random = Random::new(3);
        for _ in 0..2000 {
            let mut text = vec![0; random.below(60) as usize];
            random.fill(&mut text);
            if random.one_in(2) {
                text.iter_mut().for_each(|b| *b = b' ' + *b % 95);
            }
            let (mut code, mut back) = (Vec::new(), Vec::new());
            encode(&text, &mut code);
            assert_eq!(code.len(), encoded_len(&text));
            decode(&code, &mut back).unwrap();
            assert_eq!(back, text);
        }
    }

    #[test]
    fn wrong_padding_and_end_of_string_are_refused() {
        let mut out = Vec::new();
        // "0" is 00000; padded with zeros instead of ones.
        assert!(decode(&[0b0000_0000], &mut out).is_none());
        assert!(decode(&[0b0000_0111], &mut out).is_some());
        assert!(decode(&[0b0000_0111, 0xff], &mut out).is_none(), "a whole byte of padding");
        assert!(decode(&[0xff, 0xff, 0xff, 0xff], &mut out).is_none(), "the end-of-string symbol");
        assert!(decode(&[], &mut out).is_some());
    }
}
