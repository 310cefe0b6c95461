//! Who calls: a relying party, by an API key or by its client certificate.

pub mod api_key;

use std::sync::Arc;

use countersign_domain::{
    CredentialId, RelyingPartyId,
    relying_party::{CredentialSecret, Registration, Scope},
};

use crate::{
    decider::{self, Decider, codec::RelyingPartyCodec},
    projection::Index,
};
use api_key::ApiKey;

/// Knows relying parties by their credentials.
#[derive(Debug, Clone)]
pub struct Authenticator {
    relying_parties: Arc<Decider<RelyingPartyCodec>>,
    index: Arc<Index>,
}

/// A relying party that has shown a credential of the scope that the call needs.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Which.
    pub id: RelyingPartyId,
    /// What it was registered with.
    pub registration: Registration,
}

/// What a caller has shown.
#[derive(Debug, Clone, Copy, Default)]
pub struct Shown<'a> {
    /// The header `authorization`, if there is one.
    pub authorization: Option<&'a str>,
    /// SHA-256 of the client certificate that the TLS handshake proved.
    pub certificate_hash: Option<[u8; 32]>,
}

/// Why a caller is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Neither an API key nor a client certificate.
    #[error("send an API key as \"authorization: Bearer csk_...\", or show a client certificate")]
    Missing,
    /// Unknown, malformed or revoked: alike.
    #[error("the credential is not good")]
    Invalid,
    /// Good, and for something else.
    #[error("this credential is for {}; this call needs one for {}", scope_name(*granted), scope_name(*needed))]
    Scope {
        /// What it is good for.
        granted: Scope,
        /// What the call needs.
        needed: Scope,
    },
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] decider::Error),
}

/// As operators issue it.
pub(super) fn scope_name(scope: Scope) -> &'static str {
    match scope {
        Scope::SignIn => "sign-in",
        Scope::Enrolment => "enrolment",
    }
}

impl Authenticator {
    /// Knows those that the log knows.
    pub fn new(relying_parties: Arc<Decider<RelyingPartyCodec>>, index: Arc<Index>) -> Self {
        Self { relying_parties, index }
    }

    /// The caller, if what it has shown is good for this scope. Where there is an API key, it alone counts.
    pub async fn authenticate(&self, shown: Shown<'_>, scope: Scope) -> Result<Caller, Error> {
        let (credential, secret) = self.credential(shown)?;
        let id = credential.relying_party();
        let relying_party = self.relying_parties.load(id).await?;
        let granted = relying_party.authenticate(credential, &secret).ok_or(Error::Invalid)?;
        let registration = relying_party.registration().ok_or(Error::Invalid)?.clone();
        if granted == scope {
            Ok(Caller { id, registration })
        } else {
            Err(Error::Scope { granted, needed: scope })
        }
    }

    fn credential(&self, shown: Shown<'_>) -> Result<(CredentialId, CredentialSecret), Error> {
        match (shown.authorization, shown.certificate_hash) {
            (Some(header), _) => {
                let key = header.strip_prefix("Bearer ").ok_or(Error::Invalid)?;
                let key: ApiKey = key.parse().map_err(|api_key::Malformed| Error::Invalid)?;
                Ok((key.credential(), CredentialSecret::ApiKey(key.secret_hash())))
            }
            (None, Some(hash)) => {
                let credential = self.index.credential(&hash).ok_or(Error::Invalid)?;
                Ok((credential, CredentialSecret::ClientCertificate(hash)))
            }
            (None, None) => Err(Error::Missing),
        }
    }
}
