//! The gRPC side of the small broker.

use std::pin::Pin;

use bytes::Bytes;
use countersign_envelope::payload_type;
use countersign_proto::v1::{
    self, OutcomeKind, approvals_server::Approvals, authenticators_server::Authenticators,
    enrolments_server::Enrolments,
};
use futures::{Stream, stream};
use tonic::{Code, Request, Response, Status};

use crate::broker::{API_KEY, BROKER_ID, Broker, NONCE, refused};

type Updates<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn nonce() -> Bytes {
    Bytes::from_static(NONCE)
}

fn fresh(nonce: &[u8]) -> Result<(), Status> {
    if nonce == NONCE { Ok(()) } else { Err(refused(Code::Unauthenticated, "NONCE_EXPIRED", &[])) }
}

fn ended(outcome: OutcomeKind) -> Status {
    let name = outcome.as_str_name().trim_start_matches("OUTCOME_KIND_").to_lowercase().replace('_', " ");
    refused(Code::FailedPrecondition, "APPROVAL_ENDED", &[("outcome", &name)])
}

#[tonic::async_trait]
impl Authenticators for Broker {
    async fn describe_broker(
        &self,
        _: Request<v1::DescribeBrokerRequest>,
    ) -> Result<Response<v1::DescribeBrokerReply>, Status> {
        Ok(Response::new(v1::DescribeBrokerReply {
            broker_id: BROKER_ID.to_owned(),
            broker_key: Some(self.public_message()),
            next_nonce: nonce(),
        }))
    }

    async fn complete_enrolment(
        &self,
        request: Request<v1::CompleteEnrolmentRequest>,
    ) -> Result<Response<v1::CompleteEnrolmentReply>, Status> {
        let claim = request.into_inner().claim.ok_or_else(|| Status::invalid_argument("no claim"))?;
        self.bind(&claim).map(Response::new)
    }

    async fn list_waiting(
        &self,
        request: Request<v1::ListWaitingRequest>,
    ) -> Result<Response<v1::ListWaitingReply>, Status> {
        let call = request.into_inner().call;
        let message: v1::ListWaitingCall = self.opened(call.as_ref(), payload_type::LIST_WAITING)?;
        fresh(&message.nonce)?;
        let (challenges, trial, notices) = {
            let state = self.state();
            let phone = &state.phones[&message.authenticator_id];
            let mut live: Vec<_> = state
                .approvals
                .iter()
                .filter(|(_, one)| phone.is_active && one.outcome.is_none())
                .map(|(id, one)| (id.clone(), one.challenge.clone()))
                .collect();
            live.sort_by(|one, other| one.0.cmp(&other.0));
            let trial = phone.trial.as_ref().map(|(_, _, trial)| trial.clone());
            (live, trial, state.notices.clone())
        };
        Ok(Response::new(v1::ListWaitingReply {
            challenges: challenges.into_iter().map(|(_, one)| self.told(one)).collect(),
            trial: trial.map(|trial| self.told(trial)),
            notices: notices.iter().map(|notice| self.envelope(payload_type::NOTICE, notice)).collect(),
            next_nonce: nonce(),
        }))
    }

    async fn fetch_challenge(
        &self,
        request: Request<v1::FetchChallengeRequest>,
    ) -> Result<Response<v1::FetchChallengeReply>, Status> {
        let call = request.into_inner().call;
        let message: v1::FetchChallengeCall = self.opened(call.as_ref(), payload_type::FETCH_CHALLENGE)?;
        fresh(&message.nonce)?;
        let challenge = {
            let state = self.state();
            let trial = state.phones[&message.authenticator_id].trial.as_ref();
            match (trial, state.approvals.get(&message.id)) {
                (Some((id, _, trial)), _) if *id == message.id => trial.clone(),
                (_, Some(approval)) => match approval.outcome {
                    Some(outcome) => return Err(ended(outcome)),
                    None => approval.challenge.clone(),
                },
                _ => return Err(refused(Code::NotFound, "APPROVAL_NOT_FOUND", &[])),
            }
        };
        Ok(Response::new(v1::FetchChallengeReply {
            challenge: Some(self.told(challenge)),
            waiting: 1,
            next_nonce: nonce(),
        }))
    }

