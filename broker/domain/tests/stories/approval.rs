//! Sign-in attempts: what is issued, what is refused, what takes another's place, and how they end without an answer.

use countersign_domain::{
    Account, Command,
    account::{Effect, react},
    approval::Outcome,
    command::Refusal,
    event::RefusedBecause,
    limits,
    testing::Given,
};
use countersign_envelope::{commitment, payload_type};
use countersign_proto::v1;
use prost::Message;

use crate::cast::{BANK, BROKER, Phone, SignIn, Story, account_with, at, given, opened, waiting};

fn ready() -> Given<Account> {
    given(account_with(&[&Phone::ed25519(1)])).at(at(100))
}

// ---- asking ----

#[test]
fn a_request_is_issued_for_the_active_phones_and_pushed_and_will_expire() {
    let phones = Phone::both();
    let it = SignIn::new(1, "42", at(100)).addressed(2);
    assert_eq!(
        react(&it.requested()),
        [Effect::PushChallenge(it.id()), Effect::ExpireApproval(it.id(), at(160))]
    );
    let story =
        given(account_with(&[&phones[0], &phones[1]])).at(it.at).when(&it.command()).then(&[it.requested()]);
    assert!(story.is_live(&it));
}

#[test]
fn the_challenge_commits_to_the_number_and_does_not_give_it() {
    let it = SignIn::new(1, "042137", at(100));
    let question = it.question();
    let signed = &question.challenge;
    assert_eq!(
        BROKER.public_key().verify(payload_type::CHALLENGE, &signed.payload, &signed.signature),
        Ok(())
    );
    let challenge = v1::Challenge::decode(signed.payload.clone()).unwrap();
    let opened = commitment(&challenge.approval_id, question.salt.expose(), "042137");
    assert_eq!(challenge.commitment, opened[..]);
    assert_eq!(challenge.digits, 6);
    assert_eq!(challenge.session_binding, it.request.session_binding);
    assert_eq!(challenge.issued_at.unwrap().seconds, 1_800_000_100);
    assert_eq!(challenge.expires_at.unwrap().seconds, 1_800_000_160);
    let holds = |needle: &[u8]| signed.payload.windows(needle.len()).any(|window| window == needle);
    assert!(holds(b"Shop and Sons") && holds(b"192.0.2.7"), "what the person must see");
    assert!(!holds(b"042137") && !holds(&question.salt.expose()[..]));
}

#[test]
fn an_account_that_nobody_enrolled_is_unknown() {
    let it = SignIn::new(1, "42", at(100));
    given([]).when(&it.command()).then_refused(&Refusal::UnknownAccount);
}

#[test]
fn an_account_without_an_active_phone_is_unreachable() {
    let phone = Phone::ed25519(1);
    let it = SignIn::new(1, "42", at(100));
    let request = Command::RequestApproval { request: it.request.clone(), question: None };
    let refused = it.refused(RefusedBecause::Unreachable);
    assert!(react(&refused).is_empty(), "nobody to push to");

    let mut left = account_with(&[&phone]);
    left.push((at(50), phone.revoked()));
    for history in [vec![opened()], vec![opened(), phone.begun(at(10))], left] {
        let story = given(history).at(it.at).when(&request).then(std::slice::from_ref(&refused));
        assert_eq!(story.outcome(&it), Some(Outcome::Refused(RefusedBecause::Unreachable)));
    }
}

#[test]
fn a_phone_with_a_dead_push_target_is_still_asked_since_it_can_look_for_itself() {
    let phone = Phone::ed25519(1);
    let it = SignIn::new(1, "42", at(100));
    let mut history = account_with(&[&phone]);
    history.push((
        at(50),
        countersign_domain::Event::PushTargetDied {
            authenticator: phone.id,
            target_hash: phone.push_target().hash(),
            reason: "UNREGISTERED".to_owned(),
        },
    ));
    given(history).at(it.at).when(&it.command()).then(&[it.requested()]);
}

#[test]
fn a_request_without_a_number_is_sent_back_for_one() {
    let it = SignIn::new(1, "42", at(100));
    ready()
        .when(&Command::RequestApproval { request: it.request.clone(), question: None })
        .then_refused(&Refusal::NumberTaken);
}

