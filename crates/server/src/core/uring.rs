//! One io_uring, as a core uses it: sockets by multishot accept and receive into provided buffers, durable log
//! writes, and a wake-up descriptor. Nothing here knows what the bytes mean.
//!
//! Invariants: created and used on one thread (SINGLE_ISSUER, DEFER_TASKRUN: the kernel's completion work runs
//! only when this thread asks, so it never interrupts a request). Every submission carries a [`Tag`]; a buffer given
//! to a write stays untouched until its completion.

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use base::limits::{RECEIVE_BUFFER_BYTES, RECEIVE_BUFFERS};
use disk::probe::SyncForm;
use io_uring::types::{BufRingEntry, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue, types};

use super::pages::Pages;

const SUBMISSIONS: u32 = 1024;
const COMPLETIONS: u32 = 8192;
const RECEIVE_GROUP: u16 = 0;

/// What a completion belongs to: packed into `user_data` (role in the top byte).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    Accept {
        listener: u32,
    },
    Receive {
        slot: u32,
        epoch: u32,
    },
    Writable {
        slot: u32,
        epoch: u32,
    },
    /// The durable end of a log write.
    Log {
        position: u32,
    },
    /// The write before its sync, where the two are apart.
    LogPart {
        position: u32,
    },
    /// A send that the socket did not take whole.
    Sent {
        position: u32,
    },
    Wake,
    /// Cancellations and the like: the completion is ignored.
    Ignored,
}

impl Tag {
    const EPOCH_BITS: u64 = (1 << 24) - 1;

    fn pack(self) -> u64 {
        let (role, epoch, low) = match self {
            Tag::Accept { listener } => (1, 0, listener),
            Tag::Receive { slot, epoch } => (2, epoch, slot),
            Tag::Writable { slot, epoch } => (3, epoch, slot),
            Tag::Log { position } => (4, 0, position),
            Tag::Wake => (5, 0, 0),
            Tag::Ignored => (6, 0, 0),
            Tag::LogPart { position } => (7, 0, position),
            Tag::Sent { position } => (8, 0, position),
        };
        role << 56 | (u64::from(epoch) & Self::EPOCH_BITS) << 32 | u64::from(low)
    }

    fn unpack(word: u64) -> Tag {
        let low = word as u32;
        let epoch = (word >> 32 & Self::EPOCH_BITS) as u32;
        match word >> 56 {
            1 => Tag::Accept { listener: low },
            2 => Tag::Receive { slot: low, epoch },
            3 => Tag::Writable { slot: low, epoch },
            4 => Tag::Log { position: low },
            5 => Tag::Wake,
            7 => Tag::LogPart { position: low },
            8 => Tag::Sent { position: low },
            _ => Tag::Ignored,
        }
    }
}

/// Epochs of connection slots fit the tag.
pub fn epoch_after(epoch: u32) -> u32 {
    (epoch + 1) & Tag::EPOCH_BITS as u32
}

/// One completion.
#[derive(Clone, Copy, Debug)]
pub struct Completion {
    pub tag: Tag,
    /// As the system call would have returned; negative is `-errno`.
    pub result: i32,
    /// The provided buffer that holds received bytes; give it back with [`Ring::recycle`].
    pub buffer: Option<u16>,
    /// A multishot operation goes on; without it, it must be armed again.
    pub more: bool,
}

/// A file of this process, or one that the ring knows by its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Open(RawFd),
    Registered(u32),
}

/// See [`Ring::write_durable`].
#[derive(Clone, Copy, Debug)]
pub struct DurableWrite {
    pub file: Target,
    pub offset: u64,
    pub data: *const u8,
    pub len: u32,
    /// The registered buffer that `data` begins.
    pub buffer: Option<u16>,
}

pub struct Ring {
    ring: IoUring,
    buffers: Option<Buffers>,
    /// What found the submission queue full, in order.
    backlog: Vec<Queued>,
}

/// What goes into the submission queue together.
enum Queued {
    One(squeue::Entry),
    /// Linked: a full queue must not tear it apart.
    Pair([squeue::Entry; 2]),
}

