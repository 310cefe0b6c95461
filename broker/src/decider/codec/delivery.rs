//! Events of the delivery stream beside each account's: progress that a login page can show. No decision is made
//! from them.

use bytes::Bytes;
use countersign_domain::{AccountId, ApprovalId, AuthenticatorId, EnrolmentId};
use countersign_proto::event::v1::{self as stored, EventType};

use super::{Error, body, kind_of, record, unknown};
use crate::log::{EventRecord, StreamId, StreamKind};

/// What a push was about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A sign-in attempt.
    Approval(ApprovalId),
    /// A trial.
    Enrolment(EnrolmentId),
}

impl Subject {
    /// Whose account.
    pub fn account(&self) -> AccountId {
        match self {
            Self::Approval(id) => id.account(),
            Self::Enrolment(id) => id.account(),
        }
    }

    fn to_bytes(self) -> Bytes {
        match self {
            Self::Approval(id) => Bytes::copy_from_slice(id.as_bytes()),
            Self::Enrolment(id) => Bytes::copy_from_slice(id.as_bytes()),
        }
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        ApprovalId::from_slice(bytes)
            .map(Self::Approval)
            .or_else(|_| EnrolmentId::from_slice(bytes).map(Self::Enrolment))
            .ok()
    }
}

/// What happened to a push on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// What it was about.
    pub subject: Subject,
    /// Whose phone.
    pub authenticator: AuthenticatorId,
    /// How far it came.
    pub step: DeliveryStep,
}

/// How far a push came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryStep {
    /// The push service took it.
    Accepted {
        /// The push service's id for it.
        push_id: String,
    },
    /// It was not sent, or not taken.
    Failed {
        /// The push service's word, or ours.
        reason: String,
    },
    /// Not taken yet, and tried again.
    Delayed {
        /// The push service's word, or ours.
        reason: String,
    },
    /// The phone has it.
    Delivered,
    /// The person sees it.
    Opened,
}

/// The delivery stream beside an account's.
pub fn stream(account: AccountId) -> StreamId {
    StreamId::new(StreamKind::Delivery, *account.as_bytes())
}

/// To store.
pub fn encode(delivery: &Delivery) -> EventRecord {
    let subject = delivery.subject.to_bytes();
    let authenticator = Bytes::copy_from_slice(delivery.authenticator.as_bytes());
    let record = match &delivery.step {
        DeliveryStep::Accepted { push_id } => {
            let push_id = push_id.clone();
            record(EventType::PushAccepted, &stored::PushAccepted { subject, authenticator, push_id })
        }
        DeliveryStep::Failed { reason } => {
            let reason = reason.clone();
            record(EventType::PushFailed, &stored::PushFailed { subject, authenticator, reason })
        }
        DeliveryStep::Delayed { reason } => {
            let reason = reason.clone();
            record(EventType::PushDelayed, &stored::PushDelayed { subject, authenticator, reason })
        }
        DeliveryStep::Delivered => {
            record(EventType::PushDelivered, &stored::PushDelivered { subject, authenticator })
        }
        DeliveryStep::Opened => {
            record(EventType::ChallengeOpened, &stored::ChallengeOpened { subject, authenticator })
        }
    };
    // Nothing is decided from progress: a release that does not know a kind of it may pass it over.
    EventRecord { may_ignore: true, ..record }
}

/// As stored; none where its type is unknown.
pub fn decode(record: &EventRecord) -> Result<Option<Delivery>, Error> {
    let Some(kind) = kind_of(record)? else { return Ok(None) };
    let (subject, authenticator, step) = match kind {
        EventType::PushAccepted => {
            let event: stored::PushAccepted = body(kind, &record.body)?;
            (event.subject, event.authenticator, DeliveryStep::Accepted { push_id: event.push_id })
        }
        EventType::PushFailed => {
            let event: stored::PushFailed = body(kind, &record.body)?;
            (event.subject, event.authenticator, DeliveryStep::Failed { reason: event.reason })
        }
        EventType::PushDelayed => {
            let event: stored::PushDelayed = body(kind, &record.body)?;
            (event.subject, event.authenticator, DeliveryStep::Delayed { reason: event.reason })
        }
        EventType::PushDelivered => {
            let event: stored::PushDelivered = body(kind, &record.body)?;
            (event.subject, event.authenticator, DeliveryStep::Delivered)
        }
        EventType::ChallengeOpened => {
            let event: stored::ChallengeOpened = body(kind, &record.body)?;
            (event.subject, event.authenticator, DeliveryStep::Opened)
        }
        _ => return Err(unknown(record)),
    };
    let malformed = |what| Error::Malformed { kind, what };
    Ok(Some(Delivery {
        subject: Subject::from_bytes(&subject)
            .ok_or_else(|| malformed("subject is no approval or enrolment id"))?,
        authenticator: AuthenticatorId::from_slice(&authenticator)
            .map_err(|_| malformed("authenticator is no authenticator id"))?,
        step,
    }))
}
