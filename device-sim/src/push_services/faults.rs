//! Faults on demand: what goes wrong, for whom, how often.
//!
//! A fault is armed by the library, the control API or a scenario file. Every request asks the armed faults, in
//! the order in which they were armed, whether one strikes it. Latency comes on top of any other; of the others
//! the first that strikes decides.

use std::{
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{apns::Reason, fcm::ErrorCode};
use crate::{
    clock::{Clock, Timestamp},
    entropy::SplitMix64,
};

/// More faults than this are refused.
const FAULTS_MAX: usize = 10_000;

/// Where a request is when a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// A push at APNs.
    Apns,
    /// A push at FCM.
    Fcm,
    /// A request for an access token at FCM's token endpoint.
    FcmToken,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The request waits, then goes on as if nothing had been.
    Latency(Duration),
    /// The service answers with this status and the reason that most likely goes with it: 429 with `TooManyRequests`
    /// or `QUOTA_EXCEEDED`, 503 with `ServiceUnavailable` or `UNAVAILABLE`. Strikes only at the service that documents
    /// the status.
    Status(u16),
    /// APNs answers with this reason.
    Apns(Reason),
    /// FCM answers with this error code.
    Fcm(ErrorCode),
    /// The target is dead from now on: 410 `Unregistered` at APNs, 404 `UNREGISTERED` at FCM.
    DeadTarget,
    /// The connection is reset (TCP RST).
    Reset,
    /// The stream is refused and the connection takes no more. APNs gives this reason in the GOAWAY frame; FCM, which
    /// documents none, sends GOAWAY without, or closes an HTTP/1.1 connection.
    GoAway(Reason),
    /// The request is taken and never answered.
    Silence,
}

/// A fault: an [`Effect`] and when it happens.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    pub(crate) effect: Effect,
    pub(crate) place: Option<Place>,
    pub(crate) target: Option<String>,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) skip: u64,
    pub(crate) times: Option<u64>,
    pub(crate) probability: f64,
    pub(crate) seed: u64,
    pub(crate) delivered_first: bool,
    pub(crate) after: Duration,
    pub(crate) lasting: Option<Duration>,
}

impl Fault {
    /// A fault that strikes every push at both services until it is disarmed. A reason or error code strikes only
    /// at the service that has it.
    pub fn new(effect: Effect) -> Self {
        Self {
            effect,
            place: None,
            target: None,
            retry_after: None,
            skip: 0,
            times: None,
            probability: 1.0,
            seed: 0,
            delivered_first: false,
            after: Duration::ZERO,
            lasting: None,
        }
    }

    /// Strikes here only.
    #[must_use]
    pub fn at(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }

    /// Strikes pushes to this target only.
    #[must_use]
    pub fn target(mut self, target: &str) -> Self {
        self.target = Some(target.to_owned());
        self
    }

    /// Gives the answer a `Retry-After` of whole seconds.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Lets the first so many go by.
    #[must_use]
    pub fn skip(mut self, requests: u64) -> Self {
        self.skip = requests;
        self
    }

    /// Strikes so many times, then no more.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = Some(times);
        self
    }

    /// Strikes with this probability (0 to 1), drawn from `seed`: the same seed strikes the same requests.
    #[must_use]
    pub fn probability(mut self, probability: f64, seed: u64) -> Self {
        self.probability = probability;
        self.seed = seed;
        self
    }

    /// Delivers the push before the fault strikes: the sender does not learn that it was accepted.
    #[must_use]
    pub fn delivered_first(mut self) -> Self {
        self.delivered_first = true;
        self
    }

    /// Strikes only from `after` until `lasting` later, counted from when it is armed.
    #[must_use]
    pub fn during(mut self, after: Duration, lasting: Duration) -> Self {
        self.after = after;
        self.lasting = Some(lasting);
        self
    }

    /// Whether the effect can happen there at all.
    fn fits(&self, place: Place) -> bool {
        match (self.effect, self.place) {
            (_, Some(only)) if only != place => false,
            (_, None) if place == Place::FcmToken => false,
            (Effect::Apns(_), _) => place == Place::Apns,
            (Effect::Fcm(_), _) => place == Place::Fcm,
            (Effect::Status(status), _) => match place {
                Place::Apns => Reason::of_status(status).is_some(),
                Place::Fcm | Place::FcmToken => ErrorCode::of_status(status).is_some(),
            },
            _ => true,
        }
    }
}

