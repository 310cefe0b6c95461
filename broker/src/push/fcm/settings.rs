//! The section `[push.fcm]` of the configuration, and the service account file that it names.

use std::{
    fmt,
    num::NonZeroU8,
    path::{Path, PathBuf},
};

use jsonwebtoken::EncodingKey;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::push::{
    HttpsUrl, QueueSettings,
    settings::{SetupError, read_key_file},
};

/// How pushes go to Google.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The key of a service account that may send messages, as JSON (Firebase console, project settings, service
    /// accounts). Must not be writable by others; should be readable by the broker alone.
    pub service_account_file: PathBuf,
    /// Where FCM is. Default `https://fcm.googleapis.com`.
    #[serde(default = "endpoint")]
    pub endpoint: HttpsUrl,
    /// The only certificate authorities to trust, as a PEM file, for FCM and for the account's token endpoint.
    /// Without it those of the operating system.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// So many connections are kept open. Default 4.
    #[serde(default = "connections")]
    pub connections: NonZeroU8,
    /// How pushes wait for Google.
    #[serde(default)]
    pub queue: QueueSettings,
}

fn endpoint() -> HttpsUrl {
    HttpsUrl::parse("https://fcm.googleapis.com").expect("an https address")
}

fn connections() -> NonZeroU8 {
    NonZeroU8::new(4).expect("not zero")
}

/// A service account and its key.
pub struct ServiceAccount {
    project_id: String,
    client_email: String,
    private_key_id: Option<String>,
    key: EncodingKey,
    token_uri: HttpsUrl,
    audience: String,
}

#[derive(Deserialize)]
struct File {
    r#type: Option<String>,
    project_id: Option<String>,
    client_email: Option<String>,
    private_key_id: Option<String>,
    private_key: Option<Secret>,
    token_uri: Option<String>,
}

#[derive(Deserialize)]
#[serde(from = "String")]
struct Secret(Zeroizing<String>);

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl ServiceAccount {
    /// Reads a service account's JSON file.
    pub fn read(file: &Path) -> Result<Self, SetupError> {
        let json = read_key_file(file)?;
        Self::parse(&json).map_err(|problem| SetupError::unusable(file, problem))
    }

    /// Checks the content of a service account file. What is wrong is said without quoting from it.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        let file: File = serde_json::from_slice(json).map_err(|error| {
            // The error's own words would quote what stands there, which may be the key.
            format!("is no service account file: line {}, column {}", error.line(), error.column())
        })?;
        match file.r#type.as_deref() {
            Some("service_account") => {}
            Some(_) => {
                return Err(
                    "is a credential of another type: FCM needs the key of a service account".to_owned()
                );
            }
            None => return Err(missing("type")),
        }
        let project_id = file.project_id.ok_or_else(|| missing("project_id"))?;
        let part_of_a_path =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b':' | b'_');
        if project_id.is_empty() || !project_id.bytes().all(part_of_a_path) {
            return Err("`project_id` is no project's id".to_owned());
        }
        let pem = file.private_key.ok_or_else(|| missing("private_key"))?;
        let key = EncodingKey::from_rsa_pem(pem.0.as_bytes())
            .map_err(|_| "`private_key` is no RSA key in PEM form: download the key again".to_owned())?;
        let token_uri = file.token_uri.ok_or_else(|| missing("token_uri"))?;
        Ok(Self {
            project_id,
            client_email: file.client_email.ok_or_else(|| missing("client_email"))?,
            private_key_id: file.private_key_id,
            key,
            token_uri: HttpsUrl::parse(&token_uri).map_err(|problem| format!("`token_uri`: {problem}"))?,
            audience: token_uri,
        })
    }

    /// The project whose phones it may push to.
    pub fn project_id(&self) -> &str {
        &self.project_id
    }

    /// Who it is: the issuer of its assertions.
    pub fn client_email(&self) -> &str {
        &self.client_email
    }

    /// Where its assertions are exchanged for access tokens.
    pub fn token_uri(&self) -> &HttpsUrl {
        &self.token_uri
    }

    /// The same, exactly as the file spells it: whom its assertions are for.
    pub(super) fn audience(&self) -> &str {
        &self.audience
    }

    pub(super) fn private_key_id(&self) -> Option<&str> {
        self.private_key_id.as_deref()
    }

    pub(super) fn key(&self) -> &EncodingKey {
        &self.key
    }
}

