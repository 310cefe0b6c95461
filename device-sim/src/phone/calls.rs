//! What a phone asks and tells the broker. Reads carry the server's nonce, changes a counter that rises, answers the
//! hash of their challenge.

use bytes::Bytes;
use countersign_envelope::payload_type;
use countersign_proto::v1::{self, OutcomeKind, acknowledge_request::Kind};
use prost::Message;
use tonic::Code;

use super::{
    Phone, Push, PushTarget,
    answer::{AnswerBuilder, Decision, TrialAnswerBuilder},
    check::{Asked, Challenge, NotShown, Notice, Trial},
};
use crate::{
    clock::Timestamp,
    wire::{Refusal, Transport},
};

/// Why a call of a phone gave nothing.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// There was no reply.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// There was one, and what it holds is not to be believed.
    #[error("what the broker sent is not shown: {0}")]
    NotShown(#[from] NotShown),
}

/// What waits for a phone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Waiting {
    /// Sign-in attempts, oldest first. More than one: say so to the person.
    pub challenges: Vec<Challenge>,
    /// The phone's own trial.
    pub trial: Option<Trial>,
    /// Notices of the last days that were not listed to this phone before, oldest first.
    pub notices: Vec<Notice>,
    /// What did not pass the checks, and why: nothing of it may be shown.
    pub not_shown: Vec<NotShown>,
}

/// One challenge that was asked for by its id.
#[derive(Clone, Debug, PartialEq)]
pub struct Fetched {
    /// The challenge, checked.
    pub asked: Asked,
    /// How many approvals of the account wait, this one included.
    pub waiting: u32,
}

/// What a call comes to. Not an async closure: those make futures that cannot be spawned.
trait Reply<R>: Future<Output = Result<tonic::Response<R>, tonic::Status>> + Send {}

impl<R, F: Future<Output = Result<tonic::Response<R>, tonic::Status>> + Send> Reply<R> for F {}

impl Phone {
    /// Lists what waits, and checks each of it.
    pub async fn list_waiting(&self, transport: &Transport, now: Timestamp) -> Result<Waiting, Refusal> {
        let reply = self
            .read(
                payload_type::LIST_WAITING,
                |nonce| v1::ListWaitingCall {
                    broker_id: self.broker.id().to_owned(),
                    authenticator_id: self.authenticator_id.to_string(),
                    nonce,
                },
                |call| {
                    let mut broker = transport.authenticators();
                    async move { broker.list_waiting(v1::ListWaitingRequest { call: Some(call) }).await }
                },
            )
            .await?;
        self.learn_nonce(&reply.next_nonce);
        Ok(self.check_waiting(&reply, now))
    }

    fn check_waiting(&self, reply: &v1::ListWaitingReply, now: Timestamp) -> Waiting {
        let mut waiting = Waiting::default();
        for envelope in &reply.challenges {
            match self.broker.check_challenge(envelope, &self.account_name, now) {
                Ok(challenge) => waiting.challenges.push(challenge),
                Err(why) => waiting.not_shown.push(why),
            }
        }
        if let Some(envelope) = &reply.trial {
            match self.broker.check_trial(envelope, (&self.authenticator_id, &self.account_name), now) {
                Ok(trial) => waiting.trial = Some(trial),
                Err(why) => waiting.not_shown.push(why),
            }
        }
        let shown_until = self.lock().notices_until;
        for envelope in &reply.notices {
            match self.broker.check_notice(envelope, &self.authenticator_id) {
                Ok(notice) if notice.at > shown_until => waiting.notices.push(notice),
                Ok(_) => {}
                Err(why) => waiting.not_shown.push(why),
            }
        }
        if let Some(newest) = waiting.notices.iter().map(|notice| notice.at).max() {
            self.lock().notices_until = newest;
        }
        waiting
    }

