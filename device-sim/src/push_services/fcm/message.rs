//! One request for a message, checked as FCM checks it once its shape is right.
//!
//! Sources: Google, 'projects.messages', 'ErrorCode' (sizes, data keys, TTL), 'Collapsible and non-collapsible
//! messages'.

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    errors::{Refusal, Violation},
    json::Json,
    schema::{self, duration_ms},
};
use crate::{clock::Timestamp, push_services::store::Keep};

/// Keys and values of the data, in bytes; and what is shown to the user counts too.
const PAYLOAD_MAX: usize = 4096;
/// The same for a topic.
const TOPIC_PAYLOAD_MAX: usize = 2048;
/// Four weeks, which is also the default.
const TTL_MAX: Duration = Duration::from_secs(28 * 24 * 60 * 60);

/// A request that has the right shape and keeps FCM's rules; its recipient is still to be found.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) validate_only: bool,
    pub(crate) recipient: Recipient,
    pub(crate) keep: Keep,
    pub(crate) collapse_key: Option<Box<str>>,
    /// The `message` as it was sent.
    pub(crate) body: Bytes,
}

/// Whom a message is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Recipient {
    /// A registration token.
    Token(String),
    /// A Firebase installation id.
    Fid(String),
    /// Whoever subscribed; here nobody does.
    Topic,
}

/// The request's body as JSON.
pub(crate) fn parse(body: &[u8]) -> Result<Json, Refusal> {
    serde_json::from_slice(body).map_err(|error| {
        Refusal::Malformed(vec![Violation {
            field: String::new(),
            description: format!("Invalid JSON payload received. {error}"),
        }])
    })
}

/// The token or installation id that a request names, if it names one; before anything is checked.
pub(crate) fn named_target(request: &Json) -> Option<&str> {
    let message = request.field("message")?;
    message.field("token").or_else(|| message.field("fid"))?.as_str()
}

impl Message {
    /// Checks `request`, which was parsed from `body`.
    pub(crate) fn check(
        request: &Json,
        body: &Bytes,
        package_name: &str,
        now: Timestamp,
    ) -> Result<Self, Refusal> {
        let violations = schema::violations(request);
        if !violations.is_empty() {
            return Err(Refusal::Malformed(violations));
        }
        let empty = Json::Object(Vec::new());
        let message = request.field("message").unwrap_or(&empty);
        let android = message.field("android").unwrap_or(&empty);
        let recipient = recipient(message)?;
        check_data(message, "message.data")?;
        check_data(android, "message.android.data")?;
        check_size(message, android, &recipient)?;
        check_package_name(android, package_name)?;
        let keep = keep(android, now)?;
        Ok(Self {
            validate_only: request.field("validate_only") == Some(&Json::Bool(true)),
            recipient,
            keep,
            collapse_key: collapse_key(message, android, package_name),
            body: raw_message(body),
        })
    }
}

fn recipient(message: &Json) -> Result<Recipient, Refusal> {
    let named: Vec<(&str, &str)> = ["token", "topic", "condition", "fid"]
        .into_iter()
        .filter_map(|name| Some((name, message.field(name)?.as_str()?)))
        .collect();
    match named[..] {
        [] | [(_, "")] => Err(Refusal::invalid(
            "message",
            "Recipient of the message is not set.",
            "Recipient of the message is not set.",
        )),
        [("token", token)] => Ok(Recipient::Token(token.to_owned())),
        [("fid", fid)] => Ok(Recipient::Fid(fid.to_owned())),
        [_] => Ok(Recipient::Topic),
        [_, (second, _), ..] => Err(Refusal::Malformed(vec![Violation {
            field: "message".to_owned(),
            description: format!(
                "Invalid value at 'message' (oneof), oneof field 'target' is already set. Cannot set '{second}'"
            ),
        }])),
    }
}

