//! A broker whose log or task gives up under it.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use countersign_domain::Timestamp;

use super::*;
use crate::{
    clock::SystemClock,
    entropy::OsEntropy,
    log::Position,
    signin::tests::{log::StagedLog, stage::keys},
};

/// The operating system's clock, until it is broken.
#[derive(Debug, Default)]
struct Breaking(AtomicBool);

impl Clock for Breaking {
    fn now(&self) -> Timestamp {
        assert!(!self.0.load(Ordering::SeqCst), "the clock is broken");
        SystemClock.now()
    }
}

async fn start(log: &StagedLog, clock: &Arc<Breaking>) -> (Broker, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("countersign.toml");
    let text = "
        public_url = 'http://127.0.0.1:8443'
        server.listen = '127.0.0.1:0'
        admin.socket = 'admin.sock'
        keys.folder = 'keys'
        log.folder = 'log'
    ";
    std::fs::write(&file, text).unwrap();
    let foundations = Foundations {
        log: Arc::new(log.clone()),
        keys: keys(),
        clock: Arc::clone(clock) as _,
        entropy: Arc::new(OsEntropy),
    };
    (Broker::start(&Config::load(&file).unwrap(), foundations).await.unwrap(), dir)
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what).await.expect("in time")
}

#[tokio::test]
async fn a_log_that_cannot_be_followed_ends_the_broker_with_the_reason() {
    let log = StagedLog::default();
    let (mut broker, _dir) = start(&log, &Arc::default()).await;
    let goes_on = tokio::time::timeout(Duration::from_millis(100), broker.ended()).await;
    assert!(goes_on.is_err(), "{goes_on:?}");
    log.cannot_be_followed();
    let ended = soon(broker.ended()).await;
    assert!(
        matches!(ended, Ended::Unfollowed(ReadError::Missing { position: Position::FIRST })),
        "{ended:?}"
    );
    assert!(ended.to_string().contains("the journal does not reach back to position 1"), "{ended}");
    soon(broker.stop()).await;
}

#[tokio::test]
async fn a_task_that_panics_ends_the_broker_with_the_reason() {
    let clock = Arc::<Breaking>::default();
    let (mut broker, _dir) = start(&StagedLog::default(), &clock).await;
    clock.0.store(true, Ordering::SeqCst);
    let ended = soon(broker.ended()).await;
    assert!(ended.to_string().starts_with("the expiry: "), "{ended}");
    assert!(ended.to_string().contains("the clock is broken"), "{ended}");
    clock.0.store(false, Ordering::SeqCst);
    soon(broker.stop()).await;
}
