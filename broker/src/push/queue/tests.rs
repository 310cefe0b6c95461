//! The queue with scripted connections, on paused time: hours pass in no time, and in order.
#![expect(clippy::disallowed_methods, reason = "tokio's paused clock is the time of these tests")]

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use countersign_domain::{
    Timestamp,
    event::{PushServiceKind, PushTarget},
};
use tokio::{sync::mpsc, time::Instant};

use super::*;
use crate::push::{Accepted, Error, PushKind, PushService};

const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);
const LIFE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

/// What a connection does with a push: `attempt` counts those of the connection from 0.
type Script = Box<dyn Fn(usize, &PushMessage) -> Act + Send + Sync>;

/// One act of a connection.
enum Act {
    Accept,
    AcceptAfter(Duration),
    Fail(Error),
    Hang,
}

/// A connection that plays its script.
struct Fake {
    script: Script,
    attempts: AtomicUsize,
    under_way: AtomicUsize,
    under_way_max: AtomicUsize,
    /// Which job, and when.
    seen: Mutex<Vec<(String, Duration)>>,
    begun: Instant,
}

impl Fake {
    fn new(script: impl Fn(usize, &PushMessage) -> Act + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            script: Box::new(script),
            attempts: AtomicUsize::new(0),
            under_way: AtomicUsize::new(0),
            under_way_max: AtomicUsize::new(0),
            seen: Mutex::default(),
            begun: Instant::now(),
        })
    }

    fn seen(&self) -> Vec<(String, Duration)> {
        self.seen.lock().unwrap().clone()
    }

    fn under_way_max(&self) -> usize {
        self.under_way_max.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl PushService for Fake {
    async fn send(&self, _: &PushTarget, message: &PushMessage, _: Timestamp) -> Result<Accepted, Error> {
        struct Leave<'a>(&'a AtomicUsize);
        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        let attempt = self.attempts.fetch_add(1, Ordering::SeqCst);
        let under_way = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.under_way_max.fetch_max(under_way, Ordering::SeqCst);
        let _leave = Leave(&self.under_way);
        self.seen.lock().unwrap().push((message.id.clone(), self.begun.elapsed()));
        match (self.script)(attempt, message) {
            Act::Accept => Ok(Accepted { push_id: format!("push of {}", message.id) }),
            Act::AcceptAfter(time) => {
                tokio::time::sleep(time).await;
                Ok(Accepted { push_id: format!("push of {}", message.id) })
            }
            Act::Fail(error) => Err(error),
            Act::Hang => std::future::pending().await,
        }
    }
}

fn retry(after: Option<Duration>) -> Act {
    Act::Fail(Error::Retry { reason: "TooManyRequests".to_owned(), after })
}

fn unreachable() -> Act {
    Act::Fail(Error::Unreachable { reason: "the connection broke".to_owned() })
}

fn settings() -> QueueSettings {
    QueueSettings { capacity: 1_000.try_into().unwrap(), ..QueueSettings::default() }
}

fn service(kind: PushServiceKind, connections: &[&Arc<Fake>], queue: QueueSettings) -> Service {
    let connections = connections.iter().map(|fake| Arc::clone(fake) as Arc<dyn PushService>).collect();
    Service { kind, connections, queue, credentials: None }
}

/// A pusher whose jobs are numbers, and what it reports.
struct Running {
    pusher: Pusher<u32>,
    reports: mpsc::UnboundedReceiver<(u32, Outcome)>,
}

/// The clock goes with tokio's; jitter is always half of the window.
fn start(services: Vec<Service>) -> Running {
    let (report, reports) = mpsc::unbounded_channel();
    let report: Arc<dyn Report<u32>> = Arc::new(report);
    Running { pusher: start_with(services, &report), reports }
}

fn start_with(services: Vec<Service>, report: &Arc<dyn Report<u32>>) -> Pusher<u32> {
    let begun = Instant::now();
    let clock: Clock = Arc::new(move || START.plus(begun.elapsed()));
    let random: Random = Arc::new(|| u64::MAX / 2);
    Pusher::start(services, report, &clock, &random)
}

