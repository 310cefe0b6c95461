//! The folder of keys: one file each, readable by the broker alone, durable before first use. It can be another
//! volume than the log's: log and keys together are all that a broker is.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use aws_lc_rs::hmac;
use countersign_envelope::SigningKey;
use data_encoding::HEXLOWER;
use zeroize::Zeroizing;

use super::{Acknowledgements, Keys, Nonces, Sealer};
use crate::entropy::Entropy;

/// Why keys could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("{path}: {action}: {reason}", path = .path.display())]
    Io {
        /// What was to be done.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        reason: io::Error,
    },
    /// A key, or the whole folder, is not there.
    #[error(
        "{path}: is not there: restore it from the backup; without it what the log has sealed cannot be read",
        path = .path.display()
    )]
    Missing {
        /// Which.
        path: PathBuf,
    },
    /// Somebody else could read or change the keys.
    #[error("{path}: its mode is {mode:04o}: others than its owner have access; run: chmod go-rwx '{path}'", path = .path.display())]
    Permissions {
        /// Which file or folder.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The file belongs to somebody else than who runs the broker.
    #[error("{path}: belongs to user {owner}, and this is user {user}", path = .path.display())]
    Owner {
        /// Which.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who runs this.
        user: u32,
    },
    /// The file does not hold such a key.
    #[error("{path}: does not hold a {kind}; restore it from a backup", path = .path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// What it should hold.
        kind: &'static str,
    },
    /// Making keys where there are some already would lose all that they sealed.
    #[error("{path}: there are keys already", path = .path.display())]
    Exists {
        /// Where.
        path: PathBuf,
    },
}

impl Error {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |reason| Self::Io { action, path, reason }
    }

    fn reading(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |reason| match reason.kind() {
            io::ErrorKind::NotFound => Self::Missing { path },
            _ => Self::Io { action: "cannot be read", path, reason },
        }
    }
}

/// The secrets, by file. Each is 32 random bytes.
pub(super) const SECRETS: [&str; 5] =
    ["signing-key", "sealing-key", "lookup-key", "nonce-key", "acknowledgement-key"];
pub(super) const BROKER_ID: &str = "broker-id";

/// Makes a new broker's keys in a folder that has none. Everything is on disk when this returns.
pub fn create(folder: &Path, entropy: &dyn Entropy) -> Result<(), Error> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(Error::io("cannot make the folder", folder))?;
    private(folder)?;
    if folder.join(BROKER_ID).exists() || SECRETS.iter().any(|name| folder.join(name).exists()) {
        return Err(Error::Exists { path: folder.to_owned() });
    }
    for name in SECRETS {
        let secret = Zeroizing::new(entropy.bytes::<32>());
        write(folder, name, &secret[..])?;
    }
    // The id is written last: a folder without it is one whose making was interrupted before any key was used.
    write(folder, BROKER_ID, &entropy.bytes::<16>())?;
    sync_folder(folder)?;
    if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        sync_folder(parent)?;
    }
    Ok(())
}

/// Whether the folder holds a broker's keys.
pub fn exists(folder: &Path) -> bool {
    folder.join(BROKER_ID).exists()
}

/// Reads the keys, if nobody but the broker's user can.
pub fn load(folder: &Path) -> Result<Keys, Error> {
    private(folder)?;
    let broker_id = HEXLOWER.encode(&read::<16>(folder, BROKER_ID)?[..]);
    let [signing, sealing, lookup, nonce, acknowledgement] = SECRETS;
    let signing = SigningKey::ed25519(&*read(folder, signing)?);
    let public = signing.public_key();
    Ok(Keys {
        broker_id,
        fingerprint: public.fingerprint(),
        public,
        signing,
        lookup: hmac::Key::new(hmac::HMAC_SHA256, &read::<32>(folder, lookup)?[..]),
        sealer: Sealer::new(&*read(folder, sealing)?),
        nonces: Nonces::new(&*read(folder, nonce)?),
        acknowledgements: Acknowledgements::new(&*read(folder, acknowledgement)?),
    })
}

