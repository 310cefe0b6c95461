//! Whether what waits was pushed.

use std::time::Duration;

use super::Ledger;

/// So long after a challenge is durable, at the latest, it is pushed for the first time by a broker that is at work.
const PUSHED_WITHIN: Duration = Duration::from_secs(5);

impl Ledger {
    /// A challenge was pushed to this target, whatever became of it.
    pub(crate) fn pushed(&mut self, approval: &str, target: &str) {
        self.pushed.insert((approval.to_owned(), target.to_owned()));
    }

    /// So much time has passed, in which a broker was at work or not: what waits is pushed to whom it can reach. What is
    /// over by a clock that was set may be ended before.
    pub(crate) fn pass(&mut self, time: Duration, at_work: bool) {
        for book in self.accounts.values_mut() {
            for (id, attempt) in book.approvals.iter_mut().filter(|(_, one)| one.ended.is_none()) {
                attempt.waited = if at_work { attempt.waited + time } else { Duration::ZERO };
                if attempt.waited < PUSHED_WITHIN || attempt.clock_set < self.clock.times_set() {
                    continue;
                }
                let asked = attempt.may_answer.iter().filter_map(|phone| book.phones.get(phone));
                for target in asked.filter(|phone| phone.active).filter_map(|phone| phone.target.clone()) {
                    if !self.pushed.contains(&(id.to_string(), target.clone())) {
                        self.wrong.push(format!("{id} waits, and nobody has pushed it to {target}"));
                    }
                }
            }
        }
    }
}
