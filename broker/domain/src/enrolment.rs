//! The binding of one authenticator: a code, a claim, a trial.

use countersign_envelope::EnrolmentCode;

use crate::{
    Account, AuthenticatorId, EnrolmentId, RelyingPartyId, Timestamp,
    answer::VerifiedTrialAnswer,
    claim::VerifiedClaim,
    command::Refusal,
    event::{
        AuthenticatorBound, EnrolmentBegun, EnrolmentEnd, Event, Identity, Question, RevokedBy,
        TrialRequested,
    },
    kept::{kept_fields, kept_variants},
    limits,
    number::{MatchNumber, Resting},
};

/// An enrolment as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    /// Its id.
    pub id: EnrolmentId,
    /// Its code.
    pub code: EnrolmentCode,
    /// When it began.
    pub begun_at: Timestamp,
    /// When it ends by itself.
    pub expires_at: Timestamp,
    /// Who began it.
    pub relying_party: RelyingPartyId,
    /// Wrong secrets so far.
    pub codes_refused: u8,
    /// How far it is.
    pub stage: Stage,
    /// Its time was over, by the clock of an event.
    seen_over: bool,
}

kept_fields!(Enrolment { id, code, begun_at, expires_at, relying_party, codes_refused, stage, seen_over });

/// How far an enrolment is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// The code waits to be used.
    CodeWaits,
    /// A phone is bound and is asked for the number.
    OnTrial {
        /// Which phone.
        authenticator: AuthenticatorId,
        /// What it is asked.
        question: Question,
    },
    /// The authenticator is active.
    Done {
        /// Which.
        authenticator: AuthenticatorId,
        /// SHA-256 of the answer that did it.
        answer_hash: [u8; 32],
    },
    /// It failed.
    Ended {
        /// Why.
        reason: EnrolmentEnd,
        /// SHA-256 of the trial answer that ended it, if one did.
        answer_hash: Option<[u8; 32]>,
    },
}

kept_variants!(Stage {
    1 => CodeWaits,
    2 => OnTrial { authenticator, question },
    3 => Done { authenticator, answer_hash },
    4 => Ended { reason, answer_hash },
});

impl Enrolment {
    pub(crate) fn begun(event: &EnrolmentBegun, at: Timestamp) -> Self {
        Self {
            id: event.enrolment,
            code: event.code.clone(),
            begun_at: at,
            expires_at: event.expires_at,
            relying_party: event.relying_party,
            codes_refused: 0,
            stage: Stage::CodeWaits,
            seen_over: false,
        }
    }

    /// Whether its time is over, whether or not that has been recorded yet; as
    /// [`Approval::is_overdue`](crate::approval::Approval::is_overdue).
    pub fn is_overdue(&self, now: Timestamp) -> bool {
        self.seen_over || self.expires_at <= now || self.begun_at.is_ahead_of(now)
    }

    pub(crate) fn see_clock(&mut self, now: Timestamp) {
        self.seen_over = self.is_live() && self.is_overdue(now);
    }

    /// Whether anything can still come of it.
    pub fn is_live(&self) -> bool {
        matches!(self.stage, Stage::CodeWaits | Stage::OnTrial { .. })
    }

    /// The number that its page shows, while it does.
    pub(crate) fn trial_number(&self) -> Option<MatchNumber> {
        match &self.stage {
            Stage::OnTrial { question, .. } => Some(question.number),
            _ => None,
        }
    }

    /// Whether this very trial answer ended it.
    pub(crate) fn was_ended_by(&self, hash: [u8; 32]) -> bool {
        matches!(self.stage, Stage::Ended { answer_hash: Some(known), .. } if known == hash)
    }
}

