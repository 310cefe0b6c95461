//! The only place that makes a gRPC status. Each has a code, a sentence for the person who must act, an ErrorInfo with
//! a stable reason, and, where a retry helps, a RetryInfo.

use std::{collections::HashMap, time::Duration};

use countersign_domain::{
    approval::{Ending, Outcome},
    call,
    command::Refusal,
    event::RefusedBecause,
    relying_party,
};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::{
    api::{
        admission::{AGAIN_AFTER, Shed},
        auth,
    },
    decider,
    log::AppendError,
    rates::TooOften,
    shares::Full,
    signin::Error,
    telemetry::metrics::{labels, metrics},
};

/// Of all reasons of Countersign.
const DOMAIN: &str = "countersign";

/// See [`overloaded`].
const OVERLOADED: &str = "OVERLOADED";

/// Of a path that nobody knows, so much is said back: a whole one, escaped, is several times what it cost to send.
const PATH_CHARACTERS_MAX: usize = 128;

/// Whose limit it is that was reached: all callers' together, or one relying party's.
const BROKER: &str = "broker";
const RELYING_PARTY: &str = "relying_party";

/// When to try again what the disk or a queue could not take.
const RETRY_SOON: Duration = Duration::from_secs(1);

/// When to try again, on this broker or another, what came while it was stopping.
const RETRY_ELSEWHERE: Duration = Duration::from_millis(100);

/// Who is told: the same refusal has another name to a login server than to a phone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Audience {
    /// A login server.
    Login,
    /// A phone.
    Phone,
    /// An enrolling page.
    Enroller,
}

pub(super) fn of(error: Error, audience: Audience) -> Status {
    match error {
        Error::Refused(refusal) => refused(refusal, audience),
        Error::Call(error) => called(&error),
        Error::NonceExpired => make(
            Code::Unauthenticated,
            "NONCE_EXPIRED",
            "the nonce is not one of the last two minutes: call again with the one in the trailer countersign-nonce-bin",
        ),
        Error::AcknowledgementInvalid => make(
            Code::Unauthenticated,
            "ACKNOWLEDGEMENT_INVALID",
            "the token does not belong to this push, or is over",
        ),
        Error::TooOften(error) => too_often(&error),
        Error::TooManyLive(full) => too_many_waiting(full),
        Error::Log(error) => log(&error),
    }
}

fn too_many_waiting(full: Full) -> Status {
    let (limit, text) = match full {
        Full::InAll(waiting) => (BROKER, format!("{waiting} approvals wait, as many as this broker takes")),
        Full::OfOne(waiting) => (
            RELYING_PARTY,
            format!("{waiting} approvals of this relying party wait, as many as one may have"),
        ),
    };
    limited("TOO_MANY_WAITING", text, limit, RETRY_SOON)
}

fn refused(refusal: Refusal, audience: Audience) -> Status {
    let text = refusal.to_string();
    match refusal {
        Refusal::UnknownAccount => make(Code::NotFound, "ACCOUNT_NOT_FOUND", text),
        Refusal::UnknownApproval => make(Code::NotFound, "APPROVAL_NOT_FOUND", text),
        Refusal::UnknownEnrolment => make(Code::NotFound, "ENROLMENT_NOT_FOUND", text),
        Refusal::UnknownAuthenticator if audience == Audience::Phone => called(&call::Error::Unauthentic),
        Refusal::UnknownAuthenticator => make(Code::NotFound, "AUTHENTICATOR_NOT_FOUND", text),
        Refusal::EnrolmentNotWaiting => make(
            Code::Unauthenticated,
            "ENROLMENT_CODE_INVALID",
            "the code is unknown, used, over, or wrong: check it, or ask for a new one",
        ),
        Refusal::EnrolmentOver => make(Code::FailedPrecondition, "ENROLMENT_ENDED", text),
        Refusal::KeyAlreadyBound => make(Code::AlreadyExists, "KEY_ALREADY_BOUND", text),
        Refusal::TooManyAuthenticators { .. } => {
            make(Code::ResourceExhausted, "TOO_MANY_AUTHENTICATORS", text)
        }
        Refusal::TooManyEnrolments { .. } => make(Code::ResourceExhausted, "TOO_MANY_ENROLMENTS", text),
        Refusal::CounterNotRising { last } => with(
            Code::FailedPrecondition,
            "COUNTER_NOT_RISING",
            text,
            [("last".to_owned(), last.to_string())],
        ),
        Refusal::IdempotencyKeyReused => make(Code::AlreadyExists, "IDEMPOTENCY_KEY_REUSED", text),
        Refusal::TooManyRequests { retry_after } => {
            retry(Code::ResourceExhausted, "TOO_MANY_REQUESTS", text, retry_after)
        }
        Refusal::TooManyPushTargets { retry_after, .. } => {
            retry(Code::ResourceExhausted, "TOO_MANY_PUSH_TARGETS", text, retry_after)
        }
        Refusal::NumberTaken => retry(Code::Aborted, "NUMBER_TAKEN", text, RETRY_SOON),
        Refusal::ApprovalEnded(ending) => ended(&ending),
    }
}

