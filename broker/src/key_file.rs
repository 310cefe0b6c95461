//! Files with private keys that others have made for us: TLS keys, keys of push services.
//!
//! One that others may write to is refused: whoever can put a key of theirs there can act in our name. One that
//! everybody may read is only warned of: that is how Kubernetes mounts a secret unless told otherwise, and nobody else
//! is in the container. The broker's own keys, which it makes itself, are its user's alone (see [`crate::keys`]).

use std::{
    fs, io,
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

/// Key and certificate files are a few kilobytes; what is longer is something else.
const BYTES_MAX: u64 = 256 * 1024;

/// Why a file is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("{}: cannot be read: {reason}", file.display())]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// Why.
        reason: io::Error,
    },
    /// Others may change the key.
    #[error(
        "{}: others may write to this file (mode {mode:04o}), and so choose the key: `chmod go-w` it",
        file.display()
    )]
    Writable {
        /// Which.
        file: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It is no key or certificate.
    #[error("{}: is longer than {BYTES_MAX} bytes", file.display())]
    TooLong {
        /// Which.
        file: PathBuf,
    },
}

impl Error {
    /// The file that it is about.
    pub fn file(&self) -> &Path {
        match self {
            Self::Unreadable { file, .. } | Self::Writable { file, .. } | Self::TooLong { file } => file,
        }
    }
}

/// Reads a file with a private key in it.
pub(crate) fn read(file: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    let (bytes, mode) = read_any(file)?;
    let bytes = Zeroizing::new(bytes);
    if mode & 0o022 != 0 {
        return Err(Error::Writable { file: file.to_owned(), mode });
    }
    if mode & 0o004 != 0 {
        let mode = format!("{mode:04o}");
        tracing::warn!(file = %file.display(), mode, "every user of this machine may read a private key");
    }
    Ok(bytes)
}

/// The content of a file of bounded length, and who may read and write it.
pub(crate) fn read_any(file: &Path) -> Result<(Vec<u8>, u32), Error> {
    let unreadable = |reason| Error::Unreadable { file: file.to_owned(), reason };
    let opened = fs::File::open(file).map_err(unreadable)?;
    // Of the file that was opened, so that nothing changes between the check and the read.
    let mode = opened.metadata().map_err(unreadable)?.permissions().mode() & 0o7777;
    let mut bytes = Vec::new();
    opened.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(Error::TooLong { file: file.to_owned() });
    }
    Ok((bytes, mode))
}
