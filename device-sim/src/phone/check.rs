//! Checks before anything is shown: who signed it, what it is, who it is for, and whether it can be true. Only what
//! passed becomes a [`Challenge`], a [`Trial`] or a [`Notice`]; there is no other way to one.

use std::{fmt, net::IpAddr, time::Duration};

use countersign_envelope::{payload_type, sha256};
use countersign_proto::v1;
use prost::Message;

use super::{invitation::Broker, text::disguise};
use crate::{
    clock::Timestamp,
    wire::{moment, optional_moment},
};

/// A payload that is longer is none of the broker's (envelope.proto).
const PAYLOAD_BYTES_MAX: usize = 16_384;
/// How far this phone's clock may be from the broker's, either way. The broker's clock decides; this one keeps off the
/// screen what is long over.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(60);
/// The longest life of a challenge (approvals.proto: 300 s), and of a trial (enrolments.proto: 10 minutes).
const CHALLENGE_LIFETIME_MAX: Duration = Duration::from_secs(300);
const TRIAL_LIFETIME_MAX: Duration = Duration::from_secs(600);
const NAME_CHARACTERS_MAX: usize = 256;
const CONTEXT_CHARACTERS_MAX: usize = 80;

/// Why something that came is not shown to anybody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotShown {
    /// There is nothing where something should be.
    #[error("the broker sent nothing")]
    Missing,
    /// Something else than was asked for.
    #[error("it is of the type {found:?}")]
    PayloadType {
        /// What it says it is.
        found: String,
    },
    /// The envelope names another key than the one learnt at enrolment.
    #[error("it is signed with another key than the one learnt at enrolment")]
    OtherKey,
    /// The signature is not the broker's.
    #[error("the signature is not the broker's")]
    Signature,
    /// The broker signed it, and still it cannot be read.
    #[error("it cannot be read: {0}")]
    Malformed(&'static str),
    /// It comes from another broker.
    #[error("it is from the broker {found:?}")]
    OtherBroker {
        /// Who it says it is from.
        found: String,
    },
    /// It is for somebody else.
    #[error("it is for the account {found:?}")]
    OtherAccount {
        /// Who it says it is for.
        found: String,
    },
    /// It is for another phone.
    #[error("it is for another authenticator")]
    OtherAuthenticator,
    /// It is about something else than was asked for.
    #[error("it is about something else than was asked for")]
    OtherSubject,
    /// It is over.
    #[error("it is over since {} s", .since.as_secs())]
    Expired {
        /// For how long.
        since: Duration,
    },
    /// It begins in the future, ends before it begins, or lives longer than any challenge may.
    #[error("its times cannot be true")]
    Times,
    /// A text could disguise what stands around it.
    #[error("{field} contains U+{code:04X}, which could disguise it", code = u32::from(*.symbol))]
    Disguise {
        /// The field's name.
        field: &'static str,
        /// The character.
        symbol: char,
    },
    /// A text is longer than any may be, or empty where it must not be.
    #[error("{0} is empty or too long")]
    Length(&'static str),
}

/// A sign-in attempt that waits for this phone's answer: signed by the broker, for this account, and fit to be shown.
#[derive(Clone, PartialEq)]
pub struct Challenge {
    message: v1::Challenge,
    context: v1::Context,
    hash: [u8; 32],
    issued_at: Timestamp,
    expires_at: Timestamp,
}

/// The first challenge of a new phone, checked.
#[derive(Clone, PartialEq)]
pub struct Trial {
    message: v1::TrialChallenge,
    hash: [u8; 32],
    issued_at: Timestamp,
    expires_at: Timestamp,
}

/// Something about the account changed, as the broker signed it for this phone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// What happened.
    pub kind: v1::notice::Kind,
    /// The authenticator that it is about.
    pub subject_authenticator_id: String,
    /// What that device is called.
    pub subject_device_name: String,
    /// When.
    pub at: Timestamp,
}

/// A challenge of either kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Asked {
    /// A sign-in attempt.
    SignIn(Challenge),
    /// The phone's own trial.
    Trial(Trial),
}

impl Broker {
    /// The payload of an envelope that this broker signed, if it is of this type.
    pub fn open<M: Message + Default>(
        &self,
        envelope: &v1::Envelope,
        payload_type: &'static str,
    ) -> Result<M, NotShown> {
        if envelope.payload_type != payload_type {
            return Err(NotShown::PayloadType { found: envelope.payload_type.chars().take(100).collect() });
        }
        if envelope.payload.len() > PAYLOAD_BYTES_MAX {
            return Err(NotShown::Malformed("it is longer than 16,384 bytes"));
        }
        if envelope.key_id != self.fingerprint() {
            return Err(NotShown::OtherKey);
        }
        // Over the bytes as received, before anything in them is read.
        self.key()
            .verify(payload_type, &envelope.payload, &envelope.signature)
            .map_err(|_| NotShown::Signature)?;
        M::decode(envelope.payload.clone()).map_err(|_| NotShown::Malformed("it does not decode"))
    }

