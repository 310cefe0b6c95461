//! How often somebody may call: a relying party, an address, a device. Who is at the limit is sent away with the time
//! after which the next call is taken, before anything is done for it that costs.
//!
//! Each limit is so many a second, and ten seconds' worth of them at once, for whoever has not called for a while
//! (GCRA, by `governor`). Limits of an account are no matter of a moment's load but of the account, and are decided in
//! the domain, as events.
//!
//! What is kept of those who call is bounded: when there is no room, the half that has used least is forgotten, which is
//! to give it back what little it lacks. So nobody gets rid of his own debt by coming under many other names.

use std::{
    collections::HashMap,
    fmt::Debug,
    hash::{BuildHasher as _, Hash, RandomState},
    net::IpAddr,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use countersign_domain::{AuthenticatorId, RelyingPartyId};
use governor::{Quota, RateLimiter, middleware::NoOpMiddleware, nanos::Nanos, state::StateStore};

use crate::{
    clock::Clock,
    telemetry::metrics::{labels::RateLimit, metrics},
};

/// Who has not called for so long may call at once as often as in so long.
const BURST_S: u32 = 10;
/// Callers of one limit that something is kept of: with 48 bytes for each key, some 8 MiB.
const KEPT_MAX: usize = 1 << 16;
/// They are kept in so many parts, so that forgetting holds nobody up for long.
const PARTS: usize = 16;

/// How many calls a second; of each, 0 is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PerSecond {
    /// New approvals and enrolments of one relying party, and looks back at those of the past.
    pub relying_party: u32,
    /// Phones' calls of one address (of IPv6, of one /64).
    pub address: u32,
    /// Of one address, calls whose caller was not who he said.
    pub failures: u32,
    /// Of one device, calls whose signature was good.
    pub device: u32,
}

/// It is too soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{} at once, as many as this broker takes: wait for {} ms", too_many(*limit), retry_after.as_millis())]
pub struct TooOften {
    /// What was called too often.
    pub limit: RateLimit,
    /// Until the next call is taken.
    pub retry_after: Duration,
}

fn too_many(limit: RateLimit) -> &'static str {
    match limit {
        RateLimit::RelyingParty => "too many requests of this relying party",
        RateLimit::Address => "too many calls from this address",
        RateLimit::Failures => "too many calls from this address that proved nothing",
        RateLimit::Device => "too many calls of this device",
    }
}

/// All limits of calls.
#[derive(Debug)]
pub struct Rates {
    relying_party: Rate<RelyingPartyId>,
    address: Rate<IpAddr>,
    failures: Rate<IpAddr>,
    device: Rate<AuthenticatorId>,
}

impl Rates {
    /// Limits by this clock, which may jump: what it is set back by is lost time, and no debt.
    pub fn new(per_second: PerSecond, clock: &Arc<dyn Clock>) -> Self {
        let passed = Passed::since_now(Arc::clone(clock));
        Self {
            relying_party: Rate::new(per_second.relying_party, &passed),
            address: Rate::new(per_second.address, &passed),
            failures: Rate::new(per_second.failures, &passed),
            device: Rate::new(per_second.device, &passed),
        }
    }

    /// None.
    pub fn unlimited(clock: &Arc<dyn Clock>) -> Self {
        Self::new(PerSecond::default(), clock)
    }

    /// A relying party begins something.
    pub fn begins(&self, relying_party: RelyingPartyId) -> Result<(), TooOften> {
        self.relying_party.take(relying_party).map_err(|after| refused(RateLimit::RelyingParty, after))
    }

    /// A relying party asks for what the log has to be read for. It counts as what it begins.
    pub fn looks_back(&self, relying_party: RelyingPartyId) -> Result<(), TooOften> {
        self.begins(relying_party)
    }

    /// A phone calls from this address.
    pub fn calls(&self, from: IpAddr) -> Result<(), TooOften> {
        self.address.take(from).map_err(|after| refused(RateLimit::Address, after))
    }

