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
/// A stream that held for so long was a good one, even if nothing came.
const GOOD_AFTER: Duration = Duration::from_secs(5);

/// When to ask again, and when to give up.
#[derive(Debug)]
pub(super) struct Backoff {
    pause: Duration,
    /// When the broker was first found to be away, if it is.
    away_since: Option<Timestamp>,
    /// When the stream that is read now was opened.
    opened_at: Option<Timestamp>,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { pause: FIRST, away_since: None, opened_at: None }
    }

    /// The broker has taken the call; whether it stays will be seen.
    pub(super) fn opened(&mut self, now: Timestamp) {
        self.opened_at = Some(now);
    }

    /// The broker is there.
    pub(super) fn succeeded(&mut self) {
        (self.pause, self.away_since) = (FIRST, None);
    }

    /// Waits until it is time to ask again; gives the refusal back if that does not help, or not any more.
    pub(super) async fn wait(&mut self, refusal: Refusal, clock: &Clock) -> Result<(), Refusal> {
        let pause = self.after(refusal, clock.now())?;
        tokio::time::sleep(pause + jitter(pause)).await;
        Ok(())
    }

    /// How long to wait at least.
    fn after(&mut self, refusal: Refusal, now: Timestamp) -> Result<Duration, Refusal> {
        if self.opened_at.take().is_some_and(|opened| now.since(opened) >= GOOD_AFTER) {
            self.succeeded();
        }
        let away_since = *self.away_since.get_or_insert(now);
        if !refusal.retry_helps() || now.since(away_since) >= PATIENCE {
            return Err(refusal);
        }
        let pause = self.pause.max(refusal.retry_after().unwrap_or_default());
        self.pause = (self.pause * 2).min(LONGEST);
        Ok(pause)
    }
}

/// Up to half as long again, so that all who lost one broker do not come to the next at the same moment.
fn jitter(of: Duration) -> Duration {
    let mut byte = [0];
    entropy::fill(&mut byte);
    of * u32::from(byte[0]) / 512
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;

    const START: Timestamp = Timestamp(1_000_000);

    fn away() -> Refusal {
        Status::unavailable("connection refused").into()
    }

    #[test]
    fn it_asks_later_each_time_up_to_a_limit() {
        let mut backoff = Backoff::new();
        let pauses: Vec<Duration> =
            (0..8).map(|_| backoff.after(away(), START).expect("it goes on")).collect();
        assert!(pauses.is_sorted());
        assert_eq!((pauses[0], pauses[7]), (FIRST, LONGEST));
        backoff.succeeded();
        assert_eq!(backoff.after(away(), START), Ok(FIRST));
    }

    #[test]
    fn a_broker_that_stays_away_is_given_up_in_the_end() {
        let mut backoff = Backoff::new();
        assert!(backoff.after(away(), START).is_ok());
        assert!(backoff.after(away(), START.plus(PATIENCE / 2)).is_ok());
        assert_eq!(backoff.after(away(), START.plus(PATIENCE)), Err(away()));
    }

    #[test]
    fn a_page_that_waited_long_without_news_still_gets_over_a_restart() {
        let mut backoff = Backoff::new();
        assert!(backoff.after(away(), START).is_ok());
        backoff.opened(START);
        assert_eq!(backoff.after(away(), START.plus(PATIENCE * 2)), Ok(FIRST));
    }

    #[test]
    fn a_broker_that_takes_calls_and_drops_them_at_once_is_given_up_too() {
        let mut backoff = Backoff::new();
        let moments = (0..).map(|second| START.plus(Duration::from_secs(second)));
        let tries = moments
            .take_while(|now| {
                let goes_on = backoff.after(away(), *now).is_ok();
                backoff.opened(*now);
                goes_on
            })
            .count();
        assert_eq!(tries, 120);
    }

    #[test]
    fn what_a_retry_cannot_help_is_given_back_at_once() {
        let refusal = Refusal::from(Status::permission_denied("not here"));
        assert_eq!(Backoff::new().after(refusal.clone(), START), Err(refusal));
    }
}
