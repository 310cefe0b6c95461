//! Every fault of a push service: what the page is told, what becomes of the push, and that the phone approves anyway.

use std::time::Duration;

use anyhow::Context as _;
use countersign_envelope::Algorithm;
use countersign_proto::v1::{OutcomeKind, progress::Kind};
use countersign_tests::{
    Result, World,
    world::{EnrolledPhone, PATIENCE, issued, outcome, received},
};
use device_sim::{
    login::{Issued, Progress, Step, Updates},
    phone::{PushKind, Received},
    push_services::{Death, Effect, ErrorCode, Fault, Place, Reason, Service},
};

use crate::support::{approve, push_of};

/// Retries soon, and takes a service that says nothing for silent soon: nobody waits in these tests.
const QUICK: &str = "
[push.apns.queue]
attempt_timeout_ms = 1500
retry_first_ms = 50
retry_max_ms = 200
[push.fcm.queue]
attempt_timeout_ms = 1500
retry_first_ms = 50
retry_max_ms = 200
";

/// A world with one phone, and a fault that its next pushes meet.
async fn meeting(service: Service, fault: Fault) -> Result<(World, EnrolledPhone)> {
    let world = World::with(QUICK).await?;
    let algorithm = if service == Service::Apns { Algorithm::Es256 } else { Algorithm::Ed25519 };
    let phone = world.enrol("alice", service, algorithm).await?;
    let place = if service == Service::Apns { Place::Apns } else { Place::Fcm };
    world.push.faults().arm(fault.at(place))?;
    Ok((world, phone))
}

async fn asked(world: &World) -> Result<(Updates, Issued)> {
    let mut updates = world.login.request(&world.sign_in("alice")).await?;
    let issued = issued(&mut updates).await?;
    Ok((updates, issued))
}

async fn progress(updates: &mut Updates) -> Result<Progress> {
    let next = tokio::time::timeout(PATIENCE, updates.next()).await.context("no progress comes")??;
    match next.context("the stream ended")?.step {
        Step::Progress(progress) => Ok(progress),
        other => anyhow::bail!("not progress: {other:?}"),
    }
}

/// The push meets the fault once, is sent again, and arrives; the page is told of nothing but that.
async fn is_retried(service: Service, fault: Fault) -> Result<()> {
    let (world, alice) = meeting(service, fault.clone().times(1)).await?;
    let (mut updates, issued) = asked(&world).await?;
    let push = received(&alice.device).await?;
    assert_eq!(push.id, issued.approval_id);
    assert_eq!(progress(&mut updates).await?.kind, Kind::AcceptedByPushService, "{fault:?}");
    assert!(world.push.faults().list().iter().all(|armed| armed.struck == 1), "{fault:?} did not strike");
    approve(&world, &alice.phone, &issued).await?;
    assert_eq!(outcome(&mut updates).await?.kind(), OutcomeKind::Approved);
    Ok(())
}

/// The push will never be taken, and the page is told why; the phone lists what waits, and approves.
async fn fails(service: Service, fault: Fault, reason: &str) -> Result<()> {
    let (world, alice) = meeting(service, fault).await?;
    let (mut updates, issued) = asked(&world).await?;
    let told = progress(&mut updates).await?;
    assert_eq!(told.kind, Kind::PushFailed);
    assert!(told.reason.contains(reason), "{}", told.reason);
    approved_from_the_list(&world, &alice, &issued, &mut updates).await
}

async fn approved_from_the_list(
    world: &World,
    alice: &EnrolledPhone,
    issued: &Issued,
    updates: &mut Updates,
) -> Result<()> {
    let waiting = alice.phone.list_waiting(&world.transport, world.now()).await?;
    assert_eq!(waiting.challenges.len(), 1);
    approve(world, &alice.phone, issued).await?;
    assert_eq!(outcome(updates).await?.kind(), OutcomeKind::Approved);
    Ok(())
}

