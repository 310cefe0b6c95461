//! Every way in which a sign-in ends, and what the login server is told of it.

use std::time::Duration;

use countersign_envelope::Algorithm;
use countersign_proto::{
    event::v1::EventType,
    v1::{OutcomeKind, RefusalReason, progress},
};
use countersign_tests::{
    Result, World,
    world::{REALM, outcome},
};
use device_sim::{
    login::{Opened, Outcome, SignIn, Standing, Step},
    phone::{AnswerBuilder, Challenge, Decision, Phone, Profile, PushKind},
    push_services::Service,
};
use futures::future::{join_all, try_join_all};
use tonic::Code;

use crate::support::{
    all, answer, approve, ask, assert_ended, bind, challenge_of, ledger::Ledger, listed, new_phone, party,
    phone_refusal, push_of, refusal, refused, world_with,
};

/// The shortest life that an approval may have.
const SHORTEST: Duration = Duration::from_secs(15);

#[tokio::test]
async fn whatever_a_phone_does_it_leads_to_the_outcome_that_it_must() -> Result<()> {
    let world = World::new().await?;
    try_join_all(Profile::ALL.map(|profile| played(&world, profile))).await?;
    let ledger = Ledger::read(&world.broker).await?;
    assert_eq!(ledger.count(EventType::ApprovalRequested), Profile::ALL.len());
    assert_eq!(ledger.count(EventType::ApprovalApproved), 3, "approve, twice, replayed");
    assert_eq!(ledger.count(EventType::ApprovalExpired), 3, "ignore, late, forged");
    Ok(())
}

async fn played(world: &World, profile: Profile) -> Result<()> {
    let (service, algorithm) = match profile {
        Profile::Approve | Profile::Report | Profile::WrongNumber | Profile::Forged => {
            (Service::Apns, Algorithm::Es256)
        }
        _ => (Service::Fcm, Algorithm::Ed25519),
    };
    let person = world.enrol(profile.as_str(), service, algorithm).await?;
    let sign_in = world.sign_in(profile.as_str()).lasting(SHORTEST);
    let (mut updates, issued) = ask(&world.login, &sign_in).await?;
    let challenge = world.challenge(&person).await?;
    let played =
        profile.play(&person.phone, &world.transport, &challenge, &issued.number, &world.clock).await;
    assert!(played.is_as_it_must_be(), "{played:#?}");
    let outcome = outcome(&mut updates).await?;
    assert_eq!(outcome.kind(), profile.outcome(), "{profile}");
    fits(&outcome, &sign_in, &person.phone);
    assert!(updates.next().await?.is_none(), "nothing comes after the outcome");
    let standing = world.login.get(&issued.approval_id).await?;
    assert_eq!(standing.outcome.as_ref(), Some(&outcome), "asked again, the outcome is the same");
    // Whoever comes now, with a good answer or none, is told how it ended.
    let late = AnswerBuilder::new(&person.phone, &challenge, Decision::Report).sign();
    assert_ended(&refusal(person.phone.submit(&world.transport, late).await), outcome.kind());
    let fetched = person.phone.fetch(&world.transport, &issued.approval_id, world.now()).await;
    assert_ended(&phone_refusal(fetched), outcome.kind());
    assert_eq!(
        world.login.cancel(&issued.approval_id).await?,
        outcome,
        "a cancel after the end changes nothing"
    );
    Ok(())
}

/// What stands in an outcome of this kind, and what does not.
fn fits(outcome: &Outcome, sign_in: &SignIn, phone: &Phone) {
    let said = outcome.message();
    let answered = matches!(
        outcome.kind(),
        OutcomeKind::Approved | OutcomeKind::Denied | OutcomeKind::Reported | OutcomeKind::WrongNumber
    );
    assert_eq!(outcome.session_binding(), &sign_in.session_binding);
    assert!(!said.phishing_resistant, "out-of-band is not (NIST SP 800-63B section 3.2.5)");
    assert_eq!(outcome.refusal_reason(), RefusalReason::Unspecified);
    assert_eq!(outcome.authenticator_id(), if answered { phone.authenticator_id() } else { "" });
    assert_eq!(said.authenticator_bound_at.is_some(), answered);
    let decided_at = outcome.decided_at().expect("an outcome says when");
    if outcome.kind() == OutcomeKind::Approved {
        assert_eq!(
            outcome.valid_until(),
            Some(decided_at.plus(Duration::from_secs(60))),
            "an old yes is no yes"
        );
        assert_eq!(said.amr, ["mca", "pop", "user", "mfa"]);
        assert!(said.user_verified);
    } else {
        assert_eq!(outcome.valid_until(), None);
        assert!(said.amr.is_empty() && !said.user_verified, "{said:?}");
    }
}

