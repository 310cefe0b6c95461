//! `countersign.v1.Approvals`, for login servers.

use countersign_domain::{AccountId, ApprovalId, RelyingPartyId, event::Identity, relying_party::Scope};
use countersign_proto::v1::{self, approvals_server::Approvals};
use futures::StreamExt;
use tonic::{Request, Response, Status};
use tracing::Instrument as _;

use super::{
    Services, Updates,
    fields::{Fields, allowed_realm, max_wait},
    messages, owner,
    status::{self, Audience},
};
use crate::{
    api::auth::Caller,
    shares::Share,
    signin::{Error, request::NewRequest, request::Opened, wait::Standing},
    telemetry::{
        metrics::{labels, metrics},
        traces,
    },
};

#[tonic::async_trait]
impl Approvals for Services {
    type RequestApprovalStream = Updates<v1::ApprovalUpdate>;
    type WatchApprovalStream = Updates<v1::ApprovalUpdate>;

    async fn request_approval(
        &self,
        request: Request<v1::RequestApprovalRequest>,
    ) -> Result<Response<Self::RequestApprovalStream>, Status> {
        self.accepting()?;
        let caller = self.caller(&request, Scope::SignIn).await?;
        self.asks(&caller)?;
        // Before anything is made of it.
        let waits = self.waits(&caller)?;
        let call = traces::call("countersign.v1.Approvals/RequestApproval", request.metadata().as_ref());
        let opened = async {
            let opened = self.open(&caller, &request.into_inner()).await?;
            self.updates(&caller, waits, opened.id, 0).await
        };
        opened.instrument(call).await
    }

    async fn watch_approval(
        &self,
        request: Request<v1::WatchApprovalRequest>,
    ) -> Result<Response<Self::WatchApprovalStream>, Status> {
        let caller = self.caller(&request, Scope::SignIn).await?;
        let waits = self.waits(&caller)?;
        let request = request.into_inner();
        self.updates(&caller, waits, approval_id(&request.approval_id)?, request.after_sequence).await
    }

    async fn open_approval(
        &self,
        request: Request<v1::RequestApprovalRequest>,
    ) -> Result<Response<v1::OpenApprovalReply>, Status> {
        use v1::open_approval_reply::Result as Opened;
        self.accepting()?;
        let caller = self.caller(&request, Scope::SignIn).await?;
        self.asks(&caller)?;
        let call = traces::call("countersign.v1.Approvals/OpenApproval", request.metadata().as_ref());
        let opened = self.open(&caller, &request.into_inner()).instrument(call).await?;
        let approval = match opened.approval() {
            Some(approval) => approval.clone(),
            // A request of before, whose approval only the log knows by now.
            None => self.sign_in.standing(owner(&caller), opened.id).await.map_err(login)?.approval,
        };
        let result = match (messages::issued(&approval), &approval.ending) {
            (Some(issued), _) => Some(Opened::Issued(issued)),
            (None, Some(ending)) => Some(Opened::Outcome(messages::outcome(&approval, ending))),
            (None, None) => None,
        };
        Ok(Response::new(v1::OpenApprovalReply { result }))
    }

    async fn wait_approval(
        &self,
        request: Request<v1::WaitApprovalRequest>,
    ) -> Result<Response<v1::Approval>, Status> {
        let caller = self.caller(&request, Scope::SignIn).await?;
        let request = request.into_inner();
        let id = approval_id(&request.approval_id)?;
        let wait = max_wait(request.max_wait.as_ref())?;
        let _waits = self.waits(&caller)?;
        tokio::select! {
            ended = self.sign_in.ended(owner(&caller), id) => ended.map_err(login)?,
            () = tokio::time::sleep(wait) => {}
            () = self.stopping.cancelled() => return Err(status::stopping()),
        }
        self.approval(&caller, id).await
    }

