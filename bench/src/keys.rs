//! Keys and values of the loads: the same for every server, given a seed.
//!
//! A key is `/bench/`, twelve hex digits of its number, and a filler drawn from number and seed. So keys sort by
//! number (a range of 500 keys is a range of numbers), all have one length, and what follows the digits does not
//! compress. Values are windows of a pool of random bytes.

use std::sync::Arc;

use base::Random;

const PREFIX: &[u8; 7] = b"/bench/";
const DIGITS: usize = 12;
const HEX: &[u8; 16] = b"0123456789abcdef";
/// Bytes that values are cut from: larger than caches that could make sending them unreal, small to generate.
const POOL_BYTES: usize = 1 << 20;

/// The smallest key length, bytes: the prefix and the number.
pub const KEY_BYTES_MIN: usize = PREFIX.len() + DIGITS;
/// The largest value length, bytes: half the pool, so that values differ.
pub const VALUE_BYTES_MAX: usize = POOL_BYTES / 2;

/// How keys look.
#[derive(Clone, Copy, Debug)]
pub struct Keys {
    pub key_bytes: usize,
    pub seed: u64,
}

impl Keys {
    /// Appends key `number` (below 2^48) to `out`.
    pub fn write(&self, number: u64, out: &mut Vec<u8>) {
        assert!(number < 1 << 48, "a key's number has {DIGITS} hex digits");
        assert!(self.key_bytes >= KEY_BYTES_MIN, "a key has room for its number");
        out.extend_from_slice(PREFIX);
        for digit in (0..DIGITS).rev() {
            out.push(HEX[(number >> (digit * 4)) as usize & 15]);
        }
        let mut left = self.key_bytes - KEY_BYTES_MIN;
        let mut state = number ^ self.seed.rotate_left(32);
        while left > 0 {
            state = mixed(state);
            let mut word = [0; 16];
            for (at, byte) in word.iter_mut().enumerate() {
                *byte = HEX[(state >> (at * 4)) as usize & 15];
            }
            let taken = left.min(word.len());
            out.extend_from_slice(&word[..taken]);
            left -= taken;
        }
    }

    pub fn key(&self, number: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.key_bytes);
        self.write(number, &mut out);
        out
    }

    /// The number of a key that [`Keys::write`] made.
    pub fn number(key: &[u8]) -> Option<u64> {
        let digits = key.strip_prefix(PREFIX)?.get(..DIGITS)?;
        u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    }

    /// A range that covers all keys, and nothing else that the bench writes.
    pub fn all() -> (&'static [u8], &'static [u8]) {
        (PREFIX, b"/bench0")
    }
}

/// The finaliser of SplitMix64: every input bit moves every output bit.
fn mixed(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A consecutive part of the key numbers: what one client thread works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub first: u64,
    pub count: u64,
}

impl Span {
    /// Part `part` of `parts` of the numbers `0..total`; every part has one at least when there are enough.
    pub fn part(total: u64, part: usize, parts: usize) -> Span {
        assert!(part < parts, "part {part} of {parts}");
        let edge = |part: usize| (u128::from(total) * part as u128 / parts as u128) as u64;
        Span { first: edge(part), count: edge(part + 1) - edge(part) }
    }

    pub fn pick(&self, random: &mut Random) -> u64 {
        self.first + random.below(self.count)
    }
}

/// Every number of `0..count` once, in an order that looks random: how stores are filled.
#[derive(Clone, Debug)]
pub struct Shuffle {
    count: u64,
    bits: u32,
    key: u64,
    next: u64,
}

impl Shuffle {
    pub fn new(count: u64, seed: u64) -> Shuffle {
        let bits = (64 - count.saturating_sub(1).leading_zeros()).max(2);
        Shuffle { count, bits, key: mixed(seed), next: 0 }
    }
}

impl Iterator for Shuffle {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let mask = u64::MAX >> (64 - self.bits);
        while self.next <= mask {
            // Each step is a bijection of `bits`-bit numbers; numbers beyond the count are passed over.
            let mut x = self.next;
            self.next += 1;
            for round in 0..3 {
                x = x.wrapping_mul(0x9e37_79b9_7f4a_7c15 | 1).wrapping_add(self.key.rotate_left(round * 16))
                    & mask;
                x ^= x >> (self.bits / 2).max(1);
            }
            if x < self.count {
                return Some(x);
            }
        }
        None
    }
}

/// Random bytes that values are cut from.
#[derive(Clone)]
pub struct Values {
    pool: Arc<[u8]>,
    value_bytes: usize,
}

impl Values {
    pub fn new(value_bytes: usize, seed: u64) -> Values {
        assert!(value_bytes <= VALUE_BYTES_MAX, "a value is a window of the pool");
        let mut pool = vec![0; POOL_BYTES];
        Random::new(seed ^ 0x76616c).fill(&mut pool);
        Values { pool: pool.into(), value_bytes }
    }

    pub fn value(&self, random: &mut Random) -> &[u8] {
        let at = random.below((POOL_BYTES - self.value_bytes) as u64) as usize;
        &self.pool[at..at + self.value_bytes]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_by_number_have_one_length_and_tell_their_number() {
        for key_bytes in [KEY_BYTES_MIN, 20, 64, 100] {
            let keys = Keys { key_bytes, seed: 5 };
            let numbers = [0, 1, 15, 16, 255, 256, 1_000_000, (1 << 48) - 1];
            let all = numbers.map(|number| keys.key(number));
            assert!(all.windows(2).all(|pair| pair[0] < pair[1]));
            let (from, to) = Keys::all();
            for (number, key) in numbers.iter().zip(&all) {
                assert_eq!((key.len(), Keys::number(key)), (key_bytes, Some(*number)));
                assert!(&key[..] >= from && &key[..] < to);
            }
        }
        let (a, b) = (Keys { key_bytes: 64, seed: 1 }, Keys { key_bytes: 64, seed: 2 });
        assert_ne!(a.key(9), b.key(9), "the seed is in the filler");
        assert_ne!(a.key(9)[KEY_BYTES_MIN..], a.key(10)[KEY_BYTES_MIN..]);
        assert_eq!(Keys::number(b"/bench/zz"), None);
    }

    #[test]
    fn a_shuffle_is_a_permutation_and_not_the_identity() {
        for count in [1, 2, 3, 10, 1000, 4096, 4097] {
            let order: Vec<u64> = Shuffle::new(count, 11).collect();
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..count).collect::<Vec<_>>());
            if count >= 1000 {
                let ascents = order.windows(2).filter(|pair| pair[1] == pair[0] + 1).count();
                assert!(ascents < count as usize / 20, "{ascents} neighbours in order");
            }
        }
    }

    #[test]
    fn spans_cover_everything_once() {
        for (total, parts) in [(10, 3), (1, 1), (1_000_000, 7), (3, 5)] {
            let mut next = 0;
            for part in 0..parts {
                let span = Span::part(total, part, parts);
                assert_eq!(span.first, next);
                next += span.count;
            }
            assert_eq!(next, total);
        }
    }

    #[test]
    fn values_have_their_length_and_differ() {
        let values = Values::new(512, 1);
        let mut random = Random::new(2);
        let first = values.value(&mut random).to_vec();
        assert_eq!(first.len(), 512);
        assert_ne!(first, values.value(&mut random));
    }
}
