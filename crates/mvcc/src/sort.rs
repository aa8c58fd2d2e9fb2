//! Sorting as `sort.Sort` of Go does it, down to the order of equal elements.
//!
//! etcd 3.7.1 sorts answers with `sort.Sort` and, descending, with `sort.Sort(sort.Reverse(..))`: not stable, a
//! pattern-defeating quicksort above 12 elements whose "random" swaps are seeded by the length. Clients that page
//! by, say, version see which of the equal pairs come first, so the permutation is part of the answer. This follows
//! the algorithm as Go 1.19 to 1.26 has it (package `sort`, the variant for interfaces), step by step.

/// At most this many elements are sorted by insertion.
const INSERTION_MAX: usize = 12;
/// From here on the pivot is a median of medians, and out-of-order pairs are shifted.
const LONG: usize = 50;
/// Out-of-order pairs that a nearly sorted slice may have.
const SHIFTS_MAX: usize = 5;
/// Swaps of a median of medians over descending elements.
const SWAPS_MAX: usize = 12;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Hint {
    Unknown,
    Increasing,
    Decreasing,
}

/// Sorts `data`; `less` must be a strict weak order.
pub fn sort<T>(data: &mut [T], less: impl Fn(&T, &T) -> bool) {
    let len = data.len();
    if len > 1 {
        let limit = usize::BITS - len.leading_zeros();
        Sorter { data, less }.quick(0, len, limit);
    }
}

struct Sorter<'d, T, L> {
    data: &'d mut [T],
    less: L,
}

