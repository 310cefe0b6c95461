//! The only holder of secrets: signs, seals, and makes what must be recognised later without being stored.
//!
//! - [`folder`]: where the keys are, and with which permissions;
//! - [`seal`]: encrypts for storage, under a key for each account;
//! - [`nonce`]: what reads of phones must carry;
//! - [`backup`]: copies of the folder;
//! - [`acknowledgement`]: what stands for a phone that says "delivered".
//!
//! Nothing here prints a key, and nobody else sees one.

pub mod acknowledgement;
pub mod backup;
pub mod folder;
pub mod identity;
pub mod nonce;
pub mod seal;

use std::fmt;

use aws_lc_rs::hmac;
use bytes::Bytes;
use countersign_domain::{
    AccountId,
    event::SignedMessage,
    text::{DisplayText, Realm, normalised_account_name},
};
use countersign_envelope::{PublicKey, SigningKey};

pub use acknowledgement::Acknowledgements;
pub use nonce::Nonces;
pub use seal::Sealer;

/// All keys of one broker.
pub struct Keys {
    broker_id: String,
    signing: SigningKey,
    public: PublicKey,
    fingerprint: String,
    lookup: hmac::Key,
    /// Encrypts for storage.
    pub sealer: Sealer,
    /// Makes and knows the nonces of reads.
    pub nonces: Nonces,
    /// Makes and knows the tokens of acknowledgements.
    pub acknowledgements: Acknowledgements,
}

impl Keys {
    /// This broker's id: what phones learn at enrolment, the same for all of its nodes and for ever.
    pub fn broker_id(&self) -> &str {
        &self.broker_id
    }

    /// The key that phones check challenges with.
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// Signs a message of the broker.
    pub fn sign(&self, payload_type: &str, payload: Vec<u8>) -> SignedMessage {
        let signature = self.signing.sign(payload_type, &payload);
        SignedMessage {
            payload: payload.into(),
            signature: Bytes::copy_from_slice(&signature),
            key_id: self.fingerprint.clone(),
        }
    }

    /// The account of this name: HMAC-SHA-256 under the lookup key, so that a stolen log names nobody.
    pub fn account_id(&self, realm: &Realm, name: &DisplayText) -> AccountId {
        let mut mac = hmac::Context::with_key(&self.lookup);
        let normalised = normalised_account_name(name);
        for part in [realm.as_str(), &normalised] {
            mac.update(&u32::try_from(part.len()).expect("names are bounded").to_be_bytes());
            mac.update(part.as_bytes());
        }
        let tag = mac.sign();
        let (id, _) = tag.as_ref().split_first_chunk().expect("HMAC-SHA-256 is 32 bytes");
        AccountId::from_bytes(*id)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys(of broker {}, signing {})", self.broker_id, self.fingerprint)
    }
}
