//! What a device does wrong: errors, lies, writes that land elsewhere, rot.
//!
//! Errors ([`Fault::Io`], [`Fault::NoSpace`], [`Fault::Short`]) are told to the caller. Lies are not: a write or a sync
//! answers well and did something else. A store above can at best notice them later; what it promises under them is
//! stated where it is tested.

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
