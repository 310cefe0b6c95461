//! A code and a claim: how a key gets bound to an account, and everything that stops it.

use countersign_domain::{
    AuthenticatorId, Command, EnrolmentId, Event,
    account::{Effect, react},
    call::Error,
    claim::VerifiedClaim,
    command::Refusal,
    event::{EnrolmentEnd, RevokedBy},
    limits,
};
use countersign_envelope::{Algorithm, EnrolmentCode, SigningKey};
use countersign_proto::v1;

use crate::cast::{
    ACCOUNT, BROKER, BROKER_ID, Phone, Story, account_with, at, fcm, given, identity, mac, opened,
};

/// What makes a good claim bad.
type Spoil<'a> = &'a dyn Fn(&mut v1::EnrolmentClaim);

fn refused(phone: &Phone) -> Event {
    Event::EnrolmentCodeRefused { enrolment: phone.enrolment }
}

fn ended(phone: &Phone, reason: EnrolmentEnd) -> Event {
    Event::EnrolmentEnded { enrolment: phone.enrolment, reason, answer_hash: None }
}

fn revoked_by_trial(phone: &Phone) -> Event {
    Event::AuthenticatorRevoked { authenticator: phone.id, by: RevokedBy::Trial, was_active: false }
}

// ---- codes ----

#[test]
fn the_first_code_opens_the_account_and_the_second_does_not_open_it_again() {
    let (first, second) = (Phone::ed25519(1), Phone::ed25519(2));
    given([])
        .at(at(5))
        .when(&first.begin())
        .then(&[opened().1, first.begun(at(5)).1])
        .at(at(6))
        .when(&second.begin())
        .then(&[second.begun(at(6)).1]);
}

#[test]
fn a_code_expires_by_itself_after_ten_minutes_and_not_before() {
    let phone = Phone::ed25519(1);
    assert_eq!(
        react(&phone.begun(at(0)).1),
        [Effect::ExpireEnrolment(phone.enrolment, at(600))],
        "somebody must wake up then"
    );
    given([opened(), phone.begun(at(0))])
        .at(at(599))
        .when(&Command::ExpireEnrolment(phone.enrolment))
        .then(&[])
        .at(at(600))
        .when(&Command::ExpireEnrolment(phone.enrolment))
        .then(&[ended(&phone, EnrolmentEnd::Expired)])
        .when(&Command::ExpireEnrolment(phone.enrolment))
        .then(&[]);
}

#[test]
fn a_cancelled_enrolment_is_over_and_cancelling_it_again_changes_nothing() {
    let phone = Phone::ed25519(1);
    let over = given([opened(), phone.begun(at(0))])
        .when(&Command::CancelEnrolment(phone.enrolment))
        .then(&[ended(&phone, EnrolmentEnd::Cancelled)])
        .when(&Command::CancelEnrolment(phone.enrolment))
        .then(&[]);
    over.when_claimed(&phone, &phone.claims()).then_refused(&Refusal::EnrolmentNotWaiting);
}

#[test]
fn three_codes_wait_and_no_more_until_one_is_over() {
    let [a, b, c, d] = [1, 2, 3, 4].map(Phone::ed25519);
    let full = || given([opened(), a.begun(at(0)), b.begun(at(1)), c.begun(at(2))]);
    full().when(&d.begin()).then_refused(&Refusal::TooManyEnrolments { most: 3 });
    // The first is overdue at 600 s, whether or not anybody has said so.
    full().at(at(600)).when(&d.begin()).then(&[ended(&a, EnrolmentEnd::Expired), d.begun(at(600)).1]);
    full()
        .when(&Command::CancelEnrolment(b.enrolment))
        .then(&[ended(&b, EnrolmentEnd::Cancelled)])
        .when(&d.begin())
        .then(&[d.begun(at(2)).1]);
}

#[test]
fn an_enrolment_that_nobody_began_is_unknown() {
    let phone = Phone::ed25519(1);
    for command in [Command::ExpireEnrolment(phone.enrolment), Command::CancelEnrolment(phone.enrolment)] {
        given([opened()]).when(&command).then_refused(&Refusal::UnknownEnrolment);
    }
    given([opened()]).when_claimed(&phone, &phone.claims()).then_refused(&Refusal::UnknownEnrolment);
}