/// The number of an armed fault.
pub type FaultId = u64;

/// The armed faults of both services.
#[derive(Debug)]
pub struct Faults {
    armed: RwLock<Vec<Arc<Armed>>>,
    /// As many as are armed: none costs one load.
    count: AtomicUsize,
    next_id: AtomicU64,
    clock: Clock,
}

/// A fault and what has become of it.
#[derive(Clone, Debug)]
pub struct ArmedFault {
    /// Its number.
    pub id: FaultId,
    /// What was armed.
    pub fault: Fault,
    /// How often it has struck.
    pub struck: u64,
}

#[derive(Debug)]
struct Armed {
    id: FaultId,
    fault: Fault,
    begins: Timestamp,
    state: Mutex<Progress>,
}

#[derive(Debug)]
struct Progress {
    seen: u64,
    struck: u64,
    dice: SplitMix64,
}

/// What strikes one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Strike {
    pub(crate) latency: Duration,
    pub(crate) effect: Option<Effect>,
    pub(crate) retry_after_s: Option<u64>,
    pub(crate) delivered_first: bool,
}

impl Faults {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { armed: RwLock::default(), count: AtomicUsize::new(0), next_id: AtomicU64::new(1), clock }
    }

    /// Arms a fault, from now on.
    pub fn arm(&self, fault: Fault) -> Result<FaultId, TooManyFaults> {
        let mut armed = self.armed.write().unwrap_or_else(PoisonError::into_inner);
        if armed.len() >= FAULTS_MAX {
            return Err(TooManyFaults);
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let begins = self.clock.now().plus(fault.after);
        let dice = SplitMix64::new(fault.seed);
        armed.push(Arc::new(Armed {
            id,
            fault,
            begins,
            state: Mutex::new(Progress { seen: 0, struck: 0, dice }),
        }));
        self.count.store(armed.len(), Ordering::Release);
        Ok(id)
    }

    /// Disarms a fault; whether there was one of this number.
    pub fn disarm(&self, id: FaultId) -> bool {
        let mut armed = self.armed.write().unwrap_or_else(PoisonError::into_inner);
        let before = armed.len();
        armed.retain(|fault| fault.id != id);
        self.count.store(armed.len(), Ordering::Release);
        armed.len() < before
    }

    /// Disarms all.
    pub fn clear(&self) {
        self.armed.write().unwrap_or_else(PoisonError::into_inner).clear();
        self.count.store(0, Ordering::Release);
    }

    /// All that are armed, those that have no more times left included.
    pub fn list(&self) -> Vec<ArmedFault> {
        let armed = self.armed.read().unwrap_or_else(PoisonError::into_inner);
        armed
            .iter()
            .map(|armed| ArmedFault {
                id: armed.id,
                fault: armed.fault.clone(),
                struck: armed.state.lock().unwrap_or_else(PoisonError::into_inner).struck,
            })
            .collect()
    }

    /// What strikes a request at `place` to `target`.
    pub(crate) fn strike(&self, place: Place, target: Option<&str>) -> Strike {
        let mut strike = Strike::default();
        if self.count.load(Ordering::Acquire) == 0 {
            return strike;
        }
        let now = self.clock.now();
        let armed = self.armed.read().unwrap_or_else(PoisonError::into_inner);
        for armed in armed.iter() {
            let is_latency = matches!(armed.fault.effect, Effect::Latency(_));
            if (!is_latency && strike.effect.is_some()) || !armed.strikes(place, target, now) {
                continue;
            }
            if let Effect::Latency(latency) = armed.fault.effect {
                strike.latency += latency;
            } else {
                strike.effect = Some(armed.fault.effect);
                strike.retry_after_s = armed.fault.retry_after.map(|wait| wait.as_secs());
                strike.delivered_first = armed.fault.delivered_first;
            }
        }
        strike
    }
}

/// There are 10,000 faults already.
#[derive(Debug, thiserror::Error)]
#[error("there are {FAULTS_MAX} faults already; disarm some first")]
pub struct TooManyFaults;

