//! What does not pass the checks is never shown.

use std::time::Duration;

use countersign_envelope::{Algorithm, SigningKey, payload_type};
use countersign_proto::v1;
use device_sim::{
    clock::{Clock, Timestamp},
    phone::{self, Error, NotShown},
};
use prost::Message as _;

use crate::{
    active_phone,
    broker::{ACCOUNT, BROKER_ID, Broker, sign},
    only_challenge,
};

/// A broker as a phone knows it, and the key that it signs with.
struct Known {
    broker: phone::Broker,
    key: SigningKey,
    now: Timestamp,
}

impl Known {
    fn new() -> Self {
        let key = SigningKey::ed25519(&[1; 32]);
        let broker = phone::Broker::new(BROKER_ID, "http://127.0.0.1:1", key.public_key());
        Self { broker, key, now: Timestamp::from_seconds(1_800_000_000) }
    }

    fn at(&self, seconds: i64) -> Option<prost_types::Timestamp> {
        let now = i64::try_from(self.now.seconds()).expect("small");
        Some(prost_types::Timestamp { seconds: now + seconds, nanos: 0 })
    }

    fn challenge(&self) -> v1::Challenge {
        v1::Challenge {
            broker_id: BROKER_ID.to_owned(),
            approval_id: "approval".to_owned(),
            account_name: ACCOUNT.to_owned(),
            relying_party_name: "Example College".to_owned(),
            application_name: "Webmail".to_owned(),
            context: Some(v1::Context {
                source_ip: "2001:db8::7".to_owned(),
                place: "Göteborg, Sverige".to_owned(),
                browser: "Firefox on Linux".to_owned(),
            }),
            session_binding: vec![1; 16].into(),
            commitment: vec![2; 32].into(),
            digits: 2,
            issued_at: self.at(-1),
            expires_at: self.at(59),
        }
    }

    fn check(&self, envelope: &v1::Envelope) -> Result<phone::Challenge, NotShown> {
        self.broker.check_challenge(envelope, ACCOUNT, self.now)
    }

    /// What becomes of a challenge that the broker has signed with something else in it.
    fn changed(&self, change: impl FnOnce(&mut v1::Challenge)) -> Result<phone::Challenge, NotShown> {
        let mut challenge = self.challenge();
        change(&mut challenge);
        self.check(&sign(&self.key, payload_type::CHALLENGE, challenge.encode_to_vec()))
    }

    fn signed(&self) -> v1::Envelope {
        sign(&self.key, payload_type::CHALLENGE, self.challenge().encode_to_vec())
    }
}

#[test]
fn a_challenge_with_nothing_wrong_is_shown_as_it_is() {
    let known = Known::new();
    let challenge = known.check(&known.signed()).expect("nothing is wrong with it");
    assert_eq!(challenge.application_name(), "Webmail");
    assert_eq!(challenge.context().place, "Göteborg, Sverige");
    assert_eq!(challenge.commitment(), [2; 32]);
    assert_eq!(challenge.expires_at(), known.now.plus(Duration::from_secs(59)));
}

#[test]
fn a_challenge_that_another_key_signed_is_not_shown() {
    let known = Known::new();
    let other = SigningKey::ed25519(&[2; 32]);
    let payload = known.challenge().encode_to_vec();
    let mut forged = sign(&other, payload_type::CHALLENGE, payload.clone());
    assert_eq!(known.check(&forged), Err(NotShown::OtherKey));
    // It may say that it is the broker's key.
    forged.key_id = known.broker.fingerprint().to_owned();
    assert_eq!(known.check(&forged), Err(NotShown::Signature));
    let es256 = sign(&SigningKey::generate_es256().0, payload_type::CHALLENGE, payload);
    assert_eq!(known.check(&es256), Err(NotShown::OtherKey));
}

#[test]
fn a_challenge_that_was_changed_on_its_way_is_not_shown() {
    let known = Known::new();
    for at in 0..known.signed().payload.len() {
        let mut changed = known.signed();
        let mut payload = changed.payload.to_vec();
        payload[at] ^= 1;
        changed.payload = payload.into();
        assert_eq!(known.check(&changed), Err(NotShown::Signature), "byte {at}");
    }
    let mut cut = known.signed();
    cut.signature = cut.signature.slice(..63);
    assert_eq!(known.check(&cut), Err(NotShown::Signature));
}

