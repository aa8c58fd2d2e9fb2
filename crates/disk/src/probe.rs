//! Which form of a durable write is fastest on the device at hand: devices with FUA and file systems with a journal
//! differ. Measured once at start, in a scratch file, within a bound.

use std::io;
use std::time::{Duration, Instant};

use crate::{AlignedBuf, BLOCK, File, Files, OpenMode};

/// How the log makes a batch durable. Both give the same guarantee.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncForm {
    /// One write with RWF_DSYNC.
    DsyncWrite,
    /// A write, then fdatasync (linked in the ring).
    WriteThenSync,
}

/// What the probe found. The times are medians of one 4 KiB durable write, microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    pub form: SyncForm,
    pub dsync_write_us: u32,
    pub write_then_sync_us: u32,
    /// Writes measured of each form.
    pub samples: u32,
}

/// The time that a probe may take, unless a single write takes longer.
pub const PROBE_BUDGET: Duration = Duration::from_millis(50);

/// The scratch file, in the directory of `files`; removed again.
const SCRATCH: &str = "probe.tmp";
/// Writes of each form at most: a few dozen give a steady median.
const SAMPLES: usize = 32;
/// Blocks of the scratch file, each written in turn.
const BLOCKS: usize = 16;
/// WriteThenSync must beat DsyncWrite by a tenth: it costs the kernel a second request and more processor time.
const MARGIN_PERCENT: u64 = 90;

/// Measures within `budget`; at least one write of each form.
pub fn probe(files: &dyn Files, budget: Duration) -> io::Result<Probe> {
    let begun = Instant::now();
    if files.exists(SCRATCH)? {
        files.remove(SCRATCH)?;
    }
    let file = files.open(SCRATCH, OpenMode::CreateNew)?;
    let measured = measure(&*file, begun, budget);
    drop(file);
    let removed = files.remove(SCRATCH);
    let (dsync, synced) = measured?;
    removed?;
    Ok(decide(dsync, synced))
}

type Times = Vec<Duration>;

fn measure(file: &dyn File, begun: Instant, budget: Duration) -> io::Result<(Times, Times)> {
    // Written and synced first: what counts is a write into blocks that exist, as the log's are.
    file.write_at(0, &AlignedBuf::zeroed(BLOCKS * BLOCK))?;
    file.sync()?;
    let block = AlignedBuf::zeroed(BLOCK);
    let (mut dsync, mut synced) = (Vec::with_capacity(SAMPLES), Vec::with_capacity(SAMPLES));
    for sample in 0..SAMPLES {
        let offset = (sample % BLOCKS * BLOCK) as u64;
        dsync.push(timed(|| file.write_durable(offset, &block))?);
        synced.push(timed(|| {
            file.write_at(offset, &block)?;
            file.sync()
        })?);
        if begun.elapsed() >= budget {
            break;
        }
    }
    Ok((dsync, synced))
}

fn timed(run: impl FnOnce() -> io::Result<()>) -> io::Result<Duration> {
    let begun = Instant::now();
    run()?;
    Ok(begun.elapsed())
}

fn decide(mut dsync: Times, mut synced: Times) -> Probe {
    assert!(!dsync.is_empty() && dsync.len() == synced.len(), "both forms were measured alike");
    let median = |times: &mut Times| {
        times.sort();
        times[times.len() / 2].as_micros().min(u128::from(u32::MAX)) as u32
    };
    let samples = dsync.len() as u32;
    let (dsync_write_us, write_then_sync_us) = (median(&mut dsync), median(&mut synced));
    let better = u64::from(write_then_sync_us) * 100 < u64::from(dsync_write_us) * MARGIN_PERCENT;
    let form = if better { SyncForm::WriteThenSync } else { SyncForm::DsyncWrite };
    Probe { form, dsync_write_us, write_then_sync_us, samples }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SimFiles;
    use crate::sim::Fault;

    #[test]
    fn the_faster_median_wins_and_ties_go_to_one_write() {
        let us = |times: &[u64]| times.iter().map(|&t| Duration::from_micros(t)).collect::<Vec<_>>();
        let form = |dsync: &[u64], synced: &[u64]| decide(us(dsync), us(synced)).form;
        assert_eq!(form(&[100, 100, 9000], &[200, 200, 10]), SyncForm::DsyncWrite);
        assert_eq!(form(&[200, 200, 10], &[100, 100, 9000]), SyncForm::WriteThenSync);
        assert_eq!(form(&[100], &[95]), SyncForm::DsyncWrite);
        assert_eq!(form(&[0], &[0]), SyncForm::DsyncWrite);
    }

    #[test]
    fn leaves_nothing_behind_and_removes_what_a_crash_left() {
        let files = SimFiles::new();
        files.open(SCRATCH, OpenMode::CreateNew).unwrap();
        let probe = probe(&files, PROBE_BUDGET).unwrap();
        assert!(probe.samples >= 1);
        assert!(!files.exists(SCRATCH).unwrap());

        let files = SimFiles::new();
        files.fail_at(3, Fault::Io);
        assert!(super::probe(&files, PROBE_BUDGET).is_err());
        assert!(!files.exists(SCRATCH).unwrap());
    }
}
