//! Every fault, at both services.

use std::time::{Duration, Instant};

use device_sim::push_services::{Effect, ErrorCode, Fault, Place, Reason, Service};
use serde_json::json;

use crate::client::{self, Apns, Fcm, assertion, grant, provider_token, soon, start};

#[tokio::test]
async fn a_status_is_answered_with_the_reason_it_most_likely_has_and_retry_after() {
    let services = start().await;
    let iphone = services.new_target(Service::Apns, None).expect("room");
    let android = services.new_target(Service::Fcm, None).expect("room");
    let apns = Apns::connect(&services).await;
    let fcm = Fcm::new(&services).await;
    for (status, reason, code) in [
        (429, "TooManyRequests", "QUOTA_EXCEEDED"),
        (500, "InternalServerError", "INTERNAL"),
        (503, "ServiceUnavailable", "UNAVAILABLE"),
    ] {
        let fault = Fault::new(Effect::Status(status)).retry_after(Duration::from_secs(7));
        services.faults().clear();
        services.faults().arm(fault).expect("room");
        let answer = apns.answer(apns.request(&iphone, &provider_token(&services))).await;
        assert_eq!((answer.status, answer.reason()), (status, reason));
        assert_eq!(answer.headers["retry-after"], "7");
        let reply = fcm.message(json!({ "token": *android })).await;
        assert_eq!((reply.status, reply.error_code()), (status, code));
        assert_eq!(reply.headers["retry-after"], "7");
    }
}

#[tokio::test]
async fn latency_delays_an_answer_and_changes_nothing() {
    let services = start().await;
    let device = services.new_device(Service::Fcm).expect("room");
    let latency = Duration::from_millis(80);
    let fcm = Fcm::new(&services).await;
    services.faults().arm(Fault::new(Effect::Latency(latency))).expect("room");
    #[allow(clippy::disallowed_methods, reason = "what is measured here is time")]
    let began = Instant::now();
    assert_eq!(fcm.message(json!({ "token": device.target() })).await.status, 200);
    assert!(began.elapsed() >= latency);
    assert!(device.try_next_push().is_some());
}

#[tokio::test]
async fn a_target_that_a_fault_kills_stays_dead() {
    let services = start().await;
    let iphone = services.new_target(Service::Apns, None).expect("room");
    let android = services.new_target(Service::Fcm, None).expect("room");
    for target in [&iphone, &android] {
        services.faults().arm(Fault::new(Effect::DeadTarget).target(target).times(1)).expect("room");
    }
    let apns = Apns::connect(&services).await;
    let fcm = Fcm::new(&services).await;
    for _ in 0..2 {
        let answer = apns.answer(apns.request(&iphone, &provider_token(&services))).await;
        assert_eq!((answer.status, answer.reason()), (410, "Unregistered"));
        let reply = fcm.message(json!({ "token": *android })).await;
        assert_eq!((reply.status, reply.error_code()), (404, "UNREGISTERED"));
        services.clock().advance(Duration::from_secs(20 * 60));
    }
}

#[tokio::test]
async fn a_reset_connection_gives_no_answer_and_a_new_one_works() {
    let services = start().await;
    let iphone = services.new_target(Service::Apns, None).expect("room");
    let android = services.new_target(Service::Fcm, None).expect("room");
    let fcm = Fcm::new(&services).await;
    services.faults().arm(Fault::new(Effect::Reset).at(Place::Apns).times(1)).expect("room");
    services.faults().arm(Fault::new(Effect::Reset).at(Place::Fcm).times(1)).expect("room");

    let apns = Apns::connect(&services).await;
    let push = apns.request(&iphone, &provider_token(&services));
    apns.send(push.clone()).await.expect_err("no answer");
    let error = apns.ended().await.expect_err("no orderly end");
    let cause = error.get_io().expect("the socket's own error");
    assert_eq!(cause.kind(), std::io::ErrorKind::ConnectionReset, "{cause}");
    assert_eq!(Apns::connect(&services).await.answer(push).await.status, 200);

    let message = json!({ "message": { "token": *android } }).to_string();
    assert!(fcm.post(message.clone()).await.is_err());
    assert_eq!(fcm.post(message).await.expect("an answer").status, 200);
    assert_eq!(services.received()[0].status, None);
}

