//! The real files: direct I/O below one directory of the operating system.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::chunk::MappedChunk;
use crate::error::{advised, named, no_direct_io};
use crate::syncs::Syncs;
use crate::{BLOCK, Chunk, DioAlignment, File, Files, OpenMode, assert_aligned, assert_name, uring};

/// Names below `root`; every file is opened with O_DIRECT.
pub struct OsFiles {
    root: PathBuf,
    /// A directory of the root that stands elsewhere, and where.
    apart: Option<(String, PathBuf)>,
}

impl OsFiles {
    /// `root` must be a directory.
    pub fn new(root: impl Into<PathBuf>) -> io::Result<OsFiles> {
        let root = root.into();
        let meta = std::fs::metadata(&root)
            .map_err(|error| named(format!("open the data directory {}", root.display()), error))?;
        if !meta.is_dir() {
            let source = io::Error::from(io::ErrorKind::NotADirectory);
            return Err(named(format!("open the data directory {}", root.display()), source));
        }
        Ok(OsFiles { root, apart: None })
    }

    /// The same, but for the directory `name` of the root, which is `path`: there it is made where it is absent, and
    /// its parent must be a directory.
    pub fn with_directory(self, name: &str, path: impl Into<PathBuf>) -> OsFiles {
        assert_name(name);
        assert!(!name.contains('/'), "a directory of the root, not {name}");
        OsFiles { apart: Some((name.to_owned(), path.into())), ..self }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() {
            return self.root.clone();
        }
        assert_name(name);
        if let Some((dir, path)) = &self.apart
            && let Some(rest) = name.strip_prefix(dir.as_str())
        {
            match rest.strip_prefix('/') {
                Some(rest) => return path.join(rest),
                None if rest.is_empty() => return path.clone(),
                None => {}
            }
        }
        self.root.join(name)
    }
}

impl Files for OsFiles {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        assert_name(name);
        let path = self.path(name);
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(mode != OpenMode::Read)
            .create_new(mode == OpenMode::CreateNew)
            .mode(0o600)
            .custom_flags(libc::O_DIRECT | libc::O_CLOEXEC)
            .open(&path)
            .map_err(|error| match error.raw_os_error() {
                Some(libc::EINVAL | libc::EOPNOTSUPP) => {
                    if mode == OpenMode::CreateNew {
                        // The kernel creates the name before it looks at the flag.
                        let _ = std::fs::remove_file(&path);
                    }
                    no_direct_io(&self.root, error)
                }
                _ => named(format!("open {}", path.display()), error),
            })?;
        let alignment = statx_dio_alignment(&file);
        check_alignment(&self.root, alignment)?;
        Ok(Arc::new(OsFile { file: Arc::new(file), path, alignment, syncs: Syncs::default() }))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let path = self.path(dir);
        let wrap = |error| named(format!("list {}", path.display()), error);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&path).map_err(wrap)? {
            names.push(entry.map_err(wrap)?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        assert_name(dir);
        let path = self.path(dir);
        let made = match std::fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => return Ok(()),
            made => made,
        };
        // One that stands elsewhere is not made durable by a sync of the root.
        let apart = self.apart.as_ref().is_some_and(|(name, _)| name == dir);
        let parent = path.parent().filter(|_| apart);
        made.and_then(|()| parent.map_or(Ok(()), |parent| std::fs::File::open(parent)?.sync_all()))
            .map_err(|error| named(format!("create the directory {}", path.display()), error))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        assert_name(from);
        assert_name(to);
        std::fs::rename(self.path(from), self.path(to)).map_err(|error| {
            named(format!("rename {} to {}", self.path(from).display(), self.path(to).display()), error)
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        assert_name(name);
        std::fs::remove_file(self.path(name))
            .map_err(|error| named(format!("remove {}", self.path(name).display()), error))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let path = self.path(dir);
        std::fs::File::open(&path)
            .and_then(|dir| dir.sync_all())
            .map_err(|error| named(format!("sync the directory {}", path.display()), error))
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        let path = self.path(name);
        path.try_exists().map_err(|error| named(format!("look for {}", path.display()), error))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let path = std::ffi::CString::new(self.root.as_os_str().as_bytes())?;
        let mut answer = MaybeUninit::<libc::statvfs>::uninit();
        // SAFETY: `path` ends in NUL and `answer` is writable memory of the right size.
        if unsafe { libc::statvfs(path.as_ptr(), answer.as_mut_ptr()) } != 0 {
            let source = io::Error::last_os_error();
            return Err(named(format!("ask the free space of {}", self.root.display()), source));
        }
        // SAFETY: the call succeeded, so it has filled the structure.
        let answer = unsafe { answer.assume_init() };
        Ok(answer.f_bavail * answer.f_frsize)
    }
}

/// `None` when kernel or file system do not say; offset 0 when they say that there is no direct I/O.
fn statx_dio_alignment(file: &std::fs::File) -> Option<DioAlignment> {
    let mut answer = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the descriptor is open, the path is the empty C string, `answer` is writable and of the right size.
    let result = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            answer.as_mut_ptr(),
        )
    };
    if result != 0 {
        return None;
    }
    // SAFETY: all fields are plain numbers, zeroed above and filled by the call.
    let answer = unsafe { answer.assume_init() };
    (answer.stx_mask & libc::STATX_DIOALIGN != 0)
        .then_some(DioAlignment { memory: answer.stx_dio_mem_align, offset: answer.stx_dio_offset_align })
}

