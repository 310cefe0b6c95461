//! The claim that binds a new key: signed with that key, proving knowledge of a code's secret.

use std::fmt;

use bytes::Bytes;
use countersign_envelope::{
    Algorithm, PublicKey, enrolment_code, enrolment_code::EnrolmentSecret, payload_type,
};
use countersign_proto::v1;

use crate::{
    answer::envelope_hash,
    call::{Error, bounded, decode},
    event::{Platform, PushTarget},
    limits,
    text::DisplayText,
};

/// A claim whose signature is that of the key that it brings. Whether it knows the code's secret, the account says.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifiedClaim {
    locator: String,
    secret_mac: Bytes,
    broker_key: Bytes,
    key: PublicKey,
    platform: Platform,
    push_target: PushTarget,
    device_name: DisplayText,
    hash: [u8; 32],
    payload_hash: [u8; 32],
}

impl VerifiedClaim {
    /// Checks a claim. Its key is in its payload, so this once the payload is decoded, within its bounds, before the
    /// signature is checked; nothing of it is used until then.
    pub fn verify(broker_id: &str, envelope: &v1::Envelope) -> Result<Self, Error> {
        bounded(envelope, payload_type::ENROLMENT_CLAIM)?;
        let claim: v1::EnrolmentClaim = decode(&envelope.payload)?;
        let key = key(claim.authenticator_key.as_ref())?;
        key.verify(payload_type::ENROLMENT_CLAIM, &envelope.payload, &envelope.signature)
            .map_err(|_| Error::Unauthentic)?;
        if claim.broker_id != broker_id || claim.locator != envelope.key_id {
            return Err(Error::Unauthentic);
        }
        if claim.locator.len() != enrolment_code::LOCATOR_LENGTH {
            return Err(Error::field("locator", "must be the first 8 characters of the code"));
        }
        if claim.nonce.len() != limits::NONCE_BYTES {
            return Err(Error::field("nonce", "must be 16 random bytes"));
        }
        let platform = match claim.platform() {
            v1::Platform::Ios => Platform::Ios,
            v1::Platform::Android => Platform::Android,
            v1::Platform::Unspecified => return Err(Error::field("platform", "must be iOS or Android")),
        };
        let push_target = PushTarget::parse(claim.push_target.as_ref())
            .map_err(|problem| Error::field("push_target", problem))?;
        let device_name = DisplayText::parse(&claim.device_name, limits::DISPLAY_NAME_CHARACTERS_MAX)
            .map_err(|problem| Error::field("device_name", problem.to_string()))?;
        Ok(Self {
            locator: claim.locator,
            secret_mac: claim.secret_mac,
            broker_key: claim.broker_key,
            key,
            platform,
            push_target,
            device_name,
            hash: envelope_hash(envelope),
            payload_hash: countersign_envelope::sha256(&envelope.payload),
        })
    }

    /// Which enrolment.
    pub fn locator(&self) -> &str {
        &self.locator
    }

    /// The new key.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// What the phone runs.
    pub fn platform(&self) -> Platform {
        self.platform
    }

    /// Where pushes go.
    pub fn push_target(&self) -> &PushTarget {
        &self.push_target
    }

    /// As the person knows it.
    pub fn device_name(&self) -> &DisplayText {
        &self.device_name
    }

    /// Knows the same claim again.
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// SHA-256 of the payload: what the receipt answers.
    pub fn payload_hash(&self) -> [u8; 32] {
        self.payload_hash
    }

    /// Whether whoever signed it knew the secret, and means this broker's key.
    pub fn knows_secret(&self, secret: &EnrolmentSecret, broker_key: &[u8]) -> bool {
        self.broker_key == broker_key
            && secret.verify_mac(&self.locator, broker_key, self.key.as_bytes(), &self.secret_mac)
    }
}

impl fmt::Debug for VerifiedClaim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifiedClaim({} {:?})", self.locator, self.key)
    }
}

fn key(key: Option<&v1::PublicKey>) -> Result<PublicKey, Error> {
    let key = key.ok_or_else(|| Error::field("authenticator_key", "is missing"))?;
    let algorithm = match key.algorithm() {
        v1::SignatureAlgorithm::Ed25519 => Algorithm::Ed25519,
        v1::SignatureAlgorithm::Es256 => Algorithm::Es256,
        v1::SignatureAlgorithm::Unspecified => {
            return Err(Error::field("authenticator_key.algorithm", "must be Ed25519 or ES256"));
        }
    };
    PublicKey::parse(algorithm, &key.key)
        .map_err(|problem| Error::field("authenticator_key.key", problem.to_string()))
}
