//! A backup of the keys, in a folder of its own: where log and keys lie together, whoever takes the one has all.

use std::{
    fs,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use super::folder::{self, BROKER_ID, SECRETS};
use crate::log::backup::{
    self,
    manifest::{Listed, Manifest, Of, Sum, sync_folder, write_private},
};

/// How the name of a file ends that is still being written.
const MAKING: &str = ".new";

/// Why keys are not backed up, or not put back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The keys themselves.
    #[error(transparent)]
    Keys(#[from] folder::Error),
    /// The backup.
    #[error(transparent)]
    Backup(#[from] backup::Error),
}

impl From<crate::log::DiskError> for Error {
    fn from(error: crate::log::DiskError) -> Self {
        Self::Backup(error.into())
    }
}

/// All files of a broker's keys; the last one says that they are whole.
fn names() -> impl Iterator<Item = &'static str> {
    SECRETS.into_iter().chain([BROKER_ID])
}

/// Copies the keys to a folder that is empty, or holds a backup of the same broker's.
pub fn create(keys: &Path, to: &Path, now_ms: u64) -> Result<Manifest, Error> {
    let of = Of {
        broker_id: folder::load(keys)?.broker_id().to_owned(),
        journal: None,
        head: None,
        last_recorded_ms: None,
    };
    make_folder(to)?;
    match Manifest::read(to)? {
        Some(known) if known.of == of => {}
        Some(_) => return Err(backup::Error::AnotherLog { folder: to.to_owned() }.into()),
        None if is_empty(to) => {}
        None => return Err(backup::Error::NotEmpty { folder: to.to_owned() }.into()),
    }
    let mut files = Vec::new();
    for name in names() {
        let content = read(&keys.join(name))?;
        put(to, name, &content)?;
        files.push(listed(name, &content));
    }
    let manifest = Manifest::new(now_ms, of, files);
    manifest.write(to)?;
    Ok(manifest)
}

/// Reads a backup of keys, and says the first thing that is not as it was written.
pub fn check(from: &Path) -> Result<Manifest, Error> {
    let manifest =
        Manifest::read(from)?.ok_or_else(|| backup::Error::NoBackup { folder: from.to_owned() })?;
    for name in names() {
        let path = from.join(name);
        let file = manifest.files.iter().find(|file| file.path == name).ok_or_else(|| {
            let problem = "is not in the manifest".to_owned();
            backup::Error::NotAsWritten { file: path.clone(), problem }
        })?;
        file.must_be(&path, &listed(name, &read(&path)?).sha256)?;
    }
    Ok(manifest)
}

/// Puts keys where there are none. Where the same ones are, nothing is done.
pub fn restore(from: &Path, keys: &Path) -> Result<Manifest, Error> {
    let manifest = check(from)?;
    if are_there(from, keys)? {
        return Ok(manifest);
    }
    make_folder(keys)?;
    for name in names() {
        put(keys, name, &read(&from.join(name))?)?;
    }
    sync_folder(keys)?;
    folder::load(keys)?;
    Ok(manifest)
}

/// Whether the same keys are all there already; others are an error.
pub fn are_there(from: &Path, keys: &Path) -> Result<bool, Error> {
    let there: Vec<PathBuf> = names().map(|name| keys.join(name)).filter(|path| path.exists()).collect();
    same(from, keys, &there)?;
    Ok(there.len() == names().count())
}

fn same(from: &Path, keys: &Path, there: &[PathBuf]) -> Result<(), Error> {
    for path in there {
        let name = path.file_name().unwrap_or_default();
        if *read(path)? != *read(&from.join(name))? {
            return Err(backup::Error::Exists { there: keys.to_owned() }.into());
        }
    }
    Ok(())
}

fn put(folder: &Path, name: &str, content: &[u8]) -> Result<(), Error> {
    let making = format!("{name}{MAKING}");
    write_private(folder, &making, content)?;
    let path = folder.join(name);
    let renamed = fs::rename(folder.join(&making), &path);
    renamed.map_err(|reason| folder::Error::Io { action: "cannot be made", path, reason })?;
    Ok(())
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    let content = fs::read(path);
    let content = content.map_err(|reason| folder::Error::Io {
        action: "cannot be read",
        path: path.to_owned(),
        reason,
    })?;
    Ok(Zeroizing::new(content))
}

fn listed(name: &str, content: &[u8]) -> Listed {
    let mut sum = Sum::default();
    sum.add(content);
    Listed {
        path: name.to_owned(),
        bytes: content.len() as u64,
        sha256: sum.finish(),
        first: None,
        entries: 0,
    }
}

fn is_empty(folder: &Path) -> bool {
    folder.read_dir().is_ok_and(|mut files| files.next().is_none())
}

fn make_folder(folder: &Path) -> Result<(), Error> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|reason| folder::Error::Io {
        action: "cannot make the folder",
        path: folder.to_owned(),
        reason,
    })?;
    // One that was there may be open to others.
    Ok(folder::private(folder)?)
}
