//! Encrypts for storage: AES-256-GCM, under a key for each account.
//!
//! An account's key is derived from the sealing key (HKDF-SHA-256); later ones may be random and destroyable: the
//! key id says which it is. Sealed bytes: version (1), key id (4), nonce (12, random), ciphertext and tag (16). The
//! associated data says what is sealed and where, so that nothing can be moved to another place and opened there.

use std::fmt;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf,
};
use bytes::{BufMut, Bytes, BytesMut};
use countersign_domain::AccountId;
use countersign_envelope::sha256;
use zeroize::Zeroizing;

use crate::entropy::Entropy;

const VERSION: u8 = 1;
const KEY_ID_LENGTH: usize = 4;
const HEADER_LENGTH: usize = 1 + KEY_ID_LENGTH + NONCE_LEN;

/// Seals and opens.
pub struct Sealer {
    key_id: [u8; KEY_ID_LENGTH],
    root: hkdf::Prk,
}

/// Why sealed bytes do not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Too short, or of another version.
    #[error("not sealed bytes of a known version")]
    Malformed,
    /// Sealed under a key that is not here.
    #[error("sealed under another key (id {found}, ours is {ours})")]
    AnotherKey {
        /// The id in the sealed bytes.
        found: String,
        /// The id of the key that is here.
        ours: String,
    },
    /// Changed, moved, or sealed for something else.
    #[error("the sealed bytes do not belong here, or were changed")]
    Unauthentic,
}

/// What is sealed, and where: its associated data.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Whose key.
    pub account: AccountId,
    /// What it is.
    pub purpose: &'static str,
    /// The event type, or the id that it belongs to.
    pub within: &'a [u8],
}

impl Place<'_> {
    fn associated_data(&self) -> Vec<u8> {
        let mut data = Vec::with_capacity(64);
        for part in
            [b"countersign-seal-v1", self.account.as_bytes().as_slice(), self.purpose.as_bytes(), self.within]
        {
            data.extend_from_slice(&u32::try_from(part.len()).expect("parts are short").to_be_bytes());
            data.extend_from_slice(part);
        }
        data
    }
}

impl Sealer {
    /// With this sealing key.
    pub fn new(key: &[u8; 32]) -> Self {
        let id = sha256(&[b"countersign-sealing-key-id-v1".as_slice(), key].concat());
        let (key_id, _) = id.split_first_chunk().expect("SHA-256 is 32 bytes");
        let root = hkdf::Salt::new(hkdf::HKDF_SHA256, b"countersign-sealing-v1").extract(key);
        Self { key_id: *key_id, root }
    }

    /// Seals for a place.
    pub fn seal(&self, place: Place<'_>, plain: &[u8], entropy: &dyn Entropy) -> Bytes {
        let nonce: [u8; NONCE_LEN] = entropy.bytes();
        let mut sealed = BytesMut::with_capacity(HEADER_LENGTH + plain.len() + 16);
        sealed.put_u8(VERSION);
        sealed.put_slice(&self.key_id);
        sealed.put_slice(&nonce);
        let mut body = sealed.split_off(HEADER_LENGTH);
        body.put_slice(plain);
        self.account_key(place.account)
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(place.associated_data()),
                &mut BytesBuffer(&mut body),
            )
            .expect("AES-GCM seals anything under 64 GiB");
        sealed.unsplit(body);
        sealed.freeze()
    }

    /// Opens what was sealed for this place.
    pub fn open(&self, place: Place<'_>, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        let (header, body) = sealed.split_at_checked(HEADER_LENGTH).ok_or(Error::Malformed)?;
        if header[0] != VERSION {
            return Err(Error::Malformed);
        }
        let key_id = &header[1..=KEY_ID_LENGTH];
        if key_id != self.key_id {
            let hex = |id: &[u8]| data_encoding::HEXLOWER.encode(id);
            return Err(Error::AnotherKey { found: hex(key_id), ours: hex(&self.key_id) });
        }
        let nonce =
            Nonce::try_assume_unique_for_key(&header[1 + KEY_ID_LENGTH..]).map_err(|_| Error::Malformed)?;
        let mut plain = Zeroizing::new(body.to_vec());
        let length = self
            .account_key(place.account)
            .open_in_place(nonce, Aad::from(place.associated_data()), &mut plain)
            .map_err(|_| Error::Unauthentic)?
            .len();
        plain.truncate(length);
        Ok(plain)
    }

    fn account_key(&self, account: AccountId) -> LessSafeKey {
        let info = [b"account-key".as_slice(), account.as_bytes()];
        let key = self.root.expand(&info, &AES_256_GCM).expect("32 bytes are within HKDF's limit");
        LessSafeKey::new(UnboundKey::from(key))
    }
}

struct BytesBuffer<'a>(&'a mut BytesMut);

impl AsMut<[u8]> for BytesBuffer<'_> {
    fn as_mut(&mut self) -> &mut [u8] {
        self.0
    }
}

impl<'a> Extend<&'a u8> for BytesBuffer<'_> {
    fn extend<I: IntoIterator<Item = &'a u8>>(&mut self, bytes: I) {
        self.0.extend(bytes);
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealer(key id {})", data_encoding::HEXLOWER.encode(&self.key_id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::OsEntropy;

    fn place<'a>(account: u8, purpose: &'static str, within: &'a [u8]) -> Place<'a> {
        Place { account: AccountId::from_bytes([account; 16]), purpose, within }
    }

    #[test]
    fn what_is_sealed_opens_in_its_own_place_only() {
        let sealer = Sealer::new(&[1; 32]);
        let sealed = sealer.seal(place(1, "number", b"a"), b"secret", &OsEntropy);
        assert_eq!(&**sealer.open(place(1, "number", b"a"), &sealed).unwrap(), b"secret");
        for other in [place(2, "number", b"a"), place(1, "personal", b"a"), place(1, "number", b"b")] {
            assert_eq!(sealer.open(other, &sealed), Err(Error::Unauthentic));
        }
        assert!(matches!(
            Sealer::new(&[2; 32]).open(place(1, "number", b"a"), &sealed),
            Err(Error::AnotherKey { .. })
        ));
    }

    #[test]
    fn no_byte_of_it_can_change_or_go_missing() {
        let sealer = Sealer::new(&[1; 32]);
        let sealed = sealer.seal(place(1, "number", b"a"), b"secret", &OsEntropy);
        for at in 0..sealed.len() {
            let mut changed = sealed.to_vec();
            changed[at] ^= 1;
            assert!(sealer.open(place(1, "number", b"a"), &changed).is_err(), "byte {at}");
            assert!(sealer.open(place(1, "number", b"a"), &sealed[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn the_same_twice_is_sealed_differently() {
        let sealer = Sealer::new(&[1; 32]);
        let seal = || sealer.seal(place(1, "number", b"a"), b"secret", &OsEntropy);
        assert_ne!(seal(), seal());
    }
}
