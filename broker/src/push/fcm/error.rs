//! What FCM's errors mean for a push.
//!
//! Sources: Google, 'ErrorCode', 'FCM error codes', 'Best practices for FCM registration token management'; the
//! form is `google.rpc.Status` as JSON (AIP-193).

use std::time::Duration;

use countersign_domain::Timestamp;
use reqwest::{StatusCode, header::HeaderMap};
use serde::Deserialize;
use serde_json::Value;

use crate::push::{
    Error,
    connection::{Unanswered, printable},
    retry::retry_after,
};

/// Codes and fields are short; longer ones are cut.
const WORD_BYTES_MAX: usize = 64;

/// Google asks for at least this long after 429, if no `Retry-After` says otherwise.
const QUOTA_PAUSE: Duration = Duration::from_secs(60);

/// What follows from an answer that is not 'accepted'.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// This is what became of the push.
    Final(Error),
    /// The access token is not taken: the same push may be with a new one.
    TokenRefused,
}

impl From<Error> for Verdict {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

impl From<Unanswered> for Verdict {
    fn from(unanswered: Unanswered) -> Self {
        Self::Final(unanswered.into())
    }
}

#[derive(Default, Deserialize)]
struct Body {
    #[serde(default)]
    error: Status,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    message: String,
    #[serde(rename = "status")]
    canonical: String,
    details: Vec<Value>,
}

impl Status {
    /// FCM's own code: `google.firebase.fcm.v1.FcmError`.
    fn code(&self) -> Option<&str> {
        self.details.iter().find_map(|detail| detail.get("errorCode")?.as_str())
    }

    /// The fields that `google.rpc.BadRequest` names.
    fn fields(&self) -> impl Iterator<Item = &str> {
        self.details
            .iter()
            .filter_map(|detail| detail.get("fieldViolations")?.as_array())
            .flatten()
            .filter_map(|violation| violation.get("field")?.as_str())
    }

    /// The registration token itself is malformed, and nothing else is said to be. Google means a dead token by
    /// `INVALID_ARGUMENT` only if the rest of the request is right, so a doubt is decided against that: a mistake of
    /// ours must not cost every phone its target. Either the field is named, or FCM's sentence says it, which
    /// Google's own clients look for as well.
    fn names_the_token(&self) -> bool {
        let mut fields = self.fields().peekable();
        if fields.peek().is_some() {
            fields.all(|field| field == "message.token")
        } else {
            self.code().is_some() && self.message.contains("not a valid FCM registration token")
        }
    }
}

/// What an answer with this status, not 200, means.
pub(super) fn verdict(status: StatusCode, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Verdict {
    let error = serde_json::from_slice::<Body>(body).unwrap_or_default().error;
    let after = retry_after(headers, now);
    let word = |code: &str| printable(code, WORD_BYTES_MAX);
    Verdict::Final(match error.code() {
        Some(code @ ("UNREGISTERED" | "SENDER_ID_MISMATCH")) => {
            Error::Dead { reason: word(code), since: None }
        }
        Some(code @ "QUOTA_EXCEEDED") => {
            Error::Retry { reason: word(code), after: after.or(Some(QUOTA_PAUSE)) }
        }
        Some(code @ ("UNAVAILABLE" | "INTERNAL")) => Error::Retry { reason: word(code), after },
        // About the credentials that the project has with Apple or for Web Push.
        Some(code @ "THIRD_PARTY_AUTH_ERROR") => Error::Refused { reason: word(code) },
        Some("INVALID_ARGUMENT") => invalid_argument(&error),
        // `UNSPECIFIED_ERROR`, what Google may add, and everything that was refused before FCM saw it.
        code => match status {
            StatusCode::UNAUTHORIZED => return Verdict::TokenRefused,
            StatusCode::BAD_REQUEST => invalid_argument(&error),
            StatusCode::TOO_MANY_REQUESTS => {
                Error::Retry { reason: said(code, &error, status), after: after.or(Some(QUOTA_PAUSE)) }
            }
            status if status == StatusCode::REQUEST_TIMEOUT || status.is_server_error() => {
                Error::Retry { reason: said(code, &error, status), after }
            }
            // 404 without `UNREGISTERED` is about the project or the endpoint, not about the phone.
            _ => Error::Refused { reason: said(code, &error, status) },
        },
    })
}

fn invalid_argument(error: &Status) -> Error {
    if error.names_the_token() {
        return Error::Dead { reason: "INVALID_ARGUMENT: message.token".to_owned(), since: None };
    }
    let field = error.fields().next().map(|field| format!(": {}", printable(field, WORD_BYTES_MAX)));
    Error::Refused { reason: format!("INVALID_ARGUMENT{}", field.unwrap_or_default()) }
}

/// The most telling word of an answer.
fn said(code: Option<&str>, error: &Status, status: StatusCode) -> String {
    let canonical = Some(error.canonical.as_str()).filter(|word| !word.is_empty());
    match code.or(canonical) {
        Some(word) => printable(word, WORD_BYTES_MAX),
        None => format!("status {}", status.as_u16()),
    }
}

#[cfg(test)]
mod tests {
    use reqwest::header::{HeaderValue, RETRY_AFTER};
    use serde_json::json;

    use super::*;

    const FCM_ERROR: &str = "type.googleapis.com/google.firebase.fcm.v1.FcmError";
    const BAD_REQUEST: &str = "type.googleapis.com/google.rpc.BadRequest";

    fn answer(status: u16, retry_after: Option<&'static str>, body: &Value) -> Verdict {
        let mut headers = HeaderMap::new();
        if let Some(value) = retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from_static(value));
        }
        let now = Timestamp::from_millis(1_700_000_000_000);
        verdict(StatusCode::from_u16(status).unwrap(), &headers, body.to_string().as_bytes(), now)
    }

