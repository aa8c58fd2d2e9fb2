//! The bytes: segment header, batch header, record header. All numbers are little-endian; docs/DATA_FILES.md draws
//! them.
//!
//! Decoding checks the checksum first and never panics on foreign bytes. What the fields must be is for the callers
//! to check.

use base::{Term, crc32c};
use disk::BLOCK;

use crate::HardState;
use crate::position::Position;

/// The version of the whole format, in every segment header. Magic, version, number and checksum of a segment
/// header stay where they are in all versions.
pub(crate) const VERSION: u32 = 1;

const SEGMENT_MAGIC: [u8; 8] = *b"MSTYSEGM";
const BATCH_MAGIC: [u8; 8] = *b"MSTYBTCH";

/// Offset of the segment header's checksum, over all before it: the whole block is covered.
const SEGMENT_CRC: usize = BLOCK - 4;
/// The segment was opened by a start: a record that its predecessor left unfinished stays so.
const FLAG_STARTED: u32 = 1;

/// Bytes of a batch header.
pub(crate) const BATCH_HEADER: usize = 72;
const BATCH_CRC: usize = BATCH_HEADER - 4;

/// Bytes of a record header.
pub(crate) const RECORD_HEADER: usize = 32;

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// The boot number of a start of that log: the upper half names the log, the lower half the start. So what stands
/// where a damaged segment header would have to vouch for it is still known for the log's own.
pub(crate) fn boot_of(log: u64, start: u64) -> u64 {
    log & !u64::from(u32::MAX) | start & u64::from(u32::MAX)
}

/// True when both are starts of one log.
pub(crate) fn of_one_log(boot: u64, other: u64) -> bool {
    boot >> 32 == other >> 32
}

/// The first block of a segment in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// The first boot number of the log: tells its segments from those of another log.
    pub(crate) log: u64,
    pub(crate) number: u64,
    pub(crate) boot: u64,
    pub(crate) seq: u64,
    /// The contiguous durable sequence when this was submitted.
    pub(crate) durable: u64,
    /// 0: this is the first segment of the log.
    pub(crate) predecessor: u64,
    /// Where the predecessor's last counted batch ended.
    pub(crate) predecessor_end: u64,
    /// The checksum of the last counted batch, or of the predecessor's header when it has none.
    pub(crate) previous_crc: u32,
    pub(crate) segment_bytes: u64,
    pub(crate) started: bool,
    /// Where the log stood before this segment. `ready` is not stored.
    pub(crate) position: Position,
}

/// What the first block of a segment file is.
pub(crate) enum FirstBlock {
    Header(SegmentHeader, u32),
    /// A sound header of another version.
    Version(u32),
    /// Never written.
    Zeros,
    /// Neither: torn or damaged.
    Unreadable,
}

impl SegmentHeader {
    /// Fills `block` and returns its checksum.
    pub(crate) fn encode(&self, block: &mut [u8]) -> u32 {
        assert_eq!(block.len(), BLOCK, "a segment header is one block");
        assert!(self.number > self.predecessor, "numbers rise");
        block.fill(0);
        block[..8].copy_from_slice(&SEGMENT_MAGIC);
        put_u32(block, 8, VERSION);
        put_u32(block, 12, if self.started { FLAG_STARTED } else { 0 });
        put_u64(block, 16, self.number);
        put_u64(block, 24, self.log);
        put_u64(block, 32, self.boot);
        put_u64(block, 40, self.seq);
        put_u64(block, 48, self.durable);
        put_u64(block, 56, self.predecessor);
        put_u64(block, 64, self.predecessor_end);
        put_u64(block, 72, self.segment_bytes);
        put_u64(block, 80, self.position.hard_state.term);
        put_u64(block, 88, self.position.hard_state.vote);
        put_u64(block, 96, self.position.hard_state.commit);
        put_u64(block, 104, self.position.last_index);
        put_u64(block, 112, self.position.last_term);
        put_u64(block, 120, self.position.checkpoint_index);
        put_u64(block, 128, self.position.checkpoint_term);
        put_u32(block, 136, self.previous_crc);
        put_u64(block, 140, self.position.checkpoint_sequence);
        let crc = crc32c(&block[..SEGMENT_CRC]);
        put_u32(block, SEGMENT_CRC, crc);
        crc
    }

    /// Whether a block that is no sound header was that of segment `number`, written at a start of the process. Such a
    /// header is durable before the file has its name, so damage made it what it is, and not a crash.
    pub(crate) fn was_of_a_start(block: &[u8], number: u64) -> bool {
        let started = u32_at(block, 12) & FLAG_STARTED != 0;
        block[..8] == SEGMENT_MAGIC && u64_at(block, 16) == number && started
    }

