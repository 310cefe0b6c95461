//! When a failed push is tried again: exponential backoff with full jitter, within the push's own life.

use std::time::Duration;

use countersign_domain::Timestamp;
use reqwest::header::{HeaderMap, RETRY_AFTER};

/// Moments that are this near count as in order: pushes ask with the time at which each began.
const CLOCK_STEP: Duration = Duration::from_secs(60);

/// Whether `at` is less than `span` before `now`. A moment from the future is not: the clock was set back, and what
/// was true for a while from then on may be hours off.
pub(super) fn is_recent(at: Timestamp, span: Duration, now: Timestamp) -> bool {
    at <= now.plus(CLOCK_STEP) && at.until(now) < span
}

/// Who asks for a longer pause is asked again after this one all the same: one mistaken answer must not silence a push
/// service for a year.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60 * 60);

/// How the time between attempts grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Backoff {
    /// The first retry comes within this time.
    pub(super) first: Duration,
    /// Every other within at most this.
    pub(super) max: Duration,
}

impl Backoff {
    /// How long to wait after the `failures`th failure (from 1), or none if the push would be of no use then.
    ///
    /// Without a word from the push service: a time drawn evenly from nothing to a window that doubles with each
    /// failure (full jitter: it spreads those that failed together the best), and that ends with the push's life.
    /// With one, `after`: never earlier, and spread over one first window, so that not everybody who was sent away
    /// comes back at the same moment.
    pub(super) fn delay(
        self,
        failures: u32,
        after: Option<Duration>,
        life: Duration,
        random: u64,
    ) -> Option<Duration> {
        let (earliest, window) = match after {
            Some(after) => (after, self.first),
            None => (Duration::ZERO, self.window(failures)),
        };
        let room = life.checked_sub(earliest).filter(|room| !room.is_zero())?;
        Some(earliest + draw(window.min(room), random))
    }

    fn window(self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.first.saturating_mul(1 << doublings).min(self.max)
    }
}

/// Evenly from nothing up to, but not including, `window`.
fn draw(window: Duration, random: u64) -> Duration {
    let nanos = (u128::from(random) * window.as_nanos()) >> 64;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// What `Retry-After` says (RFC 9110 section 10.2.3): a number of seconds, or a date. An hour at most.
pub fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let after = if text.bytes().all(|byte| byte.is_ascii_digit()) {
        text.parse().ok().map(Duration::from_secs)
    } else {
        http_date(text).map(|date| now.until(date))
    };
    after.map(|after| after.min(RETRY_AFTER_MAX))
}

/// An HTTP-date in the form that senders must use (RFC 9110 section 5.6.7): `Sun, 06 Nov 1994 08:49:37 GMT`.
pub(super) fn http_date(text: &str) -> Option<Timestamp> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (_day_name, rest) = text.split_once(", ")?;
    let mut parts = rest.split(' ');
    let day: u64 = parts.next()?.parse().ok()?;
    let month = parts.next()?;
    let month = MONTHS.iter().position(|name| *name == month)? as u64 + 1;
    let year: u64 = parts.next()?.parse().ok()?;
    let mut time = parts.next()?.split(':').map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    let fits = (1970..10_000).contains(&year)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60
        && time.next().is_none()
        && parts.next() == Some("GMT")
        && parts.next().is_none();
    fits.then(|| {
        let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
        Timestamp::from_millis(seconds * 1_000)
    })
}

