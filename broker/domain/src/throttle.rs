//! Counts of what happened to an account lately, and what they forbid.
//!
//! Moments that are ahead of the clock ([`Timestamp::is_ahead_of`]) do not count, and are forgotten at the next event: a
//! clock that was ahead and is set right must not lock the account until that time comes.

use std::time::Duration;

use crate::{Timestamp, kept::kept_fields, limits, policy::Policy};

/// Moments that are remembered per count: more than any policy counts up to.
const REMEMBERED_MAX: usize = 1_000;

/// How long they are remembered: longer than any policy looks back. Policies differ, and one that looks back a little must
/// not make another forget.
const REMEMBERED_FOR: Duration = Duration::from_secs(60 * 60);

/// The recent past of an account.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Throttle {
    requests: Vec<Timestamp>,
    refusals: Vec<Timestamp>,
    wrong_numbers: Vec<Timestamp>,
    paused: Option<Pause>,
}

kept_fields!(Throttle { requests, refusals, wrong_numbers, paused });

#[derive(Debug, Clone, PartialEq, Eq)]
struct Pause {
    since: Timestamp,
    until: Timestamp,
}

kept_fields!(Pause { since, until });

impl Throttle {
    /// Whether the account has had as many requests lately as the policy allows.
    pub fn requests_exhausted(&self, policy: &Policy, now: Timestamp) -> bool {
        within(&self.requests, policy.requests_window, now) >= policy.requests_max as usize
    }

    /// How long until a request can be refused with an event again, if as many have been lately as may be.
    pub fn refusals_exhausted(&self, now: Timestamp) -> Option<Duration> {
        wait(&self.refusals, limits::REFUSALS_RECORDED_MAX, limits::REFUSALS_WINDOW, now)
    }

    /// Until when push is paused, if it is: at most the pause's own length from now.
    pub fn paused_until(&self, now: Timestamp) -> Option<Timestamp> {
        let pause = self.paused.as_ref().filter(|pause| !pause.since.is_ahead_of(now))?;
        let until = pause.until.min(now.plus(pause.since.until(pause.until)));
        Some(until).filter(|until| now < *until)
    }

    /// Until when push is to be paused, if one more wrong number calls for it.
    pub fn pause_after_one_more(&self, policy: &Policy, now: Timestamp) -> Option<Timestamp> {
        let with_this = within(&self.wrong_numbers, policy.wrong_numbers_window, now) + 1;
        (with_this >= policy.wrong_numbers_max as usize).then(|| now.plus(policy.push_pause))
    }

    pub(crate) fn request(&mut self, at: Timestamp) {
        remember(&mut self.requests, at);
    }

    pub(crate) fn refusal(&mut self, at: Timestamp) {
        remember(&mut self.refusals, at);
    }

    pub(crate) fn wrong_number(&mut self, at: Timestamp) {
        remember(&mut self.wrong_numbers, at);
    }

    /// A pause starts the count anew: it is the answer to those wrong numbers. It never shortens the one before it,
    /// which another policy may have made longer.
    pub(crate) fn pause(&mut self, since: Timestamp, until: Timestamp) {
        if self.paused.as_ref().is_none_or(|pause| pause.until < until) {
            self.paused = Some(Pause { since, until });
        }
        self.wrong_numbers.clear();
    }

    pub(crate) fn forget_ahead_of(&mut self, now: Timestamp) {
        for moments in [&mut self.requests, &mut self.refusals, &mut self.wrong_numbers] {
            moments.retain(|at| !at.is_ahead_of(now));
        }
        self.paused.take_if(|pause| pause.since.is_ahead_of(now));
    }
}

fn within(moments: &[Timestamp], span: Duration, now: Timestamp) -> usize {
    moments.iter().filter(|at| at.is_within(span, now)).count()
}

/// How long until fewer than `most` of these moments are within the span, if there are as many now.
pub(crate) fn wait(moments: &[Timestamp], most: usize, span: Duration, now: Timestamp) -> Option<Duration> {
    let mut counted: Vec<_> = moments.iter().filter(|at| at.is_within(span, now)).collect();
    counted.sort_unstable();
    let last_to_leave = counted.get(counted.len().checked_sub(most)?)?;
    Some(now.until(last_to_leave.plus(span)))
}

fn remember(moments: &mut Vec<Timestamp>, at: Timestamp) {
    let start = at.minus(REMEMBERED_FOR);
    moments.retain(|earlier| *earlier > start);
    if moments.len() == REMEMBERED_MAX {
        moments.remove(0);
    }
    moments.push(at);
}