#[tokio::test]
async fn an_approval_without_a_check_of_the_person_is_one_factor() -> Result<()> {
    let world = World::new().await?;
    let alice = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    let (mut updates, issued) = ask(&world.login, &world.sign_in("alice")).await?;
    let challenge = challenge_of(&world, &alice.phone, &issued.approval_id).await?;
    let yes = Decision::Approve { number: issued.number.expose() };
    let unverified = AnswerBuilder::new(&alice.phone, &challenge, yes).user_verified(false).sign();
    assert_eq!(alice.phone.submit(&world.transport, unverified).await?, OutcomeKind::Approved);
    let outcome = outcome(&mut updates).await?;
    assert_eq!(outcome.message().amr, ["mca", "pop", "user"]);
    assert!(!outcome.message().user_verified);
    let bound_at = listed(&world, "alice", alice.phone.authenticator_id()).await?.bound_at;
    assert_eq!(outcome.message().authenticator_bound_at, bound_at);
    Ok(())
}

#[tokio::test]
async fn the_third_wrong_number_pauses_push_for_the_account_and_for_no_other() -> Result<()> {
    let world = World::new().await?;
    let alice = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    let bob = world.enrol("bob", Service::Fcm, Algorithm::Ed25519).await?;
    // One that was asked for before the pause.
    let (_, before) = ask(&world.login, &world.sign_in("alice")).await?;
    for _ in 0..3 {
        let (mut updates, issued) = ask(&world.login, &world.sign_in("alice")).await?;
        let wrong = issued.number.other();
        let wrong = Decision::Approve { number: wrong.expose() };
        assert_eq!(answer(&world, &alice.phone, &issued.approval_id, wrong).await?, OutcomeKind::WrongNumber);
        assert_eq!(outcome(&mut updates).await?.kind(), OutcomeKind::WrongNumber);
    }
    let sign_in = world.sign_in("alice");
    let updates = all(world.login.request(&sign_in).await?).await?;
    let [refused] = &updates[..] else { panic!("refused at once: {updates:?}") };
    let Step::Outcome(outcome) = &refused.step else { panic!("{refused:?}") };
    assert_eq!((refused.sequence, outcome.kind()), (1, OutcomeKind::Refused));
    assert_eq!(outcome.refusal_reason(), RefusalReason::PushPaused);
    assert_eq!(outcome.session_binding(), &sign_in.session_binding);

    let (_, issued) = ask(&world.login, &world.sign_in("bob")).await?;
    approve(&world, &bob.phone, &issued).await?;
    approve(&world, &alice.phone, &before).await?;
    Ok(())
}

#[tokio::test]
async fn a_denial_counts_nothing_against_the_account() -> Result<()> {
    let world = World::new().await?;
    let alice = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    for _ in 0..4 {
        let (_, issued) = ask(&world.login, &world.sign_in("alice")).await?;
        assert_eq!(
            answer(&world, &alice.phone, &issued.approval_id, Decision::Deny).await?,
            OutcomeKind::Denied
        );
    }
    let (_, issued) = ask(&world.login, &world.sign_in("alice")).await?;
    approve(&world, &alice.phone, &issued).await
}

