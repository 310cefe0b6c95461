//! When the next one signs in.

use std::{fmt, time::Duration};

use tokio::{
    task::{JoinError, JoinSet},
    time::Instant,
};

use super::{
    Progress,
    mix::Roster,
    record::{Record, Records},
};

/// Open or closed loop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// So many a second, whatever becomes of them: as people do, who know nothing of each other.
    Rate(f64),
    /// So many at a time: the next begins when one is over.
    InFlight(usize),
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rate(rate) => write!(f, "{rate} a second"),
            Self::InFlight(at_a_time) => write!(f, "{at_a_time} at a time"),
        }
    }
}

/// Lets sign-ins begin when they are due.
#[derive(Debug)]
pub(super) struct Gate {
    pace: Pace,
    begun: Instant,
    passed: u32,
}

impl Gate {
    pub(super) fn new(pace: Pace) -> Self {
        Self { pace, begun: now(), passed: 0 }
    }

    /// Waits for the next one's turn, and settles those that are over meanwhile; the moment at which it was due.
    pub(super) async fn next(
        &mut self,
        under_way: &mut JoinSet<Record>,
        records: &mut Records,
        roster: &mut Roster,
        progress: &Progress,
    ) -> Instant {
        let due = match self.pace {
            Pace::Rate(rate) => {
                let due = self.begun + Duration::from_secs_f64(f64::from(self.passed) / rate);
                let turn = tokio::time::sleep_until(due);
                tokio::pin!(turn);
                loop {
                    tokio::select! {
                        () = &mut turn => break,
                        Some(over) = under_way.join_next() => settle(over, records, roster, progress),
                    }
                }
                due
            }
            Pace::InFlight(at_a_time) => {
                while under_way.len() >= at_a_time {
                    let Some(over) = under_way.join_next().await else { break };
                    settle(over, records, roster, progress);
                }
                now()
            }
        };
        self.passed = self.passed.saturating_add(1);
        due
    }
}

/// A sign-in is over.
pub(super) fn settle(
    over: Result<Record, JoinError>,
    records: &mut Records,
    roster: &mut Roster,
    progress: &Progress,
) {
    let record = over.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    roster.is_back(record.part.who);
    progress.one_ended(record.outcome_name());
    records.push(record);
}

/// Of what is measured here, only differences count.
#[allow(clippy::disallowed_methods, reason = "a monotonic clock for durations; moments come from `Clock`")]
pub fn now() -> Instant {
    Instant::now()
}
