//! A file's content as a table of shared blocks: a copy costs one pointer, a change copies the table and what it
//! touches, zeros cost nothing. That is what makes crash images cheap.

use std::ops::Range;
use std::sync::Arc;

use crate::BLOCK;

/// A block's content; `None` is zeros.
pub(super) type Block = Option<Arc<[u8; BLOCK]>>;

/// A block with this content.
pub(super) fn block_of(bytes: &[u8]) -> Block {
    assert_eq!(bytes.len(), BLOCK, "blocks are whole");
    if is_zero(bytes) {
        return None;
    }
    Some(Arc::new(bytes.try_into().expect("a whole block")))
}

fn is_zero(bytes: &[u8]) -> bool {
    // By words, and ending early: most blocks tell in the first few.
    let (words, rest) = bytes.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

/// Whole blocks on their way to a file. A part of them is cut out without copying.
#[derive(Clone)]
pub(super) struct Payload {
    blocks: Arc<[Block]>,
    range: Range<usize>,
}

impl Payload {
    pub(super) fn new(bytes: &[u8]) -> Payload {
        assert!(bytes.len().is_multiple_of(BLOCK), "writes are whole blocks");
        let blocks: Arc<[Block]> = bytes.chunks_exact(BLOCK).map(block_of).collect();
        let range = 0..blocks.len();
        Payload { blocks, range }
    }

    pub(super) fn blocks(&self) -> &[Block] {
        &self.blocks[self.range.clone()]
    }

    pub(super) fn len(&self) -> usize {
        self.range.len()
    }

    pub(super) fn part(&self, range: Range<usize>) -> Payload {
        assert!(range.start <= range.end && range.end <= self.len(), "a part lies within the whole");
        let start = self.range.start;
        Payload { blocks: self.blocks.clone(), range: start + range.start..start + range.end }
    }

    /// Whether both have the same content.
    pub(super) fn equals(&self, other: &Payload) -> bool {
        self.blocks() == other.blocks()
    }
}

/// Bytes `0..len`; what is not in the table reads as zeros.
#[derive(Clone, Default)]
pub(super) struct Blocks {
    table: Arc<Vec<Block>>,
    len: u64,
}

impl Blocks {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// What is cut off reads as zeros when the length grows again.
    pub(super) fn set_len(&mut self, len: u64) {
        let blocks = len.div_ceil(BLOCK as u64) as usize;
        if len < self.len && self.table.len() >= blocks {
            let table = Arc::make_mut(&mut self.table);
            table.truncate(blocks);
            let within = (len % BLOCK as u64) as usize;
            if within > 0
                && let Some(Some(block)) = table.get_mut(blocks - 1)
            {
                Arc::make_mut(block)[within..].fill(0);
            }
        }
        self.len = len;
    }

    /// The range must lie within the length.
    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) {
        assert!(offset + buf.len() as u64 <= self.len, "read beyond the end");
        for (block, within, part) in parts(offset, buf.len()) {
            let target = &mut buf[part];
            match self.block(block) {
                Some(bytes) => target.copy_from_slice(&bytes[within..within + target.len()]),
                None => target.fill(0),
            }
        }
    }

    pub(super) fn block(&self, at: usize) -> &Block {
        self.table.get(at).unwrap_or(&None)
    }

    /// Replaces a block, growing the length when needed; gives the one before.
    pub(super) fn put(&mut self, at: usize, block: Block) -> Block {
        self.len = self.len.max((at as u64 + 1) * BLOCK as u64);
        if at >= self.table.len() {
            block.as_ref()?;
            Arc::make_mut(&mut self.table).resize(at + 1, None);
        }
        std::mem::replace(&mut Arc::make_mut(&mut self.table)[at], block)
    }

    /// Replaces blocks from `at` on.
    pub(super) fn put_all(&mut self, at: usize, blocks: &[Block]) {
        for (no, block) in blocks.iter().enumerate() {
            self.put(at + no, block.clone());
        }
    }

    /// Changes bytes within the length.
    pub(super) fn edit(&mut self, offset: u64, data: &[u8]) {
        assert!(offset + data.len() as u64 <= self.len, "an edit within the file");
        let len = self.len;
        for (at, within, part) in parts(offset, data.len()) {
            let mut bytes = self.block(at).as_deref().copied().unwrap_or([0; BLOCK]);
            bytes[within..within + part.len()].copy_from_slice(&data[part]);
            self.put(at, block_of(&bytes));
        }
        self.len = len;
    }
}

/// (block, offset in it, range of the caller's bytes) for each block that the range touches.
fn parts(offset: u64, len: usize) -> impl Iterator<Item = (usize, usize, Range<usize>)> {
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
        let mut copies = Vec::new();
        for round in 0..500 {
            match random.below(4) {
                0 => {
                    let len = random.below(5 * BLOCK as u64) as usize;
                    model.resize(len, 0);
                    blocks.set_len(len as u64);
                }
                1 if !model.is_empty() => {
                    let offset = random.below(model.len() as u64) as usize;
                    let mut data = vec![0; random.below((model.len() - offset) as u64 + 1) as usize];
                    random.fill(&mut data);
                    model[offset..offset + data.len()].copy_from_slice(&data);
                    blocks.edit(offset as u64, &data);
                }
                _ => {
                    let at = random.below(4) as usize;
                    let mut data = vec![0; (1 + random.below(2) as usize) * BLOCK];
                    if !random.one_in(3) {
                        random.fill(&mut data);
                    }
                    let offset = at * BLOCK;
                    model.resize(model.len().max(offset + data.len()), 0);
                    model[offset..offset + data.len()].copy_from_slice(&data);
                    let payload = Payload::new(&data);
                    assert_eq!(
                        (payload.len(), payload.part(1..payload.len()).len()),
                        (data.len() / BLOCK, data.len() / BLOCK - 1)
                    );
                    blocks.put_all(at, payload.blocks());
                }
            }
            if round % 50 == 0 {
                copies.push((blocks.clone(), model.clone()));
            }
            for (blocks, model) in std::iter::once(&(blocks.clone(), model.clone())).chain(&copies) {
                let mut all = vec![0xee; model.len()];
                blocks.read(0, &mut all);
                assert!(all == *model && blocks.len() == model.len() as u64, "the same bytes");
            }
        }
    }

    #[test]
    fn zeros_are_told_by_every_byte() {
        let mut bytes = [0; BLOCK];
        assert!(block_of(&bytes).is_none());
        for at in [0, 1, 15, 16, 2000, BLOCK - 1] {
            bytes[at] = 1;
            assert!(block_of(&bytes).is_some(), "{at}");
            bytes[at] = 0;
        }
    }
}
