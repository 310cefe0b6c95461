//! The door for new work. A broker that is asked for more than it can do lets in as much as it can, and sends the rest
//! away at once, while that is cheap: else everybody would wait for longer and longer, and what is done in the end would
//! be of use to nobody. What has been let in (a phone's answer, a login that waits) is never sent away here.
//!
//! How much it can do is not configured but seen: a task stands in the broker's own queue every few milliseconds, and
//! sees how much work is done before its turn. If even the least of an interval is much, work piles up, and fewer are let
//! in; else more. (The least, not the mean, tells a queue that stands from one that comes and goes: Nichols and Jacobson,
//! "Controlling Queue Delay", 2012. By how much: additive increase, multiplicative decrease.) What is counted is the
//! broker's own CPU time: a machine that gives it little makes it slow, and to send people away would not help.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::clock::{CpuWatch, Stopwatch};

/// How often the task stands in the queue.
const NAP: Duration = Duration::from_millis(5);
/// Turns are looked at together.
const INTERVAL: Duration = Duration::from_millis(100);
/// So many intervals in a row, and it is no burst that passes by itself.
const PATIENCE: u32 = 5;
/// Who is sent away should come again no sooner.
pub const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// All are let in.
const ALL: u32 = 1 << 16;
/// Some always are: how else would be seen that it goes again?
const LEAST: u32 = ALL / 50;
/// So many more after an interval without a pile.
const MORE: u32 = ALL / 40;

/// How many are let in.
#[derive(Debug)]
pub struct Admission {
    /// Work piles up when, before each turn of an interval, every core has worked for longer than this.
    queue_max: Duration,
    /// Intervals in a row in which it did.
    piled: AtomicU32,
    /// Of [`ALL`].
    admitted: AtomicU32,
    /// What those who came have brought together; who makes it overflow is let in.
    gathered: AtomicU32,
}

/// It was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shed;

impl Admission {
    /// Lets in all until there is more work than this before each core, all the time.
    pub fn new(queue_max: Duration) -> Self {
        let (admitted, gathered) = (AtomicU32::new(ALL), AtomicU32::new(0));
        Self { queue_max, piled: AtomicU32::new(0), admitted, gathered }
    }

    /// Lets in all, whatever there is to do.
    pub fn of_all() -> Self {
        Self::new(Duration::MAX)
    }

    /// Lets somebody in, or not: spread evenly, not by chance.
    pub fn admit(&self) -> Result<(), Shed> {
        let admitted = self.admitted.load(Ordering::Relaxed);
        if admitted >= ALL {
            return Ok(());
        }
        let before = self.gathered.fetch_add(admitted, Ordering::Relaxed);
        if before % ALL + admitted >= ALL { Ok(()) } else { Err(Shed) }
    }

    /// Looks how much there is to do before one has one's turn, until the broker stops.
    pub async fn watch(self: Arc<Self>, stopping: CancellationToken) {
        if self.queue_max == Duration::MAX {
            return stopping.cancelled().await;
        }
        let cores = Handle::current().metrics().num_workers();
        let cores = u32::try_from(cores).unwrap_or(u32::MAX).max(1);
        while !stopping.is_cancelled() {
            let (interval, mut least) = (Stopwatch::start(), Duration::MAX);
            while interval.elapsed() < INTERVAL {
                tokio::time::sleep(NAP).await;
                least = least.min(work_before_ones_turn().await / cores);
            }
            self.seen(least);
        }
    }

    /// Before each turn of an interval there was at least so much to do.
    fn seen(&self, least: Duration) {
        let before = self.admitted.load(Ordering::Relaxed);
        let piles_up = least > self.queue_max;
        let piled = if piles_up { self.piled.load(Ordering::Relaxed).saturating_add(1) } else { 0 };
        self.piled.store(piled, Ordering::Relaxed);
        if before == ALL && piled < PATIENCE {
            return;
        }
        let after = if piles_up { (before - before / 8).max(LEAST) } else { (before + MORE).min(ALL) };
        self.admitted.store(after, Ordering::Relaxed);
        if piles_up && before == ALL {
            tracing::warn!(
                waits_ms = least.as_millis(),
                "more is asked for than this machine can do: some requests for approvals are sent away (OVERLOADED)"
            );
        } else if before < ALL && after == ALL {
            tracing::info!("all requests for approvals are let in again");
        }
    }
}

