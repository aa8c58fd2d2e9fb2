//! A file's content as a table of shared blocks: copies of a world cost a pointer a block, zeros cost nothing.

use std::sync::Arc;

use crate::BLOCK;

type Block = [u8; BLOCK];

/// Bytes `0..len`; a missing block reads as zeros.
#[derive(Clone, Default)]
pub(super) struct Blocks {
    table: Vec<Option<Arc<Block>>>,
    len: u64,
}

impl Blocks {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// What is cut off reads as zeros when the length grows again.
    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.len {
            let within = (len % BLOCK as u64) as usize;
            let blocks = len.div_ceil(BLOCK as u64) as usize;
            self.table.truncate(blocks);
            if within > 0
                && let Some(Some(block)) = self.table.get_mut(blocks - 1)
            {
                Arc::make_mut(block)[within..].fill(0);
            }
        }
        self.len = len;
        self.table.resize(len.div_ceil(BLOCK as u64) as usize, None);
    }

    /// The range must lie within the length.
    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) {
        assert!(offset + buf.len() as u64 <= self.len, "read beyond the end");
        for (block, within, part) in parts(offset, buf.len()) {
            let target = &mut buf[part.clone()];
            match &self.table[block] {
                Some(bytes) => target.copy_from_slice(&bytes[within..within + target.len()]),
                None => target.fill(0),
            }
        }
    }

    /// Grows the length when needed.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        if offset + data.len() as u64 > self.len {
            self.set_len(offset + data.len() as u64);
        }
        for (block, within, part) in parts(offset, data.len()) {
            let source = &data[part];
            let slot = &mut self.table[block];
            if slot.is_none() && source.iter().all(|&byte| byte == 0) {
                continue;
            }
            let bytes = slot.get_or_insert_with(|| Arc::new([0; BLOCK]));
            Arc::make_mut(bytes)[within..within + source.len()].copy_from_slice(source);
        }
    }
}

/// (block, offset in it, range of the caller's bytes) for each block that the range touches.
fn parts(offset: u64, len: usize) -> impl Iterator<Item = (usize, usize, std::ops::Range<usize>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at == len {
            return None;
        }
        let position = offset + at as u64;
        let within = (position % BLOCK as u64) as usize;
        let part = at..len.min(at + BLOCK - within);
        at = part.end;
        Some(((position / BLOCK as u64) as usize, within, part))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Random;

    #[test]
    fn behaves_like_a_vector_of_bytes() {
        let mut random = Random::new(1);
        let mut model: Vec<u8> = Vec::new();
        let mut blocks = Blocks::default();
        for _ in 0..500 {
            match random.below(4) {
                0 => {
                    let len = random.below(5 * BLOCK as u64) as usize;
                    model.resize(len, 0);
                    blocks.set_len(len as u64);
                }
                _ => {
                    let offset = random.below(4 * BLOCK as u64) as usize;
                    let mut data = vec![0; 1 + random.below(2 * BLOCK as u64) as usize];
                    if !random.one_in(3) {
                        random.fill(&mut data);
                    }
                    model.resize(model.len().max(offset + data.len()), 0);
                    model[offset..offset + data.len()].copy_from_slice(&data);
                    blocks.write(offset as u64, &data);
                }
            }
            let copy = blocks.clone();
            let mut all = vec![0xee; model.len()];
            copy.read(0, &mut all);
            assert!(all == model, "the same bytes");
        }
    }
}
