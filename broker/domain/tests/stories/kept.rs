//! A state that is kept beside its events: whatever is in it is there when it is read, and it is what it always was.

use countersign_domain::{
    Account, Event,
    event::{RefusedBecause, RevokedBy},
    kept::FORMAT,
    limits,
};
use countersign_envelope::sha256;
use data_encoding::HEXLOWER;

use crate::cast::{Phone, SignIn, account_with, at, given};

/// An account with something of everything: phones that are active, on trial, revoked and moved; enrolments that wait,
/// failed and are done; sign-ins of every ending, with and without a key; numbers that rest, and a pause.
fn eventful() -> Account {
    let phones = [1, 2, 3, 4].map(Phone::ed25519);
    let [first, second, third, fourth] = &phones;
    let mut history = account_with(&[first, second, third]);
    history.extend(fourth.on_trial(at(50)));
    let ninth = Phone::ed25519(9);
    history
        .extend([ninth.begun(at(52)), (at(53), Event::EnrolmentCodeRefused { enrolment: ninth.enrolment })]);
    let tenth = Phone::ed25519(10);
    history.extend([tenth.begun(at(54)), (at(55), tenth.failed())]);
    history.push((at(56), third.revoked()));
    history.push((
        at(57),
        Event::PushTargetReplaced { authenticator: second.id, push_target: third.push_target(), counter: 7 },
    ));
    let target_hash = third.push_target().hash();
    let reason = "UNREGISTERED".to_owned();
    history.push((at(58), Event::PushTargetDied { authenticator: second.id, target_hash, reason }));
    let one = |n: u32| {
        let sign_in = SignIn::new(n, &format!("{n:02}"), at(60 + u64::from(n)));
        if n.is_multiple_of(2) { sign_in.keyed(&format!("key {n}"), "body") } else { sign_in }
    };
    for n in 1..=8 {
        let it = one(n);
        history.push(it.waits());
        let answer = first.approves(&it, &it.number.to_text());
        let ending = match n {
            1 => it.approved(first, &answer),
            2 => it.denied(first, &answer, false),
            3 => it.denied(first, &answer, true),
            4 => it.number_wrong(first, &answer),
            5 => it.expired(),
            6 => it.cancelled(),
            7 => it.superseded_by(&one(8)),
            _ => continue,
        };
        history.push((it.after(1), ending));
    }
    history.push((at(90), one(9).refused(RefusedBecause::PushPaused)));
    history.push((at(91), Event::PushPaused { until: at(1_000) }));
    history.push((
        at(92),
        Event::AuthenticatorRevoked {
            authenticator: second.id,
            by: RevokedBy::Unenrolment { counter: 8 },
            was_active: true,
        },
    ));
    // This one's time is over, and nobody has ended it: only the state knows.
    let late = one(11);
    history.extend([
        late.waits(),
        (late.after(200), Event::EnrolmentCodeRefused { enrolment: ninth.enrolment }),
    ]);
    given(history).as_state().clone()
}

#[test]
fn a_state_that_was_kept_reads_back_the_same() {
    for account in [Account::default(), eventful()] {
        assert_eq!(Account::from_kept(&account.to_kept()), Some(account));
    }
}

#[test]
fn what_is_no_state_is_not_read() {
    let bytes = eventful().to_kept();
    for end in 0..bytes.len() {
        assert_eq!(Account::from_kept(&bytes[..end]), None, "cut at {end}");
    }
    assert_eq!(Account::from_kept(&[&bytes[..], &[0]].concat()), None);
    // A length that is none is not made room for.
    assert_eq!(Account::from_kept(&[0, 255, 255, 255, 255]), None);
}

/// What it holds is bounded, so what is kept of it is, however long its history.
#[test]
fn what_is_kept_does_not_grow_with_the_history() {
    let phone = Phone::ed25519(1);
    let mut account = given(account_with(&[&phone])).as_state().clone();
    let mut largest = 0;
    for n in 0..3_000 {
        let it =
            SignIn::new(n, &format!("{:02}", n % 100), at(100 + u64::from(n) * 60)).keyed(&n.to_string(), "");
        for event in [it.requested(), it.expired()] {
            countersign_domain::Aggregate::evolve(&mut account, &event, it.at);
        }
        if n == 2_000 {
            largest = account.to_kept().len();
        }
    }
    let most = limits::APPROVALS_ENDED_KEPT_MAX * 512 + limits::IDEMPOTENCY_KEYS_MAX * 72;
    assert!(account.to_kept().len() <= largest + 64 && largest < most, "{largest}");
}

/// If this fails, either what is kept has changed or what `evolve` makes of events: then states of before must not be
/// read any more, and [`FORMAT`] has to be counted up, here too.
#[test]
fn a_state_is_what_it_always_was() {
    let known = HEXLOWER.encode(&sha256(&eventful().to_kept()));
    assert_eq!((FORMAT, &known[..]), (1, "229b4d28dce6d604587a8ad77c7cb15c500755e4f27c51ba9bfc2326e2703ab3"));
}
