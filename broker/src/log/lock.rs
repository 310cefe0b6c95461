//! One process at a time.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::error::{DiskError, StartError};

const LOCK_NAME: &str = "lock";

/// Keeps every other process from opening a log as long as it lives. The lock is the operating system's, and
/// ends with the process, however that ends; the file stays.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Locks the log in this folder.
    pub(crate) fn take(folder: &Path) -> Result<Self, StartError> {
        let path = folder.join(LOCK_NAME);
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.map_err(|error| DiskError::new("open", &path, &error))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(Errno::WOULDBLOCK) => Err(StartError::InUse { folder: folder.to_owned() }),
            Err(error) => Err(DiskError::new("lock", &path, &error.into()).into()),
        }
    }

    /// Whether a process has locked the log in this folder, as far as we may know.
    pub(crate) fn is_taken(folder: &Path) -> bool {
        let probe = |file: File| flock(&file, FlockOperation::NonBlockingLockShared);
        File::open(folder.join(LOCK_NAME)).is_ok_and(|file| probe(file) == Err(Errno::WOULDBLOCK))
    }
}

/// Whether a process has the log in this folder open, as far as we may know.
pub fn is_in_use(folder: &Path) -> bool {
    Lock::is_taken(folder)
}
