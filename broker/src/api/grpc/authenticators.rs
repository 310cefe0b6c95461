//! `countersign.v1.Authenticators`, for phones.

use countersign_domain::{ApprovalId, AuthenticatorId, event::EnrolmentEnd};
use countersign_envelope::payload_type;
use countersign_proto::v1::{self, authenticators_server::Authenticators};
use tonic::{Code, Request, Response, Status, metadata::MetadataValue};

use super::{
    Services,
    fields::Fields,
    messages,
    often::Origin,
    status::{self, Audience},
};
use crate::{
    decider::codec::delivery::DeliveryStep,
    signin::{Error, answer::Answered},
};

#[tonic::async_trait]
impl Authenticators for Services {
    async fn describe_broker(
        &self,
        request: Request<v1::DescribeBrokerRequest>,
    ) -> Result<Response<v1::DescribeBrokerReply>, Status> {
        self.anybody(&request)?;
        let keys = &self.sign_in.keys;
        Ok(Response::new(v1::DescribeBrokerReply {
            broker_id: keys.broker_id().to_owned(),
            broker_key: Some(v1::PublicKey {
                algorithm: v1::SignatureAlgorithm::Ed25519.into(),
                key: keys.public_key().as_bytes().to_vec().into(),
            }),
            next_nonce: self.nonce(),
        }))
    }

    async fn complete_enrolment(
        &self,
        request: Request<v1::CompleteEnrolmentRequest>,
    ) -> Result<Response<v1::CompleteEnrolmentReply>, Status> {
        self.accepting()?;
        let from = self.some_phone(&request)?;
        let claim = envelope("claim", request.into_inner().claim)?;
        let bound = self.enrol.bind(&claim).await.map_err(|error| self.phone(from, error))?;
        tracing::info!(locator = %claim.key_id, "a phone is bound and on trial");
        Ok(Response::new(v1::CompleteEnrolmentReply {
            receipt: Some(bound.receipt.envelope(payload_type::ENROLMENT_RECEIPT)),
            trial: Some(bound.trial.envelope(payload_type::TRIAL_CHALLENGE)),
        }))
    }

    async fn list_waiting(
        &self,
        request: Request<v1::ListWaitingRequest>,
    ) -> Result<Response<v1::ListWaitingReply>, Status> {
        let from = self.some_phone(&request)?;
        let call = envelope("call", request.into_inner().call)?;
        let waiting = self.sign_in.list_waiting(&call).await.map_err(|error| self.phone(from, error))?;
        let challenges = waiting.challenges.iter().map(|one| one.envelope(payload_type::CHALLENGE));
        let notices = waiting.notices.iter().map(|one| one.envelope(payload_type::NOTICE));
        Ok(Response::new(v1::ListWaitingReply {
            challenges: challenges.collect(),
            trial: waiting.trial.map(|trial| trial.envelope(payload_type::TRIAL_CHALLENGE)),
            notices: notices.collect(),
            next_nonce: self.nonce(),
        }))
    }

    async fn fetch_challenge(
        &self,
        request: Request<v1::FetchChallengeRequest>,
    ) -> Result<Response<v1::FetchChallengeReply>, Status> {
        let from = self.some_phone(&request)?;
        let call = envelope("call", request.into_inner().call)?;
        let fetched = self.sign_in.fetch_challenge(&call).await.map_err(|error| self.phone(from, error))?;
        Ok(Response::new(v1::FetchChallengeReply {
            challenge: Some(fetched.challenge.envelope(fetched.payload_type)),
            waiting: u32::try_from(fetched.waiting).unwrap_or(u32::MAX),
            next_nonce: self.nonce(),
        }))
    }

    async fn submit_answer(
        &self,
        request: Request<v1::SubmitAnswerRequest>,
    ) -> Result<Response<v1::SubmitAnswerReply>, Status> {
        let from = self.some_phone(&request)?;
        let answer = envelope("answer", request.into_inner().answer)?;
        let answered = self.sign_in.submit_answer(&answer).await.map_err(|error| self.phone(from, error))?;
        let outcome = match answered {
            Answered::Approval(outcome) => messages::outcome_kind(outcome),
            Answered::TrialPassed => v1::OutcomeKind::Approved,
            Answered::TrialFailed(EnrolmentEnd::Declined) => v1::OutcomeKind::Denied,
            Answered::TrialFailed(_) => v1::OutcomeKind::WrongNumber,
        };
        Ok(Response::new(v1::SubmitAnswerReply { outcome: outcome.into(), next_nonce: self.nonce() }))
    }

    async fn replace_push_target(
        &self,
        request: Request<v1::ReplacePushTargetRequest>,
    ) -> Result<Response<v1::ReplacePushTargetReply>, Status> {
        let from = self.some_phone(&request)?;
        let call = envelope("call", request.into_inner().call)?;
        self.enrol.replace_push_target(&call).await.map_err(|error| self.phone(from, error))?;
        Ok(Response::new(v1::ReplacePushTargetReply { next_nonce: self.nonce() }))
    }

    async fn acknowledge(
        &self,
        request: Request<v1::AcknowledgeRequest>,
    ) -> Result<Response<v1::AcknowledgeReply>, Status> {
        use v1::acknowledge_request::Kind;
        let from = self.some_phone(&request)?;
        let request = request.into_inner();
        let mut fields = Fields::default();
        let step = fields.take(
            "kind",
            match request.kind() {
                Kind::Delivered => Ok(DeliveryStep::Delivered),
                Kind::Opened => Ok(DeliveryStep::Opened),
                Kind::Unspecified => Err("must be delivered or opened"),
            },
        );
        let approval: Option<ApprovalId> = fields.parse("approval_id", &request.approval_id);
        let authenticator: Option<AuthenticatorId> =
            fields.parse("authenticator_id", &request.authenticator_id);
        let made = (|| Some((step?, approval?, authenticator?)))();
        let (step, approval, authenticator) = fields.done(made)?;
        self.sign_in
            .acknowledge(approval, authenticator, &request.token, step)
            .await
            .map_err(|error| self.phone(from, error))?;
        Ok(Response::new(v1::AcknowledgeReply { next_nonce: self.nonce() }))
    }

    async fn unenrol(
        &self,
        request: Request<v1::UnenrolRequest>,
    ) -> Result<Response<v1::UnenrolReply>, Status> {
        let from = self.some_phone(&request)?;
        let call = envelope("call", request.into_inner().call)?;
        self.enrol.unenrol(&call).await.map_err(|error| self.phone(from, error))?;
        Ok(Response::new(v1::UnenrolReply {}))
    }
}

impl Services {
    fn nonce(&self) -> bytes::Bytes {
        self.sign_in.keys.nonces.next(self.sign_in.clock.now())
    }

    /// A phone that is not believed is given the next nonce: it may only have been asleep for too long.
    fn phone(&self, from: Origin, error: Error) -> Status {
        self.if_failed(from, &error);
        let mut status = status::of(error, Audience::Phone);
        if status.code() == Code::Unauthenticated {
            let nonce = MetadataValue::from_bytes(&self.nonce());
            status.metadata_mut().insert_bin("countersign-nonce-bin", nonce);
        }
        status
    }
}

fn envelope(field: &'static str, envelope: Option<v1::Envelope>) -> Result<v1::Envelope, Status> {
    envelope.ok_or_else(|| status::missing_envelope(field))
}
