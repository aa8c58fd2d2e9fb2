//! Bytes on their way to the socket: owned ones in one buffer, shared ones by reference, in order.
//!
//! A `Batch` is such a queue. `Output` holds the batch that is being filled and counts the one that may be in flight
//! with a send that is not over yet. Nothing here limits the length: `Outbound` does, before it adds.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

use base::limits::SEND_SLICES;

/// Buffers above this are not kept for reuse when they run empty, bytes: 64 Ki idle connections must stay cheap.
const KEEP_BYTES: usize = 256 << 10;
/// Sent bytes are moved out of a partly sent buffer when there are more than this.
const COMPACT_BYTES: usize = 64 << 10;

/// A shared slice and the position in the owned bytes before which it goes.
struct Mark {
    at: usize,
    slice: Arc<[u8]>,
    from: usize,
    to: usize,
}

/// A queue of bytes.
#[derive(Default)]
pub struct Batch {
    bytes: Vec<u8>,
    /// Owned bytes before this are sent.
    start: usize,
    marks: VecDeque<Mark>,
    shared_bytes: usize,
    /// Length when it was taken for a send.
    taken: usize,
}

impl Batch {
    /// Bytes that wait.
    #[inline]
    pub fn len(&self) -> usize {
        self.bytes.len() - self.start + self.shared_bytes
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends what waits to `iov`, in order, without copying; at most as many slices as one system call takes. Feed it
    /// to a vectored send, then say `consumed`.
    pub fn gather<'a>(&'a self, iov: &mut Vec<IoSlice<'a>>) {
        let mut from = self.start;
        for mark in &self.marks {
            if iov.len() + 3 > SEND_SLICES {
                return;
            }
            if mark.at > from {
                iov.push(IoSlice::new(&self.bytes[from..mark.at]));
                from = mark.at;
            }
            iov.push(IoSlice::new(&mark.slice[mark.from..mark.to]));
        }
        if from < self.bytes.len() {
            iov.push(IoSlice::new(&self.bytes[from..]));
        }
    }

    /// The whole queue, if it is in one piece.
    #[inline]
    pub fn contiguous(&self) -> Option<&[u8]> {
        let owned = &self.bytes[self.start..];
        match (self.marks.len(), self.marks.front()) {
            (0, _) => Some(owned),
            (1, Some(mark)) if owned.is_empty() => Some(&mark.slice[mark.from..mark.to]),
            _ => None,
        }
    }

    /// Drops the first `count` bytes: they were sent. Panics when there are fewer.
    pub fn consumed(&mut self, count: usize) {
        self.take(count, |_| {});
        if self.is_empty() {
            self.clear();
        } else if self.start > COMPACT_BYTES && self.start > self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.marks.iter_mut().for_each(|mark| mark.at -= self.start);
            self.start = 0;
        }
    }

    fn clear(&mut self) {
        debug_assert!(self.marks.is_empty());
        self.start = 0;
        self.bytes.clear();
        if self.bytes.capacity() > KEEP_BYTES {
            self.bytes = Vec::new();
        }
    }

    fn take(&mut self, mut count: usize, mut sink: impl FnMut(Piece<'_>)) {
        assert!(count <= self.len(), "more bytes were consumed than waited");
        while count > 0 {
            let owned_end = self.marks.front().map_or(self.bytes.len(), |mark| mark.at);
            if self.start < owned_end {
                let n = count.min(owned_end - self.start);
                sink(Piece::Owned(&self.bytes[self.start..self.start + n]));
                self.start += n;
                count -= n;
                continue;
            }
            let mark = self.marks.front_mut().expect("bytes are owned or shared");
            let n = count.min(mark.to - mark.from);
            sink(Piece::Shared(&mark.slice, mark.from, n));
            mark.from += n;
            self.shared_bytes -= n;
            count -= n;
            if mark.from == mark.to {
                self.marks.pop_front();
            }
        }
    }

    #[inline]
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Where owned bytes are appended.
    #[inline]
    pub(crate) fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Appends `slice[from..to]` by reference.
    pub(crate) fn push_shared(&mut self, slice: Arc<[u8]>, from: usize, to: usize) {
        debug_assert!(from <= to && to <= slice.len());
        if from < to {
            self.shared_bytes += to - from;
            self.marks.push_back(Mark { at: self.bytes.len(), slice, from, to });
        }
    }

    /// Moves the first `count` bytes to the end of `to`.
    pub(crate) fn move_to(&mut self, count: usize, to: &mut Batch) {
        self.take(count, |piece| match piece {
            Piece::Owned(bytes) => to.push(bytes),
            Piece::Shared(slice, from, n) => to.push_shared(slice.clone(), from, from + n),
        });
        if self.is_empty() {
            self.clear();
        }
    }

    /// Forgets everything, keeps a buffer of modest size.
    pub(crate) fn reset(&mut self) {
        self.marks.clear();
        self.shared_bytes = 0;
        self.taken = 0;
        self.clear();
    }
}

