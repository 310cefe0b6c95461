//! The broker's clock can be wrong, and be set right: what was ahead of it locks nothing; and what was over stays over.

use std::time::Duration;

use countersign_domain::{
    Account, Aggregate, Command, Event, Timestamp,
    answer::VerifiedAnswer,
    call::VerifiedReplacePushTarget,
    command::Refusal,
    event::{EnrolmentEnd, RefusedBecause},
    limits,
    testing::Given,
};
use proptest::prelude::*;

use crate::cast::{BROKER_ID, Phone, SignIn, Story, account_with, at, given, opened, waiting};

const HOUR: u64 = 60 * 60;

/// So many sign-ins, one a second from then on, each withdrawn at once.
fn asked(history: &mut Vec<(Timestamp, Event)>, numbers: std::ops::Range<u32>, from: u64) {
    for (second, n) in (from..).zip(numbers) {
        let it = SignIn::new(n, &format!("{n:02}"), at(second));
        history.extend([it.waits(), (it.at, it.cancelled())]);
    }
}

fn state(story: &Given<Account>, second: u64) -> Given<Account> {
    Given::state(story.account().clone(), at(second))
}

// ---- limits ----

#[test]
fn requests_from_ahead_of_the_clock_do_not_count_and_are_forgotten() {
    let mut history = account_with(&[&Phone::ed25519(1)]);
    asked(&mut history, 0..20, 100 + HOUR);
    let it = SignIn::new(20, "20", at(130));
    let story = given(history).at(it.at).when(&it.command()).then(&[it.requested()]);
    let story = story.when(&it.cancel()).then(&[it.cancelled()]);
    // When that hour comes they do not come back.
    let then = SignIn::new(21, "31", at(130 + HOUR));
    state(&story, 130 + HOUR).when(&then.command()).then(&[then.requested()]);
    // And from now on it is as ever.
    let mut history = account_with(&[&Phone::ed25519(1)]);
    asked(&mut history, 0..20, 100 + HOUR);
    asked(&mut history, 20..40, 130);
    let one_more = SignIn::new(40, "40", at(200));
    given(history)
        .at(one_more.at)
        .when(&one_more.command())
        .then(&[one_more.refused(RefusedBecause::TooManyRequests)]);
}

#[test]
fn a_clock_that_steps_back_a_little_forgets_nothing() {
    let mut history = account_with(&[&Phone::ed25519(1)]);
    asked(&mut history, 0..20, 160);
    let it = SignIn::new(20, "20", at(120));
    given(history).at(it.at).when(&it.command()).then(&[it.refused(RefusedBecause::TooManyRequests)]);
}

#[test]
fn refusals_from_ahead_of_the_clock_do_not_count() {
    let mut history = vec![opened()];
    for n in 0..10 {
        let it = SignIn::new(n, "42", at(100 + HOUR));
        history.push((it.at, it.refused(RefusedBecause::Unreachable)));
    }
    let it = SignIn::new(20, "42", at(100));
    given(history).at(it.at).when(&it.command()).then(&[it.refused(RefusedBecause::Unreachable)]);
}

#[test]
fn a_pause_from_ahead_of_the_clock_is_over_and_one_lasts_no_longer_than_its_length() {
    let paused = |second| {
        let mut history = account_with(&[&Phone::ed25519(1)]);
        history.push((at(second), Event::PushPaused { until: at(second + 900) }));
        given(history)
    };
    let it = SignIn::new(1, "42", at(100));
    paused(161).at(it.at).when(&it.command()).then(&[it.requested()]);
    assert_eq!(paused(161).account().throttle().paused_until(at(100)), None);
    // A little ahead is no other time.
    let still = paused(160);
    assert_eq!(still.account().throttle().paused_until(at(100)), Some(at(1_000)));
    still.at(it.at).when(&it.command()).then(&[it.refused(RefusedBecause::PushPaused)]);
    // One that comes after it is no shorter for the one that was ahead.
    let mut history = account_with(&[&Phone::ed25519(1)]);
    history.push((at(161), Event::PushPaused { until: at(161 + 900) }));
    history.push((at(100), Event::PushPaused { until: at(160) }));
    assert_eq!(given(history).account().throttle().paused_until(at(159)), Some(at(160)));
}

#[test]
fn wrong_numbers_from_ahead_of_the_clock_do_not_count() {
    let phone = Phone::ed25519(1);
    let mut history = account_with(&[&phone]);
    for n in 1..=2 {
        let it = SignIn::new(n, &format!("{n:02}"), at(100 + HOUR));
        history.extend([it.waits(), (it.at, it.number_wrong(&phone, &phone.approves(&it, "99")))]);
    }
    let it = SignIn::new(3, "03", at(100));
    history.push(it.waits());
    let answer = phone.approves(&it, "99");
    given(history).at(at(101)).when_answered(&answer).then(&[it.number_wrong(&phone, &answer)]);
}

