//! A login that loses its connection, or its broker, takes its approval up again: the same steps with the same numbers,
//! and the same outcome, for ever.

use std::time::Duration;

use countersign_envelope::Algorithm;
use countersign_proto::v1::{OutcomeKind, progress};
use countersign_tests::{
    Result, World,
    world::{REALM, received},
};
use device_sim::{
    login::{Issued, Opened, Step, Update, Updates},
    phone::{Decision, Invitation, NewPhone, PushTarget},
    push_services::Service,
};
use tonic::Code;

use crate::support::{
    all, answer, approve, ask, bind, challenge_of, killed_and_started, new_phone, party, past::Past, refused,
    started,
};

/// The next step, which must be the progress of this kind.
async fn progressed(updates: &mut Updates, kind: progress::Kind) -> Result<()> {
    match updates.next().await?.map(|update| update.step) {
        Some(Step::Progress(progress)) if progress.kind == kind => Ok(()),
        other => anyhow::bail!("{kind:?} should come, not {other:?}"),
    }
}

/// Whatever is asked, and from wherever, it is these steps.
async fn tells(world: &World, issued: &Issued, steps: &[Update]) -> Result<()> {
    let sequences: Vec<_> = steps.iter().map(|update| update.sequence).collect();
    assert_eq!(sequences, (1..=u32::try_from(steps.len())?).collect::<Vec<_>>(), "dense from 1");
    for known in 0..=steps.len() {
        let after = u32::try_from(known)?;
        let mut updates = world.login.watch(&issued.approval_id, after).await?;
        let mut rest = Vec::new();
        while let Some(update) = updates.next().await? {
            rest.push(update);
        }
        assert_eq!(rest, steps[known..], "after {known}");
    }
    let standing = world.login.get(&issued.approval_id).await?;
    assert_eq!((&standing.updates[..], standing.issued.as_ref()), (steps, Some(issued)));
    let Some(Update { step: Step::Outcome(outcome), .. }) = steps.last() else { panic!("{steps:?}") };
    assert_eq!(standing.outcome.as_ref(), Some(outcome));
    assert_eq!(world.login.wait(&issued.approval_id, Duration::from_secs(60)).await?, standing);
    assert_eq!(world.login.cancel(&issued.approval_id).await?, *outcome);
    Ok(())
}

#[tokio::test]
async fn the_same_steps_are_told_from_any_point_before_and_after_the_end_and_after_a_crash() -> Result<()> {
    let mut world = World::new().await?;
    let alice = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    let (mut updates, issued) = ask(&world.login, &world.sign_in("alice")).await?;
    let push = received(&alice.device).await?;
    progressed(&mut updates, progress::Kind::AcceptedByPushService).await?;
    alice.phone.acknowledge_delivered(&world.transport, &push).await?;
    progressed(&mut updates, progress::Kind::Delivered).await?;
    // The stream is lost, and taken up again while the approval still waits.
    drop(updates);
    let mut updates = world.login.watch(&issued.approval_id, 1).await?;
    progressed(&mut updates, progress::Kind::AcceptedByPushService).await?;
    progressed(&mut updates, progress::Kind::Delivered).await?;

    // The broker is killed, and knows at its next start how far everything has come.
    killed_and_started(&mut world).await?;
    let mut updates = world.login.watch(&issued.approval_id, 3).await?;
    // What came before the crash is said again, and is no new step; a token holds after a restart.
    alice.phone.acknowledge_delivered(&world.transport, &push).await?;
    alice.phone.acknowledge_opened(&world.transport, &push).await?;
    progressed(&mut updates, progress::Kind::Opened).await?;
    assert_eq!(
        answer(&world, &alice.phone, &issued.approval_id, Decision::Report).await?,
        OutcomeKind::Reported
    );
    let rest = all(updates).await?;
    assert_eq!(rest[0].sequence, 5);

    let steps = all(world.login.watch(&issued.approval_id, 0).await?).await?;
    let kinds: Vec<_> = steps
        .iter()
        .map(|update| match &update.step {
            Step::Progress(progress) => Some(progress.kind),
            _ => None,
        })
        .collect();
    use progress::Kind::{AcceptedByPushService, Delivered, Opened};
    assert_eq!(kinds, [None, Some(AcceptedByPushService), Some(Delivered), Some(Opened), None]);
    tells(&world, &issued, &steps).await?;
    // An acknowledgement after the end is no step: the outcome is the last.
    alice.phone.acknowledge_opened(&world.transport, &push).await?;
    tells(&world, &issued, &steps).await?;
    killed_and_started(&mut world).await?;
    tells(&world, &issued, &steps).await
}