fn check_alignment(root: &Path, alignment: Option<DioAlignment>) -> io::Result<()> {
    let Some(DioAlignment { memory, offset }) = alignment else { return Ok(()) };
    if offset == 0 {
        return Err(no_direct_io(root, io::Error::from(io::ErrorKind::Unsupported)));
    }
    if offset as usize > BLOCK || memory as usize > BLOCK {
        return Err(advised(
            format!("use {} for direct I/O", root.display()),
            io::Error::from(io::ErrorKind::Unsupported),
            format!(
                "Its device wants offsets in multiples of {offset} and memory of {memory} bytes, the files here are \
                 made of blocks of {BLOCK}; put the data directory on a device with blocks of at most {BLOCK} bytes"
            ),
        ));
    }
    Ok(())
}

struct OsFile {
    file: Arc<std::fs::File>,
    path: PathBuf,
    alignment: Option<DioAlignment>,
    syncs: Syncs,
}

impl OsFile {
    fn error(&self, what: std::fmt::Arguments<'_>, source: io::Error) -> io::Error {
        named(format!("{what} {}", self.path.display()), source)
    }

    fn assert_mappable(&self, offset: u64, len: usize) -> io::Result<()> {
        assert!(len > 0 && len.is_multiple_of(BLOCK), "a chunk is whole blocks, not {len} bytes");
        assert!(offset.is_multiple_of(BLOCK as u64), "a chunk begins at a block, not at {offset}");
        if self.len()? >= offset + len as u64 {
            return Ok(());
        }
        let source = io::Error::from(io::ErrorKind::UnexpectedEof);
        Err(self.error(format_args!("map {len} bytes at offset {offset} of"), source))
    }

    /// All of `data`, with pwritev2's flags.
    fn write_all(&self, mut offset: u64, mut data: &[u8], flags: i32) -> io::Result<()> {
        assert_aligned(offset, data);
        while !data.is_empty() {
            let part = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
            // SAFETY: the one vector points into `data`, which is borrowed for the whole call and only read.
            let done =
                unsafe { libc::pwritev2(self.file.as_raw_fd(), &part, 1, offset as libc::off_t, flags) };
            let failed = match done {
                1.. if (done as usize).is_multiple_of(BLOCK) => {
                    offset += done as u64;
                    data = &data[done as usize..];
                    continue;
                }
                // The rest of a write that ended within a block could not be aligned.
                0.. => io::Error::from(io::ErrorKind::WriteZero),
                _ => io::Error::last_os_error(),
            };
            if failed.kind() != io::ErrorKind::Interrupted {
                return Err(
                    self.error(format_args!("write {} bytes at offset {offset} of", data.len()), failed)
                );
            }
        }
        Ok(())
    }
}

impl File for OsFile {
    fn len(&self) -> io::Result<u64> {
        let meta = self.file.metadata().map_err(|error| self.error(format_args!("stat"), error))?;
        Ok(meta.len())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        assert_aligned(offset, buf);
        let len = buf.len();
        std::os::unix::fs::FileExt::read_exact_at(&*self.file, buf, offset)
            .map_err(|error| self.error(format_args!("read {len} bytes at offset {offset} of"), error))
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_all(offset, data, 0)
    }

    fn write_durable(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_all(offset, data, libc::RWF_DSYNC)
    }

    fn write_many(&self, writes: &[(u64, &[u8])]) -> io::Result<()> {
        for &(offset, data) in writes {
            assert_aligned(offset, data);
        }
        uring::write_many(self.file.as_raw_fd(), writes)
            .map_err(|error| self.error(format_args!("write {} pieces at once to", writes.len()), error))
    }

    fn sync(&self) -> io::Result<()> {
        self.syncs.run(|| self.file.sync_data()).map_err(|error| self.error(format_args!("sync"), error))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let current = self.len()?;
        if current >= len {
            return Ok(());
        }
        let (fd, start) = (self.file.as_raw_fd(), current as libc::off_t);
        loop {
            // SAFETY: a system call on an open descriptor; no memory is passed.
            if unsafe { libc::fallocate(fd, 0, start, len as libc::off_t - start) } == 0 {
                return Ok(());
            }
            let source = io::Error::last_os_error();
            match source.raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::EOPNOTSUPP | libc::ENOSYS) => {
                    return Err(advised(
                        format!("reserve {len} bytes for {}", self.path.display()),
                        source,
                        "The file system has no fallocate; put the data directory on one that does, such as ext4, \
                         xfs or btrfs on a local disk"
                            .to_owned(),
                    ));
                }
                _ => return Err(self.error(format_args!("reserve {len} bytes for"), source)),
            }
        }
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len).map_err(|error| self.error(format_args!("set the length to {len} of"), error))
    }

    fn raw_fd(&self) -> Option<RawFd> {
        Some(self.file.as_raw_fd())
    }

    fn dio_alignment(&self) -> Option<DioAlignment> {
        self.alignment
    }

    fn map(&self, offset: u64, len: usize) -> io::Result<Box<dyn Chunk>> {
        self.assert_mappable(offset, len)?;
        let chunk = MappedChunk::of_content(&self.file, offset, len);
        let chunk = chunk
            .map_err(|error| self.error(format_args!("map {len} bytes at offset {offset} of"), error))?;
        Ok(Box::new(chunk))
    }

    fn map_fresh(&self, offset: u64, len: usize) -> io::Result<Box<dyn Chunk>> {
        self.assert_mappable(offset, len)?;
        let chunk = MappedChunk::of_room(self.file.clone(), offset, len);
        let chunk = chunk.map_err(|error| {
            self.error(format_args!("get memory for {len} bytes at offset {offset} of"), error)
        })?;
        Ok(Box::new(chunk))
    }
}
