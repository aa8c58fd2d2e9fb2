//! Reading one segment: the batch that should stand somewhere, and what later blocks say of it (law 5).

use base::crc32c;
use disk::BLOCK;

use crate::layout::{BATCH_HEADER, BatchHeader, of_one_log};

/// What the next batch must be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    pub(crate) segment: u64,
    pub(crate) boot: u64,
    pub(crate) seq: u64,
    pub(crate) previous_crc: u32,
}

/// A batch that counts.
pub(crate) struct Batch<'a> {
    pub(crate) header: BatchHeader,
    pub(crate) crc: u32,
    pub(crate) payload: &'a [u8],
    /// Offset of the block behind it.
    pub(crate) end: usize,
}

/// Why no batch counts here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    /// No trace of this segment's life: zeros, or what an earlier life left, whatever that looks like.
    Blank,
    /// What a torn write leaves; or damage.
    Torn(&'static str),
    /// A sound header that no crash can have put there.
    Wrong(String),
}

/// The batch at `offset`, which must end at or before `limit`.
pub(crate) fn batch_at<'a>(
    image: &'a [u8],
    offset: usize,
    limit: usize,
    expected: &Expected,
) -> Result<Batch<'a>, Bad> {
    assert!(offset.is_multiple_of(BLOCK) && limit <= image.len(), "a batch begins at a block");
    if offset == image.len() {
        return Err(Bad::Blank);
    }
    let rest = &image[offset..];
    let Some((header, crc)) = BatchHeader::decode(rest) else {
        let ours = BatchHeader::resembles(rest, expected.segment, expected.boot);
        return Err(if ours { Bad::Torn("the batch header fails its checksum") } else { Bad::Blank });
    };
    let Expected { segment, boot, seq, previous_crc } = *expected;
    // An earlier life, or a client's bytes that were stored in one and look like this: whoever knows no boot number
    // cannot make a batch of this life.
    if (header.segment, header.boot) != (segment, boot) && !base::bug!(EarlierLifeCounts) {
        return Err(Bad::Blank);
    }
    if header.seq != seq || header.block as usize != offset / BLOCK {
        let (found, block) = (header.seq, header.block);
        return Err(Bad::Wrong(format!("batch {found} of block {block}, where batch {seq} should stand")));
    }
    if header.previous_crc != previous_crc {
        return Err(Bad::Wrong(format!("batch {seq} does not follow the one before it")));
    }
    let used = BATCH_HEADER + header.length as usize;
    let end = offset + used.next_multiple_of(BLOCK);
    if end > limit {
        return Err(Bad::Wrong(format!("batch {seq} reaches beyond the segment's end at {limit}")));
    }
    let payload = &rest[BATCH_HEADER..used];
    if crc32c(payload) != header.payload_crc && !base::bug!(TornBatchCounts) {
        return Err(Bad::Torn("the batch's records fail their checksum"));
    }
    Ok(Batch { header, crc, payload, end })
}

/// The highest durable sequence that a sound batch header of this segment's life states at or behind `from`, by
/// whichever start of the log that made `boot`; `None` when there is no such header. Its records need not be sound: the
/// header was written by us, and what it states stays true whatever was cut since.
pub(crate) fn stated_durable(image: &[u8], from: usize, segment: u64, boot: u64) -> Option<u64> {
    assert!(from.is_multiple_of(BLOCK), "batches begin at blocks");
    let blocks = (from / BLOCK).max(1)..image.len() / BLOCK;
    blocks
        .filter_map(|block| {
            let (header, _) = BatchHeader::decode(&image[block * BLOCK..])?;
            // Bytes of a client can have the right segment, but not the log's half of the boot number. A batch that a
            // misdirected write put into another block is a witness like any other.
            let ours = header.segment == segment && of_one_log(header.boot, boot);
            ours.then_some(header.durable)
        })
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPECTED: Expected = Expected { segment: 5, boot: 6, seq: 7, previous_crc: 8 };

    fn header(payload: &[u8]) -> BatchHeader {
        BatchHeader {
            segment: 5,
            boot: 6,
            seq: 7,
            durable: 6,
            ready: 0,
            length: payload.len() as u32,
            payload_crc: crc32c(payload),
            previous_crc: 8,
            block: 1,
        }
    }

    fn image(header: BatchHeader, payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 4 * BLOCK];
        header.encode(&mut image[BLOCK..]);
        image[BLOCK + BATCH_HEADER..][..payload.len()].copy_from_slice(payload);
        image
    }

    #[test]
    fn each_case_has_its_name() {
        let payload = vec![1u8; 5000];
        let good = header(&payload);
        let ask = |image: &[u8], limit| batch_at(image, BLOCK, limit, &EXPECTED).map(|batch| batch.end);
        assert_eq!(ask(&image(good, &payload), 4 * BLOCK), Ok(3 * BLOCK));
        assert!(matches!(ask(&image(good, &payload), 2 * BLOCK), Err(Bad::Wrong(_))));
        for wrong in [
            BatchHeader { seq: 9, ..good },
            BatchHeader { block: 9, ..good },
            BatchHeader { previous_crc: 9, ..good },
            BatchHeader { length: u32::MAX, ..good },
        ] {
            assert!(matches!(ask(&image(wrong, &payload), 4 * BLOCK), Err(Bad::Wrong(_))), "{wrong:?}");
        }
        for stale in [BatchHeader { segment: 4, ..good }, BatchHeader { boot: 9, ..good }] {
            assert_eq!(ask(&image(stale, &payload), 4 * BLOCK), Err(Bad::Blank));
        }
        assert_eq!(ask(&vec![0; 4 * BLOCK], 4 * BLOCK), Err(Bad::Blank));
        assert_eq!(ask(&vec![0; BLOCK], BLOCK), Err(Bad::Blank));
        for at in [BLOCK, BLOCK + 30, BLOCK + BATCH_HEADER, BLOCK + BATCH_HEADER + 4999] {
            let mut torn = image(good, &payload);
            torn[at] ^= 1;
            assert!(matches!(ask(&torn, 4 * BLOCK), Err(Bad::Torn(_))), "at {at}");
        }
    }

    #[test]
    fn only_headers_of_this_life_are_witnesses() {
        let good = header(&[]);
        let stated = |header, from, segment| stated_durable(&image(header, &[]), from, segment, 8);
        assert_eq!(stated(good, 0, 5), Some(6));
        assert_eq!(stated(good, 2 * BLOCK, 5), None);
        assert_eq!(stated(good, 0, 4), None);
        assert_eq!(stated(BatchHeader { block: 2, ..good }, 0, 5), Some(6), "misdirected");
        assert_eq!(stated(BatchHeader { boot: 6 | 1 << 32, ..good }, 0, 5), None);
        // A torn batch's header still is one.
        assert_eq!(stated(BatchHeader { length: 9, ..good }, 0, 5), Some(6));
    }
}
