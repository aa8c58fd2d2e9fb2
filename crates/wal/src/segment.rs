//! Segment files: their names, and how one is made ready by a helper while the log goes on.
//!
//! Invariants: a name `NUMBER.seg` is given only to a file that is wholly written and synced, and the name is
//! synced before the file is used (law 4). A file's number only rises, and no two files ever share one, so whatever
//! an earlier life left in a recycled file carries a number that is not the file's.

use std::io;
use std::sync::Arc;

use disk::{AlignedBuf, File, Files, OpenMode};

/// One write while zeroing, bytes: long enough for the device's full bandwidth, short for the log's own writes.
const ZERO_BYTES: usize = 1 << 20;

/// Segments and writes have lower numbers: as many again are left to count on.
pub(crate) const NUMBER_MAX: u64 = 1 << 62;

/// The number of a segment, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(pub u64);

impl std::fmt::Display for SegmentId {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{:08}.seg", self.0)
    }
}

impl SegmentId {
    pub(crate) fn path(self, dir: &str) -> String {
        format!("{dir}/{self}")
    }

    /// The name while the file is being made.
    pub(crate) fn temporary(self, dir: &str) -> String {
        format!("{dir}/{:08}.tmp", self.0)
    }

    /// The number in a file name, and whether it is the temporary one; `None` for names that are not the log's.
    pub(crate) fn parse(name: &str) -> Option<(SegmentId, bool)> {
        let (digits, temporary) = match name.strip_suffix(".seg") {
            Some(digits) => (digits, false),
            None => (name.strip_suffix(".tmp")?, true),
        };
        let number: u64 = digits.parse().ok()?;
        let known = (1..=NUMBER_MAX).contains(&number) && format!("{number:08}") == digits;
        known.then_some((SegmentId(number), temporary))
    }
}

pub(crate) enum Work {
    Create { bytes: u64 },
    Recycle { from: SegmentId },
    Remove { numbers: Vec<SegmentId> },
}

/// Work on segment files for the helper pool: it blocks. One is under way at a time.
pub struct SegmentJob {
    pub(crate) dir: String,
    pub(crate) number: SegmentId,
    pub(crate) work: Work,
}

/// What a finished job gives back to the log.
pub struct SegmentReady {
    pub(crate) made: Option<(SegmentId, Arc<dyn File>)>,
}

impl SegmentJob {
    /// Whether a segment that was given up becomes the next one.
    pub fn recycles(&self) -> bool {
        matches!(self.work, Work::Recycle { .. })
    }

    /// An error for which `disk::is_no_space` holds is an ordinary one (the file is gone again; tell the log by
    /// `Wal::segment_failed` and try later); any other ends the process (law 8).
    pub fn run(self, files: &dyn Files) -> io::Result<SegmentReady> {
        let made = match self.work {
            Work::Create { bytes } => {
                create(files, &self.dir, self.number, bytes, None)?;
                Some(self.number)
            }
            Work::Recycle { from } => {
                files.rename(&from.path(&self.dir), &self.number.path(&self.dir))?;
                if !base::bug!(SegmentNameNotSynced) {
                    files.sync_dir(&self.dir)?;
                }
                Some(self.number)
            }
            Work::Remove { numbers } => {
                numbers.iter().try_for_each(|number| files.remove(&number.path(&self.dir)))?;
                files.sync_dir(&self.dir)?;
                None
            }
        };
        let open = |number: SegmentId| {
            let file = files.open(&number.path(&self.dir), OpenMode::ReadWrite)?;
            Ok::<_, io::Error>((number, file))
        };
        Ok(SegmentReady { made: made.map(open).transpose()? })
    }
}

/// Makes a zeroed segment file, with `header` as its first block when there is one, and names it.
pub(crate) fn create(
    files: &dyn Files,
    dir: &str,
    number: SegmentId,
    bytes: u64,
    header: Option<&[u8]>,
) -> io::Result<()> {
    let temporary = number.temporary(dir);
    if files.exists(&temporary)? {
        files.remove(&temporary)?;
    }
    let file = files.open(&temporary, OpenMode::CreateNew)?;
    if let Err(error) = fill(&*file, bytes, header) {
        if disk::is_no_space(&error) {
            // Gives the room back. That this fails is no matter of room (law 8).
            files.remove(&temporary)?;
        }
        return Err(error);
    }
    files.rename(&temporary, &number.path(dir))?;
    files.sync_dir(dir)
}

fn fill(file: &dyn File, bytes: u64, header: Option<&[u8]>) -> io::Result<()> {
    file.allocate(bytes)?;
    let zeros = AlignedBuf::zeroed(ZERO_BYTES.min(bytes as usize));
    let mut offset = 0;
    while offset < bytes {
        let len = (zeros.len() as u64).min(bytes - offset) as usize;
        file.write_at(offset, &zeros[..len])?;
        offset += len as u64;
    }
    if let Some(header) = header {
        file.write_at(0, header)?;
    }
    file.sync()
}

