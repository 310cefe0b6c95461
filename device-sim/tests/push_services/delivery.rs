//! From the service to the device: at once, later, or never.

use std::time::Duration;

use device_sim::push_services::{Death, Service};
use serde_json::{Value, json};

use crate::client::{Apns, Fcm, provider_token, soon, start};

fn body(push: &device_sim::push_services::Push) -> Value {
    serde_json::from_slice(&push.body).expect("JSON")
}

#[tokio::test]
async fn a_connected_iphone_gets_the_push_with_its_headers() {
    let services = start().await;
    let device = services.new_device(Service::Apns).expect("room");
    let apns = Apns::connect(&services).await;
    let answer =
        apns.answer(apns.request(device.target(), &provider_token(&services)).with("apns-collapse-id", "a"));
    let (answer, push) = soon(async { tokio::join!(answer, device.next_push()) }).await;
    let push = push.expect("connected");
    assert_eq!(answer.headers["apns-id"], *push.id);
    assert_eq!(push.headers["apns-collapse-id"], "a");
    assert!(!push.headers.contains_key("authorization"));
    assert_eq!(body(&push), json!({ "aps": { "alert": "Hello" } }));
    assert!(!push.was_stored);
}

#[tokio::test]
async fn a_connected_android_phone_gets_the_message_as_it_was_sent() {
    let services = start().await;
    let device = services.new_device(Service::Fcm).expect("room");
    let message =
        json!({ "token": device.target(), "data": { "approval": "1" }, "android": { "priority": "high" } });
    let reply = Fcm::new(&services).await.message(message.clone()).await;
    let push = soon(device.next_push()).await.expect("connected");
    assert_eq!(reply.body["name"], *push.id);
    assert_eq!(body(&push), message);
}

#[tokio::test]
async fn an_app_finds_its_data_in_the_push_of_either_service() {
    let services = start().await;
    let iphone = services.new_device(Service::Apns).expect("room");
    let android = services.new_device(Service::Fcm).expect("room");
    let apns = Apns::connect(&services).await;
    let payload = json!({ "aps": { "alert": "Hello" }, "approval": "1", "count": 2 }).to_string();
    let push = apns.request(iphone.target(), &provider_token(&services)).payload(payload);
    assert_eq!(apns.answer(push).await.status, 200);
    let fcm = Fcm::new(&services).await;
    for (message, approval) in [
        (json!({ "token": android.target(), "data": { "approval": "1" } }), "1"),
        (
            json!({ "token": android.target(), "data": { "x": "y" }, "android": { "data": { "approval": "2" } } }),
            "2",
        ),
    ] {
        assert_eq!(fcm.message(message).await.status, 200);
        let data = soon(android.next_push()).await.expect("connected").data();
        assert_eq!(data.into_iter().collect::<Vec<_>>(), [("approval".to_owned(), approval.to_owned())]);
    }
    let data = soon(iphone.next_push()).await.expect("connected").data();
    assert_eq!(data.into_iter().collect::<Vec<_>>(), [("approval".to_owned(), "1".to_owned())]);
}

#[tokio::test]
async fn an_iphone_that_was_away_gets_the_latest_push_when_it_comes() {
    let services = start().await;
    let device = services.new_device(Service::Apns).expect("room");
    let target = device.target().to_owned();
    drop(device);
    let apns = Apns::connect(&services).await;
    for text in ["first", "second"] {
        let push =
            apns.request(&target, &provider_token(&services)).payload(json!({ "n": text }).to_string());
        assert_eq!(apns.answer(push).await.status, 200);
        services.clock().advance(Duration::from_secs(20 * 60));
    }
    let device = services.connect(&target).expect("it is there");
    let push = soon(device.next_push()).await.expect("connected");
    assert_eq!(body(&push), json!({ "n": "second" }));
    assert!(push.was_stored);
    assert!(device.try_next_push().is_none());
    assert_eq!(services.counters().replaced, 1);
}

#[tokio::test]
async fn a_push_with_expiration_zero_is_tried_once() {
    let services = start().await;
    let target = services.new_target(Service::Apns, None).expect("room");
    let apns = Apns::connect(&services).await;
    let push = apns.request(&target, &provider_token(&services)).with("apns-expiration", "0");
    assert_eq!(apns.answer(push).await.status, 200);
    assert!(services.connect(&target).expect("there").try_next_push().is_none());
    assert_eq!(services.counters().not_stored, 1);
}

#[tokio::test]
async fn a_stored_push_is_dropped_when_it_expires() {
    let services = start().await;
    let iphone = services.new_target(Service::Apns, None).expect("room");
    let android = services.new_target(Service::Fcm, None).expect("room");
    let apns = Apns::connect(&services).await;
    let expiration = (services.clock().now().seconds() + 60).to_string();
    let push = apns.request(&iphone, &provider_token(&services)).with("apns-expiration", &expiration);
    assert_eq!(apns.answer(push).await.status, 200);
    let reply =
        Fcm::new(&services).await.message(json!({ "token": *android, "android": { "ttl": "60s" } })).await;
    assert_eq!(reply.status, 200);

    services.clock().advance(Duration::from_secs(61));
    for target in [iphone, android] {
        assert!(services.connect(&target).expect("there").try_next_push().is_none());
    }
    assert_eq!(services.counters().expired, 2);
}

#[tokio::test]
async fn messages_wait_for_an_android_phone_in_their_order() {
    let services = start().await;
    let target = services.new_target(Service::Fcm, None).expect("room");
    let fcm = Fcm::new(&services).await;
    for number in ["1", "2", "3"] {
        assert_eq!(fcm.message(json!({ "token": *target, "data": { "n": number } })).await.status, 200);
    }
    let device = services.connect(&target).expect("there");
    for number in ["1", "2", "3"] {
        let push = soon(device.next_push()).await.expect("connected");
        assert_eq!(body(&push)["data"]["n"], number);
        assert!(push.was_stored);
    }
}

#[tokio::test]
async fn collapsible_messages_beyond_a_burst_are_held_back_until_their_time() {
    let services = start().await;
    let device = services.new_device(Service::Fcm).expect("room");
    let fcm = Fcm::new(&services).await;
    for number in 0..21 {
        let android = json!({ "collapse_key": format!("key {number}") });
        assert_eq!(fcm.message(json!({ "token": device.target(), "android": android })).await.status, 200);
    }
    for _ in 0..20 {
        soon(device.next_push()).await.expect("connected");
    }
    assert!(device.try_next_push().is_none());
    let waiting = tokio::spawn(async move { device.next_push().await });
    services.clock().advance(Duration::from_secs(3 * 60));
    assert!(soon(waiting).await.expect("no panic").is_some());
}

#[tokio::test]
async fn a_device_has_one_connection() {
    let services = start().await;
    let first = services.new_device(Service::Fcm).expect("room");
    let second = services.connect(first.target()).expect("there");
    assert!(soon(first.next_push()).await.is_none(), "the second took its place");
    drop(first);
    let message = json!({ "token": second.target() });
    assert_eq!(Fcm::new(&services).await.message(message).await.status, 200);
    assert!(soon(second.next_push()).await.is_some());
}

#[tokio::test]
async fn a_removed_app_gets_nothing_more() {
    let services = start().await;
    let device = services.new_device(Service::Apns).expect("room");
    assert!(services.kill(device.target(), Death::Unregistered));
    assert!(soon(device.next_push()).await.is_none());
    let again = services.connect(device.target()).expect("there");
    assert!(soon(again.next_push()).await.is_none());
    assert!(!services.kill("no such target", Death::Unregistered));
}
