//! What phones sign: how an envelope of theirs is opened, and the calls that are neither claims nor answers.
//!
//! The signature is checked over the bytes as received before anything in them is read. An unknown or revoked
//! authenticator and a bad signature are answered alike, at the same cost.

use bytes::Bytes;
use countersign_envelope::{Algorithm, key::verify_in_vain, payload_type};
use countersign_proto::v1;
use prost::Message;

use crate::{Account, AccountId, AuthenticatorId, authenticator::Authenticator, event::PushTarget, limits};

/// Why what a phone sent is refused before anything is decided.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is no envelope of the kind that is asked for.
    #[error("malformed envelope: {0}")]
    Malformed(&'static str),
    /// A field of the signed message is not as it must be.
    #[error("{field}: {problem}")]
    Field {
        /// Its name, as in the .proto file.
        field: &'static str,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// Unknown or revoked authenticator, bad signature, another broker's message: alike.
    #[error("the signature is not that of an authenticator of this broker")]
    Unauthentic,
    /// The answer is bound to another challenge than the one that was issued.
    #[error("the answer is not bound to the challenge of this approval")]
    ChallengeMismatch,
    /// No such approval or enrolment in the account's recent past.
    #[error("no such approval")]
    UnknownApproval,
}

impl Error {
    pub(crate) fn field(field: &'static str, problem: impl Into<String>) -> Self {
        Self::Field { field, problem: problem.into() }
    }
}

/// Whose envelope it says it is. It chooses the account and the key, and proves nothing.
pub fn claimed_authenticator(envelope: &v1::Envelope) -> Result<AuthenticatorId, Error> {
    envelope.key_id.parse().map_err(|_| Error::Malformed("key_id is no authenticator id"))
}

/// The payload, if it is of this type, signed by this account's authenticator, and decodes.
pub(crate) fn open<'a, M: Message + Default>(
    account: &'a Account,
    envelope: &v1::Envelope,
    payload_type: &'static str,
) -> Result<(&'a Authenticator, M), Error> {
    open_from(account, envelope, payload_type, Authenticator::is_bound)
}

/// The same from the authenticators that `accepted` says yes to.
pub(crate) fn open_from<'a, M: Message + Default>(
    account: &'a Account,
    envelope: &v1::Envelope,
    payload_type: &'static str,
    accepted: impl FnOnce(&Authenticator) -> bool,
) -> Result<(&'a Authenticator, M), Error> {
    let claimed = claimed_authenticator(envelope)?;
    bounded(envelope, payload_type)?;
    let Some(authenticator) = account.authenticator(claimed).filter(|one| accepted(one)) else {
        verify_in_vain(algorithm_in_vain(claimed), payload_type, &envelope.payload, &envelope.signature);
        return Err(Error::Unauthentic);
    };
    authenticator
        .key
        .verify(payload_type, &envelope.payload, &envelope.signature)
        .map_err(|_| Error::Unauthentic)?;
    Ok((authenticator, decode(&envelope.payload)?))
}

pub(crate) fn bounded(envelope: &v1::Envelope, payload_type: &'static str) -> Result<(), Error> {
    if envelope.payload_type != payload_type {
        return Err(Error::Malformed("payload_type is not the one of this call"));
    }
    if envelope.payload.len() > limits::ENVELOPE_PAYLOAD_BYTES_MAX {
        return Err(Error::Malformed("payload is longer than 16,384 bytes"));
    }
    Ok(())
}

pub(crate) fn decode<M: Message + Default>(payload: &Bytes) -> Result<M, Error> {
    M::decode(payload.clone())
        .map_err(|_| Error::Malformed("payload does not decode as the message it should be"))
}

/// The ids inside the signature must be those outside.
pub(crate) fn bound_to(
    authenticator: &Authenticator,
    broker_id: &str,
    said_broker: &str,
    said_authenticator: &str,
) -> Result<(), Error> {
    if said_broker == broker_id && said_authenticator.parse() == Ok(authenticator.id) {
        Ok(())
    } else {
        Err(Error::Unauthentic)
    }
}

