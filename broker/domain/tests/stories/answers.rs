//! Answers: the order of checks, the one outcome, and what is answered to everything that comes too late, twice, from
//! somebody else, or changed.

use countersign_domain::{
    Account, AccountId, AuthenticatorId, Command,
    account::{Effect, react},
    answer::{Decision, VerifiedAnswer},
    approval::{Answered, Ending, Outcome},
    call::Error,
    command::Refusal,
    limits,
    testing::Given,
};
use countersign_envelope::{SigningKey, key::es256, payload_type};
use countersign_proto::v1;
use prost::Message;

use crate::cast::{BROKER_ID, Phone, SignIn, Story, account_with, at, given, hash, waiting};

fn it() -> SignIn {
    SignIn::new(1, "42", at(100))
}

fn waits(phone: &Phone) -> Given<Account> {
    given(waiting(&[phone], &[&it()])).at(at(105))
}

// ---- the ways to answer ----

#[test]
fn the_right_number_approves() {
    for phone in Phone::both() {
        let answer = phone.approves(&it(), "42");
        let story = waits(&phone).when_answered(&answer).then(&[it().approved(&phone, &answer)]);
        let expected = Ending {
            outcome: Outcome::Approved { user_verified: false },
            at: at(105),
            answer: Some(Answered { authenticator: phone.id, bound_at: at(10), answer_hash: hash(&answer) }),
        };
        assert_eq!(story.approval(&it()).ending, Some(expected));
        assert_eq!(story.account().authenticator(phone.id).unwrap().last_used_at, Some(at(105)));
        assert_eq!(
            react(&it().approved(&phone, &answer)),
            [Effect::ReplaceShown(it().id(), Some(phone.id))],
            "every phone but this takes it off"
        );
    }
}

#[test]
fn the_outcome_says_whether_the_phone_checked_the_person() {
    let phone = Phone::ed25519(1);
    let answer =
        phone.sign(payload_type::ANSWER, &v1::Answer { user_verified: true, ..phone.approval(&it(), "42") });
    let story = waits(&phone).when_answered(&answer).then_some(|events| events.len() == 1);
    assert_eq!(story.outcome(&it()), Some(Outcome::Approved { user_verified: true }));
}

#[test]
fn denying_needs_no_number_and_reporting_says_more() {
    for phone in Phone::both() {
        let answer = phone.denies(&it());
        let story = waits(&phone).when_answered(&answer).then(&[it().denied(&phone, &answer, false)]);
        assert_eq!(story.outcome(&it()), Some(Outcome::Denied));

        let answer = phone.reports(&it());
        let story = waits(&phone).when_answered(&answer).then(&[it().denied(&phone, &answer, true)]);
        assert_eq!(story.outcome(&it()), Some(Outcome::Reported));
    }
}

#[test]
fn a_wrong_number_ends_the_approval_and_the_right_one_comes_too_late() {
    for phone in Phone::both() {
        for wrong in ["24", "4", "042", "420", "000000"] {
            let answer = phone.approves(&it(), wrong);
            let story = waits(&phone).when_answered(&answer).then(&[it().number_wrong(&phone, &answer)]);
            assert_eq!(story.outcome(&it()), Some(Outcome::WrongNumber), "{wrong}");
            let ending = story.approval(&it()).ending.clone().unwrap();
            story.when_answered(&phone.approves(&it(), "42")).then_refused(&Refusal::ApprovalEnded(ending));
        }
    }
}

// ---- one outcome, for ever ----

#[test]
fn the_first_valid_answer_wins_across_phones() {
    let [one, two] = Phone::both();
    let story = given(waiting(&[&one, &two], &[&it()])).at(at(105));
    let (no, yes) = (two.denies(&it()), one.approves(&it(), "42"));
    let story = story.when_answered(&no).then(&[it().denied(&two, &no, false)]);
    let ending = story.approval(&it()).ending.clone().unwrap();
    assert_eq!(ending.answer.as_ref().unwrap().authenticator, two.id);
    story.when_answered(&yes).then_refused(&Refusal::ApprovalEnded(ending));
}

#[test]
fn the_same_answer_again_changes_nothing_and_is_not_refused() {
    for phone in Phone::both() {
        for answer in [phone.approves(&it(), "42"), phone.approves(&it(), "24"), phone.reports(&it())] {
            let once = waits(&phone).when_answered(&answer).then_some(|events| events.len() == 1);
            let outcome = once.outcome(&it());
            let later = once.at(at(4_000)).when_answered(&answer).then(&[]);
            assert_eq!(later.outcome(&it()), outcome);
        }
    }
}

