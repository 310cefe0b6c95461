//! Enrolled phones between sign-ins: reads, counters that must rise, push targets that die, and the end.

use std::time::Duration;

use countersign_domain::{
    Account, Aggregate, Command, Event, Timestamp,
    account::{Effect, react},
    authenticator::State,
    call::{Error, VerifiedRead, VerifiedReplacePushTarget, VerifiedUnenrol, claimed_authenticator},
    command::Refusal,
    event::{PushServiceKind, PushTarget, RevokedBy},
    limits,
    testing::Given,
};
use countersign_envelope::payload_type;
use countersign_proto::v1;
use proptest::prelude::*;
use prost::Message;

use crate::cast::{BROKER_ID, Phone, SHOP, SignIn, Story, account_with, at, fcm, given, waiting};

fn with(phone: &Phone) -> Given<Account> {
    given(account_with(&[phone])).at(at(100))
}

fn moved(phone: &Phone, token: &str, counter: u64) -> Event {
    let push_target = PushTarget::recorded(PushServiceKind::Fcm, token);
    Event::PushTargetReplaced { authenticator: phone.id, push_target, counter }
}

fn left(phone: &Phone, counter: u64) -> Event {
    let by = RevokedBy::Unenrolment { counter };
    Event::AuthenticatorRevoked { authenticator: phone.id, by, was_active: true }
}

// ---- counters ----

#[test]
fn a_phones_changes_carry_a_counter_that_must_rise() {
    for phone in Phone::both() {
        let story = with(&phone)
            .when_moved(&phone.moves_to("second", 1))
            .then(&[moved(&phone, "second", 1)])
            .when_moved(&phone.moves_to("third", 7))
            .then(&[moved(&phone, "third", 7)]);
        assert_eq!(story.account().authenticator(phone.id).unwrap().push_target.token(), "third");
        let so_far = |story: &Given<Account>| Given::state(story.account().clone(), at(100));
        for old in [0, 1, 6, 7] {
            so_far(&story)
                .when_moved(&phone.moves_to("stolen", old))
                .then_refused(&Refusal::CounterNotRising { last: 7 });
            so_far(&story)
                .when_unenrolled(&phone.unenrols(old))
                .then_refused(&Refusal::CounterNotRising { last: 7 });
        }
        story.when_unenrolled(&phone.unenrols(8)).then(&[left(&phone, 8)]);
    }
}

#[test]
fn the_first_change_counts_from_one() {
    let phone = Phone::ed25519(1);
    with(&phone)
        .when_moved(&phone.moves_to("second", 0))
        .then_refused(&Refusal::CounterNotRising { last: 0 });
}

#[test]
fn a_phone_on_trial_may_give_its_new_push_target() {
    let phone = Phone::ed25519(1);
    let mut history = vec![crate::cast::opened()];
    history.extend(phone.on_trial(at(10)));
    given(history).when_moved(&phone.moves_to("second", 1)).then(&[moved(&phone, "second", 1)]);
}

#[test]
fn a_captured_change_is_good_for_nobody_else_and_nothing_else() {
    let [one, two] = Phone::both();
    let story = given(account_with(&[&one, &two]));
    let verify = |envelope: &v1::Envelope| {
        VerifiedReplacePushTarget::verify(story.account(), BROKER_ID, envelope).map(|_| ())
    };
    let good = one.moves_to("second", 1);
    assert_eq!(verify(&good), Ok(()));
    assert_eq!(verify(&v1::Envelope { key_id: two.id.to_string(), ..good.clone() }), Err(Error::Unauthentic));
    let elsewhere = VerifiedReplacePushTarget::verify(story.account(), "elsewhere", &good);
    assert_eq!(elsewhere, Err(Error::Unauthentic));

    // The counter or the target changed inside.
    let mut call = v1::ReplacePushTargetCall::decode(good.payload.clone()).unwrap();
    call.counter = 2;
    let forged = v1::Envelope { payload: call.encode_to_vec().into(), ..good.clone() };
    assert_eq!(verify(&forged), Err(Error::Unauthentic));

    // The two changes are laid out alike; their payload types keep them apart.
    let as_unenrol = v1::Envelope { payload_type: payload_type::UNENROL.to_owned(), ..good };
    assert_eq!(VerifiedUnenrol::verify(story.account(), BROKER_ID, &as_unenrol), Err(Error::Unauthentic));

    // Signed for another phone by this one.
    call.authenticator_id = two.id.to_string();
    assert_eq!(verify(&one.sign(payload_type::REPLACE_PUSH_TARGET, &call)), Err(Error::Unauthentic));

    call.authenticator_id = one.id.to_string();
    call.push_target = Some(fcm("not\u{7f}visible"));
    let error = verify(&one.sign(payload_type::REPLACE_PUSH_TARGET, &call)).unwrap_err();
    assert!(matches!(error, Error::Field { field: "push_target", .. }));
}