impl Armed {
    fn strikes(&self, place: Place, target: Option<&str>, now: Timestamp) -> bool {
        let fault = &self.fault;
        let is_meant = fault.fits(place)
            && fault.target.as_deref().is_none_or(|only| Some(only) == target)
            && now >= self.begins
            && fault.lasting.is_none_or(|lasting| now < self.begins.plus(lasting));
        if !is_meant {
            return false;
        }
        let mut progress = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if fault.times.is_some_and(|times| progress.struck >= times) {
            return false;
        }
        progress.seen += 1;
        if progress.seen <= fault.skip || !progress.dice.happens(fault.probability) {
            return false;
        }
        progress.struck += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(fault: Fault) -> Faults {
        let faults = Faults::new(Clock::new());
        faults.arm(fault).expect("room");
        faults
    }

    fn struck(faults: &Faults, place: Place, target: &str) -> bool {
        faults.strike(place, Some(target)).effect.is_some()
    }

    #[test]
    fn a_fault_strikes_as_often_as_it_may_after_those_it_skips() {
        let faults = faults(Fault::new(Effect::Reset).skip(2).times(2));
        let seen: Vec<bool> = (0..6).map(|_| struck(&faults, Place::Apns, "a")).collect();
        assert_eq!(seen, [false, false, true, true, false, false]);
        assert_eq!(faults.list()[0].struck, 2);
    }

    #[test]
    fn a_fault_strikes_its_target_and_its_service_only() {
        let faults = faults(Fault::new(Effect::Reset).at(Place::Apns).target("a"));
        assert!(struck(&faults, Place::Apns, "a"));
        assert!(!struck(&faults, Place::Apns, "b"));
        assert!(!struck(&faults, Place::Fcm, "a"));
    }

    #[test]
    fn the_token_endpoint_is_struck_only_if_a_fault_names_it() {
        let everywhere = faults(Fault::new(Effect::Status(503)));
        assert!(!struck(&everywhere, Place::FcmToken, "a"));
        let there = faults(Fault::new(Effect::Status(503)).at(Place::FcmToken));
        assert!(struck(&there, Place::FcmToken, "a"));
    }

    #[test]
    fn a_reason_strikes_at_the_service_that_has_it() {
        let faults = faults(Fault::new(Effect::Apns(Reason::Shutdown)));
        assert!(struck(&faults, Place::Apns, "a"));
        assert!(!struck(&faults, Place::Fcm, "a"));
    }

    #[test]
    fn a_status_strikes_at_the_service_that_documents_it() {
        let faults = faults(Fault::new(Effect::Status(410)));
        assert!(struck(&faults, Place::Apns, "a"));
        assert!(!struck(&faults, Place::Fcm, "a"));
    }

    #[test]
    fn the_same_seed_strikes_the_same_requests() {
        let run = |seed| {
            let faults = faults(Fault::new(Effect::Silence).probability(0.3, seed));
            (0..1000).map(|_| struck(&faults, Place::Fcm, "a")).collect::<Vec<_>>()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
        let struck = run(7).into_iter().filter(|&struck| struck).count();
        assert!((250..350).contains(&struck), "{struck} of 1,000 at 0.3");
    }

    #[test]
    fn latency_comes_on_top_and_the_first_other_fault_decides() {
        let faults = faults(Fault::new(Effect::Latency(Duration::from_millis(5))));
        faults.arm(Fault::new(Effect::Silence).times(1)).expect("room");
        faults.arm(Fault::new(Effect::Reset)).expect("room");
        faults.arm(Fault::new(Effect::Latency(Duration::from_millis(7)))).expect("room");
        let strike = faults.strike(Place::Apns, None);
        assert_eq!(strike.latency, Duration::from_millis(12));
        assert_eq!(strike.effect, Some(Effect::Silence));
        assert_eq!(faults.strike(Place::Apns, None).effect, Some(Effect::Reset));
    }

    #[test]
    fn a_fault_with_a_span_of_time_begins_and_ends_with_it() {
        let clock = Clock::new();
        let faults = Faults::new(clock.clone());
        let span = Fault::new(Effect::Reset).during(Duration::from_secs(60), Duration::from_secs(60));
        faults.arm(span).expect("room");
        assert!(!struck(&faults, Place::Apns, "a"));
        clock.advance(Duration::from_secs(60));
        assert!(struck(&faults, Place::Apns, "a"));
        clock.advance(Duration::from_secs(60));
        assert!(!struck(&faults, Place::Apns, "a"));
    }

    #[test]
    fn a_disarmed_fault_strikes_no_more() {
        let faults = Faults::new(Clock::new());
        let id = faults.arm(Fault::new(Effect::Reset)).expect("room");
        assert!(faults.disarm(id));
        assert!(!faults.disarm(id));
        assert!(!struck(&faults, Place::Apns, "a"));
    }
}