#[test]
fn another_answer_of_the_same_phone_is_not_the_same_answer() {
    let phone = Phone::ed25519(1);
    let answer = phone.approves(&it(), "42");
    let anew = phone.sign(
        payload_type::ANSWER,
        &v1::Answer { nonce: vec![0xee; 16].into(), ..phone.approval(&it(), "42") },
    );
    let story = waits(&phone).when_answered(&answer).then(&[it().approved(&phone, &answer)]);
    let ending = story.approval(&it()).ending.clone().unwrap();
    story.when_answered(&anew).then_refused(&Refusal::ApprovalEnded(ending));
}

#[test]
fn a_late_answer_does_not_change_the_outcome() {
    for phone in Phone::both() {
        // Nobody has said yet that it is over: the answer does.
        let answer = phone.approves(&it(), "42");
        let story = waits(&phone).at(at(160)).when_answered(&answer).then(&[it().expired()]);
        let ending = Ending { outcome: Outcome::Expired, at: at(160), answer: None };
        assert_eq!(story.approval(&it()).ending.as_ref(), Some(&ending));
        story.when_answered(&answer).then_refused(&Refusal::ApprovalEnded(ending));

        // A millisecond before, it counts.
        let just_in_time = countersign_domain::Timestamp::from_millis(at(160).as_millis() - 1);
        let answer = phone.approves(&it(), "42");
        waits(&phone).at(just_in_time).when_answered(&answer).then(&[it().approved(&phone, &answer)]);
    }
}

#[test]
fn a_late_wrong_number_does_not_count() {
    let phone = Phone::ed25519(1);
    let mut story = given(account_with(&[&phone]));
    for n in 1..=5 {
        let it = SignIn::new(n, &format!("4{n}"), at(100 * u64::from(n)));
        story = story
            .at(it.at)
            .when(&it.command())
            .then(&[it.requested()])
            .at(it.expires_at())
            .when_answered(&phone.approves(&it, "99"))
            .then(&[it.expired()]);
    }
    assert_eq!(story.account().throttle().paused_until(at(600)), None);
}

#[test]
fn an_answer_to_what_has_ended_gets_the_ending_that_stands() {
    let phone = Phone::ed25519(1);
    let newer = SignIn::new(2, "17", at(104)).in_session_of(&it());
    let endings = [
        (it().expired(), Outcome::Expired),
        (it().cancelled(), Outcome::Cancelled),
        (it().superseded_by(&newer), Outcome::Superseded),
    ];
    for (event, outcome) in endings {
        let mut history = waiting(&[&phone], &[&it()]);
        history.push((at(104), event));
        let ending = Ending { outcome, at: at(104), answer: None };
        given(history)
            .when_answered(&phone.approves(&it(), "42"))
            .then_refused(&Refusal::ApprovalEnded(ending));
    }
}

#[test]
fn an_answer_to_one_sign_in_ends_no_other() {
    let phone = Phone::ed25519(1);
    let (victims, attackers) = (it(), SignIn::new(2, "17", at(101)));
    let story = || given(waiting(&[&phone], &[&victims, &attackers])).at(at(105));

    let right = phone.approves(&victims, "42");
    let after = story().when_answered(&right).then(&[victims.approved(&phone, &right)]);
    assert!(after.is_live(&attackers));

    // The victim takes the attacker's challenge for their own and types the number of their own page.
    let mistaken = phone.approves(&attackers, "42");
    let after = story().when_answered(&mistaken).then(&[attackers.number_wrong(&phone, &mistaken)]);
    assert!(after.is_live(&victims));
}

// ---- who may answer ----

#[test]
fn a_phone_that_became_active_later_is_not_asked() {
    let (early, late) = (Phone::ed25519(1), Phone::es256(2));
    let mut history = waiting(&[&early], &[&it()]);
    history.extend(late.on_trial(at(100)));
    history.push((at(101), late.activated([0; 32])));
    let story = given(history);
    assert!(story.account().authenticator(late.id).unwrap().is_active());
    story.when_answered(&late.approves(&it(), "42")).then_refused(&Refusal::UnknownAuthenticator);
}