// ---- as often as a phone has a new target ----

#[test]
fn ten_new_targets_in_an_hour_and_no_more() {
    let (phone, other) = (Phone::ed25519(1), Phone::ed25519(2));
    let mut story = given(account_with(&[&phone, &other]));
    for n in 1..=10u64 {
        let call = phone.moves_to(&format!("target-{n}"), n);
        story = story.at(at(100 * n)).when_moved(&call).then_some(|events| events.len() == 1);
    }
    let so_far = |story: &Given<Account>, second| Given::state(story.account().clone(), at(second));
    let one_more = phone.moves_to("one-more", 11);
    let retry_after = Duration::from_secs(1);
    so_far(&story, 3_699)
        .when_moved(&one_more)
        .then_refused(&Refusal::TooManyPushTargets { most: 10, retry_after });
    // The tenth again, the same target as before, another phone, and leaving are no new targets.
    so_far(&story, 1_001).when_moved(&phone.moves_to("target-10", 10)).then(&[]);
    so_far(&story, 1_001).when_moved(&phone.moves_to("target-10", 11)).then(&[]);
    so_far(&story, 1_001).when_moved(&other.moves_to("second", 1)).then(&[moved(&other, "second", 1)]);
    so_far(&story, 1_001).when_unenrolled(&phone.unenrols(11)).then(&[left(&phone, 11)]);
    so_far(&story, 3_700).when_moved(&one_more).then(&[moved(&phone, "one-more", 11)]);
}

#[test]
fn the_target_that_the_phone_has_already_is_no_event() {
    let phone = Phone::ed25519(1);
    let token = phone.push_target().token().to_owned();
    let mut story = with(&phone);
    for _ in 0..100 {
        story = story.when_moved(&phone.moves_to(&token, 1)).then(&[]);
    }
    let story = story.when_moved(&phone.moves_to("second", 1)).then(&[moved(&phone, "second", 1)]);
    story.when_moved(&phone.moves_to(&token, 1)).then_refused(&Refusal::CounterNotRising { last: 1 });
}

#[test]
fn a_change_that_is_overtaken_comes_too_late_although_the_later_one_changed_nothing() {
    let phone = Phone::ed25519(1);
    let token = phone.push_target().token().to_owned();
    // Signed first, and held back by somebody on the way.
    let overtaken = phone.moves_to("second", 1);
    with(&phone)
        .when_moved(&phone.moves_to(&token, 2))
        .then(&[moved(&phone, &token, 2)])
        .when_moved(&phone.moves_to(&token, 2))
        .then(&[])
        .when_moved(&overtaken)
        .then_refused(&Refusal::CounterNotRising { last: 2 });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_change_comes_after_a_later_one_nor_more_of_them_than_may(
        calls in proptest::collection::vec((0..3u8, 0..4u64, any::<bool>(), 0..600u64), 1..60),
    ) {
        let phone = Phone::ed25519(1);
        let mut account = with(&phone).account().clone();
        let (mut now, mut answered, mut recorded) = (at(100), 0, Vec::new());
        for (target, ahead, replayed, wait) in calls {
            now = now.plus(Duration::from_secs(wait));
            let counter = if replayed { answered.max(3) - ahead.min(3) } else { answered + ahead };
            let envelope = phone.moves_to(&format!("target-{target}"), counter);
            let call = VerifiedReplacePushTarget::verify(&account, BROKER_ID, &envelope).unwrap();
            let Ok(events) = account.decide(&Command::ReplacePushTarget(call), now) else { continue };
            for event in &events {
                let Event::PushTargetReplaced { counter, .. } = event else { panic!("{event:?}") };
                prop_assert!(*counter >= answered, "a later change had been answered");
                recorded.push((now, *counter));
                account.evolve(event, now);
            }
            answered = answered.max(counter);
            let hour = |at: &Timestamp| now < at.plus(Duration::from_secs(3_600));
            prop_assert!(recorded.iter().filter(|(at, _)| hour(at)).count() <= 10);
            prop_assert!(recorded.is_sorted_by(|(_, one), (_, next)| one < next));
        }
    }
}

// ---- reads ----