/// Days from 1970-01-01 to this day of the Gregorian calendar. Counts years from March, so that a leap day is the
/// last of its year.
fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    let (year, month_from_march) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    // 719,468 days lie between 1 March of the year 0 and 1970.
    year * 365 + leap_days + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use reqwest::header::HeaderValue;

    use super::*;

    const BACKOFF: Backoff = Backoff { first: Duration::from_millis(500), max: Duration::from_secs(30) };
    const LONG: Duration = Duration::from_secs(3_600);

    fn now() -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000)
    }

    fn header(value: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_str(value).unwrap());
        retry_after(&headers, now())
    }

    #[test]
    fn what_lies_ahead_is_not_recent_unless_it_is_near() {
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        assert!(is_recent(now(), minute, now()));
        assert!(is_recent(now().minus(Duration::from_secs(59)), minute, now()));
        assert!(!is_recent(now().minus(minute), minute, now()));
        assert!(is_recent(now().plus(minute), minute, now()));
        assert!(!is_recent(now().plus(minute + second), minute, now()));
    }

    #[test]
    fn the_window_doubles_up_to_its_limit() {
        let longest = |failures| BACKOFF.delay(failures, None, LONG, u64::MAX).unwrap();
        let windows: Vec<_> = (1..=8).map(|failures| longest(failures).as_millis() + 1).collect();
        assert_eq!(windows, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
        assert!(longest(u32::MAX) < BACKOFF.max);
        assert_eq!(BACKOFF.delay(8, None, LONG, 0), Some(Duration::ZERO), "full jitter begins at nothing");
    }

    proptest! {
        #[test]
        fn a_retry_comes_before_the_push_expires_and_never_before_retry_after(
            failures in 1..100u32,
            after in proptest::option::of(0..200_000u64),
            life in 0..200_000u64,
            random: u64,
        ) {
            let after = after.map(Duration::from_millis);
            let life = Duration::from_millis(life);
            match BACKOFF.delay(failures, after, life, random) {
                Some(delay) => {
                    prop_assert!(delay < life);
                    prop_assert!(delay >= after.unwrap_or_default());
                    prop_assert!(delay <= after.unwrap_or_default() + BACKOFF.max);
                }
                None => prop_assert!(life <= after.unwrap_or_default()),
            }
        }
    }

    #[test]
    fn retry_after_is_a_number_of_seconds_or_a_date() {
        assert_eq!(header("7"), Some(Duration::from_secs(7)));
        assert_eq!(header("0"), Some(Duration::ZERO));
        // 1,700,000,000 is 2023-11-14T22:13:20Z.
        assert_eq!(header("Tue, 14 Nov 2023 22:14:00 GMT"), Some(Duration::from_secs(40)));
        assert_eq!(header("Tue, 14 Nov 2023 22:13:00 GMT"), Some(Duration::ZERO), "a date that has passed");
        assert_eq!(retry_after(&HeaderMap::new(), now()), None);
    }

    #[test]
    fn nobody_is_sent_away_for_longer_than_an_hour() {
        for text in ["3600", "3601", "18446744073709551615", "Fri, 31 Dec 9999 23:59:59 GMT"] {
            assert_eq!(header(text), Some(Duration::from_secs(3_600)), "{text}");
        }
    }

    #[test]
    fn what_is_no_retry_after_counts_as_none() {
        for text in [
            "",
            "soon",
            "-1",
            "1.5",
            "99999999999999999999999",
            "Tue, 14 Nov 2023 22:14:00 CET",
            "Tue, 14 Nov 2023 22:14 GMT",
            "Tue, 14 Nov 2023 25:14:00 GMT",
            "Tue, 32 Nov 2023 22:14:00 GMT",
            "Tue, 14 Nov 0000 22:14:00 GMT",
            "Tue, 14 Nov 2023 22:14:00 GMT GMT",
            "Tuesday, 14-Nov-23 22:14:00 GMT",
        ] {
            assert_eq!(header(text), None, "{text}");
        }
    }

    #[test]
    fn dates_know_leap_years() {
        let seconds = |text| http_date(text).map(Timestamp::as_millis).map(|millis| millis / 1_000);
        assert_eq!(seconds("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777), "RFC 9110's example");
        assert_eq!(seconds("Thu, 29 Feb 2024 00:00:00 GMT"), Some(1_709_164_800));
        assert_eq!(seconds("Fri, 01 Mar 2024 00:00:00 GMT"), Some(1_709_251_200));
        assert_eq!(seconds("Mon, 01 Mar 2100 00:00:00 GMT"), Some(4_107_542_400), "2100 is no leap year");
    }
}
