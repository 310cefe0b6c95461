//! Because of an event, something goes to phones. What is to be done, the domain says as data; here it is done, after
//! the event is durable, at least once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use countersign_domain::{
    AccountId, ApprovalId, AuthenticatorId, Command, EnrolmentId, Timestamp, account::Effect,
    authenticator::Authenticator, enrolment::Stage,
};
use data_encoding::BASE64URL_NOPAD;
use tokio::sync::{Semaphore, mpsc};

use super::{Error, SignIn, expiry::Due};
use crate::{
    decider::codec::delivery::{Delivery, DeliveryStep, Subject},
    push::{Job, NotQueued, Outcome, PushKind, PushMessage, Pusher, Report},
};

/// Effects that are worked on at a time; a cold account has to be read from the log first.
const CONCURRENT_MAX: usize = 64;

/// For how long a push service keeps, for a phone that is off, that an approval has ended.
const ENDED_KEPT: Duration = Duration::from_secs(10 * 60);

/// The same for a notice: the phone also lists it.
const NOTICE_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// What a push is for, and to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Push {
    about: About,
    to: AuthenticatorId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    Challenge(ApprovalId),
    Trial(EnrolmentId),
    Ended(ApprovalId),
    Notice(AuthenticatorId),
}

/// Does what the domain's effects say.
#[derive(Debug, Clone)]
pub struct Dispatcher {
    sign_in: SignIn,
    pusher: Arc<Pusher<Push>>,
    expiry: mpsc::Sender<(Timestamp, Due)>,
    shown: Arc<Shown>,
}

/// On which phones an approval is shown: those whose push was accepted. Those are told when it ends.
#[derive(Debug, Default)]
struct Shown(Mutex<HashMap<ApprovalId, Vec<AuthenticatorId>>>);

/// What became of pushes, on its way to becoming events.
#[derive(Debug)]
pub struct Reports {
    sign_in: SignIn,
    told: mpsc::UnboundedSender<(Push, Outcome)>,
}

impl Reports {
    /// The pusher's end, and the dispatcher's.
    pub fn new(sign_in: SignIn) -> (Arc<Self>, mpsc::UnboundedReceiver<(Push, Outcome)>) {
        let (told, reports) = mpsc::unbounded_channel();
        (Arc::new(Self { sign_in, told }), reports)
    }
}

impl Report<Push> for Reports {
    fn wanted(&self, push: &Push) -> bool {
        match push.about {
            About::Challenge(id) => self.sign_in.models.index.is_live(id),
            About::Trial(_) | About::Ended(_) | About::Notice(_) => true,
        }
    }

    fn report(&self, push: Push, outcome: Outcome) {
        // Unbounded, and bounded by the pusher's queue: what it reports has left that, or is there and told once.
        let _ = self.told.send((push, outcome));
    }
}

impl Dispatcher {
    /// Sends by this pusher, and asks this expiry.
    pub fn new(sign_in: SignIn, pusher: Arc<Pusher<Push>>, expiry: mpsc::Sender<(Timestamp, Due)>) -> Self {
        Self { sign_in, pusher, expiry, shown: Arc::default() }
    }

