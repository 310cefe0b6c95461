//! Moments. The domain reads no clock: they are arguments.

use std::time::Duration;

use crate::limits;

/// A moment: milliseconds since 1970-01-01T00:00:00Z, by the broker's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The moment of so many milliseconds since 1970.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since 1970.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The moment `later` after this one.
    #[must_use]
    pub fn plus(self, later: Duration) -> Self {
        Self(self.0.saturating_add(millis(later)))
    }

    /// The moment `earlier` before this one; 1970 if that would be before it.
    #[must_use]
    pub fn minus(self, earlier: Duration) -> Self {
        Self(self.0.saturating_sub(millis(earlier)))
    }

    /// Whether it lies further ahead of `now` than a clock that is in order puts it: that clock has been set right.
    pub fn is_ahead_of(self, now: Self) -> bool {
        self > now.plus(limits::CLOCK_STEP)
    }

    /// Whether it is less than `span` before `now`. One that is ahead of `now` is not.
    pub fn is_within(self, span: Duration, now: Self) -> bool {
        !self.is_ahead_of(now) && now < self.plus(span)
    }

    /// This moment, or `now` if it is ahead of that: what began then lasts from now on.
    #[must_use]
    pub fn settled(self, now: Self) -> Self {
        if self.is_ahead_of(now) { now } else { self }
    }

    /// How long until `later`; nothing if it is not later.
    pub fn until(self, later: Self) -> Duration {
        Duration::from_millis(later.0.saturating_sub(self.0))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