#[test]
fn new_push_targets_from_ahead_of_the_clock_do_not_count() {
    let phone = Phone::ed25519(1);
    let mut history = account_with(&[&phone]);
    for counter in 1..=10 {
        let moved =
            Event::PushTargetReplaced { authenticator: phone.id, push_target: phone.push_target(), counter };
        history.push((at(100 + HOUR), moved));
    }
    given(history).at(at(100)).when_moved(&phone.moves_to("next", 11)).then_some(|events| events.len() == 1);
}

#[test]
fn a_number_from_ahead_of_the_clock_rests_for_ten_minutes_from_the_next_event() {
    let it = SignIn::new(1, "42", at(100 + HOUR));
    let mut history = waiting(&[&Phone::ed25519(1)], &[&it]);
    history.push((it.at, it.cancelled()));
    let rests =
        |history: &[_], second| given(history.to_vec()).account().number_is_taken(it.number, at(second));
    assert!(rests(&history, 100), "the page that showed it may still be open");
    let next = SignIn::new(2, "43", at(100));
    history.push(next.waits());
    assert!(rests(&history, 699));
    assert!(!rests(&history, 700));
}

// ---- what waits ----

#[test]
fn what_was_asked_for_ahead_of_the_clock_is_over_at_the_next_touch() {
    let phone = Phone::ed25519(1);
    let it = SignIn::new(1, "42", at(161));
    let story = given(waiting(&[&phone], &[&it]));
    assert!(story.approval(&it).is_overdue(at(100)));
    state(&story, 100).when_answered(&phone.approves(&it, "42")).then(&[it.expired()]);
    state(&story, 100).when(&it.expire()).then(&[it.expired()]);
    state(&story, 100).when(&it.cancel()).then(&[it.expired()]);
    // It holds nobody up, and takes nobody's number for long.
    let five = [1, 2, 3, 4, 5].map(|n| SignIn::new(n, &format!("{n:02}"), at(100 + HOUR)));
    let next = SignIn::new(6, "06", at(100));
    let mut expected: Vec<_> = five.iter().map(SignIn::expired).collect();
    expected.push(next.requested());
    given(waiting(&[&phone], &five.each_ref())).at(next.at).when(&next.command()).then(&expected);
}

#[test]
fn a_clock_that_steps_back_a_little_ends_nothing_and_lengthens_a_life_by_no_more() {
    let phone = Phone::ed25519(1);
    let it = SignIn::new(1, "42", at(160));
    let answer = phone.approves(&it, "42");
    let story = given(waiting(&[&phone], &[&it]));
    state(&story, 100).when_answered(&answer).then(&[it.approved(&phone, &answer)]);
    // It was to live until second 220: by this clock that is two minutes from now, and it is over then.
    state(&story, 219).when_answered(&answer).then(&[it.approved(&phone, &answer)]);
    state(&story, 220).when_answered(&answer).then(&[it.expired()]);
}

#[test]
fn what_has_ended_stays_ended_when_the_clock_is_set_back() {
    let phone = Phone::ed25519(1);
    let it = SignIn::new(1, "42", at(100));
    let mut history = waiting(&[&phone], &[&it]);
    history.push((at(160), it.expired()));
    let story = given(history);
    let ending = story.approval(&it).ending.clone().unwrap();
    story.at(at(110)).when_answered(&phone.approves(&it, "42")).then_refused(&Refusal::ApprovalEnded(ending));
}

#[test]
fn what_was_over_when_anything_happened_stays_over_when_the_clock_is_set_back() {
    let (phone, newcomer) = (Phone::ed25519(1), Phone::ed25519(2));
    let it = SignIn::new(1, "42", at(100));
    // Nobody came to end it; but the account has seen that time.
    let seen = |second| {
        let mut history = waiting(&[&phone], &[&it]);
        history.push(newcomer.begun(at(110)));
        let moved = Event::PushTargetReplaced {
            authenticator: phone.id,
            push_target: phone.push_target(),
            counter: 1,
        };
        history.push((at(second), moved));
        given(history)
    };
    let answer = phone.approves(&it, "42");
    seen(160).at(at(120)).when_answered(&answer).then(&[it.expired()]);
    seen(159).at(at(120)).when_answered(&answer).then(&[it.approved(&phone, &answer)]);
    let ended = Event::EnrolmentEnded {
        enrolment: newcomer.enrolment,
        reason: EnrolmentEnd::Expired,
        answer_hash: None,
    };
    seen(710).at(at(120)).when_claimed(&newcomer, &newcomer.claims()).then(&[ended]);
    seen(709).at(at(120)).when_claimed(&newcomer, &newcomer.claims()).then_some(|events| events.len() == 2);
}

