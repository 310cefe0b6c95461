//! Counts of what happened to an account lately, and what they forbid.

use std::time::Duration;

use crate::{Timestamp, policy::Policy};

/// Moments that are remembered per count: more than any policy counts up to.
const REMEMBERED_MAX: usize = 1_000;

/// How long they are remembered: longer than any policy looks back. Policies differ, and one that looks back a little must
/// not make another forget.
const REMEMBERED_FOR: Duration = Duration::from_secs(60 * 60);

/// The recent past of an account.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Throttle {
    requests: Vec<Timestamp>,
    wrong_numbers: Vec<Timestamp>,
    paused_until: Option<Timestamp>,
}

impl Throttle {
    /// Whether the account has had as many requests lately as the policy allows.
    pub fn requests_exhausted(&self, policy: &Policy, now: Timestamp) -> bool {
        since(&self.requests, now.minus(policy.requests_window)) >= policy.requests_max as usize
    }

    /// Until when push is paused, if it is.
    pub fn paused_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.paused_until.filter(|until| now < *until)
    }

    /// Until when push is to be paused, if one more wrong number calls for it.
    pub fn pause_after_one_more(&self, policy: &Policy, now: Timestamp) -> Option<Timestamp> {
        let with_this = since(&self.wrong_numbers, now.minus(policy.wrong_numbers_window)) + 1;
        (with_this >= policy.wrong_numbers_max as usize).then(|| now.plus(policy.push_pause))
    }

    pub(crate) fn request(&mut self, at: Timestamp) {
        remember(&mut self.requests, at);
    }

    pub(crate) fn wrong_number(&mut self, at: Timestamp) {
        remember(&mut self.wrong_numbers, at);
    }

    /// A pause starts the count anew: it is the answer to those wrong numbers. It never shortens the one before it,
    /// which another policy may have made longer.
    pub(crate) fn pause(&mut self, until: Timestamp) {
        self.paused_until = self.paused_until.max(Some(until));
        self.wrong_numbers.clear();
    }
}

fn since(moments: &[Timestamp], start: Timestamp) -> usize {
    moments.iter().filter(|at| **at > start).count()
}

fn remember(moments: &mut Vec<Timestamp>, at: Timestamp) {
    let start = at.minus(REMEMBERED_FOR);
    moments.retain(|earlier| *earlier > start);
    if moments.len() == REMEMBERED_MAX {
        moments.remove(0);
    }
    moments.push(at);
}