    /// Checks a challenge for the account `account_name`.
    pub fn check_challenge(
        &self,
        envelope: &v1::Envelope,
        account_name: &str,
        now: Timestamp,
    ) -> Result<Challenge, NotShown> {
        let mut message: v1::Challenge = self.open(envelope, payload_type::CHALLENGE)?;
        self.check_sender(&message.broker_id)?;
        check_account(&message.account_name, account_name)?;
        if message.approval_id.is_empty() {
            return Err(NotShown::Malformed("it has no approval id"));
        }
        check_question(&message.commitment, message.digits)?;
        shown("relying_party_name", &message.relying_party_name, NAME_CHARACTERS_MAX)?;
        shown("application_name", &message.application_name, NAME_CHARACTERS_MAX)?;
        let context = message.context.take().unwrap_or_default();
        if !context.source_ip.is_empty() && context.source_ip.parse::<IpAddr>().is_err() {
            return Err(NotShown::Malformed("source_ip is no IP address"));
        }
        optional("place", &context.place, CONTEXT_CHARACTERS_MAX)?;
        optional("browser", &context.browser, CONTEXT_CHARACTERS_MAX)?;
        let times = (message.issued_at.as_ref(), message.expires_at.as_ref());
        let (issued_at, expires_at) = check_times(times, CHALLENGE_LIFETIME_MAX, now)?;
        Ok(Challenge { hash: sha256(&envelope.payload), message, context, issued_at, expires_at })
    }

    /// Checks a trial for the authenticator `authenticator_id`.
    pub fn check_trial(
        &self,
        envelope: &v1::Envelope,
        (authenticator_id, account_name): (&str, &str),
        now: Timestamp,
    ) -> Result<Trial, NotShown> {
        let message: v1::TrialChallenge = self.open(envelope, payload_type::TRIAL_CHALLENGE)?;
        self.check_sender(&message.broker_id)?;
        if message.authenticator_id != authenticator_id {
            return Err(NotShown::OtherAuthenticator);
        }
        check_account(&message.account_name, account_name)?;
        if message.enrolment_id.is_empty() {
            return Err(NotShown::Malformed("it has no enrolment id"));
        }
        check_question(&message.commitment, message.digits)?;
        let times = (message.issued_at.as_ref(), message.expires_at.as_ref());
        let (issued_at, expires_at) = check_times(times, TRIAL_LIFETIME_MAX, now)?;
        Ok(Trial { hash: sha256(&envelope.payload), message, issued_at, expires_at })
    }

    /// Checks a notice for the authenticator `authenticator_id`.
    pub fn check_notice(&self, envelope: &v1::Envelope, authenticator_id: &str) -> Result<Notice, NotShown> {
        let message: v1::Notice = self.open(envelope, payload_type::NOTICE)?;
        self.check_sender(&message.broker_id)?;
        if message.authenticator_id != authenticator_id {
            return Err(NotShown::OtherAuthenticator);
        }
        shown("subject_device_name", &message.subject_device_name, NAME_CHARACTERS_MAX)?;
        if message.kind() == v1::notice::Kind::Unspecified {
            return Err(NotShown::Malformed("it is of no kind that this phone knows"));
        }
        Ok(Notice {
            kind: message.kind(),
            at: optional_moment(message.at.as_ref()).ok_or(NotShown::Times)?,
            subject_authenticator_id: message.subject_authenticator_id,
            subject_device_name: message.subject_device_name,
        })
    }

    pub(super) fn check_sender(&self, broker_id: &str) -> Result<(), NotShown> {
        if broker_id == self.id() {
            Ok(())
        } else {
            Err(NotShown::OtherBroker { found: broker_id.chars().take(100).collect() })
        }
    }
}

fn check_account(found: &str, expected: &str) -> Result<(), NotShown> {
    if found == expected {
        shown("account_name", found, NAME_CHARACTERS_MAX)
    } else {
        Err(NotShown::OtherAccount { found: found.chars().take(100).collect() })
    }
}

