//! An account: its authenticators, its enrolments, its approvals, and what happened lately. `decide` and `evolve`
//! hand on to the room of the entity; `react` says what is to be done about an event.

use std::sync::Arc;

use crate::{
    Aggregate, ApprovalId, AuthenticatorId, Command, EnrolmentId, Event, Timestamp,
    approval::{self, Answered, Approval, Ending, Outcome},
    authenticator::{self, Authenticator, State},
    command::Refusal,
    enrolment::{self, Enrolment, Stage},
    event::{Identity, RecordedAnswer, RevokedBy},
    idempotency::Keys,
    kept::kept_fields,
    number::Resting,
    throttle::Throttle,
};

/// The state of an account.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    identity: Option<Identity>,
    pub(crate) authenticators: Vec<Authenticator>,
    pub(crate) enrolments: Vec<Enrolment>,
    /// Shared with the states before this one: most of them have ended, and change no more.
    pub(crate) approvals: Vec<Arc<Approval>>,
    /// Numbers that were live in the last minutes: they rest before they are shown again.
    pub(crate) numbers: Vec<Resting>,
    pub(crate) keys: Keys,
    throttle: Throttle,
}

kept_fields!(Account { identity, authenticators, enrolments, approvals, numbers, keys, throttle });

/// What is to be done about an event, once it is durable. Doing it twice does no harm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send the challenge to the account's phones.
    PushChallenge(ApprovalId),
    /// Send the trial to the phone that is being enrolled.
    PushTrial(EnrolmentId),
    /// End the approval if nothing else has by then.
    ExpireApproval(ApprovalId, Timestamp),
    /// End the enrolment if nothing else has by then.
    ExpireEnrolment(EnrolmentId, Timestamp),
    /// Replace what the phones show of an approval that has ended, except on the phone that ended it.
    ReplaceShown(ApprovalId, Option<AuthenticatorId>),
    /// Tell the account's other phones of an authenticator that came or went.
    PushNotice(AuthenticatorId),
}

impl Account {
    /// Who it is; none while nobody has begun to enrol it.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// What happened lately, as far as it forbids something.
    pub fn throttle(&self) -> &Throttle {
        &self.throttle
    }
}

impl Aggregate for Account {
    type Command = Command;
    type Event = Event;
    type Refusal = Refusal;

    fn decide(&self, command: &Command, now: Timestamp) -> Result<Vec<Event>, Refusal> {
        match command {
            Command::BeginEnrolment { identity, enrolment, code, relying_party } => {
                enrolment::begin(self, identity, *enrolment, code, *relying_party, now)
            }
            Command::CompleteEnrolment { enrolment, claim, broker_key, authenticator, question } => {
                enrolment::complete(self, *enrolment, claim, broker_key, *authenticator, question, now)
            }
            Command::AnswerTrial(answer) => enrolment::answer_trial(self, answer, now),
            Command::ExpireEnrolment(id) => enrolment::expire(self, *id, now),
            Command::CancelEnrolment(id) => enrolment::cancel(self, *id),
            Command::RevokeAuthenticator { authenticator, relying_party } => {
                authenticator::revoke(self, *authenticator, *relying_party)
            }
            Command::Unenrol(call) => authenticator::unenrol(self, call),
            Command::ReplacePushTarget(call) => authenticator::replace_push_target(self, call, now),
            Command::RecordDeadTarget { authenticator, target_hash, dead_since, reason } => {
                authenticator::record_dead_target(self, *authenticator, *target_hash, *dead_since, reason)
            }
            Command::RequestApproval { request, question } => {
                approval::request(self, request, question.as_ref(), now)
            }
            Command::SubmitAnswer(answer) => approval::answer(self, answer, now),
            Command::ExpireApproval(id) => approval::expire(self, *id, now),
            Command::CancelApproval { approval, relying_party } => {
                approval::cancel(self, *approval, *relying_party, now)
            }
        }
    }