fn job(kind: PushServiceKind, id: u32) -> Job<u32> {
    let message = PushMessage {
        kind: PushKind::Challenge,
        id: id.to_string(),
        authenticator_id: "a".to_owned(),
        expires_at: START.plus(LIFE),
        acknowledgement_token: String::new(),
        nonce: String::new(),
    };
    Job { id, target: PushTarget::recorded(kind, "ab"), message }
}

fn apns(id: u32) -> Job<u32> {
    job(PushServiceKind::Apns, id)
}

fn accepted(id: u32) -> (u32, Outcome) {
    (id, Outcome::Accepted { push_id: format!("push of {id}") })
}

impl Running {
    /// The next end of a job.
    async fn next(&mut self) -> (u32, Outcome) {
        loop {
            match self.reports.recv().await.unwrap() {
                (_, Outcome::Delayed { .. }) => {}
                end => return end,
            }
        }
    }

    /// The next `count` reports, which must all say 'accepted'; whom they are about.
    async fn accepted(&mut self, count: usize) -> HashSet<u32> {
        let mut ids = HashSet::new();
        for _ in 0..count {
            let (id, outcome) = self.next().await;
            assert!(matches!(outcome, Outcome::Accepted { .. }), "{id}: {outcome:?}");
            assert!(ids.insert(id), "{id} was reported twice");
        }
        ids
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_is_sent_and_reported_once() {
    let connection = Fake::new(|_, _| Act::Accept);
    let mut running = start(vec![service(PushServiceKind::Apns, &[&connection], settings())]);
    running.pusher.enqueue(apns(1)).unwrap();
    assert_eq!(running.next().await, accepted(1));
    assert_eq!(running.pusher.pending(), 0);
    assert_eq!(running.pusher.drain(SECOND).await, 0);
    assert!(running.reports.try_recv().is_err());
    assert_eq!(connection.seen().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_honoured_and_backoff_grows() {
    let connection = Fake::new(|attempt, _| match attempt {
        0 => retry(Some(Duration::from_secs(7))),
        1..=3 => retry(None),
        _ => Act::Accept,
    });
    let mut running = start(vec![service(PushServiceKind::Apns, &[&connection], settings())]);
    running.pusher.enqueue(apns(1)).unwrap();
    assert_eq!(running.next().await, accepted(1));
    let times: Vec<_> = connection.seen().into_iter().map(|(_, time)| time.as_millis()).collect();
    // Half of each window: 7 s + 250 ms, then halves of 1, 2 and 4 s (timers go by the millisecond).
    let expected = [0, 7_250, 7_750, 8_750, 10_750];
    assert!(times.iter().zip(expected).all(|(time, expected)| time.abs_diff(expected) <= 5), "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn a_delay_is_told_once_before_the_next_attempt_if_that_is_far_off() {
    let connection = Fake::new(|attempt, _| match attempt {
        0 => retry(None),
        1 => retry(Some(7 * SECOND)),
        2 => unreachable(),
        _ => Act::Accept,
    });
    let mut running = start(vec![service(PushServiceKind::Apns, &[&connection], settings())]);
    running.pusher.enqueue(apns(1)).unwrap();
    // The first failure is tried again within the second: nobody need know.
    let delayed = (1, Outcome::Delayed { reason: "TooManyRequests".to_owned() });
    assert_eq!(running.reports.recv().await, Some(delayed));
    assert_eq!(connection.seen().len(), 2);
    assert!(connection.begun.elapsed() < SECOND);
    assert_eq!(running.reports.recv().await, Some(accepted(1)));
    assert_eq!(connection.seen().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn no_attempt_is_made_after_the_message_has_expired() {
    let connection = Fake::new(|_, _| retry(None));
    let mut running = start(vec![service(PushServiceKind::Apns, &[&connection], settings())]);
    running.pusher.enqueue(apns(1)).unwrap();
    assert_eq!(running.next().await, (1, Outcome::Failed { reason: "TooManyRequests".to_owned() }));
    let seen = connection.seen();
    assert!(seen.len() > 5, "{seen:?}");
    assert!(seen.iter().all(|(_, time)| *time < LIFE), "{seen:?}");

    // A Retry-After beyond the end: no use in waiting for it.
    let connection = Fake::new(|_, _| retry(Some(LIFE)));
    let mut running = start(vec![service(PushServiceKind::Apns, &[&connection], settings())]);
    running.pusher.enqueue(apns(2)).unwrap();
    assert_eq!(running.next().await, (2, Outcome::Failed { reason: "TooManyRequests".to_owned() }));
    assert_eq!(connection.seen().len(), 1);
    assert!(connection.begun.elapsed() < SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_expired_in_the_queue_is_not_sent() {
    // Each takes 40 s, one at a time: the second is sent at its 40th second, the third would be at its 80th.
    let connection = Fake::new(|_, _| Act::AcceptAfter(Duration::from_secs(40)));
    let queue = QueueSettings {
        in_flight_per_connection: 1.try_into().unwrap(),
        attempt_timeout_ms: 100_000.try_into().unwrap(),
        ..settings()
    };
    let mut running = start(vec![service(PushServiceKind::Apns, &[&connection], queue)]);
    for id in 1..=3 {
        running.pusher.enqueue(apns(id)).unwrap();
    }
    assert_eq!(running.next().await, accepted(1));
    assert_eq!(running.next().await, accepted(2));
    assert_eq!(running.next().await, (3, Outcome::Failed { reason: "EXPIRED".to_owned() }));
    assert_eq!(connection.seen().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_dead_or_refused_is_not_tried_again() {
    let since = Some(START.minus(SECOND));
    let connection = Fake::new(move |_, message| match message.id.as_str() {
        "1" => Act::Fail(Error::Dead { reason: "Unregistered".to_owned(), since }),
        _ => Act::Fail(Error::Refused { reason: "TopicDisallowed".to_owned() }),
    });
    let mut running = start(vec![service(PushServiceKind::Apns, &[&connection], settings())]);
    running.pusher.enqueue(apns(1)).unwrap();
    let target_hash = apns(1).target.hash();
    let dead = Outcome::Dead { target_hash, since, reason: "Unregistered".to_owned() };
    assert_eq!(running.next().await, (1, dead));
    running.pusher.enqueue(apns(2)).unwrap();
    assert_eq!(running.next().await, (2, Outcome::Failed { reason: "TopicDisallowed".to_owned() }));
    assert_eq!(connection.seen().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_until_a_job_has_ended_and_retries_count() {
    let connection = Fake::new(|attempt, _| match attempt {
        0 => retry(Some(5 * SECOND)),
        1 => Act::AcceptAfter(2 * SECOND),
        _ => Act::Accept,
    });
    let queue = QueueSettings { capacity: 2.try_into().unwrap(), ..settings() };
    let mut running = start(vec![service(PushServiceKind::Apns, &[&connection], queue)]);
    running.pusher.enqueue(apns(1)).unwrap();
    running.pusher.enqueue(apns(2)).unwrap();
    assert_eq!(running.pusher.enqueue(apns(3)), Err(NotQueued::Full(PushServiceKind::Apns)));
    assert_eq!(running.pusher.pending(), 2);
    tokio::time::sleep(SECOND).await;
    // One waits for its retry, one is under way.
    assert_eq!(running.pusher.enqueue(apns(3)), Err(NotQueued::Full(PushServiceKind::Apns)));
    assert_eq!(running.next().await, accepted(2));
    running.pusher.enqueue(apns(3)).unwrap();
    assert_eq!(running.next().await, accepted(3));
    assert_eq!(running.next().await, accepted(1));
    assert_eq!(running.pusher.pending_of(PushServiceKind::Apns), 0);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_not_configured_is_said_to_be() {
    let connection = Fake::new(|_, _| Act::Accept);
    let running = start(vec![service(PushServiceKind::Apns, &[&connection], settings())]);
    let fcm = job(PushServiceKind::Fcm, 1);
    assert_eq!(running.pusher.enqueue(fcm), Err(NotQueued::NotConfigured(PushServiceKind::Fcm)));
}

#[tokio::test(start_paused = true)]
async fn a_slow_service_does_not_hold_up_the_other() {
    let (slow, quick) = (Fake::new(|_, _| Act::Hang), Fake::new(|_, _| Act::Accept));
    let mut running = start(vec![
        service(PushServiceKind::Apns, &[&slow], settings()),
        service(PushServiceKind::Fcm, &[&quick], settings()),
    ]);
    for id in 0..100 {
        running.pusher.enqueue(apns(id)).unwrap();
        running.pusher.enqueue(job(PushServiceKind::Fcm, 100 + id)).unwrap();
    }
    assert_eq!(running.accepted(100).await, (100..200).collect());
    assert!(quick.begun.elapsed() < SECOND);
    assert_eq!(running.pusher.pending_of(PushServiceKind::Apns), 100);
}

#[tokio::test(start_paused = true)]
async fn a_connection_gets_one_push_until_it_has_answered_and_then_as_many_as_allowed() {
    let connection = Fake::new(|_, _| Act::AcceptAfter(SECOND));
    let queue = QueueSettings { in_flight_per_connection: 10.try_into().unwrap(), ..settings() };
    let mut running = start(vec![service(PushServiceKind::Apns, &[&connection], queue)]);
    for id in 0..31 {
        running.pusher.enqueue(apns(id)).unwrap();
    }
    tokio::time::sleep(SECOND / 2).await;
    assert_eq!(connection.under_way_max(), 1);
    running.accepted(31).await;
    assert_eq!(connection.under_way_max(), 10);
    let begun = connection.seen().iter().map(|(_, time)| time.as_secs()).collect::<Vec<_>>();
    assert_eq!(begun, [vec![0], vec![1; 10], vec![2; 10], vec![3; 10]].concat());
}

#[tokio::test(start_paused = true)]
async fn pushes_are_spread_over_all_connections() {
    let connections: Vec<_> = (0..4).map(|_| Fake::new(|_, _| Act::AcceptAfter(SECOND))).collect();
    let connections: Vec<_> = connections.iter().collect();
    let mut running = start(vec![service(PushServiceKind::Apns, &connections, settings())]);
    for id in 0..4 {
        running.pusher.enqueue(apns(id)).unwrap();
    }
    running.accepted(4).await;
    for id in 4..84 {
        running.pusher.enqueue(apns(id)).unwrap();
    }
    running.accepted(80).await;
    for connection in connections {
        assert_eq!(connection.seen().len(), 21);
        assert_eq!(connection.under_way_max(), 20);
    }
}

#[tokio::test(start_paused = true)]
async fn a_waiting_retry_holds_no_room_on_the_connection() {
    let connection =
        Fake::new(|attempt, _| if attempt == 0 { retry(Some(30 * SECOND)) } else { Act::Accept });
    let queue = QueueSettings { in_flight_per_connection: 1.try_into().unwrap(), ..settings() };
    let mut running = start(vec![service(PushServiceKind::Apns, &[&connection], queue)]);
    running.pusher.enqueue(apns(1)).unwrap();
    running.pusher.enqueue(apns(2)).unwrap();
    assert_eq!(running.next().await, accepted(2));
    assert!(connection.begun.elapsed() < SECOND);
    assert_eq!(running.next().await, accepted(1));
}

#[tokio::test(start_paused = true)]
async fn a_push_without_an_answer_is_tried_on_another_connection() {
    let broken = Fake::new(|_, _| unreachable());
    let good = Fake::new(|_, _| Act::Accept);
    let mut running = start(vec![service(PushServiceKind::Apns, &[&broken, &good], settings())]);
    running.pusher.enqueue(apns(1)).unwrap();
    assert_eq!(running.next().await, accepted(1));
    assert_eq!((broken.seen().len(), good.seen().len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_never_answers_does_not_stop_the_others() {
    let silent = Fake::new(|_, _| Act::Hang);
    let good = Fake::new(|_, _| Act::AcceptAfter(SECOND / 10));
    let queue = QueueSettings { attempt_timeout_ms: 5_000.try_into().unwrap(), ..settings() };
    let mut running = start(vec![service(PushServiceKind::Apns, &[&silent, &good], queue)]);
    for id in 0..500 {
        running.pusher.enqueue(apns(id)).unwrap();
    }
    assert_eq!(running.accepted(500).await, (0..500).collect());
    assert_eq!(silent.under_way_max(), 1, "no more than one push is risked at a time");
    assert_eq!(silent.seen().len(), 1);
    assert!(silent.begun.elapsed() < 6 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn pushes_that_wait_on_a_connection_that_falls_silent_go_elsewhere() {
    let falls_silent = Fake::new(|attempt, _| if attempt == 0 { Act::Accept } else { Act::Hang });
    let good = Fake::new(|_, _| Act::AcceptAfter(SECOND));
    let mut running = start(vec![service(PushServiceKind::Apns, &[&falls_silent, &good], settings())]);
    for id in 0..52 {
        running.pusher.enqueue(apns(id)).unwrap();
    }
    assert_eq!(running.accepted(52).await, (0..52).collect());
    assert!(falls_silent.under_way_max() > 10);
    assert!(falls_silent.begun.elapsed() < 12 * SECOND, "one time-out, one retry: no push goes back to it");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_has_fallen_silent_is_risked_one_push_at_a_time() {
    let silent = Fake::new(|attempt, _| if attempt == 0 { Act::Accept } else { Act::Hang });
    let mut running = start(vec![service(PushServiceKind::Apns, &[&silent], settings())]);
    for id in 0..20 {
        running.pusher.enqueue(apns(id)).unwrap();
    }
    running.accepted(1).await;
    tokio::time::sleep(11 * SECOND).await;
    assert_eq!(silent.under_way_max(), 19, "as many as there were when it was good");
    assert_eq!(silent.under_way.load(Ordering::SeqCst), 1);
    for _ in 0..19 {
        let (_, outcome) = running.next().await;
        assert!(matches!(&outcome, Outcome::Failed { reason } if reason == "UNREACHABLE"), "{outcome:?}");
        assert!(silent.under_way.load(Ordering::SeqCst) <= 1);
    }
}

#[tokio::test(start_paused = true)]
async fn when_there_is_little_to_do_a_connection_that_answered_goes_first() {
    let broken = Fake::new(|_, _| unreachable());
    let good = Fake::new(|_, _| Act::Accept);
    let mut running = start(vec![service(PushServiceKind::Apns, &[&broken, &good], settings())]);
    for id in 0..30 {
        running.pusher.enqueue(apns(id)).unwrap();
        running.accepted(1).await;
    }
    assert_eq!((broken.seen().len(), good.seen().len()), (1, 30));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_recovers_is_used_again() {
    let recovers = Fake::new(|attempt, _| if attempt < 3 { unreachable() } else { Act::Accept });
    let mut running = start(vec![service(PushServiceKind::Apns, &[&recovers], settings())]);
    for id in 0..50 {
        running.pusher.enqueue(apns(id)).unwrap();
    }
    assert_eq!(running.accepted(50).await.len(), 50);
}

/// Wants no job of these.
struct Unwanted {
    ids: Mutex<HashSet<u32>>,
    reports: mpsc::UnboundedSender<(u32, Outcome)>,
}

impl Report<u32> for Unwanted {
    fn wanted(&self, id: &u32) -> bool {
        !self.ids.lock().unwrap().contains(id)
    }

    fn report(&self, id: u32, outcome: Outcome) {
        self.reports.send((id, outcome)).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_push_that_nobody_wants_any_more_is_not_tried_again() {
    let connection = Fake::new(|_, _| retry(Some(2 * SECOND)));
    let (sender, mut reports) = mpsc::unbounded_channel();
    let unwanted = Arc::new(Unwanted { ids: Mutex::default(), reports: sender });
    let services = vec![service(PushServiceKind::Apns, &[&connection], settings())];
    let report: Arc<dyn Report<u32>> = unwanted.clone();
    let pusher = start_with(services, &report);
    pusher.enqueue(apns(1)).unwrap();
    tokio::time::sleep(SECOND).await;
    // Answered meanwhile, on another way.
    unwanted.ids.lock().unwrap().insert(1);
    assert_eq!(reports.recv().await.unwrap(), (1, Outcome::Withdrawn));
    assert_eq!(connection.seen().len(), 1);
    assert_eq!(pusher.pending(), 0);
}

/// Puts another job into the queue for each that is done, until job 0 is.
struct Refill {
    pusher: OnceLock<Pusher<u32>>,
    over: AtomicBool,
    done: mpsc::UnboundedSender<u32>,
}

/// So many jobs are done long after a retry is due.
const MANY: u32 = 1_000_000;

impl Report<u32> for Refill {
    fn report(&self, id: u32, _: Outcome) {
        if id == 0 || id == MANY {
            self.over.store(true, Ordering::SeqCst);
            let _ = self.done.send(id);
        } else if !self.over.load(Ordering::SeqCst)
            && let Some(pusher) = self.pusher.get()
        {
            pusher.enqueue(apns(id + 1)).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_that_is_due_does_not_wait_for_a_queue_that_never_empties() {
    let connection =
        Fake::new(|attempt, _| if attempt == 0 { retry(Some(SECOND / 50)) } else { Act::Accept });
    let (done, mut first_done) = mpsc::unbounded_channel();
    let refill = Arc::new(Refill { pusher: OnceLock::new(), over: AtomicBool::new(false), done });
    let report: Arc<dyn Report<u32>> = refill.clone();
    let pusher = start_with(vec![service(PushServiceKind::Apns, &[&connection], settings())], &report);
    let pusher = refill.pusher.get_or_init(|| pusher);
    pusher.enqueue(apns(0)).unwrap();
    pusher.enqueue(apns(1)).unwrap();
    assert_eq!(first_done.recv().await, Some(0));
}

#[tokio::test(start_paused = true)]
async fn draining_waits_for_all_that_was_taken_and_takes_no_more() {
    let connection = Fake::new(|attempt, _| match attempt {
        0 => retry(Some(5 * SECOND)),
        _ => Act::AcceptAfter(SECOND),
    });
    let mut running = start(vec![service(PushServiceKind::Apns, &[&connection], settings())]);
    for id in 1..=3 {
        running.pusher.enqueue(apns(id)).unwrap();
    }
    let pusher = &running.pusher;
    let (given_up, ()) = tokio::join!(pusher.drain(30 * SECOND), async {
        tokio::time::sleep(SECOND / 10).await;
        assert_eq!(pusher.enqueue(apns(4)), Err(NotQueued::Draining));
    });
    assert_eq!(given_up, 0);
    assert_eq!(running.pusher.pending(), 0);
    assert_eq!(running.accepted(3).await, (1..=3).collect());
    assert_eq!(running.pusher.drain(SECOND).await, 0, "nothing is left to do");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_done_at_the_deadline_of_a_drain_is_given_up() {
    let connection = Fake::new(|attempt, _| if attempt == 0 { Act::Accept } else { Act::Hang });
    let mut running = start(vec![service(PushServiceKind::Apns, &[&connection], settings())]);
    for id in 1..=3 {
        running.pusher.enqueue(apns(id)).unwrap();
    }
    assert_eq!(running.next().await, accepted(1));
    assert_eq!(running.pusher.drain(2 * SECOND).await, 2);
    assert_eq!(connection.begun.elapsed().as_secs(), 2);
    tokio::time::sleep(LIFE).await;
    assert!(running.reports.try_recv().is_err(), "no report of what was given up");
    assert_eq!(connection.under_way.load(Ordering::SeqCst), 0, "and nothing goes on");
}
