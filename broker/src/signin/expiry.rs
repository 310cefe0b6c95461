//! The clock ends what nobody has answered. One task and one timer for all approvals and enrolments that are live.

use std::{collections::BTreeSet, time::Duration};

use countersign_domain::{ApprovalId, Command, EnrolmentId, Timestamp, command::Refusal, limits};
use tokio::{sync::mpsc, task::JoinSet};
use tracing::{Instrument as _, Span, info_span};

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

/// Ends what is due, so many at a time, until nobody can ask for it any more. What is asked is taken in at once, however
/// slow the log is: as many approvals and enrolments as live wait here, and in no channel.
pub async fn run(sign_in: SignIn, mut asked: mpsc::Receiver<(Timestamp, Due)>, concurrent_max: usize) {
    let mut waiting = BTreeSet::new();
    let mut writing = JoinSet::new();
    let mut quiet_until = Timestamp::default();
    loop {
        let now = sign_in.clock.now();
        while writing.len() < concurrent_max
            && let Some(due) = next_due(&mut waiting, now)
        {
            let sign_in = sign_in.clone();
            writing.spawn(async move { (due, sign_in.end_overdue(due).await) });
        }
        // Where there is no room, what is due waits for that.
        let next = waiting.first().filter(|_| writing.len() < concurrent_max);
        let nap = next.map_or(NAP_MAX, |(at, _): &(Timestamp, Due)| now.until(*at).min(NAP_MAX));
        tokio::select! {
            Some(written) = writing.join_next() => match written {
                Ok((_, Ok(()))) => {}
                Ok((due, Err(error @ Error::Log(decider::Error::Undecidable { .. })))) => {
                    tracing::error!(?due, %error, "an expiry is left to a newer release");
                }
                Ok((due, Err(error))) => {
                    let now = sign_in.clock.now();
                    waiting.insert((now.plus(RETRY_AFTER), due));
                    // A log that takes nothing refuses all of them.
                    if quiet_until <= now {
                        quiet_until = now.plus(RETRY_AFTER);
                        let waiting = waiting.len();
                        tracing::warn!(?due, %error, waiting, "could not record an expiry; it will be tried again");
                    }
                }
                Err(error) => tracing::error!(%error, "an expiry is left to the next start"),
            },
            more = asked.recv() => match more {
                Some(due) => { waiting.insert(due); }
                None => return,
            },
            () = tokio::time::sleep(nap) => {}
        }
    }
}

/// The next that is due: its time has come; or it is further off than the longest life, and the clock was ahead when it
/// began and has been set right since.
fn next_due(waiting: &mut BTreeSet<(Timestamp, Due)>, now: Timestamp) -> Option<Due> {
    let longest = limits::ENROLMENT_LIFETIME.max(*limits::APPROVAL_LIFETIME.end());
    let first = waiting.first().filter(|(at, _)| *at <= now);
    let due = *first.or_else(|| waiting.last().filter(|(at, _)| at.is_ahead_of(now.plus(longest))))?;
    waiting.remove(&due);
    Some(due.1)
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
        let ahead = |s| now.plus(Duration::from_secs(s));
        let mut waiting = BTreeSet::from([
            (now.minus(Duration::from_secs(1)), due(1)),
            (now, due(2)),
            (ahead(1), due(3)),
            (ahead(660), due(4)),
            (ahead(661), due(5)),
            (ahead(1_000_000), due(6)),
        ]);
        let all: Vec<_> = std::iter::from_fn(|| next_due(&mut waiting, now)).collect();
        assert_eq!(all, [due(1), due(2), due(6), due(5)]);
        assert_eq!(waiting.len(), 2);
    }
}