    /// Does what comes, until nothing more can come.
    pub async fn run(
        self,
        mut effects: mpsc::Receiver<(AccountId, Effect)>,
        mut reports: mpsc::UnboundedReceiver<(Push, Outcome)>,
    ) {
        let places = Arc::new(Semaphore::new(CONCURRENT_MAX));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let this = self.clone();
            tokio::select! {
                effect = effects.recv() => {
                    let Some((account, effect)) = effect else { return };
                    tokio::spawn(async move {
                        if let Err(error) = this.effect(account, &effect).await {
                            tracing::error!(?effect, %error, "could not be done; it is done again at the next start");
                        }
                        drop(place);
                    });
                }
                report = reports.recv() => {
                    let Some((push, outcome)) = report else { return };
                    tokio::spawn(async move {
                        if let Err(error) = this.reported(push, outcome).await {
                            tracing::warn!(?push, %error, "what became of a push could not be recorded");
                        }
                        drop(place);
                    });
                }
            }
        }
    }

    async fn effect(&self, account: AccountId, effect: &Effect) -> Result<(), Error> {
        match effect {
            Effect::PushChallenge(id) => self.push_challenge(*id).await,
            Effect::PushTrial(id) => self.push_trial(*id).await,
            Effect::ReplaceShown(id, except) => self.replace_shown(*id, *except).await,
            Effect::PushNotice(about) => self.push_notice(account, *about).await,
            Effect::ExpireApproval(id, at) => {
                let _ = self.expiry.send((*at, Due::Approval(*id))).await;
                Ok(())
            }
            Effect::ExpireEnrolment(id, at) => {
                let _ = self.expiry.send((*at, Due::Enrolment(*id))).await;
                Ok(())
            }
        }
    }

    /// To every phone that may answer, and that does not have it already (from before a restart).
    async fn push_challenge(&self, id: ApprovalId) -> Result<(), Error> {
        let account = self.sign_in.accounts.load(id.account()).await?;
        let Some(approval) = account.approval(id).filter(|one| one.ending.is_none()) else { return Ok(()) };
        let Some(issued) = &approval.issued else { return Ok(()) };
        let known = self.sign_in.models.approvals.find(id).map(|place| place.steps()).unwrap_or_default();
        for phone in account.active_authenticators().filter(|one| one.may_answer(approval)) {
            let of_phone = || known.iter().filter(|(_, delivery)| delivery.authenticator == phone.id);
            if of_phone().any(|(_, delivery)| matches!(delivery.step, DeliveryStep::Accepted { .. })) {
                self.shown.add(id, phone.id);
            } else if !of_phone().any(|(_, delivery)| matches!(delivery.step, DeliveryStep::Failed { .. })) {
                let token = self.sign_in.keys.acknowledgements.token(id, phone.id, issued.expires_at);
                self.push(phone, About::Challenge(id), issued.expires_at, &token).await?;
            }
        }
        Ok(())
    }

    async fn push_trial(&self, id: EnrolmentId) -> Result<(), Error> {
        let account = self.sign_in.accounts.load(id.account()).await?;
        let Some(enrolment) = account.enrolment(id) else { return Ok(()) };
        let Stage::OnTrial { authenticator, .. } = &enrolment.stage else { return Ok(()) };
        match account.authenticator(*authenticator) {
            Some(phone) => self.push(phone, About::Trial(id), enrolment.expires_at, &[]).await,
            None => Ok(()),
        }
    }

    async fn replace_shown(&self, id: ApprovalId, except: Option<AuthenticatorId>) -> Result<(), Error> {
        let shown = self.shown.take(id);
        if shown.is_empty() {
            return Ok(());
        }
        let account = self.sign_in.accounts.load(id.account()).await?;
        let until = self.sign_in.clock.now().plus(ENDED_KEPT);
        for phone in account.active_authenticators() {
            if shown.contains(&phone.id) && Some(phone.id) != except {
                self.push(phone, About::Ended(id), until, &[]).await?;
            }
        }
        Ok(())
    }

    async fn push_notice(&self, account: AccountId, about: AuthenticatorId) -> Result<(), Error> {
        let account = self.sign_in.accounts.load(account).await?;
        let until = self.sign_in.clock.now().plus(NOTICE_KEPT);
        for phone in account.active_authenticators().filter(|one| one.id != about) {
            self.push(phone, About::Notice(about), until, &[]).await?;
        }
        Ok(())
    }

    async fn push(
        &self,
        phone: &Authenticator,
        about: About,
        expires_at: Timestamp,
        acknowledgement_token: &[u8],
    ) -> Result<(), Error> {
        let push = Push { about, to: phone.id };
        let Some(target) = phone.live_push_target() else {
            return self.failed(push, "NO_PUSH_TARGET".to_owned()).await;
        };
        let message = PushMessage {
            kind: about.kind(),
            id: about.id(),
            authenticator_id: phone.id.to_string(),
            expires_at,
            acknowledgement_token: BASE64URL_NOPAD.encode(acknowledgement_token),
            nonce: BASE64URL_NOPAD.encode(&self.sign_in.keys.nonces.next(self.sign_in.clock.now())),
        };
        match self.pusher.enqueue(Job { id: push, target: target.clone(), message }) {
            Ok(()) => Ok(()),
            // At the next start it is pushed again.
            Err(NotQueued::Draining) => Ok(()),
            Err(NotQueued::Full(_)) => self.failed(push, "QUEUE_FULL".to_owned()).await,
            Err(error @ NotQueued::NotConfigured(_)) => {
                tracing::warn!(authenticator = %phone.id, %error, "a phone cannot be reached");
                self.failed(push, "NOT_CONFIGURED".to_owned()).await
            }
        }
    }

    async fn reported(&self, push: Push, outcome: Outcome) -> Result<(), Error> {
        match outcome {
            Outcome::Accepted { push_id } => self.accepted(push, push_id).await,
            Outcome::Failed { reason } => self.failed(push, reason).await,
            Outcome::Delayed { reason } => self.record(push, DeliveryStep::Delayed { reason }).await,
            Outcome::Dead { target_hash, since, reason } => {
                let command = Command::RecordDeadTarget {
                    authenticator: push.to,
                    target_hash,
                    dead_since: since,
                    reason: reason.clone(),
                };
                self.failed(push, reason).await?;
                let account = push.to.account();
                self.sign_in.accounts.decide(account, |_, _| Ok::<_, Error>(command.clone())).await?;
                Ok(())
            }
            Outcome::Withdrawn => Ok(()),
        }
    }

    async fn accepted(&self, push: Push, push_id: String) -> Result<(), Error> {
        if let About::Challenge(id) = push.about {
            self.shown.add(id, push.to);
            // It ended while the push was on its way: what the phone shows now is over.
            if !self.sign_in.models.index.is_live(id) {
                self.replace_shown(id, None).await?;
            }
        }
        self.record(push, DeliveryStep::Accepted { push_id }).await
    }

    async fn failed(&self, push: Push, reason: String) -> Result<(), Error> {
        self.record(push, DeliveryStep::Failed { reason }).await
    }

    /// Only what a page can show is recorded.
    async fn record(&self, push: Push, step: DeliveryStep) -> Result<(), Error> {
        let subject = match push.about {
            About::Challenge(id) => Subject::Approval(id),
            About::Trial(id) => Subject::Enrolment(id),
            About::Ended(_) | About::Notice(_) => return Ok(()),
        };
        self.sign_in.record_delivery(Delivery { subject, authenticator: push.to, step }).await
    }
}

impl About {
    fn kind(self) -> PushKind {
        match self {
            Self::Challenge(_) => PushKind::Challenge,
            Self::Trial(_) => PushKind::Trial,
            Self::Ended(_) => PushKind::Ended,
            Self::Notice(_) => PushKind::Notice,
        }
    }

    fn id(self) -> String {
        match self {
            Self::Challenge(id) | Self::Ended(id) => id.to_string(),
            Self::Trial(id) => id.to_string(),
            Self::Notice(id) => id.to_string(),
        }
    }
}

impl Shown {
    fn add(&self, approval: ApprovalId, phone: AuthenticatorId) {
        self.lock().entry(approval).or_default().push(phone);
    }

    fn take(&self, approval: ApprovalId) -> Vec<AuthenticatorId> {
        self.lock().remove(&approval).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ApprovalId, Vec<AuthenticatorId>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
