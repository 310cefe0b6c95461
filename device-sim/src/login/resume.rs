//! How a page that waits gets over a broker that goes away: it asks again, later each time, and goes on where it was.

use std::time::Duration;

use crate::{
    clock::{Clock, Timestamp},
    entropy,
    wire::Refusal,
};

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);
/// A broker that is away for so long is not waited for any more.
const PATIENCE: Duration = Duration::from_secs(120);

/// When to ask again, and when to give up.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
    give_up_at: Timestamp,
}

impl Backoff {
    pub(super) fn new(now: Timestamp) -> Self {
        Self { next: FIRST, give_up_at: now.plus(PATIENCE) }
    }

    /// The broker answers again.
    pub(super) fn succeeded(&mut self, now: Timestamp) {
        *self = Self::new(now);
    }

    /// Waits until it is time to ask again; gives the refusal back if that does not help, or not any more.
    pub(super) async fn wait(&mut self, refusal: Refusal, clock: &Clock) -> Result<(), Refusal> {
        let now = clock.now();
        if !refusal.retry_helps() || now >= self.give_up_at {
            return Err(refusal);
        }
        let asked_for = refusal.retry_after().unwrap_or_default();
        tokio::time::sleep(self.next.max(asked_for) + jitter(self.next)).await;
        self.next = (self.next * 2).min(LONGEST);
        Ok(())
    }
}

/// Up to half as long again, so that all who lost one broker do not come to the next at the same moment.
fn jitter(of: Duration) -> Duration {
    let mut byte = [0];
    entropy::fill(&mut byte);
    of * u32::from(byte[0]) / 512
}