    async fn get_approval(
        &self,
        request: Request<v1::GetApprovalRequest>,
    ) -> Result<Response<v1::Approval>, Status> {
        let caller = self.caller(&request, Scope::SignIn).await?;
        let id = approval_id(&request.into_inner().approval_id)?;
        self.approval(&caller, id).await
    }

    async fn cancel_approval(
        &self,
        request: Request<v1::CancelApprovalRequest>,
    ) -> Result<Response<v1::Outcome>, Status> {
        let caller = self.caller(&request, Scope::SignIn).await?;
        let id = approval_id(&request.into_inner().approval_id)?;
        let (approval, ending) = self.sign_in.cancel(owner(&caller), id).await.map_err(login)?;
        Ok(Response::new(messages::outcome(&approval, &ending)))
    }
}

impl Services {
    /// A relying party asks for an approval.
    fn asks(&self, caller: &Caller) -> Result<(), Status> {
        self.begins(caller).inspect_err(|_| metrics().story.requests.count(labels::Requested::RateLimited))
    }

    async fn open(&self, caller: &Caller, request: &v1::RequestApprovalRequest) -> Result<Opened, Status> {
        let new = new_request(caller, request, self.free_text, |who| self.account_id(who))?;
        let opened = self.sign_in.request(new).await.map_err(login)?;
        // Its ending has a line of its own, with the reason of a refusal; this one also tells of a repeated request.
        tracing::info!(approval = %opened.id, relying_party = %caller.id, "requested");
        traces::about(opened.id, caller.id);
        Ok(opened)
    }

    async fn updates(
        &self,
        caller: &Caller,
        waits: Share<RelyingPartyId>,
        id: ApprovalId,
        after: u32,
    ) -> Result<Response<Updates<v1::ApprovalUpdate>>, Status> {
        let updates = self.sign_in.watch(owner(caller), id, after).await.map_err(login)?;
        let updates = updates.map(|update| update.map(messages::update).map_err(login));
        Ok(Response::new(self.until_stopping(waits, updates)))
    }

    async fn approval(&self, caller: &Caller, id: ApprovalId) -> Result<Response<v1::Approval>, Status> {
        let Standing { approval, updates } = self.sign_in.standing(owner(caller), id).await.map_err(login)?;
        Ok(Response::new(v1::Approval {
            approval_id: id.to_string(),
            issued: messages::issued(&approval),
            outcome: approval.ending.as_ref().map(|ending| messages::outcome(&approval, ending)),
            updates: updates.into_iter().map(messages::update).collect(),
        }))
    }
}

/// What a login server asks for, its fields checked.
pub(super) fn new_request(
    caller: &Caller,
    request: &v1::RequestApprovalRequest,
    free_text: bool,
    account_id: impl FnOnce(&Identity) -> AccountId,
) -> Result<NewRequest, Status> {
    let mut fields = Fields::default();
    let identity = fields.account(caller, request.account.as_ref());
    let application = fields.application(caller, &request.application);
    let context = fields.context(request.context.as_ref(), free_text);
    let session_binding = fields.session_binding(&request.session_binding);
    let idempotency = fields.idempotency(caller, request);
    let lifetime = fields.lifetime(request.lifetime.as_ref());
    let made = (|| Some((identity?, application?, context?, session_binding?, idempotency?, lifetime?)))();
    let (identity, application, context, session_binding, idempotency, lifetime) = fields.done(made)?;
    allowed_realm(caller, &identity)?;
    Ok(NewRequest {
        relying_party: caller.id,
        relying_party_name: caller.registration.name.clone(),
        account: account_id(&identity),
        application,
        context,
        session_binding,
        idempotency,
        lifetime,
    })
}

fn approval_id(text: &str) -> Result<ApprovalId, Status> {
    // A text that is no id names no approval: there is nothing else to say about it.
    text.parse().map_err(|_| not_found(Audience::Login))
}

fn not_found(audience: Audience) -> Status {
    status::of(Error::Refused(countersign_domain::command::Refusal::UnknownApproval), audience)
}

fn login(error: Error) -> Status {
    status::of(error, Audience::Login)
}
