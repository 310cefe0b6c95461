//! What an approval is decided by. It stands in the event by value, so that the log says what held.

use std::time::Duration;

use crate::kept::kept_fields;

/// The policy of one approval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Digits of the match number: 2 to 6.
    pub digits: u8,
    /// How long the phone has.
    pub lifetime: Duration,
    /// Approvals of one account that may wait at a time.
    pub waiting_max: u32,
    /// Requests for one account within `requests_window`.
    pub requests_max: u32,
    /// See `requests_max`.
    pub requests_window: Duration,
    /// Wrong numbers within `wrong_numbers_window` that pause push for the account.
    pub wrong_numbers_max: u32,
    /// See `wrong_numbers_max`.
    pub wrong_numbers_window: Duration,
    /// For how long push is paused.
    pub push_pause: Duration,
}

kept_fields!(Policy {
    digits,
    lifetime,
    waiting_max,
    requests_max,
    requests_window,
    wrong_numbers_max,
    wrong_numbers_window,
    push_pause,
});

impl Default for Policy {
    fn default() -> Self {
        Self {
            digits: 2,
            lifetime: Duration::from_secs(60),
            waiting_max: 5,
            requests_max: 20,
            requests_window: Duration::from_secs(5 * 60),
            wrong_numbers_max: 3,
            wrong_numbers_window: Duration::from_secs(15 * 60),
            push_pause: Duration::from_secs(15 * 60),
        }
    }
}
