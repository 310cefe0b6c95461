//! Who calls: an API key, or the client certificate of the connection.

use std::{fmt, fs, io, os::unix::fs::PermissionsExt as _, path::Path, path::PathBuf};

use countersign_proto::v1::{approvals_client::ApprovalsClient, enrolments_client::EnrolmentsClient};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};
use zeroize::Zeroizing;

use crate::wire::Transport;

/// A longer file is no API key.
const FILE_BYTES_MAX: u64 = 4_096;

/// An API key. It does not print itself.
#[derive(Clone)]
pub struct ApiKey(Zeroizing<String>);

/// Why a file gives no API key. It says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ApiKeyError {
    /// The file cannot be read.
    #[error("cannot read the API key from {}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Others may read it.
    #[error(
        "the API key in {} can be read by others (mode {mode:03o}); make a new one if somebody has, and chmod 600 the \
         file", .path.display()
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// There is no key in it.
    #[error(
        "{} holds no API key; put the key that was shown when the credential was issued (csk_...) on its only line",
        .0.display()
    )]
    None(PathBuf),
}

impl ApiKey {
    /// A key, or what passes for one in a test of bad keys: any text.
    pub fn new(key: impl Into<String>) -> Self {
        Self(Zeroizing::new(key.into()))
    }

    /// The key on the only line of a file that nobody else may read.
    pub fn from_file(path: &Path) -> Result<Self, ApiKeyError> {
        let failed = |source| ApiKeyError::Io { path: path.to_owned(), source };
        let metadata = fs::metadata(path).map_err(failed)?;
        let mode = metadata.permissions().mode() & 0o777;
        if metadata.is_file() && mode & 0o077 != 0 {
            return Err(ApiKeyError::Open { path: path.to_owned(), mode });
        }
        if metadata.len() > FILE_BYTES_MAX {
            return Err(ApiKeyError::None(path.to_owned()));
        }
        let text = Zeroizing::new(fs::read_to_string(path).map_err(failed)?);
        let key = text.trim();
        if key.starts_with("csk_") && key.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(Self::new(key))
        } else {
            Err(ApiKeyError::None(path.to_owned()))
        }
    }

    /// As it is sent; none where it holds what no header can.
    fn into_header(self) -> Option<MetadataValue<Ascii>> {
        let text = Zeroizing::new(format!("Bearer {}", self.0.as_str()));
        let mut value = MetadataValue::try_from(text.as_str()).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(secret)")
    }
}

/// A relying party's way to the broker: the connections, and what it shows there.
#[derive(Clone, Debug)]
pub struct Client {
    transport: Transport,
    authorize: Authorize,
}

/// Puts the credential into each call.
#[derive(Clone)]
pub struct Authorize(Option<MetadataValue<Ascii>>);

impl Client {
    /// With an API key; without one the client certificate of the transport is all that is shown.
    pub fn new(transport: &Transport, key: Option<ApiKey>) -> Self {
        Self { transport: transport.clone(), authorize: Authorize(key.and_then(ApiKey::into_header)) }
    }

    /// The connections.
    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// What login servers call, as generated.
    pub fn approvals(&self) -> ApprovalsClient<InterceptedService<Channel, Authorize>> {
        ApprovalsClient::with_interceptor(self.transport.channel(), self.authorize.clone())
    }

    /// What enrolling pages call, as generated.
    pub fn enrolments(&self) -> EnrolmentsClient<InterceptedService<Channel, Authorize>> {
        EnrolmentsClient::with_interceptor(self.transport.channel(), self.authorize.clone())
    }
}

impl Interceptor for Authorize {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

impl fmt::Debug for Authorize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Authorize(API key)" } else { "Authorize(no API key)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_from_a_file_of_ones_own() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        fs::write(&path, "csk_abc\n").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("set");
        assert!(matches!(ApiKey::from_file(&path), Err(ApiKeyError::Open { mode: 0o644, .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("set");
        let key = ApiKey::from_file(&path).expect("a key");
        assert_eq!(format!("{key:?}"), "ApiKey(secret)");
        let header = key.into_header().expect("a header");
        assert_eq!(header, "Bearer csk_abc");
        assert_eq!(format!("{header:?}"), "Sensitive");
        fs::write(&path, "hello\n").expect("written");
        assert!(matches!(ApiKey::from_file(&path), Err(ApiKeyError::None(_))));
    }
}
