//! An event of an account, to store.

use bytes::Bytes;
use countersign_domain::{
    AccountId, Event,
    event::{
        ApprovalRefused, ApprovalRequested, AuthenticatorBound, Context, EnrolmentBegun, EnrolmentEnd,
        Platform, PushServiceKind, Question, RecordedAnswer, RefusedBecause, RevokedBy, TrialRequested,
    },
    policy::Policy,
    text::DisplayText,
};
use countersign_envelope::Algorithm;
use countersign_proto::event::v1::{self as stored, EventType};
use prost::Message;
use zeroize::Zeroizing;

use super::{NUMBER_LENGTH, enrolment_secret, event_bytes, match_number, personal};
use crate::{
    decider::codec::record,
    entropy::Entropy,
    keys::{Sealer, seal::Place},
    log::EventRecord,
};

pub(super) struct Encoder<'a> {
    pub(super) sealer: &'a Sealer,
    pub(super) entropy: &'a dyn Entropy,
    pub(super) account: AccountId,
}

impl Encoder<'_> {
    pub(super) fn event(&self, event: &Event) -> EventRecord {
        match event {
            Event::Opened(identity) => self.with_personal(
                EventType::AccountOpened,
                &stored::AccountOpened { realm: identity.realm.to_string() },
                &stored::PersonalAccountOpened { name: identity.name.to_string() },
            ),
            Event::EnrolmentBegun(begun) => self.enrolment_begun(begun),
            Event::EnrolmentCodeRefused { enrolment } => record(
                EventType::EnrolmentCodeRefused,
                &stored::EnrolmentCodeRefused { enrolment: copy(enrolment.as_bytes()) },
            ),
            Event::EnrolmentEnded { enrolment, reason, answer_hash } => record(
                EventType::EnrolmentEnded,
                &stored::EnrolmentEnded {
                    enrolment: copy(enrolment.as_bytes()),
                    reason: enrolment_end(*reason).into(),
                    answer_hash: answer_hash.map(|hash| copy(&hash)).unwrap_or_default(),
                },
            ),
            Event::AuthenticatorBound(bound) => self.authenticator_bound(bound),
            Event::TrialRequested(trial) => self.trial_requested(trial),
            Event::AuthenticatorActivated { authenticator, enrolment, answer_hash } => record(
                EventType::AuthenticatorActivated,
                &stored::AuthenticatorActivated {
                    authenticator: copy(authenticator.as_bytes()),
                    enrolment: copy(enrolment.as_bytes()),
                    answer_hash: copy(answer_hash),
                },
            ),
            Event::AuthenticatorRevoked { authenticator, by, was_active } => {
                let mut event = revoked_by(*by);
                event.authenticator = copy(authenticator.as_bytes());
                event.was_active = *was_active;
                record(EventType::AuthenticatorRevoked, &event)
            }
            Event::PushTargetReplaced { authenticator, push_target, counter } => self.with_personal(
                EventType::PushTargetReplaced,
                &stored::PushTargetReplaced {
                    authenticator: copy(authenticator.as_bytes()),
                    counter: *counter,
                },
                &stored::PersonalPushTargetReplaced {
                    push_service: push_service(push_target.service()).into(),
                    push_target: push_target.token().to_owned(),
                },
            ),
            Event::PushTargetDied { authenticator, target_hash, reason } => record(
                EventType::PushTargetDied,
                &stored::PushTargetDied {
                    authenticator: copy(authenticator.as_bytes()),
                    target_hash: copy(target_hash),
                    reason: reason.clone(),
                },
            ),
            Event::ApprovalRequested(requested) => self.approval_requested(requested),
            Event::ApprovalRefused(refused) => self.approval_refused(refused),
            Event::ApprovalApproved { approval, answer, user_verified } => self.with_personal(
                EventType::ApprovalApproved,
                &stored::ApprovalApproved {
                    approval: copy(approval.as_bytes()),
                    authenticator: copy(answer.authenticator.as_bytes()),
                    answer_hash: copy(&answer.answer_hash),
                    user_verified: *user_verified,
                },
                &signed_answer(answer),
            ),
            Event::ApprovalDenied { approval, answer, reported } => self.with_personal(
                EventType::ApprovalDenied,
                &stored::ApprovalDenied {
                    approval: copy(approval.as_bytes()),
                    authenticator: copy(answer.authenticator.as_bytes()),
                    answer_hash: copy(&answer.answer_hash),
                    reported: *reported,
                },
                &signed_answer(answer),
            ),
            Event::NumberWrong { approval, authenticator, answer_hash } => record(
                EventType::NumberWrong,
                &stored::NumberWrong {
                    approval: copy(approval.as_bytes()),
                    authenticator: copy(authenticator.as_bytes()),
                    answer_hash: copy(answer_hash),
                },
            ),
            Event::ApprovalExpired { approval } => record(
                EventType::ApprovalExpired,
                &stored::ApprovalExpired { approval: copy(approval.as_bytes()) },
            ),
            Event::ApprovalCancelled { approval, by } => record(
                EventType::ApprovalCancelled,
                &stored::ApprovalCancelled {
                    approval: copy(approval.as_bytes()),
                    relying_party: copy(by.as_bytes()),
                },
            ),
            Event::ApprovalSuperseded { approval, by } => record(
                EventType::ApprovalSuperseded,
                &stored::ApprovalSuperseded { approval: copy(approval.as_bytes()), by: copy(by.as_bytes()) },
            ),
            Event::PushPaused { until } => {
                record(EventType::PushPaused, &stored::PushPaused { until_ms: until.as_millis() })
            }
        }
    }

    fn enrolment_begun(&self, begun: &EnrolmentBegun) -> EventRecord {
        let id = begun.enrolment.as_bytes();
        let secret = begun.code.secret().expose().as_bytes();
        record(
            EventType::EnrolmentBegun,
            &stored::EnrolmentBegun {
                enrolment: copy(id),
                locator: begun.code.locator().to_owned(),
                secret_sealed: self.seal(enrolment_secret(self.account, id), secret),
                expires_at_ms: begun.expires_at.as_millis(),
                relying_party: copy(begun.relying_party.as_bytes()),
            },
        )
    }

    fn authenticator_bound(&self, bound: &AuthenticatorBound) -> EventRecord {
        self.with_personal(
            EventType::AuthenticatorBound,
            &stored::AuthenticatorBound {
                authenticator: copy(bound.authenticator.as_bytes()),
                enrolment: copy(bound.enrolment.as_bytes()),
                algorithm: match bound.key.algorithm() {
                    Algorithm::Ed25519 => stored::Algorithm::Ed25519,
                    Algorithm::Es256 => stored::Algorithm::Es256,
                }
                .into(),
                public_key: copy(bound.key.as_bytes()),
                platform: match bound.platform {
                    Platform::Ios => stored::Platform::Ios,
                    Platform::Android => stored::Platform::Android,
                }
                .into(),
                claim_hash: copy(&bound.claim_hash),
            },
            &stored::PersonalAuthenticatorBound {
                device_name: bound.device_name.to_string(),
                push_service: push_service(bound.push_target.service()).into(),
                push_target: bound.push_target.token().to_owned(),
            },
        )
    }

    fn trial_requested(&self, trial: &TrialRequested) -> EventRecord {
        let id = trial.enrolment.as_bytes();
        self.with_personal(
            EventType::TrialRequested,
            &stored::TrialRequested {
                enrolment: copy(id),
                authenticator: copy(trial.authenticator.as_bytes()),
                number_sealed: self.number(&trial.question, id),
                commitment: copy(&trial.question.commitment),
                expires_at_ms: trial.expires_at.as_millis(),
            },
            &stored::PersonalTrialRequested {
                payload: trial.question.challenge.payload.clone(),
                signature: trial.question.challenge.signature.clone(),
                key_id: trial.question.challenge.key_id.clone(),
            },
        )
    }

    fn approval_requested(&self, requested: &ApprovalRequested) -> EventRecord {
        let request = &requested.request;
        let challenge = &requested.question.challenge;
        let id = request.approval.as_bytes();
        self.with_personal(
            EventType::ApprovalRequested,
            &stored::ApprovalRequested {
                approval: copy(id),
                relying_party: copy(request.relying_party.as_bytes()),
                application: request.application.to_string(),
                number_sealed: self.number(&requested.question, id),
                commitment: copy(&requested.question.commitment),
                session_binding: request.session_binding.clone(),
                idempotency_key_hash: hash(request.idempotency.as_ref().map(|known| &known.key_hash)),
                request_hash: hash(request.idempotency.as_ref().map(|known| &known.request_hash)),
                expires_at_ms: requested.expires_at.as_millis(),
                policy: Some(policy(&request.policy)),
                authenticators_addressed: requested.authenticators_addressed,
            },
            &stored::PersonalApprovalRequested {
                source_ip: source_ip(&request.context),
                place: text(request.context.place.as_ref()),
                browser: text(request.context.browser.as_ref()),
                payload: challenge.payload.clone(),
                signature: challenge.signature.clone(),
                key_id: challenge.key_id.clone(),
            },
        )
    }

    fn approval_refused(&self, refused: &ApprovalRefused) -> EventRecord {
        let request = &refused.request;
        self.with_personal(
            EventType::ApprovalRefused,
            &stored::ApprovalRefused {
                approval: copy(request.approval.as_bytes()),
                relying_party: copy(request.relying_party.as_bytes()),
                application: request.application.to_string(),
                because: match refused.because {
                    RefusedBecause::Unreachable => stored::RefusedBecause::Unreachable,
                    RefusedBecause::TooManyWaiting => stored::RefusedBecause::TooManyWaiting,
                    RefusedBecause::PushPaused => stored::RefusedBecause::PushPaused,
                    RefusedBecause::NumbersExhausted => stored::RefusedBecause::NumbersExhausted,
                    RefusedBecause::TooManyRequests => stored::RefusedBecause::TooManyRequests,
                }
                .into(),
                session_binding: request.session_binding.clone(),
                idempotency_key_hash: hash(request.idempotency.as_ref().map(|known| &known.key_hash)),
                request_hash: hash(request.idempotency.as_ref().map(|known| &known.request_hash)),
                policy: Some(policy(&request.policy)),
            },
            &stored::PersonalApprovalRefused {
                source_ip: source_ip(&request.context),
                place: text(request.context.place.as_ref()),
                browser: text(request.context.browser.as_ref()),
            },
        )
    }

    fn number(&self, question: &Question, id: &[u8]) -> Bytes {
        let mut plain = Zeroizing::new(Vec::with_capacity(NUMBER_LENGTH));
        plain.push(question.number.digits());
        plain.extend_from_slice(&question.number.value().to_be_bytes());
        plain.extend_from_slice(question.salt.expose());
        self.seal(match_number(self.account, id), &plain)
    }

    fn with_personal(&self, kind: EventType, body: &impl Message, data: &impl Message) -> EventRecord {
        let plain = Zeroizing::new(data.encode_to_vec());
        let record = record(kind, body);
        let sealed = self.seal(personal(self.account, &event_bytes(&record)), &plain);
        EventRecord { sealed, ..record }
    }

    fn seal(&self, place: Place<'_>, plain: &[u8]) -> Bytes {
        self.sealer.seal(place, plain, self.entropy)
    }
}

