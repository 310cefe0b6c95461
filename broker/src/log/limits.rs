//! What every log refuses, and how long nobody in a hurry waits.

use std::time::Duration;

use super::entry::{Append, ENTRY_BYTES_MAX, EVENTS_PER_ENTRY_MAX};
use super::error::AppendError;

/// How long an append that rides along waits for a batch to join, before it causes one.
pub(crate) const RIDE_ALONG_MAX: Duration = Duration::from_millis(20);

/// Refuses what is no entry, or too large to be one. Gives its bytes.
pub(crate) fn check_limits(append: &Append) -> Result<usize, AppendError> {
    let events = append.events.len();
    if events == 0 {
        return Err(AppendError::NoEvents);
    }
    if events > EVENTS_PER_ENTRY_MAX {
        return Err(AppendError::TooManyEvents { events });
    }
    let bytes = append.bytes();
    if bytes > ENTRY_BYTES_MAX {
        return Err(AppendError::TooLarge { bytes });
    }
    Ok(bytes)
}
