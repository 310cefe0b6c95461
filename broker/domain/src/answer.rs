//! Answers of phones. A [`VerifiedAnswer`] can only come from [`VerifiedAnswer::verify`]: what decides on one need
//! not ask whether it is genuine.

use std::fmt;

use bytes::Bytes;
use countersign_envelope::{payload_type, sha256};
use countersign_proto::v1;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::{
    Account, ApprovalId, AuthenticatorId, EnrolmentId,
    authenticator::Authenticator,
    call::{Error, bound_to, open, open_from},
    enrolment::Stage,
    event::RecordedAnswer,
    limits,
    number::MatchNumber,
};

/// An answer whose signature has been checked and that is bound to the challenge of its approval. Its payload holds
/// what was typed: it prints without.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifiedAnswer {
    approval: ApprovalId,
    authenticator: AuthenticatorId,
    decision: Decision,
    hash: [u8; 32],
    payload: Bytes,
    signature: Bytes,
}

/// What the person decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Approve, with the number as typed.
    Approve {
        /// As typed.
        number: TypedNumber,
        /// The phone checked the person.
        user_verified: bool,
    },
    /// Deny.
    Deny,
    /// Deny: 'this was not me'.
    DenyAndReport,
}

/// What somebody typed: perhaps another sign-in's live number. It prints as nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct TypedNumber(Zeroizing<String>);

impl VerifiedAnswer {
    /// Checks an answer: signature, then binding. `account` is the one that the answer's authenticator belongs to.
    pub fn verify(account: &Account, broker_id: &str, envelope: &v1::Envelope) -> Result<Self, Error> {
        let (authenticator, answer): (_, v1::Answer) = open(account, envelope, payload_type::ANSWER)?;
        bound_to(authenticator, broker_id, &answer.broker_id, &answer.authenticator_id)?;
        nonce(&answer.nonce)?;
        let decision = decision(&answer)?;
        let approval: ApprovalId =
            answer.approval_id.parse().map_err(|_| Error::field("approval_id", "is no approval id"))?;
        // Another account's approval is not one of this authenticator's.
        let issued = account.approval(approval).and_then(|approval| approval.issued.as_ref());
        let issued = issued.ok_or(Error::UnknownApproval)?;
        if !bool::from(issued.challenge_hash.ct_eq(&answer.challenge_hash)) {
            return Err(Error::ChallengeMismatch);
        }
        Ok(Self {
            approval,
            authenticator: authenticator.id,
            decision,
            hash: envelope_hash(envelope),
            payload: envelope.payload.clone(),
            signature: envelope.signature.clone(),
        })
    }

    /// The approval that it answers.
    pub fn approval(&self) -> ApprovalId {
        self.approval
    }

    /// Who answers.
    pub fn authenticator(&self) -> AuthenticatorId {
        self.authenticator
    }

    /// What the person decided.
    pub fn decision(&self) -> &Decision {
        &self.decision
    }

    /// Knows the same answer again.
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    pub(crate) fn to_recorded(&self) -> RecordedAnswer {
        RecordedAnswer {
            authenticator: self.authenticator,
            answer_hash: self.hash,
            payload: self.payload.clone(),
            signature: self.signature.clone(),
        }
    }
}

impl fmt::Debug for VerifiedAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { approval, authenticator, decision, .. } = self;
        write!(f, "VerifiedAnswer({decision:?} to {approval} by {authenticator})")
    }
}

/// The answer to a trial, likewise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedTrialAnswer {
    enrolment: EnrolmentId,
    authenticator: AuthenticatorId,
    number: TypedNumber,
    hash: [u8; 32],
}

