//! Match numbers that never meet, wrong numbers that count, and the limits of what waits.

use std::time::Duration;

use countersign_domain::{
    Account, Aggregate, Command, Event, Timestamp, command::Refusal, event::RefusedBecause, limits,
    number::MatchNumber, policy::Policy, testing::Given,
};

use countersign_envelope::SigningKey;
use proptest::prelude::*;

use crate::cast::{BANK, Phone, SignIn, Story, account_with, at, given, waiting};

fn ready() -> Given<Account> {
    given(account_with(&[&Phone::ed25519(1)])).at(at(100))
}

fn taken(story: &Given<Account>, number: &str, now: Timestamp) -> bool {
    story.account().number_is_taken(SignIn::new(0, number, now).number, now)
}

// ---- numbers ----

#[test]
fn a_number_that_is_live_is_not_shown_again() {
    let it = SignIn::new(1, "42", at(100));
    let other = SignIn::new(2, "42", at(101)).of(BANK);
    let story = given(waiting(&[&Phone::ed25519(1)], &[&it]));
    assert!(taken(&story, "42", at(101)));
    assert!(!taken(&story, "43", at(101)));
    story.at(other.at).when(&other.command()).then_refused(&Refusal::NumberTaken);
}

#[test]
fn a_number_rests_for_ten_minutes_after_its_approval_ended() {
    let phone = Phone::ed25519(1);
    let it = SignIn::new(1, "42", at(100));
    let endings = [
        it.expired(),
        it.cancelled(),
        it.denied(&phone, &phone.denies(&it), false),
        it.number_wrong(&phone, &phone.approves(&it, "24")),
        it.superseded_by(&SignIn::new(9, "17", at(150))),
    ];
    for ending in endings {
        let mut history = waiting(&[&phone], &[&it]);
        history.push((at(150), ending));
        let again = |second| SignIn::new(2, "42", at(second));
        let still = again(150 + 599);
        given(history.clone()).at(still.at).when(&still.command()).then_refused(&Refusal::NumberTaken);
        let rested = again(150 + 600);
        given(history).at(rested.at).when(&rested.command()).then(&[rested.requested()]);
    }
}

#[test]
fn a_number_that_nobody_has_ended_yet_does_not_rest() {
    // Long after its time: the page may still show it.
    let it = SignIn::new(1, "42", at(100));
    let story = given(waiting(&[&Phone::ed25519(1)], &[&it]));
    assert!(taken(&story, "42", at(100_000)));
}

#[test]
fn a_number_rests_although_its_approval_is_forgotten() {
    let phone = Phone::ed25519(1);
    let it = SignIn::new(0, "42", at(100));
    let mut history = waiting(&[&phone], &[&it]);
    history.push((at(101), it.cancelled()));
    for n in 1..=600 {
        let another = SignIn::new(n, "17", at(102));
        history.extend([(at(102), another.requested()), (at(102), another.cancelled())]);
    }
    let story = given(history);
    assert!(story.account().approval(it.id()).is_none());
    assert!(taken(&story, "42", at(103)));
}

#[test]
fn a_trials_number_is_on_a_page_too() {
    let (phone, newcomer) = (Phone::ed25519(1), Phone::ed25519(2));
    let it = |second| SignIn::new(1, &newcomer.trial_number().to_text(), at(second));
    let mut on_trial = account_with(&[&phone]);
    on_trial.extend(newcomer.on_trial(at(100)));
    given(on_trial.clone()).at(at(110)).when(&it(110).command()).then_refused(&Refusal::NumberTaken);

    // When it is over, it rests as any other.
    for ending in [newcomer.activated([0; 32]), newcomer.failed()] {
        let mut ended = on_trial.clone();
        ended.push((at(120), ending));
        given(ended.clone()).at(at(719)).when(&it(719).command()).then_refused(&Refusal::NumberTaken);
        given(ended).at(at(720)).when(&it(720).command()).then_some(|events| events.len() == 1);
    }

    // And the other way round.
    let mut waits = waiting(&[&phone], &[&it(100)]);
    waits.push(newcomer.begun(at(101)));
    given(waits).when_claimed(&newcomer, &newcomer.claims()).then_refused(&Refusal::NumberTaken);
}

