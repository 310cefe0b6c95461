//! Every reason that Apple documents: by a request that provokes it, or, where only Apple's side can be the cause,
//! by a fault.

use device_sim::push_services::{
    Config, Death, Effect, Environment, Fault, Place, ProviderKey, PushServices, Reason, Service,
};
use http::Method;

use crate::client::{Answer, Apns, Push, config, identity, provider_token, sign, start, start_with};

const OTHER_APP: &str = "com.example.other";

/// What a request has to be like for a reason.
type Provoke = fn(&PushServices, Push) -> Push;

/// Reasons that a request by itself provokes, on a connection of its own.
const PROVOKED: [(Reason, Provoke); 22] = [
    (Reason::BadCollapseId, |_, push| push.with("apns-collapse-id", &"c".repeat(65))),
    (Reason::BadDeviceToken, |_, push| push.path("/3/device/00ff")),
    (Reason::BadExpirationDate, |_, push| push.with("apns-expiration", "next week")),
    (Reason::BadMessageId, |_, push| push.with("apns-id", "42")),
    (Reason::BadPriority, |_, push| push.with("apns-priority", "3")),
    (Reason::BadTopic, |_, push| push.with("apns-topic", "no/topic")),
    (Reason::DeviceTokenNotForTopic, |services, push| {
        let target = services.new_target(Service::Apns, Some(OTHER_APP)).expect("room");
        push.path(&format!("/3/device/{target}"))
    }),
    (Reason::DuplicateHeaders, |_, mut push| {
        push.headers.push(("apns-topic".to_owned(), OTHER_APP.to_owned()));
        push
    }),
    (Reason::InvalidPushType, |_, push| push.with("apns-push-type", "gossip")),
    (Reason::MissingDeviceToken, |_, push| push.path("/3/device/")),
    (Reason::MissingTopic, |_, push| push.without("apns-topic")),
    (Reason::PayloadEmpty, |_, push| push.payload("")),
    (Reason::TopicDisallowed, |_, push| push.with("apns-topic", "com.example.unknown")),
    (Reason::ExpiredProviderToken, |services, push| {
        let key = services.provider_key();
        let issued_at = services.clock().now().seconds() - 3601;
        let token = sign(key.p8_pem(), key.key_id(), key.team_id(), issued_at);
        push.with("authorization", &format!("bearer {token}"))
    }),
    (Reason::InvalidProviderToken, |services, push| {
        let key = services.provider_key();
        let token = sign(key.p8_pem(), key.key_id(), "OTHERTEAM1", services.clock().now().seconds());
        push.with("authorization", &format!("bearer {token}"))
    }),
    (Reason::MissingProviderToken, |_, push| push.without("authorization")),
    (Reason::BadPath, |_, push| push.path("/3/gadget/00ff")),
    (Reason::MethodNotAllowed, |_, mut push| {
        push.method = Method::PUT;
        push
    }),
    (Reason::ExpiredToken, |services, push| killed(services, push, Death::Expired)),
    (Reason::Unregistered, |services, push| killed(services, push, Death::Unregistered)),
    (Reason::PayloadTooLarge, |_, push| push.payload(format!("{{\"aps\":\"{}\"}}", "x".repeat(4096)))),
    (Reason::BadEnvironmentKeyIdInToken, |services, push| {
        let key = production_key();
        let token = sign(key.p8_pem(), key.key_id(), key.team_id(), services.clock().now().seconds());
        push.with("authorization", &format!("bearer {token}"))
    }),
];

/// Reasons that depend on what came before on the connection; `apns_connection` provokes them.
const OF_THE_CONNECTION: [Reason; 3] =
    [Reason::TooManyProviderTokenUpdates, Reason::UnrelatedKeyIdInToken, Reason::Forbidden];

/// Reasons that no request with a provider token can be the cause of by what Apple documents: client certificates,
/// limits without a number, and Apple's own trouble.
const BY_FAULT: [Reason; 7] = [
    Reason::IdleTimeout,
    Reason::BadCertificate,
    Reason::BadCertificateEnvironment,
    Reason::TooManyRequests,
    Reason::InternalServerError,
    Reason::ServiceUnavailable,
    Reason::Shutdown,
];

fn killed(services: &PushServices, push: Push, death: Death) -> Push {
    let target = services.new_target(Service::Apns, None).expect("room");
    services.kill(&target, death);
    push.path(&format!("/3/device/{target}"))
}

fn production_key() -> ProviderKey {
    static KEY: std::sync::OnceLock<ProviderKey> = std::sync::OnceLock::new();
    let team_id = identity().provider_key().team_id().to_owned();
    KEY.get_or_init(|| ProviderKey::generate(&team_id).expect("a key").only_in(Environment::Production))
        .clone()
}

fn with_other_app() -> Config {
    let mut config = Config::with_identity(identity().with_provider_key(production_key()));
    config.apps.push(OTHER_APP.to_owned());
    config
}

async fn push(services: &PushServices, change: Provoke) -> Answer {
    let target = services.new_target(Service::Apns, None).expect("room");
    let apns = Apns::connect(services).await;
    apns.answer(change(services, apns.request(&target, &provider_token(services)))).await
}

#[tokio::test]
async fn a_good_request_is_accepted() {
    let services = start().await;
    let answer = push(&services, |_, push| push).await;
    assert_eq!((answer.status, &answer.body), (200, &serde_json::Value::Null));
    let apns_id = answer.headers["apns-id"].to_str().expect("ASCII");
    assert_eq!(apns_id.len(), 36);
    assert_eq!(apns_id, apns_id.to_lowercase());
}