#[test]
fn a_phone_that_became_active_in_the_same_millisecond_is_asked_only_if_it_was_first() {
    let (first, second) = (Phone::ed25519(1), Phone::es256(2));
    let answer = second.approves(&it(), "42");

    let mut activated_after = waiting(&[&first], &[&it()]);
    activated_after.extend(second.enrolled(it().at));
    given(activated_after).when_answered(&answer).then_refused(&Refusal::UnknownAuthenticator);

    let mut activated_before = account_with(&[&first]);
    activated_before.extend(second.enrolled(it().at));
    activated_before.push(it().addressed(2).waits());
    given(activated_before).when_answered(&answer).then(&[it().approved(&second, &answer)]);
}

#[test]
fn a_clock_that_goes_back_shuts_nobody_out() {
    let phone = Phone::ed25519(1);
    let mut history = vec![crate::cast::opened()];
    history.extend(phone.enrolled(at(101)));
    history.push(it().waits());
    let answer = phone.approves(&it(), "42");
    given(history).when_answered(&answer).then(&[it().approved(&phone, &answer)]);
}

#[test]
fn a_revoked_phone_is_nobody() {
    for phone in Phone::both() {
        let mut history = waiting(&[&phone], &[&it()]);
        history.push((at(104), phone.revoked()));
        let story = given(history);
        assert_eq!(story.refuses(&phone.approves(&it(), "42")), Error::Unauthentic);
    }
}

#[test]
fn a_phone_that_is_revoked_between_the_check_and_the_decision_is_nobody_either() {
    let phone = Phone::ed25519(1);
    let checked =
        VerifiedAnswer::verify(waits(&phone).account(), BROKER_ID, &phone.approves(&it(), "42")).unwrap();
    let mut history = waiting(&[&phone], &[&it()]);
    history.push((at(104), phone.revoked()));
    given(history).when(&Command::SubmitAnswer(checked)).then_refused(&Refusal::UnknownAuthenticator);
}

#[test]
fn a_phone_of_another_account_is_nobody() {
    let phone = Phone::ed25519(1);
    let stranger = AuthenticatorId::new(AccountId::from_bytes([0xee; 16]), [1; 8]);
    let mut answer = phone.approval(&it(), "42");
    answer.authenticator_id = stranger.to_string();
    let envelope = v1::Envelope { key_id: stranger.to_string(), ..phone.sign(payload_type::ANSWER, &answer) };
    assert_eq!(waits(&phone).refuses(&envelope), Error::Unauthentic);
}

#[test]
fn an_approval_of_another_account_is_unknown() {
    let phone = Phone::ed25519(1);
    let elsewhere = SignIn::new(7, "42", at(100));
    assert_eq!(waits(&phone).refuses(&phone.approves(&elsewhere, "42")), Error::UnknownApproval);
}

#[test]
fn an_approval_that_was_refused_at_once_has_nothing_to_answer() {
    let phone = Phone::ed25519(1);
    let mut history = account_with(&[&phone]);
    let because = countersign_domain::event::RefusedBecause::TooManyRequests;
    history.push((at(100), it().refused(because)));
    assert_eq!(given(history).refuses(&phone.approves(&it(), "42")), Error::UnknownApproval);
}

// ---- what is signed ----

#[test]
fn an_answer_with_the_number_changed_is_a_forgery() {
    // Somebody who has captured an answer tries the other ninety-nine numbers with it.
    for phone in Phone::both() {
        let story = waits(&phone);
        let captured = phone.approves(&it(), "24");
        for number in 0..100 {
            let answer = phone.approval(&it(), &format!("{number:02}"));
            let paired = v1::Envelope { payload: answer.encode_to_vec().into(), ..captured.clone() };
            if number != 24 {
                assert_eq!(story.refuses(&paired), Error::Unauthentic);
            }
        }
        assert!(story.is_live(&it()));
    }
}

#[test]
fn a_denial_cannot_be_turned_into_a_yes() {
    for phone in Phone::both() {
        let denial = phone.denies(&it());
        let approval = phone.approval(&it(), "42");
        let forged = v1::Envelope { payload: approval.encode_to_vec().into(), ..denial };
        assert_eq!(waits(&phone).refuses(&forged), Error::Unauthentic);
    }
}

#[test]
fn no_byte_of_an_answer_can_change() {
    for phone in Phone::both() {
        let story = waits(&phone);
        let good = phone.approves(&it(), "42");
        for at in 0..good.payload.len() {
            let mut payload = good.payload.to_vec();
            payload[at] ^= 1;
            let forged = v1::Envelope { payload: payload.into(), ..good.clone() };
            assert_eq!(story.refuses(&forged), Error::Unauthentic, "payload byte {at}");
        }
        for at in 0..good.signature.len() {
            let mut signature = good.signature.to_vec();
            signature[at] ^= 1;
            let forged = v1::Envelope { signature: signature.into(), ..good.clone() };
            assert_eq!(story.refuses(&forged), Error::Unauthentic, "signature byte {at}");
        }
        for signature in [vec![], vec![0; 64], vec![0xff; 64], [&good.signature[..], &[0]].concat()] {
            let forged = v1::Envelope { signature: signature.into(), ..good.clone() };
            assert_eq!(story.refuses(&forged), Error::Unauthentic);
        }
    }
}

