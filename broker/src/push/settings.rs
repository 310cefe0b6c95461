//! What the settings of both push services share: addresses, key files, trusted certificates, and how it is said
//! that one of them is wrong.

use std::{
    fmt, fs, io,
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use reqwest::{Certificate, Url};
use serde::Deserialize;
use zeroize::Zeroizing;

/// Key and certificate files are a few kilobytes; what is longer is something else.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// Why a push service cannot be used as configured: names the file, and says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// A file cannot be read.
    #[error("{}: cannot be read: {source}", file.display())]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A key file that others may change.
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
    /// A file holds something else than it should.
    #[error("{}: {problem}", file.display())]
    Unusable {
        /// Which.
        file: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// TLS cannot be set up.
    #[error("TLS cannot be set up ({reason}): install the system's certificate authorities or set `ca_file`")]
    Tls {
        /// Why.
        reason: String,
    },
}

impl SetupError {
    pub(super) fn unusable(file: &Path, problem: impl Into<String>) -> Self {
        Self::Unusable { file: file.to_owned(), problem: problem.into() }
    }
}

/// The address of a service: `https`, a host, at most a path in front of the service's own.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct HttpsUrl(Url);

impl HttpsUrl {
    /// Checks an address.
    pub fn parse(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|error| format!("`{text}` is not an address: {error}"))?;
        if url.scheme() != "https" {
            return Err(format!("`{text}` must begin with https://"));
        }
        let more = !url.username().is_empty()
            || url.password().is_some()
            || url.query().is_some()
            || url.fragment().is_some();
        if more {
            return Err(format!("the address of {} must end with its path", url.host_str().unwrap_or("?")));
        }
        Ok(Self(url))
    }

    /// The address without a slash at its end.
    pub fn as_str(&self) -> &str {
        self.0.as_str().trim_end_matches('/')
    }

    pub(super) fn url(&self) -> &Url {
        &self.0
    }
}

impl TryFrom<String> for HttpsUrl {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl fmt::Display for HttpsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for HttpsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads a file with a private key in it.
///
/// One that others may write to is refused: whoever can put a key of theirs there can push in our name. One that
/// everybody may read is only warned of: that is how Kubernetes mounts a secret unless told otherwise, and nobody
/// else is in the container.
pub(super) fn read_key_file(file: &Path) -> Result<Zeroizing<Vec<u8>>, SetupError> {
    let (bytes, mode) = read(file)?;
    if mode & 0o022 != 0 {
        return Err(SetupError::Writable { file: file.to_owned(), mode });
    }
    if mode & 0o004 != 0 {
        let mode = format!("{mode:04o}");
        tracing::warn!(file = %file.display(), mode, "every user of this machine may read a private key");
    }
    Ok(Zeroizing::new(bytes))
}

/// Reads the certificate authorities that a service's certificate may come from.
pub(super) fn read_ca_file(file: &Path) -> Result<Vec<Certificate>, SetupError> {
    let (pem, _) = read(file)?;
    let certificates = Certificate::from_pem_bundle(&pem).unwrap_or_default();
    if certificates.is_empty() {
        return Err(SetupError::unusable(file, "holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)"));
    }
    Ok(certificates)
}

/// The content of a file, and who may read and write it.
fn read(file: &Path) -> Result<(Vec<u8>, u32), SetupError> {
    let unreadable = |source| SetupError::Unreadable { file: file.to_owned(), source };
    let opened = fs::File::open(file).map_err(unreadable)?;
    // Of the file that was opened, so that nothing changes between the check and the read.
    let mode = opened.metadata().map_err(unreadable)?.permissions().mode() & 0o7777;
    let mut bytes = Vec::new();
    opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(SetupError::unusable(file, format!("is longer than {FILE_BYTES_MAX} bytes")));
    }
    Ok((bytes, mode))
}
