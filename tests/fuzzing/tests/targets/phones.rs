//! What phones send: envelopes, keys, codes, and whatever they sign.

use bytes::Bytes;
use countersign_domain::{
    Account, Aggregate as _, AuthenticatorId, Command, Event,
    answer::{VerifiedAnswer, VerifiedTrialAnswer},
    call::{VerifiedRead, VerifiedReplacePushTarget, VerifiedUnenrol},
    claim::VerifiedClaim,
};
use countersign_envelope::{Algorithm, EnrolmentCode, EnrolmentUri, PublicKey, SigningKey, payload_type};
use countersign_proto::v1;
use fuzzing::fuzz;
use prost::Message;

use super::{
    events::assert_folds,
    real::{
        ACCOUNT, BROKER_ID, BROKER_KEY, KEY, NEW_KEY, NOW, NUMBER, account, answer, approval, code,
        enrolments, on_trial, phone, question,
    },
};

fn signed(key: &SigningKey, key_id: String, payload_type: &str, payload: Bytes) -> v1::Envelope {
    let signature = key.sign(payload_type, &payload).to_vec().into();
    v1::Envelope { signature, payload, payload_type: payload_type.to_owned(), key_id }
}

/// What verifies, verifies again; and no other bytes do under the same signature.
#[test]
fn envelope() {
    fuzz_envelopes("envelope", |envelope| {
        KEY.public_key().verify(&envelope.payload_type, &envelope.payload, &envelope.signature).is_ok()
    });
}

pub(super) fn fuzz_envelopes(name: &str, verifies: impl Fn(&v1::Envelope) -> bool) {
    let payload = answer().encode_to_vec().into();
    let real = signed(&KEY, phone().to_string(), payload_type::ANSWER, payload);
    fuzz(name, &[("answer", real.encode_to_vec())], |bytes| {
        let Ok(envelope) = v1::Envelope::decode(bytes) else { return };
        assert_eq!(v1::Envelope::decode(&envelope.encode_to_vec()[..]), Ok(envelope.clone()));
        if verifies(&envelope) {
            assert_eq!((&envelope.payload, &envelope.payload_type), (&real.payload, &real.payload_type));
            assert!(verifies(&envelope));
            assert!(!verifies(&v1::Envelope { payload_type: "other".to_owned(), ..envelope }));
        }
    });
}

/// A key that is taken is the bytes that came.
#[test]
fn public_key() {
    let es256 = SigningKey::generate_es256().0.public_key();
    let real = [("ed25519", KEY.public_key().as_bytes().to_vec()), ("es256", es256.as_bytes().to_vec())];
    fuzz("public_key", &real, |bytes| {
        for algorithm in [Algorithm::Ed25519, Algorithm::Es256] {
            if let Ok(key) = PublicKey::parse(algorithm, bytes) {
                assert_eq!(key.as_bytes(), bytes);
                assert!(key.verify("type", b"payload", &[0; 64]).is_err(), "nobody signed that");
            }
        }
    });
}

/// A code and a URI that are read are written as what is read as the same.
#[test]
fn enrolment_code() {
    let uri = EnrolmentUri {
        address: "https://approve.example.org:8443".to_owned(),
        code: code(),
        broker_fingerprint: KEY.public_key().fingerprint(),
    };
    let real = [("code", code().to_text().as_bytes().to_vec()), ("uri", uri.to_text().as_bytes().to_vec())];
    fuzz("enrolment_code", &real, |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        if let Ok(code) = text.parse::<EnrolmentCode>() {
            assert!(code.to_text().parse::<EnrolmentCode>().is_ok_and(|again| again == code));
        }
        if let Ok(uri) = text.parse::<EnrolmentUri>() {
            assert!(uri.to_text().parse::<EnrolmentUri>().is_ok_and(|again| again == uri), "{uri:?}");
        }
    });
}

/// Whatever a phone signs: its payload is read after its signature, and so are the ids in it. Nothing comes of it that its
/// words do not say, to this broker: no approval without the number, no key without the code.
#[test]
fn phone_calls() {
    fuzz_phone_calls("phone_calls", command);
}

