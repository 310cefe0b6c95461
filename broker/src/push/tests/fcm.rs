//! One connection to the simulated FCM.

use std::sync::Arc;

use countersign_domain::event::PushServiceKind::{Apns, Fcm};
use device_sim::push_services::{Death, Device, Effect, ErrorCode, Fault, Place, Service};

use super::*;
use crate::push::{Accepted, Error, PushService};

const MINUTE: Duration = Duration::from_secs(60);

impl Simulated {
    fn fcm_connection(&self) -> Arc<dyn PushService> {
        fcm_client::connect(&self.fcm("connections = 1")).unwrap().connections.remove(0)
    }

    fn android(&self) -> (Device, PushTarget) {
        let device = self.services.new_device(Service::Fcm).unwrap();
        let target = target(Fcm, device.target());
        (device, target)
    }

    fn fcm_fault(&self, fault: Fault) {
        self.services.faults().arm(fault.at(Place::Fcm)).unwrap();
    }

    fn token_fault(&self, fault: Fault) {
        self.services.faults().arm(fault.at(Place::FcmToken)).unwrap();
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
async fn a_push_arrives_as_data_with_its_priority_and_its_end() {
    let simulated = Simulated::start().await;
    let (android, target) = simulated.android();
    let connection = simulated.fcm_connection();
    for (kind, priority) in PushKind::ALL.into_iter().zip(["HIGH", "HIGH", "NORMAL", "NORMAL"]) {
        let accepted = send(&simulated, &connection, &target, kind).await.unwrap();
        let push = soon(android.next_push()).await.unwrap();
        assert_eq!(*push.id, *accepted.push_id);
        let body: serde_json::Value = serde_json::from_slice(&push.body).unwrap();
        assert_eq!(body["data"]["kind"], kind.as_str());
        assert_eq!(body["data"]["id"], message(kind, simulated.now()).id);
        assert_eq!(body["android"]["priority"], priority);
        assert!(["59s", "60s"].contains(&body["android"]["ttl"].as_str().unwrap()), "{body}");
        assert_eq!(body["notification"], serde_json::Value::Null);
    }
    assert_eq!(simulated.services.counters().access_tokens, 1, "one token for all");
}

#[tokio::test]
async fn every_documented_code_is_told_apart_over_the_wire() {
    let simulated = Simulated::start().await;
    let (_android, target) = simulated.android();
    let connection = simulated.fcm_connection();
    for code in ErrorCode::ALL {
        simulated.fcm_fault(Fault::new(Effect::Fcm(code)).times(1));
        let error =
            send(&simulated, &connection, &target, PushKind::Challenge).await.expect_err(code.as_str());
        assert!(error.reason().starts_with(code.as_str()), "{code:?}: {error}");
        assert!(!error.to_string().contains(target.token()), "{error}");
        let expected = match (code.as_str(), &error) {
            ("UNREGISTERED" | "SENDER_ID_MISMATCH", Error::Dead { .. })
            | ("UNAVAILABLE" | "INTERNAL", Error::Retry { after: None, .. })
            | ("INVALID_ARGUMENT" | "THIRD_PARTY_AUTH_ERROR", Error::Refused { .. }) => true,
            ("QUOTA_EXCEEDED", Error::Retry { after, .. }) => *after == Some(MINUTE),
            _ => false,
        };
        assert!(expected, "{code:?}: {error:?}");
    }
    send(&simulated, &connection, &target, PushKind::Challenge).await.unwrap();
}

#[tokio::test]
async fn what_is_no_target_of_this_project_is_dead() {
    let simulated = Simulated::start().await;
    let connection = simulated.fcm_connection();
    let (_android, gone) = simulated.android();
    simulated.services.kill(gone.token(), Death::Unregistered);
    let others = simulated.services.new_target(Service::Fcm, Some("another-project")).unwrap();
    for (target, expected) in [
        (gone, "UNREGISTERED"),
        (target(Fcm, &others), "SENDER_ID_MISMATCH"),
        (target(Fcm, "nonsense"), "INVALID_ARGUMENT: message.token"),
    ] {
        match send(&simulated, &connection, &target, PushKind::Challenge).await {
            Err(Error::Dead { reason, since: None }) => assert_eq!(reason, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
    let wrong = target(Apns, &"ab".repeat(32));
    let answer = send(&simulated, &connection, &wrong, PushKind::Challenge).await;
    assert!(matches!(answer, Err(Error::Refused { .. })), "{answer:?}");
}

#[tokio::test]
async fn retry_after_is_handed_on() {
    let simulated = Simulated::start().await;
    let (_android, target) = simulated.android();
    let connection = simulated.fcm_connection();
    for status in [429, 503] {
        let fault = Fault::new(Effect::Status(status)).retry_after(Duration::from_secs(7)).times(1);
        simulated.fcm_fault(fault);
        match send(&simulated, &connection, &target, PushKind::Challenge).await {
            Err(Error::Retry { after, .. }) => assert_eq!(after, Some(Duration::from_secs(7))),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn pushes_that_need_a_token_at_once_ask_for_one_together() {
    let simulated = Simulated::start().await;
    let (_android, target) = simulated.android();
    let connections = fcm_client::connect(&simulated.fcm("connections = 4")).unwrap().connections;
    let now = simulated.now();
    let pushes: Vec<_> = (0..40)
        .map(|n| {
            let (connection, target) = (Arc::clone(&connections[n % 4]), target.clone());
            tokio::spawn(async move { connection.send(&target, &message(PushKind::Notice, now), now).await })
        })
        .collect();
    for push in pushes {
        soon(push).await.unwrap().unwrap();
    }
    assert_eq!(simulated.services.counters().access_tokens, 1);
}

#[tokio::test]
async fn a_token_is_renewed_ahead_of_its_end_and_nobody_waits_for_it() {
    let simulated = Simulated::start().await;
    let (_android, target) = simulated.android();
    let connection = simulated.fcm_connection();
    let tokens = || simulated.services.counters().access_tokens;
    let advance = |time| simulated.services.clock().advance(time);
    send(&simulated, &connection, &target, PushKind::Challenge).await.unwrap();
    advance(54 * MINUTE);
    send(&simulated, &connection, &target, PushKind::Challenge).await.unwrap();
    assert_eq!(tokens(), 1);

    // Due, and the endpoint never answers: the old token is still good.
    advance(2 * MINUTE);
    let silence = Fault::new(Effect::Silence).at(Place::FcmToken);
    let silence = simulated.services.faults().arm(silence).unwrap();
    for _ in 0..3 {
        send(&simulated, &connection, &target, PushKind::Challenge).await.unwrap();
    }
    assert_eq!(tokens(), 1);
    simulated.services.faults().disarm(silence);

    // The same with an answer: the next token is there soon, and nobody had to wait.
    let connection = simulated.fcm_connection();
    send(&simulated, &connection, &target, PushKind::Challenge).await.unwrap();
    advance(57 * MINUTE);
    let before = tokens();
    send(&simulated, &connection, &target, PushKind::Challenge).await.unwrap();
    soon(async {
        while tokens() == before {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(tokens(), before + 1);
}

#[tokio::test]
async fn a_token_that_fcm_does_not_take_is_renewed_once() {
    let simulated = Simulated::start().await;
    let (_android, target) = simulated.android();
    let connection = simulated.fcm_connection();
    let tokens = || simulated.services.counters().access_tokens;
    send(&simulated, &connection, &target, PushKind::Challenge).await.unwrap();
    // Two hours later by FCM's clock alone, so that the token looks good here.
    let now = simulated.now();
    simulated.fcm_fault(Fault::new(Effect::Status(401)).times(1));
    soon(connection.send(&target, &message(PushKind::Challenge, now), now)).await.unwrap();
    assert_eq!(tokens(), 2);

    // It goes on: neither the push nor the token is tried in a loop.
    simulated.fcm_fault(Fault::new(Effect::Status(401)));
    let requests = simulated.services.counters().requests;
    let answer = send(&simulated, &connection, &target, PushKind::Challenge).await;
    match answer {
        Err(Error::Refused { reason }) => assert!(reason.starts_with("UNAUTHENTICATED"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(tokens(), 2);
    assert_eq!(simulated.services.counters().requests, requests + 1);

    // A minute later one more is worth a try.
    let later = simulated.now().plus(MINUTE);
    let answer = soon(connection.send(&target, &message(PushKind::Challenge, later), later)).await;
    assert!(matches!(answer, Err(Error::Refused { .. })), "{answer:?}");
    assert_eq!(tokens(), 3);
    assert_eq!(simulated.services.counters().requests, requests + 3);
}

#[tokio::test]
async fn a_token_that_fcm_does_not_take_is_renewed_once_for_all_who_used_it() {
    let simulated = Simulated::start().await;
    let connections = fcm_client::connect(&simulated.fcm("connections = 2")).unwrap().connections;
    let androids: Vec<_> = (0..10).map(|_| simulated.android()).collect();
    send(&simulated, &connections[0], &androids[0].1, PushKind::Challenge).await.unwrap();
    let now = simulated.now();
    let pushes: Vec<_> = androids
        .iter()
        .enumerate()
        .map(|(n, (_, target))| {
            simulated.fcm_fault(Fault::new(Effect::Status(401)).target(target.token()).times(1));
            let (connection, target) = (Arc::clone(&connections[n % 2]), target.clone());
            tokio::spawn(async move { connection.send(&target, &message(PushKind::Trial, now), now).await })
        })
        .collect();
    for push in pushes {
        soon(push).await.unwrap().unwrap();
    }
    assert_eq!(simulated.services.counters().access_tokens, 2);
}

#[tokio::test]
async fn a_token_endpoint_out_of_order_is_left_alone_as_long_as_it_asks() {
    let simulated = Simulated::start().await;
    let (_android, target) = simulated.android();
    let connection = simulated.fcm_connection();
    let start = simulated.now();
    simulated.token_fault(Fault::new(Effect::Status(503)).retry_after(Duration::from_secs(30)).times(1));
    for (seconds, left) in [(0, 30), (10, 20), (29, 1)] {
        let now = start.plus(Duration::from_secs(seconds));
        match soon(connection.send(&target, &message(PushKind::Challenge, now), now)).await {
            Err(Error::Retry { reason, after }) => {
                assert!(reason.starts_with("no access token"), "{reason}");
                assert_eq!(after, Some(Duration::from_secs(left)));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(simulated.services.counters().struck_by_faults, 1);
    let now = start.plus(Duration::from_secs(30));
    soon(connection.send(&target, &message(PushKind::Challenge, now), now)).await.unwrap();
}

#[tokio::test]
async fn an_account_that_is_refused_a_token_is_said_to_be_wrong() {
    let simulated = Simulated::start().await;
    let (_android, target) = simulated.android();
    let connection = simulated.fcm_connection();
    // An assertion of long ago: what a wrong clock makes.
    let past = simulated.now().minus(Duration::from_secs(7_200));
    for _ in 0..2 {
        match soon(connection.send(&target, &message(PushKind::Challenge, past), past)).await {
            Err(Error::Refused { reason }) => {
                assert!(reason.contains("invalid_grant") && reason.contains("clock"), "{reason}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(simulated.services.counters().requests, 0);
}

#[tokio::test]
async fn a_reset_or_closed_connection_is_followed_by_another() {
    let simulated = Simulated::start().await;
    let (_android, target) = simulated.android();
    let connection = simulated.fcm_connection();
    send(&simulated, &connection, &target, PushKind::Challenge).await.unwrap();
    simulated.fcm_fault(Fault::new(Effect::Reset).times(1));
    let answer = send(&simulated, &connection, &target, PushKind::Challenge).await;
    assert!(matches!(answer, Err(Error::Unreachable { .. })), "{answer:?}");
    send(&simulated, &connection, &target, PushKind::Challenge).await.unwrap();
    simulated.fcm_fault(Fault::new(Effect::GoAway(push_services::Reason::Shutdown)).times(1));
    let _ = send(&simulated, &connection, &target, PushKind::Challenge).await;
    send(&simulated, &connection, &target, PushKind::Challenge).await.unwrap();
}