    async fn submit_answer(
        &self,
        request: Request<v1::SubmitAnswerRequest>,
    ) -> Result<Response<v1::SubmitAnswerReply>, Status> {
        let answer = request.into_inner().answer.unwrap_or_default();
        let outcome = if answer.payload_type == payload_type::TRIAL_ANSWER {
            self.trial_answer(&answer)?
        } else {
            self.answer(&answer)?
        };
        Ok(Response::new(v1::SubmitAnswerReply { outcome: outcome.into(), next_nonce: nonce() }))
    }

    async fn replace_push_target(
        &self,
        request: Request<v1::ReplacePushTargetRequest>,
    ) -> Result<Response<v1::ReplacePushTargetReply>, Status> {
        let call = request.into_inner().call;
        let message: v1::ReplacePushTargetCall =
            self.opened(call.as_ref(), payload_type::REPLACE_PUSH_TARGET)?;
        let mut state = self.state();
        let phone = state.phones.get_mut(&message.authenticator_id).expect("its signature was checked");
        if message.counter <= phone.counter {
            let last = phone.counter.to_string();
            return Err(refused(Code::FailedPrecondition, "COUNTER_NOT_RISING", &[("last", &last)]));
        }
        phone.counter = message.counter;
        phone.push_target = message.push_target;
        Ok(Response::new(v1::ReplacePushTargetReply { next_nonce: nonce() }))
    }

    async fn acknowledge(
        &self,
        request: Request<v1::AcknowledgeRequest>,
    ) -> Result<Response<v1::AcknowledgeReply>, Status> {
        let request = request.into_inner();
        if request.token != b"token"[..] {
            return Err(refused(Code::Unauthenticated, "ACKNOWLEDGEMENT_INVALID", &[]));
        }
        self.state().acknowledged.push((request.kind, request.approval_id));
        self.change();
        Ok(Response::new(v1::AcknowledgeReply { next_nonce: nonce() }))
    }

    async fn unenrol(
        &self,
        request: Request<v1::UnenrolRequest>,
    ) -> Result<Response<v1::UnenrolReply>, Status> {
        let call = request.into_inner().call;
        let message: v1::UnenrolCall = self.opened(call.as_ref(), payload_type::UNENROL)?;
        self.state().phones.remove(&message.authenticator_id);
        Ok(Response::new(v1::UnenrolReply {}))
    }
}

impl Broker {
    fn answer(&self, envelope: &v1::Envelope) -> Result<OutcomeKind, Status> {
        let answer: v1::Answer = self.opened(Some(envelope), payload_type::ANSWER)?;
        let is_gullible = self.state().is_gullible;
        if (answer.broker_id != BROKER_ID || answer.authenticator_id != envelope.key_id) && !is_gullible {
            return Err(refused(Code::Unauthenticated, "SIGNATURE_INVALID", &[]));
        }
        let kind = {
            let mut state = self.state();
            let approval = state
                .approvals
                .get_mut(&answer.approval_id)
                .ok_or_else(|| refused(Code::NotFound, "APPROVAL_NOT_FOUND", &[]))?;
            match approval.outcome {
                Some(outcome) if approval.answer.as_ref() == Some(envelope) => return Ok(outcome),
                Some(outcome) => return Err(ended(outcome)),
                None => {}
            }
            if self.clock.now().millis() >= approval.expires_at_ms {
                None
            } else {
                approval.answer = Some(envelope.clone());
                Some(match answer.decision() {
                    v1::Decision::Approve if answer.number == approval.number => OutcomeKind::Approved,
                    v1::Decision::Approve => OutcomeKind::WrongNumber,
                    v1::Decision::DenyAndReport => OutcomeKind::Reported,
                    v1::Decision::Deny | v1::Decision::Unspecified => OutcomeKind::Denied,
                })
            }
        };
        match kind {
            Some(kind) => Ok(self.end(&answer.approval_id, kind)),
            None => Err(ended(self.end(&answer.approval_id, OutcomeKind::Expired))),
        }
    }

