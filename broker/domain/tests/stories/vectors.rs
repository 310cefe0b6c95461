//! What is signed, byte for byte as the test vectors have it, which another implementation made
//! (tests/python/make_vectors.py): what the broker asks, what phones answer, and how ids are written.

use bytes::Bytes;
use countersign_domain::{
    AccountId, ApprovalId, AuthenticatorId, CredentialId, EnrolmentId, Event, RelyingPartyId, Timestamp,
    answer::VerifiedAnswer,
    approval::Outcome,
    call::{VerifiedReplacePushTarget, VerifiedUnenrol},
    challenge::{Names, challenge, trial_challenge},
    claim::VerifiedClaim,
    event::{ApprovalRequested, Question, SignedMessage},
    number::{MatchNumber, Salt},
};
use countersign_envelope::{EnrolmentCode, SigningKey, payload_type};
use countersign_proto::v1;
use data_encoding::HEXLOWER;

use crate::cast::{ACCOUNT, BROKER_ID, Phone, SignIn, Story, account_with, at, given, identity, text};

const MESSAGES: &str = include_str!("../../../../proto/envelope/vectors/messages.json");
const IDS: &str = include_str!("../../../../proto/envelope/vectors/ids.json");

fn counting<const LENGTH: usize>(from: u8) -> [u8; LENGTH] {
    std::array::from_fn(|n| from + u8::try_from(n).expect("a few"))
}

/// The text of a field in a vector of messages.json, whose fields stand one a line, in the order in which they are
/// asked for here.
fn field(what: &str, name: &str) -> String {
    let start = MESSAGES.find(&format!("\"what\": \"{what}\"")).expect("it is in the file");
    let name = format!("\n   \"{name}\": \"");
    let value = start + MESSAGES[start..].find(&name).expect("it has the field") + name.len();
    MESSAGES[value..].split('"').next().expect("it ends").to_owned()
}

fn payload(what: &str) -> Vec<u8> {
    HEXLOWER.decode(field(what, "payload").as_bytes()).expect("hex")
}

fn envelope(what: &str, key_id: &str) -> v1::Envelope {
    v1::Envelope {
        payload: payload(what).into(),
        payload_type: field(what, "payload_type"),
        key_id: key_id.to_owned(),
        signature: HEXLOWER.decode(field(what, "signature").as_bytes()).expect("hex").into(),
    }
}

fn authenticator() -> AuthenticatorId {
    AuthenticatorId::new(ACCOUNT, counting(0))
}

fn phone() -> Phone {
    let mut phone = Phone::with_key(SigningKey::ed25519(&counting(32)), 1);
    phone.id = authenticator();
    phone
}

/// The sign-in of the vectors.
fn sign_in() -> SignIn {
    let mut it = SignIn::new(1, "07", at(0));
    it.request.approval = ApprovalId::new(ACCOUNT, counting(0));
    it
}

fn asked() -> Vec<u8> {
    let (account, relying_party) = (identity(), text("Shop and Sons"));
    let names = Names { broker_id: BROKER_ID, account: &account, relying_party: &relying_party };
    let it = sign_in();
    challenge(names, &it.request, it.number, &Salt::from_bytes(counting(100)), at(0)).0
}

#[test]
fn a_challenge_is_encoded_as_others_encode_it() {
    assert_eq!(HEXLOWER.encode(&asked()), field("a challenge", "payload"));
}

#[test]
fn a_trials_challenge_is_encoded_as_others_encode_it() {
    let (payload, _) = trial_challenge(
        BROKER_ID,
        &identity(),
        (EnrolmentId::new(ACCOUNT, counting(8)), authenticator()),
        (MatchNumber::new(42, 2).unwrap(), &Salt::from_bytes(counting(100))),
        (at(0), Timestamp::from_millis(at(599).as_millis() + 500)),
    );
    assert_eq!(HEXLOWER.encode(&payload), field("a trial's challenge", "payload"));
}

