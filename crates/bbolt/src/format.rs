//! The numbers of the format, and its meta page. Everything is little-endian, as on every machine that runs etcd.
//!
//! ```text
//! page        id u64 | kind u16 | count u16 | overflow u32 | elements ... | keys and values ...
//! meta        (kind 4)  magic u32 | version u32 | page bytes u32 | flags u32 | root bucket u64, sequence u64
//!             | free list u64 | high-water mark u64 | txid u64 | FNV-1a 64 of the 56 bytes before
//! branch      (kind 1)  element: pos u32 | key bytes u32 | child u64
//! leaf        (kind 2)  element: flags u32 | pos u32 | key bytes u32 | value bytes u32     pos counts from the element
//! free list   (kind 16) count, or 0xffff and then the count as u64; page ids u64 ascending
//! bucket      as a leaf's value with flag 1: root page u64 | sequence u64 | and, when root is 0, a leaf page inline
//! ```

use crate::Error;

/// The page size that we write, and that etcd writes on the machines we serve, bytes.
pub const PAGE_BYTES: usize = 4096;
/// The longest key, bytes: bbolt refuses longer ones.
pub const KEY_BYTES_MAX: usize = 32768;
/// The longest value, bytes: bbolt refuses longer ones.
pub const VALUE_BYTES_MAX: usize = (1 << 31) - 2;
/// Levels of one bucket's tree that a reader follows. Each level at least doubles the leaves, so that a sound
/// file cannot have more.
pub const DEPTH_MAX: usize = 64;
/// Buckets within buckets that a reader follows; etcd has none.
pub const NESTING_MAX: usize = 8;

pub(crate) const PAGE_HEADER_BYTES: usize = 16;
pub(crate) const ELEMENT_BYTES: usize = 16;
pub(crate) const BUCKET_HEADER_BYTES: usize = 16;
pub(crate) const META_BYTES: usize = 64;
/// Larger page sizes exist (16 and 64 KiB kernels); beyond them a meta is damaged.
pub(crate) const PAGE_BYTES_MAX: usize = 64 << 10;
pub(crate) const PAGE_BYTES_MIN: usize = 1024;

pub(crate) const KIND_BRANCH: u16 = 0x01;
pub(crate) const KIND_LEAF: u16 = 0x02;
pub(crate) const KIND_META: u16 = 0x04;
pub(crate) const KIND_FREELIST: u16 = 0x10;
/// On a leaf element: the value is a bucket.
pub(crate) const FLAG_BUCKET: u32 = 0x01;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
/// The free list was not written; whoever opens the file finds the free pages by a walk.
pub(crate) const NO_FREELIST: u64 = u64::MAX;

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo).
pub(crate) fn fnv64a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The header of a page.
pub(crate) fn page_header(id: u64, kind: u16, count: u16, overflow: u32) -> [u8; PAGE_HEADER_BYTES] {
    let mut header = [0; PAGE_HEADER_BYTES];
    header[0..8].copy_from_slice(&id.to_le_bytes());
    header[8..10].copy_from_slice(&kind.to_le_bytes());
    header[10..12].copy_from_slice(&count.to_le_bytes());
    header[12..16].copy_from_slice(&overflow.to_le_bytes());
    header
}

/// What a meta page says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub page_bytes: u32,
    pub root: u64,
    pub sequence: u64,
    pub freelist: u64,
    /// One above the last page in use.
    pub high_water: u64,
    pub txid: u64,
}

impl Meta {
    /// The bytes of meta page `id` (0 or 1), without padding.
    pub fn encode(&self, id: u64) -> Vec<u8> {
        let mut page = page_header(id, KIND_META, 0, 0).to_vec();
        for word in [MAGIC, VERSION, self.page_bytes, 0] {
            page.extend_from_slice(&word.to_le_bytes());
        }
        for word in [self.root, self.sequence, self.freelist, self.high_water, self.txid] {
            page.extend_from_slice(&word.to_le_bytes());
        }
        let sum = fnv64a(&page[PAGE_HEADER_BYTES..]);
        page.extend_from_slice(&sum.to_le_bytes());
        assert_eq!(page.len(), PAGE_HEADER_BYTES + META_BYTES, "a meta has a fixed size");
        page
    }

    /// Decodes the meta that follows a page header.
    pub fn decode(bytes: &[u8]) -> Result<Meta, Error> {
        if bytes.len() < META_BYTES || u32_at(bytes, 0) != MAGIC {
            return Err(Error::NotADatabase);
        }
        if u32_at(bytes, 4) != VERSION {
            return Err(Error::Version(u32_at(bytes, 4)));
        }
        if fnv64a(&bytes[..META_BYTES - 8]) != u64_at(bytes, META_BYTES - 8) {
            return Err(Error::Meta("the checksum does not match"));
        }
        let meta = Meta {
            page_bytes: u32_at(bytes, 8),
            root: u64_at(bytes, 16),
            sequence: u64_at(bytes, 24),
            freelist: u64_at(bytes, 32),
            high_water: u64_at(bytes, 40),
            txid: u64_at(bytes, 48),
        };
        let page_bytes = meta.page_bytes as usize;
        if !page_bytes.is_power_of_two() || !(PAGE_BYTES_MIN..=PAGE_BYTES_MAX).contains(&page_bytes) {
            return Err(Error::Meta("the page size is impossible"));
        }
        if meta.root < 2 || meta.root >= meta.high_water {
            return Err(Error::Meta("the root lies outside of the pages in use"));
        }
        if meta.freelist != NO_FREELIST && (meta.freelist < 2 || meta.freelist >= meta.high_water) {
            return Err(Error::Meta("the free list lies outside of the pages in use"));
        }
        Ok(meta)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fnv_has_the_published_values() {
        assert_eq!(fnv64a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv64a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv64a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn a_meta_survives_and_every_flipped_bit_is_seen() {
        let meta =
            Meta { page_bytes: 4096, root: 2, sequence: 0, freelist: NO_FREELIST, high_water: 6, txid: 11 };
        let page = meta.encode(0);
        let body = &page[PAGE_HEADER_BYTES..];
        assert_eq!(Meta::decode(body).expect("sound"), meta);
        // The checksum that etcd 3.7.1 wrote for this very meta.
        assert_eq!(u64_at(body, 56), u64::from_le_bytes([0x6c, 0xe7, 0xa3, 0xb0, 0xc7, 0x8f, 0x3a, 0x47]));
        for bit in 0..META_BYTES * 8 {
            let mut damaged = body.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Meta::decode(&damaged).is_err(), "bit {bit}");
        }
    }
}
