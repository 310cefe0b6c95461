//! A phone that outlives its process: one JSON file, for its owner's eyes only; or one line of a file of many.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use countersign_envelope::{Algorithm, PublicKey};
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use super::{
    Phone, PushTarget, State,
    invitation::Broker,
    key::{Key, StoredKey},
};
use crate::clock::Timestamp;

const FILE: &str = "phone.json";
/// Of the file's format.
const VERSION: u32 = 1;

/// Why a phone's state cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The file is not a phone's state, or another release's.
    #[error("{} is not a phone's state of this release ({problem}); enrol anew with another folder", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Others can read the file, and with it sign as this phone.
    #[error(
        "{} can be read by others (mode {mode:03o}), and it holds a private key; chmod 600 it, if nobody has", .path.display()
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    name: Box<str>,
    authenticator_id: Box<str>,
    account_name: Box<str>,
    realm: Box<str>,
    is_active: bool,
    counter: u64,
    notices_until_ms: u64,
    push_target: StoredTarget,
    broker: StoredBroker,
    key: StoredKey,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StoredTarget {
    Apns(String),
    Fcm(String),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredBroker {
    id: String,
    address: String,
    /// Base64.
    key: String,
}

impl Phone {
    /// Writes the phone into `folder`, which is made if it is not there. The file is its owner's alone (0600), and
    /// there is never half of one.
    pub fn save(&self, folder: &Path) -> Result<(), StoreError> {
        let json = serde_json::to_vec_pretty(&self.stored()).expect("strings and numbers are JSON");
        let json = zeroize::Zeroizing::new(json);
        write_private(folder, FILE, &json)
    }

    /// The phone that was saved in `folder`; `None` if none was.
    pub fn load(folder: &Path) -> Result<Option<Self>, StoreError> {
        let path = folder.join(FILE);
        let Some(text) = read_private(&path)? else { return Ok(None) };
        Self::parsed(&text).map(Some).map_err(|problem| StoreError::Damaged { path, problem })
    }

    /// The phones of a file that has one on each line, as `countersign bench-parts seed --phones` writes it.
    pub fn load_all(file: &Path) -> Result<Vec<Self>, StoreError> {
        let missing = || StoreError::Io { path: file.to_owned(), source: io::ErrorKind::NotFound.into() };
        let text = read_private(file)?.ok_or_else(missing)?;
        let damaged = |problem| StoreError::Damaged { path: file.to_owned(), problem };
        text.lines().map(|line| Self::parsed(line).map_err(damaged)).collect()
    }

    /// Takes the phone that was saved in `folder` away; with it goes its key.
    pub fn forget(folder: &Path) -> Result<(), StoreError> {
        let path = folder.join(FILE);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(StoreError::Io { path, source }),
            _ => Ok(()),
        }
    }

    fn stored(&self) -> Stored {
        let state = self.lock();
        Stored {
            version: VERSION,
            name: self.name.clone(),
            authenticator_id: self.authenticator_id.clone(),
            account_name: self.account_name.clone(),
            realm: self.realm.clone(),
            is_active: state.is_active,
            counter: state.counter,
            notices_until_ms: state.notices_until.millis(),
            push_target: match &state.push_target {
                PushTarget::Apns(target) => StoredTarget::Apns(target.clone()),
                PushTarget::Fcm(target) => StoredTarget::Fcm(target.clone()),
            },
            broker: StoredBroker {
                id: self.broker.id().to_owned(),
                address: self.broker.address().to_owned(),
                key: BASE64.encode(self.broker.key().as_bytes()),
            },
            key: self.key.stored(),
        }
    }

    fn parsed(text: &str) -> Result<Self, String> {
        let stored: Stored = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if stored.version != VERSION {
            return Err(format!("its version is {}", stored.version));
        }
        Self::restored(stored)
    }

    fn restored(stored: Stored) -> Result<Self, String> {
        let key = Key::restore(&stored.key).map_err(|error| error.to_string())?;
        let broker_key = BASE64.decode(stored.broker.key.as_bytes()).map_err(|error| error.to_string())?;
        let broker_key =
            PublicKey::parse(Algorithm::Ed25519, &broker_key).map_err(|error| error.to_string())?;
        Ok(Self {
            name: stored.name,
            key: Arc::new(key),
            broker: Arc::new(Broker::new(&stored.broker.id, &stored.broker.address, broker_key)),
            authenticator_id: stored.authenticator_id,
            account_name: stored.account_name,
            realm: stored.realm,
            state: Mutex::new(State {
                push_target: match stored.push_target {
                    StoredTarget::Apns(target) => PushTarget::Apns(target),
                    StoredTarget::Fcm(target) => PushTarget::Fcm(target),
                },
                counter: stored.counter,
                // Nonces live for two minutes: the first read gets a new one.
                nonce: Bytes::new(),
                is_active: stored.is_active,
                notices_until: Timestamp(stored.notices_until_ms),
                remembered: Vec::new(),
            }),
        })
    }
}

/// Writes a file that only its owner may read, whole or not at all.
fn write_private(folder: &Path, name: &str, content: &[u8]) -> Result<(), StoreError> {
    let path = folder.join(name);
    let failed = |source| StoreError::Io { path: path.clone(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    let making = folder.join(format!(".{name}.new"));
    // One that a crash left behind may have other permissions.
    match fs::remove_file(&making) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&making).map_err(failed)?;
    file.write_all(content).and_then(|()| file.write_all(b"\n")).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    fs::rename(&making, &path).map_err(failed)?;
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}

fn read_private(path: &Path) -> Result<Option<zeroize::Zeroizing<String>>, StoreError> {
    let failed = |source| StoreError::Io { path: path.to_owned(), source };
    let mode = match fs::metadata(path) {
        Ok(metadata) => metadata.permissions().mode() & 0o777,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    if mode & 0o077 != 0 {
        return Err(StoreError::Open { path: path.to_owned(), mode });
    }
    fs::read_to_string(path).map(|text| Some(zeroize::Zeroizing::new(text))).map_err(failed)
}