pub(crate) fn begin(
    account: &Account,
    identity: &Identity,
    id: EnrolmentId,
    code: &EnrolmentCode,
    relying_party: RelyingPartyId,
    now: Timestamp,
) -> Result<Vec<Event>, Refusal> {
    let mut events = Vec::new();
    if account.identity().is_none() {
        events.push(Event::Opened(identity.clone()));
    }
    let overdue: Vec<_> = account.live_enrolments().filter(|one| one.is_overdue(now)).collect();
    let waiting = account.live_enrolments().count() - overdue.len();
    for one in overdue {
        events.extend(end(one, EnrolmentEnd::Expired, None));
    }
    if waiting >= limits::ENROLMENTS_WAITING_MAX {
        return Err(Refusal::TooManyEnrolments { most: limits::ENROLMENTS_WAITING_MAX });
    }
    room_for_an_authenticator(account)?;
    events.push(Event::EnrolmentBegun(EnrolmentBegun {
        enrolment: id,
        code: code.clone(),
        expires_at: now.plus(limits::ENROLMENT_LIFETIME),
        relying_party,
    }));
    Ok(events)
}

pub(crate) fn complete(
    account: &Account,
    id: EnrolmentId,
    claim: &VerifiedClaim,
    broker_key: &[u8],
    authenticator: AuthenticatorId,
    question: &Question,
    now: Timestamp,
) -> Result<Vec<Event>, Refusal> {
    let enrolment = account.enrolment(id).ok_or(Refusal::UnknownEnrolment)?;
    match &enrolment.stage {
        // The same claim again: its reply was lost on the way.
        Stage::OnTrial { authenticator, .. } if account.bound_by(*authenticator, claim.hash()) => {
            return Ok(vec![]);
        }
        Stage::CodeWaits => {}
        _ => return Err(Refusal::EnrolmentNotWaiting),
    }
    if enrolment.is_overdue(now) {
        return Ok(end(enrolment, EnrolmentEnd::Expired, None));
    }
    // The locator chose the enrolment; one written otherwise is another claim's.
    let meant = claim.locator() == enrolment.code.locator();
    if !meant || !claim.knows_secret(enrolment.code.secret(), broker_key) {
        let mut events = vec![Event::EnrolmentCodeRefused { enrolment: id }];
        if enrolment.codes_refused.saturating_add(1) >= limits::ENROLMENT_CODE_ATTEMPTS {
            events.extend(end(enrolment, EnrolmentEnd::CodeRefused, None));
        }
        return Ok(events);
    }
    room_for_an_authenticator(account)?;
    if account.authenticators().any(|one| one.key == *claim.key()) {
        return Err(Refusal::KeyAlreadyBound);
    }
    if account.number_is_taken(question.number, now) {
        return Err(Refusal::NumberTaken);
    }
    Ok(vec![
        Event::AuthenticatorBound(AuthenticatorBound {
            authenticator,
            enrolment: id,
            key: claim.key().clone(),
            platform: claim.platform(),
            device_name: claim.device_name().clone(),
            push_target: claim.push_target().clone(),
            claim_hash: claim.hash(),
        }),
        Event::TrialRequested(TrialRequested {
            enrolment: id,
            authenticator,
            question: question.clone(),
            expires_at: enrolment.expires_at,
        }),
    ])
}

pub(crate) fn answer_trial(
    account: &Account,
    answer: &VerifiedTrialAnswer,
    now: Timestamp,
) -> Result<Vec<Event>, Refusal> {
    let enrolment = account.enrolment(answer.enrolment()).ok_or(Refusal::UnknownEnrolment)?;
    let hash = answer.hash();
    match &enrolment.stage {
        Stage::OnTrial { authenticator, question } if *authenticator == answer.authenticator() => {
            if enrolment.is_overdue(now) {
                Ok(end(enrolment, EnrolmentEnd::Expired, None))
            } else if answer.declines() {
                Ok(end(enrolment, EnrolmentEnd::Declined, Some(hash)))
            } else if answer.has_number(question.number) {
                let activated = Event::AuthenticatorActivated {
                    authenticator: *authenticator,
                    enrolment: enrolment.id,
                    answer_hash: hash,
                };
                Ok(vec![activated])
            } else {
                Ok(end(enrolment, EnrolmentEnd::WrongNumber, Some(hash)))
            }
        }
        // The same answer again: its reply was lost on the way.
        Stage::Done { answer_hash, .. } if *answer_hash == hash => Ok(vec![]),
        Stage::Ended { .. } if enrolment.was_ended_by(hash) => Ok(vec![]),
        Stage::OnTrial { .. } => Err(Refusal::UnknownAuthenticator),
        _ => Err(Refusal::EnrolmentOver),
    }
}

