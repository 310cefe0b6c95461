//! What whoever runs the broker reads in its log: one line for each ending, with the approval's id, whichever path it came
//! by. What somebody should look at is a warning. No names, no numbers, no addresses.

use countersign_domain::{
    AccountId, ApprovalId, AuthenticatorId, Event,
    event::{EnrolmentEnd, RefusedBecause, RevokedBy},
};

use super::Index;

/// One line, where the event is worth one. The index knows the approval still.
pub(super) fn event(account: AccountId, event: &Event, index: &Index) {
    match event {
        Event::ApprovalApproved { approval, answer, .. } => {
            ended(index, *approval, "approved", Some(answer.authenticator));
        }
        Event::ApprovalDenied { approval, answer, reported: false } => {
            ended(index, *approval, "denied", Some(answer.authenticator));
        }
        Event::ApprovalDenied { approval, answer, reported: true } => {
            suspicious(index, *approval, "reported", answer.authenticator);
        }
        Event::NumberWrong { approval, authenticator, .. } => {
            suspicious(index, *approval, "wrong_number", *authenticator);
        }
        Event::ApprovalExpired { approval } => ended(index, *approval, "expired", None),
        Event::ApprovalCancelled { approval, .. } => ended(index, *approval, "cancelled", None),
        Event::ApprovalSuperseded { approval, .. } => ended(index, *approval, "superseded", None),
        Event::ApprovalRefused(refused) => {
            let (approval, relying_party) = (refused.request.approval, refused.request.relying_party);
            let because = refusal(refused.because);
            tracing::info!(%approval, outcome = "refused", because, %relying_party, "approval ended");
        }
        Event::PushPaused { until } => {
            // The account's id begins each of its approvals' ids.
            let until_ms = until.as_millis();
            tracing::warn!(%account, until_ms, "push is paused after wrong numbers");
        }
        Event::AuthenticatorActivated { authenticator, enrolment, .. } => {
            tracing::info!(%enrolment, outcome = "active", %authenticator, "enrolment ended");
        }
        Event::EnrolmentEnded { enrolment, reason, .. } => enrolment_ended(*enrolment, *reason),
        Event::AuthenticatorRevoked { authenticator, by, .. } => revoked(*authenticator, *by),
        Event::PushTargetDied { authenticator, reason, .. } => {
            tracing::info!(%authenticator, reason, "the push target is dead");
        }
        Event::Opened(_)
        | Event::EnrolmentBegun(_)
        | Event::EnrolmentCodeRefused { .. }
        | Event::AuthenticatorBound(_)
        | Event::TrialRequested(_)
        | Event::PushTargetReplaced { .. }
        | Event::ApprovalRequested(_) => {}
    }
}

fn ended(index: &Index, approval: ApprovalId, outcome: &str, authenticator: Option<AuthenticatorId>) {
    let relying_party = index.relying_party(approval).map(tracing::field::display);
    let authenticator = authenticator.map(tracing::field::display);
    tracing::info!(%approval, outcome, authenticator, relying_party, "approval ended");
}

/// Somebody else than the person may be signing in.
fn suspicious(index: &Index, approval: ApprovalId, outcome: &str, authenticator: AuthenticatorId) {
    let relying_party = index.relying_party(approval).map(tracing::field::display);
    tracing::warn!(%approval, outcome, %authenticator, relying_party, "approval ended");
}

fn enrolment_ended(enrolment: countersign_domain::EnrolmentId, reason: EnrolmentEnd) {
    let outcome = match reason {
        EnrolmentEnd::CodeRefused => "code_refused",
        EnrolmentEnd::Expired => "expired",
        EnrolmentEnd::WrongNumber => "wrong_number",
        EnrolmentEnd::Declined => "declined",
        EnrolmentEnd::Cancelled => "cancelled",
        EnrolmentEnd::Revoked => "revoked",
    };
    match reason {
        EnrolmentEnd::CodeRefused | EnrolmentEnd::WrongNumber => {
            tracing::warn!(%enrolment, outcome, "enrolment ended");
        }
        _ => tracing::info!(%enrolment, outcome, "enrolment ended"),
    }
}

fn revoked(authenticator: AuthenticatorId, by: RevokedBy) {
    let (by, relying_party) = match by {
        RevokedBy::Unenrolment { .. } => ("itself", None),
        RevokedBy::RelyingParty(id) => ("relying_party", Some(tracing::field::display(id))),
        RevokedBy::Trial => ("trial", None),
    };
    tracing::info!(%authenticator, by, relying_party, "authenticator revoked");
}

/// The word for why a request was refused at once.
fn refusal(because: RefusedBecause) -> &'static str {
    match because {
        RefusedBecause::Unreachable => "unreachable",
        RefusedBecause::TooManyWaiting => "too_many_waiting",
        RefusedBecause::PushPaused => "push_paused",
        RefusedBecause::NumbersExhausted => "numbers_exhausted",
        RefusedBecause::TooManyRequests => "too_many_requests",
    }
}
