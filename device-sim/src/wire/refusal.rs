//! What a call was told instead of a reply.

use std::{collections::HashMap, error::Error as _, fmt, time::Duration};

use bytes::Bytes;
use countersign_proto::v1::OutcomeKind;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::phone::text::shown;

/// The `ErrorInfo` domain of everything that Countersign itself says.
const DOMAIN: &str = "countersign";
/// The trailer that hands a phone its next nonce.
const NONCE_TRAILER: &str = "countersign-nonce-bin";

/// A call that got no reply: what the broker said, or what became of the connection.
#[derive(Clone, PartialEq)]
pub struct Refusal(Box<Said>);

#[derive(Clone, PartialEq)]
struct Said {
    code: Code,
    message: String,
    reason: Option<String>,
    metadata: HashMap<String, String>,
    fields: Vec<(String, String)>,
    retry_after: Option<Duration>,
    next_nonce: Option<Bytes>,
}

impl Refusal {
    /// The gRPC status code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The broker's stable reason, such as `SIGNATURE_INVALID`; none where the broker did not say anything.
    pub fn reason(&self) -> Option<&str> {
        self.0.reason.as_deref()
    }

    /// The sentence that came with it, as it may be shown.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// A detail of the reason.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.0.metadata.get(key).map(String::as_str)
    }

    /// The fields that are not as they must be, and what is wrong with each.
    pub fn fields(&self) -> &[(String, String)] {
        &self.0.fields
    }

    /// When the broker wants to be asked again.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The nonce for the phone's next read.
    pub fn next_nonce(&self) -> Option<&Bytes> {
        self.0.next_nonce.as_ref()
    }

    /// With `APPROVAL_ENDED`: the outcome that stands.
    pub fn outcome(&self) -> Option<OutcomeKind> {
        outcome_named(self.metadata("outcome")?)
    }

    /// Whether the broker's word is missing: nobody knows if the call did anything.
    pub fn is_lost(&self) -> bool {
        self.reason().is_none()
            && matches!(
                self.code(),
                // HTTP/2 itself says the last one, of a connection that it gives up (ENHANCE_YOUR_CALM).
                Code::Unavailable
                    | Code::Unknown
                    | Code::Internal
                    | Code::Cancelled
                    | Code::DeadlineExceeded
                    | Code::ResourceExhausted
            )
    }

    /// Whether asking again, perhaps elsewhere, can help.
    pub fn retry_helps(&self) -> bool {
        self.is_lost() || self.retry_after().is_some() || self.code() == Code::Unavailable
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.domain == DOMAIN);
        let fields = details.bad_request().map(|bad| {
            bad.field_violations.iter().map(|one| (one.field.clone(), one.description.clone())).collect()
        });
        let next_nonce = status.metadata().get_bin(NONCE_TRAILER).and_then(|value| value.to_bytes().ok());
        Self(Box::new(Said {
            code: status.code(),
            // Both end on screens.
            message: shown(&message(&status)).into_owned(),
            reason: info.map(|info| shown(&info.reason).into_owned()),
            metadata: info.map(|info| info.metadata.clone()).unwrap_or_default(),
            fields: fields.unwrap_or_default(),
            retry_after: details.retry_info().and_then(|retry| retry.retry_delay),
            next_nonce,
        }))
    }
}

/// The message, and for what happened on this side of the connection the cause at the bottom: 'transport error' helps
/// nobody, 'Connection refused' does.
fn message(status: &Status) -> String {
    let mut cause = status.source();
    let mut bottom = None;
    while let Some(error) = cause {
        bottom = Some(error.to_string());
        cause = error.source();
    }
    match bottom {
        Some(bottom) if !status.message().contains(&bottom) => format!("{}: {bottom}", status.message()),
        _ => status.message().to_owned(),
    }
}

/// The outcome of this name: `approved`, `wrong number`, `OUTCOME_KIND_DENIED`.
pub fn outcome_named(name: &str) -> Option<OutcomeKind> {
    let name = name.to_ascii_uppercase().replace([' ', '-'], "_");
    let bare = name.strip_prefix("OUTCOME_KIND_").unwrap_or(&name);
    OutcomeKind::from_str_name(&format!("OUTCOME_KIND_{bare}"))
        .filter(|kind| *kind != OutcomeKind::Unspecified)
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason() {
            Some(reason) => write!(f, "{} ({reason})", self.message()),
            None => write!(f, "{}: {}", self.code().description(), self.message()),
        }
    }
}

impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refusal")
            .field("code", &self.0.code)
            .field("reason", &self.0.reason)
            .field("message", &self.0.message)
            .field("metadata", &self.0.metadata)
            .finish_non_exhaustive()
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn what_the_broker_said_is_read_from_the_details() {
        let mut details = ErrorDetails::new();
        details.set_error_info(
            "APPROVAL_ENDED",
            DOMAIN,
            HashMap::from([("outcome".to_owned(), "wrong number".to_owned())]),
        );
        details.set_retry_info(Some(Duration::from_secs(2)));
        let refusal =
            Refusal::from(Status::with_error_details(Code::FailedPrecondition, "it has ended", details));
        assert_eq!(refusal.reason(), Some("APPROVAL_ENDED"));
        assert_eq!(refusal.outcome(), Some(OutcomeKind::WrongNumber));
        assert_eq!(refusal.retry_after(), Some(Duration::from_secs(2)));
        assert!(!refusal.is_lost());
    }

    #[test]
    fn a_hostile_brokers_words_move_no_cursor() {
        let mut details = ErrorDetails::new();
        details.set_error_info("\u{1b}[2J", DOMAIN, HashMap::new());
        let said = "\u{1b}]0;owned\u{7}approved\r\u{202e}deined";
        let refusal = Refusal::from(Status::with_error_details(Code::Internal, said, details));
        assert_eq!(
            refusal.to_string(),
            "\u{fffd}]0;owned\u{fffd}approved\u{fffd}\u{fffd}deined (\u{fffd}[2J)"
        );
    }

    #[test]
    fn a_reason_of_somebody_else_is_not_the_brokers() {
        let mut details = ErrorDetails::new();
        details.set_error_info("SIGNATURE_INVALID", "a.proxy.example", HashMap::new());
        let refusal = Refusal::from(Status::with_error_details(Code::Unavailable, "no upstream", details));
        assert_eq!(refusal.reason(), None);
        assert!(refusal.is_lost());
    }

    #[test]
    fn outcomes_are_known_by_any_spelling_of_their_names() {
        assert_eq!(outcome_named("approved"), Some(OutcomeKind::Approved));
        assert_eq!(outcome_named("OUTCOME_KIND_WRONG_NUMBER"), Some(OutcomeKind::WrongNumber));
        assert_eq!(outcome_named("unspecified"), None);
        assert_eq!(outcome_named("gone fishing"), None);
    }
}
