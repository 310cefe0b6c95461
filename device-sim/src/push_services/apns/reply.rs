//! What APNs answers: the reasons that Apple documents, each with its status.
//!
//! Source: Apple, 'Handling notification responses from APNs', table of response error strings.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::clock::Timestamp;

macro_rules! reasons {
    ($($status:literal { $($(#[$doc:meta])* $reason:ident),+ $(,)? })+) => {
        /// Why APNs refused a request: every string that Apple documents.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum Reason {
            $($($(#[$doc])* $reason,)+)+
        }

        impl Reason {
            /// All of them, in the order of Apple's table.
            pub const ALL: &[Self] = &[$($(Self::$reason,)+)+];

            /// The status that goes with the reason.
            pub fn status(self) -> StatusCode {
                let code: u16 = match self {
                    $($(Self::$reason)|+ => $status,)+
                };
                StatusCode::from_u16(code).expect("Apple's statuses are HTTP's")
            }

            /// The string that stands in the answer.
            pub fn as_str(self) -> &'static str {
                match self {
                    $($(Self::$reason => stringify!($reason),)+)+
                }
            }
        }
    };
}

reasons! {
    400 {
        /// `apns-collapse-id` is longer than 64 bytes.
        BadCollapseId,
        /// The device token is none that this environment issued.
        BadDeviceToken,
        /// `apns-expiration` is no whole number of seconds.
        BadExpirationDate,
        /// `apns-id` is no UUID.
        BadMessageId,
        /// `apns-priority` is not 1, 5 or 10, or not 5 for a background push.
        BadPriority,
        /// `apns-topic` is no bundle identifier.
        BadTopic,
        /// The device token belongs to another app.
        DeviceTokenNotForTopic,
        /// A header stands twice.
        DuplicateHeaders,
        /// The connection was idle for too long.
        IdleTimeout,
        /// `apns-push-type` is none of the documented ones, or does not go with the topic's suffix.
        InvalidPushType,
        /// The path has no device token.
        MissingDeviceToken,
        /// `apns-topic` is missing.
        MissingTopic,
        /// There is no payload.
        PayloadEmpty,
        /// The topic is not the team's, or not the key's.
        TopicDisallowed,
    }
    403 {
        /// The client's certificate is invalid.
        BadCertificate,
        /// The client's certificate is for the other environment.
        BadCertificateEnvironment,
        /// The provider token is older than an hour.
        ExpiredProviderToken,
        /// Another team's token on a connection that is bound to a team.
        Forbidden,
        /// The provider token is not valid.
        InvalidProviderToken,
        /// There is no provider token.
        MissingProviderToken,
        /// The key is not related to the one of the connection's first push.
        UnrelatedKeyIdInToken,
        /// The key is for the other environment.
        BadEnvironmentKeyIdInToken,
    }
    404 {
        /// The path is not `/3/device/<token>`.
        BadPath,
    }
    405 {
        /// The method is not POST.
        MethodNotAllowed,
    }
    410 {
        /// The device token has expired.
        ExpiredToken,
        /// The device token is no longer active for the topic.
        Unregistered,
    }
    413 {
        /// The payload is over 4,096 bytes (VoIP: 5,120).
        PayloadTooLarge,
    }
    429 {
        /// The provider token was renewed within 20 minutes.
        TooManyProviderTokenUpdates,
        /// Too many requests in a row for one device.
        TooManyRequests,
    }
    500 {
        /// Something went wrong at Apple.
        InternalServerError,
    }
    503 {
        /// Apple's service is unavailable.
        ServiceUnavailable,
        /// Apple's server is shutting down.
        Shutdown,
    }
}

impl Reason {
    /// The reason of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.as_str() == name)
    }

    /// The reason that a status alone most likely means.
    pub(crate) fn of_status(status: u16) -> Option<Self> {
        match status {
            410 => Some(Self::Unregistered),
            429 => Some(Self::TooManyRequests),
            503 => Some(Self::ServiceUnavailable),
            _ => Self::ALL.iter().copied().find(|reason| reason.status().as_u16() == status),
        }
    }

    /// The body of an answer or of a GOAWAY frame.
    pub(crate) fn json(self, timestamp: Option<Timestamp>) -> Bytes {
        let body = match timestamp {
            Some(timestamp) => json!({ "reason": self.as_str(), "timestamp": timestamp.millis() }),
            None => json!({ "reason": self.as_str() }),
        };
        Bytes::from(body.to_string())
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An answer before it has the headers that every answer gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// 200.
    Accepted,
    /// Refused; 410 tells since when.
    Refused { reason: Reason, timestamp: Option<Timestamp>, retry_after_s: Option<u64> },
}

impl From<Reason> for Reply {
    fn from(reason: Reason) -> Self {
        Self::Refused { reason, timestamp: None, retry_after_s: None }
    }
}

impl Reply {
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::Accepted => StatusCode::OK,
            Self::Refused { reason, .. } => reason.status(),
        }
    }

    pub(crate) fn reason(self) -> Option<Reason> {
        match self {
            Self::Accepted => None,
            Self::Refused { reason, .. } => Some(reason),
        }
    }

    /// The response's head, and its body where there is one.
    pub(crate) fn into_response(
        self,
        apns_id: HeaderValue,
        unique_id: Option<HeaderValue>,
    ) -> (Response<()>, Option<Bytes>) {
        let mut response = Response::new(());
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert("apns-id", apns_id);
        if let Some(unique_id) = unique_id {
            headers.insert("apns-unique-id", unique_id);
        }
        let Self::Refused { reason, timestamp, retry_after_s } = self else {
            return (response, None);
        };
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        (response, Some(reason.json(timestamp)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Apple's table, typed from its page and not from the code above.
    const TABLE: [(u16, &str); 32] = [
        (400, "BadCollapseId"),
        (400, "BadDeviceToken"),
        (400, "BadExpirationDate"),
        (400, "BadMessageId"),
        (400, "BadPriority"),
        (400, "BadTopic"),
        (400, "DeviceTokenNotForTopic"),
        (400, "DuplicateHeaders"),
        (400, "IdleTimeout"),
        (400, "InvalidPushType"),
        (400, "MissingDeviceToken"),
        (400, "MissingTopic"),
        (400, "PayloadEmpty"),
        (400, "TopicDisallowed"),
        (403, "BadCertificate"),
        (403, "BadCertificateEnvironment"),
        (403, "ExpiredProviderToken"),
        (403, "Forbidden"),
        (403, "InvalidProviderToken"),
        (403, "MissingProviderToken"),
        (403, "UnrelatedKeyIdInToken"),
        (403, "BadEnvironmentKeyIdInToken"),
        (404, "BadPath"),
        (405, "MethodNotAllowed"),
        (410, "ExpiredToken"),
        (410, "Unregistered"),
        (413, "PayloadTooLarge"),
        (429, "TooManyProviderTokenUpdates"),
        (429, "TooManyRequests"),
        (500, "InternalServerError"),
        (503, "ServiceUnavailable"),
        (503, "Shutdown"),
    ];

    #[test]
    fn the_reasons_are_those_of_apples_table_with_their_statuses() {
        let ours: Vec<(u16, &str)> =
            Reason::ALL.iter().map(|reason| (reason.status().as_u16(), reason.as_str())).collect();
        assert_eq!(ours, TABLE);
    }

    #[test]
    fn a_refusal_names_its_reason_and_when_the_token_died() {
        assert_eq!(Reason::BadTopic.json(None), r#"{"reason":"BadTopic"}"#);
        assert_eq!(
            Reason::Unregistered.json(Some(Timestamp(1_700_000_000_123))),
            r#"{"reason":"Unregistered","timestamp":1700000000123}"#
        );
    }
}
