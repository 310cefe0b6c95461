//! The task that serves one push service's queue: gives each push to the connection with the most room, waits for
//! what comes of it, and lets failed ones wait for another attempt.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use countersign_domain::{Timestamp, event::PushServiceKind};
use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::{sync::mpsc, time::timeout};

use super::{
    Clock, DELAY_TOLD, EXPIRED, Outcome, Queued, Random, Report, UNREACHABLE, complaints::Complaints,
};
use crate::{
    push::{Accepted, Error, PushService, Service, retry::Backoff},
    telemetry::{
        Stopwatch,
        metrics::{
            labels::{self, Attempted as Said, Pushed},
            metrics,
        },
    },
};

pub(super) struct Dispatcher<I> {
    kind: PushServiceKind,
    connections: Vec<Connection>,
    in_flight_max: usize,
    attempt_timeout: Duration,
    backoff: Backoff,
    report: Arc<dyn Report<I>>,
    clock: Clock,
    random: Random,
    complaints: Complaints,
}

/// A connection as the queue sees it.
struct Connection {
    service: Arc<dyn PushService>,
    in_flight: usize,
    /// The last attempt on it was answered. Until then it gets one push at a time: that is how many APNs takes
    /// before it has seen a valid token, and as many as are worth losing to a connection that accepts and never
    /// answers.
    proven: bool,
}

/// A job that waits for an attempt.
struct Waiting<I> {
    queued: Queued<I>,
    failures: u32,
    /// The connection on which the last attempt got no answer: another one is better.
    avoid: Option<usize>,
    last_failure: Option<String>,
    /// When the first attempt began.
    since: Option<Timestamp>,
    told_of_delay: bool,
}

/// An attempt that is over; the connection, and what it said, if it did in time.
struct Attempted<I> {
    waiting: Waiting<I>,
    connection: usize,
    answer: Option<Result<Accepted, Error>>,
    took: Duration,
}

