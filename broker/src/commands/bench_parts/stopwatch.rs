//! Time and CPU time as they pass. Only differences mean anything.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Time that has passed since some moment, by a clock that only goes forward.
pub(super) fn now() -> Duration {
    read(ClockId::Monotonic)
}

/// CPU time that this process has used, user and system.
pub(super) fn cpu() -> Duration {
    read(ClockId::ProcessCPUTime)
}

fn read(clock: ClockId) -> Duration {
    let now = clock_gettime(clock);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// How often something is done in a second of that time, and how many microseconds each takes.
pub(super) fn each(count: u64, took: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no more digits")]
    let count = count.max(1) as f64;
    took.as_secs_f64() * 1e6 / count
}
