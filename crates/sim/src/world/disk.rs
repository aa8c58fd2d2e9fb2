//! The disk as one process sees it: the simulated files of its machine, through which faults come in and at which
//! other threads may get the processor.
//!
//! - A process that has ended does nothing more: its operations fail, also those of a helper that was in the midst of
//!   a job.
//! - Errors (EIO at any operation, ENOSPC where room is asked for) come by the seed while they are switched on.
//! - [`between`] lets the world run other cores between two operations of a job: that is where a helper thread would
//!   wait for its device. Not where the product cuts a file: that it does under a lock.
//!
//! What survives a power loss is decided by `disk::SimFiles` underneath.

use std::cell::RefCell;
use std::io;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base::Random;
use disk::sim::Fault;
use disk::{Chunk, DioAlignment, File, Files, OpenMode, SimFiles};

use super::trace::{self, What};

/// What runs between the operations of a job.
type Between = Rc<dyn Fn(u64)>;

thread_local! {
    static BETWEEN: RefCell<Option<Between>> = const { RefCell::new(None) };
}

/// Sets what runs between operations, until it is set to nothing. It is told the number of the next operation.
pub(crate) fn between(run: Option<Between>) {
    BETWEEN.set(run);
}

fn yield_now(operation: u64) {
    let run = BETWEEN.with_borrow(Clone::clone);
    if let Some(run) = run {
        run(operation);
    }
}

/// Which errors come, and how often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Errors {
    /// One operation in so many fails with EIO; 0: none.
    pub io_one_in: u64,
    /// One request for room in so many fails with ENOSPC; 0: none.
    pub no_space_one_in: u64,
}

struct State {
    member: u32,
    random: Random,
    errors: Errors,
    alive: bool,
    /// An operation has failed with EIO: the process must end.
    wounded: bool,
    io_errors: u64,
    no_space: u64,
}

/// The files of one process. Clones are the same.
#[derive(Clone)]
pub(crate) struct ProcessFiles {
    files: SimFiles,
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    /// Asks for room.
    Growth,
    /// Writes or syncs.
    Contents,
    Names,
    /// Gives room back.
    Cut,
}

impl Operation {
    /// The product holds the lock of its mapping where it makes a file shorter.
    fn under_lock(self) -> bool {
        matches!(self, Operation::Cut)
    }
}

