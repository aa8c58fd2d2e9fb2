//! A batch while records are gathered into it: they are encoded in place, once, into the buffer that is written.

use base::Index;
use disk::{AlignedBuf, BLOCK};

use crate::layout::{BATCH_HEADER, BatchHeader, RECORD_HEADER, RecordHeader};
use crate::position::Position;
use base::crc32c;

pub(crate) struct Gather {
    buf: AlignedBuf,
    /// Bytes of header and records.
    used: usize,
    /// Where the log stands after the last record that is complete here.
    pub(crate) position: Position,
    /// The highest entry of which a part is here; 0 for none.
    pub(crate) max_index: Index,
    /// Written even when it has no record: it says what is durable.
    pub(crate) affirms: bool,
}

impl Gather {
    pub(crate) fn new(buf: AlignedBuf, position: Position) -> Gather {
        assert!(buf.len() > BATCH_HEADER + RECORD_HEADER, "a batch holds a record");
        Gather { buf, used: BATCH_HEADER, position, max_index: 0, affirms: false }
    }

    /// Bytes of records gathered so far.
    pub(crate) fn payload_bytes(&self) -> usize {
        self.used - BATCH_HEADER
    }

    /// True when there is nothing to write.
    pub(crate) fn is_idle(&self) -> bool {
        self.used == BATCH_HEADER && !self.affirms
    }

    /// Bytes of data that one more record, or part of one, may have.
    pub(crate) fn room(&self) -> usize {
        (self.buf.len() - self.used).saturating_sub(RECORD_HEADER)
    }

    /// True when a record of `data_bytes` still fits.
    pub(crate) fn fits(&self, data_bytes: usize) -> bool {
        self.used + RECORD_HEADER + data_bytes <= self.buf.len()
    }

    /// True when a record of `data_bytes` fits into an empty batch.
    pub(crate) fn fits_empty(&self, data_bytes: usize) -> bool {
        BATCH_HEADER + RECORD_HEADER + data_bytes <= self.buf.len()
    }

    pub(crate) fn push(&mut self, header: &RecordHeader, data: &[u8]) {
        assert!(self.used + RECORD_HEADER + data.len() <= self.buf.len(), "the caller looked at the room");
        assert_eq!(header.length as usize, data.len(), "the header says how long the data is");
        let start = self.used + RECORD_HEADER;
        header.encode(&mut self.buf[self.used..start]);
        self.buf[start..start + data.len()].copy_from_slice(data);
        self.used = start + data.len();
    }

    /// Bytes of the batch on disk: whole blocks.
    pub(crate) fn sealed_bytes(&self) -> usize {
        self.used.next_multiple_of(BLOCK)
    }

    /// Completes `header` with length and checksum of the records; returns the buffer, the bytes of it to write and
    /// the header's checksum.
    pub(crate) fn seal(mut self, mut header: BatchHeader) -> (AlignedBuf, usize, u32) {
        let len = self.sealed_bytes();
        assert!(len <= self.buf.len(), "a batch fits into its buffer");
        self.buf[self.used..len].fill(0);
        header.length = self.payload_bytes() as u32;
        header.payload_crc = crc32c(&self.buf[BATCH_HEADER..self.used]);
        let crc = header.encode(&mut self.buf);
        (self.buf, len, crc)
    }
}