#[test]
fn the_other_form_of_an_es256_signature_is_refused() {
    let phone = Phone::es256(2);
    let good = phone.approves(&it(), "42");
    let mut high: [u8; 64] = good.signature[..].try_into().unwrap();
    es256::negate_s(&mut high);
    let twin = v1::Envelope { signature: high.to_vec().into(), ..good.clone() };
    assert_eq!(waits(&phone).refuses(&twin), Error::Unauthentic);
    waits(&phone).when_answered(&good).then(&[it().approved(&phone, &good)]);
}

#[test]
fn a_key_of_the_other_algorithm_does_not_speak_for_the_phone() {
    let [ed25519, es256] = Phone::both();
    let impostors = [
        (&ed25519, Phone::with_key(SigningKey::generate_es256().0, 1)),
        (&es256, Phone::with_key(SigningKey::ed25519(&[2; 32]), 2)),
    ];
    for (phone, impostor) in impostors {
        assert_eq!(waits(phone).refuses(&impostor.approves(&it(), "42")), Error::Unauthentic);
    }
}

#[test]
fn the_id_outside_chooses_the_key_and_must_be_the_one_inside() {
    let [one, two] = Phone::both();
    let story = given(waiting(&[&one, &two], &[&it().addressed(2)])).at(at(105));

    // One phone's answer under the other's id outside: the wrong key.
    let outside = v1::Envelope { key_id: two.id.to_string(), ..one.approves(&it(), "42") };
    assert_eq!(story.refuses(&outside), Error::Unauthentic);

    // A phone that signs for another one.
    let mut answer = one.approval(&it(), "42");
    answer.authenticator_id = two.id.to_string();
    assert_eq!(story.refuses(&one.sign(payload_type::ANSWER, &answer)), Error::Unauthentic);

    answer.authenticator_id = String::new();
    assert_eq!(story.refuses(&one.sign(payload_type::ANSWER, &answer)), Error::Unauthentic);

    let no_id = v1::Envelope { key_id: "somebody".to_owned(), ..one.approves(&it(), "42") };
    assert!(matches!(story.refuses(&no_id), Error::Malformed(_)));
}

#[test]
fn an_answer_for_another_broker_is_refused() {
    for phone in Phone::both() {
        for broker in ["another-broker.example.org", "", "APPROVE.example.org"] {
            let mut answer = phone.approval(&it(), "42");
            broker.clone_into(&mut answer.broker_id);
            let envelope = phone.sign(payload_type::ANSWER, &answer);
            assert_eq!(waits(&phone).refuses(&envelope), Error::Unauthentic);
        }
    }
}

#[test]
fn an_answer_is_bound_to_the_challenge_that_was_issued() {
    let phone = Phone::ed25519(1);
    let other = SignIn::new(2, "17", at(101));
    let story = given(waiting(&[&phone], &[&it(), &other]));
    let mut answer = phone.approval(&it(), "42");
    // What an answer to the other challenge carries; and the same challenge as somebody else would have it signed.
    answer.challenge_hash = phone.approval(&other, "42").challenge_hash;
    assert_eq!(story.refuses(&phone.sign(payload_type::ANSWER, &answer)), Error::ChallengeMismatch);
    for spoilt in [vec![], vec![0; 32], answer.challenge_hash[..31].to_vec()] {
        answer.challenge_hash = spoilt.into();
        assert_eq!(story.refuses(&phone.sign(payload_type::ANSWER, &answer)), Error::ChallengeMismatch);
    }
}

#[test]
fn an_ended_approval_still_knows_its_challenge() {
    let phone = Phone::ed25519(1);
    let mut history = waiting(&[&phone], &[&it()]);
    history.push((at(104), it().cancelled()));
    let mut answer = phone.approval(&it(), "42");
    answer.challenge_hash = vec![0; 32].into();
    let envelope = phone.sign(payload_type::ANSWER, &answer);
    assert_eq!(given(history).refuses(&envelope), Error::ChallengeMismatch);
}