// ---- asking again ----

#[test]
fn the_same_key_and_body_is_the_same_approval_whatever_became_of_it() {
    let phone = Phone::ed25519(1);
    let it = SignIn::new(1, "42", at(100)).keyed("key", "body");
    let again = SignIn::new(2, "17", at(101)).keyed("key", "body");
    let answer = phone.denies(&it);
    let ended = ready()
        .when(&it.command())
        .then(&[it.requested()])
        .when(&again.command())
        .then(&[])
        .when_answered(&answer)
        .then(&[it.denied(&phone, &answer, false)]);
    let story = ended.at(it.after(3_600)).when(&again.command()).then(&[]);
    assert!(story.account().approval(again.id()).is_none());
    let key_hash = it.request.idempotency.as_ref().unwrap().key_hash;
    assert_eq!(story.account().by_idempotency_key(&key_hash).unwrap().0, it.id());
}

#[test]
fn the_same_key_with_another_body_is_refused() {
    let it = SignIn::new(1, "42", at(100)).keyed("key", "body");
    let other = SignIn::new(2, "17", at(101)).keyed("key", "another body");
    given(waiting(&[&Phone::ed25519(1)], &[&it]))
        .when(&other.command())
        .then_refused(&Refusal::IdempotencyKeyReused);
}

#[test]
fn a_refused_request_sent_again_stays_refused() {
    let it = SignIn::new(1, "42", at(100)).keyed("key", "body");
    let again = SignIn::new(2, "17", at(101)).keyed("key", "body");
    given([opened()])
        .at(it.at)
        .when(&it.command())
        .then(&[it.refused(RefusedBecause::Unreachable)])
        .when(&again.command())
        .then(&[]);
}

#[test]
fn an_idempotency_key_is_remembered_for_a_day() {
    let it = SignIn::new(1, "42", at(100)).keyed("key", "body");
    let again = |at| SignIn::new(2, "17", at).keyed("key", "body");
    let day = limits::IDEMPOTENCY_KEPT.as_secs();
    let phone = Phone::ed25519(1);
    let mut history = waiting(&[&phone], &[&it]);
    history.push((at(160), it.expired()));
    // Something else happens at the end of the day.
    let within = SignIn::new(3, "18", at(100 + day - 1));
    given(history.clone())
        .at(within.at)
        .when(&within.command())
        .then(&[within.requested()])
        .when(&again(within.at).command())
        .then(&[]);
    let later = SignIn::new(3, "18", at(100 + day));
    given(history)
        .at(later.at)
        .when(&later.command())
        .then(&[later.requested()])
        .when(&again(later.at).command())
        .then(&[again(later.at).requested()]);
}

#[test]
fn a_request_sent_again_is_the_same_approval_although_that_is_forgotten() {
    let it = SignIn::new(0, "42", at(100)).keyed("key", "body");
    let again = SignIn::new(999_999, "17", at(105)).keyed("key", "body");
    let other = SignIn::new(999_999, "17", at(105)).keyed("key", "another body");
    let mut history = waiting(&[&Phone::ed25519(1)], &[&it]);
    history.push((at(101), it.cancelled()));
    for n in 1..=1_000 {
        let refused = SignIn::new(n, "17", at(102)).keyed(&n.to_string(), "body");
        history.push((at(102), refused.refused(RefusedBecause::PushPaused)));
    }
    for n in 1_001..=1_300 {
        let one = SignIn::new(n, "17", at(103));
        history.extend([(at(103), one.requested()), (at(103), one.cancelled())]);
    }
    let story = given(history).at(at(105));
    assert!(story.account().approval(it.id()).is_none(), "it is forgotten");
    let key_hash = it.request.idempotency.as_ref().unwrap().key_hash;
    assert_eq!(story.account().by_idempotency_key(&key_hash).unwrap().0, it.id());
    let so_far = Given::state(story.account().clone(), at(105));
    so_far.when(&other.command()).then_refused(&Refusal::IdempotencyKeyReused);
    story.when(&again.command()).then(&[]);
}

