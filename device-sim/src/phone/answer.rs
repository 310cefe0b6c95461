//! What a phone signs when it answers, and every way to get that wrong: the builders begin with the honest answer, and
//! each of their methods spoils one part of it, inside the signature or outside.

use std::fmt;

use bytes::Bytes;
use countersign_envelope::{key::es256, payload_type};
use countersign_proto::v1;
use prost::Message;

use super::{
    Key, Phone,
    check::{Challenge, Trial},
};
use crate::entropy;

/// What the person decided.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Decision<'a> {
    /// Approve, with this number as typed.
    Approve {
        /// As typed.
        number: &'a str,
    },
    /// 'Not now'.
    Deny,
    /// 'This was not me.'
    Report,
}

impl fmt::Debug for Decision<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Approve { .. } => "Approve",
            Self::Deny => "Deny",
            Self::Report => "Report",
        })
    }
}

/// An answer in the making.
#[derive(Clone, Debug)]
pub struct AnswerBuilder<'a> {
    answer: v1::Answer,
    outside: Outside<'a>,
}

/// An answer to a trial in the making.
#[derive(Clone, Debug)]
pub struct TrialAnswerBuilder<'a> {
    answer: v1::TrialAnswer,
    outside: Outside<'a>,
}

/// What stands around the signed bytes.
#[derive(Clone, Debug)]
struct Outside<'a> {
    key: &'a Key,
    key_id: String,
    payload_type: String,
}

impl Outside<'_> {
    fn sign(&self, message: &impl Message) -> v1::Envelope {
        self.key.envelope(&self.key_id, &self.payload_type, message.encode_to_vec())
    }
}

/// 16 random bytes, as every answer holds.
fn nonce() -> Bytes {
    let mut nonce = vec![0; 16];
    entropy::fill(&mut nonce);
    nonce.into()
}

impl<'a> AnswerBuilder<'a> {
    /// The honest answer of `phone`.
    pub fn new(phone: &'a Phone, challenge: &Challenge, decision: Decision<'_>) -> Self {
        let (made, number) = match decision {
            Decision::Approve { number } => (v1::Decision::Approve, number),
            Decision::Deny => (v1::Decision::Deny, ""),
            Decision::Report => (v1::Decision::DenyAndReport, ""),
        };
        Self {
            answer: v1::Answer {
                broker_id: phone.broker().id().to_owned(),
                approval_id: challenge.approval_id().to_owned(),
                challenge_hash: challenge.hash().to_vec().into(),
                authenticator_id: phone.authenticator_id().to_owned(),
                decision: made.into(),
                number: number.to_owned(),
                user_verified: made == v1::Decision::Approve,
                nonce: nonce(),
            },
            outside: Outside {
                key: phone.key(),
                key_id: phone.authenticator_id().to_owned(),
                payload_type: payload_type::ANSWER.to_owned(),
            },
        }
    }

    /// Says whether the phone checked the person. An honest approval says yes.
    #[must_use]
    pub fn user_verified(mut self, user_verified: bool) -> Self {
        self.answer.user_verified = user_verified;
        self
    }

    /// Another broker inside the signature.
    #[must_use]
    pub fn broker_id(mut self, broker_id: &str) -> Self {
        broker_id.clone_into(&mut self.answer.broker_id);
        self
    }

    /// Another approval inside the signature.
    #[must_use]
    pub fn approval_id(mut self, approval_id: &str) -> Self {
        approval_id.clone_into(&mut self.answer.approval_id);
        self
    }

    /// Bound to another challenge.
    #[must_use]
    pub fn challenge_hash(mut self, hash: impl AsRef<[u8]>) -> Self {
        self.answer.challenge_hash = hash.as_ref().to_vec().into();
        self
    }

    /// Another nonce, of any length.
    #[must_use]
    pub fn nonce(mut self, nonce: impl Into<Bytes>) -> Self {
        self.answer.nonce = nonce.into();
        self
    }

    /// Another authenticator inside the signature.
    #[must_use]
    pub fn authenticator_inside(mut self, authenticator_id: &str) -> Self {
        authenticator_id.clone_into(&mut self.answer.authenticator_id);
        self
    }