/// Keys that FCM needs for itself.
fn check_data(holder: &Json, path: &str) -> Result<(), Refusal> {
    let keys = holder.field("data").map(Json::fields).unwrap_or_default();
    match keys.iter().find(|(key, _)| is_reserved(key)) {
        Some((key, _)) => {
            let message = format!("Invalid data payload key: {key}");
            Err(Refusal::invalid(path, message.clone(), message))
        }
        None => Ok(()),
    }
}

fn is_reserved(key: &str) -> bool {
    matches!(key, "from" | "gcm" | "message_type") || key.starts_with("google") || key.starts_with("gcm.")
}

fn check_size(message: &Json, android: &Json, recipient: &Recipient) -> Result<(), Refusal> {
    // AndroidConfig.data, where it is set, takes the place of Message.data.
    let data = android.field("data").or_else(|| message.field("data"));
    let notifications = [message.field("notification"), android.field("notification")];
    let size: usize = notifications.into_iter().chain([data]).flatten().map(text_bytes).sum();
    let max = if *recipient == Recipient::Topic { TOPIC_PAYLOAD_MAX } else { PAYLOAD_MAX };
    if size > max {
        let description = format!("{size} bytes of payload; at most {max} are allowed");
        return Err(Refusal::invalid("message", "Message is too big", description));
    }
    Ok(())
}

/// The bytes of an object's names and texts.
fn text_bytes(object: &Json) -> usize {
    object.fields().iter().map(|(name, value)| name.len() + value.as_str().map_or(0, str::len)).sum()
}

fn check_package_name(android: &Json, package_name: &str) -> Result<(), Refusal> {
    match android.field("restricted_package_name").and_then(Json::as_str) {
        Some(other) if other != package_name => Err(Refusal::invalid(
            "message.android.restricted_package_name",
            "The registration token was issued to another package.",
            format!("{other} is not the package that the token was issued to"),
        )),
        _ => Ok(()),
    }
}

fn keep(android: &Json, now: Timestamp) -> Result<Keep, Refusal> {
    let Some(ttl) = android.field("ttl").and_then(Json::as_str) else {
        return Ok(Keep::Until(now.plus(TTL_MAX)));
    };
    let length = duration_ms(ttl).and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis);
    match length {
        Some(Duration::ZERO) => Ok(Keep::Not),
        Some(ttl) if ttl <= TTL_MAX => Ok(Keep::Until(now.plus(ttl))),
        _ => Err(Refusal::invalid(
            "message.android.ttl",
            "Invalid TTL",
            format!("{ttl} is not between 0s and {}s", TTL_MAX.as_secs()),
        )),
    }
}

/// What is shown to the user by itself is always collapsible, by its package; its own key is ignored.
fn collapse_key(message: &Json, android: &Json, package_name: &str) -> Option<Box<str>> {
    if message.field("notification").or_else(|| android.field("notification")).is_some() {
        return Some(package_name.into());
    }
    android.field("collapse_key").and_then(Json::as_str).filter(|key| !key.is_empty()).map(Into::into)
}