#[test]
fn what_was_signed_as_something_else_is_no_challenge() {
    let known = Known::new();
    let payload = known.challenge().encode_to_vec();
    let trial = sign(&known.key, payload_type::TRIAL_CHALLENGE, payload);
    assert!(matches!(known.check(&trial), Err(NotShown::PayloadType { .. })));
    // The type is inside the signature: another name outside does not help.
    let renamed = v1::Envelope { payload_type: payload_type::CHALLENGE.to_owned(), ..trial };
    assert_eq!(known.check(&renamed), Err(NotShown::Signature));
}

#[test]
fn a_challenge_for_somebody_else_is_not_shown() {
    let known = Known::new();
    let other_broker = known.changed(|challenge| challenge.broker_id = "other".to_owned());
    assert_eq!(other_broker, Err(NotShown::OtherBroker { found: "other".to_owned() }));
    let other_account = known.changed(|challenge| challenge.account_name = "bo".to_owned());
    assert_eq!(other_account, Err(NotShown::OtherAccount { found: "bo".to_owned() }));
}

#[test]
fn a_challenge_whose_times_cannot_be_true_is_not_shown() {
    let known = Known::new();
    let between = |issued, expires| {
        known.changed(|challenge| (challenge.issued_at, challenge.expires_at) = (issued, expires))
    };
    assert_eq!(
        between(known.at(-200), known.at(-100)),
        Err(NotShown::Expired { since: Duration::from_secs(100) })
    );
    assert_eq!(between(known.at(10), known.at(10)), Err(NotShown::Times), "over before it began");
    assert_eq!(between(known.at(-10), known.at(400)), Err(NotShown::Times), "longer than any may be");
    assert_eq!(between(known.at(100), known.at(160)), Err(NotShown::Times), "from the future");
    assert_eq!(between(None, known.at(60)), Err(NotShown::Times));
    assert_eq!(between(known.at(0), None), Err(NotShown::Times));
    let long_ago = prost_types::Timestamp { seconds: i64::MIN, nanos: -1 };
    assert!(between(Some(long_ago), Some(long_ago)).is_err(), "no arithmetic breaks on it");
    // A phone's clock may be a little off, either way.
    assert!(between(known.at(30), known.at(90)).is_ok());
    assert!(between(known.at(-90), known.at(-30)).is_ok());
}