/// All that is wrong with a folder of keys; [`load`] says the first of it.
pub fn problems(folder: &Path) -> Vec<Error> {
    let folder_itself = private(folder).err();
    if matches!(folder_itself, Some(Error::Missing { .. })) {
        return folder_itself.into_iter().collect();
    }
    let id = read::<16>(folder, BROKER_ID).err();
    let secrets = SECRETS.iter().filter_map(|kind| read::<32>(folder, kind).err());
    folder_itself.into_iter().chain(id).chain(secrets).collect()
}

/// Refuses what others than its owner can read or change.
pub fn private(path: &Path) -> Result<(), Error> {
    let metadata = fs::metadata(path).map_err(Error::reading(path))?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(Error::Permissions { path: path.to_owned(), mode });
    }
    let user = rustix::process::geteuid().as_raw();
    if metadata.uid() != user && user != 0 {
        return Err(Error::Owner { path: path.to_owned(), owner: metadata.uid(), user });
    }
    Ok(())
}

/// A key file is one line: `countersign <kind> v1 <hex>`.
fn write(folder: &Path, kind: &'static str, secret: &[u8]) -> Result<(), Error> {
    let path = folder.join(kind);
    let hex = Zeroizing::new(HEXLOWER.encode(secret));
    let line = Zeroizing::new(format!("countersign {kind} v1 {}\n", hex.as_str()));
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(Error::io("cannot be made", &path))?;
    file.write_all(line.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(Error::io("cannot be written", &path))
}

fn read<const N: usize>(folder: &Path, kind: &'static str) -> Result<Zeroizing<[u8; N]>, Error> {
    let path = folder.join(kind);
    private(&path)?;
    let line = Zeroizing::new(fs::read_to_string(&path).map_err(Error::reading(&path))?);
    let malformed = || Error::Malformed { path: path.clone(), kind };
    let hex = line.trim_end().strip_prefix("countersign ").and_then(|rest| rest.strip_prefix(kind));
    let hex = hex.and_then(|rest| rest.strip_prefix(" v1 ")).ok_or_else(malformed)?;
    let bytes = Zeroizing::new(HEXLOWER.decode(hex.as_bytes()).map_err(|_| malformed())?);
    Ok(Zeroizing::new(bytes.as_slice().try_into().map_err(|_| malformed())?))
}

fn sync_folder(folder: &Path) -> Result<(), Error> {
    fs::File::open(folder).and_then(|opened| opened.sync_all()).map_err(Error::io("cannot be synced", folder))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::OsEntropy;

    #[test]
    fn keys_are_read_as_they_were_made() {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("keys");
        create(&keys, &OsEntropy).unwrap();
        let first = load(&keys).unwrap();
        let second = load(&keys).unwrap();
        assert_eq!(first.broker_id(), second.broker_id());
        assert_eq!(first.public_key(), second.public_key());
    }

    #[test]
    fn keys_are_never_made_over_others() {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("keys");
        create(&keys, &OsEntropy).unwrap();
        assert!(matches!(create(&keys, &OsEntropy), Err(Error::Exists { .. })));
    }

    #[test]
    fn keys_that_others_can_read_are_refused_with_the_command_that_mends_it() {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("keys");
        create(&keys, &OsEntropy).unwrap();
        let file = keys.join("sealing-key");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let error = load(&keys).unwrap_err().to_string();
        assert!(
            error.contains("sealing-key") && error.contains("0640") && error.contains("chmod go-rwx"),
            "{error}"
        );
    }

    #[test]
    fn a_key_that_is_missing_is_named_with_what_it_is_needed_for() {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("keys");
        create(&keys, &OsEntropy).unwrap();
        fs::remove_file(keys.join("nonce-key")).unwrap();
        let error = load(&keys).unwrap_err().to_string();
        assert!(error.contains("nonce-key: is not there: restore it from the backup"), "{error}");
        assert!(!error.contains("init"), "a new broker's keys are no help: {error}");
    }

    #[test]
    fn a_damaged_key_file_is_named_and_its_content_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("keys");
        create(&keys, &OsEntropy).unwrap();
        let file = keys.join("lookup-key");
        let secret = fs::read_to_string(&file).unwrap();
        fs::write(&file, &secret[..secret.len() - 4]).unwrap();
        let error = load(&keys).unwrap_err().to_string();
        assert!(error.contains("lookup-key") && !error.contains(&secret[30..50]), "{error}");
    }
}
