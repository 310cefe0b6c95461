//! The trial: only the person who sees the enrolling page makes a newly bound phone active.

use countersign_domain::{
    Account, Command, Event,
    account::{Effect, react},
    answer::VerifiedTrialAnswer,
    call::Error,
    command::Refusal,
    event::{EnrolmentEnd, RefusedBecause, RevokedBy},
    testing::Given,
};
use countersign_envelope::payload_type;
use countersign_proto::v1;

use crate::cast::{BROKER_ID, Phone, SHOP, SignIn, Story, at, given, hash, opened};

fn on_trial(phone: &Phone) -> Given<Account> {
    let mut history = vec![opened()];
    history.extend(phone.on_trial(at(10)));
    given(history)
}

/// The trial failed, and the key goes with it.
fn failed(phone: &Phone, reason: EnrolmentEnd, answer: Option<&v1::Envelope>) -> [Event; 2] {
    [
        Event::EnrolmentEnded { enrolment: phone.enrolment, reason, answer_hash: answer.map(hash) },
        Event::AuthenticatorRevoked { authenticator: phone.id, by: RevokedBy::Trial, was_active: false },
    ]
}

fn verify(story: &Given<Account>, envelope: &v1::Envelope) -> Result<VerifiedTrialAnswer, Error> {
    VerifiedTrialAnswer::verify(story.account(), BROKER_ID, envelope)
}

fn right_number(phone: &Phone) -> String {
    phone.trial_number().to_text()
}

#[test]
fn the_number_of_the_enrolling_page_makes_the_phone_active() {
    for phone in Phone::both() {
        let answer = phone.answers_trial(&right_number(&phone));
        let story =
            on_trial(&phone).at(at(60)).when_trial_answered(&answer).then(&[phone.activated(hash(&answer))]);
        assert_eq!(story.account().active_authenticators().count(), 1);
        assert_eq!(react(&phone.activated(hash(&answer))), [Effect::PushNotice(phone.id)]);
    }
}

#[test]
fn a_wrong_number_ends_the_enrolment_and_the_key() {
    for phone in Phone::both() {
        let answer = phone.answers_trial("77");
        let events = failed(&phone, EnrolmentEnd::WrongNumber, Some(&answer));
        let story = on_trial(&phone).when_trial_answered(&answer).then(&events);
        assert!(events.iter().all(|event| react(event).is_empty()), "nobody was told of it before");
        let second_try = phone.answers_trial(&right_number(&phone));
        assert_eq!(verify(&story, &second_try), Err(Error::Unauthentic));
    }
}

#[test]
fn a_number_must_be_typed_with_all_its_zeros() {
    let phone = Phone::ed25519(57);
    for typed in ["7", "007"] {
        let answer = phone.answers_trial(typed);
        on_trial(&phone).when_trial_answered(&answer).then(&failed(
            &phone,
            EnrolmentEnd::WrongNumber,
            Some(&answer),
        ));
    }
    let answer = phone.answers_trial("07");
    on_trial(&phone).when_trial_answered(&answer).then(&[phone.activated(hash(&answer))]);
}

#[test]
fn no_number_declines_the_enrolment() {
    let phone = Phone::ed25519(1);
    let answer = phone.answers_trial("");
    on_trial(&phone).when_trial_answered(&answer).then(&failed(
        &phone,
        EnrolmentEnd::Declined,
        Some(&answer),
    ));
}

#[test]
fn a_late_number_is_no_number() {
    let phone = Phone::ed25519(1);
    let answer = phone.answers_trial(&right_number(&phone));
    on_trial(&phone).at(at(610)).when_trial_answered(&answer).then(&failed(
        &phone,
        EnrolmentEnd::Expired,
        None,
    ));
    on_trial(&phone).at(at(610)).when(&Command::ExpireEnrolment(phone.enrolment)).then(&failed(
        &phone,
        EnrolmentEnd::Expired,
        None,
    ));
}

#[test]
fn the_same_trial_answer_again_changes_nothing_and_another_one_is_refused() {
    for phone in Phone::both() {
        let answer = phone.answers_trial(&right_number(&phone));
        let active = on_trial(&phone)
            .when_trial_answered(&answer)
            .then(&[phone.activated(hash(&answer))])
            .when_trial_answered(&answer)
            .then(&[]);
        active.when_trial_answered(&phone.answers_trial("")).then_refused(&Refusal::EnrolmentOver);
    }
}

#[test]
fn the_answer_that_failed_the_trial_gets_its_reply_again_although_the_key_is_refused_by_then() {
    for phone in Phone::both() {
        for (number, reason) in [("77", EnrolmentEnd::WrongNumber), ("", EnrolmentEnd::Declined)] {
            let answer = phone.answers_trial(number);
            let over = on_trial(&phone)
                .when_trial_answered(&answer)
                .then(&failed(&phone, reason, Some(&answer)))
                .when_trial_answered(&answer)
                .then(&[]);
            // Nothing else of that key is taken, the same bytes under another signature included.
            let mut forged = answer.clone();
            forged.signature = Phone::ed25519(9).answers_trial(number).signature;
            for other in [&forged, &phone.answers_trial(&right_number(&phone))] {
                assert_eq!(verify(&over, other), Err(Error::Unauthentic));
            }
        }
    }
}

