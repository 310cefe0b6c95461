//! What APNs' reasons mean for a push.
//!
//! Source: Apple, 'Handling notification responses from APNs', table of response error strings.

use countersign_domain::Timestamp;
use reqwest::{StatusCode, header::HeaderMap};
use serde::Deserialize;

use crate::push::{
    Error,
    connection::{Unanswered, printable},
    retry::retry_after,
};

/// Reasons are single words; a longer one is cut.
const REASON_BYTES_MAX: usize = 64;

/// What follows from an answer that is not 'accepted'.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// This is what became of the push.
    Final(Error),
    /// The provider token is too old: the same push is taken with a new one.
    TokenExpired,
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

/// What a reason means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Dead,
    Retry,
    Refused,
    TokenExpired,
}

macro_rules! reasons {
    ($($name:ident => $meaning:ident),+ $(,)?) => {
        /// Every reason that Apple documents.
        #[cfg(test)]
        pub(super) const REASONS: &[&str] = &[$(stringify!($name)),+];

        /// What a reason means, if Apple documents it.
        fn meaning(reason: &str) -> Option<Meaning> {
            match reason {
                $(stringify!($name) => Some(Meaning::$meaning),)+
                _ => None,
            }
        }
    };
}

reasons! {
    // 400: the request is wrong in itself.
    BadCollapseId => Refused,
    // Also said of a good token of the other environment: `endpoint` may be the wrong one.
    BadDeviceToken => Dead,
    BadExpirationDate => Refused,
    BadMessageId => Refused,
    BadPriority => Refused,
    BadTopic => Refused,
    // A good token of another app: `topic` is not that of the app, and an operator's mistake must not cost every
    // phone its target.
    DeviceTokenNotForTopic => Refused,
    DuplicateHeaders => Refused,
    // The connection was idle for too long: the next one is not.
    IdleTimeout => Retry,
    InvalidPushType => Refused,
    MissingDeviceToken => Refused,
    MissingTopic => Refused,
    PayloadEmpty => Refused,
    TopicDisallowed => Refused,
    // 403: certificate or token.
    BadCertificate => Refused,
    BadCertificateEnvironment => Refused,
    ExpiredProviderToken => TokenExpired,
    Forbidden => Refused,
    InvalidProviderToken => Refused,
    MissingProviderToken => Refused,
    UnrelatedKeyIdInToken => Refused,
    BadEnvironmentKeyIdInToken => Refused,
    // The same, as Apple's tables also spell it.
    BadEnvironmentKeyInToken => Refused,
    // 404, 405
    BadPath => Refused,
    MethodNotAllowed => Refused,
    // 410
    ExpiredToken => Dead,
    Unregistered => Dead,
    // 413
    PayloadTooLarge => Refused,
    // 429. The token is good, but newer than Apple likes; that passes.
    TooManyProviderTokenUpdates => Retry,
    TooManyRequests => Retry,
    // 500, 503. Apple asks for 15 minutes; no sign-in attempt lives so long.
    InternalServerError => Retry,
    ServiceUnavailable => Retry,
    Shutdown => Retry,
}

#[derive(Default, Deserialize)]
struct Body {
    reason: Option<String>,
    /// Milliseconds since 1970; with 410 only.
    timestamp: Option<u64>,
}