#[test]
fn only_so_many_ended_enrolments_are_remembered_and_those_that_wait_all_are() {
    let waiting = Phone::ed25519(200);
    let mut story = given([opened(), waiting.begun(at(0))]);
    for number in 1..=20 {
        let phone = Phone::ed25519(number);
        story = story
            .when(&phone.begin())
            .then_some(|events| events.len() == 1)
            .when(&Command::CancelEnrolment(phone.enrolment))
            .then_some(|events| events.len() == 1);
    }
    let known = |number| story.account().enrolment(EnrolmentId::new(ACCOUNT, [number; 8])).is_some();
    assert!(known(200), "it waits");
    let remembered = (1..=20).filter(|number| known(*number)).count();
    // The last one ended after the last time that anything was forgotten.
    assert_eq!(remembered, limits::ENROLMENTS_ENDED_KEPT + 1);
    assert!(known(20) && !known(1), "the oldest go first");
}

// ---- claims ----

#[test]
fn a_claim_with_the_code_binds_the_key_and_asks_for_the_trial() {
    for phone in Phone::both() {
        let claim = phone.claims();
        let asked = phone.bound_and_asked(&claim, at(10));
        assert_eq!(react(&asked[1]), [Effect::PushTrial(phone.enrolment)]);
        let story = given([opened(), phone.begun(at(10))]).when_claimed(&phone, &claim).then(&asked);
        let authenticator = story.account().authenticator(phone.id).expect("it is bound");
        assert_eq!(authenticator.key, phone.key.public_key());
        assert_eq!(authenticator.counter, 0);
        assert!(authenticator.is_bound() && !authenticator.is_active());
    }
}

#[test]
fn a_wrong_secret_counts_and_the_fifth_ends_the_code() {
    for phone in Phone::both() {
        let wrong = {
            let mut claim = phone.claim();
            let other_code = EnrolmentCode::from_random(&[0xee; 12]);
            let secret = other_code.secret();
            let locator = phone.code().locator().to_owned();
            claim.secret_mac = secret
                .mac(&locator, BROKER.public_key().as_bytes(), phone.key.public_key().as_bytes())
                .to_vec()
                .into();
            phone.sign_claim(&claim)
        };
        let mut story = given([opened(), phone.begun(at(10))]);
        for _ in 0..4 {
            story = story.when_claimed(&phone, &wrong).then(&[refused(&phone)]);
        }
        let still_good = given([opened(), phone.begun(at(10))]);
        let (claim, mut four) = (phone.claims(), still_good);
        for _ in 0..4 {
            four = four.when_claimed(&phone, &wrong).then(&[refused(&phone)]);
        }
        four.when_claimed(&phone, &claim).then(&phone.bound_and_asked(&claim, at(10)));

        let over = story
            .when_claimed(&phone, &wrong)
            .then(&[refused(&phone), ended(&phone, EnrolmentEnd::CodeRefused)]);
        over.when_claimed(&phone, &claim).then_refused(&Refusal::EnrolmentNotWaiting);
    }
}

