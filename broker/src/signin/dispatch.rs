//! Because of an event, something goes to phones. What is to be done, the domain says as data; here it is done, after
//! the event is durable, at least once.

use std::{sync::Arc, time::Duration};

use countersign_domain::{
    Account, AccountId, ApprovalId, AuthenticatorId, Command, EnrolmentId, Timestamp, account::Effect,
    authenticator::Authenticator, command::Refusal, enrolment::Stage, event::PushTarget,
};
use data_encoding::BASE64URL_NOPAD;
use futures::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tracing::{Span, field, info_span};

use super::{
    Error, SignIn,
    expiry::{Alarm, Due},
};
use crate::{
    decider::codec::delivery::{Delivery, DeliveryStep, Subject},
    projection::index::{REPLACED_WITHIN, Replacing},
    push::{Job, NotQueued, Outcome, PushKind, PushMessage, Pusher, Report},
    telemetry::{
        metrics::{labels, metrics},
        traces::{self, STORY},
    },
};

/// Effects and reports that are worked on at a time: a cold account has to be read from the log first, and what became of
/// a push rides along with others to the disk.
const CONCURRENT_MAX: usize = 4_096;

/// For how long a push service keeps a notice for a phone that is off: the phone also lists it.
const NOTICE_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// What a push is for, and to whom.
#[derive(Debug, Clone)]
pub struct Push {
    about: About,
    to: AuthenticatorId,
    /// Held until what became of the push is recorded: so many are queued, under way or reported, and no more.
    _place: Arc<OwnedSemaphorePermit>,
    /// Its part of the sign-in's trace, as long as that.
    span: Span,
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
    expiry: mpsc::Sender<Alarm>,
    places: Arc<Semaphore>,
}

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
        // Bounded by the places that pushes hold: each is reported twice at most, as late and as over.
        let _ = self.told.send((push, outcome));
    }
}

impl Dispatcher {
    /// Sends by this pusher, and asks this expiry. At most so many pushes are on their way, until what became of them is
    /// recorded: where the log is slow, what comes then is not pushed.
    pub fn new(
        sign_in: SignIn,
        pusher: Arc<Pusher<Push>>,
        expiry: mpsc::Sender<Alarm>,
        pushes_max: usize,
    ) -> Self {
        let places = Arc::new(Semaphore::new(pushes_max.min(Semaphore::MAX_PERMITS)));
        Self { sign_in, pusher, expiry, places }
    }

    /// Does what comes, until nothing more can come.
    pub async fn run(
        self,
        mut effects: mpsc::Receiver<(AccountId, Effect)>,
        mut reports: mpsc::UnboundedReceiver<(Push, Outcome)>,
    ) {
        // Nearly all of them are done when they are first looked at: to spawn a task for each would cost more than they do.
        let mut under_way = FuturesUnordered::new();
        loop {
            let has_room = under_way.len() < CONCURRENT_MAX;
            tokio::select! {
                Some(()) = under_way.next() => {}
                effect = effects.recv(), if has_room => {
                    let Some((account, effect)) = effect else { return };
                    under_way.push(self.do_effect(account, effect).left_future());
                }
                report = reports.recv(), if has_room => {
                    let Some((push, outcome)) = report else { return };
                    under_way.push(self.do_report(push, outcome).right_future());
                }
            }
        }
    }

    async fn do_effect(&self, account: AccountId, effect: Effect) {
        if let Err(error) = self.effect(account, &effect).await {
            let then = left_to(&effect);
            let approval = approval_of(&effect).map(field::display);
            tracing::error!(approval, ?effect, %error, then, "could not be done");
        }
    }

    async fn do_report(&self, push: Push, outcome: Outcome) {
        let (about, to) = (push.about, push.to);
        if let Err(error) = self.reported(push, outcome).await {
            let approval = about.approval().map(field::display);
            tracing::warn!(approval, ?about, authenticator = %to, %error, "what became of a push could not be recorded");
        }
    }

    async fn effect(&self, account: AccountId, effect: &Effect) -> Result<(), Error> {
        match effect {
            Effect::PushChallenge(id) => self.push_challenge(*id).await,
            Effect::PushTrial(id) => self.push_trial(*id).await,
            Effect::ReplaceShown(id, _) => self.replace_shown(*id).await,
            Effect::PushNotice(about) => self.push_notice(account, *about).await,
            Effect::ExpireApproval(id, at) => self.expire(Due::Approval(*id), *at).await,
            Effect::ExpireEnrolment(id, at) => self.expire(Due::Enrolment(*id), *at).await,
        }
    }

    /// When it began, the account says: a clock that has been set back may leave that ahead of it.
    async fn expire(&self, due: Due, at: Timestamp) -> Result<(), Error> {
        let begun = match (self.sign_in.accounts.load(due.account()).await, due) {
            (Ok(account), Due::Approval(id)) => account.approval(id).map(|one| one.requested_at),
            (Ok(account), Due::Enrolment(id)) => account.enrolment(id).map(|one| one.begun_at),
            // Its end is written all the same, or tried.
            (Err(_), _) => None,
        };
        let begun = begun.unwrap_or_default();
        let _ = self.expiry.send(Alarm { due, at, begun }).await;
        Ok(())
    }

