//! FCM's `messages:send`: what a request by itself is answered.

use std::time::Duration;

use device_sim::push_services::{Config, Death, Service};
use serde_json::{Value, json};

use crate::client::{self, Fcm, Reply, config, start, start_with};

const FCM_ERROR: &str = "type.googleapis.com/google.firebase.fcm.v1.FcmError";
const ERROR_INFO: &str = "type.googleapis.com/google.rpc.ErrorInfo";

/// `code`, `status` and `message` of an error belong together.
fn status(reply: &Reply) -> (u16, &str) {
    let error = &reply.body["error"];
    assert_eq!(error["code"], reply.status, "{reply:?}");
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{reply:?}");
    assert_eq!(reply.headers["content-type"], "application/json; charset=UTF-8");
    (reply.status, error["status"].as_str().unwrap_or_default())
}

#[tokio::test]
async fn a_good_message_is_accepted_over_http_2_and_1() {
    let services = start().await;
    let device = services.new_device(Service::Fcm).expect("room");
    for (http2, version) in [(true, http::Version::HTTP_2), (false, http::Version::HTTP_11)] {
        let reply =
            Fcm::over(&services, http2).await.message(json!({ "token": device.target(), "data": {} })).await;
        assert_eq!((reply.status, reply.version), (200, version));
        let name = reply.body["name"].as_str().expect("a name");
        let id = name.strip_prefix("projects/test-project/messages/").expect("of the project");
        assert!(!id.is_empty() && !id.contains('/'), "{name}");
        assert_eq!(reply.body.as_object().map(serde_json::Map::len), Some(1));
        assert!(device.try_next_push().is_some());
    }
}

#[tokio::test]
async fn an_installation_id_is_as_good_as_a_token() {
    let services = start().await;
    let device = services.new_device(Service::Fcm).expect("room");
    let (fid, _) = device.target().split_once(':').expect("an installation id");
    assert_eq!(Fcm::new(&services).await.message(json!({ "fid": fid })).await.status, 200);
    assert!(device.try_next_push().is_some());
}

#[tokio::test]
async fn every_answer_says_what_the_services_clock_shows() {
    let services = start().await;
    services.clock().advance(Duration::from_secs(3_600));
    let now = services.clock().now().seconds();
    let reply = Fcm::new(&services).await.message(json!({ "token": "nonsense" })).await;
    let date =
        httpdate::parse_http_date(reply.headers["date"].to_str().expect("visible ASCII")).expect("a date");
    let said = date.duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    assert!((now..now + 60).contains(&said), "{said} at {now}");
}

#[tokio::test]
async fn a_message_that_is_only_to_be_checked_is_not_delivered() {
    let services = start().await;
    let device = services.new_device(Service::Fcm).expect("room");
    let fcm = Fcm::new(&services).await;
    let check =
        |token: &str| fcm.post(json!({ "validate_only": true, "message": { "token": token } }).to_string());
    let reply = check(device.target()).await.expect("an answer");
    assert_eq!(reply.body, json!({ "name": "projects/test-project/messages/fake_message_id" }));
    assert!(device.try_next_push().is_none());
    assert_eq!(check("nonsense").await.expect("an answer").status, 400);
}

#[tokio::test]
async fn an_app_instance_that_is_gone_is_unregistered() {
    let services = start().await;
    let fcm = Fcm::new(&services).await;
    let dead = services.new_target(Service::Fcm, None).expect("room");
    services.kill(&dead, Death::Unregistered);
    let never = format!("{}:APA91b{}", "c".repeat(22), "x".repeat(134));
    for token in [&*dead, &never] {
        let reply = fcm.message(json!({ "token": token })).await;
        assert_eq!(status(&reply), (404, "NOT_FOUND"));
        assert_eq!(
            reply.body["error"]["details"],
            json!([{ "@type": FCM_ERROR, "errorCode": "UNREGISTERED" }])
        );
    }
}

#[tokio::test]
async fn another_senders_token_is_a_mismatch() {
    let services = start().await;
    let foreign = services.new_target(Service::Fcm, Some("another-project")).expect("room");
    let reply = Fcm::new(&services).await.message(json!({ "token": *foreign })).await;
    assert_eq!(status(&reply), (403, "PERMISSION_DENIED"));
    assert_eq!(reply.error_code(), "SENDER_ID_MISMATCH");
}

#[tokio::test]
async fn what_is_no_registration_token_is_an_invalid_argument() {
    let services = start().await;
    let fcm = Fcm::new(&services).await;
    let good = services.new_target(Service::Fcm, None).expect("room");
    let iphone = services.new_target(Service::Apns, None).expect("room");
    for wrong in ["nonsense", &good[..good.len() - 1], &format!("{good}x"), &iphone] {
        let reply = fcm.message(json!({ "token": wrong })).await;
        assert_eq!(status(&reply), (400, "INVALID_ARGUMENT"), "{wrong}");
        assert_eq!(reply.error_code(), "INVALID_ARGUMENT");
        assert_eq!(reply.violation().0, "message.token");
        assert_eq!(
            reply.body["error"]["message"],
            "The registration token is not a valid FCM registration token"
        );
    }
}

