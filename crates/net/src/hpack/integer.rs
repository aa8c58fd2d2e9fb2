//! Integers with a prefix (RFC 7541 section 5.1).

/// The largest value that we accept: no length, index or table size of HTTP/2 needs more.
const MAX: u32 = (1 << 28) - 1;

/// Reads an integer whose first byte (flags masked off by `prefix` bits) is `first`; the rest comes from `input`, which
/// is advanced. None: cut short, or larger than anything valid.
#[inline]
pub fn read(first: u8, prefix: u32, input: &mut &[u8]) -> Option<u32> {
    let mask = (1u32 << prefix) - 1;
    let value = u32::from(first) & mask;
    if value < mask {
        return Some(value);
    }
    read_rest(value, input)
}

fn read_rest(mut value: u32, input: &mut &[u8]) -> Option<u32> {
    let mut shift = 0;
    loop {
        let (&byte, rest) = input.split_first()?;
        *input = rest;
        if shift > 21 {
            return None;
        }
        value = value.checked_add(u32::from(byte & 0x7f) << shift)?;
        if value > MAX {
            return None;
        }
        if byte & 0x80 == 0 {
            return Some(value);
        }
        shift += 7;
    }
}

/// Writes `value`; `flags` are the bits of the first byte above the prefix.
pub fn write(out: &mut Vec<u8>, flags: u8, prefix: u32, value: usize) {
    let mask = (1usize << prefix) - 1;
    if value < mask {
        out.push(flags | value as u8);
        return;
    }
    out.push(flags | mask as u8);
    base::varint::push(out, (value - mask) as u64);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(prefix: u32, value: usize) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out, 0, prefix, value);
        let mut rest = &out[1..];
        assert_eq!(read(out[0], prefix, &mut rest), Some(value as u32));
        assert!(rest.is_empty());
        out
    }

    #[test]
    fn the_examples_of_appendix_c_1() {
        assert_eq!(round(5, 10), [0b01010]);
        assert_eq!(round(5, 1337), [0b11111, 0b1001_1010, 0b0000_1010]);
        assert_eq!(round(8, 42), [42]);
    }

    #[test]
    fn edges_of_every_prefix_survive() {
        for prefix in 1..=8 {
            for value in [0, 1, (1 << prefix) - 2, (1 << prefix) - 1, 1 << prefix, 127, 128, 16_383, 1 << 27]
            {
                round(prefix, value);
            }
        }
    }

    #[test]
    fn endless_and_cut_integers_are_refused() {
        assert_eq!(read(0xff, 7, &mut &[0x80, 0x80][..]), None);
        assert_eq!(read(0xff, 7, &mut &[0x80, 0x80, 0x80, 0x80, 0x80, 0x01][..]), None);
        assert_eq!(read(0xff, 7, &mut &[0xff, 0xff, 0xff, 0xff, 0x0f][..]), None);
    }
}