pub(super) fn fuzz_phone_calls(name: &str, command: impl Fn(&Account, &v1::Envelope) -> Option<Command>) {
    let account = account();
    let real = calls().map(|(name, payload)| (name, [name.as_bytes(), b"\n", &payload].concat()));
    for (name, bytes) in &real {
        let call = call(bytes);
        assert!(command(&account, &call).is_some() || read(&account, &call).is_some(), "{name}");
    }
    fuzz(name, &real, |bytes| {
        let call = call(bytes);
        if let Some(read) = read(&account, &call) {
            assert_eq!((read.authenticator(), &*addressee(&call)), (phone(), BROKER_ID));
        }
        let events = command(&account, &call).and_then(|command| account.decide(&command, NOW).ok());
        for event in events.into_iter().flatten() {
            assert_eq!(addressee(&call), BROKER_ID);
            assert_says(&call, &event);
            assert_folds(account.clone(), &event);
        }
    });
}

/// What phones sign, by the name of its type here.
fn calls() -> [(&'static str, Vec<u8>); 7] {
    let (broker_id, authenticator_id) = (BROKER_ID.to_owned(), phone().to_string());
    let challenge_hash = Bytes::copy_from_slice(&question().challenge.payload_hash());
    let nonce = || Bytes::from_static(&[6; 16]);
    let service = v1::push_target::Service::FcmRegistrationToken("another-target".to_owned());
    let push_target = Some(v1::PushTarget { service: Some(service) });
    let trial = v1::TrialAnswer {
        broker_id: broker_id.clone(),
        enrolment_id: enrolments()[1].to_string(),
        challenge_hash,
        authenticator_id: on_trial().to_string(),
        number: NUMBER.to_owned(),
        nonce: nonce(),
    };
    let reading = v1::ListWaitingCall {
        broker_id: broker_id.clone(),
        authenticator_id: authenticator_id.clone(),
        nonce: nonce(),
    };
    let fetching = v1::FetchChallengeCall {
        broker_id: broker_id.clone(),
        authenticator_id: authenticator_id.clone(),
        nonce: nonce(),
        id: approval().to_string(),
    };
    let moving = v1::ReplacePushTargetCall {
        broker_id: broker_id.clone(),
        authenticator_id: authenticator_id.clone(),
        counter: 1,
        push_target: push_target.clone(),
    };
    let leaving = v1::UnenrolCall { broker_id, authenticator_id, counter: 1 };
    [
        ("answer", answer().encode_to_vec()),
        ("trial_answer", trial.encode_to_vec()),
        ("claim", v1::EnrolmentClaim { push_target, ..claim() }.encode_to_vec()),
        ("list_waiting", reading.encode_to_vec()),
        ("fetch_challenge", fetching.encode_to_vec()),
        ("replace_push_target", moving.encode_to_vec()),
        ("unenrol", leaving.encode_to_vec()),
    ]
}

/// That of a new phone, but for where it is pushed to.
fn claim() -> v1::EnrolmentClaim {
    let (code, key) = (code(), NEW_KEY.public_key());
    v1::EnrolmentClaim {
        broker_id: BROKER_ID.to_owned(),
        locator: code.locator().to_owned(),
        secret_mac: code.secret().mac(code.locator(), BROKER_KEY, key.as_bytes()).to_vec().into(),
        broker_key: Bytes::from_static(BROKER_KEY),
        authenticator_key: Some(v1::PublicKey {
            algorithm: v1::SignatureAlgorithm::Ed25519.into(),
            key: Bytes::copy_from_slice(key.as_bytes()),
        }),
        platform: v1::Platform::Android.into(),
        push_target: None,
        device_name: "A new phone".to_owned(),
        nonce: vec![6; 16].into(),
    }
}

/// A call as the seeds write it: the name of its type, a line, and what is signed then.
fn call(bytes: &[u8]) -> v1::Envelope {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let payload = Bytes::copy_from_slice(bytes.get(end + 1..).unwrap_or_default());
    let payload_type = match &bytes[..end] {
        b"answer" => payload_type::ANSWER,
        b"trial_answer" => payload_type::TRIAL_ANSWER,
        b"claim" => payload_type::ENROLMENT_CLAIM,
        b"list_waiting" => payload_type::LIST_WAITING,
        b"fetch_challenge" => payload_type::FETCH_CHALLENGE,
        b"replace_push_target" => payload_type::REPLACE_PUSH_TARGET,
        _ => payload_type::UNENROL,
    };
    sign(payload_type, payload)
}

/// Signs as whoever sends calls of this type would.
pub(super) fn sign(payload_type: &str, payload: Bytes) -> v1::Envelope {
    match payload_type {
        payload_type::ENROLMENT_CLAIM => {
            let locator = v1::EnrolmentClaim::decode(payload.clone()).map(|claim| claim.locator);
            signed(&NEW_KEY, locator.unwrap_or_default(), payload_type, payload)
        }
        payload_type::TRIAL_ANSWER => signed(&KEY, on_trial().to_string(), payload_type, payload),
        _ => signed(&KEY, phone().to_string(), payload_type, payload),
    }
}

fn read(account: &Account, call: &v1::Envelope) -> Option<VerifiedRead> {
    match &*call.payload_type {
        payload_type::LIST_WAITING => VerifiedRead::list_waiting(account, BROKER_ID, call).ok(),
        payload_type::FETCH_CHALLENGE => VerifiedRead::fetch_challenge(account, BROKER_ID, call).ok(),
        _ => None,
    }
}

/// What is asked of the account, if the call is good.
pub(super) fn command(account: &Account, call: &v1::Envelope) -> Option<Command> {
    Some(match &*call.payload_type {
        payload_type::ANSWER => Command::SubmitAnswer(VerifiedAnswer::verify(account, BROKER_ID, call).ok()?),
        payload_type::TRIAL_ANSWER => {
            Command::AnswerTrial(VerifiedTrialAnswer::verify(account, BROKER_ID, call).ok()?)
        }
        payload_type::ENROLMENT_CLAIM => Command::CompleteEnrolment {
            enrolment: enrolments()[2],
            claim: VerifiedClaim::verify(BROKER_ID, call).ok()?,
            broker_key: BROKER_KEY.to_vec(),
            authenticator: AuthenticatorId::new(ACCOUNT, [9; 8]),
            question: question(),
        },
        payload_type::REPLACE_PUSH_TARGET => {
            Command::ReplacePushTarget(VerifiedReplacePushTarget::verify(account, BROKER_ID, call).ok()?)
        }
        payload_type::UNENROL => Command::Unenrol(VerifiedUnenrol::verify(account, BROKER_ID, call).ok()?),
        _ => return None,
    })
}

/// The broker that it was signed for.
fn addressee(call: &v1::Envelope) -> String {
    fn message<M: Message + Default>(call: &v1::Envelope) -> M {
        M::decode(call.payload.clone()).expect("it was read")
    }
    match &*call.payload_type {
        payload_type::ANSWER => message::<v1::Answer>(call).broker_id,
        payload_type::TRIAL_ANSWER => message::<v1::TrialAnswer>(call).broker_id,
        payload_type::ENROLMENT_CLAIM => message::<v1::EnrolmentClaim>(call).broker_id,
        payload_type::LIST_WAITING => message::<v1::ListWaitingCall>(call).broker_id,
        payload_type::FETCH_CHALLENGE => message::<v1::FetchChallengeCall>(call).broker_id,
        payload_type::REPLACE_PUSH_TARGET => message::<v1::ReplacePushTargetCall>(call).broker_id,
        _ => message::<v1::UnenrolCall>(call).broker_id,
    }
}

/// What came of a call is what it says.
fn assert_says(call: &v1::Envelope, event: &Event) {
    let answer = || v1::Answer::decode(call.payload.clone()).expect("it was read");
    match event {
        Event::ApprovalApproved { approval: of, .. } => {
            assert_eq!((answer().decision(), &*answer().number), (v1::Decision::Approve, NUMBER));
            assert_eq!(*of, approval());
            assert_eq!(answer().challenge_hash[..], question().challenge.payload_hash());
        }
        Event::ApprovalDenied { .. } => {
            assert_ne!(answer().decision(), v1::Decision::Approve);
            assert_eq!(answer().challenge_hash[..], question().challenge.payload_hash());
        }
        Event::AuthenticatorActivated { .. } => {
            let answer = v1::TrialAnswer::decode(call.payload.clone()).expect("it was read");
            assert_eq!(answer.number, NUMBER);
        }
        Event::AuthenticatorBound(_) => {
            let said = v1::EnrolmentClaim::decode(call.payload.clone()).expect("it was read");
            assert_eq!((said.locator, said.secret_mac), (claim().locator, claim().secret_mac));
        }
        _ => {}
    }
}
