//! One request for a notification, taken apart and checked as Apple documents it.
//!
//! Sources: Apple, 'Sending notification requests to APNs' (headers, sizes, push types) and 'Handling
//! notification responses from APNs' (reasons).

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use super::reply::Reason;
use crate::{
    clock::Timestamp,
    push_services::{
        identity::{KeyScope, ProviderKey},
        store::Keep,
    },
};

/// The most that a payload may have, in bytes.
const PAYLOAD_MAX: usize = 4096;
/// The same for VoIP.
const PAYLOAD_VOIP_MAX: usize = 5120;
/// More than this is not even read.
pub(crate) const BODY_READ_MAX: usize = PAYLOAD_VOIP_MAX + 1;
/// The most that a collapse identifier may have, in bytes.
const COLLAPSE_ID_MAX: usize = 64;
/// The longest that a notification waits for its device.
const STORAGE_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// A bundle identifier has no documented limit; this one keeps the simulator's memory its own.
const TOPIC_MAX: usize = 255;

const APNS_ID: HeaderName = HeaderName::from_static("apns-id");
const APNS_EXPIRATION: HeaderName = HeaderName::from_static("apns-expiration");
const APNS_PRIORITY: HeaderName = HeaderName::from_static("apns-priority");
const APNS_PUSH_TYPE: HeaderName = HeaderName::from_static("apns-push-type");
const APNS_TOPIC: HeaderName = HeaderName::from_static("apns-topic");
const APNS_COLLAPSE_ID: HeaderName = HeaderName::from_static("apns-collapse-id");

/// What a notification may be about, and the suffix that its topic then has: 'Know when to use push types'. The
/// topic of `mdm` is its certificate's own and has no suffix.
const PUSH_TYPES: [(&str, &str); 11] = [
    ("alert", ""),
    ("background", ""),
    ("complication", ".complication"),
    ("controls", ".push-type.controls"),
    ("fileprovider", ".pushkit.fileprovider"),
    ("liveactivity", ".push-type.liveactivity"),
    ("location", ".location-query"),
    ("mdm", ""),
    ("pushtotalk", ".voip-ptt"),
    ("voip", ".voip"),
    ("widgets", ".push-type.widgets"),
];

/// The headers of a request, checked; what they say of device and payload is checked against those later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Notification {
    /// The app's bundle identifier: the topic without its suffix.
    pub(crate) bundle_id: String,
    pub(crate) keep: Keep,
    is_voip: bool,
}

/// The device token of the path, lowercase.
pub(crate) fn device_token(uri: &Uri) -> Result<String, Reason> {
    let token = match uri.path().strip_prefix("/3/device") {
        Some("" | "/") => return Err(Reason::MissingDeviceToken),
        Some(rest) => rest.strip_prefix('/').ok_or(Reason::BadPath)?,
        None => return Err(Reason::BadPath),
    };
    if token.contains('/') { Err(Reason::BadPath) } else { Ok(token.to_ascii_lowercase()) }
}

/// Only POST is allowed.
pub(crate) fn check_method(method: &Method) -> Result<(), Reason> {
    if method == Method::POST { Ok(()) } else { Err(Reason::MethodNotAllowed) }
}

/// The request's own `apns-id`, if it has a good one. Apple's text asks for lowercase, its servers take both.
pub(crate) fn apns_id(headers: &HeaderMap) -> Result<Option<HeaderValue>, Reason> {
    match headers.get(APNS_ID) {
        None => Ok(None),
        Some(id) if is_uuid(id.as_bytes()) => Ok(Some(id.clone())),
        Some(_) => Err(Reason::BadMessageId),
    }
}

impl Notification {
    /// Checks the headers that do not depend on the device, with `key` as the one that signed the token and
    /// `team_topics` as the bundle identifiers of its team.
    pub(crate) fn parse(
        headers: &HeaderMap,
        key: &ProviderKey,
        team_topics: &[String],
        now: Timestamp,
    ) -> Result<Self, Reason> {
        check_duplicates(headers)?;
        apns_id(headers)?;
        let keep = keep(headers, now)?;
        let priority = priority(headers)?;
        check_collapse_id(headers)?;
        let push_type = push_type(headers)?;
        let (bundle_id, suffix) = topic(headers, team_topics)?;
        if push_type.is_some_and(|(_, required)| required != suffix) {
            return Err(Reason::InvalidPushType);
        }
        if push_type.is_some_and(|(name, _)| name == "background") && priority != 5 {
            return Err(Reason::BadPriority);
        }
        check_key_scope(key, &bundle_id)?;
        Ok(Self { bundle_id, keep, is_voip: suffix == ".voip" })
    }

    /// Checks the payload's size.
    pub(crate) fn check_payload(&self, payload: &[u8]) -> Result<(), Reason> {
        let max = if self.is_voip { PAYLOAD_VOIP_MAX } else { PAYLOAD_MAX };
        match payload.len() {
            0 => Err(Reason::PayloadEmpty),
            length if length > max => Err(Reason::PayloadTooLarge),
            _ => Ok(()),
        }
    }
}

