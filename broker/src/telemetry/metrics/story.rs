//! What is counted of the story as the log tells it: each event once, whichever path it came by.

use std::time::Duration;

use countersign_domain::Event;

use super::{
    Metrics,
    labels::{Enrolled, Enrolling, Outcome},
};

impl Metrics {
    /// Something happened to an account. `lasted`: from the request of an approval to now, where that is known.
    pub fn happened(&self, event: &Event, lasted: Option<Duration>) {
        let story = &self.story;
        if let Some(outcome) = outcome(event) {
            story.approvals.count(outcome);
            if let Some(lasted) = lasted {
                story.approval_duration.took(outcome, lasted);
            }
            return;
        }
        match event {
            Event::EnrolmentBegun(_) => story.enrolling.count(Enrolling::Begun),
            Event::EnrolmentCodeRefused { .. } => story.enrolling.count(Enrolling::CodeRefused),
            Event::AuthenticatorBound(bound) => {
                story.enrolling.count(Enrolling::Bound);
                story.bound.count(bound.platform.into());
            }
            Event::TrialRequested(_) => story.enrolling.count(Enrolling::Trial),
            Event::AuthenticatorActivated { .. } => story.enrolments.count(Enrolled::Active),
            Event::EnrolmentEnded { reason, .. } => story.enrolments.count((*reason).into()),
            Event::AuthenticatorRevoked { by, .. } => story.revoked.count((*by).into()),
            Event::PushTargetDied { .. } => story.targets_died.count(()),
            Event::PushPaused { .. } => story.push_paused.count(()),
            _ => {}
        }
    }
}

/// How an approval ended, if one did.
fn outcome(event: &Event) -> Option<Outcome> {
    Some(match event {
        Event::ApprovalApproved { .. } => Outcome::Approved,
        Event::ApprovalDenied { reported: false, .. } => Outcome::Denied,
        Event::ApprovalDenied { reported: true, .. } => Outcome::Reported,
        Event::NumberWrong { .. } => Outcome::WrongNumber,
        Event::ApprovalExpired { .. } => Outcome::Expired,
        Event::ApprovalCancelled { .. } => Outcome::Cancelled,
        Event::ApprovalSuperseded { .. } => Outcome::Superseded,
        Event::ApprovalRefused(refused) => refused.because.into(),
        _ => return None,
    })
}
