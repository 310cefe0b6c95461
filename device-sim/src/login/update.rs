//! What a login server is told of an approval.

use std::fmt;

use bytes::Bytes;
use countersign_proto::v1::{self, OutcomeKind, RefusalReason, approval_update, progress};

use crate::{
    clock::Timestamp,
    phone::Number,
    wire::{moment, optional_moment},
};

/// One step of an approval.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// Dense from 1 within the approval; the same step has the same number on every call.
    pub sequence: u32,
    /// When.
    pub at: Option<Timestamp>,
    /// What happened.
    pub step: Step,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// The approval waits for an answer.
    Issued(Issued),
    /// Something that a page can show.
    Progress(Progress),
    /// It has ended.
    Outcome(Outcome),
    /// Something that this release does not know.
    Unknown,
}

/// The approval waits. It holds the number, and prints without.
#[derive(Clone, Debug, PartialEq)]
pub struct Issued {
    /// Which approval.
    pub approval_id: String,
    /// What the page shows.
    pub number: Number,
    /// Until when.
    pub expires_at: Option<Timestamp>,
    /// How many phones are asked.
    pub authenticators_addressed: u32,
}

/// What became of a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What.
    pub kind: progress::Kind,
    /// Whose.
    pub authenticator_id: String,
    /// With a push that failed: why.
    pub reason: String,
}

/// How an approval ended.
#[derive(Clone, PartialEq)]
pub struct Outcome(v1::Outcome);

impl Update {
    pub(super) fn of(update: v1::ApprovalUpdate) -> Self {
        let step = match update.update {
            Some(approval_update::Update::Issued(issued)) => Step::Issued(Issued::of(issued)),
            Some(approval_update::Update::Progress(progress)) => Step::Progress(Progress {
                kind: progress.kind(),
                authenticator_id: progress.authenticator_id,
                reason: progress.reason,
            }),
            Some(approval_update::Update::Outcome(outcome)) => Step::Outcome(Outcome(outcome)),
            None => Step::Unknown,
        };
        Self { sequence: update.sequence, at: optional_moment(update.at.as_ref()), step }
    }
}

impl Issued {
    pub(super) fn of(issued: v1::Issued) -> Self {
        Self {
            expires_at: optional_moment(issued.expires_at.as_ref()),
            authenticators_addressed: issued.authenticators_addressed,
            number: Number::new(issued.match_number),
            approval_id: issued.approval_id,
        }
    }
}

impl Outcome {
    pub(super) fn of(outcome: v1::Outcome) -> Self {
        Self(outcome)
    }

    /// How it ended.
    pub fn kind(&self) -> OutcomeKind {
        self.0.kind()
    }

    /// Which approval.
    pub fn approval_id(&self) -> &str {
        &self.0.approval_id
    }

    /// Who answered; empty if nobody did.
    pub fn authenticator_id(&self) -> &str {
        &self.0.authenticator_id
    }

    /// When it ended.
    pub fn decided_at(&self) -> Option<Timestamp> {
        optional_moment(self.0.decided_at.as_ref())
    }

    /// Until when an approval lets somebody in.
    pub fn valid_until(&self) -> Option<Timestamp> {
        optional_moment(self.0.valid_until.as_ref())
    }

    /// The browser session that it was asked for.
    pub fn session_binding(&self) -> &Bytes {
        &self.0.session_binding
    }

    /// Why it was refused.
    pub fn refusal_reason(&self) -> RefusalReason {
        self.0.refusal_reason()
    }

    /// All of it, as it came.
    pub fn message(&self) -> &v1::Outcome {
        &self.0
    }

    /// Whether it lets somebody in, at this moment, into the session with this binding.
    pub fn lets_in(&self, session_binding: &[u8], now: Timestamp) -> bool {
        self.kind() == OutcomeKind::Approved
            && self.is_for(session_binding)
            && self.0.valid_until.as_ref().is_some_and(|until| now < moment(until))
    }

    /// Whether it was asked for by the session with this binding.
    pub fn is_for(&self, session_binding: &[u8]) -> bool {
        self.0.session_binding == session_binding
    }
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Outcome({} of {})", self.kind().as_str_name(), self.approval_id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_lets_in_only_its_session_and_only_in_time() {
        let outcome = Outcome(v1::Outcome {
            kind: OutcomeKind::Approved.into(),
            session_binding: Bytes::from_static(b"0123456789abcdef"),
            valid_until: Some(prost_types::Timestamp { seconds: 60, nanos: 0 }),
            ..Default::default()
        });
        let now = Timestamp::from_seconds(59);
        assert!(outcome.lets_in(b"0123456789abcdef", now));
        assert!(!outcome.lets_in(b"another session.", now));
        assert!(!outcome.lets_in(b"0123456789abcdef", Timestamp::from_seconds(60)), "an old yes is no yes");
        let mut denied = outcome;
        denied.0.kind = OutcomeKind::Denied.into();
        assert!(!denied.lets_in(b"0123456789abcdef", now));
    }
}
