//! A relying party: a login server or an enrolling page that calls us, and its credentials.

use subtle::ConstantTimeEq;

use crate::{Aggregate, CredentialId, RelyingPartyId, Timestamp, limits, text::DisplayText, text::Realm};

/// The state of a relying party.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RelyingParty {
    registration: Option<Registration>,
    credentials: Vec<Credential>,
}

/// What a relying party was registered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Its id.
    pub id: RelyingPartyId,
    /// Shown on phones.
    pub name: DisplayText,
    /// What it may ask for.
    pub applications: Vec<DisplayText>,
    /// The accounts that it may ask for.
    pub realm: Realm,
    /// When.
    pub registered_at: Timestamp,
}

/// One credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// Its id.
    pub id: CredentialId,
    /// What it is for.
    pub scope: Scope,
    /// How it is known.
    pub secret: CredentialSecret,
    /// When it was issued.
    pub issued_at: Timestamp,
    /// When it was revoked, if it was.
    pub revoked_at: Option<Timestamp>,
}

/// What a credential is for: a login server's key cannot bind phones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Approvals.
    SignIn,
    /// Enrolments.
    Enrolment,
}

/// How a credential is known. Neither is secret: they are hashes of values with 256 random bits, and of a public
/// certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialSecret {
    /// SHA-256 of the API key's secret bytes.
    ApiKey([u8; 32]),
    /// SHA-256 of the client certificate (DER).
    ClientCertificate([u8; 32]),
}

/// What may be asked of a relying party.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Register it.
    Register {
        /// Its new id.
        id: RelyingPartyId,
        /// See [`Registration`].
        name: DisplayText,
        /// See [`Registration`].
        applications: Vec<DisplayText>,
        /// See [`Registration`].
        realm: Realm,
    },
    /// Give it a credential.
    IssueCredential {
        /// Its new id.
        id: CredentialId,
        /// What it is for.
        scope: Scope,
        /// How it is known.
        secret: CredentialSecret,
    },
    /// Refuse a credential from now on.
    RevokeCredential(CredentialId),
}

/// What happened to a relying party.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It may call.
    Registered {
        /// Its id.
        id: RelyingPartyId,
        /// See [`Registration`].
        name: DisplayText,
        /// See [`Registration`].
        applications: Vec<DisplayText>,
        /// See [`Registration`].
        realm: Realm,
    },
    /// It has a credential.
    CredentialIssued {
        /// Its id.
        id: CredentialId,
        /// What it is for.
        scope: Scope,
        /// How it is known.
        secret: CredentialSecret,
    },
    /// The credential is refused from now on.
    CredentialRevoked(CredentialId),
}

/// Why a command changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not registered.
    #[error("no such relying party")]
    Unknown,
    /// No such credential of this relying party.
    #[error("no such credential")]
    UnknownCredential,
    /// As many credentials as it may have.
    #[error("the relying party has {most} credentials; revoke one first")]
    TooManyCredentials {
        /// The limit.
        most: usize,
    },
}

impl RelyingParty {
    /// What it was registered with; none while it is not.
    pub fn registration(&self) -> Option<&Registration> {
        self.registration.as_ref()
    }

    /// Its credentials, oldest first, revoked ones included.
    pub fn credentials(&self) -> &[Credential] {
        &self.credentials
    }

    /// What the bearer of this secret may do: none if the credential is unknown, revoked or another. The comparison
    /// takes the same time whatever differs.
    pub fn authenticate(&self, id: CredentialId, secret: &CredentialSecret) -> Option<Scope> {
        let credential = self.credentials.iter().find(|one| one.id == id && one.revoked_at.is_none())?;
        let same = match (&credential.secret, secret) {
            (CredentialSecret::ApiKey(known), CredentialSecret::ApiKey(given))
            | (CredentialSecret::ClientCertificate(known), CredentialSecret::ClientCertificate(given)) => {
                known.ct_eq(given).into()
            }
            _ => false,
        };
        same.then_some(credential.scope)
    }
}

impl Aggregate for RelyingParty {
    type Command = Command;
    type Event = Event;
    type Refusal = Refusal;

    fn decide(&self, command: &Command, _now: Timestamp) -> Result<Vec<Event>, Refusal> {
        match command {
            // Every registration draws an id of its own, so this is the same one again.
            Command::Register { .. } if self.registration.is_some() => Ok(vec![]),
            Command::Register { id, name, applications, realm } => Ok(vec![Event::Registered {
                id: *id,
                name: name.clone(),
                applications: applications.clone(),
                realm: realm.clone(),
            }]),
            _ if self.registration.is_none() => Err(Refusal::Unknown),
            Command::IssueCredential { id, scope, secret } => {
                let good = self.credentials.iter().filter(|one| one.revoked_at.is_none()).count();
                if good >= limits::CREDENTIALS_MAX {
                    return Err(Refusal::TooManyCredentials { most: limits::CREDENTIALS_MAX });
                }
                Ok(vec![Event::CredentialIssued { id: *id, scope: *scope, secret: secret.clone() }])
            }
            Command::RevokeCredential(id) => {
                let credential =
                    self.credentials.iter().find(|one| one.id == *id).ok_or(Refusal::UnknownCredential)?;
                let revoked = credential.revoked_at.is_some();
                Ok(if revoked { vec![] } else { vec![Event::CredentialRevoked(*id)] })
            }
        }
    }

    fn evolve(&mut self, event: &Event, at: Timestamp) {
        match event {
            Event::Registered { id, name, applications, realm } => {
                self.registration = Some(Registration {
                    id: *id,
                    name: name.clone(),
                    applications: applications.clone(),
                    realm: realm.clone(),
                    registered_at: at,
                });
            }
            Event::CredentialIssued { id, scope, secret } => self.credentials.push(Credential {
                id: *id,
                scope: *scope,
                secret: secret.clone(),
                issued_at: at,
                revoked_at: None,
            }),
            Event::CredentialRevoked(id) => {
                if let Some(credential) = self.credentials.iter_mut().find(|one| one.id == *id) {
                    credential.revoked_at = Some(at);
                }
            }
        }
    }
}
