//! The rule by which something has grown.
//!
//! Only quiet moments count: no fault is on, none was in the [`SETTLES`] before, and the broker's process is older than
//! [`WARMS_UP`]. What a process needs is compared with what the **same** process needed before: one that has just been
//! started is not smaller because nothing leaks.
//!
//! Memory, open files, threads: the slope is the median of the slopes between all pairs of such moments (Theil and Sen),
//! which a few outliers, a step that goes back, or noise as large as the level do not move. Extrapolated to an hour and
//! divided by the level, it may be at most so much ([`MEMORY_MAX`], [`FILES_MAX`], [`THREADS_MAX`]).
//!
//! Latency: the median of the quiet seconds' medians in the last quarter, against the first; at most [`LATENCY_MAX`]
//! times as long, where [`LATENCY_FLOOR_US`] more is never too much.
//!
//! With fewer than [`MOMENTS_MIN`] quiet seconds nothing is judged: a process that has just begun grows.

use std::time::Duration;

use serde::Serialize;

/// After a fault, what it has held up is still made good.
pub const SETTLES: Duration = Duration::from_secs(8);
/// Caches of a process that is younger are still filled, and its allocator has not seen a whole round of everything.
pub const WARMS_UP: Duration = Duration::from_secs(60);
/// Quiet seconds below which nothing is judged.
pub const MOMENTS_MIN: usize = 120;
/// Growth of resident memory in an hour, as part of the level.
pub const MEMORY_MAX: f64 = 0.25;
/// The same of open file descriptors.
pub const FILES_MAX: f64 = 0.1;
/// And of threads.
pub const THREADS_MAX: f64 = 0.1;
/// Median latency in the last quarter, as a multiple of that in the first.
pub const LATENCY_MAX: f64 = 1.5;
/// So much more, in microseconds, is what the machine does.
pub const LATENCY_FLOOR_US: f64 = 3_000.0;

/// Something that was measured at a quiet moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moment {
    /// Which of the broker's processes, one after the other.
    pub life: u32,
    /// Seconds from the beginning.
    pub at_s: f64,
    /// How much.
    pub value: f64,
}

/// What the rule says.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Judged {
    /// Quiet moments that it was judged by.
    pub moments: usize,
    /// Their median; of latency, that of the first quarter.
    pub level: f64,
    /// Growth in an hour as part of the level; of latency, the last quarter as a multiple of the first.
    pub grows: f64,
    /// How much that may be.
    pub at_most: f64,
    /// Whether it is no more. None if there was too little to judge by.
    pub is_flat: Option<bool>,
}

/// Whether this need grows. None if it never was measured at a quiet moment.
pub fn need(moments: &[Moment], at_most: f64) -> Option<Judged> {
    let level = median(moments.iter().map(|moment| moment.value))?;
    let grows = slope(moments).unwrap_or(0.0) * 3_600.0 / level.max(1.0);
    let is_flat = (moments.len() >= MOMENTS_MIN).then_some(grows <= at_most);
    Some(Judged { moments: moments.len(), level, grows, at_most, is_flat })
}

/// Whether this latency, in microseconds, grows.
pub fn latency(moments: &[Moment]) -> Option<Judged> {
    let quarter = (moments.len() / 4).max(1);
    let value = |moment: &Moment| moment.value;
    let first = median(moments.iter().take(quarter).map(value))?;
    let last = median(moments.iter().rev().take(quarter).map(value))?;
    let is_flat = last <= (first * LATENCY_MAX).max(first + LATENCY_FLOOR_US);
    Some(Judged {
        moments: moments.len(),
        level: first,
        grows: last / first.max(1.0),
        at_most: LATENCY_MAX,
        is_flat: (moments.len() >= MOMENTS_MIN).then_some(is_flat),
    })
}

/// The median of the slopes between all pairs of moments of one life, in units a second.
fn slope(moments: &[Moment]) -> Option<f64> {
    let pairs = moments.iter().enumerate().flat_map(|(at, one)| {
        let later = moments[at + 1..].iter().take_while(|other| other.life == one.life);
        later.map(|other| (other.value - one.value) / (other.at_s - one.at_s))
    });
    median(pairs.filter(|slope| slope.is_finite()))
}