#[tokio::test]
async fn an_outcome_that_was_told_is_there_after_kill_9() -> Result<()> {
    let mut world = World::new().await?;
    let alice = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    for kind in [OutcomeKind::Approved, OutcomeKind::Denied, OutcomeKind::Cancelled] {
        let sign_in = world.sign_in("alice");
        let Some(Opened::Issued(issued)) = world.login.open(&sign_in).await? else { panic!("it waits") };
        match kind {
            OutcomeKind::Approved => approve(&world, &alice.phone, &issued).await?,
            OutcomeKind::Denied => {
                answer(&world, &alice.phone, &issued.approval_id, Decision::Deny).await?;
            }
            _ => {
                world.login.cancel(&issued.approval_id).await?;
            }
        }
        // No later than the reply.
        killed_and_started(&mut world).await?;
        let standing = world.login.get(&issued.approval_id).await?;
        assert_eq!(standing.outcome.map(|outcome| outcome.kind()), Some(kind));
        assert_eq!(standing.issued.as_ref(), Some(&issued), "with the number that the page shows");
        let repeated = all(world.login.request(&sign_in).await?).await?;
        assert_eq!(repeated, standing.updates, "the request, sent again, is the same approval");
    }
    Ok(())
}

#[tokio::test]
async fn a_login_gets_over_a_broker_that_is_killed_while_it_waits() -> Result<()> {
    let mut world = World::new().await?;
    let alice = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    let sign_in = world.sign_in("alice");
    let (given, mut issued) = tokio::sync::mpsc::unbounded_channel();
    let waiting = tokio::spawn({
        let (login, sign_in, clock) = (world.login.clone(), sign_in.clone(), world.clock.clone());
        async move {
            let mut sequences = Vec::new();
            let outcome = login
                .until_outcome(&sign_in, &clock, |update| {
                    sequences.push(update.sequence);
                    if let Step::Issued(issued) = &update.step {
                        let _ = given.send(issued.clone());
                    }
                })
                .await;
            (outcome, sequences)
        }
    });
    let issued = issued.recv().await.unwrap();
    world.challenge(&alice).await?;
    killed_and_started(&mut world).await?;
    approve(&world, &alice.phone, &issued).await?;
    let (outcome, sequences) = waiting.await?;
    assert!(outcome?.lets_in(&sign_in.session_binding, world.now()));
    assert_eq!(
        sequences,
        (1..=u32::try_from(sequences.len())?).collect::<Vec<_>>(),
        "each step was told once"
    );
    Ok(())
}

#[tokio::test]
async fn a_challenge_that_no_phone_was_sent_before_a_crash_is_sent_after_it() -> Result<()> {
    use device_sim::push_services::{Effect, Fault};
    let mut world = World::new().await?;
    let alice = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    world.push.faults().arm(Fault::new(Effect::Silence))?;
    let (_, issued) = ask(&world.login, &world.sign_in("alice")).await?;
    world.broker.kill()?;
    world.push.faults().clear();
    started(&mut world).await?;
    let challenge = world.challenge(&alice).await?;
    assert_eq!(challenge.approval_id(), issued.approval_id);
    approve(&world, &alice.phone, &issued).await
}

#[tokio::test]
async fn an_approval_that_waits_when_the_broker_ends_expires_while_it_is_away() -> Result<()> {
    let mut world = World::new().await?;
    world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    world.broker.stopped().await?;
    // It began a minute ago, and the broker ended before it did; the next one starts when its time is over.
    let past = Past::start(&world.broker, Duration::from_secs(60)).await?;
    let sign_in = world.sign_in("alice").lasting(Duration::from_secs(15));
    let Some(Opened::Issued(issued)) = world.login.open(&sign_in).await? else { panic!("it waits") };
    past.stop().await;
    started(&mut world).await?;
    let steps = all(world.login.watch(&issued.approval_id, 1).await?).await?;
    let Some(Update { step: Step::Outcome(outcome), .. }) = steps.last() else { panic!("{steps:?}") };
    assert_eq!(outcome.kind(), OutcomeKind::Expired);
    Ok(())
}

