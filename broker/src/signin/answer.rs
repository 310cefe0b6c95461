//! A phone lists what waits, fetches a challenge, and answers. What it sends is checked in the order that the design
//! gives: signature, binding, live and in time, number.

use std::sync::Arc;

use countersign_domain::{
    Account, ApprovalId, AuthenticatorId, Command, EnrolmentId, Timestamp,
    answer::{VerifiedAnswer, VerifiedTrialAnswer},
    approval::{Ending, Outcome},
    authenticator::{Authenticator, State},
    call::{self, VerifiedRead, claimed_authenticator},
    command::Refusal,
    enrolment::Stage,
    event::{EnrolmentEnd, SignedMessage},
    limits,
};
use countersign_envelope::payload_type;
use countersign_proto::v1;
use prost::Message;
use tracing::{Instrument as _, field, info_span};

use super::{Error, SignIn, to_its_end::to_its_end};
use crate::{
    decider::codec::delivery::{self, Delivery, DeliveryStep, Subject},
    log::{Append, Expected, Urgency},
    telemetry::{
        Stopwatch,
        metrics::{labels, metrics},
        traces::{self, STORY},
    },
};

/// What waits for a phone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Challenges, oldest first.
    pub challenges: Vec<SignedMessage>,
    /// The phone's own trial.
    pub trial: Option<SignedMessage>,
    /// What happened to the account lately.
    pub notices: Vec<SignedMessage>,
}

/// One challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The challenge.
    pub challenge: SignedMessage,
    /// What it is, for its envelope.
    pub payload_type: &'static str,
    /// How many approvals of the account wait. A phone on trial is told of none.
    pub waiting: usize,
}

/// What an answer made of what it answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    /// An approval ended so.
    Approval(Outcome),
    /// The authenticator is active.
    TrialPassed,
    /// The enrolment has ended so.
    TrialFailed(EnrolmentEnd),
}

impl SignIn {
    /// What waits for this phone.
    pub async fn list_waiting(&self, envelope: &v1::Envelope) -> Result<Waiting, Error> {
        let account = self.account_of(envelope).await?;
        let read = VerifiedRead::list_waiting(&account, self.keys.broker_id(), envelope)?;
        let (phone, now) = self.reader(&account, &read)?;
        let asked = account.live_approvals().filter(|one| !one.is_overdue(now) && phone.may_answer(one));
        let challenges = asked
            .filter_map(|one| one.issued.as_ref()?.question.as_ref())
            .map(|question| question.challenge.clone())
            .collect();
        let trial = own_trial(&account, phone, now).map(|(_, challenge)| challenge.clone());
        Ok(Waiting { challenges, trial, notices: self.notices(&account, phone, now) })
    }

    /// One challenge, by the id that the push gave. Under the trace of the approval that the envelope names.
    pub async fn fetch_challenge(&self, envelope: &v1::Envelope) -> Result<Fetched, Error> {
        let trace =
            traces::of_found(|| v1::FetchChallengeCall::decode(&*envelope.payload).ok()?.id.parse().ok());
        let span = trace.step(|| info_span!(target: STORY, "fetch", otel.kind = "server"));
        self.fetch(envelope).instrument(span).await
    }

    async fn fetch(&self, envelope: &v1::Envelope) -> Result<Fetched, Error> {
        let account = self.account_of(envelope).await?;
        let read = VerifiedRead::fetch_challenge(&account, self.keys.broker_id(), envelope)?;
        let (phone, now) = self.reader(&account, &read)?;
        if let Ok(id) = read.id().parse::<EnrolmentId>() {
            let trial = own_trial(&account, phone, now).filter(|(enrolment, _)| *enrolment == id);
            let (_, challenge) = trial.ok_or(Refusal::UnknownEnrolment)?;
            return Ok(Fetched {
                challenge: challenge.clone(),
                payload_type: payload_type::TRIAL_CHALLENGE,
                waiting: 0,
            });
        }
        let id: ApprovalId = read.id().parse().map_err(|_| Refusal::UnknownApproval)?;
        let approval = account.approval(id).filter(|one| phone.may_answer(one));
        let approval = approval.ok_or(Refusal::UnknownApproval)?;
        if let Some(ending) = &approval.ending {
            return Err(Refusal::ApprovalEnded(ending.clone()).into());
        }
        if approval.is_overdue(now) {
            return Err(Refusal::ApprovalEnded(self.expire(id).await?).into());
        }
        let question = approval.issued.as_ref().and_then(|issued| issued.question.as_ref());
        let challenge = question.ok_or(Refusal::UnknownApproval)?.challenge.clone();
        let waiting = account.live_approvals().filter(|one| !one.is_overdue(now)).count();
        Ok(Fetched { challenge, payload_type: payload_type::CHALLENGE, waiting })
    }

