//! What may be asked of an account, and why nothing may come of it.

use std::time::Duration;

use countersign_envelope::EnrolmentCode;

use crate::{
    ApprovalId, AuthenticatorId, EnrolmentId, RelyingPartyId, Timestamp,
    answer::{VerifiedAnswer, VerifiedTrialAnswer},
    approval::Ending,
    call::{VerifiedReplacePushTarget, VerifiedUnenrol},
    claim::VerifiedClaim,
    event::{Identity, Question, Request},
};

/// What may be asked of an account.
#[derive(Debug, Clone)]
pub enum Command {
    /// Make a code for a new phone.
    BeginEnrolment {
        /// Whose; the account is opened if it is not yet.
        identity: Identity,
        /// The new enrolment's id.
        enrolment: EnrolmentId,
        /// Its code.
        code: EnrolmentCode,
        /// Who asks.
        relying_party: RelyingPartyId,
    },
    /// Bind a key, and ask its phone for the trial.
    CompleteEnrolment {
        /// Of which enrolment: what the locator names.
        enrolment: EnrolmentId,
        /// What the phone signed.
        claim: VerifiedClaim,
        /// The broker's public key, which the claim's MAC must cover.
        broker_key: Vec<u8>,
        /// The new authenticator's id.
        authenticator: AuthenticatorId,
        /// The trial's number and challenge.
        question: Question,
    },
    /// Take the answer to a trial.
    AnswerTrial(VerifiedTrialAnswer),
    /// The enrolment's time may be over.
    ExpireEnrolment(EnrolmentId),
    /// Withdraw an enrolment.
    CancelEnrolment(EnrolmentId),
    /// End an authenticator.
    RevokeAuthenticator {
        /// Which.
        authenticator: AuthenticatorId,
        /// Who asks.
        relying_party: RelyingPartyId,
    },
    /// A phone leaves the account.
    Unenrol(VerifiedUnenrol),
    /// A phone has a new push target.
    ReplacePushTarget(VerifiedReplacePushTarget),
    /// A push service says that a target is dead.
    RecordDeadTarget {
        /// Whose.
        authenticator: AuthenticatorId,
        /// SHA-256 of the target that was pushed to.
        target_hash: [u8; 32],
        /// Since when, if the service says: a target that the phone gave later is another registration.
        dead_since: Option<Timestamp>,
        /// The service's word for it.
        reason: String,
    },
    /// Have a sign-in attempt approved.
    RequestApproval {
        /// What is asked for.
        request: Request,
        /// The number and challenge for it; none where the account refuses (see [`crate::approval::assess`]).
        question: Option<Question>,
    },
    /// Take the answer to a challenge.
    SubmitAnswer(VerifiedAnswer),
    /// The approval's time may be over.
    ExpireApproval(ApprovalId),
    /// Withdraw an approval.
    CancelApproval {
        /// Which.
        approval: ApprovalId,
        /// Who asks.
        relying_party: RelyingPartyId,
    },
}

/// Why a command changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nobody has enrolled this account.
    #[error("no such account")]
    UnknownAccount,
    /// No such approval in the account's recent past; the log knows the older ones.
    #[error("no such approval")]
    UnknownApproval,
    /// No such enrolment.
    #[error("no such enrolment")]
    UnknownEnrolment,
    /// No such authenticator, or it may not do this (on trial, revoked, younger than the approval).
    #[error("no such authenticator")]
    UnknownAuthenticator,
    /// The enrolment is not waiting for what came.
    #[error("the enrolment does not wait for this")]
    EnrolmentNotWaiting,
    /// The key is bound to the account already.
    #[error("the key is bound to this account already")]
    KeyAlreadyBound,
    /// The account has as many authenticators as it may have.
    #[error("the account has {most} authenticators, and may not have more")]
    TooManyAuthenticators {
        /// The limit.
        most: usize,
    },
    /// The account has as many enrolments that wait as it may have.
    #[error("{most} enrolments of the account wait, and no more may")]
    TooManyEnrolments {
        /// The limit.
        most: usize,
    },
    /// The counter of a phone's change did not rise: an old or repeated call.
    #[error("the counter must be more than {last}")]
    CounterNotRising {
        /// That of the last change.
        last: u64,
    },
    /// The idempotency key came before with another body.
    #[error("the idempotency key was used with another request")]
    IdempotencyKeyReused,
    /// So many requests for the account were refused lately that this one is not even recorded; or so many keys are
    /// known that there is no room for another.
    #[error("too many requests for this account lately: try again in {} s", seconds(*retry_after))]
    TooManyRequests {
        /// When another can be taken, or refused with an outcome.
        retry_after: Duration,
    },
    /// The phone has given as many push targets lately as it may.
    #[error("{most} push targets came from this phone lately, and no more may: try again in {} s", seconds(*retry_after))]
    TooManyPushTargets {
        /// The limit.
        most: usize,
        /// When it may give another.
        retry_after: Duration,
    },
    /// The number was drawn from an older state and has been taken since: draw again.
    #[error("the match number is taken")]
    NumberTaken,
    /// The approval has ended, otherwise than by this very answer.
    #[error("the approval has ended")]
    ApprovalEnded(Ending),
    /// The trial has ended, otherwise than by this very answer.
    #[error("the enrolment has ended")]
    EnrolmentOver,
}

/// Whole seconds, rounded up.
fn seconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis().div_ceil(1_000)).unwrap_or(u64::MAX)
}
