//! A sign-in with everything round it in memory, on tokio's clock: a log, a follower, a dispatcher, phones that note what
//! is pushed to them.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use countersign_domain::{
    AccountId, ApprovalId, AuthenticatorId, EnrolmentId, Event, RelyingPartyId, Timestamp,
    event::{
        AuthenticatorBound, Context, Idempotency, Identity, Platform, PushServiceKind, PushTarget,
        RecordedAnswer,
    },
    policy::Policy,
    text::{DisplayText, Realm},
};
use countersign_envelope::SigningKey;
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use super::log::StagedLog;
use crate::{
    clock::Clock,
    decider::{
        Decider,
        codec::{
            AccountCodec, Codec, RelyingPartyCodec, delivery,
            delivery::{Delivery, DeliveryStep},
        },
    },
    entropy::OsEntropy,
    keys::{Keys, folder},
    log::{Append, Crash, EventLog, Expected, Urgency},
    projection::Follower,
    push::{self, Accepted, PushKind, PushMessage, PushService, Pusher, QueueSettings, Report, Service},
    shares::Most,
    signin::{
        SignIn,
        dispatch::{Dispatcher, Push, Reports},
        expiry::Alarm,
        request::{NewRequest, Opened},
    },
};

pub(crate) const ACCOUNT: AccountId = AccountId::from_bytes([1; 16]);
pub(crate) const RELYING_PARTY: RelyingPartyId = RelyingPartyId::from_bytes([6; 16]);

/// What a test of this takes at most, by its own clock.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug)]
struct TokioClock(Instant);

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000).plus(self.0.elapsed())
    }
}

/// A push service; all phones are its own.
#[derive(Debug, Default)]
pub(crate) struct Phones {
    pushed: Mutex<Vec<(PushKind, String)>>,
    pub(crate) dead: AtomicBool,
}

#[async_trait]
impl PushService for Phones {
    async fn send(
        &self,
        _: &PushTarget,
        message: &PushMessage,
        _: Timestamp,
    ) -> Result<Accepted, push::Error> {
        let mut pushed = self.pushed.lock().unwrap();
        pushed.push((message.kind, message.authenticator_id.clone()));
        if self.dead.load(Ordering::SeqCst) {
            return Err(push::Error::Dead { reason: "Unregistered".to_owned(), since: None });
        }
        Ok(Accepted { push_id: pushed.len().to_string() })
    }
}

impl Phones {
    /// To whom pushes of this kind went, in order of ids.
    pub(crate) fn pushed(&self, kind: PushKind) -> Vec<String> {
        let pushed = self.pushed.lock().unwrap();
        let mut to: Vec<_> =
            pushed.iter().filter(|(pushed, _)| *pushed == kind).map(|(_, to)| to.clone()).collect();
        to.sort_unstable();
        to
    }
}

/// How a stage is set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    pub(crate) live_max: Most,
    pub(crate) pushes_max: usize,
    pub(crate) expiries_waiting: usize,
}

impl Setting {
    /// At most so many approvals wait.
    pub(crate) fn waiting(live_max: usize) -> Self {
        Self { live_max: Most { in_all: live_max, of_one: live_max }, ..Self::default() }
    }
}

impl Default for Setting {
    fn default() -> Self {
        Self { live_max: Most { in_all: 1_000, of_one: 1_000 }, pushes_max: 1_000, expiries_waiting: 1_000 }
    }
}

pub(crate) struct Stage {
    pub(crate) log: StagedLog,
    pub(crate) sign_in: SignIn,
    pub(crate) phones: Arc<Phones>,
    pub(crate) due: Option<mpsc::Receiver<Alarm>>,
    keys: Arc<Keys>,
    clock: Arc<dyn Clock>,
    follower: JoinHandle<()>,
    dispatcher: JoinHandle<()>,
}

/// New keys, in a folder that is gone when they are read.
pub(crate) fn keys() -> Arc<Keys> {
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("keys");
    folder::create(&keys, &OsEntropy).unwrap();
    Arc::new(folder::load(&keys).unwrap())
}

