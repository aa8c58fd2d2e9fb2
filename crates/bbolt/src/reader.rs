//! Reads a database file: finds the newest sound meta, walks buckets in key order.
//!
//! Each page is validated when it is first met; a walk visits no more pages than the file has and goes no deeper
//! than [`DEPTH_MAX`], so that loops in a damaged file end in an error.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::Error;
use crate::format::{
    BUCKET_HEADER_BYTES, DEPTH_MAX, META_BYTES, Meta, PAGE_BYTES_MIN, PAGE_HEADER_BYTES, u32_at, u64_at,
};
use crate::page::{Kind, Page};

/// Where the file's bytes are: a slice (of a mapping, say) lends them, a file reads them page by page.
pub trait Source {
    /// Bytes that there are.
    fn size(&self) -> u64;
    /// Exactly `len` bytes from `offset`; never asked beyond [`Source::size`].
    fn read(&self, offset: u64, len: usize) -> io::Result<Cow<'_, [u8]>>;
}

impl Source for &[u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read(&self, offset: u64, len: usize) -> io::Result<Cow<'_, [u8]>> {
        let from = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let to = from.checked_add(len).ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(Cow::Borrowed(self.get(from..to).ok_or(io::ErrorKind::UnexpectedEof)?))
    }
}

/// A file, read as it is walked; holds one path of pages in memory.
#[derive(Debug)]
pub struct FileSource {
    file: File,
    size: u64,
}

impl FileSource {
    /// Takes the size the file has now; it must not shrink while it is read.
    pub fn new(file: File) -> io::Result<FileSource> {
        let size = file.metadata()?.len();
        Ok(FileSource { file, size })
    }
}

impl Source for FileSource {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, offset: u64, len: usize) -> io::Result<Cow<'_, [u8]>> {
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(Cow::Owned(bytes))
    }
}

/// An open database file.
#[derive(Debug)]
pub struct Database<S> {
    source: S,
    pub(crate) meta: Meta,
}

/// A bucket: the root of a tree of pairs, or a small page of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    pub(crate) root: u64,
    pub sequence: u64,
    pub(crate) inline: Option<Vec<u8>>,
}

/// What a bucket holds under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    Pair { key: &'a [u8], value: &'a [u8] },
    Bucket { name: &'a [u8], bucket: Bucket },
}

impl<S: Source> Database<S> {
    /// Finds the newest sound meta. What lies behind the pages in use (a checksum, say) is ignored.
    pub fn open(source: S) -> Result<Database<S>, Error> {
        let meta = newest_meta(&source)?;
        let want =
            meta.high_water.checked_mul(u64::from(meta.page_bytes)).ok_or(Error::Meta("too many pages"))?;
        if want > source.size() {
            return Err(Error::Truncated { want, have: source.size() });
        }
        Ok(Database { source, meta })
    }

    /// Bytes in use: the size of the file without anything appended to it.
    pub fn bytes(&self) -> u64 {
        self.meta.high_water * u64::from(self.meta.page_bytes)
    }

    /// Page size, bytes.
    pub fn page_bytes(&self) -> u32 {
        self.meta.page_bytes
    }

    /// The transaction that wrote this state.
    pub fn txid(&self) -> u64 {
        self.meta.txid
    }

    /// The bucket that holds all others.
    pub fn root(&self) -> Bucket {
        Bucket { root: self.meta.root, sequence: self.meta.sequence, inline: None }
    }

    /// The top-level bucket `name`.
    pub fn bucket(&self, name: &[u8]) -> Result<Option<Bucket>, Error> {
        let root = self.root();
        let mut cursor = self.cursor(&root)?;
        cursor.seek(name)?;
        match cursor.next()? {
            Some(Entry::Bucket { name: found, bucket }) if found == name => Ok(Some(bucket)),
            _ => Ok(None),
        }
    }

