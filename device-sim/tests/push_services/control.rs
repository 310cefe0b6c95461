//! The control API, over HTTP.

use device_sim::push_services::{Config, PushServices, StartError};
use serde_json::{Value, json};

use crate::client::{Apns, Fcm, Reply, config, provider_token, soon, start_with};

struct Control {
    services: PushServices,
    http: reqwest::Client,
    url: String,
}

impl Control {
    async fn start() -> Self {
        let listen = Some("127.0.0.1:0".parse().expect("an address"));
        let services = start_with(Config { control_listen: listen, ..config() }).await;
        let url = services.control_url().expect("it was asked for");
        Self { http: crate::client::http(&services, false), services, url }
    }

    async fn get(&self, path: &str) -> Reply {
        let response = self.http.get(self.url.clone() + path).send().await.expect("an answer");
        Reply::of(response).await.expect("a body")
    }

    async fn post(&self, path: &str, body: Value) -> Reply {
        let response = self.http.post(self.url.clone() + path).json(&body).send().await.expect("an answer");
        Reply::of(response).await.expect("a body")
    }

    async fn delete(&self, path: &str) -> u16 {
        let response = self.http.delete(self.url.clone() + path).send().await.expect("an answer");
        response.status().as_u16()
    }

    async fn new_device(&self, service: &str) -> String {
        let reply = self.post("/devices", json!({ "service": service })).await;
        assert_eq!(reply.status, 201);
        reply.body["target"].as_str().expect("a target").to_owned()
    }
}

#[tokio::test]
async fn a_device_gets_its_pushes_as_lines_those_that_waited_first() {
    let control = Control::start().await;
    let target = control.new_device("fcm").await;
    let fcm = Fcm::new(&control.services).await;
    fcm.message(json!({ "token": target, "data": { "n": "stored" } })).await;

    let url = format!("{}/devices/{target}/pushes", control.url);
    let mut lines = soon(control.http.get(url).send()).await.expect("an answer");
    assert_eq!(lines.headers()["content-type"], "application/x-ndjson");
    for (number, was_stored) in [("stored", true), ("fresh", false)] {
        if !was_stored {
            assert_eq!(control.get(&format!("/devices/{target}")).await.body["connected"], true);
            fcm.message(json!({ "token": target, "data": { "n": number } })).await;
        }
        let line = soon(lines.chunk()).await.expect("connected").expect("a line");
        assert!(line.ends_with(b"\n"));
        let push: Value = serde_json::from_slice(&line).expect("JSON");
        assert_eq!(push["body"]["data"]["n"], number);
        assert_eq!((&push["service"], &push["target"]), (&json!("fcm"), &json!(target)));
        assert_eq!(push["was_stored"], was_stored);
        assert_eq!(push["headers"]["content-type"], "application/json");
    }
    drop(lines);
    // The device is away as soon as the service sees that its client is.
    while control.get(&format!("/devices/{target}")).await.body["connected"] == true {}
}

#[tokio::test]
async fn a_killed_device_is_dead_for_senders() {
    let control = Control::start().await;
    let target = control.new_device("apns").await;
    assert_eq!(control.delete(&format!("/devices/{target}?reason=expired")).await, 204);
    assert_eq!(control.get(&format!("/devices/{target}")).await.body["dead"]["reason"], "expired");
    let apns = Apns::connect(&control.services).await;
    let answer = apns.answer(apns.request(&target, &provider_token(&control.services))).await;
    assert_eq!((answer.status, answer.reason()), (410, "ExpiredToken"));
}

#[tokio::test]
async fn received_pushes_are_listed_with_what_they_were_answered() {
    let control = Control::start().await;
    let (good, bad) = (control.new_device("apns").await, "00ff");
    let apns = Apns::connect(&control.services).await;
    let token = provider_token(&control.services);
    for target in [&good, bad] {
        apns.answer(apns.request(target, &token)).await;
    }
    let all = control.get("/received").await.body;
    assert_eq!((&all[0]["status"], &all[0]["reason"]), (&json!(200), &Value::Null));
    assert_eq!((&all[1]["status"], &all[1]["reason"]), (&json!(400), &json!("BadDeviceToken")));
    assert_eq!(all[0]["body"], json!({ "aps": { "alert": "Hello" } }));
    assert_eq!(all[0]["headers"]["apns-push-type"], "alert");
    assert!(!all.to_string().contains("bearer"));
    let one = control.get(&format!("/received?target={good}")).await.body;
    assert_eq!(one.as_array().map(Vec::len), Some(1));
    assert_eq!(control.delete("/received").await, 204);
    assert_eq!(control.get("/received").await.body, json!([]));
}

