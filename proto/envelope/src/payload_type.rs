//! The payload types of envelopes. Each names one message of `countersign/v1/signed.proto` and its version, so
//! that what was signed as one thing can never be taken for another.

/// The broker asks an account's phones about a sign-in attempt.
pub const CHALLENGE: &str = "application/vnd.countersign.challenge.v1+protobuf";
/// The broker asks a newly bound phone for its trial.
pub const TRIAL_CHALLENGE: &str = "application/vnd.countersign.trial-challenge.v1+protobuf";
/// The broker confirms an enrolment.
pub const ENROLMENT_RECEIPT: &str = "application/vnd.countersign.enrolment-receipt.v1+protobuf";
/// The broker tells a phone that something about its account changed.
pub const NOTICE: &str = "application/vnd.countersign.notice.v1+protobuf";
/// A phone answers a challenge.
pub const ANSWER: &str = "application/vnd.countersign.answer.v1+protobuf";
/// A phone answers its trial.
pub const TRIAL_ANSWER: &str = "application/vnd.countersign.trial-answer.v1+protobuf";
/// A phone binds its new key.
pub const ENROLMENT_CLAIM: &str = "application/vnd.countersign.enrolment-claim.v1+protobuf";
/// A phone asks what waits.
pub const LIST_WAITING: &str = "application/vnd.countersign.list-waiting.v1+protobuf";
/// A phone asks for one challenge.
pub const FETCH_CHALLENGE: &str = "application/vnd.countersign.fetch-challenge.v1+protobuf";
/// A phone gives its new push target.
pub const REPLACE_PUSH_TARGET: &str = "application/vnd.countersign.replace-push-target.v1+protobuf";
/// A phone leaves the account.
pub const UNENROL: &str = "application/vnd.countersign.unenrol.v1+protobuf";