impl<T, L: Fn(&T, &T) -> bool> Sorter<'_, T, L> {
    #[inline]
    fn less(&self, i: usize, j: usize) -> bool {
        (self.less)(&self.data[i], &self.data[j])
    }

    /// Sorts `a..b`; `bad` unbalanced partitions are left before it turns to a heap sort.
    fn quick(&mut self, mut a: usize, mut b: usize, mut bad: u32) {
        let (mut balanced, mut partitioned) = (true, true);
        loop {
            let len = b - a;
            if len <= INSERTION_MAX {
                return self.insertion(a, b);
            }
            if bad == 0 {
                return self.heap(a, b);
            }
            if !balanced {
                self.scatter(a, b);
                bad -= 1;
            }
            let (mut pivot, mut hint) = self.choose_pivot(a, b);
            if hint == Hint::Decreasing {
                self.data[a..b].reverse();
                pivot = (b - 1) - (pivot - a);
                hint = Hint::Increasing;
            }
            if balanced && partitioned && hint == Hint::Increasing && self.nearly_sorted(a, b) {
                return;
            }
            // The element before is not below the pivot: the pivot is the smallest, so take all its equals at once.
            if a > 0 && !self.less(a - 1, pivot) {
                a = self.partition_equal(a, b, pivot);
                continue;
            }
            let (mid, already) = self.partition(a, b, pivot);
            partitioned = already;
            let (left, right) = (mid - a, b - mid);
            let threshold = len / 8;
            if left < right {
                balanced = left >= threshold;
                self.quick(a, mid, bad);
                a = mid + 1;
            } else {
                balanced = right >= threshold;
                self.quick(mid + 1, b, bad);
                b = mid;
            }
        }
    }

    fn insertion(&mut self, a: usize, b: usize) {
        for i in a + 1..b {
            let mut j = i;
            while j > a && self.less(j, j - 1) {
                self.data.swap(j, j - 1);
                j -= 1;
            }
        }
    }

    fn sift_down(&mut self, mut root: usize, end: usize, first: usize) {
        loop {
            let mut child = 2 * root + 1;
            if child >= end {
                return;
            }
            if child + 1 < end && self.less(first + child, first + child + 1) {
                child += 1;
            }
            if !self.less(first + root, first + child) {
                return;
            }
            self.data.swap(first + root, first + child);
            root = child;
        }
    }

    fn heap(&mut self, a: usize, b: usize) {
        let len = b - a;
        for root in (0..=(len - 1) / 2).rev() {
            self.sift_down(root, len, a);
        }
        for end in (0..len).rev() {
            self.data.swap(a, a + end);
            self.sift_down(0, end, a);
        }
    }

    /// Moves what is below the pivot to the front; where the pivot ends, and whether nothing had to move.
    fn partition(&mut self, a: usize, b: usize, pivot: usize) -> (usize, bool) {
        self.data.swap(a, pivot);
        let (mut i, mut j) = (a + 1, b - 1);
        let mut already = true;
        loop {
            while i <= j && self.less(i, a) {
                i += 1;
            }
            while i <= j && !self.less(j, a) {
                j -= 1;
            }
            if i > j {
                self.data.swap(j, a);
                return (j, already);
            }
            self.data.swap(i, j);
            already = false;
            i += 1;
            j -= 1;
        }
    }

    /// Moves what equals the pivot, the smallest of all, to the front; where that ends.
    fn partition_equal(&mut self, a: usize, b: usize, pivot: usize) -> usize {
        self.data.swap(a, pivot);
        let (mut i, mut j) = (a + 1, b - 1);
        loop {
            while i <= j && !self.less(a, i) {
                i += 1;
            }
            while i <= j && self.less(a, j) {
                j -= 1;
            }
            if i > j {
                return i;
            }
            self.data.swap(i, j);
            i += 1;
            j -= 1;
        }
    }

    /// Mends a few out-of-order pairs; true when the slice is sorted then.
    fn nearly_sorted(&mut self, a: usize, b: usize) -> bool {
        let mut i = a + 1;
        for _ in 0..SHIFTS_MAX {
            while i < b && !self.less(i, i - 1) {
                i += 1;
            }
            if i == b {
                return true;
            }
            if b - a < LONG {
                return false;
            }
            self.data.swap(i, i - 1);
            if i - a >= 2 {
                // Down to 1, not to a + 1: so does Go, and what stands before `a` is never greater.
                for j in (1..i).rev() {
                    if !self.less(j, j - 1) {
                        break;
                    }
                    self.data.swap(j, j - 1);
                }
            }
            if b - i >= 2 {
                for j in i + 1..b {
                    if !self.less(j, j - 1) {
                        break;
                    }
                    self.data.swap(j, j - 1);
                }
            }
        }
        false
    }

    /// Swaps three elements in the middle with ones that the length alone decides.
    fn scatter(&mut self, a: usize, b: usize) {
        let len = b - a;
        if len < 8 {
            return;
        }
        let mut random = len as u64;
        let mask = (1u64 << (usize::BITS - len.leading_zeros())) - 1;
        let middle = a + (len / 4) * 2;
        for at in middle - 1..=middle + 1 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let mut other = (random & mask) as usize;
            if other >= len {
                other -= len;
            }
            self.data.swap(at, a + other);
        }
    }

    fn choose_pivot(&self, a: usize, b: usize) -> (usize, Hint) {
        let len = b - a;
        let mut swaps = 0;
        let (mut i, mut j, mut k) = (a + len / 4, a + len / 4 * 2, a + len / 4 * 3);
        if len >= 8 {
            if len >= LONG {
                i = self.median(i - 1, i, i + 1, &mut swaps);
                j = self.median(j - 1, j, j + 1, &mut swaps);
                k = self.median(k - 1, k, k + 1, &mut swaps);
            }
            j = self.median(i, j, k, &mut swaps);
        }
        let hint = match swaps {
            0 => Hint::Increasing,
            SWAPS_MAX => Hint::Decreasing,
            _ => Hint::Unknown,
        };
        (j, hint)
    }

    fn order(&self, a: usize, b: usize, swaps: &mut usize) -> (usize, usize) {
        if self.less(b, a) {
            *swaps += 1;
            return (b, a);
        }
        (a, b)
    }

    fn median(&self, a: usize, b: usize, c: usize, swaps: &mut usize) -> usize {
        let (a, b) = self.order(a, b, swaps);
        let (b, _) = self.order(b, c, swaps);
        self.order(a, b, swaps).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::{Random, crc32c};

    /// Inputs by shape: (value, position), so that equal values can be told apart.
    fn shaped(shape: u64, len: usize, seed: u64) -> Vec<(u64, u32)> {
        let mut state = seed;
        let mut next = move || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            state >> 33
        };
        let at = |i: usize| i as u64;
        (0..len)
            .map(|i| {
                let value = match shape {
                    0 => next() % 3,
                    1 => next() % 1000,
                    2 => at(i) / 7,
                    3 => (at(len) - at(i)) / 5,
                    4 => 1,
                    5 => at(i) % 4,
                    6 => at(i).min(at(len) - at(i)) / 2,
                    _ => at(i) + if next().is_multiple_of(29) { 40 } else { 0 },
                };
                (value, i as u32)
            })
            .collect()
    }

    fn digest(data: &[(u64, u32)]) -> u32 {
        let bytes: Vec<u8> = data.iter().flat_map(|(_, position)| position.to_le_bytes()).collect();
        crc32c(&bytes)
    }

    /// Positions after sorting, digested, as Go 1.26.8's sort.Sort gives them for the same inputs:
    /// (shape, length, ascending, descending).
    const GO: &[(u64, usize, u32, u32)] = include!("../tests/data/go_sort.in");

    #[test]
    fn equal_elements_end_where_go_puts_them() {
        for &(shape, len, up, down) in GO {
            let input = shaped(shape, len, 17 + len as u64);
            let mut data = input.clone();
            sort(&mut data, |a, b| a.0 < b.0);
            assert!(data.is_sorted_by_key(|pair| pair.0));
            assert_eq!(digest(&data), up, "shape {shape}, length {len}, ascending");
            let mut data = input;
            sort(&mut data, |a, b| b.0 < a.0);
            assert_eq!(digest(&data), down, "shape {shape}, length {len}, descending");
        }
    }

    #[test]
    fn everything_comes_out_sorted_and_complete() {
        let mut random = Random::new(5);
        for _ in 0..500 {
            let len = random.below(300) as usize;
            let kinds = 1 + random.below(40);
            let mut data: Vec<(u64, u32)> = (0..len).map(|i| (random.below(kinds), i as u32)).collect();
            let mut positions: Vec<u32> = (0..len as u32).collect();
            sort(&mut data, |a, b| a.0 < b.0);
            assert!(data.is_sorted_by_key(|pair| pair.0));
            let mut found: Vec<u32> = data.iter().map(|pair| pair.1).collect();
            found.sort_unstable();
            positions.sort_unstable();
            assert_eq!(found, positions);
        }
    }
}
