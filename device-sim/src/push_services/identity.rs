//! Who the simulated services are and whom they know: their TLS certificate, the provider keys that Apple would
//! have issued, and the service account that Google would have.

use std::{
    fmt, fs, io,
    io::Write as _,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, RsaKeySize,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Environment, jwt};
use crate::{clock::Timestamp, entropy::Names};

/// The letters of Apple's key and team identifiers.
const IDENTIFIER: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ23456789";
/// Apple's key and team identifiers have 10 characters.
const IDENTIFIER_LENGTH: usize = 10;

/// The names that the server's certificate is good for.
const CERTIFIED_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

const CA_FILE: &str = "ca.pem";
const SERVER_FILE: &str = "server.pem";
const SERVICE_ACCOUNT_FILE: &str = "service-account.json";
const NAMES_FILE: &str = "identity.json";

/// Everything that has to stay the same when the services start again and their clients shall not notice.
#[derive(Clone, Debug)]
pub struct Identity {
    pub(crate) server: ServerCertificate,
    pub(crate) provider_keys: Vec<ProviderKey>,
    pub(crate) service_account: ServiceAccount,
}

impl Identity {
    /// Makes new keys: a certificate authority that signs one server certificate and is then forgotten, one
    /// team-scoped provider key for both environments, and a service account of `project_id`.
    pub fn generate(project_id: &str) -> Result<Self, Error> {
        let names = Names::new();
        let team_id = names.string(IDENTIFIER, IDENTIFIER_LENGTH);
        Ok(Self {
            server: ServerCertificate::generate()?,
            provider_keys: vec![ProviderKey::generate(&team_id)?],
            service_account: ServiceAccount::generate(project_id, &names)?,
        })
    }

    /// Adds a provider key that APNs shall know besides the first.
    #[must_use]
    pub fn with_provider_key(mut self, key: ProviderKey) -> Self {
        self.provider_keys.push(key);
        self
    }

    /// The provider key that a provider is given: the first.
    pub fn provider_key(&self) -> &ProviderKey {
        &self.provider_keys[0]
    }

    /// The certificate authority that clients have to trust, as PEM.
    pub fn ca_pem(&self) -> &str {
        &self.server.ca_pem
    }

    /// Reads what [`Identity::save`] wrote into `folder`; `None` if nothing was saved there.
    pub fn load(folder: &Path) -> Result<Option<Self>, Error> {
        let names_file = folder.join(NAMES_FILE);
        if !names_file.exists() {
            return Ok(None);
        }
        let names: SavedNames = parse(&names_file, &read(&names_file)?)?;
        let account_file = folder.join(SERVICE_ACCOUNT_FILE);
        let account: SavedAccount = parse(&account_file, &read(&account_file)?)?;
        Ok(Some(Self {
            server: ServerCertificate {
                ca_pem: read(&folder.join(CA_FILE))?,
                server_pem: read(&folder.join(SERVER_FILE))?,
            },
            provider_keys: vec![ProviderKey::from_p8(
                &names.team_id,
                &names.key_id,
                &read(&p8_file(folder, &names.key_id))?,
            )?],
            service_account: ServiceAccount::from_pem(
                account.project_id,
                account.client_email,
                account.client_id,
                account.private_key_id,
                account.private_key,
            )?,
        }))
    }

    /// Writes the files that clients read into `folder`, readable by their owner alone: `ca.pem`,
    /// `AuthKey_<key id>.p8`, `service-account.json` (with `token_uri`); and, for the next start, `server.pem`
    /// and `identity.json`.
    pub fn save(&self, folder: &Path, token_uri: &str) -> Result<SavedFiles, Error> {
        create_private_folder(folder)?;
        let key = self.provider_key();
        let files = SavedFiles {
            ca: folder.join(CA_FILE),
            p8: p8_file(folder, &key.key_id),
            service_account: folder.join(SERVICE_ACCOUNT_FILE),
        };
        write_private(&files.ca, &self.server.ca_pem)?;
        write_private(&folder.join(SERVER_FILE), &self.server.server_pem)?;
        write_private(&files.p8, &key.p8_pem)?;
        write_private(&files.service_account, &self.service_account.json(token_uri))?;
        let names = SavedNames { team_id: key.team_id.clone(), key_id: key.key_id.clone() };
        write_private(&folder.join(NAMES_FILE), &to_json(&names))?;
        Ok(files)
    }
}

/// Where [`Identity::save`] put what clients need.
#[derive(Clone, Debug)]
pub struct SavedFiles {
    /// The certificate authority, PEM.
    pub ca: PathBuf,
    /// The provider key, PKCS#8 PEM, named as Apple names it.
    pub p8: PathBuf,
    /// The service account, JSON as Google's console gives it.
    pub service_account: PathBuf,
}

