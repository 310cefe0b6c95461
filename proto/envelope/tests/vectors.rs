//! Holds this crate to `vectors/`, which another implementation made (tests/python/make_vectors.py). What comes out the
//! same every time is computed anew and compared; ES256 signatures, which do not, are verified.

use std::collections::HashMap;

use countersign_envelope::{
    Algorithm, EnrolmentCode, EnrolmentUri, PublicKey, SigningKey, commitment,
    enrolment_code::{InvalidCode, InvalidUri},
    key::{SIGNATURE_LENGTH, es256},
    payload_type, pre_authentication_encoding, sha256,
};
use data_encoding::HEXLOWER;
use serde_json::Value;

const KEYS: &str = include_str!("../vectors/keys.json");
const SIGNATURES: &str = include_str!("../vectors/signatures.json");
const MESSAGES: &str = include_str!("../vectors/messages.json");
const COMMITMENTS: &str = include_str!("../vectors/commitments.json");
const ENROLMENT_CODES: &str = include_str!("../vectors/enrolment_codes.json");
const ENROLMENT_URIS: &str = include_str!("../vectors/enrolment_uris.json");

/// One vector.
struct Vector(Value);

impl Vector {
    fn text(&self, name: &str) -> &str {
        self.0[name].as_str().unwrap_or_else(|| panic!("{name} is no text in {}", self.0))
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        HEXLOWER
            .decode(self.text(name).as_bytes())
            .unwrap_or_else(|_| panic!("{name} is no hex in {}", self.0))
    }

    fn array<const LENGTH: usize>(&self, name: &str) -> [u8; LENGTH] {
        self.bytes(name).try_into().unwrap_or_else(|_| panic!("{name} has another length in {}", self.0))
    }

    fn algorithm(&self) -> Algorithm {
        match self.text("algorithm") {
            "ED25519" => Algorithm::Ed25519,
            "ES256" => Algorithm::Es256,
            other => panic!("no algorithm: {other}"),
        }
    }
}

/// All of one kind in a file: never none, or a test would say nothing.
fn vectors(file: &str, kind: &str) -> Vec<Vector> {
    let mut file: Value = serde_json::from_str(file).expect("JSON");
    let Value::Array(vectors) = file[kind].take() else { panic!("no {kind} in the file") };
    assert!(!vectors.is_empty(), "no {kind}");
    vectors.into_iter().map(Vector).collect()
}

fn keys() -> HashMap<String, SigningKey> {
    let read = |vector: &Vector| match vector.algorithm() {
        Algorithm::Ed25519 => SigningKey::ed25519(&vector.array("seed")),
        Algorithm::Es256 => SigningKey::es256(&vector.bytes("pkcs8")).expect("a P-256 key"),
    };
    vectors(KEYS, "keys").iter().map(|vector| (vector.text("name").to_owned(), read(vector))).collect()
}

// ---- keys ----

#[test]
fn a_private_key_has_the_public_key_and_the_fingerprint_that_others_see() {
    let keys = keys();
    for vector in vectors(KEYS, "keys") {
        let public = keys[vector.text("name")].public_key();
        assert_eq!(public.algorithm(), vector.algorithm());
        assert_eq!(public.as_bytes(), vector.bytes("public_key"));
        assert_eq!(public.fingerprint(), vector.text("fingerprint"));
        assert_eq!(PublicKey::parse(vector.algorithm(), &vector.bytes("public_key")), Ok(public));
    }
}

#[test]
fn unusable_keys_are_refused() {
    for vector in vectors(KEYS, "unusable") {
        let parsed = PublicKey::parse(vector.algorithm(), &vector.bytes("public_key"));
        assert!(parsed.is_err(), "{}", vector.text("what"));
    }
}

// ---- signatures ----

#[test]
fn the_pre_authentication_encoding_is_dsses() {
    for vector in vectors(SIGNATURES, "pae") {
        let made = pre_authentication_encoding(vector.text("payload_type"), &vector.bytes("payload"));
        assert_eq!(made, vector.bytes("pae"));
    }
}

#[test]
fn signatures_verify_if_they_are_good_and_not_otherwise() {
    let keys = keys();
    let (mut good, mut bad) = (0, 0);
    for vector in vectors(SIGNATURES, "signatures") {
        let (kind, payload) = (vector.text("payload_type"), vector.bytes("payload"));
        let public = keys[vector.text("key")].public_key();
        let verified = public.verify(kind, &payload, &vector.bytes("signature")).is_ok();
        let valid = vector.0["valid"].as_bool().expect("true or false");
        assert_eq!(verified, valid, "{} with {}", vector.text("what"), vector.text("key"));
        *if valid { &mut good } else { &mut bad } += 1;
    }
    assert!(good >= 8 && bad >= 40, "{good} good and {bad} bad ones");
}

#[test]
fn the_same_key_signs_the_same_bytes_or_verifies_the_other_implementations() {
    let keys = keys();
    let good = vectors(SIGNATURES, "signatures").into_iter().filter(|vector| vector.0["valid"] == true);
    for vector in good.chain(vectors(MESSAGES, "messages")) {
        let (kind, payload) = (vector.text("payload_type"), vector.bytes("payload"));
        let key = &keys[vector.text("key")];
        let signature = key.sign(kind, &payload);
        assert_eq!(key.public_key().verify(kind, &payload, &signature), Ok(()));
        match key.public_key().algorithm() {
            Algorithm::Ed25519 => assert_eq!(signature[..], vector.bytes("signature")),
            Algorithm::Es256 => assert!(es256::s_is_low(&signature)),
        }
    }
}