    /// An error as Google's servers write it.
    fn error(status: u16, canonical: &str, message: &str, details: &Value) -> Value {
        json!({"error": {"code": status, "message": message, "status": canonical, "details": details}})
    }

    fn fcm_error(status: u16, canonical: &str, code: &str) -> Value {
        error(status, canonical, "", &json!([{"@type": FCM_ERROR, "errorCode": code}]))
    }

    fn dead(reason: &str) -> Verdict {
        Verdict::Final(Error::Dead { reason: reason.to_owned(), since: None })
    }

    fn retry(reason: &str, seconds: Option<u64>) -> Verdict {
        let after = seconds.map(Duration::from_secs);
        Verdict::Final(Error::Retry { reason: reason.to_owned(), after })
    }

    fn refused(reason: &str) -> Verdict {
        Verdict::Final(Error::Refused { reason: reason.to_owned() })
    }

    #[test]
    fn every_code_that_google_documents_means_what_it_should() {
        for (status, canonical, code, expected) in [
            (404, "NOT_FOUND", "UNREGISTERED", dead("UNREGISTERED")),
            (403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH", dead("SENDER_ID_MISMATCH")),
            (429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", retry("QUOTA_EXCEEDED", Some(60))),
            (503, "UNAVAILABLE", "UNAVAILABLE", retry("UNAVAILABLE", None)),
            (500, "INTERNAL", "INTERNAL", retry("INTERNAL", None)),
            (401, "UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR", refused("THIRD_PARTY_AUTH_ERROR")),
            (400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", refused("INVALID_ARGUMENT")),
            (500, "UNKNOWN", "UNSPECIFIED_ERROR", retry("UNSPECIFIED_ERROR", None)),
            (400, "INVALID_ARGUMENT", "UNSPECIFIED_ERROR", refused("INVALID_ARGUMENT")),
        ] {
            assert_eq!(answer(status, None, &fcm_error(status, canonical, code)), expected, "{code}");
        }
    }

    #[test]
    fn retry_after_counts_wherever_a_retry_helps() {
        for (status, code) in [(429, "QUOTA_EXCEEDED"), (503, "UNAVAILABLE"), (500, "INTERNAL")] {
            let body = fcm_error(status, "", code);
            assert_eq!(answer(status, Some("7"), &body), retry(code, Some(7)));
        }
        assert_eq!(answer(503, Some("7"), &json!("no error at all")), retry("status 503", Some(7)));
        assert_eq!(answer(429, None, &json!({})), retry("status 429", Some(60)));
    }

    #[test]
    fn a_malformed_registration_token_is_dead_only_if_nothing_else_is_wrong() {
        let invalid = |message: &str, details: Value| {
            answer(400, None, &error(400, "INVALID_ARGUMENT", message, &details))
        };
        let fields = |names: &[&str]| {
            let violations: Vec<_> = names.iter().map(|name| json!({"field": name})).collect();
            json!({"@type": BAD_REQUEST, "fieldViolations": violations})
        };
        let fcm = json!({"@type": FCM_ERROR, "errorCode": "INVALID_ARGUMENT"});
        let sentence = "The registration token is not a valid FCM registration token";

        assert_eq!(invalid(sentence, json!([fcm])), dead("INVALID_ARGUMENT: message.token"));
        assert_eq!(
            invalid("", json!([fcm, fields(&["message.token"])])),
            dead("INVALID_ARGUMENT: message.token")
        );

        assert_eq!(invalid(sentence, json!([])), refused("INVALID_ARGUMENT"), "not FCM's own word");
        assert_eq!(invalid("Invalid JSON payload", json!([fcm])), refused("INVALID_ARGUMENT"));
        assert_eq!(
            invalid(sentence, json!([fcm, fields(&["message.android.ttl", "message.token"])])),
            refused("INVALID_ARGUMENT: message.android.ttl"),
        );
        assert_eq!(
            invalid("", json!([fields(&["message.data[0].value"])])),
            refused("INVALID_ARGUMENT: message.data[0].value"),
        );
    }

    #[test]
    fn what_was_refused_before_fcm_saw_it_is_known_by_its_status() {
        let plain = |status, canonical| answer(status, None, &error(status, canonical, "", &json!([])));
        assert_eq!(plain(401, "UNAUTHENTICATED"), Verdict::TokenRefused);
        assert_eq!(plain(403, "PERMISSION_DENIED"), refused("PERMISSION_DENIED"));
        assert_eq!(
            plain(404, "NOT_FOUND"),
            refused("NOT_FOUND"),
            "a project that is not there kills no target"
        );
        assert_eq!(plain(408, "DEADLINE_EXCEEDED"), retry("DEADLINE_EXCEEDED", None));
        assert_eq!(plain(502, ""), retry("status 502", None));
        assert_eq!(plain(302, ""), refused("status 302"));
    }

    #[test]
    fn an_answer_that_cannot_be_read_is_known_by_its_status() {
        for body in [json!(null), json!([]), json!({"error": "x"}), json!({"error": {"details": {"a": 1}}})] {
            assert_eq!(answer(500, None, &body), retry("status 500", None), "{body}");
            assert_eq!(answer(404, None, &body), refused("status 404"), "{body}");
        }
        let odd = json!({"error": {"status": "x".repeat(500), "details": [7, null, {"errorCode": 5}]}});
        assert_eq!(answer(404, None, &odd), refused(&"x".repeat(64)));
    }
}
