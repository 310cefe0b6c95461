//! A phone's key: Ed25519, or ES256 as the Secure Enclave and StrongBox hold it.

use std::fmt;

use countersign_envelope::{Algorithm, PublicKey, SigningKey};
use countersign_proto::v1;
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::entropy;

/// A phone's private key, which can be kept in a file. It never prints itself.
pub struct Key {
    signs: SigningKey,
    kept: Kept,
}

/// What the key is made from again.
enum Kept {
    Seed(Zeroizing<[u8; 32]>),
    Pkcs8(Zeroizing<Vec<u8>>),
}

/// A key as it is in a state file.
#[derive(Serialize, Deserialize)]
#[serde(tag = "algorithm", rename_all = "lowercase")]
pub(super) enum StoredKey {
    /// The seed, base64.
    Ed25519 { seed: Zeroizing<String> },
    /// PKCS#8, base64.
    Es256 { pkcs8: Zeroizing<String> },
}

/// A state file holds something else than a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("holds no usable key")]
pub(super) struct InvalidKey;

impl Key {
    /// A new key.
    pub fn generate(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Ed25519 => {
                let mut seed = Zeroizing::new([0; 32]);
                entropy::fill(seed.as_mut_slice());
                Self { signs: SigningKey::ed25519(&seed), kept: Kept::Seed(seed) }
            }
            Algorithm::Es256 => {
                let (signs, pkcs8) = SigningKey::generate_es256();
                Self { signs, kept: Kept::Pkcs8(pkcs8) }
            }
        }
    }

    /// The public half.
    pub fn public_key(&self) -> PublicKey {
        self.signs.public_key()
    }

    /// The public half, as a message.
    pub fn public_message(&self) -> v1::PublicKey {
        public_message(&self.public_key())
    }

    /// Puts a payload into a signed envelope: anything, by any name.
    pub fn envelope(&self, key_id: &str, payload_type: &str, payload: Vec<u8>) -> v1::Envelope {
        let signature = self.signs.sign(payload_type, &payload).to_vec();
        v1::Envelope {
            payload: payload.into(),
            payload_type: payload_type.to_owned(),
            key_id: key_id.to_owned(),
            signature: signature.into(),
        }
    }

    pub(super) fn stored(&self) -> StoredKey {
        match &self.kept {
            Kept::Seed(seed) => StoredKey::Ed25519 { seed: Zeroizing::new(BASE64.encode(seed.as_slice())) },
            Kept::Pkcs8(pkcs8) => StoredKey::Es256 { pkcs8: Zeroizing::new(BASE64.encode(pkcs8)) },
        }
    }

    pub(super) fn restore(stored: &StoredKey) -> Result<Self, InvalidKey> {
        match stored {
            StoredKey::Ed25519 { seed } => {
                let bytes = Zeroizing::new(BASE64.decode(seed.as_bytes()).map_err(|_| InvalidKey)?);
                let seed = Zeroizing::new(<[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| InvalidKey)?);
                Ok(Self { signs: SigningKey::ed25519(&seed), kept: Kept::Seed(seed) })
            }
            StoredKey::Es256 { pkcs8 } => {
                let pkcs8 = Zeroizing::new(BASE64.decode(pkcs8.as_bytes()).map_err(|_| InvalidKey)?);
                let signs = SigningKey::es256(&pkcs8).map_err(|_| InvalidKey)?;
                Ok(Self { signs, kept: Kept::Pkcs8(pkcs8) })
            }
        }
    }
}

/// A public key as a message.
pub(super) fn public_message(key: &PublicKey) -> v1::PublicKey {
    let algorithm = match key.algorithm() {
        Algorithm::Ed25519 => v1::SignatureAlgorithm::Ed25519,
        Algorithm::Es256 => v1::SignatureAlgorithm::Es256,
    };
    v1::PublicKey { algorithm: algorithm.into(), key: key.as_bytes().to_vec().into() }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key(private, {:?})", self.public_key())
    }
}
