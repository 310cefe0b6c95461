//! The broker's clock: the simulation's time, and by how much somebody has set it.

use std::{
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

use countersign::clock::Clock;
use countersign_domain::Timestamp;

/// A day in November 2023.
const BEGINNING_MS: i64 = 1_700_000_000_000;

/// See above.
#[derive(Debug, Default)]
pub(crate) struct SimClock {
    /// Where nobody's turn it is.
    elapsed_ms: AtomicU64,
    set_by_ms: AtomicI64,
    times_set: AtomicU64,
}

impl SimClock {
    /// The simulation is so old now.
    pub(crate) fn see(&self, elapsed: Duration) {
        self.elapsed_ms.store(millis(elapsed), Ordering::Relaxed);
    }

    /// Somebody sets it, forward or back.
    pub(crate) fn set_by(&self, ms: i64) {
        self.set_by_ms.fetch_add(ms, Ordering::Relaxed);
        self.times_set.fetch_add(1, Ordering::Relaxed);
    }

    /// How often somebody has set it so far.
    pub(crate) fn times_set(&self) -> u64 {
        self.times_set.load(Ordering::Relaxed)
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        let elapsed = turmoil::sim_elapsed().map_or_else(|| self.elapsed_ms.load(Ordering::Relaxed), millis);
        let now = BEGINNING_MS + elapsed.cast_signed() + self.set_by_ms.load(Ordering::Relaxed);
        Timestamp::from_millis(now.max(0).cast_unsigned())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
