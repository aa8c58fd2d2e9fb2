//! Output that goes out with the ring's next submission instead of by a system call of its own.
//!
//! Invariants: a batch stands here, untouched, from the moment that the ring is given its bytes until [`Sends::settled`]
//! hands it back; a connection has one batch here at most. The kernel decides about a send while it takes it from the
//! ring, so a batch is here for a turn and no longer, whatever the client does.

use std::io::IoSlice;
use std::os::fd::RawFd;

use net::Batch;

use super::uring::Ring;

#[derive(Default)]
pub struct Sends {
    list: Vec<Send>,
    /// Messages that can be used again.
    #[expect(
        clippy::vec_box,
        reason = "the boxes themselves are what is reused: the kernel has their addresses"
    )]
    spare: Vec<Box<Message>>,
}

struct Send {
    slot: u32,
    batch: Batch,
    bytes: usize,
    /// For a batch in several pieces.
    message: Option<Box<Message>>,
    /// What its completion said; none: everything was taken.
    result: Option<i32>,
}

/// What `sendmsg` reads.
struct Message {
    header: libc::msghdr,
    slices: Vec<libc::iovec>,
}

/// A send that is over.
pub struct Settled {
    /// Of the connection.
    pub slot: u32,
    pub batch: Batch,
    /// How many bytes the socket took; if it was asked to take more, why it didn't, as an error number.
    pub sent: usize,
    pub error: Option<i32>,
}

impl Sends {
    /// Gives `batch`, which must not be empty, to the ring.
    pub fn push(&mut self, ring: &mut Ring, slot: u32, fd: RawFd, batch: Batch) {
        assert!(!batch.is_empty(), "an empty send says nothing");
        let position = self.list.len() as u32;
        let (mut bytes, mut message) = (batch.len(), None);
        if let Some(piece) = batch.contiguous() {
            let len = u32::try_from(piece.len()).expect("an output is limited");
            // SAFETY: the bytes are on the heap and do not move with the batch, which nobody touches before `settled`
            // was told that the ring is submitted.
            unsafe { ring.send(position, fd, piece.as_ptr(), len) };
        } else {
            let gathered = message.insert(self.spare.pop().unwrap_or_else(Message::new));
            bytes = gathered.gather(&batch);
            // SAFETY: as above; the message is boxed, stands beside the batch as long, and names its bytes.
            unsafe { ring.send_message(position, fd, &raw const gathered.header) };
        }
        self.list.push(Send { slot, batch, bytes, message, result: None });
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// A completion of a send.
    pub fn completed(&mut self, position: u32, result: i32) {
        self.list[position as usize].result = Some(result);
    }

    /// All sends, once the ring is `submitted` ([`Ring::is_submitted`]) and its completions were passed on; none before.
    pub fn settled(&mut self, submitted: bool) -> impl Iterator<Item = Settled> {
        let over = if submitted { self.list.len() } else { 0 };
        let spare = &mut self.spare;
        self.list.drain(..over).map(|Send { slot, batch, bytes, message, result }| {
            spare.extend(message.filter(|_| spare.len() < SPARES));
            let (sent, error) = match result {
                None => (bytes, None),
                Some(error) if error < 0 => (0, Some(-error)),
                // Less than all: there was no more room.
                Some(sent) => (sent as usize, Some(libc::EAGAIN)),
            };
            assert!(sent <= bytes, "the socket took more than it was offered");
            Settled { slot, batch, sent, error }
        })
    }
}

/// Messages kept for reuse.
const SPARES: usize = 64;

impl Message {
    fn new() -> Box<Message> {
        // SAFETY: an all-zero msghdr is valid: no address, no slices, no control data.
        let header = unsafe { std::mem::zeroed() };
        Box::new(Message { header, slices: Vec::new() })
    }

    /// Names as many slices of `batch` as one call takes; their bytes.
    fn gather(&mut self, batch: &Batch) -> usize {
        let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(16);
        batch.gather(&mut slices);
        self.slices.clear();
        let named = slices
            .iter()
            .map(|slice| libc::iovec { iov_base: slice.as_ptr().cast_mut().cast(), iov_len: slice.len() });
        self.slices.extend(named);
        self.header.msg_iov = self.slices.as_mut_ptr();
        self.header.msg_iovlen = self.slices.len();
        slices.iter().map(|slice| slice.len()).sum()
    }
}
