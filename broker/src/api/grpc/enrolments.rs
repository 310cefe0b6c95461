//! `countersign.v1.Enrolments`, for whoever enrols people.

use countersign_domain::{AccountId, AuthenticatorId, EnrolmentId, event::Identity, relying_party::Scope};
use countersign_proto::v1::{self, enrolments_server::Enrolments};
use futures::StreamExt;
use tonic::{Request, Response, Status};

use super::{
    Services, Updates,
    fields::{Fields, allowed_realm},
    messages, owner,
    status::{self, Audience},
};
use crate::{api::auth::Caller, enrol::Error};

#[tonic::async_trait]
impl Enrolments for Services {
    type WatchEnrolmentStream = Updates<v1::EnrolmentUpdate>;

    async fn begin_enrolment(
        &self,
        request: Request<v1::BeginEnrolmentRequest>,
    ) -> Result<Response<v1::BeginEnrolmentReply>, Status> {
        self.accepting()?;
        let caller = self.caller(&request, Scope::Enrolment).await?;
        self.begins(&caller)?;
        let (account, identity) = self.named_account(&caller, request.into_inner().account.as_ref())?;
        let begun = self.enrol.begin(account, identity, caller.id).await.map_err(enroller)?;
        tracing::info!(enrolment = %begun.enrolment, relying_party = %caller.id, "enrolment begun");
        Ok(Response::new(v1::BeginEnrolmentReply {
            enrolment_id: begun.enrolment.to_string(),
            uri: begun.uri.to_string(),
            code: begun.code.to_string(),
            address: begun.address,
            expires_at: Some(countersign_domain::challenge::timestamp(begun.expires_at)),
        }))
    }

    async fn watch_enrolment(
        &self,
        request: Request<v1::WatchEnrolmentRequest>,
    ) -> Result<Response<Self::WatchEnrolmentStream>, Status> {
        let caller = self.caller(&request, Scope::Enrolment).await?;
        let waits = self.waits(&caller)?;
        let request = request.into_inner();
        let id = enrolment_id(&request.enrolment_id)?;
        let updates = self.enrol.watch(owner(&caller), id, request.after_sequence).await.map_err(enroller)?;
        let updates = updates.map(|update| update.map(messages::enrolment_update).map_err(enroller));
        Ok(Response::new(self.until_stopping(waits, updates)))
    }

    async fn cancel_enrolment(
        &self,
        request: Request<v1::CancelEnrolmentRequest>,
    ) -> Result<Response<v1::CancelEnrolmentReply>, Status> {
        let caller = self.caller(&request, Scope::Enrolment).await?;
        let id = enrolment_id(&request.into_inner().enrolment_id)?;
        self.enrol.cancel(id, owner(&caller)).await.map_err(enroller)?;
        Ok(Response::new(v1::CancelEnrolmentReply {}))
    }

    async fn list_authenticators(
        &self,
        request: Request<v1::ListAuthenticatorsRequest>,
    ) -> Result<Response<v1::ListAuthenticatorsReply>, Status> {
        let caller = self.caller(&request, Scope::Enrolment).await?;
        let (id, _) = self.named_account(&caller, request.into_inner().account.as_ref())?;
        let account = self.enrol.account(id).await.map_err(enroller)?;
        let authenticators = account.authenticators().map(messages::authenticator).collect();
        Ok(Response::new(v1::ListAuthenticatorsReply { authenticators }))
    }

    async fn revoke_authenticator(
        &self,
        request: Request<v1::RevokeAuthenticatorRequest>,
    ) -> Result<Response<v1::RevokeAuthenticatorReply>, Status> {
        let caller = self.caller(&request, Scope::Enrolment).await?;
        let request = request.into_inner();
        let (account, _) = self.named_account(&caller, request.account.as_ref())?;
        let mut fields = Fields::default();
        let authenticator: Option<AuthenticatorId> =
            fields.parse("authenticator_id", &request.authenticator_id);
        let authenticator = fields.done(authenticator)?;
        self.enrol.revoke(account, authenticator, caller.id).await.map_err(enroller)?;
        Ok(Response::new(v1::RevokeAuthenticatorReply {}))
    }
}

impl Services {
    fn named_account(
        &self,
        caller: &Caller,
        account: Option<&v1::AccountName>,
    ) -> Result<(AccountId, Identity), Status> {
        let identity = identity(caller, account)?;
        Ok((self.account_id(&identity), identity))
    }
}

/// Who an account is that the relying party may name.
pub(super) fn identity(caller: &Caller, account: Option<&v1::AccountName>) -> Result<Identity, Status> {
    let mut fields = Fields::default();
    let identity = fields.account(caller, account);
    let identity = fields.done(identity)?;
    allowed_realm(caller, &identity)?;
    Ok(identity)
}

fn enrolment_id(text: &str) -> Result<EnrolmentId, Status> {
    text.parse().map_err(|_| {
        let unknown = countersign_domain::command::Refusal::UnknownEnrolment;
        status::of(Error::Refused(unknown), Audience::Enroller)
    })
}

fn enroller(error: Error) -> Status {
    status::of(error, Audience::Enroller)
}