#[tokio::test]
async fn a_sign_in_that_is_withdrawn_is_over_for_everybody() -> Result<()> {
    let world = World::new().await?;
    let alice = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    let sign_in = world.sign_in("alice");
    let (mut updates, issued) = ask(&world.login, &sign_in).await?;
    let challenge = world.challenge(&alice).await?;
    let cancelled = world.login.cancel(&issued.approval_id).await?;
    assert_eq!(cancelled.kind(), OutcomeKind::Cancelled);
    fits(&cancelled, &sign_in, &alice.phone);
    assert_eq!(outcome(&mut updates).await?, cancelled);
    assert_eq!(world.login.cancel(&issued.approval_id).await?, cancelled, "once more changes nothing");
    let yes = Decision::Approve { number: issued.number.expose() };
    assert_ended(
        &refusal(alice.phone.answer(&world.transport, &challenge, yes).await),
        OutcomeKind::Cancelled,
    );
    assert!(alice.phone.list_waiting(&world.transport, world.now()).await?.challenges.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_newer_request_of_the_same_session_takes_the_place_of_the_older_and_any_other_stands_beside()
-> Result<()> {
    let world = World::new().await?;
    let neighbour = party(&world, "Neighbour", REALM).await?;
    let alice = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    let sign_in = world.sign_in("alice");
    let again = || world.sign_in("alice").in_session(sign_in.session_binding.clone());
    let (mut first, first_issued) = ask(&world.login, &sign_in).await?;
    let (_, elsewhere) = ask(&world.login, &world.sign_in("alice")).await?;
    let (_, of_neighbour) = ask(&neighbour.login, &again()).await?;
    let challenge = challenge_of(&world, &alice.phone, &first_issued.approval_id).await?;
    let (_, second) = ask(&world.login, &again()).await?;

    let superseded = outcome(&mut first).await?;
    assert_eq!(superseded.kind(), OutcomeKind::Superseded);
    fits(&superseded, &sign_in, &alice.phone);
    let waiting = alice.phone.list_waiting(&world.transport, world.now()).await?.challenges;
    let waiting: Vec<_> = waiting.iter().map(Challenge::approval_id).collect();
    let expected = [&elsewhere, &of_neighbour, &second].map(|issued| issued.approval_id.as_str());
    assert_eq!(waiting, expected, "oldest first");
    let numbers = [&first_issued, &elsewhere, &of_neighbour, &second].map(|issued| issued.number.expose());
    let different: std::collections::HashSet<_> = numbers.into_iter().collect();
    assert_eq!(different.len(), 4, "no number is shown twice, not even one that was superseded just now");

    let yes = Decision::Approve { number: first_issued.number.expose() };
    assert_ended(
        &refusal(alice.phone.answer(&world.transport, &challenge, yes).await),
        OutcomeKind::Superseded,
    );
    for issued in [&second, &of_neighbour, &elsewhere] {
        approve(&world, &alice.phone, issued).await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_account_without_an_active_phone_is_unreachable() -> Result<()> {
    let world = World::new().await?;
    // Nobody has used the code yet.
    world.page.begin("begun").await?;
    // A phone is bound, and has not passed its trial.
    let on_trial = new_phone(&world, "phone", Algorithm::Ed25519)?;
    bind(&world, "on trial", &on_trial).await?;
    // Both phones are gone.
    let first = world.enrol("revoked", Service::Fcm, Algorithm::Ed25519).await?;
    let second = world.enrol("revoked", Service::Fcm, Algorithm::Ed25519).await?;
    world.page.revoke("revoked", first.phone.authenticator_id()).await?;
    second.phone.unenrol(&world.transport).await?;

    for account in ["begun", "on trial", "revoked"] {
        let sign_in = world.sign_in(account);
        let updates = all(world.login.request(&sign_in).await?).await?;
        let [update] = &updates[..] else { panic!("it ends at once: {updates:?}") };
        let Step::Outcome(outcome) = &update.step else { panic!("{update:?}") };
        assert_eq!((update.sequence, outcome.kind()), (1, OutcomeKind::Unreachable), "{account}");
        fits(outcome, &sign_in, &first.phone);
        let Some(Opened::Outcome(opened)) = world.login.open(&world.sign_in(account)).await? else {
            panic!("OpenApproval must give the outcome");
        };
        assert_eq!(opened.kind(), OutcomeKind::Unreachable);
        let standing = world.login.get(outcome.approval_id()).await?;
        assert_eq!(
            (standing.issued, standing.updates),
            (None, updates.clone()),
            "it is as well known as any other"
        );
    }
    Ok(())
}

#[tokio::test]
async fn one_revoked_phone_of_two_changes_nothing_for_the_other() -> Result<()> {
    let world = World::new().await?;
    let lost = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    let kept = world.enrol("alice", Service::Fcm, Algorithm::Es256).await?;
    let (_, issued) = ask(&world.login, &world.sign_in("alice")).await?;
    assert_eq!(issued.authenticators_addressed, 2);
    world.page.revoke("alice", lost.phone.authenticator_id()).await?;
    approve(&world, &kept.phone, &issued).await
}

#[tokio::test]
async fn more_sign_ins_than_may_wait_are_refused_until_one_has_ended() -> Result<()> {
    let world = world_with(&[("waiting_max", "2")]).await?;
    let alice = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    let sign_in = world.sign_in("alice");
    let (_, first) = ask(&world.login, &sign_in).await?;
    let (_, second) = ask(&world.login, &world.sign_in("alice")).await?;
    refused_because(&world, RefusalReason::TooManyWaiting).await?;
    // Of the session that waits already, a newer request is no more than that.
    let (_, third) =
        ask(&world.login, &world.sign_in("alice").in_session(sign_in.session_binding.clone())).await?;
    assert_eq!(world.login.get(&first.approval_id).await?.outcome.unwrap().kind(), OutcomeKind::Superseded);
    approve(&world, &alice.phone, &second).await?;
    let (_, fourth) = ask(&world.login, &world.sign_in("alice")).await?;
    approve(&world, &alice.phone, &third).await?;
    approve(&world, &alice.phone, &fourth).await
}

#[tokio::test]
async fn more_requests_than_the_policy_allows_are_refused() -> Result<()> {
    let world = world_with(&[("requests_per_5_min", "3")]).await?;
    let alice = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    for _ in 0..3 {
        let (_, issued) = ask(&world.login, &world.sign_in("alice")).await?;
        approve(&world, &alice.phone, &issued).await?;
    }
    refused_because(&world, RefusalReason::TooManyRequests).await
}

#[tokio::test]
async fn when_half_of_all_numbers_are_taken_a_request_is_refused() -> Result<()> {
    let world = world_with(&[("requests_per_5_min", "1000")]).await?;
    world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    let mut numbers = std::collections::HashSet::new();
    // The number of the trial rests, too.
    for _ in 0..49 {
        let Some(Opened::Issued(issued)) = world.login.open(&world.sign_in("alice")).await? else {
            panic!("half of all numbers are free");
        };
        assert!(
            numbers.insert(issued.number.expose().to_owned()),
            "a number that was live lately is not shown again"
        );
        world.login.cancel(&issued.approval_id).await?;
    }
    refused_because(&world, RefusalReason::NumbersExhausted).await
}

async fn refused_because(world: &World, reason: RefusalReason) -> Result<()> {
    let Some(Opened::Outcome(outcome)) = world.login.open(&world.sign_in("alice")).await? else {
        panic!("refused: {reason:?}");
    };
    assert_eq!((outcome.kind(), outcome.refusal_reason()), (OutcomeKind::Refused, reason));
    Ok(())
}

#[tokio::test]
async fn nobody_learns_more_of_an_unknown_account_than_that_it_is_unknown() -> Result<()> {
    let world = World::new().await?;
    world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    let before = Ledger::read(&world.broker).await?.decisions();
    refused(world.login.request(&world.sign_in("mallory")).await, Code::NotFound, "ACCOUNT_NOT_FOUND");
    refused(world.login.open(&world.sign_in("mallory")).await, Code::NotFound, "ACCOUNT_NOT_FOUND");
    refused(world.page.list("mallory").await, Code::NotFound, "ACCOUNT_NOT_FOUND");
    assert_eq!(Ledger::read(&world.broker).await?.decisions(), before, "the question leaves no event behind");
    Ok(())
}

#[tokio::test]
async fn one_person_is_one_account_however_the_name_is_typed() -> Result<()> {
    let world = World::new().await?;
    let asa = world.enrol("Åsa", Service::Fcm, Algorithm::Ed25519).await?;
    for typed in ["åsa", "A\u{30a}SA", " Åsa ", "ÅSA"] {
        let (_, issued) = ask(&world.login, &world.sign_in(typed)).await?;
        let challenge = challenge_of(&world, &asa.phone, &issued.approval_id).await?;
        assert_eq!(challenge.account_name(), "Åsa", "the phone shows the name that it knows");
        approve(&world, &asa.phone, &issued).await?;
    }
    refused(world.login.open(&world.sign_in("asa")).await, Code::NotFound, "ACCOUNT_NOT_FOUND");
    Ok(())
}

#[tokio::test]
async fn a_caller_that_cannot_stream_opens_and_polls() -> Result<()> {
    let world = World::new().await?;
    let alice = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    let sign_in = world.sign_in("alice");
    let Some(Opened::Issued(issued)) = world.login.open(&sign_in).await? else { panic!("it waits") };
    assert_eq!(issued.authenticators_addressed, 1);
    let waits = |standing: &Standing| standing.outcome.is_none() && standing.issued.as_ref() == Some(&issued);
    assert!(waits(&world.login.get(&issued.approval_id).await?));
    assert!(
        waits(&world.login.wait(&issued.approval_id, Duration::ZERO).await?),
        "a wait of nothing answers at once"
    );
    assert!(
        waits(&world.login.wait(&issued.approval_id, Duration::from_secs(1)).await?),
        "nobody has answered"
    );

    let poll = world.login.wait(&issued.approval_id, Duration::from_secs(60));
    let (polled, approved) = tokio::join!(poll, approve(&world, &alice.phone, &issued));
    approved?;
    let (polled, outcome) = (polled?, world.login.get(&issued.approval_id).await?.outcome.unwrap());
    assert_eq!(polled.outcome.as_ref(), Some(&outcome));
    assert!(outcome.lets_in(&sign_in.session_binding, world.now()));
    let updates = all(world.login.watch(&issued.approval_id, 0).await?).await?;
    assert_eq!(polled.updates, updates, "the same as the stream gives");

    let too_long = refused(
        world.login.wait(&issued.approval_id, Duration::from_secs(61)).await,
        Code::InvalidArgument,
        "INVALID_ARGUMENT",
    );
    assert_eq!(too_long.fields()[0].0, "max_wait");
    Ok(())
}

#[tokio::test]
async fn of_two_phones_the_first_answer_wins_and_the_other_phone_is_shown_that_it_is_over() -> Result<()> {
    let world = World::new().await?;
    let iphone = world.enrol("alice", Service::Apns, Algorithm::Es256).await?;
    let android = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    let (mut updates, issued) = ask(&world.login, &world.sign_in("alice")).await?;
    assert_eq!(issued.authenticators_addressed, 2);
    let (shown, _) = push_of(&iphone, PushKind::Challenge).await?;
    push_of(&android, PushKind::Challenge).await?;
    for _ in 0..2 {
        let Step::Progress(progress) = updates.next().await?.unwrap().step else {
            panic!("both are pushed to")
        };
        assert_eq!(progress.kind, progress::Kind::AcceptedByPushService);
    }
    let for_iphone = challenge_of(&world, &iphone.phone, &issued.approval_id).await?;
    let for_android = challenge_of(&world, &android.phone, &issued.approval_id).await?;
    assert_eq!(for_iphone, for_android, "one challenge, the same for every phone");

    approve(&world, &android.phone, &issued).await?;
    assert_eq!(outcome(&mut updates).await?.authenticator_id(), android.phone.authenticator_id());
    for decision in [Decision::Deny, Decision::Approve { number: issued.number.expose() }] {
        let late = iphone.phone.answer(&world.transport, &for_iphone, decision).await;
        assert_ended(&refusal(late), OutcomeKind::Approved);
    }
    let (replacement, push) = push_of(&iphone, PushKind::Ended).await?;
    assert_eq!(push.id, issued.approval_id);
    let header =
        |push: &device_sim::push_services::Push, name: &str| push.headers[name].to_str().unwrap().to_owned();
    assert_eq!(
        header(&replacement, "apns-collapse-id"),
        header(&shown, "apns-collapse-id"),
        "in the same place"
    );
    assert_eq!(
        header(&replacement, "apns-push-type"),
        "alert",
        "background pushes are throttled: this one is seen"
    );
    let body: serde_json::Value = serde_json::from_slice(&replacement.body)?;
    assert_eq!(body["aps"]["alert"]["loc-key"], "COUNTERSIGN_ENDED_BODY");
    assert!(android.device.try_next_push().is_none(), "the phone that answered knows");
    Ok(())
}

#[tokio::test]
async fn however_many_answer_at_once_one_answer_wins_and_all_are_told_the_same() -> Result<()> {
    let world = world_with(&[("requests_per_5_min", "100")]).await?;
    let first = world.enrol("alice", Service::Apns, Algorithm::Es256).await?.phone;
    let second = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?.phone;
    for round in 0..20 {
        let (mut updates, issued) = ask(&world.login, &world.sign_in("alice")).await?;
        let challenge = challenge_of(&world, &first, &issued.approval_id).await?;
        let yes = Decision::Approve { number: issued.number.expose() };
        let answers = [(&first, yes), (&second, Decision::Deny), (&first, Decision::Report), (&second, yes)];
        let said = answers.map(|(phone, decision)| phone.answer(&world.transport, &challenge, decision));
        let (said, cancelled) = tokio::join!(join_all(said), world.login.cancel(&issued.approval_id));
        let outcome = outcome(&mut updates).await?;
        assert_eq!(cancelled?, outcome, "round {round}");
        let won = said.iter().filter(|reply| reply.is_ok()).count();
        assert_eq!(won, usize::from(outcome.kind() != OutcomeKind::Cancelled), "round {round}: {said:?}");
        for reply in said {
            match reply {
                Ok(kind) => assert_eq!(kind, outcome.kind(), "round {round}"),
                Err(refusal) => assert_ended(&refusal, outcome.kind()),
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_answer_that_is_sent_again_gets_the_reply_that_it_got() -> Result<()> {
    let world = World::new().await?;
    let alice = world.enrol("alice", Service::Fcm, Algorithm::Es256).await?.phone;
    for kind in [OutcomeKind::Denied, OutcomeKind::Reported, OutcomeKind::WrongNumber, OutcomeKind::Approved]
    {
        let (_, issued) = ask(&world.login, &world.sign_in("alice")).await?;
        let challenge = challenge_of(&world, &alice, &issued.approval_id).await?;
        let wrong = issued.number.other();
        let decision = match kind {
            OutcomeKind::Denied => Decision::Deny,
            OutcomeKind::Reported => Decision::Report,
            OutcomeKind::WrongNumber => Decision::Approve { number: wrong.expose() },
            _ => Decision::Approve { number: issued.number.expose() },
        };
        let signed = AnswerBuilder::new(&alice, &challenge, decision).sign();
        let at_once = (0..4).map(|_| alice.submit(&world.transport, signed.clone()));
        for reply in join_all(at_once).await {
            assert_eq!(reply?, kind);
        }
        let after = world.login.get(&issued.approval_id).await?;
        assert_eq!(alice.submit(&world.transport, signed).await?, kind);
        assert_eq!(world.login.get(&issued.approval_id).await?, after, "and changes nothing");
    }
    assert_eq!(
        Ledger::read(&world.broker).await?.count(EventType::NumberWrong),
        1,
        "one wrong number counts once"
    );
    Ok(())
}

#[tokio::test]
async fn a_request_that_is_sent_again_is_the_same_approval_with_the_same_number() -> Result<()> {
    let world = World::new().await?;
    let neighbour = party(&world, "Neighbour", REALM).await?;
    let alice = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    world.enrol("bob", Service::Fcm, Algorithm::Ed25519).await?;
    let sign_in = world.sign_in("alice").from_ip("192.0.2.1");
    let at_once = try_join_all((0..8).map(|_| ask(&world.login, &sign_in))).await?;
    let issued = at_once[0].1.clone();
    assert!(at_once.iter().all(|(_, other)| *other == issued), "eight at once are one");
    assert_eq!(Ledger::read(&world.broker).await?.count(EventType::ApprovalRequested), 1);

    let other_body = sign_in.clone().from_ip("192.0.2.2");
    refused(world.login.open(&other_body).await, Code::AlreadyExists, "IDEMPOTENCY_KEY_REUSED");
    let mut of_bob = sign_in.clone();
    of_bob.account = "bob".to_owned();
    let (_, of_bob) = ask(&world.login, &of_bob).await?;
    let (_, of_neighbour) = ask(&neighbour.login, &sign_in).await?;
    assert!(of_bob.approval_id != issued.approval_id && of_neighbour.approval_id != issued.approval_id);

    approve(&world, &alice.phone, &issued).await?;
    let again = all(world.login.request(&sign_in).await?).await?;
    assert_eq!(again, world.login.get(&issued.approval_id).await?.updates, "after its end it is what it was");
    let without_key = SignIn { idempotency_key: String::new(), ..sign_in };
    let (_, one) = ask(&world.login, &without_key).await?;
    let (_, other) = ask(&world.login, &without_key).await?;
    assert_ne!(one.approval_id, other.approval_id, "without a key each request is one of its own");
    Ok(())
}
