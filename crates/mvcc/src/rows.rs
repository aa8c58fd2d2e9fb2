//! The pairs of a range answer as they go over the wire: slices of stored cells, or small cells made for the answer.
//!
//! Invariant: the pieces, joined, are the `kvs` fields of a RangeResponse, in order. A set of rows holds either
//! slices or made cells, never both: which one is a property of the request.

use proto::mvccpb::KeyValue;

use crate::cell::{Cell, Fields, KvRef};

#[derive(Clone, Debug, Default)]
pub struct Rows<'a> {
    /// Kept apart so that the answer to a get needs no allocation; empty when there is none.
    first: &'a [u8],
    rest: Vec<&'a [u8]>,
    made: Vec<u8>,
    len: usize,
    bytes: usize,
}

impl<'a> Rows<'a> {
    pub fn new() -> Rows<'a> {
        Rows::default()
    }

    /// Pairs.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What the pieces add up to.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Empties it; buffers stay.
    pub fn clear(&mut self) {
        self.first = &[];
        self.rest.clear();
        self.made.clear();
        self.len = 0;
        self.bytes = 0;
    }

    /// Adds a stored pair as it is.
    #[inline]
    pub fn push_cell(&mut self, cell: Cell<'a>) {
        assert!(self.made.is_empty(), "an answer is slices or made cells, not both");
        let framed = cell.framed();
        if self.len == 0 {
            self.first = framed;
        } else {
            self.rest.push(framed);
        }
        self.len += 1;
        self.bytes += framed.len();
    }

    /// Adds a pair that is not stored in this form.
    pub fn push_made(&mut self, fields: &Fields<'_>) {
        assert!(self.first.is_empty(), "an answer is slices or made cells, not both");
        fields.push_framed(&mut self.made);
        self.len += 1;
        self.bytes = self.made.len();
    }

    /// The bytes, in order.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        [self.first]
            .into_iter()
            .chain(self.rest.iter().copied())
            .chain([self.made.as_slice()])
            .filter(|piece| !piece.is_empty())
    }

    /// The slices of stored cells, which outlive this list; empty when the cells were made for the answer.
    pub fn slices(&self) -> impl Iterator<Item = &'a [u8]> {
        [self.first].into_iter().filter(|piece| !piece.is_empty()).chain(self.rest.iter().copied())
    }

    /// The cells made for the answer; empty when they are slices.
    pub fn made(&self) -> &[u8] {
        &self.made
    }

    /// The pairs, parsed.
    pub fn pairs(&self) -> impl Iterator<Item = KvRef<'_>> {
        let mut made = self.made.as_slice();
        let made = std::iter::from_fn(move || {
            if made.is_empty() {
                return None;
            }
            let (kv, rest) = split_framed(made);
            made = rest;
            Some(kv)
        });
        self.slices().map(|framed| split_framed(framed).0).chain(made)
    }

    pub fn to_messages(&self) -> Vec<KeyValue> {
        let mut messages = Vec::with_capacity(self.len);
        messages.extend(self.pairs().map(|kv| kv.to_message()));
        assert_eq!(messages.len(), self.len, "every row is one pair");
        messages
    }
}

/// Parses the first pair of a run of framed ones.
fn split_framed(bytes: &[u8]) -> (KvRef<'_>, &[u8]) {
    let mut len = 0;
    let mut at = 1;
    for shift in (0..35).step_by(7) {
        let byte = bytes[at];
        at += 1;
        len |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    let (framed, rest) = bytes.split_at(at + len);
    match KvRef::from_wire(&framed[at..]) {
        Some(kv) => (KvRef { framed, ..kv }, rest),
        None => panic!("a row is canonical"),
    }
}