#[tokio::test]
async fn long_after_its_end_an_approval_is_what_it_was() -> Result<()> {
    let mut world = World::new().await?;
    world.broker.stopped().await?;
    let ago = Duration::from_secs(25 * 60 * 60);
    let past = Past::start(&world.broker, ago).await?;
    let then = device_sim::clock::Timestamp(world.now().0 - u64::try_from(ago.as_millis())?);
    let begun = world.page.begin("alice").await?;
    let target = PushTarget::Fcm(world.push.new_target(Service::Fcm, None)?.to_string());
    let new = NewPhone::new("alice's phone", target, Algorithm::Ed25519);
    let (alice, trial) = new.enrol(&world.transport, &Invitation::scanned(&begun.uri)?, then).await?;
    let number = world.trial_number(&begun.enrolment_id).await?;
    alice.answer_trial(&world.transport, &trial, number.expose()).await?;

    let sign_in = world.sign_in("alice");
    let (updates, issued) = ask(&world.login, &sign_in).await?;
    let waiting = alice.list_waiting(&world.transport, then).await?.challenges;
    let yes = Decision::Approve { number: issued.number.expose() };
    assert_eq!(alice.answer(&world.transport, &waiting[0], yes).await?, OutcomeKind::Approved);
    all(updates).await?;
    // Whether the push of then was accepted is told as it was; nothing of it comes any more.
    past.stop().await;
    started(&mut world).await?;
    let steps = all(world.login.watch(&issued.approval_id, 0).await?).await?;
    tells(&world, &issued, &steps).await?;

    // The account forgets what is older than a day with its next request; the log does not.
    let (_, newer) = ask(&world.login, &world.sign_in("alice")).await?;
    tells(&world, &issued, &steps).await?;
    approve(&world, &alice, &newer).await?;
    let (_, again) = ask(&world.login, &sign_in).await?;
    assert_ne!(
        again.approval_id, issued.approval_id,
        "an idempotency key is remembered for a day, and not for ever"
    );
    let Some(Update { step: Step::Outcome(outcome), .. }) = steps.last() else { panic!("{steps:?}") };
    assert!(!outcome.lets_in(&sign_in.session_binding, world.now()), "an old yes is no yes");
    Ok(())
}

#[tokio::test]
async fn who_asks_for_a_sign_in_that_is_not_his_takes_nothing_from_its_story() -> Result<()> {
    let world = World::new().await?;
    let nosy = party(&world, "Nosy", REALM).await?;
    let alice = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    // Nobody waits on a stream.
    let Some(Opened::Issued(issued)) = world.login.open(&world.sign_in("alice")).await? else {
        panic!("it waits")
    };
    let push = received(&alice.device).await?;
    alice.phone.acknowledge_delivered(&world.transport, &push).await?;
    told(&world, &issued, 3).await?;
    for _ in 0..2 {
        refused(nosy.login.get(&issued.approval_id).await, Code::NotFound, "APPROVAL_NOT_FOUND");
        refused(nosy.login.watch(&issued.approval_id, 0).await, Code::NotFound, "APPROVAL_NOT_FOUND");
    }
    alice.phone.acknowledge_opened(&world.transport, &push).await?;
    told(&world, &issued, 4).await?;
    approve(&world, &alice.phone, &issued).await?;
    let steps = all(world.login.watch(&issued.approval_id, 0).await?).await?;
    assert_eq!(steps.len(), 5, "{steps:?}");
    tells(&world, &issued, &steps).await
}

/// Follows the approval until so many steps are known, and looks that they are.
async fn told(world: &World, issued: &Issued, steps: usize) -> Result<()> {
    let mut updates = world.login.watch(&issued.approval_id, 0).await?;
    for sequence in 1..=u32::try_from(steps)? {
        assert_eq!(updates.next().await?.unwrap().sequence, sequence);
    }
    assert_eq!(world.login.get(&issued.approval_id).await?.updates.len(), steps);
    Ok(())
}

#[tokio::test]
async fn the_numbers_of_a_challenge_prove_afterwards_what_was_asked_for() -> Result<()> {
    let world = World::new().await?;
    let new = new_phone(&world, "alice's phone", Algorithm::Ed25519)?;
    let on_trial = bind(&world, "alice", &new).await?;
    let number = world.trial_number(&on_trial.enrolment_id).await?;
    on_trial.phone.answer_trial(&world.transport, &on_trial.trial, number.expose()).await?;
    let (_, issued) = ask(&world.login, &world.sign_in("alice")).await?;
    let challenge = challenge_of(&world, &on_trial.phone, &issued.approval_id).await?;
    assert_eq!((challenge.digits(), challenge.commitment().len()), (2, 32));
    // Salt and number are sealed in the log: only who has the keys opens them.
    let (status, out, err) = world.broker.command(&["log", "show", "--json", "--open"])?;
    assert!(status.success(), "{err}");
    let salt = out.lines().find_map(|entry| salt_of(entry, &issued.approval_id)).expect("the salt is shown");
    let commitment = countersign_envelope::commitment(&issued.approval_id, &salt, issued.number.expose());
    assert_eq!(commitment[..], *challenge.commitment());
    let (_, sealed, _) = world.broker.command(&["log", "show", "--json"])?;
    assert!(sealed.lines().all(|entry| salt_of(entry, &issued.approval_id).is_none()), "sealed without them");
    Ok(())
}

fn salt_of(entry: &str, approval_id: &str) -> Option<[u8; 32]> {
    let entry: serde_json::Value = serde_json::from_str(entry).ok()?;
    let requested = entry["events"].as_array()?.iter().find(|event| event["approval"] == approval_id)?;
    let salt = requested["number_sealed"]["salt"].as_str()?;
    let bytes = (0..salt.len() / 2).map(|at| u8::from_str_radix(&salt[2 * at..2 * at + 2], 16));
    bytes.collect::<Result<Vec<_>, _>>().ok()?.try_into().ok()
}
