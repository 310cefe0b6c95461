//! Keys, and DSSE's pre-authentication encoding that they sign.
//!
//! Verification is strict, so that a signature has one form and one meaning: Ed25519 by `verify_strict` with
//! keys of small order refused (RFC 8032 section 8.9 and "Taming the many EdDSAs"), ES256 with s in the lower
//! half of the group's order, since (r, n - s) verifies wherever (r, s) does.

use std::{fmt, sync::Arc};

use aws_lc_rs::{digest, rand::SystemRandom, signature as aws};
use data_encoding::HEXLOWER;
use ed25519_dalek::Signer;
use zeroize::Zeroizing;

/// How a key signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Ed25519 (RFC 8032).
    Ed25519,
    /// ECDSA on P-256 with SHA-256, signatures as r || s.
    Es256,
}

impl Algorithm {
    /// The length of a public key in bytes: 32, or 65 (an uncompressed point).
    pub const fn public_key_length(self) -> usize {
        match self {
            Self::Ed25519 => 32,
            Self::Es256 => 65,
        }
    }
}

/// The length of every signature in bytes.
pub const SIGNATURE_LENGTH: usize = 64;

/// A public key that has been checked: it is on its curve and has the order that it should have.
#[derive(Clone)]
pub struct PublicKey(Verifier);

#[derive(Clone)]
enum Verifier {
    Ed25519(ed25519_dalek::VerifyingKey),
    Es256(Arc<aws::ParsedPublicKey>),
}

/// Why bytes are no public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// The length is not that of a key of this algorithm.
    #[error("a public key of this algorithm has {expected} bytes, not {found}")]
    Length {
        /// What the algorithm calls for.
        expected: usize,
        /// What came.
        found: usize,
    },
    /// Not a point of the curve, or one of small order, with which anybody could sign.
    #[error("the bytes are not a usable point of the curve")]
    Point,
}

/// The signature is not this key's over these bytes. It does not say more: whoever forges learns nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not verify")]
pub struct BadSignature;

impl PublicKey {
    /// Checks and takes a public key: 32 bytes for Ed25519, the uncompressed point of 65 bytes for ES256.
    pub fn parse(algorithm: Algorithm, bytes: &[u8]) -> Result<Self, InvalidKey> {
        let expected = algorithm.public_key_length();
        if bytes.len() != expected {
            return Err(InvalidKey::Length { expected, found: bytes.len() });
        }
        match algorithm {
            Algorithm::Ed25519 => {
                let bytes = bytes.try_into().expect("the length was checked");
                let key = ed25519_dalek::VerifyingKey::from_bytes(bytes).map_err(|_| InvalidKey::Point)?;
                if key.is_weak() { Err(InvalidKey::Point) } else { Ok(Self(Verifier::Ed25519(key))) }
            }
            Algorithm::Es256 => {
                if bytes[0] != 0x04 {
                    return Err(InvalidKey::Point);
                }
                aws::ParsedPublicKey::new(&aws::ECDSA_P256_SHA256_FIXED, bytes)
                    .map(|key| Self(Verifier::Es256(Arc::new(key))))
                    .map_err(|_| InvalidKey::Point)
            }
        }
    }

    /// How this key's signatures are made.
    pub fn algorithm(&self) -> Algorithm {
        match &self.0 {
            Verifier::Ed25519(_) => Algorithm::Ed25519,
            Verifier::Es256(_) => Algorithm::Es256,
        }
    }

    /// The bytes that [`PublicKey::parse`] took.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Verifier::Ed25519(key) => key.as_bytes(),
            Verifier::Es256(key) => (**key).as_ref(),
        }
    }

    /// Lower-case hex SHA-256 of the key's bytes: how an enrolment URI and an envelope's key id name it.
    pub fn fingerprint(&self) -> String {
        HEXLOWER.encode(&sha256(self.as_bytes()))
    }

    /// Checks a signature over PAE(`payload_type`, `payload`).
    pub fn verify(&self, payload_type: &str, payload: &[u8], signature: &[u8]) -> Result<(), BadSignature> {
        let signature: &[u8; SIGNATURE_LENGTH] = signature.try_into().map_err(|_| BadSignature)?;
        let message = pre_authentication_encoding(payload_type, payload);
        match &self.0 {
            Verifier::Ed25519(key) => key
                .verify_strict(&message, &ed25519_dalek::Signature::from_bytes(signature))
                .map_err(|_| BadSignature),
            Verifier::Es256(key) if es256::s_is_low(signature) => {
                key.verify_sig(&message, signature).map_err(|_| BadSignature)
            }
            Verifier::Es256(_) => Err(BadSignature),
        }
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.algorithm() == other.algorithm() && self.as_bytes() == other.as_bytes()
    }
}

