//! What a push holds: what waits, for whom, until when, and what the phone needs to ask for more. No personal data,
//! and never the match number; a [`PushMessage`] has neither.

use bytes::Bytes;
use countersign_domain::Timestamp;
use serde::Serialize;

use super::{PushKind, PushMessage};

/// Version of what stands in a push.
const VERSION: u32 = 1;

/// Both push services take payloads of at most so many bytes.
#[cfg(test)]
pub(super) const PAYLOAD_BYTES_MAX: usize = 4_096;

/// The body of a push to APNs.
pub(super) fn apns(message: &PushMessage) -> Bytes {
    encode(&Apns {
        aps: Aps {
            alert: Alert::of(message.kind),
            // What somebody waits for makes a sound; what takes its place, or can wait, does not.
            sound: message.kind.is_urgent().then_some("default"),
            category: match message.kind {
                PushKind::Challenge | PushKind::Trial => "COUNTERSIGN_APPROVAL",
                PushKind::Ended => "COUNTERSIGN_ENDED",
                PushKind::Notice => "COUNTERSIGN_NOTICE",
            },
            // Lets the app's service extension acknowledge delivery, and fetch and check what is shown, before
            // anything is. What has ended is shown as it is.
            mutable_content: (message.kind != PushKind::Ended).then_some(1),
            interruption_level: match message.kind {
                PushKind::Challenge | PushKind::Trial => "time-sensitive",
                PushKind::Ended => "passive",
                PushKind::Notice => "active",
            },
        },
        countersign: Countersign {
            v: VERSION,
            kind: message.kind.as_str(),
            id: &message.id,
            authenticator: &message.authenticator_id,
            expires: seconds(message.expires_at),
            token: &message.acknowledgement_token,
            nonce: &message.nonce,
        },
    })
}

/// The body of a request to FCM: the message, and whom it is for. A data message without a collapse key, so that
/// none of FCM's limits on collapsible messages holds for it; phones know a repeated one by its id.
pub(super) fn fcm(registration_token: &str, message: &PushMessage, now: Timestamp) -> Bytes {
    let whole_seconds = now.until(message.expires_at).as_secs();
    encode(&Fcm {
        message: FcmMessage {
            token: registration_token,
            data: Countersign {
                v: &VERSION.to_string(),
                kind: message.kind.as_str(),
                id: &message.id,
                authenticator: &message.authenticator_id,
                expires: &seconds(message.expires_at).to_string(),
                token: &message.acknowledgement_token,
                nonce: &message.nonce,
            },
            android: Android {
                priority: if message.kind.is_urgent() { "HIGH" } else { "NORMAL" },
                ttl: format!("{}s", whole_seconds.min(FCM_TTL_SECONDS_MAX)),
            },
        },
    })
}

/// A message that FCM is asked to look at, and not to send.
pub(super) fn fcm_validated(registration_token: &str) -> Bytes {
    encode(&serde_json::json!({ "validate_only": true, "message": { "token": registration_token } }))
}

/// FCM keeps messages for four weeks at most.
const FCM_TTL_SECONDS_MAX: u64 = 28 * 24 * 60 * 60;

/// Whole seconds since 1970, rounded down: a push never outlives what it is about.
pub(super) fn seconds(moment: Timestamp) -> u64 {
    moment.as_millis() / 1_000
}

fn encode(body: &impl Serialize) -> Bytes {
    serde_json::to_vec(body).expect("strings and numbers, in structs: always JSON").into()
}

#[derive(Serialize)]
struct Apns<'a> {
    aps: Aps,
    countersign: Countersign<'a, u32, u64>,
}

/// Apple's part of the payload.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Aps {
    alert: Alert,
    #[serde(skip_serializing_if = "Option::is_none")]
    sound: Option<&'static str>,
    category: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    mutable_content: Option<u8>,
    interruption_level: &'static str,
}

/// The names of texts in the app, which has them in the phone's language.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Alert {
    title_loc_key: &'static str,
    loc_key: &'static str,
}

impl Alert {
    fn of(kind: PushKind) -> Self {
        let (title_loc_key, loc_key) = match kind {
            PushKind::Challenge => ("COUNTERSIGN_CHALLENGE_TITLE", "COUNTERSIGN_CHALLENGE_BODY"),
            PushKind::Trial => ("COUNTERSIGN_TRIAL_TITLE", "COUNTERSIGN_TRIAL_BODY"),
            PushKind::Ended => ("COUNTERSIGN_ENDED_TITLE", "COUNTERSIGN_ENDED_BODY"),
            PushKind::Notice => ("COUNTERSIGN_NOTICE_TITLE", "COUNTERSIGN_NOTICE_BODY"),
        };
        Self { title_loc_key, loc_key }
    }
}

/// Our part: the same for both services, except that FCM's data holds strings only.
#[derive(Serialize)]
struct Countersign<'a, V, E> {
    v: V,
    kind: &'static str,
    id: &'a str,
    authenticator: &'a str,
    expires: E,
    token: &'a str,
    nonce: &'a str,
}

#[derive(Serialize)]
struct Fcm<'a> {
    message: FcmMessage<'a>,
}

#[derive(Serialize)]
struct FcmMessage<'a> {
    token: &'a str,
    data: Countersign<'a, &'a str, &'a str>,
    android: Android,
}