    /// Takes an answer to a challenge or to a trial. What it made of it is durable when this returns.
    pub async fn submit_answer(&self, envelope: &v1::Envelope) -> Result<Answered, Error> {
        match envelope.payload_type.as_str() {
            payload_type::ANSWER => self.answer_seen(envelope).await.map(Answered::Approval),
            payload_type::TRIAL_ANSWER => self.answer_trial(envelope).await,
            _ => {
                Err(call::Error::Malformed("payload_type is neither that of an answer nor of a trial answer")
                    .into())
            }
        }
    }

    /// A phone says that a push was delivered, or that the person opened it. Said twice, it is one event.
    pub async fn acknowledge(
        &self,
        approval: ApprovalId,
        authenticator: AuthenticatorId,
        token: &[u8],
        step: DeliveryStep,
    ) -> Result<(), Error> {
        let now = self.clock.now();
        if authenticator.account() != approval.account()
            || !self.keys.acknowledgements.is_good(token, approval, authenticator, now)
        {
            return Err(Error::AcknowledgementInvalid);
        }
        self.rates.of_device(authenticator)?;
        let Some(place) = self.models.approvals.find(approval) else { return Ok(()) };
        let delivery = Delivery { subject: Subject::Approval(approval), authenticator, step };
        let Some(claim) = place.claim((now, delivery.clone())) else { return Ok(()) };
        let span = traces::of(approval).step(|| {
            let name = labels::text(progress(&delivery.step));
            info_span!(target: STORY, "acknowledge", otel.name = name, otel.kind = "server")
        });
        let this = self.clone();
        // The append goes on when the caller goes away, and so must the claim.
        let recorded = async move {
            this.record_delivery(delivery).await?;
            claim.keep();
            Ok(())
        };
        to_its_end(recorded.instrument(span)).await
    }

    /// Progress rides along with the next batch: losing the last of it repeats a push, no more.
    pub(crate) async fn record_delivery(&self, delivery: Delivery) -> Result<(), Error> {
        let append = Append {
            stream: delivery::stream(delivery.subject.account()),
            expected: Expected::Any,
            urgency: Urgency::Rides,
            recorded_at_ms: self.clock.now().as_millis(),
            events: vec![delivery::encode(&delivery)],
        };
        let progress = progress(&delivery.step);
        self.accounts.log().append(append).await.map_err(crate::decider::Error::from)?;
        metrics().story.progress.count(progress);
        Ok(())
    }

    /// Under the trace of the approval that the envelope claims to answer: a forged one is a part of that story, too.
    async fn answer_seen(&self, envelope: &v1::Envelope) -> Result<Outcome, Error> {
        let came = Stopwatch::start();
        let trace =
            traces::of_found(|| v1::Answer::decode(&*envelope.payload).ok()?.approval_id.parse().ok());
        let span =
            trace.step(|| info_span!(target: STORY, "answer", otel.kind = "server", result = field::Empty));
        let answered = self.answer_approval(envelope, came).instrument(span.clone()).await;
        let counted_as = counted_as(&answered);
        span.record("result", labels::text(counted_as));
        metrics().answered(counted_as, came.elapsed());
        answered
    }

    async fn answer_approval(&self, envelope: &v1::Envelope, came: Stopwatch) -> Result<Outcome, Error> {
        let id = claimed_authenticator(envelope)?.account();
        let account = self.account_of(envelope).await?;
        let answer = VerifiedAnswer::verify(&account, self.keys.broker_id(), envelope)?;
        self.rates.of_device(answer.authenticator())?;
        if let Some(place) = self.models.approvals.find(answer.approval()) {
            place.answer_came(came);
        }
        let decided =
            self.accounts.decide(id, |_, _| Ok::<_, Error>(Command::SubmitAnswer(answer.clone()))).await?;
        let ending = decided.state.approval(answer.approval()).and_then(|one| one.ending.clone());
        let ending = ending.ok_or(Refusal::UnknownApproval)?;
        let by_this = ending.answer.as_ref().is_some_and(|one| one.answer_hash == answer.hash());
        // Too late by the clock: the expiry is recorded first, and then told.
        if by_this { Ok(ending.outcome) } else { Err(Refusal::ApprovalEnded(ending).into()) }
    }

    async fn answer_trial(&self, envelope: &v1::Envelope) -> Result<Answered, Error> {
        let id = claimed_authenticator(envelope)?.account();
        let account = self.account_of(envelope).await?;
        let answer = VerifiedTrialAnswer::verify(&account, self.keys.broker_id(), envelope)?;
        self.rates.of_device(answer.authenticator())?;
        let decided =
            self.accounts.decide(id, |_, _| Ok::<_, Error>(Command::AnswerTrial(answer.clone()))).await?;
        match decided.state.enrolment(answer.enrolment()).map(|one| &one.stage) {
            Some(Stage::Done { .. }) => Ok(Answered::TrialPassed),
            Some(Stage::Ended { reason, answer_hash }) if *answer_hash == Some(answer.hash()) => {
                Ok(Answered::TrialFailed(*reason))
            }
            _ => Err(Refusal::EnrolmentOver.into()),
        }
    }

