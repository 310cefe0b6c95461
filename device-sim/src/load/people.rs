//! People, and a phone for each of them: enrolled through the public interface, or of an account that the broker's past has.
//! It waits for its pushes and does what its owner was cast for.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use countersign_envelope::Algorithm;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::{sync::oneshot, task::JoinSet, time::Instant};

use super::{Progress, Stage, StageError, pace::now};
use crate::{
    clock::Clock,
    login::EnrolmentStep,
    phone::{
        Asked, Challenge, Error, HandOver, Invitation, NewPhone, Number, Phone, Played, Profile, Push,
        PushKind, PushTarget, Received,
    },
    push_services::{Device, Service},
    wire::Transport,
};

/// So many enrol at a time.
const ENROLLING_MAX: usize = 64;
/// Between two tries of a phone whose broker is away.
const BETWEEN_TRIES: Duration = Duration::from_millis(100);

/// From pages to phones: the number, and what the person does with it.
pub(super) type Desk = HandOver<Arc<Ordered>>;

/// What the person will do, before the page shows a number.
pub(super) struct Order {
    pub(super) profile: Profile,
    pub(super) think: Duration,
    /// How long the phone tries, if the broker is away.
    pub(super) patience: Duration,
    pub(super) progress: Progress,
    pub(super) done: oneshot::Sender<PhoneView>,
}

/// The same with the number.
pub(super) struct Ordered {
    profile: Profile,
    think: Duration,
    patience: Duration,
    progress: Progress,
    number: Number,
    done: Mutex<Option<oneshot::Sender<PhoneView>>>,
}

/// What the phone did.
#[derive(Debug)]
pub(super) struct PhoneView {
    pub(super) played: Option<Played>,
    pub(super) failed: Option<Box<str>>,
    pub(super) answered_at: Option<Instant>,
}

impl Order {
    pub(super) fn with(self, number: Number) -> Ordered {
        let Self { profile, think, patience, progress, done } = self;
        Ordered { profile, think, patience, progress, number, done: Mutex::new(Some(done)) }
    }
}

impl fmt::Debug for Ordered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ordered").field("profile", &self.profile).finish_non_exhaustive()
    }
}

/// People with phones. Their phones listen until this is dropped.
#[derive(Debug)]
pub struct People {
    accounts: Vec<Box<str>>,
    pub(super) desk: Desk,
    _listening: JoinSet<()>,
}

impl People {
    /// Enrols so many: every other one with an iPhone, every other pair with an Ed25519 key.
    pub async fn enrol(stage: &Stage, count: usize, progress: &Progress) -> Result<Self, StageError> {
        let prefix = format!("load-{}", crate::entropy::Names::new().next());
        let enrolled: Vec<_> = stream::iter(0..count)
            .map(|number| one(stage, format!("{prefix}-{number}"), number))
            .buffer_unordered(ENROLLING_MAX)
            .inspect_ok(|_| progress.one_enrolled())
            .try_collect()
            .await?;
        Ok(Self::listening(stage, enrolled))
    }

    /// The people of the broker's [`Past`](super::Past), with phones of the same kinds. A challenge goes to all phones of
    /// an account: one of them, in turn, is with its owner, and the others are away.
    pub fn of_the_past(stage: &Stage) -> Result<Self, StageError> {
        let mut phones_of: Vec<Vec<Phone>> = Vec::new();
        for phone in stage.phones_of_the_past()? {
            away(stage, &phone)?;
            match phones_of.last_mut() {
                Some(theirs) if theirs[0].account_name() == phone.account_name() => theirs.push(phone),
                _ => phones_of.push(vec![phone]),
            }
        }
        let with_them = phones_of.into_iter().enumerate().map(|(who, mut theirs)| {
            let phone = theirs.swap_remove(who % theirs.len());
            let device = stage.push.connect(phone.push_target().as_str()).expect("its target was made");
            (phone, device)
        });
        Ok(Self::listening(stage, with_them.collect()))
    }

    fn listening(stage: &Stage, people: Vec<(Phone, Device)>) -> Self {
        let desk = Desk::new();
        let accounts = people.iter().map(|(phone, _)| phone.account_name().into()).collect();
        let mut listening = JoinSet::new();
        let mut broker = None;
        for (mut phone, device) in people {
            // A hundred thousand phones hold one copy of what they know of the broker.
            phone.share_broker(broker.get_or_insert_with(|| Arc::clone(phone.broker())));
            let pocket = Pocket {
                phone: Arc::new(phone),
                device,
                desk: desk.clone(),
                transport: stage.phones.clone(),
                clock: Clock::new(),
            };
            listening.spawn(pocket.listen());
        }
        Self { accounts, desk, _listening: listening }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.accounts.len()
    }

    /// Whether there is nobody.
    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }

    /// What one is called.
    pub fn account(&self, who: usize) -> String {
        self.accounts[who].to_string()
    }
}