#[test]
fn however_many_trials_there_were_they_use_up_few_numbers() {
    let phone = Phone::ed25519(200);
    let mut history = account_with(&[&phone]);
    let newcomers: Vec<_> = (1..=60).map(Phone::ed25519).collect();
    for newcomer in &newcomers {
        history.extend(newcomer.on_trial(at(100)));
        history.push((at(100), newcomer.failed()));
    }
    let story = given(history);
    let rests = |newcomer: &Phone| story.account().number_is_taken(newcomer.trial_number(), at(101));
    let resting: Vec<_> = newcomers.iter().map(rests).collect();
    assert!(resting[50..].iter().all(|rests| *rests), "the last ten rest");
    assert!(resting[..50].iter().all(|rests| !rests));
    let it = SignIn::new(1, &newcomers[0].trial_number().to_text(), at(101));
    story.at(it.at).when(&it.command()).then(&[it.requested()]);
}

#[test]
fn numbers_of_other_lengths_do_not_meet() {
    let (two, three) = (SignIn::new(1, "42", at(100)), SignIn::new(2, "042", at(101)));
    given(waiting(&[&Phone::ed25519(1)], &[&two]))
        .at(three.at)
        .when(&three.command())
        .then(&[three.requested()]);
}

#[test]
fn when_half_of_all_numbers_are_taken_the_request_is_refused() {
    let phone = Phone::ed25519(1);
    let policy = |policy: &mut Policy| policy.requests_max = 1_000;
    let mut history = account_with(&[&phone]);
    for n in 0..49 {
        let it = SignIn::new(n, &format!("{n:02}"), at(800)).with_policy(policy);
        history.extend([it.waits(), (at(801), it.cancelled())]);
    }
    let fiftieth = SignIn::new(50, "50", at(802)).with_policy(policy);
    let next = SignIn::new(51, "51", at(803)).with_policy(policy);
    let story = given(history)
        .at(fiftieth.at)
        .when(&fiftieth.command())
        .then(&[fiftieth.requested()])
        .at(next.at)
        .when(&next.command())
        .then(&[next.refused(RefusedBecause::NumbersExhausted)]);
    // The longer numbers are another matter.
    let longer = SignIn::new(52, "051", at(804)).with_policy(policy);
    story.at(longer.at).when(&longer.command()).then(&[longer.requested()]);
}

#[test]
fn a_draw_always_ends_while_the_account_issues() {
    // The worst that is left: forty-nine of a hundred are taken.
    let number = |value| MatchNumber::new(value, 2).unwrap();
    let mut bits = 0..;
    let drawn = MatchNumber::draw(2, |one| one.value() < 49, || bits.next().unwrap());
    assert!(drawn == number(49), "the first that is free");
}

// ---- wrong numbers ----

/// A sign-in with a wrong number typed, at this moment.
fn mistyped(story: Given<Account>, n: u32, now: Timestamp) -> (Given<Account>, Option<Timestamp>) {
    let phone = Phone::ed25519(1);
    let it = SignIn::new(n, &format!("{n:02}"), now);
    let answer = phone.approves(&it, "99");
    let mut paused = None;
    let story = story.at(now).when(&it.command()).then(&[it.requested()]).when_answered(&answer).then_some(
        |events| {
            if let [_, Event::PushPaused { until }] = events {
                paused = Some(*until);
            }
            events[0] == it.number_wrong(&phone, &answer) && events.len() == 1 + usize::from(paused.is_some())
        },
    );
    (story, paused)
}

#[test]
fn three_wrong_numbers_within_a_quarter_of_an_hour_pause_push_for_a_quarter_of_an_hour() {
    let (story, paused) = mistyped(ready(), 1, at(100));
    assert_eq!(paused, None);
    let (story, paused) = mistyped(story, 2, at(500));
    assert_eq!(paused, None);
    let (story, paused) = mistyped(story, 3, at(999));
    assert_eq!(paused, Some(at(999 + 900)));

    let during = SignIn::new(4, "04", at(1_898));
    let after = SignIn::new(5, "05", at(1_899));
    story
        .at(during.at)
        .when(&during.command())
        .then(&[during.refused(RefusedBecause::PushPaused)])
        .at(after.at)
        .when(&after.command())
        .then(&[after.requested()]);
}