    fn evolve(&mut self, event: &Event, at: Timestamp) {
        self.see_clock(at);
        match event {
            Event::Opened(identity) => self.identity = Some(identity.clone()),
            Event::EnrolmentBegun(begun) => {
                self.enrolments.push(Enrolment::begun(begun, at));
                self.forget_old_enrolments();
            }
            Event::EnrolmentCodeRefused { enrolment } => {
                self.change_enrolment(*enrolment, |one| {
                    one.codes_refused = one.codes_refused.saturating_add(1);
                });
            }
            Event::EnrolmentEnded { enrolment, reason, answer_hash } => {
                let ended = Stage::Ended { reason: *reason, answer_hash: *answer_hash };
                self.end_enrolment(*enrolment, ended, at);
            }
            Event::AuthenticatorBound(bound) => self.authenticators.push(Authenticator::bound(bound, at)),
            Event::TrialRequested(trial) => {
                let question = trial.question.clone();
                let stage = Stage::OnTrial { authenticator: trial.authenticator, question };
                self.change_enrolment(trial.enrolment, |one| one.stage = stage);
            }
            Event::AuthenticatorActivated { authenticator, enrolment, answer_hash } => {
                let done = Stage::Done { authenticator: *authenticator, answer_hash: *answer_hash };
                self.end_enrolment(*enrolment, done, at);
                self.change_authenticator(*authenticator, |one| one.state = State::Active { since: at });
            }
            Event::AuthenticatorRevoked { authenticator, by, .. } => self.revoke(*authenticator, *by, at),
            Event::PushTargetReplaced { authenticator, push_target, counter } => {
                self.change_authenticator(*authenticator, |one| one.move_to(push_target, *counter, at));
            }
            Event::PushTargetDied { authenticator, .. } => {
                self.change_authenticator(*authenticator, |one| one.push_target_dead = true);
            }
            Event::ApprovalRequested(requested) => {
                self.throttle.request(at);
                let addressed = self.active_authenticators().map(|one| one.id).collect();
                self.remember_approval(Approval::requested(requested, addressed, at), at);
            }
            Event::ApprovalRefused(refused) => {
                self.throttle.refusal(at);
                self.remember_approval(Approval::refused(refused, at), at);
            }
            Event::ApprovalApproved { approval, answer, user_verified } => {
                let outcome = Outcome::Approved { user_verified: *user_verified };
                self.answered(*approval, outcome, answer.into(), at);
            }
            Event::ApprovalDenied { approval, answer, reported } => {
                let outcome = if *reported { Outcome::Reported } else { Outcome::Denied };
                self.answered(*approval, outcome, answer.into(), at);
            }
            Event::NumberWrong { approval, authenticator, answer_hash } => {
                self.throttle.wrong_number(at);
                self.answered(*approval, Outcome::WrongNumber, (*authenticator, *answer_hash), at);
            }
            Event::ApprovalExpired { approval } => self.end_without_answer(*approval, Outcome::Expired, at),
            Event::ApprovalCancelled { approval, .. } => {
                self.end_without_answer(*approval, Outcome::Cancelled, at);
            }
            Event::ApprovalSuperseded { approval, .. } => {
                self.end_without_answer(*approval, Outcome::Superseded, at);
            }
            Event::PushPaused { until } => self.throttle.pause(at, *until),
        }
    }
}

impl Account {
    /// What the clock says as an event is recorded. What is over by it stays over, although the clock may be set back
    /// afterwards; and what lies ahead of it was recorded by a clock that has been set right.
    fn see_clock(&mut self, now: Timestamp) {
        for approval in &mut self.approvals {
            Approval::see_clock(approval, now);
        }
        for enrolment in &mut self.enrolments {
            enrolment.see_clock(now);
        }
        for authenticator in &mut self.authenticators {
            authenticator.push_target_changes.retain(|at| !at.is_ahead_of(now));
        }
        for number in &mut self.numbers {
            number.since = number.since.settled(now);
        }
        self.keys.see_clock(now);
        self.throttle.forget_ahead_of(now);
    }

    fn revoke(&mut self, authenticator: AuthenticatorId, by: RevokedBy, at: Timestamp) {
        self.change_authenticator(authenticator, |one| {
            one.state = State::Revoked { at, was_active: one.is_active() };
            if let RevokedBy::Unenrolment { counter } = by {
                one.counter = counter;
            }
        });
        self.forget_old_authenticators();
    }

    fn answered(
        &mut self,
        approval: ApprovalId,
        outcome: Outcome,
        (authenticator, answer_hash): (AuthenticatorId, [u8; 32]),
        at: Timestamp,
    ) {
        let bound_at = self.authenticator(authenticator).map_or(at, |one| one.bound_at);
        let answer = Some(Answered { authenticator, bound_at, answer_hash });
        self.end_approval(approval, Ending { outcome, at, answer });
        self.change_authenticator(authenticator, |one| one.last_used_at = Some(at));
    }

    fn end_without_answer(&mut self, approval: ApprovalId, outcome: Outcome, at: Timestamp) {
        self.end_approval(approval, Ending { outcome, at, answer: None });
    }
}

impl From<&RecordedAnswer> for (AuthenticatorId, [u8; 32]) {
    fn from(answer: &RecordedAnswer) -> Self {
        (answer.authenticator, answer.answer_hash)
    }
}

/// What is to be done about an event of an account.
pub fn react(event: &Event) -> Vec<Effect> {
    match event {
        Event::EnrolmentBegun(begun) => vec![Effect::ExpireEnrolment(begun.enrolment, begun.expires_at)],
        Event::TrialRequested(trial) => vec![Effect::PushTrial(trial.enrolment)],
        Event::AuthenticatorActivated { authenticator, .. } => vec![Effect::PushNotice(*authenticator)],
        Event::AuthenticatorRevoked { authenticator, was_active: true, .. } => {
            vec![Effect::PushNotice(*authenticator)]
        }
        // A phone that has not passed its trial was never announced.
        Event::AuthenticatorRevoked { was_active: false, .. } => vec![],
        Event::ApprovalRequested(requested) => {
            let id = requested.request.approval;
            vec![Effect::PushChallenge(id), Effect::ExpireApproval(id, requested.expires_at)]
        }
        Event::ApprovalApproved { approval, answer, .. } | Event::ApprovalDenied { approval, answer, .. } => {
            vec![Effect::ReplaceShown(*approval, Some(answer.authenticator))]
        }
        Event::NumberWrong { approval, authenticator, .. } => {
            vec![Effect::ReplaceShown(*approval, Some(*authenticator))]
        }
        Event::ApprovalExpired { approval }
        | Event::ApprovalCancelled { approval, .. }
        | Event::ApprovalSuperseded { approval, .. } => vec![Effect::ReplaceShown(*approval, None)],
        Event::Opened(_)
        | Event::EnrolmentCodeRefused { .. }
        | Event::EnrolmentEnded { .. }
        | Event::AuthenticatorBound(_)
        | Event::PushTargetReplaced { .. }
        | Event::PushTargetDied { .. }
        | Event::ApprovalRefused(_)
        | Event::PushPaused { .. } => vec![],
    }
}
