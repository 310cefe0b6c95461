//! The wrong numbers of one account, and the pause of pushes that they call for. Moments that are ahead of the clock do not
//! count.

use countersign_domain::{Timestamp, policy::Policy};

/// See above.
#[derive(Default)]
pub(super) struct Pause {
    wrong_numbers: Vec<Timestamp>,
    /// Until when one has to begin in this very entry.
    due_until: Option<Timestamp>,
    since_until: Option<(Timestamp, Timestamp)>,
}

impl Pause {
    pub(super) fn see_clock(&mut self, now: Timestamp) {
        self.wrong_numbers.retain(|at| !at.is_ahead_of(now));
        self.since_until.take_if(|(since, _)| since.is_ahead_of(now));
    }

    pub(super) fn wrong_number(&mut self, policy: &Policy, at: Timestamp) {
        self.wrong_numbers.push(at);
        let lately = self.wrong_numbers.iter().filter(|one| one.is_within(policy.wrong_numbers_window, at));
        if lately.count() >= policy.wrong_numbers_max as usize {
            self.due_until = Some(at.plus(policy.push_pause));
        }
    }

    /// It starts the count anew, and shortens none before it.
    pub(super) fn begin(&mut self, until: Timestamp, at: Timestamp) -> Result<(), String> {
        self.wrong_numbers.clear();
        if self.since_until.is_none_or(|(_, before)| before < until) {
            self.since_until = Some((at, until));
        }
        match self.due_until.take() {
            Some(due) if due == until => Ok(()),
            due => Err(format!("push is paused until {until:?}, and that was called for: {due:?}")),
        }
    }

    pub(super) fn is_on(&self, now: Timestamp) -> bool {
        self.since_until.is_some_and(|(_, until)| now < until)
    }

    /// After an entry: whether one should have begun in it.
    pub(super) fn is_missing(&mut self) -> bool {
        self.due_until.take().is_some()
    }
}