fn check_question(commitment: &[u8], digits: u32) -> Result<(), NotShown> {
    if commitment.len() != 32 {
        return Err(NotShown::Malformed("its commitment is not of 32 bytes"));
    }
    if !(2..=6).contains(&digits) {
        return Err(NotShown::Malformed("its number has not 2 to 6 digits"));
    }
    Ok(())
}

fn check_times(
    (issued_at, expires_at): (Option<&prost_types::Timestamp>, Option<&prost_types::Timestamp>),
    lifetime_max: Duration,
    now: Timestamp,
) -> Result<(Timestamp, Timestamp), NotShown> {
    let (Some(issued_at), Some(expires_at)) = (issued_at, expires_at) else { return Err(NotShown::Times) };
    let (issued_at, expires_at) = (moment(issued_at), moment(expires_at));
    let is_backward = expires_at <= issued_at;
    let is_endless = expires_at.since(issued_at) > lifetime_max;
    let is_ahead = issued_at.since(now) > CLOCK_SKEW_MAX;
    if is_backward || is_endless || is_ahead {
        return Err(NotShown::Times);
    }
    if now >= expires_at.plus(CLOCK_SKEW_MAX) {
        return Err(NotShown::Expired { since: now.since(expires_at) });
    }
    Ok((issued_at, expires_at))
}

/// A text that must be there.
pub(super) fn shown(field: &'static str, text: &str, characters_max: usize) -> Result<(), NotShown> {
    if text.trim().is_empty() {
        return Err(NotShown::Length(field));
    }
    optional(field, text, characters_max)
}

fn optional(field: &'static str, text: &str, characters_max: usize) -> Result<(), NotShown> {
    if text.chars().count() > characters_max {
        return Err(NotShown::Length(field));
    }
    match disguise(text) {
        Some(symbol) => Err(NotShown::Disguise { field, symbol }),
        None => Ok(()),
    }
}

impl Challenge {
    /// Which approval.
    pub fn approval_id(&self) -> &str {
        &self.message.approval_id
    }

    /// Who it is for.
    pub fn account_name(&self) -> &str {
        &self.message.account_name
    }

    /// The relying party's registered name.
    pub fn relying_party_name(&self) -> &str {
        &self.message.relying_party_name
    }

    /// The application's registered name.
    pub fn application_name(&self) -> &str {
        &self.message.application_name
    }

    /// The browser's IP address, place and name; each may be empty.
    pub fn context(&self) -> &v1::Context {
        &self.context
    }

    /// What proves afterwards which number was asked for.
    pub fn commitment(&self) -> &[u8] {
        &self.message.commitment
    }

    /// How many digits the number has: 2 to 6.
    pub fn digits(&self) -> usize {
        self.message.digits as usize
    }

    /// SHA-256 of the payload: what an answer is bound to.
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// When the broker asked.
    pub fn issued_at(&self) -> Timestamp {
        self.issued_at
    }

    /// From when an answer is refused, by the broker's clock.
    pub fn expires_at(&self) -> Timestamp {
        self.expires_at
    }
}

impl Trial {
    /// Which enrolment.
    pub fn enrolment_id(&self) -> &str {
        &self.message.enrolment_id
    }

    /// The account that the phone is to belong to.
    pub fn account_name(&self) -> &str {
        &self.message.account_name
    }

    /// What proves afterwards which number was asked for.
    pub fn commitment(&self) -> &[u8] {
        &self.message.commitment
    }

    /// How many digits the number has: 2 to 6.
    pub fn digits(&self) -> usize {
        self.message.digits as usize
    }

    /// SHA-256 of the payload: what the answer is bound to.
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// When the broker asked.
    pub fn issued_at(&self) -> Timestamp {
        self.issued_at
    }

    /// Until when the enrolment can be completed.
    pub fn expires_at(&self) -> Timestamp {
        self.expires_at
    }
}

impl Asked {
    /// The approval's id, or the enrolment's.
    pub fn id(&self) -> &str {
        match self {
            Self::SignIn(challenge) => challenge.approval_id(),
            Self::Trial(trial) => trial.enrolment_id(),
        }
    }

    /// How many digits the number has: 2 to 6.
    pub fn digits(&self) -> usize {
        match self {
            Self::SignIn(challenge) => challenge.digits(),
            Self::Trial(trial) => trial.digits(),
        }
    }

    /// From when an answer is refused, by the broker's clock.
    pub fn expires_at(&self) -> Timestamp {
        match self {
            Self::SignIn(challenge) => challenge.expires_at(),
            Self::Trial(trial) => trial.expires_at(),
        }
    }
}

impl fmt::Debug for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Challenge({})", self.message.approval_id)
    }
}

impl fmt::Debug for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trial({})", self.message.enrolment_id)
    }
}