#[test]
fn where_more_keys_come_than_are_remembered_a_new_one_is_refused_and_none_is_forgotten() {
    let key = |n: usize| SignIn::new(u32::try_from(n).unwrap(), "42", at(200)).keyed(&n.to_string(), "body");
    let most = limits::IDEMPOTENCY_KEYS_MAX;
    let mut history = account_with(&[&Phone::ed25519(1)]);
    history.extend((0..most).map(|n| (at(100), key(n).refused(RefusedBecause::TooManyRequests))));
    let story = given(history);
    let so_far = |second| Given::state(story.account().clone(), at(second));
    let retry_after = std::time::Duration::from_secs(24 * 60 * 60 - 100);
    so_far(200).when(&key(most).command()).then_refused(&Refusal::TooManyRequests { retry_after });
    for known in [0, most - 1] {
        so_far(200).when(&key(known).command()).then(&[]);
    }
    let without = SignIn::new(1_000_000, "42", at(200));
    so_far(200).when(&without.command()).then(&[without.requested()]);
    let mut tomorrow = key(most);
    tomorrow.at = at(100 + 24 * 60 * 60);
    so_far(100 + 24 * 60 * 60).when(&tomorrow.command()).then(&[tomorrow.requested()]);
}

#[test]
fn a_key_from_ahead_of_the_clock_is_remembered_for_a_day_from_now() {
    let hour = 60 * 60;
    let it = SignIn::new(1, "42", at(100 + hour)).keyed("key", "body");
    let again = |second| SignIn::new(2, "17", at(second)).keyed("key", "body");
    let mut history = waiting(&[&Phone::ed25519(1)], &[&it]);
    history.push((at(101 + hour), it.cancelled()));
    // The clock is set right.
    let next = |n, second| (at(second), SignIn::new(n, "18", at(second)).refused(RefusedBecause::PushPaused));
    history.push(next(3, 100));
    let later = |second| {
        let mut history = history.clone();
        history.push(next(4, second));
        given(history).at(at(second)).when(&again(second).command())
    };
    later(99 + 24 * hour).then(&[]);
    later(100 + 24 * hour).then(&[again(100 + 24 * hour).requested()]);
}

#[test]
fn a_request_that_is_decided_twice_is_one_approval() {
    // As when a node does not know whether what it decided was stored.
    let it = SignIn::new(1, "42", at(100));
    let redrawn = SignIn::new(1, "43", at(100));
    let story = ready().when(&it.command()).then(&[it.requested()]).when(&redrawn.command()).then(&[]);
    assert_eq!(story.account().live_approvals().count(), 1);
}

// ---- beside one another ----

#[test]
fn a_newer_request_of_the_same_session_takes_the_olders_place() {
    let phone = Phone::ed25519(1);
    let older = SignIn::new(1, "42", at(100));
    let newer = SignIn::new(2, "17", at(110)).in_session_of(&older);
    let story = given(waiting(&[&phone], &[&older]))
        .at(newer.at)
        .when(&newer.command())
        .then(&[older.superseded_by(&newer), newer.requested()]);
    assert_eq!(story.outcome(&older), Some(Outcome::Superseded));
    assert!(story.is_live(&newer));
    assert_eq!(
        react(&older.superseded_by(&newer)),
        [Effect::ReplaceShown(older.id(), None)],
        "every phone takes it off"
    );
}

#[test]
fn requests_of_other_sessions_and_other_relying_parties_stand_beside_it() {
    let phone = Phone::ed25519(1);
    let first = SignIn::new(1, "42", at(100));
    let other_session = SignIn::new(2, "17", at(101));
    // Another relying party that happens on, or steals, the same value supersedes nothing.
    let other_party = SignIn::new(3, "18", at(102)).of(BANK).in_session_of(&first);
    let story = given(waiting(&[&phone], &[&first]))
        .at(other_session.at)
        .when(&other_session.command())
        .then(&[other_session.requested()])
        .at(other_party.at)
        .when(&other_party.command())
        .then(&[other_party.requested()]);
    assert!([&first, &other_session, &other_party].into_iter().all(|one| story.is_live(one)));
}

