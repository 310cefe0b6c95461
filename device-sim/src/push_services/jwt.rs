//! JSON Web Tokens (RFC 7519), checked and made by hand: forty lines that share nothing with the library that
//! the broker signs with, so that a mistake there shows here.

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, UnparsedPublicKey, VerificationAlgorithm},
};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Map, Value};

/// A token taken apart; nothing in it is trusted before [`Unverified::verify`].
pub(crate) struct Unverified<'a> {
    pub(crate) header: Map<String, Value>,
    pub(crate) claims: Map<String, Value>,
    signed: &'a str,
    signature: Vec<u8>,
}

impl<'a> Unverified<'a> {
    /// Takes a compact serialisation (RFC 7515 section 7.1) apart; `None` if it is none.
    pub(crate) fn parse(token: &'a str) -> Option<Self> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        Some(Self {
            header: object(header)?,
            claims: object(claims)?,
            signed,
            signature: BASE64URL_NOPAD.decode(signature.as_bytes()).ok()?,
        })
    }

    /// Whether `public_key` signed this token with `algorithm`, which the header must name as `alg`.
    pub(crate) fn verify(
        &self,
        alg: &str,
        algorithm: &'static dyn VerificationAlgorithm,
        public_key: &[u8],
    ) -> bool {
        self.header.get("alg").and_then(Value::as_str) == Some(alg)
            && UnparsedPublicKey::new(algorithm, public_key)
                .verify(self.signed.as_bytes(), &self.signature)
                .is_ok()
    }

    /// The text of a header field.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.header.get(name).and_then(Value::as_str)
    }

    /// The text of a claim.
    pub(crate) fn claim(&self, name: &str) -> Option<&str> {
        self.claims.get(name).and_then(Value::as_str)
    }

    /// A claim in whole seconds since the Unix epoch.
    pub(crate) fn seconds(&self, name: &str) -> Option<u64> {
        self.claims.get(name).and_then(Value::as_u64)
    }
}

/// Makes a token signed with ES256 (RFC 7518 section 3.4).
pub(crate) fn sign_es256(header: &Value, claims: &Value, pkcs8: &[u8]) -> Option<String> {
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8).ok()?;
    let signed = format!("{}.{}", encode(header), encode(claims));
    #[expect(clippy::disallowed_methods, reason = "RSA PKCS #1 v1.5 and aws-lc's ECDSA take nothing else")]
    let randomness = SystemRandom::new();
    let signature = key.sign(&randomness, signed.as_bytes()).ok()?;
    Some(format!("{signed}.{}", BASE64URL_NOPAD.encode(signature.as_ref())))
}

fn encode(value: &Value) -> String {
    BASE64URL_NOPAD.encode(value.to_string().as_bytes())
}

fn object(part: &str) -> Option<Map<String, Value>> {
    serde_json::from_slice(&BASE64URL_NOPAD.decode(part.as_bytes()).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED;

    use super::*;

    /// RFC 7515 appendix A.3.
    const TOKEN: &str = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFt\
                         cGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa\
                         8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    const X: &str = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
    const Y: &str = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";

    fn public_key() -> Vec<u8> {
        let mut point = vec![4];
        point.extend(BASE64URL_NOPAD.decode(X.as_bytes()).expect("base64url"));
        point.extend(BASE64URL_NOPAD.decode(Y.as_bytes()).expect("base64url"));
        point
    }

    #[test]
    fn the_example_of_rfc_7515_verifies() {
        let token = Unverified::parse(TOKEN).expect("well-formed");
        assert_eq!(token.claim("iss"), Some("joe"));
        assert_eq!(token.seconds("exp"), Some(1_300_819_380));
        assert!(token.verify("ES256", &ECDSA_P256_SHA256_FIXED, &public_key()));
    }

    #[test]
    fn a_changed_claim_breaks_the_signature() {
        let changed = TOKEN.replacen("eyJpc3Mi", "eyJpc3Nj", 1);
        let verified = Unverified::parse(&changed)
            .is_some_and(|token| token.verify("ES256", &ECDSA_P256_SHA256_FIXED, &public_key()));
        assert!(!verified);
    }

    #[test]
    fn a_token_whose_header_names_another_algorithm_is_refused() {
        let token = Unverified::parse(TOKEN).expect("well-formed");
        assert!(!token.verify("RS256", &ECDSA_P256_SHA256_FIXED, &public_key()));
    }
}
