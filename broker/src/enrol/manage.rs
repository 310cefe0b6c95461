//! Afterwards: phones are listed and revoked, and change themselves.

use std::sync::Arc;

use countersign_domain::{
    Account, AccountId, AuthenticatorId, Command, EnrolmentId, RelyingPartyId,
    call::{VerifiedReplacePushTarget, VerifiedUnenrol},
    command::Refusal,
};
use countersign_proto::v1;

use super::{Enrol, Error};

impl Enrol {
    /// The account, for its authenticators to be listed.
    pub async fn account(&self, id: AccountId) -> Result<Arc<Account>, Error> {
        let account = self.sign_in.accounts.load(id).await?;
        if account.identity().is_some() { Ok(account) } else { Err(Refusal::UnknownAccount.into()) }
    }

    /// Ends an authenticator.
    pub async fn revoke(
        &self,
        account: AccountId,
        authenticator: AuthenticatorId,
        relying_party: RelyingPartyId,
    ) -> Result<(), Error> {
        self.account(account).await?;
        if authenticator.account() != account {
            return Err(Refusal::UnknownAuthenticator.into());
        }
        self.decide(account, Command::RevokeAuthenticator { authenticator, relying_party }).await
    }

    /// Withdraws an enrolment that this relying party began.
    pub async fn cancel(&self, id: EnrolmentId, relying_party: RelyingPartyId) -> Result<(), Error> {
        let account = self.sign_in.accounts.load(id.account()).await?;
        let enrolment = account.enrolment(id).filter(|one| one.relying_party == relying_party);
        enrolment.ok_or(Refusal::UnknownEnrolment)?;
        self.decide(id.account(), Command::CancelEnrolment(id)).await
    }

    /// A phone has a new push target.
    pub async fn replace_push_target(&self, envelope: &v1::Envelope) -> Result<(), Error> {
        let account = self.sign_in.account_of(envelope).await?;
        let call = VerifiedReplacePushTarget::verify(&account, self.sign_in.keys.broker_id(), envelope)?;
        self.sign_in.rates.of_device(call.authenticator())?;
        self.decide(call.authenticator().account(), Command::ReplacePushTarget(call)).await
    }

    /// A phone leaves.
    pub async fn unenrol(&self, envelope: &v1::Envelope) -> Result<(), Error> {
        let account = self.sign_in.account_of(envelope).await?;
        let call = VerifiedUnenrol::verify(&account, self.sign_in.keys.broker_id(), envelope)?;
        self.sign_in.rates.of_device(call.authenticator())?;
        self.decide(call.authenticator().account(), Command::Unenrol(call)).await
    }

    async fn decide(&self, account: AccountId, command: Command) -> Result<(), Error> {
        self.sign_in.accounts.decide(account, |_, _| Ok::<_, Error>(command.clone())).await?;
        Ok(())
    }
}
