//! Push services: whether they are there, and take our credentials.

use std::sync::Arc;

use countersign::{
    clock::{Clock as _, SystemClock},
    config::Config,
    push::{Clock, Error, Probe, Reached, SetupError, apns, fcm},
};

use super::report::Findings;

/// What was found, and what their clocks show.
pub(super) async fn ask(config: &Config) -> (Findings, Vec<Reached>) {
    let clock: Clock = Arc::new(|| SystemClock.now());
    let mut findings = Findings::default();
    let apns = async {
        match &config.push.apns {
            Some(settings) => Some(apns::probe(settings, &clock).await),
            None => None,
        }
    };
    let fcm = async {
        match &config.push.fcm {
            Some(settings) => Some(fcm::probe(settings, &clock).await),
            None => None,
        }
    };
    let (apns, fcm) = tokio::join!(apns, fcm);
    if apns.is_none() && fcm.is_none() {
        findings.warn(
            "push",
            "no push service is configured: phones can only list what waits",
            "configure [push.apns] and [push.fcm]",
        );
    }
    let mut times = Vec::new();
    for (check, probe, explain) in
        [("push.apns", apns, apns_says as fn(&str) -> &'static str), ("push.fcm", fcm, fcm_says)]
    {
        // What is wrong with its files was found where they were read.
        if let Some(Ok(probe)) = probe.map(|probe: Result<Probe, SetupError>| probe) {
            tell(check, &probe, explain, &mut findings);
            times.extend(probe.addresses.into_iter().filter_map(|(_, reached)| reached.ok()));
        }
    }
    (findings, times)
}

fn tell(check: &'static str, probe: &Probe, explain: fn(&str) -> &'static str, findings: &mut Findings) {
    for (address, reached) in &probe.addresses {
        if let Err(error) = reached {
            findings.fail(
                check,
                format!("{address} does not answer: {}", error.reason()),
                way(error.reason()),
            );
        }
    }
    match &probe.credentials {
        None => {}
        Some(Ok(())) => findings.good(check, "answers, and takes our credentials"),
        Some(Err(error @ Error::Unreachable { .. })) => {
            findings.fail(
                check,
                format!("answers, and then does not: {}", error.reason()),
                way(error.reason()),
            );
        }
        Some(Err(Error::Retry { reason, .. })) if !is_about_clock(reason) => findings.warn(
            check,
            format!("answers, and says 'not now': {reason}"),
            "ask again in some minutes; if it stays so, look at the service's status page",
        ),
        Some(Err(error)) => {
            let reason = error.reason();
            findings.fail(check, format!("does not take our credentials: {reason}"), explain(reason));
        }
    }
}

fn is_about_clock(reason: &str) -> bool {
    reason.starts_with("ExpiredProviderToken")
}

/// What stands in the way of a connection.
fn way(reason: &str) -> &'static str {
    if reason.contains("lookup") || reason.contains("dns") {
        "this machine cannot find the name: look at its DNS (/etc/resolv.conf)"
    } else if reason.contains("certificate") {
        "its certificate is not believed: install the system's authorities (ca-certificates), or set ca_file; a proxy that \
         opens TLS stands in the way, too"
    } else {
        "let this machine connect there, TCP port 443 in general: look at firewall and routes"
    }
}

/// What to do about what Apple says.
fn apns_says(reason: &str) -> &'static str {
    match reason.split(':').next().unwrap_or(reason) {
        "InvalidProviderToken" => {
            "push.apns.key_file, key_id and team_id must be of one key that is not revoked: compare them with the developer \
             account"
        }
        "ExpiredProviderToken" => {
            "set this machine's clock: Apple takes a token for an hour from its own time"
        }
        "BadTopic" | "MissingTopic" | "TopicDisallowed" => {
            "push.apns.topic must be the bundle identifier of an app of this team that the key may push to"
        }
        "BadEnvironmentKeyIdInToken" | "BadEnvironmentKeyInToken" => {
            "the key is for the other environment: change push.apns.endpoint, or take a key for both"
        }
        "UnrelatedKeyIdInToken" => "the key may not push to this app: take one of the team that may",
        "Forbidden" => "the key may not push: look at its services in the developer account",
        _ => "look the reason up in Apple's 'Handling notification responses from APNs'",
    }
}

/// What to do about what Google says.
fn fcm_says(reason: &str) -> &'static str {
    if reason.contains("invalid_grant") {
        return "set this machine's clock; else the service account's key was deleted: make a new one in the Google Cloud console";
    }
    if reason.contains("invalid_client") || reason.contains("access_denied") || reason.contains("401") {
        return "the service account was disabled or deleted: take another, and its JSON file";
    }
    match reason.split(':').next().unwrap_or(reason) {
        "PERMISSION_DENIED" => {
            "give the service account the role 'Firebase Cloud Messaging API Admin' in this project, and enable the \
             Firebase Cloud Messaging API (V1)"
        }
        "NOT_FOUND" => "the service account's project has no Firebase: take the file from the right project",
        "UNAUTHENTICATED" => "FCM does not take the access token: take the service account's JSON file anew",
        _ => {
            "look the reason up in Google's 'FCM error codes'; if it is about the token, take the JSON file anew"
        }
    }
}