    pub(crate) fn decode(block: &[u8]) -> FirstBlock {
        assert_eq!(block.len(), BLOCK, "a segment header is one block");
        let crc = u32_at(block, SEGMENT_CRC);
        if block[..8] != SEGMENT_MAGIC || crc32c(&block[..SEGMENT_CRC]) != crc {
            return if block.iter().all(|&byte| byte == 0) {
                FirstBlock::Zeros
            } else {
                FirstBlock::Unreadable
            };
        }
        match u32_at(block, 8) {
            VERSION => {}
            other => return FirstBlock::Version(other),
        }
        let header = SegmentHeader {
            number: u64_at(block, 16),
            log: u64_at(block, 24),
            boot: u64_at(block, 32),
            seq: u64_at(block, 40),
            durable: u64_at(block, 48),
            predecessor: u64_at(block, 56),
            predecessor_end: u64_at(block, 64),
            segment_bytes: u64_at(block, 72),
            position: Position {
                hard_state: HardState {
                    term: u64_at(block, 80),
                    vote: u64_at(block, 88),
                    commit: u64_at(block, 96),
                },
                last_index: u64_at(block, 104),
                last_term: u64_at(block, 112),
                checkpoint_index: u64_at(block, 120),
                checkpoint_term: u64_at(block, 128),
                checkpoint_sequence: u64_at(block, 140),
                ready: 0,
            },
            previous_crc: u32_at(block, 136),
            started: u32_at(block, 12) & FLAG_STARTED != 0,
        };
        FirstBlock::Header(header, crc)
    }
}

/// In front of a batch's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    pub(crate) segment: u64,
    pub(crate) boot: u64,
    pub(crate) seq: u64,
    /// The contiguous durable sequence when this was submitted: what recovery holds against a bad batch (law 5).
    pub(crate) durable: u64,
    pub(crate) ready: u64,
    /// Bytes of records behind this header.
    pub(crate) length: u32,
    pub(crate) payload_crc: u32,
    /// The checksum of the batch or segment header before.
    pub(crate) previous_crc: u32,
    /// The block of the segment that this stands in.
    pub(crate) block: u32,
}

impl BatchHeader {
    /// Fills the first [`BATCH_HEADER`] bytes of `batch` and returns the header's checksum.
    pub(crate) fn encode(&self, batch: &mut [u8]) -> u32 {
        assert!(self.durable < self.seq, "a batch is not durable before it is written");
        assert!(self.block > 0, "the first block is the segment's header");
        batch[..8].copy_from_slice(&BATCH_MAGIC);
        put_u64(batch, 8, self.segment);
        put_u64(batch, 16, self.boot);
        put_u64(batch, 24, self.seq);
        put_u64(batch, 32, self.durable);
        put_u64(batch, 40, self.ready);
        put_u32(batch, 48, self.length);
        put_u32(batch, 52, self.payload_crc);
        put_u32(batch, 56, self.previous_crc);
        put_u32(batch, 60, self.block);
        put_u32(batch, 64, 0);
        let crc = crc32c(&batch[..BATCH_CRC]);
        put_u32(batch, BATCH_CRC, crc);
        crc
    }

    /// The header at the begin of `block`, and its checksum; `None` when it is not sound.
    pub(crate) fn decode(block: &[u8]) -> Option<(BatchHeader, u32)> {
        let crc = u32_at(block, BATCH_CRC);
        if block[..8] != BATCH_MAGIC || crc32c(&block[..BATCH_CRC]) != crc {
            return None;
        }
        let header = BatchHeader {
            segment: u64_at(block, 8),
            boot: u64_at(block, 16),
            seq: u64_at(block, 24),
            durable: u64_at(block, 32),
            ready: u64_at(block, 40),
            length: u32_at(block, 48),
            payload_crc: u32_at(block, 52),
            previous_crc: u32_at(block, 56),
            block: u32_at(block, 60),
        };
        Some((header, crc))
    }

    /// True when `block` begins with a batch header of this segment's life that is not sound any more: of magic,
    /// segment and boot number at least two are right. Another life's has another segment number, and is sound.
    pub(crate) fn resembles(block: &[u8], segment: u64, boot: u64) -> bool {
        if BatchHeader::decode(block).is_some() {
            return false;
        }
        let right = [block[..8] == BATCH_MAGIC, u64_at(block, 8) == segment, u64_at(block, 16) == boot];
        right.iter().filter(|&&right| right).count() >= 2
    }
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordKind {
    HardState = 1,
    Entry = 2,
    Checkpoint = 3,
    Restart = 4,
}

/// In front of each record, and of each part of a record that spans batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) kind: RecordKind,
    /// The record begins, ends here.
    pub(crate) first: bool,
    pub(crate) last: bool,
    pub(crate) entry_kind: u8,
    /// Bytes of data behind this header.
    pub(crate) length: u32,
    pub(crate) term: Term,
    /// Of a hard state: the vote.
    pub(crate) index: u64,
    /// Bytes of data of all parts. Of a hard state: the commit index. Of a checkpoint: its sequence.
    pub(crate) total: u64,
}

