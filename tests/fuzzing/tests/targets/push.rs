//! What push services answer.

use std::time::Duration;

use countersign::push::{Error, apns, fcm, retry_after};
use countersign_domain::Timestamp;
use fuzzing::fuzz;
use http::{HeaderMap, HeaderValue, StatusCode, header::RETRY_AFTER};
use serde_json::Value;

use super::real::NOW;

/// What a push service says is a word fit for a log line; no phone loses its target but by a word that means it.
#[test]
fn apns_answer() {
    let dead = ["BadDeviceToken", "ExpiredToken", "Unregistered"];
    let real = [
        (
            "dead",
            &br#"410
{"reason":"Unregistered","timestamp":1699999999000}"#[..],
        ),
        ("too_many", b"429 120\n{\"reason\":\"TooManyRequests\"}"),
        ("token_expired", b"403\n{\"reason\":\"ExpiredProviderToken\"}"),
    ];
    fuzz("apns_answer", &real.map(owned), |bytes| {
        let (status, headers, body) = http_answer(bytes);
        let Some(error) = apns::refusal(status, &headers, body, NOW) else { return };
        assert_fit_for_a_log(&error, 64);
        if matches!(error, Error::Dead { .. }) {
            assert!(dead.contains(&error.reason()) || status == StatusCode::GONE, "{status}: {error}");
        }
    });
}

/// The same of Google's.
#[test]
fn fcm_answer() {
    let real = [
        (
            "dead",
            &br#"404
{"error":{"code":404,"status":"NOT_FOUND","details":[{"errorCode":"UNREGISTERED"}]}}"#[..],
        ),
        (
            "bad_field",
            br#"400
{"error":{"details":[{"errorCode":"INVALID_ARGUMENT"},{"fieldViolations":[{"field":"message.token"}]}]}}"#,
        ),
        (
            "quota",
            br#"429 30
{"error":{"status":"RESOURCE_EXHAUSTED","details":[{"errorCode":"QUOTA_EXCEEDED"}]}}"#,
        ),
        (
            "unauthenticated",
            br#"401
{"error":{"status":"UNAUTHENTICATED"}}"#,
        ),
    ];
    let of_the_phone =
        ["UNREGISTERED", "SENDER_ID_MISMATCH", "message.token", "not a valid FCM registration token"];
    fuzz("fcm_answer", &real.map(owned), |bytes| {
        let (status, headers, body) = http_answer(bytes);
        let Some(error) = fcm::refusal(status, &headers, body, NOW) else { return };
        assert_fit_for_a_log(&error, 64 + "INVALID_ARGUMENT: ".len());
        if matches!(error, Error::Dead { .. }) {
            // What nobody reads of it need not be UTF-8.
            let Ok(said) = serde_json::from_slice::<Value>(body) else { return };
            let said = said.to_string();
            assert!(of_the_phone.iter().any(|word| said.contains(word)), "{said}: {error}");
        }
    });
}

/// A token is what was granted, is in use for a minute at least, and shown to nobody.
#[test]
fn oauth_answer() {
    let real = [
        (
            "granted",
            &br#"200
{"access_token":"ya29.a-token","expires_in":3599,"token_type":"Bearer"}"#[..],
        ),
        (
            "denied",
            br#"400
{"error":"invalid_grant","error_description":"Invalid JWT"}"#,
        ),
        ("unavailable", b"503 60\nbackend error"),
    ];
    fuzz("oauth_answer", &real.map(owned), |bytes| {
        let (status, headers, body) = http_answer(bytes);
        match fcm::granted(status, &headers, body, NOW) {
            Ok((bearer, life)) => {
                // What nobody reads of it need not be UTF-8.
                let Ok(said) = serde_json::from_slice::<Value>(body) else { return };
                // serde takes a list for a struct.
                let token =
                    said.get("access_token").or(said.get(0)).and_then(Value::as_str).expect("a token");
                assert_eq!(bearer.as_bytes(), format!("Bearer {token}").as_bytes());
                assert_eq!(format!("{bearer:?}"), "Sensitive");
                assert!(life >= Duration::from_secs(60), "{life:?}");
            }
            Err(error) => {
                assert_fit_for_a_log(&error, 192);
                assert!(
                    status != StatusCode::OK || error.reason().starts_with("the token endpoint answered")
                );
            }
        }
    });
}

/// `Retry-After` is nothing that waits for longer than an hour; a number is itself, and a date is as far off as it is.
#[test]
fn retry_after_header() {
    fuzz_retry_after("retry_after_header", retry_after);
}

pub(super) fn fuzz_retry_after(name: &str, read: impl Fn(&HeaderMap, Timestamp) -> Option<Duration>) {
    const HOUR: Duration = Duration::from_secs(60 * 60);
    let real = [
        ("seconds", &b"120"[..]),
        ("date", b"Tue, 14 Nov 2023 22:14:00 GMT"),
        ("leap_day", b"Thu, 29 Feb 2024 23:59:59 GMT"),
    ];
    fuzz(name, &real.map(owned), |bytes| {
        let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
        let text = value.to_str().unwrap_or_default().trim().to_owned();
        let headers = HeaderMap::from_iter([(RETRY_AFTER, value)]);
        assert!(read(&headers, NOW) <= Some(HOUR), "{text}");
        if let Ok(seconds) = text.parse::<u64>()
            && !text.starts_with('+')
        {
            assert_eq!(read(&headers, NOW), Some(Duration::from_secs(seconds).min(HOUR)));
        }
        // A date that somebody else reads and writes as it stands.
        if let Ok(date) = httpdate::parse_http_date(&text)
            && httpdate::fmt_http_date(date) == text
        {
            let since_1970 = date.duration_since(std::time::UNIX_EPOCH).expect("later");
            let at = Timestamp::default().plus(since_1970);
            let before = Duration::from_secs(40).min(since_1970);
            assert_eq!(read(&headers, at.minus(before)), Some(before), "{text}");
        }
    });
}

fn owned((name, bytes): (&'static str, &[u8])) -> (&'static str, Vec<u8>) {
    (name, bytes.to_vec())
}

/// An answer as the seeds write it: status, and what `Retry-After` says, on the first line; then the body.
fn http_answer(bytes: &[u8]) -> (StatusCode, HeaderMap, &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (head, body) = (&bytes[..end], bytes.get(end + 1..).unwrap_or_default());
    let (status, after) = head.split_at(head.len().min(3));
    let mut headers = HeaderMap::new();
    if let Some(value) = after.strip_prefix(b" ").and_then(|after| HeaderValue::from_bytes(after).ok()) {
        headers.insert(RETRY_AFTER, value);
    }
    (StatusCode::from_bytes(status).unwrap_or(StatusCode::IM_A_TEAPOT), headers, body)
}

/// Printable, of a length that makes sense, and nobody is sent away for longer than an hour.
fn assert_fit_for_a_log(error: &Error, bytes_max: usize) {
    let reason = error.reason();
    assert!(reason.len() <= bytes_max, "{reason}");
    assert!(reason.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()), "{reason:?}");
    if let Error::Retry { after, .. } = error {
        assert!(*after <= Some(Duration::from_secs(60 * 60)), "{after:?}");
    }
}
