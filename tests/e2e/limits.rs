//! What one account may cost: refusals, push targets, keys and names.

use countersign_envelope::Algorithm;
use countersign_proto::{event::v1::EventType, v1::OutcomeKind};
use countersign_tests::{Result, World, world::received};
use device_sim::{login::Opened, phone::PushTarget, push_services::Service};
use tonic::Code;

use crate::support::{approve, ask, bind, ledger::Ledger, new_phone, refused, world_with};

#[tokio::test]
async fn ten_requests_are_refused_with_an_outcome_and_the_others_leave_nothing_behind() -> Result<()> {
    let world = World::new().await?;
    // An account that has no active phone.
    world.page.begin("alice").await?;
    let first = world.sign_in("alice");
    let mut outcomes = Vec::new();
    for n in 0..10 {
        let sign_in = if n == 0 { first.clone() } else { world.sign_in("alice") };
        let Some(Opened::Outcome(outcome)) = world.login.open(&sign_in).await? else {
            panic!("nobody to ask")
        };
        assert_eq!(outcome.kind(), OutcomeKind::Unreachable);
        outcomes.push(outcome);
    }
    for _ in 0..30 {
        let said = world.login.open(&world.sign_in("alice")).await;
        let refusal = refused(said, Code::ResourceExhausted, "TOO_MANY_REQUESTS");
        let seconds = refusal.retry_after().map(|after| after.as_secs());
        assert!(seconds.is_some_and(|seconds| (200..300).contains(&seconds)), "{refusal:?}");
        refused(
            world.login.request(&world.sign_in("alice")).await,
            Code::ResourceExhausted,
            "TOO_MANY_REQUESTS",
        );
    }
    // What was refused before is told again.
    let Some(Opened::Outcome(again)) = world.login.open(&first).await? else { panic!("it was refused") };
    assert_eq!(again, outcomes[0]);
    assert_eq!(Ledger::read(&world.broker).await?.count(EventType::ApprovalRefused), 10);
    // What can be issued is.
    let alice = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    let (_, issued) = ask(&world.login, &world.sign_in("alice")).await?;
    approve(&world, &alice.phone, &issued).await
}

#[tokio::test]
async fn a_phone_gives_ten_new_push_targets_in_an_hour_and_no_more() -> Result<()> {
    let world = World::new().await?;
    let alice = world.enrol("alice", Service::Fcm, Algorithm::Es256).await?.phone;
    let target = |n: u32| PushTarget::Fcm(format!("target-{n}"));
    for n in 0..10 {
        alice.replace_push_target(&world.transport, target(n)).await?;
    }
    let refusal = refused(
        alice.replace_push_target(&world.transport, target(10)).await,
        Code::ResourceExhausted,
        "TOO_MANY_PUSH_TARGETS",
    );
    let seconds = refusal.retry_after().map(|after| after.as_secs());
    assert!(seconds.is_some_and(|seconds| (3_500..3_600).contains(&seconds)), "{refusal:?}");
    assert_eq!(Ledger::read(&world.broker).await?.count(EventType::PushTargetReplaced), 10);
    // A phone that says where it is whenever it starts changes nothing.
    alice.set_counter(10);
    alice.replace_push_target(&world.transport, target(9)).await?;
    assert_eq!(Ledger::read(&world.broker).await?.count(EventType::PushTargetReplaced), 10);
    Ok(())
}

#[tokio::test]
async fn a_person_is_one_account_however_the_name_is_written() -> Result<()> {
    let world = World::new().await?;
    let phone = world.enrol("straße", Service::Fcm, Algorithm::Ed25519).await?.phone;
    for name in ["STRASSE", "Strasse", "STRA\u{1e9e}E", "ＳＴＲＡＳＳＥ"] {
        let (_, issued) = ask(&world.login, &world.sign_in(name)).await?;
        approve(&world, &phone, &issued).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_other_phones_hear_nothing_of_one_that_leaves_during_its_trial() -> Result<()> {
    let world = World::new().await?;
    let alice = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    let left = bind(&world, "alice", &new_phone(&world, "phone", Algorithm::Es256)?).await?;
    left.phone.unenrol(&world.transport).await?;
    let revoked = bind(&world, "alice", &new_phone(&world, "phone", Algorithm::Es256)?).await?;
    world.page.revoke("alice", revoked.phone.authenticator_id()).await?;
    let (_, issued) = ask(&world.login, &world.sign_in("alice")).await?;
    assert_eq!(
        received(&alice.device).await?.id,
        issued.approval_id,
        "the first push since is the sign-in's"
    );
    Ok(())
}

#[tokio::test]
async fn a_request_sent_again_is_the_same_approval_although_the_account_has_forgotten_that() -> Result<()> {
    let world = world_with(&[("requests_per_5_min", "1000"), ("digits", "4")]).await?;
    world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    let first = world.sign_in("alice");
    let Some(Opened::Issued(issued)) = world.login.open(&first).await? else { panic!("it is issued") };
    world.login.cancel(&issued.approval_id).await?;
    for _ in 0..260 {
        let Some(Opened::Issued(next)) = world.login.open(&world.sign_in("alice")).await? else {
            panic!("it is issued")
        };
        world.login.cancel(&next.approval_id).await?;
    }
    let requested = Ledger::read(&world.broker).await?.count(EventType::ApprovalRequested);
    let Some(Opened::Issued(again)) = world.login.open(&first).await? else { panic!("it was issued") };
    assert_eq!(again, issued);
    let mut updates = world.login.request(&first).await?;
    assert_eq!(countersign_tests::world::issued(&mut updates).await?, issued);
    assert_eq!(Ledger::read(&world.broker).await?.count(EventType::ApprovalRequested), requested);
    Ok(())
}