pub(crate) fn expire(account: &Account, id: EnrolmentId, now: Timestamp) -> Result<Vec<Event>, Refusal> {
    let enrolment = account.enrolment(id).ok_or(Refusal::UnknownEnrolment)?;
    if enrolment.is_live() && enrolment.is_overdue(now) {
        Ok(end(enrolment, EnrolmentEnd::Expired, None))
    } else {
        Ok(vec![])
    }
}

pub(crate) fn cancel(account: &Account, id: EnrolmentId) -> Result<Vec<Event>, Refusal> {
    let enrolment = account.enrolment(id).ok_or(Refusal::UnknownEnrolment)?;
    if enrolment.is_live() { Ok(end(enrolment, EnrolmentEnd::Cancelled, None)) } else { Ok(vec![]) }
}

fn room_for_an_authenticator(account: &Account) -> Result<(), Refusal> {
    if account.authenticators().filter(|one| one.is_bound()).count() >= limits::AUTHENTICATORS_MAX {
        return Err(Refusal::TooManyAuthenticators { most: limits::AUTHENTICATORS_MAX });
    }
    Ok(())
}

/// An enrolment that fails takes the authenticator that was on trial with it.
fn end(enrolment: &Enrolment, reason: EnrolmentEnd, answer_hash: Option<[u8; 32]>) -> Vec<Event> {
    let ended = Event::EnrolmentEnded { enrolment: enrolment.id, reason, answer_hash };
    match enrolment.stage {
        Stage::OnTrial { authenticator, .. } => {
            let by = RevokedBy::Trial;
            vec![ended, Event::AuthenticatorRevoked { authenticator, by, was_active: false }]
        }
        _ => vec![ended],
    }
}

impl Account {
    /// An enrolment that is live or ended lately.
    pub fn enrolment(&self, id: EnrolmentId) -> Option<&Enrolment> {
        self.enrolments.iter().find(|enrolment| enrolment.id == id)
    }

    /// Those that something can still come of.
    pub fn live_enrolments(&self) -> impl Iterator<Item = &Enrolment> {
        self.enrolments.iter().filter(|enrolment| enrolment.is_live())
    }

    fn bound_by(&self, authenticator: AuthenticatorId, claim_hash: [u8; 32]) -> bool {
        self.authenticator(authenticator).is_some_and(|one| one.claim_hash == claim_hash)
    }

    pub(crate) fn change_enrolment(&mut self, id: EnrolmentId, change: impl FnOnce(&mut Enrolment)) {
        if let Some(enrolment) = self.enrolments.iter_mut().find(|one| one.id == id) {
            change(enrolment);
        }
    }

    /// The number that its page showed is not live any more.
    pub(crate) fn end_enrolment(&mut self, id: EnrolmentId, stage: Stage, at: Timestamp) {
        let number = self.enrolment(id).and_then(Enrolment::trial_number);
        self.change_enrolment(id, |one| one.stage = stage);
        if let Some(number) = number {
            self.rest(Resting { number, since: at, of_trial: true });
        }
    }

    pub(crate) fn forget_old_enrolments(&mut self) {
        let ended = self.enrolments.iter().filter(|one| !one.is_live()).count();
        let mut excess = ended.saturating_sub(limits::ENROLMENTS_ENDED_KEPT);
        self.enrolments.retain(|one| {
            let forget = excess > 0 && !one.is_live();
            excess -= usize::from(forget);
            !forget
        });
    }
}