    /// To every phone that may answer, and that does not have it already (from before a restart).
    async fn push_challenge(&self, id: ApprovalId) -> Result<(), Error> {
        let account = self.sign_in.accounts.load(id.account()).await?;
        let Some(approval) = account.approval(id).filter(|one| one.ending.is_none()) else { return Ok(()) };
        let Some(issued) = &approval.issued else { return Ok(()) };
        let known = self.sign_in.models.approvals.find(id).map(|place| place.steps()).unwrap_or_default();
        let mut result = Ok(());
        for phone in account.active_authenticators().filter(|one| one.may_answer(approval)) {
            let over = known.iter().any(|(_, delivery)| {
                delivery.authenticator == phone.id
                    && matches!(delivery.step, DeliveryStep::Accepted { .. } | DeliveryStep::Failed { .. })
            });
            if !over {
                let token = self.sign_in.keys.acknowledgements.token(id, phone.id, issued.expires_at);
                // What goes wrong with one phone is no reason not to push to the next.
                result = result.and(self.push(phone, About::Challenge(id), issued.expires_at, &token).await);
            }
        }
        result
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

    /// On the phones that show it still: not on the one that ended it, which knows.
    async fn replace_shown(&self, id: ApprovalId) -> Result<(), Error> {
        let Some(Replacing { until, phones }) = self.sign_in.models.index.replace(id) else { return Ok(()) };
        self.replace_on(id, &phones, until).await
    }

    async fn replace_on(
        &self,
        id: ApprovalId,
        phones: &[AuthenticatorId],
        until: Timestamp,
    ) -> Result<(), Error> {
        let index = &self.sign_in.models.index;
        // After a start there can be many of these, and none of their accounts is in memory.
        if self.sign_in.clock.now() >= until {
            for phone in phones {
                index.replaced(id, *phone);
            }
            return Ok(());
        }
        let account = self.sign_in.accounts.load(id.account()).await?;
        let mut result = Ok(());
        for phone in phones {
            match account.active_authenticators().find(|one| one.id == *phone) {
                Some(phone) => result = result.and(self.push(phone, About::Ended(id), until, &[]).await),
                None => index.replaced(id, *phone),
            }
        }
        result
    }

    async fn push_notice(&self, account: AccountId, about: AuthenticatorId) -> Result<(), Error> {
        let account = self.sign_in.accounts.load(account).await?;
        let until = self.sign_in.clock.now().plus(NOTICE_KEPT);
        let mut result = Ok(());
        for phone in account.active_authenticators().filter(|one| one.id != about) {
            result = result.and(self.push(phone, About::Notice(about), until, &[]).await);
        }
        result
    }

    async fn push(
        &self,
        phone: &Authenticator,
        about: About,
        expires_at: Timestamp,
        acknowledgement_token: &[u8],
    ) -> Result<(), Error> {
        let to = phone.id;
        let Some(target) = phone.live_push_target() else {
            metrics().push.not_queued.count(labels::NotQueued::NoPushTarget);
            return self.failed(about, to, "NO_PUSH_TARGET".to_owned()).await;
        };
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            metrics().push.not_queued.count(labels::NotQueued::QueueFull);
            return self.failed(about, to, "QUEUE_FULL".to_owned()).await;
        };
        let push = Push { about, to, _place: Arc::new(place), span: about.span(target) };
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
            // At the next start what still waits is pushed again: see `left_to`.
            Err(NotQueued::Draining) => Ok(()),
            Err(NotQueued::Full(_)) => {
                metrics().push.not_queued.count(labels::NotQueued::QueueFull);
                self.failed(about, to, "QUEUE_FULL".to_owned()).await
            }
            Err(error @ NotQueued::NotConfigured(_)) => {
                metrics().push.not_queued.count(labels::NotQueued::NotConfigured);
                let approval = about.approval().map(field::display);
                tracing::warn!(approval, authenticator = %phone.id, %error, "a phone cannot be reached");
                self.failed(about, to, "NOT_CONFIGURED".to_owned()).await
            }
        }
    }

    async fn reported(&self, push: Push, outcome: Outcome) -> Result<(), Error> {
        let (about, to) = (push.about, push.to);
        push.span.record("result", became(&outcome));
        match outcome {
            Outcome::Accepted { push_id } => self.accepted(about, to, push_id).await,
            Outcome::Failed { reason } => self.failed(about, to, reason).await,
            Outcome::Delayed { reason } => self.record(about, to, DeliveryStep::Delayed { reason }).await,
            Outcome::Dead { target_hash, since, reason } => {
                // Neither waits for the other: the target's death matters for all that is pushed later.
                let died = self.died(to, target_hash, since, &reason).await;
                died.and(self.failed(about, to, reason).await)
            }
            Outcome::Withdrawn => Ok(()),
        }
    }

    async fn accepted(&self, about: About, to: AuthenticatorId, push_id: String) -> Result<(), Error> {
        let replaced = match about {
            About::Challenge(id) => self.shown(id, to).await,
            About::Ended(id) => {
                self.sign_in.models.index.replaced(id, to);
                Ok(())
            }
            About::Trial(_) | About::Notice(_) => Ok(()),
        };
        self.record(about, to, DeliveryStep::Accepted { push_id }).await.and(replaced)
    }

    /// A phone shows a challenge from now on. If that ended while the push was on its way, what it shows is over.
    async fn shown(&self, id: ApprovalId, phone: AuthenticatorId) -> Result<(), Error> {
        let index = &self.sign_in.models.index;
        if index.shows(id, phone) {
            return Ok(());
        }
        if let Some(Replacing { until, phones }) = index.replace(id) {
            return self.replace_on(id, &phones, until).await;
        }
        // No other phone shows it, and it is forgotten already.
        let account = self.sign_in.accounts.load(id.account()).await?;
        if ended_by(&account, id) == Some(phone) {
            return Ok(());
        }
        self.replace_on(id, &[phone], self.sign_in.clock.now().plus(REPLACED_WITHIN)).await
    }

    async fn died(
        &self,
        authenticator: AuthenticatorId,
        target_hash: [u8; 32],
        dead_since: Option<Timestamp>,
        reason: &str,
    ) -> Result<(), Error> {
        let reason = reason.to_owned();
        let command = Command::RecordDeadTarget { authenticator, target_hash, dead_since, reason };
        let account = authenticator.account();
        match self.sign_in.accounts.decide(account, |_, _| Ok::<_, Error>(command.clone())).await {
            // Revoked so long ago that its account has forgotten it.
            Ok(_) | Err(Error::Refused(Refusal::UnknownAuthenticator)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// A page is shown that a challenge or a trial does not come; of the others, who runs the broker is told.
    async fn failed(&self, about: About, to: AuthenticatorId, reason: String) -> Result<(), Error> {
        match about {
            About::Challenge(_) | About::Trial(_) => {}
            About::Ended(id) => {
                tracing::info!(approval = %id, authenticator = %to, reason, "not pushed that it has ended");
                self.sign_in.models.index.replaced(id, to);
            }
            About::Notice(id) => {
                tracing::warn!(about = %id, authenticator = %to, reason, "a notice was not pushed; the phone lists it");
            }
        }
        self.record(about, to, DeliveryStep::Failed { reason }).await
    }

    /// Only what a page can show is recorded.
    async fn record(&self, about: About, to: AuthenticatorId, step: DeliveryStep) -> Result<(), Error> {
        let subject = match about {
            About::Challenge(id) => Subject::Approval(id),
            About::Trial(id) => Subject::Enrolment(id),
            About::Ended(_) | About::Notice(_) => return Ok(()),
        };
        self.sign_in.record_delivery(Delivery { subject, authenticator: to, step }).await
    }
}

/// The approval that an effect is about.
fn approval_of(effect: &Effect) -> Option<ApprovalId> {
    match effect {
        Effect::PushChallenge(id) | Effect::ExpireApproval(id, _) | Effect::ReplaceShown(id, _) => Some(*id),
        Effect::PushTrial(_) | Effect::ExpireEnrolment(..) | Effect::PushNotice(_) => None,
    }
}

/// What becomes of an effect that could not be done. At a start the follower takes up what is live, and replaces what
/// ended lately.
fn left_to(effect: &Effect) -> &'static str {
    match effect {
        Effect::PushChallenge(_) | Effect::PushTrial(_) => {
            "it is pushed at the next start if it waits still; the phone lists it"
        }
        Effect::ReplaceShown(..) => {
            "it is done at the next start if that comes within ten minutes of the end; else the phone's own clock ends it"
        }
        Effect::PushNotice(_) => "it is not pushed again; the phones list it for seven days",
        Effect::ExpireApproval(..) | Effect::ExpireEnrolment(..) => "it is done at the next start",
    }
}

/// The word for what became of a push.
fn became(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Accepted { .. } => "accepted",
        Outcome::Failed { .. } => "failed",
        Outcome::Delayed { .. } => "delayed",
        Outcome::Dead { .. } => "dead",
        Outcome::Withdrawn => "withdrawn",
    }
}

/// The phone whose answer ended an approval.
fn ended_by(account: &Account, id: ApprovalId) -> Option<AuthenticatorId> {
    Some(account.approval(id)?.ending.as_ref()?.answer.as_ref()?.authenticator)
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

    /// Of a challenge, a step of the sign-in's trace; the others come after its end, or belong to no sign-in.
    fn span(self, target: &PushTarget) -> Span {
        let Self::Challenge(id) = self else { return Span::none() };
        let service = target.service();
        traces::of(id)
            .step(|| info_span!(target: STORY, "push", otel.kind = "client", %service, result = field::Empty))
    }

    fn approval(self) -> Option<ApprovalId> {
        match self {
            Self::Challenge(id) | Self::Ended(id) => Some(id),
            Self::Trial(_) | Self::Notice(_) => None,
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