fn check_duplicates(headers: &HeaderMap) -> Result<(), Reason> {
    const ONCE: [HeaderName; 6] =
        [APNS_ID, APNS_EXPIRATION, APNS_PRIORITY, APNS_PUSH_TYPE, APNS_TOPIC, APNS_COLLAPSE_ID];
    let twice = ONCE.iter().any(|name| headers.get_all(name).iter().nth(1).is_some());
    if twice { Err(Reason::DuplicateHeaders) } else { Ok(()) }
}

fn keep(headers: &HeaderMap, now: Timestamp) -> Result<Keep, Reason> {
    let last = now.plus(STORAGE_MAX);
    let Some(expiration) = headers.get(APNS_EXPIRATION) else {
        return Ok(Keep::Until(last));
    };
    let seconds: u64 =
        expiration.to_str().ok().and_then(|text| text.parse().ok()).ok_or(Reason::BadExpirationDate)?;
    let expires_at = Timestamp::from_seconds(seconds);
    Ok(if expires_at <= now { Keep::Not } else { Keep::Until(expires_at.min(last)) })
}

/// 10 if there is none.
fn priority(headers: &HeaderMap) -> Result<u8, Reason> {
    match headers.get(APNS_PRIORITY).map(HeaderValue::as_bytes) {
        None | Some(b"10") => Ok(10),
        Some(b"5") => Ok(5),
        Some(b"1") => Ok(1),
        Some(_) => Err(Reason::BadPriority),
    }
}

fn check_collapse_id(headers: &HeaderMap) -> Result<(), Reason> {
    match headers.get(APNS_COLLAPSE_ID) {
        Some(id) if id.len() > COLLAPSE_ID_MAX => Err(Reason::BadCollapseId),
        _ => Ok(()),
    }
}

fn push_type(headers: &HeaderMap) -> Result<Option<(&'static str, &'static str)>, Reason> {
    let Some(given) = headers.get(APNS_PUSH_TYPE) else { return Ok(None) };
    let known = PUSH_TYPES.iter().find(|(name, _)| given.as_bytes() == name.as_bytes());
    known.copied().map(Some).ok_or(Reason::InvalidPushType)
}

/// The topic's bundle identifier, which must be the team's, and its suffix.
fn topic(headers: &HeaderMap, team_topics: &[String]) -> Result<(String, &'static str), Reason> {
    let topic = headers.get(APNS_TOPIC).ok_or(Reason::MissingTopic)?;
    let topic = topic.to_str().ok().filter(|topic| is_bundle_id(topic)).ok_or(Reason::BadTopic)?;
    for bundle_id in team_topics {
        let Some(rest) = topic.strip_prefix(bundle_id.as_str()) else { continue };
        if let Some((_, suffix)) = PUSH_TYPES.iter().find(|(_, suffix)| *suffix == rest) {
            return Ok((bundle_id.clone(), suffix));
        }
    }
    Err(Reason::TopicDisallowed)
}

fn check_key_scope(key: &ProviderKey, bundle_id: &str) -> Result<(), Reason> {
    match &key.scope {
        KeyScope::Topics { topics, .. } if !topics.iter().any(|topic| topic == bundle_id) => {
            Err(Reason::TopicDisallowed)
        }
        _ => Ok(()),
    }
}

/// Letters, digits, hyphens and full stops: Apple, `CFBundleIdentifier`.
fn is_bundle_id(topic: &str) -> bool {
    !topic.is_empty()
        && topic.len() <= TOPIC_MAX
        && topic.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.')
}