#[tokio::test]
async fn faults_are_armed_listed_and_disarmed() {
    let control = Control::start().await;
    let target = control.new_device("fcm").await;
    let fault = json!({ "effect": "answer", "status": 503, "retry_after_s": 2, "on": "fcm", "times": 1 });
    let reply = control.post("/faults", fault).await;
    assert_eq!(reply.status, 201);
    let fcm = Fcm::new(&control.services).await;
    let reply_fcm = fcm.message(json!({ "token": target })).await;
    assert_eq!((reply_fcm.status, &reply_fcm.headers["retry-after"]), (503, &"2".parse().expect("ASCII")));
    let list = control.get("/faults").await.body;
    assert_eq!((&list[0]["id"], &list[0]["struck"]), (&reply.body["id"], &json!(1)));
    assert_eq!((&list[0]["effect"], &list[0]["on"]), (&json!("answer"), &json!("fcm")));
    assert_eq!(control.delete(&format!("/faults/{}", reply.body["id"])).await, 204);
    assert_eq!(control.delete(&format!("/faults/{}", reply.body["id"])).await, 404);
    assert_eq!(control.get("/faults").await.body, json!([]));
    control.post("/faults", json!({ "effect": "reset" })).await;
    assert_eq!(control.delete("/faults").await, 204);
    assert_eq!(control.get("/faults").await.body, json!([]));
}

#[tokio::test]
async fn the_clock_moves_and_the_counters_count() {
    let control = Control::start().await;
    let before = control.services.clock().now().millis();
    let now = control.post("/clock", json!({ "advance_s": 3600 })).await.body["now_ms"].as_u64();
    assert!(now.expect("a number") >= before + 3_600_000);
    let fcm = Fcm::new(&control.services).await;
    fcm.message(json!({ "topic": "news" })).await;
    let counters = control.get("/counters").await.body;
    assert_eq!((&counters["requests"], &counters["accepted"]), (&json!(1), &json!(1)));
}

#[tokio::test]
async fn the_tokens_for_trying_by_hand_are_good() {
    let control = Control::start().await;
    let token = control.get("/provider-token").await.body;
    let apns = Apns::connect(&control.services).await;
    let target = control.new_device("apns").await;
    assert_eq!(apns.answer(apns.request(&target, token.as_str().expect("text"))).await.status, 200);
    let mut fcm = Fcm::new(&control.services).await;
    control.get("/access-token").await.body.as_str().expect("text").clone_into(&mut fcm.access_token);
    assert_eq!(fcm.message(json!({ "topic": "news" })).await.status, 200);
}

#[tokio::test]
async fn bad_requests_are_told_what_is_wrong() {
    let control = Control::start().await;
    for (path, body, status, words) in [
        ("/devices", json!({ "service": "sms" }), 400, "unknown variant `sms`"),
        ("/devices", json!({ "service": "fcm", "colour": "red" }), 400, "unknown field `colour`"),
        ("/faults", json!({ "effect": "latency" }), 400, "latency_ms"),
        ("/faults", json!({ "effect": "answer", "reason": "Sorry" }), 400, "neither a reason of APNs"),
        ("/clock", json!({ "advance_s": -1 }), 400, "invalid value"),
        ("/nowhere", json!({}), 404, "GET /"),
    ] {
        let reply = control.post(path, body).await;
        let error = reply.body["error"].as_str().unwrap_or_default();
        assert!(reply.status == status && error.contains(words), "{path}: {reply:?}");
    }
    assert_eq!(control.get("/devices/unknown").await.status, 404);
    assert!(control.get("/").await.body.as_str().is_some_and(|page| page.contains("/provider-token")));
}

#[tokio::test]
async fn the_control_api_is_for_this_machine_only() {
    let listen = Some("0.0.0.0:0".parse().expect("an address"));
    let started = PushServices::start(Config { control_listen: listen, ..config() }).await;
    assert!(matches!(started, Err(StartError::ControlNotLoopback(_))));
}
