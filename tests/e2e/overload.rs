//! More is asked for than the broker can do: what is new is sent away, what was let in is finished.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use countersign_envelope::Algorithm;
use countersign_proto::v1::OutcomeKind;
use countersign_tests::{
    Result, World,
    process::free_port,
    world::{PATIENCE, outcome},
};
use device_sim::{bench::overload::Held, login::Opened, push_services::Service, wire::Refusal};
use tonic::Code;

use crate::support::{approve, ask, assert_refused, exposition::Exposition, set, started};

/// Requests at a time: much more than a fifth of a core does within the door's patience.
const IN_FLIGHT: usize = 128;
/// The part of a core that the broker has.
const SHARE: f64 = 0.2;
/// Milliseconds of work before each core, beyond which the door closes.
const QUEUE_MS: u64 = 1;

/// Requests without an end, all of them for accounts that nobody has: each costs the broker a signature and a flush.
struct Flood {
    over: Arc<AtomicBool>,
    sent_away: Arc<AtomicUsize>,
    tasks: tokio::task::JoinSet<Option<Refusal>>,
}

impl Flood {
    fn begin(world: &Arc<World>) -> Self {
        let (over, sent_away) = (Arc::default(), Arc::default());
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..IN_FLIGHT {
            let (world, over, sent_away) = (Arc::clone(world), Arc::clone(&over), Arc::clone(&sent_away));
            tasks.spawn(async move {
                let mut last = None;
                while !AtomicBool::load(&over, Ordering::Relaxed) {
                    let Err(refusal) = world.login.open(&world.sign_in("nobody")).await else {
                        panic!("there is nobody to ask")
                    };
                    if refusal.reason() == Some("ACCOUNT_NOT_FOUND") {
                        continue;
                    }
                    AtomicUsize::fetch_add(&sent_away, 1, Ordering::Relaxed);
                    last = Some(refusal);
                }
                last
            });
        }
        Self { over, sent_away, tasks }
    }

    /// Waits until some more were sent away.
    async fn until_sent_away(&self, more: usize) -> Result<()> {
        let enough = self.sent_away.load(Ordering::Relaxed) + more;
        let waiting = async {
            while self.sent_away.load(Ordering::Relaxed) < enough {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        Ok(tokio::time::timeout(PATIENCE, waiting).await?)
    }

    /// What each was told last of those that were sent away.
    async fn end(self) -> Vec<Refusal> {
        self.over.store(true, Ordering::Relaxed);
        self.tasks.join_all().await.into_iter().flatten().collect()
    }
}

#[track_caller]
fn was_sent_away(refusal: &Refusal) {
    assert_refused(refusal, Code::ResourceExhausted, "OVERLOADED");
    assert_eq!(refusal.retry_after(), Some(Duration::from_secs(1)), "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_there_is_no_room_new_requests_are_sent_away_and_whoever_waits_answers_or_was_let_in_is_served()
-> Result<()> {
    let settings = [("requests_per_s_of_relying_party", "0"), ("failures_per_s_of_address", "0")];
    let port = free_port()?;
    let metrics = format!("[metrics]\nlisten = \"127.0.0.1:{port}\"\n");
    let mut world = World::with_edited(&metrics, |text| set(&text, &settings)).await?;
    let alice = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    let bob = world.enrol("bob", Service::Apns, Algorithm::Es256).await?;
    assert!(world.broker.stopped().await?.success());
    world.broker.shed_beyond(QUEUE_MS);
    started(&mut world).await?;
    let world = Arc::new(world);
    // She waits before it begins.
    let (mut waiting, issued) = ask(&world.login, &world.sign_in("alice")).await?;

    let held = Held::to(world.broker.process()?, SHARE)?;
    let flood = Flood::begin(&world);
    flood.until_sent_away(100).await?;
    approve(&world, &alice.phone, &issued).await?;
    assert_eq!(outcome(&mut waiting).await?.kind(), OutcomeKind::Approved);
    assert!(world.login.get(&issued.approval_id).await?.outcome.is_some(), "who has asked is told");
    // He asks again and again until he is let in, and from then on nobody sends him away.
    let let_in = async {
        let sign_in = world.sign_in("bob");
        loop {
            match world.login.open(&sign_in).await {
                Ok(Some(Opened::Issued(issued))) => return issued,
                Err(refusal) => was_sent_away(&refusal),
                other => panic!("{other:?}"),
            }
        }
    };
    let issued = tokio::time::timeout(PATIENCE, let_in).await?;
    flood.until_sent_away(1).await?;
    let mut watching = world.login.watch(&issued.approval_id, 0).await?;
    approve(&world, &bob.phone, &issued).await?;
    assert_eq!(outcome(&mut watching).await?.kind(), OutcomeKind::Approved);

    for refusal in flood.end().await {
        was_sent_away(&refusal);
    }
    drop(held);
    let all_again = async {
        while !world.broker.said().contains("all requests for approvals are let in again") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, all_again).await?;
    let overloaded = [("result", "overloaded")];
    assert!(Exposition::of(port).await?.sum("countersign_approval_requests_total", &overloaded) > 100.0);
    let said = world.broker.said();
    assert!(said.contains("some requests for approvals are sent away (OVERLOADED)"), "{said}");
    ask(&world.login, &world.sign_in("alice")).await?;
    Ok(())
}
