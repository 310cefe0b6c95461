//! What one account may cost: refusals, push targets, keys and names.

use countersign_envelope::Algorithm;
use countersign_proto::{event::v1::EventType, v1::OutcomeKind};
use countersign_tests::{
    Result, World,
    world::{REALM, outcome, received},
};
use device_sim::{
    login::{Issued, LoginServer, Opened},
    phone::PushTarget,
    push_services::Service,
    wire::Refusal,
};
use futures::future::join_all;
use tonic::Code;

use crate::support::{
    approve, ask, assert_refused, bind, killed_and_started, ledger::Ledger, new_phone, party, refused,
    world_with,
};

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

/// People whose approvals are asked for: each of them may have twenty that wait.
const PEOPLE: [&str; 8] = ["ann", "ben", "cem", "dag", "eva", "flo", "gus", "hal"];

/// A world with phones for them, in which so many approvals wait in all, and of one relying party.
async fn crowded(in_all: &str, of_one: &str) -> Result<World> {
    let world = world_with(&[
        ("live_approvals", in_all),
        ("live_approvals_of_relying_party", of_one),
        ("waiting_max", "20"),
        ("requests_per_5_min", "1000"),
        ("lifetime_s", "300"),
        // However busy the machine is.
        ("queue_ms", "0"),
    ])
    .await?;
    for name in PEOPLE {
        world.enrol(name, Service::Fcm, Algorithm::Ed25519).await?;
    }
    Ok(world)
}

/// Asks for 400 approvals at once: those that were made, and what was said of the others.
async fn four_hundred(world: &World, login: &LoginServer) -> (Vec<Issued>, Vec<Refusal>) {
    let sign_ins = (0..400).map(|n| world.sign_in(PEOPLE[n % PEOPLE.len()]));
    let asked = join_all(sign_ins.map(async |sign_in| login.open(&sign_in).await)).await;
    let (mut made, mut refused) = (Vec::new(), Vec::new());
    for one in asked {
        match one {
            Ok(Some(Opened::Issued(issued))) => made.push(issued),
            Ok(other) => panic!("{other:?}"),
            Err(refusal) => refused.push(refusal),
        }
    }
    (made, refused)
}

#[track_caller]
fn are_too_many(refused: &[Refusal], limit: &str) {
    for refusal in refused {
        assert_refused(refusal, Code::ResourceExhausted, "TOO_MANY_WAITING");
        assert_eq!(refusal.metadata("limit"), Some(limit), "{refusal:?}");
        assert!(refusal.retry_after().is_some(), "{refusal:?}");
    }
}

#[tokio::test]
async fn no_more_approvals_wait_than_the_broker_takes_however_many_come_at_once_and_after_a_restart()
-> Result<()> {
    let mut world = crowded("5", "5").await?;
    let (made, refused) = four_hundred(&world, &world.login).await;
    assert_eq!((made.len(), refused.len()), (5, 395));
    are_too_many(&refused, "broker");
    killed_and_started(&mut world).await?;
    let (none, refused) = four_hundred(&world, &world.login).await;
    assert!(none.is_empty(), "five wait since before");
    are_too_many(&refused, "broker");
    // Those that wait are told of, and end; then there is room for as many again.
    for issued in &made {
        let mut watching = world.login.watch(&issued.approval_id, 0).await?;
        world.login.cancel(&issued.approval_id).await?;
        assert_eq!(outcome(&mut watching).await?.kind(), OutcomeKind::Cancelled);
    }
    let (made, refused) = four_hundred(&world, &world.login).await;
    assert_eq!((made.len(), refused.len()), (5, 395));
    are_too_many(&refused, "broker");
    assert_eq!(Ledger::read(&world.broker).await?.count(EventType::ApprovalRequested), 10);
    Ok(())
}

#[tokio::test]
async fn a_relying_party_that_has_its_share_of_approvals_keeps_no_other_from_its_own() -> Result<()> {
    let world = crowded("10", "6").await?;
    let other = party(&world, "Other", REALM).await?;
    let ida = world.enrol("ida", Service::Apns, Algorithm::Es256).await?;
    let (made, refused) = four_hundred(&world, &world.login).await;
    assert_eq!((made.len(), refused.len()), (6, 394));
    are_too_many(&refused, "relying_party");
    let (mut updates, issued) = ask(&other.login, &world.sign_in("ida")).await?;
    approve(&world, &ida.phone, &issued).await?;
    assert_eq!(outcome(&mut updates).await?.kind(), OutcomeKind::Approved);
    let (made, refused) = four_hundred(&world, &other.login).await;
    assert_eq!((made.len(), refused.len()), (4, 396));
    are_too_many(&refused, "broker");
    Ok(())
}
