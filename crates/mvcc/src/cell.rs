//! The stored form of one version of one key.
//!
//! ```text
//! 0x12 | length (varint) | KeyValue, canonical protobuf | sub revision (u32, little-endian)
//! ```
//!
//! The part before the sub revision is field 2 of a RangeResponse as it goes over the wire, so an answer is a list
//! of slices of mapped pages. Canonical means what Go's marshaller writes: fields in number order, zero values
//! absent, shortest varints. Hashes and exports depend on it.
//!
//! Parsing allocates nothing and never touches the bytes of a value. A stored cell that does not parse is a broken
//! invariant and panics; bytes from outside go through [`KvRef::from_wire`].

use std::ops::Deref;

use base::{LeaseId, Revision, varint};
use proto::mvccpb::KeyValue;

const KEY: u8 = 0x0a;
const CREATE: u8 = 0x10;
const MOD: u8 = 0x18;
const VERSION: u8 = 0x20;
const VALUE: u8 = 0x2a;
const LEASE: u8 = 0x30;
/// The tag of `kvs` in a RangeResponse.
const FRAME: u8 = 0x12;
const SUB_BYTES: usize = 4;

/// The fields of one version, from which its cell is built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fields<'a> {
    pub key: &'a [u8],
    pub create: i64,
    pub mod_: i64,
    pub version: i64,
    pub value: &'a [u8],
    pub lease: LeaseId,
}

/// One parsed version: its fields, and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvRef<'a> {
    pub fields: Fields<'a>,
    pub sub: u32,
    /// The KeyValue message.
    pub wire: &'a [u8],
    /// The same behind its tag and length, as a RangeResponse carries it.
    pub framed: &'a [u8],
}

/// A stored cell, not yet parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell<'a>(&'a [u8]);

/// Reads a varint at `*at` and moves behind it; `None` when it is cut, or larger than 64 bits.
#[inline]
fn take_varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let first = *bytes.get(*at)?;
    *at += 1;
    if first < 0x80 {
        return Some(u64::from(first));
    }
    let mut value = u64::from(first & 0x7f);
    for shift in (7..70).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        if shift == 63 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[inline]
fn take_number(bytes: &[u8], at: &mut usize, tag: u8) -> Option<i64> {
    if bytes.get(*at) != Some(&tag) {
        return Some(0);
    }
    *at += 1;
    take_varint(bytes, at).map(|value| value as i64)
}

#[inline]
fn take_bytes<'a>(bytes: &'a [u8], at: &mut usize, tag: u8) -> Option<&'a [u8]> {
    if bytes.get(*at) != Some(&tag) {
        return Some(&[]);
    }
    *at += 1;
    let len = usize::try_from(take_varint(bytes, at)?).ok()?;
    let end = at.checked_add(len)?;
    let field = bytes.get(*at..end)?;
    *at = end;
    Some(field)
}

#[inline]
fn number_len(value: i64) -> usize {
    if value == 0 { 0 } else { 1 + varint::len(value as u64) }
}

#[inline]
fn bytes_len(value: &[u8]) -> usize {
    if value.is_empty() { 0 } else { 1 + varint::len(value.len() as u64) + value.len() }
}

#[inline]
fn push_number(out: &mut Vec<u8>, tag: u8, value: i64) {
    if value != 0 {
        out.push(tag);
        varint::push(out, value as u64);
    }
}

#[inline]
fn push_bytes(out: &mut Vec<u8>, tag: u8, value: &[u8]) {
    if !value.is_empty() {
        out.push(tag);
        varint::push(out, value.len() as u64);
        out.extend_from_slice(value);
    }
}

