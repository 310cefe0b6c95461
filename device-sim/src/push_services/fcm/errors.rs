//! What FCM refuses, in the two shapes that Google's servers have: `google.rpc.Status` as JSON for the API, and
//! RFC 6749's error object for the token endpoint.
//!
//! Sources: Google, 'FCM error codes' and 'ErrorCode' (codes, statuses), 'google.rpc' (`Status`, `BadRequest`,
//! `ErrorInfo`, `QuotaFailure`), AIP-193.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const FCM_ERROR: &str = "type.googleapis.com/google.firebase.fcm.v1.FcmError";
const BAD_REQUEST: &str = "type.googleapis.com/google.rpc.BadRequest";
const ERROR_INFO: &str = "type.googleapis.com/google.rpc.ErrorInfo";
const QUOTA_FAILURE: &str = "type.googleapis.com/google.rpc.QuotaFailure";

/// Every error code that Google documents for `messages:send`, but for `UNSPECIFIED_ERROR`, which means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[non_exhaustive]
pub enum ErrorCode {
    /// 400: the request is wrong.
    InvalidArgument,
    /// 404: the app instance is no longer registered.
    Unregistered,
    /// 403: the app instance registered with another sender.
    SenderIdMismatch,
    /// 429: too many messages.
    QuotaExceeded,
    /// 503: FCM is overloaded.
    Unavailable,
    /// 500: something went wrong at Google.
    Internal,
    /// 401: the certificate or key for APNs or Web Push is missing or invalid.
    ThirdPartyAuthError,
}

impl ErrorCode {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::InvalidArgument,
        Self::Unregistered,
        Self::SenderIdMismatch,
        Self::QuotaExceeded,
        Self::Unavailable,
        Self::Internal,
        Self::ThirdPartyAuthError,
    ];

    /// The code of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == name)
    }

    /// The string that stands in the answer.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::Unregistered => "UNREGISTERED",
            Self::SenderIdMismatch => "SENDER_ID_MISMATCH",
            Self::QuotaExceeded => "QUOTA_EXCEEDED",
            Self::Unavailable => "UNAVAILABLE",
            Self::Internal => "INTERNAL",
            Self::ThirdPartyAuthError => "THIRD_PARTY_AUTH_ERROR",
        }
    }

    /// The code that a status alone most likely means.
    pub(crate) fn of_status(status: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.status().as_u16() == status)
    }

    /// The HTTP status that goes with the code.
    pub fn status(self) -> StatusCode {
        self.canonical().0
    }

    /// The HTTP status and the canonical code (`google.rpc.Code`) that go with the code.
    fn canonical(self) -> (StatusCode, &'static str) {
        match self {
            Self::InvalidArgument => (StatusCode::BAD_REQUEST, "INVALID_ARGUMENT"),
            Self::Unregistered => (StatusCode::NOT_FOUND, "NOT_FOUND"),
            Self::SenderIdMismatch => (StatusCode::FORBIDDEN, "PERMISSION_DENIED"),
            Self::QuotaExceeded => (StatusCode::TOO_MANY_REQUESTS, "RESOURCE_EXHAUSTED"),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL"),
            Self::ThirdPartyAuthError => (StatusCode::UNAUTHORIZED, "UNAUTHENTICATED"),
        }
    }

    /// What Google's servers say with the code, where nothing more is known.
    fn message(self) -> &'static str {
        match self {
            Self::InvalidArgument => "Request contains an invalid argument.",
            Self::Unregistered => "Requested entity was not found.",
            Self::SenderIdMismatch => "SenderId mismatch",
            Self::QuotaExceeded => "Quota exceeded.",
            Self::Unavailable => "The service is currently unavailable.",
            Self::Internal => "Internal error encountered.",
            Self::ThirdPartyAuthError => "Auth error from APNS or Web Push Service",
        }
    }
}

