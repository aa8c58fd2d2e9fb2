//! What can happen to the bytes of a file: flipped bits, overwritten numbers, blocks lost, moved, cut off. Taken from an
//! input's choices, so that a few bytes describe damage anywhere in a large image.
//!
//! A damaged image may then be given right checksums again ("sealed"), by the formats' own rules: so the fuzzer gets
//! behind the checksums, to what a decoder does with nonsense that carries one.

use std::collections::BTreeMap;
use std::sync::Arc;

use disk::{AlignedBuf, BLOCK, Files, OpenMode, SimFiles};

use crate::choices::Choices;

/// Files by name.
pub type Image = BTreeMap<String, Vec<u8>>;

/// All that stands in `dir` (or, for `""`, at the top).
pub fn image(files: &SimFiles, dir: &str) -> Image {
    let names = files.list(dir).unwrap_or_default();
    let path = |name: &String| if dir.is_empty() { name.clone() } else { format!("{dir}/{name}") };
    names.iter().map(path).filter_map(|name| files.bytes(&name).map(|bytes| (name, bytes))).collect()
}

/// A device that holds `image`, durably.
pub fn world(image: &Image) -> SimFiles {
    let files = SimFiles::new();
    for (name, bytes) in image {
        if let Some((dir, _)) = name.split_once('/') {
            files.create_dir(dir).expect("a fresh device");
        }
        let file = files.open(name, OpenMode::CreateNew).expect("a fresh device");
        if bytes.is_empty() {
            continue;
        }
        let mut block = AlignedBuf::zeroed(bytes.len().next_multiple_of(BLOCK));
        block[..bytes.len()].copy_from_slice(bytes);
        file.write_at(0, &block).expect("a fresh device");
        file.truncate(bytes.len() as u64).expect("a fresh device");
    }
    files
}

/// The same, as a trait object for those who share it.
pub fn shared(files: &SimFiles) -> Arc<dyn Files> {
    Arc::new(files.clone())
}

/// Up to `most` edits.
pub fn edit_some(choices: &mut Choices<'_>, bytes: &mut Vec<u8>, most: usize) {
    for _ in 0..choices.below(most + 1) {
        edit(choices, bytes);
    }
}

/// One edit.
pub fn edit(choices: &mut Choices<'_>, bytes: &mut Vec<u8>) {
    let kind = choices.below(8);
    if bytes.is_empty() {
        return;
    }
    let blocks = bytes.len().div_ceil(BLOCK);
    let block = choices.below(blocks) * BLOCK;
    let end = (block + BLOCK).min(bytes.len());
    match kind {
        0 | 1 => {
            // Headers stand at the begin of a block; the rest is met by two bytes of offset.
            let offset = if kind == 0 { choices.below(128) } else { choices.below(BLOCK) };
            let mask = choices.byte();
            if let Some(byte) = bytes.get_mut(block + offset) {
                *byte ^= mask.max(1);
            }
        }
        2 | 3 => {
            let offset = if kind == 2 { choices.below(256) } else { choices.below(BLOCK) };
            let width = 1 << choices.below(4);
            let number = choices.number(width).to_le_bytes();
            for (i, byte) in number[..width].iter().enumerate() {
                if let Some(there) = bytes.get_mut(block + offset + i) {
                    *there = *byte;
                }
            }
        }
        4 => {
            // A sector, half a block or the whole block never arrived.
            let (from, length) = match choices.below(4) {
                0 => (choices.below(8) * 512, 512),
                1 => (choices.below(2) * 2048, 2048),
                _ => (0, BLOCK),
            };
            let range = (block + from).min(end)..(block + from + length).min(end);
            bytes[range].fill(0);
        }
        5 => {
            let to = choices.below(blocks) * BLOCK;
            let length = (end - block).min(bytes.len() - to);
            bytes.copy_within(block..block + length, to);
        }
        6 => {
            let fill = choices.byte();
            bytes[block..end].fill(fill);
        }
        _ => {
            let odd = choices.below(4) == 3;
            bytes.truncate(block + if odd { choices.below(BLOCK) } else { 0 });
        }
    }
}

/// Writes `number` at `at`.
pub fn put_u32(bytes: &mut [u8], at: usize, number: u32) {
    bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_comes_back_from_its_world() {
        let image = Image::from([
            ("data".to_owned(), vec![3; 3 * BLOCK]),
            ("log/one".to_owned(), vec![4; BLOCK + 7]),
            ("log/two".to_owned(), Vec::new()),
        ]);
        let files = world(&image);
        let mut back = super::image(&files, "");
        back.extend(super::image(&files, "log"));
        assert_eq!(back, image);
    }

    #[test]
    fn no_edit_leaves_the_image() {
        let mut random = base::Random::new(3);
        for round in 0..20_000u32 {
            let mut input = vec![0; 12];
            random.fill(&mut input);
            let mut bytes = vec![7; (round % 9000) as usize];
            let before = bytes.len();
            edit(&mut Choices::new(&input), &mut bytes);
            assert!(bytes.len() <= before);
        }
    }
}