impl Queued {
    /// False when the queue has no room for it.
    ///
    /// # Safety
    /// What the entries name must outlive their operations.
    unsafe fn push_to(&self, queue: &mut squeue::SubmissionQueue<'_>) -> bool {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                Queued::One(entry) => queue.push(entry).is_ok(),
                Queued::Pair(entries) => queue.push_multiple(entries).is_ok(),
            }
        }
    }
}

/// Receive buffers that the kernel picks from by itself.
struct Buffers {
    entries: Pages,
    memory: Pages,
    tail: u16,
}

impl Ring {
    /// Must be called on the thread that will use it. `receive`: also set up receive buffers.
    pub fn new(receive: bool) -> io::Result<Ring> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_submit_all()
            .setup_cqsize(COMPLETIONS)
            .setup_clamp()
            .build(SUBMISSIONS)?;
        let mut ring = Ring { ring, buffers: None, backlog: Vec::new() };
        if receive {
            ring.buffers = Some(Buffers::register(&ring.ring)?);
        }
        Ok(ring)
    }

    pub fn accept(&mut self, listener: u32, fd: RawFd) {
        let entry = opcode::AcceptMulti::new(Fd(fd)).flags(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC).build();
        self.push(entry, Tag::Accept { listener });
    }

    pub fn receive(&mut self, slot: u32, epoch: u32, fd: RawFd) {
        let entry = opcode::RecvMulti::new(Fd(fd), RECEIVE_GROUP).build();
        self.push(entry, Tag::Receive { slot, epoch });
    }

    /// One receive only: for the first bytes of a connection, before it is known who will read the rest.
    pub fn receive_once(&mut self, slot: u32, epoch: u32, fd: RawFd) {
        let entry = opcode::Recv::new(Fd(fd), std::ptr::null_mut(), RECEIVE_BUFFER_BYTES as u32)
            .buf_group(RECEIVE_GROUP)
            .build()
            .flags(squeue::Flags::BUFFER_SELECT);
        self.push(entry, Tag::Receive { slot, epoch });
    }

    pub fn writable(&mut self, slot: u32, epoch: u32, fd: RawFd) {
        let entry = opcode::PollAdd::new(Fd(fd), libc::POLLOUT as u32).build();
        self.push(entry, Tag::Writable { slot, epoch });
    }

    /// Sends `len` bytes, as many as the socket takes at once. There is a [`Tag::Sent`] completion only when that is not
    /// all of them: it tells how many, or why none. When [`Ring::is_submitted`] says so and the completions since then
    /// name no such send, everything was taken: with MSG_DONTWAIT the kernel decides while it takes the entry.
    ///
    /// # Safety
    /// `data` must stay valid and unchanged until the ring is submitted.
    pub unsafe fn send(&mut self, position: u32, fd: RawFd, data: *const u8, len: u32) {
        // MSG_WAITALL makes less than all a failure, which has a completion; it does not wait.
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let entry = opcode::Send::new(Fd(fd), data, len).flags(flags).build();
        self.push(entry.flags(squeue::Flags::SKIP_SUCCESS), Tag::Sent { position });
    }

    /// The same for bytes in several pieces.
    ///
    /// # Safety
    /// `message`, the slices it names and their bytes must stay valid and unchanged until the ring is submitted.
    pub unsafe fn send_message(&mut self, position: u32, fd: RawFd, message: *const libc::msghdr) {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let entry = opcode::SendMsg::new(Fd(fd), message).flags(flags as u32).build();
        self.push(entry.flags(squeue::Flags::SKIP_SUCCESS), Tag::Sent { position });
    }

    /// The kernel has taken every entry, and no completion waits beside the ring for lack of room in it. So it is when
    /// [`Ring::enter`] returns, unless the kernel is short of memory or very much has happened at once.
    pub fn is_submitted(&mut self) -> bool {
        let entries = self.ring.submission();
        self.backlog.is_empty() && entries.is_empty() && !entries.cq_overflow()
    }

    pub fn cancel(&mut self, tag: Tag) {
        self.push(opcode::AsyncCancel::new(tag.pack()).build(), Tag::Ignored);
    }

    /// Polls the wake-up descriptor, again and again.
    pub fn wake_on(&mut self, fd: RawFd) {
        self.push(opcode::PollAdd::new(Fd(fd), libc::POLLIN as u32).multi(true).build(), Tag::Wake);
    }

    /// Makes room for `files` registered files and `buffers` registered buffers. Once.
    pub fn make_tables(&mut self, files: u32, buffers: u32) -> io::Result<()> {
        self.ring.submitter().register_files_sparse(files)?;
        self.ring.submitter().register_buffers_sparse(buffers)
    }

    /// The kernel keeps this file at hand, in place of the one at `slot`.
    pub fn register_file(&mut self, slot: u32, fd: RawFd) -> io::Result<()> {
        self.ring.submitter().register_files_update(slot, &[fd]).map(drop)
    }

    /// The kernel keeps the pages of `data[..len]` at hand, in place of those at `slot`.
    ///
    /// # Safety
    /// A write that names `slot` must be from memory that has stayed allocated since this call.
    pub unsafe fn register_buffer(&mut self, slot: u16, data: *mut u8, len: usize) -> io::Result<()> {
        let buffer = libc::iovec { iov_base: data.cast(), iov_len: len };
        // SAFETY: the caller's promise.
        unsafe { self.ring.submitter().register_buffers_update(u32::from(slot), &[buffer], None) }
    }

    /// A durable write: by RWF_DSYNC in one, or as a write with a linked fdatasync.
    ///
    /// # Safety
    /// `data` must stay valid and unchanged until the [`Tag::Log`] completion of `position` has been seen, and lie
    /// in the registered buffer if one is named.
    pub unsafe fn write_durable(&mut self, form: SyncForm, position: u32, write: &DurableWrite) {
        let DurableWrite { file, offset, data, len, buffer } = *write;
        let flags = if form == SyncForm::DsyncWrite { libc::RWF_DSYNC } else { 0 };
        let write = match (file, buffer) {
            (Target::Registered(slot), Some(buffer)) => {
                opcode::WriteFixed::new(types::Fixed(slot), data, len, buffer)
                    .offset(offset)
                    .rw_flags(flags)
                    .build()
            }
            (Target::Registered(slot), None) => {
                opcode::Write::new(types::Fixed(slot), data, len).offset(offset).rw_flags(flags).build()
            }
            (Target::Open(fd), Some(buffer)) => {
                opcode::WriteFixed::new(Fd(fd), data, len, buffer).offset(offset).rw_flags(flags).build()
            }
            (Target::Open(fd), None) => {
                opcode::Write::new(Fd(fd), data, len).offset(offset).rw_flags(flags).build()
            }
        };
        if form == SyncForm::DsyncWrite {
            return self.push(write, Tag::Log { position });
        }
        let datasync = types::FsyncFlags::DATASYNC;
        let sync = match file {
            Target::Registered(slot) => opcode::Fsync::new(types::Fixed(slot)).flags(datasync).build(),
            Target::Open(fd) => opcode::Fsync::new(Fd(fd)).flags(datasync).build(),
        };
        self.queue(Queued::Pair([
            write.flags(squeue::Flags::IO_LINK).user_data(Tag::LogPart { position }.pack()),
            sync.user_data(Tag::Log { position }.pack()),
        ]));
    }

    /// The bytes of a received buffer.
    pub fn received(&self, buffer: u16, len: usize) -> &[u8] {
        let buffers = self.buffers.as_ref().expect("a ring that receives has buffers");
        assert!(len <= RECEIVE_BUFFER_BYTES && buffer < RECEIVE_BUFFERS, "the kernel names our buffers only");
        &buffers.memory.bytes()[usize::from(buffer) * RECEIVE_BUFFER_BYTES..][..len]
    }

    /// Gives a receive buffer back to the kernel.
    pub fn recycle(&mut self, buffer: u16) {
        let buffers = self.buffers.as_mut().expect("a ring that receives has buffers");
        buffers.offer(buffer);
    }

    /// Submits what was queued and, when `wait` is given, sleeps until a completion or that long.
    pub fn enter(&mut self, wait: Option<Duration>) -> io::Result<()> {
        self.flush_backlog();
        let result = match wait {
            Some(timeout) => {
                let timespec = Timespec::from(timeout);
                let args = SubmitArgs::new().timespec(&timespec);
                self.ring.submitter().submit_with_args(1, &args)
            }
            // Also runs the deferred completion work.
            None => self.ring.submitter().submit_and_wait(0),
        };
        match result {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Takes the waiting completions, in order, into `into` (cleared first).
    pub fn completions(&mut self, into: &mut Vec<Completion>) {
        into.clear();
        for entry in self.ring.completion() {
            let flags = entry.flags();
            into.push(Completion {
                tag: Tag::unpack(entry.user_data()),
                result: entry.result(),
                buffer: cqueue::buffer_select(flags),
                more: cqueue::more(flags),
            });
        }
    }

    fn push(&mut self, entry: squeue::Entry, tag: Tag) {
        self.queue(Queued::One(entry.user_data(tag.pack())));
    }

    fn queue(&mut self, queued: Queued) {
        // SAFETY: descriptors outlive their operations (slots are freed after the last completion) and buffers are
        // the kernel's own or promised by `write_durable`'s caller.
        if !self.backlog.is_empty() || !unsafe { queued.push_to(&mut self.ring.submission()) } {
            self.backlog.push(queued);
        }
    }

    fn flush_backlog(&mut self) {
        while !self.backlog.is_empty() {
            let mut queue = self.ring.submission();
            let mut pushed = 0;
            for queued in &self.backlog {
                // SAFETY: as in `queue`.
                if !unsafe { queued.push_to(&mut queue) } {
                    break;
                }
                pushed += 1;
            }
            drop(queue);
            self.backlog.drain(..pushed);
            if !self.backlog.is_empty() && self.ring.submit().is_err() {
                return;
            }
        }
    }
}

impl Buffers {
    fn register(ring: &IoUring) -> io::Result<Buffers> {
        let entries = Pages::zeroed(usize::from(RECEIVE_BUFFERS) * size_of::<BufRingEntry>())?;
        let memory = Pages::zeroed(usize::from(RECEIVE_BUFFERS) * RECEIVE_BUFFER_BYTES)?;
        // SAFETY: the ring memory is page-aligned, large enough and lives as long as the ring (dropped after it).
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                entries.base() as u64,
                RECEIVE_BUFFERS,
                RECEIVE_GROUP,
                0,
            )?;
        }
        let mut buffers = Buffers { entries, memory, tail: 0 };
        for buffer in 0..RECEIVE_BUFFERS {
            buffers.offer(buffer);
        }
        Ok(buffers)
    }

    fn offer(&mut self, buffer: u16) {
        assert!(buffer < RECEIVE_BUFFERS, "only our own buffers are offered");
        let base = self.entries.base().cast::<BufRingEntry>();
        let position = usize::from(self.tail & (RECEIVE_BUFFERS - 1));
        let address = self.memory.base() as u64 + (usize::from(buffer) * RECEIVE_BUFFER_BYTES) as u64;
        // SAFETY: the position is within the ring; the kernel reads entries only below the tail stored after.
        unsafe {
            let entry = &mut *base.add(position);
            entry.set_addr(address);
            entry.set_len(RECEIVE_BUFFER_BYTES as u32);
            entry.set_bid(buffer);
            self.tail = self.tail.wrapping_add(1);
            let tail = BufRingEntry::tail(base).cast::<std::sync::atomic::AtomicU16>();
            (*tail).store(self.tail, std::sync::atomic::Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_come_back_from_user_data() {
        for tag in [
            Tag::Accept { listener: 3 },
            Tag::Receive { slot: u32::MAX, epoch: 0xff_ffff },
            Tag::Writable { slot: 0, epoch: 1 },
            Tag::Log { position: 7 },
            Tag::LogPart { position: 7 },
            Tag::Sent { position: 9 },
            Tag::Wake,
            Tag::Ignored,
        ] {
            assert_eq!(Tag::unpack(tag.pack()), tag);
        }
        assert_eq!(epoch_after(0xff_ffff), 0);
    }
}