#[test]
fn enrolments_that_began_ahead_of_the_clock_are_over() {
    let begun = [1, 2, 3].map(Phone::ed25519);
    let mut history = vec![opened()];
    history.extend(begun.iter().map(|phone| phone.begun(at(100 + HOUR))));
    let story = given(history);
    let over = |phone: &Phone| Event::EnrolmentEnded {
        enrolment: phone.enrolment,
        reason: EnrolmentEnd::Expired,
        answer_hash: None,
    };
    let one = &begun[0];
    state(&story, 100).when_claimed(one, &one.claims()).then(&[over(one)]);
    state(&story, 100).when(&Command::ExpireEnrolment(one.enrolment)).then(&[over(one)]);
    let next = Phone::ed25519(4);
    let mut expected: Vec<_> = begun.iter().map(over).collect();
    expected.push(next.begun(at(100)).1);
    state(&story, 100).when(&next.begin()).then(&expected);
}

// ---- whatever the clock did ----

/// One thing that happens while the clock is wrong.
#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Ask,
    Mistype,
    Cancel,
    Begin,
    Move,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..40_000u64).prop_map(Step::Wait),
        8 => Just(Step::Ask),
        4 => Just(Step::Mistype),
        2 => Just(Step::Cancel),
        2 => Just(Step::Begin),
        4 => Just(Step::Move),
    ]
}

struct World {
    account: Account,
    phone: Phone,
    now: Timestamp,
    asked: Vec<SignIn>,
    begun: u8,
    moved: u64,
}

impl World {
    fn decide(&mut self, command: &Command) -> Result<usize, Refusal> {
        let events = self.account.decide(command, self.now)?;
        for event in &events {
            self.account.evolve(event, self.now);
        }
        Ok(events.len())
    }

    /// Of a thousand numbers: that those of before rest is another matter.
    fn ask(&mut self) -> Result<bool, Refusal> {
        let n = u32::try_from(self.asked.len()).expect("a few");
        let it = SignIn::new(n, &format!("{:03}", n % 1_000), self.now);
        self.asked.push(it.clone());
        self.decide(&it.command())?;
        Ok(self.account.approval(it.id()).is_some_and(|approval| approval.issued.is_some()))
    }

    fn take(&mut self, step: &Step) {
        let last = self.asked.last().cloned();
        match (step, last) {
            (Step::Wait(millis), _) => self.now = self.now.plus(Duration::from_millis(*millis)),
            (Step::Ask, _) => {
                let _ = self.ask();
            }
            (Step::Mistype, Some(it)) => {
                let answer = self.phone.approves(&it, "9999");
                if let Ok(answer) = VerifiedAnswer::verify(&self.account, BROKER_ID, &answer) {
                    let _ = self.decide(&Command::SubmitAnswer(answer));
                }
            }
            (Step::Cancel, Some(it)) => {
                let _ = self.decide(&it.cancel());
            }
            (Step::Begin, _) => {
                let _ = self.begin();
            }
            (Step::Move, _) => {
                let _ = self.move_on();
            }
            (Step::Mistype | Step::Cancel, None) => {}
        }
    }

    fn begin(&mut self) -> Result<usize, Refusal> {
        self.begun += 1;
        let command = Phone::ed25519(self.begun).begin();
        self.decide(&command)
    }

    fn move_on(&mut self) -> Result<usize, Refusal> {
        self.moved += 1;
        let envelope = self.phone.moves_to(&format!("target-{}", self.moved), self.moved);
        let call =
            VerifiedReplacePushTarget::verify(&self.account, BROKER_ID, &envelope).expect("it is genuine");
        self.decide(&Command::ReplacePushTarget(call))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_clock_that_was_ahead_and_is_set_right_locks_nobody_out(
        steps in proptest::collection::vec(step(), 1..120),
        ahead in prop_oneof![61..4_000u64, Just(365 * 24 * HOUR)],
    ) {
        let phone = Phone::ed25519(200);
        let account = given(account_with(&[&phone])).account().clone();
        let right = at(1_000);
        let now = right.plus(Duration::from_secs(ahead));
        let mut world = World { account, phone, now, asked: Vec::new(), begun: 0, moved: 0 };
        for step in &steps {
            world.take(step);
        }
        // The clock is set right. Everything is taken at once, and goes on being taken, that hour included.
        world.now = right;
        prop_assert_eq!(world.begin().map(|events| events > 0), Ok(true));
        prop_assert_eq!(world.move_on(), Ok(1));
        for _ in 0..300 {
            prop_assert_eq!(world.ask(), Ok(true), "at {:?}", world.now);
            let it = world.asked.last().unwrap().clone();
            prop_assert_eq!(world.decide(&it.cancel()), Ok(1));
            world.now = world.now.plus(limits::REFUSALS_WINDOW / 20);
        }
    }
}
