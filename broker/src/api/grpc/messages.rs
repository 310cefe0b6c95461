//! The domain's words as messages.

use countersign_domain::{
    Timestamp,
    approval::{Approval, Ending, Outcome},
    authenticator::{Authenticator, State},
    challenge::timestamp,
    event::{EnrolmentEnd, Platform, RefusedBecause},
    limits,
};
use countersign_envelope::Algorithm;
use countersign_proto::v1;

use crate::{
    decider::codec::delivery::{Delivery, DeliveryStep},
    enrol::watch,
    signin::wait::{Step, Update},
};

pub(super) fn update(update: Update) -> v1::ApprovalUpdate {
    use v1::approval_update::Update as Kind;
    let kind = match update.step {
        Step::Issued(approval) => issued(&approval).map(Kind::Issued),
        Step::Progress(delivery) => Some(Kind::Progress(progress(delivery))),
        Step::Ended(approval, ending) => Some(Kind::Outcome(outcome(&approval, &ending))),
    };
    v1::ApprovalUpdate { sequence: update.sequence, at: Some(timestamp(update.at)), update: kind }
}

pub(super) fn issued(approval: &Approval) -> Option<v1::Issued> {
    let issued = approval.issued.as_ref()?;
    Some(v1::Issued {
        approval_id: approval.id.to_string(),
        match_number: issued.number.to_text(),
        expires_at: Some(timestamp(issued.expires_at)),
        authenticators_addressed: issued.authenticators_addressed,
    })
}

fn progress(delivery: Delivery) -> v1::Progress {
    use v1::progress::Kind;
    let (kind, reason) = match delivery.step {
        DeliveryStep::Accepted { .. } => (Kind::AcceptedByPushService, String::new()),
        DeliveryStep::Failed { reason } => (Kind::PushFailed, reason),
        DeliveryStep::Delayed { reason } => (Kind::PushDelayed, reason),
        DeliveryStep::Delivered => (Kind::Delivered, String::new()),
        DeliveryStep::Opened => (Kind::Opened, String::new()),
    };
    v1::Progress { kind: kind.into(), authenticator_id: delivery.authenticator.to_string(), reason }
}

pub(super) fn outcome(approval: &Approval, ending: &Ending) -> v1::Outcome {
    let answer = ending.answer.as_ref();
    let (user_verified, approved) = match ending.outcome {
        Outcome::Approved { user_verified } => (user_verified, true),
        _ => (false, false),
    };
    v1::Outcome {
        kind: outcome_kind(ending.outcome).into(),
        approval_id: approval.id.to_string(),
        authenticator_id: answer.map(|one| one.authenticator.to_string()).unwrap_or_default(),
        authenticator_bound_at: answer.map(|one| timestamp(one.bound_at)),
        decided_at: Some(timestamp(ending.at)),
        amr: if approved { amr(user_verified) } else { Vec::new() },
        phishing_resistant: false,
        session_binding: approval.session_binding.clone(),
        valid_until: approved.then(|| timestamp(ending.at.plus(limits::OUTCOME_VALID))),
        refusal_reason: refusal_reason(ending.outcome).into(),
        user_verified,
    }
}

/// RFC 8176: a second channel, a key that was proved, a person who was there; and more than one factor where the phone
/// checked the person too.
fn amr(user_verified: bool) -> Vec<String> {
    let mut methods = vec!["mca", "pop", "user"];
    if user_verified {
        methods.push("mfa");
    }
    methods.into_iter().map(str::to_owned).collect()
}

pub(super) fn outcome_kind(outcome: Outcome) -> v1::OutcomeKind {
    match outcome {
        Outcome::Approved { .. } => v1::OutcomeKind::Approved,
        Outcome::Denied => v1::OutcomeKind::Denied,
        Outcome::Reported => v1::OutcomeKind::Reported,
        Outcome::WrongNumber => v1::OutcomeKind::WrongNumber,
        Outcome::Expired => v1::OutcomeKind::Expired,
        Outcome::Cancelled => v1::OutcomeKind::Cancelled,
        Outcome::Superseded => v1::OutcomeKind::Superseded,
        Outcome::Refused(RefusedBecause::Unreachable) => v1::OutcomeKind::Unreachable,
        Outcome::Refused(_) => v1::OutcomeKind::Refused,
    }
}