/// The CPU time that is used before a task that comes now has its turn. It comes from a thread that works on no tasks
/// itself, and so stands in the queue that all workers share. (A worker's own tasks go into a short queue of its own, and
/// one that yields is not behind what waits in the other: neither would see how much there is.)
async fn work_before_ones_turn() -> Duration {
    let (runtime, work) = (Handle::current(), CpuWatch::start());
    let comes = tokio::task::spawn_blocking(move || runtime.spawn(async move { work.used() }));
    match comes.await {
        Ok(turn) => turn.await.unwrap_or_default(),
        Err(_) => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, sync::Barrier};

    use super::*;

    const MAX: Duration = Duration::from_millis(5);

    fn let_in(admission: &Admission, of: usize) -> usize {
        (0..of).filter(|_| admission.admit().is_ok()).count()
    }

    fn overloaded() -> Admission {
        let admission = Admission::new(MAX);
        (0..PATIENCE).for_each(|_| admission.seen(MAX * 2));
        admission
    }

    #[test]
    fn a_burst_sends_nobody_away_and_neither_does_work_that_is_not_more_than_may_be() {
        let admission = Admission::new(MAX);
        for _ in 0..10 {
            (1..PATIENCE).for_each(|_| admission.seen(MAX * 2));
            admission.seen(MAX);
        }
        assert_eq!(let_in(&admission, 1_000), 1_000);
        let of_all = Admission::of_all();
        (0..100).for_each(|_| of_all.seen(Duration::from_secs(60)));
        assert_eq!(let_in(&of_all, 1_000), 1_000);
    }

    #[test]
    fn fewer_are_let_in_the_longer_work_piles_up_and_all_when_it_does_not_any_more() {
        let admission = overloaded();
        assert!((870..=880).contains(&let_in(&admission, 1_000)));
        (0..5).for_each(|_| admission.seen(MAX * 2));
        assert!((440..=460).contains(&let_in(&admission, 1_000)));
        (0..1_000).for_each(|_| admission.seen(MAX * 2));
        assert!((19..=21).contains(&let_in(&admission, 1_000)), "some always are");
        (0..40).for_each(|_| admission.seen(Duration::ZERO));
        assert_eq!(let_in(&admission, 1_000), 1_000);
    }

    #[test]
    fn who_is_let_in_is_spread_evenly() {
        let admission = overloaded();
        (0..5).for_each(|_| admission.seen(MAX * 2));
        for _ in 0..100 {
            assert!((3..=6).contains(&let_in(&admission, 10)));
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn work_that_waits_for_all_workers_is_seen() {
        const TASKS: u32 = 1_000;
        let each = Duration::from_micros(50);
        let busy = move || {
            let watch = CpuWatch::start();
            while watch.used() < each {
                std::hint::spin_loop();
            }
        };
        let runtime = Handle::current();
        let workers = runtime.metrics().num_workers();
        let (held, holds) = (Arc::new(Barrier::new(workers + 1)), Arc::new(Barrier::new(workers + 1)));
        for _ in 0..workers {
            let (held, holds) = (Arc::clone(&held), Arc::clone(&holds));
            drop(runtime.spawn(async move {
                holds.wait();
                held.wait();
            }));
        }
        holds.wait();
        (0..TASKS).for_each(|_| drop(runtime.spawn(async move { busy() })));
        let mut before = pin!(work_before_ones_turn());
        while runtime.metrics().global_queue_depth() <= TASKS as usize {
            assert!(futures::poll!(&mut before).is_pending());
        }
        held.wait();
        assert!(before.await > each * (TASKS / 2));
    }

    #[tokio::test]
    async fn work_that_piles_up_is_seen() {
        let (admission, stopping) = (Arc::new(Admission::new(MAX)), CancellationToken::new());
        let watch = tokio::spawn(Arc::clone(&admission).watch(stopping.clone()));
        // One thread runs all tasks here, and this one leaves it only for moments.
        while admission.admit().is_ok() {
            let busy = CpuWatch::start();
            while busy.used() < MAX * 2 {
                std::hint::spin_loop();
            }
            tokio::task::yield_now().await;
        }
        stopping.cancel();
        watch.await.unwrap();
    }
}