fn ended(ending: &Ending) -> Status {
    let outcome = outcome_name(ending.outcome);
    with(
        Code::FailedPrecondition,
        "APPROVAL_ENDED",
        format!("the approval has ended: {outcome}"),
        [("outcome".to_owned(), outcome.to_owned())],
    )
}

fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Approved { .. } => "approved",
        Outcome::Denied => "denied",
        Outcome::Reported => "reported",
        Outcome::WrongNumber => "wrong number",
        Outcome::Expired => "expired",
        Outcome::Cancelled => "cancelled",
        Outcome::Superseded => "superseded",
        Outcome::Refused(RefusedBecause::Unreachable) => "unreachable",
        Outcome::Refused(_) => "refused",
    }
}

fn called(error: &call::Error) -> Status {
    match error {
        call::Error::Malformed(_) => make(Code::InvalidArgument, "MALFORMED_ENVELOPE", error.to_string()),
        call::Error::Field { field, problem } => invalid(vec![FieldViolation::new(*field, problem.clone())]),
        call::Error::Unauthentic => make(Code::Unauthenticated, "SIGNATURE_INVALID", error.to_string()),
        call::Error::ChallengeMismatch => {
            make(Code::InvalidArgument, "CHALLENGE_MISMATCH", error.to_string())
        }
        call::Error::UnknownApproval => make(Code::NotFound, "APPROVAL_NOT_FOUND", error.to_string()),
    }
}

fn log(error: &decider::Error) -> Status {
    match error {
        decider::Error::Append(AppendError::NoRoom) => {
            retry(Code::Unavailable, "DISK_FULL", "the broker's disk is full", RETRY_SOON)
        }
        decider::Error::Append(AppendError::Busy { .. }) => {
            retry(Code::ResourceExhausted, "DISK_BUSY", "too much waits for the broker's disk", RETRY_SOON)
        }
        decider::Error::Append(AppendError::Stopped(_)) => stopping(),
        decider::Error::Contended => {
            retry(Code::Aborted, "ACCOUNT_BUSY", "too much happens to this account at once", RETRY_SOON)
        }
        decider::Error::Read(error) if error.retry_helps() => {
            tracing::error!(%error, "the log cannot be read");
            retry(Code::Unavailable, "LOG_UNREADABLE", "the broker cannot read its log", RETRY_SOON)
        }
        decider::Error::Undecidable { .. } => {
            tracing::error!(%error, "nothing can be decided on this stream");
            make(
                Code::FailedPrecondition,
                "STREAM_FROM_NEWER_RELEASE",
                "this account was written by a newer release of the broker, or its key is not here; see the broker's log",
            )
        }
        error => {
            tracing::error!(%error, "a call failed");
            make(Code::Internal, "INTERNAL", "the broker failed; its log says why")
        }
    }
}

pub(super) fn of_auth(error: auth::Error) -> Status {
    let text = error.to_string();
    match error {
        auth::Error::Missing => make(Code::Unauthenticated, "CREDENTIAL_MISSING", text),
        auth::Error::Invalid => make(Code::Unauthenticated, "CREDENTIAL_INVALID", text),
        auth::Error::Scope { .. } => make(Code::PermissionDenied, "SCOPE_MISSING", text),
        auth::Error::Log(error) => log(&error),
    }
}

pub(super) fn of_relying_party(refusal: &relying_party::Refusal) -> Status {
    let text = refusal.to_string();
    match refusal {
        relying_party::Refusal::Unknown => make(Code::NotFound, "RELYING_PARTY_NOT_FOUND", text),
        relying_party::Refusal::UnknownCredential => make(Code::NotFound, "CREDENTIAL_NOT_FOUND", text),
        relying_party::Refusal::TooManyCredentials { .. } => {
            make(Code::ResourceExhausted, "TOO_MANY_CREDENTIALS", text)
        }
    }
}

