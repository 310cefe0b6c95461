//! The devices that the services deliver to: what each is sent, what waits for it while it is away, and whether
//! its push target is still good.
//!
//! A target is held by its own lock, and found in one of many shards, so that a hundred thousand devices do not
//! wait for each other.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use bytes::Bytes;
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Notify;

use super::{
    Service,
    store::{Held, Shelf},
    tally::Tally,
};
use crate::{
    clock::{Clock, Timestamp},
    entropy::Names,
};

/// More targets than this are refused.
pub(crate) const TARGETS_MAX: usize = 1_000_000;
const SHARDS: usize = 64;

const HEX: &[u8] = b"0123456789abcdef";
const BASE64URL: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// Device tokens of today's iPhones have 32 bytes; Apple asks not to count on that.
const DEVICE_TOKEN_LENGTH: usize = 64;
/// A Firebase installation id has 22 characters, of which the first is c, d, e or f.
pub(crate) const FID_LENGTH: usize = 22;
/// What follows the installation id in a registration token.
const REGISTRATION_LENGTH: usize = 134;

/// A push as its device gets it.
#[derive(Clone, Debug)]
pub struct Push {
    /// The service that delivered it.
    pub service: Service,
    /// APNs: the `apns-id`. FCM: the message's name, `projects/<project>/messages/<id>`.
    pub id: Arc<str>,
    /// The request's headers, without the provider's credentials.
    pub headers: Arc<HeaderMap>,
    /// APNs: the payload. FCM: the `message` of the request, as JSON.
    pub body: Bytes,
    /// When the service accepted it.
    pub accepted_at: Timestamp,
    /// Whether it waited at the service because the device was away.
    pub was_stored: bool,
}

impl Push {
    /// The texts that an app finds in the push. FCM: `android.data` where it is set, else `data`. APNs: what stands in
    /// the payload beside `aps`.
    pub fn data(&self) -> BTreeMap<String, String> {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let data = match self.service {
            Service::Apns => &body,
            Service::Fcm => match &body["android"]["data"] {
                Value::Null => &body["data"],
                data => data,
            },
        };
        let texts = data.as_object().into_iter().flatten();
        texts.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
    }
}

/// Why a push target is not good any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Death {
    /// The app was removed or registered anew. APNs: `Unregistered`; FCM: `UNREGISTERED`.
    Unregistered,
    /// APNs: `ExpiredToken`; FCM knows no such thing and says `UNREGISTERED`.
    Expired,
}

/// All targets of both services.
#[derive(Debug)]
pub(crate) struct Registry {
    shards: Vec<RwLock<HashMap<Arc<str>, Arc<Target>>>>,
    hasher: RandomState,
    names: Names,
    clock: Clock,
    tally: Arc<Tally>,
}

impl Registry {
    pub(crate) fn new(clock: Clock, tally: Arc<Tally>) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            hasher: RandomState::new(),
            names: Names::new(),
            clock,
            tally,
        }
    }

    /// Makes a target of `app`: for APNs its bundle identifier, for FCM the project that it registered with.
    pub(crate) fn register(&self, service: Service, app: &str) -> Result<Arc<Target>, TooManyTargets> {
        let token = match service {
            Service::Apns => self.names.string(HEX, DEVICE_TOKEN_LENGTH),
            Service::Fcm => format!(
                "{}{}:APA91b{}",
                self.names.string(b"cdef", 1),
                self.names.string(BASE64URL, FID_LENGTH - 1),
                self.names.string(BASE64URL, REGISTRATION_LENGTH)
            ),
        };
        self.restore(service, app, &token)
    }

    /// Makes a target that was made before, in another run.
    pub(crate) fn restore(
        &self,
        service: Service,
        app: &str,
        token: &str,
    ) -> Result<Arc<Target>, TooManyTargets> {
        if self.len() >= TARGETS_MAX {
            return Err(TooManyTargets);
        }
        let target = Arc::new(Target {
            service,
            token: token.into(),
            app: app.into(),
            state: Mutex::new(State::new(service)),
            changed: Notify::new(),
        });
        let key = Arc::from(target.key());
        self.shard(target.key())
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key, Arc::clone(&target));
        Ok(target)
    }

    /// The target of this token; for FCM an installation id will do.
    pub(crate) fn find(&self, token: &str) -> Option<Arc<Target>> {
        let key = key_of(token);
        self.shard(key).read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// How many targets there are.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    /// Connects the device of `target` to its service: it gets what waited, then what comes. A connection that
    /// it had before ends.
    pub(crate) fn connect(&self, target: Arc<Target>) -> Device {
        let now = self.clock.now();
        let connection = target.lock().connect(now, &self.tally);
        target.changed.notify_waiters();
        Device { target, connection, clock: self.clock.clone(), tally: Arc::clone(&self.tally) }
    }

    fn shard(&self, key: &str) -> &RwLock<HashMap<Arc<str>, Arc<Target>>> {
        let hash = self.hasher.hash_one(key);
        &self.shards[usize::try_from(hash % SHARDS as u64).expect("less than SHARDS")]
    }
}

/// There are a million targets already.
#[derive(Debug, thiserror::Error)]
#[error("there are {TARGETS_MAX} targets already; no more are made")]
pub struct TooManyTargets;

/// FCM targets are found by their installation id, which is the part before the colon.
fn key_of(token: &str) -> &str {
    token.split_once(':').map_or(token, |(fid, _)| fid)
}

