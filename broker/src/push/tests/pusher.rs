//! Queue and clients together, against both simulated services.

use std::{collections::HashSet, sync::Arc};

use countersign_domain::event::PushServiceKind::{Apns, Fcm};
use device_sim::push_services::{Death, Effect, Fault, Place, Service};
use tokio::sync::mpsc;

use super::*;
use crate::push::{Job, Outcome, Pusher, Report};

/// Short enough for a test to wait for, long enough for a busy machine to answer within.
const QUEUE: &str = "connections = 2\n[queue]\nattempt_timeout_ms = 1000\nretry_first_ms = 20";

struct Running {
    pusher: Pusher<usize>,
    reports: mpsc::UnboundedReceiver<(usize, Outcome)>,
}

impl Simulated {
    /// A pusher to both services.
    fn pusher(&self) -> Running {
        let services = [
            apns_client::connect(&self.apns(QUEUE)).unwrap(),
            fcm_client::connect(&self.fcm(QUEUE)).unwrap(),
        ];
        let (report, reports) = mpsc::unbounded_channel();
        let report: Arc<dyn Report<usize>> = Arc::new(report);
        Running { pusher: Pusher::start(services, &report, &self.clock(), &no_luck()), reports }
    }

    fn job(&self, id: usize, kind: PushServiceKind) -> Job<usize> {
        let service = match kind {
            Apns => Service::Apns,
            Fcm => Service::Fcm,
        };
        let token = self.services.new_target(service, None).unwrap();
        let message = message(PushKind::Challenge, self.now());
        Job { id, target: target(kind, &token), message }
    }

    fn arm(&self, fault: Fault) {
        self.services.faults().arm(fault).unwrap();
    }
}

impl Running {
    async fn next(&mut self) -> (usize, Outcome) {
        soon(self.reports.recv()).await.unwrap()
    }

    async fn accepted(&mut self, count: usize) -> HashSet<usize> {
        let mut ids = HashSet::new();
        for _ in 0..count {
            match self.next().await {
                (id, Outcome::Accepted { push_id }) => {
                    assert!(!push_id.is_empty());
                    assert!(ids.insert(id), "{id} was reported twice");
                }
                other => panic!("{other:?}"),
            }
        }
        ids
    }
}

#[tokio::test]
async fn a_burst_to_both_services_is_accepted_whole() {
    let simulated = Simulated::start().await;
    let mut running = simulated.pusher();
    for id in 0..400 {
        running.pusher.enqueue(simulated.job(id, if id % 2 == 0 { Apns } else { Fcm })).unwrap();
    }
    assert_eq!(running.accepted(400).await, (0..400).collect());
    assert_eq!(running.pusher.pending(), 0);
    let counters = simulated.services.counters();
    assert_eq!((counters.accepted, counters.refused, counters.streams_refused), (400, 0, 0));
    // Two to each service; reqwest's connection to the token endpoint is one more.
    assert_eq!(counters.connections, 5);
}

#[tokio::test]
async fn an_apns_that_never_answers_does_not_hold_up_fcm() {
    let simulated = Simulated::start().await;
    simulated.arm(Fault::new(Effect::Silence).at(Place::Apns));
    let mut running = simulated.pusher();
    for id in 0..50 {
        running.pusher.enqueue(simulated.job(id, Apns)).unwrap();
        running.pusher.enqueue(simulated.job(100 + id, Fcm)).unwrap();
    }
    assert_eq!(running.accepted(50).await, (100..150).collect());
    assert_eq!(running.pusher.pending_of(Apns), 50);
}

#[tokio::test]
async fn every_passing_fault_costs_a_retry_and_no_push() {
    for place in [Place::Apns, Place::Fcm] {
        for effect in [
            Effect::Status(429),
            Effect::Status(500),
            Effect::Status(503),
            Effect::Reset,
            Effect::GoAway(push_services::Reason::Shutdown),
            Effect::Silence,
        ] {
            let simulated = Simulated::start().await;
            let mut running = simulated.pusher();
            let kind = if place == Place::Apns { Apns } else { Fcm };
            running.pusher.enqueue(simulated.job(0, kind)).unwrap();
            running.accepted(1).await;
            // FCM's own pause for a quota without Retry-After is a minute: here it says one.
            simulated.arm(Fault::new(effect).at(place).times(2).retry_after(Duration::ZERO));
            for id in 1..=10 {
                running.pusher.enqueue(simulated.job(id, kind)).unwrap();
            }
            assert_eq!(running.accepted(10).await, (1..=10).collect(), "{place:?} {effect:?}");
            assert_eq!(simulated.services.counters().struck_by_faults, 2, "{place:?} {effect:?}");
        }
    }
}

#[tokio::test]
async fn retry_after_is_waited_for() {
    let simulated = Simulated::start().await;
    let mut running = simulated.pusher();
    let second = Duration::from_secs(1);
    for (kind, place) in [(Apns, Place::Apns), (Fcm, Place::Fcm)] {
        simulated.arm(Fault::new(Effect::Status(503)).at(place).times(1).retry_after(second));
        running.pusher.enqueue(simulated.job(1, kind)).unwrap();
        running.accepted(1).await;
        let received = simulated.services.received();
        let [.., refused, accepted] = received.as_slice() else { panic!("{received:?}") };
        assert_eq!((refused.status, accepted.status), (Some(503), Some(200)));
        assert!(accepted.at.since(refused.at) >= second);
    }
}

#[tokio::test]
async fn a_dead_target_is_reported_by_its_hash() {
    let simulated = Simulated::start().await;
    let mut running = simulated.pusher();
    for (kind, word, has_time) in [(Apns, "Unregistered", true), (Fcm, "UNREGISTERED", false)] {
        let job = simulated.job(1, kind);
        let hash = job.target.hash();
        simulated.services.kill(job.target.token(), Death::Unregistered);
        running.pusher.enqueue(job).unwrap();
        match running.next().await {
            (1, Outcome::Dead { target_hash, since, reason }) => {
                assert_eq!(target_hash, hash);
                assert_eq!(since.is_some(), has_time);
                assert_eq!(reason, word);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_fault_that_lasts_ends_with_the_message_and_says_why() {
    let simulated = Simulated::start().await;
    simulated.arm(Fault::new(Effect::Status(500)));
    let mut running = simulated.pusher();
    for kind in [Apns, Fcm] {
        let mut job = simulated.job(1, kind);
        job.message.expires_at = simulated.now().plus(Duration::from_millis(300));
        running.pusher.enqueue(job).unwrap();
        match running.next().await {
            (1, Outcome::Failed { reason }) => {
                assert!(["InternalServerError", "INTERNAL"].contains(&reason.as_str()), "{reason}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn draining_sends_what_was_taken_before_it_ends() {
    let simulated = Simulated::start().await;
    simulated.arm(Fault::new(Effect::Latency(Duration::from_millis(50))));
    let mut running = simulated.pusher();
    for id in 0..20 {
        running.pusher.enqueue(simulated.job(id, if id % 2 == 0 { Apns } else { Fcm })).unwrap();
    }
    assert_eq!(running.pusher.drain(SOON).await, 0);
    assert_eq!(running.accepted(20).await, (0..20).collect());
}