impl Eq for PublicKey {}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({:?} {})", self.algorithm(), HEXLOWER.encode(self.as_bytes()))
    }
}

/// A private key. Never printed; Ed25519's is zeroised when dropped, ES256's lives in aws-lc, which does so too.
pub struct SigningKey(Signs);

enum Signs {
    Ed25519(Box<ed25519_dalek::SigningKey>),
    Es256(Box<aws::EcdsaKeyPair>),
}

impl SigningKey {
    /// The Ed25519 key of a seed: 32 bytes of the operating system's randomness.
    pub fn ed25519(seed: &[u8; 32]) -> Self {
        Self(Signs::Ed25519(Box::new(ed25519_dalek::SigningKey::from_bytes(seed))))
    }

    /// A new ES256 key and its PKCS#8 form, to keep. aws-lc draws it from its own generator, seeded by the
    /// operating system.
    pub fn generate_es256() -> (Self, Zeroizing<Vec<u8>>) {
        let pkcs8 =
            aws::EcdsaKeyPair::generate_pkcs8(&aws::ECDSA_P256_SHA256_FIXED_SIGNING, &aws_lc_randomness())
                .expect("aws-lc generates P-256 keys whenever it can get memory");
        let kept = Zeroizing::new(pkcs8.as_ref().to_vec());
        (Self::es256(&kept).expect("aws-lc reads what it wrote"), kept)
    }

    /// The ES256 key of its PKCS#8 form.
    pub fn es256(pkcs8: &[u8]) -> Result<Self, InvalidKey> {
        aws::EcdsaKeyPair::from_pkcs8(&aws::ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8)
            .map(|pair| Self(Signs::Es256(Box::new(pair))))
            .map_err(|_| InvalidKey::Point)
    }

    /// The public half.
    pub fn public_key(&self) -> PublicKey {
        match &self.0 {
            Signs::Ed25519(key) => PublicKey(Verifier::Ed25519(key.verifying_key())),
            Signs::Es256(pair) => {
                let point = aws_lc_rs::signature::KeyPair::public_key(&**pair);
                PublicKey::parse(Algorithm::Es256, point.as_ref())
                    .expect("a key pair's own point is on the curve")
            }
        }
    }

    /// Signs PAE(`payload_type`, `payload`).
    pub fn sign(&self, payload_type: &str, payload: &[u8]) -> [u8; SIGNATURE_LENGTH] {
        let message = pre_authentication_encoding(payload_type, payload);
        match &self.0 {
            Signs::Ed25519(key) => key.sign(&message).to_bytes(),
            Signs::Es256(pair) => {
                let signature = pair
                    .sign(&aws_lc_randomness(), &message)
                    .expect("signing with a valid key fails only without memory");
                es256::with_low_s(signature.as_ref().try_into().expect("r and s have 32 bytes each"))
            }
        }
    }
}

/// What aws-lc's ES256 asks for. It takes nothing else: it draws keys and nonces from its own generator whatever it is
/// given, so that nothing could be passed in.
#[expect(clippy::disallowed_methods, reason = "aws-lc draws ES256 keys and nonces itself; see above")]
fn aws_lc_randomness() -> SystemRandom {
    SystemRandom::new()
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey(private, {:?})", self.public_key())
    }
}

/// DSSE's pre-authentication encoding, which is what gets signed:
/// `"DSSEv1" SP LEN(type) SP type SP LEN(payload) SP payload` (DSSE protocol, version 1.0.2).
pub fn pre_authentication_encoding(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(payload.len() + payload_type.len() + 40);
    message.extend_from_slice(
        format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).as_bytes(),
    );
    message.extend_from_slice(payload);
    message
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest::digest(&digest::SHA256, bytes).as_ref().try_into().expect("SHA-256 is 32 bytes")
}

/// One form for each ES256 signature.
pub mod es256 {
    use super::SIGNATURE_LENGTH;

    /// n, the order of P-256's group (SEC 2, section 2.4.2), big-endian.
    const ORDER: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc,
        0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    /// n / 2, rounded down.
    const HALF_ORDER: [u8; 32] = [
        0x7f, 0xff, 0xff, 0xff, 0x80, 0x00, 0x00, 0x00, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xde,
        0x73, 0x7d, 0x56, 0xd3, 0x8b, 0xcf, 0x42, 0x79, 0xdc, 0xe5, 0x61, 0x7e, 0x31, 0x92, 0xa8,
    ];

