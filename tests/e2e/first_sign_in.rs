//! The whole story once, on both push services and with both kinds of key.

use countersign_envelope::Algorithm;
use countersign_proto::v1::{OutcomeKind, progress};
use countersign_tests::{
    Result, World,
    world::{issued, outcome},
};
use device_sim::{
    login::Step,
    phone::{Decision, Push},
    push_services::Service,
};

#[tokio::test]
async fn a_sign_in_is_approved_on_a_phone_that_fcm_reaches() -> Result<()> {
    approved_by(Service::Fcm, Algorithm::Ed25519).await
}

#[tokio::test]
async fn a_sign_in_is_approved_on_a_phone_that_apns_reaches() -> Result<()> {
    approved_by(Service::Apns, Algorithm::Es256).await
}

async fn approved_by(service: Service, algorithm: Algorithm) -> Result<()> {
    let world = World::new().await?;
    let alice = world.enrol("alice", service, algorithm).await?;

    let sign_in = world.sign_in("alice").from_ip("192.0.2.7");
    let mut updates = world.login.request(&sign_in).await?;
    let issued = issued(&mut updates).await?;
    assert_eq!(issued.authenticators_addressed, 1);

    let challenge = world.challenge(&alice).await?;
    assert_eq!(challenge.approval_id(), issued.approval_id);
    assert_eq!((challenge.account_name(), challenge.application_name()), ("alice", "Webmail"));
    assert_eq!(challenge.context().source_ip, "192.0.2.7");

    let decision = Decision::Approve { number: issued.number.expose() };
    let said = alice.phone.answer(&world.transport, &challenge, decision).await?;
    assert_eq!(said, OutcomeKind::Approved);

    let outcome = outcome(&mut updates).await?;
    assert_eq!(outcome.kind(), OutcomeKind::Approved);
    assert_eq!(outcome.authenticator_id(), alice.phone.authenticator_id());
    assert!(outcome.lets_in(&sign_in.session_binding, world.now()));
    assert!(!outcome.message().phishing_resistant);
    assert!(updates.next().await?.is_none(), "nothing comes after the outcome");
    Ok(())
}

#[tokio::test]
async fn the_page_is_told_how_far_the_push_has_come() -> Result<()> {
    let world = World::new().await?;
    let alice = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    let mut updates = world.login.request(&world.sign_in("alice")).await?;
    issued(&mut updates).await?;
    let push: Push = countersign_tests::world::received(&alice.device).await?;
    alice.phone.acknowledge_delivered(&world.transport, &push).await?;
    alice.phone.acknowledge_opened(&world.transport, &push).await?;
    alice.phone.acknowledge_opened(&world.transport, &push).await?;
    let mut kinds = Vec::new();
    while kinds.len() < 3 {
        match updates.next().await?.unwrap().step {
            Step::Progress(progress) => kinds.push(progress.kind),
            other => panic!("{other:?}"),
        }
    }
    kinds.sort();
    let all = [progress::Kind::AcceptedByPushService, progress::Kind::Delivered, progress::Kind::Opened];
    assert_eq!(kinds, all);
    Ok(())
}