/// A TLS certificate for this machine's own names and the authority that signed it. The authority's key is gone:
/// who trusts `ca_pem` trusts this server and nothing else.
#[derive(Clone)]
pub(crate) struct ServerCertificate {
    pub(crate) ca_pem: String,
    /// Certificate and private key, one after the other.
    pub(crate) server_pem: String,
}

impl ServerCertificate {
    fn generate() -> Result<Self, Error> {
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.distinguished_name.push(DnType::CommonName, "device-sim certificate authority");
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let ca_pem = authority.self_signed(&authority_key)?.pem();

        let mut server = CertificateParams::new(CERTIFIED_NAMES.map(String::from))?;
        server.distinguished_name.push(DnType::CommonName, "device-sim");
        server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        // Python 3.13 and later refuse a certificate without it (VERIFY_X509_STRICT).
        server.use_authority_key_identifier_extension = true;
        let server_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = server.signed_by(&server_key, &Issuer::new(authority, authority_key))?;
        Ok(Self { ca_pem, server_pem: certificate.pem() + &server_key.serialize_pem() })
    }
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerCertificate").finish_non_exhaustive()
    }
}

/// An APNs authentication token signing key: what stands in a `.p8` file, and what Apple knows about it.
#[derive(Clone)]
pub struct ProviderKey {
    pub(crate) key_id: String,
    pub(crate) team_id: String,
    /// The only environment that the key works in; `None` for the older keys that work in both.
    pub(crate) environment: Option<Environment>,
    pub(crate) scope: KeyScope,
    pub(crate) p8_pem: String,
    /// The uncompressed point.
    pub(crate) public_key: Vec<u8>,
}

/// What a provider key may push to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KeyScope {
    /// Every topic of the team.
    Team,
    /// These topics; `related` is the one other key that may be used on the same connection.
    Topics { topics: Vec<String>, related: Option<String> },
}

impl ProviderKey {
    /// Makes a team-scoped key for both environments.
    pub fn generate(team_id: &str) -> Result<Self, Error> {
        let key_id = Names::new().string(IDENTIFIER, IDENTIFIER_LENGTH);
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        Ok(Self::new(team_id, &key_id, pair.serialize_pem(), &pair))
    }

    fn from_p8(team_id: &str, key_id: &str, p8_pem: &str) -> Result<Self, Error> {
        let pair = KeyPair::from_pem(p8_pem)?;
        Ok(Self::new(team_id, key_id, p8_pem.to_owned(), &pair))
    }

    fn new(team_id: &str, key_id: &str, p8_pem: String, pair: &KeyPair) -> Self {
        Self {
            key_id: key_id.to_owned(),
            team_id: team_id.to_owned(),
            environment: None,
            scope: KeyScope::Team,
            p8_pem,
            public_key: pair.public_key_raw().to_vec(),
        }
    }

    /// Confines the key to one environment, as Apple does with new keys since 2025.
    #[must_use]
    pub fn only_in(mut self, environment: Environment) -> Self {
        self.environment = Some(environment);
        self
    }

    /// Makes the key topic-specific.
    #[must_use]
    pub fn only_for(mut self, topics: &[&str]) -> Self {
        self.scope = KeyScope::Topics {
            topics: topics.iter().map(|&topic| topic.to_owned()).collect(),
            related: None,
        };
        self
    }

    /// Makes the topic-specific key `other` the one that may share a connection with this one.
    #[must_use]
    pub fn related_to(mut self, other: &Self) -> Self {
        if let KeyScope::Topics { related, .. } = &mut self.scope {
            *related = Some(other.key_id.clone());
        }
        self
    }

    /// The key's 10-character identifier, the `kid` of tokens.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The team's 10-character identifier, the `iss` of tokens.
    pub fn team_id(&self) -> &str {
        &self.team_id
    }

    /// The private key, PKCS#8 PEM.
    pub fn p8_pem(&self) -> &str {
        &self.p8_pem
    }

    /// A provider token of this moment, signed with the key.
    pub fn token(&self, issued_at: Timestamp) -> String {
        let header = json!({ "alg": "ES256", "kid": self.key_id });
        let claims = json!({ "iss": self.team_id, "iat": issued_at.seconds() });
        KeyPair::from_pem(&self.p8_pem)
            .ok()
            .and_then(|pair| jwt::sign_es256(&header, &claims, pair.serialized_der()))
            .expect("the key was read from this PEM before")
    }
}

impl fmt::Debug for ProviderKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProviderKey")
            .field("key_id", &self.key_id)
            .field("team_id", &self.team_id)
            .field("environment", &self.environment)
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}