impl Fields<'_> {
    /// Bytes of the KeyValue message.
    pub fn wire_len(&self) -> usize {
        bytes_len(self.key)
            + number_len(self.create)
            + number_len(self.mod_)
            + number_len(self.version)
            + bytes_len(self.value)
            + number_len(self.lease)
    }

    /// Appends the KeyValue message.
    pub fn push_wire(&self, out: &mut Vec<u8>) {
        push_bytes(out, KEY, self.key);
        push_number(out, CREATE, self.create);
        push_number(out, MOD, self.mod_);
        push_number(out, VERSION, self.version);
        push_bytes(out, VALUE, self.value);
        push_number(out, LEASE, self.lease);
    }

    /// Appends the message behind the tag and length that a RangeResponse gives it.
    pub fn push_framed(&self, out: &mut Vec<u8>) {
        let len = self.wire_len();
        out.reserve(1 + varint::len(len as u64) + len + SUB_BYTES);
        out.push(FRAME);
        varint::push(out, len as u64);
        let start = out.len();
        self.push_wire(out);
        assert_eq!(out.len() - start, len, "the length stands before what it measures");
    }

    /// Appends the cell.
    pub fn push_cell(&self, sub: u32, out: &mut Vec<u8>) {
        assert!(!self.key.is_empty() && self.version > 0, "a stored version has a key and counts from 1");
        assert!(0 < self.create && self.create <= self.mod_, "a key is created before it is changed");
        self.push_framed(out);
        out.extend_from_slice(&sub.to_le_bytes());
    }

    pub fn to_message(&self) -> KeyValue {
        KeyValue {
            key: self.key.to_vec(),
            create_revision: self.create,
            mod_revision: self.mod_,
            version: self.version,
            value: self.value.to_vec(),
            lease: self.lease,
        }
    }
}

impl<'a> Deref for KvRef<'a> {
    type Target = Fields<'a>;

    #[inline]
    fn deref(&self) -> &Fields<'a> {
        &self.fields
    }
}

impl<'a> KvRef<'a> {
    pub fn revision(&self) -> Revision {
        Revision::new(self.mod_, i64::from(self.sub))
    }

    /// Reads a KeyValue message whose fields stand in number order, each at most once; `None` for anything else.
    /// `framed` and `sub` of the result are empty.
    pub fn from_wire(wire: &'a [u8]) -> Option<KvRef<'a>> {
        let mut at = 0;
        let fields = Fields {
            key: take_bytes(wire, &mut at, KEY)?,
            create: take_number(wire, &mut at, CREATE)?,
            mod_: take_number(wire, &mut at, MOD)?,
            version: take_number(wire, &mut at, VERSION)?,
            value: take_bytes(wire, &mut at, VALUE)?,
            lease: take_number(wire, &mut at, LEASE)?,
        };
        (at == wire.len()).then_some(KvRef { fields, sub: 0, wire, framed: &[] })
    }
}

impl<'a> Cell<'a> {
    /// Takes the bytes as they are stored.
    #[inline]
    pub fn new(stored: &'a [u8]) -> Cell<'a> {
        assert!(stored.len() > 2 + SUB_BYTES && stored[0] == FRAME, "a cell begins with its frame");
        Cell(stored)
    }

    /// All of it.
    #[inline]
    pub fn stored(self) -> &'a [u8] {
        self.0
    }

    /// What a RangeResponse carries.
    #[inline]
    pub fn framed(self) -> &'a [u8] {
        &self.0[..self.0.len() - SUB_BYTES]
    }

    #[inline]
    pub fn sub(self) -> u32 {
        match self.0.last_chunk::<SUB_BYTES>() {
            Some(bytes) => u32::from_le_bytes(*bytes),
            None => unreachable!("seen when the cell was made"),
        }
    }

    #[inline]
    fn wire_start(self) -> usize {
        let mut at = 1;
        match take_varint(self.0, &mut at) {
            Some(len) if at + len as usize + SUB_BYTES == self.0.len() => at,
            _ => panic!("a cell is as long as it says"),
        }
    }