    async fn expire(&self, id: ApprovalId) -> Result<Ending, Error> {
        let decided =
            self.accounts.decide(id.account(), |_, _| Ok::<_, Error>(Command::ExpireApproval(id))).await?;
        let ending = decided.state.approval(id).and_then(|one| one.ending.clone());
        Ok(ending.ok_or(Refusal::UnknownApproval)?)
    }

    /// The account of the authenticator that an envelope says it is of.
    pub(crate) async fn account_of(&self, envelope: &v1::Envelope) -> Result<Arc<Account>, Error> {
        let claimed = claimed_authenticator(envelope)?;
        Ok(self.accounts.load(claimed.account()).await?)
    }

    fn reader<'a>(
        &self,
        account: &'a Account,
        read: &VerifiedRead,
    ) -> Result<(&'a Authenticator, Timestamp), Error> {
        let now = self.clock.now();
        if !self.keys.nonces.is_good(read.nonce(), now) {
            return Err(Error::NonceExpired);
        }
        // Signature and nonce are good: whoever knows a device's id, or an old call of it, does not use up what it may.
        self.rates.of_device(read.authenticator())?;
        let phone = account.authenticator(read.authenticator()).ok_or(call::Error::Unauthentic)?;
        Ok((phone, now))
    }

    /// Notices are made of the account's state as they are asked for: nothing of them is stored.
    fn notices(&self, account: &Account, phone: &Authenticator, now: Timestamp) -> Vec<SignedMessage> {
        let recent = |at: Timestamp| at.plus(limits::NOTICE_KEPT) > now && at >= phone.bound_at;
        let mut notices: Vec<_> = account
            .authenticators()
            .filter(|other| other.id != phone.id && phone.is_active())
            .filter_map(|other| match other.state {
                State::Active { since } => Some((since, v1::notice::Kind::AuthenticatorAdded, other)),
                State::Revoked { at, was_active: true } => {
                    Some((at, v1::notice::Kind::AuthenticatorRemoved, other))
                }
                _ => None,
            })
            .filter(|(at, ..)| recent(*at))
            .collect();
        notices.sort_by_key(|(at, ..)| *at);
        notices.into_iter().map(|(at, kind, about)| self.notice(account, phone, about, kind, at)).collect()
    }

    fn notice(
        &self,
        account: &Account,
        phone: &Authenticator,
        about: &Authenticator,
        kind: v1::notice::Kind,
        at: Timestamp,
    ) -> SignedMessage {
        let notice = v1::Notice {
            broker_id: self.keys.broker_id().to_owned(),
            authenticator_id: phone.id.to_string(),
            account_name: account.identity().map(|identity| identity.name.to_string()).unwrap_or_default(),
            kind: kind.into(),
            subject_authenticator_id: about.id.to_string(),
            subject_device_name: about.device_name.to_string(),
            at: Some(countersign_domain::challenge::timestamp(at)),
        };
        self.keys.sign(payload_type::NOTICE, notice.encode_to_vec())
    }
}

fn progress(step: &DeliveryStep) -> labels::Progress {
    match step {
        DeliveryStep::Accepted { .. } => labels::Progress::Accepted,
        DeliveryStep::Failed { .. } => labels::Progress::Failed,
        DeliveryStep::Delayed { .. } => labels::Progress::Delayed,
        DeliveryStep::Delivered => labels::Progress::Delivered,
        DeliveryStep::Opened => labels::Progress::Opened,
    }
}

fn counted_as(answered: &Result<Outcome, Error>) -> labels::Answered {
    match answered {
        Ok(Outcome::Approved { .. }) => labels::Answered::Approved,
        Ok(Outcome::Denied) => labels::Answered::Denied,
        Ok(Outcome::Reported) => labels::Answered::Reported,
        Ok(Outcome::WrongNumber) => labels::Answered::WrongNumber,
        Ok(_) | Err(Error::Refused(Refusal::ApprovalEnded(_))) => labels::Answered::Late,
        Err(Error::Log(_)) => labels::Answered::Failed,
        Err(_) => labels::Answered::Invalid,
    }
}

/// The trial that this very phone is asked to pass.
fn own_trial<'a>(
    account: &'a Account,
    phone: &Authenticator,
    now: Timestamp,
) -> Option<(EnrolmentId, &'a SignedMessage)> {
    let enrolment = account.enrolment(phone.enrolment).filter(|one| !one.is_overdue(now))?;
    match &enrolment.stage {
        Stage::OnTrial { authenticator, question } if *authenticator == phone.id => {
            Some((enrolment.id, &question.challenge))
        }
        _ => None,
    }
}