/// A Google service account that may send messages for its project.
#[derive(Clone)]
pub(crate) struct ServiceAccount {
    pub(crate) project_id: String,
    pub(crate) client_email: String,
    client_id: String,
    pub(crate) private_key_id: String,
    private_key_pem: String,
    /// PKCS#1 DER.
    pub(crate) public_key: Vec<u8>,
}

impl ServiceAccount {
    fn generate(project_id: &str, names: &Names) -> Result<Self, Error> {
        let pair = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?;
        Self::from_pem(
            project_id.to_owned(),
            format!("push@{project_id}.iam.gserviceaccount.com"),
            names.string(b"0123456789", 21),
            names.string(b"0123456789abcdef", 40),
            pair.serialize_pem(),
        )
    }

    fn from_pem(
        project_id: String,
        client_email: String,
        client_id: String,
        private_key_id: String,
        private_key_pem: String,
    ) -> Result<Self, Error> {
        let public_key = KeyPair::from_pem(&private_key_pem)?.public_key_raw().to_vec();
        Ok(Self { project_id, client_email, client_id, private_key_id, private_key_pem, public_key })
    }

    /// The service account file, as Google's console gives it, but for `token_uri`.
    pub(crate) fn json(&self, token_uri: &str) -> String {
        to_json(&json!({
            "type": "service_account",
            "project_id": self.project_id,
            "private_key_id": self.private_key_id,
            "private_key": self.private_key_pem,
            "client_email": self.client_email,
            "client_id": self.client_id,
            "auth_uri": "https://accounts.google.com/o/oauth2/auth",
            "token_uri": token_uri,
            "universe_domain": "googleapis.com",
        }))
    }
}

impl fmt::Debug for ServiceAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceAccount").field("client_email", &self.client_email).finish_non_exhaustive()
    }
}

/// What kept the services from having keys.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Making or reading a key failed.
    #[error("cannot make or read a key or certificate: {0}")]
    Key(#[from] rcgen::Error),
    /// A file of the folder could not be read or written.
    #[error("cannot use {}: {source}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file of the folder is not what was saved there.
    #[error("{} is not a file that device-sim wrote ({source}); remove it to have new keys made", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where it departs from what was expected.
        source: serde_json::Error,
    },
}

#[derive(Serialize, Deserialize)]
struct SavedNames {
    team_id: String,
    key_id: String,
}

#[derive(Deserialize)]
struct SavedAccount {
    project_id: String,
    private_key_id: String,
    private_key: String,
    client_email: String,
    client_id: String,
}

fn p8_file(folder: &Path, key_id: &str) -> PathBuf {
    folder.join(format!("AuthKey_{key_id}.p8"))
}

fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|source| Error::File { path: path.to_owned(), source })
}

fn parse<T: for<'de> Deserialize<'de>>(path: &Path, text: &str) -> Result<T, Error> {
    serde_json::from_str(text).map_err(|source| Error::Damaged { path: path.to_owned(), source })
}

fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).expect("strings are JSON") + "\n"
}

/// Makes `folder` for its owner alone; one that exists stays as it is.
fn create_private_folder(folder: &Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt as _;

    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|source| Error::File { path: folder.to_owned(), source })
}

/// Writes `text` to a file that its owner alone can read, also if there was another before.
fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};

    let failed = |source| Error::File { path: path.to_owned(), source };
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    // The mode of a file that was there already stays what it was: narrow it before anything secret is in it.
    file.set_permissions(fs::Permissions::from_mode(0o600)).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_saved_is_loaded_again_and_readable_by_its_owner_alone() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let folder = folder.path().join("push");
        let made = Identity::generate("demo").expect("keys");
        let files = made.save(&folder, "https://localhost:1/token").expect("saved");
        let loaded = Identity::load(&folder).expect("readable").expect("there");
        assert_eq!(loaded.provider_key().public_key, made.provider_key().public_key);
        assert_eq!(loaded.provider_key().key_id, made.provider_key().key_id);
        assert_eq!(loaded.service_account.public_key, made.service_account.public_key);
        assert_eq!(loaded.server.server_pem, made.server.server_pem);
        for file in [files.ca, files.p8, files.service_account, folder.join(SERVER_FILE)] {
            let mode = fs::metadata(&file).expect("written").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", file.display());
        }
    }

    #[test]
    fn no_private_key_shows_in_debug_output() {
        let identity = Identity::generate("demo").expect("keys");
        assert!(!format!("{identity:?}").contains("PRIVATE"));
    }

    #[test]
    fn an_empty_folder_holds_no_identity() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        assert!(Identity::load(folder.path()).expect("readable").is_none());
    }
}