impl ProcessFiles {
    pub fn new(files: SimFiles, member: u32, random: Random) -> ProcessFiles {
        let errors = Errors::default();
        let state = State { member, random, errors, alive: true, wounded: false, io_errors: 0, no_space: 0 };
        ProcessFiles { files, state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_errors(&self, errors: Errors) {
        self.state().errors = errors;
    }

    /// The process has ended: nothing that is left of it reaches the disk.
    pub fn end(&self) {
        self.state().alive = false;
    }

    /// Whether an operation has failed with EIO.
    pub fn is_wounded(&self) -> bool {
        self.state().wounded
    }

    /// Errors that came so far: EIO, ENOSPC.
    pub fn errors_met(&self) -> (u64, u64) {
        let state = self.state();
        (state.io_errors, state.no_space)
    }

    /// Before an operation: may make it fail.
    fn begin(&self, operation: Operation) -> io::Result<()> {
        let number = self.files.operations();
        if !operation.under_lock() {
            yield_now(number);
        }
        let mut state = self.state();
        if !state.alive {
            return Err(io::Error::other("the process has ended"));
        }
        let number = self.files.operations();
        let (io_one_in, no_space_one_in) = (state.errors.io_one_in, state.errors.no_space_one_in);
        if io_one_in > 0 && state.random.one_in(io_one_in) {
            state.io_errors += 1;
            // Also where room is asked for or given back: only "no room" is an ordinary answer (law 8).
            state.wounded = true;
            trace::note(What::Disk { member: state.member, fault: "EIO", operation: number });
            self.files.fail_at(number, Fault::Io);
        } else if operation == Operation::Growth
            && no_space_one_in > 0
            && state.random.one_in(no_space_one_in)
        {
            state.no_space += 1;
            trace::note(What::Disk { member: state.member, fault: "ENOSPC", operation: number });
            self.files.fail_at(number, Fault::NoSpace);
        }
        Ok(())
    }
}

impl Files for ProcessFiles {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        if mode == OpenMode::CreateNew {
            self.begin(Operation::Growth)?;
        }
        let file = self.files.open(name, mode)?;
        Ok(Arc::new(ProcessFile { file, files: self.clone() }))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.files.list(dir)
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        self.begin(Operation::Growth)?;
        self.files.create_dir(dir)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.begin(Operation::Names)?;
        self.files.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.begin(Operation::Names)?;
        self.files.remove(name)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.begin(Operation::Contents)?;
        self.files.sync_dir(dir)
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        self.files.exists(name)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.files.free_bytes()
    }
}

struct ProcessFile {
    file: Arc<dyn File>,
    files: ProcessFiles,
}

impl File for ProcessFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.files.begin(Operation::Contents)?;
        self.file.write_at(offset, data)
    }

    fn write_durable(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.files.begin(Operation::Contents)?;
        self.file.write_durable(offset, data)
    }

    fn write_many(&self, writes: &[(u64, &[u8])]) -> io::Result<()> {
        writes.iter().try_for_each(|&(offset, data)| self.write_at(offset, data))
    }

    fn sync(&self) -> io::Result<()> {
        self.files.begin(Operation::Contents)?;
        self.file.sync()
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.files.begin(Operation::Growth)?;
        self.file.allocate(len)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.files.begin(Operation::Cut)?;
        self.file.truncate(len)
    }

    fn raw_fd(&self) -> Option<RawFd> {
        None
    }

    fn dio_alignment(&self) -> Option<DioAlignment> {
        self.file.dio_alignment()
    }

    fn map(&self, offset: u64, len: usize) -> io::Result<Box<dyn Chunk>> {
        self.file.map(offset, len)
    }

    fn map_fresh(&self, offset: u64, len: usize) -> io::Result<Box<dyn Chunk>> {
        self.file.map_fresh(offset, len)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_process_that_ended_writes_nothing_more() {
        let files = SimFiles::new();
        let process = ProcessFiles::new(files.clone(), 0, Random::new(1));
        let file = process.open("file", OpenMode::CreateNew).unwrap();
        file.allocate(4096).unwrap();
        let mut block = disk::AlignedBuf::zeroed(4096);
        block[0] = 1;
        process.end();
        assert!(file.write_at(0, &block).is_err() && file.sync().is_err());
        assert_eq!(files.bytes("file").unwrap()[0], 0);
    }

    #[test]
    fn errors_come_where_they_may_and_others_run_between() {
        let process = ProcessFiles::new(SimFiles::new(), 0, Random::new(1));
        let file = process.open("file", OpenMode::CreateNew).unwrap();
        file.allocate(4096).unwrap();
        let block = disk::AlignedBuf::zeroed(4096);
        let ran = Rc::new(Cell::new(0));
        let count = ran.clone();
        between(Some(Rc::new(move |_| count.set(count.get() + 1))));
        file.write_at(0, &block).unwrap();
        file.allocate(8192).unwrap();
        file.truncate(4096).unwrap();
        between(None);
        assert_eq!(ran.get(), 2, "not at the cut");
        process.set_errors(Errors { io_one_in: 0, no_space_one_in: 1 });
        assert!(disk::is_no_space(&file.allocate(1 << 20).unwrap_err()));
        file.write_at(0, &block).unwrap();
        assert!(!process.is_wounded());
        process.set_errors(Errors { io_one_in: 1, no_space_one_in: 0 });
        assert!(file.sync().is_err() && process.is_wounded());
        assert_eq!(process.errors_met(), (1, 1));
    }

    #[test]
    fn an_error_wounds_wherever_it_comes() {
        type Operation<'o> = &'o dyn Fn(&ProcessFiles, &dyn File) -> io::Result<()>;
        let block = disk::AlignedBuf::zeroed(4096);
        let operations: [Operation<'_>; 8] = [
            &|_, file| file.write_at(0, &block),
            &|_, file| file.write_durable(0, &block),
            &|_, file| file.sync(),
            &|_, file| file.allocate(1 << 20),
            &|_, file| file.truncate(0),
            &|files, _| files.rename("file", "other"),
            &|files, _| files.remove("file"),
            &|files, _| files.sync_dir(""),
        ];
        for (number, operation) in operations.iter().enumerate() {
            let process = ProcessFiles::new(SimFiles::new(), 0, Random::new(1));
            let file = process.open("file", OpenMode::CreateNew).unwrap();
            file.allocate(4096).unwrap();
            process.set_errors(Errors { io_one_in: 1, no_space_one_in: 0 });
            let error = operation(&process, &*file).unwrap_err();
            assert!(!disk::is_no_space(&error) && process.is_wounded(), "operation {number}: {error}");
        }
    }
}
