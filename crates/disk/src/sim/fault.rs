//! What a device does wrong: errors, lies, writes that land elsewhere, rot, and slowness.
//!
//! Errors ([`Fault::Io`], [`Fault::NoSpace`], [`Fault::Short`]) are told to the caller. Lies are not: a write or a sync
//! answers well and did something else. A store above can at best notice them later; what it promises under them is
//! stated where it is tested.

use base::Random;

/// What the smallest unit of a device is, bytes: it is torn, lost and rots as a whole.
pub const SECTOR: usize = 512;

/// A fault of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// EIO, and nothing was changed. A failed sync loses what it should have made durable.
    Io,
    /// ENOSPC, before anything was changed.
    NoSpace,
    /// EIO after so many blocks of the write were made. Any other operation: as `Io`.
    Short { blocks: usize },
    /// Answers well and did nothing: a write that nobody will read, a sync that left everything in the volatile cache,
    /// where the next honest sync finds it. Any other operation goes well.
    Lost,
    /// The write lands so many blocks further on in its file, wrapping around at its end, and its own place keeps what
    /// it had. Any other operation goes well.
    Misdirected { blocks: u64 },
}

/// A fault of one read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFault {
    /// EIO.
    Io,
    /// The end of the file is met early (`UnexpectedEof`): as of a file that is cut short behind everybody's back.
    Short,
    /// This read, and no other, has the byte at this place (modulo its length) changed by `mask`.
    Flipped { at: usize, mask: u8 },
}

/// Damage to one sector of what the device holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rot {
    /// One bit, counted from the first of the sector.
    Flip {
        bit: usize,
    },
    Zeros,
    /// What the sector held before its block was last overwritten: a write that was lost long ago.
    Stale,
    /// What another sector of the file holds.
    CopyOf {
        sector: u64,
    },
}

/// How long operations of a device take, microseconds: for a world whose clock can be told to wait. The simulated disk
/// itself has no clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// The shortest and the longest of an ordinary operation.
    pub usual_us: (u64, u64),
    /// Beyond that, for each MiB.
    pub mib_us: u64,
    /// One operation in so many is slow; 0: none.
    pub slow_one_in: u64,
    /// The shortest and the longest of these.
    pub slow_us: (u64, u64),
}

impl Latency {
    /// Draws the time of an operation on so many bytes.
    pub fn draw(&self, random: &mut Random, bytes: usize) -> u64 {
        let slow = self.slow_one_in > 0 && random.one_in(self.slow_one_in);
        let (low, high) = if slow { self.slow_us } else { self.usual_us };
        assert!(low <= high, "{low} us is the shortest, {high} us the longest");
        low + random.below(high - low + 1) + self.mib_us * bytes as u64 / (1 << 20)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_operations_are_usual_and_some_are_slow() {
        let latency = Latency { usual_us: (50, 90), mib_us: 400, slow_one_in: 10, slow_us: (10_000, 20_000) };
        let mut random = Random::new(1);
        let drawn: Vec<u64> = (0..1000).map(|_| latency.draw(&mut random, 4096)).collect();
        let slow = drawn.iter().filter(|us| **us >= 10_000).count();
        assert!((50..200).contains(&slow), "{slow}");
        assert!(drawn.iter().all(|us| (50..=92).contains(us) || (10_000..=20_002).contains(us)));
        assert!(latency.draw(&mut random, 1 << 20) >= 450);
    }
}