#[derive(Serialize)]
struct Android {
    priority: &'static str,
    ttl: String,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_millis(1_700_000_000_500)
    }

    fn message(kind: PushKind) -> PushMessage {
        PushMessage {
            kind,
            id: "0123456789abcdefghjkmnpqrstvwxyz".to_owned(),
            authenticator_id: "an-authenticator".to_owned(),
            expires_at: now().plus(Duration::from_millis(59_700)),
            acknowledgement_token: "dG9rZW4".to_owned(),
            nonce: "bm9uY2U".to_owned(),
        }
    }

    fn parse(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn a_challenge_on_apns_holds_this_and_nothing_else() {
        assert_eq!(
            parse(&apns(&message(PushKind::Challenge))),
            json!({
                "aps": {
                    "alert": {
                        "title-loc-key": "COUNTERSIGN_CHALLENGE_TITLE",
                        "loc-key": "COUNTERSIGN_CHALLENGE_BODY",
                    },
                    "sound": "default",
                    "category": "COUNTERSIGN_APPROVAL",
                    "mutable-content": 1,
                    "interruption-level": "time-sensitive",
                },
                "countersign": {
                    "v": 1,
                    "kind": "challenge",
                    "id": "0123456789abcdefghjkmnpqrstvwxyz",
                    "authenticator": "an-authenticator",
                    "expires": 1_700_000_060,
                    "token": "dG9rZW4",
                    "nonce": "bm9uY2U",
                },
            })
        );
    }

    #[test]
    fn an_end_on_apns_is_shown_without_sound_or_actions() {
        let ended = parse(&apns(&message(PushKind::Ended)));
        assert_eq!(
            ended["aps"],
            json!({
                "alert": {"title-loc-key": "COUNTERSIGN_ENDED_TITLE", "loc-key": "COUNTERSIGN_ENDED_BODY"},
                "category": "COUNTERSIGN_ENDED",
                "interruption-level": "passive",
            })
        );
        assert_eq!(ended["countersign"]["kind"], "ended");
    }

    #[test]
    fn a_challenge_on_fcm_is_data_of_strings_and_nothing_else() {
        assert_eq!(
            parse(&fcm("a-registration-token", &message(PushKind::Challenge), now())),
            json!({
                "message": {
                    "token": "a-registration-token",
                    "data": {
                        "v": "1",
                        "kind": "challenge",
                        "id": "0123456789abcdefghjkmnpqrstvwxyz",
                        "authenticator": "an-authenticator",
                        "expires": "1700000060",
                        "token": "dG9rZW4",
                        "nonce": "bm9uY2U",
                    },
                    "android": {"priority": "HIGH", "ttl": "59s"},
                },
            })
        );
    }

    #[test]
    fn fcm_keeps_a_message_no_longer_than_it_lives_and_no_longer_than_it_may() {
        let ttl = |life| {
            let expires_at = now().plus(life);
            let message = PushMessage { expires_at, ..message(PushKind::Notice) };
            parse(&fcm("token", &message, now()))["message"]["android"]["ttl"].clone()
        };
        assert_eq!(ttl(Duration::from_millis(999)), "0s");
        assert_eq!(ttl(Duration::ZERO), "0s");
        assert_eq!(ttl(Duration::from_secs(365 * 86_400)), "2419200s");
    }

    /// The largest that there can be, with room to spare: ids of 64 bytes, a token and a nonce of twice their size.
    #[test]
    fn the_largest_payload_fits_both_services() {
        for kind in PushKind::ALL {
            let message = PushMessage {
                kind,
                id: "x".repeat(64),
                authenticator_id: "x".repeat(64),
                expires_at: Timestamp::from_millis(u64::MAX),
                acknowledgement_token: "x".repeat(512),
                nonce: "x".repeat(512),
            };
            assert!(apns(&message).len() < PAYLOAD_BYTES_MAX);
            let data = parse(&fcm("x", &message, now()))["message"]["data"].to_string();
            assert!(data.len() < PAYLOAD_BYTES_MAX);
        }
    }

    /// Keys and all values that are not taken from the message: a number or a name could stand nowhere.
    #[test]
    fn no_push_has_a_field_for_personal_data_or_the_number() {
        fn keys(value: &Value, into: &mut Vec<String>) {
            for (key, value) in value.as_object().into_iter().flatten() {
                into.push(key.clone());
                keys(value, into);
            }
        }
        let allowed = [
            "aps",
            "alert",
            "title-loc-key",
            "loc-key",
            "sound",
            "category",
            "mutable-content",
            "interruption-level",
            "countersign",
            "message",
            "data",
            "android",
            "priority",
            "ttl",
            "v",
            "kind",
            "id",
            "authenticator",
            "expires",
            "token",
            "nonce",
        ];
        for kind in PushKind::ALL {
            let message = message(kind);
            let mut found = Vec::new();
            keys(&parse(&apns(&message)), &mut found);
            keys(&parse(&fcm("token", &message, now())), &mut found);
            found.retain(|key| !allowed.contains(&key.as_str()));
            assert_eq!(found, Vec::<String>::new(), "{kind:?}");
        }
    }

    #[test]
    fn what_an_id_holds_cannot_leave_its_place() {
        let id = r#"","kind":"notice","x":"\"#.to_owned();
        let message = PushMessage { id: id.clone(), ..message(PushKind::Challenge) };
        assert_eq!(parse(&apns(&message))["countersign"]["id"], id.as_str());
        let data = &parse(&fcm("token", &message, now()))["message"]["data"];
        assert_eq!((data["id"].as_str(), data["kind"].as_str()), (Some(id.as_str()), Some("challenge")));
    }
}
