//! What APNs decides by connection: how many streams, which tokens, and how it ends.

use std::time::Duration;

use device_sim::push_services::{Config, Effect, Fault, ProviderKey, Reason, Service};

use crate::client::{Apns, config, identity, provider_token, sign, soon, start, start_with};

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn one_stream_is_allowed_until_a_valid_token_was_seen() {
    let services = start().await;
    let device = services.new_device(Service::Apns).expect("room");
    let apns = Apns::connect(&services).await;
    let good = apns.request(device.target(), &provider_token(&services));

    // Settings come with the first answer at the latest.
    assert_eq!(apns.answer(good.clone().without("authorization")).await.reason(), "MissingProviderToken");
    assert_eq!(apns.requests.current_max_send_streams(), 1);
    assert_eq!(apns.answer(good.clone()).await.status, 200);
    assert_eq!(apns.answer(good).await.status, 200);
    assert_eq!(apns.requests.current_max_send_streams(), 1000);
}

#[tokio::test]
async fn a_second_stream_before_a_valid_token_is_refused_and_may_be_sent_again() {
    let services = start().await;
    let device = services.new_device(Service::Apns).expect("room");
    let apns = Apns::connect(&services).await;
    let good = apns.request(device.target(), &provider_token(&services));

    // Both leave before the client has read the settings. The first has no valid token and is kept open by a fault.
    services.faults().arm(Fault::new(Effect::Silence).times(1)).expect("room");
    let first = apns.begin(good.clone().without("authorization")).await;
    let second = apns.begin(good.clone()).await;
    let refused = soon(second).await.expect_err("refused");
    assert_eq!(refused.reason(), Some(h2::Reason::REFUSED_STREAM));
    assert_eq!(services.counters().streams_refused, 1);

    drop(first);
    // The stream that was given up counts until the service knows.
    while let Err(error) = apns.send(good.clone()).await {
        assert_eq!(error.reason(), Some(h2::Reason::REFUSED_STREAM));
    }
}

#[tokio::test]
async fn many_streams_are_served_at_a_time_once_a_token_was_valid() {
    let services = start().await;
    let device = services.new_device(Service::Apns).expect("room");
    let apns = Apns::connect(&services).await;
    let good = apns.request(device.target(), &provider_token(&services));
    assert_eq!(apns.answer(good.clone()).await.status, 200);
    let mut answers = Vec::new();
    for _ in 0..100 {
        answers.push(apns.begin(good.clone()).await);
    }
    for answer in answers {
        assert_eq!(soon(answer).await.expect("answered").status(), 200);
    }
    assert_eq!(services.counters().accepted, 101);
}

#[tokio::test]
async fn a_token_lives_an_hour_and_is_renewed_once_in_twenty_minutes() {
    let services = start().await;
    let target = services.new_target(Service::Apns, None).expect("room");
    let apns = Apns::connect(&services).await;
    let push = |token: &str| apns.answer(apns.request(&target, token));

    let first = provider_token(&services);
    assert_eq!(push(&first).await.status, 200);
    services.clock().advance(19 * MINUTE);
    let second = provider_token(&services);
    let answer = push(&second).await;
    assert_eq!((answer.status, answer.reason()), (429, "TooManyProviderTokenUpdates"));
    assert_eq!(push(&first).await.status, 200, "the first is still good");
    services.clock().advance(MINUTE);
    assert_eq!(push(&second).await.status, 200, "twenty minutes after the first");
    services.clock().advance(60 * MINUTE);
    let answer = push(&second).await;
    assert_eq!((answer.status, answer.reason()), (403, "ExpiredProviderToken"));
    assert_eq!(push(&provider_token(&services)).await.status, 200, "renewed at once");
}

#[tokio::test]
async fn another_connection_may_begin_with_another_token() {
    let services = start().await;
    let target = services.new_target(Service::Apns, None).expect("room");
    for _ in 0..3 {
        let apns = Apns::connect(&services).await;
        assert_eq!(apns.answer(apns.request(&target, &provider_token(&services))).await.status, 200);
    }
}

#[tokio::test]
async fn a_connection_belongs_to_the_key_of_its_first_push() {
    let team_id = identity().provider_key().team_id().to_owned();
    let topical = ProviderKey::generate(&team_id).expect("a key").only_for(&["dev.countersign.demo"]);
    let foreign = ProviderKey::generate("OTHERTEAM1").expect("a key");
    let identity = identity().with_provider_key(topical.clone()).with_provider_key(foreign.clone());
    let services = start_with(Config::with_identity(identity)).await;
    let target = services.new_target(Service::Apns, None).expect("room");
    let apns = Apns::connect(&services).await;
    assert_eq!(apns.answer(apns.request(&target, &provider_token(&services))).await.status, 200);
    services.clock().advance(20 * MINUTE);
    let now = services.clock().now().seconds();
    for (key, reason) in [(topical, Reason::UnrelatedKeyIdInToken), (foreign, Reason::Forbidden)] {
        let token = sign(key.p8_pem(), key.key_id(), key.team_id(), now);
        assert_eq!(apns.answer(apns.request(&target, &token)).await.reason(), reason.as_str());
    }
}

#[tokio::test]
async fn services_that_stop_say_so_in_goaway() {
    let services = start().await;
    let target = services.new_target(Service::Apns, None).expect("room");
    let apns = Apns::connect(&services).await;
    assert_eq!(apns.answer(apns.request(&target, &provider_token(&services))).await.status, 200);
    let stopping = tokio::spawn(services.shutdown());
    let ended = apns.ended().await;
    soon(stopping).await.expect("no panic");
    // An orderly GOAWAY is no error for h2; what it says is checked in `faults`.
    assert!(ended.is_ok(), "{ended:?}");
}

#[tokio::test]
async fn a_client_that_does_not_speak_http2_is_not_served() {
    let services = start().await;
    let client = crate::client::http(&services, false);
    let answer = client.get(services.apns_url()).send().await;
    assert!(answer.is_err(), "APNs has no HTTP/1.1: {answer:?}");
}

#[tokio::test]
async fn nothing_is_kept_of_a_provider_token() {
    let services = start_with(config()).await;
    let target = services.new_target(Service::Apns, None).expect("room");
    let apns = Apns::connect(&services).await;
    let token = provider_token(&services);
    assert_eq!(apns.answer(apns.request(&target, &token)).await.status, 200);
    let received = services.received();
    assert_eq!(received.len(), 1);
    assert_eq!(received[0].headers["apns-topic"], services.topic());
    assert!(!format!("{received:?} {services:?}").contains(&token));
}