impl<I: Clone + Send + 'static> Dispatcher<I> {
    pub(super) fn new(service: Service, report: Arc<dyn Report<I>>, clock: Clock, random: Random) -> Self {
        let queue = service.queue;
        let connections = service.connections.into_iter();
        Self {
            kind: service.kind,
            connections: connections
                .map(|service| Connection { service, in_flight: 0, proven: false })
                .collect(),
            in_flight_max: usize::try_from(queue.in_flight_per_connection.get()).unwrap_or(usize::MAX),
            attempt_timeout: Duration::from_millis(queue.attempt_timeout_ms.get()),
            backoff: Backoff {
                first: Duration::from_millis(queue.retry_first_ms.get()),
                max: Duration::from_millis(queue.retry_max_ms.get()),
            },
            report,
            clock,
            random,
            complaints: Complaints::new(service.kind),
        }
    }

    /// Serves the queue until no more jobs can come and all that came have ended.
    ///
    /// All attempts are polled by this one task: what wakes it is mostly a connection with several answers at once.
    pub(super) async fn run(mut self, mut jobs: mpsc::UnboundedReceiver<Queued<I>>) {
        // Jobs that may be tried now, and were before: they go before those in `jobs`.
        let mut ready = VecDeque::new();
        // A waiting retry is a timer here; it holds no room on a connection.
        let mut retries = FuturesUnordered::new();
        let mut attempts = FuturesUnordered::new();
        let mut open = true;
        loop {
            while self.has_room() {
                let Some(waiting) = ready.pop_front().or_else(|| jobs.try_recv().ok().map(Waiting::new))
                else {
                    break;
                };
                let now = (self.clock)();
                let Some(mut waiting) = self.still_useful(waiting, now) else { continue };
                let Some(connection) = self.take_room(waiting.avoid) else { continue };
                let service = Arc::clone(&self.connections[connection].service);
                waiting.since.get_or_insert(now);
                self.count_attempt(&waiting);
                attempts.push(attempt(waiting, connection, service, now, self.attempt_timeout));
            }
            tokio::select! {
                // Retries first: under load there is always another answer.
                biased;
                Some(waiting) = retries.next() => ready.push_back(waiting),
                Some(attempted) = attempts.next() => {
                    if let Some((delay, waiting)) = self.settle(attempted) {
                        retries.push(after(delay, waiting));
                    }
                }
                job = jobs.recv(), if open && self.has_room() => match job {
                    Some(queued) => ready.push_back(Waiting::new(queued)),
                    None => open = false,
                },
                else => break,
            }
        }
    }

    /// The job, if another attempt makes sense; else it is over, and reported.
    fn still_useful(&self, waiting: Waiting<I>, now: Timestamp) -> Option<Waiting<I>> {
        let job = &waiting.queued.job;
        if job.message.expires_at <= now {
            let reason = waiting.last_failure.unwrap_or_else(|| EXPIRED.to_owned());
            self.end(waiting.queued, Outcome::Failed { reason });
            None
        } else if self.report.wanted(&job.id) {
            Some(waiting)
        } else {
            self.end(waiting.queued, Outcome::Withdrawn);
            None
        }
    }

    fn has_room(&self) -> bool {
        self.connections.iter().any(|connection| connection.has_room(self.in_flight_max))
    }

    /// A place on a connection: not on the one to avoid if there is another, then where the fewest pushes are under
    /// way, then where the last one was answered.
    fn take_room(&mut self, avoid: Option<usize>) -> Option<usize> {
        let with_room =
            self.connections.iter_mut().enumerate().filter(|(_, it)| it.has_room(self.in_flight_max));
        let (index, connection) =
            with_room.min_by_key(|(index, it)| (Some(*index) == avoid, it.in_flight, !it.proven))?;
        connection.in_flight += 1;
        Some(index)
    }

    /// What follows from an attempt: the job is over, or waits for so long.
    fn settle(&mut self, attempted: Attempted<I>) -> Option<(Duration, Waiting<I>)> {
        let Attempted { mut waiting, connection, answer, took } = attempted;
        let job = &waiting.queued.job;
        let answer = answer.unwrap_or_else(|| {
            let seconds = self.attempt_timeout.as_secs_f32();
            Err(Error::Unreachable { reason: format!("no answer within {seconds} s") })
        });
        let on = &mut self.connections[connection];
        on.in_flight -= 1;
        on.proven = !matches!(answer, Err(Error::Unreachable { .. }));
        self.count_answer(&answer, took);

        let now = (self.clock)();
        let (service, kind, id) = (self.kind, job.message.kind.as_str(), job.message.id.as_str());
        let (reason, after) = match answer {
            Ok(Accepted { push_id }) => {
                tracing::debug!(%service, kind, id, push_id, "accepted by the push service");
                self.end(waiting.queued, Outcome::Accepted { push_id });
                return None;
            }
            Err(Error::Dead { reason, since }) => {
                tracing::debug!(%service, kind, id, reason, "the push target is dead");
                // Apps are removed every day. Many at once are another matter: a wrong endpoint or project.
                if let Some(kept_back) = self.complaints.due(&reason, now) {
                    tracing::info!(%service, reason, kept_back, "push targets are dead");
                }
                let target_hash = job.target.hash();
                self.end(waiting.queued, Outcome::Dead { target_hash, since, reason });
                return None;
            }
            Err(Error::Refused { reason }) => {
                self.complaints.warn("the push service refuses pushes", &reason, now);
                self.end(waiting.queued, Outcome::Failed { reason });
                return None;
            }
            Err(Error::Unreachable { reason }) => {
                self.complaints.warn("the push service is out of reach", &reason, now);
                waiting.avoid = Some(connection);
                (UNREACHABLE.to_owned(), None)
            }
            Err(Error::Retry { reason, after }) => (reason, after),
        };

        waiting.failures = waiting.failures.saturating_add(1);
        let failures = waiting.failures;
        let life = now.until(job.message.expires_at);
        let Some(delay) = self.backoff.delay(failures, after, life, (self.random)()) else {
            tracing::debug!(%service, kind, id, failures, reason, "push failed: no time left for a retry");
            self.complaints.warn("pushes fail until they expire", &reason, now);
            self.end(waiting.queued, Outcome::Failed { reason });
            return None;
        };
        tracing::debug!(%service, kind, id, failures, reason, ?delay, "push failed: will be tried again");
        let first = waiting.since.unwrap_or(now);
        if !waiting.told_of_delay && first.until(now) + delay >= DELAY_TOLD {
            waiting.told_of_delay = true;
            self.report.report(waiting.queued.job.id.clone(), Outcome::Delayed { reason: reason.clone() });
        }
        waiting.last_failure = Some(reason);
        Some((delay, waiting))
    }

    /// The job's end. Its place is free before its report, so that who hears of it can give the next.
    fn end(&self, queued: Queued<I>, outcome: Outcome) {
        let Queued { job, place } = queued;
        drop(place);
        metrics().push.pushes.count((self.label(), pushed(&outcome)));
        self.report.report(job.id, outcome);
    }

    fn count_attempt(&self, waiting: &Waiting<I>) {
        let push = &metrics().push;
        push.in_flight.up(self.label());
        if waiting.failures > 0 {
            push.retries.count(self.label());
        }
    }

    fn count_answer(&self, answer: &Result<Accepted, Error>, took: Duration) {
        let said = match answer {
            Ok(_) => Said::Accepted,
            Err(Error::Dead { .. }) => Said::Dead,
            Err(Error::Retry { .. }) => Said::Retry,
            Err(Error::Unreachable { .. }) => Said::Unreachable,
            Err(Error::Refused { .. }) => Said::Refused,
        };
        let push = &metrics().push;
        push.in_flight.down(self.label());
        push.attempts.count((self.label(), said));
        push.attempt_duration.took(self.label(), took);
    }

    fn label(&self) -> labels::Service {
        self.kind.into()
    }
}

fn pushed(outcome: &Outcome) -> Pushed {
    match outcome {
        Outcome::Accepted { .. } => Pushed::Accepted,
        Outcome::Failed { reason } if reason == EXPIRED => Pushed::Expired,
        Outcome::Failed { .. } | Outcome::Delayed { .. } => Pushed::Failed,
        Outcome::Dead { .. } => Pushed::Dead,
        Outcome::Withdrawn => Pushed::Withdrawn,
    }
}

impl Connection {
    fn has_room(&self, in_flight_max: usize) -> bool {
        self.in_flight < if self.proven { in_flight_max } else { 1 }
    }
}

impl<I> Waiting<I> {
    fn new(queued: Queued<I>) -> Self {
        Self { queued, failures: 0, avoid: None, last_failure: None, since: None, told_of_delay: false }
    }
}

async fn attempt<I>(
    waiting: Waiting<I>,
    connection: usize,
    service: Arc<dyn PushService>,
    now: Timestamp,
    limit: Duration,
) -> Attempted<I> {
    let job = &waiting.queued.job;
    let begun = Stopwatch::start();
    let answer = timeout(limit, service.send(&job.target, &job.message, now)).await.ok();
    Attempted { waiting, connection, answer, took: begun.elapsed() }
}

async fn after<I>(delay: Duration, waiting: Waiting<I>) -> Waiting<I> {
    tokio::time::sleep(delay).await;
    waiting
}