/// A field of the request, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) field: String,
    pub(crate) description: String,
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The body is no JSON, or not the JSON of a request: found before FCM sees it, so without an FCM code.
    Malformed(Vec<Violation>),
    /// FCM itself finds a field wrong.
    Invalid { message: String, violation: Violation },
    /// Any other documented code; 429 and 503 may say when to come back.
    Code { code: ErrorCode, retry_after_s: Option<u64> },
    /// There are no credentials.
    CredentialsMissing,
    /// The access token is none of this service's.
    TokenInvalid,
    /// The access token is too old.
    TokenExpired,
    /// The access token was not asked for with a scope that allows messages.
    ScopeInsufficient,
    /// The service account is another project's.
    ProjectDenied { project: String },
}

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Self {
        Self::Code { code, retry_after_s: None }
    }
}

impl Refusal {
    /// A quota that is used up for so long.
    pub(crate) fn quota_exceeded(wait: Duration) -> Self {
        let whole_seconds = wait.as_millis().div_ceil(1000);
        Self::Code {
            code: ErrorCode::QuotaExceeded,
            retry_after_s: Some(u64::try_from(whole_seconds).unwrap_or(u64::MAX)),
        }
    }

    /// A field that FCM refuses.
    pub(crate) fn invalid(field: &str, message: impl Into<String>, description: impl Into<String>) -> Self {
        let violation = Violation { field: field.to_owned(), description: description.into() };
        Self::Invalid { message: message.into(), violation }
    }

    /// What the log of requests calls it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Malformed(_) | Self::Invalid { .. } => "INVALID_ARGUMENT",
            Self::Code { code, .. } => code.as_str(),
            Self::CredentialsMissing | Self::TokenInvalid | Self::TokenExpired => "UNAUTHENTICATED",
            Self::ScopeInsufficient | Self::ProjectDenied { .. } => "PERMISSION_DENIED",
        }
    }

    /// The response.
    pub(crate) fn into_response(self) -> Response<Full<Bytes>> {
        let (status, canonical) = self.canonical();
        let body = json!({ "error": {
            "code": status.as_u16(),
            "message": self.message(),
            "status": canonical,
            "details": self.details(),
        }});
        let mut response = json_response(status, &body);
        let headers = response.headers_mut();
        if let Self::Code { retry_after_s: Some(seconds), .. } = self {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        match self {
            Self::CredentialsMissing => {
                let challenge = HeaderValue::from_static("Bearer realm=\"https://accounts.google.com/\"");
                headers.insert(header::WWW_AUTHENTICATE, challenge);
            }
            Self::TokenInvalid | Self::TokenExpired => {
                let challenge = HeaderValue::from_static(
                    "Bearer realm=\"https://accounts.google.com/\", error=\"invalid_token\"",
                );
                headers.insert(header::WWW_AUTHENTICATE, challenge);
            }
            _ => {}
        }
        response
    }

    /// The HTTP status.
    pub(crate) fn status(&self) -> StatusCode {
        self.canonical().0
    }

    fn canonical(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Malformed(_) | Self::Invalid { .. } => ErrorCode::InvalidArgument.canonical(),
            Self::Code { code, .. } => code.canonical(),
            Self::CredentialsMissing | Self::TokenInvalid | Self::TokenExpired => {
                (StatusCode::UNAUTHORIZED, "UNAUTHENTICATED")
            }
            Self::ScopeInsufficient | Self::ProjectDenied { .. } => {
                (StatusCode::FORBIDDEN, "PERMISSION_DENIED")
            }
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Malformed(violations) => violations
                .iter()
                .map(|violation| violation.description.as_str())
                .collect::<Vec<_>>()
                .join("\n"),
            Self::Invalid { message, .. } => message.clone(),
            Self::Code { code, .. } => code.message().to_owned(),
            Self::CredentialsMissing => {
                "Request is missing required authentication credential. Expected OAuth 2 access token."
                    .to_owned()
            }
            Self::TokenInvalid | Self::TokenExpired => {
                "Request had invalid authentication credentials. Expected OAuth 2 access token.".to_owned()
            }
            Self::ScopeInsufficient => "Request had insufficient authentication scopes.".to_owned(),
            Self::ProjectDenied { project } => format!(
                "Permission 'cloudmessaging.messages.create' denied on resource \
                 '//cloudresourcemanager.googleapis.com/projects/{project}' (or it may not exist)."
            ),
        }
    }

    fn details(&self) -> Value {
        let fcm = |code: ErrorCode| json!({ "@type": FCM_ERROR, "errorCode": code.as_str() });
        let info = |reason| {
            json!({
                "@type": ERROR_INFO,
                "reason": reason,
                "domain": "googleapis.com",
                "metadata": {
                    "service": "fcm.googleapis.com",
                    "method": "google.firebase.fcm.v1.FcmService.SendMessage",
                },
            })
        };
        match self {
            Self::Malformed(violations) => json!([bad_request(violations)]),
            Self::Invalid { violation, .. } => {
                json!([fcm(ErrorCode::InvalidArgument), bad_request(std::slice::from_ref(violation))])
            }
            Self::Code { code: code @ ErrorCode::QuotaExceeded, .. } => json!([
                fcm(*code),
                { "@type": QUOTA_FAILURE, "violations": [{
                    "subject": "fcm.googleapis.com",
                    "description": "Too many messages; send more slowly.",
                }]},
            ]),
            Self::Code { code, .. } => json!([fcm(*code)]),
            Self::CredentialsMissing => json!([info("CREDENTIALS_MISSING")]),
            Self::TokenInvalid => json!([info("ACCESS_TOKEN_TYPE_UNSUPPORTED")]),
            Self::TokenExpired => json!([info("ACCESS_TOKEN_EXPIRED")]),
            Self::ScopeInsufficient => json!([info("ACCESS_TOKEN_SCOPE_INSUFFICIENT")]),
            Self::ProjectDenied { project } => json!([{
                "@type": ERROR_INFO,
                "reason": "IAM_PERMISSION_DENIED",
                "domain": "cloudresourcemanager.googleapis.com",
                "metadata": {
                    "resource": format!("projects/{project}"),
                    "permission": "cloudmessaging.messages.create",
                },
            }]),
        }
    }
}

