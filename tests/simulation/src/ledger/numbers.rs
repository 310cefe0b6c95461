//! The numbers of one account: those that pages show, of sign-ins and of enrolments, and those that were shown lately and
//! rest. An account has no more than a few trials here: all of their numbers rest.

use std::collections::BTreeMap;

use countersign_domain::{Timestamp, limits::NUMBER_REST, number::MatchNumber};

/// By what shows them: an approval or an enrolment.
#[derive(Default)]
pub(super) struct Numbers(BTreeMap<String, Shown>);

struct Shown {
    number: MatchNumber,
    /// Since when no page shows it; none while one does.
    gone_at: Option<Timestamp>,
}

impl Numbers {
    /// What was gone ahead of the clock rests from now on.
    pub(super) fn see_clock(&mut self, now: Timestamp) {
        for gone_at in self.0.values_mut().filter_map(|one| one.gone_at.as_mut()) {
            *gone_at = gone_at.settled(now);
        }
    }

    pub(super) fn show(&mut self, by: &str, number: MatchNumber, now: Timestamp) -> Result<(), String> {
        let is_taken = |one: &&Shown| one.number == number && one.is_taken(now);
        let taken = self.0.values().find(is_taken).map(|one| match one.gone_at {
            None => format!("{by} shows a number that another page of the account shows"),
            Some(_) => format!("{by} shows a number that has not rested"),
        });
        self.0.insert(by.to_owned(), Shown { number, gone_at: None });
        taken.map_or(Ok(()), Err)
    }

    pub(super) fn rest(&mut self, by: &str, now: Timestamp) {
        if let Some(one) = self.0.get_mut(by) {
            one.gone_at.get_or_insert(now);
        }
    }

    /// All of them, as pages show them.
    pub(super) fn texts(&self) -> impl Iterator<Item = String> {
        self.0.values().map(|one| one.number.to_text())
    }
}

impl Shown {
    fn is_taken(&self, now: Timestamp) -> bool {
        self.gone_at.is_none_or(|gone_at| now < gone_at.plus(NUMBER_REST))
    }
}