/// What an answer with this status, not 200, means.
pub(super) fn verdict(status: StatusCode, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Verdict {
    let body: Body = serde_json::from_slice(body).unwrap_or_default();
    let reason = match body.reason {
        Some(reason) => printable(&reason, REASON_BYTES_MAX),
        None => format!("status {}", status.as_u16()),
    };
    Verdict::Final(match meaning(&reason).unwrap_or_else(|| meaning_of_status(status)) {
        Meaning::Dead => Error::Dead { reason, since: body.timestamp.map(Timestamp::from_millis) },
        Meaning::Retry => Error::Retry { reason, after: retry_after(headers, now) },
        Meaning::Refused => Error::Refused { reason },
        Meaning::TokenExpired => return Verdict::TokenExpired,
    })
}

/// What an answer without a reason, or with one that Apple does not document, means.
fn meaning_of_status(status: StatusCode) -> Meaning {
    match status {
        StatusCode::GONE => Meaning::Dead,
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Meaning::Retry,
        status if status.is_server_error() => Meaning::Retry,
        _ => Meaning::Refused,
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use device_sim::push_services::Reason;
    use reqwest::header::{HeaderValue, RETRY_AFTER};

    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000)
    }

    fn answer(status: u16, body: &str) -> Verdict {
        verdict(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), body.as_bytes(), now())
    }

    fn dead(reason: &str, since: Option<u64>) -> Verdict {
        let since = since.map(Timestamp::from_millis);
        Verdict::Final(Error::Dead { reason: reason.to_owned(), since })
    }

    fn retry(reason: &str) -> Verdict {
        Verdict::Final(Error::Retry { reason: reason.to_owned(), after: None })
    }

    fn refused(reason: &str) -> Verdict {
        Verdict::Final(Error::Refused { reason: reason.to_owned() })
    }

    #[test]
    fn every_reason_that_apple_documents_means_what_it_should() {
        let table = [
            (400, "BadCollapseId", refused as fn(&str) -> Verdict),
            (400, "BadDeviceToken", |reason| dead(reason, None)),
            (400, "BadExpirationDate", refused),
            (400, "BadMessageId", refused),
            (400, "BadPriority", refused),
            (400, "BadTopic", refused),
            (400, "DeviceTokenNotForTopic", refused),
            (400, "DuplicateHeaders", refused),
            (400, "IdleTimeout", retry),
            (400, "InvalidPushType", refused),
            (400, "MissingDeviceToken", refused),
            (400, "MissingTopic", refused),
            (400, "PayloadEmpty", refused),
            (400, "TopicDisallowed", refused),
            (403, "BadCertificate", refused),
            (403, "BadCertificateEnvironment", refused),
            (403, "ExpiredProviderToken", |_| Verdict::TokenExpired),
            (403, "Forbidden", refused),
            (403, "InvalidProviderToken", refused),
            (403, "MissingProviderToken", refused),
            (403, "UnrelatedKeyIdInToken", refused),
            (403, "BadEnvironmentKeyIdInToken", refused),
            (403, "BadEnvironmentKeyInToken", refused),
            (404, "BadPath", refused),
            (405, "MethodNotAllowed", refused),
            (410, "ExpiredToken", |reason| dead(reason, None)),
            (410, "Unregistered", |reason| dead(reason, None)),
            (413, "PayloadTooLarge", refused),
            (429, "TooManyProviderTokenUpdates", retry),
            (429, "TooManyRequests", retry),
            (500, "InternalServerError", retry),
            (503, "ServiceUnavailable", retry),
            (503, "Shutdown", retry),
        ];
        for (status, reason, expected) in table {
            let got = answer(status, &format!(r#"{{"reason":"{reason}"}}"#));
            assert_eq!(got, expected(reason), "{reason}");
        }
        let tested: BTreeSet<_> = table.iter().map(|(_, reason, _)| *reason).collect();
        assert_eq!(tested, REASONS.iter().copied().collect(), "the table is complete");
        let documented = Reason::ALL.iter().map(|reason| reason.as_str());
        assert!(documented.into_iter().all(|reason| tested.contains(reason)), "so says the simulated APNs");
    }

    #[test]
    fn a_dead_target_comes_with_the_time_of_its_death() {
        let body = r#"{"reason":"Unregistered","timestamp":1699999999000}"#;
        assert_eq!(answer(410, body), dead("Unregistered", Some(1_699_999_999_000)));
    }

    #[test]
    fn a_reason_that_nobody_knows_means_what_its_status_does() {
        let unknown = r#"{"reason":"SomethingNew"}"#;
        assert_eq!(answer(400, unknown), refused("SomethingNew"));
        assert_eq!(answer(403, unknown), refused("SomethingNew"));
        assert_eq!(answer(410, unknown), dead("SomethingNew", None));
        assert_eq!(answer(429, unknown), retry("SomethingNew"));
        assert_eq!(answer(502, unknown), retry("SomethingNew"));
        assert_eq!(answer(599, unknown), retry("SomethingNew"));
    }

    #[test]
    fn an_answer_without_a_readable_reason_is_known_by_its_status() {
        for body in ["", "not JSON", "[]", "null", "{}", r#"{"reason":7}"#, r#"{"timestamp":"soon"}"#] {
            assert_eq!(answer(500, body), retry("status 500"), "{body}");
            assert_eq!(answer(410, body), dead("status 410", None), "{body}");
            assert_eq!(answer(302, body), refused("status 302"), "{body}");
        }
    }

    #[test]
    fn a_reason_is_cut_and_made_printable() {
        let long = format!(r#"{{"reason":"a\n\u001b[31mé{}"}}"#, "x".repeat(1_000));
        let Verdict::Final(error) = answer(400, &long) else { panic!("a final answer") };
        assert_eq!(error.reason(), format!("a??[31m?{}", "x".repeat(56)));
    }

    #[test]
    fn retry_after_counts_wherever_a_retry_helps() {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_static("30"));
        for (status, reason) in [(429, "TooManyRequests"), (500, "InternalServerError"), (503, "Shutdown")] {
            let body = format!(r#"{{"reason":"{reason}"}}"#);
            let got = verdict(StatusCode::from_u16(status).unwrap(), &headers, body.as_bytes(), now());
            let after = Some(Duration::from_secs(30));
            assert_eq!(got, Verdict::Final(Error::Retry { reason: reason.to_owned(), after }));
        }
    }
}
