//! The check of a whole file: every page reachable once or free, every key in the range its parents promise.

use crate::Error;
use crate::format::{DEPTH_MAX, NESTING_MAX, NO_FREELIST};
use crate::page::{Kind, Page};
use crate::reader::{Bucket, Database, Source, parse_bucket};

/// What a sound file holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Pages in use and free, the metas and the free list included.
    pub pages: u64,
    /// Pages on the free list, or unreachable when no list was written.
    pub free_pages: u64,
    pub buckets: u64,
    pub inline_buckets: u64,
    pub pairs: u64,
    /// Levels of the deepest tree; a lone leaf is 1.
    pub depth: usize,
}

/// One bit a page.
struct Seen(Vec<u64>);

impl Seen {
    fn mark(&mut self, page: u64) -> bool {
        let (word, bit) = ((page / 64) as usize, 1 << (page % 64));
        let fresh = self.0[word] & bit == 0;
        self.0[word] |= bit;
        fresh
    }

    fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }
}

impl<S: Source> Database<S> {
    /// Walks everything. Memory: two bits a page.
    pub fn check(&self) -> Result<Report, Error> {
        let words = self.meta.high_water.div_ceil(64) as usize;
        let mut walk = Walk { database: self, reachable: Seen(vec![0; words]), report: Report::default() };
        walk.reachable.mark(0);
        walk.reachable.mark(1);
        let mut free = Seen(vec![0; words]);
        if self.meta.freelist != NO_FREELIST {
            let list = self.page(self.meta.freelist)?;
            if list.kind != Kind::Freelist {
                return Err(Error::corrupt(self.meta.freelist, "not a free list"));
            }
            walk.claim(self.meta.freelist, &list)?;
            for page in list.free_pages() {
                if page < 2 || page >= self.meta.high_water {
                    return Err(Error::corrupt(page, "free, and outside of the pages in use"));
                }
                if !free.mark(page) {
                    return Err(Error::corrupt(page, "free twice"));
                }
            }
        }
        walk.bucket(&self.root(), 0)?;
        // The root holds the others and is none of them.
        walk.report.buckets -= 1;
        let Walk { reachable, mut report, .. } = walk;
        report.pages = self.meta.high_water;
        if let Some(word) = reachable.0.iter().zip(&free.0).position(|(used, free)| used & free != 0) {
            let both = reachable.0[word] & free.0[word];
            return Err(Error::corrupt(
                word as u64 * 64 + u64::from(both.trailing_zeros()),
                "free and in use",
            ));
        }
        report.free_pages = if self.meta.freelist == NO_FREELIST {
            report.pages - reachable.count()
        } else {
            let accounted = reachable.count() + free.count();
            if accounted != report.pages {
                return Err(Error::corrupt(self.meta.freelist, "pages that are neither in use nor free"));
            }
            free.count()
        };
        Ok(report)
    }
}

struct Walk<'d, S> {
    database: &'d Database<S>,
    reachable: Seen,
    report: Report,
}

impl<S: Source> Walk<'_, S> {
    fn claim(&mut self, id: u64, page: &Page<'_>) -> Result<(), Error> {
        for page in id..=id + u64::from(page.overflow) {
            if !self.reachable.mark(page) {
                return Err(Error::corrupt(page, "referenced twice"));
            }
        }
        Ok(())
    }

    fn bucket(&mut self, bucket: &Bucket, nesting: usize) -> Result<(), Error> {
        if nesting > NESTING_MAX {
            return Err(Error::corrupt(bucket.root, "buckets nested too deep"));
        }
        self.report.buckets += 1;
        let page = self.database.root_page(bucket)?;
        if bucket.inline.is_some() {
            self.report.inline_buckets += 1;
            if (0..page.count).any(|index| page.is_bucket(index)) {
                return Err(Error::corrupt(0, "a bucket within an inline bucket"));
            }
        }
        self.node(bucket.root, page, bucket.inline.is_some(), 1, nesting, None, None)
    }

    #[allow(clippy::too_many_arguments)] // One walk, and each of these is the state of one level of it.
    fn node(
        &mut self,
        id: u64,
        page: Page<'_>,
        inline: bool,
        depth: usize,
        nesting: usize,
        low: Option<&[u8]>,
        high: Option<&[u8]>,
    ) -> Result<(), Error> {
        if depth > DEPTH_MAX {
            return Err(Error::corrupt(id, "deeper than any sound tree"));
        }
        if !inline {
            self.claim(id, &page)?;
        }
        if page.count > 0 {
            if low.is_some_and(|low| page.key(0) < low) {
                return Err(Error::corrupt(id, "a key below what the parent promises"));
            }
            if high.is_some_and(|high| page.key(page.count - 1) >= high) {
                return Err(Error::corrupt(id, "a key above what the parent promises"));
            }
        }
        self.report.depth = self.report.depth.max(depth);
        match page.kind {
            Kind::Freelist => Err(Error::corrupt(id, "a free list within a tree")),
            Kind::Branch => {
                for index in 0..page.count {
                    let high = if index + 1 < page.count { Some(page.key(index + 1)) } else { high };
                    let child = page.child(index);
                    let below = self.database.page(child)?;
                    self.node(child, below, false, depth + 1, nesting, Some(page.key(index)), high)?;
                }
                Ok(())
            }
            Kind::Leaf => {
                for index in 0..page.count {
                    if page.is_bucket(index) {
                        let bucket = parse_bucket(id, page.value(index))?;
                        self.bucket(&bucket, nesting + 1)?;
                    } else {
                        self.report.pairs += 1;
                    }
                }
                Ok(())
            }
        }
    }
}
