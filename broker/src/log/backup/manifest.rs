//! `manifest.json`: what a backup must be. Any other bytes than it was written with are found: its own sum stands in
//! it, and it is read only in the very form that it is written in.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use super::Error;
use crate::log::entry::Position;
use crate::log::error::DiskError;

/// Its name in the backup's folder.
pub const NAME: &str = "manifest.json";
const MAKING: &str = "manifest.json.new";
const FORMAT: u32 = 1;
/// Some 200 bytes for each segment: those of a hundred thousand. What is longer is something else.
const BYTES_MAX: u64 = 32 * 1024 * 1024;

/// What there is in a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The form of this file: 1.
    pub format: u32,
    /// When it was made: milliseconds since 1970, by the clock of who made it.
    pub made_at_ms: u64,
    /// Of what.
    pub of: Of,
    /// Each file.
    pub files: Vec<Listed>,
}

/// What it is a backup of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Of {
    /// Which broker.
    pub broker_id: String,
    /// Which journal: its id in hex; none for keys.
    pub journal: Option<String>,
    /// The last position that is in it; none for keys, or if there is none.
    pub head: Option<u64>,
    /// When that was recorded: milliseconds since 1970.
    pub last_recorded_ms: Option<u64>,
}

/// One file of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listed {
    /// Where it is, in the backup's folder.
    pub path: String,
    /// How many of its bytes are part of the backup: all, unless the next backup was interrupted.
    pub bytes: u64,
    /// SHA-256 of those, in hex.
    pub sha256: String,
    /// The position of its first entry; none for keys.
    pub first: Option<u64>,
    /// How many entries it has.
    pub entries: u64,
}

/// The form on disk.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    manifest: Manifest,
    /// SHA-256 of the manifest as JSON without blanks, in hex.
    sha256: String,
}

impl Listed {
    /// A segment of the journal.
    pub(crate) fn new(path: String, bytes: u64, sha256: String, first: Position, next: Position) -> Self {
        let entries = next.number().saturating_sub(first.number());
        Self { path, bytes, sha256, first: Some(first.number()), entries }
    }

    /// The position behind its last entry.
    pub(super) fn next(&self) -> Position {
        let first = self.first.unwrap_or(1);
        Position::new(first.saturating_add(self.entries)).unwrap_or(Position::FIRST)
    }

    /// Its content has this sum.
    pub(crate) fn must_be(&self, path: &Path, sha256: &str) -> Result<(), Error> {
        if self.sha256 == sha256 {
            return Ok(());
        }
        let problem = "is not what was written (its SHA-256 is another)".to_owned();
        Err(Error::NotAsWritten { file: path.to_owned(), problem })
    }
}

impl Manifest {
    /// Of these files.
    pub(crate) fn new(made_at_ms: u64, of: Of, files: Vec<Listed>) -> Self {
        Self { format: FORMAT, made_at_ms, of, files }
    }

    /// The file at this path of the backup.
    pub(super) fn file(&self, path: &str) -> Option<&Listed> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Reads the manifest of a backup; none if there is no backup. Public for the fuzzer, which meets a disk's bytes here.
    #[doc(hidden)]
    pub fn read(folder: &Path) -> Result<Option<Self>, Error> {
        let path = folder.join(NAME);
        let mut text = Vec::new();
        match File::open(&path).and_then(|file| file.take(BYTES_MAX + 1).read_to_end(&mut text)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|error| DiskError::new("read", &path, &error))?,
        };
        let broken =
            || Error::NotAsWritten { file: path.clone(), problem: "is not what was written".to_owned() };
        if text.len() as u64 > BYTES_MAX {
            return Err(broken());
        }
        let Sealed { manifest, sha256 } = serde_json::from_slice(&text).map_err(|_| broken())?;
        if manifest.format != FORMAT {
            return Err(Error::Newer { file: path, format: manifest.format });
        }
        // What a path leads out of the folder for is nothing that we have written.
        let stays = |file: &Listed| {
            Path::new(&file.path).components().all(|part| matches!(part, std::path::Component::Normal(_)))
        };
        if text != manifest.to_bytes() || sha256 != manifest.sum() || !manifest.files.iter().all(stays) {
            return Err(broken());
        }
        Ok(Some(manifest))
    }

    /// Writes it in the place of the one before it.
    #[doc(hidden)]
    pub fn write(&self, folder: &Path) -> Result<(), DiskError> {
        write_private(folder, MAKING, &self.to_bytes())?;
        let path = folder.join(NAME);
        fs::rename(folder.join(MAKING), &path).map_err(|error| DiskError::new("make", &path, &error))?;
        sync_folder(folder)
    }

    fn sum(&self) -> String {
        let mut sum = Sum::default();
        sum.add(serde_json::to_string(self).unwrap_or_default().as_bytes());
        sum.finish()
    }

    fn to_bytes(&self) -> Vec<u8> {
        let sealed = Sealed { manifest: self.clone(), sha256: self.sum() };
        let mut text = serde_json::to_vec_pretty(&sealed).unwrap_or_default();
        text.push(b'\n');
        text
    }
}

/// SHA-256 of what is added.
#[derive(Clone)]
pub(crate) struct Sum(Context);

impl Default for Sum {
    fn default() -> Self {
        Self(Context::new(&SHA256))
    }
}

impl Sum {
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> String {
        HEXLOWER.encode(self.0.finish().as_ref())
    }
}

/// Writes a file that its owner alone can read, durably; one that is there is replaced.
pub(crate) fn write_private(folder: &Path, name: &str, content: &[u8]) -> Result<(), DiskError> {
    let path = folder.join(name);
    let made = File::options().write(true).create(true).truncate(true).mode(0o600).open(&path);
    let written = made.and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    written.map_err(|error| DiskError::new("write", &path, &error))
}

/// Makes durable which files are in a folder.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), DiskError> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|error| DiskError::new("sync", folder, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_without_an_end_is_none() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/zero", folder.path().join(NAME)).unwrap();
        let read = Manifest::read(folder.path());
        assert!(matches!(read, Err(Error::NotAsWritten { .. })), "{read:?}");
    }
}