    /// Fetches one challenge, of an approval or of the phone's trial, and checks it.
    pub async fn fetch(&self, transport: &Transport, id: &str, now: Timestamp) -> Result<Fetched, Error> {
        let reply = self
            .read(
                payload_type::FETCH_CHALLENGE,
                |nonce| v1::FetchChallengeCall {
                    broker_id: self.broker.id().to_owned(),
                    authenticator_id: self.authenticator_id.to_string(),
                    nonce,
                    id: id.to_owned(),
                },
                |call| {
                    let mut broker = transport.authenticators();
                    async move { broker.fetch_challenge(v1::FetchChallengeRequest { call: Some(call) }).await }
                },
            )
            .await?;
        self.learn_nonce(&reply.next_nonce);
        let envelope = reply.challenge.as_ref().ok_or(NotShown::Missing)?;
        let (asked, found) = if envelope.payload_type == payload_type::TRIAL_CHALLENGE {
            let whom = (&*self.authenticator_id, &*self.account_name);
            let trial = self.broker.check_trial(envelope, whom, now)?;
            let id = trial.enrolment_id().to_owned();
            (Asked::Trial(trial), id)
        } else {
            let challenge = self.broker.check_challenge(envelope, &self.account_name, now)?;
            let id = challenge.approval_id().to_owned();
            (Asked::SignIn(challenge), id)
        };
        if found != id {
            return Err(NotShown::OtherSubject.into());
        }
        Ok(Fetched { asked, waiting: reply.waiting })
    }

    /// Signs an answer and sends it. The reply comes when the outcome is durable.
    pub async fn answer(
        &self,
        transport: &Transport,
        challenge: &Challenge,
        decision: Decision<'_>,
    ) -> Result<OutcomeKind, Refusal> {
        self.submit(transport, AnswerBuilder::new(self, challenge, decision).sign()).await
    }

    /// Signs the answer to the phone's trial and sends it. An empty number declines the enrolment.
    pub async fn answer_trial(
        &self,
        transport: &Transport,
        trial: &Trial,
        number: &str,
    ) -> Result<OutcomeKind, Refusal> {
        self.submit_trial(transport, TrialAnswerBuilder::new(self, trial, number).sign()).await
    }

    /// Sends a signed answer to the phone's trial; if the broker says yes, the phone is active. Save it then.
    pub async fn submit_trial(
        &self,
        transport: &Transport,
        answer: v1::Envelope,
    ) -> Result<OutcomeKind, Refusal> {
        let outcome = self.submit(transport, answer).await?;
        if outcome == OutcomeKind::Approved {
            self.lock().is_active = true;
        }
        Ok(outcome)
    }

    /// Sends a signed answer, as it is.
    pub async fn submit(&self, transport: &Transport, answer: v1::Envelope) -> Result<OutcomeKind, Refusal> {
        let request = v1::SubmitAnswerRequest { answer: Some(answer) };
        let reply = self.learning(transport.authenticators().submit_answer(request).await)?;
        self.learn_nonce(&reply.next_nonce);
        Ok(reply.outcome())
    }

    /// Says that a push was delivered.
    pub async fn acknowledge_delivered(&self, transport: &Transport, push: &Push) -> Result<(), Refusal> {
        self.acknowledge(transport, push, Kind::Delivered).await
    }

    /// Says that the person sees the challenge.
    pub async fn acknowledge_opened(&self, transport: &Transport, push: &Push) -> Result<(), Refusal> {
        self.acknowledge(transport, push, Kind::Opened).await
    }

    async fn acknowledge(&self, transport: &Transport, push: &Push, kind: Kind) -> Result<(), Refusal> {
        let request = v1::AcknowledgeRequest {
            kind: kind.into(),
            approval_id: push.id.clone(),
            authenticator_id: push.authenticator_id.clone(),
            token: push.token.clone(),
        };
        let reply = self.learning(transport.authenticators().acknowledge(request).await)?;
        self.learn_nonce(&reply.next_nonce);
        Ok(())
    }

    /// Tells the broker the phone's new push target. Save the phone afterwards: its counter has risen.
    pub async fn replace_push_target(
        &self,
        transport: &Transport,
        push_target: PushTarget,
    ) -> Result<(), Refusal> {
        let reply = self
            .change(
                payload_type::REPLACE_PUSH_TARGET,
                |counter| v1::ReplacePushTargetCall {
                    broker_id: self.broker.id().to_owned(),
                    authenticator_id: self.authenticator_id.to_string(),
                    counter,
                    push_target: Some(push_target.to_message()),
                },
                |call| {
                    let mut broker = transport.authenticators();
                    async move {
                        broker.replace_push_target(v1::ReplacePushTargetRequest { call: Some(call) }).await
                    }
                },
            )
            .await?;
        self.learn_nonce(&reply.next_nonce);
        self.lock().push_target = push_target;
        Ok(())
    }

