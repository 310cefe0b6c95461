//! Where pushes wait: one bounded queue for each push service, so that a slow one holds up nobody but itself.

mod complaints;
mod dispatcher;
#[cfg(test)]
mod tests;

use std::{
    num::{NonZeroU32, NonZeroU64},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use countersign_domain::{
    Timestamp,
    event::{PushServiceKind, PushTarget},
};
use serde::Deserialize;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, mpsc},
    task::{JoinHandle, unconstrained},
};

use self::dispatcher::Dispatcher;
use super::{Clock, PushMessage, Random, Service};
use crate::telemetry::metrics;

/// How pushes wait for a push service. The section `queue` of its settings.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueueSettings {
    /// At most so many pushes wait, are under way, or wait for another attempt; one more is refused. About 1.5 KiB
    /// of memory each. Default 20,000.
    pub capacity: NonZeroU32,
    /// At most so many pushes are under way on one connection. The push service may allow fewer; those over its
    /// limit wait in the connection. Default 100.
    pub in_flight_per_connection: NonZeroU32,
    /// An attempt without an answer after so many milliseconds has failed. Google asks for 10 seconds at least.
    /// Default 10,000.
    pub attempt_timeout_ms: NonZeroU64,
    /// The first retry comes within so many milliseconds; the time doubles with each failure. Default 500.
    pub retry_first_ms: NonZeroU64,
    /// Any further retry comes within so many milliseconds. Default 30,000.
    pub retry_max_ms: NonZeroU64,
}

impl Default for QueueSettings {
    fn default() -> Self {
        const fn count(value: u32) -> NonZeroU32 {
            NonZeroU32::new(value).expect("not zero")
        }
        const fn millis(value: u64) -> NonZeroU64 {
            NonZeroU64::new(value).expect("not zero")
        }
        Self {
            capacity: count(20_000),
            in_flight_per_connection: count(100),
            attempt_timeout_ms: millis(10_000),
            retry_first_ms: millis(500),
            retry_max_ms: millis(30_000),
        }
    }
}

/// The reason of what got no answer. What exactly was wrong with the connection is for who runs the broker.
pub const UNREACHABLE: &str = "UNREACHABLE";

/// The reason of what nobody tried before it was of no use any more.
pub const EXPIRED: &str = "EXPIRED";

/// A job that is not taken this long after it came is reported as delayed: somebody waits in front of a page.
const DELAY_TOLD: Duration = Duration::from_secs(3);

/// One push to one phone.
#[derive(Debug, Clone)]
pub struct Job<I> {
    /// The caller's name for it; comes back in the report.
    pub id: I,
    /// Where to.
    pub target: PushTarget,
    /// What.
    pub message: PushMessage,
}

/// What became of a job. All but [`Delayed`](Self::Delayed) are its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The push service has taken it.
    Accepted {
        /// The push service's name for it.
        push_id: String,
    },
    /// It was not taken, and will not be tried again.
    Failed {
        /// Why the last attempt failed: the push service's own word, [`UNREACHABLE`] or [`EXPIRED`].
        reason: String,
    },
    /// It has not been taken, and the next attempt is so far off that somebody should be told.
    Delayed {
        /// Why the last attempt failed, as in `Failed`.
        reason: String,
    },
    /// The target is no phone's any more.
    Dead {
        /// SHA-256 of the target ([`PushTarget::hash`]).
        target_hash: [u8; 32],
        /// Since when, if the push service says.
        since: Option<Timestamp>,
        /// The push service's word for it.
        reason: String,
    },
    /// [`Report::wanted`] said no before an attempt.
    Withdrawn,
}

/// Who is told what became of jobs.
///
/// Both calls come from the task that serves the queue, and hold it up: they must be quick and must not block.
pub trait Report<I>: Send + Sync + 'static {
    /// Asked before each attempt: is there still a use for this push? By default there is until it expires. A
    /// retry of a challenge that was answered meanwhile would show it again.
    fn wanted(&self, id: &I) -> bool {
        let _ = id;
        true
    }

    /// Told of the end exactly once for each job that was taken, unless the queue is given up before it is empty;
    /// and of a delay before that, at most once.
    fn report(&self, id: I, outcome: Outcome);
}

/// For who only listens. Reports are not held back: what a job's place in the queue bounded, the receiver holds.
impl<I: Clone + Send + 'static> Report<I> for mpsc::UnboundedSender<(I, Outcome)> {
    fn report(&self, id: I, outcome: Outcome) {
        // Nobody listens any more: nobody wants to know.
        let _ = self.send((id, outcome));
    }
}

/// Why a job was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotQueued {
    /// Too many pushes to this service wait.
    #[error("too many pushes to {0} wait")]
    Full(PushServiceKind),
    /// This push service is not configured.
    #[error("pushes to {0} are not configured")]
    NotConfigured(PushServiceKind),
    /// The program is about to end.
    #[error("pushes are not taken any more")]
    Draining,
}

/// Sends pushes: one queue and one task for each push service. Dropping it takes no more jobs, and lets those that
/// were taken go on.
#[derive(Debug)]
pub struct Pusher<I> {
    apns: Option<Queue<I>>,
    fcm: Option<Queue<I>>,
}