    /// Somebody at this address is about to prove who he is; not if too many there have failed to.
    pub fn proves(&self, from: IpAddr) -> Result<(), TooOften> {
        self.failures.look(from).map_err(|after| refused(RateLimit::Failures, after))
    }

    /// He was not who he said.
    pub fn failed(&self, from: IpAddr) {
        let _ = self.failures.take(from);
    }

    /// A device has called: nobody else, its signature is good.
    pub fn of_device(&self, device: AuthenticatorId) -> Result<(), TooOften> {
        self.device.take(device).map_err(|after| refused(RateLimit::Device, after))
    }
}

fn refused(limit: RateLimit, retry_after: Duration) -> TooOften {
    metrics().calls.too_often.count(limit);
    TooOften { limit, retry_after }
}

type Limiter<K> = RateLimiter<Call<K>, Kept<K>, Passed, NoOpMiddleware<Nanos>>;

/// One limit.
#[derive(Debug)]
struct Rate<K: Hash + Eq + Copy + Debug> {
    limiter: Option<Limiter<K>>,
    passed: Passed,
}

/// Somebody calls, or is only looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Call<K> {
    of: K,
    counts: bool,
}

impl<K: Hash + Eq + Copy + Debug> Rate<K> {
    fn new(per_second: u32, passed: &Passed) -> Self {
        let limiter = NonZeroU32::new(per_second).map(|rate| {
            let at_once = rate.saturating_mul(NonZeroU32::new(BURST_S).expect("not zero"));
            RateLimiter::new(
                Quota::per_second(rate).allow_burst(at_once),
                Kept::at_most(KEPT_MAX),
                passed.clone(),
            )
        });
        Self { limiter, passed: passed.clone() }
    }

    /// Counts a call; the error is the time until one would be taken.
    fn take(&self, of: K) -> Result<(), Duration> {
        self.call(Call { of, counts: true })
    }

    /// Whether one would be taken.
    fn look(&self, of: K) -> Result<(), Duration> {
        self.call(Call { of, counts: false })
    }

    fn call(&self, call: Call<K>) -> Result<(), Duration> {
        let Some(limiter) = &self.limiter else { return Ok(()) };
        let until = limiter.check_key(&call);
        until.map_err(|until| until.wait_time_from(governor::clock::Clock::now(&self.passed)))
    }
}

/// Until when each caller has used up what it may: as many as fit.
#[derive(Debug)]
struct Kept<K> {
    parts: Vec<Mutex<HashMap<K, Nanos>>>,
    part_max: usize,
    hasher: RandomState,
}

impl<K: Hash + Eq + Copy> Kept<K> {
    fn at_most(count: usize) -> Self {
        let parts = (0..PARTS).map(|_| Mutex::default()).collect();
        Self { parts, part_max: count / PARTS, hasher: RandomState::new() }
    }

    fn part(&self, key: &K) -> MutexGuard<'_, HashMap<K, Nanos>> {
        let at = usize::try_from(self.hasher.hash_one(key) % PARTS as u64).unwrap_or_default();
        self.parts[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq + Copy> StateStore for Kept<K> {
    type Key = Call<K>;

    fn measure_and_replace<T, F, E>(&self, call: &Call<K>, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut part = self.part(&call.of);
        let (taken, until) = measure(part.get(&call.of).copied())?;
        if call.counts {
            if part.len() >= self.part_max && !part.contains_key(&call.of) {
                forget_half(&mut part);
            }
            part.insert(call.of, until);
        }
        Ok(taken)
    }
}

/// Those who have used most are kept.
fn forget_half<K: Hash + Eq + Copy>(part: &mut HashMap<K, Nanos>) {
    let mut all: Vec<_> = part.iter().map(|(key, until)| (until.as_u64(), *key)).collect();
    let half = all.len() / 2;
    all.select_nth_unstable_by_key(half, |(until, _)| *until);
    for (_, key) in &all[..=half] {
        part.remove(key);
    }
}

/// What has passed by a clock that may jump: only its steps ahead count.
#[derive(Debug, Clone)]
struct Passed {
    clock: Arc<dyn Clock>,
    /// What the clock showed last, and what had passed then, in milliseconds.
    seen: Arc<Mutex<(u64, u64)>>,
}

impl Passed {
    fn since_now(clock: Arc<dyn Clock>) -> Self {
        let now = clock.now().as_millis();
        Self { clock, seen: Arc::new(Mutex::new((now, 0))) }
    }
}

impl governor::clock::Clock for Passed {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // Read under the lock: else one who read earlier and came later would seem to set the clock back.
        let now = self.clock.now().as_millis();
        let (last, passed) = *seen;
        let passed = passed.saturating_add(now.saturating_sub(last));
        *seen = (now, passed);
        Duration::from_millis(passed).into()
    }
}

#[cfg(test)]
mod tests {
    use countersign_domain::Timestamp;

