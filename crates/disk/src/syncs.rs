//! Syncs of one open file, one after the other: when one has failed, what it was to make durable is lost, and the kernel
//! tells only one of those who sync. So whoever syncs after it, another helper say, is told too, and builds nothing on
//! what is not there.

use std::io;
use std::sync::Mutex;

#[derive(Default)]
pub(crate) struct Syncs {
    failed: Mutex<bool>,
}

impl Syncs {
    pub fn run(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut failed = self.failed.lock().expect("no panic happens below the lock");
        if *failed {
            return Err(io::Error::other("an earlier sync of it failed"));
        }
        let result = sync();
        *failed = result.is_err();
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_failed_sync_none_is_tried_and_none_goes_well() {
        let syncs = Syncs::default();
        syncs.run(|| Ok(())).unwrap();
        let failed = syncs.run(|| Err(io::Error::from_raw_os_error(libc::EIO))).unwrap_err();
        assert_eq!(failed.raw_os_error(), Some(libc::EIO));
        let later = syncs.run(|| panic!("it is not tried")).unwrap_err();
        assert!(later.to_string().contains("earlier sync"), "{later}");
    }
}
