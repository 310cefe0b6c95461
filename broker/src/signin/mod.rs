//! The story of a sign-in, in the order in which it happens:
//!
//! 1. [`request`]: a login server asks; a number is drawn, a challenge signed, and both become an event;
//! 2. [`dispatch`]: because of that event, the challenge goes to the account's phones;
//! 3. [`answer`]: a phone lists and fetches what waits, and answers;
//! 4. [`wait`]: the login is told, as it happens and in the end;
//! 5. [`expiry`]: or the clock ends it.
//!
//! Nothing here knows gRPC, files or push services: it knows the domain, the decider, and what waits on the board.

pub mod answer;
pub mod dispatch;
pub mod expiry;
pub mod request;
mod to_its_end;
pub mod wait;

use std::sync::Arc;

use countersign_domain::{call, command::Refusal, policy::Policy};

use crate::{
    clock::Clock,
    decider::{self, Decider, codec::AccountCodec},
    entropy::Entropy,
    keys::Keys,
    log::ReadError,
    projection::follower::ReadModels,
    rates::{Rates, TooOften},
    shares::{Full, Most},
};

/// What the steps of a sign-in share.
#[derive(Debug, Clone)]
pub struct SignIn {
    pub(crate) accounts: Arc<Decider<AccountCodec>>,
    pub(crate) models: ReadModels,
    pub(crate) keys: Arc<Keys>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) policy: Policy,
    pub(crate) live_max: Most,
    pub(crate) rates: Arc<Rates>,
}

impl SignIn {
    /// Puts the steps together. Devices may call as often as they like.
    pub fn new(
        accounts: Arc<Decider<AccountCodec>>,
        models: ReadModels,
        keys: Arc<Keys>,
        entropy: Arc<dyn Entropy>,
        clock: Arc<dyn Clock>,
        policy: Policy,
        live_max: Most,
    ) -> Self {
        let rates = Arc::new(Rates::unlimited(&clock));
        Self { accounts, models, keys, entropy, clock, policy, live_max, rates }
    }

    /// The same, where a device may call only so often.
    #[must_use]
    pub fn limited(self, rates: Arc<Rates>) -> Self {
        Self { rates, ..self }
    }
}

/// Why a step could not be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The account says no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// What a phone sent is not what it must be.
    #[error(transparent)]
    Call(#[from] call::Error),
    /// The signature is good and the nonce is not: call again with the next one.
    #[error("the nonce is not one of the last two minutes")]
    NonceExpired,
    /// The token is not that of a push.
    #[error("the token does not belong to this push, or is over")]
    AcknowledgementInvalid,
    /// The device has called too often.
    #[error(transparent)]
    TooOften(#[from] TooOften),
    /// As many approvals wait as the broker takes.
    #[error("no more approvals are taken: {0}")]
    TooManyLive(Full),
    /// The log does not take it, or cannot be read.
    #[error(transparent)]
    Log(#[from] decider::Error),
}

impl From<ReadError> for Error {
    fn from(error: ReadError) -> Self {
        Self::Log(error.into())
    }
}

#[cfg(test)]
pub(crate) mod tests;