fn copy(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn hash(hash: Option<&[u8; 32]>) -> Bytes {
    hash.map(|hash| copy(hash)).unwrap_or_default()
}

fn text(text: Option<&DisplayText>) -> String {
    text.map(ToString::to_string).unwrap_or_default()
}

fn source_ip(context: &Context) -> String {
    context.source_ip.map(|address| address.to_string()).unwrap_or_default()
}

/// Approvals and denials keep the same: what the phone signed.
fn signed_answer(answer: &RecordedAnswer) -> stored::PersonalApprovalApproved {
    stored::PersonalApprovalApproved { payload: answer.payload.clone(), signature: answer.signature.clone() }
}

fn push_service(service: PushServiceKind) -> stored::PushServiceKind {
    match service {
        PushServiceKind::Apns => stored::PushServiceKind::Apns,
        PushServiceKind::Fcm => stored::PushServiceKind::Fcm,
    }
}

fn enrolment_end(reason: EnrolmentEnd) -> stored::EnrolmentEnd {
    match reason {
        EnrolmentEnd::CodeRefused => stored::EnrolmentEnd::CodeRefused,
        EnrolmentEnd::Expired => stored::EnrolmentEnd::Expired,
        EnrolmentEnd::WrongNumber => stored::EnrolmentEnd::WrongNumber,
        EnrolmentEnd::Declined => stored::EnrolmentEnd::Declined,
        EnrolmentEnd::Cancelled => stored::EnrolmentEnd::Cancelled,
        EnrolmentEnd::Revoked => stored::EnrolmentEnd::Revoked,
    }
}

fn revoked_by(by: RevokedBy) -> stored::AuthenticatorRevoked {
    let mut event = stored::AuthenticatorRevoked::default();
    match by {
        RevokedBy::Unenrolment { counter } => {
            event.set_by(stored::RevokedBy::Unenrolment);
            event.counter = counter;
        }
        RevokedBy::RelyingParty(id) => {
            event.set_by(stored::RevokedBy::RelyingParty);
            event.relying_party = copy(id.as_bytes());
        }
        RevokedBy::Trial => event.set_by(stored::RevokedBy::Trial),
    }
    event
}

fn policy(policy: &Policy) -> stored::Policy {
    let millis = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    stored::Policy {
        digits: policy.digits.into(),
        lifetime_ms: millis(policy.lifetime),
        waiting_max: policy.waiting_max,
        requests_max: policy.requests_max,
        requests_window_ms: millis(policy.requests_window),
        wrong_numbers_max: policy.wrong_numbers_max,
        wrong_numbers_window_ms: millis(policy.wrong_numbers_window),
        push_pause_ms: millis(policy.push_pause),
    }
}