#[test]
fn wrong_numbers_further_apart_pause_nothing() {
    let (story, _) = mistyped(ready(), 1, at(100));
    let (story, _) = mistyped(story, 2, at(500));
    let (story, paused) = mistyped(story, 3, at(1_000));
    assert_eq!(paused, None, "the first is exactly a quarter of an hour old");
    let (_, paused) = mistyped(story, 4, at(1_001));
    assert_eq!(paused, Some(at(1_901)), "but there are three again");
}

#[test]
fn a_pause_answers_the_wrong_numbers_before_it_and_the_count_starts_anew() {
    // What was waiting when push was paused can still be mistyped.
    let phone = Phone::ed25519(1);
    let waits = [10, 11, 12].map(|n| SignIn::new(n, &n.to_string(), at(100)));
    let mut story = given(waiting(&[&phone], &waits.each_ref()));
    for n in 1..=3 {
        let paused;
        (story, paused) = mistyped(story, n, at(101));
        assert_eq!(paused.is_some(), n == 3);
    }
    for (n, it) in waits.iter().enumerate() {
        let answer = phone.approves(it, "99");
        let mut expected = vec![it.number_wrong(&phone, &answer)];
        if n == 2 {
            expected.push(Event::PushPaused { until: at(150 + 900) });
        }
        story = story.at(at(150)).when_answered(&answer).then(&expected);
    }
}

#[test]
fn what_waits_already_can_be_answered_during_a_pause() {
    let phone = Phone::ed25519(1);
    let it = SignIn::new(9, "42", at(99));
    let mut story = given(waiting(&[&phone], &[&it]));
    for n in 1..=3 {
        (story, _) = mistyped(story, n, at(100));
    }
    assert!(story.account().throttle().paused_until(at(101)).is_some());
    let answer = phone.approves(&it, "42");
    story.at(at(101)).when_answered(&answer).then(&[it.approved(&phone, &answer)]);
}

#[test]
fn a_pause_is_never_cut_short_by_another() {
    let paused = |until| (at(100), Event::PushPaused { until });
    let story = given([paused(at(1_000)), paused(at(200))]);
    assert_eq!(story.account().throttle().paused_until(at(500)), Some(at(1_000)));
}

#[test]
fn nobody_counts_wrong_numbers_without_the_phones_key() {
    let phone = Phone::ed25519(1);
    let it = SignIn::new(1, "42", at(100));
    let story = given(waiting(&[&phone], &[&it]));
    let thief = Phone::with_key(SigningKey::ed25519(&[9; 32]), 1);
    for _ in 0..10 {
        story.refuses(&thief.approves(&it, "99"));
    }
    let answer = phone.approves(&it, "42");
    let story = story.when_answered(&answer).then(&[it.approved(&phone, &answer)]);
    assert_eq!(story.account().throttle().paused_until(at(100)), None);
}

#[test]
fn a_policy_counts_by_its_own_figures() {
    let strict = |policy: &mut Policy| {
        policy.wrong_numbers_max = 1;
        policy.push_pause = Duration::from_secs(60);
    };
    let phone = Phone::ed25519(1);
    let it = SignIn::new(1, "42", at(100)).with_policy(strict);
    let answer = phone.approves(&it, "24");
    given(waiting(&[&phone], &[&it]))
        .at(at(110))
        .when_answered(&answer)
        .then(&[it.number_wrong(&phone, &answer), Event::PushPaused { until: at(170) }]);
}

// ---- limits ----

