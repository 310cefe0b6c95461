//! How much the services can take. Not run by default: figures mean something in a release build only.
//!
//! `cargo test --release -p device-sim --test push_services throughput -- --ignored --nocapture`

#![allow(clippy::disallowed_methods, clippy::cast_precision_loss, reason = "what is measured here is time")]

use std::time::Instant;

use device_sim::push_services::{Config, Service};
use serde_json::json;

use crate::client::{Apns, Fcm, config, provider_token, start_with};

const DEVICES: usize = 100_000;
const PUSHES: usize = 100_000;
const CONNECTIONS: usize = 4;
const AT_A_TIME: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn throughput_of_apns() {
    let services = start_with(Config { received_max: 0, ..config() }).await;
    let began = Instant::now();
    let devices: Vec<_> = (0..DEVICES).map(|_| services.new_device(Service::Apns).expect("room")).collect();
    println!("{DEVICES} devices made and connected in {:?}", began.elapsed());

    let token = provider_token(&services);
    let began = Instant::now();
    let mut senders = tokio::task::JoinSet::new();
    for connection in 0..CONNECTIONS {
        let apns = Apns::connect(&services).await;
        let targets: Vec<String> = (0..PUSHES / CONNECTIONS)
            .map(|number| devices[(number * CONNECTIONS + connection) % DEVICES].target().to_owned())
            .collect();
        let token = token.clone();
        senders.spawn(async move {
            apns.answer(apns.request(&targets[0], &token)).await;
            for targets in targets[1..].chunks(AT_A_TIME) {
                let mut answers = Vec::with_capacity(AT_A_TIME);
                for target in targets {
                    answers.push(apns.begin(apns.request(target, &token)).await);
                }
                for answer in answers {
                    assert_eq!(answer.await.expect("answered").status(), 200);
                }
            }
        });
    }
    senders.join_all().await;
    report("APNs", began);
    let delivered = devices.iter().filter(|device| device.try_next_push().is_some()).count();
    assert_eq!(delivered, PUSHES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn throughput_of_fcm() {
    let services = start_with(Config { received_max: 0, fcm_quota_per_minute: None, ..config() }).await;
    let devices: Vec<_> = (0..DEVICES).map(|_| services.new_device(Service::Fcm).expect("room")).collect();
    let began = Instant::now();
    let mut senders = tokio::task::JoinSet::new();
    for connection in 0..CONNECTIONS * AT_A_TIME / 4 {
        let count = CONNECTIONS * AT_A_TIME / 4;
        let fcm = Fcm::new(&services).await;
        let targets: Vec<String> = (0..PUSHES / count)
            .map(|number| devices[(number * count + connection) % DEVICES].target().to_owned())
            .collect();
        senders.spawn(async move {
            for target in targets {
                let message = json!({ "token": target, "data": { "approval": "0123456789" } });
                assert_eq!(fcm.message(message).await.status, 200);
            }
        });
    }
    senders.join_all().await;
    report("FCM", began);
    assert_eq!(services.counters().accepted, PUSHES as u64);
}

fn report(what: &str, began: Instant) {
    let elapsed = began.elapsed();
    println!(
        "{what}: {PUSHES} pushes in {elapsed:?}: {:.0} a second, client and services on two cores together",
        PUSHES as f64 / elapsed.as_secs_f64()
    );
}