    /// The KeyValue message.
    #[inline]
    pub fn wire(self) -> &'a [u8] {
        &self.framed()[self.wire_start()..]
    }

    /// Everything parsed; the value's bytes are not touched.
    pub fn kv(self) -> KvRef<'a> {
        match KvRef::from_wire(self.wire()) {
            Some(kv) => KvRef { sub: self.sub(), framed: self.framed(), ..kv },
            None => panic!("a stored cell is canonical"),
        }
    }

    /// Where in history this version stands, without parsing the rest.
    #[inline]
    pub fn revision(self) -> Revision {
        let wire = self.wire();
        let mut at = 0;
        let parsed = take_bytes(wire, &mut at, KEY)
            .and_then(|_| take_number(wire, &mut at, CREATE))
            .and_then(|_| take_number(wire, &mut at, MOD));
        match parsed {
            Some(main) => Revision::new(main, i64::from(self.sub())),
            None => panic!("a stored cell is canonical"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Random;
    use prost::Message;

    #[test]
    fn cells_are_canonical_protobuf_and_parse_back() {
        let mut random = Random::new(11);
        let numbers = [1, 2, 127, 128, 16383, 16384, 1 << 40, i64::MAX];
        for round in 0..2000 {
            let mut key = vec![0; 1 + random.below(200) as usize];
            random.fill(&mut key);
            let mut value = vec![0; if round % 3 == 0 { 0 } else { random.below(20_000) as usize }];
            random.fill(&mut value);
            let pick = |random: &mut Random| numbers[random.below(numbers.len() as u64) as usize];
            let create = pick(&mut random);
            let mod_ = pick(&mut random).max(create);
            let lease = [0, 1, -1, i64::MIN, 77][random.below(5) as usize];
            let version = pick(&mut random);
            let fields = Fields { key: &key, create, mod_, version, value: &value, lease };
            let sub = random.next_u64() as u32;
            let mut stored = Vec::new();
            fields.push_cell(sub, &mut stored);
            let cell = Cell::new(&stored);
            let kv = cell.kv();
            assert_eq!(kv.fields, fields);
            assert_eq!((kv.sub, cell.sub()), (sub, sub));
            assert_eq!(cell.revision(), Revision::new(mod_, i64::from(sub)));
            assert_eq!(kv.wire, fields.to_message().encode_to_vec(), "what the generated code writes");
            let response =
                proto::etcdserverpb::RangeResponse { kvs: vec![fields.to_message()], ..Default::default() };
            assert_eq!(kv.framed, response.encode_to_vec(), "what a response carries");
        }
    }

    #[test]
    fn foreign_bytes_are_refused_not_believed() {
        let mut wire = Vec::new();
        Fields { key: b"k", create: 3, mod_: 300, version: 1, value: b"v", lease: 5 }.push_wire(&mut wire);
        assert!(KvRef::from_wire(&wire).is_some());
        for cut in 1..wire.len() {
            let parsed = KvRef::from_wire(&wire[..cut]);
            assert!(parsed.is_none_or(|kv| kv.lease == 0), "a cut message is refused or lacks its tail");
        }
        for bad in
            [&[0x18, 1, 0x10, 1][..], &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 1], &[0x3a, 0], &[0x10, 0x80]]
        {
            assert_eq!(KvRef::from_wire(bad), None, "{bad:?}");
        }
        let eleven = [&[0x10][..], &[0xff; 10], &[1]].concat();
        assert_eq!(KvRef::from_wire(&eleven), None);
        for (tenth, taken) in [(1, true), (2, false), (0x7f, false)] {
            let ten = [&[0x10][..], &[0xff; 9], &[tenth]].concat();
            assert_eq!(KvRef::from_wire(&ten).is_some(), taken, "a tenth byte of {tenth}");
        }
    }

    #[test]
    fn varint_lengths_match_what_is_written() {
        for shift in 0..64 {
            for value in [(1u64 << shift) - 1, 1 << shift, u64::MAX >> shift] {
                let mut out = Vec::new();
                varint::push(&mut out, value);
                assert_eq!(out.len(), varint::len(value), "{value}");
                let mut at = 0;
                assert_eq!(take_varint(&out, &mut at), Some(value));
                assert_eq!(at, out.len());
            }
        }
    }
}