#[test]
fn five_sign_ins_wait_and_no_more_until_one_has_ended() {
    let phone = Phone::ed25519(1);
    let five = [1, 2, 3, 4, 5].map(|n| SignIn::new(n, &format!("{n:02}"), at(100)));
    let sixth = SignIn::new(6, "06", at(110));
    let full = || given(waiting(&[&phone], &five.each_ref())).at(sixth.at);
    full().when(&sixth.command()).then(&[sixth.refused(RefusedBecause::TooManyWaiting)]);

    // One that takes another's place makes no more of them.
    let instead = sixth.clone().in_session_of(&five[2]);
    full().when(&instead.command()).then(&[five[2].superseded_by(&instead), instead.requested()]);

    full()
        .when(&five[0].cancel())
        .then(&[five[0].cancelled()])
        .when(&sixth.command())
        .then(&[sixth.requested()]);

    // What is overdue does not wait, whether or not anybody has said so.
    let later = SignIn::new(6, "06", at(160));
    full().at(later.at).when(&later.command()).then_some(|events| {
        events.len() == 6
            && events.iter().filter(|one| matches!(one, Event::ApprovalExpired { .. })).count() == 5
    });
}

#[test]
fn twenty_requests_in_five_minutes_and_no_more() {
    let mut story = ready();
    for n in 0..20 {
        let it = SignIn::new(n, &format!("{n:02}"), at(100 + u64::from(n)));
        story = story.at(it.at).when(&it.command()).then(&[it.requested()]);
        story = story.when(&it.cancel()).then(&[it.cancelled()]);
    }
    let one_more = SignIn::new(20, "20", at(399));
    let again = SignIn::new(21, "21", at(400));
    let then = SignIn::new(22, "22", at(400));
    story
        .at(one_more.at)
        .when(&one_more.command())
        .then(&[one_more.refused(RefusedBecause::TooManyRequests)])
        .at(again.at)
        .when(&again.command())
        .then(&[again.requested()])
        .when(&then.command())
        .then(&[then.refused(RefusedBecause::TooManyRequests)]);
}

#[test]
fn ten_refusals_in_five_minutes_are_recorded_and_no_more() {
    let mut story = given([crate::cast::opened()]);
    for n in 0..10u32 {
        let it = SignIn::new(n, "42", at(100 + u64::from(n)));
        story = story.at(it.at).when(&it.command()).then(&[it.refused(RefusedBecause::Unreachable)]);
    }
    for (second, left) in [(109, 291), (399, 1)] {
        let it = SignIn::new(10, "42", at(second));
        let retry_after = Duration::from_secs(left);
        Given::state(story.account().clone(), it.at)
            .when(&it.command())
            .then_refused(&Refusal::TooManyRequests { retry_after });
    }
    let later = SignIn::new(11, "42", at(400));
    story.at(later.at).when(&later.command()).then(&[later.refused(RefusedBecause::Unreachable)]);
}

