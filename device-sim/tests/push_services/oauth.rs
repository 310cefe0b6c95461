//! FCM's token endpoint: an access token for a good assertion, and why not for any other.

use device_sim::push_services::PushServices;
use serde_json::{Value, json};

use crate::client::{self, Reply, assertion, grant, sign_assertion, start};

fn refused(reply: &Reply) -> (u16, &str) {
    assert!(reply.body["error_description"].is_string(), "{reply:?}");
    (reply.status, reply.body["error"].as_str().unwrap_or_default())
}

fn with(services: &PushServices, claim: &str, value: Value) -> Value {
    let mut claims = assertion(services);
    claims[claim] = value;
    claims
}

#[tokio::test]
async fn a_good_assertion_gives_an_opaque_token_for_an_hour() {
    let services = start().await;
    let reply = grant(&client::http(&services, false), &services, assertion(&services)).await;
    assert_eq!(reply.status, 200);
    assert_eq!((&reply.body["token_type"], &reply.body["expires_in"]), (&json!("Bearer"), &json!(3599)));
    assert!(reply.body["access_token"].as_str().is_some_and(|token| token.starts_with("ya29.")));
    assert_eq!(services.counters().access_tokens, 1);
}

#[tokio::test]
async fn the_audience_is_this_endpoint_or_googles_own() {
    let services = start().await;
    let http = client::http(&services, true);
    for audience in [&services.token_uri(), "https://oauth2.googleapis.com/token"] {
        assert_eq!(grant(&http, &services, with(&services, "aud", json!(audience))).await.status, 200);
    }
    let reply = grant(&http, &services, with(&services, "aud", json!("https://example.com/token"))).await;
    assert_eq!(refused(&reply), (400, "invalid_grant"));
}

#[tokio::test]
async fn every_wrong_claim_is_refused() {
    let services = start().await;
    let http = client::http(&services, true);
    let now = services.clock().now().seconds();
    for (claim, value, error) in [
        ("iss", json!("someone@else.iam.gserviceaccount.com"), "invalid_grant"),
        ("exp", json!(now + 3700), "invalid_grant"),
        ("exp", Value::Null, "invalid_grant"),
        ("iat", json!(now + 1000), "invalid_grant"),
        ("iat", json!(now - 7200), "invalid_grant"),
        ("scope", json!(""), "invalid_scope"),
        ("scope", json!("firebase"), "invalid_scope"),
    ] {
        let reply = grant(&http, &services, with(&services, claim, value.clone())).await;
        assert_eq!(refused(&reply), (400, error), "{claim}: {value}");
    }
}

#[tokio::test]
async fn an_assertion_signed_by_another_key_is_refused() {
    let services = start().await;
    let other = device_sim::push_services::Identity::generate("test-project").expect("keys");
    let other = crate::client::start_with(device_sim::push_services::Config::with_identity(other)).await;
    let assertion = sign_assertion(&other, &assertion(&services));
    let form =
        [("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", assertion.as_str())];
    let response = client::http(&services, true).post(services.token_uri()).form(&form).send().await;
    let reply = Reply::of(response.expect("an answer")).await.expect("a body");
    assert_eq!(refused(&reply), (400, "invalid_grant"));
}

#[tokio::test]
async fn what_is_no_assertion_is_an_invalid_request() {
    let services = start().await;
    let http = client::http(&services, true);
    for (form, error) in [
        ("", "invalid_request"),
        ("grant_type=password&username=x", "unsupported_grant_type"),
        ("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer", "invalid_request"),
        (
            "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=a.b.c",
            "invalid_request",
        ),
    ] {
        let response = http.post(services.token_uri()).body(form).send().await.expect("an answer");
        let reply = Reply::of(response).await.expect("a body");
        assert_eq!(refused(&reply), (400, error), "{form}");
    }
}

#[tokio::test]
async fn a_token_of_another_scope_may_not_send() {
    let services = start().await;
    let http = client::http(&services, true);
    let scope = json!("https://www.googleapis.com/auth/devstorage.read_only");
    let reply = grant(&http, &services, with(&services, "scope", scope)).await;
    let mut fcm = client::Fcm::new(&services).await;
    reply.body["access_token"].as_str().expect("a token").clone_into(&mut fcm.access_token);
    let reply = fcm.message(json!({ "topic": "news" })).await;
    assert_eq!((reply.status, &reply.body["error"]["status"]), (403, &json!("PERMISSION_DENIED")));
}
