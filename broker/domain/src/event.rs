//! Facts about an account. What is on disk for each of them is in `event/v1/account.proto`; these are the domain's
//! own, with every sealed field open.

use std::fmt;

use bytes::Bytes;
use countersign_envelope::{EnrolmentCode, PublicKey, sha256};
use countersign_proto::v1;

use crate::{
    ApprovalId, AuthenticatorId, EnrolmentId, RelyingPartyId, Timestamp, limits,
    number::{MatchNumber, Salt},
    policy::Policy,
    text::{DisplayText, Realm},
};

/// What happened to an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The account exists: somebody began to enrol its first authenticator.
    Opened(Identity),

    /// A code waits for a phone.
    EnrolmentBegun(EnrolmentBegun),
    /// Somebody used the code's locator with a wrong secret.
    EnrolmentCodeRefused {
        /// Which.
        enrolment: EnrolmentId,
    },
    /// The enrolment failed, or was withdrawn.
    EnrolmentEnded {
        /// Which.
        enrolment: EnrolmentId,
        /// Why.
        reason: EnrolmentEnd,
        /// SHA-256 of the trial answer's envelope, if one ended it.
        answer_hash: Option<[u8; 32]>,
    },
    /// A new key is bound to the account; it is on trial.
    AuthenticatorBound(AuthenticatorBound),
    /// The newly bound phone is asked for the number that the enrolling page shows.
    TrialRequested(TrialRequested),
    /// The person typed it: the authenticator may answer.
    AuthenticatorActivated {
        /// Which.
        authenticator: AuthenticatorId,
        /// By which enrolment.
        enrolment: EnrolmentId,
        /// SHA-256 of the trial answer's envelope.
        answer_hash: [u8; 32],
    },
    /// The authenticator's key is of no use any more.
    AuthenticatorRevoked {
        /// Which.
        authenticator: AuthenticatorId,
        /// By whom.
        by: RevokedBy,
        /// It had passed its trial: the account's other phones know of it.
        was_active: bool,
    },
    /// The phone has a new push target.
    PushTargetReplaced {
        /// Which phone.
        authenticator: AuthenticatorId,
        /// Its new target.
        push_target: PushTarget,
        /// The phone's counter of changes.
        counter: u64,
    },
    /// The push service says that the target is dead.
    PushTargetDied {
        /// Which phone.
        authenticator: AuthenticatorId,
        /// SHA-256 of the target.
        target_hash: [u8; 32],
        /// The push service's word for it.
        reason: String,
    },

    /// A sign-in attempt waits for an answer.
    ApprovalRequested(ApprovalRequested),
    /// A sign-in attempt was refused at once.
    ApprovalRefused(ApprovalRefused),
    /// The person approved, with the right number.
    ApprovalApproved {
        /// Which.
        approval: ApprovalId,
        /// Who answered.
        answer: RecordedAnswer,
        /// The phone checked the person.
        user_verified: bool,
    },
    /// The person denied.
    ApprovalDenied {
        /// Which.
        approval: ApprovalId,
        /// Who answered.
        answer: RecordedAnswer,
        /// 'This was not me.'
        reported: bool,
    },
    /// The person typed a wrong number. Only the answer's hash is kept: what was typed may be another sign-in's live
    /// number.
    NumberWrong {
        /// Which.
        approval: ApprovalId,
        /// Who answered.
        authenticator: AuthenticatorId,
        /// SHA-256 of the answer's envelope.
        answer_hash: [u8; 32],
    },
    /// Nobody answered in time.
    ApprovalExpired {
        /// Which.
        approval: ApprovalId,
    },
    /// The relying party withdrew it.
    ApprovalCancelled {
        /// Which.
        approval: ApprovalId,
        /// Who withdrew it.
        by: RelyingPartyId,
    },
    /// A newer request of the same relying party and session took its place.
    ApprovalSuperseded {
        /// Which.
        approval: ApprovalId,
        /// The newer one.
        by: ApprovalId,
    },
    /// Too many wrong numbers: no push until then.
    PushPaused {
        /// Until when.
        until: Timestamp,
    },
}

