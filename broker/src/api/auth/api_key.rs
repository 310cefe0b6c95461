//! API keys: `csk_` and base64url of the credential's id (24 bytes) and 256 random bits. The id finds the credential;
//! the broker keeps the SHA-256 of the random bits only (they have too many for anybody to guess, so a slow hash would
//! protect nothing).

use std::{fmt, str::FromStr};

use countersign_domain::CredentialId;
use countersign_envelope::sha256;
use data_encoding::BASE64URL_NOPAD;
use zeroize::Zeroizing;

const PREFIX: &str = "csk_";
const SECRET_LENGTH: usize = 32;
const TEXT_LENGTH: usize = PREFIX.len() + ((CredentialId::LENGTH + SECRET_LENGTH) * 4).div_ceil(3);

/// An API key. It prints as its credential's id.
pub struct ApiKey {
    credential: CredentialId,
    secret: Zeroizing<[u8; SECRET_LENGTH]>,
}

/// A text that is no API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

impl ApiKey {
    /// The key of a credential, of 32 random bytes.
    pub fn new(credential: CredentialId, secret: [u8; SECRET_LENGTH]) -> Self {
        Self { credential, secret: Zeroizing::new(secret) }
    }

    /// Whose it says it is.
    pub fn credential(&self) -> CredentialId {
        self.credential
    }

    /// What the broker keeps of it.
    pub fn secret_hash(&self) -> [u8; 32] {
        sha256(&self.secret[..])
    }

    /// The key itself, to give to its owner, once.
    pub fn expose(&self) -> Zeroizing<String> {
        let bytes = Zeroizing::new([self.credential.as_bytes().as_slice(), &self.secret[..]].concat());
        Zeroizing::new(format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&bytes)))
    }
}

impl FromStr for ApiKey {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        if text.len() != TEXT_LENGTH {
            return Err(Malformed);
        }
        let encoded = text.strip_prefix(PREFIX).ok_or(Malformed)?;
        let bytes = Zeroizing::new(BASE64URL_NOPAD.decode(encoded.as_bytes()).map_err(|_| Malformed)?);
        let (credential, secret) = bytes.split_at_checked(CredentialId::LENGTH).ok_or(Malformed)?;
        Ok(Self {
            credential: CredentialId::from_slice(credential).map_err(|_| Malformed)?,
            secret: Zeroizing::new(secret.try_into().map_err(|_| Malformed)?),
        })
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({}, secret)", self.credential)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_is_given_and_does_not_print_itself() {
        let credential = CredentialId::from_bytes([1; 24]);
        let key = ApiKey::new(credential, [7; 32]);
        let text = key.expose();
        assert_eq!(text.len(), TEXT_LENGTH);
        let read: ApiKey = text.parse().unwrap();
        assert_eq!((read.credential(), read.secret_hash()), (credential, key.secret_hash()));
        assert!(!format!("{key:?}").contains(&text[40..]));
    }

    #[test]
    fn anything_else_is_no_key() {
        let text = ApiKey::new(CredentialId::from_bytes([1; 24]), [7; 32]).expose();
        for other in
            ["", "csk_", &text[1..], &text[..text.len() - 1], &format!("{}é", &text[..text.len() - 2])]
        {
            assert!(other.parse::<ApiKey>().is_err(), "{other}");
        }
    }
}
