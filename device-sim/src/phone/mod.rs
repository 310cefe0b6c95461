//! Phones with real keys. They enrol through the public API, get pushes, check what the broker signed before they show
//! anything, and answer: honestly, or as one would who wants in.
//!
//! In the order of a phone's life: [`invitation`] (what was scanned or typed) → [`enrol`] (key, claim, receipt) → `push`
//! (what arrives) → `calls` (list, fetch, submit, acknowledge, replace, unenrol) → [`check`] (before anything is shown)
//! → [`answer`] (what is signed, and every way to get it wrong) → [`profile`] (who answers, and how). Beside it:
//! [`hand_over`] (the number that 'someone types'), `store` (a phone that outlives its process).
//!
//! A [`Phone`] owns no thread, task or connection, so that one process can be a hundred thousand of them: it holds some
//! hundred bytes beside its key, and every call takes the [`Transport`](crate::wire::Transport) to go by.
//!
//! ```no_run
//! use device_sim::{
//!     clock::Clock,
//!     phone::{Decision, Invitation, NewPhone, PushTarget},
//!     wire::Transport,
//! };
//!
//! # async fn example(uri: &str, typed: &str) -> Result<(), Box<dyn std::error::Error>> {
//! let clock = Clock::new();
//! let invitation = Invitation::scanned(uri)?;
//! let transport = Transport::to(invitation.address()).open()?;
//! let target = PushTarget::Apns("00".repeat(32));
//! let new = NewPhone::new("Åsa's phone", target, countersign_envelope::Algorithm::Es256);
//! let (phone, trial) = new.enrol(&transport, &invitation, clock.now()).await?;
//! phone.answer_trial(&transport, &trial, typed).await?;
//!
//! for challenge in phone.list_waiting(&transport, clock.now()).await?.challenges {
//!     phone.answer(&transport, &challenge, Decision::Approve { number: typed }).await?;
//! }
//! # Ok(())
//! # }
//! ```

pub mod answer;
mod calls;
pub mod check;
pub mod enrol;
pub mod hand_over;
pub mod invitation;
mod key;
pub mod profile;
mod push;
mod store;
pub mod text;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use countersign_proto::v1;

pub use self::{
    answer::{AnswerBuilder, Decision, TrialAnswerBuilder},
    calls::{Error, Fetched, Waiting},
    check::{Asked, Challenge, NotShown, Notice, Trial},
    enrol::{Claim, EnrolError, NewPhone},
    hand_over::{HandOver, Number},
    invitation::{Broker, Invitation, NotTheBroker},
    key::Key,
    profile::{Played, Profile},
    push::{InvalidPush, Push, PushKind, Received},
    store::StoreError,
};
use crate::clock::Timestamp;

/// Pushes may come more than once: so many ids back a phone remembers.
const REMEMBERED_MAX: usize = 8;

/// What a phone runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Platform {
    /// iOS: pushed to through APNs.
    Ios,
    /// Android: pushed to through FCM.
    Android,
}

/// A push service's address of a phone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum PushTarget {
    /// APNs' device token.
    Apns(String),
    /// FCM's registration token.
    Fcm(String),
}

impl PushTarget {
    /// The target itself.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Apns(target) | Self::Fcm(target) => target,
        }
    }

    /// What a phone with such a target runs.
    pub fn platform(&self) -> Platform {
        match self {
            Self::Apns(_) => Platform::Ios,
            Self::Fcm(_) => Platform::Android,
        }
    }

    /// As a message.
    pub fn to_message(&self) -> v1::PushTarget {
        use v1::push_target::Service;
        let service = match self {
            Self::Apns(target) => Service::ApnsDeviceToken(target.clone()),
            Self::Fcm(target) => Service::FcmRegistrationToken(target.clone()),
        };
        v1::PushTarget { service: Some(service) }
    }
}

/// Who knows a target can push to it, so only its beginning is printed.
impl fmt::Debug for PushTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start: String = self.as_str().chars().take(8).collect();
        write!(f, "{:?} {start}…", self.platform())
    }
}

/// An enrolled phone. All that it knows of the broker it learnt at its enrolment.
///
/// Its methods take `&self`: one phone may answer two challenges at once, from two tasks.
pub struct Phone {
    name: Box<str>,
    key: Arc<Key>,
    broker: Arc<Broker>,
    authenticator_id: Box<str>,
    account_name: Box<str>,
    realm: Box<str>,
    state: Mutex<State>,
}

/// What changes while the phone is in use.
#[derive(Debug)]
struct State {
    push_target: PushTarget,
    /// Of the last change that the broker may have seen.
    counter: u64,
    /// The server's nonce for the next read; empty where none is known.
    nonce: Bytes,
    /// The trial is passed.
    is_active: bool,
    /// Notices up to this moment were shown.
    notices_until: Timestamp,
    /// What asked for an answer by push lately, the newest last.
    remembered: Vec<Box<str>>,
}

impl Phone {
    /// What the person calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it runs.
    pub fn platform(&self) -> Platform {
        self.lock().push_target.platform()
    }

    /// Where it is pushed to.
    pub fn push_target(&self) -> PushTarget {
        self.lock().push_target.clone()
    }

    /// Its key.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The broker that it is enrolled with.
    pub fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }

    /// Its name at the broker.
    pub fn authenticator_id(&self) -> &str {
        &self.authenticator_id
    }

    /// The account that it belongs to.
    pub fn account_name(&self) -> &str {
        &self.account_name
    }

    /// The account's realm.
    pub fn realm(&self) -> &str {
        &self.realm
    }

    /// Whether its trial is passed.
    pub fn is_active(&self) -> bool {
        self.lock().is_active
    }

    /// The counter of its last change.
    pub fn counter(&self) -> u64 {
        self.lock().counter
    }

    /// Sets the counter of the last change: a phone that was restored from an old backup, or one that plays such.
    pub fn set_counter(&self, counter: u64) {
        self.lock().counter = counter;
    }

    /// The nonce that the next read will carry; empty where none is known.
    pub fn nonce(&self) -> Bytes {
        self.lock().nonce.clone()
    }

    /// Sets the nonce that the next read will carry.
    pub fn set_nonce(&self, nonce: impl Into<Bytes>) {
        self.lock().nonce = nonce.into();
    }

    /// Uses the broker of another phone if it is the same, so that a hundred thousand phones hold one.
    pub fn share_broker(&mut self, broker: &Arc<Broker>) {
        if self.broker == *broker {
            self.broker = Arc::clone(broker);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn learn_nonce(&self, nonce: &Bytes) {
        if !nonce.is_empty() {
            self.lock().nonce = nonce.clone();
        }
    }
}

impl fmt::Debug for Phone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Phone")
            .field("name", &self.name)
            .field("authenticator_id", &self.authenticator_id)
            .finish_non_exhaustive()
    }
}