#[tokio::test]
async fn every_reason_that_a_request_can_provoke_is_answered_to_that_request() {
    let services = start_with(with_other_app()).await;
    for (reason, provoke) in PROVOKED {
        let answer = push(&services, provoke).await;
        assert_eq!((answer.reason(), answer.status), (reason.as_str(), reason.status().as_u16()));
        assert_eq!(answer.headers["content-type"], "application/json");
        assert!(answer.headers.contains_key("apns-id"), "{reason}");
        let has_timestamp = answer.body["timestamp"].is_u64();
        assert_eq!(has_timestamp, answer.status == 410, "only 410 says since when: {reason}");
    }
    let counters = services.counters();
    assert_eq!((counters.accepted, counters.refused), (0, PROVOKED.len() as u64));
}

#[tokio::test]
async fn no_header_may_stand_twice() {
    let services = start().await;
    for name in [
        "authorization",
        "apns-id",
        "apns-expiration",
        "apns-priority",
        "apns-push-type",
        "apns-topic",
        "apns-collapse-id",
    ] {
        let target = services.new_target(Service::Apns, None).expect("room");
        let apns = Apns::connect(&services).await;
        let mut push = apns.request(&target, &provider_token(&services)).with("apns-priority", "10");
        let value =
            push.headers.iter().find(|(given, _)| given == name).map_or("1", |(_, value)| value).to_owned();
        push.headers.extend([(name.to_owned(), value.clone()), (name.to_owned(), value)]);
        assert_eq!(apns.answer(push).await.reason(), "DuplicateHeaders", "{name}");
    }
}

#[tokio::test]
async fn every_other_reason_is_answered_on_demand() {
    let services = start().await;
    for reason in BY_FAULT {
        services.faults().arm(Fault::new(Effect::Apns(reason)).times(1)).expect("room");
        let answer = push(&services, |_, push| push).await;
        assert_eq!((answer.reason(), answer.status), (reason.as_str(), reason.status().as_u16()));
        assert_eq!(push(&services, |_, push| push).await.status, 200, "once and no more");
    }
}

#[tokio::test]
async fn any_reason_can_be_demanded() {
    let services = start().await;
    for &reason in Reason::ALL {
        services.faults().arm(Fault::new(Effect::Apns(reason)).at(Place::Apns).times(1)).expect("room");
        assert_eq!(push(&services, |_, push| push).await.reason(), reason.as_str());
    }
}

#[test]
fn no_documented_reason_is_left_out() {
    let mut covered: Vec<Reason> = PROVOKED.iter().map(|(reason, _)| *reason).collect();
    covered.extend(OF_THE_CONNECTION);
    covered.extend(BY_FAULT);
    for reason in Reason::ALL {
        assert!(covered.contains(reason), "{reason} is not tested");
    }
    assert_eq!(covered.len(), Reason::ALL.len());
}

#[tokio::test]
async fn the_time_of_death_is_in_milliseconds() {
    let services = start().await;
    let target = services.new_target(Service::Apns, None).expect("room");
    let before = services.clock().now().millis();
    services.kill(&target, Death::Unregistered);
    let after = services.clock().now().millis();
    let apns = Apns::connect(&services).await;
    let answer = apns.answer(apns.request(&target, &provider_token(&services))).await;
    let timestamp = answer.body["timestamp"].as_u64().expect("a number");
    assert!((before..=after).contains(&timestamp), "{before} {timestamp} {after}");
}

#[tokio::test]
async fn the_id_of_a_notification_is_echoed_also_with_an_error() {
    let services = start().await;
    let id = "eabeae54-14a8-11e5-b60b-1697f925ec7b";
    let target = services.new_target(Service::Apns, None).expect("room");
    let apns = Apns::connect(&services).await;
    let good = apns.request(&target, &provider_token(&services)).with("apns-id", id);
    assert_eq!(apns.answer(good.clone()).await.headers["apns-id"], id);
    assert_eq!(apns.answer(good.with("apns-priority", "2")).await.headers["apns-id"], id);
}

#[tokio::test]
async fn only_the_sandbox_gives_a_unique_id() {
    for (environment, given) in [(Environment::Sandbox, true), (Environment::Production, false)] {
        let services = start_with(Config { environment, ..config() }).await;
        let answer = push(&services, |_, push| push).await;
        assert_eq!(answer.headers.contains_key("apns-unique-id"), given, "{environment:?}");
    }
}

#[tokio::test]
async fn a_body_of_a_megabyte_is_too_large_and_the_connection_stays() {
    let services = start().await;
    let target = services.new_target(Service::Apns, None).expect("room");
    let apns = Apns::connect(&services).await;
    let good = apns.request(&target, &provider_token(&services));
    let answer = apns.answer(good.clone().payload(vec![b' '; 1 << 20])).await;
    assert_eq!(answer.reason(), "PayloadTooLarge");
    assert_eq!(apns.answer(good).await.status, 200);
}

#[tokio::test]
async fn a_payload_that_is_no_json_is_accepted_and_reaches_no_device() {
    let services = start().await;
    let device = services.new_device(Service::Apns).expect("room");
    let apns = Apns::connect(&services).await;
    let push = apns.request(device.target(), &provider_token(&services));
    assert_eq!(apns.answer(push.payload("no json")).await.status, 200);
    assert!(device.try_next_push().is_none());
    assert_eq!(services.counters().discarded, 1);
}