/// The bytes of the request's `message`.
fn raw_message(body: &Bytes) -> Bytes {
    #[derive(Deserialize)]
    struct Request<'a> {
        #[serde(borrow)]
        message: Option<&'a RawValue>,
    }
    serde_json::from_slice::<Request<'_>>(body)
        .ok()
        .and_then(|request| Some(body.slice_ref(request.message?.get().as_bytes())))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_700_000_000_000);

    fn check(body: &str) -> Result<Message, Refusal> {
        let body = Bytes::from(body.to_owned());
        Message::check(&parse(&body)?, &body, "com.example.app", NOW)
    }

    fn refused(message: &str) -> Option<String> {
        match check(&format!(r#"{{"message": {message}}}"#)) {
            Err(Refusal::Invalid { violation, .. }) => Some(violation.field),
            Err(Refusal::Malformed(violations)) => Some(violations[0].field.clone()),
            Err(other) => panic!("{other:?}"),
            Ok(_) => None,
        }
    }

    #[test]
    fn a_message_keeps_what_was_sent() {
        let message = check(r#"{"validate_only": true, "message": {"token": "t", "data": {"a": "b"}}}"#);
        let message = message.expect("accepted");
        assert!(message.validate_only);
        assert_eq!(message.recipient, Recipient::Token("t".to_owned()));
        assert_eq!(message.keep, Keep::Until(NOW.plus(TTL_MAX)));
        assert_eq!(message.body, r#"{"token": "t", "data": {"a": "b"}}"#);
    }

    #[test]
    fn a_message_is_for_exactly_one() {
        assert_eq!(refused(r#"{"data": {"a": "b"}}"#).as_deref(), Some("message"));
        assert_eq!(refused(r#"{"token": ""}"#).as_deref(), Some("message"));
        assert_eq!(refused(r#"{"token": "t", "topic": "n"}"#).as_deref(), Some("message"));
    }

    #[test]
    fn reserved_data_keys_are_refused() {
        for key in ["from", "gcm", "message_type", "google.sent_time", "googlebot", "gcm.notification.x"] {
            let message = format!(r#"{{"token": "t", "data": {{"{key}": "1"}}}}"#);
            assert_eq!(refused(&message).as_deref(), Some("message.data"), "{key}");
        }
        assert_eq!(refused(r#"{"token": "t", "data": {"collapse_key": "1", "sender": "2"}}"#), None);
        let android = r#"{"token": "t", "android": {"data": {"from": "1"}}}"#;
        assert_eq!(refused(android).as_deref(), Some("message.android.data"));
    }

    #[test]
    fn keys_and_values_have_4096_bytes_together() {
        let data = |length| format!(r#"{{"token": "t", "data": {{"key": "{}"}}}}"#, "x".repeat(length));
        assert_eq!(refused(&data(4093)), None);
        assert_eq!(refused(&data(4094)).as_deref(), Some("message"));
        let topic = format!(r#"{{"topic": "t", "data": {{"key": "{}"}}}}"#, "x".repeat(2046));
        assert_eq!(refused(&topic).as_deref(), Some("message"));
    }

    #[test]
    fn a_ttl_is_between_nothing_and_four_weeks() {
        let keep = |ttl| check(&format!(r#"{{"message": {{"token": "t", "android": {{"ttl": "{ttl}"}}}}}}"#));
        assert_eq!(keep("0s").expect("accepted").keep, Keep::Not);
        assert_eq!(keep("60s").expect("accepted").keep, Keep::Until(Timestamp(NOW.0 + 60_000)));
        assert_eq!(keep("2419200s").expect("accepted").keep, Keep::Until(NOW.plus(TTL_MAX)));
        for wrong in ["2419201s", "-1s"] {
            assert!(matches!(keep(wrong), Err(Refusal::Invalid { .. })), "{wrong}");
        }
        assert!(matches!(keep("60"), Err(Refusal::Malformed(_))));
    }

    #[test]
    fn what_is_shown_to_the_user_collapses_by_its_package() {
        let key = |message: &str| {
            check(&format!(r#"{{"message": {message}}}"#)).expect("accepted").collapse_key.map(String::from)
        };
        assert_eq!(key(r#"{"token": "t"}"#), None);
        assert_eq!(key(r#"{"token": "t", "android": {"collapse_key": "k"}}"#).as_deref(), Some("k"));
        let notification =
            r#"{"token": "t", "notification": {"title": "x"}, "android": {"collapse_key": "k"}}"#;
        assert_eq!(key(notification).as_deref(), Some("com.example.app"));
    }

    #[test]
    fn another_package_name_is_refused() {
        let message = r#"{"token": "t", "android": {"restricted_package_name": "com.example.other"}}"#;
        assert_eq!(refused(message).as_deref(), Some("message.android.restricted_package_name"));
    }
}