impl Stage {
    pub(crate) async fn new() -> Self {
        Self::set(Setting::default()).await
    }

    pub(crate) async fn set(setting: Setting) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(TokioClock(Instant::now()));
        Self::start(StagedLog::default(), keys(), clock, setting).await
    }

    async fn start(log: StagedLog, keys: Arc<Keys>, clock: Arc<dyn Clock>, setting: Setting) -> Self {
        let on: Arc<dyn EventLog> = Arc::new(log.clone());
        let entropy = Arc::new(OsEntropy);
        let cached = 1_000.try_into().unwrap();
        let codec = AccountCodec::new(Arc::clone(&keys), Arc::clone(&entropy) as _);
        let accounts = Arc::new(Decider::new(Arc::clone(&on), Arc::clone(&clock), codec, cached));
        let parties = Decider::new(Arc::clone(&on), Arc::clone(&clock), RelyingPartyCodec, cached);
        let (effects, to_do) = mpsc::channel(1_000);
        let (follower, models) =
            Follower::catch_up(on, Arc::clone(&accounts), Arc::new(parties), effects).await.unwrap();
        let policy = Policy { digits: 6, waiting_max: 1_000, requests_max: 1_000, ..Policy::default() };
        let sign_in = SignIn::new(
            accounts,
            models,
            Arc::clone(&keys),
            entropy,
            Arc::clone(&clock),
            policy,
            setting.live_max,
        );
        let phones = Arc::new(Phones::default());
        let (reports, told) = Reports::new(sign_in.clone());
        let reports: Arc<dyn Report<Push>> = reports;
        let service = Service {
            kind: PushServiceKind::Fcm,
            connections: vec![Arc::clone(&phones) as _],
            queue: QueueSettings::default(),
            credentials: None,
        };
        let now: push::Clock = Arc::new({
            let clock = Arc::clone(&clock);
            move || clock.now()
        });
        let random: push::Random = Arc::new(|| 7);
        let pusher = Arc::new(Pusher::start([service], &reports, &now, &random));
        let (expire, due) = mpsc::channel(setting.expiries_waiting);
        let dispatcher = Dispatcher::new(sign_in.clone(), pusher, expire, setting.pushes_max);
        Self {
            log,
            sign_in,
            phones,
            due: Some(due),
            keys,
            clock,
            follower: tokio::spawn(async move { follower.run().await.unwrap() }),
            dispatcher: tokio::spawn(dispatcher.run(to_do, told)),
        }
    }

    /// The power goes: nothing is followed or dispatched any more. What is appended now, a broker found out about that had
    /// no time for more.
    pub(crate) async fn crash(&mut self) {
        self.follower.abort();
        self.dispatcher.abort();
        let _ = (&mut self.follower).await;
        let _ = (&mut self.dispatcher).await;
    }

    /// Stops as a broker does that is told to.
    pub(crate) async fn stop(&mut self) {
        self.log.close().await;
        (&mut self.follower).await.unwrap();
    }

    /// The next start on what is in the log.
    pub(crate) async fn next(&self) -> Self {
        self.next_set(Setting::default()).await
    }

    /// The same with other settings.
    pub(crate) async fn next_set(&self, setting: Setting) -> Self {
        let log = StagedLog::on(self.log.inner.crash(Crash::Keeps));
        Self::start(log, Arc::clone(&self.keys), Arc::clone(&self.clock), setting).await
    }

    /// An account with so many active phones.
    pub(crate) async fn account(&self, phones: u8) -> Vec<AuthenticatorId> {
        let identity =
            Identity { realm: Realm::recorded("example.org"), name: DisplayText::recorded("Alice Alison") };
        self.append(vec![Event::Opened(identity)]).await;
        let mut enrolled = Vec::new();
        for phone in 0..phones {
            let (authenticator, enrolment) =
                (AuthenticatorId::new(ACCOUNT, [phone; 8]), EnrolmentId::new(ACCOUNT, [phone; 8]));
            let bound = AuthenticatorBound {
                authenticator,
                enrolment,
                key: SigningKey::ed25519(&[phone; 32]).public_key(),
                platform: Platform::Android,
                device_name: DisplayText::recorded("Alice's phone"),
                push_target: PushTarget::recorded(PushServiceKind::Fcm, &format!("target {phone}")),
                claim_hash: [phone; 32],
            };
            let activated =
                Event::AuthenticatorActivated { authenticator, enrolment, answer_hash: [phone; 32] };
            self.append(vec![Event::AuthenticatorBound(bound), activated]).await;
            enrolled.push(authenticator);
        }
        enrolled
    }

    /// These events happened to the account.
    pub(crate) async fn append(&self, events: Vec<Event>) {
        let codec = self.sign_in.accounts.codec();
        let append = Append {
            stream: codec.stream(ACCOUNT),
            expected: Expected::Any,
            urgency: Urgency::Now,
            recorded_at_ms: self.sign_in.clock.now().as_millis(),
            events: events.iter().map(|event| codec.encode(ACCOUNT, event)).collect(),
        };
        self.log.append(append).await.unwrap();
    }

    /// Asks for the account's approval, in a session of its own.
    pub(crate) async fn request(&self, key: Option<u8>) -> Result<Opened, crate::signin::Error> {
        self.request_in(self.sign_in.entropy.bytes(), key).await
    }

    /// The same in this session.
    pub(crate) async fn request_in(
        &self,
        session: [u8; 16],
        key: Option<u8>,
    ) -> Result<Opened, crate::signin::Error> {
        self.request_of(RELYING_PARTY, session, key).await
    }

    /// The same for this relying party.
    pub(crate) async fn request_of(
        &self,
        relying_party: RelyingPartyId,
        session: [u8; 16],
        key: Option<u8>,
    ) -> Result<Opened, crate::signin::Error> {
        let new = NewRequest {
            relying_party,
            relying_party_name: DisplayText::recorded("Example"),
            account: ACCOUNT,
            application: DisplayText::recorded("Webmail"),
            context: Context::default(),
            session_binding: Bytes::copy_from_slice(&session),
            idempotency: key.map(|key| Idempotency { key_hash: [key; 32], request_hash: [0; 32] }),
            lifetime: None,
        };
        self.sign_in.request(new).await
    }

    /// What is recorded of pushes.
    pub(crate) async fn deliveries(&self) -> Vec<Delivery> {
        let entries = self.log.inner.read(delivery::stream(ACCOUNT), None).await.unwrap();
        let records = entries.iter().flat_map(|entry| &entry.events);
        records.map(|record| delivery::decode(record).unwrap().unwrap()).collect()
    }

    /// Asks, and waits until so many pushes are recorded as accepted.
    pub(crate) async fn shown(&self, phones: usize) -> ApprovalId {
        let opened = self.request(None).await.unwrap();
        let place = self.sign_in.models.approvals.expect(opened.id);
        until(|| {
            let steps = place.steps();
            steps.iter().filter(|(_, one)| matches!(one.step, DeliveryStep::Accepted { .. })).count()
                == phones
        })
        .await;
        opened.id
    }
}

/// An answer as it is recorded.
pub(crate) fn answer(authenticator: AuthenticatorId) -> RecordedAnswer {
    RecordedAnswer {
        authenticator,
        answer_hash: [13; 32],
        payload: Bytes::from_static(b"answer"),
        signature: Bytes::from_static(&[14; 64]),
    }
}

/// Waits until it is so.
pub(crate) async fn until(it_is_so: impl Fn() -> bool) {
    let waiting = async {
        while !it_is_so() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, waiting).await.expect("in time");
}

/// Waits for what must not come, too.
pub(crate) async fn a_while() {
    sleep(Duration::from_secs(2)).await;
}