#[test]
fn a_read_says_who_reads_what_under_which_nonce() {
    for phone in Phone::both() {
        let story = with(&phone);
        let list = v1::ListWaitingCall {
            broker_id: BROKER_ID.to_owned(),
            authenticator_id: phone.id.to_string(),
            nonce: b"a nonce of the server".as_slice().into(),
        };
        let envelope = phone.sign(payload_type::LIST_WAITING, &list);
        let read = VerifiedRead::list_waiting(story.account(), BROKER_ID, &envelope).unwrap();
        assert_eq!((read.authenticator(), read.nonce()), (phone.id, &b"a nonce of the server"[..]));

        let fetch = v1::FetchChallengeCall {
            broker_id: BROKER_ID.to_owned(),
            authenticator_id: phone.id.to_string(),
            nonce: list.nonce.clone(),
            id: "an id".to_owned(),
        };
        let signed = phone.sign(payload_type::FETCH_CHALLENGE, &fetch);
        let read = VerifiedRead::fetch_challenge(story.account(), BROKER_ID, &signed).unwrap();
        assert_eq!((read.authenticator(), read.id()), (phone.id, "an id"));

        // One is not the other, nor good at another broker.
        assert!(VerifiedRead::fetch_challenge(story.account(), BROKER_ID, &envelope).is_err());
        assert_eq!(
            VerifiedRead::list_waiting(story.account(), "elsewhere", &envelope),
            Err(Error::Unauthentic)
        );
        let mut history = account_with(&[&phone]);
        history.push((at(50), phone.revoked()));
        assert_eq!(
            VerifiedRead::list_waiting(given(history).account(), BROKER_ID, &envelope),
            Err(Error::Unauthentic)
        );
    }
}

#[test]
fn the_claimed_authenticator_is_only_claimed() {
    let phone = Phone::ed25519(1);
    assert_eq!(claimed_authenticator(&phone.unenrols(1)), Ok(phone.id));
    let unsigned = v1::Envelope { key_id: phone.id.to_string(), ..Default::default() };
    assert_eq!(claimed_authenticator(&unsigned), Ok(phone.id));
    let nobody = v1::Envelope { key_id: "nobody".to_owned(), ..Default::default() };
    assert!(matches!(claimed_authenticator(&nobody), Err(Error::Malformed(_))));
}

// ---- dead targets ----

fn dies(phone: &Phone, target: &PushTarget, dead_since: Option<Timestamp>) -> Command {
    Command::RecordDeadTarget {
        authenticator: phone.id,
        target_hash: target.hash(),
        dead_since,
        reason: "Unregistered".to_owned(),
    }
}

fn died(phone: &Phone, target: &PushTarget) -> Event {
    Event::PushTargetDied {
        authenticator: phone.id,
        target_hash: target.hash(),
        reason: "Unregistered".to_owned(),
    }
}

#[test]
fn a_dead_target_is_remembered_until_the_phone_gives_another() {
    let phone = Phone::ed25519(1);
    let target = phone.push_target();
    let story = with(&phone)
        .when(&dies(&phone, &target, Some(at(90))))
        .then(&[died(&phone, &target)])
        .when(&dies(&phone, &target, Some(at(90))))
        .then(&[]);
    assert_eq!(story.account().authenticator(phone.id).unwrap().live_push_target(), None);
    let story = story.when_moved(&phone.moves_to("second", 1)).then(&[moved(&phone, "second", 1)]);
    let live = story.account().authenticator(phone.id).unwrap().live_push_target().cloned();
    assert_eq!(live.unwrap().token(), "second");
}

#[test]
fn what_is_said_of_an_older_target_does_not_touch_the_newer() {
    let phone = Phone::ed25519(1);
    with(&phone)
        .when_moved(&phone.moves_to("second", 1))
        .then(&[moved(&phone, "second", 1)])
        .when(&dies(&phone, &phone.push_target(), None))
        .then(&[])
        .when(&dies(&phone, &phone.push_target(), Some(at(1_000))))
        .then(&[]);
}

#[test]
fn the_same_target_given_anew_when_it_is_known_to_be_dead_is_another_registration() {
    let phone = Phone::ed25519(1);
    let again = phone.push_target();
    let story = || {
        with(&phone)
            .when(&dies(&phone, &again, Some(at(90))))
            .then(&[died(&phone, &again)])
            .when_moved(&phone.moves_to(again.token(), 1))
            .then(&[moved(&phone, again.token(), 1)])
    };
    // It was given at second 100.
    story().when(&dies(&phone, &again, Some(at(99)))).then(&[]);
    story().when(&dies(&phone, &again, Some(at(100)))).then(&[died(&phone, &again)]);
    story().when(&dies(&phone, &again, Some(at(101)))).then(&[died(&phone, &again)]);
    // FCM does not say since when.
    story().when(&dies(&phone, &again, None)).then(&[died(&phone, &again)]);
}

#[test]
fn a_dead_target_of_a_revoked_phone_is_of_no_interest_and_of_an_unknown_one_unknown() {
    let phone = Phone::ed25519(1);
    let mut history = account_with(&[&phone]);
    history.push((at(50), phone.revoked()));
    given(history).when(&dies(&phone, &phone.push_target(), None)).then(&[]);
    let stranger = Phone::ed25519(9);
    with(&phone)
        .when(&dies(&stranger, &stranger.push_target(), None))
        .then_refused(&Refusal::UnknownAuthenticator);
}