    /// Another authenticator outside, which chooses the key that the signature is checked with.
    #[must_use]
    pub fn authenticator_outside(mut self, authenticator_id: &str) -> Self {
        authenticator_id.clone_into(&mut self.outside.key_id);
        self
    }

    /// Signed as something else than an answer.
    #[must_use]
    pub fn payload_type(mut self, payload_type: &str) -> Self {
        payload_type.clone_into(&mut self.outside.payload_type);
        self
    }

    /// Signed with somebody else's key.
    #[must_use]
    pub fn signed_with(mut self, key: &'a Key) -> Self {
        self.outside.key = key;
        self
    }

    /// Any other change of what is signed.
    #[must_use]
    pub fn change(mut self, change: impl FnOnce(&mut v1::Answer)) -> Self {
        change(&mut self.answer);
        self
    }

    /// Signs it.
    pub fn sign(&self) -> v1::Envelope {
        self.outside.sign(&self.answer)
    }
}

impl<'a> TrialAnswerBuilder<'a> {
    /// The honest answer of `phone`; an empty number declines the enrolment.
    pub fn new(phone: &'a Phone, trial: &Trial, number: &str) -> Self {
        Self {
            answer: v1::TrialAnswer {
                broker_id: phone.broker().id().to_owned(),
                enrolment_id: trial.enrolment_id().to_owned(),
                challenge_hash: trial.hash().to_vec().into(),
                authenticator_id: phone.authenticator_id().to_owned(),
                number: number.to_owned(),
                nonce: nonce(),
            },
            outside: Outside {
                key: phone.key(),
                key_id: phone.authenticator_id().to_owned(),
                payload_type: payload_type::TRIAL_ANSWER.to_owned(),
            },
        }
    }

    /// Another authenticator outside, which chooses the key that the signature is checked with.
    #[must_use]
    pub fn authenticator_outside(mut self, authenticator_id: &str) -> Self {
        authenticator_id.clone_into(&mut self.outside.key_id);
        self
    }

    /// Signed as something else than a trial's answer.
    #[must_use]
    pub fn payload_type(mut self, payload_type: &str) -> Self {
        payload_type.clone_into(&mut self.outside.payload_type);
        self
    }

    /// Signed with somebody else's key.
    #[must_use]
    pub fn signed_with(mut self, key: &'a Key) -> Self {
        self.outside.key = key;
        self
    }

    /// Any other change of what is signed.
    #[must_use]
    pub fn change(mut self, change: impl FnOnce(&mut v1::TrialAnswer)) -> Self {
        change(&mut self.answer);
        self
    }

    /// Signs it.
    pub fn sign(&self) -> v1::Envelope {
        self.outside.sign(&self.answer)
    }
}

/// Changes an answer after it was signed: what somebody does who has captured one, and wants to try another number.
#[must_use]
pub fn tampered(mut answer: v1::Envelope, change: impl FnOnce(&mut v1::Answer)) -> v1::Envelope {
    // What does not decode is changed all the same: by one byte.
    answer.payload = match v1::Answer::decode(answer.payload.clone()) {
        Ok(mut message) => {
            change(&mut message);
            message.encode_to_vec().into()
        }
        Err(_) => [&answer.payload[..], b"\0"].concat().into(),
    };
    answer
}

/// The other signature that ES256 has for the same bytes, with s in the upper half: good to the curve, refused by the
/// broker. A signature of another length stays as it is.
#[must_use]
pub fn with_high_s(mut envelope: v1::Envelope) -> v1::Envelope {
    if let Ok(mut signature) = <[u8; 64]>::try_from(&envelope.signature[..]) {
        if es256::s_is_low(&signature) {
            es256::negate_s(&mut signature);
        }
        envelope.signature = signature.to_vec().into();
    }
    envelope
}

/// The same envelope with one bit of its signature turned over.
#[must_use]
pub fn with_bad_signature(mut envelope: v1::Envelope) -> v1::Envelope {
    let mut signature = envelope.signature.to_vec();
    if let Some(byte) = signature.last_mut() {
        *byte ^= 1;
    }
    envelope.signature = signature.into();
    envelope
}