/// The push services know this phone, which is away.
fn away(stage: &Stage, phone: &Phone) -> Result<(), StageError> {
    let target = phone.push_target();
    let service = match target {
        PushTarget::Apns(_) => Service::Apns,
        PushTarget::Fcm(_) => Service::Fcm,
    };
    stage.push.restore_target(service, None, target.as_str()).map_err(|error| StageError::Enrolment {
        account: phone.account_name().to_owned(),
        what: error.to_string(),
    })
}

/// One person enrols a phone.
async fn one(stage: &Stage, account: String, number: usize) -> Result<(Phone, Device), StageError> {
    let service = if number.is_multiple_of(2) { Service::Apns } else { Service::Fcm };
    let algorithm = if (number / 2).is_multiple_of(2) { Algorithm::Es256 } else { Algorithm::Ed25519 };
    let failed = |what: String| StageError::Enrolment { account: account.clone(), what };
    let device = stage.push.new_device(service).map_err(|error| failed(error.to_string()))?;
    let target = match service {
        Service::Apns => PushTarget::Apns(device.target().to_owned()),
        Service::Fcm => PushTarget::Fcm(device.target().to_owned()),
    };
    let begun = loop {
        match stage.page.begin(&account).await {
            Err(refusal) if refusal.code() == tonic::Code::ResourceExhausted && refusal.retry_helps() => {
                tokio::time::sleep(refusal.retry_after().unwrap_or(BETWEEN_TRIES)).await;
            }
            begun => break begun.map_err(|error| failed(error.to_string()))?,
        }
    };
    let invitation = Invitation::scanned(&begun.uri).map_err(|error| failed(error.to_string()))?;
    let new = NewPhone::new("phone", target, algorithm);
    let (phone, trial) = new
        .enrol(&stage.phones, &invitation, Clock::new().now())
        .await
        .map_err(|error| failed(error.to_string()))?;
    let mut updates =
        stage.page.watch(&begun.enrolment_id, 0).await.map_err(|error| failed(error.to_string()))?;
    let number = loop {
        match updates.next().await.map_err(|error| failed(error.to_string()))? {
            Some(update) => {
                if let EnrolmentStep::Trial { number, .. } = update.step {
                    break number;
                }
            }
            None => return Err(failed("the enrolment ended before its trial".to_owned())),
        }
    };
    phone
        .answer_trial(&stage.phones, &trial, number.expose())
        .await
        .map_err(|error| failed(error.to_string()))?;
    // The page sees that the phone is active, and the stream's end.
    while updates.next().await.map_err(|error| failed(error.to_string()))?.is_some() {}
    Ok((phone, device))
}

/// A phone in somebody's pocket.
struct Pocket {
    phone: Arc<Phone>,
    device: Device,
    desk: Desk,
    transport: Transport,
    clock: Clock,
}

impl Pocket {
    async fn listen(self) {
        while let Some(push) = self.device.next_push().await {
            let Ok(push) = Push::parse(&push.body) else { continue };
            if push.kind == PushKind::Challenge && self.phone.receive(&push) == Received::New {
                let ring = Ring {
                    phone: Arc::clone(&self.phone),
                    desk: self.desk.clone(),
                    transport: self.transport.clone(),
                    clock: self.clock.clone(),
                };
                tokio::spawn(ring.answer(push));
            }
        }
    }
}

/// A phone that rings.
struct Ring {
    phone: Arc<Phone>,
    desk: Desk,
    transport: Transport,
    clock: Clock,
}

impl Ring {
    async fn answer(self, push: Push) {
        // Progress on a page, and of no consequence.
        let _ = self.phone.acknowledge_delivered(&self.transport, &push).await;
        let Some(order) = self.desk.take(&push.id).await else { return };
        let Some(done) = order.done.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        let view = match self.fetch(&push, &order).await {
            Ok(challenge) => {
                let _ = self.phone.acknowledge_opened(&self.transport, &push).await;
                tokio::time::sleep(order.think).await;
                let answered_at = now();
                let played = order
                    .profile
                    .play_for(
                        &self.phone,
                        &self.transport,
                        &challenge,
                        &order.number,
                        &self.clock,
                        order.patience,
                    )
                    .await;
                PhoneView { played: Some(played), failed: None, answered_at: Some(answered_at) }
            }
            Err(why) => PhoneView { played: None, failed: Some(why), answered_at: None },
        };
        // The page has given it up.
        let _ = done.send(view);
    }

    async fn fetch(&self, push: &Push, order: &Ordered) -> Result<Challenge, Box<str>> {
        let first = self.clock.now();
        loop {
            match self.phone.fetch(&self.transport, &push.id, self.clock.now()).await {
                Ok(fetched) => match fetched.asked {
                    Asked::SignIn(challenge) => return Ok(challenge),
                    Asked::Trial(_) => return Err("a trial came where a challenge should".into()),
                },
                Err(Error::Refused(refusal))
                    if refusal.retry_helps() && self.clock.now().since(first) < order.patience =>
                {
                    order.progress.one_sent_away("phone", &refusal);
                    tokio::time::sleep(BETWEEN_TRIES).await;
                }
                Err(error) => return Err(error.to_string().into()),
            }
        }
    }
}