#[test]
fn a_push_target_is_checked_and_its_hash_names_the_service_too() {
    use v1::push_target::Service;
    let parse = |service| PushTarget::parse(Some(&v1::PushTarget { service: Some(service) }));
    let token = "0123456789abcdef".repeat(4);
    let apns = parse(Service::ApnsDeviceToken(token.clone())).unwrap();
    let fcm = parse(Service::FcmRegistrationToken(token.clone())).unwrap();
    assert_ne!(apns.hash(), fcm.hash());
    assert_eq!(apns.service(), PushServiceKind::Apns);
    for bad in [&token[1..], &token.to_uppercase(), &format!("{token}{}", "g"), &"ab".repeat(101)] {
        assert!(parse(Service::ApnsDeviceToken(bad.to_owned())).is_err(), "{bad}");
    }
    assert!(parse(Service::FcmRegistrationToken("x".repeat(4_096))).is_ok());
    for bad in [String::new(), "x".repeat(4_097), "a b".to_owned(), "ä".to_owned()] {
        assert!(parse(Service::FcmRegistrationToken(bad.clone())).is_err(), "{bad}");
    }
    assert!(PushTarget::parse(None).is_err());
}

// ---- the end ----

#[test]
fn a_revoked_phone_is_refused_and_the_others_are_told() {
    let [one, two] = Phone::both();
    let revoke = Command::RevokeAuthenticator { authenticator: one.id, relying_party: SHOP };
    assert_eq!(react(&one.revoked()), [Effect::PushNotice(one.id)]);
    let story = given(account_with(&[&one, &two]))
        .at(at(100))
        .when(&revoke)
        .then(&[one.revoked()])
        .when(&revoke)
        .then(&[]);
    assert_eq!(
        story.account().authenticator(one.id).unwrap().state,
        State::Revoked { at: at(100), was_active: true }
    );
    assert_eq!(story.account().active_authenticators().map(|one| one.id).collect::<Vec<_>>(), [two.id]);
    assert_eq!(
        VerifiedUnenrol::verify(story.account(), BROKER_ID, &one.unenrols(1)),
        Err(Error::Unauthentic)
    );
}

#[test]
fn a_phone_is_asked_about_what_it_was_active_for_as_long_as_it_is() {
    let [early, late] = Phone::both();
    let it = SignIn::new(1, "42", at(100));
    let mut history = waiting(&[&early], &[&it]);
    history.extend(late.enrolled(at(110)));
    let may_answer = |history: Vec<_>, phone: &Phone| {
        let story = given(history);
        let account = story.account();
        account.authenticator(phone.id).unwrap().may_answer(account.approval(it.id()).unwrap())
    };
    assert!(may_answer(history.clone(), &early));
    assert!(!may_answer(history.clone(), &late));
    history.push((at(120), early.revoked()));
    assert!(!may_answer(history, &early));
}

#[test]
fn an_authenticator_that_nobody_enrolled_is_unknown() {
    let stranger = Phone::ed25519(9);
    with(&Phone::ed25519(1))
        .when(&Command::RevokeAuthenticator { authenticator: stranger.id, relying_party: SHOP })
        .then_refused(&Refusal::UnknownAuthenticator);
}

#[test]
fn a_phone_that_left_cannot_leave_again_nor_change_anything() {
    let phone = Phone::ed25519(1);
    let story = with(&phone).when_unenrolled(&phone.unenrols(1)).then(&[left(&phone, 1)]);
    for envelope in [phone.unenrols(2), phone.unenrols(1)] {
        assert_eq!(VerifiedUnenrol::verify(story.account(), BROKER_ID, &envelope), Err(Error::Unauthentic));
    }
    // Checked before, decided after.
    let checked = VerifiedUnenrol::verify(with(&phone).account(), BROKER_ID, &phone.unenrols(2)).unwrap();
    story.when(&Command::Unenrol(checked)).then_refused(&Refusal::UnknownAuthenticator);
}

#[test]
fn only_so_many_revoked_phones_are_listed_and_those_that_are_bound_all_are() {
    let keeper = Phone::ed25519(200);
    let mut history = account_with(&[&keeper]);
    for number in 1..=40 {
        let phone = Phone::ed25519(number);
        history.extend(phone.enrolled(at(50)));
        history.push((at(50), phone.revoked()));
    }
    let story = given(history);
    assert_eq!(story.account().authenticators().count(), 1 + limits::AUTHENTICATORS_REVOKED_KEPT);
    assert!(story.account().authenticator(keeper.id).is_some());
    assert!(story.account().authenticator(Phone::ed25519(40).id).is_some(), "the oldest go first");
}
