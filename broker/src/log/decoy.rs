//! Writing nothing, as slowly as if it were something. What is unknown here and what is known are answered alike
//! only if both have waited for the disk.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::error::DiskError;

const NAME: &str = "decoy";
/// As the journal does: there is room already, and what is written is overwritten in place.
const BYTES: u64 = 64 * 1024;
/// About what a request for an approval takes.
const WRITE: [u8; 2048] = [0; 2048];

/// A file that nobody reads.
#[derive(Debug)]
pub(crate) struct Decoy {
    file: File,
    at: u64,
}

impl Decoy {
    /// Opens the file in the log's folder, or makes it.
    pub(crate) fn open(folder: &Path) -> Result<Self, DiskError> {
        let path = folder.join(NAME);
        let opened = (|| {
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
            if file.metadata()?.len() != BYTES {
                file.set_len(0)?;
                for at in (0..BYTES).step_by(WRITE.len()) {
                    file.write_all_at(&WRITE, at)?;
                }
                file.sync_all()?;
            }
            Ok(file)
        })();
        let file = opened.map_err(|error: io::Error| DiskError::new("prepare", &path, &error))?;
        Ok(Self { file, at: 0 })
    }

    /// Writes, and waits until it is durable. A disk that fails is found by those who write something.
    pub(crate) fn write(&mut self) {
        let written = self.file.write_all_at(&WRITE, self.at).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            tracing::warn!(%error, "the log's decoy cannot be written");
        }
        self.at = (self.at + WRITE.len() as u64) % BYTES;
    }
}
