//! Runs a job as a helper does: on a thread of its own, which stops before each of its operations on the disk until the
//! script has done something else. So the images of a job's moments have log writes, growth and changed pages between
//! two of its writes.
//!
//! Invariant: one of the two threads runs at a time, and the order follows from the script alone.

use std::panic::resume_unwind;
use std::rc::Rc;
use std::sync::mpsc;

use base::Random;
use disk::SimFiles;

use crate::world::disk::{ProcessFiles, between};

/// The same disk, whose operations stop where [`interleaved`] says. Not truncation, which is under a lock of the product.
pub(super) fn stopping(files: &SimFiles) -> ProcessFiles {
    ProcessFiles::new(files.clone(), 0, Random::new(0))
}

/// Runs `job` to its end, and `others` before each operation that it makes on files that [`stopping`] gave. The first
/// error of `others` ends only them.
pub(super) fn interleaved<T: Send>(
    job: impl FnOnce() -> T + Send,
    mut others: impl FnMut() -> Result<(), String>,
) -> Result<T, String> {
    let (reached, stops) = mpsc::channel::<()>();
    let (go_on, released) = mpsc::channel::<()>();
    #[cfg(feature = "zoo")]
    let bug = base::bug::ALL.iter().copied().find(|&bug| base::bug::is(bug));
    // The ends of the channels are the closure's: a script that panics lets go of a job that waits.
    std::thread::scope(move |scope| {
        let job = scope.spawn(move || {
            #[cfg(feature = "zoo")]
            base::bug::inject(bug);
            between(Some(Rc::new(move |_| {
                if reached.send(()).is_ok() {
                    // Refused: nobody is left to wait for.
                    let _ = released.recv();
                }
            })));
            let result = job();
            between(None);
            result
        });
        let mut done = Ok(());
        while stops.recv().is_ok() {
            if done.is_ok() {
                done = others();
            }
            if go_on.send(()).is_err() {
                break;
            }
        }
        let result = job.join().unwrap_or_else(|panic| resume_unwind(panic));
        done.map(|()| result)
    })
}

#[cfg(test)]
mod tests {
    use disk::{AlignedBuf, BLOCK, Files, OpenMode};

    use super::*;

    #[test]
    fn others_run_before_each_operation_and_errors_of_theirs_do_not_stop_the_job() {
        let files = SimFiles::new();
        let process = stopping(&files);
        let file = process.open("f", OpenMode::CreateNew).unwrap();
        let mut seen = Vec::new();
        let block = AlignedBuf::zeroed(BLOCK);
        let job = || {
            file.write_at(0, &block).unwrap();
            file.write_at(BLOCK as u64, &block).unwrap();
            file.sync().unwrap();
            7
        };
        let ran = interleaved(job, || {
            seen.push(files.operations());
            Ok(())
        });
        assert_eq!((ran, seen), (Ok(7), vec![1, 2, 3]));
        let mut times = 0;
        let ended = interleaved(job, || {
            times += 1;
            Err("no".to_owned())
        });
        assert_eq!((ended, times, files.operations()), (Err("no".to_owned()), 1, 7));
    }

    #[test]
    fn a_panic_of_either_side_comes_out() {
        let files = SimFiles::new();
        let process = stopping(&files);
        let file = process.open("f", OpenMode::CreateNew).unwrap();
        let run = |job: bool, others: bool| {
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let block = AlignedBuf::zeroed(BLOCK);
                interleaved(
                    || {
                        file.write_at(0, &block).unwrap();
                        assert!(!job, "the job's");
                    },
                    || {
                        assert!(!others, "the script's");
                        Ok(())
                    },
                )
            }))
            .is_err()
        };
        assert!(run(true, false) && run(false, true) && !run(false, false));
    }
}
