//! Writes a database file as a stream: buckets one after the other, each with its pairs in order.

use std::io::{Seek, SeekFrom, Write};

use crate::Error;
use crate::format::{
    BUCKET_HEADER_BYTES, FLAG_BUCKET, KEY_BYTES_MAX, KIND_FREELIST, Meta, PAGE_BYTES, VALUE_BYTES_MAX,
};
use crate::tree::{Builder, INLINE_BYTES_MAX, Pages, Root};

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Size of the file, bytes: `pages` times [`PAGE_BYTES`].
    pub bytes: u64,
    pub pages: u64,
    pub buckets: u64,
    pub pairs: u64,
}

struct Open {
    name: Vec<u8>,
    sequence: u64,
    last_key: Vec<u8>,
    builder: Builder,
}

/// A database file under construction. It is worthless until [`Writer::finish`] returned: the meta pages come last.
///
/// The sink gets one write a page; put a `BufWriter` around a file.
pub struct Writer<W: Write + Seek> {
    pages: Pages<W>,
    base: u64,
    open: Option<Open>,
    /// (name, bucket header and inline page) of finished buckets. Small: at most `INLINE_BYTES_MAX` each.
    done: Vec<(Vec<u8>, Vec<u8>)>,
    pairs: u64,
}

impl<W: Write + Seek> Writer<W> {
    /// Begins a file at the sink's current position.
    pub fn new(mut out: W) -> Result<Writer<W>, Error> {
        let base = out.stream_position()?;
        out.write_all(&[0; 2 * PAGE_BYTES])?;
        Ok(Writer { pages: Pages { out, next: 2 }, base, open: None, done: Vec::new(), pairs: 0 })
    }

    /// Begins the bucket `name` and ends the one before. Any order; a name may come only once.
    pub fn bucket(&mut self, name: &[u8]) -> Result<(), Error> {
        if name.is_empty() || name.len() > KEY_BYTES_MAX {
            return Err(Error::Misuse("a bucket's name is empty or too long"));
        }
        self.end_bucket()?;
        if self.done.iter().any(|(other, _)| other == name) {
            return Err(Error::Misuse("a bucket comes twice"));
        }
        let builder = Builder::default();
        self.open = Some(Open { name: name.to_vec(), sequence: 0, last_key: Vec::new(), builder });
        Ok(())
    }

    /// The sequence number of the open bucket; 0 unless set. etcd doesn't use it.
    pub fn sequence(&mut self, sequence: u64) -> Result<(), Error> {
        self.open.as_mut().ok_or(Error::Misuse("no bucket is open"))?.sequence = sequence;
        Ok(())
    }

    /// Adds a pair to the open bucket; keys must ascend.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        let open = self.open.as_mut().ok_or(Error::Misuse("no bucket is open"))?;
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(Error::Misuse("a key is empty or too long"));
        }
        if value.len() > VALUE_BYTES_MAX {
            return Err(Error::Misuse("a value is too long"));
        }
        // An empty last key is "none yet": keys are never empty.
        if key <= open.last_key.as_slice() {
            return Err(Error::Misuse("keys must ascend within a bucket"));
        }
        open.last_key.clear();
        open.last_key.extend_from_slice(key);
        self.pairs += 1;
        open.builder.push(0, key, value, &mut self.pages)
    }

    fn end_bucket(&mut self) -> Result<(), Error> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let mut value = Vec::with_capacity(BUCKET_HEADER_BYTES);
        match open.builder.finish(true, &mut self.pages)? {
            Root::Page(id) => {
                value.extend_from_slice(&id.to_le_bytes());
                value.extend_from_slice(&open.sequence.to_le_bytes());
            }
            Root::Inline(page) => {
                assert!(page.len() <= INLINE_BYTES_MAX, "inline buckets are small");
                value.extend_from_slice(&0u64.to_le_bytes());
                value.extend_from_slice(&open.sequence.to_le_bytes());
                value.extend_from_slice(&page);
            }
        }
        self.done.push((open.name, value));
        Ok(())
    }

    /// Ends the last bucket, writes the root, the empty free list and both metas, and flushes. The sink is left at the
    /// end of the file.
    pub fn finish(mut self) -> Result<Summary, Error> {
        self.end_bucket()?;
        self.done.sort_unstable();
        let mut root = Builder::default();
        for (name, value) in &self.done {
            root.push(FLAG_BUCKET, name, value, &mut self.pages)?;
        }
        let Root::Page(root) = root.finish(false, &mut self.pages)? else {
            unreachable!("the root bucket was not allowed to be inline")
        };
        let freelist = self.pages.write(KIND_FREELIST, 0, &[], &[])?;
        let high_water = self.pages.next;
        for id in 0..2 {
            // The newer transaction stands in page 0, and a transaction's parity is its page's, as bbolt has it.
            let page_bytes = PAGE_BYTES as u32;
            let meta = Meta { page_bytes, root, sequence: 0, freelist, high_water, txid: 2 - id };
            self.pages.out.seek(SeekFrom::Start(self.base + id * PAGE_BYTES as u64))?;
            self.pages.out.write_all(&meta.encode(id))?;
        }
        let bytes = high_water * PAGE_BYTES as u64;
        self.pages.out.seek(SeekFrom::Start(self.base + bytes))?;
        self.pages.out.flush()?;
        Ok(Summary { bytes, pages: high_water, buckets: self.done.len() as u64, pairs: self.pairs })
    }
}