#[test]
fn whatever_the_refusal_it_is_recorded_only_so_often_and_what_can_be_issued_is() {
    let phone = Phone::ed25519(1);
    let many = |policy: &mut Policy| policy.requests_max = 1_000;
    let it = SignIn::new(500, "99", at(130)).with_policy(many);
    let refusals = || {
        (0..10).map(|n| (at(129), SignIn::new(600 + n, "42", at(129)).refused(RefusedBecause::PushPaused)))
    };
    let with = |more: Vec<(Timestamp, Event)>| {
        let mut history = account_with(&[&phone]);
        history.extend(more);
        history.extend(refusals());
        given(history).at(it.at)
    };
    let ask = |n: u32| SignIn::new(n, &format!("{:02}", n % 100), at(128));
    let situations = [
        (RefusedBecause::Unreachable, vec![(at(128), phone.revoked())]),
        (RefusedBecause::PushPaused, vec![(at(128), Event::PushPaused { until: at(1_000) })]),
        (RefusedBecause::TooManyWaiting, (0..5).map(|n| ask(n).waits()).collect()),
        (
            RefusedBecause::NumbersExhausted,
            (0..50).flat_map(|n| [ask(n).waits(), (at(128), ask(n).cancelled())]).collect(),
        ),
    ];
    for (because, more) in situations {
        let mut first = account_with(&[&phone]);
        first.extend(more.clone());
        given(first).at(it.at).when(&it.command()).then(&[it.refused(because)]);
        let retry_after = Duration::from_secs(299);
        with(more).when(&it.command()).then_refused(&Refusal::TooManyRequests { retry_after });
    }
    with(vec![]).when(&it.command()).then(&[it.requested()]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    /// As 3,000 requests in nine seconds, and as slower ones that go on for long.
    #[test]
    fn however_many_requests_come_few_leave_something_behind(
        pauses in proptest::collection::vec(prop_oneof![8 => 0..10u64, 1 => 0..60_000u64], 100..400),
    ) {
        let phone = Phone::ed25519(1);
        let mut account = given(account_with(&[&phone])).account().clone();
        account.evolve(&Event::PushPaused { until: at(100_000) }, at(100));
        let (mut now, mut recorded) = (at(100), Vec::new());
        for (n, pause) in (0..).zip(pauses) {
            now = now.plus(Duration::from_millis(pause));
            let it = SignIn::new(n, "42", now);
            let command = Command::RequestApproval { request: it.request.clone(), question: None };
            match account.decide(&command, now) {
                Ok(events) => {
                    prop_assert_eq!(&events, &[it.refused(RefusedBecause::PushPaused)]);
                    account.evolve(&events[0], now);
                    recorded.push(now);
                }
                Err(Refusal::TooManyRequests { retry_after }) => {
                    // It says the truth: then one is recorded again, and not before.
                    let then = now.plus(retry_after);
                    prop_assert!(account.decide(&command, then).is_ok());
                    prop_assert!(account.decide(&command, then.minus(Duration::from_millis(1))).is_err());
                }
                Err(other) => panic!("{other:?}"),
            }
            let lately = recorded.iter().filter(|at| now < at.plus(limits::REFUSALS_WINDOW)).count();
            prop_assert!(lately <= limits::REFUSALS_RECORDED_MAX);
        }
    }
}

#[test]
fn requests_that_were_refused_do_not_count_as_requests() {
    let mut history = account_with(&[&Phone::ed25519(1)]);
    for n in 0..100 {
        history.push((at(100), SignIn::new(n, "17", at(100)).refused(RefusedBecause::PushPaused)));
    }
    let it = SignIn::new(200, "42", at(101));
    given(history).at(it.at).when(&it.command()).then(&[it.requested()]);
}

#[test]
fn only_so_many_ended_approvals_are_remembered_and_those_that_wait_all_are() {
    let phone = Phone::ed25519(1);
    let waits = SignIn::new(9_999, "42", at(100));
    let mut history = waiting(&[&phone], &[&waits]);
    for n in 0..1_000 {
        let another = SignIn::new(n, "17", at(101));
        history.extend([(at(101), another.requested()), (at(101), another.cancelled())]);
    }
    let story = given(history);
    assert!(story.is_live(&waits));
    let known = |n| story.account().approval(SignIn::new(n, "17", at(101)).id()).is_some();
    assert_eq!((0..1_000).filter(|n| known(*n)).count(), limits::APPROVALS_ENDED_KEPT_MAX + 1);
    assert!(known(999) && !known(0), "the oldest go first");
}

#[test]
fn whoever_is_refused_again_and_again_makes_the_account_forget_nothing_else() {
    let phone = Phone::ed25519(1);
    let it = SignIn::new(9_999, "42", at(100));
    let mut history = waiting(&[&phone], &[&it]);
    history.push((at(101), it.cancelled()));
    for n in 0..1_000 {
        history.push((at(101), SignIn::new(n, "17", at(101)).refused(RefusedBecause::TooManyRequests)));
    }
    let story = given(history);
    assert!(story.account().approval(it.id()).is_some());
    let known = |n| story.account().approval(SignIn::new(n, "17", at(101)).id()).is_some();
    assert_eq!((0..1_000).filter(|n| known(*n)).count(), limits::APPROVALS_REFUSED_KEPT_MAX + 1);
}

#[test]
fn an_approval_that_is_forgotten_is_unknown_and_the_log_is_asked() {
    let phone = Phone::ed25519(1);
    let it = SignIn::new(0, "42", at(100));
    let mut history = waiting(&[&phone], &[&it]);
    history.push((at(101), it.cancelled()));
    let day = limits::APPROVALS_ENDED_KEPT.as_secs();
    let later = SignIn::new(1, "17", at(101 + day));
    history.push(later.waits());
    given(history).when(&Command::ExpireApproval(it.id())).then_refused(&Refusal::UnknownApproval);
}