/// One push target: a device token or a registration token.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) service: Service,
    pub(crate) token: Arc<str>,
    /// APNs: the bundle identifier. FCM: the project.
    pub(crate) app: Box<str>,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    death: Option<(Death, Timestamp)>,
    /// The number of the connection that the device has now.
    connected: Option<u64>,
    connections: u64,
    shelf: Shelf,
}

/// What a target looks like from outside.
#[derive(Clone, Debug, Serialize)]
pub struct TargetState {
    /// The service.
    pub service: Service,
    /// The device token or registration token.
    pub target: Arc<str>,
    /// APNs: the bundle identifier. FCM: the project.
    pub app: Box<str>,
    /// Whether the device is connected.
    pub connected: bool,
    /// How many pushes wait for it.
    pub waiting: usize,
    /// Why and since when the target is dead.
    pub dead: Option<DeadSince>,
}

/// Why and since when a target is dead.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct DeadSince {
    /// Why.
    pub reason: Death,
    /// Since when, in milliseconds since the Unix epoch.
    pub since_ms: Timestamp,
}

impl Target {
    fn key(&self) -> &str {
        key_of(&self.token)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why and since when the target is dead.
    pub(crate) fn death(&self) -> Option<(Death, Timestamp)> {
        self.lock().death
    }

    /// Makes the target dead. A connected device is cut off, as an app that was removed.
    pub(crate) fn kill(&self, death: Death, now: Timestamp) {
        let mut state = self.lock();
        state.death.get_or_insert((death, now));
        state.connected = None;
        state.shelf.clear();
        drop(state);
        self.changed.notify_waiters();
    }

    /// Takes over a push for the device: it is delivered, kept, or dropped.
    pub(crate) fn hand_over(&self, held: Held, now: Timestamp, tally: &Tally) {
        let mut state = self.lock();
        if state.death.is_some() {
            return;
        }
        let is_connected = state.connected.is_some();
        state.shelf.put(held, is_connected, now, tally);
        drop(state);
        if is_connected {
            self.changed.notify_waiters();
        }
    }

    /// Runs `check` on what the service keeps of the target, under its lock.
    pub(crate) fn with_shelf<T>(&self, check: impl FnOnce(&mut Shelf) -> T) -> T {
        check(&mut self.lock().shelf)
    }

    /// What the target looks like now.
    pub(crate) fn state(&self) -> TargetState {
        let state = self.lock();
        TargetState {
            service: self.service,
            target: Arc::clone(&self.token),
            app: self.app.clone(),
            connected: state.connected.is_some(),
            waiting: state.shelf.len(),
            dead: state.death.map(|(reason, since_ms)| DeadSince { reason, since_ms }),
        }
    }
}

impl State {
    fn new(service: Service) -> Self {
        Self { death: None, connected: None, connections: 0, shelf: Shelf::new(service) }
    }

    fn connect(&mut self, now: Timestamp, tally: &Tally) -> u64 {
        if self.connected.is_some() {
            self.shelf.device_left(now, tally);
        }
        self.connections += 1;
        self.connected = self.death.is_none().then_some(self.connections);
        self.connections
    }
}

/// A device's connection to its service. Dropping it takes the device offline; its target stays good, and pushes
/// wait for the next connection as the service documents it.
pub struct Device {
    target: Arc<Target>,
    connection: u64,
    clock: Clock,
    tally: Arc<Tally>,
}

impl Device {
    /// The push target: what the app gives to whoever wants to push to it.
    pub fn target(&self) -> &str {
        &self.target.token
    }

    /// The service that the device is connected to.
    pub fn service(&self) -> Service {
        self.target.service
    }

    /// Waits for the next push. `None` if the connection has ended: the target was killed, or the device connected
    /// once more.
    pub async fn next_push(&self) -> Option<Push> {
        loop {
            let mut changed = std::pin::pin!(self.target.changed.notified());
            // From here on a change counts, also one that comes before this future is first waited for.
            changed.as_mut().enable();
            let next_due = match self.take() {
                Taken::Push(push) => return Some(push),
                Taken::Ended => return None,
                Taken::NothingBefore(moment) => moment,
            };
            match next_due {
                None => changed.await,
                Some(moment) => tokio::select! {
                    () = changed => {}
                    () = self.clock.wait_until(moment) => {}
                },
            }
        }
    }

    /// The next push if one is there.
    pub fn try_next_push(&self) -> Option<Push> {
        match self.take() {
            Taken::Push(push) => Some(push),
            Taken::Ended | Taken::NothingBefore(_) => None,
        }
    }

    fn take(&self) -> Taken {
        let now = self.clock.now();
        let mut state = self.target.lock();
        if state.connected != Some(self.connection) {
            return Taken::Ended;
        }
        match state.shelf.take(now, &self.tally) {
            Ok(push) => Taken::Push(push),
            Err(next_due) => Taken::NothingBefore(next_due),
        }
    }
}

enum Taken {
    Push(Push),
    /// When something is due, if something waits.
    NothingBefore(Option<Timestamp>),
    Ended,
}

impl Drop for Device {
    fn drop(&mut self) {
        let now = self.clock.now();
        let mut state = self.target.lock();
        if state.connected == Some(self.connection) {
            state.connected = None;
            state.shelf.device_left(now, &self.tally);
        }
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("target", &self.target.token).finish_non_exhaustive()
    }
}
