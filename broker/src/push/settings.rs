//! What the settings of both push services share: addresses, key files, trusted certificates, and how it is said
//! that one of them is wrong.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use reqwest::{Certificate, Url};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::key_file;

/// Why a push service cannot be used as configured: names the file, and says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// A file cannot be read, or others may change a key.
    #[error(transparent)]
    File(#[from] key_file::Error),
    /// A file holds something else than it should.
    #[error("{}: {problem}", file.display())]
    Unusable {
        /// Which.
        file: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The configuration, which was read again, names no file.
    #[error("{problem}")]
    Configuration {
        /// What is wrong with it.
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
    /// The file that it is about, where it is about one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::File(error) => Some(error.file()),
            Self::Unusable { file, .. } => Some(file),
            Self::Configuration { .. } | Self::Tls { .. } => None,
        }
    }

    pub(super) fn configuration(problem: String) -> Self {
        Self::Configuration { problem }
    }

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

/// Reads a file with a private key in it, if nobody else can change it.
pub(super) fn read_key_file(file: &Path) -> Result<Zeroizing<Vec<u8>>, SetupError> {
    Ok(key_file::read(file)?)
}

/// Reads the certificate authorities that a service's certificate may come from.
pub(super) fn read_ca_file(file: &Path) -> Result<Vec<Certificate>, SetupError> {
    let (pem, _) = key_file::read_any(file)?;
    let certificates = Certificate::from_pem_bundle(&pem).unwrap_or_default();
    if certificates.is_empty() {
        return Err(SetupError::unusable(
            file,
            "holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)",
        ));
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, Permissions},
        os::unix::fs::PermissionsExt as _,
    };

    use super::*;
    use crate::push::connection::{Protocol, Recipe};

    fn file(content: &[u8], mode: u32) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a-file");
        fs::write(&file, content).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        (folder, file)
    }

    #[test]
    fn a_key_file_that_others_may_write_to_is_refused() {
        for mode in [0o620, 0o602, 0o666, 0o777] {
            let (_folder, file) = file(b"key", mode);
            let error = read_key_file(&file).unwrap_err();
            assert!(matches!(error, SetupError::File(key_file::Error::Writable { .. })), "{mode:o}: {error}");
            let text = error.to_string();
            assert!(text.contains("a-file") && text.contains("chmod go-w"), "{text}");
        }
        for mode in [0o400, 0o600, 0o640, 0o644] {
            let (_folder, file) = file(b"key", mode);
            assert_eq!(**read_key_file(&file).unwrap(), *b"key", "{mode:o}");
        }
    }

    #[test]
    fn a_file_that_is_missing_or_endless_is_named() {
        let missing = read_key_file(Path::new("/nowhere/key.p8")).unwrap_err().to_string();
        assert!(missing.contains("/nowhere/key.p8") && missing.contains("No such file"), "{missing}");
        let (_folder, long) = file(&vec![b'x'; 300_000], 0o600);
        let long = read_key_file(&long).unwrap_err().to_string();
        assert!(long.contains("longer than 262144 bytes"), "{long}");
        let endless = read_ca_file(Path::new("/dev/zero")).unwrap_err().to_string();
        assert!(endless.contains("longer than"), "{endless}");
    }

    #[test]
    fn a_ca_file_without_a_usable_certificate_is_refused() {
        let setup = |content: &str| {
            let (_folder, file) = file(content.as_bytes(), 0o644);
            Recipe::new(Protocol::Http2, Some(&file)).and_then(|recipe| recipe.client()).map(|_| ())
        };
        for content in ["", "nothing", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"] {
            let error = setup(content).unwrap_err();
            assert!(matches!(error, SetupError::Unusable { .. }), "{content}: {error}");
            assert!(error.to_string().contains("a-file"), "{content}: {error}");
        }
    }

    #[test]
    fn an_address_is_https_with_a_host_and_at_most_a_path() {
        assert_eq!(HttpsUrl::parse("https://example.org/").unwrap().as_str(), "https://example.org");
        assert_eq!(HttpsUrl::parse("https://[::1]:8443/a/b/").unwrap().as_str(), "https://[::1]:8443/a/b");
        for wrong in
            ["", "example.org", "http://example.org", "https://", "https://u:p@example.org", "https://a?b"]
        {
            let error = HttpsUrl::parse(wrong).unwrap_err();
            assert!(!error.contains("u:p"), "{error}");
        }
    }
}
