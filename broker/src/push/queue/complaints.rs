//! Says what an operator should know, once a minute for each reason: an expired credential refuses every push, and
//! must not fill the log.

use std::{collections::HashMap, time::Duration};

use countersign_domain::{Timestamp, event::PushServiceKind};

use crate::push::retry::is_recent;

/// The same reason is said again after so long.
const QUIET: Duration = Duration::from_secs(60);

/// More different reasons than this within a minute are not told apart: reasons come from outside.
const REASONS_MAX: usize = 64;

#[derive(Debug)]
pub(super) struct Complaints {
    service: PushServiceKind,
    said: HashMap<String, Said>,
}

#[derive(Debug)]
struct Said {
    at: Timestamp,
    kept_back: u64,
}

impl Complaints {
    pub(super) fn new(service: PushServiceKind) -> Self {
        Self { service, said: HashMap::new() }
    }

    /// Logs `reason` as a warning, unless it was logged within the last minute.
    pub(super) fn warn(&mut self, what: &'static str, reason: &str, now: Timestamp) {
        if let Some(kept_back) = self.due(reason, now) {
            tracing::warn!(service = %self.service, reason, kept_back, "{what}");
        }
    }

    /// How many like it were kept back since it was said last, if it is time to say it.
    pub(super) fn due(&mut self, reason: &str, now: Timestamp) -> Option<u64> {
        if let Some(said) = self.said.get_mut(reason) {
            if is_recent(said.at, QUIET, now) {
                said.kept_back += 1;
                return None;
            }
            said.at = now;
            return Some(std::mem::take(&mut said.kept_back));
        }
        if self.said.len() >= REASONS_MAX {
            self.said.retain(|_, said| is_recent(said.at, QUIET, now));
        }
        if self.said.len() >= REASONS_MAX {
            return None;
        }
        self.said.insert(reason.to_owned(), Said { at: now, kept_back: 0 });
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000 + seconds * 1_000)
    }

    #[test]
    fn a_reason_is_said_once_a_minute_with_the_number_of_those_kept_back() {
        let mut complaints = Complaints::new(PushServiceKind::Apns);
        assert_eq!(complaints.due("InvalidProviderToken", at(0)), Some(0));
        for second in 1..60 {
            assert_eq!(complaints.due("InvalidProviderToken", at(second)), None);
        }
        assert_eq!(complaints.due("TopicDisallowed", at(59)), Some(0), "another reason is said at once");
        assert_eq!(complaints.due("InvalidProviderToken", at(60)), Some(59));
        assert_eq!(complaints.due("InvalidProviderToken", at(61)), None);
    }

    #[test]
    fn a_flood_of_different_reasons_is_bounded_and_passes() {
        let mut complaints = Complaints::new(PushServiceKind::Fcm);
        let said = (0..1_000).filter(|n| complaints.due(&format!("reason {n}"), at(0)).is_some()).count();
        assert_eq!(said, REASONS_MAX);
        assert_eq!(complaints.due("a new one", at(60)), Some(0));
        assert!(complaints.said.len() <= REASONS_MAX);
    }
}