/// Five groups of hexadecimal digits, 8-4-4-4-12.
fn is_uuid(text: &[u8]) -> bool {
    text.len() == 36
        && text.iter().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_700_000_000_000);

    fn parse(fields: &[(&'static str, &str)]) -> Result<Notification, Reason> {
        let key = ProviderKey::generate("TEAM").expect("a key");
        parse_with(&key, fields)
    }

    fn parse_with(key: &ProviderKey, fields: &[(&'static str, &str)]) -> Result<Notification, Reason> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().expect("a header value"));
        }
        Notification::parse(&headers, key, &["com.example.app".to_owned()], NOW)
    }

    fn refused(fields: &[(&'static str, &str)]) -> Option<Reason> {
        let mut all = fields.to_vec();
        if !fields.iter().any(|(name, _)| *name == "apns-topic") {
            all.push(("apns-topic", "com.example.app"));
        }
        parse(&all).err()
    }

    #[test]
    fn a_topic_is_all_that_a_request_needs() {
        let notification = parse(&[("apns-topic", "com.example.app")]).expect("accepted");
        assert_eq!(notification.bundle_id, "com.example.app");
        assert_eq!(notification.keep, Keep::Until(NOW.plus(STORAGE_MAX)));
    }

    #[test]
    fn every_header_out_of_range_has_its_reason() {
        for (name, value, reason) in [
            ("apns-id", "not-a-uuid", Reason::BadMessageId),
            ("apns-expiration", "-1", Reason::BadExpirationDate),
            ("apns-expiration", "tomorrow", Reason::BadExpirationDate),
            ("apns-priority", "7", Reason::BadPriority),
            ("apns-push-type", "shout", Reason::InvalidPushType),
            ("apns-topic", "com.example app", Reason::BadTopic),
            ("apns-topic", "com.example.other", Reason::TopicDisallowed),
            ("apns-topic", "com.example.app.unknown", Reason::TopicDisallowed),
        ] {
            assert_eq!(refused(&[(name, value)]), Some(reason), "{name}: {value}");
        }
        assert_eq!(parse(&[]).err(), Some(Reason::MissingTopic));
        assert_eq!(
            refused(&[("apns-priority", "5"), ("apns-priority", "10")]),
            Some(Reason::DuplicateHeaders)
        );
    }

    #[test]
    fn a_collapse_identifier_has_64_bytes_at_most() {
        assert_eq!(refused(&[("apns-collapse-id", &"c".repeat(64))]), None);
        assert_eq!(refused(&[("apns-collapse-id", &"c".repeat(65))]), Some(Reason::BadCollapseId));
    }

    #[test]
    fn a_background_push_has_priority_5_and_no_other() {
        let background = ("apns-push-type", "background");
        assert_eq!(refused(&[background, ("apns-priority", "5")]), None);
        assert_eq!(refused(&[background, ("apns-priority", "10")]), Some(Reason::BadPriority));
        assert_eq!(refused(&[background]), Some(Reason::BadPriority), "none given means 10");
    }

    #[test]
    fn every_push_type_goes_with_its_own_suffix_only() {
        for (name, suffix) in PUSH_TYPES {
            let topic = format!("com.example.app{suffix}");
            let fields = [("apns-push-type", name), ("apns-topic", &topic), ("apns-priority", "5")];
            assert_eq!(refused(&fields), None, "{name}");
            let wrong = if suffix == ".voip" { "com.example.app" } else { "com.example.app.voip" };
            let fields = [("apns-push-type", name), ("apns-topic", wrong), ("apns-priority", "5")];
            assert_eq!(refused(&fields), Some(Reason::InvalidPushType), "{name}");
        }
    }

    #[test]
    fn an_expiration_of_zero_or_in_the_past_means_one_try() {
        for (value, keep) in [
            ("0", Keep::Not),
            ("1699999999", Keep::Not),
            ("1700000060", Keep::Until(Timestamp(1_700_000_060_000))),
            ("99999999999", Keep::Until(NOW.plus(STORAGE_MAX))),
        ] {
            let parsed = parse(&[("apns-topic", "com.example.app"), ("apns-expiration", value)]);
            assert_eq!(parsed.expect("accepted").keep, keep, "{value}");
        }
    }

    #[test]
    fn a_topic_specific_key_pushes_to_its_topics_only() {
        let key = ProviderKey::generate("TEAM").expect("a key").only_for(&["com.example.other"]);
        let refused = parse_with(&key, &[("apns-topic", "com.example.app")]).err();
        assert_eq!(refused, Some(Reason::TopicDisallowed));
    }

    #[test]
    fn only_voip_may_have_more_than_4096_bytes() {
        let alert = parse(&[("apns-topic", "com.example.app")]).expect("accepted");
        assert_eq!(alert.check_payload(&[b'x'; 4096]), Ok(()));
        assert_eq!(alert.check_payload(&[b'x'; 4097]), Err(Reason::PayloadTooLarge));
        assert_eq!(alert.check_payload(b""), Err(Reason::PayloadEmpty));
        let voip = parse(&[("apns-topic", "com.example.app.voip")]).expect("accepted");
        assert_eq!(voip.check_payload(&[b'x'; 5120]), Ok(()));
        assert_eq!(voip.check_payload(&[b'x'; 5121]), Err(Reason::PayloadTooLarge));
    }

    #[test]
    fn the_path_is_three_device_and_a_token() {
        let token = |path: &str| device_token(&path.parse().expect("a path"));
        assert_eq!(token("/3/device/00FFaa").as_deref(), Ok("00ffaa"));
        assert_eq!(token("/3/device/"), Err(Reason::MissingDeviceToken));
        assert_eq!(token("/3/device"), Err(Reason::MissingDeviceToken));
        assert_eq!(token("/3/devices/00"), Err(Reason::BadPath));
        assert_eq!(token("/2/device/00"), Err(Reason::BadPath));
        assert_eq!(token("/3/device/00/11"), Err(Reason::BadPath));
    }
}
