//! One connection to the simulated APNs.

use std::{collections::HashSet, sync::Arc};

use countersign_domain::event::PushServiceKind::{Apns, Fcm};
use device_sim::push_services::{Death, Device, Effect, Fault, Place, Reason, Service};

use super::*;
use crate::push::{Accepted, Error, PushService};

const MINUTE: Duration = Duration::from_secs(60);

impl Simulated {
    /// One connection as configured.
    fn apns_connection(&self) -> Arc<dyn PushService> {
        apns_client::connect(&self.apns("connections = 1")).unwrap().connections.remove(0)
    }

    fn iphone(&self) -> (Device, PushTarget) {
        let device = self.services.new_device(Service::Apns).unwrap();
        let target = target(Apns, device.target());
        (device, target)
    }

    /// Arms a fault of APNs.
    fn apns_fault(&self, effect: Effect, times: u64) {
        self.services.faults().arm(Fault::new(effect).at(Place::Apns).times(times)).unwrap();
    }
}

async fn send(
    simulated: &Simulated,
    connection: &Arc<dyn PushService>,
    target: &PushTarget,
    kind: PushKind,
) -> Result<Accepted, Error> {
    let now = simulated.now();
    soon(connection.send(target, &message(kind, now), now)).await
}

#[tokio::test]
async fn a_challenge_arrives_with_the_headers_that_it_needs() {
    let simulated = Simulated::start().await;
    let (iphone, target) = simulated.iphone();
    let now = simulated.now();
    let sent = message(PushKind::Challenge, now);
    let accepted = soon(simulated.apns_connection().send(&target, &sent, now)).await.unwrap();

    let push = soon(iphone.next_push()).await.unwrap();
    assert_eq!(*push.id, *accepted.push_id);
    let header = |name: &str| push.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("none");
    assert_eq!(header("apns-topic"), simulated.services.topic());
    assert_eq!(header("apns-push-type"), "alert");
    assert_eq!(header("apns-priority"), "10");
    assert_eq!(header("apns-collapse-id"), sent.id);
    assert_eq!(header("apns-expiration"), (sent.expires_at.as_millis() / 1_000).to_string());
    assert_eq!(header("apns-id"), accepted.push_id);
    let body: serde_json::Value = serde_json::from_slice(&push.body).unwrap();
    assert_eq!(body["countersign"]["id"], sent.id);
    assert_eq!(body["aps"]["category"], "COUNTERSIGN_APPROVAL");
}

#[tokio::test]
async fn what_can_wait_is_sent_with_low_priority_and_replaces_what_is_shown() {
    let simulated = Simulated::start().await;
    let (iphone, target) = simulated.iphone();
    let connection = simulated.apns_connection();
    let mut ids = HashSet::new();
    for (kind, priority) in PushKind::ALL.into_iter().zip(["10", "10", "5", "5"]) {
        let accepted = send(&simulated, &connection, &target, kind).await.unwrap();
        assert!(ids.insert(accepted.push_id), "every push has an id of its own");
        let push = soon(iphone.next_push()).await.unwrap();
        assert_eq!(push.headers["apns-priority"], priority, "{kind:?}");
        assert_eq!(push.headers["apns-collapse-id"], message(kind, simulated.now()).id);
    }
}

#[tokio::test]
async fn a_push_that_is_sent_again_keeps_its_id() {
    let simulated = Simulated::start().await;
    let (_iphone, target) = simulated.iphone();
    let connection = simulated.apns_connection();
    let first = send(&simulated, &connection, &target, PushKind::Challenge).await.unwrap();
    let again = send(&simulated, &connection, &target, PushKind::Challenge).await.unwrap();
    assert_eq!(first, again);
}

#[tokio::test]
async fn every_documented_reason_is_told_apart_over_the_wire() {
    let simulated = Simulated::start().await;
    let (_iphone, target) = simulated.iphone();
    let connection = simulated.apns_connection();
    for reason in Reason::ALL {
        simulated.apns_fault(Effect::Apns(*reason), 1);
        let answer = send(&simulated, &connection, &target, PushKind::Challenge).await;
        let error = answer.expect_err(reason.as_str());
        assert!(error.reason().starts_with(reason.as_str()), "{reason:?}: {error}");
        assert!(!error.to_string().contains(target.token()), "{error}");
        let expected = match reason.as_str() {
            "Unregistered" | "ExpiredToken" | "BadDeviceToken" => "dead",
            "TooManyRequests"
            | "TooManyProviderTokenUpdates"
            | "InternalServerError"
            | "ServiceUnavailable"
            | "Shutdown"
            | "IdleTimeout"
            // The token is new: another may not be made.
            | "ExpiredProviderToken" => "retry",
            _ => "refused",
        };
        let got = match error {
            Error::Dead { .. } => "dead",
            Error::Retry { .. } => "retry",
            Error::Refused { .. } => "refused",
            Error::Unreachable { .. } => "unreachable",
        };
        assert_eq!(got, expected, "{reason:?}");
    }
    simulated.services.faults().clear();
    send(&simulated, &connection, &target, PushKind::Challenge).await.unwrap();
}