/// Who an account is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The realm that its name is unique in.
    pub realm: Realm,
    /// Its name as first written.
    pub name: DisplayText,
}

/// See [`Event::EnrolmentBegun`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrolmentBegun {
    /// Its id.
    pub enrolment: EnrolmentId,
    /// Its code.
    pub code: EnrolmentCode,
    /// When it ends by itself.
    pub expires_at: Timestamp,
    /// Who began it.
    pub relying_party: RelyingPartyId,
}

/// See [`Event::AuthenticatorBound`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthenticatorBound {
    /// Its id.
    pub authenticator: AuthenticatorId,
    /// Bound by which enrolment.
    pub enrolment: EnrolmentId,
    /// Its key.
    pub key: PublicKey,
    /// What the phone runs.
    pub platform: Platform,
    /// As the person knows it.
    pub device_name: DisplayText,
    /// Where pushes go.
    pub push_target: PushTarget,
    /// SHA-256 of the claim's envelope.
    pub claim_hash: [u8; 32],
}

/// See [`Event::TrialRequested`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrialRequested {
    /// Of which enrolment.
    pub enrolment: EnrolmentId,
    /// Which phone is asked.
    pub authenticator: AuthenticatorId,
    /// What it must be answered with, and how the phone is asked.
    pub question: Question,
    /// When it is over: the enrolment's own end.
    pub expires_at: Timestamp,
}

/// What a challenge asks, and the challenge itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The number to type.
    pub number: MatchNumber,
    /// Opens the commitment.
    pub salt: Salt,
    /// What the challenge says of the number.
    pub commitment: [u8; 32],
    /// The challenge exactly as signed.
    pub challenge: SignedMessage,
}

/// See [`Event::ApprovalRequested`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovalRequested {
    /// What was asked for.
    pub request: Request,
    /// The number and the challenge.
    pub question: Question,
    /// When it is over.
    pub expires_at: Timestamp,
    /// How many active authenticators it is for.
    pub authenticators_addressed: u32,
}

/// See [`Event::ApprovalRefused`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovalRefused {
    /// What was asked for.
    pub request: Request,
    /// Why not.
    pub because: RefusedBecause,
}

/// A request for an approval, checked and complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The approval's id.
    pub approval: ApprovalId,
    /// Who asks.
    pub relying_party: RelyingPartyId,
    /// The registered application.
    pub application: DisplayText,
    /// What the phone shows of where the attempt comes from.
    pub context: Context,
    /// The login server's value for the session that waits.
    pub session_binding: Bytes,
    /// To know the same request again.
    pub idempotency: Option<Idempotency>,
    /// What holds for it.
    pub policy: Policy,
}

/// Knows a request that is sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// SHA-256 of relying party and key.
    pub key_hash: [u8; 32],
    /// SHA-256 of the request's body.
    pub request_hash: [u8; 32],
}

/// Where a sign-in attempt comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Context {
    /// The browser's address.
    pub source_ip: Option<std::net::IpAddr>,
    /// Such as "Gothenburg, Sweden".
    pub place: Option<DisplayText>,
    /// Such as "Firefox on Linux".
    pub browser: Option<DisplayText>,
}

/// An answer that ended an approval, as signed: with the challenge it proves who approved what. Its payload holds the
/// number: it prints without.
#[derive(Clone, PartialEq, Eq)]
pub struct RecordedAnswer {
    /// Who signed it.
    pub authenticator: AuthenticatorId,
    /// SHA-256 of its envelope.
    pub answer_hash: [u8; 32],
    /// Its payload.
    pub payload: Bytes,
    /// Its signature.
    pub signature: Bytes,
}

impl fmt::Debug for RecordedAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hash = data_encoding::HEXLOWER.encode(&self.answer_hash[..4]);
        write!(f, "RecordedAnswer({} #{hash})", self.authenticator)
    }
}