    /// All top-level buckets in order of their names.
    pub fn buckets(&self) -> Result<Vec<(Vec<u8>, Bucket)>, Error> {
        let root = self.root();
        let mut cursor = self.cursor(&root)?;
        let mut found = Vec::new();
        while let Some(entry) = cursor.next()? {
            match entry {
                Entry::Bucket { name, bucket } => found.push((name.to_vec(), bucket)),
                Entry::Pair { .. } => return Err(Error::corrupt(self.meta.root, "a pair among the buckets")),
            }
        }
        Ok(found)
    }

    /// The value of `key` in `bucket`.
    pub fn get(&self, bucket: &Bucket, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let mut cursor = self.cursor(bucket)?;
        cursor.seek(key)?;
        match cursor.next()? {
            Some(Entry::Pair { key: found, value }) if found == key => Ok(Some(value.to_vec())),
            _ => Ok(None),
        }
    }

    /// A walk over `bucket`, before its first entry.
    pub fn cursor<'d>(&'d self, bucket: &'d Bucket) -> Result<Cursor<'d, S>, Error> {
        let mut cursor = Cursor {
            database: self,
            bucket,
            stack: Vec::new(),
            visited: 0,
            passed: Vec::new(),
            ordered: false,
        };
        cursor.rewind()?;
        Ok(cursor)
    }

    pub(crate) fn page(&self, id: u64) -> Result<Page<'_>, Error> {
        if id < 2 || id >= self.meta.high_water {
            return Err(Error::corrupt(id, "outside of the pages in use"));
        }
        let page_bytes = u64::from(self.meta.page_bytes);
        let at = id * page_bytes;
        let overflow = u32_at(&self.source.read(at, PAGE_HEADER_BYTES)?, 12);
        let run = u64::from(overflow) + 1;
        if id + run > self.meta.high_water {
            return Err(Error::corrupt(id, "its run leaves the pages in use"));
        }
        let len = usize::try_from(run * page_bytes).map_err(|_| Error::corrupt(id, "its run is too long"))?;
        Page::parse(self.source.read(at, len)?, id, self.meta.high_water)
    }

    pub(crate) fn root_page<'d>(&'d self, bucket: &'d Bucket) -> Result<Page<'d>, Error> {
        let page = match &bucket.inline {
            Some(bytes) => {
                let page = Page::parse(Cow::Borrowed(bytes.as_slice()), 0, self.meta.high_water)?;
                if page.kind != Kind::Leaf || page.overflow != 0 {
                    return Err(Error::corrupt(0, "an inline bucket that is not one leaf"));
                }
                page
            }
            None => self.page(bucket.root)?,
        };
        if page.kind == Kind::Freelist {
            return Err(Error::corrupt(bucket.root, "a free list within a tree"));
        }
        Ok(page)
    }
}

fn newest_meta<S: Source>(source: &S) -> Result<Meta, Error> {
    let read = |at: u64| -> Result<Meta, Error> {
        let len = PAGE_HEADER_BYTES + META_BYTES;
        if at + len as u64 > source.size() {
            return Err(Error::NotADatabase);
        }
        Meta::decode(&source.read(at, len)?[PAGE_HEADER_BYTES..])
    };
    match read(0) {
        Ok(first) => {
            let second = read(u64::from(first.page_bytes)).ok();
            Ok(match second {
                Some(second) if second.txid > first.txid && second.page_bytes == first.page_bytes => second,
                _ => first,
            })
        }
        // Without the first meta the page size is unknown: the second is where it says itself that it is.
        Err(error) => {
            let mut reason = error;
            for shift in 0..7 {
                let at = (PAGE_BYTES_MIN as u64) << shift;
                match read(at) {
                    Ok(meta) if u64::from(meta.page_bytes) == at => return Ok(meta),
                    Err(error @ (Error::Io(_) | Error::Version(_) | Error::Meta(_)))
                        if matches!(reason, Error::NotADatabase) =>
                    {
                        reason = error;
                    }
                    _ => {}
                }
            }
            Err(reason)
        }
    }
}