#[tokio::test]
async fn an_apns_that_says_not_now_is_asked_again() -> Result<()> {
    for status in [429, 500, 503] {
        is_retried(Service::Apns, Fault::new(Effect::Status(status))).await?;
    }
    is_retried(Service::Apns, Fault::new(Effect::Apns(Reason::TooManyRequests))).await
}

#[tokio::test]
async fn an_fcm_that_says_not_now_is_asked_again() -> Result<()> {
    for status in [500, 503] {
        is_retried(Service::Fcm, Fault::new(Effect::Status(status))).await?;
    }
    // Without Retry-After a 429 of FCM means a minute.
    is_retried(Service::Fcm, Fault::new(Effect::Status(429)).retry_after(Duration::from_secs(1))).await
}

#[tokio::test]
async fn a_connection_that_is_reset_or_goes_away_is_made_anew() -> Result<()> {
    for service in [Service::Apns, Service::Fcm] {
        is_retried(service, Fault::new(Effect::Reset)).await?;
        is_retried(service, Fault::new(Effect::GoAway(Reason::Shutdown))).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_service_that_accepts_and_never_answers_is_asked_again_elsewhere() -> Result<()> {
    is_retried(Service::Apns, Fault::new(Effect::Silence)).await?;
    is_retried(Service::Fcm, Fault::new(Effect::Silence)).await
}

#[tokio::test]
async fn a_provider_token_that_apns_calls_expired_too_early_is_no_end_of_the_push() -> Result<()> {
    is_retried(Service::Apns, Fault::new(Effect::Apns(Reason::ExpiredProviderToken))).await
}

#[tokio::test]
async fn an_access_token_that_cannot_be_had_is_asked_for_again() -> Result<()> {
    let world = World::with(QUICK).await?;
    // Before the broker has one: its first push is that of the trial.
    let fault =
        Fault::new(Effect::Status(503)).at(Place::FcmToken).retry_after(Duration::from_secs(1)).times(1);
    world.push.faults().arm(fault)?;
    let alice = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    let (mut updates, issued) = asked(&world).await?;
    assert_eq!(received(&alice.device).await?.id, issued.approval_id);
    approve(&world, &alice.phone, &issued).await?;
    assert_eq!(outcome(&mut updates).await?.kind(), OutcomeKind::Approved);
    Ok(())
}

#[tokio::test]
async fn a_push_that_will_never_be_taken_is_told_and_the_phone_lists_what_waits() -> Result<()> {
    fails(Service::Apns, Fault::new(Effect::Apns(Reason::TopicDisallowed)), "TopicDisallowed").await?;
    fails(Service::Apns, Fault::new(Effect::Apns(Reason::InvalidProviderToken)), "InvalidProviderToken")
        .await?;
    fails(Service::Fcm, Fault::new(Effect::Fcm(ErrorCode::ThirdPartyAuthError)), "THIRD_PARTY_AUTH_ERROR")
        .await
}

#[tokio::test]
async fn a_push_service_that_asks_to_wait_is_said_to_be_late_and_asked_again() -> Result<()> {
    let late = Fault::new(Effect::Status(503)).retry_after(Duration::from_secs(3)).times(1);
    let (world, alice) = meeting(Service::Fcm, late).await?;
    let (mut updates, issued) = asked(&world).await?;
    let told = progress(&mut updates).await?;
    assert_eq!(told.kind, Kind::PushDelayed);
    assert!(!told.reason.is_empty());
    assert_eq!(progress(&mut updates).await?.kind, Kind::AcceptedByPushService);
    assert_eq!(received(&alice.device).await?.id, issued.approval_id);
    Ok(())
}

/// The target is dead: told as progress, recorded, not pushed to again, until the phone gives another.
async fn dies(service: Service, kill: impl FnOnce(&World, &EnrolledPhone), reason: &str) -> Result<()> {
    let world = World::with(QUICK).await?;
    let alice = world.enrol("alice", service, Algorithm::Ed25519).await?;
    kill(&world, &alice);
    let (mut updates, first) = asked(&world).await?;
    let told = progress(&mut updates).await?;
    assert_eq!((told.kind, told.reason.as_str()), (Kind::PushFailed, reason));
    approved_from_the_list(&world, &alice, &first, &mut updates).await?;

    // Not pushed to again.
    let alive = async {
        while world.page.list("alice").await?[0].push_target_alive {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok::<_, anyhow::Error>(())
    };
    tokio::time::timeout(PATIENCE, alive).await.context("the target stays alive")??;
    world.push.faults().clear();
    let (mut updates, second) = asked(&world).await?;
    assert_eq!(progress(&mut updates).await?.reason, "NO_PUSH_TARGET");
    approve(&world, &alice.phone, &second).await?;

    let device = world.push.new_device(service)?;
    let target = match service {
        Service::Apns => device_sim::phone::PushTarget::Apns(device.target().to_owned()),
        Service::Fcm => device_sim::phone::PushTarget::Fcm(device.target().to_owned()),
    };
    alice.phone.replace_push_target(&world.transport, target).await?;
    let (_updates, third) = asked(&world).await?;
    assert_eq!(received(&device).await?.id, third.approval_id);
    Ok(())
}

#[tokio::test]
async fn a_dead_target_becomes_an_event_and_is_not_pushed_to_again() -> Result<()> {
    let kill = |world: &World, alice: &EnrolledPhone| {
        assert!(world.push.kill(alice.device.target(), Death::Unregistered));
    };
    dies(Service::Apns, kill, "Unregistered").await?;
    dies(Service::Fcm, kill, "UNREGISTERED").await
}

#[tokio::test]
async fn a_target_of_another_app_or_sender_is_dead_too() -> Result<()> {
    let arm = |effect: Effect| {
        move |world: &World, _: &EnrolledPhone| {
            world.push.faults().arm(Fault::new(effect)).unwrap();
        }
    };
    dies(Service::Apns, arm(Effect::Apns(Reason::BadDeviceToken)), "BadDeviceToken").await?;
    dies(Service::Fcm, arm(Effect::Fcm(ErrorCode::SenderIdMismatch)), "SENDER_ID_MISMATCH").await
}

#[tokio::test]
async fn a_slow_apns_does_not_hold_up_fcm() -> Result<()> {
    let world = World::with(QUICK).await?;
    let iphone = world.enrol("alice", Service::Apns, Algorithm::Es256).await?;
    let pixel = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    // The notice of the second phone.
    received(&iphone.device).await?;
    world.push.faults().arm(Fault::new(Effect::Silence).at(Place::Apns))?;
    for _ in 0..10 {
        let (mut updates, issued) = asked(&world).await?;
        // A phone that answers before its push service has told the broker is also told that it is over.
        assert_eq!(push_of(&pixel, PushKind::Challenge).await?.1.id, issued.approval_id);
        approve(&world, &pixel.phone, &issued).await?;
        assert_eq!(outcome(&mut updates).await?.kind(), OutcomeKind::Approved);
    }
    Ok(())
}

#[tokio::test]
async fn a_push_whose_answer_was_lost_comes_twice_and_the_phone_knows_it() -> Result<()> {
    let fault = Fault::new(Effect::Reset).delivered_first().times(1);
    let (world, alice) = meeting(Service::Fcm, fault).await?;
    let (mut updates, issued) = asked(&world).await?;
    let first = received(&alice.device).await?;
    let second = received(&alice.device).await?;
    assert_eq!((&first.id, &second.id), (&issued.approval_id, &issued.approval_id));
    assert_eq!(alice.phone.receive(&first), Received::New);
    assert_eq!(alice.phone.receive(&second), Received::Again);
    approve(&world, &alice.phone, &issued).await?;
    assert_eq!(outcome(&mut updates).await?.kind(), OutcomeKind::Approved);
    Ok(())
}