#[tokio::test]
async fn a_goaway_refuses_the_stream_and_gives_the_reason() {
    let services = start().await;
    let target = services.new_target(Service::Apns, None).expect("room");
    services.faults().arm(Fault::new(Effect::GoAway(Reason::Shutdown)).times(1)).expect("room");
    let apns = Apns::connect(&services).await;
    let push = apns.request(&target, &provider_token(&services));
    let error = apns.send(push.clone()).await.expect_err("refused");
    assert_eq!(error.reason(), Some(h2::Reason::REFUSED_STREAM), "it may be sent again");
    assert_eq!(client::goaway_debug_data(&services, &target).await, br#"{"reason":"IdleTimeout"}"#);
    assert_eq!(Apns::connect(&services).await.answer(push).await.status, 200);
}

#[tokio::test]
async fn fcm_goes_away_and_a_new_connection_works() {
    let services = start().await;
    let target = services.new_target(Service::Fcm, None).expect("room");
    for http2 in [true, false] {
        let fcm = Fcm::over(&services, http2).await;
        let fault = Fault::new(Effect::GoAway(Reason::Shutdown)).times(1).at(Place::Fcm);
        services.faults().arm(fault).expect("room");
        let message = json!({ "message": { "token": *target } }).to_string();
        // reqwest itself sends a refused stream again (RFC 9113 section 8.7).
        let first = fcm.post(message.clone()).await;
        assert!(first.is_err() || first.is_ok_and(|reply| reply.status == 200));
        assert_eq!(fcm.post(message).await.expect("an answer").status, 200);
        assert_eq!(services.faults().list().last().map(|armed| armed.struck), Some(1));
    }
}

#[tokio::test]
async fn a_request_that_is_never_answered_keeps_nobody_else() {
    let services = start().await;
    let iphone = services.new_target(Service::Apns, None).expect("room");
    let android = services.new_target(Service::Fcm, None).expect("room");
    let apns = Apns::connect(&services).await;
    let push = apns.request(&iphone, &provider_token(&services));
    let fcm = Fcm::new(&services).await;
    assert_eq!(apns.answer(push.clone()).await.status, 200);
    services.faults().arm(Fault::new(Effect::Silence).at(Place::Apns).times(1)).expect("room");
    services.faults().arm(Fault::new(Effect::Silence).at(Place::Fcm).times(1)).expect("room");

    let mut silent = Box::pin(apns.begin(push.clone()).await);
    assert_eq!(apns.answer(push).await.status, 200);
    assert!(futures::poll!(silent.as_mut()).is_pending());

    let message = json!({ "message": { "token": *android } }).to_string();
    let mut silent = Box::pin(fcm.post(message.clone()));
    assert!(futures::poll!(silent.as_mut()).is_pending());
    while services.faults().list()[1].struck == 0 {
        assert!(futures::poll!(silent.as_mut()).is_pending());
        tokio::task::yield_now().await;
    }
    assert_eq!(fcm.post(message).await.expect("an answer").status, 200);
    assert!(futures::poll!(silent.as_mut()).is_pending());
}

#[tokio::test]
async fn a_push_can_be_delivered_while_its_sender_learns_nothing() {
    let services = start().await;
    let iphone = services.new_device(Service::Apns).expect("room");
    let android = services.new_device(Service::Fcm).expect("room");
    let fcm = Fcm::new(&services).await;
    let fault = |place| Fault::new(Effect::Reset).at(place).times(1).delivered_first();
    services.faults().arm(fault(Place::Apns)).expect("room");
    services.faults().arm(fault(Place::Fcm)).expect("room");

    let apns = Apns::connect(&services).await;
    assert!(apns.send(apns.request(iphone.target(), &provider_token(&services))).await.is_err());
    assert!(soon(iphone.next_push()).await.is_some());
    assert!(fcm.post(json!({ "message": { "token": android.target() } }).to_string()).await.is_err());
    assert!(soon(android.next_push()).await.is_some());
}

#[tokio::test]
async fn the_token_endpoint_fails_on_its_own() {
    let services = start().await;
    let http = client::http(&services, true);
    let fault =
        Fault::new(Effect::Status(503)).at(Place::FcmToken).retry_after(Duration::from_secs(3)).times(1);
    services.faults().arm(fault).expect("room");
    let reply = grant(&http, &services, assertion(&services)).await;
    assert_eq!((reply.status, &reply.headers["retry-after"]), (503, &"3".parse().expect("ASCII")));
    assert_eq!(grant(&http, &services, assertion(&services)).await.status, 200);
}

#[tokio::test]
async fn any_error_code_of_fcm_can_be_demanded() {
    let services = start().await;
    let target = services.new_target(Service::Fcm, None).expect("room");
    let fcm = Fcm::new(&services).await;
    for code in ErrorCode::ALL {
        services.faults().arm(Fault::new(Effect::Fcm(code)).times(1)).expect("room");
        let reply = fcm.message(json!({ "token": *target })).await;
        assert_eq!((reply.status, reply.error_code()), (code.status().as_u16(), code.as_str()));
    }
}

#[tokio::test]
async fn a_fault_of_one_service_leaves_the_other_alone() {
    let services = start().await;
    let android = services.new_target(Service::Fcm, None).expect("room");
    services.faults().arm(Fault::new(Effect::Silence).at(Place::Apns)).expect("room");
    let reply = Fcm::new(&services).await.message(json!({ "token": *android })).await;
    assert_eq!(reply.status, 200);
}
