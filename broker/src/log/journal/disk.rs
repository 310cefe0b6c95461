//! What the journal asks of the operating system: so little that a test can take its place, and fail or
//! forget what it wants (`sim`).

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::log::error::DiskError;

/// A file system.
pub(crate) trait Disk: fmt::Debug + Send + Sync {
    /// The names of the files in a folder, in no order. Names that are not UTF-8 are nobody's that we know.
    fn names(&self, folder: &Path) -> io::Result<Vec<String>>;
    /// Opens a file for reading.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Makes an empty file for reading and writing; what had its name is gone.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Gives a file another name; what had that name is gone.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes durable which files are in a folder.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;
}

/// An open file. Offsets and lengths are in bytes.
pub(crate) trait DiskFile: fmt::Debug + Send + Sync {
    /// Its length.
    fn length(&self) -> io::Result<u64>;
    /// Reads from an offset on; fewer bytes than asked for only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of it. After an error, any part of it may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Sets its length.
    fn set_length(&self, length: u64) -> io::Result<()>;
    /// Makes durable what was written, and the length if that is larger now.
    fn sync_data(&self) -> io::Result<()>;
    /// Makes everything about it durable.
    fn sync_all(&self) -> io::Result<()>;
}

/// The operating system's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OsDisk;

impl Disk for OsDisk {
    fn names(&self, folder: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for file in fs::read_dir(folder)? {
            names.extend(file?.file_name().into_string());
        }
        Ok(names)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(File::open(path)?))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        // What is in the log is for the broker's user alone.
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        Ok(Box::new(options.open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }
}

impl DiskFile for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut read = 0;
        while read < buffer.len() {
            match FileExt::read_at(self, &mut buffer[read..], offset + read as u64) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn sync_all(&self) -> io::Result<()> {
        File::sync_all(self)
    }
}

/// Writes a file under another name, makes it durable, and puts it in the place of what had its name. After a
/// crash there is the one or the other; which one, `sync_folder` settles, which is left to the caller,
/// because only there a failure means that nobody knows.
pub(crate) fn install<E: From<DiskError>>(
    disk: &dyn Disk,
    folder: &Path,
    name: &str,
    write: impl FnOnce(&dyn DiskFile) -> Result<(), E>,
) -> Result<Box<dyn DiskFile>, E> {
    let temporary = folder.join(format!("{name}{TEMPORARY}"));
    let failed = |action| {
        let temporary = temporary.clone();
        move |error| DiskError::new(action, &temporary, &error)
    };
    let written = (|| {
        let file = disk.create(&temporary).map_err(failed("create"))?;
        write(&*file)?;
        file.sync_all().map_err(failed("sync"))?;
        disk.rename(&temporary, &folder.join(name)).map_err(failed("rename"))?;
        Ok(file)
    })();
    // Half a file is of no use, and takes room that may be what was missing.
    written.inspect_err(|_| drop(disk.remove(&temporary)))
}

/// How the names of files end that are still being written. What a crash leaves of them is removed.
pub(crate) const TEMPORARY: &str = ".new";