#[test]
fn a_text_that_could_disguise_another_is_not_shown() {
    type Field = (&'static str, fn(&mut v1::Challenge) -> &mut String);
    let fields: [Field; 4] = [
        ("relying_party_name", |challenge| &mut challenge.relying_party_name),
        ("application_name", |challenge| &mut challenge.application_name),
        ("place", |challenge| &mut challenge.context.get_or_insert_default().place),
        ("browser", |challenge| &mut challenge.context.get_or_insert_default().browser),
    ];
    let known = Known::new();
    for (field, of) in fields {
        for symbol in ['\u{202e}', '\u{2066}', '\u{1b}', '\n', '\u{200b}', '\u{feff}', '\u{e0041}'] {
            let found = known.changed(|challenge| of(challenge).push(symbol));
            assert_eq!(found, Err(NotShown::Disguise { field, symbol }));
        }
        let found = known.changed(|challenge| *of(challenge) = "x".repeat(257));
        assert_eq!(found, Err(NotShown::Length(field)));
    }
    let ip =
        known.changed(|challenge| challenge.context.get_or_insert_default().source_ip = "here".to_owned());
    assert!(matches!(ip, Err(NotShown::Malformed(_))));
    let nameless = known.changed(|challenge| challenge.application_name = " ".to_owned());
    assert_eq!(nameless, Err(NotShown::Length("application_name")));
}

#[test]
fn a_question_that_cannot_be_answered_is_not_shown() {
    let known = Known::new();
    for digits in [0, 1, 7, u32::MAX] {
        let found = known.changed(|challenge| challenge.digits = digits);
        assert!(matches!(found, Err(NotShown::Malformed(_))), "{digits} digits");
    }
    let found = known.changed(|challenge| challenge.commitment = vec![2; 31].into());
    assert!(matches!(found, Err(NotShown::Malformed(_))));
    let found = known.changed(|challenge| challenge.approval_id.clear());
    assert!(matches!(found, Err(NotShown::Malformed(_))));
}

#[test]
fn what_the_broker_signed_and_cannot_be_read_is_not_shown() {
    let known = Known::new();
    for payload in [vec![0xff; 40], vec![0; 20_000]] {
        let found = known.check(&sign(&known.key, payload_type::CHALLENGE, payload));
        assert!(matches!(found, Err(NotShown::Malformed(_))));
    }
}

#[test]
fn a_trial_or_a_notice_for_another_phone_is_not_shown() {
    let known = Known::new();
    let trial = v1::TrialChallenge {
        broker_id: BROKER_ID.to_owned(),
        enrolment_id: "enrolment".to_owned(),
        authenticator_id: "phone-1".to_owned(),
        account_name: ACCOUNT.to_owned(),
        commitment: vec![2; 32].into(),
        digits: 2,
        issued_at: known.at(0),
        expires_at: known.at(600),
    };
    let envelope = sign(&known.key, payload_type::TRIAL_CHALLENGE, trial.encode_to_vec());
    let check = |whom| known.broker.check_trial(&envelope, whom, known.now);
    assert!(check(("phone-1", ACCOUNT)).is_ok());
    assert_eq!(check(("phone-2", ACCOUNT)), Err(NotShown::OtherAuthenticator));
    assert!(matches!(check(("phone-1", "bo")), Err(NotShown::OtherAccount { .. })));

    let notice = v1::Notice {
        broker_id: BROKER_ID.to_owned(),
        authenticator_id: "phone-1".to_owned(),
        account_name: ACCOUNT.to_owned(),
        kind: v1::notice::Kind::AuthenticatorAdded.into(),
        subject_authenticator_id: "phone-2".to_owned(),
        subject_device_name: "Another".to_owned(),
        at: known.at(0),
    };
    let envelope = sign(&known.key, payload_type::NOTICE, notice.encode_to_vec());
    assert_eq!(known.broker.check_notice(&envelope, "phone-1").expect("for it").at, known.now);
    assert_eq!(known.broker.check_notice(&envelope, "phone-3"), Err(NotShown::OtherAuthenticator));
    let disguised = v1::Notice { subject_device_name: "my\u{202e}phone".to_owned(), ..notice };
    let envelope = sign(&known.key, payload_type::NOTICE, disguised.encode_to_vec());
    assert!(matches!(known.broker.check_notice(&envelope, "phone-1"), Err(NotShown::Disguise { .. })));
}

#[tokio::test]
async fn what_a_lying_broker_lists_is_counted_and_not_shown() {
    let broker = Broker::start().await;
    let (phone, transport) = active_phone(&broker, Algorithm::Ed25519).await;
    let (id, _) = broker.ask(Duration::from_secs(60));
    broker.lies(|_, mut envelope| {
        envelope.signature = vec![0; 64].into();
        envelope
    });
    let waiting = phone.list_waiting(&transport, broker.clock.now()).await.expect("a reply");
    assert_eq!(waiting.challenges, []);
    assert_eq!(waiting.not_shown, [NotShown::Signature]);
    let fetched = phone.fetch(&transport, &id, broker.clock.now()).await;
    assert_eq!(fetched, Err(Error::NotShown(NotShown::Signature)));
}

#[tokio::test]
async fn another_challenge_than_the_one_asked_for_is_not_shown() {
    let broker = Broker::start().await;
    let (phone, transport) = active_phone(&broker, Algorithm::Ed25519).await;
    let (id, _) = broker.ask(Duration::from_secs(60));
    // All of it is true but that it is another sign-in's.
    broker.lies(|broker, _| broker.envelope(payload_type::CHALLENGE, &broker.challenge("another", "42")));
    let fetched = phone.fetch(&transport, &id, broker.clock.now()).await;
    assert_eq!(fetched, Err(Error::NotShown(NotShown::OtherSubject)));
}

#[tokio::test]
async fn a_challenge_is_not_shown_once_the_clock_has_passed_it() {
    let broker = Broker::start().await;
    let (phone, transport) = active_phone(&broker, Algorithm::Es256).await;
    broker.ask(Duration::from_secs(60));
    only_challenge(&phone, &transport, &broker).await;
    let later: Clock = broker.clock.clone();
    later.advance(Duration::from_secs(300));
    let waiting = phone.list_waiting(&transport, later.now()).await.expect("a reply");
    assert!(matches!(waiting.not_shown[..], [NotShown::Expired { .. }]));
}