impl RecordHeader {
    pub(crate) fn encode(&self, bytes: &mut [u8]) {
        bytes[0] = self.kind as u8;
        bytes[1] = u8::from(self.first) | u8::from(self.last) << 1;
        bytes[2] = self.entry_kind;
        bytes[3] = 0;
        put_u32(bytes, 4, self.length);
        put_u64(bytes, 8, self.term);
        put_u64(bytes, 16, self.index);
        put_u64(bytes, 24, self.total);
    }

    /// `None` for what no version of this format writes.
    pub(crate) fn decode(bytes: &[u8]) -> Option<RecordHeader> {
        let kind = match bytes[0] {
            1 => RecordKind::HardState,
            2 => RecordKind::Entry,
            3 => RecordKind::Checkpoint,
            4 => RecordKind::Restart,
            _ => return None,
        };
        (bytes[1] <= 3 && bytes[3] == 0).then(|| RecordHeader {
            kind,
            first: bytes[1] & 1 != 0,
            last: bytes[1] & 2 != 0,
            entry_kind: bytes[2],
            length: u32_at(bytes, 4),
            term: u64_at(bytes, 8),
            index: u64_at(bytes, 16),
            total: u64_at(bytes, 24),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Random;

    fn segment() -> SegmentHeader {
        SegmentHeader {
            log: 1,
            number: 7,
            boot: 3,
            seq: 40,
            durable: 38,
            predecessor: 6,
            predecessor_end: 8192,
            previous_crc: 5,
            segment_bytes: 1 << 20,
            started: true,
            position: Position {
                hard_state: HardState { term: 9, vote: 10, commit: 11 },
                last_index: 12,
                last_term: 13,
                checkpoint_index: 14,
                checkpoint_term: 15,
                checkpoint_sequence: 16,
                ready: 0,
            },
        }
    }

    #[test]
    fn headers_come_back_and_no_flipped_bit_passes() {
        let mut block = [0u8; BLOCK];
        let crc = segment().encode(&mut block);
        let FirstBlock::Header(header, read) = SegmentHeader::decode(&block) else { panic!("not a header") };
        assert_eq!((header, read), (segment(), crc));
        let mut random = Random::new(1);
        for _ in 0..2000 {
            let bit = random.below(BLOCK as u64 * 8) as usize;
            block[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(SegmentHeader::decode(&block), FirstBlock::Unreadable), "bit {bit}");
            block[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(matches!(SegmentHeader::decode(&[0; BLOCK]), FirstBlock::Zeros));

        assert!(SegmentHeader::was_of_a_start(&block, 7) && !SegmentHeader::was_of_a_start(&block, 8));
        let mut torn = block;
        torn[..512].fill(0);
        assert!(!SegmentHeader::was_of_a_start(&torn, 7));
        SegmentHeader { started: false, ..segment() }.encode(&mut torn);
        assert!(!SegmentHeader::was_of_a_start(&torn, 7));

        put_u32(&mut block, 8, 2);
        let crc = crc32c(&block[..SEGMENT_CRC]);
        put_u32(&mut block, SEGMENT_CRC, crc);
        assert!(matches!(SegmentHeader::decode(&block), FirstBlock::Version(2)));
    }

    #[test]
    fn a_damaged_batch_header_is_known_for_what_it_was() {
        let header = BatchHeader {
            segment: 7,
            boot: 3,
            seq: 41,
            durable: 39,
            ready: 2,
            length: 100,
            payload_crc: 1,
            previous_crc: 2,
            block: 1,
        };
        let mut block = [0u8; BLOCK];
        let crc = header.encode(&mut block);
        assert_eq!(BatchHeader::decode(&block), Some((header, crc)));
        assert!(!BatchHeader::resembles(&block, 7, 3), "a sound one is not damaged");
        for bit in 0..BATCH_HEADER * 8 {
            block[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(BatchHeader::decode(&block), None, "bit {bit}");
            assert!(BatchHeader::resembles(&block, 7, 3), "bit {bit}");
            block[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(!BatchHeader::resembles(&[0; BLOCK], 7, 3));
    }

    #[test]
    fn records_come_back_and_foreign_bytes_are_refused() {
        let header = RecordHeader {
            kind: RecordKind::Entry,
            first: true,
            last: false,
            entry_kind: 2,
            length: 3,
            term: 4,
            index: 5,
            total: 6,
        };
        let mut bytes = [0xffu8; RECORD_HEADER];
        header.encode(&mut bytes);
        assert_eq!(RecordHeader::decode(&bytes), Some(header));
        for (at, value) in [(0, 0), (0, 5), (1, 4), (3, 1)] {
            let mut foreign = bytes;
            foreign[at] = value;
            assert_eq!(RecordHeader::decode(&foreign), None);
        }
    }
}