    use super::*;
    use crate::clock::ManualClock;

    const NOW: u64 = 1_800_000_000_000;

    fn rate(per_second: u32) -> (Rate<u32>, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(NOW)));
        let passed = Passed::since_now(Arc::clone(&clock) as Arc<dyn Clock>);
        (Rate::new(per_second, &passed), clock)
    }

    fn taken(rate: &Rate<u32>, of: u32, tries: usize) -> usize {
        (0..tries).filter(|_| rate.take(of).is_ok()).count()
    }

    #[test]
    fn ten_seconds_worth_are_taken_at_once_and_then_so_many_a_second_each_for_himself() {
        let (rate, clock) = rate(5);
        assert_eq!(taken(&rate, 1, 200), 50);
        assert_eq!(rate.take(1), Err(Duration::from_millis(200)), "until the next");
        assert_eq!(taken(&rate, 2, 200), 50, "another caller");
        clock.set(Timestamp::from_millis(NOW + 2_000));
        assert_eq!(taken(&rate, 1, 200), 10);
        clock.set(Timestamp::from_millis(NOW + 3_600_000));
        assert_eq!(taken(&rate, 1, 200), 50, "and no more than that is saved");
    }

    #[test]
    fn who_looks_is_told_the_same_and_uses_nothing() {
        let (rate, _) = rate(1);
        assert!((0..100).all(|_| rate.look(1).is_ok()));
        assert_eq!(taken(&rate, 1, 100), 10);
        assert_eq!(rate.look(1), Err(Duration::from_secs(1)));
    }

    #[test]
    fn zero_is_no_limit() {
        let (rate, _) = rate(0);
        assert_eq!(taken(&rate, 1, 100_000), 100_000);
    }

    #[test]
    fn a_clock_that_is_set_back_keeps_nobody_waiting_for_longer() {
        let (rate, clock) = rate(1);
        assert_eq!(taken(&rate, 1, 100), 10);
        clock.set(Timestamp::from_millis(NOW - 3_600_000));
        assert_eq!(rate.take(1), Err(Duration::from_secs(1)));
        clock.set(Timestamp::from_millis(NOW - 3_600_000 + 3_000));
        assert_eq!(taken(&rate, 1, 100), 3);
    }

    #[test]
    fn a_million_callers_take_no_more_room_than_there_is_and_whoever_is_at_his_limit_stays_there() {
        let (rate, clock) = rate(1);
        assert_eq!(taken(&rate, u32::MAX, 100), 10);
        for caller in 0..1_000_000 {
            assert!(rate.take(caller).is_ok());
            if caller % 1_000 == 0 {
                clock.set(Timestamp::from_millis(NOW + u64::from(caller / 1_000)));
            }
        }
        assert!(rate.take(u32::MAX).is_err(), "a million others do not make his debt forgotten");
        let kept = rate.limiter.unwrap().into_state_store();
        let kept: usize = kept.parts.iter().map(|part| part.lock().unwrap().len()).sum();
        assert!((KEPT_MAX / 4..=KEPT_MAX).contains(&kept), "{kept}");
    }
}