impl VerifiedTrialAnswer {
    /// Checks the answer to a trial: signature, then binding. A failed trial takes the authenticator with it; the
    /// answer that failed it, sent again, still gets its reply.
    pub fn verify(account: &Account, broker_id: &str, envelope: &v1::Envelope) -> Result<Self, Error> {
        let hash = envelope_hash(envelope);
        let failed_by_this = |one: &Authenticator| {
            account.enrolment(one.enrolment).is_some_and(|enrolment| enrolment.was_ended_by(hash))
        };
        let (authenticator, answer): (_, v1::TrialAnswer) =
            open_from(account, envelope, payload_type::TRIAL_ANSWER, |one| {
                one.is_bound() || failed_by_this(one)
            })?;
        bound_to(authenticator, broker_id, &answer.broker_id, &answer.authenticator_id)?;
        nonce(&answer.nonce)?;
        if !answer.number.is_empty() {
            digits(&answer.number)?;
        }
        let enrolment: EnrolmentId =
            answer.enrolment_id.parse().map_err(|_| Error::field("enrolment_id", "is no enrolment id"))?;
        let known = account.enrolment(enrolment).filter(|one| authenticator.enrolment == one.id);
        let known = known.ok_or(Error::UnknownApproval)?;
        // Once the trial has ended its challenge is gone; who answers then is told how it ended.
        if let Stage::OnTrial { question, .. } = &known.stage
            && !bool::from(question.challenge.payload_hash().ct_eq(&answer.challenge_hash))
        {
            return Err(Error::ChallengeMismatch);
        }
        let number = TypedNumber(Zeroizing::new(answer.number.clone()));
        Ok(Self { enrolment, authenticator: authenticator.id, number, hash })
    }

    /// The enrolment whose trial it answers.
    pub fn enrolment(&self) -> EnrolmentId {
        self.enrolment
    }

    /// Who answers.
    pub fn authenticator(&self) -> AuthenticatorId {
        self.authenticator
    }

    /// Knows the same answer again.
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// The person does not want the enrolment.
    pub fn declines(&self) -> bool {
        self.number.0.is_empty()
    }

    pub(crate) fn has_number(&self, number: MatchNumber) -> bool {
        number.matches(&self.number.0)
    }
}

impl MatchNumber {
    pub(crate) fn matches_typed(self, typed: &TypedNumber) -> bool {
        self.matches(&typed.0)
    }
}

impl fmt::Debug for TypedNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TypedNumber(secret)")
    }
}

fn decision(answer: &v1::Answer) -> Result<Decision, Error> {
    let decision = match answer.decision() {
        v1::Decision::Approve => {
            digits(&answer.number)?;
            let number = TypedNumber(Zeroizing::new(answer.number.clone()));
            return Ok(Decision::Approve { number, user_verified: answer.user_verified });
        }
        v1::Decision::Deny => Decision::Deny,
        v1::Decision::DenyAndReport => Decision::DenyAndReport,
        v1::Decision::Unspecified => {
            return Err(Error::field("decision", "must be approve, deny, or deny and report"));
        }
    };
    if answer.number.is_empty() {
        Ok(decision)
    } else {
        Err(Error::field("number", "goes with approve only"))
    }
}

fn digits(number: &str) -> Result<(), Error> {
    let most = usize::from(*limits::MATCH_NUMBER_DIGITS.end());
    if (1..=most).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit()) {
        Ok(())
    } else {
        Err(Error::field("number", format!("must be 1 to {most} ASCII digits")))
    }
}

fn nonce(nonce: &[u8]) -> Result<(), Error> {
    if nonce.len() == limits::NONCE_BYTES {
        Ok(())
    } else {
        Err(Error::field("nonce", "must be 16 random bytes"))
    }
}

/// Knows an envelope again: everything in it, the signature included.
pub(crate) fn envelope_hash(envelope: &v1::Envelope) -> [u8; 32] {
    let mut bytes = Vec::with_capacity(envelope.payload.len() + 96);
    bytes.extend_from_slice(&sha256(&envelope.payload));
    bytes.extend_from_slice(&envelope.signature);
    sha256(&bytes)
}
