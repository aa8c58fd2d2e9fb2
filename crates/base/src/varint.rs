//! Variable-length integers, seven bits a byte, the lowest first: protobuf's, and the tail of HPACK's. Several layers
//! write them straight into their output.

/// Bytes of `value` as a varint.
#[inline]
pub fn len(value: u64) -> usize {
    (70 - (value | 1).leading_zeros() as usize) / 7
}

/// Appends `value` in its shortest form.
#[inline]
pub fn push(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seven_bits_a_byte_lowest_first() {
        for (value, expected) in
            [(0, &[0][..]), (1, &[1]), (127, &[0x7f]), (128, &[0x80, 1]), (300, &[0xac, 2])]
        {
            let mut out = Vec::new();
            push(&mut out, value);
            assert_eq!(out, expected);
        }
        for bits in 0..64 {
            for value in [1u64 << bits, (1 << bits) - 1, u64::MAX >> bits] {
                let mut out = Vec::new();
                push(&mut out, value);
                assert_eq!(out.len(), len(value), "{value}");
                let back = out.iter().rev().fold(0u64, |sum, byte| sum << 7 | u64::from(byte & 0x7f));
                assert_eq!(back, value);
                assert!(
                    out.split_last().is_some_and(|(last, rest)| {
                        *last < 0x80 && rest.iter().all(|byte| *byte >= 0x80)
                    })
                );
            }
        }
    }
}