/// The bucket that `value` of a leaf on page `page` describes.
pub(crate) fn parse_bucket(page: u64, value: &[u8]) -> Result<Bucket, Error> {
    if value.len() < BUCKET_HEADER_BYTES {
        return Err(Error::corrupt(page, "a bucket without a header"));
    }
    let (root, sequence) = (u64_at(value, 0), u64_at(value, 8));
    let inline = (root == 0).then(|| value[BUCKET_HEADER_BYTES..].to_vec());
    Ok(Bucket { root, sequence, inline })
}

/// A walk over one bucket, in key order.
pub struct Cursor<'d, S> {
    database: &'d Database<S>,
    bucket: &'d Bucket,
    /// From the root to a leaf: (page id, page, index of the next entry or of the child taken).
    stack: Vec<(u64, Page<'d>, usize)>,
    visited: u64,
    /// The last key of the leaf before, to hold the next leaf against.
    passed: Vec<u8>,
    ordered: bool,
}

impl<'d, S: Source> Cursor<'d, S> {
    fn rewind(&mut self) -> Result<(), Error> {
        self.stack.clear();
        self.visited = 0;
        self.ordered = false;
        let root = self.database.root_page(self.bucket)?;
        self.stack.push((self.bucket.root, root, 0));
        Ok(())
    }

    /// Moves to before the first entry whose key is >= `key`.
    pub fn seek(&mut self, key: &[u8]) -> Result<(), Error> {
        self.rewind()?;
        loop {
            let (_, page, index) = self.stack.last_mut().expect("the root is there");
            *index = page.lower_bound(key);
            if page.kind == Kind::Leaf {
                return Ok(());
            }
            // A branch key is the first key of its child at the time of the split: step back unless it is equal.
            if *index == page.count || (*index > 0 && page.key(*index) != key) {
                *index -= 1;
            }
            self.descend()?;
        }
    }

    /// Enters the child that the top of the stack points to.
    fn descend(&mut self) -> Result<(), Error> {
        let (id, page, index) = self.stack.last().expect("the root is there");
        let child = page.child(*index);
        if self.stack.len() >= DEPTH_MAX {
            return Err(Error::corrupt(*id, "deeper than any sound tree"));
        }
        self.visited += 1;
        if self.visited > self.database.meta.high_water {
            return Err(Error::corrupt(*id, "more pages in the tree than in the file"));
        }
        let below = self.database.page(child)?;
        if below.kind == Kind::Freelist {
            return Err(Error::corrupt(child, "a free list within a tree"));
        }
        self.stack.push((child, below, 0));
        Ok(())
    }

    /// The next entry, or `None` behind the last.
    #[allow(clippy::should_implement_trait)] // It lends.
    pub fn next(&mut self) -> Result<Option<Entry<'_>>, Error> {
        loop {
            let Some((id, page, index)) = self.stack.last_mut() else { return Ok(None) };
            if page.kind == Kind::Branch {
                if *index < page.count {
                    self.descend()?;
                } else {
                    self.ascend();
                }
                continue;
            }
            if *index == page.count {
                if page.count > 0 {
                    self.passed.clear();
                    self.passed.extend_from_slice(page.key(page.count - 1));
                    self.ordered = true;
                }
                self.ascend();
                continue;
            }
            if *index == 0 && self.ordered && page.key(0) <= self.passed.as_slice() {
                return Err(Error::corrupt(*id, "keys out of order between pages"));
            }
            *index += 1;
            break;
        }
        let (id, page, index) = self.stack.last().expect("the loop ended at a leaf");
        let at = index - 1;
        if page.is_bucket(at) {
            let bucket = parse_bucket(*id, page.value(at))?;
            return Ok(Some(Entry::Bucket { name: page.key(at), bucket }));
        }
        Ok(Some(Entry::Pair { key: page.key(at), value: page.value(at) }))
    }

    fn ascend(&mut self) {
        self.stack.pop();
        if let Some((_, _, index)) = self.stack.last_mut() {
            *index += 1;
        }
    }
}
