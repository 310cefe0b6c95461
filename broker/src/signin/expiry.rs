//! The clock ends what nobody has answered. One task and one timer for all approvals and enrolments that are live.

use std::{collections::BTreeSet, time::Duration};

use countersign_domain::{AccountId, ApprovalId, Command, EnrolmentId, Timestamp, command::Refusal};
use tokio::{sync::mpsc, task::JoinSet};
use tracing::{Instrument as _, Span, field, info_span};

use super::{Error, SignIn};
use crate::{
    decider,
    telemetry::traces::{self, STORY},
};

/// The clock may be set while we sleep: we look at it this often at least.
const NAP_MAX: Duration = Duration::from_secs(1);

/// After a log that takes nothing, everything that is due is tried again so much later.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// So many expiries are written at a time.
pub const CONCURRENT_MAX: usize = 64;

/// What ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Due {
    /// An approval.
    Approval(ApprovalId),
    /// An enrolment.
    Enrolment(EnrolmentId),
}

impl Due {
    /// The approval, if it is one.
    fn approval(&self) -> Option<&ApprovalId> {
        match self {
            Self::Approval(id) => Some(id),
            Self::Enrolment(_) => None,
        }
    }
}

/// When something ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alarm {
    /// What.
    pub due: Due,
    /// When its time is over.
    pub at: Timestamp,
    /// When it began. If that is ahead of the clock, the clock has been set back, and it is over now.
    pub begun: Timestamp,
}

/// All that will be due, by both of its moments.
#[derive(Debug, Default)]
struct Waiting {
    by_end: BTreeSet<(Timestamp, Timestamp, Due)>,
    by_beginning: BTreeSet<(Timestamp, Timestamp, Due)>,
}

/// Ends what is due, so many at a time, until nobody can ask for it any more. What is asked is taken in at once, however
/// slow the log is: as many approvals and enrolments as live wait here, and in no channel.
pub async fn run(sign_in: SignIn, mut asked: mpsc::Receiver<Alarm>, concurrent_max: usize) {
    let mut waiting = Waiting::default();
    let mut writing = JoinSet::new();
    let mut quiet_until = Timestamp::default();
    loop {
        let now = sign_in.clock.now();
        while writing.len() < concurrent_max
            && let Some(due) = waiting.next_due(now)
        {
            let sign_in = sign_in.clone();
            writing.spawn(async move { (due, sign_in.end_overdue(due).await) });
        }
        // Where there is no room, what is due waits for that.
        let next = waiting.by_end.first().filter(|_| writing.len() < concurrent_max);
        let nap = next.map_or(NAP_MAX, |(at, ..)| now.until(*at).min(NAP_MAX));
        tokio::select! {
            Some(written) = writing.join_next() => match written {
                Ok((_, Ok(()))) => {}
                Ok((due, Err(error @ Error::Log(decider::Error::Undecidable { .. })))) => {
                    let approval = due.approval().map(field::display);
                    tracing::error!(approval, ?due, %error, "an expiry is left to a newer release");
                }
                Ok((due, Err(error))) => {
                    let now = sign_in.clock.now();
                    waiting.insert(Alarm { due, at: now.plus(RETRY_AFTER), begun: now });
                    // A log that takes nothing refuses all of them.
                    if quiet_until <= now {
                        quiet_until = now.plus(RETRY_AFTER);
                        let waiting = waiting.by_end.len();
                        let approval = due.approval().map(field::display);
                        tracing::warn!(approval, ?due, %error, waiting, "could not record an expiry; it will be tried again");
                    }
                }
                Err(error) => tracing::error!(%error, "an expiry is left to the next start"),
            },
            more = asked.recv() => match more {
                Some(alarm) => waiting.insert(alarm),
                None => return,
            },
            () = tokio::time::sleep(nap) => {}
        }
    }
}

impl Waiting {
    fn insert(&mut self, Alarm { due, at, begun }: Alarm) {
        self.by_end.insert((at, begun, due));
        self.by_beginning.insert((begun, at, due));
    }

    /// The next that is due: its time has come; or the clock was ahead when it began and has been set right since.
    fn next_due(&mut self, now: Timestamp) -> Option<Due> {
        let over = self.by_end.first().copied().filter(|(at, ..)| *at <= now);
        let ahead = || self.by_beginning.last().copied().filter(|(begun, ..)| begun.is_ahead_of(now));
        let (at, begun, due) = over.or_else(|| ahead().map(|(begun, at, due)| (at, begun, due)))?;
        self.by_end.remove(&(at, begun, due));
        self.by_beginning.remove(&(begun, at, due));
        Some(due)
    }
}

impl Due {
    /// Whose it is.
    pub fn account(self) -> AccountId {
        match self {
            Self::Approval(id) => id.account(),
            Self::Enrolment(id) => id.account(),
        }
    }
}

impl SignIn {
    async fn end_overdue(&self, due: Due) -> Result<(), Error> {
        let (account, command) = match due {
            Due::Approval(id) => (id.account(), Command::ExpireApproval(id)),
            Due::Enrolment(id) => (id.account(), Command::ExpireEnrolment(id)),
        };
        let span = match due {
            Due::Approval(id) => traces::of(id).step(|| info_span!(target: STORY, "expire")),
            Due::Enrolment(_) => Span::none(),
        };
        let decided = self.accounts.decide(account, |_, _| Ok::<_, Error>(command.clone()));
        match decided.instrument(span).await {
            // Ended long ago.
            Ok(_) | Err(Error::Refused(Refusal::UnknownApproval | Refusal::UnknownEnrolment)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use countersign_domain::AccountId;

    use super::*;

    #[test]
    fn what_the_clock_has_ended_is_due_and_so_is_what_began_ahead_of_it() {
        let now = Timestamp::from_millis(1_800_000_000_000);
        let due = |n| Due::Approval(ApprovalId::new(AccountId::from_bytes([1; 16]), [n; 16]));
        let alarm = |n, begun: i64, at: i64| {
            let moment = |s: i64| Timestamp::from_millis((1_800_000_000_000 + s * 1_000).unsigned_abs());
            Alarm { due: due(n), begun: moment(begun), at: moment(at) }
        };
        let mut waiting = Waiting::default();
        for alarm in [
            alarm(1, -61, -1),
            alarm(2, -60, 0),
            alarm(3, -14, 1),
            // A clock that is a little ahead is in order.
            alarm(4, 60, 75),
            alarm(5, 61, 76),
            alarm(6, 1_000_000, 1_000_060),
            alarm(7, 0, 300),
        ] {
            waiting.insert(alarm);
        }
        let all: Vec<_> = std::iter::from_fn(|| waiting.next_due(now)).collect();
        assert_eq!(all, [due(1), due(2), due(6), due(5)]);
        assert_eq!((waiting.by_end.len(), waiting.by_beginning.len()), (3, 3));
    }
}