pub(super) fn of_log(error: &decider::Error) -> Status {
    log(error)
}

pub(super) fn realm_not_allowed(realm: &str) -> Status {
    make(
        Code::PermissionDenied,
        "REALM_NOT_ALLOWED",
        format!("this relying party may ask for accounts of the realm {realm} only"),
    )
}

pub(super) fn certificate_in_use() -> Status {
    make(
        Code::AlreadyExists,
        "CERTIFICATE_IN_USE",
        "the certificate is a credential already; each is good for one",
    )
}

pub(super) fn missing_envelope(field: &'static str) -> Status {
    invalid(vec![FieldViolation::new(field, "is missing")])
}

/// Each field and what is wrong with it.
pub(super) fn invalid(violations: Vec<FieldViolation>) -> Status {
    let text = violations
        .iter()
        .map(|one| format!("{} {}", one.field, one.description))
        .collect::<Vec<_>>()
        .join("; ");
    let mut details = info("INVALID_ARGUMENT", HashMap::new());
    details.set_bad_request(violations);
    Status::with_error_details(Code::InvalidArgument, text, details)
}

pub(super) fn stopping() -> Status {
    retry(Code::Unavailable, "STOPPING", "this broker is stopping: go on with another", RETRY_ELSEWHERE)
}

pub(super) fn overloaded(_: Shed) -> Status {
    retry(Code::ResourceExhausted, OVERLOADED, "more is asked for than the broker can do", AGAIN_AFTER)
}

/// It is made once, and counted each time.
pub(super) fn count_overloaded() {
    metrics().error(OVERLOADED);
}

pub(super) fn too_often(error: &TooOften) -> Status {
    limited("RATE_LIMITED", error.to_string(), labels::text(error.limit), error.retry_after)
}

/// As many calls wait as may, of this relying party or of all.
pub(super) fn too_many_streams(full: Full) -> Status {
    let (limit, text) = match full {
        Full::InAll(waiting) => (BROKER, format!("{waiting} calls wait, as many as this broker takes")),
        Full::OfOne(waiting) => {
            (RELYING_PARTY, format!("{waiting} calls of this relying party wait, as many as one may have"))
        }
    };
    limited("TOO_MANY_STREAMS", text, limit, RETRY_SOON)
}

pub(super) fn message_late() -> Status {
    // Nothing of it was looked at. Where the broker was too slow to read it, the caller is not to blame.
    let text = "the message of the request did not come whole in time: send it again";
    retry(Code::DeadlineExceeded, "MESSAGE_LATE", text, RETRY_SOON)
}

/// Too many calls of one connection that nobody has to prove anything for.
pub(super) fn too_many_at_once() -> Status {
    let text = "too many such calls of this connection are answered at once: read their replies, or end them";
    retry(Code::ResourceExhausted, "TOO_MANY_AT_ONCE", text, RETRY_SOON)
}

pub(super) fn unknown_method(path: &str) -> Status {
    let path: String = path.chars().take(PATH_CHARACTERS_MAX).collect();
    make(Code::Unimplemented, "METHOD_UNKNOWN", format!("there is no method {path}"))
}

fn make(code: Code, reason: &'static str, text: impl Into<String>) -> Status {
    with(code, reason, text, [])
}

fn with<const N: usize>(
    code: Code,
    reason: &'static str,
    text: impl Into<String>,
    metadata: [(String, String); N],
) -> Status {
    Status::with_error_details(code, text, info(reason, metadata.into()))
}

fn retry(code: Code, reason: &'static str, text: impl Into<String>, after: Duration) -> Status {
    let mut details = info(reason, HashMap::new());
    details.set_retry_info(Some(after));
    Status::with_error_details(code, text, details)
}

/// A limit was reached that several have; the metadata says whose.
fn limited(reason: &'static str, text: String, limit: &'static str, after: Duration) -> Status {
    let mut details = info(reason, HashMap::from([("limit".to_owned(), limit.to_owned())]));
    details.set_retry_info(Some(after));
    Status::with_error_details(Code::ResourceExhausted, text, details)
}

/// Reasons are words of this file, so that what is counted by them is bounded.
fn info(reason: &'static str, metadata: HashMap<String, String>) -> ErrorDetails {
    metrics().error(reason);
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, DOMAIN, metadata);
    details
}