#[test]
fn what_is_signed_as_something_else_is_no_answer() {
    let phone = Phone::ed25519(1);
    let answer = phone.approval(&it(), "42");
    for other in
        [payload_type::CHALLENGE, payload_type::TRIAL_ANSWER, payload_type::UNENROL, "", "text/plain"]
    {
        let mut envelope = phone.sign(other, &answer);
        assert!(matches!(waits(&phone).refuses(&envelope), Error::Malformed(_)), "{other}");
        payload_type::ANSWER.clone_into(&mut envelope.payload_type);
        assert_eq!(waits(&phone).refuses(&envelope), Error::Unauthentic, "{other}");
    }
}

// ---- the order of checks ----

#[test]
fn the_signature_comes_before_everything_in_the_message() {
    // Each of these has something else wrong, too; only whose signature is good is told what.
    let phone = Phone::ed25519(1);
    let thief = Phone::with_key(SigningKey::ed25519(&[9; 32]), 1);
    let story = waits(&phone);
    type Spoil = fn(&mut v1::Answer);
    let spoilt: [(&str, Spoil); 8] = [
        ("nonce", |answer| answer.nonce.truncate(8)),
        ("decision", |answer| answer.decision = 0),
        ("decision", |answer| answer.decision = 9),
        ("number", |answer| answer.number = String::new()),
        ("number", |answer| answer.number = "4-".to_owned()),
        ("number", |answer| answer.number = "1234567".to_owned()),
        ("number", |answer| answer.decision = v1::Decision::Deny.into()),
        ("approval_id", |answer| answer.approval_id = "the last one".to_owned()),
    ];
    for (field, spoil) in spoilt {
        let mut answer = phone.approval(&it(), "42");
        spoil(&mut answer);
        let error = story.refuses(&phone.sign(payload_type::ANSWER, &answer));
        assert!(matches!(&error, Error::Field { field: named, .. } if *named == field), "{error}");
        assert_eq!(story.refuses(&thief.sign(payload_type::ANSWER, &answer)), Error::Unauthentic);
    }
    let garbage = |signer: &Phone| {
        let payload = vec![0xff; 40];
        v1::Envelope {
            signature: signer.key.sign(payload_type::ANSWER, &payload).to_vec().into(),
            payload: payload.into(),
            ..signer.approves(&it(), "42")
        }
    };
    assert!(matches!(story.refuses(&garbage(&phone)), Error::Malformed(_)));
    assert_eq!(story.refuses(&garbage(&thief)), Error::Unauthentic);
}

#[test]
fn an_unknown_phone_and_a_bad_signature_are_told_the_same() {
    let phone = Phone::ed25519(1);
    let unknown = Phone::ed25519(9);
    let mut badly_signed = phone.approves(&it(), "42");
    badly_signed.signature = vec![7; 64].into();
    let (one, other) =
        (waits(&phone).refuses(&unknown.approves(&it(), "42")), waits(&phone).refuses(&badly_signed));
    assert_eq!(one, other);
    assert_eq!(one.to_string(), other.to_string());
}

#[test]
fn the_time_comes_before_the_number() {
    let phone = Phone::ed25519(1);
    waits(&phone).at(at(160)).when_answered(&phone.approves(&it(), "99")).then(&[it().expired()]);
}

#[test]
fn a_payload_that_is_too_long_is_not_even_checked() {
    let phone = Phone::ed25519(1);
    let payload = vec![0; limits::ENVELOPE_PAYLOAD_BYTES_MAX + 1];
    let envelope = v1::Envelope {
        signature: phone.key.sign(payload_type::ANSWER, &payload).to_vec().into(),
        payload: payload.into(),
        ..phone.approves(&it(), "42")
    };
    assert!(matches!(waits(&phone).refuses(&envelope), Error::Malformed(_)));
}

#[test]
fn a_checked_answer_says_what_was_decided_and_nothing_else_does() {
    let phone = Phone::es256(2);
    let story = waits(&phone);
    let verify =
        |envelope: &v1::Envelope| VerifiedAnswer::verify(story.account(), BROKER_ID, envelope).unwrap();
    assert_eq!(verify(&phone.denies(&it())).decision(), &Decision::Deny);
    assert_eq!(verify(&phone.reports(&it())).decision(), &Decision::DenyAndReport);
    let approval = phone.approves(&it(), "42");
    let answer = verify(&approval);
    assert!(matches!(answer.decision(), Decision::Approve { user_verified: false, .. }));
    assert_eq!((answer.approval(), answer.authenticator()), (it().id(), phone.id));
    assert_eq!(answer.hash(), hash(&approval));
}
