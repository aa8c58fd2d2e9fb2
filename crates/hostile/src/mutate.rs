//! Seeded mutations of inputs: what the ordinary test runs in a fuzzer's place.

use base::Random;

/// Numbers at which decoders change their mind.
const EDGES: [u64; 12] =
    [0, 1, 0x7f, 0x80, 0xff, 0x100, 0x3fff, 0x4000, 0xffff, 0x7fff_ffff, 0xffff_ffff, u64::MAX];

/// A few changes of `input`; `other` lends pieces. Never longer than `longest_bytes`, but for the input itself.
pub fn mutate(random: &mut Random, input: &[u8], other: &[u8], longest_bytes: usize) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..1 + random.below(4) {
        change(random, &mut bytes, other);
        bytes.truncate(longest_bytes.max(input.len()));
    }
    bytes
}

fn change(random: &mut Random, bytes: &mut Vec<u8>, other: &[u8]) {
    if bytes.is_empty() {
        bytes.extend_from_slice(other);
        return;
    }
    let at = random.below(bytes.len() as u64) as usize;
    let rest = bytes.len() - at;
    let run = |random: &mut Random, most: usize| 1 + random.below(most.min(32) as u64) as usize;
    match random.below(9) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = random.next_u64() as u8,
        2 => bytes[at] = bytes[at].wrapping_add(if random.one_in(2) { 1 } else { 255 }),
        3 => {
            let edge = EDGES[random.below(EDGES.len() as u64) as usize];
            let width = (1 << random.below(4)).min(rest);
            let wide = if random.one_in(2) { edge.to_le_bytes() } else { edge.to_be_bytes() };
            let part = if edge.to_le_bytes() == wide { &wide[..width] } else { &wide[8 - width..] };
            bytes[at..at + width].copy_from_slice(part);
        }
        4 => drop(bytes.drain(at..at + run(random, rest))),
        5 => {
            let piece = bytes[at..at + run(random, rest)].to_vec();
            let to = random.below(bytes.len() as u64 + 1) as usize;
            bytes.splice(to..to, piece);
        }
        6 => {
            let mut piece = vec![0; run(random, 16)];
            random.fill(&mut piece);
            bytes.splice(at..at, piece);
        }
        7 if !other.is_empty() => {
            let from = random.below(other.len() as u64) as usize;
            let length = 1 + random.below((other.len() - from) as u64) as usize;
            bytes.splice(at..at, other[from..from + length].iter().copied());
        }
        _ => bytes.truncate(at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_mutations_and_they_differ() {
        let all = |seed| {
            let mut random = Random::new(seed);
            (0..200).map(|_| mutate(&mut random, b"0123456789", b"abcdef", 16)).collect::<Vec<_>>()
        };
        let (one, two) = (all(1), all(1));
        assert_eq!(one, two);
        assert!(one.iter().all(|bytes| bytes.len() <= 16));
        let different: std::collections::BTreeSet<_> = one.iter().collect();
        assert!(different.len() > 150, "{} of 200", different.len());
    }
}