/// The id of a new authenticator. Its last bit says how it signs, so that a call in the name of one that does not exist
/// costs what it would cost if it did.
pub fn new_authenticator(account: AccountId, algorithm: Algorithm, mut random: [u8; 8]) -> AuthenticatorId {
    let bit = match algorithm {
        Algorithm::Ed25519 => 0,
        Algorithm::Es256 => 1,
    };
    random[7] = random[7] & !1 | bit;
    AuthenticatorId::new(account, random)
}

fn algorithm_in_vain(claimed: AuthenticatorId) -> Algorithm {
    if claimed.as_bytes()[AuthenticatorId::LENGTH - 1] & 1 == 0 {
        Algorithm::Ed25519
    } else {
        Algorithm::Es256
    }
}

/// A read that a phone signed: it may see what waits for it, if the nonce is good (which the keeper of the nonce key
/// says).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedRead {
    authenticator: AuthenticatorId,
    nonce: Bytes,
    id: String,
}

impl VerifiedRead {
    /// Checks a `ListWaitingCall`.
    pub fn list_waiting(account: &Account, broker_id: &str, envelope: &v1::Envelope) -> Result<Self, Error> {
        let (authenticator, call): (_, v1::ListWaitingCall) =
            open(account, envelope, payload_type::LIST_WAITING)?;
        bound_to(authenticator, broker_id, &call.broker_id, &call.authenticator_id)?;
        Ok(Self { authenticator: authenticator.id, nonce: call.nonce, id: String::new() })
    }

    /// Checks a `FetchChallengeCall`.
    pub fn fetch_challenge(
        account: &Account,
        broker_id: &str,
        envelope: &v1::Envelope,
    ) -> Result<Self, Error> {
        let (authenticator, call): (_, v1::FetchChallengeCall) =
            open(account, envelope, payload_type::FETCH_CHALLENGE)?;
        bound_to(authenticator, broker_id, &call.broker_id, &call.authenticator_id)?;
        Ok(Self { authenticator: authenticator.id, nonce: call.nonce, id: call.id })
    }

    /// Who reads.
    pub fn authenticator(&self) -> AuthenticatorId {
        self.authenticator
    }

    /// The nonce of the server that the phone signed.
    pub fn nonce(&self) -> &[u8] {
        &self.nonce
    }

    /// What a `FetchChallengeCall` asks for.
    pub fn id(&self) -> &str {
        &self.id
    }
}

/// A phone leaves, and signed that it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedUnenrol {
    authenticator: AuthenticatorId,
    counter: u64,
}

impl VerifiedUnenrol {
    /// Checks an `UnenrolCall`.
    pub fn verify(account: &Account, broker_id: &str, envelope: &v1::Envelope) -> Result<Self, Error> {
        let (authenticator, call): (_, v1::UnenrolCall) = open(account, envelope, payload_type::UNENROL)?;
        bound_to(authenticator, broker_id, &call.broker_id, &call.authenticator_id)?;
        Ok(Self { authenticator: authenticator.id, counter: call.counter })
    }

    /// Who leaves.
    pub fn authenticator(&self) -> AuthenticatorId {
        self.authenticator
    }

    /// The phone's counter of changes.
    pub fn counter(&self) -> u64 {
        self.counter
    }
}

/// A phone has a new push target, and signed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedReplacePushTarget {
    authenticator: AuthenticatorId,
    counter: u64,
    push_target: PushTarget,
}

impl VerifiedReplacePushTarget {
    /// Checks a `ReplacePushTargetCall`.
    pub fn verify(account: &Account, broker_id: &str, envelope: &v1::Envelope) -> Result<Self, Error> {
        let (authenticator, call): (_, v1::ReplacePushTargetCall) =
            open(account, envelope, payload_type::REPLACE_PUSH_TARGET)?;
        bound_to(authenticator, broker_id, &call.broker_id, &call.authenticator_id)?;
        let push_target = PushTarget::parse(call.push_target.as_ref())
            .map_err(|problem| Error::field("push_target", problem))?;
        Ok(Self { authenticator: authenticator.id, counter: call.counter, push_target })
    }

    /// Whose target.
    pub fn authenticator(&self) -> AuthenticatorId {
        self.authenticator
    }

    /// The phone's counter of changes.
    pub fn counter(&self) -> u64 {
        self.counter
    }

    /// The new target.
    pub fn push_target(&self) -> &PushTarget {
        &self.push_target
    }
}
