//! A file system of a test's own: small, to be filled; on a loop device, to be slowed down.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// A small file system in a file.
pub struct SmallDisk {
    _dir: tempfile::TempDir,
    pub mounted: PathBuf,
}

impl SmallDisk {
    /// `None`, and said so, where that is not possible.
    pub fn new(bytes: u64) -> Option<SmallDisk> {
        // SAFETY: no arguments, no memory.
        if unsafe { libc::geteuid() } != 0 {
            super::skip("a file system of our own needs root");
            return None;
        }
        let dir = tempfile::tempdir().expect("a temporary directory");
        let image = dir.path().join("image");
        let mounted = dir.path().join("mounted");
        std::fs::create_dir(&mounted).expect("a directory");
        std::fs::File::create(&image).and_then(|file| file.set_len(bytes)).expect("an image");
        let run = |program: &str, arguments: &[&str], paths: &[&Path]| {
            Command::new(program).args(arguments).args(paths).status().is_ok_and(|status| status.success())
        };
        if !run("mkfs.ext4", &["-q", "-F"], &[&image]) || !run("mount", &["-o", "loop"], &[&image, &mounted])
        {
            super::skip("mkfs.ext4 or a loop mount is not possible here");
            return None;
        }
        Some(SmallDisk { _dir: dir, mounted })
    }

    pub fn free_bytes(&self) -> u64 {
        let path = std::ffi::CString::new(self.mounted.to_str().expect("text")).expect("no zero");
        // SAFETY: all zeros is a valid statvfs.
        let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
        // SAFETY: the path is a C string and `stat` lives.
        assert_eq!(unsafe { libc::statvfs(path.as_ptr(), &mut stat) }, 0);
        stat.f_bavail * stat.f_frsize
    }

    /// Takes all but `leave` bytes away.
    pub fn fill(&self, leave: u64) -> PathBuf {
        use std::os::fd::AsRawFd;
        let ballast = self.mounted.join("ballast");
        let file = std::fs::File::create(&ballast).expect("a file");
        let bytes = self.free_bytes().saturating_sub(leave).max(1) as i64;
        // SAFETY: the descriptor is open.
        assert_eq!(unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, bytes) }, 0, "room for the ballast");
        ballast
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The kernel closes the files of a killed process in its own time.
        for _ in 0..100 {
            let unmounted = Command::new("umount").arg(&self.mounted).stderr(Stdio::null()).status();
            if unmounted.is_ok_and(|status| status.success()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = Command::new("umount").arg("-l").arg(&self.mounted).status();
    }
}