#[tokio::test]
async fn a_dead_target_is_reported_with_the_time_of_its_death() {
    let simulated = Simulated::start().await;
    let (_iphone, target) = simulated.iphone();
    let connection = simulated.apns_connection();
    let before = simulated.now();
    simulated.services.kill(target.token(), Death::Unregistered);
    match send(&simulated, &connection, &target, PushKind::Challenge).await {
        Err(Error::Dead { reason, since: Some(since) }) => {
            assert_eq!(reason, "Unregistered");
            assert!((before..=simulated.now()).contains(&since), "{since:?}");
        }
        other => panic!("{other:?}"),
    }
    let nobodys = super::target(Apns, &"ab".repeat(32));
    match send(&simulated, &connection, &nobodys, PushKind::Challenge).await {
        Err(Error::Dead { reason, since: None }) => assert_eq!(reason, "BadDeviceToken"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn retry_after_is_handed_on() {
    let simulated = Simulated::start().await;
    let (_iphone, target) = simulated.iphone();
    let connection = simulated.apns_connection();
    for status in [429, 503] {
        let fault = Fault::new(Effect::Status(status)).retry_after(Duration::from_secs(7)).times(1);
        simulated.services.faults().arm(fault).unwrap();
        match send(&simulated, &connection, &target, PushKind::Challenge).await {
            Err(Error::Retry { after, .. }) => assert_eq!(after, Some(Duration::from_secs(7))),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_target_that_is_none_of_apns_is_not_even_sent() {
    let simulated = Simulated::start().await;
    let connection = simulated.apns_connection();
    for wrong in [
        super::target(Fcm, &"ab".repeat(32)),
        super::target(Apns, ""),
        super::target(Apns, "../../other/path"),
        super::target(Apns, &"ab".repeat(300)),
    ] {
        let answer = send(&simulated, &connection, &wrong, PushKind::Challenge).await;
        assert!(matches!(answer, Err(Error::Refused { .. })), "{answer:?}");
    }
    let (_iphone, target) = simulated.iphone();
    let now = simulated.now();
    for id in ["", "a\nb", &"x".repeat(65)] {
        let wrong = PushMessage { id: id.to_owned(), ..message(PushKind::Challenge, now) };
        let answer = connection.send(&target, &wrong, now).await;
        assert!(matches!(answer, Err(Error::Refused { .. })), "{answer:?}");
    }
    assert_eq!(simulated.services.counters().requests, 0);
}

#[tokio::test]
async fn all_connections_use_one_token_and_renew_it_before_it_is_an_hour_old() {
    let simulated = Simulated::start().await;
    let (_iphone, target) = simulated.iphone();
    let connections = apns_client::connect(&simulated.apns("connections = 2")).unwrap().connections;
    // A token every 40 minutes, over three hours: none too old, and no two within 20 minutes on a connection, or
    // the simulated APNs would refuse them.
    for _ in 0..36 {
        for connection in &connections {
            send(&simulated, connection, &target, PushKind::Challenge).await.unwrap();
        }
        simulated.services.clock().advance(5 * MINUTE);
    }
    assert_eq!(simulated.services.counters().connections, 2);
}

#[tokio::test]
async fn a_token_that_apple_calls_expired_is_renewed_once_for_all_who_used_it() {
    let simulated = Simulated::start().await;
    let (_iphone, target) = simulated.iphone();
    let connections = apns_client::connect(&simulated.apns("connections = 2")).unwrap().connections;
    // This machine's clock is 25 minutes slow: at 36 minutes the token is good here, and too old there.
    let slow = |now: Timestamp| now.minus(25 * MINUTE);
    let now = simulated.now();
    for connection in &connections {
        soon(connection.send(&target, &message(PushKind::Trial, now), slow(now))).await.unwrap();
    }
    simulated.services.clock().advance(36 * MINUTE);
    let now = simulated.now();
    let before = simulated.services.counters();
    let pushes = (0..20).map(|n| {
        let (connection, target) = (Arc::clone(&connections[n % 2]), target.clone());
        tokio::spawn(async move { connection.send(&target, &message(PushKind::Trial, now), slow(now)).await })
    });
    let pushes: Vec<_> = pushes.collect();
    for push in pushes {
        soon(push).await.unwrap().unwrap();
    }
    let after = simulated.services.counters();
    assert_eq!(after.accepted - before.accepted, 20);
    assert!((1..=20).contains(&(after.refused - before.refused)), "{after:?}");
    let reasons: HashSet<_> = simulated.services.received().iter().filter_map(|push| push.reason).collect();
    assert_eq!(reasons, HashSet::from(["ExpiredProviderToken"]), "a second new token would be too many");
}

#[tokio::test]
async fn a_token_that_stays_expired_is_not_renewed_in_a_loop() {
    let simulated = Simulated::start().await;
    let (_iphone, target) = simulated.iphone();
    let connection = simulated.apns_connection();
    // Two hours slow: whatever token is made here is expired there.
    let slow = simulated.now().minus(120 * MINUTE);
    for expected in 1..=3 {
        let answer = soon(connection.send(&target, &message(PushKind::Challenge, slow), slow)).await;
        match answer {
            Err(Error::Retry { reason, .. }) => assert!(reason.contains("clock"), "{reason}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(simulated.services.counters().requests, expected, "the same token is not offered again");
    }
    // An old token is renewed; the new one is expired too, and that is the end.
    let later = slow.plus(21 * MINUTE);
    let answer = soon(connection.send(&target, &message(PushKind::Challenge, later), later)).await;
    assert!(matches!(answer, Err(Error::Retry { .. })), "{answer:?}");
    assert_eq!(simulated.services.counters().requests, 5);
}

#[tokio::test]
async fn a_reset_connection_is_unreachable_and_the_next_push_opens_another() {
    let simulated = Simulated::start().await;
    let (_iphone, target) = simulated.iphone();
    let connection = simulated.apns_connection();
    send(&simulated, &connection, &target, PushKind::Challenge).await.unwrap();
    simulated.apns_fault(Effect::Reset, 1);
    let answer = send(&simulated, &connection, &target, PushKind::Challenge).await;
    match answer {
        Err(Error::Unreachable { reason }) => assert!(!reason.contains(target.token()), "{reason}"),
        other => panic!("{other:?}"),
    }
    send(&simulated, &connection, &target, PushKind::Challenge).await.unwrap();
    assert_eq!(simulated.services.counters().connections, 2);
}

#[tokio::test]
async fn a_connection_that_apple_closes_costs_no_push() {
    let simulated = Simulated::start().await;
    let (_iphone, target) = simulated.iphone();
    let connection = simulated.apns_connection();
    send(&simulated, &connection, &target, PushKind::Challenge).await.unwrap();
    simulated.apns_fault(Effect::GoAway(Reason::Shutdown), 1);
    // The stream was refused and never looked at: it is sent again on the next connection.
    send(&simulated, &connection, &target, PushKind::Challenge).await.unwrap();
    send(&simulated, &connection, &target, PushKind::Challenge).await.unwrap();
    assert_eq!(simulated.services.counters().connections, 2);
}

#[tokio::test]
async fn a_silent_connection_is_left_once_for_all_who_waited_on_it() {
    let simulated = Simulated::start().await;
    let (_iphone, target) = simulated.iphone();
    let connection = simulated.apns_connection();
    send(&simulated, &connection, &target, PushKind::Challenge).await.unwrap();
    simulated.apns_fault(Effect::Silence, 3);
    let now = simulated.now();
    let asked = message(PushKind::Challenge, now);
    let (impatient, target_, asked_) = (Arc::clone(&connection), target.clone(), asked.clone());
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let (connection, target, asked) = (Arc::clone(&impatient), target_.clone(), asked_.clone());
            tokio::spawn(async move { connection.send(&target, &asked, now).await })
        })
        .collect();
    while simulated.services.counters().struck_by_faults < 3 {
        tokio::task::yield_now().await;
    }
    for push in waiting {
        push.abort();
        assert!(push.await.unwrap_err().is_cancelled());
        // The first to give up has it replaced; those who give up later do not take the new one down.
        send(&simulated, &connection, &target, PushKind::Challenge).await.unwrap();
    }
    assert_eq!(simulated.services.counters().connections, 2);
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_not_trusted() {
    let simulated = Simulated::start().await;
    let (_iphone, target) = simulated.iphone();
    let mut settings = simulated.apns("connections = 1");
    let other = push_services::Identity::generate("another").unwrap();
    let other = other.save(&simulated.folder.path().join("other"), "https://localhost").unwrap();
    for ca_file in [Some(other.ca), None] {
        settings.ca_file = ca_file;
        let connection = apns_client::connect(&settings).unwrap().connections.remove(0);
        match send(&simulated, &connection, &target, PushKind::Challenge).await {
            Err(Error::Unreachable { reason }) => assert!(reason.contains("certificate"), "{reason}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(simulated.services.counters().requests, 0);
}