    /// The phone leaves the account: its key is of no use afterwards.
    pub async fn unenrol(&self, transport: &Transport) -> Result<(), Refusal> {
        self.change(
            payload_type::UNENROL,
            |counter| v1::UnenrolCall {
                broker_id: self.broker.id().to_owned(),
                authenticator_id: self.authenticator_id.to_string(),
                counter,
            },
            |call| {
                let mut broker = transport.authenticators();
                async move { broker.unenrol(v1::UnenrolRequest { call: Some(call) }).await }
            },
        )
        .await?;
        self.lock().is_active = false;
        Ok(())
    }

    /// Signs any message as this phone.
    pub fn sign(&self, payload_type: &str, message: &impl Message) -> v1::Envelope {
        self.key.envelope(&self.authenticator_id, payload_type, message.encode_to_vec())
    }

    /// A signed read with the nonce that the phone has, and once more with the one that a refusal hands out (as DPoP
    /// does, RFC 9449 section 8).
    async fn read<M: Message, R, F: Reply<R>>(
        &self,
        payload_type: &str,
        message: impl Fn(Bytes) -> M,
        call: impl Fn(v1::Envelope) -> F,
    ) -> Result<R, Refusal> {
        let first = self.learning(call(self.sign(payload_type, &message(self.nonce()))).await);
        match first {
            Err(refusal) if refusal.reason() == Some("NONCE_EXPIRED") && refusal.next_nonce().is_some() => {
                self.learning(call(self.sign(payload_type, &message(self.nonce()))).await)
            }
            result => result,
        }
    }

    /// A signed change with a counter that has not been used. Where the broker has seen a higher one (the phone's state
    /// was restored from a copy, say), it is asked once more with the one after that.
    async fn change<M: Message, R, F: Reply<R>>(
        &self,
        payload_type: &str,
        message: impl Fn(u64) -> M,
        call: impl Fn(v1::Envelope) -> F,
    ) -> Result<R, Refusal> {
        let counter = self.raise_counter(0);
        match self.learning(call(self.sign(payload_type, &message(counter))).await) {
            Err(refusal) if refusal.reason() == Some("COUNTER_NOT_RISING") => {
                let last = refusal.metadata("last").and_then(|last| last.parse().ok());
                let Some(last) = last.filter(|last| *last >= counter) else { return Err(refusal) };
                let counter = self.raise_counter(last);
                self.learning(call(self.sign(payload_type, &message(counter))).await)
            }
            result => result,
        }
    }

    fn raise_counter(&self, at_least: u64) -> u64 {
        let mut state = self.lock();
        state.counter = state.counter.max(at_least).saturating_add(1);
        state.counter
    }

    fn learning<R>(&self, result: Result<tonic::Response<R>, tonic::Status>) -> Result<R, Refusal> {
        result.map(tonic::Response::into_inner).map_err(|status| {
            let refusal = Refusal::from(status);
            if let Some(nonce) = refusal.next_nonce() {
                self.learn_nonce(nonce);
            }
            refusal
        })
    }
}

impl Error {
    /// Whether the broker is what cannot be reached, and asking again can help.
    pub fn retry_helps(&self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.retry_helps(),
            Self::NotShown(_) => false,
        }
    }

    /// Whether the broker says that there is no such approval, or not any more; with the outcome where it gives one.
    pub fn has_ended(&self) -> Option<Option<OutcomeKind>> {
        match self {
            Self::Refused(refusal) => match (refusal.code(), refusal.reason()) {
                (_, Some("APPROVAL_ENDED" | "ENROLMENT_ENDED")) => Some(refusal.outcome()),
                (Code::NotFound, Some(_)) => Some(None),
                _ => None,
            },
            Self::NotShown(_) => None,
        }
    }
}
