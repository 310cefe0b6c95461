//! An account that begins under the load, with all that can happen to a phone: two are enrolled, one is revoked, the
//! other gets a new push target and types a wrong number. Each step is tried until the broker has answered.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use countersign_envelope::Algorithm;
use countersign_proto::v1::OutcomeKind;
use countersign_tests::world::APPLICATION;
use device_sim::{
    login::{EnrolmentStep, SignIn},
    phone::{Invitation, NewPhone, Number, Phone, PushTarget, Trial, TrialAnswerBuilder},
    wire::Refusal,
};

use crate::{
    Fact,
    load::{Deed, Worker, until_answered},
};

/// Between two looks for the number of a trial whose page has lost the broker.
const PAGE_RETRY: Duration = Duration::from_millis(50);

impl Worker {
    /// One account from its first code on.
    pub(crate) async fn newcomer(&self) {
        let number = self.newcomers.fetch_add(1, Ordering::SeqCst);
        let account = format!("newcomer-{number}");
        if let Err(what) = self.newcomers_story(&account, number).await {
            self.ledger.wrong(format!("{account}: {what}"));
        }
    }

    async fn newcomers_story(&self, account: &str, number: usize) -> Result<(), String> {
        let target = |at: usize| self.targets[(number + at) % self.targets.len()].clone();
        // Nobody has enrolled yet: refused, after a wait for the disk that leaves nothing in the log.
        let too_early = SignIn::new(account, APPLICATION);
        match until_answered(|| self.login.open(&too_early)).await {
            Err(refusal) if refusal.reason() == Some("ACCOUNT_NOT_FOUND") => {}
            other => return Err(format!("a sign-in before anybody has enrolled: {other:?}")),
        }
        let Some(phone) = self.enrol(account, target(0), Algorithm::Ed25519).await? else { return Ok(()) };
        if let Some(second) = self.enrol(account, target(1), Algorithm::Es256).await? {
            self.revoke(account, &second).await?;
        }
        // The one after the next is of the same push service.
        let moved = until_answered(|| phone.replace_push_target(&self.transport, target(2))).await;
        moved.map_err(said("its new push target"))?;
        self.ledger.told(Fact::PushTarget(phone.authenticator_id().to_owned(), phone.counter()));
        self.sign_in(account, &Arc::new(phone), Deed::WrongNumber).await;
        Ok(())
    }

    /// A phone that is active; none if its trial was over before the broker was back.
    async fn enrol(
        &self,
        account: &str,
        target: PushTarget,
        algorithm: Algorithm,
    ) -> Result<Option<Phone>, String> {
        let begun = until_answered(|| self.page.begin(account)).await.map_err(said("a code"))?;
        self.ledger.told(Fact::Begun(begun.enrolment_id.clone()));
        let invitation = Invitation::scanned(&begun.uri).map_err(|error| error.to_string())?;
        // The same bytes, however often they are sent.
        let claim = NewPhone::new("phone", target, algorithm).claim(&self.broker, invitation.code());
        let reply = until_answered(|| claim.complete(&self.transport)).await.map_err(said("its claim"))?;
        let (phone, trial) = claim.check(&reply, self.clock.now()).map_err(|error| error.to_string())?;
        self.ledger.told(Fact::Bound(phone.authenticator_id().to_owned()));
        let Some(number) = self.trial_number(&begun.enrolment_id).await? else { return Ok(None) };
        if !self.pass_trial(&phone, &trial, &number).await? {
            return Ok(None);
        }
        self.ledger.told(Fact::Active(phone.authenticator_id().to_owned()));
        Ok(Some(phone))
    }

    /// The number that the page shows; none if the enrolment has ended.
    async fn trial_number(&self, enrolment_id: &str) -> Result<Option<Number>, String> {
        loop {
            let watched = async {
                let mut updates = self.page.watch(enrolment_id, 0).await?;
                while let Some(update) = updates.next().await? {
                    match update.step {
                        EnrolmentStep::Trial { number, .. } => return Ok(Some(Some(number))),
                        EnrolmentStep::Ended { .. } => return Ok(Some(None)),
                        _ => {}
                    }
                }
                Ok::<_, Refusal>(None)
            };
            match watched.await {
                Ok(Some(number)) => return Ok(number),
                Ok(None) => {}
                Err(refusal) if refusal.retry_helps() => {}
                Err(refusal) => return Err(said("the trial's number")(refusal)),
            }
            tokio::time::sleep(PAGE_RETRY).await;
        }
    }

    async fn pass_trial(&self, phone: &Phone, trial: &Trial, number: &Number) -> Result<bool, String> {
        let answer = TrialAnswerBuilder::new(phone, trial, number.expose()).sign();
        match until_answered(|| phone.submit_trial(&self.transport, answer.clone())).await {
            Ok(outcome) => Ok(outcome == OutcomeKind::Approved),
            Err(refusal) if refusal.reason() == Some("ENROLMENT_ENDED") => {
                Ok(refusal.outcome() == Some(OutcomeKind::Approved))
            }
            Err(refusal) => Err(said("its trial")(refusal)),
        }
    }

    /// Revokes a phone, after which nobody listens to it.
    async fn revoke(&self, account: &str, phone: &Phone) -> Result<(), String> {
        let id = phone.authenticator_id();
        until_answered(|| self.page.revoke(account, id)).await.map_err(said("a revocation"))?;
        self.ledger.told(Fact::Revoked(id.to_owned()));
        match until_answered(|| phone.list_waiting(&self.transport, self.clock.now())).await {
            Err(refusal) if refusal.reason() == Some("SIGNATURE_INVALID") => Ok(()),
            Err(refusal) => Err(said("what waits, after it was revoked")(refusal)),
            Ok(_) => Err(format!("{id}: was revoked, and is listened to")),
        }
    }
}

fn said(to: &'static str) -> impl Fn(Refusal) -> String {
    move |refusal| format!("asked for {to}: {refusal}")
}
