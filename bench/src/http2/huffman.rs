//! HPACK's Huffman code (RFC 7541 appendix B), decoding only.
//!
//! The code is canonical: within a length, codes count up in the order of their symbols, and each length continues
//! where the shorter one ended. So the lengths are the whole table. Must not accept padding that the RFC forbids.

/// Code length of each byte, bits; the last is the end-of-string symbol, which must never occur.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28,
    28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6,
    6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7,
    8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7,
    15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24,
    23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23,
    23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26,
    26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20,
    21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27,
    27, 27, 26, 30,
];
const END_OF_STRING: u16 = 256;
const LONGEST: usize = 30;

/// For each length: the first code of it, how many there are, and where their symbols begin in `SYMBOLS`.
struct Canonical {
    first: [u32; LONGEST + 1],
    count: [u32; LONGEST + 1],
    start: [u16; LONGEST + 1],
    symbols: [u16; 257],
}

const CODE: Canonical = canonical();

const fn canonical() -> Canonical {
    let mut code = Canonical {
        first: [0; LONGEST + 1],
        count: [0; LONGEST + 1],
        start: [0; LONGEST + 1],
        symbols: [0; 257],
    };
    let mut next = 0u32;
    let mut placed = 0usize;
    let mut length = 1;
    while length <= LONGEST {
        next <<= 1;
        code.first[length] = next;
        code.start[length] = placed as u16;
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                code.symbols[placed] = symbol as u16;
                placed += 1;
                next += 1;
            }
            symbol += 1;
        }
        code.count[length] = next - code.first[length];
        length += 1;
    }
    assert!(next == 1 << LONGEST, "a complete prefix code uses every code word");
    code
}

/// Appends the decoded string to `out`; the error says what is wrong with the input.
pub fn decode(input: &[u8], out: &mut Vec<u8>) -> Result<(), &'static str> {
    let mut code = 0u32;
    let mut length = 0usize;
    for &byte in input {
        for bit in (0..8).rev() {
            code = code << 1 | u32::from(byte >> bit & 1);
            length += 1;
            if length > LONGEST {
                return Err("a Huffman code longer than any");
            }
            let offset = code.wrapping_sub(CODE.first[length]);
            if code >= CODE.first[length] && offset < CODE.count[length] {
                let symbol = CODE.symbols[CODE.start[length] as usize + offset as usize];
                if symbol == END_OF_STRING {
                    return Err("an end-of-string symbol inside a Huffman string");
                }
                out.push(symbol as u8);
                code = 0;
                length = 0;
            }
        }
    }
    // What is left is padding: fewer than 8 bits, all ones.
    if length >= 8 || code != (1 << length) - 1 {
        return Err("bad padding at the end of a Huffman string");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(text: &[u8]) -> Vec<u8> {
        let mut bits = String::new();
        for &byte in text {
            let length = LENGTHS[byte as usize] as usize;
            let start = CODE.start[length] as usize;
            let rank = (0..).position(|i| CODE.symbols[start + i] == u16::from(byte)).unwrap();
            let code = CODE.first[length] + rank as u32;
            bits.push_str(&format!("{code:0length$b}"));
        }
        while !bits.len().is_multiple_of(8) {
            bits.push('1');
        }
        bits.as_bytes()
            .chunks(8)
            .map(|byte| u8::from_str_radix(std::str::from_utf8(byte).unwrap(), 2).unwrap())
            .collect()
    }

    #[test]
    fn the_rfcs_examples_decode() {
        // RFC 7541, C.4 and C.6.
        let examples: [(&[u8], &[u8]); 3] = [
            (b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff", b"www.example.com"),
            (b"\xa8\xeb\x10\x64\x9c\xbf", b"no-cache"),
            (
                b"\xd0\x7a\xbe\x94\x10\x54\xd4\x44\xa8\x20\x05\x95\x04\x0b\x81\x66\xe0\x82\xa6\x2d\x1b\xff",
                b"Mon, 21 Oct 2013 20:13:21 GMT",
            ),
        ];
        for (coded, plain) in examples {
            let mut out = Vec::new();
            decode(coded, &mut out).unwrap();
            assert_eq!(out, plain);
            assert_eq!(encode(plain), coded);
        }
    }

    #[test]
    fn every_byte_comes_back() {
        let all: Vec<u8> = (0..=255).collect();
        let mut out = Vec::new();
        decode(&encode(&all), &mut out).unwrap();
        assert_eq!(out, all);
    }

    #[test]
    fn bad_padding_and_the_end_symbol_are_refused() {
        let mut out = Vec::new();
        assert!(decode(&[0xff, 0xff, 0xff, 0xff], &mut out).is_err(), "30 ones are the end of string");
        assert!(decode(&[0x00], &mut out).is_err(), "padding of zeros");
        assert!(decode(&[0x07, 0xff], &mut out).is_err(), "more than 7 bits of padding");
    }
}