    fn trial_answer(&self, envelope: &v1::Envelope) -> Result<OutcomeKind, Status> {
        use v1::enrolment_update::{Active, Ended, Update};
        let answer: v1::TrialAnswer = self.opened(Some(envelope), payload_type::TRIAL_ANSWER)?;
        let mut state = self.state();
        let phone = state.phones.get_mut(&answer.authenticator_id).expect("its signature was checked");
        let (id, number, _) =
            phone.trial.take().ok_or_else(|| refused(Code::FailedPrecondition, "ENROLMENT_ENDED", &[]))?;
        phone.is_active = answer.number == number;
        let (kind, update) = if phone.is_active {
            let active = Active { authenticator_id: answer.authenticator_id.clone() };
            (OutcomeKind::Approved, Update::Active(active))
        } else {
            let ended = Ended { reason: v1::EnrolmentEnd::WrongNumber.into() };
            (OutcomeKind::WrongNumber, Update::Ended(ended))
        };
        let enrolment = state.enrolments.values_mut().find(|one| one.id == id);
        enrolment.expect("the trial is its").push(update);
        drop(state);
        self.change();
        Ok(kind)
    }

    /// What there is after `known`, then what comes, until `is_last`; or until the stream is cut.
    fn updates<T: Clone + Send + 'static>(
        &self,
        known: u32,
        read: impl Fn(&Self) -> Option<Vec<T>> + Send + Sync + Clone + 'static,
        is_last: fn(&T) -> bool,
    ) -> Updates<T> {
        let (changed, cuts) = self.changes();
        let start = (self.clone(), known as usize, changed, cuts, false);
        Box::pin(stream::unfold(start, move |(broker, known, mut changed, mut cuts, is_over)| {
            let read = read.clone();
            async move {
                if is_over {
                    return None;
                }
                loop {
                    let next = read(&broker).and_then(|updates| updates.get(known).cloned());
                    if let Some(update) = next {
                        let is_over = is_last(&update);
                        return Some((Ok(update), (broker, known + 1, changed, cuts, is_over)));
                    }
                    tokio::select! {
                        _ = changed.changed() => {}
                        _ = cuts.changed() => {
                            let cut = Status::unavailable("connection reset");
                            return Some((Err(cut), (broker, known, changed, cuts, true)));
                        }
                    }
                }
            }
        }))
    }
}

fn authorised<T>(request: &Request<T>) -> Result<(), Status> {
    let shown = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
    if shown == Some(&format!("Bearer {API_KEY}")) {
        Ok(())
    } else {
        Err(refused(Code::Unauthenticated, "CREDENTIAL_INVALID", &[]))
    }
}

#[tonic::async_trait]
impl Approvals for Broker {
    type RequestApprovalStream = Updates<v1::ApprovalUpdate>;
    type WatchApprovalStream = Updates<v1::ApprovalUpdate>;

    async fn request_approval(
        &self,
        request: Request<v1::RequestApprovalRequest>,
    ) -> Result<Response<Self::RequestApprovalStream>, Status> {
        authorised(&request)?;
        let request = request.into_inner();
        if request.account.as_ref().is_none_or(|account| account.name != crate::broker::ACCOUNT) {
            return Err(refused(Code::NotFound, "ACCOUNT_NOT_FOUND", &[]));
        }
        self.state().requests += 1;
        let id = self.open(&request);
        Ok(Response::new(self.approval_updates(id, 0)))
    }