    /// Is s in the lower half? (Signatures are public: this need not take constant time.)
    pub fn s_is_low(signature: &[u8; SIGNATURE_LENGTH]) -> bool {
        signature[32..] <= HALF_ORDER[..]
    }

    /// The same signature with s in the lower half: what a phone sends whose key store gives the other.
    pub fn with_low_s(mut signature: [u8; SIGNATURE_LENGTH]) -> [u8; SIGNATURE_LENGTH] {
        if !s_is_low(&signature) {
            negate_s(&mut signature);
        }
        signature
    }

    /// s becomes n - s.
    pub fn negate_s(signature: &mut [u8; SIGNATURE_LENGTH]) {
        let mut borrow = false;
        for (s, n) in signature[32..].iter_mut().zip(ORDER).rev() {
            let (difference, first) = n.overflowing_sub(*s);
            let (difference, second) = difference.overflowing_sub(u8::from(borrow));
            *s = difference;
            borrow = first || second;
        }
    }
}

/// Verifies with neither key nor meaning, at the price of a real check: what an unknown authenticator's call
/// costs, so that time does not tell which authenticators exist.
pub fn verify_in_vain(algorithm: Algorithm, payload_type: &str, payload: &[u8], signature: &[u8]) {
    use std::sync::LazyLock;
    static ED25519: LazyLock<PublicKey> = LazyLock::new(|| SigningKey::ed25519(&[0x42; 32]).public_key());
    static ES256: LazyLock<PublicKey> = LazyLock::new(|| SigningKey::generate_es256().0.public_key());
    let key = match algorithm {
        Algorithm::Ed25519 => &*ED25519,
        Algorithm::Es256 => &*ES256,
    };
    let _ = std::hint::black_box(key.verify(payload_type, payload, signature));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both() -> [SigningKey; 2] {
        [SigningKey::ed25519(&[9; 32]), SigningKey::generate_es256().0]
    }

    #[test]
    fn a_signature_verifies_for_its_own_type_and_payload_only() {
        for key in both() {
            let signature = key.sign("t/one", b"payload");
            let public = key.public_key();
            assert_eq!(public.verify("t/one", b"payload", &signature), Ok(()));
            assert_eq!(public.verify("t/two", b"payload", &signature), Err(BadSignature));
            assert_eq!(public.verify("t/one", b"payloae", &signature), Err(BadSignature));
            assert_eq!(public.verify("t/one", b"payload", &signature[..63]), Err(BadSignature));
        }
    }

    #[test]
    fn no_byte_of_a_signature_can_change() {
        for key in both() {
            let signature = key.sign("t", b"p");
            for at in 0..SIGNATURE_LENGTH {
                let mut forged = signature;
                forged[at] ^= 1;
                assert_eq!(key.public_key().verify("t", b"p", &forged), Err(BadSignature), "byte {at}");
            }
        }
    }

    #[test]
    fn a_high_s_is_refused_although_the_curve_accepts_it() {
        let (key, _) = SigningKey::generate_es256();
        let mut signature = key.sign("t", b"p");
        es256::negate_s(&mut signature);
        let lenient =
            aws::UnparsedPublicKey::new(&aws::ECDSA_P256_SHA256_FIXED, key.public_key().as_bytes().to_vec());
        assert!(lenient.verify(&pre_authentication_encoding("t", b"p"), &signature).is_ok());
        assert_eq!(key.public_key().verify("t", b"p", &signature), Err(BadSignature));
        assert_eq!(key.public_key().verify("t", b"p", &es256::with_low_s(signature)), Ok(()));
    }

    #[test]
    fn keys_of_small_order_and_points_off_the_curve_are_refused() {
        // y = 1: the neutral element, of order 1; y = 0: of order 4.
        let mut neutral = [0; 32];
        neutral[0] = 1;
        assert_eq!(PublicKey::parse(Algorithm::Ed25519, &neutral), Err(InvalidKey::Point));
        assert_eq!(PublicKey::parse(Algorithm::Ed25519, &[0; 32]), Err(InvalidKey::Point));
        let mut off = [1; 65];
        off[0] = 0x04;
        assert_eq!(PublicKey::parse(Algorithm::Es256, &off), Err(InvalidKey::Point));
        assert_eq!(
            PublicKey::parse(Algorithm::Es256, &[4; 33]),
            Err(InvalidKey::Length { expected: 65, found: 33 })
        );
    }

    #[test]
    fn a_private_key_does_not_print_itself() {
        let seed = [0xab; 32];
        assert!(!format!("{:?}", SigningKey::ed25519(&seed)).contains("abababab"));
    }
}