fn bad_request(violations: &[Violation]) -> Value {
    let violations: Vec<Value> = violations
        .iter()
        .map(|Violation { field, description }| {
            if field.is_empty() {
                json!({ "description": description })
            } else {
                json!({ "field": field, "description": description })
            }
        })
        .collect();
    json!({ "@type": BAD_REQUEST, "fieldViolations": violations })
}

/// Why the token endpoint refused an assertion (RFC 6749 section 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TokenError {
    pub(crate) error: &'static str,
    pub(crate) description: &'static str,
}

impl TokenError {
    pub(crate) fn into_response(self) -> Response<Full<Bytes>> {
        let body = json!({ "error": self.error, "error_description": self.description });
        json_response(StatusCode::BAD_REQUEST, &body)
    }
}

/// A response with JSON in it, as Google's servers type it.
pub(crate) fn json_response(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static("application/json; charset=UTF-8");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_have_the_statuses_of_googles_table() {
        let ours: Vec<(&str, u16)> =
            ErrorCode::ALL.iter().map(|code| (code.as_str(), code.status().as_u16())).collect();
        assert_eq!(
            ours,
            [
                ("INVALID_ARGUMENT", 400),
                ("UNREGISTERED", 404),
                ("SENDER_ID_MISMATCH", 403),
                ("QUOTA_EXCEEDED", 429),
                ("UNAVAILABLE", 503),
                ("INTERNAL", 500),
                ("THIRD_PARTY_AUTH_ERROR", 401),
            ]
        );
        for code in ErrorCode::ALL {
            assert_eq!(json!(code), json!(code.as_str()));
        }
    }

    #[test]
    fn retry_after_is_rounded_up() {
        let refusal = Refusal::quota_exceeded(Duration::from_millis(1001));
        assert_eq!(refusal.into_response().headers()[header::RETRY_AFTER], "2");
    }
}
