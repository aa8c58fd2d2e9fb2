//! Many writes in flight: a ring of this thread's own, made at the first use and kept.
//!
//! Invariant: when [`write_many`] returns, no write is in flight, so the borrowed bytes are the caller's again.
//! Must not be used by the log core, which has a ring of its own.

use std::cell::RefCell;
use std::io;
use std::os::fd::RawFd;

use io_uring::{IoUring, opcode, types};

use crate::BLOCK;
use crate::error::ring_error;

/// Writes in flight: more gives no more bandwidth to one helper and only lengthens the log's own writes.
const DEPTH: usize = 32;
/// One submitted write, bytes: longer ones are cut, so that a big run is in flight as several.
const PIECE: usize = 1 << 20;

thread_local! {
    static RING: RefCell<Option<IoUring>> = const { RefCell::new(None) };
}

/// A write that is in flight, or what is left of it.
#[derive(Clone, Copy)]
struct Flight {
    offset: u64,
    start: *const u8,
    len: usize,
}

/// The writes, cut into pieces.
struct Pieces<'a> {
    writes: std::slice::Iter<'a, (u64, &'a [u8])>,
    offset: u64,
    rest: &'a [u8],
}

impl Iterator for Pieces<'_> {
    type Item = Flight;

    fn next(&mut self) -> Option<Flight> {
        while self.rest.is_empty() {
            let &(offset, data) = self.writes.next()?;
            (self.offset, self.rest) = (offset, data);
        }
        let (piece, rest) = self.rest.split_at(self.rest.len().min(PIECE));
        let flight = Flight { offset: self.offset, start: piece.as_ptr(), len: piece.len() };
        self.offset += piece.len() as u64;
        self.rest = rest;
        Some(flight)
    }
}

/// Writes all to `fd`. The first error is returned, after all that was in flight has ended.
pub(crate) fn write_many(fd: RawFd, writes: &[(u64, &[u8])]) -> io::Result<()> {
    RING.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Some(IoUring::new(DEPTH as u32).map_err(ring_error)?);
        }
        let ring = slot.as_mut().expect("made above");
        run(ring, fd, Pieces { writes: writes.iter(), offset: 0, rest: &[] })
    })
}

fn run(ring: &mut IoUring, fd: RawFd, mut pieces: Pieces<'_>) -> io::Result<()> {
    let mut flights: [Option<Flight>; DEPTH] = [None; DEPTH];
    // Slots that are not in flight; the first ones hold what a short write left over.
    let mut idle: Vec<usize> = (0..DEPTH).rev().collect();
    let mut again: Vec<Flight> = Vec::new();
    let mut failed: Option<io::Error> = None;
    loop {
        while failed.is_none() && !idle.is_empty() {
            let Some(flight) = again.pop().or_else(|| pieces.next()) else { break };
            let slot = idle.pop().expect("not empty");
            let entry = opcode::Write::new(types::Fd(fd), flight.start, flight.len as u32)
                .offset(flight.offset)
                .build()
                .user_data(slot as u64);
            flights[slot] = Some(flight);
            // SAFETY: the bytes are borrowed by the caller of write_many, which does not return before this write
            // has ended; the descriptor is open for as long.
            unsafe { ring.submission().push(&entry) }.expect("as many entries as slots");
        }
        if idle.len() == DEPTH {
            return failed.map_or(Ok(()), Err);
        }
        if let Err(error) = ring.submit_and_wait(1) {
            match error.raw_os_error() {
                Some(libc::EINTR | libc::EAGAIN | libc::EBUSY) => continue,
                // The kernel may still read the borrowed bytes, so neither returning nor unwinding is possible.
                _ => {
                    eprintln!("io_uring_enter failed with writes in flight: {error}");
                    std::process::abort();
                }
            }
        }
        for completion in ring.completion() {
            let slot = completion.user_data() as usize;
            let flight = flights[slot].take().expect("a completion belongs to a flight");
            idle.push(slot);
            match ended(flight, completion.result()) {
                Ok(None) => {}
                Ok(Some(rest)) => again.push(rest),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
    }
}

/// What is left to write; an error when the write failed or made no progress in whole blocks.
fn ended(flight: Flight, result: i32) -> io::Result<Option<Flight>> {
    match result {
        done if done < 0 => match -done {
            libc::EINTR | libc::EAGAIN => Ok(Some(flight)),
            number => Err(io::Error::from_raw_os_error(number)),
        },
        done if done as usize == flight.len => Ok(None),
        done if done > 0 && (done as usize).is_multiple_of(BLOCK) && (done as usize) < flight.len => {
            Ok(Some(Flight {
                offset: flight.offset + done as u64,
                start: flight.start.wrapping_add(done as usize),
                len: flight.len - done as usize,
            }))
        }
        done => Err(io::Error::new(
            io::ErrorKind::WriteZero,
            format!("{done} of {} bytes written at offset {}", flight.len, flight.offset),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_every_byte_once_and_in_place() {
        let data = vec![1u8; 3 * PIECE + BLOCK];
        let writes: Vec<(u64, &[u8])> = vec![(0, &data[..BLOCK]), (8192, &[]), (1 << 30, &data)];
        let pieces: Vec<(u64, usize)> = Pieces { writes: writes.iter(), offset: 0, rest: &[] }
            .map(|flight| (flight.offset, flight.len))
            .collect();
        let big = 1u64 << 30;
        let piece = PIECE as u64;
        assert_eq!(
            pieces,
            [
                (0, BLOCK),
                (big, PIECE),
                (big + piece, PIECE),
                (big + 2 * piece, PIECE),
                (big + 3 * piece, BLOCK)
            ]
        );
    }

    #[test]
    fn short_writes_go_on_and_odd_ones_fail() {
        let flight = Flight { offset: 4096, start: std::ptr::null(), len: 3 * BLOCK };
        assert!(ended(flight, 3 * BLOCK as i32).unwrap().is_none());
        let rest = ended(flight, BLOCK as i32).unwrap().unwrap();
        assert_eq!((rest.offset, rest.start.addr(), rest.len), (8192, BLOCK, 2 * BLOCK));
        assert!(ended(flight, 100).is_err());
        assert!(ended(flight, 0).is_err());
        assert_eq!(ended(flight, -libc::EIO).err().unwrap().raw_os_error(), Some(libc::EIO));
        assert_eq!(ended(flight, -libc::EAGAIN).unwrap().unwrap().len, 3 * BLOCK);
    }
}