    async fn watch_approval(
        &self,
        request: Request<v1::WatchApprovalRequest>,
    ) -> Result<Response<Self::WatchApprovalStream>, Status> {
        authorised(&request)?;
        let request = request.into_inner();
        Ok(Response::new(self.approval_updates(request.approval_id, request.after_sequence)))
    }

    async fn open_approval(
        &self,
        _: Request<v1::RequestApprovalRequest>,
    ) -> Result<Response<v1::OpenApprovalReply>, Status> {
        Err(Status::unimplemented("not in this broker"))
    }

    async fn wait_approval(
        &self,
        _: Request<v1::WaitApprovalRequest>,
    ) -> Result<Response<v1::Approval>, Status> {
        Err(Status::unimplemented("not in this broker"))
    }

    async fn get_approval(
        &self,
        _: Request<v1::GetApprovalRequest>,
    ) -> Result<Response<v1::Approval>, Status> {
        Err(Status::unimplemented("not in this broker"))
    }

    async fn cancel_approval(
        &self,
        request: Request<v1::CancelApprovalRequest>,
    ) -> Result<Response<v1::Outcome>, Status> {
        authorised(&request)?;
        let id = request.into_inner().approval_id;
        let kind = self.end(&id, OutcomeKind::Cancelled);
        Ok(Response::new(v1::Outcome { kind: kind.into(), approval_id: id, ..Default::default() }))
    }
}

impl Broker {
    fn approval_updates(&self, id: String, known: u32) -> Updates<v1::ApprovalUpdate> {
        self.updates(
            known,
            move |broker| broker.state().approvals.get(&id).map(|approval| approval.updates.clone()),
            |update| matches!(update.update, Some(v1::approval_update::Update::Outcome(_))),
        )
    }
}

#[tonic::async_trait]
impl Enrolments for Broker {
    type WatchEnrolmentStream = Updates<v1::EnrolmentUpdate>;

    async fn begin_enrolment(
        &self,
        request: Request<v1::BeginEnrolmentRequest>,
    ) -> Result<Response<v1::BeginEnrolmentReply>, Status> {
        authorised(&request)?;
        let (enrolment_id, uri) = self.begin();
        let code = {
            let state = self.state();
            let begun = state.enrolments.values().find(|one| one.id == enrolment_id);
            begun.expect("it was begun").code.to_text().to_string()
        };
        Ok(Response::new(v1::BeginEnrolmentReply {
            enrolment_id,
            uri,
            code,
            address: self.address.to_string(),
            expires_at: Some(self.in_seconds(600)),
        }))
    }

    async fn watch_enrolment(
        &self,
        request: Request<v1::WatchEnrolmentRequest>,
    ) -> Result<Response<Self::WatchEnrolmentStream>, Status> {
        use v1::enrolment_update::Update;
        authorised(&request)?;
        let request = request.into_inner();
        Ok(Response::new(self.updates(
            request.after_sequence,
            move |broker| {
                let state = broker.state();
                let found = state.enrolments.values().find(|one| one.id == request.enrolment_id);
                found.map(|enrolment| enrolment.updates.clone())
            },
            |update| matches!(update.update, Some(Update::Active(_) | Update::Ended(_))),
        )))
    }

    async fn cancel_enrolment(
        &self,
        request: Request<v1::CancelEnrolmentRequest>,
    ) -> Result<Response<v1::CancelEnrolmentReply>, Status> {
        authorised(&request)?;
        Ok(Response::new(v1::CancelEnrolmentReply {}))
    }

    async fn list_authenticators(
        &self,
        _: Request<v1::ListAuthenticatorsRequest>,
    ) -> Result<Response<v1::ListAuthenticatorsReply>, Status> {
        Err(Status::unimplemented("not in this broker"))
    }

    async fn revoke_authenticator(
        &self,
        _: Request<v1::RevokeAuthenticatorRequest>,
    ) -> Result<Response<v1::RevokeAuthenticatorReply>, Status> {
        Err(Status::unimplemented("not in this broker"))
    }
}
