//! Decisions taken from an input's bytes, front to back. When the input is used up all decisions are 0.

/// What is left of an input.
#[derive(Clone, Copy)]
pub struct Choices<'a> {
    bytes: &'a [u8],
}

impl<'a> Choices<'a> {
    pub fn new(bytes: &'a [u8]) -> Choices<'a> {
        Choices { bytes }
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.bytes.split_first() else { return 0 };
        self.bytes = rest;
        first
    }

    /// Little-endian, as far as there are bytes.
    pub fn number(&mut self, bytes: usize) -> u64 {
        (0..bytes).fold(0, |number, at| number | u64::from(self.byte()) << (8 * at))
    }

    /// In `0..bound`, from as few bytes as needed.
    pub fn below(&mut self, bound: usize) -> usize {
        assert!(bound > 0, "an empty range has no element");
        let bytes = match bound {
            1 => 0,
            2..=0x100 => 1,
            0x101..=0x1_0000 => 2,
            _ => 4,
        };
        self.number(bytes) as usize % bound
    }

    pub fn flag(&mut self) -> bool {
        self.byte() & 1 != 0
    }

    /// Up to `count` bytes.
    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.bytes.split_at(count.min(self.bytes.len()));
        self.bytes = rest;
        taken
    }

    /// A length in one byte (255: in two more) and as many bytes, as far as there are.
    pub fn block(&mut self) -> &'a [u8] {
        let length = match self.byte() {
            255 => self.number(2) as usize,
            short => usize::from(short),
        };
        self.take(length)
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.bytes)
    }
}

/// Appends `bytes` so that [`Choices::block`] reads them.
pub fn push_block(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).expect("a block is shorter than 64 KiB");
    if length < 255 {
        out.push(length as u8);
    } else {
        out.push(255);
        out.extend_from_slice(&length.to_le_bytes());
    }
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_back_and_an_empty_input_decides_nothing() {
        for length in [0, 1, 254, 255, 256, 1000] {
            let mut bytes = Vec::new();
            push_block(&mut bytes, &vec![7; length]);
            bytes.extend_from_slice(&[1, 2]);
            let mut choices = Choices::new(&bytes);
            assert_eq!(choices.block(), vec![7; length]);
            assert_eq!((choices.number(2), choices.is_empty()), (0x0201, true));
            assert_eq!((choices.below(1000), choices.flag(), choices.block()), (0, false, &[][..]));
        }
    }
}