#[test]
fn the_answers_of_another_implementation_are_taken() {
    let phone = phone();
    let mut history = account_with(&[&phone]);
    let challenge = SignedMessage { payload: asked().into(), signature: Bytes::new(), key_id: String::new() };
    let it = sign_in();
    history.push((
        at(100),
        Event::ApprovalRequested(ApprovalRequested {
            request: it.request.clone(),
            question: Question {
                number: it.number,
                salt: Salt::from_bytes(counting(100)),
                commitment: [0; 32],
                challenge,
            },
            expires_at: at(160),
            authenticators_addressed: 1,
        }),
    ));
    for (what, outcome) in [
        ("the right number", Outcome::Approved { user_verified: false }),
        ("no, and it was not me", Outcome::Reported),
    ] {
        let answer = envelope(what, &phone.id.to_string());
        assert!(VerifiedAnswer::verify(given(history.clone()).account(), BROKER_ID, &answer).is_ok());
        let story = given(history.clone()).when_answered(&answer).then_some(|events| events.len() == 1);
        assert_eq!(story.outcome(&it), Some(outcome), "{what}");
    }
}

#[test]
fn the_claim_and_the_changes_of_another_implementation_are_taken() {
    let phone = phone();
    let code = EnrolmentCode::from_random(b"some entropy");
    let claim = VerifiedClaim::verify(BROKER_ID, &envelope("an enrolment claim", code.locator())).unwrap();
    let broker = SigningKey::ed25519(&counting(0)).public_key();
    assert!(claim.knows_secret(code.secret(), broker.as_bytes()));
    assert_eq!((claim.key(), claim.device_name().as_str()), (&phone.key.public_key(), "Åsa's phone"));

    let story = given(account_with(&[&phone]));
    let moved = envelope("a new push target", &phone.id.to_string());
    let moved = VerifiedReplacePushTarget::verify(story.account(), BROKER_ID, &moved).unwrap();
    assert_eq!((moved.counter(), moved.push_target().token()), (1, &*"0123456789abcdef".repeat(4)));
    // That one is signed by the other phone.
    let goodbye = envelope("goodbye", &phone.id.to_string());
    assert_eq!(goodbye.payload_type, payload_type::UNENROL);
    assert!(VerifiedUnenrol::verify(story.account(), BROKER_ID, &goodbye).is_err());
}

#[test]
fn ids_are_written_as_others_write_them() {
    let owner: [u8; 16] = counting(0);
    let (account, relying_party) = (AccountId::from_bytes(owner), RelyingPartyId::from_bytes(owner));
    let approval = ApprovalId::new(account, counting(16));
    let authenticator = AuthenticatorId::new(account, counting(16));
    let enrolment = EnrolmentId::new(account, counting(24));
    let credential = CredentialId::new(relying_party, counting(16));
    let (highest, highest_approval) = (AccountId::from_bytes([0xff; 16]), ApprovalId::from_bytes([0xff; 32]));
    for (kind, bytes, text) in [
        ("account", &account.as_bytes()[..], account.to_string()),
        ("account", highest.as_bytes(), highest.to_string()),
        ("approval", approval.as_bytes(), approval.to_string()),
        ("approval", highest_approval.as_bytes(), highest_approval.to_string()),
        ("authenticator", authenticator.as_bytes(), authenticator.to_string()),
        ("enrolment", enrolment.as_bytes(), enrolment.to_string()),
        ("relying_party", relying_party.as_bytes(), relying_party.to_string()),
        ("credential", credential.as_bytes(), credential.to_string()),
    ] {
        let bytes = HEXLOWER.encode(bytes);
        let vector = format!("\"kind\": \"{kind}\",\n   \"bytes\": \"{bytes}\",\n   \"text\": \"{text}\"");
        assert!(IDS.contains(&vector), "no such vector: {vector}");
    }
}