/// Makes a segment with `header` as its first block out of a file that is named `from`. The new name is given only
/// when header and contents are durable, so a crash on the way leaves a temporary file, which the next start removes.
pub(crate) fn reuse(
    files: &dyn Files,
    dir: &str,
    from: SegmentId,
    number: SegmentId,
    header: &[u8],
) -> io::Result<()> {
    assert!(number > from, "numbers rise");
    let temporary = number.temporary(dir);
    files.rename(&from.path(dir), &temporary)?;
    // Before the header: under its old name the file must never have the new number.
    files.sync_dir(dir)?;
    let file = files.open(&temporary, OpenMode::ReadWrite)?;
    file.write_at(0, header)?;
    file.sync()?;
    files.rename(&temporary, &number.path(dir))?;
    files.sync_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use disk::sim::Fault;
    use disk::{BLOCK, SimFiles};

    #[test]
    fn names_are_numbers_of_eight_digits_or_more() {
        for (number, name) in [(1, "00000001"), (99_999_999, "99999999"), (123_456_789, "123456789")] {
            let id = SegmentId(number);
            assert_eq!(id.to_string(), format!("{name}.seg"));
            assert_eq!(SegmentId::parse(&format!("{name}.seg")), Some((id, false)));
            assert_eq!(SegmentId::parse(&format!("{name}.tmp")), Some((id, true)));
        }
        for foreign in [
            "1.seg",
            "00000000.seg",
            "000000001.seg",
            "0000000a.seg",
            "00000001.bak",
            "+0000001.seg",
            "18446744073709551615.seg",
        ] {
            assert_eq!(SegmentId::parse(foreign), None, "{foreign}");
        }
    }

    /// Blocks that were only allocated would be made by the first write to each of them, within the log's time.
    #[test]
    fn every_block_of_a_new_segment_is_written_before_it_has_its_name() {
        let files = SimFiles::new();
        files.create_dir("log").unwrap();
        files.sync_dir("").unwrap();
        files.record();
        let blocks = 5 * (ZERO_BYTES / BLOCK) / 2 + 1;
        let work = Work::Create { bytes: (blocks * BLOCK) as u64 };
        SegmentJob { dir: "log".to_owned(), number: SegmentId(7), work }.run(&files).unwrap();
        let (mut next, mut most) = (0, 0);
        for moment in files.take_moments() {
            let lines = moment.describe();
            let writes: Vec<(usize, usize)> = lines
                .iter()
                .filter_map(|line| {
                    let (blocks, name) = line.strip_prefix("write blocks ")?.split_once(" of ")?;
                    assert_eq!(name, SegmentId(7).temporary("log"));
                    let (from, to) = blocks.split_once("..")?;
                    Some((from.parse().unwrap(), to.parse().unwrap()))
                })
                .collect();
            most = most.max(writes.len());
            let known = next;
            for (from, to) in writes.into_iter().skip_while(|(from, _)| *from < known) {
                assert_eq!(from, next, "one behind the other: {lines:?}");
                assert!((to - from) * BLOCK <= ZERO_BYTES, "{lines:?}");
                next = to;
            }
        }
        assert_eq!((next, most), (blocks, 3), "all are written, then synced");
        assert_eq!(files.unsynced(), 0);
        assert_eq!(files.bytes("log/00000007.seg").unwrap().len(), blocks * BLOCK);
    }

    #[test]
    fn a_temporary_file_is_known_as_such() {
        let name = SegmentId(7).temporary("log");
        assert_eq!(name.strip_prefix("log/").and_then(SegmentId::parse), Some((SegmentId(7), true)));
    }

    #[test]
    fn a_full_disk_leaves_nothing_behind() {
        let files = SimFiles::new();
        files.create_dir("log").unwrap();
        files.set_capacity(4 * BLOCK as u64);
        let job =
            |bytes| SegmentJob { dir: "log".to_owned(), number: SegmentId(1), work: Work::Create { bytes } };
        assert!(disk::is_no_space(&job(8 * BLOCK as u64).run(&files).err().unwrap()));
        assert!(files.list("log").unwrap().is_empty());
        // That it cannot be removed is another matter (law 8): whatever operation fails, that is said.
        let mut met = 0;
        for number in 0.. {
            let files = SimFiles::new();
            files.create_dir("log").unwrap();
            files.set_capacity(4 * BLOCK as u64);
            let failing = files.operations() + number;
            files.fail_at(failing, Fault::Io);
            let error = job(8 * BLOCK as u64).run(&files).err().unwrap();
            if files.operations() <= failing {
                assert!(disk::is_no_space(&error));
                break;
            }
            assert!(!disk::is_no_space(&error), "operation {number}: {error}");
            met += 1;
        }
        assert!(met > 2, "the file is made, grows in part, and is removed: {met}");
        let ready = job(4 * BLOCK as u64).run(&files).unwrap();
        assert_eq!(ready.made.unwrap().0, SegmentId(1));
        assert_eq!(files.list("log").unwrap(), ["00000001.seg"]);
    }
}