enum Piece<'a> {
    Owned(&'a [u8]),
    Shared(&'a Arc<[u8]>, usize, usize),
}

/// The output of a connection.
#[derive(Default)]
pub struct Output {
    pub(crate) batch: Batch,
    in_flight: usize,
}

impl Output {
    /// Bytes that wait to be given to a socket; those in flight are not counted.
    #[inline]
    pub fn len(&self) -> usize {
        self.batch.len()
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// Bytes that wait or are in flight.
    #[inline]
    pub fn unsent(&self) -> usize {
        self.batch.len() + self.in_flight
    }

    /// See `Batch::gather`.
    pub fn gather<'a>(&'a self, iov: &mut Vec<IoSlice<'a>>) {
        self.batch.gather(iov);
    }

    /// See `Batch::contiguous`.
    pub fn contiguous(&self) -> Option<&[u8]> {
        self.batch.contiguous()
    }

    /// The socket took the first `count` bytes. Ask `Outbound::drain_writable` afterwards.
    pub fn consumed(&mut self, count: usize) {
        self.batch.consumed(count);
    }

    /// Takes all that waits, for a send that outlives this call; its bytes don't move until it is given back. One at a
    /// time: order is the caller's duty.
    pub fn take(&mut self) -> Batch {
        let mut batch = std::mem::take(&mut self.batch);
        batch.taken = batch.len();
        self.in_flight += batch.taken;
        batch
    }

    /// Ends what `take` began: the socket took the first `sent` bytes. What it left goes before all that was added
    /// meanwhile.
    pub fn give_back(&mut self, mut batch: Batch, sent: usize) {
        assert!(batch.taken <= self.in_flight, "more bytes come back than were taken");
        self.in_flight -= batch.taken;
        batch.taken = 0;
        batch.consumed(sent);
        if batch.is_empty() && !self.batch.is_empty() {
            return;
        }
        let added = self.batch.len();
        self.batch.move_to(added, &mut batch);
        self.batch = batch;
    }

    /// Gives memory back that an idle connection need not keep.
    pub fn shrink(&mut self) {
        if self.batch.is_empty() {
            self.batch = Batch::default();
        }
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    #[inline]
    pub(crate) fn tail(&mut self) -> &mut Vec<u8> {
        self.batch.tail()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Random;

    fn flat(batch: &Batch) -> Vec<u8> {
        let mut iov = Vec::new();
        batch.gather(&mut iov);
        iov.iter().flat_map(|s| s.to_vec()).collect()
    }

    #[test]
    fn random_pushes_moves_and_sends_keep_the_order() {
        let mut random = Random::new(5);
        for _ in 0..200 {
            let (mut a, mut b) = (Batch::default(), Batch::default());
            let (mut model_a, mut model_b) = (Vec::new(), Vec::new());
            for _ in 0..50 {
                let mut text = vec![0; random.below(40) as usize];
                random.fill(&mut text);
                match random.below(4) {
                    0 => {
                        a.push(&text);
                        model_a.extend_from_slice(&text);
                    }
                    1 => {
                        let from = random.below(text.len() as u64 + 1) as usize;
                        let to = from + random.below((text.len() - from) as u64 + 1) as usize;
                        model_a.extend_from_slice(&text[from..to]);
                        a.push_shared(text.into(), from, to);
                    }
                    2 => {
                        let n = random.below(a.len() as u64 + 1) as usize;
                        a.move_to(n, &mut b);
                        model_b.extend(model_a.drain(..n));
                    }
                    _ => {
                        let n = random.below(b.len() as u64 + 1) as usize;
                        b.consumed(n);
                        model_b.drain(..n);
                    }
                }
                assert_eq!((a.len(), b.len()), (model_a.len(), model_b.len()));
                assert_eq!((flat(&a), flat(&b)), (model_a.clone(), model_b.clone()));
                assert!(a.contiguous().is_none_or(|piece| piece == model_a));
            }
        }
    }

    #[test]
    fn a_long_queue_that_is_sent_slowly_does_not_keep_what_was_sent() {
        let mut batch = Batch::default();
        let mut next = 0u8;
        for _ in 0..4000 {
            batch.push(&[next; 1000]);
            if batch.len() > 100_000 {
                let mut iov = Vec::new();
                batch.gather(&mut iov);
                assert_eq!(iov[0][0], next.wrapping_sub(100));
                batch.consumed(1000);
            }
            next = next.wrapping_add(1);
        }
        assert!(batch.bytes.len() < 400_000, "{}", batch.bytes.len());
    }

    #[test]
    fn one_send_takes_no_more_slices_than_the_system_does() {
        let mut batch = Batch::default();
        let slice: Arc<[u8]> = Arc::from(&b"shared"[..]);
        for _ in 0..1500 {
            batch.push(b"own");
            batch.push_shared(slice.clone(), 0, 6);
        }
        let mut sent = 0;
        while !batch.is_empty() {
            let mut iov = Vec::new();
            batch.gather(&mut iov);
            assert!(!iov.is_empty() && iov.len() <= 1024);
            let bytes = iov.iter().map(|s| s.len()).sum();
            sent += bytes;
            batch.consumed(bytes);
        }
        assert_eq!(sent, 1500 * 9);
    }

    #[test]
    fn what_is_taken_stays_and_counts_as_unsent_and_its_rest_goes_first() {
        for sent in 0..=3 {
            let mut output = Output::default();
            output.tail().extend_from_slice(b"abc");
            let batch = output.take();
            assert_eq!(batch.contiguous(), Some(&b"abc"[..]));
            output.tail().extend_from_slice(b"de");
            assert_eq!((output.len(), output.unsent()), (2, 5));
            output.give_back(batch, sent);
            assert_eq!((flat(&output.batch).as_slice(), output.unsent()), (&b"abcde"[sent..], 5 - sent));
        }
    }

    #[test]
    fn a_buffer_that_comes_back_empty_is_used_again() {
        let mut output = Output::default();
        output.tail().extend_from_slice(&[7; 1000]);
        let batch = output.take();
        let memory = batch.bytes.as_ptr();
        output.give_back(batch, 1000);
        output.tail().push(1);
        assert_eq!(output.batch.bytes.as_ptr(), memory);
        output.consumed(1);
        output.shrink();
        assert_eq!(output.batch.bytes.capacity(), 0);
    }

    #[test]
    #[should_panic(expected = "more bytes were consumed")]
    fn consuming_what_is_not_there_is_a_bug() {
        Batch::default().consumed(1);
    }
}