#[test]
fn a_phone_on_trial_is_not_asked_about_sign_ins_and_cannot_answer_them() {
    let phone = Phone::ed25519(1);
    let it = SignIn::new(1, "42", at(100));
    on_trial(&phone).at(it.at).when(&it.command()).then(&[it.refused(RefusedBecause::Unreachable)]);

    let other = Phone::ed25519(2);
    let mut history = vec![opened()];
    history.extend(other.enrolled(at(5)));
    history.extend(phone.on_trial(at(10)));
    history.push(it.waits());
    given(history).when_answered(&phone.approves(&it, "42")).then_refused(&Refusal::UnknownAuthenticator);
}

#[test]
fn a_trial_answer_is_bound_to_its_phone_its_enrolment_and_its_challenge() {
    let (phone, other) = (Phone::ed25519(1), Phone::es256(2));
    let mut history = vec![opened()];
    history.extend(phone.on_trial(at(10)));
    history.extend(other.on_trial(at(10)));
    let story = given(history);
    let number = right_number(&phone);
    let sign = |answer: &v1::TrialAnswer| phone.sign(payload_type::TRIAL_ANSWER, answer);
    assert!(verify(&story, &phone.answers_trial(&number)).is_ok());

    let mut answer = phone.trial_answer(&number);
    answer.enrolment_id = other.enrolment.to_string();
    assert_eq!(verify(&story, &sign(&answer)), Err(Error::UnknownApproval), "another phone's enrolment");

    let mut answer = phone.trial_answer(&number);
    answer.challenge_hash = other.trial_answer(&number).challenge_hash;
    assert_eq!(verify(&story, &sign(&answer)), Err(Error::ChallengeMismatch), "another challenge");

    let mut answer = phone.trial_answer(&number);
    answer.authenticator_id = other.id.to_string();
    assert_eq!(verify(&story, &sign(&answer)), Err(Error::Unauthentic), "another id inside");

    let mut answer = phone.trial_answer(&number);
    answer.broker_id = "another-broker.example.org".to_owned();
    assert_eq!(verify(&story, &sign(&answer)), Err(Error::Unauthentic), "another broker");

    let outside = v1::Envelope { key_id: other.id.to_string(), ..phone.answers_trial(&number) };
    assert_eq!(verify(&story, &outside), Err(Error::Unauthentic), "another id outside");

    for (field, spoil) in [
        ("nonce", (|answer| answer.nonce.clear()) as fn(&mut v1::TrialAnswer)),
        ("number", |answer| answer.number = "4 2".to_owned()),
        ("number", |answer| answer.number = "1234567".to_owned()),
        ("enrolment_id", |answer| answer.enrolment_id = "none".to_owned()),
    ] {
        let mut answer = phone.trial_answer(&number);
        spoil(&mut answer);
        let error = verify(&story, &sign(&answer)).unwrap_err();
        assert!(matches!(&error, Error::Field { field: named, .. } if *named == field), "{error}");
    }
}

#[test]
fn an_answer_to_a_sign_in_is_no_answer_to_a_trial() {
    let phone = Phone::ed25519(1);
    let story = on_trial(&phone);
    let answer = phone.trial_answer(&right_number(&phone));
    // The right message, signed as something else; and then called what it is not.
    let mut envelope = phone.sign(payload_type::ANSWER, &answer);
    assert!(matches!(verify(&story, &envelope), Err(Error::Malformed(_))));
    payload_type::TRIAL_ANSWER.clone_into(&mut envelope.payload_type);
    assert_eq!(verify(&story, &envelope), Err(Error::Unauthentic));
}

#[test]
fn a_phone_that_leaves_or_is_revoked_during_its_trial_ends_the_enrolment() {
    let phone = Phone::ed25519(1);
    let over = Event::EnrolmentEnded {
        enrolment: phone.enrolment,
        reason: EnrolmentEnd::Revoked,
        answer_hash: None,
    };
    let by = RevokedBy::Unenrolment { counter: 1 };
    let ended = |by| Event::AuthenticatorRevoked { authenticator: phone.id, by, was_active: false };
    let (left, revoked) = (ended(by), ended(RevokedBy::RelyingParty(SHOP)));
    on_trial(&phone).when_unenrolled(&phone.unenrols(1)).then(&[left.clone(), over.clone()]);
    on_trial(&phone)
        .when(&Command::RevokeAuthenticator { authenticator: phone.id, relying_party: SHOP })
        .then(&[revoked.clone(), over.clone()]);
    assert!(
        [left, revoked, over].iter().all(|event| react(event).is_empty()),
        "nobody was told of it before"
    );
}