/// Why an enrolment ended without an active authenticator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnrolmentEnd {
    /// Too many wrong secrets.
    CodeRefused,
    /// Not done in time.
    Expired,
    /// The trial was answered with a wrong number.
    WrongNumber,
    /// The person declined on the phone.
    Declined,
    /// Whoever began it withdrew it.
    Cancelled,
    /// The authenticator was revoked or left during its trial.
    Revoked,
}

/// Who ended an authenticator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevokedBy {
    /// The phone itself.
    Unenrolment {
        /// The phone's counter of changes.
        counter: u64,
    },
    /// A relying party with the scope for it.
    RelyingParty(RelyingPartyId),
    /// Its trial failed.
    Trial,
}

/// Why a request was refused at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusedBecause {
    /// No active authenticator at all.
    Unreachable,
    /// Too many approvals of the account wait.
    TooManyWaiting,
    /// Push is paused after wrong numbers.
    PushPaused,
    /// Half of all numbers are taken.
    NumbersExhausted,
    /// Too many requests lately.
    TooManyRequests,
}

/// What a phone runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Platform {
    /// iOS.
    Ios,
    /// Android.
    Android,
}

/// Which push service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PushServiceKind {
    /// Apple's.
    Apns,
    /// Google's.
    Fcm,
}

impl fmt::Display for PushServiceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Apns => "apns",
            Self::Fcm => "fcm",
        })
    }
}

/// A push service's address of a phone. Whoever has it and the provider's key can push to the phone: it prints as a
/// hash.
#[derive(Clone, PartialEq, Eq)]
pub struct PushTarget {
    service: PushServiceKind,
    token: Box<str>,
}

impl PushTarget {
    /// Checks what a phone gave: see `PushTarget` in `signed.proto`.
    pub fn parse(target: Option<&v1::PushTarget>) -> Result<Self, &'static str> {
        use v1::push_target::Service;
        match target.and_then(|target| target.service.as_ref()) {
            Some(Service::ApnsDeviceToken(token)) => {
                let hex = token.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
                if limits::APNS_DEVICE_TOKEN_CHARACTERS.contains(&token.len()) && hex {
                    Ok(Self::recorded(PushServiceKind::Apns, token))
                } else {
                    Err("an APNs device token is 64 to 200 characters of lower-case hex")
                }
            }
            Some(Service::FcmRegistrationToken(token)) => {
                let visible = token.bytes().all(|byte| byte.is_ascii_graphic());
                if limits::FCM_REGISTRATION_TOKEN_CHARACTERS.contains(&token.len()) && visible {
                    Ok(Self::recorded(PushServiceKind::Fcm, token))
                } else {
                    Err("an FCM registration token is 1 to 4,096 characters of visible ASCII")
                }
            }
            None => Err("must name an APNs device token or an FCM registration token"),
        }
    }

    /// What was recorded.
    pub fn recorded(service: PushServiceKind, token: &str) -> Self {
        Self { service, token: token.into() }
    }

    /// Whose address it is.
    pub fn service(&self) -> PushServiceKind {
        self.service
    }

    /// The address.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// SHA-256 of service and address: names it without giving it.
    pub fn hash(&self) -> [u8; 32] {
        sha256(format!("{}:{}", self.service, self.token).as_bytes())
    }
}

impl fmt::Debug for PushTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hash = data_encoding::HEXLOWER.encode(&self.hash()[..4]);
        write!(f, "PushTarget({} #{hash})", self.service)
    }
}

/// A message that the broker signed, exactly as signed.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedMessage {
    /// The encoded message.
    pub payload: Bytes,
    /// The signature over it and its payload type.
    pub signature: Bytes,
    /// The fingerprint of the key.
    pub key_id: String,
}

impl SignedMessage {
    /// What answers are bound to.
    pub fn payload_hash(&self) -> [u8; 32] {
        sha256(&self.payload)
    }

    /// The envelope to send.
    pub fn envelope(&self, payload_type: &str) -> v1::Envelope {
        v1::Envelope {
            payload: self.payload.clone(),
            payload_type: payload_type.to_owned(),
            key_id: self.key_id.clone(),
            signature: self.signature.clone(),
        }
    }
}

impl fmt::Debug for SignedMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SignedMessage({} bytes)", self.payload.len())
    }
}