impl<I: Clone + Send + 'static> Pusher<I> {
    /// Serves the queues of these services from now on; of two of one kind, the last. Needs a tokio runtime.
    pub fn start(
        services: impl IntoIterator<Item = Service>,
        report: &Arc<dyn Report<I>>,
        clock: &Clock,
        random: &Random,
    ) -> Self {
        let mut pusher = Self { apns: None, fcm: None };
        for service in services {
            let queue = match service.kind {
                PushServiceKind::Apns => &mut pusher.apns,
                PushServiceKind::Fcm => &mut pusher.fcm,
            };
            *queue = Some(Queue::start(service, Arc::clone(report), Arc::clone(clock), Arc::clone(random)));
        }
        pusher
    }

    /// Takes a job, if there is room for it. What becomes of it is reported.
    pub fn enqueue(&self, job: Job<I>) -> Result<(), NotQueued> {
        let kind = job.target.service();
        self.queue(kind).ok_or(NotQueued::NotConfigured(kind))?.enqueue(job)
    }

    /// How many jobs wait, are under way, or wait for another attempt.
    pub fn pending(&self) -> usize {
        self.pending_of(PushServiceKind::Apns) + self.pending_of(PushServiceKind::Fcm)
    }

    /// The same for one push service.
    pub fn pending_of(&self, kind: PushServiceKind) -> usize {
        self.queue(kind).map_or(0, Queue::pending)
    }

    /// How many jobs one push service's queue holds; none of one that is not configured.
    pub fn capacity_of(&self, kind: PushServiceKind) -> usize {
        self.queue(kind).map_or(0, |queue| queue.capacity)
    }

    /// Takes no more jobs, and waits for those that were taken, at most so long. Then the rest is given up without
    /// a report: how many that were. A second call finds nothing left to do.
    pub async fn drain(&self, within: Duration) -> usize {
        let (apns, fcm) = tokio::join!(drain(self.apns.as_ref(), within), drain(self.fcm.as_ref(), within));
        apns + fcm
    }

    fn queue(&self, kind: PushServiceKind) -> Option<&Queue<I>> {
        match kind {
            PushServiceKind::Apns => self.apns.as_ref(),
            PushServiceKind::Fcm => self.fcm.as_ref(),
        }
    }
}

async fn drain<I: Clone + Send + 'static>(queue: Option<&Queue<I>>, within: Duration) -> usize {
    match queue {
        Some(queue) => queue.drain(within).await,
        None => 0,
    }
}

/// The queue of one push service.
#[derive(Debug)]
struct Queue<I> {
    kind: PushServiceKind,
    capacity: usize,
    /// A job holds its place from when it is taken until it is reported: waiting retries count too.
    places: Arc<Semaphore>,
    /// Not bounded by itself: who sends holds a place. Gone once the queue is drained.
    jobs: Mutex<Option<mpsc::UnboundedSender<Queued<I>>>>,
    dispatcher: Mutex<Option<JoinHandle<()>>>,
}

/// A job and its place in the queue.
#[derive(Debug)]
struct Queued<I> {
    job: Job<I>,
    place: OwnedSemaphorePermit,
}

impl<I: Clone + Send + 'static> Queue<I> {
    fn start(service: Service, report: Arc<dyn Report<I>>, clock: Clock, random: Random) -> Self {
        let kind = service.kind;
        let capacity = usize::try_from(service.queue.capacity.get()).unwrap_or(usize::MAX);
        metrics().push.connections.set(kind.into(), service.connections.len() as u64);
        let (jobs, taken) = mpsc::unbounded_channel();
        // All pushes go through it: it does not stand behind the thousands that each do a little.
        let dispatcher = Dispatcher::new(service, report, clock, random).run(taken);
        let dispatcher = tokio::spawn(unconstrained(dispatcher));
        Self {
            kind,
            capacity,
            places: Arc::new(Semaphore::new(capacity)),
            jobs: Mutex::new(Some(jobs)),
            dispatcher: Mutex::new(Some(dispatcher)),
        }
    }

    fn enqueue(&self, job: Job<I>) -> Result<(), NotQueued> {
        let place = match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => place,
            Err(TryAcquireError::NoPermits) => return Err(NotQueued::Full(self.kind)),
            Err(TryAcquireError::Closed) => return Err(NotQueued::Draining),
        };
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let jobs = jobs.as_ref().ok_or(NotQueued::Draining)?;
        jobs.send(Queued { job, place }).map_err(|_| NotQueued::Draining)
    }

    fn pending(&self) -> usize {
        self.capacity.saturating_sub(self.places.available_permits())
    }

    async fn drain(&self, within: Duration) -> usize {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take();
        let dispatcher = self.dispatcher.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut dispatcher) = dispatcher else { return 0 };
        if tokio::time::timeout(within, &mut dispatcher).await.is_ok() {
            return 0;
        }
        let given_up = self.pending();
        dispatcher.abort();
        given_up
    }
}
