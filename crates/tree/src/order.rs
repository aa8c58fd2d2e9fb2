//! How the keys of a tree compare, and the shortest key that tells two neighbours apart.
//!
//! Every order is "(primary, suffix) as a tuple" with a suffix of fixed length; plain byte order is the suffix of
//! length 0. So there is one comparison, and a four-byte head of the primary part is a valid first comparison in
//! every order.

use std::cmp::Ordering;

/// The order of one tree's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyOrder {
    /// As byte strings.
    Bytes,
    /// The last `n` bytes are a suffix: keys compare as the tuple (all before it, suffix). So the versions of one
    /// user key stay together whatever bytes another user key goes on with.
    Suffixed(usize),
}

/// One named tree of a store. Its position in the slice given at open is its [`crate::TreeId`].
#[derive(Clone, Copy, Debug)]
pub struct TreeSpec {
    /// At most [`crate::meta::NAME_BYTES`] bytes; stands in the file, so that a tree is never read as another.
    pub name: &'static str,
    pub order: KeyOrder,
}

/// A key order as the length of its suffix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    pub suffix: usize,
}

impl From<KeyOrder> for Order {
    fn from(order: KeyOrder) -> Order {
        match order {
            KeyOrder::Bytes => Order { suffix: 0 },
            KeyOrder::Suffixed(suffix) => Order { suffix },
        }
    }
}

impl Order {
    /// The part that compares first. A key shorter than the suffix is all suffix.
    #[inline]
    pub fn primary(self, key: &[u8]) -> &[u8] {
        &key[..key.len().saturating_sub(self.suffix)]
    }

    #[inline]
    pub fn compare(self, a: &[u8], b: &[u8]) -> Ordering {
        if self.suffix == 0 {
            return a.cmp(b);
        }
        let (a_primary, a_suffix) = a.split_at(a.len().saturating_sub(self.suffix));
        let (b_primary, b_suffix) = b.split_at(b.len().saturating_sub(self.suffix));
        a_primary.cmp(b_primary).then_with(|| a_suffix.cmp(b_suffix))
    }

    /// The shortest `s` of this order with `left < s <= right`: what a branch needs to send both ways.
    pub fn separator(self, left: &[u8], right: &[u8]) -> Vec<u8> {
        assert!(self.compare(left, right) == Ordering::Less, "a separator stands between ordered keys");
        let (l, r) = (self.primary(left), self.primary(right));
        if l == r {
            return right.to_vec();
        }
        // One byte past what both share: it exists in `r`, as r is greater and so no prefix of l.
        let mut separator = r[..shared(l, r) + 1].to_vec();
        separator.resize(separator.len() + self.suffix, 0);
        separator
    }
}

/// Length of the common start of two strings.
#[inline]
pub(crate) fn shared(a: &[u8], b: &[u8]) -> usize {
    let n = a.len().min(b.len());
    let words = n / 8 * 8;
    let mut i = 0;
    while i < words {
        let x = u64::from_le_bytes(a[i..i + 8].try_into().expect("eight bytes"));
        let y = u64::from_le_bytes(b[i..i + 8].try_into().expect("eight bytes"));
        if x != y {
            return i + ((x ^ y).trailing_zeros() / 8) as usize;
        }
        i += 8;
    }
    while i < n && a[i] == b[i] {
        i += 1;
    }
    i
}

/// Four bytes of `primary` behind `prefix`, big-endian, padded with zeros. For keys that share `prefix` bytes,
/// different heads order as the keys do; equal heads say nothing.
#[inline]
pub(crate) fn head_of(primary: &[u8], prefix: usize) -> u32 {
    let rest = primary.get(prefix..).unwrap_or(&[]);
    match rest.first_chunk::<4>() {
        Some(four) => u32::from_be_bytes(*four),
        None => {
            let mut four = [0; 4];
            four[..rest.len()].copy_from_slice(rest);
            u32::from_be_bytes(four)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Random;

    fn key(random: &mut Random) -> Vec<u8> {
        let len = random.below(7) as usize;
        (0..len).map(|_| random.below(3) as u8).collect()
    }

    #[test]
    fn separators_separate_and_heads_agree_with_the_order() {
        let mut random = Random::new(1);
        for suffix in [0, 2] {
            let order = Order { suffix };
            for _ in 0..20_000 {
                let (mut a, mut b) = (key(&mut random), key(&mut random));
                a.resize(a.len() + suffix, random.below(3) as u8);
                b.resize(b.len() + suffix, random.below(3) as u8);
                let prefix = shared(order.primary(&a), order.primary(&b)).min(random.below(4) as usize);
                let heads = head_of(order.primary(&a), prefix).cmp(&head_of(order.primary(&b), prefix));
                if heads != Ordering::Equal {
                    assert_eq!(heads, order.compare(&a, &b), "{a:?} {b:?} {prefix}");
                }
                if order.compare(&a, &b) == Ordering::Less {
                    let s = order.separator(&a, &b);
                    assert_eq!(order.compare(&a, &s), Ordering::Less, "{a:?} {s:?}");
                    assert_ne!(order.compare(&s, &b), Ordering::Greater, "{s:?} {b:?}");
                    assert!(s.len() <= b.len());
                }
            }
        }
    }

    #[test]
    fn a_suffixed_order_keeps_the_versions_of_a_key_together() {
        let order = Order { suffix: 1 };
        // Joined bytes would put "a\x01" + 0 between "a" + 0 and "a" + 2.
        assert_eq!(order.compare(b"a\x02", b"a\x01\x00"), Ordering::Less);
    }

    #[test]
    fn shared_starts_are_counted_past_words() {
        for n in 0..40 {
            let a = vec![7; 40];
            let mut b = a.clone();
            b[n] = 8;
            assert_eq!(shared(&a, &b), n);
        }
        assert_eq!(shared(b"abc", b"abcd"), 3);
    }
}