fn missing(field: &str) -> String {
    format!(
        "has no `{field}`: it should be a service account's key in JSON form, as the Firebase console gives it"
    )
}

impl fmt::Debug for ServiceAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceAccount")
            .field("project_id", &self.project_id)
            .field("client_email", &self.client_email)
            .field("token_uri", &self.token_uri)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use device_sim::push_services::Identity;
    use serde_json::{Value, json};

    use super::*;

    fn account() -> Value {
        let folder = tempfile::tempdir().unwrap();
        let identity = Identity::generate("a-project").unwrap();
        let files = identity.save(&folder.path().join("x"), "https://localhost:1/token").unwrap();
        serde_json::from_slice(&std::fs::read(files.service_account).unwrap()).unwrap()
    }

    #[test]
    fn the_smallest_section_means_google_and_four_connections() {
        let settings: Settings = toml::from_str("service_account_file = 'a.json'").unwrap();
        assert_eq!(settings.endpoint.as_str(), "https://fcm.googleapis.com");
        assert_eq!(settings.connections.get(), 4);
        assert_eq!(settings.queue, QueueSettings::default());
        let typo = toml::from_str::<Settings>("service_account_file = 'a.json'\nca_fil = 'b'").unwrap_err();
        assert!(typo.to_string().contains("unknown field `ca_fil`"), "{typo}");
        let missing = toml::from_str::<Settings>("connections = 1").unwrap_err();
        assert!(missing.to_string().contains("service_account_file"), "{missing}");
    }

    #[test]
    fn a_service_account_is_read_and_its_key_never_shown() {
        let account = account();
        let parsed = ServiceAccount::parse(account.to_string().as_bytes()).unwrap();
        assert_eq!(parsed.project_id(), "a-project");
        assert_eq!(parsed.token_uri().as_str(), "https://localhost:1/token");
        assert!(parsed.client_email().contains('@'));
        let shown = format!("{parsed:?}");
        let key = account["private_key"].as_str().unwrap();
        for line in key.lines() {
            assert!(!shown.contains(line), "{shown}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_service_account_is_said_without_quoting_it() {
        let good = account();
        let with = |field: &str, value: Value| {
            let mut account = good.clone();
            account[field] = value;
            account
        };
        let secret = "-----BEGIN PRIVATE KEY----- c2VjcmV0";
        for (account, says) in [
            (with("type", json!("authorized_user")), "another type"),
            (with("type", Value::Null), "no `type`"),
            (with("project_id", Value::Null), "no `project_id`"),
            (with("project_id", json!("../other")), "no project's id"),
            (with("client_email", Value::Null), "no `client_email`"),
            (with("token_uri", Value::Null), "no `token_uri`"),
            (with("token_uri", json!("http://oauth2.googleapis.com/token")), "must begin with https://"),
            (with("private_key", Value::Null), "no `private_key`"),
            (with("private_key", json!(secret)), "no RSA key"),
            (with("private_key", json!([secret])), "no service account file: line 1"),
            (json!(secret), "no service account file"),
            (json!({}), "no `type`"),
        ] {
            let error = ServiceAccount::parse(account.to_string().as_bytes()).unwrap_err();
            assert!(error.contains(says), "{says}: {error}");
            assert!(!error.contains("c2VjcmV0"), "{error}");
        }
        assert!(ServiceAccount::parse(b"{ not json").unwrap_err().contains("line 1"));
    }
}