#[test]
fn a_refused_request_takes_nobodys_place() {
    let older = SignIn::new(1, "42", at(100));
    let newer =
        SignIn::new(2, "17", at(110)).in_session_of(&older).with_policy(|policy| policy.requests_max = 1);
    let story = given(waiting(&[&Phone::ed25519(1)], &[&older]))
        .at(newer.at)
        .when(&newer.command())
        .then(&[newer.refused(RefusedBecause::TooManyRequests)]);
    assert!(story.is_live(&older));
}

#[test]
fn what_is_overdue_is_expired_before_anything_takes_its_place() {
    let older = SignIn::new(1, "42", at(100));
    let other = SignIn::new(2, "17", at(110));
    let newer = SignIn::new(3, "18", at(165)).in_session_of(&older);
    given(waiting(&[&Phone::ed25519(1)], &[&older, &other]))
        .at(newer.at)
        .when(&newer.command())
        .then(&[older.expired(), newer.requested()]);
}

// ---- ends without an answer ----

#[test]
fn an_approval_expires_at_its_end_and_not_before() {
    let it = SignIn::new(1, "42", at(100));
    let story = given(waiting(&[&Phone::ed25519(1)], &[&it]))
        .at(at(159))
        .when(&it.expire())
        .then(&[])
        .at(at(160))
        .when(&it.expire())
        .then(&[it.expired()])
        .when(&it.expire())
        .then(&[]);
    assert_eq!(story.outcome(&it), Some(Outcome::Expired));
    assert_eq!(react(&it.expired()), [Effect::ReplaceShown(it.id(), None)]);
}

#[test]
fn a_withdrawn_approval_is_over_and_withdrawing_it_again_changes_nothing() {
    let it = SignIn::new(1, "42", at(100));
    let story = given(waiting(&[&Phone::ed25519(1)], &[&it]))
        .when(&it.cancel())
        .then(&[it.cancelled()])
        .when(&it.cancel())
        .then(&[])
        .at(at(500))
        .when(&it.expire())
        .then(&[]);
    assert_eq!(story.outcome(&it), Some(Outcome::Cancelled));
}

#[test]
fn another_relying_partys_approval_does_not_exist() {
    let it = SignIn::new(1, "42", at(100));
    let story = given(waiting(&[&Phone::ed25519(1)], &[&it]));
    story
        .when(&Command::CancelApproval { approval: it.id(), relying_party: BANK })
        .then_refused(&Refusal::UnknownApproval);
}

#[test]
fn withdrawing_after_the_ending_changes_nothing() {
    let phone = Phone::ed25519(1);
    let it = SignIn::new(1, "42", at(100));
    let answer = phone.approves(&it, "42");
    let story = given(waiting(&[&phone], &[&it]))
        .when_answered(&answer)
        .then(&[it.approved(&phone, &answer)])
        .when(&it.cancel())
        .then(&[]);
    assert_eq!(story.outcome(&it), Some(Outcome::Approved { user_verified: false }));
}

#[test]
fn nobody_withdraws_what_the_clock_has_ended() {
    let it = SignIn::new(1, "42", at(100));
    given(waiting(&[&Phone::ed25519(1)], &[&it])).at(at(160)).when(&it.cancel()).then(&[it.expired()]);
}

#[test]
fn an_approval_that_nobody_asked_for_is_unknown() {
    let it = SignIn::new(1, "42", at(100));
    ready().when(&it.cancel()).then_refused(&Refusal::UnknownApproval);
    ready().when(&it.expire()).then_refused(&Refusal::UnknownApproval);
}

#[test]
fn the_challenge_is_dropped_when_nobody_is_sent_it_any_more() {
    let it = SignIn::new(1, "42", at(100));
    let story = given(waiting(&[&Phone::ed25519(1)], &[&it]));
    assert!(story.approval(&it).issued.as_ref().unwrap().question.is_some());
    let story = story.when(&it.cancel()).then(&[it.cancelled()]);
    assert!(story.approval(&it).issued.as_ref().unwrap().question.is_none());
}
