//! An event of an account, as stored.

use std::time::Duration;

use bytes::Bytes;
use countersign_domain::{
    AccountId, ApprovalId, AuthenticatorId, EnrolmentId, Event, RelyingPartyId, Timestamp,
    event::{
        ApprovalRefused, ApprovalRequested, AuthenticatorBound, Context, EnrolmentBegun, EnrolmentEnd,
        Idempotency, Identity, Platform, PushServiceKind, PushTarget, Question, RecordedAnswer,
        RefusedBecause, Request, RevokedBy, SignedMessage, TrialRequested,
    },
    ids::InvalidId,
    number::{MatchNumber, Salt},
    policy::Policy,
    text::{DisplayText, Realm},
};
use countersign_envelope::{Algorithm, EnrolmentCode, PublicKey, enrolment_code::EnrolmentSecret};
use countersign_proto::event::v1::{self as stored, EventType};
use prost::Message;

use super::{NUMBER_LENGTH, enrolment_secret, match_number, open_personal};
use crate::{
    decider::codec::{Error, body, kind_of, unknown},
    keys::{Sealer, seal::Place},
    log::EventRecord,
};

pub(super) struct Decoder<'a> {
    pub(super) sealer: &'a Sealer,
    pub(super) account: AccountId,
}

impl Decoder<'_> {
    pub(super) fn event(&self, record: &EventRecord) -> Result<Option<Event>, Error> {
        let Some(kind) = kind_of(record)? else { return Ok(None) };
        Stored { decoder: self, kind, record }.event().map(Some)
    }
}

/// One stored event of a known type.
struct Stored<'a> {
    decoder: &'a Decoder<'a>,
    kind: EventType,
    record: &'a EventRecord,
}