fn refusal_reason(outcome: Outcome) -> v1::RefusalReason {
    match outcome {
        Outcome::Refused(RefusedBecause::TooManyWaiting) => v1::RefusalReason::TooManyWaiting,
        Outcome::Refused(RefusedBecause::PushPaused) => v1::RefusalReason::PushPaused,
        Outcome::Refused(RefusedBecause::NumbersExhausted) => v1::RefusalReason::NumbersExhausted,
        Outcome::Refused(RefusedBecause::TooManyRequests) => v1::RefusalReason::TooManyRequests,
        _ => v1::RefusalReason::Unspecified,
    }
}

pub(super) fn enrolment_update(update: watch::Update) -> v1::EnrolmentUpdate {
    use v1::enrolment_update::{Active, Begun, CodeRefused, Ended, Trial, Update as Kind};
    let kind = match update.step {
        watch::Step::Begun { expires_at } => Kind::Begun(Begun { expires_at: Some(timestamp(expires_at)) }),
        watch::Step::CodeRefused { attempts_left } => {
            Kind::CodeRefused(CodeRefused { attempts_left: attempts_left.into() })
        }
        watch::Step::Trial { authenticator, device_name, platform: runs, number, expires_at } => {
            Kind::Trial(Trial {
                authenticator_id: authenticator.to_string(),
                device_name: device_name.to_string(),
                platform: platform(runs).into(),
                match_number: number.to_text(),
                expires_at: Some(timestamp(expires_at)),
            })
        }
        watch::Step::Active { authenticator } => {
            Kind::Active(Active { authenticator_id: authenticator.to_string() })
        }
        watch::Step::Ended { reason } => Kind::Ended(Ended { reason: enrolment_end(reason).into() }),
    };
    v1::EnrolmentUpdate { sequence: update.sequence, at: Some(timestamp(update.at)), update: Some(kind) }
}

pub(super) fn authenticator(one: &Authenticator) -> v1::Authenticator {
    use v1::authenticator::State as Shown;
    v1::Authenticator {
        authenticator_id: one.id.to_string(),
        device_name: one.device_name.to_string(),
        platform: platform(one.platform).into(),
        algorithm: match one.key.algorithm() {
            Algorithm::Ed25519 => v1::SignatureAlgorithm::Ed25519,
            Algorithm::Es256 => v1::SignatureAlgorithm::Es256,
        }
        .into(),
        state: match one.state {
            State::OnTrial => Shown::OnTrial,
            State::Active { .. } => Shown::Active,
            State::Revoked { .. } => Shown::Revoked,
        }
        .into(),
        bound_at: Some(timestamp(one.bound_at)),
        last_used_at: one.last_used_at.map(timestamp),
        push_target_alive: !one.push_target_dead,
    }
}

pub(super) fn millis(at: u64) -> prost_types::Timestamp {
    timestamp(Timestamp::from_millis(at))
}

fn platform(platform: Platform) -> v1::Platform {
    match platform {
        Platform::Ios => v1::Platform::Ios,
        Platform::Android => v1::Platform::Android,
    }
}

fn enrolment_end(reason: EnrolmentEnd) -> v1::EnrolmentEnd {
    match reason {
        EnrolmentEnd::CodeRefused => v1::EnrolmentEnd::CodeRefused,
        EnrolmentEnd::Expired => v1::EnrolmentEnd::Expired,
        EnrolmentEnd::WrongNumber => v1::EnrolmentEnd::WrongNumber,
        EnrolmentEnd::Declined => v1::EnrolmentEnd::Declined,
        EnrolmentEnd::Cancelled => v1::EnrolmentEnd::Cancelled,
        EnrolmentEnd::Revoked => v1::EnrolmentEnd::Revoked,
    }
}