fn median(of: impl Iterator<Item = f64>) -> Option<f64> {
    let mut all: Vec<_> = of.collect();
    let middle = all.len() / 2;
    (!all.is_empty()).then(|| *all.select_nth_unstable_by(middle, f64::total_cmp).1)
}

#[cfg(test)]
mod tests {
    use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

    use super::*;

    const MIB: f64 = 1024.0 * 1024.0;

    /// Ten minutes of a process of 100 MiB with noise of 4 MiB, gaps where it was not quiet, and what is added.
    fn memory(added: impl Fn(f64) -> f64) -> Vec<Moment> {
        let mut random = StdRng::seed_from_u64(1);
        let quiet = (0..600).filter(|second| second % 40 < 25);
        let moments = quiet.map(|second| {
            let at_s = f64::from(second);
            let noise = random.random_range(-4.0..4.0) * MIB;
            Moment { life: 1, at_s, value: 100.0 * MIB + noise + added(at_s) }
        });
        moments.collect()
    }

    fn is_flat(moments: &[Moment]) -> bool {
        need(moments, MEMORY_MAX).and_then(|judged| judged.is_flat).expect("enough to judge by")
    }

    #[test]
    fn noise_is_flat() {
        assert!(is_flat(&memory(|_| 0.0)));
    }

    #[test]
    fn a_leak_that_the_noise_hides_is_found() {
        // 200 bytes for each of 50 sign-ins a second: 6 MiB in these ten minutes, and 34 in an hour.
        assert!(!is_flat(&memory(|at_s| 200.0 * 50.0 * at_s)));
    }

    #[test]
    fn a_leak_in_steps_is_found() {
        // 5 MiB each time that something is closed.
        assert!(!is_flat(&memory(|at_s| (at_s / 120.0).floor() * 5.0 * MIB)));
    }

    #[test]
    fn a_peak_that_goes_back_is_flat() {
        assert!(is_flat(&memory(|at_s| if (400.0..450.0).contains(&at_s) { 300.0 * MIB } else { 0.0 })));
    }

    #[test]
    fn what_shrinks_is_flat() {
        assert!(is_flat(&memory(|at_s| -50_000.0 * at_s)));
    }

    #[test]
    fn a_file_that_is_left_open_every_minute_is_found() {
        let files = |left_open: f64| -> Vec<_> {
            let seconds = (0..600).map(f64::from);
            seconds
                .map(|at_s| Moment { life: 1, at_s, value: 60.0 + (at_s * left_open / 60.0).floor() })
                .collect()
        };
        assert_eq!(need(&files(1.0), FILES_MAX).unwrap().is_flat, Some(false));
        assert_eq!(need(&files(0.0), FILES_MAX).unwrap().is_flat, Some(true));
    }

    #[test]
    fn a_process_is_compared_with_itself_alone() {
        // Each is larger than the one before it, and none of them grows.
        let lives = (0..3).flat_map(|life: u32| {
            let seconds = (0..100).map(move |second| f64::from(life * 100 + second));
            seconds.map(move |at_s| Moment { life, at_s, value: f64::from(life + 1) * MIB })
        });
        let judged = need(&lives.collect::<Vec<_>>(), MEMORY_MAX).unwrap();
        assert_eq!((judged.grows, judged.is_flat), (0.0, Some(true)));
    }

    #[test]
    fn a_latency_that_doubles_is_found_and_what_the_machine_does_is_not() {
        let times = |us: fn(f64) -> f64| -> Vec<_> {
            (0..400).map(|at| Moment { life: 1, at_s: f64::from(at), value: us(f64::from(at)) }).collect()
        };
        let judge = |moments: &[Moment]| latency(moments).unwrap().is_flat;
        assert_eq!(judge(&times(|at_s| 5_000.0 + 20.0 * at_s)), Some(false));
        assert_eq!(judge(&times(|at_s| 5_000.0 + 1_000.0 * (at_s % 7.0))), Some(true));
        // Twice as long, and nobody would notice.
        assert_eq!(judge(&times(|at_s| 1_000.0 + 3.0 * at_s)), Some(true));
    }

    #[test]
    fn too_little_is_not_judged() {
        let few = &memory(|at_s| 1e6 * at_s)[..MOMENTS_MIN - 1];
        assert_eq!(need(few, MEMORY_MAX).unwrap().is_flat, None);
        assert_eq!(latency(few).unwrap().is_flat, None);
        assert_eq!(need(&[], MEMORY_MAX), None);
    }
}