impl Stored<'_> {
    fn event(&self) -> Result<Event, Error> {
        match self.kind {
            EventType::AccountOpened => {
                let (event, data): (stored::AccountOpened, stored::PersonalAccountOpened) = self.both()?;
                let realm = Realm::recorded(&event.realm);
                Ok(Event::Opened(Identity { realm, name: DisplayText::recorded(&data.name) }))
            }
            EventType::EnrolmentBegun => self.enrolment_begun(),
            EventType::EnrolmentCodeRefused => {
                let event: stored::EnrolmentCodeRefused = self.body()?;
                Ok(Event::EnrolmentCodeRefused { enrolment: self.enrolment(&event.enrolment)? })
            }
            EventType::EnrolmentEnded => {
                let event: stored::EnrolmentEnded = self.body()?;
                Ok(Event::EnrolmentEnded {
                    enrolment: self.enrolment(&event.enrolment)?,
                    reason: self.enrolment_end(event.reason())?,
                    answer_hash: self.optional_hash(&event.answer_hash)?,
                })
            }
            EventType::AuthenticatorBound => self.authenticator_bound(),
            EventType::TrialRequested => self.trial_requested(),
            EventType::AuthenticatorActivated => {
                let event: stored::AuthenticatorActivated = self.body()?;
                Ok(Event::AuthenticatorActivated {
                    authenticator: self.authenticator(&event.authenticator)?,
                    enrolment: self.enrolment(&event.enrolment)?,
                    answer_hash: self.hash(&event.answer_hash)?,
                })
            }
            EventType::AuthenticatorRevoked => self.authenticator_revoked(),
            EventType::PushTargetReplaced => {
                let (event, data): (stored::PushTargetReplaced, stored::PersonalPushTargetReplaced) =
                    self.both()?;
                Ok(Event::PushTargetReplaced {
                    authenticator: self.authenticator(&event.authenticator)?,
                    push_target: self.push_target(data.push_service(), &data.push_target)?,
                    counter: event.counter,
                })
            }
            EventType::PushTargetDied => {
                let event: stored::PushTargetDied = self.body()?;
                Ok(Event::PushTargetDied {
                    authenticator: self.authenticator(&event.authenticator)?,
                    target_hash: self.hash(&event.target_hash)?,
                    reason: event.reason,
                })
            }
            EventType::ApprovalRequested => self.approval_requested(),
            EventType::ApprovalRefused => self.approval_refused(),
            EventType::ApprovalApproved => {
                let (event, data): (stored::ApprovalApproved, stored::PersonalApprovalApproved) =
                    self.both()?;
                Ok(Event::ApprovalApproved {
                    approval: self.approval(&event.approval)?,
                    answer: self.answer(
                        &event.authenticator,
                        &event.answer_hash,
                        data.payload,
                        data.signature,
                    )?,
                    user_verified: event.user_verified,
                })
            }
            EventType::ApprovalDenied => {
                let (event, data): (stored::ApprovalDenied, stored::PersonalApprovalDenied) = self.both()?;
                Ok(Event::ApprovalDenied {
                    approval: self.approval(&event.approval)?,
                    answer: self.answer(
                        &event.authenticator,
                        &event.answer_hash,
                        data.payload,
                        data.signature,
                    )?,
                    reported: event.reported,
                })
            }
            EventType::NumberWrong => {
                let event: stored::NumberWrong = self.body()?;
                Ok(Event::NumberWrong {
                    approval: self.approval(&event.approval)?,
                    authenticator: self.authenticator(&event.authenticator)?,
                    answer_hash: self.hash(&event.answer_hash)?,
                })
            }
            EventType::ApprovalExpired => {
                let event: stored::ApprovalExpired = self.body()?;
                Ok(Event::ApprovalExpired { approval: self.approval(&event.approval)? })
            }
            EventType::ApprovalCancelled => {
                let event: stored::ApprovalCancelled = self.body()?;
                Ok(Event::ApprovalCancelled {
                    approval: self.approval(&event.approval)?,
                    by: self.relying_party(&event.relying_party)?,
                })
            }
            EventType::ApprovalSuperseded => {
                let event: stored::ApprovalSuperseded = self.body()?;
                Ok(Event::ApprovalSuperseded {
                    approval: self.approval(&event.approval)?,
                    by: self.approval(&event.by)?,
                })
            }
            EventType::PushPaused => {
                let event: stored::PushPaused = self.body()?;
                Ok(Event::PushPaused { until: Timestamp::from_millis(event.until_ms) })
            }
            _ => Err(unknown(self.record)),
        }
    }

    fn enrolment_begun(&self) -> Result<Event, Error> {
        let event: stored::EnrolmentBegun = self.body()?;
        let secret =
            self.open(enrolment_secret(self.decoder.account, &event.enrolment), &event.secret_sealed)?;
        let secret = std::str::from_utf8(&secret).ok().and_then(EnrolmentSecret::from_text);
        let secret = secret.ok_or_else(|| self.malformed("the sealed secret is none"))?;
        Ok(Event::EnrolmentBegun(EnrolmentBegun {
            enrolment: self.enrolment(&event.enrolment)?,
            code: EnrolmentCode::recorded(&event.locator, secret),
            expires_at: Timestamp::from_millis(event.expires_at_ms),
            relying_party: self.relying_party(&event.relying_party)?,
        }))
    }

    fn authenticator_bound(&self) -> Result<Event, Error> {
        let (event, data): (stored::AuthenticatorBound, stored::PersonalAuthenticatorBound) = self.both()?;
        let algorithm = match event.algorithm() {
            stored::Algorithm::Ed25519 => Algorithm::Ed25519,
            stored::Algorithm::Es256 => Algorithm::Es256,
            stored::Algorithm::Unspecified => return Err(self.malformed("algorithm is unknown")),
        };
        Ok(Event::AuthenticatorBound(AuthenticatorBound {
            authenticator: self.authenticator(&event.authenticator)?,
            enrolment: self.enrolment(&event.enrolment)?,
            key: PublicKey::parse(algorithm, &event.public_key)
                .map_err(|_| self.malformed("public_key is no key of its algorithm"))?,
            platform: match event.platform() {
                stored::Platform::Ios => Platform::Ios,
                stored::Platform::Android => Platform::Android,
                stored::Platform::Unspecified => return Err(self.malformed("platform is unknown")),
            },
            device_name: DisplayText::recorded(&data.device_name),
            push_target: self.push_target(data.push_service(), &data.push_target)?,
            claim_hash: self.hash(&event.claim_hash)?,
        }))
    }

    fn trial_requested(&self) -> Result<Event, Error> {
        let (event, data): (stored::TrialRequested, stored::PersonalTrialRequested) = self.both()?;
        let challenge =
            SignedMessage { payload: data.payload, signature: data.signature, key_id: data.key_id };
        Ok(Event::TrialRequested(TrialRequested {
            enrolment: self.enrolment(&event.enrolment)?,
            authenticator: self.authenticator(&event.authenticator)?,
            question: self.question(&event.enrolment, &event.number_sealed, &event.commitment, challenge)?,
            expires_at: Timestamp::from_millis(event.expires_at_ms),
        }))
    }

    fn authenticator_revoked(&self) -> Result<Event, Error> {
        let event: stored::AuthenticatorRevoked = self.body()?;
        let by = match event.by() {
            stored::RevokedBy::Unenrolment => RevokedBy::Unenrolment { counter: event.counter },
            stored::RevokedBy::RelyingParty => {
                RevokedBy::RelyingParty(self.relying_party(&event.relying_party)?)
            }
            stored::RevokedBy::Trial => RevokedBy::Trial,
            stored::RevokedBy::Unspecified => return Err(self.malformed("by is unknown")),
        };
        let authenticator = self.authenticator(&event.authenticator)?;
        Ok(Event::AuthenticatorRevoked { authenticator, by, was_active: event.was_active })
    }

    fn approval_requested(&self) -> Result<Event, Error> {
        let (event, data): (stored::ApprovalRequested, stored::PersonalApprovalRequested) = self.both()?;
        let challenge =
            SignedMessage { payload: data.payload, signature: data.signature, key_id: data.key_id };
        Ok(Event::ApprovalRequested(ApprovalRequested {
            question: self.question(&event.approval, &event.number_sealed, &event.commitment, challenge)?,
            request: Request {
                approval: self.approval(&event.approval)?,
                relying_party: self.relying_party(&event.relying_party)?,
                application: DisplayText::recorded(&event.application),
                context: context(&data.source_ip, &data.place, &data.browser),
                session_binding: event.session_binding,
                idempotency: self.idempotency(&event.idempotency_key_hash, &event.request_hash)?,
                policy: self.policy(event.policy)?,
            },
            expires_at: Timestamp::from_millis(event.expires_at_ms),
            authenticators_addressed: event.authenticators_addressed,
        }))
    }

    fn approval_refused(&self) -> Result<Event, Error> {
        let (event, data): (stored::ApprovalRefused, stored::PersonalApprovalRefused) = self.both()?;
        Ok(Event::ApprovalRefused(ApprovalRefused {
            because: match event.because() {
                stored::RefusedBecause::Unreachable => RefusedBecause::Unreachable,
                stored::RefusedBecause::TooManyWaiting => RefusedBecause::TooManyWaiting,
                stored::RefusedBecause::PushPaused => RefusedBecause::PushPaused,
                stored::RefusedBecause::NumbersExhausted => RefusedBecause::NumbersExhausted,
                stored::RefusedBecause::TooManyRequests => RefusedBecause::TooManyRequests,
                stored::RefusedBecause::Unspecified => return Err(self.malformed("because is unknown")),
            },
            request: Request {
                approval: self.approval(&event.approval)?,
                relying_party: self.relying_party(&event.relying_party)?,
                application: DisplayText::recorded(&event.application),
                context: context(&data.source_ip, &data.place, &data.browser),
                session_binding: event.session_binding,
                idempotency: self.idempotency(&event.idempotency_key_hash, &event.request_hash)?,
                policy: self.policy(event.policy)?,
            },
        }))
    }

    fn question(
        &self,
        id: &[u8],
        number_sealed: &[u8],
        commitment: &[u8],
        challenge: SignedMessage,
    ) -> Result<Question, Error> {
        let plain = self.open(match_number(self.decoder.account, id), number_sealed)?;
        let wrong = || self.malformed("the sealed number is none");
        let plain: &[u8; NUMBER_LENGTH] = plain.as_slice().try_into().map_err(|_| wrong())?;
        let [digits, value @ ..] = plain.first_chunk::<5>().expect("37 bytes begin with 5");
        let number = MatchNumber::new(u32::from_be_bytes(*value), *digits).ok_or_else(wrong)?;
        let salt = Salt::from_bytes(*plain.last_chunk().expect("37 bytes end with 32"));
        Ok(Question { number, salt, commitment: self.hash(commitment)?, challenge })
    }

    fn answer(
        &self,
        authenticator: &[u8],
        hash: &[u8],
        payload: Bytes,
        signature: Bytes,
    ) -> Result<RecordedAnswer, Error> {
        let authenticator = self.authenticator(authenticator)?;
        Ok(RecordedAnswer { authenticator, answer_hash: self.hash(hash)?, payload, signature })
    }

    fn idempotency(&self, key_hash: &[u8], request_hash: &[u8]) -> Result<Option<Idempotency>, Error> {
        let Some(key_hash) = self.optional_hash(key_hash)? else { return Ok(None) };
        Ok(Some(Idempotency { key_hash, request_hash: self.hash(request_hash)? }))
    }

    fn policy(&self, policy: Option<stored::Policy>) -> Result<Policy, Error> {
        let policy = policy.ok_or_else(|| self.malformed("policy is missing"))?;
        Ok(Policy {
            digits: u8::try_from(policy.digits).map_err(|_| self.malformed("digits is out of range"))?,
            lifetime: Duration::from_millis(policy.lifetime_ms),
            waiting_max: policy.waiting_max,
            requests_max: policy.requests_max,
            requests_window: Duration::from_millis(policy.requests_window_ms),
            wrong_numbers_max: policy.wrong_numbers_max,
            wrong_numbers_window: Duration::from_millis(policy.wrong_numbers_window_ms),
            push_pause: Duration::from_millis(policy.push_pause_ms),
        })
    }

    fn push_target(&self, service: stored::PushServiceKind, token: &str) -> Result<PushTarget, Error> {
        let service = match service {
            stored::PushServiceKind::Apns => PushServiceKind::Apns,
            stored::PushServiceKind::Fcm => PushServiceKind::Fcm,
            stored::PushServiceKind::Unspecified => return Err(self.malformed("push_service is unknown")),
        };
        Ok(PushTarget::recorded(service, token))
    }

    fn enrolment_end(&self, reason: stored::EnrolmentEnd) -> Result<EnrolmentEnd, Error> {
        Ok(match reason {
            stored::EnrolmentEnd::CodeRefused => EnrolmentEnd::CodeRefused,
            stored::EnrolmentEnd::Expired => EnrolmentEnd::Expired,
            stored::EnrolmentEnd::WrongNumber => EnrolmentEnd::WrongNumber,
            stored::EnrolmentEnd::Declined => EnrolmentEnd::Declined,
            stored::EnrolmentEnd::Cancelled => EnrolmentEnd::Cancelled,
            stored::EnrolmentEnd::Revoked => EnrolmentEnd::Revoked,
            stored::EnrolmentEnd::Unspecified => return Err(self.malformed("reason is unknown")),
        })
    }

    fn approval(&self, bytes: &[u8]) -> Result<ApprovalId, Error> {
        ApprovalId::from_slice(bytes).map_err(|error| self.no_id(error))
    }

    fn authenticator(&self, bytes: &[u8]) -> Result<AuthenticatorId, Error> {
        AuthenticatorId::from_slice(bytes).map_err(|error| self.no_id(error))
    }

    fn enrolment(&self, bytes: &[u8]) -> Result<EnrolmentId, Error> {
        EnrolmentId::from_slice(bytes).map_err(|error| self.no_id(error))
    }

    fn relying_party(&self, bytes: &[u8]) -> Result<RelyingPartyId, Error> {
        RelyingPartyId::from_slice(bytes).map_err(|error| self.no_id(error))
    }

    fn hash(&self, bytes: &[u8]) -> Result<[u8; 32], Error> {
        bytes.try_into().map_err(|_| self.malformed("a hash is not 32 bytes"))
    }

    fn optional_hash(&self, bytes: &[u8]) -> Result<Option<[u8; 32]>, Error> {
        if bytes.is_empty() { Ok(None) } else { self.hash(bytes).map(Some) }
    }

    fn no_id(&self, error: InvalidId) -> Error {
        self.malformed(error.kind)
    }

    fn malformed(&self, what: &'static str) -> Error {
        Error::Malformed { kind: self.kind, what }
    }

    fn body<M: Message + Default>(&self) -> Result<M, Error> {
        body(self.kind, &self.record.body)
    }

    fn both<M: Message + Default, P: Message + Default>(&self) -> Result<(M, P), Error> {
        let plain = open_personal(self.decoder.sealer, self.decoder.account, self.record)
            .map_err(|error| Error::Sealed { kind: self.kind, error })?;
        let data = P::decode(&plain[..]).map_err(|_| self.malformed("the personal data does not decode"))?;
        Ok((self.body()?, data))
    }

    fn open(&self, place: Place<'_>, sealed: &[u8]) -> Result<zeroize::Zeroizing<Vec<u8>>, Error> {
        self.decoder.sealer.open(place, sealed).map_err(|error| Error::Sealed { kind: self.kind, error })
    }
}

fn context(source_ip: &str, place: &str, browser: &str) -> Context {
    let text = |text: &str| (!text.is_empty()).then(|| DisplayText::recorded(text));
    Context { source_ip: source_ip.parse().ok(), place: text(place), browser: text(browser) }
}
