//! Sets of page numbers: a plain bitmap, and a bitmap with summaries that finds its lowest member in a few steps.
//!
//! Both grow by themselves on insertion. Neither knows what a page is.

/// A set of page numbers, one bit each, with its size.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bits {
    words: Vec<u64>,
    count: u64,
}

impl Bits {
    pub fn from_words(words: Vec<u64>) -> Bits {
        let count = words.iter().map(|w| u64::from(w.count_ones())).sum();
        Bits { words, count }
    }

    pub fn words(&self) -> &[u64] {
        &self.words
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    #[inline]
    pub fn contains(&self, no: u32) -> bool {
        self.words.get(no as usize / 64).is_some_and(|word| word >> (no % 64) & 1 == 1)
    }

    /// True when `no` was absent.
    #[inline]
    pub fn insert(&mut self, no: u32) -> bool {
        let word = no as usize / 64;
        if word >= self.words.len() {
            self.words.resize((word + 1).next_power_of_two(), 0);
        }
        let bit = 1u64 << (no % 64);
        let new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.count += u64::from(new);
        new
    }

    /// True when `no` was present.
    #[inline]
    pub fn remove(&mut self, no: u32) -> bool {
        let Some(word) = self.words.get_mut(no as usize / 64) else { return false };
        let bit = 1u64 << (no % 64);
        let old = *word & bit != 0;
        *word &= !bit;
        self.count -= u64::from(old);
        old
    }

    /// How many of these are members here and in `other`, when there is one.
    pub fn count_in(&self, range: std::ops::Range<u32>, other: Option<&Bits>) -> u32 {
        let word = |bits: &Bits, at: usize| bits.words.get(at).copied().unwrap_or(0);
        let (mut from, mut count) = (range.start, 0);
        while from < range.end {
            let at = from as usize / 64;
            let next = (from / 64 + 1).saturating_mul(64).min(range.end);
            let here = u64::MAX << (from % 64) & u64::MAX >> (64 - (next - at as u32 * 64));
            count += (word(self, at) & other.map_or(u64::MAX, |other| word(other, at)) & here).count_ones();
            from = next;
        }
        count
    }

    /// The lowest member at or above `from`.
    pub fn next_from(&self, from: u32) -> Option<u32> {
        let mut word = from as usize / 64;
        let mut bits = self.words.get(word)? & (u64::MAX << (from % 64));
        loop {
            if bits != 0 {
                return Some((word * 64) as u32 + bits.trailing_zeros());
            }
            word += 1;
            bits = *self.words.get(word)?;
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let mut from = Some(0);
        std::iter::from_fn(move || {
            let found = self.next_from(from?)?;
            from = found.checked_add(1);
            Some(found)
        })
    }
}

/// A set of free pages. Level 0 is the bitmap; a bit of level k + 1 says that a word of level k is not zero; the top
/// level is one word.
#[derive(Clone, Debug)]
pub(crate) struct FreeSet {
    levels: Vec<Vec<u64>>,
    count: u64,
    /// Where the last search for a run stopped, so that searches share the work of passing small holes.
    run_cursor: u32,
}

impl Default for FreeSet {
    fn default() -> FreeSet {
        FreeSet { levels: vec![vec![0]], count: 0, run_cursor: 0 }
    }
}

/// Holes that one search for a run may pass before it gives up and the caller takes fresh pages instead.
const RUN_SEARCH_HOLES: usize = 256;

impl FreeSet {
    pub fn count(&self) -> u64 {
        self.count
    }

    fn grow(&mut self, words: usize) {
        let mut need = words.next_power_of_two();
        for level in 0.. {
            if level == self.levels.len() {
                // A new top: its one word summarises the level below.
                let below = &self.levels[level - 1];
                let mut top = vec![0u64; need];
                for (i, _) in below.iter().enumerate().filter(|(_, word)| **word != 0) {
                    top[i / 64] |= 1 << (i % 64);
                }
                self.levels.push(top);
            } else if self.levels[level].len() < need {
                self.levels[level].resize(need, 0);
            }
            if self.levels[level].len() == 1 {
                break;
            }
            need = self.levels[level].len().div_ceil(64).next_power_of_two();
        }
    }

    pub fn contains(&self, no: u32) -> bool {
        self.levels[0].get(no as usize / 64).is_some_and(|word| word >> (no % 64) & 1 == 1)
    }

    /// `no` must be absent: a page is freed once.
    pub fn insert(&mut self, no: u32) {
        let mut at = no as usize;
        if at / 64 >= self.levels[0].len() {
            self.grow(at / 64 + 1);
        }
        assert!(!self.contains(no), "page {no} is freed twice");
        for level in &mut self.levels {
            let word = &mut level[at / 64];
            let was = *word;
            *word |= 1 << (at % 64);
            if was != 0 {
                break;
            }
            at /= 64;
        }
        self.count += 1;
    }

    /// `no` must be present.
    pub fn remove(&mut self, no: u32) {
        assert!(self.contains(no), "page {no} is not free");
        let mut at = no as usize;
        for level in &mut self.levels {
            let word = &mut level[at / 64];
            *word &= !(1 << (at % 64));
            if *word != 0 {
                break;
            }
            at /= 64;
        }
        self.count -= 1;
    }

    /// The lowest member at or above `from`.
    pub fn next_from(&self, from: u32) -> Option<u32> {
        let mut at = from as usize;
        let mut level = 0;
        // Up until a word has a member at or behind the position, then down to the lowest of it.
        loop {
            let words = self.levels.get(level)?;
            let bits = match words.get(at / 64) {
                Some(word) => word & (u64::MAX << (at % 64)),
                None => 0,
            };
            if bits != 0 {
                at = at / 64 * 64 + bits.trailing_zeros() as usize;
                break;
            }
            at = at / 64 + 1;
            level += 1;
        }
        while level > 0 {
            level -= 1;
            let bits = self.levels[level][at];
            assert!(bits != 0, "a summary bit stands for a word with members");
            at = at * 64 + bits.trailing_zeros() as usize;
        }
        Some(at as u32)
    }

    /// The highest member.
    pub fn last(&self) -> Option<u32> {
        let mut at = 0;
        for level in self.levels.iter().rev() {
            let bits = level[at];
            if bits == 0 {
                return None;
            }
            at = at * 64 + 63 - bits.leading_zeros() as usize;
        }
        Some(at as u32)
    }

    /// How many members follow one another from `no` on, counted up to `limit`.
    fn length_at(&self, no: u32, limit: u32) -> u32 {
        let mut length = 0;
        while length < limit {
            let at = (no + length) as usize;
            let Some(word) = self.levels[0].get(at / 64) else { break };
            let here = (!(word >> (at % 64))).trailing_zeros().min(64 - (at % 64) as u32);
            length += here;
            if here < 64 - (at % 64) as u32 {
                break;
            }
        }
        length.min(limit)
    }

    /// A run of `pages` members that does not cross a multiple of `chunk`. Looks at a bounded number of holes,
    /// going on where the last search stopped; `thorough` looks at all.
    pub fn find_run(&mut self, pages: u32, chunk: u32, thorough: bool) -> Option<u32> {
        assert!(pages > 0 && pages <= chunk, "a run of {pages} pages does not fit a chunk of {chunk}");
        if self.count < u64::from(pages) {
            return None;
        }
        let start = if thorough { 0 } else { self.run_cursor };
        let mut holes = if thorough { usize::MAX } else { RUN_SEARCH_HOLES };
        let (mut from, mut wrapped) = (start, start == 0);
        while holes > 0 {
            holes -= 1;
            let Some(hole) = self.next_from(from) else {
                if wrapped {
                    break;
                }
                (from, wrapped) = (0, true);
                continue;
            };
            let room = chunk - hole % chunk;
            let length = self.length_at(hole, room.min(pages));
            if length >= pages {
                self.run_cursor = hole;
                return Some(hole);
            }
            from = hole + length.max(1);
        }
        self.run_cursor = if holes == 0 { from } else { 0 };
        None
    }

    /// As [`FreeSet::find_run`], in the shortest hole: the others keep their length. Looks at all of them, but for a single
    /// page, which fits any, at a bounded number.
    pub fn find_tight(&self, pages: u32, chunk: u32) -> Option<u32> {
        assert!(pages > 0 && pages <= chunk, "a run of {pages} pages does not fit a chunk of {chunk}");
        let mut holes = if pages == 1 { RUN_SEARCH_HOLES } else { usize::MAX };
        let (mut from, mut best) = (0, None);
        while holes > 0
            && let Some(hole) = self.next_from(from)
        {
            holes -= 1;
            let length = self.length_at(hole, chunk - hole % chunk);
            if length >= pages && best.is_none_or(|(shortest, _)| length < shortest) {
                best = Some((length, hole));
                if length == pages {
                    break;
                }
            }
            from = hole + length;
        }
        best.map(|(_, hole)| hole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Random;
    use std::collections::BTreeSet;

    #[test]
    fn a_free_set_is_a_set() {
        let mut random = Random::new(3);
        let mut model = BTreeSet::new();
        let mut set = FreeSet::default();
        let mut bits = Bits::default();
        for round in 0..30_000u64 {
            let no = random.below(1 + round * 10) as u32;
            if model.remove(&no) {
                set.remove(no);
                assert!(bits.remove(no));
            } else {
                model.insert(no);
                set.insert(no);
                assert!(bits.insert(no));
            }
            let from = random.below(1 + round * 10) as u32;
            let next = model.range(from..).next().copied();
            assert_eq!(set.next_from(from), next);
            assert_eq!(bits.next_from(from), next);
            assert_eq!(set.last(), model.last().copied());
            assert_eq!(set.count(), model.len() as u64);
            assert_eq!(bits.count(), model.len() as u64);
        }
        assert!(bits.iter().eq(model.iter().copied()));
        let even = Bits::from_words(vec![0x5555_5555_5555_5555; 3000]);
        for _ in 0..2000 {
            let from = random.below(300_000) as u32;
            let range = from..from + random.below(200) as u32;
            let members: Vec<u32> = model.range(range.clone()).copied().collect();
            assert_eq!(bits.count_in(range.clone(), None), members.len() as u32);
            let both = members.iter().filter(|no| **no % 2 == 0 && **no < 3000 * 64).count();
            assert_eq!(bits.count_in(range, Some(&even)), both as u32);
        }
    }

    #[test]
    fn the_search_for_a_single_page_is_bounded_and_no_other() {
        let mut set = FreeSet::default();
        let pairs = RUN_SEARCH_HOLES as u32;
        (0..pairs).for_each(|pair| (4 * pair..4 * pair + 2).for_each(|no| set.insert(no)));
        let behind = 4 * pairs;
        set.insert(behind);
        (behind + 2..behind + 5).for_each(|no| set.insert(no));
        assert_eq!(set.find_tight(1, 1 << 14), Some(0), "of the holes that it looks at, one of the shortest");
        assert_eq!(set.find_tight(3, 1 << 14), Some(behind + 2));
    }

    #[test]
    fn a_tight_run_lies_in_the_shortest_hole_that_has_it() {
        let mut random = Random::new(5);
        for _ in 0..300 {
            let mut set = FreeSet::default();
            let members: BTreeSet<u32> = (0..200).map(|_| random.below(400) as u32).collect();
            members.iter().for_each(|no| set.insert(*no));
            // By hole within a chunk: its length, and where it begins.
            let mut holes: Vec<(u32, u32)> = Vec::new();
            for no in &members {
                match holes.last_mut() {
                    Some((length, first)) if *first + *length == *no && no % 32 != 0 => *length += 1,
                    _ => holes.push((1, *no)),
                }
            }
            for pages in 1..=32 {
                let tightest = holes.iter().filter(|(length, _)| *length >= pages).min();
                assert_eq!(set.find_tight(pages, 32), tightest.map(|(_, first)| *first), "{pages}");
            }
        }
    }

    #[test]
    fn runs_are_whole_free_and_inside_a_chunk() {
        let mut random = Random::new(4);
        let mut set = FreeSet::default();
        let mut model = BTreeSet::new();
        for _ in 0..3000 {
            let no = random.below(4096) as u32;
            if model.insert(no) {
                set.insert(no);
            }
        }
        let has = |model: &BTreeSet<u32>, at: u32, n: u32| {
            at / 32 == (at + n - 1) / 32 && (at..at + n).all(|no| model.contains(&no))
        };
        for n in (1..=32).rev() {
            while let Some(at) = set.find_run(n, 32, true) {
                assert!(has(&model, at, n), "{at} {n}");
                (at..at + n).for_each(|no| {
                    set.remove(no);
                    assert!(model.remove(&no));
                });
            }
            assert!(!(0..4096).any(|at| has(&model, at, n)), "a thorough search misses nothing");
        }
        assert_eq!(set.count(), 0);
        assert_eq!((set.find_run(1, 32, false), set.find_tight(1, 32)), (None, None));
    }

    #[test]
    #[should_panic(expected = "freed twice")]
    fn a_page_is_freed_once() {
        let mut set = FreeSet::default();
        set.insert(5);
        set.insert(5);
    }
}
