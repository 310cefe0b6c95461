//! What login servers are to be told of an approval that has ended: made of the log, by the words of the reference.

use countersign_domain::{ApprovalId, challenge::timestamp, limits::OUTCOME_VALID};
use countersign_proto::v1::{self, OutcomeKind};

use super::{Ended, Ledger};

impl Ledger {
    /// None if it has not.
    pub(crate) fn outcome(&self, approval: ApprovalId) -> Option<v1::Outcome> {
        let book = self.accounts.get(&approval.account())?;
        let attempt = book.approvals.get(&approval)?;
        let Ended { kind, at, by, user_verified, refusal } = attempt.ended.clone()?;
        let amr: &[&str] = match (kind, user_verified) {
            (OutcomeKind::Approved, true) => &["mca", "pop", "user", "mfa"],
            (OutcomeKind::Approved, false) => &["mca", "pop", "user"],
            _ => &[],
        };
        Some(v1::Outcome {
            kind: kind.into(),
            approval_id: approval.to_string(),
            authenticator_id: by.map(|by| by.to_string()).unwrap_or_default(),
            authenticator_bound_at: by.and_then(|by| Some(timestamp(book.phones.get(&by)?.bound_at))),
            decided_at: Some(timestamp(at)),
            amr: amr.iter().copied().map(str::to_owned).collect(),
            phishing_resistant: false,
            session_binding: attempt.request.session_binding.clone(),
            valid_until: (kind == OutcomeKind::Approved).then(|| timestamp(at.plus(OUTCOME_VALID))),
            refusal_reason: refusal.into(),
            user_verified,
        })
    }
}