#[tokio::test]
async fn every_wrong_field_is_named() {
    let services = start().await;
    let fcm = Fcm::new(&services).await;
    let token = services.new_target(Service::Fcm, None).expect("room");
    let with = |name: &str, value: Value| {
        let mut message = json!({ "token": *token });
        message[name] = value;
        message
    };
    for (message, field, has_code) in [
        (with("data", json!({ "n": 12 })), "message.data[0].value", false),
        (with("datta", json!({})), "message", false),
        (with("android", json!({ "ttl": "60" })), "message.android.ttl", false),
        (with("android", json!({ "priority": "urgent" })), "message.android.priority", false),
        (with("topic", json!("news")), "message", false),
        (with("token", json!("")), "message", true),
        (with("data", json!({ "from": "x" })), "message.data", true),
        (with("data", json!({ "n": "x".repeat(4096) })), "message", true),
        (with("android", json!({ "ttl": "2419201s" })), "message.android.ttl", true),
    ] {
        let reply = fcm.message(message.clone()).await;
        assert_eq!(status(&reply), (400, "INVALID_ARGUMENT"), "{message}");
        assert_eq!(reply.violation().0, field, "{message}");
        assert!(!reply.violation().1.is_empty());
        assert_eq!(reply.error_code() == "INVALID_ARGUMENT", has_code, "{message}");
    }
}

#[tokio::test]
async fn what_is_no_json_is_an_invalid_argument() {
    let services = start().await;
    let fcm = Fcm::new(&services).await;
    for body in [&b"{"[..], b"", b"[]", b"\xff\xfe", b"{\"message\": 1}"] {
        let reply = fcm.post(body).await.expect("an answer");
        assert_eq!(status(&reply), (400, "INVALID_ARGUMENT"), "{body:?}");
    }
    let reply = fcm.post(vec![b' '; 100_000]).await.expect("an answer");
    assert_eq!(status(&reply), (400, "INVALID_ARGUMENT"));
}

#[tokio::test]
async fn an_access_token_is_needed_and_grows_old() {
    let services = start().await;
    let mut fcm = Fcm::new(&services).await;
    let message = json!({ "message": { "topic": "news" } }).to_string();
    let info = |reply: &Reply| reply.detail(ERROR_INFO)["reason"].as_str().map(str::to_owned);

    let bare = fcm.http.post(&fcm.url).body(message.clone()).send().await.expect("an answer");
    let reply = Reply::of(bare).await.expect("a body");
    assert_eq!(status(&reply), (401, "UNAUTHENTICATED"));
    assert_eq!(info(&reply).as_deref(), Some("CREDENTIALS_MISSING"));
    assert!(reply.headers["www-authenticate"].to_str().is_ok_and(|value| value.starts_with("Bearer ")));

    services.clock().advance(Duration::from_secs(3600));
    let reply = fcm.post(message.clone()).await.expect("an answer");
    assert_eq!(status(&reply), (401, "UNAUTHENTICATED"));
    assert_eq!(info(&reply).as_deref(), Some("ACCESS_TOKEN_EXPIRED"));

    fcm.access_token = "ya29.made-up".to_owned();
    let reply = fcm.post(message).await.expect("an answer");
    assert_eq!(status(&reply), (401, "UNAUTHENTICATED"));
    assert_eq!(info(&reply).as_deref(), Some("ACCESS_TOKEN_TYPE_UNSUPPORTED"));
}

#[tokio::test]
async fn another_project_is_denied() {
    let services = start().await;
    let mut fcm = Fcm::new(&services).await;
    fcm.url = fcm.url.replace("test-project", "not-mine");
    let reply = fcm.message(json!({ "topic": "news" })).await;
    assert_eq!(status(&reply), (403, "PERMISSION_DENIED"));
    assert_eq!(reply.detail(ERROR_INFO)["reason"], "IAM_PERMISSION_DENIED");
}

#[tokio::test]
async fn a_used_up_quota_says_when_to_come_back() {
    let services = start_with(Config { fcm_quota_per_minute: Some(2), ..config() }).await;
    let fcm = Fcm::new(&services).await;
    for _ in 0..2 {
        assert_eq!(fcm.message(json!({ "topic": "news" })).await.status, 200);
    }
    let reply = fcm.message(json!({ "topic": "news" })).await;
    assert_eq!(status(&reply), (429, "RESOURCE_EXHAUSTED"));
    assert_eq!(reply.error_code(), "QUOTA_EXCEEDED");
    let wait: u64 = reply.headers["retry-after"].to_str().expect("ASCII").parse().expect("seconds");
    assert!((1..=60).contains(&wait));
    services.clock().advance(Duration::from_secs(wait));
    assert_eq!(fcm.message(json!({ "topic": "news" })).await.status, 200);
}

#[tokio::test]
async fn one_device_takes_240_messages_a_minute() {
    let services = start().await;
    let fcm = Fcm::new(&services).await;
    let token = services.new_target(Service::Fcm, None).expect("room");
    for _ in 0..240 {
        assert_eq!(fcm.message(json!({ "token": *token })).await.status, 200);
    }
    let reply = fcm.message(json!({ "token": *token })).await;
    assert_eq!((reply.status, reply.error_code()), (429, "QUOTA_EXCEEDED"));
}

#[tokio::test]
async fn other_addresses_are_not_found() {
    let services = start().await;
    let http = client::http(&services, true);
    for (method, path) in [
        (http::Method::GET, "/v1/projects/test-project/messages:send"),
        (http::Method::POST, "/v1/projects/test-project/messages"),
        (http::Method::POST, "/v1/projects//messages:send"),
        (http::Method::POST, "/"),
    ] {
        let response = http.request(method, services.fcm_url() + path).send().await.expect("an answer");
        assert_eq!(response.status(), 404, "{path}");
    }
}