#[test]
fn every_part_of_the_proof_counts() {
    let (phone, other) = (Phone::ed25519(1), Phone::ed25519(2));
    let broker_key = BROKER.public_key();
    let another_broker = SigningKey::ed25519(&[0xb1; 32]).public_key();
    let key = phone.key.public_key();

    let spoilt: [(&str, Spoil<'_>); 6] = [
        ("the MAC is somebody else's, for their key", &|claim| {
            claim.secret_mac = mac(&phone.code(), broker_key.as_bytes(), other.key.public_key().as_bytes());
        }),
        ("the MAC is for another broker's key", &|claim| {
            claim.secret_mac = mac(&phone.code(), another_broker.as_bytes(), key.as_bytes());
        }),
        ("the phone was told another broker key, and says so", &|claim| {
            claim.broker_key = another_broker.as_bytes().to_vec().into();
            claim.secret_mac = mac(&phone.code(), another_broker.as_bytes(), key.as_bytes());
        }),
        ("the phone names another broker key than its MAC covers", &|claim| {
            claim.broker_key = another_broker.as_bytes().to_vec().into();
        }),
        ("no MAC", &|claim| claim.secret_mac.clear()),
        ("a MAC cut short", &|claim| claim.secret_mac.truncate(31)),
    ];
    for (what, spoil) in spoilt {
        let mut claim = phone.claim();
        spoil(&mut claim);
        let events = given([opened(), phone.begun(at(10))])
            .when_claimed(&phone, &phone.sign_claim(&claim))
            .then(&[refused(&phone)]);
        assert!(events.account().authenticator(phone.id).is_none(), "{what}");
    }
}

#[test]
fn a_claim_is_good_for_the_locator_that_it_was_made_for_only() {
    // Somebody's index maps another spelling to the same enrolment, and the MAC under the right secret agrees with
    // the claim's own locator.
    let phone = Phone::ed25519(1);
    let code = phone.code();
    let mut claim = phone.claim();
    claim.locator = "ZZZZZZZZ".to_owned();
    let key = phone.key.public_key();
    claim.secret_mac =
        code.secret().mac(&claim.locator, BROKER.public_key().as_bytes(), key.as_bytes()).to_vec().into();
    given([opened(), phone.begun(at(10))])
        .when_claimed(&phone, &phone.sign_claim(&claim))
        .then(&[refused(&phone)]);
}

#[test]
fn the_same_claim_again_changes_nothing_and_another_one_is_refused() {
    for phone in Phone::both() {
        let claim = phone.claims();
        let bound = given([opened(), phone.begun(at(10))])
            .when_claimed(&phone, &claim)
            .then(&phone.bound_and_asked(&claim, at(10)))
            .when_claimed(&phone, &claim)
            .then(&[]);
        let thief = Phone::with_key(SigningKey::ed25519(&[9; 32]), phone.id.as_bytes()[23]);
        bound.when_claimed(&phone, &thief.claims()).then_refused(&Refusal::EnrolmentNotWaiting);
    }
}

#[test]
fn a_code_is_good_for_one_phone() {
    let (phone, second) = (Phone::ed25519(1), Phone::ed25519(2));
    let mut history = vec![opened()];
    history.extend(phone.enrolled(at(10)));
    given(history).when_claimed(&phone, &second.claims()).then_refused(&Refusal::EnrolmentNotWaiting);
}

#[test]
fn a_claim_after_the_end_of_the_code_binds_nothing() {
    let phone = Phone::ed25519(1);
    let expired = given([opened(), phone.begun(at(10))])
        .at(at(610))
        .when_claimed(&phone, &phone.claims())
        .then(&[ended(&phone, EnrolmentEnd::Expired)]);
    expired.when_claimed(&phone, &phone.claims()).then_refused(&Refusal::EnrolmentNotWaiting);
}

#[test]
fn a_key_is_bound_once_and_never_again_after_its_end() {
    let (_, pkcs8) = SigningKey::generate_es256();
    let keys: [&dyn Fn() -> SigningKey; 2] =
        [&|| SigningKey::ed25519(&[0x77; 32]), &|| SigningKey::es256(&pkcs8).expect("as it was written")];
    for key in keys {
        let (first, again) = (Phone::with_key(key(), 1), Phone::with_key(key(), 2));
        let mut history = account_with(&[&first]);
        history.push(again.begun(at(20)));
        given(history.clone()).when_claimed(&again, &again.claims()).then_refused(&Refusal::KeyAlreadyBound);
        history.push((at(30), first.revoked()));
        given(history).when_claimed(&again, &again.claims()).then_refused(&Refusal::KeyAlreadyBound);
    }
}

#[test]
fn ten_authenticators_and_no_more_until_one_is_revoked() {
    let phones: Vec<_> = (1..=10).map(Phone::ed25519).collect();
    let eleventh = Phone::ed25519(11);
    let full = account_with(&phones.iter().collect::<Vec<_>>());
    let most = limits::AUTHENTICATORS_MAX;
    given(full.clone()).when(&eleventh.begin()).then_refused(&Refusal::TooManyAuthenticators { most });

    // A code that was made while there was room is not good for more than there is.
    let mut early = account_with(&phones.iter().take(9).collect::<Vec<_>>());
    early.push(eleventh.begun(at(95)));
    early.extend(phones[9].enrolled(at(96)));
    given(early)
        .when_claimed(&eleventh, &eleventh.claims())
        .then_refused(&Refusal::TooManyAuthenticators { most });

    let mut with_room = full;
    with_room.push((at(120), phones[4].revoked()));
    given(with_room).when(&eleventh.begin()).then(&[eleventh.begun(at(120)).1]);
}

#[test]
fn cancelling_an_enrolment_on_trial_takes_its_key_with_it() {
    let phone = Phone::ed25519(1);
    let mut history = vec![opened()];
    history.extend(phone.on_trial(at(10)));
    given(history)
        .when(&Command::CancelEnrolment(phone.enrolment))
        .then(&[ended(&phone, EnrolmentEnd::Cancelled), revoked_by_trial(&phone)]);
}

// ---- what is no claim at all ----

#[test]
fn a_claim_must_be_signed_with_the_key_that_it_brings() {
    for phone in Phone::both() {
        let good = phone.claims();
        assert!(VerifiedClaim::verify(BROKER_ID, &good).is_ok());

        let thief = Phone::ed25519(9);
        let forged = thief.sign_claim(&phone.claim());
        assert_eq!(VerifiedClaim::verify(BROKER_ID, &forged), Err(Error::Unauthentic));

        let mut changed = good.clone();
        let mut claim = phone.claim();
        claim.device_name = "Another phone".to_owned();
        changed.payload = prost::Message::encode_to_vec(&claim).into();
        assert_eq!(VerifiedClaim::verify(BROKER_ID, &changed), Err(Error::Unauthentic));

        let elsewhere = VerifiedClaim::verify("another-broker.example.org", &good);
        assert_eq!(elsewhere, Err(Error::Unauthentic));

        let outside = v1::Envelope { key_id: "ZZZZZZZZ".to_owned(), ..good };
        assert_eq!(VerifiedClaim::verify(BROKER_ID, &outside), Err(Error::Unauthentic));
    }
}

#[test]
fn a_claim_with_a_bad_field_is_told_which() {
    let phone = Phone::ed25519(1);
    let bad: [(&str, Spoil<'_>); 10] = [
        ("nonce", &|claim| claim.nonce.truncate(15)),
        ("platform", &|claim| claim.platform = 0),
        ("platform", &|claim| claim.platform = 77),
        ("push_target", &|claim| claim.push_target = None),
        ("push_target", &|claim| claim.push_target = Some(fcm(""))),
        ("push_target", &|claim| claim.push_target = Some(fcm("two words"))),
        ("push_target", &|claim| {
            let service = v1::push_target::Service::ApnsDeviceToken("AB".repeat(32));
            claim.push_target = Some(v1::PushTarget { service: Some(service) });
        }),
        ("device_name", &|claim| claim.device_name = " ".to_owned()),
        ("device_name", &|claim| claim.device_name = "x".repeat(65)),
        ("device_name", &|claim| claim.device_name = "phone\u{202e}enohp".to_owned()),
    ];
    for (name, spoil) in bad {
        let mut claim = phone.claim();
        spoil(&mut claim);
        let error = VerifiedClaim::verify(BROKER_ID, &phone.sign_claim(&claim)).unwrap_err();
        assert!(matches!(&error, Error::Field { field, .. } if *field == name), "{error}");
    }
    let mut claim = phone.claim();
    claim.locator.push('0');
    let error = VerifiedClaim::verify(BROKER_ID, &phone.sign_claim(&claim)).unwrap_err();
    assert!(matches!(error, Error::Field { field: "locator", .. }), "{error}");
}

#[test]
fn a_claim_with_an_unusable_key_is_refused_before_anything_is_checked_with_it() {
    let phone = Phone::ed25519(1);
    let mut neutral = vec![0; 32];
    neutral[0] = 1;
    let key = |algorithm: v1::SignatureAlgorithm, bytes: Vec<u8>| {
        Some(v1::PublicKey { algorithm: algorithm.into(), key: bytes.into() })
    };
    let point = SigningKey::generate_es256().0.public_key().as_bytes().to_vec();
    assert_eq!(point.len(), Algorithm::Es256.public_key_length());
    for (what, bad) in [
        ("no key", None),
        ("no algorithm", key(v1::SignatureAlgorithm::Unspecified, vec![7; 32])),
        ("a key of small order", key(v1::SignatureAlgorithm::Ed25519, neutral)),
        ("a point as an Ed25519 key", key(v1::SignatureAlgorithm::Ed25519, point.clone())),
        ("half a point", key(v1::SignatureAlgorithm::Es256, point[..33].to_vec())),
        ("a point off the curve", key(v1::SignatureAlgorithm::Es256, [vec![4], vec![1; 64]].concat())),
    ] {
        let mut claim = phone.claim();
        claim.authenticator_key = bad;
        let error = VerifiedClaim::verify(BROKER_ID, &phone.sign_claim(&claim)).unwrap_err();
        assert!(matches!(error, Error::Field { .. }), "{what}: {error}");
    }
}

#[test]
fn what_is_no_claim_is_malformed() {
    let phone = Phone::ed25519(1);
    let good = phone.claims();
    let other_type =
        v1::Envelope { payload_type: countersign_envelope::payload_type::ANSWER.to_owned(), ..good.clone() };
    let garbage = v1::Envelope { payload: vec![0xff; 64].into(), ..good.clone() };
    let huge = v1::Envelope { payload: vec![0; limits::ENVELOPE_PAYLOAD_BYTES_MAX + 1].into(), ..good };
    for envelope in [other_type, garbage, huge] {
        assert!(matches!(VerifiedClaim::verify(BROKER_ID, &envelope), Err(Error::Malformed(_))));
    }
}

#[test]
fn an_authenticators_id_says_whose_it_is() {
    let phone = Phone::ed25519(1);
    assert_eq!(phone.id.account(), ACCOUNT);
    assert_eq!(phone.id.to_string().parse::<AuthenticatorId>(), Ok(phone.id));
    assert_eq!(given([opened()]).account().identity(), Some(&identity()));
}