#[test]
fn a_phone_turns_the_upper_half_into_the_lower() {
    let all = vectors(SIGNATURES, "signatures");
    let of = |what: &str, key: &str| -> [u8; SIGNATURE_LENGTH] {
        let found = all.iter().find(|vector| vector.text("what") == what && vector.text("key") == key);
        found.expect("it is there").array("signature")
    };
    for key in ["rfc6979-a25", "phone-es256"] {
        let (low, high) = (of("good", key), of("the same with s in the upper half", key));
        assert!(es256::s_is_low(&low) && !es256::s_is_low(&high));
        assert_eq!(es256::with_low_s(high), low);
        assert_eq!(es256::with_low_s(low), low);
    }
}

// ---- messages ----

#[test]
fn a_signed_message_verifies_over_its_bytes_and_as_no_other() {
    let keys = keys();
    let types = [
        payload_type::CHALLENGE,
        payload_type::TRIAL_CHALLENGE,
        payload_type::ENROLMENT_RECEIPT,
        payload_type::NOTICE,
        payload_type::ANSWER,
        payload_type::TRIAL_ANSWER,
        payload_type::ENROLMENT_CLAIM,
        payload_type::LIST_WAITING,
        payload_type::FETCH_CHALLENGE,
        payload_type::REPLACE_PUSH_TARGET,
        payload_type::UNENROL,
    ];
    let messages = vectors(MESSAGES, "messages");
    for vector in &messages {
        let (payload, signature) = (vector.bytes("payload"), vector.bytes("signature"));
        assert_eq!(sha256(&payload), vector.array("payload_sha256"));
        let public = keys[vector.text("key")].public_key();
        let taken_for: Vec<_> =
            types.into_iter().filter(|kind| public.verify(kind, &payload, &signature).is_ok()).collect();
        assert_eq!(taken_for, [vector.text("payload_type")], "{}", vector.text("what"));
    }
    for kind in types {
        assert!(messages.iter().any(|vector| vector.text("payload_type") == kind), "no vector of {kind}");
    }
}

// ---- commitments ----

#[test]
fn a_commitment_is_what_others_open() {
    let all = vectors(COMMITMENTS, "commitments");
    let mut seen = Vec::new();
    for vector in all {
        let made = commitment(vector.text("id"), &vector.array("salt"), vector.text("number"));
        assert_eq!(made, vector.array("commitment"), "{}", vector.0);
        assert!(!seen.contains(&made), "two that commit to the same");
        seen.push(made);
    }
}

// ---- enrolment ----

#[test]
fn a_code_is_made_shown_and_proven_as_others_do() {
    for vector in vectors(ENROLMENT_CODES, "codes") {
        let code = EnrolmentCode::from_random(&vector.array("random"));
        assert_eq!(code.to_text().as_str(), vector.text("text"));
        assert_eq!(code.locator(), vector.text("locator"));
        assert_eq!(code.secret().expose(), vector.text("secret"));
        assert_eq!(vector.text("text").parse(), Ok(code.clone()));

        let proof = Vector(vector.0["mac"].clone());
        let (broker_key, key) = (proof.bytes("broker_key"), proof.bytes("authenticator_key"));
        let mac: [u8; 32] = proof.array("mac");
        assert_eq!(code.secret().mac(code.locator(), &broker_key, &key), mac);
        assert!(code.secret().verify_mac(code.locator(), &broker_key, &key, &mac));
    }
}

#[test]
fn every_check_symbol_occurs() {
    let all = vectors(ENROLMENT_CODES, "codes");
    for symbol in "0123456789ABCDEFGHJKMNPQRSTVWXYZ*~$=U".chars() {
        assert!(all.iter().any(|vector| vector.text("text").ends_with(symbol)), "{symbol}");
    }
}

#[test]
fn a_code_is_read_as_people_type_it() {
    for vector in vectors(ENROLMENT_CODES, "typed") {
        let typed: EnrolmentCode = vector.text("typed").parse().unwrap();
        assert_eq!(typed.to_text().as_str(), vector.text("reads_as"));
    }
}

#[test]
fn what_is_no_code_is_refused_for_what_is_wrong_with_it() {
    for vector in vectors(ENROLMENT_CODES, "invalid") {
        let error = vector.text("text").parse::<EnrolmentCode>().unwrap_err();
        assert_eq!(code_error(error), vector.text("error"), "{}", vector.0);
    }
}

fn code_error(error: InvalidCode) -> &'static str {
    match error {
        InvalidCode::Length(_) => "length",
        InvalidCode::Character(_) => "character",
        InvalidCode::Check => "check",
    }
}

#[test]
fn a_uri_is_written_and_read_as_others_do() {
    for vector in vectors(ENROLMENT_URIS, "uris") {
        let uri = EnrolmentUri {
            address: vector.text("address").to_owned(),
            code: vector.text("code").parse().unwrap(),
            broker_fingerprint: vector.text("fingerprint").to_owned(),
        };
        assert_eq!(uri.to_text().as_str(), vector.text("uri"));
        assert_eq!(vector.text("uri").parse(), Ok(uri));
    }
}

#[test]
fn what_is_no_uri_is_refused_for_what_is_wrong_with_it() {
    for vector in vectors(ENROLMENT_URIS, "invalid") {
        let error = match vector.text("uri").parse::<EnrolmentUri>().unwrap_err() {
            InvalidUri::Scheme => "scheme",
            InvalidUri::Parameter(_) => "parameter",
            InvalidUri::Fingerprint => "fingerprint",
            InvalidUri::Address => "address",
            InvalidUri::Code(error) => code_error(error),
        };
        assert_eq!(error, vector.text("error"), "{}", vector.0);
    }
}
